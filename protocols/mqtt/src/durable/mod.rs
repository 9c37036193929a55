//! What a crash leaves standing: sessions with their subscriptions, and the messages that wait for them.
//!
//! ```text
//! registry ──▶ records ──▶ last values $mqtt/sessions           (CONNECT, SUBSCRIBE, UNSUBSCRIBE, the end)
//! session  ──▶ feed ─────▶ streams $mqtt/f/<filter>, one group a session
//! router   ──▶ Target::Stream of each filter that some session has, whatever their number
//! PUBLISH  ──▶ incoming ─▶ stream $mqtt/in, until PUBREL        (QoS 2)
//! ```
//!
//! Everything lies in one shard, so that what has to happen in order is in one log. [`link`] is the way of a connection
//! to that shard and back, [`records`] what is written of a session, [`incoming`] what awaits its PUBREL. At the start
//! [`Durable::open`] reads all of it, and removes what no session names: a crash between two steps leaves that behind.

pub(crate) mod incoming;
pub(crate) mod link;
pub(crate) mod recent;
pub(crate) mod records;

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use longtail_broker::client::Client;
use longtail_broker::ephemeral::{SpaceRoutes, StreamOptions, Target, TargetOptions};
use longtail_broker::last_values::{Done, LastValues};
use longtail_broker::router::Subscription;
use longtail_broker::{Broker, BrokerError, Space};
use longtail_engine::config::GroupName;
use longtail_engine::runtime::{Shards, Sink};
use longtail_engine::{
    Command, Effect, Handle, Message, Numbering, Only, Refusal, Reply, StreamName, Token,
};
use longtail_model::{DollarRule, Durability, Filter, SessionId, ShardId, StreamId};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::codec::PacketId;
use crate::session::feed::{Duty, DutyChange, Stores, group_of};
use crate::session::kept::InFlight;
use crate::session::{Held, State, Subscriptions};
use incoming::{Entry, Incoming};
use recent::Recent;
use records::{Record, SessionRecord};

/// The stream with the last values.
const SESSIONS: &str = "$mqtt/sessions";
/// Before a filter.
const FILTER: &str = "$mqtt/f/";
/// Before the fingerprint of one that is too long for a name.
const LONG_FILTER: &str = "$mqtt/h/";

/// Streams that are described in one go.
const PAGE: u32 = 1_000;

/// A key, and what was read of its record at the start; nothing of what is written later.
type Kept = (Arc<str>, Option<Arc<Record>>);

/// The durable side of a space's sessions.
pub(crate) struct Durable {
    shards: Arc<dyn Shards>,
    home: ShardId,
    space: Arc<Space>,
    /// Its session at the shard, for what is done when no client is there.
    keeper: SessionId,
    /// `None`: nothing outlives the process.
    records: Option<LastValues<Kept>>,
    /// The QoS 2 messages that await their PUBREL.
    incoming: Incoming,
    /// What was read of the filters' streams of late.
    recent: Recent,
    /// The filters that have a stream, by their text.
    filters: Mutex<HashMap<Box<str>, FilterStream>>,
    /// Those filters by their streams.
    of_streams: Mutex<HashMap<StreamId, Filter>>,
}

/// The stream of one filter.
#[derive(Default)]
struct FilterStream {
    /// Subscriptions with a group in it.
    sessions: usize,
    /// Those of them that are members of a share, by its name.
    shares: HashMap<Box<str>, usize>,
    /// Known when it was opened.
    stream: Option<StreamId>,
}

impl FilterStream {
    fn add(&mut self, share: Option<&str>) {
        self.sessions += 1;
        if let Some(share) = share {
            *self.shares.entry(Box::from(share)).or_default() += 1;
        }
    }

