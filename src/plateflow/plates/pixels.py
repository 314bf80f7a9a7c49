"""One plane's pixels: read, and checked against what the manifest says of it.

Damaged files raise many classes (tifffile, imagecodecs, struct, memory); here each becomes one `PlaneError` with a
reason that a machine can read.
"""

from __future__ import annotations

import errno
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MACHINE = {errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE}


class PlaneError(Exception):
    """A plane that can't be used.

    Attributes:
        reason: missing, empty_file, truncated, wrong_size, wrong_type, nan or unreadable.
        detail: one sentence for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def header(path: Path) -> tuple[int, int, str] | None:
    """Height, width and pixel type of a TIFF's first page, a PNG, or a Zarr array; None where it can't be read."""
    import tifffile

    try:
        if path.suffix.lower() == ".png":
            with path.open("rb") as png:
                shape, dtype = _png_header(png.read(26))
            return shape[0], shape[1], dtype
        if path.is_dir():
            array = _open_array(path)
            return int(array.shape[-2]), int(array.shape[-1]), str(array.dtype)
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            return int(page.shape[0]), int(page.shape[1]), str(page.dtype)
    except Exception:
        return None


def read_plane(
    path: str | Path, page: int = 0, *, height: int, width: int, dtype: str, decode: bool = True
) -> NDArray[Any]:
    """Read one plane.

    Args:
        path: a TIFF or PNG file, or the folder of a Zarr array (..., y, x).
        page: the page in a TIFF, from 0; of an array its planes, counted over all axes but the last two.
        height, width: the size that it must have, in px.
        dtype: the pixel type that it must have: uint8 or uint16.
        decode: False looks at the headers and the file's length alone, and returns an empty array.

    Returns:
        the pixels, (height, width), of `dtype`.

    Raises:
        PlaneError: there is something wrong with the file.
        OSError: there is something wrong with the machine (too many open files, an input/output error).
    """
    import tifffile

    path = Path(path)
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise PlaneError("missing", f"{path} is not there") from None
    except OSError as error:  # a folder that may not be entered, links in a circle
        if error.errno in _MACHINE:
            raise
        raise PlaneError("unreadable", f"{path}: {type(error).__name__}: {error.strerror}") from error
    if size == 0:
        raise PlaneError("empty_file", f"{path} has no content")
    try:
        if path.is_dir():
            return _read_array(path, page, (height, width), dtype, decode=decode)
        if path.suffix.lower() == ".png":
            return _read_png(path, (height, width), dtype, decode=decode)
        with tifffile.TiffFile(path) as file:
            if page >= len(file.pages):
                raise PlaneError("truncated", f"{path} has {len(file.pages)} pages; page {page + 1} is asked for")
            found: Any = file.pages[page]
            if found.shape != (height, width):
                expected = f"{height} x {width}"
                raise PlaneError("wrong_size", f"{path} is {' x '.join(map(str, found.shape))} px, not {expected}")
            end = max((o + n for o, n in zip(found.dataoffsets, found.databytecounts, strict=False)), default=0)
            if end > size:
                raise PlaneError("truncated", f"{path} has {size:,} bytes; its header speaks of {end:,}")
            if found.dtype != np.dtype(dtype):
                raise _wrong_type(path, found, dtype, decode=decode)
            return found.asarray() if decode else np.empty((0, 0), dtype)
    except PlaneError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _MACHINE:
            raise
        reason = "truncated" if _directory_is_cut(path, size) else "unreadable"
        raise PlaneError(reason, f"{path}: {type(error).__name__}: {error}") from error


def _png_header(start: bytes) -> tuple[tuple[int, ...], str]:
    """Shape and pixel type from the first 26 bytes of a PNG: grey, or a number of colours."""
    signature, _, kind, width, height, bits, colour = struct.unpack(">8s4s4sIIBB", start)
    if signature != b"\x89PNG\r\n\x1a\n" or kind != b"IHDR":
        raise ValueError("it is no PNG")
    samples = {0: (), 3: (), 4: (2,), 2: (3,), 6: (4,)}[colour]
    return (height, width, *samples), f"uint{bits}" if colour != 3 else "palette"


def _read_png(path: Path, size: tuple[int, int], dtype: str, *, decode: bool) -> NDArray[Any]:
    import imagecodecs

    content = path.read_bytes()
    shape, found = _png_header(content[:26])
    if shape != size:
        raise PlaneError("wrong_size", f"{path} is {' x '.join(map(str, shape))} px, not {size[0]} x {size[1]}")
    if found != dtype:
        raise PlaneError("wrong_type", f"{path} has {found} pixels, not {dtype}")
    if b"IEND" not in content[-12:]:
        raise PlaneError("truncated", f"{path} has no end")
    return np.asarray(imagecodecs.png_decode(content)) if decode else np.empty((0, 0), dtype)


def _open_array(path: Path) -> Any:
    import zarr

    return zarr.open_array(path, mode="r")


def _read_array(path: Path, page: int, size: tuple[int, int], dtype: str, *, decode: bool) -> NDArray[Any]:
    array = _open_array(path)
    if array.shape[-2:] != size:
        raise PlaneError("wrong_size", f"{path} is {' x '.join(map(str, array.shape))} px, not {size[0]} x {size[1]}")
    if array.dtype != np.dtype(dtype):
        raise PlaneError("wrong_type", f"{path} has {array.dtype} pixels, not {dtype}")
    index = np.unravel_index(page, array.shape[:-2]) if array.ndim > 2 else ()
    return np.asarray(array[tuple(int(n) for n in index)]) if decode else np.empty((0, 0), dtype)


def _directory_is_cut(path: Path, size: int) -> bool:
    """Whether a TIFF's directory, which many writers put last, should lie beyond the end of the file."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:  # a folder, or a file that may not be read
        return False
    orders = {b"II*\0": "little", b"MM\0*": "big"}
    order: Any = orders.get(start[:4])
    return order is not None and int.from_bytes(start[4:8], order) + 2 > size


def _wrong_type(path: Path, page: Any, dtype: str, *, decode: bool) -> PlaneError:
    if decode and page.dtype is not None and page.dtype.kind == "f" and np.isnan(page.asarray()).any():
        return PlaneError("nan", f"{path} holds pixels that are not a number")
    return PlaneError("wrong_type", f"{path} has {page.dtype} pixels, not {dtype}")
