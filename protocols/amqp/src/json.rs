//! Field tables as JSON and back, with RabbitMQ's choices: whole numbers become 64 bits wide, others doubles.

use base64ct::{Base64, Encoding};
use serde_json::{Map, Number, Value as Json};

use crate::codec::{Array, ArrayBuf, EncodeError, Properties, Table, TableBuf, Value};

/// A table as an object. Of keys that are there twice, the last counts.
pub(crate) fn from_table(table: &Table<'_>) -> Json {
    let entries = table.iter();
    Json::Object(
        entries
            .map(|(key, value)| (key.to_owned(), from_value(&value)))
            .collect(),
    )
}

/// The bytes of a table as an object.
pub(crate) fn from_bytes(bytes: &[u8]) -> Json {
    from_table(&Table::decode(bytes).unwrap_or_default())
}

fn from_value(value: &Value<'_>) -> Json {
    if let Some(number) = value.as_i64() {
        return number.into();
    }
    match *value {
        Value::Bool(flag) => flag.into(),
        Value::F32(number) => float(number.into()),
        Value::F64(number) => float(number),
        Value::Decimal { scale, value } => float(f64::from(value) / 10_f64.powi(scale.into())),
        Value::Timestamp(seconds) => seconds.into(),
        Value::LongString(bytes) | Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => Base64::encode_string(bytes).into(),
        },
        Value::Array(array) => from_array(&array),
        Value::Table(table) => from_table(&table),
        _ => Json::Null,
    }
}

fn from_array(array: &Array<'_>) -> Json {
    Json::Array(array.iter().map(|value| from_value(&value)).collect())
}

fn float(number: f64) -> Json {
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}

/// An object as a table.
///
/// # Errors
/// When something has no form on the wire.
pub(crate) fn to_table(object: &Map<String, Json>) -> Result<TableBuf, EncodeError> {
    let mut table = TableBuf::default();
    for (key, value) in object {
        with_value(value, &mut |value| table.put(key, value))?;
    }
    Ok(table)
}

fn to_array(values: &[Json]) -> Result<ArrayBuf, EncodeError> {
    let mut array = ArrayBuf::default();
    for value in values {
        with_value(value, &mut |value| array.push(value))?;
    }
    Ok(array)
}

fn with_value(
    value: &Json,
    put: &mut dyn FnMut(Value<'_>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    match value {
        Json::Null => put(Value::Void),
        Json::Bool(flag) => put(Value::Bool(*flag)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => put(Value::I64(number)),
            (None, Some(number)) => put(Value::F64(number)),
            (None, None) => put(Value::Void),
        },
        Json::String(text) => put(Value::LongString(text.as_bytes())),
        Json::Array(values) => put(Value::Array(to_array(values)?.as_array())),
        Json::Object(object) => put(Value::Table(to_table(object)?.as_table())),
    }
}

/// Properties as an object: what is absent is left out.
pub(crate) fn from_properties(octets: &[u8]) -> Json {
    let properties = Properties::decode(octets).unwrap_or_default();
    let mut object = Map::new();
    for (name, value) in [
        ("content_type", properties.content_type),
        ("content_encoding", properties.content_encoding),
        ("correlation_id", properties.correlation_id),
        ("reply_to", properties.reply_to),
        ("expiration", properties.expiration),
        ("message_id", properties.message_id),
        ("type", properties.kind),
        ("user_id", properties.user_id),
        ("app_id", properties.app_id),
        ("cluster_id", properties.cluster_id),
    ] {
        if let Some(value) = value {
            object.insert(name.to_owned(), value.into());
        }
    }
    for (name, value) in [
        ("delivery_mode", properties.delivery_mode.map(u64::from)),
        ("priority", properties.priority.map(u64::from)),
        ("timestamp", properties.timestamp),
    ] {
        if let Some(value) = value {
            object.insert(name.to_owned(), value.into());
        }
    }
    if let Some(headers) = properties.headers {
        object.insert("headers".to_owned(), from_table(&headers));
    }
    Json::Object(object)
}

/// Properties that a request names.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedProperties {
    texts: Map<String, Json>,
    headers: Option<TableBuf>,
}

impl OwnedProperties {
    /// Reads an object.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn read(mut object: Map<String, Json>) -> Result<Self, String> {
        let headers = match object.remove("headers") {
            None | Some(Json::Null) => None,
            Some(Json::Object(headers)) => {
                Some(to_table(&headers).map_err(|error| format!("headers: {error}"))?)
            }
            Some(_) => return Err("headers: an object is expected".to_owned()),
        };
        let known = OwnedProperties {
            texts: object,
            headers,
        };
        for (name, value) in &known.texts {
            let right = match name.as_str() {
                "delivery_mode" | "priority" => value.as_u64().is_some_and(|n| n <= 255),
                "timestamp" => value.as_u64().is_some(),
                "content_type" | "content_encoding" | "correlation_id" | "reply_to"
                | "expiration" | "message_id" | "type" | "user_id" | "app_id" | "cluster_id" => {
                    value.as_str().is_some_and(|text| text.len() <= 255)
                }
                _ => return Err(format!("unknown property '{name}'")),
            };
            if !right {
                return Err(format!("invalid value for property '{name}'"));
            }
        }
        Ok(known)
    }

    /// As the codec has them.
    pub(crate) fn borrow(&self) -> Properties<'_> {
        let text = |name: &str| self.texts.get(name).and_then(Json::as_str);
        let octet = |name: &str| {
            let number = self.texts.get(name).and_then(Json::as_u64);
            number.and_then(|number| u8::try_from(number).ok())
        };
        Properties {
            content_type: text("content_type"),
            content_encoding: text("content_encoding"),
            headers: self.headers.as_ref().map(TableBuf::as_table),
            delivery_mode: octet("delivery_mode"),
            priority: octet("priority"),
            correlation_id: text("correlation_id"),
            reply_to: text("reply_to"),
            expiration: text("expiration"),
            message_id: text("message_id"),
            timestamp: self.texts.get("timestamp").and_then(Json::as_u64),
            kind: text("type"),
            user_id: text("user_id"),
            app_id: text("app_id"),
            cluster_id: text("cluster_id"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_and_tables_say_the_same() {
        let object = json!({
            "text": "ä", "number": 7, "negative": -1, "half": 0.5, "yes": true, "nothing": null,
            "list": [1, "two", {"three": 3}], "table": {"deep": {"er": []}},
        });
        let table = to_table(object.as_object().unwrap()).unwrap();
        assert_eq!(from_table(&table.as_table()), object);
        assert_eq!(table.as_table().get("number"), Some(Value::I64(7)));
    }

    #[test]
    fn properties_come_back_as_they_were_given() {
        let given = json!({"content_type": "text/plain", "delivery_mode": 2, "timestamp": 5, "headers": {"x": 1}});
        let read = OwnedProperties::read(given.as_object().unwrap().clone()).unwrap();
        let mut octets = Vec::new();
        read.borrow().encode(&mut octets).unwrap();
        assert_eq!(from_properties(&octets), given);
        for wrong in [
            json!({"priority": 256}),
            json!({"content_type": 1}),
            json!({"colour": "red"}),
            json!({"headers": []}),
        ] {
            assert!(OwnedProperties::read(wrong.as_object().unwrap().clone()).is_err());
        }
    }
}
