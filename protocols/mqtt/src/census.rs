//! What an operator sees of the sessions, and does to them.
//!
//! Nothing is counted beforehand for this: whoever asks pays, with a walk over the registry that locks a part of it, and
//! one session at a time, for as long as it takes to read some numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use longtail_edge::{CloseReason, Endpoint};
use longtail_engine::StreamName;
use longtail_engine::config::GroupName;
use longtail_model::{DollarRule, Filter, ShardId, SubjectRef, Timestamp};

use crate::codec::{Qos, ReasonCode, Version};
use crate::registry::{Aftermath, Seen};
use crate::session::{Held, Levels, Session, State, Tag};
use crate::tenant::Tenant;

/// All sessions, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Clients connected, by version: 3.1, 3.1.1, 5.0.
    pub connected: [u64; 3],
    /// Sessions whose clients are away.
    pub away: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Those of them that are shared.
    pub shared: u64,
    /// Messages that wait behind windows, counted for every session.
    pub queued: u64,
    /// Their payload bytes.
    pub queued_bytes: u64,
    /// Messages sent and not acknowledged.
    pub in_flight: u64,
    /// Bytes that wait to be written to clients.
    pub outbox_bytes: u64,
}

impl Census {
    /// Sessions.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.connected.iter().sum::<u64>() + self.away
    }

    fn add(&mut self, levels: &Levels) {
        self.subscriptions += levels.subscriptions as u64;
        self.shared += levels.shared as u64;
        self.queued += levels.queued as u64;
        self.queued_bytes += levels.queued_bytes as u64;
        self.in_flight += levels.in_flight as u64;
    }
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionView {
    /// Its client's identifier.
    pub client_id: Arc<str>,
    /// Its client's account; of a session that is away, the one that it was left with.
    pub account: Option<Arc<str>>,
    /// The name that its client gave, if it is there, or its account.
    pub username: Option<Arc<str>>,
    /// The version its client speaks, or spoke.
    pub version: Option<Version>,
    /// Where its client is, if it is there.
    pub connected: Option<ConnectedView>,
    /// When it ends, if its client is away and it ends at all.
    pub expires: Option<Timestamp>,
    /// What it holds.
    pub levels: Levels,
}

/// The connection of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedView {
    /// Its number at the edge.
    pub connection: u64,
    /// The other end.
    pub peer: String,
    /// The other end's address; none of a Unix socket.
    pub address: Option<SocketAddr>,
    /// The listener, by the address that it was given.
    pub listener: Arc<str>,
    /// When the client was let in.
    pub since: Timestamp,
    /// The client wanted a new session.
    pub clean_start: bool,
    /// The client says that it is a broker.
    pub bridge: bool,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Messages received.
    pub received: u64,
    /// Messages sent.
    pub sent: u64,
    /// Seconds that the session will outlive it; `u32::MAX`: for ever.
    pub expiry_s: u32,
    /// Seconds after which something has to come from the client; 0: no matter.
    pub keep_alive_s: u16,
}

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionView {
    /// Whose.
    pub client_id: Arc<str>,
    /// As the client says it, `$share` included.
    pub filter: Box<str>,
    /// The share it is a member of.
    pub share: Option<Arc<str>>,
    /// Highest QoS.
    pub qos: Qos,
    /// Not what the client has published itself.
    pub no_local: bool,
    /// Whether retained messages come marked as such as long as they are published so.
    pub retain_as_published: bool,
    /// Its identifier, of MQTT 5.0.
    pub id: Option<NonZeroU32>,
}

impl SubscriptionView {
    fn new(client_id: &Arc<str>, filter: &str, held: &Held) -> Self {
        let tag = Tag::unpack(held.options.tag);
        SubscriptionView {
            client_id: Arc::clone(client_id),
            filter: filter.into(),
            share: held.group.clone(),
            qos: tag.qos,
            no_local: held.options.no_local,
            retain_as_published: tag.retain_as_published,
            id: tag.id,
        }
    }
}

/// Which sessions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'q> {
    /// Their identifiers contain this.
    pub contains: &'q str,
    /// Whether their clients are there; `None`: no matter.
    pub connected: Option<bool>,
    /// They have a subscription that matches this topic.
    pub matches: Option<SubjectRef<'q>>,
    /// Their identifiers come after this, byte by byte.
    pub after: Option<&'q str>,
}

