"""Sections 3.1, 3.5, 3.6 and 3.8: what bad input gets after CONNECT, byte for byte, and that the will is published."""

import wire
from harness.suite import add, case, equal
from wire import Client, Will, ack, auth, disconnect, packet, publish, subscribe, u16, unsubscribe

CLOSE = None


def sub(version, filters, flags=None, pid=1, properties=b"\0"):
    """A SUBSCRIBE put together by hand; `properties` with their length."""
    body = u16(pid) + (properties if version == 5 else b"")
    return packet("SUBSCRIBE", body + b"".join(wire.data(f) + bytes([o]) for f, o in filters), flags)


def unsub(version, filters, flags=None, pid=1, properties=b"\0"):
    """An UNSUBSCRIBE put together by hand."""
    body = u16(pid) + (properties if version == 5 else b"")
    return packet("UNSUBSCRIBE", body + b"".join(map(wire.data, filters)), flags)


def pub(version, topic, flags=0, pid=None, properties=b"\0", payload=b"x"):
    """A PUBLISH put together by hand."""
    body = wire.data(topic) + (b"" if pid is None else u16(pid)) + (properties if version == 5 else b"")
    return packet("PUBLISH", body + payload, flags)


BOTH = (4, 5)
V5 = (5,)
V4 = (4,)

