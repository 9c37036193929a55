"""What RabbitMQ refuses and LavinMQ serves, on a server that was told not to be strict (`amqp.strict = false`)."""

import struct
from types import SimpleNamespace

from harness.server import OwnServer
from harness.suite import case, equal
from wire import Client, ack, consume, declare, get, method, publish, short

MANDATORY, IMMEDIATE, NO_ACK = 1, 2, 2


def lenient(t):
    """A client of such a server with channel 1."""
    host, port = OwnServer(t, "--set", "amqp.strict=false").address
    there = SimpleNamespace(host=host, port=port, defer=t.defer)
    client = Client(there)
    client.channel()
    return client


def queue_of(client):
    """A queue of the connection's own."""
    client.send(declare(1, "", 4))
    return client.expect("queue.declare-ok").fields[1:-8].decode()


def consumed(client, queue, tag="c", bits=0):
    """A consumer."""
    client.send(consume(1, queue, tag, bits))
    client.expect("consume-ok")


def delivery(client, frame):
    """Tag, redelivered, body of a delivery."""
    fields = frame.fields[1 + frame.fields[0] :]
    return struct.unpack(">Q?", fields[:9]) + (client.content()[1],)


def delivered(client):
    """The delivery that comes."""
    return delivery(client, client.expect("deliver"))


def confirmed_and_delivered(client):
    """A delivery and an acknowledgement come, in any order: the delivery."""
    first = client.next()
    if first.name == "ack":
        return delivered(client)
    equal(first.name, "deliver")
    got = delivery(client, first)
    client.expect("ack")
    return got


def returned(client):
    """Code, text, body of what comes back."""
    fields = client.expect("return").fields
    code, length = struct.unpack(">HB", fields[:3])
    return code, fields[3 : 3 + length].decode(), client.content()[1]


def ready(client, queue):
    """Messages that are ready in a queue."""
    client.send(declare(1, queue, 1))
    return struct.unpack(">II", client.expect("queue.declare-ok").fields[-8:])[0]


def flow(active):
    """channel.flow."""
    return method(1, 20, 20, bytes([active]))


@case("basic.publish immediate")
def what_no_consumer_has_at_once_comes_back(t):
    client = lenient(t)
    queue = queue_of(client)
    client.send(method(1, 85, 10, b"\0"))
    client.expect("confirm.select-ok")
    client.send(publish(1, "", queue, b"nobody", IMMEDIATE))
    equal(returned(client), (313, "NO_CONSUMERS", b"nobody"))
    client.expect("ack")
    client.send(publish(1, "", "not there", b"nowhere", IMMEDIATE | MANDATORY))
    equal(returned(client), (313, "NO_CONSUMERS", b"nowhere"))
    client.expect("ack")
    equal(ready(client, queue), 0)
    # A consumer that may hold two has no room for a third.
    client.send(method(1, 60, 10, b"\0\0\0\0\0\2\0"))
    client.expect("qos-ok")
    consumed(client, queue)
    for tag, body in ((1, b"1"), (2, b"2")):
        client.send(publish(1, "", queue, body, IMMEDIATE))
        equal(confirmed_and_delivered(client), (tag, False, body))
    client.send(publish(1, "", queue, b"3", IMMEDIATE))
    equal(returned(client), (313, "NO_CONSUMERS", b"3"))
    client.expect("ack")
    client.send(ack(1, 2, True) + publish(1, "", queue, b"4"))
    equal(confirmed_and_delivered(client), (3, False, b"4"))


