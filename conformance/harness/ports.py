"""Ports for servers that are started by their number."""

import fcntl
import os
import pathlib
import random
import socket
import tempfile

#: Outside of what the system gives to clients, whose own end could take one otherwise.
PORTS = range(20_000, 32_000)

#: A locked file for each port that somebody has taken; xtask takes its ports the same way.
TAKEN = pathlib.Path(tempfile.gettempdir()) / f"longtail-ports-{os.environ.get('USER', '')}"

_held = []


def free_port():
    """A port that nobody listens on, this process's own until it ends.

    That nobody listens is not enough: two who look at the same time would start two servers on one port, and the one
    whose server fails would talk to the other's.
    """
    TAKEN.mkdir(exist_ok=True)
    for port in random.sample(PORTS, len(PORTS)):
        lock = os.open(TAKEN / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            continue
        _held.append(lock)
        return port
    raise AssertionError(f"no port of {PORTS} is free")
