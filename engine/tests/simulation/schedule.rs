//! What a seed does: which streams there are, and what sessions ask of them, in what order, with which faults between.

use std::collections::BTreeMap;

use bytes::Bytes;
use longtail_engine::command::{Start, Until};
use longtail_engine::config::GroupName;
use longtail_engine::{
    Command, Counted, Credit, DeadLetter, GroupConfig, Handle, Keep, Limits, NewMessage, Numbering,
    Only, Order, Overflow, Reason, Reasons, Role, Settle, Step, StreamConfig, StreamName, Target,
    Transaction, Wait, Which,
};
use longtail_model::{
    ConsumerTag, Durability, GroupId, Link, Priority, Seq, SessionId, StreamId, Timestamp,
};

use super::model::Hold;
use super::random::Random;
use super::world::{SharedTrace, World};

/// Names of sequence spaces that streams share.
pub const SPACES: &[&str] = &["jobs", "more"];
const NAMES: &[&str] = &["a", "b", "c", "d", "e", "f", "dead"];
const GROUPS: &[&str] = &["g1", "g2", "g3"];
const STEPS: u64 = 350;

fn name(of: &str) -> StreamName {
    StreamName::new("sim", of)
}

/// Runs one seed from an empty disk; returns how often it crashed.
pub fn run(seed: u64, trace: &SharedTrace) -> u64 {
    let mut world = World::new(seed, trace.clone());
    let mut configs: BTreeMap<&str, StreamConfig> = BTreeMap::new();
    for &name in NAMES {
        let config = config(&mut world.random, name);
        world.say(format!("{name}: {config:?}"));
        configs.insert(name, config);
    }
    let faults = world.random.chance(60);
    let mut plan = Plan {
        world,
        configs,
        body: 0,
    };
    for _ in 0..STEPS {
        plan.turn(faults);
    }
    plan.world.crash();
    plan.world.crashes
}

/// Mostly to the one stream that is there for it, sometimes from one to the other and back.
fn dead_letter(random: &mut Random) -> DeadLetter {
    let stream = if random.chance(70) {
        "dead"
    } else {
        *random.pick(NAMES)
    };
    let mut dead_letter = DeadLetter::to(stream);
    match random.below(3) {
        0 => {}
        1 => dead_letter.on = Reasons::ALL,
        _ => {
            let all = [
                Reason::Rejected,
                Reason::Expired,
                Reason::Deliveries,
                Reason::Limit,
            ];
            dead_letter.on = all.into_iter().filter(|_| random.chance(60)).collect();
        }
    }
    dead_letter.body = random.chance(75);
    dead_letter.keep = random.chance(25);
    if random.chance(30) {
        dead_letter.note = (*b"somewhere").into();
    }
    dead_letter
}

/// A stream as one of the protocols would make it, or as none does.
fn config(random: &mut Random, name: &str) -> StreamConfig {
    let mut config = StreamConfig::default();
    let mut defaults = GroupConfig::default();
    let group = &mut defaults;
    if name == "dead" {
        if random.chance(40) {
            config.limits.max_messages = 3;
            if random.chance(50) {
                config.overflow = Overflow::DropOldest;
            }
        }
        if random.chance(30) {
            group.dead_letter = Some(dead_letter(random));
        }
        config.group = random.chance(85).then_some(defaults);
        return config;
    }
    if random.chance(45) {
        config.numbering = Numbering::Shared((*random.pick(SPACES)).into());
        config.auto_delete = random.chance(80);
        group.order = if random.chance(85) {
            Order::Priority
        } else {
            Order::Sequence
        };
    } else {
        config.auto_delete = random.chance(15);
        group.order = if random.chance(70) {
            Order::Sequence
        } else {
            Order::Priority
        };
    }
    if random.chance(35) {
        group.max_deliveries = 1 + random.below(3) as u32;
    }
    if random.chance(25) {
        group.max_failures = Some(random.below(3) as u32);
    }
    group.count_losses = random.chance(30);
    if random.chance(35) {
        group.dead_letter = Some(dead_letter(random));
    }
    if random.chance(30) {
        group.backoff_ms = (0..1 + random.below(3))
            .map(|_| 1 + random.below(3_000))
            .collect();
    }
    if random.chance(30) {
        group.ack_timeout_ms = 500 + random.below(5_000);
    }
    if random.chance(25) {
        config.limits = Limits {
            max_messages: random.below(2) * (1 + random.below(8)),
            max_bytes: random.below(2) * random.below(20_000),
            max_age_ms: 0,
            of: *random.pick(&[Counted::All, Counted::Ready]),
        };
    }
    if random.chance(20) {
        config.limits.max_age_ms = 1 + random.below(20_000);
    }
    if random.chance(15) {
        config.expires_ms = Some(random.below(3) * random.below(10_000));
    }
    if random.chance(60) {
        config.overflow = *random.pick(&[Overflow::DropOldest, Overflow::DropLeastUrgent]);
    }
    config.keep = match random.below(100) {
        0..15 => Keep::UntilLimit,
        15..30 => Keep::Interest,
        _ => Keep::UntilSettled,
    };
    let shared = config.numbering != Numbering::Own;
    config.group = random
        .chance(if shared { 99 } else { 70 })
        .then_some(defaults);
    config.durability = match random.below(10) {
        0 | 1 => Some(Durability::Memory),
        2 => Some(Durability::Interval),
        _ => None,
    };
    config
}

