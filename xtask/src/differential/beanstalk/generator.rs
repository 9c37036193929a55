//! Random commands: mostly ones that do something to what is there, some that are refused, some that are garbage.

use super::ids::Ids;
use crate::random::Random;

/// The tubes the commands are about. Few, so that connections meet.
const TUBES: &[&str] = &["default", "a", "b-2", "c.d/e;f+$_()", "z9"];

/// A put may carry this many bytes at most on a server with default settings.
const JOB_SIZE_MAX: usize = 65535;

/// What time means to the commands generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// Every delay, time to run and pause is so long that no timer fires.
    Still,
    /// Delays, timeouts and pauses are a few seconds, so that timers do fire.
    Moving,
}

/// What is known about the servers' state: enough to write commands that meet something.
#[derive(Debug)]
pub(super) struct Generator {
    random: Random,
    clock: Clock,
    last_id: u64,
    /// What each connection reserved and has not given back, as far as the replies told.
    held: Vec<Vec<u64>>,
}

/// Some bytes to send in one go.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    /// The same with the candidate's ids of jobs.
    pub(super) for_candidate: Vec<u8>,
    pub(super) commands: u64,
    /// How many replies are certain.
    pub(super) replies: u64,
    /// Whether its last command may wait.
    pub(super) may_wait: bool,
    /// Whether it must arrive in one piece: a line that is too long, whose end the original may miss otherwise.
    pub(super) whole: bool,
    /// Whether its last command ends a pause, for which a server may need a moment.
    pub(super) unpauses: bool,
    /// Whether its last command ends the connection.
    pub(super) quits: bool,
}

impl Chunk {
    /// The same bytes for both.
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.for_candidate.extend_from_slice(bytes);
    }

    /// A command about a job, under the id that each of the servers knows it by.
    fn about(&mut self, ids: &Ids, command: &str, job: u64, rest: &str) {
        for (bytes, id) in [
            (&mut self.bytes, job),
            (&mut self.for_candidate, ids.of(job)),
        ] {
            bytes.extend_from_slice(format!("{command} {id}{rest}\r\n").as_bytes());
        }
    }
}

impl Generator {
    pub(super) fn new(seed: u64, clock: Clock, connections: usize) -> Self {
        Generator {
            random: Random::new(seed),
            clock,
            last_id: 0,
            held: vec![Vec::new(); connections],
        }
    }

    /// The randomness, for decisions about connections.
    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Learns from a reply to a connection.
    pub(super) fn learn(&mut self, connection: usize, reply: &crate::beanstalk::Reply) {
        if let Some(id) = reply.number_after("INSERTED") {
            self.last_id = self.last_id.max(id);
        }
        if let Some(id) = reply.number_after("RESERVED") {
            self.held[connection].push(id);
        }
    }

    /// Forgets what a connection held.
    pub(super) fn forget(&mut self, connection: usize) {
        self.held[connection].clear();
    }

    /// One to four commands for a connection; only the last may wait, and only when `may_wait` allows it.
    pub(super) fn chunk(&mut self, connection: usize, may_wait: bool, ids: &mut Ids) -> Chunk {
        let mut chunk = Chunk::default();
        // What two commands of one chunk lead to seconds later would come in the same millisecond, in any order.
        let several = self.clock == Clock::Still && self.random.one_in(3);
        let count = if several { 2 + self.random.below(3) } else { 1 };
        // What waits comes alone when time moves, for the same reason.
        let waits = may_wait && self.random.one_in(12);
        let count = if waits && self.clock == Clock::Moving {
            0
        } else {
            count
        };
        for _ in 0..count {
            self.command(connection, &mut chunk, ids);
            chunk.replies = chunk.commands;
            if chunk.unpauses {
                return chunk;
            }
        }
        if self.clock == Clock::Still && self.random.one_in(400) {
            chunk.add(if self.random.one_in(2) {
                b"quit\r\n"
            } else {
                b"quit now\r\n"
            });
            chunk.commands += 1;
            chunk.quits = true;
        } else if waits {
            let line = match (self.clock, self.random.one_in(2)) {
                (_, true) => "reserve".to_owned(),
                (Clock::Still, _) => "reserve-with-timeout 100000".to_owned(),
                (Clock::Moving, _) => format!("reserve-with-timeout {}", self.seconds()),
            };
            // The reply to the first of the two, when it stays the last, shows that the second waits.
            chunk.add(format!("list-tube-used\r\n{line}\r\n").as_bytes());
            chunk.commands += 2;
            chunk.replies += 1;
            chunk.may_wait = true;
        }
        chunk
    }

    fn command(&mut self, connection: usize, chunk: &mut Chunk, ids: &mut Ids) {
        chunk.commands += 1;
        let line = match self.random.below(114) {
            0..24 => return self.put(chunk, ids),
            24..38 => "reserve-with-timeout 0".to_owned(),
            38..42 => return chunk.about(ids, "reserve-job", self.any_job(), ""),
            42..54 => return chunk.about(ids, "delete", self.job(connection, true), ""),
            54..61 => {
                let job = self.job(connection, true);
                let rest = format!(" {} {}", self.priority(), self.delay());
                return chunk.about(ids, "release", job, &rest);
            }
            61..66 => {
                let job = self.job(connection, true);
                let rest = format!(" {}", self.priority());
                return chunk.about(ids, "bury", job, &rest);
            }
            66..69 => format!("kick {}", self.random.below(4)),
            69..72 => return chunk.about(ids, "kick-job", self.any_job(), ""),
            72..75 => return chunk.about(ids, "touch", self.job(connection, false), ""),
            75..78 => return chunk.about(ids, "peek", self.any_job(), ""),
            78..80 => "peek-ready".to_owned(),
            80..82 => "peek-delayed".to_owned(),
            82..84 => "peek-buried".to_owned(),
            84..88 => format!("use {}", self.tube()),
            88..91 => format!("watch {}", self.tube()),
            91..94 => format!("ignore {}", self.tube()),
            94..97 => return chunk.about(ids, "stats-job", self.any_job(), ""),
            97..100 => format!("stats-tube {}", self.tube()),
            100 => "stats".to_owned(),
            101 => "list-tubes".to_owned(),
            102 => "list-tube-used".to_owned(),
            103 => "list-tubes-watched".to_owned(),
            104..106 => {
                let seconds = self.pause();
                chunk.unpauses = seconds == 0;
                format!("pause-tube {} {seconds}", self.tube())
            }
            _ => return self.garbage(chunk),
        };
        chunk.add(line.as_bytes());
        chunk.add(b"\r\n");
    }

