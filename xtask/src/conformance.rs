//! Conformance: unmodified client libraries, and raw sockets, drive a real server.
//!
//! `conformance/suites.json` lists the suites. A suite is a program that takes `--target`, `--flavour`, `--pid`,
//! `--beside`, `--websocket`, `--peer` and `--start` (the last four where the suite or its protocol has them) and prints
//! one line a case and the totals last.
//! Each gets a server of its own. What the suites need is installed into `.cache/`, by exact version.

mod install;

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::server::{Server, ServerCommand};
use crate::tally::Tally;
use crate::{debian, failures, process, workspace};

/// One row of `suites.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    /// As the command line names it.
    pub(crate) name: String,
    /// The listener it needs.
    protocol: String,
    /// A second listener that it needs, of another protocol.
    beside: Option<String>,
    /// It looks into the server by the management API of AMQP, which is where the second address is.
    #[serde(default)]
    managed: bool,
    /// It needs the original as another server, and starts it itself.
    #[serde(default)]
    peer: Option<Peer>,
    /// It drives RabbitMQ's second command line client.
    #[serde(default)]
    rabbitmqadmin: bool,
    /// What runs it.
    runtime: Runtime,
    /// The program, below `conformance/`, or the name of a binary of `conformance/rust`.
    entry: String,
    /// What it covers, for people.
    pub(crate) covers: String,
}

/// An original that a suite starts beside the server.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Peer {
    Rabbitmq,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Runtime {
    /// The system's Python, standard library only.
    Python,
    /// Python with the pinned clients.
    PythonClients,
    /// Node with the pinned clients.
    Node,
    /// A binary of `conformance/rust`.
    Rust,
    /// The system's Python, which drives Mosquitto's command line clients.
    MosquittoClients,
    /// The same with `mosquitto_ctrl`, which comes with Mosquitto itself.
    MosquittoCtrl,
}

/// Where the suites find their server.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Start one for each suite.
    Start(Option<ServerCommand>),
    /// One that runs already.
    Running(SocketAddr),
}

/// All suites, in order.
///
/// # Errors
/// When the list cannot be read.
pub(crate) fn suites() -> Result<Vec<Suite>> {
    let path = workspace::root().join("conformance/suites.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a list of suites", path.display()))
}

/// Mosquitto, as something to run the suites of MQTT against; or why this machine cannot have it.
///
/// # Errors
/// When the installation cannot be started.
pub(crate) fn mosquitto() -> Result<Result<ServerCommand, String>> {
    Ok(debian::program("mosquitto", "mosquitto")?.map(|()| ServerCommand::mosquitto()))
}

/// RabbitMQ, or why this machine cannot have it.
///
/// # Errors
/// When the installation cannot be started.
pub(crate) fn rabbitmq() -> Result<Result<ServerCommand, String>> {
    Ok(debian::rabbitmq()?.map(|script| ServerCommand::rabbitmq(&script)))
}

/// Runs the suites named by themselves or by their protocol, or all.
///
/// # Errors
/// When a name is unknown or a suite cannot be started at all.
pub(crate) fn run(names: &[String], target: &Target, flavour: Option<&str>) -> Result<Tally> {
    let suites = suites()?;
    if let Some(unknown) = names
        .iter()
        .find(|name| suites.iter().all(|suite| !suite.is_called(name)))
    {
        anyhow::bail!(
            "no suite is called {unknown:?}; `cargo xtask conformance --list` shows them"
        );
    }
    let mut total = Tally::default();
    for suite in suites
        .iter()
        .filter(|suite| names.is_empty() || names.iter().any(|name| suite.is_called(name)))
    {
        println!("--- {}: {}", suite.name, suite.covers);
        total += match suite.run(target, flavour) {
            Ok(tally) => tally,
            Err(error) => {
                failures::say(&format!("FAIL {}: {error:#}", suite.name));
                Tally::FAIL
            }
        };
    }
    Ok(total)
}

impl Suite {
    /// Whether the command line means it: its own name, or its protocol's.
    fn is_called(&self, name: &str) -> bool {
        name == self.name || name == self.protocol
    }

