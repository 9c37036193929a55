//! What the codec promises whatever the input, as a function for the fuzzer and the tests.

use bytes::Bytes;

use super::{
    Alias, Decoder, Format, Message, Packet, PacketLimits, Prepared, Publish, Sender, Version,
};

/// Decodes `bytes` as the stream of a client and of a server, in each version, and checks what holds for any input:
/// decoding makes progress or wants more, and consumes no more than there is; what decodes is encoded again, in no more
/// bytes, and decodes to the same; and so does a PUBLISH that went through [`Prepared`].
///
/// # Panics
/// If any of that does not hold.
pub fn fuzz(bytes: &[u8]) {
    stream(bytes, Decoder::for_server(PacketLimits::default()));
    for version in Version::ALL {
        stream(bytes, Decoder::open(Sender::Client, version));
        stream(bytes, Decoder::open(Sender::Server, version));
    }
}

fn stream(bytes: &[u8], mut decoder: Decoder) {
    let mut rest = bytes;
    loop {
        let fresh = decoder.clone();
        let Ok(Some(decoded)) = decoder.decode(rest) else {
            return;
        };
        assert!(decoded.consumed > 0, "a packet out of nothing");
        assert!(decoded.consumed <= rest.len(), "more than there was");
        let version = decoder.version();
        let Some(version) = version else {
            panic!("a packet of no version");
        };
        again(&decoded.packet, decoded.consumed, version, &fresh);
        rest = rest.get(decoded.consumed..).unwrap_or_default();
    }
}

fn again(packet: &Packet<'_>, length: usize, version: Version, decoder: &Decoder) {
    let mut out = Vec::new();
    let encoded = packet.encode(version, &mut out);
    assert_eq!(encoded, Ok(()), "{packet:?} cannot be encoded");
    assert!(out.len() <= length, "{packet:?} grew");
    assert_eq!(packet.encoded_len(version), Ok(out.len()));
    same(packet, &out, decoder);
    if let Packet::Publish(publish) = packet {
        out.clear();
        prepared(publish, version, &mut out);
        assert!(out.len() <= length, "{packet:?} grew");
        same(packet, &out, decoder);
    }
}

/// Encodes a PUBLISH as a broker hands it on, with nothing changed.
fn prepared(publish: &Publish<'_>, version: Version, out: &mut Vec<u8>) {
    let message = &publish.properties.message;
    let mut properties = Vec::new();
    let forwarded = message.write_forwarded(&mut properties);
    assert_eq!(forwarded, Ok(()), "what was decoded is forwarded");
    let payload = Bytes::copy_from_slice(publish.payload);
    let ids: Vec<_> = publish.properties.subscription_ids.iter().collect();
    let by_alias = publish.topic.is_empty();
    let prepared = Prepared::new(
        &Message {
            topic: publish.topic,
            payload: &payload,
            properties: &properties,
        },
        &Format {
            version,
            qos: publish.qos,
            retain: publish.retain,
            expiry_s: message.expiry_s,
            alias: publish.properties.topic_alias.map(|alias| {
                if by_alias {
                    Alias::Use(alias)
                } else {
                    Alias::Define(alias)
                }
            }),
            subscription_ids: &ids,
        },
    );
    match prepared {
        Ok(prepared) => {
            let written = prepared.write(publish.packet_id, publish.dup, out);
            assert_eq!(written, Ok(()), "the packet id goes with the QoS");
            assert_eq!(prepared.size(), out.len());
        }
        Err(error) => panic!("{publish:?} cannot be prepared: {error}"),
    }
}

fn same(packet: &Packet<'_>, bytes: &[u8], decoder: &Decoder) {
    match decoder.clone().decode(bytes) {
        Ok(Some(decoded)) => {
            assert_eq!(&decoded.packet, packet, "from {bytes:02x?}");
            assert_eq!(decoded.consumed, bytes.len());
        }
        other => panic!("{packet:?} became {bytes:02x?}, which is {other:?}"),
    }
}
