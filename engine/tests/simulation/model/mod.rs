//! The reference: what a shard must answer, worked out the naive way.
//!
//! Every message of every group is one entry of a map that says where it stands; the head of a group is found by looking
//! at all of them. Beside the present state each entry keeps what a restart may bring back ([`Logged`]).

mod dead;
mod shrink;
mod stream;
mod take;
mod time;
mod transact;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use longtail_engine::{
    Command, Counts, Credit, Effect, GroupConfig, Handle, Refusal, Reply, Role, StreamConfig,
    StreamName, Target, Token, Unmet,
};
use longtail_model::{ConsumerTag, Durability, GroupId, Lsn, Seq, SessionId, StreamId};
use slab::Slab;

/// Where a message stands in a group. It stands nowhere once the group has settled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Ready,
    Delayed(u64),
    /// In the order of tickets.
    Parked(u64),
    /// By number of the hold.
    Held(u64),
}

/// A state that a restart may bring back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    pub place: Place,
    pub priority: u32,
    pub delay_ms: u64,
    pub counts: Counts,
    pub mark: u64,
}

#[derive(Clone, Debug)]
pub struct Standing {
    pub now: Logged,
    /// What the log says, and what checkpoints say that are younger than the last event.
    pub logged: Vec<Logged>,
}

#[derive(Clone, Debug)]
pub struct Group {
    pub id: u64,
    pub name: String,
    pub config: GroupConfig,
    pub from: u64,
    pub messages: BTreeMap<u64, Standing>,
    /// The most urgent first, then the one that has waited longest.
    pub waiters: BTreeMap<(i64, u64), (usize, ConsumerTag)>,
    pub pause: Option<Pause>,
    delay_timer: Option<Alarm>,
}

/// Nothing is delivered until `end`, which is `u64::MAX` for ever.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    pub end: u64,
    pub length_ms: u64,
    pub durable: bool,
    timer: Option<TimerKey>,
}

impl Pause {
    pub fn left_ms(&self, now: u64) -> u64 {
        match self.end {
            u64::MAX => u64::MAX,
            end => end.saturating_sub(now),
        }
    }
}

/// A message as it was published.
#[derive(Clone, Debug)]
pub struct Message {
    pub created: u64,
    pub priority: u32,
    pub delay_ms: u64,
    pub ack_timeout_ms: u64,
    pub expires: Option<u64>,
    /// What is read of it.
    pub shown: Shown,
    /// What a dead letter was, and in which group.
    pub copy_of: Option<At>,
    /// Names of the streams that a dead letter came through.
    pub through: Vec<String>,
}

/// What a reader sees of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub subject: bytes::Bytes,
    pub id: bytes::Bytes,
    pub key: u64,
    /// Bytes of headers.
    pub headers: usize,
    pub body: bytes::Bytes,
}

impl Message {
    pub fn bytes(&self) -> u64 {
        let shown = &self.shown;
        (shown.subject.len() + shown.id.len() + shown.headers + shown.body.len()) as u64
    }
}

#[derive(Clone, Debug)]
pub struct Stream {
    pub id: u64,
    pub name: StreamName,
    pub config: StreamConfig,
    pub level: Durability,
    /// Which sequence space.
    pub space: Space,
    /// Whether a restart brings it back.
    pub defined: bool,
    /// The default group first, if there is one.
    pub groups: Vec<Group>,
    pub pause: Option<Pause>,
    pub pauses: u64,
    pub messages: BTreeMap<u64, Message>,
    /// When to look at which message's expiry, and the time it was published with.
    pub expiry: BTreeMap<(u64, u64), ()>,
    expiry_timer: Option<Alarm>,
    age_timer: Option<Alarm>,
    pub producers: u64,
    pub consumers: u64,
    pub appended: u64,
    pub removed: u64,
    pub readers: Vec<usize>,
}

/// A sequence space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    Own(u64),
    Shared(StreamName),
}

/// The last number given, and the last that is in the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Last {
    pub given: u64,
    pub logged: u64,
}

