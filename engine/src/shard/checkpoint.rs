//! The whole state as bytes. Streams kept in memory are not part of it; what consumers hold is stored as ready, as it
//! will be after a restart.

use hashbrown::{HashMap, HashSet};
use longtail_model::{Durability, GroupId, IndexId, Lsn, Seq, StreamId, Timestamp};

use super::logs::in_memory;
use super::remains::Remains;
use super::{RecoverError, Shard};
use crate::config::{GroupConfig, StreamName};
use crate::definition;
use crate::event::{get, get_counts, get_u32, put_counts, take};
use crate::intern::Interned;
use crate::stream::{Aside, FixedHash, Group, Hold, Meta, Pause};
use crate::structures::index::PagedIndex;
use crate::structures::interval::IntervalSet;
use crate::structures::ordered::OrderedSet;
use crate::structures::varint;

const FORMAT: u8 = 2;

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn get_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], RecoverError> {
    let len = get(input)?;
    Ok(take(input, len)?)
}

fn get_text<'a>(input: &mut &'a [u8]) -> Result<&'a str, RecoverError> {
    std::str::from_utf8(get_bytes(input)?).map_err(|_| RecoverError::Checkpoint)
}

/// A pause that a restart brings back.
fn put_pause(out: &mut Vec<u8>, pause: Option<Pause>) {
    let pause = pause.filter(|pause| pause.durable);
    varint::put(out, pause.map_or(0, |pause| pause.end.0));
    varint::put(out, pause.map_or(0, |pause| pause.length_ms));
}

fn get_pause(input: &mut &[u8]) -> Result<Option<Pause>, RecoverError> {
    let (end, length_ms) = (get(input)?, get(input)?);
    Ok((end > 0).then_some(Pause {
        end: Timestamp(end),
        length_ms,
        durable: true,
        timer: None,
    }))
}

impl Shard {
    /// The state after everything in the log, for [`ShardLog::checkpoint`](longtail_log::ShardLog::checkpoint).
    #[must_use]
    pub fn encode_checkpoint(&self) -> Vec<u8> {
        // Most of it is what the indexes have in memory.
        let mut out = Vec::with_capacity(self.resident + (64 << 10));
        out.push(FORMAT);
        varint::put(&mut out, self.next_id);

        // Indexes of streams that a restart does not bring back go with them.
        let kept: HashSet<IndexId> = (self.streams.values())
            .filter(|stream| stream.defined && stream.level != Durability::Memory)
            .map(|stream| stream.index)
            .chain(self.shared_indexes.values().copied())
            .collect();
        let mut indexes: Vec<_> = self
            .indexes
            .iter()
            .filter(|(id, _)| kept.contains(id))
            .collect();
        indexes.sort_unstable_by_key(|(id, _)| *id);
        varint::put(&mut out, indexes.len() as u64);
        for (id, index) in indexes {
            varint::put(&mut out, id.0);
            index.encode(&mut out);
        }
        varint::put(&mut out, self.shared_indexes.len() as u64);
        for (name, id) in &self.shared_indexes {
            put_bytes(&mut out, name.space.as_bytes());
            put_bytes(&mut out, name.name.as_bytes());
            varint::put(&mut out, id.0);
        }

        let durable = || {
            self.listing
                .keys()
                .filter_map(|id| self.streams.get(id))
                .filter(|stream| stream.defined && stream.level != Durability::Memory)
        };
        let mut held: HashMap<GroupId, Vec<&Hold>, FixedHash> = HashMap::default();
        for (_, hold) in &self.holds {
            held.entry(hold.group).or_default().push(hold);
        }
        for holds in held.values_mut() {
            holds.sort_unstable_by_key(|hold| hold.seq);
        }
        varint::put(&mut out, durable().count() as u64);
        for stream in durable() {
            varint::put(&mut out, stream.id.0);
            varint::put(&mut out, stream.index.0);
            definition::put_stream(&mut out, &stream.name, &stream.config);
            varint::put(&mut out, stream.held.messages());
            varint::put(&mut out, stream.held.bytes());
            stream.extra.expiry.encode(&mut out);
            put_pause(&mut out, stream.extra.pause);
            let groups: Vec<_> = stream
                .groups
                .iter()
                .filter(|group| !group.deleted)
                .collect();
            varint::put(&mut out, groups.len() as u64);
            for group in groups {
                let held = held.get(&group.id).map_or(&[][..], Vec::as_slice);
                encode_group(group, stream.offered, held, &mut out);
            }
        }

        let mut references: Vec<_> = self
            .references
            .iter()
            .filter(|(position, _)| !in_memory(**position))
            .collect();
        references.sort_unstable();
        varint::put(&mut out, references.len() as u64);
        for (position, count) in references {
            varint::put(&mut out, position.0);
            varint::put(&mut out, u64::from(*count));
        }
        varint::put(&mut out, self.documents.len() as u64);
        for (name, body) in &self.documents {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, body);
        }
        self.remains.encode(&mut out);
        out
    }

    pub(crate) fn decode_checkpoint(&mut self, body: &[u8]) -> Result<(), RecoverError> {
        let input = &mut &*body;
        if take(input, 1)? != [FORMAT] {
            return Err(RecoverError::Checkpoint);
        }
        self.next_id = get(input)?;
        for _ in 0..get(input)? {
            let id = IndexId(get(input)?);
            let mut index = PagedIndex::decode(input)?;
            // None is in a page.
            let gone: Vec<Seq> = index
                .in_memory()
                .filter(|(_, at)| in_memory(*at))
                .map(|(seq, _)| seq)
                .collect();
            for seq in gone {
                index.forget(seq);
            }
            self.indexes.insert(id, index);
        }
        self.count_resident();
        for _ in 0..get(input)? {
            let space = get_text(input)?;
            let name = get_text(input)?;
            self.shared_indexes
                .insert(StreamName::new(space, name), IndexId(get(input)?));
        }
        for _ in 0..get(input)? {
            let stream = StreamId(get(input)?);
            let index = IndexId(get(input)?);
            let (name, config) = definition::get_stream(input)?;
            self.insert_stream(stream, index, name, config, true);
            let messages = get(input)?;
            let bytes = get(input)?;
            let expiry = OrderedSet::decode(input)?;
            let pause = get_pause(input)?;
            for _ in 0..get(input)? {
                let next = self.end_of(stream);
                let state = self
                    .streams
                    .get_mut(&stream)
                    .ok_or(RecoverError::Checkpoint)?;
                let group = decode_group(input, state.shares_numbers(), &mut self.group_configs)?;
                self.next_id = self.next_id.max(group.id.0.saturating_add(1));
                let id = group.id;
                if group.name.is_empty() {
                    state.drop_group(0);
                }
                let at = state.add_group(group, next);
                if id.0 != stream.0 {
                    self.groups.insert(id, (stream, at));
                }
            }
            let state = self
                .streams
                .get_mut(&stream)
                .ok_or(RecoverError::Checkpoint)?;
            state.held.set(messages, bytes);
            if !expiry.is_empty() || pause.is_some() {
                let extra = state.extra.make();
                extra.expiry = expiry;
                extra.pause = pause;
            }
        }
        for _ in 0..get(input)? {
            let position = Lsn(get(input)?);
            self.references.insert(position, get_u32(input)?);
        }
        for _ in 0..get(input)? {
            let name = get_text(input)?.to_owned();
            self.documents.insert(name, get_bytes(input)?.to_vec());
        }
        self.remains = Remains::decode(input)?;
        if input.is_empty() {
            Ok(())
        } else {
            Err(RecoverError::Checkpoint)
        }
    }
}

