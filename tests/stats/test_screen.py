"""The tables over all plates."""

import errno
import math
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_effects import controls, effects, leave
from simulated_wells import well_table
from whole_screen import write_whole

from plateflow.config import Config, Stats
from plateflow.errors import LeaseError, PlateflowError
from plateflow.paths import PlatePaths
from plateflow.project import Project
from plateflow.stages import screen as stage
from plateflow.state.journal import Entry, append_outcome
from plateflow.state.lease import Lease
from plateflow.stats import effects as effects_module
from plateflow.stats import screen as screen_tables
from plateflow.stats.screen import write_screen_tables
from plateflow.stats.statistics import write_statistics
from plateflow.tables import read_table


def finish(paths: PlatePaths, wells: pd.DataFrame) -> None:
    """What aggregate leaves of a plate."""
    info = {"frames": write_statistics(paths, wells, ["F0"], Stats(), (16, 24))}
    append_outcome(paths.journal("aggregate", "plate"), Entry(well="", label_set="", fingerprint="x", info=info))


def test_doses_in_molar_units_are_pooled_over_plates_and_others_are_not(tmp_path: Path) -> None:
    screen = PlatePaths.of("screen", results=tmp_path)
    plates = [PlatePaths.of(name, results=tmp_path) for name in ("p1", "p2", "p3")]
    for paths, (dose, unit) in zip(plates, [(0.1, "uM"), (100.0, "nM"), (0.1, "mg/ml")], strict=True):
        wells = well_table(0, treatments=2, hits=2, plate=paths.plate)
        finish(paths, wells.assign(Metadata_dose=dose, Metadata_dose_unit=unit))
    hits = write_screen_tables(screen, plates, fdr=0.05)[1]
    keys = ["Metadata_treatment", "Metadata_dose", "Metadata_dose_unit", "Replicates", "Plates"]
    assert sorted(hits[keys].to_numpy().tolist()) == [
        ["c000", 0.1, "mg/ml", 2, "p3"],
        ["c000", 0.1, "uM", 4, "p1 p2"],
        ["c001", 0.1, "mg/ml", 2, "p3"],
        ["c001", 0.1, "uM", 4, "p1 p2"],
    ]


def test_a_new_plate_adds_to_the_screen_and_touches_no_other(tmp_path: Path) -> None:
    screen = PlatePaths.of("screen", results=tmp_path)
    plates = [PlatePaths.of(name, results=tmp_path) for name in ("p1", "p2", "p3")]
    assert not len(write_screen_tables(screen, plates, fdr=0.05)[0])
    assert not screen.table("hits.csv").exists()
    for seed, paths in enumerate(plates[:2]):
        finish(paths, well_table(seed, replicates=1, effect=3.5, plate=paths.plate))
    write_screen_tables(screen, plates, fdr=0.05)
    two = pd.read_csv(screen.table("hits.csv"))
    assert two["Replicates"].eq(2).all()
    alone = pd.read_csv(plates[0].table("hits.csv"))
    assert two["Hit"].sum() > alone["Hit"].sum()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("p[12]/**/*.*")}
    assert len(before) > 12

    finish(plates[2], well_table(9, negatives=2, separation=0, plate="p3"))
    write_screen_tables(screen, plates, fdr=0.05)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    summary = pd.read_csv(screen.table("plates.csv")).set_index("Metadata_Plate")
    assert summary["Controls"].to_dict() == {"p1": "good", "p2": "good", "p3": "unknown"}
    assert "2 negative controls" in summary.loc["p3", "HitReasons"]
    controls = pd.read_csv(screen.table("controls.csv"))
    assert controls["Metadata_Plate"].tolist() == ["p1", "p2", "p3"]
    # A plate without a reference adds nothing to the treatments that others have.
    three = pd.read_csv(screen.table("hits.csv")).set_index(["Metadata_treatment", "Metadata_dose"])
    old = two.set_index(["Metadata_treatment", "Metadata_dose"])
    pd.testing.assert_series_equal(three["P"].sort_index(), old["P"].sort_index())


def test_over_plates_doses_of_one_unit_count_together_within_rounding(tmp_path: Path) -> None:
    """1 uM on two plates, written as 1 and 1.005; 1 nM is another dose; a table of an earlier version has no units."""
    screen = PlatePaths.of("screen", results=tmp_path)
    plates = [PlatePaths.of(f"p{n}", results=tmp_path) for n in range(1, 5)]
    for number, (paths, dose, unit) in enumerate(
        zip(plates, (1.0, 1.005, 1.0, 1.0), ("uM", "uM", "nM", ""), strict=True)
    ):
        wells = well_table(number, replicates=1, treatments=3, hits=3, plate=paths.plate)
        finish(paths, wells.assign(Metadata_dose=dose, Metadata_dose_unit=unit))
    effects = plates[3].table("effects.parquet")
    pd.read_parquet(effects).drop(columns="Metadata_dose_unit").to_parquet(effects)
    write_screen_tables(screen, plates, fdr=0.05)
    hits = read_table(screen.table("hits.csv"))
    found = hits.groupby(["Metadata_treatment", "Metadata_dose_unit"])["Plates"].agg(list)
    assert found["c000"].to_dict() == {"": ["p4"], "nM": ["p3"], "uM": ["p1 p2"]}


def test_two_jobs_never_write_the_tables_of_one_screen(tmp_path: Path) -> None:
    project = Project.of(Config(results=str(tmp_path)), {})
    with Lease(project.screen.lease("screen", "screen"), holder="another"), pytest.raises(LeaseError, match="screen"):
        stage.run(project)
    assert not project.screen.table("plates.csv").exists()
    project.screen.table(stage.FORMER_PAGE).write_text("of an earlier release")
    stage.run(project)
    assert project.screen.table("plates.csv").exists()
    assert not project.screen.table(stage.FORMER_PAGE).exists()


