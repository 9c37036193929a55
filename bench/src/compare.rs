//! Which subjects run which loads in which order, and what becomes of the rounds.
//!
//! Rounds alternate: A, B, A, B. Servers that the generator starts live for one load only, so that one load's leftovers
//! (memory, log files) are not charged to the next.

mod matrix;
mod subject;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;

use anyhow::Context;
use longtail_model::Durability;

use matrix::Task;
use subject::Subject;

use crate::cli::{BeanstalkArgs, BenchArgs, LoadArgs, PeerKind, ProtocolArgs};
use crate::environment::Environment;
use crate::error::BenchError;
use crate::measure::Target;
use crate::peer::beanstalkd::Beanstalkd;
use crate::peer::longtail::Longtail;
use crate::probe::{Probe, listener_pid};
use crate::progress::Progress;
use crate::protocol::Protocol;
use crate::protocol::beanstalk::Beanstalk;
use crate::report::{Footprint, Measured, Report, Row};
use crate::scenario::{Outcome, Runner, Scenario, allow_connections, resolve};
use crate::{report, table};

/// Runs what the flags ask for, prints Markdown to standard output and writes JSON where asked.
///
/// # Errors
/// [`BenchError`] when a server cannot be reached, started or understood, or the flags leave nothing to do. What was
/// measured until then is printed all the same.
pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    run_to(&mut std::io::stdout().lock(), args)
}

fn run_to(out: &mut dyn Write, args: BenchArgs) -> anyhow::Result<()> {
    match args.protocol {
        ProtocolArgs::Null(args) => {
            let tasks = matrix::tasks(&args.load, &[Durability::Memory], true);
            execute(
                out,
                &Beanstalk::default(),
                &[Subject::null()],
                &tasks,
                &args.load,
                None,
            )
        }
        ProtocolArgs::Beanstalk(args) => {
            let subjects = subjects(&args)?;
            let started = args.compare.is_some();
            let durabilities = match args.durability.as_slice() {
                [] if started => vec![Durability::Memory, Durability::Interval, Durability::Sync],
                given => given.to_vec(),
            };
            if !started && durabilities.len() > 1 {
                let text = "a running target has one durability: give it once, as a note";
                return Err(BenchError::Usage(text.to_owned()).into());
            }
            let directory = args.data.clone().unwrap_or_else(std::env::temp_dir);
            let tasks = matrix::tasks(&args.load, &durabilities, started);
            let data = started.then_some(directory.as_path());
            execute(
                out,
                &Beanstalk::default(),
                &subjects,
                &tasks,
                &args.load,
                data,
            )
        }
    }
}

fn subjects(args: &BeanstalkArgs) -> Result<Vec<Subject>, BenchError> {
    let running = |text: &str, pid: Option<u32>| {
        let address = resolve(text)?;
        let probe = pid.or_else(|| listener_pid(address)).map(Probe::Process);
        Ok(Subject::running(text, Target { address, probe }))
    };
    let mut subjects = Vec::new();
    if let Some(target) = &args.target {
        subjects.push(running(target, args.pid)?);
    }
    if let Some(peer) = &args.peer {
        subjects.push(running(peer, args.peer_pid)?);
    }
    if let Some(PeerKind::Beanstalkd) = args.compare {
        if !args.peer_only {
            let own = args
                .own
                .as_deref()
                .map_or_else(|| Longtail::current("beanstalk"), Longtail::custom)?;
            subjects.push(Subject::started(Box::new(own)));
        }
        subjects.push(Subject::started(Box::new(Beanstalkd {
            program: args.peer_program.clone(),
        })));
    }
    Ok(subjects)
}

