//! What all APIs show: read from the service when somebody asks. Nothing is counted beforehand for it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use longtail_broker::ephemeral::DropReason;
use longtail_broker::message::SharedMessage;
use longtail_broker::retained::RetainedCursor;
use longtail_model::{DollarRule, Filter, Timestamp};

use super::request::{Asked, Trouble};
use super::{Api, ListenerFact};
use crate::census::{Census, Filters, SessionView, SubscriptionView};
use crate::codec::{Qos, TopicFilter, Version};
use crate::counters::Traffic;
use crate::sys::{Process, Sockets};

/// The furthest that a page may reach into a list: what is before it has to be held.
const REACH_MAX: usize = 100_000;

/// Retained messages that are looked at while the store is locked.
const STEP: usize = 256;

/// A part of a list, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// From 1.
    pub(super) number: usize,
    /// Entries.
    pub(super) size: usize,
}

impl Page {
    /// The one that a request asks for; the names of its parameters differ.
    ///
    /// # Errors
    /// When there can be none.
    pub(super) fn of(
        asked: &Asked,
        (number, size): (&str, &str),
        (default, max): (usize, usize),
    ) -> Result<Self, Trouble> {
        let page = Page {
            number: asked.query.number(number)?.unwrap_or(1),
            size: asked.query.number(size)?.unwrap_or(default),
        };
        if page.number == 0 {
            return Err(Trouble::Bad(format!("{number} is 1 at least")));
        }
        if page.size == 0 || page.size > max {
            return Err(Trouble::Bad(format!("{size} is 1 to {max}")));
        }
        if page.number.saturating_mul(page.size) > REACH_MAX {
            return Err(Trouble::Bad(format!(
                "pages reach {REACH_MAX} entries far: look for fewer"
            )));
        }
        Ok(page)
    }

    pub(super) fn skip(self) -> usize {
        (self.number - 1) * self.size
    }

    /// Whether there is more behind it.
    pub(super) fn has_next(self, count: usize) -> bool {
        self.number * self.size < count
    }
}

/// Which subscriptions.
#[derive(Clone, Debug, Default)]
pub(super) struct SubscriptionsWanted {
    pub(super) client: Option<String>,
    pub(super) qos: Option<Qos>,
    /// Without `$share/{group}/`.
    pub(super) filter: Option<String>,
    /// Those that get what is published to this topic, or whose filters lie within this filter.
    pub(super) within: Option<Filter>,
    pub(super) share: Option<String>,
}

impl SubscriptionsWanted {
    fn includes(&self, view: &SubscriptionView) -> bool {
        let plain = plain(&view.filter);
        self.client
            .as_deref()
            .is_none_or(|id| *view.client_id == *id)
            && self.qos.is_none_or(|qos| view.qos == qos)
            && self.filter.as_deref().is_none_or(|filter| plain == filter)
            && self
                .share
                .as_deref()
                .is_none_or(|share| view.share.as_deref() == Some(share))
            && self.within.as_ref().is_none_or(|within| {
                Filter::parse_mqtt(plain).is_ok_and(|filter| within.covers(&filter))
            })
    }
}

/// A filter without `$share/{group}/` and the like.
pub(super) fn plain(filter: &str) -> &str {
    TopicFilter::parse(filter).map_or(filter, |parsed| parsed.filter)
}

/// The number of a version on the wire.
pub(super) const fn level(version: Version) -> u8 {
    match version {
        Version::V31 => 3,
        Version::V311 => 4,
        Version::V5 => 5,
    }
}

/// What the client's version is called in CONNECT.
pub(super) fn protocol_name(view: &SessionView) -> &'static str {
    match view.version {
        Some(Version::V31) => "MQIsdp",
        _ => "MQTT",
    }
}

/// Everything that is counted.
pub(super) struct Figures {
    pub(super) census: Census,
    pub(super) traffic: Traffic,
    pub(super) topics: u64,
    pub(super) retained: u64,
    pub(super) dropped: u64,
    pub(super) dropped_by: Vec<(DropReason, u64)>,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) unproven: u64,
    pub(super) denied: u64,
    pub(super) connected_max: u64,
    pub(super) sockets: Sockets,
    pub(super) process: Process,
    /// Milliseconds since the start.
    pub(super) uptime_ms: u64,
}

impl Figures {
    pub(super) fn connected(&self) -> u64 {
        self.census.connected.iter().sum()
    }
}

/// Messages a second, from one look to the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    at: Timestamp,
    totals: [u64; 3],
    rates: [u64; 3],
}

impl Rates {
    /// Received, sent and dropped a second, between this look and one that is a second old at least.
    fn look(&mut self, now: Timestamp, totals: [u64; 3]) -> [u64; 3] {
        let ms = now.0.saturating_sub(self.at.0);
        if ms >= 1000 {
            let first = self.at == Timestamp(0);
            self.rates = std::array::from_fn(|n| {
                let (before, after) = (self.totals[n], totals[n]);
                let more = if first {
                    0
                } else {
                    after.saturating_sub(before)
                };
                more * 1000 / ms
            });
            (self.at, self.totals) = (now, totals);
        }
        self.rates
    }
}

/// A listener, with its sockets.
pub(super) struct ListenerView {
    pub(super) fact: ListenerFact,
    pub(super) sockets: Sockets,
}

