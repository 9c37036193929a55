//! Changes of state that commands and recovery share: the same function applies an event whether it has just been
//! decided or is read back from the log.

use hashbrown::HashSet;
use longtail_model::{Durability, GroupId, Lsn, Seq, StreamId, Timestamp};

use super::timers::Timer;
use super::{Found, Head, Shard};
use crate::config::Keep;
use crate::effect::Refusal;
use crate::stream::{Alarm, Aside, Group, Meta, Place};

impl Shard {
    /// A message is in the log: give it its number in the stream and its place in the groups.
    pub(crate) fn apply_append(&mut self, stream: StreamId, seq: Seq, position: Lsn, head: &Head) {
        let now = self.now;
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        let index = state.index;
        state.held.add(head.bytes);
        let due = head.created.plus_millis(head.delay_ms);
        let delayed = head.delay_ms > 0 && due > now;
        // The cursor of a group that lists what is ready stays where the group starts.
        if delayed {
            for group in &mut state.groups {
                if group.deleted || seq < group.cursor {
                    continue;
                }
                let lists = group.lists.make();
                if group.implicit {
                    lists.passed.insert(seq.0);
                }
                lists.delayed.insert(due.0, seq.0);
            }
        } else {
            // Groups that list nothing have it ahead of them without being looked at, but for those that begin later.
            state.offered = state.offered.wrapping_add(1);
            let (groups, roster) = (&mut state.groups, &mut state.roster);
            if let Some(named) = roster.named.get_mut() {
                named.later.retain(|at| match groups.get_mut(*at as usize) {
                    Some(group) if seq < group.cursor => {
                        group.meet(1);
                        true
                    }
                    _ => false,
                });
            }
            for &at in &roster.listing {
                if let Some(group) = groups.get_mut(at as usize)
                    && seq >= group.cursor
                {
                    let key = group.key(head.priority);
                    group.add_ready(key, seq);
                }
            }
        }
        if head.expires != Timestamp::NEVER {
            (state.extra.make().expiry).insert(head.expires.0, seq.0);
        }
        self.push_to(index, seq, position);
        if delayed {
            for at in 0..self
                .streams
                .get(&stream)
                .map_or(0, |state| state.groups.len())
            {
                self.set_delay_alarm(stream, at);
            }
        }
        if head.expires != Timestamp::NEVER {
            self.look_at_expiry(stream, head.expires);
        }
        self.set_age_alarm(stream, head.created);
    }

    /// A group is done with a message; when all are, the message goes.
    pub(crate) fn apply_settled(&mut self, found: Found, place: Option<Place>, bytes: u64) {
        let Found {
            stream, at, seq, ..
        } = found;
        if let (Some(place), Some(group)) = (place, self.group_mut(stream, at)) {
            group.forget(place, seq);
        }
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        if state.config.keep == Keep::UntilLimit {
            return;
        }
        // With several groups, who else wants it decides.
        if state.roster.groups == 1 || !self.wanted(stream, seq) {
            self.take_out(stream, seq, bytes);
        }
    }

    /// Whether a group still has to settle a message.
    ///
    /// The group that was found last is asked first, then those after it in a circle: whoever is slow wants this one as
    /// it wanted the last. So a stream with thousands of groups is gone through once in a while, not for every
    /// settlement.
    pub(crate) fn wanted(&mut self, stream: StreamId, seq: Seq) -> bool {
        let Some((groups, witness)) = (self.streams.get(&stream))
            .map(|state| (state.groups.len(), state.roster.witness as usize))
        else {
            return false;
        };
        for step in 0..groups {
            let at = (witness + step) % groups;
            if self.wants(stream, at, seq) {
                if step > 0
                    && let Some(state) = self.streams.get_mut(&stream)
                {
                    state.roster.witness = u32::try_from(at).unwrap_or(0);
                }
                return true;
            }
        }
        false
    }

    pub(crate) fn wants(&mut self, stream: StreamId, at: usize, seq: Seq) -> bool {
        let Some(group) = self.group(stream, at).filter(|group| !group.deleted) else {
            return false;
        };
        if group.is_bare() && self.live {
            // What is in a page that cannot be read may be there.
            return group.is_ahead(seq) && self.position(stream, seq) != Ok(None);
        }
        match self.place_of(stream, at, seq) {
            Ok(place) => place.is_some(),
            Err(_) => self.group(stream, at).is_some_and(|group| {
                (group.lists.ready.iter().chain(group.lists.delayed.iter()))
                    .any(|(_, listed)| listed == seq.0)
            }),
        }
    }

