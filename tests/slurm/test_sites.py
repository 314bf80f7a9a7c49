"""What docs/sites.md says of sites, tried: one plate as far as `infer`, with a driver as cron starts it.

Its profile is the shipped one, edited as that page says: GPUs by `--gpus`, and CPU jobs where others may take the node
away. Its home isn't there, and it has a TMPDIR of its own.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from drivers import CLI, Driver, squeue
from slurm_cluster import Cluster
from workflow_project import REPOSITORY, Project, make_project

from plateflow.state.journal import Journal


class DriverOfCron(Driver):
    """A driver with the few variables that cron gives, in a folder whose profile is the site's own."""

    options = ("--workflow-profile", "site-profile")

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        kept = {name: environment[name] for name in ("PYTHONPATH", "PLATEFLOW_TEST_STOPS") if name in environment}
        home = {"HOME": "/proc/none", "LOGNAME": "root", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
        python = f"PATH={Path(sys.executable).parent}:$PATH"
        line = f"cd {shlex.quote(str(self.project.folder))} && {python} sh run.sh"
        (self.project.folder / "run.sh").write_text(
            "export TMPDIR=$PWD/tmp NUMBA_CACHE_DIR=$PWD/cache XDG_CACHE_HOME=$PWD/cache\n"
            f"{shlex.join([sys.executable, '-c', CLI, 'retry'])} && {shlex.join(command)}\n"
        )
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["/bin/sh", "-c", line], cwd="/", env=home | kept, stdout=log, stderr=log)


def edited(profile: Path) -> None:
    """The shipped profile with its first block edited."""
    profile.mkdir()
    content = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.v8+.yaml").read_text())
    content["default-resources"] = ["slurm_partition=spare", "slurm_account=lab", "mem_mb=600"]
    content["set-resources"] = {"infer": {"slurm_partition": "gpu", "gpu": 1}, "normalise": {"slurm_partition": "cpu"}}
    del content["slurm-no-requeue"]
    content |= {
        "slurm-requeue": True,
        "latency-wait": 10,
        "slurm-init-seconds-before-status-checks": 1,
        "seconds-between-status-checks": 1,
    }
    (profile / "config.yaml").write_text(yaml.safe_dump(content))


class Site(NamedTuple):
    """The project, what the run's driver said, and what a second one that cron started meanwhile."""

    project: Project
    said: str
    second: str


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The run is over. While its job of `tile` was in work, cron came again, and the job's node was taken away."""
    folder = tmp_path_factory.mktemp("site") / "project"
    (folder / "tmp").mkdir(parents=True)
    project = make_project(folder, plate="site")
    project.configure(lambda keys: keys.update(parts={"cpu": 1, "gpu": 1}, device="cpu", follow_slices=2))
    edited(folder / "site-profile")
    driver = DriverOfCron(project, cluster, "--until", "infer")
    owner = driver.held("tile", "0", "site")
    second = DriverOfCron(project, cluster, "--until", "infer", log="second.log").end(1)
    driver.idle.touch()
    urgent = ["sbatch", "--parsable", "--account=lab", "--partition=urgent", "--exclusive", "--wrap=sleep 1"]
    cluster.run(*urgent)
    driver.until(lambda: squeue("-j", owner.slurm_job, "-o", "%T") == "PENDING")
    driver.idle.unlink()
    cluster.run(
        "scontrol", "update", f"jobid={owner.slurm_job}", "starttime=now"
    )  # it would be put off for two minutes
    return Site(project, driver.end(0), second)


def test_a_job_whose_node_is_taken_away_takes_over_from_itself(site: Site, cluster: Cluster) -> None:
    """SLURM starts it again under its own number, once the node is free; Snakemake counts no failure."""
    project, said = site.project, site.said
    rows = cluster.accounting("State", "Partition", "ReqTRES", "Comment")
    tiles = [row for row in rows if row["Comment"].startswith("rule_tile_wildcards_site")]
    assert [(row["State"], row["Partition"]) for row in tiles] == [("COMPLETED", "spare")]
    attempts = Journal.read(project.path("site").journal("tile", "0")).attempts
    assert len({attempt.slurm_job for attempt in attempts}) == 1
    assert [attempt.state for attempt in attempts][-1] == "ok"
    assert "Error in rule" not in said


