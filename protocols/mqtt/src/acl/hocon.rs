//! HOCON, as far as lists of rules have it: JSON with comments, in which commas between lines may be left out, `=` may
//! stand for `:`, and words need no quotes.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::{Map, Value};

use super::AclError;

/// How deep values may lie in each other.
const DEPTH_MAX: usize = 32;

/// Where each item of the list `rules` begins comes with it.
///
/// # Errors
/// [`AclError`].
pub(super) fn parse(text: &str) -> Result<(Map<String, Value>, Vec<usize>), AclError> {
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
        lines: Vec::new(),
    };
    let whole = match reader.skip(true) {
        Some('{') => {
            reader.next();
            reader.fields(Some('}'), 0)?
        }
        _ => reader.fields(None, 0)?,
    };
    if reader.skip(true).is_some() {
        return reader.wrong("nothing is expected behind the last brace");
    }
    Ok((whole, reader.lines))
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    line: usize,
    /// Of the objects in the outermost list.
    lines: Vec<usize>,
}

impl Reader<'_> {
    fn wrong<T>(&self, why: impl Into<String>) -> Result<T, AclError> {
        Err(AclError::at(self.line, why))
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        self.line += usize::from(next == '\n');
        Some(next)
    }

    /// Passes over blanks and comments, and with `commas` over these; the character that follows.
    fn skip(&mut self, commas: bool) -> Option<char> {
        loop {
            let next = *self.rest.peek()?;
            match next {
                '#' => while self.next().is_some_and(|char| char != '\n') {},
                '/' if self.rest.clone().nth(1) == Some('/') => {
                    while self.next().is_some_and(|char| char != '\n') {}
                }
                ',' if commas => {
                    self.next();
                }
                blank if blank.is_whitespace() || blank == '\u{feff}' => {
                    self.next();
                }
                other => return Some(other),
            }
        }
    }

    fn fields(&mut self, end: Option<char>, depth: usize) -> Result<Map<String, Value>, AclError> {
        let mut fields = Map::new();
        loop {
            let next = self.skip(true);
            if next == end {
                self.next();
                return Ok(fields);
            }
            let Some(next) = next else {
                return self.wrong("a brace does not end");
            };
            let key = if next == '"' {
                self.quoted()?
            } else {
                self.word()
            };
            if key.is_empty() {
                return self.wrong(format!("{next:?} begins no name"));
            }
            match self.skip(false) {
                Some(':' | '=') => {
                    self.next();
                }
                Some('{') => {}
                _ => return self.wrong(format!("{key} has no value")),
            }
            let value = self.value(depth + 1)?;
            fields.insert(key, value);
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, AclError> {
        if depth > DEPTH_MAX {
            return self.wrong("values lie too deep in each other");
        }
        match self.skip(false) {
            None => self.wrong("a value is missing at the end"),
            Some('{') => {
                if depth == 2 {
                    self.lines.push(self.line);
                }
                self.next();
                Ok(Value::Object(self.fields(Some('}'), depth)?))
            }
            Some('[') => {
                self.next();
                let mut items = Vec::new();
                loop {
                    match self.skip(true) {
                        Some(']') => {
                            self.next();
                            return Ok(Value::Array(items));
                        }
                        Some(_) => items.push(self.value(depth + 1)?),
                        None => return self.wrong("a bracket does not end"),
                    }
                }
            }
            Some('"') => Ok(Value::String(self.quoted()?)),
            Some(other) => {
                let word = self.word();
                match word.as_str() {
                    "" => self.wrong(format!("{other:?} begins no value")),
                    "true" => Ok(Value::Bool(true)),
                    "false" => Ok(Value::Bool(false)),
                    _ => Ok(Value::String(word)),
                }
            }
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(char) = self.rest.peek()
            && !char.is_whitespace()
            && !matches!(char, '{' | '}' | '[' | ']' | ':' | '=' | ',' | '#' | '"')
        {
            word.push(*char);
            self.next();
        }
        word
    }

    fn quoted(&mut self) -> Result<String, AclError> {
        let line = self.line;
        let mut text = String::from(self.next().unwrap_or('"'));
        loop {
            let Some(char) = self.next() else {
                return Err(AclError::at(line, "a text does not end"));
            };
            text.push(char);
            match char {
                '"' => break,
                '\\' => text.extend(self.next()),
                _ => {}
            }
        }
        serde_json::from_str(&text).map_err(|error| AclError::at(line, format!("{text}: {error}")))
    }
}
