//! Whole loads over loopback sockets: against the null sink, and against servers that misbehave.

use std::io::Write;
use std::net::TcpListener;

use super::*;
use crate::driver::tests::read_to;
use crate::load::Role;
use crate::null::NullSink;
use crate::protocol::beanstalk::Beanstalk;

fn load(roles: Vec<Role>, depth: u32, stop: Stop) -> Load {
    Load {
        roles,
        depth,
        body_bytes: 64,
        stop,
        rate: None,
        threads: 2,
        window: 16,
        queues: 1,
        queue_prefix: "test".to_owned(),
    }
}

fn against_sink(load: &Load) -> Measured {
    let protocol = Beanstalk::default();
    let sink = NullSink::start(&protocol, load.body_bytes, None).expect("a sink");
    let target = Target {
        address: sink.address,
        probe: Some(sink.probe.clone()),
    };
    super::run(&protocol, &target, load, None, &mut Progress::new()).expect("a run")
}

fn samples(measured: &Measured) -> Vec<(&str, u64)> {
    measured
        .operations
        .iter()
        .map(|operation| (operation.name.as_str(), operation.latency.samples))
        .collect()
}

#[test]
fn a_counted_cycle_sends_exactly_its_commands() {
    let measured = against_sink(&load(vec![Role::Cycle; 3], 4, Stop::Count(50)));
    assert_eq!(measured.commands, 150);
    assert_eq!(
        samples(&measured),
        [("put", 50), ("reserve", 50), ("delete", 50)]
    );
    assert!(measured.refusals.is_empty());
    assert!(measured.commands_per_second > 0.0);
    let all = measured.latency.expect("samples");
    assert!(all.p50_us > 0.0 && all.p50_us <= all.max_us);
}

#[test]
fn bodies_larger_than_a_read_pass() {
    let load = Load {
        body_bytes: 600_000,
        ..load(vec![Role::Cycle; 2], 3, Stop::Count(6))
    };
    assert_eq!(
        samples(&against_sink(&load)),
        [("put", 6), ("reserve", 6), ("delete", 6)]
    );
}

#[test]
fn a_timed_load_ends_and_is_measured() {
    let stop = Stop::After {
        warm_up: Duration::from_millis(20),
        measure: Duration::from_millis(50),
    };
    let measured = against_sink(&load(vec![Role::Cycle; 2], 1, stop));
    assert!(measured.commands > 0);
    assert!(measured.server.is_some());
}

#[test]
fn an_open_loop_sends_no_more_than_its_rate() {
    // 100 puts at 1,000 a second over two connections take 100 ms less the first interval, however fast the sink is.
    let load = Load {
        rate: Some(1000.0),
        ..load(vec![Role::Put; 2], 1, Stop::Count(100))
    };
    let measured = against_sink(&load);
    assert_eq!(measured.commands, 100);
    assert!(measured.seconds >= 0.09, "{} s", measured.seconds);
}

#[test]
fn nobody_there_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let target = Target {
        address,
        probe: None,
    };
    let load = load(vec![Role::Cycle; 4], 1, Stop::Count(1));
    let error = super::run(
        &Beanstalk::default(),
        &target,
        &load,
        None,
        &mut Progress::new(),
    )
    .expect_err("nobody");
    assert!(
        matches!(error, BenchError::Connect { target, .. } if target == address),
        "{error}"
    );
}

/// A server for one connection that accepts the setup, waits for a command and then says `reply` and hangs up.
fn rude(reply: &'static [u8]) -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        read_to(&mut stream, b"ignore default\r\n");
        stream
            .write_all(b"USING q\r\nWATCHING 2\r\nWATCHING 1\r\n")
            .expect("the client listens");
        read_to(&mut stream, b"x\r\n");
        stream.write_all(reply).expect("the client listens");
    });
    (address, server)
}

#[test]
fn a_server_that_hangs_up_ends_the_load() {
    for (reply, expected) in [
        (&b""[..], "the server closed connection 0"),
        (&b"WHAT?\r\n"[..], "unexpected reply to put: \"WHAT?\""),
    ] {
        let (address, server) = rude(reply);
        let target = Target {
            address,
            probe: None,
        };
        let load = load(vec![Role::Put], 1, Stop::Count(5));
        let error = super::run(
            &Beanstalk::default(),
            &target,
            &load,
            None,
            &mut Progress::new(),
        )
        .expect_err("rude");
        assert_eq!(error.to_string(), expected);
        server.join().expect("the server ends by itself");
    }
}
