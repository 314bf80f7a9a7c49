"""The files of a raw plate: listed without leaving its folder, XML parsed safely.

Whatever a parser raises over damaged metadata becomes one kind of error here: see `parsing`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from plateflow.errors import RawDataError
from plateflow.text import TextError, decode

PARSE_ERRORS = (
    *(ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError),
    *(ParseError, DefusedXmlException),
)
"""What parsers raise over text, XML or JSON that is not as it should be."""


@contextmanager
def parsing(what: str, *, where: str, remedy: str) -> Iterator[None]:
    """Turn any error of a parser in the block into one that a user can fix.

    Args:
        what: what is parsed, such as "image 17 of the index".
        where: plate and file.
        remedy: what the user can do if it cannot be parsed.

    Raises:
        RawDataError: in place of any of `PARSE_ERRORS`, with its message as the cause; a `TextError` has a remedy of
            its own.
    """
    try:
        yield
    except TextError as error:
        raise RawDataError(f"cannot parse {what}", where=where, why=str(error), remedy=error.remedy) from error
    except PARSE_ERRORS as error:
        plain = {KeyError: f"{error} is missing", ValueError: str(error), ParseError: str(error)}
        why = plain.get(type(error), f"{type(error).__name__}: {error}")
        raise RawDataError(f"cannot parse {what}", where=where, why=why, remedy=remedy) from error


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a plate's folder.

    Attributes:
        root: the folder, resolved.
        files: path relative to root (with slashes) -> size in bytes and modification time in ns.
        outside: links that lead out of the folder.
    """

    root: Path
    files: dict[str, tuple[int, int]]
    outside: frozenset[str]

    def image_names(self) -> list[str]:
        """The TIFF and PNG files, by name."""
        return sorted(name for name in self.files if name.lower().endswith((".tif", ".tiff", ".png")))

    def nearest(self, ending: str) -> str | None:
        """The file with this ending, whatever its case, that lies nearest to the plate's folder."""
        names = [name for name in self.files if name.lower().endswith(ending)]
        return min(names, key=lambda name: (name.count("/"), name), default=None)


def list_files(folder: Path) -> Listing:
    """List all files below a folder with sizes and times; links that lead out of it are never followed.

    Left out are macOS's companions of files on foreign shares (AppleDouble), which have a file's name after `._`.
    """
    root = folder.resolve()
    files: dict[str, tuple[int, int]] = {}
    outside: set[str] = set()
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(root / prefix) as entries:
            for item in entries:
                name = prefix + item.name
                if item.is_symlink() and not Path(os.path.realpath(item.path)).is_relative_to(root):
                    outside.add(name)
                elif item.is_dir(follow_symlinks=False):
                    pending.append(name + "/")
                elif item.name.startswith("._"):
                    continue
                elif item.is_file(follow_symlinks=False) or Path(item.path).is_file():  # not a link to itself
                    stat = item.stat()
                    files[name] = (stat.st_size, stat.st_mtime_ns)
    return Listing(root=root, files=files, outside=frozenset(outside))


def peek(folder: Path, *, limit: int = 5000) -> Iterator[str]:
    """Yield the names of the first files below a folder, the nearest first: enough to recognise a layout."""
    pending, seen = [""], 0
    for prefix in pending:  # which grows
        with os.scandir(folder / prefix) as entries:
            for item in sorted(entries, key=lambda item: item.name):
                if item.is_dir(follow_symlinks=False):
                    pending.append(prefix + item.name + "/")
                    continue
                if item.name.startswith("._"):  # as in `list_files`
                    continue
                yield prefix + item.name
                seen += 1
                if seen == limit:
                    return


def inside(listing: Listing, name: str, *, base: str = ".", plate: str, source: str) -> str:
    """Check a file name given by metadata.

    Args:
        listing: the files of the plate.
        name: the file name, relative to `base`, with either kind of slash.
        base: a folder, relative to the plate's.
        plate: the plate's id, for the message.
        source: the file that gives the name, for the message.

    Returns:
        the path relative to the plate's folder.

    Raises:
        RawDataError: the name leads out of the folder: it is absolute, has `..`, or goes through a link.
    """
    given = PurePosixPath(name.replace("\\", "/"))
    path = PurePosixPath(base) / given
    drive = name[1:2] == ":"
    linked = listing.outside and any(str(part) in listing.outside for part in (path, *path.parents))
    if given.is_absolute() or drive or ".." in given.parts or linked:
        raise RawDataError(
            "a file name leads out of the plate's folder",
            where=f"{plate}: {name!r} in {source}",
            why="only files inside the plate's folder are read: no absolute path, no '..', no link out of it",
            remedy="copy the images into the plate's folder, or fix the metadata",
        )
    return str(path)


def xml_elements(path: Path, wanted: set[tuple[str, str]], *, plate: str) -> Iterator[tuple[str, Element]]:
    """Stream elements of an XML file; each is dropped from memory once it has been used.

    Args:
        path: the file.
        wanted: (parent, name) of the elements, without namespaces.
        plate: the plate's id, for the message.

    Yields:
        the name without its namespace, and the element.

    Raises:
        RawDataError: the file is not well-formed XML, or has a document type, which can make it expand without end.
    """
    ancestors: list[Element] = []
    remedy = "copy it from the instrument again; without an index, only the file names are read"
    with parsing(f"the metadata file {path.name}", where=f"{plate}: {path}", remedy=remedy):
        for event, element in _events(path):
            if event == "start":
                ancestors.append(element)
                continue
            ancestors.pop()
            name, parent = local_name(element.tag), local_name(ancestors[-1].tag) if ancestors else ""
            if (parent, name) in wanted:
                yield name, element
                if ancestors:
                    ancestors[-1].remove(element)


def _events(path: Path) -> Iterator[tuple[str, Element]]:
    """The starts and ends of the elements of an XML file; what is not UTF-8, though it should be, is told as such."""
    try:
        yield from iterparse(path, events=("start", "end"), forbid_dtd=True)
    except ParseError:
        content = path.read_bytes()
        if not re.match(rb"[^>]{0,99}encoding=[\"'](?!utf-8)", content, re.IGNORECASE):
            decode(content, windows=False)
        raise


def local_name(tag: str) -> str:
    """The name of an XML element or attribute without its namespace."""
    return tag.rpartition("}")[2]


def page_number(text: str | None) -> int:
    """Parse the number of a page, from 0; 0 where there is none.

    Raises:
        ValueError: it isn't a whole number from 0.
    """
    number = float(text or 0)
    if number < 0 or number % 1:
        raise ValueError(f"the page {text} is not a whole number, counted from 0")
    return int(number)


def positive_int(text: str) -> int:
    """Parse an optional count: 65535 for "65535.0", 0 for anything that is not a positive number."""
    try:
        return max(0, int(float(text)))
    except (ValueError, OverflowError):
        return 0
