//! Direct replies, on the side of the channel that expects them: its pseudo-consumer, the rewriting of `reply-to`.

use std::sync::Arc;

use bytes::Bytes;
use longtail_edge::Out;

use super::channel::Channel;
use super::content::Envelope;
use super::writing::{Body, check_header, write_content};
use super::{Shared, say};
use crate::codec::{Method, Properties, ReplyCode};
use crate::exception::{Exception, no_queue, precondition};
use crate::replies::{Address, Place, Reply, is_pseudo_queue};
use crate::topology::fresh_name;

/// The consumer of a channel's replies.
#[derive(Debug)]
pub(super) struct ReplyConsumer {
    tag: Arc<str>,
    address: Address,
}

impl Channel {
    /// `basic.consume` from the pseudo-queue.
    pub(super) fn consume_replies(
        &mut self,
        (tag, no_ack, no_wait): (&str, bool, bool),
        shared: &mut Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if self.has_consumer(tag) {
            return Err(Exception::new(
                ReplyCode::NotAllowed,
                format!("attempt to reuse consumer tag '{tag}'"),
            ));
        }
        if !no_ack {
            return Err(precondition("reply consumer cannot acknowledge"));
        }
        if self.reply_consumer.is_some() {
            return Err(precondition("reply consumer already set"));
        }
        let tag: Arc<str> = if tag.is_empty() {
            fresh_name("amq.ctag-").into()
        } else {
            tag.into()
        };
        let at = Place {
            channel: self.number(),
            incarnation: self.incarnation(),
        };
        let address = shared
            .topology()?
            .replies()
            .register(Arc::clone(&shared.mailbox), at);
        if !no_wait {
            let consumer_tag = &*tag;
            say(&Method::BasicConsumeOk { consumer_tag }, self.number(), out);
        }
        self.reply_consumer = Some(ReplyConsumer { tag, address });
        Ok(())
    }

    /// `queue.declare` of the pseudo-queue, or of an address to see whether anybody still waits there.
    pub(super) fn declare_replies(
        &mut self,
        queue: &str,
        no_wait: bool,
        shared: &Shared,
        out: &mut Out,
    ) -> Result<(), Exception> {
        if shared.topology()?.replies().is_there(queue) != Some(true) {
            return Err(no_queue(queue, &shared.asker.vhost));
        }
        if !no_wait {
            let declared = Method::QueueDeclareOk {
                queue,
                message_count: 0,
                consumer_count: 1,
            };
            say(&declared, self.number(), out);
        }
        Ok(())
    }

    /// Whether a tag is in use.
    pub(super) fn has_consumer(&self, tag: &str) -> bool {
        let replies = self.reply_consumer.as_ref();
        self.tags.contains_key(tag) || replies.is_some_and(|consumer| &*consumer.tag == tag)
    }

    /// A consumer is cancelled: perhaps that of the replies.
    pub(super) fn cancel_replies(&mut self, tag: &str) {
        self.reply_consumer
            .take_if(|consumer| &*consumer.tag == tag);
    }

    /// The properties as they are delivered: a wish for direct replies becomes the channel's address. `None`: they stay.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` when the channel expects no replies.
    pub(super) fn with_address(
        &self,
        properties: &Properties<'_>,
    ) -> Result<Option<Bytes>, Exception> {
        if !properties.reply_to.is_some_and(is_pseudo_queue) {
            return Ok(None);
        }
        let consumer = self.reply_consumer.as_ref();
        let consumer =
            consumer.ok_or_else(|| precondition("fast reply consumer does not exist"))?;
        let properties = Properties {
            reply_to: Some(consumer.address.name()),
            ..*properties
        };
        let mut octets = Vec::new();
        let encoded = properties.encode(&mut octets);
        // Only the name has changed, and it is short.
        encoded.map_err(|error| super::channel::internal(&error.to_string()))?;
        Ok(Some(octets.into()))
    }

    /// A reply has come.
    pub(super) fn replied(&mut self, reply: &Reply, shared: &Shared, out: &mut Out) {
        let Some(consumer) = &self.reply_consumer else {
            return;
        };
        if consumer.address.name() != &reply.key {
            return;
        }
        let envelope = Envelope {
            exchange: "",
            key: (&*reply.key).into(),
            properties: &reply.properties,
        };
        if let Err(exception) = check_header(&envelope, shared) {
            tracing::warn!(%exception, "a reply cannot be delivered");
            return;
        }
        self.last_delivery += 1;
        let deliver = Method::BasicDeliver {
            consumer_tag: &consumer.tag,
            delivery_tag: self.last_delivery,
            redelivered: false,
            exchange: "",
            routing_key: &reply.key,
        };
        write_content(
            &deliver,
            self.number(),
            envelope.properties,
            Body::from(&reply.body),
            shared.frame_max,
            out,
        );
    }
}
