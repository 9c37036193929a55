//! The rumqttc crate drives 3.1.1 and 5.0. It treats an acknowledgement it does not expect as an error, so ids have to be
//! right.

use std::process::ExitCode;

use longtail_conformance::{Case, run};

/// One client and what its connection told: the same for both versions, whose modules have the same names.
macro_rules! peer {
    ($($api:ident)::+, $packet:path) => {
        use std::collections::VecDeque;
        use std::error::Error;
        use std::net::SocketAddr;
        use std::time::{Duration, Instant};

        use longtail_conformance::{Outcome, equal, unique};
        use $($api)::+::{Client, Connection, Event, MqttOptions};
        use $packet as Packet;

        type Result<T> = std::result::Result<T, Box<dyn Error>>;

        /// How long anything may take.
        const PATIENCE: Duration = Duration::from_secs(20);

        /// The shortest that both modules accept, and half of it is room for a client that is late with its ping.
        const KEEP_ALIVE: Duration = Duration::from_secs(5);

        /// A client, its connection and the messages that came while something else was awaited.
        pub struct Peer {
            pub client: Client,
            connection: Connection,
            messages: VecDeque<Publish>,
            pub present: bool,
        }

        impl Peer {
            /// Connects and waits for the CONNACK.
            fn open(options: MqttOptions) -> Result<Peer> {
                let (client, connection) = Client::new(options, 2000);
                let mut peer = Peer { client, connection, messages: VecDeque::new(), present: false };
                peer.present = peer.await_packet(|packet| match packet {
                    Packet::ConnAck(answer) => Some(answer.session_present),
                    _ => None,
                })?;
                Ok(peer)
            }

            /// A client with a name of its own.
            fn new(address: SocketAddr) -> Result<Peer> {
                Peer::open(options(address, &unique()))
            }

            /// Lets the connection work until a packet is the one; an error of the connection is one here.
            fn await_packet<T>(&mut self, mut wanted: impl FnMut(&Packet) -> Option<T>) -> Result<T> {
                let end = Instant::now() + PATIENCE;
                while Instant::now() < end {
                    let Ok(event) = self.connection.recv_timeout(Duration::from_millis(200)) else { continue };
                    if let Event::Incoming(packet) = event? {
                        if let Packet::Publish(message) = &packet {
                            self.messages.push_back(message.clone());
                        }
                        if let Some(found) = wanted(&packet) {
                            return Ok(found);
                        }
                    }
                }
                Err("no answer in time".into())
            }

            /// Subscribes and waits for the SUBACK.
            fn subscribe(&mut self, filter: &str, qos: QoS) -> Outcome {
                self.client.subscribe(filter, qos)?;
                self.await_packet(|packet| matches!(packet, Packet::SubAck(_)).then_some(()))
            }

            /// Publishes and waits until the server has it.
            fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &[u8]) -> Outcome {
                self.client.publish(topic, qos, retain, payload.to_vec())?;
                self.sent(qos)
            }

            /// Waits for the last acknowledgement of a publish.
            fn sent(&mut self, qos: QoS) -> Outcome {
                self.await_packet(|packet| match (qos, packet) {
                    (QoS::AtLeastOnce, Packet::PubAck(_)) | (QoS::ExactlyOnce, Packet::PubComp(_)) => Some(()),
                    _ => None,
                })
            }

            /// The next message.
            fn take(&mut self) -> Result<Publish> {
                loop {
                    if let Some(message) = self.messages.pop_front() {
                        return Ok(message);
                    }
                    self.await_packet(|packet| matches!(packet, Packet::Publish(_)).then_some(()))?;
                }
            }

            /// The payloads of the next so many messages, as text.
            fn texts(&mut self, count: usize) -> Result<Vec<String>> {
                (0..count).map(|_| Ok(String::from_utf8(self.take()?.payload.to_vec())?)).collect()
            }

            /// Ends the connection politely.
            fn close(mut self) -> Outcome {
                self.client.disconnect()?;
                let end = Instant::now() + PATIENCE;
                while Instant::now() < end {
                    if let Ok(Err(_)) = self.connection.recv_timeout(Duration::from_millis(200)) {
                        return Ok(());
                    }
                }
                Err("the server does not close the connection".into())
            }

            /// Waits for an error of the connection.
            fn lost(&mut self) -> Outcome {
                match self.await_packet(|_| None::<()>) {
                    Err(error) if error.to_string().contains("in time") => Err(error),
                    _ => Ok(()),
                }
            }
        }

        fn numbers(count: usize) -> Vec<String> {
            (0..count).map(|n| n.to_string()).collect()
        }

        const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

        pub fn round_trips(address: SocketAddr) -> Outcome {
            let topic = unique();
            let (mut s, mut p) = (Peer::new(address)?, Peer::new(address)?);
            s.subscribe(&format!("{topic}/#"), QoS::ExactlyOnce)?;
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                for payload in [&b"x"[..], b"", &[7; 5000]] {
                    p.publish(&format!("{topic}/a"), qos, false, payload)?;
                    let found = s.take()?;
                    equal((found.qos, found.retain, found.payload.len()), (qos, false, payload.len()))?;
                }
            }
            p.client.publish(format!("{topic}/a"), QoS::AtMostOnce, false, "zero")?;
            p.publish(&format!("{topic}/b"), QoS::AtLeastOnce, false, b"one")?;
            equal(s.texts(2)?, vec!["zero".to_owned(), "one".to_owned()])?;
            s.client.unsubscribe(format!("{topic}/#"))?;
            s.await_packet(|packet| matches!(packet, Packet::UnsubAck(_)).then_some(()))?;
            s.close()
        }

        pub fn granted_qos(address: SocketAddr) -> Outcome {
            let topic = unique();
            let mut p = Peer::new(address)?;
            for granted in ALL {
                let mut s = Peer::new(address)?;
                s.subscribe(&topic, granted)?;
                p.publish(&topic, QoS::ExactlyOnce, false, b"x")?;
                equal(s.take()?.qos, granted)?;
            }
            Ok(())
        }

        pub fn retained(address: SocketAddr) -> Outcome {
            let topic = unique();
            let mut p = Peer::new(address)?;
            for name in ["a", "b", "c"] {
                p.publish(&format!("{topic}/{name}"), QoS::AtLeastOnce, true, name.as_bytes())?;
            }
            p.publish(&format!("{topic}/b"), QoS::AtLeastOnce, true, b"")?;
            let mut s = Peer::new(address)?;
            s.subscribe(&format!("{topic}/+"), QoS::AtLeastOnce)?;
            let (one, two) = (s.take()?, s.take()?);
            let mut found = vec![one.payload.to_vec(), two.payload.to_vec()];
            found.sort();
            equal((found, one.retain, two.retain), (vec![b"a".to_vec(), b"c".to_vec()], true, true))
        }

        pub fn many_in_flight(address: SocketAddr) -> Outcome {
            let topic = unique();
            let (mut s, mut p) = (Peer::new(address)?, Peer::new(address)?);
            s.subscribe(&topic, QoS::ExactlyOnce)?;
            let wanted = numbers(300);
            for batch in wanted.chunks(10) {
                for text in batch {
                    p.client.publish(&topic, QoS::ExactlyOnce, false, text.clone().into_bytes())?;
                }
                for _ in batch {
                    p.sent(QoS::ExactlyOnce)?;
                }
            }
            equal(s.texts(300)?, wanted)
        }

        pub fn takeover(address: SocketAddr) -> Outcome {
            let name = unique();
            let mut first = Peer::open(options(address, &name))?;
            let _second = Peer::open(options(address, &name))?;
            first.lost()
        }

        pub fn keep_alive(address: SocketAddr) -> Outcome {
            let mut options = options(address, &unique());
            options.set_keep_alive(KEEP_ALIVE);
            let mut c = Peer::open(options)?;
            c.await_packet(|packet| matches!(packet, Packet::PingResp { .. }).then_some(()))?;
            c.close()
        }

        pub fn persistent_session(address: SocketAddr) -> Outcome {
            let (topic, name) = (unique(), unique());
            let mut s = Peer::open(kept(address, &name))?;
            equal(s.present, false)?;
            s.subscribe(&topic, QoS::ExactlyOnce)?;
            s.close()?;
            let mut p = Peer::new(address)?;
            for text in numbers(60) {
                p.publish(&topic, QoS::AtLeastOnce, false, text.as_bytes())?;
            }
            let mut s = Peer::open(kept(address, &name))?;
            equal(s.present, true)?;
            equal(s.texts(60)?, numbers(60))?;
            s.close()
        }

        pub fn will(address: SocketAddr) -> Outcome {
            let topic = unique();
            let mut s = Peer::new(address)?;
            s.subscribe(&topic, QoS::AtLeastOnce)?;
            let mut with = options(address, &unique());
            with.set_last_will(last_will(&topic));
            // Dropped without a DISCONNECT.
            drop(Peer::open(with)?);
            equal(s.texts(1)?, vec!["gone".to_owned()])
        }

        pub fn shared(address: SocketAddr) -> Outcome {
            let topic = unique();
            let (mut a, mut b, mut p) = (Peer::new(address)?, Peer::new(address)?, Peer::new(address)?);
            for one in [&mut a, &mut b] {
                one.subscribe(&format!("$share/g/{topic}"), QoS::AtLeastOnce)?;
                one.subscribe(&format!("{topic}-last"), QoS::AtLeastOnce)?;
            }
            for text in numbers(20) {
                p.publish(&topic, QoS::AtLeastOnce, false, text.as_bytes())?;
            }
            p.publish(&format!("{topic}-last"), QoS::AtLeastOnce, false, b"last")?;
            let mut heard = Vec::new();
            for one in [&mut a, &mut b] {
                loop {
                    let text = one.texts(1)?.remove(0);
                    if text == "last" {
                        break;
                    }
                    heard.push(text.parse::<u32>()?);
                }
            }
            heard.sort_unstable();
            equal(heard, (0..20).collect::<Vec<u32>>())
        }
    };
}

