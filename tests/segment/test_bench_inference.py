"""The benchmark of inference, on small inputs: it runs, and what is no matter of speed is as promised."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "inference.py"


def run(*arguments: str) -> dict[str, list[dict[str, Any]]]:
    """The lines by case."""
    common = ["--model", "small", "--dtype", "float32", "--repeat", "1", "--warm-up", "0"]
    done = subprocess.run([sys.executable, BENCH, *common, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        found.setdefault(line.get("case", "machine"), []).append(line)
    return found


def test_every_case_with_networks_runs() -> None:
    pytest.importorskip("cellpose", reason="Cellpose isn't installed: make test")
    found = run("--cases", "network", "fields", "labels", "parity", "default", "--edge", "200")
    assert found["machine"][0]["peer"]
    assert found["network"][0]["gflop_a_tile"] == pytest.approx(1.88, abs=0.01)
    for case in ("network", "fields", "labels"):
        assert found[case][0]["ratio"] > 0
    assert found["network"][0]["ours_fraction"] > 0
    assert found["parity"][0]["float32"] <= 1e-5
    assert found["parity"][0]["bfloat16_ours"] <= 1.2 * found["parity"][0]["bfloat16_peer"]


def test_the_time_of_a_job_outside_of_the_network_is_told_with_and_without_overlap() -> None:
    """12 fields. Which is less isn't asked: on a busy machine it is chance; docs/performance.md has it for 96."""
    case = ["--cases", "overhead", "--overhead-fields", "12", "--edge", "512", "--repeat", "3", "--warm-up", "1"]
    with_it, without = run(*case)["overhead"]
    assert with_it["overlap"]
    assert not without["overlap"]
    assert with_it["asleep_s"] > 12 * 9 / 300
    for each in (with_it, without):
        assert each["outside"] == pytest.approx(1 - each["asleep_s"] / each["wall_s"], abs=1e-3)


def test_seams_are_no_worse_than_the_peers_and_labels_not_hurt_by_the_batch_size() -> None:
    found = run("--cases", "seams", "batches", "--edge", "600", "--fields", "2")
    seams = found["seams"][0]
    assert seams["plateflow"] <= seams["cellpose"] + 0.02
    assert seams["plateflow_paired"] <= seams["cellpose_paired"] + 0.02
    assert found["batches"][0]["ap90"] >= 0.99
