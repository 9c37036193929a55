//! Passwords, kept as hashes.
//!
//! An argon2id hash (a PHC string) is what a password should be kept as. A SCRAM-SHA-256 verifier is for accounts whose
//! clients prove their password without sending it; it serves those that send it as well. Hashes of Mosquitto's
//! password files, and those of RabbitMQ and LavinMQ, are read so that their users can be taken over.
//!
//! Verifying one costs tens of milliseconds and megabytes on purpose. It must never run where messages do: call it
//! from a thread that may block.

mod bcrypt;
mod mosquitto;
mod rabbit;
mod scram;

use std::fmt;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use rand::Rng;
use serde::{Deserialize, Serialize};

use self::bcrypt::BcryptHash;
use self::mosquitto::MosquittoHash;
pub use self::rabbit::RabbitAlgorithm;
use self::rabbit::RabbitHash;
pub use self::scram::ScramVerifier;
pub(in crate::auth) use self::scram::{Key, hmac};

/// What computing a hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl PasswordCost {
    /// The most memory a stored hash may ask for: 256 MiB, so that a document cannot make logins exhaust the machine.
    pub const MEMORY_KIB_MAX: u32 = 256 * 1024;
    /// The most passes a stored hash may ask for.
    pub const PASSES_MAX: u32 = 16;
}

impl Default for PasswordCost {
    /// 19 MiB, two passes: the first of OWASP's recommendations for argon2id.
    fn default() -> Self {
        PasswordCost {
            memory_kib: 19 * 1024,
            passes: 2,
        }
    }
}

/// Why a text is not a password hash, or a hash cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// None of the formats.
    #[error(
        "not a password hash: expected one that starts with $argon2id$ or SCRAM-SHA-256$, Mosquitto's $6$ or $7$, or $rabbit-sha256$"
    )]
    Malformed,
    /// A PHC string of another algorithm.
    #[error(
        "unsupported password hash {0:?}: accepted are argon2id, SCRAM-SHA-256, bcrypt, and Mosquitto's $6$ and $7$"
    )]
    Algorithm(String),
    /// More iterations than are allowed, or none.
    #[error("the password hash asks for {iterations} iterations; 1 to {limit} are allowed")]
    TooManyIterations {
        /// Iterations it asks for.
        iterations: u32,
        /// The most.
        limit: u32,
    },
    /// More expensive than [`PasswordCost::MEMORY_KIB_MAX`] and [`PasswordCost::PASSES_MAX`] allow.
    #[error(
        "the password hash asks for {memory_kib} KiB and {passes} passes, more than is allowed"
    )]
    TooExpensive {
        /// Memory it asks for, in KiB.
        memory_kib: u32,
        /// Passes it asks for.
        passes: u32,
    },
    /// The system gave no random salt, or the cost is out of the algorithm's range.
    #[error("cannot hash the password: {0}")]
    Hashing(String),
}

/// The hash of a password. Its debug text does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordHash(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Argon2(Box<phc::PasswordHash>),
    Scram(Box<ScramVerifier>),
    Mosquitto(Box<MosquittoHash>),
    Rabbit(Box<RabbitHash>),
    Bcrypt(BcryptHash),
}

