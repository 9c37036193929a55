//! Reading a stream in sequence order without consuming it, and following it as it grows.

use longtail_model::{Lsn, Seq, StreamId};

use super::logs::Logs;
use super::session::Blocked;
use super::timers::Timer;
use super::{Outcome, Shard, now_reply};
use crate::command::{Start, Token, Wait};
use crate::config::StreamName;
use crate::effect::{Effect, Effects, Gate, Refusal, Reply};
use crate::stream::SessionKey;

/// Records looked at by one read before it answers with what it has: in a shared sequence space most may belong to
/// other streams.
const SCAN_MAX: usize = 65_536;

/// The gate of what was found, that, where to read on, and whether there may be more.
type Found = (Gate, Vec<(Seq, Lsn)>, Seq, bool);

/// Messages in one batch at most.
const BATCH_MAX: u32 = 4_096;

impl Shard {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn read(
        &mut self,
        key: SessionKey,
        token: Token,
        name: &StreamName,
        from: Seq,
        max: u32,
        max_bytes: u64,
        wait: Wait,
        fx: &mut dyn Effects,
    ) {
        let Some(id) = self.sessions.get(key).map(|state| state.id) else {
            return;
        };
        let Some(&stream) = self.names.get(name) else {
            return fx.emit(id, Gate::OPEN, Effect::Reply(token, Reply::NotFound));
        };
        let (gate, messages, next, more) = match self.collect(stream, from, max, max_bytes) {
            Ok(found) => found,
            Err(refusal) => {
                let reply = Reply::Refused(refusal);
                return fx.emit(id, Gate::OPEN, Effect::Reply(token, reply));
            }
        };
        let nothing = messages.is_empty() && !more;
        let timeout = match wait {
            Wait::Millis(ms) if nothing => Some(
                self.timers
                    .insert(self.now.plus_millis(ms), Timer::Take(key)),
            ),
            Wait::Forever if nothing => None,
            _ => {
                return fx.emit(
                    id,
                    gate,
                    Effect::Reply(token, Reply::Batch { messages, next }),
                );
            }
        };
        self.sessions[key].blocked = Some(Blocked::Read {
            token,
            stream,
            from: next,
            max,
            max_bytes,
            timeout,
        });
        if let Some(state) = self.streams.get_mut(&stream) {
            state.extra.make().readers.push(key);
        }
    }

    /// The number from which a reader finds what `start` says.
    pub(crate) fn start_in(&mut self, name: &StreamName, start: Start) -> Outcome {
        let Some(&stream) = self.names.get(name) else {
            return now_reply(Reply::NotFound);
        };
        let from = self.start_of(stream, start)?;
        now_reply(Reply::Located(from))
    }

    /// What is there from `from` on, where to read on, and whether the search was cut short.
    ///
    /// # Errors
    /// When nothing was found before an index page that cannot be read.
    fn collect(
        &mut self,
        stream: StreamId,
        from: Seq,
        max: u32,
        max_bytes: u64,
    ) -> Result<Found, Refusal> {
        let mut messages = Vec::new();
        let mut next = from.max(Seq::FIRST);
        let mut gate = Gate::OPEN;
        let Some(state) = self.streams.get(&stream) else {
            return Ok((gate, messages, next, false));
        };
        let (index, level) = (state.index, state.level);
        let mut bytes = 0;
        for _ in 0..SCAN_MAX {
            if messages.len() >= max.clamp(1, BATCH_MAX) as usize {
                return Ok((gate, messages, next, true));
            }
            let (seq, position) = match self.next_in(index, next) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok((gate, messages, next, false)),
                // The next read begins there, and says so.
                Err(_) if !messages.is_empty() => return Ok((gate, messages, next, true)),
                Err(refusal) => return Err(refusal),
            };
            if let Ok(head) = self.head_in(index, seq, position)
                && head.stream == stream
            {
                bytes += head.bytes;
                if !messages.is_empty() && bytes > max_bytes {
                    return Ok((gate, messages, next, true));
                }
                let behind = Logs::gate_of(position, level);
                if behind.lsn > gate.lsn {
                    gate = behind;
                }
                messages.push((seq, position));
            }
            next = seq.next();
        }
        Ok((gate, messages, next, true))
    }

    /// Something was appended: whoever waits to read it goes on.
    pub(crate) fn wake_readers(&mut self, stream: StreamId, fx: &mut dyn Effects) {
        let Some(state) = self
            .streams
            .get_mut(&stream)
            .filter(|state| !state.extra.readers.is_empty())
        else {
            return;
        };
        for key in state.take_readers() {
            let Some(Blocked::Read {
                from,
                max,
                max_bytes,
                ..
            }) = self
                .sessions
                .get(key)
                .and_then(|state| state.blocked.as_ref())
            else {
                continue;
            };
            let (from, max, max_bytes) = (*from, *max, *max_bytes);
            let (gate, messages, next, more) = match self.collect(stream, from, max, max_bytes) {
                Ok(found) => found,
                Err(refusal) => {
                    self.end_take(key, Reply::Refused(refusal), Gate::OPEN, fx);
                    continue;
                }
            };
            if messages.is_empty() && !more {
                if let Some(state) = self.streams.get_mut(&stream) {
                    state.extra.make().readers.push(key);
                }
                continue;
            }
            self.end_take(key, Reply::Batch { messages, next }, gate, fx);
        }
    }
}
