//! Recovery: the last checkpoint, then every event after it, through the functions that applied them the first time.

use longtail_log::ReadError;
use longtail_model::{ConsumerTag, GroupId, Lsn, Seq, SessionId, StreamId, Timestamp};

use super::trim::Cut;
use super::{Found, Head, Logs, Shard, ShardConfig};
use crate::config::StreamName;
use crate::definition;
use crate::effect::{Effect, Effects, Gate, Refusal};
use crate::event::{Event, Malformed};
use crate::stream::{Meta, Place};
use crate::structures::Corrupt;

/// Why a shard could not be brought back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The checkpoint does not decode although its checksum holds: written by another version, or a bug.
    #[error("the checkpoint does not decode; it was written by another version of the server")]
    Checkpoint,
    /// The checkpoint holds something of a later release.
    #[error("the checkpoint does not decode: {0}")]
    LaterCheckpoint(Malformed),
    /// An event does not decode although its checksum holds.
    #[error("at position {position}: {why}")]
    Event {
        /// Where the event is.
        position: Lsn,
        /// What is wrong with it.
        why: Malformed,
    },
    /// A message has a number that is not above those given before it.
    #[error("the message at position {position} has number {seq} although {last} was given before")]
    Order {
        /// Where the message is.
        position: Lsn,
        /// Its number.
        seq: Seq,
        /// The last number given in its sequence space.
        last: Seq,
    },
    /// A stream or a group is defined under a number that another one has.
    #[error("the definition at position {position} gives a number a second time")]
    Defined {
        /// Where the definition is.
        position: Lsn,
    },
    /// A group was defined over messages of which the index cannot be read, or a part of a stream removed whose end lies
    /// in such a page.
    #[error("cannot apply the event at position {position}: {why}")]
    Index {
        /// Where the event is.
        position: Lsn,
        /// Which page of the index, and what is wrong with it.
        why: String,
    },
    /// A record could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<Malformed> for RecoverError {
    fn from(why: Malformed) -> Self {
        match why {
            Malformed::Damaged => RecoverError::Checkpoint,
            Malformed::Later { .. } => RecoverError::LaterCheckpoint(why),
        }
    }
}

impl From<Corrupt> for RecoverError {
    fn from(_: Corrupt) -> Self {
        RecoverError::Checkpoint
    }
}

/// Nobody is connected while a shard recovers.
struct Nobody;

impl Effects for Nobody {
    fn emit(&mut self, _: SessionId, _: Gate, _: Effect) {}
}

impl Shard {
    /// A shard as its checkpoint describes it; `replay` must then be called for what follows in the log, and
    /// `recovered` at the end.
    ///
    /// # Errors
    /// When the checkpoint does not decode.
    pub fn restore(
        config: ShardConfig,
        logs: Logs,
        now: Timestamp,
        checkpoint: Option<&[u8]>,
    ) -> Result<Self, RecoverError> {
        let mut shard = Shard::new(config, logs, now);
        shard.live = false;
        if let Some(body) = checkpoint {
            shard.decode_checkpoint(body)?;
        }
        Ok(shard)
    }

