//! The two formats of a Mosquitto password file, so that its users need no new passwords.
//!
//! `$6$SALT$HASH` is SHA-512 over password and salt, `$7$ITERATIONS$SALT$HASH` is PBKDF2 with HMAC-SHA-512; salt and hash
//! are in base64. Both are weaker than argon2id: a password that is set anew should be hashed with that.

use std::fmt;

use base64ct::{Base64, Encoding};
use rand::Rng;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

use super::PasswordError;

/// A line's hash.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct MosquittoHash {
    /// Of PBKDF2; `None`: one SHA-512.
    iterations: Option<u32>,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl MosquittoHash {
    /// The most iterations a stored hash may ask for: about a second.
    pub(super) const ITERATIONS_MAX: u32 = 1_000_000;

    /// Iterations of a hash that is made here, some ten milliseconds; Mosquitto itself makes them with 101 to 1,000.
    const ITERATIONS: u32 = 20_000;

    /// Hashes a password with a random salt. Blocks.
    pub(super) fn create(password: &[u8]) -> Self {
        let mut salt = vec![0; 12];
        rand::rng().fill_bytes(&mut salt);
        let mut hash = vec![0; 64];
        pbkdf2::pbkdf2_hmac::<Sha512>(password, &salt, Self::ITERATIONS, &mut hash);
        MosquittoHash {
            iterations: Some(Self::ITERATIONS),
            salt,
            hash,
        }
    }

    pub(super) fn is_one(text: &str) -> bool {
        text.starts_with("$6$") || text.starts_with("$7$")
    }

    pub(super) fn parse(text: &str) -> Result<Self, PasswordError> {
        let mut fields = text.split('$').skip(1);
        let iterations = match fields.next() {
            Some("6") => None,
            Some("7") => {
                let iterations = fields.next().and_then(|field| field.parse().ok());
                let iterations: u32 = iterations.ok_or(PasswordError::Malformed)?;
                if iterations == 0 || iterations > Self::ITERATIONS_MAX {
                    return Err(PasswordError::TooManyIterations {
                        iterations,
                        limit: Self::ITERATIONS_MAX,
                    });
                }
                Some(iterations)
            }
            _ => return Err(PasswordError::Malformed),
        };
        let mut bytes = || {
            let field = fields.next().unwrap_or_default();
            Base64::decode_vec(field).map_err(|_| PasswordError::Malformed)
        };
        let (salt, hash) = (bytes()?, bytes()?);
        if hash.len() != 64 || salt.is_empty() || fields.next().is_some() {
            return Err(PasswordError::Malformed);
        }
        Ok(MosquittoHash {
            iterations,
            salt,
            hash,
        })
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let mut computed = [0; 64];
        match self.iterations {
            Some(iterations) => {
                pbkdf2::pbkdf2_hmac::<Sha512>(password, &self.salt, iterations, &mut computed);
            }
            None => {
                let digest = Sha512::new()
                    .chain_update(password)
                    .chain_update(&self.salt)
                    .finalize();
                computed.copy_from_slice(&digest);
            }
        }
        computed.as_slice().ct_eq(&self.hash).into()
    }
}

impl fmt::Display for MosquittoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, hash) = (
            Base64::encode_string(&self.salt),
            Base64::encode_string(&self.hash),
        );
        match self.iterations {
            Some(iterations) => write!(f, "$7${iterations}${salt}${hash}"),
            None => write!(f, "$6${salt}${hash}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "$6$AAECAwQFBgcICQoL$JqsxEv/ucyxjA5DKsQ+Y8CDWaQDNQI9FpAkmfwAqWfwZLk/JEGgM0EpylrJHAZKKyFQjJeZ3nFaHjPzOzPPmPw==";
    /// Made by `mosquitto_passwd` of 2.0.11 for "hunter2".
    const PBKDF2: &str = "$7$101$OzdCFazTwDmRJQQv$+sO6odEXwoW+9TBgJvYzXE4MsAF0nFWNENxoSZcGLYFFmuQ8zi0VF9dfp+fUfF+BKjAW5e90Iuf4kNv/NzigLw==";

    #[test]
    fn both_formats_verify_their_password_only() {
        for (text, right) in [(SHA, "secret"), (PBKDF2, "hunter2")] {
            let hash = MosquittoHash::parse(text).unwrap();
            assert!(hash.verify(right.as_bytes()));
            assert!(!hash.verify(b"wrong"));
            assert_eq!(hash.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        for text in [
            "$6$",
            "$6$AAEC$",
            "$7$0$AAEC$AAEC",
            "$7$x$AAEC$AAEC",
            "$8$AAEC$AAEC",
            &format!("{SHA}$"),
            &SHA[..SHA.len() - 4],
            &PBKDF2.replace("101", "1000001"),
        ] {
            assert!(MosquittoHash::parse(text).is_err(), "{text}");
        }
    }
}
