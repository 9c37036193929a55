//! Messages on their way to the client, as frames.
//!
//! What is small is copied into the outbox. A large body that lies in an allocation of its own is referred to: nobody
//! copies it until the system takes it.

use bytes::Bytes;
use longtail_edge::{Out, SHARED_BYTES_MIN};
use longtail_engine::Message;

use super::Shared;
use super::content::Envelope;
use crate::codec::{
    FRAME_END, FRAME_OVERHEAD, Method, ReplyCode, body_head, body_pieces, put_body,
    put_content_header,
};
use crate::exception::Exception;

/// Octets of a content header in front of the properties, with those around the frame.
const HEADER_OVERHEAD: usize = 14 + FRAME_OVERHEAD as usize;

/// The body of a message, and the allocation of its own that it lies in, if it does.
#[derive(Clone, Copy)]
pub(super) struct Body<'a> {
    pub(super) octets: &'a [u8],
    shared: Option<&'a Bytes>,
}

impl<'a> Body<'a> {
    pub(super) fn of(message: &Message<'a>) -> Self {
        Body {
            octets: message.payload,
            shared: message.shared,
        }
    }

    /// To keep it.
    pub(super) fn share(self) -> Bytes {
        self.shared
            .cloned()
            .unwrap_or_else(|| Bytes::copy_from_slice(self.octets))
    }

    /// What is referred to instead of being copied.
    fn referred(self) -> Option<&'a Bytes> {
        self.shared
            .filter(|shared| shared.len() >= SHARED_BYTES_MIN)
    }

    /// Octets that its frames need in the outbox's tail, where it is one.
    pub(super) fn room(self) -> usize {
        let copied = match self.referred() {
            Some(_) => 0,
            None => self.octets.len(),
        };
        copied + FRAME_OVERHEAD as usize
    }

    /// Appends its frames, of at most `frame_max` octets (0: no limit).
    pub(super) fn write(self, channel: u16, frame_max: u32, out: &mut Out) {
        let Some(shared) = self.referred() else {
            put_body(channel, self.octets, frame_max, out.tail());
            return;
        };
        for piece in body_pieces(shared.len(), frame_max) {
            out.put(&body_head(channel, piece.len()));
            out.put_bytes(shared.slice(piece));
            out.put(&[FRAME_END]);
        }
    }
}

impl<'a> From<&'a Bytes> for Body<'a> {
    fn from(shared: &'a Bytes) -> Self {
        Body {
            octets: shared,
            shared: Some(shared),
        }
    }
}

/// A header frame cannot be divided.
pub(super) fn check_header(envelope: &Envelope<'_>, shared: &Shared) -> Result<(), Exception> {
    let size = envelope.properties.len() + HEADER_OVERHEAD;
    let max = shared.frame_max as usize;
    if max > 0 && size > max {
        return Err(Exception::new(
            ReplyCode::FrameError,
            format!(
                "the properties of a message need a frame of {size} bytes; negotiated are {max}"
            ),
        ));
    }
    Ok(())
}

/// A method and the content that follows it.
pub(super) fn write_content(
    method: &Method<'_>,
    channel: u16,
    properties: &[u8],
    body: Body<'_>,
    frame_max: u32,
    out: &mut Out,
) {
    let tail = out.tail();
    let before = tail.len();
    let written = method
        .encode(channel, tail)
        .and_then(|()| put_content_header(channel, properties, body.octets.len(), tail));
    if let Err(error) = written {
        tail.truncate(before);
        tracing::error!(%error, "a message cannot be written");
        return;
    }
    body.write(channel, frame_max, out);
}

#[cfg(test)]
mod tests {
    use longtail_edge::testing::written;

    use super::*;
    use crate::codec::put_content;

    #[test]
    fn what_is_referred_to_is_written_as_what_is_copied() {
        let large = Bytes::from(vec![7; 3 * SHARED_BYTES_MIN + 5]);
        for length in [0, 1, SHARED_BYTES_MIN - 1, SHARED_BYTES_MIN, large.len()] {
            for frame_max in [0, 4096, SHARED_BYTES_MIN as u32 + FRAME_OVERHEAD, 131_072] {
                let body = large.slice(..length);
                let mut expected = Vec::new();
                put_content(9, &[0, 0], &body, frame_max, &mut expected).unwrap();
                let lent = Body {
                    octets: &body,
                    shared: None,
                };
                for body in [lent, Body::from(&body)] {
                    let mut out = Out::new(usize::MAX);
                    put_content_header(9, &[0, 0], length, out.tail()).unwrap();
                    body.write(9, frame_max, &mut out);
                    assert_eq!(written(&mut out), expected, "{length} in {frame_max}");
                }
            }
        }
    }
}
