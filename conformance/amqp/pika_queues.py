"""pika drives what queues are declared with: limits, dead letters, delivery limits, time-outs, priorities of consumers."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import pika  # noqa: E402
from harness import suite  # noqa: E402
from harness.server import OwnServer  # noqa: E402
from harness.suite import case, equal  # noqa: E402
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError  # noqa: E402

#: Seconds that anything may take.
PATIENCE = 20


def connect(t, **options):
    """A connection that ends with the case."""
    connection = pika.BlockingConnection(pika.ConnectionParameters(t.host, t.port, **options))

    def close():
        if connection.is_open:
            connection.close()

    t.defer(close)
    return connection


def queue_of(t, channel, arguments=None, durable=True, name=None, **options):
    """A queue with a name of its own, deleted at the end by another connection."""
    name = name or t.unique()
    channel.queue_declare(name, durable=durable, arguments=arguments, **options)

    def delete():
        connection = pika.BlockingConnection(pika.ConnectionParameters(t.host, t.port))
        connection.channel().queue_delete(name)
        connection.close()

    t.defer(delete)
    return name


def exchange_of(t, channel, kind="direct"):
    """An exchange with a name of its own."""
    name = t.unique()
    channel.exchange_declare(name, kind, durable=True)

    def delete():
        connection = pika.BlockingConnection(pika.ConnectionParameters(t.host, t.port))
        connection.channel().exchange_delete(name)
        connection.close()

    t.defer(delete)
    return name


def fetch(channel, queue, seconds=PATIENCE):
    """The next message: method, properties, body; acknowledged. `None` when none comes."""
    until = time.monotonic() + seconds
    while True:
        method, properties, data = channel.basic_get(queue)
        if method is not None:
            channel.basic_ack(method.delivery_tag)
            return method, properties, data
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def drain(channel, queue):
    """The bodies of all that is ready."""
    got = []
    while (found := fetch(channel, queue, 0)) is not None:
        got.append(found[2])
    return got


def ready(channel, queue, count):
    """Waits until so many messages are ready."""
    until = time.monotonic() + PATIENCE
    while (have := channel.queue_declare(queue, passive=True).method.message_count) != count:
        if time.monotonic() > until:
            raise AssertionError(f"{have} messages are ready instead of {count}")
        time.sleep(0.01)


def refused(code, call, *words):
    """The call ends its channel with this code, and these words in the text."""
    try:
        call()
    except ChannelClosedByBroker as error:
        equal(error.reply_code, code)
        for word in words:
            if word not in error.reply_text:
                raise AssertionError(f"{word!r} is not in {error.reply_text!r}")
    else:
        raise AssertionError("not refused")


def deaths(properties):
    """Queue, reason and count of each entry of the history."""
    return [(death["queue"], death["reason"], death["count"]) for death in properties.headers["x-death"]]


def letters_of(t, channel, **more):
    """A queue whose dead letters go to another one: both names, and the exchange between them."""
    exchange = exchange_of(t, channel, "fanout")
    grave = queue_of(t, channel)
    channel.queue_bind(grave, exchange, "")
    source = queue_of(t, channel, {"x-dead-letter-exchange": exchange, **more})
    return source, grave, exchange


def publish(channel, queue, *data, **properties):
    """Confirmed messages."""
    channel.confirm_delivery()
    for body in data:
        channel.basic_publish("", queue, body, pika.BasicProperties(**properties))


# Limits


@case("x-max-length")
def the_oldest_make_room(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, {"x-max-length": 3})
    publish(channel, queue, b"1", b"2", b"3", b"4", b"5")
    equal(drain(channel, queue), [b"3", b"4", b"5"])


@case("x-max-length-bytes")
def bytes_are_bounded(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, {"x-max-length-bytes": 1000})
    publish(channel, queue, b"a" * 400, b"b" * 400, b"c" * 400)
    equal([body[:1] for body in drain(channel, queue)], [b"b", b"c"])
    publish(channel, queue, b"d" * 2000)
    equal(drain(channel, queue), [])


@case("x-max-length")
def only_what_is_ready_counts(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, {"x-max-length": 2})
    publish(channel, queue, b"1", b"2")
    held = [channel.basic_get(queue)[0] for _ in range(2)]
    publish(channel, queue, b"3", b"4")
    ready(channel, queue, 2)
    for method in held:
        channel.basic_nack(method.delivery_tag, requeue=True)
    # What came back is older than what came meanwhile.
    equal(drain(channel, queue), [b"3", b"4"])


@case("x-max-length")
def a_queue_of_no_length_serves_those_who_wait(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, {"x-max-length": 0})
    publish(channel, queue, b"nobody waits")
    equal(drain(channel, queue), [])
    got = []
    channel.basic_consume(queue, lambda _c, _m, _p, data: got.append(data), auto_ack=True)
    publish(connect(t).channel(), queue, b"somebody does")
    channel.connection.process_data_events(time_limit=1)
    equal(got, [b"somebody does"])


@case("x-overflow")
def a_full_queue_refuses_and_the_others_take_it(t):
    channel = connect(t).channel()
    exchange = exchange_of(t, channel, "fanout")
    full = queue_of(t, channel, {"x-max-length": 1, "x-overflow": "reject-publish"})
    other = queue_of(t, channel)
    for queue in (full, other):
        channel.queue_bind(queue, exchange, "")
    channel.confirm_delivery()
    channel.basic_publish(exchange, "", b"1")
    try:
        channel.basic_publish(exchange, "", b"2")
    except NackError:
        pass
    else:
        raise AssertionError("a full queue has taken a message")
    equal(drain(channel, full), [b"1"])
    equal(drain(channel, other), [b"1", b"2"])
    channel.basic_publish(exchange, "", b"3")
    equal(drain(channel, full), [b"3"])


@case("x-overflow x-max-priority")
def the_least_urgent_make_room(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, {"x-max-length": 2, "x-max-priority": 5})
    publish(channel, queue, b"low", priority=1)
    publish(channel, queue, b"high", priority=5)
    publish(channel, queue, b"middle", priority=3)
    publish(channel, queue, b"lowest", priority=0)
    equal(drain(channel, queue), [b"high", b"middle"])


# Dead letters


@case("x-death rejected")
def a_rejected_message_goes_through_its_exchange(t):
    channel = connect(t).channel()
    source, grave, exchange = letters_of(t, channel)
    channel.confirm_delivery()
    properties = pika.BasicProperties(headers={"n": 5}, delivery_mode=2, correlation_id="c")
    channel.basic_publish("", source, b"bad", properties)
    method, _, _ = channel.basic_get(source)
    channel.basic_reject(method.delivery_tag, requeue=False)
    method, properties, data = fetch(channel, grave)
    equal((method.exchange, method.routing_key, data), (exchange, source, b"bad"))
    equal((properties.correlation_id, properties.headers["n"]), ("c", 5))
    death = properties.headers["x-death"][0]
    equal(deaths(properties), [(source, "rejected", 1)])
    equal((death["exchange"], death["routing-keys"]), ("", [source]))
    for which in ("first", "last"):
        said = [properties.headers[f"x-{which}-death-{what}"] for what in ("reason", "queue", "exchange")]
        equal(said, ["rejected", source, ""])


@case("x-death expired")
def an_expired_message_loses_its_expiration(t):
    channel = connect(t).channel()
    source, grave, _ = letters_of(t, channel)
    publish(channel, source, b"late", expiration="30")
    _, properties, data = fetch(channel, grave)
    equal((data, properties.expiration), (b"late", None))
    equal(properties.headers["x-death"][0]["original-expiration"], "30")
    equal(deaths(properties), [(source, "expired", 1)])


@case("x-death x-message-ttl")
def messages_of_a_queue_expire_too(t):
    channel = connect(t).channel()
    source, grave, _ = letters_of(t, channel, **{"x-message-ttl": 30})
    publish(channel, source, b"1", b"2", b"3")
    equal([fetch(channel, grave)[2] for _ in range(3)], [b"1", b"2", b"3"])
    equal(drain(channel, source), [])


@case("x-death maxlen")
def what_a_limit_pushes_out_is_a_dead_letter(t):
    channel = connect(t).channel()
    source, grave, _ = letters_of(t, channel, **{"x-max-length": 1})
    publish(channel, source, b"1", b"2", b"3")
    found = [fetch(channel, grave) for _ in range(2)]
    equal([data for _, _, data in found], [b"1", b"2"])
    equal(deaths(found[0][1]), [(source, "maxlen", 1)])
    equal(drain(channel, source), [b"3"])


@case("x-max-length requeue")
def what_comes_back_at_once_makes_room_before_it_is_delivered(t):
    channel = connect(t).channel()
    source, grave, _ = letters_of(t, channel, **{"x-max-length": 3})
    sent = [b"1", b"2", b"3", b"4", b"5"]

    def holding():
        holder, got = consumer_of(t, source)
        publish(channel, source, *sent)
        until_true(lambda: len(got) == 5, holder)
        return holder, got

    def came_back(consumer, got):
        until_true(lambda: len(got) == 3, consumer)
        serve(0.2, consumer)
        equal([(data, method.redelivered) for method, data in got], [(data, True) for data in sent[2:]])
        letters = [fetch(channel, grave) for _ in range(2)]
        equal([data for _, _, data in letters], sent[:2])
        equal(deaths(letters[0][1]), [(source, "maxlen", 1)])
        consumer.basic_ack(0, multiple=True)
        consumer.connection.close()

    for give_back in (
        lambda holder: holder.basic_recover(requeue=True),
        lambda holder: holder.basic_nack(0, multiple=True, requeue=True),
    ):
        holder, got = holding()
        got.clear()
        give_back(holder)
        came_back(holder, got)
    holder, _ = holding()
    waiting, got = consumer_of(t, source)
    holder.close()
    came_back(waiting, got)


@case("x-max-length-bytes requeue")
def what_does_not_fit_is_not_delivered_again(t):
    channel = connect(t).channel()
    source, grave, _ = letters_of(t, channel, **{"x-max-length-bytes": 50})
    consumer, got = consumer_of(t, source)
    publish(channel, source, b"x" * 100)
    until_true(lambda: len(got) == 1, consumer)
    consumer.basic_nack(got[0][0].delivery_tag, requeue=True)
    consumer.queue_declare(source, passive=True)
    _, properties, data = fetch(channel, grave)
    equal((data, deaths(properties)), (b"x" * 100, [(source, "maxlen", 1)]))
    serve(0.1, consumer)
    equal(len(got), 1)


@case("x-overflow reject-publish-dlx")
def what_is_refused_can_be_a_dead_letter(t):
    channel = connect(t).channel()
    limits = {"x-max-length": 1, "x-overflow": "reject-publish-dlx"}
    source, grave, _ = letters_of(t, channel, **limits)
    publish(channel, source, b"1")
    try:
        publish(channel, source, b"2")
    except NackError:
        pass
    else:
        raise AssertionError("a full queue has taken a message")
    _, properties, data = fetch(channel, grave)
    equal((data, deaths(properties)), (b"2", [(source, "maxlen", 1)]))
    equal(drain(channel, source), [b"1"])


@case("x-dead-letter-routing-key")
def a_key_of_its_own_leads_a_dead_letter(t):
    channel = connect(t).channel()
    exchange = exchange_of(t, channel, "direct")
    graves = {key: queue_of(t, channel) for key in ("own", "other")}
    for key, queue in graves.items():
        channel.queue_bind(queue, exchange, key)
    source = queue_of(
        t, channel, {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "own", "x-message-ttl": 1}
    )
    publish(channel, source, b"x", headers={"CC": ["other"]})
    method, properties, _ = fetch(channel, graves["own"])
    equal((method.routing_key, "CC" in properties.headers), ("own", False))
    equal(properties.headers["x-death"][0]["routing-keys"], [source, "other"])
    equal(drain(channel, graves["other"]), [])


@case("x-dead-letter-exchange")
def an_exchange_that_is_not_there_drops_letters(t):
    channel = connect(t).channel()
    source = queue_of(t, channel, {"x-dead-letter-exchange": t.unique()})
    publish(channel, source, b"x")
    method, _, _ = channel.basic_get(source)
    channel.basic_nack(method.delivery_tag, requeue=False)
    ready(channel, source, 0)
    refused(
        406,
        lambda: channel.queue_declare(t.unique(), arguments={"x-dead-letter-routing-key": "alone"}),
        "routing_key_but_no_dlx_defined",
    )


@case("x-dead-letter-exchange x-overflow")
def a_full_grave_takes_no_letters_and_holds_up_nobody(t):
    channel = connect(t).channel()
    source, grave, exchange = letters_of(t, channel)
    full = queue_of(t, channel, {"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.queue_bind(full, exchange, "")
    publish(channel, full, b"there")
    publish(channel, source, b"1", b"2", b"3")
    for _ in range(3):
        method, _, _ = channel.basic_get(source)
        channel.basic_reject(method.delivery_tag, requeue=False)
    equal([fetch(channel, grave)[2] for _ in range(3)], [b"1", b"2", b"3"])
    ready(channel, source, 0)
    equal(drain(channel, full), [b"there"])


@case("x-death cycles")
def a_loop_of_retries_goes_on_and_a_circle_of_expiry_ends(t):
    channel = connect(t).channel()
    wait, work = t.unique(), t.unique()
    queue_of(t, channel, {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": work, "x-message-ttl": 20}, name=wait)
    queue_of(t, channel, {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": wait}, name=work)
    publish(channel, work, b"again")
    for turn in range(1, 5):
        until = time.monotonic() + PATIENCE
        while (found := channel.basic_get(work))[0] is None and time.monotonic() < until:
            time.sleep(0.01)
        method, properties, _ = found
        if turn > 1:
            expected = [(wait, "expired", turn - 1), (work, "rejected", turn - 1)]
            equal(deaths(properties), expected)
        channel.basic_reject(method.delivery_tag, requeue=False)
    # A queue that sends what expires to itself.
    circle = t.unique()
    queue_of(t, channel, {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": circle, "x-message-ttl": 20}, name=circle)
    publish(channel, circle, b"round")
    ready(channel, circle, 0)


@case("x-death chains")
def a_chain_of_queues_is_gone_through(t):
    channel = connect(t).channel()
    last = queue_of(t, channel)
    following = last
    names = []
    for _ in range(6):
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": following, "x-message-ttl": 5}
        following = queue_of(t, channel, arguments)
        names.append(following)
    publish(channel, following, b"far")
    _, properties, _ = fetch(channel, last)
    equal(deaths(properties), [(name, "expired", 1) for name in names])


# Deliveries that fail


def take(channel, queue):
    """The next message, unsettled."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        method, properties, data = channel.basic_get(queue)
        if method is not None:
            return method, properties, data
        time.sleep(0.01)
    raise AssertionError("no message comes")


