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

/// A connection with one channel, in confirm mode.
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
        client.call(1, (85, 10), b"\0")?;
        client.expect((85, 11))?;
        Ok(client)
    }

    /// Declares a durable queue.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn declare(&mut self, queue: &str) -> Result<()> {
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue)?;
        arguments.extend_from_slice(b"\x02\0\0\0\0");
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

    /// The next method; contents are skipped.
    fn method(&mut self) -> Result<(Method, Vec<u8>)> {
        loop {
            let mut start = [0; 7];
            self.stream.read_exact(&mut start)?;
            let [kind, _, _, a, b, c, d] = start;
            let mut payload = vec![0; u32::from_be_bytes([a, b, c, d]) as usize + 1];
            self.stream.read_exact(&mut payload)?;
            if payload.pop() != Some(FRAME_END) {
                bail!("a frame without its end");
            }
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
