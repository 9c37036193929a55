//! How long the disk takes to make 4 KiB durable: the floor under every figure with `sync`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::BenchError;

/// Writes measured.
const WRITES: usize = 200;
/// Bytes of one.
const WRITE_BYTES: usize = 4096;

/// Time of a `write` and `fdatasync` at the end of a file, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SyncLatency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Measures in `directory`, leaving nothing behind.
pub(crate) fn sync_latency(directory: &Path) -> Result<SyncLatency, BenchError> {
    let scratch =
        tempfile::tempdir_in(directory).map_err(BenchError::io("creating a scratch directory"))?;
    let mut file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .open(scratch.path().join("sync"))
        .map_err(BenchError::io("creating a scratch file"))?;
    let block = [0x5a; WRITE_BYTES];
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let begun = Instant::now();
        file.write_all(&block)
            .map_err(BenchError::io("writing a scratch file"))?;
        file.sync_data()
            .map_err(BenchError::io("syncing a scratch file"))?;
        times.push(begun.elapsed());
    }
    times.sort();
    let at = |share: usize| {
        times
            .get(WRITES * share / 100)
            .map_or(0.0, |time: &Duration| time.as_secs_f64() * 1e6)
    };
    Ok(SyncLatency {
        p50_us: at(50),
        p99_us: at(99),
    })
}
