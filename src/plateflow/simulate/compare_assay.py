"""Compares what the tables of a simulated plate say of foci, positive cells and cell lines with its truth."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import PlateflowError, number_of
from plateflow.paths import PlatePaths
from plateflow.simulate.compare import Score
from plateflow.simulate.reporter import APART_PX
from plateflow.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

LINE = "Metadata_CellLine"
FOCI, FOCI_COUNT, SHARE = "foci", "Nuclei_Children_Foci_Count", "Share_Positive"
"""The spots of the demo's configuration, and the columns of its spots and its population."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a number per well agrees with the truth."""

    name: str
    wells: int
    correlation: float
    """Pearson's."""
    bias: float
    """Mean of measured - true."""
    worst: float
    """The largest difference, whatever its sign."""

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.wells} wells: correlation with the truth {self.correlation:.3f}, "
            f"bias {self.bias:+.3f}, largest difference {self.worst:.3f}"
        )


@dataclass(frozen=True, kw_only=True)
class LineResult:
    """What was found of a cell line's treatment, beside what its wells were drawn with."""

    line: str
    doses: tuple[float, ...]
    """Those that were given."""
    hits: tuple[float, ...]
    """Those that are called hits."""
    negatives: int
    """The wells that they are compared with."""
    ec50: float
    """Median over the curves without a flag; NaN without one."""
    curves: int
    """Number of these."""
    true_ec50: float
    """The dose of half the effect."""
    z_prime: float
    """Of the controls, in the share of positive cells."""

    def __str__(self) -> str:
        hits = ", ".join(f"{dose:g}" for dose in self.hits) or "none"
        return (
            f"{self.line}: hits at {len(self.hits)} of {len(self.doses)} doses ({hits}) against "
            f"{number_of(self.negatives, 'negative control[s]')}, EC50 {self.ec50:.2f} (median of "
            f"{number_of(self.curves, 'curve[s]')}; truth {self.true_ec50:.3g}), Z' of {SHARE} {self.z_prime:.2f}"
        )


def compare_assay(results: Path, truth: Path) -> list[str]:
    """Compare the tables of the demo's plate with its truth, and say in lines how well they agree.

    Wells with faults are left out, except of what is said of cell lines.

    Args:
        results: the plate's results folder.
        truth: the folder that `simulate_demo` wrote.

    Raises:
        PlateflowError: a table, or a column that the configuration should have made, isn't there.
    """
    import pandas as pd

    metadata = json.loads((truth / "truth.json").read_text(encoding="utf-8"))
    with (truth / "truth.csv").open(newline="", encoding="utf-8") as file:
        wells = {row["well"]: row for row in csv.DictReader(file)}
    paths = PlatePaths(plate=metadata["plate"], root=results, scratch=results)
    sound = [well for well in wells if well not in {fault["well"] for fault in metadata["faults"]}]
    planted, found = {}, {}
    for well in sound:
        with np.load(truth / f"{well}.npz") as stored:
            planted[well] = stored["foci"]
        found[well] = _read(paths.spots(FOCI, well), ["y_px", "x_px"]).to_numpy(np.float64)
    filled = [well for well in sound if wells[well]["role"] != "empty"]
    foci = {well: _read(paths.cells(well), [FOCI_COUNT])[FOCI_COUNT].mean() for well in filled}
    of_wells = _read(paths.table("wells.parquet"), ["Metadata_Well", SHARE]).set_index("Metadata_Well")
    true = pd.DataFrame([wells[well] for well in filled], index=filled)
    score = spot_score(found, planted)
    lines = [
        f"{score.name} within {APART_PX / 2:g} px of planted ones: recall {score.recall:.3f}, precision "
        f"{score.precision:.3f}, {score.in_empty} in the empty well",
        str(agreement("foci per nucleus", pd.Series(foci), true["foci_per_nucleus"].astype(float))),
        str(agreement("share of positive cells", of_wells[SHARE], true["share_positive"].astype(float))),
    ]
    hits = _read(paths.table("hits.csv"), [LINE, "Metadata_dose", "Hit"])
    curves = _read(paths.table("doses.csv"), [LINE, "EC50", "Flags"])
    controls = _read(paths.table("controls.csv"), [LINE, "Feature", "ZPrime"])
    return [*lines, *map(str, line_results(hits, curves, controls, wells.values()))]


