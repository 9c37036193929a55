//! Dead letters in the model, and the frames that they are written in.

use std::collections::{BTreeMap, BTreeSet};

use longtail_engine::{Cause, Overflow, Reason, Refusal};
use longtail_model::{ConsumerTag, Seq, StreamId};

use super::stream::stays;
use super::transact::Plan;
use super::{At, Message, Model, Shown, Space, Told};

/// Where a dead letter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grave {
    Unwanted,
    Missing,
    At(u64, bool, bool),
}

/// One frame of the log, while it is put together.
#[derive(Clone, Default)]
pub struct Frame {
    /// What may not be pushed out.
    pub named: BTreeSet<(u64, u64)>,
    numbered: BTreeMap<Space, u64>,
    /// Bytes of what is added to a stream.
    added: BTreeMap<u64, Vec<u64>>,
    evicted: Vec<(u64, u64)>,
    additions: Vec<Addition>,
    lost: u64,
}

#[derive(Clone)]
struct Addition {
    targets: Vec<u64>,
    message: Message,
    fleeting: bool,
    asked_for: bool,
}

/// A message on its way to streams; `past` is where a dead letter came through.
#[derive(Clone)]
pub struct Letter {
    pub also: Vec<u64>,
    pub message: Message,
    pub fleeting: bool,
    pub past: Vec<u64>,
}

impl Model {
    pub(super) fn grave(&self, at: At, reason: Reason) -> Grave {
        let wanted = self
            .group(at.stream, at.group)
            .and_then(|g| g.config.dead_letter.clone())
            .filter(|dead_letter| dead_letter.on.contains(reason));
        let Some(wanted) = wanted else {
            return Grave::Unwanted;
        };
        let space = self.kept.streams[&at.stream].name.space.clone();
        let name = longtail_engine::StreamName::new(space, wanted.stream);
        match self.find(&name) {
            Some(target) if target != at.stream => Grave::At(target, wanted.body, wanted.keep),
            _ => Grave::Missing,
        }
    }

    /// The default group decides about what nobody holds, while it is not done with it.
    pub(super) fn grave_of(&self, stream: u64, seq: u64, reason: Reason) -> (At, Grave) {
        let groups = &self.kept.streams[&stream].groups;
        let group = groups.iter().find(|g| g.name.is_empty());
        let group = group.map_or(0, |g| g.id);
        let at = At { stream, group, seq };
        match self.standing(at) {
            Some(_) => (at, self.grave(at, reason)),
            None => (at, Grave::Unwanted),
        }
    }

    pub(super) fn dead_copy(&self, at: At, reason: Reason, body: bool) -> Message {
        let stream = &self.kept.streams[&at.stream];
        let message = &stream.messages[&at.seq];
        let deliveries = self.standing(at).map_or(0, |s| s.now.counts.deliveries);
        let reason = match reason {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::Deliveries => "max-deliveries",
            Reason::Limit => "limit",
        };
        // Every header costs the lengths of its name and value and a few bytes; only the sum counts here.
        let added = super::super::world::headers(&[
            ("lt-death-reason", reason),
            ("lt-death-stream", &stream.name.to_string()),
            ("lt-death-seq", &at.seq.to_string()),
            ("lt-death-time", &self.now.to_string()),
            ("lt-death-deliveries", &deliveries.to_string()),
        ]);
        let letters = self.group(at.stream, at.group);
        let letters = letters.and_then(|group| group.config.dead_letter.as_ref());
        let note = letters.map_or("", |to| std::str::from_utf8(&to.note).expect("a text"));
        let noted = match note {
            "" => 0,
            note => super::super::world::headers(&[("lt-death-note", note)]),
        };
        let mut through = message.through.clone();
        through.push(stream.name.to_string());
        Message {
            created: self.now,
            priority: message.priority,
            delay_ms: 0,
            ack_timeout_ms: message.ack_timeout_ms,
            expires: None,
            shown: Shown {
                headers: message.shown.headers + added + noted,
                body: if body {
                    message.shown.body.clone()
                } else {
                    bytes::Bytes::new()
                },
                ..message.shown.clone()
            },
            copy_of: Some(at),
            through,
        }
    }