#: Name, row, versions, packet by version, version 5's reason code (`CLOSE`: no DISCONNECT).
ROWS = [
    ("type_0", "type 0", BOTH, lambda v: packet(0), 0x82),
    ("connack_from_client", "server-only packets", BOTH, lambda v: packet("CONNACK", b"\0\0"), 0x82),
    ("suback_from_client", "server-only packets", BOTH, lambda v: packet("SUBACK", b"\0\1\0"), 0x82),
    ("suback_with_flags", "server-only packets", V5, lambda v: packet("SUBACK", b"\0\1\0\0", 2), 0x81),
    ("unsuback_from_client", "server-only packets", BOTH, lambda v: packet("UNSUBACK", b"\0\1"), 0x82),
    ("pingresp_from_client", "server-only packets", BOTH, lambda v: packet("PINGRESP"), 0x82),
    ("auth_v4", "type 15", V4, lambda v: auth(), CLOSE),
    ("auth_without_method", "type 15", V5, lambda v: auth(0x19, [(wire.AUTH_METHOD, "X")]), 0x82),
    ("auth_empty", "type 15", V5, lambda v: auth(), 0x82),
    ("auth_flags", "3.1: flags", V5, lambda v: packet("AUTH", b"\x19\0", 1), 0x82),
    ("ping_flags", "PINGREQ with flags", BOTH, lambda v: packet("PINGREQ", flags=1), 0x81),
    ("ping_body", "PINGREQ with body", BOTH, lambda v: packet("PINGREQ", b"x"), CLOSE),
    ("disconnect_flags", "DISCONNECT with flags", BOTH, lambda v: packet("DISCONNECT", flags=1), 0x82),
    ("disconnect_length", "DISCONNECT bad property length", V5, lambda v: packet("DISCONNECT", b"\0\x05\x11"), 0x81),
    ("disconnect_wrong_property", "DISCONNECT", V5, lambda v: disconnect(0, [(wire.RECEIVE_MAXIMUM, 1)]), 0x82),
    ("disconnect_truncated", "DISCONNECT", V5, lambda v: packet("DISCONNECT", b"\0\x03\x11\0\0"), 0x81),
    ("disconnect_expiry", "4.1.7", V5, lambda v: disconnect(0, [(wire.SESSION_EXPIRY, 10)]), 0x82),
    ("publish_qos_3", "PUBLISH QoS 3", BOTH, lambda v: pub(v, "a", 6, 1), 0x81),
    ("publish_dup_qos_0", "DUP with QoS 0", BOTH, lambda v: pub(v, "a", 8), 0x81),
    ("publish_id_0", "QoS>0 packet id 0", BOTH, lambda v: pub(v, "a", 2, 0), 0x82),
    ("publish_id_0_qos_2", "QoS>0 packet id 0", BOTH, lambda v: pub(v, "a", 4, 0), 0x82),
    ("publish_plus", "3.7: publish with wildcards", BOTH, lambda v: pub(v, "a/+"), 0x81),
    ("publish_hash", "3.7: publish with wildcards", BOTH, lambda v: pub(v, "a/#"), 0x81),
    ("publish_topic_empty", "3.7: empty topic", BOTH, lambda v: pub(v, ""), (0x81, 0x82)),
    ("publish_topic_nul", "3.1: U+0000", BOTH, lambda v: pub(v, "a\0b"), 0x81),
    ("publish_topic_not_utf8", "3.1: UTF-8", BOTH, lambda v: pub(v, b"a\xff"), 0x81),
    ("publish_topic_surrogate", "3.1: UTF-8", BOTH, lambda v: pub(v, b"a\xed\xa0\x80"), 0x81),
    ("publish_topic_truncated", "3.1", BOTH, lambda v: packet("PUBLISH", b"\0\x09abc"), 0x81),
    ("publish_without_id", "3.1", BOTH, lambda v: packet("PUBLISH", wire.data("a"), 2), 0x81),
    ("publish_property_short", "3.1: truncated value", V5, lambda v: pub(v, "a", properties=b"\x02\x02\0"), 0x81),
    ("publish_property_unknown", "3.1: unknown id", V5, lambda v: pub(v, "a", properties=b"\x02\x7f\0"), 0x81),
    ("publish_misplaced", "3.1: wrong packet", V5, lambda v: publish(v, "a", properties=[(wire.WILL_DELAY, 1)]), 0x82),
    (
        "publish_property_twice",
        "3.1: id twice",
        V5,
        lambda v: publish(v, "a", properties=[(wire.MESSAGE_EXPIRY, 1), (wire.MESSAGE_EXPIRY, 1)]),
        0x82,
    ),
    ("publish_format_2", "3.4: 0/1", V5, lambda v: publish(v, "a", properties=[(wire.PAYLOAD_FORMAT, 2)]), 0x82),
    (
        "publish_response_wildcard",
        "3.4: no wildcards",
        V5,
        lambda v: publish(v, "a", properties=[(wire.RESPONSE_TOPIC, "a/+")]),
        0x82,
    ),
    (
        "publish_subscription_id",
        "3.4: S>C only",
        V5,
        lambda v: publish(v, "a", properties=[(wire.SUBSCRIPTION_ID, 1)]),
        0x82,
    ),
    ("alias_0", "3.4: alias 0", V5, lambda v: publish(v, "a", properties=[(wire.TOPIC_ALIAS, 0)]), 0x94),
    ("alias_unknown", "3.4", V5, lambda v: publish(v, "", properties=[(wire.TOPIC_ALIAS, 1)]), 0x82),
    ("puback_id_0", "ack with packet id 0", BOTH, lambda v: ack("PUBACK", 0), 0x82),
    ("pubrec_id_0", "ack with packet id 0", BOTH, lambda v: ack("PUBREC", 0), 0x82),
    ("pubrel_id_0", "ack with packet id 0", BOTH, lambda v: ack("PUBREL", 0), 0x82),
    ("pubcomp_id_0", "ack with packet id 0", BOTH, lambda v: ack("PUBCOMP", 0), 0x82),
    ("puback_code", "unknown reason code", V5, lambda v: ack("PUBACK", 1, 0x03), 0x82),
    ("pubrec_code", "unknown reason code", V5, lambda v: ack("PUBREC", 1, 0x11), 0x82),
    ("pubrel_code", "unknown reason code", V5, lambda v: ack("PUBREL", 1, 0x80), 0x82),
    ("pubcomp_code", "unknown reason code", V5, lambda v: ack("PUBCOMP", 1, 0x10), 0x82),
    ("puback_short", "short body", BOTH, lambda v: packet("PUBACK", b"\0"), 0x81),
    ("pubrec_short", "short body", BOTH, lambda v: packet("PUBREC", b"\0"), 0x81),
    ("pubrel_short", "short body", BOTH, lambda v: packet("PUBREL", b"\0"), 0x81),
    ("pubcomp_empty", "short body", BOTH, lambda v: packet("PUBCOMP"), 0x81),
    ("puback_flags", "bad flags", BOTH, lambda v: ack("PUBACK", 1, flags=2), (0x81, 0x82)),
    ("pubrec_flags", "bad flags", BOTH, lambda v: ack("PUBREC", 1, flags=1), (0x81, 0x82)),
    ("pubrel_flags", "bad flags", BOTH, lambda v: ack("PUBREL", 1, flags=0), (0x81, 0x82)),
    ("pubcomp_flags", "bad flags", BOTH, lambda v: ack("PUBCOMP", 1, flags=8), (0x81, 0x82)),
    ("subscribe_nothing", "without filter", BOTH, lambda v: sub(v, []), 0x81),
    ("subscribe_empty", "empty filter", BOTH, lambda v: sub(v, [("", 0)]), 0x81),
    ("subscribe_id_0", "id 0", BOTH, lambda v: sub(v, [("a", 0)], pid=0), 0x81),
    ("subscribe_flags", "wrong flags", BOTH, lambda v: sub(v, [("a", 0)], flags=0), 0x81),
    ("subscribe_no_options", "truncated", BOTH, lambda v: sub(v, [])[:1] + b"\x05\0\1\0\1a", 0x81),
    ("subscribe_qos_3", "3.6: QoS 3", BOTH, lambda v: sub(v, [("a", 3)]), 0x81),
    ("subscribe_reserved", "3.6: bits 6-7", BOTH, lambda v: sub(v, [("a", 0x40)]), 0x81),
    ("subscribe_options_v4", "3.6: version 5's bits", V4, lambda v: sub(v, [("a", 4)]), CLOSE),
    ("subscribe_handling_3", "3.6: retain handling 3", V5, lambda v: sub(v, [("a", 0x30)]), 0x81),
    ("subscribe_no_local_share", "3.6: no local with $share", V5, lambda v: sub(v, [("$share/g/a", 4)]), 0x82),
    ("subscribe_hash_inside", "3.7", BOTH, lambda v: sub(v, [("a/#/b", 0)]), 0x81),
    ("subscribe_hash_in_level", "3.7", BOTH, lambda v: sub(v, [("a/b#", 0)]), 0x81),
    ("subscribe_plus_in_level", "3.7", BOTH, lambda v: sub(v, [("a/b+/c", 0)]), 0x81),
    ("subscribe_not_utf8", "3.1", BOTH, lambda v: sub(v, [(b"a\xff", 0)]), 0x81),
    ("subscribe_nul", "3.1", BOTH, lambda v: sub(v, [("a\0", 0)]), 0x81),
    ("subscribe_share_no_filter", "3.7", BOTH, lambda v: sub(v, [("$share/g", 0)]), 0x81),
    ("subscribe_share_empty_name", "3.7", BOTH, lambda v: sub(v, [("$share//a", 0)]), 0x81),
    ("subscribe_share_wildcard", "2.1", BOTH, lambda v: sub(v, [("$share/g+/a", 0)]), 0x81),
    ("subscribe_unknown_property", "properties", V5, lambda v: sub(v, [("a", 0)], properties=b"\x02\x7f\0"), 0x81),
    ("subscribe_wrong_property", "properties", V5, lambda v: sub(v, [("a", 0)], properties=b"\x02\x01\0"), 0x81),
    ("subscribe_sub_id_0", "properties", V5, lambda v: sub(v, [("a", 0)], properties=b"\x02\x0b\0"), 0x82),
    ("subscribe_sub_id_twice", "properties", V5, lambda v: sub(v, [("a", 0)], properties=b"\x04\x0b\1\x0b\1"), 0x82),
    ("unsubscribe_nothing", "without filter", BOTH, lambda v: unsub(v, []), 0x81),
    ("unsubscribe_empty", "empty filter", BOTH, lambda v: unsub(v, [""]), 0x81),
    ("unsubscribe_id_0", "id 0", BOTH, lambda v: unsub(v, ["a"], pid=0), 0x81),
    ("unsubscribe_flags", "wrong flags", BOTH, lambda v: unsub(v, ["a"], flags=0), 0x81),
    ("unsubscribe_bad_filter", "3.7", BOTH, lambda v: unsub(v, ["a/#/b"]), 0x81),
    ("unsubscribe_unknown_property", "properties", V5, lambda v: unsub(v, ["a"], properties=b"\x02\x7f\0"), 0x81),
    ("length_of_5_bytes", "3.1: fixed header", V4, lambda v: b"\x30\xff\xff\xff\xff\x01", CLOSE),
]

