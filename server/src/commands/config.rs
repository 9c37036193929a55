//! `longtail config`: look at settings without running anything.

use std::io::{self, BufRead, Read, Write};

use anyhow::anyhow;
use longtail_broker::auth::{PasswordCost, PasswordHash};

use crate::cli::ConfigCommand;
use crate::config::{self, Loaded, Sources};
use crate::exit_codes::{Exit, Failure};

/// Longest password, in bytes.
const PASSWORD_MAX: u64 = 4096;

pub(crate) fn run(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(args) => {
            let sources = args.into_sources();
            let file = sources.file.clone();
            config::load(&sources).map_err(|error| Failure::new(Exit::Usage, error))?;
            match file {
                Some(path) => writeln!(io::stdout(), "{}: ok", path.display())?,
                None => writeln!(
                    io::stdout(),
                    "no configuration file; defaults, environment and flags: ok"
                )?,
            }
        }
        ConfigCommand::Show(args) => {
            io::stdout()
                .write_all(config::effective_document(&load(&args.into_sources())?).as_bytes())?;
        }
        ConfigCommand::HashPassword { scram } => {
            writeln!(io::stdout(), "{}", hashed(&mut io::stdin().lock(), scram)?)?;
        }
        ConfigCommand::Default => io::stdout().write_all(config::default_document().as_bytes())?,
    }
    Ok(())
}

/// The first line of `input`, a password, without its end.
pub(crate) fn first_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.take(PASSWORD_MAX).read_line(&mut line)?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

/// The hash of the first line of `input`.
fn hashed(input: &mut impl BufRead, scram: bool) -> Result<String, Failure> {
    let password = first_line(input)?;
    if password.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            anyhow!("no password: write one line to standard input"),
        ));
    }
    if scram {
        return Ok(PasswordHash::create_scram(password.as_bytes()).into());
    }
    Ok(PasswordHash::create(password.as_bytes(), PasswordCost::default())?.into())
}

/// Loads the settings; a mistake in them is a usage error.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, Failure> {
    config::load(sources).map_err(|error| Failure::new(Exit::Usage, error))
}
