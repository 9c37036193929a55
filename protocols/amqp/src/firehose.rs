//! The firehose: a copy of every message that clients publish to a vhost, and of every one that is delivered to them, for
//! whoever binds a queue to [`EXCHANGE`], while the vhost is traced.
//!
//! ```text
//! publish to X    ──▶ publish.X ─┐
//!                                ├─▶ amq.rabbitmq.trace ──▶ queues
//! delivery from Q ──▶ deliver.Q ─┘
//! ```
//!
//! A channel only notes what there is to copy, and only while its vhost is traced: off, that is one relaxed load for each
//! message. The copy is made and sent on its way when the connection's lock is released. Nobody waits for it, and copies
//! of copies are not made.

use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{ArrayBuf, EncodeError, Properties, Table, TableBuf, Value};
use crate::graph::{Content, Routing};
use crate::session::routing::keys_of;
use crate::store::{Parcel, beside_queues, in_queues};
use crate::streams::Outgoing;
use crate::topology::Topology;

/// Where copies are published; every vhost has it, and clients only bind to it.
pub(crate) const EXCHANGE: &str = "amq.rabbitmq.trace";

/// A message of which a copy is to be made.
#[derive(Clone, Debug)]
pub(crate) struct Tapped {
    pub(crate) event: Event,
    /// The exchange that it was published to, and its routing key.
    pub(crate) exchange: Arc<str>,
    pub(crate) key: Arc<str>,
    /// Flags and values.
    pub(crate) properties: Bytes,
    pub(crate) body: Bytes,
    /// Where it was, by its connection's number.
    pub(crate) connection: u64,
    pub(crate) channel: u16,
    pub(crate) vhost: Arc<str>,
    pub(crate) user: String,
}

/// What happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It was published.
    Published,
    /// It was delivered or fetched.
    Delivered {
        /// The queue that it comes from.
        queue: Arc<str>,
        /// Not for the first time.
        redelivered: bool,
    },
}

fn text(text: &str) -> Value<'_> {
    Value::LongString(text.as_bytes())
}

/// Properties as RabbitMQ names them in a copy.
fn described(properties: &Properties<'_>) -> Result<TableBuf, EncodeError> {
    let mut table = TableBuf::default();
    let p = properties;
    let number = |number: u8| Value::I32(number.into());
    for (name, value) in [
        ("content_type", p.content_type.map(text)),
        ("content_encoding", p.content_encoding.map(text)),
        ("headers", p.headers.map(Value::Table)),
        ("delivery_mode", p.delivery_mode.map(number)),
        ("priority", p.priority.map(number)),
        ("correlation_id", p.correlation_id.map(text)),
        ("reply_to", p.reply_to.map(text)),
        ("expiration", p.expiration.map(text)),
        ("message_id", p.message_id.map(text)),
        ("timestamp", p.timestamp.map(Value::Timestamp)),
        ("type", p.kind.map(text)),
        ("user_id", p.user_id.map(text)),
        ("app_id", p.app_id.map(text)),
        ("cluster_id", p.cluster_id.map(text)),
    ] {
        if let Some(value) = value {
            table.put(name, value)?;
        }
    }
    Ok(table)
}

impl Tapped {
    /// The routing key of the copy: at most as long as one may be.
    fn routing_key(&self) -> String {
        let mut key = match &self.event {
            Event::Published => format!("publish.{}", self.exchange),
            Event::Delivered { queue, .. } => format!("deliver.{queue}"),
        };
        let most = key.floor_char_boundary(usize::from(u8::MAX));
        key.truncate(most);
        key
    }

    /// The headers of the copy.
    fn headers(&self, node: &str, connection: &str) -> Result<TableBuf, EncodeError> {
        let properties = Properties::decode(&self.properties).unwrap_or_default();
        let mut keys = ArrayBuf::default();
        let copies = properties.headers.unwrap_or_default();
        // Checked when it was published.
        for key in keys_of(&self.key, &copies).unwrap_or_default() {
            keys.push(text(key))?;
        }
        let described = described(&properties)?;
        let mut headers = TableBuf::default();
        headers.put("exchange_name", text(&self.exchange))?;
        headers.put("routing_keys", Value::Array(keys.as_array()))?;
        headers.put("properties", Value::Table(described.as_table()))?;
        headers.put("node", text(node))?;
        if let Event::Delivered { redelivered, .. } = self.event {
            headers.put("redelivered", Value::I32(redelivered.into()))?;
        }
        headers.put("vhost", text(&self.vhost))?;
        headers.put("connection", text(connection))?;
        headers.put("channel", Value::I32(self.channel.into()))?;
        headers.put("user", text(&self.user))?;
        Ok(headers)
    }

