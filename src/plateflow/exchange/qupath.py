"""QuPath: an OME-TIFF, and objects as annotations in GeoJSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.exchange.frame import Frame
from plateflow.exchange.outlines import Polygon, fill, outlines

HOW = (
    "open: drag NAME.ome.tif onto QuPath (image type: Fluorescence), then NAME.geojson; objects are annotations",
    "save: File > Export objects as GeoJSON, all objects as a FeatureCollection, over NAME.geojson",
)
COLOUR = [255, 176, 0]


def write(folder: Path, frame: Frame) -> str:
    """Write a frame of one plane; the name of the file that holds its labels."""
    frame.write_image(folder / f"{frame.name}.ome.tif")
    features = [
        {
            "type": "Feature",
            "geometry": _geometry(polygons),
            "properties": {
                "objectType": "annotation",
                "name": str(number),
                "classification": {"name": frame.label_set, "color": COLOUR},
            },
        }
        for number, polygons in outlines(frame.labels)
    ]
    file = folder / f"{frame.name}.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":")))
    return file.name


def _geometry(polygons: list[Polygon]) -> dict[str, Any]:
    rings = [[[*ring.astype(int).tolist(), ring[0].astype(int).tolist()] for ring in polygon] for polygon in polygons]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def read(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """The labels (y, x) of all objects in a file: an object's name is its number; of new ones it is a new number.

    Raises:
        ValueError: it isn't GeoJSON, or an object is no area.
        RawDataError: as of `fill`.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    features = content.get("features", [content]) if isinstance(content, dict) else content
    return fill(_objects(features), shape)


def _objects(features: Any) -> Iterator[tuple[str, list[Polygon]]]:
    if not isinstance(features, list) or not all(isinstance(each, dict) for each in features):
        raise ValueError("it isn't a GeoJSON FeatureCollection")
    for n, feature in enumerate(features):
        geometry, properties = feature.get("geometry") or {}, feature.get("properties") or {}
        name = str(properties.get("name") or "")
        kind, coordinates = geometry.get("type"), geometry.get("coordinates", [])
        if kind not in ("Polygon", "MultiPolygon"):
            raise ValueError(f"object {n + 1} ({name or 'without a name'}) is a {kind}, which is no area: remove it")
        rings = coordinates if kind == "MultiPolygon" else [coordinates]
        yield name, [[np.array(ring, np.float64)[:, :2] for ring in polygon] for polygon in rings]
