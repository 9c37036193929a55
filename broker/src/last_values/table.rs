//! What is known of every key: the newest durable record, what is under way, and what is still to be removed. Plain
//! state: commands come out, answers go in.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use longtail_engine::{
    Command, NewMessage, Refusal, Reply, Role, StreamConfig, StreamName, Target, Token, headers,
};
use longtail_model::{Link, Seq};
use smallvec::{SmallVec, smallvec};

use super::keys::{Keyed, Keys};
use super::{Done, Value};
use crate::client::OwnedMessage;

/// The header of a tombstone.
const REMOVED: &[u8] = b"lt-removed";

/// The session's only link.
const LINK: Link = Link(0);

/// Removals that go along with one write. More than a write can make necessary, so that they catch up.
const REMOVALS_WITH_WRITE: usize = 16;

/// Removals that are worth a write of their own, when a burst of changes has left them behind.
const REMOVALS_ALONE: usize = 64;

pub(super) struct Table<V: Value> {
    name: StreamName,
    config: StreamConfig,
    opened: Opened,
    keys: Keys<Entry<V>>,
    /// Keys with a value.
    len: usize,
    /// What was sent and not answered. The shard answers in order.
    sent: VecDeque<(Token, Sent)>,
    next_token: Token,
    /// Records that are to be removed with the next write.
    removals: VecDeque<(Arc<str>, Seq)>,
    /// Handed to the caller, who empties it.
    commands: Vec<(Token, Command)>,
}

enum Opened {
    No,
    Yes,
    /// Somebody has deleted the stream: its numbers may mean something else now.
    Lost,
}

enum Sent {
    Open,
    Write(Arc<str>),
    Removal(Arc<str>, Seq),
}

enum Entry<V> {
    /// One record, and nothing under way: nearly all of them.
    Settled {
        seq: Seq,
        value: V,
    },
    Busy(Box<Busy<V>>),
}

struct Busy<V> {
    key: Arc<str>,
    /// The newest durable record.
    base: Option<(Seq, Base<V>)>,
    /// What is under way, the oldest first.
    writes: VecDeque<Write<V>>,
    /// Older records that have not gone yet.
    stale: usize,
}

enum Base<V> {
    Value(V),
    /// Says that there is no value. `leaving`: its removal is among the removals, or sent.
    Tombstone {
        leaving: bool,
    },
    /// A value that cannot be read.
    Unreadable,
}

struct Write<V> {
    /// `None`: the value is taken away.
    value: Option<V>,
    done: SmallVec<[Done; 1]>,
}

/// What is to be done about an answer, without the lock.
pub(super) struct Answered {
    pub(super) key: Arc<str>,
    pub(super) taken_back: bool,
    pub(super) done: SmallVec<[Done; 1]>,
    pub(super) result: Result<(), Refusal>,
}

impl<V> Busy<V> {
    fn new(key: Arc<str>) -> Self {
        Busy {
            key,
            base: None,
            writes: VecDeque::new(),
            stale: 0,
        }
    }

    fn value(&self) -> Option<&V> {
        match self.writes.back() {
            Some(write) => write.value.as_ref(),
            None => match &self.base {
                Some((_, Base::Value(value))) => Some(value),
                _ => None,
            },
        }
    }
}

impl<V> Entry<V> {
    fn value(&self) -> Option<&V> {
        match self {
            Entry::Settled { value, .. } => Some(value),
            Entry::Busy(busy) => busy.value(),
        }
    }
}

impl<V: Value> Keyed for Entry<V> {
    fn key(&self) -> &str {
        match self {
            Entry::Settled { value, .. } => value.key(),
            Entry::Busy(busy) => &busy.key,
        }
    }
}

impl<V: Value> Entry<V> {
    fn empty(key: &str) -> Self {
        Entry::Busy(Box::new(Busy::new(key.into())))
    }

    fn busy(&mut self) -> &mut Busy<V> {
        if let Entry::Settled { seq, value } = self {
            *self = Entry::Busy(Box::new(Busy {
                base: Some((*seq, Base::Value(value.clone()))),
                ..Busy::new(value.key().into())
            }));
        }
        match self {
            Entry::Busy(busy) => busy,
            Entry::Settled { .. } => unreachable!("it was made busy above"),
        }
    }
}

