"""greenstalk drives every command it offers."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import greenstalk  # noqa: E402
from harness import suite  # noqa: E402
from harness.suite import case, equal  # noqa: E402


def client(t, **options):
    """A client closed at the end of the case."""
    made = greenstalk.Client((t.host, t.port), **options)
    t.defer(made.close)
    return made


def on_tube(t, **options):
    """A client that uses and watches one fresh tube."""
    tube = t.tube()
    return client(t, use=tube, watch=tube, **options), tube


def refused(error, function, *arguments):
    """Expects the call to raise."""
    try:
        function(*arguments)
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


@case("put reserve delete")
def text_job(t):
    c, _ = on_tube(t)
    job_id = c.put("grüße")
    job = c.reserve()
    equal((job.id, job.body), (job_id, "grüße"))
    c.delete(job)
    refused(greenstalk.NotFoundError, c.delete, job)


@case("put reserve")
def binary_job(t):
    c, _ = on_tube(t, encoding=None)
    body = b"\r\n\0\xff" * 1000
    c.put(body)
    equal(c.reserve(timeout=0).body, body)
    c.put(b"")
    equal(c.reserve(timeout=0).body, b"")


@case("put")
def priority_delay_ttr(t):
    c, _ = on_tube(t)
    row = c.stats_job(c.put("x", priority=9, delay=100, ttr=33))
    equal((row["pri"], row["delay"], row["ttr"], row["state"]), (9, 100, 33, "delayed"))


@case("put JOB_TOO_BIG")
def job_too_big(t):
    c, _ = on_tube(t)
    refused(greenstalk.JobTooBigError, c.put, "x" * (c.stats()["max-job-size"] + 1))
    c.put("still usable")


@case("reserve-with-timeout TIMED_OUT")
def timed_out(t):
    c, _ = on_tube(t)
    refused(greenstalk.TimedOutError, c.reserve, 0)


@case("reserve DEADLINE_SOON", kind="waits")
def deadline_soon(t):
    c, _ = on_tube(t)
    # For the last of its seconds.
    c.put("x", ttr=4)
    c.reserve()
    refused(greenstalk.DeadlineSoonError, c.reserve)


@case("reserve-job")
def reserve_job(t):
    c, _ = on_tube(t)
    first, second = c.put("a"), c.put("b")
    equal(c.reserve_job(second).body, "b")
    equal(c.reserve().id, first)
    refused(greenstalk.NotFoundError, c.reserve_job, second)


@case("release bury touch kick kick-job")
def life_of_a_job(t):
    c, _ = on_tube(t)
    c.put("x")
    job = c.reserve()
    c.touch(job)
    c.release(job, priority=5, delay=100)
    equal(c.stats_job(job)["state"], "delayed")
    c.kick_job(job)
    equal(c.stats_job(job)["state"], "ready")
    job = c.reserve()
    c.bury(job, priority=7)
    row = c.stats_job(job)
    equal((row["state"], row["pri"]), ("buried", 7))
    equal(c.kick(10), 1)
    equal(c.kick(10), 0)
    refused(greenstalk.NotFoundError, c.bury, job)
    refused(greenstalk.NotFoundError, c.kick_job, job)
    refused(greenstalk.NotFoundError, c.touch, job)


@case("use watch ignore list-tube-used list-tubes-watched list-tubes")
def tubes(t):
    c = client(t)
    equal((c.using(), c.watching()), ("default", ["default"]))
    tube = t.tube()
    c.use(tube)
    equal(c.watch(tube), 2)
    equal(c.ignore("default"), 1)
    equal((c.using(), c.watching()), (tube, [tube]))
    equal(tube in c.tubes(), True)
    refused(greenstalk.NotIgnoredError, c.ignore, tube)
    refused(greenstalk.BadFormatError, c.use, "-no")


@case("peek peek-ready peek-delayed peek-buried")
def peeks(t):
    c, _ = on_tube(t)
    for peek in (c.peek_ready, c.peek_delayed, c.peek_buried):
        refused(greenstalk.NotFoundError, peek)
    buried = c.put("b")
    c.bury(c.reserve())
    delayed, ready = c.put("d", delay=100), c.put("r")
    equal((c.peek_ready().id, c.peek_delayed().id, c.peek_buried().id), (ready, delayed, buried))
    equal(c.peek(delayed).body, "d")


@case("stats stats-tube stats-job")
def typed_statistics(t):
    c, tube = on_tube(t)
    job = c.put("x")
    row = c.stats_job(job)
    equal((row["id"], row["tube"], row["state"]), (job, tube, "ready"))
    row = c.stats_tube(tube)
    equal((row["name"], row["current-jobs-ready"], row["current-using"]), (tube, 1, 1))
    row = c.stats()
    equal([type(row[k]) for k in ("cmd-put", "pid", "uptime", "max-job-size")], [int] * 4)
    equal(type(row["hostname"]), str)
    refused(greenstalk.NotFoundError, c.stats_tube, t.tube())


@case("pause-tube")
def pause(t):
    c, tube = on_tube(t)
    c.put("x")
    c.pause_tube(tube, 100)
    equal(c.stats_tube(tube)["pause"], 100)
    refused(greenstalk.TimedOutError, c.reserve, 0)
    c.pause_tube(tube, 0)
    equal(c.reserve(timeout=5).body, "x")
    refused(greenstalk.NotFoundError, c.pause_tube, t.tube(), 1)


if __name__ == "__main__":
    suite.run()
