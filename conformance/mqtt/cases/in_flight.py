"""MQTT 5.0, 3.10.4 and 3.8.4: what was sent is completed, whatever becomes of its subscription."""

import wire
from harness.server import OwnServer
from harness.suite import case, equal
from wire import Client, ack

HOUR = [(wire.SESSION_EXPIRY, 3600)]


def changes(topic):
    """What a client may do to the subscriptions of what it has in flight."""
    return {
        "unsubscribed": lambda c: c.unsubscribe(topic + "/1", topic + "/2"),
        "at other QoS": lambda c: c.subscribe((topic + "/1", 2), (topic + "/2", 1)),
        "at QoS 0": lambda c: c.subscribe((topic + "/1", 0), (topic + "/2", 0)),
        "subscribed anew": lambda c: (
            c.unsubscribe(topic + "/1", topic + "/2"),
            c.subscribe((topic + "/1", 1), (topic + "/2", 2)),
        ),
    }


def kept(t, version, address=None, **options):
    """A client whose session is kept."""
    if version == 5:
        options.setdefault("properties", HOUR)
    return Client(t, version, address=address, clean=False, **options)


def leave_in_flight(c, p, topic, change):
    """Three messages on their way: at QoS 1, at QoS 2 with PUBREL, at QoS 2 without. Then their subscription changes."""
    c.subscribe((topic + "/1", 1), (topic + "/2", 2))
    p.publish(topic + "/1", b"a", 1)
    p.publish(topic + "/2", b"b", 2)
    p.publish(topic + "/2", b"c", 2)
    a, b, m = (c.expect("PUBLISH") for _ in range(3))
    c.send(ack("PUBREC", b.pid))
    c.expect("PUBREL", pid=b.pid)
    change(c)
    return a, b, m


def complete(c, sent, why):
    """They come again as they were, and are completed."""
    a, b, m = sent
    equal(c.connack.present, 1)
    found = [c.receive() for _ in range(3)]
    equal(
        [(f.kind, f.payload, f.pid, f.dup) for f in found],
        [("PUBLISH", b"a", a.pid, 1), ("PUBREL", None, b.pid, 0), ("PUBLISH", b"c", m.pid, 1)],
        why,
    )
    equal((found[0].qos, found[2].qos), (1, 2), why)
    c.send(ack("PUBCOMP", b.pid))
    c.settle(found[0])
    c.send(ack("PUBREC", m.pid))
    c.expect("PUBREL", pid=m.pid)
    return m


@case("4.1: UNSUBSCRIBE and SUBSCRIBE with messages in flight", "waits")
def in_flight_outlives_its_subscription(t):
    for version in (4, 5):
        topic = t.unique()
        for n, (why, change) in enumerate(changes(topic).items()):
            c, p = kept(t, version), Client(t)
            sent = leave_in_flight(c, p, topic, change)
            c.close()
            c = kept(t, version, client=c.id)
            m = complete(c, sent, why)
            c.close()
            # PUBREL once more, and then nothing is left.
            c = kept(t, version, client=c.id)
            c.expect("PUBREL", pid=m.pid)
            c.send(ack("PUBCOMP", m.pid))
            c.bye()
            c = kept(t, version, client=c.id)
            c.subscribe((f"{topic}/last{n}", 1))
            p.publish(f"{topic}/last{n}", b"last", 1)
            equal(c.until(b"last"), [], why)
            p.publish(topic + "/1", b"new", 1)
            expected = [] if why == "unsubscribed" else [b"new"]
            p.publish(f"{topic}/last{n}", b"end", 1)
            found = c.until(b"end")
            equal(found if why != "at QoS 0" else expected, expected, why)
            c.close()
            Client(t, version, client=c.id, clean=True).close()


@case("4.1.8: and with a sudden end of the server", "waits")
def in_flight_outlives_its_subscription_and_the_server(t):
    server = OwnServer(t)
    topic = t.unique()
    p = Client(t, address=server.address)
    # One topic each, so that the publisher need not tell them apart.
    rows = []
    for n, why in enumerate(changes(topic)):
        mine = f"{topic}/{n}"
        c = kept(t, 5, server.address)
        sent = leave_in_flight(c, p, mine, changes(mine)[why])
        rows.append((why, mine, c.id, sent))
        c.ping()
        c.close()
        # A second connection ends only when what was acknowledged is known to be so.
        kept(t, 5, server.address, client=c.id).close()
    server.restart()
    after = []
    for why, mine, name, sent in rows:
        c = kept(t, 5, server.address, client=name)
        after.append((why, mine, name, complete(c, sent, why)))
        c.ping()
        c.close()
    server.restart(cleanly=True)
    for why, mine, name, m in after:
        c = kept(t, 5, server.address, client=name)
        c.expect("PUBREL", pid=m.pid)
        c.send(ack("PUBCOMP", m.pid))
        c.ping()
        c.bye()
    server.restart(cleanly=True)
    p = Client(t, address=server.address)
    for why, mine, name, _ in after:
        c = kept(t, 5, server.address, client=name)
        c.subscribe((mine + "/last", 1))
        p.publish(mine + "/last", b"last", 1)
        equal(c.until(b"last"), [], why)


@case("4.9: a member that has left the share, between PUBREC and PUBCOMP", "waits")
def in_flight_outlives_a_share(t):
    server = OwnServer(t)
    for leaves in (False, True):
        topic = t.unique()
        share = f"$share/g/{topic}"
        c, p = kept(t, 5, server.address), Client(t, address=server.address)
        c.subscribe((share, 2))
        p.publish(topic, b"a", 2)
        p.publish(topic, b"b", 2)
        a, b = c.expect("PUBLISH"), c.expect("PUBLISH")
        c.send(ack("PUBREC", a.pid))
        c.expect("PUBREL", pid=a.pid)
        if leaves:
            c.unsubscribe(share)
        c.ping()
        c.close()
        kept(t, 5, server.address, client=c.id).close()
        server.restart()
        c = kept(t, 5, server.address, client=c.id)
        found = [c.receive() for _ in range(2)]
        equal(
            sorted((f.kind, f.payload, f.pid, f.dup) for f in found if f.kind == "PUBLISH"),
            [("PUBLISH", b"b", b.pid, 1)],
        )
        equal([f.pid for f in found if f.kind == "PUBREL"], [a.pid])
        c.send(ack("PUBCOMP", a.pid), ack("PUBREC", b.pid))
        c.expect("PUBREL", pid=b.pid)
        c.send(ack("PUBCOMP", b.pid))
        c.ping()
        c.close()
