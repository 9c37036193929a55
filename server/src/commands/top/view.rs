//! Two samples compared.

use std::collections::HashMap;
use std::time::Duration;

use longtail_admin::shapes::{Status, StreamCounts, StreamStatus};
use serde_json::{Value, json};

use super::super::table::{Align, bytes, printable, span};

/// What the server said.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When, since any fixed moment.
    pub(super) at: Duration,
    pub(super) status: Status,
    pub(super) streams: Vec<StreamStatus>,
}

/// Titles of a row's cells.
pub(super) const COLUMNS: &[(&str, Align)] = &[
    ("STREAM", Align::Left),
    ("IN/S", Align::Right),
    ("OUT/S", Align::Right),
    ("READY", Align::Right),
    ("HELD", Align::Right),
    ("DELAYED", Align::Right),
    ("SIZE", Align::Right),
    ("WAITING", Align::Right),
];

/// One stream.
#[derive(Clone, Debug)]
pub(super) struct RowView {
    /// In the order of [`COLUMNS`].
    pub(super) cells: Vec<String>,
    name: String,
    rates: Rates,
    depth: u64,
}

/// Messages a second.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    appended: f64,
    removed: f64,
}

impl Rates {
    /// Counters that went backwards belong to a server that was restarted in between: no rate then.
    fn between(before: &StreamCounts, after: &StreamCounts, seconds: f64) -> Self {
        let rate = |before: u64, after: u64| match after.checked_sub(before) {
            Some(more) if seconds > 0.0 => more as f64 / seconds,
            _ => 0.0,
        };
        Rates {
            appended: rate(before.appended_total, after.appended_total),
            removed: rate(before.removed_total, after.removed_total),
        }
    }
}

/// What is shown.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Lines above the table.
    pub(super) summary: Vec<String>,
    /// Busiest stream first, then the deepest.
    pub(super) rows: Vec<RowView>,
    totals: Rates,
}

impl View {
    pub(super) fn new(before: &Sample, after: &Sample) -> Self {
        let seconds = after.at.saturating_sub(before.at).as_secs_f64();
        let known: HashMap<(&str, &str), &StreamCounts> = before
            .streams
            .iter()
            .map(|stream| ((stream.space.as_str(), stream.name.as_str()), &stream.counts))
            .collect();
        let mut rows: Vec<RowView> = after
            .streams
            .iter()
            .map(|stream| {
                // A stream that is new has no past; its whole count would look like a burst.
                let before = known.get(&(stream.space.as_str(), stream.name.as_str())).copied();
                let rates = Rates::between(before.unwrap_or(&stream.counts), &stream.counts, seconds);
                row(stream, rates)
            })
            .collect();
        rows.sort_by(|a, b| {
            let busy = |row: &RowView| row.rates.appended + row.rates.removed;
            busy(b).total_cmp(&busy(a)).then(b.depth.cmp(&a.depth)).then_with(|| a.name.cmp(&b.name))
        });
        let totals = Rates::between(&before.status.totals, &after.status.totals, seconds);
        View { summary: summary(&after.status, totals), rows, totals }
    }

    /// For scripts.
    pub(super) fn to_json(&self) -> Value {
        let streams: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "stream": row.name,
                    "appended_per_second": row.rates.appended,
                    "removed_per_second": row.rates.removed,
                    "messages": row.depth,
                })
            })
            .collect();
        json!({
            "appended_per_second": self.totals.appended,
            "removed_per_second": self.totals.removed,
            "streams": streams,
        })
    }
}

fn row(stream: &StreamStatus, rates: Rates) -> RowView {
    let counts = &stream.counts;
    let name = printable(&format!("{}/{}", stream.space, stream.name));
    let cells = vec![
        name.clone(),
        format!("{:.0}", rates.appended),
        format!("{:.0}", rates.removed),
        counts.ready.to_string(),
        counts.held.to_string(),
        counts.delayed.to_string(),
        bytes(counts.bytes),
        counts.waiting.to_string(),
    ];
    RowView { cells, name, rates, depth: counts.messages }
}

fn summary(status: &Status, totals: Rates) -> Vec<String> {
    let health = if status.health.ready {
        "ready".to_owned()
    } else {
        format!("NOT READY: {}", status.health.reasons.join("; "))
    };
    let memory = status.resident_bytes.map(|resident| format!(", memory {}", bytes(resident))).unwrap_or_default();
    let mut lines = vec![
        format!(
            "longtail {}, up {}, {} durability, {health}{memory}",
            status.version,
            span(status.uptime_ms),
            status.durability
        ),
        format!(
            "{:.0} in/s, {:.0} out/s, {} messages ({}), {} connections, {} streams",
            totals.appended,
            totals.removed,
            status.totals.messages,
            bytes(status.totals.bytes),
            status.connections,
            status.streams
        ),
    ];
    for latency in &status.latencies {
        lines.push(format!(
            "{}: p50 {} us, p99 {} us, max {} us",
            latency.operation, latency.p50_us, latency.p99_us, latency.max_us
        ));
    }
    lines.iter().map(|line| printable(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: u64, streams: &[(&str, u64)]) -> Sample {
        let streams = streams
            .iter()
            .map(|(name, appended_total)| StreamStatus {
                name: (*name).to_owned(),
                counts: StreamCounts { appended_total: *appended_total, ..StreamCounts::default() },
                ..StreamStatus::default()
            })
            .collect();
        Sample { at: Duration::from_secs(seconds), status: Status::default(), streams }
    }

    fn rates(view: &View) -> Vec<(&str, f64)> {
        view.rows.iter().map(|row| (row.name.as_str(), row.rates.appended)).collect()
    }

    #[test]
    fn the_busiest_come_first() {
        let view = View::new(&sample(0, &[("a", 0), ("b", 0)]), &sample(2, &[("a", 10), ("b", 100)]));
        assert_eq!(rates(&view), [("/b", 50.0), ("/a", 5.0)]);
    }

    #[test]
    fn restarts_and_new_streams_are_no_bursts() {
        let view = View::new(&sample(0, &[("a", 1000)]), &sample(1, &[("a", 10), ("new", 5000)]));
        assert_eq!(rates(&view), [("/a", 0.0), ("/new", 0.0)]);
        let now = sample(1, &[("a", 1)]);
        assert_eq!(rates(&View::new(&now, &now)), [("/a", 0.0)], "no time, no rate");
    }
}
