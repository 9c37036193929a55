"""`mosquitto_ctrl dynsec` administers a server: clients, groups and roles, and what they mean for clients.

Each case starts a server of its own on a file that `mosquitto_ctrl dynsec init` has made. Against Mosquitto it is the
plug-in that is administered, in whose file nothing is looked at but what it answers.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from harness import suite  # noqa: E402
from harness.server import OwnServer  # noqa: E402
from harness.suite import Skip, case, equal  # noqa: E402
from wire import Client, Connection, Will, connect, publish  # noqa: E402

PATIENCE = 15
DYNSEC = "$CONTROL/dynamic-security/v1"
BROKER = "$CONTROL/broker/v1"
PLUGIN = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so"

NOT_AUTHORIZED = 0x87

#: What 2.0.11 of Debian does.
OLDER = "mosquitto"


class Server(OwnServer):
    """A server with dynamic security, and its administrator."""

    def __init__(self, t):
        if not t.start:
            raise Skip("needs --start, to start a server of its own")
        home = pathlib.Path(tempfile.mkdtemp(prefix="longtail-dynsec-"))
        t.defer(lambda: shutil.rmtree(home, ignore_errors=True))
        self.file = home / "dynamic-security.json"
        words = ["mosquitto_ctrl", "dynsec", "init", str(self.file), "admin", "secret"]
        subprocess.run(words, capture_output=True, timeout=PATIENCE, check=True)
        more = ["--set", f"mqtt.dynamic_security_file={self.file}"]
        start, config = t.start, t.start.get("config")
        if config is not None:
            # Mosquitto.
            config += f"plugin {PLUGIN}\nplugin_opt_config_file {self.file}\n"
            t.start, more = {**start, "config": config}, []
        try:
            super().__init__(t, *more)
        finally:
            t.start = start
        self._t = t

    def ctrl(self, *words, user="admin", password="secret"):
        """Runs one command of `mosquitto_ctrl dynsec`; what it prints, and what it complains of."""
        host, port = self.address
        command = ["mosquitto_ctrl", "-h", host, "-p", str(port), "-u", user, "-P", password, "dynsec"]
        done = subprocess.run(
            command + [str(word) for word in words], capture_output=True, timeout=PATIENCE, check=False, text=True
        )
        warning = "You are running mosquitto_ctrl without encryption."
        complaints = [line for line in done.stderr.splitlines() if line and warning not in line]
        complaints = [line for line in complaints if "visible on the network" not in line]
        return done.stdout, " ".join(complaints)

    def do(self, *words):
        """A command that has to succeed."""
        out, complaint = self.ctrl(*words)
        equal(complaint, "", words)
        return out

    def lines(self, *words):
        """What a command lists."""
        return self.do(*words).split()

    def client(self, user=None, password=None, version=5, **options):
        """A client of the server."""
        return Client(self._t, version, address=self.address, username=user, password=password, **options)

    def refused(self, user=None, password=None, **options):
        """The code that a client is refused with."""
        c = Connection(self._t, 5, self.address)
        c.send(connect(5, self._t.unique(), username=user, password=password, **options))
        return c.expect("CONNACK").code

    def asks(self, endpoint=DYNSEC):
        """A client that asks by messages."""
        asker = self.client("admin", "secret")
        equal(asker.subscribe(endpoint + "/response", qos=1)[0] < 3, True)

        def ask(*commands):
            pid = asker.pid()
            payload = json.dumps({"commands": list(commands)})
            asker.send(publish(5, endpoint, payload, 1, pid))
            asker.find("PUBACK", pid)
            answer = asker.take(topic=endpoint + "/response")
            return json.loads(answer.payload)["responses"]

        return ask


def denied(code):
    """Whether a client that was not let in was told what its flavour tells."""
    return code in (0x86, NOT_AUTHORIZED)


@case("ctrl: clients, groups and roles", "waits")
def administers(t):
    server = Server(t)
    server.do("createRole", "writer")
    server.do("addRoleACL", "writer", "publishClientSend", "up/#", "allow", 3)
    server.do("addRoleACL", "writer", "subscribeLiteral", "down", "deny")
    server.do("createGroup", "staff")
    server.do("addGroupRole", "staff", "writer", 2)
    server.do("createClient", "ann", "-c", "pump", "-p", "pw")
    server.do("createClient", "bob", "-p", "pw")
    server.do("addClientRole", "ann", "writer", 7)
    server.do("addGroupClient", "staff", "bob", 1)
    equal(server.lines("listClients"), ["admin", "ann", "bob"])
    equal(server.lines("listClients", 1, 1), ["ann"])
    equal(server.lines("listGroups"), ["staff"])
    equal(server.lines("listRoles"), ["admin", "writer"])
    shown = server.do("getClient", "ann")
    equal(all(text in shown for text in ("Username: ann", "Clientid: pump", "writer (priority: 7)")), True, shown)
    shown = server.do("getGroup", "staff")
    equal(all(text in shown for text in ("Groupname: staff", "writer (priority: 2)", "bob")), True, shown)
    shown = server.do("getRole", "writer")
    equal("publishClientSend" in shown and "up/#" in shown and "down" in shown, True, shown)
    for words, complaint in (
        (("createClient", "ann", "-p", "x"), "Client already exists"),
        (("createRole", "writer"), "Role already exists"),
        (("addClientRole", "ann", "nothing"), "Role not found"),
        (("getClient", "nobody"), "Client not found"),
        (("addRoleACL", "writer", "subscribePattern", "a/#/b", "allow"), "Invalid"),
    ):
        equal(complaint in server.ctrl(*words)[1], True, words)
    server.do("removeRoleACL", "writer", "subscribeLiteral", "down")
    equal("down" in server.do("getRole", "writer"), False)
    server.do("removeClientRole", "ann", "writer")
    equal("writer" in server.do("getClient", "ann"), False)
    server.do("removeGroupClient", "staff", "bob")
    server.do("removeGroupRole", "staff", "writer")
    server.do("deleteGroup", "staff")
    server.do("deleteRole", "writer")
    server.do("deleteClient", "bob")
    equal(server.lines("listClients"), ["admin", "ann"])
    equal((server.lines("listGroups"), server.lines("listRoles")), ([], ["admin"]))


@case("ctrl: defaults", "waits", (OLDER, "it passes over what its own mosquitto_ctrl says"))
def defaults(t):
    server = Server(t)
    server.do("createClient", "ann", "-p", "pw")
    ann = server.client("ann", "pw")
    equal((ann.publish("a", b"x", 1), ann.subscribe("a")), (NOT_AUTHORIZED, [NOT_AUTHORIZED]))
    shown = server.do("getDefaultACLAccess")
    equal("publishClientSend    : deny" in shown and "publishClientReceive : allow" in shown, True, shown)
    server.do("setDefaultACLAccess", "publishClientSend", "allow")
    server.do("setDefaultACLAccess", "subscribe", "allow")
    ann = server.client("ann", "pw")
    equal((ann.subscribe("a"), ann.unsubscribe("a"), ann.publish("a", b"x", 1) & 0x80), ([0], [0], 0))
    server.do("setDefaultACLAccess", "unsubscribe", "deny")
    ann = server.client("ann", "pw")
    ann.subscribe("a")
    equal(ann.unsubscribe("a"), [NOT_AUTHORIZED])
    equal(ann.publish("$CONTROL/dynamic-security/v1", b"{}", 1), NOT_AUTHORIZED, "defaults do not make administrators")


@case("pub, sub: what roles allow", "waits")
def roles_decide(t):
    server = Server(t)
    server.do("createClient", "ann", "-p", "pw")
    server.do("createRole", "r")
    for kind, topic, effect, priority in (
        ("publishClientSend", "up/#", "allow", 1),
        ("publishClientSend", "up/secret", "deny", 2),
        ("publishClientSend", "up/secret/+", "allow", 3),
        ("subscribePattern", "down/#", "allow", 1),
        ("subscribeLiteral", "other/+", "allow", 1),
        ("publishClientReceive", "down/hidden", "deny", 1),
    ):
        server.do("addRoleACL", "r", kind, topic, effect, priority)
    server.do("addClientRole", "ann", "r")
    server.do("addRoleACL", "admin", "publishClientSend", "#", "allow", 1)
    ann, admin = server.client("ann", "pw"), server.client("admin", "secret")
    for topic, allowed in (("up", 1), ("up/a", 1), ("up/secret", 0), ("up/secret/x", 1), ("down/a", 0), ("$up", 0)):
        equal(ann.publish(topic, b"x", 1) == NOT_AUTHORIZED, not allowed, topic)
    for filter_, allowed in (
        ("down", 1), ("down/a", 1), ("down/+", 1), ("other/+", 1), ("other/a", 0), ("#", 0), ("up/a", 0),
    ):  # fmt: skip
        equal(ann.subscribe(filter_) == [NOT_AUTHORIZED], not allowed, filter_)
    ann = server.client("ann", "pw")
    ann.subscribe("down/#")
    for topic in ("down/hidden", "down/shown"):
        admin.publish(topic, b"x", 1)
    equal(ann.take().topic, "down/shown")
    for version in ("mqttv311", "mqttv5"):
        host, port = server.address
        words = ["mosquitto_pub", "-h", host, "-p", str(port), "-V", version, "-u", "ann", "-P", "pw", "-q", "1"]
        done = subprocess.run([*words, "-t", "down/a", "-m", "x"], capture_output=True, timeout=PATIENCE, check=False)
        equal(b"Not authorized" in done.stderr, version == "mqttv5", done.stderr)


@case("roles: the highest priority decides, of the client before its groups", "waits")
def priorities(t):
    server = Server(t)
    for role, effect in (("yes", "allow"), ("no", "deny")):
        server.do("createRole", role)
        server.do("addRoleACL", role, "publishClientSend", "t/#", effect)
    for user, yes, no in (("ann", 5, 1), ("bob", 1, 5)):
        server.do("createClient", user, "-p", "pw")
        server.do("addClientRole", user, "yes", yes)
        server.do("addClientRole", user, "no", no)
    for group, role in (("allowed", "yes"), ("denied", "no")):
        server.do("createGroup", group)
        server.do("addGroupRole", group, role)
    for user, own, groups in (
        ("cat", "no", ["allowed"]),
        ("dan", None, ["allowed"]),
        ("eve", None, ["allowed", "denied"]),
    ):
        server.do("createClient", user, "-p", "pw")
        if own:
            server.do("addClientRole", user, own)
        for priority, group in enumerate(groups):
            server.do("addGroupClient", group, user, priority)
    for user, allowed in (("ann", 1), ("bob", 0), ("cat", 0), ("dan", 1), ("eve", 0)):
        code = server.client(user, "pw").publish("t/x", b"x", 1)
        equal(code != NOT_AUTHORIZED, bool(allowed), user)


@case("logins: passwords, client identifiers, disabled clients", "waits")
def logins(t):
    server = Server(t)
    server.do("createClient", "ann", "-c", "pump", "-p", "pw")
    server.client("ann", "pw", client="pump").close()
    for options in ({"user": "ann", "password": "wrong"}, {"user": "ann", "password": "pw"}, {"user": "x", "password": ""}):
        equal(denied(server.refused(**options)), True, options)
    server.do("setClientId", "ann", "")
    ann = server.client("ann", "pw")
    server.do("setClientPassword", "ann", "new")
    equal(ann.receive() is None or ann.receive() is None, True, "its password was changed")
    equal(denied(server.refused("ann", "pw")), True)
    ann = server.client("ann", "new", version=4)
    server.do("disableClient", "ann")
    ann.closed()
    equal(denied(server.refused("ann", "new")), True)
    server.do("enableClient", "ann")
    ann = server.client("ann", "new")
    server.do("deleteClient", "ann")
    equal(ann.expect("DISCONNECT").code in (NOT_AUTHORIZED, 0x98), True)
    equal(denied(server.refused("ann", "new")), True)


@case("rights of connected clients change with their roles", "waits", (OLDER, "it disconnects them"))
def connected_clients_go_on(t):
    server = Server(t)
    server.do("createRole", "r")
    server.do("addRoleACL", "r", "subscribePattern", "a/#", "allow")
    server.do("createClient", "ann", "-p", "pw")
    ann = server.client("ann", "pw")
    equal(ann.subscribe("a/b"), [NOT_AUTHORIZED])
    server.do("addClientRole", "ann", "r")
    equal(ann.subscribe("a/b"), [0])
    server.do("addRoleACL", "admin", "publishClientSend", "#", "allow", 1)
    server.do("removeClientRole", "ann", "r")
    server.client("admin", "secret").publish("a/b", b"x", 1)
    ann.ping()
    equal(ann.unsubscribe("a/b"), [0x11], "the subscription has ended")


@case("anonymous group", "waits")
def anonymous_group(t):
    server = Server(t)
    if t.flavour != "mosquitto":
        equal(denied(server.refused()), True, "nobody without a name")
    server.do("createRole", "r")
    server.do("addRoleACL", "r", "publishClientSend", "public/#", "allow")
    server.do("createGroup", "all")
    server.do("addGroupRole", "all", "r")
    server.do("setAnonymousGroup", "all")
    equal("all" in server.do("getAnonymousGroup"), True)
    c = server.client()
    equal((c.publish("public/x", b"", 1) & 0x80, c.publish("x", b"", 1)), (0, NOT_AUTHORIZED))


@case("a restart", "waits")
def restart(t):
    server = Server(t)
    server.do("createRole", "r")
    server.do("addRoleACL", "r", "publishClientSend", "a", "allow")
    server.do("createGroup", "g")
    server.do("addGroupRole", "g", "r")
    server.do("createClient", "ann", "-c", "pump", "-p", "pw")
    server.do("addGroupClient", "g", "ann")
    shown = [server.do("getClient", "ann"), server.do("getGroup", "g"), server.do("getRole", "r")]
    server.restart()
    equal([server.do("getClient", "ann"), server.do("getGroup", "g"), server.do("getRole", "r")], shown)
    equal(server.client("ann", "pw", client="pump").publish("a", b"", 1) & 0x80, 0)
    mode = server.file.stat().st_mode & 0o077
    equal(mode == 0 or t.flavour == "mosquitto", True, f"others may read the file: {mode:o}")


@case("messages: answers go to who has asked", "waits", (OLDER, "2.0 tells whoever may subscribe"))
def answers_are_private(t):
    server = Server(t)
    ask = server.asks()
    other = server.client("admin", "secret")
    other.subscribe(DYNSEC + "/response", DYNSEC, "#")
    answers = ask(
        {"command": "listClients", "correlationData": "one"},
        {"command": "createClient", "username": "ann", "password": "pw"},
        {"command": "nonsense", "correlationData": "three"},
    )
    equal(answers[0]["data"], {"totalCount": 1, "clients": ["admin"]})
    equal([answer.get("correlationData") for answer in answers], ["one", None, "three"])
    equal((answers[1], answers[2]["error"]), ({"command": "createClient"}, "Unknown command"))
    other.ping()
    equal(ask({"command": "listClients"})[0]["data"]["clients"], ["admin", "ann"])


@case("messages: who may ask", "waits")
def strangers_are_refused(t):
    server = Server(t)
    server.do("createRole", "r")
    for kind in ("publishClientSend", "subscribePattern"):
        server.do("addRoleACL", "r", kind, "#", "allow")
    server.do("createClient", "ann", "-p", "pw")
    server.do("addClientRole", "ann", "r")
    ann = server.client("ann", "pw")
    equal(ann.publish("anything", b"x", 1) & 0x80, 0)
    for topic in (DYNSEC, BROKER, "$CONTROL/x"):
        equal(ann.publish(topic, b'{"commands": []}', 1), NOT_AUTHORIZED, topic)
    if t.flavour != "mosquitto":
        equal(ann.subscribe("$CONTROL/#"), [NOT_AUTHORIZED], "a leading wildcard does not reach it")
    out, complaint = server.ctrl("listClients", user="ann", password="pw")
    equal((out, bool(complaint)), ("", True))


@case("messages: modify", "waits")
def modify(t):
    server = Server(t)
    ask = server.asks()
    done = ask(
        {"command": "createRole", "rolename": "r"},
        {"command": "createGroup", "groupname": "g"},
        {"command": "createClient", "username": "ann", "password": "pw"},
        {"command": "modifyRole", "rolename": "r", "textname": "R",
         "acls": [{"acltype": "publishClientSend", "topic": "a", "allow": True}]},
        {"command": "modifyGroup", "groupname": "g", "textdescription": "G", "roles": [{"rolename": "r"}]},
        {"command": "modifyClient", "username": "ann", "textname": "A", "groups": [{"groupname": "g", "priority": 4}]},
        {"command": "getClient", "username": "ann"},
        {"command": "getGroup", "groupname": "g"},
        {"command": "getRole", "rolename": "r"},
    )  # fmt: skip
    equal([answer for answer in done if "error" in answer], [])
    client, group, role = (done[at]["data"][name] for at, name in ((6, "client"), (7, "group"), (8, "role")))
    equal((client["textname"], client["groups"]), ("A", [{"groupname": "g", "priority": 4}]))
    equal((group["textdescription"], group["roles"]), ("G", [{"rolename": "r"}]))
    equal([member["username"] for member in group["clients"]], ["ann"])
    equal(role["acls"], [{"acltype": "publishClientSend", "topic": "a", "priority": 0, "allow": True}])
    equal(server.client("ann", "pw").publish("a", b"", 1) & 0x80, 0)


@case("messages: at QoS 0 and 2, and where there is nobody", "waits", (OLDER, "0x80 for what there is not"))
def other_ways_to_ask(t):
    server = Server(t)
    server.do("addRoleACL", "admin", "publishClientSend", "$CONTROL/#", "allow")
    admin = server.client("admin", "secret")
    admin.subscribe(DYNSEC + "/response")
    payload = json.dumps({"commands": [{"command": "getDetails"}]})
    admin.send(publish(5, DYNSEC, payload))
    details = json.loads(admin.take().payload)["responses"][0]["data"]
    equal(details, {"clientCount": 1, "groupCount": 0, "roleCount": 1, "changeIndex": 1})
    admin.send(publish(5, DYNSEC, payload, 2, 77))
    equal(b"getDetails" in admin.take().payload, True)
    admin.expect("PUBREC", pid=77, code=0)
    equal(admin.publish("$CONTROL/nothing/v1", b"x", 1), 0x83)
    equal(server.client("admin", "secret", version=4).publish("$CONTROL/nothing/v1", b"x", 1), 0)
    refused = Connection(t, 5, server.address)
    will = Will(DYNSEC, payload.encode())
    refused.send(connect(5, t.unique(), will=will, username="admin", password="secret"))
    equal(refused.expect("CONNACK").code, NOT_AUTHORIZED)


@case("messages: listListeners, listPlugins", "waits", (OLDER, "2.0 does not know them"))
def broker_endpoint(t):
    server = Server(t)
    for kind in ("publishClientSend", "subscribePattern"):
        server.do("addRoleACL", "admin", kind, "$CONTROL/broker/#", "allow")
    ask = server.asks(BROKER)
    listeners, plugins = (answer["data"] for answer in ask({"command": "listListeners"}, {"command": "listPlugins"}))
    host, port = server.address
    wanted = {"protocol": "mqtt", "tls": False, "bind_address": host, "port": port}
    equal(wanted in listeners["listeners"], True, listeners)
    equal("websockets" in [listener["protocol"] for listener in listeners["listeners"]], True, listeners)
    endpoints = [endpoint for plugin in plugins["plugins"] for endpoint in plugin["control-endpoints"]]
    equal(sorted(endpoints), [BROKER, DYNSEC])


if __name__ == "__main__":
    suite.run()
