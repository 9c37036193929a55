//! Fields of objects that requests have in their bodies, as forgiving as RabbitMQ is.

use serde_json::{Map, Value};

use super::http::Failed;

/// A field of an object that is text.
///
/// # Errors
/// When it is there and is none.
pub(super) fn text<'o>(
    object: &'o Map<String, Value>,
    name: &str,
) -> Result<Option<&'o str>, Failed> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Failed::bad(format!("{name} must be a string, not {other}"))),
    }
}

/// A field that is true or false; some clients write it as text.
///
/// # Errors
/// When it is there and is neither.
pub(super) fn flag(object: &Map<String, Value>, name: &str) -> Result<Option<bool>, Failed> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(Value::String(text)) if text == "true" => Ok(Some(true)),
        Some(Value::String(text)) if text == "false" => Ok(Some(false)),
        Some(other) => Err(Failed::bad(format!(
            "{name} must be true or false, not {other}"
        ))),
    }
}

/// A field that is a number; some clients write it as text.
///
/// # Errors
/// When it is there and is none.
pub(super) fn integer(object: &Map<String, Value>, name: &str) -> Result<Option<i64>, Failed> {
    let wrong = |other: &Value| Failed::bad(format!("{name} must be an integer, not {other}"));
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value @ Value::Number(number)) => {
            number.as_i64().map(Some).ok_or_else(|| wrong(value))
        }
        Some(value @ Value::String(text)) => text.parse().map(Some).map_err(|_| wrong(value)),
        Some(other) => Err(wrong(other)),
    }
}

/// A field that is an object.
///
/// # Errors
/// When it is there and is none.
pub(super) fn table(object: &Map<String, Value>, name: &str) -> Result<Map<String, Value>, Failed> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(table)) => Ok(table.clone()),
        // What an empty table is in some languages.
        Some(Value::Array(list)) if list.is_empty() => Ok(Map::new()),
        Some(other) => Err(Failed::bad(format!(
            "{name} must be an object, not {other}"
        ))),
    }
}
