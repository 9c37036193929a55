//! Commands encoded ahead, so that sending a burst costs one write and no encoding.

use std::sync::{Arc, Mutex, PoisonError};

/// Seconds a worker may hold a job: longer than any run, so that no job comes back.
const TTR_S: u32 = 3600;
/// Priority of all jobs: not urgent, so that the server's count of urgent jobs stays out of it.
const PRIORITY: u32 = 2048;
/// Bytes of the sending time at the start of a producer's body: hexadecimal nanoseconds.
pub(super) const STAMP_BYTES: usize = 16;

/// As many copies of one command as a burst may have.
#[derive(Clone, Debug)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    each: usize,
    /// Where the body of a put begins.
    body_at: usize,
}

impl Frames {
    /// Puts of `body_bytes` each.
    pub(super) fn put(body_bytes: usize, copies: u32) -> Self {
        let mut put = format!("put {PRIORITY} 0 {TTR_S} {body_bytes}\r\n").into_bytes();
        let body_at = put.len();
        put.resize(body_at + body_bytes, b'x');
        put.extend_from_slice(b"\r\n");
        Frames {
            body_at,
            ..Frames::new(&put, copies)
        }
    }

    /// Commands without a body.
    pub(super) fn new(command: &[u8], copies: u32) -> Self {
        Frames {
            bytes: command.repeat(copies as usize),
            each: command.len(),
            body_at: 0,
        }
    }

    /// The first `count` of them.
    pub(super) fn first(&self, count: u32) -> &[u8] {
        let end = self.each * count as usize;
        self.bytes.get(..end).unwrap_or(&self.bytes)
    }

    /// Writes the time into the bodies of the first `count` puts; bodies too short for it stay as they are.
    pub(super) fn stamp(&mut self, count: u32, ns: u64) {
        let digits = hexadecimal(ns);
        let place = self.body_at..self.body_at + STAMP_BYTES;
        if place.end + 2 > self.each {
            return;
        }
        for frame in self.bytes.chunks_exact_mut(self.each).take(count as usize) {
            if let Some(place) = frame.get_mut(place.clone()) {
                place.copy_from_slice(&digits);
            }
        }
    }
}

fn hexadecimal(ns: u64) -> [u8; STAMP_BYTES] {
    let mut digits = [b'0'; STAMP_BYTES];
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        let nibble = (ns >> (4 * place)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    digits
}

/// The puts encoded last, which all connections of a load share: bodies may be large.
#[derive(Debug, Default)]
pub(super) struct SharedPuts(Mutex<Option<(usize, u32, Arc<Frames>)>>);

impl SharedPuts {
    /// Those of this size.
    pub(super) fn get(&self, body_bytes: usize, copies: u32) -> Arc<Frames> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref() {
            Some((bytes, depth, frames)) if (*bytes, *depth) == (body_bytes, copies) => {
                Arc::clone(frames)
            }
            _ => {
                let frames = Arc::new(Frames::put(body_bytes, copies));
                *last = Some((body_bytes, copies, Arc::clone(&frames)));
                frames
            }
        }
    }
}
