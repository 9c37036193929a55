//! One request to the server, on a connection of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Body, HttpAuthConfig, HttpAuthError, Method, Style};
use crate::hooks::{Asking, Proof};

/// Longest answer, in bytes.
const ANSWER_MAX: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("no answer in time")]
    Late,
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the answer cannot be read: {0}")]
    Body(String),
    #[error("the server answers {0}")]
    Status(u16),
    #[error("the answer is not understood: {0}")]
    Answer(String),
}

/// What the server has said.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// A request, filled in.
pub(super) struct Request {
    target: String,
    body: String,
}

impl Request {
    /// Names it, and says nothing of the password in it.
    pub(super) fn key(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update((self.target.len() as u64).to_le_bytes())
            .chain_update(&self.target)
            .chain_update(&self.body)
            .finalize()
            .into()
    }
}

/// The way to one address.
pub(super) struct Asker {
    /// `HOST:PORT`.
    address: String,
    host: String,
    /// As the header `Host` has it.
    authority: String,
    path: String,
    method: Method,
    body: Body,
    headers: Vec<(HeaderName, HeaderValue)>,
    params: BTreeMap<String, String>,
    connect_within: Duration,
    tls: Option<TlsConnector>,
}

impl Asker {
    /// A way on which these parameters are told; with `of_wishes`, of what a client wants to do.
    pub(super) fn new(
        config: &HttpAuthConfig,
        url: &str,
        params: &BTreeMap<String, String>,
        of_wishes: bool,
    ) -> Result<Self, HttpAuthError> {
        let wrong = || HttpAuthError::Url(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let known = |c: char| c.is_ascii_graphic() && !"@#".contains(c);
        if authority.is_empty() || !rest.chars().all(known) {
            return Err(wrong());
        }
        let port = if secure { 443 } else { 80 };
        let behind = authority
            .rsplit_once(']')
            .map_or(authority, |(_, rest)| rest);
        let (host, address) = match behind.rsplit_once(':') {
            Some((_, digits)) => {
                digits.parse::<u16>().map_err(|_| wrong())?;
                let host = authority.get(..authority.len() - digits.len() - 1);
                (host.ok_or_else(wrong)?, authority.to_owned())
            }
            None => (authority, format!("{authority}:{port}")),
        };
        let header = |(name, value): (&String, &String)| {
            let wrong = || HttpAuthError::Header(name.clone());
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            let value: HeaderValue = value.parse().map_err(|_| wrong())?;
            Ok((name, value))
        };
        for value in params.values() {
            let known = |what: Placeholder| (what.is_told(of_wishes)).then(String::new);
            fill(value, known).ok_or_else(|| HttpAuthError::Placeholder(value.clone()))?;
        }
        let tls = match (secure, &config.authorities) {
            (false, None) => None,
            (true, Some(path)) => Some(connector(path).map_err(HttpAuthError::Tls)?),
            _ => return Err(HttpAuthError::Authorities),
        };
        Ok(Asker {
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            address,
            authority: authority.to_owned(),
            path: path.to_owned(),
            method: config.method,
            body: config.body.unwrap_or(match config.style {
                Style::Emqx => Body::Json,
                Style::NanoMq => Body::Form,
            }),
            headers: config
                .headers
                .iter()
                .map(header)
                .collect::<Result<_, _>>()?,
            params: params.clone(),
            connect_within: Duration::from_millis(config.connect_timeout_ms),
            tls,
        })
    }

    /// For logs.
    pub(super) fn shown(&self) -> &str {
        &self.authority
    }

    /// What is asked.
    pub(super) fn request(&self, subject: &Subject<'_>) -> Request {
        let filled = self.params.iter().map(|(name, value)| {
            let value = fill(value, |what| Some(subject.says(what)));
            (name.as_str(), value.unwrap_or_default())
        });
        let form = |pairs: &mut dyn Iterator<Item = (&str, String)>| {
            let pairs = pairs.map(|(name, value)| {
                format!(
                    "{}={}",
                    longtail_web::encode(name),
                    longtail_web::encode(&value)
                )
            });
            pairs.collect::<Vec<_>>().join("&")
        };
        let mut filled = filled;
        match (self.method, self.body) {
            (Method::Get, _) => {
                let mark = if self.path.contains('?') { '&' } else { '?' };
                Request {
                    target: format!("{}{mark}{}", self.path, form(&mut filled)),
                    body: String::new(),
                }
            }
            (Method::Post, Body::Form) => Request {
                target: self.path.clone(),
                body: form(&mut filled),
            },
            (Method::Post, Body::Json) => {
                let object: serde_json::Map<_, _> = filled
                    .map(|(name, value)| (name.to_owned(), value.into()))
                    .collect();
                Request {
                    target: self.path.clone(),
                    body: serde_json::Value::Object(object).to_string(),
                }
            }
        }
    }

    pub(super) async fn send(&self, request: &Request) -> Result<Answer, Failed> {
        let connected =
            tokio::time::timeout(self.connect_within, TcpStream::connect(&self.address));
        let stream = connected.await.map_err(|_| Failed::Late)?;
        let stream = stream.map_err(Failed::Connect)?;
        stream.set_nodelay(true).map_err(Failed::Connect)?;
        let Some(connector) = &self.tls else {
            return self.exchange(stream, request).await;
        };
        let name = ServerName::try_from(self.host.clone());
        let name = name.map_err(|error| Failed::Connect(std::io::Error::other(error)))?;
        let shaken = tokio::time::timeout(self.connect_within, connector.connect(name, stream));
        let stream = shaken.await.map_err(|_| Failed::Late)?;
        self.exchange(stream.map_err(Failed::Connect)?, request)
            .await
    }

    async fn exchange<S>(&self, stream: S, request: &Request) -> Result<Answer, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let method = match self.method {
            Method::Get => hyper::Method::GET,
            Method::Post => hyper::Method::POST,
        };
        let mut asked = hyper::Request::builder()
            .method(method)
            .uri(&request.target)
            .header(HOST, &self.authority)
            .header("connection", "close")
            .header("accept", "application/json");
        if self.method == Method::Post {
            let kind = match self.body {
                Body::Json => "application/json",
                Body::Form => "application/x-www-form-urlencoded",
            };
            asked = asked.header(CONTENT_TYPE, kind);
        }
        for (name, value) in &self.headers {
            asked = asked.header(name, value);
        }
        let asked = asked.body(Full::new(Bytes::copy_from_slice(request.body.as_bytes())));
        let asked = asked.map_err(|error| Failed::Answer(error.to_string()))?;
        let answered = async {
            let response = sender.send_request(asked).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await;
            let body = body
                .map_err(|error| Failed::Body(error.to_string()))?
                .to_bytes();
            Ok(Answer { status, body })
        };
        tokio::pin!(connection, answered);
        // The connection moves only while somebody looks after it.
        tokio::select! {
            answer = &mut answered => answer,
            ended = &mut connection => match ended {
                Ok(()) => answered.await,
                Err(error) => Err(error.into()),
            },
        }
    }
}

