//! Messages that are published by a request: the parts that all APIs have, and the publishing itself, which is that of a
//! client in this process. It is answered when the message is as safe as a PUBACK would say, whatever its QoS.

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use longtail_model::Subject;
use serde_json::{Map, Value};

use super::Api;
use super::access::Caller;
use super::request::{Trouble, as_object, flag, number, text};
use crate::codec::{Qos, ReasonCode};
use crate::local::{LocalClient, LocalError, Publication};

/// Messages in one request at most.
pub(super) const BULK_MAX: usize = 10_000;

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Names it, for whoever asked.
    pub(super) id: String,
    /// Nobody is subscribed to its topic, and nothing keeps it.
    pub(super) nobody: bool,
}

/// Why it is not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(super) struct NotSent {
    /// What a PUBACK would say.
    pub(super) reason: ReasonCode,
    /// In words.
    pub(super) why: String,
}

impl From<NotSent> for Trouble {
    fn from(not_sent: NotSent) -> Self {
        match not_sent.reason {
            ReasonCode::NotAuthorized => Trouble::Denied(not_sent.why),
            ReasonCode::QuotaExceeded => Trouble::Limit(not_sent.why),
            ReasonCode::ServerShuttingDown => Trouble::Busy(not_sent.why),
            _ => Trouble::Bad(not_sent.why),
        }
    }
}

impl Api {
    /// Publishes for somebody, with a client's identifier.
    ///
    /// # Errors
    /// When it is not published, or not safe.
    pub(super) async fn publish(
        &self,
        caller: &Caller,
        client_id: &str,
        publication: Publication,
    ) -> Result<Sent, NotSent> {
        let publication = self.checked(publication)?;
        let (account, grants) = (caller.account.clone(), Arc::clone(&caller.grants));
        let client = LocalClient::of(&self.tenant, client_id, account, grants);
        match client.publish(publication).await {
            Ok(reason) => Ok(Sent {
                id: format!("{:032X}", rand::random::<u128>()),
                nobody: reason == ReasonCode::NoMatchingSubscribers,
            }),
            Err(error) => {
                let reason = match &error {
                    LocalError::Topic(_) | LocalError::Filter(_) => ReasonCode::TopicNameInvalid,
                    LocalError::Property(_) => ReasonCode::PacketTooLarge,
                    LocalError::Refused(reason) => *reason,
                    LocalError::Account(_) => ReasonCode::NotAuthorized,
                    LocalError::Stopped => ReasonCode::ServerShuttingDown,
                    LocalError::InsideHook => ReasonCode::UnspecifiedError,
                };
                let why = error.to_string();
                Err(NotSent { reason, why })
            }
        }
    }

    /// As the limits of the service let clients publish.
    fn checked(&self, publication: Publication) -> Result<Publication, NotSent> {
        let limits = &self.tenant.config().limits;
        let refuse = |reason, why: String| Err(NotSent { reason, why });
        if publication.qos > limits.qos_max {
            let why = format!("the highest QoS is {}", limits.qos_max.bits());
            return refuse(ReasonCode::QosNotSupported, why);
        }
        if publication.retain && !limits.retain_available {
            let why = "messages are not retained here".to_owned();
            return refuse(ReasonCode::RetainNotSupported, why);
        }
        if publication.payload.len() > limits.packet_bytes_max as usize {
            let why = format!("a packet has at most {} bytes", limits.packet_bytes_max);
            return refuse(ReasonCode::PacketTooLarge, why);
        }
        let levels =
            Subject::parse_mqtt(&publication.topic).map(|topic| topic.as_ref().tokens().count());
        if !levels.is_ok_and(|levels| levels <= limits.topic_levels_max) {
            let why = format!("{:?} is no topic name", publication.topic);
            return refuse(ReasonCode::TopicNameInvalid, why);
        }
        let expiry_s = limits.message_expiry_s(publication.expiry_s);
        Ok(Publication {
            expiry_s,
            ..publication
        })
    }
}

