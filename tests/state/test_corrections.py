"""What becomes of labels that people have corrected, from the import to the tables and back."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from planted_plate import Planted

from plateflow.asked import PlateAsked
from plateflow.exchange.corrections import Imported, import_items
from plateflow.exchange.images import canvas_labels, digest_of
from plateflow.files import stamp_of
from plateflow.images.well import WellImage
from plateflow.stages.job import damage
from plateflow.stages.stale import to_do
from plateflow.state.corrections import discard


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Labels of a canvas as a program would have left them: `exchange.images.Item`, without a file."""

    well: str
    labels: np.ndarray
    exported: str
    canvas: int = 0
    label_set: str = "cells"
    plate: str = "demo"
    program: str = "cellpose"

    @property
    def file(self) -> Path:
        return Path(f"{self.well}-{self.canvas}_seg.npy")

    def read(self) -> np.ndarray:
        return self.labels


def exported(planted: Planted, well: str, label_set: str = "cells") -> tuple[np.ndarray, str]:
    """The labels of a well's first canvas that stand, and their digest."""
    plate = planted.plate
    canvas = plate.canvases(well, label_set)[0]
    labels = canvas_labels(WellImage.open(plate.paths, well), plate.labels_name(well, label_set), canvas)
    return labels, digest_of(labels)


def corrected(labels: np.ndarray) -> np.ndarray:
    """Object 1 erased, 2 without its left half, one drawn anew; all of other numbers, with gaps."""
    drawn = labels.astype(np.int64) * 3
    drawn[labels == 1] = 0
    columns = np.flatnonzero((labels == 2).any(axis=0))
    drawn[:, : columns[len(columns) // 4]][labels[:, : columns[len(columns) // 4]] == 2] = 0
    y, x = free_place(drawn)
    drawn[y : y + 6, x : x + 6] = 5000
    return drawn


def free_place(labels: np.ndarray) -> tuple[int, int]:
    """The corner of 6 x 6 px in which there is nothing."""
    free = ((y, x) for y in range(0, labels.shape[0] - 6, 6) for x in range(0, labels.shape[1] - 6, 6))
    return next((y, x) for y, x in free if not labels[y : y + 6, x : x + 6].any())


def give_back(planted: Planted, *items: Drawn, split: bool = False) -> Imported:
    return import_items(planted.plate, items, by="ada", split=split)


@pytest.fixture
def planted(measured: Planted, tmp_path: Path) -> Planted:
    return measured.copy(tmp_path)


def tables(planted: Planted) -> dict[str, bytes]:
    files = [*(planted.paths.root / "cells").glob("*"), *planted.paths.root.glob("wells.*")]
    return {file.name: file.read_bytes() for file in files}


def labels_files(planted: Planted, well: str) -> dict[str, tuple[int, str]]:
    folder = planted.paths.image(well) / "labels" / "cells"
    return {str(file.relative_to(folder)): stamp_of(file) for file in folder.rglob("*") if file.is_file()}


def test_a_correction_is_measured_in_place_of_the_labels_and_taken_out_again(planted: Planted) -> None:
    before, files, done = tables(planted), labels_files(planted, "B02"), planted.journal("features")
    labels, digest = exported(planted, "B02")
    n = int(labels.max())
    asked = {job: PlateAsked(planted.plate).digest("features", job) for job in "0"}
    said = give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))
    assert said.lines == [f"B02 cells: {n - 2} kept, 1 changed, 1 added, 1 removed"]
    assert PlateAsked(planted.plate).digest("features", "0") != asked["0"]
    assert {(name, key): item.why for (name, key), item in to_do(planted.plate, files=True).items.items()} == {
        ("features", ("B02", "", -1)): ("corrected cells",)
    }
    planted.run("features", "aggregate")
    assert planted.journal("features") == [*done, "B02"], "no other well"
    assert labels_files(planted, "B02") == files, "the pipeline's labels are as they were, bit for bit"
    new = zarr.open_array(planted.paths.image("B02") / "labels/cells_corrected/0", mode="r")[0, 0]
    cells = planted.cells("B02").set_index("ObjectNumber")
    assert [*cells.index] == [*range(2, n + 2)] == np.unique(new)[1:].tolist()
    assert cells["Cells_AreaShape_Area"].tolist() == np.bincount(new.ravel())[2:].tolist()
    assert np.array_equal(new == 5, labels == 5) and (new == n + 1).sum() == 36
    quality = cells["Cells_Quality_FlowError"]
    assert quality.isna()[[2, n + 1]].all() and quality.drop([2, n + 1]).notna().all(), "no flow has made those"
    wells = pd.read_csv(planted.paths.table("wells.csv")).set_index("Metadata_Well")
    assert wells["Metadata_Corrected"].fillna("").to_dict() == dict.fromkeys(wells.index, "") | {"B02": "cells"}
    assert wells.loc["B02", "Count_Cells"] == n
    attributes = json.loads((planted.paths.image("B02") / "labels/zarr.json").read_text())["attributes"]
    assert attributes["ome"]["labels"] == ["nuclei", "cells", "cells_corrected"]
    about = json.loads((planted.paths.image("B02") / "labels/cells_corrected/zarr.json").read_text())["attributes"]
    assert about["ome"]["image-label"]["source"] == {"image": "../../"}
    assert about["plateflow"]["correction"]["by"] == "ada"
    assert about["plateflow"]["correction"]["sources"] == {
        "0": {"exported": digest, "program": "cellpose", "file": "B02-0_seg.npy"}
    }
    levels = [
        zarr.open_array(planted.paths.image("B02") / f"labels/{name}/1", mode="r")
        for name in ("cells", "cells_corrected")
    ]
    assert levels[0].metadata == levels[1].metadata
    assert not to_do(planted.plate, files=True).items
    for entry in planted.plate.outcomes("features").values():
        assert not any(damage(planted.paths, name, stamp, content=True) for name, stamp in entry.files.items())

    discard(planted.paths, [("B02", "cells")])
    assert PlateAsked(planted.plate).digest("features", "0") == asked["0"]
    planted.run("features", "aggregate")
    assert tables(planted) == before
    assert not [*planted.paths.root.rglob("*cells_corrected*/*")]
    attributes = json.loads((planted.paths.image("B02") / "labels/zarr.json").read_text())["attributes"]
    assert attributes["ome"]["labels"] == ["nuclei", "cells"]
    assert [path.name for path in planted.paths.corrections.parent.rglob("*")] == ["cells", "corrections.jsonl"]
