"""What a run on SLURM will submit: the calls of `sbatch` for the largest jobs of each rule.

Snakemake itself makes the resources, from Snakefile and profile, and its SLURM plugin makes the call, as both do in a
run: so a trial asks for what the run will, and what the plugin refuses is refused before.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import multiprocessing
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from plateflow.cli.common import DEFAULT_CONFIG
from plateflow.cli.profile import errors_of_snakemake, profile_file, read_profile, snakefile
from plateflow.errors import PlateflowError
from plateflow.installed import installed

NAME = "plateflow-check"
SMALL = {"_cores": 1, "mem_mb": 2000, "mem_mb_per_cpu": 2000, "runtime": 10}
"""What a job that only tries a place asks for: cores, MB, minutes."""
SIZES = ("mem_mb", "mem_mb_per_cpu", "runtime", "_cores")


@dataclass(frozen=True, kw_only=True)
class RuleJob:
    """A job of a rule, as the plugin's functions take it.

    Attributes:
        plates: whose jobs ask for just this; empty for a rule of the screen.
        resources: Snakemake's list of what it asks for at its first attempt; `_cores` are its threads.
    """

    name: str
    plates: tuple[str, ...]
    resources: Any

    @property
    def threads(self) -> int:
        """Its cores."""
        return int(self.resources["_cores"])

    @property
    def memory_mb(self) -> int:
        """Its memory, as far as it asks for some."""
        return _number(self.resources.get("mem_mb_per_cpu")) * self.threads or _number(self.resources.get("mem_mb"))

    def at_most(self, limits: dict[str, int]) -> RuleJob:
        """The same job, asking for no more than this; a limit of 0 leaves the resource out."""
        values = {
            key: min(value, limits.get(key, value)) if isinstance(value, int) else value
            for key, value in self.resources.items()
        }
        return replace(self, resources=type(self.resources)(fromdict=values))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The calls of `sbatch` for a job, without the script.

    Attributes:
        call: as the run makes it.
        small: the same with little memory, time and one core.
        place: the options that say where it goes and how, all but its size.
    """

    job: RuleJob
    call: str
    small: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a run with a profile will submit.

    Attributes:
        trials: for each rule, and each set of options that its jobs have, the job with the most memory and the longest.
        refused: jobs that the plugin won't submit, whatever the plate, with its reason.
        latency_wait: seconds until a file of another node must be seen.
    """

    trials: list[Trial]
    refused: list[tuple[RuleJob, str]]
    latency_wait: float


def slurm_profile(profile: Path) -> Path:
    """The file of a profile for SLURM.

    Raises:
        PlateflowError: there is none, it is for another executor, or the plugin isn't installed.
    """
    file = profile_file(profile)
    _check_executor(read_profile(file).get("executor", "slurm"), file)
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise PlateflowError(
            "Snakemake's plugin for SLURM isn't installed",
            where=str(file),
            remedy=f"pip install snakemake-executor-plugin-slurm -c {installed('constraints.txt')}",
        )
    return file


def read_submission(file: Path, configfile: Path, plates: Iterable[str]) -> Submission:
    """Let Snakemake read profile and Snakefile, and its plugin make the calls for these plates.

    Raises:
        PlateflowError: Snakemake can't use the profile, or it isn't one for SLURM.
    """
    # In a process of its own: the Snakefile announces a driver there, and has its say when that ends.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        found = pool.submit(_submission_or_error, file, configfile, list(plates)).result()
    if isinstance(found, dict):
        raise PlateflowError(**found)
    return found


def _submission_or_error(file: Path, configfile: Path, plates: list[str]) -> Submission | dict[str, str]:
    """The same, or the words of an error: one that Snakemake raised can hold what doesn't come back from a process."""
    try:
        return _read_submission(file, configfile, plates)
    except PlateflowError as error:
        return {name: getattr(error, name) for name in ("what", "where", "why", "remedy")}


