//! QoS 2 messages that await their PUBREL, of clients whose sessions outlive the process.
//!
//! ```text
//! PUBLISH ──▶ Entry, absent ──▶ Publish to $mqtt/in ──▶ durable ──▶ Entry, written ──▶ PUBREC
//! PUBLISH ──▶ Entry, under way .................................▶ waits for the same ──▶ PUBREC
//! PUBREL  ──▶ Entry, written ──▶ Transact [Publish to the targets, Remove from $mqtt/in] ──▶ PUBCOMP
//! ```
//!
//! A message is in the stream once, however often it comes and over however many connections: were it there twice,
//! PUBREL would remove one of the two, and after a crash the other would be published when PUBREL comes again. So the
//! commands go through one session of the shard, which no connection takes along when it ends, and what is known of the
//! message's record, its [`Entry`], is part of the client's session.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use longtail_broker::BrokerError;
use longtail_broker::client::{Client, accepted};
use longtail_broker::message::Message as Whole;
use longtail_broker::stored::{Stored, new_message};
use longtail_broker::streams::Awaits as _;
use longtail_engine::runtime::{Shards, Sink};
use longtail_engine::{
    Command, Effect, Keep, Message, NewMessage, Reply, Role, StreamConfig, StreamName, Target,
    Token, Wait,
};
use longtail_model::{Link, Seq, SessionId, ShardId, StreamId, Timestamp};
use parking_lot::Mutex;

use super::Restored;
use crate::codec::ReasonCode;
use crate::publish::{Waiter, reason_of};
use crate::session::State;

/// The stream.
const INCOMING: &str = "$mqtt/in";

/// Messages that are read in one go, and bytes of them.
const PAGE: u32 = 1_000;
const PAGE_BYTES: u64 = 4 << 20;

/// Who may wait for one message to be written: on one connection it may come twice. Those of earlier connections are
/// told nothing.
const WAITERS_MAX: usize = 2;

/// What is written of one message.
pub struct Entry {
    /// Of the client's session.
    number: u64,
    packet_id: u16,
    progress: Mutex<Progress>,
}

enum Progress {
    /// Nothing, and nothing is under way.
    Absent,
    /// The shard has been asked; they are told when it has answered.
    UnderWay(Vec<Arc<Waiter>>),
    Written(Seq),
    /// The message is forgotten: what is under way is removed when it is there.
    GivenUp,
}

impl Entry {
    /// For a message that the session with this number has sent under this packet id.
    pub(crate) fn new(number: u64, packet_id: u16) -> Self {
        Self::at(number, packet_id, Progress::Absent)
    }

    /// Of a message that was found.
    pub(crate) fn written(number: u64, packet_id: u16, seq: Seq) -> Self {
        Self::at(number, packet_id, Progress::Written(seq))
    }

    fn at(number: u64, packet_id: u16, progress: Progress) -> Self {
        Entry {
            number,
            packet_id,
            progress: Mutex::new(progress),
        }
    }

    /// Its number in the stream, once it is durable there.
    pub(crate) fn seq(&self) -> Option<Seq> {
        match *self.progress.lock() {
            Progress::Written(seq) => Some(seq),
            _ => None,
        }
    }

    /// The message is forgotten before its PUBREL. What is to be removed from the stream now.
    pub(crate) fn give_up(&self) -> Option<Seq> {
        match std::mem::replace(&mut *self.progress.lock(), Progress::GivenUp) {
            Progress::Written(seq) => Some(seq),
            _ => None,
        }
    }

    /// Whether the shard is to be asked. If not, `waiter` is told, or will be.
    fn begin(&self, waiter: Arc<Waiter>) -> bool {
        match &mut *self.progress.lock() {
            progress @ Progress::Absent => {
                *progress = Progress::UnderWay(vec![waiter]);
                return true;
            }
            Progress::UnderWay(waiters) => {
                if waiters.len() >= WAITERS_MAX {
                    waiters.remove(0);
                }
                waiters.push(waiter);
                return false;
            }
            Progress::Written(_) => {}
            // Its client has been told that it is not taken.
            Progress::GivenUp => return false,
        }
        waiter.answered(Ok(()));
        false
    }

