"""A plate's raw folder: planes and stats are read from it, and whose fault it is where that fails.

A share that drops looks like thousands of damaged files. A fault is a file's own only where decoding says so, or where
the system refuses this one name, in a folder that can be listed and of which another file opens. Every other error of
the system is the machine's: it fails the job, and nothing is given up for it.
"""

import os
from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from plateflow.errors import RawDataError
from plateflow.files import is_litter, stat_of
from plateflow.plates.pixels import PlaneError, own_fault, read_plane

_TRIED = 64
"""So many other files are tried where a file can't be read; if none opens, the machine is at fault."""


def machine_error(error: OSError, *, where: str, one_plane: bool = False) -> RawDataError:
    """The error over raw data of which the machine is the cause; `one_plane`: the well can do without what was read."""
    one = ". If it is but one file that the disk can't read any more, remove it: its field is left out then"
    return RawDataError(
        "raw data can't be read: the share, the disk or this machine fails",
        where=where,
        why=f"the system says: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""),
        remedy="see to the share, the disk or this machine, and run `snakemake` again: what is done stays done"
        + (one if one_plane else ""),
    )


def unmounted(folder: Path) -> OSError | None:
    """Why a folder that isn't there may be there for another attempt: the one above it is gone, too, or empty."""
    try:
        beside = next(folder.parent.iterdir(), None)
    except OSError as error:
        return error
    return None if beside else FileNotFoundError(f"{folder.parent} is empty: not mounted?")


class RawFolder:
    """The raw folder of a plate.

    Args:
        folder: its path; links are followed on use, so that they may lead elsewhere tomorrow.

    Attributes:
        root: the folder's absolute path.
    """

    def __init__(self, folder: str | Path) -> None:
        self.root = Path(folder).absolute()
        self._sound: Path | None = None  # the last file that was seen to open

    def path(self, name: str) -> Path:
        """A file by its path within the folder, as the manifest gives it."""
        return self.root / name

    def stat(self, name: str) -> list[int] | None:
        """Size and modification time (ns) of a file, as `files.stat_of`; None where there is none to be seen.

        Raises:
            RawDataError: the machine is at fault.
        """
        path = self.path(name)
        try:
            found = _stat(path)
            if found is None:
                self._look_around(path)
                found = _stat(path)
        except OSError as error:
            raise machine_error(error, where=str(path)) from error
        return found

    def read(self, row: Mapping[Any, Any], *, decode: bool = True) -> NDArray[Any]:
        """The raw pixels of a plane; see `read_plane`. A plane that can't be read is read once more.

        Raises:
            PlaneError: the file itself is damaged or not there, or the metadata have none.
            RawDataError: the machine is at fault.
        """
        if not row["path"]:
            place = f"channel {row['channel']}, t {row['t']}, z {row['z']}"
            raise PlaneError("missing", f"the metadata have no image for {place}")
        path, size = self.path(row["path"]), {key: row[key] for key in ("height", "width", "dtype")}
        try:
            try:
                pixels = read_plane(path, row["page"], **size, decode=decode)
            except PlaneError:
                self._look_around(path)
                try:
                    pixels = read_plane(path, row["page"], **size, decode=decode)
                except PlaneError:
                    self._look_around(path)
                    raise
        except OSError as error:
            where = f"{row['plate']}/{row['well']}: {path}"
            raise machine_error(error, where=where, one_plane=True) from error
        self._sound = path
        return pixels

    def look_around(self, name: str) -> None:
        """See that what failed with one file doesn't fail with all.

        Raises:
            RawDataError: the folder can't be listed, or no other file of it opens: the machine is at fault.
        """
        path = self.path(name)
        try:
            self._look_around(path)
        except OSError as error:
            raise machine_error(error, where=str(path)) from error

    def _look_around(self, path: Path) -> None:
        for place in takewhile(lambda place: self.root in place.parents, path.parents):
            if _is_link(place):
                place.stat()  # it leads nowhere where the share of the images is away
        folder = path.parent
        while self.root in folder.parents and not folder.exists():
            folder = folder.parent
        for place in {self.root, folder}:
            with os.scandir(place) as entries:
                next(entries, None)
        refused: OSError | None = None
        for other in islice(self._others(path, folder), _TRIED):
            try:
                _open(other)
            except OSError as error:
                if not own_fault(error):
                    raise
                refused = error
            else:
                self._sound = other
                return
        if refused is not None:
            raise refused

    def _others(self, path: Path, folder: Path) -> Iterator[Path]:
        """Files of the plate but this one: one that could be read before, then any, those nearby first.

        Of a link other links: that the index lies here says nothing of the share to which the images are links.
        """
        linked = _is_link(path)
        if self._sound is not None and self._sound != path and (_is_link(self._sound) or not linked):
            yield self._sound
        for place in dict.fromkeys((folder, self.root)):
            for base, folders, names in os.walk(place):
                folders.sort()
                if Path(base) == path:
                    folders.clear()
                    continue
                for name in sorted(names):
                    other = Path(base, name)
                    if other != path and not is_litter(name) and (_is_link(other) or not linked):
                        yield other


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # noqa: PTH114 - Path's raises where a name can't be looked at


def _stat(path: Path) -> list[int] | None:
    try:
        return stat_of(path)
    except OSError as error:
        if not own_fault(error):
            raise
        return None


def _open(path: Path) -> None:
    """Open a file, or one of a Zarr array's, and read from it."""
    if path.is_dir():
        path = next((below for below in path.iterdir() if below.is_file()), path)
    with path.open("rb") as file:
        file.read(1)
