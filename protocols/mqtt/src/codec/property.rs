//! The table of properties (MQTT 5.0 section 2.2.2.2): type, packets, range; and the reader that obeys it.

use std::num::NonZeroU32;

use super::fault::Fault;
use super::primitive::{Reader, Sink};
use super::properties::{Ids, SubscriptionIds};
use super::user::UserProperties;
use super::version::Sender;

/// Property identifiers.
#[allow(missing_docs, reason = "each is the property of that name")]
pub(super) mod id {
    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
    pub(crate) const REASON_STRING: u8 = 0x1F;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(crate) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// Where properties stand. One bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u16);

impl Place {
    pub(super) const CONNECT: Place = Place(1);
    pub(super) const WILL: Place = Place(1 << 1);
    pub(super) const CONNACK: Place = Place(1 << 2);
    /// PUBLISH by a client.
    const PUBLISH_CLIENT: Place = Place(1 << 3);
    /// PUBLISH by a server.
    const PUBLISH_SERVER: Place = Place(1 << 4);
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
    pub(super) const ACK: Place = Place(1 << 5);
    pub(super) const SUBSCRIBE: Place = Place(1 << 6);
    pub(super) const UNSUBSCRIBE: Place = Place(1 << 7);
    /// DISCONNECT by a client.
    const DISCONNECT_CLIENT: Place = Place(1 << 8);
    /// DISCONNECT by a server.
    const DISCONNECT_SERVER: Place = Place(1 << 9);
    pub(super) const AUTH: Place = Place(1 << 10);

    const EVERY: Place = Place((1 << 11) - 1);
    const PUBLISH: Place = Place::PUBLISH_CLIENT.or(Place::PUBLISH_SERVER);
    const DISCONNECT: Place = Place::DISCONNECT_CLIENT.or(Place::DISCONNECT_SERVER);

    const fn or(self, other: Place) -> Place {
        Place(self.0 | other.0)
    }

    const fn is_in(self, set: Place) -> bool {
        self.0 & set.0 != 0
    }

    pub(super) const fn publish(sender: Sender) -> Place {
        match sender {
            Sender::Client => Place::PUBLISH_CLIENT,
            Sender::Server => Place::PUBLISH_SERVER,
        }
    }

    pub(super) const fn disconnect(sender: Sender) -> Place {
        match sender {
            Sender::Client => Place::DISCONNECT_CLIENT,
            Sender::Server => Place::DISCONNECT_SERVER,
        }
    }
}

/// Type and range of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A byte, 0 or 1.
    Flag,
    U16,
    U32,
    VarInt,
    Text,
    /// Text that must be a topic name.
    Topic,
    Binary,
    Pair,
}

/// One property.
struct Entry {
    id: u8,
    kind: Kind,
    places: Place,
    /// What it is if the value is 0; `None`: 0 is a value like any other.
    zero: Option<Fault>,
}

const fn entry(id: u8, kind: Kind, places: Place) -> Entry {
    Entry {
        id,
        kind,
        places,
        zero: None,
    }
}

const fn non_zero(id: u8, kind: Kind, places: Place, zero: Fault) -> Entry {
    Entry {
        id,
        kind,
        places,
        zero: Some(zero),
    }
}

const MESSAGE: Place = Place::PUBLISH.or(Place::WILL);
const OPENING: Place = Place::CONNECT.or(Place::CONNACK);
const REASONED: Place = Place::CONNACK
    .or(Place::ACK)
    .or(Place::DISCONNECT)
    .or(Place::AUTH);

