//! How a connection is encrypted.

use rustls::{CommonState, ProtocolVersion};

/// What client and server have agreed on in the TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// The cipher suite, `TLS13_AES_256_GCM_SHA384` or `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384`: IANA's names, but that
    /// those of TLS 1.3 begin with it.
    pub cipher_suite: &'static str,
}

impl Encryption {
    /// What was agreed on; `None` before the end of the handshake.
    pub(crate) fn of(session: &CommonState) -> Option<Self> {
        let protocol = match session.protocol_version()? {
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            other => other.as_str()?,
        };
        let cipher_suite = session.negotiated_cipher_suite()?.suite().as_str()?;
        Some(Encryption {
            protocol,
            cipher_suite,
        })
    }
}
