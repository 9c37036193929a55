//! Rates, and what there was before: of everything for hours, of each queue and exchange for a minute, of what somebody
//! looks at for ten.
//!
//! ```text
//! sampler, every 5 s ──▶ sample ──▶ history of each thing ◀── look ◀── a request
//! ```
//!
//! Nothing is counted here: numbers are read from where they are counted anyhow. The memory has a bound, whatever there is:
//! [`STANDING_MAX`] things are sampled although nobody asks, [`ASKED_MAX`] because somebody has in the last
//! ten minutes, and [`LONG_MAX`] of them are kept for long because somebody has asked for what was before.

use std::collections::HashMap;
use std::sync::Arc;

use longtail_web::Query;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::history::{Depth, History, INTERVAL_MS, Range, Sample};
use super::http::Failed;

/// Milliseconds after which what nobody asks for is nobody's any more.
const FORGOTTEN_MS: u64 = 600_000;

/// Things that are sampled although nobody asks.
pub(super) const STANDING_MAX: usize = 1_000;

/// Things that are known at most.
const ASKED_MAX: usize = 20_000;

/// Things whose samples are kept for long.
const LONG_MAX: usize = 500;

/// Ten minutes, a minute, and what a rate needs.
const LONG: usize = 121;
const SHORT: usize = 13;
const LEAST: usize = 2;

/// Of everything: ten minutes, an hour, eight hours, a day.
const GLOBAL: &[Depth] = &[
    depth(5, LONG),
    depth(60, 61),
    depth(600, 49),
    depth(1_800, 49),
];

/// Seconds that samples of everything reach back, level by level.
pub(super) const GLOBAL_AGES: [u64; 4] = [600, 3_600, 28_800, 86_400];

const fn depth(seconds: u64, keep: usize) -> Depth {
    Depth {
        every_ms: seconds * 1000,
        keep,
    }
}

/// Steps of a range at most.
const STEPS_MAX: u64 = 500;

/// What is sampled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Thing {
    /// Everything.
    All,
    /// The process and its machine.
    Node,
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
    /// A channel, and an exchange that it publishes to.
    Published(u64, u16, Arc<str>),
    /// A channel, and a queue that it is given messages of.
    Drawn(u64, u16, Arc<str>),
}

impl Thing {
    /// There may be any number of them: sampled only while somebody asks for this one.
    fn is_pair(&self) -> bool {
        matches!(self, Thing::Published(..) | Thing::Drawn(..))
    }
}

/// What a request wants to know of before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// Of how many messages there were.
    pub(super) lengths: Option<Range>,
    /// Of messages that went through.
    pub(super) messages: Option<Range>,
    /// Of octets.
    pub(super) data: Option<Range>,
    /// Of the process.
    pub(super) node: Option<Range>,
}

impl Ranges {
    /// What `lengths_age`, `lengths_incr` and so on say, in seconds; both of a pair are needed.
    ///
    /// # Errors
    /// When they are no numbers, or make more than 500 steps.
    pub(super) fn of(query: &Query) -> Result<Self, Failed> {
        Ok(Ranges {
            lengths: range(query, "lengths")?,
            messages: range(query, "msg_rates")?,
            data: range(query, "data_rates")?,
            node: range(query, "node_stats")?,
        })
    }

    fn is_any(&self) -> bool {
        *self != Ranges::default()
    }
}

fn range(query: &Query, prefix: &str) -> Result<Option<Range>, Failed> {
    let seconds = |name: &str| query.number(&format!("{prefix}_{name}"));
    let (Some(age), Some(step)) = (seconds("age")?, seconds("incr")?) else {
        return Ok(None);
    };
    let (age, step) = (age as u64, step as u64);
    if step == 0 || age / step > STEPS_MAX {
        return Err(Failed::bad(format!(
            "{prefix}_age must be at most {STEPS_MAX} times {prefix}_incr, which is at least 1"
        )));
    }
    Ok(Some(Range {
        age_ms: age.saturating_mul(1000),
        step_ms: step.saturating_mul(1000),
    }))
}

/// A thing, and what is known of it.
struct Track {
    history: History,
    /// Sampled although nobody asks.
    standing: bool,
    /// When somebody asked last; 0: never.
    asked_ms: u64,
    /// When somebody last asked for what was before; 0: never.
    long_ms: u64,
}

