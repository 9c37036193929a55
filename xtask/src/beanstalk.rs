//! A connection that speaks beanstalk: bytes out, replies in, waiting only as long as it is told to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// One reply: its line without the line end, and the body if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) line: String,
    pub(crate) body: Option<Vec<u8>>,
}

impl Reply {
    /// The number after `word`, when the reply starts with that word: `INSERTED 5`, `RESERVED 5 100`.
    pub(crate) fn number_after(&self, word: &str) -> Option<u64> {
        let mut words = self.line.split(' ');
        (words.next() == Some(word)).then(|| words.next()?.parse().ok())?
    }
}

/// What came from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Reply(Reply),
    /// The server closed the connection.
    Closed,
    /// Nothing in the time given.
    Nothing,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the unread part of `buffer` starts.
    start: usize,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// When the server does not accept.
    pub(crate) fn connect(address: SocketAddr) -> Result<Wire> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Wire {
            stream,
            buffer: Vec::new(),
            start: 0,
        })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Ends our direction; the server's answers can still be read.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(crate) fn shut_write(&self) -> Result<()> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// The next reply, waiting for it up to `patience`; with zero it only looks at what has arrived.
    ///
    /// # Errors
    /// When the bytes are no reply, or reading fails.
    pub(crate) fn receive(&mut self, patience: Duration) -> Result<Received> {
        let end = Instant::now() + patience;
        loop {
            if let Some(reply) = self.parse()? {
                return Ok(Received::Reply(reply));
            }
            match self.read(end.saturating_duration_since(Instant::now()))? {
                Some(0) => return Ok(Received::Closed),
                None if Instant::now() >= end => return Ok(Received::Nothing),
                Some(_) | None => {}
            }
        }
    }

    /// The next reply, which has to come within `patience`.
    ///
    /// # Errors
    /// When it does not, or the connection ends.
    pub(crate) fn expect(&mut self, patience: Duration) -> Result<Reply> {
        match self.receive(patience)? {
            Received::Reply(reply) => Ok(reply),
            Received::Closed => bail!("the server closed the connection"),
            Received::Nothing => bail!("no reply within {patience:?}"),
        }
    }

    /// Reads what is there; `None` when nothing came within `patience`.
    fn read(&mut self, patience: Duration) -> Result<Option<usize>> {
        let mut bytes = [0; 16 * 1024];
        if patience.is_zero() {
            self.stream.set_nonblocking(true)?;
        } else {
            self.stream.set_read_timeout(Some(patience))?;
        }
        let outcome = self.stream.read(&mut bytes);
        if patience.is_zero() {
            self.stream.set_nonblocking(false)?;
        }
        match outcome {
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(Some(count))
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(None),
                ErrorKind::ConnectionReset => Ok(Some(0)),
                _ => Err(error.into()),
            },
        }
    }

    fn parse(&mut self) -> Result<Option<Reply>> {
        let unread = &self.buffer[self.start..];
        let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&unread[..end]).into_owned();
        let mut used = end + 2;
        let body = if ["RESERVED ", "FOUND ", "OK "]
            .iter()
            .any(|word| line.starts_with(word))
        {
            let size: usize = line
                .rsplit(' ')
                .next()
                .unwrap_or_default()
                .parse()
                .with_context(|| line.clone())?;
            let Some(rest) = unread.get(used..used + size + 2) else {
                return Ok(None);
            };
            let (body, end) = rest.split_at(size);
            if end != b"\r\n" {
                bail!("the body of {line:?} is not followed by a line end");
            }
            used += size + 2;
            Some(body.to_vec())
        } else {
            None
        };
        self.start += used;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        Ok(Some(Reply { line, body }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::Duration;

    use super::{Received, Wire};

    #[test]
    fn replies_are_found_in_a_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut wire =
            Wire::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (mut server, _) = listener.accept().expect("the connection");
        assert_eq!(
            wire.receive(Duration::ZERO).expect("no error"),
            Received::Nothing
        );
        server
            .write_all(b"INSERTED 7\r\nRESERVED 9 4\r\n\r\n\r\n\r\nOK 2\r\n--")
            .expect("written");
        let patience = Duration::from_secs(5);
        assert_eq!(
            wire.expect(patience)
                .expect("a reply")
                .number_after("INSERTED"),
            Some(7)
        );
        let job = wire.expect(patience).expect("a reply");
        assert_eq!(
            (job.number_after("RESERVED"), job.body.as_deref()),
            (Some(9), Some(&b"\r\n\r\n"[..]))
        );
        assert_eq!(
            wire.receive(Duration::ZERO).expect("no error"),
            Received::Nothing
        );
        server.write_all(b"\r\n").expect("written");
        assert_eq!(
            wire.expect(patience).expect("a reply").body.as_deref(),
            Some(&b"--"[..])
        );
        drop(server);
        assert_eq!(wire.receive(patience).expect("no error"), Received::Closed);
    }
}
