"""What bad input gets, byte for byte: code, level and, where programs look for it, text."""

import struct

import wire
from harness.suite import add, case, equal
from wire import (
    Client, ack, body, consume, declare, entry, frame, get, header, long, method, publish, short, table,
)  # fmt: skip

PUBLISH = method(1, 60, 40, b"\0\0" + short("") + short("k") + b"\0")


def nested(depth):
    """Tables in each other."""
    inner = b""
    for _ in range(depth):
        inner = entry("k", "F", table(inner))
    return inner


#: Name, the bytes sent on an open channel 1, the code of the connection.close.
CONNECTION = [
    ("frame_type_unknown", b"\x04\0\1\0\0\0\0\xce", 501),
    ("frame_end_wrong", frame(1, 1, b"\0\x14\0\x0a\0", b"\xcd"), 501),
    ("frame_too_large", b"\x03\0\1\0\x02\0\x01", 501),
    ("heartbeat_on_a_channel", frame(8, 1, b""), 505),
    ("heartbeat_with_a_payload", frame(8, 0, b"x"), 501),
    ("method_unknown", method(1, 60, 255), 540),
    ("class_unknown", method(1, 61, 10), 540),
    ("method_truncated", method(1, 50, 10, b"\0\0\x05q"), 502),
    ("method_empty", frame(1, 1, b""), 502),
    ("method_trailing", method(1, 60, 80, bytes(9) + b"x"), 502),
    ("short_string_not_utf8", declare(1, b"\xff\xfe"), 501),
    ("table_truncated", method(1, 50, 10, b"\0\0" + short("q") + b"\0\0\0\0\x09\x01k"), 502),
    ("table_letter_unknown", declare(1, "q", 0, entry("k", "Z", b"")), 502),
    ("table_key_not_utf8", declare(1, "q", 0, entry(b"\xff", "V", b"")), 501),
    ("table_too_deep", declare(1, "q", 0, nested(40)), 502),
    ("server_method_from_client", method(1, 50, 11, short("q") + bytes(8)), 503),
    ("deliver_from_client", method(1, 60, 60, short("c") + bytes(9) + short("") + short("")), 503),
    ("method_of_channel_0_on_a_channel", method(1, 10, 61), 503),
    ("channel_method_on_channel_0", declare(0, "q"), 504),
    ("header_without_method", header(1, 0), 505),
    ("body_without_header", PUBLISH + body(1, b"x"), 505),
    ("body_out_of_nowhere", body(1, b"x"), 505),
    ("content_on_no_channel", header(9, 0), 505),
    ("content_on_channel_0", header(0, 0), 505),
    ("header_twice", PUBLISH + header(1, 5) + header(1, 5), 505),
    ("method_instead_of_header", PUBLISH + ack(1, 0, True), 505),
    ("method_instead_of_body", PUBLISH + header(1, 5) + ack(1, 0, True), 505),
    ("header_of_another_class", PUBLISH + header(1, 0, class_id=50), 505),
    ("header_truncated", PUBLISH + frame(2, 1, b"\0\x3c\0\0"), 502),
    ("property_flags_unknown", PUBLISH + header(1, 0, b"\0\x01"), 501),
    ("property_truncated", PUBLISH + header(1, 0, b"\x80\0\x09text"), 502),
    ("property_trailing", PUBLISH + header(1, 0, b"\0\0x"), 502),
    ("body_larger_than_any", PUBLISH + header(1, 1 << 40), 501),
    ("body_longer_than_announced", PUBLISH + header(1, 2) + body(1, b"abc"), 501),
    ("immediate", method(1, 60, 40, b"\0\0" + short("") + short("k") + b"\2"), 540),
    ("prefetch_size", method(1, 60, 10, b"\0\0\0\1\0\0\0"), 540),
    ("recover_without_requeue", method(1, 60, 110, b"\0"), 540),
    ("flow_off", method(1, 20, 20, b"\0"), 540),
]


