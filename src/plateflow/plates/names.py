"""What the names of images say, where a vendor writes well, field, time point, plane and channel into them."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError, printable
from plateflow.paths import parse_well
from plateflow.plates.files import Listing

NUMBERS = {"field": 1, "t": 0, "z": 0, "channel": 1}
"""What a name gives besides the well, and the number that is taken where it does not."""


class NamePattern:
    """How a vendor names its images.

    Args:
        regex: matches a whole file name, in any case and without its folder; with the group `well`, or `row` and
            `column` (counted from 1), and any of the groups `field`, `t`, `z` and `channel`, which are numbers.
    """

    def __init__(self, regex: str) -> None:
        self.regex = re.compile(regex, re.IGNORECASE)

    def match(self, name: str) -> re.Match[str] | None:
        """The match of a path's file name; None where it is named otherwise."""
        return self.regex.fullmatch(PurePosixPath(name).name)

    def record(self, name: str) -> dict[str, Any] | None:
        """What a path's file name says.

        Returns:
            `row` and `column`, from 0, and the `NUMBERS`; None where the file is named otherwise, or no plate has such
            a well.
        """
        match = self.match(name)
        if match is None:
            return None
        groups = match.groupdict()
        try:
            row, column = parse_place(groups)
        except ValueError:
            return None
        return {"row": row, "column": column} | {key: int(groups.get(key) or NUMBERS[key]) for key in NUMBERS}

    def planes(self, names: Iterable[str]) -> tuple[list[dict[str, Any]], list[str]]:
        """The records of all images that are named so, with their `path`, and the names of the others."""
        records = {name: self.record(name) for name in names}
        planes = [record | {"path": name} for name, record in records.items() if record]
        return planes, [name for name, record in records.items() if not record]

    def differs(self, name: str, plane: Mapping[str, Any], *keys: str) -> bool:
        """Whether a file name says another well than a plane's record, or another of the `NUMBERS` in `keys`."""
        record = self.record(name)
        if record is None:
            return self.match(name) is not None
        return any(record[key] != plane[key] for key in ("row", "column", *keys))

    def unlisted(self, listing: Listing, planes: Iterable[Mapping[str, Any]]) -> set[str]:
        """The images that are named so and that no plane refers to."""
        return {name for name in listing.image_names() if self.match(name)} - {plane.get("path") for plane in planes}


def several_measurements(spec: PlateSpec, names: Collection[str]) -> RawDataError:
    """The error over the folder of a plate that holds more than one; the names tell them apart."""
    return RawDataError(
        "the folder holds several measurements",
        where=f"{spec.plate}: {spec.path}: {', '.join(sorted(names)[:6])}" + (" and more" if len(names) > 6 else ""),
        why="a plate is one measurement, in a folder of its own",
        remedy="give the folder of each; `plateflow init FOLDER/*` takes them all, a line of the plate sheet each",
    )


def refuse_odd_name(path: str, *, plate: str = "") -> None:
    """Refuse a path that is not UTF-8: neither a manifest nor a message can hold it.

    Args:
        path: as Python gives it, with the bytes that are not UTF-8 escaped as lone surrogates.

    Raises:
        RawDataError: it is not UTF-8.
    """
    if (shown := printable(path)) != path:
        raise RawDataError(
            "a file name is not UTF-8",
            where=f"{plate}: {shown}" if plate else shown,
            why="it was written in another encoding, as by a Windows program, an archive or an old share",
            remedy="rename it, or all of a folder: convmv -f cp1252 -t utf-8 -r --notest FOLDER",
        )


def refuse_odd_names(spec: PlateSpec, listing: Listing, images: Collection[str]) -> None:
    """Refuse images whose names are not UTF-8; other files may be called as they like.

    Metadata in UTF-8 spell such a name right, so that the file would be missing: a file that differs from a missing one
    in its odd characters alone is taken for it.

    Raises:
        RawDataError: names the first of them.
    """
    refuse_odd_name(str(listing.root), plate=spec.plate)
    missing = {_ascii(name) for name in images if not name.isascii() and name not in listing.files}
    others = (name for name in listing.files if not name.isascii() and _ascii(name) in missing)
    odd = (name for name in (*images, *others) if printable(name) != name)
    if (first := min(odd, default=None)) is not None:
        refuse_odd_name(str(listing.root / first), plate=spec.plate)


def _ascii(path: str) -> str:
    """A path's file name, each character but ASCII replaced; a table may name another folder."""
    return "".join(character if character.isascii() else "?" for character in path.rpartition("/")[2])


def parse_place(values: Mapping[str, str | None]) -> tuple[int, int]:
    """Row and column, from 0, of a well.

    Args:
        values: hold `well`, a name, or `row` (letters, or a number from 1) and `column` (a number from 1).

    Raises:
        ValueError: they are missing, or no plate has such a well; numbers off the plate are left to `make_index`.
    """
    if well := values.get("well"):
        return parse_well(well)
    row, column = values.get("row") or "", values.get("column") or ""
    if row.isdecimal():
        return int(row) - 1, int(column) - 1
    return parse_well(f"{row}{column.zfill(2)}")