struct Plan {
    world: World,
    configs: BTreeMap<&'static str, StreamConfig>,
    body: u64,
}

impl Plan {
    fn turn(&mut self, faults: bool) {
        let world = &mut self.world;
        if world.derailed || world.off() || (!world.healthy() && world.random.chance(50)) {
            return world.crash();
        }
        if !world.healthy() {
            world.say("space is freed".to_owned());
            world.disk.heal();
            world.disk.set_capacity(None);
            world.settle_log();
            if !world.healthy() {
                world.crash();
            }
            return;
        }
        match world.random.below(1000) {
            0..780 => {
                for _ in 0..1 + world.random.below(4) {
                    self.command();
                    if self.world.derailed {
                        return;
                    }
                }
                self.world.end_batch();
            }
            780..880 => {
                for _ in 0..1 + world.random.below(8) {
                    world.work();
                }
            }
            880..890 => world.settle_log(),
            890..960 => {
                let ms = match world.random.below(4) {
                    0 => world.random.below(20),
                    1 => world.random.below(20_000),
                    _ => world
                        .model
                        .next_due()
                        .map_or(1, |due| due.saturating_sub(world.now))
                        .min(50_000),
                };
                world.advance(ms);
                world.end_batch();
            }
            960..975 => {
                if let Some(session) = self.session() {
                    self.world.detach(session);
                    self.world.end_batch();
                }
            }
            975..978 => {
                if let Some(session) = self.session() {
                    self.world.interrupt(session);
                    self.world.end_batch();
                }
            }
            978..988 if faults => world.inject(),
            988..995 => world.crash(),
            _ => {
                world.look();
                world.end_batch();
            }
        }
    }

    fn session(&mut self) -> Option<SessionId> {
        (!self.world.sessions.is_empty()).then(|| *self.world.random.pick(&self.world.sessions))
    }

    fn new_name(&mut self) -> StreamName {
        let chosen: &&str = self.world.random.pick(NAMES);
        name(chosen)
    }

    fn command(&mut self) {
        let session = match self.session() {
            Some(session) if self.world.sessions.len() >= 5 || self.world.random.chance(90) => {
                session
            }
            _ => {
                let session = self.world.attach();
                for _ in 0..1 + self.world.random.below(3) {
                    let open = self.open();
                    self.world.step(session, open);
                    let subscribe = self.subscribe(session);
                    self.world.step(session, subscribe);
                }
                session
            }
        };
        let command = self.random_command(session);
        self.world.step(session, command);
    }

    fn link(&mut self, session: SessionId) -> Link {
        let links: Vec<u32> = self
            .world
            .model
            .sessions
            .iter()
            .find(|(_, s)| s.id == session)
            .map(|(_, s)| s.links.keys().copied().collect())
            .unwrap_or_default();
        if links.is_empty() || self.world.random.chance(3) {
            Link(self.world.random.below(4) as u32)
        } else {
            Link(*self.world.random.pick(&links))
        }
    }

