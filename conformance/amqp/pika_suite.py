"""pika drives queues, exchanges, consumers, acknowledgements and confirms."""

import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import pika  # noqa: E402
from harness import suite  # noqa: E402
from harness.server import OwnServer  # noqa: E402
from harness.suite import case, equal, eventually  # noqa: E402
from pika.exceptions import (  # noqa: E402
    ChannelClosedByBroker,
    NackError,
    ProbableAuthenticationError,
    UnroutableError,
)

#: Seconds that anything may take.
PATIENCE = 20


def connect(t, **options):
    """A connection that ends with the case."""
    parameters = pika.ConnectionParameters(t.host, t.port, **options)
    connection = pika.BlockingConnection(parameters)

    def close():
        if connection.is_open:
            connection.close()

    t.defer(close)
    return connection


def queue_of(t, channel, **options):
    """A queue with a name of its own, deleted at the end by another connection."""
    name = t.unique()
    channel.queue_declare(name, **options)

    def delete():
        connection = pika.BlockingConnection(pika.ConnectionParameters(t.host, t.port))
        connection.channel().queue_delete(name)
        connection.close()

    t.defer(delete)
    return name


def bodies(channel, queue, count):
    """Fetches so many messages, acknowledging each."""
    got = []
    until = time.monotonic() + PATIENCE
    while len(got) < count and time.monotonic() < until:
        method, _, data = channel.basic_get(queue)
        if method is not None:
            channel.basic_ack(method.delivery_tag)
            got.append(data)
    equal(channel.basic_get(queue)[0], None, "nothing is left")
    return got


def refused(code, call, *arguments, **options):
    """The call closes the channel with this code; yields the text."""
    try:
        call(*arguments, **options)
    except ChannelClosedByBroker as error:
        equal(error.reply_code, code)
        return error.reply_text
    raise AssertionError(f"expected {code}")


@case("connect")
def connections_open_and_close(t):
    connection = connect(t, heartbeat=5)
    equal(connection.is_open, True)
    first, second = connection.channel(), connection.channel()
    equal((first.channel_number, second.channel_number), (1, 2))
    first.close()
    equal(connection.channel().is_open, True)
    connection.close()


@case("publish get")
def messages_and_their_properties_come_back(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, durable=True)
    properties = pika.BasicProperties(
        content_type="text/plain",
        headers={"n": 5, "big": 1 << 40, "text": "ä", "list": [1, "two", None], "table": {"deep": True}},
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        message_id="m",
        timestamp=1700000000,
        type="t",
        app_id="a",
    )
    channel.basic_publish("", queue, b"body", properties)
    method, got, data = channel.basic_get(queue)
    equal((method.message_count, method.redelivered, method.exchange, method.routing_key), (0, False, "", queue))
    equal((data, vars(got)), (b"body", vars(properties)))
    channel.basic_ack(method.delivery_tag)
    equal(channel.basic_get(queue), (None, None, None))


