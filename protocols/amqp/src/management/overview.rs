//! `/overview`, `/nodes`, and what says something of the server as a whole.

use std::iter::Sum;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longtail_engine::StreamInfo;
use serde_json::{Map, Value, json};

use super::connections::COUNTS;
use super::history::Range;
use super::http::{Asked, Failed, Reply};
use super::rates::{GLOBAL_AGES, Past, Ranges, Thing};
use super::{Management, connections, page, queues};
use crate::alarms::memory_limit;
use crate::census::Totals;
use crate::graph::Kind;
use crate::queue::Queue;

/// Nothing: a list of what this server has none of.
pub(super) fn empty() -> Reply {
    Reply::Json(json!([]))
}

pub(super) fn whoami(asked: &Asked) -> Reply {
    Reply::Json(json!({
        "name": *asked.caller.name,
        "tags": asked.caller.tags,
        "is_internal_user": true,
    }))
}

pub(super) fn version(m: &Management) -> Reply {
    Reply::Text("text/plain", m.advertised().to_owned())
}

pub(super) fn auth() -> Reply {
    Reply::Json(json!({"oauth_enabled": false}))
}

/// What there is in the vhosts that somebody sees.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) queues: u64,
    pub(super) exchanges: u64,
    pub(super) ready: u64,
    pub(super) unacked: u64,
    pub(super) messages: u64,
}

impl Sums {
    /// One more queue.
    pub(super) fn add(&mut self, queue: &Queue, info: &StreamInfo) {
        let [messages, ready, unacked] = queues::lengths(queue, info);
        self.queues += 1;
        self.messages += messages;
        self.ready += ready;
        self.unacked += unacked;
    }

    /// As [`queues::LENGTHS`] are called.
    pub(super) fn lengths(&self) -> [u64; 3] {
        [self.messages, self.ready, self.unacked]
    }
}

impl Sum for Sums {
    fn sum<I: Iterator<Item = Sums>>(all: I) -> Sums {
        all.fold(Sums::default(), |sum, one| Sums {
            queues: sum.queues + one.queues,
            exchanges: sum.exchanges + one.exchanges,
            ready: sum.ready + one.ready,
            unacked: sum.unacked + one.unacked,
            messages: sum.messages + one.messages,
        })
    }
}

pub(super) async fn sums(m: &Management, vhosts: &[(Arc<str>, Arc<str>)]) -> Result<Sums, Failed> {
    let mut sums = Sums::default();
    for (_, space) in vhosts {
        let topology = m.topology_of(space).await?;
        let infos = queues::infos(m, space).await?;
        let graph = topology.graph();
        // The default exchange is one too.
        sums.exchanges += graph.exchanges().count() as u64 + 1;
        for queue in graph.queues() {
            match infos.get(&queue.name) {
                Some(info) => sums.add(queue, info),
                None => sums.queues += 1,
            }
        }
    }
    Ok(sums)
}

fn exchange_type(name: &str) -> Value {
    let description = format!("exchange type '{name}'");
    json!({"name": name, "description": description, "enabled": true})
}

/// Comings and goings.
const CHURN: &[&str] = &[
    "connection_created",
    "connection_closed",
    "channel_created",
    "channel_closed",
    "queue_declared",
    "queue_created",
    "queue_deleted",
];

fn churn(m: &Management, totals: &Totals) -> [u64; 7] {
    let counters = m.tenant.counters();
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (opened, channels) = (
        of(&counters.connections_total),
        of(&counters.channels_total),
    );
    let queues = m.tenant.queue_churn();
    [
        opened,
        opened.saturating_sub(totals.connections),
        channels,
        channels.saturating_sub(totals.channels),
        of(&queues.declared),
        of(&queues.created),
        of(&queues.deleted),
    ]
}

/// What is sampled of everything: the counts of messages, [`CHURN`], [`queues::LENGTHS`].
pub(super) fn numbers(m: &Management, totals: &Totals, sums: &Sums) -> Vec<u64> {
    let counts = connections::numbers(&totals.counts).into_iter();
    let counts = counts.chain(churn(m, totals));
    counts.chain(sums.lengths()).collect()
}

