//! Instructions and allocations of the hot paths, counted by Valgrind: numbers that no other process on the machine
//! changes, so that a test can compare them with what is written down.
//!
//! Each path of `longtail-hot` is run twice, for N and 2N messages; the difference is what N cost, without the start and
//! the set-up. `docs/benchmarks/instructions.json` has the figures of record and the compiler that they were counted
//! with: another one makes other code, and then nothing is compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::tally::Tally;
use crate::{debian, failures, process, workspace};

/// Messages of the shorter run: enough that what happens now and then (a block is closed, a table grows) happens often.
const MESSAGES: u64 = 8192;
/// How much more a path may cost than is written down, in percent.
const TOLERANCE: f64 = 5.0;
/// Allocations of one message more than are written down: those of tables that grow are not the same each time.
const ALLOCATIONS_MORE: f64 = 0.05;

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    /// `rustc --version`.
    compiler: String,
    /// The processor's architecture.
    machine: String,
    /// By path.
    paths: BTreeMap<String, Cost>,
}

/// What one message costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

/// Counts and compares; with `record`, writes the figures down instead.
///
/// # Errors
/// When something cannot be built or run.
pub(crate) fn run(record: bool) -> Result<Tally> {
    if let Err(why) = debian::program("valgrind", "valgrind")? {
        return Ok(Tally::skip("instructions", &why));
    }
    let build = ["build", "--release", "--package", "longtail-hot"];
    if !process::run(&mut process::cargo(&build))? {
        bail!("the hot paths cannot be built");
    }
    let found = count()?;
    let path = workspace::root().join("docs/benchmarks/instructions.json");
    if record {
        let mut text = serde_json::to_string_pretty(&found)?;
        text.push('\n');
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("written to {}", path.display());
        return Ok(Tally::PASS);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let known: Record = serde_json::from_str(&text).context("the figures of record")?;
    if (&known.compiler, &known.machine) != (&found.compiler, &found.machine) {
        let why = format!(
            "the figures of record are of {} on {}; this is {} on {}",
            known.compiler, known.machine, found.compiler, found.machine
        );
        return Ok(Tally::skip("instructions", &why));
    }
    let mut tally = Tally::default();
    for Verdict { name, text, worse } in compare(&known, &found) {
        tally += Tally::of(!worse);
        failures::say(&format!(
            "{} {name}: {text}",
            if worse { "FAIL" } else { "ok" }
        ));
    }
    if tally.failed > 0 {
        println!(
            "if that is what it has to cost: `cargo xtask instructions --record`, and say why"
        );
    }
    Ok(tally)
}

/// What became of one path.
struct Verdict {
    name: String,
    text: String,
    worse: bool,
}

fn compare(known: &Record, found: &Record) -> Vec<Verdict> {
    let new = found.paths.keys();
    let new = new.filter(|name| !known.paths.contains_key(*name));
    let verdict = |name: &String| {
        let (text, worse) = match (known.paths.get(name), found.paths.get(name)) {
            (Some(known), Some(found)) => change(known, found),
            (None, _) => ("nothing is on record".to_owned(), true),
            (_, None) => ("it is on record and no longer there".to_owned(), true),
        };
        Verdict {
            name: name.clone(),
            text,
            worse,
        }
    };
    known.paths.keys().chain(new).map(verdict).collect()
}

fn change(known: &Cost, found: &Cost) -> (String, bool) {
    let percent = (found.instructions / known.instructions - 1.0) * 100.0;
    let more = found.allocations - known.allocations;
    let text = format!(
        "{:.0} instructions ({percent:+.1} %), {:.2} allocations ({more:+.2})",
        found.instructions, found.allocations
    );
    (text, percent > TOLERANCE || more > ALLOCATIONS_MORE)
}

fn count() -> Result<Record> {
    let program = program();
    let listed = process::ask(program.display().to_string(), &["list"]);
    let listed = listed.context("the hot paths cannot be listed")?;
    let mut record = Record {
        compiler: process::ask("rustc", &["--version"]).context("no compiler")?,
        machine: std::env::consts::ARCH.to_owned(),
        paths: BTreeMap::new(),
    };
    for name in listed.lines() {
        let each = |tool: &Tool| -> Result<f64> {
            let once = tool.count(&program, name, MESSAGES)?;
            let twice = tool.count(&program, name, 2 * MESSAGES)?;
            let each = twice.saturating_sub(once) as f64 / MESSAGES as f64;
            Ok((each * 100.0).round() / 100.0)
        };
        let cost = Cost {
            instructions: each(&INSTRUCTIONS)?,
            allocations: each(&ALLOCATIONS)?,
        };
        record.paths.insert(name.to_owned(), cost);
    }
    Ok(record)
}

fn program() -> PathBuf {
    workspace::longtail().with_file_name("longtail-hot")
}

/// What Valgrind counts, and the word before which its number stands.
struct Tool {
    flags: &'static [&'static str],
    line: &'static str,
    unit: Option<&'static str>,
}

