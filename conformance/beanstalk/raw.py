"""Raw-socket cases: the protocol byte by byte, where no client library looks."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import cases.commands  # noqa: E402,F401  (imported for the cases they register)
import cases.parsing  # noqa: E402,F401
import cases.semantics  # noqa: E402,F401
import cases.stats  # noqa: E402,F401
import cases.timing  # noqa: E402,F401
from harness import suite  # noqa: E402

if __name__ == "__main__":
    suite.run()
