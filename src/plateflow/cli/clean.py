"""`plateflow clean`: remove what is no longer needed of a plate, and leave journals that tell the truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from plateflow.access import user_name
from plateflow.asked import PlateAsked, is_over, runs, withdraw
from plateflow.chain import KEEP_FLOWS, STAGES, stages_of
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, refuse_at_work
from plateflow.config import CORRECTED
from plateflow.errors import ResultsError, number_of
from plateflow.files import PARTIAL, append_line, remove, remove_tree, settle
from plateflow.paths import parse_well
from plateflow.project import Plate, Project
from plateflow.state import slurm
from plateflow.state.corrections import unused
from plateflow.state.journal import CLEANED
from plateflow.state.ledger import now

MADE = ("manifest", "plate.zarr", "histograms", "objects", "cells", "spots", "gates", "receipts", "logs", "benchmarks")
"""Folders of a plate's results that hold nothing but what was made; beside them, files that the journals list."""
KEPT = ("journal", "watch", "leases", "requests.jsonl", "corrections", "scratch")
LEFTOVERS = (f".*{PARTIAL}", ".*.old")
"""Names of what a job that was killed leaves behind."""


@dataclass(frozen=True, kw_only=True)
class Waste:
    """Something to be removed."""

    what: str
    path: Path

    def files(self) -> list[int]:
        """The sizes of its files, in bytes."""
        paths = [self.path, *self.path.rglob("*")] if self.path.is_dir() else [self.path]
        return [path.lstat().st_size for path in paths if path.is_symlink() or not path.is_dir()]


