//! Which processors the server and the generator run on.

use std::str::FromStr;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::BenchError;

/// Processors of both sides, as `0:1` or `0,1:2,3` (server first).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// The servers that the generator starts.
    pub(crate) server: Vec<usize>,
    /// The generator's threads.
    pub(crate) generator: Vec<usize>,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not like 0:1 or 0,1:2,3 (processors of the server, of the generator)"
            )
        };
        let (server, generator) = text.split_once(':').ok_or_else(wrong)?;
        let list = |cpus: &str| {
            cpus.split(',')
                .map(str::parse)
                .collect::<Result<Vec<usize>, _>>()
                .map_err(|_| wrong())
        };
        let (server, generator) = (list(server)?, list(generator)?);
        if server
            .iter()
            .chain(&generator)
            .any(|&cpu| cpu >= CpuSet::MAX_CPU)
        {
            return Err(format!(
                "processors are numbered from 0 to {}",
                CpuSet::MAX_CPU - 1
            ));
        }
        Ok(Pin { server, generator })
    }
}

/// Ties the calling thread, and what it starts from now on, to these processors.
pub(crate) fn pin_thread(cpus: &[usize]) -> Result<(), BenchError> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    sched_setaffinity(None, &set).map_err(|errno| BenchError::Pin {
        cpus: cpus.to_vec(),
        source: errno.into(),
    })
}

/// Runs `start` tied to these processors, so that a process started by it inherits them, then unties.
pub(crate) fn pinned<T>(
    cpus: Option<&[usize]>,
    start: impl FnOnce() -> Result<T, BenchError>,
) -> Result<T, BenchError> {
    let Some(cpus) = cpus else { return start() };
    let failed = |errno: rustix::io::Errno| BenchError::Pin {
        cpus: cpus.to_vec(),
        source: errno.into(),
    };
    let before = sched_getaffinity(None).map_err(failed)?;
    pin_thread(cpus)?;
    let started = start();
    sched_setaffinity(None, &before).map_err(failed)?;
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_lists() {
        let pin: Pin = "0,2:1".parse().expect("legal");
        assert_eq!(
            pin,
            Pin {
                server: vec![0, 2],
                generator: vec![1]
            }
        );
        for wrong in ["", "0", "0:", "a:b", "0:99999"] {
            assert!(wrong.parse::<Pin>().is_err(), "{wrong:?}");
        }
    }
}