    /// Mostly what may change, sometimes what may not; the stream may have been made as something else.
    fn redefine(&mut self) -> Command {
        let at = self.world.random.below(NAMES.len() as u64) as usize;
        let of = name(NAMES[at]);
        let random = &mut self.world.random;
        let fresh = config(random, NAMES[at]);
        let known = self.world.model.find(&of);
        let known = known.and_then(|id| self.world.model.stream(id));
        let mut config = known.map_or_else(|| fresh.clone(), |state| state.config.clone());
        config.limits = fresh.limits;
        config.overflow = fresh.overflow;
        config.expires_ms = fresh.expires_ms;
        if let (Some(group), Some(fresh)) = (&mut config.group, fresh.group) {
            let (order, start) = (group.order, group.start);
            *group = fresh;
            (group.order, group.start) = (order, start);
        }
        if random.chance(10) {
            config.auto_delete = !config.auto_delete;
        }
        Command::Redefine {
            name: of,
            config: Box::new(config),
        }
    }

    fn open(&mut self) -> Command {
        let at = self.world.random.below(NAMES.len() as u64) as usize;
        let random = &mut self.world.random;
        let create = random
            .chance(95)
            .then(|| Box::new(self.configs[NAMES[at]].clone()));
        Command::Open {
            link: Link(random.below(4) as u32),
            name: name(NAMES[at]),
            create,
            role: if random.chance(50) {
                Role::Producer
            } else {
                Role::Consumer
            },
        }
    }

    fn tag(&mut self) -> ConsumerTag {
        ConsumerTag(self.world.random.below(2) as u32)
    }

    fn subscribe(&mut self, session: SessionId) -> Command {
        let link = self.link(session);
        let (consumer, group) = self.consumer(link);
        Command::Subscribe {
            consumer,
            link,
            group: group.into(),
        }
    }

    /// Consumers of added groups draw from nothing else.
    fn consumer(&mut self, link: Link) -> (ConsumerTag, &'static str) {
        if self.world.random.chance(75) {
            return (self.tag(), "");
        }
        let at = self.world.random.below(GROUPS.len() as u64) as usize;
        (ConsumerTag(10 + link.0 * 10 + at as u32), GROUPS[at])
    }

    fn any_tag(&mut self, session: SessionId) -> ConsumerTag {
        let tags: Vec<ConsumerTag> = self
            .world
            .model
            .sessions
            .iter()
            .find(|(_, s)| s.id == session)
            .map(|(_, s)| s.consumers.iter().map(|c| c.tag).collect())
            .unwrap_or_default();
        if tags.is_empty() || self.world.random.chance(3) {
            self.tag()
        } else {
            *self.world.random.pick(&tags)
        }
    }

    /// A message, most often one that the session holds.
    fn handle(&mut self, session: SessionId) -> Handle {
        let model = &self.world.model;
        let own: Vec<(u64, u64)> = model
            .holds
            .values()
            .filter(|h| {
                model
                    .sessions
                    .get(h.session)
                    .is_some_and(|s| s.id == session)
            })
            .map(|h| (h.group, h.seq))
            .collect();
        let link = self.link(session);
        let by_link = self.world.random.chance(30);
        let chosen = if !own.is_empty() && self.world.random.chance(80) {
            *self.world.random.pick(&own)
        } else {
            let all: Vec<(u64, u64)> = self
                .world
                .model
                .kept
                .streams
                .values()
                .flat_map(|s| {
                    s.groups
                        .iter()
                        .flat_map(|g| s.messages.keys().map(|seq| (g.id, *seq)))
                })
                .collect();
            if all.is_empty() || self.world.random.chance(5) {
                (self.world.random.below(20), 1 + self.world.random.below(20))
            } else {
                *self.world.random.pick(&all)
            }
        };
        if by_link {
            Handle::Shared(link, Seq(chosen.1))
        } else {
            Handle::Group(GroupId(chosen.0), Seq(chosen.1))
        }
    }

    fn group(&mut self) -> GroupName {
        match self.world.random.chance(40) {
            true => "".into(),
            false => (*self.world.random.pick(GROUPS)).into(),
        }
    }

