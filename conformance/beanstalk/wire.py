"""A beanstalk connection that shows every byte: what the raw cases speak through."""

import re
import socket

#: How long a reply may take before a case fails, in seconds.
PATIENCE = 40.0

CRLF = b"\r\n"


class Connection:
    """One connection. Commands and replies are text without the line end; bodies are bytes."""

    def __init__(self, context):
        self._socket = socket.create_connection((context.host, context.port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        context.defer(self.close)

    def close(self):
        """Closes both directions at once."""
        self._socket.close()

    def shut_write(self):
        """Half-closes: the server sees the end of our commands, we still read."""
        self._socket.shutdown(socket.SHUT_WR)

    def send(self, data):
        """Sends bytes as they are."""
        self._socket.sendall(data)

    def command(self, line):
        """Sends one command line and returns the reply's first line."""
        self.send(line.encode("latin-1") + CRLF)
        return self.line()

    def put(self, body=b"x", pri=0, delay=0, ttr=60):
        """Puts a job and returns its id."""
        self.send(b"put %d %d %d %d\r\n%s\r\n" % (pri, delay, ttr, len(body), body))
        return number(self.line(), "INSERTED")

    def line(self):
        """The next reply line."""
        while CRLF not in self._buffer:
            self._fill()
        line, self._buffer = self._buffer.split(CRLF, 1)
        return line.decode("latin-1")

    def body(self, size):
        """The next `size` bytes and the line end that must follow them."""
        while len(self._buffer) < size + 2:
            self._fill()
        body, end, self._buffer = self._buffer[:size], self._buffer[size : size + 2], self._buffer[size + 2 :]
        if end != CRLF:
            raise AssertionError(f"body is followed by {end!r}")
        return body

    def job(self, word):
        """Reads `WORD id bytes` and the body; returns the id and the body."""
        match = re.fullmatch(rf"{word} (\d+) (\d+)", line := self.line())
        if not match:
            raise AssertionError(f"expected {word}, got {line!r}")
        return int(match[1]), self.body(int(match[2]))

    def take(self, timeout=0):
        """Reserves a job; returns its id and body."""
        self.send(b"reserve-with-timeout %d\r\n" % timeout)
        return self.job("RESERVED")

    def peek(self, command):
        """Sends a peek command; returns id and body."""
        self.send(command.encode() + CRLF)
        return self.job("FOUND")

    def document(self, command):
        """Sends a command answered with `OK`; returns the text of the document."""
        match = re.fullmatch(r"OK (\d+)", line := self.command(command))
        if not match:
            raise AssertionError(f"expected OK, got {line!r}")
        text = self.body(int(match[1])).decode()
        if not text.startswith("---\n") or not text.endswith("\n"):
            raise AssertionError(f"not a document: {text!r}")
        return text

    def stats(self, command="stats"):
        """A dictionary document, in order, its values as written."""
        rows = self.document(command).splitlines()[1:]
        pairs = [row.split(": ", 1) for row in rows]
        if any(len(pair) != 2 for pair in pairs):
            raise AssertionError(f"not a dictionary: {rows!r}")
        return dict(pairs)

    def names(self, command):
        """A list document."""
        rows = self.document(command).splitlines()[1:]
        if not all(row.startswith("- ") for row in rows):
            raise AssertionError(f"not a list: {rows!r}")
        return [row[2:] for row in rows]

    def silent(self, seconds=0.15):
        """Whether nothing arrives for so long (with nothing left over from before)."""
        if self._buffer:
            return False
        self._socket.settimeout(seconds)
        try:
            self._fill()
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(PATIENCE)
        return False

    def ended(self):
        """Whether the server closed the connection, with nothing more to read."""
        if self._buffer:
            return False
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _fill(self):
        data = self._socket.recv(65536)
        if not data:
            raise AssertionError(f"the server closed the connection, {self._buffer!r} unread")
        self._buffer += data


def number(reply, word):
    """The number of a reply such as `KICKED 3`."""
    match = re.fullmatch(rf"{word} (\d+)", reply)
    if not match:
        raise AssertionError(f"expected {word} and a number, got {reply!r}")
    return int(match[1])


def worker(context, *tubes):
    """A connection that uses the first tube and watches all of them and nothing else."""
    connection = Connection(context)
    if tubes:
        if (reply := connection.command(f"use {tubes[0]}")) != f"USING {tubes[0]}":
            raise AssertionError(f"use: {reply!r}")
        for count, tube in enumerate(tubes, start=2):
            if (reply := connection.command(f"watch {tube}")) != f"WATCHING {count}":
                raise AssertionError(f"watch: {reply!r}")
        if (reply := connection.command("ignore default")) != f"WATCHING {len(tubes)}":
            raise AssertionError(f"ignore: {reply!r}")
    return connection
