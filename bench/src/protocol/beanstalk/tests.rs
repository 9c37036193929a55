use super::parse::{Line, line, refusal, reserved};
use super::*;
use crate::load::Promise;
use crate::null::Relay;
use crate::protocol::Sink;
use crate::protocol::feed;

fn seat(role: Role, depth: u32, body_bytes: usize) -> Seat {
    Seat {
        connection: 0,
        role,
        depth,
        body_bytes,
        queue_prefix: "q".to_owned(),
        queue: 0,
        audience: 1,
        bindings: 0,
        promise: Promise::default(),
        budget: None,
    }
}

fn session(role: Role, depth: u32, body_bytes: usize) -> BeanstalkSession {
    let protocol = Beanstalk::default();
    BeanstalkSession::new(
        &seat(role, depth, body_bytes),
        protocol.puts.get(body_bytes, depth),
    )
}

fn flow() -> Flow {
    Flow::new(100, 1)
}

#[test]
fn lines_end_with_cr_lf_only() {
    assert_eq!(
        line(b"DELETED\r\nX"),
        Ok(Some(Line {
            text: b"DELETED",
            bytes: 9
        }))
    );
    assert_eq!(line(b"DELETED\r"), Ok(None));
    assert_eq!(line(b"DELETED\n"), Err(&b"DELETED"[..]));
    assert_eq!(line(&[b'x'; 300]).expect_err("too long").len(), 300);
}

