//! Restarts on a machine that went on: what they read may only be in the page cache, or only a name in memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{flush, put, read, replay, settle, try_open};
use longtail_log::sim::{Failure, Operation, SimDisk};
use longtail_log::{Health, OpenError, ShardLog};
use longtail_model::{Durability, Lsn};

/// A log whose last records were written and read back, but dropped by a failed sync.
fn poisoned_by_a_sync(disk: &SimDisk) {
    let mut log = try_open(disk).unwrap().log;
    put(&mut log, b"safe");
    flush(&mut log);
    // With the second of these comes a mark, which is as unsafe as the record behind it.
    for payload in [&[1; 3000], &[2; 3000]] {
        put(&mut log, payload);
        let done = log.next_write(false).unwrap().run();
        log.finish(done);
    }
    put(&mut log, &[3; 3000]);
    disk.fail(Operation::Sync, 0, Failure::Io);
    let done = log.next_write(true).unwrap().run();
    log.finish(done);
    assert!(matches!(log.health(), Health::Poisoned { .. }));
}

#[test]
fn what_a_restart_reads_back_after_a_failed_sync_survives_a_power_cut() {
    for seed in 0..64 {
        let disk = SimDisk::new();
        poisoned_by_a_sync(&disk);
        let mut opened = try_open(&disk).unwrap();
        let read_back = replay(&mut opened);
        assert_eq!(read_back.len(), 4, "the cache still has everything");
        assert_eq!(opened.log.watermark(Durability::Sync), opened.log.end());
        // A mark that speaks of what was read back makes a loss show as damage, not as a torn end.
        put(&mut opened.log, b"after");
        flush(&mut opened.log);
        drop(opened);
        disk.crash(seed);
        let mut opened = try_open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let frames = replay(&mut opened);
        assert_eq!(frames.len(), 5, "seed {seed}");
        assert_eq!(frames[..4], read_back, "seed {seed}");
    }
}

#[test]
fn a_restart_that_cannot_make_durable_what_it_reads_does_not_open() {
    for operation in [Operation::Write, Operation::Sync, Operation::SyncDir] {
        for seed in 0..16 {
            let disk = SimDisk::new();
            poisoned_by_a_sync(&disk);
            disk.fail(operation, 0, Failure::Io);
            assert!(
                matches!(try_open(&disk), Err(OpenError::Io { .. })),
                "{operation:?}"
            );
            // The next attempt starts over.
            assert_eq!(replay(&mut try_open(&disk).unwrap()).len(), 4);
            disk.crash(seed);
            let mut opened = try_open(&disk).unwrap();
            assert_eq!(replay(&mut opened).len(), 4, "{operation:?} seed {seed}");
        }
    }
}

/// Fills a log with records of which few live on, until one of its directory syncs fails. Returns the living ones that
/// were durable, and whether it came to that.
fn fill_until_a_name_is_unsafe(disk: &SimDisk, after: u64) -> (BTreeMap<Lsn, Vec<u8>>, bool) {
    let mut log = try_open(disk).unwrap().log;
    let mut live = BTreeMap::new();
    disk.fail(Operation::SyncDir, after, Failure::Io);
    for i in 0..200u32 {
        let payload = vec![i as u8; 2000];
        let lsn = put(&mut log, &payload);
        if i % 10 == 0 {
            live.insert(lsn, payload);
        } else {
            log.retire(lsn);
        }
        if i % 50 == 49 {
            log.checkpoint(Vec::new());
            settle(&mut log, &live);
        }
        if log.health() != Health::Good {
            let durable = log.watermark(Durability::Sync);
            live.retain(|lsn, _| *lsn < durable);
            return (live, true);
        }
    }
    (live, false)
}

#[test]
fn the_sources_of_a_rewritten_segment_stay_until_its_name_is_safe() {
    let mut failed = 0;
    for after in 0.. {
        let disk = SimDisk::new();
        let (_, poisoned) = fill_until_a_name_is_unsafe(&disk, after);
        if !poisoned {
            break;
        }
        failed += 1;
        for seed in 0..40 {
            let disk = SimDisk::new();
            let (live, _) = fill_until_a_name_is_unsafe(&disk, after);
            // The restart itself is interrupted as well.
            disk.halt_after(seed / 4);
            let _ = try_open(&disk);
            disk.crash(seed);
            let mut log = match try_open(&disk) {
                Ok(opened) => opened.log,
                Err(error) => panic!("sync {after} seed {seed}: {error}"),
            };
            for (lsn, payload) in &live {
                match read(&mut log, *lsn) {
                    Ok(found) => assert_eq!(&found, payload),
                    Err(error) => panic!("sync {after} seed {seed}: {error}"),
                }
            }
        }
    }
    assert!(failed > 5, "{failed} directory syncs");
}
