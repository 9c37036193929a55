//! Which subjects run which loads in which order, and what becomes of the rounds.
//!
//! Rounds alternate: A, B, A, B. Servers that the generator starts live for one load only, so that one load's leftovers
//! (memory, log files) are not charged to the next.

mod amqp;
mod matrix;
mod mqtt;
mod subject;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use longtail_model::Durability;

use matrix::Task;
use subject::{Live, Subject};

use crate::cli::{BenchArgs, LoadArgs, PeerKind, ProtocolArgs, RunArgs, SubjectArgs};
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
        ProtocolArgs::Amqp(args) => amqp::run(out, &args),
        ProtocolArgs::Mqtt(args) => mqtt::run(out, &args),
        ProtocolArgs::Null(args) => {
            let mut sinks = vec![Subject::null()];
            sinks.extend(args.alone.then(Subject::alone));
            let mut tasks = matrix::tasks(&args.load, &[Durability::Memory], true);
            fit_to_sinks(&mut tasks, &sinks, None)?;
            let plan = Plan {
                tasks,
                data: None,
                half_load: false,
                detail: wants_detail(&args.load),
                settings: queue_settings(&args.load),
            };
            execute(out, &Beanstalk::default(), &sinks, &plan, &args.load.run)
        }
        ProtocolArgs::Beanstalk(args) => {
            let started = args.compare.is_some();
            let standard = [Durability::Memory, Durability::Interval, Durability::Sync];
            let durabilities = durabilities(&args.subject.durability, started, &standard)?;
            let tasks = matrix::tasks(&args.load, &durabilities, started);
            let plan = Plan {
                tasks,
                data: data(args.subject.data.as_deref(), started),
                half_load: false,
                detail: wants_detail(&args.load),
                settings: queue_settings(&args.load),
            };
            let compared = args.compare.map(|PeerKind::Beanstalkd| {
                Subject::started(Box::new(Beanstalkd {
                    program: args.peer_program.clone(),
                }))
            });
            let compared = compared.into_iter().collect();
            let subjects = subjects(&args.subject, "beanstalk", compared)?;
            execute(out, &Beanstalk::default(), &subjects, &plan, &args.load.run)
        }
    }
}

/// What is to be run, and how it is shown.
struct Plan {
    tasks: Vec<Task>,
    /// Where servers that are started keep their data.
    data: Option<PathBuf>,
    /// Whether each load with subscribers is run again beside each peer, at half of what that peer reached.
    half_load: bool,
    /// Whether every kind of command is shown.
    detail: bool,
    /// Settings of this protocol's loads, for the report.
    settings: BTreeMap<&'static str, String>,
}

/// The durabilities that the flags ask for: of servers that are started, the `standard` ones if none is given.
fn durabilities(
    given: &[Durability],
    started: bool,
    standard: &[Durability],
) -> Result<Vec<Durability>, BenchError> {
    match given {
        [] if started => Ok(standard.to_vec()),
        [_, _, ..] if !started => Err(BenchError::Usage(
            "a running target has one durability: give it once, as a note".to_owned(),
        )),
        given => Ok(given.to_vec()),
    }
}

fn data(given: Option<&Path>, started: bool) -> Option<PathBuf> {
    started.then(|| given.map_or_else(std::env::temp_dir, Path::to_owned))
}

fn wants_detail(load: &LoadArgs) -> bool {
    load.scenario
        .is_some_and(|scenario| scenario != Scenario::Cycle)
}

fn queue_settings(load: &LoadArgs) -> BTreeMap<&'static str, String> {
    BTreeMap::from([("queues", load.queues.to_string())])
}

/// A server that runs already.
fn running(text: &str, pid: Option<u32>) -> Result<Subject, BenchError> {
    let address = resolve(text)?;
    let probe = pid.or_else(|| listener_pid(address)).map(Probe::Process);
    Ok(Subject::running(
        text,
        Target {
            address: Some(address),
            probe,
        },
    ))
}

