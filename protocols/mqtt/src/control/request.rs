//! The form that requests and replies of all endpoints have.
//!
//! `{"commands": [{"command": NAME, ..., "correlationData": TEXT}, ...]}` is answered, command by command and in their
//! order, with `{"responses": [{"command": NAME, "data": {...} or "error": TEXT, "correlationData": TEXT}, ...]}`.

use serde::Serialize;
use serde_json::{Map, Value};

/// Commands of one request.
const COMMANDS_MAX: usize = 10_000;

/// What is said of a request that names no command.
const UNKNOWN: &str = "Unknown command";

/// Priorities are within this, on both sides of 0.
const PRIORITY_MAX: i64 = 1_000_000;

/// Why a command is not carried out, as its sender is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) String);

impl From<&str> for Refused {
    fn from(why: &str) -> Self {
        Refused(why.to_owned())
    }
}

/// What a command comes to: data, or nothing but that it was done.
pub(super) type Outcome = Result<Option<Value>, Refused>;

/// One command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command<'r> {
    /// Its name.
    pub(super) name: &'r str,
    fields: &'r Map<String, Value>,
}

impl<'r> Command<'r> {
    /// A text that has to be there.
    pub(super) fn text(&self, field: &str) -> Result<&'r str, Refused> {
        let text = self.fields.get(field).and_then(Value::as_str);
        text.ok_or_else(|| Refused(format!("Invalid/missing {field}")))
    }

    /// The name of something that is to be made: 1 to 255 bytes without control characters.
    pub(super) fn new_name(&self, field: &str) -> Result<&'r str, Refused> {
        let name = self.text(field)?;
        if name.is_empty() {
            return Err(Refused(format!("Empty {field}")));
        }
        if name.len() > 255 || name.chars().any(char::is_control) {
            return Err(Refused(format!("Invalid/missing {field}")));
        }
        Ok(name)
    }

    /// A text that may be left out.
    pub(super) fn optional(&self, field: &str) -> Result<Option<&'r str>, Refused> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refused(format!("Invalid/missing {field}"))),
        }
    }

    /// A list of objects that may be left out.
    pub(super) fn list(&self, field: &str) -> Result<Option<Vec<Command<'r>>>, Refused> {
        let Some(value) = self.fields.get(field) else {
            return Ok(None);
        };
        let wrong = || Refused(format!("'{field}' not an array of objects"));
        let items = value.as_array().ok_or_else(wrong)?;
        let object = |item: &'r Value| {
            let fields = item.as_object().ok_or_else(wrong)?;
            let name = self.name;
            Ok(Command { name, fields })
        };
        items.iter().map(object).collect::<Result<_, _>>().map(Some)
    }

    /// A whole number.
    pub(super) fn number(&self, field: &str, default: i64) -> i64 {
        let number = self.fields.get(field);
        number.and_then(Value::as_i64).unwrap_or(default)
    }

    /// `priority`.
    pub(super) fn priority(&self, default: i64) -> i64 {
        let priority = self.number("priority", default);
        priority.clamp(-PRIORITY_MAX, PRIORITY_MAX)
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, field: &str) -> Option<bool> {
        self.fields.get(field).and_then(Value::as_bool)
    }

    /// The part of a list that is asked for: `count`, of which -1 is all, from `offset` on; entries as `shown`, or with
    /// `verbose` as `whole`.
    pub(super) fn page<'i, T: 'i>(
        &self,
        field: &str,
        items: impl ExactSizeIterator<Item = (&'i String, &'i T)>,
        whole: impl Fn(&str, &T) -> Value,
    ) -> Value {
        let total = items.len();
        let offset = usize::try_from(self.number("offset", 0)).unwrap_or(0);
        let count = usize::try_from(self.number("count", -1)).unwrap_or(usize::MAX);
        let verbose = self.flag("verbose").unwrap_or(false);
        let entries = items
            .skip(offset)
            .take(count)
            .map(|(name, item)| match verbose {
                true => whole(name, item),
                false => Value::from(name.as_str()),
            });
        let entries: Vec<Value> = entries.collect();
        let mut data = Map::new();
        data.insert("totalCount".to_owned(), total.into());
        data.insert(field.to_owned(), entries.into());
        Value::Object(data)
    }
}

#[derive(Serialize)]
struct Replies {
    responses: Vec<Reply>,
}

