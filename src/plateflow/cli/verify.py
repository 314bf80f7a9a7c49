"""`plateflow verify`: every file that the journals list, read and compared; what is lost is asked for again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from plateflow.chain import part_of, stages_of
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Status
from plateflow.errors import ResultsError, number_of
from plateflow.files import remove, settle
from plateflow.project import SCREEN, Plate, Project
from plateflow.stages.job import damage
from plateflow.stages.stale import to_do
from plateflow.state.corrections import corrections, unused
from plateflow.state.journal import Entry, Key
from plateflow.state.lease import running
from plateflow.state.requests import lost_sequences, record_lost

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

THREADS = 4
CORRECT_AGAIN = "put it back from a copy; or `plateflow retry PLATE/WELL --discard-corrections`, and import it again"
Listed = tuple[str, Entry, str]
"""A stage, an entry of its journals, and a file that it lists."""


def verify(
    plates: Annotated[list[str] | None, typer.Argument(help="plate ids; default: all, and the screen")] = None,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Read every file that the journals list, and compare its size and checksum with what was written.

    What isn't there as it was written is listed and recorded, so that the next `snakemake` makes it again; so does
    whatever else is stale though a receipt says that it is done. Exit status: 4 where something will be done again, 1
    where something can't be read, else 0.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    project = Project.load(configfile)
    chosen = [project.plate(name) for name in plates or project.plates]
    at_work = bool(running(project.screen.root / "leases"))  # a run, not a job
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    again: list[str] = []
    unread = False
    for plate in chosen:
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            found = Found(bar=bar, task=bar.add_task(plate.name, total=0))
            verify_plate(plate, found, at_work=at_work)
        for line in found.lines():
            typer.echo(f"{plate.name}: {line}")
        unread = unread or found.unread
        again += [plate.name] * found.again
    if plates is None and (lost := _lost_of_screen(project)):
        typer.echo("\n".join(f"{SCREEN}: {line}" for line in lost))
        again.append(SCREEN)
    if again:
        typer.echo(f"Now run `snakemake`: it does again what is listed above, of {', '.join(again)}.")
    raise typer.Exit(Status.STALE if again else Status.ERROR if unread else Status.OK)


@dataclass
class Found:
    """What `verify` found in a plate so far.

    Attributes:
        bar, task: show how many bytes were read.
        whole: number and bytes of the files that are as they were written.
        lost: a line for each file that is not.
        not_needed: number of flows and endpoints that are gone, and that nothing needs.
        asked: a line for each job that the next run looks at, though its receipt said that it was done.
        again: whether something will be done again.
        unread: whether something can't be told.
    """

    bar: Progress
    task: TaskID
    whole: list[int] = field(default_factory=lambda: [0, 0])
    lost: list[str] = field(default_factory=list)
    not_needed: int = 0
    asked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    again: bool = False
    unread: bool = False

    def lines(self) -> Iterator[str]:
        """In words."""
        yield from self.notes
        yield from self.lost
        yield from self.asked
        if self.not_needed:
            yield f"{number_of(self.not_needed, 'file[s]')} of flows and endpoints: not there, not needed"
        n, size = self.whole
        whole = number_of(n, f"file[s] ({size / 1e6:,.1f} MB) [are as they were|is as it was] written")
        yield f"{whole}; {number_of(len(self.lost), '[are|is] not')}"


def verify_plate(plate: Plate, found: Found, *, at_work: bool) -> None:
    """Compare all files of a plate, record what is lost, and withdraw receipts of what isn't done."""
    jobs = running(plate.paths.root / "leases")
    found.notes += [f"{name} is at work ({owner}): what it makes isn't looked at" for name, owner in jobs.items()]
    try:
        plate.wells  # noqa: B018
    except ResultsError as error:
        found.notes.append(f"{error.what}: what is made of single wells is not looked at; verify it again afterwards")
    stages = stages_of(plate.config)
    _compare(
        plate,
        [each for name, stage in stages.items() if not stage.intermediate for each in _listed(plate, name)],
        found,
    )
    # the later one first: only what is needed, also by what was found to be lost before
    for stage in [name for name in reversed(stages) if stages[name].intermediate]:
        todo = to_do(plate, files=True).items
        readers = {name for name, other in stages.items() if stage in other.reads}
        read = {key[:2] for name, key in todo if name in readers}
        needed = {key for key in plate.outcomes(stage) if key[:2] in read and (stage, key) not in todo}
        listed = _listed(plate, stage)
        _compare(plate, [each for each in listed if each[1].key in needed], found)
        others = [name for _, entry, name in listed if entry.key not in needed]
        found.not_needed += sum(not plate.paths.path_of(name).exists() for name in others)
    for each in corrections(plate.paths).values():
        file = each.file(plate.paths)
        if what := damage(plate.paths, plate.paths.key_of(file), each.stamp, content=True):
            found.unread = True
            found.notes.append(f"{each.well}: {file}: {what}; no run makes it again: {CORRECT_AGAIN}")
    for file in unused(plate.paths):
        what = "labels that no line of corrections.jsonl names: of an import that was killed, or whose line is lost"
        found.notes.append(f"{file}: {what}; import them again, or `plateflow clean {plate.name}`")
    left = to_do(plate, files=True)
    if left.fault or (left.note and not left.items):
        found.notes.append(left.note)
        found.unread = True
    why: dict[tuple[str, str], set[str]] = {}
    for (stage, _), item in left.items.items():
        if item.seen:  # what was recorded as lost isn't: a run sees that
            why.setdefault((stage, item.job.name), set()).update(item.why)
    found.again = bool(found.lost or why) or any(item.why != ("never done",) for item in left.items.values())
    if why and (at_work or running(plate.paths.root / "leases")):
        found.asked.append("a run is at work, and some jobs may have more to do: verify it again afterwards")
        return
    for (stage, job), reasons in why.items():
        for receipt in plate.paths.receipts(stage, job):
            remove(receipt)
        found.asked.append(f"{stage} {job} will be looked at again: {', '.join(sorted(reasons))}")
    settle()


