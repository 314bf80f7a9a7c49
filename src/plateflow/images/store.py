"""The plate store: OME-Zarr 0.5, one image a well, sharded arrays; groups and arrays by ingest alone.

Every other stage writes shards of its own wells: whole ones, or, of labels above `BAND_PX`, a band of rows at a time. A
shard holds all channels of a level, for one t and z; where a
level would make a shard of more than `SHARD_BYTES` it is cut into equal blocks, the same blocks at every level, so
that memory stays bounded and a block without a field is never written. Nothing is consolidated.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.files import replace_folder, write_atomic
from plateflow.images.halve import halve_labels, halve_mean
from plateflow.images.layout import Canvas, WellLayout
from plateflow.images.shards import Level, Map, write_shards
from plateflow.paths import PlatePaths, parse_well, row_name

CHUNK_PX = 512
SHARD_BYTES = 2**30
BAND_PX = 2**24
VERSION = "0.5"


def block_edge(layout: WellLayout, levels: int) -> tuple[int, int]:
    """Height and width in px of the blocks of level 0 that make one shard each; the whole image if that is one."""
    _, channels, _, height, width = layout.shape
    pixel = max(channels * np.dtype(layout.dtype).itemsize, 4)  # labels have 4 bytes
    if height * width * pixel <= SHARD_BYTES:
        return height, width
    unit = CHUNK_PX * 2 ** (levels - 1)
    edge = max(unit, int(math.sqrt(SHARD_BYTES / pixel)) // unit * unit)
    return edge, edge


def blocks(layout: WellLayout, levels: int) -> Iterator[tuple[slice, slice]]:
    """The blocks of level 0 as slices of (y, x), cut at the image's border."""
    height, width = layout.shape[-2:]
    edge_y, edge_x = block_edge(layout, levels)
    for y in range(0, height, edge_y):
        for x in range(0, width, edge_x):
            yield slice(y, min(y + edge_y, height)), slice(x, min(x + edge_x, width))


def create_plate(
    paths: PlatePaths,
    info: Mapping[str, Any],
    layouts: Mapping[str, WellLayout],
    *,
    label_sets: Sequence[str],
    levels: int,
    z_mode: str,
) -> None:
    """Make all groups and arrays of a plate, or bring those that exist up to date.

    An image whose layout and levels are as before keeps its arrays; one that changed is replaced whole, empty, and its
    generation rises by one, so that tile knows (`generation`). Label sets are added and listed as they are asked for.

    Args:
        info: manifest/plate.json.
        layouts: of every well.
        label_sets: names.
        levels: of images and labels.
        z_mode: the configuration's `z`.
    """
    rows, columns = info["format"]
    places = {well: parse_well(well) for well in layouts}
    plate = {
        "version": VERSION,
        "name": info["plate"],
        "field_count": 1,
        "rows": [{"name": row_name(row)} for row in range(rows)],
        "columns": [{"name": f"{column + 1:02d}"} for column in range(columns)],
        "wells": [
            {"path": f"{row_name(row)}/{column + 1:02d}", "rowIndex": row, "columnIndex": column}
            for row, column in places.values()
        ],
    }
    _write_group(paths.store, {"ome": {"version": VERSION, "plate": plate}})
    for row in sorted({row for row, _ in places.values()}):
        _write_group(paths.store / row_name(row), {})
    for well, layout in layouts.items():
        image = paths.image(well)
        for left in (*image.parent.glob(f".{image.name}.*"), *image.glob("labels/.*.*")):
            shutil.rmtree(left, ignore_errors=True)  # by an ingest that was killed
        _write_group(
            image.parent, {"ome": {"version": VERSION, "well": {"version": VERSION, "images": [{"path": "0"}]}}}
        )
        old = _own_attributes(image)
        mine = {"layout": layout.to_json(), "levels": levels}
        same = {key: old.get(key) for key in mine} == mine
        generation = old.get("generation", -1) + (0 if same else 1)
        attributes = _image_attributes(layout, info, levels) | {"plateflow": {**mine, "generation": generation}}
        if same:
            _write_group(image, attributes)
        else:
            shape, edge, kept = _kept(layout, levels)
            files = _arrays(shape, layout.dtype, edge, kept, "tczyx")
            replace_folder(image, {"zarr.json": _group(attributes), **files, **_field_table(layout)})
        for name in label_sets:
            _make_labels(image / "labels" / name, layout, levels, z_mode)
        _write_group(image / "labels", {"ome": {"version": VERSION, "labels": list(label_sets)}})


