//! No network at all: what is written is answered on the spot by the null sink's answering half, in the generator's own
//! thread, and the answer waits in memory until it is read. So a load here measures the generator alone: its encoding,
//! decoding, clocks and counters, with the sink's look at each command on top.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use super::{Network, Ready};
use crate::error::BenchError;
use crate::null::Relay;
use crate::protocol::Sink;

/// Connections to a sink in this thread.
#[derive(Debug)]
pub(crate) struct Memory<S> {
    world: Rc<RefCell<World<S>>>,
}

/// Both ends of all connections.
#[derive(Debug)]
struct World<S> {
    /// What each connection's other end starts as.
    fresh: S,
    ends: Vec<End<S>>,
    relay: Relay,
    /// The ends with something to read, each once.
    ready: Vec<usize>,
}

/// One connection: the sink's state, and what the generator has not read.
#[derive(Debug)]
struct End<S> {
    sink: S,
    /// The start of a command whose rest is not written yet.
    partial: Vec<u8>,
    inbox: Vec<u8>,
    /// Bytes of it that are read.
    read: usize,
    is_ready: bool,
    /// None before it is watched.
    token: Option<usize>,
}

/// The generator's end of a connection.
#[derive(Debug)]
pub(crate) struct Pipe<S> {
    world: Rc<RefCell<World<S>>>,
    place: usize,
}

impl<S: Sink> Memory<S> {
    /// No connection yet; each will be answered by a copy of `fresh`.
    pub(crate) fn new(fresh: S) -> Memory<S> {
        Memory {
            world: Rc::new(RefCell::new(World {
                fresh,
                ends: Vec::new(),
                relay: Relay::default(),
                ready: Vec::new(),
            })),
        }
    }
}

impl<S: Sink> World<S> {
    /// Takes what was written; the answers are there when this returns.
    fn answer(&mut self, place: usize, bytes: &[u8]) {
        let Some(end) = self.ends.get_mut(place) else {
            return;
        };
        self.relay.turn_to(place as u64);
        if end.partial.is_empty() {
            let used = end.sink.answer(bytes, &mut end.inbox, &mut self.relay);
            end.partial
                .extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            end.partial.extend_from_slice(bytes);
            let used = end
                .sink
                .answer(&end.partial, &mut end.inbox, &mut self.relay);
            end.partial.drain(..used);
        }
        end.tell(place, &mut self.ready);
    }

    /// Hands out what connections said to each other.
    fn pass_on(&mut self) {
        let World {
            ends, relay, ready, ..
        } = self;
        relay.flush(|member, bytes| {
            let place = usize::try_from(member).unwrap_or(usize::MAX);
            if let Some(end) = ends.get_mut(place) {
                end.inbox.extend_from_slice(bytes);
                end.tell(place, ready);
            }
        });
    }
}

impl<S> End<S> {
    /// Puts it among the ready ones if there is something to read.
    fn tell(&mut self, place: usize, ready: &mut Vec<usize>) {
        if !self.is_ready && self.read < self.inbox.len() {
            self.is_ready = true;
            ready.push(place);
        }
    }
}

impl<S: Sink> Network for Memory<S> {
    type Stream = Pipe<S>;

    fn connect(&mut self, _connection: u32) -> Result<Pipe<S>, BenchError> {
        let mut world = self.world.borrow_mut();
        let sink = world.fresh.clone();
        world.ends.push(End {
            sink,
            partial: Vec::new(),
            inbox: Vec::new(),
            read: 0,
            is_ready: false,
            token: None,
        });
        Ok(Pipe {
            world: Rc::clone(&self.world),
            place: world.ends.len() - 1,
        })
    }

    fn watch(&mut self, stream: &mut Pipe<S>, token: usize) -> Result<(), BenchError> {
        if let Some(end) = self.world.borrow_mut().ends.get_mut(stream.place) {
            end.token = Some(token);
        }
        Ok(())
    }

    /// There is always room.
    fn watch_room(
        &mut self,
        _stream: &mut Pipe<S>,
        _token: usize,
        _wanted: bool,
    ) -> Result<(), BenchError> {
        Ok(())
    }

