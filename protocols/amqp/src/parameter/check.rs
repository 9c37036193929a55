//! What is wrong with the value of a parameter, in RabbitMQ's words (`rabbit_parameter_validation`).

use serde_json::{Map, Value};

/// What is wrong, one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Validation failed\n\n{0}\n")]
pub(crate) struct Invalid(pub(crate) String);

/// A value as RabbitMQ prints it.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => format!("<<{text:?}>>"),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

fn should(key: &str, what: &str, value: &Value) -> Invalid {
    Invalid(format!(
        "{key} should be {what}, actually was {}",
        printed(value)
    ))
}

/// Keys are read from here, under any of their names.
pub(crate) struct Reader<'a> {
    of: &'a str,
    object: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// The value of a parameter with this name.
    ///
    /// # Errors
    /// When it is no object.
    pub(crate) fn new(of: &'a str, value: &'a Value) -> Result<Self, Invalid> {
        let object = value.as_object();
        let object = object.ok_or_else(|| should(of, "a list of keys and values", value))?;
        Ok(Reader {
            of,
            object,
            known: Vec::new(),
        })
    }

    /// The first of these keys that is there.
    pub(crate) fn value(&mut self, keys: &[&'static str]) -> Option<(&'static str, &'a Value)> {
        self.known.extend(keys);
        let found = keys
            .iter()
            .find_map(|key| Some((*key, self.object.get(*key)?)));
        found.filter(|(_, value)| !value.is_null())
    }

    /// One that has to be there.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn needed(
        &mut self,
        key: &'static str,
    ) -> Result<(&'static str, &'a Value), Invalid> {
        let missing = Invalid(format!("Key \"{key}\" not found in {}", self.of));
        self.value(&[key]).ok_or(missing)
    }

    /// Text.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn text(&mut self, keys: &[&'static str]) -> Result<Option<String>, Invalid> {
        match self.value(keys) {
            None => Ok(None),
            Some((_, Value::String(text))) => Ok(Some(text.clone())),
            Some((key, value)) => Err(should(key, "binary", value)),
        }
    }

    /// A name of AMQP: text of at most 255 bytes.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn name(&mut self, keys: &[&'static str]) -> Result<Option<String>, Invalid> {
        let text = self.text(keys)?;
        match text {
            Some(text) if text.len() > 255 => Err(Invalid(format!(
                "{} has more than 255 bytes",
                keys.first().unwrap_or(&"a name")
            ))),
            text => Ok(text),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// When it is neither.
    pub(crate) fn flag(&mut self, keys: &[&'static str]) -> Result<Option<bool>, Invalid> {
        match self.value(keys) {
            None => Ok(None),
            Some((_, Value::Bool(flag))) => Ok(Some(*flag)),
            Some((key, value)) => Err(should(key, "boolean", value)),
        }
    }

    /// A whole number within these bounds.
    ///
    /// # Errors
    /// When it is none, or beyond them.
    pub(crate) fn number(
        &mut self,
        keys: &[&'static str],
        (least, most): (u64, u64),
    ) -> Result<Option<u64>, Invalid> {
        let Some((key, value)) = self.value(keys) else {
            return Ok(None);
        };
        if !value.is_number() {
            return Err(should(key, "a number", value));
        }
        // Some tools write whole numbers as 5.0.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let whole = |number: f64| (number >= 0.0 && number.fract() == 0.0).then_some(number as u64);
        let number = value.as_u64().or_else(|| value.as_f64().and_then(whole));
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(should(
                key,
                &format!("a number from {least} to {most}"),
                value,
            )),
        }
    }

    /// One of these words.
    ///
    /// # Errors
    /// When it is none of them.
    pub(crate) fn word<T: Copy>(
        &mut self,
        keys: &[&'static str],
        words: &[(&str, T)],
    ) -> Result<Option<T>, Invalid> {
        let Some((key, value)) = self.value(keys) else {
            return Ok(None);
        };
        let found = words.iter().find(|(word, _)| value.as_str() == Some(*word));
        match found {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let words: Vec<_> = words
                    .iter()
                    .map(|(word, _)| format!("<<\"{word}\">>"))
                    .collect();
                let what = format!("one of [{}]", words.join(","));
                Err(should(key, &what, value))
            }
        }
    }

    /// An object.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn object(
        &mut self,
        keys: &[&'static str],
    ) -> Result<Option<Map<String, Value>>, Invalid> {
        match self.value(keys) {
            None => Ok(None),
            Some((_, Value::Object(object))) => Ok(Some(object.clone())),
            // What an empty object is in some languages.
            Some((_, Value::Array(list))) if list.is_empty() => Ok(None),
            Some((key, value)) => Err(should(key, "a list of keys and values", value)),
        }
    }

    /// Nothing else may be there.
    ///
    /// # Errors
    /// When there is.
    pub(crate) fn finish(self) -> Result<(), Invalid> {
        let unknown = self
            .object
            .iter()
            .filter(|(key, _)| !self.known.contains(&key.as_str()));
        let unknown: Vec<_> = unknown
            .map(|(key, value)| format!("{{<<{key:?}>>,{}}}", printed(value)))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Invalid(format!(
            "Unrecognised terms [{}] in {}",
            unknown.join(","),
            self.of
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_said_as_rabbitmq_says_it() {
        let value = json!({"text": 5, "flag": "yes", "number": "9", "mode": "never", "more": "x"});
        let mut reader = Reader::new("s", &value).unwrap();
        let text = |error: Invalid| error.0;
        assert_eq!(
            text(reader.text(&["text"]).unwrap_err()),
            "text should be binary, actually was 5"
        );
        assert_eq!(
            text(reader.flag(&["flag"]).unwrap_err()),
            "flag should be boolean, actually was <<\"yes\">>"
        );
        assert_eq!(
            text(reader.number(&["number"], (0, 9)).unwrap_err()),
            "number should be a number, actually was <<\"9\">>"
        );
        assert_eq!(
            text(reader.word(&["mode"], &[("a", 1), ("b", 2)]).unwrap_err()),
            "mode should be one of [<<\"a\">>,<<\"b\">>], actually was <<\"never\">>"
        );
        assert_eq!(
            text(reader.needed("uri").unwrap_err()),
            "Key \"uri\" not found in s"
        );
        assert_eq!(
            text(reader.finish().unwrap_err()),
            "Unrecognised terms [{<<\"more\">>,<<\"x\">>}] in s"
        );
    }

    #[test]
    fn the_first_of_several_names_counts_and_numbers_may_have_a_point() {
        let value = json!({"old": 5.0});
        let mut reader = Reader::new("s", &value).unwrap();
        assert_eq!(reader.number(&["new", "old"], (1, 10)).unwrap(), Some(5));
        assert!(reader.number(&["old"], (1, 4)).is_err());
        reader.finish().unwrap();
    }
}
