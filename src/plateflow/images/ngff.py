"""What the plate's store says of itself: NGFF 0.5 metadata of plate, wells, images and labels, as attributes of groups.

Written as plain dictionaries: the models of ome-zarr-models hold the same values (a test compares them), but in another
order of keys, so that equal plates would no longer give equal bytes.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from plateflow.images.layout import WellLayout
from plateflow.paths import parse_well, row_name
from plateflow.plates.pixels import camera_tops
from plateflow.tables import encoded

VERSION = "0.5"
AXES = "tczyx"
LABEL_AXES = "tzyx"
_EMISSION = [
    (re.compile(rf"(?<![a-z])(?:{words})(?![a-z])|(?<!\d)(?:{numbers})(?!\d)", re.IGNORECASE), nm)
    for words, numbers, nm in (
        (r"bright ?field|bf|dic|phase|trans\w*", "$^", 0),  # light of the lamp, not of a dye
        (r"dapi|hoechst\w*|dna|nucle\w*|cfp|bfp|h2b", "405|350|33342", 460),
        (r"e?gfp|fitc|cy2|calcein|fluo-?4|syto ?13|er|con ?a|concanavalin\w*", "488", 520),
        ("e?yfp|venus|citrine", "514|532", 540),
        (r"cy3(?!\.5)|tritc|rfp|ds ?red|tmrm?|syto ?14|rna|td-?tomato|po-?pro-?3", "546|555|561", 580),
        (r"agp|phalloidin|actin|mcherry|mkate\w*|texas ?red|cy3[.]5|rhodamine", "568|594", 610),
        (r"cy5(?!\.5)|apc|mito\w*|far ?red|draq ?[57]", "633|640|647", 670),
        (r"cy5[.]5|cy7|alexa ?7\d\d|irfp", "680|700|750", 720),
    )
]
"""What names of channels say of their emission, nm: dyes and proteins, the lines that excite them (Alexa 488), and the
stains of Cell Painting."""
WELL_ATTRIBUTES = {"ome": {"version": VERSION, "well": {"version": VERSION, "images": [{"path": "0"}]}}}
"""Of a well's group: its one image."""


def plate_attributes(metadata: Mapping[str, Any], wells: Iterable[str]) -> dict[str, Any]:
    """The attributes of the plate's group; `metadata` is manifest/plate.json."""
    rows, columns = metadata["format"]
    plate = {
        "version": VERSION,
        "name": metadata["plate"],
        "field_count": 1,
        "rows": [{"name": row_name(row)} for row in range(rows)],
        "columns": [{"name": f"{column + 1:02d}"} for column in range(columns)],
        "wells": [
            {"path": f"{row_name(row)}/{column + 1:02d}", "rowIndex": row, "columnIndex": column}
            for row, column in map(parse_well, wells)
        ],
    }
    return {"ome": {"version": VERSION, "plate": plate}}