/// The servers that the flags name: those that run, or Longtail, unless it is left out, and the `compared`.
fn subjects(
    args: &SubjectArgs,
    protocol: &str,
    compared: Vec<Subject>,
) -> Result<Vec<Subject>, BenchError> {
    let mut subjects = Vec::new();
    if let Some(target) = &args.target {
        subjects.push(running(target, args.pid)?);
    }
    if let Some(peer) = &args.peer {
        subjects.push(running(peer, args.peer_pid)?);
    }
    if !compared.is_empty() && !args.peer_only {
        let own = args.own.as_deref();
        let own = own.map_or_else(|| Longtail::current(protocol), Longtail::custom)?;
        subjects.push(Subject::started(Box::new(own)));
    }
    if !args.own_only {
        subjects.extend(compared);
    }
    Ok(subjects)
}

/// Leaves out what sinks among the subjects cannot take: `kept`, the scenario whose sessions or messages a server has to
/// keep, and where the generator is alone idle connections, of which it has none.
fn fit_to_sinks(
    tasks: &mut Vec<Task>,
    subjects: &[Subject],
    kept: Option<Scenario>,
) -> Result<(), BenchError> {
    let alone = subjects.iter().any(Subject::is_alone);
    let sink = subjects.iter().any(Subject::is_sink);
    tasks.retain(|task| match task.settings.scenario {
        Scenario::Idle => !alone,
        scenario => !(sink && Some(scenario) == kept),
    });
    if tasks.is_empty() {
        let text = "a sink keeps neither sessions nor messages, and the generator alone has no idle connections: name \
                    another scenario";
        return Err(BenchError::Usage(text.to_owned()));
    }
    Ok(())
}

/// What a flag lists, or what stands for nothing listed.
fn given<T: Copy>(given: &[T], default: &[T]) -> Vec<T> {
    if given.is_empty() { default } else { given }.to_vec()
}

