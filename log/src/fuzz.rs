//! Entry points for the fuzzer: whatever a directory holds, opening it ends in a log or in an error.

use std::path::Path;
use std::sync::Arc;

use longtail_model::{Lsn, ShardId};

use crate::segment::{self, SegmentHeader};
use crate::sim::SimDisk;
use crate::{
    Body, Class, Disk, FileLog, Opened, Options, RecordParts, ShardLog, checkpoint, inspect,
};

const DIR: &str = "/log";
const NONCE: u32 = 7;

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        ahead_bytes: 4 << 10,
        nonce_seed: 1,
        ..Options::new(ShardId(0))
    }
}

/// Opens a log whose files are made from `data`. The first byte chooses what the rest becomes: the records of a
/// segment with a valid header, a whole segment file, a checkpoint, or the table of a rewritten segment. If it opens,
/// what is replayed can be read, a record can be appended, and a second opening finds the same.
///
/// # Panics
/// When one of these does not hold.
pub fn recover(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let disk = SimDisk::new();
    let dir = Path::new(DIR);
    let header = |end, generation| SegmentHeader {
        shard: ShardId(0),
        base: 0,
        end,
        generation,
        nonce: NONCE,
    };
    let segment = dir.join(segment::file_name(0, 0));
    match kind % 4 {
        0 => {
            disk.overwrite(&segment, 0, &header(0, 0).encode());
            disk.overwrite(&segment, segment::BLOCK, rest);
        }
        1 => disk.overwrite(&segment, 0, rest),
        2 => {
            disk.overwrite(&segment, 0, &header(0, 0).encode());
            disk.overwrite(&dir.join(checkpoint::file_name(0)), 0, rest);
        }
        _ => {
            let rewritten = dir.join(segment::file_name(0, 1));
            disk.overwrite(&rewritten, 0, &header(1 << 20, 1).encode());
            disk.overwrite(&rewritten, segment::BLOCK, rest);
            let newest = SegmentHeader {
                base: 1 << 20,
                ..header(0, 0)
            };
            let path = dir.join(segment::file_name(1 << 20, 0));
            disk.overwrite(&path, 0, &newest.encode());
            let covering = checkpoint::Checkpoint {
                shard: ShardId(0),
                covers: 1 << 20,
                accounts: Vec::new(),
                pages: Vec::new(),
                body: Vec::new(),
            };
            // A simulated disk without limits takes it.
            let _ = covering.write(&disk, dir);
        }
    }
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let _ = inspect::check(&shared, dir);
    let _ = inspect::stats(shared.as_ref(), dir);
    if let Ok(dump) = inspect::dump(Arc::clone(&shared), dir) {
        for record in dump {
            drop(record);
        }
    }
    let Ok(Opened {
        mut log,
        mut replay,
        ..
    }) = FileLog::open(Arc::clone(&shared), dir, options())
    else {
        return;
    };
    let mut retained = Vec::new();
    let mut frames = 0;
    while let Some(frame) = replay
        .next_frame()
        .expect("what was checked can be replayed")
    {
        frames += 1;
        let records = frame.records().filter(|record| record.retained);
        retained.extend(records.map(|record| (record.lsn, record.payload.to_vec())));
    }
    for (lsn, payload) in &retained {
        log.read(*lsn, &mut |read| assert_eq!(read.front, payload))
            .expect("what was replayed can be read");
    }
    // Any position may be asked for, also wrong ones.
    for lsn in (0..64).map(|i| Lsn(i * 8)) {
        let _ = log.read(lsn, &mut |_| {});
    }
    let record = RecordParts {
        head: b"after",
        body: Body::NONE,
        retained: true,
    };
    let lsn = log
        .append(&[record], Class::Message)
        .expect("there is room for a record");
    while let Some(job) = log.next_write(true) {
        let done = job.run();
        let _ = log.finish(done);
    }
    drop(log);
    let Ok(mut again) = FileLog::open(shared, dir, options()) else {
        panic!("a log that was opened once opens again");
    };
    let mut seen = 0;
    let mut last = None;
    while let Some(frame) = again.replay.next_frame().expect("the replay reads") {
        seen += 1;
        last = Some(frame.lsn());
    }
    assert_eq!((seen, last), (frames + 1, Some(lsn)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    fn corpus() -> Vec<Vec<u8>> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/log_recovery");
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn the_corpus_and_its_pieces_hold() {
        let corpus = corpus();
        assert!(corpus.len() > 5);
        for data in &corpus {
            recover(data);
            for kind in 0..4 {
                recover(&[&[kind], data.get(1..).unwrap_or_default()].concat());
            }
            for cut in (0..data.len()).step_by(23) {
                recover(&data[..cut]);
            }
        }
    }

    /// What plain mutation never reaches: records whose checksum is right and whose fields are not.
    #[test]
    fn strange_records_hold() {
        let mut random = crate::options::Nonces(11);
        for round in 0..2000 {
            let mut data = vec![if round % 4 == 0 { 3 } else { 0 }];
            let mut lsn = 0;
            for _ in 0..random.next() % 12 {
                let flags = u64::from(random.next() % 8);
                let payload = vec![random.next() as u8; random.next() as usize % 40];
                let at = match random.next() % 10 {
                    0 => u64::from(random.next()) << 31 & !7,
                    1 => !7,
                    _ => lsn,
                };
                let from = data.len();
                record::encode(&mut data, NONCE, at, flags, &payload, b"");
                if random.next().is_multiple_of(16) {
                    let bad = from + random.next() as usize % (data.len() - from);
                    data[bad] ^= 1 << (random.next() % 8);
                }
                lsn = at.wrapping_add(record::span(payload.len()));
            }
            recover(&data);
        }
    }
}
