//! A queue: a stream with its default group, and what AMQP knows of it besides.
//!
//! ```text
//! arguments ──▶ QueueArguments ─┐
//! policy, operator policy ──────┴─▶ QueueSettings ──▶ StreamConfig
//! ```
//!
//! `arguments` has what a client may say, `rules` what policies may say too, `settings` what holds.

mod arguments;
mod offsets;
mod quiet;
mod rules;
mod settings;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use longtail_model::{Priority, ShardId, StreamId, Timestamp};
use parking_lot::{Mutex, RwLock};

use crate::codec::{Table, Value};
use crate::exception::{Exception, precondition};
use crate::graph::{Dedup, DedupKey, Repeated, Seen};
use crate::replies::{Mailbox, Place};
use crate::tally::{self, Tallies};
use arguments::COMPARED;
pub(crate) use arguments::time;
pub use arguments::{QueueArguments, QueueType};
pub(crate) use offsets::{Offsets, Progress};
use quiet::Quiet;
pub(crate) use rules::thousandths;
pub use rules::{Overflow, QueueRules, RetryOn};
pub use settings::{DEAD_LETTERS, DeadLetter, QueueSettings, Retry};
pub(crate) use stream::age_ms;

/// How a queue was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// It outlives a restart.
    pub durable: bool,
    /// It goes with its last consumer.
    pub auto_delete: bool,
    /// The connection that has it for itself.
    pub owner: Option<u64>,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
    /// What they say.
    pub parsed: QueueArguments,
}

impl QueueConfig {
    /// Whether another declaration says the same.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` with the first difference.
    pub fn check(&self, other: &QueueConfig, queue: &str, vhost: &str) -> Result<(), Exception> {
        for (what, current, received) in [
            ("durable", self.durable, other.durable),
            ("auto_delete", self.auto_delete, other.auto_delete),
        ] {
            if current != received {
                return Err(precondition(format!(
                    "inequivalent arg '{what}' for queue '{queue}' in vhost '{vhost}': received '{received}' but \
                     current is '{current}'"
                )));
            }
        }
        let what = format!("queue '{queue}' in vhost '{vhost}'");
        same_arguments(COMPARED, &self.arguments, &other.arguments, &what)
    }
}

/// Compares the arguments that matter of two declarations.
pub(crate) fn same_arguments(
    keys: &[&str],
    current: &[u8],
    received: &[u8],
    what: &str,
) -> Result<(), Exception> {
    let current = Table::decode(current).unwrap_or_default();
    let received = Table::decode(received).unwrap_or_default();
    for &key in keys {
        let classic =
            |value: &Value<'_>| key == "x-queue-type" && value.as_str() == Some("classic");
        let current = current.get(key).filter(|value| !classic(value));
        let received = received.get(key).filter(|value| !classic(value));
        let same = match (&current, &received) {
            (None, None) => true,
            (Some(current), Some(received)) => current.is_equivalent(received),
            _ => false,
        };
        if !same {
            return Err(precondition(format!(
                "inequivalent arg '{key}' for {what}: received {} but current is {}",
                described(received.as_ref(), current.is_some()),
                described(current.as_ref(), received.is_some())
            )));
        }
    }
    Ok(())
}

/// A value as a text has it: with its type only where the other declaration has none.
fn described(value: Option<&Value<'_>>, beside_another: bool) -> String {
    let Some(value) = value else {
        return "none".to_owned();
    };
    let text = match value {
        Value::LongString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Bool(flag) => flag.to_string(),
        value => value
            .as_i64()
            .map_or_else(|| format!("{value:?}"), |number| number.to_string()),
    };
    match beside_another {
        true => format!("'{text}'"),
        false => format!("the value '{text}' of type '{}'", value.type_name()),
    }
}

