//! What an operator sees of a connection: read under its lock when somebody asks, counted with plain numbers until then.

use std::sync::Arc;

use longtail_broker::auth::Principal;
use longtail_model::{ConsumerTag, SessionId};

use super::channel::Channel;
use super::confirms::Confirms;
use super::consuming::Consumer;
use super::pairs::{Drawn, Published};
use super::transacting::Staged;
use super::way::Way;
use super::{Phase, Session, Shared, Slot};
use crate::codec::{Table, Value};

/// Messages that went through a channel, a connection or the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Published by the client.
    pub publish: u64,
    /// Confirmed to it.
    pub confirm: u64,
    /// Given back because no queue wanted them.
    pub return_unroutable: u64,
    /// Dropped for the same reason.
    pub drop_unroutable: u64,
    /// Delivered to consumers that acknowledge.
    pub deliver: u64,
    /// Delivered to consumers that do not.
    pub deliver_no_ack: u64,
    /// Fetched, to be acknowledged.
    pub get: u64,
    /// Fetched without that.
    pub get_no_ack: u64,
    /// Fetches that found nothing.
    pub get_empty: u64,
    /// Of those delivered and fetched, not for the first time.
    pub redeliver: u64,
    /// Acknowledged.
    pub ack: u64,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: &Counts) {
        self.each(other, |own, other| *own += other);
    }

    /// No number is lower than the other's.
    pub(crate) fn raise(&mut self, other: &Counts) {
        self.each(other, |own, other| *own = other.max(*own));
    }

    fn each(&mut self, other: &Counts, change: impl Fn(&mut u64, u64)) {
        change(&mut self.publish, other.publish);
        change(&mut self.confirm, other.confirm);
        change(&mut self.return_unroutable, other.return_unroutable);
        change(&mut self.drop_unroutable, other.drop_unroutable);
        change(&mut self.deliver, other.deliver);
        change(&mut self.deliver_no_ack, other.deliver_no_ack);
        change(&mut self.get, other.get);
        change(&mut self.get_no_ack, other.get_no_ack);
        change(&mut self.get_empty, other.get_empty);
        change(&mut self.redeliver, other.redeliver);
        change(&mut self.ack, other.ack);
    }

    /// Everything that was handed out.
    #[must_use]
    pub const fn deliver_get(&self) -> u64 {
        self.deliver + self.deliver_no_ack + self.get + self.get_no_ack
    }
}

/// What a client says of itself, as far as it is kept.
#[derive(Debug, Default)]
pub(crate) struct Introduction {
    /// Its properties, as a table's bytes.
    pub(super) properties: Arc<[u8]>,
    /// How it has proved who it is.
    pub(super) mechanism: &'static str,
    /// Seconds between heartbeats.
    pub(super) heartbeat: u16,
    /// Who it has proved to be, where there are accounts.
    pub(super) principal: Option<Principal>,
    /// Whom its connection and its channels count for: the account, or the user where there is none.
    counts_for: Arc<str>,
    /// Its messages may be somebody else's.
    pub(super) impersonates: bool,
    /// Channels that count for the user.
    counted: u64,
}

/// Longest table of properties that is kept, in bytes.
const PROPERTIES_MAX: usize = 4096;

impl Introduction {
    /// Properties that are too many are left out.
    pub(super) fn keep(&mut self, properties: &Table<'_>) {
        if properties.as_bytes().len() <= PROPERTIES_MAX {
            self.properties = properties.as_bytes().into();
        }
    }
}

/// A connection as an operator sees it.
#[derive(Clone, Debug)]
pub struct ConnectionState {
    /// The user's name.
    pub user: String,
    /// The vhost; empty: none is open yet.
    pub vhost: Arc<str>,
    /// `starting`, `tuning`, `opening`, `running`, `blocked`, `closing`.
    pub state: &'static str,
    /// How it has logged in.
    pub mechanism: &'static str,
    /// Channels that may be open.
    pub channel_max: u16,
    /// Octets of a frame.
    pub frame_max: u32,
    /// Seconds between heartbeats.
    pub heartbeat: u16,
    /// The client's properties, as a table's bytes.
    pub properties: Arc<[u8]>,
    /// All its messages, those of closed channels too.
    pub counts: Counts,
    /// What is open, by number.
    pub channels: Vec<ChannelState>,
}

/// A channel as an operator sees it.
#[derive(Clone, Debug)]
pub struct ChannelState {
    /// Its number.
    pub number: u16,
    /// Confirms publishes.
    pub confirm: bool,
    /// Its client wants no deliveries for the time being.
    pub paused: bool,
    /// Settles what was staged with a commit.
    pub transactional: bool,
    /// Published and acknowledged since the last commit, and not committed.
    pub staged: (u64, u64),
    /// Messages each new consumer may hold; 0: any number.
    pub prefetch: u16,
    /// Messages that all its consumers together may hold; 0: any number.
    pub shared_prefetch: u32,
    /// Delivered or fetched, and not acknowledged.
    pub unacked: u64,
    /// Published and not confirmed.
    pub unconfirmed: u64,
    /// Its messages.
    pub counts: Counts,
    /// Its consumers.
    pub consumers: Vec<ConsumerState>,
    /// What it has published, by exchange.
    pub published: Vec<Published>,
    /// What it was given, by queue.
    pub drawn: Vec<Drawn>,
}

