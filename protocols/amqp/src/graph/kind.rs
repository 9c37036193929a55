//! Types of exchanges, and what their arguments and bindings may say.

use std::sync::Arc;

use longtail_model::Filter;

use super::headers::Match;
use super::recent;
use super::{ALTERNATES, Dedup};
use crate::codec::Table;
use crate::exception::{Exception, precondition};

/// How an exchange chooses among its bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The routing key is the binding key.
    Direct,
    /// All.
    Fanout,
    /// The routing key matches the binding key: `*` is one word, `#` any number of them.
    Topic,
    /// The headers match the binding's arguments.
    Headers,
    /// One, by a hash of the routing key or what the arguments name; binding keys are weights.
    ConsistentHash,
    /// One, by the remainder of a hash of the routing key.
    ModulusHash,
    /// Any one.
    Random,
    /// Any one; all are local here.
    LocalRandom,
    /// All, and who is bound later has the last messages too.
    RecentHistory,
}

/// All kinds with the names that clients use.
const KINDS: &[(Kind, &str)] = &[
    (Kind::Direct, "direct"),
    (Kind::Fanout, "fanout"),
    (Kind::Topic, "topic"),
    (Kind::Headers, "headers"),
    (Kind::ConsistentHash, "x-consistent-hash"),
    (Kind::ModulusHash, "x-modulus-hash"),
    (Kind::Random, "x-random"),
    (Kind::LocalRandom, "x-local-random"),
    (Kind::RecentHistory, "x-recent-history"),
];

/// The type of an exchange that keeps messages until their time and then is of the type that an argument names.
pub const DELAYED: &str = "x-delayed-message";
/// That argument.
const DELAYED_TYPE: &str = "x-delayed-type";
/// The argument that makes an exchange of any type keep messages until their time.
const DELAYED_EXCHANGE: &str = "x-delayed-exchange";

/// Arguments that two declarations of an exchange have to agree on.
pub(crate) const COMPARED: &[&str] = &[
    ALTERNATES[0],
    ALTERNATES[1],
    Match::ARGUMENT,
    DELAYED_TYPE,
    DELAYED_EXCHANGE,
    "hash-header",
    "hash-property",
    "x-hash-on",
    "x-message-deduplication",
    "x-deduplication-header",
    "x-cache-size",
    "x-cache-ttl",
    recent::LENGTH,
];

impl Kind {
    /// By the name that clients use.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let found = KINDS.iter().find(|(_, known)| *known == name);
        found.map(|(kind, _)| *kind)
    }

    /// The name that clients use.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = KINDS.iter().find(|(known, _)| *known == self);
        found.map_or("", |(_, name)| name)
    }

    /// The names of all types.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(_, name)| *name).chain([DELAYED])
    }

    /// Whether it picks one of its bindings.
    #[must_use]
    pub fn picks(self) -> bool {
        use Kind::{ConsistentHash, LocalRandom, ModulusHash, Random};
        matches!(self, ConsistentHash | ModulusHash | Random | LocalRandom)
    }

    /// Checks key and arguments of a binding.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED`.
    pub fn check_binding(self, key: &str, arguments: &Table<'_>) -> Result<(), Exception> {
        match self {
            Kind::Headers => Match::parse(arguments).map(drop),
            Kind::Topic => Filter::parse_amqp(key).map(drop).map_err(|error| {
                precondition(format!("binding key '{key}' cannot be matched: {error}"))
            }),
            Kind::ConsistentHash if weight(key).is_none() => Err(precondition(format!(
                "the binding key must be an integer weight of 1 or more: '{key}'"
            ))),
            _ => Ok(()),
        }
    }
}

/// The weight that a binding key says.
pub(super) fn weight(key: &str) -> Option<u32> {
    let weight: u64 = key.trim().parse().ok()?;
    (weight > 0).then(|| u32::try_from(weight).unwrap_or(u32::MAX))
}

/// What a consistent hash goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum HashOn {
    #[default]
    Key,
    Header(Arc<str>),
    MessageId,
    CorrelationId,
    Timestamp,
}

/// What the arguments of an exchange say, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ExchangeArguments {
    pub(super) alternate: Option<Arc<str>>,
    /// How bindings compare headers that do not say it.
    pub(super) compares: Match,
    pub(super) hash_on: HashOn,
    /// Messages wait here for their time.
    pub(super) delays: bool,
    pub(super) dedup: Option<Dedup>,
    /// How many messages are recorded.
    pub(super) recent: Option<usize>,
}

impl ExchangeArguments {
    /// Kind and arguments of an exchange of this type.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED`.
    pub(super) fn parse(kind: &str, arguments: &Table<'_>) -> Result<(Kind, Self), Exception> {
        let text = |key: &str| match arguments.get(key) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text)),
                None => Err(precondition(format!(
                    "invalid arg '{key}': a string is expected"
                ))),
            },
        };
        let mut parsed = ExchangeArguments {
            alternate: text(ALTERNATES[0])?.or(text(ALTERNATES[1])?).map(Arc::from),
            dedup: Dedup::parse(arguments)?,
            ..ExchangeArguments::default()
        };
        let kind = if kind == DELAYED {
            parsed.delays = true;
            let inner = text(DELAYED_TYPE)?;
            inner.and_then(Kind::of).ok_or_else(|| {
                precondition(format!(
                    "invalid arg '{DELAYED_TYPE}': '{}' must be an existing exchange type",
                    inner.unwrap_or_default()
                ))
            })?
        } else {
            Kind::of(kind).ok_or_else(|| precondition(format!("invalid exchange type '{kind}'")))?
        };
        match arguments.get(DELAYED_EXCHANGE) {
            None => {}
            Some(crate::codec::Value::Bool(delays)) => parsed.delays |= delays,
            Some(_) => {
                return Err(precondition(format!(
                    "invalid arg '{DELAYED_EXCHANGE}': a boolean is expected"
                )));
            }
        }
        if kind == Kind::Headers {
            parsed.compares = Match::parse(arguments)?.unwrap_or_default();
        }
        if kind == Kind::RecentHistory {
            parsed.recent = Some(recent::length(arguments)?);
        }
        if kind == Kind::ConsistentHash {
            parsed.hash_on = hash_on(
                text("hash-header")?.or(text("x-hash-on")?),
                text("hash-property")?,
            )?;
            if let Some(algorithm) = text("x-algorithm")?
                && !["ring", "jump"].contains(&algorithm)
            {
                return Err(precondition(format!(
                    "invalid arg 'x-algorithm': '{algorithm}' is neither 'ring' nor 'jump'"
                )));
            }
        }
        Ok((kind, parsed))
    }
}

fn hash_on(header: Option<&str>, property: Option<&str>) -> Result<HashOn, Exception> {
    match (header, property) {
        (Some(_), Some(_)) => Err(precondition(
            "hash-header and hash-property are mutually exclusive",
        )),
        (Some(header), None) => Ok(HashOn::Header(header.into())),
        (None, Some("message_id")) => Ok(HashOn::MessageId),
        (None, Some("correlation_id")) => Ok(HashOn::CorrelationId),
        (None, Some("timestamp")) => Ok(HashOn::Timestamp),
        (None, Some(other)) => Err(precondition(format!("Unsupported property: {other}"))),
        (None, None) => Ok(HashOn::Key),
    }
}
