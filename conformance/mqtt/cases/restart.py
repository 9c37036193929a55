"""Section 4.1.8, 4.3.8, A4: what survives the server's sudden end. Mosquitto, which writes at a clean end, gets one."""

import time

import wire
from harness.server import OwnServer
from harness.suite import case, equal
from wire import Age, Client, Will, ack, publish

HOUR = [(wire.SESSION_EXPIRY, 3600)]


def client(t, server, version=5, client=None, **options):
    """A client of the own server, its session kept."""
    if version == 5:
        options.setdefault("properties", HOUR)
    options.setdefault("clean", False)
    return Client(t, version, client=client, address=server.address, **options)


@case("4.1.8: sessions and subscriptions", "waits")
def sessions_survive(t):
    server = OwnServer(t)
    topic = t.unique()
    clients = [client(t, server, version) for version in (4, 5)]
    for c in clients:
        c.subscribe((topic + "/0", 0), (topic + "/1", 1), (topic + "/#", 2), qos=2)
        c.unsubscribe(topic + "/0")
    without = client(t, server, properties=[])
    server.restart()
    clients = [client(t, server, c.version, c.id) for c in clients]
    equal([c.connack.present for c in clients], [1, 1])
    equal(client(t, server, client=without.id).connack.present, 0, "an expiry of 0 ends with the server as well")
    client(t, server, clean=True).publish(topic + "/x", b"x", 2)
    for c in clients:
        equal(c.take().qos, 2)


@case("4.1.8: options and ids of subscriptions", "waits")
def subscription_options_survive(t):
    server = OwnServer(t)
    topic = t.unique()
    c = client(t, server)
    c.subscribe((topic, 1 | 4 | 8), properties=[(wire.SUBSCRIPTION_ID, 77)])
    c.subscribe((topic + "-last", 1))
    server.restart()
    c = client(t, server, client=c.id)
    c.send(publish(5, topic, b"own", 1, 9))
    c.expect("PUBACK", pid=9)
    p = client(t, server)
    p.publish(topic, b"x", 1, retain=True)
    found = c.take()
    equal((found.payload, found.retain, found.values(wire.SUBSCRIPTION_ID)), (b"x", 1, [77]))
    p.publish(topic + "-last", b"last", 1)
    equal(c.until(b"last"), [])


@case("4.1.8: queued messages", "waits")
def queues_survive(t):
    server = OwnServer(t)
    topic = t.unique()
    c = client(t, server)
    c.subscribe(topic, qos=2)
    c.bye()
    p = client(t, server)
    pairs = [(wire.CONTENT_TYPE, "x"), (wire.USER_PROPERTY, ("k", "v")), (wire.CORRELATION_DATA, b"\0")]
    for n in range(50):
        p.publish(topic, b"%d" % n, 1 + n % 2, properties=pairs)
    server.restart()
    c = client(t, server, client=c.id)
    equal(c.connack.present, 1)
    for n in range(50):
        found = c.take()
        equal((found.payload, found.qos, sorted(found.properties)), (b"%d" % n, 1 + n % 2, sorted(pairs)))


@case("4.2.3: what was in flight, with its ids", "waits")
def in_flight_survives(t):
    server = OwnServer(t)
    topic = t.unique()
    c = client(t, server)
    c.subscribe((topic + "/1", 1), (topic + "/2", 2))
    p = client(t, server)
    p.publish(topic + "/1", b"a", 1)
    p.publish(topic + "/2", b"b", 2)
    p.publish(topic + "/2", b"c", 2)
    p.publish(topic + "/1", b"d", 1)
    a, b, m, d = (c.expect("PUBLISH") for _ in range(4))
    c.send(ack("PUBREC", b.pid))
    c.expect("PUBREL", pid=b.pid)
    c.send(ack("PUBACK", d.pid))
    c.ping()
    c.close()
    # What comes again on a second connection comes after the PUBACK, which nothing answers.
    second = client(t, server, client=c.id)
    equal([second.receive().kind for _ in range(3)], ["PUBLISH", "PUBREL", "PUBLISH"])
    second.close()
    server.restart()
    c = client(t, server, client=c.id)
    found = [c.receive() for _ in range(3)]
    equal(
        [(f.kind, f.payload, f.pid, f.dup) for f in found],
        [("PUBLISH", b"a", a.pid, 1), ("PUBREL", None, b.pid, 0), ("PUBLISH", b"c", m.pid, 1)],
    )
    c.send(ack("PUBCOMP", b.pid))
    c.settle(found[0])
    c.settle(found[2])
    p = client(t, server)
    p.publish(topic + "/1", b"last", 1)
    equal(c.until(b"last"), [])


@case("4.1.8: QoS 2 in, between PUBREC and PUBREL", "waits")
def qos_2_in_survives(t):
    server = OwnServer(t)
    topic = t.unique()
    s = client(t, server)
    s.subscribe(topic, qos=2)
    s.bye()
    p = client(t, server)
    p.send(publish(5, topic, b"once", 2, 9), publish(5, topic, b"done", 2, 10))
    p.expect("PUBREC", pid=9)
    p.expect("PUBREC", pid=10)
    p.send(ack("PUBREL", 10))
    p.expect("PUBCOMP", pid=10)
    server.restart()
    p = client(t, server, client=p.id)
    equal(p.connack.present, 1)
    p.send(publish(5, topic, b"once", 2, 9, dup=True))
    p.expect("PUBREC", pid=9)
    p.send(ack("PUBREL", 9), ack("PUBREL", 10))
    p.expect("PUBCOMP", pid=9)
    p.expect("PUBCOMP", pid=10)
    p.publish(topic, b"last", 2, pid=11)
    s = client(t, server, client=s.id)
    equal(s.until(b"last"), [b"done", b"once"])


