//! Log events: how a shard's transitions are written, and read back on recovery.
//!
//! An event is one record. The first byte is its kind, numbers are varints. Every change of durable state is one of
//! these; the functions that apply them are the same live and on recovery.

use longtail_model::{GroupId, IndexId, Priority, Seq, StreamId, Timestamp};

use crate::effect::Counts;
use crate::message::Message;
use crate::structures::varint;

/// Why the bytes of an event do not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No release of the server writes this.
    #[error("an event of the log does not decode")]
    Damaged,
    /// A part that has a number in the format, but none that this release knows.
    #[error(
        "an event of the log has {what} {number}, which only a later release of Longtail can read"
    )]
    Later {
        /// Of which kind the part is.
        what: &'static str,
        /// Its number.
        number: u64,
    },
}

const APPEND: u8 = 1;
const SETTLED: u8 = 2;
const REMOVED: u8 = 3;
const RETURNED: u8 = 4;
const PARKED: u8 = 5;
const TAKEN: u8 = 6;
const STREAM_DEFINED: u8 = 7;
const STREAM_DELETED: u8 = 8;
const GROUP_DEFINED: u8 = 9;
const GROUP_DELETED: u8 = 10;
const DOCUMENT: u8 = 11;
const PAUSED: u8 = 12;
const SKIPPED: u8 = 13;
const TRIMMED: u8 = 14;
const GROUP_TRIMMED: u8 = 15;
const MARKED: u8 = 16;
const STREAM_CHANGED: u8 = 17;

/// Facts of a message beyond those that every message has. An append names those that are there in a bit set, and
/// their values follow in the order of the bits; a fact that is not there has its default and costs nothing.
const PRIORITY: u64 = 1;
const DELAY: u64 = 1 << 1;
const ACK_TIMEOUT: u64 = 1 << 2;
/// Milliseconds after the creation.
const EXPIRES: u64 = 1 << 3;
const SUBJECT: u64 = 1 << 4;
const HEADERS: u64 = 1 << 5;
const ID: u64 = 1 << 6;
const KEY: u64 = 1 << 7;
const FACTS: u64 = (KEY << 1) - 1;

/// One decoded event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event<'a> {
    /// A message was appended to one or several streams.
    Append {
        targets: Targets<'a>,
        message: Message<'a>,
    },
    /// A group is done with a message.
    ///
    /// With the size of the message: when this is read back, its record may be reclaimed already.
    Settled {
        group: GroupId,
        seq: Seq,
        bytes: u64,
    },
    /// A message left its stream, whatever its groups thought of it.
    Removed {
        stream: StreamId,
        seq: Seq,
        bytes: u64,
    },
    /// Everything below a number left a stream but what is excepted: `count` messages of `bytes` in all.
    Trimmed {
        stream: StreamId,
        below: Seq,
        count: u64,
        bytes: u64,
        except: Numbers<'a>,
    },
    /// A group is done with everything below a number but what is excepted.
    GroupTrimmed {
        group: GroupId,
        below: Seq,
        except: Numbers<'a>,
    },
    /// A message is ready again, now or when `due`.
    Returned {
        group: GroupId,
        seq: Seq,
        priority: Priority,
        due: Option<Timestamp>,
        delay_ms: u64,
        counts: Counts,
    },
    /// A message was set aside.
    Parked {
        group: GroupId,
        seq: Seq,
        priority: Priority,
        counts: Counts,
    },
    /// A message was delivered. Written with the next frame that has to be written anyway.
    Taken {
        group: GroupId,
        seq: Seq,
        deliveries: u32,
    },
    /// A consumer left a number on a message that it held.
    Marked { group: GroupId, seq: Seq, mark: u64 },
    /// A stream came to be; the rest is its name and configuration, see `definition`.
    StreamDefined {
        stream: StreamId,
        index: IndexId,
        definition: &'a [u8],
    },
    /// A stream has other settings from here on; the rest is its name and configuration.
    StreamChanged {
        stream: StreamId,
        definition: &'a [u8],
    },
    /// A stream and all it held is gone.
    StreamDeleted { stream: StreamId },
    /// A stream got another group.
    GroupDefined {
        stream: StreamId,
        group: GroupId,
        start: Seq,
        definition: &'a [u8],
    },
    /// It is gone again.
    GroupDeleted { group: GroupId },
    /// A stream, or with a `group` that is not 0 one of its groups, delivers nothing until `end`; `None` ends a pause.
    Paused {
        stream: StreamId,
        group: GroupId,
        end: Option<Timestamp>,
        length_ms: u64,
    },
    /// A message got a number in a stream in which nobody wants it.
    Skipped { stream: StreamId, seq: Seq },
    /// A document of the catalog was written (or removed, when `body` is absent).
    Document {
        name: &'a str,
        body: Option<&'a [u8]>,
    },
}