@case("declare")
def passive_declarations_count(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel)
    for _ in range(3):
        channel.basic_publish("", queue, b"x")
    channel.basic_consume(queue_of(t, channel), lambda *_: None)
    method = channel.queue_declare(queue, passive=True).method
    equal((method.queue, method.message_count, method.consumer_count), (queue, 3, 0))
    equal(channel.queue_purge(queue).method.message_count, 3)
    channel.basic_publish("", queue, b"x")
    other = connect(t).channel()
    text = refused(406, other.queue_delete, queue, if_empty=True)
    equal(text, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty")
    equal(channel.queue_delete(queue).method.message_count, 1)


@case("declare")
def a_name_is_made_and_remembered(t):
    channel = connect(t).channel()
    name = channel.queue_declare("", exclusive=True).method.queue
    equal(name.startswith("amq.gen-"), True)
    channel.queue_bind("", "amq.direct", "k")
    channel.basic_publish("amq.direct", "k", b"x")
    equal(bodies(channel, "", 1), [b"x"])


@case("consume ack nack reject")
def consumers_get_and_settle(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel)
    for number in range(6):
        channel.basic_publish("", queue, b"%d" % number)
    channel.basic_qos(prefetch_count=3)
    seen = []
    for method, _, data in channel.consume(queue, inactivity_timeout=PATIENCE):
        seen.append((data, method.redelivered))
        if len(seen) == 1:
            channel.basic_nack(method.delivery_tag, requeue=True)
        elif len(seen) == 2:
            channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            channel.basic_ack(method.delivery_tag)
        if len(seen) == 7:
            break
    channel.cancel()
    equal(seen.count((b"0", False)), 1)
    equal(seen.count((b"0", True)), 1)
    equal(sorted({data for data, _ in seen}), [b"%d" % n for n in range(6)])
    equal(channel.queue_declare(queue, passive=True).method.message_count, 0)


@case("qos")
def prefetch_is_a_limit(t):
    connection = connect(t)
    channel = connection.channel()
    queue = queue_of(t, channel)
    for number in range(10):
        channel.basic_publish("", queue, b"%d" % number)
    channel.basic_qos(prefetch_count=4)
    got = []
    channel.basic_consume(queue, lambda ch, method, props, data: got.append((method.delivery_tag, data)))
    connection.process_data_events(0.5)
    equal([data for _, data in got], [b"0", b"1", b"2", b"3"])
    channel.basic_ack(2, multiple=True)
    connection.process_data_events(0.5)
    equal(len(got), 6)
    channel.basic_ack(0, multiple=True)
    connection.process_data_events(0.5)
    equal([data for _, data in got], [b"%d" % n for n in range(10)])


@case("consume")
def many_messages_without_a_limit(t):
    connection = connect(t)
    channel = connection.channel()
    queue = queue_of(t, channel)
    count = 5000
    for number in range(count):
        channel.basic_publish("", queue, b"%d" % number)
    got = []
    for auto_ack in (False, True):
        tag = channel.basic_consume(
            queue, lambda ch, method, props, data: got.append((method.delivery_tag, data)), auto_ack=auto_ack
        )
        until = time.monotonic() + 3 * PATIENCE
        while len(got) < count and time.monotonic() < until:
            connection.process_data_events(0.2)
        equal([data for _, data in got], [b"%d" % n for n in range(count)])
        channel.basic_cancel(tag)
        if not auto_ack:
            channel.basic_nack(0, multiple=True, requeue=True)
            got.clear()
    equal(channel.queue_declare(queue, passive=True).method.message_count, 0)


@case("consume")
def large_messages(t):
    connection = connect(t)
    channel = connection.channel()
    queue = queue_of(t, channel)
    data = bytes(range(256)) * 8192
    for _ in range(8):
        channel.basic_publish("", queue, data)
    got = []
    channel.basic_consume(queue, lambda ch, method, props, body: got.append(body), auto_ack=True)
    until = time.monotonic() + PATIENCE
    while len(got) < 8 and time.monotonic() < until:
        connection.process_data_events(0.2)
    equal([body == data for body in got], [True] * 8)


@case("close")
def what_a_channel_holds_goes_back_in_order(t):
    connection = connect(t)
    channel = connection.channel()
    queue = queue_of(t, channel)
    for number in range(5):
        channel.basic_publish("", queue, b"%d" % number)
    held = connection.channel()
    for _ in range(3):
        held.basic_get(queue)
    held.close()
    got = []
    while True:
        method, _, data = channel.basic_get(queue, auto_ack=True)
        if method is None:
            break
        got.append((data, method.redelivered))
    equal(got, [(b"0", True), (b"1", True), (b"2", True), (b"3", False), (b"4", False)])


@case("recover")
def recover_gives_everything_back(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel)
    channel.basic_publish("", queue, b"x")
    channel.basic_get(queue)
    channel.basic_recover(requeue=True)
    method, _, data = channel.basic_get(queue)
    equal((data, method.redelivered), (b"x", True))


@case("confirm mandatory")
def confirms_say_what_became_of_a_message(t):
    channel = connect(t).channel()
    channel.confirm_delivery()
    queue = queue_of(t, channel, durable=True)
    for number in range(50):
        channel.basic_publish("", queue, b"%d" % number, mandatory=True)
    equal(len(bodies(channel, queue, 50)), 50)
    channel.basic_publish("", t.unique(), b"x")
    try:
        channel.basic_publish("", t.unique(), b"x", mandatory=True)
    except UnroutableError as error:
        equal((error.messages[0].method.reply_code, error.messages[0].body), (312, b"x"))
    except NackError:
        raise AssertionError("nacked") from None
    else:
        raise AssertionError("not returned")


def exchange_of(t, channel, kind, **options):
    """An exchange with a name of its own."""
    name = t.unique()
    channel.exchange_declare(name, kind, **options)
    return name


@case("exchange")
def direct_fanout_topic_and_headers(t):
    channel = connect(t).channel()
    for kind, bindings, published in (
        ("direct", ["a", "b"], {"a": True, "b": True, "c": False}),
        ("fanout", [""], {"a": True, "": True}),
        ("topic", ["a.*.c", "x.#", "#.end"], {"a.b.c": True, "a.c": False, "x": True, "x.y.z": True, "end": True, "": False}),
    ):
        exchange = exchange_of(t, channel, kind, auto_delete=True)
        queue = channel.queue_declare("", exclusive=True).method.queue
        for key in bindings:
            channel.queue_bind(queue, exchange, key)
        for key, arrives in published.items():
            channel.basic_publish(exchange, key, key.encode())
            equal(bodies(channel, queue, int(arrives)), [key.encode()] * arrives, f"{kind} {key}")
    exchange = exchange_of(t, channel, "headers", auto_delete=True)
    queues = {}
    for rule in ("all", "any"):
        queues[rule] = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queues[rule], exchange, "", {"x-match": rule, "n": 1, "s": "x"})
    for headers, to_all, to_any in (({"n": 1, "s": "x"}, 1, 1), ({"n": 1}, 0, 1), ({"n": "1"}, 0, 0), ({}, 0, 0)):
        channel.basic_publish(exchange, "k", b"x", pika.BasicProperties(headers=headers))
        equal((len(bodies(channel, queues["all"], to_all)), len(bodies(channel, queues["any"], to_any))), (to_all, to_any))


