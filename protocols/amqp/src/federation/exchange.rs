//! The link of a federated exchange: what is published to an exchange of the same name upstream, and wanted here, comes
//! here.
//!
//! ```text
//! upstream:  exchange ─ bindings as here ─▶ "federation: x -> HERE A" (internal) ─▶ "federation: x -> HERE" (queue)
//! here:                                                        exchange ◀── link ◀──────────┘
//! ```
//!
//! Each connect makes the internal exchange that is not there (A or B) with the bindings as they are, and deletes the
//! other one: bindings that went while the link was down go with it, and no message is missed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::config::Upstream;
use super::trail::{self, Origin, Place};
use crate::codec::{Method, Properties, Table, TableBuf, Value};
use crate::link::{Address, Delivery, Link, LinkError, Reach};
use crate::transfer::{AckMode, Ends, Forward, Plan, Sink, Status};

/// Bindings of an exchange: key and arguments, each once.
pub(super) type Bindings = BTreeSet<(Arc<str>, Arc<[u8]>)>;

/// An exchange as it was declared here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) arguments: Arc<[u8]>,
}

/// One link.
pub(super) struct ExchangeLink {
    pub(super) reach: Arc<Reach>,
    pub(super) status: Arc<Status>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) exchange: Declared,
    /// This broker's vhost.
    pub(super) here: Place,
    pub(super) attempts: usize,
    /// The other side has no exchanges of the type that counts hops there.
    pub(super) plain: bool,
    pub(super) bound: Bindings,
    /// The internal exchange in use.
    pub(super) inner: String,
    pub(super) there: Place,
    pub(super) uri: String,
}

/// Says for whom something is.
const PURPOSE: &str = "x-internal-purpose";
const FEDERATION: &[u8] = b"federation";

/// The type of exchange that looks at the hops of a message before it sends it.
const UPSTREAM_TYPE: &str = "x-federation-upstream";

impl ExchangeLink {
    /// The exchange upstream.
    pub(super) fn upstream_exchange(&self) -> &str {
        self.upstream.exchange_of(&self.exchange.name)
    }

    /// The queue upstream, as RabbitMQ calls it.
    fn queue(&self) -> String {
        let (theirs, own) = (self.upstream_exchange(), &self.exchange.name);
        let cluster = &self.here.cluster;
        let address = self.address();
        let same_vhost = address.is_some_and(|address| address.vhost == self.here.vhost);
        if !same_vhost {
            return format!(
                "federation: {theirs} -> {cluster}:{}:{own}",
                self.here.vhost
            );
        }
        if theirs == own {
            format!("federation: {theirs} -> {cluster}")
        } else {
            format!("federation: {theirs} -> {cluster}:{own}")
        }
    }

    fn address(&self) -> Option<&Address> {
        self.upstream.address(self.attempts)
    }

    async fn open(&self) -> Result<Link, LinkError> {
        self.upstream.open(self.attempts, &self.reach).await
    }

    fn declare<'a>(&'a self, exchange: &'a str, passive: bool) -> Method<'a> {
        Method::ExchangeDeclare {
            ticket: 0,
            exchange,
            kind: &self.exchange.kind,
            passive,
            durable: self.exchange.durable,
            auto_delete: self.exchange.auto_delete,
            internal: false,
            no_wait: false,
            arguments: Table::decode(&self.exchange.arguments).unwrap_or_default(),
        }
    }

    /// The exchange upstream is there.
    async fn ensure_exchange(&self, link: &mut Link) -> Result<(), LinkError> {
        let exchange = self.upstream_exchange();
        match link.call(&self.declare(exchange, true)).await {
            Err(LinkError::Channel { code: 404, .. }) => {
                link.reopen().await?;
                link.call(&self.declare(exchange, false)).await.map(drop)
            }
            declared => declared.map(drop),
        }
    }

