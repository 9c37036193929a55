"""The HTTP APIs of EMQX 5, NanoMQ, VerneMQ and Mosquitto, as their clients use them, beside clients of MQTT.

`--target` is where MQTT is spoken, `--beside` where the APIs answer.
"""

import base64
import http.client
import http.server
import json
import pathlib
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import wire  # noqa: E402
from harness import suite  # noqa: E402
from harness.server import OwnServer  # noqa: E402
from harness.suite import case, equal, eventually  # noqa: E402

#: Seconds that anything may take.
PATIENCE = 20


class Api:
    """Requests to the APIs of a server."""

    def __init__(self, address, user="admin", password="public", bearer=None):
        self.address = address
        self.user = user
        self.password = password
        self.bearer = bearer

    def ask(self, method, path, body=None, **headers):
        """Status and the decoded body."""
        request = urllib.request.Request(f"http://{self.address}{path}", method=method)
        if self.bearer:
            request.add_header("Authorization", f"Bearer {self.bearer}")
        elif self.user is not None:
            pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {pair}")
        for name, value in headers.items():
            request.add_header(name, value)
        data = None
        if body is not None:
            if not any(name.lower() == "content-type" for name in headers):
                request.add_header("Content-Type", "application/json")
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=PATIENCE) as answer:
                status, kind, text = answer.status, answer.headers.get("Content-Type"), answer.read()
        except urllib.error.HTTPError as error:
            status, kind, text = error.code, error.headers.get("Content-Type"), error.read()
        if "json" in (kind or ""):
            return status, json.loads(text)
        return status, text.decode()

    def do(self, expected, method, path, body=None, **headers):
        """A request that is answered with this status; its body."""
        status, answer = self.ask(method, path, body, **headers)
        equal(status, expected, f"{method} {path}: {answer}")
        return answer

    def get(self, path):
        """The body of a GET that succeeds."""
        return self.do(200, "GET", path)


def api(t, **who):
    """The server's APIs."""
    return Api(t.beside, **who)


def quoted(name):
    """A segment of a path."""
    return urllib.parse.quote(name, safe="")


def client(t, **options):
    """A client of MQTT 5.0 with an identifier of its own."""
    name = t.unique()
    return name, wire.Client(t, client=name, **options)


def to_itself(c, topic, payload):
    """A client publishes what it is subscribed to, at QoS 1."""
    pid = c.pid()
    c.send(wire.publish(c.version, topic, payload, 1, pid))
    c.find("PUBACK", pid)


# EMQX 5


@case("emqx clients")
def clients_are_listed_with_filters_and_pages(t):
    a, names = api(t), []
    prefix = t.unique()
    for n in range(5):
        name = f"{prefix}-{n}"
        wire.Client(t, client=name)
        names.append(name)
    path = f"/api/v5/clients?like_clientid={quoted(prefix)}"
    body = a.get(f"{path}&limit=2&page=1")
    equal(body["meta"], {"page": 1, "limit": 2, "count": 5, "hasnext": True})
    equal([c["clientid"] for c in body["data"]], names[:2])
    body = a.get(f"{path}&limit=2&page=3")
    equal([c["clientid"] for c in body["data"]], names[4:])
    equal(body["meta"]["hasnext"], False)
    equal(a.get(f"{path}&clientid={names[3]}&clientid={names[1]}")["meta"]["count"], 2)
    equal(a.get(f"{path}&conn_state=disconnected")["meta"]["count"], 0)
    equal(a.get(f"{path}&proto_ver=5")["meta"]["count"], 5)
    equal(a.get(f"{path}&proto_ver=4")["meta"]["count"], 0)
    for wrong in ["page=0", "limit=0", "limit=10001", "page=x", "conn_state=perhaps"]:
        equal(a.do(400, "GET", f"/api/v5/clients?{wrong}")["code"], "BAD_REQUEST")
    equal(a.do(501, "GET", "/api/v5/clients?gte_created_at=1")["code"], "NOT_IMPLEMENTED")


@case("emqx clients")
def a_client_is_shown_as_it_is(t):
    a = api(t)
    name, c = client(t, version=4)
    c.subscribe("some/topic", qos=1)
    c.publish("nobody/here", b"x", qos=1)
    shown = a.get(f"/api/v5/clients/{quoted(name)}")
    for key, value in {
        "clientid": name,
        "connected": True,
        "proto_ver": 4,
        "proto_name": "MQTT",
        "ip_address": "127.0.0.1",
        "subscriptions_cnt": 1,
        "recv_msg": 1,
        "clean_start": True,
    }.items():
        equal(shown[key], value, key)
    equal(a.do(404, "GET", "/api/v5/clients/no-such-client")["code"], "NOT_FOUND")


