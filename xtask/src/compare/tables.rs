//! The results as Markdown.

use std::fmt::Write;

use super::agreement::Agreement;
use super::charts;
use super::lifecycle::Lifecycle;
use super::results::{Ratio, Results, Row, Section, Spread, Subject};

/// From here on a server that waited for a processor makes throughput and tails doubtful.
const DISTURBED: f64 = 0.1;

/// The whole report.
pub(super) fn markdown(results: &Results) -> String {
    let mut out = String::from(
        "# Longtail beside the originals\n\nWritten by `cargo xtask compare`; the figures are in \
         [results.json](results.json), what they mean in [../benchmarks.md](../benchmarks.md).\n\n",
    );
    line(&mut out, &["condition", "value"]);
    line(&mut out, &["---", "---"]);
    for (name, value) in &results.conditions {
        line(&mut out, &[name, value]);
    }
    let rounds = format!("{}, in turn", results.rounds);
    line(&mut out, &["rounds of a load on each server", &rounds]);
    let took = format!("{} min", results.seconds.div_ceil(60));
    line(&mut out, &["the whole report took", &took]);
    out.push_str(
        "\nEach ratio is the median over the rounds with the lowest and the highest in brackets; above 1 is in Longtail's \
         favour. k/s are thousands of commands, or of deliveries where there are subscribers. With several peers the ratio \
         is to the one that is best at it, `m` Mosquitto, `r` rumqttd. `*`: the generator may have been the limit, so that \
         the processor time an operation says more.\n",
    );
    let disturbance = results.disturbance();
    if disturbance > DISTURBED {
        let _ = writeln!(
            out,
            "\n**Something else used the processors**: a server waited for one up to {:.0} % of the time. Processor time \
             an operation can be trusted; throughput and tails of single rows less.",
            disturbance * 100.0
        );
    }
    for section in &results.sections {
        let _ = write!(out, "\n## {}\n\n", section.title);
        match section.over {
            None if section.is_ceiling => out.push_str(&ceilings(section, results)),
            None => {
                out.push_str(&ratios(section));
                out.push_str(&footprints(section));
            }
            Some(over) => out.push_str(&curve(section, over)),
        }
        if let Some(file) = charts::file(section) {
            let _ = write!(out, "\n![{}]({file})\n", section.title);
        }
    }
    if !results.lifecycles.is_empty() {
        out.push_str("\n## Start, recovery, memory\n\n");
        out.push_str(&lifecycles(&results.lifecycles));
    }
    if let Some(log) = &results.log {
        let _ = write!(out, "\n## The log beside plain writes\n\n{log}\n");
    }
    if let Some(agreement) = &results.agreement {
        out.push_str("\n## Beside the run before\n\n");
        out.push_str(&agreed(agreement));
    }
    let remarks = remarks(results);
    if !remarks.is_empty() {
        out.push_str("\n## Remarks\n\n");
        for remark in remarks {
            let _ = writeln!(out, "- {remark}");
        }
    }
    out
}

/// A table of ratios.
pub(super) fn ratios(section: &Section) -> String {
    let mut out = String::new();
    let heads = [
        "durability",
        "load",
        "Longtail k/s",
        "peer k/s",
        "throughput",
        "CPU an operation",
        "p99",
        "Longtail p50/p99 us",
        "Longtail CPU us",
        "Longtail MiB",
        "peer MiB",
    ];
    line(&mut out, &heads);
    line(&mut out, &["---"; 11]);
    // A row may have only one of them: at half load, or where the others do not write to the disk.
    let several = section.rows.iter().any(|row| row.peers().count() > 1);
    for row in section.rows.iter().filter(|row| row.is_measured()) {
        let Some(own) = row.own() else { continue };
        let ratio = |ratio| {
            row.to_best(ratio).map_or_else(dash, |(peer, spread)| {
                let letter = if several { letter(peer) } else { String::new() };
                format!("{}{letter}", shown(spread))
            })
        };
        let best = row.to_best(Ratio::Throughput).map(|(peer, _)| peer);
        let star = if row.is_generators() { " *" } else { "" };
        let kilo = |subject: &Subject| {
            subject
                .throughput()
                .map_or_else(dash, |spread| number(spread.median / 1000.0))
        };
        let latency = match (
            own.spread(super::results::Round::p50_us),
            own.spread(super::results::Round::p99_us),
        ) {
            (Some(half), Some(tail)) => format!("{:.0}/{:.0}", half.median, tail.median),
            _ => dash(),
        };
        let cpu = own
            .spread(super::results::Round::cpu_us)
            .map_or_else(dash, |spread| number(spread.median));
        line(
            &mut out,
            &[
                &row.durability,
                &row.load,
                &format!("{}{star}", kilo(own)),
                &best.map_or_else(dash, kilo),
                &ratio(Ratio::Throughput),
                &ratio(Ratio::Cpu),
                &ratio(Ratio::P99),
                &latency,
                &cpu,
                &memory(own),
                &best.map_or_else(dash, memory),
            ],
        );
    }
    out
}