#[test]
fn reserved_needs_two_numbers() {
    assert_eq!(
        reserved(b"RESERVED 18446744073709551615 64"),
        Some((&b"18446744073709551615"[..], 64))
    );
    for wrong in [
        "RESERVED",
        "RESERVED 1",
        "RESERVED 1 ",
        "RESERVED x 1",
        "RESERVED 1 -1",
        "RESERVED 1 2 3",
    ] {
        assert_eq!(reserved(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn refusals_are_known_by_their_first_word() {
    assert_eq!(refusal(b"OUT_OF_MEMORY"), Some("OUT_OF_MEMORY"));
    assert_eq!(refusal(b"BURIED 12"), Some("BURIED"));
    assert_eq!(refusal(b"INSERTED 1"), None);
}

#[test]
fn a_cycle_deletes_what_it_reserved_whatever_the_pieces() {
    let replies = b"INSERTED 7\r\nINSERTED 8\r\n";
    // A body that looks like a reply must be skipped.
    let jobs = b"RESERVED 7 9\r\nDELETED\r\n\r\nRESERVED 8 9\r\n123456789\r\n";
    for piece in 1..=jobs.len() {
        let flow = flow();
        let mut session = session(Role::Cycle, 2, 9);
        assert_eq!(
            session.next(0, false, &flow),
            Next::Burst {
                command: PUT,
                count: 2
            }
        );
        let put = b"put 2048 0 3600 9\r\nxxxxxxxxx\r\n";
        assert_eq!(session.outgoing(), put.repeat(2));
        assert_eq!(
            feed(&mut session, replies, piece, &flow)
                .expect("legal")
                .done,
            2
        );
        assert_eq!(
            session.next(0, true, &flow),
            Next::Burst {
                command: RESERVE,
                count: 2
            }
        );
        assert_eq!(session.outgoing(), b"reserve\r\nreserve\r\n");
        assert_eq!(
            feed(&mut session, jobs, piece, &flow).expect("legal").done,
            2
        );
        assert_eq!(
            session.next(0, true, &flow),
            Next::Burst {
                command: DELETE,
                count: 2
            }
        );
        assert_eq!(session.outgoing(), b"delete 7\r\ndelete 8\r\n");
        assert_eq!(
            feed(&mut session, b"DELETED\r\nDELETED\r\n", piece, &flow)
                .expect("legal")
                .done,
            2
        );
        assert_eq!(session.next(0, true, &flow), Next::Done);
    }
}

#[test]
fn refused_puts_are_counted_and_not_reserved() {
    let flow = flow();
    let mut session = session(Role::Cycle, 3, 1);
    session.next(0, false, &flow);
    let replies = feed(
        &mut session,
        b"OUT_OF_MEMORY\r\nINSERTED 1\r\nOUT_OF_MEMORY\r\n",
        5,
        &flow,
    )
    .expect("legal");
    assert_eq!((replies.done, replies.refused), (1, 2));
    assert_eq!(replies.refusals.get("OUT_OF_MEMORY"), Some(&2));
    assert_eq!(
        session.next(0, false, &flow),
        Next::Burst {
            command: RESERVE,
            count: 1
        }
    );
}

#[test]
fn replies_that_make_no_sense_name_the_command() {
    let flow = flow();
    let mut session = session(Role::Put, 1, 1);
    session.next(0, false, &flow);
    let error = feed(&mut session, b"HTTP/1.1 400 Bad Request\r\n", 100, &flow)
        .expect_err("not this protocol");
    assert_eq!(
        error.to_string(),
        "unexpected reply to put: \"HTTP/1.1 400 Bad Request\""
    );
}

#[test]
fn a_drain_ends_when_the_tube_is_empty_and_settles_first() {
    let flow = flow();
    let mut session = session(Role::Drain, 2, 1);
    assert_eq!(
        session.next(0, false, &flow),
        Next::Burst {
            command: RESERVE,
            count: 2
        }
    );
    assert_eq!(session.outgoing(), b"reserve-with-timeout 0\r\n".repeat(2));
    let replies = feed(
        &mut session,
        b"RESERVED 1 1\r\nx\r\nTIMED_OUT\r\n",
        7,
        &flow,
    )
    .expect("legal");
    assert_eq!((replies.done, replies.refused), (2, 0));
    assert_eq!(
        session.next(0, false, &flow),
        Next::Burst {
            command: DELETE,
            count: 1
        }
    );
    feed(&mut session, b"DELETED\r\n", 7, &flow).expect("legal");
    assert_eq!(session.next(0, false, &flow), Next::Done);
}

#[test]
fn workers_learn_when_a_job_was_sent() {
    for piece in [1, 5, 1000] {
        let flow = flow();
        let mut producer = session(Role::Produce, 1, 20);
        assert_eq!(
            producer.next(0x1234_5678_9abc, false, &flow),
            Next::Burst {
                command: PUT,
                count: 1
            }
        );
        let body = producer
            .outgoing()
            .strip_prefix(b"put 2048 0 3600 20\r\n")
            .expect("the line");
        let mut job = b"RESERVED 5 20\r\n".to_vec();
        job.extend_from_slice(body);
        let mut worker = session(Role::Work, 8, 20);
        assert_eq!(
            worker.next(0, false, &flow),
            Next::Burst {
                command: RESERVE,
                count: 1
            }
        );
        assert!(worker.is_blocked());
        let replies = feed(&mut worker, &job, piece, &flow).expect("legal");
        assert_eq!(replies.sent_ns, [0x1234_5678_9abc]);
        assert!(!worker.is_blocked());
        assert_eq!(
            worker.next(0, false, &flow),
            Next::Burst {
                command: DELETE,
                count: 1
            }
        );
        feed(&mut worker, b"DELETED\r\n", piece, &flow).expect("legal");
        flow.publisher_done();
        assert_eq!(worker.next(0, true, &flow), Next::Done);
    }
}

#[test]
fn producers_stop_at_the_window() {
    let flow = Flow::new(3, 1);
    let mut session = session(Role::Produce, 2, 16);
    assert!(matches!(session.next(0, false, &flow), Next::Burst { .. }));
    assert_eq!(session.next(0, false, &flow), Next::Park);
    flow.leave(1);
    assert!(matches!(session.next(0, false, &flow), Next::Burst { .. }));
}

#[test]
fn a_budget_ends_with_a_short_burst() {
    let flow = flow();
    let protocol = Beanstalk::default();
    let seat = Seat {
        budget: Some(3),
        ..seat(Role::Put, 2, 1)
    };
    let mut session = BeanstalkSession::new(&seat, protocol.puts.get(1, 2));
    assert_eq!(
        session.next(0, false, &flow),
        Next::Burst {
            command: PUT,
            count: 2
        }
    );
    assert_eq!(
        session.next(0, false, &flow),
        Next::Burst {
            command: PUT,
            count: 1
        }
    );
    assert_eq!(session.outgoing(), b"put 2048 0 3600 1\r\nx\r\n");
    assert_eq!(session.next(0, false, &flow), Next::Done);
}

#[test]
fn the_sink_answers_every_command_whatever_the_pieces() {
    let commands = b"use q\r\nwatch q\r\nignore default\r\nput 1 0 1 9\r\nreserve\r\n\r\nreserve\r\ndelete 1\r\n";
    let answers =
        b"USING x\r\nWATCHING 2\r\nWATCHING 1\r\nINSERTED 1\r\nRESERVED 1 3\r\nxxx\r\nDELETED\r\n";
    for piece in 1..=commands.len() {
        let mut sink = sink::BeanstalkSink::new(3);
        let (mut tail, mut out) = (Vec::new(), Vec::new());
        for bytes in commands.chunks(piece) {
            tail.extend_from_slice(bytes);
            let used = sink.answer(&tail, &mut out, &mut Relay::default());
            tail.drain(..used);
        }
        assert_eq!(
            String::from_utf8_lossy(&out),
            String::from_utf8_lossy(answers),
            "pieces of {piece}"
        );
    }
}
