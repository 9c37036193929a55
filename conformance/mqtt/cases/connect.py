"""Sections 3.3 and 3.9: CONNECT, right and wrong, and the exact answer to each."""

import wire
from harness.suite import add, case, equal
from wire import Client, Connection, Will, connect, data, packet, publish, subscribe, u16

CLOSE = b""
OK = "accepted"


def refusal(version, code):
    """A CONNACK that refuses: version 5 has an empty list of properties."""
    return bytes([0x20, 3, 0, code, 0]) if version == 5 else bytes([0x20, 2, 0, code])


def five(code):
    """What version 5 gets."""
    return refusal(5, code)


def body(version, after_level=b"", name="MQTT", client=b"\0\x01c", flags=2, properties=b"\0"):
    """A CONNECT's parts put together by hand, for what `connect` cannot build."""
    return data(name) + bytes([version, flags]) + u16(60) + (properties if version == 5 else b"") + client + after_level


def one_of(*answers):
    """Any of these answers."""
    return answers


#: Name, row, version, bytes sent, expected answer, what Mosquitto 2.0.11 does instead.
ROWS = [
    ("first_is_publish", "first packet is not CONNECT", 4, publish(4, "a", b"x"), CLOSE),
    ("first_is_subscribe", "first packet is not CONNECT", 4, subscribe(4, 1, [("a", 0)]), CLOSE),
    ("first_is_ping", "first packet is not CONNECT", 4, wire.PINGREQ, CLOSE),
    ("first_is_disconnect", "first packet is not CONNECT", 5, wire.disconnect(0), CLOSE),
    ("first_is_auth", "first packet is not CONNECT", 5, wire.auth(0x18, [(0x15, "X")]), CLOSE),
    ("tls_hello", "byte 0x16 on a plain port", 4, bytes.fromhex("16030102000100") + bytes(250), CLOSE),
    ("http_get", "first packet is not CONNECT", 4, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", CLOSE),
    ("name_unknown", "protocol name", 4, connect(4, "c", name="MQTX"), CLOSE),
    ("name_lower_case", "protocol name", 4, connect(4, "c", name="mqtt"), CLOSE),
    ("name_empty", "protocol name", 5, connect(5, "c", name=""), CLOSE),
    ("name_too_long", "protocol name", 5, connect(5, "c", name="MQTTX"), CLOSE),
    ("name_missing", "protocol name", 4, packet("CONNECT"), CLOSE),
    ("level_2", "level unknown", 4, connect(4, "c", level=2), five(0x84)),
    ("level_6", "level unknown", 4, connect(4, "c", level=6), five(0x84)),
    ("mqisdp_4", "name and level do not fit", 4, connect(4, "c", name="MQIsdp"), refusal(4, 1)),
    ("mqtt_3", "name and level do not fit", 3, connect(3, "c", name="MQTT"), refusal(3, 1)),
    ("header_flags_v4", "non-zero fixed flags", 4, packet("CONNECT", body(4), 1), CLOSE),
    ("header_flags_v4_f", "non-zero fixed flags", 4, packet("CONNECT", body(4), 15), CLOSE),
    ("header_flags_v5", "non-zero fixed flags", 5, packet("CONNECT", body(5), 2), CLOSE),
    ("header_flags_v3", "3.9: flag bits are ignored", 3, packet("CONNECT", body(3, name="MQIsdp"), 4), OK),
    ("reserved_flag_v4", "connect flag bit0", 4, connect(4, "c", flags=3), CLOSE),
    ("reserved_flag_v5", "connect flag bit0", 5, connect(5, "c", flags=3), CLOSE),
    ("tail_v4", "trailing bytes", 4, connect(4, "c", tail=b"x"), CLOSE),
    ("tail_v5", "trailing bytes", 5, connect(5, "c", tail=b"x"), five(0x81)),
    ("short_keepalive_v4", "truncated", 4, packet("CONNECT", data("MQTT") + b"\4\2\0"), CLOSE),
    ("short_keepalive_v5", "truncated", 5, packet("CONNECT", data("MQTT") + b"\5\2\0"), CLOSE),
    ("short_client_v4", "truncated", 4, packet("CONNECT", body(4, client=b"\0\x09abc")), CLOSE),
    ("short_client_v5", "truncated", 5, packet("CONNECT", body(5, client=b"\0\x09abc")), one_of(CLOSE, five(0x81))),
    ("short_will_v4", "truncated", 4, packet("CONNECT", body(4, b"\0\x09wil", flags=6)), CLOSE),
    ("short_will_v5", "truncated", 5, packet("CONNECT", body(5, b"\0\0\x09wil", flags=6)), five(0x81)),
    ("no_will_payload_v5", "truncated", 5, packet("CONNECT", body(5, b"\0\0\x01w", flags=6)), five(0x81)),
    ("short_username_v4", "truncated", 4, packet("CONNECT", body(4, b"\0\x09user", flags=0x82)), CLOSE),
    ("short_username_v5", "truncated", 5, packet("CONNECT", body(5, b"\0\x09user", flags=0x82)), CLOSE),
    ("short_password_v5", "truncated", 5, packet("CONNECT", body(5, b"\0\x01u\0\x09pw", flags=0xC2)), CLOSE),
    ("no_username_v4", "truncated", 4, packet("CONNECT", body(4, flags=0x82)), CLOSE),
    ("no_username_v3", "3.9: tolerated", 3, packet("CONNECT", body(3, name="MQIsdp", flags=0x82)), OK),
    ("no_password_v3", "3.9: tolerated", 3, packet("CONNECT", body(3, b"\0\x01u", "MQIsdp", flags=0xC2)), OK),
    ("password_alone_v4", "3.2: password without username", 4, connect(4, "c", password="p"), CLOSE),
    ("empty_id_v3", "empty client id, clean=1", 3, connect(3, ""), refusal(3, 2)),
    ("empty_id_kept_v4", "empty client id, clean=0", 4, connect(4, "", clean=False), refusal(4, 2)),
    ("id_not_utf8_v4", "invalid UTF-8 client id", 4, connect(4, b"\xc3\x28"), CLOSE),
    ("id_not_utf8_v5", "invalid UTF-8 client id", 5, connect(5, b"\xc3\x28"), five(0x85)),
    ("id_with_nul_v4", "invalid UTF-8 client id", 4, connect(4, b"a\0b"), CLOSE),
    ("id_surrogate_v5", "invalid UTF-8 client id", 5, connect(5, b"a\xed\xa0\x80"), five(0x85)),
    ("id_overlong_v5", "invalid UTF-8 client id", 5, connect(5, b"a\xc0\xaf"), five(0x85)),
    ("username_not_utf8_v5", "3.1: bad username string", 5, connect(5, "c", username=b"\xff"), CLOSE),
    ("will_qos_3_v4", "will QoS 3", 4, connect(4, "c", will=Will("w", qos=3)), CLOSE),
    ("will_qos_3_v5", "will QoS 3", 5, connect(5, "c", will=Will("w", qos=3)), CLOSE),
    ("will_bits_without_will_v4", "3.2: will QoS without will", 4, connect(4, "c", flags=0x0A), CLOSE),
    ("will_retain_without_will_v5", "3.2: will retain without will", 5, connect(5, "c", flags=0x22), CLOSE),
    ("will_topic_empty_v4", "will topic", 4, connect(4, "c", will=Will("")), CLOSE),
    ("will_topic_empty_v5", "will topic", 5, connect(5, "c", will=Will("")), one_of(five(0x81), five(0x82))),
    ("will_topic_plus_v4", "will topic", 4, connect(4, "c", will=Will("a/+")), CLOSE),
    ("will_topic_hash_v5", "will topic", 5, connect(5, "c", will=Will("a/#")), one_of(five(0x81), five(0x82))),
    ("property_short", "property missing value", 5, connect(5, "c", properties=b"\x11\0\0"), five(0x81)),
    ("property_unknown", "3.1: unknown id", 5, connect(5, "c", properties=b"\x7f\0"), five(0x81)),
    ("property_misplaced", "3.1: known id in a wrong packet", 5, connect(5, "c", properties=[(0x23, 1)]), five(0x82)),
    ("property_twice", "property duplicate", 5, connect(5, "c", properties=[(0x11, 1), (0x11, 1)]), five(0x82)),
    ("receive_maximum_0", "property out of range", 5, connect(5, "c", properties=[(0x21, 0)]), five(0x82)),
    ("maximum_packet_0", "property out of range", 5, connect(5, "c", properties=[(0x27, 0)]), five(0x82)),
    ("request_problem_2", "property out of range", 5, connect(5, "c", properties=[(0x17, 2)]), five(0x82)),
    ("request_response_2", "property out of range", 5, connect(5, "c", properties=[(0x19, 2)]), five(0x82)),
    ("auth_data_alone", "Auth Data without Method", 5, connect(5, "c", properties=[(0x16, b"x")]), five(0x82)),
    ("auth_method_unknown", "unsupported auth method", 5, connect(5, "c", properties=[(0x15, "NONE")]), five(0x8C)),
    ("will_property_misplaced", "3.1", 5, connect(5, "c", will=Will("w", properties=[(0x11, 1)])), five(0x82)),
    ("will_format_2", "property out of range", 5, connect(5, "c", will=Will("w", properties=[(0x01, 2)])), five(0x82)),
    ("maximum_packet_4", "MPS too small for the CONNACK", 5, connect(5, "c", properties=[(0x27, 4)]), CLOSE),
    ("length_of_5_bytes", "3.1: fixed header", 4, b"\x10\xff\xff\xff\xff\x01", CLOSE),
    ("password_alone_v5", "3.2: allowed", 5, connect(5, "c", password="p"), OK),
    ("bridge_v4", "2.1: high bit of the level", 4, connect(4, "c", level=0x84), OK),
    ("bridge_v3", "2.1: high bit of the level", 3, connect(3, "c", level=0x83), OK),
    ("username_ignored_when_open", "2.4: no accounts", 4, connect(4, "c", username="u", password="p"), OK),
    ("user_properties", "3.4: repeatable", 5, connect(5, "c", properties=[(0x26, ("", "")), (0x26, ("", ""))]), OK),
]

_SILENT = "2.0.11 closes without CONNACK; 2.1 sends it"

#: What Mosquitto 2.0.11 does instead.
MOSQUITTO = {
    "level_2": "2.0.11 answers in version 3.1.1's form",
    "level_6": "2.0.11 answers in version 3.1.1's form",
    "auth_data_alone": "2.0.11 accepts it",
    "will_format_2": "2.0.11 accepts it",
} | dict.fromkeys(
    (
        "tail_v5 short_will_v5 no_will_payload_v5 id_not_utf8_v5 id_surrogate_v5 id_overlong_v5 will_topic_empty_v5 "
        "will_topic_hash_v5 property_short property_unknown property_misplaced property_twice receive_maximum_0 "
        "maximum_packet_0 request_problem_2 request_response_2 will_property_misplaced"
    ).split(),
    _SILENT,
)


def answer(row):
    """The case of one row."""
    _, _, version, sent, expected = row

    def connect_row(t):
        c = Connection(t, version)
        c.send(sent)
        if expected == OK:
            c.expect("CONNACK", code=0, present=0)
            c.send(wire.PINGREQ)
            c.expect("PINGRESP")
            return
        got = c.rest()
        if got not in (expected if isinstance(expected, tuple) else (expected,)):
            raise AssertionError(f"expected {expected!r}, got {got.hex() or 'nothing'}")

    return connect_row


for _row in ROWS:
    _differs = ("mosquitto", MOSQUITTO[_row[0]]) if _row[0] in MOSQUITTO else None
    # One client id for all: whoever is accepted may be taken over by the next, so they run one by one.
    _pairs = [_differs] if _differs else []
    add(f"connect_{_row[0]}", answer(_row), f"3.3: {_row[1]}", "alone", *_pairs)


#: What an ordinary CONNACK of version 5 may hold, in order: alias maximum, maximum packet size, receive maximum.
ORDER = [wire.ALIAS_MAXIMUM, wire.MAXIMUM_PACKET, wire.RECEIVE_MAXIMUM]


@case("3.2", "waits")
def connack_forms(t):
    for version in (3, 4):
        c = Connection(t, version)
        c.send(connect(version, t.unique()))
        equal(c.raw(4), b"\x20\x02\0\0", f"CONNACK of version {version}")
    c = Client(t)
    equal([number for number, _ in c.connack.properties if number not in ORDER], [], "properties nobody asked for")
    order = [ORDER.index(number) for number, _ in c.connack.properties]
    equal(order, sorted(order), "the order that Mosquitto has")


@case("3.3: empty client id", "waits")
def assigned_client_id(t):
    seen = set()
    for clean in (True, False, True, False):
        c = Client(t, client="", clean=clean)
        seen.add(c.connack.value(wire.ASSIGNED_ID))
        equal(c.connack.present, 0)
    equal(len(seen), 4, "different ids")
    equal("" in seen or None in seen, False)
    # It is the client's id from now on.
    first = Client(t, client="", properties=[(wire.SESSION_EXPIRY, 60)])
    name = first.connack.value(wire.ASSIGNED_ID)
    first.bye()
    second = Client(t, client=name, clean=False)
    equal((second.connack.present, second.connack.value(wire.ASSIGNED_ID)), (1, None))


@case("3.3: empty client id, clean=1, 3.1.1", "waits")
def generated_client_id(t):
    a, b = Client(t, 4, client=""), Client(t, 4, client="")
    topic = t.unique()
    equal(a.subscribe(topic), [0])
    b.publish(topic, b"x")
    equal(a.take().payload, b"x")


@case("3.9", "waits")
def long_client_ids(t):
    for version in (3, 4, 5):
        long = t.unique().ljust(3000, "x")
        c = Client(t, version, client=long)
        c.ping()
        other = Client(t, version, client=long[:-1] + "y")
        other.ping()
        c.ping()


@case("4.1.13", "waits")
def pipelined_after_connect(t):
    for version in (3, 4, 5):
        topic = t.unique()
        c = Connection(t, version)
        c.send(
            connect(version, t.unique()),
            subscribe(version, 1, [(topic, 0)]),
            publish(version, topic, b"one"),
            wire.PINGREQ,
        )
        c.expect("CONNACK", code=0)
        # Which of the three answers is ready first is not a rule; that the message is one of them is.
        found = sorted((c.receive() for _ in range(3)), key=lambda one: one.kind)
        equal([one.kind for one in found], ["PINGRESP", "PUBLISH", "SUBACK"])
        equal((found[1].payload, found[2].codes), (b"one", [0]))


@case("3.2", "waits")
def packets_in_small_pieces(t):
    topic = t.unique()
    c = Connection(t)
    stream = connect(5, t.unique()) + subscribe(5, 1, [(topic, 1)]) + publish(5, topic, b"x" * 300, 1, 2)
    for at in range(0, len(stream), 7):
        c.send(stream[at : at + 7])
    c.expect("CONNACK", code=0)
    c.expect("SUBACK", codes=[1])
    equal(c.expect("PUBLISH").payload, b"x" * 300)


@case("3.8: second CONNECT", "waits", ("mosquitto", "2.0.11 does not publish the will"))
def second_connect(t):
    for version in (3, 4, 5):
        topic = t.unique()
        watcher = Client(t)
        watcher.subscribe(topic)
        c = Client(t, version, will=Will(topic))
        c.send(connect(version, c.id))
        c.refused(0x82)
        equal(watcher.take().payload, b"gone")


@case("4.1.5", "waits")
def takeover_of_v3(t):
    for old, new in ((3, 3), (4, 4), (4, 5), (3, 5)):
        first = Client(t, old)
        second = Client(t, new, client=first.id)
        first.closed()
        second.ping()


@case("3.5: 8E; 4.1.5", "waits", ("mosquitto", "2.0.11 closes without DISCONNECT"))
def takeover_of_v5(t):
    for new in (3, 4, 5):
        first = Client(t, 5)
        second = Client(t, new, client=first.id)
        first.refused(0x8E)
        second.ping()


@case("4.1.5: a failed login must not kick anyone", "waits")
def refused_connect_takes_nothing_over(t):
    first = Client(t)
    for wrong in (connect(5, first.id, tail=b"x"), connect(5, first.id, properties=[(wire.AUTH_METHOD, "NONE")])):
        c = Connection(t)
        c.send(wrong)
        c.rest()
        first.ping()


@case("2.1: Response Information", "waits")
def request_response_information(t):
    without = Client(t, properties=[(wire.REQUEST_RESPONSE, 0)])
    equal(without.connack.value(wire.RESPONSE_INFORMATION), None)
    Client(t, properties=[(wire.REQUEST_RESPONSE, 1)]).ping()


@case("3.3: byte for byte", "waits")
def properties_of_connect_in_any_order(t):
    pairs = [
        (wire.USER_PROPERTY, ("k", "v")),
        (wire.ALIAS_MAXIMUM, 5),
        (wire.RECEIVE_MAXIMUM, 10),
        (wire.USER_PROPERTY, ("k", "v")),
        (wire.SESSION_EXPIRY, 0),
        (wire.MAXIMUM_PACKET, 1000),
        (wire.REQUEST_PROBLEM, 0),
        (wire.REQUEST_RESPONSE, 0),
    ]
    Client(t, properties=pairs).ping()
    Client(t, properties=pairs[::-1]).ping()


