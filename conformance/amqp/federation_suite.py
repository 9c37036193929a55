"""Federated exchanges and queues, with a real RabbitMQ upstream.

`--target` is where AMQP is spoken, `--websocket` where the management API answers, `--peer` starts RabbitMQ.
"""

import itertools
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import pika  # noqa: E402
from api import api, quoted  # noqa: E402
from brokers import eventually, rabbitmq, under_test  # noqa: E402
from harness import suite  # noqa: E402
from harness.proxy import Proxy  # noqa: E402
from harness.suite import case, equal  # noqa: E402


def upstream(t, uri, vhost="/", **more):
    """An upstream that goes with the case; its name."""
    name = t.unique()
    path = f"/parameters/federation-upstream/{quoted(vhost)}/{name}"
    api(t).do(201, "PUT", path, {"value": {"uri": uri, "reconnect-delay": 1, **more}})
    t.defer(lambda: api(t).ask("DELETE", path))
    return name


def policy(t, pattern, kind, vhost="/", **definition):
    """A policy for exactly this name, that goes with the case; its path."""
    path = f"/policies/{quoted(vhost)}/{t.unique()}"
    definition = {key.replace("_", "-"): value for key, value in definition.items()}
    api(t).do(201, "PUT", path, {"pattern": f"^{pattern}$", "definition": definition, "apply-to": kind})
    t.defer(lambda: api(t).ask("DELETE", path))
    return path


def link(t, name, vhost="/"):
    """What the link of an exchange or a queue says of itself."""
    all_of = api(t).get(f"/federation-links/{quoted(vhost)}")
    found = [known for known in all_of if name in (known.get("exchange"), known.get("queue"))]
    return found[0] if found else None


def running(t, name, vhost="/"):
    """Waits until it runs."""
    return eventually(lambda: (found := link(t, name, vhost)) and found["status"] == "running" and found, "running")


def cluster(t):
    """What the server under test calls itself."""
    return api(t).get("/cluster-name")["name"]


def federated_exchange(t, there, here, kind="topic", uri=None, **more):
    """An exchange on both sides, and a queue bound to it here."""
    exchange = here.exchange(kind)
    there.exchange(kind, exchange)
    name = upstream(t, uri or there.uri(), **more)
    path = policy(t, exchange, "exchanges", federation_upstream=name)
    running(t, exchange)
    return exchange, name, path


@case("exchange x-received-from status")
def what_is_wanted_here_comes_from_upstream(t):
    there, here = rabbitmq(t), under_test(t)
    exchange, name, _ = federated_exchange(t, there, here)
    queue = here.queue()
    here.channel.queue_bind(queue, exchange, "a.#")
    wanted = f"federation: {exchange} -> {cluster(t)}"
    assert there.has("queue", wanted)
    eventually(lambda: _arrives(there, here, exchange, "a.b", queue), "bound upstream")
    there.publish("b.no", b"no", exchange)
    there.publish("a.yes", b"yes", exchange, headers={"own": 1}, message_id="m")
    method, properties, body = here.fetch(queue)
    equal((method.exchange, method.routing_key, body), (exchange, "a.yes", b"yes"))
    equal((properties.message_id, properties.headers["own"]), ("m", 1))
    [came] = properties.headers["x-received-from"]
    equal((came["exchange"], came["redelivered"]), (exchange, False))
    assert came["cluster-name"] and "guest" not in came["uri"], came
    equal(here.count(queue), 0)
    found = running(t, exchange)
    equal((found["type"], found["upstream"], found["upstream_exchange"], found["vhost"]),
          ("exchange", name, exchange, "/"))
    assert exchange in [known.get("exchange") for known in api(t).get("/federation-links")]
    assert exchange not in [known.get("exchange") for known in api(t).get("/federation-links/%2F/down")]
    eventually(lambda: there.count(wanted) == 0, "settled upstream")


_PROBES = itertools.count()


def _arrives(there, here, exchange, key, queue):
    """Whether a message that is published upstream comes to a queue here soon.

    Only the very message counts, so that none of those that were published before it is left to come.
    """
    probe = b"probe %d" % next(_PROBES)
    there.publish(key, probe, exchange)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        method, _, body = here.channel.basic_get(queue, auto_ack=True)
        if body == probe:
            return True
        if not method:
            time.sleep(0.02)
    return False


@case("trust-user-id")
def who_has_published_a_message_is_told_only_where_that_is_trusted(t):
    there, here = rabbitmq(t), under_test(t)
    for trusted in (True, False):
        exchange, _, _ = federated_exchange(t, there, here, "fanout", **{"trust-user-id": trusted})
        queue = here.queue()
        here.channel.queue_bind(queue, exchange)
        eventually(lambda: _arrives(there, here, exchange, "", queue), "it runs")
        there.publish("", b"mine", exchange, user_id="guest")
        body = None
        while body != b"mine":
            _, properties, body = here.fetch(queue)
        equal(properties.user_id, "guest" if trusted else None)


