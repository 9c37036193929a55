//! The null sink: a thread that answers every command with canned bytes and keeps nothing, and passes messages on as
//! they came to whoever subscribed. What the generator reaches against it is what it could report at most.

mod relay;

pub(crate) use relay::Relay;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::{sync::mpsc, thread};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use crate::error::BenchError;
use crate::pin::pin_thread;
use crate::probe::Probe;
use crate::protocol::{Protocol, Sink};

const READ_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 512;
/// How soon the thread notices that it should end.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// The token of the listening socket; connections have their place in the list.
const LISTENER: u64 = u64::MAX;

/// A running sink; ends when dropped.
#[derive(Debug)]
pub(crate) struct NullSink {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its thread.
    pub(crate) probe: Probe,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NullSink {
    /// Starts one on a free loopback port, on these processors.
    pub(crate) fn start<P: Protocol>(
        protocol: &P,
        body_bytes: usize,
        cpus: Option<&[usize]>,
    ) -> Result<Self, BenchError> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .map_err(BenchError::io("listening for the null sink"))?;
        let address = listener
            .local_addr()
            .map_err(BenchError::io("listening for the null sink"))?;
        listener
            .set_nonblocking(true)
            .map_err(BenchError::io("listening for the null sink"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let fresh = protocol.sink(body_bytes);
        let cpus = cpus.map(<[usize]>::to_vec);
        let (tell, told) = mpsc::channel();
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("null-sink".to_owned())
            .spawn(move || {
                let ready = cpus.map_or(Ok(()), |cpus| pin_thread(&cpus));
                let failed = ready.is_err();
                let told =
                    tell.send(ready.map(|()| rustix::thread::gettid().as_raw_nonzero().get()));
                if failed || told.is_err() {
                    return;
                }
                // An error here closes the connections, which the generator reports.
                let _ended = serve(&listener, &fresh, &stopped);
            })
            .map_err(BenchError::io("starting the null sink"))?;
        let gone = |_| BenchError::Io {
            doing: "starting the null sink",
            source: ErrorKind::BrokenPipe.into(),
        };
        let tid = told.recv().map_err(gone)??;
        Ok(NullSink {
            address,
            probe: Probe::Thread(tid),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for NullSink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}

struct Client<S> {
    stream: TcpStream,
    sink: S,
    tail: Vec<u8>,
    out: Vec<u8>,
}

fn serve<S: Sink>(listener: &TcpListener, fresh: &S, stop: &AtomicBool) -> std::io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        listener,
        epoll::EventData::new_u64(LISTENER),
        epoll::EventFlags::IN,
    )?;
    let mut clients: Vec<Option<Client<S>>> = Vec::new();
    let mut relay = Relay::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut events = Vec::with_capacity(EVENTS_MAX);
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&TICK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            let token = event.data.u64();
            if token == LISTENER {
                accept(listener, &epoll, &mut clients, fresh)?;
                continue;
            }
            let Some(place) = usize::try_from(token)
                .ok()
                .and_then(|place| clients.get_mut(place))
            else {
                continue;
            };
            relay.turn_to(token);
            let open = place
                .as_mut()
                .is_some_and(|client| client.answer(&mut buffer, &mut relay).unwrap_or(false));
            if !open {
                *place = None;
            }
        }
        relay.flush(|token, bytes| {
            let place = usize::try_from(token)
                .ok()
                .and_then(|place| clients.get_mut(place));
            let Some(place) = place else { return };
            let written = place
                .as_mut()
                .map(|client| write_all(&mut client.stream, bytes));
            if !matches!(written, Some(Ok(()))) {
                *place = None;
            }
        });
    }
    Ok(())
}

fn accept<S: Sink>(
    listener: &TcpListener,
    epoll: &OwnedFd,
    clients: &mut Vec<Option<Client<S>>>,
    fresh: &S,
) -> std::io::Result<()> {
    let (stream, _) = match listener.accept() {
        Ok(accepted) => accepted,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    };
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    epoll::add(
        epoll,
        &stream,
        epoll::EventData::new_u64(clients.len() as u64),
        epoll::EventFlags::IN,
    )?;
    clients.push(Some(Client {
        stream,
        sink: fresh.clone(),
        tail: Vec::new(),
        out: Vec::new(),
    }));
    Ok(())
}

impl<S: Sink> Client<S> {
    /// One read and one write; false at the end of the stream.
    fn answer(&mut self, buffer: &mut Vec<u8>, relay: &mut Relay) -> std::io::Result<bool> {
        let kept = self.tail.len();
        if kept * 2 > buffer.len() {
            // A command larger than the buffer, of a sink that wants it whole.
            buffer.resize(kept * 4, 0);
        }
        if let Some(front) = buffer.get_mut(..kept) {
            front.copy_from_slice(&self.tail);
        }
        let count = match self.stream.read(buffer.get_mut(kept..).unwrap_or_default()) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        let input = buffer.get(..kept + count).unwrap_or_default();
        self.out.clear();
        let used = self.sink.answer(input, &mut self.out, relay);
        self.tail.clear();
        self.tail
            .extend_from_slice(input.get(used..).unwrap_or_default());
        write_all(&mut self.stream, &self.out)?;
        Ok(true)
    }
}

fn write_all(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(count) => written += count,
            // The generator never stops reading, so there is room again soon.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
