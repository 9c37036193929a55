//! A stream and its groups (`group`): where every message stands.
//!
//! A group never lists what is settled, only what is not: a message that stands in none of a group's sets is settled
//! there. Groups that read in sequence order do not list what is ready either, as long as it is ready in its place:
//! everything from the cursor on is, except what `passed` names.
//!
//! There may be a million of either that nobody uses. What most of them never need lies in a [`Rare`]: a pointer to
//! nothing until it is wanted. Equal settings are one value.

mod group;

use std::collections::BTreeSet;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::HashTable;
use longtail_model::{Durability, GroupId, IndexId, Seq, StreamId, Timestamp};
use smallvec::SmallVec;

use crate::budget::Held;
use crate::config::{Keep, Numbering, StreamConfig, StreamName};
use crate::rare::{Rare, Unused};
use crate::structures::ordered::OrderedSet;
use crate::structures::wheel::TimerId;

pub(crate) use group::{Aside, Group, Hold, Meta, Place, Waiter};

/// Priorities below this count as urgent in statistics.
pub(crate) const URGENT: u64 = 1024;

/// Hashing that is the same in every run, so that a simulation repeats exactly.
pub(crate) type FixedHash = foldhash::fast::FixedState;

/// A session's slot in the shard.
pub(crate) type SessionKey = usize;

/// A hold's slot in the shard.
pub(crate) type HoldKey = usize;

/// A named, ordered view of records in the log.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) name: StreamName,
    pub(crate) config: Arc<StreamConfig>,
    pub(crate) index: IndexId,
    pub(crate) level: Durability,
    /// Whether its definition is in the log. A stream that only links keep alive is not worth a record.
    pub(crate) defined: bool,
    /// The default group, deleted when there is none, then those that were added. Empty when there was none yet.
    pub(crate) groups: Vec<Group>,
    pub(crate) roster: Roster,
    /// Messages that were ready when they were appended: all that a group that lists nothing ever had ahead of it.
    pub(crate) offered: u64,
    /// How much it holds.
    pub(crate) held: Held,
    pub(crate) producers: u32,
    pub(crate) consumers: u32,
    pub(crate) appended: u64,
    pub(crate) removed: u64,
    pub(crate) extra: Rare<Extra>,
}

/// What few streams have.
pub(crate) struct Extra {
    pub(crate) pause: Option<Pause>,
    pub(crate) pauses: u64,
    /// When which message expires.
    pub(crate) expiry: OrderedSet,
    pub(crate) expiry_timer: Alarm,
    pub(crate) age_timer: Alarm,
    /// Sessions that wait for something to read.
    pub(crate) readers: Vec<SessionKey>,
}

impl Extra {
    const NEW: Extra = Extra {
        pause: None,
        pauses: 0,
        expiry: OrderedSet::new(),
        expiry_timer: Alarm { set: None },
        age_timer: Alarm { set: None },
        readers: Vec::new(),
    };
}

impl Unused for Extra {
    const UNUSED: &'static Extra = &Extra::NEW;

    fn new() -> Extra {
        Extra::NEW
    }
}

/// A stream with so few places for groups is looked through when one is wanted by its name.
const FEW: usize = 8;

impl Stream {
    pub(crate) fn shares_numbers(&self) -> bool {
        matches!(self.config.numbering, Numbering::Shared(_))
    }

    /// The place of a group.
    pub(crate) fn group_named(&self, name: &str) -> Option<usize> {
        if name.is_empty() {
            return (self.groups.first())
                .filter(|group| !group.deleted)
                .map(|_| 0);
        }
        if self.groups.len() <= FEW {
            return (self.groups.iter()).position(|group| !group.deleted && *group.name == *name);
        }
        let named =
            |&at: &u32| (self.groups.get(at as usize)).is_some_and(|group| *group.name == *name);
        let at = self.roster.named.names.find(hash_of(name), named)?;
        Some(*at as usize)
    }

    pub(crate) fn has_groups(&self) -> bool {
        self.roster.groups > 0
    }

    /// Puts a group into its place: the first for the default one, any other that is free for the others.
    pub(crate) fn add_group(&mut self, group: Group, next: Seq) -> usize {
        let is_default = group.name.is_empty();
        if self.groups.len() < 2 {
            // Most streams have one group.
            self.groups.reserve_exact(2 - self.groups.len());
        }
        if self.groups.is_empty() && !is_default {
            self.groups.push(Group::vacant(GroupId(self.id.0)));
        }
        let free = |named: &mut Named| named.free.pop();
        let at = match is_default {
            true => 0,
            false => (self.roster.named.get_mut().and_then(free))
                .map_or(self.groups.len(), |at| at as usize),
        };
        let place = u32::try_from(at).unwrap_or(u32::MAX);
        if !group.implicit {
            self.roster.listing.push(place);
        } else if group.cursor > next {
            self.roster.named.make().later.push(place);
        }
        match self.groups.get_mut(at) {
            Some(free) => *free = group,
            None => self.groups.push(group),
        }
        self.roster.groups += 1;
        if !is_default {
            self.enter_name(place);
        }
        at
    }

