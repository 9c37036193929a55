//! Going down: connections finish, or are cut at the deadline.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use longtail_edge::testing::LineEcho;
use longtail_edge::{
    CloseReason, Connection, ConnectionId, DrainReport, Draining, Input, ListenError,
    ListenerConfig, Out, Protocol, Refusal,
};
use support::*;

/// Says goodbye when the server goes down; after `busy` it wants to hear `done` first.
struct Polite {
    endings: Endings,
}

impl Protocol for Polite {
    type Session = bool;

    fn name(&self) -> &'static str {
        "polite"
    }

    fn open(
        self: &Arc<Self>,
        _conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<bool, Refusal> {
        Ok(false)
    }

    fn input(&self, busy: &mut bool, input: &[u8], out: &mut Out) -> Input {
        match input {
            b"busy\n" => *busy = true,
            b"done\n" => return Input::close(input.len(), CloseReason::Finished),
            _ => {}
        }
        out.put(input);
        Input::read(input.len())
    }

    fn draining(&self, busy: &mut bool, out: &mut Out) -> Draining {
        out.put(b"going down\n");
        if *busy {
            Draining::Linger
        } else {
            Draining::Close
        }
    }

    fn closed(&self, _session: bool, _id: ConnectionId, why: &CloseReason) {
        self.endings.push(why);
    }
}

fn two_clients(edge: &longtail_edge::Edge, endings: &Endings) -> (TcpStream, TcpStream) {
    let address = listen(
        edge,
        Polite {
            endings: endings.clone(),
        },
    );
    let (mut idle, mut busy) = (connect(address), connect(address));
    exchange(&mut idle, b"hello\n", b"hello\n");
    exchange(&mut busy, b"busy\n", b"busy\n");
    (idle, busy)
}

#[test]
fn everybody_hears_of_it_and_may_finish() {
    let edge = Arc::new(start());
    let endings = Endings::default();
    let (mut idle, mut busy) = two_clients(&edge, &endings);
    let draining = {
        let edge = edge.clone();
        std::thread::spawn(move || edge.drain(PATIENCE))
    };
    expect(&mut idle, b"going down\n");
    expect_end(&mut idle);
    drop(idle);
    expect(&mut busy, b"going down\n");
    let refused = edge
        .listen(ListenerConfig::new(loopback()), Arc::new(LineEcho))
        .unwrap_err();
    assert!(matches!(refused, ListenError::ShuttingDown));
    busy.write_all(b"done\n").unwrap();
    expect_end(&mut busy);
    drop(busy);
    assert_eq!(
        draining.join().unwrap(),
        DrainReport {
            finished: 2,
            cut: 0
        }
    );
    assert_eq!(
        endings.all(),
        [CloseReason::Draining, CloseReason::Finished]
    );
}

#[test]
fn the_deadline_cuts_what_is_left_and_nobody_new_gets_in() {
    let edge = start();
    let endings = Endings::default();
    let (mut idle, mut busy) = two_clients(&edge, &endings);
    let address = idle.peer_addr().unwrap();
    // Whether the two still hear of it is a question of how soon the workers run.
    fn last_words(client: &mut TcpStream) {
        let mut heard = Vec::new();
        let _end_or_reset = client.read_to_end(&mut heard);
        assert!(heard.is_empty() || heard == b"going down\n", "{heard:?}");
    }
    let reader = std::thread::spawn(move || last_words(&mut idle));
    let report = edge.drain(Duration::from_millis(100));
    reader.join().unwrap();
    assert!(
        report.cut >= 1 && report.cut + report.finished == 2,
        "{report:?}"
    );
    last_words(&mut busy);
    eventually("the one that lingers was cut", || {
        endings.all().contains(&CloseReason::Shutdown)
    });
    eventually("the port is closed", || {
        TcpStream::connect(address).is_err()
    });
}

#[test]
fn hurry_cuts_a_drain_short() {
    let edge = Arc::new(start());
    let endings = Endings::default();
    let (idle, mut busy) = two_clients(&edge, &endings);
    drop(idle);
    eventually("one is left", || edge.connections().len() == 1);
    let draining = {
        let edge = edge.clone();
        std::thread::spawn(move || edge.drain(PATIENCE * 100))
    };
    expect(&mut busy, b"going down\n");
    edge.hurry();
    assert_eq!(draining.join().unwrap().cut, 1);
    expect_cut(&mut busy);
}

#[test]
fn dropping_the_edge_ends_every_session() {
    let edge = start();
    let endings = Endings::default();
    let (_idle, _busy) = two_clients(&edge, &endings);
    drop(edge);
    assert_eq!(
        endings.all(),
        [CloseReason::Shutdown, CloseReason::Shutdown]
    );
}