    /// Publishes a copy. What is to be stored goes to `outgoing`.
    pub(crate) fn copy(
        &self,
        (node, connection): (&str, &str),
        topology: &Topology,
        outgoing: &mut Outgoing,
    ) {
        let key = self.routing_key();
        let mut octets = Vec::new();
        let encoded = self.headers(node, connection).and_then(|headers| {
            let properties = Properties {
                headers: Some(headers.as_table()),
                ..Properties::default()
            };
            properties.encode(&mut octets)
        });
        if let Err(error) = encoded {
            return tracing::warn!(%error, %key, "a message cannot be traced");
        }
        let Ok(properties) = Properties::decode(&octets) else {
            return;
        };
        let now = topology.now();
        let keys = [key.as_str()];
        let routing = Routing {
            keys: &keys,
            properties: &properties,
            content: Content {
                exchange: EXCHANGE,
                properties: &octets,
                body: &self.body,
            },
            due: false,
            now,
        };
        let Some(routed) = topology.graph().route(EXCHANGE, &routing) else {
            return;
        };
        let parcel = Parcel {
            exchange: EXCHANGE,
            key: &key,
            properties: &octets,
            shown: &octets,
            encoded: None,
            headers: Table::default(),
            body: &self.body,
            priority: None,
            expiration_ms: None,
            now,
        };
        let stores = in_queues(&routed.queues, &parcel, &mut Vec::new());
        let beside = beside_queues(&routed.beside, &parcel);
        let stores = stores.into_iter().chain(beside);
        outgoing.extend(stores.map(|store| (store.shard, store.into_command(), None)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::samples::table;

    fn tapped(event: Event) -> Tapped {
        let copies = {
            let mut copies = ArrayBuf::default();
            copies.push(text("k2")).unwrap();
            copies
        };
        let own = table(&[("CC", Value::Array(copies.as_array()))]);
        let mut properties = Vec::new();
        let all = Properties {
            headers: Some(own.as_table()),
            delivery_mode: Some(2),
            kind: Some("order"),
            timestamp: Some(7),
            ..Properties::default()
        };
        all.encode(&mut properties).unwrap();
        Tapped {
            event,
            exchange: "x".into(),
            key: "k1".into(),
            properties: properties.into(),
            body: Bytes::from_static(b"body"),
            connection: 1,
            channel: 3,
            vhost: "/".into(),
            user: "guest".into(),
        }
    }

    #[test]
    fn a_copy_says_what_happened_to_which_message_where() {
        let tapped = tapped(Event::Published);
        assert_eq!(tapped.routing_key(), "publish.x");
        let headers = tapped.headers("n@h", "a -> b").unwrap();
        let headers = headers.as_table();
        let names: Vec<_> = headers.iter().map(|(name, _)| name).collect();
        let expected = [
            "exchange_name",
            "routing_keys",
            "properties",
            "node",
            "vhost",
            "connection",
            "channel",
            "user",
        ];
        assert_eq!(names, expected);
        assert_eq!(headers.get("connection"), Some(text("a -> b")));
        assert_eq!(headers.get("channel"), Some(Value::I32(3)));
        let Some(Value::Array(keys)) = headers.get("routing_keys") else {
            panic!("{headers:?}");
        };
        let keys: Vec<_> = keys.iter().collect();
        assert_eq!(keys, [text("k1"), text("k2")]);
        let Some(Value::Table(properties)) = headers.get("properties") else {
            panic!("{headers:?}");
        };
        assert_eq!(properties.get("delivery_mode"), Some(Value::I32(2)));
        assert_eq!(properties.get("type"), Some(text("order")));
        assert_eq!(properties.get("timestamp"), Some(Value::Timestamp(7)));
        assert!(matches!(properties.get("headers"), Some(Value::Table(_))));
        assert_eq!(properties.get("priority"), None);
    }

    #[test]
    fn a_delivery_is_known_by_its_queue_and_says_whether_it_is_the_first() {
        let delivered = |queue: &str| {
            tapped(Event::Delivered {
                queue: queue.into(),
                redelivered: true,
            })
        };
        let tapped = delivered("q");
        assert_eq!(tapped.routing_key(), "deliver.q");
        let headers = tapped.headers("n@h", "c").unwrap();
        let again = headers.as_table().get("redelivered");
        assert_eq!(again, Some(Value::I32(1)));
        // The longest name of a queue leaves no room for what is before it.
        assert_eq!(delivered(&"ü".repeat(127)).routing_key().len(), 254);
    }
}