def test_a_full_scratch_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(screen_tables.tempfile, "TemporaryFile", full)
    project = Project.of(Config(results=str(tmp_path / "results"), scratch=str(tmp_path / "scratch")), {})
    with pytest.raises(PlateflowError, match=f"can't write(.|\n)*{tmp_path}/scratch/screen has"):
        stage.run(project)
    assert not list(project.screen.receipts("report", "screen"))


def test_a_plate_of_an_earlier_version_is_passed_over(tmp_path: Path) -> None:
    screen, paths = PlatePaths.of("screen", results=tmp_path), PlatePaths.of("p1", results=tmp_path)
    finish(paths, well_table(0))
    append_outcome(paths.journal("aggregate", "plate"), Entry(well="", label_set="", fingerprint="y", sequence=2))
    assert not len(write_screen_tables(screen, [paths], fdr=0.05)[0])


NAMES = ["101", "NA", "nan", "", "c1", "c2", "c3", 'é, "x"']
DOSES = [math.nan, 0.0, 1.0, 10.0]
FEATURES = [f"Cells_F{n}" for n in range(12)]


def set_budgets(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    monkeypatch.setattr(screen_tables, "BLOCK", 70 * values)
    monkeypatch.setattr(screen_tables, "CANDIDATES", values)
    monkeypatch.setattr(effects_module, "STEP", values)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    plates=st.integers(1, 6),
    missing=st.sampled_from([0.0, 0.2, 0.9]),
    other_features=st.booleans(),
    fdr=st.sampled_from([0.01, 0.05, 0.5]),
    values=st.sampled_from([1, 30, 10_000]),
)
def test_in_blocks_the_numbers_are_those_of_the_whole_table(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    plates: int,
    missing: float,
    other_features: bool,
    fdr: float,
    values: int,
) -> None:
    """Time points and features that some plates lack, no values or reference, replicates on several plates."""
    rng = np.random.default_rng(seed)
    set_budgets(monkeypatch, values)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    screen, whole = (PlatePaths.of(name, results=folder) for name in ("screen", "whole"))
    pool = [(name, dose) for name in NAMES for dose in DOSES]
    done = []
    for number in range(plates):
        paths = PlatePaths.of(f"p{number}", results=folder)
        times = rng.integers(1, 4)
        features = list(rng.permutation(FEATURES)[:7]) if other_features else FEATURES
        frames = []
        for time in range(times):
            chosen = [pool[i] for i in rng.permutation(len(pool))[: rng.integers(len(pool) + 1)]]
            table = effects(rng, paths.plate, chosen, features, missing=missing, reference=rng.random() < 0.9)
            frames.append(table.assign(Metadata_Time=time))
        table = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
        if times == 1 and number % 2:
            table = table.drop(columns="Metadata_Time")  # of an earlier version
        control_table = controls(rng, paths.plate, features)
        leave(paths, table, control_table.drop(columns="SSMD") if other_features and number == 1 else control_table)
        done.append(paths)
    absent = PlatePaths.of("absent", results=folder)
    write_screen_tables(screen, [done[0], absent, *done[1:]], fdr=fdr)
    write_whole(whole, done, fdr=fdr)

    assert screen.table("controls.csv").read_bytes() == whole.table("controls.csv").read_bytes()
    assert screen.table("hits.csv").exists() == whole.table("hits.csv").exists()
    if whole.table("hits.csv").exists():
        found, expected = (read_table(paths.table("hits.csv")) for paths in (screen, whole))
        pd.testing.assert_frame_equal(found, expected, rtol=1e-6)
    tables = {"plates.csv", "controls.csv", "hits.csv", "replicates.csv"}
    assert {path.name for path in screen.root.rglob("*")} <= {*tables, "scratch"}


def test_the_values_of_all_plates_are_never_in_memory_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second plate has its own treatments, the others the same."""
    rng = np.random.default_rng(0)
    features = [f"F{n}" for n in range(400)]
    set_budgets(monkeypatch, 20_000)
    plates = []
    for number in range(16):
        own = 1000 * number if number % 2 else 0
        plates.append(PlatePaths.of(f"p{number}", results=tmp_path))
        table = effects(rng, plates[-1].plate, [(f"c{n + own}", 1.0) for n in range(40)], features)
        leave(plates[-1], table, controls(rng, plates[-1].plate, features[:2]))
    screen = PlatePaths.of("screen", results=tmp_path)
    write_screen_tables(screen, plates[:2], fdr=0.05)  # imports, once
    peaks = []
    for some in (plates[:4], plates):
        tracemalloc.start()
        write_screen_tables(screen, some, fdr=0.05)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.5 * 12 * 40 * 400 * 8  # what tells the rows apart grows, their values don't


def test_nothing_stays_in_the_scratch_whatever_happens(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    screen = PlatePaths.of("screen", results=tmp_path, scratch=tmp_path / "scratch")
    plates = [PlatePaths.of(name, results=tmp_path) for name in ("p1", "p2")]
    for paths in plates:
        leave(paths, effects(rng, paths.plate, [("c1", 1.0)], ["F0"]), controls(rng, paths.plate, ["F0"]))
    write_screen_tables(screen, plates, fdr=0.05)
    assert not list(screen.scratch.iterdir())
    plates[1].table("effects.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"[Pp]arquet"):
        write_screen_tables(screen, plates, fdr=0.05)
    assert not list(screen.scratch.iterdir())