/// With what consumers hold of it, by number.
fn encode_group(group: &Group, offered: u64, held: &[&Hold], out: &mut Vec<u8>) {
    varint::put(out, group.id.0);
    put_bytes(out, group.name.as_bytes());
    definition::put_group(out, &group.config);
    varint::put(out, group.cursor.0);
    varint::put(out, group.ahead(offered));
    varint::put(out, group.lists.urgent);
    varint::put(out, group.lists.next_ticket);
    put_pause(out, group.lists.pause);
    group.lists.passed.encode(out);
    group.lists.ready.encode(out);
    group.lists.delayed.encode(out);
    group.lists.parked.encode(out);
    let mut meta: Vec<_> = group.lists.meta.iter().collect();
    meta.sort_unstable_by_key(|(seq, _)| **seq);
    varint::put(out, meta.len() as u64);
    for (seq, meta) in meta {
        varint::put(out, *seq);
        varint::put(out, u64::from(meta.priority));
        let (kind, value) = match meta.aside {
            None => (0, 0),
            Some(Aside::Delayed(due)) => (1, due.0),
            Some(Aside::Parked(ticket)) => (2, ticket),
        };
        out.push(kind);
        varint::put(out, value);
        varint::put(out, meta.delay_ms);
        put_counts(out, &meta.counts);
        varint::put(out, meta.mark);
    }
    varint::put(out, held.len() as u64);
    for hold in held {
        varint::put(out, hold.seq.0);
        varint::put(out, u64::from(hold.priority));
        varint::put(out, hold.delay_ms);
        put_counts(out, &hold.counts);
        varint::put(out, hold.mark);
    }
}

fn decode_group(
    input: &mut &[u8],
    shared: bool,
    configs: &mut Interned<GroupConfig>,
) -> Result<Group, RecoverError> {
    let id = GroupId(get(input)?);
    let name = get_text(input)?;
    let config = configs.share(definition::get_group(input)?);
    let cursor = Seq(get(input)?);
    let mut group = Group::new(id, name, config, shared, cursor);
    group.met = 0_u64.wrapping_sub(get(input)?);
    let lists = group.lists.make();
    lists.urgent = get(input)?;
    lists.next_ticket = get(input)?;
    lists.pause = get_pause(input)?;
    lists.passed = IntervalSet::decode(input)?;
    lists.ready = OrderedSet::decode(input)?;
    lists.delayed = OrderedSet::decode(input)?;
    lists.parked = OrderedSet::decode(input)?;
    for _ in 0..get(input)? {
        let seq = get(input)?;
        let priority = get_u32(input)?;
        let kind = take(input, 1)?[0];
        let value = get(input)?;
        let aside = match kind {
            0 => None,
            1 => Some(Aside::Delayed(Timestamp(value))),
            2 => Some(Aside::Parked(value)),
            _ => return Err(RecoverError::Checkpoint),
        };
        let delay_ms = get(input)?;
        let counts = get_counts(input)?;
        lists.meta.insert(
            seq,
            Meta {
                priority,
                aside,
                delay_ms,
                counts,
                after: Lsn::ZERO,
                mark: get(input)?,
            },
        );
    }
    for _ in 0..get(input)? {
        let seq = get(input)?;
        let priority = get_u32(input)?;
        let delay_ms = get(input)?;
        let counts = get_counts(input)?;
        group.lists.make().meta.insert(
            seq,
            Meta {
                priority,
                aside: None,
                delay_ms,
                counts,
                after: Lsn::ZERO,
                mark: get(input)?,
            },
        );
        let key = group.key(priority);
        group.add_ready(key, Seq(seq));
    }
    group.tidy();
    Ok(group)
}
