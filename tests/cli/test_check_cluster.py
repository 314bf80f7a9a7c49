"""`plateflow check --cluster` asks SLURM for what Snakemake and its plugin would. SLURM's commands are stubs here."""

from __future__ import annotations

import csv
import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import plateflow
from test_plan import SIZE

from plateflow.chain import stages_of
from plateflow.cli.submission import Submission, read_submission, slurm_profile
from plateflow.config import Config, PlateSpec, config_yaml
from plateflow.errors import PlateflowError
from plateflow.installed import make_project

pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install -c constraints.txt -e '.[slurm]'")

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = Path("config/config.yaml")
HERE = [*stages_of(Config())]
"""The stages of the configuration."""
PLATES = ["large", "small"]
CPU = {"executor": "slurm", "jobs": 10, "default-resources": {"slurm_partition": "cpu"}}
STUBS = {
    "sacctmgr": "echo lab",
    "sacct": "echo lab",
    "sinfo": "echo 'PARTITION main*'",
    "scancel": "",
    "scontrol": 'cat "$SITE/partition"',
    "squeue": 'echo "squeue $*" >> "$SITE/asked"; cat "$SITE/state"',
    # A job whose log is given fails with it, else it finds nothing wrong.
    "sbatch": """
echo "sbatch${SLURM_MEM_PER_NODE} $*" >> "$SITE/asked"
case "$*" in *--test-only*) cat "$SITE/said" >&2; exit "$(cat "$SITE/status")" ;; esac
for word; do case $word in --output=*) log=${word#--output=} ;; esac; done
if [ -f "$SITE/log" ]; then cp "$SITE/log" "$log"; else echo '{"host": "n1", "wrong": []}' > "${log%.log}.json"; fi
cat "$SITE/number"
""",
}


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two plates as the working folder, and a SLURM that takes everything; returns what steers that."""
    folder, project = tmp_path / "site", tmp_path / "project"
    for path in (folder / "bin", project / "config"):
        path.mkdir(parents=True)
    for name, script in STUBS.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    texts = {"status": "0", "number": "7", "state": "COMPLETED|None", "said": "", "partition": "", "asked": ""}
    for name, text in texts.items():
        (folder / name).write_text(text)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SITE", str(folder))
    monkeypatch.chdir(project)
    CONFIG.write_text(config_yaml(Config(threads=16)))
    with Path("config/plates.tsv").open("w", newline="") as file:
        sheet = csv.DictWriter(file, list(PlateSpec.model_fields), delimiter="\t")
        sheet.writeheader()
        large = SIZE | {"canvas_mpx": 4 * SIZE["canvas_mpx"], "image_mpx": 4 * SIZE["image_mpx"]}
        sheet.writerows(
            {"plate": plate, "path": "raw", **size} for plate, size in zip(PLATES, (large, SIZE), strict=True)
        )
    return folder


def write_profile(settings: dict, name: str = "config.yaml") -> Path:
    """A profile in a folder of its own."""
    folder = Path("site-profile")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(settings))
    return folder


def submission(settings: dict) -> Submission:
    return read_submission(slurm_profile(write_profile(settings)), CONFIG, PLATES)


def calls(settings: dict) -> dict[str, str]:
    """The calls of sbatch by rule; of two sizes the one with more memory."""
    found = submission(settings)
    assert found.refused == []
    return {trial.job.name: trial.call for trial in reversed(found.trials)}


def infer(**resources: object) -> dict:
    """A profile that gives these to the stage with the GPU."""
    return CPU | {"set-resources": {"infer": resources}}


def test_the_shipped_profile_has_two_places():
    found = read_submission(slurm_profile(REPOSITORY / "profiles" / "slurm"), CONFIG, PLATES)
    places = {trial.job.name: trial.place for trial in found.trials}
    assert places.pop("infer") == "-A lab -p gpu --no-requeue --gres=gpu:1"
    assert set(places.values()) == {"-A lab -p cpu --no-requeue"}
    assert places.keys() == {*HERE, "screen"} - {"infer"}


OPTIONS = [
    ({}, "-p cpu"),
    ({"qos": "long"}, "--qos=long"),
    ({"constraint": "'a100|h100'"}, "-C 'a100|h100'"),
    ({"clusters": "second"}, "--clusters second"),
    ({"gpu": 2}, "--gpus=2"),
    ({"gpu_model": "a100", "gpu": 1}, "--gpus=a100:1"),
    ({"gres": "'gpu:a100:1'"}, "--gres=gpu:a100:1"),
    ({"gres": "'gpu:1g.5gb:1'"}, "--gres=gpu:1g.5gb:1"),
    ({"slurm_extra": "'--exclude=n1 --nice=10'"}, "--exclude=n1 --nice=10"),
    ({"nodes": 2}, "--nodes=2"),
    ({"tasks": 1, "gpu": 1}, "--ntasks-per-gpu=1"),
    ({"mem_mb": "1200 * attempt"}, "--mem 1200"),
    ({"mem_mb_per_cpu": 900}, "--mem-per-cpu 900"),
    ({"runtime": "2h"}, "-t 120"),
    ({"slurm_partition": "2026"}, "-p 2026"),
    ({"slurm_partition": 2026}, "-p 2026"),
    ({"slurm_account": "LAB"}, "-A LAB"),
]


def test_the_options_are_those_of_the_run():
    """A stage for each, as many profiles as that takes."""
    for first in range(0, len(OPTIONS), len(HERE)):
        given = dict(zip(HERE, OPTIONS[first:], strict=False))
        found = calls(CPU | {"set-resources": {stage: resources for stage, (resources, _) in given.items()}})
        for stage, (_, option) in given.items():
            assert f" {option} " in f"{found[stage]} "


def test_the_gpu_of_the_one_stage_is_asked_for():
    found = calls(CPU)
    assert [stage for stage in HERE if "--gpus=1" in found[stage]] == ["infer"]


def test_lists_say_the_same_as_mappings():
    lists = {
        "default-resources": ["slurm_partition=old", "qos='long'"],
        "set-resources": ["infer:slurm_partition=gpu", "infer:gpu=3"],
        "set-threads": ["tile=5"],
    }
    mappings = {
        "default-resources": {"slurm_partition": "old", "qos": "long"},
        "set-resources": {"infer": {"slurm_partition": "gpu", "gpu": 3}},
        "set-threads": {"tile": 5},
    }
    found = calls(CPU | lists)
    assert found == calls(CPU | mappings)
    assert " -p gpu " in found["infer"]
    assert found["infer"].endswith(" --gpus=3")
    assert " --qos=long " in found["infer"]
    assert " --cpus-per-task=5 " in found["tile"]


def test_the_plugins_own_settings_and_its_default_partition():
    settings = {"reservation": "course", "qos": "long", "requeue": True, "exclude-failed-nodes": "n3"}
    profile = {f"slurm-{name}": value for name, value in settings.items()} | {"default-resources": {"gpu": 0}}
    call = calls(CPU | profile)["ingest"]
    for option in ("--reservation=course", "--qos=long", "--requeue", "--exclude=n3", "-p main"):
        assert f" {option} " in call


def test_partitions_chosen_by_size_are_those_of_the_large_job():
    """The small job goes where the large one will."""
    limit = {"short": {"max_runtime": 30}, "long": {"max_runtime": 100_000}}
    Path("partitions.yaml").write_text(yaml.safe_dump({"partitions": limit}))
    settings = CPU | {"slurm-partition-config": "partitions.yaml", "default-resources": {"gpu": 0}}
    trials = {trial.job.name: trial for trial in submission(settings).trials}
    assert "-p short" in trials["ingest"].small
    assert "-p long" in trials["features"].small
    assert "-t 10" in trials["features"].small


def test_a_job_that_tries_a_place_is_small_but_never_larger_than_the_rules_own():
    trials = {trial.job.name: trial for trial in submission(infer(mem_mb=700, runtime=5)).trials}
    assert "-t 5 --mem 700" in trials["infer"].small
    assert "-t 10 --mem 2000" in trials["stitch"].small
    assert "--cpus-per-task=1" in trials["tile"].small


def test_the_largest_job_is_tried_and_its_plate_named():
    trials = [trial for trial in submission(CPU).trials if trial.job.name == "infer"]
    assert [trial.job.plates for trial in trials] == [("large",)]
    assert submission(infer(mem_mb=1000, runtime=10)).trials[3].job.plates == ("large", "small")


def test_a_small_login_node_cuts_no_threads():
    """Snakemake cuts a job's threads to `cores`, and `all` would be those of the machine on which the driver runs."""
    for profile in ("slurm", "generic"):
        assert "cores" not in yaml.safe_load((REPOSITORY / "profiles" / profile / "config.v8+.yaml").read_text())
    assert "--cpus-per-task=16" in calls(CPU)["infer"]