/// Everything that outlives sessions.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Shared with the snapshots until they change.
    pub streams: BTreeMap<u64, Rc<Stream>>,
    pub spaces: BTreeMap<Space, Last>,
    pub documents: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug)]
pub struct Hold {
    pub stream: u64,
    pub group: u64,
    pub seq: u64,
    pub session: usize,
    pub consumer: ConsumerTag,
    pub ack_timeout_ms: u64,
    pub deadline: Option<u64>,
    timer: Option<TimerKey>,
}

#[derive(Clone, Debug)]
pub enum Blocked {
    Take {
        token: Token,
        consumer: ConsumerTag,
        margin_ms: u64,
        timeout: Option<TimerKey>,
        soon: Option<TimerKey>,
    },
    Read {
        token: Token,
        stream: u64,
        from: u64,
        max: u32,
        max_bytes: u64,
        timeout: Option<TimerKey>,
    },
}

#[derive(Clone, Debug)]
pub struct Consumer {
    pub tag: ConsumerTag,
    /// Stream and group.
    pub sources: Vec<(u64, u64)>,
    /// Which source comes first when several have equals of different numbering.
    pub turn: usize,
    pub credit: Credit,
    pub priority: i32,
    pub ticket: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    pub links: BTreeMap<u32, (u64, Role)>,
    pub consumers: Vec<Consumer>,
    pub blocked: Option<Blocked>,
    pub backlog: VecDeque<(Token, Command)>,
    pub interrupted: bool,
}

/// When it is due, and a number that ascends with every setting.
pub type TimerKey = (u64, u64);

/// A timer that stands for the earliest of many due times, and that time.
pub type Alarm = (u64, TimerKey);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    Hold(u64),
    Delay(u64, u64),
    /// Of the stream, or of a group.
    Pause(u64, Option<u64>),
    Take(usize),
    Soon(usize),
    Expiry(u64),
    Age(u64),
}

/// What a session is told; positions in it are 0.
pub type Told = Vec<(SessionId, Effect)>;

pub struct Model {
    pub now: u64,
    pub kept: Kept,
    pub level: Durability,
    pub sessions: Slab<Session>,
    pub holds: BTreeMap<u64, Hold>,
    timers: BTreeMap<TimerKey, Timer>,
    counter: u64,
    runnable: VecDeque<usize>,
    pub next_session: u64,
    pub next_id: u64,
    /// What is read of everything ever published, by stream and number.
    pub bodies: BTreeMap<(u64, u64), Shown>,
    /// Streams with messages that were only for those who waited.
    fleeting: Vec<u64>,
    /// Streams that may have too much.
    crowded: Vec<u64>,
    /// Deliveries of this batch, by hold.
    taken: Vec<u64>,
    pub timeouts: u64,
    /// What was to be a dead letter and is not.
    pub lost: u64,
    /// What was kept in between, since somebody last took this: a step may write many records, and a crash may fall
    /// between any two of them.
    pub trail: Vec<Rc<Kept>>,
    /// What happens is one frame of the log until this ends.
    within: bool,
}

pub type Outcome = Result<Reply, Refusal>;

fn limit() -> Refusal {
    Refusal::Limit(String::new())
}

impl Model {
    pub fn new(now: u64, level: Durability) -> Self {
        Model {
            now,
            kept: Kept::default(),
            level,
            sessions: Slab::new(),
            holds: BTreeMap::new(),
            timers: BTreeMap::new(),
            counter: 0,
            runnable: VecDeque::new(),
            next_session: 1,
            next_id: 1,
            bodies: BTreeMap::new(),
            crowded: Vec::new(),
            fleeting: Vec::new(),
            taken: Vec::new(),
            timeouts: 0,
            lost: 0,
            trail: Vec::new(),
            within: false,
        }
    }

