"""What a job does to itself when a test asks for it. Every Python of the workflow runs this at its start.

So a fault comes at the same place of the work however fast the machine is.
"""

import mmap
import os
import signal
import sys
import time
from pathlib import Path

taken = []
FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
signal.signal(signal.SIGUSR1, lambda *_: taken.append(mmap.mmap(-1, 2 << 30, flags=FLAGS)))


def stop_where_asked(event: str, arguments: tuple) -> None:
    """Stop before a line is added to a journal, where a file asks for it and the journal tells of so many outcomes.

    Once it may go on, it is idle as long as another file says so: it gives signs of life, and gets nowhere.
    """
    if event != "open" or arguments[1] != "a+":
        return
    journal = Path(str(arguments[0])).absolute()
    stops = Path(os.environ["PLATEFLOW_TEST_STOPS"])
    asked = stops / f"{journal.parents[1].name}-{journal.name}"
    if journal.parent.name != "journal" or not asked.exists():
        return
    told = journal.read_text().count('"event":"done"') if journal.exists() else 0
    if told >= int(asked.read_text()):
        asked.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)
        while (stops / "idle").exists():
            time.sleep(0.1)


sys.addaudithook(stop_where_asked)
