"""AMQP 0-9-1 frames byte by byte, and a connection that shows every one: what the raw cases speak through.

Building and reading are separate on purpose: a case may build anything, however wrong.
"""

import socket
import struct
import time

#: How long an answer may take before a case fails, in seconds.
PATIENCE = 20.0

HEADER = b"AMQP\0\0\x09\x01"

METHOD, CONTENT_HEADER, BODY, HEARTBEAT = 1, 2, 3, 8

NAMES = {
    (10, 10): "start", (10, 11): "start-ok", (10, 30): "tune", (10, 31): "tune-ok", (10, 40): "open",
    (10, 41): "open-ok", (10, 50): "connection.close", (10, 51): "connection.close-ok", (20, 11): "channel.open-ok",
    (20, 21): "flow-ok", (20, 40): "channel.close", (20, 41): "channel.close-ok", (30, 11): "access.request-ok",
    (40, 11): "exchange.declare-ok", (40, 21): "exchange.delete-ok", (40, 31): "exchange.bind-ok",
    (40, 51): "exchange.unbind-ok", (50, 11): "queue.declare-ok", (50, 21): "queue.bind-ok", (50, 31): "purge-ok",
    (50, 41): "queue.delete-ok", (50, 51): "queue.unbind-ok", (60, 11): "qos-ok", (60, 21): "consume-ok",
    (60, 30): "cancel", (60, 31): "cancel-ok", (60, 50): "return", (60, 60): "deliver", (60, 71): "get-ok",
    (60, 72): "get-empty", (60, 80): "ack", (60, 111): "recover-ok", (60, 120): "nack", (85, 11): "confirm.select-ok",
    (90, 11): "tx.select-ok", (90, 21): "tx.commit-ok", (90, 31): "tx.rollback-ok",
}  # fmt: skip


def short(text):
    """A short string."""
    text = text.encode() if isinstance(text, str) else text
    return bytes([len(text)]) + text


def long(data):
    """A long string."""
    data = data.encode() if isinstance(data, str) else data
    return struct.pack(">I", len(data)) + data


def table(raw=b""):
    """A table from the bytes of its entries."""
    return long(raw)


def entry(key, letter, value):
    """An entry of a table: the key, the letter of the type, the bytes of the value."""
    return short(key) + letter.encode() + value


