//! The machine and the versions, so that a table can be judged and repeated.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use serde::Serialize;

use crate::disk::{SyncLatency, sync_latency};
use crate::error::BenchError;

/// Where and with what a benchmark ran.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
    /// TCP's congestion control, which paces loopback too if it is one that paces.
    pub(crate) congestion_control: String,
    /// The load average (1 minute) before the first run: above 0.5 others were at work.
    pub(crate) load_before: Option<f64>,
    /// Of the directory that holds the servers' data; None when the generator started none.
    pub(crate) sync_latency: Option<SyncLatency>,
    /// Version of each subject.
    pub(crate) versions: BTreeMap<String, String>,
}

impl Environment {
    /// Looks around; measures the disk of `data_directory`.
    pub(crate) fn detect(data_directory: Option<&Path>) -> Result<Self, BenchError> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let congestion_control =
            fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Ok(Environment {
            processor: processor(&cpuinfo),
            processors: available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            congestion_control: congestion_control.trim().to_owned(),
            load_before: load.split(' ').next().and_then(|load| load.parse().ok()),
            sync_latency: data_directory.map(sync_latency).transpose()?,
            versions: BTreeMap::new(),
        })
    }
}

fn processor(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim())
        .to_owned()
}