#: What Mosquitto 2.0.11 does instead, by name and version.
MOSQUITTO = {
    "publish_plus_v5": "2.0.11 answers 0x82",
    "publish_hash_v5": "2.0.11 answers 0x82",
    "publish_misplaced": "2.0.11 answers 0x81",
    "alias_0": "2.0.11 answers 0x81",
    "subscribe_sub_id_0": "2.0.11 answers 0x81",
} | dict.fromkeys(
    (
        "connack_from_client_v5 suback_from_client_v5 unsuback_from_client_v5 auth_without_method auth_empty "
        "auth_flags disconnect_flags_v5 disconnect_length disconnect_wrong_property disconnect_truncated "
        "publish_property_twice puback_id_0_v5 pubrec_id_0_v5 pubrel_id_0_v5 pubcomp_id_0_v5 puback_short_v5 "
        "pubrec_short_v5 pubrel_short_v5 pubcomp_empty_v5 pubrel_flags_v5 subscribe_sub_id_twice"
    ).split(),
    "2.0.11 closes without DISCONNECT",
) | dict.fromkeys(
    (
        "suback_from_client_v4 suback_with_flags unsuback_from_client_v4 pingresp_from_client_v4 "
        "pingresp_from_client_v5 ping_flags_v4 ping_flags_v5 ping_body_v4 ping_body_v5 publish_dup_qos_0_v4 "
        "publish_dup_qos_0_v5 publish_format_2 publish_response_wildcard publish_subscription_id puback_code "
        "pubrec_code pubrel_code pubcomp_code puback_flags_v4 puback_flags_v5 pubrec_flags_v4 pubrec_flags_v5 "
        "pubcomp_flags_v4 pubcomp_flags_v5 subscribe_no_local_share subscribe_share_no_filter_v4 "
        "subscribe_share_no_filter_v5 subscribe_share_empty_name_v4 subscribe_share_empty_name_v5"
    ).split(),
    "2.0.11 accepts it or ignores it",
)