/// A queue that exists.
#[derive(Debug)]
pub struct Queue {
    /// Its name, which is its stream's.
    pub name: Arc<str>,
    /// Where its stream lives.
    pub shard: ShardId,
    /// Its stream.
    pub stream: StreamId,
    /// How it was declared.
    pub config: QueueConfig,
    settings: RwLock<Arc<QueueSettings>>,
    /// Of a message; no policy changes it.
    max_priority: u8,
    /// What it refuses to take is a dead letter.
    lays_refused: AtomicBool,
    /// What comes back may have to wait.
    has_retries: AtomicBool,
    usage: Mutex<Usage>,
    quiet: Quiet,
    /// Consumers that are links of other brokers.
    links: Arc<AtomicU32>,
    tallies: Arc<Tallies<{ tally::queue::COUNT }>>,
    /// What came before, where that is not taken again.
    seen: Option<Seen>,
    /// Who reads it, if it is a stream: no group of it knows them.
    readers: Mutex<Vec<Reading>>,
    /// Where some of these go on.
    offsets: Offsets,
}

/// A consumer of a stream.
#[derive(Clone)]
pub(crate) struct Reading {
    pub(crate) mailbox: Arc<dyn Mailbox>,
    pub(crate) at: Place,
    pub(crate) consumer: u32,
}

impl Reading {
    fn is(&self, other: &Reading) -> bool {
        Arc::ptr_eq(&self.mailbox, &other.mailbox)
            && (self.at, self.consumer) == (other.at, other.consumer)
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reading")
            .field(&self.at)
            .field(&self.consumer)
            .finish()
    }
}

fn lays_refused(settings: &QueueSettings) -> bool {
    settings.overflow == Overflow::RejectPublishDlx && settings.dead_letter.is_some()
}

/// Who consumes from a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    /// When it was last declared, asked for a message, or got or lost a consumer.
    used: Option<Instant>,
    consumers: u32,
    /// The only consumer wants to stay that.
    exclusive: bool,
    /// It is being deleted.
    closing: bool,
}

/// Why a consumer is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InUse {
    /// Somebody has the queue for itself, or wants it and somebody else is there.
    Exclusively,
    /// The queue is on its way out.
    Gone,
}

impl Queue {
    /// A queue nobody uses yet.
    #[must_use]
    pub fn new(
        name: Arc<str>,
        (shard, stream): (ShardId, StreamId),
        config: QueueConfig,
        settings: QueueSettings,
    ) -> Self {
        let arguments = Table::decode(&config.arguments).unwrap_or_default();
        // Checked when it was declared.
        let dedup = Dedup::parse(&arguments).ok().flatten();
        Queue {
            seen: dedup.map(Seen::new),
            lays_refused: AtomicBool::new(lays_refused(&settings)),
            has_retries: AtomicBool::new(settings.retry.is_some()),
            links: Arc::default(),
            tallies: Arc::default(),
            max_priority: settings.max_priority.unwrap_or(0),
            settings: RwLock::new(Arc::new(settings)),
            name,
            shard,
            stream,
            config,
            readers: Mutex::default(),
            offsets: Offsets::default(),
            quiet: Quiet::default(),
            usage: Mutex::new(Usage {
                used: Some(Instant::now()),
                ..Usage::default()
            }),
        }
    }

    /// Whether it notes what comes.
    #[must_use]
    pub fn notes(&self) -> bool {
        self.seen.is_some()
    }

    /// Notes a message that comes.
    ///
    /// # Errors
    /// When it came before, and such are not taken again.
    pub fn note(&self, headers: &Table<'_>, now: Timestamp) -> Result<Option<DedupKey>, Repeated> {
        self.seen
            .as_ref()
            .map_or(Ok(None), |seen| seen.note(headers, now))
    }

    /// A message that was noted was not stored.
    pub fn forget(&self, key: DedupKey) {
        if let Some(seen) = &self.seen {
            seen.forget(key);
        }
    }

