"""Shards: how an image is cut into them, and how whole ones are written straight to their files.

A shard holds all channels of a level, for one t and z. Where a level would make a shard of more than `SHARD_BYTES` the
image is cut into equal regions, the same at every level, so that memory stays bounded and a region without a field is
never written. zarr's own way of writing them takes longer than compressing them.

The format is that of Zarr 3's codec `sharding_indexed`: the compressed chunks one after another, each with its CRC32C
at its end; then the offset and length of each chunk, in C order (uint64, little endian, all ones where there is none);
then the CRC32C of that table. So no bit of a shard changes unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import chain, product, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.files import Sink, atomic_file
from plateflow.images.layout import Region, WellLayout

CHUNK_PX = 512
SHARD_BYTES = 2**30
PIECE_PX = 2**22
"""Labels are taken from their canvases in pieces of at most this many px, and of at least one chunk."""
Map = Callable[[Callable[[NDArray[Any]], Any], Iterable[NDArray[Any]]], Iterable[Any]]
Paint = Callable[[Region], NDArray[np.uint32] | None]
"""Gives the labels of a region of level 0, uint32 (y, x); None where there can be none."""


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
    shape: tuple[int, ...], dtype: str, region: tuple[int, int], levels: int, axes: str, former: bool = False
) -> dict[str, bytes]:
    """The `zarr.json` of the arrays of all levels, by name: made once in memory, as zarr's way takes 50 ms each.

    Args:
        shape: of level 0.
        dtype: of the pixels; uint32 are labels.
        region: height and width in px of a shard at level 0.
        axes: their names, such as tczyx.
        former: whether images are compressed as an earlier release did: LZ4, level 5, of bytes by their place. By bits
            real images of 8 bits take 17 to 28 % less, of 16 bits mostly 5 to 17, and are written no slower.
    """
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

    files: dict[str, Any] = {}
    group = zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=3)
    planes = tuple(size if axis == "c" else 1 for axis, size in zip(axes[:-2], shape, strict=False))
    undivided = region == tuple(shape[-2:])
    codec: Any = BloscCodec(cname="lz4", clevel=9, shuffle="bitshuffle")
    if former:
        codec = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
    if dtype == "uint32":
        codec = ZstdCodec(level=3)
    for level in range(levels):
        space = [math.ceil(size / 2**level) for size in shape[-2:]]
        # Near 512 px, and so that they divide an undivided level evenly: little is padded.
        chunk = [math.ceil(size / max(1, round(size / CHUNK_PX))) if undivided else CHUNK_PX for size in space]
        if dtype != "uint32" and not former:
            chunk[1] += -chunk[1] % 8  # blosc shuffles the bits of eight pixels, or none of a block
        shard = [size if undivided else min(edge >> level, size) for edge, size in zip(region, space, strict=True)]
        group.create_array(
            str(level),
            shape=(*shape[:-2], *space),
            dtype=dtype,
            chunks=(*(1 for _ in planes), *chunk),
            shards=(*planes, *(math.ceil(size / edge) * edge for size, edge in zip(shard, chunk, strict=True))),
            fill_value=0,
            compressors=[codec, Crc32cCodec()],
            dimension_names=list(axes),
        )
    return {key: value.to_bytes() for key, value in files.items() if key != "zarr.json"}


@dataclass(frozen=True, kw_only=True)
class Level:
    """An array of a pyramid, whose shards hold all channels of one t and z.

    Attributes:
        size, chunk, shard: height and width in px.
        compressor: of a chunk (numcodecs).
        checksum: whether a chunk has its CRC32C at its end.
    """

    folder: Path
    size: tuple[int, int]
    chunk: tuple[int, int]
    shard: tuple[int, int]
    compressor: Any
    checksum: bool

    @classmethod
    def of(cls, folder: Path, array: Any) -> Level:
        """From the zarr.Array in a folder, as `array_files` describes them."""
        import numcodecs
        from zarr.codecs import BloscCodec

        codec, *checksum = array.compressors  # an array of an earlier release has none
        if isinstance(codec, BloscCodec):
            shuffle = getattr(numcodecs.Blosc, codec.shuffle.value.upper())
            compressor = numcodecs.Blosc(codec.cname.value, codec.clevel, shuffle, codec.blocksize)
        else:
            compressor = numcodecs.Zstd(codec.level, codec.checksum)
        sizes = {"size": array.shape[-2:], "chunk": array.chunks[-2:], "shard": array.shards[-2:]}
        return cls(folder=folder, **sizes, compressor=compressor, checksum=bool(checksum))

    def path(self, plane: Sequence[int], corner: tuple[int, int]) -> Path:
        """The file of the shard of a plane (its place along all axes but y and x) with a corner in px of this level."""
        y, x = (at // side for at, side in zip(corner, self.shard, strict=True))
        return self.folder.joinpath("c", *map(str, plane), str(y), str(x))

    def chunks(self, plane: NDArray[Any]) -> Iterator[bytes | None]:
        """The chunks of one channel of a shard, in C order."""
        height, width = self.chunk
        for y in range(0, self.shard[0], height):
            for x in range(0, self.shard[1], width):
                yield self.encode(plane[y : y + height, x : x + width])

    def encode(self, part: NDArray[Any]) -> bytes | None:
        """A chunk, or what there is of one at the image's border, compressed; None for zeros alone, or nothing."""
        if not part[:1].any() and not part.any():  # mostly the first row tells, and it costs a hundredth
            return None
        if part.shape != self.chunk:
            part = np.pad(part, [(0, want - has) for want, has in zip(self.chunk, part.shape, strict=True)])
        data: bytes = self.compressor.encode(np.ascontiguousarray(part))
        return data + _crc(data) if self.checksum else data


