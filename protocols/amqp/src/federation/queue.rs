//! The link of a federated queue: while somebody here waits for messages that this queue has not, those of the queue
//! upstream come here.

use std::sync::Arc;

use super::config::Upstream;
use super::exchange::sink;
use super::trail::{self, Origin, Place};
use crate::codec::{Method, Properties, Table, TableBuf, Value};
use crate::link::{Address, Delivery, Link, LinkError, Reach};
use crate::transfer::{AckMode, Ends, Forward, Plan, Status};

/// A queue as it was declared here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) arguments: Arc<[u8]>,
}

/// One link.
pub(super) struct QueueLink {
    pub(super) reach: Arc<Reach>,
    pub(super) status: Arc<Status>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) queue: Declared,
    /// This broker's vhost.
    pub(super) here: Place,
    pub(super) attempts: usize,
    pub(super) pulls: bool,
    pub(super) there: Place,
    pub(super) uri: String,
}

/// Priority of a link's consumer: whoever consumes upstream comes first.
const PRIORITY: i64 = -1;

impl QueueLink {
    /// The queue upstream.
    pub(super) fn upstream_queue(&self) -> &str {
        self.upstream.queue_of(&self.queue.name)
    }

    fn tag(&self) -> String {
        let own = || format!("federation-link-{}", self.upstream.name);
        let mut tag = self.upstream.consumer_tag.clone().unwrap_or_else(own);
        let mut end = tag.len().min(255);
        while !tag.is_char_boundary(end) {
            end -= 1;
        }
        tag.truncate(end);
        tag
    }

    fn address(&self) -> Option<&Address> {
        self.upstream.address(self.attempts)
    }

    fn declare(&self, passive: bool) -> Method<'_> {
        Method::QueueDeclare {
            ticket: 0,
            queue: self.upstream_queue(),
            passive,
            durable: self.queue.durable,
            exclusive: false,
            auto_delete: self.queue.auto_delete,
            no_wait: false,
            arguments: Table::decode(&self.queue.arguments).unwrap_or_default(),
        }
    }

    async fn source(&mut self, pulls: bool) -> Result<Link, LinkError> {
        let mut link = self.upstream.open(self.attempts, &self.reach).await?;
        self.there = self.upstream.place(self.attempts, &link);
        match link.call(&self.declare(true)).await {
            Err(LinkError::Channel { code: 404, .. }) => {
                link.reopen().await?;
                link.call(&self.declare(false)).await?;
            }
            declared => drop(declared?),
        }
        let prefetch_count = self.upstream.prefetch;
        link.call(&Method::BasicQos {
            prefetch_size: 0,
            prefetch_count,
            global: false,
        })
        .await?;
        self.pulls = false;
        self.pull(pulls, &mut link)?;
        Ok(link)
    }

    fn pull(&mut self, pulls: bool, link: &mut Link) -> Result<(), LinkError> {
        if pulls == self.pulls {
            return Ok(());
        }
        self.pulls = pulls;
        let tag = self.tag();
        if !pulls {
            return link.ask(&Method::BasicCancel {
                consumer_tag: &tag,
                no_wait: false,
            });
        }
        let mut arguments = TableBuf::default();
        arguments.put("x-priority", Value::I64(PRIORITY))?;
        arguments.put("x-internal-purpose", Value::LongString(b"federation"))?;
        let consume = Method::BasicConsume {
            ticket: 0,
            queue: self.upstream_queue(),
            consumer_tag: &tag,
            no_local: false,
            no_ack: self.upstream.mode == AckMode::NoAck,
            exclusive: false,
            no_wait: false,
            arguments: arguments.as_table(),
        };
        link.allow(match self.upstream.mode {
            AckMode::NoAck => u32::MAX,
            _ => self.upstream.prefetch.into(),
        });
        link.ask(&consume)
    }
}

impl Plan for QueueLink {
    /// Whether messages are wanted here.
    type Wish = bool;

    async fn connect(&mut self, pulls: &bool) -> Result<Ends, LinkError> {
        self.uri = self.address().map(ToString::to_string).unwrap_or_default();
        self.status
            .between(self.uri.clone(), self.queue.name.clone());
        let mode = self.upstream.mode;
        let sink = sink(&self.reach, &self.here.vhost, mode).await?;
        let source = self.source(*pulls).await;
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
        let origin = Origin {
            uri: &self.uri,
            at: &self.there,
            of: ("queue", self.upstream_queue()),
            redelivered: delivery.redelivered,
            trusts_user_id: self.upstream.trusts_user_id,
        };
        Ok(Some(Forward {
            exchange: String::new(),
            key: self.queue.name.clone(),
            properties: trail::received(&properties, &origin)?.into(),
            body: delivery.body.clone(),
        }))
    }

    fn adjust(&mut self, pulls: &bool, source: &mut Link) -> Result<(), LinkError> {
        self.pull(*pulls, source)
    }

    fn pause_ms(&self) -> Option<u64> {
        Some(self.upstream.reconnect_s * 1000)
    }
}
