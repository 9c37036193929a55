"""RabbitMQ's management API as its tools use it: plain requests, `rabbitmqadmin`, and what Flower and KEDA read.

`--target` is where AMQP is spoken, `--websocket` where the API answers.
"""

import base64
import datetime
import importlib.util
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import management_ctl  # noqa: E402, F401
import management_login  # noqa: E402, F401
import management_metrics  # noqa: E402, F401
import management_pairs  # noqa: E402, F401
import management_paths  # noqa: E402, F401
import pika  # noqa: E402
from api import Api, api, quoted  # noqa: E402
from harness import suite  # noqa: E402
from harness.certificate import certify  # noqa: E402
from harness.ports import free_port  # noqa: E402
from harness.server import OwnServer  # noqa: E402
from harness.suite import Skip, case, equal, eventually  # noqa: E402
from pika.exceptions import (  # noqa: E402
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

#: Seconds that anything may take.
PATIENCE = 20

#: The script of RabbitMQ, as a package ships it.
ADMIN = pathlib.Path(importlib.util.find_spec("rabbitmqadmin").origin).parent / "upstream" / "rabbitmqadmin.py"


def connect(t, user="guest", password="guest", vhost="/", **options):
    """A connection that ends with the case."""
    parameters = pika.ConnectionParameters(
        t.host, t.port, vhost, pika.PlainCredentials(user, password), **options
    )
    connection = pika.BlockingConnection(parameters)

    def close():
        try:
            if connection.is_open:
                connection.close()
        except AMQPConnectionError:
            pass  # The server was quicker.

    t.defer(close)
    return connection


def forced_out(connection):
    """Waits until the server ends the connection with 320; the text."""
    end = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end:
            connection.process_data_events(0.1)
    except ConnectionClosedByBroker as error:
        equal(error.reply_code, 320)
        return error.reply_text
    raise AssertionError("the connection goes on")


def queue(t, **options):
    """A queue that is made by the API and goes with the case."""
    name = t.unique()
    path = f"/queues/%2F/{quoted(name)}"
    api(t).do(201, "PUT", path, {"durable": True, **options})
    t.defer(lambda: api(t).ask("DELETE", path))
    return name, path


def user(t, tags="", password="secret"):
    """A user that goes with the case."""
    name = t.unique()
    api(t).do(201, "PUT", f"/users/{name}", {"password": password, "tags": tags})
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    return name


def vhost(t):
    """A vhost that goes with the case."""
    name = t.unique()
    api(t).do(201, "PUT", f"/vhosts/{name}", {})
    t.defer(lambda: api(t).ask("DELETE", f"/vhosts/{name}"))
    return name


# What there is to see.


@case("overview whoami nodes extensions")
def the_overview_has_what_tools_look_for(t):
    overview = api(t).get("/overview")
    for field in ("rabbitmq_version", "management_version", "product_name", "product_version", "erlang_version",
                  "cluster_name", "node", "rates_mode", "statistics_db_event_queue", "exchange_types", "listeners",
                  "contexts", "object_totals", "queue_totals", "message_stats", "churn_rates"):
        assert field in overview, field
    assert re.match(r"3\.\d+\.\d+", overview["rabbitmq_version"]), overview["rabbitmq_version"]
    ports = {listener["protocol"]: listener["port"] for listener in overview["listeners"]}
    equal(ports["amqp"], t.port)
    kinds = {kind["name"] for kind in overview["exchange_types"]}
    assert {"direct", "fanout", "headers", "topic", "x-consistent-hash", "x-recent-history"} <= kinds, kinds
    equal(api(t).get("/whoami")["name"], "guest")
    [node] = api(t).get("/nodes")
    equal((node["name"], node["running"]), (overview["node"], True))
    assert node["mem_used"] > 0 and node["fd_used"] > 0, node
    equal(api(t).get("/extensions"), [])


@case("errors authentication")
def errors_have_the_shapes_of_rabbitmq(t):
    status, headers, body = Api(t.websocket, None).ask("GET", "/overview")
    equal((status, body["error"]), (401, "not_authorized"))
    assert "Basic" in headers["WWW-Authenticate"], headers
    # With accounts or not, nobody else is let in with a name that is none.
    equal(api(t).ask("GET", "/queues/%2F/nothing")[2], {"error": "Object Not Found", "reason": "Not Found"})
    equal(api(t).ask("GET", "/queues/nowhere")[0], 404)
    equal(api(t).ask("GET", "/nothing")[0], 404)
    equal(api(t).ask("PATCH", "/queues")[0], 405)
    equal(api(t).ask("PUT", "/queues/%2F/x", b"{")[2]["error"], "not_json")
    equal(api(t).ask("PUT", "/queues/%2F/x", {"durable": 5})[0], 400)
    equal(api(t).ask("GET", "/overview", Origin="http://elsewhere.example")[0], 403)


@case("queues")
def queues_are_declared_looked_at_and_deleted(t):
    name, path = queue(t, arguments={"x-message-ttl": 60000})
    api(t).do(204, "PUT", path, {"durable": True, "arguments": {"x-message-ttl": 60000}})
    answer = api(t).do(400, "PUT", path, {"durable": False})
    assert "inequivalent arg 'durable'" in answer["reason"], answer
    found = api(t).get(path)
    equal((found["name"], found["vhost"], found["type"], found["durable"]), (name, "/", "classic", True))
    equal(found["arguments"], {"x-message-ttl": 60000})
    equal((found["messages"], found["consumers"], found["state"]), (0, 0, "running"))
    connect(t).channel().queue_declare(name, passive=True)
    api(t).do(204, "DELETE", path)
    api(t).do(404, "DELETE", path)
    answer = api(t).do(400, "PUT", "/queues/%2F/amq.mine", {})
    assert "reserved prefix" in answer["reason"], answer


@case("queues publish get purge")
def messages_go_in_and_come_out(t):
    name, path = queue(t)
    publish = {"routing_key": name, "payload": "hällo", "payload_encoding": "string",
               "properties": {"delivery_mode": 2, "headers": {"n": 1, "deep": {"er": [1, "x"]}}}}
    equal(api(t).do(200, "POST", "/exchanges/%2F/amq.default/publish", publish), {"routed": True})
    raw = {"routing_key": name, "payload": base64.b64encode(b"\xff\x00").decode(), "payload_encoding": "base64",
           "properties": {}}
    equal(api(t).do(200, "POST", "/exchanges/%2F//publish", raw), {"routed": True})
    lost = {"routing_key": t.unique(), "payload": "x", "payload_encoding": "string", "properties": {}}
    equal(api(t).do(200, "POST", "/exchanges/%2F/amq.direct/publish", lost), {"routed": False})
    look = {"count": 5, "ackmode": "ack_requeue_true", "encoding": "auto"}
    first, second = api(t).do(200, "POST", f"{path}/get", look)
    equal((first["payload"], first["payload_encoding"], first["redelivered"]), ("hällo", "string", False))
    equal(first["properties"], {"delivery_mode": 2, "headers": {"n": 1, "deep": {"er": [1, "x"]}}})
    equal((second["payload"], second["payload_encoding"], second["payload_bytes"]), ("/wA=", "base64", 2))
    again = api(t).do(200, "POST", f"{path}/get", {**look, "truncate": 1, "encoding": "base64"})
    equal([message["redelivered"] for message in again], [True, True], "they came back in their order")
    equal(again[0]["payload"], base64.b64encode("h".encode()).decode())
    taken = api(t).do(200, "POST", f"{path}/get", {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"})
    equal(len(taken), 1)
    equal(api(t).get(path)["messages_ready"], 1)
    api(t).do(204, "DELETE", f"{path}/contents")
    equal(api(t).do(200, "POST", f"{path}/get", look), [])
    api(t).do(400, "POST", f"{path}/get", {"count": 1, "ackmode": "eat", "encoding": "auto"})


@case("exchanges bindings")
def exchanges_and_bindings_are_made_and_unmade(t):
    name, _ = queue(t)
    exchange = t.unique()
    path = f"/exchanges/%2F/{exchange}"
    api(t).do(201, "PUT", path, {"type": "topic", "durable": True, "auto_delete": False, "arguments": {}})
    t.defer(lambda: api(t).ask("DELETE", path))
    api(t).do(204, "PUT", path, {"type": "topic"})
    assert "inequivalent arg 'type'" in api(t).do(400, "PUT", path, {"type": "fanout"})["reason"]
    equal(api(t).get(path)["type"], "topic")
    between = f"/bindings/%2F/e/{exchange}/q/{quoted(name)}"
    status, headers, _ = api(t).ask("POST", between, {"routing_key": "a.#", "arguments": {"x": 1}})
    equal(status, 201)
    [bound] = api(t).get(between)
    equal((bound["routing_key"], bound["arguments"], bound["destination_type"]), ("a.#", {"x": 1}, "queue"))
    equal(urllib.parse.unquote(headers["Location"].split("/")[-1]), bound["properties_key"])
    api(t).do(201, "POST", between, {"routing_key": "", "arguments": {}})
    keys = sorted(binding["properties_key"] for binding in api(t).get(between))
    equal(keys[-1], "~")
    of_queue = api(t).get(f"/queues/%2F/{quoted(name)}/bindings")
    equal([binding["source"] for binding in of_queue], ["", exchange, exchange])
    equal(len(api(t).get(f"{path}/bindings/source")), 2)
    api(t).do(201, "POST", f"/bindings/%2F/e/{exchange}/e/amq.fanout", {"routing_key": "k"})
    equal(len(api(t).get(f"{path}/bindings/source")), 3)
    for key in keys:
        api(t).do(204, "DELETE", f"{between}/{quoted(key)}")
    api(t).do(404, "DELETE", f"{between}/~")
    api(t).do(204, "DELETE", path)
    api(t).do(404, "GET", path)
    api(t).do(404, "POST", f"/bindings/%2F/e/nothing/q/{quoted(name)}", {})


@case("lists")
def lists_are_sorted_cut_and_paged(t):
    names = sorted(queue(t)[0] for _ in range(3))
    prefix = names[0].rsplit("-", 1)[0]
    path = f"/queues/%2F?page=1&page_size=2&name={quoted('^' + prefix)}&use_regex=true&sort=name&sort_reverse=true"
    page = api(t).get(path)
    equal((page["filtered_count"], page["page_count"], page["item_count"]), (3, 2, 2))
    equal([item["name"] for item in page["items"]], names[:0:-1])
    cut = api(t).get("/queues?columns=name,message_stats.publish_details.rate")
    equal(sorted(cut[0]), ["message_stats", "name"])
    api(t).do(400, "GET", "/queues/%2F?page=99&page_size=10")
    api(t).do(400, "GET", "/queues/%2F?page=1&page_size=0")


@case("connections channels consumers")
def connections_channels_and_consumers_are_seen_and_ended(t):
    name, path = queue(t)
    connection = connect(t, client_properties={"connection_name": t.unique()}, heartbeat=30)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_qos(prefetch_count=7)
    channel.basic_publish("", name, b"x", mandatory=True)
    tag = channel.basic_consume(name, lambda *_: None)
    connection.process_data_events(0.1)

    def mine():
        seen = api(t).get("/connections")
        return [c for c in seen if c["client_properties"].get("connection_name") == c["user_provided_name"]]

    [seen] = [c for c in mine() if c["timeout"] == 30]
    equal((seen["user"], seen["vhost"], seen["state"], seen["protocol"]), ("guest", "/", "running", "AMQP 0-9-1"))
    assert seen["recv_oct"] > 0 and seen["send_oct"] > 0 and seen["connected_at"] > 1e12, seen
    [one] = api(t).get(f"/connections/{quoted(seen['name'])}/channels")
    equal((one["number"], one["confirm"], one["prefetch_count"], one["consumer_count"]), (1, True, 7, 1))
    equal((one["messages_unacknowledged"], one["message_stats"]["publish"], one["message_stats"]["confirm"]), (1, 1, 1))
    equal(api(t).get(f"/channels/{quoted(one['name'])}")["consumer_details"][0]["consumer_tag"], tag)
    [consumer] = [c for c in api(t).get("/consumers/%2F") if c["consumer_tag"] == tag]
    equal((consumer["queue"]["name"], consumer["ack_required"], consumer["prefetch_count"]), (name, True, 7))
    found = api(t).get(path)
    equal((found["consumers"], found["messages_unacknowledged"]), (1, 1))
    equal(found["consumer_details"][0]["channel_details"]["connection_name"], seen["name"])
    api(t).do(204, "DELETE", f"/connections/{quoted(seen['name'])}", X_Reason="enough")
    equal(forced_out(connection), "CONNECTION_FORCED - enough")
    eventually(lambda: seen["name"] not in [c["name"] for c in api(t).get("/connections")], "it is gone")
    api(t).do(404, "DELETE", f"/connections/{quoted(seen['name'])}")


@case("queues exclusive")
def an_exclusive_queue_names_its_owner(t):
    connection = connect(t)
    name = connection.channel().queue_declare("", exclusive=True).method.queue
    found = api(t).get(f"/queues/%2F/{name}")
    equal(found["exclusive"], True)
    assert found["owner_pid_details"]["name"].endswith(f":{t.port}"), found["owner_pid_details"]


@case("queues single_active_consumer_tag consumers channels")
def the_consumer_that_is_served_is_named(t):
    name, path = queue(t, arguments={"x-single-active-consumer": True})
    first, later = connect(t), connect(t)
    for connection, tag in ((first, "first"), (later, "later")):
        connection.channel().basic_consume(name, lambda *_: None, consumer_tag=tag)

    def told():
        found = api(t).get(path)
        details = {one["consumer_tag"]: (one["active"], one["activity_status"]) for one in found["consumer_details"]}
        return found["single_active_consumer_tag"], details

    equal(told(), ("first", {"first": (True, "single_active"), "later": (False, "waiting")}))
    listed = [one for one in api(t).get("/consumers/%2F") if one["queue"]["name"] == name]
    equal([(one["consumer_tag"], one["active"]) for one in listed], [("first", True), ("later", False)])
    for one in listed:
        [same] = api(t).get(f"/channels/{quoted(one['channel_details']['name'])}")["consumer_details"]
        equal(same, one)
    [found] = [one for one in api(t).get("/queues/%2F") if one["name"] == name]
    equal(found["single_active_consumer_tag"], "first")
    first.close()
    eventually(lambda: told() == ("later", {"later": (True, "single_active")}), "the next is served")
    later.close()
    eventually(lambda: told() == (None, {}), "nobody is served")
    # Of others nobody is.
    common, path = queue(t)
    connect(t).channel().basic_consume(common, lambda *_: None, consumer_tag="one")
    equal(told(), (None, {"one": (True, "up")}))


@case("queues head_message_timestamp")
def a_queue_says_how_old_its_oldest_message_is(t):
    name, path = queue(t)
    head = lambda: api(t).get(path)["head_message_timestamp"]  # noqa: E731
    equal(head(), None)
    channel = connect(t).channel()
    channel.confirm_delivery()
    for timestamp in (1_700_000_000, 1_700_000_005, None):
        channel.basic_publish("", name, b"x", pika.BasicProperties(timestamp=timestamp))
    equal(head(), 1_700_000_000)
    [listed] = [one for one in api(t).get("/queues") if one["name"] == name]
    equal(listed["head_message_timestamp"], 1_700_000_000)
    taken = channel.basic_get(name)[0]
    equal(head(), 1_700_000_000, "one that somebody holds is in the queue")
    channel.basic_ack(taken.delivery_tag)
    eventually(lambda: head() == 1_700_000_005, "the next is the oldest")
    channel.basic_get(name, auto_ack=True)
    eventually(lambda: head() is None and api(t).get(path)["messages"] == 1, "the last has none")


@case("queues idle_since")
def a_queue_says_since_when_nothing_happens_to_it(t):
    name, path = queue(t)
    channel = connect(t).channel()
    channel.confirm_delivery()
    idle = lambda: api(t).get(path).get("idle_since")  # noqa: E731
    for act in (
        lambda: channel.basic_publish("", name, b"x"),
        lambda: channel.basic_nack(channel.basic_get(name)[0].delivery_tag),
        lambda: channel.queue_declare(name, passive=True),
        lambda: channel.basic_cancel(channel.basic_consume(name, lambda *_: None)),
    ):
        before = time.time()
        act()
        equal(idle(), None, "something has just happened")
        since = datetime.datetime.fromisoformat(eventually(idle, "nothing happens any more")).timestamp()
        assert before - 0.1 <= since <= time.time(), (before, since)
    # Looking at it is nothing that happens to it.
    equal(datetime.datetime.fromisoformat(idle()).timestamp(), since)


def encrypted_server(t, more=""):
    """A server of its own with a port for TLS, that port, and its certificate; `more` goes into the table `tls`."""
    key, certificate = certify(t)
    encrypted = free_port()
    off = "".join(f"{name} = []\n" for name in ("beanstalk", "mqtt", "mqtt-ws", "mqtt-http", "amqp-metrics"))
    config = (
        f'admin.listen = "off"\n[listeners]\n{off}[[listeners.amqps]]\naddress = "127.0.0.1:{encrypted}"\n'
        f'tls = {{ certificate = "{certificate}", key = "{key}"{more} }}\n'
    )
    words = [word for word in (t.start or {}).get("words", []) if word != "--only"]
    server = OwnServer(t, start=t.start and {**t.start, "config": config, "words": [*words, "--config", "{config}"]})
    return server, encrypted, certificate


@case("connections ssl_protocol ssl_cipher")
def an_encrypted_connection_says_how(t):
    server, encrypted, certificate = encrypted_server(t)
    context = ssl.create_default_context(cafile=certificate)
    old = ssl.create_default_context(cafile=certificate)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    own = Api(server.websocket)
    for name, port, how in (("new", encrypted, context), ("old", encrypted, old), ("plain", server.address[1], None)):
        options = pika.SSLOptions(how, "localhost") if how else None
        connection = pika.BlockingConnection(pika.ConnectionParameters(
            "127.0.0.1", port, ssl_options=options, client_properties={"connection_name": name}))
        t.defer(connection.close)
    seen = {one["user_provided_name"]: one for one in own.get("/connections")}
    told = {
        name: tuple(one[f"ssl{key}"] for key in ("", "_protocol", "_key_exchange", "_cipher", "_hash"))
        for name, one in seen.items()
    }
    equal(told["new"][:3], (True, "tlsv1.3", "any"))
    assert told["new"][3] in ("aes_256_gcm", "aes_128_gcm", "chacha20_poly1305"), told
    equal(told["new"][4], "aead")
    equal(told["old"], (True, "tlsv1.2", "ecdhe_rsa", "aes_128_gcm", "aead"))
    equal(told["plain"], (False, None, None, None, None))


@case("connections peer_cert_subject peer_cert_issuer peer_cert_validity")
def a_connection_with_a_certificate_says_whose_it_is(t):
    key, own = certify(t, "/C=CH/O=Example, Ltd/CN=w\u00f6rker")
    server, encrypted, certificate = encrypted_server(
        t, f', client_certificates = "optional", client_authorities = "{own}"')
    shows, hides = (ssl.create_default_context(cafile=certificate) for _ in range(2))
    shows.load_cert_chain(own, key)
    external, plain = pika.credentials.ExternalCredentials(), pika.PlainCredentials("guest", "guest")
    for name, context, credentials in (("shows", shows, external), ("hides", hides, plain)):
        connection = pika.BlockingConnection(pika.ConnectionParameters(
            "127.0.0.1", encrypted, ssl_options=pika.SSLOptions(context, "localhost"), credentials=credentials,
            client_properties={"connection_name": name}))
        t.defer(connection.close)
    seen = {one["user_provided_name"]: one for one in Api(server.websocket).get("/connections")}
    equal({name: one["auth_mechanism"] for name, one in seen.items()}, {"shows": "EXTERNAL", "hides": "PLAIN"})
    told = {
        name: [one[f"peer_cert_{what}"] for what in ("subject", "issuer", "validity")] for name, one in seen.items()
    }
    dates = subprocess.run(["openssl", "x509", "-noout", "-dates", "-in", own],
                           check=True, capture_output=True, text=True).stdout
    moments = [ssl.cert_time_to_seconds(line.partition("=")[2]) for line in dates.splitlines()]
    written = [datetime.datetime.fromtimestamp(one, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
               for one in moments]
    name = "CN=w\\C3\\B6rker,O=Example\\, Ltd,C=CH"
    equal(told["shows"], [name, name, " - ".join(written)])
    equal(told["hides"], [None, None, None])


@case("health aliveness feature-flags")
def health_checks_say_how_it_is(t):
    equal(api(t).get("/aliveness-test/%2F"), {"status": "ok"})
    for check in ("alarms", "local-alarms", "virtual-hosts", "node-is-quorum-critical", "ready-to-serve-clients",
                  f"port-listener/{t.port}", "protocol-listener/amqp091"):
        equal(api(t).get(f"/health/checks/{check}")["status"], "ok", check)
    answer = api(t).do(503, "GET", "/health/checks/port-listener/1")
    equal(answer["status"], "failed")
    assert "listener" in answer["reason"], answer
    equal(api(t).get("/healthchecks/node"), {"status": "ok"})
    assert all(flag["state"] == "enabled" for flag in api(t).get("/feature-flags"))


# Who may do what.


@case("users permissions")
def permissions_are_expressions_that_change_while_connections_last(t):
    # Without any account this machine is let in whatever it says.
    user(t)
    name = user(t)
    kept, _ = queue(t)
    refused(403, ProbableAccessDeniedError, lambda: connect(t, name, "secret"))
    rights = f"/permissions/%2F/{name}"
    api(t).do(201, "PUT", rights, {"configure": "", "write": "^(amq\\.default|jobs)", "read": "^jobs"})
    channel = connect(t, name, "secret").channel()
    text = closed(403, lambda: channel.queue_declare("mine"))
    equal(text, f"ACCESS_REFUSED - configure access to queue 'mine' in vhost '/' refused for user '{name}'")
    connection = connect(t, name, "secret")
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_publish("", kept, b"x", mandatory=True)
    api(t).do(204, "PUT", rights, {"configure": ".*", "write": "^$", "read": ".*"})
    equal(channel.queue_declare(kept, durable=True).method.message_count, 1)
    text = closed(403, lambda: channel.basic_publish("", kept, b"x", mandatory=True))
    assert text.startswith("ACCESS_REFUSED - write access"), text
    equal(api(t).get(rights), {"user": name, "vhost": "/", "configure": ".*", "write": "^$", "read": ".*"})
    api(t).do(204, "DELETE", rights)
    api(t).do(404, "GET", rights)
    closed(403, lambda: connection.channel().queue_declare("mine"))
    api(t).do(204, "DELETE", f"/users/{name}")
    forced_out(connection)
    refused(403, ProbableAuthenticationError, lambda: connect(t, name, "secret"))


def refused(_code, kind, call):
    """A login that is refused so."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"expected {kind}")


def closed(code, call):
    """The call closes the channel with this code; the text."""
    try:
        call()
    except ChannelClosedByBroker as error:
        equal(error.reply_code, code)
        return error.reply_text
    raise AssertionError(f"expected {code}")


@case("users permissions operations")
def each_operation_needs_its_rights(t):
    user(t)
    name, at = user(t), vhost(t)
    for kind, names in (("queues", ("c", "w", "r", "cr", "none")), ("exchanges", ("c", "w", "r", "none"))):
        for one in names:
            body = {"durable": True} if kind == "queues" else {"type": "fanout", "durable": True}
            api(t).do(201, "PUT", f"/{kind}/{at}/{one}", body)
    api(t).do(201, "PUT", f"/permissions/{at}/{name}", {"configure": "^c", "write": "^w", "read": "^(r|cr)"})
    dead, other = {"x-dead-letter-exchange": "w"}, {"alternate-exchange": "w"}
    for denied, operation, allowed in (
        ("configure access to queue 'none'", lambda c: c.queue_declare("none", durable=True),
         lambda c: c.queue_declare("c", durable=True)),
        ("configure access to queue 'none'", lambda c: c.queue_delete("none"), lambda c: c.queue_delete("cd")),
        ("configure access to exchange 'none'", lambda c: c.exchange_declare("none", "fanout"),
         lambda c: c.exchange_declare("c", "fanout", durable=True)),
        ("configure access to exchange 'none'", lambda c: c.exchange_delete("none"), lambda c: c.exchange_delete("cd")),
        # Where dead letters and what nobody wants go is written to, and what sends them there is read from.
        ("read access to queue 'cx'", lambda c: c.queue_declare("cx", arguments=dead),
         lambda c: c.queue_declare("crx", arguments=dead)),
        ("write access to exchange 'none'",
         lambda c: c.queue_declare("cry", arguments={"x-dead-letter-exchange": "none"}), None),
        ("read access to exchange 'cx'", lambda c: c.exchange_declare("cx", arguments=other),
         lambda c: c.exchange_declare("crx", arguments=other)),
        ("write access to exchange 'none'",
         lambda c: c.exchange_declare("cry", arguments={"alternate-exchange": "none"}), None),
        ("write access to queue 'none'", lambda c: c.queue_bind("none", "r"), lambda c: c.queue_bind("w", "r")),
        ("read access to exchange 'none'", lambda c: c.queue_bind("w", "none"), None),
        ("write access to queue 'none'", lambda c: c.queue_unbind("none", "r"), lambda c: c.queue_unbind("w", "r")),
        ("write access to exchange 'none'", lambda c: c.exchange_bind("none", "r"), lambda c: c.exchange_bind("w", "r")),
        ("read access to exchange 'none'", lambda c: c.exchange_bind("w", "none"), None),
        ("write access to exchange 'none'", lambda c: c.exchange_unbind("none", "r"),
         lambda c: c.exchange_unbind("w", "r")),
        ("read access to queue 'none'", lambda c: c.basic_get("none"), lambda c: c.basic_get("r")),
        ("read access to queue 'none'", lambda c: c.basic_consume("none", print), lambda c: c.basic_consume("r", print)),
        ("read access to queue 'none'", lambda c: c.queue_purge("none"), lambda c: c.queue_purge("r")),
        # Looking needs any of them, whether there is something or not.
        ("access to queue 'none'", lambda c: c.queue_declare("none", passive=True),
         lambda c: c.queue_declare("c", passive=True)),
        ("access to queue 'nothing'", lambda c: c.queue_declare("nothing", passive=True),
         lambda c: c.queue_declare("w", passive=True)),
        ("access to exchange 'none'", lambda c: c.exchange_declare("none", passive=True),
         lambda c: c.exchange_declare("c", passive=True)),
        ("access to exchange 'nothing'", lambda c: c.exchange_declare("nothing", passive=True),
         lambda c: c.exchange_declare("w", passive=True)),
        ("access to queue 'nothing'", lambda c: c.queue_declare("nothing", passive=True),
         lambda c: c.queue_declare("r", passive=True)),
        ("access to exchange 'nothing'", lambda c: c.exchange_declare("nothing", passive=True),
         lambda c: c.exchange_declare("r", passive=True)),
    ):
        connection = connect(t, name, "secret", at)
        if denied:
            text = closed(403, lambda: operation(connection.channel()))
            equal(text, f"ACCESS_REFUSED - {denied} in vhost '{at}' refused for user '{name}'")
        if allowed:
            allowed(connection.channel())
        connection.close()
    for exchange, denied in (("none", "exchange 'none'"), ("", "queue 'none'"), ("w", None)):
        channel = connect(t, name, "secret", at).channel()
        channel.confirm_delivery()
        if denied:
            text = closed(403, lambda: channel.basic_publish(exchange, "none", b""))
            equal(text, f"ACCESS_REFUSED - write access to {denied} in vhost '{at}' refused for user '{name}'")
        else:
            channel.basic_publish(exchange, "none", b"")


@case("user-id impersonator")
def only_an_impersonator_speaks_for_others(t):
    user(t)
    for tags, allowed in (("", False), ("impersonator", True)):
        name = user(t, tags)
        api(t).do(201, "PUT", f"/permissions/%2F/{name}", {"configure": ".*", "write": ".*", "read": ".*"})
        channel = connect(t, name, "secret").channel()
        channel.confirm_delivery()
        channel.basic_publish("amq.fanout", "", b"", pika.BasicProperties(user_id=name))
        other = pika.BasicProperties(user_id="somebody")
        if allowed:
            channel.basic_publish("amq.fanout", "", b"", other)
        else:
            text = closed(406, lambda: channel.basic_publish("amq.fanout", "", b"", other))
            equal(text, f"PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was '{name}'")


@case("topic-permissions")
def topic_permissions_narrow_routing_keys(t):
    name = user(t)
    api(t).do(201, "PUT", f"/permissions/%2F/{name}", {"configure": ".*", "write": ".*", "read": ".*"})
    path = f"/topic-permissions/%2F/{name}"
    rule = {"exchange": "amq.topic", "write": "^{username}\\.", "read": "^open"}
    api(t).do(201, "PUT", path, rule)
    channel = connect(t, name, "secret").channel()
    channel.basic_publish("amq.topic", f"{name}.x", b"")
    own = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(own, "amq.topic", "open.#")
    text = closed(403, lambda: channel.queue_bind(own, "amq.topic", "closed"))
    equal(text, f"ACCESS_REFUSED - read access to topic 'closed' in exchange 'amq.topic' in vhost '/' refused for "
                f"user '{name}'")
    channel = connect(t, name, "secret").channel()
    channel.confirm_delivery()
    closed(403, lambda: channel.basic_publish("amq.topic", "other", b"", mandatory=True))
    channel = connect(t, name, "secret").channel()
    channel.confirm_delivery()
    copies = pika.BasicProperties(headers={"CC": ["other"]})
    closed(403, lambda: channel.basic_publish("amq.topic", f"{name}.x", b"", copies, mandatory=True))
    equal(api(t).get(path), [{"user": name, "vhost": "/", **rule}])
    # The vhost goes by its name, which is a slash.
    api(t).do(204, "PUT", path, {**rule, "write": "^in{vhost}only"})
    channel = connect(t, name, "secret").channel()
    channel.basic_publish("amq.topic", "in/only.this", b"")
    channel.confirm_delivery()
    closed(403, lambda: channel.basic_publish("amq.topic", "in.default.only", b"", mandatory=True))
    api(t).do(204, "DELETE", f"{path}/amq.topic")
    api(t).do(404, "GET", path)


@case("users")
def users_have_hashes_and_tags_of_rabbitmq(t):
    name = user(t, "monitoring,team-a", "first")
    found = api(t).get(f"/users/{name}")
    equal((found["tags"], found["hashing_algorithm"]), (["monitoring", "team-a"], "rabbit_password_hashing_sha256"))
    equal(len(base64.b64decode(found["password_hash"])), 4 + 32)
    # The example of RabbitMQ's guide to passwords.
    api(t).do(204, "PUT", f"/users/{name}",
              {"password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR", "tags": ["management"]})
    own = api(t, name, "test12")
    equal(own.get("/whoami")["tags"], ["management"])
    own.do(401, "GET", "/users")
    own.do(401, "GET", "/nodes/x")
    equal(own.get("/vhosts"), [], "it may use none")
    own.do(401, "GET", "/queues/%2F")
    equal(api(t, name, "first").ask("GET", "/whoami")[0], 401)
    api(t).do(204, "PUT", f"/users/{name}", {"password_hash": "", "tags": ""})
    equal(api(t, name, "").ask("GET", "/whoami")[0], 401)
    assert name in [known["name"] for known in api(t).get("/users/without-permissions")]
    api(t).do(400, "PUT", f"/users/{t.unique()}", {"tags": ""})
    api(t).do(204, "POST", "/users/bulk-delete", {"users": [name, t.unique()]})
    api(t).do(404, "GET", f"/users/{name}")


@case("vhosts")
def a_vhost_is_made_used_and_deleted_with_all_that_is_in_it(t):
    name = vhost(t)
    api(t).do(204, "PUT", f"/vhosts/{name}", {"description": "shop", "tags": "a,b"})
    found = api(t).get(f"/vhosts/{name}")
    equal((found["description"], found["tags"], found["metadata"]["description"]), ("shop", ["a", "b"], "shop"))
    connection = connect(t, vhost=name)
    channel = connection.channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_delivery()
    channel.basic_publish("", "q", b"x", mandatory=True)
    equal([known["name"] for known in api(t).get(f"/queues/{name}")], ["q"])
    equal(len([known for known in api(t).get("/queues/%2F") if known["name"] == "q"]), 0, "vhosts are apart")
    api(t).do(204, "POST", f"/vhosts/{name}/deletion/protection")
    api(t).do(412, "DELETE", f"/vhosts/{name}")
    api(t).do(204, "DELETE", f"/vhosts/{name}/deletion/protection")
    api(t).do(204, "DELETE", f"/vhosts/{name}")
    forced_out(connection)
    api(t).do(404, "GET", f"/vhosts/{name}")
    refused(530, AMQPConnectionError, lambda: connect(t, vhost=name))
    api(t).do(201, "PUT", f"/vhosts/{name}", {})
    equal(api(t).get(f"/queues/{name}"), [], "nothing is left")
    api(t).do(400, "DELETE", "/vhosts/%2F")


@case("limits")
def vhosts_and_users_have_limits(t):
    at = vhost(t)
    api(t).do(204, "PUT", f"/vhost-limits/{at}/max-connections", {"value": 1})
    api(t).do(204, "PUT", f"/vhost-limits/{at}/max-queues", {"value": 1})
    equal(api(t).get(f"/vhost-limits/{at}"), [{"vhost": at, "value": {"max-connections": 1, "max-queues": 1}}])
    first = connect(t, vhost=at)
    refused(530, AMQPConnectionError, lambda: connect(t, vhost=at))
    first.channel().queue_declare("one")
    closed(406, lambda: first.channel().queue_declare("two"))
    first.close()
    eventually(lambda: not api(t).get(f"/vhosts/{at}/connections"), "the connection is gone")
    connect(t, vhost=at)
    api(t).do(204, "DELETE", f"/vhost-limits/{at}/max-connections")
    connect(t, vhost=at)
    name = user(t)
    api(t).do(201, "PUT", f"/permissions/%2F/{name}", {"configure": ".*", "write": ".*", "read": ".*"})
    api(t).do(204, "PUT", f"/user-limits/{name}/max-channels", {"value": 2})
    api(t).do(204, "PUT", f"/user-limits/{name}/max-connections", {"value": 2})
    equal(api(t).get(f"/user-limits/{name}"), [{"user": name, "value": {"max-connections": 2, "max-channels": 2}}])
    first, second = connect(t, name, "secret"), connect(t, name, "secret")
    refused(530, AMQPConnectionError, lambda: connect(t, name, "secret"))
    channel = first.channel()
    second.channel()
    channel.close()
    second.channel()
    try:
        first.channel()
        raise AssertionError("a third channel")
    except ConnectionClosedByBroker as error:
        equal(error.reply_code, 530)
        assert "maximum allowed user limit of (2)" in error.reply_text, error.reply_text


# Policies, parameters, definitions.


@case("policies operator-policies")
def policies_are_checked_and_match_by_priority(t):
    name, path = queue(t)
    policy, operator = f"/policies/%2F/{name}", f"/operator-policies/%2F/{name}"
    t.defer(lambda: api(t).ask("DELETE", policy))
    t.defer(lambda: api(t).ask("DELETE", operator))
    body = {"pattern": f"^{name}$", "definition": {"max-length": 10}, "priority": 3, "apply-to": "queues"}
    api(t).do(201, "PUT", policy, body)
    api(t).do(204, "PUT", policy, body)
    api(t).do(201, "PUT", operator, {**body, "definition": {"max-length": 4, "message-ttl": 60000}})
    equal(api(t).get(policy), {"vhost": "/", "name": name, **body})
    found = api(t).get(path)
    equal((found["policy"], found["operator_policy"]), (name, name))
    equal(found["effective_policy_definition"], {"max-length": 4, "message-ttl": 60000})
    answer = api(t).do(400, "PUT", policy, {**body, "definition": {"max-lenght": 1}})
    assert "not recognised policy settings" in answer["reason"], answer
    api(t).do(400, "PUT", policy, {**body, "definition": {"max-length": "1"}})
    api(t).do(400, "PUT", policy, {**body, "pattern": "("})
    api(t).do(400, "PUT", operator, {**body, "definition": {"dead-letter-exchange": "x"}})
    # They hold at once, for what is there already too.
    channel = connect(t).channel()
    channel.confirm_delivery()
    for n in range(6):
        channel.basic_publish("", name, str(n).encode(), mandatory=True)
    equal(channel.queue_declare(name, passive=True).method.message_count, 4, "the oldest make room")
    api(t).do(204, "PUT", operator, {**body, "definition": {"max-length": 1, "message-ttl": 60000}})
    eventually(lambda: channel.queue_declare(name, passive=True).method.message_count == 1, "it has shrunk")
    equal(channel.basic_get(name, auto_ack=True)[2], b"5")
    api(t).do(204, "PUT", operator, {**body, "definition": {"message-ttl": 60000, "max-length": 4}})
    api(t).do(204, "DELETE", policy)
    api(t).do(404, "DELETE", policy)
    equal(api(t).get(path)["effective_policy_definition"], {"max-length": 4, "message-ttl": 60000})


@case("policies")
def a_policy_takes_effect_on_what_is_there_and_what_comes(t):
    name, path = queue(t)
    spare, _ = queue(t)
    channel = connect(t).channel()
    channel.confirm_delivery()
    channel.basic_publish("", name, b"old", mandatory=True)
    policy = f"/policies/%2F/{name}"
    t.defer(lambda: api(t).ask("DELETE", policy))
    body = {"pattern": f"^{name}", "apply-to": "queues", "definition": {
        "message-ttl": 1, "dead-letter-exchange": "", "dead-letter-routing-key": spare}}
    api(t).do(201, "PUT", policy, body)
    channel.basic_publish("", name, b"new", mandatory=True)
    eventually(lambda: api(t).get(path)["messages"] == 0 or channel.queue_declare(
        spare, passive=True).method.message_count >= 1, "a message has expired")
    channel.queue_declare(name + "-later")
    t.defer(lambda: api(t).ask("DELETE", f"/queues/%2F/{name}-later"))
    equal(api(t).get(f"/queues/%2F/{name}-later")["policy"], name)
    api(t).do(204, "DELETE", policy)
    channel.basic_publish("", name, b"stays", mandatory=True)
    time.sleep(0.05)
    assert api(t).get(path)["messages_ready"] >= 1


@case("exchanges x-delayed-message")
def an_exchange_says_how_many_messages_wait_in_it(t):
    name = t.unique()
    path = f"/exchanges/%2F/{name}"
    api(t).do(201, "PUT", path, {"type": "x-delayed-message", "arguments": {"x-delayed-type": "fanout"}})
    t.defer(lambda: api(t).ask("DELETE", path))
    equal(api(t).get(path)["messages_delayed"], 0)
    for _ in range(2):
        publish = {"routing_key": "", "payload": "x", "payload_encoding": "string",
                   "properties": {"headers": {"x-delay": 3_600_000}}}
        equal(api(t).do(200, "POST", f"{path}/publish", publish), {"routed": True})
    equal(api(t).get(path)["messages_delayed"], 2)
    listed = {one["name"]: one.get("messages_delayed") for one in api(t).get("/exchanges/%2F")}
    equal((listed[name], listed["amq.direct"]), (2, None))


@case("policies alternate-exchange")
def an_alternate_exchange_comes_by_policy(t):
    name, _ = queue(t)
    exchange = t.unique()
    path = f"/exchanges/%2F/{exchange}"
    api(t).do(201, "PUT", path, {"type": "direct"})
    t.defer(lambda: api(t).ask("DELETE", path))
    api(t).do(201, "POST", f"/bindings/%2F/e/amq.fanout/q/{quoted(name)}", {"routing_key": ""})
    publish = {"routing_key": "nowhere", "payload": "x", "payload_encoding": "string", "properties": {}}
    equal(api(t).do(200, "POST", f"{path}/publish", publish), {"routed": False})
    policy = f"/policies/%2F/{exchange}"
    api(t).do(201, "PUT", policy, {"pattern": f"^{exchange}$", "apply-to": "exchanges",
                                   "definition": {"alternate-exchange": "amq.fanout"}})
    t.defer(lambda: api(t).ask("DELETE", policy))
    equal(api(t).do(200, "POST", f"{path}/publish", publish), {"routed": True})
    equal(api(t).get(path)["policy"], exchange)
    api(t).do(204, "DELETE", policy)
    equal(api(t).do(200, "POST", f"{path}/publish", publish), {"routed": False})


@case("parameters global-parameters")
def parameters_are_those_of_components_that_there_are(t):
    at = vhost(t)
    value = {"value": {"max-queues": 7}}
    api(t).ask("PUT", f"/parameters/vhost-limits/{at}/limits", value)
    equal(api(t).get(f"/parameters/vhost-limits/{at}"),
          [{"component": "vhost-limits", "vhost": at, "name": "limits", "value": {"max-queues": 7}}])
    answer = api(t).do(400, "PUT", f"/parameters/nothing/{at}/x", {"value": {}})
    equal(answer["reason"], "component nothing not found")
    name = t.unique()
    api(t).do(201, "PUT", f"/global-parameters/{name}", {"value": [1, {"a": None}]})
    equal(api(t).get(f"/global-parameters/{name}"), {"name": name, "value": [1, {"a": None}]})
    api(t).do(204, "DELETE", f"/global-parameters/{name}")
    api(t).do(404, "GET", f"/global-parameters/{name}")


def something(t):
    """A vhost with one of everything, and a user who may use it."""
    at, name = vhost(t), user(t, "management")
    api(t).do(201, "PUT", f"/permissions/{at}/{name}", {"configure": "^a", "write": "^b", "read": "^c"})
    api(t).do(201, "PUT", f"/topic-permissions/{at}/{name}", {"exchange": "amq.topic", "write": "w", "read": "r"})
    api(t).do(204, "PUT", f"/vhost-limits/{at}/max-queues", {"value": 100})
    policy = {"pattern": "^p", "definition": {"message-ttl": 5}, "priority": 1, "apply-to": "all"}
    api(t).do(201, "PUT", f"/policies/{at}/one", policy)
    api(t).do(201, "PUT", f"/operator-policies/{at}/two", {**policy, "definition": {"max-length": 9}})
    api(t).do(201, "PUT", f"/queues/{at}/q", {"arguments": {"x-max-priority": 3}})
    api(t).do(201, "PUT", f"/exchanges/{at}/x", {"type": "headers", "internal": True})
    binding = {"routing_key": "k", "arguments": {"x-match": "any", "a": 1}}
    api(t).do(201, "POST", f"/bindings/{at}/e/x/q/q", binding)
    api(t).do(201, "POST", f"/bindings/{at}/e/amq.topic/e/x", {"routing_key": "#"})
    return at, name


def of_vhost(definitions, at):
    """What a file says of a vhost."""
    kinds = ("permissions", "topic_permissions", "parameters", "policies", "queues", "exchanges", "bindings")
    return {kind: [e for e in definitions[kind] if e["vhost"] == at] for kind in kinds}


@case("definitions")
def definitions_go_out_and_come_in(t):
    at, name = something(t)
    exported = api(t).get("/definitions")
    before = of_vhost(exported, at)
    equal([len(before[kind]) for kind in sorted(before)], [2, 1, 2, 1, 1, 1, 1])
    hashes = {known["name"]: known["password_hash"] for known in exported["users"]}
    api(t).do(204, "DELETE", f"/vhosts/{at}")
    api(t).do(204, "DELETE", f"/users/{name}")
    for _ in range(2):
        api(t).do(204, "POST", "/definitions", exported)
        again = api(t).get("/definitions")
        equal(of_vhost(again, at), before)
        equal({known["name"]: known["password_hash"] for known in again["users"]}, hashes)
    equal(api(t, name, "secret").get("/whoami")["name"], name)
    # One that cannot be had is skipped, and nothing else is.
    odd = {"queues": [{"name": "odd", "vhost": at, "durable": True, "auto_delete": False,
                       "arguments": {"x-queue-type": "no such type"}},
                      {"name": "fine", "vhost": at, "durable": True, "auto_delete": False, "arguments": {}},
                      {"name": "q", "vhost": at, "durable": False, "auto_delete": False, "arguments": {}}],
           "users": [{"name": "x", "tags": ""}], "parameters": [{"component": "none", "vhost": at, "name": "n",
                                                                  "value": {}}], "bindings": [{}]}
    api(t).do(204, "POST", "/definitions", odd)
    equal([known["name"] for known in api(t).get(f"/queues/{at}")], ["fine", "q"])
    api(t).do(400, "POST", "/definitions", b"not json")
    api(t).do(400, "POST", "/definitions", {"queues": {}})


@case("definitions")
def definitions_of_one_vhost_go_into_another(t):
    at, _ = something(t)
    recent = {"type": "x-recent-history", "durable": True, "auto_delete": False, "internal": False,
              "arguments": {"x-recent-history-length": 2}}
    api(t).do(201, "PUT", f"/exchanges/{at}/recent", recent)
    exported = api(t).get(f"/definitions/{at}")
    equal(exported["rabbitmq_definition_format"], "single_virtual_host")
    assert "users" not in exported and "vhost" not in exported["queues"][0], exported
    other = vhost(t)
    api(t).do(204, "POST", f"/definitions/{other}", exported)
    equal(api(t).get(f"/definitions/{other}")["bindings"], exported["bindings"])
    equal(api(t).get(f"/policies/{other}/one")["definition"], {"message-ttl": 5})
    found = api(t).get(f"/exchanges/{other}/recent")
    equal({key: found[key] for key in recent}, recent)
    for number in range(3):
        publish = {"routing_key": "", "payload": str(number), "payload_encoding": "string", "properties": {}}
        equal(api(t).do(200, "POST", f"/exchanges/{other}/recent/publish", publish), {"routed": False})
    api(t).do(201, "POST", f"/bindings/{other}/e/recent/q/q", {"routing_key": ""})
    get = {"count": 9, "ackmode": "ack_requeue_false", "encoding": "auto"}
    got = api(t).do(200, "POST", f"/queues/{other}/q/get", get)
    equal([message["payload"] for message in got], ["1", "2"])


@case("restart load_definitions")
def what_was_defined_outlives_a_crash_and_files_are_loaded_at_the_start(t):
    port, metrics = free_port(), free_port()
    more = ("--listen", f"amqp-metrics=127.0.0.1:{metrics}")
    server = OwnServer(t, *more)
    own = Api(f"127.0.0.1:{server._websocket}")
    own.do(201, "PUT", "/vhosts/shop", {"description": "kept"})
    own.do(201, "PUT", "/users/ann", {"password": "secret", "tags": "administrator"})
    own.do(201, "PUT", "/permissions/shop/ann", {"configure": ".*", "write": ".*", "read": ".*"})
    own.do(204, "PUT", "/vhost-limits/shop/max-queues", {"value": 5})
    own.do(201, "PUT", "/policies/shop/p", {"pattern": "", "definition": {"expires": 3600000}, "apply-to": "queues"})
    own.do(201, "PUT", "/queues/shop/q", {})
    own.do(204, "PUT", "/cluster-name", {"name": "mine"})
    exported = own.get("/definitions")
    server.restart()
    ann = Api(own.address, "ann", "secret")
    again = ann.get("/definitions")
    equal(again, exported)
    equal(ann.get("/vhosts/shop")["description"], "kept")
    file = pathlib.Path(server._home) / "definitions.json"
    file.write_text(json.dumps({**exported, "queues": exported["queues"] + [
        {"name": "odd", "vhost": "shop", "durable": True, "auto_delete": False, "arguments": {"x-queue-type": "?"}}]}))
    del port
    fresh = OwnServer(t, "--set", f"amqp.definitions={file}")
    loaded = Api(f"127.0.0.1:{fresh._websocket}", "ann", "secret").get("/definitions")
    equal(loaded, exported)


#: Debian's RabbitMQ.
RABBITMQ = pathlib.Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def rabbitmq(t):
    """The API of a real RabbitMQ, which ends with the case."""
    if not RABBITMQ.exists():
        raise Skip("needs Debian's rabbitmq-server")
    home = pathlib.Path(tempfile.mkdtemp(prefix="longtail-rabbitmq-"))
    t.defer(lambda: shutil.rmtree(home, ignore_errors=True))
    ports = [free_port() for _ in range(4)]
    (home / "plugins").write_text("[rabbitmq_management].")
    (home / "rabbitmq.conf").write_text(f"management.tcp.port = {ports[1]}\nmanagement.tcp.ip = 127.0.0.1\n")
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "RABBITMQ_ALLOW_INPUT": "true",
        "RABBITMQ_SERVER_START_ARGS": "-noinput", "ERL_EPMD_PORT": str(ports[2]), "RABBITMQ_LOGS": "-",
        "RABBITMQ_NODENAME": "trip@localhost", "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(ports[0]), "RABBITMQ_DIST_PORT": str(ports[3]),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"), "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_MNESIA_BASE": str(home), "RABBITMQ_LOG_BASE": str(home),
        # Otherwise it would be in the directory that the server is started in.
        "ERL_CRASH_DUMP": str(home / "erl_crash.dump"),
    }
    log = open(home / "log", "wb")
    process = subprocess.Popen([str(RABBITMQ)], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end():
        process.terminate()
        process.wait(30)
        subprocess.run(["epmd", "-port", str(ports[2]), "-kill"], capture_output=True, check=False)
        log.close()

    t.defer(end)
    real = Api(f"127.0.0.1:{ports[1]}")
    until = time.monotonic() + 60
    while True:
        try:
            if real.ask("GET", "/overview")[0] == 200:
                return real
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > until:
            raise AssertionError(f"RabbitMQ does not start: {(home / 'log').read_text()[-500:]}")
        time.sleep(0.2)


def of_keys(entry):
    """An entry with its keys in order."""
    return dict(sorted(entry.items()))


@case("definitions RabbitMQ", "last")
def definitions_go_to_a_real_rabbitmq_and_back(t):
    real = rabbitmq(t)
    at, name = something(t)
    ours = api(t).get("/definitions")
    # What Longtail has exported, RabbitMQ takes, and has it then.
    real.do(204, "POST", "/definitions", ours)
    theirs = real.get("/definitions")
    for kind in ("permissions", "policies", "queues", "exchanges", "bindings"):
        for entry in of_vhost(ours, at)[kind]:
            plain = {key: value for key, value in entry.items() if key not in ("type", "properties_key")}
            found = [other for other in of_vhost(theirs, at)[kind] if plain.items() <= other.items()]
            if kind in ("exchanges",):
                found = [o for o in of_vhost(theirs, at)[kind] if {**plain, "type": entry["type"]}.items() <= o.items()]
            assert found, f"{kind}: {entry} is not among {of_vhost(theirs, at)[kind]}"
    equal(Api(real.address, name, "secret").get("/whoami")["name"], name, "with its password")
    # And the other way: a file of RabbitMQ's own making.
    other, own = t.unique(), t.unique()
    real.do(201, "PUT", f"/vhosts/{other}", {"description": "theirs", "tags": "a"})
    real.do(201, "PUT", f"/users/{own}", {"password": "their own", "tags": "monitoring"})
    real.do(201, "PUT", f"/permissions/{other}/{own}", {"configure": "^c", "write": "", "read": ".*"})
    real.do(201, "PUT", f"/queues/{other}/q", {"durable": True, "arguments": {"x-max-length": 9}})
    real.do(201, "PUT", f"/queues/{other}/quorum", {"durable": True, "arguments": {"x-queue-type": "quorum"}})
    real.do(201, "PUT", f"/exchanges/{other}/x", {"type": "topic", "durable": True})
    real.do(201, "POST", f"/bindings/{other}/e/x/q/q", {"routing_key": "a.*", "arguments": {"n": 1}})
    real.do(201, "PUT", f"/policies/{other}/p", {"pattern": "^q", "definition": {"message-ttl": 9}, "priority": 2,
                                                "apply-to": "queues"})
    t.defer(lambda: api(t).ask("DELETE", f"/vhosts/{other}"))
    t.defer(lambda: api(t).ask("DELETE", f"/users/{own}"))
    exported = real.get("/definitions")
    api(t).do(204, "POST", "/definitions", exported)
    [told] = [known for known in exported["vhosts"] if known["name"] == other]
    described = told.get("metadata", told).get("description", "")
    equal(api(t).get(f"/vhosts/{other}")["description"], described, f"as in {told}")
    equal(api(t, own, "their own").get("/whoami")["tags"], ["monitoring"])
    ours, theirs = of_vhost(api(t).get("/definitions"), other), of_vhost(exported, other)
    for kind in ("permissions", "policies", "exchanges", "bindings"):
        order = json.dumps
        equal(sorted(map(of_keys, ours[kind]), key=order), sorted(map(of_keys, theirs[kind]), key=order), kind)
    equal([known["name"] for known in ours["queues"]], sorted(known["name"] for known in theirs["queues"]))
    # What went there and back is what it was.
    real.do(204, "DELETE", f"/vhosts/{other}")
    real.do(204, "POST", "/definitions", api(t).get("/definitions"))
    again = of_vhost(real.get("/definitions"), other)
    for kind in theirs:
        equal(sorted(map(of_keys, again[kind]), key=order), sorted(map(of_keys, theirs[kind]), key=order), kind)


# Metrics.


@case("prometheus")
def metrics_have_the_names_of_rabbitmq_and_never_go_back(t):
    metrics = free_port()
    server = OwnServer(t, "--listen", f"amqp-metrics=127.0.0.1:{metrics}")

    def scrape(path="/metrics"):
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}{path}", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}

    def is_up():
        try:
            return scrape()
        except urllib.error.URLError:
            return None

    before = eventually(is_up, "the metrics are there")
    equal(before["rabbitmq_channel_messages_published_total"], 0.0)
    parameters = pika.ConnectionParameters(*server.address)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare("q")
    channel.confirm_delivery()
    for _ in range(3):
        channel.basic_publish("", "q", b"x", mandatory=True)
    channel.basic_get("q", auto_ack=True)
    channel.basic_get("q")
    during = scrape()
    for name, value in (("rabbitmq_connections", 1), ("rabbitmq_channels", 1), ("rabbitmq_queues", 1),
                        ("rabbitmq_queue_messages_ready", 1), ("rabbitmq_queue_messages_unacked", 1),
                        ("rabbitmq_queue_messages", 2),
                        ("rabbitmq_channel_messages_published_total", 3),
                        ("rabbitmq_channel_messages_confirmed_total", 3), ("rabbitmq_channel_get_total", 1),
                        ("rabbitmq_channel_get_ack_total", 1),
                        ('rabbitmq_global_messages_received_total{protocol="amqp091"}', 3)):
        equal(during[name], float(value), name)
    assert any(name.startswith("rabbitmq_identity_info{") for name in during)
    assert any(name.startswith("rabbitmq_build_info{") for name in during)
    per_object = scrape("/metrics/per-object")
    equal(per_object['rabbitmq_queue_messages{vhost="/",queue="q"}'], 2.0)
    detailed = scrape("/metrics/detailed?family=queue_coarse_metrics&family=queue_consumer_count")
    equal(detailed['rabbitmq_detailed_queue_messages_ready{vhost="/",queue="q"}'], 1.0)
    connection.close()
    eventually(lambda: scrape()["rabbitmq_connections"] == 0, "the connection is gone")
    after = scrape()
    equal(after["rabbitmq_connections_closed_total"], after["rabbitmq_connections_opened_total"])
    equal(after["rabbitmq_channel_messages_published_total"], 3.0)
    for name, value in during.items():
        if name.split("{")[0].endswith("_total"):
            assert after[name] >= value, name


# What others read.


@case("flower keda")
def flower_and_keda_find_what_they_read(t):
    name, path = queue(t)
    api(t).do(200, "POST", "/exchanges/%2F/amq.default/publish",
              {"routing_key": name, "payload": "x", "payload_encoding": "string", "properties": {}})
    # Flower lists the queues of a vhost and shows these.
    [seen] = [known for known in api(t).get("/queues/%2F") if known["name"] == name]
    equal([seen[field] for field in ("messages", "messages_ready", "messages_unacknowledged", "consumers")], [1, 1, 0, 0])
    assert "idle_since" not in seen or isinstance(seen["idle_since"], str)
    # KEDA reads one queue, or sums up those that an expression matches.
    found = api(t).get(path)
    equal(found["messages"], 1)
    assert isinstance(found["message_stats"]["publish_details"]["rate"], float), found["message_stats"]
    query = f"?page=1&use_regex=true&pagination=false&name={quoted('^' + name + '$')}&page_size=100"
    page = api(t).get(f"/queues/%2F{query}")
    equal([item["messages"] for item in page["items"]], [1])


@case("channels consumers tx")
def channels_and_consumers_tell_how_they_were_set_up(t):
    name, path = queue(t)
    connection = connect(t)
    channel = connection.channel()
    for _ in range(3):
        channel.basic_publish("", name, b"x")
    channel.basic_qos(prefetch_count=5, global_qos=True)
    channel.basic_qos(prefetch_count=2)
    channel.tx_select()
    got = []
    tag = channel.basic_consume(name, lambda _c, method, _p, _b: got.append(method.delivery_tag),
                                arguments={"x-priority": 7})
    while len(got) < 2:
        connection.process_data_events(0.1)
    channel.basic_ack(got[0])
    for _ in range(3):
        channel.basic_publish("", name, b"y")

    def seen():
        [found] = [known for known in api(t).get("/consumers/%2F") if known["consumer_tag"] == tag]
        shown = api(t).get(f"/channels/{quoted(found['channel_details']['name'])}")
        return (found, shown) if shown["messages_uncommitted"] == 3 else None

    found, shown = eventually(seen, "staged")
    equal((found["arguments"], found["prefetch_count"]), ({"x-priority": 7}, 2))
    equal((shown["transactional"], shown["confirm"], shown["acks_uncommitted"]), (True, False, 1))
    equal((shown["prefetch_count"], shown["global_prefetch_count"]), (2, 5))
    channel.tx_commit()
    shown = api(t).get(f"/channels/{quoted(found['channel_details']['name'])}")
    equal((shown["messages_uncommitted"], shown["acks_uncommitted"]), (0, 0))
    equal(api(t).get(path)["messages"], 5)


# Rates, and what was before.

#: What asks for it, as RabbitMQ's page does.
BEFORE = ("lengths_age=60&lengths_incr=5&msg_rates_age=60&msg_rates_incr=5&data_rates_age=60&data_rates_incr=5"
          "&node_stats_age=60&node_stats_incr=5")

#: Samples are taken every five seconds.
SAMPLED = 15


def samples_of(details):
    """The numbers of samples, the oldest first, after a look at their shape."""
    samples = details["samples"]
    moments = [sample["timestamp"] for sample in samples]
    equal(moments, [moments[0] - 5000 * at for at in range(len(moments))], "even times, the latest first")
    equal([moment % 5000 for moment in moments[:1]], [0] if moments else [])
    assert all(type(sample["sample"]) is int for sample in samples), samples
    if len(samples) > 1:
        equal({type(details["avg"]), type(details["avg_rate"])}, {float})
    return [sample["sample"] for sample in reversed(samples)]


@case("rates lengths_age msg_rates_age data_rates_age", "waits")
def rates_are_those_of_the_last_interval_and_samples_tell_what_was(t):
    name, path = queue(t)
    connection = connect(t, client_properties={"connection_name": name})
    channel = connection.channel()

    def seen(kind):
        """The connection, or its channel, as the API lists it."""
        for known in api(t).get(f"/{kind}?{BEFORE}"):
            shown = known if kind == "connections" else known["connection_details"]
            if shown.get("user_provided_name") == name or shown["name"] == own:
                return known
        return None

    own = None
    own = eventually(lambda: seen("connections"), "it is seen")["name"]
    seen("channels")
    # Whoever looks for the first time may find no rate; from then on it is measured.
    api(t).get(f"{path}?{BEFORE}")
    end = time.monotonic() + 2 * SAMPLED
    found = published = None
    while time.monotonic() < end:
        for _ in range(20):
            channel.basic_publish("", name, b"x" * 100)
        published = (published or 0) + 20
        time.sleep(0.2)
        connection.process_data_events(0)
        found = api(t).get(f"{path}?{BEFORE}")
        rate = found["message_stats"]["publish_details"]["rate"]
        if rate > 20 and len(found["messages_details"]["samples"]) > 2:
            break
    assert 20 < rate < 150, f"about 100 a second: {rate}"
    assert found["messages_details"]["rate"] > 20 and found["messages_ready_details"]["rate"] > 20, found
    lengths = samples_of(found["messages_details"])
    equal(lengths, sorted(lengths), "it only grows")
    assert lengths[-1] > 0 and found["messages_details"]["avg_rate"] >= 0, found["messages_details"]
    equal(samples_of(found["message_stats"]["publish_details"])[-1], lengths[-1])
    mine = seen("connections")
    assert mine["recv_oct_details"]["rate"] > 1000, mine["recv_oct_details"]
    assert samples_of(mine["recv_oct_details"])[-1] > 0
    of_channel = seen("channels")["message_stats"]["publish_details"]
    assert of_channel["rate"] > 20 and len(samples_of(of_channel)) > 1, of_channel
    exchange = api(t).get(f"/exchanges/%2F/amq.default?{BEFORE}")["message_stats"]["publish_in_details"]
    assert exchange["rate"] > 20, exchange
    vhost = api(t).get(f"/vhosts/%2F?{BEFORE}")
    assert vhost["messages"] > 0 and vhost["message_stats"]["publish_details"]["rate"] >= 0, vhost
    # Without being asked for, there are rates and no samples. KEDA reads this one.
    plain = api(t).get(path)
    assert plain["message_stats"]["publish_details"].keys() == {"rate"}, plain["message_stats"]
    # It shrinks by as much as it has.
    api(t).do(204, "DELETE", f"{path}/contents")
    purged = api(t).get(path)
    assert purged["messages_details"]["rate"] < 0, purged["messages_details"]
    # And rests.
    end = time.monotonic() + SAMPLED
    while (resting := api(t).get(path))["message_stats"]["publish_details"]["rate"] != 0:
        assert time.monotonic() < end, resting["message_stats"]
        time.sleep(0.5)


@case("rates overview nodes", "waits")
def the_overview_and_the_node_tell_what_was(t):
    end = time.monotonic() + SAMPLED
    while True:
        overview = api(t).get(f"/overview?{BEFORE}")
        node = api(t).get(f"/nodes/{overview['node']}?{BEFORE}")
        if len(overview["queue_totals"]["messages_details"]["samples"]) > 1 and node["mem_used_details"]["samples"]:
            break
        assert time.monotonic() < end, overview["queue_totals"]
        time.sleep(0.5)
    for part in ("messages", "messages_ready", "messages_unacknowledged"):
        samples_of(overview["queue_totals"][f"{part}_details"])
    for part in ("publish", "deliver_get", "ack", "confirm"):
        samples_of(overview["message_stats"][f"{part}_details"])
    churn = overview["churn_rates"]
    for part in ("connection_created", "channel_closed", "queue_declared", "queue_created", "queue_deleted"):
        samples_of(churn[f"{part}_details"])
    assert churn["queue_declared"] >= churn["queue_created"] >= churn["queue_deleted"] >= 0, churn
    for part in ("mem_used", "fd_used", "sockets_used", "proc_used", "disk_free"):
        assert isinstance(node[part], int) and isinstance(node[f"{part}_details"]["rate"], float), node[part]
    # Far back there is what there is, at the distance that is asked for.
    day = api(t).get("/overview?lengths_age=86400&lengths_incr=1800")["queue_totals"]["messages_details"]["samples"]
    assert len(day) <= 49, day
    for wrong in ("lengths_age=60&lengths_incr=0", "msg_rates_age=5000&msg_rates_incr=1", "data_rates_age=x&data_rates_incr=1"):
        equal(api(t).ask("GET", f"/overview?{wrong}")[0], 400, wrong)


@case("churn_rates prometheus")
def queues_that_come_and_go_are_counted(t):
    before = api(t).get("/overview")["churn_rates"]
    channel = connect(t).channel()
    name = t.unique()
    channel.queue_declare(name)
    channel.queue_declare(name)
    channel.queue_delete(name)
    after = api(t).get("/overview")["churn_rates"]
    moved = {part: after[part] - before[part] for part in ("queue_declared", "queue_created", "queue_deleted")}
    assert moved["queue_declared"] >= 2 and moved["queue_created"] >= 1 and moved["queue_deleted"] >= 1, moved


@case("vhosts message_stats")
def what_went_through_a_vhost_stays_counted_when_its_connections_end(t):
    at = vhost(t)
    connection = connect(t, vhost=at)
    channel = connection.channel()
    channel.queue_declare("q")
    for _ in range(7):
        channel.basic_publish("", "q", b"x")
    eventually(lambda: api(t).get(f"/vhosts/{at}")["message_stats"]["publish"] == 7, "counted")
    received = api(t).get(f"/vhosts/{at}")["recv_oct"]
    connection.close()
    eventually(lambda: not api(t).get(f"/vhosts/{at}/connections"), "gone")
    found = api(t).get(f"/vhosts/{at}")
    equal((found["message_stats"]["publish"], found["messages"]), (7, 7))
    assert found["recv_oct"] >= received, found["recv_oct"]


# rabbitmqadmin.


def admin(t, *words):
    """What RabbitMQ's own script prints, as JSON where it is."""
    host, port = t.websocket.split(":")
    command = [sys.executable, str(ADMIN), "-H", host, "-P", port, "-f", "raw_json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    equal(done.returncode, 0, f"{words}: {done.stdout}{done.stderr}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        return done.stdout


@case("rabbitmqadmin")
def rabbitmqadmin_declares_lists_publishes_gets_and_deletes(t):
    name, at = t.unique(), t.unique()
    admin(t, "declare", "vhost", f"name={at}")
    t.defer(lambda: api(t).ask("DELETE", f"/vhosts/{at}"))
    admin(t, "declare", "user", f"name={name}", "password=secret", "tags=management")
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    admin(t, "declare", "permission", f"vhost={at}", f"user={name}", "configure=.*", "write=.*", "read=.*")
    own = ("-u", name, "-p", "secret", "-V", at)
    admin(t, *own, "declare", "exchange", "name=x", "type=topic")
    admin(t, *own, "declare", "queue", "name=q", "durable=true", 'arguments={"x-max-priority": 4}')
    admin(t, *own, "declare", "binding", "source=x", "destination=q", "routing_key=a.#")
    admin(t, *own, "publish", "exchange=x", "routing_key=a.b", "payload=hello")
    [got] = admin(t, *own, "get", "queue=q", "ackmode=ack_requeue_false")
    equal((got["payload"], got["exchange"], got["routing_key"]), ("hello", "x", "a.b"))
    for what in ("queues", "exchanges", "bindings", "vhosts", "connections", "channels", "consumers", "nodes"):
        assert isinstance(admin(t, "list", what), list), what
    equal([known["name"] for known in admin(t, *own, "list", "queues")], ["q"])
    for what in ("users", "permissions", "policies", "parameters", "operator_policies", "vhost_limits"):
        assert isinstance(admin(t, "list", what), list), what
    equal(admin(t, "show", "overview")[0]["rabbitmq_version"], api(t).get("/overview")["rabbitmq_version"])
    for kind, most in (("policy", 3), ("operator_policy", 2)):
        admin(t, "-V", at, "declare", kind, f"name={name}", "pattern=^q", f'definition={{"max-length": {most}}}',
              "apply-to=queues")
    admin(t, "declare", "vhost_limit", f"vhost={at}", "name=max-queues", "value=9")
    file = pathlib.Path("/tmp") / f"{name}.json"
    t.defer(lambda: file.unlink(missing_ok=True))
    admin(t, "export", str(file))
    assert at in [known["name"] for known in json.loads(file.read_text())["vhosts"]]
    admin(t, "import", str(file))
    admin(t, *own, "purge", "queue", "name=q")
    admin(t, *own, "delete", "binding", "source=x", "destination_type=queue", "destination=q", "properties_key=a.#")
    admin(t, *own, "delete", "queue", "name=q")
    admin(t, *own, "delete", "exchange", "name=x")
    admin(t, "-V", at, "delete", "policy", f"name={name}")
    admin(t, "delete", "permission", f"vhost={at}", f"user={name}")
    admin(t, "delete", "user", f"name={name}")
    admin(t, "delete", "vhost", f"name={at}")
    equal(api(t).ask("GET", f"/vhosts/{at}")[0], 404)


@case("message_stats")
def queues_and_exchanges_count_what_went_through_them(t):
    name, path = queue(t)
    exchange = t.unique()
    api(t).do(201, "PUT", f"/exchanges/%2F/{exchange}", {"type": "fanout", "durable": True})
    t.defer(lambda: api(t).ask("DELETE", f"/exchanges/%2F/{exchange}"))
    channel = connect(t).channel()
    channel.queue_bind(name, exchange)
    for _ in range(5):
        channel.basic_publish(exchange, "", b"x")
    eventually(lambda: api(t).get(path)["message_stats"]["publish"] == 5, "published")
    first, _, _ = channel.basic_get(name)
    channel.basic_nack(first.delivery_tag, requeue=True)
    eventually(lambda: channel.queue_declare(name, passive=True).method.message_count == 5, "given back")
    channel.basic_get(name, auto_ack=True)
    got = []
    tag = channel.basic_consume(name, lambda _c, method, _p, _b: got.append(method.delivery_tag))
    while len(got) < 4:
        channel.connection.process_data_events(0.1)
    for delivery in got:
        channel.basic_reject(delivery, requeue=False)
    channel.basic_cancel(tag)
    channel.basic_get(name)
    stats = eventually(lambda: (s := api(t).get(path)["message_stats"]) and s["get_empty"] == 1 and s, "counted")
    equal((stats["get"], stats["get_no_ack"], stats["deliver"], stats["deliver_no_ack"], stats["redeliver"]),
          (1, 1, 4, 0, 1))
    equal((stats["deliver_get"], stats["get_details"]["rate"] >= 0), (6, True))
    counted = api(t).get(f"/exchanges/%2F/{exchange}")["message_stats"]
    equal((counted["publish_in"], counted["publish_out"]), (5, 5))
    channel.connection.close()
    later = eventually(lambda: not api(t).get(path)["consumers"] and api(t).get(path)["message_stats"], "closed")
    equal([later[key] for key in ("deliver", "get", "redeliver")], [4, 1, 1], "nothing goes back")
    equal(api(t).get(f"/exchanges/%2F/{exchange}")["message_stats"]["publish_in"], 5)


@case("prometheus dead letters")
def dead_letters_are_counted_by_reason(t):
    metrics = free_port()
    server = OwnServer(t, "--listen", f"amqp-metrics=127.0.0.1:{metrics}")
    name = 'rabbitmq_global_messages_dead_lettered_expired_total{dead_letter_strategy="at_least_once"}'

    def letters(name=name):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=PATIENCE) as answer:
                lines = answer.read().decode().splitlines()
        except urllib.error.URLError:
            return None
        return [line.rsplit(" ", 1)[1] for line in lines if line.startswith(name)]

    equal(eventually(letters, "the metrics are there"), ["0"])
    connection = pika.BlockingConnection(pika.ConnectionParameters(*server.address))
    channel = connection.channel()
    channel.queue_declare("q", arguments={"x-message-ttl": 1, "x-dead-letter-exchange": "amq.fanout"})
    channel.basic_publish("", "q", b"x")
    eventually(lambda: letters() == ["1"], "it is counted")
    # Nobody is bound there; what a queue has taken is confirmed.
    confirmed = 'rabbitmq_global_messages_dead_lettered_confirmed_total{dead_letter_strategy="at_least_once"}'
    equal(letters(confirmed), ["0"])
    channel.queue_declare("to")
    channel.queue_bind("to", "amq.fanout")
    channel.basic_publish("", "q", b"x")
    eventually(lambda: letters(confirmed) == ["1"], "it is confirmed")
    equal(letters(), ["2"])
    channel.queue_delete("q")
    connection.close()
    equal(letters(), ["2"], "it stays counted")


#: RabbitMQ's second command line client, where the harness has it.
ADMIN_2 = os.environ.get("LONGTAIL_RABBITMQADMIN")


def admin2(t, *words, vhost="/"):
    """What it prints."""
    if not ADMIN_2:
        raise Skip("rabbitmqadmin 2 is not here")
    host, port = t.websocket.split(":")
    command = [ADMIN_2, "--host", host, "--port", port, "--username", "guest", "--password", "guest",
               "--vhost", vhost, "--non-interactive", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    equal(done.returncode, 0, f"{words}: {done.stdout}{done.stderr}")
    return done.stdout


@case("rabbitmqadmin 2")
def the_second_rabbitmqadmin_does_what_it_can(t):
    at, name = t.unique(), t.unique()
    admin2(t, "declare", "vhost", "--name", at)
    t.defer(lambda: api(t).ask("DELETE", f"/vhosts/{at}"))
    own = lambda *words: admin2(t, *words, vhost=at)  # noqa: E731
    own("declare", "queue", "--name", "q", "--type", "classic", "--durable", "true")
    own("declare", "exchange", "--name", "x", "--type", "topic")
    own("declare", "binding", "--source", "x", "--destination-type", "queue", "--destination", "q",
        "--routing-key", "a.#")
    assert "routed" in own("publish", "message", "--exchange", "x", "--routing-key", "a.b", "--payload", "hello")
    assert "hello" in own("get", "messages", "--queue", "q", "--count", "1")
    for kind in ("queues", "exchanges", "bindings", "vhosts", "nodes", "users", "connections", "channels", "consumers",
                 "policies", "permissions", "parameters"):
        own("list", kind)
    assert "q" in own("list", "queues") and "Longtail" in admin2(t, "show", "overview")
    own("declare", "policy", "--name", "p", "--pattern", "^q", "--apply-to", "queues", "--priority", "1",
        "--definition", '{"max-length": 5}')
    assert "max-length" in own("list", "policies")
    own("shovels", "declare_amqp091", "--name", "s", "--source-uri", f"amqp:///{at}", "--destination-uri",
        f"amqp:///{at}", "--source-queue", "q", "--destination-queue", "q2")
    assert "dynamic" in own("shovels", "list_all")
    own("shovels", "delete", "--name", "s")
    own("federation", "declare_upstream", "--name", "u", "--uri", "amqp://127.0.0.1:1")
    assert "u" in own("federation", "list_all_upstreams")
    own("federation", "list_all_links")
    own("federation", "delete_upstream", "--name", "u")
    admin2(t, "declare", "user", "--name", name, "--password", "p", "--tags", "management")
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    own("declare", "permissions", "--user", name, "--configure", ".*", "--read", ".*", "--write", ".*")
    file = pathlib.Path(tempfile.mkdtemp(prefix="longtail-admin-")) / "definitions.json"
    admin2(t, "definitions", "export", "--file", str(file))
    assert at in file.read_text()
    admin2(t, "definitions", "import", "--file", str(file))
    admin2(t, "health_check", "local_alarms")
    admin2(t, "health_check", "port_listener", "--port", str(t.port))
    own("purge", "queue", "--name", "q")
    own("delete", "queue", "--name", "q")
    admin2(t, "delete", "vhost", "--name", at)
    equal(api(t).ask("GET", f"/vhosts/{at}")[0], 404)


@case("tracing")
def a_traced_vhost_shows_what_goes_through_it(t):
    at = vhost(t)
    equal(api(t).get(f"/vhosts/{at}")["tracing"], False)
    exchange = api(t).get(f"/exchanges/{at}/amq.rabbitmq.trace")
    equal([exchange[key] for key in ("type", "durable", "internal")], ["topic", True, True])
    connection = connect(t, vhost=at)
    channel = connection.channel()
    other = connect(t, vhost=at).channel()
    other.confirm_delivery()
    text = closed(403, lambda: other.basic_publish("amq.rabbitmq.trace", "k", b""))
    assert "cannot publish to internal exchange" in text, text
    copies, work = (channel.queue_declare("", exclusive=True).method.queue for _ in range(2))
    channel.queue_bind(copies, "amq.rabbitmq.trace", "#")
    channel.queue_bind(work, "amq.direct", "k")
    properties = pika.BasicProperties(type="order", delivery_mode=2, headers={"n": 1})

    def passes(body):
        """One message is published and fetched."""
        channel.basic_publish("amq.direct", "k", body, properties)
        eventually(lambda: channel.basic_get(work, auto_ack=True)[2] == body, "it is there")

    passes(b"untraced")
    api(t).do(204, "PUT", f"/vhosts/{at}", {"tracing": True})
    equal(api(t).get(f"/vhosts/{at}")["tracing"], True)
    passes(b"traced")
    got = {}

    def both():
        method, shown, body = channel.basic_get(copies, auto_ack=True)
        if method is not None and shown.headers["exchange_name"] == "amq.direct":
            got[method.routing_key] = (shown.headers, body)
        return len(got) == 2

    eventually(both, "a copy of each")
    equal(sorted(got), sorted(["publish.amq.direct", f"deliver.{work}"]))
    for headers, body in got.values():
        equal(body, b"traced")
        equal(headers["routing_keys"], ["k"])
        equal((headers["vhost"], headers["user"], headers["channel"]), (at, "guest", 1))
        equal(headers["properties"], {"headers": {"n": 1}, "delivery_mode": 2, "type": "order"})
        names = [c["name"] for c in api(t).get("/connections") if c["vhost"] == at]
        assert headers["connection"] in names, (headers, names)
        assert headers["node"].startswith("longtail"), headers
    equal(got[f"deliver.{work}"][0]["redelivered"], 0)
    assert "redelivered" not in got["publish.amq.direct"][0]
    api(t).do(204, "PUT", f"/vhosts/{at}", {"tracing": False})
    passes(b"untraced")
    equal(channel.basic_get(copies, auto_ack=True)[2], None)


@case("rabbitmqadmin close")
def rabbitmqadmin_closes_a_connection(t):
    connection = connect(t, client_properties={"connection_name": "to-be-closed"})
    names = [c["name"] for c in api(t).get("/connections") if c["user_provided_name"] == "to-be-closed"]
    done = threading.Thread(target=lambda: admin(t, "close", "connection", f"name={names[0]}"))
    done.start()
    forced_out(connection)
    done.join()


if __name__ == "__main__":
    suite.run()