impl Track {
    fn new(thing: &Thing, standing: bool) -> Self {
        let plain = [depth(INTERVAL_MS / 1000, SHORT)];
        let depths = if *thing == Thing::All { GLOBAL } else { &plain };
        Track {
            history: History::new(depths),
            standing,
            asked_ms: 0,
            long_ms: 0,
        }
    }

    fn is_asked(&self, now_ms: u64) -> bool {
        self.asked_ms > 0 && now_ms.saturating_sub(self.asked_ms) < FORGOTTEN_MS
    }

    fn is_long(&self, now_ms: u64) -> bool {
        self.long_ms > 0 && now_ms.saturating_sub(self.long_ms) < FORGOTTEN_MS
    }

    fn fit(&mut self, thing: &Thing, now_ms: u64) {
        let keep = if *thing == Thing::All || self.is_long(now_ms) {
            LONG
        } else if self.standing {
            SHORT
        } else {
            LEAST
        };
        self.history.set_keep(keep);
    }
}

#[derive(Default)]
struct Tracks {
    things: HashMap<Thing, Track>,
    standing: usize,
    long: usize,
}

/// All things that are sampled.
#[derive(Default)]
pub(super) struct Rates(Mutex<Tracks>);

/// What somebody asks for, and so is worth to be sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Everything, or a queue.
    pub(super) lengths: bool,
    /// Connections, channels or vhosts.
    pub(super) connections: bool,
    /// The process.
    pub(super) node: bool,
}

impl Rates {
    /// Somebody looks at numbers: how they change, and what they were before.
    pub(super) fn look(
        &self,
        thing: &Thing,
        now_ms: u64,
        numbers: &[u64],
        ranges: &Ranges,
    ) -> Past {
        let mut tracks = self.0.lock();
        let Tracks { things, long, .. } = &mut *tracks;
        if things.len() >= ASKED_MAX && !things.contains_key(thing) {
            return Past::nothing(numbers);
        }
        let track = things
            .entry(thing.clone())
            .or_insert_with(|| Track::new(thing, false));
        track.asked_ms = now_ms;
        if ranges.is_any() && (track.is_long(now_ms) || *long < LONG_MAX) {
            if !track.is_long(now_ms) {
                *long += 1;
            }
            track.long_ms = now_ms;
        }
        track.fit(thing, now_ms);
        if track.history.is_empty() {
            track.history.record(&Sample {
                at_ms: now_ms,
                numbers: numbers.into(),
            });
        }
        Past {
            now_ms,
            before: track.history.before(now_ms).cloned(),
            numbers: numbers.to_vec(),
            history: ranges.is_any().then(|| track.history.clone()),
        }
    }

    /// Takes a sample of a thing, if it is among those that are sampled.
    pub(super) fn sample(&self, thing: &Thing, at_ms: u64, numbers: &[u64]) {
        let mut tracks = self.0.lock();
        let Tracks {
            things, standing, ..
        } = &mut *tracks;
        if !things.contains_key(thing) {
            if *standing >= STANDING_MAX || thing.is_pair() {
                return;
            }
            *standing += 1;
            things.insert(thing.clone(), Track::new(thing, true));
        }
        if let Some(track) = things.get_mut(thing) {
            track.fit(thing, at_ms);
            track.history.record(&Sample {
                at_ms,
                numbers: numbers.into(),
            });
        }
    }

    /// After a round: forgets what is not there any more, and what nobody has asked for.
    pub(super) fn tidy(&self, now_ms: u64) {
        let mut tracks = self.0.lock();
        tracks.things.retain(|thing, track| {
            let last = track.history.last_ms().unwrap_or(0);
            let there = *thing == Thing::All || now_ms.saturating_sub(last) < 12 * INTERVAL_MS;
            there && (track.standing || track.is_asked(now_ms))
        });
        let of = |counts: fn(&Track, u64) -> bool| {
            let things = tracks.things.values();
            things.filter(|track| counts(track, now_ms)).count()
        };
        let (standing, long) = (of(|track, _| track.standing), of(Track::is_long));
        tracks.standing = standing;
        tracks.long = long;
    }

