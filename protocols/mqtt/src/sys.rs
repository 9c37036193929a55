//! `$SYS`: what the server says of itself, under the topics of Mosquitto and of Mochi MQTT.
//!
//! The values live in a store of their own, in memory: new subscribers find them like retained messages, and nothing of
//! them is ever logged. They are looked at every so many seconds, by the thread that minds the time, and published where
//! they have changed. Where both brokers have the same topic with different meanings, it has Mosquitto's.

pub(crate) mod log;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use longtail_broker::Space;
use longtail_broker::ephemeral::{Burst, DropReason, SpaceRoutes};
use longtail_broker::message::{Message, Quality};
use longtail_broker::retained::{RetainedLimits, RetainedStore};
use longtail_broker::router::Chance;
use longtail_model::{Subject, Timestamp};
use parking_lot::Mutex;
use std::sync::atomic::Ordering;

use crate::census::Census;
use crate::counters::{Counters, Traffic};
use crate::tenant::Tenant;

pub use log::LogTopic;

/// What the process and its sockets say. Without a host, `$SYS` has none of it.
pub trait Host: Send + Sync + 'static {
    /// The sockets of the service.
    fn sockets(&self) -> Sockets;

    /// The process, where the system says something about it.
    fn process(&self) -> Option<Process>;

    /// The sockets of each listener, by its address.
    fn listeners(&self) -> Vec<(String, Sockets)> {
        Vec::new()
    }
}

/// The sockets of all listeners of the service. All but `open` count since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Open now.
    pub open: u64,
    /// Accepted.
    pub accepted: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
}

/// The process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// The most that it ever was.
    pub resident_bytes_max: u64,
    /// Threads.
    pub threads: u64,
}

/// The values, and when they are looked at next.
pub(crate) struct Sys {
    interval_ms: u64,
    started: Timestamp,
    store: RetainedStore,
    host: OnceLock<Arc<dyn Host>>,
    state: Mutex<State>,
}

struct State {
    next: Timestamp,
    last: Option<(Timestamp, Totals)>,
    load: [[f64; PERIODS.len()]; RATES.len()],
}

/// Everything that a look sees.
struct Seen {
    now: Timestamp,
    started: Timestamp,
    census: Census,
    traffic: Traffic,
    dropped: u64,
    retained: u64,
    retained_bytes: u64,
    expired: u64,
    maximum: u64,
    logins: u64,
    sockets: Option<Sockets>,
    process: Option<Process>,
}

/// What rates are made of: totals at one moment, in the order of [`RATES`].
type Totals = [u64; RATES.len()];

/// What Mosquitto keeps averages of.
const RATES: [&str; 9] = [
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "bytes/received",
    "bytes/sent",
    "sockets",
    "connections",
];

/// Over which time: name and seconds.
const PERIODS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// The rates that need a [`Host`].
const OF_SOCKETS: [&str; 3] = ["bytes/received", "bytes/sent", "sockets"];

