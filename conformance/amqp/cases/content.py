"""Messages, octet for octet."""

import struct

from harness.suite import case, equal
from wire import Client, ack, body, consume, declare, entry, get, header, long, method, publish, short, table

#: Properties of every kind, headers of every type.
HEADERS = (
    entry("int32", "I", b"\0\0\0\5") + entry("int64", "l", b"\0\0\0\0\0\0\0\5") + entry("older", "L", bytes(8))
    + entry("octet", "B", b"\5") + entry("void", "V", b"") + entry("decimal", "D", b"\2\0\0\1\x3a")
    + entry("float", "f", b"\x3f\x80\0\0") + entry("raw", "x", long(b"\xff\0")) + entry("void", "t", b"\1")
    + entry("array", "A", long(b"I\0\0\0\1" + b"S" + long("x"))) + entry("table", "F", table(entry("k", "T", bytes(8))))
)  # fmt: skip
ALL = (
    b"\xff\xec" + short("text/plain") + short("gzip") + table(HEADERS) + b"\2\5" + short("corr") + short("reply")
    + short("600000") + short("id") + struct.pack(">Q", 1700000000) + short("type") + short("app") + short("")
)  # fmt: skip


def queue_of(client, channel=1, arguments=b""):
    """A queue of the connection's own."""
    client.send(declare(channel, "", 4, arguments))
    return client.expect("queue.declare-ok").fields[1:-8].decode()


@case("properties")
def properties_come_back_octet_for_octet(t):
    client = Client(t)
    client.channel()
    queue = queue_of(client)
    for properties in (ALL, b"\0\0", b"\x02\0\0", b"\x20\0\0\0\0\0"):
        client.send(publish(1, "", queue, b"body", 0, properties) + get(1, queue, True))
        client.expect("get-ok")
        equal(client.content(), (properties, b"body"))


@case("body")
def bodies_of_every_size_come_back(t):
    client = Client(t, frame_max=4096)
    client.channel()
    queue = queue_of(client)
    for size in (0, 1, 4087, 4088, 4089, 8176, 300_000):
        data = bytes(n * 31 % 251 for n in range(size))
        out = method(1, 60, 40, b"\0\0" + short("") + short(queue) + b"\0") + header(1, size)
        for at in range(0, size, 4088):
            out += body(1, data[at : at + 4088])
        client.send(out + get(1, queue, True))
        client.expect("get-ok")
        head = client.expect("header")
        equal(struct.unpack(">Q", head.fields[4:12])[0], size)
        got = b""
        while len(got) < size:
            piece = client.expect("body").fields
            if not piece or len(piece) > 4088:
                raise AssertionError(f"a body frame of {len(piece)} bytes")
            got += piece
        equal(got, data, f"{size} bytes")
    client.quiet(0.1)


@case("body")
def content_of_channels_may_interleave(t):
    client = Client(t)
    client.channel(1)
    client.channel(2)
    queue = queue_of(client)
    start = lambda channel: method(channel, 60, 40, b"\0\0" + short("") + short(queue) + b"\0")  # noqa: E731
    client.send(start(1) + start(2) + header(1, 4) + header(2, 6) + body(2, b"two") + body(1, b"on") + body(2, b"two"))
    client.send(body(1, b"e!") + get(1, queue, True))
    client.expect("get-ok")
    got = [client.content()[1]]
    client.send(get(1, queue, True))
    client.expect("get-ok")
    got.append(client.content()[1])
    # Messages of different channels have no order.
    equal(sorted(got), [b"one!", b"twotwo"])


@case("mandatory confirm")
def what_nobody_wants_comes_back_before_it_is_confirmed(t):
    client = Client(t)
    client.channel()
    client.send(method(1, 85, 10, b"\0"))
    client.expect("confirm.select-ok")
    client.send(publish(1, "", t.unique(), b"x", 1, ALL) + publish(1, "", t.unique(), b"y"))
    returned = client.expect("return", 1)
    equal(returned.fields[:2], struct.pack(">H", 312))
    equal(returned.fields[2:11], short("NO_ROUTE"))
    equal(client.content(), (ALL, b"x"))
    acked = 0
    while acked < 2:
        acked = struct.unpack(">QB", client.expect("ack").fields)[0]
    client.quiet(0.1)


@case("deliver")
def deliveries_are_numbered_and_say_where_they_come_from(t):
    client = Client(t)
    client.channel()
    queue = queue_of(client)
    client.send(method(1, 50, 20, b"\0\0" + short(queue) + short("amq.fanout") + short("") + b"\0" + table()))
    client.expect("queue.bind-ok")
    client.send(consume(1, queue, "c"))
    client.expect("consume-ok")
    client.send(publish(1, "amq.fanout", "some.key", b"1") + publish(1, "", queue, b"2"))
    for tag, (exchange, key) in enumerate((("amq.fanout", "some.key"), ("", queue)), 1):
        deliver = client.expect("deliver", 1)
        equal(deliver.fields, short("c") + struct.pack(">QB", tag, 0) + short(exchange) + short(key))
        equal(client.content()[1], str(tag).encode())
    client.send(ack(1, 2, True) + method(1, 60, 30, short("c") + b"\0"))
    equal(client.expect("cancel-ok").fields, short("c"))
    client.send(method(1, 60, 30, short("unknown") + b"\0"))
    equal(client.expect("cancel-ok").fields, short("unknown"))


@case("bcc cc")
def copies_go_to_more_keys_and_blind_ones_are_not_shown(t):
    client = Client(t)
    client.channel()
    queues = [queue_of(client) for _ in range(3)]
    array = lambda name: long(b"S" + long(name))  # noqa: E731
    cc, bcc = entry("CC", "A", array(queues[1])), entry("BCC", "A", array(queues[2]))
    rest = entry("n", "I", b"\0\0\0\5")
    client.send(publish(1, "", queues[0], b"x", 0, b"\x20\0" + table(cc + bcc + rest)))
    for queue in queues:
        client.send(get(1, queue, True))
        client.expect("get-ok")
        equal(client.content(), (b"\x20\0" + table(cc + rest), b"x"), queue)


@case("cancel")
def a_consumer_is_told_that_its_queue_is_gone(t):
    client, other = Client(t), Client(t)
    client.channel()
    other.channel()
    queue = t.unique()
    client.send(declare(1, queue) + consume(1, queue, "c"))
    client.expect("queue.declare-ok")
    client.expect("consume-ok")
    other.send(method(1, 50, 40, b"\0\0" + short(queue) + b"\0"))
    other.expect("queue.delete-ok")
    equal(client.expect("cancel", 1).fields, short("c") + b"\1")


@case("no-wait")
def what_is_not_waited_for_is_not_answered(t):
    client = Client(t)
    client.channel()
    queue = t.unique()
    client.send(
        declare(1, queue, 4 | 16)
        + method(1, 50, 20, b"\0\0" + short(queue) + short("amq.direct") + short("k") + b"\1" + table())
        + method(1, 85, 10, b"\1")
        + consume(1, queue, "c", 8)
        + publish(1, "amq.direct", "k", b"x")
    )
    names = {client.next().name for _ in range(4)}
    equal(names, {"deliver", "header", "body", "ack"})
