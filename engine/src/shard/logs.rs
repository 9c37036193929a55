//! The two logs of a shard: the durable one, and the one in memory for streams that asked for no more.
//!
//! Positions of the memory log carry a flag bit, so that an index holds both alike.

use longtail_log::{AppendError, Body, Class, Health, Payload, ReadError, RecordParts, ShardLog};
use longtail_model::{Durability, Lsn};

use super::paging::PageCache;
use crate::effect::{Gate, Refusal};
use crate::event::{Event, Targets};
use crate::message::Message;

const IN_MEMORY: u64 = 1 << 63;

/// Where a shard's records go.
pub struct Logs {
    durable: Option<Box<dyn ShardLog>>,
    memory: Box<dyn ShardLog>,
    level: Durability,
    /// The end of the last record that somebody may be waiting for.
    awaited: Lsn,
    /// Records appended to the durable log since it was opened.
    appended: u64,
    pages: PageCache,
}

fn refusal(error: AppendError) -> Refusal {
    match error {
        AppendError::Full { why } => Refusal::Full(why),
        AppendError::Poisoned { why } => Refusal::Failed(why),
        AppendError::TooLarge { .. } => Refusal::TooLarge(error.to_string()),
    }
}

/// Whether a position lies in the memory log.
pub(crate) fn in_memory(position: Lsn) -> bool {
    position.0 & IN_MEMORY != 0
}

impl Logs {
    /// A durable log (none: everything is kept in memory), the memory log, and what an acknowledgement means where a
    /// stream does not say.
    #[must_use]
    pub fn new(
        durable: Option<Box<dyn ShardLog>>,
        memory: Box<dyn ShardLog>,
        level: Durability,
    ) -> Self {
        let level = if durable.is_some() {
            level
        } else {
            Durability::Memory
        };
        Logs {
            durable,
            memory,
            level,
            awaited: Lsn::ZERO,
            appended: 0,
            pages: PageCache::default(),
        }
    }

    /// The durable log.
    pub fn durable(&mut self) -> Option<&mut (dyn ShardLog + 'static)> {
        self.durable.as_deref_mut()
    }

    /// The durable log, to look at.
    #[must_use]
    pub fn durable_ref(&self) -> Option<&(dyn ShardLog + 'static)> {
        self.durable.as_deref()
    }

    /// Housekeeping of the memory log.
    pub fn memory(&mut self) -> &mut (dyn ShardLog + 'static) {
        &mut *self.memory
    }

    pub(crate) fn page_cache(&self) -> &PageCache {
        &self.pages
    }

    /// The level for a stream that asked for `wanted`.
    pub(crate) fn level(&self, wanted: Option<Durability>) -> Durability {
        if self.durable.is_none() {
            Durability::Memory
        } else {
            wanted.unwrap_or(self.level)
        }
    }

    /// Up to where somebody may be waiting for a write.
    #[must_use]
    pub fn awaited(&self) -> Lsn {
        self.awaited
    }

    /// Whether an effect behind `gate` may leave.
    #[must_use]
    pub fn passed(&self, gate: Gate) -> bool {
        if gate.level == Durability::Memory {
            return true;
        }
        self.durable
            .as_deref()
            .is_none_or(|log| log.watermark(gate.level) >= gate.lsn)
    }

    /// The gate behind a message: it may be shown once its record is as durable as its stream asks.
    pub(crate) fn gate_of(position: Lsn, level: Durability) -> Gate {
        if in_memory(position) {
            Gate::OPEN
        } else {
            Gate {
                lsn: Lsn(position.0 + 1),
                level,
            }
        }
    }

