"""Compares the results of a simulated plate with its truth, and with Otsu and watershed on the same images."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import PlateflowError
from plateflow.metrics import average_precision
from plateflow.paths import PlatePaths

Labels = NDArray[np.uint32]
Region = tuple[slice, slice]
LABEL_SETS = ("nuclei", "cells")
BASELINE = "nuclei by Otsu + watershed"
SMALL_PX = 30
"""The baseline drops smaller objects."""


@dataclass(frozen=True)
class Score:
    """Objects matched at IoU 0.5, over the wells with cells and without the fields whose files are broken."""

    name: str
    true: int
    predicted: int
    matched: int
    in_empty: int
    """Objects predicted in wells without cells; no other count includes them."""

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.matched / max(1, self.true + self.predicted)

    @property
    def precision(self) -> float:
        """Matched ones of those predicted."""
        return self.matched / max(1, self.predicted)

    @property
    def recall(self) -> float:
        """Matched ones of the true ones."""
        return self.matched / max(1, self.true)


@dataclass(frozen=True, kw_only=True)
class DoseOrder:
    """Whether a column of the per-well table follows the dose, in the wells of a cell line if there are several."""

    column: str
    line: str
    spearman: float
    """Rank correlation of dose and value over the treated wells."""
    recovered: bool
    """Whether the mean over the wells of a dose rises, or falls, with every step of the dose."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Scores of the pipeline's label sets and of the baseline (the last one), and the order of doses."""

    scores: tuple[Score, ...]
    doses: tuple[DoseOrder, ...]

    def lines(self) -> list[str]:
        """The table as text."""
        head = f"{'compared with the truth':28} {'F1@0.5':>7} {'precision':>9} {'recall':>7} {'in empty wells':>15}"
        scores = [f"{s.name:28} {s.f1:7.3f} {s.precision:9.3f} {s.recall:7.3f} {s.in_empty:15d}" for s in self.scores]
        doses = [
            f"dose order in {', '.join(filter(None, (d.column, d.line)))}: "
            f"{'recovered' if d.recovered else 'not recovered'} (Spearman {d.spearman:+.2f})"
            for d in self.doses
        ]
        return [head, *scores, *doses]


def compare(results: Path, truth: Path, *, columns: tuple[str, ...] = ()) -> Comparison:
    """Compare the results of a simulated plate with its truth.

    The image of a well and its truth share their geometry: the origin of both is the top left corner of the box around
    the well's fields.

    Args:
        results: the plate's results folder: `plate.zarr`, and `wells.csv` if `columns` are given.
        truth: the folder that `simulate_plate` wrote.
        columns: columns of `wells.csv` that should follow the dose.

    Raises:
        PlateflowError: a label image is missing or its shape differs from the truth, or `wells.csv` lacks a column.
    """
    metadata = json.loads((truth / "truth.json").read_text(encoding="utf-8"))
    with (truth / "truth.csv").open(newline="", encoding="utf-8") as file:
        wells = list(csv.DictReader(file))
    paths = PlatePaths(plate=metadata["plate"], root=results, scratch=results)
    dna = metadata["channels"].index("DNA")
    counts = {name: np.zeros(4, int) for name in (*LABEL_SETS, BASELINE)}
    for well in wells:
        with np.load(truth / f"{well['well']}.npz") as stored:
            true = {name: stored[name] for name in LABEL_SETS}
        shape, image = true["nuclei"].shape, paths.image(well["well"])
        image_plane = _read_plane(image / "0", (0, dna, 0), shape)
        predicted = {name: _read_plane(image / "labels" / name / "0", (0, 0), shape) for name in LABEL_SETS}
        for region in _intact_regions(metadata, well["well"]):
            pairs = [(name, true[name][region], predicted[name][region]) for name in LABEL_SETS]
            pairs.append((BASELINE, true["nuclei"][region], otsu_watershed(image_plane[region])))
            for name, one, other in pairs:
                matched, unmatched, missed = (values.item() for values in average_precision(one, other, 0.5)[1:])
                n = matched + unmatched
                counts[name] += [0, 0, 0, n] if well["role"] == "empty" else [matched + missed, n, matched, 0]
    scores = [Score(name, *map(int, numbers)) for name, numbers in counts.items()]
    doses = _dose_orders(paths.table("wells.csv"), wells, columns) if columns else ()
    return Comparison(scores=tuple(scores), doses=tuple(doses))


