//! How much goes over single topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use longtail_broker::message::{Message, SharedMessage};
use longtail_engine::runtime::Clock;
use longtail_model::{Subject, Timestamp};
use parking_lot::Mutex;

use super::Switch;
use crate::codec::{Qos, ReasonCode};
use crate::hooks::{ClientInfo, Event, Hook, Hooks, Points, Verdict};
use crate::message::qos;

/// Topics that can be watched at a time.
pub const TOPICS_MAX: usize = 512;

/// Why a topic is not watched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No topic.
    #[error("{0:?} is no topic: filters with wildcards cannot be watched")]
    NoTopic(String),
    /// It is watched.
    #[error("{0:?} is watched already")]
    Exists(String),
    /// There are too many.
    #[error("{TOPICS_MAX} topics are watched already")]
    Full,
}

/// What went over a topic since it is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages published, by QoS.
    pub received: [u64; 3],
    /// Copies sent to clients, by the QoS of the message.
    pub sent: [u64; 3],
    /// Messages that nobody was subscribed to, and copies that clients did not get.
    pub dropped: u64,
}

impl Counts {
    fn totals(&self) -> [u64; 7] {
        let ([a, b, c], [d, e, f]) = (self.received, self.sent);
        [a, b, c, d, e, f, self.dropped]
    }
}

/// A topic that is watched.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicView {
    /// The topic.
    pub topic: String,
    /// Since when.
    pub since: Timestamp,
    /// When it was set back to nothing last.
    pub reset: Option<Timestamp>,
    /// Totals.
    pub counts: Counts,
    /// Messages a second, in the last second or so: received and sent by QoS, dropped.
    pub rates: [f64; 7],
}

struct Watched {
    since: Timestamp,
    reset: Option<Timestamp>,
    counts: Counts,
    /// What was counted when the time was looked at last.
    before: (Timestamp, Counts),
    rates: [f64; 7],
}

impl Watched {
    fn new(now: Timestamp) -> Self {
        Watched {
            since: now,
            reset: None,
            counts: Counts::default(),
            before: (now, Counts::default()),
            rates: [0.0; 7],
        }
    }

    fn tick(&mut self, now: Timestamp) {
        let (at, before) = (self.before.0, self.before.1.totals());
        let ms = now.0.saturating_sub(at.0);
        if ms == 0 {
            return;
        }
        let totals = self.counts.totals();
        self.rates = std::array::from_fn(|n| {
            let more = u32::try_from(totals[n].saturating_sub(before[n])).unwrap_or(u32::MAX);
            let ms = u32::try_from(ms).unwrap_or(u32::MAX);
            f64::from(more) * 1000.0 / f64::from(ms)
        });
        self.before = (now, self.counts);
    }

    fn view(&self, topic: &Subject) -> TopicView {
        TopicView {
            topic: topic.as_str().to_owned(),
            since: self.since,
            reset: self.reset,
            counts: self.counts,
            rates: self.rates,
        }
    }
}

#[derive(Default)]
struct Table(Mutex<BTreeMap<Subject, Watched>>);

/// The topics that are watched.
pub struct TopicMetrics {
    table: Arc<Table>,
    switch: Switch,
    clock: Arc<dyn Clock>,
}

impl TopicMetrics {
    pub(crate) fn new(hooks: Arc<Hooks>, clock: Arc<dyn Clock>) -> Self {
        TopicMetrics {
            table: Arc::default(),
            switch: Switch::new(hooks),
            clock,
        }
    }

    /// Watches a topic from now on.
    ///
    /// # Errors
    /// When it is none, is watched already, or there are too many.
    pub fn watch(&self, topic: &str) -> Result<TopicView, TopicError> {
        let subject = Subject::parse_mqtt(topic);
        let subject = subject.map_err(|_| TopicError::NoTopic(topic.to_owned()))?;
        let view = {
            let mut table = self.table.0.lock();
            if table.contains_key(&subject) {
                return Err(TopicError::Exists(topic.to_owned()));
            }
            if table.len() >= TOPICS_MAX {
                return Err(TopicError::Full);
            }
            let watched = Watched::new(self.clock.now());
            let view = watched.view(&subject);
            table.insert(subject, watched);
            view
        };
        self.switch();
        Ok(view)
    }

    /// Ends it; `false` if the topic was not watched.
    pub fn forget(&self, topic: &str) -> bool {
        let Ok(subject) = Subject::parse_mqtt(topic) else {
            return false;
        };
        let was_there = self.table.0.lock().remove(&subject).is_some();
        self.switch();
        was_there
    }

