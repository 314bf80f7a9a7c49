"""Files that other processes read while they are written: whole files by rename, lines by append, and their stamps.

Loaded while the Snakefile is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR
from typing import Any, BinaryIO

PARTIAL = ".partial"
"""Suffix of a file or folder that is still being written."""


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at `path`, whole, when the block ends without an error.

    Readers see the old file or the new one, never a part; after an error nothing is left behind.

    Args:
        durable: flush the content to the disk before the file appears.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where this process writes a file or folder before it is renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file by rename; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file by rename: indented by 1, unescaped, with a newline at its end."""
    write_atomic(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder with these files in place by rename; one that is there goes away whole."""
    new, old = partial_path(folder), folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(new, ignore_errors=True)
    try:
        for name, data in files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)  # before the old one is removed, which takes long: a kill in between would lose the folder
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line to a JSON-lines file and make it durable; a torn last line is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = b"\n" + text
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON-lines file; a last line cut off by a kill is passed over, no file has no lines."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in data.split(b"\n"):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def stat_of(path: str | Path) -> list[int] | None:
    """Size and modification time (ns) of a file, or None where there is none.

    For a folder (a Zarr array that is read in place) the sum and the latest of all files below it.
    """
    try:
        stat = Path(path).stat()
        if S_ISDIR(stat.st_mode):
            files = [file.stat() for file in Path(path).rglob("*") if file.is_file()]
            return [sum(file.st_size for file in files), max((file.st_mtime_ns for file in files), default=0)]
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def digest(*values: Any) -> str:
    """A short, stable hash of JSON-able values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
