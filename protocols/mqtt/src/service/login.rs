//! Who comes in, and for how long: logins and proofs, bans, the end of what a client has shown.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use longtail_broker::auth::AccountLimits;
use longtail_edge::{CloseReason, Connection};
use longtail_model::Timestamp;

use super::Mqtt;
use crate::access::{Admitted, Denied, Login, Step};
use crate::codec::ReasonCode;
use crate::hooks::{ClientInfo, Event, Points};
use crate::registry::{Aftermath, Claim, Claimed};
use crate::session::{Demand, Proof, Refused};
use crate::tenant::{Deadline, Tenant};

/// What is added to the time that a client may be silent, against clocks that are coarse.
const KEEP_ALIVE_SLACK: Duration = Duration::from_millis(300);

impl Mqtt {
    /// The client says something to prove who it is, with CONNECT and its name or later.
    pub(super) fn prove(
        &self,
        conn: &Arc<Connection<Self>>,
        proof: &Proof,
        username: Option<&str>,
    ) {
        let known = conn.with(|client, _| {
            let session = client.session.as_ref()?;
            let exchange = client.exchange.take();
            Some((Arc::clone(session.client_id()), session.is_open(), exchange))
        });
        let Some((client_id, is_open, exchange)) = known.flatten() else {
            return;
        };
        let others = self.tenant.counters().connected.load(Ordering::Relaxed);
        let login = Login {
            client_id: &client_id,
            username,
            password: None,
            remote: conn.peer(),
            identity: conn.identity(),
            // One that is in is among them.
            connections: others.saturating_sub(u64::from(is_open)),
        };
        let step = match exchange {
            _ if proof.begins => self.admission.begin(&proof.method, &proof.data, &login),
            Some(exchange) => exchange.proceed(&proof.data, &login),
            None => Err(Denied {
                reason: ReasonCode::ProtocolError,
                why: "an answer that nobody has asked for".to_owned(),
            }),
        };
        match step {
            Ok(Step::Continue(data, exchange)) => {
                conn.with(|client, out| {
                    client.exchange = Some(exchange);
                    if let Some(session) = &mut client.session {
                        session.challenge(&data, out);
                    }
                });
                if !is_open {
                    conn.flush_soon();
                    conn.resume();
                }
            }
            Ok(Step::Done(admitted, data)) if is_open => self.proved_again(conn, admitted, &data),
            Ok(Step::Done(admitted, data)) => {
                conn.with(|client, _| {
                    if let Some(session) = &mut client.session {
                        session.proved(data);
                    }
                });
                self.decided(conn, &client_id, Ok(admitted));
            }
            Err(denied) if is_open => {
                tracing::info!(client = %client_id, peer = ?conn.peer(), why = denied.why, "no proof");
                self.tenant
                    .counters()
                    .unproven
                    .fetch_add(1, Ordering::Relaxed);
                end_login(conn);
            }
            Err(denied) => self.decided(conn, &client_id, Err(denied)),
        }
    }

    /// A client that is in has proved once more who it is: from now on it has the rights that it has by now.
    fn proved_again(&self, conn: &Arc<Connection<Self>>, admitted: Admitted, data: &[u8]) {
        let Admitted {
            grants,
            principal,
            expires,
            limits: _,
        } = admitted;
        let is_same = conn.with(|client, out| {
            let session = client.session.as_mut()?;
            let is_same = session.principal() == principal.as_ref();
            if is_same {
                session.reproved(grants, data, out);
            }
            Some(is_same)
        });
        match is_same.flatten() {
            Some(true) => self.ends_at(conn, expires),
            Some(false) => {
                tracing::info!(peer = ?conn.peer(), "a client has proved that it is somebody else");
                end_login(conn);
            }
            None => {}
        }
    }

    /// What a client has shown ends then.
    fn ends_at(&self, conn: &Arc<Connection<Self>>, at: Option<Timestamp>) {
        let timers = self.tenant.timers();
        let timer = at.map(|at| timers.set(at, Deadline::Login(Arc::downgrade(conn))));
        let before = conn.with(|client, _| client.login_ends(timer));
        // It has gone meanwhile, or has shown something new.
        if let Some(old) = before.unwrap_or(timer) {
            timers.cancel(old);
        }
    }

