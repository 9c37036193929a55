//! Static shovels: those of the server's settings, as RabbitMQ's `rabbitmq_shovel.shovels`. They belong to no vhost and
//! nobody, and stay as long as the server runs.
//!
//! Unlike a dynamic one, such a shovel declares nothing by itself: it says what is to be declared on either side, each time
//! that it connects.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::config::{
    Config, DeleteAfter, From, PREFETCH, RECONNECT_MAX_S, RECONNECT_S, To, addresses, target, wrong,
};
use crate::codec::{Method, TableBuf};
use crate::json::{self as convert, OwnedProperties};
use crate::link::{Address, Link, LinkError};
use crate::parameter::check::Invalid;
use crate::transfer::AckMode;

/// Octets of a name.
const NAME_MAX: usize = 255;

/// A shovel of the settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct StaticShovel {
    name: String,
    config: Arc<Config>,
}

impl StaticShovel {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }
}

/// Why settings are no shovel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shovel \"{name}\": {why}")]
pub struct NoShovel {
    /// Its name.
    pub name: String,
    /// What is wrong.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    source: Source,
    destination: Destination,
    ack_mode: Option<String>,
    reconnect_delay: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    uris: Vec<String>,
    protocol: Option<String>,
    #[serde(default)]
    declarations: Vec<Declaration>,
    queue: String,
    prefetch_count: Option<u16>,
    #[serde(default)]
    consumer_args: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Destination {
    uris: Vec<String>,
    protocol: Option<String>,
    #[serde(default)]
    declarations: Vec<Declaration>,
    #[serde(default)]
    publish_properties: Map<String, Value>,
    #[serde(default)]
    publish_fields: Fields,
    #[serde(default)]
    add_forward_headers: bool,
    #[serde(default)]
    add_timestamp_header: bool,
}

/// What is otherwise than it was of a message that goes on.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    exchange: Option<String>,
    routing_key: Option<String>,
}

/// Something that is declared on one side.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "method", deny_unknown_fields)]
pub(crate) enum Declaration {
    #[serde(rename = "exchange.declare")]
    Exchange {
        exchange: String,
        #[serde(rename = "type", default = "direct")]
        kind: String,
        #[serde(default)]
        passive: bool,
        #[serde(default)]
        durable: bool,
        #[serde(default)]
        auto_delete: bool,
        #[serde(default)]
        internal: bool,
        #[serde(default)]
        arguments: Map<String, Value>,
    },
    #[serde(rename = "queue.declare")]
    Queue {
        /// Empty: the other side names it.
        #[serde(default)]
        queue: String,
        #[serde(default)]
        passive: bool,
        #[serde(default)]
        durable: bool,
        #[serde(default)]
        exclusive: bool,
        #[serde(default)]
        auto_delete: bool,
        #[serde(default)]
        arguments: Map<String, Value>,
    },
    #[serde(rename = "queue.bind")]
    QueueBinding {
        /// Empty: the last that was declared.
        #[serde(default)]
        queue: String,
        exchange: String,
        #[serde(default)]
        routing_key: String,
        #[serde(default)]
        arguments: Map<String, Value>,
    },
    #[serde(rename = "exchange.bind")]
    ExchangeBinding {
        destination: String,
        source: String,
        #[serde(default)]
        routing_key: String,
        #[serde(default)]
        arguments: Map<String, Value>,
    },
}

fn direct() -> String {
    "direct".to_owned()
}

