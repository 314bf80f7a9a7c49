"""The pages of the documentation, and the blocks of commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text()
    for path in (REPOSITORY / "README.md", REPOSITORY / "config" / "README.md", *sorted(REPOSITORY.glob("docs/*.md")))
    if not path.is_symlink()
}
"""By path; config/README.md and CHANGELOG.md, to which links in docs/ lead, count where they are."""
_FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n)?^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        kind: sh, python, yaml, ...; empty where the fence says none.
        why: it isn't run; empty: it is.
    """

    page: str
    kind: str
    text: str
    why: str

    @property
    def lines(self) -> list[str]:
        """Its commands, one per line, with their comments."""
        lines = (line.strip() for line in self.text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def blocks(page: str, kind: str) -> list[Block]:
    """The blocks of a kind in a page, in their order."""
    found = _FENCE.finditer(PAGES[page])
    parts = [Block(page=page, kind=each["kind"], text=each["text"], why=each["why"] or "") for each in found]
    return [block for block in parts if block.kind == kind]
