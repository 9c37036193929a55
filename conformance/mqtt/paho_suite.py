"""paho-mqtt drives 3.1, 3.1.1 and 5.0, over TCP and WebSocket."""

import pathlib
import queue
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import paho.mqtt.client as paho  # noqa: E402
from harness import suite  # noqa: E402
from harness.suite import Skip, case, equal  # noqa: E402
from paho.mqtt import publish, subscribe  # noqa: E402
from paho.mqtt.packettypes import PacketTypes  # noqa: E402
from paho.mqtt.properties import Properties  # noqa: E402
from paho.mqtt.subscribeoptions import SubscribeOptions  # noqa: E402

#: Seconds that anything may take.
PATIENCE = 20

V31, V311, V5 = paho.MQTTv31, paho.MQTTv311, paho.MQTTv5
VERSIONS = (V31, V311, V5)


def properties(kind, **values):
    """Properties of a packet by their names here."""
    made = Properties(kind)
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Peer:
    """A client with its loop in a thread, its events in queues."""

    def __init__(self, t, version=V5, client=None, clean=True, transport="tcp", connect=True, **options):
        self.messages = queue.Queue()
        self.connected = queue.Queue()
        self.gone = queue.Queue()
        self._done = {}
        self._lock = threading.Condition()
        self.id = client or t.unique()
        self._clean = clean
        self.version = version
        arguments = {} if version == V5 else {"clean_session": clean}
        self.paho = paho.Client(
            paho.CallbackAPIVersion.VERSION2, self.id, protocol=version, transport=transport, **arguments
        )
        self.paho.on_connect = lambda c, u, flags, code, props: self.connected.put((flags, code, props))
        self.paho.on_disconnect = lambda c, u, flags, code, props: self.gone.put(code)
        self.paho.on_message = lambda c, u, message: self.messages.put(message)
        self.paho.on_subscribe = lambda c, u, mid, codes, props: self._finished("subscribe", mid, codes)
        self.paho.on_unsubscribe = lambda c, u, mid, codes, props: self._finished("unsubscribe", mid, codes)
        self.paho.on_publish = lambda c, u, mid, code, props: self._finished("publish", mid, code)
        self._host, self._port = t.host, t.port
        if transport == "websockets":
            if not t.websocket:
                raise Skip("the server speaks no WebSocket")
            self._host, port = t.websocket.rsplit(":", 1)
            self._port = int(port)
        t.defer(self.stop)
        self.flags = self.code = self.properties = None
        if connect:
            self.connect(**options)

    def connect(self, keepalive=60, expiry=None, **values):
        """Connects and waits for the CONNACK."""
        arguments = {}
        if self.version == V5:
            if expiry is not None:
                values["SessionExpiryInterval"] = expiry
            arguments = {"clean_start": self._clean, "properties": properties(PacketTypes.CONNECT, **values)}
        self.paho.connect(self._host, self._port, keepalive, **arguments)
        self.paho.loop_start()
        self.flags, self.code, self.properties = self.connected.get(timeout=PATIENCE)
        return self

    def stop(self):
        """Ends connection and thread."""
        self.paho.disconnect()
        self.paho.loop_stop()

    def lose(self):
        """Loses the connection without a DISCONNECT, and stays away."""
        self.paho.loop_stop()
        self.paho.socket().close()

    def subscribe(self, *arguments, **options):
        """Subscribes, and returns the codes as numbers."""
        _, mid = self.paho.subscribe(*arguments, **options)
        return [code.value for code in self._wait("subscribe", mid)]

    def unsubscribe(self, topic):
        """Unsubscribes, and returns the codes as numbers; version 3 has none."""
        _, mid = self.paho.unsubscribe(topic)
        return [code.value for code in self._wait("unsubscribe", mid)]

    def publish(self, topic, payload=b"", qos=0, retain=False, **values):
        """Publishes, and waits until the server has it."""
        made = properties(PacketTypes.PUBLISH, **values) if values else None
        info = self.paho.publish(topic, payload, qos, retain, made)
        info.wait_for_publish(PATIENCE)
        code = self._wait("publish", info.mid)
        return code.value

    def message(self):
        """The next message."""
        return self.messages.get(timeout=PATIENCE)

    def until(self, last):
        """The payloads of the messages before the one with this payload."""
        heard = []
        while (payload := self.message().payload) != last:
            heard.append(payload)
        return heard

    def _finished(self, what, mid, value):
        with self._lock:
            self._done[what, mid] = value
            self._lock.notify_all()

    def _wait(self, what, mid):
        with self._lock:
            if not self._lock.wait_for(lambda: (what, mid) in self._done, PATIENCE):
                raise AssertionError(f"no answer to {what} {mid}")
            return self._done.pop((what, mid))