/// A topic, and where its number comes from.
type Value<T> = (&'static str, fn(&T) -> u64);

/// What is a number, by its topic under `$SYS/broker/`.
const VALUES: &[Value<Seen>] = &[
    ("started", |seen| seen.started.0 / 1000),
    ("time", |seen| seen.now.0 / 1000),
    ("clients/total", |seen| seen.census.sessions()),
    ("clients/connected", Seen::connected),
    ("clients/active", Seen::connected),
    ("clients/disconnected", |seen| seen.census.away),
    ("clients/inactive", |seen| seen.census.away),
    ("clients/maximum", |seen| seen.maximum),
    ("clients/expired", |seen| seen.expired),
    ("messages/received", |seen| seen.traffic.packets_in),
    ("messages/sent", |seen| seen.traffic.packets_out),
    ("messages/stored", Seen::stored),
    ("messages/dropped", |seen| seen.dropped),
    ("messages/inflight", |seen| seen.census.in_flight),
    ("packets/received", |seen| seen.traffic.packets_in),
    ("packets/sent", |seen| seen.traffic.packets_out),
    ("store/messages/count", Seen::stored),
    ("store/messages/bytes", |seen| {
        seen.retained_bytes + seen.census.queued_bytes
    }),
    ("subscriptions", |seen| seen.census.subscriptions),
    ("subscriptions/count", |seen| seen.census.subscriptions),
    ("shared_subscriptions/count", |seen| seen.census.shared),
    ("retained", |seen| seen.retained),
    ("retained messages/count", |seen| seen.retained),
    ("publish/messages/received", |seen| seen.traffic.received()),
    ("publish/messages/sent", |seen| seen.traffic.sent()),
    ("publish/messages/dropped", |seen| seen.dropped),
    ("publish/bytes/received", |seen| seen.traffic.bytes_in),
    ("publish/bytes/sent", |seen| seen.traffic.bytes_out),
    ("packet/out/bytes", |seen| seen.census.outbox_bytes),
];

/// The same for what a [`Host`] says of sockets.
const SOCKETS: &[Value<Sockets>] = &[
    ("bytes/received", |sockets| sockets.bytes_in),
    ("bytes/sent", |sockets| sockets.bytes_out),
    ("load/bytes/received", |sockets| sockets.bytes_in),
    ("load/bytes/sent", |sockets| sockets.bytes_out),
    ("connections/socket/count", |sockets| sockets.open),
];

/// And of the process.
const PROCESS: &[Value<Process>] = &[
    ("heap/current", |process| process.resident_bytes),
    ("heap/maximum", |process| process.resident_bytes_max),
    ("system/memory", |process| process.resident_bytes),
    ("system/threads", |process| process.threads),
];

impl Sys {
    pub(crate) fn new(interval_s: u32, now: Timestamp) -> Self {
        Sys {
            interval_ms: u64::from(interval_s) * 1000,
            started: now,
            store: RetainedStore::new(RetainedLimits::default()),
            host: OnceLock::new(),
            state: Mutex::new(State {
                next: now,
                last: None,
                load: Default::default(),
            }),
        }
    }

    pub(crate) fn set_host(&self, host: Arc<dyn Host>) {
        // Only the first is heard.
        let _ = self.host.set(host);
    }

    /// What the process and its sockets say.
    pub(crate) fn host(&self) -> Option<&Arc<dyn Host>> {
        self.host.get()
    }

    /// When the service was started.
    pub(crate) fn started(&self) -> Timestamp {
        self.started
    }

    /// What `$SYS` says now, by topics below `$SYS/broker/`, but for averages.
    pub(crate) fn values(&self, tenant: &Tenant) -> Vec<(String, String)> {
        self.look(tenant, tenant.now()).values()
    }

    /// What new subscribers are shown.
    pub(crate) fn store(&self) -> &RetainedStore {
        &self.store
    }

    /// Looks at everything, if it is time to.
    pub(crate) fn mind_the_time(&self, tenant: &Tenant, now: Timestamp) {
        let mut state = self.state.lock();
        if self.interval_ms == 0 || now < state.next {
            return;
        }
        state.next = now.plus_millis(self.interval_ms);
        let seen = self.look(tenant, now);
        let mut values = seen.values();
        state.average(&seen, &mut values);
        drop(state);
        let mut publisher = Publisher {
            store: &self.store,
            space: tenant.space(),
            burst: Burst::new(&tenant.space().counters),
            now,
        };
        for (topic, value) in values {
            publisher.say(&topic, value);
        }
    }

    fn look(&self, tenant: &Tenant, now: Timestamp) -> Seen {
        // First: the sessions hand over what they have counted.
        let census = tenant.census();
        let (counters, space) = (tenant.counters(), tenant.space());
        let of = |counter: fn(&Counters) -> &std::sync::atomic::AtomicU64| {
            counter(counters).load(Ordering::Relaxed)
        };
        let host = self.host.get();
        Seen {
            now,
            started: self.started,
            census,
            traffic: counters.traffic(),
            dropped: DropReason::ALL
                .iter()
                .map(|reason| space.counters.dropped(*reason) + counters.dropped(*reason))
                .sum(),
            retained: (space.retained.len() + self.store.len()) as u64,
            retained_bytes: space.retained.bytes() + self.store.bytes(),
            expired: of(|counters| &counters.expired),
            maximum: of(|counters| &counters.connected_max),
            logins: of(|counters| &counters.accepted) + of(|counters| &counters.refused),
            sockets: host.map(|host| host.sockets()),
            process: host.and_then(|host| host.process()),
        }
    }
}

impl Seen {
    fn connected(&self) -> u64 {
        self.census.connected.iter().sum()
    }

    fn stored(&self) -> u64 {
        self.retained + self.census.queued
    }

    fn totals(&self) -> Totals {
        let sockets = self.sockets.unwrap_or_default();
        [
            self.traffic.packets_in,
            self.traffic.packets_out,
            self.dropped,
            self.traffic.received(),
            self.traffic.sent(),
            sockets.bytes_in,
            sockets.bytes_out,
            sockets.accepted,
            self.logins,
        ]
    }

    fn values(&self) -> Vec<(String, String)> {
        let text = |value: u64| value.to_string();
        let mut values: Vec<(String, String)> = vec![
            (
                "version".to_owned(),
                concat!("Longtail ", env!("CARGO_PKG_VERSION")).to_owned(),
            ),
            ("uptime".to_owned(), {
                let seconds = self.now.0.saturating_sub(self.started.0) / 1000;
                format!("{seconds} seconds")
            }),
        ];
        values.extend(
            VALUES
                .iter()
                .map(|(topic, value)| ((*topic).to_owned(), text(value(self)))),
        );
        if let Some(sockets) = &self.sockets {
            values.extend(
                SOCKETS
                    .iter()
                    .map(|(topic, value)| ((*topic).to_owned(), text(value(sockets)))),
            );
        }
        if let Some(process) = &self.process {
            values.extend(
                PROCESS
                    .iter()
                    .map(|(topic, value)| ((*topic).to_owned(), text(value(process)))),
            );
        }
        values
    }
}

impl State {
    /// Mosquitto's averages: events a minute, each look weighing in with the part of the period that it covers.
    #[allow(
        clippy::cast_precision_loss,
        reason = "counts of a few seconds, shown with two digits"
    )]
    fn average(&mut self, seen: &Seen, values: &mut Vec<(String, String)>) {
        let totals = seen.totals();
        let last = self.last.replace((seen.now, totals));
        let Some((then, before)) = last.filter(|(then, _)| *then < seen.now) else {
            return;
        };
        let seconds = (seen.now.0 - then.0) as f64 / 1000.0;
        let rates = RATES.iter().zip(&mut self.load);
        for ((name, load), (total, before)) in rates.zip(totals.iter().zip(before)) {
            if seen.sockets.is_none() && OF_SOCKETS.contains(name) {
                continue;
            }
            let a_minute = total.saturating_sub(before) as f64 * 60.0 / seconds;
            for ((period, length), value) in PERIODS.iter().zip(load) {
                *value = a_minute + (-seconds / length).exp() * (*value - a_minute);
                values.push((format!("load/{name}/{period}"), format!("{value:.2}")));
            }
        }
    }
}

