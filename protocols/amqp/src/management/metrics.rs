//! Metrics under RabbitMQ's names, for the dashboards that know those.
//!
//! `/metrics` sums up, `/metrics/per-object` names queues, channels and connections, `/metrics/detailed` has the families
//! that are asked for, of the vhosts that are asked for. Counters never go back: what is gone stays in the sums.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use longtail_web::Query;

use super::http::Failed;
use super::{Management, overview, parameters, queues};
use crate::letters::Reason;
use crate::session::ChannelState;

/// The text of the metrics so far.
#[derive(Default)]
struct Page {
    text: String,
    last: String,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Name, help, and what is shown of each thing.
type Series<T> = (&'static str, &'static str, fn(&T) -> u64);

impl Page {
    fn put(&mut self, kind: &str, name: &str, help: &str, labels: Labels<'_>, value: u64) {
        if self.last != name {
            // Writing to a string does not fail.
            let _ = writeln!(self.text, "# TYPE {name} {kind}\n# HELP {name} {help}");
            name.clone_into(&mut self.last);
        }
        self.text.push_str(name);
        if !labels.is_empty() {
            self.text.push('{');
            for (at, (key, value)) in labels.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                let _ = write!(self.text, "{comma}{key}=\"{}\"", escaped(value));
            }
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: u64) {
        self.put("gauge", name, help, labels, value);
    }

    fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, value: u64) {
        self.put("counter", name, help, labels, value);
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// A queue with its figures.
struct QueueFigures {
    vhost: Arc<str>,
    name: Arc<str>,
    ready: u64,
    unacked: u64,
    total: u64,
    bytes: u64,
    consumers: u64,
    published: u64,
}

async fn queue_figures(
    m: &Management,
    vhosts: &[(Arc<str>, Arc<str>)],
) -> Result<Vec<QueueFigures>, Failed> {
    let mut all = Vec::new();
    for (vhost, space) in vhosts {
        let infos = queues::infos(m, space).await?;
        for queue in queues::all(m, space).await? {
            let Some(info) = infos.get(&queue.name) else {
                continue;
            };
            all.push(QueueFigures {
                vhost: Arc::clone(vhost),
                name: Arc::clone(&queue.name),
                ready: info.ready,
                unacked: info.held,
                total: info.ready + info.held + info.delayed,
                bytes: info.bytes,
                consumers: queue.consumers().into(),
                published: info.appended,
            });
        }
    }
    Ok(all)
}

fn all_vhosts(m: &Management) -> Vec<(Arc<str>, Arc<str>)> {
    let directory = m.roster.directory();
    let mut all: Vec<_> = directory
        .spaces()
        .map(|space| (m.tenant.vhost_of(space), Arc::clone(space)))
        .collect();
    all.sort();
    all
}

/// Answers a scrape.
pub(super) async fn answer(State(m): State<Arc<Management>>, request: Request) -> Response {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let page = match request.uri().path().trim_end_matches('/') {
        "/metrics" => aggregated(&m, "aggregated").await,
        "/metrics/per-object" => per_object(&m).await,
        "/metrics/detailed" => detailed(&m, &query).await,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match page {
        Ok(page) => {
            let kind = [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )];
            (kind, page.text).into_response()
        }
        Err(failed) => failed.into_response(),
    }
}

fn identity(m: &Management, endpoint: &str, prefix: &str, page: &mut Page) {
    let (node, cluster) = (m.node(), parameters::name_of_cluster(m));
    page.gauge(
        &format!("{prefix}identity_info"),
        "RabbitMQ node & cluster identity info",
        &[
            ("rabbitmq_node", &node),
            ("rabbitmq_cluster", &cluster),
            ("rabbitmq_cluster_permanent_id", &cluster),
            ("rabbitmq_endpoint", endpoint),
        ],
        1,
    );
    page.gauge(
        &format!("{prefix}build_info"),
        "RabbitMQ & Erlang/OTP version info",
        &[
            ("rabbitmq_version", m.advertised()),
            ("prometheus_plugin_version", m.advertised()),
            ("prometheus_client_version", "0"),
            ("erlang_version", "none"),
            ("product_name", &m.tenant.config().product),
            ("product_version", &m.tenant.config().version),
        ],
        1,
    );
}

async fn aggregated(m: &Management, endpoint: &str) -> Result<Page, Failed> {
    let mut page = Page::default();
    identity(m, endpoint, "rabbitmq_", &mut page);
    let totals = m.tenant.census().totals();
    let counters = m.tenant.counters();
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (opened, channels) = (
        of(&counters.connections_total),
        of(&counters.channels_total),
    );
    let vhosts = all_vhosts(m);
    let figures = queue_figures(m, &vhosts).await?;
    let sum = |of: fn(&QueueFigures) -> u64| figures.iter().map(of).sum::<u64>();
    for (name, help, value) in [
        (
            "connections",
            "Connections currently open",
            totals.connections,
        ),
        ("channels", "Channels currently open", totals.channels),
        (
            "consumers",
            "Consumers currently connected",
            totals.consumers,
        ),
        ("queues", "Queues available", figures.len() as u64),
        (
            "queue_messages_ready",
            "Messages ready to be delivered to consumers",
            sum(|queue| queue.ready),
        ),
        (
            "queue_messages_unacked",
            "Messages delivered to consumers but not yet acknowledged",
            sum(|queue| queue.unacked),
        ),
        (
            "queue_messages",
            "Sum of ready and unacknowledged messages - total queue depth",
            sum(|queue| queue.total),
        ),
        (
            "queue_messages_bytes",
            "Size in bytes of ready and unacknowledged messages",
            sum(|queue| queue.bytes),
        ),
        (
            "queue_consumers",
            "Consumers on a queue",
            sum(|queue| queue.consumers),
        ),
    ] {
        page.gauge(&format!("rabbitmq_{name}"), help, &[], value);
    }
    let (counts, churn) = (&totals.counts, m.tenant.queue_churn());
    for (name, help, value) in [
        (
            "connections_opened",
            "Total number of connections opened",
            opened,
        ),
        (
            "connections_closed",
            "Total number of connections closed or terminated",
            opened.saturating_sub(totals.connections),
        ),
        (
            "channels_opened",
            "Total number of channels opened",
            channels,
        ),
        (
            "channels_closed",
            "Total number of channels closed",
            channels.saturating_sub(totals.channels),
        ),
        (
            "queues_declared",
            "Total number of queues declared",
            of(&churn.declared),
        ),
        (
            "queues_created",
            "Total number of queues created",
            of(&churn.created),
        ),
        (
            "queues_deleted",
            "Total number of queues deleted",
            of(&churn.deleted),
        ),
        (
            "channel_messages_published",
            "Total number of messages published into an exchange on a channel",
            counts.publish,
        ),
        (
            "channel_messages_confirmed",
            "Total number of messages published into an exchange and confirmed on the channel",
            counts.confirm,
        ),
        (
            "channel_messages_unroutable_returned",
            "Total number of messages published as mandatory into an exchange and returned to the publisher as \
             unroutable",
            counts.return_unroutable,
        ),
        (
            "channel_messages_unroutable_dropped",
            "Total number of messages published as non-mandatory into an exchange and dropped as unroutable",
            counts.drop_unroutable,
        ),
        (
            "channel_messages_delivered",
            "Total number of messages delivered to consumers in automatic acknowledgement mode",
            counts.deliver_no_ack,
        ),
        (
            "channel_messages_delivered_ack",
            "Total number of messages delivered to consumers in manual acknowledgement mode",
            counts.deliver,
        ),
        (
            "channel_messages_redelivered",
            "Total number of messages redelivered to consumers",
            counts.redeliver,
        ),
        (
            "channel_messages_acked",
            "Total number of messages acknowledged by consumers",
            counts.ack,
        ),
        (
            "channel_get",
            "Total number of messages fetched with basic.get in automatic acknowledgement mode",
            counts.get_no_ack,
        ),
        (
            "channel_get_ack",
            "Total number of messages fetched with basic.get in manual acknowledgement mode",
            counts.get,
        ),
        (
            "channel_get_empty",
            "Total number of times basic.get operations fetched no message",
            counts.get_empty,
        ),
    ] {
        page.counter(&format!("rabbitmq_{name}_total"), help, &[], value);
    }
    let routed =
        counts.publish - (counts.return_unroutable + counts.drop_unroutable).min(counts.publish);
    let amqp: Labels<'_> = &[("protocol", "amqp091")];
    for (name, value) in [
        ("messages_received", counts.publish),
        ("messages_routed", routed),
        ("messages_confirmed", counts.confirm),
        ("messages_unroutable_dropped", counts.drop_unroutable),
        ("messages_unroutable_returned", counts.return_unroutable),
        ("messages_delivered", counts.deliver_get()),
        ("messages_delivered_consume_auto_ack", counts.deliver_no_ack),
        ("messages_delivered_consume_manual_ack", counts.deliver),
        ("messages_delivered_get_auto_ack", counts.get_no_ack),
        ("messages_delivered_get_manual_ack", counts.get),
        ("messages_get_empty", counts.get_empty),
        ("messages_redelivered", counts.redeliver),
        ("messages_acknowledged", counts.ack),
    ] {
        let help = format!("Total number of {} over AMQP", name.replace('_', " "));
        page.counter(&format!("rabbitmq_global_{name}_total"), &help, amqp, value);
    }
    for (reason, letters) in Reason::ALL.iter().zip(m.tenant.lettered().sums()) {
        let name = format!(
            "rabbitmq_global_messages_dead_lettered_{}_total",
            reason.name()
        );
        let help = format!(
            "Total number of messages dead-lettered due to {}",
            reason.name()
        );
        page.counter(
            &name,
            &help,
            &[("dead_letter_strategy", "at_least_once")],
            letters,
        );
    }
    page.gauge(
        "rabbitmq_global_consumers",
        "Current number of consumers",
        amqp,
        totals.consumers,
    );
    process(m, &mut page);
    Ok(page)
}

fn process(m: &Management, page: &mut Page) {
    let process = overview::process(m);
    let trouble = m.tenant.broker().trouble().is_some();
    let short = m.tenant.alarms().short();
    for (name, help, value) in [
        (
            "process_open_fds",
            "Open file descriptors",
            process.open_files,
        ),
        (
            "process_max_fds",
            "Open file descriptors limit",
            process.files_max,
        ),
        (
            "process_resident_memory_bytes",
            "Memory used in bytes",
            process.resident_bytes,
        ),
        (
            "resident_memory_limit_bytes",
            "Memory high watermark in bytes",
            process.memory_bytes,
        ),
        (
            "disk_space_available_bytes",
            "Disk space available in bytes",
            process.disk_free_bytes,
        ),
        (
            "alarms_free_disk_space_watermark",
            "Is 1 if too little disk is free, or the log takes no messages",
            u64::from(short.disk || trouble),
        ),
        (
            "alarms_memory_used_watermark",
            "Is 1 if the process has more memory than it may",
            u64::from(short.memory),
        ),
    ] {
        page.gauge(&format!("rabbitmq_{name}"), help, &[], value);
    }
}

async fn per_object(m: &Management) -> Result<Page, Failed> {
    let mut page = aggregated(m, "per-object").await?;
    let figures = queue_figures(m, &all_vhosts(m)).await?;
    page.text = page
        .text
        .lines()
        .filter(|line| {
            let name = line
                .trim_start_matches("# TYPE ")
                .trim_start_matches("# HELP ");
            !name.starts_with("rabbitmq_queue_")
        })
        .fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        });
    coarse(&figures, "rabbitmq_", &mut page);
    consumer_counts(&figures, "rabbitmq_", &mut page);
    Ok(page)
}

