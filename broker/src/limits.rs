//! The limits that all protocols share, with their defaults, as an operator writes them.
//!
//! What belongs to one protocol only (a frame size, a prefetch) is in that protocol's settings. What belongs to one
//! tenant is a quota of its space, see [`Quotas`](crate::auth::Quotas).

use longtail_model::SubjectLimits;
use serde::{Deserialize, Serialize};

use crate::auth::ThrottleLimits;
use crate::retained::RetainedLimits;
use crate::router::{CacheLimits, RouterLimits};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Named limits. A key that is left out has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest message: payload and headers, in bytes. Default 16 MiB.
    pub message_bytes_max: u64,
    /// Largest headers of one message, in bytes. Default 64 KiB.
    pub header_bytes_max: u64,
    /// Most headers of one message. Default 256.
    pub headers_max: u32,
    /// Longest subject, in bytes; at most 65,535, which is the default.
    pub subject_bytes_max: u32,
    /// Most tokens of a subject; at most 128, which is the default.
    pub subject_tokens_max: u32,
    /// Longest name of a stream, group, account, client or space, in bytes. Default 255.
    pub name_bytes_max: u32,
    /// Spaces. Default 1,000.
    pub spaces_max: u32,
    /// Streams of one space. Default 100,000.
    pub streams_per_space_max: u32,
    /// Groups of one stream. Default 10,000.
    pub groups_per_stream_max: u32,
    /// Subscriptions and bindings of one space. Default 4,000,000.
    pub subscriptions_per_space_max: u32,
    /// Subscriptions of one connection. Default 100,000.
    pub subscriptions_per_connection_max: u32,
    /// Members of one shared subscription. Default 10,000.
    pub shared_members_max: u32,
    /// Subjects with a last value in one space. Default 1,000,000.
    pub retained_messages_per_space_max: u32,
    /// Bytes of last values in one space. Default 512 MiB.
    pub retained_bytes_per_space_max: u64,
    /// Connections. Default 100,000.
    pub connections_max: u32,
    /// Connections from one address. Default 10,000.
    pub connections_per_address_max: u32,
    /// Bytes that wait to be written to one connection before its outbox refuses messages. Default 8 MiB.
    pub outbox_bytes_max: u64,
    /// Messages that are delivered to one connection and not settled. Default 65,535.
    pub inflight_per_connection_max: u32,
    /// Targets that one publisher's route cache holds. Default 16,384.
    pub route_cache_targets_max: u32,
    /// Subjects that one publisher's route cache holds. Default 256.
    pub route_cache_subjects_max: u32,
    /// Failed logins from one address in a minute before it is shut out for a minute. Default 10.
    pub failed_logins_max: u32,
    /// How long a client may take to log in, in milliseconds. Default 10 seconds.
    pub login_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: 16 * MIB,
            header_bytes_max: 64 * KIB,
            headers_max: 256,
            subject_bytes_max: 65_535,
            subject_tokens_max: 128,
            name_bytes_max: 255,
            spaces_max: 1_000,
            streams_per_space_max: 100_000,
            groups_per_stream_max: 10_000,
            subscriptions_per_space_max: 4_000_000,
            subscriptions_per_connection_max: 100_000,
            shared_members_max: 10_000,
            retained_messages_per_space_max: 1_000_000,
            retained_bytes_per_space_max: 512 * MIB,
            connections_max: 100_000,
            connections_per_address_max: 10_000,
            outbox_bytes_max: 8 * MIB,
            inflight_per_connection_max: 65_535,
            route_cache_targets_max: 16_384,
            route_cache_subjects_max: 256,
            failed_logins_max: 10,
            login_timeout_ms: 10_000,
        }
    }
}

/// Limits that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Nothing would get through.
    #[error("{0} must not be 0")]
    Zero(&'static str),
    /// More than the formats can express.
    #[error("{name} must not exceed {most}")]
    TooHigh {
        /// The key.
        name: &'static str,
        /// The most it can be.
        most: u64,
    },
    /// A part larger than the whole.
    #[error("{part} must not exceed {whole}")]
    Contradiction {
        /// The key of the part.
        part: &'static str,
        /// The key of the whole.
        whole: &'static str,
    },
}

