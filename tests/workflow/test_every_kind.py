"""Every kind of file in a results folder is removed, emptied, cut short, or gets a flipped bit; then it is made good.

The kinds come from the journals' lists and from `PlatePaths`, so that a new one can't be forgotten. Two ways lead to
the damage: nobody reads the file, and `plateflow verify` finds it; or a job reads it, says so and fails, and the next
plain run makes it good. Either way the results must be equal, byte for byte, to those of an undisturbed run. CI takes
half of the cases, another half each time; `make test-faults` takes all.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from command_line import plateflow
from faults_project import TIMED, WELL, copy, differing, inside, make, plain_run, results, run

from plateflow.chain import STAGES
from plateflow.paths import PlatePaths
from plateflow.project import Project
from plateflow.stages import screen
from plateflow.stages.reading import LostFileError
from plateflow.state.requests import request, request_number


def flip(path: Path) -> None:
    """Change one bit in the middle, and neither size nor time."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
}
ALL = bool(os.environ.get("PLATEFLOW_FAULTS_ALL"))
HALF = int(os.environ["PLATEFLOW_FAULTS_SEED"]) % 2


def cases(kinds: Iterable[str]) -> list[tuple[str, str]]:
    """Kinds of files, each with the damages that it gets: every second one, or all."""
    pairs = [(which, damage) for n, which in enumerate(kinds) for damage in [*DAMAGES][n % 2 :] + [*DAMAGES][: n % 2]]
    return pairs if ALL else pairs[HALF::2]


BOOKS = {
    "journal": "journal/stitch-0.jsonl",
    "receipt": "receipts/tile/0.*.json",
    "log": "logs/tile/0.*.log",
    "benchmark": "benchmarks/tile/0.*.tsv",
    "watch": "watch/tile-0.jsonl",
    "lease": "leases/tile-0/owner.json",
    "requests": "requests.jsonl",
}
"""Of what `PlatePaths` names and no journal lists: a file of the smallest plate."""
NO_FILES = {
    "raw", "root", "scratch", "plate", "store", "image", "of", "key_of", "path_of", "journals", "receipts",
    "table", "asked", "logs", "latest_log", "benchmarks", "watches", "screen", "all_spots"
}  # fmt: skip
"""Of what `PlatePaths` names: folders, and ways to name files."""
BY_HAND = {"corrections", "corrected"}
"""Of what `PlatePaths` names: what people have given, which no run makes again (tests/state/test_corrections.py)."""


