"""Files of the scratch: flow fields and end points, written whole; nameless files for large arrays.

Imports neither torch nor zarr: a job that has nothing to do loads this.

A file of flows or end points holds pieces, each compressed (Zstandard) and with its CRC32C, so that any of them is read
by itself and no bit changes unseen: `MAGIC`, the length of the header (4 bytes), the header (JSON), the pieces, a table
of the length and checksum of each, their number, and the checksum of header and table (little endian, 4 bytes each).
zarr keeps chunks in one file, too (a zip), but takes longer, and can't leave out the vectors of pixels (design.md).
"""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import ResultsError
from plateflow.files import atomic_file, checksum, make_folder
from plateflow.model.registry import LOGIT_LIMIT

MAGIC = b"PLATEFL1"
CHUNK_PX = 256
"""Edge of a chunk of a flow field in px; in three dimensions a chunk has half as many voxels, or a cube's."""
CUBE_PX = 32
ENDPOINTS = 2**20
"""End points of a block that make a piece."""
THREADS = 4
"""That compress a flow field; what they have ready waits for at most one chunk each."""
LEVEL = -1
"""Of Zstandard: 1 saves 1.5 % of the bytes, and takes up to twice as long (docs/performance.md)."""
Region = tuple[slice, ...]


def write_flows(path: Path, flow: NDArray[np.float16], bound: float) -> None:
    """Write a flow field by rename, without a copy of it in memory.

    Of a pixel whose logit is at or below the bound nothing is stored: its vector is read as 0, its logit as the least
    there is. That changes nothing for a `cell_threshold` at the bound or above: a pixel that is no cell counts nowhere.

    Args:
        flow: ``(D + 1, *space)``, the logit last.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    chunk = _chunk_of(flow.shape[1:])
    header = {"shape": list(flow.shape), "chunk": list(chunk), "bound": bound}
    _write_pieces(path, header, _packed(flow, chunk, bound))


def _chunk_of(space: tuple[int, ...]) -> tuple[int, ...]:
    if len(space) == 2:
        return CHUNK_PX, CHUNK_PX
    depth = min(space[0], CUBE_PX)
    edge = math.isqrt(CUBE_PX**3 // max(1, depth))
    return depth, edge, edge


def _packed(flow: NDArray[np.float16], chunk: tuple[int, ...], bound: float) -> Iterator[bytes]:
    """Two pieces of each chunk: its logits, and its vectors; both empty where nothing is stored.

    A few threads make them, as one alone would keep a fast GPU waiting; each piece is the work of one.
    """
    from plateflow.flows import release_pages
    from plateflow.flows.blocks import cell_table
    from plateflow.segment.packing import pack

    stored, compress, axes = cell_table(float(bound)), _codec().encode, len(flow) - 1

    def pieces(region: Region) -> tuple[bytes, bytes]:
        part = np.ascontiguousarray(flow[(slice(None), *region)], np.float16).view(np.uint16)
        pixels = part[0].size
        logits, vectors = np.empty(2 * pixels, np.uint8), np.empty(2 * axes * pixels, np.uint8)
        count = pack(_with_z(part), stored, logits, vectors)
        if count < 0:
            raise ValueError("the flow field isn't finite: it has NaN or infinite values")
        return (compress(logits[: pixels + count]), compress(vectors[: 2 * axes * count])) if count else (b"", b"")

    ahead: deque[tuple[Region, Future[tuple[bytes, bytes]]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for region in chain(_regions(flow.shape[1:], chunk), [None] * THREADS):
            if region:
                ahead.append((region, pool.submit(pieces, region)))
            if ahead and (len(ahead) > THREADS or region is None):
                done, made = ahead.popleft()
                yield from made.result()
                if done[-1].stop == flow.shape[-1]:
                    release_pages(flow)


def _regions(space: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[Region]:
    axes = zip(space, chunk, strict=True)
    return product(*([slice(a, min(a + edge, size)) for a in range(0, size, edge)] for size, edge in axes))


def _with_z(part: NDArray[Any]) -> NDArray[Any]:
    return part if part.ndim == 4 else part[:, None]


def open_flows(path: Path, cell_threshold: float) -> StoredFlows | NDArray[np.float16]:
    """Open a flow field, of which labels are to be made with a threshold, for `FlowField`; an earlier release's, too.

    Raises:
        ResultsError: the file is gone or damaged, or was written for higher thresholds alone.
    """
    if (earlier := _earlier(path)) is not None:
        return earlier
    stored = StoredFlows(path)
    if cell_threshold < stored.bound:
        raise ResultsError(
            f"the flow field has nothing where the logit is at or below {stored.bound:g}",
            where=str(path),
            why=f"cell_threshold is {cell_threshold:g}: some pixels of cells would be lost",
            remedy="`plateflow retry PLATE --stage infer`, then `snakemake`; or raise cell_threshold",
        )
    return stored


class StoredFlows:
    """A flow field in a file, read by region: ``field[:, y0:y1, x0:x1]``, ``field[2, y0:y1, x0:x1]``. Threads may.

    Attributes:
        shape: ``(D + 1, *space)``.
        bound: of the logit, as of `write_flows`.

    Raises:
        ResultsError: the file is gone or damaged; by reading, too.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, path: Path) -> None:
        self._pieces = _Pieces(path)
        with self._pieces.understood():
            header = self._pieces.header
            self.shape: tuple[int, ...] = tuple(map(int, header["shape"]))
            self.bound = float(header["bound"])
            self._chunk: tuple[int, ...] = tuple(map(int, header["chunk"]))
            axes = zip(self.shape[1:], self._chunk, strict=True)
            self._grid = tuple(math.ceil(size / edge) for size, edge in axes)
            if self._pieces.number != 2 * math.prod(self._grid):
                raise ValueError("it has another number of chunks than its shape asks for")

    def __getitem__(self, key: Any) -> NDArray[Any]:
        from plateflow.segment.packing import unpack

        channel, *space = key if isinstance(key, tuple) else (key,)
        space += [slice(None)] * (len(self.shape) - 1 - len(space))
        region = [range(*each.indices(size)) for each, size in zip(space, self.shape[1:], strict=True)]
        if any(each.step != 1 for each in region):
            raise IndexError("a flow field is read in whole regions, without steps")
        logit_alone = isinstance(channel, int) and channel in (-1, self.shape[0] - 1)
        bits = np.empty((1 if logit_alone else self.shape[0], *map(len, region)), np.uint16)
        nothing = int(np.float16(-LOGIT_LIMIT).view(np.uint16))
        for number, shape, of_chunk, of_region in self._met(region):
            logits = self._pieces.read(2 * number)
            if not logits.size:
                bits[(slice(None), *of_region)] = 0
                bits[-1][of_region] = nothing
                continue
            vectors = logits[:0] if logit_alone else self._pieces.read(2 * number + 1)
            part = np.empty((len(bits), *shape), np.uint16)
            if not unpack(logits, vectors, nothing, _with_z(part)):
                raise _damaged(self._pieces.path, "a chunk has another size than its place")
            bits[(slice(None), *of_region)] = part[(slice(None), *of_chunk)]
        flow = bits.view(np.float16)
        return flow[0] if logit_alone else flow[channel]

    def _met(self, region: list[range]) -> Iterator[tuple[int, tuple[int, ...], Region, Region]]:
        """The chunks that a region meets: number and shape of each, and what they share, in the one and the other."""
        for places in product(*(_met(each, edge) for each, edge in zip(region, self._chunk, strict=True))):
            starts = [place * edge for place, edge in zip(places, self._chunk, strict=True)]
            stops = [min(a + edge, size) for a, edge, size in zip(starts, self._chunk, self.shape[1:], strict=True)]
            low = [max(a, each.start) for a, each in zip(starts, region, strict=True)]
            high = [min(b, each.stop) for b, each in zip(stops, region, strict=True)]
            shape = tuple(b - a for a, b in zip(starts, stops, strict=True))
            of_region = _moved(low, high, [each.start for each in region])
            yield int(np.ravel_multi_index(places, self._grid)), shape, _moved(low, high, starts), of_region


