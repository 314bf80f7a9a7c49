"""The same plate written in every layout gives the same labels and tables, byte for byte."""

# Over 20 s in all: every layout goes through seven stages, with a small network.

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from segment_project import SETS, config_of, labels_of, run
from vendors import LAYOUTS

from plateflow.config import PlateSpec
from plateflow.images.shards import halve_mean
from plateflow.paths import PlatePaths
from plateflow.plates import index_plate, recognise
from plateflow.project import Plate
from plateflow.report.thumbnails import picture
from plateflow.simulate.plate import Fault, SimulatedPlate, WellPlan, simulate_plate

STAGES = ("ingest", "tile", "normalise", "infer", "stitch", "features")
WELLS = [WellPlan(well="B03", role="negative"), WellPlan(well="B04", role="negative")]


def simulated(folder: Path, layout: str) -> SimulatedPlate:
    """Three fields that overlap, the last one of a well missing."""
    return simulate_plate(
        folder,
        wells=WELLS,
        fields=3,
        field_shape=(96, 128),
        overlap_px=10,
        faults=[Fault(kind="missing", well="B03", field=2)],
        plate="p",
        layout=LAYOUTS[layout],
        seed=3,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def through_the_chain(folder: Path, layout: str, *, in_place: bool = False) -> PlatePaths:
    """The plate simulated and run; names alone say no positions: a table does."""
    made = simulated(folder, layout)
    entry = PlateSpec(plate="p", path=str(made.raw))
    if layout == "pattern":
        places = index_plate(PlateSpec(plate="p", path=str(simulated(folder / "h", "harmony").raw)))
        lines = ["path\twell\tfield\tchannel\ty_um\tx_um\tpixel_size_um"]
        for row in places.planes.to_dict("records"):
            name = f"{row['well']}_s{row['field']}_w{['DNA', 'AGP', 'Marker'].index(row['channel']) + 1}.tif"
            lines.append(
                "\t".join(map(str, (name, row["well"], row["field"], row["channel"], row["y_um"], row["x_um"], 0.6)))
            )
        (made.raw / "files.tsv").write_text("\n".join(lines) + "\n")
        entry = entry.model_copy(update={"layout": "pattern", "pattern": "files.tsv"})
    else:
        entry = entry.model_copy(update={"layout": recognise(made.raw) + ("_in_place" if in_place else "")})
    return run(config_of(folder / "results"), entry, *STAGES)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> PlatePaths:
    return through_the_chain(tmp_path_factory.mktemp("harmony"), "harmony")


def test_there_is_something_to_compare(expected: PlatePaths) -> None:
    assert labels_of(expected, "B03", "nuclei").max() > 5
    assert len(pq.read_table(expected.cells("B03"))) > 5


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "harmony"])
def test_the_same_labels_and_tables(tmp_path: Path, expected: PlatePaths, layout: str) -> None:
    found = through_the_chain(tmp_path, layout)
    for well in ("B03", "B04"):
        for label_set in SETS:
            assert labels_of(found, well, label_set).tobytes() == labels_of(expected, well, label_set).tobytes()
        assert pq.read_table(found.cells(well)).equals(pq.read_table(expected.cells(well)))


@pytest.mark.parametrize("layout", ["omezarr", "omezarr 0.5"])
def test_an_omezarr_plate_in_place(
    tmp_path: Path, expected: PlatePaths, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same labels and tables without a copy of the pixels; the store has a preview, an eighth as high and wide."""
    monkeypatch.setattr("plateflow.images.layout.PREVIEW_PX", 50)
    found = through_the_chain(tmp_path, layout, in_place=True)
    for well in ("B03", "B04"):
        for label_set in SETS:
            assert labels_of(found, well, label_set).tobytes() == labels_of(expected, well, label_set).tobytes()
        assert pq.read_table(found.cells(well)).equals(pq.read_table(expected.cells(well)))
        whole = zarr.open_array(expected.image(well) / "0", mode="r")[0, :, 0]
        for _ in range(3):
            whole = halve_mean(whole)
        preview = zarr.open_array(found.image(well) / "0", mode="r")
        np.testing.assert_array_equal(preview[0, :, 0], whole)
        attributes = json.loads((found.image(well) / "zarr.json").read_text())["attributes"]["ome"]
        (level,) = attributes["multiscales"][0]["datasets"]
        assert level["coordinateTransformations"][0]["scale"][-2:] == [0.6 * 8, 0.6 * 8]
        assert not list(found.image(well).glob("1"))
    plate = Plate(config=config_of(tmp_path / "results"), spec=PlateSpec(plate="p", path=str(tmp_path / "p.zarr")))
    assert picture(plate, "B04", at_most=60_000).url.startswith("data:image")
    assert files_of(tmp_path / "p.zarr") == files_of(simulated(tmp_path / "again", layout).raw)
