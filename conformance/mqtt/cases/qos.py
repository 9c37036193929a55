"""Section 4.2: the state machines of QoS 1 and 2, in both directions, and what a reconnect sends again."""

import wire
from harness.suite import case, equal
from wire import Client, ack, publish

KEPT = [(wire.SESSION_EXPIRY, 300)]


def kept(t, version=5, client=None, **options):
    """A client whose session outlives its connection."""
    if version == 5:
        options.setdefault("properties", KEPT)
    return Client(t, version, client=client, clean=False, **options)


@case("4.2: QoS 1 in; 3.5: 10", "waits")
def qos_1_in(t):
    topic = t.unique()
    for version in (3, 4):
        c = Client(t, version)
        c.send(publish(version, topic, b"x", 1, 513))
        equal(c.raw(4), b"\x40\x02\x02\x01")
    c = Client(t)
    c.send(publish(5, topic, b"x", 1, 65535))
    equal(c.raw(5), b"\x40\x03\xff\xff\x10", "nobody subscribed")
    s = Client(t)
    s.subscribe(topic)
    c.send(publish(5, topic, b"x", 1, 7))
    equal(c.raw(4), b"\x40\x02\0\7", "somebody did")


@case("4.2: QoS 2 in", "waits")
def qos_2_in(t):
    topic = t.unique()
    for version in (3, 4, 5):
        c = Client(t, version)
        c.send(publish(version, topic, b"x", 2, 77))
        equal(c.raw(4), b"\x50\x02\0\x4d", "PUBREC stays 00")
        c.send(ack("PUBREL", 77))
        equal(c.raw(4), b"\x70\x02\0\x4d", "PUBCOMP")


