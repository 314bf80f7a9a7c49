"""The command line called within the tests' process, as the `plateflow` command calls it; a process takes a second."""

from __future__ import annotations

import io
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from plateflow.cli import app


def plateflow(*arguments: str | Path, cwd: Path, status: int | None = 0) -> str:
    """Run a command in a folder.

    Args:
        arguments: what follows `plateflow`.
        cwd: the working directory of the command.
        status: the expected exit status; None for any.

    Returns:
        All that it printed, to the standard output and the standard error.
    """
    output, code = io.StringIO(), 0
    with (
        chdir(cwd),
        mock.patch.object(sys, "argv", ["plateflow", *map(str, arguments)]),
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        try:
            app()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    assert status is None or code == status, f"status {code}:\n{output.getvalue()}"
    return output.getvalue()
