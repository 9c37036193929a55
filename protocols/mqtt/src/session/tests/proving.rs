//! Enhanced authentication: which AUTH is answered how, and when.

use super::*;
use crate::codec::{Auth, AuthProperties, Disconnect, DisconnectProperties};

const METHOD: &str = "M";

fn auth(reason: ReasonCode, method: Option<&'static str>, data: &'static [u8]) -> Packet<'static> {
    Packet::Auth(Auth {
        reason,
        properties: AuthProperties {
            method,
            data: Some(data),
            ..AuthProperties::default()
        },
    })
}

fn go_on(data: &'static [u8]) -> Packet<'static> {
    auth(ReasonCode::ContinueAuthentication, Some(METHOD), data)
}

fn again() -> Packet<'static> {
    auth(ReasonCode::ReAuthenticate, Some(METHOD), b"again")
}

fn connect_with_method() -> Connect<'static> {
    let mut connect = connect(Version::V5);
    connect.properties.authentication_method = Some(METHOD);
    connect.properties.authentication_data = Some(b"first");
    connect
}

/// A session whose method has asked for more.
fn challenged() -> Bench {
    let mut bench = Bench::greet(Limits::default(), &connect_with_method()).unwrap();
    bench.with(|session, _, wire| session.challenge(b"?", wire));
    bench
}

/// One that is open.
fn open() -> Bench {
    let mut bench = challenged();
    assert_eq!(bench.input(&go_on(b"last")), Next::Pause);
    bench.session.proved(Bytes::from_static(b"!"));
    bench.accept(None);
    bench.said();
    bench.actions.clear();
    bench
}

/// AUTH with the method and data.
fn said_auth(reason: u8, data: &[u8]) -> Vec<u8> {
    let mut properties = vec![0x15, 0, 1, b'M'];
    if !data.is_empty() {
        properties.extend([0x16, 0, u8::try_from(data.len()).unwrap()]);
        properties.extend(data);
    }
    let length = u8::try_from(properties.len()).unwrap();
    let mut packet = vec![0xF0, length + 2, reason, length];
    packet.extend(properties);
    packet
}

fn proof(bench: &mut Bench) -> Proof {
    match bench.actions.pop() {
        Some(Action::Prove(proof)) => *proof,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connect_hands_method_and_data_to_who_judges_them() {
    let limits = Limits::default();
    let (_, demand) = Session::greet(&connect_with_method(), String::new, &limits, NOW).unwrap();
    let expected = Proof {
        method: METHOD.into(),
        begins: true,
        data: Bytes::from_static(b"first"),
    };
    assert_eq!(demand.proof, Some(expected));
}

#[test]
fn an_exchange_ends_with_a_connack_that_has_method_and_data() {
    let mut bench = challenged();
    assert!(!bench.session.is_greeting(), "it is the client's turn");
    assert_eq!(bench.said(), said_auth(0x18, b"?"));
    assert_eq!(bench.input(&go_on(b"last")), Next::Pause);
    assert!(bench.session.is_greeting());
    let said = proof(&mut bench);
    assert_eq!((said.begins, &said.data[..]), (false, &b"last"[..]));
    bench.session.proved(Bytes::from_static(b"!"));
    bench.accept(None);
    let connack = bench.said();
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    let both = [0x15, 0, 1, b'M', 0x16, 0, 1, b'!'];
    assert!(
        connack.windows(both.len()).any(|part| part == both),
        "{connack:x?}"
    );
}

#[test]
fn before_connack_only_auth_of_the_same_method_counts() {
    let wrong = [
        again(),
        auth(ReasonCode::ContinueAuthentication, Some("other"), b""),
        auth(ReasonCode::ContinueAuthentication, None, b""),
        Packet::Pingreq,
        publish(Qos::AtMostOnce, 0, "t", b"x"),
    ];
    for packet in wrong {
        let mut bench = challenged();
        bench.said();
        let next = bench.input(&packet);
        assert!(
            matches!(
                next,
                Next::Close(Goodbye::Broken(ReasonCode::ProtocolError, _))
            ),
            "{packet:?}: {next:?}"
        );
        let connack = bench.said();
        assert_eq!((connack[0], connack[3]), (0x20, 0x82), "{packet:?}");
        assert!(bench.actions.is_empty(), "{packet:?}");
    }
    let mut bench = challenged();
    bench.said();
    let disconnect = Packet::Disconnect(Disconnect {
        reason: ReasonCode::Success,
        properties: DisconnectProperties::default(),
    });
    assert_eq!(bench.input(&disconnect), Next::Close(Goodbye::Disconnected));
    assert_eq!(bench.said(), b"");
}

#[test]
fn a_client_proves_itself_again_while_everything_goes_on() {
    let mut bench = open();
    assert_eq!(bench.input(&again()), Next::Read);
    assert!(proof(&mut bench).begins);
    bench.with(|session, _, wire| session.challenge(b"?", wire));
    assert_eq!(bench.said(), said_auth(0x18, b"?"));
    // In the middle of it, with the rights it has.
    assert_eq!(
        bench.input(&publish(Qos::AtMostOnce, 0, "t", b"x")),
        Next::Read
    );
    assert_eq!(bench.publish_all().len(), 1);
    assert_eq!(bench.input(&go_on(b"last")), Next::Read);
    assert!(!proof(&mut bench).begins);
    // From now on it may do nothing.
    bench.with(|session, _, wire| session.reproved(Arc::new(Grants::default()), b"", wire));
    assert_eq!(bench.said(), said_auth(0x00, b""));
    bench.input(&publish(Qos::AtMostOnce, 0, "t", b"x"));
    assert_eq!(bench.publish_all().len(), 0);
    // And once more.
    assert_eq!(bench.input(&again()), Next::Read);
}

#[test]
fn auth_out_of_turn_is_a_protocol_error() {
    let in_the_middle = || {
        let mut bench = open();
        bench.input(&again());
        bench
    };
    let rows: [(&str, Bench, Packet<'static>); 5] = [
        ("no method", Bench::v5(), again()),
        ("nobody has asked", open(), go_on(b"")),
        (
            "another method",
            open(),
            auth(ReasonCode::ReAuthenticate, Some("other"), b""),
        ),
        ("twice at once", in_the_middle(), again()),
        ("not its turn", in_the_middle(), go_on(b"")),
    ];
    for (name, mut bench, packet) in rows {
        let next = bench.input(&packet);
        assert!(
            matches!(
                next,
                Next::Close(Goodbye::Broken(ReasonCode::ProtocolError, _))
            ),
            "{name}: {next:?}"
        );
        assert_eq!(bench.said(), [0xE0, 1, 0x82], "{name}");
    }
}
