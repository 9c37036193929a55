//! Running other programs: always shown before they run, their output streamed while they do.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{failures, workspace};

/// A program to run in the root of the repository.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(workspace::root())
        .stdin(Stdio::null());
    command
}

/// The cargo that runs this, without what it has told this program about itself: build scripts that look at such
/// variables would run again whenever `cargo` and `cargo xtask` take turns, and all that depends on them be built again.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = command(cargo, arguments);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs to the end; whether it succeeded.
///
/// # Errors
/// When the program cannot be started.
pub(crate) fn run(command: &mut Command) -> Result<bool> {
    announce(command);
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    Ok(status.success())
}

/// Runs to the end and shows every line of its standard output to `observe` as well; whether it succeeded.
///
/// # Errors
/// When the program cannot be started.
pub(crate) fn run_observed(command: &mut Command, mut observe: impl FnMut(&str)) -> Result<bool> {
    announce(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            failures::say(&line);
            observe(&line);
        }
    }
    Ok(child.wait()?.success())
}

/// The standard output of a program that says something about the machine; `None` when it does not run or fails.
pub(crate) fn ask(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Option<String> {
    let output = command(program, arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn announce(command: &Command) {
    println!("$ {}", shown(command));
}

/// A command as a person would type it in the root of the repository.
pub(crate) fn shown(command: &Command) -> String {
    let program = command.get_program();
    let name = std::path::Path::new(program).file_name().unwrap_or(program);
    let words = std::iter::once(name).chain(command.get_args());
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words
        .join(" ")
        .replace(&format!("{}/", workspace::root().display()), "")
}
