//! `cargo xtask profile`: where a server's time goes under a load, as a flame graph.
//!
//! The server is built once more, with frame pointers and its names, into a directory of its own; `longtail bench` is the
//! load, `perf` looks at the server while it runs, and the graph is an SVG with the figures of the load beside it.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use inferno::collapse::Collapse as _;
use inferno::collapse::perf::Folder;
use inferno::flamegraph;

use crate::server::{Server, ServerCommand};
use crate::{debian, process, workspace};

/// Samples a second: a prime, so that nothing periodic is always or never met.
const FREQUENCY: &str = "997";
/// The load's time before and after `perf` looks.
const MARGIN: Duration = Duration::from_secs(1);

/// What to look at.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The protocol, as `longtail bench` calls it.
    pub(crate) protocol: String,
    pub(crate) durability: String,
    /// How long.
    pub(crate) seconds: u64,
    /// Where the graph goes.
    pub(crate) out: Option<PathBuf>,
    /// A server that was built with frame pointers; none: one is built.
    pub(crate) program: Option<PathBuf>,
    /// The load, as flags of `longtail bench`.
    pub(crate) load: Vec<String>,
}

/// Makes the graph; where it is.
///
/// # Errors
/// When something is missing, cannot be built or does not run.
pub(crate) fn run(settings: &Settings) -> Result<PathBuf> {
    if let Err(why) = debian::program("perf", "linux-perf")? {
        bail!("{why}");
    }
    let program = match &settings.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let home = tempfile::tempdir()?;
    let line = format!(
        "{} serve --data {{data}} --listen {}=127.0.0.1:{{port}} --only --durability {}",
        program.display(),
        settings.protocol,
        settings.durability
    );
    let server = Server::start(&ServerCommand::parse(&line)?, home.path())?;
    let looked = Duration::from_secs(settings.seconds);
    let mut load = process::command(&program, &["bench", &settings.protocol]);
    load.args(["--target", &server.address().to_string(), "--rounds", "1"])
        .args(["--pid", &server.pid().to_string()])
        .args(["--warm-up", "0s", "--durability", &settings.durability])
        .args([
            "--duration",
            &format!("{}s", (looked + 2 * MARGIN).as_secs()),
        ])
        .args(&settings.load)
        .stdout(Stdio::piped());
    let load = load.spawn().context("the load cannot be started")?;
    thread::sleep(MARGIN);
    let samples = home.path().join("perf.data");
    let record = record(server.pid(), settings.seconds, &samples);
    let load = load.wait_with_output()?;
    if !load.status.success() {
        bail!("the load failed ({})", load.status);
    }
    record?;
    print!("{}", String::from_utf8_lossy(&load.stdout));
    let title = format!(
        "longtail bench {} {} ({})",
        settings.protocol,
        settings.load.join(" "),
        settings.durability
    );
    let out = settings.out.clone().unwrap_or_else(|| {
        let directory = workspace::target().join("profile");
        directory.join(format!("{}.svg", settings.protocol))
    });
    draw(&samples, home.path(), title, &out)?;
    Ok(out)
}

/// The server with what `perf` needs; link-time optimisation would take minutes and fold functions together.
fn build() -> Result<PathBuf> {
    let directory = workspace::target().join("profile");
    let build = ["build", "--release", "--package", "longtail-server"];
    let mut build = process::cargo(&build);
    build
        .env("CARGO_TARGET_DIR", &directory)
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
        .env("RUSTFLAGS", "-C force-frame-pointers=yes");
    if !process::run(&mut build)? {
        bail!("the server cannot be built");
    }
    Ok(directory.join("release").join("longtail"))
}

fn record(pid: u32, seconds: u64, samples: &Path) -> Result<()> {
    let mut perf = process::command("perf", &["record", "--freq", FREQUENCY, "-g", "--output"]);
    perf.arg(samples)
        .args(["--pid", &pid.to_string(), "--", "sleep"])
        .arg(seconds.to_string());
    if !process::run(&mut perf)? {
        bail!("perf cannot look at another process here: see /proc/sys/kernel/perf_event_paranoid");
    }
    Ok(())
}

fn draw(samples: &Path, home: &Path, title: String, out: &Path) -> Result<()> {
    let (script, folded) = (home.join("script"), home.join("folded"));
    let mut perf = process::command("perf", &["script", "--no-inline", "--input"]);
    perf.arg(samples).stdout(File::create(&script)?);
    if !process::run(&mut perf)? {
        bail!("perf cannot read what it recorded");
    }
    Folder::default()
        .collapse(
            BufReader::new(File::open(&script)?),
            BufWriter::new(File::create(&folded)?),
        )
        .context("folding the samples")?;
    if let Some(directory) = out.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut options = flamegraph::Options::default();
    options.title = title;
    // Thinner than a pixel or two: so that a graph is small enough to be kept.
    options.min_width = 0.1;
    flamegraph::from_reader(
        &mut options,
        BufReader::new(File::open(&folded)?),
        BufWriter::new(File::create(out).with_context(|| format!("writing {}", out.display()))?),
    )
    .context("drawing the graph")
}
