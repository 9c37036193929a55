"""The management API as Go programs use it: the requests of rabbit-hole 2 and 3, by which the Terraform provider of
RabbitMQ manages one, in the order in which that provider makes them, and answers that these decode.

A Go program decodes into types: a number with a point where an integer is expected ends it, and so does a text where a
list is. The shapes below say of each field what it is decoded into. Fields that are not named may be anything.
"""

import pathlib
import sys
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import pika  # noqa: E402
from api import api  # noqa: E402
from harness import suite  # noqa: E402
from harness.suite import case, equal, eventually  # noqa: E402


class Int:
    """An integer of Go, of so many bits, with or without sign; `text`: it may be in quotes too, as a port is."""

    def __init__(self, bits=64, signed=True, text=False):
        self.least = -(2 ** (bits - 1)) if signed else 0
        self.most = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.text = text

    def check(self, value, at):
        if self.text and isinstance(value, str):
            value = int(value)
        assert type(value) is int and self.least <= value <= self.most, f"{at} is no integer: {value!r}"


class Either:
    """What decodes itself from several kinds of values."""

    def __init__(self, *kinds):
        self.kinds = kinds

    def check(self, value, at):
        wrong = []
        for kind in self.kinds:
            try:
                return decode(kind, value, at)
            except AssertionError as error:
                wrong.append(str(error))
        raise AssertionError("; or ".join(wrong))


class Map:
    """Keys with values of one kind."""

    def __init__(self, kind=object):
        self.kind = kind

    def check(self, value, at):
        assert isinstance(value, dict), f"{at} is no object: {value!r}"
        for key, item in value.items():
            decode(self.kind, item, f"{at}.{key}")


def decode(kind, value, at="the answer"):
    """Fails where Go would; `null` leaves a field as it was."""
    if value is None or kind is object:
        return value
    if isinstance(kind, (Int, Either, Map)):
        kind.check(value, at)
    elif isinstance(kind, dict):
        assert isinstance(value, dict), f"{at} is no object: {value!r}"
        for name, of in kind.items():
            if name in value:
                decode(of, value[name], f"{at}.{name}")
    elif isinstance(kind, list):
        assert isinstance(value, list), f"{at} is no list: {value!r}"
        for number, item in enumerate(value):
            decode(kind[0], item, f"{at}[{number}]")
    elif kind is float:
        assert type(value) in (int, float), f"{at} is no number: {value!r}"
    else:
        assert type(value) is kind, f"{at} is no {kind.__name__}: {value!r}"
    return value


INT, UINT, PORT = Int(), Int(signed=False), Int(32, text=True)
RATE = {"rate": float, "samples": [{"sample": INT, "timestamp": INT}]}
#: A set of names: a list, or text with commas.
TAGS = Either([str], str)


def counted(kind, *names):
    """Numbers with their rates."""
    return {name: kind for name in names} | {f"{name}_details": RATE for name in names}


LENGTHS = counted(INT, "messages", "messages_ready", "messages_unacknowledged")
STATS = counted(INT, "publish", "deliver", "deliver_noack", "deliver_get", "redeliver", "get", "get_no_ack", "get_empty",
                "ack", "return_unroutable", "drop_unroutable", "confirm", "publish_in", "publish_out")