def count_of(properties):
    """The count of failed deliveries, if there is one."""
    return (properties.headers or {}).get("x-delivery-count")


@case("x-delivery-limit x-delivery-count")
def what_fails_too_often_is_a_dead_letter(t):
    channel = connect(t).channel()
    source, grave, _ = letters_of(t, channel, **{"x-delivery-limit": 2})
    publish(channel, source, b"poison")
    counts = []
    for _ in range(3):
        method, properties, _ = take(channel, source)
        counts.append(count_of(properties))
        channel.basic_reject(method.delivery_tag, requeue=True)
    equal(counts, [None, 1, 2])
    _, properties, _ = fetch(channel, grave)
    equal(deaths(properties), [(source, "delivery_limit", 1)])


@case("x-delivery-limit")
def a_nack_is_no_failure_and_a_lost_connection_is(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, {"x-queue-type": "quorum", "x-delivery-limit": 2})
    publish(channel, queue, b"x")
    for _ in range(5):
        method, properties, _ = take(channel, queue)
        equal(count_of(properties), None)
        channel.basic_nack(method.delivery_tag, requeue=True)
    for turn in (None, 1, 2):
        connection = connect(t)
        other = connection.channel()
        _, properties, _ = take(other, queue)
        equal(count_of(properties), turn)
        connection.close()
    ready(channel, queue, 0)


