"""Section 4.6: receive maximum in both directions, and clients that do not read."""

import wire
from harness.suite import Skip, case, equal
from wire import Client, ack, publish


def window_of(t, seconds=0):
    """A client and the server's receive maximum, small enough to be filled."""
    c = Client(t, properties=[(wire.SESSION_EXPIRY, seconds)])
    maximum = c.limit(wire.RECEIVE_MAXIMUM, 65535)
    if maximum > 5000:
        raise Skip(f"the server's receive maximum is {maximum}")
    return c, maximum


@case("4.6.1: over it, strict", "waits", ("mosquitto", "2.0.11 answers PUBREC 0x97"))
def more_than_the_servers_window(t):
    topic = t.unique()
    c, maximum = window_of(t)
    c.send(*[publish(5, topic, b"x", 2, n + 1) for n in range(maximum)])
    for n in range(maximum):
        c.expect("PUBREC", pid=n + 1)
    c.ping()
    c.send(publish(5, topic, b"x", 2, maximum + 1))
    c.refused(0x93)


@case("4.6.1: what gives the quota back", "waits")
def the_servers_window_is_given_back(t):
    topic = t.unique()
    c, maximum = window_of(t)
    for _ in range(3):
        c.send(*[publish(5, topic, b"x", 2, n + 1) for n in range(maximum)])
        for n in range(maximum):
            c.expect("PUBREC", pid=n + 1)
        c.send(*[ack("PUBREL", n + 1) for n in range(maximum)])
        for n in range(maximum):
            c.expect("PUBCOMP", pid=n + 1)
    for _ in range(3 * maximum):
        c.send(publish(5, topic, b"x", 1, 1))
        c.expect("PUBACK", pid=1)


@case("4.6.1: a known id does not count twice", "waits")
def repeats_do_not_count(t):
    topic = t.unique()
    c, maximum = window_of(t)
    c.send(*[publish(5, topic, b"x", 2, n + 1) for n in range(maximum)])
    for n in range(maximum):
        c.expect("PUBREC", pid=n + 1)
    c.send(publish(5, topic, b"x", 2, 1, dup=True))
    c.expect("PUBREC", pid=1)
    c.ping()


@case("4.6.2: the client's window", "waits", ("mosquitto", "2.0.11 sends as many again with each acknowledgement"))
def the_clients_window(t):
    topic = t.unique()
    for qos in (1, 2):
        s, p = Client(t, properties=[(wire.RECEIVE_MAXIMUM, 3)]), Client(t)
        s.subscribe(topic, qos=qos)
        for n in range(10):
            p.publish(topic, b"%d" % n, qos)
        held = [s.expect("PUBLISH", payload=b"%d" % n) for n in range(3)]
        s.ping()  # nothing but the answer: the window is full
        for n in range(3, 10):
            found = held.pop(0)
            if qos == 1:
                s.send(ack("PUBACK", found.pid))
            else:
                s.send(ack("PUBREC", found.pid))
                s.expect("PUBREL", pid=found.pid)
                s.ping()  # PUBREC frees nothing
                s.send(ack("PUBCOMP", found.pid))
            held.append(s.expect("PUBLISH", payload=b"%d" % n))
            s.ping()
        s.bye()


@case("4.2.9: an error code gives the slot back", "waits")
def errors_free_the_clients_window(t):
    topic = t.unique()
    s, p = Client(t, properties=[(wire.RECEIVE_MAXIMUM, 1)]), Client(t)
    s.subscribe((topic + "/1", 1), (topic + "/2", 2))
    for n in range(6):
        p.publish(f"{topic}/{n % 2 + 1}", b"%d" % n, 2)
    for n in range(6):
        found = s.expect("PUBLISH", payload=b"%d" % n)
        s.send(ack("PUBACK" if found.qos == 1 else "PUBREC", found.pid, 0x97))
    s.ping()


@case("4.6.3: QoS 0 always passes", "waits")
def qos_0_passes_a_full_window(t):
    topic = t.unique()
    s, p = Client(t, properties=[(wire.RECEIVE_MAXIMUM, 1)]), Client(t)
    s.subscribe(topic, qos=1)
    p.publish(topic, b"held", 1)
    p.publish(topic, b"waiting", 1)
    for n in range(5):
        p.publish(topic, b"%d" % n, 0)
    held = s.expect("PUBLISH", payload=b"held")
    for n in range(5):
        s.expect("PUBLISH", payload=b"%d" % n, qos=0)
    s.ping()
    s.send(ack("PUBACK", held.pid))
    s.expect("PUBLISH", payload=b"waiting")


@case("A17; 4.6.2: reset at CONNECT", "waits")
def window_is_reset_at_connect(t):
    topic = t.unique()
    pairs = [(wire.SESSION_EXPIRY, 60), (wire.RECEIVE_MAXIMUM, 2)]
    s, p = Client(t, properties=pairs), Client(t)
    s.subscribe(topic, qos=1)
    for n in range(6):
        p.publish(topic, b"%d" % n, 1)
    s.expect("PUBLISH", payload=b"0")
    s.expect("PUBLISH", payload=b"1")
    s.close()
    # The window of this connection counts, for what is sent again as well.
    s = Client(t, client=s.id, clean=False, properties=[(wire.SESSION_EXPIRY, 60), (wire.RECEIVE_MAXIMUM, 3)])
    for n in range(3):
        found = s.expect("PUBLISH", payload=b"%d" % n)
        equal(found.dup, int(n < 2))
    s.ping()
    s.close()
    s = Client(t, client=s.id, clean=False, properties=[(wire.SESSION_EXPIRY, 60), (wire.RECEIVE_MAXIMUM, 1)])
    for n in range(6):
        s.take(payload=b"%d" % n)


@case("4.6.4: a client that does not read", "waits")
def a_client_that_does_not_read(t):
    topic = t.unique()
    deaf, p = Client(t), Client(t)
    deaf.subscribe(topic, qos=0)
    for _ in range(300):
        p.send(publish(5, topic, bytes(100_000)))
    p.ping()  # the publisher and others are not held up
    Client(t).ping()


@case("4.6: v3 has a window too", "waits")
def window_of_v3(t):
    topic = t.unique()
    s, p = Client(t, 4), Client(t)
    s.subscribe(topic, qos=1)
    for n in range(100):
        p.publish(topic, b"%d" % n, 1)
    for n in range(100):
        s.take(payload=b"%d" % n)
