//! One bridge as a client of the other broker: a state machine without I/O.
//!
//! ```text
//!                    ┌────────────────────────────┐
//!  bytes ──receive──▶│ Link                       │──▶ bytes for the socket
//!  message ───send──▶│  session: flights, QoS 2   │──▶ events: ready, incoming, flown, lost
//!  durable ──accept─▶│  connection: phase, timers │
//!                    └────────────────────────────┘
//! ```
//!
//! The session outlives connections: what was not acknowledged is sent again under the same packet id when the other
//! broker still has the session, and anew when it has not. `outgoing` is what goes there, `incoming` what comes.

mod incoming;
mod outgoing;

use std::collections::{HashMap, VecDeque};

use longtail_model::Timestamp;

use super::map::Wanted;
use crate::codec::{
    Ack, Connack, Connect, ConnectProperties, Decoder, Disconnect, DisconnectProperties, Packet,
    PacketId, PacketLimits, Qos, ReasonCode, RetainHandling, Suback, Subscribe,
    SubscribeProperties, Subscription, SubscriptionOptions, Version, Will, WillProperties,
};
use outgoing::{Flight, Stage};

pub(super) use incoming::{Incoming, Receipt};
pub(super) use outgoing::{Fate, Outgoing};

/// How long the other broker may take to answer CONNECT, in milliseconds.
const CONNECT_MS: u64 = 10_000;

/// What the link needs to know of its bridge.
#[derive(Clone, Debug)]
pub(super) struct LinkSettings {
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<Vec<u8>>,
    pub(super) keep_alive_s: u16,
    pub(super) clean_start: bool,
    pub(super) session_expiry_s: u32,
    pub(super) window: u16,
    pub(super) packet_bytes_max: u32,
    pub(super) subscriptions: Vec<Wanted>,
    /// Where the other broker is told the state.
    pub(super) state_topic: Option<String>,
}

/// How the protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) version: Version,
    pub(super) bridge_bit: bool,
}

/// News of the link.
#[derive(Debug)]
pub(super) enum Event<K> {
    /// The other broker has let the bridge in.
    Connected { session_present: bool },
    /// The other broker has answered for the subscriptions, if there are any.
    Subscribed,
    /// A subscription was refused.
    NotSubscribed { filter: String, reason: ReasonCode },
    /// A message has come.
    Incoming(Box<Incoming>),
    /// A message that was sent is done with.
    Flown(K, Fate),
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    /// This dialect is not spoken there.
    #[error("the other broker does not speak this version")]
    WrongVersion,
    /// It does not let the bridge in.
    #[error("the other broker refuses the connection: {0:?}")]
    Refused(ReasonCode),
    /// It says goodbye.
    #[error("the other broker disconnects: {0:?}")]
    Disconnected(ReasonCode),
    /// It says nothing.
    #[error("the other broker does not answer")]
    Silent,
    /// What it says makes no sense.
    #[error("the other broker sends nonsense: {0}")]
    Malformed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Down,
    Connecting,
    Up,
}

/// The state machine.
pub(super) struct Link<K> {
    settings: LinkSettings,
    // The session.
    flights: VecDeque<Flight<K>>,
    /// QoS 2 messages of the other broker that await PUBREL; whether they are durable here.
    received: HashMap<PacketId, bool>,
    last_id: u16,
    // The connection.
    /// Counts connections: what belongs to an older one is not acknowledged on this one.
    epoch: u64,
    phase: Phase,
    dialect: Dialect,
    decoder: Decoder,
    since: Timestamp,
    heard: Timestamp,
    said: Timestamp,
    /// When a PINGREQ went out that is not answered.
    pinged: Option<Timestamp>,
    keep_alive_ms: u64,
    /// Flights that the other broker takes.
    room: usize,
    packet_max: usize,
    qos_max: Qos,
    retain_available: bool,
    subscribing: Option<PacketId>,
    /// The flight of the state, which is nobody's message.
    telling: Option<PacketId>,
}

impl<K: Clone> Link<K> {
    pub(super) fn new(settings: LinkSettings) -> Self {
        let dialect = Dialect {
            version: Version::V5,
            bridge_bit: false,
        };
        Link {
            settings,
            flights: VecDeque::new(),
            received: HashMap::new(),
            last_id: 0,
            epoch: 0,
            phase: Phase::Down,
            dialect,
            decoder: Decoder::for_client(Version::V5, PacketLimits::default()),
            since: Timestamp(0),
            heard: Timestamp(0),
            said: Timestamp(0),
            pinged: None,
            keep_alive_ms: 0,
            room: 0,
            packet_max: usize::MAX,
            qos_max: Qos::ExactlyOnce,
            retain_available: true,
            subscribing: None,
            telling: None,
        }
    }

