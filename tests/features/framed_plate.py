"""A small plate whose wells have time points, z stacks and fields that don't touch, with cells and nuclei planted."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from planted_plate import Planted

from plateflow.config import Config, PlateSpec

PATTERN = r"(?P<well>[A-P]\d\d)_s(?P<field>\d)_t(?P<t>\d)_z(?P<z>\d)_(?P<channel>\w+)\.tif"
SIDE, APART = 48, 80
"""Of a field; where the second one begins: positions aren't known, so there is a gap."""
WELLS = {"A01": 0, "A02": 9, "A03": 7, "A04": 5}
"""Cells per field and frame. All files of A04 are damaged."""


def framed(root: Path, *, times: int, planes: int = 1, **options: Any) -> Planted:
    """Cells of 11 px, each with a nucleus of 5 px, in two fields of 48 px; at each time a cell less; up to normalise.

    With several planes objects go through planes 1 to 3, nuclei through plane 2.
    """
    (root / "raw").mkdir(parents=True)
    for well, count in WELLS.items():
        cells = np.zeros((times, planes, SIDE, APART + SIDE), np.uint32)
        nuclei = np.zeros_like(cells)
        for t, field, number in np.ndindex(times, 2, count):
            if number < count - t:
                y, x, label = 2 + number // 3 * 15, 2 + number % 3 * 15 + APART * field, number + 1 + field * count
                cells[t, slice(1, 4) if planes > 1 else 0, y : y + 11, x : x + 11] = label
                nuclei[t, 2 if planes > 1 else 0, y + 3 : y + 8, x + 3 : x + 8] = label
        for t, z, field in np.ndindex(times, planes, 2):
            here = (t, z, slice(None), slice(APART * field, APART * field + SIDE))
            for channel, labels in (("DNA", nuclei), ("AGP", cells)):
                noise = np.random.default_rng([t, z, field, channel == "DNA"]).integers(195, 206, (SIDE, SIDE))
                path = root / "raw" / f"{well}_s{field}_t{t}_z{z}_{channel}.tif"
                tifffile.imwrite(path, (noise + labels[here] * 40 + 1500 * (labels[here] > 0)).astype(np.uint16))
                if well == "A04":
                    path.write_bytes(path.read_bytes()[:4000])
        np.savez(root / f"{well}.npz", nuclei=nuclei, cells=cells)
    sets: dict[str, Any] = {"nuclei": {"channels": ["DNA"]}, "cells": {"channels": ["AGP", "DNA"]}}
    settings: dict[str, Any] = {
        "results": str(root / "results"),
        "parts": {"cpu": 1, "gpu": 1},
        "levels": 2,
        "segmentation": sets,
        "features": {"families": ["area_shape", "quality"]},
        "normalise": {"illumination": False},
        "stats": {"exclude_flags": []},
    } | options
    if planes > 1:
        settings |= {"z": "keep", "segmentation": {name: each | {"dimensions": 3} for name, each in sets.items()}}
    spec = PlateSpec(
        plate="p", path=str(root / "raw"), layout="pattern", pattern=PATTERN, pixel_size_um=1.0, z_step_um=2.0
    )
    planted = Planted(root=root, config=Config.model_validate(settings), entry=spec, truth=root)
    planted.run("ingest", "tile", "normalise")
    planted.label()
    return planted
