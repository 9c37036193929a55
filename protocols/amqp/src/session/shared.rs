//! What the channels of a connection share: who is asking, what it may do, and how much of its input is under way.

use std::sync::Arc;

use longtail_broker::auth::{Action as Right, CachedGrants, Grants};
use longtail_model::{Filter, Subject, Timestamp};

use super::about::Introduction;
use super::{Action, Counts};
use crate::access::Admitted;
use crate::codec::{ReplyCode, Table};
use crate::config::Config;
use crate::exception::{Exception, refused};
use crate::graph::Kind;
use crate::replies::Mailbox;
use crate::topology::{Asker, Topology};

/// What a client says that it understands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capabilities {
    pub(super) consumer_cancel_notify: bool,
    pub(super) authentication_failure_close: bool,
    pub(super) connection_blocked: bool,
}

/// What a client shows at the door.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Vec<u8>,
    /// Its certificate instead of a password.
    pub(crate) external: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Whose answer the input of a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answerer {
    /// The service, which answers whatever has become of the channel that asked: what follows does not overtake that.
    Service,
    /// Shards, which answer the channel of this incarnation as long as it is there.
    Shards(u32),
}

/// What rules about names call the default exchange.
const DEFAULT: &str = "amq.default";

/// What channels share.
pub(super) struct Shared {
    pub(super) asker: Asker,
    /// Where replies to the connection's channels are delivered.
    pub(super) mailbox: Arc<dyn Mailbox>,
    pub(super) credentials: Credentials,
    pub(super) capabilities: Capabilities,
    pub(super) grants: CachedGrants,
    pub(super) introduction: Introduction,
    /// Messages of channels that are closed.
    pub(super) retired: Counts,
    /// What the client may do in the vhost `/`, if that is known.
    pub(super) known: Option<Admitted>,
    /// Counts the secrets that it has shown.
    pub(super) secrets: u32,
    pub(super) topology: Option<Arc<Topology>>,
    pub(super) frame_max: u32,
    pub(super) actions: Vec<Action>,
    /// A method is being answered, by these.
    pub(super) busy: Option<Answerer>,
    /// Publishes on their way, and octets of their bodies.
    pub(super) outstanding: usize,
    pub(super) outstanding_bytes: u64,
    /// Too many of them: input waits.
    pub(super) held_up: bool,
    /// Octets that wait in transactions.
    pub(super) staged_bytes: u64,
    /// Input that was left is to be shown again.
    pub(super) wake: bool,
    /// What time it is, as long as somebody wants to know.
    pub(super) now: Timestamp,
    /// What time it was when somebody asked, since the last commands were handed over.
    pub(super) asked: Option<Timestamp>,
    /// Consumers may hold messages too long.
    pub(super) timed: bool,
    /// How long, where nothing else is said; 0: as long as they want.
    pub(super) consumer_timeout_ms: u64,
    /// What RabbitMQ does not do is refused, as there.
    pub(super) strict: bool,
    /// A prefetch count is for the consumers too that are there already.
    pub(super) qos_updates_existing: bool,
    /// Consumers of a channel.
    pub(super) consumers_max: usize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("asker", &self.asker)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn topology(&self) -> Result<&Arc<Topology>, Exception> {
        self.topology.as_ref().ok_or_else(|| {
            Exception::new(ReplyCode::ChannelError, "no virtual host is open").of_connection()
        })
    }

    /// What time it is, to within what is dealt with together: the clock is looked at once for all of that.
    pub(super) fn moment(&mut self) -> Result<Timestamp, Exception> {
        if let Some(asked) = self.asked {
            return Ok(asked);
        }
        let now = self.topology()?.now();
        self.asked = Some(now);
        Ok(now)
    }

    /// Somebody wants to know what time it is, and to be looked at when some of it has passed.
    pub(super) fn watch(&mut self) {
        if !std::mem::replace(&mut self.timed, true) {
            self.actions.push(Action::Watch);
        }
    }

    /// Answers are done: input goes on.
    pub(super) fn answered(&mut self) {
        self.wake |= self.busy.take().is_some();
    }

    /// A channel has ended. What shards have to say to it, nobody hears any more: input does not wait for that.
    pub(super) fn given_up(&mut self, incarnation: u32) {
        self.busy
            .take_if(|answerer| *answerer == Answerer::Shards(incarnation));
        self.wake = true;
    }

    /// Whether the client may do something with what has this name.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`.
    pub(super) fn check(&mut self, right: Right, what: &str, name: &str) -> Result<(), Exception> {
        // The default exchange has no name; rules know it by this one.
        let known = if name.is_empty() { DEFAULT } else { name };
        if self.grants.allows_name(right, known) {
            return Ok(());
        }
        let right = match right {
            Right::Publish => "write",
            Right::Consume => "read",
            Right::Configure | Right::Manage => "configure",
        };
        Err(self.not_granted(right, what, name))
    }

