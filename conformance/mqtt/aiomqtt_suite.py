"""aiomqtt, an asyncio client on top of paho-mqtt."""

import asyncio
import functools
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import aiomqtt  # noqa: E402
from harness import suite  # noqa: E402
from harness.suite import Skip, case, equal  # noqa: E402
from paho.mqtt.packettypes import PacketTypes  # noqa: E402
from paho.mqtt.properties import Properties  # noqa: E402

PATIENCE = 30

# It warns of more than ten publishes at once, which is what one case does.
logging.getLogger("mqtt").setLevel(logging.ERROR)

V311, V5 = aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5


def asynchronous(function):
    """Runs a case in an event loop of its own."""

    @functools.wraps(function)
    def run(t):
        asyncio.run(asyncio.wait_for(function(t), PATIENCE))

    return run


def client(t, version=V5, **options):
    """A client, to be entered."""
    options.setdefault("identifier", t.unique())
    return aiomqtt.Client(t.host, t.port, protocol=version, **options)


async def take(c, count):
    """The payloads of the next messages."""
    out = []
    async for message in c.messages:
        out.append(message.payload)
        if len(out) == count:
            return out


@case("publish and subscribe", "waits")
@asynchronous
async def round_trips(t):
    for version in (V311, V5):
        topic = t.unique()
        async with client(t, version) as c:
            await c.subscribe(topic, qos=2)
            for qos in (0, 1, 2):
                for payload in (b"x", b"", b"y" * 100_000):
                    await c.publish(topic, payload, qos)
                    message = await anext(aiter(c.messages))
                    equal((message.payload, message.qos, str(message.topic)), (payload, qos, topic))
            await c.unsubscribe(topic)


@case("WebSocket", "waits")
@asynchronous
async def websocket(t):
    if not t.websocket:
        raise Skip("the server speaks no WebSocket")
    host, port = t.websocket.rsplit(":", 1)
    topic = t.unique()
    async with aiomqtt.Client(host, int(port), transport="websockets", websocket_path="/mqtt") as c:
        await c.subscribe(topic)
        await c.publish(topic, b"x")
        equal(await take(c, 1), [b"x"])


@case("persistent session", "waits")
@asynchronous
async def persistent_session(t):
    topic, name = t.unique(), t.unique()
    expiry = Properties(PacketTypes.CONNECT)
    expiry.SessionExpiryInterval = 600
    for version, options in (
        (V311, {"clean_session": False}),
        (V5, {"clean_start": False, "properties": expiry}),
    ):
        async with client(t, version, identifier=name, **options) as c:
            await c.subscribe(topic, qos=1)
        async with client(t) as p:
            for n in range(50):
                await p.publish(topic, b"%d" % n, 1)
        async with client(t, version, identifier=name, **options) as c:
            equal(await take(c, 50), [b"%d" % n for n in range(50)])


@case("will", "waits")
@asynchronous
async def will(t):
    topic = t.unique()
    async with client(t) as s:
        await s.subscribe(topic, qos=1)
        lost = client(t, will=aiomqtt.Will(topic, b"gone", 1))
        async with lost as c:
            # The library's own socket, closed without a DISCONNECT.
            c._client.socket().shutdown(2)
            equal(await take(s, 1), [b"gone"])
            try:
                await c.publish(topic, b"never", 1)
            except aiomqtt.MqttError:
                return


@case("many at once", "waits")
@asynchronous
async def concurrent(t):
    topic = t.unique()
    async with client(t) as s, client(t) as p:
        await s.subscribe(topic + "/#", qos=2)
        await asyncio.gather(*[p.publish(f"{topic}/{n}", b"%d" % n, n % 3) for n in range(300)])
        equal(sorted(await take(s, 300)), sorted(b"%d" % n for n in range(300)))


@case("retain and wildcards", "waits")
@asynchronous
async def retained(t):
    topic = t.unique()
    async with client(t, V311) as p:
        for name in "ab":
            await p.publish(f"{topic}/{name}/state", name, 1, retain=True)
    async with client(t, V311) as c:
        await c.subscribe(topic + "/+/state", qos=1)
        equal(sorted(await take(c, 2)), [b"a", b"b"])


@case("a refused connection is an error", "waits")
@asynchronous
async def takeover(t):
    name = t.unique()
    try:
        async with client(t, identifier=name) as first:
            async with client(t, identifier=name):
                await take(first, 1)
    except aiomqtt.MqttError:
        return
    raise AssertionError("the first client does not notice")


if __name__ == "__main__":
    suite.run()
