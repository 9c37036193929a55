//! Several subjects beside each other: the first against each of the others.

use std::fmt::Write;

use super::{MIB, digits, line, option, rate, ratio};
use crate::report::{Measured, Row, Subject};

/// Subjects in tables: the first is compared with each of the others.
const LETTERS: [&str; 6] = ["A", "B", "C", "D", "E", "F"];

/// One table with a line a load.
pub(super) fn write(text: &mut String, rows: &[&Row], subjects: &[Subject]) {
    let letters = LETTERS.get(..subjects.len()).unwrap_or(&LETTERS);
    let names: Vec<String> = letters
        .iter()
        .zip(subjects)
        .map(|(letter, subject)| format!("{letter} is {}", subject.name))
        .collect();
    let _ = writeln!(text, "{}. Ratios above 1 favour A.\n", names.join(", "));
    let each = |what: &str| -> Vec<String> {
        letters
            .iter()
            .map(|letter| format!("{letter} {what}"))
            .collect()
    };
    let ratios = |what: &str| match letters {
        [_, _] => vec![what.to_owned()],
        [_, others @ ..] => others
            .iter()
            .map(|letter| format!("{what} to {letter}"))
            .collect(),
        [] => Vec::new(),
    };
    let mut head = vec!["durability".to_owned(), "load".to_owned()];
    head.extend(each("k/s"));
    head.extend(ratios("ratio"));
    head.extend(each("p50/p99 us"));
    head.extend(ratios("p99 ratio"));
    head.extend(each("CPU us/op"));
    head.extend(ratios("ratio"));
    head.extend(each("MiB"));
    head.push(format!("generator busy {}", letters.join(", ")));
    line(text, &head);
    let rules = vec!["---"; head.len()].join(" | ");
    let _ = writeln!(text, "| {rules} |");
    for row in rows {
        let medians: Vec<&Measured> = row
            .subjects
            .iter()
            .filter_map(|subject| subject.median.as_ref())
            .collect();
        if medians.len() < letters.len() {
            continue;
        }
        compared(text, row, medians.get(..letters.len()).unwrap_or(&medians));
    }
}

/// One line of the table.
fn compared(text: &mut String, row: &Row, medians: &[&Measured]) {
    let Some((first, others)) = medians.split_first() else {
        return;
    };
    let rates = |measured: &&Measured| Some(measured.commands_per_second);
    let quantiles = |measured: &&Measured| {
        measured.latency.map_or_else(
            || "-".to_owned(),
            |latency| format!("{}/{}", digits(latency.p50_us), digits(latency.p99_us)),
        )
    };
    let p99 = |measured: &&Measured| measured.latency.map(|latency| latency.p99_us);
    let cpu = |measured: &&Measured| measured.server.map(|server| server.us_per_command());
    let mib = |measured: &&Measured| {
        option(
            measured
                .server
                .and_then(|server| server.resident_bytes)
                .map(|bytes| bytes as f64 / MIB),
        )
    };
    let mut cells = vec![row.durability.clone(), row.load.clone()];
    cells.extend(medians.iter().map(|measured| rate(measured)));
    cells.extend(others.iter().map(|other| ratio(rates(first), rates(other))));
    cells.extend(medians.iter().map(quantiles));
    cells.extend(others.iter().map(|other| ratio(p99(other), p99(first))));
    cells.extend(medians.iter().map(|measured| option(cpu(measured))));
    cells.extend(others.iter().map(|other| ratio(cpu(other), cpu(first))));
    cells.extend(medians.iter().map(mib));
    let busy: Vec<String> = medians
        .iter()
        .map(|measured| format!("{:.0} %", measured.generator.busy * 100.0))
        .collect();
    cells.push(busy.join(", "));
    line(text, &cells);
}