def in_order(messages, count, by_qos=True):
    """Whether all messages `0` to `count` came, those of one QoS in order: paho shows QoS 2 at PUBREL, so later."""
    numbers = [(m.qos, int(m.payload)) for m in messages]
    equal(sorted(n for _, n in numbers), list(range(count)))
    for qos in (1, 2) if by_qos else ():
        mine = [n for q, n in numbers if q == qos]
        equal(mine, sorted(mine), f"order of QoS {qos}")


@case("CONNECT SUBSCRIBE PUBLISH UNSUBSCRIBE DISCONNECT", "waits")
def round_trips(t):
    for version in VERSIONS:
        topic = t.unique()
        c = Peer(t, version)
        equal((c.code.value, c.flags.session_present), (0, False))
        equal(c.subscribe([(topic + "/0", 0), (topic + "/1", 1), (topic + "/2", 2)]), [0, 1, 2])
        for qos in (0, 1, 2):
            for payload in (b"", b"x", "grüße".encode(), bytes(range(256)) * 200):
                c.publish(f"{topic}/{qos}", payload, qos)
                m = c.message()
                equal((m.topic, m.payload, m.qos, m.retain), (f"{topic}/{qos}", payload, qos, False))
        c.unsubscribe(topic + "/0")
        c.publish(topic + "/0", b"unheard")
        c.publish(topic + "/1", b"last", 1)
        equal(c.until(b"last"), [])
        c.paho.disconnect()
        equal(c.gone.get(timeout=PATIENCE).value, 0)


@case("WebSocket", "waits")
def websocket(t):
    for version in VERSIONS:
        topic = t.unique()
        c = Peer(t, version, transport="websockets")
        other = Peer(t, version)
        c.subscribe(topic, 2)
        for size in (0, 1, 125, 126, 65_535, 65_536, 300_000):
            other.publish(topic, b"w" * size, 1)
            equal(len(c.message().payload), size)
            c.publish(topic, b"v" * size, 2)
            equal(len(c.message().payload), size)


@case("WebSocket: another path", "waits")
def websocket_path(t):
    for path in ("/", "/mqtt", "/anything/else"):
        c = Peer(t, transport="websockets", connect=False)
        c.paho.ws_set_options(path=path)
        equal(c.connect().code.value, 0)


@case("persistent session", "waits")
def persistent_session(t):
    for version in VERSIONS:
        topic = t.unique()
        options = {"expiry": 600} if version == V5 else {}
        c = Peer(t, version, clean=False, **options)
        c.subscribe([(topic, 1), (topic + "/2", 2)])
        c.stop()
        p = Peer(t)
        for n in range(200):
            p.publish(topic if n % 2 else topic + "/2", b"%d" % n, 2)
        c = Peer(t, version, client=c.id, clean=False, **options)
        if version != V31:
            equal(c.flags.session_present, True)
        in_order([c.message() for _ in range(200)], 200)
        c.stop()
        c = Peer(t, version, client=c.id, clean=True)
        equal(c.flags.session_present, False)


@case("reconnect with messages in flight", "waits")
def lost_connection(t):
    for version in (V311, V5):
        topic = t.unique()
        options = {"expiry": 600} if version == V5 else {}
        c = Peer(t, version, clean=False, connect=False)
        c.connect(**options)
        c.subscribe(topic, 2)
        p = Peer(t)
        heard = []
        for round_ in range(4):
            for n in range(25):
                p.publish(topic, b"%d-%d" % (round_, n), 2)
            # The same client object: it sends again what it had in flight, and dedupes QoS 2 as a receiver.
            c.lose()
            p.publish(topic, b"%d-away" % round_, 2)
            c.connect(**options)
            equal(c.flags.session_present, True)
        p.publish(topic, b"last", 2)
        heard = c.until(b"last")
        wanted = [b"%d-%s" % (r, x) for r in range(4) for x in [b"%d" % n for n in range(25)] + [b"away"]]
        equal(sorted(heard), sorted(wanted), f"version {version}")


