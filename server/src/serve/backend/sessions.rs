//! The sessions of MQTT, as the admin service shows them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use longtail::Broker;
use longtail_admin::shapes::{Listing, SessionStatus, SubscriptionStatus};
use longtail_admin::{AdminError, ErrorKind, Page, SessionFilter, SubscriptionFilter};
use longtail_broker::ephemeral::DropReason;
use longtail_engine::config::GroupName;
use longtail_engine::{Command, Reply, StreamName};
use longtail_model::{ShardId, Subject};
use longtail_mqtt::Tenant;
use longtail_mqtt::census::{Filters, Kicked, SessionView, SubscriptionView, Wanted};
use longtail_mqtt::codec::Version;

use super::{Answer, bad_cursor, call, wording};

const PROTOCOL: &str = "mqtt";

/// A protocol without sessions, or none at all.
pub(super) fn none<T>() -> Listing<T> {
    Listing {
        items: Vec::new(),
        next: None,
    }
}

pub(super) fn unknown(id: &str) -> AdminError {
    AdminError::new(ErrorKind::NotFound, format!("there is no session {id}"))
        .hint("GET /api/v1/sessions lists what there is")
}

/// What a version is called in metrics and lists.
pub(super) const fn version(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5.0",
    }
}

pub(super) async fn list(
    broker: &Arc<Broker>,
    tenant: &Tenant,
    filter: &SessionFilter,
    page: &Page,
) -> Answer<Listing<SessionStatus>> {
    let matches = filter.matches.as_deref().map(topic).transpose()?;
    let wanted = Wanted {
        contains: &filter.contains,
        connected: filter.connected,
        matches: matches.as_ref().map(Subject::as_ref),
        after: page.after.as_deref(),
    };
    let found = tenant.find_sessions(&wanted, page.limit).await;
    let next = (found.len() == page.limit)
        .then(|| found.last().map(|last| last.client_id.to_string()))
        .flatten();
    let mut items: Vec<_> = found.into_iter().map(|view| status(tenant, view)).collect();
    if matches.is_some() {
        let mut streams = Streams::default();
        for status in &mut items {
            streams.count(broker, tenant, status).await?;
        }
    }
    Ok(Listing { items, next })
}

/// With what waits in its streams, which a list of all sessions leaves out.
pub(super) async fn show(broker: &Arc<Broker>, tenant: &Tenant, id: &str) -> Answer<SessionStatus> {
    let view = tenant.await_session(id).await.ok_or_else(|| unknown(id))?;
    let mut status = status(tenant, view);
    let mut streams = Streams::default();
    streams.count(broker, tenant, &mut status).await?;
    Ok(status)
}

/// What waits in the streams that were looked at: sessions with one filter have one stream.
#[derive(Default)]
struct Streams(HashMap<StreamName, HashMap<GroupName, u64>>);

impl Streams {
    /// Adds what waits for a session in its streams.
    async fn count(
        &mut self,
        broker: &Arc<Broker>,
        tenant: &Tenant,
        status: &mut SessionStatus,
    ) -> Answer<()> {
        let (shard, backlog) = tenant.backlog(&status.id);
        for (stream, name) in backlog {
            let groups = match self.0.entry(stream) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let groups = waiting(broker, shard, new.key().clone()).await?;
                    new.insert(groups)
                }
            };
            status.queued += groups.get(&name).copied().unwrap_or(0);
        }
        Ok(())
    }
}

/// What waits in a stream, by group.
async fn waiting(
    broker: &Arc<Broker>,
    shard: ShardId,
    stream: StreamName,
) -> Answer<HashMap<GroupName, u64>> {
    let describe = Command::DescribeGroups { stream };
    match call(&broker.client(shard), describe).await?.reply {
        Reply::Groups(groups) => Ok(groups
            .into_iter()
            .map(|group| (group.name, group.ready + group.delayed))
            .collect()),
        // The last subscription with this filter has just ended.
        Reply::NotFound => Ok(HashMap::new()),
        other => Err(wording::unexpected(&other)),
    }
}