@case("emqx subscriptions topics")
def subscriptions_and_topics_are_listed(t):
    a = api(t)
    name, c = client(t)
    topic = t.unique()
    c.subscribe(f"{topic}/+", qos=2)
    c.subscribe(f"$share/g/{topic}/shared", qos=1)
    own = a.get(f"/api/v5/clients/{quoted(name)}/subscriptions")
    equal(sorted((s["topic"], s["qos"]) for s in own), [(f"$share/g/{topic}/shared", 1), (f"{topic}/+", 2)])
    body = a.get(f"/api/v5/subscriptions?share_group=g&match_topic={quoted(topic + '/#')}")
    equal([s["clientid"] for s in body["data"]], [name])
    equal(a.get(f"/api/v5/subscriptions?clientid={name}&qos=2")["meta"]["count"], 1)
    equal(a.get(f"/api/v5/topics/{quoted(topic + '/+')}")[0]["topic"], f"{topic}/+")
    a.do(404, "GET", f"/api/v5/topics/{quoted(topic)}")


@case("emqx subscribe unsubscribe")
def clients_are_subscribed_by_an_operator(t):
    a = api(t)
    for options in ({}, {"properties": [(wire.SESSION_EXPIRY, 60)]}):
        name, c = client(t, **options)
        topic = t.unique()
        a.do(200, "POST", f"/api/v5/clients/{quoted(name)}/subscribe", {"topic": topic, "qos": 1})
        to_itself(c, topic, b"hello")
        c.take(topic=topic, payload=b"hello")
        a.do(204, "POST", f"/api/v5/clients/{quoted(name)}/unsubscribe", {"topic": topic})
        equal(a.get(f"/api/v5/clients/{quoted(name)}/subscriptions"), [])
        a.do(404, "POST", f"/api/v5/clients/{quoted(name)}/unsubscribe", {"topic": topic})
    bulk = [{"topic": f"{topic}/{n}"} for n in range(3)]
    a.do(200, "POST", f"/api/v5/clients/{quoted(name)}/subscribe/bulk", bulk)
    equal(len(a.get(f"/api/v5/clients/{quoted(name)}/subscriptions")), 3)
    a.do(204, "POST", f"/api/v5/clients/{quoted(name)}/unsubscribe/bulk", bulk)
    a.do(400, "POST", f"/api/v5/clients/{quoted(name)}/subscribe", {"topic": "a/#/b"})
    a.do(404, "POST", "/api/v5/clients/no-such-client/subscribe", {"topic": "a"})


@case("emqx kick")
def clients_are_kicked_out(t):
    a = api(t)
    name, c = client(t, properties=[(wire.SESSION_EXPIRY, 60)])
    a.do(204, "DELETE", f"/api/v5/clients/{quoted(name)}")
    c.expect("DISCONNECT", code=0x98)
    eventually(lambda: a.ask("GET", f"/api/v5/clients/{quoted(name)}")[0] == 404, "the session ends")
    a.do(404, "DELETE", f"/api/v5/clients/{quoted(name)}")
    name, c = client(t)
    a.do(204, "POST", "/api/v5/clients/kickout/bulk", [name, "no-such-client"])
    c.expect("DISCONNECT", code=0x98)


@case("emqx keepalive")
def the_keep_alive_is_changed(t):
    a = api(t)
    name, c = client(t)
    equal(a.do(200, "PUT", f"/api/v5/clients/{quoted(name)}/keepalive", {"interval": 1})["keepalive"], 1)
    c.expect("DISCONNECT", code=0x8D, patience=PATIENCE)
    a.do(400, "PUT", f"/api/v5/clients/{quoted(name)}/keepalive", {"interval": 65536})


@case("emqx publish")
def messages_are_published_with_properties(t):
    a = api(t)
    _, c = client(t)
    topic = t.unique()
    c.subscribe(topic, qos=2)
    properties = {
        "content_type": "text/plain",
        "response_topic": "answers",
        "correlation_data": "7",
        "payload_format_indicator": 1,
        "message_expiry_interval": 60,
        "user_properties": {"a": "b"},
    }
    body = {"topic": topic, "payload": "aGVsbG8=", "payload_encoding": "base64", "qos": 2, "properties": properties}
    equal(len(a.do(200, "POST", "/api/v5/publish", body)["id"]), 32)
    got = c.take(topic=topic, payload=b"hello", qos=2)
    equal(got.value(wire.CONTENT_TYPE), "text/plain")
    equal(got.value(wire.RESPONSE_TOPIC), "answers")
    equal(got.value(wire.CORRELATION_DATA), b"7")
    equal(got.value(wire.PAYLOAD_FORMAT), 1)
    equal(got.value(wire.USER_PROPERTY), ("a", "b"))
    none = a.do(202, "POST", "/api/v5/publish", {"topic": t.unique(), "payload": "x", "qos": 1})
    equal((none["reason_code"], none["message"]), (16, "no_matching_subscribers"))
    for wrong in [
        {"topic": "a/+", "payload": "x"},
        {"topic": topic},
        {"payload": "x"},
        {"topic": topic, "payload": "x", "qos": 3},
        {"topic": topic, "payload": "!", "payload_encoding": "base64"},
    ]:
        a.do(400, "POST", "/api/v5/publish", wrong)
    equal(a.do(403, "POST", "/api/v5/publish", {"topic": "$SYS/x", "payload": "x"})["reason_code"], 0x87)
    a.do(400, "POST", "/api/v5/publish", b"{")
    a.do(405, "GET", "/api/v5/publish")