    fn put(&mut self, chunk: &mut Chunk, ids: &mut Ids) {
        let size = match self.random.below(100) {
            0 => JOB_SIZE_MAX,
            1 => JOB_SIZE_MAX + 1 + self.random.index(3000),
            2..5 => self.random.index(5000),
            _ => self.random.index(40),
        };
        let (priority, delay) = (self.priority(), self.delay());
        let ttr = 100_000 + self.random.below(5);
        let mut bytes = format!("put {priority} {delay} {ttr} {size}\r\n").into_bytes();
        let start = bytes.len();
        bytes.resize(start + size, b'.');
        for place in 0..size.min(24) {
            bytes[start + place] = *self.random.pick(b"ab\r\n\0\xff put 0");
        }
        let has_end = !self.random.one_in(60);
        bytes.extend_from_slice(if has_end { b"\r\n" } else { b"!!" });
        chunk.add(&bytes);
        if size <= JOB_SIZE_MAX {
            if has_end {
                ids.put();
            } else {
                ids.spend();
            }
        }
    }

    fn garbage(&mut self, chunk: &mut Chunk) {
        const LINES: &[&[u8]] = &[
            b"",
            b"put",
            b"put 1 2 3",
            b"put x 0 0 0",
            b"put -1 0 10 0",
            b"put 0 0 10 1 1",
            b"put 4294967296 0 10 0",
            b"delete",
            b"delete ",
            b"delete 1x",
            b"delete -1",
            b"delete 18446744073709551616",
            // It is read as a number; the servers' own numbers differ, so it has to be one that neither has.
            b"peek  999999999",
            b"peek 1 ",
            b"peek-ready ",
            b"peek-nothing",
            b"reservefoo",
            b"reserve-job",
            b"release 1",
            b"release 1 1",
            b"release 1 1 1 1",
            b"bury 1",
            b"bury 1 -1",
            b"touch",
            b"touch a",
            b"kick",
            b"kick x",
            b"kick 1 more",
            b"kick-job 1 1",
            b"stats x",
            b"stats-job",
            b"stats-tube",
            b"stats-tube -x",
            b"stats-tube nobody-made-this",
            b"use",
            b"use -x",
            b"use a b",
            b"use \xc3\xa9",
            b"watch a*",
            b"ignore ",
            b"ignore nobody-made-this",
            b"list-tube",
            b"list-tubes ",
            b"list-tube-used x",
            b"list-tubes-watched!",
            b"pause-tube a",
            b"pause-tube nobody-made-this 5",
            b"pause-tube a x",
            b"pause-tube a -1",
            b"USE a",
            b" use a",
            b"use\ta",
            b"list-tube-used\0",
            b"\xff\xfe",
            b"\n",
        ];
        let mut bytes = Vec::new();
        if self.random.one_in(6) {
            chunk.whole = true;
            let length = *self
                .random
                .pick(&[200, 222, 224, 228, 300, 446, 448, 700, 3000]);
            bytes.extend(std::iter::repeat_n(b'w', length));
        } else if self.random.one_in(8) {
            bytes.extend_from_slice(b"use ");
            bytes.extend(std::iter::repeat_n(b'n', 199 + self.random.index(3)));
        } else {
            let line = *self.random.pick(LINES);
            bytes.extend_from_slice(line);
        }
        bytes.extend_from_slice(b"\r\n");
        chunk.add(&bytes);
    }

    fn tube(&mut self) -> &'static str {
        TUBES[self.random.index(TUBES.len())]
    }

    fn priority(&mut self) -> u64 {
        *self
            .random
            .pick(&[0, 1, 1, 2, 1023, 1024, 5000, 4_294_967_295])
    }

    fn delay(&mut self) -> u64 {
        match (self.random.below(5), self.clock) {
            // So different that no two jobs are due in one millisecond.
            (0, Clock::Still) => 100_000 + self.random.below(1_000_000),
            (0, Clock::Moving) => self.seconds(),
            _ => 0,
        }
    }

    fn pause(&mut self) -> u64 {
        match self.clock {
            // More often ended than begun: most of the time a tube must give its jobs away.
            Clock::Still if !self.random.one_in(4) => 0,
            Clock::Still => 100_000 + self.random.below(50),
            Clock::Moving => self.seconds(),
        }
    }

    fn seconds(&mut self) -> u64 {
        1 + self.random.below(4)
    }

    fn job(&mut self, connection: usize, gives_it_up: bool) -> u64 {
        let held = &mut self.held[connection];
        if held.is_empty() || self.random.one_in(4) {
            return self.any_job();
        }
        let place = self.random.index(held.len());
        if gives_it_up {
            held.swap_remove(place)
        } else {
            held[place]
        }
    }

    fn any_job(&mut self) -> u64 {
        match self.random.below(40) {
            0 => 0,
            1 => u64::MAX,
            2 => self.last_id + 1,
            _ => self.last_id.saturating_sub(self.random.below(60)),
        }
    }
}
