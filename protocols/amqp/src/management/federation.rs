//! `/federation-links`: what the links of federated exchanges and queues are doing.

use std::sync::Arc;

use serde_json::{Value, json};

use super::http::{Asked, Failed, Reply};
use super::{Management, page};
use crate::federation::{Kind, Shown};
use crate::transfer::State;

fn state(link: &Shown) -> &'static str {
    match link.now.state {
        State::Running => "running",
        State::Starting => "starting",
        State::Failed => "error",
        State::Terminated => "shutdown",
    }
}

fn shown(m: &Management, link: &Shown) -> Value {
    let kind = link.kind.name();
    let upstream = match link.kind {
        Kind::Exchange => "upstream_exchange",
        Kind::Queue => "upstream_queue",
    };
    let mut shown = json!({
        "node": m.node(),
        "vhost": *m.tenant.vhost_of(&link.space),
        "upstream": link.upstream,
        "id": link.id(),
        "type": kind,
        "status": state(link),
        "uri": link.now.source,
        "local_connection": format!("federation ({})", link.upstream),
        "timestamp": page::moment(link.now.since),
        "forwarded": link.now.forwarded,
        "pending": link.now.pending,
    });
    if let Value::Object(object) = &mut shown {
        object.insert(kind.to_owned(), link.name.as_str().into());
        object.insert(upstream.to_owned(), link.theirs.as_str().into());
        if let Some(error) = &link.now.error {
            object.insert("error".to_owned(), error.as_str().into());
        }
    }
    shown
}

/// `wanted`: only those in this state; `down` are all that neither run nor are about to.
pub(super) fn list(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: Option<&str>,
    wanted: Option<&str>,
) -> Result<Reply, Failed> {
    let vhosts = m.of(asked, vhost)?;
    let all = m.links.federation.list(None);
    let seen = all
        .iter()
        .filter(|link| vhosts.iter().any(|(_, space)| *space == link.space));
    let items = seen.filter(|link| match wanted {
        None => true,
        Some("down") => !matches!(link.now.state, State::Running | State::Starting),
        Some(wanted) => state(link) == wanted,
    });
    page::list(items.map(|link| shown(m, link)).collect(), &asked.query).map(Reply::Json)
}

/// Connects one anew.
pub(super) fn restart(
    m: &Arc<Management>,
    asked: &Asked,
    vhost: &str,
    (id, node): (&str, &str),
) -> Result<Reply, Failed> {
    let space = m.enter(asked, vhost)?;
    asked.caller.makes_policies(&m.roster, &space)?;
    if node != m.node() || !m.links.federation.restart(&space, id) {
        return Err(Failed::missing());
    }
    Ok(Reply::Done)
}
