//! The beanstalkc crate drives every command it offers.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use beanstalkc::Beanstalkc;
use longtail_conformance::{Case, Outcome, equal, run, tube};

const TTR: Duration = Duration::from_secs(60);
const NONE: Duration = Duration::ZERO;

const CASES: &[Case] = &[
    (
        "put_reserve_delete",
        "put reserve delete",
        put_reserve_delete,
    ),
    (
        "life_of_a_job",
        "release bury touch kick kick-job stats-job",
        life_of_a_job,
    ),
    ("peeks", "peek peek-ready peek-delayed peek-buried", peeks),
    (
        "tubes",
        "use watch ignore list-tubes list-tube-used list-tubes-watched",
        tubes,
    ),
    ("statistics", "stats stats-tube", statistics),
    ("pause", "pause-tube reserve-with-timeout", pause),
];

fn main() -> ExitCode {
    run(CASES)
}

/// A client that uses and watches one fresh tube.
fn connect(address: SocketAddr) -> Result<(Beanstalkc, String), Box<dyn std::error::Error>> {
    let mut client = Beanstalkc::new()
        .host(&address.ip().to_string())
        .port(address.port())
        .connect()?;
    let name = tube();
    equal(client.use_tube(&name)?, name.clone())?;
    equal(client.watch(&name)?, 2)?;
    equal(client.ignore("default")?, 1)?;
    Ok((client, name))
}

fn put_reserve_delete(address: SocketAddr) -> Outcome {
    let (mut client, _) = connect(address)?;
    for body in [&b"hello"[..], b"", b"\r\n\0\xff", &[b'x'; 65535]] {
        let id = client.put(body, 0, NONE, TTR)?;
        let mut job = client.reserve()?;
        equal(
            (job.id(), job.body().len(), job.body() == body),
            (id, body.len(), true),
        )?;
        job.delete()?;
        equal(client.delete(id).is_err(), true)?;
    }
    Ok(())
}

fn life_of_a_job(address: SocketAddr) -> Outcome {
    let (mut client, _) = connect(address)?;
    let id = client.put(b"x", 9, NONE, TTR)?;
    let mut job = client.reserve()?;
    job.touch()?;
    job.release(3, Duration::from_secs(100))?;
    let row = client.stats_job(id)?;
    equal(
        (
            row["state"].as_str(),
            row["pri"].as_str(),
            row["delay"].as_str(),
        ),
        ("delayed", "3", "100"),
    )?;
    client.kick_job(id)?;
    client.reserve()?.bury(4)?;
    let row = client.stats_job(id)?;
    equal(
        (
            row["state"].as_str(),
            row["pri"].as_str(),
            row["buries"].as_str(),
        ),
        ("buried", "4", "1"),
    )?;
    equal(client.kick(10)?, 1)?;
    equal(client.kick(10)?, 0)
}

fn peeks(address: SocketAddr) -> Outcome {
    let (mut client, _) = connect(address)?;
    equal(client.peek_ready().is_err(), true)?;
    let buried = client.put(b"b", 0, NONE, TTR)?;
    client.reserve()?.bury(0)?;
    let delayed = client.put(b"d", 0, Duration::from_secs(100), TTR)?;
    let ready = client.put(b"r", 0, NONE, TTR)?;
    equal(client.peek_ready()?.id(), ready)?;
    equal(client.peek_delayed()?.id(), delayed)?;
    equal(client.peek_buried()?.id(), buried)?;
    equal(client.peek(delayed)?.body(), b"d")
}

fn tubes(address: SocketAddr) -> Outcome {
    let (mut client, name) = connect(address)?;
    equal(client.using()?, name.clone())?;
    equal(client.watching()?, vec![name.clone()])?;
    equal(client.tubes()?.contains(&name), true)?;
    equal(client.ignore(&name).is_err(), true)
}

fn statistics(address: SocketAddr) -> Outcome {
    let (mut client, name) = connect(address)?;
    client.put(b"x", 0, NONE, TTR)?;
    let row = client.stats_tube(&name)?;
    equal(
        (row["name"].as_str(), row["current-jobs-ready"].as_str()),
        (name.as_str(), "1"),
    )?;
    let row = client.stats()?;
    row["total-jobs"].parse::<u64>()?;
    row["pid"].parse::<u32>()?;
    equal(client.stats_tube(&tube()).is_err(), true)
}

fn pause(address: SocketAddr) -> Outcome {
    let (mut client, name) = connect(address)?;
    client.put(b"x", 0, NONE, TTR)?;
    client.pause_tube(&name, Duration::from_secs(100))?;
    equal(client.reserve_with_timeout(NONE).is_err(), true)?;
    client.pause_tube(&name, NONE)?;
    let job = client.reserve_with_timeout(Duration::from_secs(5))?;
    equal(job.body(), b"x")
}
