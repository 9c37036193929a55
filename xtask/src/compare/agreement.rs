//! Whether a run agrees with the one before it on the same machine: a figure that cannot be had twice is not worth
//! quoting.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::results::{Ratio, Results, Row, Spread};

/// The results of another run, as far as they are compared.
#[derive(Debug, Deserialize)]
pub(super) struct Earlier {
    conditions: BTreeMap<String, String>,
    sections: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    name: String,
    rows: Vec<Row>,
}

/// How far two runs are from each other.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Agreement {
    /// Ratios that both runs have.
    pub(super) compared: usize,
    /// By what half of the medians differ at most: 0.1 is ten per cent.
    pub(super) half_within: f64,
    /// By what nine of ten do.
    pub(super) most_within: f64,
    /// Those whose ranges have nothing in common.
    pub(super) apart: Vec<Apart>,
}

/// A ratio that the runs do not agree about.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Apart {
    pub(super) load: String,
    pub(super) durability: String,
    pub(super) what: &'static str,
    pub(super) now: Spread,
    pub(super) earlier: Spread,
}

/// What is compared of a row.
const RATIOS: [(&str, Ratio); 2] = [("throughput", Ratio::Throughput), ("CPU", Ratio::Cpu)];

impl Earlier {
    /// What the last run left in a directory of reports; none if nothing readable is there.
    pub(super) fn read(out: &Path) -> Option<Earlier> {
        let text = std::fs::read(out.join("results.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The same load in the same section.
    fn row_of(&self, section: &str, row: &Row) -> Option<&Row> {
        let part = self.sections.iter().find(|part| part.name == section)?;
        part.rows.iter().find(|other| other.is_load_of(row))
    }
}

impl Agreement {
    /// None when the runs have nothing in common, or were not made on one kind of machine.
    pub(super) fn between(now: &Results, earlier: &Earlier) -> Option<Agreement> {
        let of_machine = |conditions: &BTreeMap<String, String>| {
            ["processors", "TCP congestion control"].map(|name| conditions.get(name).cloned())
        };
        if of_machine(&now.conditions) != of_machine(&earlier.conditions) {
            return None;
        }
        let tables = now.sections.iter().filter(|section| section.is_table());
        let rows = tables.flat_map(|section| section.rows.iter().map(|row| (section.name, row)));
        let both = rows.filter_map(|(name, row)| Some((row, earlier.row_of(name, row)?)));
        let mut differences = Vec::new();
        let mut apart = Vec::new();
        for ((row, other), (what, ratio)) in both.flat_map(|both| RATIOS.map(|ratio| (both, ratio)))
        {
            let (Some((_, now)), Some((_, earlier))) = (row.to_best(ratio), other.to_best(ratio))
            else {
                continue;
            };
            differences.push(difference(now.median, earlier.median));
            if now.low > earlier.high || earlier.low > now.high {
                apart.push(Apart {
                    load: row.load.clone(),
                    durability: row.durability.clone(),
                    what,
                    now,
                    earlier,
                });
            }
        }
        differences.sort_by(f64::total_cmp);
        Some(Agreement {
            compared: differences.len(),
            half_within: *differences.get(differences.len() / 2)?,
            most_within: *differences.get(differences.len() * 9 / 10)?,
            apart,
        })
    }
}

/// How much larger the larger one is.
fn difference(one: f64, other: f64) -> f64 {
    one.max(other) / one.min(other) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::Section;
    use crate::compare::results::tests::row;

    fn results(own: f64) -> Results {
        let rounds = [(own, 1.0, 1.0), (own * 1.1, 1.0, 1.0)];
        let section = Section {
            name: "one",
            title: "One",
            over: None,
            is_ceiling: false,
            rows: vec![row(&rounds, &[(100.0, 2.0, 1.0), (100.0, 2.0, 1.0)])],
        };
        Results {
            sections: vec![section],
            ..Results::default()
        }
    }

    fn agreement(now: f64, before: f64) -> Option<Agreement> {
        let text = serde_json::to_vec(&results(before)).expect("JSON");
        let earlier: Earlier = serde_json::from_slice(&text).expect("what was written");
        Agreement::between(&results(now), &earlier)
    }

    #[test]
    fn ranges_that_overlap_agree() {
        let found = agreement(205.0, 200.0).expect("the same load");
        assert_eq!((found.compared, found.apart), (2, vec![]));
        assert!(found.most_within < 0.03, "{}", found.most_within);
    }

    #[test]
    fn ranges_that_do_not_are_named() {
        let found = agreement(400.0, 200.0).expect("the same load");
        let [apart] = found.apart.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(
            (apart.what, apart.now.low, apart.earlier.high),
            ("throughput", 4.0, 2.2)
        );
    }
}