    /// The log may end here, unless within a frame.
    fn mark(&mut self) {
        if self.within {
            return;
        }
        self.trail.push(Rc::new(self.kept.clone()));
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn find(&self, name: &StreamName) -> Option<u64> {
        self.kept
            .streams
            .values()
            .find(|s| s.name == *name)
            .map(|s| s.id)
    }

    pub fn stream(&self, id: u64) -> Option<&Stream> {
        self.kept.streams.get(&id).map(Rc::as_ref)
    }

    fn stream_mut(&mut self, id: u64) -> Option<&mut Stream> {
        self.kept.streams.get_mut(&id).map(Rc::make_mut)
    }

    pub fn group(&self, stream: u64, group: u64) -> Option<&Group> {
        self.stream(stream)?.groups.iter().find(|g| g.id == group)
    }

    fn group_mut(&mut self, stream: u64, group: u64) -> Option<&mut Group> {
        self.stream_mut(stream)?
            .groups
            .iter_mut()
            .find(|g| g.id == group)
    }

    /// Whether nothing is delivered from a group.
    fn is_paused(&self, stream: u64, group: &Group) -> bool {
        group.pause.is_some() || self.stream(stream).is_some_and(|s| s.pause.is_some())
    }

    pub fn standing(&self, at: At) -> Option<&Standing> {
        self.group(at.stream, at.group)?.messages.get(&at.seq)
    }

    fn standing_mut(&mut self, at: At) -> Option<&mut Standing> {
        self.group_mut(at.stream, at.group)?
            .messages
            .get_mut(&at.seq)
    }

    /// The state of a message changed and the log was told (unless its stream is kept in memory).
    fn log(&mut self, at: At) {
        if let Some(standing) = self.standing_mut(at) {
            standing.logged = vec![standing.now];
        }
    }

    pub fn attach(&mut self) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(Session {
            id,
            links: BTreeMap::new(),
            consumers: Vec::new(),
            blocked: None,
            backlog: VecDeque::new(),
            interrupted: false,
        });
        id
    }

    fn key_of(&self, session: SessionId) -> Option<usize> {
        self.sessions
            .iter()
            .find(|(_, s)| s.id == session)
            .map(|(key, _)| key)
    }

    pub fn step(&mut self, session: SessionId, token: Token, command: Command, told: &mut Told) {
        let Some(key) = self.key_of(session) else {
            return;
        };
        if self.sessions[key].blocked.is_some() {
            self.sessions[key].backlog.push_back((token, command));
            return;
        }
        self.execute(key, token, command, told);
        self.run_unblocked(told);
    }

    fn run_unblocked(&mut self, told: &mut Told) {
        self.drop_leftovers(told);
        while let Some(key) = self.runnable.pop_front() {
            while self.sessions.get(key).is_some_and(|s| s.blocked.is_none()) {
                let Some((token, command)) = self.sessions[key].backlog.pop_front() else {
                    break;
                };
                self.execute(key, token, command, told);
                self.drop_leftovers(told);
            }
        }
    }

    fn tell(&self, key: usize, effect: Effect, told: &mut Told) {
        told.push((self.sessions[key].id, effect));
    }

