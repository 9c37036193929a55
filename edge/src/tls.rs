//! TLS for listeners: certificate, key and client authorities from PEM files, read again when they change.
//!
//! Every handshake takes the configuration of its moment, so that a reload touches no open connection. A reload that
//! fails leaves the old configuration in place.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;
use tracing::{info, warn};

use crate::validity::end_of;

/// TLS settings of a listener. The files are looked at again every [`crate::EdgeConfig::tls_poll_ms`], and on
/// [`crate::Edge::reload_tls`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate and the intermediate ones behind it.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// Whether clients show a certificate (default `off`).
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// PEM file with the authorities that client certificates must come from. Needed unless they are `off`.
    #[serde(default)]
    pub client_authorities: Option<PathBuf>,
    /// PEM file with the revocation lists of those authorities (default none: no certificate counts as revoked). With it,
    /// a client certificate is refused that its authority has revoked, or of whose authority the file has no list that
    /// is still valid. Only the client's own certificate is looked up, not those of intermediate authorities.
    #[serde(default)]
    pub client_revocations: Option<PathBuf>,
    /// File with an OCSP response for the certificate, in DER (default none). It is stapled to the handshakes of clients
    /// that ask for it (RFC 6066, 8). It is sent as it is: whoever renews it replaces the file.
    #[serde(default)]
    pub ocsp_response: Option<PathBuf>,
    /// Protocols offered by ALPN, the preferred first (default none: whatever the client asks for is ignored).
    #[serde(default)]
    pub alpn: Vec<String>,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked for one.
    #[default]
    Off,
    /// They are asked, and let in without; but a bad one is refused.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is missing, unreadable or not PEM.
    #[error("cannot read {}: {source}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The file has no certificate in it.
    #[error("{} contains no certificate", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Client certificates are asked for, but nobody says who may issue them.
    #[error(
        "client certificates are {0:?}: `client_authorities` must name the PEM file of their authorities"
    )]
    NoClientAuthorities(ClientCertificates),
    /// Revocations are named, but nobody says whose.
    #[error(
        "`client_revocations` needs `client_authorities`, and client certificates that are not off"
    )]
    NoRevocations,
    /// The file has no revocation list in it.
    #[error("{} contains no revocation list", .path.display())]
    NoRevocationList {
        /// The file.
        path: PathBuf,
    },
    /// The authorities cannot be used, or their revocation lists.
    #[error("the client authorities in {} cannot be used: {source}", .path.display())]
    ClientAuthorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: VerifierBuilderError,
    },
    /// The OCSP response cannot be read.
    #[error("cannot read the OCSP response {}: {source}", .path.display())]
    Ocsp {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The file is no OCSP response in DER.
    #[error("{} is no OCSP response in DER", .path.display())]
    NoOcspResponse {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit, or are of an unknown kind.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// A listener's TLS: the current configuration and where it comes from.
pub(crate) struct Tls {
    settings: TlsConfig,
    current: ArcSwap<Loaded>,
    files: Mutex<Files>,
}

/// What was read from the files.
struct Loaded {
    config: Arc<ServerConfig>,
    /// When the first certificate of the chain ends, in seconds since 1970; `None`: it cannot be read.
    ends: Option<u64>,
}

/// TLS for sockets that the edge does not serve itself, read again together with that of its listeners
/// ([`crate::Edge::certificates`]).
#[derive(Clone)]
pub struct Certificates(pub(crate) Arc<Tls>);

impl Certificates {
    /// The configuration for one handshake: that of the files as they were last read.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.current()
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificates")
            .field(&self.0.settings)
            .finish()
    }
}

/// What the files looked like when they were read.
struct Files {
    loaded: Vec<Stamp>,
    /// A state already complained about.
    refused: Option<Vec<Stamp>>,
}

/// Modification time in seconds and nanoseconds, inode, size; `None` for a file that is not there.
type Stamp = Option<(i64, i64, u64, u64)>;

impl Tls {
    pub(crate) fn open(settings: TlsConfig) -> Result<Tls, TlsError> {
        // The stamps first: a change while reading is noticed by the next poll.
        let files = Files {
            loaded: stamps(&settings),
            refused: None,
        };
        let current = ArcSwap::from_pointee(load(&settings)?);
        Ok(Tls {
            settings,
            current,
            files: Mutex::new(files),
        })
    }

    /// The configuration for one handshake.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// When the first certificate of the chain ends, in seconds since 1970.
    pub(crate) fn ends(&self) -> Option<u64> {
        self.current.load().ends
    }

    /// Reads the files again, whether they changed or not.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let mut files = self.files.lock();
        let seen = stamps(&self.settings);
        self.current.store(Arc::new(load(&self.settings)?));
        *files = Files {
            loaded: seen,
            refused: None,
        };
        Ok(())
    }

    /// Reads the files again if they changed. A failure is logged once for each state of the files, and tried again:
    /// certificate and key rarely change at the same moment.
    pub(crate) fn reload_if_changed(&self, listener: &str) {
        let seen = stamps(&self.settings);
        if self.files.lock().loaded == seen {
            return;
        }
        match self.reload() {
            Ok(()) => info!(listener, "certificates read again"),
            Err(error) => {
                let mut files = self.files.lock();
                if files.refused.as_ref() != Some(&seen) {
                    warn!(listener, %error, "changed certificates are not used");
                    files.refused = Some(seen);
                }
            }
        }
    }
}