@case("A4: retained", "waits")
def retained_survives(t):
    server = OwnServer(t)
    topic = t.unique()
    p = client(t, server)
    pairs = [(wire.CONTENT_TYPE, "x"), (wire.USER_PROPERTY, ("k", "v"))]
    for n in range(3):
        for qos in (1, 2):
            p.publish(f"{topic}/{qos}", b"%d" % n, qos, retain=True, properties=pairs)
    p.publish(f"{topic}/gone", b"x", 1, retain=True)
    p.publish(f"{topic}/gone", b"", 1, retain=True)
    p.publish(f"{topic}/short", b"x", 1, retain=True, properties=[(wire.MESSAGE_EXPIRY, 1)])
    time.sleep(2.2)
    server.restart()
    c = client(t, server)
    c.subscribe((topic + "/+", 2), (topic + "-last", 2))
    client(t, server).publish(topic + "-last", b"last", 2)
    found = []
    while (one := c.take()).payload != b"last":
        found.append((one.topic, one.payload, one.qos, one.retain, sorted(one.properties)))
    equal(sorted(found), [(f"{topic}/{qos}", b"2", qos, 1, sorted(pairs)) for qos in (1, 2)])


@case("4.1.8: time spent down counts", "waits", ("mosquitto", "2.0.11 starts the clock of message expiry anew"))
def time_down_counts(t):
    server = OwnServer(t)
    topic = t.unique()
    short = client(t, server, properties=[(wire.SESSION_EXPIRY, 2)])
    short.subscribe(topic, qos=1)
    short.bye()
    c = client(t, server)
    c.subscribe(topic, qos=1)
    c.bye()
    p = client(t, server)
    p.publish(topic, b"short", 1, properties=[(wire.MESSAGE_EXPIRY, 2)])
    age = Age(lambda: p.publish(topic, b"long", 1, properties=[(wire.MESSAGE_EXPIRY, 100)]))
    p.bye()
    server.end()
    time.sleep(3)
    server.run()
    equal(client(t, server, client=short.id).connack.present, 0)
    age.ask()
    found = client(t, server, client=c.id).take()
    equal(found.payload, b"long")
    age.check(found, 100)


@case("4.3.8: delayed wills", "waits")
def delayed_wills_survive(t):
    server = OwnServer(t)
    topic = t.unique()
    s = client(t, server)
    s.subscribe(topic, qos=1)
    s.bye()
    pairs = [(wire.WILL_DELAY, 2), (wire.CONTENT_TYPE, "x")]
    c = client(t, server, will=Will(topic, b"gone", 1, properties=pairs))
    c.close()
    server.restart()
    s = client(t, server, client=s.id)
    found = s.take()
    equal((found.payload, found.properties), (b"gone", [(wire.CONTENT_TYPE, "x")]))


@case("4.3.1: clients that were connected when the server ended", "waits")
def wills_of_the_connected_survive(t):
    server = OwnServer(t)
    topic = t.unique()
    s = client(t, server)
    s.subscribe(topic, qos=1)
    s.bye()
    client(t, server, will=Will(topic, b"gone", 1, properties=[(wire.WILL_DELAY, 1)]))
    server.restart()
    equal(client(t, server, client=s.id).take().payload, b"gone")


@case("4.9.3: backlog of a group", "waits")
def shared_backlog_survives(t):
    server = OwnServer(t)
    topic = t.unique()
    c = client(t, server)
    c.subscribe((f"$share/g/{topic}", 1))
    c.bye()
    p = client(t, server)
    for n in range(20):
        p.publish(topic, b"%d" % n, 1)
    server.restart()
    c = client(t, server, client=c.id)
    equal(sorted(c.take().payload for _ in range(20)), sorted(b"%d" % n for n in range(20)))


@case("4.9.4: past PUBREC a shared message stays with its member", "waits")
def duty_of_a_member_survives(t):
    server = OwnServer(t)
    topic = t.unique()
    share = (f"$share/g/{topic}", 2)
    a = client(t, server)
    a.subscribe(share)
    p = client(t, server)
    p.publish(topic, b"1", 2)
    p.publish(topic, b"2", 2)
    found = [a.expect("PUBLISH", payload=payload) for payload in (b"1", b"2")]
    for one in found:
        a.send(ack("PUBREC", one.pid))
        a.expect("PUBREL", pid=one.pid)
    server.restart()

    b = client(t, server)
    b.subscribe(share, (topic + "-last", 2))
    a = client(t, server, client=a.id)
    for one in found:
        a.expect("PUBREL", pid=one.pid)
    a.send(ack("PUBCOMP", found[0].pid))
    a.ping()
    server.restart(cleanly=True)
    a = client(t, server, client=a.id)
    a.expect("PUBREL", pid=found[1].pid)
    a.send(ack("PUBCOMP", found[1].pid))
    a.ping()
    server.restart(cleanly=True)
    a = client(t, server, client=a.id)
    a.ping()
    b = client(t, server, client=b.id)
    client(t, server).publish(topic + "-last", b"last", 2)
    equal(b.until(b"last"), [])


@case("4.1.8: many restarts", "waits")
def many_restarts(t):
    server = OwnServer(t)
    topic = t.unique()
    c = client(t, server, 4)
    c.subscribe(topic, qos=1)
    c.bye()
    for n in range(4):
        p = client(t, server)
        p.publish(topic, b"%d" % n, 1)
        p.bye()
        server.restart()
    c = client(t, server, 4, c.id)
    equal([c.take().payload for _ in range(4)], [b"%d" % n for n in range(4)])
