//! When the outbox of another connection is written: at once by who is alone in the tick, else at its end.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};

use longtail_edge::{
    Connection, ConnectionId, Edge, EdgeConfig, Input, NoTick, Out, Protocol, Refusal,
};
use support::*;

/// What a connection says, each a byte.
const HEAR: u8 = b'h';
const TELL: u8 = b't';
/// Tells, and ends its submit only when it was heard: it is alone in the tick, so nobody else could write it.
const TELL_ALONE: u8 = b'a';
const TELL_LISTED: u8 = b'l';
const STALL: u8 = b's';
/// What a connection has said that was only opened.
const SILENT: u8 = 0;

/// A connection that hears, and others that tell it something when they submit.
struct Town {
    hearer: OnceLock<Arc<Connection<Town>>>,
    /// The other end of the hearer.
    ears: Mutex<Option<TcpStream>>,
    /// How many bytes were there to be heard by the end of each submit that told something.
    heard: Mutex<Vec<(ConnectionId, usize)>>,
    /// Whom a submit that stalls waits for.
    go: Mutex<Receiver<()>>,
    /// How many submits have stalled.
    stalls: AtomicUsize,
    /// How many connections had their first tick before they said anything.
    silent: AtomicUsize,
}

impl Town {
    /// Bytes that have arrived at the other end of the hearer; they are taken.
    fn listen(&self) -> usize {
        self.take(true)
    }

    /// Bytes that arrive at the other end of the hearer, as soon as there are some.
    fn wait_to_hear(&self) -> usize {
        self.take(false)
    }

    fn take(&self, at_once: bool) -> usize {
        let mut ears = self.ears.lock().unwrap();
        let ears = ears.as_mut().unwrap();
        ears.set_nonblocking(at_once).unwrap();
        let mut heard = [0; 16];
        match ears.read(&mut heard) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    fn told(&self) -> Vec<usize> {
        let told = self.heard.lock().unwrap();
        told.iter().map(|(_, bytes)| *bytes).collect()
    }
}

impl Protocol for Town {
    type Session = u8;

    fn name(&self) -> &'static str {
        "town"
    }

    fn open(self: &Arc<Self>, _: &Arc<Connection<Self>>, _: &mut Out) -> Result<u8, Refusal> {
        Ok(SILENT)
    }

    fn input(&self, said: &mut u8, input: &[u8], out: &mut Out) -> Input {
        *said = input[0];
        if *said == HEAR {
            out.put(b"!");
        }
        Input::read(input.len())
    }

    fn submit(&self, conn: &Arc<Connection<Self>>) {
        let said = conn.with(|said, _| *said).unwrap();
        match said {
            HEAR => {
                let _ = self.hearer.set(Arc::clone(conn));
            }
            STALL => {
                self.stalls.fetch_add(1, Ordering::SeqCst);
                self.go.lock().unwrap().recv().unwrap();
            }
            SILENT => {
                self.silent.fetch_add(1, Ordering::SeqCst);
            }
            TELL | TELL_ALONE | TELL_LISTED => {
                let hearer = self.hearer.get().unwrap();
                if said == TELL_LISTED {
                    hearer.flush_soon();
                }
                hearer.with(|_, out| out.put(b"x"));
                hearer.flush_last();
                let bytes = match said {
                    TELL_ALONE => self.wait_to_hear(),
                    _ => self.listen(),
                };
                self.heard.lock().unwrap().push((conn.id(), bytes));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn whoever_is_alone_in_a_tick_writes_for_others_at_once_and_whoever_is_not_at_its_end() {
    // Everything on one worker.
    let config = EdgeConfig {
        workers: 1,
        ..config()
    };
    let edge = Edge::start(config, NoTick).unwrap();
    let (release, go) = channel();
    let town = Arc::new(Town {
        hearer: OnceLock::new(),
        ears: Mutex::new(None),
        heard: Mutex::default(),
        go: Mutex::new(go),
        stalls: 0.into(),
        silent: 0.into(),
    });
    let address = listen_arc(&edge, Arc::clone(&town));
    let mut ears = connect(address);
    exchange(&mut ears, &[HEAR], b"!");
    eventually("the hearer is known", || town.hearer.get().is_some());
    *town.ears.lock().unwrap() = Some(ears);
    // Being opened is a part in a tick as well, so nobody is alone before that is over.
    let silent = || town.silent.load(Ordering::SeqCst);
    let before = silent();
    let (mut first, mut second) = (connect(address), connect(address));
    eventually("both are open", || silent() == before + 2);

    // Alone: it is there before the tick ends.
    first.write_all(&[TELL_ALONE]).unwrap();
    eventually("it was told", || town.told().len() == 1);
    assert_eq!(town.told(), [1]);

    // Somebody has listed it for the end of the tick: it goes then, with whatever else comes.
    first.write_all(&[TELL_LISTED]).unwrap();
    eventually("it was told", || town.told().len() == 2);
    assert_eq!(town.told(), [1, 0]);
    eventually("it is written at the end", || town.listen() == 1);

    // Two in one tick, because both have spoken while the worker was busy.
    let mut busy = connect(address);
    busy.write_all(&[STALL]).unwrap();
    let stalls = || town.stalls.load(Ordering::SeqCst);
    eventually("the worker is busy", || stalls() == 1);
    first.write_all(&[TELL]).unwrap();
    second.write_all(&[TELL]).unwrap();
    release.send(()).unwrap();
    eventually("it was told twice", || town.told().len() == 4);
    assert_eq!(town.told(), [1, 0, 0, 0]);
    let mut bytes = 0;
    eventually("both are written at the end", || {
        bytes += town.listen();
        bytes == 2
    });

    // On a thread that is no worker there is no tick to wait for. None could help: the worker is busy.
    busy.write_all(&[STALL]).unwrap();
    eventually("the worker is busy again", || stalls() == 2);
    let hearer = town.hearer.get().unwrap();
    hearer.with(|_, out| out.put(b"x"));
    hearer.flush_last();
    assert_eq!(town.wait_to_hear(), 1);
    release.send(()).unwrap();
}
