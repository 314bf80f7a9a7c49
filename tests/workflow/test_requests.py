"""What a job of more than 1 GB uses of what it asks for. It needs a canvas of 3240 px: 40 s of processor."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from workflow_project import REPOSITORY, make_project

from plateflow.config import load_config, load_plates
from plateflow.estimate import estimates_of
from plateflow.project import Project
from plateflow.simulate.plate import WellPlan
from plateflow.state.ledger import attempts


def test_a_large_job_uses_a_third_to_nine_tenths_of_its_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    wells = [WellPlan(well="B02", role="treatment", treatment="x", dose=1.0, effect=0.2)]
    project = make_project(tmp_path, wells=wells, fields=9, field_shape=(1080, 1080))
    project.configure(lambda config: config.update(parts={"cpu": 1, "gpu": 1}, device="cpu"))
    profile = ("--workflow-profile", str(REPOSITORY / "profiles" / "default"), "--until", "infer")
    project.snakemake(*profile, env=dict(os.environ))
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("config/config.yaml"))
    estimate = estimates_of(Project.of(config, load_plates(Path(config.plates))))["micro"]
    ledger = pd.DataFrame(attempts(project.path())).set_index("stage")
    assert ledger.loc["infer", "peak_mb"] > 1000
    for stage in ledger.index:
        share = ledger.loc[stage, "peak_mb"] / estimate.resources(stage)["mem_mb"]
        print(stage, ledger.loc[stage, "peak_mb"], estimate.resources(stage), round(share, 2))
        if ledger.loc[stage, "peak_mb"] > 1000:
            assert 0.3 <= share <= 0.9, stage
        assert share <= 0.9, stage
        assert ledger.loc[stage, "seconds"] < 60 * estimate.resources(stage)["runtime"]