pub(super) async fn end(tenant: &Arc<Tenant>, id: &str, forget: bool) -> Answer<()> {
    match tenant.expel(id, forget).await {
        Kicked::Disconnected | Kicked::Forgotten => Ok(()),
        Kicked::Unknown => Err(unknown(id)),
        Kicked::Away => Err(AdminError::new(
            ErrorKind::Refused,
            format!("the client of the session {id} is not connected"),
        )
        .hint("forget=true ends the session too")),
        Kicked::Ending => Err(AdminError::new(
            ErrorKind::Refused,
            format!("the connection of the session {id} is being ended"),
        )
        .hint("ask again")),
    }
}

/// The cursor of a page names its last subscription: `BYTES:SESSIONFILTER`, the number being the length of the session.
fn cursor(last: &SubscriptionView) -> String {
    let id = &last.client_id;
    format!("{}:{id}{}", id.len(), last.filter)
}

fn parse_cursor(cursor: &str) -> Option<(&str, &str)> {
    let (length, rest) = cursor.split_once(':')?;
    rest.split_at_checked(length.parse().ok()?)
}

/// The topic of `matches`.
fn topic(text: &str) -> Answer<Subject> {
    Subject::parse_mqtt(text).map_err(|error| {
        AdminError::new(ErrorKind::Invalid, format!("`{text}`: {error}"))
            .hint("matches is a topic as MQTT has it, without wildcards")
    })
}

pub(super) async fn subscriptions(
    tenant: &Tenant,
    filter: &SubscriptionFilter,
    page: &Page,
) -> Answer<Listing<SubscriptionStatus>> {
    let after = match page.after.as_deref() {
        None => None,
        Some(text) => Some(parse_cursor(text).ok_or_else(|| bad_cursor(text))?),
    };
    let matches = filter.matches.as_deref().map(topic).transpose()?;
    let wanted = Filters {
        contains: &filter.contains,
        matches: matches.as_ref().map(Subject::as_ref),
    };
    let found = match filter.session.as_deref() {
        None => tenant.find_subscriptions(&wanted, after, page.limit),
        Some(id) => {
            let after = after.and_then(|(of, filter)| (of == id).then_some(filter));
            let found = tenant.await_subscriptions(id, &wanted, after, page.limit);
            found.await.ok_or_else(|| unknown(id))?
        }
    };
    let next = found
        .last()
        .filter(|_| found.len() == page.limit)
        .map(cursor);
    let items = found.into_iter().map(|view| SubscriptionStatus {
        session: view.client_id.to_string(),
        protocol: PROTOCOL.to_owned(),
        space: tenant.config().space.to_string(),
        filter: view.filter.into(),
        share: view.share.map(|share| share.to_string()),
        qos: view.qos.bits(),
        no_local: view.no_local,
    });
    Ok(Listing {
        items: items.collect(),
        next,
    })
}

fn status(tenant: &Tenant, view: SessionView) -> SessionStatus {
    let levels = view.levels;
    let connected = view.connected.as_ref();
    let dropped = DropReason::ALL.iter().filter_map(|reason| {
        let count = levels.drops.by(*reason);
        (count > 0).then(|| (reason.as_str().to_owned(), count))
    });
    SessionStatus {
        id: view.client_id.to_string(),
        protocol: PROTOCOL.to_owned(),
        space: tenant.config().space.to_string(),
        version: view.version.map(|known| version(known).to_owned()),
        account: view.account.map(|account| account.to_string()),
        connected: connected.is_some(),
        connection: connected.map(|connected| connected.connection),
        keep_alive_s: connected
            .map(|connected| u64::from(connected.keep_alive_s))
            .filter(|seconds| *seconds > 0),
        expiry_s: connected
            .map(|connected| connected.expiry_s)
            .filter(|seconds| *seconds < u32::MAX)
            .map(u64::from),
        expires_ms: view.expires.map(|at| at.0),
        peer: view.connected.map(|connected| connected.peer),
        subscriptions: levels.subscriptions as u64,
        queued: levels.queued as u64,
        queued_bytes: levels.queued_bytes as u64,
        in_flight: levels.in_flight as u64,
        dropped: dropped.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_session_and_filter() {
        for (id, filter) in [("a", "b/#"), ("a:b", ":c"), ("\u{e9}", "")] {
            let text = format!("{}:{id}{filter}", id.len());
            assert_eq!(parse_cursor(&text), Some((id, filter)));
        }
        for wrong in ["", "x", "1", "9:short", "1:\u{e9}"] {
            assert_eq!(parse_cursor(wrong), None, "{wrong}");
        }
    }
}
