"""The one module that writes: whole files by rename, lines by append, what makes them durable, and their stamps.

A stage's files appear by rename; `settle` makes durable all that this process has written or removed so far, and only
then may a journal say that it is there. A stamp is the size of a file and the CRC32C of its content, made while it is
written: whoever reads the file later compares it.

Loaded while the Snakefile is parsed, so it imports nothing heavy.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR
from typing import Any, BinaryIO

PARTIAL = ".partial"
"""Suffix of a file or folder that is still being written."""
_PIECE = 2**20
_END = 2**13
"""Bytes at the end of a file in which its last lines are looked for at first."""
_LITTER = re.compile(r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini|__MACOSX", re.IGNORECASE | re.DOTALL)
_LINE = re.compile(rb'(.*),"crc":"([0-9a-f]{8})"\}', re.DOTALL)
Stamp = tuple[int, str]
"""Size in bytes, and the CRC32C of the content as 8 hexadecimal digits."""


def is_litter(name: str) -> bool:
    """Whether a file or folder is what macOS and Windows leave beside others: nobody's data, wherever files are listed.

    `._NAME` holds what macOS knows of the file NAME and a foreign share can't.
    """
    return _LITTER.fullmatch(name) is not None


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, by name and without litter; nothing where there is no folder."""
    return sorted(path for path in folder.glob("*") if not is_litter(path.name))


class Sink:
    """A file that is being written: what goes into it is counted and checksummed."""

    def __init__(self, file: BinaryIO, *, stamped: bool = True) -> None:
        self._file, self._size, self._crc, self._stamped = file, 0, 0, stamped

    def write(self, data: Any) -> int:
        """Write bytes, or any contiguous buffer; returns their number."""
        view = memoryview(data)
        self._file.write(view)
        self._size, self._crc = self._size + view.nbytes, _crc(view, self._crc) if self._stamped else 0
        return view.nbytes

    @property
    def stamp(self) -> Stamp:
        """Of all that was written."""
        return self._size, f"{self._crc:08x}"


def checksum(data: Any) -> str:
    """The CRC32C of bytes, or of any contiguous buffer, as 8 hexadecimal digits."""
    return f"{_crc(data):08x}"


def _crc(data: Any, value: int = 0) -> int:
    from google_crc32c import extend

    view = memoryview(data)
    if not view.nbytes:
        return value
    view = view.cast("B")
    for start in range(0, len(view), _PIECE):
        value = extend(value, bytes(view[start : start + _PIECE]))  # takes nothing but bytes
    return value


class _Unsettled:
    """What this process has written and removed: not yet durable, and not yet listed by a journal."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: set[Path] = set()
        self.folders: set[Path] = set()
        self.stamps: dict[Path, Stamp] = {}

    def wrote(self, path: Path, stamp: Stamp | None) -> None:
        with self.lock:
            self.files.add(path)
            self.folders.add(path.parent)
            if stamp:
                self.stamps[path] = stamp

    def moved(self, folder: Path, new: Path, names: Iterable[str]) -> None:
        """The files of one folder are now in another one."""
        with self.lock:
            for name in names:
                self.stamps[new / name] = self.stamps.pop(folder / name)
                self.files.discard(folder / name)
                self.files.add(new / name)
                for below in Path(name).parents:
                    self.folders.discard(folder / below)
                    self.folders.add(new / below)
            self.folders.add(new.parent)

    def removed(self, path: Path) -> None:
        below = f"{path}{os.sep}"  # as text: a plate has thousands of files, and comparing paths is slow
        with self.lock:
            for gone in [known for known in self.stamps if f"{known}{os.sep}".startswith(below)]:
                del self.stamps[gone]
                self.files.discard(gone)
            self.folders = {folder for folder in self.folders if not f"{folder}{os.sep}".startswith(below)}
            self.folders.add(path.parent)


_unsettled = _Unsettled()
_append = threading.Lock()
_mapped = {"read_mb": 0, "written_mb": 0}


@contextmanager
def atomic_file(path: Path, *, stamped: bool = True) -> Iterator[Sink]:
    """Open a file for writing that appears at `path`, whole, when the block ends without an error.

    Readers see the old file or the new one, never a part; after an error nothing is left behind. It survives a power
    cut only after `settle`. No journal can list a file that isn't `stamped`.
    """
    make_folder(path.parent)
    partial = partial_path(path)
    try:
        with open(partial, "wb") as file:  # noqa: PTH123 - what tests of faults replace stands in this module alone
            sink = Sink(file, stamped=stamped)
            yield sink
            file.flush()
        os.replace(partial, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)  # noqa: PTH108
        raise
    _unsettled.wrote(path, sink.stamp if stamped else None)


def partial_path(path: Path) -> Path:
    """Where this process writes a file or folder before it is renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, as far as they aren't there."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder)  # noqa: PTH102
    with _unsettled.lock:
        _unsettled.folders.add(folder.parent)


