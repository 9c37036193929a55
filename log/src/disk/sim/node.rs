//! The contents of one simulated file: what is visible, and what of it a power cut may take.

use std::collections::{BTreeMap, BTreeSet};

const SECTOR: u64 = 512;

#[derive(Default)]
pub(super) struct Node {
    pub(super) data: Vec<u8>,
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

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset + bytes.len() as u64;
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            self.touch(sector);
        }
        if self.data.len() < end as usize {
            self.data.resize(end as usize, 0);
        }
        self.data[offset as usize..end as usize].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let old = self.data.len() as u64;
        for sector in len / SECTOR..old.div_ceil(SECTOR) {
            self.touch(sector);
        }
        self.data.resize(len as usize, 0);
    }

    pub(super) fn sync(&mut self) {
        let stuck = &self.stuck;
        self.dirty.retain(|sector, _| stuck.contains(sector));
        self.durable_len = self.data.len() as u64;
    }

    /// A sync that failed: what it should have made safe is taken for clean from now on.
    pub(super) fn fail_sync(&mut self) {
        self.stuck.extend(self.dirty.keys().copied());
    }

    /// Loses some of what is not synced; `keep` decides.
    pub(super) fn crash(&mut self, mut keep: impl FnMut() -> bool) {
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
