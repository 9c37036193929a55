//! Eclipse Mosquitto.

use std::path::PathBuf;
use std::process::Command;

use longtail_model::Durability;

use super::{Peer, Place, configure};
use crate::error::BenchError;

/// The program as found in `PATH`, or as given.
#[derive(Clone, Debug)]
pub(crate) struct Mosquitto {
    pub(crate) program: PathBuf,
}

/// Limits out of the way, small packets at once, nothing written that was not asked for. `user` matters only when root
/// starts it, and then keeps it from giving up the right to its directory.
const COMMON: &str = "\
allow_anonymous true
max_connections -1
max_inflight_messages 0
max_queued_messages 0
max_queued_bytes 0
set_tcp_nodelay true
sys_interval 0
log_type error
user root
";

impl Peer for Mosquitto {
    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn program(&self) -> PathBuf {
        self.program.clone()
    }

    /// The help, which begins with the version.
    fn version_flag(&self) -> &'static str {
        "-h"
    }

    fn install(&self) -> &'static str {
        "install the Debian package mosquitto, whose program is in /usr/sbin, or name the program with --mosquitto"
    }

    fn command(&self, place: &Place<'_>) -> Result<Command, BenchError> {
        configure(place, &config(place))?;
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(place.config);
        Ok(command)
    }

    fn shortfall(&self, durability: Durability) -> Option<&'static str> {
        match durability {
            Durability::Memory => None,
            Durability::Interval => {
                Some("acknowledges before it writes, and writes the whole state every second")
            }
            Durability::Sync => Some(
                "acknowledges before it writes: its safest setting writes the whole state after each round of events \
                 that changed it",
            ),
        }
    }
}

fn config(place: &Place<'_>) -> String {
    let persistence = match place.needs.durability {
        Durability::Memory => "persistence false\n".to_owned(),
        Durability::Interval => persistence(place, false),
        Durability::Sync => persistence(place, true),
    };
    // Settings of a listener follow it, so that it comes last.
    format!("{COMMON}{persistence}listener {} 127.0.0.1\n", place.port)
}

/// A snapshot after every so many changes, or else seconds: in both cases the least there is.
fn persistence(place: &Place<'_>, on_changes: bool) -> String {
    format!(
        "persistence true\npersistence_location {}/\nautosave_interval 1\nautosave_on_changes {on_changes}\n",
        place.data.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Needs;
    use std::path::Path;

    fn written(durability: Durability) -> String {
        config(&Place {
            data: Path::new("/d"),
            config: Path::new("/c"),
            port: 9,
            spare_ports: [10, 11],
            needs: Needs {
                durability,
                body_bytes: 1,
                connections: 1,
            },
        })
    }

    #[test]
    fn durability_is_translated_to_its_settings() {
        let memory = written(Durability::Memory);
        assert!(memory.contains("persistence false\n") && !memory.contains("autosave"));
        assert!(memory.ends_with("listener 9 127.0.0.1\n"));
        let interval = written(Durability::Interval);
        assert!(interval.contains("persistence_location /d/\n"));
        assert!(interval.contains("autosave_interval 1\nautosave_on_changes false\n"));
        let sync = written(Durability::Sync);
        assert!(sync.contains("persistence true\n") && sync.contains("autosave_on_changes true\n"));
    }
}
