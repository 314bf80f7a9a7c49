"""Compiled functions where nothing can be kept on the disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import plateflow

USE = """
import numpy as np
from plateflow.flows import flows_from_labels
import plateflow.flows.targets, plateflow.features.matching, plateflow.images.histograms
assert plateflow.__file__.startswith({folder!r})
print(flows_from_labels(np.ones((1, 7), int))[1, 0].tolist())
"""


def test_without_a_folder_to_keep_them_in_functions_are_compiled_and_it_is_said_once(tmp_path: Path) -> None:
    """A container: the package, the user's home and the cache's folder can't be written, even by root as here."""
    package = shutil.copytree(
        Path(plateflow.__file__).parent, tmp_path / "plateflow", ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").touch()  # a file, so that no folder of this name can be made
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), "/proc/nowhere")
    done = subprocess.run(
        [sys.executable, "-c", USE.format(folder=str(tmp_path))],
        env={name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        | nowhere
        | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[1.0, 1.0, 1.0, 0.0, -1.0, -1.0, -1.0]"
    assert done.stderr.count("RuntimeWarning") == 1, done.stderr
    assert "NUMBA_CACHE_DIR" in done.stderr