def spot_score(found: Mapping[str, NDArray[np.float64]], planted: Mapping[str, NDArray[np.float64]]) -> Score:
    """Match spots one to one with planted ones, no farther than half the least distance of two of these.

    Args:
        found: by well, places (n, 2) in px.
        planted: the same, of the truth; a well without any is empty.
    """
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import cKDTree

    counts = np.zeros(4, int)
    for well, places in planted.items():
        if not len(places):
            counts[3] += len(found[well])
            continue
        pairs = cKDTree(places).sparse_distance_matrix(cKDTree(found[well].reshape(-1, 2)), APART_PX / 2)
        near = pairs.tocsr()
        near.data[:] = 1
        counts[:3] += len(places), len(found[well]), (maximum_bipartite_matching(near) >= 0).sum()
    return Score(FOCI, *map(int, counts))


def agreement(name: str, measured: pd.Series[float], true: pd.Series[float]) -> Agreement:
    """Compare a number per well with the truth, over the wells of the truth.

    Raises:
        PlateflowError: it isn't known of one of these wells.
    """
    values = measured.reindex(true.index)
    unknown = list(values.index[values.isna()])
    if unknown:
        raise PlateflowError(f"the {name} isn't known of {', '.join(unknown)}", why="the tables have no value there")
    off = values - true
    return Agreement(
        name=name,
        wells=len(true),
        correlation=float(np.corrcoef(values, true)[0, 1]),
        bias=float(off.mean()),
        worst=float(off.abs().max()),
    )


def line_results(
    hits: pd.DataFrame, curves: pd.DataFrame, controls: pd.DataFrame, wells: Collection[Mapping[str, str]]
) -> list[LineResult]:
    """Put together what was found of each cell line.

    Args:
        hits: hits.csv, with the column LINE, as the others.
        curves: doses.csv.
        controls: controls.csv.
        wells: the rows of the truth.
    """
    treated: dict[str, dict[float, float]] = {}
    roles = Counter((well["CellLine"], well["role"]) for well in wells)
    for well in wells:
        if well["role"] == "treatment":
            treated.setdefault(well["CellLine"], {})[float(well["dose"])] = float(well["effect"])
    results = []
    for line, effects in sorted(treated.items()):
        called = hits[(hits[LINE] == line) & hits["Hit"]]
        sure = curves.loc[(curves[LINE] == line) & (curves["Flags"] == ""), "EC50"].dropna()
        z_prime = controls.loc[(controls[LINE] == line) & (controls["Feature"] == SHARE), "ZPrime"]
        if z_prime.empty:
            raise PlateflowError(f"controls.csv has no row of {SHARE} for {line}")
        results.append(
            LineResult(
                line=line,
                doses=tuple(sorted(effects)),
                hits=tuple(sorted(called["Metadata_dose"])),
                negatives=roles[line, "negative"],
                ec50=float(sure.median()),
                curves=len(sure),
                true_ec50=float(np.median([dose * (1 - effect) / effect for dose, effect in effects.items()])),
                z_prime=float(z_prime.iloc[0]),
            )
        )
    return results


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of a table, CSV or parquet; an error where it, or one of them, isn't there."""
    if not path.exists():
        raise PlateflowError(
            "A table to compare is missing", where=str(path), remedy="finish the run: plateflow status"
        )
    table = read_table(path)
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise PlateflowError(
            f"The table has no column {', '.join(lacking)}",
            where=str(path),
            remedy="the demo's configuration asks for it: spots, populations, stats.group_by",
        )
    return table[list(columns)]
