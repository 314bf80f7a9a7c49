"""Labels that were corrected by hand: the file that holds those of a well, and the group of the store made from it.

The file is a zip: `<canvas>.npy`, uint32 ([z,] y, x), for each canvas of the well, and `objects.parquet`, the table of
all objects, whose columns are those that `stitch` writes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import CORRECTED
from plateflow.errors import ResultsError
from plateflow.files import Stamp, replace_folder, stamp_of
from plateflow.images.canvas import Canvas
from plateflow.images.store import label_files
from plateflow.images.well import WellImage
from plateflow.paths import PlatePaths

OBJECTS = "objects.parquet"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def packed(canvases: Iterable[tuple[int, NDArray[np.uint32]]], objects: bytes) -> bytes:
    """The file of the labels of a well: the number and the labels of each canvas, and the table of all objects.

    It holds no clock: equal labels give equal bytes.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for number, labels in canvases:
            about = zipfile.ZipInfo(f"{number}.npy", _EPOCH)
            about.compress_type = zipfile.ZIP_DEFLATED
            with file.open(about, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(labels, np.uint32), allow_pickle=False)
        file.writestr(zipfile.ZipInfo(OBJECTS, _EPOCH), objects)
    return buffer.getvalue()


class CorrectedLabels:
    """The labels of a well from their file, read canvas by canvas."""

    def __init__(self, path: Path, stamp: Stamp) -> None:
        """Open the file.

        Raises:
            ResultsError: it isn't there as it was written, and no job can make it again.
        """
        if not path.is_file() or stamp_of(path) != stamp:
            raise ResultsError(
                "labels that were corrected by hand are gone or damaged",
                where=str(path),
                remedy="put the file back from a copy, or go on without them: `plateflow retry PLATE/WELL "
                "--discard-corrections`; then they can be imported again",
            )
        self._file = zipfile.ZipFile(path)

    def canvas(self, number: int) -> NDArray[np.uint32]:
        """The labels of a canvas, uint32 ([z,] y, x); its number is that of `Plate.canvases`."""
        with self._file.open(f"{number}.npy") as member:
            labels: NDArray[np.uint32] = np.lib.format.read_array(member, allow_pickle=False)
        return labels

    def objects(self) -> bytes:
        """The table of all objects, parquet."""
        return self._file.read(OBJECTS)

    def __enter__(self) -> CorrectedLabels:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def group_folder(paths: PlatePaths, well: str, label_set: str) -> Path:
    """Where the corrected labels of a label set of a well lie in the store."""
    return paths.image(well) / "labels" / (label_set + CORRECTED)


def write_group(
    image: WellImage,
    label_set: str,
    canvases: Sequence[Canvas],
    labels: CorrectedLabels,
    z_mode: str,
    about: Mapping[str, Any],
) -> None:
    """Write the corrected labels of a label set beside the pipeline's, with the same levels and shards.

    Args:
        canvases: all those of the well.
        about: who has corrected them, when, and from what, for the group's attributes.
    """
    name = label_set + CORRECTED
    replace_folder(
        group_folder(image.paths, image.well, label_set),
        label_files(name, image.layout, image.levels, z_mode, {"correction": about})[1],
    )
    for (t, z), members in groupby(canvases, key=lambda canvas: (canvas.t, canvas.z)):
        drawn = [(canvas, labels.canvas(canvas.index)) for canvas in members]
        for k in range(drawn[0][0].depth or 1):
            planes = [(canvas, part if canvas.depth is None else part[k]) for canvas, part in drawn]
            image.write_labels(name, t, z + k, planes)