#[derive(Serialize)]
struct Reply {
    command: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "correlationData", skip_serializing_if = "Option::is_none")]
    correlation_data: Option<String>,
}

impl Reply {
    fn of(command: &str, outcome: Outcome, correlation_data: Option<String>) -> Self {
        let (data, error) = match outcome {
            Ok(data) => (data, None),
            Err(Refused(why)) => (None, Some(why)),
        };
        Reply {
            command: command.to_owned(),
            data,
            error,
            correlation_data,
        }
    }
}

/// What the commands of a request came to, before it is known whether that can be kept.
pub(super) struct Answers(Vec<Reply>);

impl Answers {
    /// Has each command of a request carried out.
    pub(super) fn of(payload: &[u8], mut run: impl FnMut(&Command<'_>) -> Outcome) -> Self {
        let request: Value = match serde_json::from_slice(payload) {
            Ok(request) => request,
            Err(_) => return Answers::refusing("Payload not valid JSON"),
        };
        let Some(commands) = request.get("commands").and_then(Value::as_array) else {
            return Answers::refusing("Invalid/missing commands");
        };
        if commands.len() > COMMANDS_MAX {
            return Answers::refusing("Too many commands");
        }
        let answer = |command: &Value| {
            let Some(fields) = command.as_object() else {
                return Reply::of(UNKNOWN, Err("Command not an object".into()), None);
            };
            let Some(name) = fields.get("command").and_then(Value::as_str) else {
                return Reply::of(UNKNOWN, Err("Missing command".into()), None);
            };
            let correlation = match fields.get("correlationData") {
                None => None,
                Some(Value::String(text)) => Some(text.clone()),
                Some(_) => {
                    let why = "Invalid correlationData data type.";
                    return Reply::of(name, Err(why.into()), None);
                }
            };
            Reply::of(name, run(&Command { name, fields }), correlation)
        };
        Answers(commands.iter().map(answer).collect())
    }

    fn refusing(why: &str) -> Self {
        Answers(vec![Reply::of(UNKNOWN, Err(why.into()), None)])
    }

    /// Nothing of it could be kept.
    pub(super) fn fail(&mut self, why: &str) {
        for reply in &mut self.0 {
            if reply.error.is_none() {
                (reply.data, reply.error) = (None, Some(why.to_owned()));
            }
        }
    }

    /// As bytes.
    pub(super) fn encode(self) -> Vec<u8> {
        // Texts, numbers and lists of them: there is nothing that JSON cannot say.
        serde_json::to_vec(&Replies { responses: self.0 }).unwrap_or_default()
    }
}

/// No such command.
pub(super) fn unknown() -> Outcome {
    Err(UNKNOWN.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(payload: &str) -> String {
        let answers = Answers::of(payload.as_bytes(), |command| match command.name {
            "echo" => Ok(Some(command.text("what")?.into())),
            "done" => Ok(None),
            _ => unknown(),
        });
        String::from_utf8(answers.encode()).unwrap()
    }

    #[test]
    fn every_command_is_answered_in_its_place_with_what_it_is_known_by() {
        let answer = ask(
            r#"{"commands": [{"command": "done", "correlationData": "7"}, {"command": "echo"},
                {"command": "echo", "what": "x"}, {"command": "other"}]}"#,
        );
        assert_eq!(
            answer,
            r#"{"responses":[{"command":"done","correlationData":"7"},{"command":"echo","error":"Invalid/missing what"},{"command":"echo","data":"x"},{"command":"other","error":"Unknown command"}]}"#
        );
    }

    #[test]
    fn what_is_no_request_is_answered_as_mosquitto_does() {
        for (payload, why) in [
            ("not json", "Payload not valid JSON"),
            ("{}", "Invalid/missing commands"),
            (r#"{"commands": 5}"#, "Invalid/missing commands"),
            (r#"{"commands": [5]}"#, "Command not an object"),
            (r#"{"commands": [{}]}"#, "Missing command"),
        ] {
            let expected =
                format!(r#"{{"responses":[{{"command":"Unknown command","error":"{why}"}}]}}"#);
            assert_eq!(ask(payload), expected, "{payload}");
        }
        let answer = ask(r#"{"commands": [{"command": "done", "correlationData": 7}]}"#);
        assert!(answer.contains("Invalid correlationData"), "{answer}");
    }
}
