//! An exchange: how it was declared, what is bound to it, and which of its bindings want a message.

use std::collections::BTreeMap;
use std::sync::Arc;

use longtail_model::{ShardId, StreamId};

use super::Routing;
use super::dedup::Seen;
use super::headers::headers_match;
use super::kind::{ExchangeArguments, HashOn, Kind};
use super::picking::{Candidate, pick};
use super::recent::Recent;
use super::topics::Topics;
use crate::codec::Table;
use crate::exception::Exception;
use crate::tally::{self, Tallies};

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// To a queue.
    Queue(Arc<str>),
    /// To another exchange.
    Exchange(Arc<str>),
}

/// A binding: source, destination, key and arguments together are what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where it leads.
    pub destination: Destination,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
}

/// What is fixed when an exchange is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeConfig {
    /// How it chooses.
    pub kind: Kind,
    /// The type by which it was declared: its kind, or [`DELAYED`](super::DELAYED).
    type_name: Arc<str>,
    /// It outlives a restart.
    pub durable: bool,
    /// It goes with the last of its bindings.
    pub auto_delete: bool,
    /// Clients do not publish to it.
    pub internal: bool,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
    parsed: ExchangeArguments,
}

/// Whether an exchange outlives a restart, goes with the last of its bindings, and is closed to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExchangeFlags {
    /// See [`ExchangeConfig::durable`].
    pub durable: bool,
    /// See [`ExchangeConfig::auto_delete`].
    pub auto_delete: bool,
    /// See [`ExchangeConfig::internal`].
    pub internal: bool,
}

impl ExchangeConfig {
    /// As a declaration says.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` for a type or an argument that is wrong.
    pub fn new(
        type_name: &str,
        flags: ExchangeFlags,
        arguments: Arc<[u8]>,
    ) -> Result<Self, Exception> {
        let table = Table::decode(&arguments).unwrap_or_default();
        let (kind, parsed) = ExchangeArguments::parse(type_name, &table)?;
        Ok(ExchangeConfig {
            kind,
            type_name: type_name.into(),
            durable: flags.durable,
            auto_delete: flags.auto_delete,
            internal: flags.internal,
            arguments,
            parsed,
        })
    }

    /// An exchange that is there from the beginning.
    #[must_use]
    pub fn predeclared(kind: Kind) -> Self {
        ExchangeConfig {
            kind,
            type_name: kind.name().into(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Arc::default(),
            parsed: ExchangeArguments::default(),
        }
    }

    /// The type by which it was declared.
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Whether messages wait in it for their time.
    #[must_use]
    pub fn delays(&self) -> bool {
        self.parsed.delays
    }

    /// How many of its last messages it records; `None`: none.
    #[must_use]
    pub fn records(&self) -> Option<usize> {
        self.parsed.recent
    }

    /// Where a message goes that no binding wants.
    #[must_use]
    pub fn alternate(&self) -> Option<&Arc<str>> {
        self.parsed.alternate.as_ref()
    }
}

/// The arguments that name the alternate exchange; the second is LavinMQ's, and the first goes before it.
pub const ALTERNATES: [&str; 2] = ["alternate-exchange", "x-alternate-exchange"];

/// An exchange with its bindings by key.
#[derive(Debug)]
pub struct Exchange {
    /// How it was declared.
    pub config: ExchangeConfig,
    pub(super) bindings: BTreeMap<Arc<str>, Bound>,
    /// What its argument says, or else a policy.
    pub(super) alternate: Option<Arc<str>>,
    /// The keys of a topic exchange, as patterns.
    pub(super) topics: Topics,
    /// The bindings of one that picks.
    candidates: Vec<Candidate>,
    pub(super) seen: Option<Seen>,
    /// Where messages wait for their time.
    pub(super) waiting: Option<Waiting>,
    /// Its last messages, where it records them.
    pub(super) recent: Option<Recent>,
    pub(super) tallies: ExchangeTallies,
}

/// What went through an exchange.
pub(crate) type ExchangeTallies = Arc<Tallies<{ tally::exchange::COUNT }>>;

/// The stream of an exchange whose messages wait for their time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The exchange.
    pub exchange: Arc<str>,
    /// Where the stream lives.
    pub shard: ShardId,
    /// The stream.
    pub stream: StreamId,
}

/// The bindings with one key.
#[derive(Debug, Default)]
pub(super) struct Bound {
    pub(super) bindings: Vec<Binding>,
}

impl Exchange {
    /// Without bindings.
    #[must_use]
    pub fn new(config: ExchangeConfig) -> Self {
        Exchange {
            seen: config.parsed.dedup.clone().map(Seen::new),
            alternate: config.alternate().cloned(),
            config,
            bindings: BTreeMap::new(),
            topics: Topics::default(),
            candidates: Vec::new(),
            waiting: None,
            recent: None,
            tallies: Arc::default(),
        }
    }

    /// Its bindings have changed.
    pub(super) fn changed(&mut self) {
        if self.config.kind.picks() {
            let candidates = self.bindings();
            let candidates = candidates.map(|(key, binding)| {
                Candidate::new(key, &binding.arguments, &binding.destination)
            });
            self.candidates = candidates.collect();
        }
    }

    /// The bindings that want a message with this key.
    pub(super) fn matching<'g>(
        &'g self,
        routing: &Routing<'_>,
        key: &str,
        take: &mut dyn FnMut(&'g Destination),
    ) {
        match self.config.kind {
            Kind::Direct => {
                let bound = self.bindings.get(key);
                for binding in bound.into_iter().flat_map(|bound| &bound.bindings) {
                    take(&binding.destination);
                }
            }
            Kind::Fanout | Kind::RecentHistory => {
                for (_, binding) in self.bindings() {
                    take(&binding.destination);
                }
            }
            Kind::Topic => {
                self.topics.matching(key, &mut |pattern| {
                    let bound = self.bindings.get(pattern);
                    for binding in bound.into_iter().flat_map(|bound| &bound.bindings) {
                        take(&binding.destination);
                    }
                });
            }
            Kind::Headers => {
                for (_, binding) in self.bindings() {
                    let default = self.config.parsed.compares;
                    if headers_match(&binding.arguments, default, &routing.headers()) {
                        take(&binding.destination);
                    }
                }
            }
            kind => {
                let on = &self.config.parsed.hash_on;
                if let Some(destination) = pick(kind, on, &self.candidates, routing, key) {
                    take(destination);
                }
            }
        }
    }

    /// Whether another message with the same key may go elsewhere, or has to be seen here.
    pub(super) fn looks_at_more(&self) -> bool {
        self.config.parsed.dedup.is_some()
            || self.config.delays()
            || match self.config.kind {
                Kind::Direct | Kind::Fanout | Kind::Topic | Kind::ModulusHash => false,
                Kind::Headers | Kind::Random | Kind::LocalRandom | Kind::RecentHistory => true,
                Kind::ConsistentHash => self.config.parsed.hash_on != HashOn::Key,
            }
    }

    /// Whether nothing is bound to it.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.bindings.is_empty()
    }

    /// Whether something is bound with this key.
    #[must_use]
    pub fn is_bound(&self, key: &str) -> bool {
        self.bindings.contains_key(key)
    }

    /// Its bindings with their keys.
    pub fn bindings(&self) -> impl Iterator<Item = (&Arc<str>, &Binding)> {
        self.bindings
            .iter()
            .flat_map(|(key, bound)| bound.bindings.iter().map(move |binding| (key, binding)))
    }
}