def frame(kind, channel, payload, end=b"\xce"):
    """A whole frame."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def method(channel, class_id, method_id, fields=b""):
    """A method frame."""
    return frame(METHOD, channel, struct.pack(">HH", class_id, method_id) + fields)


def header(channel, size, properties=b"\0\0", class_id=60):
    """A content header frame."""
    return frame(CONTENT_HEADER, channel, struct.pack(">HHQ", class_id, 0, size) + properties)


def body(channel, data):
    """A body frame."""
    return frame(BODY, channel, data)


def declare(channel, queue, bits=0, arguments=b""):
    """queue.declare; bits: 1 passive, 2 durable, 4 exclusive, 8 auto-delete, 16 no-wait."""
    return method(channel, 50, 10, b"\0\0" + short(queue) + bytes([bits]) + table(arguments))


def publish(channel, exchange, key, data=b"", bits=0, properties=b"\0\0"):
    """basic.publish with its content."""
    out = method(channel, 60, 40, b"\0\0" + short(exchange) + short(key) + bytes([bits]))
    out += header(channel, len(data), properties)
    return out + (body(channel, data) if data else b"")


def consume(channel, queue, tag="", bits=0, arguments=b""):
    """basic.consume; bits: 1 no-local, 2 no-ack, 4 exclusive, 8 no-wait."""
    return method(channel, 60, 20, b"\0\0" + short(queue) + short(tag) + bytes([bits]) + table(arguments))


def get(channel, queue, no_ack=False):
    """basic.get."""
    return method(channel, 60, 70, b"\0\0" + short(queue) + bytes([no_ack]))


def ack(channel, tag, multiple=False):
    """basic.ack."""
    return method(channel, 60, 80, struct.pack(">QB", tag, multiple))


class Frame:
    """A frame that was received."""

    def __init__(self, kind, channel, payload):
        self.kind, self.channel, self.payload = kind, channel, payload
        self.id = struct.unpack(">HH", payload[:4]) if kind == METHOD else None
        self.name = NAMES.get(self.id, self.id) if kind == METHOD else {2: "header", 3: "body", 8: "heartbeat"}[kind]
        self.fields = payload[4:] if kind == METHOD else payload

    def close(self):
        """Code, text, and class and method of a close."""
        code, length = struct.unpack(">HB", self.fields[:3])
        text = self.fields[3 : 3 + length].decode()
        return code, text, struct.unpack(">HH", self.fields[3 + length :])

    def __repr__(self):
        return f"<{self.name} on {self.channel}: {self.fields!r}>"


class Closed(Exception):
    """The server has closed the socket."""


class Client:
    """A connection."""

    def __init__(
        self, t, greet=True, user="guest", password="guest", vhost="/", heartbeat=0, frame_max=131072, capabilities=True
    ):
        self.socket = socket.create_connection((t.host, t.port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        t.defer(self.socket.close)
        if greet:
            self.send(HEADER)
            self.start = self.expect("start")
            self.send(self.start_ok(user, password, capabilities=capabilities))
            self.tune = self.expect("tune")
            self.send(method(0, 10, 31, struct.pack(">HIH", 2047, frame_max, heartbeat)))
            self.send(method(0, 10, 40, short(vhost) + short("") + b"\0"))
            self.expect("open-ok")

    @staticmethod
    def start_ok(user="guest", password="guest", mechanism="PLAIN", capabilities=True, response=None):
        """connection.start-ok."""
        known = entry("consumer_cancel_notify", "t", b"\1") + entry("authentication_failure_close", "t", b"\1")
        properties = entry("capabilities", "F", table(known)) if capabilities else b""
        if response is None:
            response = b"\0" + user.encode() + b"\0" + password.encode()
        return method(0, 10, 11, table(properties) + short(mechanism) + long(response) + short("en_US"))

    def channel(self, number=1):
        """Opens a channel."""
        self.send(method(number, 20, 10, short("")))
        self.expect("channel.open-ok", number)
        return number

    def send(self, data):
        """Sends bytes as they are."""
        self.socket.sendall(data)

    def next(self, patience=PATIENCE):
        """The next frame; `Closed` at the end, `TimeoutError` when nothing comes."""
        until = time.monotonic() + patience
        while True:
            if len(self.buffer) >= 7:
                kind, channel, size = struct.unpack(">BHI", self.buffer[:7])
                if len(self.buffer) >= size + 8:
                    payload, end = self.buffer[7 : 7 + size], self.buffer[7 + size]
                    if end != 0xCE:
                        raise AssertionError(f"a frame that ends with {end:#x}")
                    self.buffer = self.buffer[size + 8 :]
                    return Frame(kind, channel, payload)
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("nothing came")
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                raise Closed from None
            if not data:
                raise Closed
            self.buffer += data

    def expect(self, name, channel=None):
        """The next frame, which has to be this one."""
        got = self.next()
        if got.name != name or channel is not None and got.channel != channel:
            raise AssertionError(f"expected {name}, got {got}")
        return got

    def expect_closed(self, code, text=None, level="connection"):
        """A close with this code and, if given, exactly this text; at the level of the connection, then the end."""
        got = self.expect(f"{level}.close")
        actual, said, about = got.close()
        if actual != code or text is not None and said != text:
            raise AssertionError(f"expected {code} {text!r}, got {actual} {said!r}")
        if level == "connection":
            self.send(method(0, 10, 51))
            self.expect_end()
        else:
            self.send(method(got.channel, 20, 41))
        return said, about

    def expect_end(self):
        """The server closes the socket and says nothing more."""
        try:
            got = self.next()
        except Closed:
            return
        raise AssertionError(f"expected the end, got {got}")

    def content(self):
        """Properties and body of the content that follows."""
        head = self.expect("header")
        size = struct.unpack(">Q", head.fields[4:12])[0]
        data = b""
        while len(data) < size:
            data += self.expect("body").fields
        return head.fields[12:], data

    def quiet(self, seconds=0.3):
        """Nothing comes for so long."""
        try:
            got = self.next(seconds)
        except TimeoutError:
            return
        raise AssertionError(f"expected nothing, got {got}")
