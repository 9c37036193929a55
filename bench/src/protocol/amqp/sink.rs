//! The answering half: says yes to everything, confirms, and passes publishes on as deliveries.

use super::frames::{frame, method};
use super::parse::{self, FRAME_HEADER, Id, id, kind, short};
use super::{CHANNEL, FRAME_BYTES_MAX};
use crate::null::Relay;
use crate::protocol::Sink;

/// Arguments of a `basic.deliver` without routing, its tag the first: nobody here looks at either.
const DELIVER: &[u8] = b"\x05bench\0\0\0\0\0\0\0\x01\0\0\0";

/// One connection of the null sink.
#[derive(Clone, Debug, Default)]
pub(crate) struct AmqpSink {
    greeted: bool,
    confirms: bool,
    published: u64,
    /// Names that messages for this connection's queues are sent to.
    bound: Vec<(Vec<u8>, Vec<u8>)>,
    /// Name of the message at hand, and the message; kept for their memory.
    name: Vec<u8>,
    message: Vec<u8>,
}

impl Sink for AmqpSink {
    fn answer(&mut self, input: &[u8], out: &mut Vec<u8>, relay: &mut Relay) -> usize {
        let (mut used, confirmed) = (0, self.published);
        while let Some(bytes) = self.command(input.get(used..).unwrap_or_default(), out, relay) {
            used += bytes;
        }
        if self.confirms && self.published > confirmed {
            let mut arguments = self.published.to_be_bytes().to_vec();
            arguments.push(1);
            out.extend_from_slice(&method(id::ACK, CHANNEL, &arguments));
        }
        used
    }
}

/// The payload of the frame at the front, and the bytes of the frame.
fn payload(input: &[u8]) -> Option<(parse::Frame, &[u8], usize)> {
    let frame = parse::frame(input).ok()??;
    let end = FRAME_HEADER + frame.size;
    input.get(end)?;
    Some((frame, input.get(FRAME_HEADER..end)?, end + 1))
}

impl AmqpSink {
    /// The command at the front: a frame, or a publish with all its frames. The bytes used.
    fn command(&mut self, input: &[u8], out: &mut Vec<u8>, relay: &mut Relay) -> Option<usize> {
        if !self.greeted {
            input.first_chunk::<8>()?;
            self.greeted = true;
            let start = b"\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US";
            out.extend_from_slice(&method(id::START, 0, start));
            return Some(8);
        }
        let (frame, request, bytes) = payload(input)?;
        match parse::method(request) {
            Some(id::PUBLISH) if frame.kind == kind::METHOD => {
                let content = self.publish(request, input.get(bytes..)?, relay)?;
                Some(bytes + content)
            }
            Some(called) if frame.kind == kind::METHOD => {
                self.call(called, frame.channel, request, out, relay);
                Some(bytes)
            }
            _ => Some(bytes),
        }
    }

    fn call(
        &mut self,
        called: Id,
        channel: u16,
        request: &[u8],
        out: &mut Vec<u8>,
        relay: &mut Relay,
    ) {
        let queue = short(request, 6).map(|(name, _)| name).unwrap_or_default();
        let mut answer = |id: Id, arguments: &[u8]| {
            out.extend_from_slice(&method(id, channel, arguments));
        };
        match called {
            id::START_OK => {
                let [a, b, c, d] = FRAME_BYTES_MAX.to_be_bytes();
                answer(id::TUNE, &[7, 255, a, b, c, d, 0, 0]);
            }
            id::OPEN => answer(id::OPEN_OK, &[0]),
            id::CONNECTION_CLOSE => answer(id::CONNECTION_CLOSE_OK, &[]),
            id::CHANNEL_OPEN => answer(id::CHANNEL_OPEN_OK, &[0, 0, 0, 0]),
            id::FLOW => answer(id::FLOW_OK, &[1]),
            id::EXCHANGE_DECLARE => answer(id::EXCHANGE_DECLARE_OK, &[]),
            id::QUEUE_DECLARE => answer(id::QUEUE_DECLARE_OK, &[0; 9]),
            id::QUEUE_BIND => {
                let exchange = short(request, 7 + queue.len());
                if let Some((exchange, at)) = exchange
                    && let Some((key, _)) = short(request, at)
                {
                    let mut name = Vec::new();
                    address(&mut name, exchange, key);
                    self.bound.push((queue.to_vec(), name));
                }
                answer(id::QUEUE_BIND_OK, &[]);
            }
            id::QUEUE_DELETE => answer(id::QUEUE_DELETE_OK, &[0; 4]),
            id::QOS => answer(id::QOS_OK, &[]),
            id::CONSUME => {
                relay.join(queue, Some(queue));
                for (_, name) in self.bound.iter().filter(|(bound, _)| bound == queue) {
                    relay.join(name, Some(queue));
                }
                answer(id::CONSUME_OK, b"\x05bench");
            }
            id::CONFIRM_SELECT => {
                self.confirms = true;
                answer(id::CONFIRM_SELECT_OK, &[]);
            }
            _ => {}
        }
    }

    /// Passes a message on; the bytes of its frames behind the method, None while they are not all there.
    fn publish(&mut self, request: &[u8], content: &[u8], relay: &mut Relay) -> Option<usize> {
        let (_, header, mut used) = payload(content)?;
        let mut left = parse::body_size(header)?;
        while left > 0 {
            let (_, body, bytes) = payload(content.get(used..)?)?;
            left = left.saturating_sub(body.len() as u64);
            used += bytes;
        }
        self.published += 1;
        let (exchange, at) = short(request, 6)?;
        let (key, _) = short(request, at)?;
        address(&mut self.name, exchange, key);
        self.message.clear();
        let (class, deliver) = id::DELIVER;
        let mut payload = Vec::with_capacity(DELIVER.len() + 4);
        payload.extend_from_slice(&class.to_be_bytes());
        payload.extend_from_slice(&deliver.to_be_bytes());
        payload.extend_from_slice(DELIVER);
        frame(&mut self.message, kind::METHOD, CHANNEL, &payload);
        self.message.extend_from_slice(content.get(..used)?);
        relay.send(&self.name, &self.message);
        Some(used)
    }
}

/// What a message is sent to: its queue, or its exchange and all words of its key but the last.
fn address(into: &mut Vec<u8>, exchange: &[u8], key: &[u8]) {
    into.clear();
    if exchange.is_empty() {
        into.extend_from_slice(key);
        return;
    }
    into.extend_from_slice(exchange);
    into.push(0);
    let words = memchr::memrchr(b'.', key).unwrap_or(0);
    into.extend_from_slice(key.get(..words).unwrap_or_default());
}
