//! CONNECT and CONNACK: what client and server agree on (MQTT 5.0, 3.1 and 3.2).

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;
use longtail_broker::auth::{Action as Right, CachedGrants, Grants, Manner, Principal};
use longtail_broker::message::Origin;
use longtail_model::{Subject, Timestamp};

use super::alias::AliasTable;
use super::feed::{Feed, Stores};
use super::place::{Place, judged};
use super::proving::{Proof, Proving};
use super::receiving::is_reserved;
use super::{Cx, Held, Outbox, Phase, Session, State};
use crate::codec::{
    Connack, ConnackProperties, Connect, Packet, Qos, ReasonCode, ReturnCode, Version,
};
use crate::config::{Limits, LongKeepAlive};
use crate::control::is_control;
use crate::delayed;
use crate::hooks::{Event, Points};
use crate::message::{Published, Will, incoming, is_as_it_says};

/// What a client said at the start, within the limits. In this order: what every message to it needs first.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Hello {
    pub(super) packet_max: usize,
    /// The version it speaks.
    pub version: Version,
    /// It is a broker.
    pub bridge: bool,
    /// Whether its identifier was made.
    pub assigned: bool,
    /// It wants a new session.
    pub clean_start: bool,
    /// Whether it may be sent reason strings.
    pub problem_information: bool,
    pub(super) keep_alive_lowered: bool,
    pub(super) expiry_lowered: bool,
    response_information: bool,
    /// Seconds in which something has to come from it; 0: no matter.
    pub keep_alive_s: u16,
    receive_max: u16,
    /// Seconds that the session outlives the connection.
    pub expiry_s: u32,
    /// Its identifier, or the one that was made for it.
    pub client_id: Arc<str>,
    /// The name that it gave.
    pub username: Option<Arc<str>>,
    alias_max: u16,
}

/// The login of a client.
#[derive(Debug)]
pub struct Demand {
    /// Name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Bytes>,
    /// How it wants to prove who it is, with what it says first.
    pub proof: Option<Proof>,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is told in 5.0; before, the nearest.
    pub reason: ReasonCode,
    /// Nothing is sent: its version has no words for it, or it takes no packet of that size.
    pub silent: bool,
    /// For the log.
    pub why: &'static str,
}

impl Refused {
    pub(super) const fn new(reason: ReasonCode, why: &'static str) -> Self {
        Refused {
            reason,
            silent: false,
            why,
        }
    }

    /// What clients before 5.0 are told nothing of.
    const fn v5_only(version: Version, reason: ReasonCode, why: &'static str) -> Self {
        Refused {
            reason,
            silent: !version.is_v5(),
            why,
        }
    }

    /// Writes the CONNACK.
    pub fn write(&self, version: Version, limits: &Limits, out: &mut impl Outbox) {
        if self.silent {
            return;
        }
        let reason = match self.reason {
            // Before 5.0, servers say "not authorized" for both.
            ReasonCode::BadUserNameOrPassword
                if limits.bad_password_is_not_authorized || !version.is_v5() =>
            {
                ReasonCode::NotAuthorized
            }
            reason => reason,
        };
        let connack = Packet::Connack(Box::new(Connack {
            session_present: false,
            reason,
            properties: ConnackProperties {
                server_reference: limits.reference_for(reason),
                ..ConnackProperties::default()
            },
        }));
        if let Err(error) = connack.encode(version, out.tail()) {
            tracing::error!(%error, code = ?ReturnCode::from(reason), "a CONNACK cannot be written");
        }
    }
}

