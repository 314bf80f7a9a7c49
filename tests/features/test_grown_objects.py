"""Label sets that are made from others, and label sets that are matched one to one, from configuration to tables."""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from planted_plate import LABEL_SETS, Planted, small_plate

from plateflow.asked import PlateAsked
from plateflow.chain import parameters
from plateflow.config import Config, PlateSpec
from plateflow.errors import ConfigError, PlateflowError, ResultsError
from plateflow.exchange.corrections import import_items
from plateflow.exchange.images import export_images, read_items
from plateflow.features.pairs import one_to_one, unmatched_in
from plateflow.files import take_stamps
from plateflow.images.well import WellImage
from plateflow.images.window import cell_threshold, load_window
from plateflow.segment.fits import check_grown
from plateflow.segment.growth import grow_evenly, grow_through, shows_cells
from plateflow.stages import normalise
from plateflow.stages.features import put_into_store
from plateflow.state.journal import Entry, append_outcome

GROWN = {
    "nuclei": {"channels": ["DNA"]},
    "cells": {"expand": {"from": "nuclei", "um": 3}},
    "spread": {"propagate": {"from": "nuclei", "channels": ["AGP"]}},
    "halo": {"ring": {"from": "nuclei", "inner_um": 0.6, "outer_um": 2.4}},
}
MINIMAL = {"families": "minimal"}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    root = tmp_path_factory.mktemp("grown")
    plate = small_plate(root / "usual").copy(root, segmentation=GROWN, features=MINIMAL)
    plate.run("ingest", "normalise", "features", "aggregate")
    return plate


def labels_of(plate: Planted, name: str, well: str = "B02") -> np.ndarray:
    return zarr.open_array(plate.paths.image(well) / "labels" / name / "0", mode="r")[0, 0]


def test_they_are_made_from_the_labels_that_stand(grown: Planted) -> None:
    nuclei = labels_of(grown, "nuclei")
    np.testing.assert_array_equal(labels_of(grown, "cells"), grow_evenly(nuclei, radius=5))
    np.testing.assert_array_equal(labels_of(grown, "halo"), grow_evenly(nuclei, radius=4, inner=1))
    canvas, image = grown.plate.canvases("B02", "spread")[0], load_window(grown.paths)
    low, high, threshold = image.stain("AGP")
    pixels = WellImage.open(grown.paths, "B02").read(canvas, ["AGP"], "max")[0]
    cells = shows_cells(pixels, threshold, np.ones(pixels.shape, bool))
    spread = grow_through(nuclei, (pixels - low) / (high - low), cells, regularisation=0.05, block=77)
    np.testing.assert_array_equal(labels_of(grown, "spread"), spread)
    true = small_plate(grown.root / "truth")
    with np.load(true.truth / "B02.npz") as file:
        is_cell = file["cells"] > 0
    assert ((spread > 0) == is_cell).mean() > 0.9, "the threshold tells cells from background"
    assert set(np.unique(spread)) == set(np.unique(nuclei))