fn footprints(section: &Section) -> String {
    let mut out = String::new();
    for row in &section.rows {
        for subject in &row.subjects {
            let Some(footprint) = &subject.footprint else {
                continue;
            };
            if out.is_empty() {
                out.push('\n');
                line(&mut out, &["memory for", "server", "number", "bytes each"]);
                line(&mut out, &["---"; 4]);
            }
            line(
                &mut out,
                &[
                    &format!("{} ({})", footprint.of, row.load),
                    &subject.name,
                    &footprint.count.to_string(),
                    &format!("{:.0}", footprint.bytes_each()),
                ],
            );
        }
    }
    out
}

/// What the generator reaches by itself and with a sink that answers everything at once, and how far that is above the
/// best peer and above Longtail.
fn ceilings(section: &Section, results: &Results) -> String {
    let mut out = String::new();
    let heads = [
        "load",
        "alone k/s",
        "sink k/s",
        "best peer k/s",
        "alone ahead",
        "sink ahead",
        "Longtail k/s",
        "alone ahead",
        "sink ahead",
    ];
    line(&mut out, &heads);
    line(&mut out, &vec!["---"; heads.len()]);
    let median = |subject: &Subject| Some(subject.throughput()?.median);
    for row in section.rows.iter().filter(|row| row.is_measured()) {
        let Some(sink) = row.own().and_then(median) else {
            continue;
        };
        let alone = row.peers().next().and_then(median);
        let compared: Vec<&Row> = results
            .sections
            .iter()
            .filter(|section| !section.is_ceiling)
            .flat_map(|section| &section.rows)
            .filter(|other| other.is_load_of(row))
            .collect();
        let peers = compared.iter().flat_map(|row| row.peers());
        let best = peers.filter_map(median).max_by(f64::total_cmp);
        let own = compared.iter().filter_map(|row| median(row.own()?));
        let own = own.max_by(f64::total_cmp);
        let thousands = |rate: Option<f64>| rate.map_or_else(dash, |rate| number(rate / 1000.0));
        let ahead = |ceiling: Option<f64>, of: Option<f64>| {
            ceiling
                .zip(of)
                .map_or_else(dash, |(ceiling, of)| format!("{}x", number(ceiling / of)))
        };
        let mut cells = vec![row.load.clone(), thousands(alone), thousands(Some(sink))];
        for rate in [best, own] {
            cells.extend([thousands(rate), ahead(alone, rate), ahead(Some(sink), rate)]);
        }
        line(
            &mut out,
            &cells.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    out
}

fn curve(section: &Section, over: &str) -> String {
    let mut out = String::new();
    let names = section
        .rows
        .first()
        .map(|row| row.subjects.iter().map(|subject| subject.name.as_str()));
    let names: Vec<&str> = names.into_iter().flatten().collect();
    let mut heads = vec![over.to_owned(), "load".to_owned()];
    for name in &names {
        heads.extend(["k/s", "CPU us", "p99 us", "MiB"].map(|head| format!("{name} {head}")));
    }
    line(
        &mut out,
        &heads.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    line(&mut out, &vec!["---"; heads.len()]);
    for row in section.rows.iter().filter(|row| row.is_measured()) {
        let mut cells = vec![
            row.at.map_or_else(dash, |at| at.to_string()),
            row.load.clone(),
        ];
        for name in &names {
            let Some(subject) = row.subjects.iter().find(|subject| subject.name == *name) else {
                cells.extend((0..4).map(|_| dash()));
                continue;
            };
            let median = |spread: Option<Spread>, scale: f64| {
                spread.map_or_else(dash, |spread| number(spread.median * scale))
            };
            cells.extend([
                median(subject.throughput(), 0.001),
                median(subject.spread(super::results::Round::cpu_us), 1.0),
                median(subject.spread(super::results::Round::p99_us), 1.0),
                memory(subject),
            ]);
        }
        line(
            &mut out,
            &cells.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    out
}

fn lifecycles(all: &[Lifecycle]) -> String {
    let mut out = String::new();
    let heads = [
        "protocol",
        "server",
        "start ms",
        "idle MiB",
        "of it its own",
        "stored",
        "MiB then",
        "start with those ms",
        "MiB after it",
    ];
    line(&mut out, &heads);
    line(&mut out, &["---"; 9]);
    let mib = |bytes: Option<u64>| bytes.map_or_else(dash, |bytes| number(mebibytes(bytes)));
    for server in all {
        line(
            &mut out,
            &[
                server.protocol,
                server.name,
                &number(server.start_ms),
                &mib(server.idle_bytes),
                &mib(server.idle_own_bytes),
                &server.kept.to_string(),
                &mib(server.filled_bytes),
                &number(server.recovery_ms),
                &mib(server.recovered_bytes),
            ],
        );
    }
    out.push_str(
        "\nEmpty: from the start of the process until a first question is answered. Memory is read after five seconds \
         alone; its own is what is no page of a program or a library. Filled with jobs, \
         retained or queued messages of 128 bytes; ended as each is said to survive (`SIGKILL`; Mosquitto and RabbitMQ \
         write when they end, so `SIGTERM`).\n",
    );
    out
}

/// How far the ratios are from those of another run.
fn agreed(agreement: &Agreement) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let mut out = format!(
        "Of {} ratios of throughput and processor time, half differ by at most {} from those of the run before this one, \
         nine of ten by at most {}; the ranges of {} have nothing in common.\n",
        agreement.compared,
        percent(agreement.half_within),
        percent(agreement.most_within),
        agreement.apart.len()
    );
    if !agreement.apart.is_empty() {
        out.push('\n');
        line(
            &mut out,
            &[
                "durability",
                "load",
                "ratio of",
                "this run",
                "the run before",
            ],
        );
        line(&mut out, &["---"; 5]);
    }
    for apart in &agreement.apart {
        let (now, earlier) = (shown(apart.now), shown(apart.earlier));
        line(
            &mut out,
            &[&apart.durability, &apart.load, apart.what, &now, &earlier],
        );
    }
    out
}

/// Whose acknowledgements promise less than their row says, and what failed.
fn remarks(results: &Results) -> Vec<String> {
    let mut all = Vec::new();
    for row in results.sections.iter().flat_map(|section| &section.rows) {
        for subject in &row.subjects {
            if let Some(shortfall) = &subject.shortfall {
                let remark = format!("{} with `{}`: {shortfall}", subject.name, row.durability);
                if !all.contains(&remark) {
                    all.push(remark);
                }
            }
        }
    }
    let failed = results.failures.iter();
    all.extend(failed.map(|failure| format!("failed: {failure}")));
    all
}

/// Which of several peers a ratio is to.
fn letter(peer: &Subject) -> String {
    let first = peer.name.chars().next();
    first.map(|first| format!(" {first}")).unwrap_or_default()
}

pub(super) fn shown(spread: Spread) -> String {
    format!(
        "**{}x** ({}-{})",
        number(spread.median),
        number(spread.low),
        number(spread.high)
    )
}

fn memory(subject: &Subject) -> String {
    let resident = subject.spread(|round| Some(round.server?.resident_bytes? as f64));
    resident.map_or_else(dash, |spread| number(mebibytes(spread.median as u64)))
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Three significant digits.
fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn line(out: &mut String, cells: &[&str]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::row;

    #[test]
    fn a_row_shows_medians_and_ranges() {
        let section = Section {
            name: "one",
            title: "One",
            over: None,
            is_ceiling: false,
            rows: vec![row(
                &[(2000.0, 5.0, 10.0), (4000.0, 5.0, 10.0)],
                &[(1000.0, 10.0, 30.0), (1000.0, 10.0, 30.0)],
            )],
        };
        let table = ratios(&section);
        let expected = "| memory | cycle, 16 connections, 64 B | 3.00 | 1.00 | **3.00x** (2.00-4.00) \
                        | **2.00x** (2.00-2.00) | **3.00x** (3.00-3.00) | 5/10 | 5.00 | 1.00 | 1.00 |";
        assert_eq!(table.lines().nth(2), Some(expected));
    }

    #[test]
    fn a_ceiling_is_shown_over_the_peer_and_over_longtail() {
        let section = |is_ceiling, row| Section {
            name: "one",
            title: "One",
            over: None,
            is_ceiling,
            rows: vec![row],
        };
        let compared = row(&[(4000.0, 5.0, 10.0)], &[(1000.0, 10.0, 30.0)]);
        let ceiling = row(&[(8000.0, 0.0, 10.0)], &[(80_000.0, 0.0, 30.0)]);
        let results = Results {
            sections: vec![section(false, compared)],
            ..Results::default()
        };
        let table = ceilings(&section(true, ceiling), &results);
        let expected = "| cycle, 16 connections, 64 B | 80.0 | 8.00 | 1.00 | 80.0x | 8.00x | 4.00 | 20.0x | 2.00x |";
        assert_eq!(table.lines().nth(2), Some(expected));
    }
}
