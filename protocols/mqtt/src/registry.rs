//! The sessions of a space by client id: who has which, and who had it before.
//!
//! ```text
//! CONNECT ──▶ claim ──▶ nobody          ──▶ a new session
//!                  ├──▶ connected       ──▶ taken from the old connection, which is told 0x8E
//!                  ├──▶ just ended      ──▶ waits until the end is here, see `release`
//!                  └──▶ away            ──▶ back again, or discarded
//! end of a connection ──▶ release ──▶ over, or away until it expires
//! ```
//!
//! All of it happens under the lock of the client id's part of the registry, so that a client id has one connection at
//! any moment, however many come at once. What follows (wills, subscriptions to remove) is left to the caller, outside
//! the lock. A session's epoch counts its connections: the end of a connection of an earlier one changes nothing.
//!
//! `claim` is how a client gets its session, `away` how sessions are without one, `aftermath` what follows.

mod aftermath;
mod away;
mod claim;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use longtail_broker::stable_hash;
use longtail_model::Timestamp;
use parking_lot::Mutex;

use crate::durable::records::SessionRecord;
use crate::message::Will;
use crate::seat::{Conn, Membership};
use crate::timers::TimerKey;

pub(crate) use aftermath::Aftermath;

/// Parts that are locked apart.
const PARTS: usize = 64;

/// Sessions by client id.
type Part = HashMap<Arc<str>, Entry, foldhash::fast::RandomState>;

/// The sessions of a space.
pub(crate) struct Registry {
    parts: Box<[Mutex<Part>]>,
    sessions: AtomicUsize,
    /// Never the same twice, so that the end of an old connection is never taken for that of a new one.
    epochs: AtomicU64,
}

struct Entry {
    epoch: u64,
    holder: Holder,
    /// A client that waits for the end of the connection that had the session.
    waiting: Option<Box<Claim>>,
}

enum Holder {
    Connected(Arc<Conn>, Membership),
    /// Boxed, so that those who are there take no more room.
    Away(Box<Away>),
}

/// A session whose client is not there.
struct Away {
    membership: Membership,
    expiry: Option<TimerKey>,
    will: Option<(Box<Will>, TimerKey)>,
    /// What is written of it, without the will.
    record: SessionRecord,
}

/// A client that wants its session.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) client_id: Arc<str>,
    pub(crate) conn: Arc<Conn>,
    pub(crate) clean_start: bool,
    pub(crate) expiry_s: u32,
}

/// A session as somebody finds it who looks.
pub(crate) enum Seen<'r> {
    /// At a connection.
    Connected(&'r Arc<Conn>),
    /// Away, until then.
    Away(&'r Membership, Option<Timestamp>),
}

impl Entry {
    fn seen(&self) -> Seen<'_> {
        match &self.holder {
            Holder::Connected(conn, _) => Seen::Connected(conn),
            Holder::Away(away) => Seen::Away(&away.membership, away.expiry.map(TimerKey::at)),
        }
    }
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// The client is in, or gone.
    Done,
    /// It will be in when the old connection has ended.
    Waits,
    /// There are too many sessions.
    Full,
}

/// What is due at some time.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    client_id: Arc<str>,
    epoch: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Will,
    Expiry,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Registry {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            sessions: AtomicUsize::new(0),
            epochs: AtomicU64::new(0),
        }
    }

    fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sessions, connected or not.
    pub(crate) fn len(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// A number for a client id, always the same: messages in the log name their publishers so.
    pub(crate) fn number(client_id: &str) -> u64 {
        stable_hash(client_id.bytes()) | 1
    }

    /// Shows every session, part by part with the part locked.
    pub(crate) fn for_each(&self, mut look: impl FnMut(&Arc<str>, &Seen<'_>)) {
        for part in &self.parts {
            for (client_id, entry) in part.lock().iter() {
                look(client_id, &entry.seen());
            }
        }
    }

    /// Shows one session, if there is one, with its part locked.
    pub(crate) fn look<R>(
        &self,
        client_id: &str,
        look: impl FnOnce(&Arc<str>, &Seen<'_>) -> R,
    ) -> Option<R> {
        let part = self.part(client_id).lock();
        let (client_id, entry) = part.get_key_value(client_id)?;
        Some(look(client_id, &entry.seen()))
    }

    fn part(&self, client_id: &str) -> &Mutex<Part> {
        &self.parts[(Self::number(client_id) >> 32) as usize % PARTS]
    }

    /// The connection that has the session of a client.
    pub(crate) fn connection(&self, client_id: &str) -> Option<Arc<Conn>> {
        match &self.part(client_id).lock().get(client_id)?.holder {
            Holder::Connected(conn, _) => Some(Arc::clone(conn)),
            Holder::Away(_) => None,
        }
    }

    /// Forgets everything, at the end of the process's part.
    pub(crate) fn clear(&self) {
        for part in &self.parts {
            let entries = std::mem::take(&mut *part.lock());
            for (_, entry) in entries {
                let membership = match entry.holder {
                    Holder::Connected(_, membership) => membership,
                    Holder::Away(away) => away.membership,
                };
                membership.discard(&membership.take_away());
            }
        }
    }
}