def _read_submission(file: Path, configfile: Path, plates: list[str]) -> Submission:
    from snakemake.api import SnakemakeApi
    from snakemake.cli import parse_args, parse_config
    from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    words = ["--snakefile", str(snakefile()), "--workflow-profile", str(file)]
    quiet = OutputSettings(log_level_override=logging.CRITICAL, enable_file_logging=False, skip_plugin_handlers=True)
    with errors_of_snakemake(file):
        _, args = parse_args(words if configfile == DEFAULT_CONFIG else [*words, "--configfile", str(configfile)])
        _check_executor(args.executor or "this machine", file)
        plugin = ExecutorPluginRegistry().get_plugin("slurm")
        settings = plugin.get_settings(args)
    with errors_of_snakemake(file), SnakemakeApi(quiet) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(
                cores=args.cores,
                nodes=args.jobs,
                max_threads=args.max_threads,
                resources=args.resources,
                overwrite_threads=args.set_threads,
                overwrite_resources=args.set_resources,
                default_resources=args.default_resources,
            ),
            config_settings=ConfigSettings(config=parse_config(args.config), configfiles=args.configfile),
            snakefile=args.snakefile,
        )._workflow
        workflow.executor_settings, workflow._executor_plugin = settings, plugin
        executor = _executor(workflow)
        jobs = [job for rule in workflow.rules if not workflow.is_local(rule) for job in _jobs(rule, plates)]
    trials, refused = [], []
    for job in jobs:
        try:
            trials.append(_trial(executor, job))
        except Exception as error:  # as the plugin itself does when it submits
            refused.append((replace(job, plates=()), " ".join(str(error).split())))
    return Submission(trials=trials, refused=refused, latency_wait=args.latency_wait)


def _check_executor(name: str, file: Path) -> None:
    if name != "slurm":
        raise PlateflowError(
            "only SLURM can be tried",
            where=str(file),
            why=f"the profile is for {name}",
            remedy="name a profile with `executor: slurm`",
        )


def _executor(workflow: Any) -> Any:
    """The plugin's executor, without the thread that waits for jobs, and without its end, which clears old logs."""
    from snakemake.logging import logger
    from snakemake_executor_plugin_slurm import Executor

    executor = Executor.__new__(Executor)
    executor.workflow, executor.logger = workflow, logger
    executor.__post_init__()
    atexit.unregister(executor.clean_old_logs)
    return executor


def _jobs(rule: Any, plates: Iterable[str]) -> Iterator[RuleJob]:
    """Of a rule's jobs that differ in nothing but size, the one with the most memory and the longest."""
    from snakemake.iocontainers import InputFiles, Wildcards

    alike: dict[tuple[Any, ...], RuleJob] = {}
    for plate in plates if "plate" in rule.wildcard_names else [""]:
        values = dict.fromkeys(rule.wildcard_names, "0") | ({"plate": plate} if plate else {})
        wildcards = Wildcards(fromdict=values)
        resources = rule.expand_resources(wildcards, InputFiles(), 1, skip_evaluation={"tmpdir"})
        key = tuple(sorted(resources.items()))
        names = (*alike[key].plates, plate) if key in alike else (plate,) if plate else ()
        alike[key] = RuleJob(name=rule.name, plates=names, resources=resources)
    kinds: dict[tuple[Any, ...], list[RuleJob]] = {}
    for key, job in alike.items():
        kind = tuple(item for item in key if item[0] not in SIZES and not re.match("(mem|disk)(_mi?b)?$", item[0]))
        kinds.setdefault(kind, []).append(job)
    for of_kind in kinds.values():
        sizes = [(job.memory_mb, _number(job.resources.get("runtime")), job) for job in of_kind]
        largest = max(sizes, key=lambda size: size[:2])
        longest = max(sizes, key=lambda size: size[1::-1])
        yield from (job for *_, job in ([largest] if longest is largest else [largest, longest]))


def _trial(executor: Any, job: RuleJob) -> Trial:
    """The calls for a job, put together as in the executor's `run_job`; account and partition are those of its size."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string
    from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

    validate_slurm_extra(job)
    settings = executor.workflow.executor_settings
    parameters = {
        "run_uuid": NAME,
        "slurm_logfile": "/dev/null",
        "comment_str": NAME,
        "account": next(executor.get_account_arg(job)),
        "partition": executor.get_partition_arg(job),
    }

    def call(job: RuleJob, workdir: str = executor.workflow.workdir_init) -> str:
        command = get_submit_command(job, parameters | {"workdir": workdir}, settings, executor._failed_nodes)
        return str(command + set_gres_string(job))

    bare = call(job.at_most(dict.fromkeys(SMALL, 0) | {"_cores": 1}), workdir="").partition(f"--comment {NAME}")[2]
    place = " ".join(bare.replace(" --ntasks=1", "").replace(" --cpus-per-task=1", "").split())
    return Trial(job=job, call=call(job), small=call(job.at_most(SMALL)), place=place)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
