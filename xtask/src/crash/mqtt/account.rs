//! What the publishers know for sure about every message: the account that the server is held to.
//!
//! ```text
//! publisher ──▶ published, acknowledged ──▶ Account ──▶ owed ──▶ subscriber
//!                                             ▲           once an audit has found everything
//!                                             └── settle ◀──┘
//! ```
//!
//! Numbers of one publisher are dense, so that a settled message needs no entry: whatever is below the publisher's floor
//! was published, acknowledged and delivered to everybody, and one that comes now came before. An audit costs as much as
//! what was published since the last one, however long the run.

/// Publishers at most: a number tells its publisher by the bits above [`NUMBER_BITS`].
const NUMBER_BITS: u32 = 32;

/// What is known about a message that is not settled.
#[derive(Clone, Copy, Debug)]
struct Entry {
    qos: u8,
    acknowledged: bool,
}

/// The messages of one publisher.
#[derive(Debug, Default)]
struct Published {
    /// How many are settled.
    floor: u64,
    /// Those after them.
    entries: Vec<Entry>,
}

/// The account.
#[derive(Debug)]
pub(super) struct Account {
    publishers: Vec<Published>,
    acknowledged: u64,
}

/// What a delivery is to the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody published it.
    Unknown,
    /// It may come; with the QoS it was published with.
    Open(u8),
    /// An audit found that it had come already.
    Settled,
}

impl Account {
    /// An empty account of so many publishers.
    pub(super) fn new(publishers: usize) -> Self {
        Account {
            publishers: (0..publishers).map(|_| Published::default()).collect(),
            acknowledged: 0,
        }
    }

    /// A publisher is about to send a message: its number.
    pub(super) fn published(&mut self, publisher: usize, qos: u8) -> u64 {
        let published = &mut self.publishers[publisher];
        let serial = published.floor + published.entries.len() as u64;
        published.entries.push(Entry {
            qos,
            acknowledged: false,
        });
        (publisher as u64) << NUMBER_BITS | serial
    }

    /// The server has acknowledged a message. More than once is the same.
    pub(super) fn acknowledge(&mut self, number: u64) {
        let (publisher, serial) = split(number);
        let published = &mut self.publishers[publisher];
        let entry = serial
            .checked_sub(published.floor)
            .and_then(|at| published.entries.get_mut(at as usize));
        if let Some(entry) = entry {
            self.acknowledged += u64::from(!entry.acknowledged);
            entry.acknowledged = true;
        }
    }

    /// How many messages the server has acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// What the number of a delivery says.
    pub(super) fn standing(&self, number: u64) -> Standing {
        let (publisher, serial) = split(number);
        let Some(published) = self.publishers.get(publisher) else {
            return Standing::Unknown;
        };
        let Some(at) = serial.checked_sub(published.floor) else {
            return Standing::Settled;
        };
        let entry = published.entries.get(at as usize);
        entry.map_or(Standing::Unknown, |entry| Standing::Open(entry.qos))
    }

    /// The acknowledged messages that are not settled: what every subscriber has to have got.
    pub(super) fn owed(&self) -> impl Iterator<Item = u64> + '_ {
        let publishers = self.publishers.iter().enumerate();
        publishers.flat_map(|(publisher, published)| {
            let serials = (published.floor..).zip(&published.entries);
            serials
                .filter(|(_, entry)| entry.acknowledged)
                .map(move |(serial, _)| (publisher as u64) << NUMBER_BITS | serial)
        })
    }

    /// Everybody has everything, and nothing is under way.
    pub(super) fn settle(&mut self) {
        for published in &mut self.publishers {
            published.floor += published.entries.len() as u64;
            published.entries.clear();
        }
    }
}

/// The publisher of a number and the message's place among its messages.
fn split(number: u64) -> (usize, u64) {
    let serial = number & ((1 << NUMBER_BITS) - 1);
    ((number >> NUMBER_BITS) as usize, serial)
}

#[cfg(test)]
mod tests {
    use super::{Account, Standing};

    #[test]
    fn what_is_settled_is_known_without_an_entry() {
        let mut account = Account::new(2);
        let first = account.published(1, 2);
        let second = account.published(1, 1);
        assert_eq!(account.standing(first), Standing::Open(2));
        assert_eq!(account.standing(second + 1), Standing::Unknown);
        assert_eq!(account.standing(5 << 32), Standing::Unknown);
        assert_eq!(account.owed().count(), 0);
        account.acknowledge(first);
        account.acknowledge(first);
        assert_eq!(account.owed().collect::<Vec<_>>(), [first]);
        account.acknowledge(second);
        account.settle();
        assert_eq!(account.owed().count(), 0);
        assert_eq!(account.standing(first), Standing::Settled);
        let third = account.published(1, 1);
        assert_eq!(third, second + 1);
        assert_eq!(account.standing(third), Standing::Open(1));
        account.acknowledge(third);
        assert_eq!(account.owed().collect::<Vec<_>>(), [third]);
        assert_eq!(account.acknowledged(), 3);
    }
}
