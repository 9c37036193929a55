//! What the log keeps of a session: a last value for the session, one for each of its subscriptions, one for each
//! message that is in flight without a subscription, and one for each PUBREL that it owes for a message of a share.
//!
//! A record is a list of named fields, encoded as headers are, so that a later release can add one and an earlier one
//! passes over it. The payload is that of the will, or of the message.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::Principal;
use longtail_broker::client::OwnedMessage;
use longtail_broker::ephemeral::LiveOptions;
use longtail_broker::stored::{Stored, new_value};
use longtail_engine::NewMessage;
use longtail_engine::headers;
use longtail_model::{Filter, GroupId, Seq, Timestamp};

use crate::codec::{PacketId, Qos, TopicFilter};
use crate::message::Will;
use crate::session::Held;
use crate::session::feed::Duty;
use crate::session::kept::{InFlight, Origin, Sent};

/// Before a client id.
const SESSION: &str = "c/";
/// Before a session's number and a filter.
const SUBSCRIPTION: &str = "s/";
/// Before a session's number and a packet id.
const IN_FLIGHT: &str = "f/";
/// Before a session's number and a packet id.
const DUTY: &str = "p/";

const NUMBER: &[u8] = b"number";
const EXPIRY: &[u8] = b"expiry-s";
const ENDED: &[u8] = b"ended-ms";
const WILL_TOPIC: &[u8] = b"will-topic";
const WILL_HEADERS: &[u8] = b"will-headers";
const WILL_EXPIRY: &[u8] = b"will-expiry-ms";
const WILL_DELAY: &[u8] = b"will-delay-s";
const WILL_ACCOUNT: &[u8] = b"will-account";
/// What the account's rules call the client; left out where that is the account's name.
const WILL_NAME: &[u8] = b"will-name";
const TAG: &[u8] = b"tag";
const NO_LOCAL: &[u8] = b"no-local";
const HAS_STREAM: &[u8] = b"has-stream";
const EXCLUSIVE: &[u8] = b"exclusive";
/// What it matches, where a hook has put that in place of what the client asked for.
const FILTER: &[u8] = b"filter";
const GROUP: &[u8] = b"group";
/// Place in the order of sends.
const SEND: &[u8] = b"send";
/// At which it was sent; absent once it is released.
const QOS: &[u8] = b"qos";
const TOPIC: &[u8] = b"topic";
const HEADERS: &[u8] = b"headers";
const RETAIN: &[u8] = b"retain";
/// One for each identifier of a subscription.
const FOR: &[u8] = b"for";
/// The subscription to a share that it came from, and its number there.
const ORIGIN: &[u8] = b"origin";
const ORIGIN_SEQ: &[u8] = b"origin-seq";
/// Where the message of a duty was: number of the group, number in it.
const PLACE: &[u8] = b"place";

/// The key of a session.
pub(super) fn session_key(client_id: &str) -> Arc<str> {
    [SESSION, client_id].concat().into()
}

/// The key of a subscription.
pub(super) fn subscription_key(number: u64, text: &str) -> Arc<str> {
    format!("{SUBSCRIPTION}{number:016x}/{text}").into()
}

/// The key of a message in flight.
pub(super) fn in_flight_key(number: u64, id: PacketId) -> Arc<str> {
    format!("{IN_FLIGHT}{number:016x}/{:04x}", id.get()).into()
}

/// The key of a duty.
pub(super) fn duty_key(number: u64, id: PacketId) -> Arc<str> {
    format!("{DUTY}{number:016x}/{:04x}", id.get()).into()
}

/// A session.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionRecord {
    pub(crate) number: u64,
    /// Seconds that it outlives its connection.
    pub(crate) expiry_s: u32,
    /// When its connection ended; `None`: it is connected.
    pub(crate) ended: Option<Timestamp>,
    pub(crate) will: Option<Box<Will>>,
}

