//! Links: connections to a broker, this one or another, as a client of AMQP 0-9-1.
//!
//! ```text
//!             ┌─▶ socket (TCP, TLS) ─▶ another broker
//! Link ◀─────▶┤
//!   │         └─▶ door ─▶ edge ─▶ this broker, with the checks that any client gets
//!   └─▶ client: handshake, answers, content, heartbeats; no I/O, no clock
//! ```
//!
//! `address` is where a broker is. A link has one channel: whoever needs more opens another link. The management API
//! changes things through a link into this broker; shovels and federation carry messages over two.

pub(crate) mod address;
mod client;
#[cfg(test)]
mod client_tests;
mod door;
mod reach;
pub(crate) mod socket;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use longtail_edge::write_some;
use longtail_engine::runtime::Clock;
use longtail_model::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

pub(crate) use address::Address;
pub(crate) use client::{Answer, Delivery, Event, LinkError, Settings, Settle};
use client::{Client, Peer};
pub use door::{Door, Tickets};
pub(crate) use reach::Reach;
use socket::Socket;

use crate::alarms::Alarms;
use crate::codec::Method;

/// Octets read at once.
const READ: usize = 64 * 1024;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// A connection with an open channel.
pub(crate) struct Link {
    client: Client,
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    input: BytesMut,
    out: Vec<u8>,
    unflushed: bool,
    events: VecDeque<Event>,
    clock: Arc<dyn Clock>,
    /// Of the broker that this process is, if that is the other side: nobody tells it what is short.
    alarms: Option<Arc<Alarms>>,
}

type Result<T> = std::result::Result<T, LinkError>;

impl Link {
    /// Shakes hands over a socket.
    ///
    /// # Errors
    /// What the other side says, or does.
    pub(crate) async fn open(
        socket: Box<dyn Socket>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        within: Duration,
    ) -> Result<Self> {
        let (reader, writer) = tokio::io::split(socket);
        let mut out = Vec::new();
        let mut link = Link {
            client: Client::new(settings, clock.now(), &mut out),
            reader,
            writer,
            input: BytesMut::new(),
            out,
            unflushed: false,
            events: VecDeque::new(),
            clock,
            alarms: None,
        };
        match tokio::time::timeout(within, link.opened()).await {
            Err(_) => Err(LinkError::Late(within.as_secs())),
            // Old servers say no word to whom they do not know.
            Ok(Err(LinkError::Io(_))) if link.client.is_logging_in() => {
                Err(LinkError::Login("the login is refused".to_owned()))
            }
            Ok(opened) => opened.map(|()| link),
        }
    }

    async fn opened(&mut self) -> Result<()> {
        loop {
            match self.events.pop_front() {
                Some(Event::Open) => return Ok(()),
                Some(Event::ChannelClosed { code, text }) => {
                    return Err(LinkError::Channel { code, text });
                }
                Some(_) => {}
                None => self.turn(true).await?,
            }
        }
    }

    /// What the other side says of itself.
    pub(crate) fn peer(&self) -> &Peer {
        self.client.peer()
    }

    /// The other side is the broker of this process, whose alarms these are.
    pub(crate) fn at_home(mut self, alarms: Arc<Alarms>) -> Self {
        self.alarms = Some(alarms);
        self
    }

    /// Whether the broker of this process, which is the other side, takes no messages now.
    pub(crate) fn is_blocked(&self) -> bool {
        self.alarms
            .as_ref()
            .is_some_and(|alarms| alarms.are_raised())
    }

    /// Octets that wait for the socket.
    pub(crate) fn backlog(&self) -> usize {
        self.out.len()
    }

