//! Every way a disk can fail, and what the log says and does then.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{DIR, control, flush, put, read, replay, retained, settle, small, try_open};
use longtail_log::sim::{Failure, Operation, SimDisk};
use longtail_log::{
    AppendError, Class, Disk, FileLog, Health, OpenError, Options, ReadError, ShardLog,
};
use longtail_model::{Durability, Lsn, ShardId};

fn open(disk: &SimDisk) -> FileLog {
    try_open(disk).unwrap().log
}

fn error(disk: &SimDisk) -> OpenError {
    try_open(disk).err().expect("it must not open")
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    disk.files()
        .into_iter()
        .map(|file| file.0)
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect()
}

/// The file offset of a position in the first segment.
fn offset(lsn: Lsn) -> u64 {
    4096 + lsn.0
}

#[test]
fn a_full_disk_refuses_messages_but_not_settlements_and_recovers() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    settle(&mut log, &Default::default());
    disk.set_capacity(Some(512 << 10));
    let mut live = Vec::new();
    let why = loop {
        assert!(live.len() < 1000, "the disk must fill");
        match log.append(&[retained(&[1; 1000])], Class::Message) {
            Ok(lsn) => live.push(lsn),
            Err(AppendError::Full { why }) => break why,
            Err(other) => panic!("{other}"),
        }
        settle(&mut log, &Default::default());
    };
    assert!(why.contains("the disk is full"), "{why}");
    assert!(matches!(log.health(), Health::Full { .. }));
    let end = log.end();
    assert!(log.append(&[retained(&[1; 1000])], Class::Message).is_err());
    assert_eq!(log.end(), end, "a refused frame leaves nothing behind");
    flush(&mut log);
    assert_eq!(log.watermark(Durability::Sync), log.end());

    // Settling everything frees the space, with two checkpoints behind it.
    for lsn in live {
        log.append(&[control(b"settled")], Class::Control).unwrap();
        log.retire(lsn);
    }
    for _ in 0..2 {
        log.append(&[control(b"more")], Class::Control).unwrap();
        log.checkpoint(vec![0; 100]);
        settle(&mut log, &Default::default());
    }
    // The first refused attempt makes housekeeping look again.
    let _ = log.append(&[retained(&[1; 1000])], Class::Message);
    settle(&mut log, &Default::default());
    put(&mut log, &[2; 1000]);
    assert_eq!(log.health(), Health::Good);
}

#[test]
fn a_log_without_space_for_its_first_segment_does_not_open() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(8 << 10));
    assert!(matches!(error(&disk), OpenError::Full { .. }));
}

#[test]
fn a_read_only_disk_is_named_as_such() {
    let disk = SimDisk::new();
    disk.set_read_only(true);
    let error = error(&disk);
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error}");
    assert!(
        error.to_string().contains("read-only file system"),
        "{error}"
    );

    let disk = SimDisk::new();
    let mut log = open(&disk);
    put(&mut log, b"x");
    disk.set_read_only(true);
    let done = log.next_write(true).unwrap().run();
    log.finish(done);
    match log.health() {
        Health::Poisoned { why } => assert!(why.contains("read-only"), "{why}"),
        other => panic!("{other:?}"),
    }
}

fn poisoned(log: &mut FileLog, says: &str, durable: Lsn) {
    match log.health() {
        Health::Poisoned { why } => assert!(why.contains(says), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(log.watermark(Durability::Sync), durable);
    for class in [Class::Message, Class::Control] {
        let refused = log.append(&[control(b"x")], class);
        assert!(matches!(refused, Err(AppendError::Poisoned { .. })));
    }
    assert!(log.next_write(true).is_none(), "nothing is tried again");
    assert!(log.next_sync().is_none());
    assert!(log.next_chore().is_none());
    assert!(!log.wants_checkpoint());
}

#[test]
fn a_failed_write_stops_the_log() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    put(&mut log, b"safe");
    flush(&mut log);
    let durable = log.watermark(Durability::Sync);
    let lost = put(&mut log, b"lost");
    disk.fail(Operation::Write, 0, Failure::Io);
    let done = log.next_write(true).unwrap().run();
    log.finish(done);
    poisoned(&mut log, "writing records: I/O error", durable);
    assert_eq!(
        read(&mut log, lost).unwrap(),
        b"lost",
        "memory is still readable"
    );
    drop(log);
    let mut opened = try_open(&disk).unwrap();
    assert_eq!(replay(&mut opened).len(), 1);
}

#[test]
fn a_failed_sync_stops_the_log_and_no_later_one_counts() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    put(&mut log, b"first");
    let done = log.next_write(false).unwrap().run();
    log.finish(done);
    let durable = log.watermark(Durability::Sync);
    put(&mut log, b"second");
    // Two syncs of the same file: the system reports the loss to one of them only.
    let sync = log.next_sync().unwrap();
    let write = log.next_write(true).unwrap();
    disk.fail(Operation::Sync, 0, Failure::Io);
    let failed = sync.run();
    let succeeded = write.run();
    log.finish(succeeded);
    assert_eq!(log.watermark(Durability::Sync), durable);
    log.finish(failed);
    poisoned(&mut log, "syncing records", durable);
}

