use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::*;
use crate::load::{Counts, Promise, Role};
use crate::network::Sockets;
use crate::protocol::beanstalk::Beanstalk;

/// Reads up to and with `end`.
pub(crate) fn read_to(stream: &mut std::net::TcpStream, end: &[u8]) {
    let mut input = Vec::new();
    while !input.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the client is there");
        input.push(byte[0]);
    }
}

/// Runs one connection against a server that answers the setup and then does `rest` with what the client sends.
fn drive(
    schedule: Schedule,
    budget: u64,
    rest: impl FnOnce(std::net::TcpStream) + Send + 'static,
) -> Result<Tally, BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        read_to(&mut stream, b"ignore default\r\n");
        stream
            .write_all(b"USING q\r\nWATCHING 2\r\nWATCHING 1\r\n")
            .expect("the client listens");
        rest(stream);
    });
    let seat = Seat {
        connection: 0,
        role: Role::Put,
        depth: 1,
        body_bytes: 1,
        queue_prefix: "q".to_owned(),
        queue: 0,
        audience: 1,
        bindings: 0,
        promise: Promise::default(),
        budget: Some(budget),
    };
    let seats = [seat];
    let (flow, commands) = (Flow::new(1, 1), AtomicU64::new(0));
    let driver = Driver::open(
        &Beanstalk::default(),
        Sockets::new(address)?,
        Share {
            seats: &seats,
            flow: &flow,
            schedule,
            counts: Counts::Commands,
            commands: &commands,
        },
    )?;
    let result = driver.run(Instant::now());
    server.join().expect("the server ends when the client does");
    result
}

fn schedule() -> Schedule {
    Schedule {
        measure_from_ns: 0,
        stop_at_ns: u64::MAX,
        pace_ns: None,
        stall_after: Duration::from_secs(60),
        loss_after: None,
    }
}

#[test]
fn a_silent_server_is_a_stall() {
    let schedule = Schedule {
        stall_after: Duration::from_millis(1),
        ..schedule()
    };
    let result = drive(schedule, 1, |mut stream| {
        // Until the client gives up and closes.
        let mut ignored = Vec::new();
        let _closed_or_reset = stream.read_to_end(&mut ignored);
    });
    assert!(
        matches!(
            result,
            Err(BenchError::Stalled {
                waiting: 1,
                refused: 0,
                ..
            })
        ),
        "{result:?}"
    );
}

#[test]
fn endless_refusals_are_a_stall_too() {
    let refuse = |mut stream: std::net::TcpStream| {
        let mut input = [0; 100];
        while stream.read(&mut input).is_ok_and(|count| count > 0) {
            // The client may have given up in between.
            let _closed = stream.write_all(b"OUT_OF_MEMORY\r\n");
        }
    };
    let mut stall_after = Duration::from_millis(20);
    loop {
        let schedule = Schedule {
            stall_after,
            ..schedule()
        };
        match drive(schedule, u64::MAX, refuse) {
            Err(BenchError::Stalled { refused: 1.., .. }) => break,
            // The machine stood still for so long that no refusal has come yet.
            Err(BenchError::Stalled { .. }) if stall_after < Duration::from_secs(60) => {
                stall_after *= 4;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn replies_nobody_asked_for_end_the_load() {
    let result = drive(schedule(), 1, |mut stream| {
        read_to(&mut stream, b"x\r\n");
        stream
            .write_all(b"INSERTED 1\r\nINSERTED 2\r\n")
            .expect("the client listens");
    });
    assert!(
        matches!(result, Err(BenchError::SurplusReply { command: "put", .. })),
        "{result:?}"
    );
}

#[test]
fn an_open_loop_charges_a_stall_to_the_commands_it_held_up() {
    // Puts are due at 0, 1, ... 19 ms. The server answers the first only once all of them are overdue, so that each of
    // them must count the time from when it was due.
    let schedule = Schedule {
        pace_ns: Some(1e6),
        ..schedule()
    };
    let result = drive(schedule, 20, |mut stream| {
        let mut begun = None;
        let mut input = [0; 100];
        let mut answered = 0;
        while answered < 20 {
            let count = stream.read(&mut input).expect("the client is there");
            assert!(count > 0, "the client left early");
            let begun = *begun.get_or_insert_with(Instant::now);
            while begun.elapsed() < Duration::from_millis(40) {
                thread::yield_now();
            }
            stream
                .write_all(b"INSERTED 1\r\n")
                .expect("the client listens");
            answered += 1;
        }
    });
    let latency = result.expect("a run").latencies.all().expect("samples");
    assert_eq!(latency.samples, 20);
    assert!(
        latency.p50_us > 20_000.0,
        "the median put waited more than 20 ms: {latency:?}"
    );
}
