"""Who may come in, and what for: access lists in the formats of other brokers, limits of accounts. Byte by byte."""

import pathlib
import shutil
import signal
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from harness import suite  # noqa: E402
from harness.server import OwnServer  # noqa: E402
from harness.suite import Skip, case, equal, eventually  # noqa: E402
from wire import PINGREQ, Client, Connection, connect, publish, subscribe  # noqa: E402

NOT_AUTHORIZED, QUOTA = 0x87, 0x97

EMQX = """%% The first that fits.
{allow, {user, "dashboard"}, subscribe, ["$SYS/#"]}.
{deny, all, subscribe, ["$SYS/#", {eq, "#"}]}.
{allow, {'and', [{clientid, {re, "^pump-"}}, {ipaddr, "127.0.0.0/8"}]}, publish, ["of/${clientid}/#"]}.
{deny, all, publish, ["of/#"]}.
{deny, {username, "eve"}}.
{allow, all}.
"""

NANOMQ = """rules = [
  ## Comments, and commas that are left out.
  {"permit": "allow", "username": "dashboard", "action": "subscribe", "topics": ["$SYS/#"]}
  {"permit": "deny", "username": "#", "action": "subscribe", "topics": ["$SYS/#", "@#"]}
  {permit: allow, clientid: "pump", action: publish, topics: ["of/${clientid}/#"]}
  {"permit": "deny", "action": "publish", "topics": ["of/#"]}
  {"permit": "allow"}
]
"""

LEDGER = """# Mochi's.
auth:
  - { username: melon, password: "password2", allow: true }
  - { remote: "192.0.2.1:*", allow: true }
acl:
  - username: melon
    filters: { "melon/#": 3, "updates/#": 2 }
  - filters: { "#": 1, "updates/#": 0 }
"""

ACCOUNTS = """
[[accounts]]
name = "ann"
certificates = ["ann"]
limits = { connections_max = 2, subscriptions_max = 3 }
permissions = [{ space = "default", rules = [{ actions = ["publish", "consume"], subject = "#" }] }]
"""


class Server(OwnServer):
    """A server with files of its own: `{home}` in its words is where they are."""

    def __init__(self, t, *words, **files):
        if not t.start or t.flavour != "longtail":
            raise Skip("is about settings of Longtail")
        self.files = pathlib.Path(tempfile.mkdtemp(prefix="longtail-access-"))
        t.defer(lambda: shutil.rmtree(self.files, ignore_errors=True))
        for name, text in files.items():
            (self.files / name).write_text(text)
        self._t = t
        super().__init__(t, *(word.replace("{home}", str(self.files)) for word in words))

    def client(self, user=None, version=5, **options):
        """A client that gives a name, and no password."""
        return Client(self._t, version, address=self.address, username=user, **options)

    def reload(self):
        """Has it read its files again."""
        self._process.send_signal(signal.SIGHUP)


@case("EMQX: acl.conf", "waits")
def emqx_list(t):
    server = Server(t, "--set", "mqtt.acl_file={home}/acl", acl=EMQX)
    anybody = server.client("x")
    equal(anybody.subscribe("a/#", "#", "$SYS/#"), [0, NOT_AUTHORIZED, NOT_AUTHORIZED])
    equal(server.client("dashboard").subscribe("$SYS/#"), [0])
    equal((anybody.publish("b", b"x", 1) & 0x80, anybody.publish("of/x", b"x", 1)), (0, NOT_AUTHORIZED))
    pump = server.client(client="pump-7")
    equal((pump.publish("of/pump-7/t", b"", 1) & 0x80, pump.publish("of/pump-8/t", b"", 1)), (0, NOT_AUTHORIZED))
    eve = server.client("eve")
    equal((eve.publish("b", b"x", 1), eve.subscribe("b")), (NOT_AUTHORIZED, [NOT_AUTHORIZED]))


QUALIFIED = """
{deny, all, {publish, [{qos, [1, 2]}]}, ["a"]}.
{deny, all, {publish, [{retain, true}]}, ["b"]}.
{deny, all, {subscribe, [{qos, 2}]}, ["c/#"]}.
{allow, all}.
"""


