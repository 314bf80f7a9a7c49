"""How the results of a simulated plate compare with its truth, and with Otsu and watershed on the same pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import PlateflowError
from plateflow.paths import PlatePaths
from plateflow.simulate.baseline import otsu_watershed

Labels = NDArray[np.uint32]
Box = tuple[slice, slice]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Objects matched at IoU 0.5, over the wells with cells and without the fields whose files are broken."""

    name: str
    true: int
    found: int
    matched: int
    in_empty: int
    """Objects found in wells without cells; these count in no other figure."""

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.matched / max(1, self.true + self.found)


@dataclass(frozen=True, kw_only=True)
class DoseOrder:
    """Whether a column of the per-well table follows the dose."""

    column: str
    spearman: float
    """Rank correlation of dose and value over the treated wells."""
    recovered: bool
    """The mean over the wells of each dose rises or falls from every dose to the next."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Scores of the pipeline's label sets and of the baseline (the last one), and the order of doses."""

    scores: tuple[Score, ...]
    doses: tuple[DoseOrder, ...]

    def lines(self) -> list[str]:
        """The table as text."""
        head = f"{'compared with the truth':28} {'F1@0.5':>7} {'precision':>9} {'recall':>7} {'in empty wells':>15}"
        rows = [
            f"{s.name:28} {s.f1:7.3f} {s.matched / max(1, s.found):9.3f} {s.matched / max(1, s.true):7.3f}"
            f" {s.in_empty:15d}"
            for s in self.scores
        ]
        doses = [
            f"dose order in {d.column}: {'recovered' if d.recovered else 'not recovered'} (Spearman {d.spearman:+.2f})"
            for d in self.doses
        ]
        return [head, *rows, *doses]


def compare(
    results: Path, truth: Path, *, label_sets: tuple[str, ...] = ("nuclei", "cells"), columns: tuple[str, ...] = ()
) -> Comparison:
    """Compare the results of a simulated plate with its truth.

    The image of a well and its truth share their geometry: the origin of both is the top left corner of the box around
    the well's fields.

    Args:
        results: the plate's folder of results: `plate.zarr`, and `wells.csv` where `columns` are asked for.
        truth: the folder that `simulate_plate` wrote.
        label_sets: names of label sets among `nuclei` and `cells`.
        columns: columns of `wells.csv` that should follow the dose.

    Raises:
        PlateflowError: a label image is missing or has another shape than the truth, or `wells.csv` lacks a column.
    """
    about = json.loads((truth / "truth.json").read_text(encoding="utf-8"))
    with (truth / "truth.csv").open(newline="", encoding="utf-8") as file:
        wells = list(csv.DictReader(file))
    paths = PlatePaths(plate=about["plate"], root=results, scratch=results)
    totals = {name: np.zeros(4, int) for name in (*label_sets, "baseline")}
    for well in wells:
        with np.load(truth / f"{well['well']}.npz") as stored:
            true = {name: stored[name] for name in {*label_sets, "nuclei"}}
        group = paths.image(well["well"])
        shape = true["nuclei"].shape
        dna = _level0(group / "0", (0, about["channels"].index("DNA"), 0), shape)
        found = {name: _level0(group / "labels" / name / "0", (0, 0), shape) for name in label_sets}
        for box in _sound(about, well["well"]):
            for name in label_sets:
                totals[name] += _match(true[name][box], found[name][box], empty=well["role"] == "empty")
            otsu = otsu_watershed(dna[box])
            totals["baseline"] += _match(true["nuclei"][box], otsu, empty=well["role"] == "empty")
    titles = {"baseline": "nuclei by Otsu + watershed"}
    scores = [
        Score(name=titles.get(name, name), true=int(t[0]), found=int(t[1]), matched=int(t[2]), in_empty=int(t[3]))
        for name, t in totals.items()
    ]
    doses = _dose_orders(paths.table("wells.csv"), wells, columns) if columns else []
    return Comparison(scores=tuple(scores), doses=tuple(doses))


def _sound(about: dict[str, Any], well: str) -> Iterator[Box]:
    """The parts of a well's canvas to compare: all of it, or else each field without a broken file."""
    broken = {f["field"] for f in about["faults"] if f["well"] == well and f["kind"] != "defocus"}
    if not broken:
        yield slice(None), slice(None)
        return
    height, width = about["field_shape"]
    for number, (top, left) in enumerate(about["fields"]):
        if number not in broken:
            yield slice(top, top + height), slice(left, left + width)


def _level0(path: Path, plane: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[Any]:
    """A full plane YX: `plane` is (t, c, z) of an image, (t, z) of labels."""
    import zarr

    if not path.exists():
        raise PlateflowError(
            "The results to compare are missing", where=str(path), remedy="finish the run: plateflow status"
        )
    array = zarr.open_array(path, mode="r")
    if array.shape[-2:] != shape:
        raise PlateflowError(
            "The results have another shape than the truth",
            where=str(path),
            why=f"{array.shape[-2:]} is not {shape}: they are not of the same simulated plate",
            remedy="simulate and run again in an empty folder",
        )
    return np.asarray(array[plane])


def _match(true: Labels, found: Labels, *, empty: bool) -> NDArray[np.int_]:
    """Number of true, found and matched objects, and of objects found where there are no cells."""
    from plateflow.metrics import average_precision

    true, found = _consecutive(true), _consecutive(found)
    if empty:
        return np.array([0, 0, 0, found.max()])
    _, matched, _, _ = average_precision(true, found, threshold=[0.5])
    return np.array([true.max(), found.max(), np.asarray(matched).item(), 0])


def _consecutive(labels: Labels) -> Labels:
    """Numbers without gaps, as a part of an image needs; 0 stays 0."""
    values = np.unique(labels)
    return np.searchsorted(values[values > 0], labels, side="right").astype(np.uint32)


def _dose_orders(table: Path, wells: list[dict[str, str]], columns: tuple[str, ...]) -> Iterator[DoseOrder]:
    import pandas as pd
    from scipy.stats import spearmanr

    measured = pd.read_csv(table).set_index("Metadata_Well")
    lacking = [column for column in columns if column not in measured.columns]
    if lacking:
        raise PlateflowError(f"The per-well table has no column {', '.join(lacking)}", where=str(table))
    doses = {well["well"]: float(well["dose"]) for well in wells if well["role"] == "treatment"}
    treated = measured.loc[[well for well in doses if well in measured.index], list(columns)]
    dose = pd.Series(doses).loc[treated.index]
    for column in columns:
        steps = np.diff(treated[column].groupby(dose).mean())
        rho = float(spearmanr(dose, treated[column]).statistic)
        yield DoseOrder(column=column, spearman=rho, recovered=bool(np.all(steps > 0) or np.all(steps < 0)))
