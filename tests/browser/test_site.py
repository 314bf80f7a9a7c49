"""The documentation as a site: built strictly, searched, and looked at without a network."""

import functools
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NARROW = {"viewport": {"width": 390, "height": 844}}
OF_THE_THEME = {"aria-dialog-name"}
"""What axe finds in the theme's own template (9.8): its search, a dialog without a name."""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    made = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def site(built) -> Iterator[str]:
    """Its address; search needs a server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(built))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_search_finds_a_key(site, tab):
    page = tab.open(f"{site}/index.html")
    page.get_by_placeholder("Search").first.click()
    page.keyboard.type("flow_threshold")
    found = page.locator(".md-search-result__link").first
    found.wait_for()
    found.click()
    page.wait_for_function("!location.pathname.endsWith('index.html')")
    assert "flow_threshold" in page.inner_text("article")
    assert all(address.startswith(site) or address.startswith(("data:", "blob:")) for address in tab.asked)


@pytest.mark.parametrize("name", ["index.html", "faults.html"])
@pytest.mark.parametrize("look", [{}, {"color_scheme": "dark"}, NARROW], ids=["light", "dark", "narrow"])
def test_a_page_can_be_read_by_all(site, tab, name, look):
    page = tab.open(f"{site}/{name}")
    assert page.locator("article h1").is_visible()
    assert {problem["id"] for problem in tab.problems()} <= OF_THE_THEME
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_no_page_names_another_host_for_what_it_loads(built):
    pages = {path: path.read_text() for path in built.rglob("*.html")}
    assert len(pages) > 20
    for path, text in pages.items():
        assert not re.search(
            r'(?:src|<link[^>]* rel="(?:stylesheet|icon|preconnect)"[^>]* href)="(?:https?:)?//', text
        ), path
