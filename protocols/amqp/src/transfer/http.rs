//! Messages as requests of HTTP: a `POST` each, one after the other on a connection that stays. An answer of 2xx is a
//! confirm, any other one gives the message back. The headers are LavinMQ's.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use base64ct::{Base64, Encoding};
use bytes::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::Forward;
use crate::codec::{Properties, Value};
use crate::link::LinkError;
use crate::link::address::Tls;
use crate::link::socket;

/// Messages that wait for their turn before nothing more is taken.
const WAITING_MAX: usize = 64;

/// How long one request may take, and connecting.
const PATIENCE: Duration = Duration::from_secs(30);

/// Octets of an answer that are read so that the connection can stay.
const ANSWER_MAX: usize = 64 * 1024;

/// Where requests go.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpAddress {
    uri: Uri,
    authority: String,
    host: String,
    port: u16,
    tls: bool,
    /// Value of the header `Authorization`.
    authorization: Option<HeaderValue>,
}

impl HttpAddress {
    /// Reads one; `None`: it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let (login, authority) = match authority.rsplit_once('@') {
            Some((login, authority)) => (Some(login), authority),
            None => (None, authority),
        };
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let uri: Uri = path.parse().ok()?;
        let known: axum::http::uri::Authority = authority.parse().ok()?;
        let host = known.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return None;
        }
        let authorization = login.map(|login| {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            let plain = format!(
                "{}:{}",
                crate::percent::decode(user),
                crate::percent::decode(password)
            );
            let value = format!("Basic {}", Base64::encode_string(plain.as_bytes()));
            HeaderValue::try_from(value)
        });
        Some(HttpAddress {
            uri,
            authority: authority.to_owned(),
            host: host.to_owned(),
            port: known.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            authorization: authorization.transpose().ok()?,
        })
    }
}

/// Without user and password: what anybody may see.
impl std::fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.uri.path())
    }
}

impl std::fmt::Debug for HttpAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpAddress({self})")
    }
}

type Sender = SendRequest<Body>;

/// A request under way: the connection comes back with what has become of it.
type AtWork = Pin<Box<dyn Future<Output = (Option<Sender>, Result<StatusCode, LinkError>)> + Send>>;

/// A connection to an address.
pub(crate) struct Http {
    address: HttpAddress,
    /// What the header `X-Shovel` says.
    name: String,
    sender: Option<Sender>,
    waiting: VecDeque<(u64, Forward)>,
    at_work: Option<(u64, AtWork)>,
    last: u64,
}

impl Http {
    /// Connects.
    ///
    /// # Errors
    /// When the address is not reached.
    pub(crate) async fn open(address: HttpAddress, name: &str) -> Result<Self, LinkError> {
        Ok(Http {
            sender: Some(connect(&address).await?),
            address,
            name: name.to_owned(),
            waiting: VecDeque::new(),
            at_work: None,
            last: 0,
        })
    }

    /// Sends a message when its turn comes; its number.
    pub(super) fn post(&mut self, forward: Forward) -> u64 {
        self.last += 1;
        self.waiting.push_back((self.last, forward));
        self.last
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.at_work.is_none()
    }

    /// Waits for the next answer: of which message, and whether it is taken. May be dropped half-way.
    ///
    /// # Errors
    /// When the connection breaks; messages without an answer may have arrived.
    pub(super) async fn turn(&mut self) -> Result<(u64, bool), LinkError> {
        if self.at_work.is_none() {
            match self.waiting.pop_front() {
                Some((seq, forward)) => {
                    let request = self.request(&forward);
                    let (sender, address) = (self.sender.take(), self.address.clone());
                    self.at_work = Some((seq, Box::pin(send(sender, address, request))));
                }
                None => std::future::pending().await,
            }
        }
        let Some((seq, work)) = &mut self.at_work else {
            return std::future::pending().await;
        };
        let (seq, (sender, answered)) = (*seq, work.await);
        self.at_work = None;
        self.sender = sender;
        let status = answered?;
        if !status.is_success() {
            tracing::debug!(address = %self.address, %status, "a message is not taken");
        }
        Ok((seq, status.is_success()))
    }

    fn request(&self, forward: &Forward) -> Request<Body> {
        let mut request = Request::new(Body::from(forward.body.clone()));
        *request.method_mut() = axum::http::Method::POST;
        *request.uri_mut() = self.address.uri.clone();
        let headers = request.headers_mut();
        put(headers, "host", &self.address.authority);
        put(
            headers,
            "user-agent",
            concat!("Longtail/", env!("CARGO_PKG_VERSION")),
        );
        put(headers, "x-shovel", &self.name);
        if let Some(authorization) = &self.address.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        describe(headers, &forward.properties);
        request
    }
}

fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::try_from(name);
    // What has no form in HTTP is left out.
    if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}

/// The properties of a message that HTTP has words for, and its headers as `X-NAME`.
fn describe(headers: &mut HeaderMap, octets: &Bytes) {
    let properties = Properties::decode(octets).unwrap_or_default();
    for (name, value) in [
        ("content-type", properties.content_type),
        ("content-encoding", properties.content_encoding),
        ("x-message-id", properties.message_id),
        ("x-correlation-id", properties.correlation_id),
    ] {
        if let Some(value) = value {
            put(headers, name, value);
        }
    }
    for (key, value) in properties.headers.unwrap_or_default().iter() {
        let text = match value {
            Value::LongString(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::F64(number) => Some(number.to_string()),
            Value::Timestamp(seconds) => Some(seconds.to_string()),
            value => value.as_i64().map(|number| number.to_string()),
        };
        if let Some(text) = text {
            put(headers, &format!("x-{}", key.to_ascii_lowercase()), &text);
        }
    }
}

async fn connect(address: &HttpAddress) -> Result<Sender, LinkError> {
    let tls = address.tls.then(Tls::default);
    let opened = tokio::time::timeout(
        PATIENCE,
        socket::open(&address.host, address.port, tls.as_ref()),
    );
    let socket = opened
        .await
        .map_err(|_| LinkError::Late(PATIENCE.as_secs()))??;
    let (sender, connection) = handshake(TokioIo::new(socket))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        // The sender hears of it too.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of HTTP ended");
        }
    });
    Ok(sender)
}

async fn send(
    sender: Option<Sender>,
    address: HttpAddress,
    request: Request<Body>,
) -> (Option<Sender>, Result<StatusCode, LinkError>) {
    let exchanged = tokio::time::timeout(PATIENCE, exchange(sender, &address, request)).await;
    match exchanged {
        Ok(Ok((sender, status))) => (Some(sender), Ok(status)),
        Ok(Err(error)) => (None, Err(error)),
        Err(_) => (None, Err(LinkError::Late(PATIENCE.as_secs()))),
    }
}

async fn exchange(
    sender: Option<Sender>,
    address: &HttpAddress,
    request: Request<Body>,
) -> Result<(Sender, StatusCode), LinkError> {
    let mut sender = match sender {
        // Servers close connections when they like to.
        Some(mut sender) if !sender.is_closed() => match sender.ready().await {
            Ok(()) => sender,
            Err(_) => connect(address).await?,
        },
        _ => connect(address).await?,
    };
    let answer = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    let status = answer.status();
    if to_bytes(Body::new(answer.into_body()), ANSWER_MAX)
        .await
        .is_err()
    {
        // More than anybody has to say: the next one has a new connection.
        sender = connect(address).await?;
    }
    Ok((sender, status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::TableBuf;

    #[test]
    fn an_address_has_a_host_and_no_password_where_people_look() {
        let address = HttpAddress::parse("https://us:p%40w@host.example:8443/hook?a=1").unwrap();
        assert_eq!(
            (address.host.as_str(), address.port),
            ("host.example", 8443)
        );
        assert_eq!(address.uri, "/hook?a=1");
        assert_eq!(address.to_string(), "https://host.example:8443/hook");
        assert_eq!(address.authorization.unwrap(), "Basic dXM6cEB3");
        let plain = HttpAddress::parse("http://[::1]").unwrap();
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.uri.path()),
            ("::1", 80, "/")
        );
        for wrong in [
            "http://",
            "ftp://host/",
            "http:///path",
            "host",
            "http://a b/",
        ] {
            assert!(HttpAddress::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn properties_become_headers_and_what_http_cannot_say_is_left_out() {
        let mut table = TableBuf::default();
        table.put("Tenant", Value::LongString(b"blue")).unwrap();
        table.put("count", Value::I32(7)).unwrap();
        table.put("bad name", Value::I32(7)).unwrap();
        table.put("line", Value::LongString(b"a\r\nb")).unwrap();
        let properties = Properties {
            content_type: Some("text/plain"),
            message_id: Some("m1"),
            headers: Some(table.as_table()),
            ..Properties::default()
        };
        let mut octets = Vec::new();
        properties.encode(&mut octets).unwrap();
        let mut headers = HeaderMap::new();
        describe(&mut headers, &octets.into());
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(
            (
                &headers["x-message-id"],
                &headers["x-tenant"],
                &headers["x-count"]
            ),
            (
                &"m1".parse().unwrap(),
                &"blue".parse().unwrap(),
                &"7".parse().unwrap()
            )
        );
        assert_eq!(headers.len(), 4);
    }
}
