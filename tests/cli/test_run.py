"""`plateflow run`: a job by hand, with the lease, journal and receipt that it has under Snakemake."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from plateflow.chain import stages_of
from plateflow.cli import _typer
from plateflow.cli.init import make_spec, write_project
from plateflow.errors import LeaseError, PlateflowError, ResultsError
from plateflow.plates import open_plate
from plateflow.project import Project
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.state.journal import Journal
from plateflow.state.lease import Lease

TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of one plate, in the working folder."""
    made = simulate_plate(tmp_path / "raw", wells=micro_wells(), fields=1, field_shape=(96, 96), plate="p1")
    spec = make_spec(made.raw, plate_map=made.plate_map)
    write_project(tmp_path, spec, open_plate(spec))
    config = tmp_path / "config" / "config.yaml"
    config.write_text(config.read_text().replace('model: "default"', f'model: "{TINY}"'))
    monkeypatch.chdir(tmp_path)
    return Project.load(config)


def run(*arguments: str) -> None:
    """Run the command; an error comes as it is."""
    result = CliRunner().invoke(_typer, ["run", *arguments], catch_exceptions=True)
    if isinstance(result.exception, PlateflowError):
        raise result.exception
    assert result.exit_code == 0, result.output


def test_jobs_run_one_by_one_or_all_of_a_stage(project: Project) -> None:
    plate = project.plate("p1")
    with pytest.raises(ResultsError, match="no manifest"):
        run("p1", "tile", "0")
    run("p1", "ingest")
    run("p1", "tile", "1")
    assert not plate.paths.receipts("tile", "0")
    assert plate.paths.receipts("tile", "1")
    assert list(plate.wells_of("tile", "1")) == [well for well, _, _ in plate.outcomes("tile")]
    run("p1", "tile")
    assert len(Journal.read(plate.paths.journal("tile", "1")).attempts) == 1, "what was done isn't done again"
    for name, stage in list(stages_of(project.config).items())[2:]:
        run("p1", name)
        assert all(plate.paths.receipts(name, job) for job in stage.jobs(project.config))
    assert plate.paths.table("report.html").stat().st_size > 10_000
    run("screen", "screen")
    assert project.screen.table("index.html").is_file()
    assert not list((plate.paths.root / "leases").iterdir())


def test_what_can_not_be_run_is_said(project: Project) -> None:
    with pytest.raises(PlateflowError, match="the screen has one job"):
        run("screen", "report")
    with pytest.raises(PlateflowError, match="no plate 'p2'"):
        run("p2", "tile")
    run("p1", "ingest")
    with pytest.raises(PlateflowError, match=r"tile has no job '7'[\s\S]*its jobs are 0, 1"):
        run("p1", "tile", "7")
    lease = project.plate("p1").paths.lease("tile", "0")
    with Lease(lease, holder="another"), pytest.raises(LeaseError, match="p1: tile 0 is already running"):
        run("p1", "tile", "0")
