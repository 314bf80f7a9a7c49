"""`plateflow check`: what is missing, doubled, unreadable or changed, before any compute."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Project
from plateflow.config import PlateflowError


def check(
    plates: Annotated[list[str] | None, typer.Argument(help="plate ids; default: all")] = None,
    deep: Annotated[bool, typer.Option(help="decode every file instead of looking at it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the problems as JSON")] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Look at the raw plates: problems with their remedies, and files that are new or changed since ingest.

    Changed files are noted, so that the next `snakemake` looks at those wells again. Ends with 2 where a problem is an
    error, 1 where there are warnings only, 0 where there are none.
    """
    from plateflow.plates.check import Problem, changed_files, check_plate
    from plateflow.state.requests import ask

    project = Project.load(configfile)
    problems: list[Problem] = []
    for name in plates or list(project.plates):
        entry, _ = project.target(name)
        paths = project.paths(entry.plate)
        found = check_plate(entry, project.config, deep=deep)
        problems += found
        try:
            changed = changed_files(entry, paths)
        except PlateflowError as error:
            if not found:  # else the same fault of the index is told already
                what = f"{error.what}: {error.where}"
                problems.append(Problem(severity="error", plate=entry.plate, what=what, remedy=error.remedy))
            continue
        if changed:
            ask(paths, kind="changed", stage="ingest")
            if not as_json:
                typer.echo(f"{entry.plate}: {len(changed)} files are new, changed or gone since ingest, such as")
                for file in changed[:10]:
                    typer.echo(f"  {file}")
                typer.echo("  The next `snakemake` looks at their wells again.")
    if as_json:
        typer.echo(json.dumps([asdict(problem) for problem in problems], indent=1))
    else:
        for problem in sorted(problems, key=lambda problem: problem.severity != "error"):
            place = "/".join(filter(None, (problem.plate, problem.well)))
            field = f" field {problem.field}" if problem.field else ""
            file = f"\n  file: {problem.file}" if problem.file else ""
            remedy = f"\n  what to do: {problem.remedy}" if problem.remedy else ""
            typer.echo(f"{problem.severity}: {place}{field}: {problem.what}{file}{remedy}")
        if not problems:
            typer.echo("No problem found.")
    severities = {problem.severity for problem in problems}
    raise typer.Exit(2 if "error" in severities else 1 if severities else 0)
