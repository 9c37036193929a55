"""Section 4.5: retained messages."""

import time

import wire
from harness.suite import case, equal
from wire import Age, Client, publish

ONLY_NEW, NEVER = 0x10, 0x20


def kept(t, topic, payload=b"kept", qos=1, **options):
    """Publishes a retained message."""
    p = Client(t)
    p.publish(topic, payload, qos, retain=True, **options)
    p.bye()


def replayed(t, c, topic, *filters, **options):
    """Subscribes, and returns what was replayed before a later live message."""
    c.subscribe(*filters, (topic + "-last", 0), **options)
    Client(t).publish(topic + "-last", b"last")
    out = []
    while True:
        found = c.take()
        if found.payload == b"last":
            return out
        out.append(found)


@case("4.5.1: replace and clear", "waits")
def replace_and_clear(t):
    topic = t.unique()
    for version in (4, 5):
        for qos in (0, 1, 2):
            kept(t, topic, b"one", qos)
            kept(t, topic, b"two", qos)
            equal([m.payload for m in replayed(t, Client(t, version), topic, topic)], [b"two"])
            live = Client(t)
            live.subscribe((topic, 0))
            live.take()
            kept(t, topic, b"", qos)
            found = live.take()
            equal((found.payload, found.retain), (b"", 0), "forwarded as a normal message")
            equal(replayed(t, Client(t, version), topic, topic), [])


@case("4.5.2", "waits")
def replay_has_the_flag(t):
    topic = t.unique()
    kept(t, topic)
    for version, options in ((4, 0), (5, 0), (5, 8)):
        c = Client(t, version)
        c.subscribe((topic, options))
        equal(c.take().retain, 1)


@case("4.5.3: v3 always; A9", "waits")
def replay_on_resubscribe_of_v3(t):
    topic = t.unique()
    kept(t, topic)
    c = Client(t, 4, clean=False)
    for _ in range(2):
        for _ in range(2):
            c.subscribe(topic)
            equal(c.take().payload, b"kept")
        c.bye()
        c = Client(t, 4, client=c.id, clean=False)


@case("4.5.3: v5 by retain handling", "waits")
def retain_handling(t):
    topic = t.unique()
    kept(t, topic)
    for handling, expected in ((0, [1, 1]), (ONLY_NEW, [1, 0]), (NEVER, [0, 0])):
        c = Client(t)
        found = [len(replayed(t, c, topic, (topic, handling))) for _ in range(2)]
        equal(found, expected, f"handling {handling:#x}")
    # A subscription that the session kept is not new.
    c = Client(t, properties=[(wire.SESSION_EXPIRY, 60)])
    equal(len(replayed(t, c, topic, (topic, ONLY_NEW))), 1)
    c.bye()
    c = Client(t, client=c.id, clean=False)
    equal(len(replayed(t, c, topic, (topic, ONLY_NEW))), 0)
    c.unsubscribe(topic)
    equal(len(replayed(t, c, topic, (topic, ONLY_NEW))), 1)


@case("4.5.3: shared subscriptions never", "waits", ("mosquitto", "2.0.11 replays"))
def no_replay_for_shared(t):
    topic = t.unique()
    kept(t, topic)
    equal(replayed(t, Client(t), topic, f"$share/g/{topic}"), [])


@case("4.5.4", "waits")
def replay_qos(t):
    topic = t.unique()
    for stored in (0, 1, 2):
        kept(t, topic, b"x", stored)
        for granted in (0, 1, 2):
            c = Client(t)
            c.subscribe((topic, granted))
            equal(c.take().qos, min(stored, granted))


@case("4.5.4: properties and remaining expiry", "waits")
def replay_properties(t):
    topic = t.unique()
    pairs = [(wire.PAYLOAD_FORMAT, 1), (wire.MESSAGE_EXPIRY, 100), (wire.CONTENT_TYPE, "x"), (wire.RESPONSE_TOPIC, "r"),
             (wire.CORRELATION_DATA, b"c"), (wire.USER_PROPERTY, ("k", "1")), (wire.USER_PROPERTY, ("k", "1"))]  # fmt: skip
    age = Age(lambda: kept(t, topic, properties=pairs))
    time.sleep(2.2)
    age.ask()
    c = Client(t)
    c.subscribe(topic)
    found = c.take()
    age.check(found, 100)
    equal(
        sorted(p for p in found.properties if p[0] != wire.MESSAGE_EXPIRY),
        sorted(p for p in pairs if p[0] != wire.MESSAGE_EXPIRY),
    )


