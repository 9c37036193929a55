//! The running server as the admin service sees it.
//!
//! The service is up before the log is recovered: until [`Backend::serve`] is called, everything but the probes is
//! answered with "recovering". Every request gets a session of its own at the shard it is about, so that one that waits
//! holds up no other, and one whose client hangs up leaves nothing behind.

mod bans;
mod metrics;
mod retained;
mod sessions;
mod watching;
mod wording;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use longtail::{Broker, Client, Longtail, Message};
use longtail_admin::shapes::{
    BanStatus, Batch, Body, BrowsedMessage, ConnectionStatus, GroupStatus, Health, Latency,
    ListenerStatus, Listing, LiveMessage, Published, Purged, RetainedMessage, RetainedStatus,
    SessionStatus, ShardStatus, Status, StreamStatus, SubscriptionStatus,
};
use longtail_admin::{
    AdminBackend, AdminError, ErrorKind, Metrics, NewMessage, Notation, Page, SessionFilter,
    StreamRef, SubscriptionFilter, Target,
};
use longtail_broker::auth::Authenticator;
use longtail_broker::message::Quality;
use longtail_edge::ConnectionId;
use longtail_engine as engine;
use longtail_engine::{
    Command, GroupConfig, Handle, Reply, Role, StreamConfig, StreamInfo, StreamName, Until, Wait,
};
use longtail_model::{Filter, GroupId, Link, Priority, Seq, ShardId, StreamId, Subject, Timestamp};
use tokio::sync::mpsc;

use super::lifecycle::Listening;
use super::process;
use crate::config::Settings;

type Answer<T> = Result<T, AdminError>;

/// Priority of messages that come without one, in the middle of what clients use.
const PRIORITY: Priority = Priority(1024);

/// Bytes of bodies in one answer; one message is always shown.
const BATCH_BYTES: u64 = 8 << 20;

/// Messages of a followed subject that wait for their reader; further ones are dropped and counted.
const FOLLOWED_MAX: usize = 1024;

/// Times that a search for messages in a sequence space of many streams is taken up again.
const SEARCHES_MAX: usize = 64;

/// What the admin service asks.
pub(super) struct Backend {
    data: String,
    durability: String,
    started_ms: u64,
    authenticator: Arc<Authenticator>,
    running: OnceLock<Serving>,
    draining: AtomicBool,
}

struct Serving {
    longtail: Arc<Longtail>,
    listening: Vec<Listening>,
}

