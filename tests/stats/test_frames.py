"""Time points, and planes that are kept in 2D: each is counted, compared and shown by itself."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from page_map import map_of
from planted_plate import Planted
from simulated_wells import well_table

from plateflow.config import Config, PlateSpec, Stats
from plateflow.errors import ConfigError
from plateflow.paths import PlatePaths
from plateflow.project import Project
from plateflow.report.screen import write_screen
from plateflow.stats.doses import four_parameters
from plateflow.stats.statistics import write_statistics
from plateflow.stats.wells import well_table as joined
from plateflow.tables import read_table

ROLES = {f"A{n:02d}": "negative" for n in range(1, 7)} | {f"B{n:02d}": "positive" for n in range(1, 4)}
ROLES |= {f"B{n:02d}": "treatment" for n in range(4, 7)}
KILLED = {"negative": (29, 30, 28), "positive": (29, 15, 0), "treatment": (30, 29, 12)}
"""Objects at three time points."""


def series(root: Path, counts: dict[str, np.ndarray], *, z: str = "max", only: int | None = None) -> Planted:
    """A plate with so many objects (t, z) in each of two fields, up to its report; the second of A01 is damaged.

    Args:
        root, counts: where it lies, and the objects of each well.
        z: how planes are read.
        only: the one time point that is acquired; default: all.
    """
    (root / "raw").mkdir(parents=True)
    places = [(y, x) for y in range(2, 62, 8) for x in range(2, 62, 8)]
    rng = np.random.default_rng(0)
    for well, numbers in counts.items():
        labels = np.zeros((*numbers.shape, 64, 160), np.uint32)
        for t, k in np.ndindex(numbers.shape):
            for number, place in enumerate(rng.permutation(len(places))[: numbers[t, k]]):
                y, x = places[place]
                side = 3 + t + number % 2
                for left in (0, 96):  # the fields lie in a grid with a gap of 32 px
                    labels[t, k, y : y + side, left + x : left + x + side] = 2 * number + 1 + (left > 0)
            for field, left in enumerate((0, 96) if only in (None, t) else ()):
                pixels = (300 + rng.normal(0, 5, (64, 64)) + 900 * (labels[t, k, :, left : left + 64] > 0)).astype("u2")
                path = root / "raw" / f"{well}_s{field}_t{t}_z{k}.tif"
                tifffile.imwrite(path, pixels)
                if (well, field) == ("A01", 1):
                    path.write_bytes(path.read_bytes()[:4000])
        labels = labels if only is None else labels[only : only + 1]
        np.savez(root / f"{well}.npz", nuclei=labels, spots=labels)
    lines = [f"{well},{role},{'drug' if role == 'treatment' else ''},1" for well, role in ROLES.items()]
    (root / "map.csv").write_text("well,role,treatment,dose\n" + "\n".join(lines) + "\nC01,treatment,late,1\n")
    pattern = r"(?P<well>[A-Z]\d+)_s(?P<field>\d)_t(?P<t>\d)_z(?P<z>\d)"
    spec = PlateSpec(plate="p1", path=str(root / "raw"), layout="pattern", pattern=pattern, pixel_size_um=1.0)
    settings: dict[str, Any] = {
        "results": str(root / "results"),
        "parts": {"cpu": 1, "gpu": 1},
        "z": z,
        "segmentation": {name: {"channels": ["1"]} for name in ("nuclei", "spots")},
        "features": {"families": ["area_shape"]},
        "stats": {"exclude_flags": [], "by_field": True},
    }
    spec = spec.model_copy(update={"plate_map": str(root / "map.csv")})
    planted = Planted(root=root, config=Config.model_validate(settings), entry=spec, truth=root)
    planted.run("ingest", "tile", "normalise")
    planted.label()
    planted.run("features", "aggregate", "report")
    return planted


COUNTS = {well: (np.array(KILLED[role])[:, None] - (int(well[2]) % 2)).clip(0) for well, role in ROLES.items()}
COUNTS["B06"] = COUNTS["B06"][:2]  # its acquisition was stopped before the last time point


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return series(tmp_path_factory.mktemp("series"), COUNTS)


def test_each_time_point_has_its_own_counts_and_medians(plate: Planted) -> None:
    table = pd.read_parquet(plate.paths.table("wells.parquet"))
    assert not table.duplicated(["Metadata_Well", "Metadata_Time"]).any()
    wells = table.set_index(["Metadata_Well", "Metadata_Time"])
    assert len(wells) == 13 * 3
    for name in ("Count_Nuclei", "Count_Spots"):
        assert wells.loc["A02", name].tolist() == [58, 60, 56]  # two fields of 29, 30, 28
        assert wells.loc["A01", name].tolist() == [28, 29, 27]  # one of its fields is left out
        assert wells.loc["B02", name].tolist() == [58, 30, 0]
    assert wells.loc["A02", "Metadata_FieldsUsed"].tolist() == [2, 2, 2]
    areas = wells.loc["A02", "Nuclei_AreaShape_Area"].tolist()
    assert areas == [9, 20.5, 30.5]  # squares of 3 and 4 px (15 and 14 of them), 4 and 5, 5 and 6
    states = wells["Metadata_State"]
    assert states.loc["C01"].tolist() == ["not_acquired"] * 3
    assert states.loc["B06"].tolist()[2] == "not_acquired"
    assert np.isnan(wells.loc[("B06", 2), "Count_Nuclei"])
    fields = pd.read_parquet(plate.paths.table("fields.parquet"))
    last = fields[(fields["Metadata_Well"] == "B04") & (fields["Metadata_Time"] == 2)]
    assert last["Count_Nuclei"].tolist() == [12, 12]
    assert "Metadata_Z" not in table


def test_the_tables_of_a_time_point_are_those_of_a_plate_that_has_no_other(plate: Planted, tmp_path: Path) -> None:
    one = series(tmp_path, COUNTS, only=1)
    assert "frames" not in one.plate.outcomes("aggregate").required().depends
    assert "<h3>Over time</h3>" not in one.paths.table("report.html").read_text()
    for name in ("wells.csv", "fields.parquet", "normalised.parquet", "controls.csv", "hits.csv", "positions.csv"):
        whole, alone = (read_table(p.paths.table(name)) for p in (plate, one))
        whole = whole[whole["Metadata_Time"] == 1].reset_index(drop=True)
        pooled = [name for name in whole if name.endswith(("_Diameter_px", "_Uncovered", "_Unmatched", "_Dropped"))]
        whole, alone = whole.drop(columns=pooled), alone.drop(columns=pooled)  # as flags are, of all frames together
        pd.testing.assert_frame_equal(whole.assign(Metadata_Time=0), alone, obj=name, check_dtype=False)


def test_pages_and_tables_over_all_plates_show_each_time_point(plate: Planted) -> None:
    page = plate.paths.table("report.html").read_text()
    assert "could not be created" not in page
    shown = map_of(page)["values"]["Count_Nuclei"]
    assert [at["A02"] for at in shown] == [29, 30, 28]
    assert [at["A01"] for at in shown] == [28, 29, 27]  # per field: the one that it lost is no effect
    assert [at["B06"] for at in shown] == [30, 29, pytest.approx(np.nan, nan_ok=True)]
    assert page.count('<figure id="well-A02"') == 1
    assert "<dd>29; 30; 28</dd>" in page
    assert '<label>Frame <select id="frame" autocomplete="off">' in page
    assert re.findall(r"<option value=.(\d).>(time point \d)<", page) == [(str(t), f"time point {t}") for t in range(3)]
    entry = plate.plate.outcomes("aggregate").required()
    assert [frame["Metadata_Time"] for frame in entry.info["frames"]] == [0, 1, 2]
    assert "frames" in entry.depends  # so that tables in which they were pooled can't be accepted
    curves = [json.loads(spec) for spec in re.findall(r'data-chart="curves-\d">(.*?)</script>', page)]
    assert [spec["usermeta"]["feature"] for spec in curves] == [0, 1, None]  # both counts, and what the map shows
    assert curves[0]["usermeta"]["frames"] == [[0, 0], [1, 0], [2, 0]]
    assert curves[0]["data"]["name"] == "series"
    drawn = {row["well"]: row["group"] for row in curves[2]["data"]["values"]}
    assert drawn == {well: "drug 1" if role == "treatment" else f"{role} 1" for well, role in ROLES.items()}
    summary = pd.read_csv(plate.paths.table("summary.csv"))
    assert summary.loc[summary["Well"] == "A01", "Nuclei: count per field"].tolist() == [28, 29, 27]
    assert summary.loc[summary["Well"] == "C01", "State"].tolist() == ["not_acquired"] * 3
    write_screen(Project.of(plate.config, {"p1": plate.entry}))
    screen = Path(plate.config.results) / "screen"
    assert pd.read_csv(screen / "plates.csv")["Metadata_Time"].tolist() == [0, 1, 2]
    hits = pd.read_csv(screen / "hits.csv").set_index(["Metadata_treatment", "Metadata_Time"])
    assert hits.loc["drug", "Replicates"].to_dict() == {0: 3, 1: 3, 2: 2}
    assert hits.loc["late", "Replicates"].tolist() == [0, 0, 0]
    assert hits.loc["drug", "Hit"].to_dict() == {0: False, 1: False, 2: True}


def test_a_summary_of_the_series_is_compared_and_shown_as_one(plate: Planted, tmp_path: Path) -> None:
    stats = plate.config.stats.model_dump()
    lacking = plate.copy(tmp_path / "lacking", stats=stats | {"time": 3})
    with pytest.raises(ConfigError, match="numbered 0 to 2"):
        lacking.run("aggregate")
    slopes = plate.copy(tmp_path / "slopes", stats=stats | {"time": "slope"})
    slopes.run("aggregate", "report")
    hits = read_table(slopes.paths.table("hits.csv")).set_index("Metadata_treatment")
    assert "Metadata_Time" not in hits
    assert hits["Metadata_OverTime"].unique().tolist() == ["slope"]
    assert hits["Replicates"].to_dict() == {"drug": 2, "late": 0}  # B06 lacks the last time point
    z = read_table(slopes.paths.table("normalised.parquet")).set_index("Metadata_Well")
    assert z.loc["B06", "Metadata_Reason"] == "no slope over time: not in use at time point 2"
    page = slopes.paths.table("report.html").read_text()
    assert "could not be created" not in page
    assert page.count('<h3 class="group">slope over time</h3>') == 3
    assert "Of each time series the slope over time was compared." in page
    assert [at["A02"] for at in map_of(page)["values"]["Count_Nuclei"]] == [29, 30, 28]
    write_screen(Project.of(slopes.config, {"p1": slopes.entry}))
    told = pd.read_csv(Path(slopes.config.results) / "screen" / "hits.csv")
    assert told["Metadata_OverTime"].tolist() == ["slope"] * 2


def test_planes_kept_in_2d_are_counted_plane_by_plane(tmp_path: Path) -> None:
    plate = series(tmp_path, {well: np.array([[4, 9, 7], [3, 8, 6]]) for well in ("A02", "A03")}, z="keep")
    table = pd.read_parquet(plate.paths.table("wells.parquet"))
    keys = ["Metadata_Well", "Metadata_Time", "Metadata_Z"]
    counts = table.set_index(keys)["Count_Nuclei"].loc["A02"]
    assert counts.to_dict() == {(0, 0): 8, (0, 1): 18, (0, 2): 14, (1, 0): 6, (1, 1): 16, (1, 2): 12}
    assert keys[1:] == [name for name in read_table(plate.paths.table("hits.csv")) if name in keys]
    page = plate.paths.table("report.html").read_text()
    assert "Time point 1, plane 2" in page
    assert "could not be created" not in page
    assert re.search(r"<figure id=.well-A02.(.|\n)*?<i>9</i>", page)  # its picture shows the middle plane


def test_every_statistic_of_a_frame_is_as_if_there_were_no_other(tmp_path: Path) -> None:
    frames = []
    for time in range(3):
        wells = well_table(time, features=2, treatments=100)
        dosed = wells.index[wells["Metadata_role"] == "treatment"][:16]
        wells.loc[dosed, "Metadata_treatment"] = "dosed"
        wells.loc[dosed, "Metadata_dose"] = doses = np.repeat(np.geomspace(0.01, 100, 8), 2)
        wells.loc[dosed, "F1"] += four_parameters(doses, 0, 100, 1.0 * time, 1.0)
        frames.append(wells.assign(Metadata_Time=time, F0=wells["F0"] * (1 + time)))
    together = pd.concat(frames).sort_values(["Metadata_Well", "Metadata_Time"], ignore_index=True)
    both = PlatePaths.of("p1", results=tmp_path / "together")
    summaries = write_statistics(both, together, ["F0", "F1"], Stats(), (16, 24))
    for time, wells in enumerate(frames):
        alone = PlatePaths.of("p1", results=tmp_path / str(time))
        ordered = wells.sort_values("Metadata_Well", ignore_index=True)
        assert write_statistics(alone, ordered, ["F0", "F1"], Stats(), (16, 24)) == [summaries[time]]
        names = sorted(path.name for path in alone.root.iterdir())
        tables = ["controls.csv", "doses.csv", "effects.parquet", "hits.csv", "normalised.parquet", "positions.csv"]
        assert names == tables
        for name in names:
            found, expected = read_table(both.table(name)), read_table(alone.table(name))
            found = found[found["Metadata_Time"] == time].reset_index(drop=True)
            assert len(found)
            pd.testing.assert_frame_equal(found, expected, obj=name)


def test_columns_of_the_map_do_not_hide_time_and_plane() -> None:
    plate_map = pd.DataFrame({"well": ["A01"], "Time": ["24 h"], "Z": ["top"]})
    rows = [{"Metadata_Well": "A01", "Metadata_Time": t, "Metadata_State": "ok"} for t in (0, 1)]
    table = joined("p", rows, np.array([[1.0] * 4, [2.0] * 4]), plate_map, medians=["F"])
    assert table["Metadata_Time"].tolist() == [0, 1]
    assert table["Metadata_Map_Time"].tolist() == ["24 h"] * 2
    assert table["Metadata_Map_Z"].tolist() == ["top"] * 2
    assert table["F_Q75"].tolist() == [1, 2]
