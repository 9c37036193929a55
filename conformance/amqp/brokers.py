"""Two brokers for the suites that carry messages between them: the one under test, and a real RabbitMQ that all cases of
a run share.

`Broker` is either of them by AMQP; `Api` is the management API of the one under test.
"""

import atexit
import functools
import time

import pika
from harness import suite
from harness.server import OwnServer
from harness.suite import Skip

#: Seconds that anything may take.
PATIENCE = 20

#: Links connect, declare and bind before anything comes.
eventually = functools.partial(suite.eventually, seconds=PATIENCE)


class _Forever:
    """What a server needs of a case, for one that outlives it."""

    def __init__(self, t):
        self.start = t.start

    def defer(self, function):
        """At the end of the run."""
        atexit.register(function)


_RABBITMQ = []


def rabbitmq(t):
    """The RabbitMQ of this run."""
    if not t.peer:
        raise Skip("needs --peer: a real RabbitMQ")
    if not _RABBITMQ:
        _RABBITMQ.append(OwnServer(_Forever(t), start=t.peer))
    host, port = _RABBITMQ[0].address
    return Broker(t, host, port)


def under_test(t, vhost="/"):
    """The broker under test."""
    return Broker(t, t.host, t.port, vhost)


class Broker:
    """A connection as guest, that ends with the case."""

    def __init__(self, t, host, port, vhost="/"):
        self._t = t
        self.host, self.port = host, port
        credentials = pika.PlainCredentials("guest", "guest")
        parameters = pika.ConnectionParameters(host, port, vhost, credentials, heartbeat=0)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.connection = pika.BlockingConnection(parameters)
                break
            except pika.exceptions.AMQPConnectionError:
                # RabbitMQ accepts connections before it answers.
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        self.channel = self.connection.channel()
        t.defer(self._close)

    def _close(self):
        try:
            self.connection.close()
        except pika.exceptions.AMQPError:
            pass  # It is over already.

    def uri(self, port=None, vhost=None, query=""):
        """Its address, perhaps by way of another port."""
        path = "" if vhost is None else "/" + vhost.replace("/", "%2F")
        return f"amqp://guest:guest@{self.host}:{port or self.port}{path}{query}"

    def queue(self, name=None, **arguments):
        """A durable queue that goes with the case."""
        name = name or self._t.unique()
        self.channel.queue_declare(name, durable=True, arguments=arguments)
        self._t.defer(lambda: self._delete(name))
        return name

    def _delete(self, name):
        try:
            self.connection.channel().queue_delete(name)
        except pika.exceptions.AMQPError:
            pass  # It is gone already.

    def exchange(self, kind, name=None):
        """A durable exchange that goes with the case."""
        name = name or self._t.unique()
        self.channel.exchange_declare(name, kind, durable=True)

        def delete():
            try:
                self.connection.channel().exchange_delete(name)
            except pika.exceptions.AMQPError:
                pass  # It is gone already.

        self._t.defer(delete)
        return name

    def has(self, kind, name):
        """Whether an exchange or a queue is there."""
        channel = self.connection.channel()
        try:
            if kind == "queue":
                channel.queue_declare(name, passive=True)
            else:
                channel.exchange_declare(name, passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code == 404:
                return False
            raise
        channel.close()
        return True

    def publish(self, key, body, exchange="", **properties):
        """One persistent message."""
        properties.setdefault("delivery_mode", 2)
        self.channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties))

    def count(self, queue):
        """Messages that are ready."""
        return self.channel.queue_declare(queue, passive=True).method.message_count

    def fetch(self, queue):
        """The next message, when there is one: delivery, properties, body."""

        def look():
            method, properties, body = self.channel.basic_get(queue, auto_ack=True)
            return (method, properties, body) if method else None

        return eventually(look, f"a message in {queue}")

    def drain(self, queue, wanted):
        """Bodies until all of these were there."""
        found = []
        end = time.monotonic() + PATIENCE * 2
        wanted = set(wanted)
        while wanted - set(found):
            method, _, body = self.channel.basic_get(queue, auto_ack=True)
            if method:
                found.append(body)
            elif time.monotonic() > end:
                raise AssertionError(f"missing {len(wanted - set(found))} of {len(wanted)}")
            else:
                time.sleep(0.02)
        return found
