"""The beginning and the end of connections and channels."""

import struct
import time

import wire
from harness.suite import case, equal
from wire import HEADER, Client, declare, entry, frame, get, long, method, publish, short, table


@case("header")
def a_foreign_header_is_answered_with_ours(t):
    for header in (b"AMQP\0\1\0\0", b"AMQP\3\1\0\0", b"AMQP\0\0\x08\0", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0"):
        client = Client(t, greet=False)
        client.send(header)
        got = client.socket.recv(64)
        equal(got, HEADER, f"after {header!r}")
        equal(client.socket.recv(64), b"")


@case("header start")
def the_older_header_is_welcome_and_bytes_may_come_one_by_one(t):
    client = Client(t, greet=False)
    for octet in b"AMQP\1\1\0\x09":
        client.send(bytes([octet]))
    start = client.expect("start")
    equal(start.fields[:2], b"\0\x09")
    capabilities = (
        "publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify", "connection.blocked",
        "consumer_priorities", "authentication_failure_close", "per_consumer_qos", "direct_reply_to",
    )  # fmt: skip
    capabilities = [entry(capability, "t", b"\1") for capability in capabilities]
    words = (b"PLAIN AMQPLAIN", b"en_US", b"product", b"version", b"platform", b"cluster_name", b"copyright", b"information")
    for word in (*capabilities, *words):
        if word not in start.fields:
            raise AssertionError(f"{word} is not in {start.fields}")


@case("start-ok")
def amqplain_is_the_body_of_a_table(t):
    client = Client(t, greet=False)
    client.send(HEADER)
    client.expect("start")
    response = entry("LOGIN", "S", long("guest")) + entry("PASSWORD", "S", long("guest"))
    client.send(Client.start_ok(mechanism="AMQPLAIN", response=response))
    client.expect("tune")


@case("start-ok")
def logins_that_are_none(t):
    for mechanism, response, code in (
        ("PLAIN", b"guest", 502),
        ("AMQPLAIN", b"\x05LOGINS", 502),
        ("AMQPLAIN", b"", 502),
        ("CRAM-MD5", b"", 503),
    ):
        client = Client(t, greet=False)
        client.send(HEADER)
        client.expect("start")
        client.send(Client.start_ok(mechanism=mechanism, response=response))
        client.expect_closed(code)


def tuned(t, channel_max, frame_max, heartbeat=0):
    """A client that answers tune like this."""
    client = Client(t, greet=False)
    client.send(HEADER)
    client.expect("start")
    client.send(Client.start_ok())
    channels, frames, seconds = struct.unpack(">HIH", client.expect("tune").fields)
    equal((channels, frames, seconds), (2047, 131072, 60))
    client.send(method(0, 10, 31, struct.pack(">HIH", channel_max, frame_max, heartbeat)))
    client.send(method(0, 10, 40, short("/") + short("") + b"\0"))
    return client


@case("tune-ok")
def what_is_agreed_lies_within_what_was_offered(t):
    tuned(t, 2047, 4096).expect("open-ok")
    tuned(t, 1, 131072).expect("open-ok")
    for channels, frames in ((0, 131072), (2048, 131072), (2047, 0), (2047, 131073), (2047, 4095)):
        tuned(t, channels, frames).expect_closed(530)


@case("open")
def a_vhost_that_is_not_there(t):
    client = tuned_only(t)
    client.send(method(0, 10, 40, short("nowhere") + short("") + b"\0"))
    client.expect_closed(530, "NOT_ALLOWED - access to vhost 'nowhere' refused for user 'guest'")


@case("open")
def an_empty_vhost_is_the_root(t):
    Client(t, vhost="").channel()


@case("states")
def methods_out_of_turn_are_refused(t):
    client = Client(t, greet=False)
    client.send(HEADER)
    client.expect("start")
    client.send(method(0, 10, 40, short("/") + short("") + b"\0"))
    client.expect_closed(504)
    for method_id in (11, 21, 31, 40, 41):
        client = Client(t)
        fields = {11: Client.start_ok(), 21: method(0, 10, 21, long("")), 31: method(0, 10, 31, bytes(8)),
                  40: method(0, 10, 40, short("/") + short("") + b"\0"), 41: method(0, 10, 41, short(""))}
        client.send(fields[method_id])
        client.expect_closed(504, "CHANNEL_ERROR - unexpected method in connection state running")


@case("close")
def a_client_says_goodbye(t):
    client = Client(t)
    client.send(method(0, 10, 50, struct.pack(">H", 200) + short("bye") + b"\0\0\0\0"))
    client.expect("connection.close-ok")
    client.expect_end()


@case("heartbeat", "waits")
def heartbeats_are_sent_and_wanted(t):
    # Longer than a busy machine keeps a client from sending its own.
    client = Client(t, heartbeat=3)
    equal(client.next().name, "heartbeat")
    for _ in range(5):
        client.send(frame(8, 0, b""))
        equal(client.next().name, "heartbeat")
    # And then silence.
    while True:
        try:
            equal(client.next().name, "heartbeat")
        except wire.Closed:
            break


@case("heartbeat", "waits")
def a_large_message_on_its_way_is_a_sign_of_life(t):
    client = Client(t, heartbeat=1)
    client.channel()
    client.send(declare(1, "", 4))
    queue = client.expect("queue.declare-ok").fields[1:-8].decode()
    data = b"x" * 100_000
    message = publish(1, "", queue, data)
    # Longer than three intervals in all, and never a whole frame.
    for at in range(0, len(message), 10_000):
        client.send(message[at : at + 10_000])
        time.sleep(0.4)
    client.send(get(1, queue, True))
    while (got := client.next()).name == "heartbeat":
        pass
    equal(got.name, "get-ok")
    # Heartbeats may come between frames.
    got = b""
    while len(got) < len(data):
        frame_of = client.next()
        got += frame_of.fields if frame_of.name == "body" else b""
    equal(got, data)


@case("handshake", "waits")
def nobody_stays_at_the_door(t):
    """Whoever says nothing, or a little now and then, or everything but where to."""

    def silent(client, limit):
        client.socket.settimeout(limit)
        return client.socket.recv(64)

    began = time.monotonic()
    talking = Client(t, greet=False)
    talking.send(HEADER)
    talking.expect("start")
    still = tuned_only(t)
    for octet in Client.start_ok()[:20]:
        try:
            talking.send(bytes([octet]))
        except OSError:
            break
        time.sleep(1)
    try:
        equal(silent(talking, 5), b"")
    except ConnectionResetError:
        # What was sent last was not read any more.
        pass
    equal(silent(still, 10), b"")
    equal(9 < time.monotonic() - began < 40, True)


def tuned_only(t):
    """A client that has agreed on everything and opens no vhost."""
    client = Client(t, greet=False)
    client.send(HEADER)
    client.expect("start")
    client.send(Client.start_ok())
    client.expect("tune")
    client.send(method(0, 10, 31, struct.pack(">HIH", 2047, 131072, 0)))
    return client


@case("start-ok")
def a_secret_may_be_long(t):
    client = Client(t, greet=False)
    client.send(HEADER)
    client.expect("start")
    client.send(Client.start_ok(password="x" * 60_000))
    client.expect("tune")


@case("channel.open channel.close")
def a_channel_number_may_be_used_again(t):
    client = Client(t)
    for _ in range(3):
        client.channel(7)
        client.send(method(7, 20, 40, struct.pack(">H", 200) + short("") + b"\0\0\0\0"))
        client.expect("channel.close-ok", 7)


@case("channel.open")
def channels_that_are_not_open_or_open_already(t):
    client = Client(t)
    client.channel(1)
    client.send(method(1, 20, 10, short("")))
    client.expect_closed(504, "CHANNEL_ERROR - second 'channel.open' seen")
    client = Client(t)
    client.send(declare(3, "q"))
    client.expect_closed(504, "CHANNEL_ERROR - expected 'channel.open'")
    client = Client(t)
    client.send(method(2048, 20, 10, short("")))
    client.expect_closed(530)
    client = tuned(t, 2, 131072)
    client.expect("open-ok")
    client.channel(1)
    client.channel(2)
    client.send(method(3, 20, 10, short("")))
    text = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"
    client.expect_closed(530, text)


@case("channel.close")
def late_content_of_a_closed_channel_is_skipped(t):
    client = Client(t)
    client.channel(1)
    client.channel(2)
    queue = t.unique()
    client.send(declare(2, queue, 4))
    client.expect("queue.declare-ok", 2)
    # The method fails; header and bodies are on their way already, and so is another publish.
    late = publish(1, "no such exchange", "k", b"x" * 100) + publish(1, "", queue, b"late")
    client.send(late + publish(2, "", queue, b"fine"))
    said, about = client.expect_closed(404, "NOT_FOUND - no exchange 'no such exchange' in vhost '/'", "channel")
    equal(about, (60, 40))
    client.channel(1)
    client.send(get(1, queue, True))
    equal(client.expect("get-ok", 1).fields[-4:], b"\0\0\0\0")
    equal(client.content()[1], b"fine")


@case("flow access.request")
def old_methods_are_answered(t):
    client = Client(t)
    client.channel()
    client.send(method(1, 20, 20, b"\1"))
    client.expect("flow-ok", 1)
    client.send(method(1, 30, 10, short("/data") + b"\x1f"))
    equal(client.expect("access.request-ok").fields, b"\0\1")


@case("table")
def client_properties_of_every_type_are_read(t):
    values = (
        entry("t", "t", b"\1") + entry("b", "b", b"\xff") + entry("B", "B", b"\xff") + entry("s", "s", b"\0\1")
        + entry("u", "u", b"\0\1") + entry("I", "I", b"\0\0\0\1") + entry("i", "i", b"\0\0\0\1")
        + entry("l", "l", bytes(8)) + entry("L", "L", bytes(8)) + entry("f", "f", bytes(4)) + entry("d", "d", bytes(8))
        + entry("D", "D", b"\2\0\0\1\x3a") + entry("S", "S", long("x")) + entry("T", "T", bytes(8))
        + entry("A", "A", long(b"I\0\0\0\1V")) + entry("F", "F", table(entry("x", "V", b"")))
        + entry("V", "V", b"") + entry("x", "x", long(b"\xff"))
    )  # fmt: skip
    client = Client(t, greet=False)
    client.send(HEADER)
    client.expect("start")
    fields = table(values) + short("PLAIN") + long(b"\0guest\0guest") + short("en_US")
    client.send(method(0, 10, 11, fields))
    client.expect("tune")


@case("close")
def what_comes_in_one_write_with_a_goodbye_is_done(t):
    said = struct.pack(">H", 200) + short("") + b"\0\0\0\0"
    for number, class_id, answer in ((1, 20, "channel.close-ok"), (0, 10, "connection.close-ok")):
        goodbye = method(number, class_id, 40 if class_id == 20 else 50, said)
        queue = t.unique()
        keeper = Client(t)
        keeper.channel()
        keeper.send(declare(1, queue, 2))
        keeper.expect("queue.declare-ok")
        client = Client(t)
        client.channel()
        client.send(b"".join(publish(1, "", queue, b"%d" % n) for n in range(3)) + goodbye)
        client.expect(answer)
        client = Client(t)
        client.channel()
        for n in range(3):
            client.send(get(1, queue))
            client.expect("get-ok")
            equal(client.content()[1], b"%d" % n)
        client.send(wire.ack(1, 3, True) + goodbye)
        client.expect(answer)
        keeper.send(get(1, queue))
        keeper.expect("get-empty")
        keeper.send(method(1, 50, 40, struct.pack(">H", 0) + short(queue) + b"\0"))
        keeper.expect("queue.delete-ok")
