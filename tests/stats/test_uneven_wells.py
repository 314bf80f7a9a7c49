"""Wells with other channels, depths and times than the rest of their plate, from their images to the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from planted_plate import Planted

from plateflow.config import Config, PlateSpec
from plateflow.errors import ChannelError
from plateflow.images.well import WellImage
from plateflow.stages import stage_module
from plateflow.stages.job import Job

PATTERN = r"(?P<well>[A-P]\d\d)_s(?P<field>\d)_t(?P<t>\d)_z(?P<z>\d)_(?P<channel>\w+)\.tif"
LEVELS = {"AGP": 1000, "DNA": 2000, "GFP": 3000}
"""What an object adds to the background of 200."""
WELLS: dict[str, tuple[tuple[str, ...], int]] = {
    "A01": (("AGP", "DNA"), 1),
    "A02": (("AGP", "DNA", "GFP"), 1),
    "A03": (("DNA",), 1),
    "A04": (("AGP",), 1),
    "A05": (("AGP", "DNA"), 3),
}
"""Channels and z planes. Field 1 of A02 has no GFP, in which nothing is segmented."""


def write(root: Path, wells: dict[str, tuple[tuple[str, ...], int]] = WELLS, times: int = 1, **options: Any) -> Planted:
    """Nine square nuclei, and cells, in each of two fields of 48 px; planted, up to normalise."""
    (root / "raw").mkdir(parents=True)
    for well, (channels, depth) in wells.items():
        labels = np.zeros((times, depth, 48, 48 * 2 + 32), np.uint32)
        for number in range(18):
            y, x = 4 + number % 9 // 3 * 15, 4 + number % 3 * 15 + number // 9 * 80
            labels[..., y : y + 6, x : x + 6] = number + 1
        for field, channel in np.ndindex(2, len(channels)):
            own = (labels[0, 0, :, field * 80 : field * 80 + 48] > 0) * LEVELS[channels[channel]]
            for t, z in np.ndindex(times, depth):
                noise = np.random.default_rng([field, channel, t, z]).integers(195, 206, (48, 48))
                path = root / "raw" / f"{well}_s{field}_t{t}_z{z}_{channels[channel]}.tif"
                tifffile.imwrite(path, (own + noise).astype(np.uint16))
        flat = labels[:, :1]
        np.savez(root / f"{well}.npz", nuclei=flat, cells=flat)
    for name in options.pop("without", ()):
        (root / "raw" / name).unlink()
    settings: dict[str, Any] = {
        "results": str(root / "results"),
        "parts": {"cpu": 1, "gpu": 1},
        "levels": 2,
        "segmentation": {"nuclei": {"channels": ["DNA"]}, "cells": {"channels": ["AGP"]}},
        "features": {"families": ["area_shape", "intensity", "quality"], "rows": "nuclei"},
        "normalise": {"illumination": False},
        "stats": {"exclude_flags": []},
    } | options
    spec = PlateSpec(plate="p", path=str(root / "raw"), layout="pattern", pattern=PATTERN, pixel_size_um=1.0)
    planted = Planted(root=root, config=Config.model_validate(settings), entry=spec, truth=root)
    planted.run("ingest", "tile", "normalise")
    planted.label()
    return planted


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    planted = write(tmp_path_factory.mktemp("uneven"), without=["A02_s1_t0_z0_GFP.tif"])
    planted.run("features", "aggregate", "report")
    return planted


def items(planted: Planted, stage: str, job: str = "0") -> set[tuple[str, str]]:
    of_job = Job.of(planted.plate, stage, job)
    return {(item.well, item.label_set) for item in stage_module(stage).work_items(of_job)}


def test_an_image_has_the_channels_and_planes_of_its_well(uneven: Planted) -> None:
    shapes, named, sets = {}, {}, {}
    for well in WELLS:
        image = uneven.paths.image(well)
        shapes[well] = WellImage.open(uneven.paths, well).array("0").shape[:3]
        omero = json.loads((image / "zarr.json").read_text())["attributes"]["ome"]["omero"]
        named[well] = tuple(channel["label"] for channel in omero["channels"])
        listed = json.loads((image / "labels" / "zarr.json").read_text())["attributes"]["ome"]["labels"]
        sets[well] = {name: (image / "labels" / name).is_dir() for name in listed}
        assert len(list((image / "labels").iterdir())) == 1 + len(listed)
    assert shapes == {well: (1, len(channels), depth) for well, (channels, depth) in WELLS.items()}
    assert named == {well: channels for well, (channels, _) in WELLS.items()}
    both = {"nuclei": True, "cells": True}
    assert sets == {"A01": both, "A02": both, "A03": {"nuclei": True}, "A04": {"cells": True}, "A05": both}


def test_a_label_set_is_made_where_its_channels_are(uneven: Planted) -> None:
    every = {(well, name) for well in WELLS for name in ("nuclei", "cells")}
    assert items(uneven, "infer") == every - {("A03", "cells"), ("A04", "nuclei")}


def test_columns_of_what_a_well_lacks_are_nan(uneven: Planted) -> None:
    full, plain = uneven.cells("A02"), uneven.cells("A03")
    assert list(full) == list(plain) == list(uneven.cells("A05"))
    assert len(plain) == len(uneven.cells("A05")) == 18
    assert plain["Nuclei_Intensity_MeanIntensity_DNA"].to_numpy() * 65535 == pytest.approx(2200, abs=5)
    absent = [name for name in plain if name.startswith("Cells_") or name.endswith(("_AGP", "_GFP"))]
    assert absent and plain[absent].isna().all(axis=None) and plain["Metadata_Match_Cells"].isna().all()
    assert full["Cells_Intensity_MeanIntensity_AGP"].to_numpy() * 65535 == pytest.approx(1200, abs=5)


def test_a_field_goes_on_without_a_channel_that_no_label_set_needs(uneven: Planted) -> None:
    cells = uneven.cells("A02")
    gfp = cells.groupby("Metadata_Site")["Nuclei_Intensity_MeanIntensity_GFP"].agg(["count", "mean"])
    assert gfp["count"].to_dict() == {"0": 9, "1": 0}
    assert gfp["mean"]["0"] * 65535 == pytest.approx(3200, abs=5)
    entry = uneven.plate.outcomes("tile").required("A02")
    assert (entry.state, entry.fields, entry.info["lacking"]) == ("flagged", {"1 (GFP)": "missing"}, {"1": ["GFP"]})
    assert [(out.well, out.field) for out in uneven.plate.left_out() if out.stage == "tile"] == [("A02", "1 (GFP)")]
    quality = pd.read_parquet(uneven.paths.table("qc.parquet")).set_index(["Metadata_Well", "Metadata_Site"])
    of_field = quality.loc[("A02", "1")].set_index("Metadata_Channel")["State"]
    assert of_field.to_dict() == {"AGP": "ok", "DNA": "ok", "GFP": "quarantined"}


def test_tables_count_what_was_made_and_say_why_nothing_was(uneven: Planted) -> None:
    wells = pd.read_csv(uneven.paths.table("wells.csv")).set_index("Metadata_Well")
    assert wells["Count_Nuclei"].to_dict() == pytest.approx(dict.fromkeys(WELLS, 18) | {"A04": np.nan}, nan_ok=True)
    assert wells["Count_Cells"].to_dict() == pytest.approx(
        dict.fromkeys(WELLS, 18) | {"A03": np.nan, "A04": np.nan}, nan_ok=True
    )
    assert wells["Metadata_FieldsUsed"].to_dict() == dict.fromkeys(WELLS, 2) | {"A04": 0}
    assert (wells.loc["A04", "Metadata_State"], wells.loc["A04", "Metadata_Reason"]) == ("quarantined", "no_channel")
    assert wells.loc["A02", "Nuclei_Intensity_MeanIntensity_GFP"] * 65535 == pytest.approx(3200, abs=5)
    page = (uneven.paths.table("report.html")).read_text()
    assert "the well lacks a channel of DNA, in which nuclei are segmented" in page
    assert "1 well has no channel AGP, GFP" in page


def test_a_damaged_channel_that_nothing_needs_leaves_no_trace_in_the_others(tmp_path: Path) -> None:
    """The third plane of the channel is damaged: the well is done again, without the channel in that field alone."""
    wells = {"A01": (("AGP", "DNA", "GFP"), 3)}
    planted = write(tmp_path / "whole", wells)
    (tmp_path / "half").mkdir()
    path = tmp_path / "whole" / "raw" / "A01_s0_t0_z2_GFP.tif"
    path.write_bytes(path.read_bytes()[:600])
    planted = planted.copy(tmp_path / "half")
    planted.run("ingest", "tile", "normalise")
    image = WellImage.open(planted.paths, "A01").array("0")[0]
    assert image[2, :, :, :48].max() == 0
    assert image[2, :, :, 80:].max() > 3000 and image[:2, :, :, :48].max(axis=(1, 2, 3)).tolist() > [1000, 2000]


def test_planes_that_a_well_lacks_leave_it_out_not_the_plate(tmp_path: Path) -> None:
    planted = write(tmp_path, WELLS | {"A06": (("DNA",), 3)}, z="plane 2")
    tiles = planted.plate.outcomes("tile")
    assert {well: entry.reason for (well, *_), entry in tiles.items()} == {
        **dict.fromkeys(("A01", "A02", "A03", "A04"), "z_planes"),
        **dict.fromkeys(("A05", "A06"), ""),
    }
    assert "no plane 2 (counted from 0): the well has a single z plane" in tiles.required("A01").detail
    planted = Planted(planted.root, planted.config.model_copy(update={"z": "max"}), planted.entry, planted.truth)
    planted.run("ingest", "tile")
    assert {entry.state for entry in planted.plate.outcomes("tile").values()} == {"ok"}


def test_a_channel_that_was_not_taken_at_every_time_point(tmp_path: Path) -> None:
    """DNA at the first and the last of three time points: nuclei are there alone, and AGP is measured there."""
    without = [f"A0{n}_s{field}_t1_z0_DNA.tif" for n in (1, 2) for field in (0, 1)]
    wells = {"A01": (("AGP", "DNA"), 1), "A02": (("AGP", "DNA"), 1)}
    planted = write(tmp_path, wells, times=3, without=without)
    assert [canvas.t for canvas in planted.plate.canvases("A01", "nuclei")] == [0, 0, 2, 2]
    planted.run("features", "aggregate", "report")
    assert planted.cells("A01")["Metadata_Time"].value_counts().to_dict() == {0: 18, 2: 18}
    table = pd.read_csv(planted.paths.table("wells.csv"))
    assert table[["Metadata_Time", "Count_Nuclei"]].to_numpy().tolist() == [[0, 18], [2, 18]] * 2


def test_cells_at_other_time_points_than_nuclei_are_in_no_row(tmp_path: Path) -> None:
    without = ["A01_s0_t0_z0_DNA.tif", "A01_s1_t0_z0_DNA.tif", "A01_s0_t1_z0_AGP.tif", "A01_s1_t1_z0_AGP.tif"]
    planted = write(tmp_path, {"A01": (("AGP", "DNA"), 1)}, times=2, without=without)
    planted.run("features", "aggregate")
    cells = planted.cells("A01")
    assert cells["Metadata_Time"].tolist() == 18 * [1]
    assert cells["Cells_Number_Object_Number"].isna().all() and cells["Nuclei_Number_Object_Number"].notna().all()
    wells = pd.read_csv(planted.paths.table("wells.csv")).set_index("Metadata_Time")
    assert wells["Count_Nuclei"].to_dict() == {1: 18}
    assert np.isnan(wells.loc[1, "Metadata_Nuclei_Unmatched"])  # there is no cell to which one could belong


def test_a_label_set_that_no_well_can_have_is_refused(tmp_path: Path) -> None:
    segmentation = {"nuclei": {"channels": ["DNA"]}, "cells": {"channels": ["AGP", "DNA"]}}
    wells = {"A03": (("DNA",), 1), "A04": (("AGP",), 1)}
    with pytest.raises(ChannelError, match=r"(?s)no well has all of the channels AGP, DNA.*segmentation\.cells"):
        write(tmp_path, wells, segmentation=segmentation)


def test_other_channels_ask_ingest_for_other_label_sets(tmp_path: Path) -> None:
    planted = write(tmp_path, {"A01": (("AGP", "DNA"), 1), "A03": (("DNA",), 1)})
    assert not (planted.paths.image("A03") / "labels" / "cells").exists()
    segmentation = {name: {"channels": ["DNA"]} for name in ("nuclei", "cells")}
    config = Config.model_validate(planted.config.model_dump() | {"segmentation": segmentation})
    Planted(planted.root, config, planted.entry, planted.truth).run("ingest")
    assert (planted.paths.image("A03") / "labels" / "cells").is_dir()
