"""A group's project: what is made follows the group's habits; where it is closed, one sentence says so."""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import plateflow
from faults_project import inside, make, run
from two_users import GROUP, User, two_users
from workflow_project import Project

from plateflow import access
from plateflow.asked import OLD
from plateflow.files import append_line, replace_folder

Users = tuple[User, User]
READING = ("status micro", "status micro/B02", "verify micro", "plan")
"""Commands that a project must be read for, nothing else."""
SOUND = re.compile(
    r"warning: micro: no well is a negative control[^\n]*\n  file: [^\n]*\n  what to do: [^\n]*\n1 warning\n"
)
"""What `check` says where nothing stands in the way: of the plate itself alone."""
WRITING = (
    *("retry", "retry micro/B02 --stage tile", "run micro tile"),
    *("clean micro --results --yes", "accept --stage tile", "init 'raw/{raw}' --plate other"),
)


@pytest.fixture
def users() -> Iterator[Users]:
    """Ann and Bob, and a project of Ann's in the group's folder, of which nothing is computed yet."""
    with two_users() as (ann, bob):
        make(ann.folder)
        for path in ann.folder.rglob("*"):
            os.lchown(path, ann.number, GROUP)
            path.chmod(0o2775 if path.is_dir() else 0o664)
        yield ann, bob


def private(folder: Path, umask: int, group: int) -> dict[str, str]:
    """What in a folder isn't the group's, or is more private than a umask says: by path its mode and group."""
    found = {}
    for path in folder.rglob("*"):
        stat, wanted = path.lstat(), (0o2777 if path.is_dir() else 0o666) & ~umask
        if stat.st_gid != group or stat.st_mode & wanted != wanted:
            found[path.relative_to(folder).as_posix()] = f"{stat.st_mode & 0o7777:o} {stat.st_gid}"
    return found


def open_by_default(folder: Path) -> None:
    """Give a folder a default ACL by which the group may write what is made in it."""
    entries = [(0x01, 7), (0x04, 7), (0x20, 5)]  # owner, group, others
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, mode, 0xFFFFFFFF) for tag, mode in entries)
    try:
        os.setxattr(folder, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"no ACLs here: {error.strerror}")