def error(version, build, code):
    """The case of one row for one version."""

    def error_row(t):
        topic = t.unique()
        watcher = Client(t)
        watcher.subscribe(topic)
        c = Client(t, version, will=Will(topic))
        c.send(build(version))
        got = c.rest()
        codes = code if isinstance(code, tuple) else (code,)
        expected = [b"" if version != 5 or one is None else bytes([0xE0, 1, one]) for one in codes]
        if got not in expected:
            raise AssertionError(f"expected {[e.hex() for e in expected]}, got {got.hex() or 'nothing'}")
        equal(watcher.take().payload, b"gone", "the will")

    return error_row


for _name, _row, _versions, _build, _code in ROWS:
    for _version in _versions:
        _key = f"{_name}_v{_version}" if len(_versions) > 1 else _name
        _differs = ("mosquitto", MOSQUITTO[_key]) if _key in MOSQUITTO else None
        add(f"error_{_key}", error(_version, _build, _code), f"3.8: {_row}", "waits", *([_differs] if _differs else []))


@case("3.8: rows that are no error", "waits")
def acks_for_unknown_ids(t):
    for version in (3, 4, 5):
        c = Client(t, version)
        c.send(ack("PUBACK", 77), ack("PUBREC", 78), ack("PUBREL", 79))
        equal((c.raw(4), c.raw(4)), (b"\x62\x02\0\x4e", b"\x70\x02\0\x4f"), "PUBREL and PUBCOMP, plain")
        c.ping()