@case("x-queue-type")
def quorum_queues_are_durable_and_for_all(t):
    quorum = {"x-queue-type": "quorum"}
    for options in ({"durable": False}, {"durable": True, "exclusive": True}, {"durable": True, "auto_delete": True}):
        channel = connect(t).channel()
        refused(406, lambda: channel.queue_declare(t.unique(), arguments=quorum, **options), "invalid property")
    channel = connect(t).channel()
    queue = queue_of(t, channel, {**quorum, "x-quorum-initial-group-size": 3, "x-max-in-memory-length": 0})
    publish(channel, queue, b"low", priority=1)
    publish(channel, queue, b"high", priority=9)
    equal(drain(channel, queue), [b"high", b"low"])
    # Nobody has it for itself, whatever is said.
    for _ in range(2):
        consumer_of(t, queue, exclusive=True)
    equal(channel.queue_declare(queue, passive=True).method.consumer_count, 2)
    refused(406, lambda: channel.queue_declare(queue, durable=True), "inequivalent arg 'x-queue-type'")


@case("x-queue-mode x-queue-version")
def arguments_without_effect_are_checked(t):
    channel = connect(t).channel()
    queue_of(t, channel, {"x-queue-mode": "lazy", "x-queue-version": 2, "x-queue-master-locator": "min-masters"})
    refused(406, lambda: channel.queue_declare(t.unique(), arguments={"x-queue-mode": "odd"}), "x-queue-mode")