impl Api {
    /// A page of the subscriptions that are wanted, and how many there are.
    pub(super) async fn subscriptions(
        &self,
        wanted: &SubscriptionsWanted,
        page: Page,
    ) -> (Vec<SubscriptionView>, usize) {
        let (mut found, mut count) = (Vec::new(), 0);
        let mut look = |view: SubscriptionView| {
            if wanted.includes(&view) {
                count += 1;
                if count > page.skip() && found.len() < page.size {
                    found.push(view);
                }
            }
        };
        match &wanted.client {
            Some(id) => {
                let found = self.subscriptions_of(id).await;
                found.into_iter().flatten().for_each(&mut look);
            }
            None => self.tenant.look_at_subscriptions(look),
        }
        (found, count)
    }

    /// The subscriptions of one client; `None`: there is no such client.
    pub(super) async fn subscriptions_of(&self, client_id: &str) -> Option<Vec<SubscriptionView>> {
        self.tenant
            .await_subscriptions(client_id, &Filters::default(), None, usize::MAX)
            .await
    }

    /// The filters that somebody is subscribed to, with how many are.
    pub(super) fn topics(&self) -> BTreeMap<String, u64> {
        let mut topics = BTreeMap::new();
        self.tenant.look_at_subscriptions(|view| {
            *topics.entry(plain(&view.filter).to_owned()).or_insert(0) += 1;
        });
        topics
    }

    /// A page of the retained messages whose topics match, and how many there are.
    pub(super) fn retained(&self, filter: Filter, page: Page) -> (Vec<SharedMessage>, usize) {
        let (store, now) = (&self.tenant.space().retained, self.tenant.now());
        let mut cursor = RetainedCursor::new(filter, DollarRule::Match);
        let (mut found, mut count, mut more) = (Vec::new(), 0, true);
        while more {
            let mut step = Vec::new();
            more = cursor.step(store, now, STEP, &mut step);
            for message in step {
                count += 1;
                if count > page.skip() && found.len() < page.size {
                    found.push(message);
                }
            }
        }
        (found, count)
    }

    /// Everything that is counted.
    pub(super) fn figures(&self) -> Figures {
        let tenant = &self.tenant;
        // First: the sessions hand over what they have counted.
        let census = tenant.census();
        let (counters, space) = (tenant.counters(), tenant.space());
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let by = |reason: &DropReason| {
            (
                *reason,
                space.counters.dropped(*reason) + counters.dropped(*reason),
            )
        };
        let dropped_by: Vec<_> = DropReason::ALL.iter().map(by).collect();
        let host = tenant.sys().host();
        Figures {
            census,
            traffic: counters.traffic(),
            topics: self.topics().len() as u64,
            retained: space.retained.len() as u64,
            dropped: dropped_by.iter().map(|(_, count)| count).sum(),
            dropped_by,
            accepted: load(&counters.accepted),
            refused: load(&counters.refused),
            unproven: load(&counters.unproven),
            denied: load(&counters.denied),
            connected_max: load(&counters.connected_max),
            sockets: host.map(|host| host.sockets()).unwrap_or_default(),
            process: host.and_then(|host| host.process()).unwrap_or_default(),
            uptime_ms: tenant.now().0.saturating_sub(tenant.sys().started().0),
        }
    }

    /// Received, sent and dropped messages a second.
    pub(super) fn rates(&self, figures: &Figures) -> [u64; 3] {
        let totals = [
            figures.traffic.received(),
            figures.traffic.sent(),
            figures.dropped,
        ];
        self.rates.lock().look(self.tenant.now(), totals)
    }

    /// The listeners of MQTT.
    pub(super) fn listeners(&self) -> Vec<ListenerView> {
        let host = self.tenant.sys().host();
        let sockets = host.map(|host| host.listeners()).unwrap_or_default();
        let facts = self.facts().listeners.into_iter();
        let of_mqtt = facts.filter(ListenerFact::is_mqtt).map(|fact| {
            let known = sockets.iter().find(|(address, _)| *address == fact.address);
            ListenerView {
                sockets: known.map(|(_, sockets)| *sockets).unwrap_or_default(),
                fact,
            }
        });
        of_mqtt.collect()
    }
}

/// `15 Hours, 1 minutes, 38 seconds`, and days in front where there are some.
pub(super) fn span(ms: u64, hours: &str) -> String {
    let seconds = ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let rest = format!(
        "{} {hours}, {} minutes, {} seconds",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    );
    if days == 0 {
        rest
    } else {
        format!("{days} days, {rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_between_two_looks() {
        let mut rates = Rates::default();
        assert_eq!(rates.look(Timestamp(10_000), [100, 0, 0]), [0, 0, 0]);
        assert_eq!(rates.look(Timestamp(12_000), [300, 10, 1]), [100, 5, 0]);
        // Too soon: what was seen last.
        assert_eq!(rates.look(Timestamp(12_100), [900, 10, 1]), [100, 5, 0]);
    }

    #[test]
    fn subscriptions_are_looked_for_by_what_they_match() {
        let view = |filter: &str, share: Option<&str>| SubscriptionView {
            client_id: "c".into(),
            filter: filter.into(),
            share: share.map(Into::into),
            qos: Qos::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            id: None,
        };
        let within = SubscriptionsWanted {
            within: Filter::parse_mqtt("a/#").ok(),
            ..SubscriptionsWanted::default()
        };
        assert!(within.includes(&view("a/+", None)) && !within.includes(&view("+/b", None)));
        assert!(within.includes(&view("$share/g/a/b", Some("g"))));
        let shared = SubscriptionsWanted {
            share: Some("g".to_owned()),
            filter: Some("a/b".to_owned()),
            ..SubscriptionsWanted::default()
        };
        assert!(shared.includes(&view("$share/g/a/b", Some("g"))));
        assert!(!shared.includes(&view("a/b", None)));
    }
}
