"""Retry requests and watched files: what makes Snakemake look at a job again beside changed parameters.

`requests.jsonl` is written by the command line alone; `watch/<stage>-<job>.jsonl` by the job that set a raw file
aside or missed a file of an earlier stage (a loss). Both are read while the Snakefile is parsed, so they stay small.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from plateflow.chain import STAGES, part_of, part_of_well
from plateflow.files import append_line, digest, json_line, read_lines, stat_of, write_atomic
from plateflow.paths import PlatePaths
from plateflow.state.journal import Entry, Key, item_key


def request(paths: PlatePaths, *, kind: str, stage: str, well: str = "", n_columns: int = 0) -> None:
    """Append a request: `retry` of a well (or of all) from a stage on, or `changed` raw files for ingest."""
    number = max((line["n"] for line in read_lines(paths.requests)), default=0) + 1
    append_line(paths.requests, {"n": number, "kind": kind, "stage": stage, "well": well, "n_columns": n_columns})


def request_number(paths: PlatePaths, stage: str, well: str) -> int:
    """The number of the last request that concerns a well in a stage: part of its fingerprint."""
    asked = (line for line in _requests(paths) if line["stage"] == stage and line["well"] in ("", well))
    return max((line["n"] for line in asked), default=0)


def watch_lines(paths: PlatePaths) -> dict[str, list[dict[str, Any]]]:
    """The lines of all watch files of a plate, by stage and job (`tile-3`)."""
    return {path.stem: [*read_lines(path)] for path in paths.watches()}


def request_digest(
    paths: PlatePaths, stage: str, job: str, parts: int, watched: dict[str, list[dict[str, Any]]] | None = None
) -> str:
    """What requests, watched files and lost ones ask of a job beside its parameters; empty where there is nothing.

    Watched files count only if their stat now differs from the one recorded when they were set aside: a fixed file is
    redone once, an untouched bad one asks for nothing. A fixed file is asked of ingest too, whose manifest knows raw
    files by size and time. A lost file is asked of the job that makes it, whichever job of the plate missed it.

    The stage deals the plate's wells into so many `parts`; `watched` are the plate's `watch_lines`, if they are known.
    """

    def concerns(stage_asked: str, well: str, n_columns: int) -> bool:
        whole = STAGES[stage].scope == "plate" or not well or not n_columns
        return stage_asked == stage and (whole or part_of_well(well, parts, n_columns) == part_of(job))

    numbers = [line["n"] for line in _requests(paths) if concerns(line["stage"], line["well"], line["n_columns"])]
    changed, lost = [], []
    for name, lines in (watch_lines(paths) if watched is None else watched).items():
        for line in lines:
            if loss := line.get("lost"):
                if concerns(loss["stage"], loss["key"][0], loss["n_columns"]):
                    lost.append([line["path"], loss["key"], loss["sequence"]])
            elif stage == "ingest" or name == f"{stage}-{job}":
                changed += changed_files([line])
    asked = [numbers, changed, *([sorted(lost)] if lost else [])]
    return digest(*asked) if any(asked) else ""


def changed_files(lines: Iterable[Mapping[str, Any]]) -> list[list[Any]]:
    """Of watched raw files those that aren't as they were set aside, each with its stat now."""
    changed = []
    for line in lines:
        with suppress(OSError):  # while the share is away
            if "stat" in line and (now := stat_of(line["path"])) != line["stat"]:
                changed.append([line["path"], now])
    return changed


def record_set_aside(paths: PlatePaths, stage: str, job: str, files: Iterable[tuple[str, list[int] | None]]) -> None:
    """Record the raw files that a job set aside, each with its stat when it was first set aside."""
    path = paths.watch(stage, job)
    recorded = list(read_lines(path))
    known = {line["path"] for line in recorded if "stat" in line}
    if new := {file: {"path": file, "stat": stat} for file, stat in files if file not in known}:
        write_atomic(path, b"".join(map(json_line, [*recorded, *new.values()])))


def record_lost(watch: Path, stage: str, entry: Entry, name: str, n_columns: int) -> None:
    """Record that a file which a stage made is gone or damaged: the stage's job is asked for it again.

    Args:
        watch: the file of the job that noticed it.
        stage, entry: that made the file, and its journal's entry.
        name: of the file, as the journal names it.
        n_columns: of the plate's format; 0 where it isn't known.
    """
    lost = {"stage": stage, "key": entry.key, "sequence": entry.sequence, "n_columns": n_columns}
    append_line(watch, {"path": name, "lost": lost})


def lost_sequences(paths: PlatePaths, stage: str) -> dict[Key, int]:
    """By work item of a stage, the sequence number of the last entry of which a file was lost."""
    sequences: dict[Key, int] = {}
    for lines in watch_lines(paths).values():
        for line in lines:
            lost = line.get("lost")
            if lost and lost["stage"] == stage:
                key = item_key(*lost["key"])
                sequences[key] = max(sequences.get(key, 0), lost["sequence"])
    return sequences


def _requests(paths: PlatePaths) -> tuple[dict[str, Any], ...]:
    stamp = stat_of(paths.requests)
    return _parsed(paths.requests, tuple(stamp)) if stamp else ()


@cache
def _parsed(path: Path, _stamp: tuple[int, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(read_lines(path))
