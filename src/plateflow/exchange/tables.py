"""Tables, as other programs read them."""

from __future__ import annotations

from pathlib import Path

from plateflow.project import Plate


def export_tables(plate: Plate, form: str, folder: Path) -> list[str]:
    """Write the tables of a plate in a form; what is written, in words."""
    raise NotImplementedError