@case("EMQX: rules for a QoS, and for retained messages", "waits")
def emqx_qualifiers(t):
    server = Server(t, "--set", "mqtt.acl_file={home}/acl", acl=QUALIFIED)
    reader, c = server.client(), server.client()
    equal(reader.subscribe("a", "b"), [0, 0])
    equal([c.publish("a", b"1", qos) for qos in (1, 2)], [NOT_AUTHORIZED, NOT_AUTHORIZED])
    c.publish("a", b"0", 0)
    equal(c.publish("b", b"kept", 1, retain=True), NOT_AUTHORIZED)
    equal(c.publish("b", b"not kept", 1), 0)
    equal([reader.take().payload for _ in range(2)], [b"0", b"not kept"])
    equal([reader.subscribe("c/x", qos=qos)[0] for qos in (0, 1, 2)], [0, 1, NOT_AUTHORIZED])
    # A wider filter is granted; what it may not have at this QoS is not sent.
    equal((reader.subscribe("#", qos=2), c.publish("c/y", b"x", 1)), ([2], 0))
    reader.ping()


SOURCE = """anonymous = "ann"
[[accounts]]
name = "ann"
certificates = ["ann"]
permissions = [{{ space = "default", rules = [
  {{ actions = ["consume"], subject = "#" }},
  {{ actions = ["publish"], subject = "{publishes}" }},
] }}]
"""


@case("Mosquitto: check_retain_source", "waits")
def retain_source(t):
    config = SOURCE.format(publishes="#")
    words = ("--config", "{home}/config", "--set", "mqtt.retain_source_checked=true")
    server = Server(t, *words, config=config)
    c = server.client()
    for topic in ("a", "b"):
        equal(c.publish(topic, b"kept", 1, retain=True) & 0x80, 0)

    def kept():
        reader = server.client()
        reader.subscribe("#")
        reader.send(PINGREQ)
        found = set()
        while (packet := reader.receive()).kind == "PUBLISH":
            found.add(packet.topic)
        return found

    equal(kept(), {"a", "b"})
    (server.files / "config").write_text(SOURCE.format(publishes="a"))
    server.reload()
    eventually(lambda: kept() == {"a"}, "what its publisher may not publish any more is not sent")


@case("NanoMQ: nanomq_acl.conf, and a denial that ends the connection", "waits")
def nanomq_list(t):
    words = ("--set", "mqtt.acl_file={home}/acl", "--set", "mqtt.acl_format=nanomq")
    server = Server(t, *words, acl=NANOMQ)
    anybody = server.client("x")
    equal(anybody.subscribe("a/#", "#", "$SYS/#"), [0, NOT_AUTHORIZED, NOT_AUTHORIZED])
    equal(server.client("dashboard").subscribe("$SYS/#"), [0])
    equal(anybody.publish("of/pump/t", b"x", 1), NOT_AUTHORIZED)
    equal(server.client(client="pump").publish("of/pump/t", b"x", 1) & 0x80, 0)
    strict = Server(t, *words, "--set", "mqtt.acl_deny_action=disconnect", acl=NANOMQ)
    for version in (4, 5):
        for packet in (publish(version, "of/x", b"x", 0), publish(version, "of/x", b"x", 1, 7)):
            c = strict.client("x", version)
            c.send(packet)
            c.refused(NOT_AUTHORIZED)
        c = strict.client("x", version)
        c.send(subscribe(version, 9, [("#", 0)]))
        if version == 5:
            c.expect("DISCONNECT", code=NOT_AUTHORIZED)
        c.rest()