    /// Appends a frame whose last record is a message; returns that record's position and the gate of the frame.
    pub(crate) fn append_message(
        &mut self,
        level: Durability,
        before: &[RecordParts<'_>],
        message: RecordParts<'_>,
    ) -> Result<(Lsn, Gate), Refusal> {
        let durable = self
            .durable
            .as_deref_mut()
            .filter(|_| level != Durability::Memory);
        let Some(log) = durable else {
            let lsn = self
                .memory
                .append(&[message], Class::Message)
                .map_err(refusal)?;
            return Ok((Lsn(lsn.0 | IN_MEMORY), Gate::OPEN));
        };
        let lsn = if before.is_empty() {
            log.append(&[message], Class::Message).map_err(refusal)?
        } else {
            let mut frame = before.to_vec();
            frame.push(message);
            let first = log.append(&frame, Class::Message).map_err(refusal)?;
            let ahead: u64 = before.iter().map(|record| log.span(record.len())).sum();
            Lsn(first.0 + ahead)
        };
        self.awaited = log.end();
        self.appended += 1 + before.len() as u64;
        Ok((
            lsn,
            Gate {
                lsn: self.awaited,
                level,
            },
        ))
    }

    /// Appends a frame of records; returns the position of each and the gate of the frame.
    pub(crate) fn append_frame(
        &mut self,
        level: Durability,
        records: &[RecordParts<'_>],
        class: Class,
    ) -> Result<(Vec<Lsn>, Gate), Refusal> {
        let durable = self
            .durable
            .as_deref_mut()
            .filter(|_| level != Durability::Memory && !records.is_empty());
        let Some(log) = durable else {
            return Ok((Vec::new(), Gate::OPEN));
        };
        let mut next = log.append(records, class).map_err(refusal)?;
        let mut positions = Vec::with_capacity(records.len());
        for record in records {
            positions.push(next);
            next.0 += log.span(record.len());
        }
        self.awaited = log.end();
        self.appended += records.len() as u64;
        let lsn = self.awaited;
        Ok((positions, Gate { lsn, level }))
    }

    /// Appends a frame of events that somebody waits for.
    pub(crate) fn control(&mut self, level: Durability, events: &[&[u8]]) -> Result<Gate, Refusal> {
        let Some(log) = self
            .durable
            .as_deref_mut()
            .filter(|_| level != Durability::Memory)
        else {
            return Ok(Gate::OPEN);
        };
        match events {
            [event] => {
                let record = RecordParts {
                    head: event,
                    body: Body::NONE,
                    retained: false,
                };
                log.append(&[record], Class::Control).map_err(refusal)?;
            }
            events => {
                let frame: Vec<_> = events
                    .iter()
                    .map(|head| RecordParts {
                        head,
                        body: Body::NONE,
                        retained: false,
                    })
                    .collect();
                log.append(&frame, Class::Control).map_err(refusal)?;
            }
        }
        self.awaited = log.end();
        self.appended += events.len() as u64;
        Ok(Gate {
            lsn: self.awaited,
            level,
        })
    }

    /// Appends an event that nobody waits for: it is written with whatever comes next. Losing it in a crash loses a
    /// count, not a message, so a log that is full or failed is not asked twice.
    pub(crate) fn note(&mut self, event: &[u8]) {
        if let Some(log) = self.durable.as_deref_mut() {
            let record = RecordParts {
                head: event,
                body: Body::NONE,
                retained: false,
            };
            if let Err(error) = log.append(&[record], Class::Control) {
                tracing::debug!(%error, "an event that nobody waits for was not logged");
                return;
            }
            self.appended += 1;
        }
    }

    /// The record at `position` is no longer referred to.
    pub(crate) fn retire(&mut self, position: Lsn) {
        if in_memory(position) {
            self.memory.retire(Lsn(position.0 & !IN_MEMORY));
        } else if let Some(log) = self.durable.as_deref_mut() {
            log.retire(position);
        }
    }

    /// Reads a message record: calls `with` with the streams it went to and the message.
    pub(crate) fn with_message<R>(
        &mut self,
        position: Lsn,
        with: impl FnOnce(Targets<'_>, Message<'_>) -> R,
    ) -> Result<R, ReadError> {
        let mut with = Some(with);
        let mut result = None;
        let mut read = |payload: Payload<'_>| {
            if let Ok(Event::Append { targets, message }) = Event::decode(payload.front)
                && let Some(with) = with.take()
            {
                let message = match payload.body {
                    None => message,
                    Some(body) => message.with_shared(body),
                };
                result = Some(with(targets, message));
            }
        };
        if in_memory(position) {
            self.memory.read(Lsn(position.0 & !IN_MEMORY), &mut read)?;
        } else if let Some(log) = self.durable.as_deref_mut() {
            log.read(position, &mut read)?;
        }
        result.ok_or(ReadError::Missing(position))
    }

    /// Records appended to the durable log since it was opened.
    #[must_use]
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// Why messages are not accepted, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let health = self
            .durable
            .as_deref()
            .map_or_else(|| self.memory.health(), ShardLog::health);
        match health {
            Health::Good => None,
            Health::Full { why } | Health::Poisoned { why } => Some(why),
        }
    }

    /// Whether the durable log has failed for good.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        matches!(
            self.durable.as_deref().map(ShardLog::health),
            Some(Health::Poisoned { .. })
        )
    }
}
