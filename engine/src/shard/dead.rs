//! Dead letters: a message that nobody could do anything with goes to another stream.
//!
//! The copy, what becomes of the original, and what the copy pushes out over there are one frame of the log, put
//! together as a transaction is. What a limit pushes out of a stream is laid off one by one, each in a frame of its
//! own, before what is new is appended. It never comes back to a stream that it came through: such a circle ends with
//! the message dropped and counted.

use std::sync::Arc;

use longtail_model::{Lsn, Seq, StreamId};
use smallvec::{SmallVec, smallvec};

use super::Shard;
use super::publish::Evictions;
use super::settle::parked;
use super::transact::{Change, Draft, Publish};
use crate::command::{NewMessage, Target};
use crate::config::{Overflow, Reason, StreamName};
use crate::effect::{Counts, Effects, Gate, Refusal};
use crate::stream::{HoldKey, Meta};

/// Copies, and their bytes, that one frame takes.
const COPIES_MAX: usize = 1_024;
const COPIES_BYTES_MAX: u64 = 256 << 20;

/// Streams that a message has come through, one dead letter after the other.
pub(super) type Path = SmallVec<[StreamId; 2]>;

/// What an addition to a frame pushes out.
pub(super) struct Pushed {
    /// Stream, number and bytes.
    pub(super) messages: Vec<(StreamId, Seq, u64)>,
    /// Where none of it may go: where the addition goes and came through.
    pub(super) past: Path,
}

/// Where a dead letter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grave {
    /// Nobody asked for it.
    Unwanted,
    /// The stream is not there.
    Missing,
    At {
        stream: StreamId,
        body: bool,
        keep: bool,
    },
}

impl Shard {
    /// Where a group's messages go that die of this.
    pub(crate) fn grave(&self, stream: StreamId, at: usize, reason: Reason) -> Grave {
        let Some(state) = self.streams.get(&stream) else {
            return Grave::Unwanted;
        };
        let group = state.groups.get(at).filter(|group| !group.deleted);
        let wanted = group
            .and_then(|group| group.config.dead_letter.as_ref())
            .filter(|dead_letter| dead_letter.on.contains(reason));
        let Some(dead_letter) = wanted else {
            return Grave::Unwanted;
        };
        let name = StreamName {
            space: state.name.space.clone(),
            name: dead_letter.stream.clone(),
        };
        match self.names.get(&name) {
            Some(&target) if target != stream => Grave::At {
                stream: target,
                body: dead_letter.body,
                keep: dead_letter.keep,
            },
            _ => Grave::Missing,
        }
    }

    /// The same for a message that nobody holds and whose time is over: the default group decides, if it still wants
    /// the message.
    pub(crate) fn grave_of(&mut self, stream: StreamId, seq: Seq, reason: Reason) -> Grave {
        match self.grave(stream, 0, reason) {
            Grave::Unwanted => Grave::Unwanted,
            grave if self.wants(stream, 0, seq) => grave,
            _ => Grave::Unwanted,
        }
    }