@case("emqx publish/bulk")
def messages_are_published_in_bulk_or_not_at_all(t):
    a = api(t)
    _, c = client(t)
    topic = t.unique()
    c.subscribe(f"{topic}/#", qos=1)
    bulk = [{"topic": f"{topic}/{n}", "payload": str(n), "qos": 1} for n in range(100)]
    equal(len(a.do(200, "POST", "/api/v5/publish/bulk", bulk)), 100)
    for n in range(100):
        c.take(topic=f"{topic}/{n}")
    answers = a.do(202, "POST", "/api/v5/publish/bulk", [{"topic": t.unique(), "payload": ""}, bulk[0]])
    equal([answer.get("reason_code") for answer in answers], [16, None])
    c.take(topic=f"{topic}/0")
    # One entry that cannot be read keeps all of them from being sent.
    a.do(400, "POST", "/api/v5/publish/bulk", [bulk[1], {"topic": topic}])
    c.ping()


@case("emqx retainer")
def retained_messages_are_shown_and_forgotten(t):
    a = api(t)
    topic = t.unique()
    for n in range(3):
        a.ask("POST", "/api/v5/publish", {"topic": f"{topic}/{n}", "payload": f"p{n}", "qos": 1, "retain": True})
    body = a.get(f"/api/v5/mqtt/retainer/messages?topic={quoted(topic + '/+')}&limit=2")
    equal((body["meta"]["count"], [m["topic"] for m in body["data"]]), (3, [f"{topic}/0", f"{topic}/1"]))
    one = a.get(f"/api/v5/mqtt/retainer/message/{quoted(topic + '/1')}")
    equal(base64.b64decode(one["payload"]), b"p1")
    a.do(204, "DELETE", f"/api/v5/mqtt/retainer/message/{quoted(topic + '/1')}")
    a.do(404, "GET", f"/api/v5/mqtt/retainer/message/{quoted(topic + '/1')}")
    a.do(404, "DELETE", f"/api/v5/mqtt/retainer/message/{quoted(topic + '/1')}")


@case("publish durability")
def what_was_answered_outlives_a_crash(t):
    server = OwnServer(t)
    a = Api(f"127.0.0.1:{server._websocket}")
    lasting = {"client": "sub", "properties": [(wire.SESSION_EXPIRY, 600)], "address": server.address}
    c = wire.Client(t, **lasting)
    c.subscribe("kept", qos=1)
    c.close()
    eventually(lambda: not a.get("/api/v5/clients/sub")["connected"], "the client is away")
    a.do(200, "POST", "/api/v5/publish", {"topic": "kept", "payload": "1", "qos": 1})
    a.do(200, "POST", "/api/v4/mqtt/publish", {"topic": "kept", "payload": "2", "qos": 1, "clientid": "x"})
    a.do(200, "POST", "/restmqtt/api/v1/publish", {"topic": "kept", "payload": "3", "qos": 1})
    a.ask("POST", "/api/v5/publish", {"topic": "state", "payload": "on", "qos": 1, "retain": True})
    server.restart()
    c = wire.Client(t, clean=False, **lasting)
    for payload in (b"1", b"2", b"3"):
        c.take(topic="kept", payload=payload)
    eventually(lambda: a.ask("GET", "/api/v5/mqtt/retainer/message/state")[0] == 200, "it is retained")


@case("emqx banned")
def clients_are_banned_and_let_in_again(t):
    a = api(t)
    name, c = client(t)
    a.do(200, "POST", "/api/v5/banned", {"as": "clientid", "who": name, "reason": "test"})
    c.expect("DISCONNECT", code=0x98)
    rows = a.get("/api/v5/banned?limit=1000")["data"]
    equal([(r["as"], r["reason"], r["until"]) for r in rows if r["who"] == name], [("clientid", "test", "infinity")])
    a.do(204, "DELETE", f"/api/v5/banned/clientid/{quoted(name)}")
    a.do(404, "DELETE", f"/api/v5/banned/clientid/{quoted(name)}")
    wire.Client(t, client=name)
    equal(a.do(501, "POST", "/api/v5/banned", {"as": "clientid_re", "who": ".*"})["code"], "NOT_IMPLEMENTED")


@case("emqx metrics stats nodes listeners cluster")
def figures_and_listeners_are_shown(t):
    a = api(t)
    _, c = client(t)
    before = a.get("/api/v5/metrics?aggregate=true")
    c.publish(t.unique(), b"x", qos=1)
    after = a.get("/api/v5/metrics?aggregate=true")
    equal(after["messages.qos1.received"] - before["messages.qos1.received"], 1)
    stats = a.get("/api/v5/stats")
    equal(stats[0]["live_connections.count"] >= 1, True)
    node = a.get("/api/v5/nodes")[0]
    equal(node["node_status"], "running")
    equal(a.get(f"/api/v5/nodes/{quoted(node['node'])}")["node"], node["node"])
    equal(a.get("/api/v5/cluster")["nodes"], [node["node"]])
    listeners = a.get("/api/v5/listeners")
    own = [one for one in listeners if one["bind"] == f"{t.host}:{t.port}"]
    equal([one["type"] for one in own], ["tcp"])
    equal(own[0]["current_connections"] >= 1, True)
    a.get("/api/v5/monitor_current")
    text = a.get("/api/v5/prometheus/stats")
    equal("\nemqx_live_connections_count " in text and "\nemqx_messages_received " in text, True)
    equal(a.get("/status").startswith("Node longtail@"), True)


