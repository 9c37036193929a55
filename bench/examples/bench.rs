//! `longtail bench` as a program of its own.

use clap::Parser;
use longtail_bench::BenchArgs;

/// Load generator for messaging protocols.
#[derive(Parser)]
struct Program {
    #[command(flatten)]
    bench: BenchArgs,
}

fn main() -> anyhow::Result<()> {
    longtail_bench::run(Program::parse().bench)
}
