//! Flow between the peer and the protocol: pausing, answers from other threads, backpressure, slow consumers.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use longtail_edge::{
    CloseReason, Connection, ConnectionId, Edge, EdgeConfig, Ended, Input, NoTick, Out, Protocol,
    Refusal, Then, Tick,
};
use support::*;

/// One line, if it is complete, with its end.
fn line(input: &[u8]) -> Option<&[u8]> {
    let end = input.iter().position(|&byte| byte == b'\n')?;
    Some(&input[..=end])
}

/// A line and who sent it.
type Request = (Arc<Connection<Deferred>>, Vec<u8>);

/// Hands each line to another thread, which answers it; takes no second one before.
struct Deferred {
    to_answerer: Mutex<mpsc::Sender<Request>>,
    endings: Endings,
}

#[derive(Default)]
struct DeferredSession {
    taken: Option<Vec<u8>>,
    unanswered: usize,
    ended: bool,
}

impl Deferred {
    /// The protocol and what it hands over.
    fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel();
        (
            Deferred {
                to_answerer: Mutex::new(sender),
                endings: Endings::default(),
            },
            receiver,
        )
    }

    fn answer(conn: &Connection<Deferred>, line: &[u8]) {
        let last = conn.with(|session, out| {
            out.put(line);
            session.unanswered -= 1;
            session.ended && session.unanswered == 0
        });
        conn.flush();
        if last == Some(true) {
            conn.close(CloseReason::PeerClosed);
        }
        conn.resume();
    }
}

impl Protocol for Deferred {
    type Session = DeferredSession;

    fn name(&self) -> &'static str {
        "deferred"
    }

    fn open(
        self: &Arc<Self>,
        _conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<DeferredSession, Refusal> {
        Ok(DeferredSession::default())
    }

    fn input(&self, session: &mut DeferredSession, input: &[u8], _out: &mut Out) -> Input {
        assert!(
            session.taken.is_none() && session.unanswered == 0,
            "shown input while pausing"
        );
        let Some(line) = line(input) else {
            return Input::read(0);
        };
        session.taken = Some(line.to_vec());
        session.unanswered += 1;
        Input::pause(line.len())
    }

    fn submit(&self, conn: &Arc<Connection<Self>>) {
        if let Some(line) = conn.with(|session, _| session.taken.take()).flatten() {
            // The receiver may be gone at the end of a test.
            let _ = self.to_answerer.lock().unwrap().send((conn.clone(), line));
        }
    }

    fn end_of_input(
        &self,
        session: &mut DeferredSession,
        unconsumed: &[u8],
        _out: &mut Out,
    ) -> Ended {
        session.ended = unconsumed.is_empty();
        if session.ended && session.unanswered == 0 {
            Ended::Close
        } else {
            Ended::Linger
        }
    }

    fn closed(&self, _session: DeferredSession, _id: ConnectionId, why: &CloseReason) {
        self.endings.push(why);
    }
}

#[test]
fn pipelined_lines_are_answered_in_order_by_another_thread() {
    let edge = start();
    let (protocol, lines) = Deferred::new();
    let endings = protocol.endings.clone();
    let address = listen(&edge, protocol);
    std::thread::spawn(move || {
        for (conn, line) in lines {
            Deferred::answer(&conn, &line);
        }
    });
    let sent: Vec<u8> = (0..3000)
        .flat_map(|n| format!("line {n}\n").into_bytes())
        .collect();
    let mut client = connect(address);
    client.write_all(&sent).unwrap();
    // All is sent, nothing answered perhaps: the answers come all the same.
    client.shutdown(Shutdown::Write).unwrap();
    expect(&mut client, &sent);
    expect_end(&mut client);
    assert_eq!(endings.first(), CloseReason::PeerClosed);
}

#[test]
fn a_peer_that_leaves_while_its_request_waits_is_noticed() {
    let edge = start();
    let (protocol, lines) = Deferred::new();
    let address = listen(&edge, protocol);
    let mut client = connect(address);
    client.write_all(b"wait\nmore\n").unwrap();
    let (conn, line) = lines.recv_timeout(PATIENCE).unwrap();
    assert_eq!(line, b"wait\n");
    client.shutdown(Shutdown::Write).unwrap();
    // The protocol is told while it pauses; it decides to go on.
    eventually("the end is seen", || {
        conn.with(|session, _| session.unanswered) == Some(1) && conn.bytes_in() == 10
    });
    Deferred::answer(&conn, &line);
    let (conn, line) = lines.recv_timeout(PATIENCE).unwrap();
    assert_eq!(line, b"more\n");
    eventually("the second end is told", || {
        conn.with(|session, _| session.ended) == Some(true)
    });
    Deferred::answer(&conn, &line);
    expect(&mut client, b"wait\nmore\n");
    expect_end(&mut client);
    eventually("the session is over", || conn.with(|_, _| ()).is_none());
}