/// A consumer as an operator sees it.
#[derive(Clone, Debug)]
pub struct ConsumerState {
    /// Its tag.
    pub tag: Arc<str>,
    /// What it consumes from.
    pub queue: Arc<str>,
    /// Who it is to the shard of the queue; `None`: it reads a stream.
    pub drawing: Option<(SessionId, ConsumerTag)>,
    /// The queue serves one consumer at a time.
    pub single_active: bool,
    /// It acknowledges.
    pub ack_required: bool,
    /// It wants to be the only one.
    pub exclusive: bool,
    /// Messages it may hold; 0: any number.
    pub prefetch: u32,
    /// Milliseconds that it may hold one; `None`: for ever.
    pub timeout_ms: Option<u64>,
    /// What it was begun with, as a table's bytes.
    pub arguments: Arc<[u8]>,
}

impl Session {
    /// What an operator sees.
    #[must_use]
    pub fn about(&self) -> ConnectionState {
        let open = self.channels.values().filter_map(|slot| match slot {
            Slot::Open(channel) => Some(channel.about(&self.shared)),
            Slot::Opening | Slot::Closing => None,
        });
        let mut channels: Vec<_> = open.collect();
        channels.sort_by_key(|channel| channel.number);
        let mut counts = self.shared.retired;
        for channel in &channels {
            counts.add(&channel.counts);
        }
        let Shared {
            credentials,
            asker,
            introduction,
            frame_max,
            ..
        } = &self.shared;
        ConnectionState {
            user: credentials.user.clone(),
            vhost: Arc::clone(&asker.vhost),
            state: match self.phase {
                Phase::Header | Phase::Start => "starting",
                Phase::Tune => "tuning",
                Phase::Open => "opening",
                Phase::Running if self.is_blocked => "blocked",
                Phase::Running => "running",
                Phase::Over => "closing",
            },
            mechanism: introduction.mechanism,
            channel_max: self.channel_max,
            frame_max: *frame_max,
            heartbeat: introduction.heartbeat,
            properties: Arc::clone(&introduction.properties),
            counts,
            channels,
        }
    }

    /// Its connection and its channels count for these from now on.
    pub(crate) fn count_for(&mut self, account: Arc<str>) {
        self.shared.introduction.counts_for = account;
    }

    pub(crate) fn counts_for(&self) -> &Arc<str> {
        &self.shared.introduction.counts_for
    }

    /// Who it has proved to be, where there are accounts.
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.shared.introduction.principal.as_ref()
    }

    /// One more channel counts for the user.
    pub(crate) fn count_channel(&mut self) {
        self.shared.introduction.counted += 1;
    }

    /// Channels that count for the user and are not there any more.
    pub(crate) fn take_ended(&mut self) -> u64 {
        let there = self.channels.values();
        let there = there.filter(|slot| matches!(slot, Slot::Open(_) | Slot::Opening));
        let there = there.count() as u64;
        let ended = self.shared.introduction.counted.saturating_sub(there);
        self.shared.introduction.counted -= ended;
        ended
    }

    /// All that count, at the end.
    pub(crate) fn take_counted(&mut self) -> u64 {
        std::mem::take(&mut self.shared.introduction.counted)
    }

    /// All its messages.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = self.shared.retired;
        for slot in self.channels.values() {
            if let Slot::Open(channel) = slot {
                counts.add(&channel.counts());
            }
        }
        counts
    }

    /// The vhost and the user, once a vhost is open.
    #[must_use]
    pub fn tenancy(&self) -> Option<(Arc<str>, &str)> {
        (self.phase == Phase::Running).then(|| {
            let vhost = Arc::clone(&self.shared.asker.vhost);
            (vhost, self.shared.credentials.user.as_str())
        })
    }

    /// Channels, consumers, and channels that have published something.
    #[must_use]
    pub fn sizes(&self) -> (u64, u64, u64) {
        let open = self.channels.values().filter_map(|slot| match slot {
            Slot::Open(channel) => Some(channel),
            Slot::Opening | Slot::Closing => None,
        });
        open.fold((0, 0, 0), |(channels, consumers, publishers), channel| {
            let more = channel.consumers.len() as u64;
            let publishes = u64::from(channel.counts.publish > 0);
            (channels + 1, consumers + more, publishers + publishes)
        })
    }
}

impl Channel {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            confirm: self.confirms.as_ref().map_or(0, Confirms::given),
            ..self.counts
        }
    }

    fn about(&self, shared: &Shared) -> ChannelState {
        let consumers = self.consumers.iter();
        let about = |(&number, consumer): (&u32, &Consumer)| {
            let way = self.ways.get(usize::from(consumer.queue.shard.0));
            let session = way.filter(|_| consumer.reader.is_none()).map(Way::session);
            consumer.about(session.map(|session| (session, ConsumerTag(number))))
        };
        let mut consumers: Vec<_> = consumers.map(about).collect();
        consumers.sort_by(|a, b| a.tag.cmp(&b.tag));
        let drawing = self.consumers.values();
        let drawing = drawing.map(|consumer| (&consumer.queue, consumer.tally.counts()));
        ChannelState {
            number: self.number(),
            confirm: self.confirms.is_some(),
            paused: self.pausing.is_paused,
            transactional: self.staged.is_some(),
            staged: self.staged.as_ref().map_or((0, 0), Staged::sizes),
            prefetch: self.prefetch,
            shared_prefetch: self.shared_prefetch,
            unacked: self.unacked.len() as u64,
            unconfirmed: self.confirms.as_ref().map_or(0, Confirms::waiting),
            counts: self.counts(),
            consumers,
            published: self.publishes.about(shared),
            drawn: self.draws.about(drawing, shared),
        }
    }
}

/// A name that a client has given itself.
#[must_use]
pub fn given_name(properties: &[u8]) -> Option<String> {
    let table = Table::decode(properties).ok()?;
    match table.get("connection_name")? {
        Value::LongString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}
