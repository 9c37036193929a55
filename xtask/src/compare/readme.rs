//! The short version in the project's README: one table and one chart, between two marks.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use super::charts;
use super::results::{Ratio, Results, Row};
use super::tables::shown;
use crate::workspace;

const BEGIN: &str = "<!-- figures: written by `cargo xtask compare --readme` -->";
/// The sections that are left out here: they are about latency at one rate.
const HALF: [&str; 2] = ["mqtt-half", "amqp-half"];
const END: &str = "<!-- end of the figures -->";
/// Durability and beginning of the loads that are shown.
const TOLD: [(&str, &str); 30] = [
    ("memory", "cycle, 1 connection,"),
    ("memory", "cycle, 16 connections,"),
    ("memory", "backlog, "),
    ("sync", "cycle, 1 connection,"),
    ("sync", "cycle, 16 connections,"),
    ("sync", "cycle, 64 connections,"),
    ("memory", "publish QoS 1,"),
    ("memory", "one-to-one QoS 0, 16 pairs, 256 B"),
    ("memory", "one-to-one QoS 1,"),
    ("memory", "request-reply QoS 1,"),
    ("memory", "fan-in QoS 1,"),
    ("memory", "fan-out QoS 0,"),
    ("memory", "shared "),
    ("memory", "offline "),
    ("sync", "one-to-one QoS 1, persistent, 1 pair,"),
    ("sync", "one-to-one QoS 1, persistent, 16 pairs,"),
    ("sync", "one-to-one QoS 1, persistent, 64 pairs,"),
    ("memory", "one-to-one unconfirmed, 1 pair, 64 deep, 16 B"),
    ("memory", "one-to-one confirmed, 16 pairs, 1024 B"),
    ("memory", "one-to-one confirmed, 16 pairs, 16 deep, 1024 B"),
    ("memory", "one-to-one confirmed, 16 pairs, 16 deep, 16384 B"),
    ("memory", "request-reply unconfirmed,"),
    ("memory", "work queue confirmed,"),
    ("memory", "fan-out confirmed,"),
    ("memory", "topic "),
    ("memory", "backlog unconfirmed,"),
    ("sync", "one-to-one confirmed, persistent, 1 pair,"),
    ("sync", "one-to-one confirmed, persistent, 16 pairs, 1024 B"),
    ("sync", "one-to-one confirmed, persistent, 64 pairs,"),
    ("sync", "backlog confirmed, persistent,"),
];

/// Puts the figures in the place of the last ones.
///
/// # Errors
/// When README.md cannot be read or written, or has no place for them.
pub(super) fn update(results: &Results) -> Result<()> {
    let path = workspace::root().join("README.md");
    let text = fs::read_to_string(&path).context("reading README.md")?;
    let text = replaced(&text, &figures(results))
        .with_context(|| format!("README.md needs the lines {BEGIN:?} and {END:?}"))?;
    fs::write(&path, text).context("writing README.md")
}

/// The text with something else between the marks; none if they are not there.
fn replaced(text: &str, figures: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{figures}\n{END}{after}"))
}

fn figures(results: &Results) -> String {
    let mut out = String::from(
        "| load | durability | throughput | processor time an operation | p99 |\n| --- | --- | --- | --- | --- |\n",
    );
    let sections = results.sections.iter().filter(|section| section.is_table());
    for section in sections
        .clone()
        .filter(|section| !HALF.contains(&section.name))
    {
        for row in section
            .rows
            .iter()
            .filter(|row| row.is_measured() && is_told(row))
        {
            let ratio = |ratio| {
                row.to_best(ratio)
                    .map_or_else(|| "-".to_owned(), |(_, spread)| shown(spread))
            };
            let protocol = section
                .title
                .split([':', ',', ' '])
                .next()
                .unwrap_or_default();
            let _ = writeln!(
                out,
                "| {protocol}: {} | {} | {} | {} | {} |",
                row.load,
                row.durability,
                ratio(Ratio::Throughput),
                ratio(Ratio::Cpu),
                ratio(Ratio::P99),
            );
        }
    }
    for section in sections.take(1) {
        if let Some(file) = charts::file(section) {
            let _ = write!(out, "\n![{}](docs/benchmarks/{file})\n", section.title);
        }
    }
    out
}

/// Whether a row is of the short version: of each shape of load one size and one QoS, and every one that has been slower
/// than a peer.
fn is_told(row: &Row) -> bool {
    let started = |(durability, load): &(&str, &str)| {
        row.durability == *durability && row.load.starts_with(load)
    };
    TOLD.iter().any(started)
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, replaced};

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let expected = format!("a\n{BEGIN}\nnew\n{END}\nb\n");
        assert_eq!(replaced(&text, "new"), Some(expected));
        assert_eq!(replaced("a", "new"), None);
    }
}
