//! Enhanced authentication (MQTT 5.0, 4.12): AUTH packets, before CONNACK and again later.
//!
//! ```text
//! CONNECT, method and data ──▶ Login  ──▶ challenge() ──▶ AUTH 0x18
//! AUTH 0x18                ──▶ Prove  ──▶ challenge() again, or accept() ──▶ CONNACK, method and data
//! AUTH 0x19, once open     ──▶ Prove  ──▶ challenge() ..., or reproved() ──▶ AUTH 0x00, method and data
//! ```
//!
//! What the data means is the business of the method, which the service asks. Until a client has proved itself again,
//! everything else goes on with the rights that it has.

use bytes::Bytes;
use longtail_broker::auth::{CachedGrants, Grants};
use std::sync::Arc;

use super::{Action, Broken, Goodbye, Next, Outbox, Phase, Session};
use crate::codec::{Auth, AuthProperties, Packet, ReasonCode};
use crate::config::Limits;

use super::connect::Refused;

/// What a session knows of its method.
#[derive(Debug)]
pub(super) struct Proving {
    method: Box<str>,
    turn: Turn,
    /// What proves the server to the client, for CONNACK.
    proof: Option<Bytes>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nobody's: no exchange is under way.
    Over,
    /// The client's.
    Client,
    /// The service's.
    Service,
}

/// A part of an exchange, for the method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The method.
    pub method: Box<str>,
    /// Whether an exchange begins.
    pub begins: bool,
    /// What the client says.
    pub data: Bytes,
}

impl Proving {
    /// CONNECT names the method.
    pub(super) fn new(method: &str) -> Self {
        Proving {
            method: method.into(),
            turn: Turn::Service,
            proof: None,
        }
    }

    pub(super) fn method(&self) -> &str {
        &self.method
    }

    pub(super) fn proof(&self) -> Option<&[u8]> {
        self.proof.as_deref()
    }

    /// An AUTH has come. `open`: it may begin an exchange.
    fn take(&mut self, auth: &Auth<'_>, open: bool) -> Result<Proof, Broken> {
        if auth.properties.method != Some(&self.method) {
            return Err(Broken(
                ReasonCode::ProtocolError,
                "AUTH with another method than CONNECT",
            ));
        }
        let begins = match (auth.reason, self.turn) {
            (ReasonCode::ContinueAuthentication, Turn::Client) => false,
            (ReasonCode::ReAuthenticate, Turn::Over) if open => true,
            _ => return Err(Broken(ReasonCode::ProtocolError, "AUTH out of turn")),
        };
        self.turn = Turn::Service;
        Ok(Proof {
            method: self.method.clone(),
            begins,
            data: Bytes::copy_from_slice(auth.properties.data.unwrap_or_default()),
        })
    }
}

impl Session {
    /// A packet before CONNACK, while the client proves who it is.
    pub(super) fn prove(
        &mut self,
        packet: &Packet<'_>,
        limits: &Limits,
        actions: &mut Vec<Action>,
        out: &mut impl Outbox,
    ) -> Next {
        let taken = match (packet, &mut self.proving) {
            (Packet::Disconnect(_), _) => {
                self.phase = Phase::Over;
                return Next::Close(Goodbye::Disconnected);
            }
            (Packet::Auth(auth), Some(proving)) => proving.take(auth, false),
            _ => Err(Broken(
                ReasonCode::ProtocolError,
                "another packet than AUTH before CONNACK",
            )),
        };
        match taken {
            Ok(proof) => {
                self.phase = Phase::Greeting;
                actions.push(Action::Prove(Box::new(proof)));
                Next::Pause
            }
            Err(Broken(reason, why)) => {
                Refused::new(reason, why).write(self.version(), limits, out);
                self.phase = Phase::Over;
                Next::Close(Goodbye::Broken(reason, why))
            }
        }
    }

    /// AUTH on a session that is open.
    pub(super) fn prove_again(
        &mut self,
        auth: &Auth<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Broken> {
        let Some(proving) = &mut self.proving else {
            return Err(Broken(
                ReasonCode::ProtocolError,
                "AUTH without an authentication method",
            ));
        };
        let proof = proving.take(auth, true)?;
        actions.push(Action::Prove(Box::new(proof)));
        Ok(())
    }

    /// The method wants to hear more.
    pub fn challenge(&mut self, data: &[u8], out: &mut impl Outbox) {
        let Some(proving) = &mut self.proving else {
            return;
        };
        match self.phase {
            Phase::Greeting => self.phase = Phase::Proving,
            Phase::Open => {}
            Phase::Proving | Phase::Over => return,
        }
        proving.turn = Turn::Client;
        self.say_auth(ReasonCode::ContinueAuthentication, data, out);
    }

    /// The client has proved who it is, to be let in. `data` is for CONNACK.
    pub fn proved(&mut self, data: Bytes) {
        if let Some(proving) = &mut self.proving {
            proving.turn = Turn::Over;
            proving.proof = Some(data).filter(|data| !data.is_empty());
        }
    }

    /// The client has proved once more who it is.
    pub fn reproved(&mut self, grants: Arc<Grants>, data: &[u8], out: &mut impl Outbox) {
        if !self.is_open() {
            return;
        }
        if let Some(proving) = &mut self.proving {
            proving.turn = Turn::Over;
        }
        self.grants = CachedGrants::new(grants);
        self.say_auth(ReasonCode::Success, data, out);
    }

    fn say_auth(&self, reason: ReasonCode, data: &[u8], out: &mut impl Outbox) {
        let method = self.proving.as_ref().map(|proving| proving.method());
        let auth = Packet::Auth(Auth {
            reason,
            properties: AuthProperties {
                method,
                data: Some(data).filter(|data| !data.is_empty()),
                ..AuthProperties::default()
            },
        });
        self.say(&auth, out);
    }
}
