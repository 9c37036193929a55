//! Durable appends against the plain `write` + `fdatasync` they stand on, the cost of an append in memory, of a
//! restart, and of a log in memory. Prints tables; run with `cargo bench -p longtail-log`.
//!
//! The directory is that of `TMPDIR`, so that the disk can be chosen.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use longtail_log::{
    Body, Class, Done, FileLog, FsDisk, Job, MemLog, Options, Outcome, RecordParts, ShardLog,
};
use longtail_model::{Lsn, ShardId};

/// Name, payload of a record in bytes, records in a batch.
const BATCHES: [(&str, usize, usize); 4] = [
    ("1 x 128 B", 128 - 16, 1),
    ("64 x 128 B", 128 - 16, 64),
    ("1 x 64 KiB", (64 << 10) - 16, 1),
    ("1 x 1 MiB", (1 << 20) - 16, 1),
];
const TURN: Duration = Duration::from_millis(300);
const TURNS: usize = 5;

fn record(body: &[u8]) -> [RecordParts<'_>; 1] {
    [RecordParts {
        head: &[],
        body: Body::Lent(body),
        retained: true,
    }]
}

/// Commits of one kind: how many, and each one's time.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn quantile(&mut self, q: f64) -> f64 {
        self.0.sort_unstable();
        let i = ((self.0.len() - 1) as f64 * q) as usize;
        self.0[i].as_secs_f64() * 1e6
    }

    fn per_second(&self) -> f64 {
        self.0.len() as f64 / self.0.iter().sum::<Duration>().as_secs_f64()
    }
}

/// Does housekeeping beside the commits, as a runtime does.
struct Housekeeper {
    jobs: Sender<Job>,
    done: Receiver<Done>,
}

impl Housekeeper {
    fn new() -> Self {
        let (jobs, incoming) = channel::<Job>();
        let (outgoing, done) = channel();
        std::thread::spawn(move || {
            for job in incoming {
                if outgoing.send(job.run()).is_err() {
                    return;
                }
            }
        });
        Housekeeper { jobs, done }
    }

    fn turn(&self, log: &mut FileLog) {
        while let Ok(done) = self.done.try_recv() {
            assert_eq!(log.finish(done), Outcome::Done);
        }
        if log.wants_checkpoint() {
            log.checkpoint(vec![0; 1000]);
        }
        if let Some(job) = log.next_chore() {
            self.jobs.send(job).unwrap();
        }
    }
}

fn durable(dir: &Path) {
    println!(
        "durable commits, one at a time: longtail-log against write + fdatasync of the same bytes"
    );
    println!("| batch | raw/s | p50 us | p99 us | log/s | p50 us | p99 us | ratio |");
    println!("|---|---|---|---|---|---|---|---|");
    for (name, payload, records) in BATCHES {
        let body = vec![0x5a; payload];
        let bytes = vec![0x5a; (payload + 16) * records];
        let mut raw = File::create(dir.join("raw")).unwrap();
        let log_dir = dir.join(format!("log-{payload}-{records}"));
        let options = Options::new(ShardId(0));
        let mut log = FileLog::open(Arc::new(FsDisk), &log_dir, options)
            .unwrap()
            .log;
        let housekeeper = Housekeeper::new();
        let (mut raw_times, mut log_times) = (Times::default(), Times::default());
        // Turn by turn, so that both see the same disk.
        for _ in 0..TURNS {
            let turn = Instant::now();
            while turn.elapsed() < TURN {
                let start = Instant::now();
                raw.write_all(&bytes).unwrap();
                raw.sync_data().unwrap();
                raw_times.0.push(start.elapsed());
            }
            let turn = Instant::now();
            let mut retire = Vec::new();
            while turn.elapsed() < TURN {
                let start = Instant::now();
                for _ in 0..records {
                    retire.push(log.append(&record(&body), Class::Message).unwrap());
                }
                let done = log.next_write(true).unwrap().run();
                assert_eq!(log.finish(done), Outcome::Done);
                log_times.0.push(start.elapsed());
                for lsn in retire.drain(..) {
                    log.retire(lsn);
                }
                housekeeper.turn(&mut log);
            }
        }
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
            raw_times.per_second(),
            raw_times.quantile(0.5),
            raw_times.quantile(0.99),
            log_times.per_second(),
            log_times.quantile(0.5),
            log_times.quantile(0.99),
            log_times.per_second() / raw_times.per_second(),
        );
        drop(log);
        std::fs::remove_dir_all(&log_dir).unwrap();
    }
}

