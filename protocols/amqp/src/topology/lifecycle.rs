//! What goes by itself: with its last consumer, its connection, its last binding.

use std::sync::Arc;

use longtail_engine::command::Only;

use super::{Answer, Topology, documents};
use crate::graph::Removed;
use crate::queue::Queue;

impl Topology {
    /// The last consumer of an auto-deleting queue has left.
    ///
    /// # Errors
    /// What the shard refuses.
    pub async fn delete_unused(&self, queue: &Arc<Queue>) -> Answer<()> {
        let _writer = self.writer.lock().await;
        let known = self
            .graph()
            .queue(&queue.name)
            .is_some_and(|known| Arc::ptr_eq(known, queue));
        if known && queue.begin_delete(true) {
            self.remove_queue(queue, Only::default()).await?;
        }
        Ok(())
    }

    /// A connection has ended: what it had for itself goes.
    ///
    /// # Errors
    /// What the shard refuses.
    pub async fn disconnected(&self, connection: u64) -> Answer<()> {
        let _writer = self.writer.lock().await;
        let owned: Vec<_> = {
            let graph = self.graph();
            let owned = graph
                .queues()
                .filter(|queue| queue.config.owner == Some(connection));
            owned.cloned().collect()
        };
        for queue in owned {
            queue.begin_delete(false);
            self.remove_queue(&queue, Only::default()).await?;
        }
        Ok(())
    }

    /// Writes down that something is gone, and removes auto-deleting exchanges that were orphaned by it, and so on.
    pub(super) async fn forget(
        &self,
        removed: Removed,
        mut writes: Vec<longtail_broker::catalog::Write>,
    ) -> Answer<()> {
        let mut ahead = vec![removed];
        while let Some(removed) = ahead.pop() {
            for (source, key, binding) in removed.bindings {
                if let Some(subjects) = self.subjects().filter(|_| self.shares(&source)) {
                    subjects.close_unless_bound(&key);
                }
                let write = documents::binding(&self.space, &source, &key, &binding);
                writes.push(documents::without(write));
            }
            for orphan in removed.orphans {
                let config = self
                    .graph()
                    .exchange(&orphan)
                    .map(|exchange| exchange.config.clone());
                if let Some(config) = config {
                    writes.push(documents::without(documents::exchange(
                        &self.space,
                        &orphan,
                        &config,
                    )));
                    if config.delays() {
                        self.close_waiting(&orphan).await;
                    }
                    ahead.push(self.change(|graph| graph.remove_exchange(&orphan)));
                }
            }
        }
        self.write(writes).await
    }
}
