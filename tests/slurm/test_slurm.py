"""The workflow on a real SLURM with fake GPUs.

A job takes 4 s beside its work and is noticed some 10 s after its end, so a chain of nine stages takes two minutes:
every test here is long, and faults share a run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_cluster import Cluster
from workflow_project import REPOSITORY, Project, make_project

SITE = ["--default-resources", "slurm_partition=cpu", "slurm_account=lab"]
QUICK = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]


def on_slurm(project: Project, cluster: Cluster, *arguments: str, status: int | None = 0) -> str:
    """Run the workflow with the profile as it is shipped, but for the site's names and the waiting times."""
    profile = str(REPOSITORY / "profiles" / "slurm")
    return project.snakemake(
        "--workflow-profile", profile, *SITE, *QUICK, *arguments, status=status, env=cluster.environment
    )


@pytest.fixture(scope="module")
def finished(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The micro plate, run through SLURM."""
    folder = tmp_path_factory.mktemp("slurm") / "project"
    folder.mkdir()
    project = make_project(folder)
    print(on_slurm(project, cluster))
    return project


def test_gpu_stages_get_their_gpu_and_cpu_stages_none(finished: Project, cluster: Cluster) -> None:
    jobs = cluster.accounting("JobID", "State", "Partition", "ReqTRES", "Comment")
    mine = {job["Comment"].split("_wildcards_")[0].removeprefix("rule_"): job for job in jobs}
    assert {"ingest", "tile", "normalise", "infer", "follow", "stitch", "features", "aggregate", "report"} <= {*mine}
    for rule, job in mine.items():
        assert job["State"] == "COMPLETED"
        assert job["Partition"] == ("gpu" if rule == "infer" else "cpu")
        assert ("gres/gpu=1" in job["ReqTRES"]) == (rule == "infer")


def test_the_results_are_those_of_the_local_profile(finished: Project, tmp_path: Path) -> None:
    local = make_project(tmp_path)
    local.snakemake()
    expected, found = local.results(), finished.results()
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []
