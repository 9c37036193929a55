//! `check`, `dump` and `stats` over sound and damaged logs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{control, flush, put, retained, settle};
use longtail_log::sim::SimDisk;
use longtail_log::{Class, Disk, FileLog, Options, ShardLog, inspect};
use longtail_model::{Lsn, ShardId};

const DIR: &str = "/log";

fn open(disk: &SimDisk) -> FileLog {
    let options = Options {
        segment_bytes: 64 << 10,
        ahead_bytes: 16 << 10,
        reserve_bytes: 16 << 10,
        nonce_seed: 3,
        ..Options::new(ShardId(0))
    };
    FileLog::open(Arc::new(disk.clone()), Path::new(DIR), options)
        .unwrap()
        .log
}

fn check(disk: &SimDisk) -> inspect::Report {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    inspect::check(&disk, Path::new(DIR)).unwrap()
}

/// A log with rewritten and dropped segments, two checkpoints and a tail.
fn used(disk: &SimDisk) -> BTreeMap<Lsn, Vec<u8>> {
    let mut log = open(disk);
    let mut live = BTreeMap::new();
    for i in 0..900u32 {
        let payload = vec![i as u8; 900];
        let frame = [retained(&payload), control(b"note")];
        let lsn = log.append(&frame, Class::Message).unwrap();
        if i % 20 == 0 || i > 850 {
            live.insert(lsn, payload);
        } else {
            log.retire(lsn);
        }
        if i % 10 == 9 {
            flush(&mut log);
        }
        if i == 300 || i == 600 || i == 800 {
            log.checkpoint(vec![1; 300]);
            settle(&mut log, &live);
        }
    }
    flush(&mut log);
    live
}

#[test]
fn a_sound_log_is_reported_as_such() {
    let disk = SimDisk::new();
    let live = used(&disk);
    let report = check(&disk);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.torn, None);
    assert!(report.segments.iter().any(|s| s.generation > 0), "{report}");
    assert_eq!(report.checkpoints.len(), 2);
    let retained: u64 = report.segments.iter().map(|s| s.retained).sum();
    assert!(retained >= live.len() as u64);
    assert!(report.segments.last().unwrap().durable > Lsn::ZERO);
    assert_eq!(open(&disk).end(), report.end);
    assert!(report.to_string().ends_with("is sound"));

    let stats = inspect::stats(&disk, Path::new(DIR)).unwrap();
    assert_eq!(stats.shard, Some(ShardId(0)));
    assert_eq!(stats.segments.len(), report.segments.len());
    assert!(stats.segments[0].retained.unwrap().1 > 0, "{stats}");
    assert!(stats.bytes > 0 && !stats.to_string().is_empty());
}

#[test]
fn a_dump_holds_every_living_record() {
    let disk = SimDisk::new();
    let live = used(&disk);
    let mut found = BTreeMap::new();
    let mut last = None;
    for record in inspect::dump(Arc::new(disk.clone()), Path::new(DIR)).unwrap() {
        let record = record.unwrap();
        assert!(last < Some(record.lsn), "ascending");
        last = Some(record.lsn);
        assert!(record.frame <= record.lsn);
        if record.retained {
            found.insert(record.lsn, record.payload);
        }
    }
    for (lsn, payload) in &live {
        assert_eq!(found.get(lsn), Some(payload));
    }
}

#[test]
fn every_damaged_place_is_listed() {
    let disk = SimDisk::new();
    used(&disk);
    let sound = check(&disk);
    // In the newest segment it depends on what later marks say.
    let known = sound
        .segments
        .iter()
        .filter(|s| s.durable > s.base || s.generation > 0);
    let files: Vec<_> = known.map(|s| s.file.clone()).collect();
    assert!(files.len() >= 3);
    for file in &files {
        assert!(disk.flip(file, 4096 + 20, 0));
    }
    let checkpoint = &sound.checkpoints[1].file;
    disk.flip(checkpoint, 100, 0);
    let report = check(&disk);
    for file in files.iter().chain([checkpoint]) {
        let found = report.damage.iter().filter(|d| &d.file == file).count();
        assert_eq!(found, 1, "{}\n{report}", file.display());
    }
    let frames = |report: &inspect::Report| report.segments.iter().map(|s| s.frames).sum::<u64>();
    // A segment may start with a mark, which is no frame; nothing else is lost.
    let lost = frames(&sound) - frames(&report);
    assert!(lost > 0 && lost <= files.len() as u64, "{lost}");
    assert!(report.to_string().ends_with("is damaged"));
}

#[test]
fn a_torn_tail_is_not_damage() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    put(&mut log, b"whole");
    let torn = put(&mut log, b"torn");
    flush(&mut log);
    drop(log);
    let file = check(&disk).segments[0].file.clone();
    disk.flip(&file, 4096 + torn.0 + 17, 0);
    let report = check(&disk);
    assert!(report.is_sound());
    assert_eq!(report.torn.as_ref().map(|t| t.lsn), Some(torn));
    assert_eq!(report.end, torn);
}
