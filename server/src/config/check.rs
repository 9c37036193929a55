//! Brings one value into canonical form (bytes, milliseconds, lists of tables), or says what is wrong with it.

use toml::{Table, Value};

use super::address::ListenAddress;
use super::schema::{Key, Kind, LISTENER_KEYS};
use super::suggest::hint;

/// Checks `value`, written at `path`, against `kind`.
pub(crate) fn canonical(path: &str, kind: Kind, value: Value) -> Result<Value, String> {
    match (kind, value) {
        (Kind::Text | Kind::Secret, Value::String(text)) => Ok(Value::String(text)),
        (Kind::Path, Value::String(text)) if !text.is_empty() => Ok(Value::String(text)),
        (Kind::Path, Value::String(_)) => Err(format!("`{path}` is empty")),
        (Kind::Switch, Value::Boolean(on)) => Ok(Value::Boolean(on)),
        (Kind::Number(low, high), Value::Integer(number)) => within(path, number, low, high, ""),
        (Kind::Bytes(low, high), value) => {
            let bytes = quantity(&value, BYTE_UNITS).ok_or_else(|| {
                format!(
                    "`{path}` must be a size such as 65536 or \"64MiB\", not {}",
                    shown(&value)
                )
            })?;
            within(path, bytes, low, high, " bytes")
        }
        (Kind::Millis(low, high), value) => {
            let ms = quantity(&value, MILLI_UNITS).ok_or_else(|| {
                format!(
                    "`{path}` must be milliseconds such as 50 or \"50ms\", \"10s\", not {}",
                    shown(&value)
                )
            })?;
            within(path, ms, low, high, " ms")
        }
        (Kind::Choice(words), Value::String(word)) => {
            if words.contains(&word.as_str()) {
                Ok(Value::String(word))
            } else {
                let near = hint(&word, words.iter().copied());
                let known = if near.is_empty() {
                    format!(": use {}", words.join(", "))
                } else {
                    near
                };
                Err(format!("`{path}` cannot be \"{word}\"{known}"))
            }
        }
        (Kind::AddressOrOff, Value::String(text)) => {
            if text != "off" {
                text.parse::<ListenAddress>()
                    .map_err(|error| format!("`{path}`: {error}"))?;
            }
            Ok(Value::String(text))
        }
        (Kind::Listeners, value) => listeners(path, value),
        (Kind::Texts, Value::Array(items)) if items.iter().all(Value::is_str) => {
            Ok(Value::Array(items))
        }
        (Kind::Table(keys), Value::Table(table)) => Ok(Value::Table(known(path, table, keys)?)),
        (Kind::Documents, Value::Array(items)) if items.iter().all(Value::is_table) => {
            Ok(Value::Array(items))
        }
        (kind, value) => Err(format!(
            "`{path}` must be {}, not {}",
            wanted(kind),
            shown(&value)
        )),
    }
}

/// Reads text from the environment or a flag as the value that `kind` wants.
pub(crate) fn from_text(kind: Kind, text: &str) -> Value {
    let as_toml = || {
        toml::from_str::<Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
    };
    let plain = || Value::String(text.to_owned());
    match kind {
        // Quotes are allowed but not needed; without them the text is taken as it is.
        Kind::Text | Kind::Secret | Kind::Path | Kind::Choice(_) | Kind::AddressOrOff => {
            if text.starts_with('"') {
                as_toml().unwrap_or_else(plain)
            } else {
                plain()
            }
        }
        Kind::Switch
        | Kind::Number(..)
        | Kind::Bytes(..)
        | Kind::Millis(..)
        | Kind::Listeners
        | Kind::Texts
        | Kind::Table(_)
        | Kind::Documents => as_toml().unwrap_or_else(plain),
    }
}

const BYTE_UNITS: &[(&str, i64)] = &[
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

const MILLI_UNITS: &[(&str, i64)] = &[
    ("", 1),
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// A whole number with a unit; `None` when it is none or does not fit.
fn quantity(value: &Value, units: &[(&str, i64)]) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        Value::String(text) => {
            let text = text.trim();
            let digits = text
                .find(|c: char| !c.is_ascii_digit() && c != '_')
                .unwrap_or(text.len());
            let (number, unit) = text.split_at_checked(digits)?;
            let number: i64 = number.replace('_', "").parse().ok()?;
            let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
            number.checked_mul(*factor)
        }
        _ => None,
    }
}

fn within(path: &str, number: i64, low: i64, high: i64, unit: &str) -> Result<Value, String> {
    if (low..=high).contains(&number) {
        Ok(Value::Integer(number))
    } else {
        Err(format!(
            "`{path}` must be {low} to {high}{unit}, not {number}"
        ))
    }
}