impl SessionRecord {
    pub(super) fn encode(&self) -> NewMessage {
        let mut fields = Vec::new();
        headers::put(&mut fields, NUMBER, &self.number.to_le_bytes());
        headers::put(&mut fields, EXPIRY, &self.expiry_s.to_le_bytes());
        if let Some(ended) = self.ended {
            headers::put(&mut fields, ENDED, &ended.0.to_le_bytes());
        }
        let mut payload = Bytes::new();
        if let Some(will) = &self.will {
            let stored = new_value(&will.message);
            headers::put(&mut fields, WILL_TOPIC, &stored.subject);
            headers::put(&mut fields, WILL_HEADERS, &stored.headers);
            headers::put(&mut fields, WILL_DELAY, &will.delay_s.to_le_bytes());
            if let Some(ms) = will.expiry_ms {
                headers::put(&mut fields, WILL_EXPIRY, &ms.to_le_bytes());
            }
            if let Some(Principal { account, name }) = &will.principal {
                headers::put(&mut fields, WILL_ACCOUNT, account.as_bytes());
                if name != account {
                    headers::put(&mut fields, WILL_NAME, name.as_bytes());
                }
            }
            payload = stored.payload;
        }
        NewMessage {
            headers: fields.into(),
            payload,
            ..NewMessage::default()
        }
    }

