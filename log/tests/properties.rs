//! Random histories, shrunk to the shortest that fails: a log on files (restarted now and then) and one in memory
//! behave as a map of positions does.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use common::{answer, control, flush, read, retained, settle};
use longtail_log::sim::SimDisk;
use longtail_log::{Body, Class, FileLog, MemLog, Options, RecordParts, ShardLog};
use longtail_model::{Lsn, ShardId};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// A frame with a record of this size, and another one that is not retained.
    Put(usize),
    /// Settles one of the living, by rank.
    Settle(usize),
    Write(bool),
    Sync,
    Chore,
    Checkpoint,
    /// Everything written, then opened again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![0..200usize, 0..6000usize, 19_000..22_000usize, Just(70_000)].prop_map(Step::Put),
        6 => any::<usize>().prop_map(Step::Settle),
        3 => any::<bool>().prop_map(Step::Write),
        1 => Just(Step::Sync),
        4 => Just(Step::Chore),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
    ]
}

fn open(disk: &SimDisk) -> (FileLog, Vec<Lsn>) {
    let options = Options {
        segment_bytes: 64 << 10,
        max_frame_bytes: 128 << 10,
        tail_bytes: 8 << 10,
        ahead_bytes: 8 << 10,
        reserve_bytes: 4096,
        nonce_seed: 5,
        ..Options::new(ShardId(0))
    };
    let mut opened = FileLog::open(Arc::new(disk.clone()), Path::new("/log"), options).unwrap();
    let mut settled = Vec::new();
    while let Some(frame) = opened.replay.next_frame().unwrap() {
        for record in frame.records().filter(|record| !record.retained) {
            if let Ok(lsn) = record.payload.try_into() {
                settled.push(Lsn(u64::from_le_bytes(lsn)));
            }
        }
    }
    (opened.log, settled)
}

fn compare(log: &mut dyn ShardLog, live: &BTreeMap<Lsn, Vec<u8>>) {
    for (lsn, payload) in live {
        assert_eq!(&read(log, *lsn).unwrap(), payload, "at {lsn}");
    }
}

fn take(log: &mut dyn ShardLog, step: &Step, n: usize, live: &mut BTreeMap<Lsn, Vec<u8>>) {
    match step {
        Step::Put(size) => {
            let payload = vec![n as u8; *size];
            let (head, body) = payload.split_at(*size / 5);
            let body = Bytes::copy_from_slice(body);
            let message = RecordParts {
                body: Body::Shared(&body),
                ..retained(head)
            };
            let frame = [message, control(b"beside")];
            let lsn = log.append(&frame, Class::Message).unwrap();
            live.insert(lsn, payload);
        }
        Step::Settle(rank) => {
            if !live.is_empty() {
                let lsn = *live.keys().nth(rank % live.len()).unwrap();
                live.remove(&lsn);
                log.append(&[control(&lsn.0.to_le_bytes())], Class::Control)
                    .unwrap();
                log.retire(lsn);
            }
        }
        Step::Write(sync) => {
            if let Some(job) = log.next_write(*sync) {
                answer(log, job.run(), live);
            }
        }
        Step::Sync => {
            if let Some(job) = log.next_sync() {
                answer(log, job.run(), live);
            }
        }
        Step::Chore => {
            if let Some(job) = log.next_chore() {
                answer(log, job.run(), live);
            }
        }
        Step::Checkpoint => log.checkpoint(b"state".to_vec()),
        Step::Restart => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_log_on_files_keeps_what_lives(steps in prop::collection::vec(step(), 1..250)) {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk);
        let mut live = BTreeMap::new();
        for (n, step) in steps.iter().enumerate() {
            take(&mut log, step, n, &mut live);
            if matches!(step, Step::Restart) {
                flush(&mut log);
                drop(log);
                let (again, settled) = open(&disk);
                log = again;
                for lsn in settled {
                    log.retire(lsn);
                }
                compare(&mut log, &live);
            }
        }
        compare(&mut log, &live);
        settle(&mut log, &live);
        compare(&mut log, &live);
    }

    #[test]
    fn a_log_in_memory_keeps_what_lives(steps in prop::collection::vec(step(), 1..600)) {
        let mut log = MemLog::new(1 << 30, 128 << 10);
        let mut live = BTreeMap::new();
        for (n, step) in steps.iter().enumerate() {
            take(&mut log, step, n, &mut live);
        }
        compare(&mut log, &live);
        let bytes: usize = live.values().map(Vec::len).sum();
        prop_assert!(log.memory() <= 2 * bytes as u64 + (1 << 20));
        for lsn in live.keys() {
            log.retire(*lsn);
            prop_assert!(read(&mut log, *lsn).is_err());
        }
        // Only the block that was being filled is left.
        prop_assert!(log.memory() <= 320 << 10, "{} bytes", log.memory());
    }
}
