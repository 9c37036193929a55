"""Section 4.3: the will: when it fires, when not, with what, and who hears it."""

import time

import wire
from harness.suite import case, equal
from wire import Client, Will, disconnect

HOUR = [(wire.SESSION_EXPIRY, 3600)]


def delayed(topic, seconds, **options):
    """A will with a delay."""
    return Will(topic, properties=[(wire.WILL_DELAY, seconds)], **options)


def watching(t, topic, **options):
    """A subscriber of the will's topic and of a topic for the last message."""
    s = Client(t)
    s.subscribe((topic, 2), (topic + "-last", 2), **options)
    return s


def heard(t, watcher, topic):
    """What the watcher heard until now."""
    Client(t).publish(topic + "-last", b"last", 2)
    return watcher.until(b"last")


@case("4.3.1: socket loss", "waits")
def fires_on_loss(t):
    for version in (3, 4, 5):
        for qos in (0, 1, 2):
            topic = t.unique()
            s = watching(t, topic)
            c = Client(t, version, will=Will(topic, b"w%d" % qos, qos))
            c.close()
            found = s.take()
            equal((found.payload, found.qos, found.retain), (b"w%d" % qos, qos, 0))


@case("4.3.1: not on DISCONNECT 0x00", "waits")
def does_not_fire_on_disconnect(t):
    for version, code in ((3, None), (4, None), (5, None), (5, 0)):
        topic = t.unique()
        s = watching(t, topic)
        Client(t, version, will=Will(topic)).bye(code)
        equal(heard(t, s, topic), [])


@case("4.3.1: DISCONNECT 0x04", "waits")
def fires_on_disconnect_with_will(t):
    topic = t.unique()
    s = watching(t, topic)
    Client(t, will=Will(topic)).bye(4)
    equal(s.take().payload, b"gone")
    equal(heard(t, s, topic), [], "and not twice")


@case("4.3.1: only 0x00 takes the will back", "waits", ("mosquitto", "2.0.11 fires it on 0x04 alone"))
def fires_on_disconnect_with_an_error(t):
    for code in (0x80, 0x82, 0x98):
        topic = t.unique()
        s = watching(t, topic)
        Client(t, will=Will(topic)).bye(code)
        equal(s.take().payload, b"gone", f"{code:#x}")
        equal(heard(t, s, topic), [], "and not twice")


@case("4.3.1: protocol error", "waits")
def fires_on_protocol_error(t):
    for version in (4, 5):
        topic = t.unique()
        s = watching(t, topic)
        c = Client(t, version, will=Will(topic))
        c.send(wire.subscribe(version, 0, [("a", 0)]))
        c.refused(0x81)
        equal(s.take().payload, b"gone")
        equal(heard(t, s, topic), [], "and not twice")


@case("4.3.6: all properties travel", "waits")
def will_properties(t):
    topic = t.unique()
    s = watching(t, topic)
    pairs = [
        (wire.PAYLOAD_FORMAT, 1),
        (wire.MESSAGE_EXPIRY, 100),
        (wire.CONTENT_TYPE, "text/plain"),
        (wire.RESPONSE_TOPIC, "answers"),
        (wire.CORRELATION_DATA, b"\0\1"),
        (wire.USER_PROPERTY, ("b", "1")),
        (wire.USER_PROPERTY, ("a", "2")),
        (wire.USER_PROPERTY, ("b", "1")),
    ]
    Client(t, will=Will(topic, b"w", 1, properties=pairs)).close()
    found = s.take()
    equal(sorted(found.properties, key=lambda p: p[0]), pairs)


@case("4.3.7", "waits")
def will_retained(t):
    topic = t.unique()
    s = watching(t, topic)
    Client(t, will=Will(topic, b"kept", 1, retain=True)).close()
    equal(s.take().payload, b"kept")
    late = Client(t)
    late.subscribe(topic)
    equal(late.take(retain=1).payload, b"kept")
    Client(t, 4, will=Will(topic, b"", 0, retain=True)).close()
    equal(s.take().payload, b"")
    late.subscribe(topic, topic + "-last")
    equal(heard(t, late, topic), [b""], "the live copy, no retained one")


@case("4.3.9: for subscribers that are away; No Local", "waits")
def will_is_a_publish_like_any(t):
    topic = t.unique()
    away = Client(t, properties=HOUR)
    away.subscribe(topic, qos=1)
    away.bye()
    own = Client(t, properties=HOUR, will=Will(topic, b"w", 1))
    own.subscribe((topic, 1 | 4), (topic + "-last", 1))
    own.close()
    away = Client(t, client=away.id, clean=False)
    equal(away.take().payload, b"w")
    own = Client(t, client=own.id, clean=False)
    equal(heard(t, own, topic), [], "no local, with the client as origin")


