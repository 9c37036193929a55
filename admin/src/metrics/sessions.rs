//! What is measured of protocols whose clients have sessions.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::openmetrics::{Family, Labels, NO_EXEMPLAR, families};

/// The sessions of one protocol.
#[derive(Clone, Debug, Default)]
pub struct SessionMetrics {
    /// The protocol.
    pub protocol: &'static str,
    /// Clients connected, by the version of the protocol.
    pub connected: Vec<(&'static str, u64)>,
    /// Sessions whose clients are away.
    pub away: u64,
    /// Subscriptions that are not shared.
    pub subscriptions: u64,
    /// Subscriptions that are shared.
    pub subscriptions_shared: u64,
    /// Messages that wait for their clients, counted for every session.
    pub queued: u64,
    /// Their payload bytes.
    pub queued_bytes: u64,
    /// Messages sent and not acknowledged.
    pub in_flight: u64,
    /// Messages from clients, by quality of service.
    pub received_total: [u64; 3],
    /// Messages to clients, by quality of service, those sent again included.
    pub sent_total: [u64; 3],
    /// Payload bytes of the messages from clients.
    pub received_payload_bytes_total: u64,
    /// Payload bytes of the messages to clients.
    pub sent_payload_bytes_total: u64,
    /// Messages that were accepted for a session and not sent after all, by cause.
    pub dropped_total: Vec<(&'static str, u64)>,
    /// Publishes that were not allowed.
    pub denied_total: u64,
    /// Times that a client published faster than it may, and was not heard for a while.
    pub held_up_total: u64,
    /// Logins, by outcome.
    pub logins_total: Vec<(&'static str, u64)>,
    /// Sessions that another connection took.
    pub taken_over_total: u64,
    /// Sessions whose clients did not come back in time.
    pub expired_total: u64,
    /// Wills published.
    pub wills_total: u64,
}

const SESSIONS: &[Family<SessionMetrics>] = &[
    (
        "session_messages_queued",
        "Messages that wait for clients",
        None,
        MetricType::Gauge,
        |sessions| sessions.queued,
    ),
    (
        "session_queued",
        "Payloads that wait for clients",
        Some(Unit::Bytes),
        MetricType::Gauge,
        |sessions| sessions.queued_bytes,
    ),
    (
        "session_messages_in_flight",
        "Messages sent and not acknowledged",
        None,
        MetricType::Gauge,
        |sessions| sessions.in_flight,
    ),
    (
        "session_received_payload",
        "Payloads of messages from clients",
        Some(Unit::Bytes),
        MetricType::Counter,
        |sessions| sessions.received_payload_bytes_total,
    ),
    (
        "session_sent_payload",
        "Payloads of messages to clients",
        Some(Unit::Bytes),
        MetricType::Counter,
        |sessions| sessions.sent_payload_bytes_total,
    ),
    (
        "session_publishes_denied",
        "Publishes that were not allowed",
        None,
        MetricType::Counter,
        |sessions| sessions.denied_total,
    ),
    (
        "session_publishers_held_up",
        "Times that a client published faster than it may, and was not heard for a while",
        None,
        MetricType::Counter,
        |sessions| sessions.held_up_total,
    ),
    (
        "sessions_taken_over",
        "Sessions that another connection took",
        None,
        MetricType::Counter,
        |sessions| sessions.taken_over_total,
    ),
    (
        "sessions_expired",
        "Sessions whose clients did not come back",
        None,
        MetricType::Counter,
        |sessions| sessions.expired_total,
    ),
    (
        "session_wills",
        "Wills published",
        None,
        MetricType::Counter,
        |sessions| sessions.wills_total,
    ),
];

/// What is divided by a label.
type Divided = (
    &'static str,
    &'static str,
    &'static str,
    MetricType,
    fn(&SessionMetrics) -> Vec<(&'static str, u64)>,
);

const DIVIDED: &[Divided] = &[
    (
        "sessions",
        "Sessions",
        "state",
        MetricType::Gauge,
        |sessions| {
            let connected = sessions.connected.iter().map(|(_, count)| count).sum();
            vec![("connected", connected), ("away", sessions.away)]
        },
    ),
    (
        "sessions_connected",
        "Clients with a session, by version of the protocol",
        "version",
        MetricType::Gauge,
        |sessions| sessions.connected.clone(),
    ),
    (
        "subscriptions",
        "Subscriptions",
        "kind",
        MetricType::Gauge,
        |sessions| {
            vec![
                ("plain", sessions.subscriptions),
                ("shared", sessions.subscriptions_shared),
            ]
        },
    ),
    (
        "session_messages_received",
        "Messages from clients",
        "qos",
        MetricType::Counter,
        |sessions| by_qos(sessions.received_total),
    ),
    (
        "session_messages_sent",
        "Messages to clients",
        "qos",
        MetricType::Counter,
        |sessions| by_qos(sessions.sent_total),
    ),
    (
        "session_messages_dropped",
        "Messages accepted for a session and not sent after all",
        "cause",
        MetricType::Counter,
        |sessions| sessions.dropped_total.clone(),
    ),
    (
        "logins",
        "Logins",
        "outcome",
        MetricType::Counter,
        |sessions| sessions.logins_total.clone(),
    ),
];

fn by_qos([once, acked, exactly]: [u64; 3]) -> Vec<(&'static str, u64)> {
    vec![("0", once), ("1", acked), ("2", exactly)]
}

pub(super) fn encode(out: &mut DescriptorEncoder<'_>, sessions: &[SessionMetrics]) -> fmt::Result {
    let rows: Vec<(Labels, &SessionMetrics)> = sessions
        .iter()
        .map(|sessions| (vec![("protocol", sessions.protocol.to_owned())], sessions))
        .collect();
    families(out, SESSIONS, &rows)?;
    if rows.is_empty() {
        return Ok(());
    }
    for (name, help, label, kind, values) in DIVIDED {
        let mut family = out.encode_descriptor(name, help, None, *kind)?;
        for (labels, row) in &rows {
            for (value, count) in values(row) {
                let mut labels = labels.clone();
                labels.push((label, value.to_owned()));
                let mut series = family.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => series.encode_counter(&count, NO_EXEMPLAR)?,
                    _ => series.encode_gauge(&count)?,
                }
            }
        }
    }
    Ok(())
}
