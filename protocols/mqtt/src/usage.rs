//! What the clients of each account use together, for limits that are about accounts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;

/// Connections and subscriptions, by account. An account is listed while it has a connection, or a client that counts its
/// subscriptions: the two end in any order, and one that is refused after its login has only the latter.
#[derive(Debug, Default)]
pub(crate) struct Usage(Arc<Accounts>);

#[derive(Debug, Default)]
struct Accounts(Mutex<HashMap<Arc<str>, Used>>);

#[derive(Debug, Default)]
struct Used {
    connections: u64,
    shares: u64,
    subscriptions: Arc<AtomicU64>,
}

impl Accounts {
    /// Changes what an account uses, and forgets the account if that is nothing.
    fn change<R>(&self, account: &Arc<str>, change: impl FnOnce(&mut Used) -> R) -> R {
        let mut accounts = self.0.lock();
        let used = accounts.entry_ref(account).or_default();
        let result = change(used);
        if used.connections == 0 && used.shares == 0 {
            accounts.remove(account);
        }
        result
    }
}

impl Usage {
    /// One more connection.
    pub(crate) fn came(&self, account: &Arc<str>) {
        self.0.change(account, |used| used.connections += 1);
    }

    /// One less.
    pub(crate) fn gone(&self, account: &Arc<str>) {
        self.0.change(account, |used| {
            used.connections = used.connections.saturating_sub(1);
        });
    }

    /// Connections of an account.
    pub(crate) fn connections(&self, account: &str) -> u64 {
        let accounts = self.0.0.lock();
        accounts.get(account).map_or(0, |used| used.connections)
    }

    /// What one client of an account, whose clients may have `max` subscriptions together, has a part of.
    pub(crate) fn share(&self, account: &Arc<str>, max: u64) -> Share {
        let all = self.0.change(account, |used| {
            used.shares += 1;
            Arc::clone(&used.subscriptions)
        });
        Share {
            accounts: Arc::clone(&self.0),
            account: Arc::clone(account),
            all,
            max,
            own: 0,
        }
    }
}

/// A client's part of the subscriptions of its account.
#[derive(Debug)]
pub(crate) struct Share {
    accounts: Arc<Accounts>,
    account: Arc<str>,
    all: Arc<AtomicU64>,
    max: u64,
    own: u64,
}

impl Share {
    /// It has so many now.
    pub(crate) fn has(&mut self, own: usize) {
        let own = own as u64;
        if own >= self.own {
            self.all.fetch_add(own - self.own, Ordering::Relaxed);
        } else {
            self.all.fetch_sub(self.own - own, Ordering::Relaxed);
        }
        self.own = own;
    }

    /// Whether there is room for one more.
    pub(crate) fn has_room(&self) -> bool {
        self.all.load(Ordering::Relaxed) < self.max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.has(0);
        self.accounts.change(&self.account, |used| {
            used.shares = used.shares.saturating_sub(1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_of_an_account_share_what_it_may_have() {
        let usage = Usage::default();
        let ann: Arc<str> = "ann".into();
        usage.came(&ann);
        usage.came(&ann);
        assert_eq!((usage.connections("ann"), usage.connections("bob")), (2, 0));
        let (mut first, mut second) = (usage.share(&ann, 3), usage.share(&ann, 3));
        first.has(2);
        second.has(1);
        assert!(!first.has_room() && !second.has_room());
        first.has(1);
        assert!(second.has_room());
        drop(second);
        usage.gone(&ann);
        assert_eq!(usage.connections("ann"), 1);
        assert!(usage.share(&ann, 2).has_room());
        drop(first);
        usage.gone(&ann);
        assert!(usage.0.0.lock().is_empty());
    }

    #[test]
    fn an_account_is_forgotten_with_its_last_client() {
        let usage = Usage::default();
        let ann: Arc<str> = "ann".into();
        // The connection is counted out before the client that had it is gone.
        usage.came(&ann);
        let mut client = usage.share(&ann, 3);
        client.has(2);
        usage.gone(&ann);
        assert!(!usage.share(&ann, 2).has_room(), "it still has both");
        drop(client);
        assert!(usage.0.0.lock().is_empty());
        // One that was let in, but has found no place.
        drop(usage.share(&ann, 3));
        assert!(usage.0.0.lock().is_empty());
    }
}
