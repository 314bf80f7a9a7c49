"""`plateflow check`: what is missing, doubled, unreadable or changed, before any compute."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plateflow.access import denial, obstacles, plate_obstacles, snakemake_obstacles
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Status
from plateflow.errors import PlateflowError, number_of
from plateflow.project import Plate, Project

if TYPE_CHECKING:
    from plateflow.plates.check_index import Problem

SHOWN = 3
"""So many like problems of a plate have a line each; of more the first, and where the others are."""
_NUMBER = re.compile(r"(?<!\w)\d[\d.,]*(?!.*: )")
"""A number that may differ between like problems: not one in the name of their channel."""
PROFILE = Path("profiles/slurm")


def check(
    plates: Annotated[list[str] | None, typer.Argument(help="plate ids; default: all")] = None,
    deep: Annotated[bool, typer.Option(help="decode every file, not just a sample")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="take warnings for errors")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the problems as JSON")] = False,
    cluster: Annotated[bool, typer.Option(help="instead: try with small jobs what a run on SLURM will need")] = False,
    profile: Annotated[Path, typer.Option(help="with --cluster: the profile that is tried")] = PROFILE,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Examine the raw plates: problems with their remedies, and files that are new or changed since ingest.

    Changed files are noted, so that the next `snakemake` looks at those wells again. Exit status: 1 for
    errors, 0 for warnings and notes alone.
    """
    from plateflow.plates.check import changed_files, check_plate
    from plateflow.plates.check_index import Problem
    from plateflow.stages.refusals import refused_of_config, refused_of_plate
    from plateflow.state.requests import request

    project = Project.load(configfile)
    problems: list[Problem] = [*refused_of_config(project.config)]
    if cluster:
        from plateflow.cli.cluster import check_cluster

        problems += check_cluster(project, configfile, profile)
    chosen = [] if cluster else [project.target(name)[0] for name in plates or project.plates]
    problems += [] if cluster else denials(project, chosen)
    for plate in chosen:
        of_plate = check_plate(plate.spec, project.config, deep=deep, refused=partial(refused_of_plate, plate))
        problems += of_plate
        problems += doubts(plate)
        try:
            changed = changed_files(plate.spec, plate.paths)
            if changed:
                request(plate.paths, kind="changed", stage="ingest")
        except PermissionError:  # told above
            continue
        except PlateflowError as error:
            if not of_plate:  # else the same fault of the index is listed already
                what = f"{error.what}: {error.where}"
                problems.append(Problem(severity="error", plate=plate.name, what=what, remedy=error.remedy))
            continue
        if changed and not as_json:
            typer.echo(
                f"{plate.name}: {number_of(len(changed), 'file[s are| is]')} new, changed or gone since ingest, such as"
            )
            for file in changed[:10]:
                typer.echo(f"  {file}")
            typer.echo("  The next `snakemake` looks at their wells again.")
    if strict:
        problems = [replace(each, severity="error") if each.severity == "warning" else each for each in problems]
    if as_json:
        typer.echo(json.dumps([asdict(problem) for problem in problems], indent=1))
    else:
        for line in report(problems):
            typer.echo(line)
    severities = {problem.severity for problem in problems}
    raise typer.Exit(Status.ERROR if "error" in severities else Status.OK)


def denials(project: Project, plates: list[Plate]) -> Iterator[Problem]:
    """What this user can't write of the results, and of what Snakemake keeps: of each plate the first, and how many."""
    from plateflow.plates.check_index import Problem

    results, scratch = project.config.results, project.config.scratch
    looks = {".snakemake": [snakemake_obstacles()], results: [obstacles(Path(results), depth=0)]}
    looks[results] += [plate_obstacles(paths) for paths in (project.screen, *(plate.paths for plate in plates))]
    told: set[str] = set()
    for where, places in ((where, list(found)) for where, each in looks.items() for found in each):
        error = denial(places[0], results, scratch) if places else None
        if error and error.what not in told:
            told.add(error.what)  # a folder above all plates stands in the way of each
            more = f"; nor {number_of(len(places) - 1, 'more place[s]')} there" if places[1:] else ""
            yield Problem("error", where, f"{error.what} ({error.why}){more}", error.remedy, file=str(places[0]))


def doubts(plate: Plate) -> Iterator[Problem]:
    """What is doubtful about the intensities of a plate whose window is there."""
    from plateflow.images.window import load_window
    from plateflow.plates.check_index import Problem
    from plateflow.state.journal import PLATE_KEY

    with suppress(PermissionError):  # of which `denials` tells
        if plate.paths.window.is_file():
            aggregate = plate.outcomes("aggregate").get(PLATE_KEY)
            for what in load_window(plate.paths).doubts(aggregate.info.get("drift", {}) if aggregate else {}):
                yield Problem("warning", plate.name, what)


def report(problems: list[Problem]) -> Iterator[str]:
    """The problems in words, worst first; of many that differ in no more than place and numbers, one line."""
    from plateflow.plates.check_index import SEVERITIES
    from plateflow.plates.reader import examples

    if not problems:
        yield "No problem found."
        return
    counts = Counter(problem.severity for problem in problems)
    alike: dict[tuple[str, str, str], dict[str, list[Problem]]] = {}
    for problem in sorted(problems, key=lambda each: SEVERITIES.index(each.severity)):
        kinds = alike.setdefault((problem.severity, problem.plate, problem.remedy), {})
        kinds.setdefault(_NUMBER.sub("0", problem.what), []).append(problem)
    for (severity, plate, remedy), kinds in alike.items():
        for group in kinds.values():
            for problem in group if len(group) <= SHOWN else group[:1]:
                yield f"{severity}: {plate}{'/' * bool(_place(problem))}{_place(problem)}: {problem.what}"
                if problem.file:
                    yield f"  file: {problem.file}"
            if len(group) > SHOWN:
                places = dict.fromkeys(_place(each) or each.file or plate for each in group[1:])
                yield f"  and {len(group) - 1:,} more such: {examples(places)}; --json lists all"
        if remedy:
            yield f"  what to do: {remedy}"
    yield ", ".join(number_of(counts[each], f"{each}[s]") for each in SEVERITIES if counts[each])


def _place(problem: Problem) -> str:
    return problem.well + (f" field {problem.field}" if problem.field else "")
