//! The owner task of a connection: reads, shows the protocol its input, writes what others could not.
//!
//! Input is read into a buffer that all connections of a worker share; only what the protocol leaves is kept by the
//! connection, so that an idle one has no read buffer. After a read that did not fill the buffer tokio knows that the
//! socket is empty, and no system call is spent on hearing it.

mod kept;
mod pace;
mod turn;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tracing::debug;

use self::kept::Kept;
use self::pace::Pace;
use self::turn::Turn;
use crate::close::CloseReason;
use crate::connection::{Connection, signal};
use crate::metrics::RefusalCause;
use crate::protocol::{Draining, Ended, Idle, Protocol, Then};
use crate::stream::Reader;
use crate::tick::{Local, with_local};

/// What one read can bring.
const READ_BYTES: usize = 64 * 1024;

/// Input up to this size that was kept is joined with new input in the shared buffer; longer input is collected apart.
const HEADROOM: usize = 16 * 1024;

/// Size of a worker's shared buffer.
pub(crate) const SCRATCH_BYTES: usize = HEADROOM + READ_BYTES;

/// Input that is read ahead while the protocol pauses, so that the peer's end is noticed.
const PAUSED_INPUT_MAX: usize = 16 * 1024;

/// Input that is thrown away while a closed connection waits for its peer's end. Closing the socket over unread input
/// would make the system reset the connection and the peer lose our last words.
const LINGER_BYTES: usize = 1024 * 1024;

/// The owner task.
pub(crate) struct Driver<P: Protocol> {
    conn: Arc<Connection<P>>,
    reader: Reader,
    kept: Kept,
    flow: Flow,
    /// Kept input is to be shown without waiting for more.
    show_again: bool,
    /// The protocol is to be told of room in the outbox.
    room: bool,
    /// The last write did not finish.
    writing: bool,
    end: End,
    closing: Closing,
    pace: Option<Box<Pace>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Free,
    /// [`Then::Pause`].
    Paused,
    /// [`Then::Drain`].
    AwaitsDrain,
}

/// Whether the peer's input has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// The protocol is still to be told.
    Seen,
    /// The protocol wants to go on writing.
    Told,
}

enum Closing {
    Writing,
    ShuttingDown,
    Lingering { discarded: usize },
}

/// Where to go on.
enum Step {
    Again,
    /// Let other tasks, above all the tick, run first.
    Yield,
    Wait,
}

impl<P: Protocol> Driver<P> {
    /// Opens the session. `first` is input that came with a handshake.
    pub(crate) fn open(conn: Arc<Connection<P>>, reader: Reader, first: &[u8]) -> Self {
        let core = &conn.core;
        core.shared().table.insert(conn.id(), conn.clone());
        core.has_read(first.len());
        let rate = core.listener().config.read_rate_bytes_per_second;
        let now = core.shared().clock.since_start();
        let pace = rate.map(|rate| Box::new(Pace::new(rate, now)));
        let mut kept = Kept::default();
        kept.push(first);
        // From here on, whatever goes wrong, dropping the driver gives everything back.
        let driver = Driver {
            conn,
            reader,
            kept,
            flow: Flow::Free,
            show_again: !first.is_empty(),
            room: false,
            writing: false,
            end: End::NotYet,
            closing: Closing::Writing,
            pace,
        };
        driver.open_session();
        driver
    }

    fn open_session(&self) {
        let core = &self.conn.core;
        {
            let state = &mut *self.conn.state.lock();
            match self.conn.protocol().open(&self.conn, &mut state.out) {
                Ok(session) => {
                    state.session = Some(session);
                    core.over.store(false, Ordering::Release);
                }
                Err(refusal) => {
                    core.listener().metrics.refuse(RefusalCause::Protocol);
                    state.out.put_bytes(refusal.farewell);
                    core.begin_close(state, CloseReason::Refused(refusal.why));
                }
            }
        }
        // A drain that began before the table knew this connection has not told it.
        if core.shared().draining.load(Ordering::Acquire) {
            core.signal(signal::DRAIN);
        }
        self.conn.enlist();
    }

