"""Shards: how an image is cut into them, and how whole ones are written straight to their files.

A shard holds all channels of a level, for one t and z. Where a level would make a shard of more than `SHARD_BYTES` the
image is cut into equal regions, the same at every level, so that memory stays bounded and a region without a field is
never written. zarr's own way of writing them takes longer than compressing them.

The format is that of Zarr 3's codec `sharding_indexed`: the compressed chunks one after another; then the offset and
length of each chunk, in C order (uint64, little endian, all ones where there is none); then the CRC32C of that table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.files import Sink, atomic_file
from plateflow.images.layout import Region, WellLayout

CHUNK_PX = 512
SHARD_BYTES = 2**30
Map = Callable[[Callable[[NDArray[Any]], Any], Iterable[NDArray[Any]]], Iterable[Any]]


def shard_region_size(layout: WellLayout, levels: int) -> tuple[int, int]:
    """Height and width in px of the regions of level 0 that make one shard each; the whole image if that is one."""
    _, channels, _, height, width = layout.shape
    pixel = max(channels * np.dtype(layout.dtype).itemsize, 4)  # labels have 4 bytes
    if height * width * pixel <= SHARD_BYTES:
        return height, width
    unit = CHUNK_PX * 2 ** (levels - 1)
    edge = max(unit, int(math.sqrt(SHARD_BYTES / pixel)) // unit * unit)
    return edge, edge


def shard_regions(layout: WellLayout, levels: int) -> list[Region]:
    """The regions of level 0 that make one shard each, (y, x), cut at the image's border."""
    (height, width), (edge_y, edge_x) = layout.shape[-2:], shard_region_size(layout, levels)
    return [
        (slice(y, min(y + edge_y, height)), slice(x, min(x + edge_x, width)))
        for y in range(0, height, edge_y)
        for x in range(0, width, edge_x)
    ]


@cache
def array_files(
    shape: tuple[int, ...], dtype: str, region: tuple[int, int], levels: int, axes: str
) -> dict[str, bytes]:
    """The `zarr.json` of the arrays of all levels, by name: made once in memory, as zarr's way takes 50 ms each.

    Args:
        shape: of level 0.
        dtype: of the pixels; uint32 are labels.
        region: height and width in px of a shard at level 0.
        levels: how many.
        axes: their names, such as tczyx.
    """
    import zarr
    from zarr.codecs import BloscCodec, ZstdCodec

    files: dict[str, Any] = {}
    group = zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=3)
    planes = tuple(size if axis == "c" else 1 for axis, size in zip(axes[:-2], shape, strict=False))
    undivided = region == tuple(shape[-2:])
    codec = ZstdCodec(level=3) if dtype == "uint32" else BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
    for level in range(levels):
        space = [math.ceil(size / 2**level) for size in shape[-2:]]
        chunk = [_even_chunk(size) if undivided else CHUNK_PX for size in space]
        shard = [size if undivided else min(edge >> level, size) for edge, size in zip(region, space, strict=True)]
        group.create_array(
            str(level),
            shape=(*shape[:-2], *space),
            dtype=dtype,
            chunks=(*(1 for _ in planes), *chunk),
            shards=(*planes, *(math.ceil(size / edge) * edge for size, edge in zip(shard, chunk, strict=True))),
            fill_value=0,
            compressors=codec,
            dimension_names=list(axes),
        )
    return {key: value.to_bytes() for key, value in files.items() if key != "zarr.json"}


def _even_chunk(size: int) -> int:
    """A chunk near 512 px that divides a level evenly, so that little is padded."""
    return math.ceil(size / max(1, round(size / CHUNK_PX)))


