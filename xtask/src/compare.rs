//! `cargo xtask compare`: Longtail beside the systems it stands in for, written down as `docs/benchmarks/`.
//!
//! From a fresh machine to a report: `peers` makes sure that the originals are there; `plan` says which loads are run,
//! as command lines of `longtail bench`, which starts the servers, alternates between them and measures; `lifecycle`
//! measures what no load shows: time to start, to recover, memory when idle. `results` folds the rounds into ratios
//! with their ranges; `agreement` says how far they are from those of the run before; `tables`, `charts` and `readme` are
//! views of the results, which are written as JSON as well.
//!
//! A new peer is one entry of `peers` and its loads in `plan`; how it is started belongs to the load generator.

mod agreement;
mod charts;
mod lifecycle;
mod peers;
mod plan;
mod readme;
mod results;
mod tables;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{process, workspace};
use agreement::{Agreement, Earlier};
use peers::Peers;
use results::{Report, Results, Section};

/// How to compare.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Names of protocols; all when empty.
    pub(crate) protocols: Vec<String>,
    /// Rounds of each load on each server.
    pub(crate) rounds: u32,
    /// How long a round is measured.
    pub(crate) duration: Duration,
    /// Where the report goes.
    pub(crate) out: PathBuf,
    /// Where servers keep their data: a disk, not memory.
    pub(crate) data: Option<PathBuf>,
    /// Which parts of the report.
    pub(crate) parts: Parts,
    /// Jobs, or retained messages, that a server is filled with before its recovery is measured.
    pub(crate) kept: u32,
    /// Also write the table and the chart into README.md.
    pub(crate) readme: bool,
}

/// Parts of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Parts {
    /// Ratios, scaling curves, start and recovery.
    All,
    /// The tables of ratios.
    Ratios,
    /// Start, recovery and idle memory.
    Starts,
}

/// Runs everything and writes the report. What one load could not do is said in the report, and fails the run at its
/// end.
///
/// # Errors
/// When Longtail cannot be built, or the report cannot be written.
pub(crate) fn run(settings: &Settings) -> Result<bool> {
    let begun = Instant::now();
    let build = ["build", "--release", "--package", "longtail-server"];
    if !process::run(&mut process::cargo(&build))? {
        bail!("the release build failed");
    }
    let peers = Peers::install(&settings.protocols)?;
    let sections: Vec<plan::Section> = plan::sections(settings.parts)
        .into_iter()
        .filter(|section| peers.has(section.protocol))
        .collect();
    if sections.is_empty() && settings.parts != Parts::Starts {
        bail!("no peer to compare with; see the lines above");
    }
    let scratch = tempfile::tempdir()?;
    let mut results = Results::new(settings);
    for (number, section) in sections.iter().enumerate() {
        println!(
            "--- {} ({}/{}, {} s so far)",
            section.title,
            number + 1,
            sections.len(),
            begun.elapsed().as_secs()
        );
        let mut rows = Vec::new();
        let here = |load: &&plan::Load| load.only.is_none_or(|peer| peers.is_there(peer));
        for load in section.loads.iter().filter(here) {
            let json = scratch.path().join("report.json");
            let arguments = load.arguments(section, settings, &peers, &json);
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = process::command(workspace::longtail(), &words);
            let ran = process::run(&mut command)?;
            // A run that fails half-way has written what it found.
            if let Ok(text) = fs::read(&json) {
                let report: Report = serde_json::from_slice(&text).context("reading a report")?;
                let _removed = fs::remove_file(&json);
                results.note_conditions(&report);
                rows.extend(report.rows.into_iter().map(|row| row.at(load.at)));
            }
            if !ran {
                let command = process::shown(&command);
                results
                    .failures
                    .push(format!("{}: {command}", section.title));
            }
        }
        results.sections.push(Section::new(section, rows));
    }
    if settings.parts == Parts::All {
        println!("--- the log beside plain writes");
        results.log = log_table()?;
    }
    if settings.parts != Parts::Ratios {
        println!("--- start, recovery and idle memory");
        results.lifecycles = lifecycle::run(&peers, settings.kept, settings.data.as_deref())?;
    }
    results.seconds = begun.elapsed().as_secs();
    results.agreement =
        Earlier::read(&settings.out).and_then(|earlier| Agreement::between(&results, &earlier));
    fs::create_dir_all(&settings.out)
        .with_context(|| format!("creating {}", settings.out.display()))?;
    let write = |name: &str, text: &[u8]| {
        let path = settings.out.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    write("results.json", &serde_json::to_vec_pretty(&results)?)?;
    write("README.md", tables::markdown(&results).as_bytes())?;
    for chart in charts::all(&results)? {
        write(&chart.file, chart.svg.as_bytes())?;
    }
    if settings.readme {
        readme::update(&results)?;
    }
    println!("{}", tables::markdown(&results));
    println!("the report is in {}", settings.out.display());
    for failure in &results.failures {
        println!("FAILED {failure}");
    }
    Ok(results.failures.is_empty())
}

/// What the log's own benchmark prints of durable commits.
fn log_table() -> Result<Option<String>> {
    let mut bench = process::cargo(&["bench", "--package", "longtail-log", "--bench", "append"]);
    let mut lines = Vec::new();
    let ran = process::run_observed(&mut bench, |line| lines.push(line.to_owned()))?;
    let table = lines
        .into_iter()
        .skip_while(|line| !line.starts_with("| batch"));
    let table: Vec<String> = table.take_while(|line| line.starts_with('|')).collect();
    Ok((ran && !table.is_empty()).then(|| {
        let about = "Durable commits, one at a time, against `write` and `fdatasync` of the same bytes \
                     (`cargo bench -p longtail-log`):";
        format!("{about}\n\n{}", table.join("\n"))
    }))
}