impl Backend {
    /// A server that is recovering.
    pub(super) fn new(settings: &Settings, authenticator: Arc<Authenticator>) -> Self {
        Backend {
            data: settings.data.display().to_string(),
            durability: settings.durability.to_string(),
            started_ms: process::now_ms(),
            authenticator,
            running: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// From now on there is something to look at.
    pub(super) fn serve(&self, longtail: Arc<Longtail>, listening: Vec<Listening>) {
        // Called once; a second server would not be this one's.
        let _ = self.running.set(Serving {
            longtail,
            listening,
        });
    }

    /// From now on the server is not ready for new clients.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn serving(&self) -> Answer<&Serving> {
        self.running.get().ok_or_else(|| {
            AdminError::new(ErrorKind::Unavailable, "the server is recovering its log")
                .hint("wait until /readyz says yes")
        })
    }

    fn broker(&self) -> Answer<&Arc<Broker>> {
        Ok(self.serving()?.longtail.broker())
    }

    fn mqtt(&self) -> Answer<Option<&Arc<longtail_mqtt::Tenant>>> {
        Ok(self.serving()?.longtail.mqtt())
    }

    async fn find(&self, stream: &StreamRef) -> Answer<(StreamName, ShardId, StreamInfo)> {
        let name = StreamName::new(stream.space.as_str(), stream.name.as_str());
        match self.broker()?.find(&name).await.map_err(wording::broker)? {
            Some((shard, info)) => Ok((name, shard, info)),
            None => Err(AdminError::no_stream(stream)),
        }
    }

    /// Carries out a command about one stream at its shard.
    async fn at_stream(
        &self,
        stream: &StreamRef,
        command: impl FnOnce(StreamName) -> Command,
    ) -> Answer<Reply> {
        let (name, shard, _) = self.find(stream).await?;
        let client = self.broker()?.client(shard);
        match call(&client, command(name)).await?.reply {
            Reply::NotFound => Err(AdminError::no_stream(stream)),
            reply => Ok(reply),
        }
    }

    /// What a stream that does not exist yet is made of. In a space that a protocol fills, it is what that protocol
    /// would have created, so that its clients find it.
    fn new_stream(&self, name: &StreamName) -> Answer<Box<StreamConfig>> {
        self.check_space(&name.space)?;
        let tube = self.serving()?.longtail.beanstalk().and_then(|tenant| {
            (tenant.config().space == name.space).then(|| tenant.tube_config(&name.name))?
        });
        Ok(tube.unwrap_or_else(|| {
            Box::new(StreamConfig {
                group: Some(GroupConfig::default()),
                ..StreamConfig::default()
            })
        }))
    }

    fn check_space(&self, space: &str) -> Answer<()> {
        if self.authenticator.directory().space(space).is_some() {
            return Ok(());
        }
        let problem = format!("there is no space {space}");
        Err(AdminError::new(ErrorKind::NotFound, problem).hint("configure it in [[spaces]]"))
    }

    async fn publish_to_subject(
        &self,
        space: &str,
        subject: &str,
        message: NewMessage,
    ) -> Answer<Published> {
        let broker = self.broker()?;
        self.check_space(space)?;
        if message.priority.is_some() || message.delay_ms > 0 || message.ack_timeout_ms > 0 {
            return Err(AdminError::new(
                ErrorKind::Unsupported,
                "priority, delay_ms and ack_timeout_ms do not travel with a subject",
            )
            .hint("publish to a stream"));
        }
        let subject =
            Subject::parse_nats(subject).map_err(|error| wording::subject(subject, &error))?;
        let message = Arc::new(Message {
            // The answer says that the streams have it.
            quality: Quality::AtLeastOnce,
            ..Message::new(subject, message.body)
        });
        let published = broker
            .publish(space, message)
            .await
            .map_err(wording::broker)?;
        Ok(Published {
            seq: published.streams.first().map(|(_, _, seq)| seq.0),
        })
    }

    async fn publish_to_stream(
        &self,
        stream: &StreamRef,
        message: NewMessage,
    ) -> Answer<Published> {
        let broker = self.broker()?;
        let name = StreamName::new(stream.space.as_str(), stream.name.as_str());
        let (shard, create) = match broker.find(&name).await.map_err(wording::broker)? {
            Some((shard, _)) => (shard, None),
            None => {
                let config = self.new_stream(&name)?;
                (broker.placement(&name, &config.numbering), Some(config))
            }
        };
        // The open link keeps a stream that disappears when it is empty until the message is in it.
        let client = broker.client(shard);
        let link = Link(0);
        let open = Command::Open {
            link,
            name,
            create,
            role: Role::Producer,
        };
        if call(&client, open).await?.reply == Reply::NotFound {
            return Err(AdminError::no_stream(stream));
        }
        let publish = Command::Publish {
            to: engine::Target::Link(link),
            also: Vec::new(),
            message: engine::NewMessage {
                priority: message.priority.map_or(PRIORITY, Priority),
                delay_ms: message.delay_ms,
                ack_timeout_ms: message.ack_timeout_ms,
                payload: message.body,
                ..engine::NewMessage::default()
            },
        };
        match call(&client, publish).await?.reply {
            Reply::Published { seq, .. } => Ok(Published { seq: Some(seq.0) }),
            other => Err(wording::unexpected(&other)),
        }
    }
}

/// Carries out a command; a refusal is an error.
async fn call(client: &Client, command: Command) -> Answer<longtail_broker::client::Answer> {
    let answer = client.call(command).await.map_err(|_| wording::closed())?;
    longtail_broker::client::accepted(answer).map_err(|refusal| wording::refused(&refusal))
}

impl AdminBackend for Backend {
    fn health(&self) -> Health {
        let mut reasons = Vec::new();
        match self.running.get() {
            None => reasons.push("recovering".to_owned()),
            Some(serving) => {
                let broker = serving.longtail.broker();
                for (shard, trouble) in broker.troubles() {
                    reasons.push(format!("shard {shard}: {trouble}"));
                }
            }
        }
        if self.draining.load(Ordering::Acquire) {
            reasons.push("draining".to_owned());
        }
        Health {
            ready: reasons.is_empty(),
            reasons,
        }
    }

