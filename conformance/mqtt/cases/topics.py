"""Section 3.7: names and filters; 3.6 and 4.7.6, 4.7.7: options and identifiers of subscriptions."""

import wire
from harness.suite import case, equal
from wire import Client, publish

NO_LOCAL, AS_PUBLISHED = 4, 8


def heard(t, filters, topics, version=5):
    """Which of the topics, each below a fresh prefix, a client with these filters hears."""
    prefix = t.unique()
    c, p = Client(t, version), Client(t)
    last = prefix + "-last"
    c.subscribe(last, *[f.replace("@", prefix) for f in filters])
    for topic in topics:
        p.publish(topic.replace("@", prefix), topic)
    p.publish(last, b"last")
    return [payload.decode() for payload in c.until(b"last")]


@case("3.7: wildcards", "waits")
def matching(t):
    table = [
        ("@/a", ["@/a"], ["@", "@/b", "@/a/b", "@/A", "@/a/", "@/aa"]),
        ("@/+", ["@/a", "@/", "@/$x"], ["@", "@/a/b", "@/a/"]),
        ("@/+/b", ["@/a/b", "@//b"], ["@/b", "@/a/c", "@/a/b/c"]),
        ("@/#", ["@", "@/a", "@/a/b/c", "@/", "@//"], ["@x", "@x/a"]),
        ("@/a/#", ["@/a", "@/a/b"], ["@", "@/ab"]),
        ("+/@/x", [], ["@/x"]),
        ("@/+/+/#", ["@/a/b", "@/a/b/c", "@//"], ["@/a", "@"]),
        ("@/", ["@/"], ["@", "@//"]),
    ]
    for version in (4, 5):
        for pattern, yes, no in table:
            equal(heard(t, [pattern], yes + no, version), yes, f"{pattern}, version {version}")


@case("3.7: $ topics and leading wildcards", "waits")
def dollar_topics(t):
    prefix = t.unique()
    c, p = Client(t), Client(t)
    c.subscribe(f"+/{prefix}", f"+/{prefix}/#", f"+/{prefix}-last")
    named = Client(t)
    named.subscribe(f"$x/{prefix}", f"+/{prefix}-last")
    p.publish(f"$x/{prefix}", b"hidden")
    p.publish(f"x/{prefix}", b"seen")
    p.publish(f"x/{prefix}-last", b"last")
    # Both filters match: one copy with the merge that Longtail does, two from a server that does not merge.
    equal(set(c.until(b"last")), {b"seen"})
    equal(named.until(b"last"), [b"hidden"])


@case("3.7: $share/g/# matches non-$ topics only", "waits")
def dollar_topics_shared(t):
    prefix = t.unique()
    c, p = Client(t), Client(t)
    c.subscribe(f"$share/{prefix}/+/{prefix}")
    p.publish(f"$x/{prefix}", b"hidden")
    p.publish(f"x/{prefix}", b"last")
    equal(c.until(b"last"), [])


@case("3.7: client publish to $SYS and $share", "waits")
def publish_to_reserved_topics(t):
    c = Client(t)
    for topic in ("$SYS/broker/version", "$share/g/x"):
        equal(c.publish(topic, b"x", 1), 0x87, topic)
        equal(c.publish(topic, b"x", 2), 0x87, topic)
        c.publish(topic, b"x", 0)
    old = Client(t, 4)
    old.publish("$SYS/broker/version", b"x", 1)
    old.publish("$SYS/broker/version", b"x", 2)
    old.publish("$SYS/broker/version", b"x", 0)


@case("3.11; 3.7: $SYS by name", "waits")
def system_topics(t):
    c = Client(t)
    c.subscribe("$SYS/broker/version")
    found = c.take()
    equal((found.topic, found.retain), ("$SYS/broker/version", 1))
    equal(bool(found.payload), True)


@case("3.7: levels and long names", "waits")
def long_topics(t):
    for name in ("/".join(["x"] * 100), "y" * 65_000):
        topic = t.unique() + "/" + name
        c = Client(t)
        c.subscribe(topic, qos=1)
        c.send(publish(5, topic, b"x", 1, 1))
        equal(c.take().topic, topic)


@case("3.6: v3 subscriptions behave as 0", "waits")
def granted_qos(t):
    topic = t.unique()
    for version in (3, 4, 5):
        c = Client(t, version)
        equal(c.subscribe((topic, 0), (topic + "/1", 1), (topic + "/2", 2)), [0, 1, 2])
        equal(c.subscribe((topic, 2)), [2], "again")


@case("3.8.4: the same filter twice in one SUBSCRIBE: the last counts", "waits")
def twice_in_one_subscribe(t):
    p = Client(t)
    for version in (4, 5):
        for before in (None, 0, 1):
            for first, last in ((0, 1), (1, 0), (2, 1), (1, 2)):
                about = f"version {version}, {before} before, then {first} and {last}"
                topic = t.unique()
                lasts = [(wire.SESSION_EXPIRY, 60)] if version == 5 else []
                c = Client(t, version, clean=version == 5, properties=lasts)
                if before is not None:
                    c.subscribe((topic, before))
                equal(c.subscribe((topic, first), (topic, last), (topic + "-last", 1)), [first, last, 1], about)
                for payload in (b"x", b"y"):
                    p.publish(topic, payload, 2)
                    # What comes after the answer to a marker is not overtaken by the next one.
                    for marker in (b"marker", b"last"):
                        p.publish(topic + "-last", payload + marker, 1)
                    found = []
                    while not found or found[-1][0] != payload + b"last":
                        message = c.take()
                        found.append((message.payload, message.qos))
                    found = [message for message in found if len(message[0]) == 1]
                    equal(found, [(payload, last)], about)
                c.bye()


