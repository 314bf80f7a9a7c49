"""What a process has used so far: processor time, peak memory, bytes read and written. For the journal's last line."""

from __future__ import annotations

import os
import resource
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def begun() -> dict[str, Any]:
    """When and where an attempt at a job begins, and what it was given: for the line that opens it in the journal."""
    return {
        "at": now(),
        "host": socket.gethostname(),
        "slurm_job": os.environ.get("SLURM_JOB_ID", ""),
    }


def used() -> dict[str, Any]:
    """What this process and its children used since they began.

    Returns:
        `at`: ISO 8601; `cpu_s`; `peak_mb`: of the resident memory of this process, files that it maps included (10^6
        bytes); `read_mb`, `written_mb`: through system calls, cached or not (pages of mapped files don't count).
        The last three are left out where the system doesn't tell.
    """
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found: dict[str, Any] = {"at": now(), "cpu_s": round(sum(u.ru_utime + u.ru_stime for u in usages), 2)}
    # Not ru_maxrss: after a fork that holds what the parent had.
    peak = _lines("/proc/self/status").get("VmHWM")
    if peak:
        found["peak_mb"] = round(int(peak.split()[0]) * 1024 / 1e6, 1)
    counters = _lines("/proc/self/io")
    for name, counter in (("read_mb", "rchar"), ("written_mb", "wchar")):
        if counter in counters:
            found[name] = round(int(counters[counter]) / 1e6, 2)
    return found


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _lines(path: str) -> dict[str, str]:
    try:
        text = Path(path).read_text()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
