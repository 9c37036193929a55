//! The PROXY protocol on listeners that ask for it.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use longtail_edge::testing::LineEcho;
use longtail_edge::{Connection, Edge, Input, Out, Protocol, ProxyConfig, Refusal, RefusalCause};
use support::*;

/// Greets every peer by its address, then echoes.
struct Greeter;

impl Protocol for Greeter {
    type Session = ();

    fn name(&self) -> &'static str {
        "greeter"
    }

    fn open(self: &Arc<Self>, conn: &Arc<Connection<Self>>, out: &mut Out) -> Result<(), Refusal> {
        writeln!(out, "{}", conn.peer()).unwrap();
        Ok(())
    }

    fn input(&self, _session: &mut (), input: &[u8], out: &mut Out) -> Input {
        out.put(input);
        Input::read(input.len())
    }
}

fn behind_proxy(edge: &Edge) -> SocketAddr {
    let trusted = vec!["127.0.0.0/8".parse().unwrap()];
    listen_with(edge, Greeter, |config| {
        config.proxy = Some(ProxyConfig::new(trusted));
    })
}

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\x0a\0\0\x01\x1f\x90\0\x50";

#[test]
fn the_proxy_names_the_peer_and_the_rest_is_input() {
    let edge = start();
    let address = behind_proxy(&edge);
    let v1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80\r\n";
    for (header, greeting) in [
        (v1.as_slice(), "192.0.2.7:8080\n"),
        (V2, "192.0.2.9:8080\n"),
    ] {
        let together = [header, b"input"].concat();
        exchange(
            &mut connect(address),
            &together,
            format!("{greeting}input").as_bytes(),
        );
        let mut slow = connect(address);
        for byte in &together {
            slow.write_all(&[*byte]).unwrap();
        }
        expect(&mut slow, format!("{greeting}input").as_bytes());
    }
    let known = edge.connections();
    assert!(
        known
            .iter()
            .all(|connection| connection.peer.starts_with("192.0.2.")),
        "{known:?}"
    );
}

#[test]
fn a_connection_without_a_good_header_is_refused() {
    let edge = start();
    let address = behind_proxy(&edge);
    for bytes in [b"put 0 0 0 0\r\n\r\n".as_slice(), b"PROXY TCP4 x y z\r\n"] {
        let mut client = connect(address);
        client.write_all(bytes).unwrap();
        expect_cut(&mut client);
    }
    eventually("both are counted", || {
        edge.metrics()[0].refused.by(RefusalCause::Proxy) == 2
    });
}

#[test]
fn a_header_that_does_not_come_runs_into_the_timeout() {
    let edge = start();
    let address = listen_with(&edge, Greeter, |config| {
        config.proxy = Some(ProxyConfig::new(vec!["127.0.0.1".parse().unwrap()]));
        config.handshake_timeout_ms = 20;
    });
    let mut client = connect(address);
    // On a machine that stood still the time may be over before this.
    let _ = client.write_all(b"PROXY TC");
    expect_cut(&mut client);
    eventually("it is counted", || {
        edge.metrics()[0].refused.by(RefusalCause::HandshakeTimeout) == 1
    });
}

#[test]
fn a_stranger_may_not_pose_as_a_proxy() {
    let edge = start();
    let trusted = vec!["10.0.0.0/8".parse().unwrap()];
    let address = listen_with(&edge, Greeter, |config| {
        config.proxy = Some(ProxyConfig::new(trusted));
    });
    let mut client = connect(address);
    expect_cut(&mut client);
    eventually("it is counted", || {
        edge.metrics()[0].refused.by(RefusalCause::UntrustedProxy) == 1
    });
}

#[test]
fn the_limit_for_an_address_counts_the_one_the_proxy_names() {
    let edge = start();
    let address = listen_with(&edge, LineEcho, |config| {
        config.proxy = Some(ProxyConfig::new(vec!["127.0.0.1".parse().unwrap()]));
        config.connections_per_ip_max = Some(1);
    });
    let from = |ip: &str| {
        let mut client = connect(address);
        client
            .write_all(format!("PROXY TCP4 {ip} 10.0.0.1 1 1\r\nx\n").as_bytes())
            .unwrap();
        client
    };
    let mut first = from("192.0.2.1");
    expect(&mut first, b"x\n");
    expect(&mut from("192.0.2.2"), b"x\n");
    expect_cut(&mut from("192.0.2.1"));
    assert_eq!(edge.metrics()[0].refused.by(RefusalCause::AddressFull), 1);
    drop(first);
    eventually("the place is free again", || {
        use std::io::Read;
        from("192.0.2.1").read_exact(&mut [0; 2]).is_ok()
    });
}
