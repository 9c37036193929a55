//! An entry point for the fuzzer: whatever records a log holds, a shard comes back from them or says why it cannot.

use std::path::Path;
use std::sync::Arc;

use longtail_log::sim::SimDisk;
use longtail_log::{Body, Class, FileLog, MemLog, Options, RecordParts, ShardLog};
use longtail_model::{ConsumerTag, Durability, GroupId, Link, Seq, SessionId, ShardId, Timestamp};

use crate::command::{
    Command, Credit, Dispatch, Handle, KeyFrom, NewMessage, Only, Role, Settle, Target, Wait,
};
use crate::config::{
    GroupConfig, Keep, Limits, Numbering, Order, Overflow, StreamConfig, StreamName,
};
use crate::effect::{Effect, Effects, Gate, Reply};
use crate::shard::{Logs, Shard, ShardConfig};

const DIR: &str = "/log";
const START: Timestamp = Timestamp(1_000_000);

/// Carries out commands made from `data`, damages what they have logged, and brings a shard back from it. If that
/// succeeds, the shard can be used, and a checkpoint of it decodes. The first byte says how many pieces of damage the
/// end of `data` describes, in four bytes each.
///
/// # Panics
/// When one of these does not hold.
pub fn replay(data: &[u8]) {
    let Some((&pieces, data)) = data.split_first() else {
        return;
    };
    let pieces = usize::from(pieces % 16).min(data.len() / 4);
    let (commands, damage) = data.split_at(data.len() - 4 * pieces);
    let mut records = record(commands);
    for piece in damage.as_chunks().0 {
        apply_damage(&mut records, *piece);
    }
    let Some(mut shard) = recover(&records, None) else {
        return;
    };
    let checkpoint = shard.encode_checkpoint();
    assert!(
        recover(&records, Some(&checkpoint)).is_some(),
        "a checkpoint decodes"
    );
    let mut world = World::new(shard_with_sessions(&mut shard), START.plus_millis(60_000));
    for &byte in commands.iter().take(64) {
        world.step(&mut shard, byte);
    }
    shard.advance(START.plus_millis(10_000_000), &mut world.seen);
    let _ = shard.encode_checkpoint();
}

/// A record's payload, and whether a message.
type Records = Vec<(Vec<u8>, bool)>;

/// The records that the commands leave in a log.
fn record(commands: &[u8]) -> Records {
    let disk: Arc<SimDisk> = Arc::new(SimDisk::new());
    let mut shard = open(&disk, &Vec::new()).expect("an empty log opens");
    let mut world = World::new(shard_with_sessions(&mut shard), START);
    for &byte in commands.iter().take(256) {
        world.step(&mut shard, byte);
    }
    shard.end_batch();
    if let Some(log) = shard.logs().durable() {
        write(log);
    }
    drop(shard);
    let opened = FileLog::open(disk, Path::new(DIR), options()).expect("what was written opens");
    let mut replay = opened.replay;
    let mut records = Records::new();
    while let Some(frame) = replay.next_frame().expect("what was written reads") {
        let of_frame = frame.records();
        records.extend(of_frame.map(|record| (record.payload.to_vec(), record.retained)));
    }
    records
}

fn apply_damage(records: &mut Records, [how, at, a, b]: [u8; 4]) {
    let count = records.len();
    if count == 0 {
        return;
    }
    let at = usize::from(at) % count;
    let other = usize::from(a) % count;
    let payload = &mut records[at].0;
    match how % 6 {
        0 if !payload.is_empty() => {
            let byte = usize::from(a) % payload.len();
            payload[byte] = b;
        }
        1 => payload.truncate(usize::from(a)),
        2 => payload.insert(usize::from(a) % (payload.len() + 1), b),
        3 => records.swap(at, other),
        4 => {
            let copy = records[at].clone();
            records.insert(other, copy);
        }
        _ => {
            records.remove(at);
        }
    }
}

