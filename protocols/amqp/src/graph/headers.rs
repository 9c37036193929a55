//! How a headers exchange compares.

use crate::codec::{Table, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    any: bool,
    with_x: bool,
}

impl Match {
    fn of(arguments: &Table<'_>) -> Option<Self> {
        let (any, with_x) = match arguments.get("x-match") {
            None => (false, false),
            Some(value) => match value.as_str()? {
                "all" => (false, false),
                "any" => (true, false),
                "all-with-x" => (false, true),
                "any-with-x" => (true, true),
                _ => return None,
            },
        };
        Some(Match { any, with_x })
    }
}

/// Whether arguments say how a headers exchange is to compare, or nothing of it.
#[must_use]
pub(super) fn is_match_valid(arguments: &Table<'_>) -> bool {
    Match::of(arguments).is_some()
}

/// Whether a message with these headers matches the arguments of a binding to a headers exchange: `all` of them, or
/// `any`. A void argument asks only whether the header is there.
pub(super) fn headers_match(arguments: &[u8], headers: &Table<'_>) -> bool {
    let Ok(arguments) = Table::decode(arguments) else {
        return false;
    };
    let Some(rule) = Match::of(&arguments) else {
        return false;
    };
    let mut wanted = arguments
        .iter()
        .filter(|(key, _)| *key != "x-match" && (rule.with_x || !key.starts_with("x-")));
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
