"""Raw-socket cases: the protocol row by row, where no client library looks. Bad input at the byte level is here."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import cases.connection  # noqa: E402,F401  (imported for the cases they register)
import cases.content  # noqa: E402,F401
import cases.declarations  # noqa: E402,F401
import cases.deliveries  # noqa: E402,F401
import cases.errors  # noqa: E402,F401
import cases.lenient  # noqa: E402,F401
import cases.queues  # noqa: E402,F401
import cases.replies  # noqa: E402,F401
import cases.transactions  # noqa: E402,F401
from harness import suite  # noqa: E402

if __name__ == "__main__":
    suite.run()
