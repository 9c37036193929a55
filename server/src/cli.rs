//! The command line, as clap reads it. Nothing here does anything.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{ListenFlag, Overrides, Sources, milliseconds};

/// One broker for the long tail of messaging protocols, on one durable log.
///
/// Without a command this is `longtail serve`: it listens on loopback and keeps its data in ./longtail-data.
#[derive(Debug, Parser)]
#[command(
    name = "longtail",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 data directory, 4 cannot bind, \
    5 connections cut at shutdown, 6 no server answers"
)]
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

#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(SettingsArgs),
    /// Check, show or print settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Turn the configuration of another broker into ours, with its accounts, and say what could not be carried over
    Import(ImportArgs),
    /// Measure a server, alone or side by side with the real peer
    Bench(longtail_bench::BenchArgs),
    /// Look at the logs of a data directory, also while a server uses it
    #[command(subcommand)]
    Log(LogCommand),
    /// Show what a running server does: listeners, totals, health
    Status(ClientArgs),
    /// List streams and what they hold
    Streams {
        /// Only those of one space
        #[arg(long)]
        space: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List the groups of a stream
    Groups(StreamArgs),
    /// Publish a message
    Publish(PublishArgs),
    /// Print messages of a stream as they come
    Tail(TailArgs),
    /// Look at messages of a stream without taking any
    Browse(BrowseArgs),
    /// Watch streams live: rates, depths, latencies
    Top(TopArgs),
    /// List open connections
    Connections(ClientArgs),
    /// List what the server keeps for clients, connected or not, or show one session
    Sessions(SessionsArgs),
    /// List subscriptions
    Subscriptions(SubscriptionsArgs),
    /// Look at retained messages, or delete one
    #[command(subcommand)]
    Retained(RetainedCommand),
    /// Say why messages did not reach a client, or what becomes of those of a topic
    Why(WhyArgs),
    /// Follow line by line what a client does and is told, or what goes over topics
    #[command(subcommand)]
    Trace(TraceCommand),
    /// List the subscriptions whose messages take longest, and say what counts as slow
    Slow(SlowArgs),
    /// Count what goes over single topics
    #[command(subcommand)]
    TopicMetrics(TopicMetricsCommand),
    /// Close a connection, or disconnect the client of a session
    Kick(KickArgs),
    /// List clients, users and addresses that are kept out
    Bans(ClientArgs),
    /// Keep a client, a user or an address out, and disconnect whom that is about
    Ban(BanArgs),
    /// End a ban
    Unban(UnbanArgs),
    /// Remove all messages of a stream that nobody holds
    Purge {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        stream: StreamArgs,
    },
    /// Deliver nothing from a stream for a while
    Pause {
        #[command(flatten)]
        stream: StreamArgs,
        /// How long, as in 30s or 5m; 0 resumes
        #[arg(value_parser = milliseconds)]
        time: u64,
    },
    /// Manage AMQP as scripts of RabbitMQ and LavinMQ do: `longtail rabbitmqctl help` lists the commands
    #[command(visible_alias = "lavinmqctl", disable_help_flag = true)]
    Rabbitmqctl {
        /// The command with its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

/// How to reach a server's admin service.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientArgs {
    /// The server's admin service
    #[arg(
        long,
        value_name = "URL",
        env = "LONGTAIL_URL",
        default_value = "http://127.0.0.1:9400"
    )]
    pub(crate) url: String,
    /// Its token, if it asks for one
    #[arg(
        long,
        value_name = "TOKEN",
        env = "LONGTAIL_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// Print JSON for scripts
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SessionsArgs {
    /// Show only this one, in full
    #[arg(conflicts_with_all = ["contains", "connected", "away"])]
    pub(crate) id: Option<String>,
    /// Only those whose id contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) contains: Option<String>,
    /// Only those whose client is connected
    #[arg(long)]
    pub(crate) connected: bool,
    /// Only those whose client is away
    #[arg(long, conflicts_with = "connected")]
    pub(crate) away: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SubscriptionsArgs {
    /// Only those of one session
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// Only those whose filter contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) contains: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum RetainedCommand {
    /// List subjects with a retained message
    List {
        /// Only those that match, with the wildcards `*` (a token) and `>` (the rest), or `+` and `#` with --slashes
        filter: Option<String>,
        #[command(flatten)]
        subjects: SubjectArgs,
    },
    /// Print a retained message
    Get {
        /// Its subject
        subject: String,
        #[command(flatten)]
        subjects: SubjectArgs,
    },
    /// Delete a retained message
    Delete {
        /// Its subject
        subject: String,
        #[command(flatten)]
        subjects: SubjectArgs,
    },
}

/// Subjects of a server.
#[derive(Clone, Debug, Args)]
pub(crate) struct SubjectArgs {
    /// Subjects are written as MQTT has them, a/b instead of a.b
    #[arg(long)]
    pub(crate) slashes: bool,
    /// Their space
    #[arg(long, default_value = "default")]
    pub(crate) space: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WhyArgs {
    /// The client's identifier
    #[arg(required_unless_present = "topic", conflicts_with = "topic")]
    pub(crate) session: Option<String>,
    /// A topic instead, as MQTT has it: who is subscribed to it, and which of its messages were dropped
    #[arg(long)]
    pub(crate) topic: Option<String>,
    /// Dropped messages to list, the newest first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) last: u64,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Begin one
    Start(TraceStartArgs),
    /// List all
    List(ClientArgs),
    /// Print the lines of one as they come, until it ends; those that it has first
    Follow(TraceArgs),
    /// Print the lines that one has
    Download {
        #[command(flatten)]
        trace: TraceArgs,
        /// Write them to this file instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// End one; it keeps its lines
    Stop(TraceArgs),
    /// Delete one with its lines
    Delete(TraceArgs),
}

/// A trace of a server.
#[derive(Clone, Debug, Args)]
pub(crate) struct TraceArgs {
    /// Its name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// What a trace follows.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TraceSubjectArgs {
    /// The client with this identifier
    #[arg(long, value_name = "ID")]
    pub(crate) client: Option<String>,
    /// Topics that match, with the wildcards + and #
    #[arg(long, value_name = "FILTER")]
    pub(crate) topic: Option<String>,
    /// Clients that come from this address
    #[arg(long, value_name = "IP")]
    pub(crate) address: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TraceStartArgs {
    #[command(flatten)]
    pub(crate) subject: TraceSubjectArgs,
    /// How long, as in 30s or 5m, at most 24h [default: 10m]
    #[arg(long = "for", value_name = "TIME", value_parser = milliseconds)]
    pub(crate) time: Option<u64>,
    /// How payloads are shown: hidden, text or hex
    #[arg(long, value_name = "FORM", default_value = "hidden")]
    pub(crate) payload: String,
    #[command(flatten)]
    pub(crate) trace: TraceArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SlowArgs {
    /// Look for slow subscriptions from now on
    #[arg(long)]
    pub(crate) on: bool,
    /// Look for them no longer, and forget what was found
    #[arg(long, conflicts_with = "on")]
    pub(crate) off: bool,
    /// From which time on a message is slow, as in 500ms
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    pub(crate) threshold: Option<u64>,
    /// After which time an entry is forgotten
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    pub(crate) expire: Option<u64>,
    /// How many to keep, 1 to 1000
    #[arg(long, value_name = "N")]
    pub(crate) top: Option<u64>,
    /// What counts: whole (publishing to acknowledgement), internal (publishing to sending) or response (sending to
    /// acknowledgement)
    #[arg(long, value_name = "SPAN")]
    pub(crate) span: Option<String>,
    /// Forget what was found
    #[arg(long)]
    pub(crate) clear: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum TopicMetricsCommand {
    /// List the topics that are counted
    List(ClientArgs),
    /// Count what goes over a topic from now on
    Add(TopicArgs),
    /// Count it no longer
    Remove(TopicArgs),
    /// Count from nothing again
    Reset(TopicArgs),
}

/// A topic of a server.
#[derive(Clone, Debug, Args)]
pub(crate) struct TopicArgs {
    /// The topic, as MQTT has it, without wildcards
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KickArgs {
    /// The connection's number, as `longtail connections` shows it
    #[arg(required_unless_present = "session", conflicts_with = "session")]
    pub(crate) id: Option<u64>,
    /// Disconnect the client of this session instead; it is told so where its protocol has words for it
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// End the session too, with everything that it keeps; also one whose client is away
    #[arg(long, requires = "session")]
    pub(crate) forget: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Whom a ban is about.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct BannedArgs {
    /// The client with this identifier
    #[arg(long, value_name = "ID")]
    pub(crate) client: Option<String>,
    /// Clients with this user name or account
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Clients from this address or range, as in 192.0.2.0/24
    #[arg(long, value_name = "RANGE")]
    pub(crate) address: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BanArgs {
    #[command(flatten)]
    pub(crate) who: BannedArgs,
    /// How long, as in 30m or 12h; left out: until somebody ends it
    #[arg(long = "for", value_name = "TIME", value_parser = milliseconds)]
    pub(crate) time: Option<u64>,
    /// Why, for whoever looks at the list
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) server: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct UnbanArgs {
    #[command(flatten)]
    pub(crate) who: BannedArgs,
    #[command(flatten)]
    pub(crate) server: ClientArgs,
}

/// A stream of a server.
#[derive(Clone, Debug, Args)]
pub(crate) struct StreamArgs {
    /// The stream's name
    pub(crate) stream: String,
    /// Its space
    #[arg(long, default_value = "default")]
    pub(crate) space: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PublishArgs {
    /// The stream, or with --subject the subject
    pub(crate) target: String,
    /// The message; `-` or nothing reads standard input
    #[arg(conflicts_with = "file")]
    pub(crate) body: Option<String>,
    /// Read the message from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Publish to whatever is bound to a subject instead of one stream
    #[arg(long)]
    pub(crate) subject: bool,
    /// Lower is more urgent [default: what the stream says]
    #[arg(long)]
    pub(crate) priority: Option<u32>,
    /// Wait before it can be delivered, as in 500ms or 10s
    #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "0")]
    pub(crate) delay: u64,
    /// How long a consumer may hold it, as in 30s [default: what the stream says]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "0", hide_default_value = true)]
    pub(crate) ack_timeout: u64,
    /// The space
    #[arg(long, default_value = "default")]
    pub(crate) space: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TailArgs {
    /// The stream, or with --subject a subject with the wildcards `*` (a token) and `>` (the rest)
    pub(crate) target: String,
    /// Follow what is published to a subject instead of what one stream holds
    #[arg(long, conflicts_with = "from")]
    pub(crate) subject: bool,
    /// Sequence number to start from; 1 is the beginning [default: only what comes from now on]
    #[arg(long, value_name = "SEQ")]
    pub(crate) from: Option<u64>,
    /// Stop after so many messages
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// The space
    #[arg(long, default_value = "default")]
    pub(crate) space: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BrowseArgs {
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// Sequence number to start from
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    pub(crate) from: u64,
    /// Messages at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) limit: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TopArgs {
    /// Time between two looks, as in 500ms or 2s
    #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "1s")]
    pub(crate) interval: u64,
    /// Look twice, print plain text and end; the way it is when standard output is no terminal
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether the settings are valid, and everything that is wrong with them
    Check(SettingsArgs),
    /// Print the settings in force as TOML, and where each that is not a default comes from
    Show(SettingsArgs),
    /// Print all settings at their defaults as commented TOML
    Default,
    /// Read a password from standard input and print its hash for `[[accounts]]`
    HashPassword {
        /// Print a SCRAM-SHA-256 verifier, for an account whose clients prove the password without sending it
        #[arg(long)]
        scram: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A Mosquitto configuration, as in mosquitto.conf
    pub(crate) file: PathBuf,
    /// Write the settings to this file, which must not exist, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Read every record and say what is damaged; exit code 3 when something is
    Check(LogArgs),
    /// Print sizes, checkpoints and how much of each segment is still needed, without reading records
    Stats(LogArgs),
    /// Print every record in words
    Dump {
        /// Leave out what is before this position
        #[arg(long, value_name = "POSITION", default_value_t = 0)]
        from: u64,
        /// Stop after so many records
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        log: LogArgs,
    },
}

/// A log.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogArgs {
    /// A data directory, or one shard-N directory in it
    #[arg(default_value = "./longtail-data")]
    pub(crate) dir: PathBuf,
    /// Print JSON for scripts
    #[arg(long)]
    pub(crate) json: bool,
}