    /// Whether it is a stream: consumers read it and take nothing out.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.config.parsed.kind == QueueType::Stream
    }

    /// The places that are kept for consumers, if it is a stream.
    pub(crate) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// Somebody reads it, and wants to know when it goes.
    pub(crate) fn add_reader(&self, reader: Reading) {
        self.readers.lock().push(reader);
    }

    /// He does not read it any more.
    pub(crate) fn remove_reader(&self, reader: &Reading) {
        self.readers.lock().retain(|known| !known.is(reader));
    }

    /// It is gone. No lock is held.
    pub(crate) fn tell_readers(&self) {
        // They take themselves off the list: it must not be locked meanwhile.
        let readers = std::mem::take(&mut *self.readers.lock());
        for reader in readers {
            reader.mailbox.queue_gone(reader.at, reader.consumer);
        }
    }

    /// Whether a connection may use it.
    #[must_use]
    pub fn is_open_to(&self, connection: u64) -> bool {
        self.config.owner.is_none_or(|owner| owner == connection)
    }

    /// Consumers.
    #[must_use]
    pub fn consumers(&self) -> u32 {
        self.usage.lock().consumers
    }

    /// What was handed out of it.
    pub(crate) fn tallies(&self) -> &Arc<Tallies<{ tally::queue::COUNT }>> {
        &self.tallies
    }

    /// Consumers that are no links of other brokers.
    #[must_use]
    pub fn local_consumers(&self) -> u32 {
        self.consumers()
            .saturating_sub(self.links.load(Ordering::Relaxed))
    }

    /// One of its consumers is a link of another broker, until this is dropped.
    #[must_use]
    pub fn seat_link(&self) -> LinkSeat {
        self.links.fetch_add(1, Ordering::Relaxed);
        LinkSeat(Arc::clone(&self.links))
    }

    /// Whether somebody consumes from it exclusively.
    #[must_use]
    pub fn is_consumed_exclusively(&self) -> bool {
        self.usage.lock().exclusive
    }

    /// One more consumer.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn join(&self, exclusive: bool) -> Result<(), InUse> {
        let mut usage = self.usage.lock();
        if usage.closing {
            return Err(InUse::Gone);
        }
        if usage.exclusive || exclusive && usage.consumers > 0 {
            return Err(InUse::Exclusively);
        }
        usage.consumers += 1;
        usage.exclusive = exclusive;
        usage.used = Some(Instant::now());
        Ok(())
    }

    /// One consumer less. `true`: it was the last, and the queue is to go with it.
    pub fn leave(&self) -> bool {
        let mut usage = self.usage.lock();
        usage.consumers = usage.consumers.saturating_sub(1);
        usage.exclusive = false;
        usage.used = Some(Instant::now());
        usage.consumers == 0 && self.config.auto_delete
    }

    /// Somebody has used it.
    pub fn touch(&self) {
        self.usage.lock().used = Some(Instant::now());
    }

    /// Since when it is seen as it is and nobody has declared it, asked it for a message or begun or ended to consume,
    /// in milliseconds since 1970: never too early, and too late by the time since somebody looked before at most.
    pub(crate) fn idle_since(&self, seen: quiet::Seen, now_ms: u64) -> u64 {
        let used = self.usage.lock().used;
        let used = used.map_or(0, |used| {
            let ago = u64::try_from(used.elapsed().as_millis()).unwrap_or(u64::MAX);
            now_ms.saturating_sub(ago)
        });
        self.quiet.look(seen, now_ms).max(used)
    }

    /// When it goes because nobody uses it; `None`: it does not, or somebody does.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        let expires_ms = self.settings.read().expires_ms?;
        let usage = self.usage.lock();
        let used = usage
            .used
            .filter(|_| usage.consumers == 0 && !usage.closing)?;
        used.checked_add(Duration::from_millis(expires_ms))
    }

    /// It is about to be deleted: no consumer joins any more. With `unused`, only if there is none; `false`: there is.
    pub(crate) fn begin_delete(&self, unused: bool) -> bool {
        let mut usage = self.usage.lock();
        if unused && usage.consumers > 0 {
            return false;
        }
        usage.closing = true;
        true
    }

    /// It stays after all.
    pub(crate) fn abandon_delete(&self) {
        self.usage.lock().closing = false;
    }

    /// The settings that hold now.
    #[must_use]
    pub fn settings(&self) -> Arc<QueueSettings> {
        Arc::clone(&self.settings.read())
    }

    /// From now on these settings hold; the stream has them.
    pub(crate) fn change(&self, settings: QueueSettings) {
        let (lays, retries) = (lays_refused(&settings), settings.retry.is_some());
        *self.settings.write() = Arc::new(settings);
        self.lays_refused.store(lays, Ordering::Relaxed);
        self.has_retries.store(retries, Ordering::Relaxed);
    }

    /// Whether what comes back may have to wait.
    #[must_use]
    pub fn has_retries(&self) -> bool {
        self.has_retries.load(Ordering::Relaxed)
    }

    /// Whether what it refuses to take is a dead letter.
    #[must_use]
    pub fn lays_refused(&self) -> bool {
        self.lays_refused.load(Ordering::Relaxed)
    }

    /// The priority of a message in this queue; more urgent ones have a lower number.
    #[must_use]
    pub fn priority(&self, priority: Option<u8>) -> Priority {
        let max = self.max_priority;
        Priority(u32::from(u8::MAX - priority.unwrap_or(0).min(max)))
    }
}