    fn decode(record: &OwnedMessage) -> Option<Self> {
        let field = |wanted: &[u8]| {
            let mut fields = headers::iter(&record.headers);
            fields
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value)
        };
        let will = field(WILL_TOPIC).map(|topic| {
            let stored = Stored::read(topic, field(WILL_HEADERS).unwrap_or_default());
            let payload = record.payload.clone();
            let message = stored
                .to_message(payload, record.created, Timestamp::NEVER)
                .ok()?;
            let text = |wanted| field(wanted).and_then(|text| std::str::from_utf8(text).ok());
            let principal = text(WILL_ACCOUNT).map(|account| Principal {
                account: account.into(),
                name: text(WILL_NAME).unwrap_or(account).into(),
            });
            Some(Box::new(Will {
                message: Arc::new(message),
                expiry_ms: field(WILL_EXPIRY).and_then(number),
                delay_s: field(WILL_DELAY).and_then(short).unwrap_or(0),
                principal,
            }))
        });
        Some(SessionRecord {
            number: field(NUMBER).and_then(number)?,
            expiry_s: field(EXPIRY).and_then(short)?,
            ended: field(ENDED).and_then(number).map(Timestamp),
            will: will.flatten(),
        })
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

fn short(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// A subscription as it is written, that the client knows by this text.
pub(super) fn encode_subscription(text: &str, held: &Held) -> NewMessage {
    let mut fields = Vec::new();
    headers::put(&mut fields, TAG, &held.options.tag.to_le_bytes());
    let flags = [
        (NO_LOCAL, held.options.no_local),
        (HAS_STREAM, held.has_stream()),
        (EXCLUSIVE, held.is_exclusive),
    ];
    for (name, _) in flags.iter().filter(|(_, on)| *on) {
        headers::put(&mut fields, *name, &[]);
    }
    let said = named(text);
    if said != Some((held.filter.clone(), held.group.clone())) {
        headers::put(&mut fields, FILTER, held.filter.as_str().as_bytes());
        if let Some(group) = &held.group {
            headers::put(&mut fields, GROUP, group.as_bytes());
        }
    }
    NewMessage {
        headers: fields.into(),
        ..NewMessage::default()
    }
}

fn decode_subscription(text: &str, record: &OwnedMessage) -> Option<Held> {
    let (mut filter, mut group) = named(text)?;
    let mut options = LiveOptions::default();
    let mut is_exclusive = false;
    for (name, value) in headers::iter(&record.headers) {
        match name {
            TAG => options.tag = number(value)?,
            NO_LOCAL => options.no_local = true,
            HAS_STREAM => options.not_assured = true,
            EXCLUSIVE => is_exclusive = true,
            FILTER => {
                filter = Filter::new(std::str::from_utf8(value).ok()?).ok()?;
                group = None;
            }
            // Behind the filter.
            GROUP => group = Some(std::str::from_utf8(value).ok()?.into()),
            _ => {}
        }
    }
    // A share's always do.
    options.not_assured |= group.is_some();
    Some(Held {
        filter,
        group,
        is_exclusive,
        is_counted: options.not_assured,
        options,
    })
}

/// The filter and the share that a text names.
fn named(text: &str) -> Option<(Filter, Option<Arc<str>>)> {
    let parsed = TopicFilter::parse(text).ok()?;
    let filter = Filter::parse_mqtt(parsed.filter).ok()?;
    Some((filter, parsed.group.map(Arc::from)))
}

/// A message in flight as it is written.
pub(super) fn encode_in_flight(flight: &InFlight) -> NewMessage {
    let mut fields = Vec::new();
    headers::put(&mut fields, SEND, &flight.send.to_le_bytes());
    if let Some(origin) = &flight.origin {
        headers::put(&mut fields, ORIGIN, origin.text.as_bytes());
        headers::put(&mut fields, ORIGIN_SEQ, &origin.seq.0.to_le_bytes());
    }
    let mut payload = Bytes::new();
    if let Some(sent) = &flight.sent {
        let stored = new_value(&sent.message);
        headers::put(&mut fields, QOS, &[sent.qos as u8]);
        headers::put(&mut fields, TOPIC, &stored.subject);
        headers::put(&mut fields, HEADERS, &stored.headers);
        if sent.retain {
            headers::put(&mut fields, RETAIN, &[]);
        }
        for id in &sent.ids {
            headers::put(&mut fields, FOR, &id.get().to_le_bytes());
        }
        payload = stored.payload;
    }
    NewMessage {
        headers: fields.into(),
        payload,
        ..NewMessage::default()
    }
}

/// A duty as it is written.
pub(super) fn encode_duty(duty: &Duty) -> NewMessage {
    let mut fields = Vec::new();
    let mut place = [0; 16];
    place[..8].copy_from_slice(&duty.group.0.to_le_bytes());
    place[8..].copy_from_slice(&duty.seq.0.to_le_bytes());
    headers::put(&mut fields, PLACE, &place);
    headers::put(&mut fields, SEND, &duty.send.to_le_bytes());
    NewMessage {
        headers: fields.into(),
        ..NewMessage::default()
    }
}

fn decode_in_flight(id: PacketId, record: &OwnedMessage) -> Option<InFlight> {
    let (mut send, mut qos, mut topic, mut own) = (None, None, None, None);
    let (mut text, mut seq, mut retain, mut ids) = (None, None, false, Vec::new());
    for (name, value) in headers::iter(&record.headers) {
        match name {
            SEND => send = number(value),
            QOS => qos = Some(*value.first()?),
            TOPIC => topic = Some(value),
            HEADERS => own = Some(value),
            RETAIN => retain = true,
            FOR => ids.push(NonZeroU32::new(short(value)?)?),
            ORIGIN => text = Some(Arc::from(std::str::from_utf8(value).ok()?)),
            ORIGIN_SEQ => seq = number(value).map(Seq),
            _ => {}
        }
    }
    let sent = match qos {
        None => None,
        Some(qos) => {
            let stored = Stored::read(topic?, own.unwrap_or_default());
            let expires = stored.expires;
            let message = stored.to_message(record.payload.clone(), record.created, expires);
            Some(Sent {
                message: Arc::new(message.ok()?),
                qos: match qos {
                    1 => Qos::AtLeastOnce,
                    2 => Qos::ExactlyOnce,
                    _ => return None,
                },
                retain,
                ids,
            })
        }
    };
    Some(InFlight {
        id,
        send: send?,
        sent,
        origin: text.zip(seq).map(|(text, seq)| Origin { text, seq }),
    })
}

fn decode_duty(id: PacketId, record: &OwnedMessage) -> Option<Duty> {
    let (mut place, mut send) = (None, 0);
    for (name, value) in headers::iter(&record.headers) {
        match name {
            PLACE => {
                let (group, seq) = value.split_at_checked(8)?;
                place = Some((GroupId(number(group)?), Seq(number(seq)?)));
            }
            SEND => send = number(value)?,
            _ => {}
        }
    }
    let (group, seq) = place?;
    Some(Duty {
        id,
        send,
        group,
        seq,
    })
}

/// A record that was read.
pub(super) enum Record {
    /// Of the session of this client.
    Session(Arc<str>, SessionRecord),
    /// Of the subscription of the session with this number, by its text.
    Subscription(u64, Box<str>, Held),
    /// Of a message in flight to the session with this number.
    InFlight(u64, InFlight),
    /// Of a duty of the session with this number.
    Duty(u64, Duty),
}

/// The number of a session and a packet id.
fn of_packet(rest: &str) -> Option<(u64, PacketId)> {
    let (number, id) = rest.split_once('/')?;
    let number = u64::from_str_radix(number, 16).ok()?;
    Some((number, PacketId::new(u16::from_str_radix(id, 16).ok()?)?))
}

/// Reads a record; `None`: it is none of ours.
pub(super) fn read(key: &str, record: &OwnedMessage) -> Option<Record> {
    if let Some(client_id) = key.strip_prefix(SESSION) {
        let session = SessionRecord::decode(record)?;
        return Some(Record::Session(client_id.into(), session));
    }
    if let Some(rest) = key.strip_prefix(IN_FLIGHT) {
        let (number, id) = of_packet(rest)?;
        return Some(Record::InFlight(number, decode_in_flight(id, record)?));
    }
    if let Some(rest) = key.strip_prefix(DUTY) {
        let (number, id) = of_packet(rest)?;
        return Some(Record::Duty(number, decode_duty(id, record)?));
    }
    let (number, text) = key.strip_prefix(SUBSCRIPTION)?.split_once('/')?;
    let number = u64::from_str_radix(number, 16).ok()?;
    let held = decode_subscription(text, record)?;
    Some(Record::Subscription(number, text.into(), held))
}

#[cfg(test)]
mod tests {
    use longtail_broker::message::{Message, Origin, Quality};
    use longtail_model::{Priority, Subject};

    use super::*;
    use crate::codec::Qos;
    use crate::session::Tag;

    fn written(message: NewMessage) -> OwnedMessage {
        OwnedMessage {
            created: Timestamp(5),
            priority: Priority::default(),
            ack_timeout_ms: 0,
            expires: Timestamp::NEVER,
            subject: message.subject,
            id: message.id,
            key: 0,
            headers: message.headers,
            payload: message.payload,
        }
    }

    #[test]
    fn a_session_comes_back_with_its_will() {
        let mut message = Message {
            origin: Origin(7),
            quality: Quality::ExactlyOnce,
            retain: true,
            reply_to: Some(Subject::new("answers").unwrap()),
            ..Message::new(
                Subject::new("will/topic").unwrap(),
                Bytes::from_static(b"gone"),
            )
        };
        message.headers.push("k", "v");
        let alice = Principal {
            account: "device".into(),
            name: "alice".into(),
        };
        let record = SessionRecord {
            number: 42,
            expiry_s: 3600,
            ended: Some(Timestamp(1_000)),
            will: Some(Box::new(Will {
                message: Arc::new(message),
                expiry_ms: Some(9),
                delay_s: 30,
                principal: Some(alice.clone()),
            })),
        };
        let read = read(&session_key("a/b c"), &written(record.encode()));
        let Some(Record::Session(client_id, back)) = read else {
            panic!("not a session");
        };
        assert_eq!(&*client_id, "a/b c");
        assert_eq!((back.number, back.expiry_s), (42, 3600));
        assert_eq!(back.ended, Some(Timestamp(1_000)));
        let will = back.will.unwrap();
        assert_eq!((will.expiry_ms, will.delay_s), (Some(9), 30));
        assert_eq!(will.principal, Some(alice));
        let message = &will.message;
        assert_eq!(message.subject.as_str(), "will/topic");
        assert_eq!(&message.payload[..], b"gone");
        assert_eq!(message.headers.get(b"k").unwrap(), "v");
        assert_eq!(message.reply_to.as_ref().unwrap().as_str(), "answers");
        assert_eq!(
            (message.quality, message.retain),
            (Quality::ExactlyOnce, true)
        );
    }

    #[test]
    fn a_subscription_comes_back_with_its_options() {
        let tag = Tag {
            qos: Qos::ExactlyOnce,
            retain_as_published: true,
            screened: false,
            upgraded: false,
            id: std::num::NonZeroU32::new(268_435_455),
        };
        let held = Held {
            filter: Filter::parse_mqtt("a/+/#").unwrap(),
            group: Some("g".into()),
            options: LiveOptions {
                tag: tag.pack(),
                no_local: true,
                not_assured: true,
                ..LiveOptions::default()
            },
            is_exclusive: false,
            is_counted: true,
        };
        let key = subscription_key(u64::MAX, "$share/g/a/+/#");
        let Some(Record::Subscription(number, text, back)) =
            read(&key, &written(encode_subscription("$share/g/a/+/#", &held)))
        else {
            panic!("not a subscription");
        };
        assert_eq!((number, &*text), (u64::MAX, "$share/g/a/+/#"));
        assert_eq!(back.filter.as_str(), held.filter.as_str());
        assert_eq!(back.group, held.group);
        assert_eq!(back.options, held.options);
        // A hook has put something else in place of what the client asked for.
        for text in ["b", "$share/h/b", "$share/h/a/+/#", "a/+/#"] {
            let key = subscription_key(1, text);
            let record = written(encode_subscription(text, &held));
            let Some(Record::Subscription(_, back_text, back)) = read(&key, &record) else {
                panic!("not a subscription");
            };
            assert_eq!(&*back_text, text);
            assert_eq!(back.filter.as_str(), held.filter.as_str());
            assert_eq!(back.group, held.group);
        }
    }

    #[test]
    fn a_message_in_flight_comes_back_as_it_was_sent() {
        let message = Message {
            origin: Origin(7),
            quality: Quality::ExactlyOnce,
            retain: true,
            expires: Timestamp(9_000),
            ..Message::new(Subject::new("a/b").unwrap(), Bytes::from_static(b"m"))
        };
        let flight = InFlight {
            id: PacketId::new(65_535).unwrap(),
            send: 12,
            sent: Some(Sent {
                message: Arc::new(message),
                qos: Qos::ExactlyOnce,
                retain: true,
                ids: vec![NonZeroU32::MIN, NonZeroU32::MAX],
            }),
            origin: Some(super::Origin {
                text: "$share/g/a/#".into(),
                seq: Seq(3),
            }),
        };
        let back = |flight: &InFlight| {
            let key = in_flight_key(u64::MAX, flight.id);
            match read(&key, &written(encode_in_flight(flight))) {
                Some(Record::InFlight(u64::MAX, back)) => back,
                _ => panic!("not in flight"),
            }
        };
        let found = back(&flight);
        assert_eq!((found.id, found.send), (flight.id, 12));
        assert_eq!(found.origin, flight.origin);
        let sent = found.sent.unwrap();
        assert_eq!((sent.qos, sent.retain), (Qos::ExactlyOnce, true));
        assert_eq!(sent.ids, [NonZeroU32::MIN, NonZeroU32::MAX]);
        assert_eq!(sent.message.subject.as_str(), "a/b");
        assert_eq!(&sent.message.payload[..], b"m");
        assert_eq!(sent.message.expires, Timestamp(9_000));
        assert_eq!(sent.message.origin, Origin(7));
        let released = InFlight {
            sent: None,
            origin: None,
            ..flight
        };
        let found = back(&released);
        assert!(found.sent.is_none() && found.origin.is_none());
        assert_eq!((found.id, found.send), (released.id, 12));
    }

    #[test]
    fn a_duty_comes_back_with_the_place_of_its_message() {
        let duty = Duty {
            id: PacketId::MAX,
            send: 9,
            group: GroupId(u64::MAX - 1),
            seq: Seq(7),
        };
        let key = duty_key(u64::MAX, duty.id);
        let read = read(&key, &written(encode_duty(&duty)));
        assert!(matches!(read, Some(Record::Duty(u64::MAX, back)) if back == duty));
    }

    #[test]
    fn what_is_no_record_is_none() {
        let nothing = written(NewMessage::default());
        let keys = [
            "",
            "c/x",
            "s/1",
            "s/zz/a",
            "s/1/a/#/b",
            "x/y",
            "p/1",
            "p/1/0001",
            "p/1/0000",
            "p/1/zz",
            "f/1",
            "f/1/0001",
            "f/1/0000",
            "f/1/zz",
        ];
        for key in keys {
            assert!(read(key, &nothing).is_none(), "{key}");
        }
    }
}
