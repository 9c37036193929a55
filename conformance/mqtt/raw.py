"""Raw-socket cases: sections 3 and 4 of the protocol's fact sheet row by row, where no client library looks.

A case names its row. Where Mosquitto (2.0.11, what Debian ships) answers otherwise, the case says so.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import cases.connect  # noqa: E402,F401  (imported for the cases they register)
import cases.errors  # noqa: E402,F401
import cases.flow  # noqa: E402,F401
import cases.in_flight  # noqa: E402,F401
import cases.messages  # noqa: E402,F401
import cases.qos  # noqa: E402,F401
import cases.restart  # noqa: E402,F401
import cases.retained  # noqa: E402,F401
import cases.sessions  # noqa: E402,F401
import cases.shared  # noqa: E402,F401
import cases.topics  # noqa: E402,F401
import cases.wills  # noqa: E402,F401
from harness import suite  # noqa: E402

if __name__ == "__main__":
    suite.run()
