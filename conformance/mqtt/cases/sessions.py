"""Section 4.1: sessions, their expiry, takeover, and what waits for a client that is away."""

import threading
import time

import wire
from harness.suite import case, equal
from wire import Client, Connection, connect, publish

HOUR = [(wire.SESSION_EXPIRY, 3600)]


def expiry(seconds):
    """The property."""
    return [(wire.SESSION_EXPIRY, seconds)]


@case("4.1.2, 4.1.11", "waits")
def session_present(t):
    name = t.unique()
    table = [
        # clean, expiry, expected present
        (False, 3600, 0),
        (False, 3600, 1),
        (True, 3600, 0),
        (False, 0, 1),
        (False, 3600, 0),
    ]
    for row, (clean, seconds, present) in enumerate(table):
        c = Client(t, client=name, clean=clean, properties=expiry(seconds))
        equal(c.connack.present, present, f"row {row}")
        c.bye()


@case("4.1.3, 4.1.4", "waits")
def session_present_of_v3(t):
    name = t.unique()
    for row, (clean, present) in enumerate([(False, 0), (False, 1), (True, 0), (False, 0), (False, 1)]):
        c = Client(t, 4, client=name, clean=clean)
        equal(c.connack.present, present, f"row {row}")
        c.bye()
    # 3.1 keeps sessions as well, but cannot say so.
    name, topic = t.unique(), t.unique()
    c = Client(t, 3, client=name, clean=False)
    c.subscribe(topic, qos=1)
    c.bye()
    Client(t).publish(topic, b"kept", 1)
    c = Client(t, 3, client=name, clean=False)
    equal(c.connack.present, 0)
    equal(c.take().payload, b"kept")


@case("4.1.1: case-sensitive", "waits")
def ids_are_case_sensitive(t):
    lower, upper = Client(t, client=t.unique() + "a"), None
    upper = Client(t, client=lower.id[:-1] + "A")
    lower.ping()
    upper.ping()


@case("4.1.1: sessions across versions", "waits")
def session_resumed_by_another_version(t):
    topic = t.unique()
    for first, second in ((4, 5), (5, 4)):
        name = t.unique()
        c = Client(t, first, client=name, clean=False, **({"properties": HOUR} if first == 5 else {}))
        c.subscribe(topic, qos=1)
        c.bye()
        Client(t).publish(topic, b"kept", 1)
        c = Client(t, second, client=name, clean=False)
        equal(c.connack.present, 1)
        equal(c.take().payload, b"kept")


@case("4.1: what waits for a client that is away", "waits")
def queued_while_away(t):
    for version in (4, 5):
        topic = t.unique()
        c = Client(t, version, clean=False, **({"properties": HOUR} if version == 5 else {}))
        c.subscribe((topic + "/0", 0), (topic + "/1", 1), (topic + "/2", 2))
        c.bye()
        p = Client(t)
        for qos in (0, 1, 2):
            for granted in (0, 1, 2):
                p.publish(f"{topic}/{granted}", b"%d to %d" % (qos, granted), qos)
        c = Client(t, version, client=c.id, clean=False, **({"properties": HOUR} if version == 5 else {}))
        p.publish(topic + "/2", b"last", 2)
        found = c.until(b"last")
        for granted in (b"1", b"2"):
            of_topic = [payload for payload in found if payload.endswith(b"to " + granted)]
            equal(of_topic, [b"1 to " + granted, b"2 to " + granted], "in the order of their topic")
        equal(len(found), 4, "none of QoS 0")
        c.bye()


@case("4.1.13: CONNACK first", "waits")
def connack_before_queued(t):
    topic = t.unique()
    c = Client(t, clean=False, properties=HOUR)
    c.subscribe(topic, qos=1)
    p = Client(t)
    for _ in range(5):
        c.close()
        for n in range(10):
            p.publish(topic, b"%d" % n, 1)
        c = Client(t, client=c.id, clean=False, properties=HOUR)
        equal([c.take().payload for n in range(10)], [b"%d" % n for n in range(10)])
        c.ping()


