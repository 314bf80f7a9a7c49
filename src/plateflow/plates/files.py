"""The files of a raw plate: listed without following links out of it, text in any encoding, XML without its dangers."""

from __future__ import annotations

import codecs
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from plateflow.errors import PlateflowError


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


def list_files(folder: Path) -> Listing:
    """All files below a folder with their size and time; links that lead out of it are set apart, never followed."""
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
                elif item.is_file(follow_symlinks=False) or Path(item.path).is_file():  # no link in a circle
                    stat = item.stat()
                    files[name] = (stat.st_size, stat.st_mtime_ns)
    return Listing(root=root, files=files, outside=frozenset(outside))


def peek(folder: Path, *, limit: int = 5000) -> Iterator[str]:
    """Names of the first files below a folder, those nearest to it first: enough to recognise a layout by."""
    pending, seen = deque([""]), 0
    while pending:
        prefix = pending.popleft()
        with os.scandir(folder / prefix) as entries:
            for item in sorted(entries, key=lambda item: item.name):
                if item.is_dir(follow_symlinks=False):
                    pending.append(prefix + item.name + "/")
                    continue
                yield prefix + item.name
                seen += 1
                if seen == limit:
                    return


def decode(content: bytes) -> str:
    """Text in whatever encoding instruments and spreadsheets leave: UTF-16 with its mark, UTF-8, else Windows' own."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def inside(listing: Listing, name: str, *, base: str = ".", plate: str, source: str) -> str:
    """A file name out of metadata, as a path relative to the plate's folder.

    Args:
        name: relative to `base`.
        base: a folder relative to the plate's.
        source: the file that gives the name, for the message.

    Raises:
        PlateflowError: the name leads out of the folder: absolute, with `..`, or through a link.
    """
    said = PurePosixPath(name.replace("\\", "/"))
    path = PurePosixPath(base) / said
    drive = name[1:2] == ":"
    linked = listing.outside and any(str(part) in listing.outside for part in (path, *path.parents))
    if said.is_absolute() or drive or ".." in said.parts or linked:
        raise PlateflowError(
            "a file name leads out of the plate's folder",
            where=f"{plate}: {name!r} in {source}",
            why="only files inside the plate's folder are read: no absolute path, no '..', no link out of it",
            remedy="copy the images into the plate's folder, or mend the metadata",
        )
    return str(path)


def xml_elements(path: Path, wanted: set[tuple[str, str]], *, plate: str) -> Iterator[tuple[str, Element]]:
    """Elements of an XML file, one after another; each is forgotten once it is passed on.

    Args:
        path: the file.
        wanted: (parent, name) of the elements, without namespaces.
        plate: for the message.

    Yields:
        the name without its namespace, and the element.

    Raises:
        PlateflowError: it is no sound XML, or has a document type, with which XML can be made to expand without end.
    """
    ancestors: list[Element] = []
    try:
        for event, element in iterparse(path, events=("start", "end"), forbid_dtd=True):
            if event == "start":
                ancestors.append(element)
                continue
            ancestors.pop()
            name, parent = local(element.tag), local(ancestors[-1].tag) if ancestors else ""
            if (parent, name) in wanted:
                yield name, element
                if ancestors:
                    ancestors[-1].remove(element)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:  # an encoding that nobody knows
        raise PlateflowError(
            "the index of the plate can't be read",
            where=f"{plate}: {path}",
            why=f"{type(error).__name__}: {error}",
            remedy="copy the index from the instrument again; without an index the file names alone are read",
        ) from error


def local(tag: str) -> str:
    """The name of an element or attribute without its namespace."""
    return tag.rpartition("}")[2]


def whole(text: str) -> int:
    """A positive number of which Plateflow can do without: 65535 of "65535.0", 0 of anything else."""
    try:
        return max(0, int(float(text)))
    except (ValueError, OverflowError):
        return 0