    fn execute(&mut self, key: usize, token: Token, command: Command, told: &mut Told) {
        let outcome = match command {
            Command::Take {
                consumer,
                wait,
                deadline_margin_ms,
            } => {
                return self.take(key, token, consumer, wait, deadline_margin_ms, told);
            }
            Command::Read {
                name,
                from,
                max,
                max_bytes,
                wait,
            } => {
                return self.read(key, token, &name, from.0, (max, max_bytes), wait, told);
            }
            Command::Open {
                link,
                name,
                create,
                role,
            } => self.open(key, link.0, name, create.as_deref(), role),
            Command::Close { link } => {
                if let Some((stream, role)) = self.sessions[key].links.remove(&link.0) {
                    self.link_closed(stream, role);
                }
                Ok(Reply::Done)
            }
            Command::Publish { to, also, message } => self.publish(key, to, &also, &message, told),
            Command::Offer { to, also, message } => self.offer(key, to, &also, &message, told),
            Command::Transact(transaction) => self.transact(key, &transaction.steps, told),
            Command::Subscribe {
                consumer,
                link,
                group,
            } => self.subscribe(key, consumer, link, &group, told),
            Command::Unsubscribe {
                consumer,
                link,
                group,
            } => self.unsubscribe(key, consumer, link, &group),
            Command::Dispatch { .. } => {
                panic!("the schedule has none: here consumers take turns")
            }
            Command::TakeOne { message } => self.take_one(key, message),
            Command::Prefer { consumer, priority } => self.prefer(key, consumer, priority),
            Command::Credit { consumer, credit } => self.credit(key, consumer, credit, told),
            Command::Settle { message, how } => self.settle(key, message, how, told),
            Command::AckAll { group, messages } => self.ack_all(key, group, &messages, told),
            Command::ReleaseAll {
                group,
                messages,
                delay_ms,
                failed,
            } => self.release_all(key, (group, &messages), delay_ms, failed, told),
            Command::MarkAll { group, marks } => marks
                .into_iter()
                .try_for_each(|(seq, mark)| {
                    self.leave_mark(key, Handle::Group(group, seq), mark)
                        .map(|_| ())
                })
                .map(|()| Reply::Done),
            Command::Discard { message } => self.discard(key, message, told),
            Command::Mark {
                message,
                mark,
                noted: _,
            } => self.leave_mark(key, message, mark),
            Command::Marked { stream, group } => self.marked(key, stream, &group),
            Command::Remove { stream, seq } => self.remove_one(key, stream, seq.0, told),
            Command::Extend { message, ms } => self.extend(key, message, ms),
            Command::Peek { message } => self.peek(key, message),
            Command::PeekHead {
                stream,
                group,
                which,
            } => self.peek_head(key, stream, &group, which),
            Command::Kick { stream, group, max } => self.kick(key, stream, &group, max, told),
            Command::KickOne { message } => self.kick_one(key, message, told),
            Command::Pause {
                stream,
                group,
                until,
                durable,
            } => Ok(self.pause(&stream, group.as_deref(), until, durable, told)),
            Command::Purge {
                stream,
                group,
                held,
            } => Ok(self.purge(&stream, group.as_deref(), held, told)),
            Command::Define { name, config } => self.define(name, &config),
            Command::Redefine { name, config } => self.redefine(&name, &config),
            Command::Delete { name, only } => match self.find(&name) {
                Some(stream) if only.unused && self.kept.streams[&stream].consumers > 0 => {
                    Err(Refusal::Unmet(Unmet::Unused))
                }
                Some(stream) if only.empty && !self.kept.streams[&stream].has_only_held() => {
                    Err(Refusal::Unmet(Unmet::Empty))
                }
                Some(stream) => {
                    self.delete(stream, told);
                    Ok(Reply::Done)
                }
                None => Ok(Reply::NotFound),
            },
            Command::DefineGroup {
                stream,
                group,
                config,
            } => self.define_group(&stream, &group, &config),
            Command::DeleteGroup { stream, group } => self.delete_group(&stream, &group, told),
            Command::Locate { name, start } => Ok(self.locate(&name, start)),
            Command::PutDocument { name, body } => {
                match body {
                    Some(body) => self.kept.documents.insert(name, body.to_vec()),
                    None => self.kept.documents.remove(&name),
                };
                Ok(Reply::Done)
            }
            Command::DescribeMessage { message } => self.describe_message(key, message),
            Command::DescribeStream { name } => Ok(self.describe_stream(&name)),
            Command::DescribeGroups { stream } => Ok(self.describe_groups(&stream)),
            Command::ListStreams { space } => Ok(Reply::Streams(
                self.kept
                    .streams
                    .values()
                    .filter(|s| space.as_ref().is_none_or(|space| *space == s.name.space))
                    .map(|s| s.name.clone())
                    .collect(),
            )),
            Command::DescribeStreams {
                space,
                after,
                limit,
            } => Ok(self.describe_streams(space.as_deref(), after, limit as usize)),
            Command::DescribeShard => Ok(Reply::Done),
        };
        let reply = outcome.unwrap_or_else(Reply::Refused);
        self.tell(key, Effect::Reply(token, reply), told);
        self.mark();
    }

