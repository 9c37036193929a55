"""pika drives the exchanges beyond the standard's: hashes, delays, deduplication, history; with a restart where that matters."""

import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import pika  # noqa: E402
from harness import suite  # noqa: E402
from harness.server import OwnServer  # noqa: E402
from harness.suite import case, equal  # noqa: E402
from pika.exceptions import AMQPError, ChannelClosedByBroker, UnroutableError  # noqa: E402

#: Seconds that anything may take.
PATIENCE = 20


def connect(t, address=None):
    """A channel of a connection that ends with the case."""
    host, port = address or (t.host, t.port)
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))

    def close():
        try:
            connection.close()
        except AMQPError:
            # It was closed, or its server was ended.
            pass

    t.defer(close)
    return connection.channel()


def exchange_of(t, channel, kind, durable=False, **arguments):
    """An exchange with a name of its own, deleted at the end."""
    name = t.unique()
    channel.exchange_declare(name, kind, durable=durable, arguments=named(arguments))

    def delete():
        connection = pika.BlockingConnection(pika.ConnectionParameters(t.host, t.port))
        connection.channel().exchange_delete(name)
        connection.close()

    t.defer(delete)
    return name


def named(arguments):
    """Python's names as AMQP's."""
    return {name.replace("_", "-"): value for name, value in arguments.items()}


def bound(channel, exchange, key, **arguments):
    """A queue of the connection's own that is bound with this key."""
    name = channel.queue_declare("", exclusive=True, arguments=named(arguments)).method.queue
    channel.queue_bind(name, exchange, key)
    return name


def count(channel, queue):
    """Messages that are ready."""
    return channel.queue_declare(queue, passive=True).method.message_count


def take(channel, queue, messages, patience=PATIENCE):
    """Fetches so many messages, as they come: headers and bodies."""
    got, until = [], time.monotonic() + patience
    while len(got) < messages and time.monotonic() < until:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            time.sleep(0.01)
        else:
            got.append((method, properties, body))
    equal(len(got), messages, "messages")
    return got


def bodies(channel, queue, messages):
    """Their bodies."""
    return [body for _, _, body in take(channel, queue, messages)]


def refused(call, *arguments, **options):
    """The call closes the channel with 406; yields the text."""
    try:
        call(*arguments, **options)
    except ChannelClosedByBroker as error:
        equal(error.reply_code, 406)
        return error.reply_text
    raise AssertionError("expected 406")


def delayed(ms, **headers):
    """Properties of a message that waits."""
    return pika.BasicProperties(headers={"x-delay": ms, **headers}, delivery_mode=2)


@case("x-consistent-hash")
def messages_are_divided_by_weight_and_stay_where_they_are(t):
    channel = connect(t)
    exchange = exchange_of(t, channel, "x-consistent-hash")
    light, heavy = bound(channel, exchange, "1"), bound(channel, exchange, "3")
    for number in range(400):
        channel.basic_publish(exchange, f"key {number}", str(number))
    shares = count(channel, light), count(channel, heavy)
    equal(sum(shares), 400)
    equal(60 < shares[0] < 140, True, f"one in four: {shares}")
    kept = set(bodies(channel, heavy, shares[1]))
    channel.queue_delete(light)
    for number in range(400):
        channel.basic_publish(exchange, f"key {number}", str(number))
    everything = set(bodies(channel, heavy, 400))
    equal(kept <= everything, True)
    text = refused(channel.queue_bind, heavy, exchange, "heavy")
    equal("weight" in text, True, text)


@case("x-consistent-hash hash-header hash-property")
def a_hash_goes_by_a_header_or_a_property(t):
    channel = connect(t)
    for arguments, properties in (
        ({"hash_header": "user"}, lambda user: pika.BasicProperties(headers={"user": user})),
        ({"x_hash_on": "user"}, lambda user: pika.BasicProperties(headers={"user": user})),
        ({"hash_property": "correlation_id"}, lambda user: pika.BasicProperties(correlation_id=user)),
        ({"hash_property": "timestamp"}, lambda user: pika.BasicProperties(timestamp=int(user))),
    ):
        exchange = exchange_of(t, channel, "x-consistent-hash", **arguments)
        queues = [bound(channel, exchange, "10") for _ in range(3)]
        for number in range(90):
            channel.basic_publish(exchange, f"{number}", str(number % 30), properties(str(number % 30)))
        seen = [bodies(channel, queue, count(channel, queue)) for queue in queues]
        equal(sum(map(len, seen)), 90)
        equal(sum(map(len, map(set, seen))), 30, "each user in one queue")
        equal(min(map(len, seen)) > 0, True)
    declare = connect(t).exchange_declare
    both = {"hash-header": "a", "hash-property": "message_id"}
    refused(declare, t.unique(), "x-consistent-hash", arguments=both)


