"""`plateflow check --cluster`: what the run will submit is tried, by SLURM's word and by a small job for each place.

A place is a set of options of `sbatch` that some stages share; memory, time and cores aside. Its job runs this module
on its node, and writes what it found.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from plateflow.cli.submission import RuleJob, Trial, read_submission, slurm_profile
from plateflow.errors import ModelError, PlateflowError
from plateflow.files import write_json
from plateflow.plates.check_index import Problem
from plateflow.project import Project
from plateflow.state.slurm import ENDED, squeue

WAIT_S = 300.0
ROOM_BYTES = 10**9
GPU_RULES = {"infer", "train"}
EDIT = "fix it, or edit the first block of the profile"
ASK_LESS = "under set-resources of the profile give it another slurm_partition, or less; more `parts` make jobs shorter"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A small job that tries a place.

    Attributes:
        place: the options, and the stages that go there.
        cluster: options for SLURM's commands where the job is another cluster's.
        out: the file that it writes; its log lies beside it.
    """

    place: str
    number: str
    cluster: tuple[str, ...]
    out: Path


def check_cluster(project: Project, configfile: Path, profile: Path) -> list[Problem]:
    """Ask SLURM whether it takes the largest jobs, submit small ones, wait for them, and say what would go wrong.

    Raises:
        PlateflowError: there is no such profile, it isn't for SLURM, Snakemake can't use it, or there is no SLURM.
    """
    file = slurm_profile(profile)
    if shutil.which("sbatch") is None:
        raise PlateflowError("there is no SLURM here", why="`sbatch` isn't found", remedy="run it on a login node")
    folder = Path(project.config.results)
    folder.mkdir(parents=True, exist_ok=True)
    problems: list[Problem] = []
    with _as_a_driver(), tempfile.TemporaryDirectory(dir=folder, prefix=".check-cluster-") as shared:
        submission = read_submission(file, configfile, list(project.plates))
        problems += _alike([(job, f"Snakemake's plugin refuses it: {why}") for job, why in submission.refused])
        places: dict[str, list[Trial]] = {}
        for trial in submission.trials:
            places.setdefault(trial.place, []).append(trial)
        probes = []
        for number, (place, trials) in enumerate(places.items()):
            out = Path(shared).resolve() / f"{number}.json"
            stages = dict.fromkeys(trial.job.name for trial in trials)
            where = f"{place or 'the default partition'} ({', '.join(stages)})"
            # The one with the GPU, or with the most memory: what the others may have too little for, it can try.
            chosen = max(trials, key=lambda trial: (trial.job.name in GPU_RULES, trial.job.memory_mb))
            command = [sys.executable, "-m", "plateflow.cli.cluster", configfile.resolve(), out]
            script = shlex.join([*map(str, command), "gpu" if GPU_RULES & stages.keys() else "cpu"])
            done = _sbatch(f"{chosen.small} --output={shlex.quote(str(out.with_suffix('.log')))}", script)
            if done.returncode:
                problems.append(_problem(where, f"SLURM refuses the job: {_words(done.stderr)}"))
                continue
            job, _, cluster = done.stdout.strip().partition(";")
            probe = Probe(place=where, number=job, cluster=("-M", cluster) if cluster else (), out=out)
            refusals = [(trial.job, why) for trial in trials if (why := _refusal(trial, probe.cluster))]
            problems += _alike(refusals, ASK_LESS)
            probes.append(probe)
        for probe in probes:
            problems += [_problem(probe.place, what) for what in _wait(probe, submission.latency_wait)]
    return problems


@contextmanager
def _as_a_driver() -> Iterator[None]:
    """The environment from which the plugin submits: without SLURM's variables where the driver is itself a job."""
    hidden = [name for name in os.environ if name.startswith("SLURM_") and "SLURM_JOB_ID" in os.environ]
    before = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(before)


def _sbatch(call: str, script: str) -> subprocess.CompletedProcess[str]:
    """Call sbatch through a shell, as the plugin does: `slurm_extra` holds words for it."""
    words = f"{call} --wrap={shlex.quote(script)}"
    return subprocess.run(words, shell=True, capture_output=True, text=True, check=False)


