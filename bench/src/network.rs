//! What carries the bytes of a generator thread's connections: [sockets](Sockets), or [memory](Memory), which leaves the
//! kernel out.

mod alarm;
mod memory;
mod sockets;

pub(crate) use memory::Memory;
pub(crate) use sockets::{Sockets, connect};

use std::io::{Read, Write};
use std::time::Duration;

use crate::error::BenchError;

/// The ends of one thread's connections, and what tells which of them can go on.
pub(crate) trait Network {
    /// One end. Until it is [watched](Network::watch) it blocks, for the handshake; from then on it does not.
    type Stream: Read + Write;

    /// Opens the load's connection of this number.
    fn connect(&mut self, connection: u32) -> Result<Self::Stream, BenchError>;

    /// From here on [`wait`](Network::wait) tells when there is something to read, by this token.
    fn watch(&mut self, stream: &mut Self::Stream, token: usize) -> Result<(), BenchError>;

    /// Whether it should tell when there is room to write, too.
    fn watch_room(
        &mut self,
        stream: &mut Self::Stream,
        token: usize,
        wanted: bool,
    ) -> Result<(), BenchError>;

    /// Waits until a connection can go on, but no longer than `at_most`, to the millisecond, or `alarm`, which is exact;
    /// replaces `ready` by those that can.
    fn wait(
        &mut self,
        at_most: Duration,
        alarm: Option<Duration>,
        ready: &mut Vec<Ready>,
    ) -> Result<(), BenchError>;
}

/// A connection that can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) token: usize,
    /// There is something to read, if only the end.
    pub(crate) input: bool,
    /// There is room to write.
    pub(crate) room: bool,
}
