//! Frames of a client, encoded ahead, so that sending a burst costs one write and no encoding.

use super::parse::{FRAME_END, FRAME_HEADER, Id, id, kind};
use super::{CHANNEL, PREFETCH, QueueType};

/// What a connection begins with (4.2.2).
pub(super) const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// Bytes of the sending time at the start of a body: nanoseconds, big-endian.
pub(super) const STAMP_BYTES: usize = 8;
/// Name of the consumer.
const TAG: &str = "bench";
/// Flag of the property delivery-mode in a content header (4.2.6.1).
const DELIVERY_MODE: u16 = 1 << 12;

/// Appends one frame.
pub(super) fn frame(into: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    into.push(kind);
    into.extend_from_slice(&channel.to_be_bytes());
    into.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    into.extend_from_slice(payload);
    into.push(FRAME_END);
}

/// A method frame.
pub(super) fn method((class, method): Id, channel: u16, arguments: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(4 + arguments.len());
    payload.extend_from_slice(&class.to_be_bytes());
    payload.extend_from_slice(&method.to_be_bytes());
    payload.extend_from_slice(arguments);
    let mut bytes = Vec::with_capacity(payload.len() + FRAME_HEADER + 1);
    frame(&mut bytes, kind::METHOD, channel, &payload);
    bytes
}

/// A short string. Names here are short: those of the generator.
fn short(into: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    into.push(length);
    into.extend(text.bytes().take(usize::from(length)));
}

fn long(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    into.extend_from_slice(bytes);
}

/// `connection.start-ok` as guest, by PLAIN.
pub(super) fn start_ok() -> Vec<u8> {
    let mut arguments = Vec::new();
    long(&mut arguments, &[]);
    short(&mut arguments, "PLAIN");
    long(&mut arguments, b"\0guest\0guest");
    short(&mut arguments, "en_US");
    method(id::START_OK, 0, &arguments)
}

/// `connection.tune-ok` without heartbeats.
pub(super) fn tune_ok(channels: u16, frame_bytes: u32) -> Vec<u8> {
    let mut arguments = channels.to_be_bytes().to_vec();
    arguments.extend_from_slice(&frame_bytes.to_be_bytes());
    arguments.extend_from_slice(&[0, 0]);
    method(id::TUNE_OK, 0, &arguments)
}

/// `connection.open` of the vhost `/`.
pub(super) fn open() -> Vec<u8> {
    let mut arguments = Vec::new();
    short(&mut arguments, "/");
    short(&mut arguments, "");
    arguments.push(0);
    method(id::OPEN, 0, &arguments)
}

/// `connection.close`.
pub(super) fn connection_close() -> Vec<u8> {
    method(id::CONNECTION_CLOSE, 0, b"\0\xc8\0\0\0\0\0")
}

/// `channel.open`.
pub(super) fn channel_open(channel: u16) -> Vec<u8> {
    method(id::CHANNEL_OPEN, channel, &[0])
}

/// `channel.flow` that changes nothing.
pub(super) fn flow() -> Vec<u8> {
    method(id::FLOW, CHANNEL, &[1])
}

/// `confirm.select`.
pub(super) fn confirm_select() -> Vec<u8> {
    method(id::CONFIRM_SELECT, CHANNEL, &[0])
}

/// `exchange.declare`, transient and auto-deleting.
pub(super) fn exchange_declare(name: &str, kind: &str) -> Vec<u8> {
    const AUTO_DELETE: u8 = 1 << 2;
    let mut arguments = vec![0, 0];
    short(&mut arguments, name);
    short(&mut arguments, kind);
    arguments.push(AUTO_DELETE);
    long(&mut arguments, &[]);
    method(id::EXCHANGE_DECLARE, CHANNEL, &arguments)
}

/// How long a queue lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
}

/// `queue.declare`.
pub(super) fn queue_declare(name: &str, life: Life, queues: QueueType) -> Vec<u8> {
    let mut arguments = vec![0, 0];
    short(&mut arguments, name);
    arguments.push(u8::from(life.durable) << 1 | u8::from(life.auto_delete) << 3);
    let mut table = Vec::new();
    if let Some(kind) = queues.argument() {
        short(&mut table, "x-queue-type");
        table.push(b'S');
        long(&mut table, kind.as_bytes());
    }
    long(&mut arguments, &table);
    method(id::QUEUE_DECLARE, CHANNEL, &arguments)
}

