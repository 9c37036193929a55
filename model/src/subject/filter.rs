//! Filters: patterns over subjects.
//!
//! The canonical text separates tokens with `/` and writes the wildcards `+` (one token), `#` (any number, anywhere)
//! and `>` (one or more, last). Other protocols may use those characters as ordinary names, so a literal token that
//! would read as a wildcard is written with a backslash before it, and so is one that starts with a backslash. The
//! text is all a filter stores; it can be printed, kept in a document and read back unchanged.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{SEPARATOR, Subject, SubjectError, SubjectLimits, SubjectRef, check, split};

/// One token of a [`Filter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterToken<'a> {
    /// Exactly this token.
    Literal(&'a str),
    /// Any one token.
    One,
    /// Any number of tokens, also none.
    ZeroOrMore,
    /// At least one token; only last.
    OneOrMore,
}

/// Whether a wildcard in the first place matches subjects that start with `$`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DollarRule {
    /// It does, as in NATS and AMQP.
    #[default]
    Match,
    /// It does not, as MQTT demands ([MQTT-4.7.2-1]).
    Hide,
}

/// A pattern over subjects. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter(Arc<str>);

impl Filter {
    /// How many wildcards that match several tokens one filter may have: more of them would make matching expensive
    /// and say nothing that fewer cannot.
    pub const MULTI_WILDCARDS_MAX: usize = 8;

    /// Reads the canonical text, with the default limits.
    ///
    /// # Errors
    /// [`SubjectError::WildcardNotLast`] for a `>` that is not last, [`SubjectError::TooManyWildcards`], or what
    /// [`Subject::new`] reports.
    pub fn new(text: &str) -> Result<Self, SubjectError> {
        Filter::with_limits(text, &SubjectLimits::DEFAULT)
    }

    /// Reads the canonical text.
    ///
    /// # Errors
    /// As [`Filter::new`].
    pub fn with_limits(text: &str, limits: &SubjectLimits) -> Result<Self, SubjectError> {
        check(text, limits)?;
        check_wildcards(tokens_of(text))?;
        Ok(Filter(Arc::from(text)))
    }

    /// Builds a filter token by token, with the default limits.
    ///
    /// # Errors
    /// As [`Filter::new`].
    pub fn from_tokens<'t>(
        tokens: impl IntoIterator<Item = FilterToken<'t>>,
    ) -> Result<Self, SubjectError> {
        Filter::try_from_tokens(tokens.into_iter().map(Ok))
    }

    pub(super) fn try_from_tokens<'t>(
        tokens: impl Iterator<Item = Result<FilterToken<'t>, SubjectError>>,
    ) -> Result<Self, SubjectError> {
        let mut text = String::new();
        for (at, token) in tokens.enumerate() {
            if at > 0 {
                text.push(SEPARATOR);
            }
            match token? {
                FilterToken::One => text.push('+'),
                FilterToken::ZeroOrMore => text.push('#'),
                FilterToken::OneOrMore => text.push('>'),
                FilterToken::Literal(literal) => push_literal(literal, &mut text),
            }
        }
        Filter::new(&text)
    }

    /// The filter that matches this subject and no other.
    #[must_use]
    pub fn literal(subject: SubjectRef<'_>) -> Self {
        let text = subject.as_str();
        if !text
            .bytes()
            .any(|byte| matches!(byte, b'+' | b'#' | b'>' | b'\\'))
        {
            return Filter(Arc::from(text));
        }
        let mut escaped = String::with_capacity(text.len() + 4);
        for (at, token) in subject.tokens().enumerate() {
            if at > 0 {
                escaped.push(SEPARATOR);
            }
            push_literal(token, &mut escaped);
        }
        Filter(Arc::from(escaped))
    }

    /// The filter that matches every subject: `#`.
    #[must_use]
    pub fn everything() -> Self {
        Filter(Arc::from("#"))
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tokens from left to right.
    pub fn tokens(&self) -> impl Iterator<Item = FilterToken<'_>> + Clone {
        tokens_of(&self.0)
    }

    /// Whether it has no wildcard, so that it matches exactly one subject.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.tokens()
            .all(|token| matches!(token, FilterToken::Literal(_)))
    }

    /// Whether its first token is a wildcard.
    #[must_use]
    pub fn starts_with_wildcard(&self) -> bool {
        self.tokens()
            .next()
            .is_some_and(|token| !matches!(token, FilterToken::Literal(_)))
    }

    /// The one subject it matches, if it has no wildcard.
    #[must_use]
    pub fn to_subject(&self) -> Option<Subject> {
        if !self.is_literal() {
            return None;
        }
        if !self.0.contains('\\') {
            return Some(Subject(Arc::clone(&self.0)));
        }
        let mut text = String::with_capacity(self.0.len());
        for (at, token) in self.tokens().enumerate() {
            if at > 0 {
                text.push(SEPARATOR);
            }
            if let FilterToken::Literal(literal) = token {
                text.push_str(literal);
            }
        }
        Some(Subject(Arc::from(text)))
    }

    /// Whether the filter matches `subject`; leading wildcards match `$` subjects too.
    #[must_use]
    pub fn matches(&self, subject: SubjectRef<'_>) -> bool {
        self.matches_with(subject, DollarRule::Match)
    }

    /// Whether the filter matches `subject` under `rule`. Allocates nothing.
    #[must_use]
    pub fn matches_with(&self, subject: SubjectRef<'_>, rule: DollarRule) -> bool {
        if rule == DollarRule::Hide && subject.is_reserved() && self.starts_with_wildcard() {
            return false;
        }
        matches_tokens(self.tokens(), subject.tokens())
    }
}