def test_gpus_can_be_asked_for_without_gres(site: Site, cluster: Cluster) -> None:
    rows = cluster.accounting("State", "Partition", "ReqTRES", "Comment")
    infer = [row for row in rows if row["Comment"].startswith("rule_infer_wildcards_site")]
    assert [(row["State"], row["Partition"], "gres/gpu=1" in row["ReqTRES"]) for row in infer] == [
        ("COMPLETED", "gpu", True)
    ]


def test_cron_and_its_jobs_need_no_home(site: Site) -> None:
    """One in which nothing can be made; and the temporary folder that jobs are given is empty afterwards."""
    project, said = site.project, site.said
    assert "Traceback" not in said
    assert (project.folder / "cache" / "snakemake").is_dir()
    assert not [*(project.folder / "tmp").iterdir()]


def test_a_second_start_by_cron_leaves_a_run_alone(site: Site) -> None:
    """It is refused by `retry`, so that snakemake isn't even started."""
    assert "a driver runs" in site.second
    assert "Building DAG" not in site.second


def test_a_slice_of_a_gpu_is_found_by_its_name(site: Site, cluster: Cluster) -> None:
    project = site.project
    profile = project.folder / "site-profile" / "config.yaml"
    content = yaml.safe_load(profile.read_text())
    content["set-resources"]["infer"] = {"gres": "'gpu:1g.5gb:1'", "gpu": 0}
    profile.write_text(yaml.safe_dump(content))
    assert project.plateflow("check", "--cluster", "--profile", "site-profile").strip() == "No problem found."
    content["set-resources"]["infer"]["gres"] = "'gpu:2g.10gb:1'"
    profile.write_text(yaml.safe_dump(content))
    said = project.plateflow("check", "--cluster", "--profile", "site-profile", status=1)
    assert "(infer): SLURM refuses the job" in said


def test_the_cluster_is_tried_before_a_run(site: Site, cluster: Cluster, tmp_path: Path) -> None:
    """Nothing wrong; then a GPU that torch doesn't see (here: a fake one), and what SLURM or the plugin refuses."""
    project, profile = site.project, tmp_path / "profile"
    shutil.copytree(REPOSITORY / "profiles" / "slurm", profile)

    def check(device: str) -> tuple[int, str]:
        config = yaml.safe_load((project.folder / "config" / "config.yaml").read_text())
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"device": device}))
        words = ["check", "--cluster", "--profile", profile, "--configfile", tmp_path / "config.yaml"]
        done = subprocess.run(
            [sys.executable, "-c", CLI, *words],
            cwd=project.folder, env=cluster.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    status, output = check("cpu")
    assert (status, output.strip()) == (0, "No problem found.")
    settings = yaml.safe_load((profile / "config.v8+.yaml").read_text())
    settings["default-resources"] = ["slurm_partition=night"]
    there = {"slurm_partition": "cpu"}
    settings["set-resources"] |= {
        "tile": there | {"mem_mb": 9000},
        "follow": there | {"constraint": "scratch"},
        "stitch": there | {"gres": "'gpu:1,ssd:1'"},
        "report": there | {"clusters": "throwaway"},
    }
    (profile / "config.v8+.yaml").unlink()
    (profile / "config.yaml").write_text(yaml.safe_dump(settings))
    status, output = check("cuda")
    assert status == 1
    assert re.search(r"sees no GPU \(CUDA_VISIBLE_DEVICES is '[01]'\)", output)
    refused = "SLURM refuses the job: "
    assert re.search(rf"-p night .*\(ingest, normalise, features, aggregate\b.*\): {refused}", output)
    assert re.search(r"tile of .*: SLURM refuses 9,000 MB, .*: Requested node configuration is not available", output)
    assert re.search(rf"-C scratch .*\(follow\): {refused}.*Invalid feature specification", output)
    assert re.search(r"stitch: Snakemake's plugin refuses it: Invalid GRES format: gpu:1,ssd:1", output)
    assert output.count("error:") == 5
    assert not list((project.folder / "results").glob(".check*"))
