"""Real plates through the whole chain to labels, tables and report.

One as a user runs it: init, check, snakemake, status. The others in one process, stage after stage with the same jobs,
as a process a job would take most of the time.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from workflow_project import Project

from plateflow.chain import stages_of
from plateflow.cli.init import make_spec, write_project
from plateflow.config import Config, load_config
from plateflow.paths import PlatePaths
from plateflow.plates import open_plate
from plateflow.plates.check import check_plate
from plateflow.project import Plate
from plateflow.stages import run_stage


def chain(folder: Path, raw: Path, segmentation: dict[str, Any] | None = None, **options: Any) -> PlatePaths:
    """A plate through all stages, with the configuration that init writes but for the label sets given."""
    entry = make_spec(raw, **options)
    write_project(folder, entry, open_plate(entry))
    settings = load_config(folder / "config" / "config.yaml").model_dump()
    settings |= {"results": str(folder / "results"), "device": "cpu", "threads": 2, "parts": {"cpu": 1, "gpu": 1}}
    config = Config.model_validate(settings | ({"segmentation": segmentation} if segmentation else {}))
    assert not [problem for problem in check_plate(entry, config) if problem.severity == "error"]
    for stage in stages_of(config):
        run_stage(Plate(config=config, spec=entry), stage)
    paths = PlatePaths.of(entry.plate, results=config.results)
    assert paths.table("report.html").stat().st_size > 10_000
    return paths


def pixels(paths: PlatePaths, well: str) -> NDArray[Any]:
    """Level 0 of a well's image, t c z y x."""
    import zarr

    return zarr.open_array(paths.image(well) / "0", mode="r")[...]


def nuclei(paths: PlatePaths, well: str) -> NDArray[np.uint32]:
    """The labels of a well's nuclei, t z y x."""
    import zarr

    return zarr.open_array(paths.image(well) / "labels/nuclei/0", mode="r")[...]


def wells(paths: PlatePaths) -> Any:
    """The well table, by well, of the wells with images."""
    import pandas as pd

    table = pd.read_csv(paths.table("wells.csv")).set_index("Metadata_Well")
    return table[table["Metadata_State"] != "not_acquired"]


def test_an_imagexpress_plate(test_data, tmp_path):
    """Two wells of two fields that touch, two z steps. By eye: lone nuclei at these places, and a clump at the top."""
    import tifffile

    raw = test_data / "plates" / "imagexpress_singlechannel"
    paths = chain(tmp_path, raw)
    image = pixels(paths, "E07")
    assert image.shape == (1, 1, 2, 512, 1024)
    for field, x in ((1, 0), (2, 512)):
        (file,) = raw.rglob(f"ZStep_2/Projection-Mix_E07_s{field}[0-9A-F]*.tif")
        np.testing.assert_array_equal(image[0, 0, 1, :, x : x + 512], tifffile.imread(file))
    labels = nuclei(paths, "E07")[0, 0]
    lone = [labels[place] for place in ((112, 340), (181, 562), (422, 650), (127, 875))]
    assert all(lone) and len(set(lone)) == 4
    assert 15 <= labels.max() <= 60
    assert wells(paths)["Count_Nuclei"].between(15, 80).all()


def test_time_points_of_an_imagexpress_plate(test_data, tmp_path):
    """One well at 4x with two fields above each other and nothing in them. By eye: the well's rim is an arc whose top
    lies in the first field, at row 22, and whose bottom lies in the second, at row 469."""
    paths = chain(tmp_path, test_data / "plates" / "imagexpress_1well_3C_2S_Zmix_T", {"nuclei": {"channels": ["FITC"]}})
    image = pixels(paths, "C07")
    assert image.shape == (2, 3, 1, 512, 256)
    rows = image[0, 0, 0, :, 125:145].mean(1)
    assert abs(np.argmax(rows[:60] - np.linspace(rows[0], rows[59], 60)) - 24) < 8
    assert abs(np.argmax(rows[440:] - np.linspace(rows[440], rows[511], 72)) + 440 - 468) < 8
    labels = nuclei(paths, "C07")
    assert labels.shape == (2, 1, 512, 256)
    assert wells(paths)["Count_Nuclei"].tolist() == [np.count_nonzero(np.unique(plane)) for plane in labels]


