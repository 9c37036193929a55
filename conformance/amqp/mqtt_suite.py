"""pika and paho on one server: what is published to `amq.topic` are topics, and topics reach the queues bound to it."""

import pathlib
import queue
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import paho.mqtt.client as mqtt  # noqa: E402
import pika  # noqa: E402
from harness import suite  # noqa: E402
from harness.suite import case, equal  # noqa: E402
from paho.mqtt.packettypes import PacketTypes  # noqa: E402
from paho.mqtt.properties import Properties  # noqa: E402

#: Seconds that anything may take.
PATIENCE = 20

#: Seconds in which what must not come has not come.
SILENCE = 0.3


def channel_of(t):
    """A channel of a pika connection that ends with the case."""
    connection = pika.BlockingConnection(pika.ConnectionParameters(t.host, t.port))
    t.defer(lambda: connection.is_open and connection.close())
    return connection.channel()


class Mqtt:
    """A paho client of 5.0 that ends with the case."""

    def __init__(self, t, name=None, clean=True, keep=False):
        host, port = t.beside.rsplit(":", 1)
        self.got, self.acked = queue.Queue(), queue.Queue()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=name or t.unique(), protocol=mqtt.MQTTv5
        )
        connected, subscribed = threading.Event(), threading.Event()
        self.client.on_connect = lambda *_: connected.set()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = lambda _client, _userdata, message: self.got.put(message)
        self.client.on_publish = lambda _client, _userdata, _mid, reason, _properties: self.acked.put(reason)
        self.subscribed = subscribed
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 60 if keep else 0
        self.client.connect(host, int(port), clean_start=clean, properties=properties)
        self.client.loop_start()
        t.defer(self.stop)
        equal(connected.wait(PATIENCE), True, "connected")

    def stop(self):
        """Says goodbye."""
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, topic, qos=1):
        """Subscribes and waits until it counts."""
        self.subscribed.clear()
        self.client.subscribe(topic, qos)
        equal(self.subscribed.wait(PATIENCE), True, "subscribed")

    def next(self):
        """The next message."""
        return self.got.get(timeout=PATIENCE)

    def nothing(self):
        """Nothing comes."""
        try:
            message = self.got.get(timeout=SILENCE)
        except queue.Empty:
            return
        raise AssertionError(f"came: {message.topic} {message.payload}")

    def publish(self, topic, payload, qos=1, retain=False, properties=None):
        """Publishes and waits for the acknowledgement; yields its reason."""
        self.client.publish(topic, payload, qos, retain, properties)
        reason = self.acked.get(timeout=PATIENCE)
        return getattr(reason, "value", reason)


def bound(channel, *keys, exchange="amq.topic", **options):
    """A queue of the connection's own that is bound with these keys."""
    name = channel.queue_declare("", exclusive=True, **options).method.queue
    for key in keys:
        channel.queue_bind(name, exchange, key)
    return name


def get(channel, name):
    """The next message of a queue, which has to be there."""
    method, properties, body = channel.basic_get(name, auto_ack=True)
    if method is None:
        raise AssertionError("the queue is empty")
    return method, properties, body


@case("amqp mqtt")
def subscribers_see_what_goes_to_the_exchange(t):
    channel, client = channel_of(t), Mqtt(t)
    root = t.unique().replace("-", "_")
    client.subscribe(f"{root}/+/temp", 1)
    properties = pika.BasicProperties(
        content_type="text/plain", correlation_id="7", delivery_mode=2, headers={"unit": "C", "n": 5}, expiration="60000"
    )
    channel.basic_publish("amq.topic", f"{root}.kitchen.temp", b"21", properties)
    channel.basic_publish("amq.topic", f"{root}.kitchen.humidity", b"no")
    channel.basic_publish("amq.direct", f"{root}.kitchen.temp", b"no")
    message = client.next()
    equal((message.topic, message.payload, message.qos, message.retain), (f"{root}/kitchen/temp", b"21", 1, False))
    equal(message.properties.ContentType, "text/plain")
    equal(message.properties.CorrelationData, b"7")
    equal(sorted(message.properties.UserProperty), [("n", "5"), ("unit", "C")])
    equal(0 < message.properties.MessageExpiryInterval <= 60, True)
    channel.basic_publish("amq.topic", f"{root}.attic.temp", b"9")
    message = client.next()
    equal((message.payload, message.qos), (b"9", 0), "a transient message may be lost")
    client.nothing()