/// Accepts text (addresses separated by commas), a table, or a list of either; answers a list of tables.
fn listeners(path: &str, value: Value) -> Result<Value, String> {
    let items = match value {
        Value::Array(items) => items,
        Value::String(text) => text
            .split(',')
            .map(|part| Value::String(part.trim().to_owned()))
            .filter(|v| v.as_str() != Some(""))
            .collect(),
        other => vec![other],
    };
    let mut tables = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let at = format!("{path}[{index}]");
        let table = match item {
            Value::String(address) => {
                Table::from_iter([("address".to_owned(), Value::String(address))])
            }
            Value::Table(table) => table,
            other => {
                return Err(format!(
                    "`{at}` must be an address or a table, not {}",
                    shown(&other)
                ));
            }
        };
        tables.push(Value::Table(listener(&at, table)?));
    }
    Ok(Value::Array(tables))
}

fn listener(at: &str, table: Table) -> Result<Table, String> {
    let of_tls = table.get("tls").and_then(Value::as_table);
    if table.contains_key("psk_file") || of_tls.is_some_and(|tls| tls.contains_key("psk_file")) {
        return Err(format!(
            "`{at}`: TLS with pre-shared keys is not spoken: the TLS library has no such key exchange; give clients \
             certificates (`tls.client_certificates`), or put a TLS proxy that speaks it in front of a plain listener and \
             trust its address (`proxy.trusted`)"
        ));
    }
    let table = known(at, table, LISTENER_KEYS)?;
    match table.get("address") {
        Some(Value::String(address)) => {
            address
                .parse::<ListenAddress>()
                .map_err(|error| format!("`{at}.address`: {error}"))?;
        }
        _ => return Err(format!("`{at}` needs an `address`")),
    }
    if table.contains_key("unix_mode")
        && !(table.get("address").and_then(Value::as_str)).is_some_and(|at| at.starts_with("unix:"))
    {
        return Err(format!("`{at}.unix_mode` is for `unix:PATH`"));
    }
    let part = |name: &str| table.get(name).and_then(Value::as_table);
    if let Some(tls) = part("tls") {
        if let Some(needed) = ["certificate", "key"]
            .into_iter()
            .find(|name| !tls.contains_key(*name))
        {
            return Err(format!("`{at}.tls` needs `{needed}`"));
        }
        let asks = tls
            .get("client_certificates")
            .is_some_and(|value| value.as_str() != Some("off"));
        if asks && !tls.contains_key("client_authorities") {
            return Err(format!(
                "`{at}.tls.client_certificates` needs `client_authorities` to check them against"
            ));
        }
        if !asks && tls.contains_key("client_revocations") {
            return Err(format!(
                "`{at}.tls.client_revocations` needs `client_certificates` to be asked for"
            ));
        }
    }
    if part("proxy").is_some_and(|proxy| !proxy.contains_key("trusted")) {
        return Err(format!(
            "`{at}.proxy` needs `trusted`, the addresses of the proxies"
        ));
    }
    Ok(table)
}

/// Checks every key of `table` against `keys`.
fn known(at: &str, table: Table, keys: &[Key]) -> Result<Table, String> {
    table
        .into_iter()
        .map(|(name, value)| {
            let path = format!("{at}.{name}");
            let Some(key) = keys.iter().find(|key| key.path == name) else {
                return Err(format!(
                    "unknown key `{path}`{}",
                    hint(&name, keys.iter().map(|key| key.path))
                ));
            };
            Ok((name, canonical(&path, key.kind, value)?))
        })
        .collect()
}

fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Secret | Kind::Path => "text",
        Kind::Switch => "true or false",
        Kind::Number(..) => "a whole number",
        Kind::Bytes(..) => "a size",
        Kind::Millis(..) => "a time in milliseconds",
        Kind::Choice(_) => "a word",
        Kind::AddressOrOff => "an address or \"off\"",
        Kind::Listeners => "a list of listeners",
        Kind::Texts => "a list of texts",
        Kind::Table(_) => "a table",
        Kind::Documents => "a list of tables",
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    }
}

/// Reads a time such as `50`, `50ms`, `10s` or `5m`, in milliseconds.
///
/// # Errors
/// When it is none.
pub(crate) fn milliseconds(text: &str) -> Result<u64, String> {
    quantity(&Value::String(text.to_owned()), MILLI_UNITS)
        .and_then(|ms| u64::try_from(ms).ok())
        .ok_or_else(|| format!("`{text}` is no time: write milliseconds, or 50ms, 10s, 5m, 1h"))
}