fn in_memory(dir: &Path) {
    println!("\nappends without waiting for the disk");
    println!("| payload | ns an append | GB/s |");
    println!("|---|---|---|");
    for payload in [20usize, 100, 1000, 10_000] {
        let body = vec![0x5a; payload];
        let path = dir.join(format!("append-{payload}"));
        let options = Options::new(ShardId(0));
        let mut log = FileLog::open(Arc::new(FsDisk), &path, options).unwrap().log;
        let (mut spent, mut count) = (Duration::ZERO, 0u32);
        for _ in 0..30 {
            let n = (4 << 20) / (payload + 16);
            let start = Instant::now();
            for _ in 0..n {
                log.append(&record(&body), Class::Message).unwrap();
            }
            spent += start.elapsed();
            count += n as u32;
            while let Some(job) = log.next_write(false) {
                let done = job.run();
                log.finish(done);
            }
        }
        let each = spent.as_secs_f64() / f64::from(count);
        println!(
            "| {payload} B | {:.0} | {:.2} |",
            each * 1e9,
            payload as f64 / each / 1e9
        );
        if payload != 100 {
            drop(log);
            std::fs::remove_dir_all(&path).unwrap();
        }
    }
    let start = Instant::now();
    let options = Options::new(ShardId(0));
    let fresh = FileLog::open(Arc::new(FsDisk), &dir.join("fresh"), options).unwrap();
    println!(
        "\nopening an empty directory: {:.1} ms, {} KiB of disk",
        start.elapsed().as_secs_f64() * 1e3,
        fresh.log.disk_bytes() >> 10
    );
    let start = Instant::now();
    let options = Options::new(ShardId(0));
    let mut opened = FileLog::open(Arc::new(FsDisk), &dir.join("append-100"), options).unwrap();
    let checked = start.elapsed();
    let (mut records, mut sum) = (0u64, 0u64);
    while let Some(frame) = opened.replay.next_frame().unwrap() {
        for record in frame.records() {
            records += 1;
            sum += record.payload.len() as u64;
        }
    }
    let bytes = opened.replay.end().0 as f64;
    println!(
        "restart over {:.0} MB in {records} records of {} B: opened in {:.0} ms ({:.1} GB/s), replayed in {:.0} ms more",
        bytes / 1e6,
        sum / records,
        checked.as_secs_f64() * 1e3,
        bytes / checked.as_secs_f64() / 1e9,
        (start.elapsed() - checked).as_secs_f64() * 1e3,
    );
}

fn memory_log() {
    let n = 1_000_000u64;
    let body = vec![0x5a; 1024];
    let mut log = MemLog::new(4 << 30, 1 << 20);
    let start = Instant::now();
    let lsns: Vec<Lsn> = (0..n)
        .map(|_| log.append(&record(&body), Class::Message).unwrap())
        .collect();
    let append = start.elapsed();
    let overhead = log.memory() as f64 / (n * 1024) as f64 - 1.0;
    let start = Instant::now();
    let mut sum = 0;
    for lsn in &lsns {
        log.read(*lsn, &mut |payload| sum += payload.front.len())
            .unwrap();
    }
    let read = start.elapsed();
    let start = Instant::now();
    for lsn in &lsns {
        log.retire(*lsn);
    }
    let retire = start.elapsed();
    assert_eq!(sum as u64, n * 1024);
    println!(
        "\nlog in memory, 1 M x 1 KiB: append {} ns, read {} ns, retire {} ns, overhead {:.1} %, {} bytes left",
        append.as_nanos() / u128::from(n),
        read.as_nanos() / u128::from(n),
        retire.as_nanos() / u128::from(n),
        overhead * 100.0,
        log.memory(),
    );
}

fn main() {
    // `cargo test --benches` runs this too, without the flag.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    durable(dir.path());
    in_memory(dir.path());
    memory_log();
}