impl Session {
    /// A client says hello. `fresh_id` makes an identifier that nobody can guess.
    ///
    /// # Errors
    /// When it is not welcome, whoever it is.
    pub fn greet(
        connect: &Connect<'_>,
        fresh_id: impl FnOnce() -> String,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<(Self, Demand), Refused> {
        let version = connect.version;
        if !limits.versions.has(version) {
            return Err(Refused::new(
                ReasonCode::UnsupportedProtocolVersion,
                "this version is not spoken at this listener",
            ));
        }
        let properties = &connect.properties;
        let assigned = connect.client_id.is_empty();
        if assigned && !limits.empty_client_id
            || connect.client_id.len() > limits.client_id_bytes_max
        {
            return Err(Refused::new(
                ReasonCode::ClientIdentifierNotValid,
                "a client identifier of this length is not taken",
            ));
        }
        let client_id: Arc<str> = if assigned {
            format!("{}{}", limits.client_id_prefix, fresh_id()).into()
        } else {
            connect.client_id.into()
        };
        let mut prefixes = limits.client_id_prefixes.iter();
        let fits = prefixes.any(|prefix| client_id.starts_with(&**prefix));
        if !limits.client_id_prefixes.is_empty() && !fits {
            return Err(Refused::new(
                ReasonCode::NotAuthorized,
                "a client identifier that begins otherwise than it has to",
            ));
        }
        let will = will(connect, limits, now)?;
        let (keep_alive_s, keep_alive_lowered) = keep_alive(connect, limits)?;
        let asked = match version {
            Version::V5 => properties.session_expiry_s.unwrap_or(0),
            _ if connect.clean_start => 0,
            _ => limits.session_expiry_v3_s,
        };
        let expiry_s = asked.min(limits.session_expiry_max_s);
        let hello = Hello {
            version,
            bridge: connect.bridge,
            client_id,
            assigned,
            username: connect.username.map(Arc::from),
            clean_start: connect.clean_start,
            keep_alive_s,
            keep_alive_lowered,
            expiry_s,
            expiry_lowered: expiry_s < asked,
            problem_information: properties.request_problem_information.unwrap_or(true),
            response_information: properties.request_response_information.unwrap_or(false),
            receive_max: properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
            packet_max: properties
                .maximum_packet_size
                .map_or(usize::MAX, |max| max.get() as usize),
            alias_max: properties.topic_alias_maximum.unwrap_or(0),
        };
        let demand = Demand {
            username: connect.username.map(str::to_owned),
            password: connect.password.map(Bytes::copy_from_slice),
            proof: properties.authentication_method.map(|method| Proof {
                method: method.into(),
                begins: true,
                data: Bytes::copy_from_slice(properties.authentication_data.unwrap_or_default()),
            }),
        };
        let mut session = Session::new(hello, will);
        session.place = Place::of(connect, limits);
        session.proving = properties
            .authentication_method
            .map(|method| Box::new(Proving::new(method)));
        Ok((session, demand))
    }

    /// The client is who it says: what it may do.
    ///
    /// # Errors
    /// When it turns out that it is not welcome all the same.
    pub fn authorize(
        &mut self,
        grants: Arc<Grants>,
        principal: Option<Principal>,
        origin: Origin,
        limits: &Limits,
    ) -> Result<(), Refused> {
        self.grants = CachedGrants::new(grants);
        self.origin = origin;
        let account = principal.as_ref().map(|principal| &principal.account);
        if account.is_some() && account == self.hello.username.as_ref() {
            // Most have one name: it need not be kept twice.
            self.hello.username = account.cloned();
        }
        self.principal = principal;
        self.settle_in(limits)?;
        self.settle_will(limits)?;
        let mut connack = Vec::new();
        let encoded = self
            .connack(false, limits)
            .encode(self.version(), &mut connack);
        if encoded.is_err() || connack.len() > self.hello.packet_max {
            return Err(Refused {
                reason: ReasonCode::PacketTooLarge,
                silent: true,
                why: "the client takes no packet of the size of a CONNACK",
            });
        }
        Ok(())
    }

    /// The will goes where the client's topics are, if it may.
    fn settle_will(&mut self, limits: &Limits) -> Result<(), Refused> {
        let Some(mut will) = self.will.take() else {
            return Ok(());
        };
        if let Some(message) = Arc::get_mut(&mut will.message) {
            message.origin = self.origin;
            if self.is_elsewhere() {
                let topic = self
                    .place_topic(message.subject.as_str(), limits)
                    .into_owned();
                message.subject = Subject::parse_mqtt(&topic).map_err(|_| NO_WILL)?;
            }
        }
        let aim = judged(&will.message.subject);
        let manner = Manner::of_publish(will.message.quality, will.message.retain);
        if is_control(aim.as_str()) || !self.grants.allows_in(Right::Publish, aim, manner) {
            return Err(Refused::new(
                ReasonCode::NotAuthorized,
                "the topic of the will is not allowed",
            ));
        }
        will.principal.clone_from(&self.principal);
        self.will = Some(will);
        Ok(())
    }

    /// The client has its session: `resumed` is the one that it comes back to. A session that outlives its connection
    /// has a number, `fresh` if it is new. Says which subscriptions the client has lost since then, because they are not
    /// allowed any more.
    pub(crate) fn take_in(
        &mut self,
        resumed: Option<State>,
        fresh: u64,
        stores: Stores,
        cx: &Cx<'_>,
    ) -> Vec<(Box<str>, Held)> {
        let hello = &self.hello;
        self.window = hello.receive_max.min(cx.limits.window).max(1);
        self.aliases = AliasTable::new(hello.alias_max.min(cx.limits.topic_aliases_out));
        self.present = resumed.is_some();
        self.state = resumed.unwrap_or_default();
        let lost = if self.present {
            self.judge_again(cx).ended
        } else {
            Vec::new()
        };
        if self.state.number == 0 && self.hello.expiry_s > 0 {
            self.state.number = fresh;
        }
        if self.state.number != 0 {
            self.state.outbound.hold_back();
            self.feed = Some(Box::new(Feed::new(self.state.number, stores)));
        }
        lost
    }

    /// The client is in: CONNACK, then what was under way when it left.
    pub(crate) fn welcome(&mut self, cx: &Cx<'_>, out: &mut impl Outbox) {
        let present = self.present && self.hello.version != Version::V31;
        self.say(&self.connack(present, cx.limits), out);
        self.phase = Phase::Open;
        self.hooked
            .tell(Points::ESTABLISHED, |client| Event::Established {
                client,
                present: self.present,
            });
        if self.present {
            if !self.is_lasting() {
                self.state.outbound.resume();
            }
            self.recount();
        }
        self.give_credit();
        self.pump(cx, out);
    }

    fn connack<'a>(&'a self, session_present: bool, limits: &'a Limits) -> Packet<'a> {
        Packet::Connack(Box::new(Connack {
            session_present,
            reason: ReasonCode::Success,
            properties: self.agreed(limits),
        }))
    }

    fn agreed<'a>(&'a self, limits: &'a Limits) -> ConnackProperties<'a> {
        let hello = &self.hello;
        let unless = |available: bool| (!available).then_some(false);
        ConnackProperties {
            authentication_method: self.proving.as_ref().map(|proving| proving.method()),
            authentication_data: self.proving.as_ref().and_then(|proving| proving.proof()),
            server_keep_alive_s: hello.keep_alive_lowered.then_some(hello.keep_alive_s),
            topic_alias_maximum: (limits.topic_aliases_in > 0).then_some(limits.topic_aliases_in),
            assigned_client_id: hello.assigned.then_some(&hello.client_id),
            retain_available: unless(limits.retain_available),
            maximum_packet_size: NonZeroU32::new(limits.packet_bytes_max)
                .filter(|max| max.get() < PACKET_BYTES_POSSIBLE),
            receive_maximum: NonZeroU16::new(limits.receive_max).filter(|max| max.get() < u16::MAX),
            maximum_qos: (limits.qos_max < Qos::ExactlyOnce).then_some(limits.qos_max),
            session_expiry_s: hello.expiry_lowered.then_some(hello.expiry_s),
            wildcard_subscription_available: unless(limits.wildcards_available),
            subscription_ids_available: unless(limits.subscription_ids_available),
            shared_subscription_available: unless(limits.shared_available),
            response_information: (hello.response_information
                && !limits.response_information.is_empty())
            .then_some(&limits.response_information),
            ..ConnackProperties::default()
        }
    }
}

const NO_WILL: Refused = Refused::new(
    ReasonCode::TopicNameInvalid,
    "the topic of the will is none where the client's topics are",
);

/// The largest packet that the format has, 268,435,455 bytes behind a fixed header of 5.
const PACKET_BYTES_POSSIBLE: u32 = 268_435_460;

fn keep_alive(connect: &Connect<'_>, limits: &Limits) -> Result<(u16, bool), Refused> {
    let (asked, max) = (connect.keep_alive_s, limits.keep_alive_max_s);
    if max == 0 || (1..=max).contains(&asked) {
        return Ok((asked, false));
    }
    if !connect.version.is_v5() && limits.long_keep_alive == LongKeepAlive::Refuse {
        return Err(Refused::new(
            ReasonCode::ClientIdentifierNotValid,
            "the keep alive is longer than allowed",
        ));
    }
    Ok((max, true))
}

fn will(
    connect: &Connect<'_>,
    limits: &Limits,
    now: Timestamp,
) -> Result<Option<Box<Will>>, Refused> {
    let Some(will) = &connect.will else {
        return Ok(None);
    };
    let version = connect.version;
    if will.qos > limits.qos_max {
        return Err(Refused::v5_only(
            version,
            ReasonCode::QosNotSupported,
            "the QoS of the will is not supported",
        ));
    }
    if will.retain && !limits.retain_available {
        return Err(Refused::v5_only(
            version,
            ReasonCode::RetainNotSupported,
            "a retained will is not supported",
        ));
    }
    if limits.payload_format_checked && !is_as_it_says(&will.properties.message, will.payload) {
        return Err(Refused::v5_only(
            version,
            ReasonCode::PayloadFormatInvalid,
            "the payload of the will is not UTF-8, as it says",
        ));
    }
    let subject = Subject::parse_mqtt(will.topic).ok();
    let Some(subject) = subject.filter(|subject| {
        !is_reserved(delayed::aim(subject))
            && delayed::is_fit(subject, now, limits.delay_max_s)
            && subject.as_ref().tokens().count() <= limits.topic_levels_max
    }) else {
        return Err(Refused::v5_only(
            version,
            ReasonCode::ProtocolError,
            "nobody may publish to the topic of the will",
        ));
    };
    let published = Published {
        qos: will.qos,
        retain: will.retain,
        origin: Origin::default(),
        now,
    };
    let payload = Bytes::copy_from_slice(will.payload);
    let properties = &will.properties.message;
    Ok(Some(Box::new(Will {
        message: Arc::new(incoming(subject, payload, properties, published)),
        expiry_ms: limits
            .message_expiry_s(properties.expiry_s)
            .map(|seconds| (u64::from(seconds) * 1000).max(1)),
        delay_s: will.properties.delay_s.unwrap_or(0),
        principal: None,
    })))
}
