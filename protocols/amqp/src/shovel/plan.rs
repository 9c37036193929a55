//! What a shovel does: what it declares, and what becomes of a message on its way.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value as Json};

use super::config::{Config, DeleteAfter, From, Target, To};
use super::statics;
use crate::codec::{ArrayBuf, Method, Properties, Table, TableBuf, Value};
use crate::json::{self, OwnedProperties};
use crate::link::{Address, Answer, Delivery, Link, LinkError, Reach};
use crate::transfer::{AckMode, Ends, Forward, Http, Plan, Sink, Status, in_turn};

/// Header with the shovels that a message has passed, the latest first.
const SHOVELLED: &str = "x-shovelled";
/// Header with when the last one had it, in seconds since 1970.
const SHOVELLED_AT: &str = "x-shovelled-timestamp";

/// Largest number of messages that a consumer may have unsettled where nobody settles any.
const ANY: u32 = u32::MAX;

/// One shovel.
pub(super) struct Shovel {
    pub(super) reach: Arc<Reach>,
    pub(super) status: Arc<Status>,
    pub(super) config: Arc<Config>,
    /// Who has set it.
    pub(super) user: Option<String>,
    pub(super) name: String,
    /// `None`: it is a static one.
    pub(super) vhost: Option<String>,
    /// What this broker calls itself.
    pub(super) cluster: String,
    /// Attempts so far: each takes the next address.
    pub(super) attempts: usize,
    /// Messages that are still to be carried, once that is known; it outlives a connection.
    pub(super) left: Option<u64>,
    /// What is written on every message.
    pub(super) label: Option<TableBuf>,
}

/// Arguments as a table.
fn table(object: &Map<String, Json>) -> Result<TableBuf, LinkError> {
    Ok(json::to_table(object)?)
}

/// Declares a durable queue unless it is there, whatever its arguments.
///
/// # Errors
/// What the other side says.
async fn ensure_queue(
    link: &mut Link,
    queue: &str,
    arguments: &Map<String, Json>,
    predeclared: bool,
) -> Result<u64, LinkError> {
    let arguments = table(arguments)?;
    let declare = |passive| Method::QueueDeclare {
        ticket: 0,
        queue,
        passive,
        durable: true,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: arguments.as_table(),
    };
    let declared = match link.call(&declare(true)).await {
        Err(LinkError::Channel { code: 404, .. }) if !predeclared => {
            link.reopen().await?;
            link.call(&declare(false)).await?
        }
        declared => declared?,
    };
    match declared {
        Answer::Declared { messages, .. } => Ok(messages.into()),
        _ => Err(LinkError::Unexpected("no count of messages")),
    }
}

/// Sees that an exchange is there.
async fn check_exchange(link: &mut Link, exchange: &str) -> Result<(), LinkError> {
    if exchange.is_empty() {
        return Ok(());
    }
    let declare = Method::ExchangeDeclare {
        ticket: 0,
        exchange,
        kind: "",
        passive: true,
        durable: false,
        auto_delete: false,
        internal: false,
        no_wait: false,
        arguments: Table::default(),
    };
    link.call(&declare).await.map(drop)
}

impl Shovel {
    async fn source(&mut self, address: &Address) -> Result<Link, LinkError> {
        let config = Arc::clone(&self.config);
        let title = format!("Shovel {}", self.name);
        let mut link = self
            .reach
            .open(address, self.user.as_deref(), &title)
            .await?;
        let queue = match &config.from {
            From::Queue(queue) => {
                let args = &config.source_args;
                let messages =
                    ensure_queue(&mut link, queue, args, config.source_predeclared).await?;
                if self.left.is_none() && config.after == DeleteAfter::QueueLength {
                    self.left = Some(messages);
                }
                queue.clone()
            }
            From::Declared(queue) => {
                statics::declare(&mut link, &config.source_declarations).await?;
                queue.clone()
            }
            From::Exchange(exchange, key) => {
                let queue = self.own_queue(&mut link, exchange, key).await?;
                if self.left.is_none() && config.after == DeleteAfter::QueueLength {
                    self.left = Some(0);
                }
                queue
            }
        };
        let no_ack = config.mode == AckMode::NoAck;
        if no_ack {
            link.allow(ANY);
        } else {
            let qos = Method::BasicQos {
                prefetch_size: 0,
                prefetch_count: config.prefetch,
                global: false,
            };
            link.call(&qos).await?;
            link.allow(config.prefetch.into());
        }
        let arguments = table(&config.consumer_args)?;
        let consume = Method::BasicConsume {
            ticket: 0,
            queue: &queue,
            consumer_tag: "",
            no_local: false,
            no_ack,
            exclusive: false,
            no_wait: false,
            arguments: arguments.as_table(),
        };
        link.call(&consume).await?;
        Ok(link)
    }