impl Limits {
    /// Checks that the limits can be kept and let something through. `headers_max` and the retained store's may be 0.
    ///
    /// # Errors
    /// The first [`LimitsError`].
    pub fn validate(&self) -> Result<(), LimitsError> {
        let positive: [(&'static str, u64); 17] = [
            ("message_bytes_max", self.message_bytes_max),
            ("subject_bytes_max", self.subject_bytes_max.into()),
            ("subject_tokens_max", self.subject_tokens_max.into()),
            ("name_bytes_max", self.name_bytes_max.into()),
            ("spaces_max", self.spaces_max.into()),
            ("streams_per_space_max", self.streams_per_space_max.into()),
            ("groups_per_stream_max", self.groups_per_stream_max.into()),
            (
                "subscriptions_per_space_max",
                self.subscriptions_per_space_max.into(),
            ),
            (
                "subscriptions_per_connection_max",
                self.subscriptions_per_connection_max.into(),
            ),
            ("shared_members_max", self.shared_members_max.into()),
            ("connections_max", self.connections_max.into()),
            (
                "connections_per_address_max",
                self.connections_per_address_max.into(),
            ),
            ("outbox_bytes_max", self.outbox_bytes_max),
            (
                "inflight_per_connection_max",
                self.inflight_per_connection_max.into(),
            ),
            (
                "route_cache_subjects_max",
                self.route_cache_subjects_max.into(),
            ),
            ("failed_logins_max", self.failed_logins_max.into()),
            ("login_timeout_ms", self.login_timeout_ms),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(LimitsError::Zero(name));
        }
        let highest: [(&'static str, u64, u64); 3] = [
            (
                "subject_bytes_max",
                self.subject_bytes_max.into(),
                SubjectLimits::DEFAULT.bytes_max as u64,
            ),
            (
                "subject_tokens_max",
                self.subject_tokens_max.into(),
                SubjectLimits::DEFAULT.tokens_max as u64,
            ),
            (
                "route_cache_subjects_max",
                self.route_cache_subjects_max.into(),
                65_536,
            ),
        ];
        if let Some((name, _, most)) = highest.iter().find(|(_, value, most)| value > most) {
            return Err(LimitsError::TooHigh { name, most: *most });
        }
        let parts: [(&'static str, u64, &'static str, u64); 3] = [
            (
                "header_bytes_max",
                self.header_bytes_max,
                "message_bytes_max",
                self.message_bytes_max,
            ),
            (
                "subscriptions_per_connection_max",
                self.subscriptions_per_connection_max.into(),
                "subscriptions_per_space_max",
                self.subscriptions_per_space_max.into(),
            ),
            (
                "connections_per_address_max",
                self.connections_per_address_max.into(),
                "connections_max",
                self.connections_max.into(),
            ),
        ];
        match parts.iter().find(|(_, part, _, whole)| part > whole) {
            Some((part, _, whole, _)) => Err(LimitsError::Contradiction { part, whole }),
            None => Ok(()),
        }
    }

    /// For subjects that clients publish and subscribe to.
    #[must_use]
    pub fn subjects(&self) -> SubjectLimits {
        SubjectLimits {
            bytes_max: self.subject_bytes_max as usize,
            tokens_max: self.subject_tokens_max as usize,
        }
    }

    /// For the router of a space.
    #[must_use]
    pub fn router(&self) -> RouterLimits {
        RouterLimits {
            subscriptions_max: self.subscriptions_per_space_max as usize,
            group_members_max: self.shared_members_max as usize,
        }
    }

    /// For a publisher's route cache.
    #[must_use]
    pub fn route_cache(&self) -> CacheLimits {
        CacheLimits {
            subjects_max: self.route_cache_subjects_max as usize,
            targets_max: self.route_cache_targets_max as usize,
        }
    }

    /// For the last values of a space.
    #[must_use]
    pub fn retained(&self) -> RetainedLimits {
        RetainedLimits {
            messages_max: self.retained_messages_per_space_max as usize,
            bytes_max: self.retained_bytes_per_space_max,
        }
    }

    /// For failed logins.
    #[must_use]
    pub fn throttle(&self) -> ThrottleLimits {
        ThrottleLimits {
            failures_max: self.failed_logins_max,
            ..ThrottleLimits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_document_is_the_defaults_and_they_are_sound() {
        let limits: Limits = toml::from_str("").unwrap();
        assert_eq!(limits, Limits::default());
        assert_eq!(limits.validate(), Ok(()));
        // Each part on its own has the same defaults.
        assert_eq!(limits.subjects(), SubjectLimits::default());
        assert_eq!(limits.router(), RouterLimits::default());
        assert_eq!(limits.route_cache(), CacheLimits::default());
        assert_eq!(limits.retained(), RetainedLimits::default());
        assert_eq!(limits.throttle(), ThrottleLimits::default());
    }

    #[test]
    fn unknown_keys_are_refused_and_known_ones_survive() {
        assert!(toml::from_str::<Limits>("message_size = 1").is_err());
        let limits: Limits = toml::from_str("outbox_bytes_max = 1024").unwrap();
        assert_eq!(limits.outbox_bytes_max, 1024);
        let text = toml::to_string(&limits).unwrap();
        assert_eq!(toml::from_str::<Limits>(&text).unwrap(), limits);
    }

    #[test]
    fn senseless_limits_are_named() {
        let check = |text: &str| {
            toml::from_str::<Limits>(text)
                .unwrap()
                .validate()
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            check("message_bytes_max = 0"),
            "message_bytes_max must not be 0"
        );
        assert_eq!(
            check("subject_tokens_max = 129"),
            "subject_tokens_max must not exceed 128"
        );
        assert_eq!(
            check("message_bytes_max = 100"),
            "header_bytes_max must not exceed message_bytes_max"
        );
    }
}
