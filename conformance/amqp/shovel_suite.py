"""Shovels between the server under test and a real RabbitMQ, and to HTTP: what they carry, keep, write and say.

`--target` is where AMQP is spoken, `--websocket` where the management API answers, `--peer` starts RabbitMQ.
"""

import http.server
import pathlib
import ssl
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import shovel_statics  # noqa: E402, F401
from api import Api, api, quoted  # noqa: E402
from brokers import Broker, eventually, rabbitmq, under_test  # noqa: E402
from harness import suite  # noqa: E402
from harness.certificate import certify  # noqa: E402
from harness.proxy import Proxy  # noqa: E402
from harness.ports import free_port  # noqa: E402
from harness.server import OwnServer  # noqa: E402
from harness.suite import case, equal  # noqa: E402

HERE = "amqp://"


def shovel(t, value, vhost="/", status=201, at=None, name=None):
    """A shovel that ends with the case; its name."""
    name = name or t.unique()
    at = at or api(t)
    path = f"/parameters/shovel/{quoted(vhost)}/{name}"
    at.do(status, "PUT", path, {"value": value})
    t.defer(lambda: at.ask("DELETE", path))
    return name


def state(t, name, vhost="/"):
    """What a shovel says of itself; None: there is none."""
    status, _, body = api(t).ask("GET", f"/shovels/vhost/{quoted(vhost)}/{name}")
    return body if status == 200 else None


def running(t, name, vhost="/"):
    """Waits until it runs."""
    return eventually(lambda: (found := state(t, name, vhost)) and found["state"] == "running" and found, "running")


# What they carry.


@case("src-queue dest-queue status")
def messages_come_from_rabbitmq_with_everything_they_have(t):
    there, here = rabbitmq(t), under_test(t)
    source, target = there.queue(), here.queue()
    there.publish(source, b"early", headers={"n": 1, "deep": {"er": ["x"]}}, content_type="text/plain", priority=3,
                  message_id="m", correlation_id="c", type="kind", app_id="app", timestamp=5)
    name = shovel(t, {"src-uri": there.uri(), "src-queue": source, "dest-uri": HERE, "dest-queue": target})
    method, properties, body = here.fetch(target)
    equal((body, method.routing_key, method.exchange), (b"early", target, ""))
    equal(properties.headers, {"n": 1, "deep": {"er": ["x"]}})
    equal((properties.content_type, properties.priority, properties.message_id, properties.correlation_id),
          ("text/plain", 3, "m", "c"))
    equal((properties.type, properties.app_id, properties.timestamp, properties.delivery_mode), ("kind", "app", 5, 2))
    there.publish(source, b"late")
    equal(here.fetch(target)[2], b"late")
    eventually(lambda: there.count(source) == 0, "settled at the source")
    found = running(t, name)
    equal((found["name"], found["vhost"], found["type"], found["src_queue"], found["dest_queue"]),
          (name, "/", "dynamic", source, target))
    assert "guest" not in found["src_uri"] and str(there.port) in found["src_uri"], found
    eventually(lambda: state(t, name)["forwarded"] == 2, "both are counted")
    assert name in [known["name"] for known in api(t).get("/shovels")]
    assert name in [known["name"] for known in api(t).get("/shovels/%2F")]
    api(t).do(204, "DELETE", f"/shovels/vhost/%2F/{name}")
    equal(state(t, name), None)
    equal(api(t).ask("GET", f"/parameters/shovel/%2F/{name}")[0], 404)
    there.publish(source, b"stays")
    time.sleep(0.3)
    eventually(lambda: there.count(source) == 1, "it stays")
    equal(here.count(target), 0)


@case("dest-exchange dest-publish-properties dest-add-forward-headers dest-add-timestamp-header")
def messages_go_to_rabbitmq_as_the_parameter_says(t):
    there, here = rabbitmq(t), under_test(t)
    source = here.queue()
    exchange, target = there.exchange("topic"), there.queue()
    there.channel.queue_bind(target, exchange, "to.there")
    name = shovel(t, {
        "src-uri": HERE, "src-queue": source, "dest-uri": there.uri(), "dest-exchange": exchange,
        "dest-exchange-key": "to.there", "dest-publish-properties": {"delivery_mode": 2, "app_id": "shovel"},
        "dest-add-forward-headers": True, "dest-add-timestamp-header": True,
    })
    here.publish(source, b"x", headers={"own": True, "x-shovelled": [{"shovel-name": "before"}]}, app_id="mine",
                 delivery_mode=1)
    method, properties, _ = there.fetch(target)
    equal((method.exchange, method.routing_key), (exchange, "to.there"))
    equal((properties.app_id, properties.delivery_mode, properties.headers["own"]), ("shovel", 2, True))
    first, second = properties.headers["x-shovelled"]
    equal((first["shovel-name"], first["shovel-vhost"], first["src-queue"], first["dest-exchange"]),
          (name, "/", source, exchange))
    equal(second, {"shovel-name": "before"})
    assert abs(properties.headers["x-shovelled-timestamp"] - time.time()) < 60, properties.headers