impl Declaration {
    fn parts(&self) -> ([&str; 3], &Map<String, Value>) {
        match self {
            Declaration::Exchange {
                exchange,
                kind,
                arguments,
                ..
            } => ([exchange, kind, ""], arguments),
            Declaration::Queue {
                queue, arguments, ..
            } => ([queue, "", ""], arguments),
            Declaration::QueueBinding {
                queue,
                exchange,
                routing_key,
                arguments,
            } => ([queue, exchange, routing_key], arguments),
            Declaration::ExchangeBinding {
                destination,
                source,
                routing_key,
                arguments,
            } => ([destination, source, routing_key], arguments),
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        let (names, arguments) = self.parts();
        for name in names {
            check_name("a name in declarations", name)?;
        }
        check_table("arguments of a declaration", arguments)
    }

    /// The method that declares it.
    fn method<'d>(&'d self, table: &'d TableBuf) -> Method<'d> {
        let arguments = table.as_table();
        match self {
            Declaration::Exchange {
                exchange,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                ..
            } => Method::ExchangeDeclare {
                ticket: 0,
                exchange,
                kind,
                passive: *passive,
                durable: *durable,
                auto_delete: *auto_delete,
                internal: *internal,
                no_wait: false,
                arguments,
            },
            Declaration::Queue {
                queue,
                passive,
                durable,
                exclusive,
                auto_delete,
                ..
            } => Method::QueueDeclare {
                ticket: 0,
                queue,
                passive: *passive,
                durable: *durable,
                exclusive: *exclusive,
                auto_delete: *auto_delete,
                no_wait: false,
                arguments,
            },
            Declaration::QueueBinding {
                queue,
                exchange,
                routing_key,
                ..
            } => Method::QueueBind {
                ticket: 0,
                queue,
                exchange,
                routing_key,
                no_wait: false,
                arguments,
            },
            Declaration::ExchangeBinding {
                destination,
                source,
                routing_key,
                ..
            } => Method::ExchangeBind {
                ticket: 0,
                destination,
                source,
                routing_key,
                no_wait: false,
                arguments,
            },
        }
    }
}

/// Declares all, in their order.
///
/// # Errors
/// What the other side says.
pub(super) async fn declare(link: &mut Link, all: &[Declaration]) -> Result<(), LinkError> {
    for declaration in all {
        let (_, arguments) = declaration.parts();
        let table = convert::to_table(arguments)?;
        link.call(&declaration.method(&table)).await?;
    }
    Ok(())
}

fn check_name(what: &str, name: &str) -> Result<(), Invalid> {
    match name.len() > NAME_MAX {
        true => Err(wrong(&format!("{what} has more than {NAME_MAX} bytes"))),
        false => Ok(()),
    }
}

fn check_table(what: &str, table: &Map<String, Value>) -> Result<(), Invalid> {
    let table = convert::to_table(table);
    table.map_err(|error| wrong(&format!("{what}: {error}")))?;
    Ok(())
}

fn check_protocol(key: &str, protocol: Option<&str>, known: &[&str]) -> Result<(), Invalid> {
    match protocol.filter(|protocol| !known.contains(protocol)) {
        Some(protocol) => Err(wrong(&format!(
            "{key} should be one of {known:?}, actually was {protocol:?}"
        ))),
        None => Ok(()),
    }
}

impl Written {
    fn read(self) -> Result<Config, Invalid> {
        let Written {
            name,
            source,
            destination: to,
            ack_mode,
            reconnect_delay,
        } = self;
        if name.is_empty() {
            return Err(wrong("a name is missing"));
        }
        check_name("name", &name)?;
        check_name("source.queue", &source.queue)?;
        check_protocol("source.protocol", source.protocol.as_deref(), &["amqp091"])?;
        let protocol = to.protocol.as_deref();
        check_protocol("destination.protocol", protocol, &["amqp091", "http"])?;
        for declaration in source.declarations.iter().chain(&to.declarations) {
            declaration.check()?;
        }
        check_table("source.consumer_args", &source.consumer_args)?;
        OwnedProperties::read(to.publish_properties.clone())
            .map_err(|why| wrong(&format!("destination.publish_properties: {why}")))?;
        let Fields {
            exchange,
            routing_key,
        } = to.publish_fields;
        for name in exchange.iter().chain(&routing_key) {
            check_name("a name in publish_fields", name)?;
        }
        let prefetch = source.prefetch_count.unwrap_or(PREFETCH);
        if prefetch == 0 {
            return Err(wrong("source.prefetch_count should be at least 1"));
        }
        let reconnect_s = reconnect_delay.unwrap_or(RECONNECT_S);
        if reconnect_s > RECONNECT_MAX_S {
            return Err(wrong(&format!(
                "reconnect_delay should be at most {RECONNECT_MAX_S} seconds"
            )));
        }
        let parse = |text: &str| Address::parse(text).map_err(|error| error.to_string());
        Ok(Config {
            sources: addresses(("source.uris", &json!(source.uris)), parse)?,
            from: From::Declared(source.queue),
            source_declarations: source.declarations,
            prefetch,
            after: DeleteAfter::Never,
            consumer_args: source.consumer_args,
            source_args: Map::new(),
            source_predeclared: true,
            targets: addresses(("destination.uris", &json!(to.uris)), target)?,
            to: match (exchange, routing_key) {
                (Some(exchange), key) => To::Exchange(exchange, key),
                (None, Some(key)) => To::Key(key),
                (None, None) => To::Same,
            },
            target_declarations: to.declarations,
            properties: to.publish_properties,
            forward_headers: to.add_forward_headers,
            timestamp_header: to.add_timestamp_header,
            target_args: Map::new(),
            target_predeclared: true,
            mode: mode(ack_mode.as_deref())?,
            reconnect_s,
        })
    }
}

/// In Erlang's words or in those of a parameter.
fn mode(text: Option<&str>) -> Result<AckMode, Invalid> {
    let Some(text) = text else {
        return Ok(AckMode::default());
    };
    let word = text.replace('_', "-");
    let mut known = AckMode::NAMES.iter();
    let found = known.find(|(name, _)| *name == word);
    found.map(|(_, mode)| *mode).ok_or_else(|| {
        let words: Vec<_> = AckMode::NAMES.iter().map(|(name, _)| *name).collect();
        wrong(&format!(
            "ack_mode should be one of {words:?}, actually was {text:?}"
        ))
    })
}

impl TryFrom<Written> for StaticShovel {
    type Error = NoShovel;

