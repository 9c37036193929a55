"""Statistics: keys in their order, types, and what moves each counter."""

import os
import re
import time

from harness.suite import case, equal
from wire import Connection, worker

SERVER_KEYS = """
current-jobs-urgent current-jobs-ready current-jobs-reserved current-jobs-delayed current-jobs-buried
cmd-put cmd-peek cmd-peek-ready cmd-peek-delayed cmd-peek-buried cmd-reserve cmd-reserve-with-timeout cmd-delete
cmd-release cmd-use cmd-watch cmd-ignore cmd-bury cmd-kick cmd-touch cmd-stats cmd-stats-job cmd-stats-tube
cmd-list-tubes cmd-list-tube-used cmd-list-tubes-watched cmd-pause-tube job-timeouts total-jobs max-job-size
current-tubes current-connections current-producers current-workers current-waiting total-connections pid version
rusage-utime rusage-stime uptime binlog-oldest-index binlog-current-index binlog-records-migrated
binlog-records-written binlog-max-size draining id hostname os platform
""".split()

TUBE_KEYS = """
name current-jobs-urgent current-jobs-ready current-jobs-reserved current-jobs-delayed current-jobs-buried total-jobs
current-using current-watching current-waiting cmd-delete cmd-pause-tube pause pause-time-left
""".split()

JOB_KEYS = "id tube state pri age delay ttr time-left file reserves timeouts releases buries kicks".split()

#: Values that are not whole numbers, and what they look like.
FORMATS = {
    "version": r'"[^"]+"',
    "rusage-utime": r"\d+\.\d{6}",
    "rusage-stime": r"\d+\.\d{6}",
    "draining": r"true|false",
    "id": r"[0-9a-f]{16}",
    "hostname": r'"[^"]*"',
    "os": r'"[^"]*"',
    "platform": r'"[^"]*"',
}

#: Strings that 1.12 writes without quotes.
PLAIN_IN_1_12 = {"version", "hostname", "os", "platform"}


def quoted(context, text):
    """A string as the flavour writes it."""
    return f'"{text}"' if context.flavour != "1.12" else text


@case("stats")
def server_keys_and_types(t):
    row = Connection(t).stats()
    equal(list(row), SERVER_KEYS, "keys")
    for key, value in row.items():
        pattern = FORMATS.get(key, r"\d+")
        if t.flavour == "1.12" and key in PLAIN_IN_1_12:
            pattern = r'.*'
        if not re.fullmatch(pattern, value):
            raise AssertionError(f"{key}: {value!r} does not look like {pattern}")


@case("stats-tube")
def tube_keys_and_types(t):
    tube = t.tube()
    row = worker(t, tube).stats(f"stats-tube {tube}")
    equal(list(row), TUBE_KEYS, "keys")
    equal(row.pop("name"), quoted(t, tube))
    equal([k for k, v in row.items() if not v.isdigit()], [], "values that are not numbers")


@case("stats-tube")
def unknown_tube(t):
    c, tube = Connection(t), t.tube()
    equal(c.command(f"stats-tube {tube}"), "NOT_FOUND")
    equal(tube in c.names("list-tubes"), False)


@case("stats-job")
def job_keys_and_types(t):
    tube = t.tube()
    c = worker(t, tube)
    job = c.put(b"abc", pri=77, delay=0, ttr=33)
    row = c.stats(f"stats-job {job}")
    equal(list(row), JOB_KEYS, "keys")
    row.pop("file")
    equal(
        row,
        {
            "id": str(job), "tube": quoted(t, tube), "state": "ready", "pri": "77", "age": "0", "delay": "0",
            "ttr": "33", "time-left": "0", "reserves": "0", "timeouts": "0", "releases": "0", "buries": "0",
            "kicks": "0",
        },
    )  # fmt: skip
    equal(c.command("stats-job 9999999999"), "NOT_FOUND")


