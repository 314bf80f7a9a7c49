"""What this user may not read or write, whose it is, and the way out, in words.

Loaded while the Snakefile is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import filemode

from plateflow.errors import PlateflowError
from plateflow.paths import PlatePaths

GROWING = ".jsonl"
"""How the files end that lines are appended to; all others are replaced, for which their folder matters alone."""
SNAKEMAKE = Path(".snakemake")
WRITTEN_BY_SNAKEMAKE = {"log": "-", "locks": "-", "metadata": "-", "scripts": "-", "slurm_logs": "-", "incomplete": ""}
"""Folders in `SNAKEMAKE` that each run writes to, and how the files end that it may write again there."""


def explain(error: BaseException) -> BaseException:
    """An error of permissions in words; any other as it is."""
    if not isinstance(error, OSError) or error.errno not in {errno.EACCES, errno.EPERM}:
        return error
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    place = next(filter(None, (obstacle(Path(os.fsdecode(name))) for name in names)), None)
    return error if place is None else denial(place)


def obstacle(path: Path) -> Path | None:
    """What keeps this user from making or changing a file or folder: itself, or a folder above it; None if nothing."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - as it is named: links aren't followed
    for place in (*reversed(path.parents), path):
        if not os.path.lexists(place):
            return None if _usable(place.parent) else place.parent
        if place.is_dir() and not os.access(place, os.X_OK):
            return place
    return next((place for place in (path, path.parent) if not _usable(place)), None)


def obstacles(folder: Path, *, depth: int, growing: str = GROWING) -> Iterator[Path]:
    """What this user can't change in a folder: folders down to some depth, and files that are written again.

    Args:
        folder: need not be there; then what keeps it from being made.
        depth: how many levels of folders below it are looked at.
        growing: how the names of such files end.
    """
    if not os.path.lexists(folder):
        yield from filter(None, [obstacle(folder)])
        return
    if not _usable(folder):
        yield folder
    if not depth:
        return
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError:  # told already; or gone, as a lease may be
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from obstacles(Path(entry.path), depth=depth - 1, growing=growing)
        elif entry.name.endswith(growing) and not _usable(entry) and os.path.lexists(entry):
            yield Path(entry.path)


def snakemake_obstacles() -> Iterator[Path]:
    """What this user can't change in the folder in which Snakemake keeps its records, below the working directory."""
    yield from obstacles(SNAKEMAKE, depth=0)
    for name, growing in WRITTEN_BY_SNAKEMAKE.items():
        if os.path.isdir(SNAKEMAKE / name):  # noqa: PTH112 - not where the folder can't be entered
            yield from obstacles(SNAKEMAKE / name, depth=1, growing=growing)


def plate_obstacles(paths: PlatePaths) -> Iterator[Path]:
    """What this user can't change in a plate's folders; those of single wells aren't looked at, which are too many."""
    yield from obstacles(paths.root, depth=2)
    if not paths.scratch.is_relative_to(paths.root):
        yield from obstacles(paths.scratch, depth=2)


def denial(place: Path) -> PlateflowError:
    """That this user can't use a file or folder as it must be used: why, and what is to be done by whom."""
    place = Path(os.path.abspath(place))  # noqa: PTH100
    verb = "write" if os.access(place, os.R_OK | (os.X_OK if place.is_dir() else 0)) else "read"
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    status = place.lstat()
    owner, group, me = user_name(status.st_uid), _group_name(status.st_gid), user_name()
    why = f"{filemode(status.st_mode)}, owned by {owner}, group {group}"
    with suppress(OSError):
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            return PlateflowError(f"{shown} can't be written: read-only", remedy="make the disk writable again")
    tree = _tree(place, status.st_uid)
    if status.st_uid == os.geteuid():
        remedy = f"in {tree}: `chmod -R u+rwX .`"
    else:
        mine = status.st_gid in {os.getegid(), *os.getgroups()}
        common = group if mine else "GROUP"
        which = "" if mine else ", where GROUP is one that all belong to"
        remedy = (
            f"{owner} runs in {tree}: `chgrp -R {common} .; chmod -R g+rwX .; find . -type d -exec chmod g+s {{}} +`"
            f"{which}, and all work with `umask 002` (docs/sites.md, A group's project)"
        )
    return PlateflowError(f"{me} may not {verb} {shown}", why=why, remedy=remedy)


def user_name(number: int | None = None) -> str:
    """The name of a user, by default of this process's; the number where there is no name."""
    number = os.geteuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _usable(place: str | Path | os.DirEntry[str]) -> bool:
    return os.access(place, os.R_OK | os.W_OK | (os.X_OK if os.path.isdir(place) else 0))  # noqa: PTH112


def _tree(place: Path, owner: int) -> Path:
    """The largest folder around a place, within the working directory, that its owner can hand over as a whole."""
    tree, here = place if place.is_dir() else place.parent, Path.cwd()
    while tree != here and tree.is_relative_to(here) and tree.parent.stat().st_uid == owner:
        tree = tree.parent
    return tree