def write_shards(
    levels: Sequence[Level], plane: Sequence[int], corner: tuple[int, int], pixels: NDArray[Any], run: Map = map
) -> None:
    """Write the shard of each level that a region of an image fills.

    Args:
        levels: the pyramid, level 0 first.
        plane: its place along all axes but y and x.
        corner: (y, x) of the region at level 0 in px, a corner of shards at every level.
        pixels: (c, y, x) of level 0; further levels are means of 2 x 2 px.
        run: how the channels are compressed, such as a pool's `map`.
    """

    def encode(channel: NDArray[Any]) -> list[list[bytes | None]]:
        chunks = []
        for number, level in enumerate(levels):
            channel = halve_mean(channel) if number else channel
            chunks.append(list(level.chunks(channel)))
        return chunks

    with ExitStack() as stack:  # the files appear when all are whole
        paths = [level.path(plane, (corner[0] >> n, corner[1] >> n)) for n, level in enumerate(levels)]
        files = [_Shard(stack.enter_context(atomic_file(path))) for path in paths]
        for channel in run(encode, pixels):  # in order, so that equal pixels give equal bytes
            for file, chunks in zip(files, channel, strict=True):
                file.add(chunks)
        for file in files:
            file.finish()


def write_label_shards(levels: Sequence[Level], plane: Sequence[int], paint: Paint) -> None:
    """Write the shards of a plane of labels, level by level; one without any label isn't written.

    A level is made of 2 x 2 px of the one before it, as in images, by `halve_labels`. Each is taken from level 0 in
    pieces: the memory holds one of them, however large the plane is.
    """
    for number, level in enumerate(levels):
        (height, width), (edge_y, edge_x) = level.size, level.shard
        for corner in product(range(0, height, edge_y), range(0, width, edge_x)):
            chunks = _label_chunks(levels, number, corner, paint)
            for empty, chunk in enumerate(chunks):  # noqa: B007
                if chunk is not None:
                    break
            else:
                continue
            with atomic_file(level.path(plane, corner)) as file:
                shard = _Shard(file)
                shard.add(chain(repeat(None, empty), [chunk], chunks))
                shard.finish()