OCTETS = counted(UINT, "recv_oct", "send_oct") | {"recv_cnt": UINT, "send_cnt": UINT, "send_pend": UINT}
CONTEXT = {"node": str, "description": str, "path": str, "port": PORT, "ignore_in_use": bool}
NAMED = {"name": str, "description": str, "enabled": bool, "version": str}
OVERVIEW = {
    "management_version": str, "statistics_level": str, "rabbitmq_version": str, "product_name": str,
    "product_version": str, "erlang_version": str, "erlang_full_version": str, "cluster_name": str, "rates_mode": str,
    "exchange_types": [NAMED], "message_stats": STATS, "queue_totals": LENGTHS, "node": str, "statistics_db_node": str,
    "object_totals": {name: INT for name in ("consumers", "queues", "exchanges", "connections", "channels")},
    "listeners": [{"node": str, "protocol": str, "ip_address": str, "port": PORT, "tls": bool}], "contexts": [CONTEXT],
    "churn_rates": counted(INT, "connection_created", "connection_closed", "channel_created", "channel_closed",
                           "queue_declared", "queue_created", "queue_deleted"),
    "statistics_db_event_queue": INT, "sample_retention_policies": Map([INT]), "cluster_tags": Map(str),
}
NODE = {
    "name": str, "type": str, "running": bool, "os_pid": str, "mem_alarm": bool, "disk_free_alarm": bool,
    "run_queue": Int(32, False), "processors": Int(32, False), "uptime": UINT, "being_drained": bool,
    "exchange_types": [NAMED], "auth_mechanisms": [NAMED], "applications": [NAMED], "contexts": [CONTEXT],
    "partitions": [str], "enabled_plugins": [str], "rates_mode": str, "net_ticktime": INT, "config_files": [str],
    "log_files": [str], "db_dir": str, "mem_calculation_strategy": str, "cluster_links": [object],
    "metrics_gc_queue_length": Map(INT), "disk_free_limit": INT, "mem_limit": INT, "fd_total": INT, "sockets_total": INT,
    "proc_total": INT, **counted(INT, "fd_used", "sockets_used", "mem_used", "disk_free", "proc_used"),
}
CHANNEL_DETAILS = {"connection_name": str, "name": str, "node": str, "number": UINT, "peer_host": str, "peer_port": PORT,
                   "user": str}
CONSUMER = {
    "arguments": Map(), "channel_details": Either(CHANNEL_DETAILS, [object]), "ack_required": bool, "active": bool,
    "active_status": str, "activity_status": str, "consumer_tag": str, "exclusive": bool, "prefetch_count": UINT,
    "queue": {"name": str, "vhost": str},
}
QUEUE = {
    "name": str, "type": str, "vhost": str, "durable": bool, "auto_delete": bool, "exclusive": bool, "arguments": Map(),
    "node": str, "state": str, "leader": str, "members": [str], "online": [str], "memory": INT, "consumers": INT,
    "consumer_details": [CONSUMER], "consumer_utilisation": float, "exclusive_consumer_tag": str, "policy": str,
    "garbage_collection": {name: INT for name in ("fullsweep_after", "max_heap_size", "min_bin_vheap_size",
                                                  "min_heap_size", "minor_gcs")},
    "messages_persistent": INT, "messages_ram": INT, "message_stats": STATS, "active_consumers": INT,
    "owner_pid_details": {"name": str, "peer_port": PORT, "peer_host": str}, "backing_queue_status": Map(), **LENGTHS,
    **{f"message_bytes{part}": INT for part in ("", "_persistent", "_ram", "_ready", "_unacknowledged")},
}
PAGE = {"page": INT, "page_count": INT, "page_size": INT, "filtered_count": INT, "item_count": INT, "total_count": INT}
EXCHANGE = {"name": str, "vhost": str, "type": str, "durable": bool, "auto_delete": bool, "internal": bool,
            "arguments": Map(), "message_stats": STATS, "incoming": [object], "outgoing": [object]}
BINDING = {"source": str, "vhost": str, "destination": str, "destination_type": str, "routing_key": str,
           "arguments": Map(), "properties_key": str}
