"""What this user may not read or write, whose it is, and the way out, in words.

Loaded while the Snakefile is parsed, so it imports nothing heavy.
"""

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
    """What keeps this user from making or changing a file or folder: itself, or a folder above it; None if nothing.

    Where links lead elsewhere, it is named as it lies there: that is what its owner hands over.
    """
    path = path.resolve()
    for place in (*reversed(path.parents), path):
        if not os.path.lexists(place):
            return None if _usable(place.parent) else place.parent
        if place.is_dir() and not os.access(place, os.X_OK):
            return place
    return next((place for place in (path, path.parent) if not _usable(place)), None)


def obstacles(folder: Path, *, depth: int, growing: str = GROWING) -> Iterator[Path]:
    """What this user can't change in a folder, which needn't be there: folders down to a depth, and files that are
    written again, whose names end as `growing` says.
    """
    if not os.path.lexists(folder):
        yield from filter(None, [obstacle(folder)])
        return
    if not _usable(folder) and os.path.lexists(folder):  # else it is gone just now, as leases go
        yield folder
    if not depth:
        return
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError:  # told already, or gone
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


def denial(place: Path, results: str = "results", scratch: str | None = None) -> PlateflowError:
    """That this user can't use a file or folder as it must be used: why, and what is to be done by whom.

    Args:
        place: what `obstacle` or `obstacles` have found.
        results: the folder of all results. An owner hands it over as a whole, as `SNAKEMAKE`: they hold nothing but
            what was made. Of all else, such as the project's own folder, nobody is told to open more than the place.
        scratch: the folder of which only what lies below it is a plate's.
    """
    place = obstacle(place) or place.resolve()
    verb = "write" if os.access(place, os.R_OK | (os.X_OK if place.is_dir() else 0)) else "read"
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    status = place.stat()
    owner, group, me = user_name(status.st_uid), str(status.st_gid), user_name()
    with suppress(KeyError):
        group = grp.getgrgid(status.st_gid).gr_name
    why = f"{filemode(status.st_mode)}, owned by {owner}, group {group}"
    with suppress(OSError):
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            return PlateflowError(f"{shown} can't be written: read-only", remedy="make the disk writable again")
    made = [SNAKEMAKE.resolve(), Path(results).resolve()]
    if scratch and (below := Path(scratch).resolve()) in place.parents:
        made.append(below / place.relative_to(below).parts[0])
    private = _private(status.st_uid)
    inside = [root for root in made if place.is_relative_to(root) and not any(p.is_relative_to(root) for p in private)]
    common = group if status.st_gid in {os.getegid(), *os.getgroups()} else "GROUP"
    if status.st_uid == os.geteuid():
        remedy = f"`chmod u+rwX '{place}'`"
    elif inside:
        tree = _tree(place, status.st_uid, inside)
        remedy = (
            f"{owner} runs `chgrp -R {common} '{tree}'; chmod -R g+rwX '{tree}'; find '{tree}' -type d -exec chmod g+s "
            "{} +`, and all work with `umask 002` (docs/sites.md, A group's project)"
        )
    else:
        closed = place.is_dir() and not os.access(place, os.X_OK)
        bits = ("" if closed else "rw" if verb == "write" else "r") + ("x" if place.is_dir() else "")
        command = f"chgrp {common} '{place}'; chmod g+{bits} '{place}'"
        remedy = f"{owner} runs `{command}`; `plateflow check` names what else is closed"
    return PlateflowError(f"{me} may not {verb} {shown}", why=why, remedy=remedy)


def user_name(number: int | None = None) -> str:
    """The name of a user, by default of this process's; the number where there is no name."""
    number = os.geteuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _usable(place: str | Path | os.DirEntry[str]) -> bool:
    return os.access(place, os.R_OK | os.W_OK | (os.X_OK if os.path.isdir(place) else 0))  # noqa: PTH112


def _private(owner: int) -> list[Path]:
    """Folders that nobody hands over, nor what holds them: the working directory, and homes."""
    homes = [entry.pw_dir for entry in pwd.getpwall()]
    with suppress(KeyError):  # a directory service may name its users only one by one
        homes.append(pwd.getpwuid(owner).pw_dir)
    homes.append(os.environ.get("HOME", ""))
    return [Path.cwd(), *(Path(home).resolve() for home in homes if home not in {"", "/"})]


def _tree(place: Path, owner: int, roots: list[Path]) -> Path:
    """The largest folder around a place, within the largest of `roots`, that its owner can hand over as a whole."""
    tree = place if place.is_dir() else place.parent
    while any(tree != root and tree.is_relative_to(root) for root in roots) and tree.parent.stat().st_uid == owner:
        tree = tree.parent
    return tree