    /// Whether the group goes.
    fn remove(&mut self, share: Option<&str>) -> bool {
        let Some(share) = share else {
            self.sessions = self.sessions.saturating_sub(1);
            return true;
        };
        let Some(members) = self.shares.get_mut(share) else {
            return false;
        };
        self.sessions = self.sessions.saturating_sub(1);
        *members = members.saturating_sub(1);
        if *members > 0 {
            return false;
        }
        self.shares.remove(share);
        true
    }
}

/// A session that was found at the start.
pub(crate) struct Restored {
    pub(crate) client_id: Arc<str>,
    pub(crate) record: SessionRecord,
    pub(crate) state: State,
}

impl Durable {
    /// Reads what there is of a space. Blocks.
    pub(crate) fn open(
        broker: &Broker,
        space: &Arc<Space>,
    ) -> Result<(Self, Vec<Restored>), BrokerError> {
        let name = StreamName::new(Arc::clone(&space.name), SESSIONS);
        let home = broker.placement(&name, &Numbering::Own);
        let mut sessions = Vec::new();
        let mut subscriptions: HashMap<u64, Subscriptions> = HashMap::new();
        let mut flights: HashMap<u64, Vec<InFlight>> = HashMap::new();
        let mut duties: HashMap<u64, Vec<Duty>> = HashMap::new();
        let records = if broker.durability() == Durability::Memory {
            None
        } else {
            let read = |key: &str, record| {
                let read = records::read(key, &record)?;
                Some((Arc::from(key), Some(Arc::new(read))))
            };
            let taken_back = Box::new(|key: &str| {
                tracing::warn!(key, "what was to be kept of an MQTT session was refused");
            });
            let records: LastValues<Kept> = LastValues::open(broker, &name, read, taken_back)?;
            records.for_each(|(_, record)| match record.as_deref() {
                Some(Record::Session(client_id, session)) => {
                    sessions.push((Arc::clone(client_id), session.clone()));
                }
                Some(Record::Subscription(number, text, held)) => {
                    let of_session = subscriptions.entry(*number).or_default();
                    of_session.insert(text.clone(), held.clone());
                }
                Some(Record::InFlight(number, flight)) => {
                    flights.entry(*number).or_default().push(flight.clone());
                }
                Some(Record::Duty(number, duty)) => {
                    duties.entry(*number).or_default().push(*duty);
                }
                None => {}
            });
            Some(records)
        };
        let client = broker.client(home);
        let shards = broker.shards();
        let incoming = Incoming::open(&client, Arc::clone(&shards), home, &space.name)?;
        let keeper = shards.attach(home, Arc::new(Keeper));
        let durable = Durable {
            shards,
            home,
            space: Arc::clone(space),
            keeper,
            records,
            incoming,
            recent: Recent::default(),
            filters: Mutex::default(),
            of_streams: Mutex::default(),
        };
        let mut restored: Vec<_> = sessions
            .into_iter()
            .map(|(client_id, record)| Restored {
                client_id,
                state: State::restored(
                    record.number,
                    subscriptions.remove(&record.number).unwrap_or_default(),
                ),
                record,
            })
            .collect();
        for session in &mut restored {
            for flight in flights.remove(&session.record.number).into_iter().flatten() {
                session.state.restore_in_flight(flight);
            }
        }
        // Of sessions that are gone.
        for (number, left) in subscriptions {
            for text in left.keys() {
                durable.forget_subscription(number, text, Box::new(|_| ()));
            }
        }
        for (number, left) in flights {
            for flight in left {
                durable.forget_in_flight(number, flight.id);
            }
        }
        for session in &mut restored {
            for duty in duties.remove(&session.record.number).unwrap_or_default() {
                session.state.restore_duty(&duty);
                // A crash may have come between what was written and the acknowledgement to the share: nobody else is
                // to get it.
                durable.keep_house(Command::Discard {
                    message: Handle::Group(duty.group, duty.seq),
                });
            }
        }
        for (number, left) in duties {
            for duty in left {
                durable.record_duty(number, &DutyChange::Done(duty.id));
            }
        }
        durable.incoming.restore(&client, &mut restored)?;
        durable.restore_streams(&client, &restored)?;
        durable.shards.run();
        Ok((durable, restored))
    }