    async fn status(&self) -> Answer<Status> {
        let serving = self.serving()?;
        let broker = serving.longtail.broker();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: self.started_ms,
            uptime_ms: process::now_ms().saturating_sub(self.started_ms),
            data: self.data.clone(),
            durability: self.durability.clone(),
            health: self.health(),
            connections: serving.longtail.edge().connections().len() as u64,
            resident_bytes: process::resident_bytes(),
            ..Status::default()
        };
        status.listeners = serving
            .listening
            .iter()
            .map(|listening| ListenerStatus {
                protocol: listening.protocol.clone(),
                address: listening.address.to_string(),
                tls: listening.tls,
            })
            .collect();
        for (number, info) in broker.info().into_iter().enumerate() {
            status.streams += info.streams;
            status.totals.add(&(&info.totals).into());
            status.shards.push(ShardStatus {
                shard: u32::try_from(number).unwrap_or(u32::MAX),
                streams: info.streams,
                sessions: info.sessions,
                log_end: info.log_end.0,
                index_bytes: info.index_bytes,
                trouble: info.trouble,
            });
        }
        let commits = metrics::all_commits(broker);
        if commits.count() > 0 {
            status.latencies.push(Latency {
                operation: "commit".to_owned(),
                count: commits.count(),
                p50_us: commits.quantile_us(500),
                p99_us: commits.quantile_us(990),
                max_us: commits.max_us,
            });
        }
        Ok(status)
    }