    /// Applies one record of the log.
    ///
    /// # Errors
    /// When the event does not decode, or repeats a message's number.
    pub fn replay(&mut self, position: Lsn, payload: &[u8]) -> Result<(), RecoverError> {
        let undecodable = |why: Malformed| RecoverError::Event { position, why };
        let unreadable = |refusal: Refusal| RecoverError::Index {
            position,
            why: refusal.to_string(),
        };
        let event = Event::decode(payload).map_err(undecodable)?;
        match event {
            Event::Append { targets, message } => {
                let mut head = Head {
                    stream: StreamId(0),
                    created: message.created,
                    priority: message.priority.0,
                    delay_ms: message.delay_ms,
                    ack_timeout_ms: message.ack_timeout_ms,
                    expires: message.expires,
                    bytes: message.bytes(),
                };
                let mut references = 0;
                for (stream, seq) in targets {
                    if let Some(state) = self.streams.get(&stream) {
                        let last = self.last_in(state.index);
                        if seq <= last {
                            return Err(RecoverError::Order {
                                position,
                                seq,
                                last,
                            });
                        }
                        head.stream = stream;
                        references += 1;
                        self.apply_append(stream, seq, position, &head);
                    }
                }
                match references {
                    0 => self.logs.retire(position),
                    1 => {}
                    references => {
                        self.references.insert(position, references);
                    }
                }
            }
            Event::Settled { group, seq, bytes } => {
                if let Some((stream, at)) = self.group_at(group) {
                    let found = Found {
                        stream,
                        at,
                        seq,
                        hold: None,
                    };
                    match self.locate(found) {
                        Ok(None) => {}
                        Ok(place) => self.apply_settled(found, place, bytes),
                        Err(_) => {
                            self.unplace(stream, at, seq);
                            self.apply_settled(found, None, bytes);
                        }
                    }
                }
            }
            Event::Trimmed {
                stream,
                below,
                count,
                bytes,
                except,
            } => {
                let except: Vec<Seq> = except.collect();
                let cut = Cut {
                    below,
                    except: &except,
                };
                self.apply_trimmed(stream, cut, count, bytes)
                    .map_err(unreadable)?;
            }
            Event::GroupTrimmed {
                group,
                below,
                except,
            } => {
                let except: Vec<Seq> = except.collect();
                let cut = Cut {
                    below,
                    except: &except,
                };
                self.apply_group_trimmed(group, cut).map_err(unreadable)?;
            }
            Event::Removed { stream, seq, bytes } => self.remove_message(stream, seq, bytes),
            Event::Returned {
                group,
                seq,
                priority,
                due,
                delay_ms,
                counts,
            } => {
                if let Some((found, place)) = self.place_in(group, seq) {
                    let known = self.known(found);
                    if let Some(group) = self.group_mut(found.stream, found.at) {
                        group.forget(place, seq);
                    }
                    let meta = Meta {
                        priority: priority.0,
                        delay_ms,
                        counts,
                        mark: known.map_or(0, |meta| meta.mark),
                        ..Meta::default()
                    };
                    self.apply_returned(found, due, meta);
                }
            }
            Event::Parked {
                group,
                seq,
                priority,
                counts,
            } => {
                if let Some((found, place)) = self.place_in(group, seq) {
                    let known = self.known(found);
                    let position = self.position(found.stream, seq).unwrap_or_default();
                    let delay_ms = match (known, position) {
                        (Some(meta), _) => meta.delay_ms,
                        (None, Some(at)) => self.head(at).map_or(0, |head| head.delay_ms),
                        (None, None) => 0,
                    };
                    if let Some(group) = self.group_mut(found.stream, found.at) {
                        group.forget(place, seq);
                    }
                    let meta = Meta {
                        priority: priority.0,
                        delay_ms,
                        counts,
                        mark: known.map_or(0, |meta| meta.mark),
                        ..Meta::default()
                    };
                    self.apply_parked(found, meta);
                }
            }
            Event::Taken {
                group,
                seq,
                deliveries,
            } => self.apply_held(group, seq, |meta| meta.counts.deliveries = deliveries),
            Event::Marked { group, seq, mark } => {
                self.apply_held(group, seq, |meta| meta.mark = mark);
            }
            Event::StreamDefined {
                stream,
                index,
                mut definition,
            } => {
                let (name, config) =
                    definition::get_stream(&mut definition).map_err(undecodable)?;
                if self.streams.contains_key(&stream) {
                    return Err(RecoverError::Defined { position });
                }
                if let Some(&old) = self.names.get(&name) {
                    // An auto-deleting stream whose end the log was not told of.
                    self.apply_deleted(old, &mut Nobody);
                }
                self.insert_stream(stream, index, name, config, true);
            }
            Event::StreamChanged {
                stream,
                mut definition,
            } => {
                let (_, config) = definition::get_stream(&mut definition).map_err(undecodable)?;
                self.apply_changed(stream, config);
            }
            Event::StreamDeleted { stream } => self.apply_deleted(stream, &mut Nobody),
            Event::GroupDefined {
                stream,
                group,
                start,
                mut definition,
            } => {
                let (name, config) =
                    definition::get_named_group(&mut definition).map_err(undecodable)?;
                if self.groups.contains_key(&group) {
                    return Err(RecoverError::Defined { position });
                }
                if self.streams.contains_key(&stream) {
                    let gathered = self
                        .gather_group(stream, group, &name, config, start)
                        .map_err(unreadable)?;
                    self.insert_group(stream, gathered);
                }
            }
            Event::GroupDeleted { group } => self.apply_group_deleted(group, &mut Nobody),
            Event::Paused {
                stream,
                group: GroupId(0),
                end,
                length_ms,
            } => self.apply_paused(stream, None, end, length_ms, true),
            Event::Paused {
                group,
                end,
                length_ms,
                ..
            } => {
                if let Some((stream, at)) = self.group_at(group) {
                    self.apply_paused(stream, Some(at), end, length_ms, true);
                }
            }
            Event::Skipped { stream, seq } => self.apply_skipped(stream, seq),
            Event::Document { name, body } => self.apply_document(name, body),
        }
        Ok(())
    }