fn stamps(settings: &TlsConfig) -> Vec<Stamp> {
    let paths = [
        Some(&settings.certificate),
        Some(&settings.key),
        settings.client_authorities.as_ref(),
        settings.client_revocations.as_ref(),
        settings.ocsp_response.as_ref(),
    ];
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ino(),
            metadata.size(),
        ))
    };
    paths.into_iter().flatten().map(stamp).collect()
}

fn load(settings: &TlsConfig) -> Result<Loaded, TlsError> {
    let certificates = read_certificates(&settings.certificate)?;
    let ends = certificates.iter().filter_map(|one| end_of(one)).min();
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|source| TlsError::Pem {
        path: settings.key.clone(),
        source,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    if settings.client_revocations.is_some()
        && settings.client_certificates == ClientCertificates::Off
    {
        return Err(TlsError::NoRevocations);
    }
    let builder = match (settings.client_certificates, &settings.client_authorities) {
        (ClientCertificates::Off, _) => builder.with_no_client_auth(),
        (asked, None) => return Err(TlsError::NoClientAuthorities(asked)),
        (asked, Some(path)) => {
            let mut authorities = RootCertStore::empty();
            for certificate in read_certificates(path)? {
                authorities.add(certificate)?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
            let verifier = match &settings.client_revocations {
                Some(path) => verifier
                    .with_crls(read_revocations(path)?)
                    .only_check_end_entity_revocation()
                    .enforce_revocation_expiration(),
                None => verifier,
            };
            let verifier = match asked {
                ClientCertificates::Required => verifier,
                ClientCertificates::Off | ClientCertificates::Optional => {
                    verifier.allow_unauthenticated()
                }
            };
            let verifier = verifier
                .build()
                .map_err(|source| TlsError::ClientAuthorities {
                    path: path.clone(),
                    source,
                })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = match &settings.ocsp_response {
        None => builder.with_single_cert(certificates, key)?,
        Some(path) => {
            let response = read_ocsp_response(path)?;
            builder.with_single_cert_with_ocsp(certificates, key, response)?
        }
    };
    config.alpn_protocols = settings
        .alpn
        .iter()
        .map(|name| name.clone().into_bytes())
        .collect();
    Ok(Loaded {
        config: Arc::new(config),
        ends,
    })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem {
        path: path.to_owned(),
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

/// Longest OCSP response, in bytes: that of a handshake message (RFC 8446, 4).
const OCSP_MAX: usize = (1 << 24) - 1;

fn read_ocsp_response(path: &Path) -> Result<Vec<u8>, TlsError> {
    let response = std::fs::read(path).map_err(|source| TlsError::Ocsp {
        path: path.to_owned(),
        source,
    })?;
    // A SEQUENCE whose first element is the status, an ENUMERATED (RFC 6960, 4.2.1): what is text, or empty, is none.
    let begins = response.first() == Some(&0x30) && response.len() <= OCSP_MAX;
    let status = response.iter().skip(2).take(5).any(|&byte| byte == 0x0a);
    if begins && status {
        return Ok(response);
    }
    Err(TlsError::NoOcspResponse {
        path: path.to_owned(),
    })
}

fn read_revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem {
        path: path.to_owned(),
        source,
    };
    let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if lists.is_empty() {
        return Err(TlsError::NoRevocationList {
            path: path.to_owned(),
        });
    }
    Ok(lists)
}
