"""The same workflow on another scheduler, by another profile alone: a shell stub stands for its `qsub`.

About 90 s of processor time: each of the ten jobs starts Snakemake anew, as on a cluster. So the same run also shows
the ledger, that jobs use less than they asked for, and that files which are edited during a run don't reach its jobs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
from workflow_project import REPOSITORY, Project, make_project

from plateflow.chain import stages_of
from plateflow.config import Config
from plateflow.workflow import Workflow

HERE = [*stages_of(Config())]
"""The stages of the configuration."""

QSUB = """#!/bin/sh
# Grid Engine's qsub, as far as profiles/generic uses it: notes its arguments, runs the script, prints a number.
# Before the first job starts, someone has edited the configuration and the plate sheet: not fit for use.
echo "parts: {cpu: 4, gpu" > config/config.yaml
echo "plate" > config/plates.tsv
for script; do :; done
echo "$@" >> "$QSUB_LOG"
sh "$script" > "$script.out" 2>&1 &
echo $!
"""


def test_another_profile_is_enough(tmp_path: Path) -> None:
    project = make_project(tmp_path, fields=1, field_shape=(192, 192))
    project.configure(lambda config: config.update(parts={"cpu": 1, "gpu": 1}, device="cpu"))
    stub = tmp_path / "bin" / "qsub"
    stub.parent.mkdir()
    stub.write_text(QSUB)
    stub.chmod(0o755)
    log = tmp_path / "qsub.log"
    config = tmp_path / "config"
    shutil.copytree(config, tmp_path / "saved")
    path = f"{stub.parent}:{os.environ['PATH']}"
    profile = ("--workflow-profile", str(REPOSITORY / "profiles" / "generic"), "--jobs", "2", "--latency-wait", "20")
    said = project.snakemake(*profile, env={**os.environ, "PATH": path, "QSUB_LOG": str(log), "OMP_NUM_THREADS": "1"})
    assert "all plates are up to date" in said
    assert (config / "plates.tsv").read_text() == "plate\n"
    shutil.rmtree(config)
    (tmp_path / "saved").rename(config)
    assert "Nothing to be done" in project.snakemake()
    lines = log.read_text().splitlines()
    assert len(lines) == len(HERE) + 1  # what goes over all plates doesn't run beside the driver either
    assert sum("-l gpu=1" in line for line in lines) == 1
    assert sum("-l gpu=0" in line for line in lines) == len(HERE)
    check_requests(project, lines, tmp_path)
    check_ledger(project)


def check_requests(project: Project, lines: list[str], folder: Path) -> None:
    """Each job asked for what the plan says, and used less."""
    import yaml

    config = yaml.safe_load((folder / "config" / "config.yaml").read_text())
    config["plates"] = str(folder / config["plates"])
    config["results"] = str(folder / "results2")  # where nothing was learnt yet
    plan = Workflow(config)
    asked = {stage: plan.first_resources(stage, "micro") for stage in HERE}
    requests = [*asked.values(), plan.first_resources("screen", None)]
    wanted = sorted(f"h_vmem={request['mem_mb']}M" for request in requests)
    assert sorted(word for line in lines for word in line.split() if word.startswith("h_vmem")) == wanted
    used = pd.read_parquet(project.path("screen").table("ledger.parquet")).groupby("stage")["peak_mb"].max()
    assert all(used[stage] < 0.9 * asked[stage]["mem_mb"] for stage in HERE), used


def check_ledger(project: Project) -> None:
    """One good attempt a job, with what it used; cells and tiles are counted where they are made."""
    ledger = pd.read_parquet(project.path("screen").table("ledger.parquet")).set_index("stage")
    assert sorted(ledger.index) == sorted(HERE)
    assert set(ledger["state"]) == {"ok"}
    assert (ledger["share"] == 1).all()
    assert (ledger["cpu_s"] > 0.1).all()
    assert (ledger["seconds"] > 0.1).all()
    assert ledger.loc["stitch", "objects"] > 10
    assert ledger.loc["infer", "tiles"] == 4
    assert ledger.loc["tile", "written_mb"] > 0.1
    assert "Resource use" in project.path().table("report.html").read_text()
    assert len(pd.read_parquet(project.path().table("ledger.parquet"))) == len(HERE) - 1
