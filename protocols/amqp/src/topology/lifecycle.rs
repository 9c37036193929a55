//! What goes by itself: with its last consumer, its connection, its last binding.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longtail_engine::command::Only;

use super::{Answer, Topology, documents};
use crate::graph::Removed;
use crate::queue::Queue;

/// How long queues that expire are left alone at most, and at least.
const LOOK_MAX: Duration = Duration::from_secs(1);
const LOOK_MIN: Duration = Duration::from_millis(10);

/// How often places of consumers are written down.
const KEEP_EVERY: Duration = Duration::from_secs(1);

impl Topology {
    /// Deletes, on this runtime, queues that nobody has used for as long as they wait, until the space is gone.
    pub(crate) fn expire_queues(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        let (topology, wake) = (Arc::downgrade(self), Arc::clone(&self.expiring));
        runtime.spawn(async move {
            loop {
                let Some(topology) = topology.upgrade() else {
                    return;
                };
                let now = Instant::now();
                let next = topology.expire(now).await;
                drop(topology);
                match next {
                    Some(wait) => drop(tokio::time::timeout(wait, wake.notified()).await),
                    None => wake.notified().await,
                }
            }
        });
    }

    /// Writes down, on this runtime, where consumers of streams go on whose places are kept, until the space is gone.
    pub(crate) fn keep_offsets(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        let (topology, wake) = (Arc::downgrade(self), self.keeping());
        runtime.spawn(async move {
            loop {
                wake.notified().await;
                tokio::time::sleep(KEEP_EVERY).await;
                let Some(topology) = topology.upgrade() else {
                    return;
                };
                topology.write_offsets().await;
            }
        });
    }

    /// Writes down now where these consumers go on.
    pub(crate) async fn write_offsets(&self) {
        // A stream that goes meanwhile takes its places along.
        let _writer = self.writer.lock().await;
        let streams: Vec<_> = {
            let graph = self.graph();
            let streams = graph.queues().filter(|queue| queue.is_stream());
            streams.cloned().collect()
        };
        let changed = streams.iter().filter_map(|stream| {
            let places = stream.offsets().take_changed()?;
            let write = documents::offsets_of(&self.space, &stream.name, &places);
            Some((stream, write))
        });
        let (streams, writes): (Vec<_>, Vec<_>) = changed.unzip();
        if let Err(error) = self.write(writes).await {
            tracing::warn!(%error, space = &*self.space, "where consumers of streams are cannot be written down");
            streams
                .iter()
                .for_each(|stream| stream.offsets().is_still_changed());
            self.keeping.notify_one();
        }
    }

    /// Deletes what has expired. When to look again; `None`: nothing expires.
    async fn expire(&self, now: Instant) -> Option<Duration> {
        let mut wait: Option<Duration> = None;
        let mut due = Vec::new();
        for queue in self.graph().queues() {
            let Some(expires_ms) = queue.settings().expires_ms else {
                continue;
            };
            // One that is used now may be left at any time.
            let patience = Duration::from_millis(expires_ms) / 10;
            let left = match queue.expires_at() {
                Some(at) if at <= now => {
                    due.push(Arc::clone(queue));
                    continue;
                }
                Some(at) => at - now,
                None => LOOK_MAX,
            };
            let left = left.min(patience.clamp(LOOK_MIN, LOOK_MAX)).max(LOOK_MIN);
            wait = Some(wait.map_or(left, |wait| wait.min(left)));
        }
        for queue in due {
            if let Err(error) = self.delete_expired(&queue).await {
                tracing::warn!(queue = &*queue.name, %error, "an expired queue cannot be deleted");
                wait = Some(wait.map_or(LOOK_MAX, |wait| wait.min(LOOK_MAX)));
            }
        }
        wait
    }

    async fn delete_expired(&self, queue: &Arc<Queue>) -> Answer<()> {
        let _writer = self.writer.lock().await;
        // Somebody may have used it, or deleted it, meanwhile.
        let expired = queue.expires_at().is_some_and(|at| at <= Instant::now());
        let known = (self.graph().queue(&queue.name)).is_some_and(|it| Arc::ptr_eq(it, queue));
        if expired && known && queue.begin_delete(true) {
            self.remove_queue(queue, Only::default()).await?;
        }
        Ok(())
    }

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
                    self.close_streams(&orphan, &config).await;
                    ahead.push(self.change(|graph| graph.remove_exchange(&orphan)));
                }
            }
        }
        self.write(writes).await
    }
}