@case("4.3.3: delay", "waits")
def will_delay(t):
    topic = t.unique()
    s = watching(t, topic)
    c = Client(t, properties=HOUR, will=delayed(topic, wire.SHORT))
    start = time.monotonic()
    c.close()
    equal(heard(t, s, topic), [], "not at once")
    equal(s.take().payload, b"gone")
    took = time.monotonic() - start
    # Mosquitto counts whole seconds.
    equal(took >= wire.SHORT - (1 if t.flavour == "mosquitto" else 0), True, f"after {took:.2f} s")


@case("4.3.3: at the session's end if that is earlier; 4.1.9", "waits")
def will_delay_beyond_the_session(t):
    topic = t.unique()
    s = watching(t, topic)
    Client(t, properties=[(wire.SESSION_EXPIRY, wire.SHORT)], will=delayed(topic, 3600)).close()
    equal(heard(t, s, topic), [], "not at once")
    equal(s.take().payload, b"gone")


@case("4.3.4: expiry 0 and a delay", "waits", ("mosquitto", "2.0.11 waits for the delay"))
def will_delay_without_session(t):
    topic = t.unique()
    s = watching(t, topic)
    Client(t, will=delayed(topic, 3600)).close()
    equal(s.take().payload, b"gone")


@case("4.3.3: reconnect cancels it", "waits")
def will_delay_cancelled(t):
    topic = t.unique()
    s = watching(t, topic)
    c = Client(t, properties=HOUR, will=delayed(topic, wire.SHORT))
    c.close()
    c = Client(t, client=c.id, clean=False, properties=HOUR)
    equal(c.connack.present, 1)
    c.bye()
    time.sleep(wire.PAST)
    equal(heard(t, s, topic), [])


@case("4.3.3: clean start ends the session, the will fires at once", "waits", ("mosquitto", "2.0.11 drops the will"))
def will_delay_and_clean_start(t):
    topic = t.unique()
    s = watching(t, topic)
    c = Client(t, properties=HOUR, will=delayed(topic, 3600))
    c.close()
    Client(t, client=c.id, clean=True)
    equal(s.take().payload, b"gone")


@case("4.3.5: takeover, the session ends by it", "waits", ("mosquitto", "2.0.11 drops the will"))
def takeover_that_ends_the_session(t):
    for options, clean in (({}, False), ({"properties": HOUR}, True)):
        topic = t.unique()
        s = watching(t, topic)
        c = Client(t, will=delayed(topic, 3600), **options)
        Client(t, client=c.id, clean=clean)
        equal(s.take().payload, b"gone")
        equal(heard(t, s, topic), [], "and not twice")


@case("4.3.5: takeover of v3 with clean=1", "waits")
def takeover_of_a_clean_v3(t):
    topic = t.unique()
    s = watching(t, topic)
    c = Client(t, 4, will=Will(topic))
    Client(t, 4, client=c.id)
    equal(s.take().payload, b"gone")


@case("4.3.5: takeover, the session goes on, delay > 0", "waits")
def takeover_with_delay(t):
    topic = t.unique()
    s = watching(t, topic)
    c = Client(t, properties=HOUR, will=delayed(topic, 1))
    new = Client(t, client=c.id, clean=False, properties=HOUR)
    equal(new.connack.present, 1)
    time.sleep(2.5)
    equal(heard(t, s, topic), [])


@case("4.3.5: takeover, the session goes on, delay 0: publish", "waits", ("mosquitto", "suppresses it"))
def takeover_without_delay(t):
    topic = t.unique()
    s = watching(t, topic)
    c = Client(t, properties=HOUR, will=Will(topic))
    Client(t, client=c.id, clean=False, properties=HOUR)
    equal(s.take().payload, b"gone")


@case("4.3.1: DISCONNECT removes the will for good", "waits")
def will_is_gone_after_disconnect(t):
    topic = t.unique()
    s = watching(t, topic)
    c = Client(t, properties=[(wire.SESSION_EXPIRY, 1)], will=delayed(topic, 1))
    c.send(disconnect(0))
    c.closed()
    time.sleep(2.5)
    equal(heard(t, s, topic), [])


@case("3.3: a will of the largest size", "waits")
def large_will(t):
    topic = t.unique()
    s = watching(t, topic)
    Client(t, will=Will(topic, b"w" * 60_000, 1)).close()
    equal(s.take().payload, b"w" * 60_000)