/// The streams that an appended message goes to, with its number in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Targets<'a> {
    count: u64,
    bytes: &'a [u8],
}

impl Iterator for Targets<'_> {
    type Item = (StreamId, Seq);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let stream = varint::get(&mut self.bytes)?;
        let seq = varint::get(&mut self.bytes)?;
        Some((StreamId(stream), Seq(seq)))
    }
}

/// Ascending numbers, each as its distance from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers<'a> {
    count: u64,
    last: u64,
    bytes: &'a [u8],
}

impl Iterator for Numbers<'_> {
    type Item = Seq;

    fn next(&mut self) -> Option<Seq> {
        self.count = self.count.checked_sub(1)?;
        self.last = self.last.checked_add(varint::get(&mut self.bytes)?)?;
        Some(Seq(self.last))
    }
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[Seq]) {
    varint::put(out, numbers.len() as u64);
    let mut last = 0;
    for number in numbers {
        varint::put(out, number.0 - last);
        last = number.0;
    }
}

fn get_numbers<'a>(input: &mut &'a [u8]) -> Result<Numbers<'a>, Malformed> {
    let count = get(input)?;
    let numbers = Numbers {
        count,
        last: 0,
        bytes: input,
    };
    if numbers.count() as u64 == count {
        *input = &[];
        Ok(numbers)
    } else {
        Err(Malformed::Damaged)
    }
}

/// Encodes the head of an append; the payload follows it as the record's body.
pub(crate) fn put_append(out: &mut Vec<u8>, targets: &[(StreamId, Seq)], message: &Message<'_>) {
    out.push(APPEND);
    varint::put(out, targets.len() as u64);
    for (stream, seq) in targets {
        varint::put(out, stream.0);
        varint::put(out, seq.0);
    }
    varint::put(out, message.created.0);
    put_facts(out, message);
}

fn put_facts(out: &mut Vec<u8>, message: &Message<'_>) {
    let expires = message.expires != Timestamp::NEVER;
    let facts = [
        (PRIORITY, message.priority.0 != 0),
        (DELAY, message.delay_ms != 0),
        (ACK_TIMEOUT, message.ack_timeout_ms != 0),
        (EXPIRES, expires),
        (SUBJECT, !message.subject.is_empty()),
        (HEADERS, !message.headers.is_empty()),
        (ID, !message.id.is_empty()),
        (KEY, message.key != 0),
    ];
    let present = facts
        .iter()
        .filter(|(_, there)| *there)
        .fold(0, |present, (fact, _)| present | fact);
    varint::put(out, present);
    for (fact, _) in facts.into_iter().filter(|(_, there)| *there) {
        let text = match fact {
            SUBJECT => message.subject,
            HEADERS => message.headers,
            ID => message.id,
            _ => {
                let number = match fact {
                    PRIORITY => u64::from(message.priority.0),
                    DELAY => message.delay_ms,
                    ACK_TIMEOUT => message.ack_timeout_ms,
                    EXPIRES => message.expires.millis_since(message.created),
                    _ => message.key,
                };
                varint::put(out, number);
                continue;
            }
        };
        varint::put(out, text.len() as u64);
        out.extend_from_slice(text);
    }
}

/// Everything of an append but its targets; the body is what is left.
fn get_message<'a>(mut input: &'a [u8]) -> Result<Message<'a>, Malformed> {
    let input = &mut input;
    let created = Timestamp(get(input)?);
    let present = get(input)?;
    if present & !FACTS != 0 {
        return Err(Malformed::Later {
            what: "the facts of a message",
            number: present & !FACTS,
        });
    }
    let number = |input: &mut &'a [u8], fact: u64| match present & fact {
        0 => Ok(None),
        _ => get(input).map(Some),
    };
    let text = |input: &mut &'a [u8], fact: u64| match number(input, fact)? {
        None => Ok(&[][..]),
        Some(len) => take(input, len),
    };
    let priority = number(input, PRIORITY)?.unwrap_or_default();
    Ok(Message {
        created,
        priority: Priority(u32::try_from(priority).map_err(|_| Malformed::Damaged)?),
        delay_ms: number(input, DELAY)?.unwrap_or_default(),
        ack_timeout_ms: number(input, ACK_TIMEOUT)?.unwrap_or_default(),
        expires: number(input, EXPIRES)?.map_or(Timestamp::NEVER, |ms| created.plus_millis(ms)),
        subject: text(input, SUBJECT)?,
        headers: text(input, HEADERS)?,
        id: text(input, ID)?,
        key: number(input, KEY)?.unwrap_or_default(),
        payload: input,
        shared: None,
    })
}

