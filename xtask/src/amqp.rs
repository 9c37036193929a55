//! A small AMQP 0-9-1 client: enough to fill a queue with confirmed messages and to look into it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Class and method.
type Method = (u16, u16);

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;
/// Flag of the property delivery-mode, and the value for persistent.
const PERSISTENT: [u8; 3] = [0x10, 0, 2];

/// An argument of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument<'a> {
    Number(i64),
    Text(&'a str),
}

/// A message that was fetched.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    /// What `x-delivery-count` says.
    pub(crate) failures: u64,
    pub(crate) body: Vec<u8>,
}

/// What becomes of a fetched message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Settlement {
    Ack,
    Reject { requeue: bool },
}

/// A connection with one channel, in confirm mode or in transaction mode.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    published: u64,
}

impl Client {
    /// Connects as guest.
    ///
    /// # Errors
    /// When the server does not accept, or answers what it should not.
    pub(crate) fn connect(address: SocketAddr, patience: Duration) -> Result<Client> {
        Client::open(address, patience, (85, 10))
    }

    /// Connects as guest, with a channel in transaction mode.
    ///
    /// # Errors
    /// When the server does not accept, or answers what it should not.
    pub(crate) fn connect_for_transactions(
        address: SocketAddr,
        patience: Duration,
    ) -> Result<Client> {
        Client::open(address, patience, (90, 10))
    }