def kind(name: str) -> str:
    """A file's kind: its name without well, label set, level and numbers."""
    name = re.sub(r"/B/02/", "/WELL/", name)
    name = re.sub(r"/(nuclei|cells)/", "/SET/", name)
    return re.sub(r"(?<=/)(B02|\d+(-\d+)?)(?=[./]|$)", "N", name)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete project, with a request and a watched file in its books."""
    folder = tmp_path_factory.mktemp("kinds") / "project"
    make(folder)
    with quiet():
        run(folder)
        with inside(folder) as plate:
            request(plate.paths, kind="retry", stage="tile")
        assert plain_run(folder) == ""
    return folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def listed(folder: Path) -> dict[str, tuple[str, str]]:
    """By kind, a file that a journal lists (of a pyramid, level 0), and the stage that made it."""
    found: dict[str, tuple[str, str]] = {}
    with inside(folder) as plate:
        for stage in STAGES:
            for entry in plate.outcomes(stage).values():
                for name in sorted(entry.files):
                    found.setdefault(kind(name), (name, stage))
    return found


def test_no_kind_of_file_is_forgotten(whole: Path) -> None:
    kinds = listed(whole)
    with inside(whole) as plate:
        known = {plate.paths.key_of(path) for path in plate.paths.root.rglob("*") if path.is_file()}
    books = {name for name in known for folder in ("journal", "receipts", "watch", "leases") if folder in name}
    assert {kind(name) for name in known - books - {"requests.jsonl"}} <= kinds.keys(), "no journal lists it"
    named = {name for name in dir(PlatePaths) if not name.startswith("_")} - NO_FILES - BY_HAND - BOOKS.keys()
    samples = {name: getattr(PlatePaths, name) for name in named}
    of_plate = PlatePaths.of("micro", results="results")
    arguments = {"histogram": (WELL,), "cells": (WELL,), "gates": (WELL,), "objects": ("cells", WELL)}
    arguments |= {"spots": ("foci", WELL)}
    arguments |= {"flows": ("cells", WELL, 0), "endpoints": ("cells", WELL, 0, 0)}
    for name, sample in samples.items():
        path = sample.fget(of_plate) if isinstance(sample, property) else sample(of_plate, *arguments[name])
        if name not in ("rates", "frozen_gates"):  # of the screen; of more cells than these (tests/stats/test_gates.py)
            assert kind(of_plate.key_of(path)) in kinds, f"PlatePaths.{name} is in no journal"


KINDS = [
    "cells/N.parquet",
    "gates/N.parquet",
    "histograms/N.npz",
    "manifest/illumination.npz",
    "manifest/planes.parquet",
    "manifest/plate.json",
    "manifest/window.json",
    "objects/SET/N.parquet",
    "plate.zarr/B/zarr.json",
    "plate.zarr/WELL/N/N/c/N/N/N/N/N",
    "plate.zarr/WELL/N/N/zarr.json",
    "plate.zarr/WELL/N/labels/SET/N/c/N/N/N/N",
    "plate.zarr/WELL/N/labels/SET/N/zarr.json",
    "plate.zarr/WELL/N/labels/SET/zarr.json",
    "plate.zarr/WELL/N/labels/zarr.json",
    "plate.zarr/WELL/N/tables/SET/table.parquet",
    "plate.zarr/WELL/N/tables/SET/zarr.json",
    "plate.zarr/WELL/N/tables/fields/table.parquet",
    "plate.zarr/WELL/N/tables/fields/zarr.json",
    "plate.zarr/WELL/N/tables/foci/table.parquet",
    "plate.zarr/WELL/N/tables/foci/zarr.json",
    "plate.zarr/WELL/N/tables/zarr.json",
    "plate.zarr/WELL/N/zarr.json",
    "plate.zarr/WELL/zarr.json",
    "plate.zarr/zarr.json",
    "spots/foci/N.parquet",
    "scratch:ends/SET/N/N.ends",
    "scratch:flows/SET/N/N.flows",
    "controls.csv",
    "doses.csv",
    "effects.parquet",
    "features.json",
    "hits.csv",
    "ledger.parquet",
    "normalised.parquet",
    "positions.csv",
    "qc.parquet",
    "report.html",
    "summary.csv",
    "wells.csv",
    "wells.parquet",
]
"""Compared with what there is by a test: to name the tests, they must be known before there is a plate."""
FOR_OTHERS = {
    "gates/N.parquet",
    "plate.zarr/WELL/N/tables/SET/table.parquet",
    "plate.zarr/WELL/N/tables/SET/zarr.json",
    "plate.zarr/WELL/N/tables/foci/table.parquet",
    "plate.zarr/WELL/N/tables/foci/zarr.json",
    "plate.zarr/WELL/N/tables/zarr.json",
    "plate.zarr/WELL/N/zarr.json",
}
"""How an image is shown, tables in the store, and what was decided of each cell: no job reads them."""


def test_the_kinds_are_all_kinds(whole: Path) -> None:
    assert sorted(listed(whole)) == sorted(KINDS)


def make_good(folder: Path, wanted: dict[str, bytes]) -> list[str]:
    """Plain runs until one ends well; what differs from the undisturbed results then."""
    with quiet():
        errors = [error for _ in range(4) if (error := plain_run(folder))]
    assert len(errors) < 4, errors
    return differing(results(folder), wanted)


@pytest.mark.parametrize(("which", "damage"), cases(KINDS))
def test_verify_finds_it_and_a_plain_run_makes_it_again(which: str, damage: str, whole: Path, tmp_path: Path) -> None:
    folder = copy(whole, tmp_path / "project")
    name, stage = listed(whole)[which]
    with inside(folder) as plate:
        path = plate.paths.path_of(name)
        DAMAGES[damage](folder / path)
    if which not in TIMED and make_good(folder, results(whole)) == []:
        assert path.name in ("window.json", "plate.json"), "parsing looks at these alone, of spots at both"
        return
    said = plateflow("verify", "micro", cwd=folder, status=None)
    if STAGES[stage].intermediate:
        return  # nobody needs it: the test below needs it
    assert path.name in said
    assert make_good(folder, results(whole)) == []
    plateflow("verify", "micro", cwd=folder)


@pytest.mark.parametrize(
    ("which", "damage"), cases(kind for kind in KINDS if "/" in kind and kind not in FOR_OTHERS)
)  # tables and pages of the plate have no "/": their reader is people
def test_a_job_that_reads_it_says_so_and_the_next_run_makes_it_again(
    which: str, damage: str, whole: Path, tmp_path: Path
) -> None:
    folder = copy(whole, tmp_path / "project")
    name, stage = listed(whole)[which]
    with inside(folder) as plate, quiet():
        path = plate.paths.path_of(name)
        DAMAGES[damage](folder / path)
        for reader, step in STAGES.items():
            if stage in step.reads:
                request(plate.paths, kind="retry", stage=reader)
        asked = request_number(plate.paths, "normalise", "")
        said = plain_run(folder)
    if path.name != "window.json" or said:  # parsing looks at that one: it may be good already
        assert str(path) in said, f"{said!r} does not name the file"
    wanted, window = results(whole), "manifest/window.json"  # which says which request it follows
    wanted[window] = wanted[window].replace(b'"request": 0', b'"request": %d' % asked)
    assert make_good(folder, wanted) == []


@pytest.mark.parametrize(("book", "damage"), cases(BOOKS))
def test_a_damaged_book_loses_no_result(book: str, damage: str, whole: Path, tmp_path: Path) -> None:
    folder = copy(whole, tmp_path / "project")
    for path in (folder / "results" / "micro").glob(BOOKS[book]):
        DAMAGES[damage](path)
    assert make_good(folder, results(whole)) == []
    plateflow("verify", "micro", cwd=folder, status=None)
    assert make_good(folder, results(whole)) == []
    assert "to do" not in plateflow("status", "micro", cwd=folder)


def test_a_frozen_window_that_was_lost_is_written_again_as_it_was(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not computed from the wells as they are by now: the journal has its numbers."""
    folder = copy(whole, tmp_path / "project")
    with inside(folder) as plate:
        for path in (plate.paths.window, plate.paths.illumination):
            path.unlink()
    monkeypatch.setattr("plateflow.images.histograms.read_histograms", None)
    assert make_good(folder, results(whole)) == []


def test_the_screen_reads_no_table_that_is_damaged(whole: Path, tmp_path: Path) -> None:
    folder = copy(whole, tmp_path / "project")
    flip(folder / "results" / "micro" / "effects.parquet")
    with inside(folder), quiet(), pytest.raises(LostFileError, match=r"effects\.parquet(.|\n)*checksum"):
        screen.run(Project.load(Path("config/config.yaml")))
    assert make_good(folder, results(whole)) == []
    with inside(folder), quiet():
        screen.run(Project.load(Path("config/config.yaml")))


def test_what_clean_took_of_a_former_label_set_is_made_again_when_that_comes_back(whole: Path, tmp_path: Path) -> None:
    folder = copy(whole, tmp_path / "project")
    config = folder / "config" / "config.yaml"
    before = config.read_text()
    less = yaml.safe_load(before)
    del less["segmentation"]["nuclei"]
    config.write_text(yaml.safe_dump(less, sort_keys=False))
    plateflow("clean", "micro", "--yes", cwd=folder)
    assert not (folder / "results" / "micro" / "objects" / "nuclei").exists()
    config.write_text(before)
    assert make_good(folder, results(whole)) == []