const TABLE: [Entry; 27] = [
    entry(id::PAYLOAD_FORMAT, Kind::Flag, MESSAGE),
    entry(id::MESSAGE_EXPIRY, Kind::U32, MESSAGE),
    entry(id::CONTENT_TYPE, Kind::Text, MESSAGE),
    entry(id::RESPONSE_TOPIC, Kind::Topic, MESSAGE),
    entry(id::CORRELATION_DATA, Kind::Binary, MESSAGE),
    non_zero(
        id::SUBSCRIPTION_ID,
        Kind::VarInt,
        Place::PUBLISH_SERVER.or(Place::SUBSCRIBE),
        Fault::SubscriptionId,
    ),
    entry(
        id::SESSION_EXPIRY,
        Kind::U32,
        OPENING.or(Place::DISCONNECT_CLIENT),
    ),
    entry(id::ASSIGNED_CLIENT_ID, Kind::Text, Place::CONNACK),
    entry(id::SERVER_KEEP_ALIVE, Kind::U16, Place::CONNACK),
    entry(
        id::AUTHENTICATION_METHOD,
        Kind::Text,
        OPENING.or(Place::AUTH),
    ),
    entry(
        id::AUTHENTICATION_DATA,
        Kind::Binary,
        OPENING.or(Place::AUTH),
    ),
    entry(id::REQUEST_PROBLEM_INFORMATION, Kind::Flag, Place::CONNECT),
    entry(id::WILL_DELAY, Kind::U32, Place::WILL),
    entry(id::REQUEST_RESPONSE_INFORMATION, Kind::Flag, Place::CONNECT),
    entry(id::RESPONSE_INFORMATION, Kind::Text, Place::CONNACK),
    entry(
        id::SERVER_REFERENCE,
        Kind::Text,
        Place::CONNACK.or(Place::DISCONNECT_SERVER),
    ),
    entry(id::REASON_STRING, Kind::Text, REASONED),
    non_zero(
        id::RECEIVE_MAXIMUM,
        Kind::U16,
        OPENING,
        Fault::PropertyValue,
    ),
    entry(id::TOPIC_ALIAS_MAXIMUM, Kind::U16, OPENING),
    non_zero(
        id::TOPIC_ALIAS,
        Kind::U16,
        Place::PUBLISH,
        Fault::TopicAliasZero,
    ),
    entry(id::MAXIMUM_QOS, Kind::Flag, Place::CONNACK),
    entry(id::RETAIN_AVAILABLE, Kind::Flag, Place::CONNACK),
    entry(id::USER, Kind::Pair, Place::EVERY),
    non_zero(
        id::MAXIMUM_PACKET_SIZE,
        Kind::U32,
        OPENING,
        Fault::PropertyValue,
    ),
    entry(
        id::WILDCARD_SUBSCRIPTION_AVAILABLE,
        Kind::Flag,
        Place::CONNACK,
    ),
    entry(id::SUBSCRIPTION_IDS_AVAILABLE, Kind::Flag, Place::CONNACK),
    entry(
        id::SHARED_SUBSCRIPTION_AVAILABLE,
        Kind::Flag,
        Place::CONNACK,
    ),
];

/// A value, by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// Properties of one packet, while they are read.
pub(super) trait Properties<'a> {
    /// Takes a property of the table that is neither a user property nor in a place where it does not belong.
    fn set(&mut self, id: u8, value: Value<'a>);

    /// Takes all user properties.
    fn set_user(&mut self, user: UserProperties<'a>);

    /// Takes all subscription identifiers.
    fn set_subscription_ids(&mut self, _ids: SubscriptionIds<'a>) {}

    /// Takes all properties as they stand in the packet.
    fn set_encoded(&mut self, _encoded: &'a [u8]) {}

    /// Writes the properties, in the fixed order of this encoder.
    fn write(&self, out: &mut impl Sink);
}

/// Reads the properties that stand in `place`, their length first.
///
/// Malformed bytes are reported before what is well-formed and not allowed, wherever they stand.
pub(super) fn read<'a, P: Properties<'a>>(
    reader: &mut Reader<'a>,
    place: Place,
    into: &mut P,
) -> Result<(), Fault> {
    let length = reader.varint().map_err(|_| Fault::PropertiesLength)?;
    let all = reader
        .take(length as usize)
        .map_err(|_| Fault::PropertiesLength)?;
    let mut fault = None;
    let mut seen = 0_u64;
    let mut users = Span::default();
    let mut ids = Span::default();
    let mut rest = Reader::new(all);
    while !rest.is_empty() {
        let from = all.len() - rest.rest().len();
        let (entry, value) = read_one(&mut rest)?;
        let to = all.len() - rest.rest().len();
        if let Err(found) = check(entry, value, place) {
            fault.get_or_insert(found);
            continue;
        }
        match entry.id {
            id::USER => users.extend(from, to),
            // A server says all that matched in one PUBLISH.
            id::SUBSCRIPTION_ID if place == Place::PUBLISH_SERVER => ids.extend(from, to),
            other => {
                let bit = 1 << other;
                if seen & bit != 0 {
                    fault.get_or_insert(if other == id::SUBSCRIPTION_ID {
                        Fault::SubscriptionId
                    } else {
                        Fault::PropertyRepeated
                    });
                }
                seen |= bit;
                into.set(other, value);
            }
        }
    }
    if let Some(fault) = fault {
        return Err(fault);
    }
    into.set_encoded(all);
    if let Some(encoded) = users.of(all) {
        into.set_user(UserProperties::from_checked(encoded, users.mixed));
    }
    if let Some(encoded) = ids.of(all) {
        into.set_subscription_ids(SubscriptionIds(Ids::Encoded(encoded)));
    }
    Ok(())
}

/// The bytes from the first property of a kind to the last.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    from: usize,
    to: usize,
    /// There are properties of other kinds between them.
    mixed: bool,
}

impl Span {
    fn extend(&mut self, from: usize, to: usize) {
        if self.to == 0 {
            self.from = from;
        } else {
            self.mixed |= self.to != from;
        }
        self.to = to;
    }

    fn of(self, all: &[u8]) -> Option<&[u8]> {
        all.get(self.from..self.to).filter(|span| !span.is_empty())
    }
}

fn check(entry: &Entry, value: Value<'_>, place: Place) -> Result<(), Fault> {
    if !place.is_in(entry.places) {
        return Err(Fault::PropertyNotAllowed);
    }
    match (entry.kind, value) {
        (Kind::Flag, Value::Number(2..)) => Err(Fault::PropertyValue),
        (Kind::Topic, Value::Text(topic)) if super::topic::check_name(topic).is_err() => {
            Err(Fault::PropertyValue)
        }
        (_, Value::Number(0)) => entry.zero.map_or(Ok(()), Err),
        _ => Ok(()),
    }
}

fn read_one<'a>(reader: &mut Reader<'a>) -> Result<(&'static Entry, Value<'a>), Fault> {
    let entry = find(reader.varint().map_err(truncated)?)?;
    let value = match entry.kind {
        Kind::Flag => reader.u8().map(|byte| Value::Number(byte.into())),
        Kind::U16 => reader.u16().map(|number| Value::Number(number.into())),
        Kind::U32 => reader.u32().map(Value::Number),
        Kind::VarInt => reader.varint().map(Value::Number),
        Kind::Text | Kind::Topic => reader.string().map(Value::Text),
        Kind::Binary => reader.binary().map(Value::Binary),
        Kind::Pair => reader
            .string()
            .and_then(|key| Ok(Value::Pair(key, reader.string()?))),
    };
    Ok((entry, value.map_err(truncated)?))
}

fn find(id: u32) -> Result<&'static Entry, Fault> {
    TABLE
        .iter()
        .find(|entry| u32::from(entry.id) == id)
        .ok_or(Fault::PropertyUnknown)
}