    /// Lists a group by its name, where there are many.
    fn enter_name(&mut self, place: u32) {
        if self.groups.len() <= FEW {
            return;
        }
        let groups = &self.groups;
        let hash_at = |&at: &u32| {
            groups
                .get(at as usize)
                .map_or(0, |group| hash_of(&group.name))
        };
        let names = &mut self.roster.named.make().names;
        if !names.is_empty() {
            names.insert_unique(hash_at(&place), place, hash_at);
            return;
        }
        // The first of many: from here on all are listed.
        for (at, group) in (0..).zip(groups) {
            if !group.deleted && !group.name.is_empty() {
                names.insert_unique(hash_of(&group.name), at, hash_at);
            }
        }
    }

    /// Frees the place of a group.
    pub(crate) fn drop_group(&mut self, at: usize) {
        let place = u32::try_from(at).unwrap_or(u32::MAX);
        let Some(group) = self.groups.get_mut(at).filter(|group| !group.deleted) else {
            return;
        };
        if at > 0 {
            let named = self.roster.named.make();
            let entry = (named.names).find_entry(hash_of(&group.name), |&known| known == place);
            if let Ok(entry) = entry {
                entry.remove();
            }
            named.free.push(place);
        }
        self.roster.listing.retain(|known| *known != place);
        if let Some(named) = self.roster.named.get_mut() {
            named.later.retain(|known| *known != place);
        }
        self.roster.waiting.remove(&place);
        self.roster.groups -= 1;
        *group = Group::vacant(group.id);
    }

    /// Whether it has no message but what consumers hold, and no other group has that before it.
    pub(crate) fn has_only_held(&self) -> bool {
        if self.held.messages() == 0 {
            return true;
        }
        let has_more = |group: &Group| {
            group.ready_len(self.offered) > 0
                || !group.lists.delayed.is_empty()
                || !group.lists.parked.is_empty()
        };
        self.config.keep != Keep::UntilLimit
            && self.has_groups()
            && !(self.groups.iter()).any(|group| !group.deleted && has_more(group))
    }

    /// Whether a message that is about to get this number would stay.
    pub(crate) fn keeps(&self, seq: Seq) -> bool {
        let wanted = || {
            self.groups
                .iter()
                .any(|group| !group.deleted && seq >= group.cursor)
        };
        match self.config.keep {
            Keep::UntilLimit => true,
            Keep::UntilSettled => wanted() || !self.has_groups(),
            Keep::Interest => wanted(),
        }
    }

    /// A message does not expire any more.
    pub(crate) fn forget_expiry(&mut self, due: Timestamp, seq: Seq) {
        if let Some(extra) = self.extra.get_mut() {
            extra.expiry.remove(due.0, seq.0);
        }
    }

    /// Those who wait for something to read wait no longer.
    pub(crate) fn take_readers(&mut self) -> Vec<SessionKey> {
        (self.extra.get_mut()).map_or_else(Vec::new, |extra| std::mem::take(&mut extra.readers))
    }

    /// Whether nothing is delivered from a group for the time being.
    pub(crate) fn is_paused(&self, group: &Group) -> bool {
        self.extra.pause.is_some() || group.lists.pause.is_some()
    }
}

/// What there is to know of a stream's groups without looking at each.
#[derive(Default)]
pub(crate) struct Roster {
    /// How many there are.
    pub(crate) groups: u32,
    /// The place of a group that was found to want a message: the first to ask about the next.
    pub(crate) witness: u32,
    /// Places of those that list what is ready, and must hear of every message.
    pub(crate) listing: SmallVec<[u32; 2]>,
    /// Places of those that consumers wait at.
    pub(crate) waiting: BTreeSet<u32>,
    pub(crate) named: Rare<Named>,
}

/// What only a stream with many groups needs.
pub(crate) struct Named {
    /// Places of the named ones, by name, once there are more than a [`FEW`].
    names: HashTable<u32>,
    /// Places that are free.
    free: Vec<u32>,
    /// Places of those that begin beyond the next number.
    pub(crate) later: Vec<u32>,
}

impl Named {
    const NEW: Named = Named {
        names: HashTable::new(),
        free: Vec::new(),
        later: Vec::new(),
    };
}

impl Unused for Named {
    const UNUSED: &'static Named = &Named::NEW;

    fn new() -> Named {
        Named::NEW
    }
}

fn hash_of(name: &str) -> u64 {
    FixedHash::default().hash_one(name)
}

/// Nothing is delivered for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    /// [`Timestamp::NEVER`]: until somebody ends it.
    pub(crate) end: Timestamp,
    pub(crate) length_ms: u64,
    pub(crate) durable: bool,
    pub(crate) timer: Option<TimerId>,
}

impl Pause {
    /// What is left of it, in milliseconds; `u64::MAX` when it has no end.
    pub(crate) fn left_ms(&self, now: Timestamp) -> u64 {
        if self.end == Timestamp::NEVER {
            u64::MAX
        } else {
            self.end.millis_since(now)
        }
    }
}

/// A timer that stands for the earliest of many due times.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alarm {
    pub(crate) set: Option<(Timestamp, TimerId)>,
}