/// Runs the tasks, prints and writes the report, and only then fails if a task failed.
fn execute<P: Protocol>(
    out: &mut dyn Write,
    protocol: &P,
    subjects: &[Subject],
    tasks: &[Task],
    load: &LoadArgs,
    data: Option<&std::path::Path>,
) -> anyhow::Result<()> {
    matrix::check(tasks)?;
    let connections = tasks
        .iter()
        .map(|task| u64::from(task.settings.connections))
        .max()
        .unwrap_or(0);
    let split = u64::from(load.producers) + u64::from(load.workers);
    allow_connections(connections.max(split))?;
    let mut environment = Environment::detect(data)?;
    for subject in subjects {
        if let Some(version) = subject.version()? {
            environment.versions.insert(subject.name.clone(), version);
        }
    }
    let mut report = Report {
        environment,
        settings: settings(load),
        rows: Vec::new(),
    };
    let generator_cpus = load.pin.as_ref().map(|pin| pin.generator.as_slice());
    let mut runner = Runner {
        protocol,
        generator_cpus,
        progress: Progress::new(),
    };
    let mut failure = None;
    for (number, task) in tasks.iter().enumerate() {
        let place = format!("[{}/{}]", number + 1, tasks.len());
        match rows(&mut runner, subjects, task, load, data, &place) {
            Ok(rows) => report.rows.extend(rows),
            Err(error) => {
                failure = Some(anyhow::Error::new(error).context(task.settings.label()));
                break;
            }
        }
    }
    drop(runner);
    if !report.rows.is_empty() {
        let detail = tasks.len() == 1
            || load
                .scenario
                .is_some_and(|scenario| scenario != Scenario::Cycle);
        let text = table::markdown(&report, detail);
        out.write_all(text.as_bytes())
            .context("writing the table")?;
        if let Some(path) = &load.json {
            let json = serde_json::to_vec_pretty(&report).context("encoding the report")?;
            fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    failure.map_or(Ok(()), Err)
}

fn settings(load: &LoadArgs) -> BTreeMap<&'static str, String> {
    let pin = load.pin.as_ref().map_or_else(
        || "none".to_owned(),
        |pin| {
            format!(
                "server on {:?}, generator on {:?}",
                pin.server, pin.generator
            )
        },
    );
    BTreeMap::from([
        ("rounds", load.rounds.to_string()),
        ("duration", format!("{:?}", load.duration)),
        ("warm-up", format!("{:?}", load.warm_up)),
        ("generator threads", load.threads.to_string()),
        ("queues", load.queues.to_string()),
        ("processors", pin),
    ])
}

/// All rounds of one task on all subjects in turn.
fn rows<P: Protocol>(
    runner: &mut Runner<'_, P>,
    subjects: &[Subject],
    task: &Task,
    load: &LoadArgs,
    data: Option<&std::path::Path>,
    place: &str,
) -> Result<Vec<Row>, BenchError> {
    let cpus = load.pin.as_ref().map(|pin| pin.server.as_slice());
    let live = subjects
        .iter()
        .map(|subject| subject.start(runner.protocol, task, data, cpus))
        .collect::<Result<Vec<_>, BenchError>>()?;
    let mut rounds: Vec<Vec<Outcome>> = vec![Vec::new(); live.len()];
    for round in 1..=load.rounds {
        for ((subject, live), outcomes) in subjects.iter().zip(&live).zip(&mut rounds) {
            let label = format!(
                "{place} {} {}, round {round}/{}",
                subject.name,
                task.settings.label(),
                load.rounds
            );
            runner.progress.begin(label);
            outcomes.push(runner.run(&live.target, &task.settings)?);
        }
    }
    Ok(fold(subjects, task, &rounds))
}

/// One row a load of the scenario; a scenario that only looks at memory has one row without loads.
fn fold(subjects: &[Subject], task: &Task, rounds: &[Vec<Outcome>]) -> Vec<Row> {
    let durability = task.durability.map_or_else(
        || "not told".to_owned(),
        |durability| durability.to_string(),
    );
    let labels: Vec<String> = match rounds.first().and_then(|outcomes| outcomes.first()) {
        Some(outcome) if !outcome.loads.is_empty() => outcome
            .loads
            .iter()
            .map(|(label, _)| label.clone())
            .collect(),
        _ => vec![task.settings.label()],
    };
    let row = |(number, label): (usize, String)| {
        let subject = |(subject, outcomes): (&Subject, &Vec<Outcome>)| {
            let measured: Vec<Measured> = outcomes
                .iter()
                .filter_map(|outcome| Some(outcome.loads.get(number)?.1.clone()))
                .collect();
            let footprints: Vec<Footprint> = outcomes
                .iter()
                .filter_map(|outcome| outcome.footprint)
                .collect();
            report::Subject {
                name: subject.name.clone(),
                median: Measured::median(&measured),
                rounds: measured,
                footprint: if number == 0 {
                    Footprint::median(&footprints)
                } else {
                    None
                },
            }
        };
        Row {
            durability: durability.clone(),
            load: label,
            subjects: subjects.iter().zip(rounds).map(subject).collect(),
        }
    };
    labels.into_iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests;
