"""Registers cases, runs them against one server and reports one line each.

A suite is a module whose functions carry `@case`. Each case gets a `Context`, which opens connections, hands out tube
names nobody else uses and cleans both up. Cases marked `waits` spend their time waiting for the server's clock; they
share nothing, so they run side by side. Cases marked `alone` look at counters of the whole server and run one by one
before the others; `last` is for what cannot be undone.

A case that states where the reference server is known to differ (`differs`) is still run against that server: it has to
fail there, so that the list of differences stays true, and counts as skipped with the reason.

The report is one line a case (`ok NAME`, `FAIL NAME: why`, `skip NAME: why`) and the totals on the last line.
"""

import argparse
import concurrent.futures
import itertools
import json
import sys
import threading
import time
import traceback

_CASES = []
_RUN = f"{time.time_ns() // 1_000_000:x}"

#: How many waiting cases run at once.
WAITERS = 24


class Skip(Exception):
    """Raised by a case that cannot run here; its text is the reason."""


def eventually(look, what, seconds=20):
    """Looks until it is true; what it then is. Only what fails takes so long."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.02)


class Case:
    """One registered case."""

    def __init__(self, name, function, covers, kind, differs):
        self.function = function
        self.covers = covers.split()
        self.kind = kind
        self.name = name
        self.differs = differs


def add(name, function, covers, kind="alone", *differs):
    """Registers a case that is a row of a table.

    `differs` are pairs: the flavour of server that answers otherwise, and what it does instead.
    """
    if kind not in ("alone", "waits", "last"):
        raise ValueError(f"unknown kind of case: {kind}")
    if any(other.name == name for other in _CASES):
        raise ValueError(f"two cases are called {name}")
    _CASES.append(Case(name, function, covers, kind, dict(differs)))


def case(covers, kind="alone", *differs):
    """Registers a case. `covers` names the commands or rules it exercises."""

    def register(function):
        add(function.__name__, function, covers, kind, *differs)
        return function

    return register


class Context:
    """What a case may use."""

    _numbers = itertools.count(1)

    def __init__(self, options, name):
        self.host, port = options.target.rsplit(":", 1)
        self.port = int(port)
        self.flavour = options.flavour
        self.pid = options.pid
        self.websocket = options.websocket
        self.beside = options.beside
        self.start = options.start
        self.peer = options.peer
        self._name = name
        self._cleanups = []

    def unique(self):
        """A name that no other case uses, nor one of an earlier run against the same server."""
        return f"{self._name[:60]}-{_RUN}-{next(Context._numbers)}"

    #: For protocols whose names are those of tubes.
    tube = unique

    def defer(self, function):
        """Runs `function` when the case ends, last first."""
        self._cleanups.append(function)

    def close(self):
        """Runs what was deferred. A failing clean-up does not hide the case's own result."""
        for function in reversed(self._cleanups):
            try:
                function()
            except OSError:
                pass


def equal(actual, expected, what="value"):
    """Fails the case unless both are equal."""
    if actual != expected:
        raise AssertionError(f"{what}: expected {expected!r}, got {actual!r}")


def _run(entry, options):
    """Runs one case and returns its line of the report.

    beanstalkd 1.12 now and then loses the timer of a connection until that connection's next command, so a case that
    waits for the clock gets more attempts there. Longtail gets one.
    """
    attempts = 4 if options.flavour == "1.12" and entry.kind == "waits" else 1
    for _ in range(attempts):
        line = _attempt(entry, options)
        if not line.startswith("FAIL"):
            break
    if options.flavour in entry.differs:
        if line.startswith("ok"):
            return f"FAIL {entry.name}: {options.flavour} is said to differ here and does not: {entry.differs[options.flavour]}"
        if line.startswith("FAIL"):
            return f"skip {entry.name}: {options.flavour} differs: {entry.differs[options.flavour]}"
    return line


def _attempt(entry, options):
    context = Context(options, entry.name)
    try:
        entry.function(context)
    except Skip as why:
        return f"skip {entry.name}: {why}"
    except Exception as error:  # a case may fail in any way, and the others still have to run
        frames = traceback.extract_tb(error.__traceback__)
        here = next((f for f in reversed(frames) if f.name == entry.function.__name__), frames[-1])
        text = str(error) or type(error).__name__
        return f"FAIL {entry.name}: {text} (line {here.lineno}: {here.line})"
    finally:
        context.close()
    return f"ok {entry.name}"


def main():
    """Runs the registered cases as the command line says and exits with 0 only when none failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True, help="host:port of the server")
    parser.add_argument("--flavour", default="1.13", help="whose behaviour to expect")
    parser.add_argument("--pid", type=int, help="process id of the server, for cases that send it a signal")
    parser.add_argument("--websocket", help="host:port where the server speaks WebSocket")
    parser.add_argument("--beside", help="host:port where the server speaks the suite's second protocol")
    parser.add_argument("--start", type=json.loads, help="how to start such a server, for cases that end it: JSON")
    parser.add_argument("--peer", type=json.loads, help="how to start the original as the other side: JSON")
    parser.add_argument("--list", action="store_true", help="print what each case covers")
    parser.add_argument("only", nargs="*", help="names of cases to run")
    options = parser.parse_args()
    entries = [c for c in _CASES if not options.only or c.name in options.only]
    if options.list:
        for entry in entries:
            print(f"{entry.name}: {' '.join(entry.covers)}")
        return 0

    totals = {"ok": 0, "FAIL": 0, "skip": 0}
    lock = threading.Lock()

    def report(line):
        with lock:
            print(line, flush=True)
            totals[line.split(" ", 1)[0]] += 1

    for entry in (c for c in entries if c.kind == "alone"):
        report(_run(entry, options))
    # 1.12 loses timers the more often the more connections are busy.
    waiters = 1 if options.flavour == "1.12" else WAITERS
    with concurrent.futures.ThreadPoolExecutor(waiters) as pool:
        for done in [pool.submit(_run, c, options) for c in entries if c.kind == "waits"]:
            report(done.result())
    for entry in (c for c in entries if c.kind == "last"):
        report(_run(entry, options))

    print(f"{totals['ok']} passed, {totals['FAIL']} failed, {totals['skip']} skipped", flush=True)
    return 1 if totals["FAIL"] or not entries else 0


def run():
    """`main`, as a process."""
    sys.exit(main())
