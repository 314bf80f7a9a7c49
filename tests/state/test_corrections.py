"""What becomes of labels that people have corrected, from the import to the tables and back."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from planted_plate import Planted

from plateflow.asked import PlateAsked
from plateflow.config import Config
from plateflow.errors import PlateflowError, ResultsError
from plateflow.exchange.corrections import Imported, import_items
from plateflow.exchange.images import canvas_labels, digest_of, export_images, read_items
from plateflow.files import stamp_of
from plateflow.images.corrected import CorrectedLabels
from plateflow.images.well import WellImage
from plateflow.stages.job import damage
from plateflow.stages.stale import to_do
from plateflow.state.corrections import corrections, discard, unused
from plateflow.state.journal import append_outcome
from plateflow.state.requests import request


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
    shape: tuple[int, ...] = (256, 512)

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


def to_measure(planted: Planted) -> dict[str, tuple[str, ...]]:
    """The wells whose features are to be done, and why."""
    items = to_do(planted.plate, files=True).items
    return {key[0]: item.why for (stage, key), item in items.items() if stage == "features"}


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
    assert to_measure(planted) == {"B02": ("corrected cells",)}
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
    assert not to_measure(planted)
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


def test_who_goes_on_correcting_the_same_file_starts_from_what_was_imported(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    drawn = corrected(labels)
    give_back(planted, Drawn(well="B02", labels=drawn, exported=digest))
    (first,) = corrections(planted.paths).values()
    (said,) = give_back(planted, Drawn(well="B02", labels=drawn, exported=digest)).lines
    assert said.endswith("no object differs, not imported")
    drawn[drawn == 9] = 0
    assert give_back(planted, Drawn(well="B02", labels=drawn, exported=digest)).lines == [
        f"B02 cells: {labels.max() - 1} kept, 0 changed, 0 added, 1 removed",
        f"B02 cells: instead of {first}",
    ]
    (second,) = corrections(planted.paths).values()
    files = [file.name for file in planted.paths.corrections.parent.glob("*/*")]
    assert files == [second.file(planted.paths).name] != [first.file(planted.paths).name], "the former one is gone"


def test_what_was_imported_is_exported_before_any_run(planted: Planted, tmp_path: Path) -> None:
    labels, digest = exported(planted, "B02")
    give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))
    export_images(planted.plate, "napari", "B02", "cells", tmp_path / "out")
    (item,) = read_items(tmp_path / "out")
    (correction,) = corrections(planted.paths).values()
    with CorrectedLabels(correction.file(planted.paths), correction.stamp) as by_hand:
        assert item.exported == digest_of(by_hand.canvas(0)) != digest
    drawn = item.read()
    drawn[drawn == 3] = 0
    give_back(planted, Drawn(well="B02", labels=drawn, exported=item.exported))
    assert corrections(planted.paths)[("B02", "cells")].counts == {
        "kept": labels.max() - 1,
        "changed": 0,
        "added": 0,
        "removed": 1,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda labels: labels[:-1], r"its shape is \(255, 512\), and that of the image \(256, 512\)"),
        (lambda labels: labels + 0.5, "it holds fractions"),
        (lambda labels: labels > 0, "it holds bool, no whole numbers"),
        (lambda labels: labels.astype(np.int64) - 1, "its numbers go from -1"),
        (lambda labels: np.where(labels == 1, 0, labels.astype(np.int64) << 32), "its numbers go from 0"),
        (lambda labels: np.where(labels == 2, 1, labels), "1 object is in pieces: .* px at y .* and .* px at y"),
    ],
)
def test_what_cannot_be_used_is_told_and_nothing_is_imported(planted: Planted, change, words: str) -> None:
    labels, digest = exported(planted, "B02")
    sound, other = exported(planted, "B03")
    items = [
        Drawn(well="B02", labels=change(labels), exported=digest),
        Drawn(well="B03", labels=corrected(sound), exported=other),
    ]
    with pytest.raises(PlateflowError, match=f"none was[\\s\\S]*B02 cells, canvas 0, B02-0_seg.npy: {words}"):
        give_back(planted, *items)
    assert not planted.paths.corrections.parent.exists()


def test_labels_of_another_image_by_their_index_are_not_even_read(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    huge = Drawn(well="B02", labels=labels, exported=digest, shape=(10**9, 10**9))
    with pytest.raises(PlateflowError, match=r"the labels are of another image: \(1000000000,"):
        give_back(planted, huge)


def test_whole_numbers_in_another_type_are_fine(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    give_back(planted, Drawn(well="B02", labels=corrected(labels).astype(np.float32), exported=digest))
    assert corrections(planted.paths)[("B02", "cells")].counts["added"] == 1


def test_labels_that_changed_since_the_export_are_refused(planted: Planted) -> None:
    labels, _ = exported(planted, "B02")
    with pytest.raises(PlateflowError, match="the labels have changed since they were exported: export the well again"):
        give_back(planted, Drawn(well="B02", labels=corrected(labels), exported="0123456789abcdef0123"))


def test_pieces_become_objects_and_specks_go_where_that_is_asked(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    drawn, n = labels.copy(), int(labels.max())
    y, x = free_place(drawn)
    drawn[y : y + 5, x : x + 5] = 2  # 25 px: an object
    y, x = free_place(drawn)
    drawn[y + 2, x + 2] = 2  # a speck of the brush
    said = give_back(planted, Drawn(well="B02", labels=drawn, exported=digest), split=True).lines
    assert "1 object was in pieces: 1 piece is an object now, 1 speck (1 px) dropped" in said[0]
    assert said[1] == f"B02 cells: {n} kept, 0 changed, 1 added, 0 removed"


def test_a_well_that_was_left_out_since_is_refused(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    before = planted.plate.outcomes("stitch").required("B02", "cells")
    append_outcome(
        planted.paths.journal("stitch", "0"), replace(before, state="quarantined", reason="nan", files={}, sequence=9)
    )
    planted.paths.objects("cells", "B02").unlink()
    with pytest.raises(PlateflowError, match=r"B02 cells: the well was left out since: nan"):
        give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))


def test_after_another_segmentation_corrected_labels_stand_and_it_is_said(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))
    planted.run("features", "aggregate")
    cells = planted.cells("B02")
    (before,) = [planted.plate.outcomes("stitch").required("B02", "cells")]
    shard = planted.paths.image("B02") / "labels/cells/0/c/0/0/0/0"
    files = {planted.paths.key_of(shard): stamp_of(shard)}
    changed = replace(before, fingerprint="other", files=files, sequence=before.sequence + 1)
    append_outcome(planted.paths.journal("stitch", "0"), changed)
    planted.run("features", "aggregate")
    pd.testing.assert_frame_equal(planted.cells("B02"), cells)
    line = "look at the corrections: labels of cells that were corrected by hand stand, though they were made from an "
    assert f"{line}earlier segmentation: B02" in planted.plate.doubts()


def test_on_other_images_corrected_labels_are_set_aside_and_it_is_said(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))
    planted.run("features", "aggregate")
    before = planted.plate.outcomes("tile").required("B02")
    raw = {name: [*known[:2], "00000000"] for name, known in before.raw.items()}
    changed = replace(before, fingerprint="other", raw=raw, sequence=before.sequence + 1)
    append_outcome(planted.paths.journal("tile", "0"), changed)
    planted.run("features", "aggregate")
    assert planted.plate.labels_name("B02", "cells") == "cells"
    assert planted.cells("B02")["ObjectNumber"].max() == labels.max()
    assert any("aren't in use, as their images have changed since" in line for line in planted.plate.doubts())
    assert corrections(planted.paths)[("B02", "cells")].file(planted.paths).is_file(), "people's work is kept"


def test_a_well_that_is_left_out_later_has_no_corrected_labels_in_the_store(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))
    planted.run("features")
    before = planted.plate.outcomes("tile").required("B02")
    gone = replace(before, fingerprint="other", state="quarantined", reason="truncated", sequence=before.sequence + 1)
    append_outcome(planted.paths.journal("tile", "0"), gone)
    planted.run("features")
    assert planted.plate.labels_name("B02", "cells") == "cells"
    assert not [*planted.paths.image("B02").glob("labels/cells_corrected")]
    assert not planted.paths.objects("cells_corrected", "B02").exists()
    attributes = json.loads((planted.paths.image("B02") / "labels/zarr.json").read_text())["attributes"]
    assert attributes["ome"]["labels"] == ["nuclei", "cells"]
    assert not to_measure(planted)
    append_outcome(planted.paths.journal("tile", "0"), replace(before, sequence=before.sequence + 2))
    planted.run("features")
    assert planted.plate.labels_name("B02", "cells") == "cells_corrected", "people's work is kept"


def test_ingest_keeps_corrected_labels_and_lists_them(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))
    planted.run("features")
    folder = planted.paths.image("B02") / "labels"
    there = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    request(planted.paths, kind="changed", stage="ingest")
    (folder / "zarr.json").write_text("{}")
    planted.run("ingest")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == there


def test_a_damaged_file_is_an_error_that_says_the_way_out(planted: Planted) -> None:
    labels, digest = exported(planted, "B02")
    give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))
    file = corrections(planted.paths)[("B02", "cells")].file(planted.paths)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ResultsError, match=r"gone or damaged[\s\S]*--discard-corrections"):
        planted.run("features")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_line_that_is_lost_is_told_and_its_labels_stay(planted: Planted, damage: str) -> None:
    """A line with another bit stops whoever reads it; one without an end may be a killed import's."""
    (labels, digest), (sound, other) = exported(planted, "B02"), exported(planted, "B03")
    give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))
    (file,) = (each.file(planted.paths) for each in corrections(planted.paths).values())
    book = planted.paths.corrections
    line = book.read_bytes()
    if damage == "flipped":
        book.write_bytes(line.replace(b"ada", b"bda"))
        remedy = r"corrections.jsonl, line 1\n.*put the file back from a copy; or remove this line"
        for read in (lambda: planted.run("features"), lambda: planted.plate.correction("B02", "cells")):
            with pytest.raises(ResultsError, match=f"what was corrected by hand is damaged\n.*{remedy}"):
                read()
    book.write_bytes(line[:-30] if damage == "cut" else b"")
    give_back(planted, Drawn(well="B03", labels=corrected(sound), exported=other))
    assert unused(planted.paths) == [file], "people's work, whatever has become of its line"
    discard(planted.paths, [("B03", "cells")])
    assert unused(planted.paths) == [file]
    give_back(planted, Drawn(well="B02", labels=corrected(labels), exported=digest))
    assert corrections(planted.paths).keys() == {("B02", "cells")} and not unused(planted.paths)


