"""Every command of the protocol: its replies, one by one."""

from harness.suite import case, equal
from wire import Connection, number, worker

#: An id no server hands out within a test run.
NOBODY = 9_999_999_999


@case("accept")
def server_is_silent_after_accept(t):
    equal(Connection(t).silent(), True, "silence")


@case("put reserve delete")
def put_reserve_delete(t):
    c = worker(t, t.tube())
    job = c.put(b"hello")
    equal(c.take(), (job, b"hello"))
    equal(c.command(f"delete {job}"), "DELETED")
    equal(c.command(f"delete {job}"), "NOT_FOUND")
    equal(c.command(f"peek {job}"), "NOT_FOUND")


@case("put")
def ids_ascend(t):
    c = worker(t, t.tube())
    ids = [c.put() for _ in range(20)]
    equal(ids, list(range(ids[0], ids[0] + 20)), "ids")


@case("put stats-job")
def put_with_ttr_zero_gets_one_second(t):
    c = worker(t, t.tube())
    equal(c.stats(f"stats-job {c.put(ttr=0)}")["ttr"], "1")


@case("use list-tube-used")
def use_selects_the_tube_of_put(t):
    c = Connection(t)
    equal(c.command("list-tube-used"), "USING default")
    tube = t.tube()
    equal(c.command(f"use {tube}"), f"USING {tube}")
    equal(c.command("list-tube-used"), f"USING {tube}")
    job = c.put()
    equal(c.stats(f"stats-job {job}")["tube"].strip('"'), tube)


@case("watch ignore list-tubes-watched")
def watch_list(t):
    c = Connection(t)
    a, b = t.tube(), t.tube()
    equal(c.names("list-tubes-watched"), ["default"])
    equal(c.command(f"watch {a}"), "WATCHING 2")
    equal(c.command(f"watch {a}"), "WATCHING 2")
    equal(c.command(f"watch {b}"), "WATCHING 3")
    equal(sorted(c.names("list-tubes-watched")), sorted(["default", a, b]))
    equal(c.command("ignore never-watched-by-anyone"), "WATCHING 3")
    equal(c.command(f"ignore {a}"), "WATCHING 2")
    equal(c.command("ignore default"), "WATCHING 1")
    equal(c.command(f"ignore {b}"), "NOT_IGNORED")
    equal(c.names("list-tubes-watched"), [b])


@case("reserve-with-timeout")
def poll_of_an_empty_tube_times_out(t):
    equal(worker(t, t.tube()).command("reserve-with-timeout 0"), "TIMED_OUT")


@case("reserve")
def reserve_blocks_until_a_put(t):
    tube = t.tube()
    waiter, producer = worker(t, tube), worker(t, tube)
    waiter.send(b"reserve\r\n")
    equal(waiter.silent(), True, "waiting")
    job = producer.put(b"late")
    equal(waiter.job("RESERVED"), (job, b"late"))
    equal(waiter.silent(), True, "exactly one reply")


@case("reserve-job")
def reserve_job_by_id_in_every_state(t):
    c, other = worker(t, t.tube()), Connection(t)
    ready, delayed, buried = c.put(b"r"), c.put(b"d", delay=1000), c.put(b"b")
    equal(c.command(f"reserve-job {buried}"), f"RESERVED {buried} 1")
    equal(c.body(1), b"b")
    equal(c.command(f"bury {buried} 0"), "BURIED")
    for job, body in ((ready, b"r"), (delayed, b"d"), (buried, b"b")):
        other.send(b"reserve-job %d\r\n" % job)
        equal(other.job("RESERVED"), (job, body))
        equal(other.stats(f"stats-job {job}")["state"], "reserved")
        equal(c.command(f"reserve-job {job}"), "NOT_FOUND")
        equal(other.command(f"reserve-job {job}"), "NOT_FOUND")
    equal(c.command(f"reserve-job {NOBODY}"), "NOT_FOUND")


@case("delete")
def delete_by_state_and_owner(t):
    c, other = worker(t, t.tube()), Connection(t)
    ready, delayed, buried, held = c.put(pri=5), c.put(delay=1000), c.put(pri=0), c.put(pri=1)
    equal(c.take()[0], buried)
    equal(c.command(f"bury {buried} 0"), "BURIED")
    equal(c.take()[0], held)
    equal(other.command(f"delete {held}"), "NOT_FOUND")
    for job in (ready, delayed, buried):
        equal(other.command(f"delete {job}"), "DELETED")
    equal(c.command(f"delete {held}"), "DELETED")
    equal(c.command(f"delete {NOBODY}"), "NOT_FOUND")


