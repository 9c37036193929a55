//! A disk in memory that fails as disks do, the same way for the same seed.
//!
//! What is written is visible at once and safe only after a sync, per 512-byte sector and per name. [`SimDisk::crash`]
//! is a power cut: any part of what was not synced is lost. Faults are injected per operation, and the disk can be
//! made full, read-only or halted in the middle of what the log is doing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, File, Lock, LockError};

const SECTOR: u64 = 512;

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

#[derive(Default)]
struct Node {
    data: Vec<u8>,
    durable_len: u64,
    /// Contents, before the first write since the last sync, of every sector written since.
    dirty: BTreeMap<u64, Vec<u8>>,
    /// Dirty sectors that a failed sync dropped: a later sync does not know of them.
    stuck: BTreeSet<u64>,
}

impl Node {
    fn touch(&mut self, sector: u64) {
        self.stuck.remove(&sector);
        let data = &self.data;
        self.dirty.entry(sector).or_insert_with(|| {
            let start = ((sector * SECTOR) as usize).min(data.len());
            let end = (((sector + 1) * SECTOR) as usize).min(data.len());
            let mut old = data[start..end].to_vec();
            old.resize(SECTOR as usize, 0);
            old
        });
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset + bytes.len() as u64;
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            self.touch(sector);
        }
        if self.data.len() < end as usize {
            self.data.resize(end as usize, 0);
        }
        self.data[offset as usize..end as usize].copy_from_slice(bytes);
    }

    fn set_len(&mut self, len: u64) {
        let old = self.data.len() as u64;
        for sector in len / SECTOR..old.div_ceil(SECTOR) {
            self.touch(sector);
        }
        self.data.resize(len as usize, 0);
    }

    fn sync(&mut self) {
        let stuck = &self.stuck;
        self.dirty.retain(|sector, _| stuck.contains(sector));
        self.durable_len = self.data.len() as u64;
    }

    /// Loses some of what is not synced; `keep` decides.
    fn crash(&mut self, mut keep: impl FnMut() -> bool) {
        let len = self.data.len() as u64;
        let new_len = if len == self.durable_len || keep() {
            len
        } else {
            self.durable_len
        };
        self.data.resize(new_len as usize, 0);
        for (sector, old) in std::mem::take(&mut self.dirty) {
            // A cut that did not happen leaves everything behind it as it was.
            let uncut = new_len > len && sector >= len / SECTOR;
            if uncut || self.stuck.contains(&sector) || !keep() {
                let start = ((sector * SECTOR) as usize).min(self.data.len());
                let end = (((sector + 1) * SECTOR) as usize).min(self.data.len());
                self.data[start..end].copy_from_slice(&old[..end - start]);
            }
        }
        self.stuck.clear();
        self.durable_len = new_len;
    }
}

enum NameChange {
    Set {
        path: PathBuf,
        node: u64,
    },
    Unset {
        path: PathBuf,
    },
    Move {
        from: PathBuf,
        to: PathBuf,
        node: u64,
    },
}

impl NameChange {
    fn path(&self) -> &Path {
        match self {
            NameChange::Set { path, .. } | NameChange::Unset { path } => path,
            NameChange::Move { to, .. } => to,
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Set { path, node } => {
                names.insert(path, node);
            }
            NameChange::Unset { path } => {
                names.remove(&path);
            }
            NameChange::Move { from, to, node } => {
                if names.get(&from) == Some(&node) {
                    names.remove(&from);
                }
                names.insert(to, node);
            }
        }
    }
}

struct Fault {
    operation: Operation,
    /// Operations of the kind that still succeed.
    after: u64,
    failure: Failure,
    once: bool,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    changes: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    /// Moves on with every crash; handles from before it are dead.
    epoch: u64,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    read_only: bool,
    /// Changing operations that still succeed.
    halt_after: Option<u64>,
    operations: u64,
}