def _label_chunks(
    levels: Sequence[Level], number: int, corner: tuple[int, int], paint: Paint
) -> Iterator[bytes | None]:
    """The chunks of a shard of labels, in C order."""
    level = levels[number]
    height, width = level.chunk
    wide = width * max(1, (PIECE_PX // (height * width)) >> (2 * number))
    below, right = (min(at + edge, size) for at, edge, size in zip(corner, level.shard, level.size, strict=True))
    for y in range(corner[0], corner[0] + level.shard[0], height):
        for left in range(corner[1], corner[1] + level.shard[1], wide):
            stop = min(left + wide, corner[1] + level.shard[1])
            piece = _halved(
                (slice(y, min(y + height, below)), slice(left, min(stop, right))), number, levels[0].size, paint
            )
            for x in range(0, stop - left, width):
                yield None if piece is None else level.encode(piece[:, x : x + width])


def _halved(region: Region, halvings: int, size: tuple[int, int], paint: Paint) -> NDArray[np.uint32] | None:
    """The labels of a region of a level, halved from those of level 0, which has this size, in bands of PIECE_PX.

    None where there can be none.
    """
    rows, columns = (range(side.start, side.stop) for side in region)
    if not (rows and columns):  # a shard reaches further than what is left of the level
        return None
    piece = None
    whole = slice(columns.start << halvings, min(columns.stop << halvings, size[1]))
    band = max(2, PIECE_PX // max(1, len(columns) << (2 * halvings)) // 2 * 2)  # even, as `halve_labels` takes turns
    for y in range(0, len(rows), band):
        some = rows[y : y + band]
        part = paint((slice(some.start << halvings, min(some.stop << halvings, size[0])), whole))
        if part is None:
            continue
        for _ in range(halvings):
            part = halve_labels(part)
        piece = np.zeros((len(rows), len(columns)), np.uint32) if piece is None else piece
        piece[y : y + band] = part
    return piece


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
        table = np.array(self.table, "<u8").tobytes()
        self.file.write(table + _crc(table))


def _crc(data: bytes) -> bytes:
    """The CRC32C of some bytes as Zarr's codec appends it."""
    from google_crc32c import value

    return int(value(data)).to_bytes(4, "little")


@compiled
def halve_labels(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The most frequent label of 2 x 2 pixels; of several, in turn, the first and the last in raster order.

    So objects neither grow nor shrink, and stay where they are.

    Args:
        labels: (y, x), 0 is background.

    Returns:
        (ceil(y / 2), ceil(x / 2)); at an odd border of the pixels that exist.
    """
    height, width = labels.shape
    half = np.zeros(((height + 1) // 2, (width + 1) // 2), np.uint32)
    for y in range(half.shape[0]):
        up, low = labels[2 * y], labels[min(2 * y + 1, height - 1)]
        for x in range(half.shape[1]):
            right = min(2 * x + 1, width - 1)
            a, b, c, d = up[2 * x], up[right], low[2 * x], low[right]
            if a == b == c == d:
                half[y, x] = a
                continue
            most = 0
            for label in (a, b, c, d) if (y + x) % 2 == 0 else (d, c, b, a):
                count = (label == a) + (label == b) + (label == c) + (label == d)
                if count > most:
                    most, half[y, x] = count, label
    return half


def halve_mean(pixels: NDArray[Any]) -> NDArray[Any]:
    """Means of 2 x 2 of unsigned integers (..., y, x), rounded half up: (..., ceil(y / 2), ceil(x / 2)), of their type.

    At an odd border of those that exist.
    """
    height, width = pixels.shape[-2:]
    half = np.empty((*pixels.shape[:-2], (height + 1) // 2, (width + 1) // 2), pixels.dtype)
    for index in np.ndindex(*pixels.shape[:-2]):
        _halve(pixels[index], half[index])
    return half


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
