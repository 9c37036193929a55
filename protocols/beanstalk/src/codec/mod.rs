//! The wire: bytes to requests and replies to bytes.
//!
//! ```text
//! bytes ──▶ Decoder ──▶ Frame ──▶ session        session ──▶ reply::* ──▶ bytes
//! ```
//!
//! No I/O, no clock, no shared state. [`Decoder`] cuts the stream into lines and bodies (and throws away what must be
//! thrown away), [`request`] understands one line, [`reply`] writes answers. What comes out does not depend on how
//! the bytes were cut into reads.

mod decoder;
mod number;
pub mod reply;
pub mod request;

#[cfg(test)]
mod tests;

pub use decoder::{Body, Decoded, Decoder, Frame, Put};
pub use reply::Word;
pub use request::{Line, Op, PutLine, Rejected, Rejection, Request};

/// Longest command line, CR LF included.
pub const LINE_MAX: usize = 224;

/// Longest tube name in bytes.
pub const TUBE_NAME_MAX: usize = 200;

/// Largest job body unless configured otherwise, in bytes.
pub const JOB_SIZE_DEFAULT: u32 = 65_535;

/// The most that the largest job body can be configured to, in bytes.
pub const JOB_SIZE_LIMIT: u32 = 1 << 30;

/// Feeds `bytes` to a decoder in the pieces that the first bytes ask for, and checks what a decoder promises whatever
/// the input: it makes progress or wants more, and never consumes more than it was shown. For the fuzzer.
pub fn fuzz(bytes: &[u8]) {
    let Some((&cut, stream)) = bytes.split_first() else {
        return;
    };
    let piece = usize::from(cut) + 1;
    let mut decoder = Decoder::new(1024);
    let mut held = Vec::new();
    for chunk in stream.chunks(piece) {
        held.extend_from_slice(chunk);
        let mut at = 0;
        loop {
            let decoded = decoder.decode(&held[at..]);
            assert!(
                decoded.consumed <= held.len() - at,
                "consumed more than there was"
            );
            let frame = decoded.frame.is_some();
            if let Some(Frame::Put(put)) = &decoded.frame {
                assert!(put.body.len() <= 1024, "a body over the limit came through");
            }
            at += decoded.consumed;
            assert!(!frame || decoded.consumed > 0, "a request out of nothing");
            if !frame {
                break;
            }
        }
        held.drain(..at);
        assert!(held.len() < LINE_MAX, "an overlong line was kept");
    }
}
