//! bcrypt, as LavinMQ keeps passwords if it is told to (`lavinmq_bcrypt`), so that its users need no new ones:
//! `$2a$COST$SALT-AND-HASH`. None are made here.
//!
//! Of a password it knows the first 72 bytes, as everywhere.

use std::fmt;

use bcrypt::HashParts;

use super::PasswordError;

/// Most rounds a hash may ask for, as a power of two: about a second.
const COST_MAX: u32 = 14;

/// A hash, as written.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct BcryptHash(Box<str>);

impl BcryptHash {
    pub(super) fn is_one(text: &str) -> bool {
        ["$2a$", "$2b$", "$2x$", "$2y$"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
    }

    pub(super) fn parse(text: &str) -> Result<Self, PasswordError> {
        let parts: HashParts = text.parse().map_err(|_| PasswordError::Malformed)?;
        let cost = parts.get_cost();
        if !(4..=COST_MAX).contains(&cost) {
            return Err(PasswordError::TooManyIterations {
                iterations: 1_u32.checked_shl(cost).unwrap_or(u32::MAX),
                limit: 1 << COST_MAX,
            });
        }
        Ok(BcryptHash(text.into()))
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        bcrypt::verify(password, &self.0).unwrap_or(false)
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BcryptHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::PasswordHash;

    /// Of `secret`, by crypt(3).
    const SECRET: &str = "$2a$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

    #[test]
    fn a_hash_of_another_program_is_verified_and_written_as_it_was() {
        let hash = PasswordHash::parse(SECRET).unwrap();
        assert!(hash.verify(b"secret") && !hash.verify(b"secreT") && !hash.verify(b""));
        assert_eq!(hash.bcrypt(), Some(SECRET));
        assert_eq!(
            (hash.rabbit(), String::from(hash)),
            (None, SECRET.to_owned())
        );
    }

    #[test]
    fn what_is_none_or_too_expensive_is_refused() {
        for (text, error) in [
            (&SECRET[..59], PasswordError::Malformed),
            ("$2a$04$", PasswordError::Malformed),
            (
                "$2a$aa$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
                PasswordError::Malformed,
            ),
            (
                &SECRET.replace("$04$", "$15$"),
                PasswordError::TooManyIterations {
                    iterations: 1 << 15,
                    limit: 1 << 14,
                },
            ),
            (
                &SECRET.replace("$04$", "$99$"),
                PasswordError::TooManyIterations {
                    iterations: u32::MAX,
                    limit: 1 << 14,
                },
            ),
        ] {
            assert_eq!(PasswordHash::parse(text).unwrap_err(), error, "{text}");
        }
    }
}
