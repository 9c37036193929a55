//! How much one connection may read before the others have their turn: one read, or some more where they take little
//! time, as large messages do. They are then answered together, in fewer and larger pieces.

use std::time::Duration;

use super::READ_BYTES;

/// Reads of a turn at most.
const READS_MAX: u32 = 4;

/// No further read is begun after this time.
const LONG: Duration = Duration::from_micros(150);

/// One turn.
#[derive(Debug)]
pub(super) struct Turn {
    /// What is left of this read.
    room: usize,
    /// Reads after this one.
    reads: u32,
    /// When the first read had filled its room. Until then nobody looks at the clock.
    began: Option<Duration>,
}

impl Default for Turn {
    fn default() -> Self {
        Turn {
            room: READ_BYTES,
            reads: READS_MAX - 1,
            began: None,
        }
    }
}

impl Turn {
    /// What may be read now; 0: the turn is over.
    pub(super) fn room(&mut self, now: impl FnOnce() -> Duration) -> usize {
        if self.room == 0 && self.reads > 0 && self.began.is_some_and(|began| now() < began + LONG)
        {
            self.reads -= 1;
            self.room = READ_BYTES;
        }
        self.room
    }

    /// So much was read, and is not yet looked at.
    pub(super) fn took(&mut self, count: usize, now: impl FnOnce() -> Duration) {
        self.room = self.room.saturating_sub(count);
        if self.room == 0 && self.began.is_none() {
            self.began = Some(now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(5);

    #[test]
    fn a_turn_goes_on_while_it_is_short() {
        let mut turn = Turn::default();
        for read in 0..READS_MAX {
            let now = START + Duration::from_micros(read.into());
            assert_eq!(turn.room(|| now), READ_BYTES);
            turn.took(READ_BYTES - 1, || now);
            assert_eq!(turn.room(|| now), 1);
            turn.took(1, || now);
        }
        assert_eq!(turn.room(|| START), 0);
    }

    #[test]
    fn one_that_took_long_is_over() {
        let mut turn = Turn::default();
        turn.took(READ_BYTES, || START);
        assert_eq!(turn.room(|| START + LONG), 0);
    }

    #[test]
    fn nobody_looks_at_the_clock_for_little_input() {
        let mut turn = Turn::default();
        turn.took(READ_BYTES - 1, || unreachable!("the read was not full"));
        assert_eq!(turn.room(|| unreachable!("there is room")), 1);
    }
}