@case("x-random x-local-random x-modulus-hash")
def one_queue_of_many(t):
    channel = connect(t)
    for kind in ("x-random", "x-local-random", "x-modulus-hash"):
        exchange = exchange_of(t, channel, kind)
        queues = [bound(channel, exchange, "") for _ in range(3)]
        for number in range(90):
            channel.basic_publish(exchange, f"{number}", b"")
        counts = [count(channel, queue) for queue in queues]
        equal(sum(counts), 90, kind)
        equal(min(counts) > 5, True, f"{kind}: {counts}")


@case("x-delayed-message", "waits")
def messages_come_in_the_order_of_their_times(t):
    channel = connect(t)
    channel.confirm_delivery()
    exchange = exchange_of(t, channel, "x-delayed-message", True, x_delayed_type="topic")
    queue = bound(channel, exchange, "a.#")
    start = time.monotonic()
    # Further apart than a busy machine stands still between two of them.
    for ms in (6000, 2000, 4000):
        channel.basic_publish(exchange, "a.b", str(ms), delayed(ms, kept="yes"), mandatory=True)
    channel.basic_publish(exchange, "a.b", b"now", pika.BasicProperties(headers={"kept": "yes"}))
    channel.basic_publish(exchange, "a.b", b"past", delayed(-5))
    channel.basic_publish(exchange, "elsewhere", b"lost", delayed(10))
    equal(bodies(channel, queue, 2), [b"now", b"past"])
    got = take(channel, queue, 3)
    equal([body for _, _, body in got], [b"2000", b"4000", b"6000"])
    equal(time.monotonic() - start >= 6, True, "not too early")
    method, properties, _ = got[0]
    equal((method.exchange, method.routing_key), (exchange, "a.b"))
    equal((properties.headers, properties.delivery_mode), ({"kept": "yes"}, 2))


@case("x-delayed-message")
def a_delay_of_two_months_is_not_over_at_once(t):
    channel = connect(t)
    exchange = exchange_of(t, channel, "x-delayed-message", x_delayed_type="fanout")
    queue = bound(channel, exchange, "")
    for ms in (60 * 24 * 3600 * 1000, (1 << 32) + 1, 1 << 52):
        channel.basic_publish(exchange, "", b"far", delayed(ms))
    channel.basic_publish(exchange, "", b"soon", delayed(100))
    equal(bodies(channel, queue, 1), [b"soon"])
    time.sleep(0.3)
    equal(count(channel, queue), 0)


@case("x-delayed-exchange", "waits")
def any_exchange_can_delay_and_be_reached_by_another(t):
    channel = connect(t)
    source = exchange_of(t, channel, "fanout")
    waits = exchange_of(t, channel, "direct", x_delayed_exchange=True)
    channel.exchange_bind(waits, source)
    at_once, later = bound(channel, source, ""), bound(channel, waits, "k")
    channel.basic_publish(source, "k", b"x", delayed(3000))
    equal((count(channel, at_once), count(channel, later)), (1, 0))
    method, properties, body = take(channel, later, 1)[0]
    equal((method.exchange, properties.headers, body), (source, {}, b"x"))


@case("x-delayed-message tx CC BCC")
def delays_go_with_transactions_and_copies(t):
    channel = connect(t)
    exchange = exchange_of(t, channel, "x-delayed-message", x_delayed_type="direct")
    first, second, third = (bound(channel, exchange, key) for key in "abc")
    channel.tx_select()
    channel.basic_publish(exchange, "a", b"x", delayed(100, CC=["b"], BCC=["c"]))
    channel.tx_commit()
    for queue in (first, second, third):
        _, properties, body = take(channel, queue, 1)[0]
        equal((properties.headers, body), ({"CC": ["b"]}, b"x"))