@case("exchange bindings")
def bindings_come_and_go_while_the_link_runs(t):
    there, here = rabbitmq(t), under_test(t)
    exchange, _, _ = federated_exchange(t, there, here, "direct")
    first, second = here.queue(), here.queue()
    here.channel.queue_bind(first, exchange, "k1")
    here.channel.queue_bind(second, exchange, "k2")
    eventually(lambda: _arrives(there, here, exchange, "k1", first), "the first binding")
    eventually(lambda: _arrives(there, here, exchange, "k2", second), "the second binding")
    here.channel.queue_unbind(first, exchange, "k1")
    inner = f"federation: {exchange} -> {cluster(t)}"
    eventually(lambda: _gone(there, exchange, inner, "k1"), "unbound upstream")
    eventually(lambda: _arrives(there, here, exchange, "k2", second), "the other one stays")


def _gone(there, exchange, queue, key):
    """Whether nothing upstream wants a message any more."""
    channel = there.connection.channel()
    channel.confirm_delivery()
    try:
        channel.basic_publish(exchange, key, b"probe", mandatory=True)
        return False
    except pika.exceptions.UnroutableError:
        return True
    finally:
        channel.close()


@case("exchange headers fanout")
def headers_and_fanout_exchanges_are_mirrored_with_their_arguments(t):
    there, here = rabbitmq(t), under_test(t)
    exchange, _, _ = federated_exchange(t, there, here, "headers")
    queue = here.queue()
    here.channel.queue_bind(queue, exchange, "", {"x-match": "all", "colour": "red"})

    def red():
        there.publish("", b"red", exchange, headers={"colour": "red"})
        there.publish("", b"blue", exchange, headers={"colour": "blue"})
        time.sleep(0.2)
        return here.count(queue)

    eventually(red, "mirrored")
    while here.count(queue):
        equal(here.fetch(queue)[2], b"red")
    exchange, _, _ = federated_exchange(t, there, here, "fanout")
    queue = here.queue()
    here.channel.queue_bind(queue, exchange)
    eventually(lambda: _arrives(there, here, exchange, "any", queue), "fanout")


@case("exchange max-hops")
def a_message_that_has_come_far_enough_stays(t):
    there, here = rabbitmq(t), under_test(t)
    exchange, _, _ = federated_exchange(t, there, here, "fanout")
    queue = here.queue()
    here.channel.queue_bind(queue, exchange)
    eventually(lambda: _arrives(there, here, exchange, "", queue), "it runs")
    there.publish("", b"far", exchange, headers={"x-received-from": [{"cluster-name": "elsewhere"}]})
    there.publish("", b"near", exchange)
    bodies = []
    while b"near" not in bodies:
        bodies.append(here.fetch(queue)[2])
    assert b"far" not in bodies, bodies
    inner = f"federation: {exchange} -> {cluster(t)}"
    eventually(lambda: there.count(inner) == 0, "it is done with")


@case("exchange link kill")
def what_is_published_while_the_link_is_down_comes_later(t):
    there, here = rabbitmq(t), under_test(t)
    proxy = Proxy(t, there.host, there.port)
    exchange, _, _ = federated_exchange(t, there, here, "topic", uri=there.uri(proxy.port))
    queue, gone, late = here.queue(), here.queue(), here.queue()
    here.channel.queue_bind(queue, exchange, "k")
    here.channel.queue_bind(gone, exchange, "gone")
    eventually(lambda: _arrives(there, here, exchange, "k", queue), "it runs")
    eventually(lambda: _arrives(there, here, exchange, "gone", gone), "bound")
    here.channel.queue_purge(queue)
    bodies = [b"%d" % n for n in range(2000)]
    for n, body in enumerate(bodies):
        there.publish("k", body, exchange)
        if n == 700:
            proxy.shut()
            eventually(lambda: link(t, exchange)["status"] != "running", "it is down")
            equal(link(t, exchange)["status"] in ("error", "starting"), True)
            here.channel.queue_unbind(gone, exchange, "gone")
            here.channel.queue_bind(late, exchange, "late")
        if n == 1400:
            proxy.reopen()
    here.drain(queue, bodies)
    running(t, exchange)
    eventually(lambda: _arrives(there, here, exchange, "late", late), "bound while it was down")
    eventually(lambda: _gone(there, exchange, "", "gone"), "unbound while it was down")