/// How many messages there are. What somebody sees who does not see everything is not sampled.
fn queue_totals(sums: &Sums, past: Option<(&Past, usize)>, range: Option<Range>) -> Value {
    let mut object = Map::new();
    match past {
        Some((past, from)) => past.put_levels(&mut object, queues::LENGTHS, from, range),
        None => {
            for (name, number) in queues::LENGTHS.iter().zip(sums.lengths()) {
                object.insert((*name).to_owned(), number.into());
            }
        }
    }
    Value::Object(object)
}

pub(super) async fn overview(m: &Arc<Management>, asked: &Asked) -> Result<Reply, Failed> {
    let facts = m.facts();
    let node = m.node();
    let ranges = Ranges::of(&asked.query)?;
    let vhosts = m.vhosts(asked);
    let sums = sums(m, &vhosts).await?;
    let totals = m.tenant.census().totals();
    let everything = asked.caller.sees_everything();
    let numbers = numbers(m, &totals, &sums);
    let past = m.rates.look(&Thing::All, m.now_ms(), &numbers, &ranges);
    let (mut message_stats, mut churn_rates) = (Map::new(), Map::new());
    let counted = COUNTS.len() + CHURN.len();
    past.put_counts(&mut message_stats, COUNTS, 0, ranges.messages);
    past.put_counts(&mut churn_rates, CHURN, COUNTS.len(), ranges.messages);
    let of_all = everything.then_some((&past, counted));
    let queue_totals = queue_totals(&sums, of_all, ranges.lengths);
    let listeners: Vec<_> = facts
        .listeners
        .iter()
        .map(|known| {
            json!({
                "node": node, "protocol": known.protocol, "ip_address": known.host,
                "interface": known.host, "port": known.port, "tls": known.tls, "socket_opts": {},
            })
        })
        .collect();
    let object = json!({
        "management_version": m.advertised(),
        "rabbitmq_version": m.advertised(),
        "product_name": m.tenant.config().product,
        "product_version": m.advertised(),
        "longtail_version": m.tenant.config().version,
        "erlang_version": "26.2.5",
        "erlang_full_version": "none: Longtail is written in Rust",
        "rates_mode": "basic",
        "sample_retention_policies": {"global": GLOBAL_AGES, "basic": [600], "detailed": [600]},
        "release_series_support_status": "supported",
        "exchange_types": Kind::names().map(exchange_type).collect::<Vec<_>>(),
        "cluster_name": super::parameters::name_of_cluster(m),
        "cluster_tags": {},
        "node_tags": {},
        "default_queue_type": "classic",
        "node": node,
        "statistics_db_event_queue": 0,
        "disable_stats": false,
        "enable_queue_totals": false,
        "is_op_policy_updating_enabled": true,
        "object_totals": {
            "connections": totals.connections,
            "channels": totals.channels,
            "consumers": totals.consumers,
            "exchanges": sums.exchanges,
            "queues": sums.queues,
        },
        "queue_totals": queue_totals,
        "message_stats": message_stats,
        "churn_rates": churn_rates,
        "listeners": listeners,
        "contexts": [{
            "node": node,
            "description": "Management API",
            "path": "/",
            "cowboy_opts": "[]",
            "port": management_port(&facts),
        }],
    });
    Ok(Reply::Json(page::one(object, &asked.query)))
}

fn management_port(facts: &super::Facts) -> String {
    let mut listeners = facts.listeners.iter();
    let known = listeners.find(|known| {
        [super::server::PROTOCOL, super::server::PROTOCOL_TLS].contains(&known.protocol.as_str())
    });
    known.map_or_else(|| "0".to_owned(), |known| known.port.to_string())
}

/// What the system says of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) resident_bytes: u64,
    /// That it may have.
    pub(super) memory_bytes: u64,
    pub(super) open_files: u64,
    pub(super) files_max: u64,
    pub(super) disk_free_bytes: u64,
}

pub(super) fn process(m: &Management) -> Process {
    let machine = m.tenant.machine();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files_max = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok());
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    Process {
        resident_bytes: machine.resident.unwrap_or(0),
        memory_bytes: (memory_limit(&machine, m.tenant.config()).or(machine.memory)).unwrap_or(0),
        open_files: open as u64,
        files_max: files_max.unwrap_or(0),
        disk_free_bytes: machine.disk_free.unwrap_or(0),
    }
}

