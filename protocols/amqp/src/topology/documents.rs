//! Queues, exchanges and bindings as documents of the catalog: field tables, as on the wire.
//!
//! Names: `amqp/queue/SPACE/NAME`, `amqp/exchange/SPACE/NAME`, `amqp/binding/SPACE/` and a fingerprint of what the binding
//! is, because source, destination, key and arguments together may be longer than a name.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::Catalog;
use longtail_broker::catalog::Write;
use longtail_broker::stable_hash;

use crate::codec::{EncodeError, Table, TableBuf, Value};
use crate::graph::{Binding, Destination, ExchangeConfig, ExchangeFlags};
use crate::queue::{QueueArguments, QueueConfig};

/// A document, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Document {
    Exchange(Arc<str>, ExchangeConfig),
    Queue(Arc<str>, QueueConfig),
    /// Source, key, and the rest.
    Binding(Arc<str>, Arc<str>, Binding),
}

fn prefix(kind: &str, space: &str) -> String {
    // The length keeps `a` + `/b` and `a/b` apart.
    format!("amqp/{kind}/{}:{space}/", space.len())
}

fn write(name: String, fields: &[(&str, Value<'_>)]) -> Write {
    let mut table = TableBuf::default();
    let put: Result<(), EncodeError> = fields
        .iter()
        .try_for_each(|(key, value)| table.put(key, *value));
    if let Err(error) = put {
        // Keys are short and values came from the wire.
        tracing::error!(%error, name, "a document is incomplete");
    }
    Write {
        name,
        body: Some(Bytes::copy_from_slice(table.as_table().as_bytes())),
        expected: None,
    }
}

/// The same document, removed.
pub(super) fn without(write: Write) -> Write {
    Write {
        body: None,
        ..write
    }
}

fn text(text: &str) -> Value<'_> {
    Value::LongString(text.as_bytes())
}

pub(super) fn queue(space: &str, name: &str, config: &QueueConfig) -> Write {
    write(
        prefix("queue", space) + name,
        &[
            ("name", text(name)),
            ("auto_delete", Value::Bool(config.auto_delete)),
            (
                "arguments",
                Value::Table(Table::decode(&config.arguments).unwrap_or_default()),
            ),
        ],
    )
}

pub(super) fn exchange(space: &str, name: &str, config: &ExchangeConfig) -> Write {
    write(
        prefix("exchange", space) + name,
        &[
            ("name", text(name)),
            ("type", text(config.type_name())),
            ("auto_delete", Value::Bool(config.auto_delete)),
            ("internal", Value::Bool(config.internal)),
            (
                "arguments",
                Value::Table(Table::decode(&config.arguments).unwrap_or_default()),
            ),
        ],
    )
}

pub(super) fn binding(space: &str, source: &str, key: &str, binding: &Binding) -> Write {
    let (to_queue, destination) = match &binding.destination {
        Destination::Queue(name) => (true, name),
        Destination::Exchange(name) => (false, name),
    };
    let parts = [
        source.as_bytes(),
        &[u8::from(to_queue)],
        destination.as_bytes(),
        key.as_bytes(),
        &binding.arguments,
    ];
    let fingerprint = |seed: u8| {
        let bytes = parts.iter().flat_map(|part| {
            let len = (part.len() as u64).to_le_bytes();
            len.into_iter().chain(part.iter().copied())
        });
        stable_hash(std::iter::once(seed).chain(bytes))
    };
    write(
        format!(
            "{}{:016x}{:016x}",
            prefix("binding", space),
            fingerprint(0),
            fingerprint(1)
        ),
        &[
            ("source", text(source)),
            ("destination", text(destination)),
            ("to_queue", Value::Bool(to_queue)),
            ("key", text(key)),
            (
                "arguments",
                Value::Table(Table::decode(&binding.arguments).unwrap_or_default()),
            ),
        ],
    )
}

/// The places of consumers in a stream, by their tags.
pub(super) fn offsets_of(space: &str, stream: &str, places: &[(Arc<str>, u64)]) -> Write {
    let offset = |offset: u64| Value::I64(i64::try_from(offset).unwrap_or(i64::MAX));
    let places: Vec<_> = places
        .iter()
        .map(|(tag, place)| (&**tag, offset(*place)))
        .collect();
    write(prefix("offsets", space) + stream, &places)
}

/// The same, read back.
pub(super) fn offsets(catalog: &Catalog, space: &str, stream: &str) -> Vec<(Arc<str>, u64)> {
    let Some(document) = catalog.get(&(prefix("offsets", space) + stream)) else {
        return Vec::new();
    };
    let table = Table::decode(&document.body).unwrap_or_default();
    let place = |(tag, value): (&str, Value<'_>)| {
        let offset = u64::try_from(value.as_i64()?).ok()?;
        Some((Arc::from(tag), offset))
    };
    table.iter().filter_map(place).collect()
}

/// The spaces that something is written down of.
pub(crate) fn spaces(catalog: &Catalog) -> BTreeSet<Arc<str>> {
    let documents = catalog.list("amqp/");
    let names = documents.iter().filter_map(|(name, _)| space_of(name));
    names.map(Arc::from).collect()
}

/// The space in the name of a document, see [`prefix`].
fn space_of(name: &str) -> Option<&str> {
    let (_, rest) = name.strip_prefix("amqp/")?.split_once('/')?;
    let (len, rest) = rest.split_once(':')?;
    rest.get(..len.parse().ok()?)
}

/// Everything that is written down of a space; what does not parse is left out and told.
pub(super) fn all(catalog: &Catalog, space: &str) -> Vec<Document> {
    let mut all = Vec::new();
    for kind in ["exchange", "queue", "binding"] {
        for (name, document) in catalog.list(&prefix(kind, space)) {
            match read(kind, &document.body) {
                Some(document) => all.push(document),
                None => tracing::error!(%name, "a document of AMQP does not parse and is left out"),
            }
        }
    }
    all
}

fn read(kind: &str, body: &[u8]) -> Option<Document> {
    let table = Table::decode(body).ok()?;
    let text = |key: &str| table.get(key)?.as_str().map(Arc::<str>::from);
    let flag = |key: &str| match table.get(key) {
        Some(Value::Bool(flag)) => Some(flag),
        _ => None,
    };
    let Some(Value::Table(arguments)) = table.get("arguments") else {
        return None;
    };
    let bytes: Arc<[u8]> = arguments.as_bytes().into();
    Some(match kind {
        "exchange" => Document::Exchange(
            text("name")?,
            ExchangeConfig::new(
                &text("type")?,
                ExchangeFlags {
                    durable: true,
                    auto_delete: flag("auto_delete")?,
                    internal: flag("internal")?,
                },
                bytes,
            )
            .ok()?,
        ),
        "queue" => {
            let name = text("name")?;
            Document::Queue(
                Arc::clone(&name),
                QueueConfig {
                    durable: true,
                    auto_delete: flag("auto_delete")?,
                    owner: None,
                    parsed: QueueArguments::parse(&arguments, &name, "").ok()?,
                    arguments: bytes,
                },
            )
        }
        _ => {
            let destination = text("destination")?;
            let destination = if flag("to_queue")? {
                Destination::Queue(destination)
            } else {
                Destination::Exchange(destination)
            };
            let binding = Binding {
                destination,
                arguments: bytes,
            };
            Document::Binding(text("source")?, text("key")?, binding)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(kind: &str, write: &Write) -> Document {
        read(kind, write.body.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn documents_come_back() {
        let mut arguments = TableBuf::default();
        arguments.put("x-max-priority", Value::U8(4)).unwrap();
        let bytes: Arc<[u8]> = arguments.as_table().as_bytes().into();
        let config = QueueConfig {
            durable: true,
            auto_delete: true,
            owner: None,
            arguments: Arc::clone(&bytes),
            parsed: QueueArguments::parse(&arguments.as_table(), "q", "/").unwrap(),
        };
        assert_eq!(config.parsed.max_priority, Some(4));
        let expected = Document::Queue("q".into(), config.clone());
        assert_eq!(back("queue", &queue("s", "q", &config)), expected);
        let flags = ExchangeFlags {
            durable: true,
            auto_delete: false,
            internal: true,
        };
        let config = ExchangeConfig::new("headers", flags, Arc::clone(&bytes)).unwrap();
        let expected = Document::Exchange("x".into(), config.clone());
        assert_eq!(back("exchange", &exchange("s", "x", &config)), expected);
        for destination in [
            Destination::Queue("d".into()),
            Destination::Exchange("d".into()),
        ] {
            let bound = Binding {
                destination,
                arguments: Arc::clone(&bytes),
            };
            let expected = Document::Binding("x".into(), "k".into(), bound.clone());
            assert_eq!(back("binding", &binding("s", "x", "k", &bound)), expected);
        }
    }

    #[test]
    fn each_binding_and_each_space_has_names_of_its_own() {
        let bound = |name: &str| Binding {
            destination: Destination::Queue(name.into()),
            arguments: Arc::default(),
        };
        let name = |source: &str, key: &str, to: &str| binding("s", source, key, &bound(to)).name;
        assert_eq!(name("x", "k", "q"), name("x", "k", "q"));
        assert_ne!(name("x", "k", "q"), name("x", "kq", ""));
        assert_ne!(name("x", "k", "q"), name("xk", "", "q"));
        assert_ne!(prefix("queue", "a") + "b/c", prefix("queue", "a/b") + "c");
        for space in ["", "a", "a/b", "3:a/b", "ä"] {
            let name = prefix("queue", space) + "q/1:r";
            assert_eq!(space_of(&name), Some(space));
        }
        assert_eq!(space_of("amqp/queue/9:a/q"), None);
    }
}