def test_an_import_that_fails_at_any_write_leaves_all_or_nothing(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two wells: each call that writes or removes a file fails once; the same import again makes it good."""
    calls = {"plateflow.exchange.corrections.write_atomic": 2, "plateflow.state.corrections.append_line": 1}
    calls["plateflow.state.corrections.settle"] = 2
    drawn = []
    for well in ("B02", "B03"):
        labels, digest = exported(planted, well)
        drawn.append(Drawn(well=well, labels=corrected(labels), exported=digest))
    for name, n in calls.items():
        for failing in range(n):
            module, _, function = name.rpartition(".")
            real, seen = getattr(sys.modules[module], function), iter(range(n))

            def fail(*args, real=real, seen=seen, failing=failing, **keys):
                if next(seen) == failing:
                    raise OSError("no more")
                return real(*args, **keys)

            with monkeypatch.context() as patch:
                patch.setattr(name, fail)
                with pytest.raises(OSError, match="no more"):
                    give_back(planted, *drawn)
            assert {place[0] for place in corrections(planted.paths)} in (set(), {"B02", "B03"}), name
    give_back(planted, *drawn)
    assert {place[0] for place in corrections(planted.paths)} == {"B02", "B03"}
    assert not unused(planted.paths)
    planted.run("features")
    assert all(planted.plate.labels_name(well, "cells") == "cells_corrected" for well in ("B02", "B03"))


def test_a_label_set_cannot_have_the_name_of_corrected_labels() -> None:
    with pytest.raises(ValueError, match="is the name of the labels of 'cells' that were corrected by hand"):
        Config.model_validate({"segmentation": {"cells_corrected": {"channels": ["DNA"]}}})
