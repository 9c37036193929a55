//! A small owner over a log on a simulated disk, crashed at every kind of moment, and compared with a model: nothing
//! that was durable is lost, no frame is there in part, and no living record goes with its segment.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use common::{Rng, control, read, retained};
use longtail_log::sim::{Failure, Operation, SimDisk};
use longtail_log::{
    Class, Done, FileLog, Health, Job, OpenError, Opened, Options, Outcome, RecordParts, ShardLog,
};
use longtail_model::{Durability, Lsn, ShardId};

const DIR: &str = "/log";
/// Lives tried in an ordinary run; `LONGTAIL_LOG_SEEDS=50000..90000` tries others.
const SEEDS: Range<u64> = 0..1000;

/// What one frame does to the owner's state.
#[derive(Clone, Debug)]
struct Transition {
    lsn: Lsn,
    end: Lsn,
    puts: Vec<(Lsn, Vec<u8>)>,
    settles: Vec<Lsn>,
}

type Live = BTreeMap<Lsn, Vec<u8>>;

/// The owner: what is alive, rebuilt from checkpoint and replay.
struct Owner {
    disk: SimDisk,
    log: FileLog,
    live: Live,
    checkpoint: Lsn,
}

fn options(seed: u64) -> Options {
    Options {
        segment_bytes: 64 << 10,
        max_frame_bytes: 256 << 10,
        tail_bytes: 8 << 10,
        ahead_bytes: 8 << 10,
        reserve_bytes: 8 << 10,
        checkpoint_bytes: 24 << 10,
        recycled_segments: (seed % 3) as usize,
        nonce_seed: seed,
        ..Options::new(ShardId(0))
    }
}

fn encode(live: &Live) -> Vec<u8> {
    let mut body = Vec::new();
    for (lsn, payload) in live {
        body.extend_from_slice(&lsn.0.to_le_bytes());
        body.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        body.extend_from_slice(payload);
    }
    body
}

