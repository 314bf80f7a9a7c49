"""Spots on a small plate: threshold, tables, columns, the store, and what is handed to other programs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted_plate import Planted

from plateflow.chain import background_of, parameters
from plateflow.config import Spots, load_config
from plateflow.errors import ChannelError, ConfigError
from plateflow.exchange.images import export_images, read_items
from plateflow.features.spots import DEVIATIONS
from plateflow.images.well import WellImage
from plateflow.report.spots import spots as on_page
from plateflow.report.view import View
from plateflow.segment.fits import check_spots
from plateflow.stages.features import measure_well
from plateflow.stages.spots import spot_doubts

SPOTS = {"foci": {"channel": "Marker", "within": "nuclei", "diameter_px": 4}}
LEAN = {"families": ["location", "quality"]}


@pytest.fixture(scope="module")
def spotted(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    made = planted.copy(tmp_path_factory.mktemp("spots"), spots=SPOTS, features=LEAN)
    made.run("normalise", "features", "aggregate")
    return made


def spots_of(plate: Planted, well: str, name: str = "foci") -> pd.DataFrame:
    return pd.read_parquet(plate.paths.spots(name, well))


def window_of(plate: Planted) -> dict:
    window: dict = json.loads(plate.paths.window.read_text())
    return window


def test_spots_lie_in_the_objects_that_they_name_and_rows_have_those_of_their_own(spotted: Planted) -> None:
    table, cells = spots_of(spotted, "B02"), spotted.cells("B02")
    labels = WellImage.open(spotted.paths, "B02").array("labels/nuclei/0")[0, 0]
    near = np.rint(table[["y_px", "x_px"]].to_numpy()).astype(int)
    assert (labels[near[:, 0], near[:, 1]] == table["label"]).mean() > 0.97  # a vertex may be half a pixel off
    assert table["spot"].tolist() == list(range(1, len(table) + 1))
    np.testing.assert_allclose(table[["y_um", "x_um"]], table[["y_px", "x_px"]] * 0.6)
    assert set(table["site"]) == {"1", "2"}
    counts = table["label"].value_counts()
    wanted = cells["Nuclei_Number_Object_Number"].map(lambda n: np.nan if np.isnan(n) else counts.get(n, 0))
    np.testing.assert_array_equal(cells["Nuclei_Children_Foci_Count"], wanted)
    assert wanted.sum() > 0
    means = table.groupby("label")["border_px"].mean().reindex(cells["Nuclei_Number_Object_Number"])
    np.testing.assert_allclose(cells["Nuclei_Mean_Foci_Distance_Minimum_Nuclei"], means, rtol=1e-5)
    kept = spotted.plate.outcomes("features").required("B02").info["spots"]["foci"]
    assert (kept["spots"], kept["objects"]) == (len(table), len(np.unique(labels)) - 1)
    assert (table["quality"] >= window_of(spotted)["spots"]["foci"]["threshold"]).all()
    assert sum(kept["quality"]) > len(table)  # what lies below the threshold, too
    assert len(spots_of(spotted, "B06")) == 0
    assert not spotted.paths.spots("foci", "C02").exists()


def test_the_dictionary_and_the_well_table_have_them(spotted: Planted) -> None:
    known = json.loads(spotted.paths.table("features.json").read_text())
    column = known["Nuclei_Children_Foci_IntegratedIntensity_Marker"]
    assert (column["family"], column["channel"], column["compartment"]) == ("spots", "Marker", "Nuclei")
    wells = pd.read_parquet(spotted.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert wells.at["B02", "Nuclei_Children_Foci_Count"] == spotted.cells("B02")["Nuclei_Children_Foci_Count"].median()


def test_the_threshold_is_the_plates_and_leaves_the_window_as_it_was(planted: Planted, spotted: Planted) -> None:
    before, window = window_of(planted), window_of(spotted)
    found = window.pop("spots")["foci"]
    assert window == before
    assert found["threshold"] == pytest.approx(found["background"] + DEVIATIONS * found["deviation"])
    assert found["fields"] == 5  # of the wells with objects; one per well
    assert spotted.plate.has_frozen_window()
    same = spotted.journal("normalise")
    spotted.run("normalise", "features")
    assert spotted.journal("normalise") == same


def test_it_stays_frozen_whatever_becomes_of_wells_until_freeze_rises(spotted: Planted, tmp_path: Path) -> None:
    mine = spotted.copy(tmp_path)
    content = window_of(mine)
    content["spots"]["foci"]["threshold"] = 1.0  # as if it had been frozen from other wells
    mine.paths.window.write_text(json.dumps(content))
    assert mine.plate.has_frozen_window()
    table, _ = measure_well(mine.plate, "B02")
    assert table["Nuclei_Children_Foci_Count"].sum() == 0
    raised = mine.copy(tmp_path / "raised", normalise={"freeze": 2})
    assert not raised.plate.has_frozen_window()
    raised.run("normalise")
    assert window_of(raised)["spots"] == window_of(spotted)["spots"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"diameter_px": 5}),
        ({}, {"diameter_px": None, "diameter_um": 2.4}),
        ({"diameter_px": None, "diameter_um": 2.4}, {"diameter_px": None, "diameter_um": 3.0}),
        ({}, {"channel": "AGP"}),
        ({}, {"within": "cells"}),
        ({"threshold": 0.002}, {}),
    ],
)
def test_a_setting_that_changes_asks_the_plate_again(
    planted: Planted, tmp_path: Path, before: dict, after: dict
) -> None:
    first = planted.copy(tmp_path / "first", spots={"foci": SPOTS["foci"] | before})
    first.run("normalise")
    assert first.plate.has_frozen_window()
    changed = first.copy(tmp_path / "changed", spots={"foci": SPOTS["foci"] | after})
    assert not changed.plate.has_frozen_window()
    changed.run("normalise")
    assert changed.plate.has_frozen_window()
    assert window_of(changed)["spots"]["foci"]["settings"] == changed.plate.parameters("normalise")["spots"]["foci"]
    assert window_of(changed)["spots"] != window_of(first).get("spots")


def test_a_set_of_spots_with_another_name_is_asked_for_and_one_that_goes_is_forgotten(
    spotted: Planted, tmp_path: Path
) -> None:
    renamed = spotted.copy(tmp_path, spots={"dots": SPOTS["foci"]})
    assert not renamed.plate.has_frozen_window()
    renamed.run("normalise")
    assert window_of(renamed)["spots"] == {"dots": window_of(spotted)["spots"]["foci"]}


def test_a_corrected_pixel_size_asks_for_spots_of_as_many_pixels_as_they_have_now(
    planted: Planted, tmp_path: Path
) -> None:
    spots = {"foci": SPOTS["foci"] | {"diameter_px": None, "diameter_um": 2.4}}
    mine = planted.copy(tmp_path, spots=spots)
    mine.run("normalise")
    before = window_of(mine)
    corrected = dataclasses.replace(mine, entry=mine.entry.model_copy(update={"pixel_size_um": 0.4}))
    corrected.run("ingest", "tile")
    assert not corrected.plate.has_frozen_window()
    corrected.run("normalise")
    after = window_of(corrected)
    assert (before["spots"]["foci"]["diameter_px"], after["spots"]["foci"]["diameter_px"]) == pytest.approx((4, 6))
    assert after["spots"]["foci"]["threshold"] != before["spots"]["foci"]["threshold"]
    assert after["channels"] == before["channels"]


@pytest.mark.parametrize("z", ["max", "mean", "keep", "plane 1"])
def test_the_background_is_of_the_planes_that_are_read(planted: Planted, z: str) -> None:
    config = planted.config.model_copy(update={"z": z})
    assert background_of(config, Spots(**SPOTS["foci"])) == {
        **{"channel": "Marker", "diameter_px": 4, "seen": "DNA", "z": z},
    }


def test_the_background_is_that_of_where_grown_objects_lie(planted: Planted, tmp_path: Path) -> None:
    sets = {
        "nuclei": {"channels": ["DNA"]},
        "cells": {"expand": {"from": "nuclei", "um": 3}},
        "halo": {"ring": {"from": "nuclei", "inner_um": 0.6, "outer_um": 2.4}},
        "spread": {"propagate": {"from": "nuclei", "channels": ["AGP"]}},
        "rim": {"ring": {"from": "cells", "inner_um": 0, "outer_um": 1.2}},
    }
    spots = {f"in{name}": SPOTS["foci"] | {"within": name} for name in sets}
    mine = planted.copy(tmp_path, segmentation=sets, spots=spots)
    mine.run("ingest", "normalise")
    found = {name.removeprefix("in"): each for name, each in window_of(mine)["spots"].items()}
    assert {name: each.get("grown_px") for name, each in found.items()} == {
        "nuclei": None,
        "cells": [[5, -1]],
        "halo": [[4, 1]],
        "spread": None,
        "rim": [[5, -1], [2, 0]],
    }
    assert [found[name]["settings"]["seen"] for name in sets] == ["DNA", "DNA", "DNA", "AGP", "DNA"]
    assert found["cells"]["threshold"] > 1.5 * found["nuclei"]["threshold"], "the cytoplasm has more texture"
    assert found["halo"]["fields"] == found["nuclei"]["fields"] + 1  # too few pixels in each: they count together
    assert found["halo"]["threshold"] > 2 * 0.0008, "that of whole fields, mostly empty"
    wider = mine.copy(tmp_path / "wider", segmentation=sets | {"cells": {"expand": {"from": "nuclei", "um": 4}}})
    assert not wider.plate.has_frozen_window()


GIVEN = SPOTS["foci"] | {"threshold": 0.002}


@pytest.mark.parametrize(
    "change",
    [
        {"channel": "DNA"},
        {"within": "cells"},
        {"diameter_px": 7},
        {"diameter_px": None, "diameter_um": 3.0},
        {"threshold": 0.001},
    ],
)
def test_each_key_changes_what_is_found(planted: Planted, tmp_path: Path, change: dict) -> None:
    mine = planted.copy(tmp_path / "a", spots={"foci": GIVEN}, features=LEAN)
    other = planted.copy(tmp_path / "b", spots={"foci": GIVEN | change}, features=LEAN)
    for each in (mine, other):
        measure_well(each.plate, "B03")
    assert len(spots_of(mine, "B03")) > 0
    assert not spots_of(mine, "B03")[["y_px", "quality"]].equals(spots_of(other, "B03")[["y_px", "quality"]])
    assert mine.plate.parameters("features") != other.plate.parameters("features")


def test_plates_without_spots_are_asked_for_what_they_were(planted: Planted) -> None:
    for stage in ("normalise", "features"):
        assert "spots" not in planted.plate.parameters(stage)
    given = planted.config.model_validate(planted.config.model_dump() | {"spots": {"foci": GIVEN}})
    assert "spots" not in parameters(given, "normalise", planted.entry)  # a number needs no background


def test_ngio_finds_them_and_they_go_with_their_name(spotted: Planted, tmp_path: Path) -> None:
    ngio = pytest.importorskip("ngio")
    mine = spotted.copy(tmp_path)
    image = ngio.open_ome_zarr_container(str(mine.paths.image("B02")))
    assert sorted(image.list_tables()) == ["cells", "fields", "foci"]
    table = image.get_table("foci").dataframe
    pd.testing.assert_frame_equal(table.reset_index()[[*spots_of(mine, "B02")]], spots_of(mine, "B02"))
    renamed = mine.copy(tmp_path / "renamed", spots={"dots": GIVEN})
    renamed.run("features", "aggregate")
    assert not renamed.paths.spots("foci", "B02").exists()
    image = ngio.open_ome_zarr_container(str(renamed.paths.image("B02")))
    assert sorted(image.list_tables()) == ["cells", "dots", "fields"]
    assert not (renamed.paths.image("B02") / "tables" / "foci").exists()


def test_napari_is_given_them_as_points(spotted: Planted, tmp_path: Path) -> None:
    export_images(spotted.plate, "napari", "B02", "nuclei", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "plateflow.json").read_text())
    assert index["spots"] == {"foci": 4}
    assert index["channels"] == ["DNA", "Marker"]
    (item,) = read_items(tmp_path / "out")
    name = item.file.name.removesuffix("_labels.tif")
    points = pd.read_csv(tmp_path / "out" / f"{name}_foci.csv")
    assert points.columns.tolist() == ["index", "axis-0", "axis-1"]
    np.testing.assert_allclose(points[["axis-0", "axis-1"]], spots_of(spotted, "B02")[["y_px", "x_px"]], atol=1e-3)
    labels = item.read()
    assert (labels[tuple(np.rint(points[["axis-0", "axis-1"]].to_numpy()).astype(int).T)] > 0).mean() > 0.97


def test_a_threshold_that_does_not_fit_the_objects_is_a_doubt(spotted: Planted) -> None:
    found = spotted.plate.outcomes("aggregate").required().info["spots"]
    wells = spotted.plate.outcomes("features").values()
    between = [
        kept["background"] for each in wells if "background" in (kept := each.info.get("spots", {}).get("foci", {}))
    ]
    median, deviation = (np.median([each[key] for each in between]) for key in ("median", "deviation"))
    assert found["foci"]["asked"] == pytest.approx(median + DEVIATIONS * deviation)
    assert spot_doubts("demo", {"foci": found["foci"] | {"threshold": 1.4 * found["foci"]["asked"]}}) == []
    (line,) = spot_doubts("demo", {"foci": found["foci"] | {"threshold": 3 * found["foci"]["asked"]}})
    assert f"`threshold: {found['foci']['asked']:.3g}`" in line


def test_the_page_says_how_many_and_where_the_threshold_is_from(spotted: Planted) -> None:
    (shown,) = on_page(View.read(spotted.plate))
    wells = ["B02", "B03", "B04", "B05", "B06", "C03"]
    assert shown["spots"] == sum(len(spots_of(spotted, well)) for well in wells)
    assert "from 5 fields" in shown["threshold"]
    assert shown["chart"]["layer"][1]["data"]["values"][0]["from"] == pytest.approx(
        window_of(spotted)["spots"]["foci"]["threshold"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("spots", "said"),
    [
        ({"foci": {"channel": "GFP", "within": "nuclei"}}, "once"),
        ({"foci": {"channel": "GFP", "within": "nuclei", "diameter_um": 1, "diameter_px": 3}}, "once"),
        ({"foci": {"channel": "GFP", "within": "nucleoli", "diameter_um": 1}}, "not a label set"),
        ({"Nuclei": {"channel": "GFP", "within": "nuclei", "diameter_um": 1}}, "something else"),
        ({"a_b": {"channel": "GFP", "within": "nuclei", "diameter_um": 1}}, "letters and digits"),
        ({"foci": {"chanel": "GFP", "within": "nuclei", "diameter_um": 1}}, "did you mean 'channel'"),
        ({"foci": {"channel": "GFP", "within": "nuclei", "diameter_um": 1, "threshold": "otsu"}}, "threshold"),
        ({"share": {"channel": "GFP", "within": "nuclei", "diameter_um": 1}}, "something else"),
        ({"foci": {"channel": "GFP", "within": "nuclei", "diameter_um": True}}, "diameter_um: true is no number"),
        ({"foci": {"channel": "GFP", "within": "nuclei", "diameter_px": 65}}, "less than or equal to 64"),
        *(
            ({"foci": {"channel": "GFP", "within": "nuclei", "diameter_um": 1, "threshold": value}}, "up to 1, as")
            for value in (0, 1.5, 100, True)
        ),
    ],
)
def test_what_the_configuration_refuses(spots: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config({"spots": spots})


def test_volumes_and_what_a_plate_can_not_show_are_refused(planted: Planted) -> None:
    nuclei = {"channels": ["DNA"], "dimensions": 3}
    with pytest.raises(ConfigError, match="volumes"):
        load_config({"z": "keep", "segmentation": {"nuclei": nuclei}, "spots": SPOTS})
    metadata = planted.plate.metadata

    def refused(change: dict, **more: object) -> None:
        config = planted.config.model_validate(
            planted.config.model_dump() | {"spots": {"foci": SPOTS["foci"] | change}}
        )
        check_spots(config, metadata | more)

    with pytest.raises(ChannelError, match="GFP"):
        refused({"channel": "GFP"})
    um = {"diameter_px": None, "diameter_um": 1.0}
    with pytest.raises(ConfigError, match="too small"):
        refused(um)
    with pytest.raises(ConfigError, match="pixel size"):
        refused(um, pixel_size_um=None)
    with pytest.raises(ConfigError, match=r"spots of 66\.7 px are too large"):
        refused(um | {"diameter_um": 40.0})
    with pytest.raises(ConfigError, match=r"sides of a pixel differ[\s\S]*0.6 and 0.65 µm[\s\S]*diameter_px instead"):
        refused(um | {"diameter_um": 3.0}, pixel_size_um=[0.6, 0.65])
    refused(um | {"diameter_um": 3.0}, pixel_size_um=[0.6, 0.603])


def test_a_channel_that_a_plate_lacks_is_refused_before_the_network_runs(planted: Planted, tmp_path: Path) -> None:
    mine = planted.copy(tmp_path, spots={"foci": SPOTS["foci"] | {"channel": "GFP", "threshold": 0.002}})
    with pytest.raises(ChannelError, match="GFP"):
        mine.run("ingest")