def _kept(layout: WellLayout, levels: int) -> tuple[tuple[int, ...], tuple[int, int], int]:
    """Shape, height and width of a shard, and levels of a well's image: where the pixels stay in the raw plate, one."""
    if layout.preview is None:
        return layout.shape, block_edge(layout, levels), levels
    height, width = (math.ceil(size / 2**layout.preview) for size in layout.shape[-2:])
    return (*layout.shape[:3], height, width), (height, width), 1


def generation(paths: PlatePaths, well: str, label_set: str = "") -> int:
    """How often the well's image, or a label set of it, was replaced: what was written into an earlier one is gone."""
    group = paths.image(well) / "labels" / label_set if label_set else paths.image(well)
    return int(_own_attributes(group).get("generation", -1))


def open_image(paths: PlatePaths, well: str) -> Any:
    """The group of a well's image (zarr.Group), for reading and writing: levels "0", "1", ... and "labels/<name>"."""
    import zarr

    return zarr.open_group(paths.image(well), mode="r+", zarr_format=3, use_consolidated=False)


def write_image_block(image: Any, t: int, z: int, y: int, x: int, pixels: NDArray[Any], run: Map = map) -> None:
    """Write a block of an image and its pyramid: whole shards, one a level.

    Args:
        image: of `open_image`.
        t, z: the plane.
        y, x: the block's corner at level 0, one of `blocks`.
        pixels: (c, y, x), the block.
        run: how the channels are compressed, such as a pool's `map`.
    """
    preview = image.attrs["plateflow"]["layout"].get("preview")
    if preview is not None:
        for _ in range(preview):
            pixels = halve_mean(pixels)
        image["0"][(slice(t, t + 1), slice(None), slice(z, z + 1), *_at(preview, y, x, pixels))] = pixels[None, :, None]
        return
    folder = Path(image.store.root) / image.path
    levels = [Level.of(folder / str(level), image[str(level)]) for level in _levels(image)]
    write_shards(levels, t, z, (y, x), pixels, run)


def write_labels(
    paths: PlatePaths, well: str, label_set: str, t: int, z: int, labels: Iterable[tuple[Canvas, Any]]
) -> None:
    """Write all labels of one t and z of a well, and their pyramid; what isn't covered by a canvas becomes 0.

    Args:
        labels: canvases of this t and z with their labels, uint32 (y, x), or what gives windows of them. Where the
            boxes of two canvases overlap (their fields don't) labels win over 0.
    """
    image = open_image(paths, well)
    arrays = image[f"labels/{label_set}"]
    canvases = list(labels)
    mine = _own_attributes(paths.image(well))
    for ys, xs in _bands(WellLayout.from_json(mine["layout"]), mine["levels"]):
        block = np.zeros((ys.stop - ys.start, xs.stop - xs.start), np.uint32)
        for canvas, values in canvases:
            top, bottom = max(ys.start, canvas.y), min(ys.stop, canvas.y + canvas.height)
            left, right = max(xs.start, canvas.x), min(xs.stop, canvas.x + canvas.width)
            if top < bottom and left < right:
                part = block[top - ys.start : bottom - ys.start, left - xs.start : right - xs.start]
                new = values[top - canvas.y : bottom - canvas.y, left - canvas.x : right - canvas.x]
                np.copyto(part, new, where=new > 0)
        for level in _levels(image):
            rows, columns = _at(level, ys.start, xs.start, block)
            arrays[str(level)][t : t + 1, z : z + 1, rows, columns] = block[None, None]
            block = halve_labels(block)


