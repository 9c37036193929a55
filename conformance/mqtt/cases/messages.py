"""What travels with a message: properties, expiry (2.1, 3.4, 4.2.11), topic aliases (4.7.3, 4.7.4), sizes (4.7.1)."""

import time

import wire
from harness.suite import case, equal
from wire import Age, Client, ack, publish

HOUR = [(wire.SESSION_EXPIRY, 3600)]


@case("2.1: properties pass through", "waits")
def properties_pass_through(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    s.subscribe(topic, qos=2)
    pairs = [
        (wire.PAYLOAD_FORMAT, 1),
        (wire.MESSAGE_EXPIRY, 1000),
        (wire.CONTENT_TYPE, "application/x"),
        (wire.RESPONSE_TOPIC, "answers/1"),
        (wire.CORRELATION_DATA, bytes(range(256))),
        (wire.USER_PROPERTY, ("z", "1")),
        (wire.USER_PROPERTY, ("a", "2")),
        (wire.USER_PROPERTY, ("z", "1")),
        (wire.USER_PROPERTY, ("", "")),
    ]
    for qos in (0, 1, 2):
        p.publish(topic, b"x", qos, properties=pairs)
        found = s.take()
        equal(sorted(found.properties, key=lambda pair: pair[0]), pairs, f"QoS {qos}")
    # Empty correlation data is data, not nothing.
    p.publish(topic, b"", 0, properties=[(wire.CORRELATION_DATA, b""), (wire.PAYLOAD_FORMAT, 0)])
    found = s.take()
    equal((found.value(wire.CORRELATION_DATA), found.payload), (b"", b""))


@case("2.1: across versions", "waits")
def properties_to_v3(t):
    topic = t.unique()
    old, p = Client(t, 4), Client(t)
    old.subscribe(topic)
    p.publish(topic, b"x", 1, properties=[(wire.USER_PROPERTY, ("a", "b")), (wire.CONTENT_TYPE, "x")])
    equal(old.take().raw, b"\x30" + wire.varint(len(topic) + 3) + wire.data(topic) + b"x")
    new = Client(t)
    new.subscribe(topic)
    Client(t, 4).publish(topic, b"y")
    equal(new.take().properties, [])


@case("2.1: properties of queued messages", "waits")
def properties_of_queued_messages(t):
    topic = t.unique()
    s, p = Client(t, properties=HOUR), Client(t)
    s.subscribe((topic, 1), properties=[(wire.SUBSCRIPTION_ID, 7)])
    s.bye()
    pairs = [(wire.CONTENT_TYPE, "x"), (wire.CORRELATION_DATA, b"\0"), (wire.USER_PROPERTY, ("k", "v"))]
    p.publish(topic, b"x", 1, properties=pairs)
    s = Client(t, client=s.id, clean=False)
    found = s.take()
    equal(sorted(p for p in found.properties if p[0] != wire.SUBSCRIPTION_ID), sorted(pairs))
    equal(found.values(wire.SUBSCRIPTION_ID), [7])


@case("2.1: message expiry", "waits")
def expiry_while_away(t):
    topic = t.unique()
    s, p = Client(t, properties=HOUR), Client(t)
    s.subscribe(topic, qos=1)
    s.bye()
    p.publish(topic, b"short", 1, properties=[(wire.MESSAGE_EXPIRY, 1)])
    age = Age(lambda: p.publish(topic, b"long", 1, properties=[(wire.MESSAGE_EXPIRY, 100)]))
    p.publish(topic, b"last", 1)
    time.sleep(2.2)
    age.ask()
    s = Client(t, client=s.id, clean=False)
    found = s.take()
    equal(found.payload, b"long")
    age.check(found, 100)
    equal(s.take().value(wire.MESSAGE_EXPIRY), None)


@case("2.1: message expiry on a live subscriber", "waits")
def expiry_of_live_messages(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    s.subscribe(topic)
    age = Age(lambda: p.publish(topic, b"x", 0, properties=[(wire.MESSAGE_EXPIRY, 50)]))
    age.check(s.take(), 50)


@case("4.2.11: sent once, it stays in flight", "waits")
def expiry_of_what_is_in_flight(t):
    topic = t.unique()
    s, p = Client(t, properties=HOUR), Client(t)
    s.subscribe(topic, qos=2)
    p.publish(topic, b"x", 2, properties=[(wire.MESSAGE_EXPIRY, wire.SHORT)])
    found = s.expect("PUBLISH")
    time.sleep(wire.PAST)
    s.send(ack("PUBREC", found.pid))
    s.expect("PUBREL", pid=found.pid)
    s.send(ack("PUBCOMP", found.pid))
    s.ping()


@case("4.2.11: waiting behind the window it expires", "waits",
      ("mosquitto", "2.0.11 sends nothing after an expired one until something else happens"))  # fmt: skip
def expiry_behind_the_window(t):
    topic = t.unique()
    s, p = Client(t, properties=[(wire.RECEIVE_MAXIMUM, 1)]), Client(t)
    s.subscribe(topic, qos=1)
    p.publish(topic, b"first", 1)
    first = s.expect("PUBLISH")
    p.publish(topic, b"short", 1, properties=[(wire.MESSAGE_EXPIRY, 1)])
    p.publish(topic, b"last", 1)
    time.sleep(2.2)
    s.send(ack("PUBACK", first.pid))
    equal(s.take().payload, b"last")


@case("4.7.3: inbound aliases", "waits")
def inbound_aliases(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    maximum = p.limit(wire.ALIAS_MAXIMUM, 0)
    equal(maximum > 0, True, "the server takes aliases")
    s.subscribe(topic + "/#", qos=2)
    for alias in {1, maximum}:
        pair = [(wire.TOPIC_ALIAS, alias)]
        p.send(publish(5, f"{topic}/{alias}", b"set", 0, properties=pair))
        for qos in (0, 1, 2):
            p.publish("", b"use", qos, properties=pair)
        p.send(publish(5, f"{topic}/{alias}/new", b"redefined", 0, properties=pair))
        p.publish("", b"use", 0, properties=pair)
        heard = [s.take() for _ in range(6)]
        equal([m.topic for m in heard], [f"{topic}/{alias}"] * 4 + [f"{topic}/{alias}/new"] * 2)
        equal({len(m.values(wire.TOPIC_ALIAS)) for m in heard}, {0}, "not forwarded")


@case("3.4: alias above the maximum; 3.5: 94", "waits")
def alias_above_the_maximum(t):
    c = Client(t)
    maximum = c.limit(wire.ALIAS_MAXIMUM, 0)
    if maximum == 65535:
        return
    c.send(publish(5, "a", b"x", properties=[(wire.TOPIC_ALIAS, maximum + 1)]))
    c.refused(0x94)


@case("4.7.3: invalid after reconnect", "waits")
def aliases_end_with_the_connection(t):
    c = Client(t, properties=HOUR)
    c.publish(t.unique(), b"x", 1, properties=[(wire.TOPIC_ALIAS, 1)])
    c.close()
    c = Client(t, client=c.id, clean=False)
    c.send(publish(5, "", b"x", properties=[(wire.TOPIC_ALIAS, 1)]))
    c.refused(0x82)


def resolved(s, count):
    """The topics of the next messages, aliases looked up as a client does."""
    known, topics, used = {}, [], 0
    for _ in range(count):
        found = s.take()
        alias = found.value(wire.TOPIC_ALIAS)
        if alias is not None and found.topic:
            known[alias] = found.topic
        elif alias is not None:
            used += 1
        topics.append(found.topic or known[alias])
    return topics, known, used


@case("4.7.4: outbound aliases", "waits", ("mosquitto", "2.0.11 never uses any"))
def outbound_aliases(t):
    topic = t.unique()
    s, p = Client(t, properties=[(wire.ALIAS_MAXIMUM, 3)]), Client(t)
    s.subscribe(topic + "/+", qos=1)
    names = [f"{topic}/{n % 2}" for n in range(40)]
    for n, name in enumerate(names):
        p.publish(name, b"%d" % n, n % 2)
    topics, known, used = resolved(s, len(names))
    equal(sorted(topics), sorted(names))
    equal(all(1 <= alias <= 3 for alias in known), True, f"aliases {sorted(known)}")
    equal(used > 0, True, "aliases are used")


@case("4.7.4: more topics than aliases", "waits")
def outbound_aliases_run_out(t):
    topic = t.unique()
    s, p = Client(t, properties=[(wire.ALIAS_MAXIMUM, 2)]), Client(t)
    s.subscribe(topic + "/+", qos=1)
    names = [f"{topic}/{n % 7}" for n in range(70)]
    for n, name in enumerate(names):
        p.publish(name, b"%d" % n, 1)
    topics, known, _ = resolved(s, len(names))
    equal(topics, names)
    equal(all(1 <= alias <= 2 for alias in known), True, f"aliases {sorted(known)}")


@case("4.7.4: none without the client's word; 4.2.4", "waits")
def no_outbound_aliases(t):
    topic = t.unique()
    s, p = Client(t, properties=[(wire.ALIAS_MAXIMUM, 5), *HOUR]), Client(t)
    s.subscribe(topic, qos=1)
    for _ in range(5):
        p.publish(topic, b"x", 1)
        s.expect("PUBLISH")
    s.close()
    s = Client(t, client=s.id, clean=False)
    for _ in range(5):
        found = s.take()
        equal((found.topic, found.values(wire.TOPIC_ALIAS)), (topic, []), "this connection was told of none")


@case("4.7.1, 4.7.2, 4.2.12: the client's maximum packet size", "waits",
      ("mosquitto", "2.0.11 does not count the first byte"))  # fmt: skip
def maximum_packet_size_of_the_client(t):
    topic = t.unique()
    limit = 200
    s = Client(t, properties=[(wire.MAXIMUM_PACKET, limit), (wire.SESSION_EXPIRY, 60), (wire.RECEIVE_MAXIMUM, 3)])
    p = Client(t)
    s.subscribe(topic, qos=1)
    fits = limit - len(publish(5, topic, b"", 1, 1)) - 1
    equal(len(publish(5, topic, b"s" * fits, 1, 1)), limit)
    for size in (fits, fits + 1, fits + 500, fits + 1, fits + 9, fits):
        p.publish(topic, b"s" * size, 1)
    p.publish(topic, b"last", 1)
    equal([len(m) for m in s.until(b"last")], [fits, fits], "the others are skipped and hold no place in the window")
    s.ping()  # the acknowledgements have been read
    s.close()
    s = Client(t, client=s.id, clean=False)
    p.publish(topic, b"last", 1)
    equal(s.until(b"last"), [], "and are settled")


@case("4.7.1: retained and QoS 0", "waits")
def maximum_packet_size_of_all_kinds(t):
    topic = t.unique()
    p = Client(t)
    p.publish(topic, b"r" * 500, 1, retain=True)
    s = Client(t, properties=[(wire.MAXIMUM_PACKET, 200)])
    s.subscribe(topic, qos=2)
    for qos in (0, 1, 2):
        p.publish(topic, b"x" * 500, qos)
    p.publish(topic, b"last", 2)
    equal(s.until(b"last"), [])


@case("2.1: Request Problem Information=0", "waits")
def no_reason_strings_unless_asked_for(t):
    c = Client(t, properties=[(wire.REQUEST_PROBLEM, 0)])
    c.send(publish(5, "$SYS/denied", b"x", 1, 1), publish(5, "$SYS/denied", b"x", 2, 2))
    c.send(wire.unsubscribe(5, 3, ["never"]), ack("PUBREL", 99))
    found = [c.receive() for _ in range(4)]
    equal(sorted(one.kind for one in found), ["PUBACK", "PUBCOMP", "PUBREC", "UNSUBACK"])
    equal([one.properties for one in found], [[]] * 4)


@case("3.2: large messages", "waits")
def large_messages(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    s.subscribe(topic, qos=2)
    for size in (0, 1, 127, 128, 16_383, 16_384, 1_000_000):
        for qos in (0, 1, 2):
            p.publish(topic, b"p" * size, qos)
            equal(len(s.take().payload), size)
