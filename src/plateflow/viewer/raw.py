"""Files of a plate's store as other programs read them by HTTP: whole, or a range of bytes; nothing else is given."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from plateflow.errors import PlateflowError


class RangeError(PlateflowError):
    """No byte of a file is in the range that was asked for; `size` is the file's."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size} bytes")
        self.size = size


def segments(path: str) -> list[str] | None:
    """The names in the path of an address, each decoded once; None where one can't be that of a file.

    An address is taken as it came, as nothing says what `..` or an empty name would mean here: neither is ever needed.
    """
    if not path.startswith("/"):
        return None
    names = []
    for part in path[1:].split("/"):
        try:
            name = unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            return None
        if name in ("", ".", "..") or re.search(r"[/\\\x00-\x1f\x7f]", name):
            return None
        names.append(name)
    return names


def file_in(store: Path, results: Path, names: list[str]) -> Path | None:
    """The file of that name in a store; None where there is none, or it is a link that leads out of the results."""
    try:
        file = store.joinpath(*names).resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    hidden = any(name.startswith(".") for name in names)  # what is being written
    return file if file.is_file() and file.is_relative_to(results) and not hidden else None


def byte_range(said: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of the single range in a header `Range`; None for the whole file: of several, or of a header
    that isn't understood, a server may pass over all (RFC 9110, 14.2).

    Raises:
        RangeError: the file ends before it.
    """
    match = re.fullmatch(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", said or "", re.ASCII)
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        if int(match[2]) == 0 or size == 0:
            raise RangeError(size)
        return max(size - int(match[2]), 0), size - 1
    first, last = int(match[1]), int(match[2] or size)
    if match[2] and last < first:
        return None
    if first >= size:
        raise RangeError(size)
    return first, min(last, size - 1)
