//! The file operations on a simulated disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::node::Node;
use super::state::{NameChange, State};
use super::{Failure, Operation, SimDisk};
use crate::disk::{Disk, File, Lock, LockError};

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
                node.fail_sync();
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
