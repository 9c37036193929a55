//! Who of those that draw from a group gets a message, where that is not simply whoever has waited longest.
//!
//! ```text
//! Turns, Random, LeastHeld   one of those that wait            whoever has no room is passed over
//! Single, Pinned             the one that the message is for   it waits for that one, and what is for others passes it
//! ```
//!
//! A rule is a thing of the running shard: it comes with a command, goes when the last consumer leaves, and is not
//! logged. A pinned group lists what it has read ahead of its cursor as ready, and knows beside that list, in
//! [`Lanes`], for which bucket of keys each message is. Buckets go to members by rendezvous: when one comes or goes,
//! only the buckets that it gets or had move. How many messages lie in lanes is bounded; beyond that the group waits
//! for the members that are slow.

use std::collections::BTreeSet;
use std::hash::BuildHasher as _;

use hashbrown::HashMap;
use longtail_model::{ConsumerTag, Seq, SessionId, StreamId};

use super::publish::record_of;
use super::{Outcome, Shard, now_reply};
use crate::command::{Dispatch, KeyFrom, NewMessage, Target};
use crate::config::Order;
use crate::effect::{Effects, Refusal, Reply};
use crate::headers;
use crate::stream::{FixedHash, Place, SessionKey, Waiter};

/// Buckets of keys in a pinned group.
const BUCKETS: u32 = 256;

/// Messages in the lanes of one group that are read ahead of its cursor.
const LANES_MAX: usize = 10_000;

/// How a group is dispatched, and between whom.
pub(crate) struct Rule {
    how: Dispatch,
    /// In the order in which they began to draw.
    members: Vec<Member>,
    /// In a pinned group: the member of each bucket, by its place in `members`.
    owners: Vec<usize>,
    lanes: Lanes,
}

/// A consumer that draws from the group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    id: SessionId,
    consumer: ConsumerTag,
    session: SessionKey,
}

/// The ready messages of a pinned group by bucket.
#[derive(Default)]
struct Lanes {
    bucket_of: HashMap<u64, u32, FixedHash>,
    by_bucket: BTreeSet<(u32, u64)>,
    /// Listed as ready and not in a lane yet.
    unsorted: Vec<u64>,
}

impl Lanes {
    fn put(&mut self, bucket: u32, seq: u64) {
        if let Some(old) = self.bucket_of.insert(seq, bucket) {
            self.by_bucket.remove(&(old, seq));
        }
        self.by_bucket.insert((bucket, seq));
    }

    fn take(&mut self, seq: u64) {
        if let Some(bucket) = self.bucket_of.remove(&seq) {
            self.by_bucket.remove(&(bucket, seq));
        }
    }

    /// The first message of each bucket that has some.
    fn firsts(&self) -> Vec<(u32, u64)> {
        let mut firsts = Vec::new();
        let mut from = 0;
        while let Some(&(bucket, seq)) = self.by_bucket.range((from, 0)..).next() {
            firsts.push((bucket, seq));
            from = bucket + 1;
        }
        firsts
    }
}

impl Rule {
    /// A message was listed as ready.
    pub(crate) fn note_ready(&mut self, seq: u64) {
        if self.is_pinned() {
            self.lanes.unsorted.push(seq);
        }
    }

    fn join(&mut self, member: Member) {
        if !self.members.contains(&member) {
            self.members.push(member);
            self.share_out();
        }
    }

    fn leave(&mut self, session: SessionKey, consumer: ConsumerTag) {
        let of = |member: &Member| member.session == session && member.consumer == consumer;
        self.members.retain(|member| !of(member));
        self.share_out();
    }

    /// Gives every bucket to the member that draws the highest number for it.
    fn share_out(&mut self) {
        if !self.is_pinned() {
            return;
        }
        let draw = |bucket: u32, member: &Member| {
            let member = scatter(member.id.0 ^ scatter(u64::from(member.consumer.0)));
            scatter(u64::from(bucket) ^ member)
        };
        let owner = |bucket| {
            let draws = self.members.iter().enumerate();
            let best = draws.max_by_key(|(_, member)| draw(bucket, member));
            best.map_or(0, |(at, _)| at)
        };
        self.owners = (0..BUCKETS).map(owner).collect();
    }

    fn owner(&self, bucket: u32) -> Option<Member> {
        let at = *self.owners.get(bucket as usize)?;
        self.members.get(at).copied()
    }

    /// Whether a message is for one consumer only.
    pub(crate) fn is_exclusive(&self) -> bool {
        matches!(self.how, Dispatch::Single | Dispatch::Pinned(_))
    }

    /// Whom everything is for, where that is one consumer.
    pub(crate) fn served(&self) -> Option<(SessionId, ConsumerTag)> {
        let first = (self.how == Dispatch::Single).then(|| self.members.first());
        first.flatten().map(|member| (member.id, member.consumer))
    }

