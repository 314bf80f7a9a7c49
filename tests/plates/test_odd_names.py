"""File names that are not UTF-8: images with such names are one clear error, and other files may be called so."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import plateflow
from damaged_plate import Raw, write_good
from vendors import LAYOUTS

from plateflow.config import Config, LabelSet, PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates import open_plate, recognise
from plateflow.plates.check import check_plate
from plateflow.plates.plate import index_plate
from plateflow.project import Plate
from plateflow.stages import run_stage

PATTERN = r"(?P<well>[A-Z]\d+)_s(?P<field>\d+)_w(?P<channel>\d+)(?:_t\d+_z(?P<z>\d+))?\.tif"
ODD = os.fsdecode(b"\xe4")
INDEXED = {"harmony", "columbus", "yokogawa", "load_data"}
"""Layouts whose metadata name each image."""


def spec_of(raw: Path, layout: str) -> PlateSpec:
    reader = "pattern" if layout == "pattern" else recognise(raw)
    return PlateSpec(plate="p", path=str(raw), layout=reader, pattern=PATTERN if layout == "pattern" else None)


def config_of(layout: str, results: Path) -> Config:
    channel = "1" if layout == "pattern" else "DNA"
    return Config(results=str(results), segmentation={"nuclei": LabelSet(channels=[channel])})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_are_no_images_may_have_any_name(tmp_path: Path, layout: str) -> None:
    raw = write_good(tmp_path / "raw", layout)
    spec, config = spec_of(raw, layout), config_of(layout, tmp_path / "results")
    before, sound = index_plate(spec), check_plate(spec, config)
    (raw / f"Notiz {ODD}.txt").write_text("x")
    (raw / ODD).mkdir()
    tifffile.imwrite(raw / ODD / f"Vorschau_{ODD}.tif", np.zeros((8, 8), np.uint16))
    index = index_plate(spec)
    assert index.planes.equals(before.planes)
    new = [problem.what for problem in check_plate(spec, config) if problem not in sound]
    assert all("not used" in what and r"\xe4" in what for what in new)
    run_stage(Plate(config=config, spec=spec), "ingest")


def index_names_it(raw: Raw, image: Path) -> Path:
    """The metadata are UTF-8, and name the image as people see it; on the disk, its name is in Windows' encoding."""
    raw.edit(image.name.replace(".", r"\."), image.name.replace(image.stem, f"{image.stem}ä"))
    return image.with_stem(image.stem + ODD)


def name_says_it(_: Raw, image: Path) -> Path:
    return image.with_name(f"{ODD}_{image.name}")


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if not name.startswith("omezarr")])
def test_an_image_with_such_a_name_is_the_same_error_in_check_and_ingest(tmp_path: Path, layout: str) -> None:
    raw = Raw(root=write_good(tmp_path / "raw", layout), layout=layout)
    spec, config = spec_of(raw.root, layout), config_of(layout, tmp_path / "results")
    image = raw.images()[0]
    make: Callable[[Raw, Path], Path] = index_names_it if layout in INDEXED else name_says_it
    shown = str(image.rename(make(raw, image))).replace(ODD, r"\xe4")
    with pytest.raises(RawDataError) as error:
        run_stage(Plate(config=config, spec=spec), "ingest")
    assert error.value.what == "a file name is not UTF-8"
    assert error.value.where == f"p: {shown}"
    assert "rename" in error.value.remedy
    (problem,) = check_plate(spec, config)
    assert problem.severity == "error"
    assert problem.what.startswith(f"a file name is not UTF-8: {shown}")
    assert problem.remedy == error.value.remedy


@pytest.mark.parametrize("layout", ["omezarr", "omezarr 0.5"])
def test_a_field_with_such_a_name_is_left_out(tmp_path: Path, layout: str) -> None:
    raw = Raw(root=write_good(tmp_path / "raw", layout), layout=layout)
    spec, config = spec_of(raw.root, layout), config_of(layout, tmp_path / "results")
    (raw.root / "B" / "02" / "1").rename(raw.root / "B" / "02" / ODD)
    raw.edit(r'"path": "(?P<v>1)"', "ä", count=1)
    assert any("B/02/ä can't be understood" in problem.what for problem in check_plate(spec, config))
    run_stage(Plate(config=config, spec=spec), "ingest")


def test_the_plates_own_folder(tmp_path: Path) -> None:
    raw = write_good(tmp_path / "raw", "harmony")
    odd = shutil.move(raw, raw.with_name(f"Pl{ODD}tte"))
    with pytest.raises(RawDataError, match=r"not UTF-8\n.*Pl\\xe4tte"):
        open_plate(odd)
    assert r"Pl\xe4tte" in plateflow("init", odd, cwd=tmp_path, status=1)
    link = tmp_path / "link"
    link.symlink_to(odd)
    with pytest.raises(RawDataError, match=r"not UTF-8\n.*Pl\\xe4tte"):
        open_plate(link)


def test_a_channel_whose_name_is_half_a_character(tmp_path: Path) -> None:
    """As JSON can say it; the manifest and its messages hold it escaped."""
    raw = Raw(root=write_good(tmp_path / "raw", "omezarr"), layout="omezarr")
    raw.edit(r'"label": "(?P<v>DNA)"', r"\\ud83d")
    spec, config = spec_of(raw.root, "omezarr"), config_of("omezarr", tmp_path / "results")
    assert index_plate(spec).metadata["channels"][0]["name"] == r"\ud83d"
    assert any("no channel 'DNA'" in problem.what for problem in check_plate(spec, config))


def test_every_command_says_it_without_a_traceback(tmp_path: Path) -> None:
    raw = write_good(tmp_path / "data", "pattern")
    plateflow("init", raw, "--plate", "p", "--pattern", PATTERN, cwd=tmp_path)
    config = tmp_path / "config" / "config.yaml"
    config.write_text(config.read_text().replace("CHOOSE", "1"))
    plateflow("run", "p", "ingest", cwd=tmp_path)
    image = sorted(raw.rglob("*.tif"))[0]
    shutil.copy(image, image.with_name(f"{ODD}{image.name}"))
    for command, status in (
        (["check"], 1),
        (["run", "p", "ingest"], 1),
        (["status", "p"], None),
        (["status", "p/B02"], None),
    ):
        said = plateflow(*command, cwd=tmp_path, status=status)
        assert "a file name is not UTF-8" in said, command
        said.encode()
        assert "Traceback" not in said
    image.with_name(f"{ODD}{image.name}").unlink()
    assert "not UTF-8" not in plateflow("check", cwd=tmp_path, status=None)