    /// Whose behaviour is expected of Longtail.
    fn flavour(&self) -> &'static str {
        match self.protocol.as_str() {
            "beanstalk" => "1.13",
            _ => "longtail",
        }
    }

    /// How Longtail is started for it.
    fn longtail(&self) -> ServerCommand {
        if self.managed {
            return ServerCommand::longtail_managed(None);
        }
        if self.name == "mqtt-http" {
            return ServerCommand::longtail_beside("mqtt", "mqtt-http");
        }
        match (self.protocol.as_str(), &self.beside) {
            ("mqtt", _) => ServerCommand::longtail_mqtt(None),
            (protocol, None) => ServerCommand::longtail(protocol, None),
            (protocol, Some(beside)) => ServerCommand::longtail_beside(protocol, beside),
        }
    }

    fn run(&self, target: &Target, flavour: Option<&str>) -> Result<Tally> {
        let mut command = match self.program()? {
            Ok(command) => command,
            Err(why) => return Ok(Tally::skip(&self.name, &why)),
        };
        let home = tempfile::tempdir()?;
        let server = match target {
            Target::Running(address) => {
                command.args(["--target", &address.to_string()]);
                None
            }
            Target::Start(chosen) => {
                let start = chosen.clone().unwrap_or_else(|| self.longtail());
                let server = Server::start(&start, home.path())?;
                command.args([
                    "--target",
                    &server.address().to_string(),
                    "--pid",
                    &server.pid().to_string(),
                ]);
                if self.beside.is_some()
                    && let Some(second) = server.websocket()
                {
                    command.args(["--beside", &second.to_string()]);
                } else if let Some(websocket) = server.websocket() {
                    command.args(["--websocket", &websocket.to_string()]);
                }
                command.args(["--start", &start.to_json()?]);
                Some(server)
            }
        };
        match self.peer {
            None => {}
            Some(Peer::Rabbitmq) => match rabbitmq()? {
                Ok(peer) => drop(command.args(["--peer", &peer.to_json()?])),
                // Its cases say that they skip; this says why.
                Err(why) => println!("{}: no RabbitMQ as the other side: {why}", self.name),
            },
        }
        command.args(["--flavour", flavour.unwrap_or(self.flavour())]);
        let mut tally = None;
        let ok = process::run_observed(&mut command, |line| tally = Tally::of_suite(line))?;
        let mut tally = tally.unwrap_or_default();
        if !ok && tally.failed == 0 {
            failures::say(&format!("FAIL {}: it ended without a result", self.name));
            tally += Tally::FAIL;
        }
        if tally.failed > 0
            && let Some(server) = server
        {
            println!("the end of the server's log:\n{}", server.log_tail());
        }
        Ok(tally)
    }

    /// The program, with what it needs installed; or why it cannot run here.
    fn program(&self) -> Result<Result<Command, String>> {
        let entry = workspace::root()
            .join("conformance")
            .join(&self.entry)
            .display()
            .to_string();
        match self.runtime {
            Runtime::Python => Ok(Ok(process::command("python3", &[&entry]))),
            Runtime::PythonClients => {
                let mut program =
                    install::python()?.map(|python| process::command(python, &[&entry]));
                if let (true, Ok(command)) = (self.rabbitmqadmin, &mut program) {
                    match install::rabbitmqadmin()? {
                        Ok(tool) => drop(command.env("LONGTAIL_RABBITMQADMIN", tool)),
                        // Its cases say that they skip; this says why.
                        Err(why) => println!("{}: {why}", self.name),
                    }
                }
                Ok(program)
            }
            Runtime::Node => Ok(install::node()?.map(|modules| {
                let mut command = process::command("node", &[&entry]);
                command.env("LONGTAIL_NODE_MODULES", modules);
                command
            })),
            Runtime::Rust => {
                Ok(install::rust(&self.entry)?.map(|program| process::command(program, &[])))
            }
            Runtime::MosquittoClients => Ok(debian::program("mosquitto_sub", "mosquitto-clients")?
                .map(|()| process::command("python3", &[&entry]))),
            Runtime::MosquittoCtrl => {
                let clients = debian::program("mosquitto_sub", "mosquitto-clients")?;
                let ctrl = debian::program("mosquitto_ctrl", "mosquitto")?;
                Ok(clients
                    .and(ctrl)
                    .map(|()| process::command("python3", &[&entry])))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::suites;

    #[test]
    fn suites_have_one_name_each() {
        let suites = suites().expect("the list is readable");
        for (n, suite) in suites.iter().enumerate() {
            assert!(
                suites[..n].iter().all(|other| other.name != suite.name),
                "{} twice",
                suite.name
            );
        }
        assert!(!suites.is_empty());
    }
}