pub(crate) fn put_settled(out: &mut Vec<u8>, group: GroupId, seq: Seq, bytes: u64) {
    out.push(SETTLED);
    varint::put(out, group.0);
    varint::put(out, seq.0);
    varint::put(out, bytes);
}

pub(crate) fn put_removed(out: &mut Vec<u8>, stream: StreamId, seq: Seq, bytes: u64) {
    out.push(REMOVED);
    varint::put(out, stream.0);
    varint::put(out, seq.0);
    varint::put(out, bytes);
}

pub(crate) fn put_trimmed(
    out: &mut Vec<u8>,
    stream: StreamId,
    below: Seq,
    count: u64,
    bytes: u64,
    except: &[Seq],
) {
    out.push(TRIMMED);
    varint::put(out, stream.0);
    varint::put(out, below.0);
    varint::put(out, count);
    varint::put(out, bytes);
    put_numbers(out, except);
}

pub(crate) fn put_group_trimmed(out: &mut Vec<u8>, group: GroupId, below: Seq, except: &[Seq]) {
    out.push(GROUP_TRIMMED);
    varint::put(out, group.0);
    varint::put(out, below.0);
    put_numbers(out, except);
}

pub(crate) fn put_returned(
    out: &mut Vec<u8>,
    group: GroupId,
    seq: Seq,
    priority: Priority,
    due: Option<Timestamp>,
    delay_ms: u64,
    counts: &Counts,
) {
    out.push(RETURNED);
    varint::put(out, group.0);
    varint::put(out, seq.0);
    varint::put(out, u64::from(priority.0));
    varint::put(out, due.map_or(0, |due| due.0));
    varint::put(out, delay_ms);
    put_counts(out, counts);
}

pub(crate) fn put_parked(
    out: &mut Vec<u8>,
    group: GroupId,
    seq: Seq,
    priority: Priority,
    counts: &Counts,
) {
    out.push(PARKED);
    varint::put(out, group.0);
    varint::put(out, seq.0);
    varint::put(out, u64::from(priority.0));
    put_counts(out, counts);
}

pub(crate) fn put_taken(out: &mut Vec<u8>, group: GroupId, seq: Seq, deliveries: u32) {
    out.push(TAKEN);
    varint::put(out, group.0);
    varint::put(out, seq.0);
    varint::put(out, u64::from(deliveries));
}

pub(crate) fn put_marked(out: &mut Vec<u8>, group: GroupId, seq: Seq, mark: u64) {
    out.push(MARKED);
    varint::put(out, group.0);
    varint::put(out, seq.0);
    varint::put(out, mark);
}

pub(crate) fn put_stream_defined(
    out: &mut Vec<u8>,
    stream: StreamId,
    index: IndexId,
    definition: &[u8],
) {
    out.push(STREAM_DEFINED);
    varint::put(out, stream.0);
    varint::put(out, index.0);
    out.extend_from_slice(definition);
}

pub(crate) fn put_stream_changed(out: &mut Vec<u8>, stream: StreamId, definition: &[u8]) {
    out.push(STREAM_CHANGED);
    varint::put(out, stream.0);
    out.extend_from_slice(definition);
}

pub(crate) fn put_stream_deleted(out: &mut Vec<u8>, stream: StreamId) {
    out.push(STREAM_DELETED);
    varint::put(out, stream.0);
}

pub(crate) fn put_group_defined(
    out: &mut Vec<u8>,
    stream: StreamId,
    group: GroupId,
    start: Seq,
    definition: &[u8],
) {
    out.push(GROUP_DEFINED);
    varint::put(out, stream.0);
    varint::put(out, group.0);
    varint::put(out, start.0);
    out.extend_from_slice(definition);
}

pub(crate) fn put_group_deleted(out: &mut Vec<u8>, group: GroupId) {
    out.push(GROUP_DELETED);
    varint::put(out, group.0);
}

pub(crate) fn put_paused(
    out: &mut Vec<u8>,
    stream: StreamId,
    group: GroupId,
    end: Option<Timestamp>,
    length_ms: u64,
) {
    out.push(PAUSED);
    varint::put(out, stream.0);
    varint::put(out, group.0);
    varint::put(out, end.map_or(0, |end| end.0));
    varint::put(out, length_ms);
}

