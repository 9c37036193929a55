//! What a server costs, from `/proc`: processor time, resident memory, file descriptors, disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Processor time of all threads that live, to the nanosecond.
///
/// # Errors
/// When the process is gone or the kernel counts nothing.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while its directory is listed.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let ns = text.split_ascii_whitespace().next().map(str::parse::<u64>);
        total += ns.transpose()?.context("an empty schedstat")?;
    }
    Ok(Duration::from_nanos(total))
}

/// Resident bytes.
///
/// # Errors
/// When the process is gone.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    kib_of(&status, "VmRSS:").context("no VmRSS in the status")
}

fn kib_of(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Open file descriptors.
///
/// # Errors
/// When the process is gone.
pub(crate) fn descriptors(pid: u32) -> Result<u64> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

/// Bytes that a directory takes on the disk: what is allocated, not what the files' lengths say.
pub(crate) fn disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    // What goes away while it is looked at takes no room.
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let mut total = 0;
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(data) if data.is_dir() => total += disk(&entry.path()),
            Ok(data) => total += data.blocks() * 512,
            Err(_) => {}
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::{cpu, descriptors, kib_of, resident};

    #[test]
    fn a_process_can_be_looked_at() {
        let pid = std::process::id();
        assert!(cpu(pid).expect("own process") > std::time::Duration::ZERO);
        assert!(resident(pid).expect("own process") > 0);
        assert!(descriptors(pid).expect("own process") > 2);
        assert_eq!(kib_of("Name: x\nVmRSS:\t   2 kB\n", "VmRSS:"), Some(2048));
        assert_eq!(kib_of("Name: x\n", "VmRSS:"), None);
    }
}