def _bands(layout: WellLayout, levels: int) -> Iterator[tuple[slice, slice]]:
    """The blocks of level 0, those of more than `BAND_PX` px in bands of rows that no pixel of any level crosses."""
    unit = 2 ** (levels - 1)
    for ys, xs in blocks(layout, levels):
        rows = max(unit, BAND_PX // (xs.stop - xs.start) // unit * unit)
        for y in range(ys.start, ys.stop, rows):
            yield slice(y, min(y + rows, ys.stop)), xs


def clear_image(paths: PlatePaths, well: str) -> None:
    """Remove all pixels of a well's image; its arrays stay, and read as fill."""
    _clear_arrays(paths.image(well))


def clear_labels(paths: PlatePaths, well: str, label_set: str) -> None:
    """Remove all labels of a label set of a well; its arrays stay, and read as fill."""
    _clear_arrays(paths.image(well) / "labels" / label_set)


def sweep(paths: PlatePaths, well: str, below: str = "") -> None:
    """Remove what a killed writer of this well's image, or of labels below it, may have left beside its shards."""
    for partial in paths.image(well).glob(f"{below}[0-9]*/c/**/*.partial"):
        partial.unlink(missing_ok=True)


def _clear_arrays(group: Path) -> None:
    for chunks in group.glob("[0-9]*/c"):
        shutil.rmtree(chunks)


def _levels(image: Any) -> range:
    return range(int(image.attrs["plateflow"]["levels"]))


def _at(level: int, y: int, x: int, block: NDArray[Any]) -> tuple[slice, slice]:
    """A block's place at a level: corners of blocks are multiples of 2^levels, or 0."""
    top, left = y >> level, x >> level
    return slice(top, top + block.shape[-2]), slice(left, left + block.shape[-1])


def _make_labels(group: Path, layout: WellLayout, levels: int, z_mode: str) -> None:
    """Make a label set's arrays unless they are there in this very shape; of new ones the generation rises by one."""
    shape = layout.label_shape(z_mode)
    files = _arrays(shape, "uint32", block_edge(layout, levels), levels, "tzyx")
    attributes: dict[str, Any] = {
        "ome": {
            "version": VERSION,
            "image-label": {"version": VERSION, "source": {"image": "../../"}},
            "multiscales": _multiscales(group.name, layout, levels, "tzyx"),
        }
    }
    there = all((group / name).is_file() and (group / name).read_bytes() == data for name, data in files.items())
    old = _own_attributes(group).get("generation", -1)
    attributes["plateflow"] = {"generation": old if there else old + 1}
    if there:
        _write_group(group, attributes)
    else:
        replace_folder(group, {"zarr.json": _group(attributes), **files})


def _image_attributes(layout: WellLayout, info: Mapping[str, Any], levels: int) -> dict[str, Any]:
    top = 4095 if layout.dtype == "uint16" else 255  # a first view; few cameras fill 16 bits
    limits = {"min": 0, "max": info["bit_max"], "start": 0, "end": min(top, info["bit_max"])}
    channels = [
        {"label": channel["name"], "color": _colour(channel, number), "active": number < 3, "window": limits}
        for number, channel in enumerate(info["channels"])
    ]
    kept = _kept(layout, levels)[-1]
    multiscales = _multiscales("image", layout, kept, "tczyx", halved=layout.preview or 0)
    ome = {"version": VERSION, "multiscales": multiscales}
    return {"ome": {**ome, "omero": {"channels": channels}}}


def _colour(channel: Mapping[str, Any], number: int) -> str:
    """By emission wavelength as one sees it; without one in turn."""
    wavelength = channel.get("wavelength_nm")
    if wavelength is None:
        return ("0000FF", "00FF00", "FF0000", "FFFF00", "FF00FF", "00FFFF")[number % 6]
    for top, colour in ((490, "0000FF"), (560, "00FF00"), (620, "FFA500"), (680, "FF0000")):
        if wavelength < top:
            return colour
    return "FF00FF"


def _multiscales(name: str, layout: WellLayout, levels: int, axes: str, *, halved: int = 0) -> list[dict[str, Any]]:
    kinds: dict[str, dict[str, str]] = {
        "t": {"type": "time"},
        "c": {"type": "channel"},
        **{axis: {"type": "space"} | ({"unit": "micrometer"} if layout.unit_known else {}) for axis in "zyx"},
    }
    step = dict(zip("zyx", layout.pixel_um, strict=True))
    datasets = []
    for level in range(levels):
        factor = {"y": 2 ** (level + halved), "x": 2 ** (level + halved)}
        scale = [float(step.get(axis, 1.0) * factor.get(axis, 1)) for axis in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    return [{"name": name, "axes": [{"name": axis, **kinds[axis]} for axis in axes], "datasets": datasets}]


@cache
def _arrays(shape: tuple[int, ...], dtype: str, edge: tuple[int, int], levels: int, axes: str) -> dict[str, bytes]:
    """The `zarr.json` of the arrays of all levels: made once in memory, then copied, as zarr's way takes 50 ms each."""
    import zarr
    from zarr.codecs import BloscCodec, ZstdCodec

    kept: dict[str, Any] = {}
    group = zarr.create_group(zarr.storage.MemoryStore(kept), zarr_format=3)
    inner = (1, shape[1] if axes[1] == "c" else 1, 1) if len(axes) == 5 else (1, 1)
    whole = edge == tuple(shape[-2:])
    codec = ZstdCodec(level=3) if dtype == "uint32" else BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
    for level in range(levels):
        space = [math.ceil(size / 2**level) for size in shape[-2:]]
        parts = [_even_chunk(size) if whole else CHUNK_PX for size in space]
        shard = [
            math.ceil((n if whole else min(e >> level, n)) / c) * c for e, n, c in zip(edge, space, parts, strict=True)
        ]
        group.create_array(
            str(level),
            shape=(*shape[:-2], *space),
            dtype=dtype,
            chunks=(*(1 for _ in inner), *parts),
            shards=(*inner, *shard),
            fill_value=0,
            compressors=codec,
            dimension_names=list(axes),
        )
    return {key: value.to_bytes() for key, value in kept.items() if key != "zarr.json"}


def _even_chunk(size: int) -> int:
    """A chunk near 512 px that divides a level evenly, so that little is padded."""
    return math.ceil(size / max(1, round(size / CHUNK_PX)))


def _field_table(layout: WellLayout) -> dict[str, bytes]:
    """Each field's box as an ROI table that ngio and Fractal read (their table version 1, parquet)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dz, dy, dx = layout.pixel_um
    columns: dict[str, Any] = {"FieldIndex": [box.name for box in layout.fields]}
    columns["x_micrometer"] = [box.x * dx for box in layout.fields]
    columns["y_micrometer"] = [box.y * dy for box in layout.fields]
    columns["z_micrometer"] = [0.0 for _ in layout.fields]
    columns["len_x_micrometer"] = [box.width * dx for box in layout.fields]
    columns["len_y_micrometer"] = [box.height * dy for box in layout.fields]
    columns["len_z_micrometer"] = [layout.shape[2] * dz for _ in layout.fields]
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    about = {"type": "roi_table", "table_version": "1", "backend": "parquet"}
    return {
        "tables/zarr.json": _group({"tables": ["fields"]}),
        "tables/fields/zarr.json": _group({**about, "index_key": "FieldIndex", "index_type": "str"}),
        "tables/fields/table.parquet": buffer.getvalue().to_pybytes(),
    }


def _own_attributes(image: Path) -> dict[str, Any]:
    """What `create_plate` noted of an image; empty where there is none."""
    try:
        return dict(json.loads((image / "zarr.json").read_text())["attributes"]["plateflow"])
    except (FileNotFoundError, KeyError, ValueError):
        return {}


def _group(attributes: Mapping[str, Any]) -> bytes:
    text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1, ensure_ascii=False)
    return text.encode() + b"\n"


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write a group's `zarr.json` by rename, unless it says so already."""
    path, data = folder / "zarr.json", _group(attributes)
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)
