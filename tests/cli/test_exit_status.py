"""All commands end with the statuses of one table, which docs/faults.md has."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import plateflow

from plateflow.cli import status as status_module
from plateflow.project import Plate, Project
from plateflow.report.screen import write_screen
from plateflow.state.journal import LeftOut

OF_A_PROJECT = {
    "check": ["check"],
    "plan": ["plan"],
    "status": ["status"],
    "retry": ["retry"],
    "verify": ["verify"],
    "clean": ["clean", "micro"],
    "accept": ["accept", "--stage", "tile"],
    "run": ["run", "micro", "report"],
}
OTHERS = [["init"], ["segment"], ["demo"], *(["weights", name] for name in ("list", "fetch", "verify", "add"))]
OF_A_PLATE = ("check", "status", "retry", "verify", "clean", "accept", "run")


@pytest.mark.parametrize("command", [*([name] for name in OF_A_PROJECT), *OTHERS], ids=" ".join)
def test_a_wrong_option_is_a_wrong_use(tmp_path, command):
    assert "No such option" in plateflow(*command, "--nonsense", cwd=tmp_path, status=2)
    plateflow(*command, "--help", cwd=tmp_path, status=0)


@pytest.mark.parametrize("command", OF_A_PROJECT.values(), ids=OF_A_PROJECT)
def test_without_a_configuration_it_is_an_error(tmp_path, command):
    assert "Traceback" not in plateflow(*command, cwd=tmp_path, status=1)


@pytest.mark.parametrize("command", OF_A_PROJECT.values(), ids=OF_A_PROJECT)
def test_all_is_well_with_what_is_done(done, command):
    plateflow(*command, cwd=done.folder, status=0)


@pytest.mark.parametrize("name", OF_A_PLATE)
def test_a_plate_that_is_not_there_is_an_error(done, name):
    options = {"accept": ["--stage", "tile"], "run": ["tile"]}.get(name, [])
    assert "no plate 'other'" in plateflow(name, "other", *options, cwd=done.folder, status=1)


@pytest.mark.parametrize(
    "command", [["accept", "--stage"], ["retry", "micro", "--stage"], ["run", "micro"]], ids=" ".join
)
def test_a_stage_that_is_not_there_is_a_wrong_use(tmp_path, command):
    assert "the stages are ingest, tile" in plateflow(*command, "tiles", cwd=tmp_path, status=2)


def test_what_is_left_out_and_what_is_stale(done, monkeypatch):
    item = {"plate": "micro", "well": "B02", "label_set": "", "detail": "", "state": "quarantined", "reason": "nan"}
    of_report = [LeftOut(**item, field=name, stage="report", files=()) for name in ("1", "2")]
    monkeypatch.setattr(Plate, "left_out", lambda _: of_report)
    assert "Left out (2 fields):" in plateflow("status", "micro", cwd=done.folder, status=3)
    plateflow("run", "micro", "report", cwd=done.folder, status=3)
    plateflow("run", "micro", "tile", cwd=done.folder, status=0)
    done.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=700))
    plateflow("status", "micro", cwd=done.folder, status=4)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenPipeError(errno.EPIPE, "Broken pipe")], ids=repr)
def test_ctrl_c_and_a_closed_pipe_are_errors(done, monkeypatch, error):
    def stop(_):
        raise error

    monkeypatch.setattr(status_module.Project, "load", stop)
    plateflow("status", cwd=done.folder, status=1)


def test_ctrl_c_ends_the_watch_with_the_status_of_the_plates(done, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(status_module, "follow", stop)
    plateflow("status", "--watch", cwd=done.folder, status=0)


def test_a_drift_reaches_the_verdict(done, monkeypatch):
    of, window = Plate.outcomes, ["the intensity window no longer fits the plate"]

    def drifted(plate, stage):
        entries = of(plate, stage)
        entries.update({key: replace(entry, info=entry.info | {"doubts": window}) for key, entry in entries.items()})
        return entries

    monkeypatch.setattr(Plate, "outcomes", drifted)
    told = "micro: look at the intensities: the intensity window no longer fits the plate"
    assert told in plateflow("status", "micro", cwd=done.folder, status=0)
    page = write_screen(Project.load(Path("config/config.yaml")))
    assert '<p class="verdict warn">Nothing was left out. 1 plate is to be looked at: see its verdict: micro.' in page
