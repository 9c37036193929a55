//! What leads from an exchange to queues and other exchanges.

use std::sync::Arc;

use super::{Answer, Asker, Topology, documents, not_the_default};
use crate::codec::Table;
use crate::exception::{no_exchange, precondition};
use crate::graph::{Binding, Destination, Removed};

/// `queue.bind`, `exchange.bind` and their opposites.
#[derive(Clone, Debug)]
pub struct Bind {
    /// The exchange that messages come from.
    pub source: String,
    /// Where they go.
    pub destination: Destination,
    /// The binding key.
    pub key: String,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
}

impl Topology {
    /// `queue.bind` and `exchange.bind`.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn bind(&self, asker: &Asker, bind: Bind) -> Answer<()> {
        let _writer = self.writer.lock().await;
        let durable = self.check_bind(asker, &bind)?;
        let binding = Binding {
            destination: bind.destination,
            arguments: bind.arguments,
        };
        let key: Arc<str> = bind.key.into();
        let is_too_many = {
            let graph = self.graph();
            let (_, bindings) = graph.sizes();
            bindings >= self.bindings_max && !graph.is_bound(&bind.source, &key, &binding)
        };
        if is_too_many {
            return Err(precondition(format!(
                "cannot bind to exchange '{}': binding limit in vhost '{}' ({}) is reached",
                bind.source, asker.vhost, self.bindings_max
            )));
        }
        let subjects = self.subjects().filter(|_| self.shares(&bind.source));
        if let Some(subjects) = subjects {
            subjects.open(&key)?;
        }
        if durable {
            let write = documents::binding(&self.space, &bind.source, &key, &binding);
            self.write(vec![write]).await?;
        }
        let destination = binding.destination.clone();
        let shown = self.change(|graph| {
            let is_new = graph.bind(&bind.source, &key, binding);
            is_new.then(|| self.replay(graph, &bind.source, &destination))?
        });
        if let Some(shown) = shown {
            self.end_replay(shown);
        }
        Ok(())
    }

    /// Whether the binding is to outlive a restart.
    fn check_bind(&self, asker: &Asker, bind: &Bind) -> Answer<bool> {
        not_the_default(&bind.source)?;
        if self.graph().exchange(&bind.source).is_none() {
            // Of two that are missing, RabbitMQ names this one.
            return Err(no_exchange(&bind.source, &asker.vhost));
        }
        let destination_durable = match &bind.destination {
            Destination::Queue(name) => self.queue(name, asker)?.config.durable,
            Destination::Exchange(name) => {
                not_the_default(name)?;
                let graph = self.graph();
                let exchange = graph.exchange(name);
                exchange
                    .ok_or_else(|| no_exchange(name, &asker.vhost))?
                    .config
                    .durable
            }
        };
        let graph = self.graph();
        let source = graph
            .exchange(&bind.source)
            .ok_or_else(|| no_exchange(&bind.source, &asker.vhost))?;
        let arguments = Table::decode(&bind.arguments).unwrap_or_default();
        source.config.kind.check_binding(&bind.key, &arguments)?;
        Ok(source.config.durable && destination_durable)
    }

    /// `queue.unbind` and `exchange.unbind`. What is not there is no error.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn unbind(&self, asker: &Asker, bind: Bind) -> Answer<()> {
        let _writer = self.writer.lock().await;
        not_the_default(&bind.source)?;
        if let Destination::Queue(name) = &bind.destination
            && self.graph().queue(name).is_some()
        {
            self.queue(name, asker)?;
        }
        let binding = Binding {
            destination: bind.destination,
            arguments: bind.arguments,
        };
        let removed = self.change(|graph| {
            let mut removed = Removed::default();
            if graph.unbind(&bind.source, &bind.key, &binding) {
                let orphan = graph
                    .exchange(&bind.source)
                    .is_some_and(|source| source.config.auto_delete && source.is_unused());
                let source: Arc<str> = bind.source.as_str().into();
                if orphan {
                    removed.orphans.push(Arc::clone(&source));
                }
                removed
                    .bindings
                    .push((source, bind.key.as_str().into(), binding));
            }
            removed
        });
        self.forget(removed, Vec::new()).await
    }
}
