//! Metrics as Prometheus reads them, under other brokers' names.

use std::fmt::Write as _;

/// What a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
}

/// A page of metrics.
#[derive(Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// Adds a family with one series, or with several that differ in labels, which are written as they are.
    pub(super) fn add(&mut self, name: &str, kind: Kind, help: &str, labels: &str, value: u64) {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self.more(name, labels, value);
    }

    /// One more series of the family before.
    pub(super) fn more(&mut self, name: &str, labels: &str, value: u64) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    pub(super) fn text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_once() {
        let mut page = Exposition::default();
        page.add("a_total", Kind::Counter, "All.", "", 1);
        page.add("b", Kind::Gauge, "Some.", "x=\"1\"", 2);
        page.more("b", "x=\"2\"", 3);
        let expected = "# HELP a_total All.\n# TYPE a_total counter\na_total 1\n# HELP b Some.\n# TYPE b gauge\nb{x=\"1\"} 2\nb{x=\"2\"} 3\n";
        assert_eq!(page.text(), expected);
    }
}