/// Runs the tasks, prints and writes the report, and only then fails if a task failed.
fn execute<P: Protocol>(
    out: &mut dyn Write,
    protocol: &P,
    subjects: &[Subject],
    plan: &Plan,
    run: &RunArgs,
) -> anyhow::Result<()> {
    let tasks = &plan.tasks;
    matrix::check(tasks)?;
    if run.threads > 1 && subjects.iter().any(Subject::is_alone) {
        let text = "the generator alone is one thread: leave --threads out";
        return Err(BenchError::Usage(text.to_owned()).into());
    }
    let sockets = tasks.iter().map(|task| task.settings.sockets()).max();
    allow_connections(sockets.unwrap_or(0))?;
    let mut environment = Environment::detect(plan.data.as_deref())?;
    for subject in subjects {
        if let Some(version) = subject.version()? {
            environment.versions.insert(subject.name.clone(), version);
        }
    }
    let mut report = Report {
        environment,
        settings: settings(run, &plan.settings),
        rows: Vec::new(),
    };
    let generator_cpus = run.pin.as_ref().map(|pin| pin.generator.as_slice());
    let mut runner = Runner {
        protocol,
        generator_cpus,
        progress: Progress::new(),
    };
    let mut failure = None;
    for (number, task) in tasks.iter().enumerate() {
        let place = format!("[{}/{}]", number + 1, tasks.len());
        match rows(&mut runner, subjects, task, plan, run, &place) {
            Ok(rows) => report.rows.extend(rows),
            Err(error) => {
                failure = Some(error.context(task.settings.label()));
                break;
            }
        }
    }
    drop(runner);
    if !report.rows.is_empty() {
        let text = table::markdown(&report, plan.detail || tasks.len() == 1);
        out.write_all(text.as_bytes())
            .context("writing the table")?;
        if let Some(path) = &run.json {
            let json = serde_json::to_vec_pretty(&report).context("encoding the report")?;
            fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    failure.map_or(Ok(()), Err)
}

fn settings(
    run: &RunArgs,
    of_protocol: &BTreeMap<&'static str, String>,
) -> BTreeMap<&'static str, String> {
    let pin = run.pin.as_ref().map_or_else(
        || "none".to_owned(),
        |pin| {
            format!(
                "server on {:?}, generator on {:?}",
                pin.server, pin.generator
            )
        },
    );
    let mut settings = of_protocol.clone();
    settings.extend([
        ("rounds", run.rounds.to_string()),
        ("duration", format!("{:?}", run.duration)),
        ("warm-up", format!("{:?}", run.warm_up)),
        ("generator threads", run.threads.to_string()),
        ("processors", pin),
    ]);
    settings
}

/// Rounds of a scenario that lasts until a server is filled and emptied: with a slow one, minutes each.
const FILLS_MAX: u32 = 2;

/// All rounds of one task on all subjects in turn.
fn rows<P: Protocol>(
    runner: &mut Runner<'_, P>,
    subjects: &[Subject],
    task: &Task,
    plan: &Plan,
    run: &RunArgs,
    place: &str,
) -> anyhow::Result<Vec<Row>> {
    let cpus = run.pin.as_ref().map(|pin| pin.server.as_slice());
    let live = subjects
        .iter()
        .map(|subject| subject.start(runner.protocol, task, plan.data.as_deref(), cpus))
        .collect::<Result<Vec<_>, BenchError>>()?;
    let mut all = |task: &Task, who: &[usize]| -> anyhow::Result<Vec<Row>> {
        let of = |&place: &usize| Some((subjects.get(place)?, live.get(place)?));
        let (subjects, live): (Vec<&Subject>, Vec<&Live>) = who.iter().filter_map(of).unzip();
        let mut rounds: Vec<Vec<Outcome>> = vec![Vec::new(); live.len()];
        let count = match task.settings.scenario.has_length() {
            true => run.rounds,
            false => run.rounds.min(FILLS_MAX),
        };
        for round in 1..=count {
            for ((subject, live), outcomes) in subjects.iter().zip(&live).zip(&mut rounds) {
                let label = format!(
                    "{place} {} {}, round {round}/{count}",
                    subject.name,
                    task.settings.label(),
                );
                runner.progress.begin(label);
                let outcome = runner.run(&live.target, &task.settings);
                outcomes.push(outcome.with_context(|| subject.name.clone())?);
            }
        }
        Ok(fold(&subjects, task, &rounds))
    };
    let everybody: Vec<usize> = (0..subjects.len()).collect();
    let mut rows = all(task, &everybody)?;
    if plan.half_load
        && let Some(reached) = rows.first().cloned()
    {
        for (peer, who) in at_half_load(subjects) {
            if let Some(task) = task.at_half_load(&reached, peer) {
                rows.extend(all(&task, &who)?);
            }
        }
    }
    Ok(rows)
}

/// Whose half load is looked at, and who is measured at it: each peer and the first subject. The null sink is nobody's
/// peer, but shows what the generator and the kernel take of every latency. One subject alone is its own peer.
fn at_half_load(subjects: &[Subject]) -> Vec<(usize, Vec<usize>)> {
    let peers = usize::from(subjects.len() > 1)..subjects.len();
    let is_sink =
        |place: &usize| subjects.len() > 1 && subjects.get(*place).is_some_and(Subject::is_sink);
    let (sinks, peers): (Vec<usize>, Vec<usize>) = peers.partition(is_sink);
    let beside = |peer: usize| {
        let mut who = vec![0, peer];
        who.extend(&sinks);
        who.dedup();
        (peer, who)
    };
    peers.into_iter().map(beside).collect()
}

/// One row a load of the scenario; a scenario that only looks at memory has one row without loads.
fn fold(subjects: &[&Subject], task: &Task, rounds: &[Vec<Outcome>]) -> Vec<Row> {
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
        let subject = |(subject, outcomes): (&&Subject, &Vec<Outcome>)| {
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
                shortfall: task
                    .durability
                    .and_then(|durability| subject.shortfall(durability)),
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
