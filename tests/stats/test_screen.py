"""The tables over all plates."""

from pathlib import Path

import pandas as pd
from simulated_wells import well_table

from plateflow.config import Stats
from plateflow.paths import PlatePaths
from plateflow.state.journal import Entry, append_outcome
from plateflow.stats.screen import write_screen_tables
from plateflow.stats.statistics import write_statistics


def finish(paths: PlatePaths, wells: pd.DataFrame) -> None:
    """What aggregate leaves of a plate."""
    info = write_statistics(paths, wells, ["F0"], Stats(), (16, 24))
    append_outcome(paths.journal("aggregate", "plate"), Entry(well="", label_set="", fingerprint="x", info=info))


def test_a_new_plate_adds_to_the_screen_and_touches_no_other(tmp_path: Path) -> None:
    screen = PlatePaths.of("screen", results=tmp_path)
    plates = [PlatePaths.of(name, results=tmp_path) for name in ("p1", "p2", "p3")]
    assert not len(write_screen_tables(screen, plates, fdr=0.05))
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


def test_a_plate_of_an_earlier_version_is_passed_over(tmp_path: Path) -> None:
    screen, paths = PlatePaths.of("screen", results=tmp_path), PlatePaths.of("p1", results=tmp_path)
    finish(paths, well_table(0))
    append_outcome(paths.journal("aggregate", "plate"), Entry(well="", label_set="", fingerprint="y", sequence=2))
    assert not len(write_screen_tables(screen, [paths], fdr=0.05))