mod v4 {
    peer!(rumqttc, rumqttc::Packet);
    use rumqttc::{LastWill, Publish, QoS};

    fn options(address: SocketAddr, name: &str) -> MqttOptions {
        MqttOptions::new(name, address.ip().to_string(), address.port())
    }

    fn kept(address: SocketAddr, name: &str) -> MqttOptions {
        let mut options = options(address, name);
        options.set_clean_session(false);
        options
    }

    fn last_will(topic: &str) -> LastWill {
        LastWill::new(topic, "gone", QoS::AtLeastOnce, false)
    }
}

mod v5 {
    peer!(rumqttc::v5, rumqttc::v5::mqttbytes::v5::Packet);
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{LastWill, Publish, PublishProperties};

    fn options(address: SocketAddr, name: &str) -> MqttOptions {
        MqttOptions::new(name, address.ip().to_string(), address.port())
    }

    fn kept(address: SocketAddr, name: &str) -> MqttOptions {
        let mut options = options(address, name);
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(600));
        options
    }

    fn last_will(topic: &str) -> LastWill {
        LastWill::new(topic, "gone", QoS::AtLeastOnce, false, None)
    }

    pub fn properties(address: SocketAddr) -> Outcome {
        let topic = unique();
        let mut c = Peer::new(address)?;
        c.subscribe(&topic, QoS::AtLeastOnce)?;
        let sent = PublishProperties {
            payload_format_indicator: Some(1),
            response_topic: Some("answers".to_owned()),
            correlation_data: Some(vec![0, 1].into()),
            content_type: Some("json".to_owned()),
            user_properties: vec![
                ("a".to_owned(), "1".to_owned()),
                ("a".to_owned(), "2".to_owned()),
            ],
            ..PublishProperties::default()
        };
        c.client
            .publish_with_properties(&topic, QoS::AtLeastOnce, false, "x", sent.clone())?;
        equal(c.take()?.properties, Some(sent))
    }

    pub fn small_window(address: SocketAddr) -> Outcome {
        let topic = unique();
        let mut options = options(address, &unique());
        options.set_receive_maximum(Some(2));
        let (mut s, mut p) = (Peer::open(options)?, Peer::new(address)?);
        s.subscribe(&topic, QoS::AtLeastOnce)?;
        for text in numbers(50) {
            p.publish(&topic, QoS::AtLeastOnce, false, text.as_bytes())?;
        }
        equal(s.texts(50)?, numbers(50))
    }

    pub fn topic_aliases(address: SocketAddr) -> Outcome {
        let topic = unique();
        let mut options = options(address, &unique());
        options.set_topic_alias_max(Some(4));
        let (mut s, mut p) = (Peer::open(options)?, Peer::new(address)?);
        s.subscribe(&format!("{topic}/+"), QoS::AtLeastOnce)?;
        for n in 0..30 {
            let name = format!("{topic}/{}", n % 6);
            p.publish(&name, QoS::AtLeastOnce, false, name.as_bytes())?;
            // It looks aliases up itself and puts the topic in their place.
            let found = s.take()?;
            equal(found.topic, found.payload)?;
        }
        Ok(())
    }
}