CONNECTION = {
    **{name: str for name in ("name", "node", "state", "type", "host", "peer_host", "last_blocked_by", "last_blocked_age",
                              "peer_cert_subject", "peer_cert_validity", "peer_cert_issuer", "ssl_protocol",
                              "ssl_key_exchange", "ssl_cipher", "ssl_hash", "protocol", "user", "vhost", "auth_mechanism",
                              "user_provided_name")},
    "channels": INT, "port": PORT, "peer_port": PORT, "ssl": bool, "timeout": INT, "frame_max": INT, "channel_max": INT,
    "client_properties": Map(), "connected_at": UINT, **OCTETS,
}
CHANNEL = {
    **{name: str for name in ("name", "idle_since", "user", "vhost", "node", "state")},
    **{name: INT for name in ("number", "prefetch_count", "global_prefetch_count", "consumer_count",
                              "messages_unacknowledged", "messages_unconfirmed", "messages_uncommitted",
                              "acks_uncommitted")},
    "confirm": bool, "transactional": bool, "client_flow_blocked": bool, "message_stats": STATS,
    "connection_details": {"name": str, "peer_port": PORT, "peer_host": str},
}
VHOST = {"name": str, "description": str, "tags": TAGS, "default_queue_type": str, "tracing": bool,
         "cluster_state": Map(str), "message_stats": STATS, **LENGTHS, **OCTETS}
USER = {"name": str, "password_hash": str, "hashing_algorithm": str, "tags": TAGS, "limits": Map(INT)}
PERMISSION = {"user": str, "vhost": str, "configure": str, "write": str, "read": str}
TOPIC_PERMISSION = {"user": str, "vhost": str, "exchange": str, "write": str, "read": str}
POLICY = {"vhost": str, "pattern": str, "apply-to": str, "name": str, "priority": INT, "definition": Map()}
#: Addresses: one, or a list.
URIS = Either([str], str)
SHOVEL = {
    "name": str, "vhost": str, "component": str,
    "value": {
        "dest-uri": URIS, "src-uri": URIS, "delete-after": Either(str, INT), "src-delete-after": Either(str, INT),
        "add-forward-headers": bool, "dest-add-forward-headers": bool, "dest-add-timestamp-header": bool,
        "dest-publish-properties": Map(), "prefetch-count": INT, "reconnect-delay": INT, "src-prefetch-count": INT,
        **{name: str for name in ("ack-mode", "dest-exchange", "dest-exchange-key", "dest-protocol", "dest-queue",
                                  "src-exchange", "src-exchange-key", "src-protocol", "src-queue")},
    },
}
SHOVEL_STATUS = {"name": str, "vhost": str, "type": str, "state": str, "timestamp": str, "node": str}
UPSTREAM = {
    "name": str, "vhost": str, "component": str,
    "value": {
        "uri": URIS, "expires": INT, "message-ttl": Int(32), "max-hops": INT, "prefetch-count": INT,
        "reconnect-delay": INT, "ack-mode": str, "trust-user-id": bool, "exchange": str, "queue": str,
    },
}
DEFINITIONS = {
    "rabbit_version": str, "rabbitmq_version": str, "product_name": str, "product_version": str,
    "users": [USER], "vhosts": [{"name": str, "description": str, "tags": TAGS}], "permissions": [PERMISSION],
    "topic_permissions": [TOPIC_PERMISSION], "policies": [POLICY], "queues": [QUEUE], "exchanges": [EXCHANGE],
    "bindings": [BINDING], "parameters": [{"component": str, "vhost": str, "name": str, "value": object}],
    "global_parameters": [{"name": str, "value": object}],
}


def escaped(name):
    """As Go's `url.PathEscape` has it: it leaves more as it is than others do."""
    return urllib.parse.quote(name, safe="$&+:=@")


class Hole:
    """rabbit-hole's requests: a body, and its type, also where there is none."""

    def __init__(self, t):
        self.api = api(t)

    def get(self, kind, path):
        """What a GET is decoded into."""
        status, headers, body = self.api.ask("GET", path)
        equal(status, 200, f"GET {path}: {body}")
        assert headers["Content-Type"].startswith("application/json"), headers["Content-Type"]
        return decode(kind, body)

    def missing(self, path):
        """404, with the two texts that make up its error."""
        status, _, body = self.api.ask("GET", path)
        equal(status, 404, path)
        decode({"error": str, "reason": str}, body)

    def put(self, path, body, status=201):
        """PUT, and POST of what has no name yet."""
        return self.api.do(status, "PUT", path, body)

    def delete(self, path):
        """DELETE has a body without anything in it."""
        status, _, body = self.api.ask("DELETE", path, b"")
        equal(status, 204, f"DELETE {path}: {body}")