fn truncated(fault: Fault) -> Fault {
    match fault {
        Fault::Truncated => Fault::PropertyTruncated,
        other => other,
    }
}

/// Properties that were read before, one after the other.
fn again(encoded: &[u8]) -> impl Iterator<Item = (u8, Value<'_>)> + Clone {
    let mut reader = Reader::new(encoded);
    std::iter::from_fn(move || {
        let (entry, value) = read_one(&mut reader).ok()?;
        Some((entry.id, value))
    })
}

/// Properties that were read before, as they stand: number and all bytes.
pub(super) fn spans(encoded: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut reader = Reader::new(encoded);
    std::iter::from_fn(move || {
        let before = reader.rest();
        let entry = skip_one(&mut reader).ok()?;
        let span = before.get(..before.len() - reader.rest().len())?;
        Some((entry.id, span))
    })
}

/// As [`read_one`], without a look at the value.
fn skip_one(reader: &mut Reader<'_>) -> Result<&'static Entry, Fault> {
    let entry = find(reader.varint()?)?;
    match entry.kind {
        Kind::Flag => reader.u8().map(drop),
        Kind::U16 => reader.u16().map(drop),
        Kind::U32 => reader.u32().map(drop),
        Kind::VarInt => reader.varint().map(drop),
        Kind::Text | Kind::Topic | Kind::Binary => reader.binary().map(drop),
        Kind::Pair => reader.binary().and_then(|_| reader.binary()).map(drop),
    }?;
    Ok(entry)
}

/// The user properties among properties that were read before.
pub(super) fn users(encoded: &[u8]) -> impl Iterator<Item = (&str, &str)> + Clone {
    again(encoded).filter_map(|(_, value)| match value {
        Value::Pair(key, value) => Some((key, value)),
        _ => None,
    })
}

/// The subscription identifiers among properties that were read before.
pub(super) fn subscription_ids(encoded: &[u8]) -> impl Iterator<Item = NonZeroU32> + Clone {
    again(encoded).filter_map(|(id, value)| match value {
        Value::Number(number) if id == id::SUBSCRIPTION_ID => NonZeroU32::new(number),
        _ => None,
    })
}

/// Appends a user property.
pub(super) fn write_user(key: &str, value: &str, out: &mut impl Sink) {
    out.u8(id::USER);
    out.string(key);
    out.string(value);
}
