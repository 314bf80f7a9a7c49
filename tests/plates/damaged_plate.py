"""A small good plate in any layout, and copies of it to damage."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from vendors import LAYOUTS

from plateflow.paths import parse_well
from plateflow.simulate.layout import PlateDescription, Record

WELLS, FIELDS, SIZE, PIXEL_UM = ("B02", "C05"), 2, (24, 40), 0.5
CHANNELS = {"DNA": 2, "AGP": 1}
"""Channel and its z planes."""


def write_good(out: Path, layout: str) -> Path:
    """Write two wells of two fields that touch, of noise; returns the plate's folder."""
    rng = np.random.default_rng(3)
    plate = PlateDescription(name="p", plate_shape=(8, 12), field_shape=SIZE, pixel_size_um=PIXEL_UM)
    writer = LAYOUTS[layout](out, plate)
    for well in WELLS:
        row, column = parse_well(well)
        for field in range(FIELDS):
            y, x = 4.0, (field - 0.5) * SIZE[1] * PIXEL_UM
            for channel, (name, depth) in enumerate(CHANNELS.items()):
                for z in range(depth):
                    place = {"row": row, "column": column, "field": field, "channel": channel, "channel_name": name}
                    record = Record(**place, y_um=y, x_um=x, z=z, z_um=2.0 * z)
                    writer.write(record, rng.integers(90, 4000, SIZE).astype(np.uint16))
    writer.finish()
    return writer.raw


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A copy of a plate, to be damaged."""

    root: Path
    layout: str

    @property
    def zarr(self) -> bool:
        return self.layout.startswith("omezarr")

    def images(self) -> list[Path]:
        """Files that hold pixels."""
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        if self.zarr:
            return [path for path in files if re.fullmatch(r"\d+", path.name)]
        return [path for path in files if path.suffix.lower() in (".tif", ".tiff")]

    def metadata(self) -> list[Path]:
        """All other files."""
        images = set(self.images())
        return sorted(path for path in self.root.rglob("*") if path.is_file() and path not in images)

    def edit(self, pattern: str, new: str | Callable[[re.Match[bytes]], bytes], *, count: int = 0) -> None:
        """Replace in the metadata, and in the headers of images that hold metadata.

        Args:
            pattern: a regular expression; only its group `v` is replaced where it has one.
            new: the replacement, or a function of the match.
            count: how many matches to replace in all; 0 for every one.
        """
        compiled, left = re.compile(pattern.encode(), re.DOTALL), count
        found = 0
        for path in [*self.metadata(), *([] if self.zarr else self.images())]:
            content = path.read_bytes()
            if path in self.images():
                with tifffile.TiffFile(path) as file:
                    pixels, content = file.asarray(), file.pages[0].description.encode()

            def put(match: re.Match[bytes]) -> bytes:
                value = new(match) if callable(new) else new.encode()
                if "v" not in compiled.groupindex:
                    return value
                start, end = (match.span("v")[n] - match.start() for n in (0, 1))
                return match[0][:start] + value + match[0][end:]

            changed, n = compiled.subn(put, content, count=left)
            if not n:
                continue
            found += n
            if path in self.images():
                tifffile.imwrite(path, pixels, compression="lzw", metadata=None, description=changed)
            else:
                path.write_bytes(changed)
            if count and (left := count - found) <= 0:
                break
        assert found, f"{self.layout} has no {pattern}"


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One kind of damage.

    Attributes:
        make: damages a copy in place.
        says: a regular expression that one of the messages must match; empty where any will do.
        harmless: whether the plate may be read as if nothing had happened.
    """

    name: str
    make: Callable[[Raw], None]
    says: str = ""
    harmless: bool = False