REFUSED = {
    "ingest": ({"slurm_extra": "'--qos=long'"}, "not allowed in the 'slurm_extra'"),
    "tile": ({"gres": "'gpu:1,ssd:1'"}, "Invalid GRES format: gpu:1,ssd:1"),
    "infer": ({"gpu_model": "'a100:1'"}, "Invalid GPU model format"),
    "normalise": ({"nodes": 0}, "'nodes' must be an integer"),
    "stitch": ({"slurm_account": "nobody"}, "account nobody appears to be invalid"),
    "features": ({"gres": 1}, "type 'int'"),
}


def test_what_the_plugin_refuses_is_refused_stage_by_stage(site: Path):
    resources = {stage: resources for stage, (resources, _) in REFUSED.items()}
    said, _ = check(site, CPU | {"set-resources": resources})
    for stage, (_, why) in REFUSED.items():
        (line,) = [line for line in said.splitlines() if line.startswith(f"error: SLURM, {stage}: ")]
        assert "Snakemake's plugin refuses it: " in line
        assert why in line
    assert said.count("error:") == len(REFUSED)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (CPU | {"slurm-qso": "long"}, "unrecognized arguments: --slurm-qso=long"),
        (CPU | {"slurm-requeue": True, "slurm-no-requeue": True}, "mutually exclusive"),
        (infer(mem_mb="1200 * atempt"), "atempt"),
        (CPU | {"executor": "cluster-generic"}, "only SLURM can be tried"),
        ({"jobs": 10}, "only SLURM can be tried"),
    ],
)
def test_a_profile_that_snakemake_or_the_trial_cannot_use(settings: dict, why: str):
    with pytest.raises(PlateflowError) as raised:
        submission(settings)
    assert why in str(raised.value)
    assert "site-profile/config.yaml" in raised.value.where


