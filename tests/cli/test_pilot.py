"""`plateflow pilot`: a page of a raw plate before any stage, and the estimated diameter in the configuration."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import plateflow

from plateflow.config import load_config
from plateflow.config.edit import write_diameters
from plateflow.errors import ConfigError
from plateflow.images.pilot import choose_wells
from plateflow.plates import open_plate
from plateflow.segment.diameter import median_diameter
from plateflow.simulate.plate import Fault, WellPlan, simulate_plate

TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"
WELLS = ("B02", "B03", "C03", "D05")
UNREADABLE = "C03"


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a raw plate of four wells, p1, of which one can't be read, and its truth."""
    folder = tmp_path_factory.mktemp("pilot")
    wells = [WellPlan(well=well, role="negative") for well in WELLS]
    faults = [Fault(kind="truncated", well=UNREADABLE, channel=1)]
    how = {"fields": 1, "field_shape": (192, 208), "channels": ("DNA", "AGP")}
    simulate_plate(folder, plate="p1", wells=wells, faults=faults, **how)
    return folder


def raw(plate: Path) -> Path:
    (found,) = plate.glob("p1__*")
    return found


@pytest.fixture
def project(plate: Path, tmp_path: Path) -> Path:
    """A project with the plate, whose label sets have the tiny model; its configuration has comments of a user's."""
    said = plateflow("init", raw(plate), cwd=tmp_path)
    assert said.splitlines()[-1].endswith("`plateflow pilot p1`.")
    config = tmp_path / "config/config.yaml"
    text = config.read_text().replace('model: "default"', f'model: "{TINY}"  # mine')
    config.write_text(text.replace("    diameter_um:\n", "    diameter_um: 30  # a guess\n", 1))
    return tmp_path


def true_um(plate: Path, label_set: str, wells: list[str]) -> float:
    size = json.loads((plate / "truth/truth.json").read_text())["pixel_size_um"]
    return size * median_diameter([np.load(plate / f"truth/{well}.npz")[label_set] for well in wells])


def test_a_raw_folder_is_shown_and_the_field_that_cannot_be_read_is_named(plate: Path, tmp_path: Path) -> None:
    other = shutil.copy(TINY, tmp_path / "other.safetensors")
    how = ("--diameter-um", "6,14", "--model", f"{other},{TINY}", "--wells", "C03,B02")
    said = plateflow("pilot", raw(plate), *how, cwd=tmp_path, status=3)
    assert "as guessed" in said
    page = (tmp_path / "pilot-p1.html").read_text()
    assert re.search(rf"{UNREADABLE} is left out: field \S+, channel AGP: .* \(truncated\)", page)
    assert 'alt="AGP in B02, field 1"' in page
    assert "C03, field" not in page
    for diameter in ("6", "14"):
        assert page.count(f"({diameter} µm)</span>") == 4, "two label sets, two models, one field"
    assert page.count("<img") == page.count('src="data:image/webp;base64,') == 2 + 2 * 2 * 3


def test_the_estimates_are_written_and_all_else_stays(plate: Path, project: Path) -> None:
    config = project / "config/config.yaml"
    before = config.read_text().splitlines()
    said = plateflow("pilot", "p1", "--wells", "B02,B03,D05", "--write", cwd=project)
    after = config.read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [old for old, _ in changed] == ["    diameter_um: 30  # a guess", "    diameter_um:"]
    assert changed[0][1].endswith("  # a guess")
    for label_set in ("nuclei", "cells"):
        value = load_config(config).segmentation[label_set].diameter_um
        assert value == pytest.approx(true_um(plate, label_set, ["B02", "B03", "D05"]), rel=0.25)
        assert f"segmentation.{label_set}.diameter_um: {value:g}" in said
    assert "(was 30)" in said


