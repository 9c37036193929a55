//! rumqttd, the broker of the rumqtt project.

use std::path::PathBuf;
use std::process::Command;

use longtail_model::Durability;

use super::{Peer, Place, configure};
use crate::error::BenchError;
use crate::protocol::mqtt::Version;

/// The program as found in `PATH`, or as given, and the version of the protocol that its one listener speaks.
#[derive(Clone, Debug)]
pub(crate) struct Rumqttd {
    pub(crate) program: PathBuf,
    pub(crate) version: Version,
}

/// Connections beyond those of the load; the program makes room for all of them when it starts.
const CONNECTIONS_SPARE: u64 = 64;
/// Bytes of a packet beyond its body.
const PACKET_SPARE: usize = 4096;

impl Peer for Rumqttd {
    fn name(&self) -> &'static str {
        "rumqttd"
    }

    fn program(&self) -> PathBuf {
        self.program.clone()
    }

    fn version_flag(&self) -> &'static str {
        "--version"
    }

    fn install(&self) -> &'static str {
        "run `cargo install rumqttd --version 0.20.0` (without --locked: its lock file names a crate that current \
         compilers refuse), or name the program with --rumqttd"
    }

    fn command(&self, place: &Place<'_>) -> Result<Command, BenchError> {
        // The file's name must tell its format.
        let config = place.config.with_extension("toml");
        configure(
            &Place {
                config: &config,
                ..*place
            },
            &self.config(place),
        )?;
        let mut command = Command::new(&self.program);
        command.arg("--quiet").arg("--config").arg(config);
        Ok(command)
    }

    fn shortfall(&self, durability: Durability) -> Option<&'static str> {
        match durability {
            Durability::Memory => None,
            Durability::Interval | Durability::Sync => Some(
                "keeps everything in memory and writes nothing: a crash loses what it acknowledged",
            ),
        }
    }
}

impl Rumqttd {
    /// The segments of its in-memory log are those of its own default configuration: larger ones are no faster.
    fn config(&self, place: &Place<'_>) -> String {
        let section = match self.version {
            Version::V3 => "v4",
            Version::V5 => "v5",
        };
        let connections = place.needs.connections + CONNECTIONS_SPARE;
        let packet = place.needs.body_bytes + PACKET_SPARE;
        let port = place.port;
        format!(
            "id = 0\n\
             [router]\n\
             id = 0\n\
             max_connections = {connections}\n\
             max_outgoing_packet_count = 200\n\
             max_segment_size = 104857600\n\
             max_segment_count = 10\n\
             [{section}.bench]\n\
             name = \"bench\"\n\
             listen = \"127.0.0.1:{port}\"\n\
             next_connection_delay_ms = 0\n\
             [{section}.bench.connections]\n\
             connection_timeout_ms = 60000\n\
             max_payload_size = {packet}\n\
             max_inflight_count = 65535\n\
             dynamic_filters = true\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Needs;
    use std::path::Path;

    #[test]
    fn the_listener_speaks_the_version_of_the_load() {
        let config = |version| {
            let peer = Rumqttd {
                program: "rumqttd".into(),
                version,
            };
            peer.config(&Place {
                data: Path::new("/d"),
                config: Path::new("/c"),
                port: 9,
                spare_ports: [10, 11],
                needs: Needs {
                    durability: Durability::Memory,
                    body_bytes: 100_000,
                    connections: 1000,
                },
            })
        };
        let v3 = config(Version::V3);
        assert!(v3.contains("[v4.bench]\n") && v3.contains("listen = \"127.0.0.1:9\"\n"));
        assert!(
            v3.contains("max_connections = 1064\n") && v3.contains("max_payload_size = 104096\n")
        );
        assert!(config(Version::V5).contains("[v5.bench.connections]\n"));
    }
}
