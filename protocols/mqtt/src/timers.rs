//! When something is due: a list by time that a thread of the service looks at.

use std::collections::BTreeMap;
use std::time::Duration;

use longtail_model::Timestamp;
use parking_lot::{Condvar, Mutex};

/// Names an entry, to take it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey(Timestamp, u64);

impl TimerKey {
    /// When it is due.
    pub(crate) fn at(self) -> Timestamp {
        self.0
    }
}

/// Things that are due at some time.
pub(crate) struct Timers<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    due: BTreeMap<TimerKey, T>,
    count: u64,
    closed: bool,
}

/// What [`Timers::wait`] came to.
pub(crate) enum Waited<T> {
    /// This is due.
    Due(T),
    /// Nothing was due for as long as was to be waited.
    Nothing,
    /// Nothing will be due any more.
    Closed,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Timers {
            state: Mutex::new(State {
                due: BTreeMap::new(),
                count: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn set(&self, at: Timestamp, what: T) -> TimerKey {
        let mut state = self.state.lock();
        state.count += 1;
        let key = TimerKey(at, state.count);
        let is_first = state
            .due
            .first_key_value()
            .is_none_or(|(first, _)| key < *first);
        state.due.insert(key, what);
        if is_first {
            self.changed.notify_one();
        }
        key
    }

    pub(crate) fn cancel(&self, key: TimerKey) {
        self.state.lock().due.remove(&key);
    }

    /// The next that is due, waiting for `at_most`. `now` is asked when there may be something.
    pub(crate) fn wait(&self, now: impl Fn() -> Timestamp, at_most: Duration) -> Waited<T> {
        let mut state = self.state.lock();
        if state.closed {
            return Waited::Closed;
        }
        let now_ms = now().0;
        let left = state
            .due
            .first_key_value()
            .map(|(key, _)| Duration::from_millis(key.0.0.saturating_sub(now_ms)));
        match left {
            Some(left) if left.is_zero() => {
                return match state.due.pop_first() {
                    Some((_, what)) => Waited::Due(what),
                    None => Waited::Nothing,
                };
            }
            Some(left) => self.changed.wait_for(&mut state, left.min(at_most)),
            None => self.changed.wait_for(&mut state, at_most),
        };
        Waited::Nothing
    }

    /// The time is another than it seemed: whoever waits looks again.
    pub(crate) fn look_again(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_order_and_what_was_taken_back_does_not() {
        let timers = Timers::new();
        timers.set(Timestamp(30), "c");
        timers.set(Timestamp(10), "a");
        let b = timers.set(Timestamp(20), "b");
        timers.set(Timestamp(10), "a again");
        timers.cancel(b);
        let due = |now| match timers.wait(|| Timestamp(now), Duration::ZERO) {
            Waited::Due(what) => Some(what),
            Waited::Nothing | Waited::Closed => None,
        };
        assert_eq!(due(9), None);
        assert_eq!(due(25), Some("a"));
        assert_eq!(due(25), Some("a again"));
        assert_eq!(due(25), None);
        assert_eq!(due(30), Some("c"));
        timers.close();
        assert!(matches!(
            timers.wait(|| Timestamp(0), Duration::ZERO),
            Waited::Closed
        ));
    }
}
