//! The subscriptions whose messages take longest, at QoS 1 and 2, by client and topic.
//!
//! A message is on its way from when it was published to when the client has acknowledged it; what of that counts is a
//! setting. Messages at QoS 0 are not acknowledged, and not looked at.

use std::collections::HashMap;
use std::sync::Arc;

use longtail_engine::runtime::Clock;
use longtail_model::Timestamp;
use parking_lot::Mutex;

use super::Switch;
use crate::codec::PacketId;
use crate::hooks::{Event, FlightChange, Hook, Hooks, Points, SessionChange};

/// Messages on their way that are remembered at a time. Further ones are not looked at.
const FLIGHTS_MAX: usize = 100_000;

/// Longest list.
pub const TOP_MAX: usize = 1000;

/// Which part of a message's way counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Span {
    /// From publishing to acknowledgement.
    #[default]
    Whole,
    /// From publishing to sending.
    Internal,
    /// From sending to acknowledgement.
    Response,
}

impl Span {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Span); 3] = [
        ("whole", Span::Whole),
        ("internal", Span::Internal),
        ("response", Span::Response),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Span::ALL.iter().find(|(_, span)| *span == self);
        found.map_or("", |(name, _)| name)
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = Span::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, span)| *span)
    }
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowConfig {
    /// Whether anything is.
    pub enabled: bool,
    /// Milliseconds from which on a message is slow.
    pub threshold_ms: u64,
    /// Milliseconds after which an entry is forgotten.
    pub expire_ms: u64,
    /// Entries that are kept: the slowest.
    pub top: usize,
    /// What counts.
    pub span: Span,
}

impl Default for SlowConfig {
    fn default() -> Self {
        SlowConfig {
            enabled: false,
            threshold_ms: 500,
            expire_ms: 300_000,
            top: 10,
            span: Span::Whole,
        }
    }
}

/// A slow subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowView {
    /// The client.
    pub client_id: Arc<str>,
    /// The topic of the message.
    pub topic: Arc<str>,
    /// How long the slowest message took, in milliseconds.
    pub ms: u64,
    /// When it was so slow last.
    pub at: Timestamp,
}

struct Flight {
    topic: Arc<str>,
    published: Timestamp,
    sent: Timestamp,
}

#[derive(Default)]
struct State {
    config: SlowConfig,
    flights: HashMap<Arc<str>, HashMap<PacketId, Flight>>,
    in_flight: usize,
    /// The slowest first.
    top: Vec<SlowView>,
}

struct Table {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

/// The slowest subscriptions of a tenant.
pub struct Slow {
    table: Arc<Table>,
    switch: Switch,
}

impl Slow {
    pub(crate) fn new(hooks: Arc<Hooks>, clock: Arc<dyn Clock>) -> Self {
        Slow {
            table: Arc::new(Table {
                state: Mutex::default(),
                clock,
            }),
            switch: Switch::new(hooks),
        }
    }

    /// What is looked for.
    #[must_use]
    pub fn config(&self) -> SlowConfig {
        self.table.state.lock().config
    }

    /// Looks for something else, or for nothing any more. The list keeps what is still among the slowest.
    pub fn configure(&self, config: SlowConfig) {
        {
            let mut state = self.table.state.lock();
            state.config = SlowConfig {
                top: config.top.min(TOP_MAX),
                ..config
            };
            if !config.enabled {
                state.flights = HashMap::new();
                state.in_flight = 0;
                state.top.clear();
            }
            let top = state.config.top;
            state.top.truncate(top);
        }
        self.switch.set(config.enabled, || Arc::clone(&self.table));
    }

    /// The slowest, the slowest first.
    #[must_use]
    pub fn list(&self) -> Vec<SlowView> {
        let mut state = self.table.state.lock();
        state.expire(self.table.clock.now());
        state.top.clone()
    }

    /// Forgets what was slow.
    pub fn clear(&self) {
        self.table.state.lock().top.clear();
    }
}

impl State {
    fn sent(&mut self, client: &Arc<str>, id: PacketId, flight: Flight) {
        let of_client = self.flights.get_mut(client);
        let known = of_client.is_some_and(|flights| flights.contains_key(&id));
        if !known && self.in_flight >= FLIGHTS_MAX {
            return;
        }
        let flights = self.flights.entry(Arc::clone(client)).or_default();
        if flights.insert(id, flight).is_none() {
            self.in_flight += 1;
        }
    }

    fn landed(&mut self, client: &Arc<str>, id: PacketId) -> Option<Flight> {
        let flights = self.flights.get_mut(client)?;
        let flight = flights.remove(&id)?;
        self.in_flight -= 1;
        if flights.is_empty() {
            self.flights.remove(client);
        }
        Some(flight)
    }

    fn gone(&mut self, client: &str) {
        if let Some(flights) = self.flights.remove(client) {
            self.in_flight -= flights.len();
        }
    }

