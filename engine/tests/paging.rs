//! A shard whose indexes lie in pages almost at once: seeded runs with power cuts and disk faults against a plain model,
//! and what damage to a page leads to.
//!
//! `LONGTAIL_SIM_SEEDS` sets how many seeds are run (from `LONGTAIL_SIM_FIRST`, 0 by default).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longtail_engine::command::Credit;
use longtail_engine::{
    Command, Effect, Effects, Gate, GroupConfig, Handle, Keep, MemoryLimits, NewMessage, Numbering,
    Order, Refusal, Reply, Role, Settle, Shard, ShardConfig, StreamConfig, StreamName, Target,
    Wait,
};
use longtail_log::sim::{Failure, Operation, SimDisk};
use longtail_log::{Disk, Health, Options, Outcome, ShardLog, inspect};
use longtail_model::{ConsumerTag, Durability, GroupId, Link, Lsn, Seq, SessionId, ShardId};
use longtail_model::{StreamId, Timestamp};

const DIR: &str = "/shard";
const NOW: Timestamp = Timestamp(1_000_000);
const NAMES: [&str; 4] = ["own", "log", "job", "task"];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Default)]
struct Seen(Vec<Effect>);

impl Effects for Seen {
    fn emit(&mut self, _: SessionId, _: Gate, effect: Effect) {
        self.0.push(effect);
    }
}

/// What became of one message, and where the log ended then.
enum Change {
    Published(usize, Seq, u64),
    Gone(usize, Seq),
}

struct World {
    disk: SimDisk,
    options: Options,
    config: ShardConfig,
    shard: Shard,
    session: SessionId,
    streams: [StreamId; 4],
    /// Messages of each stream with their bodies.
    model: [BTreeMap<Seq, u64>; 4],
    journal: Vec<(Lsn, Change)>,
    body: u64,
    crashes: u64,
}

fn name(at: usize) -> StreamName {
    StreamName::new("sim", NAMES[at])
}

/// "own" and "log" number for themselves, the others together; "log" keeps what is settled.
fn delete(at: usize) -> Command {
    Command::Delete {
        name: name(at),
        only: longtail_engine::Only::default(),
    }
}

fn config_of(at: usize) -> StreamConfig {
    let mut config = StreamConfig {
        group: Some(GroupConfig {
            order: Order::Sequence,
            ..GroupConfig::default()
        }),
        ..StreamConfig::default()
    };
    if at == 1 {
        config.keep = Keep::UntilLimit;
    }
    if at >= 2 {
        config.numbering = Numbering::Shared("jobs".into());
        config.group = Some(GroupConfig {
            order: Order::Priority,
            ..GroupConfig::default()
        });
    }
    config
}

fn open(disk: &SimDisk, options: &Options, config: &ShardConfig) -> Shard {
    let memory = MemoryLimits {
        bytes: 1 << 20,
        frame_bytes: 1 << 20,
    };
    let disk = Arc::new(disk.clone());
    let opened = Shard::open(
        disk,
        Path::new(DIR),
        options.clone(),
        memory,
        config.clone(),
        NOW,
    );
    opened.expect("the directory opens").0
}

impl World {
    fn new(budget: usize, durability: Durability) -> World {
        let disk = SimDisk::new();
        let options = Options {
            segment_bytes: 256 << 10,
            max_frame_bytes: 64 << 10,
            tail_bytes: 64 << 10,
            reserve_bytes: 64 << 10,
            ahead_bytes: 64 << 10,
            checkpoint_bytes: 64 << 10,
            page_file_bytes: 48 << 10,
            nonce_seed: 1,
            ..Options::new(ShardId(0))
        };
        let config = ShardConfig {
            durability,
            index_memory: budget,
            ..ShardConfig::default()
        };
        let shard = open(&disk, &options, &config);
        let mut world = World {
            disk,
            options,
            config,
            shard,
            session: SessionId(0),
            streams: [StreamId(0); 4],
            model: Default::default(),
            journal: Vec::new(),
            body: 0,
            crashes: 0,
        };
        for at in 0..4 {
            let define = Command::Define {
                name: name(at),
                config: Box::new(config_of(at)),
            };
            world.session = world.shard.attach();
            assert_eq!(world.ask(define), Reply::Done);
        }
        world.settle();
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.session = self.shard.attach();
        for at in 0..4 {
            let open = Command::Open {
                link: Link(at as u32),
                name: name(at),
                create: None,
                role: Role::Consumer,
            };
            let Reply::Opened { stream } = self.ask(open) else {
                panic!("stream {at} is gone");
            };
            self.streams[at] = stream;
            let subscribe = Command::Subscribe {
                consumer: ConsumerTag(at as u32),
                link: Link(at as u32),
                group: "".into(),
            };
            assert_eq!(self.ask(subscribe), Reply::Done);
        }
    }

