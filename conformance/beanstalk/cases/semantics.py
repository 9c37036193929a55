"""What the commands mean together: order, ownership, waiting, draining. Nothing here waits for a second to pass."""

import os
import signal

from harness.suite import Skip, case, equal
from wire import Connection, worker


@case("order")
def lowest_priority_then_lowest_id(t):
    c = worker(t, t.tube())
    a, b, d, e = c.put(pri=5), c.put(pri=1), c.put(pri=5), c.put(pri=4294967295)
    f = c.put(pri=0)
    equal([c.take()[0] for _ in range(5)], [f, b, a, d, e])


@case("order release kick")
def a_returned_job_overtakes_newer_ones(t):
    c = worker(t, t.tube())
    a, b, d = (c.put(pri=2) for _ in range(3))
    equal(c.take()[0], a)
    equal(c.command(f"release {a} 2 0"), "RELEASED")
    equal(c.take()[0], a, "released job goes first")
    equal(c.command(f"bury {a} 2"), "BURIED")
    equal(c.take()[0], b)
    equal(c.command("kick 1"), "KICKED 1")
    equal(c.take()[0], a, "kicked job goes first")
    equal(c.take()[0], d)


@case("order watch")
def a_reserve_takes_the_best_of_all_watched_tubes(t):
    first, second, third = t.tube(), t.tube(), t.tube()
    c = worker(t, first, second, third)
    one, two, three = worker(t, first), worker(t, second), worker(t, third)
    a, b, d, e = one.put(pri=3), three.put(pri=1), two.put(pri=2), two.put(pri=3)
    f = three.put(pri=3)
    equal([c.take()[0] for _ in range(5)], [b, d, a, e, f])


@case("waiting")
def the_oldest_waiter_is_served_first(t):
    # Two: with more, the original takes turns in an order of its own.
    tube = t.tube()
    waiters = [worker(t, tube) for _ in range(2)]
    producer = worker(t, tube)
    for count, w in enumerate(waiters, start=1):
        w.send(b"reserve\r\n")
        watch_for(producer, tube, "current-waiting", str(count))
    jobs = [producer.put() for _ in waiters]
    equal([w.job("RESERVED")[0] for w in waiters], jobs)


@case("waiting")
def a_waiter_gets_jobs_from_any_watched_tube(t):
    a, b = t.tube(), t.tube()
    waiter, producer = worker(t, a, b), worker(t, b)
    waiter.send(b"reserve-with-timeout 60\r\n")
    equal(waiter.silent(), True)
    job = producer.put(b"second tube")
    equal(waiter.job("RESERVED"), (job, b"second tube"))


@case("waiting release kick")
def waiters_are_woken_by_release_kick_and_close(t):
    tube = t.tube()
    holder, waiter = worker(t, tube), worker(t, tube)
    job = holder.put()
    holder.take()

    def wait():
        waiter.send(b"reserve\r\n")
        equal(waiter.silent(), True)

    def woken():
        equal(waiter.job("RESERVED")[0], job)
        equal(waiter.command(f"release {job} 0 0"), "RELEASED")
        equal(holder.take()[0], job)

    wait()
    equal(holder.command(f"release {job} 0 0"), "RELEASED")
    woken()
    holder.command(f"bury {job} 0")
    wait()
    equal(holder.command("kick 1"), "KICKED 1")
    woken()
    holder.command(f"release {job} 0 1000")
    wait()
    equal(holder.command(f"kick-job {job}"), "KICKED")
    woken()
    wait()
    holder.close()
    equal(waiter.job("RESERVED")[0], job)


@case("waiting")
def a_waiter_that_left_gets_nothing(t):
    tube = t.tube()
    gone, producer = worker(t, tube), worker(t, tube)
    gone.send(b"reserve\r\n")
    watch_for(producer, tube, "current-waiting", "1")
    gone.close()
    watch_for(producer, tube, "current-waiting", "0")
    job = producer.put()
    equal(producer.take()[0], job)


@case("close")
def a_closed_connection_gives_its_jobs_back(t):
    tube = t.tube()
    holder, c = worker(t, tube), worker(t, tube)
    jobs = [c.put() for _ in range(3)]
    for job in jobs:
        equal(holder.take()[0], job)
    holder.close()
    for job in jobs:
        equal(c.take(5)[0], job)
        row = c.stats(f"stats-job {job}")
        equal((row["timeouts"], row["releases"], row["reserves"]), ("0", "0", "2"))


@case("half-close reserve")
def a_half_closed_waiter_times_out(t):
    c = worker(t, t.tube())
    c.send(b"reserve\r\n")
    equal(c.silent(), True)
    c.shut_write()
    equal(c.line(), "TIMED_OUT")


