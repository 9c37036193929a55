//! What a simulated disk consists of: names, as they are and as they are safe, files, and injected faults.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::node::Node;
use super::{Failure, Operation};

pub(super) enum NameChange {
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
    pub(super) fn path(&self) -> &Path {
        match self {
            NameChange::Set { path, .. } | NameChange::Unset { path } => path,
            NameChange::Move { to, .. } => to,
        }
    }

    pub(super) fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
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

pub(super) struct Fault {
    pub(super) operation: Operation,
    /// Operations of the kind that still succeed.
    pub(super) after: u64,
    pub(super) failure: Failure,
    pub(super) once: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) next_node: u64,
    pub(super) names: BTreeMap<PathBuf, u64>,
    pub(super) durable_names: BTreeMap<PathBuf, u64>,
    pub(super) changes: Vec<NameChange>,
    pub(super) locks: BTreeSet<PathBuf>,
    /// Moves on with every crash; handles from before it are dead.
    pub(super) epoch: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) capacity: Option<u64>,
    pub(super) read_only: bool,
    /// Changing operations that still succeed.
    pub(super) halt_after: Option<u64>,
    pub(super) operations: u64,
}

impl State {
    pub(super) fn check(&mut self, operation: Operation) -> io::Result<()> {
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

    pub(super) fn used(&self) -> u64 {
        let size = |node| self.nodes.get(node).map_or(0, |n| n.data.len() as u64);
        self.names.values().map(size).sum()
    }

    /// Refuses growth by `more` bytes when there is no space for it.
    pub(super) fn claim(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(Failure::Full.error())
            }
            _ => Ok(()),
        }
    }
}
