"""gmqtt, an asyncio client that speaks 5.0 first and falls back to 3.1.1."""

import asyncio
import functools
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import gmqtt  # noqa: E402
from gmqtt.mqtt.constants import MQTTv50, MQTTv311  # noqa: E402
from harness import suite  # noqa: E402
from harness.suite import case, equal  # noqa: E402

PATIENCE = 30

# What it logs about connections that a case ends on purpose is no result.
logging.getLogger("gmqtt").setLevel(logging.CRITICAL)


def asynchronous(function):
    """Runs a case in an event loop of its own."""

    @functools.wraps(function)
    def run(t):
        asyncio.run(asyncio.wait_for(function(t), PATIENCE))

    return run


class Peer:
    """A client with its events in queues."""

    def __init__(self, t, client=None, clean=True, will=None, **options):
        self.id = client or t.unique()
        self.messages = asyncio.Queue()
        self.acks = asyncio.Queue()
        self.ended = asyncio.Event()
        self.answer = None
        self.gmqtt = gmqtt.Client(self.id, clean_session=clean, will_message=will, **options)
        # Zero allows one, and -1 means for ever.
        self.gmqtt.set_config({"reconnect_retries": -2})
        self.gmqtt.on_connect = self._connected
        self.gmqtt.on_message = self._message
        self.gmqtt.on_subscribe = lambda client, mid, qos, properties: self.acks.put_nowait(list(qos))
        self.gmqtt.on_unsubscribe = lambda client, mid, *rest: self.acks.put_nowait("unsubscribed")
        self.gmqtt.on_disconnect = lambda client, packet, exc=None: self.ended.set()
        self._address = (t.host, t.port)

    async def open(self, version=MQTTv50, keepalive=60):
        """Connects."""
        await self.gmqtt.connect(*self._address, version=version, keepalive=keepalive)
        return self

    async def subscribe(self, topic, qos=0, **options):
        """Subscribes, and returns the codes."""
        self.gmqtt.subscribe(gmqtt.Subscription(topic, qos=qos, **options))
        return await self.acks.get()

    async def take(self):
        """The next message: topic, payload, QoS, properties."""
        return await self.messages.get()

    async def close(self):
        """Disconnects."""
        await self.gmqtt.disconnect()

    def lose(self):
        """Loses the connection without a DISCONNECT."""
        self.gmqtt._connection._transport.abort()

    def _connected(self, client, flags, rc, properties):
        self.answer = (flags, rc, properties)

    async def _message(self, client, topic, payload, qos, properties):
        self.messages.put_nowait((topic, bytes(payload), qos, properties))
        return 0


@case("publish and subscribe", "waits")
@asynchronous
async def round_trips(t):
    for version in (MQTTv311, MQTTv50):
        topic = t.unique()
        c = await Peer(t).open(version)
        equal(c.answer[:2], (0, 0))
        for granted in (0, 1, 2):
            equal(await c.subscribe(f"{topic}/{granted}", granted), [granted])
            for qos in (0, 1, 2):
                c.gmqtt.publish(f"{topic}/{granted}", b"%d" % qos, qos=qos)
                found = await c.take()
                equal(found[:3], (f"{topic}/{granted}", b"%d" % qos, min(qos, granted)))
        c.gmqtt.unsubscribe(f"{topic}/0")
        equal(await c.acks.get(), "unsubscribed")
        await c.close()


@case("properties of 5.0", "waits")
@asynchronous
async def properties(t):
    topic = t.unique()
    c = await Peer(t).open()
    await c.subscribe(topic, 1, subscription_identifier=7)
    c.gmqtt.publish(
        topic,
        b"x",
        qos=1,
        content_type="json",
        message_expiry_interval=100,
        response_topic="answers",
        correlation_data=b"1",
        user_property=[("a", "1"), ("a", "2")],
    )
    found = (await c.take())[3]
    equal(
        (found["content_type"], found["response_topic"], found["correlation_data"]), (["json"], ["answers"], [b"1"])
    )
    equal(found["user_property"], [("a", "1"), ("a", "2")])
    equal(found["subscription_identifier"], [7])
    await c.close()


@case("persistent session", "waits")
@asynchronous
async def persistent_session(t):
    for version, options in ((MQTTv50, {"session_expiry_interval": 600}), (MQTTv311, {})):
        topic = t.unique()
        c = await Peer(t, clean=False, **options).open(version)
        await c.subscribe(topic, 2)
        await c.close()
        p = await Peer(t).open()
        s = await Peer(t).open()
        await s.subscribe(topic, 2)
        # Somebody who is there has heard them all, so they wait for the one who is not. This version has no more ids
        # than the server's receive maximum, hence one at a time.
        for n in range(40):
            p.gmqtt.publish(topic, b"%d" % n, qos=n % 2 + 1)
            await s.take()
        c = await Peer(t, client=c.id, clean=False, **options).open(version)
        equal(sorted([(await c.take())[1] for _ in range(40)]), sorted(b"%d" % n for n in range(40)))
        for one in (c, p, s):
            await one.close()


@case("will", "waits")
@asynchronous
async def will(t):
    for version in (MQTTv311, MQTTv50):
        topic = t.unique()
        s = await Peer(t).open()
        await s.subscribe(topic, 1)
        c = await Peer(t, will=gmqtt.Message(topic, b"gone", qos=1)).open(version)
        c.lose()
        equal((await s.take())[1], b"gone")
        await s.close()


@case("will with delay", "waits")
@asynchronous
async def delayed_will(t):
    topic = t.unique()
    s = await Peer(t).open()
    await s.subscribe(topic, 1)
    message = gmqtt.Message(topic, b"gone", qos=1, will_delay_interval=1)
    c = await Peer(t, will=message, session_expiry_interval=60).open()
    c.lose()
    equal((await s.take())[1], b"gone")
    await s.close()


@case("subscription options", "waits")
@asynchronous
async def subscription_options(t):
    topic = t.unique()
    c = await Peer(t).open()
    other = await Peer(t).open()
    await c.subscribe(topic, 1, no_local=True, retain_as_published=True)
    c.gmqtt.publish(topic, b"own", qos=1)
    other.gmqtt.publish(topic, b"other", qos=1, retain=True)
    found = await c.take()
    equal((found[1], found[3]["retain"]), (b"other", 1))
    await c.close()
    await other.close()


@case("takeover", "waits")
@asynchronous
async def takeover(t):
    first = await Peer(t).open()
    second = await Peer(t, client=first.id).open()
    await first.ended.wait()
    await second.close()


@case("many messages", "waits")
@asynchronous
async def many(t):
    topic = t.unique()
    s, p = await Peer(t, receive_maximum=5).open(), await Peer(t).open()
    await s.subscribe(topic, 2)
    heard = []
    for start in range(0, 500, 10):
        for n in range(start, start + 10):
            p.gmqtt.publish(topic, b"%d" % n, qos=n % 3)
        heard += [(await s.take())[1] for _ in range(10)]
    equal(sorted(heard), sorted(b"%d" % n for n in range(500)))
    await s.close()
    await p.close()


if __name__ == "__main__":
    suite.run()
