"""The bench for a GPU, small and on the CPU: every section runs, and the kernels compile for a Hopper GPU."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench" / "gpu.py"


def run(*sections: str) -> dict[str, list[dict[str, Any]]]:
    """The lines by section."""
    command = [sys.executable, BENCH, "--small", "--sections", *sections]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        assert "error" not in line, done.stderr
        found.setdefault(line["section"], []).append(line)
    return found


def test_every_section_runs() -> None:
    found = run("network", "block", "float32", "fields", "job", "flows", "tests")
    assert {line["model"] for line in found["network"] if "tiles_per_s" in line} == {"vit_l", "default"}
    assert {line["network"] for line in found["job"] if "network" in line} == {"nothing", "vit_l", "default"}
    assert found["float32"][0]["float32"] < 1e-6
    assert "test_on_cuda.py" in found["tests"][0]["left_out"]


def test_kernels_compile_for_hopper_in_time_without_spilling() -> None:
    pytest.importorskip("triton", reason="Triton is for Linux")
    lines = [line for line in run("compiled")["compiled"] if "kernel" in line]
    assert len(lines) >= 5
    for line in lines:
        assert line["spilled"] == 0, line
        assert line["compile_s"] < 10, line
        assert line["registers"] * 128 <= 65536 // 2, f"two programs of four warps per multiprocessor: {line}"
        assert line["shared"] <= 227 * 1024 // 2, line


def test_a_section_out_of_time_is_no_failure_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCH.parent), *sys.path])  # to which the bench adds folders
    bench, caught, start = importlib.import_module("gpu"), [], time.perf_counter()
    with pytest.raises(bench.OutOfTimeError, match="stopped"), bench.at_most(0.1):
        try:  # as `fast.fused` does around a kernel that is being compiled
            time.sleep(20)
        except Exception as error:
            caught.append(error)
    assert not caught
    assert time.perf_counter() - start < 10
