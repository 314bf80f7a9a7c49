"""Two users of one group, without names: what they do is done by processes of theirs.

Needs root. They see nobody else's processes, as on many login nodes (`hidepid`). Where the interpreter lies in a folder
that is closed to them, as root's home is, they get a view of the disk in which nothing but the way to it is open.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from workflow_project import REPOSITORY

GROUP = 40100
COMMANDS = """
import contextlib, io, json, sys
from plateflow.cli import app
told = []
for words in json.loads(sys.argv[1]):
    sys.argv, status, output = ["plateflow", *words], 0, io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            app()
        except SystemExit as end:
            status = end.code
    told.append((status, output.getvalue()))
print(json.dumps(told))
"""


@dataclass(frozen=True)
class User:
    """A user who works in a folder.

    Attributes:
        number: of the user.
        folder: in which the user works.
        view: a shell script that opens the way to what the user runs.
    """

    number: int
    folder: Path
    view: str

    def start(self, *command: str | Path, umask: int = 0o002) -> subprocess.Popen[str]:
        """Start a command; all that it prints is in `stdout`."""
        script = (
            f'{self.view}\numask {umask:03o}; exec setpriv --reuid={self.number} --regid={GROUP} --clear-groups "$@"'
        )
        name = f"user-{self.number}"  # Snakemake asks for one
        home = self.folder.parent / f"home-{self.number}"
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", script, "sh", *command],
            cwd=self.folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "USER": name, "LOGNAME": name},
        )  # fmt: skip

    def run(self, *command: str | Path, umask: int = 0o002) -> tuple[int, str]:
        """Run a command: how it ended, and all that it printed."""
        process = self.start(*command, umask=umask)
        output, _ = process.communicate("")
        return process.returncode, output

    def snakemake(self, *options: str, umask: int = 0o002, status: int = 0) -> str:
        """Run snakemake; returns all that it printed."""
        command = (sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile", "--retries", "0")
        ended, output = self.run(*command, *options, umask=umask)
        assert ended == status, f"status {ended}:\n{output}"
        assert "Traceback" not in output
        return output

    def plateflow(self, *commands: str, umask: int = 0o002) -> list[tuple[int, str]]:
        """Run commands of the command line, one after another: how each ended, and what it printed."""
        words = json.dumps([shlex.split(command) for command in commands])
        ended, told = self.run(sys.executable, "-c", COMMANDS, words, umask=umask)
        assert ended == 0, told
        return [(status, output) for status, output in json.loads(told.splitlines()[-1])]


@contextmanager
def two_users() -> Iterator[tuple[User, User]]:
    """Two users, and a new folder in which they work: it is the group's, and so is all that is made in it (setgid)."""
    with TemporaryDirectory(prefix="plateflow-") as base:
        folder = Path(base, "project")
        for place, owner in ((folder, 40001), (Path(base, "home-40001"), 40001), (Path(base, "home-40002"), 40002)):
            place.mkdir()
            os.chown(place, owner, GROUP)
        folder.chmod(0o2775)
        Path(base).chmod(0o755)
        users = [User(number, folder, _view(Path(base, "held"))) for number in (40001, 40002)]
        failed, why = users[0].run(sys.executable, "-c", "import plateflow")
        if failed:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs root and unshare: {why[-200:]}")
        yield users[0], users[1]


def _view(held: Path) -> str:
    """A shell script that opens what users run, where a folder above it is closed to them."""
    opened, closed, found = [], [], []
    for number, place in enumerate(path.resolve() for path in map(Path, (sys.base_prefix, sys.prefix, REPOSITORY))):
        private = [above for above in (*reversed(place.parents), place) if not above.stat().st_mode & 0o001]
        if private:
            held_at, way = shlex.quote(f"{held}-{number}"), shlex.quote(str(place))
            found.append(f"mkdir -p {held_at}; mount --bind {way} {held_at}")
            closed.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(private[0]))}")
            opened.append(f"mkdir -p {way}; mount --bind {held_at} {way}")
    return "\n".join(["mount -t proc -o hidepid=2 proc /proc || true", *found, *dict.fromkeys(closed), *opened])
