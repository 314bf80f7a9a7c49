"""A wheel runs a plate in an environment of its own, away from the checkout: `make test-wheel`; half of it is pip's."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MAKE_PLATE = """
from pathlib import Path
from plateflow.simulate.plate import micro_wells, simulate_plate
simulate_plate(Path("raw"), plate="micro", wells=micro_wells(), fields=1, field_shape=(128, 160), channels=("DNA",))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from the sdist, so neither may lack a file."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, REPOSITORY], check=True)
    (made,) = folder.glob("*.whl")
    return made


def test_a_wheel_brings_the_workflow_the_viewer_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "-C", REPOSITORY, "ls-files"], check=True, capture_output=True, text=True
    ).stdout.split("\n")
    code = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    folders = ("rules/", "scripts/", "profiles/", "envs/")
    shared = {name for name in tracked if name.startswith(folders) or name in {"Snakefile", "constraints.txt"}}
    viewer = {f"plateflow/viewer/static/openseadragon.{end}" for end in ("min.js", "LICENSE.txt")}
    assert names == code | viewer | {f"plateflow/share/{name}" for name in shared}


def test_a_plate_runs_from_a_wheel(wheel: Path, tmp_path: Path) -> None:
    project, elsewhere, binaries = tmp_path / "project", tmp_path / "elsewhere", tmp_path / "env" / "bin"
    project.mkdir(), elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def pip(*words: str | Path) -> None:
        subprocess.run([binaries / "pip", "install", "--quiet", *words], check=True, cwd=tmp_path, env=environment)

    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True, env=environment)
    pins = REPOSITORY / "constraints.txt"
    (torch,) = [line for line in pins.read_text().splitlines() if line.startswith("torch==")]
    pip(*shlex.split(os.environ.get("TORCH_ARGS", "")), torch)
    pip("-c", pins, wheel)

    environment |= {"PATH": f"{binaries}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(*words: str | Path, cwd: Path = project, status: int = 0) -> str:
        done = subprocess.run(
            words, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == status, f"{words} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    (package,) = (tmp_path / "env").glob("lib/python*/site-packages/plateflow")
    assert run("plateflow", "--version") == f"plateflow {wheel.name.split('-')[1]}\n"
    run("python", "-c", MAKE_PLATE)
    before = sorted(package.rglob("*"))
    (raw,) = project.glob("raw/micro__*")
    run("plateflow", "init", raw, "--plate-map", "raw/platemap.csv")
    config = project / "config" / "config.yaml"
    config.write_text(config.read_text().replace('families: "standard"', 'families: "minimal"'))
    run("plateflow", "check")
    run("snakemake")
    assert "1 complete" in run("plateflow", "status")
    assert "1 complete" in run("plateflow", "status", "--configfile", config, cwd=elsewhere)

    def counts(table: str, well: str, nuclei: str) -> dict[str, int]:
        return {row[well]: int(row[nuclei]) for row in csv.DictReader((project / table).open())}

    found = counts("results/micro/wells.csv", "Metadata_Well", "Count_Nuclei")
    assert found == pytest.approx(counts("raw/truth/truth.csv", "well", "nuclei"), abs=2)
    assert sorted(package.rglob("*")) == before, "who shares an installation writes nothing into it"
