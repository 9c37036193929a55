"""What is declared and bound: names, conditions, what makes two bindings the same."""

import struct

from harness.suite import add, case, equal
from wire import Client, consume, declare, entry, get, long, method, publish, short, table

PASSIVE, DURABLE, EXCLUSIVE, AUTO_DELETE, NO_WAIT = 1, 2, 4, 8, 16


def client_of(t):
    """A client with channel 1."""
    client = Client(t)
    client.channel()
    return client


def exchange(name, kind="direct", bits=0, arguments=b""):
    """exchange.declare; bits: 1 passive, 2 durable, 4 auto-delete, 8 internal, 16 no-wait."""
    return method(1, 40, 10, b"\0\0" + short(name) + short(kind) + bytes([bits]) + table(arguments))


def delete_exchange(name, bits=0):
    """exchange.delete; bits: 1 if-unused, 2 no-wait."""
    return method(1, 40, 20, b"\0\0" + short(name) + bytes([bits]))


def to_exchange(number, destination, source, key="", bits=0, arguments=b""):
    """exchange.bind (30) or exchange.unbind (40)."""
    fields = b"\0\0" + short(destination) + short(source) + short(key) + bytes([bits]) + table(arguments)
    return method(1, 40, number, fields)


def bind(queue, source, key="", arguments=b"", no_wait=False):
    """queue.bind."""
    return method(1, 50, 20, b"\0\0" + short(queue) + short(source) + short(key) + bytes([no_wait]) + table(arguments))


def unbind(queue, source, key="", arguments=b""):
    """queue.unbind."""
    return method(1, 50, 50, b"\0\0" + short(queue) + short(source) + short(key) + table(arguments))


def delete(queue, bits=0):
    """queue.delete; bits: 1 if-unused, 2 if-empty, 4 no-wait."""
    return method(1, 50, 40, b"\0\0" + short(queue) + bytes([bits]))


def purge(queue, no_wait=False):
    """queue.purge."""
    return method(1, 50, 30, b"\0\0" + short(queue) + bytes([no_wait]))


def name_of(client):
    """The name in a queue.declare-ok."""
    fields = client.expect("queue.declare-ok").fields
    return fields[1 : 1 + fields[0]].decode()


def asked(client, data, answer):
    """Something that is answered so."""
    client.send(data)
    return client.expect(answer)


def queue_of(client, arguments=b""):
    """A queue of the connection's own."""
    client.send(declare(1, "", EXCLUSIVE, arguments))
    return name_of(client)


def taken(client, queue):
    """The bodies of all that is ready."""
    bodies = []
    while asked_for := _got(client, queue):
        bodies.append(asked_for[0])
    return bodies


def _got(client, queue):
    client.send(get(1, queue, True))
    return [client.content()[1]] if client.next().name == "get-ok" else None


@case("names")
def ends_of_lines_are_no_part_of_names(t):
    client = client_of(t)
    name = t.unique()
    client.send(declare(1, f"{name}\r\n", EXCLUSIVE))
    equal(name_of(client), name)
    client.send(publish(1, "", name, b"x"))
    equal(taken(client, f"\n{name}"), [b"x"])
    # What is left of this is no name at all.
    client.send(declare(1, "\n", EXCLUSIVE))
    equal(name_of(client).startswith("amq.gen-"), True)
    asked(client, exchange(f"{name}\n", "fanout"), "exchange.declare-ok")
    asked(client, exchange(name, "", 1), "exchange.declare-ok")
    asked(client, bind(name, f"\r{name}"), "queue.bind-ok")
    client.send(publish(1, name, "", b"y"))
    equal(taken(client, name), [b"y"])
    asked(client, delete_exchange(f"{name}\n"), "exchange.delete-ok")
    client.send(exchange(name, "", 1))
    client.expect_closed(404, None, "channel")
    for data in (declare(1, "a\rmq.x"), exchange("amq\n.x")):
        client.channel()
        client.send(data)
        text, _ = client.expect_closed(403, None, "channel")
        equal("contains reserved prefix 'amq.*'" in text, True, text)