    fn advance(&mut self, cx: &mut Context<'_>, local: &Local) -> Poll<()> {
        self.conn.core.know_owner(cx);
        let mut turn = Turn::default();
        let mut told_of_room = std::mem::take(&mut self.room);
        loop {
            let core = &self.conn.core;
            let signals = match core.signals.load(Ordering::Relaxed) {
                0 => 0,
                _ => core.signals.swap(0, Ordering::AcqRel),
            };
            if signals & signal::CUT != 0 {
                self.end_session(CloseReason::Shutdown);
                return Poll::Ready(());
            }
            if signals & signal::ROOM != 0 {
                // A protocol that fills the room at once is told again at once: the runtime looks for what has arrived
                // on other connections before it wakes this task for that.
                self.room = true;
                let rest = std::pin::pin!(tokio::task::yield_now());
                let _ = rest.poll(cx);
            }
            let mut asked = signals & (signal::DRAIN | signal::IDLE);
            if std::mem::take(&mut told_of_room) {
                asked |= signal::ROOM;
            }
            if asked != 0 {
                self.ask_protocol(asked);
            }
            if signals & signal::RESUME != 0 && self.flow == Flow::Paused {
                self.flow = Flow::Free;
                self.show_again = true;
            }
            if signals & signal::WRITE != 0 || self.writing {
                self.write(cx);
            }
            let step = if self.conn.core.closing.load(Ordering::Acquire) {
                // What the last input asked for is submitted, and answered if that can be done at once, before the end.
                if self.conn.core.enlisted.load(Ordering::Relaxed) {
                    Step::Yield
                } else {
                    return self.poll_closing(cx, local);
                }
            } else {
                self.poll_input(cx, local, &mut turn)
            };
            match step {
                Step::Again => {}
                Step::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Wait => return Poll::Pending,
            }
        }
    }

    /// Writes what only the owner can: the rest of a full socket, or through a wrapped stream.
    fn write(&mut self, cx: &mut Context<'_>) {
        let state = &mut *self.conn.state.lock();
        let before = state.out.len();
        let Some(writer) = state.writer.as_mut() else {
            return;
        };
        let written = writer.poll_write(&mut self.reader, cx, &mut state.out);
        state.blocked = written.is_pending();
        self.writing = state.blocked;
        if let Poll::Ready(Err(error)) = written {
            state.out.clear();
            self.conn
                .core
                .begin_close(state, CloseReason::Io(error.kind()));
        }
        self.conn.core.wrote(state, before);
    }

    fn ask_protocol(&self, signals: u32) {
        let core = &self.conn.core;
        if core.closing.load(Ordering::Acquire) {
            return;
        }
        let state = &mut *self.conn.state.lock();
        let Some(session) = state.session.as_mut() else {
            return;
        };
        let protocol = self.conn.protocol();
        if signals & signal::ROOM != 0 {
            protocol.has_room(session, &mut state.out);
        }
        if signals & signal::IDLE != 0 && protocol.idle(session, &mut state.out) == Idle::Close {
            core.begin_close(state, CloseReason::Idle);
        } else if signals & signal::DRAIN != 0
            && protocol.draining(session, &mut state.out) == Draining::Close
        {
            core.begin_close(state, CloseReason::Draining);
        }
        self.conn.enlist();
    }

    fn poll_input(&mut self, cx: &mut Context<'_>, local: &Local, turn: &mut Turn) -> Step {
        let enlisted = self.conn.core.enlisted.load(Ordering::Relaxed);
        if self.flow == Flow::AwaitsDrain {
            if enlisted {
                return Step::Yield;
            }
            if self.must_await_drain(self.conn.core.drained_at()) {
                return Step::Wait;
            }
            self.flow = Flow::Free;
            self.show_again = true;
        }
        if std::mem::take(&mut self.show_again) && !self.kept.is_empty() {
            self.show_kept();
            return if self.show_again {
                Step::Yield
            } else {
                Step::Again
            };
        }
        match self.end {
            End::NotYet => {}
            End::Seen if enlisted => return Step::Yield,
            End::Seen => return self.tell_end(),
            End::Told => return Step::Wait,
        }
        if self.must_await_drain(self.conn.core.listener().config.outbox_soft_bytes) {
            return Step::Wait;
        }
        if self.conn.core.must_await_memory() {
            self.conn.core.awaits_memory.store(true, Ordering::Release);
            return Step::Wait;
        }
        if let Some(pace) = &mut self.pace
            && pace.poll_rest(cx).is_pending()
        {
            return Step::Wait;
        }
        self.read(cx, local, turn)
    }

