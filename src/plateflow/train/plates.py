"""Wells of a plate store as training data: what the network sees of them, and their labels.

Labels that were corrected by hand (`plateflow import`) are read from their own files, so that no run need come between.
Pixels are read as `infer` reads them, through the plate's window and illumination profile.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config.section import nearest
from plateflow.errors import PlateflowError, ResultsError
from plateflow.images.canvas import Canvas
from plateflow.images.corrected import CorrectedLabels
from plateflow.images.well import WellImage
from plateflow.paths import wells_named
from plateflow.project import Plate, Project
from plateflow.segment.diameter import median_diameter
from plateflow.train.data import Sample, light_of

FILL = 0.05
"""Part of a canvas that may be fill, as where a stage jitters: what is cut at the border of a field is worse."""


def plate_samples(folder: Path, wells: Sequence[str] | None, label_set: str, project: Project) -> list[Sample]:
    """Read wells of a plate: a sample for each canvas, or for each field where they leave more than `FILL` of it empty.

    Args:
        folder: results of the plate, RESULTS/PLATE.
        wells: their names; where none are named, those whose labels were corrected by hand.
        label_set: whose labels are learnt, from its channels.
        project: that the plate belongs to: it says how the plate is read.

    Returns:
        Samples whose pixels are float32, 0 and 1 at the limits of the window.

    Raises:
        PlateflowError: the plate, a well or the label set isn't there.
        ResultsError: a well has no labels of the label set, or its image isn't there.
    """
    plate = _plate_at(folder, project)
    known = plate.config.segmentation
    if label_set not in known:
        remedy = nearest(label_set, list(known), "the label sets are")
        raise PlateflowError(f"there is no label set {label_set!r}", where=plate.name, remedy=remedy)
    plate.channels_of(label_set)  # says what lacks
    chosen = _wells(plate, wells, label_set)
    return [sample for well in chosen for sample in _well_samples(plate, well, label_set)]


def _plate_at(folder: Path, project: Project) -> Plate:
    for plate in project.plates.values():
        if plate.paths.root.resolve() == folder.resolve():
            return plate
    known = ", ".join(str(plate.paths.root) for plate in list(project.plates.values())[:20])
    why = f"the plates of the configuration have theirs in {known}"
    remedy = "name one of these; the configuration says how its channels are read"
    raise PlateflowError("these are no results of a plate of this project", where=str(folder), why=why, remedy=remedy)


def _wells(plate: Plate, wells: Sequence[str] | None, label_set: str) -> list[str]:
    if wells is None:
        corrected = [well for well in plate.wells if plate.correction(well, label_set)]
        if not corrected:
            where = f"{plate.name}, label set {label_set}"
            remedy = "`plateflow export`, correct, `plateflow import`; or name wells whose labels are right"
            raise ResultsError("no well has corrected labels", where=where, remedy=remedy)
        return corrected
    try:
        chosen = wells_named(wells)
    except ValueError as error:
        raise PlateflowError(str(error), where=plate.name) from None
    for well in chosen:
        plate.check_well(well)
    return chosen


def _well_samples(plate: Plate, well: str, label_set: str) -> list[Sample]:
    where = f"{plate.name}/{well}, label set {label_set}"
    if label_set not in plate.label_sets(well):
        raise ResultsError("the well lacks a channel of the label set", where=where, remedy="leave the well out")
    image = WellImage.open(plate.paths, well)
    with ExitStack() as stack:
        correction = plate.correction(well, label_set)
        by_hand = correction and stack.enter_context(CorrectedLabels(correction.file(plate.paths), correction.stamp))
        samples: list[Sample] = []
        for canvas in plate.canvases(well, label_set):
            labels = by_hand.canvas(canvas.index) if by_hand else image.labels(label_set, canvas)
            for k, plane in enumerate(canvas.planes()):
                samples += _samples(plate, image, plane, label_set, labels if canvas.depth is None else labels[k])
    if not any(sample.diameter for sample in samples):
        remedy = "run `snakemake`, and correct what it found; or leave the well out"
        raise ResultsError("the well has no labels", where=where, why="no pixel of it lies in an object", remedy=remedy)
    return samples


def _samples(plate: Plate, image: WellImage, canvas: Canvas, label_set: str, labels: NDArray[Any]) -> Iterator[Sample]:
    channels = plate.channels_of(label_set)
    pixels = image.apply_window(image.read(canvas, channels, plate.config.z), canvas, channels)
    labels, owner = labels.astype(np.int32), canvas.owner()
    labels[owner < 0] = 0  # objects of another canvas in this one's box
    regions = canvas.regions() if (owner < 0).mean() > FILL else [(slice(None), slice(None))]
    for number, region in enumerate(regions):
        place = f"t{canvas.t} z{canvas.z} canvas {canvas.index} part {number}"
        seen = np.ascontiguousarray(labels[region])
        yield Sample(
            source=plate.name,
            name=f"{image.well} {place}",
            pixels=np.ascontiguousarray(pixels[:, *region]),
            limits=np.array([[0.0, 1.0]] * len(channels)),
            labels=seen,
            diameter=median_diameter(seen),
            light=light_of(pixels[:, *region], np.where(owner[region] < 0, 1, seen)),
        )
