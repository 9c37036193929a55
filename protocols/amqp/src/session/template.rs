//! The frames in front of a message's body, kept for the next delivery: what a queue holds mostly differs in nothing but
//! the body, and then a copy with another delivery tag is all that has to be made.

/// Headers of a record that are worth keeping, in octets.
const HEADERS_MAX: usize = 512;

/// Where the delivery tag is behind the consumer tag, and the flag behind that.
const REDELIVERED_AT: usize = 8;

/// `basic.deliver` and the content header of the last message of a consumer.
#[derive(Debug, Default)]
pub(super) struct Template {
    /// The headers of its record, from which all of it follows but for what is filled in.
    headers: Vec<u8>,
    frames: Vec<u8>,
    /// Where in the frames the delivery tag is, and the size of the body.
    tag_at: usize,
    size_at: usize,
}

/// Octets in front of a frame's payload.
const HEAD: usize = 7;

/// From the start of `basic.deliver` to its delivery tag: the frame's head, class and method, the length of the consumer
/// tag. And from the start of a content header to the size: the frame's head, class and weight.
const BEFORE_TAG: usize = HEAD + 4 + 1;
const BEFORE_SIZE: usize = HEAD + 4;

impl Template {
    /// Keeps what was written for a message with these headers: the frames in front of the body. `method`: octets of the
    /// first of the two.
    pub(super) fn keep(
        &mut self,
        headers: &[u8],
        frames: &[u8],
        method: usize,
        consumer_tag: &str,
    ) {
        self.headers.clear();
        self.frames.clear();
        if headers.is_empty() || headers.len() > HEADERS_MAX {
            return;
        }
        self.headers.extend_from_slice(headers);
        self.frames.extend_from_slice(frames);
        self.tag_at = BEFORE_TAG + consumer_tag.len();
        self.size_at = method + BEFORE_SIZE;
    }

    /// Writes what stands before the body of a message with the same headers, with room for `room` octets behind it;
    /// `false`, and nothing is written: it has others.
    pub(super) fn write(
        &self,
        (headers, size): (&[u8], usize),
        (tag, redelivered): (u64, bool),
        room: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        if headers != self.headers || headers.is_empty() {
            return false;
        }
        out.reserve(self.frames.len() + room);
        let start = out.len();
        out.extend_from_slice(&self.frames);
        let mut fill = |at: usize, octets: &[u8]| {
            if let Some(place) = out.get_mut(start + at..start + at + octets.len()) {
                place.copy_from_slice(octets);
            }
        };
        fill(self.tag_at, &tag.to_be_bytes());
        fill(self.tag_at + REDELIVERED_AT, &[u8::from(redelivered)]);
        fill(self.size_at, &(size as u64).to_be_bytes());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Method, put_body, put_content};

    /// Octets of the method, and all.
    fn encoded(tag: u64, redelivered: bool, body: &[u8]) -> (usize, Vec<u8>) {
        let deliver = Method::BasicDeliver {
            consumer_tag: "ctag",
            delivery_tag: tag,
            redelivered,
            exchange: "amq.topic",
            routing_key: "a.b",
        };
        let mut out = Vec::new();
        deliver.encode(3, &mut out).unwrap();
        let method = out.len();
        put_content(3, b"\x10\0\x02", body, 4096, &mut out).unwrap();
        (method, out)
    }

    #[test]
    fn what_is_written_from_it_is_what_would_be_encoded() {
        let mut template = Template::default();
        let mut out = Vec::new();
        assert!(!template.write((b"", 0), (1, false), 0, &mut out));
        let (method, first) = encoded(1, false, b"first");
        let front = &first[..first.len() - HEAD - 5 - 1];
        template.keep(b"headers", front, method, "ctag");
        for (tag, redelivered, body) in [(2, true, &b"second"[..]), (1 << 40, false, b"")] {
            out.clear();
            let how = (tag, redelivered);
            assert!(template.write((b"headers", body.len()), how, 9, &mut out));
            put_body(3, body, 4096, &mut out);
            assert_eq!(out, encoded(tag, redelivered, body).1);
        }
        out.clear();
        assert!(!template.write((b"others", 0), (1, false), 0, &mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn long_headers_are_not_kept() {
        let mut template = Template::default();
        let (method, first) = encoded(1, false, b"");
        let long = [1; HEADERS_MAX + 1];
        template.keep(&long, &first, method, "ctag");
        assert!(!template.write((&long, 0), (1, false), 0, &mut Vec::new()));
    }
}