@case("src-exchange src-exchange-key dest-same")
def what_an_exchange_gets_is_carried_with_its_own_keys(t):
    there, here = rabbitmq(t), under_test(t)
    exchange, target = there.exchange("topic"), here.queue()
    here.exchange("topic", exchange)
    here.channel.queue_bind(target, exchange, "#")
    name = shovel(t, {"src-uri": there.uri(), "src-exchange": exchange, "src-exchange-key": "a.#", "dest-uri": HERE})
    running(t, name)
    there.publish("b.no", b"no", exchange)
    there.publish("a.yes", b"yes", exchange)
    method, _, body = here.fetch(target)
    equal((method.exchange, method.routing_key, body), (exchange, "a.yes", b"yes"))
    equal(here.count(target), 0)


@case("src-delete-after")
def a_shovel_goes_when_it_has_carried_what_was_there(t):
    there, here = rabbitmq(t), under_test(t)
    source, target = there.queue(), here.queue()
    bodies = [b"%d" % n for n in range(250)]
    for body in bodies:
        there.publish(source, body)
    eventually(lambda: there.count(source) == 250, "published")
    name = shovel(t, {"src-uri": there.uri(), "src-queue": source, "dest-uri": HERE, "dest-queue": target,
                      "src-delete-after": "queue-length", "src-prefetch-count": 10})
    equal(sorted(here.drain(target, bodies)), sorted(bodies))
    eventually(lambda: state(t, name) is None, "it is done")
    equal(api(t).ask("GET", f"/parameters/shovel/%2F/{name}")[0], 404)
    for body in bodies[:5]:
        there.publish(source, body)
    name = shovel(t, {"src-uri": there.uri(), "src-queue": source, "dest-uri": HERE, "dest-queue": target,
                      "delete-after": 3})
    eventually(lambda: state(t, name) is None, "three are carried")
    eventually(lambda: (here.count(target), there.count(source)) == (3, 2), "and no more")
    shovel(t, {"src-uri": there.uri(), "src-queue": source, "dest-uri": HERE, "dest-queue": t.unique() + "-x",
               "delete-after": 0}, name=name)
    eventually(lambda: state(t, name) is None, "nothing to carry")
    equal(there.count(source), 2)


@case("ack-mode")
def all_modes_carry_everything_while_nothing_breaks(t):
    there, here = rabbitmq(t), under_test(t)
    for mode in ("on-confirm", "on-publish", "no-ack"):
        source, target = there.queue(), here.queue()
        shovel(t, {"src-uri": there.uri(), "src-queue": source, "dest-uri": HERE, "dest-queue": target,
                   "ack-mode": mode})
        bodies = [b"%d" % n for n in range(300)]
        for body in bodies:
            there.publish(source, body)
        equal(here.drain(target, bodies), bodies, mode)
        eventually(lambda: there.count(source) == 0, mode)


@case("large bodies")
def large_messages_are_carried_whole_both_ways(t):
    there, here = rabbitmq(t), under_test(t)
    source, middle, target = there.queue(), here.queue(), there.queue()
    shovel(t, {"src-uri": there.uri(), "src-queue": source, "dest-uri": HERE, "dest-queue": middle})
    shovel(t, {"src-uri": HERE, "src-queue": middle, "dest-uri": there.uri(), "dest-queue": target})
    bodies = [bytes([n]) * (n * 700_001) for n in range(4)]
    for body in bodies:
        there.publish(source, body)
    for body in bodies:
        equal(there.fetch(target)[2] == body, True, f"{len(body)} bytes")


# What they keep.


