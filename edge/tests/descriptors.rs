//! Running out of file descriptors; alone in its process, because the limit is the process's.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::net::TcpStream;

use longtail_edge::testing::LineEcho;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::*;

#[test]
fn without_descriptors_the_edge_waits_and_then_serves_everybody() {
    let edge = start();
    let address = listen(&edge, LineEcho);
    exchange(&mut connect(address), b"x\n", b"x\n");
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = Rlimit {
        current: Some(open + 20),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect(address) {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        clients.push(client);
    }
    eventually("accepting fails", || edge.metrics()[0].accept_errors > 0);
    // The last ones are certainly still in the backlog.
    let mut waiting = clients.split_off(clients.len() - 3);
    drop(clients);
    for client in &mut waiting {
        exchange(client, b"here\n", b"here\n");
    }
}
