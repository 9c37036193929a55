//! A shard on a simulated disk and its model, driven side by side the way the runtime drives a shard.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use longtail_engine::{
    Command, Effect, Effects, Gate, MemoryLimits, Refusal, Reply, Shard, ShardConfig, Step, Target,
};
use longtail_log::sim::{Failure, Operation, SimDisk};
use longtail_log::{Done, Health, Job, Options, Outcome, ShardLog};
use longtail_model::{Durability, Lsn, SessionId, ShardId, StreamId, Timestamp};

use super::model::{Kept, Model, Shown, Told};
use super::random::Random;

/// The last lines of what happened, and a hash of all of it.
#[derive(Default)]
pub struct Trace {
    pub verbose: bool,
    pub lines: VecDeque<String>,
    pub hash: u64,
}

impl Trace {
    const KEPT: usize = 60;

    pub fn line(&mut self, line: String) {
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if self.verbose {
            eprintln!("{line}");
        }
        if self.lines.len() == Self::KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

pub type SharedTrace = Arc<Mutex<Trace>>;

#[derive(Default)]
struct Emitted(Vec<(SessionId, Gate, Effect)>);

impl Effects for Emitted {
    fn emit(&mut self, session: SessionId, gate: Gate, effect: Effect) {
        self.0.push((session, gate, effect));
    }
}

/// An effect that waits for its gate.
struct Pending {
    ordinal: u64,
    gate: Gate,
    effect: Effect,
}

/// The model when the log ended at a position.
pub struct Snapshot {
    pub end: Lsn,
    pub kept: Rc<Kept>,
    /// What the model was on the way here from the snapshot before.
    pub via: Vec<Rc<Kept>>,
    /// The log failed in the middle of what led here.
    pub derailed: bool,
}

enum Flight {
    Job(Job),
    Done(Done),
}

pub struct World {
    pub random: Random,
    pub trace: SharedTrace,
    pub disk: SimDisk,
    pub options: Options,
    pub config: ShardConfig,
    pub shard: Shard,
    pub model: Model,
    pub now: u64,
    pub history: Vec<Snapshot>,
    pub sessions: Vec<SessionId>,
    pub token: u64,
    emitted: Emitted,
    pending: VecDeque<Pending>,
    ordinal: u64,
    retiring: VecDeque<(u64, Lsn)>,
    flight: Vec<Flight>,
    /// What left the shard says that the log holds everything below: synced, written.
    acked: [Lsn; 2],
    pub derailed: bool,
    /// After how many operations of the disk the machine is off: only a power cut ends that.
    halting: Option<u64>,
    pub crashes: u64,
}

/// The bytes that headers of these names and values take.
pub fn headers(pairs: &[(&str, &str)]) -> usize {
    let mut out = Vec::new();
    for (name, value) in pairs {
        longtail_engine::headers::put(&mut out, name, value.as_bytes());
    }
    out.len()
}

pub const DIR: &str = "/shard";
pub const MEMORY: MemoryLimits = MemoryLimits {
    bytes: 64 << 20,
    frame_bytes: 1 << 20,
};

/// Only the kind of a refusal is foretold.
fn without_text(refusal: &mut Refusal) {
    match refusal {
        Refusal::Limit(text) => text.clear(),
        Refusal::Unsupported(text) => *text = "",
        Refusal::Step { why, .. } => without_text(why),
        _ => {}
    }
}

fn without_position(mut effect: Effect) -> Effect {
    match &mut effect {
        Effect::Push(delivery) | Effect::Reply(_, Reply::Delivered(delivery)) => {
            delivery.position = Lsn::ZERO;
        }
        Effect::Reply(_, Reply::Peeked { position, .. } | Reply::Published { position, .. }) => {
            *position = Lsn::ZERO;
        }
        Effect::Reply(_, Reply::Batch { messages, .. }) => {
            messages
                .iter_mut()
                .for_each(|message| message.1 = Lsn::ZERO);
        }
        Effect::Reply(_, Reply::MessageInfo(info)) => info.position = Lsn::ZERO,
        Effect::Reply(_, Reply::Groups(groups)) => {
            groups.sort_by_key(|group| (!group.name.is_empty(), group.group));
        }
        // What it is kept in is no matter of the model.
        Effect::Reply(_, Reply::StreamInfo(info)) => info.index_bytes = 0,
        Effect::Reply(_, Reply::StreamPage { streams, .. }) => {
            streams
                .iter_mut()
                .for_each(|(_, info)| info.index_bytes = 0);
        }
        Effect::Reply(_, Reply::Transacted { published }) => {
            published
                .iter_mut()
                .for_each(|message| message.1 = Lsn::ZERO);
        }
        Effect::Reply(_, Reply::Refused(refusal)) => without_text(refusal),
        // Of the shard as a whole, only that it answers.
        Effect::Reply(token, Reply::ShardInfo(_)) => return Effect::Reply(*token, Reply::Done),
        Effect::Reply(..) | Effect::Cancelled { .. } => {}
    }
    effect
}

fn failed_by_log(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Reply(_, Reply::Refused(Refusal::Full(_) | Refusal::Failed(_)))
    )
}

pub fn brief(effect: &Effect) -> String {
    match effect {
        Effect::Push(d) => format!("push {}/{} to {}", d.group, d.seq, d.consumer),
        Effect::Reply(token, Reply::Delivered(d)) => {
            format!("{token}: delivered {}/{}", d.group, d.seq)
        }
        Effect::Reply(token, reply) => format!("{token}: {reply:?}"),
        Effect::Cancelled { consumer, stream } => format!("cancelled {consumer} of {stream}"),
    }
}

impl World {
    pub fn new(seed: u64, trace: SharedTrace) -> Self {
        let mut random = Random::new(seed);
        let options = Options {
            segment_bytes: 64 << 10,
            max_frame_bytes: 32 << 10,
            tail_bytes: *random.pick(&[4 << 10, 16 << 10, 64 << 10]),
            pending_bytes: 1 << 20,
            reserve_bytes: 64 << 10,
            ahead_bytes: 16 << 10,
            checkpoint_bytes: *random.pick(&[8 << 10, 32 << 10, 128 << 10]),
            recycled_segments: random.below(3) as usize,
            nonce_seed: random.next(),
            ..Options::new(ShardId(0))
        };
        let config = ShardConfig {
            durability: if random.chance(75) {
                Durability::Sync
            } else {
                Durability::Interval
            },
            clear_step: *random.pick(&[0, 3, 4096]),
            ..ShardConfig::default()
        };
        let now = 1_000_000 + random.below(1_000_000);
        let disk = SimDisk::new();
        let (shard, _) = Shard::open(
            Arc::new(disk.clone()),
            Path::new(DIR),
            options.clone(),
            MEMORY,
            config.clone(),
            Timestamp(now),
        )
        .expect("an empty disk opens");
        let model = Model::new(now, config.durability);
        let mut world = World {
            random,
            trace,
            disk,
            options,
            shard,
            model,
            now,
            history: Vec::new(),
            sessions: Vec::new(),
            token: 0,
            emitted: Emitted::default(),
            pending: VecDeque::new(),
            ordinal: 0,
            retiring: VecDeque::new(),
            flight: Vec::new(),
            acked: [Lsn::ZERO; 2],
            derailed: false,
            halting: None,
            crashes: 0,
            config,
        };
        world.snapshot(false);
        world
    }

