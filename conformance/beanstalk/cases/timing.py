"""Rules about seconds: delays, time to run, the safety margin, timeouts, pauses.

Each case measures with the client's clock and leaves at least 0.4 s between what it expects and what would be wrong.
"""

import time

from harness.suite import case, equal
from wire import worker

#: How far a moment may be off, in seconds.
MARGIN = 0.4


class Watch:
    """A stopwatch that knows what it should show."""

    def __init__(self):
        self.start = time.monotonic()

    def shows(self, seconds, what):
        """Fails the case when the time passed is not about `seconds`."""
        passed = time.monotonic() - self.start
        if not seconds - MARGIN < passed < seconds + 2 * MARGIN:
            raise AssertionError(f"{what} after {passed:.2f} s, expected {seconds} s")


def rest(seconds):
    """Lets the server's clock move."""
    time.sleep(seconds)


@case("reserve-with-timeout", kind="waits")
def a_timeout_comes_once(t):
    c = worker(t, t.tube())
    watch = Watch()
    equal(c.command("reserve-with-timeout 1"), "TIMED_OUT")
    watch.shows(1, "TIMED_OUT")
    equal(c.silent(1.2), True, "exactly one reply")


@case("put delay", kind="waits")
def a_delayed_job_becomes_ready(t):
    c = worker(t, t.tube())
    watch = Watch()
    job = c.put(b"later", delay=1)
    equal(c.stats(f"stats-job {job}")["state"], "delayed")
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")
    equal(c.take(5), (job, b"later"))
    watch.shows(1, "delayed job")


@case("release delay", kind="waits")
def a_job_released_with_delay_comes_back(t):
    c = worker(t, t.tube())
    job = c.put()
    c.take()
    watch = Watch()
    equal(c.command(f"release {job} 0 1"), "RELEASED")
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")
    equal(c.take(5)[0], job)
    watch.shows(1, "released job")


@case("ttr", kind="waits")
def an_expired_job_is_ready_again(t):
    tube = t.tube()
    slow, other = worker(t, tube), worker(t, tube)
    before = int(other.stats()["job-timeouts"])
    job = slow.put(b"work", pri=3, ttr=1)
    watch = Watch()
    slow.take()
    equal(other.take(5), (job, b"work"))
    watch.shows(1, "expired job")
    row = other.stats(f"stats-job {job}")
    equal((row["timeouts"], row["pri"], row["reserves"]), ("1", "3", "2"))
    equal(int(other.stats()["job-timeouts"]) > before, True, "job-timeouts grows")
    for command in (f"touch {job}", f"bury {job} 0", f"release {job} 0 0", f"delete {job}"):
        equal(slow.command(command), "NOT_FOUND", command)


@case("ttr delete", kind="waits")
def the_former_owner_may_delete_an_expired_job(t):
    tube = t.tube()
    c, look = worker(t, tube), worker(t, t.tube())
    job = c.put(ttr=1)
    c.take()
    rest(1.5)
    equal(look.stats(f"stats-job {job}")["state"], "ready")
    equal(c.command(f"release {job} 0 0"), "NOT_FOUND")
    equal(c.command(f"bury {job} 0"), "NOT_FOUND")
    equal(c.command(f"touch {job}"), "NOT_FOUND")
    equal(c.command(f"delete {job}"), "DELETED")


@case("touch", kind="waits")
def touch_restarts_the_whole_ttr(t):
    tube = t.tube()
    c, other = worker(t, tube), worker(t, tube)
    job = c.put(ttr=2)
    c.take()
    rest(1.4)
    equal(c.command(f"touch {job}"), "TOUCHED", "in the last second")
    watch = Watch()
    equal(other.take(6)[0], job)
    watch.shows(2, "expiry after the touch")


@case("DEADLINE_SOON", kind="waits")
def deadline_soon_at_once_in_the_last_second(t):
    c = worker(t, t.tube())
    job = c.put(ttr=1)
    c.take()
    for command in ("reserve", "reserve-with-timeout 0", "reserve-with-timeout 5"):
        equal(c.command(command), "DEADLINE_SOON", command)
    equal(c.command(f"delete {job}"), "DELETED")
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")