@case("x-delayed-message errors")
def a_delayed_exchange_needs_a_type(t):
    for arguments in (None, {"x-delayed-type": "odd"}, {"x-delayed-type": "x-delayed-message"}):
        refused(connect(t).exchange_declare, t.unique(), "x-delayed-message", arguments=arguments)
    channel = connect(t)
    exchange = exchange_of(t, channel, "x-delayed-message", x_delayed_type="direct")
    arguments = {"x-delayed-type": "fanout"}
    text = refused(channel.exchange_declare, exchange, "x-delayed-message", arguments=arguments)
    equal("inequivalent arg 'x-delayed-type'" in text, True, text)


@case("x-delayed-message restart", "last")
def delayed_messages_survive_the_end_of_the_server(t):
    server = OwnServer(t)
    channel = connect(t, server.address)
    channel.confirm_delivery()
    exchange, queue = t.unique(), t.unique()
    channel.exchange_declare(exchange, "x-delayed-message", durable=True, arguments={"x-delayed-type": "direct"})
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange, "k")
    for ms in (200, 1_500, 2_000):
        for number in range(50):
            channel.basic_publish(exchange, "k", f"{ms} {number}", delayed(ms))
    time.sleep(0.3)
    server.end()
    # All of them are due at the start.
    time.sleep(2.5)
    server.run()
    channel = connect(t, server.address)
    equal(bodies(channel, queue, 150), [f"{ms} {number}".encode() for ms in (200, 1_500, 2_000) for number in range(50)])


@case("x-message-deduplication queue")
def a_queue_takes_a_message_once(t):
    channel = connect(t)
    channel.confirm_delivery()
    queue = channel.queue_declare(
        "", exclusive=True, arguments={"x-message-deduplication": True, "x-cache-size": 2, "x-cache-ttl": 60_000}
    ).method.queue
    keyed = lambda key: pika.BasicProperties(headers={"x-deduplication-header": key})  # noqa: E731
    for key in ("1", "1", "2", "2", "1"):
        # Confirmed and not returned, although it is not stored again.
        channel.basic_publish("", queue, key, keyed(key), mandatory=True)
    channel.basic_publish("", queue, b"none")
    channel.basic_publish("", queue, b"none")
    equal(bodies(channel, queue, 4), [b"1", b"2", b"none", b"none"])
    channel.basic_publish("", queue, b"3", keyed("3"))
    # The cache holds two: 1 is forgotten by now.
    channel.basic_publish("", queue, b"1", keyed("1"))
    equal(bodies(channel, queue, 2), [b"3", b"1"])


@case("x-message-deduplication overflow")
def a_refused_message_may_come_again(t):
    channel = connect(t)
    channel.confirm_delivery()
    queue = channel.queue_declare(
        "",
        exclusive=True,
        arguments={"x-message-deduplication": True, "x-max-length": 1, "x-overflow": "reject-publish"},
    ).method.queue
    keyed = lambda key: pika.BasicProperties(headers={"x-deduplication-header": key})  # noqa: E731
    channel.basic_publish("", queue, b"1", keyed("1"))
    try:
        channel.basic_publish("", queue, b"2", keyed("2"))
        raise AssertionError("taken")
    except pika.exceptions.NackError:
        pass
    equal(bodies(channel, queue, 1), [b"1"])
    channel.basic_publish("", queue, b"2", keyed("2"))
    equal(bodies(channel, queue, 1), [b"2"])


@case("x-message-deduplication exchange", "waits")
def an_exchange_routes_a_message_once(t):
    channel = connect(t)
    channel.confirm_delivery()
    exchange = exchange_of(
        t, channel, "direct", x_message_deduplication=True, x_cache_ttl=3000, x_deduplication_header="id"
    )
    queue = bound(channel, exchange, "k")
    keyed = lambda key: pika.BasicProperties(headers={"id": key})  # noqa: E731
    channel.basic_publish(exchange, "k", b"first", keyed(7), mandatory=True)
    try:
        channel.basic_publish(exchange, "k", b"again", keyed(7), mandatory=True)
        raise AssertionError("a repetition is not routed")
    except UnroutableError:
        pass
    equal(bodies(channel, queue, 1), [b"first"])
    time.sleep(3.5)
    channel.basic_publish(exchange, "k", b"later", keyed(7), mandatory=True)
    equal(bodies(channel, queue, 1), [b"later"])