@case("mqtt amqp")
def queues_get_what_is_published_to_topics(t):
    channel, client = channel_of(t), Mqtt(t)
    root = t.unique().replace("-", "_")
    name = bound(channel, f"{root}.*.temp", f"{root}.#", f"{root}.kitchen.temp")
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.CorrelationData = b"7"
    properties.ResponseTopic = "answers/here"
    properties.MessageExpiryInterval = 60
    properties.UserProperty = ("unit", "C")
    equal(client.publish(f"{root}/kitchen/temp", b"21", 1, False, properties), 0)
    # Stored when it was acknowledged, and once whatever ways lead to the queue.
    method, got, body = get(channel, name)
    equal((method.exchange, method.routing_key, body), ("amq.topic", f"{root}.kitchen.temp", b"21"))
    equal((got.content_type, got.correlation_id, got.delivery_mode), ("text/plain", "7", 2))
    equal(0 < int(got.expiration) <= 60000, True)
    expected = {"x-mqtt-publish-qos": 1, "x-opt-reply-to-topic": "answers.here", "unit": "C"}
    equal(got.headers, expected)
    equal(channel.basic_get(name)[0], None)
    channel.queue_unbind(name, "amq.topic", f"{root}.#")
    channel.queue_unbind(name, "amq.topic", f"{root}.*.temp")
    equal(client.publish(f"{root}/attic/temp", b"9", 1), 16, "nobody is left")
    equal(client.publish(f"{root}/kitchen/temp", b"22", 1), 0)
    equal(get(channel, name)[2], b"22")


@case("amqp mqtt")
def a_message_goes_round_no_circle(t):
    channel, client = channel_of(t), Mqtt(t)
    root = t.unique().replace("-", "_")
    name = bound(channel, f"{root}.#")
    client.subscribe(f"{root}/#")
    # Confirmed before the other connection publishes: the two have no order otherwise.
    channel.confirm_delivery()
    channel.basic_publish("amq.topic", f"{root}.a", b"from AMQP")
    client.publish(f"{root}/b", b"from MQTT")
    equal([client.next().payload for _ in range(2)], [b"from AMQP", b"from MQTT"])
    client.nothing()
    equal([get(channel, name)[2] for _ in range(2)], [b"from AMQP", b"from MQTT"])
    equal(channel.basic_get(name)[0], None)


@case("mqtt amqp exchange")
def topics_go_through_the_graph(t):
    channel, client = channel_of(t), Mqtt(t)
    root = t.unique().replace("-", "_")
    first, second, last = (t.unique() for _ in range(3))
    for exchange, kind in ((first, "fanout"), (second, "headers"), (last, "direct")):
        channel.exchange_declare(exchange, kind, auto_delete=True)
    channel.exchange_bind(first, "amq.topic", f"{root}.#")
    channel.exchange_bind(second, "amq.topic", f"{root}.*")
    channel.exchange_bind(last, first)
    everything = bound(channel, "", exchange=first)
    exact = bound(channel, f"{root}.a", exchange=last)
    by_header = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(by_header, second, "", {"x-match": "all", "unit": "C"})
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("unit", "C")
    for topic, with_unit in (("a", False), ("b", True), ("c/d", True)):
        client.publish(f"{root}/{topic}", topic, 1, False, properties if with_unit else None)
    equal([get(channel, everything)[2] for _ in range(3)], [b"a", b"b", b"c/d"])
    equal(get(channel, exact)[2], b"a")
    equal(get(channel, by_header)[2], b"b")
    for name in (everything, exact, by_header):
        equal(channel.basic_get(name)[0], None)
    # And the other way: an exchange that leads to the shared one.
    source = t.unique()
    channel.exchange_declare(source, "topic", auto_delete=True)
    channel.exchange_bind("amq.topic", source, "#")
    client.subscribe(f"{root}/#")
    channel.basic_publish(source, f"{root}.x", b"through")
    equal(client.next().payload, b"through")


@case("mqtt amqp x-recent-history")
def the_last_messages_of_topics_are_shown_both_ways(t):
    channel, client = channel_of(t), Mqtt(t)
    root, history = t.unique().replace("-", "_"), t.unique()
    channel.exchange_declare(history, "x-recent-history", auto_delete=True)
    channel.exchange_bind(history, "amq.topic", f"{root}.#")
    for number in range(3):
        client.publish(f"{root}/{number}", str(number), 1)
    channel.basic_publish("amq.topic", f"{root}.3", b"3")
    late = bound(channel, "", exchange=history)
    got = [get(channel, late) for _ in range(4)]
    equal([(method.routing_key, body) for method, _, body in got], [(f"{root}.{n}", b"%d" % n) for n in range(4)])
    # An exchange whose messages were nothing to subscribers becomes one that leads to them.
    other = t.unique()
    channel.exchange_declare(other, "x-recent-history", auto_delete=True)
    for number in range(3):
        channel.basic_publish(other, f"{root}.late.{number}", b"%d" % number)
    client.subscribe(f"{root}/late/#")
    channel.exchange_bind("amq.topic", other)
    equal([client.next().payload for _ in range(3)], [b"0", b"1", b"2"])
    client.nothing()