@case("reconnect-delay link kill")
def nothing_is_lost_when_links_break_again_and_again(t):
    there, here = rabbitmq(t), under_test(t)
    for source_side in (True, False):
        proxy = Proxy(t, there.host, there.port)
        away = there.uri(proxy.port)
        source, target = (there.queue(), here.queue()) if source_side else (here.queue(), there.queue())
        ends = (there, here) if source_side else (here, there)
        value = {"src-uri": away if source_side else HERE, "dest-uri": HERE if source_side else away,
                 "src-queue": source, "dest-queue": target, "reconnect-delay": 1, "src-prefetch-count": 50}
        name = shovel(t, value)
        running(t, name)
        bodies = [b"%d" % n for n in range(3000)]
        for n, body in enumerate(bodies):
            ends[0].publish(source, body)
            if n % 1000 == 500:
                before = proxy.connects
                proxy.cut()
                eventually(lambda before=before: proxy.connects > before, "connected again")
        found = ends[1].drain(target, bodies)
        assert set(found) == set(bodies)
        eventually(lambda: ends[0].count(source) == 0, "settled at the source")
        api(t).do(204, "DELETE", f"/parameters/shovel/%2F/{name}")


@case("reconnect-delay status")
def a_side_that_is_not_there_is_waited_for(t):
    there, here = rabbitmq(t), under_test(t)
    proxy = Proxy(t, there.host, there.port)
    proxy.shut()
    source, target = there.queue(), here.queue()
    there.publish(source, b"x")
    name = shovel(t, {"src-uri": there.uri(proxy.port), "src-queue": source, "dest-uri": HERE, "dest-queue": target,
                      "reconnect-delay": 1})
    found = eventually(lambda: (found := state(t, name)) and "reason" in found and found, "it says why")
    equal(found["state"], "starting")
    proxy.reopen()
    equal(here.fetch(target)[2], b"x")
    running(t, name)


@case("src-uri dest-uri list")
def addresses_are_tried_in_turn(t):
    there, here = rabbitmq(t), under_test(t)
    source, target = there.queue(), here.queue()
    there.publish(source, b"x")
    nobody = f"amqp://127.0.0.1:{free_port()}"
    shovel(t, {"src-uri": [nobody, there.uri()], "src-queue": source, "dest-uri": HERE, "dest-queue": target,
               "reconnect-delay": 1})
    equal(here.fetch(target)[2], b"x")


@case("on-confirm overflow")
def what_the_other_side_refuses_stays_at_the_source(t):
    there, here = rabbitmq(t), under_test(t)
    source = here.queue()
    target = there.queue(**{"x-max-length": 2, "x-overflow": "reject-publish"})
    name = shovel(t, {"src-uri": HERE, "src-queue": source, "dest-uri": there.uri(), "dest-queue": target})
    for n in range(5):
        here.publish(source, b"%d" % n)
    eventually(lambda: there.count(target) == 2, "two fit")
    eventually(lambda: state(t, name)["pending"] == 3, "three wait")
    found = [there.fetch(target)[2] for _ in range(5)]
    equal(sorted(found), [b"%d" % n for n in range(5)])


@case("restart")
def a_shovel_outlives_a_crash(t):
    there = rabbitmq(t)
    own = OwnServer(t)
    at = Api(own.websocket)
    here = Broker(t, *own.address)
    source, target = there.queue(), here.queue("target")
    eventually(lambda: at.ask("GET", "/overview")[0] == 200, "the API answers")
    shovel(t, {"src-uri": there.uri(), "src-queue": source, "dest-uri": HERE, "dest-queue": target,
               "reconnect-delay": 1}, at=at, name="lasting")
    bodies = [b"%d" % n for n in range(500)]
    for body in bodies[:250]:
        there.publish(source, body)
    here.drain(target, bodies[:100])
    own.restart()
    for body in bodies[250:]:
        there.publish(source, body)
    here = Broker(t, *own.address)
    here.drain(target, bodies[250:])
    eventually(lambda: there.count(source) == 0, "settled at the source")
    equal([known["name"] for known in at.get("/shovels")], ["lasting"])


@case("alarms")
def a_broker_that_is_short_of_disk_is_sent_nothing(t):
    there = rabbitmq(t)
    own = OwnServer(t, "--set", "amqp.disk_free_bytes_min=9000000000000000000")
    at = Api(own.websocket)
    here = Broker(t, *own.address)
    source, target = there.queue(), here.queue("target")
    eventually(lambda: at.ask("GET", "/health/checks/alarms")[0] == 503, "the alarm is raised")
    there.publish(source, b"waits")
    shovel(t, {"src-uri": there.uri(), "src-queue": source, "dest-uri": HERE, "dest-queue": target}, at=at, name="held")
    eventually(lambda: there.count(source) == 0, "it is under way")
    def held():
        found = at.get("/shovels/vhost/%2F/held")
        return (found["state"], found["blocked_status"]) == ("running", "blocked") and found

    equal(eventually(held, "it is held back")["forwarded"], 0)
    at.do(204, "DELETE", "/shovels/vhost/%2F/held")
    eventually(lambda: there.count(source) == 1, "it goes back")
    equal(here.count(target), 0)


