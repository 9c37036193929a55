//! The server's log as topics: `$SYS/broker/log/E`, `W`, `N`, `I`, `D`, and who subscribes to what under
//! `M/subscribe` and `M/unsubscribe`, as Mosquitto has them.
//!
//! Lines come from anywhere, with any lock held, so that they are only queued; the thread that minds the time publishes
//! them, to live subscribers, within about a second. What publishing has to say itself is not told this way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use longtail_broker::ephemeral::{Burst, SpaceRoutes};
use longtail_broker::message::{Message, Quality};
use longtail_broker::router::Chance;
use longtail_model::{Subject, Timestamp};
use parking_lot::Mutex;

use crate::hooks::{Event, Hook, Points, Scope};
use crate::tenant::Tenant;

/// Lines that wait to be published; further ones are dropped and counted.
const LINES_MAX: usize = 1000;

/// Longest line, in bytes; what is longer is cut.
const LINE_MAX: usize = 4096;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTopic {
    /// `E`.
    Error,
    /// `W`.
    Warning,
    /// `N`: what an operator wants to know.
    Notice,
    /// `I`.
    Information,
    /// `D`.
    Debug,
    /// `M/subscribe`.
    Subscribe,
    /// `M/unsubscribe`.
    Unsubscribe,
}

impl LogTopic {
    fn topic(self) -> &'static str {
        match self {
            LogTopic::Error => "$SYS/broker/log/E",
            LogTopic::Warning => "$SYS/broker/log/W",
            LogTopic::Notice => "$SYS/broker/log/N",
            LogTopic::Information => "$SYS/broker/log/I",
            LogTopic::Debug => "$SYS/broker/log/D",
            LogTopic::Subscribe => "$SYS/broker/log/M/subscribe",
            LogTopic::Unsubscribe => "$SYS/broker/log/M/unsubscribe",
        }
    }
}

thread_local! {
    /// Whether this thread publishes lines just now.
    static PUBLISHING: Cell<bool> = const { Cell::new(false) };
}

/// Lines on their way to the topics.
#[derive(Default)]
pub(crate) struct LogLines {
    waiting: Mutex<VecDeque<(LogTopic, String)>>,
    dropped: AtomicU64,
}

impl LogLines {
    fn add(&self, topic: LogTopic, mut line: String) {
        if PUBLISHING.get() {
            return;
        }
        if line.len() > LINE_MAX {
            line.truncate(line.floor_char_boundary(LINE_MAX));
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() >= LINES_MAX {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back((topic, line));
    }

    /// Publishes what waits.
    pub(crate) fn publish(&self, tenant: &Tenant, now: Timestamp) {
        let mut lines = std::mem::take(&mut *self.waiting.lock());
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let line = format!("{dropped} lines of the log are missing here");
            lines.push_back((LogTopic::Warning, line));
        }
        if lines.is_empty() {
            return;
        }
        PUBLISHING.set(true);
        let space = tenant.space();
        let mut burst = Burst::new(&space.counters);
        for (topic, line) in lines {
            let Ok(subject) = Subject::parse_mqtt(topic.topic()) else {
                continue;
            };
            if !space.router.has_interest(subject.as_ref()) {
                continue;
            }
            let message = Arc::new(Message {
                published: now,
                quality: Quality::AtMostOnce,
                ..Message::new(subject, Bytes::from(line))
            });
            // To live subscribers only, whatever streams are bound to: this is in a log already.
            let mut routes = SpaceRoutes::default();
            space.router.routes(message.subject.as_ref(), &mut routes);
            let chance = Chance::of(&message, now.0);
            burst.publish(&routes, &message, &chance, now);
        }
        drop(burst);
        PUBLISHING.set(false);
    }
}

impl Tenant {
    /// Publishes a line of the log, soon. Only queues: it may be called from anywhere.
    pub fn tell_log(&self, topic: LogTopic, line: String) {
        self.log_lines().add(topic, line);
    }

    /// From now on it is published who subscribes to what.
    pub fn log_subscriptions(self: &Arc<Self>) {
        let scribe = Scribe(Arc::downgrade(self));
        self.hooks()
            .add(Arc::new(scribe), i32::MAX, Scope::Everywhere);
    }
}

/// Writes down who subscribes to what.
struct Scribe(Weak<Tenant>);

impl Hook for Scribe {
    fn name(&self) -> &'static str {
        "log topics"
    }

    fn points(&self) -> Points {
        Points::SUBSCRIBED | Points::UNSUBSCRIBED
    }

    fn notify(&self, event: &Event) {
        let Some(tenant) = self.0.upgrade() else {
            return;
        };
        let seconds = tenant.now().0 / 1000;
        match event {
            Event::Subscribed {
                client,
                subscriptions,
            } => {
                for (filter, reason) in subscriptions {
                    if let (Some(filter), false) = (filter, reason.is_error()) {
                        let qos = reason.as_u8();
                        let line = format!("{seconds}: {} {qos} {filter}", client.id);
                        tenant.tell_log(LogTopic::Subscribe, line);
                    }
                }
            }
            Event::Unsubscribed { client, filter } => {
                let line = format!("{seconds}: {} {filter}", client.id);
                tenant.tell_log(LogTopic::Unsubscribe, line);
            }
            _ => {}
        }
    }
}