def write_atomic(path: Path, data: bytes, *, stamped: bool = True) -> None:
    """Write a whole file by rename; see `atomic_file`."""
    with atomic_file(path, stamped=stamped) as file:
        file.write(data)


def link_file(source: Path, path: Path, stamp: Stamp) -> None:
    """Give a whole file a second name, by rename; where the file system has no links, or not this one, copy it.

    Args:
        stamp: of the file's content, as its own writer has listed it.
    """
    make_folder(path.parent)
    if not (path.exists() and path.samefile(source)):  # of two names of one file, rename would leave both
        partial = partial_path(path)
        try:
            with suppress(FileNotFoundError):
                os.unlink(partial)  # noqa: PTH108
            try:
                os.link(source, partial)
            except OSError:
                shutil.copyfile(source, partial)
            os.replace(partial, path)  # noqa: PTH105
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)  # noqa: PTH108
            raise
    _unsettled.wrote(path, stamp)


def write_json(path: Path, content: Any, *, stamped: bool = True) -> None:
    """Write a JSON file by rename: indented by 1, unescaped, a newline at its end; `stamped` as of `atomic_file`."""
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n", stamped=stamped)


def write_changed(path: Path, data: bytes) -> None:
    """Write a whole file by rename unless it has this content already; either way it counts as written."""
    try:
        unchanged = path.read_bytes() == data
    except (FileNotFoundError, NotADirectoryError):
        unchanged = False
    if unchanged:
        _unsettled.wrote(path, stamp_of(path))
    else:
        write_atomic(path, data)


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder with these files in place by rename; one that is there goes away whole."""
    new, old = partial_path(folder), folder.with_name(f".{folder.name}.{os.getpid()}.old")
    remove_tree(new)
    try:
        for name, data in files.items():
            write_atomic(new / name, data)
        if folder.exists():
            os.rename(folder, old)  # noqa: PTH104
            _unsettled.removed(folder)
        os.rename(new, folder)  # noqa: PTH104 - before the old one is removed, which takes long: else a kill loses it
    finally:
        remove_tree(new)
    _unsettled.moved(new, folder, files)
    remove_tree(old)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that appears at `folder`, whole, when the block ends without an error; an empty one may be there.

    Yields:
        where its files are written.
    """
    new = partial_path(folder)
    remove_tree(new)
    make_folder(new)
    try:
        yield new
        os.rename(new, folder)  # noqa: PTH104
    finally:
        remove_tree(new)


def remove(path: Path) -> None:
    """Remove a file; one that isn't there is no error."""
    try:
        os.unlink(path)  # noqa: PTH108
    except (FileNotFoundError, NotADirectoryError):
        return
    _unsettled.removed(path)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that it holds; one that isn't there is no error."""
    if os.path.lexists(folder):
        shutil.rmtree(folder)
        _unsettled.removed(folder)