@case("Mochi: the ledger, and what changes at a reload", "waits")
def mochi_ledger(t):
    server = Server(t, "--set", "mqtt.ledger_file={home}/ledger", ledger=LEDGER)

    def let_in(user, password, version=5):
        c = Connection(t, version, server.address)
        c.send(connect(version, t.unique(), username=user, password=password))
        return c, c.expect("CONNACK").code

    melon, code = let_in("melon", b"password2")
    equal(code, 0)
    for user, password in (("melon", b"x"), ("peach", b"password1"), (None, None)):
        equal(let_in(user, password)[1], 0x86, user)
    equal(let_in("melon", b"x", 4)[1], 5)
    for topic, allowed in (("melon/a", True), ("updates/a", True), ("other", False)):
        melon.send(publish(5, topic, b"", 1, 7))
        equal(melon.expect("PUBACK", pid=7).code != NOT_AUTHORIZED, allowed, topic)
    for filter_, allowed in (("melon/#", True), ("other", True), ("updates/a", False)):
        melon.send(subscribe(5, 8, [(filter_, 0)]))
        equal(melon.expect("SUBACK", pid=8).codes == [0], allowed, filter_)
    (server.files / "ledger").write_text(LEDGER.replace("melon", "peach"))
    server.reload()
    melon.expect("DISCONNECT", code=NOT_AUTHORIZED)
    equal(let_in("peach", b"password2")[1], 0)


@case("a list that leaves the rest to others, or not", "waits")
def no_match(t):
    acl = '{deny, all, publish, ["a"]}.\n'
    for word, allowed in (("account", True), ("allow", True), ("deny", False)):
        server = Server(t, "--set", "mqtt.acl_file={home}/acl", "--set", f"mqtt.acl_no_match={word}", acl=acl)
        c = server.client()
        equal(c.publish("a", b"", 1), NOT_AUTHORIZED)
        equal(c.publish("b", b"", 1) != NOT_AUTHORIZED, allowed, word)


@case("a list that is not understood", "waits")
def broken_list(t):
    acl = '{allow, all, publish, ["a"]}.\n{deny, {zone, "x"}}.\n'
    try:
        Server(t, "--set", "mqtt.acl_file={home}/acl", acl=acl)
    except AssertionError as ended:
        equal("line 2" in str(ended) and "zone" in str(ended), True, ended)
    else:
        raise AssertionError("it started")


@case("prefixes of client identifiers", "waits")
def client_id_prefixes(t):
    server = Server(t, "--set", 'mqtt.client_id_prefixes=["a-", "b-"]')
    for name, code in (("a-1", 0), ("b-", 0), ("c-1", NOT_AUTHORIZED), ("a", NOT_AUTHORIZED)):
        server.client(client=name, code=code)
    server.client(client="c-1", version=4, code=5)


@case("QoS of the subscription, whatever it was published at", "waits")
def upgraded_qos(t):
    server = Server(t, "--set", "mqtt.upgrade_qos=true")
    p, low, high = (server.client() for _ in range(3))
    low.subscribe("t", qos=1)
    high.subscribe("t", qos=2)
    for qos in (0, 1, 2):
        p.publish("t", b"x", qos)
        equal((low.take().qos, high.take().qos), (1, 2))


@case("connections of an account", "waits")
def account_connections(t):
    server = Server(t, "--config", "{home}/config", config='anonymous = "ann"\n' + ACCOUNTS)
    first, second = server.client(), server.client()
    server.client(code=QUOTA)
    again = server.client(client=second.id)
    second.expect("DISCONNECT", code=0x8E)
    refused = Connection(t, 4, server.address)
    refused.send(connect(4, t.unique()))
    equal(refused.expect("CONNACK").code, 3)
    first.close()
    again.ping()


@case("subscriptions of an account", "waits")
def account_subscriptions(t):
    server = Server(t, "--config", "{home}/config", config='anonymous = "ann"\n' + ACCOUNTS)
    first, second = server.client(), server.client()
    equal(first.subscribe("a", "b"), [0, 0])
    equal(second.subscribe("a", "b"), [0, QUOTA])
    equal(first.subscribe(("a", 1)), [1], "one that is there already")
    equal(first.unsubscribe("a"), [0])
    equal(second.subscribe("b"), [0])
    first.close()


if __name__ == "__main__":
    suite.run()
