//! What went between a channel and an exchange or a queue: `publishes` and `deliveries` of a channel, `incoming` of an
//! exchange, `deliveries` of a queue.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Management;
use super::connections::channel_details;
use super::rates::{Ranges, Thing};
use crate::census::Seen;
use crate::session::{ChannelState, Drawn, Published};
use crate::tally::{exchange, queue};

/// A connection and one of its channels.
type At<'a> = (&'a Seen, &'a ChannelState);

/// What is counted of what went to an exchange.
const PUBLISHED: &[&str] = &["publish"];

/// What is counted of what came from a queue.
const DRAWN: &[&str] = &[
    "deliver",
    "deliver_no_ack",
    "get",
    "get_no_ack",
    "get_empty",
    "redeliver",
    "deliver_get",
];

fn published((seen, channel): At<'_>, of: &Published) -> (Thing, Vec<u64>) {
    let thing = Thing::Published(seen.number, channel.number, Arc::clone(&of.name));
    (thing, vec![of.counts[exchange::IN]])
}

fn drawn((seen, channel): At<'_>, of: &Drawn) -> (Thing, Vec<u64>) {
    let thing = Thing::Drawn(seen.number, channel.number, Arc::clone(&of.name));
    let mut numbers = of.counts.to_vec();
    let given = [
        queue::DELIVER,
        queue::DELIVER_NO_ACK,
        queue::GET,
        queue::GET_NO_ACK,
    ];
    numbers.push(given.iter().map(|&which| of.counts[which]).sum());
    (thing, numbers)
}

/// All that there is to sample of a channel.
pub(super) fn all(seen: &Seen, channel: &ChannelState) -> Vec<(Thing, Vec<u64>)> {
    let at = (seen, channel);
    let to = channel.published.iter().map(|of| published(at, of));
    to.chain(channel.drawn.iter().map(|of| drawn(at, of)))
        .collect()
}

fn stats(
    m: &Management,
    names: &[&str],
    (thing, numbers): &(Thing, Vec<u64>),
    ranges: &Ranges,
) -> Value {
    let past = m.rates.look(thing, m.now_ms(), numbers, ranges);
    let mut stats = Map::new();
    past.put_counts(&mut stats, names, 0, ranges.messages);
    Value::Object(stats)
}

/// Where a channel has published to.
pub(super) fn publishes(m: &Management, at: At<'_>, ranges: &Ranges) -> Value {
    let (seen, channel) = at;
    let shown = channel.published.iter().map(|of| {
        let stats = stats(m, PUBLISHED, &published(at, of), ranges);
        json!({"stats": stats, "exchange": {"name": *of.name, "vhost": *seen.state.vhost}})
    });
    shown.collect()
}

/// What queues have given to a channel.
pub(super) fn deliveries(m: &Management, at: At<'_>, ranges: &Ranges) -> Value {
    let (seen, channel) = at;
    let shown = channel.drawn.iter().map(|of| {
        let stats = stats(m, DRAWN, &drawn(at, of), ranges);
        json!({"stats": stats, "queue": {"name": *of.name, "vhost": *seen.state.vhost}})
    });
    shown.collect()
}

/// What each channel of a vhost has to say, with which one it is.
fn by_channel<'a>(
    m: &'a Management,
    all: &'a [Seen],
    vhost: &'a str,
    look: impl Fn(At<'a>) -> Option<Value>,
) -> Value {
    let there = all.iter().filter(|seen| *seen.state.vhost == *vhost);
    let channels = there.flat_map(|seen| seen.state.channels.iter().map(move |of| (seen, of)));
    let shown = channels.filter_map(|at| {
        let stats = look(at)?;
        Some(json!({"stats": stats, "channel_details": channel_details(m, at.0, at.1)}))
    });
    shown.collect()
}

/// What channels have published to an exchange.
pub(super) fn of_exchange(m: &Management, (vhost, name): (&str, &str), ranges: &Ranges) -> Value {
    let all = m.tenant.census().all();
    by_channel(m, &all, vhost, |at| {
        let of = at.1.published.iter().find(|of| *of.name == *name)?;
        Some(stats(m, PUBLISHED, &published(at, of), ranges))
    })
}

/// What a queue has given to channels.
pub(super) fn of_queue(m: &Management, (vhost, name): (&str, &str), ranges: &Ranges) -> Value {
    let all = m.tenant.census().all();
    by_channel(m, &all, vhost, |at| {
        let of = at.1.drawn.iter().find(|of| *of.name == *name)?;
        Some(stats(m, DRAWN, &drawn(at, of), ranges))
    })
}