    async fn streams(&self, space: Option<&str>, page: Page) -> Answer<Listing<StreamStatus>> {
        let broker = self.broker()?;
        let space: Option<Arc<str>> = space.map(Arc::from);
        let shards = broker.shards().count();
        let (first, mut after) = match page.after.as_deref() {
            None => (0, None),
            Some(cursor) => parse_cursor(cursor)?,
        };
        let mut items = Vec::new();
        for shard in first..shards {
            let client = broker.client(ShardId(shard));
            loop {
                let limit = u32::try_from(page.limit - items.len()).unwrap_or(u32::MAX);
                let describe = Command::DescribeStreams {
                    space: space.clone(),
                    after,
                    limit,
                };
                let reply = call(&client, describe).await?.reply;
                let Reply::StreamPage { streams, next } = reply else {
                    return Err(wording::unexpected(&reply));
                };
                items.extend(
                    streams
                        .iter()
                        .map(|(name, info)| StreamStatus::new(name, info)),
                );
                after = next;
                if items.len() >= page.limit {
                    let next = match next {
                        Some(stream) => Some(format!("{shard}.{}", stream.0)),
                        None => (shard + 1 < shards).then(|| format!("{}.0", shard + 1)),
                    };
                    return Ok(Listing { items, next });
                }
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(Listing { items, next: None })
    }

    async fn stream(&self, stream: &StreamRef) -> Answer<StreamStatus> {
        let (name, _, info) = self.find(stream).await?;
        Ok(StreamStatus::new(&name, &info))
    }

    async fn groups(&self, stream: &StreamRef) -> Answer<Vec<GroupStatus>> {
        let (name, shard, info) = self.find(stream).await?;
        let client = self.broker()?.client(shard);
        let reply = call(&client, Command::DescribeGroups { stream: name })
            .await?
            .reply;
        match reply {
            Reply::Groups(groups) => Ok(groups
                .into_iter()
                .map(|group| GroupStatus {
                    // Links are counted by stream, not by group: those of named groups are known when they wait.
                    consumers: if group.name.is_empty() {
                        info.consumers
                    } else {
                        group.waiting
                    },
                    name: group.name.to_string(),
                    ready: group.ready,
                    held: group.held,
                    delayed: group.delayed,
                    parked: group.parked,
                    waiting: group.waiting,
                })
                .collect()),
            Reply::NotFound => Err(AdminError::no_stream(stream)),
            other => Err(wording::unexpected(&other)),
        }
    }

    async fn browse(
        &self,
        stream: &StreamRef,
        from: u64,
        max: usize,
        wait: Duration,
    ) -> Answer<Batch> {
        let (name, shard, info) = self.find(stream).await?;
        let client = self.broker()?.client(shard);
        let mut from = Seq(from.max(info.first.0));
        let wait = match u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) {
            0 => Wait::No,
            ms => Wait::Millis(ms),
        };
        let mut searches = 0;
        let (seqs, shown) = loop {
            let read = Command::Read {
                name: name.clone(),
                from,
                max: u32::try_from(max).unwrap_or(u32::MAX),
                max_bytes: BATCH_BYTES,
                wait,
            };
            let answer = call(&client, read).await?;
            let (seqs, next) = match answer.reply {
                Reply::Batch { messages, next } => (messages, next),
                Reply::NotFound => return Err(AdminError::no_stream(stream)),
                other => return Err(wording::unexpected(&other)),
            };
            let moved = next > from;
            from = next;
            searches += 1;
            if !seqs.is_empty() || !moved || searches == SEARCHES_MAX {
                break (seqs, answer.messages);
            }
        };
        let mut messages = Vec::with_capacity(seqs.len());
        for ((seq, _), shown) in seqs.into_iter().zip(shown) {
            // One that cannot be read is left out here; the server's log says so.
            let Some(shown) = shown else { continue };
            let describe = Command::DescribeMessage {
                message: Handle::Group(GroupId(info.stream.0), seq),
            };
            let found = match call(&client, describe).await?.reply {
                Reply::MessageInfo(found) => Some(found),
                _ => None,
            };
            let priority = found
                .as_ref()
                .map_or(shown.priority, |found| found.priority);
            messages.push(BrowsedMessage {
                seq: seq.0,
                state: found.map(|found| wording::state(found.state).to_owned()),
                priority: priority.0,
                created_ms: shown.created.0,
                bytes: shown.payload.len() as u64,
                body: Body::new(&shown.payload),
            });
        }
        Ok(Batch {
            messages,
            next: from.0,
        })
    }

    async fn subscribe(&self, space: &str, subject: &str) -> Answer<mpsc::Receiver<LiveMessage>> {
        let broker = self.broker()?;
        self.check_space(space)?;
        let filter =
            Filter::parse_nats(subject).map_err(|error| wording::subject(subject, &error))?;
        let mut following = broker
            .subscribe(space, filter, FOLLOWED_MAX)
            .map_err(wording::broker)?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = following.recv() => message,
                    () = sender.closed() => return,
                };
                let live = LiveMessage {
                    subject: message.subject.to_dotted(),
                    dropped: following.take_dropped(),
                    body: Body::new(&message.payload),
                };
                if sender.send(live).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn publish(&self, target: Target, message: NewMessage) -> Answer<Published> {
        match target {
            Target::Stream(stream) => self.publish_to_stream(&stream, message).await,
            Target::Subject { space, subject } => {
                self.publish_to_subject(&space, &subject, message).await
            }
        }
    }

    async fn purge(&self, stream: &StreamRef) -> Answer<Purged> {
        match self
            .at_stream(stream, |stream| Command::Purge {
                stream,
                group: None,
                held: false,
            })
            .await?
        {
            Reply::Count(messages) => Ok(Purged { messages }),
            other => Err(wording::unexpected(&other)),
        }
    }

    async fn pause(&self, stream: &StreamRef, ms: u64) -> Answer<()> {
        match self
            .at_stream(stream, |stream| Command::Pause {
                stream,
                group: None,
                until: Until::Millis(ms),
                durable: false,
            })
            .await?
        {
            Reply::Done => Ok(()),
            other => Err(wording::unexpected(&other)),
        }
    }

    async fn connections(&self, page: Page) -> Answer<Listing<ConnectionStatus>> {
        let after = match page.after.as_deref() {
            None => None,
            Some(cursor) => Some(cursor.parse::<u64>().map_err(|_| bad_cursor(cursor))?),
        };
        let mut connections = self.serving()?.longtail.edge().connections();
        connections.retain(|connection| after.is_none_or(|after| connection.id.0 > after));
        connections.sort_by_key(|connection| connection.id);
        let more = connections.len() > page.limit;
        connections.truncate(page.limit);
        let next = connections
            .last()
            .filter(|_| more)
            .map(|connection| connection.id.to_string());
        let items = connections
            .into_iter()
            .map(|connection| ConnectionStatus {
                id: connection.id.0,
                protocol: connection.protocol.to_owned(),
                peer: connection.peer,
                account: None,
                age_ms: connection
                    .since
                    .elapsed()
                    .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                received_bytes: connection.bytes_in,
                sent_bytes: connection.bytes_out,
            })
            .collect();
        Ok(Listing { items, next })
    }

    async fn kick(&self, connection: u64) -> Answer<()> {
        if self
            .serving()?
            .longtail
            .edge()
            .kick(ConnectionId(connection))
        {
            Ok(())
        } else {
            Err(AdminError::new(
                ErrorKind::NotFound,
                format!("there is no connection {connection}"),
            ))
        }
    }

    async fn sessions(&self, filter: &SessionFilter, page: Page) -> Answer<Listing<SessionStatus>> {
        Ok(match self.mqtt()? {
            Some(tenant) => sessions::list(tenant, filter, &page),
            None => sessions::none(),
        })
    }

    async fn session(&self, id: &str) -> Answer<SessionStatus> {
        match self.mqtt()? {
            Some(tenant) => sessions::show(self.broker()?, tenant, id).await,
            None => Err(sessions::unknown(id)),
        }
    }

    async fn end_session(&self, id: &str, forget: bool) -> Answer<()> {
        match self.mqtt()? {
            Some(tenant) => sessions::end(tenant, id, forget),
            None => Err(sessions::unknown(id)),
        }
    }

    async fn bans(&self, page: Page) -> Answer<Listing<BanStatus>> {
        Ok(match self.mqtt()? {
            Some(tenant) => bans::list(tenant, &page),
            None => sessions::none(),
        })
    }

    async fn ban(
        &self,
        kind: &str,
        value: &str,
        for_ms: Option<u64>,
        reason: &str,
    ) -> Answer<BanStatus> {
        let tenant = self.mqtt()?.ok_or_else(bans::unspoken)?;
        let now = self.broker()?.clock().now();
        let until = for_ms.map_or(Timestamp::NEVER, |ms| now.plus_millis(ms));
        bans::set(tenant, kind, value, until, reason).await
    }

    async fn unban(&self, kind: &str, value: &str) -> Answer<()> {
        let tenant = self.mqtt()?.ok_or_else(bans::unspoken)?;
        bans::remove(tenant, kind, value).await
    }

    async fn subscriptions(
        &self,
        filter: &SubscriptionFilter,
        page: Page,
    ) -> Answer<Listing<SubscriptionStatus>> {
        match self.mqtt()? {
            Some(tenant) => sessions::subscriptions(tenant, filter, &page),
            None => Ok(sessions::none()),
        }
    }

    async fn retained(
        &self,
        space: &str,
        filter: Option<&str>,
        notation: Notation,
        page: Page,
    ) -> Answer<Listing<RetainedStatus>> {
        self.check_space(space)?;
        retained::list(self.broker()?, space, filter, notation, &page)
    }

    async fn retained_message(
        &self,
        space: &str,
        subject: &str,
        notation: Notation,
    ) -> Answer<RetainedMessage> {
        self.check_space(space)?;
        retained::show(self.broker()?, space, subject, notation)
    }

    async fn forget_retained(&self, space: &str, subject: &str, notation: Notation) -> Answer<()> {
        self.check_space(space)?;
        retained::forget(self.broker()?, space, subject, notation).await
    }

    async fn metrics(&self, streams_max: usize) -> Answer<Metrics> {
        let mut metrics = Metrics {
            ready: self.health().ready,
            uptime_seconds: process::seconds(
                process::now_ms().saturating_sub(self.started_ms),
                1e3,
            ),
            process: process::metrics(self.started_ms),
            ..Metrics::default()
        };
        if let Some(serving) = self.running.get() {
            metrics::fill(&mut metrics, &serving.longtail);
            let directory = self.authenticator.directory();
            metrics.spaces = metrics::of_spaces(serving.longtail.broker(), directory.spaces());
            let page = Page {
                after: None,
                limit: streams_max,
            };
            if streams_max > 0 {
                metrics.streams = self.streams(None, page).await?.items;
            }
            metrics::sum_up_the_rest(&mut metrics);
        }
        Ok(metrics)
    }
}

fn bad_cursor(cursor: &str) -> AdminError {
    AdminError::new(
        ErrorKind::Invalid,
        format!("`{cursor}` is not the `next` of a page"),
    )
}

/// `SHARD.STREAM`: where a listing of streams goes on.
fn parse_cursor(cursor: &str) -> Answer<(u16, Option<StreamId>)> {
    let parsed = cursor.split_once('.').and_then(|(shard, stream)| {
        let (shard, stream) = (shard.parse().ok()?, stream.parse().ok()?);
        Some((shard, Some(StreamId(stream))))
    });
    parsed.ok_or_else(|| bad_cursor(cursor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};
    use longtail_broker::auth::{Directory, ThrottleLimits};

    fn backend() -> Backend {
        let settings = load(&Sources::default()).unwrap().settings;
        let authenticator = Authenticator::new(Directory::default(), ThrottleLimits::default());
        Backend::new(&settings, Arc::new(authenticator))
    }

    fn running() -> Backend {
        let backend = backend();
        let longtail = Longtail::builder()
            .in_memory()
            .beanstalk("127.0.0.1:0".parse().unwrap())
            .start()
            .unwrap();
        backend.serve(Arc::new(longtail), Vec::new());
        backend
    }

    fn wait<T>(answer: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(answer)
    }

    fn stream(name: &str) -> StreamRef {
        StreamRef {
            space: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    fn publish(backend: &Backend, name: &str, body: &'static str) -> Answer<Published> {
        let message = NewMessage {
            body: body.into(),
            ..NewMessage::default()
        };
        wait(backend.publish(Target::Stream(stream(name)), message))
    }

    #[test]
    fn before_the_log_is_recovered_only_the_probes_answer() {
        let backend = backend();
        assert_eq!(backend.health().reasons, ["recovering"]);
        let error = wait(backend.status()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(wait(backend.metrics(10)).is_ok_and(|metrics| !metrics.ready));
    }

    #[test]
    fn a_draining_server_is_not_ready() {
        let backend = running();
        assert!(backend.health().ready);
        backend.drain();
        assert_eq!(backend.health().reasons, ["draining"]);
    }

    #[test]
    fn messages_are_published_browsed_and_purged() {
        let backend = running();
        let first = publish(&backend, "mail", "one").unwrap().seq.unwrap();
        publish(&backend, "other", "between").unwrap();
        publish(&backend, "mail", "two").unwrap();
        let batch = wait(backend.browse(&stream("mail"), 0, 10, Duration::ZERO)).unwrap();
        let bodies: Vec<_> = batch.messages.iter().map(|m| m.body.to_bytes()).collect();
        assert_eq!(bodies, [Some(b"one".to_vec()), Some(b"two".to_vec())]);
        assert_eq!(batch.messages[0].seq, first);
        assert_eq!(batch.messages[0].state.as_deref(), Some("ready"));
        let rest = wait(backend.browse(&stream("mail"), batch.next, 10, Duration::ZERO)).unwrap();
        assert!(rest.messages.is_empty());
        assert_eq!(wait(backend.purge(&stream("mail"))).unwrap().messages, 2);
        let error = wait(backend.purge(&stream("mail"))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "an empty tube is gone");
    }

    #[test]
    fn a_subject_reaches_its_followers() {
        let backend = running();
        let publish = |subject: &str, delay_ms| {
            let target = Target::Subject {
                space: "default".to_owned(),
                subject: subject.to_owned(),
            };
            let body = "21".into();
            let message = NewMessage {
                body,
                delay_ms,
                ..NewMessage::default()
            };
            backend.publish(target, message)
        };
        let live = wait(async {
            let mut follower = backend
                .subscribe("default", "sensors.*.temp")
                .await
                .unwrap();
            assert_eq!(publish("sensors.1.temp", 0).await.unwrap().seq, None);
            follower.recv().await.unwrap()
        });
        assert_eq!(live.subject, "sensors.1.temp");
        assert_eq!(live.body, Body::Body("21".to_owned()));
        let kind = |answer: Answer<Published>| answer.unwrap_err().kind;
        assert_eq!(kind(wait(publish("a..b", 0))), ErrorKind::Invalid);
        assert_eq!(kind(wait(publish("a.b", 5))), ErrorKind::Unsupported);
    }

    #[test]
    fn a_space_that_is_not_configured_gets_no_streams() {
        let backend = running();
        let message = NewMessage::default();
        let nowhere = StreamRef {
            space: "nowhere".to_owned(),
            name: "x".to_owned(),
        };
        let error = wait(backend.publish(Target::Stream(nowhere), message)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
    }

    #[test]
    fn listings_go_page_by_page_over_all_shards() {
        let backend = running();
        for name in ["a", "b", "c", "name with spaces", "another one"] {
            publish(&backend, name, "x").unwrap();
        }
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let page = Page { after, limit: 2 };
            let listing = wait(backend.streams(None, page)).unwrap();
            assert!(listing.items.len() <= 2);
            names.extend(listing.items.into_iter().map(|stream| stream.name));
            after = listing.next;
            if after.is_none() {
                break;
            }
        }
        names.sort();
        assert_eq!(
            names,
            ["a", "another one", "b", "c", "default", "name with spaces"]
        );
        let page = Page {
            after: Some("rubbish".to_owned()),
            limit: 2,
        };
        let error = wait(backend.streams(None, page)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }

    #[test]
    fn metrics_sum_up_the_streams_beyond_the_limit() {
        let backend = running();
        for name in ["a", "b", "c"] {
            publish(&backend, name, "x").unwrap();
        }
        let metrics = wait(backend.metrics(2)).unwrap();
        assert_eq!(metrics.streams.len(), 2);
        let listed: u64 = metrics.streams.iter().map(|s| s.counts.ready).sum();
        assert_eq!(listed + metrics.other_streams.ready, 3);
        let appended: u64 = metrics
            .shards
            .iter()
            .map(|shard| shard.appended_total)
            .sum();
        assert_eq!(appended, 3);
        assert_eq!(metrics.edge.len(), 1);
    }
}
