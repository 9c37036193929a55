//! Packets of a client, encoded ahead, so that sending a burst costs one write and no encoding.

use super::Version;
use super::parse::kind;

/// Bytes of the sending time at the start of a body: nanoseconds, big-endian.
pub(super) const STAMP_BYTES: usize = 8;
/// Seconds without a packet after which a server may close: longer than any run. 0, never, is refused by some.
const KEEP_ALIVE_S: u16 = 36_000;
/// Seconds that a persistent session of 5.0 outlives its connection; those of 3.1.1 have no end.
const SESSION_EXPIRY_S: u32 = 3600;
/// The property of that name.
const SESSION_EXPIRY: u8 = 0x11;

pub(super) const DISCONNECT: &[u8] = &[kind::DISCONNECT << 4, 0];
const PINGREQ: &[u8] = &[kind::PINGREQ << 4, 0];

/// A CONNECT, whose session ends with its connection or not.
pub(super) fn connect(version: Version, client: &str, persistent: bool) -> Vec<u8> {
    const CLEAN: u8 = 2;
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    body.push(match version {
        Version::V3 => 4,
        Version::V5 => 5,
    });
    body.push(if persistent { 0 } else { CLEAN });
    body.extend_from_slice(&KEEP_ALIVE_S.to_be_bytes());
    match (version, persistent) {
        (Version::V3, _) => {}
        (Version::V5, false) => body.push(0),
        (Version::V5, true) => {
            body.extend_from_slice(&[5, SESSION_EXPIRY]);
            body.extend_from_slice(&SESSION_EXPIRY_S.to_be_bytes());
        }
    }
    text(&mut body, client);
    packet(kind::CONNECT << 4, &body)
}

/// A SUBSCRIBE.
pub(super) fn subscribe(version: Version, filters: &[String], qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        text(&mut body, filter);
        body.push(qos);
    }
    packet(kind::SUBSCRIBE << 4 | 2, &body)
}

/// The publishes of one burst.
#[derive(Debug, Default)]
pub(super) struct Publishes {
    bytes: Vec<u8>,
    each: usize,
    body_at: usize,
    body_bytes: usize,
    count: u32,
    /// Where the packet id is in each, if it has one.
    id_at: Option<usize>,
    /// The last id that [`next`](Self::next) has used.
    last_id: u16,
}

impl Publishes {
    /// `count` of them with packet ids from 1, and a PINGREQ behind them if it is `fenced`.
    pub(super) fn new(
        version: Version,
        topic: &str,
        qos: u8,
        body_bytes: usize,
        count: u32,
        fenced: bool,
    ) -> Self {
        let mut body = Vec::new();
        text(&mut body, topic);
        let id_at = body.len();
        if qos > 0 {
            body.extend_from_slice(&[0, 0]);
        }
        if version == Version::V5 {
            body.push(0);
        }
        body.resize(body.len() + body_bytes, b'x');
        let publish = packet(kind::PUBLISH << 4 | qos << 1, &body);
        let each = publish.len();
        let id_at = each - body.len() + id_at;
        let mut bytes = publish.repeat(count as usize);
        if qos > 0 {
            for (frame, id) in bytes.chunks_exact_mut(each).zip(1..=u16::MAX) {
                if let Some(place) = frame.get_mut(id_at..id_at + 2) {
                    place.copy_from_slice(&id.to_be_bytes());
                }
            }
        }
        if fenced {
            bytes.extend_from_slice(PINGREQ);
        }
        Publishes {
            bytes,
            each,
            body_at: each - body_bytes,
            body_bytes,
            count,
            id_at: (qos > 0).then_some(id_at),
            last_id: 0,
        }
    }

    /// The only one, under an id of its own.
    pub(super) fn next(&mut self) -> &[u8] {
        if let Some(at) = self.id_at {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if let Some(place) = self.bytes.get_mut(at..at + 2) {
                place.copy_from_slice(&self.last_id.to_be_bytes());
            }
        }
        &self.bytes
    }

    /// Everything to be sent.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Writes the time into the bodies; those too short for it stay as they are.
    pub(super) fn stamp(&mut self, ns: u64) {
        if self.body_bytes < STAMP_BYTES {
            return;
        }
        let place = self.body_at..self.body_at + STAMP_BYTES;
        for frame in self.bytes.chunks_exact_mut(self.each) {
            if let Some(place) = frame.get_mut(place.clone()) {
                place.copy_from_slice(&ns.to_be_bytes());
            }
        }
    }
}

/// A string with its length before it. Names here are short: those of the generator.
fn text(into: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    into.extend_from_slice(&length.to_be_bytes());
    into.extend(text.bytes().take(usize::from(length)));
}

/// The fixed header and what follows it.
pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut all = vec![first];
    let mut left = body.len();
    loop {
        let digit = (left % 128) as u8;
        left /= 128;
        all.push(if left > 0 { digit | 0x80 } else { digit });
        if left == 0 {
            break;
        }
    }
    all.extend_from_slice(body);
    all
}