    /// The shard has answered: who is told, and what is to be removed again.
    fn end(&self, outcome: Result<Seq, ReasonCode>) -> (Vec<Arc<Waiter>>, Option<Seq>) {
        let mut progress = self.progress.lock();
        match &mut *progress {
            Progress::UnderWay(waiters) => {
                let waiters = std::mem::take(waiters);
                *progress = outcome.map_or(Progress::Absent, Progress::Written);
                (waiters, None)
            }
            Progress::GivenUp => (Vec::new(), outcome.ok()),
            // Nothing was asked.
            Progress::Absent | Progress::Written(_) => (Vec::new(), None),
        }
    }

    /// How its record is named: number of the session, packet id.
    fn name(&self) -> String {
        format!("{:016x}{:04x}", self.number, self.packet_id)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let progress = match &*self.progress.lock() {
            Progress::Absent => "absent".to_owned(),
            Progress::UnderWay(_) => "under way".to_owned(),
            Progress::Written(seq) => seq.to_string(),
            Progress::GivenUp => "given up".to_owned(),
        };
        write!(f, "Entry({}: {progress})", self.name())
    }
}

/// Reads the name of a record.
fn read_name(name: &[u8]) -> Option<(u64, u16)> {
    let (number, id) = std::str::from_utf8(name).ok()?.split_at_checked(16)?;
    let number = u64::from_str_radix(number, 16).ok()?;
    Some((number, u16::from_str_radix(id, 16).ok()?))
}

/// The messages of a space.
pub(crate) struct Incoming {
    name: StreamName,
    room: Arc<Room>,
}

/// An entry, and its number in the stream or why there is none.
type Arrived = (Arc<Entry>, Result<Seq, ReasonCode>);

struct Room {
    shards: Arc<dyn Shards>,
    home: ShardId,
    stream: StreamId,
    session: OnceLock<SessionId>,
    /// What the shard was asked, in order: an entry to write, or something to remove.
    asked: Mutex<VecDeque<Option<Arc<Entry>>>>,
    /// Answers for entries. Written with the shard's lock held.
    arrived: Mutex<Vec<Arrived>>,
}

impl Incoming {
    /// Opens the stream, of which nothing goes by itself. Blocks.
    pub(super) fn open(
        client: &Client,
        shards: Arc<dyn Shards>,
        home: ShardId,
        space: &Arc<str>,
    ) -> Result<Self, BrokerError> {
        let config = StreamConfig {
            keep: Keep::UntilLimit,
            group: None,
            ..StreamConfig::default()
        };
        let name = StreamName::new(Arc::clone(space), INCOMING);
        let open = Command::Open {
            link: Link(1),
            name: name.clone(),
            create: Some(Box::new(config)),
            role: Role::Producer,
        };
        match accepted(client.call(open).wait()?)?.reply {
            Reply::Opened { stream } => Ok(Self::attach(name, shards, home, stream)),
            other => Err(BrokerError::Unexpected(format!("{other:?}"))),
        }
    }

    fn attach(name: StreamName, shards: Arc<dyn Shards>, home: ShardId, stream: StreamId) -> Self {
        let room = Arc::new(Room {
            shards,
            home,
            stream,
            session: OnceLock::new(),
            asked: Mutex::default(),
            arrived: Mutex::default(),
        });
        let session = room.shards.attach(home, Arc::clone(&room) as Arc<dyn Sink>);
        let _ = room.session.set(session);
        Incoming { name, room }
    }

    /// The stream.
    pub(crate) fn stream(&self) -> StreamId {
        self.room.stream
    }

    /// Has `message` written down, unless it is or is being written; `waiter` is told when it is durable. Only queues.
    /// No lock may be held.
    pub(crate) fn store(
        &self,
        entry: &Arc<Entry>,
        message: &Whole,
        now: Timestamp,
        waiter: Arc<Waiter>,
    ) {
        if entry.begin(waiter) {
            let publish = Command::Publish {
                to: Target::Stream(self.room.stream),
                also: Vec::new(),
                message: NewMessage {
                    id: entry.name().into(),
                    ..new_message(message, now)
                },
            };
            self.room.ask(Some(Arc::clone(entry)), publish);
        }
    }

    /// Removes a message. Only queues.
    pub(super) fn remove(&self, seq: Seq) {
        self.room.remove(seq);
    }

