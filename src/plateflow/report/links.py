"""Where `plateflow view` shows a plate or a well, and the command that starts it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

PORT = 8790
"""Of `plateflow view`, unless another is asked for: links in pages lead there."""


def view_url(plate: str, well: str = "", port: int = PORT) -> str:
    """The address of a plate, or of a well of it, in the viewer on this machine."""
    return f"http://127.0.0.1:{port}/{quote(plate)}" + (f"/{quote(well)}" if well else "")


def view_command(root: Path, well: str = "") -> str:
    """The command that opens a plate, or a well of it, in the viewer; `root` is the folder of the plate's results."""
    return f"plateflow view {root}" + (f"/{well}" if well else "")