    pub fn say(&self, line: String) {
        self.trace
            .lock()
            .expect("nobody panics while tracing")
            .line(line);
    }

    pub fn log(&mut self) -> &mut (dyn ShardLog + 'static) {
        self.shard
            .logs()
            .durable()
            .expect("the shard has a durable log")
    }

    pub fn healthy(&mut self) -> bool {
        self.log().health() == Health::Good
    }

    fn halt_after(&mut self, left: u64) {
        self.disk.halt_after(left);
        self.halting = Some(self.disk.operations() + left);
    }

    /// Whether the machine has gone off: nothing that the shard does from now on is seen by anybody.
    pub fn off(&self) -> bool {
        self.halting
            .is_some_and(|last| self.disk.operations() >= last)
    }

    fn snapshot(&mut self, derailed: bool) {
        let end = self.log().end();
        let synced = self.log().watermark(Durability::Sync);
        let via = std::mem::take(&mut self.model.trail);
        if self.history.last().is_some_and(|last| last.end == end) && !derailed {
            return;
        }
        self.say(format!("    the log ends at {end}"));
        self.history.push(Snapshot {
            end,
            kept: Rc::new(self.model.kept.clone()),
            via,
            derailed,
        });
        // Before what is certain to survive nothing is needed.
        let certain = self
            .history
            .iter()
            .rposition(|snapshot| snapshot.end <= synced)
            .unwrap_or(0);
        self.history.drain(..certain.saturating_sub(1));
    }