    /// A queue that lives as long as the connection, bound to an exchange.
    async fn own_queue(
        &self,
        link: &mut Link,
        exchange: &str,
        routing_key: &str,
    ) -> Result<String, LinkError> {
        let arguments = table(&self.config.source_args)?;
        let declare = Method::QueueDeclare {
            ticket: 0,
            queue: "",
            passive: false,
            durable: false,
            exclusive: true,
            auto_delete: false,
            no_wait: false,
            arguments: arguments.as_table(),
        };
        let Answer::Declared { queue, .. } = link.call(&declare).await? else {
            return Err(LinkError::Unexpected("no name of a queue"));
        };
        let bind = Method::QueueBind {
            ticket: 0,
            queue: &queue,
            exchange,
            routing_key,
            no_wait: false,
            arguments: Table::default(),
        };
        link.call(&bind).await?;
        Ok(queue)
    }

    async fn sink(&self, target: &Target) -> Result<Sink, LinkError> {
        let title = format!("Shovel {}", self.name);
        let address = match target {
            Target::Http(address) => {
                let http = Http::open(address.clone(), &self.name).await?;
                return Ok(Sink::Http(Box::new(http)));
            }
            Target::Amqp(address) => address,
        };
        let config = &self.config;
        let mut link = self
            .reach
            .open(address, self.user.as_deref(), &title)
            .await?;
        statics::declare(&mut link, &config.target_declarations).await?;
        match &config.to {
            To::Queue(queue) => {
                let predeclared = config.target_predeclared;
                ensure_queue(&mut link, queue, &config.target_args, predeclared).await?;
            }
            To::Exchange(exchange, _) => check_exchange(&mut link, exchange).await?,
            To::Key(_) | To::Same => {}
        }
        if config.mode == AckMode::OnConfirm {
            link.call(&Method::ConfirmSelect { no_wait: false }).await?;
        }
        Ok(Sink::Amqp(Box::new(link)))
    }

    /// What `x-shovelled` says of this one.
    fn label(&self, source: &Address, target: &Target) -> Result<TableBuf, LinkError> {
        let target_uri = match target {
            Target::Amqp(address) => address.to_string(),
            Target::Http(address) => address.to_string(),
        };
        let source_uri = source.to_string();
        let mut label = TableBuf::default();
        let mut put = |key, text: &str| label.put(key, Value::LongString(text.as_bytes()));
        put("shovelled-by", &self.cluster)?;
        let kind = match self.vhost {
            Some(_) => "dynamic",
            None => "static",
        };
        put("shovel-type", kind)?;
        put("shovel-name", &self.name)?;
        let Some(vhost) = &self.vhost else {
            put("src-uri", &source_uri)?;
            put("dest-uri", &target_uri)?;
            return Ok(label);
        };
        put("shovel-vhost", vhost)?;
        put("src-uri", &source_uri)?;
        match &self.config.from {
            From::Declared(queue) | From::Queue(queue) => put("src-queue", queue)?,
            From::Exchange(exchange, key) => {
                put("src-exchange", exchange)?;
                put("src-exchange-key", key)?;
            }
        }
        put("dest-uri", &target_uri)?;
        match &self.config.to {
            To::Queue(queue) => put("dest-queue", queue)?,
            To::Exchange(exchange, key) => {
                put("dest-exchange", exchange)?;
                if let Some(key) = key {
                    put("dest-exchange-key", key)?;
                }
            }
            To::Key(key) => put("dest-exchange-key", key)?,
            To::Same => {}
        }
        Ok(label)
    }