    /// What becomes of a held message that dies.
    pub(super) fn death_of(&self, hold: u64, to: Grave, reason: Reason) -> (Option<Letter>, Plan) {
        let at = self.holds[&hold].at();
        let Grave::At(_, body, keep) = to else {
            return (None, Plan::Parked(hold, None));
        };
        let letter = Letter {
            also: Vec::new(),
            message: self.dead_copy(at, reason, body),
            fleeting: false,
            past: vec![at.stream],
        };
        let plan = if keep {
            Plan::Parked(hold, None)
        } else {
            Plan::Settled(hold)
        };
        (Some(letter), plan)
    }

    pub(super) fn bury(
        &mut self,
        hold: u64,
        reason: Reason,
        told: &mut Told,
    ) -> Result<(), Refusal> {
        let at = self.holds[&hold].at();
        let to = self.grave(at, reason);
        if !matches!(to, Grave::At(..)) {
            // Nothing is published, so nobody is served before the command's end.
            self.park(hold, None);
            return Ok(());
        }
        let (letter, plan) = self.death_of(hold, to, reason);
        let mut frame = Frame::default();
        frame.named.insert((at.stream, at.seq));
        if let (Some(letter), Grave::At(target, ..)) = (letter, to) {
            self.add(&mut frame, target, &letter)?;
        }
        self.commit(frame, vec![plan], told);
        Ok(())
    }

    /// A message and what it pushes out goes into a frame.
    pub(super) fn add(
        &self,
        frame: &mut Frame,
        first: u64,
        letter: &Letter,
    ) -> Result<(), Refusal> {
        let (mut targets, mut past) = (Vec::new(), letter.past.clone());
        let before = frame.evicted.len();
        let bytes = letter.message.bytes();
        for &stream in std::iter::once(&first).chain(&letter.also) {
            if targets.contains(&stream) {
                continue;
            }
            let state = self.stream(stream).ok_or(Refusal::UnknownLink)?;
            targets.push(stream);
            let given = frame.numbered.entry(state.space.clone()).or_default();
            *given += 1;
            if !stays(state, self.kept.spaces[&state.space].given + *given) {
                continue;
            }
            past.push(stream);
            let more = frame.added.entry(stream).or_default();
            self.make_room(stream, bytes, more, &frame.named, &mut frame.evicted)?;
            more.push(bytes);
        }
        frame.additions.push(Addition {
            targets,
            message: letter.message.clone(),
            fleeting: letter.fleeting,
            asked_for: letter.past.is_empty(),
        });
        let pushed: Vec<(u64, u64)> = frame.evicted[before..].to_vec();
        for (stream, seq) in pushed {
            let (at, to) = self.grave_of(stream, seq, Reason::Limit);
            let copied = match to {
                Grave::Unwanted => continue,
                Grave::At(target, body, _) if !past.contains(&target) => {
                    let letter = Letter {
                        also: Vec::new(),
                        message: self.dead_copy(at, Reason::Limit, body),
                        fleeting: false,
                        past: past.clone(),
                    };
                    let mut with = frame.clone();
                    let added = self.add(&mut with, target, &letter);
                    added.map(|()| *frame = with).is_ok()
                }
                _ => false,
            };
            frame.lost += u64::from(!copied);
        }
        Ok(())
    }

    /// A frame is written, and then seen. Returns the numbers of what was asked for.
    pub(super) fn commit(
        &mut self,
        mut frame: Frame,
        plans: Vec<Plan>,
        told: &mut Told,
    ) -> Vec<Seq> {
        self.within = true;
        self.lost += frame.lost;
        for (stream, seq) in frame.evicted {
            self.remove(stream, seq);
        }
        let mut published = Vec::new();
        for addition in &mut frame.additions {
            let (seq, kept) = self.place(&addition.targets, &addition.message);
            addition.targets = kept;
            if addition.asked_for {
                published.push(Seq(seq));
            }
        }
        let mut holders: BTreeSet<(usize, ConsumerTag)> = BTreeSet::new();
        let (mut ready, mut touched) = (Vec::new(), Vec::new());
        for plan in plans {
            self.carry_out(plan, &mut holders, &mut ready, &mut touched);
        }
        self.within = false;
        self.mark();

        for addition in &frame.additions {
            self.show(&addition.targets, addition.fleeting, told);
        }
        self.came_back(&ready, told);
        for (key, tag) in holders {
            self.refill(key, tag, told);
        }
        for stream in touched {
            self.drop_if_idle(stream);
        }
        published
    }

