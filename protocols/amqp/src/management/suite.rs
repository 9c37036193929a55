//! The cipher suite of a connection, as Erlang's TLS calls its parts.

/// A cipher suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suite {
    /// `ecdhe_rsa`; `any` in TLS 1.3, where the suite does not say it.
    pub(super) key_exchange: String,
    /// `aes_256_gcm`.
    pub(super) cipher: String,
    /// `aead` where the cipher vouches for its own text, or the hash that does.
    pub(super) mac: String,
}

impl Suite {
    /// Takes a name apart: `TLS13_AES_256_GCM_SHA384`, `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384`. `None`: it is none.
    pub(super) fn of(name: &str) -> Option<Self> {
        let (key_exchange, rest) = match name.strip_prefix("TLS13_") {
            Some(rest) => ("any", rest),
            None => name.strip_prefix("TLS_")?.split_once("_WITH_")?,
        };
        let (cipher, hash) = rest.rsplit_once('_')?;
        let is_aead = ["_GCM", "_CCM", "_POLY1305"];
        let mac = match is_aead.iter().any(|end| cipher.ends_with(end)) {
            true => "aead",
            false => hash,
        };
        Some(Suite {
            key_exchange: key_exchange.to_ascii_lowercase(),
            cipher: cipher.to_ascii_lowercase(),
            mac: mac.to_ascii_lowercase(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart() {
        for (name, key_exchange, cipher, mac) in [
            ("TLS13_AES_256_GCM_SHA384", "any", "aes_256_gcm", "aead"),
            (
                "TLS13_CHACHA20_POLY1305_SHA256",
                "any",
                "chacha20_poly1305",
                "aead",
            ),
            (
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                "ecdhe_ecdsa",
                "aes_128_gcm",
                "aead",
            ),
            (
                "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
                "ecdhe_rsa",
                "aes_128_cbc",
                "sha256",
            ),
        ] {
            let suite = Suite::of(name).unwrap();
            let parts = [&*suite.key_exchange, &*suite.cipher, &*suite.mac];
            assert_eq!(parts, [key_exchange, cipher, mac], "{name}");
        }
        assert_eq!(Suite::of("NULL"), None);
    }
}
