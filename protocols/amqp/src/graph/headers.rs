//! How a headers exchange compares.

use crate::codec::{Table, Value};
use crate::exception::{Exception, precondition};

/// Which of its arguments a message has to have for a binding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    /// One is enough.
    any: bool,
    /// Those that begin with `x-` count too.
    with_x: bool,
}

impl Match {
    /// The argument that says it.
    pub(super) const ARGUMENT: &str = "x-match";

    fn of(word: &str) -> Option<Self> {
        let (any, with_x) = match word {
            "all" => (false, false),
            "any" => (true, false),
            "all-with-x" => (false, true),
            "any-with-x" => (true, true),
            _ => return None,
        };
        Some(Match { any, with_x })
    }

    /// What arguments say; `None`: nothing of it.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` for another word.
    pub(super) fn parse(arguments: &Table<'_>) -> Result<Option<Self>, Exception> {
        let Some(value) = arguments.get(Self::ARGUMENT) else {
            return Ok(None);
        };
        match value.as_str().and_then(Match::of) {
            Some(rule) => Ok(Some(rule)),
            None => Err(precondition(
                "invalid x-match field value: expected all, any, all-with-x or any-with-x",
            )),
        }
    }
}

/// Whether a message with these headers matches the arguments of a binding to a headers exchange: `all` of them, or
/// `any`. A void argument asks only whether the header is there. `default`: how, if they do not say it.
pub(super) fn headers_match(arguments: &[u8], default: Match, headers: &Table<'_>) -> bool {
    let Ok(arguments) = Table::decode(arguments) else {
        return false;
    };
    let Ok(rule) = Match::parse(&arguments) else {
        return false;
    };
    let rule = rule.unwrap_or(default);
    let mut wanted = arguments
        .iter()
        .filter(|(key, _)| *key != Match::ARGUMENT && (rule.with_x || !key.starts_with("x-")));
    let fits = |(key, value): (&str, Value<'_>)| {
        headers
            .get(key)
            .is_some_and(|header| value == Value::Void || value.is_equivalent(&header))
    };
    if rule.any {
        wanted.any(fits)
    } else {
        wanted.all(fits)
    }
}
