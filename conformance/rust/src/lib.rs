//! Runs the cases of a Rust client one after the other and reports as `conformance/harness/suite.py` does.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a case returns.
pub type Outcome = Result<(), Box<dyn Error>>;

/// A case: its name, the commands it covers, and what it does with the server's address.
pub type Case = (&'static str, &'static str, fn(SocketAddr) -> Outcome);

/// Fails the case unless both are equal.
///
/// # Errors
/// When they are not.
pub fn equal<T: PartialEq + std::fmt::Debug>(actual: T, expected: T) -> Outcome {
    if actual == expected {
        Ok(())
    } else {
        Err(format!("expected {expected:?}, got {actual:?}").into())
    }
}

/// A name that no other case uses.
#[must_use]
pub fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!(
        "rust-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    )
}

/// For protocols whose names are those of tubes.
#[must_use]
pub fn tube() -> String {
    unique()
}

/// Runs the cases against the server that `--target` names.
#[must_use]
pub fn run(cases: &[Case]) -> ExitCode {
    let mut arguments = std::env::args();
    let target = arguments
        .by_ref()
        .find(|word| word == "--target")
        .and_then(|_| arguments.next());
    let Some(Ok(address)) = target.map(|text| text.parse()) else {
        eprintln!("--target host:port is missing");
        return ExitCode::FAILURE;
    };
    let mut failed = 0;
    for (name, _, case) in cases {
        match case(address) {
            Ok(()) => println!("ok {name}"),
            Err(error) => {
                failed += 1;
                println!("FAIL {name}: {error}");
            }
        }
    }
    println!("{} passed, {failed} failed", cases.len() - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