@case("3.8: PUBREC with code >= 0x80", "waits")
def pubrec_error_for_unknown_id(t):
    c = Client(t)
    c.send(ack("PUBREC", 78, 0x80))
    c.ping()


@case("3.2: reason codes and properties in acks", "waits")
def acks_with_reason_and_properties(t):
    c = Client(t)
    pairs = [(wire.REASON_STRING, "why"), (wire.USER_PROPERTY, ("k", "v"))]
    c.send(ack("PUBREL", 9, 0x92), ack("PUBREL", 10, 0, []), ack("PUBREL", 11, 0, pairs))
    for pid in (9, 10, 11):
        c.expect("PUBCOMP", pid=pid, code=0)


@case("3.5: codes a client may put in DISCONNECT", "waits")
def disconnect_codes(t):
    for code in (0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99):
        Client(t).bye(code)
    Client(t).bye(0, [(wire.REASON_STRING, "bye"), (wire.USER_PROPERTY, ("k", "v")), (wire.SESSION_EXPIRY, 0)])
    for version in (3, 4):
        Client(t, version).bye()


@case("3.5: any other value is a protocol error", "waits")
def disconnect_code_of_a_server(t):
    c = Client(t)
    c.send(disconnect(0x8D))
    equal(c.rest() in (b"", b"\xe0\x01\x82"), True)


@case("3.8: packet larger than our maximum", "waits")
def packet_over_the_maximum(t):
    limit = Client(t).limit(wire.MAXIMUM_PACKET, 0)
    if not limit or limit > 64 << 20:
        from harness.suite import Skip

        raise Skip("the server states no maximum packet size")
    for version in (4, 5):
        c = Client(t, version)
        # The header alone says it.
        c.send(b"\x30" + wire.varint(limit + 1))
        c.refused(0x95)
    # The largest that is allowed, header included.
    topic = t.unique()
    c = Client(t)
    c.subscribe(topic)
    head = len(publish(5, topic, b""))
    size = limit - head - len(wire.varint(limit)) + 1
    c.send(publish(5, topic, bytes(size)))
    equal(len(c.take(20).payload), size)


@case("3.1: characters that are legal", "waits")
def odd_but_legal_strings(t):
    c = Client(t)
    for name in ("\ufeffbom", "𪛔", "a//b", "/", "//", " ", "é", "x" * 60_000):
        topic = name if name.startswith("/") else name + t.unique()
        c.subscribe(topic)
        c.send(publish(5, topic, b"x"))
        equal(c.take().topic, topic)
        c.unsubscribe(topic)


@case("3.9: be liberal only for 3.1", "waits")
def dup_on_subscribe_of_3_1(t):
    topic = t.unique()
    c = Client(t, 3)
    c.send(sub(3, [(topic, 1)], flags=10, pid=1))
    c.expect("SUBACK", pid=1, codes=[1])
    c.send(unsub(3, [topic], flags=10, pid=2))
    c.expect("UNSUBACK", pid=2)
    c.send(publish(3, topic, b"x", 2, 3))
    c.expect("PUBREC", pid=3)
    c.send(ack("PUBREL", 3, flags=10))
    c.expect("PUBCOMP", pid=3)


@case("3.9: SUBSCRIBE with no filters tolerated", "waits")
def subscribe_nothing_of_3_1(t):
    c = Client(t, 3)
    c.send(subscribe(3, 5, []))
    c.expect("SUBACK", pid=5, codes=[])
    c.ping()


@case("3.7: exact bytes", "waits")
def unsubscribe_codes(t):
    topic = t.unique()
    c = Client(t)
    c.subscribe(topic, topic + "/+", f"$share/g/{topic}")
    equal(c.unsubscribe(topic + "/x", topic, topic + "/+", topic), [0x11, 0, 0, 0x11])
    equal(c.unsubscribe(f"$share/h/{topic}", f"$share/g/{topic}", topic.upper()), [0x11, 0, 0x11])
    old = Client(t, 4)
    old.subscribe(topic)
    old.send(unsubscribe(4, 9, [topic, "other"]))
    equal(old.raw(4), b"\xb0\x02\0\x09")
