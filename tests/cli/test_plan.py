"""`plateflow plan`: figures before anything is submitted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from plateflow.cli import _typer
from plateflow.cli.plan import limits
from plateflow.config import Config, LabelSet, PlateSpec, config_yaml
from plateflow.errors import PlateflowError
from plateflow.estimate import Estimate, Size
from plateflow.model.registry import find_weights

SIZE = {"wells": 384, "fields": 9, "channels": 5, "z": 1, "t": 1}
SIZE |= {"field_mpx": 1.1664, "canvas_mpx": 10.4976, "image_mpx": 10.4976}
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    """Three large plates, and one of which nothing is known."""
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    sets = {"nuclei": LabelSet(channels=["DNA"]), "cells": LabelSet(channels=["AGP"])}
    Path("config/config.yaml").write_text(config_yaml(Config(segmentation=sets)))
    with Path("config/plates.tsv").open("w", newline="") as file:
        sheet = csv.DictWriter(file, list(PlateSpec.model_fields), delimiter="\t")
        sheet.writeheader()
        sheet.writerows({"plate": f"p{n}", "path": "raw", **SIZE} for n in range(3))
        sheet.writerow({"plate": "old", "path": "raw"})
    return tmp_path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(_typer, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_all_figures_as_json(project: Path) -> None:
    found = json.loads(run("--json", "--jobs", "100", "--gpus", "4"))
    assert found["plates"] == 3
    assert found["plates_without_sizes"] == ["old"]
    assert found["jobs"] == 3 * (4 + 2 + 3 * 8) + 1  # with one slice there are no jobs of follow
    assert "follow" not in found["stages"]
    sets = {"nuclei": LabelSet(channels=["DNA"]), "cells": LabelSet(channels=["AGP"])}
    megabytes = find_weights("default").stat().st_size / 1e6
    alone = Estimate(Size(**SIZE), Config(segmentation=sets), model_mb=megabytes)
    assert found["gpu_hours"] == pytest.approx(3 * 2 * alone.seconds("infer") / 3600)
    assert found["stages"]["features"]["mem_mb"] == alone.resources("features")["mem_mb"]
    assert found["storage"]["result_files"] == 3 * alone.storage()["result_files"]
    assert found["storage"]["moved_gb"] == pytest.approx(3 * sum(alone.traffic_gb().values()))
    assert found["proposed_parts"] == alone.propose()
    assert found["wall_hours"] > found["cpu_hours"] / 100
    assert found["stages"]["screen"]["jobs"] == 1
    assert found["cpu_hours"] == pytest.approx(sum(s["hours"] for n, s in found["stages"].items() if n != "infer"))
    assert found["stages"]["tile"]["read_gb"] == pytest.approx(3 * alone.moved_gb("tile")[0])
    moved = [found["modes"][keep]["moved_gb"] for keep in ("true", "false")]
    assert moved[0] > moved[1]
    assert moved[0] == pytest.approx(found["storage"]["moved_gb"])
    assert found["modes"]["false"]["scratch_gb"] == 0 < found["modes"]["true"]["scratch_gb"]
    slow = json.loads(run("--json", "--jobs", "10", "--gpus", "1"))
    assert slow["wall_hours"] > found["wall_hours"]


def test_the_words_say_the_same(project: Path) -> None:
    text = run("--profile", str(REPOSITORY / "profiles" / "slurm"))
    assert "GPU hours: 0.2" in text
    assert "jobs and" in text
    assert "proposed: parts: {cpu: 7, gpu: 1}" in text
    kept, not_kept = (line for line in text.splitlines() if line.startswith("keep_flows"))
    assert kept.startswith("keep_flows: true (as configured): scratch")
    assert "start from the flow fields that are there" in kept
    assert kept.endswith("CPU hours")
    assert not_kept.startswith("keep_flows: false: scratch 0 GB")
    assert "run infer again" in not_kept
    assert not_kept.endswith("GPU hours")
    assert "not counted, since their sizes are unknown: old" in text
    assert "\nscreen           1 " in text


def test_the_limits_are_those_of_the_profile_or_given() -> None:
    default = limits(REPOSITORY / "profiles" / "default", jobs=None, gpus=None)
    assert default["gpus"] == 1
    assert default["start_s"] < 10
    assert limits(REPOSITORY / "profiles" / "slurm", jobs=None, gpus=6)["gpus"] == 6
    assert limits(REPOSITORY / "profiles" / "slurm", jobs=7, gpus=None) == {"jobs": 7, "gpus": 7, "start_s": 60}
    with pytest.raises(PlateflowError, match="no profile"):
        limits(REPOSITORY / "profiles" / "none", jobs=None, gpus=None)


@pytest.mark.parametrize("resources", ["{gpu: 3}", "[gpu=3]", "gpu=3"])
def test_a_profile_is_read_as_snakemake_does(tmp_path: Path, resources: str) -> None:
    """The newest version that it may take, and numbers in any form."""
    (tmp_path / "config.yaml").write_text("jobs: 1")
    (tmp_path / "config.v9+.yaml").write_text(f"jobs: '40'\nresources: {resources}\n")
    (tmp_path / "config.v10+.yaml").write_text("jobs: 99")
    assert limits(tmp_path, jobs=None, gpus=None) == {"jobs": 40, "gpus": 3, "start_s": 4}


def test_a_sheet_without_sizes_is_told(project: Path) -> None:
    Path("config/plates.tsv").write_text("plate\tpath\np\traw\n")
    with pytest.raises(PlateflowError, match="how large"):
        CliRunner().invoke(_typer, ["plan"], catch_exceptions=False)


def test_init_again_adds_the_sizes_and_keeps_the_line(tmp_path: Path, monkeypatch) -> None:
    from plateflow.cli.init import make_spec, of_sheet, write_project
    from plateflow.config import PLATE_SIZES, load_plates
    from plateflow.plates import open_plate
    from plateflow.simulate.plate import micro_wells, simulate_plate

    made = simulate_plate(tmp_path / "raw", wells=micro_wells(), fields=4, field_shape=(96, 128), channels=("DNA",))
    entry = make_spec(made.raw, plate_map=made.plate_map)
    write_project(tmp_path, entry, open_plate(entry))
    sheet = tmp_path / "config" / "plates.tsv"
    (plate,) = load_plates(sheet).values()
    sizes = plate.model_dump(include=set(PLATE_SIZES))
    assert sizes == {
        "wells": 2,
        "fields": 4,
        "channels": 1,
        "z": 1,
        "t": 1,
        "field_mpx": 0.012,
        "canvas_mpx": 0.049,
        "image_mpx": 0.049,
        "pixel_um": 0.6,
    }
    header, line = sheet.read_text().splitlines()
    sheet.write_text("\n".join("\t".join(text.split("\t")[:8]) for text in (header, line)) + "\n")  # as it was before
    again = make_spec(made.raw, **of_sheet(tmp_path, made.raw, None))
    write_project(tmp_path, again, open_plate(again))
    assert load_plates(sheet) == {plate.plate: plate}