#[test]
fn failures_of_housekeeping_stop_the_log_too() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    settle(&mut log, &Default::default());
    put(&mut log, b"x");
    log.checkpoint(b"state".to_vec());
    flush(&mut log);
    let durable = log.watermark(Durability::Sync);
    disk.fail(Operation::Sync, 0, Failure::Io);
    let done = log.next_chore().unwrap().run();
    log.finish(done);
    poisoned(&mut log, "writing a checkpoint", durable);
}

#[test]
fn a_directory_of_a_later_release_is_refused() {
    let disk = SimDisk::new();
    drop(open(&disk));
    let stamp = Path::new(DIR).join("format");
    assert_eq!(disk.contents(&stamp).unwrap(), b"longtail log format 1\n");
    disk.overwrite(&stamp, 20, b"2");
    assert!(matches!(
        error(&disk),
        OpenError::Newer {
            found: 2,
            ours: 1,
            ..
        }
    ));
    disk.overwrite(&stamp, 20, b"1");
    disk.overwrite(&segments(&disk)[0], 8, &[9]);
    let error = error(&disk);
    assert!(matches!(error, OpenError::Newer { found: 9, .. }));
    assert!(
        error.to_string().contains("use the release that wrote it"),
        "{error}"
    );
}

#[test]
fn a_directory_of_another_shard_is_refused() {
    let disk = SimDisk::new();
    drop(open(&disk));
    let other = Options {
        shard: ShardId(1),
        ..small()
    };
    let opened = FileLog::open(Arc::new(disk), Path::new(DIR), other);
    assert!(matches!(
        opened.err(),
        Some(OpenError::OtherShard {
            found: ShardId(0),
            expected: ShardId(1),
            ..
        })
    ));
}

#[test]
fn a_torn_tail_is_cut() {
    for at in 0..40 {
        let disk = SimDisk::new();
        let mut log = open(&disk);
        put(&mut log, b"one");
        let torn = put(&mut log, &[7; 24]);
        flush(&mut log);
        drop(log);
        disk.flip(&segments(&disk)[0], offset(torn) + at, 1);
        let mut opened = try_open(&disk).unwrap();
        assert_eq!(replay(&mut opened).len(), 1, "byte {at}");
        assert_eq!(opened.log.end(), torn);
    }
}

#[test]
fn what_was_cut_off_never_comes_back() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    put(&mut log, b"one");
    // A frame of equal records, whose last one is torn.
    let frame = [
        retained(b"cut off 1"),
        retained(b"cut off 2"),
        retained(b"cut off 3"),
    ];
    let lsn = log.append(&frame, Class::Message).unwrap();
    flush(&mut log);
    let third = lsn.0 + 2 * log.span(9);
    drop(log);
    disk.overwrite(&segments(&disk)[0], offset(Lsn(third)), &[0; 32]);
    let mut log = open(&disk);
    assert_eq!(log.end(), lsn);
    // As long as the first of the cut records, so that the second would follow on.
    put(&mut log, b"put after");
    flush(&mut log);
    drop(log);
    let mut opened = try_open(&disk).unwrap();
    let frames = replay(&mut opened);
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[1], vec![(lsn, b"put after".to_vec(), true)]);
}