@case("predeclared")
def a_queue_that_is_to_be_there_is_not_made(t):
    there, here = rabbitmq(t), under_test(t)
    source, target = t.unique(), here.queue()
    name = shovel(t, {"src-uri": there.uri(), "src-queue": source, "src-predeclared": True, "dest-uri": HERE,
                      "dest-queue": target, "reconnect-delay": 1})
    found = eventually(lambda: (found := state(t, name)) and "reason" in found and found, "it says why")
    assert "NOT_FOUND - no queue" in found["reason"], found
    there.queue(source)
    there.publish(source, b"x")
    equal(here.fetch(target)[2], b"x")
    made = t.unique()
    shovel(t, {"src-uri": there.uri(), "src-queue": made, "src-queue-args": {"x-max-length": 7}, "dest-uri": HERE,
               "dest-queue": target})
    eventually(lambda: there.has("queue", made), "made")
    there.queue(made, **{"x-max-length": 7})


@case("amqps")
def tls_is_checked_against_the_authority_that_is_named(t):
    there, here = rabbitmq(t), under_test(t)
    key, certificate = certify(t)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    proxy = Proxy(t, there.host, there.port, tls=context)
    source, target = there.queue(), here.queue()
    there.publish(source, b"x")
    away = f"amqps://guest:guest@localhost:{proxy.port}"
    value = {"src-queue": source, "dest-uri": HERE, "dest-queue": target, "reconnect-delay": 1}
    name = shovel(t, {"src-uri": away, **value})
    found = eventually(lambda: (found := state(t, name)) and "reason" in found and found, "it says why")
    assert "certificate" in found["reason"].lower(), found
    equal(there.count(source), 1)
    shovel(t, {"src-uri": f"{away}?cacertfile={certificate}&verify=verify_peer", **value}, name=name, status=204)
    equal(here.fetch(target)[2], b"x")


# HTTP.


