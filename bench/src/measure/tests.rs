//! Whole loads over loopback sockets: against the null sink, and against servers that misbehave.

use std::io::Write;
use std::net::TcpListener;

use super::*;
use crate::driver::tests::read_to;
use crate::load::{Assurance, Interest, Promise, Role};
use crate::null::NullSink;
use crate::protocol::beanstalk::Beanstalk;
use crate::protocol::mqtt::Mqtt;

fn load(roles: Vec<Role>, depth: u32, stop: Stop) -> Load {
    Load {
        roles,
        depth,
        body_bytes: 64,
        stop,
        rate: None,
        threads: 2,
        window: 16,
        audience: 1,
        bindings: 0,
        promise: Promise::default(),
        queues: 1,
        queue_prefix: "test".to_owned(),
    }
}

fn against_sink(load: &Load) -> Measured {
    against_sink_of(&Beanstalk::default(), load)
}

fn against_sink_of<P: Protocol>(protocol: &P, load: &Load) -> Measured {
    let sink = NullSink::start(protocol, load.body_bytes, None).expect("a sink");
    let target = Target {
        address: Some(sink.address),
        probe: Some(sink.probe.clone()),
    };
    super::run(protocol, &target, load, None, &mut Progress::new()).expect("a run")
}

/// Publishers with these subscribers, over MQTT.
fn heard(publishers: usize, listeners: usize, interest: Interest, assurance: Assurance) -> Load {
    let mut roles = vec![Role::Produce; publishers];
    roles.resize(publishers + listeners, Role::Subscribe(interest));
    Load {
        promise: Promise {
            assurance,
            persistent: false,
        },
        queues: match interest {
            Interest::Every => 3,
            Interest::Queue | Interest::Shared => 1,
        },
        audience: match interest {
            Interest::Shared => 1,
            Interest::Queue | Interest::Every => u32::try_from(listeners).expect("a few"),
        },
        ..load(roles, 4, Stop::Count(50))
    }
}

