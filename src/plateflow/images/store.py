"""The plate store: OME-Zarr 0.5, one image per well, sharded arrays; ingest alone makes its groups and arrays.

Every other stage writes shards of its own wells (`images.well`). Nothing is consolidated.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plateflow.files import replace_folder, write_atomic
from plateflow.images import ngff
from plateflow.images.layout import WellLayout
from plateflow.images.shards import array_files, shard_region_size
from plateflow.paths import PlatePaths, parse_well, row_name


def create_plate(
    paths: PlatePaths,
    metadata: Mapping[str, Any],
    layouts: Mapping[str, WellLayout],
    *,
    label_sets: Sequence[str],
    levels: int,
    z_mode: str,
) -> None:
    """Make all groups and arrays of a plate, or bring those that exist up to date.

    An image whose layout and levels are as before keeps its arrays; one that changed is replaced whole, empty, and its
    generation rises by one, so that tile notices. Label sets are added, and listed as they are asked for.

    Args:
        paths: of the plate.
        metadata: manifest/plate.json.
        layouts: of every well.
        label_sets: names.
        levels: of images and labels.
        z_mode: the configuration's `z`.
    """
    _write_group(paths.store, ngff.plate_attributes(metadata, layouts))
    for row in sorted({parse_well(well)[0] for well in layouts}):
        _write_group(paths.store / row_name(row), {})
    for well, layout in layouts.items():
        image = paths.image(well)
        for leftover in (*image.parent.glob(f".{image.name}.*"), *image.glob("labels/.*.*")):
            shutil.rmtree(leftover, ignore_errors=True)  # of an ingest that was killed
        _write_group(image.parent, ngff.WELL_ATTRIBUTES)
        _make_image(image, layout, metadata, levels)
        for name in label_sets:
            _make_labels(image / "labels" / name, layout, levels, z_mode)
        _write_group(image / "labels", ngff.labels_attributes(label_sets))


def _make_image(group: Path, layout: WellLayout, metadata: Mapping[str, Any], levels: int) -> None:
    """Make an image's arrays, or replace them; those of an equal image stay."""
    old, own = ngff.own_attributes(group), {"layout": layout.to_json(), "levels": levels}
    unchanged = {key: old.get(key) for key in own} == own
    own["generation"] = old.get("generation", -1) + (0 if unchanged else 1)
    shape, region = layout.shape, shard_region_size(layout, levels)
    if layout.preview is not None:  # the pixels stay in the raw plate: one level, of one shard
        height, width = region = tuple(math.ceil(size / 2**layout.preview) for size in shape[-2:])
        shape, levels = (*shape[:3], height, width), 1
    attributes = ngff.image_attributes(layout, metadata, levels) | {"plateflow": own}
    if unchanged:
        _write_group(group, attributes)
    else:
        arrays = array_files(shape, layout.dtype, region, levels, ngff.AXES)
        replace_folder(group, {"zarr.json": ngff.group_file(attributes), **arrays, **ngff.field_table(layout)})


def _make_labels(group: Path, layout: WellLayout, levels: int, z_mode: str) -> None:
    """Make a label set's arrays, or replace them; those of this very shape stay."""
    shape, region = layout.label_shape(z_mode), shard_region_size(layout, levels)
    arrays = array_files(shape, "uint32", region, levels, ngff.LABEL_AXES)
    unchanged = all((group / name).is_file() and (group / name).read_bytes() == data for name, data in arrays.items())
    generation = ngff.own_attributes(group).get("generation", -1) + (0 if unchanged else 1)
    attributes = ngff.label_attributes(group.name, layout, levels) | {"plateflow": {"generation": generation}}
    if unchanged:
        _write_group(group, attributes)
    else:
        replace_folder(group, {"zarr.json": ngff.group_file(attributes), **arrays})


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write a group's `zarr.json` by rename, unless it has this content already."""
    path, data = folder / "zarr.json", ngff.group_file(attributes)
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)
