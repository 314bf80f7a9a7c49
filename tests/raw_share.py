"""A share with raw data that fails: what a system says of it, said to this process alone."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOT_CONNECTED = [
    *(errno.ENOTCONN, errno.ETIMEDOUT, errno.EIO, errno.ESTALE, errno.EHOSTDOWN, errno.EMFILE, errno.ENOMEM),
    *(errno.EACCES, errno.EPERM, errno.ENOENT),  # said of all names, which is no file's own fault
]
"""What is said of all files of a share that is away."""


class Share:
    """Refuses calls on paths below a folder, as a share does that drops.

    Attributes:
        seen: how often a raw image was opened.
        fails: of a path below the folder, the error that the system gives; 0 where there is none.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = str(folder)
        self.seen = 0
        self.fails: Callable[[Path], int] = lambda _: 0
        for module, name in (
            *((builtins, "open"), (io, "open"), (os, "open")),
            *((os, "stat"), (os, "lstat"), (os, "scandir"), (os, "listdir")),
        ):
            monkeypatch.setattr(module, name, self._guarded(getattr(module, name), opens=name == "open"))

    def _guarded(self, call: Callable[..., Any], *, opens: bool) -> Callable[..., Any]:
        def guarded(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder):
                self.seen += opens and os.fspath(path).endswith((".tif", ".tiff"))
                if number := self.fails(Path(path)):
                    raise OSError(number, os.strerror(number), os.fspath(path))
            return call(path, *args, **kwargs)

        return guarded

    def away(self, number: int, *, after: int = 0) -> None:
        """Let everything fail from now on, or after so many images were opened."""
        self.seen, self.fails = 0, lambda _: number if self.seen > after or not after else 0

    def refuse(self, name: str, number: int, *, times: int = 10**9) -> None:
        """Let one file fail, so many times, and what lies below it."""
        left = [times]

        def fails(path: Path) -> int:
            if name not in path.parts or not left[0]:
                return 0
            left[0] -= 1
            return number

        self.fails = fails

    def back(self) -> None:
        """Let nothing fail any more."""
        self.seen, self.fails = 0, lambda _: 0
