"""`plateflow export --to`: which wells, what lies in the folder, what is refused; and what is read back of it."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))

from command_line import plateflow
from planted_plate import Planted, small_plate
from simulated_stack import simulate_stack_plate

from plateflow.config import Config, PlateSpec
from plateflow.errors import PlateflowError, RawDataError, ResultsError
from plateflow.exchange.images import INDEX, PROGRAMS, digest_of, export_images, read_items
from plateflow.images.well import WellImage
from plateflow.project import Plate
from plateflow.segment.scratch import write_flows
from plateflow.stages import run_stage
from plateflow.state.journal import Entry, append_outcome
from plateflow.stats.segmentation import COLUMNS


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A small plate with labels, and as much of its table as says which wells are doubtful."""
    plate = small_plate(tmp_path_factory.mktemp("planted"))
    wells = pd.DataFrame({"Metadata_Well": plate.plate.wells, "Metadata_State": "ok", "Metadata_FieldsUsed": 2})
    wells["Count_Cells"] = 9
    wells["Metadata_Cells_" + COLUMNS["uncovered"]] = np.linspace(0.1, 0.2, len(wells))
    wells.loc[wells["Metadata_Well"] == "B04", "Metadata_Cells_" + COLUMNS["uncovered"]] = 0.9
    wells.to_parquet(plate.paths.table("wells.parquet"))
    return plate


def stored(plate: Plate, well: str, canvas: int, label_set: str = "cells") -> np.ndarray:
    image = WellImage.open(plate.paths, well)
    return image.labels(label_set, plate.canvases(well, label_set)[canvas])


@pytest.mark.parametrize("program", PROGRAMS)
def test_wells_are_written_and_read_back_as_the_store_has_them(planted: Planted, tmp_path: Path, program: str) -> None:
    plate, folder = planted.plate, tmp_path / "new" / program
    first, *how, last = export_images(plate, program, "b2,B05,B06", "cells", folder)
    items = list(read_items(folder))
    assert [(item.well, item.canvas) for item in items] == [("B02", 0), ("B05", 0), ("B06", 0)]
    assert {(item.plate, item.label_set, item.program) for item in items} == {("demo", "cells", program)}
    objects = 0
    for item in items:
        labels, back = stored(plate, item.well, item.canvas), item.read()
        assert digest_of(back) == item.exported == digest_of(labels)
        assert item.shape == labels.shape and item.file.parent == folder
        if program != "cellpose":
            np.testing.assert_array_equal(back, labels)
        objects += len(np.unique(labels)) - 1
    assert f"3 images with {objects} objects of cells in 3 wells of demo: {folder}" in first
    assert len(how) == (3 if program == "cellpose" else 2)  # it is told that there are no flow fields
    assert last == f"then: `plateflow import {folder}`"
    said = json.loads((folder / INDEX).read_text())
    assert said["items"][0]["pixel_um"] == [0.6, 0.6] and said["channels"] == ["AGP", "DNA"]
    assert not list(folder.parent.glob(".*"))
    names = {path.name for path in folder.iterdir()} - {INDEX, "open_in_napari.py"}
    assert all(name.startswith("demo_B") for name in names) and len(names) == 6


def test_pixels_are_those_that_are_measured_to_half_a_count(planted: Planted, tmp_path: Path) -> None:
    plate = planted.plate
    export_images(plate, "napari", "B02", "cells", tmp_path / "out")
    (canvas,) = plate.canvases("B02", "cells")
    pixels = WellImage.open(plate.paths, "B02").read(canvas, ["AGP", "DNA"], plate.config.z)
    written = tifffile.imread(tmp_path / "out" / "demo_B02_0.ome.tif")
    assert written.dtype == np.uint16
    assert np.abs(written - pixels).max() <= 0.5


def test_the_worst_come_by_their_rank_and_random_ones_are_the_same_each_time(planted: Planted, tmp_path: Path) -> None:
    def wells(asked: str) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        export_images(planted.plate, "napari", asked, "nuclei", folder)
        return [item.well for item in read_items(folder)]

    assert wells("worst:3") == ["B04", "C03", "B06"]  # C02, the next in the table, was left out
    drawn = wells("random:3")
    assert wells("random:3") == drawn and wells("random:2") == drawn[:2]
    everyone = wells("random:99")
    assert everyone[:3] == drawn and set(everyone) == {"B02", "B03", "B04", "B05", "B06", "C03"}  # C02 was left out