    async fn ensure_queue(&self, link: &mut Link) -> Result<(), LinkError> {
        let mut arguments = TableBuf::default();
        for (key, value) in [
            ("x-expires", self.upstream.expires_ms),
            ("x-message-ttl", self.upstream.message_ttl_ms),
        ] {
            if let Some(ms) = value {
                arguments.put(key, Value::I64(i64::try_from(ms).unwrap_or(i64::MAX)))?;
            }
        }
        if let Some(kind) = self.upstream.queue_type {
            arguments.put("x-queue-type", Value::LongString(kind.as_bytes()))?;
        }
        arguments.put(PURPOSE, Value::LongString(FEDERATION))?;
        let queue = self.queue();
        let declare = Method::QueueDeclare {
            ticket: 0,
            queue: &queue,
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            no_wait: false,
            arguments: arguments.as_table(),
        };
        link.call(&declare).await.map(drop)
    }

    /// Which of the two internal exchanges is not in use, and the other one.
    async fn pick(&self, link: &mut Link) -> Result<(String, String), LinkError> {
        let (a, b) = (format!("{} A", self.queue()), format!("{} B", self.queue()));
        match link.call(&self.declare(&a, true)).await {
            Ok(_) => Ok((b, a)),
            Err(LinkError::Channel { code: 404, .. }) => {
                link.reopen().await?;
                Ok((a, b))
            }
            Err(error) => Err(error),
        }
    }

    async fn delete_exchange(link: &mut Link, exchange: &str) -> Result<(), LinkError> {
        let delete = Method::ExchangeDelete {
            ticket: 0,
            exchange,
            if_unused: false,
            no_wait: false,
        };
        link.call(&delete).await.map(drop)
    }

    async fn make_inner(&self, link: &mut Link, inner: &str) -> Result<(), LinkError> {
        Self::delete_exchange(link, inner).await?;
        let mut arguments = TableBuf::default();
        arguments.put(PURPOSE, Value::LongString(FEDERATION))?;
        if !self.plain {
            let hops = i64::try_from(self.upstream.hops_max).unwrap_or(i64::MAX);
            arguments.put("x-max-hops", Value::I64(hops))?;
            for (key, text) in [
                ("x-downstream-name", &self.here.cluster),
                ("x-downstream-vhost", &self.here.vhost),
            ] {
                arguments.put(key, Value::LongString(text.as_bytes()))?;
            }
        }
        let declare = Method::ExchangeDeclare {
            ticket: 0,
            exchange: inner,
            kind: if self.plain { "fanout" } else { UPSTREAM_TYPE },
            passive: false,
            durable: true,
            auto_delete: true,
            internal: true,
            no_wait: false,
            arguments: arguments.as_table(),
        };
        link.call(&declare).await.map(drop)
    }

    /// Binds or unbinds upstream what is bound or unbound here.
    fn change(
        &self,
        link: &mut Link,
        (key, arguments): &(Arc<str>, Arc<[u8]>),
        binds: bool,
    ) -> Result<(), LinkError> {
        let exchange = &self.exchange.name;
        let table = Table::decode(arguments).unwrap_or_default();
        let Some(passed) = trail::bound(&table, &self.here, exchange, self.upstream.hops_max)?
        else {
            return Ok(());
        };
        let (destination, source) = (self.inner.as_str(), self.upstream_exchange());
        let (ticket, no_wait, arguments) = (0, false, passed.as_table());
        let method = if binds {
            Method::ExchangeBind {
                ticket,
                destination,
                source,
                routing_key: key,
                no_wait,
                arguments,
            }
        } else {
            Method::ExchangeUnbind {
                ticket,
                destination,
                source,
                routing_key: key,
                no_wait,
                arguments,
            }
        };
        link.ask(&method)
    }