impl<V: Value> Table<V> {
    pub(super) fn new(name: StreamName, config: StreamConfig) -> Self {
        Table {
            name,
            config,
            opened: Opened::No,
            keys: Keys::new(),
            len: 0,
            sent: VecDeque::new(),
            next_token: 0,
            removals: VecDeque::new(),
            commands: Vec::new(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.keys.get(key)?.value()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn for_each(&self, f: &mut dyn FnMut(&V)) {
        self.keys.iter().filter_map(Entry::value).for_each(f);
    }

    /// A record found at the start. They come in order of their numbers.
    pub(super) fn found(
        &mut self,
        seq: Seq,
        message: OwnedMessage,
        read: &mut dyn FnMut(&str, OwnedMessage) -> Option<V>,
    ) {
        let subject = message.subject.clone();
        let Ok(key) = std::str::from_utf8(&subject) else {
            tracing::error!(stream = %self.name, %seq, "a value has a key that is not text and is left out");
            return;
        };
        let base = if is_tombstone(&message) {
            Base::Tombstone { leaving: false }
        } else {
            match read(key, message) {
                Some(value) => Base::Value(value),
                None => {
                    tracing::error!(stream = %self.name, %seq, %key, "a value cannot be read and is left out");
                    Base::Unreadable
                }
            }
        };
        let is_value = matches!(base, Base::Value(_));
        let mut base = Some(base);
        let entry = self.keys.get_or_insert(key, || match base.take() {
            Some(Base::Value(value)) => Entry::Settled { seq, value },
            other => {
                base = other;
                Entry::empty(key)
            }
        });
        self.len += usize::from(is_value);
        let Some(base) = base else { return };
        let busy = entry.busy();
        self.len -= usize::from(busy.value().is_some());
        if let Some((older, _)) = busy.base.replace((seq, base)) {
            busy.stale += 1;
            self.removals.push_back((Arc::clone(&busy.key), older));
        }
    }

    /// All records have been found: what only says that there is nothing goes too.
    pub(super) fn loaded(&mut self) {
        let busy: Vec<Arc<str>> = self
            .keys
            .iter()
            .filter_map(|entry| match entry {
                Entry::Busy(busy) => Some(Arc::clone(&busy.key)),
                Entry::Settled { .. } => None,
            })
            .collect();
        for key in busy {
            self.settle(&key);
        }
    }

    pub(super) fn removals(&self) -> usize {
        self.removals.len()
    }

    pub(super) fn set(
        &mut self,
        value: V,
        record: NewMessage,
        done: Done,
    ) -> &mut Vec<(Token, Command)> {
        let key = value.key();
        let entry = self.keys.get_or_insert(key, || Entry::empty(key));
        self.len += usize::from(entry.value().is_none());
        let busy = entry.busy();
        let key = Arc::clone(&busy.key);
        busy.writes.push_back(Write {
            value: Some(value),
            done: smallvec![done],
        });
        self.publish(key, record);
        &mut self.commands
    }

    /// `None` when there is no value, and none can come back.
    pub(super) fn remove(&mut self, key: &str, done: Done) -> Option<&mut Vec<(Token, Command)>> {
        let entry = self.keys.get_mut(key)?;
        let only = match entry {
            Entry::Settled { seq, .. } => Some(*seq),
            Entry::Busy(_) => None,
        };
        let busy = entry.busy();
        if busy.value().is_none() {
            if let Some(last) = busy.writes.back_mut() {
                last.done.push(done);
                return Some(&mut self.commands);
            }
            if !matches!(busy.base, Some((_, Base::Unreadable))) {
                return None;
            }
        } else {
            self.len -= 1;
        }
        busy.writes.push_back(Write {
            value: None,
            done: smallvec![done],
        });
        let key = Arc::clone(&busy.key);
        match only {
            Some(seq) => {
                self.open();
                self.send(Sent::Write(key), removal(seq));
                self.send_removals();
            }
            None => {
                let mut mark = Vec::new();
                headers::put(&mut mark, REMOVED, b"");
                let tombstone = NewMessage {
                    headers: mark.into(),
                    ..NewMessage::default()
                };
                self.publish(key, tombstone);
            }
        }
        Some(&mut self.commands)
    }

    fn publish(&mut self, key: Arc<str>, record: NewMessage) {
        self.open();
        let message = NewMessage {
            subject: Bytes::copy_from_slice(key.as_bytes()),
            ..record
        };
        let publish = Command::Publish {
            to: Target::Link(LINK),
            also: Vec::new(),
            message,
        };
        self.send(Sent::Write(key), publish);
        self.send_removals();
    }

    fn open(&mut self) {
        if matches!(self.opened, Opened::No) {
            self.opened = Opened::Yes;
            let open = Command::Open {
                link: LINK,
                name: self.name.clone(),
                create: Some(Box::new(self.config.clone())),
                role: Role::Producer,
            };
            self.send(Sent::Open, open);
        }
    }

    /// Behind a write, so that it is durable before what it replaces has gone: a log keeps its order.
    fn send_removals(&mut self) {
        self.send_removals_up_to(REMOVALS_WITH_WRITE);
    }

    fn send_removals_up_to(&mut self, most: usize) {
        for _ in 0..most.min(self.removals.len()) {
            if let Some((key, seq)) = self.removals.pop_front() {
                self.send(Sent::Removal(key, seq), removal(seq));
            }
        }
    }

    /// What is to be sent although nobody writes.
    pub(super) fn catch_up(&mut self) -> Option<&mut Vec<(Token, Command)>> {
        if self.removals.len() < REMOVALS_ALONE || !self.sent.is_empty() {
            return None;
        }
        self.open();
        self.send_removals_up_to(REMOVALS_ALONE);
        Some(&mut self.commands)
    }

    fn send(&mut self, what: Sent, command: Command) {
        self.next_token += 1;
        self.sent.push_back((self.next_token, what));
        self.commands.push((self.next_token, command));
    }

    pub(super) fn answer(
        &mut self,
        token: Token,
        outcome: Result<Reply, Refusal>,
    ) -> Option<Answered> {
        let (expected, what) = self.sent.pop_front()?;
        debug_assert_eq!(token, expected, "a shard answers in order");
        match what {
            Sent::Open => {
                // What follows on the link is refused; the next write tries again.
                if let Err(error) = outcome {
                    tracing::warn!(stream = %self.name, %error, "cannot open the stream of last values");
                    self.opened = Opened::No;
                }
                None
            }
            Sent::Write(key) => self.written(key, outcome),
            Sent::Removal(key, seq) => {
                self.removed(key, seq, outcome.is_ok());
                None
            }
        }
    }

    fn written(&mut self, key: Arc<str>, outcome: Result<Reply, Refusal>) -> Option<Answered> {
        let entry = self.keys.get_mut(&key)?;
        let had = usize::from(entry.value().is_some());
        let busy = entry.busy();
        let write = busy.writes.pop_front()?;
        let mut taken_back = false;
        let result = match outcome {
            Ok(Reply::Published { seq, .. }) => {
                let base = match write.value {
                    Some(value) => Base::Value(value),
                    None => Base::Tombstone { leaving: false },
                };
                if let Some((older, base)) = busy.base.replace((seq, base)) {
                    busy.stale += 1;
                    if !matches!(base, Base::Tombstone { leaving: true }) {
                        self.removals.push_back((Arc::clone(&key), older));
                    }
                }
                Ok(())
            }
            // The only record of the key has gone.
            Ok(Reply::Done | Reply::NotFound) => {
                busy.base = None;
                Ok(())
            }
            Ok(other) => Err(Refusal::Failed(format!("unexpected answer: {other:?}"))),
            Err(refusal) => Err(self.opened.explain(refusal, &self.name)),
        };
        if result.is_err() {
            taken_back = busy.writes.is_empty();
        }
        let has = usize::from(busy.value().is_some());
        self.len = self.len + has - had;
        self.settle(&key);
        Some(Answered {
            key,
            taken_back,
            done: write.done,
            result,
        })
    }

    fn removed(&mut self, key: Arc<str>, seq: Seq, is_gone: bool) {
        if !is_gone {
            // With one of the next writes.
            self.removals.push_back((key, seq));
            return;
        }
        let Some(Entry::Busy(busy)) = self.keys.get_mut(&key) else {
            return;
        };
        match &busy.base {
            Some((base, Base::Tombstone { leaving: true })) if *base == seq => busy.base = None,
            _ => busy.stale = busy.stale.saturating_sub(1),
        }
        self.settle(&key);
    }

    /// Goes back to the short form when nothing is under way and nothing older is left.
    fn settle(&mut self, key: &Arc<str>) {
        let Some(Entry::Busy(busy)) = self.keys.get_mut(key) else {
            return;
        };
        if !busy.writes.is_empty() || busy.stale > 0 {
            return;
        }
        match busy.base.take() {
            None => {
                self.keys.remove(key);
            }
            Some((seq, Base::Value(value))) => {
                if let Some(entry) = self.keys.get_mut(key) {
                    *entry = Entry::Settled { seq, value };
                }
            }
            Some((seq, Base::Tombstone { leaving })) => {
                if !leaving {
                    self.removals.push_back((Arc::clone(key), seq));
                }
                busy.base = Some((seq, Base::Tombstone { leaving: true }));
            }
            Some(unreadable) => busy.base = Some(unreadable),
        }
    }
}

impl Opened {
    /// A link that the shard does not know although it was opened: the stream has been deleted.
    fn explain(&mut self, refusal: Refusal, name: &StreamName) -> Refusal {
        if refusal == Refusal::UnknownLink {
            if matches!(self, Opened::Yes) {
                *self = Opened::Lost;
            }
            return Refusal::Failed(format!(
                "the stream {name} cannot be written to; if it was deleted, a restart makes a new one"
            ));
        }
        refusal
    }
}

fn removal(seq: Seq) -> Command {
    Command::Remove {
        stream: Target::Link(LINK),
        seq,
    }
}

fn is_tombstone(message: &OwnedMessage) -> bool {
    headers::iter(&message.headers).any(|(name, _)| name == REMOVED)
}
