//! What waits for single sessions, what is on its way to them, and what is published later: message by message, for
//! operators.
//!
//! ```text
//! connected: window, queue in memory ──┐
//! streams of the session's filters ────┴──▶ messages, a part at a time
//! stream $mqtt/delayed ───────────────────▶ delayed messages
//! ```
//!
//! Nothing is taken. What goes on meanwhile may show a message twice, or as waiting when it is on its way.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use longtail_broker::client::{Client, OwnedMessage, accepted};
use longtail_broker::message::SharedMessage;
use longtail_broker::stored::Stored;
use longtail_broker::{Broker, BrokerError};
use longtail_engine::config::GroupName;
use longtail_engine::{
    Command, Handle, MessageState, Reply, StreamName, Target as Into, Wait, Which,
};
use longtail_model::{GroupId, Seq, StreamId, Timestamp};

use crate::codec::{PacketId, Qos};
use crate::message::qos;
use crate::registry::Seen;
use crate::session::feed::sent_mark;
use crate::tenant::Tenant;

/// Messages that are looked at for one part, whether they are shown or not.
const LOOKED_AT_MAX: usize = 10_000;

/// Messages that are read from a stream in one go, and bytes of their payloads.
const STEP: u32 = 100;
const STEP_BYTES: u64 = 1 << 20;

/// A message of a session.
#[derive(Clone, Debug)]
pub struct SessionMessage {
    /// Where it is.
    pub place: Place,
    /// The message.
    pub message: SharedMessage,
    /// At which it is sent.
    pub qos: Qos,
    /// Its packet identifier, if it is on its way and that is known.
    pub packet_id: Option<PacketId>,
}

/// Where a message of a session is: in memory, or in a stream of one of its filters. Written `PART.NUMBER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// 0: in memory; from 1 on, the streams of its filters in the order of their names.
    part: usize,
    /// Its place there, or its number in the stream.
    number: u64,
}

impl Place {
    /// The next one.
    #[must_use]
    pub fn after(self) -> Self {
        Place {
            number: self.number + 1,
            ..self
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.part, self.number)
    }
}

/// It is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no place: PART.NUMBER is expected")]
pub struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (part, number) = text.split_once('.').ok_or(NoPlace)?;
        Ok(Place {
            part: part.parse().map_err(|_| NoPlace)?,
            number: number.parse().map_err(|_| NoPlace)?,
        })
    }
}

/// Some messages.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The messages.
    pub messages: Vec<SessionMessage>,
    /// Where to go on; `None`: there are no more.
    pub next: Option<Place>,
}

/// Which messages of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Those that wait to be sent.
    Waiting,
    /// Those that were sent and are not acknowledged.
    InFlight,
}

/// A stream that a session draws from.
struct Source {
    /// See [`Place`].
    part: usize,
    name: StreamName,
    group: GroupName,
    qos: Qos,
}

/// A stream that is being read.
struct Reading<'s> {
    source: &'s Source,
    stream: StreamId,
    group: GroupId,
}

/// A message that is published later.
#[derive(Clone, Debug)]
pub struct DelayedMessage {
    /// Its number.
    pub seq: Seq,
    /// The message, with the topic that it is for.
    pub message: SharedMessage,
    /// When it was published.
    pub since: Timestamp,
    /// When it is due.
    pub due: Timestamp,
}

impl Tenant {
    /// Messages of a session from a place on, at most `limit`. `None`: there is no such session.
    ///
    /// # Errors
    /// When the broker closes.
    pub async fn messages_of(
        &self,
        broker: &Broker,
        client_id: &str,
        which: Kind,
        from: Place,
        limit: usize,
    ) -> Result<Option<Part>, BrokerError> {
        let Some((is_there, sources)) = self.sources_of(client_id) else {
            return Ok(None);
        };
        let mut part = Part::default();
        if from.part == 0 {
            self.in_memory(client_id, which, from.number, limit, &mut part.messages);
            if part.messages.len() == limit {
                part.next = part.messages.last().map(|last| last.place.after());
                return Ok(Some(part));
            }
        }
        if which == Kind::InFlight && is_there {
            // All of it is in memory.
            return Ok(Some(part));
        }
        let client = broker.client(self.durable().home());
        let mut looked_at = 0;
        for source in sources.iter().filter(|source| source.part >= from.part) {
            let number = if source.part == from.part {
                from.number
            } else {
                0
            };
            let Some(reading) = Reading::new(&client, source).await? else {
                continue;
            };
            part.next = match which {
                Kind::Waiting => {
                    let found = &mut part.messages;
                    reading
                        .waiting(&client, number, limit, &mut looked_at, found)
                        .await?
                }
                Kind::InFlight => {
                    reading
                        .sent(&client, number, limit, &mut part.messages)
                        .await?
                }
            };
            if part.next.is_some() {
                break;
            }
        }
        Ok(Some(part))
    }

