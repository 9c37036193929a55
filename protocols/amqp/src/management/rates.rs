//! Rates: how much of something there was a second, from the differences between looks.
//!
//! A look is kept for five seconds before the next one takes its place, so that a rate is over five to ten seconds
//! whoever asks how often. What nobody has looked at for a minute is forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

/// Milliseconds between two looks that are kept.
const INTERVAL_MS: u64 = 5_000;

/// Milliseconds after which a rate that nobody asked for is forgotten.
const FORGOTTEN_MS: u64 = 60_000;

/// Things that are looked at.
const THINGS_MAX: usize = 50_000;

/// What a rate is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Thing {
    /// Everything.
    All,
    /// A vhost.
    Vhost(Arc<str>),
    /// A queue, by space and name.
    Queue(Arc<str>, Arc<str>),
    /// An exchange, by space and name.
    Exchange(Arc<str>, Arc<str>),
    /// A connection.
    Connection(u64),
    /// A channel.
    Channel(u64, u16),
}

/// The numbers of one look.
type Numbers = Vec<u64>;

#[derive(Debug)]
struct Track {
    before: (u64, Numbers),
    last: (u64, Numbers),
}

/// The looks so far.
#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<Thing, Track>>);

impl Rates {
    /// Looks at numbers that only grow; how much each has grown a second. The first look has no rates.
    pub(super) fn look(&self, thing: Thing, now_ms: u64, numbers: &[u64]) -> Vec<f64> {
        let mut tracks = self.0.lock();
        if tracks.len() >= THINGS_MAX && !tracks.contains_key(&thing) {
            tracks.retain(|_, track| now_ms.saturating_sub(track.last.0) < FORGOTTEN_MS);
            if tracks.len() >= THINGS_MAX {
                return vec![0.0; numbers.len()];
            }
        }
        let first = || Track {
            before: (now_ms, numbers.to_vec()),
            last: (now_ms, numbers.to_vec()),
        };
        let track = tracks.entry(thing).or_insert_with(first);
        let stale = now_ms.saturating_sub(track.last.0) >= FORGOTTEN_MS;
        if stale {
            *track = first();
        } else if now_ms.saturating_sub(track.last.0) >= INTERVAL_MS {
            track.before = std::mem::replace(&mut track.last, (now_ms, numbers.to_vec()));
        }
        let (at, before) = &track.before;
        let seconds = now_ms.saturating_sub(*at) as f64 / 1000.0;
        let rate = |(now, before): (&u64, &u64)| {
            if seconds > 0.0 {
                now.saturating_sub(*before) as f64 / seconds
            } else {
                0.0
            }
        };
        numbers.iter().zip(before).map(rate).collect()
    }
}

/// Puts numbers with their rates into an object: `NAME` and `NAME_details`.
pub(super) fn put(object: &mut Map<String, Value>, names: &[&str], numbers: &[u64], rates: &[f64]) {
    for ((name, number), rate) in names.iter().zip(numbers).zip(rates) {
        object.insert((*name).to_owned(), (*number).into());
        let details = json!({"rate": (rate * 100.0).round() / 100.0});
        object.insert(format!("{name}_details"), details);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_the_last_five_to_ten_seconds() {
        let rates = Rates::default();
        let look = |now, number| rates.look(Thing::All, now, &[number])[0];
        assert!(look(0, 100).abs() < 1e-9);
        assert!((look(2_000, 300) - 100.0).abs() < 1e-9);
        assert!((look(5_000, 600) - 100.0).abs() < 1e-9);
        assert!(
            (look(10_000, 600) - 0.0).abs() < 1e-9,
            "since the look at 5 s"
        );
        assert!(look(200_000, 10_000).abs() < 1e-9, "too long ago to say");
    }

    #[test]
    fn numbers_have_their_rates_beside_them() {
        let mut object = Map::new();
        put(&mut object, &["publish"], &[7], &[1.0 / 3.0]);
        assert_eq!(
            Value::Object(object),
            json!({"publish": 7, "publish_details": {"rate": 0.33}})
        );
    }
}
