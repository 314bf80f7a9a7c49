"""`plateflow init` makes a project of any folder, which commands find from anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_line import plateflow

from plateflow.installed import make_project
from plateflow.simulate.plate import micro_wells, simulate_plate

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = {
    str(file.relative_to(REPOSITORY)): file.read_bytes()
    for file in (REPOSITORY / "profiles").rglob("*")
    if file.is_file()
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which `init` was called for a plate, p1."""
    shape = {"fields": 1, "field_shape": (96, 96), "channels": ("DNA",)}
    simulate_plate(tmp_path / "data", plate="p1", wells=micro_wells(), **shape)
    (tmp_path / "project").mkdir()
    init(tmp_path / "project")
    return tmp_path / "project"


def init(folder: Path) -> str:
    """Call `init` in a folder."""
    (raw,) = folder.parent.glob("data/p1__*")
    return plateflow("init", raw, cwd=folder)


def profiles(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("profiles/*/*")}


def test_a_bare_snakemake_takes_workflow_and_profile(project: Path) -> None:
    assert profiles(project) == SHIPPED
    words = [sys.executable, "-m", "snakemake", "-n"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "specific profile profiles/default" in said
    assert "\nscreen " in said, "all jobs, not the first rule's alone"


def test_what_was_edited_stays(project: Path) -> None:
    snakefile, profile = project / "Snakefile", project / "profiles/slurm/config.v8+.yaml"
    for file in (snakefile, profile):
        file.write_text(f"{file.read_text()}# mine\n")
    (project / "profiles/generic/config.v8+.yaml").unlink()
    (project / "profiles/generic").rmdir()
    assert f"Wrote profiles/generic in {project}\n" in init(project)
    assert all(file.read_text().endswith("# mine\n") for file in (snakefile, profile))
    assert profiles(project).keys() == SHIPPED.keys()
    assert "Snakefile" not in init(project)


@pytest.mark.parametrize("name", ["Snakefile", "workflow/Snakefile"])
def test_another_workflow_s_snakefile_stays_and_is_told(project: Path, name: str) -> None:
    (project / "Snakefile").unlink()
    other = project / name
    other.parent.mkdir(exist_ok=True)
    other.write_text("rule all:\n    input: []\n")
    assert f"CHECK: {name} isn't Plateflow's" in init(project)
    assert other.read_text() == "rule all:\n    input: []\n"
    assert not (project / "Snakefile").exists() or name == "Snakefile"


def test_of_a_read_only_installation_the_project_s_files_can_be_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, project = tmp_path / "share", tmp_path / "project"
    shutil.copytree(REPOSITORY / "profiles", share / "profiles")
    for path in [*share.rglob("*")]:
        path.chmod(0o555)
    project.mkdir()
    project.chmod(0o2775)  # a group's, which files and folders in it inherit
    monkeypatch.setattr("plateflow.installed.SHARE", share)
    make_project(project)
    assert profiles(project) == SHIPPED
    assert all(path.stat().st_mode & 0o200 for path in project.rglob("*"))
    assert all(path.stat().st_mode & 0o2000 for path in project.rglob("*") if path.is_dir())


COMMANDS = ["status", "status p1/B02", "check", "plan --profile profiles/slurm", "verify"]
COMMANDS += ["retry", "clean p1", "run p1 ingest", "accept --stage tile"]


@pytest.mark.parametrize("words", [command.split() for command in COMMANDS], ids=COMMANDS)
def test_every_command_works_from_elsewhere_as_within(project: Path, words: list[str]) -> None:
    plateflow("run", "p1", "ingest", cwd=project)
    within, here = plateflow(*words, cwd=project, status=None), project.parent
    assert "there is no" not in within
    for config in (project / "config/config.yaml", os.path.relpath(project / "config/config.yaml", here)):
        said = plateflow(*words, "--configfile", config, cwd=here, status=None)
        assert said.replace(f"note: relative paths count from {project}\n", "") == within
    assert not (here / "results").exists()


def test_a_configuration_outside_of_a_folder_config_counts_from_the_working_folder(project: Path) -> None:
    (project / "config/config.yaml").rename(project.parent / "other.yaml")
    assert "to do" in plateflow("status", "--configfile", "../other.yaml", cwd=project, status=4)
    assert "no plate sheet" in plateflow("status", "--configfile", "other.yaml", cwd=project.parent, status=1)


def test_the_version() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert plateflow("--version", cwd=REPOSITORY) == f"plateflow {version}\n"