@case("4.1.3: SEI governs the end", "waits")
def session_expires(t):
    topic = t.unique()
    c = Client(t, properties=expiry(1))
    c.subscribe(topic, qos=1)
    c.bye()
    Client(t).publish(topic, b"lost", 1)
    gone = poll(t, c.id)
    gone.subscribe(topic + "-last", qos=1)
    Client(t).publish(topic + "-last", b"last", 1)
    equal(gone.until(b"last"), [])


def poll(t, name):
    """Waits until the server's answer says that there is no such session, and returns the client that found it so.

    Asking resumes the session, so the question comes with the expiry that the session had: 1 second. The pause
    between two questions is longer than that.
    """
    end = time.monotonic() + wire.PATIENCE
    while time.monotonic() < end:
        time.sleep(2.2)
        c = Client(t, client=name, clean=False, properties=expiry(1))
        if not c.connack.present:
            return c
        c.bye()
    raise AssertionError("the session does not expire")


@case("4.1.7: the clock starts when the connection closes", "waits")
def session_does_not_expire_while_connected(t):
    topic = t.unique()
    c = Client(t, properties=expiry(1))
    c.subscribe(topic, qos=1)
    time.sleep(2.5)
    Client(t).publish(topic, b"x", 1)
    equal(c.take().payload, b"x")
    # Taken over: the session is never without a connection, so its second cannot pass.
    c = Client(t, client=c.id, clean=False)
    equal(c.connack.present, 1)


@case("4.1.7: a DISCONNECT may lower it", "waits")
def expiry_lowered_at_disconnect(t):
    c = Client(t, properties=HOUR)
    c.bye(0, expiry(0))
    c = Client(t, client=c.id, clean=False, properties=HOUR)
    equal(c.connack.present, 0)
    c.bye(0, expiry(1))
    poll(t, c.id)


@case("4.1.7: a DISCONNECT may raise it", "waits")
def expiry_raised_at_disconnect(t):
    c = Client(t, properties=expiry(1))
    c.bye(0, expiry(3600))
    time.sleep(2.5)
    equal(Client(t, client=c.id, clean=False).connack.present, 1)


@case("4.1.7: not from 0", "waits")
def expiry_not_from_zero(t):
    c = Client(t)
    c.send(wire.disconnect(0, expiry(10)))
    c.refused(0x82)
    equal(Client(t, client=c.id, clean=False).connack.present, 0)


@case("4.1.3: 0xFFFFFFFF is never", "waits")
def session_without_end(t):
    c = Client(t, properties=expiry(0xFFFFFFFF))
    lowered = c.connack.value(wire.SESSION_EXPIRY, 0xFFFFFFFF)
    equal(lowered > 3600, True)
    c.bye()
    equal(Client(t, client=c.id, clean=False).connack.present, 1)


@case("4.1.2: clean start ends the old one", "waits")
def clean_start_forgets(t):
    for version in (4, 5):
        topic = t.unique()
        c = Client(t, version, clean=False, **({"properties": HOUR} if version == 5 else {}))
        c.subscribe(topic, qos=1)
        c.bye()
        p = Client(t)
        p.publish(topic, b"queued", 1)
        c = Client(t, version, client=c.id, clean=True)
        equal(c.connack.present, 0)
        c.subscribe(topic + "-last", qos=1)
        p.publish(topic, b"unheard", 1)
        p.publish(topic + "-last", b"last", 1)
        equal(c.until(b"last"), [])


@case("4.1.5: takeover keeps the session", "waits")
def takeover_moves_the_session(t):
    topic = t.unique()
    first = Client(t, clean=False, properties=HOUR)
    first.subscribe(topic, qos=1)
    p = Client(t)
    p.publish(topic, b"unanswered", 1)
    pid = first.expect("PUBLISH").pid
    second = Client(t, client=first.id, clean=False, properties=HOUR)
    equal(second.connack.present, 1)
    equal(second.expect("PUBLISH", dup=1, pid=pid).payload, b"unanswered")
    p.publish(topic, b"next", 1)
    equal(second.take().payload, b"next")


@case("4.1.2: also when the old connection is alive", "waits")
def takeover_with_clean_start(t):
    topic = t.unique()
    first = Client(t, clean=False, properties=HOUR)
    first.subscribe(topic, qos=1)
    second = Client(t, client=first.id, clean=True)
    equal(second.connack.present, 0)
    second.subscribe(topic + "-last", qos=1)
    p = Client(t)
    p.publish(topic, b"unheard", 1)
    p.publish(topic + "-last", b"last", 1)
    equal(second.until(b"last"), [])


