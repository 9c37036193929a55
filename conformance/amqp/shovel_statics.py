"""Static shovels, those of the server's settings: cases of the suite `amqp-shovel`."""

from api import Api
from brokers import Broker, eventually, rabbitmq
from harness.ports import free_port
from harness.server import OwnServer
from harness.suite import Skip, case, equal


def with_shovels(t, text):
    """A server of its own with these settings, its API, and itself by AMQP."""
    if not t.start:
        raise Skip("needs --start, to start a server of its own")
    server = OwnServer(t, start={**t.start, "config": text, "words": [*t.start["words"], "--config", "{config}"]})
    at = Api(server.websocket)
    eventually(lambda: at.ask("GET", "/overview")[0] == 200, "the API answers")
    return server, at, Broker(t, *server.address)


def running(at, name):
    """Waits until it runs; what it says of itself."""
    def look():
        found = [known for known in at.get("/shovels") if known["name"] == name]
        return found and found[0]["state"] == "running" and found[0]

    return eventually(look, f"{name} runs")


@case("static uris declarations publish_fields add_forward_headers add_timestamp_header type")
def a_static_shovel_declares_what_it_says_and_carries_over_a_restart(t):
    there = rabbitmq(t)
    exchange, kept = there.exchange("fanout"), t.unique()
    there.connection.channel().queue_delete(kept)
    t.defer(lambda: there.connection.channel().queue_delete(kept))
    server, at, here = with_shovels(t, f"""
[[amqp.shovels]]
name = "in"
ack_mode = "on_confirm"
reconnect_delay = 1

[amqp.shovels.source]
protocol = "amqp091"
uris = ["amqp://guest:guest@127.0.0.1:{free_port()}", "{there.uri()}"]
queue = "{kept}"
prefetch_count = 10
declarations = [
    {{ method = "exchange.declare", exchange = "{exchange}", type = "fanout", durable = true }},
    {{ method = "queue.declare", queue = "{kept}", durable = true, arguments = {{ x-max-length = 1000 }} }},
    {{ method = "queue.bind", exchange = "{exchange}" }},
]

[amqp.shovels.destination]
uris = ["amqp://"]
declarations = [
    {{ method = "exchange.declare", exchange = "landed", type = "topic", durable = true }},
    {{ method = "queue.declare", queue = "target", durable = true }},
    {{ method = "queue.bind", queue = "target", exchange = "landed", routing_key = "from.#" }},
]
publish_properties = {{ app_id = "shovel" }}
publish_fields = {{ exchange = "landed", routing_key = "from.there" }}
add_forward_headers = true
add_timestamp_header = true
""")
    found = running(at, "in")
    equal((found["type"], found["src_queue"], found["dest_exchange"], found["dest_exchange_key"]),
          ("static", kept, "landed", "from.there"))
    assert "vhost" not in found and "guest:" not in found["src_uri"] and str(there.port) in found["src_uri"], found
    there.publish("any", b"x", exchange, message_id="m")
    method, properties, body = here.fetch("target")
    equal((method.exchange, method.routing_key, body), ("landed", "from.there", b"x"))
    equal((properties.message_id, properties.app_id), ("m", "shovel"))
    [label] = properties.headers["x-shovelled"]
    equal((label["shovel-type"], label["shovel-name"], label["src-uri"]), ("static", "in", found["src_uri"]))
    assert "shovel-vhost" not in label and "x-shovelled-timestamp" in properties.headers, properties.headers
    eventually(lambda: running(at, "in")["forwarded"] == 1, "it is counted")
    # It is nobody's: no parameter, no vhost, and seen by whoever sees everything.
    equal(at.get("/parameters/shovel"), [])
    equal(at.get("/shovels/%2F"), [])
    equal(at.ask("GET", "/shovels/vhost/%2F/in")[0], 404)
    equal(at.ask("DELETE", "/shovels/vhost/%2F/in")[0], 404)
    at.do(201, "PUT", "/users/u", {"password": "p", "tags": "management"})
    at.do(201, "PUT", "/permissions/%2F/u", {"configure": "", "write": "", "read": ".*"})
    equal(Api(server.websocket, "u", "p").get("/shovels"), [])
    server.restart()
    there.publish("any", b"late", exchange)
    here = Broker(t, *server.address)
    equal(here.fetch("target")[2], b"late")
    eventually(lambda: there.count(kept) == 0, "settled at the source")


@case("static queue unnamed ack_mode reconnect_delay publish_fields")
def a_static_shovel_waits_for_what_it_does_not_declare(t):
    there = rabbitmq(t)
    target = there.queue()
    _, at, here = with_shovels(t, f"""
[[amqp.shovels]]
name = "out"
ack_mode = "on-publish"
reconnect_delay = 1
source = {{ uris = ["amqp://"], queue = "later" }}
destination = {{ uris = ["{there.uri()}"], publish_fields = {{ routing_key = "{target}" }} }}

[[amqp.shovels]]
name = "unnamed"
ack_mode = "no-ack"
reconnect_delay = 1
[amqp.shovels.source]
uris = ["amqp://"]
queue = ""
declarations = [
    {{ method = "queue.declare", exclusive = true }},
    {{ method = "queue.bind", exchange = "amq.fanout" }},
]
[amqp.shovels.destination]
uris = ["{there.uri()}"]
publish_fields = {{ exchange = "", routing_key = "{target}" }}
""")

    def says_why():
        [found] = [known for known in at.get("/shovels") if known["name"] == "out"]
        return "later" in found.get("reason", "") and found

    assert "NOT_FOUND" in eventually(says_why, "it says why")["reason"]
    here.queue("later")
    running(at, "out")
    here.publish("later", b"kept its exchange")
    equal(there.fetch(target)[2], b"kept its exchange")
    running(at, "unnamed")
    here.publish("any", b"to all", "amq.fanout")
    equal(there.fetch(target)[2], b"to all")
    equal(sorted(known["name"] for known in at.get("/shovels")), ["out", "unnamed"])
