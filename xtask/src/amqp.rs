//! A small AMQP 0-9-1 client: enough to fill a queue with confirmed messages and to look into it. `wire` has the frames.

pub(crate) mod wire;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, anyhow};

use wire::{Event, Id, Reader, Wire, long, short};

/// The channel.
const CHANNEL: u16 = 1;

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
    wire: Wire,
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

    fn open(address: SocketAddr, patience: Duration, (class, id): Id) -> Result<Client> {
        let mut client = Client {
            wire: Wire::connect(address, patience)?,
            published: 0,
        };
        client.call((20, 10), b"\0")?;
        client.wire.expect((20, 11))?;
        client.call((class, id), if class == 85 { b"\0" } else { b"" })?;
        client.wire.expect((class, id + 1))?;
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
            short(&mut table, key);
            match value {
                Argument::Number(number) => {
                    table.push(b'l');
                    table.extend_from_slice(&number.to_be_bytes());
                }
                Argument::Text(text) => {
                    table.push(b'S');
                    long(&mut table, text.as_bytes());
                }
            }
        }
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue);
        arguments.push(2);
        long(&mut arguments, &table);
        self.call((50, 10), &arguments)?;
        self.wire.expect((50, 11)).map(drop)
    }

    /// Publishes persistent messages and waits until all are confirmed.
    ///
    /// # Errors
    /// When the server refuses one, or does not confirm in time.
    pub(crate) fn publish(&mut self, queue: &str, body: &[u8], count: u32) -> Result<()> {
        self.send(queue, &PERSISTENT, body, count)?;
        self.published += u64::from(count);
        let (mut through, mut singles) = (self.published - u64::from(count), BTreeSet::new());
        while through + (singles.len() as u64) < self.published {
            let ack = self.wire.expect((60, 80))?;
            let mut read = Reader(&ack.arguments);
            let (tag, multiple) = (read.number(8), read.number(1) & 1 == 1);
            if multiple {
                singles.retain(|&single| single > tag);
                through = through.max(tag);
            } else {
                singles.insert(tag);
            }
        }
        Ok(())
    }

    fn send(&mut self, queue: &str, properties: &[u8], body: &[u8], times: u32) -> Result<()> {
        let mut arguments = b"\0\0\0".to_vec();
        short(&mut arguments, queue);
        arguments.push(0);
        self.wire
            .publish(CHANNEL, &arguments, properties, body, times)
    }

    /// Publishes one persistent message with a priority; whether it was confirmed.
    ///
    /// # Errors
    /// When the server answers what it should not, or not in time.
    pub(crate) fn publish_one(&mut self, queue: &str, body: &[u8], priority: u8) -> Result<bool> {
        self.send(queue, &[0x18, 0, 2, priority], body, 1)?;
        match self.wire.answer()? {
            event if event.id == (60, 80) => Ok(true),
            event if event.id == (60, 120) => Ok(false),
            other => Err(unexpected(&other)),
        }
    }

    /// The next message, to be settled.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn fetch(&mut self, queue: &str) -> Result<Option<Fetched>> {
        let Some(got) = self.ask_for_one(queue, false)? else {
            return Ok(None);
        };
        let mut read = Reader(&got.arguments);
        let (tag, redelivered) = (read.number(8), read.number(1) & 1 == 1);
        let (properties, body) = got.content.unwrap_or_default();
        const COUNT: &[u8] = b"x-delivery-countl";
        let at = properties
            .windows(COUNT.len())
            .position(|window| window == COUNT);
        let count = at.and_then(|at| properties.get(at + COUNT.len()..));
        Ok(Some(Fetched {
            tag,
            redelivered,
            failures: count.map_or(0, |bytes| Reader(bytes).number(8)),
            body,
        }))
    }

    /// `basic.get`.
    fn ask_for_one(&mut self, queue: &str, no_ack: bool) -> Result<Option<Event>> {
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue);
        arguments.push(u8::from(no_ack));
        self.call((60, 70), &arguments)?;
        match self.wire.answer()? {
            event if event.id == (60, 72) => Ok(None),
            event if event.id == (60, 71) => Ok(Some(event)),
            other => Err(unexpected(&other)),
        }
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
        self.call((60, id), &arguments)
    }

    /// Gives back all that was fetched and not settled.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn recover(&mut self) -> Result<()> {
        self.call((60, 110), &[1])?;
        self.wire.expect((60, 111)).map(drop)
    }

    /// Commits what was settled; it is as durable as anything when this returns.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn commit(&mut self) -> Result<()> {
        self.call((90, 20), b"")?;
        self.wire.expect((90, 21)).map(drop)
    }

    /// Messages in a durable queue, or a stream, that is there.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn count(&mut self, queue: &str) -> Result<u64> {
        let mut arguments = vec![0, 0];
        short(&mut arguments, queue);
        arguments.push(1);
        long(&mut arguments, &[]);
        self.call((50, 10), &arguments)?;
        let declared = self.wire.expect((50, 11))?;
        let mut read = Reader(&declared.arguments);
        read.text();
        Ok(read.number(4))
    }

    /// Offsets and bodies of a stream from an offset on, so many.
    ///
    /// # Errors
    /// As the server says, or when they do not come in time.
    pub(crate) fn read_stream(
        &mut self,
        stream: &str,
        from: u64,
        count: u64,
    ) -> Result<Vec<(u64, Vec<u8>)>> {
        const PREFETCH: u16 = 1000;
        const TAG: &str = "reader";
        let mut qos = vec![0; 4];
        qos.extend_from_slice(&PREFETCH.to_be_bytes());
        qos.push(0);
        self.call((60, 10), &qos)?;
        self.wire.expect((60, 11))?;
        let mut table = Vec::new();
        short(&mut table, "x-stream-offset");
        table.push(b'l');
        table.extend_from_slice(&from.to_be_bytes());
        let mut consume = vec![0, 0];
        short(&mut consume, stream);
        short(&mut consume, TAG);
        consume.push(0);
        long(&mut consume, &table);
        self.call((60, 20), &consume)?;
        self.wire.expect((60, 21))?;
        let mut found = Vec::new();
        while (found.len() as u64) < count {
            let delivered = self.wire.expect((60, 60))?;
            let mut read = Reader(&delivered.arguments);
            read.text();
            let tag = read.number(8);
            let (properties, body) = delivered.content.unwrap_or_default();
            const OFFSET: &[u8] = b"x-stream-offsetl";
            let at = properties
                .windows(OFFSET.len())
                .position(|window| window == OFFSET);
            let offset = at.and_then(|at| properties.get(at + OFFSET.len()..));
            let offset = offset.ok_or_else(|| anyhow!("a delivery without an offset"))?;
            found.push((Reader(offset).number(8), body));
            let mut ack = tag.to_be_bytes().to_vec();
            ack.push(0);
            self.call((60, 80), &ack)?;
        }
        let mut cancel = Vec::new();
        short(&mut cancel, TAG);
        cancel.push(0);
        self.call((60, 30), &cancel)?;
        while self.wire.answer()?.id != (60, 31) {}
        Ok(found)
    }

    /// Whether there is a message; it is taken.
    ///
    /// # Errors
    /// As the server says.
    pub(crate) fn get(&mut self, queue: &str) -> Result<bool> {
        Ok(self.ask_for_one(queue, true)?.is_some())
    }

    fn call(&mut self, id: Id, arguments: &[u8]) -> Result<()> {
        self.wire.send(CHANNEL, id, arguments)
    }
}

fn unexpected(event: &Event) -> anyhow::Error {
    anyhow!("answered with {}", event.shown())
}