/// The place of a consumer that is a link of another broker: it does not make a federated queue pull.
#[derive(Debug)]
pub struct LinkSeat(Arc<AtomicU32>);

impl Drop for LinkSeat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::TableBuf;

    fn config(pairs: &[(&str, Value<'_>)]) -> Result<QueueConfig, Exception> {
        let mut table = TableBuf::default();
        for (key, value) in pairs {
            table.put(key, *value).unwrap();
        }
        Ok(QueueConfig {
            durable: true,
            auto_delete: false,
            owner: None,
            arguments: table.as_table().as_bytes().into(),
            parsed: QueueArguments::parse(&table.as_table(), "q", "/")?,
        })
    }

    fn queue(pairs: &[(&str, Value<'_>)]) -> Queue {
        let config = config(pairs).unwrap();
        let settings = QueueSettings::of(&config.parsed, None, None);
        Queue::new("q".into(), (ShardId(0), StreamId(1)), config, settings)
    }

    #[test]
    fn redeclaring_compares_values_not_widths_and_says_what_differs() {
        let current = config(&[("x-message-ttl", Value::I64(1000))]).unwrap();
        let same = config(&[
            ("x-queue-type", Value::LongString(b"classic")),
            ("x-message-ttl", Value::I16(1000)),
            ("x-anything", Value::Void),
        ]);
        assert_eq!(current.check(&same.unwrap(), "q", "/"), Ok(()));
        let error = current.check(&config(&[]).unwrap(), "q", "/").unwrap_err();
        assert_eq!(
            error.reply_text(),
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but \
             current is the value '1000' of type 'long'"
        );
        let other = config(&[("x-message-ttl", Value::I64(2000))]).unwrap();
        let error = current.check(&other, "q", "/").unwrap_err().reply_text();
        let expected = "received '2000' but current is '1000'";
        assert!(error.ends_with(expected), "{error}");
        let transient = QueueConfig {
            durable: false,
            ..current.clone()
        };
        assert_eq!(
            current
                .check(&transient, "q", "/")
                .unwrap_err()
                .reply_text(),
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current \
             is 'true'"
        );
    }

    #[test]
    fn a_consumer_that_wants_the_queue_for_itself_gets_it_or_not() {
        let queue = queue(&[]);
        assert_eq!(queue.join(false), Ok(()));
        assert_eq!(queue.join(true), Err(InUse::Exclusively));
        assert!(!queue.leave());
        assert_eq!(queue.join(true), Ok(()));
        assert_eq!(queue.join(false), Err(InUse::Exclusively));
        assert!(!queue.begin_delete(true));
        queue.leave();
        assert!(queue.begin_delete(true));
        assert_eq!(queue.join(false), Err(InUse::Gone));
    }

    #[test]
    fn priorities_are_capped() {
        let queue = queue(&[("x-max-priority", Value::I32(5))]);
        assert_eq!(queue.priority(Some(9)), queue.priority(Some(5)));
        assert!(queue.priority(Some(5)) < queue.priority(Some(4)));
        assert_eq!(queue.priority(None), queue.priority(Some(0)));
    }
}