    /// Finds the streams of the filters, routes to them, and removes what no session names.
    fn restore_streams(&self, client: &Client, sessions: &[Restored]) -> Result<(), BrokerError> {
        let mut groups: HashMap<StreamName, (Filter, HashSet<GroupName>)> = HashMap::new();
        let mut filters = self.filters.lock();
        for session in sessions {
            let held = session.state.subscriptions.values();
            for held in held.filter(|held| held.has_stream()) {
                let entry = groups
                    .entry(self.stream_name(&held.filter))
                    .or_insert_with(|| (held.filter.clone(), HashSet::new()));
                entry.1.insert(held.stream_group(session.record.number));
                let stream = filters.entry(Box::from(held.filter.as_str()));
                stream.or_default().add(held.group.as_deref());
            }
        }
        drop(filters);
        let mut after = None;
        loop {
            let describe = Command::DescribeStreams {
                space: Some(Arc::clone(&self.space.name)),
                after,
                limit: PAGE,
            };
            let Reply::StreamPage { streams, next } = client.call(describe).wait()?.reply else {
                return Err(BrokerError::Unexpected("no page of streams".to_owned()));
            };
            for (name, info) in streams {
                if !name.name.starts_with(FILTER) && !name.name.starts_with(LONG_FILTER) {
                    continue;
                }
                let Some((filter, named)) = groups.get(&name) else {
                    self.keep_house(Command::Delete {
                        name,
                        only: Only::default(),
                    });
                    continue;
                };
                self.opened(filter, info.stream);
                let describe = Command::DescribeGroups {
                    stream: name.clone(),
                };
                if let Reply::Groups(found) = client.call(describe).wait()?.reply {
                    for group in found {
                        if !named.contains(&group.name) {
                            self.keep_house(Command::DeleteGroup {
                                stream: name.clone(),
                                group: group.name,
                            });
                        }
                    }
                }
            }
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// The QoS 2 messages that await their PUBREL.
    pub(crate) fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// What was read of the filters' streams of late.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Where a session keeps what is no stream's of a filter.
    pub(crate) fn stores(&self) -> Stores {
        Stores {
            incoming: self.incoming.stream(),
            has_records: self.records.is_some(),
        }
    }

    /// The shard of everything durable here.
    pub(crate) fn home(&self) -> ShardId {
        self.home
    }

    fn keep_house(&self, command: Command) {
        self.shards
            .enqueue(self.home, self.keeper, &mut vec![(0, command)]);
    }

    /// Has the shards carry out what is queued. No lock may be held.
    pub(crate) fn run(&self) {
        self.shards.run();
    }

    /// The name of a filter's stream.
    pub(crate) fn stream_name(&self, filter: &Filter) -> StreamName {
        let text = filter.as_str();
        let name = if FILTER.len() + text.len() <= StreamName::MAX {
            [FILTER, text].concat()
        } else {
            let hash = Sha256::digest(text.as_bytes());
            let hex = hash.iter().map(|byte| format!("{byte:02x}"));
            [LONG_FILTER, &hex.collect::<String>()].concat()
        };
        StreamName::new(Arc::clone(&self.space.name), name)
    }

    /// One session more has a group in the stream of a filter, its own or that of a share. `queue` queues what makes
    /// stream and group, and is called in the order in which they come and go.
    pub(crate) fn acquire(
        &self,
        filter: &Filter,
        share: Option<&str>,
        queue: impl FnOnce(&StreamName),
    ) {
        let mut filters = self.filters.lock();
        let entry = filters.entry(Box::from(filter.as_str()));
        entry.or_default().add(share);
        queue(&self.stream_name(filter));
    }

    /// The stream of a filter is known: messages go there from now on.
    pub(crate) fn opened(&self, filter: &Filter, stream: StreamId) {
        let mut filters = self.filters.lock();
        let Some(entry) = filters.get_mut(filter.as_str()) else {
            return;
        };
        if entry.stream.is_some_and(|known| known >= stream) {
            // Of an earlier life of the filter, or known.
            return;
        }
        let router = &self.space.router;
        let mut of_streams = self.of_streams.lock();
        if let Some(old) = entry.stream.replace(stream) {
            router.unsubscribe(filter, Target::Stream(self.home, old), None);
            of_streams.remove(&old);
        }
        of_streams.insert(stream, filter.clone());
        drop(of_streams);
        let options = StreamOptions {
            assured_only: true,
            ..StreamOptions::default()
        };
        let subscription = Subscription {
            options: TargetOptions::Stream(options),
            dollar: DollarRule::Hide,
            group: None,
        };
        let target = Target::Stream(self.home, stream);
        if let Err(error) = router.subscribe(filter, target, subscription) {
            entry.stream = None;
            tracing::error!(filter = filter.as_str(), %error, "messages do not reach the stream of a filter");
        }
    }

    /// The filters whose streams are among `routes`; `None`: there are none.
    pub(crate) fn filters_of(&self, routes: &SpaceRoutes) -> Option<Arc<[Filter]>> {
        let of_streams = self.of_streams.lock();
        let found = routes.leading().iter().filter_map(|route| match route.key {
            Target::Stream(shard, stream) if shard == self.home => of_streams.get(&stream),
            _ => None,
        });
        let found: Vec<Filter> = found.cloned().collect();
        (!found.is_empty()).then(|| found.into())
    }

    /// Whether messages of a filter reach its stream.
    pub(crate) fn is_routed(&self, filter: &Filter) -> bool {
        let filters = self.filters.lock();
        let entry = filters.get(filter.as_str());
        entry.is_some_and(|entry| entry.stream.is_some())
    }

    /// A session has no group in the stream of a filter any more; the last member takes that of a share along, and the
    /// last session the stream.
    pub(crate) fn release(&self, filter: &Filter, number: u64, share: Option<&str>) {
        let mut filters = self.filters.lock();
        let Some(entry) = filters.get_mut(filter.as_str()) else {
            return;
        };
        let name = self.stream_name(filter);
        if entry.remove(share) {
            self.keep_house(Command::DeleteGroup {
                stream: name.clone(),
                group: group_of(number, share),
            });
        }
        if entry.sessions > 0 {
            return;
        }
        if let Some(stream) = entry.stream {
            let target = Target::Stream(self.home, stream);
            self.space.router.unsubscribe(filter, target, None);
            self.of_streams.lock().remove(&stream);
        }
        filters.remove(filter.as_str());
        self.keep_house(Command::Delete {
            name,
            only: Only::default(),
        });
    }

    /// Writes what is to be known of a session. Only queues. `false`: there is no log, and `done` will not be called.
    pub(crate) fn record(&self, client_id: &str, record: &SessionRecord, done: Done) -> bool {
        let Some(records) = &self.records else {
            return false;
        };
        let key = records::session_key(client_id);
        records.set((key, None), record.encode(), done);
        true
    }

    /// Forgets a session. Only queues.
    pub(crate) fn forget(&self, client_id: &str) {
        if let Some(records) = &self.records {
            let _ = records.remove(&records::session_key(client_id), Box::new(|_| ()));
        }
    }

    /// Writes a subscription, as [`Durable::record`]; nothing of a session that ends with its connection.
    pub(crate) fn record_subscription(
        &self,
        number: u64,
        text: &str,
        held: &Held,
        done: Done,
    ) -> bool {
        let Some(records) = self.records.as_ref().filter(|_| number != 0) else {
            return false;
        };
        let key = records::subscription_key(number, text);
        records.set((key, None), records::encode_subscription(text, held), done);
        true
    }

    /// Forgets a subscription, as [`Durable::record`].
    pub(crate) fn forget_subscription(&self, number: u64, text: &str, done: Done) -> bool {
        let Some(records) = self.records.as_ref().filter(|_| number != 0) else {
            return false;
        };
        records.remove(&records::subscription_key(number, text), done)
    }

    /// Writes that a message is in flight to a session, as [`Durable::record`].
    pub(crate) fn record_in_flight(&self, number: u64, flight: &InFlight, done: Done) -> bool {
        let Some(records) = &self.records else {
            return false;
        };
        let key = records::in_flight_key(number, flight.id);
        records.set((key, None), records::encode_in_flight(flight), done);
        true
    }

    /// Forgets that one is. Only queues.
    pub(crate) fn forget_in_flight(&self, number: u64, id: PacketId) {
        if let Some(records) = &self.records {
            let _ = records.remove(&records::in_flight_key(number, id), Box::new(|_| ()));
        }
    }

    /// Writes that a session has a duty, or has done it. Only queues, and waits for nothing: what follows in the log is
    /// not durable before this is.
    pub(crate) fn record_duty(&self, number: u64, change: &DutyChange) {
        let Some(records) = self.records.as_ref().filter(|_| number != 0) else {
            return;
        };
        match change {
            DutyChange::Taken(duty) => {
                let done = Box::new(|outcome: Result<(), Refusal>| {
                    if let Err(refusal) = outcome {
                        tracing::warn!(%refusal, "that a PUBREL is due is known in memory only");
                    }
                });
                let key = records::duty_key(number, duty.id);
                records.set((key, None), records::encode_duty(duty), done);
            }
            DutyChange::Done(id) => {
                let _ = records.remove(&records::duty_key(number, *id), Box::new(|_| ()));
            }
        }
    }

    /// Removes everything that a session has beside its own record. Only queues.
    pub(crate) fn discard(&self, state: &State) {
        for seq in state.incoming().filter_map(Entry::give_up) {
            self.incoming.remove(seq);
        }
        for id in state.kept() {
            self.forget_in_flight(state.number, id);
        }
        for id in state.duties() {
            self.record_duty(state.number, &DutyChange::Done(id));
        }
        for (text, held) in state.subscriptions.iter() {
            self.forget_subscription(state.number, text, Box::new(|_| ()));
            if held.is_counted {
                self.release(&held.filter, state.number, held.group.as_deref());
            }
        }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        self.shards.detach(self.home, self.keeper);
    }
}

/// Where the answers to what nobody waits for go.
struct Keeper;

impl Sink for Keeper {
    fn deliver(&self, effect: &Effect, _messages: &[Option<Message<'_>>]) {
        if let Effect::Reply(_, Reply::Refused(refusal)) = effect {
            tracing::warn!(%refusal, "what an MQTT session has left cannot be removed");
        }
    }

    fn flush(&self) {}
}

/// Commands of one session.
pub(crate) type Commands = Vec<(Token, Command)>;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use longtail_broker::BrokerConfig;
    use longtail_broker::ephemeral::LiveOptions;
    use longtail_engine::{NewMessage, Target};
    use longtail_model::Seq;

    use super::*;
    use crate::session::feed::{group_config, stream_config};

    /// The durable sessions of a data directory.
    fn open(dir: &Path) -> (Arc<Broker>, Durable, Vec<Restored>) {
        let broker = Broker::open(BrokerConfig::at(dir)).unwrap();
        let space = broker.space("default").unwrap();
        let (durable, restored) = Durable::open(&broker, &space).unwrap();
        (broker, durable, restored)
    }

    fn call(broker: &Broker, durable: &Durable, command: Command) -> Reply {
        let answer = broker.client(durable.home).call(command).wait();
        answer.unwrap().reply
    }

    #[test]
    fn a_crash_between_a_duty_and_its_acknowledgement_gives_the_message_to_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let (broker, durable, _) = open(dir.path());
        let held = Held {
            filter: Filter::parse_mqtt("f").unwrap(),
            group: Some("g".into()),
            options: LiveOptions {
                not_assured: true,
                ..LiveOptions::default()
            },
            is_exclusive: false,
            is_counted: true,
        };
        let number = 5;
        let record = SessionRecord {
            number,
            expiry_s: 3600,
            ..SessionRecord::default()
        };
        assert!(durable.record("c", &record, Box::new(|_| ())));
        assert!(durable.record_subscription(number, "$share/g/f", &held, Box::new(|_| ())));
        let name = durable.stream_name(&held.filter);
        let group = held.stream_group(number);
        let describe = || Command::DescribeGroups {
            stream: name.clone(),
        };
        let define = Command::Define {
            name: name.clone(),
            config: Box::new(stream_config()),
        };
        assert_eq!(call(&broker, &durable, define), Reply::Done);
        let define = Command::DefineGroup {
            stream: name.clone(),
            group: Arc::clone(&group),
            config: Box::new(group_config()),
        };
        assert_eq!(call(&broker, &durable, define), Reply::Done);
        let Reply::StreamInfo(stream) = call(
            &broker,
            &durable,
            Command::DescribeStream { name: name.clone() },
        ) else {
            panic!("no stream");
        };
        let publish = || Command::Publish {
            to: Target::Stream(stream.stream),
            also: Vec::new(),
            message: NewMessage::default(),
        };
        for _ in 0..2 {
            let reply = call(&broker, &durable, publish());
            assert!(matches!(reply, Reply::Published { .. }));
        }
        let Reply::Groups(groups) = call(&broker, &durable, describe()) else {
            panic!("no groups");
        };
        assert_eq!(
            groups.iter().map(|group| group.ready).collect::<Vec<_>>(),
            [2]
        );
        // The first message was with a client of this session, which has sent PUBREC.
        let duty = Duty {
            id: crate::codec::PacketId::MIN,
            send: 3,
            group: groups[0].group,
            seq: Seq(1),
        };
        durable.record_duty(number, &DutyChange::Taken(duty));
        let gone = Duty {
            id: crate::codec::PacketId::MAX,
            ..duty
        };
        durable.record_duty(number + 1, &DutyChange::Taken(gone));
        durable.run();
        assert!(matches!(
            call(&broker, &durable, publish()),
            Reply::Published { .. }
        ));
        drop((durable, broker));

        let (broker, durable, restored) = open(dir.path());
        assert_eq!(restored.len(), 1);
        let duties: Vec<_> = restored[0].state.duties().collect();
        assert_eq!(duties, [duty.id], "one that no session names is gone");
        let Reply::Groups(groups) = call(&broker, &durable, describe()) else {
            panic!("no groups");
        };
        assert_eq!(groups[0].ready, 2, "the first is not for another member");
        durable.record_duty(number, &DutyChange::Done(duty.id));
        durable.run();
        assert!(matches!(
            call(&broker, &durable, publish()),
            Reply::Published { .. }
        ));
        drop((durable, broker));
        let (_, durable, restored) = open(dir.path());
        assert_eq!(restored[0].state.duties().count(), 0);
        let records = durable.records.as_ref().unwrap();
        assert_eq!(records.len(), 2, "of the session and its subscription");
    }

    #[test]
    fn the_last_member_takes_a_shares_group_along() {
        let mut stream = FilterStream::default();
        stream.add(None);
        for share in ["g", "h", "g"] {
            stream.add(Some(share));
        }
        assert!(!stream.remove(Some("g")));
        assert!(stream.remove(Some("h")));
        assert!(!stream.remove(Some("h")), "nobody was left");
        assert!(stream.remove(None), "a session's own goes with it");
        assert!(stream.remove(Some("g")));
        assert_eq!(stream.sessions, 0);
        assert!(stream.shares.is_empty());
    }
}
