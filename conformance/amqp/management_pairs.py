"""What went between one channel and one exchange or queue, and what a queue takes: cases of the suite
`amqp-management`.
"""

import pika
from api import api, quoted
from harness.suite import case, equal, eventually


def opened(t, name):
    """A connection with this name that ends with the case."""
    parameters = pika.ConnectionParameters(t.host, t.port, client_properties={"connection_name": name})
    connection = pika.BlockingConnection(parameters)
    t.defer(lambda: connection.is_open and connection.close())
    return connection


def channels_of(t, name):
    """The channels of the connection with this name."""
    [known] = [known for known in api(t).get("/connections") if known["user_provided_name"] == name]
    return api(t).get(f"/connections/{quoted(known['name'])}/channels")


def numbers(stats):
    """Numbers without their rates, which have to be there, and of those what is not 0."""
    plain = {name: number for name, number in stats.items() if not name.endswith("_details")}
    for name in plain:
        assert stats[f"{name}_details"]["rate"] >= 0, stats
    return {name: number for name, number in plain.items() if number}


@case("channels publishes exchanges incoming")
def a_channel_and_an_exchange_tell_what_went_between_them(t):
    exchange, name = t.unique(), t.unique()
    path = f"/exchanges/%2F/{exchange}"
    api(t).do(201, "PUT", path, {"type": "fanout", "durable": True})
    t.defer(lambda: api(t).ask("DELETE", path))
    first, second = opened(t, f"{name}-1").channel(), opened(t, f"{name}-2").channel()
    # One after the other: whoever publishes here and there is counted here and there.
    for _ in range(3):
        first.basic_publish(exchange, "", b"x")
        first.basic_publish("amq.direct", name, b"x")
    second.basic_publish(exchange, "", b"x")

    def incoming():
        shown = api(t).get(path)["incoming"]
        told = {one["channel_details"]["connection_name"]: numbers(one["stats"]) for one in shown}
        return told if sum(stats.get("publish", 0) for stats in told.values()) == 4 else None

    told = eventually(incoming, "all are counted")
    [one] = channels_of(t, f"{name}-1")
    [two] = channels_of(t, f"{name}-2")
    equal(told, {one["connection_details"]["name"]: {"publish": 3}, two["connection_details"]["name"]: {"publish": 1}})
    shown = api(t).get(f"/channels/{quoted(one['name'])}")
    known = {entry["exchange"]["name"]: numbers(entry["stats"]) for entry in shown["publishes"]}
    equal(known, {exchange: {"publish": 3}, "amq.direct": {"publish": 3}})
    equal({entry["exchange"]["vhost"] for entry in shown["publishes"]}, {"/"})
    # An exchange that is made anew begins anew; a channel that is closed is not there.
    api(t).do(204, "DELETE", path)
    api(t).do(201, "PUT", path, {"type": "fanout", "durable": True})
    equal(api(t).get(path)["incoming"], [])
    shown = api(t).get(f"/channels/{quoted(one['name'])}")
    equal([entry["exchange"]["name"] for entry in shown["publishes"]], ["amq.direct"])
    first.basic_publish(exchange, "", b"x")
    eventually(lambda: [numbers(one["stats"]) for one in api(t).get(path)["incoming"]] == [{"publish": 1}], "anew")
    first.connection.close()
    eventually(lambda: api(t).get(path)["incoming"] == [], "closed")


@case("channels deliveries queues stream")
def a_channel_and_a_queue_tell_what_went_between_them(t):
    name = t.unique()
    path = f"/queues/%2F/{name}"
    channel = opened(t, name).channel()
    channel.queue_declare(name, durable=True)
    t.defer(lambda: api(t).ask("DELETE", path))
    for _ in range(6):
        channel.basic_publish("", name, b"x")
    eventually(lambda: channel.queue_declare(name, passive=True).method.message_count == 6, "published")
    channel.basic_get(name, auto_ack=True)
    got = []
    tag = channel.basic_consume(name, lambda _c, method, _p, _b: got.append(method.delivery_tag))
    while len(got) < 5:
        channel.connection.process_data_events(0.1)
    [one] = channels_of(t, name)

    def deliveries(of, expected):
        def look():
            shown = api(t).get(of)["deliveries"]
            return shown if [numbers(entry["stats"]) for entry in shown] == [expected] else None

        return eventually(look, f"{expected} of {of}")

    expected = {"get_no_ack": 1, "deliver": 5, "deliver_get": 6}
    [shown] = deliveries(path, expected)
    equal((shown["channel_details"]["name"], shown["channel_details"]["number"]), (one["name"], 1))
    of_channel = f"/channels/{quoted(one['name'])}"
    [shown] = deliveries(of_channel, expected)
    equal(shown["queue"], {"name": name, "vhost": "/"})
    # What a consumer was given stays known when it is gone, and what comes again counts with it.
    channel.basic_cancel(tag)
    channel.basic_nack(got[-1], requeue=True)
    eventually(lambda: channel.queue_declare(name, passive=True).method.message_count == 1, "given back")
    channel.basic_get(name)
    channel.basic_get(name)
    expected = {"get_no_ack": 1, "get": 1, "get_empty": 1, "redeliver": 1, "deliver": 5, "deliver_get": 7}
    deliveries(path, expected)
    deliveries(of_channel, expected)
    api(t).do(204, "DELETE", path)
    equal(api(t).get(of_channel)["deliveries"], [])
    stream = f"{name}-s"
    channel.queue_declare(stream, durable=True, arguments={"x-queue-type": "stream"})
    t.defer(lambda: api(t).ask("DELETE", f"/queues/%2F/{stream}"))
    channel.basic_publish("", stream, b"x")
    channel.basic_qos(prefetch_count=10)
    before = len(got)
    channel.basic_consume(stream, lambda _c, method, _p, _b: got.append(method.delivery_tag),
                          arguments={"x-stream-offset": "first"})
    while len(got) == before:
        channel.connection.process_data_events(0.1)
    deliveries(f"/queues/%2F/{stream}", {"deliver": 1, "deliver_get": 1})
    equal(api(t).get(f"/queues/%2F/{stream}")["message_stats"]["deliver"], 1)


@case("queues memory")
def a_queue_tells_what_it_takes_in_memory(t):
    name = t.unique()
    path = f"/queues/%2F/{name}"
    api(t).do(201, "PUT", path, {"durable": True})
    t.defer(lambda: api(t).ask("DELETE", path))
    empty = api(t).get(path)["memory"]
    channel = opened(t, name).channel()
    for _ in range(2000):
        channel.basic_publish("", name, b"x")
    eventually(lambda: api(t).get(path)["messages"] == 2000, "published")
    full = api(t).get(path)["memory"]
    assert empty + 2000 < full < 100_000, (empty, full)
    [listed] = [known for known in api(t).get("/queues/%2F") if known["name"] == name]
    equal(listed["memory"], full)
    channel.queue_purge(name)
    assert api(t).get(path)["memory"] < full
