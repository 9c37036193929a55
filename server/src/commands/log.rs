//! `longtail log`: looking at the logs of a data directory without a server, or beside one. Nothing is written.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use longtail_engine::{Field, describe_event};
use longtail_log::inspect::{self, CheckpointReport, DumpedRecord, PagesReport, Report, Stats};
use longtail_log::{Damage, Disk, FsDisk, OpenError};
use serde_json::{Value, json};

use crate::cli::{LogArgs, LogCommand};
use crate::exit_codes::{Exit, Failure};

/// Carries out one of them. Damage that was found is said, and [`Exit::Data`].
pub(crate) fn run(command: &LogCommand) -> Result<Exit, Failure> {
    let out = &mut io::stdout().lock();
    match command {
        LogCommand::Check(args) => check(args, out),
        LogCommand::Stats(args) => stats(args, out),
        LogCommand::Dump {
            from,
            count,
            log: args,
        } => dump(args, *from, count.unwrap_or(u64::MAX), out),
    }
}

/// The logs in a data directory, by number; or the directory itself when it is one log.
fn logs(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unusable = |why: String| {
        let problem = anyhow!("cannot look at {}: {why}", dir.display());
        Failure::new(Exit::Data, problem)
    };
    let mut shards = Vec::new();
    let mut is_log = false;
    for entry in fs::read_dir(dir).map_err(|error| unusable(error.to_string()))? {
        let entry = entry.map_err(|error| unusable(error.to_string()))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if let Some(number) = name
            .strip_prefix("shard-")
            .and_then(|number| number.parse::<u16>().ok())
        {
            shards.push((number, entry.path()));
        }
        is_log |= Path::new(&*name)
            .extension()
            .is_some_and(|end| end == "seg");
    }
    shards.sort();
    if !shards.is_empty() {
        return Ok(shards.into_iter().map(|(_, path)| path).collect());
    }
    if is_log {
        return Ok(vec![dir.to_owned()]);
    }
    Err(unusable(
        "it has neither shard-N directories nor segments; name a data directory, or a shard-N directory in one"
            .to_owned(),
    ))
}

fn disk() -> Arc<dyn Disk> {
    Arc::new(FsDisk)
}

fn failed(error: OpenError) -> Failure {
    Failure::new(Exit::Data, error)
}

fn exit(sound: bool) -> Exit {
    if sound { Exit::Ok } else { Exit::Data }
}

fn check(args: &LogArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let mut sound = true;
    for dir in logs(&args.dir)? {
        let report = inspect::check(&disk(), &dir).map_err(failed)?;
        sound &= report.is_sound();
        if args.json {
            writeln!(out, "{}", report_document(&dir, &report))?;
        } else {
            writeln!(out, "{}:\n{report}", dir.display())?;
        }
    }
    Ok(exit(sound))
}