    pub(super) fn set_password(&mut self, password: Option<Vec<u8>>) {
        self.settings.password = password;
    }

    pub(super) fn is_v5(&self) -> bool {
        self.dialect.version.is_v5()
    }

    pub(super) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// A connection is open: writes CONNECT.
    pub(super) fn connect(
        &mut self,
        dialect: Dialect,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<(), LinkError> {
        self.epoch += 1;
        self.phase = Phase::Connecting;
        self.dialect = dialect;
        let limits = PacketLimits {
            publish: self.settings.packet_bytes_max,
            ..PacketLimits::default()
        };
        self.decoder = Decoder::for_client(dialect.version, limits);
        (self.since, self.heard, self.said) = (now, now, now);
        self.pinged = None;
        self.subscribing = None;
        self.telling = None;
        let settings = &self.settings;
        let expiry = if settings.clean_start {
            None
        } else {
            Some(settings.session_expiry_s)
        };
        let connect = Packet::Connect(Box::new(Connect {
            version: dialect.version,
            bridge: dialect.bridge_bit,
            clean_start: settings.clean_start,
            keep_alive_s: settings.keep_alive_s,
            client_id: &settings.client_id,
            will: settings.state_topic.as_deref().map(|topic| Will {
                topic,
                payload: b"0",
                qos: Qos::AtLeastOnce,
                retain: true,
                properties: WillProperties::default(),
            }),
            username: settings.username.as_deref(),
            password: settings.password.as_deref(),
            properties: ConnectProperties {
                session_expiry_s: expiry,
                receive_maximum: PacketId::new(settings.window),
                maximum_packet_size: std::num::NonZeroU32::new(settings.packet_bytes_max),
                ..ConnectProperties::default()
            },
        }));
        let written = connect.encode(dialect.version, out);
        written.map_err(|error| LinkError::Malformed(error.to_string()))
    }

    /// The connection is gone. Whether it ended before the other broker had said anything at all.
    pub(super) fn lost(&mut self) -> bool {
        let unheard = self.phase == Phase::Connecting;
        self.phase = Phase::Down;
        unheard
    }

    /// Reads packets; returns how many bytes it took.
    pub(super) fn receive(
        &mut self,
        input: &[u8],
        now: Timestamp,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<K>>,
    ) -> Result<usize, LinkError> {
        let mut taken = 0;
        // What is decoded borrows from the input only.
        let mut decoder = self.decoder.clone();
        while let Some(rest) = input.get(taken..).filter(|rest| !rest.is_empty()) {
            let decoded = match decoder.decode(rest) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break,
                // A broker that does not know the version answers in the form of one that it knows.
                Err(_) if self.phase == Phase::Connecting => return Err(LinkError::WrongVersion),
                Err(error) => return Err(LinkError::Malformed(error.to_string())),
            };
            taken += decoded.consumed;
            self.heard = now;
            self.packet(decoded.packet, now, out, events)?;
        }
        self.decoder = decoder;
        Ok(taken)
    }

    fn packet(
        &mut self,
        packet: Packet<'_>,
        now: Timestamp,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<K>>,
    ) -> Result<(), LinkError> {
        let connecting = self.phase == Phase::Connecting;
        match packet {
            Packet::Connack(connack) if connecting => self.connack(&connack, now, out, events)?,
            Packet::Auth(_) if connecting => {
                return Err(LinkError::Malformed("AUTH was not asked for".to_owned()));
            }
            other if connecting => {
                let kind = other.packet_type();
                return Err(LinkError::Malformed(format!("{kind:?} before CONNACK")));
            }
            Packet::Publish(publish) => self.publish(&publish, out, events)?,
            Packet::Puback(ack) => self.puback(&ack, now, out, events),
            Packet::Pubrec(ack) => self.pubrec(&ack, now, out, events),
            Packet::Pubcomp(ack) => {
                let id = ack.packet_id;
                let at = self.flight(id, Stage::Released);
                self.land(at, Fate::Delivered, events);
                self.send_unsent(now, out, events);
            }
            Packet::Pubrel(ack) => {
                self.received.remove(&ack.packet_id);
                self.say(&Packet::Pubcomp(Ack::success(ack.packet_id)), now, out);
            }
            Packet::Suback(suback) => self.suback(&suback, events),
            Packet::Unsuback(_) => {}
            Packet::Pingresp => self.pinged = None,
            Packet::Disconnect(disconnect) => {
                return Err(LinkError::Disconnected(disconnect.reason));
            }
            other => {
                let kind = other.packet_type();
                return Err(LinkError::Malformed(format!("{kind:?} from a server")));
            }
        }
        Ok(())
    }

