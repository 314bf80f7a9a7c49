"""`plateflow plan`: what a run will take, before anything is submitted."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from plateflow.chain import stages_of
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption
from plateflow.cli.network import lines as lines_of_network
from plateflow.cli.network import network_again
from plateflow.cli.profile import profile_file, read_profile
from plateflow.cli.upgrade import lines, upgrade
from plateflow.errors import PlateflowError, number_of
from plateflow.estimate import estimates_of, refine, screen_needs
from plateflow.project import SCREEN, Project
from plateflow.state.ledger import attempts

START_S = {"cluster": 60.0, "machine": 4.0}
"""Seconds from one job's end to the next one's work: on a cluster it is noticed at a poll, then queued and started."""

LEARN_FROM = 20


def plan(
    profile: Annotated[Path | None, typer.Option(help="folder of the Snakemake profile; default: one machine")] = None,
    jobs: Annotated[int | None, typer.Option(help="jobs at a time; default: as the profile says")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs at a time; default: the profile's, else all jobs")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print all figures as JSON")] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Print jobs, GPU and CPU hours, wall time, memory, storage and files of all plates, as if nothing were done.

    Before that, what this release does again of what an earlier one has made, why, and what it costs; and, where flow
    fields aren't kept, for which changes the network runs again.

    Estimates start from the sizes that `plateflow init` wrote into the plate sheet and from rates that were measured
    once; the ledger of what has already run refines them, here and for the memory and time that the rules ask for.
    """
    project = Project.load(configfile)
    begun = [plate.paths for plate in project.plates.values() if plate.paths.metadata.is_file()]
    # The plates that were worked on last: enough to learn from, and read within two seconds.
    newest = sorted(begun, key=lambda paths: (paths.root / "journal").stat().st_mtime)[-LEARN_FROM:]
    rows = [row for paths in newest for row in attempts(paths)]
    with suppress(PermissionError):  # another user's results: the rates stay as they are
        refine(project, rows)
    estimates = estimates_of(project)
    redone, again = upgrade(project.plates, estimates), network_again(project.plates, estimates)
    for line in [] if as_json else [*lines(redone), *lines_of_network(again, project.plates)]:
        typer.echo(line)
    figures = plan_figures(project, limits(profile, jobs=jobs, gpus=gpus)) | {"upgrade": redone, "network": again}
    if as_json:
        typer.echo(json.dumps(figures, indent=1))
        return
    for line in _lines(figures):
        typer.echo(line)


def limits(profile: Path | None, *, jobs: int | None, gpus: int | None) -> dict[str, Any]:
    """How many jobs and GPUs a profile lets run at a time, and what a start takes; what is given by hand wins.

    Raises:
        PlateflowError: there is no such profile.
    """
    settings: dict[str, Any] = {"resources": "gpu=1"} if profile is None else read_profile(profile_file(profile))
    given = settings.get("resources", [])
    resources = dict(text.split("=", 1) for text in ([given] if isinstance(given, str) else given))
    at_once = settings.get("jobs") or os.cpu_count() or 1
    n_jobs = jobs or (sys.maxsize if at_once == "unlimited" else int(at_once))
    n_gpus = gpus or int(resources.get("gpu", 0)) or n_jobs
    return {"jobs": int(n_jobs), "gpus": n_gpus, "start_s": START_S["cluster" if "executor" in settings else "machine"]}


def plan_figures(project: Project, limit: dict[str, Any]) -> dict[str, Any]:
    """All figures: stages, totals, storage, proposal of parts.

    Raises:
        PlateflowError: the plate sheet gives no plate's size.
    """
    estimates = estimates_of(project)
    if not estimates:
        raise PlateflowError(
            "the plate sheet doesn't say how large the plates are",
            where=project.config.plates,
            remedy="run `plateflow init RAW_FOLDER` for each plate again; it writes that and keeps what you changed",
        )
    stages: dict[str, dict[str, float]] = {}
    storage: dict[str, float] = {}
    for estimate in estimates.values():
        for name in stages_of(estimate.config):
            stage = stages.setdefault(
                name, {"jobs": 0, "hours": 0.0, "longest_min": 0.0, "mem_mb": 0, "read_gb": 0.0, "written_gb": 0.0}
            )
            stage["jobs"] += estimate.jobs(name)
            stage["hours"] += estimate.hours(name)
            stage["longest_min"] = max(stage["longest_min"], estimate.seconds(name) / 60)
            stage["mem_mb"] = max(stage["mem_mb"], estimate.resources(name)["mem_mb"])
            for key, amount in zip(("read_gb", "written_gb"), estimate.moved_gb(name), strict=True):
                stage[key] += amount
        sizes = estimate.storage() | {"moved_gb": sum(estimate.traffic_gb().values())}
        for kind, amount in sizes.items():
            storage[kind] = storage.get(kind, 0.0) + amount
    seconds, asked = screen_needs(project)
    minutes, memory = seconds / 60, asked["mem_mb"]
    stages[SCREEN] = {"jobs": 1, "hours": minutes / 60, "longest_min": minutes, "mem_mb": memory}
    stages[SCREEN] |= {"read_gb": 0.0, "written_gb": 0.0}
    largest = max(estimates.values(), key=lambda estimate: estimate.work("infer"))
    cpu = sum(stage["hours"] for name, stage in stages.items() if name != "infer")
    gpu = stages["infer"]["hours"]
    all_jobs = int(sum(stage["jobs"] for stage in stages.values()))
    start_h = limit["start_s"] / 3600
    path = (sum(map(largest.seconds, stages_of(largest.config))) + seconds) / 3600 + len(stages) * start_h
    wall = path + max(
        (gpu + stages["infer"]["jobs"] * start_h) / limit["gpus"], (cpu + gpu + all_jobs * start_h) / limit["jobs"]
    )
    return {
        "plates": len(estimates),
        "plates_without_sizes": sorted(project.plates.keys() - estimates.keys()),
        "device": largest.device,
        "limits": limit,
        "stages": stages,
        "jobs": all_jobs,
        "gpu_hours": gpu if largest.device == "cuda" else 0.0,
        "cpu_hours": cpu + (gpu if largest.device == "cpu" else 0.0),
        "wall_hours": wall,
        "storage": storage,
        "keep_flows": str(project.config.keep_flows).lower(),
        "modes": _modes(project),
        "parts": project.config.parts.model_dump(),
        "proposed_parts": largest.propose(),
        "learnt": sorted(largest.learnt),
    }