@case("exchange.declare")
def some_exchanges_are_always_there(t):
    client = client_of(t)
    for name, kind in (
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ):
        asked(client, exchange(name, "", 1), "exchange.declare-ok")
        # Who declares them as they are is right.
        asked(client, exchange(name, kind, DURABLE), "exchange.declare-ok")
    asked(client, exchange("amq.rabbitmq.trace", "", 1), "exchange.declare-ok")
    client.send(exchange("amq.direct", "fanout", DURABLE))
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.direct' in vhost '/': received 'fanout' but "
        "current is 'direct'"
    )
    client.expect_closed(406, text, "channel")


@case("queue.declare")
def a_name_that_the_server_has_made_may_be_declared_again(t):
    client = client_of(t)
    name = queue_of(client)
    client.send(declare(1, name, EXCLUSIVE))
    equal(name_of(client), name)
    # What goes with its connection is not durable, whatever it says.
    client.send(declare(1, t.unique(), DURABLE | EXCLUSIVE))
    name = name_of(client)
    client.send(declare(1, name, DURABLE | EXCLUSIVE))
    equal(name_of(client), name)


@case("queue.declare")
def no_name_is_the_last_that_was_declared(t):
    client = client_of(t)
    queue_of(client)
    name = t.unique()
    client.send(declare(1, name))
    name_of(client)
    asked(client, bind("", "amq.direct", name), "queue.bind-ok")
    asked(client, unbind("", "amq.direct", name), "queue.unbind-ok")
    # Without a key too, it is the key.
    asked(client, bind("", "amq.direct"), "queue.bind-ok")
    client.send(publish(1, "amq.direct", name, b"1") + publish(1, "amq.direct", name, b"2"))
    client.send(get(1, "", True))
    client.expect("get-ok")
    equal(client.content()[1], b"1")
    equal(asked(client, purge(""), "purge-ok").fields, b"\0\0\0\1")
    asked(client, consume(1, "", "c"), "consume-ok")
    client.send(declare(1, "", PASSIVE))
    equal(name_of(client), name)
    client.send(delete(""))
    equal({client.next().name for _ in range(2)}, {"cancel", "queue.delete-ok"})


