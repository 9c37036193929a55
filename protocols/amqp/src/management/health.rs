//! Health checks, for probes and for people.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::direct::Published;
use super::http::{Asked, Failed, Reply};
use super::{Management, page};
use crate::codec::{Method, Properties, Table};

fn ok() -> Reply {
    Reply::Json(json!({"status": "ok"}))
}

/// 503, with a reason.
fn failed(reason: impl Into<String>) -> Failed {
    Failed {
        status: 503,
        error: "failed",
        reason: reason.into(),
    }
}

/// The queue that messages are sent through.
const ALIVENESS: &str = "aliveness-test";

pub(super) async fn aliveness(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
) -> Result<Reply, Failed> {
    let mut direct = m.direct(asked, vhost).await?;
    let declare = Method::QueueDeclare {
        ticket: 0,
        queue: ALIVENESS,
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: Table::default(),
    };
    direct.call(&declare).await?;
    let published = direct
        .publish("", ALIVENESS, &Properties::default(), b"test_message")
        .await?;
    if published != Published::Routed {
        return Err(failed("the message was not stored"));
    }
    match direct.get(ALIVENESS, true).await? {
        Some(_) => Ok(ok()),
        None => Err(failed("the message did not come back")),
    }
}

fn is_well(m: &Management) -> Result<Reply, Failed> {
    match m.tenant.broker().trouble() {
        None => Ok(ok()),
        Some(why) => Err(failed(why)),
    }
}

pub(super) fn node(m: &Management) -> Result<Reply, Failed> {
    is_well(m)
}

pub(super) fn check(m: &Arc<Management>, check: &[&str]) -> Result<Reply, Failed> {
    match check {
        ["alarms" | "local-alarms"] => {
            let alarms = m.tenant.alarms();
            match alarms.are_raised() {
                true => Err(failed(alarms.short().reason())),
                false => is_well(m),
            }
        }
        ["is-in-service" | "ready-to-serve-clients" | "virtual-hosts"] => is_well(m),
        // There is one node, and it answers.
        [
            "node-is-quorum-critical"
            | "node-is-mirror-sync-critical"
            | "below-node-connection-limit"
            | "reached-target-cluster-size",
        ]
        | ["metadata-store", "initialized"]
        | ["metadata-store", "initialized", "with-data"]
        | ["quorum-queues-without-elected-leaders", ..] => Ok(ok()),
        ["port-listener", port] => {
            let port: u16 = port
                .parse()
                .map_err(|_| Failed::bad("Expected a port number"))?;
            let listeners = m.facts().listeners;
            if listeners.iter().any(|known| known.port == port) {
                Ok(Reply::Json(json!({"status": "ok", "port": port})))
            } else {
                let ports: Vec<_> = listeners
                    .iter()
                    .map(|known| known.port.to_string())
                    .collect();
                Err(failed(format!("No active listener: {}", ports.join(", "))))
            }
        }
        ["protocol-listener", protocol] => {
            let listeners = m.facts().listeners;
            let wanted = match *protocol {
                "amqp091" | "amqp" => "amqp",
                "amqp/ssl" | "amqps" => "amqps",
                other => other,
            };
            if listeners.iter().any(|known| known.protocol == wanted) {
                Ok(Reply::Json(json!({"status": "ok", "protocol": protocol})))
            } else {
                Err(failed(format!("No active listener for {protocol}")))
            }
        }
        ["certificate-expiration", within, unit] => certificates(m, within, unit),
        _ => Err(Failed::missing()),
    }
}

/// Whether a certificate of a listener ends within so many `days`, `weeks`, `months` or `years`.
fn certificates(m: &Management, within: &str, unit: &str) -> Result<Reply, Failed> {
    let within: u64 = (within.parse()).map_err(|_| Failed::bad("Expected a number"))?;
    let days = match unit {
        "day" | "days" => 1,
        "week" | "weeks" => 7,
        "month" | "months" => 30,
        "year" | "years" => 365,
        _ => {
            return Err(Failed::bad(
                "Time unit not recognised. Use: days, weeks, months, years",
            ));
        }
    };
    let within = within.saturating_mul(days * 86_400);
    let until = (m.now_ms() / 1000).saturating_add(within);
    let mut ending = m.certificate_ends();
    ending.retain(|(_, ends)| *ends < until);
    if ending.is_empty() {
        return Ok(ok());
    }
    let moment = |seconds: u64| page::moment(UNIX_EPOCH + Duration::from_secs(seconds));
    let ending = ending
        .iter()
        .map(|(address, ends)| format!("{address} ({})", moment(*ends)));
    let ending: Vec<_> = ending.collect();
    Err(failed(format!(
        "Certificates expiring: {}",
        ending.join(", ")
    )))
}
