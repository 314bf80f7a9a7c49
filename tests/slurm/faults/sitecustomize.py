"""What a job does to itself when a test asks for it. Every Python of the workflow runs this at its start.

So a fault comes at the same place of the work however fast the machine is.
"""

import mmap
import os
import signal
import sys
from pathlib import Path

taken = []
FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
signal.signal(signal.SIGUSR1, lambda *_: taken.append(mmap.mmap(-1, 2 << 30, flags=FLAGS)))


def stop_where_asked(event: str, arguments: tuple) -> None:
    """Stop before a line is added to a journal, where a file asks for it and the journal tells of so many outcomes."""
    if event != "open" or arguments[1] != "a+":
        return
    journal = Path(arguments[0])
    asked = Path(os.environ["PLATEFLOW_TEST_STOPS"]) / f"{journal.parts[-3]}-{journal.name}"
    if journal.parts[-2] != "journal" or not asked.exists():
        return
    outcomes = int(asked.read_text())
    if not outcomes or journal.read_text().count('"event":"done"') >= outcomes:
        asked.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)


sys.addaudithook(stop_where_asked)