/// A payload as JSON says it: text, any other value as JSON, or base64.
///
/// # Errors
/// When it is not encoded as it says.
pub(super) fn payload(value: Option<&Value>, encoding: Option<&str>) -> Result<Bytes, Trouble> {
    let text = match value {
        None | Some(Value::Null) => return Ok(Bytes::new()),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    match encoding {
        None | Some("plain") => Ok(text.into()),
        Some("base64") => Base64::decode_vec(&text)
            .map(Bytes::from)
            .map_err(|_| Trouble::Bad("the payload is no base64".to_owned())),
        Some(other) => Err(Trouble::Bad(format!(
            "the encoding is plain or base64, not {other:?}"
        ))),
    }
}

/// A QoS.
///
/// # Errors
/// When it is none.
pub(super) fn qos(number: Option<u64>) -> Result<Qos, Trouble> {
    let bits = u8::try_from(number.unwrap_or(0)).ok();
    bits.and_then(Qos::from_bits)
        .ok_or_else(|| Trouble::Bad("qos is 0, 1 or 2".to_owned()))
}

/// What the JSON of NanoMQ and EMQX says of a message, but for its topic.
///
/// # Errors
/// When something is not what it should be.
pub(super) fn described(
    object: &Map<String, Value>,
    encoding: &'static str,
) -> Result<Publication, Trouble> {
    let publication = Publication {
        payload: payload(object.get("payload"), text(object, encoding)?)?,
        qos: qos(number(object, "qos")?)?,
        retain: flag(object, "retain")?.unwrap_or(false),
        ..Publication::default()
    };
    match object.get("properties") {
        None | Some(Value::Null) => Ok(publication),
        Some(properties) => with_properties(publication, &as_object(properties.clone())?),
    }
}

fn with_properties(
    publication: Publication,
    properties: &Map<String, Value>,
) -> Result<Publication, Trouble> {
    let known = [
        "payload_format_indicator",
        "message_expiry_interval",
        "response_topic",
        "correlation_data",
        "content_type",
        "user_properties",
    ];
    if let Some(other) = properties.keys().find(|key| !known.contains(&key.as_str())) {
        // A subscription identifier is the subscriber's, whatever a publisher says (MQTT 5.0, 3.3.4).
        return Err(Trouble::Bad(format!("{other} is no property of a message")));
    }
    let expiry_s = number(properties, "message_expiry_interval")?.map(u32::try_from);
    let wrong = |_| Trouble::Bad("message_expiry_interval has 32 bits".to_owned());
    let utf8 = match number(properties, "payload_format_indicator")? {
        None => None,
        Some(0) => Some(false),
        Some(1) => Some(true),
        Some(_) => {
            let why = "payload_format_indicator is 0 or 1".to_owned();
            return Err(Trouble::Bad(why));
        }
    };
    let owned = |name| Ok::<_, Trouble>(text(properties, name)?.map(str::to_owned));
    Ok(Publication {
        payload_is_utf8: utf8,
        expiry_s: expiry_s.transpose().map_err(wrong)?,
        response_topic: owned("response_topic")?,
        correlation_data: owned("correlation_data")?.map(Bytes::from),
        content_type: owned("content_type")?,
        user: user_properties(properties.get("user_properties"))?,
        ..publication
    })
}

/// User properties: an object, or a list of such.
///
/// # Errors
/// When they are neither.
pub(super) fn user_properties(value: Option<&Value>) -> Result<Vec<(String, String)>, Trouble> {
    let pairs = |object: &Map<String, Value>| -> Vec<(String, String)> {
        let pair = |(key, value): (&String, &Value)| {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            (key.clone(), value)
        };
        object.iter().map(pair).collect()
    };
    let wrong = || Trouble::Bad("user_properties are an object".to_owned());
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(object)) => Ok(pairs(object)),
        Some(Value::Array(list)) => {
            let mut all = Vec::new();
            for entry in list {
                all.extend(pairs(entry.as_object().ok_or_else(wrong)?));
            }
            Ok(all)
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Publication, Trouble> {
        described(value.as_object().unwrap(), "encoding")
    }

    #[test]
    fn a_message_is_read_with_all_that_it_says() {
        let read = read(&json!({
            "payload": "aGk=", "encoding": "base64", "qos": 2, "retain": true,
            "properties": {
                "payload_format_indicator": 1, "message_expiry_interval": 60, "response_topic": "r",
                "correlation_data": "c", "content_type": "t", "user_properties": {"a": "b", "n": 1},
            },
        }));
        let expected = Publication {
            topic: String::new(),
            payload: "hi".into(),
            qos: Qos::ExactlyOnce,
            retain: true,
            expiry_s: Some(60),
            payload_is_utf8: Some(true),
            content_type: Some("t".to_owned()),
            response_topic: Some("r".to_owned()),
            correlation_data: Some("c".into()),
            user: vec![
                ("a".to_owned(), "b".to_owned()),
                ("n".to_owned(), "1".to_owned()),
            ],
        };
        let read = read.unwrap();
        assert_eq!(format!("{read:?}"), format!("{expected:?}"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            json!({"qos": 3}),
            json!({"retain": "perhaps"}),
            json!({"payload": "?", "encoding": "base64"}),
            json!({"encoding": "hex", "payload": ""}),
            json!({"properties": {"subscription_identifier": 1}}),
            json!({"properties": {"message_expiry_interval": -1}}),
            json!({"properties": {"message_expiry_interval": 4_294_967_296_u64}}),
            json!({"properties": {"user_properties": "a"}}),
            json!({"properties": []}),
        ] {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
    }
}
