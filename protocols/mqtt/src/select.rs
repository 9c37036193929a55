//! Which member of a share gets a message, where hooks have a say.
//!
//! ```text
//! QoS 0:   publish ──▶ picks (a hook for each share) ──▶ Burst ──▶ that member
//! QoS 1/2: Push ──▶ unselected ──▶ flush: hooks ──┬─▶ this member: on its way
//!                                                 └─▶ another: Release (later), and it takes the message by number
//! ```
//!
//! Hooks are asked with no lock held. A message that is handed over is the group's all the while: should the member that
//! was chosen go before it has taken it, whoever draws next is asked about again.

use std::sync::Arc;

use longtail_broker::ephemeral::{LiveHandle, Pick, SpaceRoutes, Target, TargetOptions};
use longtail_broker::message::{Message, SharedMessage};
use longtail_broker::router::GroupRoute;
use longtail_model::Filter;

use crate::durable::link;
use crate::hooks::{ClientInfo, Points, Sharing};
use crate::seat::{Conn, connection_of};
use crate::session::Session;
use crate::tenant::Tenant;

/// Milliseconds until a message that is handed over is for anybody again.
const HAND_OVER_MS: u64 = 1000;

/// Milliseconds until hooks are asked again about a message whose member has no room.
const PATIENCE_MS: u64 = 100;

/// Picks for all shares of a message.
pub(crate) type Picks = Vec<Pick>;

/// A member of a share.
struct Member {
    client: Arc<ClientInfo>,
    conn: Arc<Conn>,
}

/// What hooks say of each share among `routes`. No lock may be held.
pub(crate) fn picks(tenant: &Tenant, routes: &SpaceRoutes, message: &SharedMessage) -> Picks {
    let hooks = tenant.hooks().whole();
    if routes.groups().is_empty() || !hooks.wants(Points::SELECT) {
        return Picks::new();
    }
    let pick = |group: &GroupRoute<Target, TargetOptions>| {
        let mut filter: Option<Filter> = None;
        let mut members = Vec::new();
        let mut targets = Vec::new();
        for member in group.members() {
            let TargetOptions::Live(handle, options) = &member.options else {
                continue;
            };
            if options.not_assured && message.quality.is_assured() {
                // It draws from the stream.
                continue;
            }
            if let Some((found, of)) = look(handle, group.name(), None, message) {
                filter.get_or_insert(of);
                members.push(found.client);
                targets.push(member.key);
            }
        }
        let Some(filter) = filter else {
            return Pick::Any;
        };
        let sharing = Sharing {
            group: group.name(),
            filter: filter.as_str(),
            message,
            members: &members,
        };
        match hooks.select(&sharing) {
            Err(()) => Pick::Nobody,
            Ok(None) => Pick::Any,
            Ok(Some(at)) => targets
                .get(at)
                .map_or(Pick::Any, |target| Pick::Only(*target)),
        }
    };
    routes.groups().iter().map(pick).collect()
}

/// The member behind a handle, with the filter under which it is one of this share.
fn look(
    handle: &LiveHandle,
    group: &str,
    filter: Option<&Filter>,
    message: &Message,
) -> Option<(Member, Filter)> {
    let conn = connection_of(handle)?;
    let known = conn.with(|client, _| {
        let session = client.session()?;
        let filter = match filter {
            Some(filter) => session.is_member(group, filter).then(|| filter.clone()),
            None => session.membership_for(group, message.subject.as_ref()),
        };
        Some((Arc::clone(session.hooked().client()?), filter?))
    });
    let (client, filter) = known.flatten()?;
    Some((Member { client, conn }, filter))
}

/// The members of one share that are connected.
fn members(tenant: &Tenant, group: &str, filter: &Filter, message: &Message) -> Vec<Member> {
    let mut routes = SpaceRoutes::default();
    let router = &tenant.space().router;
    router.routes(message.subject.as_ref(), &mut routes);
    let groups = routes.groups().iter().filter(|route| route.name() == group);
    let mut found = Vec::new();
    for member in groups.flat_map(GroupRoute::members) {
        let TargetOptions::Live(handle, _) = &member.options else {
            continue;
        };
        if let Some((member, _)) = look(handle, group, Some(filter), message) {
            found.push(member);
        }
    }
    found
}

/// Asks hooks about the messages of shares that a member has drawn, and has each go where they say. No lock may be held.
pub(crate) fn select(conn: &Arc<Conn>, tenant: &Tenant) {
    let drawn = conn.with(|client, _| client.session_mut()?.take_unselected());
    let Some(drawn) = drawn.flatten() else {
        return;
    };
    let hooks = tenant.hooks().whole();
    for drawn in drawn {
        let (group, filter) = (&*drawn.group, &drawn.filter);
        let message = drawn.copy.message();
        let members = members(tenant, group, filter, message);
        let clients: Vec<_> = members
            .iter()
            .map(|member| Arc::clone(&member.client))
            .collect();
        let sharing = Sharing {
            group,
            filter: filter.as_str(),
            message,
            members: &clients,
        };
        let chosen = if clients.is_empty() {
            Ok(None)
        } else {
            hooks.select(&sharing)
        };
        let other = match chosen {
            Ok(Some(at)) => members
                .get(at)
                .map(|member| &member.conn)
                .filter(|chosen| !Arc::ptr_eq(chosen, conn)),
            Ok(None) | Err(()) => None,
        };
        let durable = tenant.durable();
        let Some(other) = other else {
            let cx = conn.protocol().cx();
            conn.with(|client, out| {
                if let Some(session) = client.session_mut() {
                    match chosen {
                        Err(()) => session.drop_selected(&drawn.copy, &cx),
                        Ok(_) => session.take_selected(drawn.copy, &cx, out),
                    }
                }
                client.queue(durable);
            });
            continue;
        };
        let source = drawn.source();
        let room = other.with(|client, _| client.session().map(Session::has_room_to_be_chosen));
        let has_room = room.flatten() == Some(true);
        conn.with(|client, _| {
            if let Some(session) = client.session_mut() {
                let delay_ms = if has_room { HAND_OVER_MS } else { PATIENCE_MS };
                session.hand_over(source, delay_ms);
            }
            client.queue(durable);
        });
        if has_room {
            // Behind the release, in the queue of the shard.
            other.with(|client, _| {
                if let Some(session) = client.session_mut() {
                    session.is_chosen_for(source);
                }
                client.queue(durable);
            });
        }
    }
    link::run(tenant.durable());
    conn.flush_soon();
}
