//! RabbitMQ.

use std::path::PathBuf;
use std::process::Command;

use longtail_model::Durability;

use super::{Peer, Place, configure};
use crate::error::BenchError;
use crate::protocol::amqp::QueueType;

/// The start script of the package, not the wrapper in `/usr/sbin`, which changes the user; and the queues of the load.
#[derive(Clone, Debug)]
pub(crate) struct RabbitMq {
    pub(crate) program: PathBuf,
    pub(crate) queues: QueueType,
}

/// Alarms out of the way, no statistics for a management plug-in that is not loaded.
const COMMON: &str = "\
vm_memory_high_watermark.relative = 0.8
disk_free_limit.absolute = 64MB
collect_statistics = none
log.file = false
log.console = false
";

impl Peer for RabbitMq {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    fn program(&self) -> PathBuf {
        self.program.clone()
    }

    fn version(&self) -> Option<String> {
        // The script knows no such flag; the libraries beside it have it in their name.
        let home = self.program.parent()?.parent()?.join("lib");
        let entries = std::fs::read_dir(home).ok()?;
        let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.find_map(|name| {
            let version = name.strip_prefix("rabbitmq_server-")?;
            Some(format!("RabbitMQ {version}"))
        })
    }

    fn version_flag(&self) -> &'static str {
        "--version"
    }

    fn install(&self) -> &'static str {
        "install the Debian package rabbitmq-server, or name its start script with --rabbitmq"
    }

    fn command(&self, place: &Place<'_>) -> Result<Command, BenchError> {
        // The file's name must tell its format.
        let config = place.config.with_extension("conf");
        let text = format!("{COMMON}listeners.tcp.1 = 127.0.0.1:{}\n", place.port);
        configure(
            &Place {
                config: &config,
                ..*place
            },
            &text,
        )?;
        let plugins = place.config.with_extension("plugins");
        configure(
            &Place {
                config: &plugins,
                ..*place
            },
            "[].",
        )?;
        let [mapper, distribution] = place.spare_ports;
        let mut command = Command::new(&self.program);
        command
            // Replaces the script, so that the process started is the server.
            .env("RABBITMQ_ALLOW_INPUT", "true")
            .env("RABBITMQ_SERVER_START_ARGS", "-noinput")
            .env(
                "RABBITMQ_NODENAME",
                format!("bench{}@localhost", place.port),
            )
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("RABBITMQ_CONFIG_FILE", &config)
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", &plugins)
            .env("RABBITMQ_MNESIA_BASE", place.data)
            .env("RABBITMQ_LOG_BASE", place.data)
            .env("RABBITMQ_LOGS", "-")
            .env("HOME", place.data)
            // Otherwise it would be in the directory that the server is started in.
            .env("ERL_CRASH_DUMP", place.data.join("erl_crash.dump"));
        Ok(command)
    }

    /// Erlang's port mapper: the server would start one that stays.
    fn companion(&self, place: &Place<'_>) -> Option<Command> {
        let [mapper, _] = place.spare_ports;
        let mut command = Command::new("epmd");
        command.args(["-address", "127.0.0.1", "-port", &mapper.to_string()]);
        Some(command)
    }

    fn shortfall(&self, durability: Durability) -> Option<&'static str> {
        match (durability, self.queues) {
            (Durability::Memory, _)
            | (_, QueueType::Quorum)
            | (Durability::Interval, QueueType::Stream) => None,
            (Durability::Interval | Durability::Sync, QueueType::Classic) => Some(
                "confirms a persistent message of a classic queue before it is synced to the disk",
            ),
            (Durability::Sync, QueueType::Stream) => {
                Some("confirms a message of a stream before it is synced to the disk")
            }
        }
    }
}
