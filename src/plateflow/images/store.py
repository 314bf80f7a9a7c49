"""The plate store: OME-Zarr 0.5, one image per well, sharded arrays; ingest alone makes its groups and arrays.

Every other stage writes shards of its own wells (`images.well`). Nothing is consolidated.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plateflow.files import digest, remove_tree, replace_folder, write_changed
from plateflow.images import ngff
from plateflow.images.layout import WellLayout
from plateflow.images.shards import array_files, shard_region_size
from plateflow.paths import PlatePaths, parse_well, row_name


def create_plate(
    paths: PlatePaths,
    metadata: Mapping[str, Any],
    layouts: Mapping[str, WellLayout],
    *,
    label_sets: Mapping[str, Sequence[str]],
    levels: int,
    z_mode: str,
    ids: Mapping[str, str],
) -> dict[str, str]:
    """Make all groups and arrays of a plate, or bring those that exist up to date.

    A well has those of the `label_sets` whose channels, by name, it has.

    An image or label set that is as its id says keeps its pixels, and its metadata get their right content, whatever
    has become of them. Any other is replaced whole, empty: what the store says of itself decides nothing.

    Returns:
        a digest of layout and arrays for each image and label set, by its path in the store, which are the next call's
        `ids`; also of those that the plate has no more: they stay where they are.
    """
    made = dict(ids)
    _write_group(paths.store, ngff.plate_attributes(metadata, layouts))
    for row in sorted({parse_well(well)[0] for well in layouts}):
        _write_group(paths.store / row_name(row), {})
    for well, layout in layouts.items():
        image = paths.image(well)
        for leftover in (*image.parent.glob(f".{image.name}.*"), *image.glob("labels/.*.*")):
            if leftover.is_dir():
                remove_tree(leftover)  # of an ingest that was killed
        _write_group(image.parent, ngff.WELL_ATTRIBUTES)
        groups = {image: _image_files(layout, metadata, levels)}
        own_sets = [name for name, channels in label_sets.items() if layout.shows(channels)]
        groups |= {image / "labels" / name: _label_files(name, layout, levels, z_mode) for name in own_sets}
        for group, (own_id, files) in groups.items():
            key = group.relative_to(paths.store).as_posix()
            if key in ids:
                stays = ids[key] == own_id
            else:  # where no journal tells of it any more, a folder with these very files stays, whatever else it holds
                stays = all((file := group / name).is_file() and file.read_bytes() == files[name] for name in files)
            if stays:
                for name, data in files.items():
                    write_changed(group / name, data)
            else:
                replace_folder(group, files)
            made[key] = own_id
        _write_group(image / "labels", {"ome": {"version": ngff.VERSION, "labels": own_sets}})
    return made


def _image_files(layout: WellLayout, metadata: Mapping[str, Any], levels: int) -> tuple[str, dict[str, bytes]]:
    """The id of an image, and its metadata files by name."""
    own = {"layout": layout.to_json(), "levels": levels}
    shape, region = layout.shape, shard_region_size(layout, levels)
    if layout.preview is not None:  # the pixels stay in the raw plate: one level, of one shard
        height, width = region = tuple(math.ceil(size / 2**layout.preview) for size in shape[-2:])
        shape, levels = (*shape[:3], height, width), 1
    arrays = array_files(shape, layout.dtype, region, levels, ngff.AXES)
    group = ngff.group_file(ngff.image_attributes(layout, metadata, levels) | {"plateflow": own})
    return _id(own, arrays), {"zarr.json": group, **arrays, **ngff.field_table(layout)}


def _label_files(name: str, layout: WellLayout, levels: int, z_mode: str) -> tuple[str, dict[str, bytes]]:
    """The id of a label set of an image, and its metadata files by name."""
    shape, region = layout.label_shape(z_mode), shard_region_size(layout, levels)
    arrays = array_files(shape, "uint32", region, levels, ngff.LABEL_AXES)
    return _id({}, arrays), {
        "zarr.json": ngff.group_file(ngff.label_attributes(name, layout, levels, z_mode)),
        **arrays,
    }


def _id(own: Mapping[str, Any], arrays: Mapping[str, bytes]) -> str:
    return digest(own, {name: data.decode() for name, data in arrays.items()})


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    write_changed(folder / "zarr.json", ngff.group_file(attributes))
