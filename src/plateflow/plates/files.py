"""The files of a raw plate: listed without leaving its folder, XML parsed safely.

Whatever a parser raises over damaged metadata becomes one kind of error here: see `parsing`.
"""

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from plateflow.errors import RawDataError
from plateflow.files import is_litter
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
        outside: links that aren't followed, as they lead out of the folder -> where to.
        broken: links that lead nowhere, or in a circle.
    """

    root: Path
    files: dict[str, tuple[int, int]]
    outside: Mapping[str, str] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()

    def image_names(self) -> list[str]:
        """The TIFF and PNG files, by name; also those that are links, for whoever asks for these is told of them."""
        names = chain(self.files, self.outside, self.broken)
        return sorted(name for name in names if name.lower().endswith((".tif", ".tiff", ".png")))

    def nearest(self, ending: str) -> str | None:
        """The file with this ending, whatever its case, that lies nearest to the plate's folder."""
        names = [name for name in self.files if name.lower().endswith(ending)]
        return min(names, key=lambda name: (name.count("/"), name), default=None)

    def link_to(self, path: str) -> str | None:
        """The link that leads a path out of the folder: itself, or a folder in which it lies."""
        parts = (path, *map(str, PurePosixPath(path).parents)) if self.outside else ()
        return next((part for part in parts if part in self.outside), None)


def list_files(folder: Path, follow_links: str | None = None) -> Listing:
    """List all files below a folder with sizes and times.

    Args:
        follow_links: links are followed within the plate's folder and, where this is given, into this one; no other
            link is followed, whatever it leads to.
    """
    root = folder.resolve()
    files: dict[str, tuple[int, int]] = {}
    outside: dict[str, str] = {}
    broken: set[str] = set()
    for name, entry, target in _walk(root, follow_links):
        if target is not None:
            outside[name] = target
        elif entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):  # noqa: PTH113 - or a link, sound
            stat = entry.stat()
            files[name] = (stat.st_size, stat.st_mtime_ns)
        elif entry.is_symlink() and not os.path.isdir(entry.path):  # noqa: PTH112 - whatever is wrong with the link
            broken.add(name)
    return Listing(root=root, files=files, outside=outside, broken=frozenset(broken))


def peek(folder: Path, follow_links: str | None = None, *, limit: int = 5000) -> list[str]:
    """The names of the first files below a folder, the nearest first: enough to recognise a layout."""
    inside = (name for name, _, target in _walk(folder.resolve(), follow_links) if target is None)
    return list(islice(inside, limit))


def _walk(root: Path, follow_links: str | None) -> Iterator[tuple[str, os.DirEntry[str], str | None]]:
    """All below a folder that isn't a folder, the nearest first: its path from there, its entry, and where it leads,
    if that is out of the folder.

    A link to a folder within the plate's isn't followed, as what lies there is listed in its own place.
    """
    allowed = Path(os.path.realpath(follow_links)) if follow_links else None
    pending: deque[tuple[str, tuple[Path, ...]]] = deque([("", (root,))])  # and where links were taken, last itself
    while pending:
        prefix, (*above, place) = pending.popleft()
        with os.scandir(root / prefix) as entries:
            listed = sorted((entry for entry in entries if not is_litter(entry.name)), key=lambda entry: entry.name)
        for entry in listed:
            name = prefix + entry.name
            if entry.is_symlink():
                real = Path(os.path.realpath(entry.path))
                within = allowed is not None and real.is_relative_to(allowed)
                if not (within or real.is_relative_to(root)):
                    yield name, entry, str(real)
                    continue
                circle = any(passed.is_relative_to(real) for passed in (root, *above, place))
                if real.is_dir() and not circle and not real.is_relative_to(root):
                    pending.append((name + "/", (*above, place, real)))
                    continue
            elif entry.is_dir():
                pending.append((name + "/", (*above, place / entry.name)))
                continue
            yield name, entry, None


def link_error(listing: Listing, link: str, *, plate: str) -> RawDataError:
    """The error over files of a plate that are links, or lie beyond one, which isn't followed."""
    targets = [os.path.dirname(target) for target in listing.outside.values()]  # noqa: PTH120
    more = f" and {len(listing.outside) - 1} more" if len(listing.outside) > 1 else ""
    return RawDataError(
        "a link leads out of the plate's folder",
        where=f"{plate}: {listing.root / link}{more}",
        why=f"it leads to {listing.outside[link]}, and links are followed only where that was allowed",
        remedy="copy the images into the plate's folder; or name a folder that links may lead into, as by "
        f"`plateflow init --follow-links '{os.path.commonpath(targets)}'` (column follow_links of the plate sheet)",
    )


def inside(listing: Listing, name: str, *, base: str = ".", plate: str, source: str) -> str:
    """Check a file name given by metadata.

    Args:
        name: the file name, relative to `base`, with either kind of slash.
        base: a folder, relative to the plate's.
        source: the file that gives the name, for the message.

    Returns:
        the path relative to the plate's folder.

    Raises:
        RawDataError: the name leads out of the folder: it is absolute, has `..`, or goes through a link.
    """
    given = PurePosixPath(name.replace("\\", "/"))
    path = str(PurePosixPath(base) / given)
    if given.is_absolute() or name[1:2] == ":" or ".." in given.parts:
        raise RawDataError(
            "a file name leads out of the plate's folder",
            where=f"{plate}: {name!r} in {source}",
            why="only files inside the plate's folder are read: no absolute path, no '..'",
            remedy="copy the images into the plate's folder, or fix the metadata",
        )
    if (link := listing.link_to(path)) is not None:
        raise link_error(listing, link, plate=plate)
    return path


def xml_elements(path: Path, wanted: set[tuple[str, str]], *, plate: str) -> Iterator[tuple[str, Element]]:
    """Stream elements of an XML file; each is dropped from memory once it has been used.

    Args:
        wanted: (parent, name) of the elements, without namespaces.

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
