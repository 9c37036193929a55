//! What every log must do, whatever it keeps its records on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use common::{Rng, control, flush, put, read, retained, settle};
use longtail_log::sim::SimDisk;
use longtail_log::{
    AppendError, Body, Class, FileLog, FsDisk, Health, MemLog, Options, ReadError, RecordParts,
    ShardLog,
};
use longtail_model::{Durability, Lsn, ShardId};

fn options() -> Options {
    Options {
        segment_bytes: 256 << 10,
        max_frame_bytes: 2 << 20,
        tail_bytes: 64 << 10,
        ahead_bytes: 64 << 10,
        reserve_bytes: 64 << 10,
        checkpoint_bytes: 128 << 10,
        ..Options::new(ShardId(0))
    }
}

fn positions_ascend_and_follow_from_spans(log: &mut dyn ShardLog) {
    let frame = [retained(b"one"), control(b"two is longer"), retained(b"")];
    let start = log.end();
    let first = log.append(&frame, Class::Message).unwrap();
    assert_eq!(first, start);
    let second = Lsn(first.0 + log.span(3));
    let third = Lsn(second.0 + log.span(13));
    assert_eq!(log.end(), Lsn(third.0 + log.span(0)));
    assert_eq!(read(log, first).unwrap(), b"one");
    assert_eq!(read(log, third).unwrap(), b"");
    assert!(log.span(1) > 0 && log.span(1000) >= 1000);
}

fn head_and_body_are_one_payload(log: &mut dyn ShardLog) {
    let parts = RecordParts {
        head: b"head|",
        body: Body::Lent(b"body"),
        retained: true,
    };
    let lsn = log.append(&[parts], Class::Message).unwrap();
    assert_eq!(read(log, lsn).unwrap(), b"head|body");
    let large = Bytes::from(vec![b'x'; 100_000]);
    let parts = RecordParts {
        body: Body::Shared(&large),
        ..parts
    };
    let lsn = log.append(&[parts], Class::Message).unwrap();
    put(log, b"after");
    assert_eq!(read(log, lsn).unwrap(), [b"head|", &large[..]].concat());
}

fn watermarks_follow_the_promises(log: &mut dyn ShardLog) {
    put(log, b"payload");
    let end = log.end();
    assert_eq!(log.watermark(Durability::Memory), end);
    assert!(log.watermark(Durability::Sync) <= log.watermark(Durability::Interval));
    assert!(log.watermark(Durability::Interval) <= end);
    if let Some(job) = log.next_write(false) {
        assert!(log.next_write(false).is_none(), "one write at a time");
        let before = log.watermark(Durability::Interval);
        let done = job.run();
        assert_eq!(
            log.watermark(Durability::Interval),
            before,
            "only `finish` moves it"
        );
        log.finish(done);
        assert!(log.watermark(Durability::Interval) >= end);
        assert!(log.watermark(Durability::Sync) < end);
        let done = log.next_sync().unwrap().run();
        log.finish(done);
        assert!(log.next_sync().is_none());
    }
    assert!(log.watermark(Durability::Sync) >= end);
    assert_eq!(log.pending_bytes(), 0);
    assert_eq!(log.health(), Health::Good);
}

fn batches_fill_while_one_is_written(log: &mut dyn ShardLog) {
    let first = put(log, b"first");
    let Some(job) = log.next_write(true) else {
        return;
    };
    let second = put(log, b"second");
    log.finish(job.run());
    let durable = log.watermark(Durability::Sync);
    assert!(durable > first && durable <= second);
    flush(log);
    assert!(log.watermark(Durability::Sync) > second);
}

fn old_and_new_records_read_back(log: &mut dyn ShardLog) {
    let mut rng = Rng(1);
    let mut model = BTreeMap::new();
    for i in 0..2000u32 {
        let len = match rng.below(50) {
            0 => 40_000,
            1..10 => 3000,
            _ => 100,
        };
        let payload = rng.bytes(len);
        model.insert(put(log, &payload), payload);
        if i % 10 == 0 {
            settle(log, &model);
        }
    }
    for (lsn, payload) in &model {
        assert_eq!(&read(log, *lsn).unwrap(), payload);
    }
    for (lsn, payload) in model.iter().rev().step_by(7) {
        assert_eq!(&read(log, *lsn).unwrap(), payload);
    }
}

