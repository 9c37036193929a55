"""Direct replies: a pseudo-queue, addresses that live as long as their consumer, the texts of its errors."""

import struct

from harness.suite import add, case, equal
from wire import Client, consume, declare, get, method, publish, short

REPLY_TO = "amq.rabbitmq.reply-to"

#: Properties with only `reply-to`.
ASKS = b"\2\0" + short(REPLY_TO)


def requester(t, bits=2):
    """A client whose channel 1 expects replies."""
    client = Client(t)
    client.channel()
    client.send(consume(1, REPLY_TO, "replies", bits))
    client.expect("consume-ok", 1)
    return client


def ask(client, queue):
    """Publishes a request to a queue of the client's own and yields the address that its reader sees."""
    client.send(declare(1, queue, 4) + publish(1, "", queue, b"request", 0, ASKS) + get(1, queue, True))
    client.expect("queue.declare-ok")
    client.expect("get-ok")
    properties, _ = client.content()
    equal(properties[:2], b"\2\0")
    return properties[3:].decode()


@case("reply-to")
def an_answer_comes_over_another_connection(t):
    client, responder = requester(t), Client(t)
    responder.channel()
    address = ask(client, t.unique())
    equal(address.startswith(REPLY_TO + "."), True)
    properties = b"\4\0" + short("the correlation")
    for number in range(3):
        responder.send(publish(1, "", address, b"%d" % number, 0, properties))
    for number in range(3):
        deliver = client.expect("deliver", 1)
        equal(deliver.fields[:17], short("replies") + struct.pack(">QB", number + 2, 0))
        equal(deliver.fields[17:], short("") + short(address))
        equal(client.content(), (properties, b"%d" % number))


@case("reply-to declare")
def a_declaration_shows_whether_anybody_waits(t):
    client, responder = requester(t), Client(t)
    responder.channel()
    address = ask(client, t.unique())
    for name in (REPLY_TO, address):
        responder.send(declare(1, name, 1))
        equal(responder.expect("queue.declare-ok").fields, short(name) + struct.pack(">II", 0, 1))
    client.send(method(1, 60, 30, short("replies") + b"\0"))
    client.expect("cancel-ok")
    responder.send(declare(1, address, 1))
    responder.expect_closed(404, f"NOT_FOUND - no queue '{address}' in vhost '/'", "channel")


@case("reply-to mandatory confirm")
def what_comes_too_late_is_returned_and_confirmed(t):
    client, responder = requester(t), Client(t)
    responder.channel()
    address = ask(client, t.unique())
    responder.send(method(1, 85, 10, b"\0") + publish(1, "", address, b"in time", 1))
    responder.expect("confirm.select-ok")
    equal(responder.expect("ack").fields, struct.pack(">QB", 1, 0))
    client.expect("deliver")
    equal(client.content()[1], b"in time")
    client.send(method(1, 20, 40, b"\0\xc8" + short("") + bytes(4)))
    client.expect("channel.close-ok")
    responder.send(publish(1, "", address, b"too late", 1) + publish(1, "", address, b"and silent"))
    equal(responder.expect("return").fields[2:], short("NO_ROUTE") + short("") + short(address))
    equal(responder.content()[1], b"too late")
    acked = 1
    while acked < 3:
        acked = struct.unpack(">QB", responder.expect("ack").fields)[0]


@case("reply-to")
def the_other_name_is_known_too(t):
    client = Client(t)
    client.channel()
    client.send(consume(1, "amq.direct.reply-to", "c", 2))
    client.expect("consume-ok")
    queue = t.unique()
    client.send(declare(1, queue, 4) + publish(1, "", queue, b"", 0, b"\2\0" + short("amq.direct.reply-to")))
    client.expect("queue.declare-ok")
    client.send(get(1, queue, True))
    client.expect("get-ok")
    equal(client.content()[0][3:].decode().startswith(REPLY_TO + "."), True)


@case("reply-to")
def a_number_is_taken_by_a_new_channel_without_its_replies(t):
    client, responder = requester(t), Client(t)
    responder.channel()
    address = ask(client, t.unique())
    client.send(method(1, 20, 40, b"\0\xc8" + short("") + bytes(4)))
    client.expect("channel.close-ok")
    client.channel()
    client.send(consume(1, REPLY_TO, "replies", 2))
    client.expect("consume-ok")
    responder.send(publish(1, "", address, b"old"))
    client.quiet()


#: Name, what is sent, the text of the 406.
ERRORS = [
    ("acknowledging", consume(1, REPLY_TO, "c", 0), "reply consumer cannot acknowledge"),
    ("twice", consume(1, REPLY_TO, "c", 2 | 8) + consume(1, REPLY_TO, "d", 2), "reply consumer already set"),
    ("without_consumer", publish(1, "", "q", b"x", 0, ASKS), "fast reply consumer does not exist"),
    (
        "after_cancel",
        consume(1, REPLY_TO, "c", 2 | 8) + method(1, 60, 30, short("c") + b"\1") + publish(1, "", "q", b"x", 0, ASKS),
        "fast reply consumer does not exist",
    ),
]


def _error_case(name, data, text):
    def run(t):
        client = Client(t)
        client.channel()
        client.send(data)
        client.expect_closed(406, f"PRECONDITION_FAILED - {text}", "channel")

    add(f"replies_{name}", run, "reply-to errors")


for _row in ERRORS:
    _error_case(*_row)
