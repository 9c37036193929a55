"""pika drives stream queues: where consumers begin, credit, filters, what is refused, retention, the end of the server.

The texts of errors are RabbitMQ 3.10's: with `--flavour rabbitmq` the same cases run against one.
"""

import base64
import datetime
import decimal
import json
import pathlib
import sys
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import pika  # noqa: E402
from harness import suite  # noqa: E402
from harness.server import OwnServer  # noqa: E402
from harness.suite import add, case, equal, eventually  # noqa: E402
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker, NackError  # noqa: E402

#: Seconds that anything may take.
PATIENCE = 20

#: Seconds after which nothing more is expected to come.
QUIET = 0.3


def connect(t, address=None):
    """A channel whose connection ends with the case; confirms are on."""
    host, port = address or (t.host, t.port)
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))

    def close():
        try:
            if connection.is_open:
                connection.close()
        except AMQPError:
            # Its server was ended.
            pass

    t.defer(close)
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def stream_of(t, channel, name=None, **arguments):
    """A stream with a name of its own, deleted at the end by another connection."""
    name = name or t.unique()
    keys = {key.replace("_", "-"): value for key, value in arguments.items()}
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream", **keys})

    def delete():
        connection = pika.BlockingConnection(pika.ConnectionParameters(t.host, t.port))
        connection.channel().queue_delete(name)
        connection.close()

    t.defer(delete)
    return name


def publish(channel, stream, messages, **properties):
    for message in messages:
        channel.basic_publish("", stream, str(message), pika.BasicProperties(**properties))


class Consumer:
    """A consumer with a channel of its own: what it got, and the offsets."""

    def __init__(self, t, stream, prefetch=100, ack=True, address=None, tag="", **arguments):
        self.channel = connect(t, address)
        self.channel.basic_qos(prefetch_count=prefetch)
        self.got, self.cancelled, self._ack = [], [], ack
        self.channel.add_on_cancel_callback(lambda method: self.cancelled.append(method.method.consumer_tag))
        keys = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.tag = self.channel.basic_consume(stream, self._take, arguments=keys, consumer_tag=tag or None)

    def _take(self, channel, method, properties, body):
        self.got.append((method, properties, body))
        if self._ack:
            channel.basic_ack(method.delivery_tag)

    def wait(self, count, patience=PATIENCE):
        """Waits for so many messages in all, and a little whether more come; their bodies."""
        until = time.monotonic() + patience
        while len(self.got) < count and time.monotonic() < until:
            self.channel.connection.process_data_events(0.05)
        quiet = time.monotonic() + QUIET
        while time.monotonic() < quiet:
            self.channel.connection.process_data_events(0.05)
        equal(len(self.got), count, "messages")
        return [body.decode() for _, _, body in self.got]

    def offsets(self):
        return [properties.headers["x-stream-offset"] for _, properties, _ in self.got]


def refused(code, call, *arguments, **options):
    """The call ends channel or connection with this code; yields the text."""
    try:
        call(*arguments, **options)
    except (ChannelClosedByBroker, ConnectionClosedByBroker) as error:
        equal(error.reply_code, code)
        equal(isinstance(error, ConnectionClosedByBroker), code == 540, "whether the connection ends")
        return error.reply_text
    raise AssertionError(f"expected {code}")


