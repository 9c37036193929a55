//! Deduplication, as LavinMQ has it: a message whose key came before, within the cache, is not taken again.
//!
//! The cache is in memory and bounded; a restart forgets it. Keys are remembered by two hashes of 64 bits.

use std::collections::{HashMap, VecDeque};

use longtail_broker::stable_hash;
use longtail_model::Timestamp;
use parking_lot::Mutex;

use crate::codec::{Table, Value};
use crate::exception::{Exception, precondition};

/// The header with a message's key, unless another is named.
const HEADER: &str = "x-deduplication-header";
/// The argument that names another, which is called as the header is.
const HEADER_ARGUMENT: &str = HEADER;
const SWITCH: &str = "x-message-deduplication";
const SIZE: &str = "x-cache-size";
const TTL: &str = "x-cache-ttl";

/// Keys remembered, unless an argument says otherwise.
const SIZE_DEFAULT: u32 = 128;
/// Most keys of one cache.
const SIZE_MAX: i64 = 1_000_000;

/// What is to be deduplicated, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dedup {
    size: u32,
    ttl_ms: Option<u64>,
    header: String,
}

impl Dedup {
    /// What arguments say; `None`: nothing of it.
    ///
    /// # Errors
    /// `PRECONDITION_FAILED` for one that is wrong.
    pub fn parse(arguments: &Table<'_>) -> Result<Option<Self>, Exception> {
        let invalid = |key: &str, why: &str| precondition(format!("invalid arg '{key}': {why}"));
        let number = |key: &str, max: i64| match arguments.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_i64()
                .filter(|number| (1..=max).contains(number))
                .and_then(|number| u64::try_from(number).ok())
                .map(Some)
                .ok_or_else(|| invalid(key, &format!("a number from 1 to {max} is expected"))),
        };
        let size = number(SIZE, SIZE_MAX)?.and_then(|size| u32::try_from(size).ok());
        let ttl_ms = number(TTL, i64::MAX)?;
        let header = match arguments.get(HEADER_ARGUMENT) {
            None => HEADER,
            Some(value) => value
                .as_str()
                .ok_or_else(|| invalid(HEADER_ARGUMENT, "a string is expected"))?,
        };
        match arguments.get(SWITCH) {
            None | Some(Value::Bool(false)) => Ok(None),
            Some(Value::Bool(true)) => Ok(Some(Dedup {
                size: size.unwrap_or(SIZE_DEFAULT),
                ttl_ms,
                header: header.to_owned(),
            })),
            Some(_) => Err(invalid(SWITCH, "a boolean is expected")),
        }
    }

    /// The key of a message, and how long it counts; `None`: it has none.
    #[must_use]
    pub fn key(&self, headers: &Table<'_>) -> Option<Key> {
        let value = headers.get(&self.header)?;
        let bytes = match value {
            Value::LongString(bytes) | Value::Bytes(bytes) => bytes.to_vec(),
            value => match value.as_i64() {
                Some(number) => number.to_string().into_bytes(),
                None => format!("{value:?}").into_bytes(),
            },
        };
        let own = headers.get(TTL).and_then(|ttl| ttl.as_i64());
        let hash = |seed: u8| stable_hash(std::iter::once(seed).chain(bytes.iter().copied()));
        Some(Key {
            hash: (hash(0), hash(1)),
            ttl_ms: own.and_then(|ms| u64::try_from(ms).ok()).or(self.ttl_ms),
        })
    }
}

/// A message's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    hash: (u64, u64),
    ttl_ms: Option<u64>,
}

/// The keys that came lately.
#[derive(Debug)]
pub struct Seen {
    dedup: Dedup,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    /// With the time until when it counts, and the number of its entry.
    known: HashMap<(u64, u64), (Timestamp, u64)>,
    /// In the order in which they came. One that was forgotten or came again meanwhile has another number by now.
    order: VecDeque<((u64, u64), u64)>,
    next: u64,
}

impl Seen {
    /// Nothing came yet.
    #[must_use]
    pub fn new(dedup: Dedup) -> Self {
        Seen {
            dedup,
            cache: Mutex::default(),
        }
    }