/// Greedy matching with one point to return to: when a token does not fit, the latest multi-token wildcard takes one
/// token more. Earlier ones never have to be reconsidered, because the latest can take whatever they would have.
fn matches_tokens<'f, 's>(
    mut filter: impl Iterator<Item = FilterToken<'f>> + Clone,
    mut subject: impl Iterator<Item = &'s str> + Clone,
) -> bool {
    let mut retry = None;
    loop {
        let mut ahead = subject.clone();
        let fits = match (filter.next(), ahead.next()) {
            (None, None) | (Some(FilterToken::OneOrMore), Some(_)) => return true,
            (Some(FilterToken::ZeroOrMore), _) => {
                retry = Some((filter.clone(), subject.clone()));
                continue;
            }
            (Some(FilterToken::Literal(literal)), Some(token)) => literal == token,
            (Some(FilterToken::One), Some(_)) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if fits {
            subject = ahead;
            continue;
        }
        let Some((after, from)) = &mut retry else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        filter = after.clone();
        subject = from.clone();
    }
}

fn tokens_of(text: &str) -> impl Iterator<Item = FilterToken<'_>> + Clone {
    split(text).map(|token| match token {
        "+" => FilterToken::One,
        "#" => FilterToken::ZeroOrMore,
        ">" => FilterToken::OneOrMore,
        _ => FilterToken::Literal(token.strip_prefix('\\').unwrap_or(token)),
    })
}

fn push_literal(literal: &str, text: &mut String) {
    if matches!(literal, "+" | "#" | ">") || literal.starts_with('\\') {
        text.push('\\');
    }
    text.push_str(literal);
}

fn check_wildcards<'t>(tokens: impl Iterator<Item = FilterToken<'t>>) -> Result<(), SubjectError> {
    let mut multi = 0;
    let mut rest = tokens.peekable();
    while let Some(token) = rest.next() {
        match token {
            FilterToken::OneOrMore if rest.peek().is_some() => {
                return Err(SubjectError::WildcardNotLast('>'));
            }
            FilterToken::ZeroOrMore | FilterToken::OneOrMore => multi += 1,
            FilterToken::Literal(_) | FilterToken::One => {}
        }
    }
    if multi > Filter::MULTI_WILDCARDS_MAX {
        return Err(SubjectError::TooManyWildcards {
            limit: Filter::MULTI_WILDCARDS_MAX,
        });
    }
    Ok(())
}

impl FromStr for Filter {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Filter::new(text)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}