    /// What has happened, in order.
    pub(crate) fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Reads, if it is to, writes and keeps the connection alive until something of that was done. May be dropped
    /// half-way.
    ///
    /// # Errors
    /// When the connection is over.
    pub(crate) async fn turn(&mut self, reads: bool) -> Result<()> {
        let now = self.clock.now();
        let due = self.client.due();
        let wait = match due {
            Timestamp::NEVER => Duration::from_secs(3600),
            due => Duration::from_millis(due.0.saturating_sub(now.0)),
        };
        let writes = !self.out.is_empty() || self.unflushed;
        let (reader, writer) = (&mut self.reader, &mut self.writer);
        tokio::select! {
            read = reader.read_buf(&mut self.input), if reads => {
                if read? == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side has closed the connection").into());
                }
                let now = self.clock.now();
                let taken = self.client.receive(&self.input, now, &mut self.out, &mut self.events);
                let taken = match taken {
                    Ok(taken) => taken,
                    Err(error) => {
                        self.say_last_words().await;
                        return Err(error);
                    }
                };
                self.input.advance(taken);
                self.input.reserve(READ);
            }
            written = write_some(writer, &mut self.out, &mut self.unflushed), if writes => written?,
            () = tokio::time::sleep(wait) => {}
        }
        let now = self.clock.now();
        self.client.tick(reads, now, &mut self.out)
    }

    /// An answer to `connection.close`, or nothing.
    async fn say_last_words(&mut self) {
        let words = async {
            self.writer.write_all(&self.out).await?;
            self.writer.flush().await
        };
        // The connection is over either way.
        let _ = tokio::time::timeout(GOODBYE, words).await;
    }

    /// Says something and waits for its answer. Deliveries and confirms that come before are kept.
    ///
    /// # Errors
    /// [`LinkError::Channel`] when the channel is closed instead; it can be opened again.
    pub(crate) async fn call(&mut self, method: &Method<'_>) -> Result<Answer> {
        let id = self.client.call(method, &mut self.out)?;
        // Those that nobody has waited for come before.
        let here = |event: &&Event| matches!(event, Event::Answer(of, _) if *of == id);
        let before = self.client.owed(id) - 1 + self.events.iter().filter(here).count();
        let answered = tokio::time::timeout(PATIENCE, self.answered(id, before)).await;
        answered.unwrap_or(Err(LinkError::Late(PATIENCE.as_secs())))
    }

    async fn answered(&mut self, id: (u16, u16), mut before: usize) -> Result<Answer> {
        let mut seen = 0;
        loop {
            while let Some(event) = self.events.get(seen) {
                match event {
                    Event::Answer(of, _) if *of == id && before > 0 => before -= 1,
                    Event::Answer(of, _) if *of == id => break,
                    Event::ChannelClosed { .. } => break,
                    _ => {}
                }
                seen += 1;
            }
            match self.events.remove(seen) {
                Some(Event::Answer(_, answer)) => return Ok(answer),
                Some(Event::ChannelClosed { code, text }) => {
                    return Err(LinkError::Channel { code, text });
                }
                _ => self.turn(true).await?,
            }
        }
    }

    /// Opens the channel again after it was closed.
    ///
    /// # Errors
    /// When the connection is over.
    pub(crate) async fn reopen(&mut self) -> Result<()> {
        self.client.reopen(&mut self.out)?;
        let opened = tokio::time::timeout(PATIENCE, self.opened()).await;
        opened.unwrap_or(Err(LinkError::Late(PATIENCE.as_secs())))
    }

    /// Says something whose answer nobody waits for here: it comes as an event.
    ///
    /// # Errors
    /// When it has no form on the wire.
    pub(crate) fn ask(&mut self, method: &Method<'_>) -> Result<()> {
        self.client.call(method, &mut self.out)?;
        Ok(())
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// When it has no form on the wire.
    pub(crate) fn say(&mut self, method: &Method<'_>) -> Result<()> {
        Client::say(method, &mut self.out)
    }

    /// Publishes; the number by which it is confirmed, in a channel that confirms.
    ///
    /// # Errors
    /// When it has no form on the wire of this connection.
    pub(crate) fn publish(
        &mut self,
        to: (&str, &str),
        mandatory: bool,
        content: (&[u8], &[u8]),
    ) -> Result<u64> {
        self.client.publish(to, mandatory, content, &mut self.out)
    }

    /// So many deliveries may come before any is settled.
    pub(crate) fn allow(&mut self, more: u32) {
        self.client.allow(more);
    }

    /// Settles `count` deliveries, the last of which has this tag.
    ///
    /// # Errors
    /// When it has no form on the wire.
    pub(crate) fn settle(&mut self, tag: u64, count: u32, how: Settle) -> Result<()> {
        self.client.settle(tag, count, how, &mut self.out)
    }

    /// Waits until everything that was said is on its way.
    ///
    /// # Errors
    /// When the connection is over.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        while !self.out.is_empty() || self.unflushed {
            self.turn(true).await?;
        }
        Ok(())
    }

    /// Says goodbye and waits a moment for the other side to have heard it.
    pub(crate) async fn close(mut self) {
        self.client.goodbye(&mut self.out);
        let last = async {
            self.writer.write_all(&self.out).await?;
            self.writer.flush().await?;
            while self.reader.read_buf(&mut self.input).await? > 0 {
                self.input.clear();
            }
            Ok::<(), io::Error>(())
        };
        // The connection is over either way.
        let _ = tokio::time::timeout(GOODBYE, last).await;
    }
}