@case("x-delayed-retry")
def what_fails_is_tried_again_later_and_later(t):
    channel = connect(t).channel()
    arguments = {
        "x-delayed-retry-type": "failed", "x-delayed-retry-min": 100, "x-delayed-retry-max": 10000,
        "x-delayed-retry-multiplier": 3,
    }  # fmt: skip
    queue = queue_of(t, channel, arguments)
    publish(channel, queue, b"x")
    method, _, _ = take(channel, queue)
    waits = []
    for _ in range(3):
        # From before it is rejected: it cannot come sooner than this, however late we are.
        began = time.monotonic()
        channel.basic_reject(method.delivery_tag, requeue=True)
        method, _, _ = take(channel, queue)
        waits.append(time.monotonic() - began)
    # The server's clock counts milliseconds: one that has begun is counted as a whole one.
    if not all(waited > least - 0.001 for waited, least in zip(waits, (0.1, 0.3, 0.9))):
        raise AssertionError(f"waited {waits}")
    channel.basic_ack(method.delivery_tag)
    queue = queue_of(t, channel, {**arguments, "x-delayed-retry-min": 3_600_000, "x-delayed-retry-max": 3_600_000})
    publish(channel, queue, b"x")
    method, _, _ = take(channel, queue)
    channel.basic_nack(method.delivery_tag, requeue=True)
    # What did not fail need not wait.
    method, _, _ = take(channel, queue)
    channel.basic_ack(method.delivery_tag)


