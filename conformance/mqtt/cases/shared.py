"""Section 4.9: shared subscriptions."""

import wire
from harness.server import OwnServer
from harness.suite import Skip, add, case, equal
from wire import Client, ack

HOUR = [(wire.SESSION_EXPIRY, 3600)]


def members(t, topic, count, group="g", qos=1, **options):
    """Members of a group that also hear the last message."""
    out = []
    for _ in range(count):
        c = Client(t, **options)
        codes = c.subscribe((f"$share/{group}/{topic}", qos), (topic + "-last", qos))
        equal(codes, [qos, qos], "granted")
        out.append(c)
    return out


def each(t, topic, clients, qos=1):
    """What each heard until now."""
    Client(t).publish(topic + "-last", b"last", qos)
    return [c.until(b"last") for c in clients]


@case("4.9.1", "waits")
def one_copy_a_group(t):
    for qos in (0, 1, 2):
        topic = t.unique()
        group = members(t, topic, 3, qos=qos)
        p = Client(t)
        sent = [b"%d" % n for n in range(60)]
        for payload in sent:
            p.publish(topic, payload, qos)
        heard = each(t, topic, group, qos)
        equal(sorted(sum(heard, [])), sorted(sent), f"QoS {qos}")
        equal(all(heard), True, "every member has a part")


@case("4.9.1: groups and plain subscriptions get their own", "waits")
def groups_are_independent(t):
    topic = t.unique()
    one, two = members(t, topic, 1, "one"), members(t, topic, 1, "two")
    plain = Client(t)
    plain.subscribe((topic, 1), (topic + "-last", 1))
    Client(t).publish(topic, b"x", 1)
    equal(each(t, topic, one + two + [plain]), [[b"x"]] * 3)


@case("4.9.1: of the same client too", "waits")
def shared_and_plain_of_one_client(t):
    topic = t.unique()
    (c,) = members(t, topic, 1)
    c.subscribe(topic, qos=1)
    Client(t).publish(topic, b"x", 1)
    equal(each(t, topic, [c]), [[b"x", b"x"]])


@case("3.7: 3.1.1 clients may use it too", "waits")
def shared_of_v3(t):
    topic = t.unique()
    a, b = Client(t, 4), Client(t, 3)
    for c in (a, b):
        c.subscribe((f"$share/g/{topic}", 1), (topic + "-last", 1))
    p = Client(t, 4)
    for n in range(20):
        p.publish(topic, b"%d" % n, 1)
    heard = each(t, topic, [a, b])
    equal(len(heard[0]) + len(heard[1]), 20)
    equal(all(heard), True)


@case("4.9: wildcards and more filters of one group", "waits")
def shared_with_wildcards(t):
    topic = t.unique()
    clients = []
    for filters in (("+/x", "/other"), ("+/x",), ("#",)):
        c = Client(t)
        group = "g" if "#" not in filters else "h"
        c.subscribe(*[(f"$share/{group}/{topic}{f if f[0] == '/' else '/' + f}", 1) for f in filters])
        c.subscribe(topic + "-last", qos=1)
        clients.append(c)
    p = Client(t)
    for name in ("1/x", "2/x", "other", "else"):
        p.publish(f"{topic}/{name}", name, 1)
    heard = each(t, topic, clients)
    equal(sorted(heard[0] + heard[1]), [b"1/x", b"2/x", b"other"])
    equal(heard[2], [b"1/x", b"2/x", b"other", b"else"])


@case("4.9.2", "waits")
def shared_qos(t):
    topic = t.unique()
    (c,) = members(t, topic, 1, qos=1)
    p = Client(t)
    for qos in (0, 1, 2):
        p.publish(topic, b"%d" % qos, qos)
        equal(c.take().qos, min(qos, 1))


@case("4.9: subscription id of the shared one", "waits")
def shared_subscription_id(t):
    topic = t.unique()
    c = Client(t)
    c.subscribe((f"$share/g/{topic}", 1), properties=[(wire.SUBSCRIPTION_ID, 5)])
    Client(t).publish(topic, b"x", 1)
    equal(c.take().values(wire.SUBSCRIPTION_ID), [5])


@case("4.9.4: unacknowledged ones of a member whose session ends go to another; A1", "waits",
      ("mosquitto", "2.0.11 loses them"))  # fmt: skip
def unacknowledged_go_to_another_member(t):
    topic = t.unique()
    a, b = members(t, topic, 2)
    p = Client(t)
    for n in range(10):
        p.publish(topic, b"%d" % n, 1)
    heard = []
    # One member answers nothing and goes.
    mine = []
    while len(heard) + len(mine) < 10:
        for c, into in ((a, mine), (b, heard)):
            try:
                found = c.expect("PUBLISH", 0.2)
            except AssertionError:
                continue
            into.append(found.payload)
            if c is b:
                b.settle(found)
    equal(bool(mine), True)
    a.close()
    for _ in mine:
        heard.append(b.take().payload)
    equal(sorted(heard), [b"%d" % n for n in range(10)])


@case("4.9.4: past PUBREC it finishes with that member", "waits")
def past_pubrec_stays(t):
    topic = t.unique()
    (a,) = members(t, topic, 1, qos=2, properties=HOUR)
    Client(t).publish(topic, b"x", 2)
    found = a.expect("PUBLISH", payload=b"x")
    a.send(ack("PUBREC", found.pid))
    a.expect("PUBREL", pid=found.pid)
    a.close()
    (b,) = members(t, topic, 1, qos=2)
    a = Client(t, client=a.id, clean=False)
    a.expect("PUBREL", pid=found.pid)
    a.send(ack("PUBCOMP", found.pid))
    Client(t).publish(topic + "-last", b"last", 2)
    equal((a.until(b"last"), b.until(b"last")), ([], []))