@case("emqx topic_metrics")
def single_topics_are_measured(t):
    a = api(t)
    _, c = client(t)
    topic = t.unique()
    c.subscribe(topic, qos=1)
    a.do(200, "POST", "/api/v5/mqtt/topic_metrics", {"topic": topic})
    t.defer(lambda: a.ask("DELETE", f"/api/v5/mqtt/topic_metrics/{quoted(topic)}"))
    a.do(400, "POST", "/api/v5/mqtt/topic_metrics", {"topic": topic})
    a.do(400, "POST", "/api/v5/mqtt/topic_metrics", {"topic": "a/#"})
    to_itself(c, topic, b"x")
    c.take(topic=topic)
    metrics = a.get(f"/api/v5/mqtt/topic_metrics/{quoted(topic)}")["metrics"]
    equal((metrics["messages.in.count"], metrics["messages.qos1.in.count"]), (1, 1))
    equal((metrics["messages.out.count"], metrics["messages.dropped.count"]), (1, 0))
    a.do(204, "PUT", "/api/v5/mqtt/topic_metrics", {"topic": topic, "action": "reset"})
    equal(a.get(f"/api/v5/mqtt/topic_metrics/{quoted(topic)}")["metrics"]["messages.in.count"], 0)
    a.do(204, "DELETE", f"/api/v5/mqtt/topic_metrics/{quoted(topic)}")
    equal(a.do(404, "GET", f"/api/v5/mqtt/topic_metrics/{quoted(topic)}")["code"], "TOPIC_NOT_FOUND")


@case("emqx trace")
def a_client_is_traced(t):
    a = api(t)
    name, trace = t.unique(), t.unique()
    spec = {"name": trace, "type": "clientid", "clientid": name, "payload_encode": "text"}
    equal(a.do(200, "POST", "/api/v5/trace", spec)["status"], "running")
    t.defer(lambda: a.ask("DELETE", f"/api/v5/trace/{trace}"))
    a.do(409, "POST", "/api/v5/trace", spec)
    c = wire.Client(t, client=name, username="someone", password=b"secret-word")
    c.subscribe("traced", qos=1)
    to_itself(c, "traced", b"hello there")
    c.take(topic="traced")
    c.ping()
    text = a.get(f"/api/v5/trace/{trace}/download")
    for wanted in ["received CONNECT", "let in", "received Subscribe", "received PUBLISH", "hello there", "sent PUBLISH"]:
        equal(wanted in text, True, f"{wanted} in {text}")
    equal("secret-word" in text, False, "the password")
    part = a.get(f"/api/v5/trace/{trace}/log?bytes=100")
    equal(text.startswith(part["items"]) and part["meta"]["position"] == len(part["items"]), True)
    equal(a.do(200, "PUT", f"/api/v5/trace/{trace}/stop")["enable"], False)
    c.ping()
    equal(a.get(f"/api/v5/trace/{trace}/download"), text)
    a.do(204, "DELETE", f"/api/v5/trace/{trace}")
    a.do(404, "GET", f"/api/v5/trace/{trace}/download")


@case("emqx slow_subscriptions")
def slow_subscriptions_are_found(t):
    a = api(t)
    settings = {"enable": True, "threshold": "50ms", "top_k_num": 5, "stats_type": "whole"}
    equal(a.do(200, "PUT", "/api/v5/slow_subscriptions/settings", settings)["threshold"], "50ms")
    t.defer(lambda: a.ask("PUT", "/api/v5/slow_subscriptions/settings", {"enable": False}))
    name, c = client(t)
    topic = t.unique()
    c.subscribe(topic, qos=1)
    a.do(200, "POST", "/api/v5/publish", {"topic": topic, "payload": "x", "qos": 1})
    got = c.expect("PUBLISH", topic=topic)
    begin = time.monotonic()
    while time.monotonic() - begin < 0.1:
        time.sleep(0.01)
    c.settle(got)

    def found():
        rows = a.get("/api/v5/slow_subscriptions")["data"]
        return [r for r in rows if r["clientid"] == name and r["topic"] == topic and r["timespan"] >= 50]

    eventually(found, "the slow subscription")
    a.do(204, "DELETE", "/api/v5/slow_subscriptions")
    equal(a.get("/api/v5/slow_subscriptions")["data"], [])