def test_what_is_not_there_is_named(plate: Path, project: Path) -> None:
    config = str(project / "config/config.yaml")
    away = {"cwd": plate, "status": 1}
    assert "no image of H12" in plateflow("pilot", "p1", "--wells", "B02,H12", "--configfile", config, **away)
    assert "there is no plate 'p2'" in plateflow("pilot", "p2", "--configfile", config, **away)
    text = (project / "config/config.yaml").read_text()
    (project / "config/config.yaml").write_text(text.replace('["AGP", "DNA"]', '["AGQ"]'))
    said = plateflow("pilot", "p1", "--wells", "B02", "--write", "--configfile", config, **away)
    assert "there is no channel 'AGQ'" in said
    assert "did you mean 'AGP'?" in said
    assert (project / "config/config.yaml").read_text().count("diameter_um: 30") == 1, "nothing is written"
    assert 'alt="AGP in B02, field 1"' in (project / "pilot-p1.html").read_text(), "it shows what there is"
    said = plateflow("pilot", raw(plate), "--wells", "B02", "--diameter-um", "0.1", **away)
    assert "where: --diameter-um 0.1" in said
    assert "leave out --diameter-um" in plateflow("pilot", "p1", "--write", "--diameter-um", "9", cwd=project, status=2)


def test_names_of_channels_are_escaped(plate: Path, tmp_path: Path) -> None:
    plateflow("init", raw(plate), "--channel-names", "DNA=<script>DNA", cwd=tmp_path)
    config = tmp_path / "config/config.yaml"
    config.write_text(config.read_text().replace('"default"', f'"{TINY}"'))
    plateflow("pilot", "p1", "--wells", "B02", cwd=tmp_path)
    page = (tmp_path / "pilot-p1.html").read_text()
    assert "&lt;script&gt;DNA" in page
    assert "<script>DNA" not in page
    assert page.count("<script") == 1, "the page's own, for wide tables"


def test_wells_are_spread_over_the_plate(plate: Path) -> None:
    opened = open_plate(raw(plate))
    rows = [
        dict(opened.planes.iloc[0]) | {"well": f"{row}{column:02d}"} for row in "ABCDEFGH" for column in range(1, 13)
    ]
    whole = opened.planes.iloc[:0].from_records(rows)
    opened = type(opened)(
        **vars(opened) | {"planes": whole, "metadata": opened.metadata | {"wells": list(whole["well"])}}
    )
    chosen = choose_wells(opened, "4")
    assert chosen == choose_wells(opened, "4")
    quarters = {(well[0] > "D", int(well[1:]) > 6) for well in chosen}
    assert len(quarters) == 4
    assert any(well[0] not in "AH" and well[1:] not in ("01", "12") for well in chosen)


def test_a_diameter_goes_into_yaml_of_any_shape_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "segmentation:  # mine\n  nuclei: {channels: [DNA]}\n  cells:\n    channels: [AGP]\n    diameter_px: 40 # px\n"
    )
    lines = write_diameters(path, {"nuclei": ("diameter_um", 9.5), "cells": ("diameter_px", 51.0)})
    assert path.read_text() == (
        "segmentation:  # mine\n  nuclei: {diameter_um: 9.5, channels: [DNA]}\n  cells:\n    channels: [AGP]\n"
        "    diameter_px: 51 # px\n"
    )
    assert lines == ["segmentation.nuclei.diameter_um: 9.5", "segmentation.cells.diameter_px: 51 (was 40)"]
    shared = "segmentation:\n  nuclei: &both\n    channels: [DNA]\n  cells: *both\n"
    path.write_text(shared)
    with pytest.raises(ConfigError, match="can't be put into the configuration"):
        write_diameters(path, {"nuclei": ("diameter_um", 9.5)})
    assert path.read_text() == shared
    write_diameters(path, dict.fromkeys(("nuclei", "cells"), ("diameter_um", 9.5)))
    assert path.read_text().count("diameter_um: 9.5") == 1, "both take it from one line"