fn connector(path: &std::path::Path) -> Result<TlsConnector, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| format!("{}: {error}", path.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    ClientId,
    Username,
    Password,
    Address,
    CommonName,
    /// `1`: to subscribe, `2`: to publish.
    Access,
    /// The same as a word.
    Action,
    Topic,
    Qos,
    Retain,
}

impl Placeholder {
    /// Whether there is something in its place: of what a client wants, or of how it logs in.
    fn is_told(self, of_wishes: bool) -> bool {
        match self {
            Placeholder::ClientId | Placeholder::Username | Placeholder::Address => true,
            Placeholder::Password | Placeholder::CommonName => !of_wishes,
            Placeholder::Access
            | Placeholder::Action
            | Placeholder::Topic
            | Placeholder::Qos
            | Placeholder::Retain => of_wishes,
        }
    }
}

const PLACEHOLDERS: [(&str, Placeholder); 16] = [
    ("%c", Placeholder::ClientId),
    ("%u", Placeholder::Username),
    ("%P", Placeholder::Password),
    ("%a", Placeholder::Address),
    ("%C", Placeholder::CommonName),
    ("%A", Placeholder::Access),
    ("%t", Placeholder::Topic),
    ("${action}", Placeholder::Action),
    ("${topic}", Placeholder::Topic),
    ("${qos}", Placeholder::Qos),
    ("${retain}", Placeholder::Retain),
    ("${clientid}", Placeholder::ClientId),
    ("${username}", Placeholder::Username),
    ("${password}", Placeholder::Password),
    ("${peerhost}", Placeholder::Address),
    ("${cert_common_name}", Placeholder::CommonName),
];

