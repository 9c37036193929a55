//! The answers to what is wrong, as tables.

use super::fault::{Answer, Fault};
use super::reason::{ReasonCode, ReturnCode};
use super::version::{PacketType, Version};

const CLOSE: Answer = Answer::Close;
const MALFORMED: Answer = Answer::Disconnect(ReasonCode::MalformedPacket);
const PROTOCOL: Answer = Answer::Disconnect(ReasonCode::ProtocolError);

/// Answers to a first packet: fault, answer for 3.1 and 3.1.1, answer for 5.0. All other faults close.
const FIRST: &[(Fault, Answer, Answer)] = {
    const MALFORMED: Answer = Answer::Connack(ReasonCode::MalformedPacket);
    const PROTOCOL: Answer = Answer::Connack(ReasonCode::ProtocolError);
    const IDENTIFIER: Answer = Answer::ConnackV3(ReturnCode::IdentifierRejected);
    const CLIENT_ID: Answer = Answer::Connack(ReasonCode::ClientIdentifierNotValid);
    &[
        (Fault::ClientIdMissing, IDENTIFIER, CLIENT_ID),
        (Fault::ClientIdUtf8, CLOSE, CLIENT_ID),
        (Fault::Trailing, CLOSE, MALFORMED),
        (Fault::WillTruncated, CLOSE, MALFORMED),
        (Fault::WillTopic, CLOSE, PROTOCOL),
        (Fault::Utf8, CLOSE, MALFORMED),
        (Fault::VarInt, CLOSE, MALFORMED),
        (Fault::PropertiesLength, CLOSE, MALFORMED),
        (Fault::PropertyTruncated, CLOSE, MALFORMED),
        (Fault::PropertyUnknown, CLOSE, MALFORMED),
        (Fault::PropertyNotAllowed, CLOSE, PROTOCOL),
        (Fault::PropertyRepeated, CLOSE, PROTOCOL),
        (Fault::PropertyValue, CLOSE, PROTOCOL),
        (Fault::SubscriptionId, CLOSE, PROTOCOL),
        (Fault::TopicAliasZero, CLOSE, PROTOCOL),
        (Fault::AuthMethodMissing, CLOSE, PROTOCOL),
    ]
};

/// Answers to a first packet whose version is not known yet. All other faults close.
const UNKNOWN: &[(Fault, Answer)] = &[
    (
        Fault::ProtocolLevel,
        Answer::Connack(ReasonCode::UnsupportedProtocolVersion),
    ),
    (
        Fault::ProtocolMismatch,
        Answer::ConnackV3(ReturnCode::UnacceptableProtocolVersion),
    ),
];

/// Answers of 5.0 to later packets: fault, packets (none: all others), answer. The first that fits counts. 3.1 and
/// 3.1.1 close.
const LATER: &[(Fault, &[PacketType], Answer)] = &[
    (
        Fault::Flags,
        &[
            PacketType::Connack,
            PacketType::Pubrel,
            PacketType::Disconnect,
            PacketType::Auth,
        ],
        PROTOCOL,
    ),
    (Fault::Flags, &[], MALFORMED),
    (
        Fault::Trailing,
        &[PacketType::Pingreq, PacketType::Pingresp],
        CLOSE,
    ),
    (Fault::Trailing, &[PacketType::Disconnect], PROTOCOL),
    (Fault::Trailing, &[], MALFORMED),
    (
        Fault::PacketIdZero,
        &[PacketType::Subscribe, PacketType::Unsubscribe],
        MALFORMED,
    ),
    (Fault::PacketIdZero, &[], PROTOCOL),
    (
        Fault::PropertyNotAllowed,
        &[PacketType::Subscribe, PacketType::Unsubscribe],
        MALFORMED,
    ),
    (Fault::PropertyNotAllowed, &[], PROTOCOL),
    (Fault::RemainingLength, &[], CLOSE),
    (
        Fault::TooLarge,
        &[],
        Answer::Disconnect(ReasonCode::PacketTooLarge),
    ),
    (
        Fault::TopicAliasZero,
        &[],
        Answer::Disconnect(ReasonCode::TopicAliasInvalid),
    ),
    (Fault::ReservedType, &[], PROTOCOL),
    (Fault::WrongDirection, &[], PROTOCOL),
    (Fault::WrongVersion, &[], PROTOCOL),
    (Fault::SecondConnect, &[], PROTOCOL),
    (Fault::PropertyRepeated, &[], PROTOCOL),
    (Fault::PropertyValue, &[], PROTOCOL),
    (Fault::SubscriptionId, &[], PROTOCOL),
    (Fault::AuthMethodMissing, &[], PROTOCOL),
    // Who says goodbye is told nothing more.
    (Fault::Reason, &[PacketType::Disconnect], CLOSE),
    (Fault::Reason, &[], PROTOCOL),
    (Fault::NoLocalShared, &[], PROTOCOL),
];

/// The answer to `fault` in `packet` on a connection of `version`.
pub(super) fn answer(fault: Fault, packet: Option<PacketType>, version: Option<Version>) -> Answer {
    let Some(version) = version else {
        let row = UNKNOWN.iter().find(|(of, _)| *of == fault);
        return row.map_or(CLOSE, |(_, answer)| *answer);
    };
    if packet == Some(PacketType::Connect) && fault != Fault::SecondConnect {
        let row = FIRST.iter().find(|(of, _, _)| *of == fault);
        return row.map_or(CLOSE, |(_, v3, v5)| if version.is_v5() { *v5 } else { *v3 });
    }
    if !version.is_v5() {
        return CLOSE;
    }
    let row = LATER.iter().find(|(of, packets, _)| {
        let fits = packets.is_empty() || packet.is_some_and(|packet| packets.contains(&packet));
        *of == fault && fits
    });
    // What is left are bytes that cannot be read.
    row.map_or(MALFORMED, |(_, _, answer)| *answer)
}