impl State {
    fn check(&mut self, operation: Operation) -> io::Result<()> {
        let changes = !matches!(operation, Operation::Read | Operation::Open);
        if changes {
            self.operations += 1;
        }
        match &mut self.halt_after {
            Some(0) => return Err(io::Error::other("the simulated machine is off")),
            Some(left) if changes => *left -= 1,
            _ => {}
        }
        let mut failure = None;
        self.faults.retain_mut(|fault| {
            if fault.operation != operation {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            failure = Some(fault.failure);
            !fault.once
        });
        match failure {
            Some(failure) => Err(failure.error()),
            None if changes && self.read_only => Err(Failure::ReadOnly.error()),
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        let size = |node| self.nodes.get(node).map_or(0, |n| n.data.len() as u64);
        self.names.values().map(size).sum()
    }

    /// Refuses growth by `more` bytes when there is no space for it.
    fn claim(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(Failure::Full.error())
            }
            _ => Ok(()),
        }
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

struct SimFile {
    disk: SimDisk,
    node: u64,
    epoch: u64,
    write: bool,
}

impl SimFile {
    fn with<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&mut State, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.epoch != self.epoch {
            return Err(io::Error::other("the handle is from before a crash"));
        }
        state.check(operation)?;
        if !self.write && operation != Operation::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        work(&mut state, self.node)
    }
}

/// Runs `work` on a node, which exists as long as a handle of this epoch does.
fn node(state: &mut State, id: u64) -> io::Result<&mut Node> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    state.nodes.get_mut(&id).ok_or_else(gone)
}

impl File for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(Operation::Read, |state, id| {
            Ok(node(state, id)?.data.len() as u64)
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(Operation::Read, |state, id| {
            let data = &node(state, id)?.data;
            let from = data.get(offset as usize..).unwrap_or_default();
            let len = from.len().min(buf.len());
            buf[..len].copy_from_slice(&from[..len]);
            Ok(len)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(Operation::Write, |state, id| {
            let len = node(state, id)?.data.len() as u64;
            state.claim((offset + bytes.len() as u64).saturating_sub(len))?;
            node(state, id)?.write(bytes, offset);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.with(Operation::Sync, |state, id| {
            node(state, id)?.sync();
            Ok(())
        });
        if result.is_err() {
            let mut state = self.disk.state();
            if state.epoch == self.epoch
                && let Some(node) = state.nodes.get_mut(&self.node)
            {
                node.stuck.extend(node.dirty.keys().copied());
            }
        }
        result
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(Operation::SetLen, |state, id| {
            node(state, id)?.set_len(len);
            Ok(())
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.with(Operation::Allocate, |state, id| {
            let size = node(state, id)?.data.len() as u64;
            let end = offset + len;
            state.claim(end.saturating_sub(size))?;
            if end > size {
                node(state, id)?.set_len(end);
            }
            Ok(())
        })
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    epoch: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.epoch == self.epoch {
            state.locks.remove(&self.path);
        }
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.check(Operation::Create)?;
        let id = match state.names.get(path) {
            Some(id) => *id,
            None => {
                state.next_node += 1;
                let id = state.next_node;
                state.names.insert(path.to_owned(), id);
                state.changes.push(NameChange::Set {
                    path: path.to_owned(),
                    node: id,
                });
                id
            }
        };
        state.nodes.entry(id).or_default().set_len(0);
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            node: id,
            epoch: state.epoch,
            write: true,
        }))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.check(Operation::Open)?;
        if write && state.read_only {
            return Err(Failure::ReadOnly.error());
        }
        let node = *state
            .names
            .get(path)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            node,
            epoch: state.epoch,
            write,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check(Operation::Rename)?;
        let node = state
            .names
            .remove(from)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.names.insert(to.to_owned(), node);
        state.changes.push(NameChange::Move {
            from: from.to_owned(),
            to: to.to_owned(),
            node,
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check(Operation::Remove)?;
        state
            .names
            .remove(path)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.changes.push(NameChange::Unset {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.check(Operation::Open)?;
        Ok(state
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check(Operation::SyncDir)?;
        let state = &mut *state;
        let (synced, rest) = std::mem::take(&mut state.changes)
            .into_iter()
            .partition(|change| change.path().parent() == Some(dir));
        state.changes = rest;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Lock, LockError> {
        let mut state = self.state();
        if state.read_only {
            return Err(Failure::ReadOnly.error().into());
        }
        if !state.locks.insert(path.to_owned()) {
            return Err(LockError::Held {
                pid: Some(std::process::id()),
            });
        }
        Ok(Lock::new(SimLock {
            disk: self.clone(),
            path: path.to_owned(),
            epoch: state.epoch,
        }))
    }
}

#[cfg(test)]
mod tests;
