//! The project's own tooling: `cargo xtask test` is the whole test run, the other commands are its parts with all
//! their settings.
//!
//! The parts that need a server start one themselves: Longtail's release binary, or whatever `--server-cmd` says, so
//! that the tooling itself can be checked against the system it imitates.

mod amqp;
mod beanstalk;
mod cli;
mod compare;
mod conformance;
mod crash;
mod debian;
mod differential;
mod failures;
mod fuzz;
mod instructions;
mod mqtt;
mod ports;
mod process;
mod profile;
mod random;
mod server;
mod soak;
mod tally;
mod test;

mod workspace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