def _met(region: range, edge: int) -> range:
    """The chunks of an axis that a region meets."""
    return range(region.start // edge, -(-region.stop // edge)) if region else region


def _moved(low: list[int], high: list[int], origin: list[int]) -> Region:
    return tuple(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True))


def write_endpoints(path: Path, endpoints: NDArray[np.int32], starts: NDArray[np.int32]) -> None:
    """Write the end points of a block by rename, as offsets from where their paths start.

    Args:
        endpoints: ``(D, n)``, px.
        starts: of the paths, in the same order; whoever reads the file needs them again.
    """
    from plateflow.segment.packing import by_byte

    offsets = endpoints - starts
    low, high = offsets.min(initial=0), offsets.max(initial=0)
    dtype = next(kind for kind in ("<i1", "<i2", "<i4") if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    header = {"shape": list(offsets.shape), "dtype": dtype, "starts": checksum(np.ascontiguousarray(starts))}
    compress = _codec().encode
    parts = (offsets[:, start : start + ENDPOINTS] for start in range(0, offsets.shape[1], ENDPOINTS))
    _write_pieces(path, header, (compress(by_byte(np.ascontiguousarray(part, dtype))) for part in parts))


def read_endpoints(path: Path, starts: NDArray[np.int32]) -> NDArray[np.int32]:
    """Read the end points of a block, int32 ``(D, n)``; those of an earlier version of Plateflow, an npy file, too.

    Args:
        starts: of the block's paths, as the flow field and the threshold tell them now.

    Raises:
        ResultsError: the file is gone or damaged, or of paths that start elsewhere.
    """
    from plateflow.segment.packing import from_bytes

    if (earlier := _earlier(path)) is not None:
        return earlier
    pieces = _Pieces(path)
    with pieces.understood():
        axes, count = pieces.header["shape"]
        dtype = np.dtype(pieces.header["dtype"])
        if pieces.header["starts"] != checksum(np.ascontiguousarray(starts)) or (axes, count) != starts.shape:
            raise _foreign(path)
        endpoints = starts.copy()
        for number in range(pieces.number):
            part = endpoints[:, number * ENDPOINTS : (number + 1) * ENDPOINTS]
            part += from_bytes(pieces.read(number), dtype).reshape(part.shape)
    return endpoints


def _codec() -> Any:
    from numcodecs import Zstd

    return Zstd(LEVEL)


def _write_pieces(path: Path, header: dict[str, Any], pieces: Iterable[bytes]) -> None:
    head, table = json.dumps(header).encode(), bytearray()
    start = MAGIC + len(head).to_bytes(4, "little") + head
    with atomic_file(path) as file:
        file.write(start)
        for piece in pieces:
            file.write(piece)
            table += struct.pack("<II", len(piece), int(checksum(piece), 16))
        table += (len(table) // 8).to_bytes(4, "little")
        file.write(bytes(table) + int(checksum(start + table), 16).to_bytes(4, "little"))


class _Pieces:
    """The pieces of a file, each read by itself, by as many threads as like to.

    Raises:
        ResultsError: the file is gone, or isn't as it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.understood():
            self._file = path.open("rb", buffering=0)
            size = os.fstat(self._file.fileno()).st_size
            start = self._bytes(0, len(MAGIC) + 4)
            if not start.startswith(MAGIC):
                raise ValueError("it doesn't begin as such a file does")
            start += self._bytes(len(start), int.from_bytes(start[-4:], "little"))
            self.number = int.from_bytes(self._bytes(size - 8, 4), "little")
            table = self._bytes(size - 8 * self.number - 8, 8 * self.number + 8)
            if int(checksum(start + table[:-4]), 16) != int.from_bytes(table[-4:], "little"):
                raise ValueError("its table has another checksum")
            self.header: dict[str, Any] = json.loads(start[len(MAGIC) + 4 :])
            lengths, self._sums = np.frombuffer(table[:-8], "<u4").reshape(-1, 2).T
            self._places = len(start) + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            if self._places[-1] + len(table) != size:
                raise ValueError("it has another size than its pieces")

    def read(self, number: int) -> NDArray[np.uint8]:
        """A piece, decompressed; of an empty one nothing."""
        place, stop = map(int, self._places[number : number + 2])
        if place == stop:
            return np.empty(0, np.uint8)
        with self.understood():
            data = self._bytes(place, stop - place)
            if int(checksum(data), 16) != self._sums[number]:
                raise ValueError(f"piece {number} of {self.number} has another checksum")
            return np.frombuffer(_codec().decode(data), np.uint8)

    def _bytes(self, place: int, length: int) -> bytes:
        data = os.pread(self._file.fileno(), length, place) if place >= 0 else b""
        if len(data) < length:
            raise ValueError("it is cut off")
        return data

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Turn whatever comes of bytes that aren't those of such a file into the error of a damaged one."""
        try:
            yield
        except FileNotFoundError:
            raise _damaged(self.path, "it is gone: removed, purged, or not copied") from None
        except (ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
            raise _damaged(self.path, str(error)) from error


def _damaged(path: Path, why: str) -> ResultsError:
    return ResultsError(
        "flow fields or end points can't be read",
        where=str(path),
        why=why,
        remedy="`plateflow verify PLATE`, then `snakemake`: what is lost is made again",
    )


def _foreign(path: Path) -> ResultsError:
    return ResultsError(
        "the end points aren't those of this flow field and this threshold",
        where=str(path),
        why="their paths start at other pixels",
        remedy="`plateflow retry PLATE/WELL --stage follow`, then `snakemake`",
    )


def _earlier(path: Path) -> NDArray[Any] | None:
    """What an earlier version of Plateflow wrote in this place, mapped; None where there is nothing of it."""
    return np.load(former(path), mmap_mode="r") if former(path).exists() and not path.exists() else None


def former(path: Path) -> Path:
    """Where an earlier version of Plateflow wrote what now is in this file."""
    return path.with_suffix(".npy")


def scratch_array(folder: Path, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of zeros in a nameless file, which disappears with the array, however the job ends."""
    make_folder(folder)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # without it a full disk shows as a bus error at the first write
            os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, "w+", shape=shape)
