//! Connections of all protocols.

use longtail::Longtail;
use longtail_admin::shapes::{ConnectionStatus, Listing};
use longtail_admin::{AdminError, ErrorKind, Page};
use longtail_edge::{ConnectionId, ConnectionInfo};

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
    let of_mqtt = connections
        .iter()
        .filter(|connection| connection.protocol == "mqtt")
        .map(|connection| connection.id.0);
    let mqtt = longtail
        .mqtt()
        .map(|mqtt| mqtt.accounts_of(&of_mqtt.collect()));
    let account = |connection: &ConnectionInfo| {
        let number = connection.id.0;
        match connection.protocol {
            "mqtt" => mqtt.as_ref()?.get(&number).cloned(),
            "amqp" => longtail.amqp()?.census().user_of(number),
            // One listener of beanstalk has one account, or certificates; who is in is not asked again.
            _ => None,
        }
    };
    let items = connections
        .into_iter()
        .map(|connection| ConnectionStatus {
            account: account(&connection).map(|account| account.to_string()),
            id: connection.id.0,
            protocol: connection.protocol.to_owned(),
            peer: connection.peer,
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