    /// Gives sessions what they have there, and removes what is of none, or came again. Blocks.
    pub(super) fn restore(
        &self,
        client: &Client,
        sessions: &mut [Restored],
    ) -> Result<(), BrokerError> {
        let mut by_number: HashMap<u64, &mut State> = sessions
            .iter_mut()
            .map(|session| (session.record.number, &mut session.state))
            .collect();
        let mut known: HashMap<(u64, u16), Seq> = HashMap::new();
        let mut from = Seq::FIRST;
        loop {
            let read = Command::Read {
                name: self.name.clone(),
                from,
                max: PAGE,
                max_bytes: PAGE_BYTES,
                wait: Wait::No,
            };
            let answer = client.call(read).wait()?;
            let Reply::Batch { messages, next } = answer.reply else {
                return Err(BrokerError::Unexpected(format!(
                    "{} is not read",
                    self.name
                )));
            };
            for ((seq, _), message) in messages.iter().zip(answer.messages) {
                let found = message.and_then(|message| {
                    let (number, id) = read_name(&message.id)?;
                    let stored = Stored::read(&message.subject, &message.headers);
                    let whole = stored
                        .to_message(message.payload.clone(), message.created, message.expires)
                        .ok()?;
                    Some((by_number.get_mut(&number)?, number, id, whole))
                });
                let Some((state, number, id, whole)) = found else {
                    self.remove(*seq);
                    continue;
                };
                state.restore_incoming(id, Arc::new(whole), *seq);
                if let Some(old) = known.insert((number, id), *seq) {
                    // Of a message that its client has forgotten.
                    self.remove(old);
                }
            }
            if messages.is_empty() && next == from {
                return Ok(());
            }
            from = next;
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(session) = self.room.session.get() {
            self.room.shards.detach(self.room.home, *session);
        }
    }
}

impl Room {
    fn ask(&self, entry: Option<Arc<Entry>>, command: Command) {
        let Some(session) = self.session.get() else {
            return;
        };
        // Held until it is queued: both have one order.
        let mut asked = self.asked.lock();
        asked.push_back(entry);
        let mut commands: Vec<(Token, Command)> = vec![(0, command)];
        self.shards.enqueue(self.home, *session, &mut commands);
    }

