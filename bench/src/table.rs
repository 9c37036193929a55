//! The report as Markdown: conditions, one table of loads, memory, and what qualifies the figures.

mod side_by_side;

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::latency::Percentiles;
use crate::report::{Footprint, Measured, Report, Row, Subject};

const MIB: f64 = 1024.0 * 1024.0;
/// Waiting for a processor is mentioned from this share of the time on.
const STARVED_MIN: f64 = 0.1;

/// The whole report. `detail` adds a table of every kind of command.
pub(crate) fn markdown(report: &Report, detail: bool) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail, so that the results below are ignored.
    conditions(&mut text, report);
    let loads: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| row.subjects.iter().any(|s| s.median.is_some()))
        .collect();
    // A half load has only the peer whose it is.
    let mut left = loads.clone();
    while let Some(&first) = left.first() {
        let (table, rest): (Vec<&Row>, Vec<&Row>) =
            left.into_iter().partition(|row| row.is_of(first));
        match first.subjects.as_slice() {
            [_] => single(&mut text, &table),
            subjects => side_by_side::write(&mut text, &table, subjects),
        }
        if !rest.is_empty() {
            text.push('\n');
        }
        left = rest;
    }
    if detail && !loads.is_empty() {
        operations(&mut text, &loads);
    }
    footprints(&mut text, report);
    remarks(&mut text, report);
    text
}

fn conditions(text: &mut String, report: &Report) {
    let environment = &report.environment;
    let mut facts = vec![
        format!("{} x {}", environment.processors, environment.processor),
        format!("Linux {}", environment.kernel),
        format!("TCP {}", environment.congestion_control),
    ];
    if let Some(load) = environment.load_before {
        facts.push(format!("load average {load} before the first run"));
    }
    if let Some(sync) = environment.sync_latency {
        let (p50, p99) = (digits(sync.p50_us), digits(sync.p99_us));
        facts.push(format!(
            "4 KiB write + fdatasync p50 {p50} us, p99 {p99} us"
        ));
    }
    facts.extend(
        environment
            .versions
            .iter()
            .map(|(name, version)| format!("{name}: {version}")),
    );
    facts.extend(
        report
            .settings
            .iter()
            .map(|(name, value)| format!("{name}: {value}")),
    );
    let _ = writeln!(text, "{}.\n", facts.join("; "));
}

fn single(text: &mut String, rows: &[&Row]) {
    header(
        text,
        &[
            "durability",
            "load",
            "k/s",
            "p50 us",
            "p90 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "server CPU us/op (user + system)",
            "resident MiB",
            "peak MiB",
            "generator busy",
            "generator CPU us/op",
        ],
    );
    for row in rows {
        let Some(measured) = row
            .subjects
            .first()
            .and_then(|subject| subject.median.as_ref())
        else {
            continue;
        };
        let at = |pick: fn(&Percentiles) -> f64| option(measured.latency.as_ref().map(pick));
        let cpu = measured.server.map_or_else(
            || "-".to_owned(),
            |server| {
                let (user, system) = (server.user_us_per_command, server.system_us_per_command);
                format!(
                    "{} ({} + {})",
                    digits(server.us_per_command()),
                    digits(user),
                    digits(system)
                )
            },
        );
        let mib = |bytes: Option<u64>| option(bytes.map(|bytes| bytes as f64 / MIB));
        line(
            text,
            &[
                row.durability.clone(),
                row.load.clone(),
                rate(measured),
                at(|latency| latency.p50_us),
                at(|latency| latency.p90_us),
                at(|latency| latency.p99_us),
                at(|latency| latency.p999_us),
                at(|latency| latency.max_us),
                cpu,
                mib(measured.server.and_then(|server| server.resident_bytes)),
                mib(measured.server.and_then(|server| server.peak_bytes)),
                format!("{:.0} %", measured.generator.busy * 100.0),
                digits(measured.generator.cpu_us_per_command),
            ],
        );
    }
}

fn operations(text: &mut String, rows: &[&Row]) {
    text.push('\n');
    header(
        text,
        &[
            "durability",
            "load",
            "subject",
            "command",
            "samples",
            "p50 us",
            "p90 us",
            "p99 us",
            "p99.9 us",
            "max us",
        ],
    );
    let mut one = |row: &Row, subject: &Subject, name: &str, latency: &Percentiles| {
        let Percentiles {
            samples,
            p50_us,
            p90_us,
            p99_us,
            p999_us,
            max_us,
            ..
        } = *latency;
        let mut cells = vec![
            row.durability.clone(),
            row.load.clone(),
            subject.name.clone(),
            name.to_owned(),
            samples.to_string(),
        ];
        cells.extend([p50_us, p90_us, p99_us, p999_us, max_us].map(digits));
        line(text, &cells);
    };
    for row in rows {
        for subject in &row.subjects {
            let Some(measured) = &subject.median else {
                continue;
            };
            for operation in &measured.operations {
                one(row, subject, &operation.name, &operation.latency);
            }
            if let Some(burst) = &measured.burst {
                one(row, subject, "whole burst", burst);
            }
            if let Some(message) = &measured.message {
                one(row, subject, "end to end", message);
            }
        }
    }
}

