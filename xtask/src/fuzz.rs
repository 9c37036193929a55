//! Fuzzing on the toolchain at hand: builds the targets of `fuzz/` with the compiler's coverage pass and runs each for a
//! while, starting from its corpus. What a target is, and how to add one, is said in `fuzz/Cargo.toml`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tally::Tally;
use crate::{failures, process, workspace};

/// The target that checks the engine: its fault has to be found.
const SELF_CHECK: &str = "selfcheck";

/// Makes the compiler count edges. All of these are stable flags; what they pass on is LLVM's.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Ccodegen-units=1",
];

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// One target, or all.
    pub(crate) target: Option<String>,
    /// For each target.
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    /// First check that the engine finds a planted fault.
    pub(crate) self_check: bool,
}

/// Builds and runs; each target counts as one test.
///
/// # Errors
/// When a target is unknown or none can be built.
pub(crate) fn run(settings: &Settings) -> Result<Tally> {
    let targets = targets()?;
    if let Some(name) = settings
        .target
        .as_ref()
        .filter(|name| !targets.contains(name))
    {
        bail!("no target is called {name:?}; there are {targets:?}");
    }
    let binaries = build()?;
    let mut total = Tally::default();
    if settings.self_check {
        total += Tally::of(self_check(&binaries)?);
    }
    for name in targets.iter().filter(|name| {
        settings
            .target
            .as_ref()
            .is_none_or(|wanted| wanted == *name)
    }) {
        if name == SELF_CHECK && settings.target.is_none() {
            continue;
        }
        let ok = process::run(&mut command(
            &binaries,
            name,
            settings.seconds,
            settings.seed,
        ))?;
        failures::say(&format!("{} fuzz {name}", if ok { "ok" } else { "FAIL" }));
        total += Tally::of(ok);
    }
    if targets == [SELF_CHECK] {
        total += Tally::skip("fuzz", "there are no targets yet");
    }
    Ok(total)
}

/// The names of all targets, in order.
fn targets() -> Result<Vec<String>> {
    let folder = folder().join("fuzz_targets");
    let mut names = Vec::new();
    for entry in
        std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}

/// Builds all targets; returns where they are.
fn build() -> Result<PathBuf> {
    let host = host()?;
    if !process::run(cargo("build", &host).arg("--bins"))? {
        bail!("the fuzz targets do not build");
    }
    Ok(folder().join("target").join(host).join("release"))
}

/// The engine's own unit tests.
pub(crate) fn engine_tests() -> Result<Command> {
    let mut command = cargo("test", &host()?);
    command.arg("--lib");
    Ok(command)
}

fn cargo(verb: &str, host: &str) -> Command {
    // With a target triple given, build scripts and macros are built without the flags.
    let mut command = process::cargo(&[verb, "--release", "--locked", "--target", host]);
    command
        .arg("--manifest-path")
        .arg(folder().join("Cargo.toml"));
    command.arg("--target-dir").arg(folder().join("target"));
    command.env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
    command
}

fn host() -> Result<String> {
    let version = process::ask("rustc", &["-vV"]).context("rustc does not run")?;
    let host = version.lines().find_map(|row| row.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc names no host")
}

fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

fn command(binaries: &Path, name: &str, seconds: u64, seed: u64) -> Command {
    let folder = folder();
    let mut command = process::command(binaries.join(name), &[]);
    command.args([
        "--seconds",
        &seconds.to_string(),
        "--seed",
        &seed.to_string(),
    ]);
    command
        .arg("--corpus")
        .arg(folder.join("corpus").join(name));
    command
        .arg("--dictionary")
        .arg(folder.join("dictionaries").join(name));
    command
        .arg("--artifacts")
        .arg(folder.join("artifacts").join(name));
    command
}

/// Whether the engine finds the planted fault.
fn self_check(binaries: &Path) -> Result<bool> {
    let mut found = false;
    let mut command = command(binaries, SELF_CHECK, 60, 1);
    let home = tempfile::tempdir()?;
    command.arg("--artifacts").arg(home.path());
    process::run_observed(&mut command, |line| {
        found |= line.contains("the planted fault");
    })?;
    println!(
        "{} fuzz self-check",
        if found {
            "ok: found, as it should be:"
        } else {
            "FAIL: not found:"
        }
    );
    Ok(found)
}
