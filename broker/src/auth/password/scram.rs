//! SCRAM-SHA-256 verifiers: what the server keeps to prove a password without knowing it (RFC 5802, RFC 7677).
//!
//! The text is `SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY`, salt and keys in base64, as RFC 5803 and other
//! servers write it.

use std::borrow::Cow;
use std::fmt;

use base64ct::{Base64, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::PasswordError;

/// A SHA-256 digest or key.
pub(in crate::auth) type Key = [u8; 32];

const PREFIX: &str = "SCRAM-SHA-256$";

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Of PBKDF2: the client's work for each login.
    pub iterations: u32,
    /// Of PBKDF2.
    pub salt: Vec<u8>,
    /// What the client's proof is checked against.
    pub stored_key: Key,
    /// What the server signs with.
    pub server_key: Key,
}

impl ScramVerifier {
    /// Iterations of new verifiers. RFC 7677 asks for 4,096 at least; the client pays for them at each login.
    pub(crate) const ITERATIONS: u32 = 15_000;
    /// The most iterations a stored verifier may ask for.
    pub(crate) const ITERATIONS_MAX: u32 = 10_000_000;

    pub(super) fn is_one(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// What to keep of `password`. Blocks for some milliseconds.
    #[must_use]
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let salted = salted(password, salt, iterations);
        let client_key = hmac(&salted, b"Client Key");
        ScramVerifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac(&salted, b"Server Key"),
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, PasswordError> {
        let malformed = || PasswordError::Malformed;
        let rest = text.strip_prefix(PREFIX).ok_or_else(malformed)?;
        let (work, keys) = rest.split_once('$').ok_or_else(malformed)?;
        let (iterations, salt) = work.split_once(':').ok_or_else(malformed)?;
        let (stored, server) = keys.split_once(':').ok_or_else(malformed)?;
        let iterations: u32 = iterations.parse().map_err(|_| malformed())?;
        if iterations == 0 || iterations > Self::ITERATIONS_MAX {
            return Err(PasswordError::TooManyIterations {
                iterations,
                limit: Self::ITERATIONS_MAX,
            });
        }
        let key = |text: &str| -> Result<Key, PasswordError> {
            let bytes = Base64::decode_vec(text).map_err(|_| malformed())?;
            bytes.try_into().map_err(|_| malformed())
        };
        let salt = Base64::decode_vec(salt).map_err(|_| malformed())?;
        if salt.is_empty() {
            return Err(malformed());
        }
        Ok(ScramVerifier {
            iterations,
            salt,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let derived = Self::derive(password, &self.salt, self.iterations);
        derived.stored_key.ct_eq(&self.stored_key).into()
    }
}

/// Text that SASLprep forbids is hashed as it is, as RFC 5802 leaves it to the implementation; so do other servers.
fn salted(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let prepared = std::str::from_utf8(password)
        .ok()
        .and_then(|text| stringprep::saslprep(text).ok());
    let prepared: Cow<'_, [u8]> = match prepared {
        Some(Cow::Borrowed(text)) => Cow::Borrowed(text.as_bytes()),
        Some(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
        None => Cow::Borrowed(password),
    };
    let mut key = Key::default();
    pbkdf2::pbkdf2_hmac::<Sha256>(&prepared, salt, iterations, &mut key);
    key
}

/// HMAC-SHA-256.
pub(in crate::auth) fn hmac(key: &[u8], data: &[u8]) -> Key {
    // HMAC takes keys of any length.
    match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mut mac) => {
            mac.update(data);
            mac.finalize().into_bytes().into()
        }
        Err(_) => Key::default(),
    }
}

impl fmt::Display for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |bytes: &[u8]| Base64::encode_string(bytes);
        write!(
            f,
            "{PREFIX}{}:{}${}:{}",
            self.iterations,
            encode(&self.salt),
            encode(&self.stored_key),
            encode(&self.server_key)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Salt and password of RFC 7677, section 3.
    const TEXT: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_verifier_reads_back_and_knows_its_password() {
        let verifier = ScramVerifier::parse(TEXT).unwrap();
        assert_eq!(verifier.to_string(), TEXT);
        assert!(verifier.verify(b"pencil"));
        assert!(!verifier.verify(b"pencils"));
        assert!(verifier == ScramVerifier::derive(b"pencil", &verifier.salt, 4096));
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        for text in [
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:W22Z$AA==:AA==",
            &TEXT[..TEXT.len() - 4],
            &TEXT.replace("4096", "40960000"),
            &TEXT.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
        ] {
            assert!(ScramVerifier::parse(text).is_err(), "{text}");
        }
    }
}