    /// A message with its history added to its headers.
    fn dead_copy(
        &mut self,
        (stream, at): (StreamId, usize),
        (seq, position): (Seq, Lsn),
        counts: Counts,
        reason: Reason,
        body: bool,
    ) -> Result<NewMessage, Refusal> {
        let source = self
            .streams
            .get(&stream)
            .map(|stream| stream.name.to_string())
            .unwrap_or_default();
        let now = self.now;
        let letters = self.group(stream, at);
        let letters = letters.and_then(|group| group.config.dead_letter.as_ref());
        let note = letters.map_or_else(Arc::default, |letters| Arc::clone(&letters.note));
        self.logs
            .with_message(position, |_, message| {
                let mut headers = message.headers.to_vec();
                crate::headers::put(&mut headers, "lt-death-reason", reason.as_str().as_bytes());
                crate::headers::put(&mut headers, "lt-death-stream", source.as_bytes());
                crate::headers::put(&mut headers, "lt-death-seq", seq.to_string().as_bytes());
                crate::headers::put(&mut headers, "lt-death-time", now.to_string().as_bytes());
                crate::headers::put(
                    &mut headers,
                    "lt-death-deliveries",
                    counts.deliveries.to_string().as_bytes(),
                );
                if !note.is_empty() {
                    crate::headers::put(&mut headers, "lt-death-note", &note);
                }
                NewMessage {
                    priority: message.priority,
                    delay_ms: 0,
                    ack_timeout_ms: message.ack_timeout_ms,
                    expires_ms: None,
                    subject: bytes::Bytes::copy_from_slice(message.subject),
                    id: bytes::Bytes::copy_from_slice(message.id),
                    key: message.key,
                    headers: headers.into(),
                    payload: if body {
                        bytes::Bytes::copy_from_slice(message.payload)
                    } else {
                        bytes::Bytes::new()
                    },
                }
            })
            .map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// What becomes of a held message that dies: the copy to publish, and the change of the original.
    pub(super) fn death_of(
        &mut self,
        hold: HoldKey,
        grave: Grave,
        reason: Reason,
    ) -> Result<(Option<Publish>, Change), Refusal> {
        let held = &self.holds[hold];
        let (stream, seq, position, counts) = (held.stream, held.seq, held.position, held.counts);
        let at = self.found(held).map_or(0, |found| found.at);
        let aside = parked(held, None);
        let Grave::At {
            stream: target,
            body,
            keep,
        } = grave
        else {
            return Ok((None, Change::Parked(hold, aside)));
        };
        let publish = Publish {
            to: Target::Stream(target),
            also: Vec::new(),
            message: self.dead_copy((stream, at), (seq, position), counts, reason, body)?,
            past: smallvec![stream],
        };
        let change = if keep {
            Change::Parked(hold, aside)
        } else {
            Change::Settled(hold)
        };
        Ok((Some(publish), change))
    }

    /// Dead-letters a held message.
    pub(crate) fn bury(
        &mut self,
        hold: HoldKey,
        grave: Grave,
        reason: Reason,
        fx: &mut dyn Effects,
    ) -> Result<Gate, Refusal> {
        let mut draft = Draft::new();
        self.name_hold(&mut draft, hold)?;
        let (publish, change) = self.death_of(hold, grave, reason)?;
        if let (Some(publish), Grave::At { stream, .. }) = (publish, grave) {
            self.draft_addition(&mut draft, stream, publish)?;
        }
        draft.changes.push(change);
        let written = self.write_draft(&draft)?;
        Ok(self.apply_draft(draft, written, fx).0)
    }

    /// Dead-letters a message that came back or failed too often; parks or, with `drop`, drops it where there is no
    /// place for it. `false` when it must stay.
    pub(crate) fn lay_dead(&mut self, hold: HoldKey, drop: bool, fx: &mut dyn Effects) -> bool {
        let held = &self.holds[hold];
        let (seq, meta) = (held.seq, held.meta());
        let Some(found) = self.found(held) else {
            return false;
        };
        let laid = match self.grave(found.stream, found.at, Reason::Deliveries) {
            Grave::Unwanted if drop => self.ack(hold),
            Grave::Unwanted | Grave::Missing => self.park(hold, meta),
            grave @ Grave::At { .. } => self.bury(hold, grave, Reason::Deliveries, fx),
        };
        if let Err(error) = &laid {
            tracing::warn!(%seq, %error, "cannot dead-letter a message, it stays where it was");
        }
        laid.is_ok()
    }

    /// Moves a message that nobody holds to a dead-letter stream.
    fn lay_off(
        &mut self,
        (stream, seq): (StreamId, Seq),
        grave: (StreamId, bool),
        reason: Reason,
        past: Path,
        fx: &mut dyn Effects,
    ) -> Result<(), Refusal> {
        let mut draft = Draft::new();
        let level = self.streams.get(&stream).map(|state| state.level);
        draft.name(stream, seq, level.unwrap_or(draft.level))?;
        let bytes = self.size(stream, seq);
        draft.evictions.gone.push((stream, seq, bytes));
        let (target, _) = grave;
        let publish = self.copy_of((stream, seq), grave, reason, past)?;
        self.draft_addition(&mut draft, target, publish)?;
        let written = self.write_draft(&draft)?;
        self.apply_draft(draft, written, fx);
        Ok(())
    }

    fn copy_of(
        &mut self,
        (stream, seq): (StreamId, Seq),
        (target, body): (StreamId, bool),
        reason: Reason,
        past: Path,
    ) -> Result<Publish, Refusal> {
        let position = self.position(stream, seq)?.ok_or(Refusal::Gone)?;
        let counts = self
            .group(stream, 0)
            .and_then(|group| group.meta(seq))
            .map_or_else(Counts::default, |meta: &Meta| meta.counts);
        Ok(Publish {
            to: Target::Stream(target),
            also: Vec::new(),
            message: self.dead_copy((stream, 0), (seq, position), counts, reason, body)?,
            past,
        })
    }

    /// Removes or dead-letters what has expired and nobody holds. `false` when it must stay for now.
    pub(crate) fn drop_expired(
        &mut self,
        stream: StreamId,
        seq: Seq,
        fx: &mut dyn Effects,
    ) -> bool {
        match self.grave_of(stream, seq, Reason::Expired) {
            Grave::Unwanted => self.remove_logged(stream, seq),
            Grave::Missing => {
                let gone = self.remove_logged(stream, seq);
                self.lose(u64::from(gone), stream);
                gone
            }
            Grave::At {
                stream: target,
                body,
                ..
            } => {
                let past = smallvec![stream];
                let laid = self.lay_off((stream, seq), (target, body), Reason::Expired, past, fx);
                if let Err(error) = &laid {
                    tracing::warn!(%seq, %error, "cannot dead-letter an expired message");
                }
                laid.is_ok()
            }
        }
    }

    /// Lays off a message that a limit pushes out. `false`: it goes for good; an error: nothing can be written.
    pub(crate) fn lay_off_pushed(
        &mut self,
        stream: StreamId,
        seq: Seq,
        past: &[StreamId],
        fx: &mut dyn Effects,
    ) -> Result<bool, Refusal> {
        let Grave::At {
            stream: target,
            body,
            ..
        } = self.grave_of(stream, seq, Reason::Limit)
        else {
            return Ok(false);
        };
        if target == stream || past.contains(&target) {
            return Ok(false);
        }
        let mut past = Path::from_slice(past);
        if !past.contains(&stream) {
            past.push(stream);
        }
        match self.lay_off((stream, seq), (target, body), Reason::Limit, past, fx) {
            Ok(()) => Ok(true),
            Err(why @ (Refusal::Full(_) | Refusal::Failed(_))) => Err(why),
            Err(_) => Ok(false),
        }
    }

    /// Whether a stream's limits push messages out into another one.
    pub(crate) fn lays_off(&self, stream: StreamId) -> bool {
        self.streams
            .get(&stream)
            .is_some_and(|state| state.config.overflow != Overflow::RefuseNew)
            && self.grave(stream, 0, Reason::Limit) != Grave::Unwanted
    }

    /// How many of these were to be dead letters, and are not.
    pub(crate) fn count_lost(&mut self, evictions: &Evictions) -> u64 {
        let mut lost = 0;
        for &(stream, seq, _) in &evictions.gone {
            lost += u64::from(self.grave_of(stream, seq, Reason::Limit) != Grave::Unwanted);
        }
        lost
    }

    /// Copies what a message of a draft pushes out, where it is to be dead-lettered.
    pub(super) fn draft_pushed(
        &mut self,
        draft: &mut Draft,
        pushed: Pushed,
    ) -> Result<(), Refusal> {
        let Pushed { messages, past } = pushed;
        for (stream, seq, _) in messages {
            let (target, body) = match self.grave_of(stream, seq, Reason::Limit) {
                Grave::Unwanted => continue,
                Grave::At { stream, body, .. } if !past.contains(&stream) => (stream, body),
                _ => {
                    draft.lose(stream);
                    continue;
                }
            };
            let copy = self.copy_of((stream, seq), (target, body), Reason::Limit, past.clone())?;
            draft.copies += 1;
            draft.copied += copy.message.bytes();
            if draft.copies > COPIES_MAX || draft.copied > COPIES_BYTES_MAX {
                return Err(Refusal::Limit(format!(
                    "more than {COPIES_MAX} messages or {COPIES_BYTES_MAX} bytes would be dead-lettered at once"
                )));
            }
            match self.draft_targets(draft, target, copy) {
                Ok(pushed) => self.draft_pushed(draft, pushed)?,
                Err(_) => draft.lose(stream),
            }
        }
        Ok(())
    }

    /// Messages that were to be dead letters went for good.
    pub(crate) fn lose(&mut self, messages: u64, stream: StreamId) {
        if messages == 0 {
            return;
        }
        let before = self.lost;
        self.lost += messages;
        // Said at the first and whenever there are twice as many: a stream that overflows must not flood the log.
        if before == 0 || self.lost.ilog2() > before.ilog2() {
            let name = self
                .streams
                .get(&stream)
                .map(|state| state.name.to_string());
            tracing::warn!(
                stream = name.unwrap_or_default(),
                lost = self.lost,
                "messages were dropped that no dead-letter stream took"
            );
        }
    }
}
