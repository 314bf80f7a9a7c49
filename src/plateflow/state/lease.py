"""Leases: one running job per plate, stage and job name, whatever driver or node started it; one driver per results.

A lease is a folder, made by `mkdir`, which is atomic on shared file systems where file locks can't be relied on. It
records its owner; a thread renews its time. Only the owner's own lease is removed here, or one whose owner is known
to be gone.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from plateflow.access import user_name
from plateflow.errors import LeaseError
from plateflow.files import is_litter
from plateflow.state.slurm import is_queued, restarts_of

HEARTBEAT_S = 2.0
STALE_S = 600.0
"""After so long without a sign of life a lease has no owner, where there is no queue to ask."""
SILENT_S = 30.0
"""The same where SLURM says that the owner's job is over."""
DRIVER_LEASE = ("snakemake", "driver")
"""For `PlatePaths.lease`: that of the driver, in the screen's folder."""
DRIVER_VARIABLE = "PLATEFLOW_DRIVER"
"""Environment variable of a run's jobs: their driver, as `Driver` writes it."""


class Driver(NamedTuple):
    """The process that drives a run: its number, start, host, SLURM job, and the run's id; empty what isn't known."""

    pid: str = ""
    started: str = ""
    host: str = ""
    slurm_job: str = ""
    run: str = ""

    @classmethod
    def announced(cls) -> Driver:
        """The one that `DRIVER_VARIABLE` names."""
        return cls(*os.environ.get(DRIVER_VARIABLE, "").split(":", 4))

    def __str__(self) -> str:
        return ":".join(self)

    def is_this_process(self) -> bool:
        """Whether it is the one that asks."""
        here = str(os.getpid()), str(process_start(os.getpid())), socket.gethostname()
        return (self.pid, self.started, self.host) == here


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a lease. `started` tells a process from a later one with the same number (clock ticks since boot).

    Attributes:
        slurm_job, restarts: in which it runs, and how often SLURM had started that again under its number; None where
            SLURM didn't say.
        driver: as in `DRIVER_VARIABLE`.
        beat: its last sign of life, seconds since the epoch.
    """

    host: str
    pid: int
    started: int
    user: str = ""
    slurm_job: str = ""
    restarts: int | None = 0
    driver: str = ""
    beat: float = 0.0

    @classmethod
    def this_process(cls) -> Owner:
        """This process as an owner."""
        driver = Driver.announced()
        slurm_job = os.environ.get("SLURM_JOB_ID", driver.slurm_job if driver.is_this_process() else "")
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=process_start(os.getpid()) or 0,
            user=user_name(),
            slurm_job=slurm_job,
            restarts=restarts_of(slurm_job) if slurm_job else 0,
            driver=str(driver),
        )

    @property
    def run(self) -> str:
        """The id of the run that it is part of; empty without one."""
        return Driver(*self.driver.split(":", 4)).run

    def is_queued(self) -> bool | None:
        """Whether SLURM has its job, not started again since; None where that can't be told."""
        return is_queued(self.slurm_job, self.restarts, own=self.user == user_name()) if self.slurm_job else None

    def alive(self) -> bool | None:
        """Whether the owner still runs; None where that can't be told yet: it was on another host, and alive lately.

        SLURM knows when a node has vanished, but it also calls jobs ended, even completed, whose processes go on after
        the death of their node's daemon: only a job that is over and silent is dead.
        """
        if self.host == socket.gethostname() and not _is_hidden(self.pid):
            return process_start(self.pid) == self.started
        age = time.time() - self.beat  # before the queue is asked, which may take its time
        queued = self.is_queued()
        if queued:
            return True
        return None if age < (STALE_S if queued is None else SILENT_S) else False

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        user = f" of {self.user}" if self.user not in ("", user_name()) else ""
        return f"process {self.pid}{user} on {self.host}{job}"

    def seen(self) -> str:
        """Who it is and when it gave its last sign of life."""
        return f"{self}, alive {max(0.0, time.time() - self.beat):.0f} s ago"


def process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot, or None if there is none (or it is a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process, another user's, on a machine that shows users their own alone (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not os.access(f"/proc/{pid}/stat", os.R_OK)
    except (OSError, OverflowError):
        return False
    return False


def announce_driver(run: str = "") -> None:
    """Let the jobs that this process starts know their run, and notice when it dies.

    At first while the Snakefile is parsed: SLURM's plugin then hides from the driver in which SLURM job it runs.
    """
    former = Driver.announced()
    slurm_job = former.slurm_job if former.is_this_process() else os.environ.get("SLURM_JOB_ID", "")
    started = str(process_start(os.getpid()))
    os.environ[DRIVER_VARIABLE] = str(Driver(str(os.getpid()), started, socket.gethostname(), slurm_job, run))


def driver_alive() -> bool:
    """Whether the driver that started this job still runs; true where none was announced, or it is on another host."""
    driver = Driver.announced()
    here = driver.pid and driver.host == socket.gethostname()
    return not here or str(process_start(int(driver.pid))) == driver.started


def read_owner(lease: Path) -> Owner | None:
    """The owner of a lease; None where the lease is gone or was cut off while it was made.

    Raises:
        PermissionError: another user's, who may be alive.
    """
    try:
        path = lease / "owner.json"
        return Owner(**json.loads(path.read_text()) | {"beat": path.stat().st_mtime})
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError):
        return None


