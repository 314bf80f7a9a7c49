"""napari: an OME-TIFF and labels as a TIFF, of volumes, too, spots as points, and a script that opens all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plateflow.exchange.frame import Frame

HOW = (
    "open: in napari's environment, `python FOLDER/open_in_napari.py NAME`",
    "save: select the layer NAME_labels, then File > Save Selected Layers, over NAME_labels.tif",
)
SCRIPT = '''\
"""Open images with their labels in napari: python open_in_napari.py NAME ... (of the first one, if none is named)."""

import json
import sys
from pathlib import Path

import napari
import numpy
import tifffile

folder = Path(__file__).parent
content = json.loads((folder / "plateflow.json").read_text(encoding="utf-8"))
items = {item["file"].removesuffix("_labels.tif"): item for item in content["items"]}
for name in sys.argv[1:] or list(items)[:1]:
    if name not in items:
        sys.exit(f"there is no {name}; there are {', '.join(items)}")
    item = items[name]
    labels = tifffile.imread(folder / item["file"])
    scale = item["pixel_um"] or [1.0] * labels.ndim
    pixels = tifffile.imread(folder / f"{name}.ome.tif").reshape(-1, *labels.shape)
    viewer = napari.Viewer(title=name)
    for channel, picture, limits in zip(content["channels"], pixels, content["limits"]):
        viewer.add_image(picture, name=channel, scale=scale, contrast_limits=limits, blending="additive")
    viewer.add_labels(labels, name=f"{name}_labels", scale=scale)
    for spots, diameter in content.get("spots", {}).items():
        if (file := folder / f"{name}_{spots}.csv").is_file():
            points = numpy.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)[:, 1:]
            viewer.add_points(points, name=spots, scale=scale, size=diameter, face_color="transparent")
napari.run()
'''


def write(folder: Path, frame: Frame) -> str:
    """Write a frame; the name of the file that holds its labels."""
    import tifffile

    frame.write_image(folder / f"{frame.name}.ome.tif")
    (folder / "open_in_napari.py").write_text(SCRIPT)
    file = folder / f"{frame.name}_labels.tif"
    for name, places in frame.spots.items():  # as napari saves points
        lines = (f"{number},{y:.3f},{x:.3f}\n" for number, (y, x) in enumerate(places))
        (folder / f"{frame.name}_{name}.csv").write_text("index,axis-0,axis-1\n" + "".join(lines))
    tifffile.imwrite(file, frame.labels, compression="zlib", compressionargs={"level": 1}, photometric="minisblack")
    return file.name


def read(file: Path, _shape: tuple[int, ...]) -> NDArray[np.generic]:
    """The labels as they were saved."""
    import tifffile

    return np.asarray(tifffile.imread(file))