@case("overview nodes connections channels consumers")
def what_there_is_to_see_is_decoded(t):
    hole = Hole(t)
    name = t.unique()
    connection = pika.BlockingConnection(pika.ConnectionParameters(
        t.host, t.port, client_properties={"connection_name": name, "nested": {"number": 5}}))
    t.defer(connection.close)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.basic_qos(prefetch_count=7)
    own = channel.queue_declare("", exclusive=True, arguments={"x-max-priority": 3}).method.queue
    for kind in ("quorum", "stream"):
        channel.queue_declare(f"{name}-{kind}", durable=True, arguments={"x-queue-type": kind})
        t.defer(lambda kind=kind: hole.api.ask("DELETE", f"/queues/%2F/{name}-{kind}"))
        channel.basic_publish("", f"{name}-{kind}", b"x")
    got = []
    channel.basic_consume(own, lambda *message: got.append(message))
    channel.basic_consume(f"{name}-stream", lambda *message: got.append(message), arguments={"x-stream-offset": "first"})
    channel.basic_publish("", own, b"x" * 50)
    while len(got) < 2:
        connection.process_data_events(0.1)
    before = "?lengths_age=60&lengths_incr=5&msg_rates_age=60&msg_rates_incr=5&data_rates_age=60&data_rates_incr=5"
    for query in ("", before):
        overview = hole.get(OVERVIEW, f"/overview{query}")
        hole.get([NODE], f"/nodes{query}")
        hole.get(NODE, f"/nodes/{escaped(overview['node'])}{query}")
        seen = [known for known in hole.get([CONNECTION], f"/connections{query}") if known["user_provided_name"] == name]
        equal(len(seen), 1)
        hole.get(CONNECTION, f"/connections/{escaped(seen[0]['name'])}{query}")
        of = hole.get([CHANNEL], f"/connections/{escaped(seen[0]['name'])}/channels{query}")
        equal([(known["prefetch_count"], known["consumer_count"], known["confirm"]) for known in of], [(7, 2, True)])
        hole.get(CHANNEL, f"/channels/{escaped(of[0]['name'])}{query}")
        hole.get([CHANNEL], f"/channels{query}")
        hole.get([CHANNEL], f"/vhosts/%2F/channels{query}")
        hole.get([CONNECTION], f"/vhosts/%2F/connections{query}")
        for queue in (own, f"{name}-quorum", f"{name}-stream"):
            found = hole.get(QUEUE, f"/queues/%2F/{escaped(queue)}{query}")
            equal(found["messages"], 1, queue)
        hole.get([QUEUE], f"/queues{query}")
        hole.get([QUEUE], f"/queues/%2F{query}")
        hole.get([VHOST], f"/vhosts{query}")
        hole.get([EXCHANGE], f"/exchanges{query}")
    consumers = [known for known in hole.get([CONSUMER], "/consumers") if known["queue"]["name"] in (own, f"{name}-stream")]
    equal(len(consumers), 2)
    hole.get([CONSUMER], "/consumers/%2F")
    page = hole.get(PAGE | {"items": [QUEUE]}, f"/queues?page=1&page_size=10&name={name}")
    equal(page["filtered_count"], 2)
    hole.get([{"name": str, "state": str, "stability": str, "provided_by": str, "desc": str, "doc_url": str}],
             "/feature-flags")
    hole.get([object], "/deprecated-features")
    hole.get({"name": str}, "/cluster-name")
    hole.get({"name": str, "tags": TAGS}, "/whoami")
    for check in ("alarms", "local-alarms", "certificate-expiration/1/days", "virtual-hosts", "node-is-quorum-critical",
                  f"port-listener/{t.port}", "protocol-listener/amqp"):
        hole.get({"status": str, "reason": str}, f"/health/checks/{check}")
    hole.get({"status": str}, "/aliveness-test/%2F")
    hole.get(DEFINITIONS, "/definitions")