def image_attributes(
    layout: WellLayout, metadata: Mapping[str, Any], levels: int, limits: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The attributes of an image's group: its levels, and how a viewer first shows its channels.

    Args:
        limits: the raw values that are shown black and at full brightness, `low` and `high` by channel; of a channel
            without, the camera's range is shown.
    """
    tops, known = camera_tops(metadata), {channel["name"]: channel for channel in metadata["channels"]}
    channels = []
    for number, name in enumerate(layout.channels):
        shown = limits.get(name, {"low": 0, "high": tops[name]})
        window = {"min": 0, "max": tops[name], "start": shown["low"], "end": shown["high"]}
        channels.append({"label": name, "color": colour(known[name]), "active": number < 3, "window": window})
    multiscales = _multiscales("image", layout, levels, AXES, halved=layout.preview or 0)
    return {"ome": {"version": VERSION, "multiscales": multiscales, "omero": {"channels": channels}}}


def label_attributes(label_set: str, layout: WellLayout, levels: int, z_mode: str) -> dict[str, Any]:
    """The attributes of the group of a label set; `z_mode` is the configuration's `z`."""
    source = {"version": VERSION, "source": {"image": "../../"}}
    depth = layout.shape[2] if z_mode in ("max", "mean") else 1
    first = int(z_mode.removeprefix("plane ")) if z_mode.startswith("plane") else 0
    multiscales = _multiscales(label_set, layout, levels, LABEL_AXES, depth=depth, first=first)
    return {"ome": {"version": VERSION, "image-label": source, "multiscales": multiscales}}


def colour(channel: Mapping[str, Any]) -> str:
    """The colour of a channel's emission wavelength, or of what its name says; white where neither tells a colour."""
    said = next((nm for words, nm in _EMISSION if words.search(channel["name"])), None)
    wavelength = channel.get("wavelength_nm", said)
    if not wavelength or said == 0:
        return "FFFFFF"
    tops = ((490, "0000FF"), (560, "00FF00"), (620, "FFA500"), (680, "FF0000"))
    return next((found for top, found in tops if wavelength < top), "FF00FF")


def _multiscales(
    name: str, layout: WellLayout, levels: int, axes: str, *, halved: int = 0, depth: int = 1, first: int = 0
) -> list[dict[str, Any]]:
    """The levels of an image or of labels: the size of their pixels, and where the centre of the first one lies.

    A pixel of level n stands for 2^n x 2^n px of level 0, so its centre is (2^n - 1) / 2 px further.

    Args:
        halved: how often level 0 is halved already.
        depth: z planes that one plane stands for.
        first: the z plane at which the array begins.
    """
    kinds: dict[str, dict[str, str]] = {
        "t": {"type": "time"},
        "c": {"type": "channel"},
        **{axis: {"type": "space"} | ({"unit": "micrometer"} if layout.unit_known else {}) for axis in "zyx"},
    }
    step = dict(zip("zyx", layout.pixel_um, strict=True))
    datasets = []
    for level in range(levels):
        factor = {"z": depth, "y": 2 ** (level + halved), "x": 2 ** (level + halved)}
        scale = [float(step.get(axis, 1.0) * factor.get(axis, 1)) for axis in axes]
        start = {axis: ((size - 1) / 2 + (first if axis == "z" else 0)) * step[axis] for axis, size in factor.items()}
        translation = [float(start.get(axis, 0.0)) for axis in axes]
        steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    return [{"name": name, "axes": [{"name": axis, **kinds[axis]} for axis in axes], "datasets": datasets}]


def field_table(layout: WellLayout) -> dict[str, bytes]:
    """Each field's box as an ROI table that ngio and Fractal read (their table version 1, parquet): files by name."""
    import pyarrow as pa

    dz, dy, dx = layout.pixel_um
    columns: dict[str, Any] = {"FieldIndex": [box.name for box in layout.fields]}
    corners = [(box.x * dx, box.y * dy, 0.0) for box in layout.fields]
    lengths = [(box.width * dx, box.height * dy, layout.shape[2] * dz) for box in layout.fields]
    for prefix, values in (("", corners), ("len_", lengths)):
        columns |= {f"{prefix}{axis}_micrometer": [row[n] for row in values] for n, axis in enumerate("xyz")}
    kind = {"type": "roi_table", "table_version": "1", "backend": "parquet"}
    return {
        "tables/fields/zarr.json": group_file({**kind, "index_key": "FieldIndex", "index_type": "str"}),
        "tables/fields/table.parquet": encoded(pa.table(columns)),
    }


def table_list(*more: str) -> bytes:
    """The `zarr.json` that lists an image's tables: those of the fields, and more."""
    return group_file({"tables": ["fields", *more]})


def cell_table(labels: str) -> bytes:
    """The `zarr.json` of a cell table as ngio's feature table (version 1, parquet), whose index are labels of a set."""
    index = {"index_key": "ObjectNumber", "index_type": "int", "instance_key": "ObjectNumber"}
    kind = {"type": "feature_table", "table_version": "1", "backend": "parquet"}
    return group_file({**kind, **index, "region": {"path": f"../labels/{labels}"}})


def spot_table() -> bytes:
    """The `zarr.json` of a table of spots as ngio's generic table (version 1, parquet)."""
    kind = {"type": "generic_table", "table_version": "1", "backend": "parquet"}
    return group_file({**kind, "index_key": "spot", "index_type": "int"})


def group_file(attributes: Mapping[str, Any]) -> bytes:
    """The `zarr.json` of a group."""
    text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1, ensure_ascii=False)
    return text.encode() + b"\n"