impl Wanted<'_> {
    /// `None`: its connection begins or ends just now, and nobody can say yet.
    fn includes(&self, client_id: &str, seen: &Seen<'_>) -> Option<bool> {
        if self.after.is_some_and(|after| client_id <= after) || !client_id.contains(self.contains)
        {
            return Some(false);
        }
        let has = with_settled(seen, |state| {
            self.matches.is_none_or(|topic| {
                let mut held = state.subscriptions.values();
                held.any(|held| held.matches(topic))
            })
        })?;
        let connected = matches!(seen, Seen::Connected(_));
        Some(has && self.connected.is_none_or(|wanted| wanted == connected))
    }
}

impl Held {
    /// Whether a message with this topic is for it.
    fn matches(&self, topic: SubjectRef<'_>) -> bool {
        self.filter.matches_with(topic, DollarRule::Hide)
    }
}

/// Which subscriptions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filters<'q> {
    /// Their filters contain this, `$share` included.
    pub contains: &'q str,
    /// They match this topic.
    pub matches: Option<SubjectRef<'q>>,
}

impl Filters<'_> {
    fn include(&self, text: &str, held: &Held) -> bool {
        text.contains(self.contains) && self.matches.is_none_or(|topic| held.matches(topic))
    }
}

/// What became of a kick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kicked {
    /// Its client was told to go.
    Disconnected,
    /// It is gone, with what it kept.
    Forgotten,
    /// Its client was away already.
    Away,
    /// Its connection ends just now, and nobody can say yet what is left of the session: ask again.
    Ending,
    /// There is no such session.
    Unknown,
}

