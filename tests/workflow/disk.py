"""A disk that fails, or is watched: stands in for the system's functions in `plateflow.files`, which alone writes.

`Disk` counts the operations (open, write, flush, rename, remove, make a folder), and lets one fail or end the process.
`Recorder` notes their order, and says what a power cut would have left of each file.
"""

from __future__ import annotations

import builtins
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plateflow import files

MODES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "end": 0}
ENDED = 77
"""Exit status of a process that ended in the middle of an operation."""


class Disk:
    """Passes operations on; `before` sees each, with the data of a write, and may not return."""

    def __init__(self) -> None:
        self.count = 0

    def before(self, name: str, path: Path, data: bytes = b"", file: Any = None) -> None:
        self.count += 1

    def after(self, name: str, path: Path, target: Path | None = None, data: bytes = b"") -> None:
        pass

    @contextmanager
    def installed(self) -> Iterator[Disk]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "open", self._open, raising=False)
            patch.setattr(files, "os", _System(self, os, ("replace", "rename", "unlink", "mkdir", "fsync", "open")))
            patch.setattr(files, "shutil", _System(self, shutil, ("rmtree",)))
            yield self

    def _open(self, path: Path, mode: str) -> _File:
        self.before("open", path)
        file = _File(self, builtins.open(path, mode), path)  # noqa: PTH123, SIM115
        self.after("open", path)
        return file


class _System:
    """A module of which some functions are watched."""

    def __init__(self, disk: Disk, module: Any, names: tuple[str, ...]) -> None:
        self._disk, self._module, self._names = disk, module, names
        self._opened: dict[int, Path] = {}

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)
        if name not in self._names:
            return function

        def watched(path: Any, *arguments: Any) -> Any:
            if name == "open":  # of a file or folder that is to be flushed
                descriptor = function(path, *arguments)
                self._opened[descriptor] = path
                return descriptor
            where = self._opened.get(path, Path()) if name == "fsync" else path
            self._disk.before(name, where)
            result = function(path, *arguments)
            self._disk.after(name, where, *arguments)
            return result

        return watched


class _File:
    """An open file of which every write and flush is watched."""

    def __init__(self, disk: Disk, file: Any, path: Path) -> None:
        self._disk, self._file, self._path = disk, file, path

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._disk.before("write", self._path, data, self._file)
        written: int = self._file.write(data)
        self._disk.after("write", self._path, data=data)
        return written

    def flush(self) -> None:
        self._disk.before("flush", self._path)
        self._file.flush()

    def fileno(self) -> int:
        return int(self._file.fileno())

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Failing(Disk):
    """Lets the k-th operation fail once, or end the process; of a write, half has gone through."""

    def __init__(self, k: int, mode: str) -> None:
        super().__init__()
        self.k, self.mode, self.failed = k, mode, ""

    def before(self, name: str, path: Path, data: bytes = b"", file: Any = None) -> None:
        self.count += 1
        if self.count != self.k:
            return
        self.failed = f"{name} {path}"
        if file is not None:
            file.write(data[: len(data) // 2])
            file.flush()
        if self.mode == "end":
            os._exit(ENDED)
        raise OSError(MODES[self.mode], os.strerror(MODES[self.mode]), str(path))


class Recorder(Disk):
    """Knows what a power cut would take: contents and names of files and folders that were changed and not flushed.

    A file's name is durable once its folder is flushed. Jobs make files of the next item in the same folders meanwhile.

    Attributes:
        dirty: files whose contents may be lost.
        names: files and folders that may not be found, or found again.
        lines: path and data of each line, and what might be lost when it was written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dirty: set[Path] = set()
        self.names: set[Path] = set()
        self.lines: list[tuple[Path, bytes, set[Path]]] = []

    def after(self, name: str, path: Path, target: Path | None = None, data: bytes = b"") -> None:
        path = Path(path)
        match name:
            case "write":
                if path.suffix == ".jsonl":
                    self.lines.append((path, data, self.dirty | self.names))
                else:
                    self.dirty.add(path)
            case "open" if path.suffix != ".jsonl":
                self.dirty.add(path)
                self.names.add(path)
            case "mkdir" | "unlink" | "rmtree":
                self.names.add(path)
            case "replace" | "rename":
                assert target is not None
                for known in (self.dirty, self.names):
                    moved = {each for each in known.copy() if each == path or path in each.parents}
                    known.difference_update(moved)
                    known.update(target / each.relative_to(path) for each in moved)
                self.names |= {path, target}
            case "fsync":
                self.dirty.discard(path)
                self.names -= {each for each in self.names.copy() if each.parent == path}