@case("if-unused if-empty")
def what_is_used_or_not_empty_may_be_spared(t):
    client = client_of(t)
    source, target = t.unique(), t.unique()
    for name in (source, target):
        asked(client, exchange(name), "exchange.declare-ok")
    asked(client, to_exchange(30, target, source), "exchange.bind-ok")
    # What leads to it is no use of it.
    asked(client, delete_exchange(target, 1), "exchange.delete-ok")
    queue = t.unique()
    asked(client, declare(1, queue), "queue.declare-ok")
    asked(client, bind(queue, source), "queue.bind-ok")
    client.send(delete_exchange(source, 1))
    client.expect_closed(406, f"PRECONDITION_FAILED - exchange '{source}' in vhost '/' in use", "channel")
    client.channel()
    asked(client, delete_exchange(source), "exchange.delete-ok")
    client.send(publish(1, "", queue, b"x"))
    client.send(delete(queue, 2))
    client.expect_closed(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty", "channel")
    client.channel()
    asked(client, consume(1, queue, "c"), "consume-ok")
    client.expect("deliver")
    client.content()
    client.send(delete(queue, 1))
    client.expect_closed(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use", "channel")
    client.channel()
    client.send(get(1, queue))
    client.expect("get-ok")
    client.content()
    # It is not ready.
    equal(asked(client, delete(queue, 3), "queue.delete-ok").fields, bytes(4))
    # What is not there is gone already.
    asked(client, delete(queue), "queue.delete-ok")
    asked(client, delete_exchange(source), "exchange.delete-ok")


@case("no-wait")
def nothing_is_answered_that_nobody_waits_for(t):
    client = client_of(t)
    queue, first, second = (t.unique() for _ in range(3))
    client.send(
        exchange(first, "fanout", 16)
        + exchange(second, "fanout", 16)
        + declare(1, queue, EXCLUSIVE | NO_WAIT)
        + to_exchange(30, second, first, "", 1)
        + bind(queue, second, no_wait=True)
        + publish(1, first, "", b"x")
        + purge(queue, True)
        + consume(1, queue, "c", 8)
        + method(1, 60, 30, short("c") + b"\1")
        + to_exchange(40, second, first, "", 1)
        + publish(1, first, "", b"nowhere")
        + delete_exchange(first, 2)
        + delete_exchange(second, 2)
        + declare(1, queue, PASSIVE)
    )
    equal(client.expect("queue.declare-ok").fields[-8:], bytes(8))
    client.send(delete(queue, 4))
    # Errors are told all the same.
    client.send(declare(1, queue, PASSIVE | NO_WAIT))
    client.expect_closed(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'", "channel")


@case("auto-delete")
def an_auto_deleting_exchange_goes_with_the_last_that_is_bound_to_it(t):
    client = client_of(t)
    first, second, queue = t.unique(), t.unique(), queue_of(client)
    asked(client, exchange(first, "fanout", 4), "exchange.declare-ok")
    asked(client, exchange(second, "fanout", 4), "exchange.declare-ok")
    asked(client, to_exchange(30, second, first), "exchange.bind-ok")
    asked(client, bind(queue, second, "a"), "queue.bind-ok")
    asked(client, bind(queue, second, "b"), "queue.bind-ok")
    asked(client, unbind(queue, second, "a"), "queue.unbind-ok")
    asked(client, exchange(second, "", 1), "exchange.declare-ok")
    # One takes the other along.
    asked(client, unbind(queue, second, "b"), "queue.unbind-ok")
    for name in (second, first):
        client.send(exchange(name, "", 1))
        client.expect_closed(404, None, "channel")
        client.channel()


@case("queue.bind")
def arguments_make_another_binding(t):
    client = client_of(t)
    queue, source = queue_of(client), "amq.direct"
    key, arguments = t.unique(), entry("n", "I", b"\0\0\0\1")
    asked(client, bind(queue, source, key), "queue.bind-ok")
    asked(client, bind(queue, source, key, arguments), "queue.bind-ok")
    asked(client, bind(queue, source, key, arguments), "queue.bind-ok")
    for left in (arguments, b""):
        client.send(publish(1, source, key, b"x"))
        equal(taken(client, queue), [b"x"], "one copy")
        asked(client, unbind(queue, source, key, left), "queue.unbind-ok")
    client.send(publish(1, source, key, b"x"))
    equal(taken(client, queue), [])
    # There is none any more, which is no error.
    asked(client, unbind(queue, source, key), "queue.unbind-ok")


@case("CC BCC")
def keys_that_lead_to_the_same_queue_are_one_copy(t):
    client = client_of(t)
    queue = queue_of(client)
    for key in ("a.b", "a.*", "#"):
        asked(client, bind(queue, "amq.topic", f"{queue}.{key}"), "queue.bind-ok")
    keys = b"".join(b"S" + long(key) for key in (f"{queue}.a.c", f"{queue}.x"))
    properties = b"\x20\0" + table(entry("CC", "A", long(keys)) + entry("BCC", "A", long(b"S" + long(queue))))
    client.send(publish(1, "amq.topic", f"{queue}.a.b", b"x", 0, properties))
    equal(taken(client, queue), [b"x"])


@case("headers")
def a_binding_that_says_nothing_matches_all_or_none(t):
    client = client_of(t)
    name = t.unique()
    asked(client, exchange(name, "headers"), "exchange.declare-ok")
    queues = {}
    for rule in ("all", "any", "all-with-x", "any-with-x", None):
        queues[rule] = queue_of(client)
        arguments = entry("x-match", "S", long(rule)) if rule else b""
        asked(client, bind(queues[rule], name, "", arguments), "queue.bind-ok")
    for properties in (b"\0\0", b"\x20\0" + table(entry("n", "I", b"\0\0\0\1"))):
        client.send(publish(1, name, "", b"x", 0, properties))
        got = {rule for rule, queue in queues.items() if taken(client, queue)}
        equal(got, {"all", "all-with-x", None})
    asked(client, delete_exchange(name), "exchange.delete-ok")


@case("priority")
def without_priorities_messages_come_in_their_order(t):
    client = client_of(t)
    queue = queue_of(client)
    for priority in (1, 9, 0, 5):
        client.send(publish(1, "", queue, b"%d" % priority, 0, b"\x08\0" + bytes([priority])))
    equal(taken(client, queue), [b"1", b"9", b"0", b"5"])


#: Name, what is sent on channel 1, code and text of the channel.close.
DEFAULT = "ACCESS_REFUSED - operation not permitted on the default exchange"
YEARS = struct.pack(">q", 315_360_000_001)
REFUSED = [
    ("default_exchange_declared", lambda q: exchange("", "direct"), 403, DEFAULT),
    ("default_exchange_bound", lambda q: declare(1, "", EXCLUSIVE | NO_WAIT) + bind("", ""), 403, DEFAULT),
    ("default_exchange_unbound", lambda q: declare(1, "", EXCLUSIVE | NO_WAIT) + unbind("", ""), 403, DEFAULT),
    ("exchange_bound_to_the_default_one", lambda q: to_exchange(30, "amq.direct", ""), 403, DEFAULT),
    ("default_exchange_bound_to_another", lambda q: to_exchange(30, "", "amq.direct"), 403, DEFAULT),
    ("default_exchange_by_another_name", lambda q: publish(1, "amq.default", q, b"x"), 404,
     "NOT_FOUND - no exchange 'amq.default' in vhost '/'"),
    ("predeclared_exchange_deleted", lambda q: delete_exchange("amq.direct"), 403, None),
    ("bind_to_nothing", lambda q: declare(1, "", EXCLUSIVE | NO_WAIT) + bind("", q), 404,
     "NOT_FOUND - no exchange '{q}' in vhost '/'"),
    ("exchange_bound_to_nothing", lambda q: to_exchange(30, "amq.direct", q), 404,
     "NOT_FOUND - no exchange '{q}' in vhost '/'"),
    ("publish_to_an_internal_exchange", lambda q: publish(1, "amq.rabbitmq.trace", "k", b"x"), 403, None),
    ("x_match_unknown",
     lambda q: declare(1, "", EXCLUSIVE | NO_WAIT) + bind("", "amq.headers", "", entry("x-match", "S", long("most"))), 406,
     None),
    ("binding_of_too_many_wildcards",
     lambda q: declare(1, "", EXCLUSIVE | NO_WAIT) + bind("", "amq.topic", ".a.".join("#" * 9)), 406, None),
    ("ttl_of_more_than_ten_years", lambda q: declare(1, q, 0, entry("x-message-ttl", "l", YEARS)), 406, None),
    ("expires_of_more_than_ten_years", lambda q: declare(1, q, 0, entry("x-expires", "l", YEARS)), 406, None),
    ("expiration_of_more_than_ten_years", lambda q: publish(1, "", q, b"x", 0, b"\1\0" + short("315360000001")), 406, None),
    ("ttl_not_a_whole_number", lambda q: declare(1, q, 0, entry("x-message-ttl", "d", struct.pack(">d", 5))), 406, None),
    ("quorum_queue_named_by_the_server",
     lambda q: declare(1, "", DURABLE, entry("x-queue-type", "S", long("quorum"))), 406, None),
    ("dead_letter_key_alone", lambda q: declare(1, q, 0, entry("x-dead-letter-routing-key", "S", long("k"))), 406, None),
]  # fmt: skip


def _refused(name, make, code, text):
    def run(t):
        client = client_of(t)
        queue = t.unique()
        client.send(make(queue))
        client.expect_closed(code, text and text.format(q=queue), "channel")

    add(name, run, "errors")


for _row in REFUSED:
    _refused(*_row)


@case("exclusive")
def a_queue_is_gone_with_a_connection_that_breaks(t):
    other = client_of(t)
    for _ in range(5):
        client, queue = client_of(t), t.unique()
        asked(client, declare(1, queue, EXCLUSIVE), "queue.declare-ok")
        client.send(publish(1, "", queue, b"x") + consume(1, queue))
        client.expect("consume-ok")
        client.socket.close()
        while True:
            other.send(declare(1, queue, EXCLUSIVE))
            got = other.next()
            if got.name == "queue.declare-ok":
                break
            # The end of the other connection is noticed a moment later.
            equal(got.close()[0], 405)
            other.send(method(1, 20, 41))
            other.channel()
        equal(got.fields[-8:], bytes(8), "a new one")
