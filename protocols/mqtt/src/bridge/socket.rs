//! The socket to the other broker.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::BridgeTls;

/// How long TCP and TLS may take together.
const LIMIT: Duration = Duration::from_secs(10);

/// Either kind of stream.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for S {}

/// Connects. The files of TLS are read each time.
pub(super) async fn open(address: &str, tls: Option<&BridgeTls>) -> io::Result<Box<dyn Socket>> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = tls else {
            return Ok(Box::new(stream) as Box<dyn Socket>);
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = tls.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(client(tls)?));
        Ok(Box::new(connector.connect(name, stream).await?) as Box<dyn Socket>)
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s");
    tokio::time::timeout(LIMIT, connecting)
        .await
        .map_err(late)?
}

fn client(tls: &BridgeTls) -> io::Result<ClientConfig> {
    let read = |path: &std::path::Path| -> io::Result<Vec<CertificateDer<'static>>> {
        let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        certificates.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    };
    let mut roots = RootCertStore::empty();
    for certificate in read(&tls.authorities)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let mut config = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| io::Error::other(format!("{}: {error}", key.display())))?;
            builder
                .with_client_auth_cert(read(certificate)?, key)
                .map_err(io::Error::other)?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = tls
        .alpn
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    Ok(config)
}
