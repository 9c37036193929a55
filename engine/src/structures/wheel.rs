//! Timers for everything that is due at some moment: delays, deadlines, expiry.
//!
//! A hierarchical timing wheel over all 64 bits of a due time: level 0 has a slot for each of 64 milliseconds, each
//! further level slots 64 times as long. A timer lies on the level of the highest six-bit digit in which its due time
//! differs from the present, in the slot of that digit. Two facts follow and carry the design: timers due at the same
//! moment always share a slot, so that appending to a slot's list keeps them in the order of insertion; and the lowest
//! level that is not empty, whose lowest slot a bit map tells, holds what comes next, so that no step looks at an empty
//! slot, however far time jumps. When time reaches a slot above level 0, its timers move to lower levels.
//!
//! Timers are nodes of a slab, linked both ways, so that cancelling really takes one out.

#[cfg(test)]
mod tests;

use longtail_model::Timestamp;

use super::{Corrupt, varint};

const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;

/// No node.
const NIL: u32 = u32::MAX;
/// Lists beside the slots: timers that were due when they were inserted, and those that never are.
const OVERDUE: u16 = (LEVELS * SLOTS) as u16;
const NEVER: u16 = OVERDUE + 1;
const LISTS: usize = LEVELS * SLOTS + 2;
/// A node that is no timer; `next` links the unused ones.
const UNUSED: u16 = u16::MAX;

/// Room for so many timers is kept when the last one goes.
const KEEP_CAPACITY: usize = 64;

/// Names a timer of one wheel. After the timer fired or was cancelled the name is stale: using it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

/// Timers with a key each, up to 2^32 - 1 at a time.
///
/// Inserting and cancelling take constant time; a timer moves at most eleven times before it fires.
#[derive(Clone, Debug)]
pub struct TimerWheel<K> {
    /// The latest moment it was told of. Timers due by then are in the list [`OVERDUE`], all others in the slots.
    now: u64,
    nodes: Vec<Node<K>>,
    /// The first unused node.
    unused: u32,
    len: usize,
    /// Given to the next timer. Counts timers, so that a name is not reused before 2^32 others.
    generation: u32,
    /// Not above the due time of any timer in the list [`OVERDUE`].
    overdue_from: u64,
    /// Which slots of a level hold timers.
    occupied: [u64; LEVELS],
    lists: Box<[List; LISTS]>,
}