    pub(crate) fn login(&self, conn: &Arc<Connection<Self>>, demand: Demand) {
        if let Some(proof) = &demand.proof {
            self.prove(conn, proof, demand.username.as_deref());
            return;
        }
        let client_id = conn.with(|client, _| {
            client
                .session
                .as_ref()
                .map(|session| Arc::clone(session.client_id()))
        });
        let Some(Some(client_id)) = client_id else {
            return;
        };
        let connections = self.tenant.counters().connected.load(Ordering::Relaxed);
        let login = Login {
            client_id: &client_id,
            username: demand.username.as_deref(),
            password: demand.password.as_deref(),
            remote: conn.peer(),
            identity: conn.identity(),
            connections,
        };
        if !self.admission.may_block(&login) {
            let admitted = self.admission.admit(&login);
            self.decided(conn, &client_id, admitted);
            return;
        }
        // Not on a thread that moves messages.
        let service = Arc::clone(conn.protocol());
        let conn = Arc::clone(conn);
        let id = Arc::clone(&client_id);
        let work = move || {
            let login = Login {
                client_id: &id,
                username: demand.username.as_deref(),
                password: demand.password.as_deref(),
                remote: conn.peer(),
                identity: conn.identity(),
                connections,
            };
            let admitted = service.admission.admit(&login);
            service.decided(&conn, &id, admitted);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn_blocking(work);
            }
            Err(_) => work(),
        }
    }

    /// Refuses a client that is banned; whether it is.
    pub(super) fn keeps_out(&self, conn: &Arc<Connection<Self>>, user: Option<&str>) -> bool {
        let client_id = conn.with(|client, _| {
            let session = client.session.as_ref()?;
            Some(Arc::clone(session.client_id()))
        });
        let Some(client_id) = client_id.flatten() else {
            return true;
        };
        let bans = self.tenant.bans();
        let found = bans.find(&client_id, user, conn.peer().ip(), self.tenant.now());
        let Some(ban) = found else {
            return false;
        };
        tracing::info!(client = %client_id, peer = ?conn.peer(), ban = %ban.who, "kept out");
        self.refuse(conn, ReasonCode::Banned);
        true
    }

    /// The login is decided.
    pub(crate) fn decided(
        &self,
        conn: &Arc<Connection<Self>>,
        client_id: &Arc<str>,
        admitted: Result<Admitted, Denied>,
    ) {
        let tenant = &self.tenant;
        let origin = Tenant::origin(client_id);
        let Admitted {
            grants,
            principal,
            expires,
            limits,
        } = match admitted {
            Ok(admitted) => admitted,
            Err(denied) => {
                tracing::info!(client = %client_id, peer = ?conn.peer(), why = denied.why, "not let in");
                let is_full = [ReasonCode::QuotaExceeded, ReasonCode::ServerBusy];
                if !is_full.contains(&denied.reason) {
                    tenant.counters().unproven.fetch_add(1, Ordering::Relaxed);
                }
                self.refuse(conn, denied.reason);
                return;
            }
        };
        let account = principal.as_ref().map(|own| Arc::clone(&own.account));
        if account.is_some() && self.keeps_out(conn, account.as_deref()) {
            return;
        }
        if let Some(account) = &account
            && !self.has_room(account, client_id, &limits)
        {
            tracing::info!(client = %client_id, %account, "its account has as many connections as it may");
            self.refuse(conn, ReasonCode::QuotaExceeded);
            return;
        }
        if let Some(ban) = tenant.bans().count_connect(client_id, tenant.now()) {
            tenant.ban_now(ban);
            self.refuse(conn, ReasonCode::Banned);
            return;
        }
        let authorized = conn.with(|client, _| {
            let session = client.session.as_mut()?;
            session.introduce(ClientInfo::new(
                Arc::clone(client_id),
                account.clone(),
                Some(conn.peer().clone()),
                session.hello().version,
                tenant.now(),
                Arc::clone(&self.chain),
            ));
            if let Some((account, max)) = account.as_ref().zip(limits.subscriptions_max) {
                session.set_share(tenant.counters().usage().share(account, max));
            }
            let authorized = session.authorize(grants, principal, origin, &self.limits);
            let hello = session.hello();
            let claim = Claim {
                client_id: Arc::clone(&hello.client_id),
                conn: Arc::clone(conn),
                clean_start: hello.clean_start,
                expiry_s: hello.expiry_s,
            };
            Some(authorized.map(|()| (claim, hello.keep_alive_s)))
        });
        let (claim, keep_alive_s) = match authorized.flatten() {
            None => return,
            Some(Ok(claim)) => claim,
            Some(Err(refused)) => {
                self.refuse_with(conn, refused);
                return;
            }
        };
        conn.set_idle_timeout(keep_alive(keep_alive_s, self.limits.keep_alive_percent));
        let mut after = Aftermath::default();
        let claimed = tenant.registry().claim(&claim, tenant, &mut after);
        if claimed == Claimed::Full {
            self.refuse(conn, ReasonCode::QuotaExceeded);
        } else {
            if expires.is_some() {
                self.ends_at(conn, expires);
            }
            self.begin_life(conn);
        }
        after.carry_out(tenant);
    }

    /// Whether one more client of an account may come in. One that takes the place of its own connection does not count
    /// twice.
    fn has_room(&self, account: &str, client_id: &str, limits: &AccountLimits) -> bool {
        let Some(max) = limits.connections_max else {
            return true;
        };
        let tenant = &self.tenant;
        let own = tenant.registry().connection(client_id);
        let is_its = own.and_then(|conn| {
            let known = conn.with(|client, _| client.session()?.account().cloned());
            known.flatten()
        });
        let own = u64::from(is_its.is_some_and(|own| *own == *account));
        let used = tenant.counters().usage().connections(account);
        used.saturating_sub(own) < max
    }

    /// The connection is let in, and may last this long.
    fn begin_life(&self, conn: &Arc<Connection<Self>>) {
        if self.limits.connection_max_ms == 0 {
            return;
        }
        let timers = self.tenant.timers();
        let at = self.tenant.now().plus_millis(self.limits.connection_max_ms);
        let timer = timers.set(at, Deadline::Lifetime(Arc::downgrade(conn)));
        // It has gone meanwhile.
        if conn.with(|client, _| client.life_ends(timer)).is_none() {
            timers.cancel(timer);
        }
    }

    pub(crate) fn refuse(&self, conn: &Arc<Connection<Self>>, reason: ReasonCode) {
        let refused = Refused {
            reason,
            silent: false,
            why: "refused",
        };
        self.refuse_with(conn, refused);
    }

    fn refuse_with(&self, conn: &Arc<Connection<Self>>, refused: Refused) {
        let tenant = &self.tenant;
        tenant.counters().refused.fetch_add(1, Ordering::Relaxed);
        conn.with(|client, out| {
            if let Some(session) = &mut client.session {
                self.chain.tell(Points::REFUSED, || Event::Refused {
                    client_id: Arc::clone(session.client_id()),
                    remote: conn.peer().clone(),
                    reason: refused.reason,
                });
                let version = session.hello().version;
                refused.write(version, &self.limits, out);
                session.cut();
            }
        });
        conn.close(CloseReason::Refused(refused.why.into()));
    }
}

/// What a client has shown is worth nothing any more.
pub(crate) fn end_login(conn: &Arc<Connection<Mqtt>>) {
    conn.with(|client, out| {
        if let Some(session) = &mut client.session {
            session.expel(ReasonCode::NotAuthorized, out);
        }
    });
    conn.close(CloseReason::Refused("its login has ended".into()));
}

/// A connection has lasted as long as its listener lets it.
pub(crate) fn end_of_life(conn: &Arc<Connection<Mqtt>>) {
    conn.with(|client, out| {
        if let Some(session) = &mut client.session {
            session.expel(ReasonCode::MaximumConnectTime, out);
        }
    });
    conn.close(CloseReason::Refused(
        "it has lasted as long as it may".into(),
    ));
}

/// How long a client may be silent. The edge notes arrivals up to a sweep too early: nobody is to lose by that.
pub(crate) fn keep_alive(seconds: u16, percent: u32) -> Option<Duration> {
    let allowed = Duration::from_millis(u64::from(seconds) * u64::from(percent) * 10);
    (seconds > 0).then(|| allowed + KEEP_ALIVE_SLACK)
}
