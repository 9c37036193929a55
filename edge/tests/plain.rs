//! Plain TCP and Unix sockets: bytes in, bytes out, in order, whatever way they arrive.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use longtail_edge::testing::LineEcho;
use longtail_edge::{Address, ListenError, ListenerConfig};
use support::*;

#[test]
fn a_line_comes_back_and_quit_ends_the_conversation() {
    let edge = start();
    let mut client = connect(listen(&edge, LineEcho));
    exchange(&mut client, b"hello\n", b"hello\n");
    exchange(&mut client, b"a\nb\nquit\n", b"a\nb\n");
    expect_end(&mut client);
    drop(client);
    eventually("the connection is gone", || edge.connections().is_empty());
    let metrics = &edge.metrics()[0];
    assert_eq!(
        (metrics.accepted, metrics.bytes_in, metrics.bytes_out),
        (1, 15, 10)
    );
    eventually("its slot is free", || edge.metrics()[0].open == 0);
}

#[test]
fn ten_thousand_pipelined_requests_are_answered_byte_for_byte() {
    let edge = start();
    let address = listen(&edge, LineEcho);
    let lines: Vec<u8> = (0..10_000)
        .flat_map(|n| format!("request {n} {}\n", "x".repeat(n % 97)).into_bytes())
        .collect();
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let lines = lines.clone();
            std::thread::spawn(move || {
                let mut client = connect(address);
                let mut writer = client.try_clone().unwrap();
                let sent = lines.clone();
                let sender = std::thread::spawn(move || writer.write_all(&sent).unwrap());
                let mut got = vec![0; lines.len()];
                client.read_exact(&mut got).unwrap();
                sender.join().unwrap();
                assert!(got == lines);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn a_line_may_arrive_byte_by_byte() {
    let edge = start();
    let mut client = connect(listen(&edge, LineEcho));
    for byte in b"first\nsec" {
        client.write_all(&[*byte]).unwrap();
    }
    expect(&mut client, b"first\n");
    exchange(&mut client, b"ond\n", b"second\n");
}

#[test]
fn a_line_may_be_larger_than_any_buffer() {
    let edge = start();
    let mut client = connect(listen(&edge, LineEcho));
    let mut line = vec![b'x'; 3_000_000];
    line.push(b'\n');
    let mut writer = client.try_clone().unwrap();
    let sent = line.clone();
    let sender = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut got = vec![0; line.len()];
    client.read_exact(&mut got).unwrap();
    sender.join().unwrap();
    assert!(got == line);
    eventually("nothing is held any more", || edge.held_bytes() == 0);
}

#[test]
fn a_peer_that_stops_sending_still_gets_its_answers() {
    let edge = start();
    let mut client = connect(listen(&edge, LineEcho));
    client.write_all(b"one\ntwo\nunfinished").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    expect(&mut client, b"one\ntwo\n");
    expect_end(&mut client);
}

#[test]
fn a_unix_socket_serves_and_its_file_goes_with_the_edge() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("echo.sock");
    let config = || ListenerConfig::new(Address::Unix(path.clone()));
    let edge = start();
    let grouped = ListenerConfig {
        unix_mode: Some(0o620),
        ..config()
    };
    edge.listen(grouped, Arc::new(LineEcho)).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o620
    );
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(&mut client, b"over unix\n", b"over unix\n");
    let taken = edge.listen(config(), Arc::new(LineEcho)).unwrap_err();
    assert!(matches!(taken, ListenError::Bind { .. }), "{taken}");
    drop(edge);
    assert!(!path.exists());
}

#[test]
fn a_stale_unix_socket_is_replaced_and_any_other_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let edge = start();
    edge.listen(
        ListenerConfig::new(Address::Unix(path.clone())),
        Arc::new(LineEcho),
    )
    .unwrap();
    exchange(&mut UnixStream::connect(&path).unwrap(), b"x\n", b"x\n");

    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "keep me").unwrap();
    let error = edge
        .listen(
            ListenerConfig::new(Address::Unix(file.clone())),
            Arc::new(LineEcho),
        )
        .unwrap_err();
    assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "keep me");
}