#[test]
fn damage_to_what_was_durable_refuses_the_start() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let first = put(&mut log, &[1; 100]);
    for _ in 0..3 {
        flush(&mut log);
        put(&mut log, &[2; 100]);
    }
    flush(&mut log);
    drop(log);
    let file = &segments(&disk)[0];
    disk.flip(file, offset(first) + 50, 0);
    let error = error(&disk);
    let text = error.to_string();
    match error {
        OpenError::Damaged(damage) => {
            assert_eq!(&damage.file, file);
            assert_eq!(damage.offset, offset(first));
            assert_eq!(damage.lsn, first);
        }
        other => panic!("{other}"),
    }
    assert!(text.contains("longtail log check"), "{text}");
    // Nothing was touched: with the bit back in place everything is there.
    disk.flip(file, offset(first) + 50, 0);
    assert_eq!(replay(&mut try_open(&disk).unwrap()).len(), 4);
}

#[test]
fn damage_before_the_last_segment_refuses_the_start() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    for _ in 0..200 {
        put(&mut log, &[1; 1000]);
    }
    flush(&mut log);
    drop(log);
    let files = segments(&disk);
    assert!(files.len() > 2);
    let size = disk.contents(&files[0]).unwrap().len() as u64;
    disk.flip(&files[0], size - 100, 0);
    assert!(matches!(error(&disk), OpenError::Damaged(_)));
    disk.flip(&files[0], size - 100, 0);
    drop(open(&disk));
    disk.remove(&files[1]).unwrap();
    match error(&disk) {
        OpenError::Damaged(damage) => assert!(damage.what.contains("missing"), "{damage}"),
        other => panic!("{other}"),
    }
}

#[test]
fn without_a_readable_checkpoint_a_reclaimed_log_does_not_open() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    for round in 0..6 {
        for _ in 0..100 {
            let lsn = put(&mut log, &[round; 1000]);
            log.retire(lsn);
        }
        log.checkpoint(vec![round]);
        settle(&mut log, &Default::default());
    }
    drop(log);
    assert!(
        !segments(&disk)[0].ends_with("0000000000000000.seg"),
        "reclaimed"
    );
    let checkpoints: Vec<PathBuf> = disk
        .files()
        .into_iter()
        .map(|file| file.0)
        .filter(|path| path.to_string_lossy().contains("checkpoint-"))
        .collect();
    assert_eq!(checkpoints.len(), 2);
    disk.flip(&checkpoints[1], 60, 0);
    let opened = try_open(&disk).unwrap();
    assert_eq!(opened.checkpoint.as_ref().unwrap().1, [4], "the older one");
    drop(opened);
    disk.flip(&checkpoints[0], 60, 0);
    assert!(matches!(error(&disk), OpenError::CheckpointLost { .. }));
}

#[test]
fn reading_says_what_is_wrong() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let lsn = put(&mut log, &[1; 1000]);
    let other = put(&mut log, &[2; 1000]);
    flush(&mut log);
    drop(log);
    let mut log = open(&disk);
    disk.fail(Operation::Read, 0, Failure::Io);
    assert!(matches!(read(&mut log, lsn), Err(ReadError::Io { .. })));
    assert_eq!(read(&mut log, lsn).unwrap(), [1; 1000]);
    drop(log);
    let mut log = open(&disk);
    disk.flip(&segments(&disk)[0], offset(lsn) + 100, 0);
    assert!(matches!(read(&mut log, lsn), Err(ReadError::Damaged(at)) if at == lsn));
    assert_eq!(read(&mut log, other).unwrap(), [2; 1000]);
}

#[test]
fn a_damaged_table_of_a_rewritten_segment_is_made_again() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let mut live = std::collections::BTreeMap::new();
    for i in 0..600u32 {
        let payload = vec![i as u8; 1000];
        let lsn = put(&mut log, &payload);
        if i % 10 == 0 {
            live.insert(lsn, payload);
        } else {
            log.retire(lsn);
        }
        if i % 100 == 99 {
            log.checkpoint(Vec::new());
            settle(&mut log, &live);
        }
    }
    drop(log);
    let rewritten: Vec<PathBuf> = segments(&disk)
        .into_iter()
        .filter(|path| path.to_string_lossy().matches('.').count() == 2)
        .collect();
    assert!(!rewritten.is_empty());
    for path in &rewritten {
        let size = disk.contents(path).unwrap().len() as u64;
        disk.flip(path, size - 30, 0);
    }
    let mut log = open(&disk);
    for (lsn, payload) in &live {
        assert_eq!(&read(&mut log, *lsn).unwrap(), payload);
    }
}