@case("emqx mqueue_messages inflight_messages")
def what_waits_for_a_client_and_is_on_its_way_is_shown(t):
    a, topic = api(t), t.unique()
    name = t.unique()
    # Two are sent, and the rest waits for room.
    options = {"properties": [(0x11, 3600), (0x21, 2)], "clean": False}
    c = wire.Client(t, client=name, **options)
    c.subscribe(f"{topic}/#", qos=1)
    payloads = [f"{n}".encode() for n in range(7)]
    for payload in payloads:
        sent = a.do(200, "POST", "/api/v5/publish", {"topic": f"{topic}/a", "payload": payload.decode(), "qos": 1})
        equal("id" in sent, True)
    first = [c.expect("PUBLISH") for _ in range(2)]

    def shown(which, query=""):
        found, position = [], ""
        while position != "end_of_data":
            path = f"/api/v5/clients/{quoted(name)}/{which}_messages?limit=2{query}&position={position}"
            answer = a.get(path)
            equal(len(answer["data"]) <= 2, True)
            found += answer["data"]
            position = answer["meta"]["position"]
        return found

    def texts(which):
        return [base64.b64decode(message["payload"]) for message in shown(which)]

    def settled():
        return texts("inflight") == payloads[:2] and texts("mqueue") == payloads[2:]

    eventually(settled, "two are on their way")
    message = shown("mqueue", "&payload=plain")[0]
    equal((message["topic"], message["qos"], message["payload"]), (f"{topic}/a", 1, "2"))
    equal("payload" in shown("inflight", "&payload=none")[0], False)
    ids = [message["inflight_packet_id"] for message in shown("inflight")]
    equal(ids, [found.pid for found in first])
    # The same of one that is away.
    c.close()
    eventually(lambda: not a.get(f"/api/v5/clients/{quoted(name)}")["connected"], "it is away")
    eventually(settled, "the same is shown")
    # What is acknowledged is neither.
    c = wire.Client(t, client=name, **options)
    for payload in payloads:
        c.take(payload=payload)
    eventually(lambda: texts("inflight") == texts("mqueue") == [], "nothing is left")
    a.do(404, "GET", f"/api/v5/clients/{t.unique()}/mqueue_messages")
    for wrong in ("limit=0", "payload=x", "position=x"):
        a.do(400, "GET", f"/api/v5/clients/{quoted(name)}/mqueue_messages?{wrong}")


@case("emqx delayed")
def delayed_messages_are_shown_and_taken_back(t):
    a, topic = api(t), t.unique()
    watcher = wire.Client(t)
    watcher.subscribe(f"{topic}/#", qos=1)
    c = wire.Client(t)
    for n, seconds in enumerate((3600, 7200, 1)):
        equal(c.publish(f"$delayed/{seconds}/{topic}/{n}", f"later {n}".encode(), qos=1) & 0x80, 0)

    def mine(path="/api/v5/mqtt/delayed/messages?limit=1000"):
        return [message for message in a.get(path)["data"] if message["topic"].startswith(topic)]

    watcher.take(topic=f"{topic}/2")
    eventually(lambda: len(mine()) == 2, "one is published")
    first, second = mine()
    equal((first["topic"], first["qos"], first["delayed_interval"]), (f"{topic}/0", 1, 3600))
    equal(3500 < first["delayed_remaining"] <= 3600 < second["delayed_remaining"], True)
    count = a.get("/api/v5/mqtt/delayed/messages?limit=1")["meta"]["count"]
    equal(count >= 2, True)
    for path in (first["msgid"], f"{quoted(first['node'])}/{first['msgid']}"):
        one = a.get(f"/api/v5/mqtt/delayed/messages/{path}")
        equal(base64.b64decode(one["payload"]), b"later 0")
    for message in (first, second):
        a.do(204, "DELETE", f"/api/v5/mqtt/delayed/messages/{message['msgid']}")
    equal(mine(), [])
    equal(a.do(404, "GET", f"/api/v5/mqtt/delayed/messages/{first['msgid']}")["code"], "MESSAGE_ID_NOT_FOUND")
    a.do(404, "DELETE", f"/api/v5/mqtt/delayed/messages/{first['msgid']}")
    a.do(404, "DELETE", "/api/v5/mqtt/delayed/messages/x")


@case("emqx errors")
def what_there_is_not_is_said(t):
    a = api(t)
    for path in ["rules", "actions", "streams", "authentication", "api_key", "alarms", "message_queues/queues"]:
        equal(a.do(501, "GET", f"/api/v5/{path}")["code"], "NOT_IMPLEMENTED", path)
    equal(a.do(404, "GET", "/api/v5/nothing")["code"], "NOT_FOUND")
    equal(a.do(405, "DELETE", "/api/v5/subscriptions")["code"], "METHOD_NOT_ALLOWED")
    # What is too large is refused before it is sent.
    connection = http.client.HTTPConnection(t.beside, timeout=PATIENCE)
    t.defer(connection.close)
    connection.putrequest("POST", "/api/v5/publish")
    connection.putheader("Content-Length", str(17 << 20))
    connection.endheaders()
    equal(connection.getresponse().status, 413)


# NanoMQ