def test_each_row_has_the_objects_of_one_number(grown: Planted) -> None:
    table = grown.cells("B02")
    assert len(table) == len(np.unique(labels_of(grown, "nuclei"))) - 1
    for name in ("Nuclei", "Spread", "Halo"):
        has = table[f"{name}_Number_Object_Number"].notna()
        assert has.mean() > 0.98
        np.testing.assert_array_equal(table.loc[has, f"{name}_Number_Object_Number"], table.loc[has, "ObjectNumber"])
        assert (table.loc[has, f"Metadata_Match_{name}"] == "one_to_one").all()
    areas = table["Cells_AreaShape_Area"] - table["Nuclei_AreaShape_Area"]
    np.testing.assert_allclose(table["Cytoplasm_AreaShape_Area"].fillna(0), areas)
    counted = pd.Series(labels_of(grown, "halo").ravel()).value_counts().drop(0)
    halo = table.dropna(subset=["Halo_AreaShape_Area"]).set_index("ObjectNumber")["Halo_AreaShape_Area"]
    assert halo.to_dict() == counted.to_dict()
    assert "Nuclei_Quality_FlowError" in table
    assert not [name for name in table if name.endswith("FlowError") and not name.startswith("Nuclei")]


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Nuclei and cells of the network, of which each second one was merged with another, and rings round the nuclei."""
    root = tmp_path_factory.mktemp("apart")
    sets = LABEL_SETS | {"halo": GROWN["halo"]}
    plate = small_plate(root / "usual").copy(root, segmentation=sets, features=MINIMAL)
    cells = labels_of(plate, "cells")
    put(plate, "cells", cells - (cells > 0) * (cells % 2 == 0))
    plate.run("ingest", "normalise", "features")
    return plate


def put(plate: Planted, name: str, labels: np.ndarray) -> None:
    """Write labels of B02."""
    image = WellImage.open(plate.paths, "B02")
    image.write_labels(name, 0, 0, [(plate.plate.canvases("B02", name)[0], labels)])


def test_cells_of_the_network_have_the_ring_of_their_nucleus(apart: Planted) -> None:
    for well in ("B02", "B03", "B04"):
        table, rings = apart.cells(well), set(np.unique(labels_of(apart, "halo", well)))
        nucleus = table["Nuclei_Number_Object_Number"]
        assert (table["Metadata_Match_Nuclei"] == "multinucleate").any() == (well == "B02")
        wanted = nucleus.where(nucleus.isin(rings))
        np.testing.assert_array_equal(table["Halo_Number_Object_Number"], wanted)
        assert table["Halo_Intensity_MeanIntensity_Marker"].notna().equals(wanted.notna())


def test_rings_follow_cells_that_are_corrected_by_hand(grown: Planted, tmp_path: Path) -> None:
    sets = GROWN | {"halo": {"ring": {"from": "cells", "inner_um": 0, "outer_um": 2.4}}}
    plate = grown.copy(tmp_path, segmentation=sets, features=MINIMAL | {"rows": "nuclei"})
    plate.run("features")
    before = plate.cells("B02")
    give_back(plate, "cells", tmp_path / "cells", lambda labels: np.where(labels == 1, 0, labels))
    plate.run("features")
    after = plate.cells("B02")
    assert before["Halo_Number_Object_Number"].notna().mean() > 0.9
    gone = after["ObjectNumber"] == 1
    np.testing.assert_array_equal(after["Halo_Number_Object_Number"], before["Halo_Number_Object_Number"].mask(gone))


def test_tables_of_objects_and_the_store_tell_of_them(grown: Planted) -> None:
    objects = pd.read_parquet(grown.paths.objects("halo", "B02"))
    nuclei = pd.read_parquet(grown.paths.objects("nuclei", "B02")).set_index("label")
    assert objects.dtypes.to_dict() == nuclei.reset_index().dtypes.to_dict()
    pd.testing.assert_frame_equal(
        objects.set_index("label")[["canvas", "seed_y", "seed_x"]],
        nuclei.loc[objects["label"], ["canvas", "seed_y", "seed_x"]],
    )
    assert objects["flow_error"].isna().all()
    group = grown.paths.image("B02") / "labels"
    listed = json.loads((group / "zarr.json").read_text())["attributes"]["ome"]["labels"]
    assert listed == ["nuclei", "cells", "spread", "halo"]
    attributes = json.loads((group / "halo" / "zarr.json").read_text())["attributes"]
    assert attributes["plateflow"]["grown"] == {"from": "nuclei", "rule": "ring", "inner_um": 0.6, "outer_um": 2.4}
    assert attributes["ome"]["image-label"]["source"] == {"image": "../../"}
    files = grown.plate.outcomes("features").required("B02").files
    assert {"objects/halo/B02.parquet", "plate.zarr/B/02/0/labels/halo/zarr.json"} <= files.keys()
    wells = pd.read_parquet(grown.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert wells.loc["B02", "Count_Cells"] == wells.loc["B02", "Count_Nuclei"] == len(nuclei)
    assert "Metadata_Nuclei_Unmatched" in wells
    assert "Metadata_Halo_Uncovered" not in wells, "no network has looked for rings"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("cells", {"expand": {"from": "nuclei", "um": 2}}),
        ("halo", {"expand": {"from": "spread", "um": 2.4}}),
        ("spread", {"propagate": {"from": "nuclei", "channels": ["Marker"]}}),
        ("spread", {"propagate": {"from": "nuclei", "channels": ["AGP"], "regularisation": 5}}),
        ("halo", {"ring": {"from": "nuclei", "inner_um": 1.2, "outer_um": 2.4}}),
        ("halo", {"ring": {"from": "nuclei", "inner_um": 0.6, "outer_um": 1.2}}),
    ],
)
def test_each_key_changes_the_labels_and_asks_for_features_alone(
    grown: Planted, tmp_path: Path, name: str, rule: dict
) -> None:
    changed = grown.copy(tmp_path, segmentation={**GROWN, name: rule})
    for stage in ("ingest", "tile", "infer", "follow", "stitch"):
        assert changed.plate.parameters(stage) == grown.plate.parameters(stage)
    assert changed.plate.parameters("features") != grown.plate.parameters("features")
    made = []
    for plate in (grown, changed):
        plate.run("normalise")
        put_into_store(plate.plate, "B03", {})
        take_stamps()
        made.append(labels_of(plate, name, "B03").tobytes())
    assert made[0] != made[1]


def test_a_frozen_window_stays_as_it_is_when_a_stain_is_added(grown: Planted, tmp_path: Path) -> None:
    plate = grown.copy(tmp_path)
    before = json.loads(plate.paths.window.read_text())
    sets = GROWN | {"more": {"propagate": {"from": "nuclei", "channels": ["Marker", "AGP"]}}}
    added = plate.copy(tmp_path / "added", segmentation=sets)
    for well in ("B04", "B05", "C03"):  # without which limits would be others
        gone = Entry(well=well, fingerprint="new", state="quarantined", reason="nan", sequence=9)
        append_outcome(added.paths.journal("tile", "0"), gone)
    assert not added.plate.has_frozen_window()
    assert ("tile", "0") in PlateAsked(added.plate).waits_for("normalise", "plate"), (
        "its counts are of tiles that are done"
    )
    added.run("normalise")
    assert added.plate.has_frozen_window()
    after = json.loads(added.paths.window.read_text())
    assert after["thresholds"].keys() == {"AGP", "Marker"}
    kept = {key: value for key, value in after.items() if key != "thresholds"}
    assert kept == {key: value for key, value in before.items() if key != "thresholds"}
    assert {"AGP": after["thresholds"]["AGP"]}.items() <= before["thresholds"].items()
    added.paths.window.unlink()
    added.run("normalise")
    assert json.loads(added.paths.window.read_text()) == after, "written again from the journal"
    with pytest.raises(ResultsError, match="no threshold of DNA"):
        load_window(added.paths).stain("DNA")


def test_a_stain_that_no_field_shows_is_asked_again_and_is_a_doubt(
    grown: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = GROWN | {"more": {"propagate": {"from": "nuclei", "channels": ["Marker"]}}}
    plate = grown.copy(tmp_path, segmentation=sets)
    with monkeypatch.context() as none:
        none.setattr(normalise, "_plate_counts", lambda job: {})  # as if no well with it had come
        plate.run("normalise")
    window = load_window(plate.paths)
    assert window.content["thresholds"]["Marker"] is None
    assert window.stain("Marker")[2] > 65535
    (doubt,) = window.doubts({})
    assert doubt.startswith("no field that counts shows Marker")
    assert not plate.plate.has_frozen_window()
    append_outcome(
        plate.paths.journal("tile", "0"),
        dataclasses.replace(plate.plate.outcomes("tile")["B02", "", -1], fingerprint="more"),
    )
    plate.run("normalise")
    window = load_window(plate.paths)
    assert window.content["thresholds"]["Marker"] > 0
    assert window.doubts({}) == []
    assert plate.plate.has_frozen_window()


def test_the_threshold_is_that_of_minimum_cross_entropy_above_the_dark_level() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(300, 8, 50_000), rng.normal(900, 150, 8_000)]).round().astype(int)
    counts = np.bincount(values, minlength=65536)
    dark = np.sort(values)[int(np.ceil(len(values) / 100)) - 1]
    shifted = np.maximum(values - dark, 0).astype(float)

    def entropy(level: float) -> float:
        low, high = shifted[shifted <= level], shifted[shifted > level]
        return -sum(part.sum() * np.log(part.mean()) for part in (low, high))

    best = min(range(1, 900), key=entropy)
    assert cell_threshold(counts) == dark + best
    assert 330 < cell_threshold(counts) < 600
    assert cell_threshold(np.roll(counts, 1000)) == cell_threshold(counts) + 1000, "a camera's offset moves it"
    assert cell_threshold(np.bincount([7] * 10, minlength=256)) == 7, "nothing is above"


def test_micrometres_need_the_size_of_a_pixel(grown: Planted) -> None:
    with pytest.raises(ConfigError, match=r"cells grow by micrometres[\s\S]*segmentation.cells[\s\S]*pixel_size_um"):
        check_grown(grown.config, {"plate": "demo", "pixel_size_um": None})
    with pytest.raises(ConfigError, match=r"cells grow by .*the sides of a pixel differ[\s\S]*0.6 and 0.7 µm"):
        check_grown(grown.config, {"plate": "demo", "pixel_size_um": [0.6, 0.7]})
    through = Config.model_validate({"segmentation": {name: GROWN[name] for name in ("nuclei", "spread")}})
    check_grown(through, {"plate": "demo", "pixel_size_um": None})


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({"expand": {"from": "nuclei", "um": 0.59}}, False),
        ({"expand": {"from": "nuclei", "um": 0.6}}, True),
        ({"ring": {"from": "nuclei", "inner_um": 0, "outer_um": 0.59}}, False),
        ({"ring": {"from": "nuclei", "inner_um": 1, "outer_um": 1.1}}, False),  # 1.67 to 1.83 px
        ({"ring": {"from": "nuclei", "inner_um": 0.6, "outer_um": 0.9}}, True),  # diagonally, 1.41 px
        ({"ring": {"from": "nuclei", "inner_um": 100, "outer_um": 100.01}}, True),
    ],
)
def test_a_rule_that_reaches_no_pixel_is_refused(rule: dict, fits: bool) -> None:
    config = Config.model_validate({"segmentation": {"nuclei": GROWN["nuclei"], "halo": rule}})
    key = "outer_um" if "ring" in rule else "um"
    said = pytest.raises(ConfigError, match=rf"no pixel lies .* an object[\s\S]*0.6 µm wide[\s\S]*raise {key}")
    with nullcontext() if fits else said:
        check_grown(config, {"plate": "demo", "pixel_size_um": [0.6, 0.6]})


def test_corrections_of_the_source_are_grown_and_their_own_stand(grown: Planted, tmp_path: Path) -> None:
    plate = grown.copy(tmp_path)
    folder = tmp_path / "nuclei"
    give_back(plate, "nuclei", folder, lambda labels: np.where(labels == labels.max(), 0, labels))
    plate.run("features")
    nuclei, cells = labels_of(plate, "nuclei_corrected"), labels_of(plate, "cells")
    assert nuclei.max() < labels_of(plate, "nuclei").max()
    np.testing.assert_array_equal(cells, grow_evenly(nuclei, radius=5))
    give_back(plate, "cells", tmp_path / "cells", lambda labels: np.where(labels == 1, 0, labels))
    plate.run("features")
    np.testing.assert_array_equal(labels_of(plate, "cells"), cells)
    table = plate.cells("B02")
    assert 1 not in set(table["ObjectNumber"])
    assert (table["Nuclei_Number_Object_Number"] == table["ObjectNumber"]).all(), "by overlap now"
    entry = plate.plate.outcomes("features").required("B02")
    assert entry.info["corrected"] == ["cells", "nuclei"]
    with pytest.raises(PlateflowError, match="rings follow from the objects that they lie round"):
        give_back(plate, "halo", tmp_path / "halo", lambda labels: labels * 2)


def test_labels_that_the_table_of_their_objects_lacks_are_an_error_that_names_them(
    grown: Planted, tmp_path: Path
) -> None:
    plate = grown.copy(tmp_path)
    objects = plate.paths.objects("nuclei", "B02")
    pd.read_parquet(objects).iloc[2:-2].to_parquet(objects)
    with pytest.raises(ResultsError, match=r"labels of nuclei hold objects[\s\S]*demo/B02[\s\S]*plateflow verify demo"):
        put_into_store(plate.plate, "B02", {})


def give_back(plate: Planted, label_set: str, folder: Path, change) -> None:
    """Export the labels of B02 for napari, change them, import them."""
    export_images(plate.plate, "napari", "B02", label_set, folder)
    items = list(read_items(folder))
    changed = change(items[0].read())
    import_items(plate.plate, [_Changed(items[0], changed)], by="ada", split=False)


class _Changed:
    """An item whose labels somebody has changed."""

    def __init__(self, item, labels: np.ndarray) -> None:
        self._item, self._labels = item, labels

    def read(self) -> np.ndarray:
        return self._labels

    def __getattr__(self, name: str) -> object:
        return getattr(self._item, name)


def test_a_label_set_of_the_network_that_is_made_from_another_and_back_is_made_anew(
    grown: Planted, tmp_path: Path
) -> None:
    plate = small_plate(tmp_path / "usual")
    true = labels_of(plate, "cells")
    other = plate.copy(tmp_path / "other", segmentation=GROWN, features=MINIMAL)
    other.run("ingest", "normalise", "features", "aggregate")
    assert not np.array_equal(labels_of(other, "cells"), true)
    back = other.copy(tmp_path / "back", segmentation=LABEL_SETS, features=MINIMAL)
    back.run("ingest")
    assert not labels_of(back, "cells").any(), "so stitch, whose files are gone, does them again"


def test_one_to_one_keeps_pairs_alone_and_says_how_many_had_no_partner(grown: Planted, tmp_path: Path) -> None:
    usual = small_plate(tmp_path / "usual")
    usual = usual.copy(tmp_path / "apart", features=MINIMAL)
    lonely = labels_of(usual, "nuclei")
    lonely[lonely <= 3] = 0
    put(usual, "nuclei", lonely)
    usual.run("features", "aggregate")
    sets = {"nuclei": LABEL_SETS["nuclei"], "cells": LABEL_SETS["cells"] | {"match": "one_to_one"}}
    paired = usual.copy(tmp_path / "paired", segmentation=sets, features=MINIMAL)
    paired.run("features", "aggregate")
    before, after = usual.cells("B02"), paired.cells("B02")
    pairs = before[before["Metadata_Match_Nuclei"] == "one_to_one"]
    assert 0 < len(pairs) < len(before)
    pd.testing.assert_frame_equal(after, pairs.reset_index(drop=True))
    assert len(pd.read_parquet(paired.paths.objects("cells", "B02"))) == len(before), "objects stay"
    info = paired.plate.outcomes("features").required("B02").info
    assert info["match"] == {"Nuclei": before["Metadata_Match_Nuclei"].value_counts().to_dict()}
    assert info["unmatched"]["Cells"] >= 3
    wells = [pd.read_csv(each.paths.table("wells.csv")).set_index("Metadata_Well") for each in (usual, paired)]
    for name in ("Metadata_Cells_Unmatched", "Metadata_Nuclei_Unmatched"):
        pd.testing.assert_series_equal(wells[0][name], wells[1][name])
    assert wells[1].loc["B02", "Metadata_Cells_Unmatched"] == pytest.approx(info["unmatched"]["Cells"] / len(before))
    assert wells[1].loc["B02", "Count_Cells"] == wells[1].loc["B02", "Count_Nuclei"] == len(after)
    assert paired.plate.parameters("stitch") == usual.plate.parameters("stitch")


def test_rows_stay_where_the_partners_of_a_pair_are_made_nowhere() -> None:
    config = Config.model_validate(
        {"segmentation": {"cells": {"channels": ["AGP"]}, "nuclei": {"channels": ["DNA"], "match": "one_to_one"}}}
    )
    table = pd.DataFrame(
        {
            "Metadata_Match_Nuclei": [None, None],
            "Cells_Parent_Nuclei": [np.nan] * 2,
            "Nuclei_Number_Object_Number": [np.nan] * 2,
        }
    )
    kept, info = one_to_one(table, config, {})
    assert len(kept) == 2
    assert info == {"match": {"Nuclei": {}}, "unmatched": {}}


@pytest.mark.parametrize("other", ["Mito", "Nuclei"])
def test_where_a_frame_lacks_the_other_set_no_object_of_it_is_without_a_partner(other: str) -> None:
    table = pd.DataFrame(
        {
            f"Metadata_Match_{other}": ["one_to_one", "none", None, None],
            f"{other}_Number_Object_Number": [1, np.nan, np.nan, np.nan],
            "Cells_Parent_Nuclei": [np.nan] * 4,
        }
    ).replace({"none": "anucleate" if other == "Nuclei" else "none"})
    assert unmatched_in(table, "Cells", other, {other: 2}) == {"Cells": 1, other: 2}


def test_without_rules_nothing_is_asked_that_was_not() -> None:
    spec = PlateSpec(plate="p", path="raw")
    config = Config.model_validate({"segmentation": LABEL_SETS})
    assert parameters(config, "features", spec).keys() == {
        *("rows", "families", "texture_scales", "label_sets"),
    }
    assert parameters(config, "ingest", spec)["label_sets"] == ["nuclei", "cells"]
    assert "thresholds" not in parameters(config, "normalise", spec)
