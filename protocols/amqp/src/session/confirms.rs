//! Publisher confirms: numbers in order of publishing, answers in that order too, many in one frame.
//!
//! A confirm is given when every shard that the message went to has answered, which it does when the message is as
//! durable as its queues ask. A refusal anywhere is a nack.

use std::collections::VecDeque;

use crate::codec::Method;

/// The publishes of a channel in confirm mode.
#[derive(Debug)]
pub(super) struct Confirms {
    /// Number of the first publish that is not answered.
    first: u64,
    waiting: VecDeque<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Shards that have not answered.
    left: u16,
    refused: bool,
}

impl Default for Confirms {
    fn default() -> Self {
        Confirms {
            first: 1,
            waiting: VecDeque::new(),
        }
    }
}

impl Confirms {
    /// One more publish, to so many shards; its number.
    pub(super) fn begin(&mut self, shards: usize) -> u64 {
        self.waiting.push_back(Waiting {
            left: u16::try_from(shards).unwrap_or(u16::MAX),
            refused: false,
        });
        self.first + self.waiting.len() as u64 - 1
    }

    /// How many were given or can be.
    pub(super) fn given(&self) -> u64 {
        self.first - 1
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// A shard has answered.
    pub(super) fn answered(&mut self, number: u64, refused: bool) {
        let at = number
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(waiting) = at.and_then(|at| self.waiting.get_mut(at)) {
            waiting.left = waiting.left.saturating_sub(1);
            waiting.refused |= refused;
        }
    }

    /// What can be said by now. Every frame speaks of one number, or of all up to it that were not spoken of.
    pub(super) fn take(&mut self, mut say: impl FnMut(Method<'static>)) {
        let mut run: Option<(bool, u64, u64)> = None;
        let mut flush = |run: Option<(bool, u64, u64)>| {
            if let Some((refused, from, to)) = run {
                say(answer(refused, to, to > from));
            }
        };
        while let Some(done) = self.waiting.pop_front_if(|waiting| waiting.left == 0) {
            let number = self.first;
            self.first += 1;
            run = Some(match run {
                Some((refused, from, _)) if refused == done.refused => (refused, from, number),
                other => {
                    flush(other);
                    (done.refused, number, number)
                }
            });
        }
        flush(run);
    }
}

fn answer(refused: bool, delivery_tag: u64, multiple: bool) -> Method<'static> {
    if refused {
        Method::BasicNack {
            delivery_tag,
            multiple,
            requeue: false,
        }
    } else {
        Method::BasicAck {
            delivery_tag,
            multiple,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(confirms: &mut Confirms) -> Vec<Method<'static>> {
        let mut said = Vec::new();
        confirms.take(|method| said.push(method));
        said
    }

    #[test]
    fn answers_come_in_order_and_together() {
        let mut confirms = Confirms::default();
        assert_eq!(confirms.begin(2), 1);
        assert_eq!(
            (confirms.begin(1), confirms.begin(0), confirms.begin(1)),
            (2, 3, 4)
        );
        confirms.answered(2, false);
        assert_eq!(said(&mut confirms), []);
        confirms.answered(1, false);
        assert_eq!(said(&mut confirms), []);
        confirms.answered(1, false);
        assert_eq!(said(&mut confirms), [answer(false, 3, true)]);
        confirms.answered(4, false);
        assert_eq!(said(&mut confirms), [answer(false, 4, false)]);
    }

    #[test]
    fn a_refusal_is_never_within_an_acknowledgement() {
        let mut confirms = Confirms::default();
        for _ in 0..6 {
            confirms.begin(1);
        }
        confirms.begin(2);
        for number in 1..=6 {
            confirms.answered(number, number == 3 || number == 4);
        }
        let expected = [
            answer(false, 2, true),
            answer(true, 4, true),
            answer(false, 6, true),
        ];
        assert_eq!(said(&mut confirms), expected);
        confirms.answered(7, true);
        confirms.answered(7, false);
        assert_eq!(said(&mut confirms), [answer(true, 7, false)]);
    }
}