    fn remove(&self, seq: Seq) {
        let stream = Target::Stream(self.stream);
        self.ask(None, Command::Remove { stream, seq });
    }
}

impl Sink for Room {
    fn deliver(&self, effect: &Effect, _messages: &[Option<Message<'_>>]) {
        let Effect::Reply(_, reply) = effect else {
            return;
        };
        let entry = self.asked.lock().pop_front().flatten();
        if let Reply::Refused(refusal) = reply {
            tracing::warn!(%refusal, "a QoS 2 message that awaits its PUBREL is not stored or not removed");
        }
        if let Some(entry) = entry {
            let outcome = match reply {
                Reply::Published {
                    seq, refused: None, ..
                } => Ok(*seq),
                // The stream has no limits; its space has.
                Reply::Published { .. } => Err(ReasonCode::QuotaExceeded),
                Reply::Refused(refusal) => Err(reason_of(refusal)),
                _ => Err(ReasonCode::UnspecifiedError),
            };
            self.arrived.lock().push((entry, outcome));
        }
    }

    fn flush(&self) {
        let arrived = std::mem::take(&mut *self.arrived.lock());
        for (entry, outcome) in arrived {
            let (waiters, unwanted) = entry.end(outcome);
            if let Some(seq) = unwanted {
                // Carried out with whatever the shard does next.
                self.remove(seq);
            }
            for waiter in waiters {
                waiter.answered(outcome.map(|_| ()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;
    use longtail_engine::Refusal;
    use longtail_model::{Lsn, Subject};
    use tokio::sync::oneshot;

    use super::*;
    use crate::publish::Whom;

    /// A shard that answers when it is told to.
    #[derive(Default)]
    struct Slow {
        commands: Mutex<VecDeque<Command>>,
        sink: Mutex<Option<Arc<dyn Sink>>>,
    }

    impl Shards for Slow {
        fn count(&self) -> u16 {
            1
        }

        fn attach(&self, _shard: ShardId, sink: Arc<dyn Sink>) -> SessionId {
            *self.sink.lock() = Some(sink);
            SessionId(1)
        }

        fn enqueue(&self, _shard: ShardId, _session: SessionId, new: &mut Vec<(Token, Command)>) {
            let new = new.drain(..).map(|(_, command)| command);
            self.commands.lock().extend(new);
        }

        fn run(&self) {}

        fn interrupt(&self, _shard: ShardId, _session: SessionId) {}

        fn detach(&self, _shard: ShardId, _session: SessionId) {
            *self.sink.lock() = None;
        }
    }

    impl Slow {
        /// Answers the oldest command.
        fn answer(&self, reply: Reply) -> Command {
            let command = self.commands.lock().pop_front().unwrap();
            let sink = self.sink.lock().clone().unwrap();
            sink.deliver(&Effect::Reply(0, reply), &[]);
            sink.flush();
            command
        }

        fn asked(&self) -> usize {
            self.commands.lock().len()
        }
    }

    fn published(seq: u64) -> Reply {
        Reply::Published {
            seq: Seq(seq),
            position: Lsn(seq),
            refused: None,
        }
    }

    struct Bench {
        slow: Arc<Slow>,
        incoming: Incoming,
        entry: Arc<Entry>,
    }

    impl Bench {
        fn new() -> Self {
            let slow = Arc::new(Slow::default());
            let shards = Arc::clone(&slow) as Arc<dyn Shards>;
            let name = StreamName::new("default", INCOMING);
            Bench {
                incoming: Incoming::attach(name, shards, ShardId(0), StreamId(7)),
                slow,
                entry: Arc::new(Entry::new(5, 23)),
            }
        }

        /// The message comes, on whatever connection; tells what became of it.
        fn comes(&self) -> oneshot::Receiver<ReasonCode> {
            let (sender, told) = oneshot::channel();
            let waiter = Waiter::new(Whom::Caller(&Cell::new(Some(sender))));
            let message = Whole::new(Subject::new("a").unwrap(), Bytes::from_static(b"m"));
            self.incoming
                .store(&self.entry, &message, Timestamp(1), waiter);
            told
        }
    }

    #[test]
    fn a_message_that_comes_again_while_it_is_written_is_written_once() {
        let bench = Bench::new();
        let mut told = [bench.comes(), bench.comes()];
        assert_eq!(bench.slow.asked(), 1);
        assert_eq!(bench.entry.seq(), None);
        for told in &mut told {
            assert!(
                told.try_recv().is_err(),
                "acknowledged before it is written"
            );
        }
        let Command::Publish { message, .. } = bench.slow.answer(published(9)) else {
            panic!("not written");
        };
        assert_eq!(read_name(&message.id), Some((5, 23)));
        assert_eq!(bench.entry.seq(), Some(Seq(9)));
        for told in &mut told {
            assert_eq!(told.try_recv(), Ok(ReasonCode::Success));
        }
        assert_eq!(bench.comes().try_recv(), Ok(ReasonCode::Success));
        assert_eq!(bench.slow.asked(), 0);
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_when_it_comes_again() {
        let bench = Bench::new();
        let mut told = bench.comes();
        bench.slow.answer(Reply::Refused(Refusal::Gone));
        assert_eq!(told.try_recv(), Ok(ReasonCode::UnspecifiedError));
        let mut told = bench.comes();
        bench.slow.answer(published(1));
        assert_eq!(told.try_recv(), Ok(ReasonCode::Success));
    }

    #[test]
    fn what_is_given_up_while_it_is_written_is_removed() {
        let bench = Bench::new();
        let mut told = bench.comes();
        assert_eq!(bench.entry.give_up(), None);
        bench.slow.answer(published(4));
        assert!(told.try_recv().is_err());
        assert_eq!(bench.entry.seq(), None);
        let removed = bench.slow.answer(Reply::Done);
        assert!(matches!(removed, Command::Remove { seq: Seq(4), .. }));
        assert_eq!(Entry::written(1, 1, Seq(3)).give_up(), Some(Seq(3)));
    }

    #[test]
    fn a_record_names_session_and_packet() {
        for (number, id) in [(1, 1), (u64::MAX, u16::MAX)] {
            let name = Entry::new(number, id).name();
            assert_eq!(read_name(name.as_bytes()), Some((number, id)));
        }
        assert_eq!(read_name(b"x"), None);
        assert_eq!(read_name(b"00000000000000zz0001"), None);
    }
}