    async fn source(&mut self, wanted: &Bindings) -> Result<Link, LinkError> {
        let mut link = self.open().await?;
        self.ensure_exchange(&mut link).await?;
        self.ensure_queue(&mut link).await?;
        let (inner, old) = self.pick(&mut link).await?;
        if let Err(error) = self.make_inner(&mut link, &inner).await {
            let unknown = matches!(
                error,
                LinkError::Channel {
                    code: 406 | 503,
                    ..
                } | LinkError::Closed {
                    code: 406 | 503,
                    ..
                }
            );
            if !unknown || self.plain {
                return Err(error);
            }
            // It has no exchange that looks at hops: they are looked at here.
            self.plain = true;
            if matches!(error, LinkError::Channel { .. }) {
                link.reopen().await?;
            } else {
                link = self.open().await?;
            }
            self.make_inner(&mut link, &inner).await?;
        }
        self.inner = inner;
        let queue = self.queue();
        let bind = Method::QueueBind {
            ticket: 0,
            queue: &queue,
            exchange: &self.inner,
            routing_key: "",
            no_wait: false,
            arguments: Table::default(),
        };
        link.call(&bind).await?;
        for binding in wanted {
            self.change(&mut link, binding, true)?;
        }
        self.bound = wanted.clone();
        self.there = self.upstream.place(self.attempts, &link);
        let no_ack = self.upstream.mode == AckMode::NoAck;
        if no_ack {
            link.allow(u32::MAX);
        } else {
            let prefetch_count = self.upstream.prefetch;
            link.ask(&Method::BasicQos {
                prefetch_size: 0,
                prefetch_count,
                global: false,
            })?;
            link.allow(prefetch_count.into());
        }
        link.ask(&Method::ExchangeDelete {
            ticket: 0,
            exchange: &old,
            if_unused: false,
            no_wait: false,
        })?;
        let consume = Method::BasicConsume {
            ticket: 0,
            queue: &queue,
            consumer_tag: self.upstream.consumer_tag.as_deref().unwrap_or_default(),
            no_local: false,
            no_ack,
            exclusive: false,
            no_wait: false,
            arguments: Table::default(),
        };
        link.call(&consume).await?;
        Ok(link)
    }

    /// Takes away what the link has made upstream.
    pub(super) async fn clean_up(&mut self) -> Result<(), LinkError> {
        let mut link = self.open().await?;
        let queue = self.queue();
        for half in ["A", "B"] {
            Self::delete_exchange(&mut link, &format!("{queue} {half}")).await?;
        }
        let delete = Method::QueueDelete {
            ticket: 0,
            queue: &queue,
            if_unused: false,
            if_empty: false,
            no_wait: false,
        };
        link.call(&delete).await?;
        link.close().await;
        Ok(())
    }
}

/// A channel of this broker that confirms, for what comes into a vhost.
pub(super) async fn sink(reach: &Reach, vhost: &str, mode: AckMode) -> Result<Sink, LinkError> {
    let mut link = reach.door.open_for_relay("federation", vhost).await?;
    if mode == AckMode::OnConfirm {
        link.call(&Method::ConfirmSelect { no_wait: false }).await?;
    }
    Ok(Sink::Amqp(Box::new(link)))
}

impl Plan for ExchangeLink {
    type Wish = Arc<Bindings>;

    async fn connect(&mut self, wanted: &Arc<Bindings>) -> Result<Ends, LinkError> {
        self.uri = self.address().map(ToString::to_string).unwrap_or_default();
        self.status
            .between(self.uri.clone(), self.exchange.name.clone());
        let mode = self.upstream.mode;
        let sink = sink(&self.reach, &self.here.vhost, mode).await?;
        let source = self.source(wanted).await;
        if source.is_err() {
            self.attempts = self.attempts.wrapping_add(1);
        }
        Ok(Ends {
            source: source?,
            sink,
            mode,
            left: None,
        })
    }

    fn forward(&mut self, delivery: &Delivery) -> Result<Option<Forward>, LinkError> {
        let properties = Properties::decode(&delivery.properties)?;
        let headers = properties.headers.unwrap_or_default();
        if !trail::may_come(&headers, &self.here, self.upstream.hops_max) {
            return Ok(None);
        }
        let origin = Origin {
            uri: &self.uri,
            at: &self.there,
            of: ("exchange", self.upstream_exchange()),
            redelivered: delivery.redelivered,
            trusts_user_id: self.upstream.trusts_user_id,
        };
        Ok(Some(Forward {
            exchange: self.exchange.name.clone(),
            key: delivery.key.clone(),
            properties: trail::received(&properties, &origin)?.into(),
            body: delivery.body.clone(),
        }))
    }

    fn adjust(&mut self, wanted: &Arc<Bindings>, source: &mut Link) -> Result<(), LinkError> {
        for binding in wanted.difference(&self.bound) {
            self.change(source, binding, true)?;
        }
        for binding in self.bound.difference(wanted) {
            self.change(source, binding, false)?;
        }
        self.bound = Bindings::clone(wanted);
        Ok(())
    }

    fn pause_ms(&self) -> Option<u64> {
        Some(self.upstream.reconnect_s * 1000)
    }
}