def test_without_the_plugin_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PlateflowError, match=r"pip install snakemake-executor-plugin-slurm -c /.*/constraints\.txt"):
        slurm_profile(REPOSITORY / "profiles" / "slurm")


@pytest.mark.parametrize("name", ["config.yaml", "config.v9+.yaml", "profile.yaml", "profile.v8+.yaml"])
def test_any_name_that_snakemake_takes(name: str):
    profile = write_profile(CPU, name)
    write_profile({"executor": "slurm", "jobs": 99}, "config.v10+.yaml")
    assert slurm_profile(profile).name == name
    assert slurm_profile(profile / name).name == name
    (profile / name).unlink()
    with pytest.raises(PlateflowError, match="there is no profile"):
        slurm_profile(profile)


def check(site: Path, settings: dict = CPU, status: int = 1) -> tuple[str, list[str]]:
    """What the command says, and the commands of SLURM that it called."""
    said = plateflow("check", "--cluster", "--profile", write_profile(settings), cwd=Path.cwd(), status=status)
    assert not list(Path("results").glob(".check*"))
    return said, (site / "asked").read_text().splitlines()


def test_nothing_wrong(site: Path):
    before = dict(os.environ)
    said, asked = check(site, status=0)
    assert said == "No problem found.\n"
    assert dict(os.environ) == before
    tried = [line for line in asked if "--test-only" in line]
    assert {shlex.split(line)[shlex.split(line).index("-D") + 1] for line in tried} == {str(Path.cwd())}
    jobs = [line for line in asked if line.startswith("sbatch") and line not in tried]
    assert [("--gpus=1" in line, line.split()[-1]) for line in jobs] == [(False, "cpu"), (True, "gpu")]


def test_a_project_s_snakefile_submits_what_the_installed_one_does():
    installed = calls(CPU)
    make_project(Path.cwd())
    assert calls(CPU) == installed


def test_the_snakefile_says_nothing_of_its_own():
    """It does at the end of the process that reads it, of `--configfile` for one."""
    other = CONFIG.rename("other.yaml")
    words = ["check", "--cluster", "--profile", write_profile(CPU), "--configfile", other]
    command = [sys.executable, "-c", "from plateflow.cli import app; app()", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "No problem found.\n", "")


def test_a_job_that_slurm_would_refuse_names_stage_plate_and_way_out(site: Path):
    (site / "status").write_text("1")
    (site / "said").write_text("allocation failure: Requested node configuration is not available\n")
    said, _ = check(site, infer(mem_mb=900_000, runtime="3d"))
    text = "SLURM, infer of large, small: SLURM refuses 900,000 MB, 4320 min, 16 cores with -A lab -p cpu --gpus=1: "
    assert text + "allocation failure: Requested node configuration is not available" in said
    assert "set-resources" in said
    assert "`parts`" in said


def test_a_time_that_the_partition_never_grants(site: Path):
    """SLURM takes such a job and lets it wait, unless EnforcePartLimits says otherwise."""
    (site / "said").write_text(
        "sbatch: Job 8 to start at 2026-01-01T00:00:00 using 1 processors on nodes n1 in partition cpu\n"
    )
    (site / "partition").write_text("PartitionName=cpu MaxNodes=1 MaxTime=1-00:00:00 MinNodes=0\n")
    said, _ = check(site, infer(runtime="2d"))
    assert "SLURM, infer of large: it asks for 2880 min, and jobs of partition cpu get 1440" in said
    assert said.count("error:") == 1


def test_a_job_that_failed_says_so_with_its_log(site: Path):
    (site / "state").write_text("FAILED|NonZeroExitCode")
    (site / "log").write_text("slurm_script: 4: /opt/venv/bin/python: not found\n")
    said, _ = check(site)
    assert "the job failed (FAILED): slurm_script: 4: /opt/venv/bin/python: not found" in said
    assert "latency-wait" not in said


def test_a_file_that_the_node_wrote_elsewhere(site: Path):
    (site / "log").write_text("")
    said, _ = check(site, CPU | {"latency-wait": 0})
    assert "didn't appear within latency-wait (0 s)" in said


def test_another_cluster_is_asked_for_its_jobs(site: Path):
    (site / "number").write_text("7;second")
    _, asked = check(site, infer(clusters="second"), status=0)
    assert any(line.startswith("squeue -h -M second -t all -j 7") for line in asked)


def test_within_a_job_the_variables_of_slurm_are_left_out(site: Path, monkeypatch: pytest.MonkeyPatch):
    """As the plugin does: else its jobs would inherit memory and cores of the driver's own."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "500")
    _, asked = check(site, status=0)
    assert all(line.startswith(("sbatch --parsable", "squeue")) for line in asked)
