//! What failed, by name: gathered while a run prints its hundreds of lines, and listed again at its end, where a person
//! (or a log that keeps only the end) looks first.

use std::sync::{Mutex, PoisonError};

/// How much of a line is kept: the reason of a failure can be a whole reply.
const LONGEST: usize = 400;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Prints one result, and keeps it when it is a failure.
pub(crate) fn say(line: &str) {
    println!("{line}");
    observe(line);
}

/// Keeps a line that someone else has printed, when it is a failure: a case of a suite (`FAIL name: why`), a test of
/// libtest (`test name ... FAILED`).
pub(crate) fn observe(line: &str) {
    if is_failure(line) {
        let kept = line.chars().take(LONGEST).collect();
        LINES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(kept);
    }
}

/// All that was kept, in order; it is forgotten.
pub(crate) fn take() -> Vec<String> {
    std::mem::take(&mut LINES.lock().unwrap_or_else(PoisonError::into_inner))
}

fn is_failure(line: &str) -> bool {
    line.starts_with("FAIL") || (line.starts_with("test ") && line.ends_with(" ... FAILED"))
}

#[cfg(test)]
mod tests {
    use super::is_failure;

    #[test]
    fn a_failure_is_known_by_its_line() {
        assert!(is_failure("FAIL a_case: it did not"));
        assert!(is_failure("FAILED clippy: cannot run cargo"));
        assert!(is_failure("test engine::tests::one ... FAILED"));
        assert!(!is_failure("ok a_case"));
        assert!(!is_failure(
            "test result: FAILED. 12 passed; 3 failed; 1 ignored"
        ));
    }
}