@case("4.9.3: backlog while no member is connected; A1", "waits")
def backlog_of_a_group(t):
    topic = t.unique()
    (a,) = members(t, topic, 1, properties=HOUR)
    a.bye()
    p = Client(t)
    sent = [b"%d" % n for n in range(30)]
    for payload in sent:
        p.publish(topic, payload, 1)
    a = Client(t, client=a.id, clean=False)
    equal(a.connack.present, 1)
    p.publish(topic + "-last", b"last", 1)
    heard = []
    while len(heard) < 31:
        heard.append(a.take().payload)
    equal(sorted(heard), sorted(sent + [b"last"]))


@case("A1: the backlog belongs to the group", "waits", ("mosquitto", "strands it with the member that is away"))
def backlog_goes_to_whoever_comes(t):
    topic = t.unique()
    (a,) = members(t, topic, 1, properties=HOUR)
    a.bye()
    p = Client(t)
    sent = [b"%d" % n for n in range(30)]
    for payload in sent:
        p.publish(topic, payload, 1)
    (b,) = members(t, topic, 1, properties=HOUR)
    equal(sorted(b.take().payload for _ in sent), sorted(sent))


def parts(clients, count):
    """Who got each of `count` messages, by payload; everything is acknowledged."""
    got = {}
    while len(got) < count:
        for number, c in enumerate(clients):
            try:
                found = c.expect("PUBLISH", 0.05)
            except AssertionError:
                continue
            c.settle(found)
            got[found.payload] = number
    return got


def strategy(name, check):
    """A case for a strategy of a share, at QoS 0 and 1: `check` is given who got each message, in the order of sending,
    with its topic and its publisher."""

    def run(t):
        if t.flavour != "longtail":
            raise Skip("the strategy is a setting of Longtail")
        server = OwnServer(t, "--set", f"mqtt.share_strategy={name}")
        for qos in (0, 1):
            topic = t.unique()
            clients = [Client(t, address=server.address) for _ in range(3)]
            for c in clients:
                c.subscribe((f"$share/g/{topic}/+", qos))
            publishers = [Client(t, address=server.address) for _ in range(8)]
            sent = []
            for n in range(96):
                publisher, sub = n % 8, n // 8
                publishers[publisher].publish(f"{topic}/{sub}", b"%d" % n, qos)
                sent.append((b"%d" % n, sub, publisher))
            got = parts(clients, len(sent))
            check([(got[payload], sub, publisher) for payload, sub, publisher in sent])

    add(f"share_{name.replace('-', '_')}", run, "share-strategy", "waits")


def by(rows, key):
    """The members that got something, for each value of a column."""
    found = {}
    for row in rows:
        found.setdefault(row[key], set()).add(row[0])
    return found


def one_for_each(rows, key):
    members = by(rows, key)
    equal([len(m) for m in members.values()], [1] * len(members), "members for one key")
    equal(len(set.union(*members.values())) > 1, True, "keys are spread")


def shares_of(rows):
    return sorted(sum(row[0] == member for row in rows) for member in range(3))


def at_random(rows):
    equal(shares_of(rows)[0] > 5, True, "spread")
    equal(any(one[0] == next_one[0] for one, next_one in zip(rows, rows[1:])), True, "not in turn")


strategy("round-robin", lambda rows: equal(shares_of(rows), [32, 32, 32]))
strategy("random", at_random)
strategy("sticky", lambda rows: equal(shares_of(rows), [0, 0, 96]))
strategy("hash-topic", lambda rows: one_for_each(rows, 1))
strategy("hash-client-id", lambda rows: one_for_each(rows, 2))
strategy("least-in-flight", lambda rows: equal(shares_of(rows)[2] <= 34, True, "spread"))


@case("A2; 4.9.6: a member without room is passed over", "waits", ("mosquitto", "queues for it all the same"))
def members_without_room(t):
    topic = t.unique()
    (slow,) = members(t, topic, 1, properties=[(wire.RECEIVE_MAXIMUM, 1)])
    (quick,) = members(t, topic, 1)
    p = Client(t)
    for n in range(20):
        p.publish(topic, b"%d" % n, 1)
    held = slow.expect("PUBLISH")
    heard = [quick.take().payload for _ in range(19)]
    equal(sorted([held.payload, *heard]), sorted(b"%d" % n for n in range(20)))


@case("3.7: UNSUBSCRIBE leaves the group", "waits")
def leaving_a_group(t):
    topic = t.unique()
    a, b = members(t, topic, 2)
    a.unsubscribe(f"$share/g/{topic}")
    p = Client(t)
    for n in range(6):
        p.publish(topic, b"%d" % n, 1)
    equal(each(t, topic, [a, b]), [[], [b"%d" % n for n in range(6)]])


@case("4.7.2: too big for one, another member", "waits", ("mosquitto", "2.0.11 drops it"))
def too_big_for_a_member(t):
    topic = t.unique()
    members(t, topic, 1, properties=[(wire.MAXIMUM_PACKET, 200)])
    (b,) = members(t, topic, 1)
    p = Client(t)
    for _ in range(6):
        p.publish(topic, b"x" * 500, 1)
    # Between subscriptions there is no order: the last message of another one may come before these.
    equal([b.take().payload for _ in range(6)], [b"x" * 500] * 6)
    equal(each(t, topic, [b]), [[]])
