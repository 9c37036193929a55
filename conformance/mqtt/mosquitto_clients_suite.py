"""mosquitto_pub, mosquitto_sub and mosquitto_rr, the command line clients on libmosquitto."""

import pathlib
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from harness import suite  # noqa: E402
from harness.suite import case, equal  # noqa: E402
from wire import Client  # noqa: E402

PATIENCE = 20

VERSIONS = ("mqttv31", "mqttv311", "mqttv5")


def command(t, program, version, *words):
    """A command line with the server's address."""
    return [f"mosquitto_{program}", "-h", t.host, "-p", str(t.port), "-V", version, *map(str, words)]


def pub(t, version, *words, text=None):
    """Publishes, and expects it to succeed."""
    done = subprocess.run(
        command(t, "pub", version, *words), input=text, capture_output=True, timeout=PATIENCE, check=False
    )
    equal((done.returncode, done.stderr), (0, b""), "mosquitto_pub")


class Subscriber:
    """mosquitto_sub in the background; ready when the server has answered its SUBSCRIBE, unless told not to wait."""

    def __init__(self, t, version, *words, wait=True):
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", *command(t, "sub", version, "-d", *words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._timer = threading.Timer(PATIENCE, self._process.kill)
        self._timer.start()
        t.defer(self._end)
        self.lines = []
        while wait and not self.line().startswith("Subscribed"):
            pass

    def line(self):
        """The next line, of its talk about packets or of its output."""
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"mosquitto_sub ended after {self.lines[-3:]}: {self._process.stderr.read()}")
        self.lines.append(line.rstrip("\n"))
        return self.lines[-1]

    def message(self):
        """The next line that is output."""
        while (line := self.line()).startswith(("Client ", "Subscribed")):
            pass
        return line

    def wait(self):
        """Waits for its end; the exit code."""
        self._process.stdout.read()
        return self._process.wait()

    def _end(self):
        self._timer.cancel()
        self._process.kill()
        self._process.wait()


@case("pub sub", "waits")
def round_trips(t):
    for version in VERSIONS:
        topic = t.unique()
        s = Subscriber(t, version, "-t", topic + "/#", "-q", 2, "-F", "%t %q %r %p")
        for qos in (0, 1, 2):
            pub(t, version, "-t", f"{topic}/{qos}", "-q", qos, "-m", "hello")
            equal(s.message(), f"{topic}/{qos} {qos} 0 hello")


def send_lines(t, version, qos):
    """Sends 500 lines through the server."""
    topic = t.unique()
    s = Subscriber(t, version, "-t", topic, "-q", qos, "-C", 500)
    text = "".join(f"line {n}\n" for n in range(500))
    pub(t, version, "-t", topic, "-q", qos, "-l", text=text.encode())
    equal([s.message() for _ in range(500)], text.splitlines(), f"{version} QoS {qos}")
    equal(s.wait(), 0)


@case("pub -l sub -C", "waits")
def lines(t):
    for version in ("mqttv31", "mqttv311"):
        for qos in (0, 1, 2):
            send_lines(t, version, qos)
    send_lines(t, "mqttv5", 0)


@case("pub -l sub -C", "waits", ("mosquitto", "2.0.11 sends more than the client's receive maximum"))
def lines_of_v5(t):
    for qos in (1, 2):
        send_lines(t, "mqttv5", qos)


@case("pub -r sub --retained-only, --remove-retained", "waits")
def retained(t):
    topic = t.unique()
    for name in "ab":
        pub(t, "mqttv5", "-t", f"{topic}/{name}", "-r", "-q", 1, "-m", name)
    s = Subscriber(t, "mqttv5", "-t", topic + "/+", "--retained-only", "-C", 2, "-F", "%p %r")
    equal(sorted(s.message() for _ in range(2)), ["a 1", "b 1"])
    s = Subscriber(t, "mqttv311", "-t", topic + "/+", "--remove-retained", "-C", 2, "-F", "%p")
    equal(sorted(s.message() for _ in range(2)), ["a", "b"])
    s.wait()
    c = Client(t)
    c.subscribe(topic + "/+", topic)
    pub(t, "mqttv5", "-t", topic, "-m", "last")
    equal(c.until(b"last"), [])


