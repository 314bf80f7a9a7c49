"""Drivers of the tests on SLURM: on the machine of the tests, or in a job."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from slurm_cluster import Cluster
from workflow_project import REPOSITORY, Project

from plateflow.state.lease import Owner, read_owner

# The profile as it is shipped, but for the site's names and the waiting times.
OPTIONS = [
    "--workflow-profile", str(REPOSITORY / "profiles" / "slurm"), "--latency-wait", "10",
    "--default-resources", "slurm_partition=cpu", "slurm_account=lab", "mem_mb=600",
    "--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1",
]  # fmt: skip
SITE = ["infer:slurm_partition=gpu", "infer:gres='gpu:1'", "infer:gpu=0"]  # what `--set-resources` takes the place of
CLI = "from plateflow.cli import app; app()"
PATIENCE = 900.0  # s, until a wait is given up: nothing is claimed by it


class Driver:
    """A driver that runs beside the test; the Pythons of its jobs run `faults/sitecustomize.py`."""

    options = OPTIONS

    def __init__(self, project: Project, cluster: Cluster, *arguments: str, log: str = "driver.log") -> None:
        self.project, self.log, self.stops = project, project.folder / log, project.folder / "stops"
        self.stops.mkdir(exist_ok=True)
        self.idle = self.stops / "idle"
        path = [str(Path(__file__).parent / "faults"), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {"PYTHONPATH": os.pathsep.join(path), "PLATEFLOW_TEST_STOPS": str(self.stops)}
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
        self.start([*command, *self.options, *arguments], cluster.environment | variables)

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=self.project.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.process.poll() is not None

    def hold(self, stage: str, job: str, plate: str, outcomes: int = 0) -> Path:
        """Let a job that is still to come stop itself before it tells its journal of more than so many outcomes."""
        asked = self.stops / f"{plate}-{stage}-{job}.jsonl"
        asked.with_suffix(".partial").write_text(str(outcomes))
        return asked.with_suffix(".partial").rename(asked)

    def held(self, stage: str, job: str, plate: str, asked: Path | None = None) -> Owner:
        """Wait until a job has stopped itself, as was asked for with `hold` or is now; it holds its lease."""
        stop = asked or self.hold(stage, job, plate)
        self.until(lambda: not stop.exists())
        owner = read_owner(self.project.path(plate).lease(stage, job))
        assert owner is not None
        self.until(lambda: process_state(owner.pid) == "T")
        return owner

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for something while the driver runs."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert not self.ended(), self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def end(self, status: int | None) -> str:
        """Wait until the driver ends; returns its output."""
        code = self.process.wait(PATIENCE)
        output = self.log.read_text()
        assert status is None or code == status, output
        return output


class DriverInAJob(Driver):
    """A driver in a job of its own, which SLURM starts again when its node is gone."""

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        retry = shlex.join([sys.executable, "-c", CLI, "retry", "--cancel"])
        script = f"echo start ${{SLURM_RESTART_COUNT:-0}} && {retry} && {shlex.join(command)}"
        submit = ["sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={self.log}", "--partition=gpu"]
        done = subprocess.run(
            [*submit, "--account=lab", "--mem=600", "--time=60", f"--wrap={script}"],
            cwd=self.project.folder, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.job = done.stdout.strip()

    def state(self) -> str:
        return squeue("-j", self.job, "-t", "all", "-o", "%T")

    def ended(self) -> bool:
        return self.state() in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}


def squeue(*arguments: str) -> str:
    done = subprocess.run(["squeue", "-h", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def process_state(pid: int) -> str:
    """The letter of /proc: R runs, T stopped, and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
