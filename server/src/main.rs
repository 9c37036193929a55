//! The `longtail` binary: settings, command line, lifecycle.
//!
//! [`cli`] says what can be typed, [`commands`] does it, [`config`] is where settings come from and [`serve`] runs the
//! server until a signal ends it. [`ctl`] is the command line of other brokers. Everything fallible ends in [`exit_codes`].

mod cli;
mod commands;
mod config;
mod ctl;
mod exit_codes;
mod import;
mod serve;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Command};
use exit_codes::{Exit, Failure};

/// Message bodies are allocated on one thread and freed on another all day long; mimalloc gives such pages back to
/// their owner without a lock, and keeps resident memory near what is live.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if ctl::is_started_as(words.next().as_deref()) {
        return ctl::run(words);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, the rest are mistakes. Printing fails only when nobody listens.
            let _ = error.print();
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            return if asked {
                Exit::Ok.into()
            } else {
                Exit::Usage.into()
            };
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(failure) if is_closed_pipe(&failure) => Exit::Ok.into(),
        Err(failure) => {
            eprintln!("longtail: {:#}", failure.error);
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let done = match cli.command.unwrap_or(Command::Serve(cli.settings)) {
        Command::Serve(args) => {
            let sources = args.into_sources();
            let loaded = commands::config::load(&sources)?;
            serve::run(sources, loaded)
        }
        Command::Config(command) => commands::config::run(command).map(|()| Exit::Ok),
        Command::Import(args) => import::run(&args),
        Command::Bench(args) => longtail_bench::run(args)
            .map(|()| Exit::Ok)
            .map_err(Failure::from),
        Command::Log(command) => commands::log::run(&command),
        Command::Top(args) => commands::top::run(&args).map(|()| Exit::Ok),
        Command::Publish(args) => commands::messages::publish(&args).map(|()| Exit::Ok),
        Command::Tail(args) => commands::messages::tail(&args).map(|()| Exit::Ok),
        Command::Browse(args) => commands::messages::browse(&args).map(|()| Exit::Ok),
        Command::Status(client) => commands::inspect::status(&client).map(|()| Exit::Ok),
        Command::Streams { space, client } => {
            commands::inspect::streams(space.as_deref(), &client).map(|()| Exit::Ok)
        }
        Command::Groups(stream) => commands::inspect::groups(&stream).map(|()| Exit::Ok),
        Command::Connections(client) => commands::inspect::connections(&client).map(|()| Exit::Ok),
        Command::Sessions(args) => commands::sessions::sessions(&args).map(|()| Exit::Ok),
        Command::Subscriptions(args) => commands::sessions::subscriptions(&args).map(|()| Exit::Ok),
        Command::Retained(command) => commands::retained::run(&command).map(|()| Exit::Ok),
        Command::Why(args) => commands::why::why(&args).map(|()| Exit::Ok),
        Command::Trace(command) => commands::watching::trace(&command).map(|()| Exit::Ok),
        Command::Slow(args) => commands::watching::slow(&args).map(|()| Exit::Ok),
        Command::TopicMetrics(command) => {
            commands::watching::topic_metrics(&command).map(|()| Exit::Ok)
        }
        Command::Kick(args) => commands::manage::kick(&args).map(|()| Exit::Ok),
        Command::Bans(client) => commands::bans::list(&client).map(|()| Exit::Ok),
        Command::Ban(args) => commands::bans::ban(&args).map(|()| Exit::Ok),
        Command::Unban(args) => commands::bans::unban(&args).map(|()| Exit::Ok),
        Command::Purge { yes, stream } => commands::manage::purge(yes, &stream).map(|()| Exit::Ok),
        Command::Pause { stream, time } => {
            commands::manage::pause(&stream, time).map(|()| Exit::Ok)
        }
        // Its exit codes are others.
        Command::Rabbitmqctl { words } => return Ok(ctl::run(words)),
    };
    done.map(ExitCode::from)
}

/// `longtail streams | head` is not a failure.
fn is_closed_pipe(failure: &Failure) -> bool {
    failure
        .error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