    /// Whether the outbox holds more than `limit`; if so, the one who drains it wakes this task.
    fn must_await_drain(&self, limit: usize) -> bool {
        let core = &self.conn.core;
        if core.outbox.load(Ordering::Relaxed) <= limit {
            return false;
        }
        let _state = self.conn.state.lock();
        let wait = core.outbox.load(Ordering::Relaxed) > limit;
        core.awaits_drain.store(wait, Ordering::Relaxed);
        wait
    }

    fn read(&mut self, cx: &mut Context<'_>, local: &Local, turn: &mut Turn) -> Step {
        let paused = self.flow == Flow::Paused;
        let room = if paused {
            PAUSED_INPUT_MAX.saturating_sub(self.kept.len())
        } else {
            let clock = &self.conn.core.shared().clock;
            turn.room(|| clock.since_start())
        };
        if room == 0 {
            return if paused { Step::Wait } else { Step::Yield };
        }
        let joined = if !paused && self.kept.len() <= HEADROOM {
            self.kept.len()
        } else {
            0
        };
        let scratch = &mut *local.scratch.borrow_mut();
        let mut buf = ReadBuf::new(&mut scratch[joined..joined + room]);
        let count = match self.reader.poll_read(cx, &mut buf) {
            Poll::Pending => return Step::Wait,
            Poll::Ready(Ok(())) => buf.filled().len(),
            Poll::Ready(Err(error)) => {
                self.fail(&error);
                return Step::Again;
            }
        };
        if count == 0 {
            self.end = End::Seen;
            return Step::Again;
        }
        let core = &self.conn.core;
        core.has_read(count);
        core.active_in_ms
            .store(core.shared().clock.coarse_ms(), Ordering::Relaxed);
        if let Some(pace) = &mut self.pace {
            pace.took(count, core.shared().clock.since_start());
        }
        turn.took(count, || core.shared().clock.since_start());
        if paused {
            self.kept.push(&scratch[..count]);
        } else if joined == self.kept.len() {
            scratch[..joined].copy_from_slice(self.kept.bytes());
            self.kept.clear();
            let input = &scratch[..joined + count];
            let consumed = self.show(input);
            self.kept.push(&input[consumed..]);
        } else {
            self.kept.push(&scratch[..count]);
            self.show_kept();
        }
        self.check_kept();
        Step::Again
    }

    fn show_kept(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        let consumed = self.show(kept.bytes());
        kept.consume(consumed);
        self.kept = kept;
        self.check_kept();
    }

    /// Books the input that is kept, and holds it to its limit.
    fn check_kept(&self) {
        let core = &self.conn.core;
        core.keeps_input(self.kept.len());
        let limit = core.listener().config.input_max_bytes;
        if self.kept.len() > limit {
            core.begin_close(
                &mut self.conn.state.lock(),
                CloseReason::InputTooLarge { limit },
            );
        }
    }

    /// Shows `input` to the protocol; returns how much it consumed.
    fn show(&mut self, input: &[u8]) -> usize {
        let state = &mut *self.conn.state.lock();
        let Some(session) = state.session.as_mut() else {
            return input.len();
        };
        let answer = self.conn.protocol().input(session, input, &mut state.out);
        debug_assert!(answer.consumed <= input.len());
        match answer.then {
            Then::Read => {}
            Then::Pause => self.flow = Flow::Paused,
            Then::Drain => self.flow = Flow::AwaitsDrain,
            Then::Close(why) => self.conn.core.begin_close(state, why),
        }
        if self.end == End::Told {
            self.end = End::Seen;
        }
        self.conn.enlist();
        answer.consumed.min(input.len())
    }

