//! What a server costs, from `/proc`: processor time and resident memory of a process (or of the null sink's thread).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use crate::error::BenchError;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A process of this machine.
    Process(u32),
    /// A thread of this process: the null sink. Its memory is not told apart from the generator's.
    Thread(i32),
}

/// Use so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time outside the kernel.
    pub(crate) user: Duration,
    /// Processor time inside the kernel.
    pub(crate) system: Duration,
    /// Time in which its threads could run, but others had the processors. Of threads that still live.
    pub(crate) waiting: Duration,
    /// Resident memory now and at its highest, if it is a process.
    pub(crate) memory: Option<Memory>,
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

impl Probe {
    /// Reads the use so far; processor time has the kernel's resolution of 10 ms.
    pub(crate) fn read(&self) -> Result<Usage, BenchError> {
        let (stat, status) = match self {
            Probe::Process(pid) => (
                format!("/proc/{pid}/stat"),
                Some(format!("/proc/{pid}/status")),
            ),
            Probe::Thread(tid) => (format!("/proc/self/task/{tid}/stat"), None),
        };
        let (user, system) = parse(Path::new(&stat), cpu_ticks)?;
        let tick = Duration::from_secs(1)
            / u32::try_from(rustix::param::clock_ticks_per_second())
                .unwrap_or(100)
                .max(1);
        let ticks = |count: u64| tick * u32::try_from(count).unwrap_or(u32::MAX);
        let memory = status
            .map(|status| parse(Path::new(&status), memory))
            .transpose()?;
        Ok(Usage {
            user: ticks(user),
            system: ticks(system),
            waiting: self.waiting(),
            memory,
        })
    }

    fn waiting(&self) -> Duration {
        let tasks = match self {
            Probe::Process(pid) => format!("/proc/{pid}/task"),
            Probe::Thread(tid) => return waiting(&format!("/proc/self/task/{tid}/schedstat")),
        };
        let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
        tasks
            .map(|task| waiting(&task.path().join("schedstat").to_string_lossy()))
            .sum()
    }
}

/// How long the calling thread could run, but others had the processors.
pub(crate) fn own_waiting() -> Duration {
    waiting("/proc/thread-self/schedstat")
}

/// The second number of a `schedstat` file; 0 where the kernel keeps none, as it only qualifies other figures.
fn waiting(schedstat: &str) -> Duration {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    let ns = text
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|ns| ns.parse().ok())
        .unwrap_or(0);
    Duration::from_nanos(ns)
}

fn parse<T>(path: &Path, what: impl Fn(&str) -> Option<T>) -> Result<T, BenchError> {
    let failed = |source| BenchError::Probe {
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(failed)?;
    what(&text).ok_or_else(|| {
        failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "unexpected content",
        ))
    })
}

/// utime and stime of a `stat` file: fields 14 and 15, counted behind the name, which may contain anything.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat
        .get(stat.rfind(')')? + 1..)?
        .split_ascii_whitespace()
        .skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn memory(status: &str) -> Option<Memory> {
    let kib = |key: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some(Memory {
        resident: kib("VmRSS:")? * 1024,
        peak: kib("VmHWM:")? * 1024,
    })
}

/// The process that listens on `address`, if it is on this machine and this user may look into it.
pub(crate) fn listener_pid(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() {
        return None;
    }
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, address.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let files = fs::read_dir(process.path().join("fd")).ok()?;
        let holds = files.flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|link: PathBuf| {
                inodes
                    .iter()
                    .any(|inode| link.as_os_str() == inode.as_str())
            })
        });
        holds.then_some(pid)
    })
}

/// Inodes of the sockets that listen on `port`, from a table such as `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
            let listens =
                u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == LISTEN;
            if listens {
                fields.get(9)?.parse().ok()
            } else {
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 17 23 0 0 20 0 1 0 100 1000 10";
        assert_eq!(cpu_ticks(stat), Some((17, 23)));
        assert_eq!(cpu_ticks("42 (cut"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(
            memory(status),
            Some(Memory {
                resident: 1 << 20,
                peak: 2 << 20
            })
        );
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2C24 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0\n\
            1: 0100007F:2C24 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0 0 10 0\n\
            2: 0100007F:2C25 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0 0 10 0\n";
        assert_eq!(listening_inodes(table, 0x2c24), [111]);
    }

    #[test]
    fn the_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let pid = listener_pid(listener.local_addr().expect("an address"));
        assert_eq!(pid, Some(std::process::id()));
        let usage = Probe::Process(std::process::id())
            .read()
            .expect("own process");
        assert!(usage.memory.expect("a process has memory").resident > 0);
    }
}
