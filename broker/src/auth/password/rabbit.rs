//! Hashes as RabbitMQ keeps them, so that its users need no new passwords and ours can go to it: a salt of four bytes
//! and one MD5, SHA-256 or SHA-512 over salt and password, together in base64. What the algorithm is, RabbitMQ says
//! beside the hash; here it is in front: `$rabbit-sha256$...`.
//!
//! They are weaker than argon2id. An account that no AMQP tool has to carry elsewhere should have that.

use std::fmt;

use base64ct::{Base64, Encoding};
use md5::Md5;
use rand::Rng;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::PasswordError;

/// Bytes of the salt.
const SALT: usize = 4;

/// How a hash was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RabbitAlgorithm {
    /// `rabbit_password_hashing_md5`, of RabbitMQ before 3.6.
    Md5,
    /// `rabbit_password_hashing_sha256`, its default.
    Sha256,
    /// `rabbit_password_hashing_sha512`.
    Sha512,
}

impl RabbitAlgorithm {
    const ALL: [RabbitAlgorithm; 3] = [
        RabbitAlgorithm::Md5,
        RabbitAlgorithm::Sha256,
        RabbitAlgorithm::Sha512,
    ];

    /// The name that RabbitMQ has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RabbitAlgorithm::Md5 => "rabbit_password_hashing_md5",
            RabbitAlgorithm::Sha256 => "rabbit_password_hashing_sha256",
            RabbitAlgorithm::Sha512 => "rabbit_password_hashing_sha512",
        }
    }

    /// By that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    const fn prefix(self) -> &'static str {
        match self {
            RabbitAlgorithm::Md5 => "$rabbit-md5$",
            RabbitAlgorithm::Sha256 => "$rabbit-sha256$",
            RabbitAlgorithm::Sha512 => "$rabbit-sha512$",
        }
    }

    const fn bytes(self) -> usize {
        match self {
            RabbitAlgorithm::Md5 => 16,
            RabbitAlgorithm::Sha256 => 32,
            RabbitAlgorithm::Sha512 => 64,
        }
    }

    fn digest(self, salt: &[u8], password: &[u8]) -> Vec<u8> {
        match self {
            RabbitAlgorithm::Md5 => digest::<Md5>(salt, password),
            RabbitAlgorithm::Sha256 => digest::<Sha256>(salt, password),
            RabbitAlgorithm::Sha512 => digest::<Sha512>(salt, password),
        }
    }
}

fn digest<D: Digest>(salt: &[u8], password: &[u8]) -> Vec<u8> {
    D::new()
        .chain_update(salt)
        .chain_update(password)
        .finalize()
        .to_vec()
}

/// A hash with its algorithm.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RabbitHash {
    pub(super) algorithm: RabbitAlgorithm,
    /// Salt and digest.
    bytes: Vec<u8>,
}

impl RabbitHash {
    pub(super) fn is_one(text: &str) -> bool {
        text.starts_with("$rabbit-")
    }

    pub(super) fn parse(text: &str) -> Result<Self, PasswordError> {
        let found = RabbitAlgorithm::ALL
            .into_iter()
            .find_map(|algorithm| Some((algorithm, text.strip_prefix(algorithm.prefix())?)));
        let (algorithm, base64) = found.ok_or(PasswordError::Malformed)?;
        RabbitHash::new(algorithm, base64)
    }

    /// From what RabbitMQ shows.
    pub(super) fn new(algorithm: RabbitAlgorithm, base64: &str) -> Result<Self, PasswordError> {
        let bytes = Base64::decode_vec(base64).map_err(|_| PasswordError::Malformed)?;
        if bytes.len() != SALT + algorithm.bytes() {
            return Err(PasswordError::Malformed);
        }
        Ok(RabbitHash { algorithm, bytes })
    }

    pub(super) fn create(algorithm: RabbitAlgorithm, password: &[u8]) -> Self {
        let mut salt = [0; SALT];
        rand::rng().fill_bytes(&mut salt);
        let digest = algorithm.digest(&salt, password);
        RabbitHash {
            algorithm,
            bytes: [salt.as_slice(), &digest].concat(),
        }
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let Some((salt, expected)) = self.bytes.split_at_checked(SALT) else {
            return false;
        };
        let computed = self.algorithm.digest(salt, password);
        computed.as_slice().ct_eq(expected).into()
    }

    pub(super) fn base64(&self) -> String {
        Base64::encode_string(&self.bytes)
    }
}

impl fmt::Display for RabbitHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.algorithm.prefix(), self.base64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_that_rabbitmq_documents_verifies_its_password_only() {
        // The example of RabbitMQ's guide to passwords: "test12", salt 908D C60A.
        let documented = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        let hash = RabbitHash::new(RabbitAlgorithm::Sha256, documented).unwrap();
        assert!(hash.verify(b"test12"));
        assert!(!hash.verify(b"test13"));
        assert_eq!(hash.to_string(), format!("$rabbit-sha256${documented}"));
    }

    #[test]
    fn every_algorithm_makes_hashes_that_it_reads() {
        for algorithm in RabbitAlgorithm::ALL {
            let hash = RabbitHash::create(algorithm, b"secret");
            let read = RabbitHash::parse(&hash.to_string()).unwrap();
            assert!(read == hash && read.verify(b"secret") && !read.verify(b""));
            assert_eq!(RabbitAlgorithm::of(algorithm.name()), Some(algorithm));
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        for text in ["$rabbit-sha256$", "$rabbit-sha1$AAAA", "$rabbit-md5$????"] {
            assert!(RabbitHash::parse(text).is_err(), "{text}");
        }
        let short = RabbitHash::create(RabbitAlgorithm::Md5, b"x").base64();
        assert!(RabbitHash::new(RabbitAlgorithm::Sha256, &short).is_err());
    }
}
