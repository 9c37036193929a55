//! Counting without a cost on a message's way: whoever counts has numbers of its own, which nobody else writes; who looks
//! adds them up. What somebody has counted stays when it goes, so that sums never go back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Numbers of somebody who counts.
type Cells<const N: usize> = Arc<[AtomicU64; N]>;

/// The sums of one thing: of a queue, of an exchange.
#[derive(Debug)]
pub(crate) struct Tallies<const N: usize>(Mutex<Sums<N>>);

#[derive(Debug)]
struct Sums<const N: usize> {
    live: Vec<Cells<N>>,
    gone: [u64; N],
}

impl<const N: usize> Default for Tallies<N> {
    fn default() -> Self {
        Tallies(Mutex::new(Sums {
            live: Vec::new(),
            gone: [0; N],
        }))
    }
}

/// Somebody who counts; dropping it leaves what it has counted behind.
#[derive(Debug)]
pub(crate) struct Tally<const N: usize> {
    of: Arc<Tallies<N>>,
    cells: Cells<N>,
}

impl<const N: usize> Tallies<N> {
    /// One more who counts.
    pub(crate) fn join(self: &Arc<Self>) -> Tally<N> {
        let cells: Cells<N> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        self.0.lock().live.push(Arc::clone(&cells));
        Tally {
            of: Arc::clone(self),
            cells,
        }
    }

    /// Counts something that is rare.
    pub(crate) fn count(&self, which: usize) {
        if let Some(number) = self.0.lock().gone.get_mut(which) {
            *number += 1;
        }
    }

    /// All that was counted so far.
    pub(crate) fn sums(&self) -> [u64; N] {
        let sums = self.0.lock();
        let mut all = sums.gone;
        for cells in &sums.live {
            add(&mut all, cells);
        }
        all
    }
}

fn add<const N: usize>(sums: &mut [u64; N], cells: &[AtomicU64; N]) {
    for (sum, cell) in sums.iter_mut().zip(cells) {
        *sum += cell.load(Ordering::Relaxed);
    }
}

impl<const N: usize> Tally<N> {
    /// Counts. Only one thread at a time does, under the lock of its connection: no read-modify-write is needed.
    pub(crate) fn add(&mut self, which: usize, more: u64) {
        if let Some(cell) = self.cells.get(which) {
            cell.store(cell.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        }
    }

    /// What it has counted itself.
    pub(crate) fn counts(&self) -> [u64; N] {
        let mut counts = [0; N];
        add(&mut counts, &self.cells);
        counts
    }

    /// Whether it counts for this.
    pub(crate) fn is_of(&self, tallies: &Arc<Tallies<N>>) -> bool {
        Arc::ptr_eq(&self.of, tallies)
    }
}

impl<const N: usize> Drop for Tally<N> {
    fn drop(&mut self) {
        let mut sums = self.of.0.lock();
        let own = sums
            .live
            .iter()
            .position(|cells| Arc::ptr_eq(cells, &self.cells));
        if let Some(own) = own {
            sums.live.swap_remove(own);
            add(&mut sums.gone, &self.cells);
        }
    }
}

/// What queues count.
pub(crate) mod queue {
    /// Delivered to consumers that acknowledge.
    pub(crate) const DELIVER: usize = 0;
    /// Delivered to consumers that do not.
    pub(crate) const DELIVER_NO_ACK: usize = 1;
    /// Fetched, to be acknowledged.
    pub(crate) const GET: usize = 2;
    /// Fetched without that.
    pub(crate) const GET_NO_ACK: usize = 3;
    /// Fetches that found nothing.
    pub(crate) const GET_EMPTY: usize = 4;
    /// Of those delivered and fetched, not for the first time.
    pub(crate) const REDELIVER: usize = 5;
    /// How many these are.
    pub(crate) const COUNT: usize = 6;
}

/// What exchanges count.
pub(crate) mod exchange {
    /// Published to it by clients.
    pub(crate) const IN: usize = 0;
    /// Copies that queues got of these.
    pub(crate) const OUT: usize = 1;
    /// How many these are.
    pub(crate) const COUNT: usize = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_what_those_counted_that_are_gone() {
        let tallies: Arc<Tallies<2>> = Arc::default();
        let (mut one, mut two) = (tallies.join(), tallies.join());
        one.add(0, 3);
        two.add(0, 4);
        two.add(1, 1);
        tallies.count(1);
        assert_eq!(tallies.sums(), [7, 2]);
        assert_eq!((one.counts(), two.counts()), ([3, 0], [4, 1]));
        drop(one);
        assert_eq!(tallies.sums(), [7, 2]);
        two.add(1, 1);
        drop(two);
        assert_eq!(tallies.sums(), [7, 3]);
        assert!(tallies.0.lock().live.is_empty());
    }
}