    /// A message that nobody holds moves to another stream.
    fn lay_off(
        &mut self,
        at: At,
        (target, body): (u64, bool),
        reason: Reason,
        past: Vec<u64>,
        told: &mut Told,
    ) -> Result<(), Refusal> {
        let mut frame = Frame::default();
        frame.named.insert((at.stream, at.seq));
        frame.evicted.push((at.stream, at.seq));
        let letter = Letter {
            also: Vec::new(),
            message: self.dead_copy(at, reason, body),
            fleeting: false,
            past,
        };
        self.add(&mut frame, target, &letter)?;
        self.commit(frame, Vec::new(), told);
        Ok(())
    }

    /// Whether it is gone.
    pub(super) fn drop_expired(&mut self, stream: u64, seq: u64, told: &mut Told) -> bool {
        match self.grave_of(stream, seq, Reason::Expired) {
            (at, Grave::At(target, body, _)) => {
                let past = vec![stream];
                return self
                    .lay_off(at, (target, body), Reason::Expired, past, told)
                    .is_ok();
            }
            (_, Grave::Missing) => self.lost += 1,
            (_, Grave::Unwanted) => {}
        }
        self.remove(stream, seq);
        self.mark();
        true
    }

    pub(super) fn lay_off_pushed(
        &mut self,
        stream: u64,
        seq: u64,
        past: &[u64],
        told: &mut Told,
    ) -> bool {
        let (at, Grave::At(target, body, _)) = self.grave_of(stream, seq, Reason::Limit) else {
            return false;
        };
        if past.contains(&target) {
            return false;
        }
        let mut past = past.to_vec();
        past.push(stream);
        self.lay_off(at, (target, body), Reason::Limit, past, told)
            .is_ok()
    }

    /// What a message pushes out is laid off first, one by one; returns what goes for good.
    #[allow(clippy::type_complexity)]
    pub(super) fn make_way(
        &mut self,
        first: u64,
        also: &[u64],
        bytes: u64,
        told: &mut Told,
    ) -> Result<(Vec<u64>, Vec<(u64, u64)>, Vec<(StreamId, Cause)>), Refusal> {
        let mut undone = BTreeSet::new();
        loop {
            let (targets, kept, evicted, refused) = self.targets_of(first, also, bytes)?;
            let mut some = false;
            for &(stream, seq) in &evicted {
                assert_ne!(
                    self.kept.streams[&stream].config.overflow,
                    Overflow::RefuseNew
                );
                if undone.contains(&(stream, seq))
                    || self.is_held(stream, seq)
                    || !self.kept.streams[&stream].messages.contains_key(&seq)
                {
                    continue;
                }
                if self.lay_off_pushed(stream, seq, &kept, told) {
                    some = true;
                } else {
                    undone.insert((stream, seq));
                }
            }
            if !some {
                return Ok((targets, evicted, refused));
            }
        }
    }

    pub(super) fn count_lost(&mut self, evicted: &[(u64, u64)]) {
        for &(stream, seq) in evicted {
            let (_, to) = self.grave_of(stream, seq, Reason::Limit);
            self.lost += u64::from(to != Grave::Unwanted);
        }
    }

    /// What is too old, and nobody holds.
    pub(super) fn drop_old(&mut self, stream: u64, old: &[u64], reason: Reason, told: &mut Told) {
        let groups = &self.kept.streams[&stream].groups;
        let group = groups.iter().find(|g| g.name.is_empty());
        let group = group.map_or(0, |g| g.id);
        let all = self.grave(
            At {
                stream,
                group,
                seq: 0,
            },
            reason,
        ) == Grave::Unwanted;
        for &seq in old {
            if all {
                self.remove(stream, seq);
                continue;
            }
            if self.is_held(stream, seq) || !self.kept.streams[&stream].messages.contains_key(&seq)
            {
                continue;
            }
            if reason == Reason::Expired {
                if !self.drop_expired(stream, seq, told) {
                    self.recheck_age(stream);
                    break;
                }
                continue;
            }
            if self.lay_off_pushed(stream, seq, &[], told) {
                continue;
            }
            self.count_lost(&[(stream, seq)]);
            self.remove(stream, seq);
            self.mark();
        }
        self.mark();
    }
}