def died(channel, exchange, key, headers=None, count=1):
    """Has messages die that go to an exchange with this key."""
    arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": key}
    source = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
    for number in range(count):
        channel.basic_publish("", source, str(number), pika.BasicProperties(headers=headers))
    for _ in range(count):
        channel.basic_nack(channel.basic_get(source)[0].delivery_tag, requeue=False)


@case("x-delayed-message dead letters", "waits")
def a_dead_letter_waits_in_a_delayed_exchange(t):
    channel = connect(t)
    channel.confirm_delivery()
    exchange = exchange_of(t, channel, "x-delayed-message", x_delayed_type="direct")
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, exchange, "k")
    died(channel, exchange, "k", {"x-delay": 3000})
    time.sleep(0.2)
    equal(channel.basic_get(queue)[0], None, "nothing before its time")
    until = time.monotonic() + PATIENCE
    got = (None, None, None)
    while got[0] is None and time.monotonic() < until:
        got = channel.basic_get(queue, auto_ack=True)
    equal(got[2], b"0")
    equal(got[1].headers["x-death"][0]["reason"], "rejected")
    equal("x-delay" in got[1].headers, False)


@case("x-message-deduplication dead letters")
def a_dead_letter_that_came_before_comes_no_more(t):
    channel = connect(t)
    channel.confirm_delivery()
    exchange = t.unique()
    arguments = {"x-message-deduplication": True, "x-cache-size": 10}
    channel.exchange_declare(exchange, "fanout", auto_delete=True, arguments=arguments)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, exchange)
    died(channel, exchange, "k", {"x-deduplication-header": "same"}, count=3)
    equal(len(bodies(channel, queue, 1)), 1)


def recent(channel, queue, messages):
    """The bodies, as numbers, and that nothing more is there."""
    got = [int(body) for body in bodies(channel, queue, messages)]
    equal(channel.basic_get(queue)[0], None, "nothing more")
    return got


@case("x-recent-history")
def a_queue_that_is_bound_later_has_the_last_messages(t):
    channel = connect(t)
    channel.confirm_delivery()
    for arguments, length in (({}, 20), ({"x_recent_history_length": 3}, 3)):
        exchange = exchange_of(t, channel, "x-recent-history", **arguments)
        first = bound(channel, exchange, "")
        for number in range(30):
            properties = pika.BasicProperties(headers={"n": number}, delivery_mode=2, priority=3)
            channel.basic_publish(exchange, f"key.{number}", str(number), properties)
        for number in range(30, 35):
            properties = pika.BasicProperties(headers={"x-recent-history-no-store": True})
            channel.basic_publish(exchange, "", str(number), properties)
        equal(recent(channel, first, 35), list(range(35)), "as a fanout")
        second = bound(channel, exchange, "any key")
        method, properties, body = take(channel, second, 1)[0]
        equal((method.exchange, method.routing_key), (exchange, f"key.{body.decode()}"))
        equal(properties.headers, {"n": int(body)})
        equal((properties.delivery_mode, properties.priority, method.redelivered), (2, 3, False))
        equal([int(body), *recent(channel, second, length - 1)], list(range(30 - length, 30)))
        # A binding that is there already shows nothing again, another one does.
        channel.queue_bind(second, exchange, "any key")
        equal(count(channel, second), 0)
        channel.queue_bind(second, exchange, "another key")
        equal(recent(channel, second, length), list(range(30 - length, 30)))
        channel.basic_publish(exchange, "", b"40")
        equal(recent(channel, second, 1), [40])


