"""One plane's pixels: read, and checked against what the manifest says about it.

Damaged files raise many kinds of error (tifffile, imagecodecs, struct, memory); each of them becomes one `PlaneError`
with a reason that programs can test.
"""

import errno
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_OF_ONE_NAME = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM),
    errno.EINVAL,  # of a damaged file that tells the decoder to go where no file reaches
}
"""What the system says of one name or one file, while all others may be sound."""


PIXEL_TYPES = {"uint8", "uint16", "int16"}
"""Of the images that are read; int16: `SIGN` was subtracted, other signed ones count as unsigned."""
_UNSIGNED = {"int8": "uint8", "int16": "uint16"}
SIGN = 2**15
"""Some software stores a camera's values less this, as signed numbers of 16 bits: ScanR (its cameras have 12 bits)."""
PILE_PX = 16
_PILE = 4
"""A pile has this many pixels, and so many times those of any value shortly below it."""


class PlaneError(Exception):
    """A plane that cannot be used.

    Attributes:
        reason: missing, empty_file, truncated, colour, not_brightness, wrong_size, wrong_type, nan, negative or
            unreadable.
        detail: one sentence for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


def own_fault(error: BaseException) -> bool:
    """Whether an error over a file may be that file's own fault: any but those that the system has with all files.

    "May be": a whole share can refuse every name. So whoever gives a file up looks at others first: see `RawFolder`.
    """
    return not isinstance(error, OSError) or error.errno is None or error.errno in _OF_ONE_NAME


def saturation_level(counts: NDArray[np.integer[Any]], bit_max: int) -> int:
    """The raw value from which on pixels are saturated, from how often each value occurs in a field.

    A camera of 12 or 14 bits saturates far below the top of its 16-bit files, and software adds offsets, so the pixels
    tell: where light exceeds the range they pile up at one value, and none is greater.

    Args:
        counts: number of pixels with each value.
        bit_max: the greatest value that the camera can give, as far as the metadata know.

    Returns:
        the value of the pile; without one `bit_max`, or the greatest value where the metadata are wrong.
    """
    used = np.flatnonzero(counts)
    if not len(used) or (greatest := int(used[-1])) == bit_max:
        return bit_max
    if len(used) == 1 and greatest >= 255 and greatest & (greatest + 1) == 0:
        return greatest  # the top of 8, 10, 12 or 14 bits, and light everywhere: no camera's offset
    for level in (min(bit_max, greatest), greatest):
        below = counts[level - max((level - int(used[0])) // 16, 1) : level] if level > used[0] else counts[:0]
        # A tail of noise or of structure falls off towards its end; a pile has values below it, or nothing was exposed.
        if below.any() and counts[level] >= PILE_PX and counts[level] > _PILE * below.max():
            return level
    return max(bit_max, greatest)


class Header(NamedTuple):
    """What the header of an image says.

    Attributes:
        shape: (height, width) of its first plane in px; more axes are colours.
        dtype: its pixel type, see `PIXEL_TYPES`.
        pages: the number of planes in a TIFF, without previews; 0 where that can't be read, 1 in other files.
    """

    shape: tuple[int, ...]
    dtype: str
    pages: int


def pixel_type(name: str) -> str:
    """The name of the type that pixels are read as: of integers up to 16 bits unsigned."""
    return _UNSIGNED.get(name, name)


def _unsigned(pixels: NDArray[Any], dtype: str, path: Path) -> NDArray[Any]:
    """Pixels of any byte order as this machine's, and unsigned; `dtype` is the channel's."""
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype.name not in _UNSIGNED:
        return pixels
    least, greatest = pixels.min(), pixels.max()
    if dtype == "int16" and greatest < 0:
        return pixels.view(np.uint16) - np.uint16(SIGN)
    if dtype != "int16" and least >= 0:
        return pixels.astype(pixel_type(pixels.dtype.name), copy=False)
    why = "those of its channel are all negative" if dtype == "int16" else "a camera's values aren't negative"
    raise PlaneError("negative", f"{path} has signed pixels from {least:,} to {greatest:,}, and {why}")


def camera_tops(metadata: Mapping[str, Any]) -> dict[str, int]:
    """By channel, the greatest value that the camera can give, as far as manifest/plate.json (`metadata`) knows."""
    return {
        channel["name"]: min(metadata["bit_max"], np.iinfo(channel["dtype"]).max) for channel in metadata["channels"]
    }


def header(path: Path, page: int = 0) -> Header | None:
    """The header of a page of a TIFF, of a PNG, or of a Zarr array; None where the file is damaged.

    Of signed pixels of 16 bits, they tell the type: that `SIGN` was subtracted where all are far below 0.

    Raises:
        OSError: the machine is at fault.
    """
    try:
        with _opened(path, page) as plane:
            less = plane.dtype == "int16" and plane.decode().max() < -SIGN // 2
            dtype = plane.dtype if less else pixel_type(plane.dtype)
            return Header(shape=plane.shape, dtype=dtype, pages=plane.pages())
    except Exception as error:
        if not own_fault(error):
            raise
        return None


def read_plane(
    path: str | Path, page: int = 0, *, height: int, width: int, dtype: str, decode: bool = True
) -> NDArray[Any]:
    """Read one plane.

    Args:
        path: a TIFF or PNG file, or the folder of a Zarr array (..., y, x).
        page: the page of a TIFF, from 0; the plane of an array, counted over all axes but the last two.
        height, width: the size that it must have, in px.
        dtype: the pixel type of its channel, one of `PIXEL_TYPES`.
        decode: False only checks the header and the length of the file, and returns an empty array.

    Returns:
        the pixels, (height, width), uint8 or uint16. Signed ones keep their values; of int16, `SIGN` is added.

    Raises:
        PlaneError: the file is damaged, or not as expected.
        OSError: the machine is at fault: a share that isn't connected, an input/output error, too many open files.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise PlaneError("missing", f"{path} is not there") from None
    except OSError as error:  # a folder that may not be entered, a link to itself
        if not own_fault(error):
            raise
        raise PlaneError("unreadable", f"{path}: {type(error).__name__}: {error.strerror}") from error
    if size == 0:
        raise PlaneError("empty_file", f"{path} has no content")
    try:
        with _opened(path, page) as plane:
            if len(plane.shape) > 2:
                raise PlaneError("colour", f"{path} is a colour picture: a pixel has {plane.shape[2]} values")
            if plane.shape != (height, width):
                shape = " x ".join(map(str, plane.shape))
                raise PlaneError("wrong_size", f"{path} is {shape} px, not {height} x {width}")
            if plane.cut:
                raise PlaneError("truncated", f"{path} {plane.cut}")
            if dtype not in (plane.dtype, pixel_type(plane.dtype)):
                if decode and plane.dtype.startswith("float") and np.isnan(plane.decode()).any():
                    raise PlaneError("nan", f"{path} holds pixels that are not a number")
                raise PlaneError("wrong_type", f"{path} has {plane.dtype} pixels, the channel's usual type is {dtype}")
            pixels = _unsigned(plane.decode(), dtype, path) if decode else np.empty((0, 0), dtype)
            if why := plane.fault(pixels):
                raise PlaneError("not_brightness", f"{path}: {why}")
            return pixels
    except (PlaneError, MemoryError):
        raise
    except Exception as error:
        if not own_fault(error):
            raise
        reason = "truncated" if _directory_is_cut(path, size) else "unreadable"
        raise PlaneError(reason, f"{path}: {type(error).__name__}: {error}") from error