pub(crate) fn put_skipped(out: &mut Vec<u8>, stream: StreamId, seq: Seq) {
    out.push(SKIPPED);
    varint::put(out, stream.0);
    varint::put(out, seq.0);
}

pub(crate) fn put_document(out: &mut Vec<u8>, name: &str, body: Option<&[u8]>) {
    out.push(DOCUMENT);
    out.push(u8::from(body.is_some()));
    varint::put(out, name.len() as u64);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(body.unwrap_or_default());
}

pub(crate) fn put_counts(out: &mut Vec<u8>, counts: &Counts) {
    for n in [
        counts.deliveries,
        counts.timeouts,
        counts.releases,
        counts.parks,
        counts.kicks,
        counts.failures,
    ] {
        varint::put(out, u64::from(n));
    }
}

pub(crate) fn get_counts(input: &mut &[u8]) -> Result<Counts, Malformed> {
    Ok(Counts {
        deliveries: get_u32(input)?,
        timeouts: get_u32(input)?,
        releases: get_u32(input)?,
        parks: get_u32(input)?,
        kicks: get_u32(input)?,
        failures: get_u32(input)?,
    })
}

pub(crate) fn get(input: &mut &[u8]) -> Result<u64, Malformed> {
    varint::get(input).ok_or(Malformed::Damaged)
}

pub(crate) fn get_u32(input: &mut &[u8]) -> Result<u32, Malformed> {
    u32::try_from(get(input)?).map_err(|_| Malformed::Damaged)
}

pub(crate) fn take<'a>(input: &mut &'a [u8], len: u64) -> Result<&'a [u8], Malformed> {
    let len = usize::try_from(len).map_err(|_| Malformed::Damaged)?;
    let (bytes, rest) = input.split_at_checked(len).ok_or(Malformed::Damaged)?;
    *input = rest;
    Ok(bytes)
}

fn priority(input: &mut &[u8]) -> Result<Priority, Malformed> {
    Ok(Priority(get_u32(input)?))
}

impl<'a> Event<'a> {
    /// Decodes one record's payload.
    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
        let (&kind, mut input) = payload.split_first().ok_or(Malformed::Damaged)?;
        let input = &mut input;
        Ok(match kind {
            APPEND => {
                let count = get(input)?;
                let start = *input;
                for _ in 0..count {
                    get(input)?;
                    get(input)?;
                }
                let bytes = &start[..start.len() - input.len()];
                Event::Append {
                    targets: Targets { count, bytes },
                    message: get_message(input)?,
                }
            }
            SETTLED => Event::Settled {
                group: GroupId(get(input)?),
                seq: Seq(get(input)?),
                bytes: get(input)?,
            },
            REMOVED => Event::Removed {
                stream: StreamId(get(input)?),
                seq: Seq(get(input)?),
                bytes: get(input)?,
            },
            TRIMMED => Event::Trimmed {
                stream: StreamId(get(input)?),
                below: Seq(get(input)?),
                count: get(input)?,
                bytes: get(input)?,
                except: get_numbers(input)?,
            },
            GROUP_TRIMMED => Event::GroupTrimmed {
                group: GroupId(get(input)?),
                below: Seq(get(input)?),
                except: get_numbers(input)?,
            },
            RETURNED => Event::Returned {
                group: GroupId(get(input)?),
                seq: Seq(get(input)?),
                priority: priority(input)?,
                due: match get(input)? {
                    0 => None,
                    ms => Some(Timestamp(ms)),
                },
                delay_ms: get(input)?,
                counts: get_counts(input)?,
            },
            PARKED => Event::Parked {
                group: GroupId(get(input)?),
                seq: Seq(get(input)?),
                priority: priority(input)?,
                counts: get_counts(input)?,
            },
            TAKEN => Event::Taken {
                group: GroupId(get(input)?),
                seq: Seq(get(input)?),
                deliveries: get_u32(input)?,
            },
            MARKED => Event::Marked {
                group: GroupId(get(input)?),
                seq: Seq(get(input)?),
                mark: get(input)?,
            },
            STREAM_DEFINED => Event::StreamDefined {
                stream: StreamId(get(input)?),
                index: IndexId(get(input)?),
                definition: input,
            },
            STREAM_CHANGED => Event::StreamChanged {
                stream: StreamId(get(input)?),
                definition: input,
            },
            STREAM_DELETED => Event::StreamDeleted {
                stream: StreamId(get(input)?),
            },
            GROUP_DEFINED => Event::GroupDefined {
                stream: StreamId(get(input)?),
                group: GroupId(get(input)?),
                start: Seq(get(input)?),
                definition: input,
            },
            GROUP_DELETED => Event::GroupDeleted {
                group: GroupId(get(input)?),
            },
            PAUSED => Event::Paused {
                stream: StreamId(get(input)?),
                group: GroupId(get(input)?),
                end: match get(input)? {
                    0 => None,
                    ms => Some(Timestamp(ms)),
                },
                length_ms: get(input)?,
            },
            SKIPPED => Event::Skipped {
                stream: StreamId(get(input)?),
                seq: Seq(get(input)?),
            },
            DOCUMENT => {
                let present = match take(input, 1)? {
                    [0] => false,
                    [1] => true,
                    _ => return Err(Malformed::Damaged),
                };
                let len = get(input)?;
                let name =
                    std::str::from_utf8(take(input, len)?).map_err(|_| Malformed::Damaged)?;
                Event::Document {
                    name,
                    body: present.then_some(*input),
                }
            }
            kind => {
                return Err(Malformed::Later {
                    what: "the kind",
                    number: u64::from(kind),
                });
            }
        })
    }
}

