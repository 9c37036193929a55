//! How an address is reached: over the network, or through the door into this broker.

use std::sync::Arc;
use std::time::Duration;

use longtail_broker::auth::{AuthError, Credentials, Grants, LoginRequest, Peer, Roster};
use tokio::time::{Instant, timeout};

use super::{Address, Door, Link, LinkError, Settings, socket};
use crate::tenant::Tenant;

/// Who logs in where an address says nobody: what RabbitMQ's client takes.
const GUEST: &str = "guest";

/// What it takes to get anywhere.
pub(crate) struct Reach {
    pub(crate) door: Arc<Door>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) tenant: Arc<Tenant>,
}

impl Reach {
    /// Opens a link. Inside this process it may do what the address' user may or, if it names none, what `user` may;
    /// `None`: everything.
    ///
    /// # Errors
    /// What the other side says, or why it is not reached.
    pub(crate) async fn open(
        &self,
        address: &Address,
        user: Option<&str>,
        name: &str,
    ) -> Result<Link, LinkError> {
        let Some(host) = &address.host else {
            let (user, grants) = self.inside(address, user).await?;
            return self.door.open(&user, &address.vhost, grants).await;
        };
        let within = Duration::from_millis(address.timeout_ms);
        let begun = Instant::now();
        let opened = timeout(
            within,
            socket::open(host, address.port, address.tls.as_ref()),
        );
        let late = |_| LinkError::Late(within.as_secs());
        let socket = opened.await.map_err(late)??;
        let (user, password) = match &address.login {
            Some((user, password)) => (user.clone(), password.clone()),
            None => (GUEST.to_owned(), GUEST.to_owned()),
        };
        let settings = Settings {
            user,
            password,
            external: address.external,
            vhost: address.vhost.clone(),
            heartbeat_s: address.heartbeat_s,
            name: name.to_owned(),
            ..self.door.settings().clone()
        };
        let left = within.saturating_sub(begun.elapsed());
        Link::open(socket, settings, Arc::clone(self.door.clock()), left).await
    }

    /// Who comes in, and what for.
    async fn inside(
        &self,
        address: &Address,
        user: Option<&str>,
    ) -> Result<(String, Arc<Grants>), LinkError> {
        let space = self.tenant.space_of(&address.vhost);
        if let Some((user, password)) = address.login.clone() {
            let roster = Arc::clone(&self.roster);
            let now = self.tenant.now();
            let checked = tokio::task::spawn_blocking(move || {
                let request = LoginRequest {
                    credentials: Credentials::Password {
                        user: &user,
                        password: password.as_bytes(),
                    },
                    peer: Peer::Unix,
                    space: &space,
                    client_id: "",
                };
                let login = roster.authenticator().authenticate(&request, now);
                login.map(|login| (user, login.grants))
            });
            let checked = checked.await.map_err(std::io::Error::other)?;
            return checked.map_err(|error| refused(&error));
        }
        let grants = self.grants(user, &space);
        let user = user.unwrap_or(GUEST).to_owned();
        let refused = || {
            LinkError::Login(format!(
                "user \"{user}\" may not connect to vhost \"{}\"",
                address.vhost
            ))
        };
        grants
            .map(|grants| (user.clone(), grants))
            .ok_or_else(refused)
    }

    /// What somebody may do in a space; `None`: nothing, or there is no such space.
    pub(crate) fn grants(&self, user: Option<&str>, space: &str) -> Option<Arc<Grants>> {
        self.roster.directory().space(space)?;
        match user {
            None => Some(Grants::everything()),
            Some(user) => {
                let login = self.roster.authenticator().grants(user, space, "");
                login.ok().map(|login| login.grants)
            }
        }
    }
}

fn refused(error: &AuthError) -> LinkError {
    LinkError::Login(error.to_string())
}
