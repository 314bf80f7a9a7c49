"""`plateflow check --cluster`: one small job for each partition of the SLURM profile tries what a run will need.

Such a job runs this module on its node, and writes what it found.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plateflow.chain import STAGES
from plateflow.errors import ModelError, PlateflowError
from plateflow.files import write_json
from plateflow.plates.check_index import Problem
from plateflow.project import Project
from plateflow.state.slurm import cancel, is_queued

OPTIONS = {"slurm_partition": "--partition", "slurm_account": "--account", "gres": "--gres"}
WAIT_S = 300.0
ROOM_BYTES = 10**9


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
            command = [sys.executable, "-m", "plateflow.cli.cluster", str(configfile.resolve()), str(out), kind]
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


def probe(configfile: Path, *, gpu: bool) -> list[str]:
    """What is wrong on this machine, one line each; empty if a stage can work here."""
    project = Project.load(configfile)
    wrong = []
    for plate in project.plates.values():
        for folder in {plate.paths.root, plate.paths.scratch}:
            try:
                _try_writing(folder)
            except OSError as error:
                wrong.append(f"{folder} can't be written: {error.strerror}")
            else:
                if shutil.disk_usage(folder).free < ROOM_BYTES:
                    wrong.append(f"{folder} has less than {ROOM_BYTES / 1e9:g} GB left")
        if wrong:
            break  # the others lie beside it
    if gpu:
        from plateflow.model import check_model

        for name in {label_set.model for label_set in project.config.segmentation.values()}:
            try:
                check_model(name)
            except ModelError as error:
                wrong.append(f"the weights of model {name} can't be used: {error.why}")
        if project.config.device != "cpu":
            import torch

            if not torch.cuda.is_available():
                given = os.environ.get("CUDA_VISIBLE_DEVICES")
                wrong.append(f"torch {torch.__version__} sees no GPU (CUDA_VISIBLE_DEVICES is {given!r})")
    return wrong


def _try_writing(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    first, second = (folder / f".probe-{socket.gethostname()}-{os.getpid()}{end}" for end in ("", ".renamed"))
    try:
        first.write_text("a")
        first.rename(second)
    finally:
        for path in (first, second):
            path.unlink(missing_ok=True)


def main() -> None:
    """What runs on a node. Arguments: the configuration, the file to write, and whether this is for the GPU stage."""
    configfile, out, gpu = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "gpu"
    try:
        wrong = probe(configfile, gpu=gpu)
    except PlateflowError as error:
        wrong = [str(error)]
    write_json(out, {"host": socket.gethostname(), "wrong": wrong})


if __name__ == "__main__":
    main()
