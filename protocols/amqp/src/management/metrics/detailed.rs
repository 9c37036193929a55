//! `/metrics/detailed`: one series for each thing, of the families that somebody asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use longtail_web::Query;

use super::sums::{alarms, churn, limits, usage};
use super::{Page, Series, all_vhosts, consumer_counts, depths, identity, queue_figures, sizes};
use crate::census::Seen;
use crate::management::http::Failed;
use crate::management::{Management, overview};
use crate::session::{ChannelState, Drawn};
use crate::tally;

const DETAILED: &str = "rabbitmq_detailed_";

/// Families that are asked for, of the vhosts that are asked for.
pub(super) async fn detailed(m: &Management, query: &Query) -> Result<Page, Failed> {
    let mut page = Page::default();
    identity(m, "detailed", DETAILED, &mut page);
    let wanted: Vec<&str> = query.all("vhost").collect();
    let mut vhosts = all_vhosts(m);
    vhosts.retain(|(vhost, _)| wanted.is_empty() || wanted.contains(&&**vhost));
    // Each once: a series that is there twice makes a page that nobody reads.
    let families: BTreeSet<&str> = query.all("family").collect();
    for family in families {
        match family {
            "queue_coarse_metrics" => {
                depths(&queue_figures(m, &vhosts).await?, DETAILED, &mut page);
            }
            "queue_metrics" => {
                let figures = queue_figures(m, &vhosts).await?;
                sizes(&figures, DETAILED, &mut page);
                for queue in &figures {
                    let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
                    page.counter(
                        &format!("{DETAILED}queue_messages_published_total"),
                        "Total number of messages published to queues",
                        &labels,
                        queue.published,
                    );
                }
            }
            "queue_consumer_count" => {
                let figures = queue_figures(m, &vhosts).await?;
                consumer_counts(&figures, DETAILED, &mut page);
            }
            "vhost_status" => {
                for (vhost, _) in &vhosts {
                    let labels = [("vhost", &**vhost)];
                    let name = format!("{DETAILED}cluster_vhost_status");
                    page.gauge(&name, "Whether a given vhost is running", &labels, 1);
                }
            }
            "exchange_bindings" => {
                for (vhost, space) in &vhosts {
                    let topology = m.topology_of(space).await?;
                    let graph = topology.graph();
                    for (exchange, known) in graph.exchanges() {
                        let labels = [
                            ("vhost", &**vhost),
                            ("exchange", &**exchange),
                            ("type", known.config.type_name()),
                        ];
                        page.gauge(
                            &format!("{DETAILED}exchange_bindings"),
                            "Number of bindings for an exchange",
                            &labels,
                            known.bindings().count() as u64,
                        );
                    }
                }
            }
            "connection_coarse_metrics" => octets(&seen(m, &vhosts), &mut page),
            "connection_metrics" => connections(&seen(m, &vhosts), &mut page),
            "channel_metrics" => channels(&seen(m, &vhosts), &mut page),
            "channel_exchange_metrics" => published(&seen(m, &vhosts), &mut page),
            "channel_queue_metrics" => drawn(&seen(m, &vhosts), &mut page),
            "connection_churn_metrics" => {
                churn(m, &m.tenant.census().totals(), DETAILED, &mut page);
            }
            "node_coarse_metrics" => usage(m, &overview::process(m), DETAILED, &mut page),
            "node_metrics" => limits(m, &overview::process(m), DETAILED, &mut page),
            "alarm_metrics" => alarms(m, DETAILED, &mut page),
            _ => {}
        }
    }
    Ok(page)
}

/// Who is connected to these vhosts.
fn seen(m: &Management, vhosts: &[(Arc<str>, Arc<str>)]) -> Vec<Seen> {
    let mut all = m.tenant.census().all();
    all.retain(|seen| vhosts.iter().any(|(vhost, _)| *vhost == seen.state.vhost));
    all
}

/// Each channel of each connection, and what it is called.
fn each_channel(all: &[Seen]) -> impl Iterator<Item = (String, &Seen, &ChannelState)> {
    all.iter().flat_map(|seen| {
        let channels = seen.state.channels.iter();
        channels.map(move |channel| {
            let name = format!("{} ({})", seen.name, channel.number);
            (name, seen, channel)
        })
    })
}

