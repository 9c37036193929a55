//! What the MQTT service asks of the world around it, for `$SYS`.

use std::fs;
use std::sync::{Arc, Weak};

use longtail_edge::Edge;
use longtail_mqtt::sys::{Host, Process, Sockets};

/// The sockets of the MQTT listeners, and this process.
pub(crate) struct EdgeHost(Weak<Edge>);

impl EdgeHost {
    /// Does not keep the edge, whose listeners keep the service.
    pub(crate) fn new(edge: &Arc<Edge>) -> Self {
        EdgeHost(Arc::downgrade(edge))
    }
}

impl Host for EdgeHost {
    fn sockets(&self) -> Sockets {
        let mut sockets = Sockets::default();
        let Some(edge) = self.0.upgrade() else {
            return sockets;
        };
        for listener in edge.metrics() {
            if listener.protocol == "mqtt" {
                sockets.open += listener.open as u64;
                sockets.accepted += listener.accepted;
                sockets.bytes_in += listener.bytes_in;
                sockets.bytes_out += listener.bytes_out;
            }
        }
        sockets
    }

    fn listeners(&self) -> Vec<(String, Sockets)> {
        let Some(edge) = self.0.upgrade() else {
            return Vec::new();
        };
        let metrics = edge.metrics().into_iter();
        let of_mqtt = metrics.filter(|listener| listener.protocol == "mqtt");
        let sockets = of_mqtt.map(|listener| {
            let sockets = Sockets {
                open: listener.open as u64,
                accepted: listener.accepted,
                bytes_in: listener.bytes_in,
                bytes_out: listener.bytes_out,
            };
            (listener.address, sockets)
        });
        sockets.collect()
    }

    fn process(&self) -> Option<Process> {
        process(&fs::read_to_string("/proc/self/status").ok()?)
    }
}

fn process(status: &str) -> Option<Process> {
    let number = |name: &str| -> Option<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.split_whitespace().next()?.parse().ok()
    };
    Some(Process {
        resident_bytes: number("VmRSS:")? * 1024,
        resident_bytes_max: number("VmHWM:")? * 1024,
        threads: number("Threads:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_process_is_read() {
        let status = "Name:\tx\nVmHWM:\t    4 kB\nVmRSS:\t    2 kB\nThreads:\t3\n";
        let expected = Process {
            resident_bytes: 2048,
            resident_bytes_max: 4096,
            threads: 3,
        };
        assert_eq!(process(status), Some(expected));
        assert_eq!(process("Name:\tx\n"), None);
    }
}
