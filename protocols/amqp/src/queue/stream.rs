//! Queues of type `stream`: which arguments they have, and the ages by which these and consumers' offsets are said.
//!
//! Such a queue is a stream without a group: it keeps what it has until a limit pushes it out, and whoever consumes
//! from it reads at a place of its own.

use super::COMPARED;
use crate::codec::{Table, Value};

/// Arguments of a declaration that a stream may have; the others that mean something are refused.
const OWN: &[&str] = &[
    "x-queue-type",
    "x-max-length-bytes",
    MAX_AGE,
    SEGMENT_BYTES,
    FILTER_BYTES,
    "x-initial-cluster-size",
    "x-queue-leader-locator",
];

/// How old a message gets.
pub(super) const MAX_AGE: &str = "x-max-age";
/// Bytes of a segment.
pub(super) const SEGMENT_BYTES: &str = "x-stream-max-segment-size-bytes";
/// Bytes of a filter.
pub(super) const FILTER_BYTES: &str = "x-stream-filter-size-bytes";

/// Those that only a stream has.
const OF_STREAMS: &[&str] = &[MAX_AGE, SEGMENT_BYTES, FILTER_BYTES];

/// Largest segment: RabbitMQ's limit.
pub(super) const SEGMENT_MAX: i64 = 3_000_000_000;

/// The first argument of a declaration that a queue of this type does not have.
pub(super) fn foreign<'a>(arguments: &Table<'a>, is_stream: bool) -> Option<&'a str> {
    let foreign = |key: &&str| match is_stream {
        true => (COMPARED.contains(key) || key.starts_with("x-max-")) && !OWN.contains(key),
        false => OF_STREAMS.contains(key),
    };
    arguments.iter().map(|(key, _)| key).find(foreign)
}

/// Milliseconds of a whole number with one of the units `Y` (365 days), `M` (30 days), `D`, `h`, `m`, `s`; `None`: it is
/// none, or nothing.
pub(crate) fn age_ms(text: &str) -> Option<u64> {
    let unit_ms = match text.chars().next_back()? {
        'Y' => 365 * DAY_MS,
        'M' => 30 * DAY_MS,
        'D' => DAY_MS,
        'h' => 3_600_000,
        'm' => 60_000,
        's' => 1_000,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok().filter(|count| *count > 0)?;
    count.checked_mul(unit_ms)
}

const DAY_MS: u64 = 86_400_000;

/// `x-max-age`.
pub(super) fn max_age(value: &Value<'_>) -> Result<u64, &'static str> {
    (value.as_str())
        .and_then(age_ms)
        .ok_or("invalid_max_age: a number and one of Y M D h m s are expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_units() {
        for (text, ms) in [
            ("1Y", 31_536_000_000),
            ("2M", 5_184_000_000),
            ("7D", 604_800_000),
            ("12h", 43_200_000),
            ("5m", 300_000),
            ("30s", 30_000),
        ] {
            assert_eq!(age_ms(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "D",
            "7",
            "7d",
            "-7D",
            "0s",
            "7 D",
            "1.5h",
            "99999999999999999999s",
            "9é",
        ] {
            assert_eq!(age_ms(text), None, "{text}");
        }
    }
}
