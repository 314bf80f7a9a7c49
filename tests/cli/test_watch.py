"""The picture of `plateflow status --watch`, of jobs that a test made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from plateflow.chain import STAGES, stages_of
from plateflow.cli.watch import picture, watch
from plateflow.config import Config
from plateflow.paths import PlatePaths
from plateflow.state.progress import JobProgress, State


def job(stage: str, state: State, **values) -> JobProgress:
    values = {"wells": 0, "failures": 0, "told": "", "log": Path("gone.log")} | values
    return JobProgress(stage=stage, job="0", state=state, **values)


def shown(plates: dict[str, list[JobProgress]]) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(picture(plates, {}))
    return capture.get()


def plate(state: State, **values) -> list[JobProgress]:
    """A plate that is done up to `infer`, which is in a state; the rest waits."""
    names = [*STAGES]
    at = names.index("infer")
    return (
        [job(n, "done") for n in names[:at]]
        + [job("infer", state, **values)]
        + [job(n, "waits") for n in names[at + 1 :]]
    )


def test_a_large_screen_shows_what_runs_and_counts_the_rest() -> None:
    complete = {f"done{i}": [job(name, "done") for name in STAGES] for i in range(60)}
    waiting = {f"later{i}": [job(name, "waits") for name in STAGES] for i in range(39)}
    text = shown(complete | {"now": plate("runs", wells=7)} | waiting)
    assert "60 plates complete" in text
    assert "39 plates to do" in text
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert len(rows) == 2, "the one plate, and the second line of its cell"
    assert "0/1" in rows[0]
    assert "1 run: 7 w" in rows[1]
    many = {f"p{i}": plate("runs") for i in range(40)}
    assert "10 plates running or failed" in shown(many)


def test_failures_are_told_with_the_last_line_of_their_log(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("infer: B03 cells\n[bold]not markup[/]\n")
    text = shown({"p1": plate("failed", failures=2, told="killed [/red]", log=log), "p2": plate("silent", log=log)})
    words = " ".join(text.split())
    assert "p1: infer 0: 2 failed; waiting to be tried again, or given up killed [/red]" in words
    assert "p2: infer 0: no sign of life for 30 s" in words
    assert words.count("[bold]not markup[/]") == 2
    assert "1 failed" in text
    assert "1 silent" in text


def test_a_screen_that_is_complete_is_one_line() -> None:
    text = shown({f"p{i}": [job(name, "done") for name in STAGES] for i in range(3)})
    assert text.strip() == "3 plates complete"


def test_a_storage_that_is_away_for_a_moment_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, config = PlatePaths.of("p1", results=tmp_path), Config()
    for name, stage in stages_of(config).items():
        for each in stage.jobs(config):
            receipt = paths.receipt(name, each, "ab12")
            receipt.parent.mkdir(parents=True, exist_ok=True)
            receipt.touch()
    unreadable = paths.journal("infer", "0")
    unreadable.mkdir(parents=True)
    monkeypatch.setattr("plateflow.cli.watch.time.sleep", lambda _: unreadable.rmdir())
    watch(config, [SimpleNamespace(name="p1", paths=paths)])
    first, _, then = capsys.readouterr().out.partition("p1: can't be read: ")
    assert not first.strip()
    assert str(unreadable) in "".join(then.split())
    assert then.count("can't be read") == 0
    (row,) = [line for line in then.splitlines() if line.startswith("│ p1")]
    assert row.count("done") == len(stages_of(config))
