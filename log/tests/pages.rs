//! Pages: what is written beside checkpoints, when it is durable, when its files go, and how damage shows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{DIR, Rng, control, flush, settle, small};
use longtail_log::sim::{Failure, Operation, SimDisk};
use longtail_log::{
    Class, Disk, FileLog, Health, MemLog, Opened, Options, PageError, PageId, ShardLog, inspect,
};

fn try_open(disk: &SimDisk) -> Opened {
    let options = Options {
        page_file_bytes: 32 << 10,
        ..small()
    };
    FileLog::open(Arc::new(disk.clone()), Path::new(DIR), options).unwrap()
}

fn open(disk: &SimDisk) -> FileLog {
    try_open(disk).log
}

fn checkpoint(log: &mut FileLog, body: &[u8]) {
    log.append(&[control(b"event")], Class::Control).unwrap();
    log.checkpoint(body.to_vec());
    settle(log, &BTreeMap::new());
}

fn page_files(disk: &SimDisk) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let files = disk.files().into_iter().map(|file| file.0);
    files.filter(|p| name(p).starts_with("pages-")).collect()
}

fn body(page: PageId) -> Vec<u8> {
    [page.file, page.offset, page.len]
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect()
}

fn page_of(body: &[u8]) -> PageId {
    let field = |i: usize| u32::from_le_bytes(*body[i * 4..].first_chunk().unwrap());
    PageId {
        file: field(0),
        offset: field(1),
        len: field(2),
    }
}

#[test]
fn a_page_reads_back_before_and_after_it_is_written_and_after_a_restart() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let page = log.write_page(b"cold").unwrap();
    let empty = log.write_page(b"").unwrap();
    assert_eq!(log.read_page(page).unwrap(), b"cold", "from memory");
    checkpoint(&mut log, &body(page));
    assert_eq!(log.read_page(page).unwrap(), b"cold", "from the file");
    assert_eq!(log.read_page(empty).unwrap(), b"");
    drop(log);
    disk.crash(1);
    let opened = try_open(&disk);
    let found = page_of(&opened.checkpoint.unwrap().1);
    assert_eq!(opened.log.read_page(found).unwrap(), b"cold");
}

#[test]
fn pages_that_no_checkpoint_speaks_of_are_gone_after_a_restart() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let mut pages = Vec::new();
    for i in 0..40 {
        pages.push(log.write_page(&[i; 8 << 10]).unwrap());
    }
    settle(&mut log, &BTreeMap::new());
    assert!(!page_files(&disk).is_empty(), "enough waits for a write");
    drop(log);
    let log = open(&disk);
    assert_eq!(page_files(&disk), Vec::<PathBuf>::new());
    assert!(matches!(
        log.read_page(pages[0]),
        Err(PageError::Missing(_))
    ));
}

#[test]
fn a_file_goes_when_two_checkpoints_no_longer_speak_of_it() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let old: Vec<PageId> = (0..4)
        .map(|i| log.write_page(&[i; 7 << 10]).unwrap())
        .collect();
    assert!(
        old.iter().all(|page| page.file == old[0].file),
        "in one file"
    );
    let other = log.write_page(&[9; 30 << 10]).unwrap();
    assert_ne!(other.file, old[0].file, "the first file is full");
    checkpoint(&mut log, b"1");
    for page in &old {
        log.free_page(*page);
        assert!(log.read_page(*page).is_ok(), "checkpoints may refer to it");
    }
    checkpoint(&mut log, b"2");
    assert_eq!(page_files(&disk).len(), 2, "the older one still has it");
    // Also across a restart.
    drop(log);
    let mut log = open(&disk);
    checkpoint(&mut log, b"3");
    assert_eq!(page_files(&disk).len(), 1);
    assert_eq!(log.read_page(other).unwrap(), [9; 30 << 10]);
}

#[test]
fn a_damaged_newest_checkpoint_leaves_the_older_with_its_pages() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let page = log.write_page(&[7; 20 << 10]).unwrap();
    checkpoint(&mut log, &body(page));
    log.free_page(page);
    let fill = log.write_page(&[8; 20 << 10]).unwrap();
    assert_ne!(fill.file, page.file);
    checkpoint(&mut log, &body(fill));
    drop(log);
    let newest = disk.files().into_iter().map(|file| file.0);
    let newest = newest
        .filter(|path| path.to_str().unwrap().contains("checkpoint-"))
        .max()
        .unwrap();
    assert!(disk.flip(&newest, 60, 1));
    let opened = try_open(&disk);
    let found = page_of(&opened.checkpoint.unwrap().1);
    assert_eq!(found, page);
    assert_eq!(opened.log.read_page(page).unwrap(), [7; 20 << 10]);
}

#[test]
fn a_sparse_file_is_named_until_it_is_empty_or_must_stay() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let pages: Vec<PageId> = (0..8)
        .map(|i| log.write_page(&[i; 7 << 10]).unwrap())
        .collect();
    assert_eq!(log.sparse_pages(), None);
    for page in &pages[..3] {
        log.free_page(*page);
    }
    assert_eq!(log.sparse_pages(), Some(pages[3].file));
    log.keep_pages(pages[3].file);
    assert_eq!(log.sparse_pages(), None);
}

