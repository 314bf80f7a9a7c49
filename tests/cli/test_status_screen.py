"""`plateflow status` over a screen whose results were made up as a run leaves them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import plateflow

from plateflow.chain import stages_of
from plateflow.config import Config
from plateflow.files import raw_lines, read_lines
from plateflow.project import Project
from plateflow.state import journal as journals

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from status_cases import KINDS, make_screen

PARTS = (2, 1)


def screen(folder: Path, **options) -> Project:
    """A screen of tiny plates below a folder."""
    before = Path.cwd()
    folder.mkdir()
    try:
        return make_screen(folder, **{"wells": 4, "fields": 2, "channels": 2, "parts": PARTS} | options)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 plates, of each kind as many as `KINDS` says."""
    folder = tmp_path_factory.mktemp("screen") / "project"
    screen(folder, plates=3 * len(KINDS))
    return folder


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Three complete plates, in the working folder."""
    screen(tmp_path / "project", plates=3, kinds=("complete",))
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def row(output: str, plate: str) -> list[list[str]]:
    """The cells of a plate's row, each line by line; empty where it has none."""
    lines = [line.strip("│").split("│") for line in output.splitlines() if line.startswith("│")]
    names = [cells[0].strip() for cells in lines]
    if plate not in names:
        return []
    first = names.index(plate)
    end = next((n for n in range(first + 1, len(names)) if names[n]), len(names))
    return [[text for text in map(str.strip, column) if text] for column in zip(*lines[first:end], strict=True)][1:]


def test_totals_causes_and_the_plates_in_which_something_happens(mixed: Path) -> None:
    output = plateflow("status", cwd=mixed, status=4)
    counts = "45 complete, 3 running, 3 to do, 6 stale, 3 failed; 3 with wells or fields left out"
    assert output.startswith(f"60 plates, 240 wells: {counts}\n")
    stale = "plate0015, plate0016, plate0035 and 3 more plates: stitch: 12 jobs to do: stale: parameters changed"
    assert f"{stale}: `snakemake`\n" in output
    assert "plate0017, plate0037, plate0057: infer: 3 jobs to do: never done: `snakemake`" in output
    assert "plate0019: tile 0, 1: 1 failed; waiting to be tried again, or given up\n    can't write: disk" in output
    assert row(output, "plate0018")[3] == ["0/1", "1 run: 2 w"]
    assert row(output, "plate0019")[:2] == [["1 ok"], ["0/2", "2 failed"]]
    assert not row(output, "plate0000")
    assert "54 plates aren't shown" in output
    assert "Left out (6 wells and 3 fields):\n  plate0014/A01: quarantined at tile: truncated (no field" in output
    assert "plate0014/A03 field 1: quarantined at tile: truncated (the file ends" in output


def test_failed_shows_what_failed_or_was_left_out_and_nothing_else(mixed: Path) -> None:
    output = plateflow("status", "--failed", cwd=mixed, status=4)
    assert set(re.findall(r"plate\d{4}", output)) == {f"plate00{n}{m}" for n in (1, 3, 5) for m in (4, 9)}
    log = r"log: (results/plate0019/logs/tile/0\.\w+\.log)"
    found = re.search(log, output)
    assert found
    assert "disk quota exceeded" in (mixed / found[1]).read_text()
    assert "Fix the cause, then `snakemake`" in output
    assert "`plateflow retry PLATE/WELL`" in output


def test_nothing_has_failed(few: Path) -> None:
    assert plateflow("status", "--failed", cwd=few) == "No job has failed, and nothing is left out.\n"


def test_a_few_plates_are_all_shown_with_their_items(few: Path) -> None:
    output = plateflow("status", cwd=few)
    assert "3 plates, 12 wells: 3 complete" in output
    assert row(output, "plate0002") == [[f"{n} ok"] for n in (1, 4, 1, 8, 8, 4, 1, 1)]


