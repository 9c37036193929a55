"""What the worker of `celery_suite.py` does. Run by Celery itself, which finds the broker in the environment."""

import os
import time

from celery import Celery

app = Celery("tasks", broker=os.environ["LONGTAIL_BROKER"], backend="rpc://")
app.conf.update(
    task_default_queue=os.environ["LONGTAIL_QUEUE"],
    task_acks_late=True,
    worker_prefetch_multiplier=4,
    result_expires=60,
    task_publish_retry=False,
    broker_connection_retry_on_startup=True,
)


@app.task
def add(a, b):
    """A sum."""
    return a + b


@app.task(bind=True, max_retries=5)
def unlucky(self, failures):
    """Works after so many failures; yields how often it was tried."""
    if self.request.retries < failures:
        raise self.retry(countdown=0.2)
    return self.request.retries + 1


@app.task
def clock():
    """When it was run."""
    return time.time()


@app.task
def hopeless():
    """Does not work."""
    raise ValueError("hopeless")
