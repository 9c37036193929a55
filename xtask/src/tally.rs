//! Counting results: what a step of the test run hands back.

use std::fmt;
use std::ops::AddAssign;

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) const PASS: Tally = Tally {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub(crate) const FAIL: Tally = Tally {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    pub(crate) const SKIP: Tally = Tally {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// One result.
    pub(crate) fn of(ok: bool) -> Tally {
        if ok { Tally::PASS } else { Tally::FAIL }
    }

    /// Announces on standard output that something cannot run here, and counts it.
    pub(crate) fn skip(what: &str, why: &str) -> Tally {
        println!("SKIPPED {what}: {why}");
        Tally::SKIP
    }

    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`, which libtest prints for every binary.
    pub(crate) fn of_libtest(line: &str) -> Option<Tally> {
        let rest = line.trim_start().strip_prefix("test result: ")?;
        let counts = rest.split_once(". ")?.1;
        let mut tally = Tally::default();
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let (Some(count), Some(word)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(count) = count.parse() else { continue };
            match word {
                "passed" => tally.passed = count,
                "failed" => tally.failed = count,
                "ignored" => tally.skipped = count,
                _ => {}
            }
        }
        Some(tally)
    }

    /// Reads `3 passed, 0 failed, 1 skipped`, which every conformance suite prints last.
    pub(crate) fn of_suite(line: &str) -> Option<Tally> {
        let mut tally = Tally::default();
        let mut seen = 0;
        for part in line.trim().split(", ") {
            let (count, word) = part.split_once(' ')?;
            let count = count.parse().ok()?;
            match word {
                "passed" => tally.passed = count,
                "failed" => tally.failed = count,
                "skipped" => tally.skipped = count,
                _ => return None,
            }
            seen += 1;
        }
        (seen >= 2).then_some(tally)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn reads_libtest() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s";
        assert_eq!(
            Tally::of_libtest(line),
            Some(Tally {
                passed: 12,
                failed: 3,
                skipped: 1
            })
        );
        assert_eq!(Tally::of_libtest("test a ... ok"), None);
    }

    #[test]
    fn reads_its_own_display() {
        for tally in [
            Tally::PASS,
            Tally {
                passed: 5,
                failed: 2,
                skipped: 9,
            },
        ] {
            assert_eq!(Tally::of_suite(&tally.to_string()), Some(tally));
        }
        assert_eq!(Tally::of_suite("ok a_case"), None);
        assert_eq!(Tally::of_suite("3 passed"), None);
    }
}