@pytest.mark.parametrize("by", ["umask", "default ACL"])
def test_all_that_is_made_is_as_open_as_umask_and_folder_say(by: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    make(folder)
    results = folder / "results"
    results.mkdir()
    if os.geteuid() == 0:
        os.chown(results, -1, GROUP)
    results.chmod(0o2775)
    if by == "default ACL":
        open_by_default(results)
    before = os.umask(0o002 if by == "umask" else 0o077)
    try:
        run(folder)
        plateflow("run", "screen", "screen", cwd=folder)
        plateflow("retry", "micro/B02", "--stage", "tile", cwd=folder)
        with inside(folder) as plate:
            replace_folder(plate.paths.root / "replaced", {"below/file": b""})
            append_line(plate.paths.watch("tile", "0"), {})
    finally:
        os.umask(before)
    made = {path.relative_to(results).as_posix() for path in results.rglob("*")}
    assert {"micro/plate.zarr/B/02/0/zarr.json", "micro/requests.jsonl", "screen/index.html"} - made == set()
    assert private(results, 0o002, results.stat().st_gid) == {}


def test_users_with_a_setgid_folder_and_umask_002_go_on_with_each_others_work(users: Users) -> None:
    """Half a minute: four runs of Snakemake by users who may not use this process's compiled code."""
    ann, bob = users
    project, paths = Project(ann.folder), Project(ann.folder).path()
    ann.snakemake("--until", "tile")
    receipts = paths.receipts("tile", "*")
    before = {receipt: receipt.read_bytes() for receipt in receipts}
    for receipt in receipts:  # Ann's clock is ahead: only she may set the time of her files
        os.utime(receipt, (time.time() + 3600,) * 2)
    bob.snakemake("--until", "infer")
    assert {receipt: receipt.read_bytes() for receipt in receipts} == before
    assert {receipt.stat().st_mtime for receipt in receipts} == {OLD}, "Bob's jobs have read them"
    done = project.sequences()
    project.configure(lambda config: config.update(augment=True))
    ann.snakemake("--until", "infer")
    assert {stage for stage, *_ in project.redone(done)} == {"infer"}
    done = project.sequences()
    ((status, _),) = bob.plateflow("retry micro/B02 --stage tile")
    assert status == 0
    bob.snakemake("--until", "tile")
    assert {stage for stage, *_ in project.redone(done)} == {"tile"}
    assert {path.lstat().st_uid for path in paths.root.rglob("*")} == {ann.number, bob.number}
    assert private(ann.folder, 0o007, GROUP) == {}, "Snakemake shows its own records to the group alone"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_project_that_is_closed_to_the_group_is_told_in_one_sentence(users: Users, umask: int) -> None:
    """Whose it is and what that user runs; which then works."""
    ann, bob = users
    ann.snakemake("--until", "tile", umask=umask)
    for path in (ann.folder, ann.folder / "config"):
        path.chmod(0o755)
    raw = next(path.name for path in (ann.folder / "raw").glob("micro__*"))
    writing = [command.format(raw=raw) for command in WRITING]
    reading, (checked, *written) = bob.plateflow(*READING), bob.plateflow("check --json", *writing)
    failed = [*written[1:], *([] if umask == 0o022 else reading)]  # a retry that has nothing to clear does nothing
    assert [status for status, _ in failed] == [1] * len(failed)
    for output in [output for _, output in failed] + [
        bob.snakemake("--until", "infer", status=1),
        bob.snakemake("-n", status=1),
        bob.snakemake("--unlock", status=1),
    ]:
        assert re.search("40002 may not (read|write) ", output), output
        assert "owned by 40001" in output
        told = re.search(f"40001 runs `chgrp (-R )?{GROUP} '{ann.folder}/([.a-z]+)", output)
        assert told is not None, output
        assert (told[1] is None) == (told[2] == "config"), "which isn't made by a run"
        assert ("all work with `umask 002`" in output) == (told[1] is not None)
        assert "Errno" not in output.replace("Failed to setup log file: [Errno", "")  # Snakemake's own
    if umask == 0o022:
        assert [status for status, _ in reading] == [4, 4, 0, 0]
    status, output = checked
    *problems, of_map = json.loads(output)
    assert status == 1
    assert of_map["what"].startswith("no well is a negative control"), "as in every project here: of the plate itself"
    assert {problem["file"].partition("/")[0] for problem in problems} == {".snakemake", "results"}
    assert any("results/micro (" in problem["what"] for problem in problems) == (umask == 0o022)
    repairs = {problem["remedy"].split("`")[1] for problem in problems}
    assert len(repairs) == 2
    for repair in repairs:
        assert ann.run("sh", "-ec", repair) == (0, "")
    ((status, output),) = bob.plateflow("check")
    assert status == 0
    assert SOUND.fullmatch(output)
    bob.snakemake("--until", "infer")


LEASE = """
import sys, time
from pathlib import Path
from plateflow.state.lease import Lease
with Lease(Path(sys.argv[1]), holder="Ann's job"):
    print("taken", flush=True)
    sys.stdin.read() if sys.argv[2] == "lives" else __import__("os")._exit(0)
"""


def test_a_lease_of_another_user(users: Users) -> None:
    """Of one who is dead it is cleared; of one who is alive, or whom Bob may not see, it is left alone."""
    ann, bob = users
    leases = Project(ann.folder).path().lease("tile", "0").parent
    lease = leases / "tile-0"
    alive = ann.start(sys.executable, "-c", LEASE, lease, "lives")
    assert alive.stdout is not None
    assert alive.stdout.readline() == "taken\n"
    ((status, output),) = bob.plateflow("retry")
    assert (status, lease.exists()) == (0, True)
    assert "tile-0 may still run" in output or "tile-0 still runs" in output
    alive.communicate("")
    assert not lease.exists()

    ann.run(sys.executable, "-c", LEASE, lease, "dies")
    ((status, output),) = bob.plateflow("retry")
    assert "cleared the lease of tile-0" in output
    assert (status, lease.exists()) == (0, False)

    ann.run(sys.executable, "-c", LEASE, lease, "dies", umask=0o077)
    told = bob.plateflow("retry", "run micro tile 0")
    leases.chmod(0o2755)
    lease.chmod(0o2755)
    (lease / "owner.json").chmod(0o644)
    told += bob.plateflow("retry")
    assert [status for status, _ in told] == [1, 1, 1]
    assert ["may not read results/micro/leases/tile-0" in output for _, output in told] == [True, True, False]
    assert "may not write results/micro/leases" in told[2][1]
    assert lease.exists()


def test_nobody_is_told_to_open_a_folder_outside_of_the_project(users: Users) -> None:
    """Results behind a link, in a folder that is closed: its owner lets the group pass, and opens nothing else."""
    ann, bob = users
    closed = ann.folder.parent / "home-40001"
    (closed / "results").mkdir()
    os.chown(closed / "results", ann.number, GROUP)
    closed.chmod(0o700)
    (ann.folder / "results").symlink_to(closed / "results")
    for status, output in bob.plateflow("status micro/B02", "check", "retry"):
        assert status == 1
        assert f"40002 may not read {closed}" in output
        assert f"40001 runs `chgrp {GROUP} '{closed}'; chmod g+x '{closed}'`" in output
    ((status, output),) = ann.plateflow("check")
    assert status == 0
    assert SOUND.fullmatch(output)


@pytest.mark.parametrize("where", ["/", "above", "home", "project"])
def test_nobody_is_told_to_open_a_home(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder that isn't the project's own, whole trees are nobody's business."""
    home = tmp_path / "ann"
    results = home / "project" / "results"
    results.mkdir(parents=True)
    for folder in (home, home / "project"):
        (folder / "config").mkdir()
        (folder / "config" / "config.yaml").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir({"/": "/", "above": tmp_path, "home": home, "project": home / "project"}[where])
    monkeypatch.setattr(access.os, "geteuid", lambda: os.getuid() + 1)  # somebody else looks
    for unknown in (True, False):
        remedy = (access.denial(results) if unknown else access.denial(results, str(results))).remedy
        assert f"'{results}'" in remedy
        assert set(re.findall("'(.*?)'", remedy)) == {str(results)}
        assert ("-R" in remedy) == (where == "project" or not unknown)
    for closed in (home, home / "project"):
        assert "-R" not in access.denial(closed, str(closed.parent)).remedy
