//! A disk in memory that fails as disks do, the same way for the same seed.
//!
//! What is written is visible at once and safe only after a sync, per 512-byte sector and per name. [`SimDisk::crash`]
//! is a power cut: any part of what was not synced is lost. Faults are injected per operation, and the disk can be
//! made full, read-only or halted in the middle of what the log is doing.

mod files;
mod node;
mod state;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use state::{Fault, State};

/// Operations that a fault can be injected into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Syncing a file.
    Sync,
    /// Reserving space.
    Allocate,
    /// Changing a file's length.
    SetLen,
    /// Creating a file.
    Create,
    /// Opening a file.
    Open,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Syncing a directory.
    SyncDir,
}

/// What an operation fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    Full,
    /// `EROFS`.
    ReadOnly,
}

impl Failure {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Failure::Io => 5,
            Failure::Full => 28,
            Failure::ReadOnly => 30,
        })
    }
}

/// The simulated disk. Clones share it.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk without limits or faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one operation fail: the next one of its kind after `after` more have succeeded. A failed sync also loses
    /// what it should have made safe.
    pub fn fail(&self, operation: Operation, after: u64, failure: Failure) {
        self.state().faults.push(Fault {
            operation,
            after,
            failure,
            once: true,
        });
    }

    /// Makes all operations of a kind fail from now on.
    pub fn fail_always(&self, operation: Operation, failure: Failure) {
        self.state().faults.push(Fault {
            operation,
            after: 0,
            failure,
            once: false,
        });
    }

    /// Removes all injected faults.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Limits the sum of all file sizes in bytes; growing beyond it fails with `ENOSPC`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Makes every change fail with `EROFS`.
    pub fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// Sum of all file sizes in bytes.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Changing operations so far, successful or not.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets `operations` more changing operations succeed; then everything fails until [`SimDisk::crash`].
    pub fn halt_after(&self, operations: u64) {
        self.state().halt_after = Some(operations);
    }

    /// A power cut: every sector and name that was not synced survives or not, as `seed` says; locks and handles are
    /// gone, and so are faults and a halt. One seed in eight keeps everything (a killed process), one loses everything.
    pub fn crash(&self, seed: u64) {
        let mut random = crate::options::Nonces(seed);
        let chance = match random.next() % 8 {
            0 => 256,
            1 => 0,
            n => 256 * (n - 1) / 7,
        };
        let mut keep = move || random.next() % 256 < chance;
        let mut state = self.state();
        let state = &mut *state;
        for change in std::mem::take(&mut state.changes) {
            if keep() {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        let named: BTreeSet<u64> = state.names.values().copied().collect();
        state.nodes.retain(|node, _| named.contains(node));
        for node in state.nodes.values_mut() {
            node.crash(&mut keep);
        }
        state.locks.clear();
        state.faults.clear();
        state.halt_after = None;
        state.epoch += 1;
    }

    /// Names and sizes of all files.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state();
        let size = |node| state.nodes.get(node).map_or(0, |n| n.data.len() as u64);
        state
            .names
            .iter()
            .map(|(path, node)| (path.clone(), size(node)))
            .collect()
    }

    /// A file's bytes.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.nodes.get(state.names.get(path)?)?.data.clone())
    }

    /// Puts bytes into a file behind everybody's back, durably; creates it when missing, and extends it as needed.
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let state = &mut *state;
        let node = match state.names.get(path) {
            Some(node) => *node,
            None => {
                state.next_node += 1;
                state.names.insert(path.to_owned(), state.next_node);
                state.durable_names.insert(path.to_owned(), state.next_node);
                state.next_node
            }
        };
        let node = state.nodes.entry(node).or_default();
        node.write(bytes, offset);
        node.sync();
    }

    /// Flips one bit of a file, as a bad cell does. False when there is no such byte.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let byte = self
            .contents(path)
            .and_then(|bytes| bytes.get(usize::try_from(offset).ok()?).copied());
        if let Some(byte) = byte {
            self.overwrite(path, offset, &[byte ^ 1 << (bit % 8)]);
        }
        byte.is_some()
    }
}

#[cfg(test)]
mod tests;
