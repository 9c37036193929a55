//! beanstalkd's protocol as the generator speaks it: put, reserve, delete.
//!
//! Puts and reserves are encoded once a load and written from there; a delete is built by copying the id's digits out of
//! the RESERVED line. Bodies are skipped, not stored. Bodies of producers start with the time they were sent, so that
//! workers can tell how long a job took from producer to worker.

mod frames;
mod parse;
mod sink;
#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;

use frames::{Frames, STAMP_BYTES, SharedPuts};
use parse::{Line, line, refusal, reserved};

use crate::error::BenchError;
use crate::load::{Flow, Role, Seat};
use crate::protocol::{Next, Protocol, Replies, Session};

/// Indexes into [`COMMANDS`].
const PUT: usize = 0;
const RESERVE: usize = 1;
const DELETE: usize = 2;
const COMMANDS: &[&str] = &["put", "reserve", "delete"];

/// The protocol.
#[derive(Debug, Default)]
pub(crate) struct Beanstalk {
    puts: SharedPuts,
}

/// Which bytes the current burst consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Burst {
    Put(u32),
    Reserve(u32),
    Delete,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct BeanstalkSession {
    role: Role,
    depth: u32,
    budget: Option<u64>,
    /// Shared by all connections; a producer, which writes times into them, gets its own copy.
    puts: Arc<Frames>,
    reserves: Frames,
    burst: Burst,
    /// Puts of the current cycle that the server took.
    accepted: u32,
    /// The delete commands for the jobs held, and their number.
    deletes: Vec<u8>,
    held: u32,
    /// Bytes of a body (and its CR LF) that are still to come.
    skip: usize,
    /// A reserve was answered without a job.
    exhausted: bool,
}

impl Protocol for Beanstalk {
    type Session = BeanstalkSession;
    type Sink = sink::BeanstalkSink;

    fn commands(&self) -> &'static [&'static str] {
        COMMANDS
    }

    fn open<S: Read + Write>(
        &self,
        seat: &Seat,
        stream: &mut S,
    ) -> Result<BeanstalkSession, BenchError> {
        let queue = format!("{}-{}", seat.queue_prefix, seat.queue);
        let setup = format!("use {queue}\r\nwatch {queue}\r\nignore default\r\n");
        stream
            .write_all(setup.as_bytes())
            .map_err(BenchError::io("sending use and watch"))?;
        {
            let mut reader = BufReader::new(&mut *stream);
            for (command, prefix) in [
                ("use", "USING "),
                ("watch", "WATCHING "),
                ("ignore", "WATCHING "),
            ] {
                let mut reply = String::new();
                reader
                    .read_line(&mut reply)
                    .map_err(BenchError::io("reading the reply to use and watch"))?;
                if reply.is_empty() {
                    return Err(BenchError::Closed {
                        connection: seat.connection,
                    });
                }
                if !reply.starts_with(prefix) {
                    return Err(BenchError::UnexpectedReply { command, reply });
                }
            }
        }
        if seat.role == Role::Idle {
            // A subscription that waits, which is what an idle worker is.
            stream
                .write_all(b"reserve\r\n")
                .map_err(BenchError::io("sending reserve"))?;
        }
        Ok(BeanstalkSession::new(
            seat,
            self.puts.get(seat.body_bytes, seat.depth),
        ))
    }

    fn sink(&self, body_bytes: usize) -> sink::BeanstalkSink {
        sink::BeanstalkSink::new(body_bytes)
    }
}

impl BeanstalkSession {
    fn new(seat: &Seat, puts: Arc<Frames>) -> Self {
        // A worker holds one job at a time: with several blocked reserves on a connection it would sit on the first
        // jobs until the last one came.
        let depth = if seat.role == Role::Work {
            1
        } else {
            seat.depth
        };
        let reserve: &[u8] = if seat.role == Role::Drain {
            b"reserve-with-timeout 0\r\n"
        } else {
            b"reserve\r\n"
        };
        BeanstalkSession {
            role: seat.role,
            depth,
            budget: seat.budget,
            puts,
            reserves: Frames::new(reserve, depth),
            burst: Burst::Delete,
            accepted: 0,
            deletes: Vec::new(),
            held: 0,
            skip: 0,
            exhausted: false,
        }
    }

    fn put(&mut self, now_ns: u64, stopping: bool, flow: &Flow) -> Next {
        let count = self.budget.map_or(self.depth, |left| {
            u32::try_from(left).unwrap_or(u32::MAX).min(self.depth)
        });
        if stopping || count == 0 {
            return Next::Done;
        }
        if self.role == Role::Produce && !flow.admit(count) {
            return Next::Park;
        }
        self.budget = self.budget.map(|left| left - u64::from(count));
        if self.role == Role::Produce {
            Arc::make_mut(&mut self.puts).stamp(count, now_ns);
        }
        self.accepted = 0;
        self.burst = Burst::Put(count);
        Next::Burst {
            command: PUT,
            count,
        }
    }

    fn reserve(&mut self, count: u32) -> Next {
        self.deletes.clear();
        self.held = 0;
        self.burst = Burst::Reserve(count);
        Next::Burst {
            command: RESERVE,
            count,
        }
    }

