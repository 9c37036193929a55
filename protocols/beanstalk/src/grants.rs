//! Who may connect and what for.
//!
//! The protocol has no way to say who one is. So a client is who its TLS certificate says, or whom the listener's
//! settings name; the server decides, once, when the connection is accepted.

use longtail_edge::{Endpoint, TlsIdentity};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// `put`.
    Produce,
    /// Whatever takes, looks at or settles jobs.
    Consume,
    /// `pause-tube`.
    Manage,
}

/// What a client may do in the service's space. Everything else is answered with `UNKNOWN_COMMAND`; asking for
/// statistics and names is open to whoever is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grants {
    /// Whether [`Right::Produce`] is given.
    pub produce: bool,
    /// Whether [`Right::Consume`] is given.
    pub consume: bool,
    /// Whether [`Right::Manage`] is given.
    pub manage: bool,
}

impl Grants {
    /// Everything.
    pub const ALL: Grants = Grants {
        produce: true,
        consume: true,
        manage: true,
    };

    /// Whether `right` is given.
    #[must_use]
    pub const fn allow(self, right: Right) -> bool {
        match right {
            Right::Produce => self.produce,
            Right::Consume => self.consume,
            Right::Manage => self.manage,
        }
    }
}

/// The client is not let in. The text is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub String);

/// What is known of a client when it has connected.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Peer<'a> {
    /// Where it is.
    pub remote: &'a Endpoint,
    /// Where it came in.
    pub local: &'a Endpoint,
    /// What its certificate says, where the listener asks for one.
    pub identity: Option<&'a TlsIdentity>,
    /// Connections of the service that are open without it.
    pub connections: u64,
}

impl<'a> Peer<'a> {
    /// A client at `remote` that connected to `local` and has shown that it is `identity`.
    #[must_use]
    pub const fn new(
        remote: &'a Endpoint,
        local: &'a Endpoint,
        identity: Option<&'a TlsIdentity>,
    ) -> Self {
        Peer {
            remote,
            local,
            identity,
            connections: 0,
        }
    }

    /// One that comes while so many others are connected.
    #[must_use]
    pub const fn beside(mut self, connections: u64) -> Self {
        self.connections = connections;
        self
    }
}

/// Decides who is let in.
pub trait Admission: Send + Sync + 'static {
    /// Looks at a connection that was just accepted.
    ///
    /// # Errors
    /// [`Denied`] closes the connection without a word, since the protocol has none for it.
    fn admit(&self, peer: Peer<'_>) -> Result<Grants, Denied>;
}

/// Lets everybody do everything: for a server without accounts, which listens on this machine only.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn admit(&self, _peer: Peer<'_>) -> Result<Grants, Denied> {
        Ok(Grants::ALL)
    }
}
