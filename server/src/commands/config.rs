//! `longtail config`: look at settings without running anything.

use std::io::{self, Write};

use crate::cli::{ConfigCommand, SettingsArgs};
use crate::config::{self, Loaded};
use crate::exit_codes::{Exit, Failure};

pub(crate) fn run(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(args) => {
            let sources = args.into_sources();
            let file = sources.file.clone();
            config::load(&sources).map_err(|error| Failure::new(Exit::Usage, error))?;
            match file {
                Some(path) => writeln!(io::stdout(), "{}: ok", path.display())?,
                None => writeln!(io::stdout(), "no configuration file; defaults, environment and flags: ok")?,
            }
        }
        ConfigCommand::Show(args) => {
            io::stdout().write_all(config::effective_document(&load(args)?).as_bytes())?;
        }
        ConfigCommand::Default => io::stdout().write_all(config::default_document().as_bytes())?,
    }
    Ok(())
}

/// Loads the settings that `args` lead to; a mistake in them is a usage error.
pub(crate) fn load(args: SettingsArgs) -> Result<Loaded, Failure> {
    config::load(&args.into_sources()).map_err(|error| Failure::new(Exit::Usage, error))
}
