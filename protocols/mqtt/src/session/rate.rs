//! How fast a client may publish: a bucket of messages that fills with time. A client that is faster is not heard for a
//! while, so that its socket holds it up, or has to go; what it has sent is taken.

use longtail_model::Timestamp;

use crate::config::{FastPublisher, Limits};

/// A thousandth of a message is what a rate of one a second gives in a millisecond.
const MESSAGE: u64 = 1000;

/// What is left of a client's rate. A second's worth is there at the start, and gathers while the client is silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// In thousandths of a message.
    left: u64,
    at: Timestamp,
    /// Nothing is heard until then.
    until: Option<Timestamp>,
}

/// What a publish does to the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    /// There is more.
    More,
    /// This was the last for now: the client is to be heard again at [`Bucket::wait`].
    Last,
    /// It is one too many.
    TooMany,
}

impl Bucket {
    pub(super) fn new(limits: &Limits, now: Timestamp) -> Self {
        Bucket {
            left: u64::from(limits.publish_rate_max) * MESSAGE,
            at: now,
            until: None,
        }
    }

    /// A message was published.
    pub(super) fn spend(&mut self, limits: &Limits, now: Timestamp) -> Spent {
        let rate = u64::from(limits.publish_rate_max);
        // A thousandth of the rate a millisecond, in thousandths of a message.
        let gained = now.millis_since(self.at).saturating_mul(rate);
        self.left = self.left.saturating_add(gained).min(rate * MESSAGE);
        self.at = self.at.max(now);
        let left = self.left.checked_sub(MESSAGE);
        self.left = left.unwrap_or(0);
        if left.is_none() && limits.fast_publisher == FastPublisher::Disconnect {
            return Spent::TooMany;
        }
        if self.left >= MESSAGE || limits.fast_publisher == FastPublisher::Disconnect {
            return Spent::More;
        }
        let missing = (MESSAGE - self.left).div_ceil(rate);
        self.until = Some(now.plus_millis(missing));
        Spent::Last
    }

    /// Until when nothing was to be heard, when it was last looked at.
    pub(super) fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// Until when nothing is heard.
    pub(super) fn wait(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.until = self.until.filter(|until| *until > now);
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rate: u32, fast_publisher: FastPublisher) -> Limits {
        Limits {
            publish_rate_max: rate,
            fast_publisher,
            ..Limits::default()
        }
    }

    #[test]
    fn a_client_publishes_a_seconds_worth_at_once_and_then_at_its_rate() {
        let limits = limits(10, FastPublisher::Wait);
        let mut now = Timestamp(5_000);
        let mut bucket = Bucket::new(&limits, now);
        for _ in 0..9 {
            assert_eq!(bucket.spend(&limits, now), Spent::More);
        }
        for _ in 0..5 {
            assert_eq!(bucket.spend(&limits, now), Spent::Last);
            let until = bucket.wait(now).unwrap();
            assert_eq!(until, now.plus_millis(100));
            assert_eq!(bucket.wait(Timestamp(until.0 - 1)), Some(until));
            assert_eq!(bucket.wait(until), None);
            now = until;
        }
        // Silence gathers no more than a second.
        now = now.plus_millis(60_000);
        let spent: Vec<_> = (0..10).map(|_| bucket.spend(&limits, now)).collect();
        assert_eq!(spent[..9], [Spent::More; 9]);
        assert_eq!(spent[9], Spent::Last);
    }

    #[test]
    fn a_client_that_is_to_go_goes_with_the_first_message_too_many() {
        let limits = limits(2, FastPublisher::Disconnect);
        let now = Timestamp(1);
        let mut bucket = Bucket::new(&limits, now);
        assert_eq!(bucket.spend(&limits, now), Spent::More);
        assert_eq!(bucket.spend(&limits, now), Spent::More);
        assert_eq!(bucket.wait(now), None);
        assert_eq!(bucket.spend(&limits, now), Spent::TooMany);
        assert_eq!(
            bucket.spend(&limits, now.plus_millis(500)),
            Spent::More,
            "half a second is one more"
        );
    }

    #[test]
    fn a_clock_that_goes_back_costs_nothing() {
        let limits = limits(1_000_000, FastPublisher::Wait);
        let mut bucket = Bucket::new(&limits, Timestamp(1_000));
        assert_eq!(bucket.spend(&limits, Timestamp(10)), Spent::More);
        assert_eq!(bucket.spend(&limits, Timestamp(1_001)), Spent::More);
    }
}
