//! Direct replies: addresses that are a channel, not a queue. Nothing of them is stored.
//!
//! ```text
//! requester                                              responder
//! consume amq.rabbitmq.reply-to ──▶ Replies (address)
//! publish, reply-to rewritten ──▶ a queue ──────────────▶ deliver
//! deliver ◀── Mailbox ◀────────── Replies ◀───────────── publish to the default exchange, key = address
//! ```
//!
//! An address lasts as long as its consumer. What comes later finds nobody and is, as any message that nobody wants,
//! dropped or returned.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::subjects::Told;
use crate::topology::fresh_name;

/// The names by which clients ask for an address: RabbitMQ's, and LavinMQ's.
const PSEUDO_QUEUES: [&str; 2] = ["amq.rabbitmq.reply-to", "amq.direct.reply-to"];

/// What every address begins with.
const PREFIX: &str = "amq.rabbitmq.reply-to.";

/// Whether a name is that of the pseudo-queue.
pub(crate) fn is_pseudo_queue(name: &str) -> bool {
    PSEUDO_QUEUES.contains(&name)
}

/// Whether a name can be an address.
pub(crate) fn is_address(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The address, which is its routing key.
    pub(crate) key: Arc<str>,
    /// Flags and values.
    pub(crate) properties: Bytes,
    pub(crate) body: Bytes,
}

/// The way to a connection's channels from outside. No connection's lock may be held.
pub(crate) trait Mailbox: Send + Sync {
    /// Delivers to a channel, if it is still there.
    fn deliver(&self, at: Place, reply: &Reply);

    /// Says that what a channel has shared is safe, or was refused somewhere.
    fn shared(&self, at: Place, told: Told, refused: bool);

    /// Says to a consumer that the stream that it reads is gone.
    fn queue_gone(&self, at: Place, consumer: u32);
}

/// A channel and which incarnation of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) channel: u16,
    pub(crate) incarnation: u32,
}

/// Where replies to one address go.
#[derive(Clone)]
pub(crate) struct Recipient {
    mailbox: Arc<dyn Mailbox>,
    at: Place,
}

impl std::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Recipient").field(&self.at).finish()
    }
}

impl Recipient {
    /// See [`Mailbox`].
    pub(crate) fn deliver(&self, reply: &Reply) {
        self.mailbox.deliver(self.at, reply);
    }
}

/// The addresses of a space.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    recipients: RwLock<HashMap<Arc<str>, Recipient>>,
}

impl Replies {
    /// A new address, for as long as it is kept.
    pub(crate) fn register(self: &Arc<Self>, mailbox: Arc<dyn Mailbox>, at: Place) -> Address {
        let name: Arc<str> = fresh_name(PREFIX).into();
        let recipient = Recipient { mailbox, at };
        let mut recipients = self.recipients.write();
        recipients.insert(Arc::clone(&name), recipient);
        Address {
            replies: Arc::clone(self),
            name,
        }
    }

    /// Who is behind an address now.
    pub(crate) fn find(&self, address: &str) -> Option<Recipient> {
        self.recipients.read().get(address).cloned()
    }

    /// Whether a declaration of this name finds something: the pseudo-queue always, an address while it lasts. `None`:
    /// the name is neither.
    pub(crate) fn is_there(&self, name: &str) -> Option<bool> {
        if is_pseudo_queue(name) {
            Some(true)
        } else {
            is_address(name).then(|| self.recipients.read().contains_key(name))
        }
    }
}

/// An address in use; given back when dropped.
#[derive(Debug)]
pub(crate) struct Address {
    replies: Arc<Replies>,
    name: Arc<str>,
}

impl Address {
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.replies.recipients.write().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Box(Mutex<Vec<(Place, Reply)>>);

    impl Mailbox for Box {
        fn deliver(&self, at: Place, reply: &Reply) {
            self.0.lock().push((at, reply.clone()));
        }

        fn shared(&self, _at: Place, _told: Told, _refused: bool) {}

        fn queue_gone(&self, _at: Place, _consumer: u32) {}
    }

    #[test]
    fn an_address_lasts_as_long_as_its_consumer() {
        let (replies, inbox) = (Arc::new(Replies::default()), Arc::new(Box::default()));
        let at = Place {
            channel: 3,
            incarnation: 7,
        };
        let address = replies.register(Arc::clone(&inbox) as Arc<dyn Mailbox>, at);
        let name = Arc::clone(address.name());
        assert!(is_address(&name) && !is_pseudo_queue(&name), "{name}");
        assert_eq!(replies.is_there(&name), Some(true));
        let reply = Reply {
            key: Arc::clone(&name),
            properties: Bytes::from_static(&[0, 0]),
            body: Bytes::from_static(b"x"),
        };
        let recipient = replies.find(&name).unwrap();
        recipient.deliver(&reply);
        assert_eq!(*inbox.0.lock(), [(at, reply)]);
        drop(address);
        assert!(replies.find(&name).is_none());
        assert_eq!(replies.is_there(&name), Some(false));
        assert!(replies.recipients.read().is_empty());
    }

    #[test]
    fn both_names_of_the_pseudo_queue_are_known() {
        let replies = Replies::default();
        assert_eq!(replies.is_there("amq.rabbitmq.reply-to"), Some(true));
        assert_eq!(replies.is_there("amq.direct.reply-to"), Some(true));
        assert_eq!(replies.is_there("amq.rabbitmq.reply-to.0"), Some(false));
        assert_eq!(replies.is_there("tasks"), None);
    }
}