    /// What somebody has asked for lately.
    pub(super) fn asked(&self, now_ms: u64) -> Asked {
        let mut asked = Asked::default();
        for (thing, track) in &self.0.lock().things {
            if !track.is_asked(now_ms) {
                continue;
            }
            match thing {
                Thing::All | Thing::Queue(..) => asked.lengths = true,
                Thing::Exchange(..) => {}
                Thing::Node => asked.node = true,
                Thing::Vhost(_) => {
                    asked.lengths = true;
                    asked.connections = true;
                }
                Thing::Connection(_)
                | Thing::Channel(..)
                | Thing::Published(..)
                | Thing::Drawn(..) => asked.connections = true,
            }
        }
        asked
    }
}

/// The numbers of a thing with what they were before.
pub(super) struct Past {
    now_ms: u64,
    numbers: Vec<u64>,
    before: Option<Sample>,
    history: Option<History>,
}

impl Past {
    fn nothing(numbers: &[u64]) -> Self {
        Past {
            now_ms: 0,
            numbers: numbers.to_vec(),
            before: None,
            history: None,
        }
    }

    /// How much a number has changed a second.
    fn rate(&self, which: usize) -> f64 {
        let Some(before) = &self.before else {
            return 0.0;
        };
        let passed = self.now_ms.saturating_sub(before.at_ms);
        let (now, then) = (self.numbers.get(which), before.numbers.get(which));
        match (now, then) {
            (Some(&now), Some(&then)) if passed > 0 => {
                difference(now, then) * 1000.0 / passed as f64
            }
            _ => 0.0,
        }
    }

    /// Puts numbers that only grow into an object, from the number `from` on: `NAME` and `NAME_details`.
    pub(super) fn put_counts(
        &self,
        object: &mut Map<String, Value>,
        names: &[&str],
        from: usize,
        range: Option<Range>,
    ) {
        for (at, name) in names.iter().enumerate() {
            let which = from + at;
            // One that was made anew begins anew.
            self.put(object, name, which, self.rate(which).max(0.0), range);
        }
    }

    /// Puts numbers that grow and shrink into an object.
    pub(super) fn put_levels(
        &self,
        object: &mut Map<String, Value>,
        names: &[&str],
        from: usize,
        range: Option<Range>,
    ) {
        for (at, name) in names.iter().enumerate() {
            let which = from + at;
            self.put(object, name, which, self.rate(which), range);
        }
    }

    fn put(
        &self,
        object: &mut Map<String, Value>,
        name: &str,
        which: usize,
        rate: f64,
        range: Option<Range>,
    ) {
        let Some(&number) = self.numbers.get(which) else {
            return;
        };
        let mut details = json!({"rate": rounded(rate)});
        if let (Some(range), Some(history), Value::Object(details)) =
            (range, &self.history, &mut details)
        {
            let samples = history.since(self.now_ms, range);
            let of = |sample: &Sample| sample.numbers.get(which).copied().unwrap_or(0);
            let shown = samples
                .iter()
                .map(|sample| json!({"sample": of(sample), "timestamp": sample.at_ms}));
            details.insert("samples".to_owned(), shown.collect());
            if let [latest, .., oldest] = samples.as_slice() {
                let passed = latest.at_ms.saturating_sub(oldest.at_ms).max(1) as f64;
                let rate = difference(of(latest), of(oldest)) * 1000.0 / passed;
                let sum: f64 = samples.iter().map(|sample| of(sample) as f64).sum();
                let average = sum / samples.len() as f64;
                details.insert("avg_rate".to_owned(), rounded(rate).into());
                details.insert("avg".to_owned(), rounded(average).into());
            }
        }
        object.insert(name.to_owned(), number.into());
        object.insert(format!("{name}_details"), details);
    }
}

fn difference(now: u64, then: u64) -> f64 {
    if now >= then {
        (now - then) as f64
    } else {
        -((then - now) as f64)
    }
}

fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(number: usize) -> Thing {
        Thing::Queue("default".into(), number.to_string().into())
    }

    fn details(rates: &Rates, thing: &Thing, now_ms: u64, number: u64, query: &str) -> Value {
        let ranges = Ranges::of(&Query::parse(query)).unwrap();
        let past = rates.look(thing, now_ms, &[number], &ranges);
        let mut object = Map::new();
        past.put_levels(&mut object, &["messages"], 0, ranges.lengths);
        assert_eq!(object["messages"], number);
        object["messages_details"].clone()
    }

    #[test]
    fn a_rate_is_that_of_the_last_interval_and_may_be_negative() {
        let rates = Rates::default();
        for (at, number) in [(0, 100), (5_000, 600), (10_000, 350)] {
            rates.sample(&queue(1), at, &[number]);
        }
        let rate = |now, number| details(&rates, &queue(1), now, number, "")["rate"].clone();
        assert_eq!(rate(10_000, 350), -50.0);
        assert_eq!(rate(15_000, 350), 0.0);
        // Of one that was never sampled there is none, until it is looked at again.
        assert_eq!(details(&rates, &queue(2), 20_000, 7, "")["rate"], 0.0);
        assert_eq!(details(&rates, &queue(2), 22_000, 8, "")["rate"], 0.5);
        // What only grows has not shrunk.
        let past = rates.look(&queue(1), 16_000, &[1], &Ranges::default());
        let mut object = Map::new();
        past.put_counts(&mut object, &["publish"], 0, None);
        assert_eq!(object["publish_details"], json!({"rate": 0.0}));
    }

    #[test]
    fn samples_are_there_for_who_asks_for_them() {
        let rates = Rates::default();
        for at in 0..5 {
            rates.sample(&Thing::All, at * 5_000, &[at * 10]);
        }
        let found = details(
            &rates,
            &Thing::All,
            21_000,
            42,
            "lengths_age=10&lengths_incr=5",
        );
        let samples = json!([
            {"sample": 40, "timestamp": 20_000}, {"sample": 30, "timestamp": 15_000},
            {"sample": 20, "timestamp": 10_000},
        ]);
        assert_eq!(found["samples"], samples);
        assert_eq!(
            (&found["avg_rate"], &found["avg"]),
            (&json!(2.0), &json!(30.0))
        );
        for wrong in [
            "lengths_age=1&lengths_incr=0",
            "lengths_age=501&lengths_incr=1",
            "msg_rates_age=x",
        ] {
            assert_eq!(
                Ranges::of(&Query::parse(wrong)).unwrap_err().status,
                400,
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_nobody_asks_for_is_kept_within_a_bound() {
        let rates = Rates::default();
        let all = STANDING_MAX + 50;
        let round = |at_ms: u64| {
            for number in 0..all {
                rates.sample(&queue(number), at_ms, &[at_ms / 1000]);
            }
            rates.tidy(at_ms);
        };
        round(5_000);
        let beyond = queue(all - 1);
        // Beyond the bound, whoever is asked for is sampled.
        assert_eq!(details(&rates, &beyond, 6_000, 6, "")["rate"], 0.0);
        for at in 2..=20 {
            round(at * 5_000);
        }
        assert_eq!(details(&rates, &beyond, 101_000, 101, "")["rate"], 1.0);
        let samples = |thing: Thing| {
            let found = details(&rates, &thing, 101_000, 0, "lengths_age=100&lengths_incr=5");
            found["samples"].as_array().unwrap().len()
        };
        assert_eq!((samples(queue(0)), samples(beyond.clone())), (SHORT, LEAST));
        assert_eq!(rates.0.lock().things.len(), STANDING_MAX + 1);
        // From when somebody has asked, more is kept.
        for at in 21..=40 {
            round(at * 5_000);
        }
        let found = details(
            &rates,
            &queue(0),
            201_000,
            0,
            "lengths_age=200&lengths_incr=5",
        );
        assert_eq!(found["samples"].as_array().unwrap().len(), SHORT + 20);
        // Long after, what nobody asked for again is gone, as is what is not there any more.
        for at in 41..=200 {
            round(at * 5_000);
        }
        let known = |thing: &Thing| rates.0.lock().things.contains_key(thing);
        assert!(known(&queue(0)) && !known(&beyond));
        rates.tidy(2_000_000);
        assert!(rates.0.lock().things.is_empty());
    }
}
