//! Opening a log again on the file system: what was appended is there, from the checkpoint on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{control, flush, put, read, replay, retained, settle};
use longtail_log::{Class, FileLog, FsDisk, OpenError, Opened, Options, ShardLog};
use longtail_model::{Durability, Lsn, ShardId};

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        tail_bytes: 64 << 10,
        ahead_bytes: 16 << 10,
        reserve_bytes: 64 << 10,
        checkpoint_bytes: 64 << 10,
        ..Options::new(ShardId(0))
    }
}

fn open(dir: &Path) -> Opened {
    FileLog::open(Arc::new(FsDisk), dir, options()).unwrap()
}

#[test]
fn everything_appended_is_replayed_in_frames() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let mut opened = open(dir.path());
    assert!(opened.checkpoint.is_none());
    assert!(replay(&mut opened).is_empty());
    for i in 0..2000u32 {
        let text = format!("message {i}").repeat(1 + i as usize % 30);
        let frame = [retained(text.as_bytes()), control(b"note")];
        let lsn = opened.log.append(&frame, Class::Message).unwrap();
        let second = Lsn(lsn.0 + opened.log.span(text.len()));
        expected.push(vec![
            (lsn, text.clone().into_bytes(), true),
            (second, b"note".to_vec(), false),
        ]);
        if i % 7 == 0 {
            flush(&mut opened.log);
        }
    }
    flush(&mut opened.log);
    let end = opened.log.end();
    drop(opened);
    for _ in 0..3 {
        let mut opened = open(dir.path());
        assert_eq!(replay(&mut opened), expected);
        let log = &mut opened.log;
        assert_eq!(log.end(), end);
        assert_eq!(log.watermark(Durability::Sync), end);
        for frame in expected.iter().step_by(97) {
            for (lsn, payload, _) in frame {
                assert_eq!(&read(log, *lsn).unwrap(), payload);
            }
        }
    }
}

#[test]
fn the_log_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut lsns = Vec::new();
    for round in 0..20u32 {
        let mut opened = open(dir.path());
        assert_eq!(replay(&mut opened).len(), lsns.len());
        for i in 0..round {
            lsns.push(put(&mut opened.log, format!("{round}/{i}").as_bytes()));
        }
        flush(&mut opened.log);
        // Not written, so lost.
        put(&mut opened.log, b"lost");
    }
    let mut opened = open(dir.path());
    let last = *lsns.last().unwrap();
    assert_eq!(read(&mut opened.log, last).unwrap(), b"19/18");
}

#[test]
fn a_checkpoint_shortens_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    for i in 0..500u32 {
        put(&mut opened.log, &[i as u8; 500]);
    }
    assert!(opened.log.wants_checkpoint());
    let covers = opened.log.end();
    opened.log.checkpoint(b"all of it".to_vec());
    assert!(!opened.log.wants_checkpoint());
    let after = put(&mut opened.log, b"after");
    settle(&mut opened.log, &Default::default());
    drop(opened);
    let mut opened = open(dir.path());
    assert_eq!(opened.checkpoint, Some((covers, b"all of it".to_vec())));
    let frames = replay(&mut opened);
    assert_eq!(frames, vec![vec![(after, b"after".to_vec(), true)]]);
    assert_eq!(read(&mut opened.log, Lsn::ZERO).unwrap(), [0; 500]);
}

#[test]
fn starting_again_and_again_for_a_little_work_does_not_replay_more_each_time() {
    // Each time less than what asks for a checkpoint, all together many times as much.
    const A_LITTLE: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let mut replayed = Vec::new();
    for round in 0..40u8 {
        let mut opened = open(dir.path());
        replayed.push(replay(&mut opened).len());
        for _ in 0..A_LITTLE {
            put(&mut opened.log, &[round; 100]);
        }
        if opened.log.wants_checkpoint() {
            opened.log.checkpoint(b"all of it".to_vec());
            assert!(!opened.log.wants_checkpoint());
        }
        settle(&mut opened.log, &Default::default());
    }
    let most = replayed.iter().max().unwrap();
    assert!(*most <= 2 * A_LITTLE, "{replayed:?}");
}

#[test]
fn records_that_were_settled_but_never_retired_do_not_pin_their_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    let log = &mut opened.log;
    for i in 0..400u32 {
        let lsn = put(log, &[1; 1000]);
        if i % 50 > 0 {
            log.retire(lsn);
        }
    }
    for _ in 0..2 {
        put(log, &[2; 1000]);
        log.checkpoint(Vec::new());
        settle(log, &Default::default());
    }
    // The owner knows none of the records that are left.
    settle(log, &Default::default());
    assert!(log.disk_bytes() < 300 << 10, "{}", log.disk_bytes());
    assert!(read(log, Lsn::ZERO).is_err());
}

#[test]
fn a_directory_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let again = FileLog::open(Arc::new(FsDisk), dir.path(), options());
    match again.err() {
        Some(OpenError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(first);
    open(dir.path());
}

#[test]
fn an_idle_log_takes_little_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(ShardId(0));
    let mut opened = FileLog::open(Arc::new(FsDisk), dir.path(), options).unwrap();
    put(&mut opened.log, b"one small message");
    settle(&mut opened.log, &Default::default());
    assert!(
        opened.log.disk_bytes() <= 3 << 20,
        "{}",
        opened.log.disk_bytes()
    );
}
