//! What is measured: a running server, one that is started for each load, the null sink, or the generator by itself.

use std::path::Path;

use longtail_model::Durability;

use super::matrix::Task;
use crate::error::BenchError;
use crate::measure::Target;
use crate::null::NullSink;
use crate::peer::{Needs, Peer, Server, version};
use crate::probe::Probe;
use crate::protocol::Protocol;

pub(super) struct Subject {
    pub(super) name: String,
    kind: Kind,
}

enum Kind {
    Running(Target),
    Started(Box<dyn Peer>),
    Null,
    Alone,
}

/// A subject ready for load; what was started for it ends with this.
pub(super) struct Live {
    pub(super) target: Target,
    _server: Option<Server>,
    _sink: Option<NullSink>,
}

impl Subject {
    /// Somebody else's process.
    pub(super) fn running(name: &str, target: Target) -> Self {
        Subject {
            name: name.to_owned(),
            kind: Kind::Running(target),
        }
    }

    /// A program started for each load.
    pub(super) fn started(peer: Box<dyn Peer>) -> Self {
        Subject {
            name: peer.name().to_owned(),
            kind: Kind::Started(peer),
        }
    }

    /// The null sink.
    pub(super) fn null() -> Self {
        Subject {
            name: "null sink".to_owned(),
            kind: Kind::Null,
        }
    }

    /// The generator by itself.
    pub(super) fn alone() -> Self {
        Subject {
            name: "generator alone".to_owned(),
            kind: Kind::Alone,
        }
    }

    /// Whether it is the null sink or the generator by itself, and so nobody's peer.
    pub(super) fn is_sink(&self) -> bool {
        matches!(self.kind, Kind::Null | Kind::Alone)
    }

    /// Whether it is the generator by itself.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self.kind, Kind::Alone)
    }

    /// Its version, where the generator has the program.
    pub(super) fn version(&self) -> Result<Option<String>, BenchError> {
        match &self.kind {
            Kind::Started(peer) => version(peer.as_ref()).map(Some),
            Kind::Running(_) | Kind::Null | Kind::Alone => Ok(None),
        }
    }

    /// In what its acknowledgements fall short of `durability`, if that is known.
    pub(super) fn shortfall(&self, durability: Durability) -> Option<&'static str> {
        match &self.kind {
            Kind::Started(peer) => peer.shortfall(durability),
            Kind::Running(_) | Kind::Null | Kind::Alone => None,
        }
    }

    pub(super) fn start<P: Protocol>(
        &self,
        protocol: &P,
        task: &Task,
        data: Option<&Path>,
        cpus: Option<&[usize]>,
    ) -> Result<Live, BenchError> {
        let body_bytes = task.settings.body_bytes;
        let needs = Needs {
            durability: task.durability.unwrap_or_default(),
            body_bytes,
            connections: task.settings.sockets(),
        };
        match &self.kind {
            Kind::Running(target) => Ok(Live {
                target: target.clone(),
                _server: None,
                _sink: None,
            }),
            Kind::Alone => Ok(Live {
                target: Target {
                    address: None,
                    probe: None,
                },
                _server: None,
                _sink: None,
            }),
            Kind::Null => {
                let sink = NullSink::start(protocol, body_bytes, cpus)?;
                let target = Target {
                    address: Some(sink.address),
                    probe: Some(sink.probe.clone()),
                };
                Ok(Live {
                    target,
                    _server: None,
                    _sink: Some(sink),
                })
            }
            Kind::Started(peer) => {
                let temporary = std::env::temp_dir();
                let directory = data.unwrap_or(&temporary);
                let server = Server::start(peer.as_ref(), directory, needs, cpus)?;
                let target = Target {
                    address: Some(server.address),
                    probe: Some(Probe::Process(server.pid())),
                };
                Ok(Live {
                    target,
                    _server: Some(server),
                    _sink: None,
                })
            }
        }
    }
}