/// A shard from these records, as from a log that holds them.
fn recover(records: &Records, checkpoint: Option<&[u8]>) -> Option<Shard> {
    let disk = Arc::new(SimDisk::new());
    let (mut shard, positions) = open_with(&disk, records, checkpoint)?;
    // What a checkpoint covers is not replayed.
    if checkpoint.is_none() {
        for (position, (payload, _)) in positions.into_iter().zip(records) {
            shard.replay(position, payload).ok()?;
        }
    }
    shard.recovered(START.plus_millis(60_000));
    Some(shard)
}

fn open(disk: &Arc<SimDisk>, records: &Records) -> Option<Shard> {
    let (mut shard, _) = open_with(disk, records, None)?;
    shard.recovered(START);
    Some(shard)
}

fn open_with(
    disk: &Arc<SimDisk>,
    records: &Records,
    checkpoint: Option<&[u8]>,
) -> Option<(Shard, Vec<longtail_model::Lsn>)> {
    let opened = FileLog::open(Arc::clone(disk) as Arc<_>, Path::new(DIR), options()).ok()?;
    let mut log = opened.log;
    let mut positions = Vec::with_capacity(records.len());
    for (payload, retained) in records {
        let parts = RecordParts {
            head: payload,
            body: Body::NONE,
            retained: *retained,
        };
        positions.push(log.append(&[parts], Class::Message).ok()?);
    }
    write(&mut log);
    let memory = Box::new(MemLog::new(1 << 20, 1 << 20));
    let logs = Logs::new(Some(Box::new(log)), memory, Durability::Interval);
    let config = ShardConfig {
        durability: Durability::Interval,
        ..ShardConfig::default()
    };
    let shard = Shard::restore(config, logs, START, checkpoint).ok()?;
    Some((shard, positions))
}

fn write(log: &mut dyn ShardLog) {
    while let Some(job) = log.next_write(true) {
        let done = job.run();
        let _ = log.finish(done);
    }
}

fn options() -> Options {
    Options {
        segment_bytes: 1 << 20,
        ahead_bytes: 4 << 10,
        nonce_seed: 1,
        ..Options::new(ShardId(0))
    }
}

/// Remembers what was delivered, so that it can be settled.
#[derive(Default)]
struct Seen(Vec<Handle>);

impl Effects for Seen {
    fn emit(&mut self, _: SessionId, _: Gate, effect: Effect) {
        let (Effect::Push(delivery) | Effect::Reply(_, Reply::Delivered(delivery))) = effect else {
            return;
        };
        self.0.push(Handle::Group(delivery.group, delivery.seq));
    }
}

/// A session and what it does.
struct World {
    session: SessionId,
    now: Timestamp,
    token: u64,
    seen: Seen,
}

fn shard_with_sessions(shard: &mut Shard) -> SessionId {
    shard.attach()
}

const ME: ConsumerTag = ConsumerTag(0);
const LINKS: u32 = 3;

impl World {
    fn new(session: SessionId, now: Timestamp) -> Self {
        World {
            session,
            now,
            token: 0,
            seen: Seen::default(),
        }
    }

