//! Frames (specification, 4.2): `type octet, channel short, size long, payload, 0xCE`, and the header that opens a
//! connection.

use std::ops::Range;

use super::fault::{EncodeError, Fault};
use super::properties::ContentHeader;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A method.
    Method = 1,
    /// What there is to know of content.
    Header = 2,
    /// A piece of content.
    Body = 3,
    /// Nothing.
    Heartbeat = 8,
}

impl FrameKind {
    fn of(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => FrameKind::Method,
            2 => FrameKind::Header,
            3 => FrameKind::Body,
            8 => FrameKind::Heartbeat,
            _ => return None,
        })
    }
}

/// A frame. Borrows from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// The channel it is for.
    pub channel: u16,
    /// The payload.
    pub payload: &'a [u8],
}

/// Octets around a payload.
pub const FRAME_OVERHEAD: u32 = 8;

/// Octets in front of a payload.
const HEAD: usize = 7;

/// The last octet of every frame.
pub const FRAME_END: u8 = 0xCE;

/// An empty heartbeat frame.
pub const HEARTBEAT: [u8; 8] = [FrameKind::Heartbeat as u8, 0, 0, 0, 0, 0, 0, FRAME_END];

/// Takes frames off the input.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Largest frame, the octets around the payload included.
    frame_max: u32,
}

impl Decoder {
    /// Takes frames up to `frame_max` octets.
    #[must_use]
    pub const fn new(frame_max: u32) -> Self {
        Decoder { frame_max }
    }

    /// The first frame of `input`, and how many octets it has; `None`: it is not complete.
    ///
    /// # Errors
    /// What is wrong with it; nothing behind it can be read then.
    pub fn decode<'a>(&self, input: &'a [u8]) -> Result<Option<(usize, Frame<'a>)>, Fault> {
        let Some(&octet) = input.first() else {
            return Ok(None);
        };
        let kind = FrameKind::of(octet).ok_or(Fault::FrameType(octet))?;
        let Some(&[_, c1, c0, s3, s2, s1, s0]) = input.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([s3, s2, s1, s0]);
        // As RabbitMQ: some clients forget that the limit has the octets around the payload in it.
        if size > self.frame_max {
            return Err(Fault::FrameTooLarge {
                kind: octet,
                size: u64::from(size) + u64::from(FRAME_OVERHEAD),
                max: self.frame_max,
            });
        }
        if kind == FrameKind::Heartbeat && size > 0 {
            return Err(Fault::Heartbeat);
        }
        let size = size as usize;
        let Some(&end) = input.get(HEAD + size) else {
            return Ok(None);
        };
        if end != FRAME_END {
            return Err(Fault::FrameEnd(end));
        }
        let payload = input.get(HEAD..HEAD + size).unwrap_or_default();
        let frame = Frame {
            kind,
            channel: u16::from_be_bytes([c1, c0]),
            payload,
        };
        Ok(Some((HEAD + size + 1, frame)))
    }
}

/// Appends a frame whose payload `write` appends; nothing when that fails.
pub(super) fn frame(
    kind: FrameKind,
    channel: u16,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    let [c1, c0] = channel.to_be_bytes();
    out.extend_from_slice(&[kind as u8, c1, c0, 0, 0, 0, 0]);
    let mut written = write(out);
    let size = out.len() - start - HEAD;
    match (u32::try_from(size), out.get_mut(start + 3..start + HEAD)) {
        (Ok(size), Some(place)) => place.copy_from_slice(&size.to_be_bytes()),
        _ => written = written.and(Err(EncodeError::TooLong(size))),
    }
    if written.is_ok() {
        out.push(FRAME_END);
    } else {
        out.truncate(start);
    }
    written
}

/// Appends content behind its method: the header, and the body in frames of at most `frame_max` octets (0: no limit).
/// `properties` are flags and values as [`ContentHeader`] has them.
///
/// # Errors
/// When something has no form on the wire; nothing is appended then.
pub fn put_content(
    channel: u16,
    properties: &[u8],
    body: &[u8],
    frame_max: u32,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    put_content_header(channel, properties, body.len(), out)?;
    put_body(channel, body, frame_max, out);
    Ok(())
}

/// Appends the header of a content whose body has `body_size` octets.
///
/// # Errors
/// When something has no form on the wire; nothing is appended then.
pub fn put_content_header(
    channel: u16,
    properties: &[u8],
    body_size: usize,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let header = ContentHeader {
        class: super::Method::BASIC,
        body_size: body_size as u64,
        properties,
    };
    header.encode(channel, out)
}

/// Appends a body in frames of at most `frame_max` octets (0: no limit).
pub fn put_body(channel: u16, body: &[u8], frame_max: u32, out: &mut Vec<u8>) {
    for piece in body.chunks(piece_max(frame_max)) {
        out.extend_from_slice(&body_head(channel, piece.len()));
        out.extend_from_slice(piece);
        out.push(FRAME_END);
    }
}

/// How a body of `length` octets is divided among frames of at most `frame_max` (0: no limit).
pub fn body_pieces(length: usize, frame_max: u32) -> impl Iterator<Item = Range<usize>> {
    let most = piece_max(frame_max);
    (0..length)
        .step_by(most)
        .map(move |start| start..length.min(start.saturating_add(most)))
}

fn piece_max(frame_max: u32) -> usize {
    match frame_max.saturating_sub(FRAME_OVERHEAD) {
        0 => u32::MAX as usize - HEAD,
        most => most as usize,
    }
}

/// What stands in front of a piece of a body, which is one of [`body_pieces`]; [`FRAME_END`] follows the piece.
#[must_use]
pub fn body_head(channel: u16, length: usize) -> [u8; HEAD] {
    let [c1, c0] = channel.to_be_bytes();
    // Pieces are at most as long as a frame may be.
    let [s3, s2, s1, s0] = (length as u32).to_be_bytes();
    [FrameKind::Body as u8, c1, c0, s3, s2, s1, s0]
}

/// What opens a connection.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// The same as 0-9 clients send it.
const PROTOCOL_HEADER_0_9: [u8; 8] = *b"AMQP\x01\x01\0\x09";

/// What the first octets of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// So far they may be one.
    Incomplete,
    /// 0-9-1 or 0-9.
    Welcome,
    /// Something else: it is answered with [`PROTOCOL_HEADER`].
    Foreign,
}

impl Greeting {
    /// Octets of a greeting.
    pub const LEN: usize = PROTOCOL_HEADER.len();

    /// Looks at the first octets.
    #[must_use]
    pub fn of(input: &[u8]) -> Self {
        let seen = input.get(..Self::LEN).unwrap_or(input);
        let fits = [PROTOCOL_HEADER, PROTOCOL_HEADER_0_9]
            .iter()
            .any(|header| header.starts_with(seen));
        match (fits, seen.len() == Self::LEN) {
            (true, true) => Greeting::Welcome,
            (true, false) => Greeting::Incomplete,
            (false, _) => Greeting::Foreign,
        }
    }
}