@case("x-recent-history consumer")
def somebody_who_consumes_already_is_shown_them_in_order(t):
    channel = connect(t)
    exchange = exchange_of(t, channel, "x-recent-history")
    for number in range(5):
        channel.basic_publish(exchange, "", str(number))
    queue = channel.queue_declare("", exclusive=True).method.queue
    got = []
    channel.basic_consume(queue, lambda *delivery: got.append(int(delivery[3])), auto_ack=True)
    channel.queue_bind(queue, exchange)
    for number in range(5, 10):
        channel.basic_publish(exchange, "", str(number))
    until = time.monotonic() + PATIENCE
    while len(got) < 10 and time.monotonic() < until:
        channel.connection.process_data_events(0.05)
    equal(got, list(range(10)))


@case("x-recent-history errors")
def a_history_has_a_positive_length(t):
    for wrong in (0, -30, "3", True):
        arguments = {"x-recent-history-length": wrong}
        text = refused(connect(t).exchange_declare, t.unique(), "x-recent-history", arguments=arguments)
        equal("'x-recent-history-length' must be a positive integer" in text, True, text)
    channel = connect(t)
    exchange = exchange_of(t, channel, "x-recent-history", x_recent_history_length=5)
    same = {"x-recent-history-length": 5}
    channel.exchange_declare(exchange, "x-recent-history", arguments=same)
    text = refused(channel.exchange_declare, exchange, "x-recent-history")
    equal("inequivalent arg 'x-recent-history-length'" in text, True, text)


@case("x-recent-history exchanges")
def an_exchange_that_is_bound_later_routes_the_last_messages(t):
    channel = connect(t)
    channel.confirm_delivery()
    source, history = exchange_of(t, channel, "topic"), exchange_of(t, channel, "x-recent-history")
    channel.exchange_bind(history, source, "a.#")
    for number, key in enumerate(("a.b", "b", "a.c", "a.b")):
        copies = pika.BasicProperties(headers={"BCC": ["a.c"]}) if number == 3 else None
        channel.basic_publish(source, key, str(number), copies)
    # What is bound before it shows nothing.
    before = bound(channel, source, "#")
    target = exchange_of(t, channel, "direct")
    left, right = bound(channel, target, "a.b"), bound(channel, target, "a.c")
    channel.exchange_bind(target, history, "whatever")
    equal(recent(channel, left, 2), [0, 3])
    method, properties, _ = take(channel, right, 2)[1]
    equal((method.exchange, method.routing_key, properties.headers), (source, "a.b", {}))
    equal(count(channel, before), 0)


@case("x-recent-history tx dead letters delays")
def what_comes_by_another_way_is_recorded_too(t):
    channel = connect(t)
    channel.confirm_delivery()
    exchange = exchange_of(t, channel, "x-recent-history")
    died(channel, exchange, "k")
    arguments = {"x_delayed_type": "x-recent-history"}
    waits = exchange_of(t, channel, "x-delayed-message", **arguments)
    channel.basic_publish(waits, "", b"2", delayed(200))
    transaction = connect(t)
    transaction.tx_select()
    transaction.basic_publish(exchange, "", b"1")
    transaction.tx_rollback()
    transaction.basic_publish(exchange, "", b"2")
    equal(count(channel, bound(channel, exchange, "a")) <= 1, True, "nothing before the commit")
    transaction.tx_commit()
    until = time.monotonic() + PATIENCE
    queue = bound(channel, exchange, "")
    while count(channel, queue) < 2 and time.monotonic() < until:
        channel.queue_delete(queue)
        queue = bound(channel, exchange, "")
    got = take(channel, queue, 2)
    equal(sorted(int(body) for _, _, body in got), [0, 2])
    equal(["x-death" in (properties.headers or {}) for _, properties, _ in got].count(True), 1)
    early = bound(channel, waits, "")
    equal(recent(channel, early, 1), [2])
    late = bound(channel, waits, "")
    _, properties, body = take(channel, late, 1)[0]
    equal((body, properties.headers), (b"2", {}))