fn stats(args: &LogArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let mut sound = true;
    for dir in logs(&args.dir)? {
        match inspect::stats(disk().as_ref(), &dir) {
            Ok(stats) if args.json => writeln!(out, "{}", stats_document(&dir, &stats))?,
            Ok(stats) => writeln!(out, "{}:\n{stats}", dir.display())?,
            Err(OpenError::Damaged(damage)) => {
                sound = false;
                if args.json {
                    let document =
                        json!({ "dir": shown(&dir), "damage": [damage_document(&damage)] });
                    writeln!(out, "{document}")?;
                } else {
                    writeln!(out, "{}:\nDAMAGED: {damage}", dir.display())?;
                }
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(exit(sound))
}

fn dump(args: &LogArgs, from: u64, count: u64, out: &mut impl Write) -> Result<Exit, Failure> {
    let dirs = logs(&args.dir)?;
    let (mut left, mut sound) = (count, true);
    for dir in &dirs {
        if !args.json && dirs.len() > 1 {
            writeln!(out, "{}:", dir.display())?;
        }
        for record in inspect::dump(disk(), dir).map_err(failed)? {
            if left == 0 {
                return Ok(exit(sound));
            }
            let record = match record {
                Ok(record) => record,
                // What can be read of the other segments and shards is worth having.
                Err(OpenError::Damaged(_)) => break,
                Err(error) => return Err(failed(error)),
            };
            if record.lsn.0 < from {
                continue;
            }
            left -= 1;
            sound &= print_record(dir, &record, args.json, out)?;
        }
        // The records around a damaged place are printed, those behind it are not: that has to be said.
        for damage in inspect::check(&disk(), dir).map_err(failed)?.damage {
            sound = false;
            eprintln!("longtail: DAMAGED: {damage}");
        }
    }
    Ok(exit(sound))
}

/// Whether the record made sense.
fn print_record(
    dir: &Path,
    record: &DumpedRecord,
    json: bool,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let event = describe_event(&record.payload);
    if json {
        let mut document = json!({
            "dir": shown(dir),
            "position": record.lsn.0,
            "frame": record.frame.0,
            "retained": record.retained,
            "record_bytes": record.payload.len(),
        });
        match (&event, document.as_object_mut()) {
            (Ok(event), Some(document)) => {
                document.insert("event".to_owned(), event.kind.into());
                document.insert("fields".to_owned(), fields(&event.fields));
            }
            (_, document) => {
                if let Some(document) = document {
                    document.insert("event".to_owned(), Value::Null);
                }
            }
        }
        writeln!(out, "{document}")?;
    } else {
        match &event {
            Ok(event) => writeln!(out, "{:>12}  {event}", record.lsn)?,
            Err(error) => writeln!(
                out,
                "{:>12}  UNREADABLE: {error} ({} bytes)",
                record.lsn,
                record.payload.len()
            )?,
        }
    }
    Ok(event.is_ok())
}

/// Fields as a list of pairs: an append to several streams has some of them several times.
fn fields(fields: &[(&'static str, Field)]) -> Value {
    let value = |field: &Field| match field {
        Field::Number(number) => json!(number),
        Field::Text(text) => json!(text),
    };
    fields
        .iter()
        .map(|(name, field)| json!([name, value(field)]))
        .collect()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn damage_document(damage: &Damage) -> Value {
    json!({
        "file": shown(&damage.file),
        "offset": damage.offset,
        "position": damage.lsn.0,
        "what": damage.what,
    })
}

fn pages_document(pages: &PagesReport) -> Value {
    json!({
        "file": shown(&pages.file),
        "bytes": pages.bytes,
        "live": pages.live,
        "pages": pages.pages,
    })
}

fn checkpoint_document(checkpoint: &CheckpointReport) -> Value {
    json!({
        "file": shown(&checkpoint.file),
        "covers": checkpoint.covers.0,
        "bytes": checkpoint.bytes,
        "behind": checkpoint.behind,
    })
}

fn report_document(dir: &Path, report: &Report) -> Value {
    let segments: Vec<Value> = report
        .segments
        .iter()
        .map(|segment| {
            json!({
                "file": shown(&segment.file),
                "base": segment.base.0,
                "end": segment.end.0,
                "generation": segment.generation,
                "bytes": segment.file_bytes,
                "frames": segment.frames,
                "records": segment.records,
                "retained": segment.retained,
                "durable": segment.durable.0,
            })
        })
        .collect();
    json!({
        "dir": shown(dir),
        "sound": report.is_sound(),
        "end": report.end.0,
        "torn": report.torn.as_ref().map(damage_document),
        "damage": report.damage.iter().map(damage_document).collect::<Vec<_>>(),
        "segments": segments,
        "checkpoints": report.checkpoints.iter().map(checkpoint_document).collect::<Vec<_>>(),
        "pages": report.pages.iter().map(pages_document).collect::<Vec<_>>(),
    })
}

fn stats_document(dir: &Path, stats: &Stats) -> Value {
    let segments: Vec<Value> = stats
        .segments
        .iter()
        .map(|segment| {
            json!({
                "file": shown(&segment.file),
                "base": segment.base.0,
                "generation": segment.generation,
                "bytes": segment.file_bytes,
                "retained": segment.retained.map(|(total, _)| total),
                "alive": segment.retained.map(|(_, live)| live),
            })
        })
        .collect();
    json!({
        "dir": shown(dir),
        "shard": stats.shard.map(|shard| shard.0),
        "bytes": stats.bytes,
        "segments": segments,
        "checkpoints": stats.checkpoints.iter().map(checkpoint_document).collect::<Vec<_>>(),
        "pages": stats.pages.iter().map(pages_document).collect::<Vec<_>>(),
    })
}