@case("will", "waits")
def will(t):
    for version in VERSIONS:
        topic = t.unique()
        s = Peer(t)
        s.subscribe(topic, 2)
        c = Peer(t, version, connect=False)
        c.paho.will_set(topic, b"gone", 1, retain=True)
        c.connect()
        c.lose()
        equal(s.message().payload, b"gone")
        late = Peer(t)
        late.subscribe(topic, 1)
        m = late.message()
        equal((m.payload, m.retain, m.qos), (b"gone", True, 1))
        p = Peer(t, version, connect=False)
        p.paho.will_set(topic, b"unsaid", 1)
        p.connect()
        p.publish(topic, b"", 1, retain=True)
        p.stop()
        s.until(b"")
        Peer(t).publish(topic, b"last", 1)
        equal(s.until(b"last"), [])


@case("will with delay and properties", "waits")
def will_of_v5(t):
    topic = t.unique()
    s = Peer(t)
    s.subscribe(topic, 1)
    c = Peer(t, connect=False)
    c.paho.will_set(
        topic,
        b"gone",
        1,
        properties=properties(PacketTypes.WILLMESSAGE, WillDelayInterval=1, ContentType="x", UserProperty=("a", "b")),
    )
    c.connect(expiry=60)
    c.lose()
    m = s.message()
    equal((m.payload, m.properties.ContentType, m.properties.UserProperty), (b"gone", "x", [("a", "b")]))


@case("retain", "waits")
def retained(t):
    for version in VERSIONS:
        topic = t.unique()
        p = Peer(t, version)
        for name in "abc":
            p.publish(f"{topic}/{name}", name, 1, retain=True)
        p.publish(f"{topic}/b", b"", 1, retain=True)
        c = Peer(t, version)
        c.subscribe(topic + "/+", 1)
        found = [c.message() for _ in range(2)]
        equal(sorted((m.payload, m.retain) for m in found), [(b"a", True), (b"c", True)])


@case("properties of 5.0", "waits")
def properties_of_v5(t):
    topic = t.unique()
    c = Peer(t)
    c.subscribe(topic, 2)
    for qos in (0, 1, 2):
        c.publish(
            topic,
            b"x",
            qos,
            PayloadFormatIndicator=1,
            MessageExpiryInterval=600,
            ContentType="text/plain",
            ResponseTopic="answers",
            CorrelationData=b"\0\1",
            UserProperty=[("k", "1"), ("a", "2"), ("k", "1")],
        )
        found = c.message().properties
        equal(
            (found.PayloadFormatIndicator, found.ContentType, found.ResponseTopic, found.CorrelationData),
            (1, "text/plain", "answers", b"\0\1"),
        )
        equal(found.UserProperty, [("k", "1"), ("a", "2"), ("k", "1")])
        equal(590 <= found.MessageExpiryInterval <= 600, True)


@case("subscription options and identifiers", "waits")
def subscription_options(t):
    topic = t.unique()
    c, p = Peer(t), Peer(t)
    p.publish(topic, b"old", 1, retain=True)
    equal(
        c.subscribe(
            topic,
            options=SubscribeOptions(1, noLocal=True, retainAsPublished=True, retainHandling=2),
            properties=properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=99),
        ),
        [1],
    )
    c.publish(topic, b"own", 1)
    p.publish(topic, b"other", 1, retain=True)
    m = c.message()
    equal((m.payload, m.retain, m.properties.SubscriptionIdentifier), (b"other", True, [99]))


@case("shared subscriptions", "waits")
def shared(t):
    topic = t.unique()
    group = [Peer(t, version) for version in (V5, V5, V311)]
    for c in group:
        c.subscribe([(f"$share/g/{topic}", 1), (topic + "-last", 1)])
    p = Peer(t)
    for n in range(60):
        p.publish(topic, b"%d" % n, 1)
    p.publish(topic + "-last", b"last", 1)
    heard = [c.until(b"last") for c in group]
    equal(sorted(sum(heard, [])), sorted(b"%d" % n for n in range(60)))
    equal(all(heard), True)


