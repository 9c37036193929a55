//! Passwords, kept as argon2id hashes in PHC strings.
//!
//! Verifying one costs tens of milliseconds and megabytes on purpose. It must never run where messages do: call it
//! from a thread that may block.

use std::fmt;

use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use serde::{Deserialize, Serialize};

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
    /// Not a PHC string.
    #[error("not a password hash: expected a PHC string that starts with $argon2id$")]
    Malformed,
    /// A PHC string of another algorithm.
    #[error("unsupported password hash {0:?}: only argon2id is accepted")]
    Algorithm(String),
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
pub struct PasswordHash(phc::PasswordHash);

impl PasswordHash {
    /// Reads a PHC string.
    ///
    /// # Errors
    /// [`PasswordError`], if it is not one of argon2id with a bearable cost.
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
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
        Ok(PasswordHash(hash))
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
            .map(PasswordHash)
            .map_err(|error| failed(&error))
    }

    /// Whether this is the hash of `password`. Blocks: see the module's documentation.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        Argon2::default().verify_password(password, &self.0).is_ok()
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
        hash.0.to_string()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}
