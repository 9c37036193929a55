"""A real Celery worker on the server: results, retries with a countdown, times to come, control messages."""

import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from harness import suite  # noqa: E402
from harness.suite import case, equal  # noqa: E402

#: Seconds that anything may take.
PATIENCE = 40


class Worker:
    """A worker that ends with the case, and its tasks."""

    def __init__(self, t):
        os.environ["LONGTAIL_BROKER"] = f"amqp://guest:guest@{t.host}:{t.port}//"
        os.environ["LONGTAIL_QUEUE"] = t.unique()
        sys.path.insert(0, str(HERE))
        sys.modules.pop("celery_tasks", None)
        import celery_tasks

        self.tasks = celery_tasks
        self.environment = {**os.environ, "PYTHONPATH": str(HERE), "C_FORCE_ROOT": "1"}
        self.start()
        t.defer(self.stop)

    def start(self):
        """Starts it."""
        words = ["-m", "celery", "-A", "celery_tasks", "worker", "--pool=solo", "--loglevel=warning"]
        self.process = subprocess.Popen(
            [sys.executable, *words], cwd=HERE, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self, how="terminate"):
        """Ends it."""
        if self.process.poll() is None:
            getattr(self.process, how)()
            self.process.wait(PATIENCE)


@case("celery results")
def tasks_have_results(t):
    worker = Worker(t)
    answers = [worker.tasks.add.delay(number, 1) for number in range(30)]
    equal([answer.get(timeout=PATIENCE) for answer in answers], [number + 1 for number in range(30)])
    try:
        worker.tasks.hopeless.delay().get(timeout=PATIENCE)
    except ValueError as error:
        equal(str(error), "hopeless")
    else:
        raise AssertionError("it worked")


@case("celery retry")
def a_task_is_retried_with_a_countdown(t):
    worker = Worker(t)
    start = time.monotonic()
    equal(worker.tasks.unlucky.delay(3).get(timeout=PATIENCE), 4)
    equal(time.monotonic() - start >= 0.6, True, "three countdowns")


@case("celery eta")
def a_task_waits_for_its_time(t):
    worker = Worker(t)
    equal(worker.tasks.add.delay(1, 1).get(timeout=PATIENCE), 2)
    now = time.time()
    later = [worker.tasks.clock.apply_async(countdown=seconds) for seconds in (2, 1, 1.5)]
    # More of them than the worker takes at once: they must not stand in the way of others.
    crowd = [worker.tasks.clock.apply_async(countdown=2) for _ in range(10)]
    times = [answer.get(timeout=PATIENCE) - now for answer in later]
    equal([times[0] >= 2, times[1] >= 1, times[2] >= 1.5], [True] * 3)
    equal(all(answer.get(timeout=PATIENCE) - now >= 2 for answer in crowd), True)


@case("celery control")
def a_worker_answers_control_messages(t):
    worker = Worker(t)
    worker.tasks.add.delay(1, 1).get(timeout=PATIENCE)
    answers = worker.tasks.app.control.ping(timeout=5)
    equal([list(answer.values()) for answer in answers], [[{"ok": "pong"}]])
    stats = worker.tasks.app.control.inspect(timeout=5).stats()
    equal(len(stats), 1)


@case("celery acks_late")
def what_a_killed_worker_held_is_done_by_the_next(t):
    worker = Worker(t)
    worker.tasks.add.delay(1, 1).get(timeout=PATIENCE)
    later = worker.tasks.clock.apply_async(countdown=3)
    time.sleep(0.5)
    worker.stop("kill")
    worker.start()
    equal(later.get(timeout=PATIENCE) > 0, True)


if __name__ == "__main__":
    suite.run()
