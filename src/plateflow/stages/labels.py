"""Labels of a well from its flow fields, and the table of their objects: of `stitch`, and of `infer` where flow fields
aren't kept.

Labels are made canvas by canvas, and written once all canvases of their t and z have them. Numbers run on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.files import count_mapped, write_atomic
from plateflow.images.canvas import Canvas
from plateflow.images.well import WellImage
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.segment.scratch import scratch_array
from plateflow.tables import encoded

if TYPE_CHECKING:
    import pyarrow as pa

    from plateflow.flows import Objects

IN_MEMORY_PX = 2**24
"""Labels of more pixels, of the canvases of one t and z, lie in a file of the scratch while they are made."""
Make = Callable[[NDArray[np.uint32], int], "Objects"]
"""Makes the labels of a canvas: where, filled with 0, and the number of the first."""


class WellLabels:
    """Writes the labels of a label set of a well, and the table of its objects."""

    def __init__(self, plate: Plate, well: str, label_set: str) -> None:
        self.paths, self.well, self.label_set = plate.paths, well, label_set
        self._image = WellImage.open(plate.paths, well)
        # those of one t and z follow each other
        frames = groupby(plate.canvases(well, label_set), key=lambda canvas: (canvas.t, canvas.z))
        self._frames = {frame: list(members) for frame, members in frames}
        self._drawn: list[tuple[Canvas, NDArray[np.uint32]]] = []
        self._tables: list[pa.Table] = []
        self._count, self._dropped = 0, np.zeros(2, np.int64)

    def add(self, canvas: Canvas, make: Make) -> None:
        """Make the labels of a canvas; they are taken in their order."""
        members = self._frames[canvas.t, canvas.z]
        in_file = sum(math.prod(each.shape) for each in members) > IN_MEMORY_PX
        shape = canvas.shape
        out = scratch_array(self.paths.scratch, shape, np.uint32) if in_file else np.zeros(shape, np.uint32)
        objects = make(out, self._count + 1)
        if in_file:  # painted; boxes found, objects measured, holes filled; renumbered
            count_mapped(read=4 * out.nbytes, written=2 * out.nbytes)
        self._drawn.append((canvas, out))
        self._tables.append(_table(objects, canvas))
        self._count += len(objects.label)
        self._dropped += len(objects.dropped), objects.dropped.sum()
        if len(self._drawn) == len(members):
            for k in range(canvas.depth or 1):
                planes = [(each, _Plane(labels, k)) for each, labels in self._drawn]
                self._image.write_labels(self.label_set, canvas.t, canvas.z + k, planes)
            self._drawn.clear()

    def finish(self) -> dict[str, Any]:
        """Write the table of all objects; what the journal keeps."""
        import pyarrow as pa

        table = encoded(pa.concat_tables(self._tables), use_dictionary=False)
        write_atomic(self.paths.objects(self.label_set, self.well), table)
        return {"objects": self._count, "dropped": self._dropped.tolist(), "canvases": len(self._tables)}


def label_files(paths: PlatePaths, well: str, label_set: str) -> list[Path]:
    """Where the labels of a label set of a well lie, and the table of its objects."""
    labels = paths.image(well) / "labels" / label_set
    return [*labels.glob("[0-9]*/c"), paths.objects(label_set, well)]


def block_edge(shape: tuple[int, ...], follow_block_px: int) -> int:
    """Edge, in px along every axis, of the blocks in which a canvas of this shape is followed.

    A block of a volume has as many voxels as one of a plane has pixels: all planes of a shallow stack, else a cube.
    """
    if len(shape) == 2:
        return follow_block_px
    return round(max(follow_block_px ** (2 / 3), follow_block_px / math.sqrt(shape[0])))


def follow_and_label(
    plate: Plate, label_set: str, canvas: Canvas, flow: Any, *, workers: int = 1, device: str = "cpu"
) -> Make:
    """Follows the paths of a canvas and makes its labels in one go.

    Args:
        flow: its flow field, float16 (D + 1, *space), or a `FlowField`.
        workers: threads; they change no label, nor does the device.
    """
    from plateflow.flows import labels_from_endpoints, segment_flow

    settings = plate.config.segmentation[label_set]
    edge, n_steps = block_edge(canvas.shape, plate.config.follow_block_px), plate.grid(label_set).n_steps
    keys = {**settings.thresholds, "workers": workers}

    def make(out: NDArray[np.uint32], first: int) -> Objects:
        if isinstance(out, np.memmap) and device == "cpu":
            endpoints = _held_in(out, flow, edge, n_steps, settings.cell_threshold)
            return labels_from_endpoints(endpoints, flow, block=edge, first=first, out=out, **keys)[1]
        return segment_flow(flow, block=edge, n_steps=n_steps, device=device, first=first, out=out, **keys)[1]

    return make


def _held_in(
    out: NDArray[np.uint32], flow: Any, edge: int, n_steps: int, cell_threshold: float
) -> Callable[[int], NDArray[np.int32]]:
    """The endpoints of a canvas's blocks, which are followed once, and held where the labels are to be: in the file.

    Until a block is painted, each of its cell pixels holds the number of the pixel where its path ends, counted from 1.
    So nothing stays in memory, and no path is followed twice.
    """
    from plateflow.flows import block_starts, cut_blocks, follow_block, release_pages

    if out.size >= 2**32:
        raise ValueError(f"a canvas of {out.shape} px has more pixels than uint32 counts")
    blocks, followed = cut_blocks(out.shape, edge), set[int]()

    def endpoints(index: int) -> NDArray[np.int32]:
        block = blocks[index]
        if index not in followed:
            points = follow_block(flow, block, n_steps=n_steps, cell_threshold=cell_threshold)
            starts = block_starts(flow, block, cell_threshold=cell_threshold)
            out[tuple(starts)] = np.ravel_multi_index(tuple(points), out.shape) + 1
            followed.add(index)
        else:
            held = out[block.core]
            numbers = held[held > 0].astype(np.int64) - 1
            points = np.stack(np.unravel_index(numbers, out.shape)).astype(np.int32)
        release_pages(out)
        return points

    return endpoints


@dataclass(frozen=True)
class _Plane:
    """A plane of labels that is read in regions; of a file nothing stays in memory."""

    labels: NDArray[np.uint32]
    z: int

    def __getitem__(self, region: tuple[slice, slice]) -> NDArray[np.uint32]:
        from plateflow.flows import release_pages

        part = (self.labels if self.labels.ndim == 2 else self.labels[self.z])[region]
        if isinstance(part, np.memmap):
            part = np.array(part)
            count_mapped(read=part.nbytes)
            release_pages(self.labels)
        return part


def _table(objects: Objects, canvas: Canvas) -> pa.Table:
    import pyarrow as pa

    n = len(objects.label)
    seed = np.asarray(objects.seed)
    return pa.table(
        {
            "label": pa.array(objects.label, pa.uint32()),
            "canvas": pa.array(np.full(n, canvas.index), pa.int32()),
            "seed_z": pa.array(np.full(n, canvas.z) + (seed[:, 0] if canvas.depth else 0), pa.int32()),
            "seed_y": pa.array(seed[:, -2] + canvas.y, pa.int32()),
            "seed_x": pa.array(seed[:, -1] + canvas.x, pa.int32()),
            "area_px": pa.array(objects.area, pa.int64()),
            "flow_error": pa.array(objects.flow_error, pa.float64()),
            "cell_probability": pa.array(objects.cell_probability, pa.float64()),
        }
    )
