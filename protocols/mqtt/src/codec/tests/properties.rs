//! Every property in every packet: once, twice, cut off. The matrix is written down a second time here.

use super::super::fault::Fault;
use super::super::{DecodeError, Decoder, PacketLimits, Sender, Version};
use super::bytes;

/// Where properties stand, with a packet around them. `@` is where they go, their length before them.
const PLACES: [(char, Sender, &str); 17] = [
    ('C', Sender::Client, "10 _ 'MQTT' 05 02 000A @ 'p'"),
    (
        'W',
        Sender::Client,
        "10 _ 'MQTT' 05 06 000A 00 'p' @ 't' 'm'",
    ),
    ('K', Sender::Server, "20 _ 00 00 @"),
    ('p', Sender::Client, "30 _ 'a' @ \"x\""),
    ('P', Sender::Server, "30 _ 'a' @ \"x\""),
    ('A', Sender::Client, "40 _ 0001 00 @"),
    ('A', Sender::Server, "50 _ 0001 00 @"),
    ('A', Sender::Client, "62 _ 0001 00 @"),
    ('A', Sender::Server, "70 _ 0001 00 @"),
    ('S', Sender::Client, "82 _ 0001 @ 'a' 00"),
    ('A', Sender::Server, "90 _ 0001 @ 00"),
    ('U', Sender::Client, "A2 _ 0001 @ 'a'"),
    ('A', Sender::Server, "B0 _ 0001 @ 00"),
    ('d', Sender::Client, "E0 _ 00 @"),
    ('D', Sender::Server, "E0 _ 00 @"),
    ('H', Sender::Client, "F0 _ 19 @"),
    ('H', Sender::Server, "F0 _ 18 @"),
];

/// Number, a value, and the places where it may stand.
const MATRIX: [(&str, &str, &str); 27] = [
    ("01", "01", "WpP"),
    ("02", "00000001", "WpP"),
    ("03", "'t'", "WpP"),
    ("08", "'t'", "WpP"),
    ("09", "'t'", "WpP"),
    ("0B", "01", "PS"),
    ("11", "00000001", "CKd"),
    ("12", "'t'", "K"),
    ("13", "0001", "K"),
    ("15", "'t'", "CKH"),
    ("16", "'t'", "CKH"),
    ("17", "01", "C"),
    ("18", "00000001", "W"),
    ("19", "01", "C"),
    ("1A", "'t'", "K"),
    ("1C", "'t'", "KD"),
    ("1F", "'t'", "KAdDH"),
    ("21", "0001", "CK"),
    ("22", "0001", "CK"),
    ("23", "0001", "pP"),
    ("24", "01", "K"),
    ("25", "01", "K"),
    ("26", "'k' 'v'", "CWKpPASUdDH"),
    ("27", "00000001", "CK"),
    ("28", "01", "K"),
    ("29", "01", "K"),
    ("2A", "01", "K"),
];

/// Decodes the packet with `properties` in it, which get a method where there must be one.
fn fault(place: (char, Sender, &str), properties: &[u8]) -> Option<Fault> {
    let (name, sender, packet) = place;
    let mut properties = properties.to_vec();
    let has = |id| properties.first() == Some(&id);
    if name == 'H' && !has(0x15) || matches!(name, 'C') && has(0x16) {
        properties.extend(bytes("15 'm'"));
    }
    let text = format!("{:02X}", properties.len())
        + &properties
            .iter()
            .map(|byte| format!(" {byte:02X}"))
            .collect::<String>();
    let packet = bytes(&packet.replace('@', &text));
    let mut decoder = if matches!(name, 'C' | 'W') {
        Decoder::for_server(PacketLimits::default())
    } else {
        Decoder::open(sender, Version::V5)
    };
    match decoder.decode(&packet) {
        Ok(decoded) => {
            assert_eq!(decoded.map(|decoded| decoded.consumed), Some(packet.len()));
            None
        }
        Err(DecodeError { fault, .. }) => Some(fault),
    }
}

#[test]
fn every_property_stands_where_the_specification_has_it_and_nowhere_else() {
    for (id, value, places) in MATRIX {
        for place in PLACES {
            let found = fault(place, &bytes(&format!("{id} {value}")));
            let expected = (!places.contains(place.0)).then_some(Fault::PropertyNotAllowed);
            assert_eq!(found, expected, "{id} in {place:?}");
        }
    }
}

#[test]
fn only_user_properties_and_a_servers_subscription_identifiers_come_twice() {
    for (id, value, places) in MATRIX {
        for place in PLACES.iter().filter(|place| places.contains(place.0)) {
            let found = fault(*place, &bytes(&format!("{id} {value} {id} {value}")));
            let expected = match (id, place.0) {
                ("26", _) | ("0B", 'P') => None,
                ("0B", _) => Some(Fault::SubscriptionId),
                _ => Some(Fault::PropertyRepeated),
            };
            assert_eq!(found, expected, "{id} twice in {place:?}");
        }
    }
}

#[test]
fn a_property_that_is_cut_off_is_malformed_even_where_it_may_not_stand() {
    for (id, value, _) in MATRIX {
        let whole = bytes(&format!("{id} {value}"));
        for place in PLACES
            .iter()
            .filter(|place| place.0 != 'H' && place.0 != 'C')
        {
            for cut in 1..whole.len() {
                let found = fault(*place, &whole[..cut]);
                assert_eq!(found, Some(Fault::PropertyTruncated), "{id} in {place:?}");
            }
        }
    }
}

#[test]
fn a_number_that_is_no_property_is_malformed() {
    let known: Vec<Vec<u8>> = MATRIX.iter().map(|(id, _, _)| bytes(id)).collect();
    for id in (0..0x80).filter(|id| !known.contains(&vec![*id])) {
        for place in PLACES.iter().filter(|place| place.0 != 'H') {
            assert_eq!(fault(*place, &[id, 1]), Some(Fault::PropertyUnknown));
        }
    }
}
