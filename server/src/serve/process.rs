//! What the system says of this process. Where it says nothing (no `/proc`), neither does this.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use longtail_admin::ProcessMetrics;
use longtail_beanstalk::CpuTime;

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Resident memory in bytes.
pub(super) fn resident_bytes() -> Option<u64> {
    resident(&fs::read_to_string("/proc/self/status").ok()?)
}

fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The limit of open files.
fn max_fds(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What `/metrics` shows of the process, which started at `started_ms`.
pub(super) fn metrics(started_ms: u64) -> Option<ProcessMetrics> {
    let cpu = CpuTime::of_process();
    // The directory that is being listed is one of them.
    let open_fds = fs::read_dir("/proc/self/fd")
        .ok()?
        .count()
        .saturating_sub(1);
    Some(ProcessMetrics {
        cpu_seconds: seconds(cpu.user_us + cpu.system_us, 1e6),
        resident_bytes: resident_bytes()?,
        open_fds: open_fds as u64,
        max_fds: max_fds(&fs::read_to_string("/proc/self/limits").ok()?)?,
        start_seconds: seconds(started_ms, 1e3),
    })
}

/// A whole number of parts of a second, in seconds.
#[allow(
    clippy::cast_precision_loss,
    reason = "microseconds since 1970 fit into 53 bits for two centuries more"
)]
pub(super) fn seconds(parts: u64, per_second: f64) -> f64 {
    parts as f64 / per_second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        assert_eq!(
            resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads: 3\n"),
            Some(2 << 20)
        );
        assert_eq!(resident("Name:\tx\n"), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(max_fds(limits), Some(1024));
    }
}