# Terraform: each resource is made, read, changed and read again, imported by its name, and deleted; one that somebody
# else has deleted is seen to be gone.


@case("rabbitmq_vhost")
def terraform_makes_changes_and_deletes_a_vhost(t):
    hole = Hole(t)
    name = f"{t.unique()}/with a slash"
    path, limits = f"/vhosts/{escaped(name)}", f"/vhost-limits/{escaped(name)}"
    t.defer(lambda: hole.api.ask("DELETE", path))
    hole.put(path, {"description": "first", "tags": "", "default_queue_type": "quorum", "tracing": False})
    for limit, value in (("max-connections", 100), ("max-queues", 50)):
        hole.put(f"{limits}/{limit}", {"value": value}, 204)
    found = hole.get(VHOST, path)
    equal([found[field] for field in ("name", "description", "default_queue_type", "tracing")],
          [name, "first", "quorum", False])
    shape = [{"vhost": str, "value": Map(INT)}]
    equal(hole.get(shape, limits), [{"vhost": name, "value": {"max-connections": 100, "max-queues": 50}}])
    # An update takes all limits away, those that there are not too, and sets some again.
    hole.put(path, {"description": "second", "tags": "", "default_queue_type": "quorum", "tracing": False}, 204)
    for _ in range(2):
        for limit in ("max-connections", "max-queues"):
            hole.delete(f"{limits}/{limit}")
    equal(hole.get(VHOST, path)["description"], "second")
    for known in hole.get(shape, limits):
        equal(known["value"], {})
    hole.put(f"{limits}/max-queues", {"value": 5}, 204)
    equal(hole.get(shape, limits)[0]["value"], {"max-queues": 5})
    hole.delete(path)
    hole.missing(path)
    hole.missing(limits)


@case("rabbitmq_user rabbitmq_permissions rabbitmq_topic_permissions")
def terraform_makes_users_with_their_permissions(t):
    hole = Hole(t)
    name = t.unique()
    user = f"/users/{name}"
    t.defer(lambda: hole.api.ask("DELETE", user))
    hole.missing(user)
    hole.put(user, {"name": "", "tags": "administrator,management", "password": "first"})
    equal(hole.get(USER, user)["tags"], ["administrator", "management"])
    hole.put(user, {"name": "", "tags": "", "password": "second"}, 204)
    equal(hole.get(USER, user)["tags"], [])
    hole.put(user, {"name": "", "tags": ["monitoring"], "password": "second"}, 204)
    hole.get([USER], "/users/")
    permissions = f"/permissions/%2F/{name}"
    hole.missing(permissions)
    hole.put(permissions, {"configure": ".*", "write": ".*", "read": ""})
    equal(hole.get(PERMISSION, permissions),
          {"user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": ""})
    hole.put(permissions, {"configure": "", "write": "", "read": "^r"}, 204)
    hole.get([PERMISSION], f"{user}/permissions")
    topics = f"/topic-permissions/%2F/{name}"
    hole.missing(topics)
    for exchange in ("amq.topic", "amq.direct"):
        status, _, answer = hole.api.ask("PUT", topics, {"exchange": exchange, "write": ".*", "read": "^{username}"})
        assert status in (201, 204), answer
    equal({known["exchange"] for known in hole.get([TOPIC_PERMISSION], topics)}, {"amq.direct", "amq.topic"})
    # An update deletes them all first.
    hole.delete(topics)
    hole.missing(topics)
    hole.delete(permissions)
    hole.missing(permissions)
    hole.delete(user)
    hole.missing(user)
    equal(hole.api.ask("DELETE", user, b"")[0], 404, "gone already, which is what the provider wants")