@case("nanomq clients subscriptions brokers nodes topic-tree")
def nanomq_shows_clients_and_subscriptions(t):
    a = api(t)
    name, c = client(t)
    topic = t.unique()
    c.subscribe(f"{topic}/a", qos=1)
    equal(a.get("/api/v4")["code"], 0)
    equal(a.get("/api/v4/brokers")["data"][0]["node_status"], "Running")
    equal(a.get("/api/v4/nodes")["data"][0]["connections"] >= 1, True)
    one = a.get(f"/api/v4/clients/{quoted(name)}")["data"][0]
    equal((one["clientid"], one["conn_state"], one["proto_ver"]), (name, "connected", 5))
    equal(len(a.get(f"/api/v4/clients?clientid={name}&conn_state=connected&proto_ver=5")["data"]), 1)
    equal(a.get(f"/api/v4/clients?clientid={name}&proto_ver=4")["data"], [])
    expected = [{"clientid": name, "topic": f"{topic}/a", "qos": 1}]
    equal(a.get(f"/api/v4/subscriptions/{quoted(name)}")["data"], expected)
    equal(a.get(f"/api/v4/subscriptions?topic={quoted(topic + '/a')}")["data"], expected)
    rows = [entry for row in a.get("/api/v4/topic-tree")["data"] for entry in row]
    equal([e["cld_cnt"] for e in rows if e["topic"] == topic], [1])
    equal([e["clientid"] for e in rows if name in e.get("clientid", [])], [[name]])
    equal(a.do(404, "GET", "/api/v4/clients/no-such-client")["code"], 112)
    equal("\nnanomq_connections_count " in "\n" + a.get("/api/v4/prometheus"), True)


@case("nanomq publish publish_batch")
def nanomq_publishes(t):
    a = api(t)
    _, c = client(t)
    topic = t.unique()
    c.subscribe(f"{topic}/#", qos=1)
    body = {"topics": f"{topic}/a,{topic}/b", "payload": "x", "qos": 1, "clientid": "http"}
    equal(a.do(200, "POST", "/api/v4/mqtt/publish", body), {"code": 0})
    c.take(topic=f"{topic}/a", payload=b"x")
    c.take(topic=f"{topic}/b", payload=b"x")
    batch = [{"topic": f"{topic}/{n}", "payload": "eA==", "encoding": "base64", "clientid": "http"} for n in range(3)]
    batch.append({"topic": "a/+", "payload": "", "clientid": "http"})
    answer = a.do(200, "POST", "/api/v4/mqtt/publish_batch", batch)
    equal([one["code"] for one in answer["data"]], [0, 0, 0, 108])
    for n in range(3):
        c.take(topic=f"{topic}/{n}", payload=b"x")
    for wrong, code in [
        ({"topic": "a", "payload": "x"}, 107),
        ({"payload": "x", "clientid": "c"}, 107),
        ({"topic": "a", "payload": "x", "clientid": "c", "qos": 9}, 108),
        (b"{", 109),
    ]:
        equal(a.do(400, "POST", "/api/v4/mqtt/publish", wrong)["code"], code, str(wrong))


@case("nanomq errors bridges")
def nanomq_says_what_there_is_not(t):
    a = api(t)
    equal(a.get("/api/v4/bridges")["data"], {"bridge": {"nodes": []}})
    for method, path in [
        ("POST", "mqtt/subscribe"),
        ("POST", "ctrl/restart"),
        ("GET", "rules"),
        ("GET", "configuration"),
        ("POST", "reload"),
        ("PUT", "bridges/x"),
    ]:
        equal(a.do(501, method, f"/api/v4/{path}", {} if method != "GET" else None)["code"], 102, path)
    equal(a.do(404, "GET", "/api/v4/nothing")["code"], 102)


# VerneMQ


@case("vernemq session client disconnect")
def vernemq_shows_and_ends_sessions(t):
    a = api(t)
    name, c = client(t)
    c.subscribe("verne/topic", qos=1)
    rows = a.get(f"/api/v1/session/show?client_id={quoted(name)}")
    equal((rows["type"], [row["client_id"] for row in rows["table"]]), ("table", [name]))
    equal(rows["table"][0]["is_online"], True)
    rows = a.get(f"/api/v1/session/show?--client_id&--protocol&client_id={quoted(name)}")["table"]
    equal(rows, [{"client_id": name, "protocol": 5}])
    a.do(400, "GET", "/api/v1/session/show?--no_such_column")
    body = a.get(f"/api/v2/client?client_id={quoted(name)}&topics=true")
    equal(body, {"status": "online", "topics": {"verne/topic": 1}})
    equal(a.get("/api/v2/client?client_id=no-such-client"), {"status": "unknown"})
    equal(a.get(f"/api/v2/disconnect?client_id={quoted(name)}&cleanup=true"), "ok")
    c.expect("DISCONNECT", code=0x98)
    name, c = client(t)
    a.get(f"/api/v1/session/disconnect?client-id={quoted(name)}&--cleanup")
    c.expect("DISCONNECT", code=0x98)
    a.do(501, "GET", "/api/v1/plugin/show")


@case("vernemq metrics status health listener cluster")
def vernemq_shows_how_it_is(t):
    a = api(t)
    nobody = api(t, user=None)
    for path in ["/health", "/health/ping", "/health/listeners", "/health/listeners_full_cluster"]:
        equal(nobody.get(path), {"status": "OK"})
    node, status = list(a.get("/status.json")[0].items())[0]
    equal(status["mystatus"], [{node: True}])
    equal(a.get("/api/v1/cluster/show")["table"], [{"Node": node, "Running": True}])
    ports = [row["port"] for row in a.get("/api/v1/listener/show")["table"]]
    equal(t.port in ports, True)
    equal(f'\nmqtt_publish_received{{node="{node}"}} ' in a.get("/metrics"), True)