fn footprints(text: &mut String, report: &Report) {
    let found: Vec<(&Row, &Subject, &Footprint)> = report
        .rows
        .iter()
        .flat_map(|row| row.subjects.iter().map(move |subject| (row, subject)))
        .filter_map(|(row, subject)| Some((row, subject, subject.footprint.as_ref()?)))
        .collect();
    if found.is_empty() {
        return;
    }
    text.push('\n');
    header(
        text,
        &[
            "durability",
            "memory of",
            "subject",
            "before MiB",
            "loaded MiB",
            "afterwards MiB",
            "bytes each",
        ],
    );
    for (row, subject, footprint) in found {
        let mut cells = vec![
            row.durability.clone(),
            format!("{} {}s", footprint.count, footprint.of),
            subject.name.clone(),
        ];
        let bytes = [
            footprint.before_bytes,
            footprint.loaded_bytes,
            footprint.after_bytes,
        ];
        cells.extend(bytes.map(|bytes| digits(bytes as f64 / MIB)));
        cells.push(digits(footprint.bytes_each()));
        line(text, &cells);
    }
}

/// Refusals, and figures that may not be the server's own.
fn remarks(text: &mut String, report: &Report) {
    let mut remarks = Vec::new();
    let mut starved = [0.0f64; 2];
    let mut shortfalls = BTreeSet::new();
    for row in &report.rows {
        for subject in &row.subjects {
            if let Some(shortfall) = subject.shortfall {
                shortfalls.insert(format!(
                    "with {} durability {} {shortfall}",
                    row.durability, subject.name
                ));
            }
            let Some(measured) = &subject.median else {
                continue;
            };
            let place = format!("{} ({}, {})", subject.name, row.durability, row.load);
            for (name, count) in &measured.refusals {
                remarks.push(format!(
                    "{place}: {count} commands were refused with {name}"
                ));
            }
            if measured.lost > 0 {
                remarks.push(format!("{place}: {} messages never arrived", measured.lost));
            }
            let server_waiting = measured.server.map_or(0.0, |server| server.waiting);
            for (most, share) in starved
                .iter_mut()
                .zip([server_waiting, measured.generator.waiting])
            {
                *most = most.max(share);
            }
            if measured.generator.late_bursts > 0 {
                let count = measured.generator.late_bursts;
                remarks.push(format!(
                    "{place}: the generator began {count} bursts over a millisecond late"
                ));
            }
        }
    }
    if report
        .rows
        .iter()
        .flat_map(|row| &row.subjects)
        .filter_map(|s| s.median.as_ref())
        .any(is_limited)
    {
        remarks.push(
            "* the generator hardly ever waited for the server, which may be faster than shown"
                .to_owned(),
        );
    }
    if starved.iter().any(|&share| share > STARVED_MIN) {
        let [server, generator] = starved.map(|share| share * 100.0);
        remarks.push(format!(
            "others used the processors: servers waited for one up to {server:.0} % of the time, the generator up to \
             {generator:.0} %; trust processor time an operation more than throughput and tails"
        ));
    }
    remarks.splice(0..0, shortfalls);
    if !remarks.is_empty() {
        text.push('\n');
    }
    for remark in remarks {
        let _ = writeln!(text, "- {remark}");
    }
}

fn is_limited(measured: &Measured) -> bool {
    measured.generator.is_limit
}

fn rate(measured: &Measured) -> String {
    let mark = if is_limited(measured) { " *" } else { "" };
    format!("{}{mark}", digits(measured.commands_per_second / 1e3))
}

fn header(text: &mut String, names: &[&str]) {
    line(
        text,
        &names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>(),
    );
    let rules = vec!["---"; names.len()].join(" | ");
    let _ = writeln!(text, "| {rules} |");
}

fn line(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn option(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), digits)
}

fn ratio(over: Option<f64>, under: Option<f64>) -> String {
    match (over, under) {
        (Some(over), Some(under)) if under > 0.0 => format!("{}x", digits(over / under)),
        _ => "-".to_owned(),
    }
}

/// A number to about three digits.
fn digits(number: f64) -> String {
    match number.abs() {
        large if large >= 100.0 => format!("{number:.0}"),
        middle if middle >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}