@dataclass(frozen=True, kw_only=True)
class Level:
    """An array of a pyramid, axes t c z y x, whose shards hold all channels of one t and z.

    Attributes:
        folder: of the array.
        chunk, shard: height and width in px.
        codec: that compresses a chunk (numcodecs).
    """

    folder: Path
    chunk: tuple[int, int]
    shard: tuple[int, int]
    codec: Any

    @classmethod
    def of(cls, folder: Path, array: Any) -> Level:
        """From the zarr.Array in a folder, as `array_files` describes them."""
        import numcodecs

        (blosc,) = array.compressors
        shuffle = getattr(numcodecs.Blosc, blosc.shuffle.value.upper())
        codec = numcodecs.Blosc(blosc.cname.value, blosc.clevel, shuffle, blosc.blocksize)
        return cls(folder=folder, chunk=array.chunks[-2:], shard=array.shards[-2:], codec=codec)

    def path(self, t: int, z: int, corner: tuple[int, int]) -> Path:
        """The file of the shard with a corner (y, x) in px of this level."""
        y, x = (at // side for at, side in zip(corner, self.shard, strict=True))
        return self.folder / "c" / str(t) / "0" / str(z) / str(y) / str(x)

    def chunks(self, plane: NDArray[Any]) -> Iterator[bytes | None]:
        """The compressed chunks of one channel of a shard, in C order; None where the image has ended."""
        height, width = self.chunk
        for y in range(0, self.shard[0], height):
            for x in range(0, self.shard[1], width):
                part = plane[y : y + height, x : x + width]
                if part.size == 0:
                    yield None
                    continue
                if part.shape != self.chunk:
                    part = np.pad(part, [(0, want - has) for want, has in zip(self.chunk, part.shape, strict=True)])
                yield self.codec.encode(np.ascontiguousarray(part))


def write_shards(
    levels: Sequence[Level], t: int, z: int, corner: tuple[int, int], pixels: NDArray[Any], run: Map = map
) -> None:
    """Write the shard of each level that a region of an image fills.

    Args:
        levels: the pyramid, level 0 first.
        t, z: the plane.
        corner: (y, x) of the region at level 0 in px, a corner of shards at every level.
        pixels: (c, y, x) of level 0; further levels are means of 2 x 2 px.
        run: how the channels are compressed, such as a pool's `map`.
    """

    def encode(plane: NDArray[Any]) -> list[list[bytes | None]]:
        chunks = []
        for number, level in enumerate(levels):
            plane = halve_mean(plane) if number else plane
            chunks.append(list(level.chunks(plane)))
        return chunks

    with ExitStack() as stack:  # the files appear when all are whole
        paths = [level.path(t, z, (corner[0] >> n, corner[1] >> n)) for n, level in enumerate(levels)]
        files = [_Shard(stack.enter_context(atomic_file(path))) for path in paths]
        for channel in run(encode, pixels):  # in order, so that equal pixels give equal bytes
            for file, chunks in zip(files, channel, strict=True):
                file.add(chunks)
        for file in files:
            file.finish()


class _Shard:
    """A shard that is being written: its chunks, then the table of their places."""

    def __init__(self, file: Sink) -> None:
        self.file, self.end, self.table = file, 0, list[tuple[int, int]]()

    def add(self, chunks: Iterable[bytes | None]) -> None:
        for chunk in chunks:
            if chunk is None:
                self.table.append((2**64 - 1, 2**64 - 1))
            else:
                self.table.append((self.end, len(chunk)))
                self.end += self.file.write(chunk)

    def finish(self) -> None:
        from google_crc32c import value

        table = np.array(self.table, "<u8").tobytes()
        self.file.write(table + value(table).to_bytes(4, "little"))


def halve_mean(pixels: NDArray[Any]) -> NDArray[Any]:
    """Means of 2 x 2 pixels, rounded half up; at an odd border of those that exist.

    Args:
        pixels: unsigned integers, (..., y, x).

    Returns:
        (..., ceil(y / 2), ceil(x / 2)) of the same type.
    """
    height, width = pixels.shape[-2:]
    half = np.empty((*pixels.shape[:-2], (height + 1) // 2, (width + 1) // 2), pixels.dtype)
    for index in np.ndindex(*pixels.shape[:-2]):
        _halve(pixels[index], half[index])
    return half


def halve_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """Every second label of every second row: labels aren't mixed."""
    return np.ascontiguousarray(labels[..., ::2, ::2])


@compiled
def _halve(pixels: NDArray[Any], half: NDArray[Any]) -> None:
    height, width = pixels.shape
    for y in range(half.shape[0]):
        up, low = pixels[2 * y], pixels[min(2 * y + 1, height - 1)]
        for x in range(width // 2):  # without a condition inside, so that it is compiled to vectors
            total = np.uint32(up[2 * x]) + np.uint32(up[2 * x + 1]) + np.uint32(low[2 * x]) + np.uint32(low[2 * x + 1])
            half[y, x] = (total + np.uint32(2)) >> np.uint32(2)
        if width % 2:  # at an odd border a pixel counts twice, which is the mean of those that exist
            total = np.uint32(2) * (np.uint32(up[width - 1]) + np.uint32(low[width - 1]))
            half[y, width // 2] = (total + np.uint32(2)) >> np.uint32(2)
