//! Frames of AMQP 0-9-1, and what they say as text that can be compared.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Class and method.
pub(crate) type Id = (u16, u16);

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;
/// Largest body frame that is sent.
const PIECE: usize = 4000;

/// A method with its content, if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) channel: u16,
    pub(crate) id: Id,
    pub(crate) arguments: Vec<u8>,
    /// Property flags and properties, and the body.
    pub(crate) content: Option<(Vec<u8>, Vec<u8>)>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// A method whose content is arriving, and the bytes of it that are missing.
    partial: Option<(Event, u64)>,
    /// How long an answer that has to come may take.
    patience: Duration,
}

impl Wire {
    /// Connects as guest, up to the open connection.
    ///
    /// # Errors
    /// When the server does not accept, or answers what it should not.
    pub(crate) fn connect(address: SocketAddr, patience: Duration) -> Result<Wire> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let mut wire = Wire {
            stream,
            buffer: Vec::new(),
            partial: None,
            patience,
        };
        wire.stream.write_all(b"AMQP\0\0\x09\x01")?;
        wire.expect((10, 10))?;
        // With the capabilities that change what a server sends.
        let mut capabilities = Vec::new();
        for name in ["consumer_cancel_notify", "publisher_confirms", "basic.nack"] {
            short(&mut capabilities, name);
            capabilities.extend_from_slice(b"t\x01");
        }
        let mut table = Vec::new();
        short(&mut table, "capabilities");
        table.push(b'F');
        long(&mut table, &capabilities);
        let mut start_ok = Vec::new();
        long(&mut start_ok, &table);
        start_ok.extend_from_slice(b"\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
        wire.send(0, (10, 11), &start_ok)?;
        wire.expect((10, 30))?;
        wire.send(0, (10, 31), b"\x07\xff\0\x02\0\0\0\0")?;
        wire.send(0, (10, 40), b"\x01/\0\0")?;
        wire.expect((10, 41))?;
        Ok(wire)
    }

    pub(crate) fn send(&mut self, channel: u16, id: Id, arguments: &[u8]) -> Result<()> {
        let mut bytes = Vec::new();
        frame(&mut bytes, METHOD, channel, &method(id, arguments));
        Ok(self.stream.write_all(&bytes)?)
    }