fn decode(mut body: &[u8]) -> Live {
    let mut live = Live::new();
    while let Some((lsn, rest)) = body.split_first_chunk::<8>() {
        let (len, rest) = rest.split_first_chunk::<4>().unwrap();
        let (payload, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        live.insert(Lsn(u64::from_le_bytes(*lsn)), payload.to_vec());
        body = rest;
    }
    live
}

fn apply(live: &mut Live, transition: &Transition) {
    live.extend(transition.puts.iter().cloned());
    for lsn in &transition.settles {
        live.remove(lsn).expect("settled once");
    }
}

impl Owner {
    fn open(disk: &SimDisk, seed: u64) -> Self {
        let opened = FileLog::open(Arc::new(disk.clone()), Path::new(DIR), options(seed));
        let Opened {
            mut log,
            checkpoint,
            mut replay,
        } = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let (covers, mut live) = match checkpoint {
            Some((covers, body)) => (covers, decode(&body)),
            None => (Lsn::ZERO, Live::new()),
        };
        while let Some(frame) = replay.next_frame().unwrap() {
            for record in frame.records() {
                if record.retained {
                    live.insert(record.lsn, record.payload.to_vec());
                } else if let Some(lsn) = record.payload.strip_prefix(b"settle") {
                    let lsn = Lsn(u64::from_le_bytes(lsn.try_into().unwrap()));
                    live.remove(&lsn).expect("settled once");
                    log.retire(lsn);
                }
            }
        }
        Owner {
            disk: disk.clone(),
            log,
            live,
            checkpoint: covers,
        }
    }

    fn transition(&mut self, rng: &mut Rng, history: &mut Vec<Transition>) {
        let puts: Vec<Vec<u8>> = (0..rng.below(4))
            .map(|_| {
                let len = match rng.below(60) {
                    0 => 70_000,
                    1..4 => 9000,
                    // Equal sizes are where stale records line up.
                    4..30 => 40,
                    _ => rng.below(600),
                };
                rng.bytes(len as usize)
            })
            .collect();
        let mut settles: Vec<Lsn> = Vec::new();
        for _ in 0..rng.below(5) {
            if !self.live.is_empty() && self.live.len() > rng.below(40) as usize {
                let pick = rng.below(self.live.len() as u64) as usize;
                let lsn = *self.live.keys().nth(pick).unwrap();
                if !settles.contains(&lsn) {
                    settles.push(lsn);
                }
            }
        }
        let texts: Vec<Vec<u8>> = settles
            .iter()
            .map(|lsn| [&b"settle"[..], &lsn.0.to_le_bytes()].concat())
            .collect();
        let mut frame: Vec<RecordParts<'_>> = puts.iter().map(|p| retained(p)).collect();
        frame.extend(texts.iter().map(|t| control(t)));
        if frame.is_empty() {
            frame.push(control(b"nothing"));
        }
        let Ok(lsn) = self.log.append(&frame, Class::Message) else {
            return;
        };
        let mut at = lsn;
        let mut placed = Vec::new();
        for put in puts {
            let next = Lsn(at.0 + self.log.span(put.len()));
            placed.push((at, put));
            at = next;
        }
        let transition = Transition {
            lsn,
            end: self.log.end(),
            puts: placed,
            settles,
        };
        apply(&mut self.live, &transition);
        for lsn in &transition.settles {
            self.log.retire(*lsn);
        }
        history.push(transition);
    }

    fn finish(&mut self, done: Done) {
        if let Outcome::Candidates { segment, records } = self.log.finish(done) {
            let mut kept = Vec::new();
            for scanned in records {
                if let Some(payload) = self.live.get(&scanned.lsn) {
                    assert!(payload.starts_with(&scanned.head));
                    kept.push(scanned.lsn);
                }
            }
            self.log.rewrite(segment, kept);
        }
    }

    fn check_reads(&mut self, rng: &mut Rng, all: bool) {
        for (lsn, payload) in &self.live {
            if all || rng.below(16) == 0 {
                match read(&mut self.log, *lsn) {
                    Ok(found) => assert_eq!(&found, payload, "at {lsn}"),
                    Err(error) if !all && self.disk_is_off() => drop(error),
                    Err(error) => panic!("at {lsn}: {error}"),
                }
            }
        }
    }

    fn disk_is_off(&self) -> bool {
        use longtail_log::Disk;
        self.disk.list(Path::new(DIR)).is_err()
    }
}

fn take_job(log: &mut FileLog, rng: &mut Rng) -> Option<Job> {
    match rng.below(6) {
        0 | 1 => log.next_write(true),
        2 => log.next_write(false),
        3 => log.next_sync(),
        _ => log.next_chore(),
    }
}

/// What some lives of a log came across.
#[derive(Default)]
struct Seen {
    /// Restarts from a checkpoint.
    checkpoints: u64,
    /// Transitions that a crash took.
    lost: u64,
    /// Restarts of a poisoned log on a machine that went on.
    revived: u64,
    /// Restarts that failed halfway.
    refused: u64,
}

/// A restart during which the disk fails. What it declared durable, if it came that far, counts.
fn troubled_open(disk: &SimDisk, seed: u64, rng: &mut Rng, seen: &mut Seen) -> Lsn {
    const OPERATIONS: [Operation; 4] = [
        Operation::Write,
        Operation::Sync,
        Operation::SetLen,
        Operation::SyncDir,
    ];
    let operation = OPERATIONS[rng.below(OPERATIONS.len() as u64) as usize];
    disk.fail(operation, rng.below(2), Failure::Io);
    let opened = FileLog::open(Arc::new(disk.clone()), Path::new(DIR), options(seed));
    disk.heal();
    match opened {
        Ok(opened) => opened.log.watermark(Durability::Sync),
        Err(OpenError::Io { .. }) => {
            seen.refused += 1;
            Lsn::ZERO
        }
        Err(error) => panic!("seed {seed}: {error}"),
    }
}

/// One life of a log after the other, each ended by a crash: of the machine, or of the process alone.
fn lives(seed: u64, steps: u64, seen: &mut Seen) {
    let mut rng = Rng(seed);
    let disk = SimDisk::new();
    let mut history: Vec<Transition> = Vec::new();
    let mut durable = Lsn::ZERO;
    for life in 0..5 {
        if rng.below(6) == 0 {
            durable = durable.max(troubled_open(&disk, seed, &mut rng, seen));
            if rng.below(2) == 0 {
                disk.crash(rng.next());
            }
        }
        let mut owner = Owner::open(&disk, seed);
        assert!(owner.log.end() >= durable, "seed {seed} life {life}: lost");
        // What is there is a prefix of what was done, in whole frames.
        let end = owner.log.end();
        let kept = history.iter().take_while(|t| t.end <= end).count();
        if let Some(next) = history.get(kept) {
            assert!(next.lsn >= end, "seed {seed} life {life}: half a frame");
        }
        seen.lost += (history.len() - kept) as u64;
        history.truncate(kept);
        let mut model = Live::new();
        for transition in &history {
            apply(&mut model, transition);
        }
        assert_eq!(owner.live, model, "seed {seed} life {life}");
        owner.check_reads(&mut rng, true);
        seen.checkpoints += u64::from(owner.checkpoint > Lsn::ZERO);
        durable = durable.max(owner.log.watermark(Durability::Sync));

        if rng.below(2) == 0 {
            disk.halt_after(rng.below(steps));
        }
        if rng.below(3) == 0 {
            inject(&disk, &mut rng, steps);
        }
        let mut held: Vec<Job> = Vec::new();
        let mut done: Vec<Done> = Vec::new();
        for _ in 0..rng.below(steps) {
            match rng.below(12) {
                0..5 => owner.transition(&mut rng, &mut history),
                5..9 => held.extend(take_job(&mut owner.log, &mut rng)),
                9 => owner.check_reads(&mut rng, false),
                _ if !held.is_empty() => {
                    let pick = rng.below(held.len() as u64) as usize;
                    done.push(held.swap_remove(pick).run());
                }
                _ => {}
            }
            if !done.is_empty() && rng.below(3) > 0 {
                let pick = rng.below(done.len() as u64) as usize;
                let one = done.swap_remove(pick);
                owner.finish(one);
            }
            if owner.log.wants_checkpoint() {
                let body = encode(&owner.live);
                owner.log.checkpoint(body);
            }
            durable = durable.max(owner.log.watermark(Durability::Sync));
        }
        let poisoned = matches!(owner.log.health(), Health::Poisoned { .. });
        let process_only = !owner.disk_is_off() && rng.below(4) < if poisoned { 3 } else { 1 };
        drop((owner, held, done));
        if process_only {
            // What the disk dropped is still in the cache.
            seen.revived += u64::from(poisoned);
            disk.heal();
            disk.halt_after(u64::MAX);
        } else {
            disk.crash(rng.next());
        }
        disk.set_capacity(None);
        if rng.below(4) == 0 {
            damage_newest_checkpoint(&disk);
        }
    }
}

/// Lets some operation fail, sooner or later in this life. Whatever the log makes of it, it may not lose anything.
fn inject(disk: &SimDisk, rng: &mut Rng, steps: u64) {
    const OPERATIONS: [Operation; 8] = [
        Operation::Write,
        Operation::Sync,
        Operation::Allocate,
        Operation::SetLen,
        Operation::Create,
        Operation::Rename,
        Operation::Remove,
        Operation::SyncDir,
    ];
    for _ in 0..1 + rng.below(4) {
        let operation = OPERATIONS[rng.below(OPERATIONS.len() as u64) as usize];
        let failure = match rng.below(3) {
            0 => Failure::Io,
            _ => Failure::Full,
        };
        disk.fail(operation, rng.below(steps / 8), failure);
    }
    if rng.below(3) == 0 {
        disk.set_capacity(Some(disk.used() + (rng.below(200) << 10)));
    }
}

/// One bad checkpoint must cost nothing but a longer replay, as long as there are two.
fn damage_newest_checkpoint(disk: &SimDisk) {
    let mut checkpoints: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.to_string_lossy().contains("checkpoint-"))
        .collect();
    checkpoints.sort();
    if let [_, .., (newest, size)] = checkpoints.as_slice() {
        assert!(disk.flip(newest, size / 2, 3));
    }
}

#[test]
fn nothing_durable_is_lost_by_a_crash() {
    let mut seen = Seen::default();
    let chosen = std::env::var("LONGTAIL_LOG_SEEDS").ok().map(|text| {
        let (from, to) = text.split_once("..").expect("a range");
        from.parse().unwrap()..to.parse().unwrap()
    });
    for seed in chosen.unwrap_or(SEEDS) {
        let steps = if seed % 10 == 0 { 2000 } else { 150 };
        lives(seed, steps, &mut seen);
    }
    // The schedule must reach what it is there for.
    let Seen {
        checkpoints,
        lost,
        revived,
        refused,
    } = seen;
    assert!(
        checkpoints > 100,
        "{checkpoints} restarts from a checkpoint"
    );
    assert!(lost > 1000, "{lost} transitions lost, all unsynced");
    assert!(revived > 100, "{revived} restarts of a poisoned log");
    assert!(refused > 50, "{refused} restarts that failed halfway");
}