@case("sub -c: persistent session", "waits")
def persistent_session(t):
    for version, more in (("mqttv311", ()), ("mqttv5", ("-x", 600))):
        topic, name = t.unique(), t.unique()
        options = ("-t", topic, "-q", 1, "-i", name, "-c", *more)
        s = Subscriber(t, version, *options, "-C", 1)
        pub(t, version, "-t", topic, "-q", 1, "-m", "first")
        equal(s.message(), "first")
        equal(s.wait(), 0)
        for n in range(20):
            pub(t, version, "-t", topic, "-q", 1, "-m", n)
        # What waits comes before the answer to its SUBSCRIBE.
        s = Subscriber(t, version, *options, "-C", 20, wait=False)
        equal([s.message() for _ in range(20)], [str(n) for n in range(20)])


@case("sub --will", "waits")
def will(t):
    topic = t.unique()
    c = Client(t)
    c.subscribe(topic, qos=1)
    s = Subscriber(t, "mqttv5", "-t", topic + "/x", "--will-topic", topic, "--will-payload", "gone", "--will-qos", 1)
    s._process.kill()
    equal(c.take().payload, b"gone")


@case("properties: pub -D, sub -F", "waits")
def properties(t):
    topic = t.unique()
    s = Subscriber(t, "mqttv5", "-t", topic, "-F", "%p %C %R %D %E %P", "-D", "SUBSCRIBE", "subscription-identifier", 5)
    pub(t, "mqttv5", "-t", topic, "-m", "x",
        *"-D publish content-type json -D publish response-topic answers -D publish correlation-data 12".split(),
        *"-D publish message-expiry-interval 600 -D publish user-property a b".split())  # fmt: skip
    found = s.message().split(" ")
    equal(found[0:4] + found[5:], ["x", "json", "answers", "12", "a:b"])
    equal(590 <= int(found[4]) <= 600, True)


@case("rr: request and response", "waits")
def request_response(t):
    topic = t.unique()
    server = Client(t)
    server.subscribe(topic, qos=1)
    done = subprocess.Popen(
        command(t, "rr", "mqttv5", "-t", topic, "-e", topic + "/answer", "-q", 1, "-m", "question"),
        stdout=subprocess.PIPE,
    )
    t.defer(done.kill)
    found = server.take()
    answer_to = found.value(0x08)
    equal((found.payload, answer_to), (b"question", topic + "/answer"))
    correlation = [(0x09, found.value(0x09))] if found.value(0x09) is not None else []
    Client(t).publish(answer_to, b"answer", 1, properties=correlation)
    equal(done.communicate(timeout=PATIENCE)[0], b"answer\n")


@case("sub: shared subscriptions and many filters", "waits")
def shared(t):
    topic = t.unique()
    group = [Subscriber(t, v, "-t", f"$share/g/{topic}", "-t", topic + "-last", "-q", 1) for v in ("mqttv311", "mqttv5")]
    for n in range(10):
        pub(t, "mqttv5", "-t", topic, "-q", 1, "-m", n)
    pub(t, "mqttv5", "-t", topic + "-last", "-q", 1, "-m", "last")
    heard = []
    for s in group:
        while (line := s.message()) != "last":
            heard.append(line)
    equal(sorted(heard), sorted(str(n) for n in range(10)))


@case("pub -f: a large file; pub -n: none", "waits")
def payloads(t):
    topic = t.unique()
    c = Client(t)
    c.subscribe(topic, qos=2)
    pub(t, "mqttv311", "-t", topic, "-q", 2, "-s", text=b"\0\xff" * 500_000)
    equal(c.take().payload, b"\0\xff" * 500_000)
    pub(t, "mqttv311", "-t", topic, "-q", 2, "-n")
    equal(c.take().payload, b"")


@case("pub: a topic that is not allowed", "waits")
def refused_publish(t):
    done = subprocess.run(
        command(t, "pub", "mqttv5", "-t", "$SYS/broker/version", "-q", 1, "-m", "x"),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    equal(b"Not authorized" in done.stderr, True, done.stderr)


@case("sub: $SYS", "waits")
def system_topics(t):
    s = Subscriber(t, "mqttv311", "-t", "$SYS/broker/version", "-C", 1)
    equal(bool(s.message()), True)


if __name__ == "__main__":
    suite.run()
