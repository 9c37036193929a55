//! What a shovel is to do, and how its parameter says that.

use serde_json::{Map, Value};

use super::statics::Declaration;
use crate::json::{self, OwnedProperties};
use crate::link::Address;
use crate::parameter::check::{Invalid, Reader};
use crate::transfer::{AckMode, HttpAddress};

/// A shovel.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Tried in turn.
    pub(crate) sources: Vec<Address>,
    pub(crate) from: From,
    /// Messages that may be under way.
    pub(crate) prefetch: u16,
    pub(crate) after: DeleteAfter,
    pub(crate) consumer_args: Map<String, Value>,
    /// Arguments of the source queue, where it is declared here.
    pub(crate) source_args: Map<String, Value>,
    /// It is there already, or the shovel waits for it.
    pub(crate) source_predeclared: bool,
    /// What a static shovel declares there.
    pub(crate) source_declarations: Vec<Declaration>,
    /// Tried in turn.
    pub(crate) targets: Vec<Target>,
    pub(crate) to: To,
    pub(crate) properties: Map<String, Value>,
    pub(crate) forward_headers: bool,
    pub(crate) timestamp_header: bool,
    pub(crate) target_args: Map<String, Value>,
    pub(crate) target_predeclared: bool,
    /// What a static shovel declares there.
    pub(crate) target_declarations: Vec<Declaration>,
    pub(crate) mode: AckMode,
    /// Seconds; 0: it is not tried again.
    pub(crate) reconnect_s: u64,
}

/// Where messages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Queue(String),
    /// A queue that is there, or was declared a moment ago; empty: the last that was.
    Declared(String),
    /// An exchange, by way of a queue of the shovel's own, bound with this key.
    Exchange(String, String),
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Queue(String),
    /// An exchange; with the messages' own keys, or this one.
    Exchange(String, Option<String>),
    /// To the exchange that each was published to, with this key.
    Key(String),
    /// To the exchange and with the key that each was published with.
    Same,
}

/// A destination's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Amqp(Address),
    Http(HttpAddress),
}

/// When a shovel is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DeleteAfter {
    #[default]
    Never,
    /// When it has carried what was there at its start.
    QueueLength,
    /// When it has carried so many.
    Messages(u64),
}

/// Messages under way, unless the parameter says so.
pub(super) const PREFETCH: u16 = 1_000;

/// Seconds between two attempts, unless the parameter says so.
pub(super) const RECONNECT_S: u64 = 5;

/// Longest such time: a day.
pub(super) const RECONNECT_MAX_S: u64 = 86_400;

/// Addresses of one side.
const ADDRESSES_MAX: usize = 100;