@case("exchange policy clean-up")
def without_its_policy_a_link_goes_and_cleans_up_upstream(t):
    there, here = rabbitmq(t), under_test(t)
    exchange, name, path = federated_exchange(t, there, here)
    inner = f"federation: {exchange} -> {cluster(t)}"
    assert there.has("queue", inner)
    assert there.has("exchange", f"{inner} A") or there.has("exchange", f"{inner} B")
    api(t).do(204, "DELETE", path)
    eventually(lambda: link(t, exchange) is None, "the link is gone")
    eventually(lambda: not there.has("queue", inner), "its queue is gone")
    equal((there.has("exchange", f"{inner} A"), there.has("exchange", f"{inner} B")), (False, False))


@case("upstream sets patterns errors")
def policies_name_upstreams_in_three_ways_and_bad_ones_say_why(t):
    there, here = rabbitmq(t), under_test(t)
    exchange = here.exchange("direct")
    good = upstream(t, there.uri())
    bad = upstream(t, there.uri(vhost="nowhere"))
    path = f"/parameters/federation-upstream-set/%2F/{t.unique()}"
    api(t).do(201, "PUT", path, {"value": [{"upstream": good, "max-hops": 2}, {"upstream": bad}]})
    t.defer(lambda: api(t).ask("DELETE", path))
    applied = policy(t, exchange, "exchanges", federation_upstream_set=path.rsplit("/", 1)[1])

    def states():
        links = api(t).get("/federation-links")
        return {known["upstream"]: known for known in links if known.get("exchange") == exchange}

    found = eventually(lambda: (s := states()) and len(s) == 2 and s[good]["status"] == "running"
                       and "error" in s[bad] and s, "one runs and one does not")
    assert "nowhere" in found[bad]["error"], found
    api(t).do(204, "DELETE", applied)
    policy(t, exchange, "exchanges", federation_upstream_pattern=f"^{good}$")
    eventually(lambda: list(states()) == [good], "by pattern")
    equal(api(t).ask("PUT", "/parameters/federation-upstream/%2F/x", {"value": {}})[2]["reason"],
          'Validation failed\n\nKey "uri" not found in x\n')
    both = {"pattern": ".*", "definition": {"federation-upstream": "a", "federation-upstream-set": "all"}}
    equal(api(t).ask("PUT", "/policies/%2F/both", both)[0], 400)


@case("exchange chain in-process")
def hops_and_bindings_go_through_several_brokers(t):
    names = [t.unique() for _ in range(3)]
    for name in names:
        api(t).do(201, "PUT", f"/vhosts/{name}", {})
        t.defer(lambda name=name: api(t).ask("DELETE", f"/vhosts/{name}"))
    first, middle, last = (under_test(t, name) for name in names)
    for broker in (first, middle, last):
        broker.channel.exchange_declare("x", "topic", durable=True)
    for up, down in zip(names, names[1:]):
        by = upstream(t, f"amqp:///{up}", vhost=down, **{"max-hops": 2})
        policy(t, "x", "exchanges", vhost=down, federation_upstream=by)
        running(t, "x", down)
    last.channel.queue_declare("q", durable=True)
    last.channel.queue_bind("q", "x", "k")
    eventually(lambda: _arrives(first, last, "x", "k", "q"), "over two links")
    last.channel.queue_purge("q")
    first.publish("k", b"far", "x")
    _, properties, _ = last.fetch("q")
    equal([came["vhost"] for came in properties.headers["x-received-from"]], [names[1], names[0]])


def two_vhosts(t):
    """Two vhosts of this broker, each with a client: an exchange `x` in both, and a queue `q` in the second."""
    names = [t.unique(), t.unique()]
    for name in names:
        api(t).do(201, "PUT", f"/vhosts/{name}", {})
        t.defer(lambda name=name: api(t).ask("DELETE", f"/vhosts/{name}"))
    there, here = (under_test(t, name) for name in names)
    for broker in (there, here):
        broker.channel.exchange_declare("x", "topic", durable=True)
    here.channel.queue_declare("q", durable=True)
    return zip(names, (there, here))


@case("exchange policy toggled in-process")
def a_link_begins_when_the_one_before_it_has_ended(t):
    (up, there), (down, here) = two_vhosts(t)
    here.channel.queue_bind("q", "x", "k")
    by = upstream(t, f"amqp:///{up}", vhost=down)
    path = f"/policies/{down}/p"
    body = {"pattern": "^x$", "definition": {"federation-upstream": by}, "apply-to": "exchanges"}
    api(t).do(201, "PUT", path, body)
    running(t, "x", down)
    # One that goes takes away what it has made upstream: not what the next one has made.
    for _ in range(8):
        api(t).do(204, "DELETE", path)
        eventually(lambda: link(t, "x", down) is None, "gone")
        api(t).do(201, "PUT", path, body)
        running(t, "x", down)
    for prefetch in range(1, 9):
        value = {"uri": f"amqp:///{up}", "reconnect-delay": 1, "prefetch-count": prefetch}
        api(t).do(204, "PUT", f"/parameters/federation-upstream/{down}/{by}", {"value": value})
    eventually(lambda: _arrives(there, here, "x", "k", "q"), "it runs")
    here.channel.queue_purge("q")
    bodies = [b"%d" % n for n in range(200)]
    for body in bodies:
        there.publish("k", body, "x")
    equal(here.drain("q", bodies), bodies)
    time.sleep(0.3)
    equal(here.count("q"), 0, "one link, and not two")