@case("4.2.6", "waits")
def delivered_qos(t):
    topic = t.unique()
    p = Client(t)
    for version in (4, 5):
        for granted in (0, 1, 2):
            c = Client(t, version)
            c.subscribe(topic, qos=granted)
            for qos in (0, 1, 2):
                p.publish(topic, b"x", qos)
                equal(c.take().qos, min(qos, granted), f"QoS {qos} to a subscription of {granted}")
            c.bye()


@case("3.6: no local; 4.7.7", "waits")
def no_local(t):
    topic = t.unique()
    c, other = Client(t), Client(t)
    c.subscribe((topic, 1 | NO_LOCAL), (topic + "-last", 1))
    for qos in (0, 1):
        c.send(publish(5, topic, b"own", qos, 100 if qos else None))
        if qos:
            c.expect("PUBACK", pid=100)
    other.publish(topic, b"other", 1)
    other.publish(topic + "-last", b"last", 1)
    equal(c.until(b"last"), [b"other"])


@case("4.7.7: does not stop retained replay", "waits")
def no_local_and_retained(t):
    topic = t.unique()
    c = Client(t)
    c.publish(topic, b"own", 1, retain=True)
    c.subscribe((topic, 1 | NO_LOCAL))
    equal(c.take().payload, b"own")


@case("2.1: bridge bit", "waits")
def bridges_hear_no_echo(t):
    topic = t.unique()
    c, other = Client(t, 4, level=0x84), Client(t)
    c.subscribe(topic, topic + "-last")
    c.send(publish(4, topic, b"own", 1, 9))
    c.expect("PUBACK", pid=9)
    other.publish(topic, b"kept", 1, retain=True)
    other.publish(topic + "-last", b"last", 1)
    found = c.take()
    equal((found.payload, found.retain), (b"kept", 1), "retain as published")
    equal(c.until(b"last"), [])


@case("3.6: retain as published; 4.5.2", "waits")
def retain_as_published(t):
    topic = t.unique()
    plain, kept, old, p = Client(t), Client(t), Client(t, 4), Client(t)
    plain.subscribe(topic)
    old.subscribe(topic)
    kept.subscribe((topic, AS_PUBLISHED))
    for retain in (True, False):
        p.publish(topic, b"x", 1, retain=retain)
        equal((plain.take().retain, old.take().retain, kept.take().retain), (0, 0, int(retain)))


@case("4.7.6", "waits")
def subscription_ids(t):
    topic = t.unique()
    c, p = Client(t), Client(t)
    for number in (1, 127, 128, 268_435_455):
        c.subscribe(topic, properties=[(wire.SUBSCRIPTION_ID, number)])
        p.publish(topic, b"x")
        equal(c.take().values(wire.SUBSCRIPTION_ID), [number], "re-subscribing replaces the id")
    c.subscribe(topic)
    p.publish(topic, b"x")
    equal(c.take().values(wire.SUBSCRIPTION_ID), [], "no id, no property")


@case("4.7.6: a copy for each subscription", "waits")
def overlapping_subscriptions(t):
    topic = t.unique()
    c, p = Client(t), Client(t)
    c.subscribe((topic, 0), properties=[(wire.SUBSCRIPTION_ID, 3)])
    c.subscribe((topic + "/#", 2), properties=[(wire.SUBSCRIPTION_ID, 4)])
    c.subscribe(f"+/{topic}-last")
    p.publish(topic, b"x", 2)
    p.publish(f"x/{topic}-last", b"last", 0)
    copies = [c.take(), c.take()]
    found = sorted((copy.values(wire.SUBSCRIPTION_ID), copy.qos) for copy in copies)
    equal(found, [([3], 0), ([4], 2)], "each with its own id and QoS")
    equal(c.until(b"last"), [], "no more")


@case("4.7.6", "waits")
def subscription_id_of_retained(t):
    topic = t.unique()
    c, p = Client(t), Client(t)
    p.publish(topic, b"x", 1, retain=True)
    c.subscribe((topic, 1), properties=[(wire.SUBSCRIPTION_ID, 9)])
    equal(c.take().values(wire.SUBSCRIPTION_ID), [9])


@case("3.6; 4.7.6: many filters in one packet", "waits")
def many_filters_at_once(t):
    topic = t.unique()
    c, p = Client(t), Client(t)
    codes = c.subscribe(*[(f"{topic}/{n}", n % 3) for n in range(500)])
    equal(codes, [n % 3 for n in range(500)])
    p.publish(f"{topic}/499", b"x", 2)
    equal(c.take().qos, 1)
    equal(set(c.unsubscribe(*[f"{topic}/{n}" for n in range(500)])), {0})


@case("3.7: UNSUBSCRIBE ends delivery", "waits")
def nothing_after_unsubscribe(t):
    topic = t.unique()
    c, p = Client(t), Client(t)
    c.subscribe(topic, topic + "-last", qos=1)
    p.publish(topic, b"before", 1)
    equal(c.take().payload, b"before")
    c.unsubscribe(topic)
    p.publish(topic, b"after", 1)
    p.publish(topic + "-last", b"last", 1)
    equal(c.until(b"last"), [])