    /// Whether that is the one that its key says.
    pub(crate) fn is_pinned(&self) -> bool {
        matches!(self.how, Dispatch::Pinned(_))
    }
}

/// Spreads numbers that follow each other over all bits (the finaliser of SplitMix64). The hash of the tables does not
/// spread them over the high ones, which decide between members.
fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Shard {
    /// Says how a group is dispatched from now on.
    pub(crate) fn set_dispatch(
        &mut self,
        key: SessionKey,
        stream: Target,
        group: &str,
        how: &Dispatch,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let stream = self.target(key, stream)?;
        let Some(state) = self.streams.get_mut(&stream) else {
            return now_reply(Reply::NotFound);
        };
        let Some(at) = state.group_named(group) else {
            return now_reply(Reply::NotFound);
        };
        let alone = state.consumers <= 1;
        let Some(found) = state.groups.get_mut(at) else {
            return now_reply(Reply::NotFound);
        };
        let known = found.lists.rule.as_deref().map(|rule| &rule.how);
        if known.unwrap_or(&Dispatch::Turns) == how {
            return now_reply(Reply::Done);
        }
        if *how == Dispatch::Turns {
            found.lists.make().rule = None;
            self.dispatch(stream, at, fx);
            return now_reply(Reply::Done);
        }
        if matches!(how, Dispatch::Pinned(_)) && found.config.order != Order::Sequence {
            return Err(Refusal::Unsupported(
                "a group that delivers by priority cannot be pinned by key",
            ));
        }
        let lists = found.lists.make();
        let mut rule = Rule {
            how: how.clone(),
            members: Vec::new(),
            owners: Vec::new(),
            lanes: Lanes::default(),
        };
        for (_, seq) in lists.ready.iter() {
            rule.note_ready(seq);
        }
        lists.rule = Some(Box::new(rule));
        if !alone {
            let mut drawing: Vec<_> = (self.sessions.iter())
                .flat_map(|(key, session)| session.consumers.iter().map(move |c| (key, c)))
                .filter(|(_, consumer)| consumer.sources.contains(&(stream, at)))
                .map(|(key, consumer)| (key, consumer.tag))
                .collect();
            drawing.sort_unstable_by_key(|&(key, tag)| {
                (self.sessions.get(key).map(|session| session.id), tag)
            });
            for (key, consumer) in drawing {
                self.join_rule(stream, at, key, consumer);
            }
            self.dispatch(stream, at, fx);
        }
        now_reply(Reply::Done)
    }

    fn rule(&self, stream: StreamId, at: usize) -> Option<&Rule> {
        self.group(stream, at)?.lists.rule.as_deref()
    }

    fn rule_mut(&mut self, stream: StreamId, at: usize) -> Option<&mut Rule> {
        let lists = self.group_mut(stream, at)?.lists.get_mut()?;
        lists.rule.as_deref_mut()
    }

    /// A consumer draws from a group.
    pub(crate) fn join_rule(
        &mut self,
        stream: StreamId,
        at: usize,
        session: SessionKey,
        consumer: ConsumerTag,
    ) {
        let Some(id) = self.sessions.get(session).map(|session| session.id) else {
            return;
        };
        if let Some(rule) = self.rule_mut(stream, at) {
            rule.join(Member {
                id,
                consumer,
                session,
            });
        }
    }

    /// A consumer draws from a group no more. What was for it is for others.
    pub(crate) fn leave_rule(
        &mut self,
        stream: StreamId,
        at: usize,
        session: SessionKey,
        consumer: ConsumerTag,
        fx: &mut dyn Effects,
    ) {
        let Some(rule) = self.rule_mut(stream, at) else {
            return;
        };
        rule.leave(session, consumer);
        if rule.members.is_empty() {
            if let Some(lists) = self.group_mut(stream, at).and_then(|g| g.lists.get_mut()) {
                lists.rule = None;
            }
        } else if rule.is_exclusive() {
            self.dispatch(stream, at, fx);
        }
    }

    fn is_pinned(&self, stream: StreamId, at: usize) -> bool {
        self.rule(stream, at).is_some_and(Rule::is_pinned)
    }

    /// Who of those that wait gets the message.
    pub(crate) fn next_waiter(&mut self, stream: StreamId, at: usize, seq: Seq) -> Option<Waiter> {
        let Some(rule) = self.rule(stream, at) else {
            return self.first_waiter(stream, at);
        };
        let waiters = &self.group(stream, at)?.lists.waiters;
        match rule.how {
            Dispatch::Random => {
                let count = waiters.len() as u64;
                let nth = scatter(seq.0).checked_rem(count)?;
                waiters.values().nth(usize::try_from(nth).ok()?).copied()
            }
            Dispatch::LeastHeld => {
                let held = |waiter: &Waiter| {
                    let session = self.sessions.get(waiter.session)?;
                    let mut consumers = session.consumers.iter();
                    Some(consumers.find(|c| c.tag == waiter.consumer)?.held)
                };
                let all = waiters.iter();
                // Of equals the one that has waited longest.
                all.min_by_key(|&(ticket, waiter)| (held(waiter), *ticket))
                    .map(|(_, waiter)| *waiter)
            }
            Dispatch::Turns | Dispatch::Single | Dispatch::Pinned(_) => {
                self.first_waiter(stream, at)
            }
        }
    }

    /// The next message of a group that is for one consumer only, and can be given to it now.
    ///
    /// # Errors
    /// When an index page cannot be read.
    pub(crate) fn next_exclusive(
        &mut self,
        stream: StreamId,
        at: usize,
    ) -> Result<Option<(SessionKey, ConsumerTag, Seq)>, Refusal> {
        if !self.is_pinned(stream, at) {
            let Some(&first) = self.rule(stream, at).and_then(|rule| rule.members.first()) else {
                return Ok(None);
            };
            if !self.waits(first) {
                return Ok(None);
            }
            let head = self.head_of_group(stream, at)?;
            return Ok(head.map(|seq| (first.session, first.consumer, seq)));
        }
        self.sort_lanes(stream, at)?;
        let Some(rule) = self.rule(stream, at) else {
            return Ok(None);
        };
        let ready = (rule.lanes.firsts().into_iter())
            .filter_map(|(bucket, seq)| Some((seq, rule.owner(bucket)?)))
            .filter(|&(_, owner)| self.waits(owner))
            .min_by_key(|&(seq, _)| seq);
        Ok(ready.map(|(seq, owner)| (owner.session, owner.consumer, Seq(seq))))
    }

    /// Whether a message that is appended now would be given at once to somebody who waits at a group.
    pub(crate) fn group_has_taker(
        &self,
        stream: StreamId,
        at: usize,
        message: &NewMessage,
    ) -> bool {
        let Some(state) = self.streams.get(&stream) else {
            return false;
        };
        let Some(group) = state.groups.get(at) else {
            return false;
        };
        if group.lists.waiters.is_empty()
            || state.is_paused(group)
            || self.last_in(state.index).next() < group.cursor
        {
            return false;
        }
        let Some(rule) = group
            .lists
            .rule
            .as_deref()
            .filter(|rule| rule.is_exclusive())
        else {
            // Those who wait have nothing before it, unless what is there cannot be read now.
            return matches!(self.head_of_group(stream, at), Ok(None));
        };
        let Dispatch::Pinned(by) = &rule.how else {
            let first = rule.members.first();
            return first.is_some_and(|first| self.waits(*first))
                && matches!(self.head_of_group(stream, at), Ok(None));
        };
        let key = key_of(by, &record_of(message, self.now));
        let bucket = (scatter(key) % u64::from(BUCKETS)) as u32;
        let lane = (bucket, 0)..=(bucket, u64::MAX);
        // What is not in its lane yet may be before it.
        rule.owner(bucket).is_some_and(|owner| self.waits(owner))
            && rule.lanes.unsorted.is_empty()
            && rule.lanes.by_bucket.range(lane).next().is_none()
    }

    /// Whether a member of a rule waits for a message.
    fn waits(&self, member: Member) -> bool {
        let session = self.sessions.get(member.session);
        session.is_some_and(|session| {
            session.id == member.id
                && (session.consumers.iter())
                    .any(|c| c.tag == member.consumer && c.ticket.is_some())
        })
    }

    /// The best message of such a group for one consumer.
    ///
    /// # Errors
    /// When an index page cannot be read.
    pub(crate) fn exclusive_for(
        &mut self,
        stream: StreamId,
        at: usize,
        session: SessionKey,
        consumer: ConsumerTag,
    ) -> Result<Option<Seq>, Refusal> {
        let is = |member: Member| member.session == session && member.consumer == consumer;
        if !self.is_pinned(stream, at) {
            let first = self.rule(stream, at).and_then(|rule| rule.members.first());
            if !first.copied().is_some_and(is) {
                return Ok(None);
            }
            return self.head_of_group(stream, at);
        }
        self.sort_lanes(stream, at)?;
        let Some(rule) = self.rule(stream, at) else {
            return Ok(None);
        };
        let mine = (rule.lanes.firsts().into_iter())
            .filter(|&(bucket, _)| rule.owner(bucket).is_some_and(is));
        Ok(mine.map(|(_, seq)| Seq(seq)).min())
    }

    /// A message of a pinned group is delivered.
    pub(crate) fn leave_lane(&mut self, stream: StreamId, at: usize, seq: Seq) {
        if let Some(rule) = self.rule_mut(stream, at) {
            rule.lanes.take(seq.0);
        }
    }

    fn head_of_group(&self, stream: StreamId, at: usize) -> Result<Option<Seq>, Refusal> {
        let Some(state) = self.streams.get(&stream) else {
            return Ok(None);
        };
        let (Some(group), Some(index)) = (state.groups.get(at), self.indexes.get(&state.index))
        else {
            return Ok(None);
        };
        Ok(group.head(index, &self.logs)?.map(|(_, seq)| seq))
    }

    /// Puts what is ready in a pinned group into its lanes: what came back, then what is ahead of the cursor, as far as
    /// there is room.
    fn sort_lanes(&mut self, stream: StreamId, at: usize) -> Result<(), Refusal> {
        self.drop_stale(stream, at);
        self.sort_listed(stream, at)?;
        loop {
            let Some(rule) = self.rule(stream, at) else {
                return Ok(());
            };
            if rule.members.is_empty() || rule.lanes.bucket_of.len() >= LANES_MAX {
                return Ok(());
            }
            let Some(state) = self.streams.get_mut(&stream) else {
                return Ok(());
            };
            let Some(index) = self.indexes.get(&state.index) else {
                return Ok(());
            };
            let Some(group) = state.groups.get_mut(at) else {
                return Ok(());
            };
            let Some(seq) = group.first_ahead(index, &self.logs)? else {
                return Ok(());
            };
            group.remove_ready(Place::Ahead, seq);
            group.add_ready(0, seq);
            self.sort_listed(stream, at)?;
        }
    }

    /// Forgets the first of a lane that is ready no more.
    fn drop_stale(&mut self, stream: StreamId, at: usize) {
        let Some(lists) = self.group_mut(stream, at).and_then(|g| g.lists.get_mut()) else {
            return;
        };
        let Some(rule) = lists.rule.as_deref_mut() else {
            return;
        };
        loop {
            let stale = |&(_, seq): &(u32, u64)| !lists.ready.contains(0, seq);
            let gone: Vec<_> = rule.lanes.firsts().into_iter().filter(stale).collect();
            if gone.is_empty() {
                return;
            }
            for (_, seq) in gone {
                rule.lanes.take(seq);
            }
        }
    }

    fn sort_listed(&mut self, stream: StreamId, at: usize) -> Result<(), Refusal> {
        let Some(rule) = self.rule_mut(stream, at) else {
            return Ok(());
        };
        let unsorted = std::mem::take(&mut rule.lanes.unsorted);
        let Dispatch::Pinned(by) = rule.how.clone() else {
            return Ok(());
        };
        for (done, seq) in unsorted.iter().copied().enumerate() {
            let position = match self.position(stream, Seq(seq)) {
                Ok(position) => position,
                Err(refusal) => {
                    if let Some(rule) = self.rule_mut(stream, at) {
                        rule.lanes.unsorted.extend(unsorted.iter().skip(done));
                    }
                    return Err(refusal);
                }
            };
            let Some(position) = position else { continue };
            // One that cannot be read is set aside when it is delivered, to whomever.
            let key = self.with_message(position, |message| key_of(&by, &message));
            let bucket = key.map_or(0, |key| (scatter(key) % u64::from(BUCKETS)) as u32);
            if let Some(rule) = self.rule_mut(stream, at) {
                rule.lanes.put(bucket, seq);
            }
        }
        Ok(())
    }
}

/// The key of a message.
fn key_of(by: &KeyFrom, message: &crate::Message<'_>) -> u64 {
    let hash = |bytes: &[u8]| FixedHash::default().hash_one(bytes);
    match by {
        KeyFrom::Key => message.key,
        KeyFrom::Subject => hash(message.subject),
        KeyFrom::Header(name) => {
            let mut fields = headers::iter(message.headers);
            let found = fields.find(|(field, _)| *field == name.as_bytes());
            hash(found.map_or(&[], |(_, value)| value))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_shared_out_evenly_whatever_numbers_the_members_have() {
        for first in 0..2000 {
            let mut rule = Rule {
                how: Dispatch::Pinned(KeyFrom::Key),
                members: Vec::new(),
                owners: Vec::new(),
                lanes: Lanes::default(),
            };
            for id in first..first + 3 {
                rule.members.push(Member {
                    id: SessionId(id),
                    consumer: ConsumerTag(1),
                    session: 0,
                });
            }
            rule.share_out();
            for at in 0..3 {
                let own = rule.owners.iter().filter(|&&owner| owner == at).count();
                assert!(
                    (45..130).contains(&own),
                    "sessions from {first}: {own} of 256"
                );
            }
        }
    }
}