def leases(folder: Path) -> Iterator[tuple[Path, Owner | None]]:
    """The leases in a folder, each with its owner, None as in `read_owner`."""
    found = [*folder.iterdir()] if folder.is_dir() else []  # where it can't be read, `glob` would say that it is empty
    for lease in sorted(path for path in found if not (path.name.startswith(".") or is_litter(path.name))):
        yield lease, read_owner(lease)


def running(folder: Path) -> dict[str, Owner]:
    """The leases in a folder whose owner runs, or may still run, by name."""
    return {lease.name: owner for lease, owner in leases(folder) if owner is not None and owner.alive() is not False}


def clear(lease: Path) -> bool:
    """Remove a lease by renaming it first, so that of two processes one does it. Returns whether this one did.

    Raises:
        PermissionError: another user's.
    """
    grave = lease.with_name(f".{lease.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        lease.rename(grave)
    except PermissionError:
        raise
    except OSError:
        return False
    shutil.rmtree(grave, ignore_errors=True)
    return True


class Lease:
    """Holds the lease of a job while the job runs, or of a run while its driver does.

    Args:
        holder: who wants it, for messages.
        patient: wait for an owner that may be gone until that is certain, instead of refusing.

    Attributes:
        inherited: an earlier owner died while its driver, which is also this job's, went on.
        orphaned: set by the heartbeat when the driver that started this job is gone.
        lost: set by the heartbeat when another job has taken over, after this one gave no sign of life for long.
    """

    def __init__(self, path: Path, *, holder: str, patient: bool = True) -> None:
        self.path, self.holder, self.patient = path, holder, patient
        self.inherited = False
        self.orphaned = threading.Event()
        self.lost = threading.Event()
        self._stop = threading.Event()

    def __enter__(self) -> Lease:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.owner = Owner.this_process()  # asks SLURM, which takes its time: a lease without an owner is taken over
        for _ in range(20):
            try:
                self.path.mkdir()
                break
            except FileExistsError:
                self._take_over()
        else:
            raise LeaseError(f"can't take the lease of {self.holder}", where=str(self.path))
        self._file = self.path / "owner.json"
        self._file.write_text(json.dumps(asdict(self.owner)))
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def _take_over(self) -> None:
        owner = self._look()
        waiting = False
        while owner is not None and (alive := owner.alive()) is not False:
            if not self.patient or (alive and owner.is_queued() is not False):
                raise LeaseError(
                    f"{self.holder} is already running",
                    where=str(self.path),
                    why=f"lease held by {owner.seen()}",
                    remedy="wait for it, or stop it and run `plateflow retry`; two jobs never do the same wells",
                )
            if not waiting:
                print(f"{self.holder}: {owner} may still be running: waiting until it ends or is silent", flush=True)
                waiting = True
            time.sleep(HEARTBEAT_S)
            owner = self._look()
        if clear(self.path):
            # Only under a driver that went on is it the job that died; else it may have died with its driver.
            self.inherited = owner is not None and owner.driver == str(Driver.announced())

    def _look(self) -> Owner | None:
        """The owner of the folder; None where it is gone, or was cut off between mkdir and write.

        It may be made just now, or the file system be away for a moment: nobody is dead before a third look.
        """
        for _ in range(3):
            owner = read_owner(self.path)
            if owner is not None or not self.path.exists():
                return owner
            time.sleep(0.5)
        return None

    def held(self) -> bool:
        """Whether the lease is still this job's; looks, so that nothing is written after another has taken over."""
        try:
            return not self.lost.is_set() and self._is_own()
        except OSError:
            return True  # a file system that is away for a moment

    def _is_own(self) -> bool:
        try:
            return json.loads(self._file.read_text()) == asdict(self.owner)
        except (FileNotFoundError, ValueError):
            return False

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if not self._is_own():
                    self.lost.set()
                    return
                os.utime(self._file)
            except OSError:
                pass  # a file system that is away for a moment; the next beat tries again
            if not driver_alive():
                self.orphaned.set()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with suppress(OSError):
            if self._is_own():
                clear(self.path)
