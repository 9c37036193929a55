//! What the codec promises whatever the input, as a function for the fuzzer and the tests.

use super::{ContentHeader, Decoder, Frame, FrameKind, Greeting, Method, Properties};

/// Decodes `bytes` as what a peer sends and checks what holds for any input: a frame has at least one octet and no more
/// than there are; what is shorter is incomplete; what decodes is encoded again and decodes to the same.
///
/// # Panics
/// If any of that does not hold.
pub fn fuzz(bytes: &[u8]) {
    let _ = Greeting::of(bytes);
    let decoder = Decoder::new(64 * 1024);
    let mut rest = bytes;
    while let Ok(Some((consumed, frame))) = decoder.decode(rest) {
        assert!(consumed > 0 && consumed <= rest.len(), "{consumed}");
        let short = rest.get(..consumed - 1).unwrap_or_default();
        assert_eq!(decoder.decode(short), Ok(None), "a frame without its end");
        look_into(&frame);
        rest = rest.get(consumed..).unwrap_or_default();
    }
}

fn look_into(frame: &Frame<'_>) {
    match frame.kind {
        FrameKind::Method => {
            if let Ok(method) = Method::decode(frame.payload) {
                method_again(&method, frame.channel);
            }
        }
        FrameKind::Header => {
            if let Ok(header) = ContentHeader::decode(frame.payload)
                && let Ok(properties) = Properties::decode(header.properties)
            {
                properties_again(&properties);
            }
        }
        FrameKind::Body | FrameKind::Heartbeat => {}
    }
}

/// Numbers may be no numbers, and then are not equal to themselves: what is compared is the text.
fn method_again(method: &Method<'_>, channel: u16) {
    let mut out = Vec::new();
    assert_eq!(method.encode(channel, &mut out), Ok(()), "{method:?}");
    let decoded = Decoder::new(u32::MAX).decode(&out);
    let Ok(Some((consumed, frame))) = decoded else {
        panic!("{method:?} became {out:02x?}");
    };
    assert_eq!((consumed, frame.channel), (out.len(), channel));
    let again = Method::decode(frame.payload);
    assert_eq!(format!("{again:?}"), format!("Ok({method:?})"));
}

fn properties_again(properties: &Properties<'_>) {
    let mut out = Vec::new();
    assert_eq!(properties.encode(&mut out), Ok(()), "{properties:?}");
    let again = Properties::decode(&out);
    assert_eq!(format!("{again:?}"), format!("Ok({properties:?})"));
}