@case("release")
def release_changes_priority_and_delay(t):
    c, other = worker(t, t.tube()), Connection(t)
    job = c.put(pri=7)
    c.take()
    equal(other.command(f"release {job} 1 0"), "NOT_FOUND")
    equal(c.command(f"release {job} 9 0"), "RELEASED")
    row = c.stats(f"stats-job {job}")
    equal((row["state"], row["pri"], row["delay"], row["releases"]), ("ready", "9", "0", "1"))
    equal(c.command(f"release {job} 1 0"), "NOT_FOUND")
    c.take()
    equal(c.command(f"release {job} 3 500"), "RELEASED")
    row = c.stats(f"stats-job {job}")
    equal((row["state"], row["pri"], row["delay"], row["releases"]), ("delayed", "3", "500", "2"))
    equal(c.command(f"release {NOBODY} 1 0"), "NOT_FOUND")


@case("bury")
def bury_only_my_reservation(t):
    c, other = worker(t, t.tube()), Connection(t)
    job = c.put()
    equal(c.command(f"bury {job} 0"), "NOT_FOUND")
    c.take()
    equal(other.command(f"bury {job} 0"), "NOT_FOUND")
    equal(c.command(f"bury {job} 44"), "BURIED")
    row = c.stats(f"stats-job {job}")
    equal((row["state"], row["pri"], row["buries"], row["time-left"]), ("buried", "44", "1", "0"))
    equal(c.command("reserve-with-timeout 0"), "TIMED_OUT")
    equal(c.command(f"bury {NOBODY} 0"), "NOT_FOUND")


@case("touch")
def touch_only_my_reservation(t):
    c, other = worker(t, t.tube()), Connection(t)
    job = c.put()
    equal(c.command(f"touch {job}"), "NOT_FOUND")
    c.take()
    equal(other.command(f"touch {job}"), "NOT_FOUND")
    equal(c.command(f"touch {job}"), "TOUCHED")
    equal(c.command(f"touch {NOBODY}"), "NOT_FOUND")


@case("peek")
def peek_sees_every_state_and_tube(t):
    c, other = worker(t, t.tube()), Connection(t)
    ready, delayed, buried, held = c.put(b"r", pri=9), c.put(b"d", delay=1000), c.put(b"b"), c.put(b"h", pri=1)
    c.take()
    c.command(f"bury {buried} 0")
    equal(c.take()[0], held)
    for job, body in ((ready, b"r"), (delayed, b"d"), (buried, b"b"), (held, b"h")):
        equal(other.peek(f"peek {job}"), (job, body))
    equal(other.command(f"peek {NOBODY}"), "NOT_FOUND")
    equal(c.stats(f"stats-job {held}")["state"], "reserved")


@case("peek-ready peek-delayed peek-buried")
def peek_by_state_looks_at_the_used_tube(t):
    tube = t.tube()
    c, elsewhere = worker(t, tube), worker(t, t.tube())
    for kind in ("ready", "delayed", "buried"):
        equal(c.command(f"peek-{kind}"), "NOT_FOUND")
    late, soon = c.put(b"late", delay=2000), c.put(b"soon", delay=1000)
    low, high = c.put(b"low", pri=10), c.put(b"high", pri=3)
    equal(c.peek("peek-ready"), (high, b"high"))
    equal(c.peek("peek-delayed"), (soon, b"soon"))
    for job in (low, high):
        c.command(f"reserve-job {job}")
        c.line()
        c.command(f"bury {job} 0")
    equal(c.peek("peek-buried"), (low, b"low"))
    for kind in ("ready", "delayed", "buried"):
        equal(elsewhere.command(f"peek-{kind}"), "NOT_FOUND")
    equal(c.command("peek-ready"), "NOT_FOUND")
    equal(c.command(f"delete {soon}"), "DELETED")
    equal(c.peek("peek-delayed"), (late, b"late"))


