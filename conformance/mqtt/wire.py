"""MQTT packets byte by byte, and a connection that shows every one: what the raw cases speak through.

Building and reading are separate on purpose: a case may build anything, however wrong, and what comes back is checked
against the specification while it is read (shortest forms, properties where they are legal).
"""

import collections
import socket
import time

#: How long an answer may take before a case fails, in seconds. Only a case that fails waits so long.
PATIENCE = 20.0

#: What a case lets pass away, in seconds: longer than a busy machine stands still, since until then it has to be there.
#: `PAST` is when it is surely over.
SHORT = 5
PAST = SHORT + 1.5

NAMES = (
    "RESERVED CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK PINGREQ "
    "PINGRESP DISCONNECT AUTH"
).split()
NUMBERS = {name: number for number, name in enumerate(NAMES)}

PAYLOAD_FORMAT = 0x01
MESSAGE_EXPIRY = 0x02
CONTENT_TYPE = 0x03
RESPONSE_TOPIC = 0x08
CORRELATION_DATA = 0x09
SUBSCRIPTION_ID = 0x0B
SESSION_EXPIRY = 0x11
ASSIGNED_ID = 0x12
SERVER_KEEP_ALIVE = 0x13
AUTH_METHOD = 0x15
AUTH_DATA = 0x16
REQUEST_PROBLEM = 0x17
WILL_DELAY = 0x18
REQUEST_RESPONSE = 0x19
RESPONSE_INFORMATION = 0x1A
SERVER_REFERENCE = 0x1C
REASON_STRING = 0x1F
RECEIVE_MAXIMUM = 0x21
ALIAS_MAXIMUM = 0x22
TOPIC_ALIAS = 0x23
MAXIMUM_QOS = 0x24
RETAIN_AVAILABLE = 0x25
USER_PROPERTY = 0x26
MAXIMUM_PACKET = 0x27
WILDCARD_AVAILABLE = 0x28
IDS_AVAILABLE = 0x29
SHARED_AVAILABLE = 0x2A

#: Property types: byte, two and four byte integers, variable byte integer, string, binary, pair of strings.
_TYPES = {
    0x01: "b", 0x02: "4", 0x03: "s", 0x08: "s", 0x09: "d", 0x0B: "v", 0x11: "4", 0x12: "s", 0x13: "2", 0x15: "s",
    0x16: "d", 0x17: "b", 0x18: "4", 0x19: "b", 0x1A: "s", 0x1C: "s", 0x1F: "s", 0x21: "2", 0x22: "2", 0x23: "2",
    0x24: "b", 0x25: "b", 0x26: "p", 0x27: "4", 0x28: "b", 0x29: "b", 0x2A: "b",
}  # fmt: skip

#: What a server may send in each packet.
_LEGAL = {
    "CONNACK": {0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A},
    "PUBLISH": {0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26},
    "DISCONNECT": {0x1C, 0x1F, 0x26},
    "AUTH": {0x15, 0x16, 0x1F, 0x26},
}
_LEGAL_ACK = {0x1F, 0x26}


def u16(number):
    """A two byte integer."""
    return number.to_bytes(2, "big")


def u32(number):
    """A four byte integer."""
    return number.to_bytes(4, "big")


