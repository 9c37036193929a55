//! Time of decoding and encoding a PUBLISH, and of a subscriber's frame: `cargo bench -p longtail-mqtt`.
#![allow(missing_docs, reason = "the macros of criterion make functions")]

use std::hint::black_box;
use std::num::NonZeroU32;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use longtail_mqtt::codec::{
    Decoder, Format, Message, Packet, PacketId, Prepared, Publish, PublishProperties, Qos, Sender,
    UserPropertiesBuf, Version,
};

const TOPIC: &str = "site/17/line/3/sensor/temperature";
const PAYLOADS: [usize; 2] = [16, 256];
const SUBSCRIBERS: u16 = 1000;

struct Case {
    name: &'static str,
    version: Version,
    properties: bool,
}

const CASES: [Case; 3] = [
    Case {
        name: "3.1.1",
        version: Version::V311,
        properties: false,
    },
    Case {
        name: "5.0",
        version: Version::V5,
        properties: false,
    },
    Case {
        name: "5.0, content type, 2 user properties",
        version: Version::V5,
        properties: true,
    },
];

fn codec(c: &mut Criterion) {
    let mut user = UserPropertiesBuf::new();
    for (key, value) in [("trace", "7f3a9c"), ("unit", "celsius")] {
        if user.push(key, value).is_err() {
            return;
        }
    }
    for size in PAYLOADS {
        let payload = Bytes::from(vec![b'x'; size]);
        for case in &CASES {
            let mut properties = PublishProperties::default();
            if case.properties {
                properties.message.content_type = Some("application/json");
                properties.message.user = user.as_properties();
            }
            let packet = Packet::Publish(Publish {
                dup: false,
                qos: Qos::AtLeastOnce,
                retain: false,
                topic: TOPIC,
                packet_id: Some(PacketId::MAX),
                properties,
                payload: &payload,
            });
            one(c, case, size, &packet);
            fan_out(c, case, &payload, &properties);
        }
    }
}

fn one(c: &mut Criterion, case: &Case, size: usize, packet: &Packet<'_>) {
    let mut group = c.benchmark_group(format!("PUBLISH of {size} B, {}", case.name));
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::new();
    if packet.encode(case.version, &mut out).is_err() {
        return;
    }
    group.bench_function("decode", |b| {
        let mut decoder = Decoder::open(Sender::Client, case.version);
        b.iter(|| decoder.decode(black_box(&out)).is_ok());
    });
    group.bench_function("encode", |b| {
        let mut out = Vec::with_capacity(1024);
        b.iter(|| {
            out.clear();
            black_box(packet).encode(case.version, &mut out)
        });
    });
    group.finish();
}

fn fan_out(c: &mut Criterion, case: &Case, payload: &Bytes, properties: &PublishProperties<'_>) {
    let mut forwarded = Vec::new();
    if properties.message.write_forwarded(&mut forwarded).is_err() {
        return;
    }
    let message = Message {
        topic: TOPIC,
        payload,
        properties: &forwarded,
    };
    let ids = [NonZeroU32::MIN];
    let format = Format {
        version: case.version,
        qos: Qos::AtLeastOnce,
        retain: false,
        expiry_s: None,
        alias: None,
        subscription_ids: if case.version.is_v5() { &ids } else { &[] },
    };
    let size = payload.len();
    let mut group = c.benchmark_group(format!("PUBLISH of {size} B, {}", case.name));
    group.throughput(Throughput::Elements(1));
    group.bench_function("prepare", |b| {
        b.iter(|| Prepared::new(black_box(&message), black_box(&format)).is_ok());
    });
    let Ok(prepared) = Prepared::new(&message, &format) else {
        return;
    };
    group.throughput(Throughput::Elements(SUBSCRIBERS.into()));
    group.bench_function("write to 1,000 subscribers", |b| {
        let mut out = Vec::with_capacity(prepared.size() * usize::from(SUBSCRIBERS));
        b.iter(|| {
            out.clear();
            for id in 1..=SUBSCRIBERS {
                if prepared
                    .write(PacketId::new(id), false, black_box(&mut out))
                    .is_err()
                {
                    return;
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