    /// Whether the client may look at what has this name: whoever may do something with it may.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`.
    pub(super) fn check_any(&mut self, what: &str, name: &str) -> Result<(), Exception> {
        let known = if name.is_empty() { DEFAULT } else { name };
        let rights = [Right::Configure, Right::Publish, Right::Consume];
        if (rights.into_iter()).any(|right| self.grants.allows_name(right, known)) {
            return Ok(());
        }
        Err(refused(format!(
            "access to {what} '{name}' in vhost '{}' refused for user '{}'",
            self.asker.vhost, self.credentials.user
        )))
    }

    /// Whether the client may publish to a queue by way of the default exchange: for rules about subjects it is the
    /// queue, for rules about names it is the exchange.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`.
    pub(super) fn check_default(&mut self, queue: &str) -> Result<(), Exception> {
        let grants = self.grants.grants();
        if grants.allows_as(Right::Publish, queue, DEFAULT) {
            return Ok(());
        }
        Err(self.not_granted("write", "queue", queue))
    }

    /// Whether the client may use a topic exchange with a routing key, where there are rules for that.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`.
    pub(super) fn check_topic(
        &self,
        right: Right,
        exchange: &str,
        key: &str,
    ) -> Result<(), Exception> {
        if self.grants.grants().allows_topic(right, exchange, key) {
            return Ok(());
        }
        let word = if right == Right::Publish {
            "write"
        } else {
            "read"
        };
        Err(self.topic_not_granted(word, exchange, key))
    }

    /// Whether the client may publish what has this routing key, or have what matches this binding key, of the exchange
    /// that is the subjects of the space: they are those of other protocols too.
    ///
    /// # Errors
    /// `ACCESS_REFUSED`; `PRECONDITION_FAILED` for a binding key that cannot be matched.
    pub(super) fn check_subject(
        &mut self,
        right: Right,
        exchange: &str,
        key: &str,
    ) -> Result<(), Exception> {
        let (allowed, word) = if right == Right::Publish {
            let subject = Subject::parse_amqp(key);
            let allowed = subject.is_ok_and(|subject| self.grants.allows(right, subject.as_ref()));
            (allowed, "write")
        } else {
            // A key that cannot be matched is refused as what it is, whatever may be had.
            Kind::Topic.check_binding(key, &Table::default())?;
            let filter = Filter::parse_amqp(key);
            let grants = self.grants.grants();
            let allowed = filter.is_ok_and(|filter| grants.allows_filter(right, &filter));
            (allowed, "read")
        };
        if allowed {
            return Ok(());
        }
        Err(self.topic_not_granted(word, exchange, key))
    }

    fn topic_not_granted(&self, word: &str, exchange: &str, key: &str) -> Exception {
        refused(format!(
            "{word} access to topic '{key}' in exchange '{exchange}' in vhost '{}' refused for user '{}'",
            self.asker.vhost, self.credentials.user
        ))
    }

    fn not_granted(&self, right: &str, what: &str, name: &str) -> Exception {
        refused(format!(
            "{right} access to {what} '{name}' in vhost '{}' refused for user '{}'",
            self.asker.vhost, self.credentials.user
        ))
    }

    pub(super) fn stored(&mut self, publishes: usize, bytes: u64, config: &Config) {
        self.outstanding = self.outstanding.saturating_sub(publishes);
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(bytes);
        if self.held_up
            && self.outstanding <= config.outstanding_max / 2
            && self.outstanding_bytes <= config.outstanding_bytes_max / 2
        {
            self.held_up = false;
            self.wake = true;
        }
    }
}

impl Shared {
    pub(super) fn new(connection: u64, mailbox: Arc<dyn Mailbox>) -> Self {
        Shared {
            asker: Asker {
                connection,
                vhost: Arc::default(),
            },
            mailbox,
            credentials: Credentials::default(),
            capabilities: Capabilities::default(),
            grants: CachedGrants::new(Arc::new(Grants::default())),
            introduction: Introduction::default(),
            retired: Counts::default(),
            known: None,
            secrets: 0,
            topology: None,
            frame_max: Config::FRAME_GREETING,
            actions: Vec::new(),
            busy: None,
            outstanding: 0,
            outstanding_bytes: 0,
            held_up: false,
            staged_bytes: 0,
            wake: false,
            now: Timestamp(0),
            asked: None,
            timed: false,
            consumer_timeout_ms: 0,
            strict: true,
            qos_updates_existing: false,
            consumers_max: 0,
        }
    }
}