    fn group_or_all(&mut self) -> Option<GroupName> {
        let group = self.group();
        self.world.random.chance(60).then_some(group)
    }

    fn target(&mut self, session: SessionId) -> Target {
        if self.world.random.chance(80) {
            Target::Link(self.link(session))
        } else {
            Target::Stream(self.stream())
        }
    }

    /// A message by its stream, most often one that is there.
    fn message_of(&mut self, session: SessionId) -> (Target, Seq) {
        let stream = self.stream();
        let there: Vec<u64> = (self.world.model.kept.streams.get(&stream.0))
            .map(|state| state.messages.keys().copied().collect())
            .unwrap_or_default();
        if there.is_empty() || self.world.random.chance(10) {
            let seq = Seq(self.world.random.below(20));
            return (self.target(session), seq);
        }
        let seq = *self.world.random.pick(&there);
        (Target::Stream(stream), Seq(seq))
    }

    fn stream(&mut self) -> StreamId {
        let ids: Vec<u64> = self.world.model.kept.streams.keys().copied().collect();
        if ids.is_empty() || self.world.random.chance(3) {
            StreamId(self.world.random.below(30))
        } else {
            StreamId(*self.world.random.pick(&ids))
        }
    }

    fn message(&mut self) -> NewMessage {
        self.body += 1;
        let random = &mut self.world.random;
        let len = match random.below(20) {
            0 => 12_000,
            1..4 => random.below(6_000),
            4..8 => random.below(600),
            _ => random.below(40),
        };
        let mut body = Vec::with_capacity(len as usize + 8);
        body.extend_from_slice(&self.body.to_le_bytes());
        body.resize(len as usize + 8, self.body as u8);
        NewMessage {
            priority: Priority(*random.pick(&[0, 1, 1, 5, 1023, 1024, u32::MAX])),
            delay_ms: if random.chance(20) {
                1 + random.below(4_000)
            } else {
                0
            },
            ack_timeout_ms: if random.chance(50) {
                1 + random.below(6_000)
            } else {
                0
            },
            expires_ms: match random.below(100) {
                0..12 => Some(1 + random.below(8_000)),
                12..18 => Some(0),
                _ => None,
            },
            subject: match random.below(3) {
                0 => Bytes::from_static(b"a/b"),
                _ => Bytes::new(),
            },
            id: match random.below(4) {
                0 => Bytes::from(self.body.to_be_bytes().to_vec()),
                _ => Bytes::new(),
            },
            key: if random.chance(40) { random.next() } else { 0 },
            // Headers without names and values.
            headers: Bytes::from(vec![0; random.below(3) as usize * 6]),
            payload: body.into(),
        }
    }

    fn wait(&mut self) -> Wait {
        match self.world.random.below(10) {
            0..5 => Wait::No,
            5..8 => Wait::Millis(self.world.random.below(6_000)),
            _ => Wait::Forever,
        }
    }

    fn priority(&mut self) -> Option<Priority> {
        let chosen = Priority(self.world.random.below(6) as u32);
        self.world.random.chance(30).then_some(chosen)
    }

    /// A command for several messages of a group.
    fn several(&mut self, session: SessionId) -> Command {
        let message = self.handle(session);
        let Handle::Group(group, first) = message else {
            return Command::Settle {
                message,
                how: Settle::Ack,
            };
        };
        let mut messages = vec![first];
        for _ in 0..self.world.random.below(4) {
            let step = self.world.random.below(3);
            messages.push(Seq(first.0 + step));
        }
        match self.world.random.below(10) {
            0..5 => return Command::AckAll { group, messages },
            5..8 => {
                let random = &mut self.world.random;
                let later = random.chance(20);
                return Command::ReleaseAll {
                    group,
                    messages,
                    delay_ms: if later { random.below(4_000) } else { 0 },
                    failed: random.chance(30),
                };
            }
            _ => {}
        }
        let mark = 1 + self.world.random.below(9);
        Command::MarkAll {
            group,
            marks: messages.into_iter().map(|seq| (seq, mark)).collect(),
        }
    }

