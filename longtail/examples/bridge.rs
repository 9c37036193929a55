//! A bridge written with hooks: what is published below some topic of one broker is published at another one too, and
//! back, and nothing goes in circles.
//!
//! The hook only notes what has happened; a task of its own carries it over, as a hook must not wait.

use std::error::Error;
use std::sync::Arc;

use longtail::mqtt::hooks::{Event, Points, Scope};
use longtail::mqtt::{Hook, LocalClient, Publication};
use longtail::{Longtail, Message};
use tokio::sync::mpsc;

/// The user property that says that a message came over a bridge.
const CROSSED: &str = "bridged";

/// Notes what is to cross. The queue is bounded: what does not fit is lost, as at QoS 0.
pub(crate) struct Crossing {
    below: String,
    queue: mpsc::Sender<Arc<Message>>,
}

impl Hook for Crossing {
    fn name(&self) -> &str {
        "bridge"
    }

    fn points(&self) -> Points {
        Points::PUBLISHED
    }

    fn notify(&self, event: &Event) {
        if let Event::Published { message, .. } = event
            && message.subject.as_str().starts_with(&self.below)
            && message.headers.get(CROSSED.as_bytes()).is_none()
            && self.queue.try_send(Arc::clone(message)).is_err()
        {
            eprintln!("the bridge is full: {} is lost", message.subject);
        }
    }
}

/// Carries what is published below `below` at `from` over to `to`, until `from` ends.
pub(crate) async fn carry(
    from: &Longtail,
    to: LocalClient,
    below: &str,
) -> Result<(), Box<dyn Error>> {
    let (queue, mut crossing) = mpsc::channel::<Arc<Message>>(10_000);
    let hook = Crossing {
        below: below.to_owned(),
        queue,
    };
    let hooks = from.mqtt().ok_or("no MQTT service")?.hooks();
    hooks.add(Arc::new(hook), 0, Scope::Everywhere);
    tokio::spawn(async move {
        while let Some(message) = crossing.recv().await {
            let mut copy = Publication::new(message.subject.as_str(), message.payload.clone());
            copy.retain = message.retain;
            if let Err(error) = to.publish(copy.property(CROSSED, "1")).await {
                eprintln!("{} did not cross: {error}", message.subject);
            }
        }
    });
    Ok(())
}

/// Two brokers and a bridge in both directions.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let start = || Longtail::builder().in_memory().mqtt_in_process().start();
    let (left, right) = (start()?, start()?);
    let client = |broker: &Longtail| broker.mqtt().map(|mqtt| mqtt.client("bridge"));
    let (Some(at_left), Some(at_right)) = (client(&left), client(&right)) else {
        return Err("no MQTT service".into());
    };
    carry(&left, at_right.clone(), "shared/").await?;
    carry(&right, at_left.clone(), "shared/").await?;

    let mut arrived_right = at_right.follow("#", 10)?;
    let mut arrived_left = at_left.follow("#", 10)?;
    at_left.publish(Publication::new("own/1", "stays")).await?;
    at_left
        .publish(Publication::new("shared/1", "to the right"))
        .await?;
    let message = arrived_right.recv().await.ok_or("the end")?;
    assert_eq!(message.payload, "to the right");
    at_right
        .publish(Publication::new("shared/2", "to the left"))
        .await?;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let message = arrived_left.recv().await.ok_or("the end")?;
        seen.push(message.subject.to_string());
    }
    assert_eq!(seen, ["own/1", "shared/1", "shared/2"], "nothing came back");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(run())
}
