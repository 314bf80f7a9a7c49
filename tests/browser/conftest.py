"""Pages in Debian's Chromium, driven by Playwright: the network is off, and what the console says is kept."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

LOOPBACK = ("127.0.0.1", "localhost")


@pytest.fixture(scope="module")  # while it lives, its event loop runs: other modules' tests couldn't run one
def chromium() -> Iterator[Any]:
    """A browser; without one these tests skip, in CI they fail."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = "no Chromium on this machine: `make .venv/.browser` installs Debian's"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page of the browser; `said` is what its console and its scripts' errors said, `asked` what it asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, at: Path | str) -> Any:
        """Open a file or an address of this machine, and return the page."""
        self.page.goto(at.resolve().as_uri() if isinstance(at, Path) else at)
        return self.page

    def problems(self) -> list[dict[str, Any]]:
        """What axe-core finds that is serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [each for each in found if each["impact"] in ("serious", "critical")]


@pytest.fixture
def tab(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """A tab of 1400 x 900 px; a parameter `look`, such as {"viewport": ..., "color_scheme": "dark"}, changes it.

    Requests that would leave this machine fail, and so does the test.
    """
    options = {"viewport": {"width": 1400, "height": 900}, "reduced_motion": "reduce"}
    options |= request.node.callspec.params.get("look", {}) if hasattr(request.node, "callspec") else {}
    context = chromium.new_context(**options, service_workers="block")
    context.set_default_timeout(60_000)  # a busy machine takes its time
    tab = Tab(context.new_page())

    def decide(route: Any) -> None:
        tab.asked.append(route.request.url)
        parts = urlsplit(route.request.url)
        if parts.scheme in ("file", "data", "blob") or parts.hostname in LOOPBACK:
            route.continue_()
        else:
            tab.said.append(f"asked for {route.request.url}")
            route.abort()

    context.route("**/*", decide)
    tab.page.on("console", lambda message: tab.said.append(message.text) if message.type == "error" else None)
    tab.page.on("pageerror", lambda error: tab.said.append(str(error)))
    yield tab
    context.close()
    assert tab.said == []