impl PasswordHash {
    /// Reads a hash.
    ///
    /// # Errors
    /// [`PasswordError`], if it is in none of the formats, or asks for more than a login may cost.
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        if ScramVerifier::is_one(text) {
            let verifier = ScramVerifier::parse(text)?;
            return Ok(PasswordHash(Kind::Scram(Box::new(verifier))));
        }
        if MosquittoHash::is_one(text) {
            let hash = MosquittoHash::parse(text)?;
            return Ok(PasswordHash(Kind::Mosquitto(Box::new(hash))));
        }
        if RabbitHash::is_one(text) {
            let hash = RabbitHash::parse(text)?;
            return Ok(PasswordHash(Kind::Rabbit(Box::new(hash))));
        }
        if BcryptHash::is_one(text) {
            return Ok(PasswordHash(Kind::Bcrypt(BcryptHash::parse(text)?)));
        }
        let hash = phc::PasswordHash::new(text).map_err(|_| PasswordError::Malformed)?;
        if hash.algorithm.as_str() != "argon2id" {
            return Err(PasswordError::Algorithm(hash.algorithm.as_str().to_owned()));
        }
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err(PasswordError::Malformed);
        }
        let params = Params::try_from(&hash).map_err(|_| PasswordError::Malformed)?;
        if params.m_cost() > PasswordCost::MEMORY_KIB_MAX
            || params.t_cost() > PasswordCost::PASSES_MAX
        {
            return Err(PasswordError::TooExpensive {
                memory_kib: params.m_cost(),
                passes: params.t_cost(),
            });
        }
        Ok(PasswordHash(Kind::Argon2(Box::new(hash))))
    }

    /// Hashes a password with a random salt. Blocks for as long as a login does.
    ///
    /// # Errors
    /// [`PasswordError::Hashing`].
    pub fn create(password: &[u8], cost: PasswordCost) -> Result<Self, PasswordError> {
        let failed = |error: &dyn fmt::Display| PasswordError::Hashing(error.to_string());
        let params =
            Params::new(cost.memory_kib, cost.passes, 1, None).map_err(|error| failed(&error))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2
            .hash_password(password)
            .map(|hash| PasswordHash(Kind::Argon2(Box::new(hash))))
            .map_err(|error| failed(&error))
    }

    /// A SCRAM-SHA-256 verifier of a password, with a random salt.
    #[must_use]
    pub fn create_scram(password: &[u8]) -> Self {
        let mut salt = [0; 16];
        rand::rng().fill_bytes(&mut salt);
        let verifier = ScramVerifier::derive(password, &salt, ScramVerifier::ITERATIONS);
        PasswordHash(Kind::Scram(Box::new(verifier)))
    }

    /// A hash that Mosquitto can read (PBKDF2, `$7$`), with a random salt. Blocks for as long as a login does.
    #[must_use]
    pub fn create_mosquitto(password: &[u8]) -> Self {
        PasswordHash(Kind::Mosquitto(Box::new(MosquittoHash::create(password))))
    }

    /// A hash as RabbitMQ would make it, with a random salt.
    #[must_use]
    pub fn create_rabbit(algorithm: RabbitAlgorithm, password: &[u8]) -> Self {
        let hash = RabbitHash::create(algorithm, password);
        PasswordHash(Kind::Rabbit(Box::new(hash)))
    }

    /// The hash that RabbitMQ shows as this text in base64.
    ///
    /// # Errors
    /// [`PasswordError::Malformed`].
    pub fn from_rabbit(algorithm: RabbitAlgorithm, base64: &str) -> Result<Self, PasswordError> {
        let hash = RabbitHash::new(algorithm, base64)?;
        Ok(PasswordHash(Kind::Rabbit(Box::new(hash))))
    }

    /// The algorithm and the text in base64, if it is one of RabbitMQ's.
    #[must_use]
    pub fn rabbit(&self) -> Option<(RabbitAlgorithm, String)> {
        match &self.0 {
            Kind::Rabbit(hash) => Some((hash.algorithm, hash.base64())),
            Kind::Argon2(_) | Kind::Scram(_) | Kind::Mosquitto(_) | Kind::Bcrypt(_) => None,
        }
    }

    /// The hash, if it is one of bcrypt.
    #[must_use]
    pub fn bcrypt(&self) -> Option<&str> {
        match &self.0 {
            Kind::Bcrypt(hash) => Some(hash.text()),
            Kind::Argon2(_) | Kind::Scram(_) | Kind::Mosquitto(_) | Kind::Rabbit(_) => None,
        }
    }

    /// The SCRAM-SHA-256 verifier, if it is one.
    #[must_use]
    pub fn scram(&self) -> Option<&ScramVerifier> {
        match &self.0 {
            Kind::Scram(verifier) => Some(verifier),
            Kind::Argon2(_) | Kind::Mosquitto(_) | Kind::Rabbit(_) | Kind::Bcrypt(_) => None,
        }
    }

    /// Whether this is the hash of `password`. Blocks: see the module's documentation.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match &self.0 {
            Kind::Argon2(hash) => Argon2::default()
                .verify_password(password, hash.as_ref())
                .is_ok(),
            Kind::Scram(verifier) => verifier.verify(password),
            Kind::Mosquitto(hash) => hash.verify(password),
            Kind::Rabbit(hash) => hash.verify(password),
            Kind::Bcrypt(hash) => hash.verify(password),
        }
    }
}

impl TryFrom<String> for PasswordHash {
    type Error = PasswordError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        PasswordHash::parse(&text)
    }
}

impl From<PasswordHash> for String {
    fn from(hash: PasswordHash) -> Self {
        match hash.0 {
            Kind::Argon2(hash) => hash.to_string(),
            Kind::Scram(verifier) => verifier.to_string(),
            Kind::Mosquitto(hash) => hash.to_string(),
            Kind::Rabbit(hash) => hash.to_string(),
            Kind::Bcrypt(hash) => hash.to_string(),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}