@case("basic.publish immediate to several queues")
def a_consumer_of_one_queue_is_enough(t):
    client = lenient(t)
    # So many that several shards have some of them.
    queues = [queue_of(client) for _ in range(8)]
    for queue in queues:
        client.send(method(1, 50, 20, b"\0\0" + short(queue) + short("amq.fanout") + short("") + b"\0\0\0\0\0"))
        client.expect("queue.bind-ok")
    client.send(publish(1, "amq.fanout", "", b"nobody", IMMEDIATE))
    equal(returned(client)[0], 313)
    equal([ready(client, queue) for queue in queues], [0] * 8)
    consumed(client, queues[3], bits=NO_ACK)
    client.send(publish(1, "amq.fanout", "", b"one", IMMEDIATE))
    equal(delivered(client), (1, False, b"one"))
    for at, queue in enumerate(queues):
        if at != 3:
            client.send(get(1, queue, True))
            got = client.next()
            equal(got.name, "get-ok", queue)
            equal(client.content()[1], b"one")


@case("basic.publish immediate in a transaction")
def a_transaction_knows_no_immediate(t):
    client = lenient(t)
    client.send(method(1, 90, 10))
    client.expect("tx.select-ok")
    client.send(publish(1, "", "q", b"", IMMEDIATE))
    client.expect_closed(540, "NOT_IMPLEMENTED - immediate=true in a transaction")


@case("basic.recover without requeue")
def a_consumer_is_given_again_what_it_has(t):
    client = lenient(t)
    queue = queue_of(client)
    for n in range(40):
        client.send(publish(1, "", queue, b"%d" % n))
    client.send(get(1, queue))
    client.expect("get-ok")
    client.content()
    consumed(client, queue)
    for n in range(1, 40):
        equal(delivered(client), (n + 1, False, b"%d" % n))
    client.send(ack(1, 3) + method(1, 60, 110, b"\0"))
    bodies, tags = [], []
    while (got := client.next()).name == "deliver":
        tag, again = struct.unpack(">Q?", got.fields[2:11])
        equal(again, True)
        tags.append(tag)
        bodies.append(client.content()[1])
    equal(got.name, "recover-ok")
    # What was fetched is of nobody: it goes back, and comes as any other.
    if b"0" not in bodies:
        tag, again, body = delivered(client)
        equal((again, body), (True, b"0"))
        tags.append(tag)
    else:
        bodies.remove(b"0")
    equal(bodies, [b"%d" % n for n in range(1, 40) if n != 2])
    equal(tags, list(range(41, 41 + 39)))
    # They are still held, under the new tags only.
    client.send(method(1, 60, 100, b"\0"))
    bodies = [delivered(client)[2] for _ in range(39)]
    equal(sorted(bodies), sorted(b"%d" % n for n in range(40) if n != 2))
    client.send(ack(1, 118, True))
    client.quiet(0.2)
    equal(ready(client, queue), 0)
    client.send(ack(1, 41))
    client.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 41", "channel")


@case("channel.flow active=false")
def a_channel_that_is_stopped_is_delivered_nothing(t):
    client = lenient(t)
    queue, other = queue_of(client), queue_of(client)
    consumed(client, queue, "a")
    consumed(client, other, "b", NO_ACK)
    client.send(flow(0))
    equal(client.expect("flow-ok").fields, b"\0")
    for name in (queue, other):
        for n in range(3):
            client.send(publish(1, "", name, b"%d" % n))
    client.send(publish(1, "", queue, b"now", IMMEDIATE))
    equal(returned(client)[0], 313)
    client.quiet(0.2)
    equal([ready(client, queue), ready(client, other)], [3, 3])
    # What it asks for itself comes.
    client.send(get(1, queue, True))
    client.expect("get-ok")
    equal(client.content()[1], b"0")
    # Nothing comes to a consumer that begins meanwhile.
    third = queue_of(client)
    consumed(client, third, "c")
    client.send(publish(1, "", third, b"0"))
    client.quiet(0.2)
    client.send(flow(1))
    equal(client.expect("flow-ok").fields, b"\1")
    got = sorted(delivered(client)[2] for _ in range(6))
    equal(got, [b"0", b"0", b"1", b"1", b"2", b"2"])
    client.quiet(0.1)
