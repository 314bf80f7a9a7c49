"""Images with labels, as the programs in which people correct them read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from plateflow.project import Plate


def export_images(plate: Plate, to: str, wells: str, label_set: str, folder: Path) -> list[str]:
    """Write them for the chosen wells of a plate; what is written, in words."""
    raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Item:
    """Labels of one canvas of a well, as a program has left them.

    Attributes:
        plate: the id of the plate that they were exported from.
        label_set: whose labels they are.
        well: its name.
        canvas: the number of the canvas in `Plate.canvases(well, label_set)`.
        exported: digest of the labels as they were exported.
        file: that holds them.
        program: that wrote it.
    """

    plate: str
    label_set: str
    well: str
    canvas: int
    exported: str
    file: Path
    program: str

    def read(self) -> NDArray[Any]:
        """The labels ([z,] y, x) as the file has them, of any type and shape: nothing is checked."""
        raise NotImplementedError


def read_items(folder: Path) -> Iterator[Item]:
    """What a folder that `export_images` has made holds, by its `plateflow.json`; a file that was removed is left out."""
    raise NotImplementedError