class _Stored(NamedTuple):
    """A plane in an open file; `cut` says how the length of the file shows that its end is missing."""

    shape: tuple[int, ...]  # (height, width), and the colours where there are several
    dtype: str  # without a byte order
    decode: Callable[[], NDArray[Any]]
    cut: str = ""
    pages: Callable[[], int] = lambda: 1  # of the file
    fault: Callable[[NDArray[Any]], str] = lambda pixels: ""  # see `not_brightness`


@contextmanager
def _opened(path: Path, page: int) -> Iterator[_Stored]:
    """Open a Zarr array, a PNG or a TIFF; nothing is decoded."""
    if path.is_dir():
        import zarr

        array: Any = zarr.open_array(path, mode="r")

        def decode() -> NDArray[Any]:
            pixels = np.asarray(array[tuple(int(n) for n in np.unravel_index(page, array.shape[:-2]))])
            path.stat()  # zarr takes chunks that aren't there for zeros: a share may be gone by now
            return pixels

        yield _Stored(shape=array.shape[-2:], dtype=array.dtype.name, decode=decode)
    elif path.suffix.lower() == ".png":
        import imagecodecs

        content = path.read_bytes()
        shape, dtype = _png_header(content[:26])
        cut = "" if b"IEND" in content[-12:] else "has no end"
        yield _Stored(shape=shape, dtype=dtype, decode=lambda: np.asarray(imagecodecs.png_decode(content)), cut=cut)
    else:
        import tifffile

        with tifffile.TiffFile(path) as file:
            if page >= len(file.pages):
                raise PlaneError("truncated", f"{path} has {len(file.pages)} pages; page {page + 1} is asked for")
            stored: Any = file.pages[page]
            end = max((o + n for o, n in zip(stored.dataoffsets, stored.databytecounts, strict=False)), default=0)
            size = file.filehandle.size
            cut = f"has {size:,} bytes; its header speaks of {end:,}" if end > size else ""
            shape, dtype = stored.shape, np.dtype(stored.dtype).name
            if stored.samplesperpixel > 1:
                shape = (stored.imagelength, stored.imagewidth, stored.samplesperpixel)
            yield _Stored(shape, dtype, stored.asarray, cut, lambda: _pages_of(file), partial(not_brightness, stored))