@pytest.mark.parametrize(
    ("wells", "label_set", "message"),
    [
        ("B02,C02", "cells", "the well was left out"),
        ("B02,H12", "cells", "the plate has no well H12"),
        ("worst", "cells", "--wells takes worst:6"),
        ("worst:0", "cells", "--wells takes worst:6"),
        ("../../etc", "cells", "--wells takes"),
        ("", "cells", "--wells takes"),
        ("B02", "cell", "did you mean 'cells'"),
    ],
)
def test_wells_and_label_sets_that_are_not_there(
    planted: Planted, tmp_path: Path, wells: str, label_set: str, message: str
) -> None:
    with pytest.raises(PlateflowError, match=message) as error:
        export_images(planted.plate, "qupath", wells, label_set, tmp_path / "out")
    assert "C02" not in wells or "truncated" in error.value.why or "C02: quarantined" in error.value.why
    assert not list(tmp_path.iterdir())


def test_a_plate_without_labels_or_tables(planted: Planted, tmp_path: Path) -> None:
    young = planted.copy(tmp_path)
    young.paths.table("wells.parquet").unlink()
    with pytest.raises(ResultsError, match="no well table yet"):
        export_images(young.plate, "qupath", "worst:2", "cells", tmp_path / "out")
    for path in young.paths.journals("stitch"):
        path.unlink()
    for wells in ("random:2", "B02"):
        with pytest.raises(ResultsError, match="no labels yet"):
            export_images(young.plate, "qupath", wells, "cells", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused_and_nothing_is_left_of_a_failure(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    export_images(planted.plate, "imagej", "B02", "cells", folder)  # an empty one is fine
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(PlateflowError, match="something in the folder already"):
        export_images(planted.plate, "imagej", "B03", "cells", folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before

    def fail(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(PROGRAMS["qupath"], "write", fail)
    with pytest.raises(OSError, match="disk full"):
        export_images(planted.plate, "qupath", "B02", "cells", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_flows_go_to_cellpose_where_they_are_kept(planted: Planted, tmp_path: Path) -> None:
    kept = planted.copy(tmp_path)
    (canvas,) = kept.plate.canvases("B02", "cells")
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 3, (3, *canvas.shape)).astype(np.float16)
    write_flows(kept.paths.flows("cells", "B02", 0), flow, bound=-2)
    write_flows(kept.paths.flows("cells", "B03", 0), flow[:, 1:], bound=-2)  # of other fields
    said = export_images(kept.plate, "cellpose", "B02,B03,B04", "cells", tmp_path / "out")
    assert said[1].startswith("2 images without flow fields, as none is there: their masks can be corrected, but")
    read = [np.load(tmp_path / "out" / f"demo_B0{n}_0_seg.npy", allow_pickle=True).item()["flows"] for n in (2, 3, 4)]
    assert read[1] == read[2] == [[], [], [], [], [[]]]
    picture, probability, vectors, logit = read[0]
    cell = flow[2] > -2
    np.testing.assert_array_equal(vectors[0][:, cell], flow[:2, cell].astype(np.float32))
    np.testing.assert_array_equal(logit[0][cell], flow[2, cell].astype(np.float32))
    assert picture.shape == (1, *canvas.shape, 3) and picture.dtype == probability.dtype == np.uint8


def test_without_kept_flows_cellpose_gets_none_and_it_is_said(planted: Planted, tmp_path: Path) -> None:
    plate = planted.copy(tmp_path, keep_flows=False).plate
    said = export_images(plate, "cellpose", "B02", "cells", tmp_path / "out")
    assert said[1].startswith("1 image without flow fields, as none is kept (keep_flows: false): their masks can be")
    (item,) = read_items(tmp_path / "out")
    assert digest_of(item.read()) == item.exported == digest_of(stored(plate, "B02", 0))
    assert not any("flow fields" in line for line in export_images(plate, "qupath", "B02", "cells", tmp_path / "other"))


def test_what_was_removed_is_left_out_and_an_index_that_leads_elsewhere_is_refused(
    planted: Planted, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    export_images(planted.plate, "napari", "B02,B03", "cells", folder)
    (folder / "demo_B02_0_labels.tif").unlink()
    assert [item.well for item in read_items(folder)] == ["B03"]
    index = json.loads((folder / INDEX).read_text())
    for change, why in (
        ({"items": [index["items"][1] | {"file": "../out/demo_B03_0_labels.tif"}]}, "isn't the name of a file"),
        ({"items": [index["items"][1] | {"file": ".."}]}, None),
        ({"items": [{"file": "demo_B03_0_labels.tif"}]}, "well"),
        ({"program": "os"}, "program"),
    ):
        (folder / INDEX).write_text(json.dumps(index | change))
        if why is None:
            assert not list(read_items(folder))
            continue
        with pytest.raises(RawDataError, match="index is damaged") as error:
            list(read_items(folder))
        assert why in error.value.why
    (folder / INDEX).write_text("{")
    with pytest.raises(RawDataError, match="index is damaged"):
        list(read_items(folder))
    with pytest.raises(RawDataError, match="wasn't exported by Plateflow"):
        list(read_items(tmp_path))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_stacks_whose_planes_are_kept(tmp_path: Path, dimensions: int) -> None:
    raw, truth = simulate_stack_plate(tmp_path / "raw", shape=(4, 48, 56), nuclei=6, wells=("B02",))
    sets = {"nuclei": {"channels": ["DNA"], "dimensions": dimensions}}
    keys = {"results": str(tmp_path / "results"), "z": "keep", "levels": 1, "segmentation": sets}
    plate = Plate(config=Config.model_validate(keys), spec=PlateSpec(plate="stack", path=str(raw)))
    for stage in ("ingest", "tile", "normalise"):
        run_stage(plate, stage)
    image = WellImage.open(plate.paths, "B02")
    for canvas in plate.canvases("B02"):
        image.write_labels("nuclei", 0, canvas.z, [(canvas, truth["B02"][canvas.z])])
    append_outcome(plate.paths.journal("stitch", "0"), Entry(well="B02", label_set="nuclei", fingerprint="1"))
    export_images(plate, "napari", "random:1", "nuclei", tmp_path / "napari")
    items = list(read_items(tmp_path / "napari"))
    assert len(items) == (4 if dimensions == 2 else 1)
    np.testing.assert_array_equal(np.stack([item.read() for item in items]).reshape(4, 48, 56), truth["B02"])
    if dimensions == 2:
        export_images(plate, "qupath", "random:1", "nuclei", tmp_path / "qupath")
        assert [item.canvas for item in read_items(tmp_path / "qupath")] == [0, 1, 2, 3]
        return
    for program in set(PROGRAMS) - {"napari"}:
        with pytest.raises(PlateflowError, match="shows planes") as error:
            export_images(plate, program, "random:1", "nuclei", tmp_path / program)
        assert error.value.remedy == "--to napari" and not (tmp_path / program).exists()


def test_the_command_says_what_it_wrote_and_what_comes_next(planted: Planted, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    sheet = tmp_path / "config" / "plates.tsv"
    spec = {name: value for name, value in planted.entry.model_dump(mode="json").items() if value is not None}
    sheet.write_text("\t".join(spec) + "\n" + "\t".join(map(str, spec.values())) + "\n")
    config = dataclasses.replace(planted).config.model_copy(update={"plates": str(sheet)})
    (tmp_path / "config" / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    output = plateflow("export", "demo", "--to", "imagej", "--wells", "B02", cwd=tmp_path)
    assert "1 image with" in output and "objects of cells in 1 well of demo: export/demo/imagej" in output
    assert "ROI Manager" in output and "plateflow import export/demo/imagej" in output
    assert len(list(read_items(tmp_path / "export" / "demo" / "imagej"))) == 1
    again = plateflow("export", "demo", "--to", "imagej", "--wells", "B02", cwd=tmp_path, status=1)
    assert "something in the folder already" in again
    nuclei = plateflow(
        "export", "demo", "--to", "qupath", "--label-set", "nuclei", "-o", "there", "--wells", "B02", cwd=tmp_path
    )
    assert "of nuclei" in nuclei and (tmp_path / "there" / "demo_B02_0.geojson").exists()
    refused = plateflow("export", "demo", "--tables", "csv", "--wells", "B02", cwd=tmp_path, status=2)
    assert "tables are of all wells" in refused