@case("exchange")
def exchanges_lead_to_each_other_and_each_queue_gets_one_copy(t):
    channel = connect(t).channel()
    first, second = exchange_of(t, channel, "fanout"), exchange_of(t, channel, "topic")
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.exchange_bind(second, first, "")
    channel.exchange_bind(first, second, "#")
    channel.queue_bind(queue, first, "")
    channel.queue_bind(queue, second, "#")
    channel.basic_publish(first, "k", b"x")
    equal(bodies(channel, queue, 1), [b"x"])
    channel.exchange_unbind(second, first, "")
    channel.queue_unbind(queue, first, "")
    channel.basic_publish(first, "k", b"x")
    equal(bodies(channel, queue, 0), [])
    channel.exchange_delete(first)
    channel.exchange_delete(second)


@case("exchange")
def what_no_binding_wants_goes_to_the_alternate(t):
    channel = connect(t).channel()
    channel.confirm_delivery()
    other = exchange_of(t, channel, "fanout")
    exchange = exchange_of(t, channel, "direct", arguments={"alternate-exchange": other})
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, other)
    channel.basic_publish(exchange, "nobody", b"x", mandatory=True)
    equal(bodies(channel, queue, 1), [b"x"])
    channel.exchange_delete(exchange)
    channel.exchange_delete(other)


@case("exchange")
def internal_and_auto_deleting_exchanges(t):
    connection = connect(t)
    channel = connection.channel()
    internal = exchange_of(t, channel, "fanout", internal=True)
    passing = exchange_of(t, channel, "fanout", auto_delete=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, passing)
    channel.exchange_declare(passing, passive=True)
    channel.queue_delete(queue)
    other = connection.channel()
    refused(404, other.exchange_declare, passing, passive=True)
    other = connection.channel()
    other.basic_publish(internal, "", b"x")
    refused(403, other.queue_declare, "", exclusive=True)
    channel.exchange_delete(internal)