    fn completed(&mut self, client: &Arc<str>, id: PacketId, now: Timestamp) {
        let Some(flight) = self.landed(client, id) else {
            return;
        };
        let (from, to) = match self.config.span {
            Span::Whole => (flight.published, now),
            Span::Internal => (flight.published, flight.sent),
            Span::Response => (flight.sent, now),
        };
        let ms = to.0.saturating_sub(from.0);
        if ms < self.config.threshold_ms {
            return;
        }
        self.expire(now);
        let known = self
            .top
            .iter()
            .position(|view| view.client_id == *client && view.topic == flight.topic);
        let mut view = SlowView {
            client_id: Arc::clone(client),
            topic: flight.topic,
            ms,
            at: now,
        };
        if let Some(at) = known {
            view.ms = view.ms.max(self.top.remove(at).ms);
        }
        let at = self.top.partition_point(|other| other.ms >= view.ms);
        self.top.insert(at, view);
        self.top.truncate(self.config.top);
    }

    fn expire(&mut self, now: Timestamp) {
        let expire_ms = self.config.expire_ms;
        self.top
            .retain(|view| now.0.saturating_sub(view.at.0) < expire_ms);
    }
}

impl Hook for Table {
    fn name(&self) -> &str {
        "slow subscriptions"
    }

    fn points(&self) -> Points {
        Points::IN_FLIGHT | Points::SESSION
    }

    fn notify(&self, event: &Event) {
        match event {
            Event::InFlight {
                client,
                packet_id,
                change,
            } => {
                let now = self.clock.now();
                let mut state = self.state.lock();
                match change {
                    FlightChange::Sent(message) | FlightChange::Resent(message) => {
                        let flight = Flight {
                            topic: message.subject.as_str().into(),
                            published: message.published,
                            sent: now,
                        };
                        state.sent(&client.id, *packet_id, flight);
                    }
                    FlightChange::Completed => state.completed(&client.id, *packet_id, now),
                    FlightChange::Dropped(_) => {
                        state.landed(&client.id, *packet_id);
                    }
                }
            }
            Event::Session {
                client_id,
                change: SessionChange::Discarded | SessionChange::Expired | SessionChange::Ended,
            } => self.state.lock().gone(client_id),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn state(config: SlowConfig) -> State {
        State {
            config,
            ..State::default()
        }
    }

    fn id(number: u16) -> PacketId {
        NonZeroU16::new(number).unwrap()
    }

    fn takes(
        state: &mut State,
        client: &str,
        topic: &str,
        (published, sent, done): (u64, u64, u64),
    ) {
        let client: Arc<str> = client.into();
        let flight = Flight {
            topic: topic.into(),
            published: Timestamp(published),
            sent: Timestamp(sent),
        };
        state.sent(&client, id(1), flight);
        state.completed(&client, id(1), Timestamp(done));
    }

    fn names(state: &State) -> Vec<(String, u64)> {
        let views = state.top.iter();
        views
            .map(|view| (view.client_id.to_string(), view.ms))
            .collect()
    }

    #[test]
    fn the_slowest_are_kept_each_with_its_slowest_message() {
        let mut state = state(SlowConfig {
            top: 2,
            ..SlowConfig::default()
        });
        takes(&mut state, "a", "t", (0, 0, 600));
        takes(&mut state, "b", "t", (0, 0, 499));
        takes(&mut state, "c", "t", (0, 0, 700));
        takes(&mut state, "a", "t", (0, 0, 500));
        takes(&mut state, "d", "t", (0, 0, 650));
        assert_eq!(
            names(&state),
            [("c".to_owned(), 700), ("d".to_owned(), 650)]
        );
        assert_eq!(state.in_flight, 0);
    }

    #[test]
    fn the_span_says_what_counts() {
        for (span, ms) in [
            (Span::Whole, 3000),
            (Span::Internal, 1000),
            (Span::Response, 2000),
        ] {
            let mut state = state(SlowConfig {
                span,
                ..SlowConfig::default()
            });
            takes(&mut state, "a", "t", (0, 1000, 3000));
            assert_eq!(names(&state), [("a".to_owned(), ms)], "{}", span.name());
            assert_eq!(Span::named(span.name()), Some(span));
        }
    }

    #[test]
    fn what_is_old_is_forgotten_and_a_session_that_ends_leaves_nothing() {
        let mut state = state(SlowConfig::default());
        takes(&mut state, "a", "t", (0, 0, 600));
        takes(&mut state, "b", "t", (400_000, 400_000, 400_600));
        assert_eq!(names(&state), [("b".to_owned(), 600)]);
        let flight = Flight {
            topic: "t".into(),
            published: Timestamp(0),
            sent: Timestamp(0),
        };
        state.sent(&"a".into(), id(7), flight);
        state.gone("a");
        assert_eq!((state.in_flight, state.flights.len()), (0, 0));
    }
}