impl Tenant {
    /// Counts everything, and has the sessions hand over what they have counted.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        self.registry().for_each(|_, seen| match seen {
            Seen::Connected(conn) => {
                census.outbox_bytes += conn.outbox_bytes() as u64;
                conn.with(|client, _| {
                    let Some(session) = client.session() else {
                        return;
                    };
                    self.counters().take_over(session.tally());
                    if session.is_open() {
                        let version = match session.hello().version {
                            Version::V31 => 0,
                            Version::V311 => 1,
                            Version::V5 => 2,
                        };
                        census.connected[version] += 1;
                        census.add(&session.levels());
                    }
                });
            }
            Seen::Away(membership, _) => {
                census.away += 1;
                membership.look(|state| census.add(&state.levels()));
            }
        });
        census
    }

    /// The first `limit` sessions that are wanted, in the order of their identifiers. Waits for connections that begin or
    /// end just now, a second at most in all: a session that outlives its connection is not left out.
    pub async fn find_sessions(&self, wanted: &Wanted<'_>, limit: usize) -> Vec<SessionView> {
        let mut unsettled = Vec::new();
        let mut names = self.names(wanted, limit, |client_id| {
            unsettled.push(Arc::clone(client_id));
            false
        });
        let mut rounds = ENDINGS;
        for client_id in unsettled {
            let includes = |id: &Arc<str>, seen: &Seen<'_>| wanted.includes(id, seen);
            let included = self.settled(&client_id, &mut rounds, includes).await;
            if included == Some(true) {
                names.insert(client_id);
                if names.len() > limit {
                    names.pop_last();
                }
            }
        }
        self.views(names.iter(), &mut rounds).await
    }

    /// A page of the sessions that `wanted` is for, in the order of their identifiers, and how many there are in all.
    /// Holds no more names than come before the end of the page, and those of connections that begin or end just now,
    /// for which it waits as [`Tenant::find_sessions`] does.
    pub async fn page_of_sessions(
        &self,
        wanted: impl Fn(&SessionView) -> bool,
        skip: usize,
        limit: usize,
    ) -> (Vec<SessionView>, usize) {
        let end = skip.saturating_add(limit);
        let (mut count, mut rounds) = (0, ENDINGS);
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut add = |client_id: &Arc<str>| {
            count += 1;
            names.insert(Arc::clone(client_id));
            if names.len() > end {
                names.pop_last();
            }
        };
        let mut unsettled = Vec::new();
        self.registry()
            .for_each(|client_id, seen| match view(client_id, seen) {
                Some(view) if wanted(&view) => add(client_id),
                Some(_) => {}
                None => unsettled.push(Arc::clone(client_id)),
            });
        for client_id in unsettled {
            let view = self.settled(&client_id, &mut rounds, view).await;
            if view.is_some_and(|view| wanted(&view)) {
                add(&client_id);
            }
        }
        let page = names.iter().skip(skip);
        (self.views(page, &mut rounds).await, count)
    }

    /// These sessions, as far as they are still there.
    async fn views(
        &self,
        names: impl Iterator<Item = &Arc<str>>,
        rounds: &mut usize,
    ) -> Vec<SessionView> {
        let mut views = Vec::new();
        for client_id in names {
            views.extend(self.settled(client_id, rounds, view).await);
        }
        views
    }

    /// What `look` finds out about a session, which it is asked again while it finds nothing, as long as there are rounds
    /// left: its connection begins or ends just now.
    async fn settled<R>(
        &self,
        client_id: &str,
        rounds: &mut usize,
        look: impl Fn(&Arc<str>, &Seen<'_>) -> Option<R>,
    ) -> Option<R> {
        loop {
            match self.registry().look(client_id, &look) {
                Some(None) if *rounds > 0 => {
                    *rounds -= 1;
                    tokio::time::sleep(ENDING).await;
                }
                found => return found.flatten(),
            }
        }
    }

    /// Looks at every subscription, in the order of clients and filters.
    pub fn look_at_subscriptions(&self, mut look: impl FnMut(SubscriptionView)) {
        let mut after: Option<(Arc<str>, Box<str>)> = None;
        loop {
            let last = after
                .as_ref()
                .map(|(client, filter)| (&**client, &**filter));
            let found = self.find_subscriptions(&Filters::default(), last, SUBSCRIPTIONS_STEP);
            let is_over = found.len() < SUBSCRIPTIONS_STEP;
            after = found
                .last()
                .map(|last| (Arc::clone(&last.client_id), last.filter.clone()));
            found.into_iter().for_each(&mut look);
            if is_over {
                return;
            }
        }
    }

    /// The accounts of these connections, which are named by their numbers at the edge: those that have one.
    #[must_use]
    pub fn accounts_of(&self, connections: &HashSet<u64>) -> HashMap<u64, Arc<str>> {
        let mut accounts = HashMap::new();
        if connections.is_empty() {
            return accounts;
        }
        self.registry().for_each(|_, seen| {
            let Seen::Connected(conn) = seen else {
                return;
            };
            let number = conn.id().0;
            if connections.contains(&number) {
                let account = conn.with(|client, _| client.session()?.account().cloned());
                accounts.extend(account.flatten().map(|account| (number, account)));
            }
        });
        accounts
    }

    /// The session of one client. `None` also while its connection begins or ends; [`Tenant::await_session`] waits.
    #[must_use]
    pub fn find_session(&self, client_id: &str) -> Option<SessionView> {
        self.registry().look(client_id, view).flatten()
    }

    /// As [`Tenant::find_session`], and waits for a connection that begins or ends just now, a second at most: a session
    /// that outlives its connection is never said to be unknown.
    pub async fn await_session(&self, client_id: &str) -> Option<SessionView> {
        self.settled(client_id, &mut ENDINGS.clone(), view).await
    }

    /// Where messages wait for a session that outlives the process: the shard, and the streams of its filters with its
    /// group in each, or that of the share it is a member of. What waits there is not among [`Levels::queued`].
    #[must_use]
    pub fn backlog(&self, client_id: &str) -> (ShardId, Vec<(StreamName, GroupName)>) {
        let durable = self.durable();
        let mut streams = Vec::new();
        self.registry().look(client_id, |_, seen| {
            with_state(seen, |state| {
                let held = state.subscriptions.values();
                streams.extend(held.filter(|held| held.has_stream()).map(|held| {
                    let group = held.stream_group(state.number);
                    (durable.stream_name(&held.filter), group)
                }));
            });
        });
        // Several subscriptions may have one filter.
        streams.sort_unstable();
        streams.dedup();
        (durable.home(), streams)
    }

    /// The first `limit` names that are wanted. Never holds more than these. `unsettled` says whether the name of a session
    /// of which nobody can say it yet is one of them.
    fn names(
        &self,
        wanted: &Wanted<'_>,
        limit: usize,
        mut unsettled: impl FnMut(&Arc<str>) -> bool,
    ) -> BTreeSet<Arc<str>> {
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        self.registry().for_each(|client_id, seen| {
            let is_late = names.len() >= limit && names.last().is_none_or(|last| client_id >= last);
            if !is_late
                && wanted
                    .includes(client_id, seen)
                    .unwrap_or_else(|| unsettled(client_id))
            {
                names.insert(Arc::clone(client_id));
                if names.len() > limit {
                    names.pop_last();
                }
            }
        });
        names
    }

    /// The first `limit` subscriptions of one client that are wanted after the filter `after`. Waits for a connection that
    /// begins or ends just now, as [`Tenant::await_session`] does. `None`: there is no such session.
    pub async fn await_subscriptions(
        &self,
        client_id: &str,
        wanted: &Filters<'_>,
        after: Option<&str>,
        limit: usize,
    ) -> Option<Vec<SubscriptionView>> {
        let look = |client_id: &Arc<str>, seen: &Seen<'_>| {
            with_settled(seen, |state| select(state, client_id, wanted, after, limit))
        };
        self.settled(client_id, &mut ENDINGS.clone(), look).await
    }

    /// The first `limit` subscriptions that are wanted after the one that is named by client and filter, in this order.
    #[must_use]
    pub fn find_subscriptions(
        &self,
        wanted: &Filters<'_>,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Vec<SubscriptionView> {
        let mut found = Vec::new();
        let client = after.map(|(client, _)| client);
        if let Some((client, filter)) = after {
            self.add_subscriptions(client, wanted, Some(filter), limit, &mut found);
        }
        let mut last: Option<Arc<str>> = client.map(Arc::from);
        while found.len() < limit {
            let sessions = Wanted {
                after: last.as_deref(),
                ..Wanted::default()
            };
            let names = self.names(&sessions, SESSIONS_STEP, |_| true);
            for client_id in &names {
                self.add_subscriptions(client_id, wanted, None, limit, &mut found);
            }
            last = match names.last() {
                Some(name) if names.len() == SESSIONS_STEP => Some(Arc::clone(name)),
                _ => break,
            };
        }
        found
    }

    /// Adds subscriptions of one session, until there are `limit`.
    fn add_subscriptions(
        &self,
        client_id: &str,
        wanted: &Filters<'_>,
        after: Option<&str>,
        limit: usize,
        found: &mut Vec<SubscriptionView>,
    ) {
        if found.len() >= limit {
            return;
        }
        let left = limit - found.len();
        self.registry().look(client_id, |client_id, seen| {
            with_state(seen, |state| {
                found.extend(select(state, client_id, wanted, after, left));
            });
        });
    }

    /// The sessions with a subscription to exactly this filter whose clients are away. Looks at every session.
    #[must_use]
    pub fn away(&self, filter: &Filter) -> Vec<Arc<str>> {
        let mut away = Vec::new();
        self.registry().for_each(|client_id, seen| {
            if let Seen::Away(membership, _) = seen
                && membership.look(|state| {
                    let mut held = state.subscriptions.values();
                    held.any(|held| held.filter == *filter)
                })
            {
                away.push(Arc::clone(client_id));
            }
        });
        away
    }

    /// Disconnects a client (MQTT 5.0: 0x98, administrative action). With `forget`, its session ends too, also that of
    /// a client that is away. Its will is published.
    pub fn kick(self: &Arc<Self>, client_id: &str, forget: bool) -> Kicked {
        let conn = self.registry().look(client_id, |_, seen| match seen {
            Seen::Connected(conn) => Some(Arc::clone(conn)),
            Seen::Away(..) => None,
        });
        match conn {
            None => Kicked::Unknown,
            Some(Some(conn)) => {
                let told = conn.with(|client, out| {
                    if let Some(session) = client.session_mut() {
                        if forget {
                            session.end_with_connection();
                        }
                        session.expel(ReasonCode::AdministrativeAction, out);
                    }
                });
                conn.close(CloseReason::Refused("an operator has ended it".into()));
                match told {
                    Some(()) => Kicked::Disconnected,
                    None => Kicked::Ending,
                }
            }
            Some(None) if forget => {
                let mut after = Aftermath::default();
                let gone = self.registry().forget(client_id, self, &mut after);
                after.carry_out(self);
                if gone {
                    Kicked::Forgotten
                } else {
                    Kicked::Away
                }
            }
            Some(None) => Kicked::Away,
        }
    }

    /// As [`Tenant::kick`], and waits for a connection that ends just now.
    pub async fn expel(self: &Arc<Self>, client_id: &str, forget: bool) -> Kicked {
        let mut kicked = self.kick(client_id, forget);
        for _ in 0..ENDINGS {
            if kicked != Kicked::Ending {
                break;
            }
            tokio::time::sleep(ENDING).await;
            kicked = self.kick(client_id, forget);
        }
        kicked
    }
}

