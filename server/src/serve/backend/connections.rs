//! Connections of all protocols.

use longtail::Longtail;
use longtail_admin::shapes::{ConnectionStatus, Listing};
use longtail_admin::{AdminError, ErrorKind, Page};
use longtail_edge::ConnectionId;

use super::{Answer, bad_cursor};

pub(super) fn list(longtail: &Longtail, page: &Page) -> Answer<Listing<ConnectionStatus>> {
    let after = match page.after.as_deref() {
        None => None,
        Some(cursor) => Some(cursor.parse::<u64>().map_err(|_| bad_cursor(cursor))?),
    };
    let mut connections = longtail.edge().connections();
    connections.retain(|connection| after.is_none_or(|after| connection.id.0 > after));
    connections.sort_by_key(|connection| connection.id);
    let more = connections.len() > page.limit;
    connections.truncate(page.limit);
    let next = connections
        .last()
        .filter(|_| more)
        .map(|connection| connection.id.to_string());
    let items = connections
        .into_iter()
        .map(|connection| ConnectionStatus {
            id: connection.id.0,
            protocol: connection.protocol.to_owned(),
            peer: connection.peer,
            account: None,
            age_ms: connection
                .since
                .elapsed()
                .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            received_bytes: connection.bytes_in,
            sent_bytes: connection.bytes_out,
        })
        .collect();
    Ok(Listing { items, next })
}

pub(super) fn kick(longtail: &Longtail, connection: u64) -> Answer<()> {
    if longtail.edge().kick(ConnectionId(connection)) {
        return Ok(());
    }
    Err(AdminError::new(
        ErrorKind::NotFound,
        format!("there is no connection {connection}"),
    ))
}