/// Fills a text in; `None` if it has a placeholder that there is not.
fn fill(text: &str, of: impl Fn(Placeholder) -> Option<String>) -> Option<String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['%', '$']) {
        let (before, from) = rest.split_at_checked(at)?;
        filled.push_str(before);
        if let Some(behind) = from.strip_prefix("%%") {
            filled.push('%');
            rest = behind;
        } else if from.starts_with('$') && !from.starts_with("${") {
            filled.push('$');
            rest = from.get(1..)?;
        } else {
            let found = PLACEHOLDERS.iter().find(|(name, _)| from.starts_with(name));
            let (name, what) = found?;
            let _ = write!(filled, "{}", of(*what)?);
            rest = from.get(name.len()..)?;
        }
    }
    filled.push_str(rest);
    Some(filled)
}

/// What is asked about.
pub(super) enum Subject<'a> {
    /// A client that wants to come in.
    Proof(&'a Proof),
    /// Something that a client wants to do.
    Wish(&'a Asking),
}

impl Subject<'_> {
    fn says(&self, what: Placeholder) -> String {
        match self {
            Subject::Proof(proof) => of_client(what, proof),
            Subject::Wish(asking) => of_wish(what, asking),
        }
    }
}

fn of_wish(what: Placeholder, asking: &Asking) -> String {
    let wish = &asking.wish;
    match what {
        Placeholder::ClientId => asking.client_id.to_string(),
        Placeholder::Username => asking.username.as_deref().unwrap_or_default().to_owned(),
        Placeholder::Address => {
            let address = asking.remote.ip();
            address
                .map(|address| address.to_string())
                .unwrap_or_default()
        }
        Placeholder::Access if wish.publish => "2".to_owned(),
        Placeholder::Access => "1".to_owned(),
        Placeholder::Action if wish.publish => "publish".to_owned(),
        Placeholder::Action => "subscribe".to_owned(),
        Placeholder::Topic => wish.topic.to_string(),
        Placeholder::Qos => wish.qos.bits().to_string(),
        Placeholder::Retain => wish.retain.to_string(),
        // Looked for when the way was made.
        Placeholder::Password | Placeholder::CommonName => String::new(),
    }
}

fn of_client(what: Placeholder, proof: &Proof) -> String {
    match what {
        Placeholder::ClientId => proof.client_id.to_string(),
        Placeholder::Username => proof.username.clone().unwrap_or_default(),
        Placeholder::Password => {
            let password = proof.password.as_deref().unwrap_or_default();
            String::from_utf8_lossy(password).into_owned()
        }
        Placeholder::Address => {
            let address = proof.remote.ip();
            address
                .map(|address| address.to_string())
                .unwrap_or_default()
        }
        Placeholder::CommonName => {
            let identity = proof.identity.as_ref();
            let name = identity.and_then(|identity| identity.names().into_iter().next());
            name.unwrap_or_default()
        }
        // Looked for when the way was made.
        Placeholder::Access
        | Placeholder::Action
        | Placeholder::Topic
        | Placeholder::Qos
        | Placeholder::Retain => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_of_both_kinds_are_filled_in() {
        let of = |what| Some(format!("<{what:?}>"));
        assert_eq!(
            fill("a%c-${username}%%$x", of).as_deref(),
            Some("a<ClientId>-<Username>%$x")
        );
        for wrong in ["%z", "${zone}", "%", "${username"] {
            assert_eq!(fill(wrong, of), None, "{wrong}");
        }
    }
}