    fn connack(
        &mut self,
        connack: &Connack<'_>,
        now: Timestamp,
        out: &mut Vec<u8>,
        events: &mut Vec<Event<K>>,
    ) -> Result<(), LinkError> {
        match connack.reason {
            ReasonCode::Success => {}
            ReasonCode::UnsupportedProtocolVersion => return Err(LinkError::WrongVersion),
            reason => return Err(LinkError::Refused(reason)),
        }
        let said = &connack.properties;
        let window = usize::from(self.settings.window);
        self.room = said
            .receive_maximum
            .map_or(window, |most| window.min(usize::from(most.get())));
        self.packet_max = said
            .maximum_packet_size
            .map_or(usize::MAX, |most| most.get() as usize);
        self.qos_max = said.maximum_qos.unwrap_or(Qos::ExactlyOnce);
        self.retain_available = said.retain_available != Some(false);
        let keep_alive_s = said
            .server_keep_alive_s
            .unwrap_or(self.settings.keep_alive_s);
        self.keep_alive_ms = u64::from(keep_alive_s) * 1000;
        self.phase = Phase::Up;
        let session_present = connack.session_present;
        events.push(Event::Connected { session_present });
        if session_present {
            self.send_again(now, out);
        } else {
            self.received.clear();
            for flight in &mut self.flights {
                flight.stage = Stage::Unsent;
            }
        }
        self.subscribe(now, out);
        if self.subscribing.is_none() {
            events.push(Event::Subscribed);
        }
        self.tell(b"1", now, out);
        self.send_unsent(now, out, events);
        Ok(())
    }

    fn subscribe(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if self.settings.subscriptions.is_empty() {
            return;
        }
        let Some(packet_id) = self.free_id() else {
            return;
        };
        self.subscribing = Some(packet_id);
        let v5 = self.is_v5();
        let subscriptions = self
            .settings
            .subscriptions
            .iter()
            .map(|wanted| Subscription {
                filter: &wanted.filter,
                options: SubscriptionOptions {
                    qos: wanted.qos,
                    no_local: v5 && !wanted.filter.starts_with("$share/"),
                    retain_as_published: v5,
                    retain_handling: RetainHandling::Always,
                },
            });
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id,
            properties: SubscribeProperties::default(),
            subscriptions: subscriptions.collect(),
        });
        // The filters were checked with the settings.
        let _ = subscribe.encode(self.dialect.version, out);
        self.said = now;
    }

    fn suback(&mut self, suback: &Suback<'_>, events: &mut Vec<Event<K>>) {
        if self
            .subscribing
            .take_if(|id| *id == suback.packet_id)
            .is_none()
        {
            return;
        }
        for (wanted, reason) in self.settings.subscriptions.iter().zip(&suback.reasons) {
            if reason.is_error() {
                events.push(Event::NotSubscribed {
                    filter: wanted.filter.clone(),
                    reason: *reason,
                });
            }
        }
        events.push(Event::Subscribed);
    }

    fn say(&mut self, packet: &Packet<'_>, now: Timestamp, out: &mut Vec<u8>) {
        // Acknowledgements always have a form.
        let _ = packet.encode(self.dialect.version, out);
        self.said = now;
    }

    /// When [`Link::tick`] is to be called at the latest.
    pub(super) fn due(&self) -> Timestamp {
        match self.phase {
            Phase::Down => Timestamp::NEVER,
            Phase::Connecting => self.since.plus_millis(CONNECT_MS),
            Phase::Up if self.keep_alive_ms == 0 => Timestamp::NEVER,
            Phase::Up => match self.pinged {
                Some(at) => at.plus_millis(self.patience_ms()),
                None => self.said.min(self.heard).plus_millis(self.keep_alive_ms),
            },
        }
    }

    /// How long a PINGRESP may take.
    fn patience_ms(&self) -> u64 {
        (self.keep_alive_ms / 2).max(1000)
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Timestamp, out: &mut Vec<u8>) -> Result<(), LinkError> {
        if now < self.due() {
            return Ok(());
        }
        match self.phase {
            Phase::Down => {}
            Phase::Connecting => return Err(LinkError::Silent),
            Phase::Up if self.pinged.is_some() => return Err(LinkError::Silent),
            Phase::Up => {
                self.say(&Packet::Pingreq, now, out);
                self.pinged = Some(now);
            }
        }
        Ok(())
    }

    /// Says goodbye.
    pub(super) fn disconnect(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if self.phase != Phase::Up {
            return;
        }
        self.tell(b"0", now, out);
        let goodbye = Packet::Disconnect(Disconnect {
            reason: ReasonCode::Success,
            properties: DisconnectProperties::default(),
        });
        self.say(&goodbye, now, out);
    }
}
