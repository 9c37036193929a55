//! The messages that were dropped of late, one by one.
//!
//! Counters say how many messages a client did not get, and why; this says which. It is a hook that is always there, at
//! points that cost nothing as long as nothing is dropped. Where much is dropped at once, whoever finds the list in use
//! does not wait for it: his is counted as not listed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_broker::ephemeral::DropReason;
use longtail_engine::runtime::Clock;
use longtail_model::{Filter, SubjectRef, Timestamp};
use parking_lot::Mutex;

use super::PRIORITY;
use crate::codec::ReasonCode;
use crate::hooks::{Event, Hook, Hooks, Points, Scope};

/// Messages that are listed.
pub const LISTED_MAX: usize = 1000;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A client did not get it.
    Delivery(DropReason),
    /// Nobody got it: its publisher was refused.
    Publish(ReasonCode),
}

impl Dropped {
    /// `delivery` or `publish`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Dropped::Delivery(_) => "delivery",
            Dropped::Publish(_) => "publish",
        }
    }

    /// Why, as a word.
    #[must_use]
    pub fn reason(self) -> String {
        match self {
            Dropped::Delivery(reason) => reason.as_str().to_owned(),
            Dropped::Publish(reason) => reason.word(),
        }
    }
}

/// A message that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropView {
    /// When.
    pub at: Timestamp,
    /// The client that did not get it, or that published it.
    pub client_id: Arc<str>,
    /// Its topic.
    pub topic: Arc<str>,
    /// What became of it.
    pub what: Dropped,
}

struct Table {
    list: Mutex<VecDeque<DropView>>,
    unlisted: AtomicU64,
    clock: Arc<dyn Clock>,
}

/// The messages that were dropped of late.
pub struct RecentDrops(Arc<Table>);

impl RecentDrops {
    pub(crate) fn new(hooks: &Arc<Hooks>, clock: Arc<dyn Clock>) -> Self {
        let table = Arc::new(Table {
            list: Mutex::default(),
            unlisted: AtomicU64::new(0),
            clock,
        });
        let hook = Arc::clone(&table);
        hooks.add(hook, PRIORITY, Scope::Everywhere);
        RecentDrops(table)
    }

    /// The newest `max` of one client, or of topics that a filter matches, the newest first.
    #[must_use]
    pub fn list(
        &self,
        client_id: Option<&str>,
        topics: Option<&Filter>,
        max: usize,
    ) -> Vec<DropView> {
        let list = self.0.list.lock();
        let wanted = list.iter().rev().filter(|view| {
            let topic = || SubjectRef::new(&view.topic);
            client_id.is_none_or(|id| *view.client_id == *id)
                && topics.is_none_or(|filter| topic().is_ok_and(|topic| filter.matches(topic)))
        });
        wanted.take(max).cloned().collect()
    }

    /// Those that were dropped and could not be listed, because others were at the same moment.
    #[must_use]
    pub fn unlisted(&self) -> u64 {
        self.0.unlisted.load(Ordering::Relaxed)
    }
}

impl Hook for Table {
    fn name(&self) -> &str {
        "recent drops"
    }

    fn points(&self) -> Points {
        Points::DROPPED | Points::DENIED
    }

    fn notify(&self, event: &Event) {
        let (client, topic, what) = match event {
            Event::Dropped {
                client,
                message,
                reason,
            } => (client, message.subject.as_str(), Dropped::Delivery(*reason)),
            Event::Denied {
                client,
                topic,
                reason,
            } => (client, &**topic, Dropped::Publish(*reason)),
            _ => return,
        };
        let Some(mut list) = self.list.try_lock() else {
            self.unlisted.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if list.len() >= LISTED_MAX {
            list.pop_front();
        }
        list.push_back(DropView {
            at: self.clock.now(),
            client_id: Arc::clone(&client.id),
            topic: topic.into(),
            what,
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use longtail_broker::message::Message;
    use longtail_engine::runtime::ManualClock;
    use longtail_model::Subject;

    use super::*;
    use crate::codec::Version;
    use crate::hooks::ClientInfo;

    fn client(hooks: &Hooks, id: &str) -> Arc<ClientInfo> {
        let chain = hooks.chain(&"l".into());
        ClientInfo::new(id.into(), None, None, Version::V5, Timestamp(0), chain)
    }

    fn dropped(client: &Arc<ClientInfo>, topic: &str) -> Event {
        let subject = Subject::new(topic).unwrap();
        Event::Dropped {
            client: Arc::clone(client),
            message: Arc::new(Message::new(subject, Bytes::new())),
            reason: DropReason::OutboxFull,
        }
    }

    #[test]
    fn the_newest_are_listed_by_client_and_topic() {
        let hooks = Arc::<Hooks>::default();
        let clock = Arc::new(ManualClock::new(Timestamp(5)));
        let drops = RecentDrops::new(&hooks, clock);
        let (slow, other) = (client(&hooks, "slow"), client(&hooks, "other"));
        for n in 0..LISTED_MAX + 10 {
            let event = dropped(&slow, &format!("a/{n}"));
            hooks.whole().tell(Points::DROPPED, || event);
        }
        hooks.whole().tell(Points::DENIED, || Event::Denied {
            client: Arc::clone(&other),
            topic: "b".into(),
            reason: ReasonCode::NotAuthorized,
        });
        assert_eq!(drops.0.list.lock().len(), LISTED_MAX);
        let newest = drops.list(None, None, 2);
        assert_eq!(
            (newest[0].what.kind(), newest[0].what.reason().as_str()),
            ("publish", "not_authorized")
        );
        let last = format!("a/{}", LISTED_MAX + 9);
        assert_eq!((&*newest[1].client_id, &*newest[1].topic), ("slow", &*last));
        assert_eq!(newest[1].what.reason(), "outbox_full");
        assert_eq!(drops.list(Some("other"), None, 10).len(), 1);
        let filter = Filter::parse_mqtt("a/+").unwrap();
        assert_eq!(drops.list(None, Some(&filter), 3).len(), 3);
        assert!(drops.list(Some("other"), Some(&filter), 3).is_empty());
        assert_eq!(drops.unlisted(), 0);
    }

    #[test]
    fn whoever_finds_the_list_in_use_is_counted() {
        let hooks = Arc::<Hooks>::default();
        let clock = Arc::new(ManualClock::new(Timestamp(5)));
        let drops = RecentDrops::new(&hooks, clock);
        let event = dropped(&client(&hooks, "c"), "a");
        let held = drops.0.list.lock();
        hooks.whole().tell(Points::DROPPED, || event.clone());
        drop(held);
        assert_eq!((drops.unlisted(), drops.list(None, None, 1).len()), (1, 0));
    }
}