    fn wait(
        &mut self,
        at_most: Duration,
        alarm: Option<Duration>,
        ready: &mut Vec<Ready>,
    ) -> Result<(), BenchError> {
        ready.clear();
        let mut world = self.world.borrow_mut();
        world.pass_on();
        if world.ready.is_empty() {
            // Nobody else is there to write anything.
            thread::sleep(alarm.map_or(at_most, |alarm| alarm.min(at_most)));
            return Ok(());
        }
        let World {
            ends, ready: told, ..
        } = &mut *world;
        for place in told.drain(..) {
            let Some(end) = ends.get_mut(place) else {
                continue;
            };
            end.is_ready = false;
            if let Some(token) = end.token {
                ready.push(Ready {
                    token,
                    input: true,
                    room: false,
                });
            }
        }
        Ok(())
    }
}

impl<S: Sink> Read for Pipe<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.world.borrow_mut();
        let World { ends, ready, .. } = &mut *world;
        let Some(end) = ends.get_mut(self.place) else {
            return Ok(0);
        };
        let unread = end.inbox.get(end.read..).unwrap_or_default();
        if unread.is_empty() {
            // In a handshake too: an answer that is not there now never comes.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = { unread }.read(buffer)?;
        end.read += count;
        // As much is moved as was read at most, and what is read does not pile up.
        if end.read * 2 >= end.inbox.len() {
            end.inbox.drain(..end.read);
            end.read = 0;
        }
        end.tell(self.place, ready);
        Ok(count)
    }
}

impl<S: Sink> Write for Pipe<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.world.borrow_mut().answer(self.place, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each whole line with itself, and passes it on to all who wrote `join`.
    #[derive(Clone, Debug)]
    struct Lines;

    impl Sink for Lines {
        fn answer(&mut self, input: &[u8], out: &mut Vec<u8>, relay: &mut Relay) -> usize {
            let whole = input
                .iter()
                .rposition(|&byte| byte == b'\n')
                .map_or(0, |end| end + 1);
            for line in input
                .get(..whole)
                .unwrap_or_default()
                .split_inclusive(|&byte| byte == b'\n')
            {
                match line {
                    b"join\n" => relay.join(b"all", None),
                    line => {
                        out.extend_from_slice(line);
                        relay.send(b"all", line);
                    }
                }
            }
            whole
        }
    }

    fn ready(memory: &mut Memory<Lines>) -> Vec<usize> {
        let mut ready = Vec::new();
        memory
            .wait(Duration::ZERO, None, &mut ready)
            .expect("nothing fails here");
        ready.iter().map(|ready| ready.token).collect()
    }

    fn text(pipe: &mut Pipe<Lines>, bytes: usize) -> String {
        let mut buffer = vec![0; bytes];
        let count = pipe.read(&mut buffer).expect("something to read");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn what_is_written_is_answered_and_passed_on() {
        let mut memory = Memory::new(Lines);
        let mut pipes: Vec<_> = (0..2)
            .map(|number| memory.connect(number).expect("a connection"))
            .collect();
        for (token, pipe) in pipes.iter_mut().enumerate() {
            memory.watch(pipe, token).expect("watched");
        }
        let [one, two] = &mut pipes[..] else {
            panic!("two connections");
        };
        two.write_all(b"join\n").expect("room");
        assert_eq!(ready(&mut memory), [0; 0]);
        let nothing = one.read(&mut [0]).expect_err("nothing to read");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);

        one.write_all(b"a\nb").expect("room");
        one.write_all(b"c\n").expect("room");
        assert_eq!(ready(&mut memory), [0, 1]);
        assert_eq!(text(one, 100), "a\nbc\n");
        // What is left over is told again.
        assert_eq!(text(two, 3), "a\nb");
        assert_eq!(ready(&mut memory), [1]);
        assert_eq!(text(two, 3), "c\n");
        assert_eq!(ready(&mut memory), [0; 0]);

        // One that is always behind keeps no more than what it has not read.
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        for _ in 0..1000 {
            one.write_all(&line).expect("room");
            assert_eq!(ready(&mut memory).len(), 2);
            assert_eq!(text(one, 100).len(), 100);
            assert_eq!(text(two, 99).len(), 99);
        }
        let behind = &memory.world.borrow().ends[1];
        assert!(
            behind.inbox.len() < 2 * 1000 + 200,
            "{}",
            behind.inbox.len()
        );
    }
}