impl Config {
    /// Reads the value of the parameter `name`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(name: &str, value: &Value) -> Result<Self, Invalid> {
        let mut read = Reader::new(name, value)?;
        for protocol in ["src-protocol", "dest-protocol"] {
            let words: &[_] = match protocol {
                "src-protocol" => &[("amqp091", ())],
                // LavinMQ knows its destinations by their addresses; both words are taken.
                _ => &[("amqp091", ()), ("http", ())],
            };
            read.word(&[protocol], words)?;
        }
        let sources = addresses(read.needed("src-uri")?, |text| {
            Address::parse(text).map_err(|error| error.to_string())
        })?;
        let targets = addresses(read.needed("dest-uri")?, target)?;
        let from = match (
            read.name(&["src-queue"])?,
            read.name(&["src-exchange"])?,
            read.name(&["src-exchange-key"])?,
        ) {
            (Some(_), Some(_), _) => {
                return Err(wrong("Cannot specify 'src-exchange' and 'src-queue'"));
            }
            (None, None, _) => return Err(wrong("Must specify 'src-exchange' or 'src-queue'")),
            (Some(queue), None, _) => From::Queue(queue),
            (None, Some(exchange), key) => From::Exchange(exchange, key.unwrap_or_default()),
        };
        let key = read.name(&["dest-exchange-key"])?;
        let to = match (read.name(&["dest-queue"])?, read.name(&["dest-exchange"])?) {
            (Some(_), Some(_)) => {
                return Err(wrong("Cannot specify 'dest-exchange' and 'dest-queue'"));
            }
            (Some(queue), None) => To::Queue(queue),
            (None, Some(exchange)) => To::Exchange(exchange, key),
            (None, None) => To::Same,
        };
        let after = delete_after(read.value(&["src-delete-after", "delete-after"]))?;
        let mode = read
            .word(&["ack-mode"], AckMode::NAMES)?
            .unwrap_or_default();
        if mode == AckMode::NoAck && matches!(after, DeleteAfter::Messages(_)) {
            return Err(wrong(
                "Cannot specify 'no-ack' and numerical 'delete-after'",
            ));
        }
        let properties = read
            .object(&["dest-publish-properties", "publish-properties"])?
            .unwrap_or_default();
        OwnedProperties::read(properties.clone())
            .map_err(|why| wrong(&format!("dest-publish-properties: {why}")))?;
        let table = |found: Option<Map<String, Value>>, key: &str| {
            let found = found.unwrap_or_default();
            json::to_table(&found).map_err(|error| wrong(&format!("{key}: {error}")))?;
            Ok(found)
        };
        let prefetch = (1, u16::MAX.into());
        let prefetch = read.number(&["src-prefetch-count", "prefetch-count"], prefetch)?;
        let forward_headers = read
            .flag(&["dest-add-forward-headers", "add-forward-headers"])?
            .unwrap_or(false);
        let timestamp_header = read
            .flag(&["dest-add-timestamp-header", "add-timestamp-header"])?
            .unwrap_or(false);
        let config = Config {
            sources,
            from,
            prefetch: prefetch.map_or(PREFETCH, |most| u16::try_from(most).unwrap_or(u16::MAX)),
            after,
            consumer_args: table(read.object(&["src-consumer-args"])?, "src-consumer-args")?,
            source_args: table(read.object(&["src-queue-args"])?, "src-queue-args")?,
            source_predeclared: read.flag(&["src-predeclared"])?.unwrap_or(false),
            source_declarations: Vec::new(),
            targets,
            to,
            properties,
            forward_headers,
            timestamp_header,
            target_args: table(read.object(&["dest-queue-args"])?, "dest-queue-args")?,
            target_predeclared: read.flag(&["dest-predeclared"])?.unwrap_or(false),
            target_declarations: Vec::new(),
            mode,
            reconnect_s: read
                .number(&["reconnect-delay"], (0, RECONNECT_MAX_S))?
                .unwrap_or(RECONNECT_S),
        };
        read.finish()?;
        Ok(config)
    }

    /// The vhosts of this broker that it uses without saying as whom.
    pub(crate) fn inside(&self) -> impl Iterator<Item = &str> {
        let targets = self.targets.iter().filter_map(|target| match target {
            Target::Amqp(address) => Some(address),
            Target::Http(_) => None,
        });
        let all = self.sources.iter().chain(targets);
        all.filter(|address| address.is_inside() && address.login.is_none())
            .map(|address| address.vhost.as_str())
    }
}

pub(super) fn wrong(text: &str) -> Invalid {
    Invalid(text.to_owned())
}

fn delete_after(value: Option<(&'static str, &Value)>) -> Result<DeleteAfter, Invalid> {
    let Some((key, value)) = value else {
        return Ok(DeleteAfter::Never);
    };
    match (value.as_str(), value.as_u64()) {
        (Some("never"), _) => Ok(DeleteAfter::Never),
        (Some("queue-length"), _) => Ok(DeleteAfter::QueueLength),
        (_, Some(number)) => Ok(DeleteAfter::Messages(number)),
        _ => Err(Invalid(format!(
            "{key} should be a number greater than or equal to 0, \"never\" or \"queue-length\", actually was {value}"
        ))),
    }
}

pub(super) fn target(text: &str) -> Result<Target, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        let parsed = HttpAddress::parse(text);
        return parsed
            .map(Target::Http)
            .ok_or_else(|| "it is no address of HTTP".to_owned());
    }
    Address::parse(text)
        .map(Target::Amqp)
        .map_err(|error| error.to_string())
}

