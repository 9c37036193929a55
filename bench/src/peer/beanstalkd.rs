//! The original beanstalkd.

use std::path::PathBuf;
use std::process::Command;

use longtail_model::Durability;

use super::{Peer, Place};
use crate::error::BenchError;

/// Milliseconds between two syncs with `interval`: the server's own default.
const INTERVAL_MS: &str = "50";

/// The program as found in `PATH`, or as given.
#[derive(Clone, Debug)]
pub(crate) struct Beanstalkd {
    pub(crate) program: PathBuf,
}

impl Peer for Beanstalkd {
    fn name(&self) -> &'static str {
        "beanstalkd"
    }

    fn program(&self) -> PathBuf {
        self.program.clone()
    }

    fn version_flag(&self) -> &'static str {
        "-v"
    }

    fn install(&self) -> &'static str {
        "install the Debian package beanstalkd, or name the program with --peer-program"
    }

    fn command(&self, place: &Place<'_>) -> Result<Command, BenchError> {
        let mut command = Command::new(&self.program);
        command.args(["-l", "127.0.0.1", "-p", &place.port.to_string()]);
        command.args(["-z", &place.needs.body_bytes.max(65_535).to_string()]);
        let sync_ms = match place.needs.durability {
            Durability::Memory => return Ok(command),
            Durability::Interval => INTERVAL_MS,
            Durability::Sync => "0",
        };
        command.arg("-b").arg(place.data).args(["-f", sync_ms]);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Needs;
    use std::path::Path;

    fn flags(durability: Durability) -> String {
        let peer = Beanstalkd {
            program: "beanstalkd".into(),
        };
        let place = Place {
            data: Path::new("/d"),
            config: Path::new("/c"),
            port: 9,
            spare_ports: [10, 11],
            needs: Needs {
                durability,
                body_bytes: 1,
                connections: 1,
            },
        };
        let command = peer.command(&place).expect("no file is needed");
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn durability_is_translated_to_its_flags() {
        assert_eq!(flags(Durability::Memory), "-l 127.0.0.1 -p 9 -z 65535");
        assert!(flags(Durability::Interval).ends_with("-b /d -f 50"));
        assert!(flags(Durability::Sync).ends_with("-b /d -f 0"));
    }
}