def sweep(paths: Iterable[Path]) -> None:
    """Remove what killed writers have left beside files that are whole now."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, whole in names.items():
        for leftover in folder.glob(f".*{PARTIAL}"):
            if leftover.name[1:].rsplit(".", 2)[0] in whole:
                remove(leftover)


def settle() -> None:
    """Make durable what this process has written and removed: the files first, then the folders that name them.

    Raises:
        OSError: the disk can't; what was written may be lost, and nothing may vouch for it.
    """
    with _unsettled.lock:
        files, _unsettled.files = _unsettled.files, set()
        folders, _unsettled.folders = _unsettled.folders, set()
    for path in (*sorted(files), *sorted(folders)):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # replaced or removed since: another line speaks of that
            continue
        try:
            os.fsync(descriptor)
        except OSError as error:
            if path not in folders or error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # no folders on some shares
                raise
        finally:
            os.close(descriptor)


def unlisted(path: Path) -> None:
    """Say of a file that was just written that no line lists it: another stage writes it last, and lists it then."""
    with _unsettled.lock:
        _unsettled.stamps.pop(path, None)


def take_stamps() -> dict[Path, Stamp]:
    """The stamps of the files that this process has written since the last call, and not removed."""
    with _unsettled.lock:
        stamps, _unsettled.stamps = _unsettled.stamps, {}
    return stamps


def count_mapped(*, read: int = 0, written: int = 0) -> None:
    """Tell how many bytes of a mapped file are read or written: no call does it, so the system counts none."""
    with _append:
        _mapped["read_mb"] += read
        _mapped["written_mb"] += written


def mapped_bytes() -> dict[str, int]:
    """What `count_mapped` was told since this process began, in bytes, by the ledger's names."""
    with _append:
        return dict(_mapped)


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file as it is on the disk: reads all of it."""
    size = value = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            size, value = size + len(piece), _crc(piece, value)
    return size, f"{value:08x}"


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line, with its own checksum, to a JSON-lines file and make it durable; a torn line is closed first."""
    make_folder(path.parent)
    text = json_line(line)
    with _append, open(path, "ab+") as file:  # noqa: PTH123
        new = file.tell() == 0
        if not new:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = b"\n" + text
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if new:
        with _unsettled.lock:
            _unsettled.folders.add(path.parent)
        settle()


def json_line(line: Mapping[str, Any]) -> bytes:
    """A line of a JSON-lines file: compact, and with a checksum of the rest of it at its end."""
    text = json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode()[:-1]
    return text + b',"crc":"%08x"}\n' % _crc(text)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The sound lines of a JSON-lines file; damaged ones, and a last one cut off by a kill, are passed over."""
    return filter(None, map(parse_line, raw_lines(path)))


def raw_lines(path: Path) -> list[bytes]:
    """The lines of a JSON-lines file as they are; none where there is no file."""
    try:
        return path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A line of a JSON-lines file, without its checksum; None where it is damaged, or empty."""
    match = _LINE.fullmatch(line)
    if match is None or int(match[2], 16) != _crc(match[1]):
        return None
    content: dict[str, Any] = json.loads(match[1] + b"}")
    return content


def last_lines(path: Path) -> Iterator[bytes]:
    """The lines of a JSON-lines file as they are, the last one first; no more is read than is asked for."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        start, size, rest = file.seek(0, os.SEEK_END), _END, b""
        while start:
            end, start = start, max(0, start - size)
            file.seek(start)
            rest, *lines = (file.read(end - start) + rest).split(b"\n")
            yield from reversed(lines)
            size *= 4
        yield rest


def stat_of(path: str | Path) -> list[int] | None:
    """Size and modification time (ns) of a file, or None where there is none.

    For a folder (a Zarr array that is read in place) the sum and the latest of all files below it.

    Raises:
        OSError: it can't be told, as when a share is away; that says nothing about the file.
    """
    try:
        stat = Path(path).stat()
        if S_ISDIR(stat.st_mode):
            files = [file.stat() for file in Path(path).rglob("*") if file.is_file() and not is_litter(file.name)]
            return [sum(file.st_size for file in files), max((file.st_mtime_ns for file in files), default=0)]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [stat.st_size, stat.st_mtime_ns]


def digest(*values: Any) -> str:
    """A short, stable hash of JSON-able values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