def test_neither_raw_files_nor_images_nor_whole_journals_are_looked_at(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, read = plateflow("status", cwd=mixed, status=4), set()
    for folder in ("raw", "results/plate0000/plate.zarr"):
        (mixed / folder).rename(mixed / f"{folder}.away")
    monkeypatch.setattr(journals, "raw_lines", lambda path: read.add(path.parent.parent.name) or raw_lines(path))
    monkeypatch.setattr(journals, "read_lines", lambda path: read.add(path.parent.parent.name) or read_lines(path))
    try:
        assert plateflow("status", cwd=mixed, status=4) == before
    finally:
        for folder in ("raw", "results/plate0000/plate.zarr"):
            (mixed / f"{folder}.away").rename(mixed / folder)
    assert read == {f"plate00{n}{m}" for n in (1, 3, 5) for m in (8, 9)}, "only of jobs that run or failed"


def test_errors_in_some_plates_leave_the_others_told(few: Path) -> None:
    root = few / "results"
    (manifest := root / "plate0001/manifest/plate.json").unlink()  # a link to what all plates have
    manifest.write_text("{")
    journal = next((root / "plate0002/journal").glob("tile-0*"))
    journal.unlink()
    journal.mkdir()
    for receipt in (root / "plate0002/receipts/tile").iterdir():
        receipt.unlink()
    output = plateflow("status", cwd=few, status=4)
    assert "3 plates, 4 wells: 1 complete, 1 stale, 1 unread" in output
    assert "plate0001: ingest: 1 job to do: the plate's manifest is damaged: `plateflow verify plate0001`" in output
    assert "plate0002: can't be read: IsADirectoryError" in output


def test_receipts_that_dont_tell_what_isnt_ok_leave_it_to_the_journals(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    screen(folder, plates=2, kinds=("complete", "left out"))
    output = plateflow("status", cwd=folder, status=3)
    assert "Left out (2 wells and 1 field):" in output
    for receipt in folder.glob("results/plate*/receipts/*/*.json"):
        content = json.loads(receipt.read_text())
        del content["not ok"]
        receipt.write_text(json.dumps(content))
    assert plateflow("status", cwd=folder, status=3) == output


def test_wells_left_out_are_told_when_their_receipts_were_withdrawn(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    screen(folder, plates=2, kinds=("complete", "left out"))
    for receipt in folder.glob("results/plate0001/receipts/*/*.json"):
        receipt.unlink()
    for option in ([], ["--failed"]):
        output = plateflow("status", *option, cwd=folder, status=4)
        assert "Left out (2 wells and 1 field):\n  plate0001/A01: quarantined at tile" in output
        assert "nothing is left out" not in output


def test_a_journal_of_one_part_that_is_gone_is_told(few: Path) -> None:
    (few / "results/plate0001/journal/tile-1.jsonl").unlink()
    output = plateflow("status", cwd=few, status=4)
    assert "plate0001: tile: 1 job to do: never done, though a receipt is there: `plateflow verify plate0001`" in output
    assert "3 plates, 12 wells: 2 complete, 1 stale" in output


def test_what_was_asked_anew_of_all_plates_is_stale(tmp_path: Path) -> None:
    screen(tmp_path / "project", plates=40, kinds=("other",))
    output = plateflow("status", cwd=tmp_path / "project", status=4)
    assert "40 plates, 160 wells: 1 complete, 39 stale" in output
    assert "plate0001, plate0002, plate0003 and 36 more plates: ingest: 39 jobs to do: stale: inputs changed" in output


def shape(value: object, depth: int = 3) -> object:
    """The keys of nested dictionaries, down to a depth."""
    return {key: shape(each, depth - 1) for key, each in value.items()} if isinstance(value, dict) and depth else ""


def test_what_is_made_up_has_the_shape_of_a_real_run(done, few: Path) -> None:
    """Keys that are names of things (files, wells, channels) aside."""
    named = {
        "files",
        "raw",
        "images",
        "channels",
        "fields",
        "states",
        "window now",
        "drift",
        "without a row",
        "brightness",
    }

    def keys(value: object) -> object:
        if not isinstance(value, dict):
            return ""
        return {key: "" if key in named else keys(each) for key, each in value.items()}

    real, made = (folder / "results" / plate for folder, plate in ((done.folder, "micro"), (few, "plate0001")))
    for stage in stages_of(Config()):
        for of_plate in zip(*(sorted(root.glob(f"journal/{stage}-*")) for root in (real, made)), strict=True):
            of_real, of_made = (
                {line["event"]: keys({**line, "behind": ""}) for line in read_lines(path)} for path in of_plate
            )
            if stage in ("aggregate", "report"):
                for lines in (of_real, of_made):
                    lines["done"]["info"] = ""
            assert of_made == of_real
        receipts = (sorted(root.glob(f"receipts/{stage}/*")) for root in (real, made))
        for of_plate in zip(*receipts, strict=True):
            of_real, of_made = (keys(json.loads(path.read_text())) for path in of_plate)
            assert of_made == of_real


def test_the_full_look_at_a_plate_that_was_made_up_misses_its_files_alone(few: Path) -> None:
    output = plateflow("status", "plate0000", cwd=few, status=4)
    assert set(re.findall(r"plate0000: \w+: \d+ (.*?):", output)) == {"stale"}
    assert {line.partition("stale: ")[2] for line in output.splitlines() if "stale" in line} == {
        "files are gone or damaged: `plateflow verify plate0000`, then `snakemake`"
    }


def test_of_a_screen_the_journals_of_one_plate_are_held(few: Path) -> None:
    for plate in Project.load(Path("config/config.yaml")).plates.values():
        assert all(plate.outcomes(stage) for stage in stages_of(Config()))
    assert {path.parent for path in journals._held} == {Path("results/plate0002/journal")}