@case("mqtt amqp priority ttl")
def a_queue_has_its_own_ways(t):
    channel, client = channel_of(t), Mqtt(t)
    root = t.unique().replace("-", "_")
    name = bound(channel, f"{root}.a", arguments={"x-message-ttl": 200, "x-max-priority": 5})
    client.publish(f"{root}/a", b"x")
    until = time.monotonic() + PATIENCE
    while channel.queue_declare(name, passive=True).method.message_count and time.monotonic() < until:
        time.sleep(0.02)
    equal(channel.queue_declare(name, passive=True).method.message_count, 0)


@case("amqp mqtt confirm mandatory")
def confirms_cover_sessions_that_are_away(t):
    channel = channel_of(t)
    root, name = t.unique().replace("-", "_"), t.unique()
    away = Mqtt(t, name, keep=True)
    away.subscribe(f"{root}/#", 1)
    away.stop()
    channel.confirm_delivery()
    for number in range(20):
        # Somebody wants it: not returned although no queue is bound.
        channel.basic_publish(
            "amq.topic", f"{root}.a", b"%d" % number, pika.BasicProperties(delivery_mode=2), mandatory=True
        )
    try:
        channel.basic_publish("amq.topic", f"{root}nobody", b"", mandatory=True)
        raise AssertionError("not returned")
    except pika.exceptions.UnroutableError:
        pass
    back = Mqtt(t, name, clean=False)
    equal([back.next().payload for _ in range(20)], [b"%d" % number for number in range(20)])
    back.nothing()


@case("amqp mqtt share")
def members_of_a_share_take_turns(t):
    channel, one, two = channel_of(t), Mqtt(t), Mqtt(t)
    root = t.unique().replace("-", "_")
    for client in (one, two):
        client.subscribe(f"$share/g/{root}/#")
    for number in range(20):
        channel.basic_publish("amq.topic", f"{root}.a", b"%d" % number, pika.BasicProperties(delivery_mode=2))
    seen = set()
    for _ in range(200):
        for client in (one, two):
            try:
                seen.add(client.got.get(timeout=0.05).payload)
            except queue.Empty:
                pass
        if len(seen) == 20:
            break
    equal(len(seen), 20)


@case("mqtt amqp retain")
def a_retained_message_comes_once_and_is_not_kept_for_queues(t):
    channel, client = channel_of(t), Mqtt(t)
    root = t.unique().replace("-", "_")
    name = bound(channel, f"{root}.#")
    client.publish(f"{root}/a", b"kept", retain=True)
    equal(get(channel, name)[2], b"kept")
    later = bound(channel, f"{root}.#")
    equal(channel.basic_get(later)[0], None)
    # What AMQP publishes is nobody's last value.
    channel.basic_publish("amq.topic", f"{root}.a", b"newer")
    watcher = Mqtt(t)
    watcher.subscribe(f"{root}/#")
    message = watcher.next()
    equal((message.payload, message.retain), (b"kept", True))
    watcher.nothing()
    client.publish(f"{root}/a", b"", retain=True)


@case("amqp mqtt tx")
def a_transaction_is_shown_when_it_is_committed(t):
    channel, client = channel_of(t), Mqtt(t)
    root = t.unique().replace("-", "_")
    client.subscribe(f"{root}/#")
    channel.tx_select()
    channel.basic_publish("amq.topic", f"{root}.a", b"1")
    client.nothing()
    channel.tx_commit()
    equal(client.next().payload, b"1")
    channel.basic_publish("amq.topic", f"{root}.a", b"2")
    channel.tx_rollback()
    client.nothing()


@case("amqp mqtt dead letters")
def dead_letters_reach_subscribers_through_the_exchange(t):
    channel, client = channel_of(t), Mqtt(t)
    root = t.unique().replace("-", "_")
    client.subscribe(f"{root}/dead", 1)
    arguments = {
        "x-dead-letter-exchange": "amq.topic",
        "x-dead-letter-routing-key": f"{root}.dead",
        "x-message-ttl": 50,
    }
    channel.queue_declare("", exclusive=True, arguments=arguments)
    source = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
    beside = bound(channel, f"{root}.dead")
    channel.basic_publish("", source, b"gone", pika.BasicProperties(delivery_mode=2, content_type="text/plain"))
    message = client.next()
    equal((message.topic, message.payload, message.qos), (f"{root}/dead", b"gone", 1))
    equal(message.properties.ContentType, "text/plain")
    client.nothing()
    method, properties, body = get(channel, beside)
    equal((method.exchange, body), ("amq.topic", b"gone"))
    equal(properties.headers["x-death"][0]["reason"], "expired")


if __name__ == "__main__":
    suite.run()