@case("takeover", "waits")
def takeover(t):
    for version in (V311, V5):
        first = Peer(t, version)
        first.paho.reconnect_delay_set(60, 60)
        Peer(t, version, client=first.id)
        code = first.gone.get(timeout=PATIENCE)
        equal(code.is_failure, True)


@case("many in flight", "waits", ("mosquitto", "loses those beyond its own limit of 20, without a word to 3.1.1"))
def many_in_flight(t):
    # With 5.0 it does not look at the server's receive maximum: its own default of 20 is what fits everywhere.
    flood(t, (V31, V311), 100)


@case("many in flight", "waits")
def twenty_in_flight(t):
    flood(t, VERSIONS, 20)


def flood(t, versions, window):
    """Sends 1,000 messages with so many in flight."""
    for version in versions:
        topic = t.unique()
        s, p = Peer(t, version), Peer(t, version, connect=False)
        p.paho.max_inflight_messages_set(window)
        p.paho.max_queued_messages_set(0)
        p.connect()
        s.subscribe(topic, 2)
        infos = [p.paho.publish(topic, b"%d" % n, n % 2 + 1) for n in range(1000)]
        for info in infos:
            info.wait_for_publish(PATIENCE)
        heard = []
        while len(heard) < 1000:
            try:
                heard.append(int(s.message().payload))
            except queue.Empty:
                missing = sorted(set(range(1000)) - set(heard))
                raise AssertionError(f"version {version}: {len(missing)} missing, first {missing[:9]}") from None
        equal(sorted(heard), list(range(1000)))


@case("receive maximum of the client", "waits")
def small_window(t):
    topic = t.unique()
    c = Peer(t, ReceiveMaximum=2)
    c.subscribe(topic, 2)
    p = Peer(t)
    for n in range(50):
        p.publish(topic, b"%d" % n, n % 2 + 1)
    # Mosquitto 2.0.11 overruns a small window, and then changes the order now and then.
    in_order([c.message() for _ in range(50)], 50, t.flavour != "mosquitto")


@case("reason codes of 5.0", "waits")
def reason_codes(t):
    topic = t.unique()
    c = Peer(t)
    equal(c.publish(topic, b"x", 1), 0x10, "no matching subscribers")
    equal(c.unsubscribe(topic), [0x11], "no subscription existed")
    c.subscribe(topic, 1)
    equal(c.publish(topic, b"x", 1), 0)
    equal(c.unsubscribe(topic), [0])


@case("keep alive", "waits")
def keep_alive(t):
    # Idle for longer than one and a half of it; half of it is room for a client that is late with its ping.
    peers = [Peer(t, version, keepalive=4) for version in (V31, V311, V5)]
    for c in peers:
        c.subscribe(t.unique(), 1)
    time.sleep(7)
    for c in peers:
        equal(c.gone.empty(), True, "an idle client that pings stays connected")
        topic = t.unique()
        c.subscribe(topic, 1)
        c.publish(topic, b"x", 1)
        equal(c.message().payload, b"x")


@case("single-shot helpers", "waits")
def helpers(t):
    topic = t.unique()
    server = {"hostname": t.host, "port": t.port}
    publish.multiple([(topic + "/a", b"1", 1, True), (topic + "/b", b"2", 2, True)], **server)
    found = subscribe.simple(topic + "/+", qos=2, msg_count=2, **server)
    equal(sorted((m.topic, m.payload) for m in found), [(topic + "/a", b"1"), (topic + "/b", b"2")])


@case("bridge bit", "waits")
def bridge(t):
    topic = t.unique()
    c = Peer(t, V311, connect=False)
    c.paho.enable_bridge_mode()
    c.connect()
    c.subscribe(topic, 1)
    c.publish(topic, b"own", 1)
    Peer(t).publish(topic, b"other", 1)
    equal(c.message().payload, b"other")


if __name__ == "__main__":
    suite.run()
