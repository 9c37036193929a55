//! Longtail itself: this very program, started as a server.

use std::path::PathBuf;
use std::process::Command;

use super::{Peer, Place};
use crate::error::BenchError;

/// How this program is told to serve one protocol. `{data}`, `{port}` and `{durability}` are filled in.
const SERVE: &str =
    "serve --data {data} --listen {protocol}=127.0.0.1:{port} --only --durability {durability}";

/// The program and its arguments, with placeholders.
#[derive(Clone, Debug)]
pub(crate) struct Longtail {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Longtail {
    /// This program, serving `protocol`.
    pub(crate) fn current(protocol: &str) -> Result<Self, BenchError> {
        let program =
            std::env::current_exe().map_err(BenchError::io("looking for this program"))?;
        Ok(Longtail {
            program,
            arguments: words(&SERVE.replace("{protocol}", protocol)),
        })
    }

    /// A command line given by the user, with the same placeholders.
    pub(crate) fn custom(command: &str) -> Result<Self, BenchError> {
        let mut words = words(command).into_iter();
        let program = words
            .next()
            .ok_or_else(|| BenchError::Usage("the server's command is empty".to_owned()))?;
        Ok(Longtail {
            program: program.into(),
            arguments: words.collect(),
        })
    }
}

fn words(command: &str) -> Vec<String> {
    command.split_whitespace().map(str::to_owned).collect()
}

impl Peer for Longtail {
    fn name(&self) -> &'static str {
        "longtail"
    }

    fn program(&self) -> PathBuf {
        self.program.clone()
    }

    fn version_flag(&self) -> &'static str {
        "--version"
    }

    fn install(&self) -> &'static str {
        "build it with `cargo build --release`, and see what --own names"
    }

    fn command(&self, place: &Place<'_>) -> Result<Command, BenchError> {
        let data = place.data.to_string_lossy();
        let port = place.port.to_string();
        let mut command = Command::new(&self.program);
        command.args(self.arguments.iter().map(|argument| {
            argument
                .replace("{data}", &data)
                .replace("{port}", &port)
                .replace("{durability}", place.needs.durability.as_str())
        }));
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Needs;
    use longtail_model::Durability;
    use std::path::Path;

    #[test]
    fn placeholders_are_filled_in() {
        let place = Place {
            data: Path::new("/d"),
            config: Path::new("/c"),
            port: 9,
            spare_ports: [10, 11],
            needs: Needs {
                durability: Durability::Sync,
                body_bytes: 1,
                connections: 1,
            },
        };
        let command = Longtail::current("beanstalk")
            .expect("this program")
            .command(&place)
            .expect("no file is needed");
        let arguments: Vec<_> = command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            arguments,
            [
                "serve",
                "--data",
                "/d",
                "--listen",
                "beanstalk=127.0.0.1:9",
                "--only",
                "--durability",
                "sync"
            ]
        );
        let custom = Longtail::custom("x --p {port}")
            .expect("two words")
            .command(&place)
            .expect("no file is needed");
        assert_eq!(custom.get_program(), "x");
        assert!(Longtail::custom(" ").is_err());
    }
}