    fn open(address: SocketAddr, patience: Duration, (class, id): Method) -> Result<Client> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        let mut client = Client {
            stream,
            published: 0,
        };
        client.stream.write_all(b"AMQP\0\0\x09\x01")?;
        client.expect((10, 10))?;
        client.call(
            0,
            (10, 11),
            b"\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US",
        )?;
        client.expect((10, 30))?;
        client.call(0, (10, 31), b"\x07\xff\0\x02\0\0\0\0")?;
        client.call(0, (10, 40), b"\x01/\0\0")?;
        client.expect((10, 41))?;
        client.call(1, (20, 10), b"\0")?;
        client.expect((20, 11))?;
        client.call(1, (class, id), if class == 85 { b"\0" } else { b"" })?;
        client.expect((class, id + 1))?;
        Ok(client)
    }

    /// Declares a durable queue.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn declare(&mut self, queue: &str) -> Result<()> {
        self.declare_with(queue, &[])
    }

    /// Declares a durable queue with arguments.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn declare_with(
        &mut self,
        queue: &str,
        settings: &[(&str, Argument<'_>)],
    ) -> Result<()> {
        let mut table = Vec::new();
        for (key, value) in settings {
            short(&mut table, key)?;
            match value {
                Argument::Number(number) => {
                    table.push(b'l');
                    table.extend_from_slice(&number.to_be_bytes());
                }
                Argument::Text(text) => {
                    table.push(b'S');
                    table.extend_from_slice(&u32::try_from(text.len())?.to_be_bytes());
                    table.extend_from_slice(text.as_bytes());
                }
            }
        }
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue)?;
        arguments.push(2);
        arguments.extend_from_slice(&u32::try_from(table.len())?.to_be_bytes());
        arguments.extend(table);
        self.call(1, (50, 10), &arguments)?;
        self.expect((50, 11)).map(drop)
    }

    /// Publishes persistent messages and waits until all are confirmed.
    ///
    /// # Errors
    /// When the server refuses one, or does not confirm in time.
    pub(crate) fn publish(&mut self, queue: &str, body: &[u8], count: u32) -> Result<()> {
        let mut arguments = b"\0\0\0".to_vec();
        short(&mut arguments, queue)?;
        arguments.push(0);
        let mut header = b"\0\x3c\0\0".to_vec();
        header.extend_from_slice(&(body.len() as u64).to_be_bytes());
        header.extend_from_slice(&PERSISTENT);
        let mut one = method((60, 40), &arguments);
        one = frame(METHOD, 1, &one)?;
        one.extend(frame(HEADER, 1, &header)?);
        one.extend(frame(BODY, 1, body)?);
        self.stream.write_all(&one.repeat(count as usize))?;
        self.published += u64::from(count);
        let (mut through, mut singles) = (self.published - u64::from(count), BTreeSet::new());
        while through + (singles.len() as u64) < self.published {
            let ack = self.expect((60, 80))?;
            let tag = ack.get(4..12).and_then(|bytes| bytes.first_chunk());
            let tag = u64::from_be_bytes(*tag.context("a short basic.ack")?);
            if ack.get(12).is_some_and(|flags| flags & 1 == 1) {
                singles.retain(|&single| single > tag);
                through = through.max(tag);
            } else {
                singles.insert(tag);
            }
        }
        Ok(())
    }

    /// Publishes one persistent message with a priority; whether it was confirmed.
    ///
    /// # Errors
    /// When the server answers what it should not, or not in time.
    pub(crate) fn publish_one(&mut self, queue: &str, body: &[u8], priority: u8) -> Result<bool> {
        let mut arguments = b"\0\0\0".to_vec();
        short(&mut arguments, queue)?;
        arguments.push(0);
        let mut header = b"\0\x3c\0\0".to_vec();
        header.extend_from_slice(&(body.len() as u64).to_be_bytes());
        header.extend_from_slice(&[0x18, 0, 2, priority]);
        let mut one = frame(METHOD, 1, &method((60, 40), &arguments))?;
        one.extend(frame(HEADER, 1, &header)?);
        one.extend(frame(BODY, 1, body)?);
        self.stream.write_all(&one)?;
        match self.method()? {
            ((60, 80), _) => Ok(true),
            ((60, 120), _) => Ok(false),
            (other, payload) => bail!(unexpected(other, &payload)),
        }
    }

    /// The next message, to be settled.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn fetch(&mut self, queue: &str) -> Result<Option<Fetched>> {
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue)?;
        arguments.push(0);
        self.call(1, (60, 70), &arguments)?;
        let payload = match self.method()? {
            ((60, 72), _) => return Ok(None),
            ((60, 71), payload) => payload,
            (other, payload) => bail!(unexpected(other, &payload)),
        };
        let tag = payload.get(4..12).and_then(|bytes| bytes.first_chunk());
        let tag = u64::from_be_bytes(*tag.context("a short basic.get-ok")?);
        let (HEADER, header) = self.frame()? else {
            bail!("a message without its header");
        };
        let size = header.get(4..12).and_then(|bytes| bytes.first_chunk());
        let size = u64::from_be_bytes(*size.context("a short header")?);
        let mut body = Vec::new();
        while (body.len() as u64) < size {
            let (BODY, more) = self.frame()? else {
                bail!("a message without its body");
            };
            body.extend(more);
        }
        const COUNT: &[u8] = b"x-delivery-countl";
        let at = header
            .windows(COUNT.len())
            .position(|window| window == COUNT);
        let count = at.and_then(|at| header.get(at + COUNT.len()..)?.first_chunk());
        Ok(Some(Fetched {
            tag,
            redelivered: payload.get(12).is_some_and(|flags| flags & 1 == 1),
            failures: count.map_or(0, |bytes| u64::from_be_bytes(*bytes)),
            body,
        }))
    }

    /// Settles a message: done, or else refused, with or without another chance.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub(crate) fn settle(&mut self, tag: u64, how: Settlement) -> Result<()> {
        let (id, flag) = match how {
            Settlement::Ack => (80, 0),
            Settlement::Reject { requeue } => (90, u8::from(requeue)),
        };
        let mut arguments = tag.to_be_bytes().to_vec();
        arguments.push(flag);
        self.call(1, (60, id), &arguments)
    }

    /// Gives back all that was fetched and not settled.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn recover(&mut self) -> Result<()> {
        self.call(1, (60, 110), &[1])?;
        self.expect((60, 111)).map(drop)
    }

    /// Commits what was settled; it is as durable as anything when this returns.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn commit(&mut self) -> Result<()> {
        self.call(1, (90, 20), b"")?;
        self.expect((90, 21)).map(drop)
    }

    /// Whether there is a message; it is taken.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn get(&mut self, queue: &str) -> Result<bool> {
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue)?;
        arguments.push(1);
        self.call(1, (60, 70), &arguments)?;
        match self.method()? {
            ((60, 72), _) => Ok(false),
            ((60, 71), _) => Ok(true),
            (other, payload) => bail!(unexpected(other, &payload)),
        }
    }

    fn call(&mut self, channel: u16, (class, id): Method, arguments: &[u8]) -> Result<()> {
        let payload = method((class, id), arguments);
        self.stream.write_all(&frame(METHOD, channel, &payload)?)?;
        Ok(())
    }

    /// The next method, which must be this one.
    fn expect(&mut self, expected: Method) -> Result<Vec<u8>> {
        match self.method()? {
            (method, payload) if method == expected => Ok(payload),
            (other, payload) => bail!(unexpected(other, &payload)),
        }
    }

    /// The next frame: its type and what is in it.
    fn frame(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut start = [0; 7];
        self.stream.read_exact(&mut start)?;
        let [kind, _, _, a, b, c, d] = start;
        let mut payload = vec![0; u32::from_be_bytes([a, b, c, d]) as usize + 1];
        self.stream.read_exact(&mut payload)?;
        if payload.pop() != Some(FRAME_END) {
            bail!("a frame without its end");
        }
        Ok((kind, payload))
    }

    /// The next method; contents are skipped.
    fn method(&mut self) -> Result<(Method, Vec<u8>)> {
        loop {
            let (kind, payload) = self.frame()?;
            match (kind, payload.first_chunk()) {
                (METHOD, Some(&[a, b, c, d])) => {
                    let id = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                    return Ok((id, payload));
                }
                (HEADER | BODY | HEARTBEAT, _) => {}
                _ => bail!("a frame of type {kind}"),
            }
        }
    }
}

fn unexpected((class, id): Method, payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload.get(6..).unwrap_or_default());
    format!("answered with method {class},{id} {text:?}")
}

fn method((class, id): Method, arguments: &[u8]) -> Vec<u8> {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend_from_slice(&id.to_be_bytes());
    payload.extend_from_slice(arguments);
    payload
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(payload.len())?.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes.push(FRAME_END);
    Ok(bytes)
}

fn short(into: &mut Vec<u8>, text: &str) -> Result<()> {
    into.push(u8::try_from(text.len()).context("a name of at most 255 bytes")?);
    into.extend_from_slice(text.as_bytes());
    Ok(())
}
