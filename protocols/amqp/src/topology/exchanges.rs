//! Exchanges are declared and deleted.

use std::sync::Arc;

use super::archives::archives;
use super::{
    Answer, Asker, RESERVED, Topology, alternate, documents, internal, not_the_default, reserved,
};
use crate::exception::{no_exchange, precondition};
use crate::graph::{COMPARED, ExchangeConfig, ExchangeFlags};
use crate::queue::same_arguments;

/// `exchange.declare`.
#[derive(Clone, Debug)]
pub struct DeclareExchange {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// It is only looked for.
    pub passive: bool,
    /// It outlives a restart.
    pub durable: bool,
    /// It goes with the last of its bindings.
    pub auto_delete: bool,
    /// Clients do not publish to it.
    pub internal: bool,
    /// The arguments, as a table's bytes.
    pub arguments: Arc<[u8]>,
}

impl Topology {
    /// `exchange.declare`.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn declare_exchange(&self, asker: &Asker, declare: DeclareExchange) -> Answer<()> {
        let _writer = self.writer.lock().await;
        let name: Arc<str> = declare.name.as_str().into();
        not_the_default(&name)?;
        let known = {
            let graph = self.graph();
            graph.exchange(&name).map(|known| known.config.clone())
        };
        if declare.passive {
            return known
                .map(|_| ())
                .ok_or_else(|| no_exchange(&name, &asker.vhost));
        }
        let flags = ExchangeFlags {
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
        };
        let config = ExchangeConfig::new(&declare.kind, flags, declare.arguments)?;
        if let Some(known) = known {
            return same_exchange(&known, &config, &name, &asker.vhost);
        }
        if name.starts_with(RESERVED) {
            return Err(reserved("exchange", &name));
        }
        let (exchanges, _) = self.graph().sizes();
        if exchanges >= self.exchanges_max {
            return Err(precondition(format!(
                "cannot declare exchange '{name}': exchange limit in vhost '{}' ({}) is reached",
                asker.vhost, self.exchanges_max
            )));
        }
        let waiting = if config.delays() {
            let provided = self.provide_waiting(&name, config.durable).await;
            Some(provided.map_err(internal)?)
        } else {
            None
        };
        let archive = match archives(&config) {
            Some(length) => {
                let provided = self.new_archive(&name, length).await;
                Some(provided.map_err(internal)?)
            }
            None => None,
        };
        if config.durable {
            let write = documents::exchange(&self.space, &name, &config);
            if let Err(refused) = self.write(vec![write]).await {
                self.close_streams(&name, &config).await;
                return Err(refused);
            }
        }
        let by_policy = alternate(&self.policies, &self.space, &name);
        self.change(|graph| {
            graph.add_exchange(Arc::clone(&name), config);
            graph.set_alternate(&name, by_policy);
            if let Some(waiting) = &waiting {
                graph.set_waiting(waiting.clone());
            }
            if let Some(archive) = archive {
                graph.set_archive(&name, archive, Vec::new());
            }
        });
        if let Some(waiting) = &waiting {
            self.start_releasing(waiting);
        }
        Ok(())
    }

    /// `exchange.delete`. An exchange that is not there is no error.
    ///
    /// # Errors
    /// What the client has done wrong, or what the shard refuses.
    pub async fn delete_exchange(&self, asker: &Asker, name: &str, if_unused: bool) -> Answer<()> {
        let _writer = self.writer.lock().await;
        not_the_default(name)?;
        let known = {
            let graph = self.graph();
            let exchange = graph.exchange(name);
            exchange.map(|known| (known.config.clone(), known.is_unused()))
        };
        if name.starts_with(RESERVED) {
            return Err(reserved("exchange", name));
        }
        let Some((config, unused)) = known else {
            return Ok(());
        };
        if if_unused && !unused {
            return Err(precondition(format!(
                "exchange '{name}' in vhost '{}' in use",
                asker.vhost
            )));
        }
        self.close_streams(name, &config).await;
        let removed = self.change(|graph| graph.remove_exchange(name));
        let write = documents::exchange(&self.space, name, &config);
        self.forget(removed, vec![documents::without(write)]).await
    }
}

fn same_exchange(
    current: &ExchangeConfig,
    received: &ExchangeConfig,
    name: &str,
    vhost: &str,
) -> Answer<()> {
    let what = format!("exchange '{name}' in vhost '{vhost}'");
    let text = |flag: bool| flag.to_string();
    for (key, current, received) in [
        (
            "type",
            current.type_name().to_owned(),
            received.type_name().to_owned(),
        ),
        ("durable", text(current.durable), text(received.durable)),
        (
            "auto_delete",
            text(current.auto_delete),
            text(received.auto_delete),
        ),
        ("internal", text(current.internal), text(received.internal)),
    ] {
        if current != received {
            return Err(precondition(format!(
                "inequivalent arg '{key}' for {what}: received '{received}' but current is '{current}'"
            )));
        }
    }
    same_arguments(COMPARED, &current.arguments, &received.arguments, &what)
}
