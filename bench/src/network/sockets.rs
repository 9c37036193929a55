//! Connections over TCP, on one epoll. Level-triggered; writability is watched only where it is asked for.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fd::OwnedFd;

use super::alarm::{Alarm, timespec};
use super::{Network, Ready};
use crate::error::BenchError;

/// Events taken from epoll at once.
const EVENTS_MAX: usize = 512;
/// How long connecting and each step of the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections to one server.
pub(crate) struct Sockets {
    target: SocketAddr,
    epoll: OwnedFd,
    alarm: Alarm,
    events: Vec<epoll::Event>,
}

impl Sockets {
    /// None yet.
    pub(crate) fn new(target: SocketAddr) -> Result<Sockets, BenchError> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("creating an epoll"))?;
        Ok(Sockets {
            target,
            alarm: Alarm::new(&epoll)?,
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }
}

impl Network for Sockets {
    type Stream = TcpStream;

    fn connect(&mut self, connection: u32) -> Result<TcpStream, BenchError> {
        connect(self.target, connection)
    }

    fn watch(&mut self, stream: &mut TcpStream, token: usize) -> Result<(), BenchError> {
        stream
            .set_nonblocking(true)
            .map_err(BenchError::io("making a socket non-blocking"))?;
        let token = epoll::EventData::new_u64(token as u64);
        epoll::add(&self.epoll, &*stream, token, epoll::EventFlags::IN)
            .map_err(failed("watching a socket"))
    }

    fn watch_room(
        &mut self,
        stream: &mut TcpStream,
        token: usize,
        wanted: bool,
    ) -> Result<(), BenchError> {
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, wanted);
        let token = epoll::EventData::new_u64(token as u64);
        epoll::modify(&self.epoll, &*stream, token, flags).map_err(failed("watching a socket"))
    }

    fn wait(
        &mut self,
        at_most: Duration,
        alarm: Option<Duration>,
        ready: &mut Vec<Ready>,
    ) -> Result<(), BenchError> {
        ready.clear();
        self.events.clear();
        self.alarm.set(alarm)?;
        let room = spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, room, Some(&timespec(at_most))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed("waiting for sockets")(errno)),
        }
        let ends = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        ready.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            Ready {
                // The alarm's is no connection's either way.
                token: usize::try_from(event.data.u64()).unwrap_or(usize::MAX),
                input: flags.intersects(epoll::EventFlags::IN | ends),
                room: flags.contains(epoll::EventFlags::OUT),
            }
        }));
        Ok(())
    }
}

/// A blocking connection with timeouts, ready for a handshake.
pub(crate) fn connect(target: SocketAddr, connection: u32) -> Result<TcpStream, BenchError> {
    let failed = |source| BenchError::Connect {
        target,
        connection,
        source,
    };
    let stream = TcpStream::connect_timeout(&target, HANDSHAKE).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(HANDSHAKE)).map_err(failed)?;
    stream.set_write_timeout(Some(HANDSHAKE)).map_err(failed)?;
    Ok(stream)
}

fn failed(doing: &'static str) -> impl Fn(rustix::io::Errno) -> BenchError {
    move |errno| BenchError::Io {
        doing,
        source: errno.into(),
    }
}
