//! Who is connected: for whoever looks at the service, and to end connections.
//!
//! What a connection does is counted by itself, with plain numbers under its own lock, and read when somebody asks; a
//! connection that is gone leaves its numbers here, so that totals never go back.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use longtail_broker::auth::Principal;
use longtail_edge::{CloseReason, Connection, Encryption, Endpoint, TlsIdentity};
use parking_lot::Mutex;

use crate::service::Amqp;
use crate::session::{ConnectionState, Counts};

type Conn = Connection<Amqp>;

/// The connections of a service, by number.
#[derive(Default)]
pub struct Census {
    connections: Mutex<BTreeMap<u64, Entry>>,
    seats: Mutex<Seats>,
    gone: Mutex<Counts>,
    /// The same by vhost, with octets.
    gone_of: Mutex<HashMap<Arc<str>, Traffic>>,
    /// The largest that was ever told: one that is just leaving is nowhere for a moment.
    told: Mutex<Counts>,
}

struct Entry {
    conn: Weak<Conn>,
    name: Arc<str>,
    since: SystemTime,
    /// Vhost and account, or user where there is no account, once it is let in.
    seat: Option<(Arc<str>, Arc<str>)>,
}

/// How many there are of a vhost, and of a user: all that have one account together.
#[derive(Default)]
struct Seats {
    vhosts: HashMap<Arc<str>, u64>,
    users: HashMap<Arc<str>, UserSeats>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct UserSeats {
    connections: u64,
    channels: u64,
}

/// What may be there at most. `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeatLimits {
    /// Connections of the vhost.
    pub vhost_connections: Option<u64>,
    /// Connections of the user, in all vhosts.
    pub user_connections: Option<u64>,
    /// Channels of the user, on all connections.
    pub user_channels: Option<u64>,
}

/// What went through connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Octets from clients.
    pub bytes_in: u64,
    /// Octets to clients.
    pub bytes_out: u64,
    /// Messages.
    pub counts: Counts,
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
    /// How it is encrypted, if it is.
    pub encryption: Option<Encryption>,
    /// Whom the client's certificate names, if it has shown one.
    pub identity: Option<Arc<TlsIdentity>>,
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
    /// Channels that have published something.
    pub publishers: u64,
    /// Messages since the service started.
    pub counts: Counts,
}

impl Census {
    pub(crate) fn add(&self, number: u64, conn: &Arc<Conn>) {
        let entry = Entry {
            name: name_of(number, conn.peer(), conn.local()).into(),
            conn: Arc::downgrade(conn),
            since: SystemTime::now(),
            seat: None,
        };
        self.connections.lock().insert(number, entry);
    }

