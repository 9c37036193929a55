//! A session without a connection: the process itself as a client of its shards.
//!
//! Commands are sent one at a time; the answer is a future that needs no particular runtime and can be waited for on a
//! plain thread too.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use longtail_engine::runtime::{Shards, Sink};
use longtail_engine::{Command, Delivery, Effect, Message, Refusal, Reply, Token};
use longtail_model::{ConsumerTag, Priority, SessionId, ShardId, StreamId, Timestamp};
use parking_lot::{Condvar, Mutex};

/// A message of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedMessage {
    /// When it was published.
    pub created: Timestamp,
    /// The priority it was published with.
    pub priority: Priority,
    /// How long it may be held, in milliseconds; 0: the group's default.
    pub ack_timeout_ms: u64,
    /// When it expires; [`Timestamp::NEVER`] if it does not.
    pub expires: Timestamp,
    /// What it is about; empty: nothing is said.
    pub subject: Bytes,
    /// Names the message for whoever published it; empty: nameless.
    pub id: Bytes,
    /// What it belongs to; 0: nothing.
    pub key: u64,
    /// Encoded headers, see [`longtail_engine::headers`].
    pub headers: Bytes,
    /// The body.
    pub payload: Bytes,
}

impl From<Message<'_>> for OwnedMessage {
    fn from(message: Message<'_>) -> Self {
        OwnedMessage {
            created: message.created,
            priority: message.priority,
            ack_timeout_ms: message.ack_timeout_ms,
            expires: message.expires,
            subject: Bytes::copy_from_slice(message.subject),
            id: Bytes::copy_from_slice(message.id),
            key: message.key,
            headers: Bytes::copy_from_slice(message.headers),
            payload: message.share(),
        }
    }
}

/// A reply with the messages it shows; one that could not be read is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The reply.
    pub reply: Reply,
    /// The messages, in the reply's order.
    pub messages: Vec<Option<OwnedMessage>>,
}

/// Something pushed against credit.
#[derive(Clone, Debug, PartialEq)]
pub enum Pushed {
    /// A message.
    Message(Delivery, Option<Box<OwnedMessage>>),
    /// A stream that the consumer drew from is gone.
    Cancelled(ConsumerTag, StreamId),
}

/// The broker is closing, or has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker is closed")]
pub struct Closed;

/// An in-process session at one shard. Dropping it gives back what it holds.
pub struct Client {
    shards: Arc<dyn Shards>,
    shard: ShardId,
    session: SessionId,
    inbox: Arc<Inbox>,
}

#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    next_token: Token,
    /// Answers that nobody has fetched, with their tokens. As many as there are calls under way.
    answers: Vec<(Token, Answer)>,
    abandoned: Vec<Token>,
    pushed: VecDeque<Pushed>,
    waiting: Vec<Waker>,
    closed: bool,
}

impl Sink for Inbox {
    fn deliver(&self, effect: &Effect, messages: &[Option<Message<'_>>]) {
        let owned = || {
            messages
                .iter()
                .map(|message| message.map(OwnedMessage::from))
        };
        let mut state = self.state.lock();
        match effect {
            Effect::Reply(token, reply) => {
                if let Some(at) = state
                    .abandoned
                    .iter()
                    .position(|abandoned| abandoned == token)
                {
                    state.abandoned.swap_remove(at);
                } else {
                    state.answers.push((
                        *token,
                        Answer {
                            reply: reply.clone(),
                            messages: owned().collect(),
                        },
                    ));
                }
            }
            Effect::Push(delivery) => {
                state.pushed.push_back(Pushed::Message(
                    *delivery,
                    owned().next().flatten().map(Box::new),
                ));
            }
            Effect::Cancelled { consumer, stream } => {
                state
                    .pushed
                    .push_back(Pushed::Cancelled(*consumer, *stream));
            }
        }
    }

    fn flush(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        self.arrived.notify_all();
        for waker in waiting {
            waker.wake();
        }
    }
}

impl Inbox {
    /// Nothing comes any more: whoever waits learns it.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.flush();
    }
}

impl Client {
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    pub(crate) fn attach(shards: Arc<dyn Shards>, shard: ShardId) -> Self {
        let inbox = Arc::new(Inbox::default());
        let session = shards.attach(shard, Arc::clone(&inbox) as Arc<dyn Sink>);
        Client {
            shards,
            shard,
            session,
            inbox,
        }
    }

    /// The shard this session is attached to.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Sends a command. The answer comes when the command is carried out and as durable as it has to be.
    pub fn call(&self, command: Command) -> Call {
        let token = {
            let mut state = self.inbox.state.lock();
            state.next_token += 1;
            state.next_token
        };
        self.shards
            .enqueue(self.shard, self.session, &mut vec![(token, command)]);
        self.shards.run();
        Call {
            inbox: Arc::clone(&self.inbox),
            token,
            fetched: false,
        }
    }

    /// What was pushed next; waits for it.
    pub fn pushed(&self) -> Pushes<'_> {
        Pushes { inbox: &self.inbox }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shards.detach(self.shard, self.session);
        self.inbox.close();
    }
}

/// An answer to come.
#[must_use = "the answer says whether the command was carried out"]
pub struct Call {
    inbox: Arc<Inbox>,
    token: Token,
    fetched: bool,
}

impl Call {
    fn fetch(&mut self, state: &mut State) -> Option<Result<Answer, Closed>> {
        if let Some(at) = state
            .answers
            .iter()
            .position(|(token, _)| *token == self.token)
        {
            self.fetched = true;
            return Some(Ok(state.answers.swap_remove(at).1));
        }
        state.closed.then_some(Err(Closed))
    }

    /// Blocks the thread until the answer is there.
    ///
    /// # Errors
    /// When the broker closes first.
    pub fn wait(mut self) -> Result<Answer, Closed> {
        let inbox = Arc::clone(&self.inbox);
        let mut state = inbox.state.lock();
        loop {
            if let Some(answer) = self.fetch(&mut state) {
                return answer;
            }
            inbox.arrived.wait(&mut state);
        }
    }
}

impl Future for Call {
    type Output = Result<Answer, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inbox = Arc::clone(&self.inbox);
        let mut state = inbox.state.lock();
        match self.fetch(&mut state) {
            Some(answer) => Poll::Ready(answer),
            None => {
                remember(&mut state.waiting, cx.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.fetched {
            let mut state = self.inbox.state.lock();
            match state
                .answers
                .iter()
                .position(|(token, _)| *token == self.token)
            {
                Some(at) => drop(state.answers.swap_remove(at)),
                None => state.abandoned.push(self.token),
            }
        }
    }
}

/// The next pushed message.
pub struct Pushes<'a> {
    inbox: &'a Inbox,
}

impl Future for Pushes<'_> {
    type Output = Result<Pushed, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.inbox.state.lock();
        match state.pushed.pop_front() {
            Some(pushed) => Poll::Ready(Ok(pushed)),
            None if state.closed => Poll::Ready(Err(Closed)),
            None => {
                remember(&mut state.waiting, cx.waker());
                Poll::Pending
            }
        }
    }
}

fn remember(waiting: &mut Vec<Waker>, waker: &Waker) {
    if !waiting.iter().any(|known| known.will_wake(waker)) {
        waiting.push(waker.clone());
    }
}

/// Waits for a future on this thread, which is none of a runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Turns a refusal into an error.
///
/// # Errors
/// The refusal, if the reply is one.
pub fn accepted(answer: Answer) -> Result<Answer, Refusal> {
    match answer.reply {
        Reply::Refused(refusal) => Err(refusal),
        _ => Ok(answer),
    }
}