    /// Carries out the command that a byte stands for.
    fn step(&mut self, shard: &mut Shard, byte: u8) {
        let link = Link(u32::from(byte) % LINKS);
        let command = match byte >> 3 {
            0..6 => Command::Open {
                link,
                name: name(link),
                create: Some(Box::new(config(link))),
                role: Role::Producer,
            },
            6..16 => Command::Publish {
                to: Target::Link(link),
                also: Vec::new(),
                message: message(byte),
            },
            16 => Command::Subscribe {
                consumer: ME,
                link,
                group: "".into(),
            },
            17 => Command::Dispatch {
                stream: Target::Link(link),
                group: "".into(),
                how: match byte % 3 {
                    0 => Dispatch::Single,
                    1 => Dispatch::Pinned(KeyFrom::Key),
                    _ => Dispatch::Turns,
                },
            },
            18 => Command::Credit {
                consumer: ME,
                credit: Credit::Add(3),
            },
            19 => Command::DefineGroup {
                stream: name(link),
                group: "more".into(),
                config: Box::default(),
            },
            20 => Command::DeleteGroup {
                stream: name(link),
                group: "more".into(),
            },
            21 => Command::Take {
                consumer: ME,
                wait: Wait::No,
                deadline_margin_ms: 0,
            },
            22 => Command::PutDocument {
                name: format!("doc{}", link.0),
                body: (byte & 1 == 0).then(|| vec![byte].into()),
            },
            23 => Command::Delete {
                name: name(link),
                only: Only {
                    unused: byte & 1 != 0,
                    empty: byte & 2 != 0,
                },
            },
            24 => {
                self.now = self.now.plus_millis(700);
                shard.advance(self.now, &mut self.seen);
                shard.end_batch();
                return;
            }
            31 => {
                let Some((group, messages)) = self.last_of_a_group() else {
                    return;
                };
                Command::ReleaseAll {
                    group,
                    messages,
                    delay_ms: u64::from(byte & 1) * 500,
                    failed: byte & 2 == 0,
                }
            }
            _ => {
                let Some(message) = self.seen.0.pop() else {
                    return;
                };
                Command::Settle {
                    message,
                    how: how(byte),
                }
            }
        };
        self.token += 1;
        shard.step(self.now, self.session, self.token, command, &mut self.seen);
    }

    /// Takes out what was delivered last, with what was delivered of the same group just before it.
    fn last_of_a_group(&mut self) -> Option<(GroupId, Vec<Seq>)> {
        let mut last: Option<(GroupId, Vec<Seq>)> = None;
        while let Some(&Handle::Group(group, seq)) = self.seen.0.last() {
            match &mut last {
                None => last = Some((group, vec![seq])),
                Some((same, messages)) if *same == group => messages.push(seq),
                Some(_) => break,
            }
            self.seen.0.pop();
        }
        last
    }
}

fn name(link: Link) -> StreamName {
    StreamName::new("default", format!("s{}", link.0))
}

fn config(link: Link) -> StreamConfig {
    let plain = StreamConfig::default();
    match link.0 {
        0 => plain,
        1 => StreamConfig {
            numbering: Numbering::Shared("all".into()),
            group: Some(GroupConfig {
                order: Order::Priority,
                ..GroupConfig::default()
            }),
            ..plain
        },
        _ => StreamConfig {
            keep: Keep::UntilLimit,
            overflow: Overflow::DropOldest,
            limits: Limits {
                max_messages: 5,
                max_age_ms: 5_000,
                ..Limits::default()
            },
            ..plain
        },
    }
}

fn message(byte: u8) -> NewMessage {
    NewMessage {
        delay_ms: if byte & 1 == 0 { 0 } else { 1_500 },
        expires_ms: (byte & 2 == 0).then_some(3_000),
        payload: vec![byte; usize::from(byte & 7)].into(),
        ..NewMessage::default()
    }
}

fn how(byte: u8) -> Settle {
    match byte % 4 {
        0 => Settle::Ack,
        1 => Settle::Release {
            priority: None,
            delay_ms: u64::from(byte & 4) * 500,
            failed: true,
        },
        2 => Settle::Park { priority: None },
        _ => Settle::Reject,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzzer starts from these: they have to reach what they are for.
    #[test]
    fn commands_leave_records_of_many_kinds() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../fuzz/corpus/shard_replay/undamaged"
        );
        let data = std::fs::read(path).unwrap();
        assert_eq!(data[0], 0, "no damage");
        let records = record(&data[1..]);
        let mut kinds: Vec<u8> = records.iter().map(|(payload, _)| payload[0]).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert!(kinds.len() >= 8, "{kinds:?}");
        assert!(
            recover(&records, None).is_some(),
            "undamaged records come back"
        );
    }

    #[test]
    fn damaged_records_hold() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut byte = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_le_bytes()[3]
        };
        for round in 0..300 {
            let length = 64 + round % 64;
            let data: Vec<u8> = (0..length).map(|_| byte()).collect();
            replay(&data);
            replay(&[&[0], &data[1..]].concat());
        }
    }
}