/// One address or several.
pub(super) fn addresses<T>(
    (key, value): (&str, &Value),
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Invalid> {
    let texts: Vec<&str> = match value {
        Value::String(text) => vec![text],
        Value::Array(list) => {
            let texts = list.iter().map(Value::as_str);
            let texts: Option<Vec<_>> = texts.collect();
            texts.ok_or_else(|| wrong(&format!("{key} should be binary, or a list of them")))?
        }
        _ => return Err(wrong(&format!("{key} should be binary, or a list of them"))),
    };
    if texts.is_empty() || texts.len() > ADDRESSES_MAX {
        return Err(wrong(&format!(
            "{key} should be 1 to {ADDRESSES_MAX} addresses"
        )));
    }
    let parse = |text: &str| {
        // Not the address itself: there may be a password in it.
        parse(text).map_err(|why| wrong(&format!("{key} is not a valid URI: {why}")))
    };
    texts.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(more: &Value) -> Result<Config, Invalid> {
        let mut value =
            json!({"src-uri": "amqp://", "dest-uri": ["amqp://h1", "amqp://h2"], "src-queue": "q"});
        for (key, more) in more.as_object().unwrap() {
            value[key] = more.clone();
        }
        Config::parse("s", &value)
    }

    #[test]
    fn defaults_are_rabbitmqs() {
        let config = parse(&json!({})).unwrap();
        assert_eq!((config.prefetch, config.reconnect_s), (1000, 5));
        assert_eq!(
            (config.mode, config.after),
            (AckMode::OnConfirm, DeleteAfter::Never)
        );
        assert_eq!(
            (config.from.clone(), config.to.clone()),
            (From::Queue("q".into()), To::Same)
        );
        assert_eq!(config.inside().collect::<Vec<_>>(), ["/"]);
        assert_eq!(config.targets.len(), 2);
    }

    #[test]
    fn all_keys_are_read_under_old_and_new_names() {
        let config = parse(&json!({
            "src-prefetch-count": 7, "src-delete-after": "queue-length", "dest-exchange": "x",
            "dest-exchange-key": "k", "dest-publish-properties": {"delivery_mode": 2},
            "dest-add-forward-headers": true, "dest-add-timestamp-header": true, "ack-mode": "on-publish",
            "reconnect-delay": 1, "dest-uri": "http://host/hook", "src-queue-args": {"x-max-length": 3},
            "src-consumer-args": {"x-priority": 1}, "src-predeclared": true, "dest-predeclared": true,
            "src-protocol": "amqp091", "dest-protocol": "amqp091", "dest-queue-args": {},
        }))
        .unwrap();
        assert_eq!(
            (config.prefetch, config.after),
            (7, DeleteAfter::QueueLength)
        );
        assert_eq!(config.to, To::Exchange("x".into(), Some("k".into())));
        assert!(matches!(config.targets[0], Target::Http(_)));
        let old =
            parse(&json!({"prefetch-count": 8, "delete-after": 5, "add-forward-headers": true}))
                .unwrap();
        assert_eq!(
            (old.prefetch, old.after, old.forward_headers),
            (8, DeleteAfter::Messages(5), true)
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (more, text) in [
            (
                json!({"src-queue": null}),
                "Must specify 'src-exchange' or 'src-queue'",
            ),
            (
                json!({"src-exchange": "x"}),
                "Cannot specify 'src-exchange' and 'src-queue'",
            ),
            (
                json!({"dest-queue": "a", "dest-exchange": "b"}),
                "Cannot specify 'dest-exchange' and 'dest-queue'",
            ),
            (
                json!({"ack-mode": "no-ack", "delete-after": 3}),
                "Cannot specify 'no-ack' and numerical 'delete-after'",
            ),
            (json!({"src-uri": null}), "Key \"src-uri\" not found in s"),
            (json!({"src-uri": "amqp://u:secret@"}), ""),
            (
                json!({"dest-uri": "ftp://x"}),
                "dest-uri is not a valid URI: amqp:// or amqps:// is expected",
            ),
            (
                json!({"dest-uri": []}),
                "dest-uri should be 1 to 100 addresses",
            ),
            (
                json!({"ack-mode": "maybe"}),
                "ack-mode should be one of [<<\"on-confirm\">>,<<\"on-publish\">>,<<\"no-ack\">>], actually was <<\"maybe\">>",
            ),
            (
                json!({"prefetch-count": 0}),
                "prefetch-count should be a number from 1 to 65535, actually was 0",
            ),
            (
                json!({"colour": 1}),
                "Unrecognised terms [{<<\"colour\">>,1}] in s",
            ),
            (
                json!({"publish-properties": {"colour": 1}}),
                "dest-publish-properties: unknown property 'colour'",
            ),
        ] {
            match parse(&more) {
                Err(error) => {
                    assert_eq!(error.0, text, "{more}");
                    assert!(!error.0.contains("secret"));
                }
                Ok(_) => assert_eq!(text, "", "{more}"),
            }
        }
    }
}
