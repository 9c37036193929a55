//! Driving a log the way a runtime does, on one thread.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use longtail_log::sim::SimDisk;
use longtail_log::{
    Body, Class, FileLog, OpenError, Opened, Options, Outcome, RecordParts, ShardLog,
};
use longtail_model::{Lsn, ShardId};

/// A retained record without a body.
pub fn retained(head: &[u8]) -> RecordParts<'_> {
    RecordParts {
        head,
        body: Body::NONE,
        retained: true,
    }
}

/// A record that only matters until a checkpoint covers it.
pub fn control(head: &[u8]) -> RecordParts<'_> {
    RecordParts {
        head,
        body: Body::NONE,
        retained: false,
    }
}

/// Appends one retained message and returns its position.
pub fn put(log: &mut dyn ShardLog, payload: &[u8]) -> Lsn {
    log.append(&[retained(payload)], Class::Message)
        .expect("there is room")
}

/// Runs writes (with sync) until nothing waits.
pub fn flush(log: &mut dyn ShardLog) {
    while let Some(job) = log.next_write(true) {
        let done = job.run();
        assert_eq!(log.finish(done), Outcome::Done);
    }
}

/// Runs writes and housekeeping until nothing is left to do; `live` answers for candidates.
pub fn settle(log: &mut dyn ShardLog, live: &BTreeMap<Lsn, Vec<u8>>) {
    loop {
        flush(log);
        let Some(job) = log.next_chore() else { return };
        let done = job.run();
        answer(log, done, live);
    }
}

/// Gives a result back and filters candidates.
pub fn answer(log: &mut dyn ShardLog, done: longtail_log::Done, live: &BTreeMap<Lsn, Vec<u8>>) {
    if let Outcome::Candidates { segment, records } = log.finish(done) {
        let kept = records
            .iter()
            .filter(|scanned| {
                live.get(&scanned.lsn).is_some_and(|payload| {
                    payload.starts_with(&scanned.head) || scanned.head.starts_with(payload)
                })
            })
            .map(|scanned| scanned.lsn)
            .collect();
        log.rewrite(segment, kept);
    }
}

/// The payload at a position.
pub fn read(log: &mut dyn ShardLog, lsn: Lsn) -> Result<Vec<u8>, longtail_log::ReadError> {
    let mut out = Vec::new();
    log.read(lsn, &mut |payload| out.extend(payload.to_vec()))?;
    Ok(out)
}

/// Every frame of a replay: its records as (position, payload, retained).
pub type Frames = Vec<Vec<(Lsn, Vec<u8>, bool)>>;

/// Reads a replay to its end.
pub fn replay(opened: &mut Opened) -> Frames {
    let mut frames = Vec::new();
    while let Some(frame) = opened.replay.next_frame().expect("the replay reads") {
        frames.push(
            frame
                .records()
                .map(|record| (record.lsn, record.payload.to_vec(), record.retained))
                .collect(),
        );
    }
    frames
}

/// Small numbers that look random.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        // Distinct at the front and cheap for the rest: most of a test's time would go here.
        let tag = self.next().to_le_bytes();
        let mut out = vec![tag[0]; len];
        let n = len.min(tag.len());
        out[..n].copy_from_slice(&tag[..n]);
        out
    }
}

/// Where the logs of tests on a simulated disk are.
pub const DIR: &str = "/log";

/// Everything small, so that segments roll and checkpoints come soon.
pub fn small() -> Options {
    Options {
        segment_bytes: 64 << 10,
        tail_bytes: 16 << 10,
        ahead_bytes: 16 << 10,
        reserve_bytes: 16 << 10,
        checkpoint_bytes: 64 << 10,
        nonce_seed: 1,
        ..Options::new(ShardId(0))
    }
}

/// Opens a small log on a simulated disk.
pub fn try_open(disk: &SimDisk) -> Result<Opened, OpenError> {
    FileLog::open(Arc::new(disk.clone()), Path::new(DIR), small())
}
