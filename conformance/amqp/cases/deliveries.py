"""What a channel was given: the numbers of deliveries, what settles them, and what comes when nothing more is to come."""

import struct

from harness.suite import case, equal, eventually
from wire import Client, ack, consume, declare, entry, get, long, method, publish, short, table

NO_ACK, PASSIVE, EXCLUSIVE, AUTO_DELETE = 2, 1, 4, 8


def client_of(t, **options):
    """A client with channel 1."""
    client = Client(t, **options)
    client.channel()
    return client


def queue_of(client, *messages, bits=EXCLUSIVE, name="", channel=1):
    """A queue with these messages."""
    client.send(declare(channel, name, bits))
    fields = client.expect("queue.declare-ok").fields
    queue = fields[1 : 1 + fields[0]].decode()
    client.send(b"".join(publish(channel, "", queue, message) for message in messages))
    return queue


def ready(client, queue, channel=1):
    """Messages that are ready."""
    client.send(declare(channel, queue, PASSIVE))
    return struct.unpack(">II", client.expect("queue.declare-ok").fields[-8:])[0]


def fetched(client, queue, no_ack=False, channel=1):
    """Tag, redelivered and body of the next message."""
    client.send(get(channel, queue, no_ack))
    fields = client.expect("get-ok", channel).fields
    return struct.unpack(">Q?", fields[:9]) + (client.content()[1],)


def delivered(client):
    """The same of the delivery that comes."""
    fields = client.expect("deliver").fields
    return struct.unpack(">Q?", fields[1 + fields[0] :][:9]) + (client.content()[1],)


def nack(tag, multiple=False, requeue=True):
    """basic.nack on channel 1."""
    return method(1, 60, 120, struct.pack(">QB", tag, multiple | requeue << 1))


def cancel(tag):
    """basic.cancel on channel 1."""
    return method(1, 60, 30, short(tag) + b"\0")


def qos(count):
    """basic.qos on channel 1."""
    return method(1, 60, 10, struct.pack(">IHB", 0, count, 0))


def goes_on(client):
    """The channel is still there."""
    client.send(qos(0))
    client.expect("qos-ok")


@case("delivery-tag")
def fetched_and_delivered_messages_are_numbered_together(t):
    client = client_of(t)
    queue = queue_of(client, b"0", b"1", b"2", b"3")
    equal(fetched(client, queue, True), (1, False, b"0"))
    equal(fetched(client, queue), (2, False, b"1"))
    client.send(consume(1, queue, "c", NO_ACK))
    client.expect("consume-ok")
    equal([delivered(client), delivered(client)], [(3, False, b"2"), (4, False, b"3")])
    client.send(ack(1, 2))
    goes_on(client)
    # What needs no acknowledgement has a number, and cannot be acknowledged.
    client.send(ack(1, 3))
    client.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 3", "channel")


@case("basic.ack basic.nack multiple")
def everything_may_be_nothing(t):
    client = client_of(t)
    client.send(ack(1, 0, True) + nack(0, True))
    goes_on(client)
    queue = queue_of(client, b"0", b"1", b"2")
    for _ in range(3):
        fetched(client, queue)
    client.send(nack(0, True))
    equal(ready(client, queue), 3)
    client.send(nack(0))
    client.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 0", "channel")


@case("basic.ack multiple errors")
def a_tag_up_to_which_all_is_settled_is_itself_unsettled(t):
    client = client_of(t)
    queue = queue_of(client, b"0", b"1", b"2")
    for _ in range(3):
        fetched(client, queue)
    client.send(ack(1, 2))
    client.send(ack(1, 2, True))
    client.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 2", "channel")
    client.channel()
    equal([fetched(client, queue)[2], fetched(client, queue)[2]], [b"0", b"2"])


@case("basic.ack channels errors")
def a_delivery_is_settled_where_it_came(t):
    client = client_of(t)
    client.channel(2)
    queue = queue_of(client, b"x")
    fetched(client, queue)
    client.send(ack(2, 1))
    text = "PRECONDITION_FAILED - unknown delivery tag 1"
    got = client.expect("channel.close", 2)
    equal(got.close()[:2], (406, text))
    client.send(method(2, 20, 41) + ack(1, 1))
    equal(ready(client, queue), 0)


