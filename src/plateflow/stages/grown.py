"""Label sets of a well that are made from others, for `features`: grown evenly or through a stain, or rings.

They are made canvas by canvas from the labels that stand, before anything is measured.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plateflow.config import Config, Propagate
from plateflow.errors import ResultsError
from plateflow.files import replace_folder
from plateflow.images.store import label_files
from plateflow.images.well import WellImage
from plateflow.images.window import Window
from plateflow.project import Plate
from plateflow.segment.fits import grown_px
from plateflow.stages.labels import WellLabels

if TYPE_CHECKING:
    import pyarrow as pa

    from plateflow.flows import Objects
    from plateflow.images.canvas import Canvas


def stains(config: Config, window: Window) -> dict[str, tuple[float, ...]]:
    """By channel through which objects are grown, the numbers of the plate's window that decide how.

    Raises:
        ChannelError, ResultsError: as in `Window.stain`.
    """
    rules = [rule for rule in config.grown.values() if isinstance(rule, Propagate)]
    return {channel: window.stain(channel) for rule in rules for channel in rule.channels}


def grow(plate: Plate, well: str, label_set: str) -> None:
    """Make the labels of a label set of a well from those of its source, and the table of its objects.

    An object has the number and the seed of the one that it is made from.

    Raises:
        ResultsError: the labels of its source hold objects that the table of these lacks.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rule, image = plate.config.grown[label_set], WellImage.open(plate.paths, well)
    standing = plate.labels_name(well, rule.source)
    how = {"from": standing, "rule": type(rule).__name__.lower(), **rule.model_dump(exclude={"source"})}
    files = label_files(label_set, image.layout, image.levels, plate.config.z, {"grown": how})[1]
    replace_folder(plate.paths.image(well) / "labels" / label_set, files)
    table = pq.read_table(plate.paths.objects(standing, well))
    numbers = {canvas.place: canvas.index for canvas in plate.canvases(well, rule.source)}
    made = WellLabels(plate, well, label_set)
    for canvas in plate.canvases(well, label_set):
        rows = table.filter(pa.array(table["canvas"].to_numpy() == numbers[canvas.place]))
        made.add(canvas, partial(_fill, plate, image, standing, label_set, canvas, rows))
    made.finish()


def _fill(
    plate: Plate,
    image: WellImage,
    standing: str,
    label_set: str,
    canvas: Canvas,
    rows: pa.Table,
    out: NDArray[np.uint32],
    _first: int,
) -> Objects:
    """Fill a canvas with the objects that are made from those of its source, which has these rows."""
    from plateflow.flows import Objects
    from plateflow.segment.growth import grow_evenly, grow_through, shows_cells

    rule, outside = plate.config.grown[label_set], canvas.owner() < 0
    source = image.labels(standing, canvas)
    source[outside] = 0  # of other canvases in this one's box
    if isinstance(rule, Propagate):
        pixels = image.read(canvas, rule.channels, plate.config.z)
        cells = np.zeros(canvas.shape, bool)
        for c, channel in enumerate(rule.channels):
            low, high, threshold = image.window.stain(channel)
            cells |= shows_cells(pixels[c], threshold, ~outside)
            pixels[c] = (pixels[c] - low) / (high - low)
        out[...] = grow_through(source, pixels.mean(axis=0), cells, regularisation=rule.regularisation)
    else:
        radius, inner = grown_px(plate.config, label_set, plate.metadata)
        out[...] = grow_evenly(source, radius=radius, inner=inner)
    out[outside] = 0
    numbers = rows["label"].to_numpy()
    areas = np.zeros(max(int(numbers.max(initial=0)), int(out.max())) + 1, np.int64)
    for piece in np.array_split(out.ravel(), -(-out.size // 2**20)):  # as each is made int64
        areas += np.bincount(piece, minlength=len(areas))
    if not np.isin(np.flatnonzero(areas), [0, *numbers]).all():
        raise ResultsError(
            f"the labels of {standing} hold objects that the table of its objects lacks",
            where=f"{plate.name}/{image.well}, label set {standing}",
            why="one of the two was changed, or is of another run",
            remedy=f"`plateflow verify {plate.name}`, then `snakemake`",
        )
    there = areas[numbers] > 0
    seeds = [rows[name].to_numpy()[there] - corner for name, corner in (("seed_y", canvas.y), ("seed_x", canvas.x))]
    unknown = np.full(int(there.sum()), np.nan)
    return Objects(
        label=numbers[there],
        seed=np.stack(seeds, axis=1),
        area=areas[numbers[there]],
        flow_error=unknown,
        cell_probability=unknown,
        dropped=np.zeros(0, np.int64),
    )
