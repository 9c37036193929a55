//! Sums over everything, and what there is of the node.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Labels, Page, QueueFigures, all_vhosts, consumer_counts, depths, identity, queue_figures, sizes,
};
use crate::census::Totals;
use crate::letters::{CONFIRMED, Reason};
use crate::management::Management;
use crate::management::http::Failed;
use crate::management::overview::{self, Process};

/// Sums over everything.
pub(super) async fn aggregated(m: &Management, endpoint: &str) -> Result<Page, Failed> {
    let mut page = Page::default();
    identity(m, endpoint, "rabbitmq_", &mut page);
    let totals = m.tenant.census().totals();
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
    churn(m, &totals, "rabbitmq_", &mut page);
    let counts = &totals.counts;
    for (name, help, value) in [
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
    let lettered = m.tenant.lettered().sums();
    let strategy: Labels<'_> = &[("dead_letter_strategy", "at_least_once")];
    for (reason, letters) in Reason::ALL.iter().zip(lettered) {
        let name = format!(
            "rabbitmq_global_messages_dead_lettered_{}_total",
            reason.name()
        );
        let help = format!(
            "Total number of messages dead-lettered due to {}",
            reason.name()
        );
        page.counter(&name, &help, strategy, letters);
    }
    page.counter(
        "rabbitmq_global_messages_dead_lettered_confirmed_total",
        "Total number of messages dead-lettered and confirmed by target queues",
        strategy,
        lettered[CONFIRMED],
    );
    for (name, help, value) in [
        (
            "rabbitmq_global_publishers",
            "Publishers currently connected",
            totals.publishers,
        ),
        (
            "rabbitmq_global_consumers",
            "Consumers currently connected",
            totals.consumers,
        ),
    ] {
        page.gauge(name, help, amqp, value);
    }
    let process = overview::process(m);
    usage(m, &process, "rabbitmq_", &mut page);
    limits(m, &process, "rabbitmq_", &mut page);
    alarms(m, "rabbitmq_", &mut page);
    Ok(page)
}

/// Comings and goings.
pub(super) fn churn(m: &Management, totals: &Totals, prefix: &str, page: &mut Page) {
    let counters = m.tenant.counters();
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (opened, channels) = (
        of(&counters.connections_total),
        of(&counters.channels_total),
    );
    let churn = m.tenant.queue_churn();
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
    ] {
        page.counter(&format!("{prefix}{name}_total"), help, &[], value);
    }
}

/// What the process uses.
pub(super) fn usage(m: &Management, process: &Process, prefix: &str, page: &mut Page) {
    let connections = &m.tenant.counters().connections;
    for (name, help, value) in [
        (
            "process_open_fds",
            "Open file descriptors",
            process.open_files,
        ),
        (
            "process_open_tcp_sockets",
            "Open TCP sockets",
            connections.load(Ordering::Relaxed),
        ),
        (
            "process_resident_memory_bytes",
            "Memory used in bytes",
            process.resident_bytes,
        ),
        (
            "disk_space_available_bytes",
            "Disk space available in bytes",
            process.disk_free_bytes,
        ),
    ] {
        page.gauge(&format!("{prefix}{name}"), help, &[], value);
    }
}

/// What it may use.
pub(super) fn limits(m: &Management, process: &Process, prefix: &str, page: &mut Page) {
    for (name, help, value) in [
        (
            "process_max_fds",
            "Open file descriptors limit",
            process.files_max,
        ),
        (
            "process_max_tcp_sockets",
            "Open TCP sockets limit",
            process.files_max,
        ),
        (
            "resident_memory_limit_bytes",
            "Memory high watermark in bytes",
            process.memory_bytes,
        ),
        (
            "disk_space_available_limit_bytes",
            "Free disk space low watermark in bytes",
            m.tenant.config().disk_free_bytes_min,
        ),
    ] {
        page.gauge(&format!("{prefix}{name}"), help, &[], value);
    }
}

/// What is short.
pub(super) fn alarms(m: &Management, prefix: &str, page: &mut Page) {
    let trouble = m.tenant.broker().trouble().is_some();
    let short = m.tenant.alarms().short();
    for (name, help, value) in [
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
        page.gauge(&format!("{prefix}{name}"), help, &[], value);
    }
}

/// The same, with queues by name.
pub(super) async fn per_object(m: &Management) -> Result<Page, Failed> {
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
    depths(&figures, "rabbitmq_", &mut page);
    sizes(&figures, "rabbitmq_", &mut page);
    consumer_counts(&figures, "rabbitmq_", &mut page);
    Ok(page)
}