    fn tell_end(&mut self) -> Step {
        let state = &mut *self.conn.state.lock();
        let Some(session) = state.session.as_mut() else {
            return Step::Wait;
        };
        self.end = End::Told;
        let answer = self
            .conn
            .protocol()
            .end_of_input(session, self.kept.bytes(), &mut state.out);
        if answer == Ended::Close {
            self.conn.core.begin_close(state, CloseReason::PeerClosed);
        }
        self.conn.enlist();
        Step::Again
    }

    fn fail(&self, error: &io::Error) {
        self.conn
            .core
            .begin_close(&mut self.conn.state.lock(), CloseReason::Io(error.kind()));
    }

    /// Writes the rest, ends the session, then sees to it that the peer gets everything.
    fn poll_closing(&mut self, cx: &mut Context<'_>, local: &Local) -> Poll<()> {
        loop {
            match &mut self.closing {
                Closing::Writing => {
                    self.write(cx);
                    if self.writing {
                        return Poll::Pending;
                    }
                    self.end_session(CloseReason::Finished);
                    self.closing = Closing::ShuttingDown;
                }
                Closing::ShuttingDown => {
                    let wrapped = matches!(self.reader, Reader::Wrapped(_));
                    if self.end != End::NotYet && !wrapped {
                        return Poll::Ready(());
                    }
                    let state = &mut *self.conn.state.lock();
                    let Some(writer) = state.writer.as_mut() else {
                        return Poll::Ready(());
                    };
                    let down = ready!(writer.poll_shutdown(&mut self.reader, cx));
                    if down.is_err() || self.end != End::NotYet {
                        return Poll::Ready(());
                    }
                    self.closing = Closing::Lingering { discarded: 0 };
                }
                Closing::Lingering { discarded } => {
                    let scratch = &mut *local.scratch.borrow_mut();
                    let mut buf = ReadBuf::new(scratch);
                    if ready!(self.reader.poll_read(cx, &mut buf)).is_err()
                        || buf.filled().is_empty()
                    {
                        return Poll::Ready(());
                    }
                    *discarded += buf.filled().len();
                    if *discarded > LINGER_BYTES {
                        return Poll::Ready(());
                    }
                }
            }
        }
    }

    /// Takes the session from the connection and tells the protocol; does nothing the second time.
    fn end_session(&self, why: CloseReason) {
        let core = &self.conn.core;
        if core.over.load(Ordering::Acquire) {
            return;
        }
        if core.enlisted.load(Ordering::Relaxed) && !std::thread::panicking() {
            self.conn.protocol().submit(&self.conn);
        }
        let (session, why) = {
            let state = &mut *self.conn.state.lock();
            core.over.store(true, Ordering::Release);
            core.closing.store(true, Ordering::Release);
            (
                state.session.take(),
                CloseReason::clone(state.ending.get_or_insert_with(|| Box::new(why))),
            )
        };
        if let Some(session) = session {
            debug!(connection = self.conn.id().0, protocol = self.conn.protocol().name(), %why, "connection ended");
            self.conn.protocol().closed(session, self.conn.id(), &why);
        }
    }
}

impl<P: Protocol> Future for Driver<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        // Not on a worker any more: the edge is being torn down, and dropping the driver ends the session.
        with_local(|local| driver.advance(cx, local)).unwrap_or(Poll::Ready(()))
    }
}

/// Whatever ends the task, a panic of the protocol included, the session ends and everything is given back.
impl<P: Protocol> Drop for Driver<P> {
    fn drop(&mut self) {
        self.end_session(CloseReason::Internal);
        {
            let state = &mut *self.conn.state.lock();
            state.out.clear();
            if let Some(writer) = state.writer.take() {
                writer.forget();
            }
        }
        self.conn.core.gone();
        self.conn.core.shared().table.remove(self.conn.id());
    }
}
