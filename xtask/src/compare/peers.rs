//! The originals, at pinned versions: from Debian, or built from crates.io into the cache.

use std::path::PathBuf;

use anyhow::Result;

use super::plan::OWN;
use crate::{debian, process, workspace};

/// The version of rumqttd that is built.
const RUMQTTD: &str = "0.20.0";

/// What is there to compare with.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) beanstalkd: Option<PathBuf>,
    pub(super) mosquitto: Option<PathBuf>,
    pub(super) rumqttd: Option<PathBuf>,
    /// RabbitMQ's start script.
    pub(super) rabbitmq: Option<PathBuf>,
}

impl Peers {
    /// Installs the peers of these protocols (of all, when none is named); says which this machine cannot have.
    ///
    /// # Errors
    /// When an installer cannot be started.
    pub(super) fn install(protocols: &[String]) -> Result<Peers> {
        let wanted =
            |protocol: &str| protocols.is_empty() || protocols.iter().any(|name| name == protocol);
        let mut peers = Peers {
            beanstalkd: None,
            mosquitto: None,
            rumqttd: None,
            rabbitmq: None,
        };
        if wanted("beanstalk") {
            peers.beanstalkd = from_debian("beanstalkd", "beanstalkd")?;
        }
        if wanted("mqtt") {
            peers.mosquitto = from_debian("mosquitto", "mosquitto")?;
            peers.rumqttd = from_crates("rumqttd", RUMQTTD)?;
        }
        if wanted("amqp") {
            peers.rabbitmq = told("rabbitmq", debian::rabbitmq()?);
        }
        Ok(peers)
    }

    /// Protocol, name, the flag of `longtail bench` for its program, and that.
    fn all(&self) -> [(&'static str, &'static str, &'static str, Option<&PathBuf>); 4] {
        [
            (
                "beanstalk",
                "beanstalkd",
                "--peer-program",
                self.beanstalkd.as_ref(),
            ),
            ("mqtt", "mosquitto", "--mosquitto", self.mosquitto.as_ref()),
            ("mqtt", "rumqttd", "--rumqttd", self.rumqttd.as_ref()),
            ("amqp", "rabbitmq", "--rabbitmq", self.rabbitmq.as_ref()),
        ]
    }

    /// Whether there is any peer for a protocol.
    pub(super) fn has(&self, protocol: &str) -> bool {
        self.all()
            .iter()
            .any(|(of, .., program)| *of == protocol && program.is_some())
    }

    /// Whether there is this one, or it is Longtail.
    pub(super) fn is_there(&self, peer: &str) -> bool {
        let is_it = |(_, name, _, program): &(_, &str, _, Option<&PathBuf>)| {
            *name == peer && program.is_some()
        };
        peer == OWN || self.all().iter().any(is_it)
    }

    /// The flags of `longtail bench` that name the peers of a protocol; the one that is `only` wanted of them, or that
    /// none is.
    pub(super) fn flags(&self, protocol: &str, only: Option<&str>) -> Vec<String> {
        let mut names = Vec::new();
        let mut flags = Vec::new();
        for (of, name, flag, program) in self.all() {
            let wanted = of == protocol && only.is_none_or(|only| only == name || only == OWN);
            if let Some(program) = program.filter(|_| wanted) {
                names.push(name);
                flags.extend([flag.to_owned(), program.display().to_string()]);
            }
        }
        flags.extend(["--compare".to_owned(), names.join(",")]);
        if only == Some(OWN) {
            flags.push("--own-only".to_owned());
        }
        flags
    }
}

fn from_debian(program: &str, package: &str) -> Result<Option<PathBuf>> {
    let installed = debian::program(program, package)?;
    Ok(told(program, installed.map(|()| program.into())))
}

/// A program, or nothing once it is said why.
fn told(name: &str, installed: std::result::Result<PathBuf, String>) -> Option<PathBuf> {
    installed
        .inspect_err(|why| println!("SKIPPED {name}: {why}"))
        .ok()
}

/// Builds a program into the cache. Without its lock file: that of rumqttd does not build on current compilers.
fn from_crates(name: &str, version: &str) -> Result<Option<PathBuf>> {
    let root = workspace::cache().join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.exists() {
        return Ok(Some(program));
    }
    let root = root.display().to_string();
    let install = ["install", name, "--version", version, "--root", &root];
    if process::run(&mut process::cargo(&install))? && program.exists() {
        return Ok(Some(program));
    }
    println!("SKIPPED {name}: it could not be built");
    Ok(None)
}