def varint(number):
    """A variable byte integer in its shortest form."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def data(value):
    """A string or binary data with its length."""
    value = value.encode() if isinstance(value, str) else value
    return u16(len(value)) + value


def prop(number, value):
    """One property."""
    kind = _TYPES[number]
    if kind == "p":
        encoded = data(value[0]) + data(value[1])
    elif kind in "sd":
        encoded = data(value)
    elif kind == "v":
        encoded = varint(value)
    else:
        encoded = value.to_bytes({"b": 1, "2": 2, "4": 4}[kind], "big")
    return varint(number) + encoded


def props(pairs):
    """Properties with their length. Bytes are taken as they are, without the length."""
    body = pairs if isinstance(pairs, bytes) else b"".join(prop(*pair) for pair in pairs)
    return varint(len(body)) + body


def packet(kind, body=b"", flags=None):
    """A whole packet; `kind` is a name or a number."""
    number = NUMBERS[kind] if isinstance(kind, str) else kind
    if flags is None:
        flags = 2 if number in (6, 8, 10) else 0
    return bytes([number << 4 | flags]) + varint(len(body)) + body


class Will:
    """A will for `connect`."""

    def __init__(self, topic, payload=b"gone", qos=0, retain=False, properties=()):
        self.topic, self.payload, self.qos, self.retain, self.properties = topic, payload, qos, retain, properties


def connect(
    version=5,
    client="",
    clean=True,
    keepalive=60,
    properties=(),
    will=None,
    username=None,
    password=None,
    name=None,
    level=None,
    flags=None,
    tail=b"",
):
    """A CONNECT packet; `name`, `level` and `flags` replace what follows from the rest, `tail` comes after it."""
    name = name if name is not None else ("MQIsdp" if version == 3 else "MQTT")
    level = version if level is None else level
    if flags is None:
        flags = 2 if clean else 0
        if will:
            flags |= 4 | will.qos << 3 | (32 if will.retain else 0)
        flags |= (128 if username is not None else 0) | (64 if password is not None else 0)
    body = data(name) + bytes([level, flags]) + u16(keepalive)
    if version == 5:
        body += props(properties)
    body += data(client)
    if will:
        if version == 5:
            body += props(will.properties)
        body += data(will.topic) + data(will.payload)
    if username is not None:
        body += data(username)
    if password is not None:
        body += data(password)
    return packet("CONNECT", body + tail)


def publish(version, topic, payload=b"", qos=0, pid=None, retain=False, dup=False, properties=()):
    """A PUBLISH packet."""
    payload = payload.encode() if isinstance(payload, str) else payload
    body = data(topic)
    if qos or pid is not None:
        body += u16(pid or 0)
    if version == 5:
        body += props(properties)
    flags = (8 if dup else 0) | qos << 1 | (1 if retain else 0)
    return packet("PUBLISH", body + payload, flags)


def ack(kind, pid, code=None, properties=None, flags=None):
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""
    body = u16(pid)
    if code is not None:
        body += bytes([code])
        if properties is not None:
            body += props(properties)
    return packet(kind, body, flags)


def subscribe(version, pid, filters, properties=()):
    """A SUBSCRIBE packet; `filters` are pairs of a filter and its options byte."""
    body = u16(pid) + (props(properties) if version == 5 else b"")
    return packet("SUBSCRIBE", body + b"".join(data(f) + bytes([o]) for f, o in filters))


def unsubscribe(version, pid, filters, properties=()):
    """An UNSUBSCRIBE packet."""
    body = u16(pid) + (props(properties) if version == 5 else b"")
    return packet("UNSUBSCRIBE", body + b"".join(data(f) for f in filters))


def disconnect(code=None, properties=None):
    """A DISCONNECT packet."""
    body = b"" if code is None else bytes([code])
    return packet("DISCONNECT", body + (b"" if properties is None else props(properties)))


def auth(code=None, properties=None):
    """An AUTH packet."""
    body = b"" if code is None else bytes([code])
    return packet("AUTH", body + (b"" if properties is None else props(properties)))


PINGREQ = packet("PINGREQ")


class Malformed(AssertionError):
    """The server sent something that the specification does not allow."""


class _Reader:
    def __init__(self, body):
        self.body = body
        self.at = 0

    def take(self, count):
        piece = self.body[self.at : self.at + count]
        if len(piece) != count:
            raise Malformed(f"{self.body.hex()} ends too early")
        self.at += count
        return piece

    def number(self, count):
        return int.from_bytes(self.take(count), "big")

    def varint(self):
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 21:
                raise Malformed("a variable byte integer of more than four bytes")

    def data(self):
        return self.take(self.number(2))

    def left(self):
        return len(self.body) - self.at

    def props(self, legal):
        end = self.varint() + self.at
        found = []
        while self.at < end:
            number = self.varint()
            kind = _TYPES.get(number)
            if kind is None or number not in legal:
                raise Malformed(f"property {number:#04x} is not allowed here")
            if number not in (USER_PROPERTY, SUBSCRIPTION_ID) and any(number == n for n, _ in found):
                raise Malformed(f"property {number:#04x} twice")
            if kind == "p":
                found.append((number, (self.data().decode(), self.data().decode())))
            elif kind == "s":
                found.append((number, self.data().decode()))
            elif kind == "d":
                found.append((number, self.data()))
            elif kind == "v":
                found.append((number, self.varint()))
            else:
                found.append((number, self.number({"b": 1, "2": 2, "4": 4}[kind])))
        if self.at != end:
            raise Malformed("the last property is longer than the properties")
        return found


class Received:
    """A packet from the server, taken apart."""

    def __init__(self, kind, flags, body, version, raw):
        self.kind = kind
        self.raw = raw
        self.pid = self.code = self.topic = self.payload = None
        self.codes = []
        self.properties = []
        self.qos = self.retain = self.dup = self.present = 0
        reader = _Reader(body)
        if kind != "PUBLISH" and flags != (2 if kind == "PUBREL" else 0):
            raise Malformed(f"{kind} with flags {flags:#x}")
        getattr(self, "_" + kind.lower(), self._unexpected)(reader, flags, version)
        if reader.left():
            raise Malformed(f"{kind} with {reader.left()} bytes too many: {raw.hex()}")

    def values(self, number):
        """All values of a property."""
        return [value for n, value in self.properties if n == number]

    def value(self, number, default=None):
        """The value of a property."""
        return next(iter(self.values(number)), default)

    def __repr__(self):
        parts = [self.kind]
        for name in ("pid", "code", "codes", "topic", "payload", "qos", "retain", "dup", "present", "properties"):
            value = getattr(self, name)
            if value not in (None, [], 0):
                text = repr(value)
                parts.append(f"{name}={text if len(text) < 80 else text[:80] + '...'}")
        return f"<{' '.join(parts)}>"

    def _unexpected(self, reader, flags, version):
        raise Malformed(f"a server does not send {self.kind}")

    def _connack(self, reader, flags, version):
        self.present, self.code = reader.number(1), reader.number(1)
        if self.present > 1 or (self.present and self.code):
            raise Malformed(f"CONNACK flags {self.present} with code {self.code}")
        # A refused protocol level is answered in version 5's form, whatever the client spoke.
        if version == 5 or reader.left():
            self.properties = reader.props(_LEGAL["CONNACK"])

    def _publish(self, reader, flags, version):
        self.dup, self.qos, self.retain = flags >> 3, flags >> 1 & 3, flags & 1
        if self.qos == 3 or (self.dup and not self.qos):
            raise Malformed(f"PUBLISH with flags {flags:#x}")
        self.topic = reader.data().decode()
        if self.qos:
            self.pid = reader.number(2)
            if not self.pid:
                raise Malformed("packet id 0")
        if version == 5:
            self.properties = reader.props(_LEGAL["PUBLISH"])
        if not self.topic and not self.value(TOPIC_ALIAS):
            raise Malformed("an empty topic without alias")
        self.payload = reader.take(reader.left())

    def _ack(self, reader, flags, version):
        self.pid = reader.number(2)
        self.code = 0
        if version == 5 and reader.left():
            self.code = reader.number(1)
            if reader.left():
                self.properties = reader.props(_LEGAL_ACK)
                if not self.properties:
                    raise Malformed(f"not the shortest form: {self.raw.hex()}")
            elif not self.code:
                raise Malformed(f"not the shortest form: {self.raw.hex()}")

    _puback = _pubrec = _pubrel = _pubcomp = _ack

    def _suback(self, reader, flags, version):
        self.pid = reader.number(2)
        if version == 5:
            self.properties = reader.props(_LEGAL_ACK)
        self.codes = list(reader.take(reader.left()))

    def _unsuback(self, reader, flags, version):
        self.pid = reader.number(2)
        if version == 5:
            self.properties = reader.props(_LEGAL_ACK)
            self.codes = list(reader.take(reader.left()))

    def _pingresp(self, reader, flags, version):
        pass

    def _disconnect(self, reader, flags, version):
        if version != 5:
            raise Malformed("DISCONNECT to a client that is not version 5")
        self.code = reader.number(1) if reader.left() else 0
        if reader.left():
            self.properties = reader.props(_LEGAL["DISCONNECT"])

    def _auth(self, reader, flags, version):
        self.code = reader.number(1) if reader.left() else 0
        if reader.left():
            self.properties = reader.props(_LEGAL["AUTH"])


class Connection:
    """One connection. Sends anything; reads packets."""

    def __init__(self, t, version=5, address=None):
        self.version = version
        self._socket = socket.create_connection(address or (t.host, t.port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._aside = collections.deque()
        self._pids = 0
        t.defer(self.close)

    def close(self):
        """Closes the socket, as a lost client does."""
        self._socket.close()

    def send(self, *packets):
        """Sends bytes as they are, in one piece."""
        self._socket.sendall(b"".join(packets))

    def pid(self):
        """A packet id of our own."""
        self._pids += 1
        return self._pids

    def receive(self, patience=PATIENCE):
        """The next packet; `None` when the server closed the connection."""
        if self._aside:
            return self._aside.popleft()
        return self._read(patience)

    def find(self, kind, pid):
        """The answer to what we sent with this id; messages that come before it are kept for later."""
        before = []
        while True:
            found = self._read(PATIENCE)
            if found is None:
                raise AssertionError(f"expected {kind}, the server closed the connection")
            if (found.kind, found.pid) == (kind, pid):
                self._aside.extend(before)
                return found
            if found.kind != "PUBLISH":
                raise AssertionError(f"expected {kind} of {pid}, got {found}")
            before.append(found)

    def _read(self, patience):
        end = time.monotonic() + patience
        while True:
            found = self._parse()
            if found:
                return found
            if not self._fill(end):
                if self._buffer:
                    raise Malformed(f"the connection ends inside a packet: {self._buffer.hex()}")
                return None

    def expect(self, kind, patience=PATIENCE, **fields):
        """The next packet, which has to be of this kind and have these fields."""
        found = self.receive(patience)
        if found is None:
            raise AssertionError(f"expected {kind}, the server closed the connection")
        if found.kind != kind:
            raise AssertionError(f"expected {kind} {fields}, got {found}")
        for name, value in fields.items():
            if getattr(found, name) != value:
                raise AssertionError(f"{name}: expected {value!r}, got {found}")
        return found

    def raw(self, count):
        """The next bytes, whatever they are; fewer when the server closes the connection."""
        end = time.monotonic() + PATIENCE
        while len(self._buffer) < count and self._fill(end):
            pass
        piece, self._buffer = self._buffer[:count], self._buffer[count:]
        return piece

    def rest(self, patience=PATIENCE):
        """All bytes until the server closes the connection."""
        end = time.monotonic() + patience
        while self._fill(end):
            pass
        rest, self._buffer = self._buffer, b""
        return rest

    def closed(self, patience=PATIENCE):
        """Expects the server to close the connection without another word."""
        found = self.receive(patience)
        if found is not None:
            raise AssertionError(f"expected the connection to be closed, got {found}")

    def refused(self, code, patience=PATIENCE):
        """Expects what a protocol error gets: version 5 a DISCONNECT with this code, then the end of the connection."""
        if self.version == 5 and code is not None:
            self.expect("DISCONNECT", patience, code=code)
        self.closed(patience)

    def _fill(self, end):
        self._socket.settimeout(max(end - time.monotonic(), 0.001))
        try:
            piece = self._socket.recv(65536)
        except ConnectionResetError:
            return False
        except TimeoutError:
            raise AssertionError(f"no answer in time (unread: {self._buffer.hex() or 'nothing'})") from None
        self._buffer += piece
        return bool(piece)

    def _parse(self):
        buffer = self._buffer
        length = shift = 0
        for at in range(1, 5):
            if len(buffer) <= at:
                return None
            length |= (buffer[at] & 127) << shift
            shift += 7
            if buffer[at] < 128:
                break
        else:
            raise Malformed(f"remaining length of more than four bytes: {buffer[:8].hex()}")
        end = at + 1 + length
        if len(buffer) < end:
            return None
        raw, self._buffer = buffer[:end], buffer[end:]
        return Received(NAMES[raw[0] >> 4], raw[0] & 15, raw[at + 1 :], self.version, raw)


class Age:
    """How old a message is whose publishing `publish` does: not to the moment, but between two bounds."""

    def __init__(self, publish):
        self._before = time.monotonic()
        publish()
        self._after = time.monotonic()
        self._asked = None

    def ask(self):
        """It is asked for from now on, so it is at least this old when it is delivered."""
        self._asked = time.monotonic()

    def check(self, found, lifetime):
        """Fails unless a message that was delivered until now has the rest of its lifetime, in seconds."""
        now = time.monotonic()
        left = found.value(MESSAGE_EXPIRY)
        least = lifetime - (now - self._before) - 1
        most = lifetime - ((self._asked or self._after) - self._after) + 1
        if left is None or not least <= left <= min(most, lifetime):
            raise AssertionError(f"{left} seconds left of {lifetime}, expected {least:.2f} to {most:.2f}")


class Client(Connection):
    """A connection past its CONNECT."""

    def __init__(self, t, version=5, client=None, code=0, address=None, **options):
        super().__init__(t, version, address)
        self.id = t.unique() if client is None else client
        self.send(connect(version, self.id, **options))
        self.connack = self.expect("CONNACK", code=code)

    def limit(self, number, default):
        """A limit that the server stated in its CONNACK."""
        return self.connack.value(number, default)

    def subscribe(self, *filters, qos=0, options=0, properties=()):
        """Subscribes and returns the codes of the SUBACK; retained messages follow it."""
        pid = self.pid()
        rows = [f if isinstance(f, tuple) else (f, qos | options) for f in filters]
        self.send(subscribe(self.version, pid, rows, properties))
        return self.find("SUBACK", pid).codes

    def unsubscribe(self, *filters):
        """Unsubscribes and returns the codes of the UNSUBACK."""
        pid = self.pid()
        self.send(unsubscribe(self.version, pid, filters))
        return self.find("UNSUBACK", pid).codes

    def publish(self, topic, payload=b"", qos=0, retain=False, properties=(), pid=None):
        """Publishes, does the whole exchange and returns the last reason code. Not for a client that also receives."""
        pid = (pid or self.pid()) if qos else None
        self.send(publish(self.version, topic, payload, qos, pid, retain, properties=properties))
        if qos == 0:
            return self.ping()
        if qos == 1:
            return self.expect("PUBACK", pid=pid).code
        code = self.expect("PUBREC", pid=pid).code
        if code < 0x80:
            self.send(ack("PUBREL", pid))
            code = self.expect("PUBCOMP", pid=pid).code
        return code

    def ping(self):
        """Waits until the server has read all we sent."""
        self.send(PINGREQ)
        self.expect("PINGRESP")
        return 0

    def take(self, patience=PATIENCE, **fields):
        """The next message, acknowledged to the end."""
        found = self.expect("PUBLISH", patience, **fields)
        self.settle(found)
        return found

    def settle(self, found):
        """Acknowledges a message to the end."""
        if found.qos == 1:
            self.send(ack("PUBACK", found.pid))
        elif found.qos == 2:
            self.send(ack("PUBREC", found.pid))
            self.find("PUBREL", found.pid)
            self.send(ack("PUBCOMP", found.pid))

    def until(self, last, patience=PATIENCE):
        """The payloads of all messages up to the one whose payload is `last`, which is not among them."""
        payloads = []
        while True:
            found = self.take(patience)
            if found.payload == last:
                return payloads
            payloads.append(found.payload)

    def bye(self, code=None, properties=None):
        """DISCONNECT, and waits for the server to close the connection."""
        self.send(disconnect(code, properties))
        self.closed()
        self.close()
