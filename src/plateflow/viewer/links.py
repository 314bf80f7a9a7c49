"""Commands and links with which napari and Neuroglancer open a well."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from urllib.parse import quote

from plateflow.paths import PlatePaths

NEUROGLANCER = "https://neuroglancer-demo.appspot.com"
"""A public page; the pixels that it shows go from this machine to its browser alone."""


def others(paths: PlatePaths, well: str, labels: Sequence[str], port: int) -> dict[str, str]:
    """By program, the command or link that opens a well with its labels; `port` is that of `plateflow view`.

    napari needs its plug-in napari-ome-zarr, and reads the files themselves; Neuroglancer reads them from the viewer.
    """
    image = paths.image(well)
    source = f"http://127.0.0.1:{port}/raw/{quote(paths.plate)}/plate.zarr/{image.relative_to(paths.store).as_posix()}"
    layers = [{"type": "image", "source": f"{source}/|zarr3:", "name": well}]
    layers += [
        {"type": "segmentation", "source": f"{source}/labels/{quote(name)}/|zarr3:", "name": name} for name in labels
    ]
    state = json.dumps({"layers": layers, "layout": "xy"}, separators=(",", ":"))
    return {
        "napari": f"napari --plugin napari-ome-zarr {shlex.quote(str(image.absolute()))}",
        "Neuroglancer": f"{NEUROGLANCER}/#!{quote(state)}",
    }
