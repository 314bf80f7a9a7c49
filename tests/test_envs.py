"""The ways to set up the software say the same as pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==")
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    if re.match(r"[\w.-]+==", line)
)


def minimum() -> tuple[int, ...]:
    return tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))


def test_the_conda_environment_installs_the_project_with_its_pins() -> None:
    text = (REPOSITORY / "envs" / "environment.yml").read_text()
    *conda, pip = yaml.safe_load(text)["dependencies"]
    (python,) = [line for line in conda if line.startswith("python")]
    low = re.match(r"python>=([\d.]+)", python)
    assert low is not None
    assert tuple(map(int, low[1].split("."))) == minimum()
    assert all(line in {"pip", python} for line in conda)  # versions are said in one place alone
    constraint, project = pip["pip"]
    folder = REPOSITORY / "envs"
    assert (folder / constraint.removeprefix("-c ")).resolve() == REPOSITORY / "constraints.txt"
    path, _, extra = project.removeprefix("-e ").partition("[")
    assert (folder / path).resolve() == REPOSITORY
    assert extra.rstrip("]") in PROJECT["optional-dependencies"]


def test_the_container_has_a_python_that_the_project_takes_and_the_pins() -> None:
    text = (REPOSITORY / "envs" / "plateflow.def").read_text()
    version = re.search(r"From: python:([\d.]+)", text)
    assert version is not None
    assert tuple(map(int, version[1].split("."))) >= minimum()
    assert "-c constraints.txt" in text


def test_every_dependency_has_a_pin_that_its_range_admits() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    for line in [*PROJECT["dependencies"], *(x for extra in PROJECT["optional-dependencies"].values() for x in extra)]:
        requirement = Requirement(line)
        assert canonicalize_name(requirement.name) in pins, line
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), line