@case("ignore")
def the_last_watched_tube_stays(t):
    c, tube = Connection(t), t.tube()
    equal(c.command("ignore default"), "NOT_IGNORED")
    equal(c.command(f"watch {tube}"), "WATCHING 2")
    equal(c.command("ignore default"), "WATCHING 1")
    equal(c.command(f"ignore {tube}"), "NOT_IGNORED")


@case("pause-tube")
def a_paused_tube_hides_its_jobs_only_from_reserve(t):
    tube = t.tube()
    c, other = worker(t, tube), Connection(t)
    job, more, held = c.put(pri=1), c.put(pri=2), c.put(pri=0)
    equal(c.take()[0], held)
    equal(c.command(f"pause-tube {tube} 1000"), "PAUSED")
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")
    equal(c.peek("peek-ready")[0], job)
    equal(c.command(f"touch {held}"), "TOUCHED")
    equal(c.command(f"delete {held}"), "DELETED")
    equal(other.command(f"delete {job}"), "DELETED")
    late = c.put()
    row = c.stats(f"stats-tube {tube}")
    equal((row["pause"], row["cmd-pause-tube"], row["current-jobs-ready"]), ("1000", "1", "2"))
    equal(int(row["pause-time-left"]) in (999, 1000), True, "pause-time-left")
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")
    c.send(b"reserve-job %d\r\n" % more)
    equal(c.job("RESERVED")[0], more, "by id, in spite of the pause")
    equal(c.peek("peek-ready")[0], late)


@case("pause-tube watch")
def a_pause_does_not_touch_other_tubes(t):
    paused, open_tube = t.tube(), t.tube()
    c, producer = worker(t, paused, open_tube), worker(t, open_tube)
    c.put(pri=0)
    equal(c.command(f"pause-tube {paused} 1000"), "PAUSED")
    job = producer.put(pri=9)
    equal(c.take()[0], job)


@case("pause-tube")
def pausing_for_zero_seconds_ends_a_pause(t):
    tube = t.tube()
    c = worker(t, tube)
    job = c.put()
    equal(c.command(f"pause-tube {tube} 1000"), "PAUSED")
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")
    equal(c.command(f"pause-tube {tube} 0"), "PAUSED")
    equal(c.take(5)[0], job)


@case("put")
def a_huge_put_does_not_block_others(t):
    slow, quick = worker(t, t.tube()), worker(t, t.tube())
    slow.send(b"put 0 0 60 60000\r\n" + b"x" * 30000)
    for _ in range(50):
        job = quick.put()
        equal(quick.command(f"delete {job}"), "DELETED")
    slow.send(b"x" * 30000 + b"\r\n")
    equal(slow.line().startswith("INSERTED "), True)


@case("put close")
def a_put_cut_off_in_its_body_leaves_nothing(t):
    tube = t.tube()
    cut, c = worker(t, tube), worker(t, tube)
    cut.send(b"put 0 0 60 100\r\nhalf")
    cut.close()
    watch_for(c, tube, "current-using", "1")
    equal(c.command("peek-ready"), "NOT_FOUND")
    equal(c.stats(f"stats-tube {tube}")["total-jobs"], "0")


@case("slow-reader")
def a_client_that_does_not_read_hurts_nobody(t):
    deaf, c = worker(t, t.tube()), worker(t, t.tube())
    job = deaf.put(b"z" * 60000)
    deaf.send(b"peek %d\r\n" % job * 400)
    for _ in range(50):
        equal(c.command(f"delete {c.put()}"), "DELETED")
    for _ in range(400):
        equal(deaf.job("FOUND"), (job, b"z" * 60000))


@case("put DRAINING SIGUSR1", kind="last")
def drain_mode_refuses_new_jobs(t):
    if t.pid is None:
        raise Skip("the server's process id is unknown")
    tube = t.tube()
    c = worker(t, tube)
    job = c.put(b"before")
    equal(c.stats()["draining"], "false")
    os.kill(t.pid, signal.SIGUSR1)
    while c.stats()["draining"] != "true":
        pass
    c.send(b"put 0 0 60 6\r\nrefuse\r\nlist-tube-used\r\n")
    equal([c.line(), c.line()], ["DRAINING", f"USING {tube}"], "the body is consumed")
    equal(c.take(), (job, b"before"))
    equal(c.command(f"release {job} 0 0"), "RELEASED")
    equal(c.command(f"delete {job}"), "DELETED")


def watch_for(connection, tube, key, value):
    """Asks for a tube's statistics until `key` has this value; fails after many answers with another one."""
    for _ in range(20_000):
        row = connection.stats(f"stats-tube {tube}")
        if row[key] == value:
            return
    raise AssertionError(f"{key} stays {row[key]}, expected {value}")