    /// Counts from nothing again, for one topic or for all; `false` if the topic is not watched.
    pub fn reset(&self, topic: Option<&str>) -> bool {
        let now = self.clock.now();
        let mut table = self.table.0.lock();
        let reset = |watched: &mut Watched| {
            *watched = Watched {
                since: watched.since,
                reset: Some(now),
                ..Watched::new(now)
            };
        };
        let Some(topic) = topic else {
            table.values_mut().for_each(reset);
            return true;
        };
        let subject = Subject::parse_mqtt(topic).ok();
        let found = subject.and_then(|subject| table.get_mut(&subject));
        found.map(reset).is_some()
    }

    /// All of them, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<TopicView> {
        let table = self.table.0.lock();
        table
            .iter()
            .map(|(topic, watched)| watched.view(topic))
            .collect()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, topic: &str) -> Option<TopicView> {
        let subject = Subject::parse_mqtt(topic).ok()?;
        let table = self.table.0.lock();
        table.get(&subject).map(|watched| watched.view(&subject))
    }

    fn switch(&self) {
        let wanted = !self.table.0.lock().is_empty();
        self.switch.set(wanted, || Arc::clone(&self.table));
    }
}

fn count(by_qos: &mut [u64; 3], qos: Qos) {
    if let Some(total) = by_qos.get_mut(usize::from(qos.bits())) {
        *total += 1;
    }
}

impl Table {
    fn change(&self, message: &Message, change: impl FnOnce(&mut Counts)) {
        if let Some(watched) = self.0.lock().get_mut(&message.subject) {
            change(&mut watched.counts);
        }
    }
}

impl Hook for Table {
    fn name(&self) -> &str {
        "topic metrics"
    }

    fn points(&self) -> Points {
        Points::PUBLISHED | Points::DELIVER | Points::DROPPED | Points::TICK
    }

    fn deliver(&self, _client: &ClientInfo, message: &SharedMessage) -> Verdict<Message> {
        self.change(message, |counts| {
            count(&mut counts.sent, qos(message.quality));
        });
        Verdict::Continue
    }

    fn notify(&self, event: &Event) {
        match event {
            Event::Published {
                message, reason, ..
            } => self.change(message, |counts| {
                count(&mut counts.received, qos(message.quality));
                counts.dropped += u64::from(*reason == ReasonCode::NoMatchingSubscribers);
            }),
            Event::Dropped { message, .. } => self.change(message, |counts| counts.dropped += 1),
            Event::Tick(now) => self.0.lock().values_mut().for_each(|w| w.tick(*now)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use longtail_engine::runtime::ManualClock;

    use super::*;

    fn metrics() -> (TopicMetrics, Arc<Hooks>) {
        let hooks = Arc::new(Hooks::default());
        let clock = Arc::new(ManualClock::new(Timestamp(1000)));
        (TopicMetrics::new(Arc::clone(&hooks), clock), hooks)
    }

    fn published(topic: &str, reason: ReasonCode) -> Event {
        let subject = Subject::parse_mqtt(topic).unwrap();
        Event::Published {
            client: None,
            message: Arc::new(Message::new(subject, "x".into())),
            reason,
        }
    }

    #[test]
    fn the_hook_is_there_while_something_is_watched() {
        let (metrics, hooks) = metrics();
        assert!(hooks.is_empty());
        metrics.watch("a").unwrap();
        metrics.watch("b").unwrap();
        assert_eq!(hooks.len(), 1);
        assert!(metrics.forget("a") && !metrics.forget("a"));
        assert_eq!(hooks.len(), 1);
        assert!(metrics.forget("b"));
        assert!(hooks.is_empty());
    }

    #[test]
    fn only_topics_are_watched_and_not_too_many() {
        let (metrics, _) = metrics();
        assert!(matches!(metrics.watch("a/#"), Err(TopicError::NoTopic(_))));
        metrics.watch("t").unwrap();
        assert!(matches!(metrics.watch("t"), Err(TopicError::Exists(_))));
        for n in 1..TOPICS_MAX {
            metrics.watch(&format!("t/{n}")).unwrap();
        }
        assert_eq!(metrics.watch("one more"), Err(TopicError::Full));
    }

    #[test]
    fn messages_are_counted_with_what_nobody_wanted_and_rates() {
        let (metrics, hooks) = metrics();
        metrics.watch("a").unwrap();
        for (topic, reason) in [
            ("a", ReasonCode::Success),
            ("a", ReasonCode::NoMatchingSubscribers),
            ("b", ReasonCode::Success),
        ] {
            let event = published(topic, reason);
            hooks.whole().tell(Points::PUBLISHED, || event);
        }
        hooks
            .whole()
            .tell(Points::TICK, || Event::Tick(Timestamp(2000)));
        let view = metrics.get("a").unwrap();
        assert_eq!(view.counts.received, [2, 0, 0]);
        assert_eq!(view.counts.dropped, 1);
        assert!((view.rates[0] - 2.0).abs() < 1e-9, "{:?}", view.rates);
        assert!(metrics.reset(None) && !metrics.reset(Some("b")));
        assert_eq!(metrics.get("a").unwrap().counts, Counts::default());
    }
}