/// `queue.bind`.
pub(super) fn queue_bind(queue: &str, exchange: &str, key: &str) -> Vec<u8> {
    let mut arguments = vec![0, 0];
    short(&mut arguments, queue);
    short(&mut arguments, exchange);
    short(&mut arguments, key);
    arguments.push(0);
    long(&mut arguments, &[]);
    method(id::QUEUE_BIND, CHANNEL, &arguments)
}

/// `queue.delete`, whoever uses it.
pub(super) fn queue_delete(name: &str) -> Vec<u8> {
    let mut arguments = vec![0, 0];
    short(&mut arguments, name);
    arguments.push(0);
    method(id::QUEUE_DELETE, CHANNEL, &arguments)
}

/// `basic.qos`.
pub(super) fn qos() -> Vec<u8> {
    let [high, low] = PREFETCH.to_be_bytes();
    method(id::QOS, CHANNEL, &[0, 0, 0, 0, high, low, 0])
}

/// `basic.consume`.
pub(super) fn consume(queue: &str, acknowledged: bool) -> Vec<u8> {
    const NO_ACK: u8 = 1 << 1;
    let mut arguments = vec![0, 0];
    short(&mut arguments, queue);
    short(&mut arguments, TAG);
    arguments.push(if acknowledged { 0 } else { NO_ACK });
    long(&mut arguments, &[]);
    method(id::CONSUME, CHANNEL, &arguments)
}

/// `basic.ack` of all up to `tag`.
pub(super) fn ack(into: &mut Vec<u8>, tag: u64) {
    into.extend_from_slice(&[kind::METHOD, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80]);
    into.extend_from_slice(&tag.to_be_bytes());
    into.extend_from_slice(&[1, FRAME_END]);
}

/// Where publishes go and how.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) exchange: String,
    /// Taken in turn; all of the same length.
    pub(super) keys: Vec<String>,
    pub(super) persistent: bool,
    pub(super) body_bytes: usize,
    pub(super) frame_bytes: u32,
    /// Whether a `channel.flow` follows a burst.
    pub(super) fenced: bool,
}

/// The publishes of one burst.
#[derive(Debug, Default)]
pub(super) struct Publishes {
    bytes: Vec<u8>,
    /// Bytes of one of them with all its frames.
    each: usize,
    /// Where the body's first byte is in it.
    body_at: usize,
    body_bytes: usize,
    count: u32,
}

impl Publishes {
    /// `count` of them.
    pub(super) fn new(route: &Route, count: u32) -> Publishes {
        let mut bytes = Vec::new();
        let (mut each, mut body_at) = (0, 0);
        let body = vec![b'x'; route.body_bytes];
        let mut keys = route.keys.iter().cycle();
        for _ in 0..count {
            let key = keys.next().map(String::as_str).unwrap_or_default();
            let mut arguments = vec![0, 0];
            short(&mut arguments, &route.exchange);
            short(&mut arguments, key);
            arguments.push(0);
            bytes.extend_from_slice(&method(id::PUBLISH, CHANNEL, &arguments));
            let mut header = vec![0, 60, 0, 0];
            header.extend_from_slice(&(route.body_bytes as u64).to_be_bytes());
            header.extend_from_slice(&DELIVERY_MODE.to_be_bytes());
            header.push(if route.persistent { 2 } else { 1 });
            frame(&mut bytes, kind::HEADER, CHANNEL, &header);
            if body_at == 0 {
                body_at = bytes.len() + FRAME_HEADER;
            }
            let overhead = FRAME_HEADER + 1;
            let piece = (route.frame_bytes as usize).saturating_sub(overhead).max(1);
            for piece in body.chunks(piece) {
                frame(&mut bytes, kind::BODY, CHANNEL, piece);
            }
            if each == 0 {
                each = bytes.len();
            }
        }
        if route.fenced {
            bytes.extend_from_slice(&flow());
        }
        Publishes {
            bytes,
            each,
            body_at,
            body_bytes: route.body_bytes,
            count,
        }
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
        for publish in self
            .bytes
            .chunks_exact_mut(self.each)
            .take(self.count as usize)
        {
            if let Some(place) = publish.get_mut(self.body_at..self.body_at + STAMP_BYTES) {
                place.copy_from_slice(&ns.to_be_bytes());
            }
        }
    }
}
