//! A test fixture: a broker of its own for every test, started in a few milliseconds, that tells what happened in it.

use std::error::Error;
use std::time::{Duration, Instant};

use longtail::Longtail;
use longtail::mqtt::codec::ReasonCode;
use longtail::mqtt::hooks::{Event, Events};
use longtail::mqtt::{LocalClient, Points, Publication};

/// A broker for one test. Nothing of it is left when it is dropped.
#[allow(
    dead_code,
    reason = "each program that includes this uses what it needs"
)]
pub(crate) struct Fixture {
    /// Where the program under test connects to.
    pub(crate) address: String,
    /// A client that may do everything.
    pub(crate) client: LocalClient,
    events: Events,
    _broker: Longtail,
}

impl Fixture {
    /// Starts it, on a port that is free.
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let broker = Longtail::builder()
            .in_memory()
            .mqtt("127.0.0.1:0".parse()?)
            .start()?;
        let mqtt = broker.mqtt().ok_or("started above")?;
        Ok(Fixture {
            address: broker.addresses()[0].address.clone(),
            client: mqtt.client("test"),
            events: mqtt.hooks().events(Points::EVENTS, 10_000),
            _broker: broker,
        })
    }

    /// What was published since this was last asked, with what the publisher was told.
    pub(crate) fn published(&mut self) -> Vec<(String, ReasonCode)> {
        let events = std::iter::from_fn(|| self.events.try_recv());
        let published = events.filter_map(|event| match event {
            Event::Published {
                message, reason, ..
            } => Some((message.subject.to_string(), reason)),
            _ => None,
        });
        published.collect()
    }
}

/// Starts a fixture and uses it; says how long the start took.
pub(crate) fn run() -> Result<Duration, Box<dyn Error>> {
    let before = Instant::now();
    let mut fixture = Fixture::start()?;
    let took = before.elapsed();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(fixture.client.publish(Publication::new("lost", "x")))?;
    let mut following = fixture.client.follow("found", 10)?;
    runtime.block_on(fixture.client.publish(Publication::new("found", "x")))?;
    assert!(following.try_recv().is_some());
    let expected = [
        ("lost".to_owned(), ReasonCode::NoMatchingSubscribers),
        ("found".to_owned(), ReasonCode::Success),
    ];
    assert_eq!(fixture.published(), expected);
    Ok(took)
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("started in {:?}", run()?);
    Ok(())
}
