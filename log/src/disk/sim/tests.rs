use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::{Failure, Operation, SimDisk};
use crate::disk::Disk;

#[test]
fn synced_bytes_survive_and_unsynced_ones_may_not() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..64 {
        let disk = SimDisk::new();
        let (dir, path) = (Path::new("/d"), Path::new("/d/file"));
        let file = disk.create(path).unwrap();
        file.write_at(&[1; 2048], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(dir).unwrap();
        file.write_at(&[2; 1024], 1024).unwrap();
        disk.crash(seed);
        assert!(file.size().is_err(), "old handles are dead");
        let bytes = disk.contents(path).unwrap();
        assert_eq!(bytes.len(), 2048);
        assert_eq!(bytes[..1024], [1; 1024]);
        for sector in bytes[1024..].chunks(512) {
            assert!(sector.iter().all(|b| *b == sector[0]));
            match sector[0] {
                1 => lost += 1,
                _ => kept += 1,
            }
        }
    }
    assert!(lost > 20 && kept > 20);
}

#[test]
fn names_need_a_sync_of_the_directory() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..64 {
        let disk = SimDisk::new();
        let (a, b) = (Path::new("/d/a"), Path::new("/d/b"));
        disk.create(a).unwrap().write_at(b"x", 0).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.rename(a, b).unwrap();
        disk.crash(seed);
        outcomes.insert(disk.files().into_iter().map(|f| f.0).collect::<Vec<_>>());
    }
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
}

#[test]
fn what_a_failed_sync_lost_stays_lost() {
    let disk = SimDisk::new();
    let path = Path::new("/d/file");
    let file = disk.create(path).unwrap();
    file.write_at(&[0; 512], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(&[9; 512], 0).unwrap();
    disk.fail(Operation::Sync, 0, Failure::Io);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    file.sync_data().unwrap();
    disk.crash(0);
    assert_eq!(disk.contents(path).unwrap(), [0; 512]);
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(4096));
    let file = disk.create(Path::new("/d/file")).unwrap();
    file.allocate(0, 4096).unwrap();
    file.write_at(&[1; 4096], 0).unwrap();
    let error = file.write_at(&[1], 4096).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    disk.set_read_only(true);
    let error = file.write_at(&[1], 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
}