@case("x-recent-history concurrent")
def each_message_comes_once_in_order_while_others_publish(t):
    channel = connect(t)
    exchange = exchange_of(t, channel, "x-recent-history", x_recent_history_length=1_000_000)
    messages, begun = 3_000, threading.Event()

    def publish():
        connection = pika.BlockingConnection(pika.ConnectionParameters(t.host, t.port))
        publisher = connection.channel()
        for number in range(messages):
            publisher.basic_publish(exchange, "", str(number))
            if number == messages // 10:
                begun.set()
        connection.close()

    publishers = [threading.Thread(target=publish) for _ in range(2)]
    for publisher in publishers:
        publisher.start()
    begun.wait(PATIENCE)
    queues = []
    while any(publisher.is_alive() for publisher in publishers) and len(queues) < 15:
        queues.append(bound(channel, exchange, ""))
    for publisher in publishers:
        publisher.join()
    equal(len(queues) > 0, True)
    for queue in queues:
        got = []
        consumed = channel.basic_consume(queue, lambda *delivery: got.append(int(delivery[3])), auto_ack=True)
        until = time.monotonic() + PATIENCE
        while len(got) < 2 * messages and time.monotonic() < until:
            channel.connection.process_data_events(0.05)
        channel.basic_cancel(consumed)
        equal(sorted(got), [number for number in range(messages) for _ in range(2)], "each once of each")
        seen = [0] * messages
        # Two publishers: each number's first comes before its successor's first, and so do the second ones.
        for number in got:
            seen[number] += 1
            equal(number == 0 or seen[number] <= seen[number - 1], True, f"{number} in order")


@case("x-recent-history restart", "last")
def what_a_durable_exchange_has_recorded_outlives_the_server(t):
    server = OwnServer(t)
    channel = connect(t, server.address)
    channel.confirm_delivery()
    exchange, passing, target, queue = (t.unique() for _ in range(4))
    arguments = {"x-recent-history-length": 5}
    channel.exchange_declare(exchange, "x-recent-history", durable=True, auto_delete=True, arguments=arguments)
    channel.exchange_declare(passing, "x-recent-history", arguments=arguments)
    channel.exchange_declare(target, "direct", durable=True)
    channel.queue_declare(queue, durable=True)
    for number in range(8):
        properties = pika.BasicProperties(headers={"n": number, "BCC": ["blind"]}, expiration="600000")
        channel.basic_publish(exchange, f"key.{number}", str(number), properties)
        channel.basic_publish(passing, "", str(number))
    no_store = pika.BasicProperties(headers={"x-recent-history-no-store": True})
    channel.basic_publish(exchange, "", b"not this", no_store)
    transaction = connect(t, server.address)
    transaction.tx_select()
    transaction.basic_publish(exchange, "tx", b"8")
    transaction.tx_commit()
    channel.queue_bind(queue, exchange)
    equal(count(channel, queue), 5)
    server.end()
    server.run()
    channel = connect(t, server.address)
    channel.confirm_delivery()
    equal(count(channel, queue), 5, "what was shown is the queue's; its binding shows nothing again")
    late = bound(channel, exchange, "")
    got = take(channel, late, 5)
    equal([(method.routing_key, int(body)) for method, _, body in got],
          [("key.4", 4), ("key.5", 5), ("key.6", 6), ("key.7", 7), ("tx", 8)])
    equal([(properties.headers, properties.expiration) for _, properties, _ in got[:4]],
          [({"n": number}, "600000") for number in range(4, 8)])
    channel.basic_publish(exchange, "", b"9")
    equal(recent(channel, late, 1), [9])
    equal(recent(channel, bound(channel, exchange, "x"), 5), [5, 6, 7, 8, 9])
    # Its other keys are known as well.
    blind = bound(channel, target, "blind")
    channel.exchange_bind(target, exchange)
    equal(recent(channel, blind, 3), [5, 6, 7])
    refused(lambda: channel.exchange_declare(exchange, "x-recent-history", durable=True, auto_delete=True))
    # One that is deleted, or goes by itself, leaves nothing to another of its name.
    connect(t, server.address).exchange_delete(exchange)
    for _ in range(3):
        channel = connect(t, server.address)
        channel.exchange_declare(exchange, "x-recent-history", durable=True, auto_delete=True)
        own = bound(channel, exchange, "")
        equal(count(channel, own), 0)
        channel.basic_publish(exchange, "", b"10")
        equal(recent(channel, own, 1), [10])
        channel.connection.close()


if __name__ == "__main__":
    suite.run()
