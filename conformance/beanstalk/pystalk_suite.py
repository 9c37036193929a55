"""pystalk drives every command it offers; it reads statistics with a real YAML parser."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import pystalk  # noqa: E402
from harness import suite  # noqa: E402
from harness.suite import case, equal  # noqa: E402


def on_tube(t):
    """A client that uses and watches one fresh tube."""
    c = pystalk.BeanstalkClient(t.host, t.port, auto_decode=True)
    t.defer(c.close)
    tube = t.tube()
    c.use(tube)
    c.watchlist = {tube}
    return c, tube


def refused(message, function, *arguments):
    """Expects the server's error of this name."""
    try:
        function(*arguments)
    except pystalk.BeanstalkError as error:
        equal(error.message, message)
        return
    raise AssertionError(f"no {message}")


@case("put reserve-with-timeout delete")
def put_reserve_delete(t):
    c, _ = on_tube(t)
    _, job_id = c.put_job("héllo")
    job = c.reserve_job(timeout=0)
    equal((job.job_id, job.job_data), (job_id, "héllo"))
    c.delete_job(job_id)
    refused("NOT_FOUND", c.delete_job, job_id)
    refused("TIMED_OUT", c.reserve_job, 0)


@case("use put")
def put_into_another_tube(t):
    c, tube = on_tube(t)
    elsewhere = t.tube()
    with c.using(elsewhere) as inserter:
        _, job_id = inserter.put_job("x")
    c.put_job_into(elsewhere, "y")
    equal(c.stats_job(job_id)["tube"], elsewhere)
    equal(c.stats_tube(elsewhere)["current-jobs-ready"], 2)
    equal(c.stats_tube(tube)["current-using"], 1)


@case("watch ignore")
def watch_list(t):
    c, tube = on_tube(t)
    other = t.tube()
    c.watch(other)
    c.put_job_into(other, "there")
    equal(c.reserve_job(timeout=0).job_data, "there")
    c.ignore(other)
    equal(c.stats_tube(tube)["current-watching"], 1)
    c.put_job_into(other, "unseen")
    refused("TIMED_OUT", c.reserve_job, 0)


@case("release bury kick kick-job")
def life_of_a_job(t):
    c, _ = on_tube(t)
    _, job_id = c.put_job("x")
    c.reserve_job(timeout=0)
    c.release_job(job_id, pri=4, delay=90)
    row = c.stats_job(job_id)
    equal((row["state"], row["pri"], row["delay"]), ("delayed", 4, 90))
    c.kick_job(job_id)
    c.reserve_job(timeout=0)
    c.bury_job(job_id, pri=8)
    equal(c.stats_job(job_id)["state"], "buried")
    c.kick_jobs(5)
    equal(c.stats_job(job_id)["kicks"], 2)


@case("peek-ready peek-delayed peek-buried reserve-with-timeout")
def iterators(t):
    c, tube = on_tube(t)
    ids = [c.put_job(str(n))[1] for n in range(3)]
    equal(c.peek_ready().job_id, ids[0])
    seen = []
    for job in c.reserve_iter():
        seen.append(job.job_id)
        c.bury_job(job.job_id)
    equal(seen, ids)
    equal(c.peek_buried().job_id, ids[0])
    for job in c.peek_buried_iter():
        c.delete_job(job.job_id)
    _, delayed = c.put_job("later", delay=90)
    equal(c.peek_delayed().job_id, delayed)
    refused("NOT_FOUND", c.peek_ready)
    equal(c.stats_tube(tube)["cmd-delete"], 3)


@case("pause-tube")
def pause_and_unpause(t):
    c, tube = on_tube(t)
    c.put_job("x")
    c.pause_tube(tube, 90)
    equal(c.stats_tube(tube)["pause"], 90)
    refused("TIMED_OUT", c.reserve_job, 0)
    c.unpause_tube(tube)
    equal(c.reserve_job(timeout=5).job_data, "x")


@case("stats list-tubes")
def typed_statistics(t):
    c, tube = on_tube(t)
    equal(tube in c.list_tubes(), True)
    row = c.stats()
    equal([type(row[k]) for k in ("total-jobs", "uptime", "current-connections")], [int] * 3)
    equal(row["draining"] in (False, "false"), True)
    equal(type(row["hostname"]), str)
    refused("NOT_FOUND", c.stats_tube, t.tube())
    refused("NOT_FOUND", c.stats_job, 9_999_999_999)


if __name__ == "__main__":
    suite.run()