#[test]
fn a_kicked_connection_ends_at_once_and_late_answers_go_nowhere() {
    let edge = start();
    let (protocol, lines) = Deferred::new();
    let endings = protocol.endings.clone();
    let mut client = connect(listen(&edge, protocol));
    client.write_all(b"wait\n").unwrap();
    let (conn, _) = lines.recv_timeout(PATIENCE).unwrap();
    assert!(edge.kick(conn.id()));
    expect_cut(&mut client);
    assert_eq!(endings.first(), CloseReason::Kicked);
    assert_eq!(conn.with(|_, _| ()), None);
    conn.flush();
    conn.resume();
    conn.close(CloseReason::Finished);
    assert!(!edge.kick(conn.id()));
    assert!(!edge.kick(ConnectionId(u64::MAX)));
    assert_eq!(endings.all().len(), 1);
}

/// Every input goes to every connection, from the tick.
#[derive(Default)]
struct Bus {
    members: Mutex<Vec<Arc<Connection<Bus>>>>,
    queue: Mutex<Vec<u8>>,
}

impl Protocol for Bus {
    type Session = Vec<u8>;

    fn name(&self) -> &'static str {
        "bus"
    }

    fn open(
        self: &Arc<Self>,
        conn: &Arc<Connection<Self>>,
        out: &mut Out,
    ) -> Result<Vec<u8>, Refusal> {
        self.members.lock().unwrap().push(conn.clone());
        out.put(b"welcome\n");
        Ok(Vec::new())
    }

    fn input(&self, session: &mut Vec<u8>, input: &[u8], _out: &mut Out) -> Input {
        session.extend_from_slice(input);
        Input::read(input.len())
    }

    fn submit(&self, conn: &Arc<Connection<Self>>) {
        let input = conn
            .with(|session, _| std::mem::take(session))
            .unwrap_or_default();
        self.queue.lock().unwrap().extend(input);
    }
}

struct BusTick(Arc<Bus>);

impl Tick for BusTick {
    fn run(&self, _worker: usize) {
        // As a shard does it: whoever drains the queue writes the answers, for connections of all workers.
        let mut queue = self.0.queue.lock().unwrap();
        let input = std::mem::take(&mut *queue);
        for conn in self
            .0
            .members
            .lock()
            .unwrap()
            .iter()
            .filter(|_| !input.is_empty())
        {
            conn.with(|_, out| out.put(&input));
            conn.flush_soon();
        }
    }
}

#[test]
fn the_tick_answers_connections_of_every_worker() {
    let bus = Arc::new(Bus::default());
    let edge = Edge::start(config(), BusTick(bus.clone())).unwrap();
    let address = listen_arc(&edge, bus);
    let mut clients: Vec<_> = (0..4).map(|_| connect(address)).collect();
    for client in &mut clients {
        expect(client, b"welcome\n");
    }
    for round in 0..200 {
        let word = format!("round {round}\n");
        clients[round % 4].write_all(word.as_bytes()).unwrap();
        for client in &mut clients {
            expect(client, word.as_bytes());
        }
    }
}

#[test]
fn a_tick_that_panics_is_not_the_last() {
    struct Fragile(AtomicUsize);
    impl Tick for Fragile {
        fn run(&self, _worker: usize) {
            assert_ne!(
                self.0.fetch_add(1, Ordering::Relaxed),
                1,
                "the second tick, on purpose"
            );
        }
    }
    let edge = Edge::start(
        EdgeConfig {
            workers: 1,
            ..config()
        },
        Fragile(AtomicUsize::new(0)),
    )
    .unwrap();
    let mut client = connect(listen(
        &edge,
        Echo {
            endings: Endings::default(),
        },
    ));
    for _ in 0..5 {
        exchange(&mut client, b"x\n", b"x\n");
    }
}

/// `N\n` asks for N pieces of [`PIECE`] bytes; the outbox never holds much more than the soft limit.
struct Flood {
    largest: Arc<AtomicUsize>,
}

const PIECE: usize = 20_000;
const SOFT: usize = 100_000;

impl Protocol for Flood {
    type Session = usize;

    fn name(&self) -> &'static str {
        "flood"
    }

    fn open(
        self: &Arc<Self>,
        _conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<usize, Refusal> {
        Ok(0)
    }

    fn input(&self, given: &mut usize, input: &[u8], out: &mut Out) -> Input {
        let Some(line) = line(input) else {
            return Input::read(0);
        };
        let wanted: usize = std::str::from_utf8(line).unwrap().trim().parse().unwrap();
        while *given < wanted {
            if out.is_over_soft_limit() {
                return Input {
                    consumed: 0,
                    then: Then::Drain,
                };
            }
            *given += 1;
            // Every other piece by reference.
            let piece = vec![b'a' + u8::try_from(*given % 26).unwrap(); PIECE];
            if given.is_multiple_of(2) {
                out.put(&piece);
            } else {
                out.put_bytes(Bytes::from(piece));
            }
            self.largest.fetch_max(out.len(), Ordering::Relaxed);
        }
        *given = 0;
        Input::read(line.len())
    }
}

