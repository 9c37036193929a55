//! Other settings for a stream, and what makes room in the model once something is there.

use std::cmp::Reverse;
use std::rc::Rc;

use longtail_engine::{Counted, Order, Overflow, Reason, Refusal, Reply, StreamConfig, StreamName};
use longtail_model::Durability;

use super::dead::Grave;
use super::{Model, Outcome, Place, Stream, Told};

/// Whether a stream makes room only once what is new was shown.
pub fn makes_room_later(state: &Stream) -> bool {
    let limits = &state.config.limits;
    limits.of == Counted::Ready
        && state.config.overflow != Overflow::RefuseNew
        && (limits.max_messages > 0 || limits.max_bytes > 0)
}

impl Model {
    pub(super) fn crowd(&mut self, stream: u64) {
        let limited = self.stream(stream).is_some_and(makes_room_later);
        if limited && self.crowded.last() != Some(&stream) {
            self.crowded.push(stream);
        }
    }

    fn default_group(&self, stream: u64) -> Option<u64> {
        let groups = &self.stream(stream)?.groups;
        groups.iter().find(|g| g.name.is_empty()).map(|g| g.id)
    }

    fn is_over(&self, stream: u64) -> bool {
        let Some(state) = self.stream(stream) else {
            return false;
        };
        let default = self.default_group(stream);
        let limits = state.config.limits;
        let counts = |seq: u64| {
            let has =
                |h: &super::Hold| (h.stream, h.seq) == (stream, seq) && Some(h.group) == default;
            limits.of == Counted::All || !self.holds.values().any(has)
        };
        let counted: Vec<u64> = (state.messages.iter())
            .filter(|(seq, _)| counts(**seq))
            .map(|(_, message)| message.bytes())
            .collect();
        (limits.max_messages > 0 && counted.len() as u64 > limits.max_messages)
            || (limits.max_bytes > 0 && counted.iter().sum::<u64>() > limits.max_bytes)
    }

    /// The next that goes at or after a place.
    fn next_to_go(
        &self,
        stream: u64,
        (key, from): (Option<u64>, u64),
    ) -> Option<(Option<u64>, u64)> {
        let state = self.stream(stream)?;
        let group = state.config.group.as_ref();
        if state.config.overflow != Overflow::DropLeastUrgent
            || group.is_none_or(|group| group.order != Order::Priority)
        {
            let next = state.messages.range(from..).next();
            return next.map(|(seq, _)| (None, *seq));
        }
        let group = self.group(stream, self.default_group(stream)?)?;
        let ready = (group.messages.iter())
            .filter(|(_, standing)| standing.now.place == Place::Ready)
            .map(|(seq, standing)| (u64::from(standing.now.priority), *seq));
        let behind = |&(of, seq): &(u64, u64)| match key {
            None => true,
            Some(key) => of < key || (of == key && seq >= from),
        };
        let next = ready
            .filter(behind)
            .min_by_key(|&(of, seq)| (Reverse(of), seq));
        next.map(|(of, seq)| (Some(of), seq))
    }

    pub(super) fn shrink(&mut self, stream: u64, told: &mut Told) {
        let mut from = (None, 0);
        while let Some(state) = self.stream(stream)
            && state.config.overflow != Overflow::RefuseNew
            && self.is_over(stream)
            && let Some((key, seq)) = self.next_to_go(stream, from)
        {
            from = (key, seq + 1);
            if self.is_held(stream, seq) {
                continue;
            }
            let (_, grave) = self.grave_of(stream, seq, Reason::Limit);
            let back = match grave {
                Grave::At(target, ..) => {
                    let name = self.kept.streams[&target].name.to_string();
                    let through = &self.kept.streams[&stream].messages[&seq].through;
                    through.contains(&name)
                }
                _ => false,
            };
            if !back && self.lay_off_pushed(stream, seq, &[], told) {
                continue;
            }
            self.count_lost(&[(stream, seq)]);
            self.remove(stream, seq);
            self.mark();
        }
        self.drop_if_idle(stream);
    }

    pub(super) fn redefine(&mut self, name: &StreamName, config: &StreamConfig) -> Outcome {
        let Some(stream) = self.find(name) else {
            return Ok(Reply::NotFound);
        };
        let state = &self.kept.streams[&stream];
        let old = &state.config;
        if old == config {
            return Ok(Reply::Done);
        }
        let fixed = |config: &StreamConfig| {
            let group = config.group.as_ref().map(|g| (g.order, g.start));
            let whole = (config.keep, config.durability, config.auto_delete);
            (config.numbering.clone(), whole, group)
        };
        if fixed(old) != fixed(config) {
            return Err(Refusal::Unsupported(""));
        }
        let told_log = state.defined && state.level != Durability::Memory;
        let timer = state.age_timer;
        self.stop_timer(timer.map(|alarm| alarm.1));
        let state = self.kept.streams.get_mut(&stream).map(Rc::make_mut);
        let state = state.expect("found");
        state.age_timer = None;
        state.config = config.clone();
        if let Some(config) = &config.group
            && let Some(group) = state.groups.iter_mut().find(|g| g.name.is_empty())
        {
            group.config = config.clone();
        }
        let first = state.messages.values().next().map(|m| m.created);
        if let Some(created) = first {
            self.set_age_alarm(stream, created);
        }
        self.crowded.push(stream);
        if told_log {
            self.mark();
        }
        Ok(Reply::Done)
    }
}
