//! Limits on connections, time and memory, and what happens at them.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longtail_edge::testing::LineEcho;
use longtail_edge::{
    CloseReason, Connection, ConnectionId, Edge, EdgeConfig, Idle, Input, NoTick, Out, Protocol,
    Refusal, RefusalCause,
};
use support::*;

#[test]
fn a_full_listener_turns_away_until_somebody_leaves() {
    let edge = start();
    let address = listen_with(&edge, LineEcho, |config| config.connections_max = 2);
    let (mut a, mut b) = (connect(address), connect(address));
    exchange(&mut a, b"a\n", b"a\n");
    exchange(&mut b, b"b\n", b"b\n");
    expect_cut(&mut connect(address));
    assert_eq!(edge.metrics()[0].refused.by(RefusalCause::ListenerFull), 1);
    drop(a);
    eventually("the place is free", || edge.metrics()[0].open == 1);
    exchange(&mut connect(address), b"c\n", b"c\n");
    exchange(&mut b, b"b\n", b"b\n");
}

#[test]
fn a_full_server_counts_all_listeners() {
    let edge = Edge::start(
        EdgeConfig {
            connections_max: 1,
            ..config()
        },
        NoTick,
    )
    .unwrap();
    let (first, second) = (listen(&edge, LineEcho), listen(&edge, LineEcho));
    let mut client = connect(first);
    exchange(&mut client, b"a\n", b"a\n");
    expect_cut(&mut connect(second));
    assert_eq!(edge.metrics()[1].refused.by(RefusalCause::ServerFull), 1);
    assert_eq!(edge.metrics()[1].refused.total(), 1);
}

#[test]
fn an_accept_rate_delays_and_loses_nobody() {
    let edge = start();
    let address = listen_with(&edge, LineEcho, |config| {
        config.accept_rate_per_second = Some(100);
    });
    let mut clients: Vec<_> = (0..120).map(|_| connect(address)).collect();
    for client in &mut clients {
        exchange(client, b"x\n", b"x\n");
    }
    assert_eq!(edge.metrics()[0].refused.total(), 0);
}

#[test]
fn connections_are_spread_over_the_workers() {
    struct WhichWorker;
    impl Protocol for WhichWorker {
        type Session = ();
        fn name(&self) -> &'static str {
            "which"
        }
        fn open(
            self: &Arc<Self>,
            conn: &Arc<Connection<Self>>,
            out: &mut Out,
        ) -> Result<(), Refusal> {
            out.put(&[u8::try_from(conn.worker()).unwrap()]);
            Ok(())
        }
        fn input(&self, _session: &mut (), input: &[u8], _out: &mut Out) -> Input {
            Input::read(input.len())
        }
    }
    let edge = start();
    let address = listen(&edge, WhichWorker);
    let mut count = [0; 2];
    let _clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = connect(address);
            let mut worker = [0];
            client.read_exact(&mut worker).unwrap();
            count[usize::from(worker[0])] += 1;
            client
        })
        .collect();
    assert_eq!(count, [5, 5]);
}

/// Beats `beats` times when idle, then closes; panics when told `panic`, and refuses when `refuses`.
struct Moody {
    beats: usize,
    refuses: bool,
    endings: Endings,
}

impl Protocol for Moody {
    type Session = usize;

    fn name(&self) -> &'static str {
        "moody"
    }

    fn idle_timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(10))
    }

    fn open(
        self: &Arc<Self>,
        _conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<usize, Refusal> {
        if self.refuses {
            return Err(Refusal {
                why: "bad mood".into(),
                farewell: Bytes::from_static(b"go away\n"),
            });
        }
        Ok(self.beats)
    }

    fn input(&self, _session: &mut usize, input: &[u8], out: &mut Out) -> Input {
        assert!(!input.starts_with(b"panic"), "as asked");
        out.put(input);
        Input::read(input.len())
    }

    fn idle(&self, beats: &mut usize, out: &mut Out) -> Idle {
        if *beats == 0 {
            return Idle::Close;
        }
        *beats -= 1;
        out.put(b"beat\n");
        Idle::Stay
    }

    fn closed(&self, _session: usize, _id: ConnectionId, why: &CloseReason) {
        self.endings.push(why);
    }
}

#[test]
fn a_silent_peer_hears_heartbeats_and_then_the_end() {
    let edge = start();
    let endings = Endings::default();
    let mut client = connect(listen(
        &edge,
        Moody {
            beats: 2,
            refuses: false,
            endings: endings.clone(),
        },
    ));
    expect(&mut client, b"beat\nbeat\n");
    expect_end(&mut client);
    assert_eq!(endings.first(), CloseReason::Idle);
}