#[test]
fn a_protocol_that_waits_for_the_outbox_fills_no_memory() {
    let edge = start();
    let largest = Arc::new(AtomicUsize::new(0));
    let address = listen_with(
        &edge,
        Flood {
            largest: largest.clone(),
        },
        |config| config.outbox_soft_bytes = SOFT,
    );
    let mut client = connect(address);
    client.write_all(b"2000\n").unwrap();
    eventually("the server waits", || edge.held_bytes() > SOFT / 2);
    for piece in 1..=2000_usize {
        expect(
            &mut client,
            &vec![b'a' + u8::try_from(piece % 26).unwrap(); PIECE],
        );
    }
    assert!(largest.load(Ordering::Relaxed) <= SOFT + PIECE);
    eventually("nothing is held any more", || edge.held_bytes() == 0);
}

/// Echoes everything at once.
struct Echo {
    endings: Endings,
}

impl Protocol for Echo {
    type Session = ();

    fn name(&self) -> &'static str {
        "echo"
    }

    fn open(
        self: &Arc<Self>,
        _conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    fn input(&self, _session: &mut (), input: &[u8], out: &mut Out) -> Input {
        out.put(input);
        Input::read(input.len())
    }

    fn closed(&self, _session: (), _id: ConnectionId, why: &CloseReason) {
        self.endings.push(why);
    }
}

#[test]
fn a_peer_that_does_not_read_is_not_read_from() {
    let edge = start();
    let address = listen_with(
        &edge,
        Echo {
            endings: Endings::default(),
        },
        |config| config.outbox_soft_bytes = SOFT,
    );
    let mut client = connect(address);
    let mut writer = client.try_clone().unwrap();
    let sent: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let expected = sent.clone();
    let sender = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    eventually("the outbox is over its soft limit", || {
        edge.held_bytes() > SOFT
    });
    let info = &edge.connections()[0];
    // One read more than the limit at most.
    assert!(info.outbox_bytes <= SOFT + 64 * 1024, "{info:?}");
    let mut got = vec![0; expected.len()];
    client.read_exact(&mut got).unwrap();
    assert!(got == expected);
    sender.join().unwrap();
    eventually("nothing is held any more", || edge.held_bytes() == 0);
}

#[test]
fn a_slow_consumer_is_cut_at_the_hard_limit_and_counted() {
    let bus = Arc::new(Bus::default());
    let edge = Edge::start(config(), NoTick).unwrap();
    let config = |config: &mut longtail_edge::ListenerConfig| config.outbox_hard_bytes = 1_000_000;
    let address = listen_arc_with(&edge, bus.clone(), config);
    let (mut slow, mut quick) = (connect(address), connect(address));
    expect(&mut slow, b"welcome\n");
    expect(&mut quick, b"welcome\n");
    let members = bus.members.lock().unwrap().clone();
    let find = |client: &std::net::TcpStream| {
        let own = client.local_addr().unwrap().to_string();
        members
            .iter()
            .find(|conn| conn.peer().to_string() == own)
            .unwrap()
            .clone()
    };
    let (to_slow, to_quick) = (find(&slow), find(&quick));
    let piece = Bytes::from(vec![b'x'; 50_000]);
    // From this thread, as a publisher on another worker would.
    let mut given = 0;
    while to_slow
        .with(|_, out| out.put_bytes(piece.clone()))
        .is_some()
    {
        to_slow.flush();
        given += piece.len();
        assert!(given < 200_000_000, "never cut");
        to_quick.with(|_, out| out.put(b"x"));
        to_quick.flush();
        expect(&mut quick, b"x");
    }
    assert_eq!(edge.metrics()[0].slow_consumers, 1);
    // What the system had taken comes, then the end.
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.len() < given);
    eventually("nothing is held any more", || edge.held_bytes() == 0);
}

#[test]
fn a_message_beyond_the_input_limit_ends_the_connection() {
    let edge = start();
    let (protocol, _lines) = Deferred::new();
    let endings = protocol.endings.clone();
    let address = listen_with(&edge, protocol, |config| config.input_max_bytes = 100_000);
    let mut client = connect(address);
    // May fail when the server is done with it.
    let _ = client.write_all(&vec![b'x'; 1_000_000]);
    assert_eq!(
        endings.first(),
        CloseReason::InputTooLarge { limit: 100_000 }
    );
}

#[test]
fn a_read_rate_slows_and_loses_nothing() {
    let edge = start();
    let address = listen_with(
        &edge,
        Echo {
            endings: Endings::default(),
        },
        |config| {
            config.read_rate_bytes_per_second = Some(2_000_000);
        },
    );
    let mut client = connect(address);
    let sent: Vec<u8> = (0..600_000_u32).flat_map(u32::to_be_bytes).collect();
    let mut writer = client.try_clone().unwrap();
    let expected = sent.clone();
    let sender = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut got = vec![0; expected.len()];
    client.read_exact(&mut got).unwrap();
    assert!(got == expected);
    sender.join().unwrap();
}