    /// The properties that a message goes on with.
    fn rewritten(&self, octets: &Bytes) -> Result<Bytes, LinkError> {
        let config = &self.config;
        if config.properties.is_empty() && self.label.is_none() && !config.timestamp_header {
            return Ok(octets.clone());
        }
        let own = Properties::decode(octets)?;
        let set = OwnedProperties::read(config.properties.clone());
        // Checked when the parameter was set.
        let set = set.map_err(|_| LinkError::Unexpected("properties that are none"))?;
        let set = set.borrow();
        let mut headers = TableBuf::default();
        let mut has_headers = own.headers.is_some() || set.headers.is_some();
        let given = set.headers.or(own.headers).unwrap_or_default();
        let mut shovelled = ArrayBuf::default();
        if let Some(label) = &self.label {
            shovelled.push(Value::Table(label.as_table()))?;
            if let Some(Value::Array(before)) = given.get(SHOVELLED) {
                for known in before.iter() {
                    shovelled.push(known)?;
                }
            }
            headers.put(SHOVELLED, Value::Array(shovelled.as_array()))?;
            has_headers = true;
        }
        if config.timestamp_header {
            let seconds = i64::try_from(self.reach.tenant.now().0 / 1000).unwrap_or(i64::MAX);
            headers.put(SHOVELLED_AT, Value::I64(seconds))?;
            has_headers = true;
        }
        let written = |key: &str| {
            key == SHOVELLED && self.label.is_some()
                || key == SHOVELLED_AT && config.timestamp_header
        };
        for (key, value) in given.iter().filter(|(key, _)| !written(key)) {
            headers.put(key, value)?;
        }
        let properties = Properties {
            content_type: set.content_type.or(own.content_type),
            content_encoding: set.content_encoding.or(own.content_encoding),
            headers: has_headers.then(|| headers.as_table()),
            delivery_mode: set.delivery_mode.or(own.delivery_mode),
            priority: set.priority.or(own.priority),
            correlation_id: set.correlation_id.or(own.correlation_id),
            reply_to: set.reply_to.or(own.reply_to),
            expiration: set.expiration.or(own.expiration),
            message_id: set.message_id.or(own.message_id),
            timestamp: set.timestamp.or(own.timestamp),
            kind: set.kind.or(own.kind),
            user_id: set.user_id.or(own.user_id),
            app_id: set.app_id.or(own.app_id),
            cluster_id: set.cluster_id.or(own.cluster_id),
        };
        let mut octets = Vec::new();
        properties.encode(&mut octets)?;
        Ok(octets.into())
    }
}

impl Plan for Shovel {
    type Wish = ();

    async fn connect(&mut self, (): &()) -> Result<Ends, LinkError> {
        let config = Arc::clone(&self.config);
        // What was carried before is not carried again.
        if let Some(left) = self.status.now().left {
            self.left = Some(left);
        } else if let DeleteAfter::Messages(messages) = config.after {
            self.left = Some(messages);
        }
        let attempt = self.attempts;
        self.attempts = self.attempts.wrapping_add(1);
        let none = LinkError::Unexpected("no address");
        let Some((source, target)) =
            in_turn(&config.sources, attempt).zip(in_turn(&config.targets, attempt))
        else {
            return Err(none);
        };
        let target_uri = match target {
            Target::Amqp(address) => address.to_string(),
            Target::Http(address) => address.to_string(),
        };
        self.status.between(source.to_string(), target_uri);
        self.label = match config.forward_headers {
            true => Some(self.label(source, target)?),
            false => None,
        };
        // First where messages go: nothing is taken that has no place.
        let sink = self.sink(target).await?;
        let source = self.source(source).await?;
        Ok(Ends {
            source,
            sink,
            mode: config.mode,
            left: self.left,
        })
    }

    fn forward(&mut self, delivery: &Delivery) -> Result<Option<Forward>, LinkError> {
        let (exchange, key) = match &self.config.to {
            To::Queue(queue) => (String::new(), queue.clone()),
            To::Exchange(exchange, key) => {
                let own = || delivery.key.clone();
                (exchange.clone(), key.clone().unwrap_or_else(own))
            }
            To::Key(key) => (delivery.exchange.clone(), key.clone()),
            To::Same => (delivery.exchange.clone(), delivery.key.clone()),
        };
        Ok(Some(Forward {
            exchange,
            key,
            properties: self.rewritten(&delivery.properties)?,
            body: delivery.body.clone(),
        }))
    }

    fn adjust(&mut self, (): &(), _source: &mut Link) -> Result<(), LinkError> {
        Ok(())
    }

    fn pause_ms(&self) -> Option<u64> {
        (self.config.reconnect_s > 0).then(|| self.config.reconnect_s * 1000)
    }
}
