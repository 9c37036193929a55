//! The command line, as clap reads it. Nothing here does anything.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{ListenFlag, Overrides, Sources};

/// One broker for the long tail of messaging protocols, on one durable log.
///
/// Without a command this is `longtail serve`: it listens on loopback and keeps its data in ./longtail-data.
#[derive(Debug, Parser)]
#[command(name = "longtail", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 data directory, 4 cannot bind, \
    5 connections cut at shutdown, 6 no server answers")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// Where settings come from. Later ones win: defaults, file, environment, --set, the flags below.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SettingsArgs {
    /// Configuration file [default: ./longtail.toml, else /etc/longtail/longtail.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "LONGTAIL_CONFIG")]
    config: Option<PathBuf>,
    /// Directory for everything durable [default: ./longtail-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Listen here instead of where PROTOCOL is configured to: PROTOCOL=HOST:PORT or PROTOCOL=unix:PATH; repeats.
    /// The admin service goes by the name `admin`
    #[arg(long, value_name = "PROTOCOL=ADDRESS")]
    listen: Vec<ListenFlag>,
    /// Switch off every listener that no --listen names
    #[arg(long)]
    only: bool,
    /// What an acknowledgement means: sync (on the disk), interval (synced every few milliseconds) or memory (never
    /// written) [default: sync]
    #[arg(long, value_name = "MODE")]
    durability: Option<String>,
    /// Set any key, as in log.segment_bytes=128MiB; repeats. `longtail config default` lists them
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Form of the log on standard error: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// How much to log: error, warn, info, debug, trace, or filters by module [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl SettingsArgs {
    /// The sources these flags name, with the environment of the process.
    pub(crate) fn into_sources(self) -> Sources {
        let overrides = Overrides {
            set: self.set,
            data: self.data,
            durability: self.durability,
            listen: self.listen,
            only: self.only,
            log_format: self.log_format,
            log_level: self.log_level,
        };
        Sources::of_process(self.config, overrides)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(SettingsArgs),
    /// Check, show or print settings
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether the settings are valid, and everything that is wrong with them
    Check(SettingsArgs),
    /// Print the settings in force as TOML, and where each that is not a default comes from
    Show(SettingsArgs),
    /// Print all settings at their defaults as commented TOML
    Default,
}