@case("stream consume", "alone", ("rabbitmq", "3.10 does not count messages and consumers"))
def what_was_read_stays_and_everybody_reads_it(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    publish(channel, stream, range(50), message_id="m", headers={"x-stream-offset": 99, "own": 7})
    first = Consumer(t, stream, x_stream_offset="first")
    second = Consumer(t, stream, prefetch=1, x_stream_offset="first")
    expected = [str(number) for number in range(50)]
    equal(first.wait(50), expected)
    equal(second.wait(50), expected)
    equal(first.offsets(), list(range(50)))
    method, properties, _ = second.got[7]
    equal((method.redelivered, method.exchange, method.routing_key), (False, "", stream))
    equal(properties.headers, {"own": 7, "x-stream-offset": 7})
    equal(properties.message_id, "m")
    publish(channel, stream, ["more"])
    equal(first.wait(51)[-1], "more")
    equal(second.wait(51)[-1], "more")
    answer = channel.queue_declare(stream, passive=True).method
    equal((answer.message_count, answer.consumer_count), (51, 2))


def begins(name, offset, expected, *differs):
    """A row: which of ten messages a consumer with this offset gets."""

    def run(t):
        channel = connect(t)
        stream = stream_of(t, channel)
        publish(channel, stream, range(10))
        arguments = {} if offset is None else {"x_stream_offset": offset() if callable(offset) else offset}
        consumer = Consumer(t, stream, **arguments)
        consumer.wait(len(expected))
        publish(channel, stream, ["later"])
        equal(consumer.wait(len(expected) + 1), [str(number) for number in expected] + ["later"])
        equal(consumer.offsets(), [*expected, 10])

    add(f"a_consumer_begins_at_{name}", run, "x-stream-offset", "alone", *differs)


ALL = list(range(10))
begins("the_first", "first", ALL)
begins("the_last", "last", [9])
begins("the_next", "next", [])
begins("the_next_if_it_says_nothing", None, [])
begins("an_offset", 4, [4, 5, 6, 7, 8, 9])
begins("offset_0", 0, ALL)
begins("the_end", 10, [])
begins("the_last_three", -3, [7, 8, 9], ("rabbitmq", "these are LavinMQ's"))
begins("an_interval_ago", "1h", ALL)
begins("a_year_ago", "1Y", ALL)
begins("a_time_long_ago", lambda: datetime.datetime(2020, 1, 1), ALL)
begins("a_time_to_come", lambda: datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1), [])


