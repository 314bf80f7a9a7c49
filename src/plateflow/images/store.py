"""The plate store: OME-Zarr 0.5, one image per well, sharded arrays; ingest alone makes its groups and arrays.

Every other stage writes shards of its own wells (`images.well`), normalise the `zarr.json` of each image, last, as
that says in which intensity window it is shown, features the groups of labels that were made from others or corrected
by hand, and aggregate the list of an image's tables (`put_cells`). What the stages know of an image stands in its
well's group.
Nothing is consolidated.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plateflow.config import CORRECTED
from plateflow.files import (
    Stamp,
    digest,
    link_file,
    listed,
    remove_tree,
    replace_folder,
    unlisted,
    write_changed,
)
from plateflow.images import ngff
from plateflow.images.layout import WellLayout
from plateflow.images.shards import array_files, shard_region_size
from plateflow.paths import PlatePaths, parse_well, row_name

STORE = 3
"""The kind of the groups' attributes, and of who writes them last. A store of another kind can't be accepted: nothing
reads it."""


def create_plate(
    paths: PlatePaths,
    metadata: Mapping[str, Any],
    layouts: Mapping[str, WellLayout],
    *,
    label_sets: Mapping[str, Sequence[str]],
    levels: int,
    z_mode: str,
    ids: Mapping[str, str],
    limits: Mapping[str, Mapping[str, float]] | None = None,
    others: Sequence[str] = (),
) -> dict[str, str]:
    """Make all groups and arrays of a plate, or bring those that exist up to date.

    A well has those of the `label_sets` whose channels, by name, it has.

    An image or label set that is as its id says keeps its pixels, and its metadata get their right content, whatever
    has become of them; that of an earlier release stays compressed as it is. Any other is replaced whole, empty: what
    the store says of itself decides nothing.

    `limits` are those of the window, where there is one, as `normalise` writes them into the same files. The `others`
    are label sets whose groups `features` makes: they stay, and are listed.

    Returns:
        a digest of layout and arrays for each image and label set, by its path in the store, which are the next call's
        `ids`; also of those that the plate has no more: they stay where they are.
    """
    made = {key: own for key, own in ids.items() if key.rpartition("/labels/")[2] not in others}
    _write_group(paths.store, ngff.plate_attributes(metadata, layouts))
    for row in sorted({parse_well(well)[0] for well in layouts}):
        _write_group(paths.store / row_name(row), {})
    for well, layout in layouts.items():
        image = paths.image(well)
        for leftover in (*image.parent.glob(f".{image.name}.*"), *image.glob("labels/.*.*")):
            if leftover.is_dir():
                remove_tree(leftover)  # of an ingest that was killed
        own = {"layout": layout.to_json(), "levels": levels}
        of_well = ngff.group_file(ngff.WELL_ATTRIBUTES | {"plateflow": own})
        groups = {image: _image_files(layout, own)}
        former = _image_files(layout, own, former=True)
        if ids.get(image.relative_to(paths.store).as_posix()) == former[0]:
            groups[image] = former
        own_sets = [name for name, channels in label_sets.items() if layout.shows(channels)]
        groups |= {image / "labels" / name: label_files(name, layout, levels, z_mode) for name in own_sets}
        for group, (own_id, files) in groups.items():
            key = group.relative_to(paths.store).as_posix()
            if key in ids:
                stays = ids[key] == own_id
            else:  # where no journal tells of it any more, a folder with these very files stays, whatever else it holds
                known = {group / name: data for name, data in files.items()}
                known |= {image.parent / "zarr.json": of_well} if group == image else {}
                stays = all(file.is_file() and file.read_bytes() == data for file, data in known.items())
            if stays:
                for name, data in files.items():
                    write_changed(group / name, data)
            else:
                replace_folder(group, files)
            made[key] = own_id
        write_changed(image / "zarr.json", image_group(layout, metadata, levels, limits or {}))
        unlisted(image / "zarr.json")
        spots = [group.name for group in listed(image / "tables") if _has_spots(group)]
        list_tables(image, *(name for name in own_sets if (image / "tables" / name / "zarr.json").is_file()), *spots)
        unlisted(image / "tables" / "zarr.json")
        write_changed(image.parent / "zarr.json", of_well)
        list_labels(paths, well, [*own_sets, *others])
        unlisted(image / "labels" / "zarr.json")
    return made


def list_labels(paths: PlatePaths, well: str, label_sets: Sequence[str]) -> None:
    """Write the list of a well's labels: those of the label sets, also corrected by hand, that the store holds.

    The groups of those that were made from others or corrected are made and removed by `features`, which then writes
    this list, last.
    """
    folder = paths.image(well) / "labels"
    names = [name for each in label_sets for name in (each, each + CORRECTED)]
    names = [name for name in names if (folder / name / "zarr.json").is_file()]
    _write_group(folder, {"ome": {"version": ngff.VERSION, "labels": names}})


def image_group(
    layout: WellLayout, metadata: Mapping[str, Any], levels: int, limits: Mapping[str, Mapping[str, float]]
) -> bytes:
    """The `zarr.json` of an image: a function of what ingest knows, and of the limits of the intensity window.

    Args:
        metadata: content of manifest/plate.json.
        levels: of labels.
        limits: `low` and `high` by channel, as in window.json; empty as long as there are none.
    """
    levels = levels if layout.preview is None else 1
    return ngff.group_file(ngff.image_attributes(layout, metadata, levels, limits))


def put_cells(
    image: Path, cells: Path, stamp: Stamp, label_set: str, labels: str, spots: Mapping[str, tuple[Path, Stamp]]
) -> None:
    """Put a well's cell table into its image, where ngio finds it: `tables/<label set>`, a second name of the file.

    Args:
        image: the image's group.
        cells: cells/<well>.parquet; `stamp`: as features has listed it.
        label_set: that of the rows.
        labels: the label image whose numbers are the table's ObjectNumber.
        spots: by name, tables of spots, which go to `tables/<name>`.
    """
    table = image / "tables" / label_set
    link_file(cells, table / "table.parquet", stamp)
    write_changed(table / "zarr.json", ngff.cell_table(labels))
    for name, file in spots.items():
        link_file(file[0], image / "tables" / name / "table.parquet", file[1])
        write_changed(image / "tables" / name / "zarr.json", ngff.spot_table())
    list_tables(image, label_set, *spots)


def list_tables(image: Path, *names: str) -> None:
    """Write the list of an image's tables: the fields, these of cells and spots, and those of other programs.

    Any other table of cells or spots goes away: its `zarr.json` is as `put_cells` writes it.
    """
    foreign, gone = list[str](), list[Path]()
    for group in listed(image / "tables"):
        about = group / "zarr.json"
        if group.name in ("fields", *names) or not about.is_file():
            continue
        if about.read_bytes() in (*map(ngff.cell_table, (group.name, group.name + CORRECTED)), ngff.spot_table()):
            gone.append(group)
        else:
            foreign.append(group.name)
    write_changed(image / "tables" / "zarr.json", ngff.table_list(*names, *foreign))
    for group in gone:
        remove_tree(group)


def _has_spots(table: Path) -> bool:
    about = table / "zarr.json"
    return about.is_file() and about.read_bytes() == ngff.spot_table()


def _image_files(layout: WellLayout, own: Mapping[str, Any], *, former: bool = False) -> tuple[str, dict[str, bytes]]:
    """The id of an image, and its metadata files by name, but for its own `zarr.json`; `own`: layout and levels."""
    levels = own["levels"]
    shape, region = layout.shape, shard_region_size(layout, levels)
    if layout.preview is not None:  # the pixels stay in the raw plate: one level, of one shard
        height, width = region = tuple(math.ceil(size / 2**layout.preview) for size in shape[-2:])
        shape, levels = (*shape[:3], height, width), 1
    arrays = array_files(shape, layout.dtype, region, levels, ngff.AXES, former)
    return _id(own, arrays), {**arrays, **ngff.field_table(layout)}


def label_files(
    name: str, layout: WellLayout, levels: int, z_mode: str, about: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, bytes]]:
    """The id of labels of an image, and their metadata files by name; `about`: who or what made them, and from what."""
    shape, region = layout.label_shape(z_mode), shard_region_size(layout, levels)
    arrays = array_files(shape, "uint32", region, levels, ngff.LABEL_AXES)
    more = {"plateflow": about} if about else {}
    return _id({}, arrays), {
        "zarr.json": ngff.group_file(ngff.label_attributes(name, layout, levels, z_mode) | more),
        **arrays,
    }


def _id(own: Mapping[str, Any], arrays: Mapping[str, bytes]) -> str:
    return digest(own, {name: data.decode() for name, data in arrays.items()})


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    write_changed(folder / "zarr.json", ngff.group_file(attributes))
