"""Whole shards of an image, written straight to their files: zarr's own way takes longer than compressing them.

The format is that of Zarr 3's codec `sharding_indexed`: the compressed chunks one after another; then of each chunk, in
C order, its offset and length (uint64, little endian, all ones where there is none); then the CRC32C of that table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.images.halve import halve_mean

Map = Callable[[Callable[[NDArray[Any]], Any], Iterable[NDArray[Any]]], Iterable[Any]]
_SHUFFLE = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


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
        """From the zarr.Array in a folder, as `store.create_plate` makes them."""
        import numcodecs

        (sharding,) = array.metadata.to_dict()["codecs"]
        inner = sharding["configuration"]
        _, blosc = inner["codecs"]
        how = blosc["configuration"]
        codec = numcodecs.Blosc(how["cname"], how["clevel"], _SHUFFLE[how["shuffle"]], how["blocksize"])
        return cls(folder=folder, chunk=tuple(inner["chunk_shape"][-2:]), shard=array.shards[-2:], codec=codec)

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
    levels: Sequence[Level], t: int, z: int, corner: tuple[int, int], block: NDArray[Any], run: Map = map
) -> None:
    """Write the shard of each level that a block of an image fills.

    Args:
        levels: the pyramid, level 0 first.
        t, z: the plane.
        corner: (y, x) of the block at level 0 in px, a corner of shards at every level.
        block: (c, y, x) of level 0; further levels are means of 2 x 2 px.
        run: how the channels are compressed, such as a pool's `map`.
    """

    def encode(plane: NDArray[Any]) -> list[list[bytes | None]]:
        found = []
        for number, level in enumerate(levels):
            plane = halve_mean(plane) if number else plane
            found.append(list(level.chunks(plane)))
        return found

    files = [_Shard(level, t, z, (corner[0] >> n, corner[1] >> n)) for n, level in enumerate(levels)]
    try:
        for channel in run(encode, block):  # in order, so that equal pixels give equal bytes
            for file, chunks in zip(files, channel, strict=True):
                file.add(chunks)
        for file in files:
            file.close()
    finally:
        for file in files:
            file.discard()


class _Shard:
    """A file being written, beside its place until it is whole."""

    def __init__(self, level: Level, t: int, z: int, corner: tuple[int, int]) -> None:
        y, x = (at // side for at, side in zip(corner, level.shard, strict=True))
        self.path = level.folder / "c" / str(t) / "0" / str(z) / str(y) / str(x)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        self.file = self.partial.open("wb")
        self.table: list[tuple[int, int]] = []
        self.end = 0

    def add(self, chunks: Iterable[bytes | None]) -> None:
        for chunk in chunks:
            if chunk is None:
                self.table.append((2**64 - 1, 2**64 - 1))
                continue
            self.table.append((self.end, len(chunk)))
            self.end += self.file.write(chunk)

    def close(self) -> None:
        from google_crc32c import value

        table = np.array(self.table, "<u8").tobytes()
        self.file.write(table + value(table).to_bytes(4, "little"))
        self.file.close()
        self.partial.replace(self.path)

    def discard(self) -> None:
        """Remove what didn't become whole."""
        self.file.close()
        self.partial.unlink(missing_ok=True)