@case("vernemq restmqtt")
def vernemq_publishes_by_body_headers_and_query(t):
    a = api(t)
    _, c = client(t)
    topic = t.unique()
    c.subscribe(topic, qos=1)
    path = "/restmqtt/api/v1/publish"
    body = {"topic": topic, "qos": 1, "retain": False, "payload": "eA==", "user_properties": [{"a": "b"}]}
    a.do(200, "POST", f"{path}?encoding=base64", body)
    got = c.take(topic=topic, payload=b"x")
    equal(got.value(wire.USER_PROPERTY), ("a", "b"))
    headers = {"topic": topic, "qos": "1", "retain": "false", "user_properties": '[{"c":"d"}]'}
    a.do(200, "POST", path, b'{"not": "ours"}', **headers)
    got = c.take(topic=topic, payload=b'{"not": "ours"}')
    equal(got.value(wire.USER_PROPERTY), ("c", "d"))
    a.do(200, "PUT", f"{path}?topic={quoted(topic)}&qos=1&user=u&password=p&client_id=c", b"\x00\xff")
    c.take(topic=topic, payload=b"\x00\xff")
    a.do(400, "POST", f"{path}?topic={quoted(topic)}&qos=7", b"")
    a.do(400, "POST", path, b"no json")
    a.do(405, "GET", path)


# Mosquitto


@case("mosquitto systree listeners version")
def mosquitto_is_looked_at(t):
    a = api(t)
    tree = a.get("/api/v1/systree")
    equal(isinstance(tree["$SYS/broker/clients/connected"], int), True)
    equal(tree["$SYS/broker/uptime"] >= 0, True)
    listeners = a.get("/api/v1/listeners")["listeners"]
    own = [one for one in listeners if one.get("port") == t.port]
    equal(own, [{"port": t.port, "protocol": "mqtt", "tls": False, "allow_anonymous": True}])
    equal(a.get("/api/v1/version")[0].isdigit(), True)
    a.do(405, "POST", "/api/v1/version", b"")


# Who may


ACCOUNTS = """
[[accounts]]
name = "boss"
password = "{boss}"
tags = ["administrator"]
[[accounts]]
name = "eye"
password = "{eye}"
tags = ["monitoring"]
[[accounts]]
name = "pump"
password = "{pump}"
[[accounts.permissions]]
space = "default"
rules = [{{ actions = ["publish", "consume"], subject = "pumps/#" }}]
"""


def hashed(t, server_words, password):
    """A password as the settings have it."""
    import subprocess

    words = [server_words[0], "config", "hash-password"]
    done = subprocess.run(words, input=password.encode(), capture_output=True, check=True, timeout=PATIENCE)
    return done.stdout.decode().strip()


@case("accounts", "last")
def accounts_decide_who_may_look_change_and_publish(t):
    if not t.start:
        raise suite.Skip("needs --start, to start a server of its own")
    names = {name: hashed(t, t.start["words"], name) for name in ("boss", "eye", "pump")}
    with tempfile.NamedTemporaryFile("w", suffix=".toml", delete=False) as config:
        config.write(ACCOUNTS.format(**names))
    t.defer(lambda: pathlib.Path(config.name).unlink(missing_ok=True))
    server = OwnServer(t, "--config", config.name)
    address = f"127.0.0.1:{server._websocket}"

    def of(name):
        return Api(address, user=name, password=name)

    for a in (Api(address), Api(address, user=None), Api(address, user="boss", password="wrong")):
        equal(a.do(401, "GET", "/api/v5/clients")["code"], "BAD_API_KEY_OR_SECRET")
        equal(a.do(401, "GET", "/api/v4/clients")["code"], 103)
        a.do(401, "GET", "/metrics")
        a.do(401, "GET", "/api/v1/systree")
    for path in ["/api/v5/clients", "/api/v4/clients", "/metrics", "/api/v1/systree"]:
        of("boss").get(path)
        of("eye").get(path)
        of("pump").do(403, "GET", path)
    c = wire.Client(t, client="c", username="pump", password=b"pump", address=server.address)
    c.subscribe("pumps/#", qos=1)
    of("eye").do(403, "DELETE", "/api/v5/clients/c")
    of("pump").do(403, "DELETE", "/api/v5/clients/c")
    # To publish takes the right to publish there, and nothing else.
    of("pump").do(200, "POST", "/api/v5/publish", {"topic": "pumps/1", "payload": "x", "qos": 1})
    c.take(topic="pumps/1")
    of("pump").do(403, "POST", "/api/v5/publish", {"topic": "fans/1", "payload": "x"})
    of("boss").do(403, "POST", "/api/v5/publish", {"topic": "pumps/1", "payload": "x"})
    of("pump").do(403, "POST", "/api/v4/mqtt/publish", {"topic": "fans/1", "payload": "x", "clientid": "c"})
    # For a client of MQTT: its own rights count.
    behalf = {"topic": "pumps/2", "payload": "x", "user": "pump", "password": "pump", "client_id": "d", "qos": 1}
    Api(address, user=None).do(200, "POST", "/restmqtt/api/v1/publish", behalf)
    c.take(topic="pumps/2")
    Api(address, user=None).do(401, "POST", "/restmqtt/api/v1/publish", {**behalf, "password": "wrong"})
    # EMQX's login.
    login = Api(address, user=None)
    equal(login.do(401, "POST", "/api/v5/login", {"username": "eye", "password": "no"})["code"], "BAD_USERNAME_OR_PWD")
    token = login.do(200, "POST", "/api/v5/login", {"username": "eye", "password": "eye"})["token"]
    bearer = Api(address, bearer=token)
    bearer.get("/api/v5/clients")
    bearer.do(403, "DELETE", "/api/v5/clients/c")
    bearer.do(204, "POST", "/api/v5/logout")
    bearer.do(401, "GET", "/api/v5/clients")
    of("boss").do(204, "DELETE", "/api/v5/clients/c")
    c.expect("DISCONNECT", code=0x98)


