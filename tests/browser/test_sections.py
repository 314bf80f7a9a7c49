"""The page's sections in the browser: tables that are sorted, filtered and saved by keyboard, and what axe says."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from plateflow.report.page import _environment, render

TABLE = """{% from 'tables.html.j2' import cell, like, named %}
<table data-table="hits"><thead><tr><th>Treatment</th><th class="n">Q</th><th>Feature</th></tr></thead><tbody>
{% for name, q, feature in rows %}
<tr><td>{{ name }}</td>{{ cell(q, '{:.1g}') }}
<td data-value="{{ feature }}">{{ named(feature, 'area') }}{{ like(others) }}</td></tr>
{% endfor %}
</tbody></table>
<button type="button" data-copy="text">Copy</button> <span role="status"></span><p id="text">What was done.</p>"""
ROWS = [("c10", 0.02, "A_1"), ('c9, "x"', None, "A_2"), ("<b>c2</b>", 1e-7, "B_1"), ("Säure\n5 %", 0.3, "B_2")]


@pytest.fixture
def page(tab: Any, tmp_path: Path) -> Any:
    """A page with the tables' templates and script, and names that are attacks on HTML and CSV."""
    body = _environment().from_string(TABLE).render(rows=ROWS, others=[("A_3", "area 3"), ("A_4", "area 4")])
    script = (Path(__file__).parents[2] / "src/plateflow/report/templates/tables.js").read_text()
    head = str(render("base.html.j2")).replace(
        "</body>", f"<main><h1>T</h1>{body}</main><script>{script}</script></body>"
    )
    (tmp_path / "page.html").write_text(head)
    return tab.open(tmp_path / "page.html")


def first_column(page: Any) -> list[str]:
    return [row.locator("td").first.inner_text() for row in page.locator("tbody tr:visible").all()]


def saved(page: Any) -> list[list[str]]:
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as CSV").press("Enter")
    assert download.value.suggested_filename == "hits.csv"
    return list(csv.reader(io.StringIO(Path(download.value.path()).read_text(), newline="")))


def test_sorted_filtered_and_saved_by_keyboard(page: Any) -> None:
    header = page.get_by_role("columnheader", name="Q")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert first_column(page) == ["<b>c2</b>", "c10", "Säure 5 %", 'c9, "x"']  # by value; what is empty comes last
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert first_column(page) == ["Säure 5 %", "c10", "<b>c2</b>", 'c9, "x"']
    page.get_by_role("button", name="Treatment").press("Enter")
    assert page.get_by_role("columnheader", name="Q").get_attribute("aria-sort") is None
    page.get_by_label("Filter hits").fill("A_ c")
    assert first_column(page) == ['c9, "x"', "c10"]  # 9 before 10
    assert page.get_by_text("2 of 4 rows").is_visible()
    header_row, *rows = saved(page)
    assert header_row == ["Treatment", "Q", "Feature"]
    assert rows == [['c9, "x"', "", "A_2"], ["c10", "0.02", "A_1"]]
    page.get_by_label("Filter hits").fill("")
    assert len(saved(page)) == 5


def test_groups_open_by_keyboard_and_the_text_is_copied_or_selected(page: Any, tab: Any) -> None:
    summary = page.locator("summary").first
    assert summary.inner_text() == "and 2 like it"
    summary.focus()
    page.keyboard.press("Enter")
    assert page.get_by_text("area 4").first.is_visible()
    assert page.locator("abbr").first.get_attribute("title") == "A_1"
    page.get_by_role("button", name="Copy").press("Enter")
    page.get_by_text("Selected").or_(page.get_by_text("Copied.")).wait_for()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: {writeText: () => Promise.reject(1)}})")
    page.get_by_role("button", name="Copy").press("Enter")
    page.get_by_text("Selected").wait_for()
    assert page.evaluate("getSelection().toString().trim()") == "What was done."
    assert tab.problems() == []
