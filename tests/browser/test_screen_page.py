"""The page over all plates, and the page of `status`, in a browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from plateflow.cli.status_page import StatusPage
from plateflow.project import Project
from plateflow.report.page import USABLE, library, render
from plateflow.report.trends import charts
from plateflow.state.progress import JobProgress, Progress

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from status_cases import make_screen

LOOKS = [
    {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    for width, scheme in ((1400, "light"), (390, "dark"))
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder, before = tmp_path_factory.mktemp("pages") / "project", Path.cwd()
    folder.mkdir()
    try:
        make_screen(folder, plates=2, wells=4, fields=2, channels=2, parts=(2, 1), kinds=("failed",))
        yield Project.load(Path("config/config.yaml"))
    finally:
        os.chdir(before)


@pytest.mark.parametrize("look", LOOKS)
def test_status_renews_itself_until_it_is_over(tab: Any, project: Any, look: dict[str, Any]) -> None:
    file, plates = Path("status.html"), list(project.plates.values())
    progress = Progress(project.config)
    jobs: dict[str, list[JobProgress]] = {plate.name: progress.of(plate.paths) for plate in plates}
    page = StatusPage(file, project, plates)
    page.write(jobs, {}, every=2)
    # Its clock is ours: however slow the machine is, the page isn't renewed while it is looked at.
    tab.page.add_init_script("setInterval = (renew, every) => { tick = renew; return every; }")
    opened = tab.open(file)
    assert tab.problems() == []
    opened.click("#pause")
    opened.evaluate("kept = true; tick()")
    assert opened.get_attribute("#pause", "aria-pressed") == "true"
    assert opened.locator("tbody tr").count() == 2
    page.write(jobs, {"plate0001": "the share is away"}, every=2)
    opened.wait_for_timeout(500)
    assert opened.evaluate("kept"), "paused"
    opened.click("#pause")
    with opened.expect_navigation():
        opened.evaluate("setTimeout(tick)")
    opened.get_by_text("plate0001: can't be read: the share is away").wait_for()
    page.write(jobs, {})
    with opened.expect_navigation():
        opened.evaluate("setTimeout(tick)")
    opened.get_by_text("This page isn't renewed").wait_for()
    assert opened.evaluate("typeof tick") == "undefined"
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("look", LOOKS)
def test_charts_over_plates_are_drawn_and_a_frame_can_be_chosen(tab: Any, tmp_path: Path, look: dict[str, Any]) -> None:
    rows = [
        {"frame": {"Metadata_Time": t}, "series": s, "value": v + t}
        for t in (0, 1)
        for s, v in (("negative", 5.0), ("positive", 2.0))
    ]
    drift = [{"frame": {}, "series": "DNA", "value": 0.1}]
    items = [
        {"plate": f"p{n}", "number": n, "wells": 0, "trends": {"Count_Cells": rows, "drift": drift}} for n in (1, 2, 3)
    ]
    made = list(charts(items, ["Count_Cells"], ["DNA"]))
    assert [title for title, _, _ in made][1:] == ["Drift of the intensity window"]
    html = render(
        "screen.html.j2",
        verdict={"level": "good", "line": "Nothing was left out.", "cards": [("3 / 3", "plates")]},
        plates=items, usable=USABLE, keys=[], hits=[], counts=[], charts=made,
        frames=["time point 0", "time point 1"], library=library(), pairs=[], more_pairs=0, left_out=[], more="",
    )  # fmt: skip
    (tmp_path / "index.html").write_text(html)
    page = tab.open(tmp_path / "index.html")
    page.wait_for_function("document.documentElement.dataset.ready", timeout=60_000)
    chart = page.locator(".chart").first
    assert chart.locator("svg").count() == 1
    assert chart.locator("[aria-roledescription='point'][aria-label*='value: 5']").count() == 3
    page.select_option("#frame", "time point 1")
    chart.locator("[aria-roledescription='point'][aria-label*='value: 6']").first.wait_for(
        state="attached", timeout=60_000
    )
    assert chart.locator("[aria-roledescription='point'][aria-label*='value: 5']").count() == 0
    assert tab.problems() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
