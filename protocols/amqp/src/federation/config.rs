//! What the parameters of a federation say: upstreams, and sets of them.

use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

use super::trail::Place;
use crate::link::{Address, Link, LinkError, Reach};
use crate::parameter::check::{Invalid, Reader};
use crate::parameter::{Parameters, UPSTREAM, UPSTREAM_SET};
use crate::transfer::{AckMode, in_turn};

/// A broker to federate from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Upstream {
    pub(crate) name: String,
    /// Tried in turn.
    pub(crate) addresses: Vec<Address>,
    /// The exchange there, if it is called otherwise.
    pub(crate) exchange: Option<String>,
    /// The queue there, if it is called otherwise.
    pub(crate) queue: Option<String>,
    pub(crate) prefetch: u16,
    pub(crate) reconnect_s: u64,
    pub(crate) mode: AckMode,
    /// Links of exchanges that a message may pass.
    pub(crate) hops_max: u64,
    /// Milliseconds that the queue there outlives the link.
    pub(crate) expires_ms: Option<u64>,
    /// Milliseconds that messages wait there.
    pub(crate) message_ttl_ms: Option<u64>,
    pub(crate) consumer_tag: Option<String>,
    pub(crate) queue_type: Option<&'static str>,
    /// Whether a message keeps who has published it there.
    pub(crate) trusts_user_id: bool,
    /// What was made there goes when the link does.
    pub(crate) cleans_up: bool,
}

/// All upstreams there are, as a set.
const ALL: &str = "all";

/// Longest time, as of a queue's arguments.
const TIME_MAX: u64 = 315_360_000_000;

impl Upstream {
    /// What the exchange of this name here is called there.
    pub(super) fn exchange_of<'a>(&'a self, own: &'a str) -> &'a str {
        self.exchange.as_deref().unwrap_or(own)
    }

    /// What the queue of this name here is called there.
    pub(super) fn queue_of<'a>(&'a self, own: &'a str) -> &'a str {
        self.queue.as_deref().unwrap_or(own)
    }

    /// The address that is tried after so many attempts.
    pub(super) fn address(&self, attempts: usize) -> Option<&Address> {
        in_turn(&self.addresses, attempts)
    }

    /// Where a link to it leads.
    pub(super) fn place(&self, attempts: usize, link: &Link) -> Place {
        let address = self.address(attempts);
        Place {
            cluster: link.peer().cluster_name.clone().unwrap_or_default(),
            vhost: address.map_or_else(String::new, |address| address.vhost.clone()),
        }
    }

    /// Connects to it.
    ///
    /// # Errors
    /// What the other side says, or that there is none.
    pub(super) async fn open(&self, attempts: usize, reach: &Reach) -> Result<Link, LinkError> {
        let address = self.address(attempts);
        let address = address.ok_or(LinkError::Unexpected("no address"))?;
        let title = format!("Federation link (upstream: {})", self.name);
        reach.open(address, None, &title).await
    }