@case("basic.ack states")
def acknowledgements_for_a_channel_that_is_closed_or_was_never_open(t):
    client = client_of(t)
    queue = queue_of(client, b"x")
    fetched(client, queue)
    # They are on their way when the server closes the channel.
    client.send(declare(1, t.unique(), PASSIVE) + ack(1, 1) + ack(1, 7) + consume(1, queue))
    client.expect_closed(404, None, "channel")
    client.channel()
    equal(fetched(client, queue), (1, True, b"x"))
    client.send(ack(9, 1))
    client.expect_closed(504, "CHANNEL_ERROR - expected 'channel.open'")


@case("basic.cancel")
def what_a_cancelled_consumer_has_stays_with_the_channel(t):
    client = client_of(t)
    queue = queue_of(client, b"0", b"1", b"2")
    client.send(consume(1, queue, "c"))
    client.expect("consume-ok")
    for _ in range(3):
        delivered(client)
    client.send(cancel("c"))
    client.expect("cancel-ok")
    equal(ready(client, queue), 0)
    client.send(ack(1, 2) + nack(1))
    equal(ready(client, queue), 1)
    equal(fetched(client, queue), (4, True, b"0"))
    client.send(method(1, 20, 40, struct.pack(">H", 200) + short("") + bytes(4)))
    client.expect("channel.close-ok")
    client.channel()
    equal([fetched(client, queue)[1:] for _ in range(2)], [(True, b"0"), (True, b"2")])


@case("basic.cancel deliver")
def nothing_is_delivered_after_a_consumer_is_cancelled(t):
    for bits in (0, NO_ACK):
        client = client_of(t)
        queue = queue_of(client, *[b"x" * 100] * 3_000)
        equal(ready(client, queue), 3_000)
        client.send(consume(1, queue, "c", bits) + cancel("c"))
        client.expect("consume-ok")
        taken = 0
        while (got := client.next()).name == "deliver":
            client.content()
            taken += 1
        equal(got.name, "cancel-ok")
        client.quiet(0.2)
        # Nothing is lost on the way.
        equal(taken + ready(client, queue), 3_000)


@case("basic.get basic.qos")
def what_was_fetched_does_not_count_for_a_consumer(t):
    client = client_of(t)
    queue = queue_of(client, b"0", b"1", b"2")
    equal(fetched(client, queue)[0], 1)
    client.send(qos(1))
    client.expect("qos-ok")
    client.send(consume(1, queue, "c"))
    client.expect("consume-ok")
    equal(delivered(client), (2, False, b"1"))
    client.send(ack(1, 1))
    client.quiet(0.2)
    client.send(ack(1, 2))
    equal(delivered(client), (3, False, b"2"))


@case("x-single-active-consumer channel.close")
def the_next_consumer_begins_with_what_the_last_one_had(t):
    for durable in (0, 2):
        name, first, second = t.unique(), client_of(t), client_of(t)
        arguments = entry("x-single-active-consumer", "t", b"\1")
        first.send(declare(1, name, durable, arguments))
        first.expect("queue.declare-ok")
        for client in (first, second):
            client.send(qos(2) + consume(1, name))
            client.expect("qos-ok")
            client.expect("consume-ok")
        for number in range(5):
            first.send(publish(1, "", name, b"%d" % number, 0, b"\x10\0\2"))
        equal([delivered(first)[2], delivered(first)[2]], [b"0", b"1"])
        second.quiet(0.2)
        first.send(method(1, 20, 40, struct.pack(">H", 200) + short("") + bytes(4)))
        first.expect("channel.close-ok")
        equal([delivered(second)[1:], delivered(second)[1:]], [(True, b"0"), (True, b"1")])
        second.send(method(1, 50, 40, b"\0\0" + short(name) + b"\0"))
        equal({second.next().name for _ in range(2)}, {"cancel", "queue.delete-ok"})


@case("redelivered recover-async")
def who_had_a_message_before_does_not_matter(t):
    client, other = client_of(t), client_of(t)
    queue = queue_of(client, b"x", bits=0, name=t.unique())
    equal(fetched(client, queue), (1, False, b"x"))
    # It has no answer.
    client.send(method(1, 60, 100, b"\1"))
    goes_on(client)
    equal(fetched(other, queue), (1, True, b"x"))
    other.send(method(1, 50, 40, b"\0\0" + short(queue) + b"\0"))
    other.expect("queue.delete-ok")


