//! Cuts a stream of bytes into requests.

use bytes::Bytes;

use super::LINE_MAX;
use super::request::{Line, Op, PutLine, Rejected, Rejection, Request, parse_line};

/// First allocation for a body that does not arrive whole, in bytes.
const BODY_FIRST_CAPACITY: usize = 4096;

/// The CR LF after a body.
const CRLF_LEN: usize = 2;

/// A job body without its CR LF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// It lies whole in the input.
    Borrowed(&'a [u8]),
    /// It came in pieces.
    Owned(Bytes),
}

impl Body<'_> {
    /// The body as bytes of its own: copied once at most.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Body::Borrowed(body) => Bytes::copy_from_slice(body),
            Body::Owned(body) => body,
        }
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Body::Borrowed(body) => body.len(),
            Body::Owned(body) => body.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A complete `put`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// Its line.
    pub line: PutLine,
    /// Its body.
    pub body: Body<'a>,
}

/// Something that is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A job.
    Put(Put<'a>),
    /// Any other command.
    Request(Request<'a>),
    /// No request; the answer is its [`Rejection::word`].
    Rejected(Rejected),
}

/// What one call of [`Decoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Bytes of the input that are done with, also when there is no frame.
    pub consumed: usize,
    /// `None`: more input is needed.
    pub frame: Option<Frame<'a>>,
}

impl Decoded<'_> {
    const fn incomplete(consumed: usize) -> Self {
        Decoded {
            consumed,
            frame: None,
        }
    }
}

#[derive(Debug)]
enum State {
    Line,
    /// A line was too long: everything up to its end is thrown away.
    SkipLine,
    /// A body of which some is here; `body` grows with what arrives, never with what was announced.
    Body {
        line: PutLine,
        body: Vec<u8>,
    },
    /// A body over the limit: so many bytes are still to be thrown away.
    Discard {
        left: u64,
    },
}

/// Cuts the input of one connection into frames. What does not fit its limits is thrown away as it arrives.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    job_size_max: u32,
}

impl Decoder {
    /// A decoder at the start of a connection. Bodies over `job_size_max` bytes are rejected.
    #[must_use]
    pub const fn new(job_size_max: u32) -> Self {
        Decoder {
            state: State::Line,
            job_size_max,
        }
    }

    /// Bytes of an incomplete body that are kept here.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match &self.state {
            State::Body { body, .. } => body.capacity(),
            State::Line | State::SkipLine | State::Discard { .. } => 0,
        }
    }

    /// Looks for the next frame in `input`, which holds everything not consumed by earlier calls.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Decoded<'a> {
        match &mut self.state {
            State::Line => self.line(input),
            State::SkipLine => self.skip_line(input, 0),
            State::Body { .. } => self.more_body(input, 0),
            State::Discard { .. } => self.discard(input, 0),
        }
    }

    fn line<'a>(&mut self, input: &'a [u8]) -> Decoded<'a> {
        let window = &input[..input.len().min(LINE_MAX)];
        let Some(end) = find_crlf(window) else {
            if window.len() < LINE_MAX {
                return Decoded::incomplete(0);
            }
            self.state = State::SkipLine;
            return self.skip_line(input, 0);
        };
        let consumed = end + CRLF_LEN;
        let frame = match parse_line(&input[..end], self.job_size_max) {
            Line::Request(request) => Frame::Request(request),
            Line::Rejected(rejected) => Frame::Rejected(rejected),
            Line::Put(line) => return self.body(line, input, consumed),
            Line::PutTooBig { body_bytes } => {
                self.state = State::Discard {
                    left: u64::from(body_bytes) + CRLF_LEN as u64,
                };
                return self.discard(input, consumed);
            }
        };
        Decoded {
            consumed,
            frame: Some(frame),
        }
    }

    /// A body begins at `from`.
    fn body<'a>(&mut self, line: PutLine, input: &'a [u8], from: usize) -> Decoded<'a> {
        let length = line.body_bytes as usize;
        let rest = &input[from..];
        if rest.len() < length + CRLF_LEN {
            self.state = State::Body {
                line,
                body: Vec::new(),
            };
            return self.more_body(input, from);
        }
        let body = Body::Borrowed(&rest[..length]);
        let trailer = &rest[length..length + CRLF_LEN];
        Decoded {
            consumed: from + length + CRLF_LEN,
            frame: Some(put(line, body, trailer)),
        }
    }

    fn more_body<'a>(&mut self, input: &'a [u8], from: usize) -> Decoded<'a> {
        let State::Body { line, body } = &mut self.state else {
            return Decoded::incomplete(from);
        };
        let line = *line;
        let length = line.body_bytes as usize;
        let total = length + CRLF_LEN;
        let rest = &input[from..];
        let piece = &rest[..rest.len().min(total - body.len())];
        let needed = body.len() + piece.len();
        if needed > body.capacity() {
            let capacity = needed
                .max(body.capacity() * 2)
                .max(BODY_FIRST_CAPACITY)
                .min(total);
            body.reserve_exact(capacity - body.len());
        }
        body.extend_from_slice(piece);
        let consumed = from + piece.len();
        if body.len() < total {
            return Decoded::incomplete(consumed);
        }
        let mut body = std::mem::take(body);
        self.state = State::Line;
        let trailer = [body[length], body[length + 1]];
        body.truncate(length);
        Decoded {
            consumed,
            frame: Some(put(line, Body::Owned(Bytes::from(body)), &trailer)),
        }
    }

    fn skip_line<'a>(&mut self, input: &'a [u8], from: usize) -> Decoded<'a> {
        let rest = &input[from..];
        if let Some(end) = find_crlf(rest) {
            self.state = State::Line;
            return Decoded {
                consumed: from + end + CRLF_LEN,
                frame: Some(Frame::Rejected(Rejected::BAD_FORMAT)),
            };
        }
        // A CR at the end may be the first half of what is looked for.
        let kept = usize::from(rest.last() == Some(&b'\r'));
        Decoded::incomplete(input.len() - kept)
    }

    fn discard<'a>(&mut self, input: &'a [u8], from: usize) -> Decoded<'a> {
        let State::Discard { left } = &mut self.state else {
            return Decoded::incomplete(from);
        };
        let there = (input.len() - from) as u64;
        if there < *left {
            *left -= there;
            return Decoded::incomplete(input.len());
        }
        let consumed = from + *left as usize;
        self.state = State::Line;
        let rejected = Rejected::counted(Rejection::JobTooBig, Op::Put);
        Decoded {
            consumed,
            frame: Some(Frame::Rejected(rejected)),
        }
    }
}

fn put<'a>(line: PutLine, body: Body<'a>, trailer: &[u8]) -> Frame<'a> {
    if trailer == b"\r\n" {
        Frame::Put(Put { line, body })
    } else {
        Frame::Rejected(Rejected::counted(Rejection::ExpectedCrlf, Op::Put))
    }
}

/// Where the first CR LF is. A CR or LF alone ends nothing.
fn find_crlf(input: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\r', input).find(|&at| input.get(at + 1) == Some(&b'\n'))
}