def _listed(plate: Plate, stage: str) -> list[Listed]:
    """The files that a stage's journals list of today's wells and label sets, but of jobs that are at work.

    While the manifest can't be read, only what is made of the plate as a whole.
    """
    writers = {stage, "infer"} if stage == "follow" else {stage}  # infer removes the endpoints of earlier flows
    jobs = [name.partition("-")[::2] for name in running(plate.paths.root / "leases")]
    if ("ingest", "plate") in jobs:  # replaces what others have made
        return []
    jobs = [(other, job) for other, job in jobs if other in writers]
    try:
        wells = set(plate.wells)
    except ResultsError:
        wells = set()
    listed = []
    for entry in plate.outcomes(stage).values():
        if entry.label_set not in ("", *plate.config.segmented):
            continue
        if entry.well:
            at_work = any(part_of(job) == plate.part_of_well(other, entry.well) for other, job in jobs)
            if entry.well not in wells or at_work:
                continue
        elif jobs:
            continue
        listed += [(stage, entry, name) for name in entry.files]
    return listed


def _compare(plate: Plate, listed: list[Listed], found: Found) -> None:
    total = (found.bar.tasks[0].total or 0) + sum(entry.files[name][0] for _, entry, name in listed)
    found.bar.update(found.task, total=total)

    def look(each: Listed) -> tuple[str, bool]:
        _, entry, name = each
        try:
            return damage(plate.paths, name, entry.files[name], content=True), False
        except OSError as error:
            return f"it can't be read: {error.strerror}", True
        finally:
            found.bar.update(found.task, advance=entry.files[name][0])

    with ThreadPoolExecutor(THREADS) as pool:
        looks = list(pool.map(look, listed))
    lost: list[tuple[Listed, str]] = []
    for each, (why, unread) in zip(listed, looks, strict=True):
        _, entry, name = each
        if unread:
            found.unread = True
            found.notes.append(
                f"{_words(plate, each)}: {why}; nothing is done about it, as the machine may be at fault"
            )
        elif why:
            lost.append((each, why))
        else:
            found.whole[0] += 1
            found.whole[1] += entry.files[name][0]
    _record(plate, lost, found)


def _record(plate: Plate, lost: list[tuple[Listed, str]], found: Found) -> None:
    """Record what is lost, once for each work item, unless it was made anew, or a job has taken it up, since."""
    now: dict[str, dict[Key, Entry]] = {}
    known: dict[str, dict[Key, int]] = {}
    for (stage, entry, name), why in lost:
        if stage not in now:
            now[stage] = {current.key: current for _, current, _ in _listed(plate, stage)}
            known[stage] = lost_sequences(plate.paths, stage)
        if now[stage].get(entry.key) != entry:
            continue
        found.lost.append(f"{_words(plate, (stage, entry, name))}: {why}")
        if known[stage].get(entry.key, 0) < entry.sequence:
            n_columns = plate.n_columns if entry.well else 0
            record_lost(plate.paths.watch("verify", "plate"), stage, entry, name, n_columns)
            known[stage][entry.key] = entry.sequence


def _words(plate: Plate, each: Listed) -> str:
    stage, entry, name = each
    return f"{' '.join(filter(None, (entry.well, stage, entry.label_set)))}: {plate.paths.path_of(name)}"


def _lost_of_screen(project: Project) -> list[str]:
    """What isn't as it was written of the page and tables over all plates; its receipt, which lists them, goes then."""
    lost = []
    for receipt in project.screen.receipts("report", "screen"):
        try:
            files = json.loads(receipt.read_text()).get("files", {})
        except ValueError as error:
            lost.append(f"{receipt}: {error}")
            remove(receipt)
            continue
        whys = {name: damage(project.screen, name, tuple(stamp), content=True) for name, stamp in files.items()}
        wrong = [f"{project.screen.path_of(name)}: {why}" for name, why in whys.items() if why]
        if wrong:
            remove(receipt)
        lost += wrong
    settle()
    return lost
