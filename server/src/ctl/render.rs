//! What a command prints, in the shapes of `rabbitmqctl`.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::arguments::Options;
use super::error::CtlError;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// A line for each row, a tab between columns.
    #[default]
    Table,
    /// As RFC 4180 has it.
    Csv,
    Json,
}

impl Format {
    pub(super) fn of(name: &str) -> Result<Self, CtlError> {
        match name {
            "table" | "text" => Ok(Format::Table),
            "csv" => Ok(Format::Csv),
            "json" => Ok(Format::Json),
            other => Err(CtlError::Usage(format!(
                "unknown formatter '{other}': table, csv and json there are"
            ))),
        }
    }
}

/// What a command has found out.
#[derive(Debug, PartialEq)]
pub(super) enum Output {
    /// It is done, and there is nothing to say.
    Nothing,
    Text(String),
    /// Named values.
    Facts(Vec<(&'static str, Value)>),
    Rows {
        columns: Vec<String>,
        rows: Vec<Vec<Value>>,
    },
    /// A document that is JSON in any form.
    Document(Value),
}

/// Whether the line about what is going on is printed: never for programs.
pub(super) fn announces(options: &Options) -> bool {
    !options.quiet && !options.silent && options.format == Format::Table
}

/// The text for standard output.
pub(super) fn render(output: &Output, options: &Options) -> String {
    let headers = !options.silent && !options.headers_off;
    match (output, options.format) {
        (Output::Nothing, _) => String::new(),
        (Output::Document(document), _) => format!("{document:#}\n"),
        (Output::Text(text), Format::Json) => format!("{}\n", Value::from(text.as_str())),
        (Output::Text(text), _) => format!("{text}\n"),
        (Output::Facts(facts), Format::Json) => {
            let facts = facts.iter();
            let object: Map<_, _> = facts
                .map(|(name, value)| (identifier(name), value.clone()))
                .collect();
            format!("{:#}\n", Value::Object(object))
        }
        (Output::Facts(facts), Format::Csv) => facts
            .iter()
            .map(|(name, value)| line([*name, &cell(value)].map(quoted)))
            .collect(),
        (Output::Facts(facts), Format::Table) => facts
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", cell(value)))
            .collect(),
        (Output::Rows { columns, rows }, Format::Json) => {
            let object = |row: &Vec<Value>| {
                let pairs = columns.iter().cloned().zip(row.iter().cloned());
                Value::Object(pairs.collect())
            };
            let lines: Vec<_> = rows.iter().map(|row| object(row).to_string()).collect();
            format!("[{}]\n", lines.join(",\n"))
        }
        (Output::Rows { columns, rows }, Format::Csv) => {
            let head = columns.iter().map(|name| quoted(name));
            let mut out = if headers { line(head) } else { String::new() };
            for row in rows {
                out += &line(row.iter().map(|value| quoted(&cell(value))));
            }
            out
        }
        (Output::Rows { columns, rows }, Format::Table) => {
            // As with rabbitmqctl, nothing is under a head, so there is none.
            let mut out = match headers && !rows.is_empty() {
                true => columns.join("\t") + "\n",
                false => String::new(),
            };
            for row in rows {
                let cells: Vec<_> = row.iter().map(cell).collect();
                out += &(cells.join("\t") + "\n");
            }
            out
        }
    }
}

/// A label as a key of an object.
fn identifier(label: &str) -> String {
    label.to_lowercase().replace(' ', "_")
}

fn line(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<_> = cells.into_iter().collect();
    cells.join(",") + "\r\n"
}

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// A value in a column: tables are lists of pairs, as Erlang writes them.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(cell).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let mut out = String::from("[");
            for (at, (name, value)) in fields.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                let value = match value {
                    Value::String(text) => Value::from(text.as_str()).to_string(),
                    value => cell(value),
                };
                let _ = write!(out, "{comma}{{\"{}\",{value}}}", escaped(name));
            }
            out + "]"
        }
        value => value.to_string(),
    }
}

/// Text that stays in its column and does nothing to a terminal.
fn escaped(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escape.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn queues() -> Output {
        Output::Rows {
            columns: vec!["name".to_owned(), "arguments".to_owned()],
            rows: vec![vec![json!("a,b"), json!({"x-max": 1, "y": "z"})]],
        }
    }

    fn with(format: Format, silent: bool) -> Options {
        Options {
            format,
            silent,
            ..Options::default()
        }
    }

    #[test]
    fn rows_have_three_forms() {
        let text = |format, silent| render(&queues(), &with(format, silent));
        assert_eq!(
            text(Format::Table, false),
            "name\targuments\na,b\t[{\"x-max\",1},{\"y\",\"z\"}]\n"
        );
        assert_eq!(
            text(Format::Table, true),
            "a,b\t[{\"x-max\",1},{\"y\",\"z\"}]\n"
        );
        assert_eq!(
            text(Format::Csv, true),
            "\"a,b\",\"[{\"\"x-max\"\",1},{\"\"y\"\",\"\"z\"\"}]\"\r\n"
        );
        assert_eq!(
            text(Format::Json, false),
            "[{\"arguments\":{\"x-max\":1,\"y\":\"z\"},\"name\":\"a,b\"}]\n"
        );
    }

    #[test]
    fn cells_stay_in_their_columns() {
        assert_eq!(cell(&json!("a\tb\x1b[2Jé")), "a\\tb\\u{1b}[2Jé");
        assert_eq!(cell(&json!(["a", "b"])), "[a, b]");
        assert_eq!(cell(&json!(null)), "");
        assert_eq!(cell(&json!({})), "[]");
    }

    #[test]
    fn programs_are_not_told_what_goes_on() {
        assert!(announces(&with(Format::Table, false)));
        assert!(!announces(&with(Format::Table, true)));
        assert!(!announces(&with(Format::Json, false)));
        let facts = Output::Facts(vec![("Cluster name", json!("a"))]);
        assert_eq!(
            render(&facts, &with(Format::Table, false)),
            "Cluster name: a\n"
        );
        assert_eq!(
            render(&facts, &with(Format::Json, false)),
            "{\n  \"cluster_name\": \"a\"\n}\n"
        );
    }
}