@case("queue")
def an_auto_deleting_queue_goes_with_its_last_consumer(t):
    connection = connect(t)
    channel = connection.channel()
    queue = t.unique()
    channel.queue_declare(queue, auto_delete=True)
    channel.basic_publish("", queue, b"x")
    equal(channel.queue_declare(queue, passive=True).method.message_count, 1)
    tag = channel.basic_consume(queue, lambda *_: None, auto_ack=True)
    channel.basic_cancel(tag)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            connection.channel().queue_declare(queue, passive=True)
        except ChannelClosedByBroker as error:
            equal(error.reply_code, 404)
            return
    raise AssertionError("it is still there")


@case("queue")
def an_exclusive_consumer_has_the_queue_for_itself(t):
    connection = connect(t)
    channel = connection.channel()
    queue = queue_of(t, channel)
    channel.basic_consume(queue, lambda *_: None, exclusive=True)
    text = f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    equal(refused(403, connection.channel().basic_consume, queue, lambda *_: None), text)
    equal(refused(403, connection.channel().basic_get, queue), text)


@case("ttl", "waits")
def messages_expire(t):
    channel = connect(t).channel()
    slow = queue_of(t, channel, arguments={"x-message-ttl": 4000})
    channel.basic_publish("", slow, b"by the queue")
    channel.basic_publish("", slow, b"by itself", pika.BasicProperties(expiration="1"))
    ready = lambda: channel.queue_declare(slow, passive=True).method.message_count  # noqa: E731
    eventually(lambda: ready() == 1, "one has expired")
    eventually(lambda: ready() == 0, "the other one too")
    equal(channel.basic_get(slow)[0], None)
    never = queue_of(t, channel, arguments={"x-message-ttl": 0})
    channel.basic_publish("", never, b"x")
    equal(channel.basic_get(never)[0], None)


@case("priority")
def urgent_messages_come_first(t):
    channel = connect(t).channel()
    queue = queue_of(t, channel, arguments={"x-max-priority": 5})
    for priority in (1, 5, None, 9, 3):
        channel.basic_publish("", queue, str(priority).encode(), pika.BasicProperties(priority=priority))
    equal(bodies(channel, queue, 5), [b"5", b"9", b"3", b"1", b"None"])


@case("fairness")
def consumers_take_turns(t):
    connection = connect(t)
    channel = connection.channel()
    queue = queue_of(t, channel)
    channel.basic_qos(prefetch_count=1)
    counts = [0, 0, 0]

    def take(number):
        def on_message(ch, method, properties, data):
            counts[number] += 1
            ch.basic_ack(method.delivery_tag)

        return on_message

    for number in range(3):
        channel.basic_consume(queue, take(number))
    for _ in range(30):
        channel.basic_publish("", queue, b"x")
    until = time.monotonic() + PATIENCE
    while sum(counts) < 30 and time.monotonic() < until:
        connection.process_data_events(0.1)
    equal(sum(counts), 30)
    if min(counts) < 5:
        raise AssertionError(f"not in turn: {counts}")


@case("threads", "waits")
def producers_and_consumers_side_by_side(t):
    queue = queue_of(t, connect(t).channel(), durable=True)
    count, producers = 300, 3

    def produce():
        channel = connect(t).channel()
        channel.confirm_delivery()
        for number in range(count):
            channel.basic_publish("", queue, b"%d" % number, mandatory=True)

    threads = [threading.Thread(target=produce) for _ in range(producers)]
    for thread in threads:
        thread.start()
    got = []
    channel = connect(t).channel()
    channel.basic_qos(prefetch_count=50)
    for method, _, data in channel.consume(queue, inactivity_timeout=PATIENCE):
        if method is None:
            break
        channel.basic_ack(method.delivery_tag)
        got.append(data)
        if len(got) == count * producers:
            break
    for thread in threads:
        thread.join()
    equal(sorted(got), sorted([b"%d" % n for n in range(count)] * producers))