def _connection_case(name, data, code):
    def run(t):
        client = Client(t)
        client.channel()
        client.send(data)
        client.expect_closed(code)
        # Nobody else is concerned.
        Client(t).channel()

    add(name, run, "errors")


for _row in CONNECTION:
    _connection_case(*_row)

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{q}' in vhost '/'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the original declaration."
)

#: Name, the bytes sent, code and text of the channel.close.
CHANNEL = [
    ("passive_of_nothing", lambda q: declare(1, q, 1), 404, "NOT_FOUND - no queue '{q}' in vhost '/'"),
    ("passive_exchange", lambda q: method(1, 40, 10, b"\0\0" + short(q) + short("") + b"\1" + table()), 404,
     "NOT_FOUND - no exchange '{q}' in vhost '/'"),
    ("consume_from_nothing", lambda q: consume(1, q), 404, "NOT_FOUND - no queue '{q}' in vhost '/'"),
    ("get_from_nothing", lambda q: get(1, q), 404, "NOT_FOUND - no queue '{q}' in vhost '/'"),
    ("purge_of_nothing", lambda q: method(1, 50, 30, b"\0\0" + short(q) + b"\0"), 404,
     "NOT_FOUND - no queue '{q}' in vhost '/'"),
    ("bind_of_nothing", lambda q: method(1, 50, 20, b"\0\0" + short(q) + short("amq.direct") + short("k") + b"\0" + table()),
     404, "NOT_FOUND - no queue '{q}' in vhost '/'"),
    ("publish_to_nothing", lambda q: publish(1, q, "k", b"x"), 404, "NOT_FOUND - no exchange '{q}' in vhost '/'"),
    ("no_queue_declared_before", lambda q: consume(1, ""), 404, "NOT_FOUND - no previously declared queue"),
    ("reserved_queue_name", lambda q: declare(1, "amq.x"), 403,
     "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'"),
    ("reserved_exchange_name",
     lambda q: method(1, 40, 10, b"\0\0" + short("amq.x") + short("direct") + b"\0" + table()), 403,
     "ACCESS_REFUSED - exchange name 'amq.x' contains reserved prefix 'amq.*'"),
    ("default_exchange_deleted", lambda q: method(1, 40, 20, b"\0\0" + short("") + b"\0"), 403,
     "ACCESS_REFUSED - operation not permitted on the default exchange"),
    ("exchange_type_unknown", lambda q: method(1, 40, 10, b"\0\0" + short(q) + short("odd") + b"\0" + table()), 406, None),
    ("ack_of_nothing", lambda q: ack(1, 5), 406, "PRECONDITION_FAILED - unknown delivery tag 5"),
    ("ack_of_zero", lambda q: ack(1, 0), 406, "PRECONDITION_FAILED - unknown delivery tag 0"),
    ("nack_of_nothing", lambda q: method(1, 60, 120, struct.pack(">QB", 3, 0)), 406,
     "PRECONDITION_FAILED - unknown delivery tag 3"),
    ("reject_of_nothing", lambda q: method(1, 60, 90, struct.pack(">QB", 4, 0)), 406,
     "PRECONDITION_FAILED - unknown delivery tag 4"),
    ("expiration_of_letters", lambda q: publish(1, "", q, b"x", 0, b"\1\0" + short("soon")), 406, None),
    ("expiration_negative", lambda q: publish(1, "", q, b"x", 0, b"\1\0" + short("-1")), 406, None),
    ("user_id_of_another", lambda q: publish(1, "", q, b"x", 0, b"\0\x10" + short("other")), 406,
     "PRECONDITION_FAILED - user_id property set to 'other' but authenticated user was 'guest'"),
    ("cc_of_another_type",
     lambda q: publish(1, "", q, b"x", 0, b"\x20\0" + table(entry("CC", "S", long("k")))), 406, None),
    ("ttl_negative", lambda q: declare(1, q, 0, entry("x-message-ttl", "I", b"\xff\xff\xff\xff")), 406, None),
    ("ttl_of_another_type", lambda q: declare(1, q, 0, entry("x-message-ttl", "S", long("5"))), 406, None),
    ("priority_too_high", lambda q: declare(1, q, 0, entry("x-max-priority", "I", b"\0\0\1\0")), 406, None),
    ("queue_type_unknown", lambda q: declare(1, q, 0, entry("x-queue-type", "S", long("odd"))), 406, None),
    ("argument_not_yet", lambda q: declare(1, q, 0, entry("x-max-age", "S", long("1D"))), 406, None),
    ("message_too_large", lambda q: PUBLISH + header(1, 1 << 28), 406, None),
]  # fmt: skip