    pub fn attach(&mut self) -> SessionId {
        let id = self.shard.attach();
        assert_eq!(id, self.model.attach(), "session ids");
        self.sessions.push(id);
        id
    }

    pub fn step(&mut self, session: SessionId, command: Command) {
        self.token += 1;
        let token = self.token;
        self.say(format!(
            "@{} s{session} {token}: {}",
            self.now,
            describe(&command)
        ));
        self.shard.step(
            Timestamp(self.now),
            session,
            token,
            command.clone(),
            &mut self.emitted,
        );
        let mut told = Told::new();
        self.model.step(session, token, command, &mut told);
        self.compare(told);
    }

    pub fn advance(&mut self, ms: u64) {
        self.now += ms;
        self.say(format!("@{} time passes", self.now));
        self.shard.advance(Timestamp(self.now), &mut self.emitted);
        let mut told = Told::new();
        self.model.advance(self.now, &mut told);
        self.compare(told);
    }

    pub fn detach(&mut self, session: SessionId) {
        self.say(format!("@{} s{session} ends", self.now));
        self.sessions.retain(|known| *known != session);
        self.shard
            .detach(Timestamp(self.now), session, &mut self.emitted);
        let mut told = Told::new();
        self.model.detach(session, &mut told);
        self.compare(told);
    }

    pub fn interrupt(&mut self, session: SessionId) {
        self.say(format!("@{} s{session} is interrupted", self.now));
        self.shard
            .interrupt(Timestamp(self.now), session, &mut self.emitted);
        let mut told = Told::new();
        self.model.interrupt(session, &mut told);
        self.compare(told);
    }

    /// What the shard emitted must be what the model foretold, session by session.
    fn compare(&mut self, told: Told) {
        let failed = self
            .emitted
            .0
            .iter()
            .any(|(_, _, effect)| failed_by_log(effect))
            || !self.healthy()
            || self.off();
        if failed {
            self.say("the log does not take it".to_owned());
            self.derailed = true;
            self.emitted.0.clear();
            self.snapshot(true);
            return;
        }
        let mut real: BTreeMap<SessionId, Vec<Effect>> = BTreeMap::new();
        for (session, _, effect) in &self.emitted.0 {
            self.say(format!("    s{session} {}", brief(effect)));
            real.entry(*session)
                .or_default()
                .push(without_position(effect.clone()));
        }
        let mut expected: BTreeMap<SessionId, Vec<Effect>> = BTreeMap::new();
        for (session, effect) in told {
            expected.entry(session).or_default().push(effect);
        }
        assert_eq!(real, expected, "the shard (left) against the model (right)");
        for (session, gate, effect) in self.emitted.0.drain(..) {
            let _ = session;
            self.pending.push_back(Pending {
                ordinal: self.ordinal,
                gate,
                effect,
            });
            self.ordinal += 1;
        }
        self.snapshot(false);
    }

