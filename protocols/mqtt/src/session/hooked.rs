//! What hooks change of a session.

use std::sync::Arc;

use longtail_broker::ephemeral::DropReason;
use longtail_broker::message::SharedMessage;

use super::{Broken, Next, Outbox, Session};
use crate::codec::{PacketId, ReasonCode, Subscribe};
use crate::config::Limits;
use crate::hooks::{ClientInfo, Event, FlightChange, Hooked, Outcome, Points, Subscribing};

/// What was decided about a subscription: what to subscribe to, or the reason code that it is answered with.
pub(super) type Asked = Result<Option<Subscribing>, ReasonCode>;

pub(super) const BY_A_HOOK: &str = "disconnected by a hook";

impl Session {
    /// The client is known: hooks may ask about it.
    pub(crate) fn introduce(&mut self, client: Arc<ClientInfo>) {
        self.hooked = Hooked::new(client);
    }

    pub(crate) fn hooked(&self) -> &Hooked {
        &self.hooked
    }

    /// Changes what the client said at the start. It is told where its version can be.
    pub(crate) fn amend(
        &mut self,
        client_id: &Arc<str>,
        keep_alive_s: u16,
        expiry_s: u32,
        limits: &Limits,
    ) {
        let hello = &mut self.hello;
        if hello.client_id != *client_id {
            hello.client_id = Arc::clone(client_id);
            hello.assigned = true;
        }
        if hello.keep_alive_s != keep_alive_s {
            hello.keep_alive_s = keep_alive_s;
            hello.keep_alive_lowered = true;
        }
        if hello.expiry_s != expiry_s {
            hello.expiry_s = expiry_s.min(limits.session_expiry_max_s);
            hello.expiry_lowered = true;
        }
    }

    /// From now on something has to come from the client within this time; it is not told.
    pub(crate) fn set_keep_alive(&mut self, seconds: u16) {
        self.hello.keep_alive_s = seconds;
    }

    /// Tells the client to go, if its version can say it.
    pub(crate) fn disconnect(
        &mut self,
        reason: ReasonCode,
        why: &'static str,
        limits: &Limits,
        out: &mut impl Outbox,
    ) -> Next {
        self.broken(Broken(reason, why), limits, out)
    }

    /// Tells of a message that the client was to get and did not.
    pub(super) fn tell_dropped(&self, message: &SharedMessage, reason: DropReason) {
        self.hooked.tell(Points::DROPPED, |client| Event::Dropped {
            client,
            message: Arc::clone(message),
            reason,
        });
    }

    pub(super) fn tell_flight(&self, packet_id: PacketId, change: FlightChange) {
        self.hooked
            .tell(Points::IN_FLIGHT, |client| Event::InFlight {
                client,
                packet_id,
                change,
            });
    }

    /// Asks hooks about each subscription; an empty list if nobody wants to be asked.
    pub(super) fn ask_about(&self, subscribe: &Subscribe<'_>) -> Result<Vec<Asked>, Broken> {
        let Some(client) = self.hooked.wants(Points::SUBSCRIBE) else {
            return Ok(Vec::new());
        };
        let asked = subscribe.subscriptions.iter().map(|subscription| {
            let subscribing = Subscribing {
                filter: subscription.filter.to_owned(),
                options: subscription.options,
            };
            match client.subscribe(&subscribing) {
                Outcome::AsItWas => Ok(Ok(None)),
                Outcome::Changed(new) => Ok(Ok(Some(new))),
                Outcome::Rejected(reason) => Ok(Err(reason)),
                Outcome::Ignored => Ok(Err(subscription.options.qos.into())),
                Outcome::Disconnected(reason) => Err(Broken(reason, BY_A_HOOK)),
            }
        });
        asked.collect()
    }
}