def test_a_cytation_plate(test_data, tmp_path):
    """Three wells, names alone; nuclei are about 70 px wide. Beside the images lie CellProfiler's masks, without the
    nuclei that touch the border."""
    import tifffile
    from skimage.segmentation import clear_border

    raw = test_data / "plates" / "cytation_nf1_cellpainting"
    sets = {"nuclei": {"channels": ["DAPI"], "diameter_um": 70.0}}
    paths = chain(tmp_path, raw, sets, pixel_size_um=1.0)  # unknown: so in px
    assert json.loads(paths.metadata.read_text())["wells"] == ["D06", "F07", "H12"]
    for well, name in (("D06", "D6_01_1_2_DAPI_001"), ("F07", "F7_01_1_2_DAPI_001")):
        np.testing.assert_array_equal(
            pixels(paths, well)[0, 0, 0], tifffile.imread(raw / "Plate_2_images" / f"{name}.tif")
        )
        mask = tifffile.imread(raw / "Plate_2_masks" / f"{name}_MaskNuclei.tiff") > 0
        ours = clear_border(nuclei(paths, well)[0, 0]) > 0
        assert (mask & ours).sum() / (mask | ours).sum() > 0.9
    assert wells(paths)["Count_Nuclei"].between(20, 40).all()


def test_a_plate_of_cellprofiler_with_its_doses(test_data, tmp_path):
    """Seven wells of BBBC013's kind: with the dose a protein (channel 1) moves into the nuclei (channel 2)."""
    raw = test_data / "plates" / "cellprofiler_sbs_translocation"
    pattern = r"(?P<channel>Channel\d)-\d+-(?P<row>[A-P])-(?P<column>\d+)\.tif"
    sets = {"nuclei": {"channels": ["Channel2"]}}
    paths = chain(tmp_path, raw, sets, pattern=pattern, plate_map=raw / "1049_Metadata.csv")
    table = wells(paths)
    assert table.index.tolist() == ["A01", "A02", "A03", "A04", "A06", "A08", "A12"]
    assert table["Metadata_dose"].tolist() == [0, 0, 1, 2, 4, 6, 10]
    assert (table.loc["A01", "Metadata_role"], table.loc["A12", "Metadata_role"]) == ("negative", "positive")
    assert table["Count_Nuclei"].between(100, 450).all()
    share = table["Nuclei_Intensity_MeanIntensity_Channel1"] / [
        pixels(paths, well)[0, 0].mean() / 255 for well in table.index
    ]
    assert share.loc["A12"] > 1.2 * share.loc["A01"]


def test_an_omezarr_plate_tiled_again_and_in_place(test_data, tmp_path):
    """Two wells, of beads. By eye: one at row 28, column 324 and another at (182, 333) of E08; in E07, at half the
    size, a heap at the top with beads about it. Six of them, 5 px wide, stand alone: three are asked for; `default`
    misses those at (45, 351), (90, 280) and (64, 437), which are smaller than what it was trained on."""
    import zarr

    raw = test_data / "plates" / "omezarr_hcs_mobie" / "single-plane-hcs.zarr"
    sets = {"nuclei": {"channels": ["Maximum-Projection_FITC_05"]}}
    paths = chain(tmp_path, raw, sets)
    for well in ("E07", "E08"):
        source = zarr.open_array(raw / "E" / well[1:] / "0" / "0", mode="r")[...]
        np.testing.assert_array_equal(pixels(paths, well)[0, :, 0], source)
    labels = nuclei(paths, "E08")[0, 0]
    assert labels[28, 324] and labels[182, 333]
    assert 25 <= labels.max() <= 90
    small = nuclei(paths, "E07")[0, 0]
    lone = [small[place] for place in ((46, 226), (62, 321), (211, 324))]
    assert all(lone) and len(set(lone)) == 3
    assert 30 <= small.max() <= 125
    attributes = json.loads((paths.image("E08") / "zarr.json").read_text())["attributes"]["ome"]
    scale = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale[-2:] == [2.7336, 2.7336]
    there = chain(tmp_path / "there", raw, sets, layout="omezarr_in_place")
    for well in ("E07", "E08"):
        np.testing.assert_array_equal(nuclei(there, well), nuclei(paths, well))
        assert there.cells(well).read_bytes() == paths.cells(well).read_bytes()
        assert [path.name for path in there.image(well).glob("[0-9]")] == ["0"]  # the preview alone