    fn target(&self, key: usize, target: Target) -> Result<u64, Refusal> {
        match target {
            Target::Link(link) => self.sessions[key]
                .links
                .get(&link.0)
                .map(|l| l.0)
                .ok_or(Refusal::UnknownLink),
            Target::Stream(id) if self.kept.streams.contains_key(&id.0) => Ok(id.0),
            Target::Stream(_) => Err(Refusal::UnknownLink),
        }
    }

    /// The message that a handle names, if it is there and not settled in the group.
    fn resolve(&self, key: usize, handle: Handle) -> Result<Option<At>, Refusal> {
        let at = self.name(key, handle)?;
        Ok(at.filter(|&at| self.standing(at).is_some()))
    }

    /// The same, settled or not.
    fn name(&self, key: usize, handle: Handle) -> Result<Option<At>, Refusal> {
        Ok(match handle {
            Handle::Group(group, seq) => self.kept.streams.values().find_map(|s| {
                s.groups.iter().find(|g| g.id == group.0)?;
                Some(At {
                    stream: s.id,
                    group: group.0,
                    seq: seq.0,
                })
            }),
            Handle::Shared(link, seq) => {
                let via = self.target(key, Target::Link(link))?;
                let space = &self.kept.streams[&via].space;
                self.kept
                    .streams
                    .values()
                    .find(|s| s.space == *space && s.messages.contains_key(&seq.0))
                    .map(|s| At {
                        stream: s.id,
                        // With no default group it stands nowhere.
                        group: (s.groups.iter())
                            .find(|g| g.name.is_empty())
                            .map_or(0, |g| g.id),
                        seq: seq.0,
                    })
            }
        })
    }

    fn own_hold(&self, key: usize, handle: Handle) -> Result<Option<u64>, Refusal> {
        Ok(self
            .resolve(key, handle)?
            .and_then(|at| match self.standing(at)?.now.place {
                Place::Held(hold) if self.holds[&hold].session == key => Some(hold),
                _ => None,
            }))
    }

    fn set_timer(&mut self, due: u64, timer: Timer) -> TimerKey {
        let key = (due, self.count());
        self.timers.insert(key, timer);
        key
    }

    fn stop_timer(&mut self, key: Option<TimerKey>) {
        if let Some(key) = key {
            self.timers.remove(&key);
        }
    }

    /// The log is told of deliveries. A log in trouble may not take that: nobody waits for it.
    pub fn end_batch(&mut self, log_in_trouble: bool) {
        for hold in std::mem::take(&mut self.taken) {
            let Some(at) = self.holds.get(&hold).map(Hold::at) else {
                continue;
            };
            if self.kept.streams[&at.stream].level == Durability::Memory {
                continue;
            }
            if let Some(standing) = self.standing_mut(at) {
                let deliveries = standing.now.counts.deliveries;
                let untold = if log_in_trouble {
                    standing.logged.clone()
                } else {
                    Vec::new()
                };
                for logged in &mut standing.logged {
                    logged.place = Place::Ready;
                    logged.counts.deliveries = deliveries;
                }
                standing.logged.extend(untold);
            }
        }
    }

    /// A checkpoint is taken: a restart may bring back the present.
    pub fn checkpoint(&mut self) {
        for stream in self.kept.streams.values_mut() {
            for group in &mut Rc::make_mut(stream).groups {
                for standing in group.messages.values_mut() {
                    let mut now = standing.now;
                    if let Place::Held(_) = now.place {
                        now.place = Place::Ready;
                    }
                    if !standing.logged.contains(&now) {
                        standing.logged.push(now);
                    }
                }
            }
        }
    }
}

/// A message in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub stream: u64,
    pub group: u64,
    pub seq: u64,
}

impl Hold {
    pub fn at(&self) -> At {
        At {
            stream: self.stream,
            group: self.group,
            seq: self.seq,
        }
    }
}

pub fn delivery(
    consumer: ConsumerTag,
    at: At,
    (redeliveries, failures): (u32, u32),
    mark: u64,
) -> longtail_engine::Delivery {
    longtail_engine::Delivery {
        consumer,
        stream: StreamId(at.stream),
        group: GroupId(at.group),
        seq: Seq(at.seq),
        position: Lsn::ZERO,
        redeliveries,
        failures,
        mark,
    }
}