    /// Reads the value of the parameter `name`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(name: &str, value: &Value) -> Result<Self, Invalid> {
        let mut read = Reader::new(name, value)?;
        let (key, uri) = read.needed("uri")?;
        let texts: Vec<&Value> = match uri {
            Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
        let mut addresses = Vec::new();
        for text in texts {
            let text = text.as_str();
            let text =
                text.ok_or_else(|| Invalid(format!("{key} should be binary, or a list of them")))?;
            let address = Address::parse(text);
            addresses
                .push(address.map_err(|why| Invalid(format!("{key} is not a valid URI: {why}")))?);
        }
        if addresses.is_empty() {
            return Err(Invalid(format!("{key} should be at least one address")));
        }
        let prefetch = read.number(&["prefetch-count"], (1, u16::MAX.into()))?;
        let upstream = Upstream {
            name: name.to_owned(),
            addresses,
            exchange: read.name(&["exchange"])?,
            queue: read.name(&["queue"])?,
            prefetch: u16::try_from(prefetch.unwrap_or(1000)).unwrap_or(u16::MAX),
            reconnect_s: read.number(&["reconnect-delay"], (1, 86_400))?.unwrap_or(5),
            mode: read
                .word(&["ack-mode"], AckMode::NAMES)?
                .unwrap_or_default(),
            hops_max: read.number(&["max-hops"], (1, 1000))?.unwrap_or(1),
            expires_ms: read.number(&["expires"], (1, TIME_MAX))?,
            message_ttl_ms: read.number(&["message-ttl"], (0, TIME_MAX))?,
            consumer_tag: read.name(&["consumer-tag"])?,
            queue_type: read.word(
                &["queue-type"],
                &[("classic", "classic"), ("quorum", "quorum")],
            )?,
            trusts_user_id: read.flag(&["trust-user-id"])?.unwrap_or(false),
            cleans_up: read
                .word(
                    &["resource-cleanup-mode"],
                    &[("default", true), ("never", false)],
                )?
                .unwrap_or(true),
        };
        // A link has one channel and waits for no answer to a binding, whatever these say.
        read.flag(&["bind-nowait"])?;
        read.word(&["channel-use-mode"], &[("multiple", ()), ("single", ())])?;
        // What only clusters of the other side have.
        read.word(
            &["ha-policy"],
            &[("all", ()), ("nodes", ()), ("exactly", ())],
        )?;
        read.finish()?;
        Ok(upstream)
    }

    /// As a link of this vhost uses it.
    fn of_vhost(mut self, vhost: &str) -> Self {
        let addresses = std::mem::take(&mut self.addresses);
        self.addresses = addresses
            .into_iter()
            .map(|address| address.or_vhost(vhost))
            .collect();
        self
    }
}

/// Reads the value of a set: a list of upstreams, each with what it has otherwise than its parameter says.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_set(name: &str, value: &Value) -> Result<Vec<Map<String, Value>>, Invalid> {
    let wrong = || {
        Invalid(format!(
            "{name} should be a list of objects with the key \"upstream\""
        ))
    };
    let list = value.as_array().ok_or_else(wrong)?;
    let mut members = Vec::new();
    for entry in list {
        let entry = entry.as_object().ok_or_else(wrong)?;
        if !entry.get("upstream").is_some_and(Value::is_string) {
            return Err(wrong());
        }
        let mut checked = entry.clone();
        checked.remove("upstream");
        // An address that need not be there.
        checked.entry("uri").or_insert_with(|| "amqp://".into());
        Upstream::parse(name, &Value::Object(checked))?;
        members.push(entry.clone());
    }
    Ok(members)
}

/// The upstreams that a policy names, as far as there are such.
pub(crate) fn chosen(
    parameters: &Parameters,
    space: &str,
    vhost: &str,
    definition: &Map<String, Value>,
) -> Vec<Arc<Upstream>> {
    let text = |key: &str| definition.get(key).and_then(Value::as_str);
    let all = || parameters.list(UPSTREAM, Some(space));
    let mut values: Vec<(String, Value)> = Vec::new();
    if let Some(name) = text("federation-upstream") {
        let found = parameters.get(UPSTREAM, space, name);
        values.extend(found.map(|found| (found.name.clone(), found.value.clone())));
    }
    if let Some(pattern) = text("federation-upstream-pattern")
        && let Ok(pattern) = Regex::new(pattern)
    {
        let matching = all()
            .into_iter()
            .filter(|known| pattern.is_match(&known.name));
        values.extend(matching.map(|known| (known.name.clone(), known.value.clone())));
    }
    match text("federation-upstream-set") {
        Some(ALL) => values.extend(
            all()
                .iter()
                .map(|known| (known.name.clone(), known.value.clone())),
        ),
        Some(set) => values.extend(members(parameters, space, set)),
        None => {}
    }
    let mut upstreams: Vec<Arc<Upstream>> = Vec::new();
    for (name, value) in values {
        if upstreams.iter().any(|known| known.name == name) {
            continue;
        }
        match Upstream::parse(&name, &value) {
            Ok(upstream) => upstreams.push(Arc::new(upstream.of_vhost(vhost))),
            Err(error) => tracing::warn!(upstream = name, error = error.0, "an upstream is none"),
        }
    }
    upstreams
}