def _refusal(trial: Trial, cluster: tuple[str, ...]) -> str:
    """Why a job would never run; empty if it would."""
    memory, minutes = trial.job.memory_mb, trial.job.resources.get("runtime")
    asked = [f"{memory:,} MB"] * bool(memory) + [f"{minutes} min"] * bool(minutes) + [f"{trial.job.threads} cores"]
    done = _sbatch(f"{trial.call} --test-only", "true")
    if done.returncode:
        return f"SLURM refuses {', '.join(asked)} with {trial.place or 'no options'}: {_words(done.stderr)}"
    partition = re.search(r"in partition (\S+)", done.stderr)
    if partition and minutes and (limit := _time_limit(partition[1], cluster)) and minutes > limit:
        return f"it asks for {minutes} min, and jobs of partition {partition[1]} get {limit}: it would wait for ever"
    return ""


@cache
def _time_limit(partition: str, cluster: tuple[str, ...]) -> int | None:
    """Minutes that a job of a partition may ask for. Most sites let longer ones wait instead of refusing them."""
    from snakemake_executor_plugin_slurm.utils import parse_time_to_minutes

    command = ["scontrol", *cluster, "-o", "show", "partition", partition]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    limit = re.search(r"\bMaxTime=(\S+)", said)
    return int(parse_time_to_minutes(limit[1])) if limit and limit[1] != "UNLIMITED" else None


def _alike(refusals: list[tuple[RuleJob, str]], remedy: str = EDIT) -> list[Problem]:
    """A problem for each reason, which names the stages and plates."""
    jobs: dict[str, list[RuleJob]] = {}
    for job, why in refusals:
        jobs.setdefault(why, []).append(job)
    problems = []
    for why, alike in jobs.items():
        stages = ", ".join(dict.fromkeys(job.name for job in alike))
        plates = list(dict.fromkeys(plate for job in alike for plate in job.plates))
        of_plates = f" of {', '.join(plates[:3])}" if plates else ""
        more = f" and {len(plates) - 3} more" if len(plates) > 3 else ""
        problems.append(_problem(f"{stages}{of_plates}{more}", why, remedy))
    return problems


def _words(said: str) -> str:
    """What SLURM said, in a line."""
    return "; ".join(line.removeprefix("sbatch: error: ") for line in said.strip().splitlines())


def _state(probe: Probe) -> tuple[str, str] | None:
    """State of a job and why it waits; empty when the queue has forgotten it, None when the queue doesn't answer."""
    lines = squeue(*probe.cluster, "-t", "all", "-j", probe.number, "-o", "%T|%r")
    if lines is None:
        return None
    state, _, reason = "\n".join(lines).strip().rpartition("\n")[2].partition("|")
    return state, reason


def _wait(probe: Probe, latency: float) -> list[str]:
    """Wait until a job has ended, then for its file; what went wrong."""
    end = time.monotonic() + WAIT_S
    while (seen := _state(probe)) is None or (seen[0] and seen[0] not in ENDED):
        if time.monotonic() > end:
            subprocess.run(["scancel", *probe.cluster, probe.number], check=False, timeout=60)
            last = f"{seen[0]}, {seen[1]}" if seen else "the queue doesn't answer"
            return [f"the job didn't end within {WAIT_S / 60:.0f} minutes and is cancelled ({last})"]
        time.sleep(1)
    state, log = seen[0] or "ENDED", probe.out.with_suffix(".log")
    end = time.monotonic() + latency
    while not probe.out.is_file():
        words = log.read_text(errors="replace").strip().splitlines()[-3:] if log.is_file() else []
        if words and state != "COMPLETED":
            return [f"the job failed ({state}): {' / '.join(words)}"]
        if time.monotonic() > end:
            return [
                f"the job's file didn't appear within latency-wait ({latency:g} s), nor anything in its log ({state}): "
                f"does the node see {probe.out.parents[1]}?"
            ]
        time.sleep(0.2)
    report = json.loads(probe.out.read_text())
    return [f"node {report['host']}: {what}" for what in report["wrong"]]


def _problem(where: str, what: str, remedy: str = EDIT) -> Problem:
    return Problem(severity="error", plate=f"SLURM, {where}", what=what, remedy=remedy)


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

        for name in {label_set.model for label_set in project.config.segmented.values()}:
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