@case("exchange bindings at once in-process")
def a_binding_is_there_upstream_soon_after_it_is_made_here(t):
    (up, there), (down, here) = two_vhosts(t)
    by = upstream(t, f"amqp:///{up}", vhost=down)
    policy(t, "x", "exchanges", vhost=down, federation_upstream=by)
    running(t, "x", down)

    def keys():
        return {known["routing_key"] for known in api(t).get(f"/exchanges/{up}/x/bindings/source")}

    for key in ("a", "b.#"):
        here.channel.queue_bind("q", "x", key)
        eventually(lambda key=key: key in keys(), f"{key} upstream")
    here.channel.queue_unbind("q", "x", "a")
    eventually(lambda: keys() == {"b.#"}, "gone upstream")


def federated_queue(t, there, here, **more):
    """A queue on both sides."""
    queue = here.queue()
    there.queue(queue)
    name = upstream(t, more.pop("uri", None) or there.uri(), **more)
    policy(t, queue, "queues", federation_upstream=name)
    running(t, queue)
    return queue, name


@case("queue demand")
def a_queue_pulls_only_while_somebody_waits_here(t):
    there, here = rabbitmq(t), under_test(t)
    queue, name = federated_queue(t, there, here, **{"prefetch-count": 5})
    for n in range(40):
        there.publish(queue, b"%d" % n)
    time.sleep(0.8)
    equal((there.count(queue), here.count(queue)), (40, 0), "nobody waits")
    got = []

    def take(channel, method, _, body):
        got.append(body)
        channel.basic_ack(method.delivery_tag)

    tag = here.channel.basic_consume(queue, take)
    end = time.monotonic() + 20
    while len(got) < 40 and time.monotonic() < end:
        here.connection.process_data_events(0.1)
    equal(sorted(got, key=int), [b"%d" % n for n in range(40)])
    here.channel.basic_cancel(tag)
    eventually(lambda: there.channel.queue_declare(queue, passive=True).method.consumer_count == 0, "the link pulls no more")
    there.publish(queue, b"stays")
    time.sleep(0.6)
    equal((there.count(queue), here.count(queue)), (1, 0), "nobody waits any more")
    found = running(t, queue)
    equal((found["type"], found["upstream"], found["upstream_queue"]), ("queue", name, queue))
    there.channel.queue_purge(queue)


@case("queue local first")
def what_is_here_is_taken_before_what_is_upstream(t):
    there, here = rabbitmq(t), under_test(t)
    queue, _ = federated_queue(t, there, here)
    there.publish(queue, b"there")
    for n in range(3):
        here.publish(queue, b"here %d" % n)
    here.channel.basic_qos(prefetch_count=1)
    got = []
    here.channel.basic_consume(queue, lambda channel, method, _, body: got.append((method.delivery_tag, body)))
    for n in range(3):
        end = time.monotonic() + 10
        while len(got) <= n and time.monotonic() < end:
            here.connection.process_data_events(0.1)
        equal(got[n][1], b"here %d" % n)
        # Held for a while: nothing comes from upstream meanwhile.
        here.connection.process_data_events(0.4)
        equal(there.count(queue), 1)
        here.channel.basic_ack(got[n][0])
    end = time.monotonic() + 10
    while len(got) < 4 and time.monotonic() < end:
        here.connection.process_data_events(0.1)
    equal(got[3][1], b"there")


@case("queue link kill")
def a_queue_loses_nothing_when_the_link_breaks(t):
    there, here = rabbitmq(t), under_test(t)
    proxy = Proxy(t, there.host, there.port)
    queue, _ = federated_queue(t, there, here, uri=there.uri(proxy.port), **{"prefetch-count": 50})
    bodies = [b"%d" % n for n in range(1500)]
    for body in bodies:
        there.publish(queue, body)
    got = set()

    def take(channel, method, _, body):
        got.add(body)
        channel.basic_ack(method.delivery_tag)
        if len(got) in (300, 800):
            proxy.cut()

    here.channel.basic_consume(queue, take)
    end = time.monotonic() + 40
    while len(got) < len(bodies) and time.monotonic() < end:
        here.connection.process_data_events(0.1)
    equal(got, set(bodies))
    eventually(lambda: there.count(queue) == 0, "settled upstream")
    assert proxy.connects >= 2, proxy.connects


if __name__ == "__main__":
    suite.run()