@case("4.2.1: visible at PUBREL", "waits")
def qos_2_is_routed_at_pubrel(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    s.subscribe(topic, qos=2)
    p.send(publish(5, topic, b"held", 2, 1))
    p.expect("PUBREC", pid=1)
    p.publish(topic, b"between", 2, pid=2)
    p.send(ack("PUBREL", 1))
    p.expect("PUBCOMP", pid=1)
    equal([s.take().payload, s.take().payload], [b"between", b"held"])


@case("4.2: known id is not stored twice; 3.8", "waits")
def qos_2_repeated_before_pubrel(t):
    for version in (4, 5):
        topic = t.unique()
        s, p = Client(t), Client(t, version)
        s.subscribe(topic, topic + "-last", qos=2)
        p.send(publish(version, topic, b"once", 2, 9))
        p.expect("PUBREC", pid=9)
        p.send(publish(version, topic, b"once", 2, 9, dup=True))
        p.expect("PUBREC", pid=9)
        for _ in range(2):
            p.send(ack("PUBREL", 9))
            p.expect("PUBCOMP", pid=9)
        p.publish(topic + "-last", b"last", 2)
        equal(s.until(b"last"), [b"once"])


@case("3.8: same id, different message", "waits")
def qos_2_id_with_another_message(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    s.subscribe(topic, topic + "-last", qos=2)
    p.send(publish(5, topic, b"discarded", 2, 9))
    p.expect("PUBREC", pid=9)
    p.send(publish(5, topic, b"kept", 2, 9))
    p.expect("PUBREC", pid=9)
    p.send(ack("PUBREL", 9))
    p.expect("PUBCOMP", pid=9)
    p.publish(topic + "-last", b"last", 2)
    equal(s.until(b"last"), [b"kept"])


@case("4.2: QoS 2 in over a reconnect", "waits")
def qos_2_in_resumed(t):
    for version in (4, 5):
        topic = t.unique()
        s, p = Client(t), kept(t, version)
        s.subscribe(topic, topic + "-last", qos=2)
        p.send(publish(version, topic, b"once", 2, 9))
        p.expect("PUBREC", pid=9)
        p.close()
        p = kept(t, version, p.id)
        equal(p.connack.present, 1)
        p.send(publish(version, topic, b"once", 2, 9, dup=True))
        p.expect("PUBREC", pid=9)
        p.close()
        p = kept(t, version, p.id)
        p.send(ack("PUBREL", 9))
        p.expect("PUBCOMP", pid=9)
        p.publish(topic + "-last", b"last", 2, pid=10)
        equal(s.until(b"last"), [b"once"])


@case("4.2: QoS 1 out", "waits")
def qos_1_out(t):
    topic = t.unique()
    for version in (3, 4, 5):
        s, p = Client(t, version), Client(t)
        s.subscribe(topic, qos=1)
        seen = set()
        for n in range(5):
            p.publish(topic, b"%d" % n, 2)
            found = s.expect("PUBLISH", payload=b"%d" % n, qos=1, dup=0)
            seen.add(found.pid)
        equal(len(seen), 5, "ids in use are not given again")
        for pid in seen:
            s.send(ack("PUBACK", pid))
        s.ping()
        s.bye()


@case("4.2: PUBACK with any code frees the id", "waits")
def puback_with_error(t):
    topic = t.unique()
    s, p = kept(t), Client(t)
    s.subscribe(topic, topic + "-last", qos=1)
    p.publish(topic, b"refused", 1)
    s.send(ack("PUBACK", s.expect("PUBLISH").pid, 0x80))
    s.ping()
    s.close()
    s = kept(t, client=s.id)
    p.publish(topic + "-last", b"last", 1)
    equal(s.until(b"last"), [])


@case("4.2: QoS 2 out", "waits")
def qos_2_out(t):
    topic = t.unique()
    for version in (3, 4, 5):
        s, p = Client(t, version), Client(t)
        s.subscribe(topic, qos=2)
        p.publish(topic, b"x", 2)
        found = s.expect("PUBLISH", qos=2, dup=0)
        s.send(ack("PUBREC", found.pid))
        equal(s.raw(4), b"\x62\x02" + wire.u16(found.pid))
        s.send(ack("PUBREC", found.pid))
        equal(s.raw(4), b"\x62\x02" + wire.u16(found.pid), "second PUBREC while waiting PUBCOMP: PUBREL again")
        s.send(ack("PUBCOMP", found.pid))
        s.ping()
        s.bye()


@case("4.2: PUBREC with an error: no PUBREL", "waits")
def pubrec_with_error(t):
    topic = t.unique()
    s, p = kept(t), Client(t)
    s.subscribe(topic, topic + "-last", qos=2)
    p.publish(topic, b"refused", 2)
    s.send(ack("PUBREC", s.expect("PUBLISH").pid, 0x80))
    s.ping()
    s.close()
    s = kept(t, client=s.id)
    p.publish(topic + "-last", b"last", 2)
    equal(s.until(b"last"), [])


def wrong_acks(t, version):
    """What an acknowledgement of the wrong kind gets."""
    for qos, kind in ((1, "PUBREC"), (2, "PUBACK"), (2, "PUBCOMP")):
        topic = t.unique()
        s, p = Client(t, version), Client(t)
        s.subscribe(topic, qos=qos)
        p.publish(topic, b"x", qos)
        s.send(ack(kind, s.expect("PUBLISH").pid))
        s.refused(0x82)


@case("3.8: wrong ack type for the flow", "waits")
def wrong_acks_of_v3(t):
    wrong_acks(t, 4)


@case("3.8: wrong ack type for the flow", "waits", ("mosquitto", "2.0.11 closes without DISCONNECT"))
def wrong_acks_of_v5(t):
    wrong_acks(t, 5)


@case("4.2.3: order, DUP and ids on reconnect", "waits")
def resend_on_reconnect(t):
    for version in (4, 5):
        topic = t.unique()
        s, p = kept(t, version), Client(t)
        s.subscribe((topic + "/1", 1), (topic + "/2", 2))
        p.publish(topic + "/1", b"a", 1)
        p.publish(topic + "/2", b"b", 2)
        p.publish(topic + "/2", b"c", 2)
        p.publish(topic + "/1", b"d", 1)
        first = [s.expect("PUBLISH") for _ in range(4)]
        equal([f.payload for f in first], [b"a", b"b", b"c", b"d"])
        past = first[1]
        s.send(ack("PUBREC", past.pid))
        s.expect("PUBREL", pid=past.pid)
        s.close()
        p.publish(topic + "/1", b"e", 1)
        s = kept(t, version, s.id)
        equal(s.connack.present, 1)
        again = [s.receive() for _ in range(5)]
        equal(
            [(f.kind, f.payload, f.pid, f.dup) for f in again],
            [
                ("PUBLISH", b"a", first[0].pid, 1),
                ("PUBREL", None, past.pid, 0),
                ("PUBLISH", b"c", first[2].pid, 1),
                ("PUBLISH", b"d", first[3].pid, 1),
                # The server may have sent it to the connection of whose end it had not heard.
                ("PUBLISH", b"e", again[4].pid, again[4].dup),
            ],
        )
        equal(again[4].pid not in [f.pid for f in first], True, "a new id")
        s.send(ack("PUBCOMP", past.pid))
        for found in again:
            if found.kind == "PUBLISH" and found.qos == 1:
                s.send(ack("PUBACK", found.pid))
        s.settle(again[2])
        s.bye()
        s = kept(t, version, s.id)
        p.publish(topic + "/1", b"last", 1)
        equal(s.until(b"last"), [], "all settled")


@case("4.2.3: nothing is sent again on a live connection", "waits")
def no_resend_on_a_live_connection(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    s.subscribe(topic, topic + "-last", qos=1)
    p.publish(topic, b"unanswered", 1)
    s.expect("PUBLISH", payload=b"unanswered")
    for n in range(20):
        p.publish(topic + "-last", b"%d" % n, 0)
    p.publish(topic + "-last", b"last", 1)
    equal(b"unanswered" in s.until(b"last"), False)


@case("4.2.5: order of messages and acks", "waits")
def order_is_kept(t):
    for qos in (0, 1, 2):
        topic = t.unique()
        s, p = Client(t), Client(t)
        s.subscribe(topic, qos=qos)
        count = 300
        at = 0
        window = p.limit(wire.RECEIVE_MAXIMUM, 65535)
        while at < count:
            batch = range(at, min(at + window, count, at + 50))
            p.send(*[publish(5, topic, b"%d" % n, qos, n + 1 if qos else None) for n in batch])
            answers = [p.receive() for n in batch] if qos else []
            equal([a.pid for a in answers], [n + 1 for n in batch] if qos else [], "acks in order")
            if qos == 2:
                p.send(*[ack("PUBREL", n + 1) for n in batch])
                equal([p.expect("PUBCOMP").pid for n in batch], [n + 1 for n in batch])
            equal([s.take().payload for n in batch], [b"%d" % n for n in batch], f"QoS {qos}")
            at = batch.stop
    # Acks of different kinds come in the order of what they answer.
    p = Client(t)
    topic = t.unique()
    p.send(publish(5, topic, b"", 1, 1), publish(5, topic, b"", 2, 2), publish(5, topic, b"", 1, 3))
    equal([(f.kind, f.pid) for f in (p.receive(), p.receive(), p.receive())],
          [("PUBACK", 1), ("PUBREC", 2), ("PUBACK", 3)])  # fmt: skip


@case("4.2.7: own copy before the ack", "waits")
def own_copy_first(t):
    topic = t.unique()
    c = Client(t)
    c.subscribe(topic, qos=0)
    c.send(publish(5, topic, b"x", 1, 50))
    c.expect("PUBLISH", payload=b"x")
    c.expect("PUBACK", pid=50, code=0)
    c.send(publish(5, topic, b"y", 2, 51))
    c.expect("PUBREC", pid=51)
    c.send(ack("PUBREL", 51))
    c.expect("PUBLISH", payload=b"y")
    c.expect("PUBCOMP", pid=51)


@case("4.2.8: DUP is about one hop", "waits")
def dup_is_not_forwarded(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    s.subscribe(topic, qos=2)
    for qos, pid in ((1, 5), (2, 6)):
        p.send(publish(5, topic, b"x", qos, pid, dup=True))
        p.receive()
        if qos == 2:
            p.send(ack("PUBREL", pid))
            p.expect("PUBCOMP")
        equal(s.take().dup, 0)


@case("4.2: ids are independent in each direction", "waits")
def ids_of_both_sides(t):
    topic = t.unique()
    c = Client(t)
    c.subscribe(topic, qos=2)
    c.send(publish(5, topic, b"x", 1, 1))
    got = {}
    for _ in range(2):
        found = c.receive()
        got[found.kind] = found
    equal(sorted(got), ["PUBACK", "PUBLISH"])
    # Ours with the id that the server uses for its own, while that is under way.
    pid = got["PUBLISH"].pid
    other = t.unique()
    c.send(publish(5, other, b"y", 2, pid))
    c.expect("PUBREC", pid=pid)
    c.send(ack("PUBREL", pid))
    c.expect("PUBCOMP", pid=pid)
    c.settle(got["PUBLISH"])
    c.ping()


@case("4.2.14; 4.2: QoS 0 and 1 mixed", "waits")
def many_in_flight(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    s.subscribe(topic, qos=1)
    window = min(p.limit(wire.RECEIVE_MAXIMUM, 65535), 200)
    total = 2000
    sent = 0
    while sent < total:
        batch = min(window, total - sent)
        p.send(*[publish(5, topic, b"%d" % (sent + n), 1, n + 1) for n in range(batch)])
        for n in range(batch):
            p.expect("PUBACK", pid=n + 1)
        for n in range(batch):
            equal(s.take().payload, b"%d" % (sent + n))
        sent += batch


@case("4.2: SUBSCRIBE with an id that is in use the other way", "waits")
def subscribe_id_in_use_by_the_server(t):
    topic = t.unique()
    s, p = Client(t), Client(t)
    s.subscribe(topic, qos=1)
    p.publish(topic, b"x", 1)
    found = s.expect("PUBLISH")
    s.send(wire.subscribe(5, found.pid, [(topic + "/x", 1)]))
    s.expect("SUBACK", pid=found.pid, codes=[1])