    /// The end of a batch: what may leave leaves.
    pub fn end_batch(&mut self) {
        if self.derailed {
            return;
        }
        self.shard.end_batch();
        let in_trouble = !self.healthy();
        self.model.end_batch(in_trouble);
        let ordinal = self.ordinal;
        let retired: Vec<Lsn> = self.shard.take_retired().collect();
        self.retiring
            .extend(retired.into_iter().map(|position| (ordinal, position)));
        self.snapshot(false);
        self.release();
    }

    fn release(&mut self) {
        if self.off() {
            return;
        }
        while let Some(first) = self.pending.front() {
            if !self.shard.logs_ref().passed(first.gate) {
                break;
            }
            let Some(Pending { gate, effect, .. }) = self.pending.pop_front() else {
                break;
            };
            match gate.level {
                Durability::Sync => self.acked[0] = self.acked[0].max(gate.lsn),
                Durability::Interval => {}
                Durability::Memory => continue,
            }
            self.acked[1] = self.acked[1].max(gate.lsn);
            self.show(&effect);
        }
        let oldest = self
            .pending
            .front()
            .map_or(u64::MAX, |pending| pending.ordinal);
        while let Some(&(ordinal, position)) = self.retiring.front() {
            if ordinal > oldest {
                break;
            }
            self.retiring.pop_front();
            self.shard.reclaim(position);
        }
    }

    /// What leaves must be readable, and be what was published.
    fn show(&mut self, effect: &Effect) {
        match effect {
            Effect::Push(d) | Effect::Reply(_, Reply::Delivered(d)) => {
                let expected = self.model.bodies.get(&(d.stream.0, d.seq.0)).cloned();
                self.check_body(d.position, expected.as_ref());
            }
            Effect::Reply(_, Reply::Peeked { position, .. }) => self.check_body(*position, None),
            Effect::Reply(_, Reply::Batch { messages, .. }) => {
                for (_, position) in messages {
                    self.check_body(*position, None);
                }
            }
            _ => {}
        }
    }

    pub fn check_body(&mut self, position: Lsn, expected: Option<&Shown>) {
        let read = self.shard.with_message(position, |message| Shown {
            subject: Bytes::copy_from_slice(message.subject),
            id: Bytes::copy_from_slice(message.id),
            key: message.key,
            headers: message.headers.len(),
            body: Bytes::copy_from_slice(message.payload),
        });
        match read {
            Ok(read) => {
                if let Some(expected) = expected {
                    assert!(
                        read == *expected,
                        "the message at {position} is {read:?} instead of {expected:?}"
                    );
                }
            }
            Err(error) => panic!("a message that is shown cannot be read: {error}"),
        }
    }

    /// Some of the log's work, in some allowed order.
    pub fn work(&mut self) {
        let choice = self.random.below(100);
        let sync = self.random.chance(70);
        let job = match choice {
            0..40 => self.log().next_write(sync),
            40..55 => self.log().next_sync(),
            55..80 => self.log().next_chore(),
            80..85 => {
                self.memory_work();
                None
            }
            85..92 => {
                if self.log().wants_checkpoint() || self.random.chance(10) {
                    self.checkpoint();
                }
                None
            }
            _ => {
                self.shard.clear_some();
                None
            }
        };
        if let Some(job) = job {
            self.flight.push(Flight::Job(job));
        }
        while !self.flight.is_empty() && self.random.chance(75) {
            let at = self.random.below(self.flight.len() as u64) as usize;
            match self.flight.swap_remove(at) {
                Flight::Job(job) => self.flight.push(Flight::Done(job.run())),
                Flight::Done(done) => self.finish(done),
            }
        }
    }

    fn finish(&mut self, done: Done) {
        if let Outcome::Candidates { segment, records } = self.log().finish(done) {
            let live = self.shard.live(&records);
            self.say(format!(
                "rewriting {segment}: {} of {} live",
                live.len(),
                records.len()
            ));
            self.log().rewrite(segment, live);
        }
        self.release();
    }

