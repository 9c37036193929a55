//! The socket to the other broker: TCP or TLS.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::Tls;

/// Any kind of stream.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// Where systems keep the authorities that they trust.
const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Connects. Files of TLS are read each time, so that they can be renewed.
pub(crate) async fn open(host: &str, port: u16, tls: Option<&Tls>) -> io::Result<Box<dyn Socket>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let name = tls.server_name.as_deref().unwrap_or(host).to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(client(tls)?));
    Ok(Box::new(connector.connect(name, stream).await?))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

fn client(tls: &Tls) -> io::Result<ClientConfig> {
    let authorities = match &tls.authorities {
        Some(path) => certificates(path)?,
        None => {
            let known = SYSTEM.iter().map(Path::new).find(|path| path.exists());
            let known = known.ok_or_else(|| {
                io::Error::other("this system has no authorities: cacertfile is missing")
            })?;
            certificates(known)?
        }
    };
    let mut roots = RootCertStore::empty();
    // A system has some that are not understood; a file that somebody names has what is needed, or nothing works.
    let (added, _) = roots.add_parsable_certificates(authorities);
    if added == 0 {
        return Err(io::Error::other("no certificate of an authority"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &tls.certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let read = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| io::Error::other(format!("{}: {error}", key.display())))?;
    builder
        .with_client_auth_cert(certificates(certificate)?, read)
        .map_err(io::Error::other)
}
