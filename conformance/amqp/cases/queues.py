"""What queues tell of a message, byte by byte, and what clients that understand less get."""

import struct
import time

from harness.suite import case, equal
from wire import Client, consume, declare, entry, get, long, method, publish, short, table


def queue_of(client, arguments=b""):
    """A queue of the connection's own."""
    client.send(declare(1, "", 4, arguments))
    return client.expect("queue.declare-ok").fields[1:-8].decode()


def fetched(client, queue, seconds=20):
    """The properties of the next message, once it is there; acknowledged."""
    until = time.monotonic() + seconds
    while True:
        client.send(get(1, queue, True))
        answer = client.next()
        if answer.name == "get-ok":
            return client.content()[0]
        equal(answer.name, "get-empty")
        if time.monotonic() > until:
            raise AssertionError("no message comes")
        time.sleep(0.01)


@case("x-death types")
def a_history_has_the_types_that_clients_expect(t):
    client = Client(t)
    client.channel()
    grave = queue_of(client)
    source = queue_of(
        client, entry("x-dead-letter-exchange", "S", long("")) + entry("x-dead-letter-routing-key", "S", long(grave))
    )
    # Type, priority and a header of 32 bits stay as they are, the expiration goes.
    sent = b"\x29\x20" + table(entry("n", "I", b"\0\0\0\5")) + b"\7" + short("20") + short("kind")
    client.send(publish(1, "", source, b"x", 0, sent))
    got = fetched(client, grave)
    equal(got[:2], b"\x28\x20", "flags")
    equal(got[-6:], b"\7" + short("kind"), "priority and type")
    death = got[got.index(b"\7x-death") :]
    text = lambda key, value: entry(key, "S", long(value))  # noqa: E731
    times = death[death.index(b"\4time") :][5:14]
    equal(times[:1], b"T", "time")
    if abs(struct.unpack(">Q", times[1:])[0] - time.time()) > 60:
        raise AssertionError("it did not die just now")
    one = (
        entry("count", "l", struct.pack(">Q", 1)) + text("reason", "expired") + text("queue", source)
        + entry("time", "T", times[1:]) + text("exchange", "")
        + entry("routing-keys", "A", long(b"S" + long(source))) + text("original-expiration", "20")
    )  # fmt: skip
    expected = entry("n", "I", b"\0\0\0\5") + entry("x-death", "A", long(b"F" + table(one)))
    for what, value in (("reason", "expired"), ("queue", source), ("exchange", "")):
        expected += text(f"x-first-death-{what}", value) + text(f"x-last-death-{what}", value)
    equal(got[2:-6], table(expected))


@case("x-delivery-count type")
def a_count_of_failures_is_a_number_of_64_bits(t):
    client = Client(t)
    client.channel()
    queue = queue_of(client, entry("x-delivery-limit", "I", b"\0\0\0\5"))
    client.send(publish(1, "", queue, b"x") + get(1, queue))
    tag = client.expect("get-ok").fields[:8]
    equal(client.content()[0], b"\0\0")
    client.send(method(1, 60, 90, tag + b"\1"))
    equal(fetched(client, queue), b"\x20\0" + table(entry("x-delivery-count", "l", struct.pack(">Q", 1))))


@case("x-consumer-timeout")
def a_client_that_is_not_told_of_cancelled_consumers_loses_its_channel(t):
    client = Client(t, capabilities=False)
    client.channel()
    queue = queue_of(client)
    timeout = entry("x-consumer-timeout", "I", struct.pack(">I", 200))
    client.send(consume(1, queue, "c", 0, timeout))
    client.expect("consume-ok")
    client.send(publish(1, "", queue, b"x"))
    client.expect("deliver")
    client.content()
    text = (
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 200 ms. This timeout "
        "value can be configured, see consumers doc guide to learn more"
    )
    client.expect_closed(406, text, "channel")


@case("basic.qos global")
def the_answer_to_a_shared_prefetch_count_comes_before_deliveries(t):
    client = Client(t)
    client.channel()
    client.send(method(1, 60, 10, b"\0\0\0\0\0\1\1"))
    client.expect("qos-ok")
    queues = [queue_of(client) for _ in range(3)]
    for number, queue in enumerate(queues):
        client.send(consume(1, queue, f"c{number}"))
        client.expect("consume-ok")
    for queue in queues:
        client.send(publish(1, "", queue, b"x"))
    for tag in range(1, 4):
        fields = client.expect("deliver").fields
        equal(struct.unpack(">Q", fields[3:11])[0], tag)
        client.content()
        client.quiet(0.15)
        client.send(method(1, 60, 80, struct.pack(">QB", tag, 0)))
    client.quiet(0.1)


@case("flow control")
def whoever_does_not_read_leaves_the_rest_in_the_queue(t):
    count = 40_000
    for no_ack in (0, 2):
        publisher, deaf = Client(t), Client(t)
        publisher.channel()
        deaf.channel()
        publisher.send(declare(1, "", 0))
        queue = publisher.expect("queue.declare-ok").fields[1:-8].decode()
        deaf.send(consume(1, queue, "deaf", no_ack))
        deaf.expect("consume-ok")
        publisher.send(method(1, 85, 10, b"\0"))
        publisher.expect("confirm.select-ok")
        batch = publish(1, "", queue, b"x" * 1000) * 1000
        for _ in range(count // 1000):
            publisher.send(batch)
        confirmed = 0
        while confirmed < count:
            confirmed = struct.unpack(">Q", publisher.expect("ack").fields[:8])[0]
        # Sockets hold some megabytes, the server half a one.
        publisher.send(declare(1, queue, 1))
        ready = struct.unpack(">I", publisher.expect("queue.declare-ok").fields[-8:-4])[0]
        if ready < count / 2:
            raise AssertionError(f"no_ack={no_ack}: {count - ready} of {count} messages are on their way")
        publisher.send(method(1, 50, 40, b"\0\0" + short(queue) + b"\0"))
        publisher.expect("queue.delete-ok")


@case("reject-publish-dlx deduplication channel.close")
def what_is_refused_when_its_channel_has_ended_is_a_dead_letter_and_may_come_again(t):
    client = Client(t)
    client.channel()
    client.channel(2)
    grave = queue_of(client)
    source = queue_of(
        client,
        entry("x-max-length", "I", b"\0\0\0\1")
        + entry("x-overflow", "S", long("reject-publish-dlx"))
        + entry("x-message-deduplication", "t", b"\1")
        + entry("x-dead-letter-exchange", "S", long(""))
        + entry("x-dead-letter-routing-key", "S", long(grave)),
    )
    client.send(publish(1, "", source, b"first"))
    again = b"\x20\0" + table(entry("x-deduplication-header", "S", long("a")))
    close = method(2, 20, 40, struct.pack(">H", 200) + short("") + bytes(4))
    client.send(publish(2, "", source, b"x", 0, again) + close)
    client.expect("channel.close-ok")
    assert b"maxlen" in fetched(client, grave)
    fetched(client, source)
    client.send(publish(1, "", source, b"x", 0, again))
    equal(fetched(client, source), again)