    /// Where a message stands in the group at `at`, held by whomever.
    fn place_of(
        &mut self,
        stream: StreamId,
        at: usize,
        seq: Seq,
    ) -> Result<Option<Place>, Refusal> {
        let hold = self.hold_by.get(self.domain(stream, at), seq.0);
        self.locate(Found {
            stream,
            at,
            seq,
            hold,
        })
    }

    /// A message leaves its stream, whatever its groups thought of it.
    pub(crate) fn remove_message(&mut self, stream: StreamId, seq: Seq, bytes: u64) {
        let groups = self
            .streams
            .get(&stream)
            .map_or(0, |stream| stream.groups.len());
        for at in 0..groups {
            if self.live
                && let Some(group) = self.group_mut(stream, at)
                && (group.deleted || group.is_bare())
            {
                // The index knows it no more: there is nothing to step over.
                if !group.deleted && group.is_ahead(seq) {
                    group.meet(1);
                }
                continue;
            }
            let place = match self.place_of(stream, at, seq) {
                Ok(place) => place,
                Err(_) => {
                    self.unplace(stream, at, seq);
                    None
                }
            };
            if let Some(Place::Held(hold)) = place {
                self.release_hold(hold);
            }
            if let (Some(place), Some(group)) = (place, self.group_mut(stream, at)) {
                group.forget(place, seq);
            }
        }
        self.take_out(stream, seq, bytes);
    }

    /// Remembers, while the log is replayed, that a group is done with a message although nobody can say where in the
    /// group it is listed: its record is reclaimed.
    pub(crate) fn unplace(&mut self, stream: StreamId, at: usize, seq: Seq) {
        if !self.live
            && let Some(group) = self.group(stream, at).map(|group| group.id)
        {
            self.unplaced.insert((group, seq));
        }
    }

    /// Remembers, while the log is replayed, what a stream that goes may leave behind in an index that it shares: what
    /// cannot be read may be its own.
    pub(crate) fn doubt_unreadable(&mut self, stream: StreamId) {
        let Some(state) = self.streams.get(&stream) else {
            return;
        };
        if self.live || state.held.messages() == 0 || !state.shares_numbers() {
            return;
        }
        let id = state.index;
        let mut from = Seq(0);
        while let Ok(Some((seq, position))) = self.next_in(id, from) {
            from = seq.next();
            if self.head(position).is_err() {
                self.doubtful.push((id, seq));
            }
        }
    }

    /// Ends a replay: takes out of the lists what is settled, and out of the indexes what nobody has.
    pub(crate) fn forget_unplaced(&mut self) {
        let unplaced = std::mem::take(&mut self.unplaced);
        let groups: HashSet<GroupId> = unplaced.iter().map(|&(group, _)| group).collect();
        for id in groups {
            let Some((stream, at)) = self.group_at(id) else {
                continue;
            };
            let Some(group) = self.group_mut(stream, at) else {
                continue;
            };
            let gone = |&(_, seq): &(u64, u64)| unplaced.contains(&(id, Seq(seq)));
            let ready: Vec<_> = group.lists.ready.iter().filter(gone).collect();
            for (key, seq) in ready {
                group.remove_ready(Place::Ready(key), Seq(seq));
            }
            let delayed: Vec<_> = group.lists.delayed.iter().filter(gone).collect();
            for (due, seq) in delayed {
                group.take_aside(Place::Delayed(Timestamp(due)), Seq(seq));
            }
        }
        for (id, seq) in std::mem::take(&mut self.doubtful) {
            if let Ok(Some(position)) = self.position_in(id, seq)
                && self.head(position).is_err()
            {
                // Its page has just been read.
                let _ = self.take_from(id, seq);
            }
        }
    }

    /// Bytes of headers and payload of a message; 0 when it cannot be read. While the log is replayed that is no loss:
    /// the record is reclaimed because a later event lets go of the message, and what is left is counted at the end.
    pub(crate) fn size(&mut self, stream: StreamId, seq: Seq) -> u64 {
        let position = match self.position(stream, seq) {
            Ok(Some(position)) => Ok(position),
            Ok(None) => return 0,
            Err(error) => Err(error),
        };
        match position.and_then(|position| self.head(position)) {
            Ok(head) => head.bytes,
            Err(_) => {
                if !self.live {
                    self.miscounted.insert(stream);
                }
                0
            }
        }
    }

