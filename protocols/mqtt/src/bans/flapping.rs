//! Clients that come and go too often.

use std::sync::Arc;

use hashbrown::HashMap;
use longtail_model::Timestamp;
use parking_lot::Mutex;

use super::{Ban, Who};

/// Clients whose connects are counted at a time.
const COUNTED_MAX: usize = 100_000;

/// When a client that connects again and again is kept out for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flapping {
    /// Connects of one client within the window that are too many; 0: nobody counts.
    pub connects_max: u32,
    /// The window, in milliseconds.
    pub window_ms: u64,
    /// How long it is kept out, in milliseconds.
    pub ban_ms: u64,
}

impl Default for Flapping {
    /// Nobody counts.
    fn default() -> Self {
        Flapping {
            connects_max: 0,
            window_ms: 60_000,
            ban_ms: 300_000,
        }
    }
}

/// Connects of one client in the present window.
struct Count {
    since: Timestamp,
    connects: u32,
}

/// Connects of the clients of a space.
pub(super) struct Connects {
    flapping: Flapping,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    clients: HashMap<Arc<str>, Count, foldhash::fast::RandomState>,
    /// When those whose window was over were forgotten last.
    tidied: Timestamp,
}

impl Connects {
    pub(super) fn new(flapping: Flapping) -> Self {
        Connects {
            flapping,
            counts: Mutex::default(),
        }
    }

    /// A client was let in; the ban that it gets if that was once too often.
    pub(super) fn count(&self, client_id: &Arc<str>, now: Timestamp) -> Option<Ban> {
        let Flapping {
            connects_max,
            window_ms,
            ban_ms,
        } = self.flapping;
        if connects_max == 0 {
            return None;
        }
        let mut counts = self.counts.lock();
        let Counts { clients, tidied } = &mut *counts;
        let is_over = |count: &Count| count.since.plus_millis(window_ms) <= now;
        // Once a window: who comes with a new identifier each time has nobody look through all of them.
        if tidied.plus_millis(window_ms) <= now {
            *tidied = now;
            clients.retain(|_, count| !is_over(count));
        }
        if clients.len() >= COUNTED_MAX && !clients.contains_key(client_id) {
            return None;
        }
        let fresh = Count {
            since: now,
            connects: 0,
        };
        let count = clients.entry(Arc::clone(client_id)).or_insert(fresh);
        if is_over(count) {
            *count = Count {
                since: now,
                connects: 0,
            };
        }
        count.connects += 1;
        if count.connects <= connects_max {
            return None;
        }
        clients.remove(client_id);
        Some(Ban {
            who: Who::Client(Arc::clone(client_id)),
            since: now,
            until: now.plus_millis(ban_ms),
            reason: format!("connected more than {connects_max} times in {window_ms} ms").into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    #[test]
    fn a_client_that_connects_too_often_gets_a_ban() {
        let connects = Connects::new(Flapping {
            connects_max: 3,
            window_ms: 1000,
            ban_ms: 5000,
        });
        let id: Arc<str> = "c".into();
        for _ in 0..3 {
            assert_eq!(connects.count(&id, NOW), None);
        }
        assert_eq!(connects.count(&"d".into(), NOW), None, "another one");
        let ban = connects.count(&id, NOW.plus_millis(999)).unwrap();
        assert_eq!(ban.until, NOW.plus_millis(5999));
        for _ in 0..3 {
            assert_eq!(connects.count(&id, NOW), None, "counted anew");
        }
        assert_eq!(connects.count(&id, NOW.plus_millis(1000)), None);
    }

    #[test]
    fn clients_that_came_once_are_forgotten_without_anybody_being_banned() {
        let connects = Connects::new(Flapping {
            connects_max: 3,
            window_ms: 1000,
            ban_ms: 5000,
        });
        for (number, at) in [(0, 0), (1, 400), (2, 999), (3, 1000), (4, 2400)] {
            let id: Arc<str> = format!("c{number}").into();
            assert_eq!(connects.count(&id, NOW.plus_millis(at)), None);
        }
        assert_eq!(connects.counts.lock().clients.len(), 1, "the last one");
    }
}