    pub(crate) fn remove(&self, number: u64, counts: &Counts) {
        self.gone.lock().add(counts);
        let removed = self.connections.lock().remove(&number);
        let Some(entry) = removed else { return };
        if let Some((vhost, user)) = entry.seat {
            if let Some(conn) = entry.conn.upgrade() {
                let mut all = self.gone_of.lock();
                let of = all.entry(Arc::clone(&vhost)).or_default();
                of.bytes_in += conn.bytes_in();
                of.bytes_out += conn.bytes_out();
                of.counts.add(counts);
            }
            let mut seats = self.seats.lock();
            if let Some(count) = seats.vhosts.get_mut(&vhost) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    seats.vhosts.remove(&vhost);
                }
            }
            seats.change(&user, |of| {
                of.connections = of.connections.saturating_sub(1);
            });
        }
    }

    /// Gives a connection its place in a vhost, if there is room.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn seat(
        &self,
        number: u64,
        vhost: &Arc<str>,
        user: &Arc<str>,
        limits: &SeatLimits,
    ) -> Result<(), String> {
        let mut connections = self.connections.lock();
        // One from within is no client.
        let Some(entry) = connections.get_mut(&number) else {
            return Ok(());
        };
        let mut seats = self.seats.lock();
        let of_vhost = seats.vhosts.get(vhost).copied().unwrap_or(0);
        if let Some(limit) = limits.vhost_connections.filter(|limit| of_vhost >= *limit) {
            return Err(format!(
                "access to vhost '{vhost}' refused for user '{user}': connection limit ({limit}) is reached"
            ));
        }
        let of_user = seats.users.get(&**user).copied().unwrap_or_default();
        if let Some(limit) = limits
            .user_connections
            .filter(|limit| of_user.connections >= *limit)
        {
            return Err(format!(
                "connection refused for user '{user}': user connection limit ({limit}) is reached"
            ));
        }
        *seats.vhosts.entry(Arc::clone(vhost)).or_default() += 1;
        seats.change(user, |of| of.connections += 1);
        entry.seat = Some((Arc::clone(vhost), Arc::clone(user)));
        Ok(())
    }

    /// One more channel of a user, if there is room.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn open_channel(&self, user: &str, limit: Option<u64>) -> Result<(), String> {
        let mut seats = self.seats.lock();
        let of_user = seats.users.get(user).copied().unwrap_or_default();
        if let Some(limit) = limit.filter(|limit| of_user.channels >= *limit) {
            return Err(format!(
                "number of channels opened for user '{user}' has reached the maximum allowed user limit of ({limit})"
            ));
        }
        seats.change(&user.into(), |of| of.channels += 1);
        Ok(())
    }

    /// So many channels less.
    pub(crate) fn close_channels(&self, user: &str, count: u64) {
        let mut seats = self.seats.lock();
        if count > 0 {
            seats.change(&user.into(), |of| {
                of.channels = of.channels.saturating_sub(count);
            });
        }
    }

    /// The user of a connection, once it is let in.
    #[must_use]
    pub fn user_of(&self, connection: u64) -> Option<Arc<str>> {
        let connections = self.connections.lock();
        let (_, user) = connections.get(&connection)?.seat.as_ref()?;
        Some(Arc::clone(user))
    }

    /// What went through connections of a vhost that are gone.
    #[must_use]
    pub fn gone_of(&self, vhost: &str) -> Traffic {
        self.gone_of.lock().get(vhost).copied().unwrap_or_default()
    }

    /// A vhost is gone, with what its connections have done.
    pub(crate) fn forget(&self, vhost: &str) {
        self.gone_of.lock().remove(vhost);
    }

    /// Connections of a vhost.
    #[must_use]
    pub fn connections_of(&self, vhost: &str) -> u64 {
        self.seats.lock().vhosts.get(vhost).copied().unwrap_or(0)
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
                encryption: conn.encryption(),
                identity: conn.shared_identity(),
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
            if let Some((counts, (channels, consumers, publishers))) = found {
                totals.connections += 1;
                totals.channels += channels;
                totals.consumers += consumers;
                totals.publishers += publishers;
                totals.counts.add(&counts);
            }
        }
        let mut told = self.told.lock();
        told.raise(&totals.counts);
        totals.counts = *told;
        totals
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

    /// Nothing is short any more: those that were blocked may publish.
    pub(crate) fn unblock(&self) {
        for (_, _, _, conn) in self.live() {
            let was = conn.with(|client, out| client.session_mut().unblock(out));
            if let Some(Some(heartbeat)) = was {
                conn.set_idle_timeout(crate::service::silence(heartbeat));
                conn.resume();
                conn.flush_soon();
            }
        }
    }

    /// Looks up once more what each connected client may do.
    pub(crate) fn judge_again(&self) {
        for (_, _, _, conn) in self.live() {
            let known = conn.with(|client, _| {
                let session = client.session();
                let (vhost, user) = session.tenancy()?;
                Some((vhost, user.to_owned(), session.principal().cloned()))
            });
            let Some((vhost, user, principal)) = known.flatten() else {
                continue;
            };
            let has_account = principal.is_some();
            // There may be an account of that name by now.
            let principal = principal.unwrap_or_else(|| Principal::named(user.as_str()));
            let service = conn.protocol();
            let space = service.tenant().space_of(&vhost);
            match service.admission().now(&principal, &space) {
                Standing::Same => {}
                Standing::Granted(grants) => {
                    conn.with(|client, _| client.session_mut().set_grants(grants));
                }
                // One who came without an account has lost nothing.
                Standing::Gone if !has_account => {}
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

impl Seats {
    /// A user without anything is nobody.
    fn change(&mut self, user: &Arc<str>, change: impl FnOnce(&mut UserSeats)) {
        let of = self.users.entry(Arc::clone(user)).or_default();
        change(of);
        if *of == UserSeats::default() {
            self.users.remove(user);
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

pub(crate) fn name_of(number: u64, peer: &Endpoint, local: &Endpoint) -> String {
    match peer {
        Endpoint::Tcp(_) => format!("{peer} -> {local}"),
        // Clients of a Unix socket have no address of their own.
        Endpoint::Unix(_) => format!("{peer}:{number} -> {local}"),
    }
}