    /// Whether the client of a session is there, and what the session draws from, but not its shares: what is theirs is
    /// nobody's as long as nobody has drawn it.
    fn sources_of(&self, client_id: &str) -> Option<(bool, Vec<Source>)> {
        let durable = self.durable();
        self.registry().look(client_id, |_, seen| {
            let mut sources = Vec::new();
            crate::census::with_state(seen, |state| {
                for held in state.subscriptions.values() {
                    if held.has_stream() && held.group.is_none() {
                        sources.push(Source {
                            part: 0,
                            name: durable.stream_name(&held.filter),
                            group: held.stream_group(state.number),
                            qos: crate::session::Tag::unpack(held.options.tag).qos,
                        });
                    }
                }
            });
            sources.sort_by(|a, b| a.name.cmp(&b.name));
            sources.dedup_by(|a, b| a.name == b.name);
            for (part, source) in (1..).zip(&mut sources) {
                source.part = part;
            }
            (matches!(seen, Seen::Connected(_)), sources)
        })
    }

    fn in_memory(
        &self,
        client_id: &str,
        which: Kind,
        skip: u64,
        limit: usize,
        found: &mut Vec<SessionMessage>,
    ) {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        self.registry().look(client_id, |_, seen| {
            crate::census::with_state(seen, |state| {
                let all = match which {
                    Kind::Waiting => state.queued_messages(),
                    Kind::InFlight => state.sent_messages(),
                };
                let all = (0..).zip(all).skip(skip).take(limit);
                found.extend(
                    all.map(|(number, (message, qos, packet_id))| SessionMessage {
                        place: Place { part: 0, number },
                        message,
                        qos,
                        packet_id,
                    }),
                );
            });
        });
    }

    /// Messages that are published later from a number on, in the order in which they were published, at most `limit`;
    /// and whether there are more.
    ///
    /// # Errors
    /// When the broker closes.
    pub async fn delayed_messages(
        &self,
        broker: &Broker,
        from: Seq,
        limit: usize,
    ) -> Result<(Vec<DelayedMessage>, bool), BrokerError> {
        let client = broker.client(self.durable().home());
        let name = self.delayed().name();
        let Some((_, groups)) = describe(&client, name).await? else {
            return Ok((Vec::new(), false));
        };
        let Some(group) = groups.first().map(|(group, _)| *group) else {
            return Ok((Vec::new(), false));
        };
        let (mut found, mut from) = (Vec::new(), from);
        loop {
            let (messages, next) = read(&client, name, from, STEP).await?;
            if messages.is_empty() {
                return Ok((found, false));
            }
            for (seq, owned) in messages {
                let Some(info) = place_of(&client, group, seq).await? else {
                    continue;
                };
                let Some(message) = owned.as_ref().and_then(whole) else {
                    continue;
                };
                if found.len() == limit {
                    return Ok((found, true));
                }
                found.push(DelayedMessage {
                    seq,
                    since: message.published,
                    due: info.due.unwrap_or(message.published),
                    message,
                });
            }
            from = next;
        }
    }

    /// How many messages wait to be published later.
    ///
    /// # Errors
    /// When the broker closes.
    pub async fn delayed_count(&self, broker: &Broker) -> Result<u64, BrokerError> {
        let client = broker.client(self.durable().home());
        let name = self.delayed().name().clone();
        let reply = accepted(client.call(Command::DescribeStream { name }).await?)?.reply;
        Ok(match reply {
            Reply::StreamInfo(info) => info.messages,
            _ => 0,
        })
    }

    /// Does not publish a delayed message after all; `false` if there is none with this number.
    ///
    /// # Errors
    /// When the broker closes, or the log refuses.
    pub async fn forget_delayed(&self, broker: &Broker, seq: Seq) -> Result<bool, BrokerError> {
        let client = broker.client(self.durable().home());
        let Some((stream, _)) = describe(&client, self.delayed().name()).await? else {
            return Ok(false);
        };
        let remove = Command::Remove {
            stream: Into::Stream(stream),
            seq,
        };
        Ok(accepted(client.call(remove).await?)?.reply == Reply::Done)
    }
}

type Groups = Vec<(GroupId, GroupName)>;

/// The number of a stream, and its groups.
async fn describe(
    client: &Client,
    name: &StreamName,
) -> Result<Option<(StreamId, Groups)>, BrokerError> {
    let describe = Command::DescribeStream { name: name.clone() };
    let Reply::StreamInfo(info) = accepted(client.call(describe).await?)?.reply else {
        return Ok(None);
    };
    let stream = name.clone();
    let reply = accepted(client.call(Command::DescribeGroups { stream }).await?)?.reply;
    let Reply::Groups(groups) = reply else {
        return Ok(None);
    };
    let groups = groups.into_iter().map(|group| (group.group, group.name));
    Ok(Some((info.stream, groups.collect())))
}

type Read = (Vec<(Seq, Option<OwnedMessage>)>, Seq);