/// How long a connection that ends is given until it is looked at again, and how often.
const ENDING: Duration = Duration::from_millis(2);
const ENDINGS: usize = 500;

/// Sessions whose subscriptions are looked at together.
const SESSIONS_STEP: usize = 1000;

/// Subscriptions that are held at a time while all are looked at.
const SUBSCRIPTIONS_STEP: usize = 1000;

/// The first `limit` subscriptions of a session that are wanted after the filter `after`.
fn select(
    state: &State,
    client_id: &Arc<str>,
    wanted: &Filters<'_>,
    after: Option<&str>,
    limit: usize,
) -> Vec<SubscriptionView> {
    let mut sorted: BTreeMap<Box<str>, SubscriptionView> = BTreeMap::new();
    for (text, held) in state.subscriptions.iter() {
        let is_after = after.is_none_or(|after| **text > *after);
        if is_after && wanted.include(text, held) {
            let view = SubscriptionView::new(client_id, text, held);
            sorted.insert(text.clone(), view);
            if sorted.len() > limit {
                sorted.pop_last();
            }
        }
    }
    sorted.into_values().collect()
}

/// `None`: its connection begins or ends just now.
fn view(client_id: &Arc<str>, seen: &Seen<'_>) -> Option<SessionView> {
    match seen {
        Seen::Connected(conn) => {
            let view = |session: &Session| {
                let (hello, info) = (session.hello(), session.hooked().client());
                let (received, sent) = session.tally().messages();
                let connected = ConnectedView {
                    connection: conn.id().0,
                    peer: conn.peer().to_string(),
                    address: match conn.peer() {
                        Endpoint::Tcp(address) => Some(*address),
                        Endpoint::Unix(_) => None,
                    },
                    listener: info.map(|info| info.listener()).unwrap_or_default(),
                    since: info.map_or(Timestamp(0), |info| info.since),
                    clean_start: hello.clean_start,
                    bridge: hello.bridge,
                    bytes_in: conn.bytes_in(),
                    bytes_out: conn.bytes_out(),
                    received,
                    sent,
                    expiry_s: hello.expiry_s,
                    keep_alive_s: hello.keep_alive_s,
                };
                SessionView {
                    client_id: Arc::clone(client_id),
                    account: session.account().cloned(),
                    username: hello.username.as_ref().or(session.account()).cloned(),
                    version: Some(hello.version),
                    connected: Some(connected),
                    expires: None,
                    levels: session.levels(),
                }
            };
            conn.with(|client, _| {
                client
                    .session()
                    .filter(|session| session.is_open())
                    .map(view)
            })
            .flatten()
        }
        Seen::Away(membership, expires) => Some(membership.look(|state| SessionView {
            client_id: Arc::clone(client_id),
            account: state.about().and_then(|about| about.account.clone()),
            username: state.about().and_then(|about| about.account.clone()),
            version: state.about().map(|about| about.version),
            connected: None,
            expires: *expires,
            levels: state.levels(),
        })),
    }
}

/// As [`with_state`]. `None`: its connection begins or ends just now.
fn with_settled<R>(seen: &Seen<'_>, look: impl FnOnce(&State) -> R) -> Option<R> {
    match seen {
        Seen::Connected(conn) => conn
            .with(|client, _| {
                let session = client.session().filter(|session| session.is_open())?;
                Some(look(session.state()))
            })
            .flatten(),
        Seen::Away(membership, _) => Some(membership.look(look)),
    }
}

pub(crate) fn with_state(seen: &Seen<'_>, look: impl FnOnce(&State)) {
    match seen {
        Seen::Connected(conn) => {
            conn.with(|client, _| {
                if let Some(session) = client.session() {
                    look(session.state());
                }
            });
        }
        Seen::Away(membership, _) => membership.look(look),
    }
}
