//! Input that waits: the beginning of an incomplete message, or what came while the protocol pauses.

/// Input the protocol has not consumed yet.
#[derive(Default)]
pub(super) struct Kept {
    buffer: Vec<u8>,
    start: usize,
}

impl Kept {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Forgets the first `count` bytes. The rest moves to the front only when it is the smaller half, so that many small
    /// steps through a large buffer cost no more than its size.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            self.clear();
        } else if self.start > self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Kept::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_steps_leave_what_is_not_consumed() {
        let all: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        let mut kept = Kept::default();
        let mut pushed = 0;
        let mut consumed = 0;
        while consumed < all.len() {
            let more = (all.len() - pushed).min(977);
            kept.push(&all[pushed..pushed + more]);
            pushed += more;
            assert_eq!(kept.bytes(), &all[consumed..pushed]);
            let step = kept.len().min(500 + consumed % 1000);
            kept.consume(step);
            consumed += step;
        }
        assert!(kept.is_empty());
        assert_eq!(kept.buffer.capacity(), 0);
    }
}