    fn ask(&mut self, command: Command) -> Reply {
        let mut seen = Seen::default();
        self.shard.step(NOW, self.session, 1, command, &mut seen);
        match seen.0.pop() {
            Some(Effect::Reply(_, reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn log(&mut self) -> &mut (dyn ShardLog + 'static) {
        self.shard.logs().durable().expect("a durable log")
    }

    fn healthy(&mut self) -> bool {
        self.log().health() == Health::Good
    }

    fn note(&mut self, change: Change) {
        let end = self.log().end();
        match change {
            Change::Published(at, seq, body) => {
                self.model[at].insert(seq, body);
            }
            Change::Gone(at, seq) => {
                self.model[at].remove(&seq);
            }
        }
        self.journal.push((end, change));
    }

    /// One write, and one piece of housekeeping.
    fn turn(&mut self) {
        self.shard.end_batch();
        let retired: Vec<Lsn> = self.shard.take_retired().collect();
        for position in retired {
            self.shard.reclaim(position);
        }
        if self.log().wants_checkpoint() {
            self.checkpoint();
        }
        while let Some(job) = self.log().next_write(true) {
            let done = job.run();
            self.log().finish(done);
        }
        if let Some(job) = self.log().next_chore() {
            let done = job.run();
            if let Outcome::Candidates { segment, records } = self.log().finish(done) {
                let live = self.shard.live(&records);
                self.log().rewrite(segment, live);
            }
        }
    }

    fn checkpoint(&mut self) {
        self.shard.end_batch();
        self.shard.tidy_pages();
        let body = self.shard.encode_checkpoint();
        self.log().checkpoint(body);
    }

    fn settle(&mut self) {
        for _ in 0..60 {
            self.turn();
        }
    }

    fn publish(&mut self, at: usize, count: u64) {
        for i in 0..count {
            self.body += 1;
            let body = self.body;
            let message = NewMessage {
                payload: bytes::Bytes::from(body.to_le_bytes().to_vec()),
                ..NewMessage::default()
            };
            let publish = Command::Publish {
                to: Target::Link(Link(at as u32)),
                also: Vec::new(),
                message,
            };
            match self.ask(publish) {
                Reply::Published { seq, .. } => self.note(Change::Published(at, seq, body)),
                Reply::Refused(Refusal::Failed(_) | Refusal::Full(_)) if !self.healthy() => return,
                other => panic!("{other:?}"),
            }
            if i % 500 == 499 {
                self.turn();
            }
        }
    }

    /// Consumes from the head: what comes must be what is first.
    fn consume(&mut self, at: usize, count: u64) {
        for i in 0..count {
            let take = Command::Take {
                consumer: ConsumerTag(at as u32),
                wait: Wait::No,
                deadline_margin_ms: 0,
            };
            let delivery = match self.ask(take) {
                Reply::Delivered(delivery) => delivery,
                Reply::TimedOut => {
                    assert!(self.model[at].is_empty(), "{} has messages", NAMES[at]);
                    return;
                }
                other => panic!("{other:?}"),
            };
            let first = self.model[at].first_key_value();
            assert_eq!(Some(&delivery.seq), first.map(|(seq, _)| seq), "in order");
            self.check_body(at, delivery.seq, delivery.position);
            let settle = Command::Settle {
                message: Handle::Group(delivery.group, delivery.seq),
                how: Settle::Ack,
            };
            match self.ask(settle) {
                Reply::Done => self.note(Change::Gone(at, delivery.seq)),
                Reply::Refused(_) if !self.healthy() => return,
                other => panic!("{other:?}"),
            }
            if i % 500 == 499 {
                self.turn();
            }
        }
    }

    /// Removes messages out of order.
    fn discard(&mut self, at: usize, seqs: impl Iterator<Item = Seq>) {
        for (i, seq) in seqs.enumerate() {
            let message = if at >= 2 {
                Handle::Shared(Link(at as u32), seq)
            } else {
                Handle::Group(GroupId(self.streams[at].0), seq)
            };
            match self.ask(Command::Discard { message }) {
                Reply::Done => {
                    assert!(self.model[at].contains_key(&seq), "{seq} is gone already");
                    self.note(Change::Gone(at, seq));
                }
                Reply::NotFound => assert!(!self.model[at].contains_key(&seq), "{seq} is lost"),
                Reply::Refused(_) if !self.healthy() => return,
                other => panic!("{other:?}"),
            }
            if i % 500 == 499 {
                self.turn();
            }
        }
    }

    fn check_body(&mut self, at: usize, seq: Seq, position: Lsn) {
        let body = self.shard.with_message(position, |message| {
            let bytes = message.payload.first_chunk::<8>();
            bytes.map(|bytes| u64::from_le_bytes(*bytes))
        });
        let body = body.expect("a message that is listed can be read");
        assert_eq!(
            body,
            self.model[at].get(&seq).copied(),
            "{} {seq}",
            NAMES[at]
        );
    }

    /// Reads a stream from a number on and compares.
    fn read(&mut self, at: usize, from: Seq, most: usize) {
        let mut from = from;
        let mut seen = 0;
        while seen < most {
            let read = Command::Read {
                name: name(at),
                from,
                max: 1000,
                max_bytes: u64::MAX,
                wait: Wait::No,
            };
            let (messages, next) = match self.ask(read) {
                Reply::Batch { messages, next } => (messages, next),
                other => panic!("{other:?}"),
            };
            let seqs: Vec<Seq> = messages.iter().map(|message| message.0).collect();
            let wanted: Vec<Seq> = self.model[at]
                .range(from..next)
                .map(|(seq, _)| *seq)
                .collect();
            let differ = seqs.iter().zip(&wanted).find(|(a, b)| a != b);
            assert!(
                seqs == wanted,
                "{} from {from}: {} instead of {}, {differ:?}",
                NAMES[at],
                seqs.len(),
                wanted.len()
            );
            for &(seq, position) in &messages {
                self.check_body(at, seq, position);
            }
            seen += messages.len();
            if next == from || messages.is_empty() && self.model[at].range(next..).next().is_none()
            {
                return;
            }
            from = next;
        }
    }

    fn read_all(&mut self) {
        for at in 0..4 {
            self.read(at, Seq(1), usize::MAX);
            let describe = Command::DescribeStream { name: name(at) };
            let Reply::StreamInfo(info) = self.ask(describe) else {
                panic!("stream {at} is gone");
            };
            assert_eq!(info.messages, self.model[at].len() as u64, "stream {at}");
        }
    }

    /// The machine dies, or only the process; what the log still has is what the model must be.
    fn crash(&mut self, seed: u64) {
        let durability = self.config.durability;
        let safe = self.log().watermark(durability);
        self.disk.crash(seed);
        self.crashes += 1;
        self.shard = open(&self.disk, &self.options, &self.config);
        let end = self.log().end();
        if self.config.durability == Durability::Sync {
            assert!(end >= safe, "what was synced is there");
        }
        self.model = Default::default();
        let journal = std::mem::take(&mut self.journal);
        for (at, change) in journal {
            if at <= end {
                match change {
                    Change::Published(stream, seq, body) => {
                        self.model[stream].insert(seq, body);
                    }
                    Change::Gone(stream, seq) => {
                        self.model[stream].remove(&seq);
                    }
                }
                self.journal.push((at, change));
            }
        }
        self.connect();
    }
}

#[derive(Default)]
struct Totals {
    crashes: u64,
    pages: u64,
    reads: u64,
}

fn run(seed: u64, totals: &mut Totals) {
    let mut random = Random(seed);
    let budget = [0, 4 << 10, 30 << 10][random.below(3) as usize];
    let durability = [Durability::Sync, Durability::Interval][random.below(2) as usize];
    let faults = random.below(2) == 0;
    let mut world = World::new(budget, durability);
    for _ in 0..24 {
        let at = random.below(4) as usize;
        let some = |world: &World, random: &mut Random| {
            let len = world.model[at].len().max(1) as u64;
            let nth = world.model[at].keys().nth(random.below(len) as usize);
            nth.copied().unwrap_or(Seq(1))
        };
        match random.below(12) {
            0..=4 => world.publish(at, random.below(6000)),
            5 if at != 1 => world.consume(at, random.below(5000)),
            // A stream that keeps what is settled has nothing taken out.
            6 if at != 1 => {
                let (from, every) = (some(&world, &mut random), 1 + random.below(3));
                let upto = from.0 + random.below(6000);
                let stretch = world.model[at].range(from..Seq(upto)).map(|(seq, _)| *seq);
                let seqs: Vec<Seq> = stretch.filter(|seq| seq.0 % 7 >= every).collect();
                world.discard(at, seqs.into_iter());
            }
            7 if at != 1 && !world.model[at].is_empty() => {
                let seqs: Vec<Seq> = (0..200).map(|_| some(&world, &mut random)).collect();
                world.discard(at, seqs.into_iter());
            }
            8 => {
                let from = some(&world, &mut random);
                world.read(at, from, 6000);
            }
            9 => world.checkpoint(),
            10 if faults => match random.below(4) {
                0 => world.disk.halt_after(random.below(40)),
                1 => world
                    .disk
                    .fail(Operation::Write, random.below(20), Failure::Io),
                2 => world
                    .disk
                    .fail(Operation::Sync, random.below(10), Failure::Io),
                _ => world
                    .disk
                    .fail(Operation::Create, random.below(3), Failure::Full),
            },
            11 => {
                world.crash(random.next());
                world.read_all();
            }
            _ => world.publish(at, random.below(3000)),
        }
        for _ in 0..random.below(30) {
            world.turn();
        }
        let (pages, reads) = world.shard.pages();
        totals.pages += pages;
        totals.reads += reads;
        if matches!(world.log().health(), Health::Poisoned { .. }) {
            world.crash(random.next());
            world.read_all();
        }
    }
    world.crash(random.next());
    world.read_all();
    totals.crashes += world.crashes;
}

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).unwrap_or_default();
    text.parse().unwrap_or(default)
}

#[test]
fn power_cuts_and_faults_lose_nothing_and_bring_nothing_back() {
    let first = number("LONGTAIL_SIM_FIRST", 0);
    let mut totals = Totals::default();
    for seed in first..first + number("LONGTAIL_SIM_SEEDS", 12) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut one = Totals::default();
            run(seed, &mut one);
            one
        }));
        let one = outcome.unwrap_or_else(|_| panic!("reproduce with LONGTAIL_SIM_FIRST={seed}"));
        totals.crashes += one.crashes;
        totals.pages += one.pages;
        totals.reads += one.reads;
    }
    assert!(totals.crashes > 0 && totals.pages > 0 && totals.reads > 0);
}