@case("stats-job")
def job_counters_follow_its_life(t):
    c = worker(t, t.tube())
    job = c.put(ttr=500)

    def row(*keys):
        stats = c.stats(f"stats-job {job}")
        return tuple(stats[k] for k in keys)

    c.take()
    equal(row("state", "reserves"), ("reserved", "1"))
    equal(row("time-left")[0] in ("499", "500"), True, "time-left of a reserved job")
    c.command(f"release {job} 5 400")
    equal(row("state", "releases", "delay"), ("delayed", "1", "400"))
    equal(row("time-left")[0] in ("399", "400"), True, "time-left of a delayed job")
    c.command("kick 1")
    equal(row("state", "kicks", "time-left"), ("ready", "1", "0"))
    c.take()
    c.command(f"bury {job} 6")
    equal(row("state", "buries", "pri", "time-left"), ("buried", "1", "6", "0"))
    c.command(f"kick-job {job}")
    equal(row("state", "kicks", "reserves", "releases", "buries"), ("ready", "2", "2", "1", "1"))


@case("stats")
def command_counters(t):
    tube = t.tube()
    c = Connection(t)
    before = c.stats()
    c.command(f"use {tube}")
    c.command(f"watch {tube}")
    c.command("ignore default")
    job = c.put()
    c.peek(f"peek {job}")
    c.peek("peek-ready")
    c.command("peek-delayed")
    c.command("peek-buried")
    c.send(b"reserve\r\n")
    c.job("RESERVED")
    c.command(f"touch {job}")
    c.command(f"release {job} 0 0")
    c.take()
    c.command(f"bury {job} 0")
    c.command("kick 1")
    c.document(f"stats-job {job}")
    c.document(f"stats-tube {tube}")
    c.document("list-tubes")
    c.command("list-tube-used")
    c.document("list-tubes-watched")
    c.command(f"pause-tube {tube} 1")
    c.command(f"delete {job}")
    after = c.stats()
    for key in SERVER_KEYS:
        if key.startswith("cmd-"):
            equal(int(after[key]) - int(before[key]), 1, key)
    equal(int(after["total-jobs"]) - int(before["total-jobs"]), 1, "total-jobs")
    equal(int(after["current-tubes"]) - int(before["current-tubes"]), 1, "current-tubes")


@case("stats")
def refused_commands_are_not_counted(t):
    c = Connection(t)
    before = c.stats()
    c.command("delete x")
    c.command("kick")
    c.command("use -bad")
    c.command("stats-job")
    after = c.stats()
    for key in ("cmd-delete", "cmd-kick", "cmd-use", "cmd-stats-job"):
        equal(after[key], before[key], key)


@case("stats")
def jobs_are_counted_by_state(t):
    tube = t.tube()
    c = worker(t, tube)
    before = c.stats()
    c.put(pri=1023)
    c.put(pri=1024)
    c.put(delay=1000)
    buried, held = c.put(pri=0), c.put(pri=1)
    equal(c.take()[0], buried)
    equal(c.command(f"bury {buried} 0"), "BURIED")
    equal(c.take()[0], held)
    expected = {"urgent": 1, "ready": 2, "reserved": 1, "delayed": 1, "buried": 1}
    after, row = c.stats(), c.stats(f"stats-tube {tube}")
    for state, count in expected.items():
        key = f"current-jobs-{state}"
        equal(row[key], str(count), f"tube's {key}")
        equal(int(after[key]) - int(before[key]), count, f"server's {key}")
    equal(row["total-jobs"], "5")


def settled(connection):
    """Statistics once the server has noticed that the connections of earlier cases are closed."""
    deadline = time.monotonic() + 20
    rows = connection.stats()
    while int(rows["current-connections"]) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
        rows = connection.stats()
    return rows


@case("stats stats-tube")
def connections_are_counted_by_role(t):
    tube = t.tube()
    c = worker(t, tube)
    before = settled(c)
    producer, taker, idle = worker(t, tube), worker(t, tube), Connection(t)
    idle.command("list-tube-used")
    job = producer.put()
    taker.take()
    taker.command(f"delete {job}")
    taker.send(b"reserve\r\n")
    equal(taker.silent(), True)
    after = c.stats()
    growth = {k: int(after[k]) - int(before[k]) for k in after if k.endswith(("connections", "producers", "workers"))}
    equal(
        growth,
        {"current-connections": 3, "current-producers": 1, "current-workers": 1, "total-connections": 3},
    )
    row = c.stats(f"stats-tube {tube}")
    equal((row["current-using"], row["current-watching"], row["current-waiting"]), ("3", "3", "1"))
    equal(row["cmd-delete"], "1")


@case("stats")
def the_process_is_named(t):
    row = Connection(t).stats()
    if t.pid is not None:
        equal(int(row["pid"]), t.pid, "pid")
        equal(row["hostname"].strip('"'), os.uname().nodename, "hostname")