# Consumers


def consumer_of(t, queue, arguments=None, **options):
    """A consumer on a connection of its own: the connection, and what it gets."""
    channel = connect(t).channel()
    if "prefetch" in options:
        channel.basic_qos(prefetch_count=options.pop("prefetch"))
    got = []
    channel.basic_consume(queue, lambda _c, m, _p, data: got.append((m, data)), arguments=arguments, **options)
    return channel, got


def serve(seconds, *channels):
    """Lets connections see what came."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for channel in channels:
            channel.connection.process_data_events(time_limit=0.02)


def until_true(what, *channels):
    """The same until something is so."""
    until = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > until:
            raise AssertionError("it does not come to that")
        serve(0.02, *channels)


@case("x-single-active-consumer")
def one_consumer_at_a_time(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, {"x-single-active-consumer": True})
    # Whoever consumes first, not whoever has opened a channel first.
    later = connect(t).channel()
    first, got_first = consumer_of(t, queue, prefetch=2)
    got_later = []
    later.basic_consume(queue, lambda _c, m, _p, data: got_later.append((m, data)))
    publish(channel, queue, b"1", b"2", b"3")
    until_true(lambda: len(got_first) == 2, first, later)
    serve(0.2, first, later)
    equal([data for _, data in got_first], [b"1", b"2"])
    equal(got_later, [])
    refused(405, lambda: connect(t).channel().basic_get(queue))
    other = connect(t).channel()
    refused(403, lambda: other.basic_consume(queue, lambda *_: None, exclusive=True), "in exclusive use")
    first.connection.close()
    until_true(lambda: len(got_later) == 3, later)
    equal(sorted(data for _, data in got_later), [b"1", b"2", b"3"])


@case("x-single-active-consumer cancel")
def who_is_cancelled_makes_room_for_the_next_and_settles_what_it_has(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, {"x-single-active-consumer": True})
    first, got_first = consumer_of(t, queue, prefetch=2, consumer_tag="first")
    second, got_second = consumer_of(t, queue, prefetch=1)
    third, got_third = consumer_of(t, queue)
    publish(channel, queue, b"1", b"2", b"3", b"4")
    until_true(lambda: len(got_first) == 2, first, second, third)
    first.basic_cancel("first")
    until_true(lambda: len(got_second) == 1, second, third)
    # Those two are still the first one's.
    equal([data for _, data in got_second], [b"3"])
    first.basic_ack(got_first[0][0].delivery_tag)
    first.basic_nack(got_first[1][0].delivery_tag, requeue=True)
    # Whatever has an answer: when it is there, both are done.
    first.queue_declare(queue, passive=True)
    second.basic_ack(got_second[0][0].delivery_tag)
    until_true(lambda: len(got_second) == 2, second, third)
    equal((got_second[1][1], got_second[1][0].redelivered), (b"2", True))
    serve(0.2, third)
    equal(got_third, [])
    # One that goes back behind it in the line does not come between.
    first.basic_consume(queue, lambda *_: None)
    # pika cancels first: what it had comes behind what was ready.
    second.connection.close()
    until_true(lambda: len(got_third) == 2, third)
    equal(sorted(data for _, data in got_third), [b"2", b"4"])


@case("restart", "last")
def what_is_durable_outlives_the_server_with_what_was_counted(t):
    server = OwnServer(t)

    def own():
        connection = pika.BlockingConnection(pika.ConnectionParameters(*server.address))

        def close():
            try:
                connection.close()
            except AMQPError:
                # Its server has ended.
                pass

        t.defer(close)
        return connection.channel()

    channel = own()
    kept, lost, limited, exclusive = (t.unique() for _ in range(4))
    channel.queue_declare(kept, durable=True)
    channel.queue_declare(lost)
    channel.queue_declare(exclusive, durable=True, exclusive=True)
    channel.queue_declare(limited, durable=True, arguments={"x-delivery-limit": 3})
    channel.exchange_declare("kept", "topic", durable=True)
    channel.exchange_declare("lost", "topic")
    channel.queue_bind(kept, "kept", "a.#")
    channel.queue_bind(lost, "kept", "a.#")
    for queue in (lost, limited, exclusive):
        publish(channel, queue, b"x", delivery_mode=2)
    channel.basic_publish("kept", "a.b", b"first", pika.BasicProperties(delivery_mode=2))
    channel.basic_publish("kept", "a.b", b"second", pika.BasicProperties(delivery_mode=2))
    method, _, _ = take(channel, kept)
    failed, _, _ = take(channel, limited)
    channel.basic_reject(failed.delivery_tag, requeue=True)
    method, _, _ = take(channel, limited)
    channel.basic_ack(method.delivery_tag)
    publish(channel, limited, b"y", delivery_mode=2)
    failed, _, _ = take(channel, limited)
    channel.basic_reject(failed.delivery_tag, requeue=True)
    channel.queue_declare(limited, passive=True)
    # That something was delivered is noted, but nobody waits for that to be on the disk.
    server._process.terminate()
    server._process.wait(30)
    server.run()
    channel = own()
    got = [take(channel, kept) for _ in range(2)]
    equal([(data, method.redelivered) for method, _, data in got], [(b"first", True), (b"second", False)])
    method, properties, data = take(channel, limited)
    equal((data, method.redelivered, count_of(properties)), (b"y", True, 1))
    for queue in (lost, exclusive):
        missing = own()
        refused(404, lambda: missing.queue_declare(queue, passive=True))
    missing = own()
    refused(404, lambda: missing.exchange_declare("lost", passive=True))
    publish(channel, kept, b"third")
    channel.basic_publish("kept", "a", b"fourth", mandatory=True)


@case("qos_updates_existing")
def a_prefetch_count_is_for_those_who_are_there_if_the_server_is_told_so(t):
    def got_with(address):
        connection = pika.BlockingConnection(pika.ConnectionParameters(*address))
        t.defer(connection.close)
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        got = []
        channel.basic_qos(prefetch_count=2)
        channel.basic_consume(queue, lambda _c, m, _p, data: got.append(m.delivery_tag))
        publish(channel, queue, *[b"%d" % n for n in range(8)])
        until_true(lambda: len(got) == 2, channel)
        channel.basic_qos(prefetch_count=4)
        serve(0.5, channel)
        return channel, got

    _, got = got_with((t.host, t.port))
    equal(got, [1, 2], "it has begun with two")
    own = OwnServer(t, "--set", "amqp.qos_updates_existing=true")
    channel, got = got_with(own.address)
    equal(got, [1, 2, 3, 4])
    channel.basic_qos(prefetch_count=1)
    channel.basic_ack(3, multiple=True)
    serve(0.5, channel)
    equal(got, [1, 2, 3, 4], "it holds one")
    channel.basic_ack(4)
    until_true(lambda: len(got) == 5, channel)
    serve(0.3, channel)
    equal(got, [1, 2, 3, 4, 5])


@case("x-priority")
def the_more_urgent_consumer_is_served_while_it_has_room(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel)
    low, got_low = consumer_of(t, queue, {"x-priority": -3}, prefetch=10)
    high, got_high = consumer_of(t, queue, {"x-priority": 5}, prefetch=2)
    publish(channel, queue, *[b"%d" % n for n in range(5)])
    until_true(lambda: len(got_low) + len(got_high) == 5, low, high)
    equal(([data for _, data in got_high], [data for _, data in got_low]), ([b"0", b"1"], [b"2", b"3", b"4"]))
    high.basic_ack(got_high[-1][0].delivery_tag, multiple=True)
    serve(0.1, high)
    publish(channel, queue, b"5")
    until_true(lambda: len(got_high) == 3, low, high)
    wrong = connect(t).channel()
    refused(406, lambda: wrong.basic_consume(queue, lambda *_: None, arguments={"x-priority": "high"}), "x-priority")


@case("basic.qos global")
def consumers_of_a_channel_share_a_prefetch_count(t):
    admin = connect(t).channel()
    queues = [queue_of(t, admin) for _ in range(4)]
    channel = connect(t).channel()
    channel.basic_qos(prefetch_count=3, global_qos=True)
    got = []
    for queue in queues:
        channel.basic_consume(queue, lambda _c, m, _p, data: got.append((m, data)))
    for queue in queues:
        publish(admin, queue, *[b"%d" % n for n in range(5)])
    until_true(lambda: len(got) == 3, channel)
    serve(0.3, channel)
    equal(len(got), 3)
    channel.basic_ack(got[0][0].delivery_tag)
    until_true(lambda: len(got) == 4, channel)
    serve(0.2, channel)
    equal(len(got), 4)
    # A higher count goes on, a lower one takes nothing back.
    channel.basic_qos(prefetch_count=6, global_qos=True)
    until_true(lambda: len(got) == 7, channel)
    serve(0.2, channel)
    equal(len(got), 7)
    channel.basic_qos(prefetch_count=1, global_qos=True)
    settled = 1
    while len(got) < 20:
        for method, _ in got[settled:]:
            channel.basic_ack(method.delivery_tag)
            settled += 1
        serve(0.02, channel)
    equal(sorted(data for _, data in got), sorted([b"%d" % n for n in range(5)] * 4))


@case("basic.qos")
def both_counts_bound(t):
    admin = connect(t).channel()
    queue = queue_of(t, admin)
    channel = connect(t).channel()
    channel.basic_qos(prefetch_count=2)
    channel.basic_qos(prefetch_count=10, global_qos=True)
    got = []
    channel.basic_consume(queue, lambda _c, m, _p, data: got.append((m, data)))
    publish(admin, queue, *[b"%d" % n for n in range(5)])
    serve(0.3, channel)
    equal(len(got), 2)


# Time


@case("x-expires", "waits")
def a_queue_that_nobody_uses_goes(t):
    channel = connect(t).channel()
    queue = t.unique()
    channel.queue_declare(queue, arguments={"x-expires": 5000})
    time.sleep(2.7)
    channel.basic_get(queue)
    time.sleep(2.7)
    channel.queue_declare(queue, arguments={"x-expires": 5000})
    tag = channel.basic_consume(queue, lambda *_: None)
    serve(6, channel)
    channel.basic_cancel(tag)
    channel.basic_publish("", queue, b"no use")
    equal(channel.queue_declare(queue, passive=True).method.message_count, 1)
    time.sleep(7)
    refused(404, lambda: channel.queue_declare(queue, passive=True))


@case("x-consumer-timeout", "waits")
def a_consumer_that_holds_too_long_is_cancelled_alone(t):
    admin = connect(t).channel()
    queue = queue_of(t, admin, {"x-consumer-timeout": 4000})
    patient = queue_of(t, admin)
    channel = connect(t).channel()
    got, kept, cancelled = [], [], []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    tag = channel.basic_consume(queue, lambda _c, m, _p, data: got.append((m, data)))
    channel.basic_consume(patient, lambda _c, m, _p, data: kept.append((m, data)))
    publish(admin, queue, b"slow")
    publish(admin, patient, b"fine")
    until_true(lambda: got and kept, channel)
    equal(cancelled, [])
    until_true(lambda: cancelled, channel)
    equal(cancelled, [tag])
    method, _, data = take(admin, queue)
    equal((data, method.redelivered), (b"slow", True))
    admin.basic_ack(method.delivery_tag)
    # Too late, and no harm.
    channel.basic_ack(got[0][0].delivery_tag)
    channel.basic_ack(kept[0][0].delivery_tag)
    serve(0.1, channel)
    equal(channel.is_open, True)
    ready(admin, patient, 0)


@case("x-consumer-timeout", "waits")
def a_consumer_can_say_how_long_it_takes(t):
    admin = connect(t).channel()
    queue = queue_of(t, admin)
    channel, got = consumer_of(t, queue, {"x-consumer-timeout": 300})
    publish(admin, queue, b"x")
    until_true(lambda: got, channel)
    ready(admin, queue, 1)


@case("x-message-ttl", "waits")
def what_comes_back_after_its_time_is_not_delivered_again(t):
    channel = connect(t).channel()
    source, grave, _ = letters_of(t, channel, **{"x-message-ttl": 4000})
    publish(channel, source, b"x")
    method, _, _ = take(channel, source)
    time.sleep(4.5)
    channel.basic_nack(method.delivery_tag, requeue=True)
    equal(channel.basic_get(source)[0], None)
    _, properties, _ = fetch(channel, grave)
    equal(deaths(properties), [(source, "expired", 1)])


@case("x-message-ttl")
def no_time_to_live_serves_those_who_wait(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, {"x-message-ttl": 0})
    publish(channel, queue, b"nobody waits")
    equal(channel.basic_get(queue)[0], None)
    consumer, got = consumer_of(t, queue, auto_ack=True)
    publish(channel, queue, b"somebody does")
    until_true(lambda: got, consumer)
    equal([data for _, data in got], [b"somebody does"])


if __name__ == "__main__":
    suite.run()
