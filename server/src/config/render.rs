//! Settings as commented TOML: the defaults with their explanations, or what is in force and why.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::Loaded;
use super::origin::Origin;
use super::schema::{KEYS, Kind, LISTENER_KEYS, PROTOCOLS};

/// Width of comments.
const WIDTH: usize = 100;

/// Every setting with its unit, default and effect. Reading this file changes nothing.
pub(crate) fn default_document() -> String {
    let mut out = String::new();
    comment(
        &mut out,
        "Longtail's settings, all at their defaults. Sizes are bytes or text such as \"64MiB\", times are \
         milliseconds or text such as \"50ms\", \"10s\". Stronger than this file, in this order: environment variables \
         (LONGTAIL__LOG__SEGMENT_BYTES=64MiB), --set log.segment_bytes=64MiB, and flags such as --data.",
    );
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if of != section && key.default.is_some() {
            section = of;
            let _ = write!(out, "\n[{section}]\n");
        }
        out.push('\n');
        comment(&mut out, key.help);
        if let Some(unit) = unit(key.kind) {
            comment(&mut out, &unit);
        }
        match key.default {
            Some(default) => {
                let _ = writeln!(out, "{name} = {default}");
            }
            None if key.kind == Kind::Documents => {
                let _ = writeln!(out, "# [[{}]]", key.path);
            }
            None => {
                let _ = writeln!(out, "# {name} = ...");
            }
        }
    }
    for (protocol, address) in PROTOCOLS {
        let _ = write!(
            out,
            "\n# Where {protocol} is spoken; repeat the table for more. None at all: listeners.{protocol} = []\n"
        );
        let Some(address) = address else {
            let _ = writeln!(out, "# [[listeners.{protocol}]]");
            continue;
        };
        let _ = writeln!(out, "[[listeners.{protocol}]]");
        for key in LISTENER_KEYS {
            comment(&mut out, key.help);
            match (key.path, key.kind) {
                ("address", _) => {
                    let _ = writeln!(out, "address = \"{address}\"");
                }
                (table, Kind::Table(keys)) => {
                    for key in keys {
                        comment(&mut out, &format!("    {table}.{}: {}", key.path, key.help));
                    }
                    let _ = writeln!(out, "# {table} = {{}}");
                }
                (name, _) => {
                    let _ = writeln!(out, "# {name} = {}", key.default.unwrap_or("..."));
                }
            }
        }
    }
    out
}

/// What is in force, with the origin of whatever is not a default.
pub(crate) fn effective_document(loaded: &Loaded) -> String {
    let mut out = String::new();
    let mut section = "";
    for key in KEYS.iter().filter(|key| key.kind != Kind::Documents) {
        let Some((value, origin)) = loaded.values.get(key.path) else {
            continue;
        };
        let (of, name) = key.path.split_once('.').unwrap_or(("", key.path));
        if of != section {
            section = of;
            let _ = write!(out, "\n[{section}]\n");
        }
        let shown = match (key.kind, value) {
            (Kind::Secret, Value::String(text)) if !text.is_empty() => "\"***\"".to_owned(),
            (_, value) => value.to_string(),
        };
        let _ = writeln!(out, "{name} = {shown}{}", from(origin));
    }
    let of = |protocol: &str| match loaded.values.get(&format!("listeners.{protocol}")) {
        Some((Value::Array(listeners), origin)) => Some((listeners, origin)),
        _ => None,
    };
    let mut head = "\n[listeners]\n";
    for (protocol, _) in PROTOCOLS {
        if let Some((listeners, origin)) = of(protocol)
            && listeners.is_empty()
        {
            let _ = writeln!(
                out,
                "{}{protocol} = []{}",
                std::mem::take(&mut head),
                from(origin)
            );
        }
    }
    for (protocol, _) in PROTOCOLS {
        let Some((listeners, origin)) = of(protocol) else {
            continue;
        };
        for listener in listeners {
            let _ = write!(out, "\n[[listeners.{protocol}]]{}\n", from(origin));
            if let Value::Table(table) = listener {
                for (name, value) in table {
                    let _ = writeln!(out, "{name} = {value}");
                }
            }
        }
    }
    for key in KEYS.iter().filter(|key| key.kind == Kind::Documents) {
        if let Some((value, origin)) = loaded.values.get(key.path) {
            let (section, name) = key.path.split_once('.').unwrap_or(("", key.path));
            let mut table = Table::from_iter([(name.to_owned(), masked(value))]);
            if !section.is_empty() {
                table = Table::from_iter([(section.to_owned(), Value::Table(table))]);
            }
            let _ = write!(
                out,
                "\n#{}\n{table}",
                from(origin).trim_start_matches("  #")
            );
        }
    }
    out
}

fn from(origin: &Origin) -> String {
    match origin {
        Origin::Default => String::new(),
        other => format!("  # {other}"),
    }
}

/// A copy in which nothing that looks like a secret is readable.
fn masked(value: &Value) -> Value {
    match value {
        Value::Table(table) => Value::Table(
            table
                .iter()
                .map(|(name, value)| {
                    let secret = ["password", "secret", "token", "hash"]
                        .iter()
                        .any(|word| name.contains(word));
                    let value = if secret {
                        Value::String("***".to_owned())
                    } else {
                        masked(value)
                    };
                    (name.clone(), value)
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(masked).collect()),
        Value::String(text) => Value::String(without_password(text)),
        other => other.clone(),
    }
}

/// An address without the password that is in it; anything else as it is. A password may have what should be encoded in
/// one: rather too much is hidden.
fn without_password(text: &str) -> String {
    let hidden = || {
        let (scheme, rest) = text.split_once("://")?;
        let (login, host) = rest.rsplit_once('@')?;
        let (user, _) = login.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{host}"))
    };
    hidden().unwrap_or_else(|| text.to_owned())
}

fn unit(kind: Kind) -> Option<String> {
    match kind {
        Kind::Number(low, high) => Some(format!("{low} to {high}.")),
        Kind::Bytes(low, high) => Some(format!("Bytes, {} to {}.", size(low), size(high))),
        Kind::Millis(low, high) => Some(format!("Milliseconds, {low} to {high}.")),
        Kind::Choice(words) => Some(format!("One of {}.", words.join(", "))),
        _ => None,
    }
}

/// The largest unit that leaves a whole number.
fn size(bytes: i64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units
        .iter()
        .find(|(unit, _)| bytes > 0 && bytes % unit == 0)
    {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

fn comment(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        if width == 0 || width + 1 + word.len() > WIDTH {
            out.push_str(if width == 0 { "# " } else { "\n# " });
            width = 2;
        } else {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += word.len();
    }
    out.push('\n');
}