const CASES: &[Case] = &[
    ("v4_round_trips", "3.1.1", v4::round_trips),
    ("v4_granted_qos", "3.1.1", v4::granted_qos),
    ("v4_retained", "3.1.1", v4::retained),
    ("v4_many_in_flight", "3.1.1", v4::many_in_flight),
    ("v4_takeover", "3.1.1", v4::takeover),
    ("v4_keep_alive", "3.1.1", v4::keep_alive),
    ("v4_persistent_session", "3.1.1", v4::persistent_session),
    ("v4_will", "3.1.1", v4::will),
    ("v4_shared", "3.1.1", v4::shared),
    ("v5_round_trips", "5.0", v5::round_trips),
    ("v5_granted_qos", "5.0", v5::granted_qos),
    ("v5_retained", "5.0", v5::retained),
    ("v5_many_in_flight", "5.0", v5::many_in_flight),
    ("v5_takeover", "5.0", v5::takeover),
    ("v5_keep_alive", "5.0", v5::keep_alive),
    ("v5_persistent_session", "5.0", v5::persistent_session),
    ("v5_will", "5.0", v5::will),
    ("v5_shared", "5.0", v5::shared),
    ("v5_properties", "5.0", v5::properties),
    ("v5_small_window", "5.0", v5::small_window),
    ("v5_topic_aliases", "5.0", v5::topic_aliases),
];

fn main() -> ExitCode {
    run(CASES)
}