#[test]
fn every_flipped_bit_of_a_page_shows_when_it_is_read_and_when_the_log_is_checked() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let page = log.write_page(b"sixteen bytes it").unwrap();
    let behind = log.write_page(b"behind").unwrap();
    checkpoint(&mut log, b"1");
    drop(log);
    let file = page_files(&disk).remove(0);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let check = || inspect::check(&shared, Path::new(DIR)).unwrap();
    let sound = check();
    assert!(sound.is_sound(), "{sound}");
    assert_eq!(sound.pages[0].pages, Some(2));
    assert!(sound.to_string().contains("2 pages"), "{sound}");
    let stats = inspect::stats(shared.as_ref(), Path::new(DIR)).unwrap();
    assert_eq!(stats.pages[0].file, file);
    let log = open(&disk);
    for bit in 0..(behind.offset - page.offset) * 8 {
        let at = u64::from(page.offset + bit / 8);
        assert!(disk.flip(&file, at, (bit % 8) as u8));
        let read = log.read_page(page);
        assert!(
            matches!(read, Err(PageError::Damaged { .. })),
            "bit {bit}: {read:?}"
        );
        let report = check();
        assert_eq!(report.damage.len(), 1, "bit {bit}");
        assert_eq!(report.damage[0].offset, u64::from(page.offset));
        assert!(disk.flip(&file, at, (bit % 8) as u8));
    }
    assert_eq!(log.read_page(behind).unwrap(), b"behind");
    disk.remove(&file).unwrap();
    assert!(matches!(log.read_page(page), Err(PageError::Missing(_))));
    assert!(!check().is_sound());
}

#[test]
fn a_failed_write_stops_the_log_and_a_full_disk_only_waits() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    settle(&mut log, &BTreeMap::new());
    let page = log.write_page(&[3; 1 << 10]).unwrap();
    disk.set_capacity(Some(disk.used()));
    log.append(&[control(b"event")], Class::Control).unwrap();
    log.checkpoint(b"1".to_vec());
    settle(&mut log, &BTreeMap::new());
    assert_eq!(log.read_page(page).unwrap(), [3; 1 << 10]);
    disk.set_capacity(None);
    checkpoint(&mut log, b"2");
    assert_eq!(log.read_page(page).unwrap(), [3; 1 << 10]);
    assert!(!matches!(log.health(), Health::Poisoned { .. }));

    log.write_page(&[4; 1 << 10]).unwrap();
    log.append(&[control(b"event")], Class::Control).unwrap();
    flush(&mut log);
    log.checkpoint(b"3".to_vec());
    disk.fail_always(Operation::Write, Failure::Io);
    settle(&mut log, &BTreeMap::new());
    assert!(matches!(log.health(), Health::Poisoned { .. }));
    assert_eq!(log.write_page(b"more"), None);
}

#[test]
fn what_waits_is_bounded() {
    let disk = SimDisk::new();
    let mut log = open(&disk);
    let page = vec![1; 1 << 20];
    let taken = (0..100)
        .take_while(|_| log.write_page(&page).is_some())
        .count();
    assert!((4..=5).contains(&taken), "{taken}");
    settle(&mut log, &BTreeMap::new());
    assert!(log.write_page(&page).is_some());
    assert_eq!(log.write_page(&vec![1; (1 << 20) + 1]), None, "too large");
}

#[test]
fn a_log_in_memory_takes_no_pages() {
    let mut log = MemLog::new(1 << 20, 1 << 10);
    assert_eq!(log.write_page(b"cold"), None);
}

/// The pages of the checkpoint from which a restart starts are all there, whatever the power cut took.
#[test]
fn crashes_never_take_a_page_of_a_kept_checkpoint() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let disk = SimDisk::new();
        let mut model: BTreeMap<PageId, Vec<u8>> = BTreeMap::new();
        let mut saved: BTreeMap<Vec<u8>, BTreeMap<PageId, Vec<u8>>> = BTreeMap::new();
        let mut log = open(&disk);
        let mut halted = false;
        for round in 0..30u64 {
            for _ in 0..rng.below(12) {
                let len = rng.below(9000) as usize;
                let bytes = rng.bytes(len);
                if let Some(page) = log.write_page(&bytes) {
                    model.insert(page, bytes);
                }
            }
            while model.len() > 12 {
                let at = rng.below(model.len() as u64) as usize;
                let page = *model.keys().nth(at).unwrap();
                model.remove(&page);
                log.free_page(page);
            }
            if let Some(file) = log.sparse_pages() {
                let moved: Vec<PageId> = model.keys().copied().filter(|p| p.file == file).collect();
                for page in moved {
                    let (Ok(bytes), true) = (log.read_page(page), !halted) else {
                        continue;
                    };
                    let to = log.write_page(&bytes).unwrap();
                    log.free_page(page);
                    model.remove(&page);
                    model.insert(to, bytes);
                }
            }
            if rng.below(2) == 0 {
                let event = [control(b"event")];
                log.append(&event, Class::Control).unwrap();
                let name = (seed * 1000 + round).to_le_bytes().to_vec();
                saved.insert(name.clone(), model.clone());
                log.checkpoint(name);
            }
            if rng.below(8) == 0 {
                disk.halt_after(rng.below(20));
                halted = true;
            }
            for _ in 0..rng.below(6) {
                flush(&mut log);
                if let Some(job) = log.next_chore() {
                    let done = job.run();
                    log.finish(done);
                }
            }
            if rng.below(5) == 0 || matches!(log.health(), Health::Poisoned { .. }) {
                drop(log);
                disk.crash(rng.next());
                halted = false;
                let opened = try_open(&disk);
                log = opened.log;
                model = opened
                    .checkpoint
                    .map(|(_, name)| saved[&name].clone())
                    .unwrap_or_default();
            }
            for (page, bytes) in &model {
                let read = log.read_page(*page);
                // A machine that is off reads nothing either.
                let off = matches!(read, Err(PageError::Io { .. }));
                assert!(
                    read.as_ref().is_ok_and(|read| read == bytes) || (off && halted),
                    "seed {seed} round {round} page {page}: {read:?}"
                );
            }
        }
    }
}
