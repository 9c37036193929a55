//! All documents in order of their names, as readers see them at one moment.
//!
//! They lie in chunks of some hundred, shared between snapshots: a write copies the list of chunks and the chunk that
//! it changes, some microseconds for a hundred thousand documents, and a range is still a range.

use std::sync::Arc;

use super::Document;

/// Documents in a chunk at most.
const CHUNK: usize = 256;

type Named = (Arc<str>, Document);

#[derive(Clone, Default)]
pub(super) struct Snapshot {
    /// None is empty.
    chunks: Vec<Arc<Vec<Named>>>,
}

impl Snapshot {
    pub(super) fn get(&self, name: &str) -> Option<&Document> {
        let chunk = self.chunks.get(self.chunk_of(name))?;
        let at = find(chunk, name).ok()?;
        chunk.get(at).map(|(_, document)| document)
    }

    /// All from this name on.
    pub(super) fn range<'a>(&'a self, from: &str) -> impl Iterator<Item = &'a Named> {
        let first = self.chunk_of(from);
        let skip = self
            .chunks
            .get(first)
            .map_or(0, |chunk| match find(chunk, from) {
                Ok(at) | Err(at) => at,
            });
        let chunks = self.chunks.get(first..).unwrap_or_default();
        chunks.iter().flat_map(|chunk| chunk.iter()).skip(skip)
    }

    /// Puts a document in, or takes it out.
    pub(super) fn set(&mut self, name: &Arc<str>, document: Option<Document>) {
        let at = self.chunk_of(name);
        let Some(shared) = self.chunks.get_mut(at) else {
            let first = document.map(|document| (Arc::clone(name), document));
            self.chunks.extend(first.map(|first| Arc::new(vec![first])));
            return;
        };
        let chunk = Arc::make_mut(shared);
        match (find(chunk, name), document) {
            (Ok(place), Some(document)) => chunk[place].1 = document,
            (Ok(place), None) => {
                chunk.remove(place);
            }
            (Err(place), Some(document)) => chunk.insert(place, (Arc::clone(name), document)),
            (Err(_), None) => {}
        }
        if chunk.len() > CHUNK {
            let upper = chunk.split_off(CHUNK / 2);
            self.chunks.insert(at + 1, Arc::new(upper));
        } else if chunk.is_empty() {
            self.chunks.remove(at);
        }
    }

    /// The chunk where a name is or would be.
    fn chunk_of(&self, name: &str) -> usize {
        let behind = self
            .chunks
            .partition_point(|chunk| chunk.first().is_some_and(|(first, _)| &**first <= name));
        behind.saturating_sub(1)
    }
}

fn find(chunk: &[Named], name: &str) -> Result<usize, usize> {
    chunk.binary_search_by(|(known, _)| (**known).cmp(name))
}