    /// `basic.publish` with its content, so many times: flags and properties as they are.
    pub(crate) fn publish(
        &mut self,
        channel: u16,
        arguments: &[u8],
        properties: &[u8],
        body: &[u8],
        times: u32,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        frame(&mut bytes, METHOD, channel, &method((60, 40), arguments));
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(body.len() as u64).to_be_bytes());
        header.extend_from_slice(properties);
        frame(&mut bytes, HEADER, channel, &header);
        for piece in body.chunks(PIECE) {
            frame(&mut bytes, BODY, channel, piece);
        }
        Ok(self.stream.write_all(&bytes.repeat(times as usize))?)
    }

    /// The next method, which has to come.
    pub(crate) fn answer(&mut self) -> Result<Event> {
        let event = self.event(self.patience)?;
        event.with_context(|| format!("no answer within {:?}", self.patience))
    }

    /// The next method, which must be this one.
    pub(crate) fn expect(&mut self, id: Id) -> Result<Event> {
        match self.answer()? {
            event if event.id == id => Ok(event),
            other => bail!("expected {id:?}, got {}", other.shown()),
        }
    }

    /// The next method with all its content; `None`: nothing came in that time.
    pub(crate) fn event(&mut self, patience: Duration) -> Result<Option<Event>> {
        let end = Instant::now() + patience;
        loop {
            while let Some((kind, channel, payload)) = self.frame()? {
                if let Some(event) = self.assemble(kind, channel, &payload)? {
                    return Ok(Some(event));
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            // Zero would wait for ever.
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if Instant::now() >= end {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn frame(&mut self) -> Result<Option<(u8, u16, Vec<u8>)>> {
        let Some(&[kind, high, low, a, b, c, d]) = self.buffer.first_chunk::<7>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        if self.buffer.len() < size + 8 {
            return Ok(None);
        }
        let mut frame: Vec<u8> = self.buffer.drain(..size + 8).collect();
        if frame.pop() != Some(FRAME_END) {
            bail!("a frame without its end");
        }
        Ok(Some((
            kind,
            u16::from_be_bytes([high, low]),
            frame.split_off(7),
        )))
    }

    fn assemble(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Result<Option<Event>> {
        match (kind, self.partial.take()) {
            (METHOD, None) => {
                let Some(&[a, b, c, d]) = payload.first_chunk() else {
                    bail!("a method without its number");
                };
                let event = Event {
                    channel,
                    id: (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
                    arguments: payload.get(4..).unwrap_or_default().to_vec(),
                    content: None,
                };
                if matches!(event.id, (60, 50 | 60 | 71)) {
                    self.partial = Some((event, u64::MAX));
                    return Ok(None);
                }
                Ok(Some(event))
            }
            (HEADER, Some((mut event, u64::MAX))) => {
                let size = payload.get(4..12).and_then(<[u8]>::first_chunk);
                let size = u64::from_be_bytes(*size.context("a short header")?);
                let properties = payload.get(12..).unwrap_or_default().to_vec();
                event.content = Some((properties, Vec::new()));
                if size == 0 {
                    return Ok(Some(event));
                }
                self.partial = Some((event, size));
                Ok(None)
            }
            (BODY, Some((mut event, left))) => {
                if let Some((_, body)) = &mut event.content {
                    body.extend_from_slice(payload);
                }
                let left = left.saturating_sub(payload.len() as u64);
                if left == 0 {
                    return Ok(Some(event));
                }
                self.partial = Some((event, left));
                Ok(None)
            }
            (kind, partial) => bail!("a frame of type {kind} behind {partial:?}"),
        }
    }
}

fn method((class, id): Id, arguments: &[u8]) -> Vec<u8> {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend_from_slice(&id.to_be_bytes());
    payload.extend_from_slice(arguments);
    payload
}

fn frame(into: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
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

/// A short string. Those here are short.
pub(crate) fn short(into: &mut Vec<u8>, text: &str) {
    into.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    into.extend_from_slice(text.as_bytes());
}

pub(crate) fn long(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    into.extend_from_slice(bytes);
}

/// Reads arguments one after the other; what is not there is empty.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn number(&mut self, bytes: usize) -> u64 {
        let (now, rest) = self.0.split_at_checked(bytes).unwrap_or((&[], &[]));
        self.0 = rest;
        now.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    pub(crate) fn text(&mut self) -> String {
        let length = self.number(1) as usize;
        let (now, rest) = self.0.split_at_checked(length).unwrap_or((&[], &[]));
        self.0 = rest;
        String::from_utf8_lossy(now).into_owned()
    }
}

impl Event {
    /// What it says, for comparison.
    pub(crate) fn shown(&self) -> String {
        let mut read = Reader(&self.arguments);
        let mut text = match self.id {
            (10, 50) | (20, 40) => {
                let level = if self.id.0 == 10 {
                    "connection"
                } else {
                    "channel"
                };
                let (code, text) = (read.number(2), read.text());
                let (class, method) = (read.number(2), read.number(2));
                format!("{level}.close {code} {text:?} of {class},{method}")
            }
            (50, 11) => {
                let (name, messages) = (read.text(), read.number(4));
                format!(
                    "queue.declare-ok {name} {messages} messages {} consumers",
                    read.number(4)
                )
            }
            (50, 31 | 41) => format!("{:?}: {} messages", self.id, read.number(4)),
            (60, 21) => format!("consume-ok {}", read.text()),
            (60, 30 | 31) => format!("{:?} {}", self.id, read.text()),
            (60, 50) => {
                let (code, text) = (read.number(2), read.text());
                format!("return {code} {text} {} {}", read.text(), read.text())
            }
            (60, 60) => {
                let (tag, number) = (read.text(), read.number(8));
                let again = read.number(1);
                format!(
                    "deliver to {tag} {number} again {again} {} {}",
                    read.text(),
                    read.text()
                )
            }
            (60, 71) => {
                let (number, again) = (read.number(8), read.number(1));
                let (exchange, key) = (read.text(), read.text());
                format!(
                    "get-ok {number} again {again} {exchange} {key} left {}",
                    read.number(4)
                )
            }
            (60, 80 | 120) => format!("confirm {:?}", self.id.1),
            id => format!("{id:?}"),
        };
        if let Some((properties, body)) = &self.content {
            text += &format!(" {properties:02x?} {:?}", String::from_utf8_lossy(body));
        }
        text
    }
}
