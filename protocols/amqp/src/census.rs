//! Who is connected: for whoever looks at the service, and to end connections.
//!
//! What a connection does is counted by itself, with plain numbers under its own lock, and read when somebody asks; a
//! connection that is gone leaves its numbers here, so that totals never go back.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use longtail_edge::{CloseReason, Connection, Endpoint};
use parking_lot::Mutex;

use crate::service::Amqp;
use crate::session::{ConnectionState, Counts};

type Conn = Connection<Amqp>;

/// The connections of a service, by number.
#[derive(Default)]
pub struct Census {
    connections: Mutex<BTreeMap<u64, Entry>>,
    gone: Mutex<Counts>,
    /// The largest that was ever told: one that is just leaving is nowhere for a moment.
    told: Mutex<Counts>,
}

struct Entry {
    conn: Weak<Conn>,
    name: Arc<str>,
    since: SystemTime,
}

/// A connection that somebody looks at.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its number.
    pub number: u64,
    /// `PEER -> LOCAL`: unique while it lasts.
    pub name: Arc<str>,
    /// The other end.
    pub peer: Endpoint,
    /// This end.
    pub local: Endpoint,
    /// When it was opened.
    pub since: SystemTime,
    /// Octets from the client.
    pub bytes_in: u64,
    /// Octets to the client.
    pub bytes_out: u64,
    /// The rest.
    pub state: ConnectionState,
}

/// What there is in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections.
    pub connections: u64,
    /// Channels.
    pub channels: u64,
    /// Consumers.
    pub consumers: u64,
    /// Messages since the service started.
    pub counts: Counts,
}

impl Census {
    pub(crate) fn add(&self, number: u64, conn: &Arc<Conn>) {
        let entry = Entry {
            name: name_of(number, conn.peer(), conn.local()).into(),
            conn: Arc::downgrade(conn),
            since: SystemTime::now(),
        };
        self.connections.lock().insert(number, entry);
    }

    pub(crate) fn remove(&self, number: u64, counts: &Counts) {
        self.gone.lock().add(counts);
        self.connections.lock().remove(&number);
    }

    fn live(&self) -> Vec<(u64, Arc<str>, SystemTime, Arc<Conn>)> {
        let connections = self.connections.lock();
        let live = connections.iter().filter_map(|(number, entry)| {
            let conn = entry.conn.upgrade()?;
            Some((*number, Arc::clone(&entry.name), entry.since, conn))
        });
        live.collect()
    }

    /// Everybody, by number. Takes the lock of one connection after the other.
    #[must_use]
    pub fn all(&self) -> Vec<Seen> {
        let seen = |(number, name, since, conn): (_, _, _, Arc<Conn>)| {
            let state = conn.with(|client, _| client.session().about())?;
            Some(Seen {
                number,
                name,
                peer: conn.peer().clone(),
                local: conn.local().clone(),
                since,
                bytes_in: conn.bytes_in(),
                bytes_out: conn.bytes_out(),
                state,
            })
        };
        self.live().into_iter().filter_map(seen).collect()
    }

    /// The sum of everybody, with what those that are gone have done.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            counts: *self.gone.lock(),
            ..Totals::default()
        };
        for (_, _, _, conn) in self.live() {
            let found =
                conn.with(|client, _| (client.session().counts(), client.session().sizes()));
            if let Some((counts, (channels, consumers))) = found {
                totals.connections += 1;
                totals.channels += channels;
                totals.consumers += consumers;
                totals.counts.add(&counts);
            }
        }
        let mut told = self.told.lock();
        told.raise(&totals.counts);
        totals.counts = *told;
        totals
    }

    /// Connections that are in a vhost, and those of a user.
    #[must_use]
    pub fn tenancies(&self, vhost: &str, user: &str) -> (u64, u64) {
        let (mut of_vhost, mut of_user) = (0, 0);
        for (_, _, _, conn) in self.live() {
            conn.with(|client, _| {
                if let Some((at, who)) = client.session().tenancy() {
                    of_vhost += u64::from(*at == *vhost);
                    of_user += u64::from(who == user);
                }
            });
        }
        (of_vhost, of_user)
    }

    /// Ends what `wanted` picks by name, vhost and user; its client is told with 320 and this text. Returns how many.
    pub fn end(&self, text: &str, wanted: impl Fn(&str, &str, &str) -> bool) -> usize {
        let mut ended = 0;
        for (_, name, _, conn) in self.live() {
            let told = conn.with(|client, out| {
                let state = client.session().tenancy();
                let (vhost, user) = match &state {
                    Some((vhost, user)) => (&**vhost, *user),
                    None => ("", ""),
                };
                let picked = wanted(&name, vhost, user);
                if picked {
                    client.session_mut().evict(text, out);
                }
                picked
            });
            if told == Some(true) {
                ended += 1;
                conn.close(CloseReason::Kicked);
                conn.flush_soon();
            }
        }
        ended
    }

    /// Everybody's rights are looked up once more. Whoever is nobody any more is told so and goes.
    pub(crate) fn judge_again(&self) {
        for (_, _, _, conn) in self.live() {
            let known = conn.with(|client, _| {
                let (vhost, user) = client.session().tenancy()?;
                Some((vhost, user.to_owned()))
            });
            let Some((vhost, user)) = known.flatten() else {
                continue;
            };
            let service = conn.protocol();
            let space = service.tenant().space_of(&vhost);
            match service.admission().now(&user, &space) {
                Standing::Same => {}
                Standing::Granted(grants) => {
                    conn.with(|client, _| client.session_mut().set_grants(grants));
                }
                Standing::Gone => {
                    tracing::info!(%user, "its account is gone");
                    let text = format!("user '{user}' was deleted");
                    conn.with(|client, out| client.session_mut().evict(&text, out));
                    conn.close(CloseReason::Kicked);
                    conn.flush_soon();
                }
            }
        }
    }
}

/// What has become of somebody's rights.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Nothing that is known of.
    Same,
    /// These are in force now.
    Granted(Arc<longtail_broker::auth::Grants>),
    /// There is no such account any more.
    Gone,
}

fn name_of(number: u64, peer: &Endpoint, local: &Endpoint) -> String {
    match peer {
        Endpoint::Tcp(_) => format!("{peer} -> {local}"),
        // Clients of a Unix socket have no address of their own.
        Endpoint::Unix(_) => format!("{peer}:{number} -> {local}"),
    }
}
