"""What the plate map of a page holds, read as the browser reads it."""

import base64
import json
import zlib
from typing import Any

import numpy as np


def map_of(page: str) -> dict[str, Any]:
    """The data of the plate map; `values` are by feature, a list over frames of dicts from wells to values."""
    data = json.loads(page.partition('id="map-data">')[2].partition("</script>")[0])
    names, wells = [name for name, _ in data["features"]], [item["well"] for item in data["wells"]]
    planes = np.frombuffer(zlib.decompress(base64.b64decode(data["values"])), np.uint8).reshape(4, -1)
    halves = np.ascontiguousarray(planes.T).view(">u4").ravel().astype(np.uint64)
    values = (halves << np.uint64(32)).view(np.float64).reshape(len(names), data["frames"], len(wells)).tolist()
    frames = {name: [dict(zip(wells, at, strict=True)) for at in of] for name, of in zip(names, values, strict=True)}
    return data | {"values": frames}