fn channels(all: &[Seen], page: &mut Page) {
    let each: [Series<ChannelState>; 7] = [
        ("channel_consumers", "Consumers on a channel", |channel| {
            channel.consumers.len() as u64
        }),
        (
            "channel_messages_unacked",
            "Delivered but not yet acknowledged messages",
            |channel| channel.unacked,
        ),
        (
            "channel_messages_unconfirmed",
            "Published but not yet confirmed messages",
            |channel| channel.unconfirmed,
        ),
        (
            "channel_messages_uncommitted",
            "Messages received in a transaction but not yet committed",
            |channel| channel.staged.0,
        ),
        (
            "channel_acks_uncommitted",
            "Message acknowledgements in a transaction not yet committed",
            |channel| channel.staged.1,
        ),
        (
            "channel_prefetch",
            "Total limit of unacknowledged messages for all consumers on a channel",
            |channel| channel.shared_prefetch.into(),
        ),
        (
            "channel_consumers_prefetch",
            "Limit of unacknowledged messages for each new consumer on a channel",
            |channel| channel.prefetch.into(),
        ),
    ];
    for (name, help, of) in each {
        for (id, _, channel) in each_channel(all) {
            let labels = [("channel", id.as_str())];
            page.gauge(&format!("{DETAILED}{name}"), help, &labels, of(channel));
        }
    }
}

/// What channels have published to exchanges.
fn published(all: &[Seen], page: &mut Page) {
    for (id, seen, channel) in each_channel(all) {
        for of in &channel.published {
            let labels = [
                ("channel", id.as_str()),
                ("vhost", &*seen.state.vhost),
                ("exchange", &*of.name),
            ];
            page.counter(
                &format!("{DETAILED}channel_messages_published_total"),
                "Total number of messages published into an exchange on a channel",
                &labels,
                of.counts[tally::exchange::IN],
            );
        }
    }
}

/// What queues have given to channels.
fn drawn(all: &[Seen], page: &mut Page) {
    let each: [Series<Drawn>; 6] = [
        (
            "channel_get_ack",
            "Total number of messages fetched with basic.get in manual acknowledgement mode",
            |of| of.counts[tally::queue::GET],
        ),
        (
            "channel_get",
            "Total number of messages fetched with basic.get in automatic acknowledgement mode",
            |of| of.counts[tally::queue::GET_NO_ACK],
        ),
        (
            "channel_messages_delivered_ack",
            "Total number of messages delivered to consumers in manual acknowledgement mode",
            |of| of.counts[tally::queue::DELIVER],
        ),
        (
            "channel_messages_delivered",
            "Total number of messages delivered to consumers in automatic acknowledgement mode",
            |of| of.counts[tally::queue::DELIVER_NO_ACK],
        ),
        (
            "channel_messages_redelivered",
            "Total number of messages redelivered to consumers",
            |of| of.counts[tally::queue::REDELIVER],
        ),
        (
            "channel_get_empty",
            "Total number of times basic.get operations fetched no message",
            |of| of.counts[tally::queue::GET_EMPTY],
        ),
    ];
    for (name, help, value) in each {
        for (id, seen, channel) in each_channel(all) {
            for of in &channel.drawn {
                let labels = [
                    ("channel", id.as_str()),
                    ("vhost", &*seen.state.vhost),
                    ("queue", &*of.name),
                ];
                let name = format!("{DETAILED}{name}_total");
                page.counter(&name, help, &labels, value(of));
            }
        }
    }
}

fn octets(all: &[Seen], page: &mut Page) {
    for seen in all {
        let labels = [("connection", &*seen.name)];
        page.counter(
            &format!("{DETAILED}connection_incoming_bytes_total"),
            "Total number of bytes received on a connection",
            &labels,
            seen.bytes_in,
        );
    }
    for seen in all {
        let labels = [("connection", &*seen.name)];
        page.counter(
            &format!("{DETAILED}connection_outgoing_bytes_total"),
            "Total number of bytes sent on a connection",
            &labels,
            seen.bytes_out,
        );
    }
}

fn connections(all: &[Seen], page: &mut Page) {
    for seen in all {
        let labels = [("connection", &*seen.name)];
        page.gauge(
            &format!("{DETAILED}connection_channels"),
            "Channels on a connection",
            &labels,
            seen.state.channels.len() as u64,
        );
    }
}