def not_brightness(page: Any, pixels: NDArray[Any]) -> str:
    """Why the values of a TIFF's page aren't its brightness, or that of its colours; empty where they are."""
    import tifffile

    kind = tifffile.PHOTOMETRIC(page.photometric).name
    if kind == "MINISWHITE":  # also tifffile's word where the tag isn't there
        return "0 is white" if "PhotometricInterpretation" in page.keyframe.tags else ""
    if kind == "PALETTE" and (np.diff(page.colormap[:, np.unique(pixels)].astype(int)) < 0).any():
        return "they are places in a table of colours that don't get brighter from one to the next"
    decoded = kind == "YCBCR" and page.compression == tifffile.COMPRESSION.JPEG  # as RGB
    return "" if decoded or kind in ("MINISBLACK", "RGB", "PALETTE") else f"they are {kind}"


def _pages_of(file: Any) -> int:
    """The number of planes in an open TIFF, without previews; 0 where it can't be read."""
    try:
        first = file.pages[0]
        pages = file.pages if len(file.pages) > 1 else [first]
        count = sum(page.shape == first.shape and not page.is_reduced for page in pages)
        if file.is_ome:  # whose series may reach into other files
            return count
        return max(count, file.series[0].size // first.size)  # planes may lie beside those that have a page
    except Exception:  # reading the plane tells what is wrong
        return 0


def _png_header(start: bytes) -> tuple[tuple[int, ...], str]:
    """Shape and pixel type from the first 26 bytes of a PNG; colours are a third axis."""
    signature, _, kind, width, height, bits, colour = struct.unpack(">8s4s4sIIBB", start)
    if signature != b"\x89PNG\r\n\x1a\n" or kind != b"IHDR":
        raise ValueError("it is no PNG")
    samples = {0: (), 3: (), 4: (2,), 2: (3,), 6: (4,)}[colour]
    return (height, width, *samples), f"uint{bits}" if colour != 3 else "palette"


def _directory_is_cut(path: Path, size: int) -> bool:
    """Whether the directory of a TIFF, which many writers put last, should lie beyond the end of the file."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:  # a folder, or a file that may not be read
        return False
    order: Any = {b"II*\0": "little", b"MM\0*": "big"}.get(start[:4])
    return order is not None and int.from_bytes(start[4:8], order) + 2 > size