    fn settle(&mut self) -> Settle {
        let random = &mut self.world.random;
        match random.below(100) {
            0..45 => Settle::Ack,
            45..70 => {
                let delay_ms = if random.chance(40) {
                    random.below(4_000)
                } else {
                    0
                };
                let failed = random.chance(50);
                Settle::Release {
                    priority: self.priority(),
                    delay_ms,
                    failed,
                }
            }
            70..85 => Settle::Park {
                priority: self.priority(),
            },
            _ => Settle::Reject,
        }
    }

    fn step(&mut self, session: SessionId) -> Step {
        // A message of others refuses the whole; most often that is not what is tried.
        let message = self.own_handle(session);
        let message = match message {
            Some(message) if self.world.random.chance(97) => message,
            _ if self.world.random.chance(10) => self.handle(session),
            _ => return self.publish_step(session),
        };
        match self.world.random.below(100) {
            0..30 => self.publish_step(session),
            30..65 => Step::Settle {
                message,
                how: self.settle(),
            },
            65..80 => Step::Mark {
                message,
                mark: self.world.random.below(4),
            },
            80..92 => {
                let (stream, seq) = self.message_of(session);
                Step::Remove { stream, seq }
            }
            _ => Step::Document {
                name: format!("document {}", self.world.random.below(4)),
                body: self.world.random.chance(70).then(|| vec![4; 20].into()),
            },
        }
    }

    fn publish_step(&mut self, session: SessionId) -> Step {
        let mut message = self.message();
        // All of it must fit into a frame.
        message.payload.truncate(2_000);
        let also = self.world.random.chance(15);
        Step::Publish {
            to: self.target(session),
            also: also.then(|| self.stream()).into_iter().collect(),
            message,
        }
    }

    fn own_handle(&mut self, session: SessionId) -> Option<Handle> {
        let model = &self.world.model;
        let own = |h: &&Hold| (model.sessions.get(h.session)).is_some_and(|s| s.id == session);
        let own: Vec<Handle> = (model.holds.values().filter(own))
            .map(|h| Handle::Group(GroupId(h.group), Seq(h.seq)))
            .collect();
        (!own.is_empty()).then(|| *self.world.random.pick(&own))
    }

    fn start(&mut self) -> Start {
        match self.world.random.below(6) {
            0 | 1 => Start::First,
            5 => Start::Backlog,
            2 => Start::Next,
            3 => Start::Last,
            _ if self.world.random.chance(50) => Start::At(Seq(self.world.random.below(15))),
            _ => Start::Since(Timestamp(
                self.world
                    .now
                    .saturating_sub(self.world.random.below(10_000)),
            )),
        }
    }