    /// Ends a replay: adds up the sizes of what is left in streams of which that is not known, and forgets the times
    /// of expiry of what is gone.
    pub(crate) fn count_again(&mut self) {
        for stream in std::mem::take(&mut self.misdated) {
            let Some(state) = self.streams.get(&stream) else {
                continue;
            };
            let stale: Vec<(u64, u64)> = state
                .extra
                .expiry
                .iter()
                .filter(|&(_, seq)| self.position(stream, Seq(seq)) == Ok(None))
                .collect();
            if let Some(state) = self.streams.get_mut(&stream) {
                for (due, seq) in stale {
                    state.forget_expiry(Timestamp(due), Seq(seq));
                }
            }
        }
        for stream in std::mem::take(&mut self.miscounted) {
            let (mut bytes, mut from) = (0, Seq::FIRST);
            while let Ok(Some((seq, position))) = self.next_of_stream(stream, from) {
                from = seq.next();
                bytes += self.head(position).map_or(0, |head| head.bytes);
            }
            if let Some(state) = self.streams.get_mut(&stream) {
                state.held.set(state.held.messages(), bytes);
            }
        }
    }

    /// Takes a message that stands in no group out of the index.
    fn take_out(&mut self, stream: StreamId, seq: Seq, bytes: u64) {
        let Some(id) = self.streams.get(&stream).map(|state| state.index) else {
            return;
        };
        let position = match self.position_in(id, seq) {
            Ok(Some(position)) => Ok(position),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let may_expire = self
            .streams
            .get(&stream)
            .is_some_and(|state| !state.extra.expiry.is_empty());
        let expires = match may_expire.then(|| self.head(position.clone()?)) {
            Some(Ok(head)) => head.expires,
            Some(Err(_)) => {
                // It leaves its time of expiry behind, which then finds nothing.
                if !self.live {
                    self.misdated.insert(stream);
                }
                Timestamp::NEVER
            }
            None => Timestamp::NEVER,
        };
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        state.held.take(bytes);
        if expires != Timestamp::NEVER {
            state.forget_expiry(expires, seq);
        }
        match position {
            Ok(position) => {
                // Its page has just been read.
                let _ = self.take_from(id, seq);
                self.retire(position);
            }
            Err(_) => self.forget_in(id, seq),
        }
    }

    /// One reference to a record is gone.
    pub(crate) fn retire(&mut self, position: Lsn) {
        match self.references.get_mut(&position) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                self.references.remove(&position);
                self.let_go(position);
            }
            None => self.let_go(position),
        }
    }

    fn let_go(&mut self, position: Lsn) {
        if self.live {
            self.retired.push(position);
        } else {
            self.logs.retire(position);
        }
    }

    /// A message that stands nowhere is ready again, or will be at `due`.
    pub(crate) fn apply_returned(&mut self, found: Found, due: Option<Timestamp>, meta: Meta) {
        let Found {
            stream, at, seq, ..
        } = found;
        let now = self.now;
        let Some(group) = self.group_mut(stream, at) else {
            return;
        };
        let aside = due.filter(|&due| due > now).map(Aside::Delayed);
        let lists = group.lists.make();
        lists.meta.insert(seq.0, Meta { aside, ..meta });
        match aside {
            Some(Aside::Delayed(due)) => {
                lists.delayed.insert(due.0, seq.0);
                self.set_delay_alarm(stream, at);
            }
            _ => {
                let key = group.key(meta.priority);
                group.add_ready(key, seq);
            }
        }
    }

    /// A message that stands nowhere is set aside, behind those already there.
    pub(crate) fn apply_parked(&mut self, found: Found, meta: Meta) {
        let Found {
            stream, at, seq, ..
        } = found;
        let Some(group) = self.group_mut(stream, at) else {
            return;
        };
        let lists = group.lists.make();
        let ticket = lists.next_ticket;
        lists.next_ticket += 1;
        lists.parked.insert(ticket, seq.0);
        lists.meta.insert(
            seq.0,
            Meta {
                aside: Some(Aside::Parked(ticket)),
                ..meta
            },
        );
    }

    /// The first message of a stream at or after `from`. In a shared index the numbers in between are others'.
    ///
    /// # Errors
    /// When the index page in which it may be cannot be read.
    pub(crate) fn next_of_stream(
        &mut self,
        stream: StreamId,
        from: Seq,
    ) -> Result<Option<(Seq, Lsn)>, Refusal> {
        let Some(state) = self.streams.get(&stream).filter(|s| s.held.messages() > 0) else {
            return Ok(None);
        };
        let (index, shared) = (state.index, state.shares_numbers());
        let mut from = from;
        loop {
            let Some((seq, position)) = self.next_in(index, from)? else {
                return Ok(None);
            };
            if !shared
                || self
                    .head_in(index, seq, position)
                    .is_ok_and(|head| head.stream == stream)
            {
                return Ok(Some((seq, position)));
            }
            from = seq.next();
        }
    }

    /// Whether a consumer of any group holds the message.
    pub(crate) fn is_held(&self, stream: StreamId, seq: Seq) -> bool {
        let Some(state) = self.streams.get(&stream) else {
            return false;
        };
        let held = |(at, group): (usize, &Group)| {
            group.held > 0 && self.hold_by.contains(self.domain(stream, at), seq.0)
        };
        state.groups.iter().enumerate().any(held)
    }

    /// A message at the head cannot be read: out of the way, where an operator finds it.
    pub(crate) fn set_aside_unreadable(&mut self, found: Found, place: Place) {
        if let Some(group) = self.group_mut(found.stream, found.at) {
            let mark = group.meta(found.seq).map_or(0, |meta| meta.mark);
            group.forget(place, found.seq);
            let meta = Meta {
                mark,
                ..Meta::default()
            };
            self.apply_parked(found, meta);
        }
    }

    /// Sets the alarm for what is delayed. While the log is replayed no alarm is set: `recovered` sets them all.
    pub(crate) fn set_delay_alarm(&mut self, stream: StreamId, at: usize) {
        if !self.live {
            return;
        }
        let Some(lists) = self
            .streams
            .get_mut(&stream)
            .and_then(|stream| stream.groups.get_mut(at)?.lists.get_mut())
        else {
            return;
        };
        let first = lists.delayed.first().map(|(due, _)| Timestamp(due));
        let timers = &mut self.timers;
        lists
            .delay_timer
            .move_to(first, timers, Timer::Delay(stream, at));
    }

    /// Sets the alarm for expiry, unless it rings before `due` anyway.
    pub(crate) fn look_at_expiry(&mut self, stream: StreamId, due: Timestamp) {
        if !self.live {
            return;
        }
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        if state
            .extra
            .expiry_timer
            .set
            .is_none_or(|(set, _)| due < set)
        {
            (state.extra.make()).expiry_timer.move_to(
                Some(due),
                &mut self.timers,
                Timer::Expiry(stream),
            );
        }
    }

    /// Sets the alarm for the age limit, unless it is set: it looks at the oldest message when it rings.
    pub(crate) fn set_age_alarm(&mut self, stream: StreamId, created: Timestamp) {
        if !self.live {
            return;
        }
        let Some(state) = self.streams.get_mut(&stream) else {
            return;
        };
        if let Some((age, _)) = state.config.age_limit()
            && state.extra.age_timer.set.is_none()
        {
            state.extra.make().age_timer.move_to(
                Some(created.plus_millis(age)),
                &mut self.timers,
                Timer::Age(stream),
            );
        }
    }

    /// The level of a group's stream.
    pub(crate) fn level_of(&self, group: GroupId) -> Durability {
        self.group_at(group)
            .and_then(|(stream, _)| self.streams.get(&stream))
            .map_or(Durability::Memory, |stream| stream.level)
    }
}

impl Alarm {
    /// Sets the alarm to `when`, earlier or later than it was; `None` switches it off.
    pub(crate) fn move_to(
        &mut self,
        when: Option<Timestamp>,
        timers: &mut crate::structures::wheel::TimerWheel<Timer>,
        timer: Timer,
    ) {
        if self.set.map(|(due, _)| due) == when {
            return;
        }
        if let Some((_, id)) = self.set.take() {
            timers.cancel(id);
        }
        self.set = when.map(|due| (due, timers.insert(due, timer)));
    }
}
