//! How what was held is ready again: given back, held too long, or left behind by a session that has ended.
//!
//! What comes back together is one batch: by one command, or with the end of a session to a stream whose limits are of
//! what is ready. First all of it has its places again; then goes what is now too much for the stream, then what has
//! expired; only then is the rest shown to those who wait. (A new message is shown first, and makes room after that, see
//! `shrink`.) What does not come back, because it has failed too often, goes before the rest has its places: who waits
//! for dead letters may wait for that, too.

use longtail_model::{ConsumerTag, Durability, GroupId, Lsn, Priority, Seq, Timestamp};
use smallvec::SmallVec;

use super::settle::Fate;
use super::{Found, Outcome, Shard};
use crate::command::{Handle, Settle};
use crate::effect::{Effects, Gate, Refusal, Reply};
use crate::event;
use crate::stream::{Hold, HoldKey, Meta, SessionKey};

/// A message that has its place again and has not been shown to anybody, and where it is in the log.
pub(super) type Back = (Found, Lsn);

/// Writes that a message of a group is ready again, at once or when due.
pub(super) fn put_returned(
    out: &mut Vec<u8>,
    (group, seq): (GroupId, Seq),
    due: Option<Timestamp>,
    meta: &Meta,
) {
    let (priority, delay_ms) = (Priority(meta.priority), meta.delay_ms);
    event::put_returned(out, group, seq, priority, due, delay_ms, &meta.counts);
}

impl Shard {
    pub(super) fn put_back(
        &mut self,
        hold: HoldKey,
        due: Option<Timestamp>,
        meta: Meta,
        fx: &mut dyn Effects,
    ) -> Result<Gate, Refusal> {
        let (gate, back) = self.return_held(hold, due, meta)?;
        self.came_back(back.as_slice(), fx);
        Ok(gate)
    }

    /// Gives several messages of a group back, as one.
    pub(crate) fn put_back_all(
        &mut self,
        key: SessionKey,
        (group, messages): (GroupId, &[Seq]),
        how: Settle,
        fx: &mut dyn Effects,
    ) -> Outcome {
        let mut had: SmallVec<[ConsumerTag; 1]> = SmallVec::new();
        let mut back = Vec::with_capacity(messages.len());
        let outcome = self.return_several(key, (group, messages), how, &mut had, &mut back, fx);
        // What was written before something was refused has come back.
        self.came_back(&back, fx);
        for tag in had {
            self.refill(key, tag, fx);
        }
        Ok((outcome?, Reply::Done))
    }

    fn return_several(
        &mut self,
        key: SessionKey,
        (group, messages): (GroupId, &[Seq]),
        how: Settle,
        had: &mut SmallVec<[ConsumerTag; 1]>,
        back: &mut Vec<Back>,
        fx: &mut dyn Effects,
    ) -> Result<Gate, Refusal> {
        let mut gate = Gate::OPEN;
        let mut returned = Vec::with_capacity(messages.len());
        for &seq in messages {
            let Some(hold) = self.own_hold(key, Handle::Group(group, seq))? else {
                continue;
            };
            let tag = self.holds[hold].consumer;
            if !had.contains(&tag) {
                had.push(tag);
            }
            match self.fate(hold, how) {
                Fate::Returned { due, meta } => returned.push((hold, due, meta)),
                Fate::Done => gate = gate.max(self.ack(hold)?),
                Fate::Parked(meta) => gate = gate.max(self.park(hold, meta)?),
                Fate::Dead(grave, reason) => gate = gate.max(self.bury(hold, grave, reason, fx)?),
            }
        }
        for (hold, due, meta) in returned {
            // One that is named twice has come back already.
            if self.is_held_by(key, hold) {
                let (written, one) = self.return_held(hold, due, meta)?;
                gate = gate.max(written);
                back.extend(one);
            }
        }
        Ok(gate)
    }

    fn is_held_by(&self, key: SessionKey, hold: HoldKey) -> bool {
        self.holds.get(hold).is_some_and(|held| held.session == key)
    }

    /// Gives a held message its place again, at once or when due.
    fn return_held(
        &mut self,
        hold: HoldKey,
        due: Option<Timestamp>,
        meta: Meta,
    ) -> Result<(Gate, Option<Back>), Refusal> {
        let level = self.describe_return(hold, due, &meta);
        let gate = self.logs.control(level, &[&self.scratch])?;
        let after = gate.lsn;
        Ok((gate, self.release_to(hold, due, |_| Meta { after, ..meta })))
    }

    /// Ends a hold; the message has its place again, if it is still there.
    fn release_to(
        &mut self,
        hold: HoldKey,
        due: Option<Timestamp>,
        meta: impl FnOnce(&Hold) -> Meta,
    ) -> Option<Back> {
        let held = self.release_hold(hold)?;
        let found = self.found(&held)?;
        let meta = meta(&held);
        self.apply_returned(found, due, meta);
        Some((found, held.position))
    }