/// What is sampled of the process.
const NODE: &[&str] = &[
    "mem_used",
    "fd_used",
    "sockets_used",
    "proc_used",
    "disk_free",
];

/// These numbers.
pub(super) fn node_numbers(m: &Management, process: &Process) -> [u64; 5] {
    [
        process.resident_bytes,
        process.open_files,
        m.tenant.counters().connections.load(Ordering::Relaxed),
        1,
        process.disk_free_bytes,
    ]
}

fn described(m: &Management, ranges: &Ranges) -> Value {
    let process = process(m);
    let numbers = node_numbers(m, &process);
    let past = m.rates.look(&Thing::Node, m.now_ms(), &numbers, ranges);
    let mut object = Map::new();
    past.put_levels(&mut object, NODE, 0, ranges.node);
    let uptime = m.started.elapsed().map_or(0, |up| up.as_millis());
    let trouble = m.tenant.broker().trouble();
    let short = m.tenant.alarms().short();
    let fields = json!({
        "name": m.node(),
        "type": "disc",
        "running": true,
        "being_drained": false,
        "os_pid": std::process::id().to_string(),
        "uptime": u64::try_from(uptime).unwrap_or(u64::MAX),
        "run_queue": 0,
        "processors": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "rates_mode": "basic",
        "net_ticktime": 60,
        "fd_total": process.files_max,
        "sockets_total": process.files_max,
        "proc_total": 1_048_576,
        "mem_limit": process.memory_bytes,
        "mem_alarm": short.memory,
        "mem_calculation_strategy": "rss",
        "disk_free_limit": m.tenant.config().disk_free_bytes_min,
        "disk_free_alarm": short.disk || trouble.is_some(),
        "partitions": [],
        "exchange_types": [],
        "auth_mechanisms": [
            {"name": "PLAIN", "description": "SASL PLAIN authentication mechanism", "enabled": true},
            {"name": "AMQPLAIN", "description": "QPid AMQPLAIN mechanism", "enabled": true},
        ],
        "applications": [
            {"name": "rabbit", "description": m.tenant.config().product, "version": m.advertised()},
        ],
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_management_agent", "rabbitmq_prometheus"],
        "contexts": [],
        "config_files": [],
        "log_files": [],
        "db_dir": "",
        "cluster_links": [],
        "metrics_gc_queue_length": {},
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Value::Object(object)
}

pub(super) async fn nodes(m: &Arc<Management>, asked: &Asked) -> Result<Reply, Failed> {
    let described = described(m, &Ranges::of(&asked.query)?);
    page::list(vec![described], &asked.query).map(Reply::Json)
}

fn is_this(m: &Management, name: &str) -> Result<(), Failed> {
    if name == m.node() {
        Ok(())
    } else {
        Err(Failed::missing())
    }
}

pub(super) async fn node(m: &Arc<Management>, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    asked.caller.monitors()?;
    is_this(m, name)?;
    let described = described(m, &Ranges::of(&asked.query)?);
    Ok(Reply::Json(page::one(described, &asked.query)))
}

pub(super) fn memory(m: &Management, asked: &Asked, name: &str) -> Result<Reply, Failed> {
    asked.caller.monitors()?;
    is_this(m, name)?;
    // There is no runtime that would know what is whose; `/nodes` has the sum.
    Ok(Reply::Json(json!({"memory": "not_available"})))
}

/// What RabbitMQ's clients look for among the feature flags: all of it is there.
const FEATURES: &[&str] = &[
    "classic_mirrored_queue_version",
    "detailed_queues_endpoint",
    "direct_exchange_routing_v2",
    "quorum_queue",
    "stream_queue",
    "user_limits",
    "virtual_host_metadata",
];

pub(super) fn feature_flags() -> Reply {
    let flags = FEATURES.iter().map(|name| {
        json!({
            "name": name, "desc": "", "doc_url": "", "stability": "stable", "state": "enabled",
            "provided_by": "rabbit",
        })
    });
    Reply::Json(flags.collect())
}

pub(super) fn enable_feature(asked: &Asked, name: &str) -> Result<Reply, Failed> {
    asked.caller.administers()?;
    if name == "all" || FEATURES.contains(&name) {
        Ok(Reply::Done)
    } else {
        Err(Failed::bad("unsupported"))
    }
}