def _modes(project: Project) -> dict[str, dict[str, float]]:
    """What flow fields cost that are kept, and those that aren't, by `keep_flows`: bytes, scratch, and what a change of
    the segmentation's thresholds and sizes costs.
    """
    modes = {}
    for keep in (True, False):
        config = project.config.model_copy(update={"keep_flows": keep})
        estimates = estimates_of(Project.of(config, {name: plate.spec for name, plate in project.plates.items()}))
        modes[str(keep).lower()] = {
            "moved_gb": sum(sum(estimate.traffic_gb().values()) for estimate in estimates.values()),
            "scratch_gb": sum(estimate.storage()["scratch_gb"] for estimate in estimates.values()),
            "change_gpu_hours": sum(estimate.change_hours()["gpu"] for estimate in estimates.values()),
            "change_cpu_hours": sum(estimate.change_hours()["cpu"] for estimate in estimates.values()),
        }
    return modes


def _lines(figures: dict[str, Any]) -> list[str]:
    lines = [f"{number_of(figures['plates'], 'plate[s]')}, as if nothing were done yet.", ""]
    columns = f"{'stage':10} {'jobs':>7} {'hours':>9} {'longest job':>12} {'memory per job':>14}"
    lines.append(f"{columns} {'read':>10} {'written':>10}")
    for name, stage in figures["stages"].items():
        minutes, memory = f"{stage['longest_min']:.1f} min", f"{stage['mem_mb']:,.0f} MB"
        moved = "".join(f"{stage[key]:8,.0f} GB" for key in ("read_gb", "written_gb"))
        lines.append(f"{name:10} {stage['jobs']:7,} {stage['hours']:9,.1f} {minutes:>12} {memory:>14}{moved}")
    limit, storage = figures["limits"], figures["storage"]
    where = "GPU" if figures["device"] == "cuda" else "CPU"
    at_once = f"{number_of(limit['jobs'], 'job[s]')} and {number_of(limit['gpus'], 'GPU[s]')}"
    lines += [
        "",
        f"jobs: {figures['jobs']:,}; GPU hours: {figures['gpu_hours']:,.1f}; CPU hours: {figures['cpu_hours']:,.1f} "
        f"(infer on the {where})",
        f"wall time with {at_once} at a time: about {figures['wall_hours']:,.1f} h",
        f"results: {storage['result_gb']:,.1f} GB in {storage['result_files']:,.0f} files; "
        f"scratch: {storage['scratch_gb']:,.1f} GB in {storage['scratch_files']:,.0f} files; "
        f"raw: {storage['raw_gb']:,.1f} GB",
        f"jobs read and write {storage['moved_gb']:,.0f} GB in all: at 1 GB/s of shared storage that alone takes "
        f"{storage['moved_gb'] / 3600:,.1f} h",
    ]
    for keep, mode in figures["modes"].items():
        gpu, cpu = mode["change_gpu_hours"], mode["change_cpu_hours"]
        again = "start from the flow fields that are there" if keep == "true" else "run infer again"
        lines.append(
            f"keep_flows: {keep}{' (as configured)' if keep == figures['keep_flows'] else ''}: scratch "
            f"{mode['scratch_gb']:,.0f} GB, {mode['moved_gb']:,.0f} GB read and written; changed thresholds or sizes "
            f"of the segmentation {again}: {f'{gpu:,.1f} GPU' if gpu else f'{cpu:,.1f} CPU'} hours"
        )
    proposed, parts = figures["proposed_parts"], figures["parts"]
    text = f"parts: {{cpu: {proposed['cpu']}, gpu: {proposed['gpu']}}}"
    lines.append(f"{text} is as configured" if proposed == parts else f"proposed: {text} (now {parts})")
    if figures["learnt"]:
        lines.append(f"rates of {', '.join(figures['learnt'])} come from earlier jobs, the others from docs/scale.md")
    if figures["plates_without_sizes"]:
        lines.append(f"not counted, since their sizes are unknown: {', '.join(figures['plates_without_sizes'][:10])}")
    return lines
