"""A process that holds the lock of a run folder until it is told, or killed: `python -m faults.lock_holder RUN`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from scantling.training.run_lock import run_lock


def say(line: str) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    with run_lock(Path(sys.argv[1])):
        if "fork" in sys.argv:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            say(str(child))
        say("held")
        sys.stdin.readline()


if __name__ == "__main__":
    main()