@case("rabbitmq_exchange rabbitmq_queue rabbitmq_binding")
def terraform_makes_a_topology(t):
    hole = Hole(t)
    at = t.unique()
    hole.put(f"/vhosts/{at}", {"description": "", "tags": "", "tracing": False})
    t.defer(lambda: hole.api.ask("DELETE", f"/vhosts/{at}"))
    for exchange, settings in (("events", {"type": "topic", "durable": True, "arguments": {}}),
                               ("later", {"type": "x-delayed-message", "durable": True, "auto_delete": True,
                                          "arguments": {"x-delayed-type": "direct"}})):
        path = f"/exchanges/{at}/{exchange}"
        hole.missing(path)
        hole.put(path, settings)
        found = hole.get(EXCHANGE, path)
        equal({key: found[key] for key in settings}, settings)
    arguments = {"x-queue-type": "quorum", "x-message-ttl": 5000, "x-overflow": "reject-publish",
                 "x-single-active-consumer": True}
    for queue, settings in (("work", {"type": "quorum", "durable": True, "arguments": arguments}),
                            ("e mail/in", {"type": "", "durable": True, "auto_delete": True, "arguments": {}})):
        path = f"/queues/{at}/{escaped(queue)}"
        hole.missing(path)
        hole.put(path, settings)
        found = hole.get(QUEUE, path)
        equal((found["name"], found["vhost"], found["durable"], found["auto_delete"], found["arguments"]),
              (queue, at, True, settings.get("auto_delete", False), settings["arguments"]))
    bindings = [("q", "work", "a.#", {}), ("q", "work", "", {}), ("q", "e mail/in", "with~tilde/and %", {}),
                ("q", "work", "a.#", {"number": 5, "text": "x", "flag": True, "list": [1, "two"]}), ("e", "later", "k", {})]
    keys = []
    for kind, destination, key, given in bindings:
        between = f"/bindings/{at}/e/events/{kind}/{escaped(destination)}"
        body = {"source": "events", "vhost": "", "destination": destination, "routing_key": key, "arguments": given,
                "destination_type": "queue" if kind == "q" else "exchange", "properties_key": ""}
        status, headers, answer = hole.api.ask("POST", between, body)
        equal(status, 201, answer)
        # The last part of where it is, decoded, is its key.
        properties = urllib.parse.unquote(headers["Location"].split("/")[-1])
        found = [known for known in hole.get([BINDING], between) if known["properties_key"] == properties]
        equal([(known["source"], known["vhost"], known["destination"], known["destination_type"], known["routing_key"],
                known["arguments"]) for known in found],
              [("events", at, destination, body["destination_type"], key, given)], properties)
        keys.append((between, properties))
    equal(len({key for _, key in keys}), len(keys), "each has a key of its own")
    hole.get([BINDING], f"/bindings/{at}")
    hole.get([BINDING], f"/queues/{at}/work/bindings")
    hole.get([BINDING], f"/exchanges/{at}/events/bindings/source")
    hole.get([BINDING], f"/exchanges/{at}/later/bindings/destination")
    for between, properties in keys:
        hole.delete(f"{between}/{escaped(properties)}")
        assert properties not in [known["properties_key"] for known in hole.get([BINDING], between)], properties
    equal(hole.api.ask("DELETE", f"{keys[0][0]}/{escaped(keys[0][1])}", b"")[0], 404)
    for path in (f"/queues/{at}/work", f"/queues/{at}/{escaped('e mail/in')}", f"/exchanges/{at}/events"):
        hole.delete(path)
        hole.missing(path)


