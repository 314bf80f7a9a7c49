"""`plateflow check --cluster`: one small job for each partition of the SLURM profile tries what a run will need."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plateflow.chain import STAGES
from plateflow.errors import PlateflowError
from plateflow.plates.check_index import Problem
from plateflow.project import Project
from plateflow.state.slurm import cancel, is_queued

OPTIONS = {"slurm_partition": "--partition", "slurm_account": "--account", "gres": "--gres"}
WAIT_S = 300.0


def check_cluster(project: Project, configfile: Path, profile: Path) -> list[Problem]:
    """Submit the jobs, wait for them, and say what would go wrong.

    Raises:
        PlateflowError: there is no such profile, or no SLURM.
    """
    file = profile / "config.v8+.yaml"
    if not file.is_file():
        raise PlateflowError("there is no such profile", where=str(file), remedy="name its folder with --profile")
    if shutil.which("sbatch") is None:
        raise PlateflowError("there is no SLURM here", why="`sbatch` isn't found", remedy="run it on a login node")
    settings = yaml.safe_load(file.read_text())
    latency = float(settings.get("latency-wait", 5))
    folder = Path(project.config.results)
    folder.mkdir(parents=True, exist_ok=True)
    problems: list[Problem] = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".check-cluster-") as shared:
        waiting = {}
        for number, (options, stages) in enumerate(sites_of(settings).items()):
            where = f"{' '.join(options) or 'the default partition'} ({', '.join(stages)})"
            out = Path(shared).resolve() / f"{number}.json"
            kind = "gpu" if "infer" in stages else "cpu"
            command = [sys.executable, "-m", "plateflow.cli.probe", str(configfile.resolve()), str(out), kind]
            done = subprocess.run(
                ["sbatch", "--parsable", "--time=10", "--mem=2000", f"--output={out.with_suffix('.log')}",
                 "--job-name=plateflow-check", *options, f"--wrap={shlex.join(command)}"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                problems.append(_problem(where, f"SLURM refuses the job: {done.stderr.strip()}"))
            else:
                waiting[done.stdout.strip().partition(";")[0]] = (where, out)
        for job, (where, out) in waiting.items():
            problems += [_problem(where, what) for what in _wait(job, out, latency)]
    return problems


def sites_of(settings: Mapping[str, Any]) -> dict[tuple[str, ...], list[str]]:
    """The options of `sbatch` that a profile gives, and the stages that are sent there."""
    common, own = settings.get("default-resources") or {}, settings.get("set-resources") or {}
    sites: dict[tuple[str, ...], list[str]] = {}
    for stage in STAGES:
        resources = {**common, **own.get(stage, {})}
        options = [f"{OPTIONS[key]}={str(value).strip(chr(39))}" for key, value in resources.items() if key in OPTIONS]
        extra = shlex.split(str(resources.get("slurm_extra", "")).strip("'"))
        sites.setdefault((*sorted(options), *extra), []).append(stage)
    return sites


def _wait(job: str, out: Path, latency: float) -> list[str]:
    """Wait until a job has ended, then for its file; what went wrong."""
    end = time.monotonic() + WAIT_S
    while is_queued(job) is not False:
        if time.monotonic() > end:
            cancel([job])
            return [f"the job didn't run within {WAIT_S / 60:.0f} minutes (it is cancelled): is the partition busy?"]
        time.sleep(1)
    end = time.monotonic() + latency
    while not out.is_file():
        if time.monotonic() > end:
            log = out.with_suffix(".log")
            words = log.read_text(errors="replace").strip().splitlines()[-3:] if log.is_file() else []
            return [
                f"the job's file didn't appear within latency-wait ({latency:g} s): {' / '.join(words) or 'no log'}"
            ]
        time.sleep(0.2)
    report = json.loads(out.read_text())
    return [f"node {report['host']}: {what}" for what in report["wrong"]]


def _problem(where: str, what: str) -> Problem:
    return Problem(
        severity="error", plate=f"SLURM, {where}", what=what, remedy="fix it, or edit the profile's site block"
    )
