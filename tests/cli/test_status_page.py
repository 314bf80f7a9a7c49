"""`plateflow status --html`: the page says what `status` says, and is written again while a run is watched."""

from __future__ import annotations

import csv
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import plateflow

from plateflow.cli import watch as watching
from plateflow.cli.status_page import StatusPage
from plateflow.paths import PlatePaths
from plateflow.project import Project
from plateflow.state.progress import JobProgress

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from status_cases import KINDS, make_screen

SIZES = {"wells": 4, "fields": 2, "channels": 2, "z": 1, "t": 1, "field_mpx": 1.2, "canvas_mpx": 2.4, "image_mpx": 2.4}
"""As `init` writes them, so that the work can be estimated."""


def read_rows(sheet: Path) -> list[dict[str, Any]]:
    with sheet.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_sheet(sheet: Path, rows: list[dict[str, Any]]) -> None:
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 plates, complete, left out, stale, waiting, running and failed ones."""
    folder, before = tmp_path_factory.mktemp("status_page") / "project", Path.cwd()
    folder.mkdir()
    try:
        make_screen(folder, plates=len(KINDS), wells=4, fields=2, channels=2, parts=(2, 1))
        rows = read_rows(Path("config/plates.tsv"))
        write_sheet(Path("config/plates.tsv"), [row | SIZES for row in rows])
    finally:
        os.chdir(before)
    return folder


def rows_of(html: str) -> dict[str, list[str]]:
    """The text of the cells of each plate's row."""
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    ]
    texts = [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row] for row in rows if row]
    return {row[0]: row[1:] for row in texts}


def test_the_page_says_what_status_says(mixed: Path) -> None:
    plain = plateflow("status", cwd=mixed, status=4)
    assert plateflow("status", "--html", "status.html", cwd=mixed, status=4) == plain
    html = (mixed / "status.html").read_text()
    assert "20 plates: " in html
    for part in ("1 running", "1 failed", "1 to do", "2 stale", "15 complete"):
        assert part in html
    rows = rows_of(html)
    assert len(rows) == 20
    assert rows["plate0018"][0] == "running"
    assert "0/1 1 run: 2 w" in rows["plate0018"]
    assert rows["plate0019"][:3] == ["failed", "1 ok", "0/2 2 failed"]
    assert "plate0019: tile 0, 1: 1 failed" in html
    assert "can&#39;t write: disk" in html
    log = re.search(r"log: (results/plate0019/logs/tile/0\.\w+\.log)", html)
    assert log
    assert (mixed / log[1]).is_file()
    assert "plate0014/A01: quarantined at tile: truncated" in html
    assert "log: <code>results/plate0014/logs/tile/" in html
    assert re.search(r"About \d.* left, if 1 job go", html)
    assert not re.search("refresh|location.reload", html), "it isn't written again"
    for link in re.findall(r'href="([^"]+)"', html):
        assert (mixed / link).is_file()


def test_links_are_only_to_pages_that_are_there(mixed: Path, tmp_path: Path) -> None:
    page = mixed / "results/plate0000/report.html"
    page.write_text("")
    target = tmp_path / "my & pages" / "status.html"
    target.parent.mkdir()
    try:
        plateflow("status", "--html", str(target), cwd=mixed, status=4)
        links = re.findall(r'href="([^"]+)"', target.read_text())
        assert [(target.parent / link).resolve() for link in links] == [page.resolve()]
    finally:
        page.unlink()


def test_one_plate_alone(mixed: Path) -> None:
    plateflow("status", "plate0018", "--html", "one.html", cwd=mixed, status=4)
    assert list(rows_of((mixed / "one.html").read_text())) == ["plate0018"]


def test_it_is_written_again_while_a_run_is_watched_and_says_so(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until someone presses Ctrl-C, here in the second pause; the last page says that it stays as it is."""
    seen: list[str] = []

    def pause(seconds: float) -> None:
        seen.append((mixed / "watched.html").read_text())
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", pause)
    plateflow("status", "--watch", "--html", "watched.html", cwd=mixed, status=4)
    for html in seen:
        assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in html
        assert re.search(r"location\.reload\(\);\s*\}, 5000\)", html)
        assert re.search(r"Written <time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", html)
    last = (mixed / "watched.html").read_text()
    assert "refresh" not in last
    assert "isn't renewed" in last


def test_what_files_say_is_escaped(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mixed)
    project = Project.load(Path("config/config.yaml"))
    plate = project.plates["plate0000"]
    job = JobProgress(
        stage="tile", job="0", state="failed", failures=1, told="<script>alert(1)</script>", log=Path("a<b>.log")
    )
    StatusPage(Path("escaped.html"), project, [plate]).write({plate.name: [job]}, {})
    html = Path("escaped.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "a&lt;b&gt;.log" in html


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--html", "results"], 1, "is a folder"),
        (["--html", "nowhere/status.html"], 1, "lies in no folder"),
        (["plate0000/A01", "--html", "status.html"], 2, "not a well"),
    ],
)
def test_what_cannot_be_written_is_refused(mixed: Path, arguments: list[str], status: int, said: str) -> None:
    output: Any = plateflow("status", *arguments, cwd=mixed, status=status)
    assert said in " ".join(output.replace("│", " ").split())


def test_time_left_follows_the_work_that_is_left(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mixed)
    project = Project.load(Path("config/config.yaml"))
    plate = project.plates["plate0000"]
    page = StatusPage(Path("left.html"), project, [plate])

    def jobs(*states: str) -> list[JobProgress]:
        paths: PlatePaths = plate.paths
        return [
            JobProgress(stage="features", job=str(n), state=state, wells=1 if state == "runs" else 0, log=paths.root)  # type: ignore[arg-type]
            for n, state in enumerate(states)
        ]

    assert page._seconds({plate.name: jobs("done", "done")})[1] == 0
    done, left = page._seconds({plate.name: jobs("done", "waits")})
    assert done == left > 0
    half = page._seconds({plate.name: jobs("done", "runs")})  # one of its two wells is finished
    assert half[0] == pytest.approx(1.5 * done)
    assert half[1] == pytest.approx(0.5 * left)
    page.write({plate.name: jobs("done", "runs")}, {})
    assert 'value="0.7500"' in Path("left.html").read_text()