/// Tells the subscribers what has changed.
struct Publisher<'p> {
    store: &'p RetainedStore,
    space: &'p Space,
    burst: Burst<'p>,
    now: Timestamp,
}

impl Publisher<'_> {
    fn say(&mut self, topic: &str, value: String) {
        let Ok(subject) = Subject::parse_mqtt(&format!("$SYS/broker/{topic}")) else {
            return;
        };
        let before = self.store.get(&subject, self.now);
        if before.is_some_and(|before| before.payload == value.as_bytes()) {
            return;
        }
        let message = Arc::new(Message {
            published: self.now,
            quality: Quality::AtMostOnce,
            retain: true,
            ..Message::new(subject, Bytes::from(value))
        });
        // First: who subscribes just now finds it, perhaps twice.
        if let Err(error) = self.store.set(Arc::clone(&message), Box::new(|_| {})) {
            tracing::warn!(topic, %error, "a value of $SYS is not kept");
        }
        // To live subscribers only, whatever streams are bound to: this is not logged.
        let router = &self.space.router;
        if router.has_interest(message.subject.as_ref()) {
            let mut routes = SpaceRoutes::default();
            router.routes(message.subject.as_ref(), &mut routes);
            let chance = Chance::of(&message, self.now.0);
            self.burst.publish(&routes, &message, &chance, self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(now_ms: u64, packets_in: u64) -> Seen {
        Seen {
            now: Timestamp(now_ms),
            started: Timestamp(0),
            census: Census::default(),
            traffic: Traffic {
                packets_in,
                ..Traffic::default()
            },
            dropped: 0,
            retained: 0,
            retained_bytes: 0,
            expired: 0,
            maximum: 0,
            logins: 0,
            sockets: None,
            process: None,
        }
    }

    #[test]
    fn a_steady_rate_is_its_own_average() {
        let mut state = State {
            next: Timestamp(0),
            last: None,
            load: Default::default(),
        };
        let mut values = Vec::new();
        for look in 0..1000 {
            values.clear();
            // 50 every 10 seconds are 300 a minute.
            state.average(&seen(look * 10_000, look * 50), &mut values);
        }
        let load = |topic: &str| {
            let found = values.iter().find(|(known, _)| known == topic);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(load("load/messages/received/1min"), Some("300.00"));
        assert_eq!(load("load/messages/received/15min"), Some("300.00"));
        assert_eq!(load("load/messages/sent/1min"), Some("0.00"));
        assert_eq!(
            load("load/bytes/sent/1min"),
            None,
            "nobody knows the sockets"
        );
    }

    #[test]
    fn the_topics_of_mosquitto_and_mochi_are_there() {
        let mut seen = seen(65_000, 7);
        seen.sockets = Some(Sockets::default());
        seen.process = Some(Process::default());
        let values = seen.values();
        let value = |topic: &str| {
            let found = values.iter().find(|(known, _)| known == topic);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("uptime"), Some("65 seconds"));
        assert_eq!(value("messages/received"), Some("7"));
        for topic in [
            "version",
            "started",
            "time",
            "clients/maximum",
            "retained messages/count",
            "heap/maximum",
            "bytes/sent",
            "load/bytes/sent",
            "system/threads",
            "connections/socket/count",
        ] {
            assert!(value(topic).is_some(), "{topic}");
        }
    }
}
