//! One bridge at work: sockets, time and the sources around its [`Link`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use longtail_broker::client::Pushed;
use longtail_broker::ephemeral::{Burst, SpaceRoutes};
use longtail_broker::message::{Encodings, Message, Origin, SharedMessage};
use longtail_broker::retained::RetainedCursor;
use longtail_broker::router::Chance;
use longtail_broker::stored::Stored;
use longtail_broker::{Broker, BrokerError, Space, stable_hash};
use longtail_edge::{Backoff, write_some};
use longtail_engine::Refusal;
use longtail_model::{DollarRule, GroupId, Seq, Subject, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::backlog::{self, Backlog};
use super::config::{BridgeConfig, Protocol};
use super::hops;
use super::link::{
    Dialect, Event, Fate, Incoming, Link, LinkError, LinkSettings, Outgoing, Receipt,
};
use super::map::{Mapped, TopicMap};
use super::socket::{self, Socket};
use super::status::Status;
use crate::codec::{Qos, Version};
use crate::message;

/// Bytes that wait for the socket before nothing more is taken from the sources.
const OUT_SOFT: usize = 256 * 1024;

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// Retained messages looked at in one go.
const REPLAY_STEP: usize = 256;

/// How long a stopping bridge waits for what is under way.
const GOODBYE: Duration = Duration::from_secs(2);

/// Names a message that was sent.
#[derive(Clone, Copy, Debug)]
enum Key {
    /// Of the stream.
    Stored(GroupId, Seq),
    /// Kept nowhere, or retained and sent again at the next connect.
    Passing,
}

/// Why a session is over.
enum End {
    Stopped,
    /// The other broker does not speak this dialect, as far as one can tell.
    Dialect(String),
    Lost(String),
    /// The stream is gone.
    Backlog,
}

type Publishing = Pin<Box<dyn Future<Output = (Receipt, Result<(), BrokerError>)>>>;

/// A bridge.
pub(super) struct Runner {
    config: BridgeConfig,
    broker: Arc<Broker>,
    space: Arc<Space>,
    map: TopicMap,
    origin: Origin,
    backlog: Backlog,
    link: Link<Key>,
    status: Arc<Status>,
    stop: watch::Receiver<bool>,
    /// Retained messages that are yet to be sent on this connection.
    replay: Replay,
    publishing: FuturesOrdered<Publishing>,
}

#[derive(Default)]
struct Replay {
    cursors: Vec<(usize, RetainedCursor)>,
    found: Vec<SharedMessage>,
}

impl Runner {
    /// Makes stream and routes.
    ///
    /// # Errors
    /// When the broker refuses them.
    pub(super) async fn prepare(
        config: BridgeConfig,
        broker: Arc<Broker>,
        space: Arc<Space>,
        status: Arc<Status>,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, BrokerError> {
        let map = TopicMap::new(&config.topics);
        let origin = origin(&space.name, &config.name);
        let backlog = backlog::open(&broker, &space, &config, &map.local_filters(), origin).await?;
        let tells = config.notifications && !config.notifications_local_only;
        let link = Link::new(LinkSettings {
            client_id: config.client_id(),
            username: config.username.clone(),
            password: config.password.clone().map(String::into_bytes),
            keep_alive_s: config.keep_alive_s,
            clean_start: config.clean_start,
            session_expiry_s: config.session_expiry_s,
            window: config.window,
            packet_bytes_max: config.packet_bytes_max,
            subscriptions: map.remote_filters(),
            state_topic: tells.then(|| config.state_topic()),
        });
        Ok(Runner {
            config,
            broker,
            space,
            map,
            origin,
            backlog,
            link,
            status,
            stop,
            replay: Replay::default(),
            publishing: FuturesOrdered::new(),
        })
    }

    fn now(&self) -> Timestamp {
        self.broker.clock().now()
    }

    /// Connects again and again until it is told to stop.
    pub(super) async fn run(mut self) {
        let dialects = dialects(&self.config);
        let mut backoff = Backoff::new(self.config.restart_ms, self.config.restart_max_ms);
        let (mut dialect_at, mut address_at) = (0, 0);
        self.tell(false);
        while !*self.stop.borrow() {
            let (Some(dialect), Some(address)) = (
                dialects.get(dialect_at).copied(),
                self.config.addresses.get(address_at).cloned(),
            ) else {
                (dialect_at, address_at) = (0, 0);
                continue;
            };
            self.status.attempts.fetch_add(1, Ordering::Relaxed);
            let end = self.attempt(&address, dialect).await;
            let was_up = self.status.is_up();
            self.link.lost();
            if was_up {
                self.status.up.store(false, Ordering::Relaxed);
                self.status.ready.store(false, Ordering::Relaxed);
                self.tell(false);
                backoff.reset();
            }
            let name = &self.config.name;
            match end {
                End::Stopped => break,
                End::Dialect(why) if dialect_at + 1 < dialects.len() => {
                    dialect_at += 1;
                    tracing::info!(bridge = name, address, why, "trying an older version");
                    continue;
                }
                End::Dialect(why) | End::Lost(why) => {
                    tracing::warn!(bridge = name, address, why, "bridge is down");
                }
                End::Backlog => {
                    tracing::warn!(bridge = name, "its stream is gone; a new one is made");
                    if !self.reopen().await {
                        break;
                    }
                }
            }
            dialect_at = 0;
            address_at = if was_up { 0 } else { address_at + 1 };
            if address_at < self.config.addresses.len() && address_at > 0 {
                continue;
            }
            let pause = Duration::from_millis(backoff.next(rand::random()));
            let pause = tokio::time::sleep(pause);
            tokio::pin!(pause);
            tokio::select! {
                () = pause => {}
                _ = self.stop.changed() => {}
            }
        }
        tracing::info!(bridge = self.config.name, "bridge has stopped");
    }

    /// Makes the stream anew; `false` at the end of the broker.
    async fn reopen(&mut self) -> bool {
        let filters = self.map.local_filters();
        let opened = backlog::open(
            &self.broker,
            &self.space,
            &self.config,
            &filters,
            self.origin,
        )
        .await;
        match opened {
            Ok(backlog) => {
                self.backlog = backlog;
                true
            }
            Err(error) => {
                tracing::error!(bridge = self.config.name, %error, "bridge gives up");
                false
            }
        }
    }

    /// One connection from its beginning to its end.
    async fn attempt(&mut self, address: &str, dialect: Dialect) -> End {
        if let Some(file) = &self.config.password_file {
            match std::fs::read_to_string(file) {
                Ok(text) => {
                    let first = text.lines().next().unwrap_or_default();
                    self.link.set_password(Some(first.as_bytes().to_vec()));
                }
                Err(error) => return End::Lost(format!("{}: {error}", file.display())),
            }
        }
        let opening = socket::open(address, self.config.tls.as_ref());
        let opened = tokio::select! {
            opened = opening => opened,
            _ = self.stop.changed() => return End::Stopped,
        };
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => return End::Lost(error.to_string()),
        };
        let mut out = Vec::new();
        if let Err(error) = self.link.connect(dialect, self.now(), &mut out) {
            return End::Lost(error.to_string());
        }
        match self.converse(socket, out).await {
            Ok(end) => end,
            Err(error) => {
                let unheard = self.link.lost();
                match error {
                    Broken::Link(LinkError::WrongVersion) => {
                        End::Dialect(LinkError::WrongVersion.to_string())
                    }
                    Broken::Link(error) => End::Lost(error.to_string()),
                    // Old brokers close without a word when they do not know the version.
                    Broken::Io(error) if unheard => End::Dialect(error.to_string()),
                    Broken::Io(error) => End::Lost(error.to_string()),
                    Broken::Store(error) => End::Lost(error.to_string()),
                    Broken::Backlog => End::Backlog,
                }
            }
        }
    }

    async fn converse(&mut self, socket: Box<dyn Socket>, mut out: Vec<u8>) -> Result<End, Broken> {
        let (mut reader, mut writer) = tokio::io::split(socket);
        let mut input = BytesMut::with_capacity(READ);
        let mut events = Vec::new();
        let mut unflushed = false;
        let mut leaving = None;
        loop {
            self.replay_retained(&mut out, &mut events);
            self.handle(&mut events, &mut out)?;
            let now = self.now();
            let idle = self.link.in_flight() == 0 && self.publishing.is_empty();
            if leaving.is_some_and(|until| idle || now >= until) {
                self.link.disconnect(now, &mut out);
                let flushed = async {
                    writer.write_all(&out).await?;
                    writer.shutdown().await
                };
                // The connection ends either way.
                let _ = tokio::time::timeout(GOODBYE, flushed).await;
                return Ok(End::Stopped);
            }
            let due = leaving.unwrap_or(Timestamp::NEVER).min(self.link.due());
            let wait = due.0.saturating_sub(now.0).min(3_600_000);
            let takes = self.link.is_up() && leaving.is_none() && out.len() < OUT_SOFT;
            let stored = takes && self.link.has_room() && self.replay.is_done();
            let reads = self.publishing.len() <= usize::from(self.config.window) * 2;
            tokio::select! {
                read = reader.read_buf(&mut input), if reads => {
                    if read.map_err(Broken::Io)? == 0 {
                        return Err(Broken::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other broker")));
                    }
                    let now = self.now();
                    let taken = self.link.receive(&input, now, &mut out, &mut events);
                    // What came before the error counts.
                    self.handle(&mut events, &mut out)?;
                    input.advance(taken.map_err(Broken::Link)?);
                    input.reserve(READ);
                }
                written = write_some(&mut writer, &mut out, &mut unflushed), if !out.is_empty() || unflushed => {
                    written.map_err(Broken::Io)?;
                }
                Some((receipt, published)) = self.publishing.next() => self.published(receipt, published, &mut out)?,
                pushed = self.backlog.client.pushed(), if stored => {
                    self.pushed(pushed.map_err(|closed| Broken::Store(closed.into()))?, &mut out, &mut events)?;
                }
                Some(message) = self.backlog.live.recv(), if takes => self.passing(&message, &mut out, &mut events),
                () = tokio::time::sleep(Duration::from_millis(wait)) => {
                    let now = self.now();
                    self.link.tick(now, &mut out).map_err(Broken::Link)?;
                }
                _ = self.stop.changed(), if leaving.is_none() => {
                    if !self.link.is_up() {
                        return Ok(End::Stopped);
                    }
                    let limit = u64::try_from(GOODBYE.as_millis()).unwrap_or(u64::MAX);
                    leaving = Some(self.now().plus_millis(limit));
                }
            }
        }
    }

    /// Carries out what the link reports.
    fn handle(&mut self, events: &mut Vec<Event<Key>>, out: &mut Vec<u8>) -> Result<(), Broken> {
        for event in events.drain(..) {
            match event {
                Event::Connected { session_present } => self.connected(session_present),
                Event::Subscribed => self.status.ready.store(true, Ordering::Relaxed),
                Event::NotSubscribed { filter, reason } => {
                    tracing::warn!(bridge = self.config.name, filter, ?reason, "not subscribed");
                }
                Event::Incoming(incoming) => self.incoming(*incoming, out),
                Event::Flown(key, fate) => {
                    self.status.count(fate);
                    if let Fate::Refused(_) | Fate::TooLarge | Fate::Unwritable = fate {
                        tracing::warn!(bridge = self.config.name, ?fate, "a message is dropped");
                    }
                    if let Key::Stored(group, seq) = key {
                        self.backlog.settle(group, seq);
                    }
                }
            }
        }
        Ok(())
    }

    fn connected(&mut self, session_present: bool) {
        let version = if self.link.is_v5() { "5.0" } else { "3.1.1" };
        tracing::info!(
            bridge = self.config.name,
            version,
            session_present,
            "bridge is up"
        );
        self.status.up.store(true, Ordering::Relaxed);
        self.status.connects.fetch_add(1, Ordering::Relaxed);
        // What may be lost and came while nobody listened is lost.
        while self.backlog.live.try_recv().is_ok() {
            self.status.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.replay = Replay::default();
        if self.config.outgoing_retain {
            let filters = self.map.local_filters().into_iter().enumerate();
            let cursors = filters
                .map(|(at, (filter, _))| (at, RetainedCursor::new(filter, DollarRule::Hide)));
            self.replay.cursors = cursors.collect();
        }
        self.tell(true);
    }

    /// Tells live subscribers the state.
    // They are all who are told: a value that is retained would be logged.
    fn tell(&self, up: bool) {
        if !self.config.notifications {
            return;
        }
        let Ok(subject) = Subject::parse_mqtt(&self.config.state_topic()) else {
            return;
        };
        let now = self.now();
        let payload: &'static [u8] = if up { b"1" } else { b"0" };
        let message = Arc::new(Message {
            published: now,
            origin: self.origin,
            ..Message::new(subject, payload.into())
        });
        let mut routes = SpaceRoutes::default();
        self.space
            .router
            .routes(message.subject.as_ref(), &mut routes);
        let chance = Chance::of(&message, now.0);
        Burst::new(&self.space.counters).publish(&routes, &message, &chance, now);
    }

    fn incoming(&mut self, incoming: Incoming, out: &mut Vec<u8>) {
        let Incoming { message, receipt } = incoming;
        let now = self.now();
        self.status.received.fetch_add(1, Ordering::Relaxed);
        let mapped = self.map.incoming(message.subject.as_ref());
        let subject = mapped.and_then(|mapped| {
            let subject = Subject::parse_mqtt(&mapped.topic).ok()?;
            Some((subject, mapped.qos))
        });
        let hops_max = self.config.hops_max;
        let looping = hops_max > 0 && hops::of(&message) > hops_max;
        let Some((subject, qos)) = subject.filter(|_| !looping) else {
            // Nobody asked for it, or it goes round.
            self.status.dropped.fetch_add(1, Ordering::Relaxed);
            self.link.accept(receipt, now, out);
            return;
        };
        let message = Arc::new(Message {
            subject,
            origin: self.origin,
            quality: message.quality.min(message::quality(qos)),
            encodings: Encodings::default(),
            ..message
        });
        let (broker, space) = (Arc::clone(&self.broker), Arc::clone(&self.space.name));
        self.publishing.push_back(Box::pin(async move {
            let published = broker.publish(&space, message).await;
            (receipt, published.map(drop))
        }));
    }

    fn published(
        &mut self,
        receipt: Receipt,
        published: Result<(), BrokerError>,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let now = self.now();
        match published {
            Ok(()) => self.link.accept(receipt, now, out),
            // It will not become smaller.
            Err(BrokerError::Refused(Refusal::TooLarge(why))) => {
                tracing::warn!(bridge = self.config.name, why, "a message is dropped");
                self.status.dropped.fetch_add(1, Ordering::Relaxed);
                self.link.accept(receipt, now, out);
            }
            Err(error) => {
                self.link.reject(receipt);
                if receipt != Receipt::None {
                    return Err(Broken::Store(error));
                }
                self.status.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn pushed(
        &mut self,
        pushed: Pushed,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<Key>>,
    ) -> Result<(), Broken> {
        let (delivery, owned) = match pushed {
            Pushed::Message(delivery, owned) => (delivery, owned),
            Pushed::Cancelled(..) => return Err(Broken::Backlog),
        };
        let key = Key::Stored(delivery.group, delivery.seq);
        let message = owned.and_then(|owned| {
            let stored = Stored::read(&owned.subject, &owned.headers);
            let message = stored.to_message(owned.payload.clone(), owned.created, owned.expires);
            message.ok()
        });
        let wanted = message.and_then(|message| {
            let mapped = self.map.outgoing(message.subject.as_ref())?;
            // A line at QoS 0 has sent it when it was published.
            (mapped.qos > Qos::AtMostOnce).then_some((message, mapped))
        });
        match wanted {
            Some((message, mapped)) => {
                self.send(key, &message, mapped, message.retain, out, events);
            }
            None => self.backlog.settle(delivery.group, delivery.seq),
        }
        Ok(())
    }

    /// A message that may be lost.
    fn passing(
        &mut self,
        message: &SharedMessage,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<Key>>,
    ) {
        let Some(mut mapped) = self.map.outgoing(message.subject.as_ref()) else {
            return;
        };
        if mapped.qos > Qos::AtMostOnce && message.quality.is_assured() {
            // It is in the stream.
            return;
        }
        mapped.qos = Qos::AtMostOnce;
        self.send(Key::Passing, message, mapped, message.retain, out, events);
    }

    /// Sends retained messages as long as there is room.
    fn replay_retained(&mut self, out: &mut Vec<u8>, events: &mut Vec<Event<Key>>) {
        while self.link.has_room() && out.len() < OUT_SOFT {
            let Some(message) = self.replay.found.pop() else {
                let Some((at, cursor)) = self.replay.cursors.last_mut() else {
                    return;
                };
                let at = *at;
                let now = self.broker.clock().now();
                let more = cursor.step(
                    &self.space.retained,
                    now,
                    REPLAY_STEP,
                    &mut self.replay.found,
                );
                if !more {
                    self.replay.cursors.pop();
                }
                let filters = self.map.local_filters();
                let origin = self.origin;
                // What several filters match is sent for the first; what came over this bridge does not go back.
                self.replay.found.retain(|message| {
                    let subject = message.subject.as_ref();
                    let matches = |(filter, _): &(longtail_model::Filter, Qos)| {
                        filter.matches_with(subject, DollarRule::Hide)
                    };
                    message.origin != origin && filters.iter().position(matches) == Some(at)
                });
                continue;
            };
            if let Some(mapped) = self.map.outgoing(message.subject.as_ref()) {
                self.send(Key::Passing, &message, mapped, true, out, events);
            }
        }
    }

    fn send(
        &mut self,
        key: Key,
        message: &Message,
        mapped: Mapped,
        retain: bool,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<Key>>,
    ) {
        let now = self.now();
        let hops_max = self.config.hops_max;
        let passed = hops::of(message);
        if hops_max > 0 && passed >= hops_max {
            tracing::warn!(
                bridge = self.config.name,
                topic = mapped.topic,
                passed,
                "a message goes round and is dropped"
            );
            self.status.dropped.fetch_add(1, Ordering::Relaxed);
            if let Key::Stored(group, seq) = key {
                self.backlog.settle(group, seq);
            }
            return;
        }
        let properties = if !self.link.is_v5() {
            Vec::new()
        } else if hops_max == 0 {
            message::properties(message)
        } else {
            message::properties(&Message {
                reply_to: message.reply_to.clone(),
                headers: hops::with(&message.headers, passed + 1),
                ..Message::new(message.subject.clone(), message.payload.clone())
            })
        };
        let outgoing = Outgoing {
            key,
            topic: mapped.topic,
            payload: message.payload.clone(),
            qos: mapped.qos.min(message::qos(message.quality)),
            retain: retain && self.config.outgoing_retain,
            properties: properties.into(),
            expires: message.expires,
        };
        self.link.send(outgoing, now, out, events);
    }
}

impl Replay {
    fn is_done(&self) -> bool {
        self.found.is_empty() && self.cursors.is_empty()
    }
}

/// Why a connection broke.
enum Broken {
    Io(io::Error),
    Link(LinkError),
    Store(BrokerError),
    Backlog,
}

/// What is tried, in order.
fn dialects(config: &BridgeConfig) -> Vec<Dialect> {
    let dialect = |version, bridge_bit| Dialect {
        version,
        bridge_bit,
    };
    let mut dialects = Vec::new();
    if config.protocol != Protocol::V311 {
        dialects.push(dialect(Version::V5, false));
    }
    if config.protocol != Protocol::V5 {
        if config.bridge_bit {
            dialects.push(dialect(Version::V311, true));
        }
        dialects.push(dialect(Version::V311, false));
    }
    dialects
}

/// Who a bridge is as a publisher: the same after a restart, since retained messages remember it.
fn origin(space: &str, name: &str) -> Origin {
    let bytes = "mqtt-bridge\0"
        .bytes()
        .chain(space.bytes())
        .chain([0])
        .chain(name.bytes());
    Origin(stable_hash(bytes) | 1)
}