@case("DEADLINE_SOON", kind="waits")
def deadline_soon_wakes_a_blocked_reserve(t):
    c = worker(t, t.tube())
    c.put(ttr=2)
    watch = Watch()
    c.take()
    equal(c.command("reserve-with-timeout 30"), "DEADLINE_SOON")
    watch.shows(1, "DEADLINE_SOON")
    equal(c.silent(0.3), True, "exactly one reply")


@case("DEADLINE_SOON", kind="waits")
def deadline_soon_gives_way_to_a_ready_job(t):
    c = worker(t, t.tube())
    c.put(ttr=1, pri=0)
    ready = c.put(ttr=60, pri=5)
    c.take()
    equal(c.take()[0], ready)


@case("DEADLINE_SOON", kind="waits")
def another_connection_has_its_own_deadlines(t):
    tube = t.tube()
    holder, other = worker(t, tube), worker(t, tube)
    holder.put(ttr=1)
    holder.take()
    equal(other.command("reserve-with-timeout 0"), "TIMED_OUT")


@case("DEADLINE_SOON reserve-job", kind="waits")
def reserve_job_never_answers_deadline_soon(t):
    c = worker(t, t.tube())
    c.put(ttr=1, pri=0)
    other = c.put(ttr=60, pri=1)
    c.take()
    c.send(b"reserve-job %d\r\n" % other)
    equal(c.job("RESERVED")[0], other)


@case("TIMED_OUT DEADLINE_SOON", kind="waits")
def a_shorter_timeout_wins_over_the_deadline(t):
    c = worker(t, t.tube())
    c.put(ttr=4)
    c.take()
    watch = Watch()
    equal(c.command("reserve-with-timeout 1"), "TIMED_OUT")
    watch.shows(1, "TIMED_OUT")


@case("pause-tube", kind="waits")
def a_pause_ends_by_itself_and_wakes_waiters(t):
    tube = t.tube()
    c, producer = worker(t, tube), worker(t, tube)
    c.send(b"reserve-with-timeout 10\r\n")
    equal(c.silent(), True)
    watch = Watch()
    equal(producer.command(f"pause-tube {tube} 1"), "PAUSED")
    job = producer.put()
    equal(c.silent(0.3), True, "paused")
    equal(c.job("RESERVED")[0], job)
    watch.shows(1, "end of the pause")
    row = producer.stats(f"stats-tube {tube}")
    equal((row["pause"], row["pause-time-left"]), ("0", "0"))


@case("pause-tube", kind="waits")
def a_timeout_runs_on_during_a_pause(t):
    tube = t.tube()
    c = worker(t, tube)
    c.put()
    c.command(f"pause-tube {tube} 5")
    watch = Watch()
    equal(c.command("reserve-with-timeout 1"), "TIMED_OUT")
    watch.shows(1, "TIMED_OUT")


@case("stats-job age", kind="waits")
def age_counts_from_the_put(t):
    c = worker(t, t.tube())
    job = c.put()
    rest(1.5)
    c.take()
    c.command(f"release {job} 0 0")
    equal(c.stats(f"stats-job {job}")["age"], "1")


@case("stats-job time-left", kind="waits")
def time_left_is_truncated(t):
    c = worker(t, t.tube())
    job, delayed = c.put(ttr=10, pri=1), c.put(delay=10)
    c.take()
    rest(1.5)
    equal(c.stats(f"stats-job {job}")["time-left"], "8")
    equal(c.stats(f"stats-job {delayed}")["time-left"], "8")


@case("delay order", kind="waits")
def delayed_jobs_become_ready_in_their_order(t):
    c = worker(t, t.tube())
    second, first = c.put(delay=2, pri=0), c.put(delay=1, pri=9)
    watch = Watch()
    equal(c.take(5)[0], first)
    watch.shows(1, "first job")
    equal(c.take(5)[0], second)
    watch.shows(2, "second job")