    fn try_from(written: Written) -> Result<Self, NoShovel> {
        let name = written.name.clone();
        match written.read() {
            Ok(config) => Ok(StaticShovel {
                name,
                config: Arc::new(config),
            }),
            Err(Invalid(why)) => Err(NoShovel { name, why }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shovel::Target;

    fn read(change: impl Fn(&mut Value)) -> Result<StaticShovel, String> {
        let mut written = json!({
            "name": "s",
            "source": {"uris": ["amqp://u:secret@h1", "amqps://h2"], "queue": "q"},
            "destination": {"uris": ["amqp://"]},
        });
        change(&mut written);
        serde_json::from_value(written).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_rabbitmqs() {
        let shovel = read(|_| {}).unwrap();
        let config = shovel.config();
        assert_eq!((shovel.name(), config.sources.len()), ("s", 2));
        assert_eq!((config.prefetch, config.reconnect_s), (1000, 5));
        assert_eq!(config.from, From::Declared("q".into()));
        assert_eq!((&config.to, config.mode), (&To::Same, AckMode::OnConfirm));
        assert!(!format!("{shovel:?}").contains("secret"));
    }

    #[test]
    fn all_keys_are_read() {
        let shovel = read(|of| {
            of["source"]["declarations"] = json!([
                {"method": "exchange.declare", "exchange": "x", "type": "fanout", "durable": true},
                {"method": "queue.declare", "arguments": {"x-message-ttl": 60_000}},
                {"method": "queue.bind", "exchange": "x"},
                {"method": "exchange.bind", "source": "x", "destination": "y", "routing_key": "k"},
            ]);
            of["source"]["prefetch_count"] = json!(7);
            of["source"]["consumer_args"] = json!({"x-priority": 1});
            of["destination"] = json!({
                "uris": ["http://host/hook"], "publish_properties": {"delivery_mode": 2},
                "publish_fields": {"routing_key": "k"}, "add_forward_headers": true,
                "add_timestamp_header": true, "protocol": "http",
            });
            of["ack_mode"] = json!("on_publish");
            of["reconnect_delay"] = json!(0);
        });
        let shovel = shovel.unwrap();
        let config = shovel.config();
        assert_eq!((config.prefetch, config.reconnect_s), (7, 0));
        assert_eq!(
            (&config.to, config.mode),
            (&To::Key("k".into()), AckMode::OnPublish)
        );
        assert!(matches!(config.targets[0], Target::Http(_)));
        let [exchange, queue, binding, _] = &config.source_declarations[..] else {
            panic!("{config:?}");
        };
        let table = TableBuf::default();
        assert!(matches!(
            exchange.method(&table),
            Method::ExchangeDeclare {
                exchange: "x",
                kind: "fanout",
                durable: true,
                passive: false,
                ..
            }
        ));
        assert!(matches!(
            queue.method(&table),
            Method::QueueDeclare { queue: "", .. }
        ));
        assert!(matches!(
            binding.method(&table),
            Method::QueueBind {
                queue: "",
                exchange: "x",
                ..
            }
        ));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let long = "n".repeat(256);
        for (path, value, text) in [
            ("/name", json!(""), "shovel \"\": a name is missing"),
            ("/name", json!(long), "more than 255 bytes"),
            ("/colour", json!(1), "unknown field `colour`"),
            ("/source/queue", json!(null), "invalid type"),
            (
                "/source/uris",
                json!([]),
                "source.uris should be 1 to 100 addresses",
            ),
            (
                "/source/uris",
                json!(["amqp://u:secret@h h"]),
                "source.uris is not a valid URI",
            ),
            (
                "/source/protocol",
                json!("amqp10"),
                "source.protocol should be one of",
            ),
            (
                "/source/prefetch_count",
                json!(0),
                "prefetch_count should be at least 1",
            ),
            (
                "/destination/uris",
                json!(["ftp://x"]),
                "destination.uris is not a valid URI",
            ),
            (
                "/destination/publish_properties",
                json!({"colour": 1}),
                "unknown property 'colour'",
            ),
            (
                "/destination/publish_fields",
                json!({"queue": "q"}),
                "unknown field `queue`",
            ),
            ("/ack_mode", json!("maybe"), "ack_mode should be one of"),
            (
                "/reconnect_delay",
                json!(86_401),
                "reconnect_delay should be at most",
            ),
            (
                "/source/declarations",
                json!([{"method": "queue.delete"}]),
                "unknown variant",
            ),
            (
                "/source/declarations",
                json!([{"method": "queue.bind"}]),
                "missing field `exchange`",
            ),
            (
                "/destination/declarations",
                json!([{"method": "queue.declare", "colour": 1}]),
                "unknown field `colour`",
            ),
        ] {
            let (parent, key) = path.rsplit_once('/').unwrap();
            let read = read(|of| of.pointer_mut(parent).unwrap()[key] = value.clone());
            let error = read.unwrap_err();
            assert!(error.contains(text), "{path}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