def clean(
    plate: Annotated[str, typer.Argument(help="plate id")],
    flows: Annotated[bool, typer.Option("--flows", help="also the flows and endpoints in the scratch")] = False,
    results: Annotated[bool, typer.Option("--results", help="all that was made; journals stay, as history")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="don't ask")] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Remove what is no longer needed of a plate: leftovers of killed jobs, of former parts, wells and label sets.

    With --flows or --results more; what that frees, and what can't be made again without a GPU, is said first.
    """
    if flows and results:
        raise typer.BadParameter("--results removes the flows, too: give one of them", param_hint="--flows")
    project = Project.load(configfile)
    chosen = project.plate(plate)
    refuse_at_work(project, chosen)
    waste = list(_all_results(chosen) if results else _waste(chosen, flows=flows))
    former = runs(project.screen)
    queued = slurm.jobs() if former else None
    asked = [project.screen.asked(run) for run in sorted(former) if is_over(project.screen, run, queued)]
    waste += [Waste(what="of runs that were killed", path=path) for path in asked]
    if not waste:
        typer.echo(f"{plate}: nothing to remove.")
        return
    for line in _summary(chosen, waste, flows=flows, results=results):
        typer.echo(line)
    if not yes:
        typer.confirm("Remove it?", abort=True)
    refuse_at_work(project, chosen)  # once more, after the answer
    if results:
        _void(project, chosen)
    elif any("of former wells" in each.what or "of former label sets" in each.what for each in waste):
        withdraw(chosen, "ingest", "plate")  # should they come back, no receipt may say that they are there
    for each in waste:
        if each.path.is_dir() and not each.path.is_symlink():
            remove_tree(each.path)
        else:
            remove(each.path)
    settle()
    typer.echo(f"{plate}: removed." + (" `snakemake` makes all of it again." if results else ""))


def _void(project: Project, plate: Plate) -> None:
    """Withdraw all receipts, then let the journals say that nothing of what they list is there: in this order."""
    for receipt in (plate.paths.root / "receipts").rglob("*.json"):
        remove(receipt)
    for receipt in project.screen.receipts("report", "screen"):
        remove(receipt)
    settle()
    line = {"event": CLEANED, "what": "results", "at": now(), "by": user_name()}
    for stage in STAGES:
        for journal in plate.paths.journals(stage):
            append_line(journal, line)


def _flows(plate: Plate) -> Iterator[Waste]:
    for folder in (plate.paths.scratch / "flows", plate.paths.scratch / "ends"):
        if folder.is_dir():
            yield Waste(what="flows and endpoints", path=folder)


def _unused_endpoints(plate: Plate) -> Iterator[Waste]:
    """Endpoints that `follow` made when there were several slices, or an earlier release did: nobody reads them."""
    folder = plate.paths.scratch / "ends"
    if "follow" not in stages_of(plate.config) and folder.is_dir():
        yield Waste(what="endpoints that nothing reads any more", path=folder)


def _all_results(plate: Plate) -> Iterator[Waste]:
    """What was made; nothing that a user has put beside it."""
    listed = {name for stage in STAGES for entry in plate.outcomes(stage).values() for name in entry.files}
    for path in _below(plate.paths.root):
        leftover = any(path.match(pattern) for pattern in LEFTOVERS)
        if path.name in MADE or path.name in listed or leftover:
            yield Waste(what="results", path=path)
        elif path.name not in KEPT:
            typer.echo(f"{plate.name}: {path.name} stays, as no journal lists it")
    yield from _flows(plate)


def _waste(plate: Plate, *, flows: bool) -> Iterator[Waste]:
    paths = plate.paths
    gone = [*(_flows(plate) if flows else _unused_endpoints(plate))]
    yield from gone
    for folder in [paths.root] if paths.scratch.is_relative_to(paths.root) else [paths.root, paths.scratch]:
        for pattern in LEFTOVERS:
            for path in sorted(folder.rglob(pattern)):
                if not any(each.path in path.parents for each in gone):
                    yield Waste(what="leftovers of jobs that were killed", path=path)
    yield from (Waste(what="corrected labels of an import that was killed", path=path) for path in unused(paths))
    yield from _of_former_jobs(plate)
    try:
        wells = set(plate.wells)
    except ResultsError as error:
        typer.echo(f"{plate.name}: {error.what}: what former wells have left isn't looked for")
        return
    yield from _of_former_wells(plate, wells, {each.path for each in gone})


def _of_former_jobs(plate: Plate) -> Iterator[Waste]:
    """Receipts, logs and benchmarks of jobs that there are no more, as after the number of parts was changed, or of
    stages that the configuration lacks now.

    Where a job has done what is asked of it now, also those of what was asked before.
    """
    asked = PlateAsked(plate).digests()
    for name in STAGES:
        digests = asked.get(name, {})
        done = {job for job, digest in digests.items() if plate.paths.receipt(name, job, digest).exists()}
        for kind in ("receipts", "logs", "benchmarks"):
            for path in _below(plate.paths.root / kind / name):
                job, _, rest = path.name.partition(".")
                if job not in digests or (job in done and rest.partition(".")[0] != digests[job]):
                    yield Waste(what=f"{kind} of former jobs", path=path)


def _of_former_wells(plate: Plate, wells: set[str], gone: set[Path]) -> Iterator[Waste]:
    """Tables, labels, flows of wells and label sets that the plate no longer has, and images of such wells; but what
    lies in folders that go as a whole.
    """
    paths, sets = plate.paths, plate.config.segmentation
    for folder in (paths.cells("A01").parent, paths.histogram("A01").parent, paths.gates("A01").parent):
        for path in _below(folder):
            if path.suffix in (".parquet", ".npz") and path.stem not in wells:
                yield Waste(what="tables of former wells", path=path)
    for folder in _below(paths.root / "spots"):
        for path in _below(folder):
            if path.suffix == ".parquet" and (folder.name not in plate.config.spots or path.stem not in wells):
                yield Waste(what="spots of former wells and names", path=path)
    folders = {paths.root / "objects", paths.scratch / "flows", paths.scratch / "ends"}
    for folder in sorted(folders - gone):
        for of_set in _below(folder):
            if of_set.name.removesuffix(CORRECTED) not in sets:
                yield Waste(what="objects and flows of former label sets", path=of_set)
                continue
            for path in _below(of_set):
                if path.name.partition(".")[0] not in wells and not path.name.startswith("."):
                    yield Waste(what="objects and flows of former wells", path=path)
    for column in sorted(paths.store.glob("[A-Z]*/[0-9]*")):
        if f"{column.parent.name}{column.name}" not in wells and _is_well(column):
            yield Waste(what="images of former wells", path=column)
            continue
        for labels in sorted(column.glob("0/labels/[!.]*")):
            if labels.is_dir() and labels.name.removesuffix(CORRECTED) not in sets:
                yield Waste(what="labels of former label sets", path=labels)


def _is_well(column: Path) -> bool:
    try:
        parse_well(f"{column.parent.name}{column.name}")
    except ValueError:
        return False
    return True


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _summary(plate: Plate, waste: list[Waste], *, flows: bool, results: bool) -> Iterator[str]:
    """What is removed, and what making it again takes."""
    sizes: dict[str, list[int]] = {}
    for each in waste:
        sizes.setdefault(each.what, []).extend(each.files())
    for what, of_files in sizes.items():
        yield f"{plate.name}: {what}: {number_of(len(of_files), 'file[s]')}, {sum(of_files) / 1e6:,.1f} MB"
    total = [size for of_files in sizes.values() for size in of_files]
    yield f"{plate.name}: frees {sum(total) / 1e6:,.1f} MB in {number_of(len(total), 'file[s]')}"
    seconds: dict[str, float] = {}
    for stage in stages_of(plate.config) if results else ["infer"] if flows else []:
        for entry in plate.outcomes(stage).values():
            if flows and KEEP_FLOWS in entry.depends:  # it has made labels
                continue
            on_gpu = entry.info.get("device", "cpu") != "cpu"
            seconds["GPU" if on_gpu else "CPU"] = seconds.get("GPU" if on_gpu else "CPU", 0.0) + entry.seconds
    made = "all of it" if results else "the flows"
    for device, spent in seconds.items():
        alone = ", and can't be made again without one in that time" if device == "GPU" else ""
        yield f"{plate.name}: making {made} took {spent / 3600:,.2f} h of a {device}{alone}"
    if flows and not results:
        yield f"{plate.name}: nothing becomes stale by it: a later change that needs flows has them made again"
