//! How protocols write subjects and filters, and the way in and out.

use super::{Filter, FilterToken, Subject, SubjectError, SubjectLimits, SubjectRef, check, split};

/// A protocol family's way to write subjects and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Syntax {
    /// `/` separates, `+` is one token, `#` at the end any number of them.
    Mqtt,
    /// `.` separates, `*` is one token, `>` at the end one or more; no empty tokens, no white space.
    Nats,
    /// `.` separates, `*` is one token, `#` anywhere any number of them.
    Amqp,
}

impl Syntax {
    /// The text of a subject in this syntax. What a protocol cannot express (an empty token in NATS) is written all
    /// the same: ask [`Syntax::can_express`] first.
    #[must_use]
    pub fn write_subject(self, subject: SubjectRef<'_>) -> String {
        match self {
            Syntax::Mqtt => subject.as_str().to_owned(),
            Syntax::Nats | Syntax::Amqp => swap_separators(subject.as_str()),
        }
    }

    /// Whether a client of this syntax can be handed a message with this subject: MQTT has neither empty topics nor
    /// wildcard characters in them, NATS neither empty tokens nor white space.
    #[must_use]
    pub fn can_express(self, subject: SubjectRef<'_>) -> bool {
        match self {
            Syntax::Mqtt => check_mqtt_topic(subject.as_str()).is_ok(),
            Syntax::Nats => {
                subject
                    .tokens()
                    .try_fold(0, |_, token| check_nats_token(token, 1))
                    == Ok(1)
            }
            Syntax::Amqp => true,
        }
    }
}

/// Swaps `.` and `/`. Its own inverse.
#[must_use]
pub fn swap_separators(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    swap_separators_into(text, &mut swapped);
    swapped
}

/// Appends `text` with `.` and `/` swapped to `out`, so that a connection can reuse one buffer for all its frames.
pub fn swap_separators_into(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| byte == b'.' || byte == b'/') {
        out.push_str(&rest[..at]);
        out.push(if rest.as_bytes()[at] == b'.' {
            '/'
        } else {
            '.'
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

impl Subject {
    /// The topic of an MQTT PUBLISH.
    ///
    /// # Errors
    /// [`SubjectError::Empty`], [`SubjectError::Wildcard`], or what [`Subject::new`] reports.
    pub fn parse_mqtt(topic: &str) -> Result<Self, SubjectError> {
        check_mqtt_topic(topic)?;
        Subject::new(topic)
    }

    /// The subject of a NATS PUB.
    ///
    /// # Errors
    /// [`SubjectError::Empty`], [`SubjectError::EmptyToken`], [`SubjectError::Whitespace`],
    /// [`SubjectError::Wildcard`], or what [`Subject::new`] reports.
    pub fn parse_nats(subject: &str) -> Result<Self, SubjectError> {
        let subject = Subject::new(&swap_separators(subject))?;
        if subject.is_empty() {
            return Err(SubjectError::Empty);
        }
        for token in subject.as_ref().tokens() {
            check_nats_token(token, ())?;
            match token {
                "*" => return Err(SubjectError::Wildcard('*')),
                ">" => return Err(SubjectError::Wildcard('>')),
                _ => {}
            }
        }
        Ok(subject)
    }

    /// An AMQP routing key: any text, also none; wildcards mean nothing in it.
    ///
    /// # Errors
    /// What [`Subject::new`] reports.
    pub fn parse_amqp(routing_key: &str) -> Result<Self, SubjectError> {
        Subject::from_dotted(routing_key)
    }
}

impl Filter {
    /// An MQTT topic filter (without the `$share` prefix).
    ///
    /// # Errors
    /// [`SubjectError::Empty`], [`SubjectError::PartialWildcard`], [`SubjectError::WildcardNotLast`], or a limit.
    pub fn parse_mqtt(filter: &str) -> Result<Self, SubjectError> {
        if filter.is_empty() {
            return Err(SubjectError::Empty);
        }
        check(filter, &SubjectLimits::DEFAULT)?;
        let last = filter.split('/').count() - 1;
        let tokens = filter
            .split('/')
            .enumerate()
            .map(|(at, token)| match token {
                "+" => Ok(FilterToken::One),
                "#" if at == last => Ok(FilterToken::ZeroOrMore),
                "#" => Err(SubjectError::WildcardNotLast('#')),
                _ => match token.chars().find(|&c| c == '+' || c == '#') {
                    Some(c) => Err(SubjectError::PartialWildcard(c)),
                    None => Ok(FilterToken::Literal(token)),
                },
            });
        Filter::try_from_tokens(tokens)
    }

    /// A NATS subscription subject. `*` and `>` within a longer token are ordinary characters.
    ///
    /// # Errors
    /// [`SubjectError::Empty`], [`SubjectError::EmptyToken`], [`SubjectError::Whitespace`],
    /// [`SubjectError::WildcardNotLast`], or a limit.
    pub fn parse_nats(filter: &str) -> Result<Self, SubjectError> {
        if filter.is_empty() {
            return Err(SubjectError::Empty);
        }
        let swapped = swap_separators(filter);
        check(&swapped, &SubjectLimits::DEFAULT)?;
        let last = swapped.split('/').count() - 1;
        let tokens = swapped
            .split('/')
            .enumerate()
            .map(|(at, token)| match token {
                "*" => Ok(FilterToken::One),
                ">" if at == last => Ok(FilterToken::OneOrMore),
                ">" => Err(SubjectError::WildcardNotLast('>')),
                _ => check_nats_token(token, FilterToken::Literal(token)),
            });
        Filter::try_from_tokens(tokens)
    }

    /// The binding key of an AMQP topic exchange. May be empty: it then matches only the empty routing key.
    ///
    /// # Errors
    /// A limit; [`SubjectError::TooManyWildcards`] for more than [`Filter::MULTI_WILDCARDS_MAX`] `#`.
    pub fn parse_amqp(binding_key: &str) -> Result<Self, SubjectError> {
        let swapped = swap_separators(binding_key);
        check(&swapped, &SubjectLimits::DEFAULT)?;
        let tokens = split(&swapped).map(|token| {
            Ok(match token {
                "*" => FilterToken::One,
                "#" => FilterToken::ZeroOrMore,
                _ => FilterToken::Literal(token),
            })
        });
        Filter::try_from_tokens(tokens)
    }
}

fn check_mqtt_topic(topic: &str) -> Result<(), SubjectError> {
    if topic.is_empty() {
        return Err(SubjectError::Empty);
    }
    match topic.chars().find(|&c| c == '+' || c == '#') {
        Some(c) => Err(SubjectError::Wildcard(c)),
        None => Ok(()),
    }
}

fn check_nats_token<T>(token: &str, good: T) -> Result<T, SubjectError> {
    if token.is_empty() {
        return Err(SubjectError::EmptyToken);
    }
    if token.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(SubjectError::Whitespace);
    }
    Ok(good)
}