def otsu_watershed(image: NDArray[np.generic]) -> Labels:
    """Segment bright, round objects as a screener would in ten lines: the baseline of the demo's figures.

    Smooth, threshold by Otsu's method, fill holes, and cut touching objects by a watershed of the distance transform
    from its maxima of height 0.75 px.

    Args:
        image: YX, any number type.

    Returns:
        Labels YX, uint32, 0 is background; all 0 if the image is constant.
    """
    from scipy import ndimage as ndi
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label
    from skimage.morphology import h_maxima, remove_small_objects
    from skimage.segmentation import watershed

    smooth = gaussian(image.astype(np.float32), 1.0, preserve_range=True)
    if smooth.min() == smooth.max():
        return np.zeros(image.shape, np.uint32)
    mask = ndi.binary_fill_holes(smooth > threshold_otsu(smooth))
    mask = remove_small_objects(mask, max_size=SMALL_PX - 1)
    distance = ndi.gaussian_filter(ndi.distance_transform_edt(mask), 1.0)
    seeds = label(h_maxima(distance, 0.75))
    return watershed(-distance, seeds, mask=mask).astype(np.uint32)


def _intact_regions(metadata: dict[str, Any], well: str) -> Iterator[Region]:
    """The regions of a well's canvas to compare: all of it or, if files are broken, each field without a broken one."""
    broken = {f["field"] for f in metadata["faults"] if f["well"] == well and f["kind"] != "defocus"}
    if not broken:
        yield slice(None), slice(None)
        return
    height, width = metadata["field_shape"]
    for number, (top, left) in enumerate(metadata["fields"]):
        if number not in broken:
            yield slice(top, top + height), slice(left, left + width)


def _read_plane(path: Path, index: tuple[int, ...], shape: tuple[int, int]) -> NDArray[Any]:
    """A plane YX of an array: `index` is (t, c, z) in an image, (t, z) in labels."""
    import zarr

    if not path.exists():
        raise PlateflowError(
            "The results to compare are missing", where=str(path), remedy="finish the run: plateflow status"
        )
    array = zarr.open_array(path, mode="r")
    if array.shape[-2:] != shape:
        raise PlateflowError(
            "The shape of the results differs from the truth",
            where=str(path),
            why=f"{array.shape[-2:]} is not {shape}: they belong to different simulated plates",
            remedy="simulate and run again in an empty folder",
        )
    return np.asarray(array[index])


def _dose_orders(table: Path, wells: list[dict[str, str]], columns: tuple[str, ...]) -> Iterator[DoseOrder]:
    import pandas as pd
    from scipy.stats import spearmanr

    measured = pd.read_csv(table).set_index("Metadata_Well")
    lacking = [column for column in columns if column not in measured.columns]
    if lacking:
        raise PlateflowError(f"The per-well table has no column {', '.join(lacking)}", where=str(table))
    doses = {well["well"]: float(well["dose"]) for well in wells if well["role"] == "treatment"}
    counts = [column for column in columns if column.startswith("Count_")]  # compared per field in use
    if counts:
        measured[counts] = measured[counts].div(measured["Metadata_FieldsUsed"], axis=0)
    treated = measured.loc[[well for well in doses if well in measured.index], list(columns)]
    line = pd.Series({well["well"]: well.get("CellLine", "") for well in wells})
    for (column, values), (name, members) in product(treated.items(), line[treated.index].groupby(line).groups.items()):
        dose = pd.Series(doses)[members]
        steps = np.diff(values[members].groupby(dose).mean())
        rho = float(spearmanr(dose, values[members]).statistic)
        recovered = bool(np.all(steps > 0) or np.all(steps < 0))
        yield DoseOrder(column=str(column), line=str(name), spearman=rho, recovered=recovered)