    fn place_in(&mut self, group: GroupId, seq: Seq) -> Option<(Found, Place)> {
        let (stream, at) = self.group_at(group)?;
        let found = Found {
            stream,
            at,
            seq,
            hold: None,
        };
        let place = self.locate(found).ok().flatten()?;
        Some((found, place))
    }

    fn known(&self, found: Found) -> Option<Meta> {
        let group = self.group(found.stream, found.at)?;
        group.meta(found.seq).copied()
    }

    /// A message was held, and something about it changed: that stays, the consumer does not.
    fn apply_held(&mut self, group: GroupId, seq: Seq, change: impl FnOnce(&mut Meta)) {
        let Some((found, place)) = self.place_in(group, seq) else {
            return;
        };
        // Losing count is better than not starting.
        let Ok(Some(position)) = self.position(found.stream, seq) else {
            return;
        };
        let mut meta = match self.known(found) {
            Some(meta) => meta,
            None => match self.head(position) {
                Ok(head) => Meta::of(&head),
                Err(_) => return,
            },
        };
        meta.aside = None;
        change(&mut meta);
        let Some(group) = self.group_mut(found.stream, found.at) else {
            return;
        };
        // A delivered message that was delayed or parked has come back since.
        group.forget(place, seq);
        group.lists.make().meta.insert(seq.0, meta);
        let key = group.key(meta.priority);
        group.add_ready(key, seq);
    }

    /// The log is replayed: sets alarms, and drops streams that nothing keeps.
    pub fn recovered(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        self.forget_unplaced();
        self.count_again();
        self.live = true;
        let streams: Vec<StreamId> = self.listing.keys().copied().collect();
        for stream in streams {
            for at in 0..self
                .streams
                .get(&stream)
                .map_or(0, |state| state.groups.len())
            {
                self.set_delay_alarm(stream, at);
                self.set_pause_timer(stream, Some(at));
            }
            self.set_pause_timer(stream, None);
            let expiry = self
                .streams
                .get(&stream)
                .and_then(|state| state.extra.expiry.first());
            if let Some((due, _)) = expiry {
                self.look_at_expiry(stream, Timestamp(due));
            }
            let ages = self
                .streams
                .get(&stream)
                .is_some_and(|state| state.config.age_limit().is_some());
            if ages {
                match self.next_of_stream(stream, Seq::FIRST) {
                    Ok(Some((_, position))) => {
                        if let Ok(head) = self.read_head(position) {
                            self.set_age_alarm(stream, head.created);
                        }
                    }
                    Ok(None) => {}
                    Err(_) => self.recheck_age(stream),
                }
            }
            self.drop_if_idle(stream);
        }
    }

    /// Names of all streams, in order of creation.
    pub fn stream_names(&self) -> impl Iterator<Item = &StreamName> {
        self.listing
            .keys()
            .filter_map(|stream| self.streams.get(stream))
            .map(|stream| &stream.name)
    }

    /// The consumer tag under which [`Command::TakeOne`](crate::Command::TakeOne) delivers.
    pub const TAKE_ONE: ConsumerTag = ConsumerTag(0);
}