class Hook:
    """A server of HTTP that notes what it gets and answers what it is told."""

    def __init__(self, t):
        self.got = []
        self.status = 200
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):  # noqa: N802
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hook.got.append((self.path, dict(self.headers.items()), body, self.client_address))
                self.send_response(hook.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://us:pw@127.0.0.1:{server.server_port}/hook?a=1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        t.defer(server.shutdown)


@case("http")
def messages_are_posted_and_done_with_when_they_are_accepted(t):
    here, hook = under_test(t), Hook(t)
    source = here.queue()
    name = shovel(t, {"src-uri": HERE, "src-queue": source, "dest-uri": hook.uri})
    for n in range(20):
        here.publish(source, b"body %d" % n, content_type="text/plain", message_id=f"m{n}", headers={"Tenant": "blue"})
    eventually(lambda: len(hook.got) == 20, "all are posted")
    path, headers, body, _ = hook.got[7]
    headers = {key.lower(): value for key, value in headers.items()}
    equal((path, body), ("/hook?a=1", b"body 7"))
    equal((headers["content-type"], headers["x-message-id"], headers["x-shovel"], headers["x-tenant"]),
          ("text/plain", "m7", name, "blue"))
    equal(headers["authorization"], "Basic dXM6cHc=")
    equal(len({client for *_, client in hook.got}), 1, "connections")
    eventually(lambda: state(t, name)["forwarded"] == 20, "settled")
    equal(here.count(source), 0)
    assert "pw" not in state(t, name)["dest_uri"]
    equal(state(t, name)["dest_protocol"], "http")


@case("http refusal")
def a_message_that_is_not_accepted_comes_again(t):
    here, hook = under_test(t), Hook(t)
    hook.status = 503
    source = here.queue()
    shovel(t, {"src-uri": HERE, "src-queue": source, "dest-uri": hook.uri})
    here.publish(source, b"x")
    eventually(lambda: len(hook.got) >= 2, "tried again")
    hook.status = 204
    before = len(hook.got)
    eventually(lambda: len(hook.got) > before, "tried again")
    eventually(lambda: here.count(source) == 0, "done with")


# Parameters.


@case("parameters validation")
def what_is_wrong_is_told_as_rabbitmq_tells_it(t):
    def wrong(value, text):
        status, _, body = api(t).ask("PUT", "/parameters/shovel/%2F/wrong", {"value": value})
        equal(status, 400, str(body))
        equal(body, {"error": "bad_request", "reason": f"Validation failed\n\n{text}\n"})

    base = {"src-uri": HERE, "dest-uri": HERE}
    wrong(base, "Must specify 'src-exchange' or 'src-queue'")
    wrong({**base, "src-queue": "a", "src-exchange": "b"}, "Cannot specify 'src-exchange' and 'src-queue'")
    wrong({**base, "src-queue": "a", "dest-queue": "c", "dest-exchange": "b"},
          "Cannot specify 'dest-exchange' and 'dest-queue'")
    wrong({"dest-uri": HERE, "src-queue": "q"}, 'Key "src-uri" not found in wrong')
    wrong({**base, "src-queue": "q", "ack-mode": "no-ack", "delete-after": 1},
          "Cannot specify 'no-ack' and numerical 'delete-after'")
    wrong({**base, "src-queue": 7}, "src-queue should be binary, actually was 7")
    equal(api(t).ask("PUT", "/parameters/shovel/%2F/wrong", {"val": 1})[2]["error"], "key_missing")
    equal(api(t).ask("PUT", "/parameters/teleport/%2F/wrong", {"value": {}})[2]["reason"], "component teleport not found")
    equal(api(t).get("/parameters/shovel/%2F"), [])


@case("definitions parameters")
def definitions_carry_shovels(t):
    here = under_test(t)
    source, target = here.queue(), here.queue()
    value = {"src-uri": HERE, "src-queue": source, "dest-uri": HERE, "dest-queue": target}
    name = shovel(t, value)
    exported = api(t).get("/definitions/%2F")
    [known] = [known for known in exported["parameters"] if known["name"] == name]
    equal((known["component"], known["value"]), ("shovel", value))
    api(t).do(204, "DELETE", f"/parameters/shovel/%2F/{name}")
    api(t).do(204, "POST", "/definitions/%2F", {"parameters": [known]})
    here.publish(source, b"x")
    equal(here.fetch(target)[2], b"x")


@case("restart command")
def a_shovel_is_restarted_by_hand(t):
    there, here = rabbitmq(t), under_test(t)
    proxy = Proxy(t, there.host, there.port)
    source, target = there.queue(), here.queue()
    name = shovel(t, {"src-uri": there.uri(proxy.port), "src-queue": source, "dest-uri": HERE, "dest-queue": target})
    running(t, name)
    before = proxy.connects
    api(t).do(204, "DELETE", f"/shovels/vhost/%2F/{name}/restart")
    eventually(lambda: proxy.connects > before, "connected anew")
    running(t, name)
    there.publish(source, b"x")
    equal(here.fetch(target)[2], b"x")
    api(t).do(404, "DELETE", "/shovels/vhost/%2F/nothing/restart")


@case("rights vhosts")
def inside_the_broker_a_shovel_may_do_what_its_user_may(t):
    at = api(t)
    vhost, name = t.unique(), t.unique()
    at.do(201, "PUT", f"/vhosts/{vhost}", {})
    t.defer(lambda: at.ask("DELETE", f"/vhosts/{vhost}"))
    at.do(201, "PUT", f"/users/{name}", {"password": "p", "tags": "policymaker"})
    t.defer(lambda: at.ask("DELETE", f"/users/{name}"))
    rights = {"configure": "^mine", "write": "^(mine|amq\\.default)", "read": "^mine"}
    at.do(201, "PUT", f"/permissions/{vhost}/{name}", rights)
    own = api(t, name, "p")
    status, _, body = own.ask("PUT", f"/parameters/shovel/{vhost}/s", {"value": {
        "src-uri": f"amqp:///{vhost}", "src-queue": "mine", "dest-uri": "amqp://", "dest-queue": "q"}})
    equal((status, body["reason"]), (400, f'Validation failed\n\nuser "{name}" may not connect to vhost "/"\n'))
    inside = f"amqp:///{vhost}"
    shovel(t, {"src-uri": inside, "src-queue": "mine", "dest-uri": inside, "dest-queue": "mine-too"}, vhost, at=own,
           name="allowed")
    running(t, "allowed", vhost)
    shovel(t, {"src-uri": inside, "src-queue": "theirs", "dest-uri": inside, "dest-queue": "mine"}, vhost, at=own,
           name="refused")
    found = eventually(lambda: (found := state(t, "refused", vhost)) and "reason" in found and found, "it says why")
    assert "ACCESS_REFUSED" in found["reason"] and "theirs" in found["reason"], found
    at.do(204, "DELETE", f"/vhosts/{vhost}")
    eventually(lambda: state(t, "allowed", vhost) is None, "it is gone with its vhost")


if __name__ == "__main__":
    suite.run()
