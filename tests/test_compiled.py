"""Compiled functions: what is kept on the disk of them, until when, and what happens where nothing can be."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import plateflow
from plateflow.compiled import _sources

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


@pytest.mark.parametrize("changed", ["FACTOR = 2", "return x + FACTOR"])
def test_what_was_kept_is_not_used_once_another_module_of_the_folder_has_changed(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numba by itself compares a function's own file: `outer` would go on with the `inner` of before."""
    monkeypatch.syspath_prepend(tmp_path)
    first, second = tmp_path / "plateflow_first.py", tmp_path / "plateflow_second.py"
    start = "from plateflow.compiled import compiled\n"
    first.write_text(
        f"{start}FACTOR = 3\n\n@compiled(inline='always')\ndef inner(x):\n    return x * FACTOR\n", encoding="utf-8"
    )
    second.write_text(
        f"{start}from plateflow_first import inner\n\n@compiled\ndef outer(x):\n    return inner(x)\n", encoding="utf-8"
    )

    def outer() -> Any:
        for name in (first.stem, second.stem):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        _sources.cache_clear()
        return importlib.import_module(second.stem).outer

    assert outer()(5) == 15
    again = outer()
    assert again(5) == 15
    assert again.stats.cache_hits, "kept"
    before = {"FACTOR = 2": "FACTOR = 3", "return x + FACTOR": "return x * FACTOR"}[changed]
    first.write_text(first.read_text(encoding="utf-8").replace(before, changed) + "# longer\n", encoding="utf-8")
    assert outer()(5) == {"FACTOR = 2": 10, "return x + FACTOR": 8}[changed]


def test_kernels_for_cuda_depend_on_all_modules_of_their_folder() -> None:
    pytest.importorskip("numba_cuda")
    from plateflow.flows import kernels, scalar

    stamp = _sources(Path(scalar.__file__).parent)
    for function in (kernels.measure, scalar.squared_error):
        assert function._cache._cache_file._source_stamp == stamp
