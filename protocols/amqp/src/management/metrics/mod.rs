//! Metrics under RabbitMQ's names, for the dashboards that know those.
//!
//! `/metrics` sums up, `/metrics/per-object` names queues, channels and connections, `/metrics/detailed` has the families
//! that are asked for, of the vhosts that are asked for. Counters never go back: what is gone stays in the sums.

mod detailed;
mod sums;

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use longtail_web::Query;

use super::http::Failed;
use super::{Management, parameters, queues};
use detailed::detailed;
use sums::{aggregated, per_object};

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

fn depths(figures: &[QueueFigures], prefix: &str, page: &mut Page) {
    let each: [Series<QueueFigures>; 3] = [
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
    ];
    for (name, help, of) in each {
        for queue in figures {
            let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
            page.gauge(&format!("{prefix}{name}"), help, &labels, of(queue));
        }
    }
}

fn sizes(figures: &[QueueFigures], prefix: &str, page: &mut Page) {
    for queue in figures {
        let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
        page.gauge(
            &format!("{prefix}queue_messages_bytes"),
            "Size in bytes of ready and unacknowledged messages",
            &labels,
            queue.bytes,
        );
    }
}

fn consumer_counts(figures: &[QueueFigures], prefix: &str, page: &mut Page) {
    for queue in figures {
        let labels = [("vhost", &*queue.vhost), ("queue", &*queue.name)];
        let name = format!("{prefix}queue_consumers");
        page.gauge(&name, "Consumers on a queue", &labels, queue.consumers);
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