#[test]
fn a_refused_connection_hears_why_and_has_no_session() {
    let edge = start();
    let endings = Endings::default();
    let mut client = connect(listen(
        &edge,
        Moody {
            beats: 0,
            refuses: true,
            endings: endings.clone(),
        },
    ));
    // What the client says meanwhile must not cost it the farewell.
    client.write_all(b"hello\n").unwrap();
    expect(&mut client, b"go away\n");
    expect_end(&mut client);
    drop(client);
    eventually("the connection is gone", || edge.metrics()[0].open == 0);
    assert_eq!(edge.metrics()[0].refused.by(RefusalCause::Protocol), 1);
    assert_eq!(endings.all(), []);
}

#[test]
fn a_defect_in_a_protocol_ends_only_the_connection_that_met_it() {
    let edge = Edge::start(
        EdgeConfig {
            workers: 1,
            ..config()
        },
        NoTick,
    )
    .unwrap();
    let endings = Endings::default();
    let address = listen(
        &edge,
        Moody {
            beats: usize::MAX,
            refuses: false,
            endings: endings.clone(),
        },
    );
    let other = listen(&edge, LineEcho);
    let mut bystander = connect(other);
    exchange(&mut bystander, b"a\n", b"a\n");
    let mut client = connect(address);
    client.write_all(b"panic\n").unwrap();
    let _ = client.read_to_end(&mut Vec::new());
    assert_eq!(endings.first(), CloseReason::Internal);
    exchange(&mut bystander, b"b\n", b"b\n");
    drop(client);
    eventually("its place is free", || edge.metrics()[0].open == 0);
}

#[test]
fn a_defect_in_opening_leaves_nothing_behind() {
    struct Stillborn;
    impl Protocol for Stillborn {
        type Session = ();
        fn name(&self) -> &'static str {
            "stillborn"
        }
        fn open(
            self: &Arc<Self>,
            _conn: &Arc<Connection<Self>>,
            _out: &mut Out,
        ) -> Result<(), Refusal> {
            panic!("on purpose");
        }
        fn input(&self, _session: &mut (), _input: &[u8], _out: &mut Out) -> Input {
            Input::read(0)
        }
    }
    let edge = start();
    let mut client = connect(listen(&edge, Stillborn));
    let _ = client.read_to_end(&mut Vec::new());
    eventually("its place is free", || {
        edge.metrics()[0].open == 0 && edge.connections().is_empty()
    });
}

#[test]
fn connections_that_hold_all_the_memory_and_do_not_move_make_room() {
    let memory_max_bytes = 150_000;
    let edge = Edge::start(
        EdgeConfig {
            memory_max_bytes,
            stall_ms: 20,
            ..config()
        },
        NoTick,
    )
    .unwrap();
    let address = listen(&edge, LineEcho);
    // Half a line each, for ever: together more than the budget.
    let mut stuck: Vec<_> = (0..3)
        .map(|_| {
            let mut client = connect(address);
            client.write_all(&[b'x'; 60_000]).unwrap();
            client
        })
        .collect();
    eventually("somebody is cut", || edge.metrics()[0].stalled >= 1);
    eventually("the budget is kept again", || {
        edge.held_bytes() <= memory_max_bytes
    });
    let mut client = connect(address);
    exchange(&mut client, b"served\n", b"served\n");
    // The others may go on.
    let mut done = 0;
    for client in &mut stuck {
        let mut reply = vec![0; 60_001];
        let sent = client.write_all(b"\n");
        if sent.and_then(|()| client.read_exact(&mut reply)).is_ok() {
            done += 1;
        }
    }
    assert!(done >= 1);
}

#[test]
fn who_holds_little_is_served_while_others_hold_all_the_memory() {
    let memory_max_bytes = 150_000;
    let edge = Edge::start(
        EdgeConfig {
            memory_max_bytes,
            stall_ms: 600_000,
            ..config()
        },
        NoTick,
    )
    .unwrap();
    let address = listen(&edge, LineEcho);
    let mut client = connect(address);
    let holders: Vec<_> = (0..3)
        .map(|_| {
            let mut client = connect(address);
            client.write_all(&[b'x'; 60_000]).unwrap();
            client
        })
        .collect();
    eventually("the budget is exceeded", || {
        edge.held_bytes() > memory_max_bytes
    });
    for _ in 0..3 {
        exchange(&mut client, b"served\n", b"served\n");
    }
    assert_eq!(edge.metrics()[0].stalled, 0);
    drop(holders);
}