fn page_files(disk: &SimDisk) -> Vec<(PathBuf, u64)> {
    let is_pages = |path: &Path| path.to_string_lossy().contains("/pages-");
    let files = disk.files().into_iter();
    files.filter(|(path, _)| is_pages(path)).collect()
}

/// A shard with pages on the disk and a checkpoint that refers to them.
fn paged() -> World {
    let mut world = World::new(0, Durability::Sync);
    world.publish(0, 30_000);
    world.checkpoint();
    world.settle();
    let (pages, _) = world.shard.pages();
    assert!(pages >= 4, "{pages}");
    world
}

/// Flips a bit in the middle of every page file.
fn damage(world: &World) {
    let files = page_files(&world.disk);
    assert!(!files.is_empty());
    for (path, size) in files {
        assert!(world.disk.flip(&path, size / 2, 3));
    }
}

/// Overwrites the pages in all page files; returns what the files were.
fn wipe(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let files: Vec<(PathBuf, Vec<u8>)> = page_files(&world.disk)
        .into_iter()
        .map(|(path, _)| (path.clone(), world.disk.contents(&path).expect("a file")))
        .collect();
    for (path, bytes) in &files {
        world.disk.overwrite(path, 64, &vec![0; bytes.len() - 64]);
    }
    files
}