#[derive(Clone, Debug)]
struct Node<K> {
    due: u64,
    key: K,
    prev: u32,
    next: u32,
    generation: u32,
    /// The list it is in.
    list: u16,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List {
    first: NIL,
    last: NIL,
};

impl<K: Copy> TimerWheel<K> {
    /// A wheel without timers.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        TimerWheel {
            now: now.0,
            nodes: Vec::new(),
            unused: NIL,
            len: 0,
            generation: 0,
            overdue_from: u64::MAX,
            occupied: [0; LEVELS],
            lists: Box::new([EMPTY; LISTS]),
        }
    }

    /// Number of timers, those that never fire included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no timer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The latest moment given to [`TimerWheel::new`] or [`TimerWheel::advance`].
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(self.now)
    }

    /// Adds a timer. One that is due already fires on the next [`TimerWheel::advance`], one due at
    /// [`Timestamp::NEVER`] never.
    ///
    /// # Panics
    ///
    /// There are 2^32 - 1 timers.
    pub fn insert(&mut self, due: Timestamp, key: K) -> TimerId {
        let generation = self.generation;
        self.generation = generation.wrapping_add(1);
        let node = Node {
            due: due.0,
            key,
            prev: NIL,
            next: NIL,
            generation,
            list: UNUSED,
        };
        let index = self.unused;
        let index = if index == NIL {
            let index = u32::try_from(self.nodes.len()).unwrap_or(NIL);
            assert!(index != NIL, "too many timers");
            if self.nodes.len() == self.nodes.capacity() {
                // A quarter more instead of twice as much: the slab is the bulk of a wheel's memory.
                self.nodes.reserve_exact(16.max(self.nodes.len() / 4));
            }
            self.nodes.push(node);
            index
        } else {
            let place = &mut self.nodes[index as usize];
            self.unused = place.next;
            *place = node;
            index
        };
        self.len += 1;
        self.link(index);
        TimerId { index, generation }
    }

    /// Takes a timer out and returns its key; `None` when it fired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> Option<K> {
        let key = self.node(id)?.key;
        self.unlink(id.index);
        self.release(id.index);
        Some(key)
    }

    /// Gives a timer another due time, as if it were inserted now; its name stays. `false`, and nothing is done, when it
    /// fired or was cancelled before.
    pub fn reschedule(&mut self, id: TimerId, due: Timestamp) -> bool {
        if self.node(id).is_none() {
            return false;
        }
        self.unlink(id.index);
        self.nodes[id.index as usize].due = due.0;
        self.link(id.index);
        true
    }

    /// When a timer is due, and its key; `None` when it fired or was cancelled before.
    #[must_use]
    pub fn get(&self, id: TimerId) -> Option<(Timestamp, K)> {
        self.node(id).map(|node| (Timestamp(node.due), node.key))
    }

    /// Fires every timer due by `now`, by due time and among equals in the order of insertion: takes it out and hands
    /// its due time and key to `fire`. Time does not run backwards: an earlier `now` than before counts as that one.
    pub fn advance(&mut self, now: Timestamp, fire: &mut impl FnMut(Timestamp, K)) {
        self.fire_overdue(fire);
        while let Some((level, slot, start)) = self.next_slot()
            && start <= now.0
        {
            self.now = start;
            self.occupied[level] &= !(1 << slot);
            let list = std::mem::replace(&mut self.lists[level * SLOTS + slot], EMPTY);
            let mut index = list.first;
            while index != NIL {
                let Node { due, key, next, .. } = self.nodes[index as usize];
                if due == start {
                    self.release(index);
                    fire(Timestamp(due), key);
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.now = self.now.max(now.0);
    }

    /// Nothing fires before this moment: it is when the earliest timer is due, or a moment between the present and then
    /// at which [`TimerWheel::advance`] moves timers closer (ten of them at most, and few for a due time that is near).
    /// While a timer waits that was due when it was inserted, it is a moment that has passed. `None` when nothing will
    /// ever fire.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        if self.lists[usize::from(OVERDUE)].first != NIL {
            return Some(Timestamp(self.overdue_from));
        }
        self.next_slot().map(|(_, _, start)| Timestamp(start))
    }

    /// The timers with their due times and keys: timers due at the same moment in the order of insertion, otherwise in
    /// no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (TimerId, Timestamp, K)> + '_ {
        self.lists.iter().flat_map(move |list| {
            let mut index = list.first;
            std::iter::from_fn(move || {
                let node = self.nodes.get(index as usize)?;
                let id = TimerId {
                    index,
                    generation: node.generation,
                };
                index = node.next;
                Some((id, Timestamp(node.due), node.key))
            })
        })
    }

    /// Estimate of the heap in use, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node<K>>() + size_of::<[List; LISTS]>()
    }

    /// Appends the wheel: the present, the number of timers, then for each `varint(zigzag(difference of the due time to
    /// the one before))` and its key, which `put_key` writes.
    pub fn encode(&self, out: &mut Vec<u8>, mut put_key: impl FnMut(&mut Vec<u8>, K)) {
        varint::put(out, self.now);
        varint::put(out, self.len as u64);
        let mut prev = self.now;
        for (_, due, key) in self.iter() {
            varint::put(out, varint::zigzag(due.0.wrapping_sub(prev).cast_signed()));
            prev = due.0;
            put_key(out, key);
        }
    }

    /// Takes a wheel off the front of `input`; `take_key` takes a key (`None` if it cannot). The timers have new names:
    /// `restored` is told each one's, with its due time and key.
    ///
    /// # Errors
    ///
    /// The bytes break a rule of the format; how much of `input` was taken is then unspecified.
    pub fn decode(
        input: &mut &[u8],
        mut take_key: impl FnMut(&mut &[u8]) -> Option<K>,
        mut restored: impl FnMut(TimerId, Timestamp, K),
    ) -> Result<Self, Corrupt> {
        let corrupt = |what| Corrupt {
            structure: "timer wheel",
            what,
        };
        let now = varint::get(input).ok_or(corrupt("the present is missing"))?;
        let count = varint::get(input).ok_or(corrupt("the number of timers is missing"))?;
        if count >= u64::from(NIL) {
            return Err(corrupt("the number of timers is out of range"));
        }
        let mut wheel = TimerWheel::new(Timestamp(now));
        // With a key, a timer takes two bytes at least.
        wheel
            .nodes
            .reserve_exact((input.len() / 2).min(count as usize));
        let mut due = now;
        for _ in 0..count {
            let difference = varint::get(input).ok_or(corrupt("a timer is missing"))?;
            due = due.wrapping_add(varint::unzigzag(difference).cast_unsigned());
            let key = take_key(input).ok_or(corrupt("the key of a timer does not parse"))?;
            restored(wheel.insert(Timestamp(due), key), Timestamp(due), key);
        }
        Ok(wheel)
    }

    fn node(&self, id: TimerId) -> Option<&Node<K>> {
        self.nodes
            .get(id.index as usize)
            .filter(|node| node.generation == id.generation && node.list != UNUSED)
    }

    /// The level and slot that come next, and the moment the slot starts.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = level as u32 * DIGIT_BITS;
        // On the highest level no bits are above the slot's.
        let above = u64::MAX.checked_shl(shift + DIGIT_BITS).unwrap_or(0);
        Some((
            level,
            slot as usize,
            self.now & above | u64::from(slot) << shift,
        ))
    }

    fn list_for(&self, due: u64) -> u16 {
        if due == u64::MAX {
            return NEVER;
        }
        if due <= self.now {
            return OVERDUE;
        }
        let level = (due ^ self.now).ilog2() / DIGIT_BITS;
        let slot = (due >> (level * DIGIT_BITS)) % SLOTS as u64;
        (level as usize * SLOTS + slot as usize) as u16
    }

    /// Appends a node to the list for its due time.
    fn link(&mut self, index: u32) {
        let due = self.nodes[index as usize].due;
        let list = self.list_for(due);
        if list == OVERDUE {
            self.overdue_from = self.overdue_from.min(due);
        } else if list < OVERDUE {
            self.occupied[usize::from(list) / SLOTS] |= 1 << (usize::from(list) % SLOTS);
        }
        let ends = &mut self.lists[usize::from(list)];
        let last = std::mem::replace(&mut ends.last, index);
        if last == NIL {
            ends.first = index;
        } else {
            self.nodes[last as usize].next = index;
        }
        let node = &mut self.nodes[index as usize];
        node.prev = last;
        node.next = NIL;
        node.list = list;
    }

    /// Takes a node out of its list.
    fn unlink(&mut self, index: u32) {
        let Node {
            prev, next, list, ..
        } = self.nodes[index as usize];
        let ends = &mut self.lists[usize::from(list)];
        if prev == NIL {
            ends.first = next;
        }
        if next == NIL {
            ends.last = prev;
        }
        if ends.first == NIL {
            if list == OVERDUE {
                self.overdue_from = u64::MAX;
            } else if list < OVERDUE {
                self.occupied[usize::from(list) / SLOTS] &= !(1 << (usize::from(list) % SLOTS));
            }
        }
        if prev != NIL {
            self.nodes[prev as usize].next = next;
        }
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
    }

    /// Makes a node, which is in no list, available again.
    fn release(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        node.list = UNUSED;
        node.next = self.unused;
        self.unused = index;
        self.len -= 1;
        if self.len == 0 {
            self.nodes.clear();
            self.nodes.shrink_to(KEEP_CAPACITY);
            self.unused = NIL;
        }
    }

    fn fire_overdue(&mut self, fire: &mut impl FnMut(Timestamp, K)) {
        let list = std::mem::replace(&mut self.lists[usize::from(OVERDUE)], EMPTY);
        if list.first == NIL {
            return;
        }
        self.overdue_from = u64::MAX;
        let mut overdue = Vec::new();
        let mut index = list.first;
        while index != NIL {
            let Node { due, key, next, .. } = self.nodes[index as usize];
            overdue.push((due, key));
            self.release(index);
            index = next;
        }
        // Stable, so that equals stay in the order of insertion.
        overdue.sort_by_key(|&(due, _)| due);
        for (due, key) in overdue {
            fire(Timestamp(due), key);
        }
    }
}
