"""Transactions: publishes and acknowledgements that are done together, or not at all."""

import struct

from harness.suite import add, case, equal
from wire import Client, ack, body, consume, declare, entry, get, header, method, publish, short

SELECT, COMMIT, ROLLBACK = (method(1, 90, number) for number in (10, 20, 30))


def transactional(t, queue=None):
    """A client with a channel in transaction mode and a queue of its own, and the name of that."""
    client = Client(t)
    client.channel()
    queue = queue or t.unique()
    client.send(SELECT + declare(1, queue))
    client.expect("tx.select-ok", 1)
    client.expect("queue.declare-ok")
    t.defer(lambda: remove(t, queue))
    return client, queue


def remove(t, queue):
    """Deletes a queue."""
    client = Client(t)
    client.channel()
    client.send(method(1, 50, 40, b"\0\0" + short(queue) + b"\0"))
    client.expect("queue.delete-ok")


def ready(client, queue):
    """Messages that are ready in a queue."""
    client.send(declare(1, queue, 1))
    return struct.unpack(">II", client.expect("queue.declare-ok").fields[-8:])[0]


@case("tx publish")
def nothing_is_published_before_the_commit(t):
    client, queue = transactional(t)
    watcher = Client(t)
    watcher.channel()
    for number in range(3):
        client.send(publish(1, "", queue, b"%d" % number))
    equal((ready(client, queue), ready(watcher, queue)), (0, 0))
    client.send(COMMIT)
    client.expect("tx.commit-ok")
    equal(ready(watcher, queue), 3)
    client.send(publish(1, "", queue, b"never") + ROLLBACK + COMMIT)
    client.expect("tx.rollback-ok")
    client.expect("tx.commit-ok")
    for number in range(3):
        watcher.send(get(1, queue, True))
        watcher.expect("get-ok")
        equal(watcher.content()[1], b"%d" % number)
    equal(ready(watcher, queue), 0)


@case("tx ack")
def acknowledgements_wait_for_the_commit(t):
    client, queue = transactional(t)
    client.send(b"".join(publish(1, "", queue, b"%d" % number) for number in range(4)) + COMMIT)
    client.expect("tx.commit-ok")
    client.send(consume(1, queue, "c"))
    client.expect("consume-ok")
    for _ in range(4):
        client.expect("deliver")
        client.content()
    # Settled, taken back, settled again: the last counts.
    client.send(ack(1, 2, True) + ROLLBACK)
    client.expect("tx.rollback-ok")
    client.quiet(0.2)
    client.send(ack(1, 1) + method(1, 60, 90, struct.pack(">QB", 3, 0)) + COMMIT)
    client.expect("tx.commit-ok")
    client.send(ack(1, 4))
    # What is not committed when the channel closes was never settled.
    client.send(method(1, 20, 40, b"\0\xc8" + short("") + bytes(4)))
    client.expect("channel.close-ok")
    client.channel()
    for expected in (b"1", b"3"):
        client.send(get(1, queue, True))
        equal(client.expect("get-ok").fields[8:9], b"\1")
        equal(client.content()[1], expected)
    client.send(get(1, queue, True))
    client.expect("get-empty")


@case("tx ack errors")
def a_delivery_is_settled_once_in_a_transaction(t):
    client, queue = transactional(t)
    client.send(publish(1, "", queue, b"x") + COMMIT + get(1, queue))
    client.expect("tx.commit-ok")
    client.expect("get-ok")
    client.content()
    client.send(ack(1, 1) + ack(1, 1))
    client.expect_closed(406, "PRECONDITION_FAILED - unknown delivery tag 1", "channel")


@case("tx errors")
def an_exchange_that_is_not_there_is_told_when_it_is_published_to(t):
    client, queue = transactional(t)
    client.send(publish(1, "", queue, b"never") + publish(1, t.unique(), "", b"x"))
    client.expect_closed(404, None, "channel")
    equal(ready_of(t, queue), 0)


@case("tx nack")
def what_is_given_back_is_there_after_the_commit(t):
    client, queue = transactional(t)
    client.send(b"".join(publish(1, "", queue, b"%d" % number) for number in range(3)) + COMMIT)
    client.expect("tx.commit-ok")
    for _ in range(3):
        client.send(get(1, queue))
        client.expect("get-ok")
        client.content()
    client.send(method(1, 60, 120, struct.pack(">QB", 2, 1 | 2)) + method(1, 60, 90, struct.pack(">QB", 3, 0)))
    equal(ready(client, queue), 0)
    client.send(COMMIT)
    client.expect("tx.commit-ok")
    equal(ready(client, queue), 2)
    for number in range(2):
        client.send(get(1, queue, True))
        equal(client.expect("get-ok").fields[8:9], b"\1")
        equal(client.content()[1], b"%d" % number)