@case("4.5.5: after the SUBACK", "waits")
def suback_before_replay(t):
    topic = t.unique()
    for n in range(20):
        kept(t, f"{topic}/{n}", b"%d" % n, 0)
    c = Client(t, 4)
    c.send(wire.subscribe(4, 7, [(topic + "/+", 1)]), wire.subscribe(4, 8, [(topic + "/#", 0)]))
    c.expect("SUBACK", pid=7)
    found = []
    while len(found) < 40:
        one = c.receive()
        if one.kind == "SUBACK":
            equal(len(found) <= 20, True)
            continue
        found.append(one.payload)
    equal(sorted(found), sorted([b"%d" % n for n in range(20)] * 2))


@case("4.5.6", "waits")
def retained_expires(t):
    topic = t.unique()
    kept(t, topic, b"short", properties=[(wire.MESSAGE_EXPIRY, wire.SHORT)])
    kept(t, topic + "/long", b"long", properties=[(wire.MESSAGE_EXPIRY, 100)])
    c = Client(t)
    c.subscribe(topic)
    equal(c.take().payload, b"short")
    time.sleep(wire.PAST)
    equal([m.payload for m in replayed(t, Client(t), topic, topic + "/#")], [b"long"])


@case("4.5.7, 4.5.9: last committed wins, never new then old", "waits")
def live_and_retained_race(t):
    topic = t.unique()
    p, s = Client(t), Client(t)
    for n in range(100):
        p.send(publish(5, topic, b"%06d" % n, 0, retain=True))
        if n % 10 == 5:
            s.subscribe(topic)
    p.ping()
    p.publish(topic, b"last", 0)
    seen = s.until(b"last")
    # With each SUBSCRIBE the stored one comes once more, never one older than what was live before.
    equal(seen, sorted(seen), "order")
    late = Client(t)
    late.subscribe(topic)
    equal(late.take().payload, b"000099")


@case("4.5: wildcards over many; A8", "waits")
def many_retained(t):
    topic = t.unique()
    p = Client(t)
    count = 3000
    for start in range(0, count, 500):
        p.send(*[publish(5, f"{topic}/{n}", b"%d" % n, 0, retain=True) for n in range(start, start + 500)])
        p.ping()
    everything = {b"%d" % n for n in range(count)}
    for version, qos in ((4, 0), (5, 1)):
        c = Client(t, version)
        c.subscribe(topic + "/+", qos=qos)
        equal({c.take().payload for _ in range(count)}, everything)
        c.bye()


@case("4.5; A8: more than a window of QoS 1", "waits", ("mosquitto", "cut at max_queued_messages: 1,000 and the window"))
def many_retained_of_qos_1(t):
    topic = t.unique()
    p = Client(t)
    count = 1500
    window = min(p.limit(wire.RECEIVE_MAXIMUM, 65535), 100)
    for start in range(0, count, window):
        batch = range(start, min(start + window, count))
        p.send(*[publish(5, f"{topic}/{n}", b"%d" % n, 1, n + 1, retain=True) for n in batch])
        for n in batch:
            p.expect("PUBACK", pid=n + 1)
    c = Client(t, properties=[(wire.RECEIVE_MAXIMUM, 10)])
    c.subscribe(topic + "/+", qos=1)
    equal({c.take().payload for _ in range(count)}, {b"%d" % n for n in range(count)})


@case("4.5.1: QoS 0 publishes are kept too", "waits")
def retained_of_another_version(t):
    topic = t.unique()
    for publisher, subscriber in ((3, 5), (5, 3)):
        p = Client(t, publisher)
        p.publish(topic, b"%d" % publisher, 0, retain=True)
        c = Client(t, subscriber)
        c.subscribe(topic)
        equal(c.take().payload, b"%d" % publisher)


@case("A10: after QoS 2 through a persistent session", "waits")
def retained_by_qos_2(t):
    topic = t.unique()
    p = Client(t, 4, clean=False)
    for n in range(5):
        p.publish(topic, b"%d" % n, 2, retain=True)
    p.bye()
    Client(t, 4, client=p.id, clean=False).ping()
    c = Client(t)
    c.subscribe(topic)
    equal(c.take().payload, b"4")
