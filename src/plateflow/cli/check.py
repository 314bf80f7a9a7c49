"""`plateflow check`: what is missing, doubled, unreadable or changed, before any compute."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Status
from plateflow.errors import PlateflowError
from plateflow.project import Project

if TYPE_CHECKING:
    from plateflow.plates.check_index import Problem

SHOWN = 10
PROFILE = Path("profiles/slurm")


def check(
    plates: Annotated[list[str] | None, typer.Argument(help="plate ids; default: all")] = None,
    deep: Annotated[bool, typer.Option(help="decode every file, not just a sample")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the problems as JSON")] = False,
    cluster: Annotated[bool, typer.Option(help="instead: try with small jobs what a run on SLURM will need")] = False,
    profile: Annotated[Path, typer.Option(help="with --cluster: the profile that is tried")] = PROFILE,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Examine the raw plates: problems with their remedies, and files that are new or changed since ingest.

    Changed files are noted, so that the next `snakemake` looks at those wells again. Exit status: 1 for
    errors, else 0.
    """
    from plateflow.plates.check import changed_files, check_plate
    from plateflow.plates.check_index import Problem
    from plateflow.stages.ingest import well_layouts
    from plateflow.state.requests import request

    project = Project.load(configfile)
    problems: list[Problem] = []
    if cluster:
        from plateflow.cli.cluster import check_cluster

        problems = check_cluster(project, configfile, profile)
    for name in [] if cluster else plates or list(project.plates):
        plate, _ = project.target(name)
        of_plate = check_plate(plate.spec, project.config, deep=deep, prepare=well_layouts)
        problems += of_plate
        try:
            changed = changed_files(plate.spec, plate.paths)
        except PlateflowError as error:
            if not of_plate:  # else the same fault of the index is listed already
                what = f"{error.what}: {error.where}"
                problems.append(Problem(severity="error", plate=plate.name, what=what, remedy=error.remedy))
            continue
        if changed:
            request(plate.paths, kind="changed", stage="ingest")
            if not as_json:
                typer.echo(f"{plate.name}: {len(changed)} files are new, changed or gone since ingest, such as")
                for file in changed[:10]:
                    typer.echo(f"  {file}")
                typer.echo("  The next `snakemake` looks at their wells again.")
    if as_json:
        typer.echo(json.dumps([asdict(problem) for problem in problems], indent=1))
    else:
        for line in report(problems):
            typer.echo(line)
    severities = {problem.severity for problem in problems}
    raise typer.Exit(Status.ERROR if "error" in severities else Status.OK)


def report(problems: list[Problem]) -> Iterator[str]:
    """The problems in words, worst first; of many of one kind per plate only the first `SHOWN`."""
    from plateflow.plates.check_index import SEVERITIES

    if not problems:
        yield "No problem found."
        return
    counts = Counter(problem.severity for problem in problems)
    for severity in SEVERITIES:
        alike: dict[tuple[str, str], list[Problem]] = {}
        for problem in problems:
            if problem.severity == severity:
                alike.setdefault((problem.plate, problem.remedy), []).append(problem)
        for (_, remedy), group in alike.items():
            for problem in group[:SHOWN]:
                place = "/".join(filter(None, (problem.plate, problem.well)))
                field = f" field {problem.field}" if problem.field else ""
                yield f"{severity}: {place}{field}: {problem.what}"
                if problem.file:
                    yield f"  file: {problem.file}"
            if len(group) > SHOWN:
                yield f"  and {len(group) - SHOWN} more such; --json lists all"
            if remedy:
                yield f"  what to do: {remedy}"
    yield ", ".join(f"{counts[severity]} {severity}s" for severity in SEVERITIES if counts[severity])
