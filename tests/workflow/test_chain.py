"""One run of the whole chain: what lies there afterwards, and whether others can read it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vendors import PatternLayout
from workflow_project import MICRO, REPOSITORY

from plateflow.segment.scratch import open_flows
from plateflow.simulate.plate import simulate_plate


def test_the_store_is_valid_and_read_by_others(project):
    import zarr
    from ngio import open_ome_zarr_plate
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr_models.v05 import HCS

    store = project.path().store
    HCS.from_zarr(zarr.open_group(store, mode="r"))
    command = [str(Path(sys.executable).with_name("ome-zarr-models")), "validate", str(store)]
    validated = subprocess.run(command, check=False, capture_output=True, text=True)
    assert validated.returncode == 0, validated.stdout + validated.stderr

    plate = open_ome_zarr_plate(store)
    assert sorted(plate.wells_paths()) == ["B/02", "B/03"]
    image = plate.get_image(row="B", column=2, image_path="0")
    assert image.list_labels() == ["cells", "nuclei"] or image.list_labels() == ["nuclei", "cells"]
    assert image.get_image(path="0").shape[-2:] == (128, 320)
    fields = image.get_table("fields")
    assert len(fields.dataframe) == 2

    nodes = list(Reader(parse_url(project.path().image("B02")))())
    assert nodes[0].data[0].shape == (1, 2, 1, 128, 320)

    raw = zarr.open_array(project.path().image("B02") / "0", mode="r")
    import tifffile

    left = tifffile.imread(project.raw("B02"))
    assert np.array_equal(raw[0, 0, 0, :, :160], left), "level 0 is raw, pixel for pixel"


def test_labels_tables_and_objects_agree(project):
    import pandas as pd
    import zarr

    paths = project.path()
    wells = pd.read_csv(paths.table("wells.csv")).set_index("Metadata_Well")
    for well in ("B02", "B03"):
        labels = zarr.open_array(paths.image(well) / "labels" / "cells" / "0", mode="r")[0, 0]
        cells = pd.read_parquet(paths.cells(well))
        objects = pd.read_parquet(paths.objects("cells", well))
        assert labels.dtype == np.uint32
        numbers = np.unique(labels[labels > 0])
        assert numbers.tolist() == list(range(1, len(objects) + 1)) == cells["ObjectNumber"].tolist()
        assert np.bincount(labels.ravel())[1:].tolist() == cells["Cells_AreaShape_Area"].tolist()
        assert wells.loc[well, "Count_Cells"] == len(cells) > 5
        assert set(cells["Metadata_Site"]) == {"1", "2"}
        for y, x, number in objects[["seed_y", "seed_x", "label"]].itertuples(index=False):
            near = labels[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            assert number in near
    assert wells.loc["B03", "Metadata_treatment"] == "compound-1"


def test_no_cell_is_cut_where_two_fields_meet(project):
    """Fields that touch are one canvas: objects lie on both sides of the border, in one piece."""
    import zarr

    crossing = 0
    for well in ("B02", "B03"):
        for name in ("nuclei", "cells"):
            labels = zarr.open_array(project.path().image(well) / "labels" / name / "0", mode="r")[0, 0]
            crossing += len(set(labels[:, 159]) & set(labels[:, 160]) - {0})
    assert crossing >= 3


def test_flows_are_float16_in_the_documented_layout(project):
    flows = open_flows(project.path().flows("cells", "B02", 0), 0)
    assert flows.dtype == np.float16
    assert flows.shape == (3, 128, 320)


def test_receipts_hold_no_clock(project):
    """Names too, but for the tiles from which the window was made: of a frozen one only its receipt tells them."""

    def receipts():
        paths = project.path().root.glob("receipts/*/*.json")
        return {(path.parent.name, path.name.partition(".")[0]): path.read_bytes() for path in paths}

    before = receipts()
    assert len(before) == 2 * 3 + 1 + 4
    names = {path.name for path in project.path().root.glob("receipts/[it]*/*.json")}
    for path in project.path().root.glob("receipts/*/*.json"):
        path.unlink()
    project.run()
    assert receipts() == before
    after = {path.name for path in project.path().root.glob("receipts/[it]*/*.json")}
    assert len(after & names) == 3, "ingest and both parts of tile"


def test_the_page_is_one_file_that_asks_for_nothing(project):
    page = project.path().table("report.html").read_text()
    assert "<html" in page
    for asks in ('src="http', "src='http", "<link", "@import", "url(http"):
        assert asks not in page
    outside = re.findall(r'<(\w+)[^<>]* href="http', page)
    assert set(outside) == {"a"}, "links to the viewer are followed by a click alone"
    assert "default" in page or "tiny" in page
    assert (project.folder / "results/screen/index.html").exists()


def test_status_is_complete(project):
    output = project.plateflow("status", status=0)
    assert "to do" not in output
    assert "stitch" in project.plateflow("status", "micro/B02")
    assert "features: B02" in project.plateflow("status", "micro/B02", "--log"), "the job that did the well last"


def test_a_flat_folder_by_pattern_gives_the_same_pixels(project, tmp_path):
    """The same wells written with another layout: other names, no positions, so fields lie in a grid with a gap."""
    import zarr

    made = simulate_plate(project.folder / "flat", layout=PatternLayout, plate="flat", **MICRO)
    pattern = r"(?P<well>[A-P]\d\d)_s(?P<field>\d+)_w(?P<channel>\d)\.tif"
    project.plateflow("init", str(made.raw), "--plate", "flat", "--pattern", pattern, "--pixel-size-um", "0.6")

    def channels(config):
        config["segmentation"]["nuclei"]["channels"] = ["1"]
        config["segmentation"]["cells"]["channels"] = ["2", "1"]

    output = project.snakemake("--retries", "0", status=1)
    assert "the channels are '1', '2'" in output, "a channel that the plate lacks is named beside those it has"
    (project.folder / "config/plates.tsv").write_text(
        "".join(
            line
            for line in (project.folder / "config/plates.tsv").read_text().splitlines(keepends=True)
            if not line.startswith("micro")
        )
    )
    project.configure(channels)
    project.run()
    left = slice(0, 160)
    for level0 in ("0",):
        mine = zarr.open_array(project.path("flat").image("B02") / level0, mode="r")
        theirs = zarr.open_array(project.path().image("B02") / level0, mode="r")
        assert np.array_equal(mine[..., left], theirs[..., left])
        assert mine.shape[-1] > theirs.shape[-1]


@pytest.mark.parametrize("name", ["window.json", "plate.json"])
def test_the_manifest_is_readable_json(project, name):
    content = json.loads((project.path().root / "manifest" / name).read_text())
    assert content


def test_the_snakefile_is_lint_clean(project):
    assert "good condition" in project.snakemake("--lint")
    assert (REPOSITORY / "Snakefile").exists()