/// The first target of an append, from the first bytes of its record; `None` for any other event, or when there are
/// several.
pub(crate) fn sole_target(head: &[u8]) -> Option<(StreamId, Seq)> {
    let (&APPEND, mut input) = head.split_first()? else {
        return None;
    };
    if varint::get(&mut input)? != 1 {
        return None;
    }
    let stream = varint::get(&mut input)?;
    let seq = varint::get(&mut input)?;
    Some((StreamId(stream), Seq(seq)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn append_round_trips() {
        let message = Message {
            created: Timestamp(1_700_000_000_123),
            priority: Priority(u32::MAX),
            delay_ms: 5,
            ack_timeout_ms: 120_000,
            expires: Timestamp(1_700_000_000_123),
            subject: b"a/b",
            id: b"1-2-3",
            key: u64::MAX,
            headers: b"hh",
            payload: b"body",
            shared: None,
        };
        let targets = [(StreamId(1), Seq(900)), (StreamId(77_000), Seq(1))];
        let mut record = Vec::new();
        put_append(&mut record, &targets, &message);
        record.extend_from_slice(message.payload);
        let Event::Append {
            targets: decoded,
            message: back,
        } = Event::decode(&record).unwrap()
        else {
            panic!("not an append")
        };
        assert_eq!(decoded.collect::<Vec<_>>(), targets);
        assert_eq!(back, message);
        assert_eq!(sole_target(&record), None);
    }

    #[test]
    fn what_a_message_does_not_say_costs_nothing() {
        let message = Message {
            created: Timestamp(5),
            priority: Priority(0),
            delay_ms: 0,
            ack_timeout_ms: 0,
            expires: Timestamp::NEVER,
            subject: b"",
            id: b"",
            key: 0,
            headers: b"",
            payload: b"",
            shared: None,
        };
        let mut record = Vec::new();
        put_append(&mut record, &[(StreamId(1), Seq(2))], &message);
        assert_eq!(record, [APPEND, 1, 1, 2, 5, 0]);
        let Ok(Event::Append { message: back, .. }) = Event::decode(&record) else {
            panic!("not an append")
        };
        assert_eq!(back, message);
    }

    #[test]
    fn a_fact_or_a_kind_of_a_later_release_is_named() {
        let mut record = vec![APPEND, 1, 1, 2, 5];
        varint::put(&mut record, PRIORITY | (1 << 20));
        record.push(9);
        let why = Event::decode(&record).unwrap_err();
        assert_eq!(
            why,
            Malformed::Later {
                what: "the facts of a message",
                number: 1 << 20
            }
        );
        assert!(why.to_string().contains("later release"), "{why}");
        assert_eq!(
            Event::decode(&[200]),
            Err(Malformed::Later {
                what: "the kind",
                number: 200
            })
        );
    }

    #[test]
    fn every_truncation_is_malformed_or_another_event() {
        let mut record = Vec::new();
        put_returned(
            &mut record,
            GroupId(9),
            Seq(300),
            Priority(4),
            Some(Timestamp(9)),
            7,
            &Counts::default(),
        );
        for end in 0..record.len() {
            assert_eq!(
                Event::decode(&record[..end]),
                Err(Malformed::Damaged),
                "cut at {end}"
            );
        }
        assert!(Event::decode(&record).is_ok());
    }
}