/// The same load by the generator alone.
fn alone<P: Protocol>(protocol: &P, load: &Load) -> Measured {
    let target = Target {
        address: None,
        probe: None,
    };
    let load = Load {
        threads: 1,
        ..load.clone()
    };
    super::run(protocol, &target, &load, None, &mut Progress::new()).expect("a run")
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
fn the_generator_alone_does_what_it_does_with_a_sink() {
    let cycles = load(vec![Role::Cycle; 3], 4, Stop::Count(50));
    let with_sink = against_sink(&cycles);
    let by_itself = alone(&Beanstalk::default(), &cycles);
    assert_eq!(samples(&by_itself), samples(&with_sink));
    assert!(by_itself.server.is_none());
    for (listeners, interest) in [
        (5, Interest::Queue),
        (1, Interest::Every),
        (4, Interest::Shared),
    ] {
        for assurance in [Assurance::AtMost, Assurance::AtLeast, Assurance::Exactly] {
            let load = heard(3, listeners, interest, assurance);
            let with_sink = against_sink_of(&Mqtt::default(), &load);
            let by_itself = alone(&Mqtt::default(), &load);
            assert_eq!(by_itself.commands, with_sink.commands);
            assert_eq!(samples(&by_itself), samples(&with_sink));
        }
    }
}

#[test]
fn a_timed_load_ends_and_is_measured() {
    let measured = long_enough(|stop| against_sink(&load(vec![Role::Cycle; 2], 1, stop)));
    assert!(measured.server.is_some());
}

/// What a load finds that runs until a time: the first one in which something was answered, since a machine that stands
/// still for the whole of a short one leaves nothing to be measured.
fn long_enough(run: impl Fn(Stop) -> Measured) -> Measured {
    let mut measure = Duration::from_millis(50);
    loop {
        let measured = run(Stop::After {
            warm_up: Duration::from_millis(20),
            measure,
        });
        if measured.commands > 0 {
            return measured;
        }
        measure *= 4;
        assert!(measure < Duration::from_secs(60), "nothing is measured");
    }
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
        address: Some(address),
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
            address: Some(address),
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

#[test]
fn every_subscriber_gets_every_message_at_every_assurance() {
    for assurance in [Assurance::AtMost, Assurance::AtLeast, Assurance::Exactly] {
        let publishes = match assurance {
            // Nobody answers them.
            Assurance::AtMost => vec![],
            _ => vec![("publish", 50)],
        };
        for (publishers, listeners, interest, deliveries) in [
            (1, 5, Interest::Queue, 250),
            (7, 1, Interest::Every, 50),
            (2, 3, Interest::Shared, 50),
        ] {
            let load = heard(publishers, listeners, interest, assurance);
            let measured = against_sink_of(&Mqtt::default(), &load);
            assert_eq!(measured.commands, deliveries, "{assurance:?}, {interest:?}");
            assert_eq!(samples(&measured), publishes);
            let latency = measured.latency.expect("bodies carry the time");
            assert_eq!(latency.samples, deliveries);
            assert!(latency.p50_us > 0.0 && latency.max_us < 60e6, "{latency:?}");
            assert_eq!(measured.lost, 0);
        }
    }
}

#[test]
fn messages_larger_than_a_read_are_passed_on_and_acknowledged_between_bursts() {
    for assurance in [Assurance::AtLeast, Assurance::Exactly] {
        let load = Load {
            body_bytes: 600_000,
            stop: Stop::Count(6),
            ..heard(1, 2, Interest::Queue, assurance)
        };
        let measured = against_sink_of(&Mqtt::default(), &load);
        assert_eq!(measured.commands, 12);
        assert_eq!(samples(&measured), [("publish", 6)]);
    }
}

#[test]
fn a_timed_load_with_subscribers_ends() {
    long_enough(|stop| {
        let load = Load {
            stop,
            ..heard(2, 2, Interest::Queue, Assurance::AtMost)
        };
        against_sink_of(&Mqtt::default(), &load)
    });
}

/// An MQTT server for one publisher and one subscriber that passes on every message but the second.
fn forgetful() -> (SocketAddr, thread::JoinHandle<()>) {
    use std::io::Read;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let read = |stream: &mut std::net::TcpStream| -> Option<Vec<u8>> {
        let mut packet = vec![0; 2];
        stream.read_exact(&mut packet).ok()?;
        let length = usize::from(packet[1]);
        assert!(length < 128, "packets here are short");
        packet.resize(2 + length, 0);
        stream.read_exact(packet.get_mut(2..)?).ok()?;
        Some(packet)
    };
    let server = thread::spawn(move || {
        let (mut publisher, _) = listener.accept().expect("a publisher");
        read(&mut publisher).expect("a connect");
        publisher.write_all(b"\x20\x02\0\0").expect("it listens");
        let (mut subscriber, _) = listener.accept().expect("a subscriber");
        read(&mut subscriber).expect("a connect");
        subscriber.write_all(b"\x20\x02\0\0").expect("it listens");
        read(&mut subscriber).expect("a subscribe");
        subscriber
            .write_all(b"\x90\x03\0\x01\0")
            .expect("it listens");
        let mut number = 0;
        while let Some(message) = read(&mut publisher) {
            number += 1;
            if number != 2 {
                subscriber.write_all(&message).expect("it listens");
            }
        }
    });
    (address, server)
}

#[test]
fn a_message_lost_where_it_may_be_is_counted_and_ends_nothing() {
    let (address, server) = forgetful();
    let target = Target {
        address: Some(address),
        probe: None,
    };
    let load = Load {
        threads: 1,
        depth: 1,
        window: 1,
        stop: Stop::Count(4),
        ..heard(1, 1, Interest::Queue, Assurance::AtMost)
    };
    let measured =
        super::run(&Mqtt::default(), &target, &load, None, &mut Progress::new()).expect("a run");
    assert_eq!((measured.commands, measured.lost), (3, 1));
    server.join().expect("the server ends with the publisher");
}
