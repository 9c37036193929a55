//! Where a scenario runs: a server, the bystanders beside whatever the scenario does to it, and the report.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use tempfile::TempDir;

use super::bystander::{Bystanders, Flow};
use super::{Sizes, probe};
use crate::random::Random;
use crate::server::{Server, ServerCommand};

/// How often the memory is looked at during a phase.
const SAMPLE: Duration = Duration::from_millis(100);

/// What a scenario has found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) phases: Vec<Phase>,
    pub(crate) facts: Vec<Fact>,
    /// What is wrong.
    pub(crate) faults: Vec<String>,
}

/// The bystanders during one phase, and what the server needed.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    pub(crate) flows: Vec<Flow>,
    /// Of one processor, in percent.
    pub(crate) cpu_percent: f64,
    pub(crate) resident_before: u64,
    pub(crate) resident_peak: u64,
    pub(crate) resident_after: u64,
}

/// One figure.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

/// See the module.
pub(crate) struct Room {
    pub(crate) sizes: Sizes,
    pub(crate) random: Random,
    pub(crate) report: Report,
    command: ServerCommand,
    home: TempDir,
    server: Server,
    phases: u32,
}

impl Room {
    /// Starts a server in a directory of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn new(
        scenario: &'static str,
        command: &ServerCommand,
        sizes: Sizes,
        seed: u64,
    ) -> Result<Room> {
        let home = tempfile::tempdir()?;
        Ok(Room {
            sizes,
            random: Random::new(seed),
            report: Report {
                scenario,
                phases: Vec::new(),
                facts: Vec::new(),
                faults: Vec::new(),
            },
            command: command.clone(),
            server: Server::start(command, home.path())?,
            home,
            phases: 0,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How the server was started.
    pub(crate) fn command(&self) -> &ServerCommand {
        &self.command
    }

    /// Kills the server and starts it again on what it left; how long it took until it accepted connections.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn restart(&mut self) -> Result<Duration> {
        self.server.kill();
        let begin = Instant::now();
        self.server = Server::start(&self.command, self.home.path())?;
        Ok(begin.elapsed())
    }

    /// The end of the server's log.
    pub(crate) fn log_tail(&self) -> String {
        self.server.log_tail()
    }

    /// Processor time of the server so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        probe::cpu(self.server.pid())
    }

    pub(crate) fn resident(&self) -> Result<u64> {
        probe::resident(self.server.pid())
    }

    pub(crate) fn descriptors(&self) -> Result<u64> {
        probe::descriptors(self.server.pid())
    }

    /// Bytes of the data directory.
    pub(crate) fn disk(&self) -> u64 {
        probe::disk(self.data())
    }

    fn data(&self) -> &Path {
        self.home.path()
    }

    /// Keeps a figure.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn fact(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        let fact = Fact {
            name: name.into(),
            value,
            unit,
        };
        println!("    {fact}");
        self.report.facts.push(fact);
    }

    /// Something that has to hold.
    pub(crate) fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let what = what();
            println!("    FAULT {what}");
            self.report.faults.push(what);
        }
    }

    /// Runs `work` beside the bystanders, who go on until it is done and at least for the usual time; `work` is told when
    /// that is over.
    ///
    /// # Errors
    /// Those of `work` and of the bystanders.
    pub(crate) fn phase<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(Instant) -> Result<T>,
    ) -> Result<T> {
        self.phases += 1;
        let label = format!("{}-{}", self.report.scenario, self.phases);
        let bystanders = Bystanders::connect(self.address(), &label)?;
        let pid = self.server.pid();
        let resident_before = probe::resident(pid)?;
        let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let peak = AtomicU64::new(resident_before);
        let (begin, cpu) = (Instant::now(), probe::cpu(pid)?);
        let end = begin + self.sizes.phase;
        let (result, flows) = std::thread::scope(|scope| {
            let flows = scope.spawn(|| bystanders.run(&label, &stop));
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    let resident = probe::resident(pid).unwrap_or_default();
                    peak.fetch_max(resident, Ordering::AcqRel);
                    std::thread::sleep(SAMPLE);
                }
            });
            let result = work(end);
            if result.is_ok() {
                std::thread::sleep(end.saturating_duration_since(Instant::now()));
            }
            stop.store(true, Ordering::Release);
            let flows = flows.join();
            over.store(true, Ordering::Release);
            (result, flows)
        });
        let seconds = begin.elapsed().as_secs_f64();
        let used = probe::cpu(pid)?.saturating_sub(cpu);
        let phase = Phase {
            name: name.to_owned(),
            seconds,
            flows: flows.map_err(|_| anyhow!("the bystanders panicked"))??,
            cpu_percent: used.as_secs_f64() / seconds * 100.0,
            resident_before,
            resident_peak: peak.into_inner(),
            resident_after: probe::resident(pid)?,
        };
        println!("{phase}");
        self.report.phases.push(phase);
        result
    }

    /// The sum of a counter's series whose labels contain `labels`, from the server's admin service.
    ///
    /// # Errors
    /// When there is no such service, or no such counter.
    pub(crate) fn counter(&self, name: &str, labels: &str) -> Result<f64> {
        let address = self.server.websocket().context("no admin service")?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(super::client::PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        sum(&text, name, labels).with_context(|| format!("no counter {name}{{{labels}}}"))
    }
}

/// Adds up the lines of an exposition that are of this series.
fn sum(text: &str, name: &str, labels: &str) -> Option<f64> {
    let mut total = None;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(name) else {
            continue;
        };
        let Some((own, value)) = rest.rsplit_once(' ') else {
            continue;
        };
        if (own.is_empty() || own.starts_with('{')) && own.contains(labels) {
            *total.get_or_insert(0.0) += value.parse::<f64>().ok()?;
        }
    }
    total
}

impl std::fmt::Display for Fact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:58} {:>12.1} {}", self.name, self.value, self.unit)
    }
}

impl std::fmt::Display for Phase {
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(
            f,
            "  {}: {:.1} s, server {:.0} % of a processor, resident {:.1} MiB, {:.1} at most, {:.1} after",
            self.name,
            self.seconds,
            self.cpu_percent,
            mib(self.resident_before),
            mib(self.resident_peak),
            mib(self.resident_after)
        )?;
        for (number, flow) in self.flows.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(
                f,
                "    {:14} {:>7} messages, p50 {:>8.0} us, p99 {:>8.0}, p99.9 {:>8.0}, max {:>8.0}",
                flow.name, flow.messages, flow.p50_us, flow.p99_us, flow.p999_us, flow.max_us
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn series_of_one_name_are_added_up() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"2\"} 4\nab{x=\"1\"} 9\nc 5\n";
        assert_eq!(sum(text, "a", ""), Some(7.0));
        assert_eq!(sum(text, "a", "x=\"1\""), Some(3.0));
        assert_eq!(sum(text, "c", ""), Some(5.0));
        assert_eq!(sum(text, "d", ""), None);
    }
}