@case("rabbitmq_policy rabbitmq_operator_policy")
def terraform_makes_policies(t):
    hole = Hole(t)
    name = t.unique()
    for kind, definition, other in (
        ("policies", {"max-length": 10, "overflow": "reject-publish", "dead-letter-exchange": "x"}, {"max-length": 20}),
        ("operator-policies", {"max-length": 10, "message-ttl": 5000}, {"expires": 3600000}),
    ):
        path = f"/{kind}/%2F/{name}"
        t.defer(lambda path=path: hole.api.ask("DELETE", path))
        hole.missing(path)
        body = {"vhost": "/", "pattern": f"^{name}", "apply-to": "queues", "name": name, "definition": definition,
                "priority": 7}
        hole.put(path, body)
        equal(hole.get(POLICY, path), body)
        hole.put(path, body | {"definition": other, "priority": 0, "apply-to": "classic_queues"}, 204)
        found = hole.get(POLICY, path)
        equal((found["definition"], found["priority"], found["apply-to"]), (other, 0, "classic_queues"))
        hole.get([POLICY], f"/{kind}/%2F")
        hole.get([POLICY], f"/{kind}")
        hole.delete(path)
        hole.missing(path)


@case("rabbitmq_shovel rabbitmq_federation_upstream")
def terraform_makes_shovels_and_upstreams(t):
    hole = Hole(t)
    name = t.unique()
    for queue in ("from", "to"):
        hole.put(f"/queues/%2F/{name}-{queue}", {"type": "", "durable": True})
        t.defer(lambda queue=queue: hole.api.ask("DELETE", f"/queues/%2F/{name}-{queue}"))
    path = f"/parameters/shovel/%2F/{name}"
    t.defer(lambda: hole.api.ask("DELETE", path))
    hole.missing(path)
    value = {"dest-uri": ["amqp:///%2f"], "src-uri": ["amqp:///%2f"], "ack-mode": "on-confirm", "dest-protocol": "amqp091",
             "dest-queue": f"{name}-to", "reconnect-delay": 1, "src-protocol": "amqp091", "src-queue": f"{name}-from",
             "src-delete-after": "never", "src-prefetch-count": 10, "dest-publish-properties": {"delivery_mode": 2}}
    hole.put(path, {"value": value})
    found = hole.get(SHOVEL, path)
    equal((found["name"], found["vhost"], found["component"], found["value"]), (name, "/", "shovel", value))
    hole.get([SHOVEL], "/parameters/shovel")
    hole.get([SHOVEL], "/parameters/shovel/%2F")
    eventually(lambda: [known["state"] for known in hole.get([SHOVEL_STATUS], "/shovels/%2F")
                        if known["name"] == name] == ["running"], "it runs")
    # One that ends by itself says after how many.
    hole.put(path, {"value": value | {"src-delete-after": 1000}}, 204)
    equal(hole.get(SHOVEL, path)["value"]["src-delete-after"], 1000)
    hole.delete(path)
    hole.missing(path)
    path = f"/parameters/federation-upstream/%2F/{name}"
    t.defer(lambda: hole.api.ask("DELETE", path))
    hole.missing(path)
    value = {"uri": ["amqp://127.0.0.1:1/%2f"], "max-hops": 1, "prefetch-count": 1000, "reconnect-delay": 5,
             "ack-mode": "on-confirm", "trust-user-id": False, "message-ttl": 60000, "expires": 3600000}
    body = {"name": name, "vhost": "/", "component": "federation-upstream", "value": value}
    hole.put(path, body)
    equal({key: found for key, found in hole.get(UPSTREAM, path).items() if key in body}, body)
    value = value | {"exchange": "x", "queue": "q", "trust-user-id": True}
    hole.put(path, body | {"value": value}, 204)
    equal(hole.get(UPSTREAM, path)["value"], value)
    hole.get([UPSTREAM], "/parameters/federation-upstream")
    hole.get([UPSTREAM], "/parameters/federation-upstream/%2F")
    hole.get([Map()], "/federation-links/%2F")
    hole.delete(path)
    hole.missing(path)


@case("errors")
def errors_are_decoded(t):
    hole = Hole(t)
    for status, method, path, body in ((400, "PUT", "/queues/%2F/x", {"durable": "perhaps"}),
                                       (404, "GET", "/queues/nowhere/x", None), (405, "PATCH", "/queues", {})):
        found, _, answer = hole.api.ask(method, path, body)
        equal(found, status, path)
        decode({"error": str, "reason": str}, answer)


if __name__ == "__main__":
    suite.run()
