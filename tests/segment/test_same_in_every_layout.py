"""The same plate written in every layout gives the same labels and tables, byte for byte."""

# Over 20 s in all: every layout goes through seven stages, with a small network.

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from segment_project import SETS, config_of, labels_of, run

from plateflow.config import PlateEntry
from plateflow.paths import PlatePaths
from plateflow.plates import index_plate, recognise
from plateflow.simulate.layouts import LAYOUTS
from plateflow.simulate.plate import Fault, WellPlan, simulate_plate

STAGES = ("ingest", "tile", "normalise", "infer", "follow", "stitch", "features")
WELLS = [WellPlan(well="B03", role="negative"), WellPlan(well="B04", role="negative")]


def through_the_chain(folder: Path, layout: str) -> PlatePaths:
    """Three fields that overlap, the last one of a well missing; names alone say no positions: a table does."""
    made = simulate_plate(
        folder,
        wells=WELLS,
        fields=3,
        field_shape=(96, 128),
        overlap_px=10,
        faults=[Fault(kind="missing", well="B03", field=2)],
        plate="p",
        layout=layout,
        seed=3,
    )
    entry = PlateEntry(plate="p", path=str(made.raw))
    if layout == "pattern":
        places = index_plate(PlateEntry(plate="p", path=str(simulate_like(folder))))
        lines = ["path\twell\tfield\tchannel\ty_um\tx_um\tpixel_size_um"]
        for row in places.planes.to_dict("records"):
            name = f"{row['well']}_s{row['field']}_w{['DNA', 'AGP', 'Marker'].index(row['channel']) + 1}.tif"
            lines.append(
                "\t".join(map(str, (name, row["well"], row["field"], row["channel"], row["y_um"], row["x_um"], 0.6)))
            )
        (made.raw / "files.tsv").write_text("\n".join(lines) + "\n")
        entry = entry.model_copy(update={"layout": "pattern", "pattern": "files.tsv"})
    else:
        entry = entry.model_copy(update={"layout": recognise(made.raw)})
    return run(config_of(folder / "results"), entry, *STAGES)


def simulate_like(folder: Path) -> Path:
    """The plate as Harmony has it, for its positions."""
    return simulate_plate(folder / "h", wells=WELLS, fields=3, field_shape=(96, 128), overlap_px=10).raw


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