@case("x-stream-offset timestamp")
def a_consumer_begins_at_a_moment(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    publish(channel, stream, range(20))
    # Timestamps are of whole seconds.
    time.sleep(1.1)
    moment = datetime.datetime.now(datetime.timezone.utc)
    time.sleep(1.1)
    publish(channel, stream, range(20, 30))
    consumer = Consumer(t, stream, x_stream_offset=moment)
    equal(consumer.wait(10)[0], "20")


@case("x-stream-offset beyond the end")
def an_offset_to_come_is_waited_for(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    consumer = Consumer(t, stream, x_stream_offset=5)
    publish(channel, stream, range(8))
    equal(consumer.wait(3), ["5", "6", "7"])


@case("stream credit", "alone", ("rabbitmq", "3.10 knows no basic.nack of a stream"))
def acknowledgements_are_credit(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    publish(channel, stream, range(20))
    consumer = Consumer(t, stream, prefetch=3, ack=False, x_stream_offset="first")
    consumer.wait(3)
    consumer.channel.basic_ack(2)
    consumer.wait(4)
    consumer.channel.basic_ack(4, multiple=True)
    consumer.wait(7)
    # Given back or refused: credit as well, and nothing comes again.
    consumer.channel.basic_nack(5, requeue=True)
    consumer.wait(8)
    consumer.channel.basic_reject(6, requeue=False)
    consumer.wait(9)
    consumer.channel.basic_recover(True)
    consumer.wait(12)
    equal(consumer.offsets(), list(range(12)))
    equal(any(method.redelivered for method, _, _ in consumer.got), False)


@case("stream cancel")
def a_cancelled_consumer_gets_nothing_more_and_begins_again(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    publish(channel, stream, range(5))
    consumer = Consumer(t, stream, prefetch=2, ack=False, tag="one", x_stream_offset="first")
    consumer.wait(2)
    consumer.channel.basic_cancel("one")
    consumer.channel.basic_ack(2, multiple=True)
    publish(channel, stream, ["more"])
    consumer.wait(2)
    equal(channel.queue_declare(stream, passive=True).method.consumer_count, 0)
    again = Consumer(t, stream, tag="one", x_stream_offset=2)
    equal(again.wait(4), ["2", "3", "4", "more"])


@case("stream delete")
def consumers_hear_that_their_stream_is_gone(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    publish(channel, stream, range(2))
    waits = Consumer(t, stream, x_stream_offset="first")
    full = Consumer(t, stream, prefetch=1, ack=False, x_stream_offset="first")
    waits.wait(2)
    full.wait(1)
    equal(channel.queue_delete(stream).method.message_count in (0, 2), True)
    for consumer in (waits, full):
        consumer.wait(len(consumer.got))
        equal(consumer.cancelled, [consumer.tag])
        equal(consumer.channel.is_open, True)


@case("stream next")
def nothing_is_missed_behind_consume_ok(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    halt = threading.Event()
    publisher = connect(t)

    def run():
        number = 0
        while not halt.is_set():
            publish(publisher, stream, [number])
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        consumers = [Consumer(t, stream, x_stream_offset="next") for _ in range(5)]
        until = time.monotonic() + PATIENCE
        for consumer in consumers:
            while len(consumer.got) < 50 and time.monotonic() < until:
                consumer.channel.connection.process_data_events(0.05)
    finally:
        halt.set()
        thread.join()
    for consumer in consumers:
        offsets = consumer.offsets()
        equal(offsets, list(range(offsets[0], offsets[0] + len(offsets))))
        equal(len(offsets) >= 50, True)


@case("x-stream-filter x-stream-match-unfiltered", "alone", ("rabbitmq", "3.10 has no filters"))
def consumers_choose_by_the_value_that_publishers_give(t):
    channel = connect(t)
    stream = stream_of(t, channel, x_stream_filter_size_bytes=32)
    for number in range(600):
        value = ("a", "b", None)[number % 3]
        headers = {} if value is None else {"x-stream-filter-value": value}
        publish(channel, stream, [number], headers=headers)
    one = Consumer(t, stream, prefetch=5, x_stream_offset="first", x_stream_filter="a")
    equal(one.wait(200), [str(number) for number in range(0, 600, 3)])
    equal(one.offsets(), list(range(0, 600, 3)))
    both = Consumer(t, stream, x_stream_offset="first", x_stream_filter=["a", "b", "c"])
    equal(both.wait(400)[:4], ["0", "1", "3", "4"])
    unfiltered = Consumer(
        t, stream, x_stream_offset=300, x_stream_filter="b", x_stream_match_unfiltered=True, prefetch=10
    )
    equal(unfiltered.wait(200)[:4], ["301", "302", "304", "305"])
    publish(channel, stream, ["a"], headers={"x-stream-filter-value": "a"})
    equal(one.wait(201)[-1], "a")
    unfiltered.wait(200)


@case("stream retention", "alone", ("rabbitmq", "it drops whole segments, and 3.10 does not count messages"))
def a_stream_keeps_so_many_bytes(t):
    channel = connect(t)
    stream = stream_of(t, channel, x_max_length_bytes=20_000, x_stream_max_segment_size_bytes=1_000)
    publish(channel, stream, [f"{number}".rjust(1_000) for number in range(60)])
    kept = channel.queue_declare(stream, passive=True).method.message_count
    equal(10 <= kept <= 20, True, f"{kept} of 60 messages are kept")
    consumer = Consumer(t, stream, x_stream_offset="first")
    consumer.wait(kept)
    equal(consumer.offsets(), list(range(60 - kept, 60)))
    early = Consumer(t, stream, x_stream_offset=3)
    early.wait(kept)
    equal(early.offsets()[0], 60 - kept)


@case("x-max-age", "alone", ("rabbitmq", "it drops whole segments, and 3.10 does not count messages"))
def a_stream_keeps_messages_so_long(t):
    channel = connect(t)
    stream = stream_of(t, channel, x_max_age="5s")
    publish(channel, stream, range(10))
    count = lambda: channel.queue_declare(stream, passive=True).method.message_count  # noqa: E731
    equal(count(), 10)
    until = time.monotonic() + PATIENCE
    while count() > 0 and time.monotonic() < until:
        time.sleep(0.1)
    equal(count(), 0)
    publish(channel, stream, ["new"])
    consumer = Consumer(t, stream, x_stream_offset="first")
    equal(consumer.wait(1), ["new"])
    equal(consumer.offsets(), [10])


@case("stream expiration priority")
def what_a_message_says_of_its_time_means_nothing(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    beside = channel.queue_declare("", exclusive=True).method.queue
    for queue in (stream, beside):
        channel.queue_bind(queue, "amq.fanout")
    try:
        channel.basic_publish("amq.fanout", "k", b"x", pika.BasicProperties(expiration="1", priority=9))
        ready = lambda: channel.queue_declare(beside, passive=True).method.message_count  # noqa: E731
        eventually(lambda: ready() == 0, "it has expired in the other queue")
    finally:
        channel.queue_unbind(stream, "amq.fanout")
    consumer = Consumer(t, stream, x_stream_offset="first")
    equal(consumer.wait(1), ["x"])
    equal(consumer.got[0][1].expiration, "1")


@case("stream fan-out")
def a_message_for_many_is_in_every_stream(t):
    channel = connect(t)
    exchange = t.unique()
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    streams = [stream_of(t, channel) for _ in range(6)]
    beside = channel.queue_declare("", exclusive=True).method.queue
    for queue in (beside, *streams):
        channel.queue_bind(queue, exchange)
    for number in range(5):
        channel.basic_publish(exchange, "k", str(number))
    for stream in streams:
        consumer = Consumer(t, stream, x_stream_offset="first")
        equal(consumer.wait(5), ["0", "1", "2", "3", "4"])
        method = consumer.got[0][0]
        equal((method.exchange, method.routing_key), (exchange, "k"))
    equal(channel.queue_declare(beside, passive=True).method.message_count, 5)


@case("stream restart offsets", "last")
def consumers_go_on_where_they_were_after_a_crash(t):
    server = OwnServer(t)
    channel = connect(t, server.address)
    stream = t.unique()
    channel.queue_declare(stream, durable=True, arguments={"x-queue-type": "stream"})
    publish(channel, stream, range(100))
    consumer = Consumer(t, stream, prefetch=10, address=server.address, x_stream_offset="first")
    consumer.wait(100)
    for _ in range(3):
        server.restart()
        channel = connect(t, server.address)
        publish(channel, stream, ["more"])
        last = consumer.offsets()[-1]
        consumer = Consumer(t, stream, address=server.address, x_stream_offset=last + 1)
        equal(consumer.wait(1), ["more"])
        equal(consumer.offsets(), [last + 1])


def api(t, method, path, body=None):
    """A request to the management API beside the server; the decoded answer."""
    if not t.websocket:
        raise suite.Skip("needs the management API")
    request = urllib.request.Request(f"http://{t.websocket}/api{path}", method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data, timeout=PATIENCE) as answer:
        text = answer.read()
    return json.loads(text) if text else None


@case("policy max-length-bytes max-age")
def a_policy_says_how_much_a_stream_keeps(t):
    channel = connect(t)
    stream = stream_of(t, channel, x_max_length_bytes=1_000_000)
    publish(channel, stream, ["x" * 1_000] * 50)
    seen = lambda: api(t, "GET", f"/queues/%2F/{stream}")  # noqa: E731
    equal((seen()["type"], seen()["messages"], seen()["messages_ready"]), ("stream", 50, 50))
    name = t.unique()
    policy = {"pattern": f"^{stream}$", "apply-to": "streams", "definition": {"max-length-bytes": 10_000}}
    api(t, "PUT", f"/policies/%2F/{name}", policy)
    count = lambda: channel.queue_declare(stream, passive=True).method.message_count  # noqa: E731

    def shrinks(most):
        until = time.monotonic() + PATIENCE
        while count() > most and time.monotonic() < until:
            time.sleep(0.05)
        equal(count() <= most, True, f"{count()} are kept")

    shrinks(10)
    equal(count() > 5, True)
    policy["definition"] = {"max-age": "1s"}
    api(t, "PUT", f"/policies/%2F/{name}", policy)
    shrinks(0)
    api(t, "DELETE", f"/policies/%2F/{name}")
    publish(channel, stream, range(20))
    equal(count(), 20)


@case("default_queue_type")
def a_vhost_says_what_queues_are(t):
    vhost = t.unique()
    api(t, "PUT", f"/vhosts/{vhost}", {"default_queue_type": "stream"})
    t.defer(lambda: api(t, "DELETE", f"/vhosts/{vhost}"))
    equal(api(t, "GET", f"/vhosts/{vhost}")["default_queue_type"], "stream")
    parameters = pika.ConnectionParameters(t.host, t.port, virtual_host=vhost)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    for _ in range(2):
        channel.queue_declare("log", durable=True)
    channel.queue_declare("short", auto_delete=True)
    channel.queue_declare("said", durable=True, arguments={"x-queue-type": "classic"})
    types = {queue["name"]: queue["type"] for queue in api(t, "GET", f"/queues/{vhost}")}
    equal(types, {"log": "stream", "short": "classic", "said": "classic"})
    api(t, "PUT", f"/vhosts/{vhost}", {"default_queue_type": "quorum"})
    # What is there stays what it is.
    channel.queue_declare("log", durable=True)
    channel.queue_declare("other", durable=True)
    equal(api(t, "GET", f"/queues/{vhost}/other")["type"], "quorum")
    connection.close()


@case("stream tx")
def a_transaction_goes_into_a_stream(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    staged = channel.connection.channel()
    staged.tx_select()
    staged.basic_qos(prefetch_count=2)
    for number in range(3):
        staged.basic_publish("", stream, str(number))
    equal(channel.queue_declare(stream, passive=True).method.message_count, 0)
    staged.tx_commit()
    got = []
    staged.basic_consume(
        stream,
        lambda _, method, __, body: (got.append(body), staged.basic_ack(method.delivery_tag)),
        arguments={"x-stream-offset": "first"},
    )
    until = time.monotonic() + 1
    while time.monotonic() < until:
        channel.connection.process_data_events(0.05)
    if t.flavour != "rabbitmq":
        # It may count them at once.
        equal(got, [b"0", b"1"], "acknowledgements count when they are committed")
    staged.tx_commit()
    until = time.monotonic() + PATIENCE
    while len(got) < 3 and time.monotonic() < until:
        channel.connection.process_data_events(0.05)
    equal(got, [b"0", b"1", b"2"])


def declared(name, why, durable=True, exclusive=False, auto_delete=False, queue=None, kind="stream", **arguments):
    """A row: a declaration that is refused with 406 and this text."""

    def run(t):
        own = t.unique() if queue is None else queue
        keys = {key.replace("_", "-"): value for key, value in arguments.items()}
        text = refused(
            406,
            connect(t).queue_declare,
            own,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments={"x-queue-type": kind, **keys},
        )
        equal(text, "PRECONDITION_FAILED - " + why.format(q=f"queue '{own}' in vhost '/'"))

    add(f"a_declaration_is_refused_{name}", run, "queue.declare stream")


declared("transient", "invalid property 'non-durable' for {q}", durable=False)
declared("exclusive", "invalid property 'exclusive-owner' for {q}", exclusive=True)
declared("auto_deleting", "invalid property 'auto-delete' for {q}", auto_delete=True)
declared("without_a_name", "Cannot declare a server-named queue for type rabbit_stream_queue", queue="")
declared(
    "that_is_a_quorum_queue_without_a_name",
    "Cannot declare a server-named queue for type rabbit_quorum_queue",
    queue="",
    kind="quorum",
)
for key, value in {
    "x-message-ttl": 1000,
    "x-expires": 1000,
    "x-max-length": 10,
    "x-overflow": "drop-head",
    "x-max-priority": 5,
    "x-dead-letter-exchange": "x",
    "x-single-active-consumer": True,
    "x-delivery-limit": 3,
    "x-queue-mode": "lazy",
}.items():
    declared(
        f"with_{key}", f"invalid arg '{key}' for {{q}} of queue type rabbit_stream_queue", **{key: value}
    )
for kind in ("classic", "quorum"):
    for key, value in {"x-max-age": "7D", "x-stream-max-segment-size-bytes": 1000}.items():
        declared(
            f"{kind}_with_{key}",
            f"invalid arg '{key}' for {{q}} of queue type rabbit_{kind}_queue",
            kind=kind,
            **{key: value},
        )


@case("x-max-age x-stream-max-segment-size-bytes values", "alone", ("rabbitmq", "one of them is an internal error"))
def values_of_arguments_are_checked(t):
    for key, value in (
        ("x-max-age", "7d"),
        ("x-max-age", "0D"),
        ("x-max-age", "D"),
        ("x-max-age", 7),
        ("x-stream-max-segment-size-bytes", 4_000_000_000),
        ("x-stream-max-segment-size-bytes", "a"),
        ("x-stream-filter-size-bytes", 5),
        ("x-max-length-bytes", -1),
    ):
        text = refused(
            406,
            connect(t).queue_declare,
            t.unique(),
            durable=True,
            arguments={"x-queue-type": "stream", key: value},
        )
        equal(key in text, True, text)


@case("stream redeclare")
def a_stream_is_declared_again_with_the_same_arguments(t):
    channel = connect(t)
    stream = stream_of(t, channel, x_max_age="7D", x_max_length_bytes=1_000_000)
    stream_of(t, channel, name=stream, x_max_age="7D", x_max_length_bytes=1_000_000)
    text = refused(
        406,
        channel.queue_declare,
        stream,
        durable=True,
        arguments={"x-queue-type": "stream", "x-max-age": "8D", "x-max-length-bytes": 1_000_000},
    )
    equal(
        text,
        f"PRECONDITION_FAILED - inequivalent arg 'x-max-age' for queue '{stream}' in vhost '/': received '8D' but current "
        "is '7D'",
    )
    text = refused(406, connect(t).queue_declare, stream, durable=True)
    equal("inequivalent arg 'x-" in text and "received none but current is the value" in text, True, text)


def consumed(name, code, why, *differs, prefetch=10, global_qos=False, auto_ack=False, **arguments):
    """A row: a consumer that is refused with this code and text."""

    def run(t):
        channel = connect(t)
        stream = stream_of(t, channel)
        if prefetch:
            channel.basic_qos(prefetch_count=prefetch)
        if global_qos:
            channel.basic_qos(prefetch_count=prefetch, global_qos=True)
        keys = {key.replace("_", "-"): value for key, value in arguments.items()}
        text = refused(code, channel.basic_consume, stream, print, auto_ack=auto_ack, arguments=keys)
        equal(text.split(" - ", 1)[1].startswith(why.format(q=f"queue '{stream}' in vhost '/'")), True, text)

    add(f"a_consumer_is_refused_{name}", run, "basic.consume stream", "alone", *differs)


consumed("without_prefetch", 406, "consumer prefetch count is not set for '{q}'", prefetch=0)
consumed(
    "that_does_not_acknowledge",
    540,
    "automatic acknowledgement not supported by stream queues {q}",
    auto_ack=True,
)
consumed("with_a_shared_prefetch", 540, "{q} does not support global qos", global_qos=True)
consumed(
    "with_a_priority", 406, "invalid arg 'x-priority' for {q} of queue type rabbit_stream_queue", x_priority=5
)
ODD = ("rabbitmq", "an internal error")
consumed("with_an_odd_offset", 406, "invalid arg 'x-stream-offset'", ODD, x_stream_offset="soon")
consumed("with_an_offset_of_another_type", 406, "invalid arg 'x-stream-offset'", ODD, x_stream_offset=True)
NO_FILTERS = ("rabbitmq", "3.10 has no filters")
consumed("with_an_odd_filter", 406, "invalid arg 'x-stream-filter'", NO_FILTERS, x_stream_filter=5)


LAVINMQ = ("rabbitmq", "this is LavinMQ's")


@case("x-stream-filter x-filter-match-type", "alone", LAVINMQ)
def a_filter_may_name_headers(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    for number in range(12):
        headers = {"kind": "new" if number % 2 else "old", "size": number % 3}
        if number % 4 == 0:
            headers["x-stream-filter-value"] = "fourth"
        publish(channel, stream, [number], headers=headers)
    wanted = [{"kind": "old", "size": 0}, "fourth"]
    everything = Consumer(t, stream, x_stream_offset="first", x_stream_filter=wanted)
    equal(everything.wait(1), ["0"], "both")
    either = Consumer(t, stream, x_stream_offset="first", x_stream_filter=wanted, x_filter_match_type="any")
    equal(either.wait(4), ["0", "4", "6", "8"], "one of them")
    table = Consumer(t, stream, x_stream_offset="first", x_stream_filter={"size": 2})
    equal(table.wait(4), ["2", "5", "8", "11"])
    channel.basic_qos(prefetch_count=1)
    text = refused(406, channel.basic_consume, stream, print, arguments={"x-stream-filter": {"geo-bbox": {"top": 1}}})
    equal("x-stream-filter" in text, True, text)


@case("x-stream-filter geo-within-radius geo-bbox geo-polygon", "alone", LAVINMQ)
def a_filter_may_say_where_messages_are(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    # pika has decimals where others have floats.
    places = {"berlin": ("52.52", "13.405"), "potsdam": ("52.4", "13.06"), "hamburg": ("53.551", "9.994")}
    for name, (latitude, longitude) in {**places, "null island": (0, 0)}.items():
        headers = {"x-geo-lat": decimal.Decimal(latitude), "x-geo-lon": decimal.Decimal(longitude), "size": len(name)}
        publish(channel, stream, [name], headers=headers)
    publish(channel, stream, ["nowhere"])
    publish(channel, stream, ["no place"], headers={"x-geo-lat": 91, "x-geo-lon": 0})
    circle = {"lat": decimal.Decimal("52.5"), "lon": decimal.Decimal("13.4"), "radius_km": 50}
    box = {"min_lat": 52, "max_lat": 54, "min_lon": 9, "max_lon": decimal.Decimal("13.1")}
    triangle = {"points": [[52, 12], [53, 13], [52, 15]]}
    for wanted, expected in (
        ({"geo-within-radius": circle}, ["berlin", "potsdam"]),
        ({"geo-bbox": box}, ["potsdam", "hamburg"]),
        ({"geo-polygon": triangle}, ["berlin", "potsdam"]),
        ({"geo-within-radius": circle, "geo-bbox": box}, ["potsdam"]),
        ([{"geo-within-radius": circle}, {"size": 6}], ["berlin"]),
        ({"geo-within-radius": {"lat": 0, "lon": 0, "radius_km": 1}}, ["null island"]),
    ):
        got = Consumer(t, stream, x_stream_offset="first", x_stream_filter=wanted)
        equal(got.wait(len(expected)), expected, wanted)
    for wrong in ({"geo-bbox": {**box, "max_lat": 51}}, {"geo-within-radius": {**circle, "radius_km": 0}},
                  {"geo-polygon": {"points": triangle["points"][:2]}}, {"geo-hexagon": {}}):
        channel = connect(t)
        channel.basic_qos(prefetch_count=1)
        refused(406, channel.basic_consume, stream, print, arguments={"x-stream-filter": wrong})


consumed(
    "whose_place_is_to_be_kept_by_something_odd",
    406,
    "invalid arg 'x-stream-automatic-offset-tracking'",
    LAVINMQ,
    x_stream_automatic_offset_tracking=5,
)


@case("x-stream-automatic-offset-tracking errors", "alone", LAVINMQ)
def nobody_comes_back_by_a_tag_of_the_server(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    channel.basic_qos(prefetch_count=1)
    arguments = {"x-stream-automatic-offset-tracking": True}
    text = refused(406, channel.basic_consume, stream, print, arguments=arguments, consumer_tag="amq.ctag-mine")
    equal("consumer tag of the client's own" in text, True, text)


def tracked(t, stream, tag, **options):
    """A consumer whose place the server keeps."""
    return Consumer(t, stream, tag=tag, x_stream_automatic_offset_tracking=True, **options)


@case("x-stream-automatic-offset-tracking", "alone", LAVINMQ)
def the_place_of_a_consumer_is_kept_by_its_tag(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    publish(channel, stream, range(10))
    # One that never came before begins with the oldest message, or where it says.
    first = tracked(t, stream, "mine", prefetch=5, ack=False)
    equal(first.wait(5), ["0", "1", "2", "3", "4"])
    for at in (0, 1, 3):
        first.channel.basic_ack(first.got[at][0].delivery_tag)
    first.channel.basic_reject(first.got[2][0].delivery_tag, requeue=True)
    more = first.wait(9)
    equal(more[5:], ["5", "6", "7", "8"], "acknowledged, or given back: credit for others")
    first.channel.close()
    # It goes on with the first that it has not acknowledged; where it would begin otherwise says nothing any more.
    second = tracked(t, stream, "mine", x_stream_offset="next")
    equal(second.wait(8), [str(number) for number in range(2, 10)])
    second.channel.close()
    publish(channel, stream, ["new"])
    equal(tracked(t, stream, "mine").wait(1), ["new"])
    # Others have places of their own, and who does not ask for it has none.
    equal(len(tracked(t, stream, "other", x_stream_offset=4).wait(7)), 7)
    equal(len(Consumer(t, stream, tag="plain", x_stream_offset="first").wait(11)), 11)
    equal(Consumer(t, stream, tag="mine").wait(0), [])


@case("x-stream-automatic-offset-tracking multiple tx", "alone", LAVINMQ)
def places_move_by_multiple_acknowledgements_and_with_transactions(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    publish(channel, stream, range(10))
    first = tracked(t, stream, "mine", prefetch=6, ack=False)
    first.wait(6)
    first.channel.basic_ack(first.got[3][0].delivery_tag, multiple=True)
    first.wait(10)
    first.channel.close()
    host, port = t.host, t.port
    connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
    t.defer(connection.close)

    def taken(end):
        """The first body of a channel in which two are acknowledged, that ends so."""
        staged = connection.channel()
        staged.tx_select()
        staged.basic_qos(prefetch_count=2)
        arguments = {"x-stream-automatic-offset-tracking": "true"}
        got = []
        staged.basic_consume(stream, lambda *message: got.append(message), arguments=arguments, consumer_tag="mine")
        while len(got) < 2:
            connection.process_data_events(0.05)
        for _, method, _, _ in got:
            staged.basic_ack(method.delivery_tag)
        getattr(staged, end)()
        staged.close()
        return got[0][3].decode()

    equal(taken("tx_rollback"), "4")
    equal(taken("tx_commit"), "4")
    equal(tracked(t, stream, "mine").wait(4)[0], "6")


@case("x-stream-automatic-offset-tracking delete", "alone", LAVINMQ)
def a_stream_that_is_deleted_takes_its_places_along(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    publish(channel, stream, range(3))
    tracked(t, stream, "mine").wait(3)
    channel.queue_delete(stream)
    channel.queue_declare(stream, durable=True, arguments={"x-queue-type": "stream"})
    publish(channel, stream, ["a", "b"])
    equal(tracked(t, stream, "mine").wait(2), ["a", "b"])


@case("x-stream-automatic-offset-tracking restart", "last", LAVINMQ)
def places_outlive_the_server(t):
    server = OwnServer(t)
    stream = t.unique()
    channel = connect(t, server.address)
    channel.queue_declare(stream, durable=True, arguments={"x-queue-type": "stream"})
    publish(channel, stream, range(20))

    def take(count):
        """So many messages, acknowledged."""
        consumer = tracked(t, stream, "mine", address=server.address, prefetch=count, ack=False)
        bodies = consumer.wait(count)
        consumer.channel.basic_ack(0, multiple=True)
        # Whatever has an answer: when it is there, the acknowledgement is.
        consumer.channel.basic_qos(prefetch_count=1)
        return bodies

    equal(take(5), ["0", "1", "2", "3", "4"])
    server._process.terminate()
    server._process.wait(30)
    server.run()
    equal(take(5)[0], "5", "when it ends in order, exactly there")
    server.end()
    server.run()
    first = int(take(1)[0])
    assert 5 <= first <= 10, f"when it is killed, what comes again is not much: {first}"


@case("stream get purge")
def a_stream_is_neither_fetched_from_nor_purged(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    where = f"queue '{stream}' in vhost '/'"
    text = refused(540, connect(t).basic_get, stream)
    equal(text, f"NOT_IMPLEMENTED - basic.get not supported by stream queues {where}")
    text = refused(540, connect(t).queue_purge, stream)
    equal(text, f"NOT_IMPLEMENTED - queue.purge not supported by stream queues {where}")


@case("stream large")
def a_client_that_does_not_read_costs_no_memory(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    body = "x" * 100_000
    publish(channel, stream, [body] * 100)
    consumer = Consumer(t, stream, prefetch=1_000, x_stream_offset="first")
    time.sleep(0.5)
    consumer.wait(100, 30)
    equal(consumer.offsets(), list(range(100)))


@case("stream restart", "last")
def offsets_and_messages_outlive_the_server(t):
    server = OwnServer(t)
    channel = connect(t, server.address)
    stream = t.unique()
    channel.queue_declare(stream, durable=True, arguments={"x-queue-type": "stream", "x-max-length-bytes": 50_000})
    publish(channel, stream, [f"{number}".rjust(500) for number in range(300)])
    kept = channel.queue_declare(stream, passive=True).method.message_count
    server.end()
    server.run()
    channel = connect(t, server.address)
    equal(channel.queue_declare(stream, passive=True).method.message_count, kept)
    publish(channel, stream, ["new"])
    consumer = Consumer(t, stream, address=server.address, x_stream_offset=250)
    equal(consumer.wait(51)[-1], "new")
    equal(consumer.offsets(), list(range(250, 301)))


@case("stream full", "alone", ("rabbitmq", "the newest segment is never too large"))
def what_is_larger_than_the_whole_stream_is_refused(t):
    channel = connect(t)
    stream = stream_of(t, channel, x_max_length_bytes=1_000)
    try:
        publish(channel, stream, ["x" * 2_000])
    except NackError:
        return
    raise AssertionError("it was taken")


@case("x-dead-letter-exchange stream", "alone", ("rabbitmq", "in 3.10 none arrives"))
def dead_letters_go_into_streams(t):
    channel = connect(t)
    stream = stream_of(t, channel)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": stream}
    source = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
    channel.basic_publish("", source, b"x")
    channel.basic_reject(channel.basic_get(source)[0].delivery_tag, requeue=False)
    consumer = Consumer(t, stream, x_stream_offset="first")
    equal(consumer.wait(1), ["x"])
    headers = consumer.got[0][1].headers
    equal((headers["x-death"][0]["reason"], headers["x-stream-offset"]), ("rejected", 0))


if __name__ == "__main__":
    suite.run()
