"""kombu, what Celery speaks through: AMQPLAIN or PLAIN by py-amqp, declarations by publishing, simple queues."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from harness import suite  # noqa: E402
from harness.suite import case, equal  # noqa: E402
from kombu import Connection, Consumer, Exchange, Queue  # noqa: E402

#: Seconds that anything may take.
PATIENCE = 20


def connect(t, **options):
    """A connection that ends with the case."""
    connection = Connection(f"amqp://guest:guest@{t.host}:{t.port}//", **options)
    t.defer(connection.release)
    return connection


@case("publish consume")
def what_a_producer_declares_a_consumer_gets(t):
    connection = connect(t)
    exchange = Exchange(t.unique(), "direct", durable=True)
    queue = Queue(t.unique(), exchange, routing_key="k")
    producer = connection.Producer(serializer="json")
    for number in range(20):
        producer.publish({"n": number}, exchange=exchange, routing_key="k", declare=[queue], priority=1)
    got = []

    def on_message(body, message):
        got.append(body["n"])
        message.ack()

    with Consumer(connection, [queue], callbacks=[on_message], prefetch_count=4):
        while len(got) < 20:
            connection.drain_events(timeout=PATIENCE)
    equal(got, list(range(20)))
    channel = connection.channel()
    queue(channel).delete()
    exchange(channel).delete()


@case("simple")
def simple_queues(t):
    connection = connect(t)
    queue = connection.SimpleQueue(t.unique())
    queue.put({"a": 1})
    message = queue.get(timeout=PATIENCE)
    equal(message.payload, {"a": 1})
    message.ack()
    queue.clear()
    queue.close()
    channel = connection.channel()
    channel.queue_delete(queue.queue.name)
    channel.exchange_delete(queue.queue.exchange.name)


@case("fanout heartbeat")
def broadcasts_with_heartbeats(t):
    connection = connect(t, heartbeat=4)
    exchange = Exchange(t.unique(), "fanout", auto_delete=True, durable=False)
    queues = [Queue(t.unique(), exchange, exclusive=True, auto_delete=True) for _ in range(3)]
    got = []
    with Consumer(connection, queues, callbacks=[lambda body, message: got.append(body)], no_ack=True):
        connection.Producer().publish("ping", exchange=exchange)
        while len(got) < 3:
            connection.drain_events(timeout=PATIENCE)
        connection.heartbeat_check()
    equal(got, ["ping"] * 3)


if __name__ == "__main__":
    suite.run()