@case("tx mandatory")
def what_nobody_wants_comes_back_before_the_commit_is_answered(t):
    client, queue = transactional(t)
    nowhere = t.unique()
    client.send(publish(1, "", nowhere, b"lost", 1) + publish(1, "", queue, b"kept", 1))
    client.quiet(0.2)
    client.send(COMMIT)
    equal(client.expect("return").fields[2:], short("NO_ROUTE") + short("") + short(nowhere))
    equal(client.content()[1], b"lost")
    client.expect("tx.commit-ok")
    equal(ready(client, queue), 1)


@case("tx")
def many_queues_and_acknowledgements_are_one_commit(t):
    client, queue = transactional(t)
    others = [t.unique() for _ in range(5)]
    for other in others:
        client.send(declare(1, other, 4))
        client.expect("queue.declare-ok")
    client.send(publish(1, "", queue, b"work") + COMMIT + get(1, queue))
    client.expect("tx.commit-ok")
    client.expect("get-ok")
    client.content()
    client.send(b"".join(publish(1, "", other, b"result") for other in others) + ack(1, 1) + COMMIT)
    client.expect("tx.commit-ok")
    equal([ready(client, other) for other in others], [1] * 5)
    equal(ready(client, queue), 0)


@case("tx")
def what_is_gone_when_it_is_committed_is_left_out(t):
    client, queue = transactional(t)
    gone, other = t.unique(), Client(t)
    other.channel()
    client.send(declare(1, gone) + publish(1, "", gone, b"1") + publish(1, "", gone, b"2") + COMMIT)
    client.expect("queue.declare-ok")
    client.expect("tx.commit-ok")
    client.send(get(1, gone) + get(1, gone))
    for _ in range(2):
        client.expect("get-ok")
        client.content()
    client.send(publish(1, "", gone, b"3") + publish(1, "", queue, b"kept") + ack(1, 0, True))
    client.quiet(0.2)
    other.send(method(1, 50, 40, b"\0\0" + short(gone) + b"\0"))
    other.expect("queue.delete-ok")
    client.send(COMMIT)
    client.expect("tx.commit-ok")
    equal(ready(client, queue), 1)


@case("tx confirm errors")
def modes_are_not_mixed(t):
    for first, second, text in (
        (SELECT, method(1, 85, 10, b"\0"), "cannot switch from tx to confirm mode"),
        (method(1, 85, 10, b"\0"), SELECT, "cannot switch from confirm to tx mode"),
    ):
        client = Client(t)
        client.channel()
        client.send(first)
        client.next()
        client.send(second)
        client.expect_closed(406, f"PRECONDITION_FAILED - {text}", "channel")


@case("tx limit", "waits")
def a_transaction_does_not_grow_without_bound(t):
    client, queue = transactional(t)
    client.send(publish(1, "", queue, b"") * 10_001)
    client.expect_closed(
        406, "PRECONDITION_FAILED - a transaction of more than 10000 publishes and acknowledgements", "channel"
    )
    client.channel()
    client.send(SELECT)
    client.expect("tx.select-ok")
    piece = bytes(131072 - 8)
    megabyte = method(1, 60, 40, b"\0\0" + short("") + short(queue) + b"\0") + header(1, 8 * len(piece))
    megabyte += body(1, piece) * 8
    for _ in range(40):
        client.send(megabyte)
    text, _ = client.expect_closed(406, None, "channel")
    equal("at most 33554432 are kept" in text, True, text)
    equal(ready_of(t, queue), 0)


@case("tx x-consumer-timeout")
def a_channel_that_ends_during_a_commit_does_not_hold_up_its_connection(t):
    client = Client(t, capabilities=False)
    client.channel()
    held, other = t.unique(), t.unique()
    client.send(declare(1, held, 4) + declare(1, other, 4) + publish(1, "", held, b"x"))
    client.expect("queue.declare-ok")
    client.expect("queue.declare-ok")
    client.send(consume(1, held, "c", 0, entry("x-consumer-timeout", "I", struct.pack(">I", 300))) + SELECT)
    # The delivery comes before or after the answer to what follows.
    names = sorted(client.next().name for _ in range(5))
    equal(names, ["body", "consume-ok", "deliver", "header", "tx.select-ok"])
    # There is always a commit under way, until the consumer has held its message too long.
    turn = publish(1, "", other, b"y", 0, b"\x10\0\2") + COMMIT
    client.send(turn * 50)
    while (got := client.next()).name == "tx.commit-ok":
        client.send(turn)
    equal((got.name, got.close()[0]), ("channel.close", 406))
    client.send(method(1, 20, 41))
    client.channel(2)
    client.channel(1)
    client.send(get(1, held))
    client.expect("get-ok")
    equal(client.content()[1], b"x")


def ready_of(t, queue):
    """Messages that are ready in a queue, asked over a connection of its own."""
    client = Client(t)
    client.channel()
    return ready(client, queue)


def _needs_select(name, data):
    def run(t):
        client = Client(t)
        client.channel()
        client.send(data)
        client.expect_closed(406, "PRECONDITION_FAILED - channel is not transactional", "channel")

    add(f"tx_{name}_without_select", run, "tx errors")


_needs_select("commit", COMMIT)
_needs_select("rollback", ROLLBACK)
