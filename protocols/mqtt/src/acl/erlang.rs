//! Terms of Erlang, as far as configuration files have them.

use std::iter::Peekable;
use std::str::Chars;

use super::AclError;

/// A term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Term {
    Atom(String),
    /// A string or a binary.
    Text(String),
    Number(i64),
    Tuple(Vec<Term>),
    List(Vec<Term>),
}

/// How deep terms may lie in each other.
const DEPTH_MAX: usize = 32;

/// The terms of a file, each of which ends with a full stop, with the lines in which they begin.
///
/// # Errors
/// [`AclError`].
pub(super) fn parse(text: &str) -> Result<Vec<(usize, Term)>, AclError> {
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
    };
    let mut terms = Vec::new();
    while reader.skip().is_some() {
        let line = reader.line;
        let term = reader.term(0)?;
        reader.expect('.')?;
        terms.push((line, term));
    }
    Ok(terms)
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    line: usize,
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

    /// Passes over blanks and comments; the character that follows.
    fn skip(&mut self) -> Option<char> {
        loop {
            match *self.rest.peek()? {
                '%' => while self.next().is_some_and(|char| char != '\n') {},
                blank if blank.is_whitespace() => {
                    self.next();
                }
                other => return Some(other),
            }
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), AclError> {
        match self.skip() {
            Some(found) if found == wanted => {
                self.next();
                Ok(())
            }
            Some(found) => self.wrong(format!("{wanted:?} is expected in place of {found:?}")),
            None => self.wrong(format!("{wanted:?} is missing at the end")),
        }
    }

    fn term(&mut self, depth: usize) -> Result<Term, AclError> {
        if depth > DEPTH_MAX {
            return self.wrong("terms lie too deep in each other");
        }
        match self.skip() {
            None => self.wrong("a term is missing at the end"),
            Some('{') => Ok(Term::Tuple(self.items('}', depth)?)),
            Some('[') => Ok(Term::List(self.items(']', depth)?)),
            Some('"') => Ok(Term::Text(self.quoted('"')?)),
            Some('\'') => Ok(Term::Atom(self.quoted('\'')?)),
            Some('<') => {
                self.expect('<')?;
                self.expect('<')?;
                if self.skip() != Some('"') {
                    return self.wrong("only texts are expected in << >>");
                }
                let text = self.quoted('"')?;
                if self.rest.peek() == Some(&'/') {
                    self.next();
                    let kind = self.word();
                    if kind != "utf8" {
                        return self.wrong(format!("{kind:?} is not expected behind a text"));
                    }
                }
                self.expect('>')?;
                self.expect('>')?;
                Ok(Term::Text(text))
            }
            Some(digit) if digit.is_ascii_digit() => {
                let word = self.word();
                match word.parse() {
                    Ok(number) => Ok(Term::Number(number)),
                    Err(_) => self.wrong(format!("{word:?} is no number")),
                }
            }
            Some(letter) if letter.is_lowercase() => Ok(Term::Atom(self.word())),
            Some(other) => self.wrong(format!("{other:?} begins no term")),
        }
    }

    fn items(&mut self, end: char, depth: usize) -> Result<Vec<Term>, AclError> {
        self.next();
        let mut items = Vec::new();
        if self.skip() == Some(end) {
            self.next();
            return Ok(items);
        }
        loop {
            items.push(self.term(depth + 1)?);
            if self.skip() == Some(',') {
                self.next();
            } else {
                self.expect(end)?;
                return Ok(items);
            }
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(char) = self.rest.peek()
            && (char.is_alphanumeric() || matches!(char, '_' | '@'))
        {
            word.push(*char);
            self.next();
        }
        word
    }

    fn quoted(&mut self, end: char) -> Result<String, AclError> {
        let line = self.line;
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some(char) if char == end => return Ok(text),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(char) if !char.is_alphanumeric() => text.push(char),
                    // As in expressions; Erlang has the letter alone.
                    Some(char) => text.extend(['\\', char]),
                    None => {}
                },
                Some(char) => text.push(char),
                None => return Err(AclError::at(line, "a text does not end")),
            }
        }
    }
}