const INSTRUCTIONS: Tool = Tool {
    flags: &[
        "--tool=cachegrind",
        "--cache-sim=no",
        "--cachegrind-out-file=/dev/null",
    ],
    line: "refs:",
    unit: None,
};

const ALLOCATIONS: Tool = Tool {
    flags: &[
        "--tool=memcheck",
        "--leak-check=no",
        "--undef-value-errors=no",
    ],
    line: "total heap usage:",
    unit: Some(" allocs"),
};

impl Tool {
    /// Its number for one run.
    fn count(&self, program: &Path, name: &str, messages: u64) -> Result<u64> {
        let output = process::command("valgrind", self.flags)
            .arg(program)
            .args([name, &messages.to_string()])
            .output()
            .context("valgrind cannot be started")?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{name}: {text}");
        }
        self.read(&text)
            .with_context(|| format!("{name}: no count in {text:?}"))
    }

    fn read(&self, text: &str) -> Option<u64> {
        let line = text.lines().find(|line| line.contains(self.line))?;
        let (_, number) = line.split_once(self.line)?;
        let number = match self.unit {
            Some(unit) => number.split_once(unit)?.0,
            None => number,
        };
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        digits.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(figures: &[(&str, f64, f64)]) -> Record {
        let cost = |&(name, instructions, allocations): &(&str, f64, f64)| {
            let cost = Cost {
                instructions,
                allocations,
            };
            (name.to_owned(), cost)
        };
        Record {
            paths: figures.iter().map(cost).collect(),
            ..Record::default()
        }
    }

    #[test]
    fn only_what_costs_more_or_is_unknown_fails() {
        let known = record(&[
            ("allocates", 100.0, 1.0),
            ("gone", 1.0, 1.0),
            ("less", 100.0, 1.0),
            ("more", 100.0, 1.0),
            ("same", 100.0, 1.0),
        ]);
        let found = record(&[
            ("allocates", 100.0, 1.1),
            ("less", 50.0, 0.0),
            ("more", 106.0, 1.0),
            ("new", 1.0, 1.0),
            ("same", 104.0, 1.01),
        ]);
        let failed: Vec<String> = compare(&known, &found)
            .into_iter()
            .filter_map(|verdict| verdict.worse.then_some(verdict.name))
            .collect();
        assert_eq!(failed, ["allocates", "gone", "more", "new"]);
    }

    #[test]
    fn the_counts_are_found() {
        let text = "==1== \n==1== I refs:        1,234,567\n";
        assert_eq!(INSTRUCTIONS.read(text), Some(1_234_567));
        let text = "==1==   total heap usage: 2,345 allocs, 2,340 frees, 99 bytes allocated\n";
        assert_eq!(ALLOCATIONS.read(text), Some(2345));
        assert_eq!(INSTRUCTIONS.read("nothing"), None);
    }
}
