"""Rules about seconds: delays, time to run, the safety margin, timeouts, pauses.

A machine that does more than this may stand still for a while, so nothing is said of how late something comes. That it
does not come too early is measured with the client's clock, from before it was asked for, and what a case looks at
before a time is over has seconds for it. Where the rules leave only one second, `in_time` tells who is late.
"""

import functools
import time

from harness.suite import case, equal, eventually
from wire import worker

#: How much earlier by the client's clock than by the server's something may come, in seconds.
MARGIN = 0.05

#: How often a case that was late is done again.
ATTEMPTS = 5


def in_time(seconds):
    """For what has to be done within so many seconds, by the rules of the protocol.

    A case that fails when they are over by its own clock has shown nothing: what it asked for was answered, or even
    asked, too late. It is done again. One that fails before has failed.
    """

    def punctual(function):
        @functools.wraps(function)
        def run(t):
            for attempt in range(ATTEMPTS):
                start = time.monotonic()
                try:
                    return function(t)
                except AssertionError:
                    if attempt == ATTEMPTS - 1 or time.monotonic() - start < seconds:
                        raise

        return run

    return punctual


class Watch:
    """A stopwatch."""

    def __init__(self):
        self.start = time.monotonic()

    @property
    def passed(self):
        """Seconds since it was started."""
        return time.monotonic() - self.start

    def shows(self, seconds, what):
        """Fails the case when less than `seconds` have passed."""
        passed = self.passed
        if passed < seconds - MARGIN:
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
    job = c.put(b"later", delay=4)
    equal(c.stats(f"stats-job {job}")["state"], "delayed")
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")
    equal(c.take(20), (job, b"later"))
    watch.shows(4, "delayed job")


@case("release delay", kind="waits")
def a_job_released_with_delay_comes_back(t):
    c = worker(t, t.tube())
    job = c.put()
    c.take()
    watch = Watch()
    equal(c.command(f"release {job} 0 4"), "RELEASED")
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")
    equal(c.take(20)[0], job)
    watch.shows(4, "released job")


@case("ttr", kind="waits")
def an_expired_job_is_ready_again(t):
    tube = t.tube()
    slow, other = worker(t, tube), worker(t, tube)
    before = int(other.stats()["job-timeouts"])
    job = slow.put(b"work", pri=3, ttr=4)
    watch = Watch()
    slow.take()
    equal(other.take(20), (job, b"work"))
    watch.shows(4, "expired job")
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
    eventually(lambda: look.stats(f"stats-job {job}")["state"] == "ready", "it expires")
    equal(c.command(f"release {job} 0 0"), "NOT_FOUND")
    equal(c.command(f"bury {job} 0"), "NOT_FOUND")
    equal(c.command(f"touch {job}"), "NOT_FOUND")
    equal(c.command(f"delete {job}"), "DELETED")


@case("touch", kind="waits")
def touch_restarts_the_whole_ttr(t):
    tube = t.tube()
    c, other = worker(t, tube), worker(t, tube)
    job = c.put(ttr=5)
    c.take()
    rest(2.5)
    watch = Watch()
    equal(c.command(f"touch {job}"), "TOUCHED")
    equal(other.take(20)[0], job)
    watch.shows(5, "expiry after the touch")


@case("DEADLINE_SOON touch", kind="waits")
@in_time(1)
def deadline_soon_at_once_in_the_last_second(t):
    c = worker(t, t.tube())
    job = c.put(ttr=1)
    c.take()
    for command in ("reserve", "reserve-with-timeout 0", "reserve-with-timeout 5"):
        equal(c.command(command), "DEADLINE_SOON", command)
    equal(c.command(f"touch {job}"), "TOUCHED")
    equal(c.command(f"delete {job}"), "DELETED")
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")


@case("DEADLINE_SOON", kind="waits")
@in_time(3)
def deadline_soon_wakes_a_blocked_reserve(t):
    c = worker(t, t.tube())
    c.put(ttr=3)
    watch = Watch()
    c.take()
    equal(c.command("reserve-with-timeout 30"), "DEADLINE_SOON")
    watch.shows(2, "DEADLINE_SOON")
    equal(c.silent(0.3), True, "exactly one reply")


@case("DEADLINE_SOON", kind="waits")
@in_time(1)
def deadline_soon_gives_way_to_a_ready_job(t):
    c = worker(t, t.tube())
    c.put(ttr=1, pri=0)
    ready = c.put(ttr=60, pri=5)
    c.take()
    equal(c.take()[0], ready)


@case("DEADLINE_SOON", kind="waits")
@in_time(1)
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
    c.put(ttr=30)
    c.take()
    watch = Watch()
    equal(c.command("reserve-with-timeout 1"), "TIMED_OUT")
    watch.shows(1, "TIMED_OUT")


@case("pause-tube", kind="waits")
def a_pause_ends_by_itself_and_wakes_waiters(t):
    tube = t.tube()
    c, producer = worker(t, tube), worker(t, tube)
    c.send(b"reserve-with-timeout 30\r\n")
    equal(c.silent(), True)
    watch = Watch()
    equal(producer.command(f"pause-tube {tube} 4"), "PAUSED")
    job = producer.put()
    equal(c.silent(0.3), True, "paused")
    equal(c.job("RESERVED")[0], job)
    watch.shows(4, "end of the pause")
    row = producer.stats(f"stats-tube {tube}")
    equal((row["pause"], row["pause-time-left"]), ("0", "0"))


@case("pause-tube", kind="waits")
def a_timeout_runs_on_during_a_pause(t):
    tube = t.tube()
    c = worker(t, tube)
    c.put()
    c.command(f"pause-tube {tube} 30")
    watch = Watch()
    equal(c.command("reserve-with-timeout 1"), "TIMED_OUT")
    watch.shows(1, "TIMED_OUT")


@case("stats-job age", kind="waits")
def age_counts_from_the_put(t):
    c = worker(t, t.tube())
    watch = Watch()
    job = c.put()
    rest(1.5)
    c.take()
    c.command(f"release {job} 0 0")
    age = int(c.stats(f"stats-job {job}")["age"])
    equal(1 <= age <= watch.passed, True, f"{age} seconds old")


@case("stats-job time-left", kind="waits")
def time_left_is_truncated(t):
    c = worker(t, t.tube())
    watch = Watch()
    job, delayed = c.put(ttr=100, pri=1), c.put(delay=100)
    c.take()
    rest(1.5)
    for one in (job, delayed):
        left = int(c.stats(f"stats-job {one}")["time-left"])
        equal(99 - watch.passed <= left <= 98, True, f"{left} seconds left")


@case("delay order", kind="waits")
def delayed_jobs_become_ready_in_their_order(t):
    c = worker(t, t.tube())
    watch = Watch()
    second, first = c.put(delay=5, pri=0), c.put(delay=2, pri=9)
    equal(c.take(20)[0], first)
    watch.shows(2, "first job")
    equal(c.take(20)[0], second)
    watch.shows(5, "second job")
