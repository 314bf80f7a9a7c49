"""Write the files of a Harmony measurement as Columbus exports it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from plateflow.simulate.harmony import NAMESPACE, HarmonyLayout, write_index
from plateflow.simulate.layout import FaultKind, PlateDescription, Record


class ColumbusLayout(HarmonyLayout):
    """A TIFF with many pages per well, and an index with a name and a namespace of its own."""

    def __init__(self, out: Path, plate: PlateDescription) -> None:
        super().__init__(out, plate)
        self.pages: dict[tuple[int, int], list[NDArray[Any]]] = {}
        self.buffers: dict[Record, int] = {}

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Keep one plane until its well's file is written; the index lists a missing one without a file."""
        has_file = not {"missing", "error"} & set(faults)
        self.records.append((record, has_file))
        if has_file:
            pages = self.pages.setdefault((record.row, record.column), [])
            self.buffers[record] = len(pages)
            pages.append(pixels.astype(np.uint32) if "32bit" in faults else pixels)

    def finish(self) -> None:
        """Write the wells' files and the index."""
        for well, pages in self.pages.items():
            with tifffile.TiffWriter(self.raw / "Images" / _file_name(*well)) as file:
                for page in pages:
                    file.write(page, compression="lzw", metadata=None)
        path = self.raw / "Images" / "ImageIndex.ColumbusIDX.xml"
        write_index(path, self.records, self.plate)
        tree = ET.parse(path)
        urls = [image.find(f"{{{NAMESPACE}}}URL") for image in tree.getroot().findall(f"{{{NAMESPACE}}}Images/*")]
        for (record, has_file), url in zip(self.records, urls, strict=True):
            if url is not None and has_file:
                url.text = _file_name(record.row, record.column)
                url.set("BufferNo", str(self.buffers[record]))
        ET.register_namespace("", NAMESPACE)
        tree.write(path)
        path.write_text(path.read_text().replace(NAMESPACE, "http://www.perkinelmer.com/Columbus"))


def _file_name(row: int, column: int) -> str:
    return f"{row + 1:03d}{column + 1:03d}-1.tif"
