//! A client of MQTT that says exactly what a test wants it to say.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use longtail::Longtail;
use longtail::mqtt::codec::{
    Ack, AckProperties, Connect, ConnectProperties, Decoder, Packet, PacketId, PacketLimits,
    Publish, PublishProperties, Qos, ReasonCode, Subscribe, SubscribeProperties, Subscription,
    SubscriptionOptions, Unsubscribe, UserProperties, Version, Will,
};

/// How long a packet may take that is to come.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Mini {
    socket: Box<dyn Socket>,
    decoder: Decoder,
    input: Vec<u8>,
    next_id: u16,
}

trait Socket: Read + Write + Send {}

impl<S: Read + Write + Send> Socket for S {}

/// A CONNECT of 5.0 with a clean start.
pub(crate) fn connect(client_id: &str) -> Connect<'_> {
    Connect {
        version: Version::V5,
        bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

pub(crate) fn will<'a>(topic: &'a str, payload: &'a [u8]) -> Will<'a> {
    Will {
        topic,
        payload,
        qos: Qos::AtMostOnce,
        retain: false,
        properties: Default::default(),
    }
}

impl Mini {
    /// Connects and sends a CONNECT.
    pub(crate) fn knock(broker: &Longtail, connect: Connect<'_>) -> Mini {
        Mini::knock_at(&broker.addresses()[0].address, connect)
    }

    pub(crate) fn knock_at(address: &str, connect: Connect<'_>) -> Mini {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Mini::on(Box::new(socket), connect)
    }

    /// As [`Mini::knock`], over a socket of its own.
    pub(crate) fn over(socket: UnixStream, connect: Connect<'_>) -> Mini {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Mini::on(Box::new(socket), connect)
    }

    fn on(socket: Box<dyn Socket>, connect: Connect<'_>) -> Mini {
        let mut mini = Mini {
            socket,
            decoder: Decoder::for_client(connect.version, PacketLimits::default()),
            input: Vec::new(),
            next_id: 1,
        };
        mini.send(&Packet::Connect(Box::new(connect)));
        mini
    }

    /// As [`Mini::knock`], and it is let in.
    pub(crate) fn enter(broker: &Longtail, connect: Connect<'_>) -> Mini {
        let mut mini = Mini::knock(broker, connect);
        assert_eq!(mini.connack(), ReasonCode::Success);
        mini
    }

    pub(crate) fn connack(&mut self) -> ReasonCode {
        self.next(|packet| match packet {
            Packet::Connack(connack) => connack.reason,
            other => panic!("{other:?}"),
        })
    }

    pub(crate) fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        let version = self.decoder.version().unwrap();
        packet.encode(version, &mut bytes).unwrap();
        self.socket.write_all(&bytes).unwrap();
    }

    /// The next packet; waits for it.
    pub(crate) fn next<R>(&mut self, look: impl FnOnce(&Packet<'_>) -> R) -> R {
        self.try_next(look).expect("a packet, not the end")
    }

    /// The next packet; `None` at the end of the connection.
    pub(crate) fn try_next<R>(&mut self, look: impl FnOnce(&Packet<'_>) -> R) -> Option<R> {
        loop {
            if let Some(decoded) = self.decoder.decode(&self.input).unwrap() {
                let (answer, consumed) = (look(&decoded.packet), decoded.consumed);
                self.input.drain(..consumed);
                return Some(answer);
            }
            let mut bytes = [0; 4096];
            let read = match self.socket.read(&mut bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
                read => read.unwrap(),
            };
            if read == 0 {
                return None;
            }
            self.input.extend_from_slice(&bytes[..read]);
        }
    }

    fn id(&mut self) -> PacketId {
        let id = PacketId::new(self.next_id).unwrap();
        self.next_id += 1;
        id
    }

    pub(crate) fn publish_only(&mut self, topic: &str, payload: &str, qos: Qos, retain: bool) {
        let packet_id = (qos != Qos::AtMostOnce).then(|| self.id());
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos,
            retain,
            topic,
            packet_id,
            properties: PublishProperties::default(),
            payload: payload.as_bytes(),
        }));
    }

    /// Publishes at QoS 1 and gives back what PUBACK says.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str) -> ReasonCode {
        self.publish_only(topic, payload, Qos::AtLeastOnce, false);
        self.next(|packet| match packet {
            Packet::Puback(ack) => ack.reason,
            other => panic!("{other:?}"),
        })
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: Qos) -> ReasonCode {
        let packet_id = self.id();
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties: SubscribeProperties::default(),
            subscriptions: vec![Subscription { filter, options }],
        }));
        self.next(|packet| match packet {
            Packet::Suback(suback) => suback.reasons[0],
            other => panic!("{other:?}"),
        })
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) -> ReasonCode {
        let packet_id = self.id();
        self.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id,
            user: UserProperties::NONE,
            filters: vec![filter],
        }));
        self.next(|packet| match packet {
            Packet::Unsuback(unsuback) => unsuback.reasons[0],
            other => panic!("{other:?}"),
        })
    }

    /// The next PUBLISH: topic, payload, packet id, DUP.
    pub(crate) fn message(&mut self) -> (String, String, Option<PacketId>, bool) {
        self.next(|packet| match packet {
            Packet::Publish(publish) => (
                publish.topic.to_owned(),
                String::from_utf8_lossy(publish.payload).into_owned(),
                publish.packet_id,
                publish.dup,
            ),
            other => panic!("{other:?}"),
        })
    }

    pub(crate) fn payload(&mut self) -> String {
        self.message().1
    }

    pub(crate) fn puback(&mut self, packet_id: PacketId) {
        self.send(&Packet::Puback(Ack {
            packet_id,
            reason: ReasonCode::Success,
            properties: AckProperties::default(),
        }));
    }

    /// Publishes at QoS 2 under `id` and waits for the PUBREC.
    pub(crate) fn next_qos2(&mut self, topic: &str, payload: &str, id: u16) {
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: Qos::ExactlyOnce,
            retain: false,
            topic,
            packet_id: PacketId::new(id),
            properties: PublishProperties::default(),
            payload: payload.as_bytes(),
        }));
        self.next(|packet| match packet {
            Packet::Pubrec(ack) => assert_eq!(ack.reason, ReasonCode::Success),
            other => panic!("{other:?}"),
        });
    }

    /// Sends PUBREL and waits for the PUBCOMP.
    pub(crate) fn release(&mut self, id: u16) {
        let id = PacketId::new(id).unwrap();
        self.send(&Packet::Pubrel(Ack::success(id)));
        self.next(|packet| assert!(matches!(packet, Packet::Pubcomp(_)), "{packet:?}"));
    }

    /// Pings, and shows the messages that come before the answer.
    pub(crate) fn ping_until(&mut self, mut show: impl FnMut(String, Option<PacketId>)) {
        self.send(&Packet::Pingreq);
        let mut is_over = false;
        while !is_over {
            let message = self.next(|packet| match packet {
                Packet::Publish(publish) => {
                    let payload = String::from_utf8_lossy(publish.payload).into_owned();
                    Some((payload, publish.packet_id))
                }
                Packet::Pingresp => None,
                other => panic!("{other:?}"),
            });
            is_over = message.is_none();
            if let Some((payload, id)) = message {
                show(payload, id);
            }
        }
    }

    pub(crate) fn ping(&mut self) {
        self.send(&Packet::Pingreq);
        self.next(|packet| assert!(matches!(packet, Packet::Pingresp), "{packet:?}"));
    }

    /// The reason of the DISCONNECT that comes next.
    pub(crate) fn farewell(&mut self) -> ReasonCode {
        self.next(|packet| match packet {
            Packet::Disconnect(disconnect) => disconnect.reason,
            other => panic!("{other:?}"),
        })
    }
}