def _channel_case(name, make, code, text):
    def run(t):
        client = Client(t)
        client.channel()
        queue = t.unique()
        client.send(make(queue))
        client.expect_closed(code, text and text.format(q=queue), "channel")
        # The connection goes on, and the number may be used again.
        client.channel()
        client.send(declare(1, "", 4))
        client.expect("queue.declare-ok", 1)

    add(name, run, "errors")


for _row in CHANNEL:
    _channel_case(*_row)


@case("errors")
def redeclaring_says_what_differs(t):
    client = Client(t)
    client.channel()
    queue = t.unique()
    client.send(declare(1, queue, 2))
    client.expect("queue.declare-ok")
    client.send(declare(1, queue, 0))
    client.expect_closed(
        406,
        f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': received 'false' but current"
        " is 'true'",
        "channel",
    )
    client.channel()
    client.send(method(1, 50, 40, b"\0\0" + short(queue) + b"\0"))
    client.expect("queue.delete-ok")


@case("errors")
def an_exclusive_queue_is_locked_for_others(t):
    owner, other = Client(t), Client(t)
    owner.channel()
    # A text of 255 bytes has no room for a long name.
    queue = "locked" + t.unique()[-16:]
    owner.send(declare(1, queue, 4))
    owner.expect("queue.declare-ok")
    for data in (declare(1, queue, 4), declare(1, queue, 1), consume(1, queue), get(1, queue)):
        other.channel()
        other.send(data)
        other.expect_closed(405, LOCKED.format(q=queue), "channel")
    owner.send(method(0, 10, 50, struct.pack(">H", 200) + short("") + b"\0\0\0\0"))
    owner.expect("connection.close-ok")
    # It went before the answer.
    other.channel()
    other.send(declare(1, queue, 4))
    other.expect("queue.declare-ok")


@case("errors")
def a_consumer_tag_is_used_once(t):
    client = Client(t)
    client.channel()
    client.send(declare(1, "", 4) + consume(1, "", "c") + consume(1, "", "c"))
    client.expect("queue.declare-ok")
    client.expect("consume-ok")
    client.expect_closed(530, "NOT_ALLOWED - attempt to reuse consumer tag 'c'")


@case("errors")
def an_acknowledgement_counts_once(t):
    client = Client(t)
    client.channel()
    client.send(declare(1, "", 4))
    queue = client.expect("queue.declare-ok").fields[1:-8].decode()
    client.send(publish(1, "", queue, b"x") + get(1, queue))
    client.expect("get-ok")
    client.content()
    client.send(ack(1, 1) + ack(1, 1))
    client.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 1", "channel")


@case("errors")
def what_was_fetched_without_acknowledgement_cannot_be_acknowledged(t):
    client = Client(t)
    client.channel()
    client.send(declare(1, "", 4))
    queue = client.expect("queue.declare-ok").fields[1:-8].decode()
    client.send(publish(1, "", queue, b"x") + get(1, queue, True))
    client.expect("get-ok")
    client.content()
    client.send(ack(1, 1))
    client.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 1", "channel")


@case("errors")
def every_prefix_of_a_conversation_may_be_all_there_is(t):
    whole = wire.HEADER + Client.start_ok()
    for end in range(0, len(whole), 7):
        client = Client(t, greet=False)
        client.send(whole[:end])
        client.socket.close()
    equal(Client(t).channel(), 1)