@case("login")
def a_vhost_that_is_not_there(t):
    try:
        connect(t, virtual_host="nowhere")
    except pika.exceptions.ConnectionClosedByBroker as error:
        equal(error.reply_code, 530)
    except (ProbableAuthenticationError, pika.exceptions.ProbableAccessDeniedError):
        pass
    else:
        raise AssertionError("let in")


@case("reply-to")
def answers_come_without_a_queue(t):
    client, server = connect(t).channel(), connect(t).channel()
    queue = queue_of(t, server)
    # A publish without a confirm may arrive after what another connection asks.
    client.confirm_delivery()
    got = []
    client.basic_consume("amq.rabbitmq.reply-to", lambda *delivery: got.append(delivery), auto_ack=True)
    for number in range(5):
        properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=str(number))
        client.basic_publish("", queue, b"%d" % number, properties)
    for number in range(5):
        method, request, body = server.basic_get(queue, auto_ack=True)
        answer = pika.BasicProperties(correlation_id=request.correlation_id)
        server.basic_publish("", request.reply_to, body * 2, answer)
    until = time.monotonic() + PATIENCE
    while len(got) < 5 and time.monotonic() < until:
        client.connection.process_data_events(0.1)
    equal([(properties.correlation_id, body) for _, _, properties, body in got], [(str(n), b"%d" % n * 2) for n in range(5)])
    equal(server.queue_declare(request.reply_to, passive=True).method.consumer_count, 1)
    client.close()
    equal(refused(404, server.queue_declare, request.reply_to, passive=True)[:9], "NOT_FOUND")


@case("tx")
def a_transaction_moves_messages(t):
    channel, other = connect(t).channel(), connect(t).channel()
    source, target = queue_of(t, channel, durable=True), queue_of(t, channel, durable=True)
    other.confirm_delivery()
    for number in range(10):
        other.basic_publish("", source, b"%d" % number)
    channel.tx_select()
    for commit in (False, True):
        for number in range(10):
            method, _, body = channel.basic_get(source)
            channel.basic_publish("", target, body)
            channel.basic_ack(method.delivery_tag)
        if commit:
            channel.tx_commit()
        else:
            channel.tx_rollback()
            # They are still unsettled; a recovery brings them back.
            equal(other.queue_declare(source, passive=True).method.message_count, 0)
            channel.basic_recover(requeue=True)
        equal(other.queue_declare(target, passive=True).method.message_count, 10 if commit else 0)
    equal(bodies(other, target, 10), [b"%d" % number for number in range(10)])
    equal(bodies(other, source, 0), [])


@case("connection.blocked connection.unblocked", "last")
def publishers_are_told_that_they_are_blocked(t):
    server = OwnServer(t, "--set", "amqp.disk_free_bytes_min=9000000000000000000")
    host, port = server.address
    parameters = pika.ConnectionParameters(host, port, blocked_connection_timeout=2, heartbeat=5)
    connection = pika.BlockingConnection(parameters)
    why = []
    connection.add_on_connection_blocked_callback(lambda _, method: why.append(method.method.reason))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    # Whoever does not publish is not held back.
    time.sleep(1.5)
    equal(channel.queue_declare(queue, passive=True).method.message_count, 0)
    channel.basic_publish("", queue, b"x")
    try:
        connection.process_data_events(10)
        connection.process_data_events(10)
    except pika.exceptions.ConnectionBlockedTimeout:
        pass
    else:
        raise AssertionError("it is not blocked")
    equal(why, ["low on disk"])
    other = pika.BlockingConnection(pika.ConnectionParameters(host, port))
    other.channel().queue_declare("", exclusive=True)
    other.close()


@case("connection.update-secret")
def a_secret_is_renewed(t):
    connection = connect(t)
    channel = connection.channel()
    connection.update_secret("guest", "it is time")
    channel.queue_declare("", exclusive=True)


if __name__ == "__main__":
    suite.run()
