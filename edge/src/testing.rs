//! The smallest protocol: a worked example, and what the tests and benchmarks of this crate speak.

use std::sync::Arc;

use crate::close::CloseReason;
use crate::connection::Connection;
use crate::out::Out;
use crate::protocol::{Input, Protocol, Refusal};

/// Takes everything out of an outbox, as it would be written.
pub fn written(out: &mut Out) -> Vec<u8> {
    let mut all = Vec::new();
    while !out.is_empty() {
        all.extend_from_slice(out.front());
        out.advance(out.front().len());
    }
    all
}

/// Answers every line with the same line; `quit` ends the conversation.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineEcho;

impl Protocol for LineEcho {
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
        let mut consumed = 0;
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            if !line.ends_with(b"\n") {
                break;
            }
            consumed += line.len();
            if line == b"quit\n" {
                return Input::close(consumed, CloseReason::Finished);
            }
            out.put(line);
        }
        Input::read(consumed)
    }
}