    fn memory_work(&mut self) {
        let Some(job) = self.shard.logs().memory().next_chore() else {
            return;
        };
        let done = job.run();
        if let Outcome::Candidates { segment, records } = self.shard.logs().memory().finish(done) {
            let live = self.shard.live(&records);
            self.shard.logs().memory().rewrite(segment, live);
        }
    }

    pub fn checkpoint(&mut self) {
        if self.derailed {
            return;
        }
        self.end_batch();
        let body = self.shard.encode_checkpoint();
        let end = self.log().end();
        self.say(format!("checkpoint of {} bytes at {end}", body.len()));
        self.log().checkpoint(body);
        self.model.checkpoint();
        let kept = Rc::new(self.model.kept.clone());
        if let Some(last) = self.history.last_mut() {
            last.kept = kept;
        }
    }

    /// Runs everything the log has to do.
    pub fn settle_log(&mut self) {
        for _ in 0..200 {
            if let Some(flight) = self.flight.pop() {
                let done = match flight {
                    Flight::Job(job) => job.run(),
                    Flight::Done(done) => done,
                };
                self.finish(done);
                continue;
            }
            let job = self
                .log()
                .next_write(true)
                .or_else(|| self.log().next_sync());
            let job = job.or_else(|| self.log().next_chore());
            match job {
                Some(job) => self.flight.push(Flight::Job(job)),
                None => return,
            }
        }
    }

    pub fn inject(&mut self) {
        let after = self.random.below(6);
        match self.random.below(4) {
            0 | 1 => {
                let operation = *self.random.pick(&[
                    Operation::Write,
                    Operation::Write,
                    Operation::Sync,
                    Operation::Sync,
                    Operation::Allocate,
                    Operation::Create,
                    Operation::Rename,
                    Operation::Remove,
                    Operation::SyncDir,
                ]);
                let failure = if self.random.chance(70) {
                    Failure::Io
                } else {
                    Failure::Full
                };
                self.say(format!(
                    "{operation:?} will fail with {failure:?} after {after}"
                ));
                self.disk.fail(operation, after, failure);
            }
            2 => {
                let room = self.random.below(40_000);
                self.say(format!("the disk has {room} bytes left"));
                self.disk.set_capacity(Some(self.disk.used() + room));
            }
            _ => {
                let left = self.random.below(8);
                self.say(format!("the machine halts after {left} operations"));
                self.halt_after(left);
            }
        }
    }

    /// The process dies, or the machine; then the shard is opened again and checked.
    pub fn crash(&mut self) {
        self.crashes += 1;
        let end = self.log().end();
        if self.random.chance(40) {
            let left = self.random.below(6);
            self.halt_after(left);
            for flight in std::mem::take(&mut self.flight) {
                if let Flight::Job(job) = flight {
                    drop(job.run());
                }
            }
        }
        self.flight.clear();
        let cut = self.random.chance(70) || self.halting.is_some();
        self.halting = None;
        let written = self.log().watermark(Durability::Interval);
        let synced = self.log().watermark(Durability::Sync);
        self.say(format!(
            "crash ({}), log end {end}, written {written}, synced {synced}, acknowledged {:?}",
            if cut { "power cut" } else { "kill" },
            self.acked
        ));
        // Whatever refers to the old disk state goes first.
        self.shard = Shard::in_memory(MEMORY, self.config.clone(), Timestamp(self.now));
        if cut {
            let seed = self.random.next();
            self.disk.crash(seed);
        }
        self.disk.heal();
        self.disk.set_capacity(None);
        self.pending.clear();
        self.retiring.clear();
        self.emitted.0.clear();
        self.sessions.clear();
        self.now += self.random.below(5_000);
        self.shard = self.open(cut);
        // Behind that there may be a record of the log's own.
        let recovered = self.log().watermark(Durability::Sync);
        let needed = if cut { self.acked[0] } else { self.acked[1] };
        self.say(format!("recovered up to {recovered}"));
        assert!(
            recovered >= needed,
            "acknowledged up to {needed}, recovered up to {recovered} only"
        );
        assert!(
            !cut || recovered >= synced,
            "synced up to {synced}, recovered up to {recovered} only"
        );
        self.derailed = false;
        self.reconcile(recovered);
        self.acked[1] = needed;
        self.history.clear();
        self.history.push(Snapshot {
            end: recovered,
            kept: Rc::new(self.model.kept.clone()),
            via: Vec::new(),
            derailed: false,
        });
        self.advance(0);
        if !self.derailed {
            self.look();
        }
        self.end_batch();
    }

