//! What every message costs before anybody knows what it says.

use std::hint::black_box;
use std::num::NonZeroU32;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use longtail_amqp::codec::{ContentHeader, Decoder as Frames, Method, Properties};
use longtail_beanstalk::codec::{Decoder as Lines, Frame};
use longtail_mqtt::codec::{
    Decoder, Format, Message, Packet, PacketId, Prepared, Publish, PublishProperties, Qos, Sender,
    Version,
};

const PAYLOAD: &[u8; 64] = &[b'x'; 64];

pub(crate) fn beanstalk_put(times: u64) -> Result<()> {
    let put = [b"put 1024 0 60 64\r\n", PAYLOAD.as_slice(), b"\r\n"].concat();
    let mut decoder = Lines::new(1024);
    for _ in 0..times {
        let decoded = decoder.decode(black_box(&put));
        ensure!(matches!(decoded.frame, Some(Frame::Put(_))), "not a put");
    }
    Ok(())
}

pub(crate) fn mqtt_publish(times: u64) -> Result<()> {
    let packet = Packet::Publish(Publish {
        dup: false,
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: "site/17/line/3/temperature",
        packet_id: Some(PacketId::MAX),
        properties: PublishProperties::default(),
        payload: PAYLOAD,
    });
    let mut bytes = Vec::new();
    packet.encode(Version::V5, &mut bytes)?;
    let mut decoder = Decoder::open(Sender::Client, Version::V5);
    for _ in 0..times {
        ensure!(decoder.decode(black_box(&bytes)).is_ok(), "not a publish");
    }
    Ok(())
}

pub(crate) fn mqtt_prepared(times: u64) -> Result<()> {
    let payload = Bytes::from_static(PAYLOAD);
    let message = Message {
        topic: "site/17/line/3/temperature",
        payload: &payload,
        properties: &[],
    };
    let ids = [NonZeroU32::MIN];
    let format = Format {
        version: Version::V5,
        qos: Qos::AtLeastOnce,
        retain: false,
        expiry_s: None,
        alias: None,
        subscription_ids: &ids,
    };
    let prepared = Prepared::new(&message, &format)?;
    let mut out = Vec::with_capacity(1024);
    for _ in 0..times {
        out.clear();
        prepared.write(PacketId::new(7), false, black_box(&mut out))?;
    }
    Ok(())
}

pub(crate) fn amqp_publish(times: u64) -> Result<()> {
    let publish = Method::BasicPublish {
        ticket: 0,
        exchange: "",
        routing_key: "tasks",
        mandatory: false,
        immediate: false,
    };
    let mut bytes = Vec::new();
    publish.encode(1, &mut bytes)?;
    let properties = Properties {
        content_type: Some("application/json"),
        delivery_mode: Some(2),
        ..Properties::default()
    };
    let mut octets = Vec::new();
    properties.encode(&mut octets)?;
    let body = PAYLOAD.as_slice();
    longtail_amqp::codec::put_content(1, &octets, body, 131_072, &mut bytes)?;
    let decoder = Frames::new(131_072);
    for _ in 0..times {
        let mut rest = black_box(bytes.as_slice());
        let (used, method) = decoder.decode(rest)?.context("a method")?;
        black_box(Method::decode(method.payload)?);
        rest = rest.get(used..).unwrap_or_default();
        let (used, header) = decoder.decode(rest)?.context("a header")?;
        let header = ContentHeader::decode(header.payload)?;
        black_box(Properties::decode(header.properties)?);
        rest = rest.get(used..).unwrap_or_default();
        black_box(decoder.decode(rest)?.context("a body")?);
    }
    Ok(())
}