fn coarse(figures: &[QueueFigures], prefix: &str, page: &mut Page) {
    let each: [Series<QueueFigures>; 4] = [
        (
            "queue_messages_ready",
            "Messages ready to be delivered to consumers",
            |queue| queue.ready,
        ),
        (
            "queue_messages_unacked",
            "Messages delivered to consumers but not yet acknowledged",
            |queue| queue.unacked,
        ),
        (
            "queue_messages",
            "Sum of ready and unacknowledged messages - total queue depth",
            |queue| queue.total,
        ),
        (
            "queue_messages_bytes",
            "Size in bytes of ready and unacknowledged messages",
            |queue| queue.bytes,
        ),
    ];
    for (name, help, of) in each {
        for queue in figures {
            let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
            page.gauge(&format!("{prefix}{name}"), help, &labels, of(queue));
        }
    }
}

fn consumer_counts(figures: &[QueueFigures], prefix: &str, page: &mut Page) {
    for queue in figures {
        let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
        let name = format!("{prefix}queue_consumers");
        page.gauge(&name, "Consumers on a queue", &labels, queue.consumers);
    }
}

const DETAILED: &str = "rabbitmq_detailed_";

async fn detailed(m: &Management, query: &Query) -> Result<Page, Failed> {
    let mut page = Page::default();
    identity(m, "detailed", DETAILED, &mut page);
    let wanted: Vec<&str> = query.all("vhost").collect();
    let mut vhosts = all_vhosts(m);
    vhosts.retain(|(vhost, _)| wanted.is_empty() || wanted.contains(&&**vhost));
    for family in query.all("family") {
        match family {
            "queue_coarse_metrics" | "queue_metrics" => {
                let figures = queue_figures(m, &vhosts).await?;
                coarse(&figures, DETAILED, &mut page);
                for queue in figures.iter().filter(|_| family == "queue_metrics") {
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
            "connection_coarse_metrics" | "connection_metrics" | "channel_metrics" => {
                connections(m, &vhosts, family, &mut page);
            }
            _ => {}
        }
    }
    Ok(page)
}

fn connections(m: &Management, vhosts: &[(Arc<str>, Arc<str>)], family: &str, page: &mut Page) {
    let mut all = m.tenant.census().all();
    all.retain(|seen| vhosts.iter().any(|(vhost, _)| *vhost == seen.state.vhost));
    if family == "channel_metrics" {
        let each: [Series<ChannelState>; 3] = [
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
        ];
        for (name, help, of) in each {
            for seen in &all {
                for channel in &seen.state.channels {
                    let id = format!("{} ({})", seen.name, channel.number);
                    let labels = [("channel", id.as_str())];
                    page.gauge(&format!("{DETAILED}{name}"), help, &labels, of(channel));
                }
            }
        }
        return;
    }
    for seen in &all {
        let labels = [("connection", &*seen.name)];
        page.counter(
            &format!("{DETAILED}connection_incoming_bytes_total"),
            "Total number of bytes received on a connection",
            &labels,
            seen.bytes_in,
        );
    }
    for seen in &all {
        let labels = [("connection", &*seen.name)];
        page.counter(
            &format!("{DETAILED}connection_outgoing_bytes_total"),
            "Total number of bytes sent on a connection",
            &labels,
            seen.bytes_out,
        );
    }
    for seen in &all {
        let labels = [("connection", &*seen.name)];
        page.gauge(
            &format!("{DETAILED}connection_channels"),
            "Channels on a connection",
            &labels,
            seen.state.channels.len() as u64,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_described_once_and_labels_are_escaped() {
        let mut page = Page::default();
        page.gauge("q", "Help", &[("queue", "a\"b\\")], 1);
        page.gauge("q", "Help", &[("queue", "c")], 2);
        let expected =
            "# TYPE q gauge\n# HELP q Help\nq{queue=\"a\\\"b\\\\\"} 1\nq{queue=\"c\"} 2\n";
        assert_eq!(page.text, expected);
    }
}