    /// Opens the shard; sometimes the disk fails meanwhile, or the machine dies again.
    fn open(&mut self, cut: bool) -> Shard {
        for _ in 0..self.random.below(3) {
            match self.random.below(3) {
                0 if cut => self.disk.halt_after(self.random.below(12)),
                1 => self
                    .disk
                    .fail(Operation::Read, self.random.below(20), Failure::Io),
                _ => continue,
            }
            let opened = self.try_open();
            self.say(format!("an opening on a failing disk: {}", opened.is_ok()));
            drop(opened);
            if cut {
                let seed = self.random.next();
                self.disk.crash(seed);
            }
            self.disk.heal();
        }
        match self.try_open() {
            Ok(shard) => shard,
            Err(error) => panic!("the shard does not open: {error}"),
        }
    }

    fn try_open(&self) -> Result<Shard, longtail_engine::OpenShardError> {
        Shard::open(
            Arc::new(self.disk.clone()),
            Path::new(DIR),
            self.options.clone(),
            MEMORY,
            self.config.clone(),
            Timestamp(self.now),
        )
        .map(|(shard, _)| shard)
    }

    /// Compares what the shard says of itself with the model.
    pub fn look(&mut self) {
        let session = self.attach();
        for name in self.model.names() {
            self.step(session, Command::DescribeStream { name: name.clone() });
            self.step(session, Command::DescribeGroups { stream: name });
        }
        let groups: Vec<(u64, String)> = (self.model.kept.streams.values())
            .flat_map(|s| s.groups.iter().map(|g| (s.id, g.name.clone())))
            .collect();
        for (stream, group) in groups {
            let marked = Command::Marked {
                stream: Target::Stream(StreamId(stream)),
                group: group.into(),
            };
            self.step(session, marked);
        }
        self.step(session, Command::ListStreams { space: None });
        let page = Command::DescribeStreams {
            space: None,
            after: None,
            limit: 3,
        };
        self.step(session, page);
        self.detach(session);
    }

    /// Sends a command past the model and returns the reply.
    pub fn ask(&mut self, session: SessionId, command: Command) -> Reply {
        self.shard
            .step(Timestamp(self.now), session, 0, command, &mut self.emitted);
        match self.emitted.0.drain(..).next_back() {
            Some((_, _, Effect::Reply(_, reply))) => reply,
            other => panic!("no reply: {other:?}"),
        }
    }
}

fn describe(command: &Command) -> String {
    match command {
        Command::Publish { to, also, message } => {
            let mut line = format!(
                "publish to {to:?} and {also:?}: {} bytes",
                message.payload.len()
            );
            let _ = write!(
                line,
                ", priority {}, delay {}, timeout {}, expires {:?}",
                message.priority, message.delay_ms, message.ack_timeout_ms, message.expires_ms
            );
            line
        }
        Command::Transact(transaction) => {
            let mut line = format!("{} steps as one:", transaction.steps.len());
            for step in &transaction.steps {
                let _ = match step {
                    Step::Publish { to, also, message } => write!(
                        line,
                        " publish to {to:?} and {also:?}: {} bytes,",
                        message.payload.len()
                    ),
                    other => write!(line, " {other:?},"),
                };
            }
            line
        }
        Command::PutDocument { name, body } => {
            format!("document {name}: {:?} bytes", body.as_ref().map(Bytes::len))
        }
        other => format!("{other:?}"),
    }
}

/// Nobody listens.
pub struct Ignore;

impl Effects for Ignore {
    fn emit(&mut self, _: SessionId, _: Gate, _: Effect) {}
}