fn members(parameters: &Parameters, space: &str, set: &str) -> Vec<(String, Value)> {
    let Some(found) = parameters.get(UPSTREAM_SET, space, set) else {
        return Vec::new();
    };
    let Ok(members) = parse_set(set, &found.value) else {
        return Vec::new();
    };
    let resolved = members.into_iter().filter_map(|mut member| {
        let Some(Value::String(name)) = member.remove("upstream") else {
            return None;
        };
        let known = parameters.get(UPSTREAM, space, &name)?;
        let mut value = known.value.as_object()?.clone();
        value.append(&mut member);
        Some((name, Value::Object(value)))
    });
    resolved.collect()
}

#[cfg(test)]
mod tests {
    use longtail_broker::{Broker, BrokerConfig};
    use serde_json::json;

    use super::*;
    use crate::parameter::Parameter;

    #[test]
    fn an_upstream_has_rabbitmqs_defaults() {
        let upstream = Upstream::parse("u", &json!({"uri": "amqp://h"})).unwrap();
        assert_eq!(
            (upstream.prefetch, upstream.reconnect_s, upstream.hops_max),
            (1000, 5, 1)
        );
        assert_eq!(
            (upstream.mode, upstream.cleans_up),
            (AckMode::OnConfirm, true)
        );
        for wrong in [
            json!({}),
            json!({"uri": []}),
            json!({"uri": "amqp://h", "max-hops": 0}),
            json!({"uri": "amqp://h", "colour": 1}),
            json!({"uri": "amqp://h", "queue-type": "stream"}),
        ] {
            assert!(Upstream::parse("u", &wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn policies_choose_upstreams_by_name_pattern_and_set() {
        let dir = tempfile::tempdir().unwrap();
        let broker = Broker::open(BrokerConfig::at(dir.path())).unwrap();
        let parameters = Parameters::load(broker);
        for (component, name, value) in [
            (UPSTREAM, "one", json!({"uri": "amqp://h1"})),
            (
                UPSTREAM,
                "two",
                json!({"uri": "amqp://h2/other", "max-hops": 3}),
            ),
            (
                UPSTREAM_SET,
                "set",
                json!([{"upstream": "two", "exchange": "x2"}, {"upstream": "gone"}]),
            ),
        ] {
            let parameter = Parameter {
                component: component.into(),
                space: "default".into(),
                name: name.into(),
                value,
                user: None,
            };
            parameters.put(parameter).await.unwrap();
        }
        let names = |definition: Value| -> Vec<String> {
            let chosen = chosen(&parameters, "default", "v", definition.as_object().unwrap());
            chosen
                .iter()
                .map(|upstream| upstream.name.clone())
                .collect()
        };
        assert_eq!(names(json!({"federation-upstream": "one"})), ["one"]);
        assert_eq!(
            names(json!({"federation-upstream-set": "all"})),
            ["one", "two"]
        );
        assert_eq!(names(json!({"federation-upstream-pattern": "^t"})), ["two"]);
        assert_eq!(names(json!({"federation-upstream": "three"})), [""; 0]);
        let set = json!({"federation-upstream-set": "set"});
        let chosen = chosen(&parameters, "default", "v", set.as_object().unwrap());
        let two = chosen.first().unwrap();
        assert_eq!((two.exchange.as_deref(), two.hops_max), (Some("x2"), 3));
        assert_eq!(two.addresses[0].vhost, "other");
        assert!(parse_set("s", &json!([{"uri": "amqp://"}])).is_err());
        assert!(parse_set("s", &json!([{"upstream": "u", "colour": 1}])).is_err());
    }
}
