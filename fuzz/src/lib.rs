//! What a fuzz target needs: [`fuzz_target!`], which under cargo-fuzz is libFuzzer's, and otherwise gives the target a
//! `main` with the engine of this crate.
//!
//! The engine runs on a stable toolchain and needs no C++: the compiler's coverage pass counts the edges that an input
//! takes (`coverage`), inputs that take new ones are kept, and new inputs are made from those (`mutate`). Panics, and
//! inputs that take too long, end the run with a file that reproduces them.

#[cfg(fuzzing)]
pub use libfuzzer_sys::fuzz_target;

#[cfg(not(fuzzing))]
mod coverage;
#[cfg(not(fuzzing))]
mod engine;
#[cfg(not(fuzzing))]
mod mutate;

#[cfg(not(fuzzing))]
pub use engine::main;

/// Defines a fuzz target: `fuzz_target!(|data: &[u8]| decode(data));`
#[cfg(not(fuzzing))]
#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:expr) => {
        fn main() -> std::process::ExitCode {
            $crate::main(|$data: &[u8]| $body)
        }
    };
}