async fn read(
    client: &Client,
    name: &StreamName,
    from: Seq,
    max: u32,
) -> Result<Read, BrokerError> {
    let read = Command::Read {
        name: name.clone(),
        from,
        max,
        max_bytes: STEP_BYTES,
        wait: Wait::No,
    };
    let answer = accepted(client.call(read).await?)?;
    Ok(match answer.reply {
        Reply::Batch { messages, next } => {
            let seqs = messages.into_iter().map(|(seq, _)| seq);
            (seqs.zip(answer.messages).collect(), next)
        }
        _ => (Vec::new(), from),
    })
}

/// Where a message stands in a group; `None`: it is settled there.
async fn place_of(
    client: &Client,
    group: GroupId,
    seq: Seq,
) -> Result<Option<Box<longtail_engine::MessageInfo>>, BrokerError> {
    let describe = Command::DescribeMessage {
        message: Handle::Group(group, seq),
    };
    match client.call(describe).await?.reply {
        Reply::MessageInfo(info) => Ok(Some(info)),
        _ => Ok(None),
    }
}

fn whole(owned: &OwnedMessage) -> Option<SharedMessage> {
    let stored = Stored::read(&owned.subject, &owned.headers);
    let message = stored.to_message(owned.payload.clone(), owned.created, owned.expires);
    message.ok().map(Arc::new)
}

impl<'s> Reading<'s> {
    /// `None`: there is no such stream any more, or the session draws from it no longer.
    async fn new(client: &Client, source: &'s Source) -> Result<Option<Self>, BrokerError> {
        let Some((stream, groups)) = describe(client, &source.name).await? else {
            return Ok(None);
        };
        let group = groups.into_iter().find(|(_, name)| *name == source.group);
        Ok(group.map(|(group, _)| Reading {
            source,
            stream,
            group,
        }))
    }

    fn place(&self, seq: Seq) -> Place {
        Place {
            part: self.source.part,
            number: seq.0,
        }
    }

    /// Adds what waits to what was `found`, and says where to go on, unless that was all of it.
    async fn waiting(
        &self,
        client: &Client,
        from: u64,
        limit: usize,
        looked_at: &mut usize,
        found: &mut Vec<SessionMessage>,
    ) -> Result<Option<Place>, BrokerError> {
        let head = Command::PeekHead {
            stream: Into::Stream(self.stream),
            group: self.source.group.clone(),
            which: Which::Ready,
        };
        let Reply::Peeked { seq: head, .. } = client.call(head).await?.reply else {
            return Ok(None);
        };
        let mut from = Seq(from).max(head);
        loop {
            let (messages, next) = read(client, &self.source.name, from, STEP).await?;
            if messages.is_empty() {
                return Ok(None);
            }
            for (seq, owned) in messages {
                if found.len() == limit || *looked_at >= LOOKED_AT_MAX {
                    return Ok(Some(self.place(seq)));
                }
                *looked_at += 1;
                let info = place_of(client, self.group, seq).await?;
                let waits = info.is_some_and(|info| {
                    let states = [MessageState::Ready, MessageState::Delayed];
                    states.contains(&info.state) && sent_mark(info.mark).is_none()
                });
                if let Some(message) = owned.as_ref().and_then(whole).filter(|_| waits) {
                    found.push(SessionMessage {
                        place: self.place(seq),
                        qos: qos(message.quality).min(self.source.qos),
                        message,
                        packet_id: None,
                    });
                }
            }
            from = next;
        }
    }

    /// Likewise what was sent on an earlier connection: the messages with a mark.
    async fn sent(
        &self,
        client: &Client,
        from: u64,
        limit: usize,
        found: &mut Vec<SessionMessage>,
    ) -> Result<Option<Place>, BrokerError> {
        let marked = Command::Marked {
            stream: Into::Stream(self.stream),
            group: self.source.group.clone(),
        };
        let Reply::Marked { messages, .. } = client.call(marked).await?.reply else {
            return Ok(None);
        };
        for (seq, mark) in messages {
            let Some((packet_id, qos)) = sent_mark(mark).filter(|_| seq.0 >= from) else {
                continue;
            };
            if found.len() == limit {
                return Ok(Some(self.place(seq)));
            }
            let (read, _) = read(client, &self.source.name, seq, 1).await?;
            let message = read.first().filter(|(read, _)| *read == seq);
            if let Some(message) = message.and_then(|(_, owned)| whole(owned.as_ref()?)) {
                found.push(SessionMessage {
                    place: self.place(seq),
                    message,
                    qos,
                    packet_id: Some(packet_id),
                });
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let place = Place {
            part: 2,
            number: 70,
        };
        assert_eq!(place.to_string(), "2.70");
        assert_eq!("2.70".parse(), Ok(place));
        assert_eq!(place.after().to_string(), "2.71");
        for wrong in ["", "2", "2.", ".7", "2.x", "-1.7"] {
            assert_eq!(wrong.parse::<Place>(), Err(NoPlace), "{wrong}");
        }
    }
}
