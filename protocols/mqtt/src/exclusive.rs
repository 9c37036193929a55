//! Subscriptions of which there is one: `$exclusive/{filter}`.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

/// Who has which filter for itself. An owner is a client identifier: the subscription is its session's, and stays while
/// the client is away.
#[derive(Debug, Default)]
pub struct Exclusive {
    owners: Mutex<HashMap<Box<str>, Arc<str>, foldhash::fast::RandomState>>,
}

impl Exclusive {
    /// `client_id` wants `filter` for itself; `false` if another has it.
    pub fn claim(&self, filter: &str, client_id: &Arc<str>) -> bool {
        let mut owners = self.owners.lock();
        match owners.get(filter) {
            Some(owner) => owner == client_id,
            None => {
                owners.insert(filter.into(), Arc::clone(client_id));
                true
            }
        }
    }

    /// `client_id` does not want it any more.
    pub fn release(&self, filter: &str, client_id: &str) {
        let mut owners = self.owners.lock();
        if owners
            .get(filter)
            .is_some_and(|owner| **owner == *client_id)
        {
            owners.remove(filter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_a_filter_until_it_gives_it_back() {
        let exclusive = Exclusive::default();
        let (first, second): (Arc<str>, Arc<str>) = ("first".into(), "second".into());
        assert!(exclusive.claim("a/+", &first));
        assert!(exclusive.claim("a/+", &first), "once more");
        assert!(!exclusive.claim("a/+", &second));
        assert!(exclusive.claim("a/b", &second), "another filter");
        exclusive.release("a/+", "second");
        assert!(!exclusive.claim("a/+", &second), "it was not its own");
        exclusive.release("a/+", "first");
        assert!(exclusive.claim("a/+", &second));
    }
}
