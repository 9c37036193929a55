//! The answering half: what a server would say, without keeping a job.

use crate::null::Relay;
use crate::protocol::Sink;

/// One connection of the null sink.
#[derive(Clone, Debug)]
pub(crate) struct BeanstalkSink {
    reserved: Vec<u8>,
    /// Bytes of a put's body that are still to come.
    skip: usize,
}

impl BeanstalkSink {
    pub(super) fn new(body_bytes: usize) -> Self {
        let mut reserved = format!("RESERVED 1 {body_bytes}\r\n").into_bytes();
        reserved.resize(reserved.len() + body_bytes, b'x');
        reserved.extend_from_slice(b"\r\n");
        BeanstalkSink { reserved, skip: 0 }
    }
}

impl Sink for BeanstalkSink {
    fn answer(&mut self, input: &[u8], out: &mut Vec<u8>, _relay: &mut Relay) -> usize {
        let mut used = 0;
        loop {
            if self.skip > 0 {
                let now = self.skip.min(input.len() - used);
                self.skip -= now;
                used += now;
                if self.skip > 0 {
                    return used;
                }
                out.extend_from_slice(b"INSERTED 1\r\n");
            }
            let rest = input.get(used..).unwrap_or_default();
            let Some(end) = memchr::memchr(b'\n', rest) else {
                return used;
            };
            let line = rest.get(..end).unwrap_or_default();
            used += end + 1;
            match line.first() {
                Some(b'p') => self.skip = last_number(line).saturating_add(2),
                Some(b'r') if line.starts_with(b"reserve-with") => {
                    out.extend_from_slice(b"TIMED_OUT\r\n");
                }
                Some(b'r') => out.extend_from_slice(&self.reserved),
                Some(b'd') => out.extend_from_slice(b"DELETED\r\n"),
                Some(b'u') => out.extend_from_slice(b"USING x\r\n"),
                Some(b'w') => out.extend_from_slice(b"WATCHING 2\r\n"),
                Some(b'i') => out.extend_from_slice(b"WATCHING 1\r\n"),
                _ => out.extend_from_slice(b"UNKNOWN_COMMAND\r\n"),
            }
        }
    }
}

/// The number at the end of a line that ends with CR.
fn last_number(line: &[u8]) -> usize {
    let mut number = 0usize;
    let mut scale = 1usize;
    for &byte in line.iter().rev().skip(1) {
        if !byte.is_ascii_digit() {
            break;
        }
        number = number.saturating_add(usize::from(byte - b'0').saturating_mul(scale));
        scale = scale.saturating_mul(10);
    }
    number
}
