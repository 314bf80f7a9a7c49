"""Real plates through the whole chain, as a user would run them: init, check, snakemake, status."""

import json

import numpy as np
from workflow_project import Project


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
    assert project.plateflow("check").strip() == "No problem found."
    project.snakemake()
    paths = project.path("BR00121482")
    info = json.loads(paths.info.read_text())
    assert info["wells"] == ["A01"]
    assert len(info["channels"]) == 6
    level0 = zarr.open_array(paths.image("A01") / "0", mode="r")
    assert level0.shape == (1, 6, 1, 1080, 1080)
    import tifffile

    planes = pd.read_parquet(paths.planes)
    for number, channel in enumerate(info["channels"]):
        (file,) = planes.loc[planes["channel"] == channel["name"], "path"]
        assert np.array_equal(level0[0, number, 0], tifffile.imread(file))
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