@case("kick")
def kick_buried_first_then_delayed(t):
    c, elsewhere = worker(t, t.tube()), worker(t, t.tube())
    equal(c.command("kick 10"), "KICKED 0")
    delayed = [c.put(b"d", delay=1000 * n) for n in (3, 1, 2)]
    buried = [c.put(b"b") for _ in range(3)]
    for job in buried:
        c.take()
    for job in (buried[2], buried[0], buried[1]):
        equal(c.command(f"bury {job} 0"), "BURIED")
    equal(elsewhere.command("kick 10"), "KICKED 0")
    equal(c.command("kick 1"), "KICKED 1")
    equal(c.take()[0], buried[2], "oldest buried first")
    equal(c.command("kick 10"), "KICKED 2")
    equal(c.take()[0], buried[0])
    equal(c.take()[0], buried[1])
    equal(c.command("kick 1"), "KICKED 1")
    equal(c.take()[0], delayed[1], "soonest delayed first")
    equal(c.command("kick 10"), "KICKED 2")
    equal(c.take()[0], delayed[0], "equal priority: lowest id")


@case("kick-job")
def kick_job_by_id_in_any_tube(t):
    c, other = worker(t, t.tube()), Connection(t)
    delayed, buried, ready = c.put(delay=1000), c.put(pri=0), c.put(pri=4)
    c.take()
    c.command(f"bury {buried} 0")
    for job in (delayed, buried):
        equal(other.command(f"kick-job {job}"), "KICKED")
        row = c.stats(f"stats-job {job}")
        equal((row["state"], row["kicks"]), ("ready", "1"))
    equal(other.command(f"kick-job {ready}"), "NOT_FOUND")
    held = c.take()[0]
    equal(c.command(f"kick-job {held}"), "NOT_FOUND")
    equal(other.command(f"kick-job {NOBODY}"), "NOT_FOUND")


@case("pause-tube")
def pause_of_an_unknown_tube_creates_nothing(t):
    c, tube = Connection(t), t.tube()
    equal(c.command(f"pause-tube {tube} 1"), "NOT_FOUND")
    equal(c.command(f"stats-tube {tube}"), "NOT_FOUND")
    equal(tube in c.names("list-tubes"), False)


@case("list-tubes use watch")
def tubes_live_while_anybody_needs_them(t):
    watched, used, full, gone = t.tube(), t.tube(), t.tube(), t.tube()
    look, holder, job_maker = Connection(t), Connection(t), Connection(t)
    holder.command(f"watch {watched}")
    holder.command(f"use {used}")
    job_maker.command(f"use {full}")
    job = job_maker.put(delay=1000)
    job_maker.command("use default")
    holder.command(f"watch {gone}")
    holder.command(f"ignore {gone}")
    names = look.names("list-tubes")
    equal([n in names for n in ("default", watched, used, full, gone)], [True, True, True, True, False])
    holder.command("use default")
    holder.command(f"ignore {watched}")
    look.command(f"delete {job}")
    names = look.names("list-tubes")
    equal([n in names for n in ("default", watched, used, full)], [True, False, False, False])


@case("list-tubes")
def a_reserved_job_keeps_its_tube(t):
    tube = t.tube()
    producer, taker = worker(t, tube), Connection(t)
    job = producer.put()
    producer.command("use default")
    producer.command("watch default")
    producer.command(f"ignore {tube}")
    taker.send(b"reserve-job %d\r\n" % job)
    taker.job("RESERVED")
    equal(tube in producer.names("list-tubes"), True)
    equal(taker.command(f"delete {job}"), "DELETED")
    equal(tube in producer.names("list-tubes"), False)


@case("quit")
def quit_closes_the_connection(t):
    c = Connection(t)
    c.send(b"quit\r\n")
    equal(c.ended(), True)


@case("quit")
def quit_matches_by_prefix(t):
    c = Connection(t)
    c.send(b"quitting time\r\n")
    equal(c.ended(), True)


@case("put reserve", kind="alone")
def bodies_may_hold_any_byte(t):
    c = worker(t, t.tube())
    bodies = [b"", b"\r\n", b"a\r\nput 0 0 0 0\r\n\r\n", bytes(range(256)), b"\0" * 10, b"\xff" * 65535]
    ids = [c.put(body) for body in bodies]
    for job, body in zip(ids, bodies):
        equal(c.take(), (job, body))
        equal(c.peek(f"peek {job}"), (job, body))


@case("kick reserve-with-timeout")
def kick_reports_the_number_moved(t):
    c = worker(t, t.tube())
    for _ in range(5):
        c.put(delay=1000)
    equal(number(c.command("kick 3"), "KICKED"), 3)
    equal(number(c.command("kick 0"), "KICKED"), 0)
    equal(number(c.command("kick 100"), "KICKED"), 2)