    /// A held message whose holder is too late is ready again, in its place.
    pub(crate) fn abandon(&mut self, hold: HoldKey, fx: &mut dyn Effects) {
        if !self.ends_with_loss(hold, fx) {
            let back = self.release_to(hold, None, Hold::meta);
            self.came_back(back.as_slice(), fx);
        }
    }

    /// What a session that is gone has held, from this on, is ready again. Where that counts, the deliveries have failed.
    pub(crate) fn lose_holds(
        &mut self,
        key: SessionKey,
        first: Option<HoldKey>,
        fx: &mut dyn Effects,
    ) {
        let following = |hold: &HoldKey| self.holds.get(*hold).and_then(|held| held.next);
        let mut lost: Vec<HoldKey> = std::iter::successors(first, following).collect();
        lost.retain(|&hold| {
            if !self.is_held_by(key, hold) {
                return false;
            }
            if self.count_loss(hold) {
                self.note_lost(hold);
            }
            !self.ends_with_loss(hold, fx)
        });
        let (bounded, others): (Vec<_>, Vec<_>) =
            lost.into_iter().partition(|&hold| self.is_bounded(hold));
        let mut back = Vec::with_capacity(bounded.len());
        for hold in bounded {
            if self.is_held_by(key, hold) {
                back.extend(self.release_to(hold, None, Hold::meta));
            }
        }
        self.came_back(&back, fx);
        // One by one: who waits gets the first that was taken, not the best of all that were.
        for hold in others {
            if self.is_held_by(key, hold) {
                let back = self.release_to(hold, None, Hold::meta);
                self.came_back(back.as_slice(), fx);
            }
        }
    }

    /// Whether a held message may be too much for its stream when it comes back.
    fn is_bounded(&self, hold: HoldKey) -> bool {
        let held = self.holds.get(hold);
        let held = held.and_then(|held| self.group_of(held));
        held.is_some_and(|(stream, _)| stream.makes_room_later())
    }

    /// Where it counts that a holder is gone, the delivery has failed; whether it counts.
    pub(super) fn count_loss(&mut self, hold: HoldKey) -> bool {
        let held = self.holds.get(hold);
        let held = held.and_then(|held| self.group_of(held));
        let counts = held.is_some_and(|(_, group)| group.config.count_losses);
        if counts {
            let held = &mut self.holds[hold];
            held.counts.failures = held.counts.failures.saturating_add(1);
        }
        counts
    }

    /// Whether a lost message has failed too often, and has gone where such messages go.
    fn ends_with_loss(&mut self, hold: HoldKey, fx: &mut dyn Effects) -> bool {
        let Some(held) = self.holds.get(hold) else {
            return true;
        };
        let Some((_, group)) = self.group_of(held) else {
            return false;
        };
        let config = &group.config;
        let over = config.max_deliveries > 0 && held.counts.deliveries >= config.max_deliveries;
        (over || config.has_failed(held.counts.failures)) && self.lay_dead(hold, !over, fx)
    }

    /// Tells the log of the counts of a message whose holder is gone. Nobody waits for this: after a crash the message
    /// is ready anyway, only the count would be lost.
    pub(super) fn note_lost(&mut self, hold: HoldKey) {
        let meta = self.holds[hold].meta();
        if self.describe_return(hold, None, &meta) != Durability::Memory {
            self.logs.note(&self.scratch);
        }
    }

    /// Writes into the scratch how a held message comes back; how safe its stream wants that to be.
    fn describe_return(
        &mut self,
        hold: HoldKey,
        due: Option<Timestamp>,
        meta: &Meta,
    ) -> Durability {
        let held = &self.holds[hold];
        let level = self.level_of(held.group);
        self.scratch.clear();
        put_returned(&mut self.scratch, (held.group, held.seq), due, meta);
        level
    }

    /// Messages that were held have their places again: makes room, drops what nobody is to be shown any more, and shows
    /// the rest to those who wait.
    pub(super) fn came_back(&mut self, back: &[Back], fx: &mut dyn Effects) {
        for of_stream in back.chunk_by(|(one, _), (next, _)| one.stream == next.stream) {
            if let Some((found, _)) = of_stream.first() {
                self.make_room_again(found.stream, of_stream.len(), fx);
            }
        }
        for &(found, position) in back {
            if self.is_overdue(found.stream, position)
                && self.position(found.stream, found.seq) == Ok(Some(position))
                && !self.is_held(found.stream, found.seq)
            {
                self.drop_expired(found.stream, found.seq, fx);
            }
        }
        let same =
            |(one, _): &Back, (next, _): &Back| one.stream == next.stream && one.at == next.at;
        for of_group in back.chunk_by(same) {
            if let Some((found, _)) = of_group.first() {
                self.dispatch(found.stream, found.at, fx);
            }
        }
    }
}