fn nothing_is_beyond_the_end(log: &mut dyn ShardLog) {
    put(log, b"x");
    let end = log.end();
    assert!(matches!(read(log, end), Err(ReadError::Missing(lsn)) if lsn == end));
    assert!(read(log, Lsn(end.0 + 800)).is_err());
}

fn retired_records_give_their_space_back<L: ShardLog>(log: &mut L, bytes: fn(&L) -> u64) {
    let mut rng = Rng(7);
    let mut live: BTreeMap<Lsn, Vec<u8>> = BTreeMap::new();
    let mut most = 0;
    for round in 0..6000u32 {
        let payload = rng.bytes(500 + rng.0 as usize % 1000);
        live.insert(put(log, &payload), payload);
        // All but one in twenty are settled soon, so that every segment becomes sparse.
        if live.len() > 100 {
            let pick = rng.below(live.len() as u64) as usize;
            let lsn = *live.keys().nth(pick).unwrap();
            if !lsn.0.is_multiple_of(160) {
                live.remove(&lsn);
                log.retire(lsn);
                log.append(&[control(b"settled")], Class::Control).unwrap();
            }
        }
        if round % 16 == 0 {
            settle(log, &live);
            if log.wants_checkpoint() {
                log.checkpoint(b"state".to_vec());
                settle(log, &live);
            }
            most = most.max(bytes(log));
        }
    }
    for (lsn, payload) in &live {
        assert_eq!(&read(log, *lsn).unwrap(), payload, "at {lsn}");
    }
    let alive: u64 = live.values().map(|p| p.len() as u64).sum();
    let end = bytes(log);
    assert!(
        end < alive * 3 + (1 << 20),
        "{end} bytes for {alive} alive after {} appended, at most {most}",
        log.end()
    );
}

fn a_frame_that_is_too_large_changes_nothing(log: &mut dyn ShardLog) {
    let end = log.end();
    let huge = vec![0; 3 << 20];
    assert!(matches!(
        log.append(&[retained(&huge)], Class::Message),
        Err(AppendError::TooLarge { limit, .. }) if limit == 2 << 20
    ));
    assert_eq!(log.end(), end);
    let large = vec![1; 1 << 20];
    let lsn = put(log, &large);
    let small = put(log, b"after");
    flush(log);
    assert_eq!(read(log, lsn).unwrap(), large);
    assert_eq!(read(log, small).unwrap(), b"after");
}

/// Runs every check on a fresh log each; `bytes` says how much space one takes.
fn all<L: ShardLog>(mut fresh: impl FnMut() -> L, bytes: fn(&L) -> u64) {
    for check in [
        positions_ascend_and_follow_from_spans,
        head_and_body_are_one_payload,
        watermarks_follow_the_promises,
        batches_fill_while_one_is_written,
        old_and_new_records_read_back,
        nothing_is_beyond_the_end,
        a_frame_that_is_too_large_changes_nothing,
    ] {
        check(&mut fresh());
    }
    retired_records_give_their_space_back(&mut fresh(), bytes);
}

#[test]
fn files_on_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = 0;
    let fresh = || {
        n += 1;
        let path = dir.path().join(n.to_string());
        FileLog::open(Arc::new(FsDisk), &path, options())
            .unwrap()
            .log
    };
    all(fresh, FileLog::disk_bytes);
}

#[test]
fn files_on_a_simulated_disk() {
    let fresh = || {
        FileLog::open(Arc::new(SimDisk::new()), Path::new("/log"), options())
            .unwrap()
            .log
    };
    all(fresh, FileLog::disk_bytes);
}

#[test]
fn memory() {
    all(|| MemLog::new(64 << 20, 2 << 20), MemLog::memory);
}

#[test]
fn memory_refers_to_a_large_body_and_lets_go_of_it() {
    let mut log = MemLog::new(64 << 20, 2 << 20);
    let body = Bytes::from(vec![7; 100_000]);
    let parts = RecordParts {
        head: b"head",
        body: Body::Shared(&body),
        retained: true,
    };
    let kept = put(&mut log, b"kept");
    let lsn = log.append(&[parts], Class::Message).unwrap();
    assert!(log.memory() >= 100_000);
    log.read(lsn, &mut |payload| {
        assert_eq!(payload.front, b"head");
        assert_eq!(payload.body.map(|body| body.as_ptr()), Some(body.as_ptr()));
    })
    .unwrap();
    assert!(!body.is_unique());
    log.retire(lsn);
    assert!(body.is_unique());
    assert!(log.memory() < 100_000);
    assert_eq!(read(&mut log, kept).unwrap(), b"kept");
}