fn bring_back(world: &World, files: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in files {
        world.disk.overwrite(path, 0, bytes);
    }
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<String>>>);

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write as _;
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("no panic while tracing").push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Reads from `from` on until something is refused: the reason, and from where on. `None` when all was read.
fn read_until_refused(world: &mut World, mut from: Seq) -> Option<(Refusal, Seq)> {
    loop {
        let read = Command::Read {
            name: name(0),
            from,
            max: 4096,
            max_bytes: u64::MAX,
            wait: Wait::No,
        };
        match world.ask(read) {
            Reply::Batch { messages, .. } if messages.is_empty() => return None,
            Reply::Batch { next, .. } => from = next,
            Reply::Refused(refusal) => return Some((refusal, from)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_damaged_page_is_made_again_from_the_log_and_the_operator_is_told_where_it_was() {
    let mut world = paged();
    // Some of it is settled, before and after the pages were written.
    world.discard(0, (8_000..8_200).map(Seq));
    world.checkpoint();
    world.settle();
    damage(&world);
    let shared: Arc<dyn Disk> = Arc::new(world.disk.clone());
    let report = inspect::check(&shared, Path::new(DIR)).expect("the directory is there");
    assert!(!report.is_sound(), "{report}");
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        // A restart reads no page, so it is not held up.
        world.crash(1);
        // Whoever comes to the page first is refused, with the reason.
        let (refusal, from) = read_until_refused(&mut world, Seq(8_200)).expect("a damaged page");
        assert!(refusal.to_string().contains("is damaged"), "{refusal}");
        assert!(world.shard.info().trouble.is_some());
        // At the end of the batch it is there again.
        world.turn();
        assert_eq!(world.shard.info().trouble, None);
        while let Some((_, from)) = read_until_refused(&mut world, from) {
            assert!(from.0 < 30_000);
            world.turn();
        }
    });
    let lines = lines.0.lock().expect("no panic while tracing").clone();
    let told = |line: &&String| line.starts_with("WARN") && line.contains("made again");
    let warning = lines.iter().find(told);
    let warning = warning.unwrap_or_else(|| panic!("no warning in {lines:#?}"));
    let where_from = warning.contains("/shard/pages-") && warning.contains("offset=");
    assert!(where_from, "{warning}");

    // Nothing is lost, nothing settled comes back, also after a restart from what was written again.
    world.read_all();
    world.checkpoint();
    world.settle();
    world.crash(2);
    world.read_all();
    let left = world.model[0].len() as u64;
    assert_eq!(left, 29_800);
    world.consume(0, left);
    assert!(world.model[0].is_empty());
}

#[test]
fn a_consumer_that_comes_to_a_damaged_page_does_not_notice() {
    let mut world = paged();
    damage(&world);
    world.crash(1);
    world.consume(0, 30_000);
    assert!(world.model[0].is_empty());
}

#[test]
fn a_page_that_the_log_cannot_make_again_stays_refused_and_is_said_to() {
    let mut world = paged();
    damage(&world);
    // Segments that hold the messages of these pages are damaged as well.
    let is_segment = |path: &Path| path.extension().is_some_and(|extension| extension == "seg");
    let mut segments: Vec<(PathBuf, u64)> = world.disk.files();
    segments.retain(|(path, _)| is_segment(path));
    segments.sort();
    segments.pop();
    assert!(!segments.is_empty());
    world.crash(1);
    for (path, size) in &segments {
        for at in (4096..*size).step_by(4096) {
            world.disk.flip(path, at, 1);
        }
    }
    let (_, from) = read_until_refused(&mut world, Seq(1)).expect("a damaged page");
    world.turn();
    let (refusal, again) = read_until_refused(&mut world, from).expect("it is still damaged");
    assert!(matches!(refusal, Refusal::Failed(_)), "{refusal}");
    assert_eq!(again, from, "nothing is skipped");
    let trouble = world.shard.info().trouble.expect("the operator is told");
    assert!(trouble.contains("is damaged"), "{trouble}");
    // The stream can be deleted, and another be used.
    assert_eq!(world.ask(delete(0)), Reply::Done);
    world.publish(1, 10);
    assert_eq!(world.model[1].len(), 10);
    world.turn();
}

#[test]
fn what_was_settled_before_a_page_was_damaged_stays_settled_after_a_restart() {
    let mut world = paged();
    // Within a page, behind the last checkpoint.
    let gone: Vec<Seq> = (9_000..9_100).map(Seq).collect();
    world.discard(0, gone.into_iter());
    while let Some(job) = world.log().next_write(true) {
        let done = job.run();
        world.log().finish(done);
    }
    let undamaged = wipe(&world);
    world.crash(1);
    // As if the operator had brought the files back.
    bring_back(&world, &undamaged);
    world.read_all();
}

#[test]
fn consumers_that_wait_go_on_when_a_page_can_be_read_again() {
    let mut world = paged();
    world.crash(1);
    // To the end of the first page that is written out.
    world.consume(0, 8_191);
    let undamaged = wipe(&world);
    let credit = Command::Credit {
        consumer: ConsumerTag(0),
        credit: Credit::Add(1),
    };
    assert_eq!(world.ask(credit), Reply::Done);
    let mut seen = Seen::default();
    world.shard.advance(Timestamp(NOW.0 + 500), &mut seen);
    world.shard.advance(Timestamp(NOW.0 + 1_100), &mut seen);
    assert!(seen.0.is_empty(), "nothing yet: {:?}", seen.0);
    bring_back(&world, &undamaged);
    world.shard.advance(Timestamp(NOW.0 + 2_200), &mut seen);
    assert!(
        matches!(seen.0.as_slice(), [Effect::Push(delivery)] if Some(&delivery.seq) == world.model[0].keys().next()),
        "{:?}",
        seen.0
    );
}

#[test]
fn page_files_go_when_their_messages_are_gone() {
    let mut world = paged();
    world.publish(0, 30_000);
    world.checkpoint();
    world.settle();
    assert!(page_files(&world.disk).len() > 1);
    world.consume(0, 60_000);
    for _ in 0..3 {
        world.publish(1, 1);
        world.checkpoint();
        world.settle();
    }
    let files = page_files(&world.disk);
    assert!(files.len() <= 1, "{files:?}");
}

/// Gives back what was removed, a step at a time; returns how many steps that were.
fn clear(world: &mut World) -> usize {
    let mut steps = 0;
    while world.shard.has_remains() {
        world.shard.clear_some();
        let given: Vec<Lsn> = world.shard.take_retired().collect();
        assert!(given.len() <= 4096, "{} at once", given.len());
        for position in given {
            world.shard.reclaim(position);
        }
        steps += 1;
    }
    steps
}

#[test]
fn a_long_stream_is_purged_at_once_and_given_back_in_steps_also_after_a_restart() {
    for whole in [true, false] {
        let mut world = paged();
        world.publish(0, 30_000);
        if !whole {
            // A message that somebody holds stays, and its page with it.
            let take = Command::Take {
                consumer: ConsumerTag(0),
                wait: Wait::No,
                deadline_margin_ms: 0,
            };
            assert!(matches!(world.ask(take), Reply::Delivered(_)));
        }
        let purge = Command::Purge {
            stream: name(0),
            group: None,
            held: false,
        };
        let (_, reads) = world.shard.pages();
        let gone = if whole { 60_000 } else { 59_999 };
        assert_eq!(world.ask(purge), Reply::Count(gone));
        let (_, after) = world.shard.pages();
        assert!(after - reads <= 2, "{} pages read", after - reads);
        assert!(world.shard.take_retired().count() <= 2 * 4096);
        assert!(world.shard.has_remains());
        // What comes next has nothing to do with what is given back.
        world.publish(0, 100);
        let left = 60_100 - gone;
        let info = |world: &mut World| match world.ask(Command::DescribeStream { name: name(0) }) {
            Reply::StreamInfo(info) => (info.messages, info.next),
            other => panic!("{other:?}"),
        };
        assert_eq!(info(&mut world), (left, Seq(60_101)));
        world.shard.clear_some();
        // In the middle of it, with and without a checkpoint that knows of the rest.
        for checkpoint in [false, true] {
            if checkpoint {
                world.checkpoint();
            }
            world.settle();
            world.crash(1);
            assert_eq!(info(&mut world), (left, Seq(60_101)));
            assert!(world.shard.has_remains(), "it goes on where it was");
            world.shard.clear_some();
            world.turn();
        }
        assert!(clear(&mut world) >= 10);
        for _ in 0..3 {
            world.publish(1, 1);
            world.checkpoint();
            world.settle();
        }
        let (pages, _) = world.shard.pages();
        assert!(pages <= 1, "{pages}");
        let files = page_files(&world.disk);
        assert!(files.len() <= 2, "{files:?}");
        assert_eq!(info(&mut world), (left, Seq(60_101)));
    }
}

#[test]
fn a_stream_tells_what_is_known_of_its_messages_in_memory() {
    let mut world = World::new(0, Durability::Sync);
    let of = |world: &mut World, at: usize| match world
        .ask(Command::DescribeStream { name: name(at) })
    {
        Reply::StreamInfo(info) => info.index_bytes,
        other => panic!("{other:?}"),
    };
    let empty = of(&mut world, 0);
    assert!(empty < 1_024, "{empty}");
    world.publish(0, 2_000);
    let some = of(&mut world, 0);
    assert!(some > empty + 2_000, "{some}");
    // Pages on the disk take next to nothing.
    world.publish(0, 28_000);
    world.checkpoint();
    world.settle();
    let paged = of(&mut world, 0);
    assert!(paged < 30_000, "{paged}");
    // What streams share is nobody's own; what lists them by priority is.
    world.publish(2, 1_000);
    let (own, shared) = (of(&mut world, 0) + of(&mut world, 1), of(&mut world, 2));
    assert!((1..40_000).contains(&shared), "{shared}");
    let all = world.shard.info().index_bytes;
    assert!(all > own + shared, "{all}");
    let purge = Command::Purge {
        stream: name(0),
        group: None,
        held: false,
    };
    assert_eq!(world.ask(purge), Reply::Count(30_000));
    let purged = of(&mut world, 0);
    assert!(purged < 1_024 + 8 * 256, "{purged}");
}

#[test]
fn a_long_stream_is_deleted_at_once_and_given_back_in_steps() {
    let mut world = paged();
    world.publish(1, 10);
    let before = world
        .shard
        .logs_ref()
        .durable_ref()
        .and_then(longtail_log::ShardLog::disk_bytes);
    assert_eq!(world.ask(delete(0)), Reply::Done);
    assert_eq!(world.shard.take_retired().count(), 0);
    assert_eq!(
        world.ask(Command::DescribeStream { name: name(0) }),
        Reply::NotFound
    );
    assert!(clear(&mut world) >= 7, "30,000 messages");
    for _ in 0..3 {
        world.publish(1, 1);
        world.checkpoint();
        world.settle();
    }
    assert_eq!(world.shard.pages().0, 0);
    let after = world
        .shard
        .logs_ref()
        .durable_ref()
        .and_then(longtail_log::ShardLog::disk_bytes);
    assert!(after < before, "{after:?} of {before:?}");
}