    fn random_command(&mut self, session: SessionId) -> Command {
        match self.world.random.below(1155) {
            0..280 => {
                let to = self.target(session);
                let also = if self.world.random.chance(12) {
                    (0..1 + self.world.random.below(3))
                        .map(|_| self.stream())
                        .collect()
                } else {
                    Vec::new()
                };
                let message = self.message();
                if self.world.random.chance(5) {
                    return Command::Offer { to, also, message };
                }
                Command::Publish { to, also, message }
            }
            280..440 => Command::Take {
                consumer: self.any_tag(session),
                wait: self.wait(),
                deadline_margin_ms: if self.world.random.chance(50) {
                    1_000
                } else {
                    0
                },
            },
            440..560 => Command::Settle {
                message: self.handle(session),
                how: self.settle(),
            },
            560..590 => self.several(session),
            590..620 => Command::Discard {
                message: self.handle(session),
            },
            620..640 => Command::TakeOne {
                message: self.handle(session),
            },
            640..670 => Command::Credit {
                consumer: self.any_tag(session),
                credit: match self.world.random.below(5) {
                    0 | 1 => Credit::Add(1 + self.world.random.below(4) as u32),
                    2 | 3 => Credit::Level(self.world.random.below(5) as u32),
                    _ => Credit::Away(self.world.random.below(5) as u32),
                },
            },
            670..690 => Command::Extend {
                message: self.handle(session),
                ms: self.world.random.chance(30).then_some(3_000),
            },
            690..740 => self.open(),
            740..755 => Command::Close {
                link: self.link(session),
            },
            755..805 => self.subscribe(session),
            805..815 => {
                let link = self.link(session);
                let (consumer, group) = self.consumer(link);
                Command::Unsubscribe {
                    consumer,
                    link,
                    group: group.into(),
                }
            }
            815..825 => Command::Peek {
                message: self.handle(session),
            },
            825..840 => {
                let which = *self
                    .world
                    .random
                    .pick(&[Which::Ready, Which::Delayed, Which::Parked]);
                Command::PeekHead {
                    stream: self.target(session),
                    group: self.group(),
                    which,
                }
            }
            840..865 => Command::Kick {
                stream: self.target(session),
                group: self.group(),
                max: self.world.random.below(5),
            },
            865..880 => Command::KickOne {
                message: self.handle(session),
            },
            880..888 => {
                let until = match self.world.random.below(10) {
                    0..3 => Until::Now,
                    3..9 => Until::Millis(self.world.random.below(6_000)),
                    _ => Until::Forever,
                };
                Command::Pause {
                    stream: self.new_name(),
                    group: self.group_or_all(),
                    until,
                    durable: self.world.random.chance(50),
                }
            }
            888..894 => Command::Purge {
                stream: self.new_name(),
                group: self.group_or_all(),
                held: self.world.random.chance(40),
            },
            894..906 => {
                let at = self.world.random.below(NAMES.len() as u64) as usize;
                Command::Define {
                    name: name(NAMES[at]),
                    config: Box::new(self.configs[NAMES[at]].clone()),
                }
            }
            906..912 => {
                let at = self.world.random.below(NAMES.len() as u64) as usize;
                if self.world.random.chance(30) {
                    let config = config(&mut self.world.random, NAMES[at]);
                    self.world
                        .say(format!("{} from now on: {config:?}", NAMES[at]));
                    self.configs.insert(NAMES[at], config);
                }
                let random = &mut self.world.random;
                Command::Delete {
                    name: name(NAMES[at]),
                    only: Only {
                        unused: random.chance(20),
                        empty: random.chance(20),
                    },
                }
            }
            912..935 => {
                let group = self.group();
                let start = self.start();
                let mut config = GroupConfig {
                    start,
                    ..GroupConfig::default()
                };
                if self.world.random.chance(30) {
                    config.order = Order::Priority;
                }
                if self.world.random.chance(30) {
                    config.max_deliveries = 2;
                }
                Command::DefineGroup {
                    stream: self.new_name(),
                    group,
                    config: Box::new(config),
                }
            }
            935..942 => Command::DeleteGroup {
                stream: self.new_name(),
                group: self.group(),
            },
            942..957 => Command::Read {
                name: self.new_name(),
                from: Seq(self.world.random.below(30)),
                max: self.world.random.below(6) as u32,
                max_bytes: self.world.random.below(8_000),
                wait: self.wait(),
            },
            957..965 => {
                let body = self
                    .world
                    .random
                    .chance(70)
                    .then(|| vec![3; self.world.random.below(300) as usize].into());
                Command::PutDocument {
                    name: format!("document {}", self.world.random.below(4)),
                    body,
                }
            }
            965..985 => Command::DescribeMessage {
                message: self.handle(session),
            },
            985..995 => Command::DescribeStream {
                name: self.new_name(),
            },
            995..1000 => Command::DescribeShard,
            1000..1035 => Command::Mark {
                message: self.handle(session),
                mark: self.world.random.below(4),
                noted: self.world.random.chance(40),
            },
            1035..1050 => {
                let group = *self.world.random.pick(&["", "", GROUPS[0], GROUPS[1]]);
                Command::Marked {
                    stream: self.target(session),
                    group: group.into(),
                }
            }
            1050..1065 => {
                let (stream, seq) = self.message_of(session);
                Command::Remove { stream, seq }
            }
            1065..1080 => self.redefine(),
            1140.. => Command::Locate {
                name: self.new_name(),
                start: self.start(),
            },
            1080..1095 => Command::Prefer {
                consumer: self.any_tag(session),
                priority: *self.world.random.pick(&[i32::MIN, -1, 0, 5, i32::MAX]),
            },
            _ => {
                let steps = (0..self.world.random.below(7)).map(|_| self.step(session));
                Command::Transact(Box::new(Transaction {
                    steps: steps.collect(),
                }))
            }
        }
    }
}