    /// Notes a message. `Err`: it came before. The key is to be [forgotten](Seen::forget) if it is not stored after all.
    ///
    /// # Errors
    /// When it is a repetition.
    pub fn note(&self, headers: &Table<'_>, now: Timestamp) -> Result<Option<Key>, Repeated> {
        let Some(key) = self.dedup.key(headers) else {
            return Ok(None);
        };
        let mut cache = self.cache.lock();
        if let Some((until, _)) = cache.known.get(&key.hash)
            && *until > now
        {
            return Err(Repeated);
        }
        let until = key
            .ttl_ms
            .map_or(Timestamp::NEVER, |ms| now.plus_millis(ms));
        cache.next += 1;
        let number = cache.next;
        cache.known.insert(key.hash, (until, number));
        cache.order.push_back((key.hash, number));
        let size = self.dedup.size as usize;
        while cache.known.len() > size || cache.order.len() > 2 * size {
            let Some((hash, number)) = cache.order.pop_front() else {
                break;
            };
            if cache
                .known
                .get(&hash)
                .is_some_and(|(_, last)| *last == number)
            {
                cache.known.remove(&hash);
            }
        }
        Ok(Some(key))
    }

    /// A message that was noted was not stored: it may come again.
    pub fn forget(&self, key: Key) {
        self.cache.lock().known.remove(&key.hash);
    }
}

/// A message came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::samples::table;

    fn seen(pairs: &[(&str, Value<'_>)]) -> Seen {
        let mut all = vec![(SWITCH, Value::Bool(true))];
        all.extend_from_slice(pairs);
        let dedup = Dedup::parse(&table(&all).as_table()).unwrap();
        Seen::new(dedup.unwrap())
    }

    fn comes(seen: &Seen, key: &str, now: u64) -> bool {
        let headers = table(&[(HEADER, Value::LongString(key.as_bytes()))]);
        seen.note(&headers.as_table(), Timestamp(now)).is_ok()
    }

    #[test]
    fn a_repetition_is_told_as_long_as_its_key_is_kept() {
        let seen = seen(&[(SIZE, Value::I32(2)), (TTL, Value::I32(100))]);
        assert!(comes(&seen, "a", 0));
        assert!(!comes(&seen, "a", 99));
        assert!(comes(&seen, "a", 100), "its time is over");
        assert!(comes(&seen, "b", 100));
        assert!(comes(&seen, "c", 100));
        assert!(comes(&seen, "a", 101), "two others have come");
        assert!(!comes(&seen, "c", 101));
    }

    #[test]
    fn the_cache_is_bounded_whatever_is_forgotten() {
        let seen = seen(&[(SIZE, Value::I32(3))]);
        for number in 0..1_000_u32 {
            let key = (number % 5).to_string();
            let headers = table(&[(HEADER, Value::LongString(key.as_bytes()))]);
            if let Ok(Some(key)) = seen.note(&headers.as_table(), Timestamp(0))
                && number % 2 == 0
            {
                seen.forget(key);
            }
            let cache = seen.cache.lock();
            assert!(cache.known.len() <= 3 && cache.order.len() <= 6);
        }
    }

    #[test]
    fn what_was_not_stored_may_come_again() {
        let seen = seen(&[]);
        let headers = table(&[(HEADER, Value::I32(5))]);
        let key = seen.note(&headers.as_table(), Timestamp(0)).unwrap();
        assert_eq!(seen.note(&headers.as_table(), Timestamp(0)), Err(Repeated));
        seen.forget(key.unwrap());
        assert!(seen.note(&headers.as_table(), Timestamp(0)).is_ok());
        // Without a key a message is always new.
        assert_eq!(seen.note(&Table::default(), Timestamp(0)), Ok(None));
        assert_eq!(seen.note(&Table::default(), Timestamp(0)), Ok(None));
    }

    #[test]
    fn a_message_may_say_how_long_its_key_counts() {
        let seen = seen(&[("x-deduplication-header", Value::LongString(b"id"))]);
        let headers = table(&[("id", Value::LongString(b"a")), (TTL, Value::I32(10))]);
        let note = |now| seen.note(&headers.as_table(), Timestamp(now)).is_ok();
        assert_eq!((note(0), note(9), note(10)), (true, false, true));
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let parse = |pairs: &[(&str, Value<'_>)]| Dedup::parse(&table(pairs).as_table());
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[(SWITCH, Value::Bool(false))]), Ok(None));
        for wrong in [
            (SWITCH, Value::I32(1)),
            (SIZE, Value::I32(0)),
            (SIZE, Value::I64(2_000_000)),
            (TTL, Value::LongString(b"x")),
            (HEADER, Value::I32(1)),
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