@case("4.1.5: one live connection under a storm of CONNECTs", "waits")
def storm_of_takeovers(t):
    name = t.unique()
    sockets = []
    lock = threading.Lock()

    def one():
        for _ in range(10):
            c = Connection(t)
            c.send(connect(5, name, clean=False, properties=HOUR))
            # Accepted, or closed unheard: only then the server has surely seen it.
            c.receive()
            with lock:
                sockets.append(c)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = Client(t, client=name, clean=False, properties=HOUR)
    equal(last.connack.present, 1)
    for c in sockets:
        # Each was accepted at some time or closed unheard; all are over now.
        found = c.receive()
        while found is not None:
            equal(found.kind in ("CONNACK", "DISCONNECT"), True, found)
            found = c.receive()
    last.ping()


@case("4.1: the old connection is not served", "waits")
def publish_of_the_one_taken_over(t):
    topic = t.unique()
    s = Client(t)
    s.subscribe(topic)
    first = Client(t)
    Client(t, client=first.id)
    first.rest()
    try:
        first.send(publish(5, topic, b"late"))
    except OSError:
        pass
    Client(t).publish(topic, b"last")
    equal(s.until(b"last"), [])


@case("A18: clean start 0 and expiry 0", "waits")
def session_of_a_connection(t):
    name = t.unique()
    for _ in range(3):
        c = Client(t, client=name, clean=False)
        equal(c.connack.present, 0)
        c.subscribe(t.unique(), qos=1)
        c.bye()


def not_too_early(t, last, keep_alive=1):
    """Whether a silent client was left alone for one and a half of its keep alive, after the last packet, sent at `last`.

    How much later it is closed is the machine's affair here. Mosquitto counts whole seconds.
    """
    took = time.monotonic() - last
    equal(took >= keep_alive * (1 if t.flavour == "mosquitto" else 1.5), True, f"closed after {took:.2f} s")


@case("4.4.1, 4.4.2", "waits", ("mosquitto", "2.0.11 closes without DISCONNECT"))
def keep_alive(t):
    for version in (4, 5):
        topic = t.unique()
        s = Client(t, keepalive=0)
        s.subscribe(topic)
        # Pings for longer than it may be silent, at a distance that leaves room for a machine that is late.
        c = Client(t, version, keepalive=4, will=wire.Will(topic))
        for _ in range(4):
            time.sleep(1.7)
            last = time.monotonic()
            c.ping()
        c.refused(0x8D)
        not_too_early(t, last, 4)
        equal(s.take().payload, b"gone")


@case("4.4.1, v3 alone", "waits")
def keep_alive_of_v3(t):
    topic = t.unique()
    s = Client(t, keepalive=0)
    s.subscribe(topic)
    last = time.monotonic()
    c = Client(t, 4, keepalive=1, will=wire.Will(topic))
    c.closed()
    not_too_early(t, last)
    equal(s.take().payload, b"gone")


@case("4.4.1: outgoing packets do not reset it", "waits")
def keep_alive_of_a_deaf_client(t):
    topic = t.unique()
    c, p = Client(t, 4, keepalive=1), Client(t)
    c.subscribe(topic)
    end = time.monotonic() + wire.PATIENCE
    while time.monotonic() < end:
        p.publish(topic, b"x")
        time.sleep(0.2)
        try:
            if c.receive(0.01) is None:
                return
        except AssertionError:
            continue
    raise AssertionError("the server keeps a client that says nothing")


@case("3.8: half-received packet, then silence", "waits")
def half_a_packet(t):
    c = Client(t, 4, keepalive=1)
    c.send(publish(4, "topic", b"x" * 100)[:20])
    c.closed()


@case("4.4.1: 0 = off; 4.4.4: u16 x 1.5", "waits")
def long_keep_alives(t):
    clients = [Client(t, version, keepalive=k) for version in (4, 5) for k in (0, 43_690, 43_691, 65_535)]
    time.sleep(2.5)
    for c in clients:
        c.ping()
