//! What an acknowledgement promises.

use std::fmt;
use std::str::FromStr;

/// What must have happened to a change before it is acknowledged. Ordered from the weakest promise to the strongest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Never written. Gone when the process ends.
    Memory,
    /// Handed to the operating system, which syncs it every few milliseconds: survives `kill -9`, not a power cut.
    Interval,
    /// On the disk (`fdatasync`): survives a power cut.
    #[default]
    Sync,
}

impl Durability {
    /// The name used in configuration, flags and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Interval => "interval",
            Durability::Sync => "sync",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is none of `sync`, `interval`, `memory`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown durability {0:?}: use sync, interval or memory")]
pub struct UnknownDurability(String);

impl FromStr for Durability {
    type Err = UnknownDurability;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sync" => Ok(Durability::Sync),
            "interval" => Ok(Durability::Interval),
            "memory" => Ok(Durability::Memory),
            other => Err(UnknownDurability(other.to_owned())),
        }
    }
}