    fn delete(&mut self) -> Next {
        self.burst = Burst::Delete;
        Next::Burst {
            command: DELETE,
            count: self.held,
        }
    }

    /// One reply to a reserve: the line, then the body, of which nothing but the stamp is looked at. False while the
    /// stamp is incomplete; then the line is presented again.
    fn on_reserved(
        &mut self,
        line: &Line<'_>,
        rest: &[u8],
        replies: &mut Replies,
    ) -> Result<bool, BenchError> {
        let Some((id, bytes)) = reserved(line.text) else {
            let name = refusal(line.text).ok_or_else(|| unexpected(RESERVE, line.text))?;
            // Whatever the reason, a drain gets no further.
            self.exhausted = true;
            if self.role == Role::Drain && name == "TIMED_OUT" {
                replies.done += 1;
            } else {
                replies.refuse(name);
            }
            return Ok(true);
        };
        if self.role == Role::Work && bytes >= STAMP_BYTES {
            let Some(stamp) = rest.get(..STAMP_BYTES) else {
                return Ok(false);
            };
            if let Some(sent_ns) = std::str::from_utf8(stamp)
                .ok()
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            {
                replies.sent_ns.push(sent_ns);
            }
        }
        self.deletes.extend_from_slice(b"delete ");
        self.deletes.extend_from_slice(id);
        self.deletes.extend_from_slice(b"\r\n");
        self.held += 1;
        // The reply is counted when its last byte is in: by then `skip` is 0 again.
        self.skip = bytes + 2;
        Ok(true)
    }
}

impl Session for BeanstalkSession {
    fn next(&mut self, now_ns: u64, stopping: bool, flow: &Flow) -> Next {
        match (self.role, self.burst) {
            // Jobs come only to those who ask for them.
            // Nobody is sent what was not asked for.
            (
                Role::Idle
                | Role::Subscribe(_)
                | Role::Request
                | Role::Respond
                | Role::Resume
                | Role::Forget,
                _,
            ) => Next::Done,
            (Role::Put | Role::Produce, _) => self.put(now_ns, stopping, flow),
            (Role::Cycle, Burst::Put(_)) if self.accepted > 0 => self.reserve(self.accepted),
            (_, Burst::Reserve(_)) if self.held > 0 => self.delete(),
            (Role::Cycle, _) => self.put(now_ns, stopping, flow),
            (Role::Drain, _) if self.exhausted => Next::Done,
            (Role::Work, _) if flow.is_drained() => Next::Done,
            (Role::Drain | Role::Work, _) => self.reserve(self.depth),
        }
    }

    fn outgoing(&self) -> &[u8] {
        match self.burst {
            Burst::Put(count) => self.puts.first(count),
            Burst::Reserve(count) => self.reserves.first(count),
            Burst::Delete => &self.deletes,
        }
    }

    fn consume(
        &mut self,
        input: &[u8],
        replies: &mut Replies,
        flow: &Flow,
    ) -> Result<usize, BenchError> {
        let mut used = 0;
        loop {
            let mut rest = input.get(used..).unwrap_or_default();
            if self.skip > 0 {
                let now = self.skip.min(rest.len());
                self.skip -= now;
                used += now;
                if self.skip > 0 {
                    return Ok(used);
                }
                replies.done += 1;
                rest = input.get(used..).unwrap_or_default();
            }
            let Some(line) = line(rest).map_err(|text| unexpected(self.command(), text))? else {
                return Ok(used);
            };
            let after = rest.get(line.bytes..).unwrap_or_default();
            match self.burst {
                Burst::Put(_) if line.text.starts_with(b"INSERTED ") => {
                    self.accepted += 1;
                    replies.done += 1;
                }
                Burst::Put(_) => {
                    replies.refuse(refusal(line.text).ok_or_else(|| unexpected(PUT, line.text))?);
                    if self.role == Role::Produce {
                        flow.leave(1);
                    }
                }
                Burst::Reserve(_) => {
                    if !self.on_reserved(&line, after, replies)? {
                        return Ok(used);
                    }
                }
                Burst::Delete => {
                    if line.text == b"DELETED" {
                        replies.done += 1;
                    } else {
                        replies.refuse(
                            refusal(line.text).ok_or_else(|| unexpected(DELETE, line.text))?,
                        );
                    }
                    if self.role == Role::Work {
                        flow.leave(1);
                    }
                }
            }
            used += line.bytes;
        }
    }

    fn is_blocked(&self) -> bool {
        self.role == Role::Work && matches!(self.burst, Burst::Reserve(_)) && self.held == 0
    }
}

impl BeanstalkSession {
    fn command(&self) -> usize {
        match self.burst {
            Burst::Put(_) => PUT,
            Burst::Reserve(_) => RESERVE,
            Burst::Delete => DELETE,
        }
    }
}

fn unexpected(command: usize, reply: &[u8]) -> BenchError {
    BenchError::UnexpectedReply {
        command: COMMANDS.get(command).copied().unwrap_or("command"),
        reply: String::from_utf8_lossy(reply.get(..80).unwrap_or(reply)).into_owned(),
    }
}
