"""A server that a case starts, ends and starts again on what it left on disk."""

import itertools
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from harness.ports import free_port
from harness.suite import Skip

#: Seconds until a started server has to accept connections, and until a stopped one has to be gone.
START_LIMIT = 60.0


class OwnServer:
    """Started as the command line's `--start` says, with a data directory of its own, on a port nobody listens on.

    `start` is `{"words": [...], "config": text or null, "stop": "kill" or "term"}`. In words and text `{port}`, `{ws}`,
    `{dist}`, `{data}` and `{config}` are replaced. A server that keeps what it acknowledged is killed; Mosquitto, which
    writes at a clean end only, is asked to end. `more` are words that only this one is started with.
    """

    def __init__(self, t, *more, start=None):
        if not (start or t.start):
            raise Skip("needs --start, to start a server of its own")
        self._start = start or t.start
        self._more = more
        self._home = pathlib.Path(tempfile.mkdtemp(prefix="longtail-conformance-"))
        t.defer(lambda: shutil.rmtree(self._home, ignore_errors=True))
        t.defer(self._end)
        (self._home / "data").mkdir()
        self._process = None
        self.address = ("127.0.0.1", free_port())
        self._websocket = free_port()
        self._dist = free_port() if any("{dist}" in word for word in self._start["words"]) else None
        self.run()

    @property
    def websocket(self):
        """host:port of its second listener."""
        return f"127.0.0.1:{self._websocket}"

    def run(self):
        """Starts it and waits until it accepts connections."""
        words = [self._filled(word) for word in self._start["words"]]
        words.extend(self._more)
        if self._start.get("config") is not None:
            (self._home / "config").write_text(self._filled(self._start["config"]))
        with open(self._home / "log", "ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + START_LIMIT
        for port in self._ports():
            self._accepts(port, end)

    def _ports(self):
        """Where it listens, as far as its words say: one listener may be open long before the next one."""
        told = [*self._start["words"], self._start.get("config") or ""]
        ports = [self.address[1]]
        if any("{ws}" in text for text in told):
            ports.append(self._websocket)
        listeners = (word for option, word in itertools.pairwise(self._more) if option == "--listen")
        return ports + [int(word.rsplit(":", 1)[1]) for word in listeners]

    def _accepts(self, port, end):
        while True:
            if self._process.poll() is not None:
                log = (self._home / "log").read_text(errors="replace")
                raise AssertionError(f"the server ended at its start: {log[-1000:]}")
            try:
                socket.create_connection((self.address[0], port), timeout=1).close()
                return
            except (ConnectionRefusedError, TimeoutError):
                if time.monotonic() > end:
                    raise AssertionError("the server does not accept connections") from None
                time.sleep(0.01)

    def restart(self, *, cleanly=False):
        """Ends it the hard way and starts it again.

        `cleanly` asks it to end: for what nothing acknowledges (MQTT's PUBACK and PUBCOMP of a client, AMQP's
        basic.ack), so that no client can know whether it would outlive the hard way.
        """
        self.end(cleanly=cleanly)
        self.run()

    def end(self, *, cleanly=False):
        """Ends it."""
        asked = cleanly or self._start.get("stop") == "term"
        self._process.send_signal(signal.SIGTERM if asked else signal.SIGKILL)
        self._process.wait(START_LIMIT)

    def _end(self):
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        sweep = [self._filled(word) for word in self._start.get("sweep", [])]
        if sweep:
            subprocess.run(sweep, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def _filled(self, text):
        values = {"port": self.address[1], "ws": self._websocket, "dist": self._dist, "data": self._home / "data"}
        values["config"] = self._home / "config"
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text
