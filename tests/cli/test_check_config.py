"""What `plateflow check` says of a configuration before any job, and that the stages say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plateflow.config import Config, PlateSpec, Stats
from plateflow.errors import ConfigError, ModelError
from plateflow.plates.check import check_plate
from plateflow.plates.plate import index_plate
from plateflow.project import Plate
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.stages import run_stage
from plateflow.stages.infer import check_models
from plateflow.stages.refusals import refused_of_config, refused_of_plate

UNKNOWN_SIZE = "the diameter is given in micrometres, but the pixel size of the plate is not known"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw plate of two wells."""
    folder = tmp_path_factory.mktemp("raw")
    return simulate_plate(folder, wells=micro_wells(), field_shape=(48, 48)).raw


def plate_of(raw: Path, folder: Path, label_set: dict[str, Any], **columns: Any) -> Plate:
    config = Config(results=str(folder / "results"), segmentation={"nuclei": {"channels": ["DNA"], **label_set}})
    return Plate(config=config, spec=PlateSpec(plate="p", path=str(raw), **columns))


def errors_of(plate: Plate) -> list[str]:
    return [problem.what for problem in refused_of_plate(plate, index_plate(plate.spec))]


def without_pixel_size(raw: Path, folder: Path) -> Path:
    """The same images, by names that say no pixel size."""
    for file in sorted(raw.glob("Images/*-ch1*.tiff")):
        target = folder / "plain" / f"{file.name[:6]}_{file.name[6:9]}_DNA.tiff"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    return folder / "plain"


def test_a_diameter_in_micrometres_needs_a_pixel_size_before_any_job(raw: Path, tmp_path: Path) -> None:
    folder = without_pixel_size(raw, tmp_path)
    pattern = r"r(?P<row>\d\d)c(?P<column>\d\d)_f(?P<field>\d\d)_(?P<channel>DNA)\.tiff"
    columns = {"layout": "pattern", "pattern": pattern}
    plate = plate_of(folder, tmp_path, {"diameter_um": 12.0}, **columns)
    assert [what.startswith(UNKNOWN_SIZE) for what in errors_of(plate)] == [True]
    with pytest.raises(ConfigError, match=UNKNOWN_SIZE):
        run_stage(plate, "ingest")
    for label_set, more in (({"diameter_px": 20.0}, {}), ({"diameter_um": 12.0}, {"pixel_size_um": 0.6})):
        assert errors_of(plate_of(folder, tmp_path, label_set, **columns, **more)) == []


def test_a_diameter_that_no_image_can_be_resized_for(raw: Path, tmp_path: Path) -> None:
    (what,) = errors_of(plate_of(raw, tmp_path, {"diameter_um": 1200.0}))
    assert "can't be resized to the" in what


def test_models_and_features_that_infer_and_features_would_refuse(tmp_path: Path) -> None:
    """Also a threshold for which no flows would be stored, unless the bound is lowered; at the bound it is fine."""
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    label_set = {"channels": ["DNA"], "dimensions": 3}
    sets = {
        "nuclei": {**label_set, "model": str(broken)},
        "cells": {**label_set, "model": "cpsma"},
        "spots": {**label_set, "channels": ["a", "b", "c"]},
        "dim": {**label_set, "cell_threshold": -2.01},
        "low": {**label_set, "cell_threshold": -2.0},
        "lower": {**label_set, "cell_threshold": -5.0, "least_logit": -5.0},
        "bound": {**label_set, "least_logit": 0.5},
    }
    config = Config(z="keep", segmentation=sets, features={"families": ["zernike"]})
    found = {problem.plate: problem.what for problem in refused_of_config(config)}
    keys = {f"segmentation.{key}" for key in ("nuclei.model", "cells.model", "spots.channels")}
    keys |= {f"segmentation.{name}.cell_threshold" for name in ("dim", "bound")}
    assert found.keys() == {*keys, "features.families"}
    assert "can't be read as weights: it is truncated" in found["segmentation.nuclei.model"]
    assert "there is no such model" in found["segmentation.cells.model"]
    assert "takes 2" in found["segmentation.spots.channels"]
    assert "is -2.01, below the bound of stored flow fields, -2 (of" in found["segmentation.dim.cell_threshold"]
    assert "is 0, below the bound of stored flow fields, 0.5 (least" in found["segmentation.bound.cell_threshold"]
    assert "only measured in 2D" in found["features.families"]
    with pytest.raises(ModelError, match="truncated"):
        check_models(config)
    assert list(refused_of_config(Config())) == []


def test_folders_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = Config(results=str(tmp_path / "results"), scratch=str(tmp_path / "file" / "below"))
    (problem,) = refused_of_config(config)
    assert (problem.severity, problem.plate) == ("error", "scratch")
    assert f"{tmp_path / 'file'} is no folder" in problem.what


def test_a_map_without_the_controls_that_wells_are_compared_with(raw: Path, tmp_path: Path) -> None:
    plate_map = tmp_path / "map.csv"
    plate_map.write_text("well,treatment\nB02,DMSO\nB03,drug\n")
    plate = plate_of(raw, tmp_path, {}, plate_map=str(plate_map))
    (problem,) = check_plate(plate.spec, plate.config)
    assert problem.severity == "warning"
    assert problem.what.startswith("no well is a negative control")
    others = plate.config.model_copy(update={"stats": Stats(normalise="plate robust")})
    assert check_plate(plate.spec, others) == []
    where = {"where": "Nuclei_AreaShape_Area > 3 and Nuclei_AreaShape_Solidity < negatives.p5"}
    asked = Config.model_validate(others.model_dump() | {"populations": {"large": where}})
    (problem,) = check_plate(plate.spec, asked)
    assert problem.what.startswith("no well is a negative control, and populations.large takes a percentile of these")


def test_groups_and_times_that_a_plate_lacks_are_refused_before_any_job(raw: Path, tmp_path: Path) -> None:
    plate_map = tmp_path / "map.csv"
    plate_map.write_text("well,role,Cell line\nB02,negative,A549\n")
    plate = plate_of(raw, tmp_path, {}, plate_map=str(plate_map))
    stats = {"group_by": ["CellLine"], "time": "slope"}
    config = Config.model_validate(plate.config.model_dump() | {"stats": stats})
    plate = Plate(config=config, spec=plate.spec)
    what, where = errors_of(plate)
    assert what.startswith("stats.time is slope: the plate has one time point")
    assert where.startswith("there is no column 'CellLine'")
    plate_map.write_text("well,role,CellLine\nB02,negative,A549\n")
    assert [what.split(":")[0] for what in errors_of(plate)] == ["stats.time is slope"]
    plate_map.unlink()  # of which the check of the map tells
    assert len(errors_of(plate)) == 1
