//! As much of an MQTT 5.0 client as the tests need, byte by byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A connection.
pub struct Mqtt<S = TcpStream>(pub S);

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text);
}

/// A packet around its body.
pub fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).unwrap();
        length /= 128;
        out.push(if length > 0 { low | 128 } else { low });
        if length == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// CONNECT with a clean start; `properties` as they are written, `login` name and password.
pub fn connect(client_id: &str, properties: &[u8], login: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, b"MQTT");
    let flags = if login.is_some() { 0xC2 } else { 0x02 };
    body.extend([5, flags, 0, 0]);
    body.push(u8::try_from(properties.len()).unwrap());
    body.extend(properties);
    text(&mut body, client_id.as_bytes());
    if let Some((name, password)) = login {
        text(&mut body, name.as_bytes());
        text(&mut body, password.as_bytes());
    }
    packet(0x10, &body)
}

/// The properties of an authentication.
pub fn method(method: &str, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x15];
    text(&mut out, method.as_bytes());
    if !data.is_empty() {
        out.push(0x16);
        text(&mut out, data);
    }
    out
}

/// AUTH.
pub fn auth(reason: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![reason, u8::try_from(properties.len()).unwrap()];
    body.extend(properties);
    packet(0xF0, &body)
}

pub fn subscribe(id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    text(&mut body, filter.as_bytes());
    body.push(qos);
    packet(0x82, &body)
}

/// PUBLISH with the given first byte.
pub fn publish(topic: &str, payload: &[u8], kind: u8, id: Option<u16>) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic.as_bytes());
    if let Some(id) = id {
        body.extend(id.to_be_bytes());
    }
    body.push(0);
    body.extend(payload);
    packet(kind, &body)
}

impl Mqtt<TcpStream> {
    pub fn open(address: &str) -> Mqtt {
        let socket = TcpStream::connect(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Mqtt(socket)
    }

    /// A client that is in, with this session expiry.
    pub fn connect(address: &str, client_id: &str, expiry_s: u32) -> Mqtt {
        Mqtt::connect_with(address, client_id, expiry_s, None)
    }

    /// As [`Mqtt::connect`], which takes no larger packets than this.
    pub fn connect_with(
        address: &str,
        client_id: &str,
        expiry_s: u32,
        packet_bytes_max: Option<u32>,
    ) -> Mqtt {
        let mut client = Mqtt::open(address);
        let mut properties = vec![0x11];
        properties.extend(expiry_s.to_be_bytes());
        if let Some(bytes) = packet_bytes_max {
            properties.push(0x27);
            properties.extend(bytes.to_be_bytes());
        }
        client.send(&connect(client_id, &properties, None));
        let (kind, body) = client.packet();
        assert_eq!((kind, body[1]), (0x20, 0), "CONNACK");
        client
    }
}

impl<S: Read + Write> Mqtt<S> {
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        byte[0]
    }

    /// First byte and body of the next packet.
    pub fn packet(&mut self) -> (u8, Vec<u8>) {
        let kind = self.byte();
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            length |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (kind, body)
    }

    /// The next packet of this type, others left out.
    pub fn packet_of(&mut self, kind: u8) -> (u8, Vec<u8>) {
        loop {
            let packet = self.packet();
            if packet.0 & 0xF0 == kind {
                return packet;
            }
        }
    }

    /// Topic and payload of the next message at QoS 0, which has no properties.
    pub fn message(&mut self) -> (String, String) {
        let (_, body) = self.packet_of(0x30);
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let (topic, rest) = body[2..].split_at(length);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(topic), text(&rest[1..]))
    }

    /// The server closes the connection.
    pub fn ends(&mut self) {
        assert_eq!(self.0.read(&mut [0; 16]).unwrap(), 0);
    }
}