def test_a_blank_cv8000_plate_ends_flagged_empty(test_data, tmp_path):
    """Three wells of four fields of 2000 px that touch, four z planes; every pixel is 0."""
    import pandas as pd

    sets = {"nuclei": {"channels": ["405"]}}
    paths = chain(tmp_path, test_data / "plates" / "yokogawa_cv8000", sets)
    image = json.loads((paths.image("D08") / "0" / "zarr.json").read_text())
    assert image["shape"] == [1, 2, 4, 4000, 4000]
    table = wells(paths)
    assert table["Metadata_State"].tolist() == ["flagged"] * 3
    assert table["Metadata_Flags"].tolist() == ["empty"] * 3
    assert table["Count_Nuclei"].tolist() == [0] * 3
    fields = pd.read_parquet(paths.table("qc.parquet"))
    assert len(fields) == 3 * 4 * 2
    assert set(fields["Flags"]) == {"empty"}


def test_a_phenix_plate(test_data, tmp_path):
    """One well, one field of 1080 px, six channels, Harmony 5. Over 20 s: 50 tiles of the network on 2 cores."""
    import pandas as pd
    import zarr

    raw = test_data / "plates" / "phenix_harmony5_BR00121482"
    project = Project(tmp_path)
    output = project.plateflow("init", str(raw), "--plate", "BR00121482")
    assert "harmony" in output
    assert "384 wells (16 x 24)" in output
    assert "0.5979 x 0.5979 um" in output or "0.598 x 0.598 um" in output
    checked = project.plateflow("check")
    assert "the vendor's flat field of Alexa 647, Alexa 568, 488 long, Alexa 488, HOECHST 33342" in checked
    assert checked.splitlines()[-1] == "1 note"
    project.snakemake()
    paths = project.path("BR00121482")
    info = json.loads(paths.metadata.read_text())
    assert info["wells"] == ["A01"]
    assert len(info["channels"]) == 6
    level0 = zarr.open_array(paths.image("A01") / "0", mode="r")
    assert level0.shape == (1, 6, 1, 1080, 1080)
    import tifffile

    planes = pd.read_parquet(paths.planes)
    for number, channel in enumerate(info["channels"]):
        (file,) = planes.loc[planes["channel"] == channel["name"], "path"]
        assert np.array_equal(level0[0, number, 0], tifffile.imread(raw / file))
    wells = pd.read_csv(paths.table("wells.csv")).iloc[0]
    # Nearly empty: four nuclei by eye, two of which stand alone, at these places; the one on the right in a round cell.
    assert 3 <= wells["Count_Nuclei"] <= 12
    assert 1 <= wells["Count_Cells"] <= 12
    nuclei = zarr.open_array(paths.image("A01") / "labels/nuclei/0", mode="r")[0, 0]
    assert nuclei[517, 240] and nuclei[432, 408] and nuclei[517, 240] != nuclei[432, 408]
    # Measured without the pipeline: 1,153 px of the raw plane lie above half way from its background to the plateau.
    assert abs(np.count_nonzero(nuclei == nuclei[517, 240]) / 1153 - 1) < 0.1
    cells = zarr.open_array(paths.image("A01") / "labels/cells/0", mode="r")[0, 0]
    assert cells[432, 408]
    assert np.mean(nuclei == 0) > 0.98
    assert project.plateflow("status", status=0)
