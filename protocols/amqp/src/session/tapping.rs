//! What a channel notes for the firehose while its vhost is traced; see [`crate::firehose`].

use std::sync::Arc;

use bytes::Bytes;

use super::channel::Channel;
use super::content::Envelope;
use super::delivering::Shown;
use super::routing::Publication;
use super::{Action, Shared};
use crate::firehose::{EXCHANGE, Event, Tapped};

impl Channel {
    /// A client has published a message.
    pub(super) fn tap_publication(&self, publication: &Publication, shared: &mut Shared) {
        if !is_traced(shared) {
            return;
        }
        let tapped = Tapped {
            event: Event::Published,
            exchange: Arc::clone(&publication.exchange),
            key: Arc::clone(&publication.key),
            properties: publication.encoded.slice(publication.properties..),
            body: publication.body.clone(),
            connection: shared.asker.connection,
            channel: self.number(),
            vhost: Arc::clone(&shared.asker.vhost),
            user: shared.credentials.user.clone(),
        };
        shared.actions.push(Action::Trace(Box::new(tapped)));
    }

    /// A client is given a message of a queue.
    pub(super) fn tap_delivery(
        &self,
        queue: &Arc<str>,
        redelivered: bool,
        shown: Shown<'_>,
        shared: &mut Shared,
    ) {
        if !is_traced(shared) {
            return;
        }
        let envelope = Envelope::of_headers(shown.headers, shown.subject);
        if envelope.exchange == EXCHANGE {
            return;
        }
        let tapped = Tapped {
            event: Event::Delivered {
                queue: Arc::clone(queue),
                redelivered,
            },
            exchange: envelope.exchange.into(),
            key: (&*envelope.key).into(),
            properties: Bytes::copy_from_slice(envelope.properties),
            body: shown.body.share(),
            connection: shared.asker.connection,
            channel: self.number(),
            vhost: Arc::clone(&shared.asker.vhost),
            user: shared.credentials.user.clone(),
        };
        shared.actions.push(Action::Trace(Box::new(tapped)));
    }
}

/// Whether a copy of every message is wanted.
pub(super) fn is_traced(shared: &Shared) -> bool {
    shared.topology().is_ok_and(|topology| topology.is_traced())
}
