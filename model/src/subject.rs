//! Subjects: the address a message is published to.
//!
//! A subject is a path of tokens separated by `/`. Every protocol has its own way to write one; inside there is only
//! this one. MQTT's topics are subjects as they stand. Protocols that separate with dots (NATS, AMQP) *swap* `.` and
//! `/`: `a.b` is the subject `a/b`, and the subject `a.b/c` is written `a/b.c` there. Swapping twice gives back what
//! one started with, so no name of any protocol is lost, whichever separator it contains.
//!
//! The empty subject has no tokens (an AMQP routing key may be empty); `/` has two empty ones, as in MQTT.
//! [`Filter`] is the pattern side: what subscriptions, bindings and permissions are made of.

mod filter;
mod relation;
mod syntax;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

pub use filter::{DollarRule, Filter, FilterToken};
pub use syntax::{Syntax, swap_separators, swap_separators_into};

/// The separator between the tokens of a subject.
pub const SEPARATOR: char = '/';

/// How large a subject or a filter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectLimits {
    /// Longest text, in bytes. The default, 65,535, is what MQTT's length field can say.
    pub bytes_max: usize,
    /// Most tokens. The default is 128: deep enough for every known use, and a bound on what a match can cost.
    pub tokens_max: usize,
}

impl SubjectLimits {
    /// 65,535 bytes, 128 tokens.
    pub const DEFAULT: SubjectLimits = SubjectLimits {
        bytes_max: 65_535,
        tokens_max: 128,
    };
}

impl Default for SubjectLimits {
    fn default() -> Self {
        SubjectLimits::DEFAULT
    }
}

/// Why a text is not a subject or not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// The protocol has no empty subjects.
    #[error("empty subject")]
    Empty,
    /// Longer than [`SubjectLimits::bytes_max`].
    #[error("subject of {bytes} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Deeper than [`SubjectLimits::tokens_max`].
    #[error("subject of {tokens} tokens exceeds the limit of {limit}")]
    TooManyTokens {
        /// Number of tokens.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// A NUL character, which no protocol can carry safely.
    #[error("subject contains a NUL character")]
    Nul,
    /// Bytes that are not UTF-8.
    #[error("subject is not valid UTF-8")]
    NotUtf8,
    /// The protocol has no empty tokens (NATS: `a..b`).
    #[error("subject contains an empty token")]
    EmptyToken,
    /// White space or a control character, where the protocol's framing forbids it (NATS).
    #[error("subject contains white space or a control character")]
    Whitespace,
    /// A wildcard in the address of a message.
    #[error("a message cannot be published to a subject with the wildcard {0:?}")]
    Wildcard(char),
    /// A wildcard that is not a whole token (MQTT: `a+`).
    #[error("the wildcard {0:?} must be a whole token")]
    PartialWildcard(char),
    /// A wildcard that may only be the last token.
    #[error("the wildcard {0:?} must be the last token")]
    WildcardNotLast(char),
    /// More than [`Filter::MULTI_WILDCARDS_MAX`] wildcards that match several tokens.
    #[error("more than {limit} wildcards that match several tokens")]
    TooManyWildcards {
        /// The limit.
        limit: usize,
    },
}

/// A borrowed subject: text that is known to be one. Costs nothing to copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectRef<'a>(&'a str);

impl<'a> SubjectRef<'a> {
    /// Checks `text` against the default limits.
    ///
    /// # Errors
    /// [`SubjectError::TooLong`], [`SubjectError::TooManyTokens`] or [`SubjectError::Nul`].
    pub fn new(text: &'a str) -> Result<Self, SubjectError> {
        Self::with_limits(text, &SubjectLimits::DEFAULT)
    }

    /// Checks `text` against `limits`.
    ///
    /// # Errors
    /// As [`SubjectRef::new`].
    pub fn with_limits(text: &'a str, limits: &SubjectLimits) -> Result<Self, SubjectError> {
        check(text, limits)?;
        Ok(SubjectRef(text))
    }

    /// The text, tokens separated by `/`.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether there are no tokens.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Whether it starts with `$`: kept for servers, hidden from MQTT's leading wildcards.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        self.0.as_bytes().first() == Some(&b'$')
    }

    /// The tokens from left to right; none for the empty subject.
    pub fn tokens(self) -> impl Iterator<Item = &'a str> + Clone {
        split(self.0)
    }

    /// The first token; empty for the empty subject.
    #[must_use]
    pub fn first_token(self) -> &'a str {
        self.0.split(SEPARATOR).next().unwrap_or_default()
    }

    /// An owned copy (one allocation).
    #[must_use]
    pub fn to_subject(self) -> Subject {
        Subject(Arc::from(self.0))
    }

    /// The text as a protocol that separates with dots writes it.
    #[must_use]
    pub fn to_dotted(self) -> String {
        swap_separators(self.0)
    }
}

impl fmt::Display for SubjectRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for SubjectRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

/// An owned subject. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Checks and copies `text`, with the default limits.
    ///
    /// # Errors
    /// As [`SubjectRef::new`].
    pub fn new(text: &str) -> Result<Self, SubjectError> {
        SubjectRef::new(text).map(SubjectRef::to_subject)
    }

    /// Checks and copies `text`, written with dots, with the default limits.
    ///
    /// # Errors
    /// As [`SubjectRef::new`].
    pub fn from_dotted(text: &str) -> Result<Self, SubjectError> {
        Subject::new(&swap_separators(text))
    }

    /// Borrows it.
    #[must_use]
    pub fn as_ref(&self) -> SubjectRef<'_> {
        SubjectRef(&self.0)
    }

    /// The text, tokens separated by `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as a protocol that separates with dots writes it.
    #[must_use]
    pub fn to_dotted(&self) -> String {
        swap_separators(&self.0)
    }

    /// The shared text.
    #[must_use]
    pub fn into_shared(self) -> Arc<str> {
        self.0
    }
}

impl<'a> From<&'a Subject> for SubjectRef<'a> {
    fn from(subject: &'a Subject) -> Self {
        subject.as_ref()
    }
}

impl From<SubjectRef<'_>> for Subject {
    fn from(subject: SubjectRef<'_>) -> Self {
        subject.to_subject()
    }
}

impl Deref for Subject {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Subject {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Subject::new(text)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The tokens of a path; the empty path has none.
fn split(text: &str) -> impl Iterator<Item = &str> + Clone {
    let tokens = if text.is_empty() {
        None
    } else {
        Some(text.split(SEPARATOR))
    };
    tokens.into_iter().flatten()
}

/// The rules every subject and every filter keeps, whoever wrote it.
fn check(text: &str, limits: &SubjectLimits) -> Result<(), SubjectError> {
    if text.len() > limits.bytes_max {
        return Err(SubjectError::TooLong {
            bytes: text.len(),
            limit: limits.bytes_max,
        });
    }
    let mut tokens = usize::from(!text.is_empty());
    for byte in text.bytes() {
        match byte {
            0 => return Err(SubjectError::Nul),
            b'/' => tokens += 1,
            _ => {}
        }
    }
    if tokens > limits.tokens_max {
        return Err(SubjectError::TooManyTokens {
            tokens,
            limit: limits.tokens_max,
        });
    }
    Ok(())
}