@case("basic.consume")
def a_consumer_without_a_tag_is_given_one(t):
    client = client_of(t)
    queue = queue_of(client)
    # no-local is accepted, and means nothing.
    client.send(consume(1, queue, "", 1))
    tag = client.expect("consume-ok").fields[1:].decode()
    equal(tag.startswith("amq.ctag-"), True, tag)
    client.send(publish(1, "", queue, b"own"))
    equal(delivered(client)[2], b"own")


@case("basic.cancel queue.delete")
def who_does_not_want_to_know_is_not_told_that_its_queue_is_gone(t):
    client, other = client_of(t, capabilities=False), client_of(t)
    queue = queue_of(client, bits=0, name=t.unique())
    client.send(consume(1, queue, "c"))
    client.expect("consume-ok")
    other.send(method(1, 50, 40, b"\0\0" + short(queue) + b"\0"))
    other.expect("queue.delete-ok")
    client.quiet(0.3)
    # The tag is free.
    queue_of(client)
    client.send(consume(1, "", "c"))
    client.expect("consume-ok")


@case("queue.declare auto-delete")
def an_auto_deleting_queue_goes_with_the_channel_of_its_last_consumer(t):
    client, other = client_of(t), client_of(t)
    queue = queue_of(client, bits=AUTO_DELETE, name=t.unique())
    for consumer in (client, other):
        consumer.send(consume(1, queue, "c"))
        consumer.expect("consume-ok")
    close = method(1, 20, 40, struct.pack(">H", 200) + short("") + bytes(4))
    client.send(close)
    client.expect("channel.close-ok")
    equal(ready(other, queue), 0, "another is left")
    other.send(close)
    other.expect("channel.close-ok")

    def is_gone():
        other.channel()
        other.send(declare(1, queue, PASSIVE))
        if (got := other.next()).name == "channel.close":
            equal(got.close()[0], 404)
            other.send(method(1, 20, 41))
            return True
        other.send(close)
        other.expect("channel.close-ok")
        return False

    eventually(is_gone, "the queue goes")


@case("confirm.select")
def confirms_may_be_asked_for_twice(t):
    client = client_of(t)
    for number in (1, 2):
        client.send(method(1, 85, 10, b"\0") + publish(1, "", t.unique(), b"nowhere"))
        client.expect("confirm.select-ok")
        equal(client.expect("ack").fields, struct.pack(">QB", number, 0))


@case("basic.publish queue.delete confirm")
def a_queue_that_goes_while_others_publish_is_no_error(t):
    client, other = client_of(t), client_of(t)
    client.send(method(1, 85, 10, b"\0"))
    client.expect("confirm.select-ok")
    queue, published, confirmed = t.unique(), 0, 0
    for _ in range(30):
        other.send(declare(1, queue))
        other.expect("queue.declare-ok")
        client.send(publish(1, "", queue, b"x") * 20)
        other.send(method(1, 50, 40, b"\0\0" + short(queue) + b"\0"))
        other.expect("queue.delete-ok")
        client.send(publish(1, "", queue, b"x") * 20)
        published += 40
    while confirmed < published:
        confirmed = struct.unpack(">Q", client.expect("ack").fields[:8])[0]
    equal(confirmed, published)


@case("properties frame-max")
def a_message_whose_properties_do_not_fit_ends_the_connection_that_would_get_it(t):
    client, small = client_of(t), client_of(t, frame_max=4096)
    queue = queue_of(client, bits=0, name=t.unique())
    properties = b"\x20\0" + table(entry("large", "S", long("x" * 5_000)))
    client.send(publish(1, "", queue, b"body", 0, properties))
    equal(ready(client, queue), 1)
    for ask in (get(1, queue), consume(1, queue)):
        small.send(ask)
        while (got := small.next()).name != "connection.close":
            equal(got.name, "consume-ok")
        equal(got.close()[0], 501)
        small = client_of(t, frame_max=4096)

    def comes_back():
        client.send(get(1, queue))
        return client.next().name == "get-ok" and client.content()

    equal(eventually(comes_back, "it comes back"), (properties, b"body"))
    client.send(method(1, 50, 40, b"\0\0" + short(queue) + b"\0"))
    client.expect("queue.delete-ok")