class Door(http.server.BaseHTTPRequestHandler):
    """A server that says who is let in, as EMQX asks it."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user, password = asked["username"], asked["password"]
        if user == "broken":
            self.send_response(500)
            self.end_headers()
            return
        answer = {"result": "allow" if password == "right" else "deny"}
        if user == "limited":
            answer["acl"] = [
                {"permission": "deny", "action": "publish", "topic": "door/${clientid}/secret"},
                {"permission": "allow", "action": "all", "topic": "door/${clientid}/#"},
            ]
        if user == "stranger":
            answer = {"result": "ignore"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def decided_by(t, handler, style, **paths):
    """A server of its own that asks a server of HTTP, which answers as `handler` says, at these paths."""
    judge = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=judge.serve_forever, daemon=True).start()
    t.defer(judge.server_close)
    t.defer(judge.shutdown)
    with tempfile.NamedTemporaryFile("w", suffix=".toml", delete=False) as config:
        config.write(f'[[mqtt.http_auth]]\nstyle = "{style}"\n')
        for name, path in paths.items():
            config.write(f'{name} = "http://127.0.0.1:{judge.server_address[1]}{path}"\n')
    t.defer(lambda: pathlib.Path(config.name).unlink(missing_ok=True))
    return OwnServer(t, "--config", config.name)


@case("http authentication")
def a_server_of_http_decides_about_logins(t):
    server = decided_by(t, Door, "emqx", url="/auth")

    def client(user, password=b"right", code=0):
        return wire.Client(t, client="c1", username=user, password=password, code=code, address=server.address)

    client("anybody", b"wrong", code=0x86)
    client("broken", code=0x88)
    client("stranger", code=0x87)
    c = client("anybody")
    equal(c.publish("any/thing", b"x", qos=1), 0x10)
    c = client("limited")
    equal(c.subscribe("door/c1/#", "door/#", "door/c2/x"), [0, 0x87, 0x87])
    equal(c.publish("door/c2/x", b"x", qos=1), 0x87)
    equal(c.publish("door/c1/secret", b"x", qos=1), 0x87)
    to_itself(c, "door/c1/open", b"x")
    c.take(topic="door/c1/open")


class Judge(http.server.BaseHTTPRequestHandler):
    """A server that says what a client may do, as NanoMQ asks it: 200 or another status."""

    asked = []

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        told = {name: values[0] for name, values in form.items()}
        Judge.asked.append(told)
        topic = told.get("topic", "")
        self.send_response(200 if self.path == "/auth" or topic.startswith("open/") else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@case("nanomq acl_req")
def a_server_of_http_decides_about_each_topic(t):
    server = decided_by(t, Judge, "nanomq", url="/auth", acl_url="/acl")
    c = wire.Client(t, client="c1", username="ann", address=server.address)
    equal(c.subscribe("open/#", "shut/#", qos=1), [1, 0x87])
    equal(c.publish("shut/a", b"x", qos=1), 0x87)
    # Nothing overtakes what waits for an answer.
    for n in range(5):
        c.send(wire.publish(5, f"open/{n}", b"%d" % n, 0))
    for n in range(5):
        c.take(topic=f"open/{n}")
    told = Judge.asked[-1]
    equal((told["clientid"], told["username"], told["access"], told["topic"]), ("c1", "ann", "2", "open/4"))
    equal(any(told.get("access") == "1" and told["topic"] == "open/#" for told in Judge.asked), True)
    # A will is asked about as well.
    will = wire.Will("shut/will", b"x")
    wire.Client(t, client="c2", code=0x87, will=will, address=server.address)


@case("browsers")
def pages_of_other_sites_are_not_let_in(t):
    a = api(t)
    a.do(403, "GET", "/api/v5/clients", Origin="http://evil.example")
    a.do(401, "GET", "/api/v5/clients", Host="evil.example")
    a.do(200, "GET", "/api/v5/clients", Origin=f"http://{t.beside}")


if __name__ == "__main__":
    suite.run()
