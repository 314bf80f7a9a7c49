"""What stages would refuse of a configuration and its plates, found before any job: for `plateflow check`.

Each is found by the function with which the stage itself refuses. What only a job can know isn't here: a device, a full
disk, damaged results.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from plateflow.config import Config
from plateflow.errors import ModelError, PlateflowError
from plateflow.features.columns import cell_families
from plateflow.images.window import load_window
from plateflow.plates.check_index import Problem
from plateflow.plates.platemap import read_plate_map
from plateflow.plates.reader import Index, examples
from plateflow.project import Plate
from plateflow.segment.fits import check_grown, check_spots
from plateflow.segment.grid import grid_for
from plateflow.segment.label_sets import check_channels, check_thresholds
from plateflow.stages.infer import check_models
from plateflow.stages.ingest import refused_wells
from plateflow.stats.groups import check_groups, groups_without_hits
from plateflow.stats.over_time import check_time
from plateflow.stats.rules import gates_of


def refused_of_config(config: Config) -> Iterator[Problem]:
    """What is wrong with the configuration, whatever the plate: models, channels, thresholds, features, folders."""
    for name, settings in config.segmented.items():
        alone = config.model_copy(update={"segmentation": {name: settings}})
        steps = {"channels": check_channels, "cell_threshold": check_thresholds, "model": check_models}
        for key, step in steps.items():
            yield from _tried(f"segmentation.{name}.{key}", partial(step, alone))
    yield from _tried("features.families", partial(cell_families, config))
    for key, folder in {"results": config.results, "scratch": config.scratch}.items():
        path = Path(folder or config.results).absolute()
        place = next(each for each in (path, *path.parents) if os.path.lexists(each))
        if folder and not place.is_dir():
            yield Problem(
                "error", key, f"{folder} can't be made: {place} is no folder", f"name another folder for {key}"
            )


def refused_of_plate(plate: Plate, index: Index) -> Iterator[Problem]:
    """What of a plate doesn't fit the configuration, besides the channels of label sets: planes, sizes, window."""
    config, metadata = plate.config, index.metadata
    wells: dict[tuple[str, str], list[str]] = {}
    try:
        for well, refusal in refused_wells(config, index).items():
            wells.setdefault((f"{refusal.what}: {refusal.why}", refusal.remedy), []).append(well)
    except PlateflowError as error:
        yield Problem.of_error(plate.name, error)
    for (what, remedy), alike in wells.items():
        yield Problem("error", plate.name, f"left out, as {what}: {examples(alike)}", remedy)
    for name in config.segmented:
        yield from _tried(plate.name, partial(_check_diameter, config, name, metadata))
    yield from _tried(plate.name, partial(check_grown, config, metadata))
    yield from _tried(plate.name, partial(check_spots, config, metadata))
    yield from _tried(plate.name, partial(_check_window, plate, metadata))
    yield from _tried(plate.name, partial(check_time, config.stats, metadata["t"], plate.name))
    yield from _groups(plate)
    yield from _tried(plate.name, partial(gates_of, config, [channel["name"] for channel in metadata["channels"]]))


def _tried(place: str, step: Callable[[], object]) -> Iterator[Problem]:
    try:
        step()
    except PermissionError:  # of which `check` tells
        return
    except PlateflowError as error:
        yield Problem.of_error(place, error)


def _check_diameter(config: Config, label_set: str, metadata: Mapping[str, Any]) -> None:
    with suppress(ModelError):  # told once, for all plates
        grid_for(config, label_set, metadata, plate=str(metadata["plate"]))


def _groups(plate: Plate) -> Iterator[Problem]:
    stats, table = plate.config.stats, None
    if plate.spec.plate_map is not None:
        try:
            table = read_plate_map(plate.spec.plate_map, plate.name)
        except PlateflowError:  # of which `check` tells
            return
        for text in groups_without_hits(table, stats):
            remedy = "name in stats.group_by only columns by which the plate has negative controls of its own"
            yield Problem("warning", plate.name, text, remedy, file=plate.spec.plate_map)
    yield from _tried(plate.name, partial(check_groups, stats, table, plate.name))


def _check_window(plate: Plate, metadata: Mapping[str, Any]) -> None:
    if plate.paths.window.is_file() and plate.has_frozen_window():
        load_window(plate.paths).fingerprint([channel["name"] for channel in metadata["channels"]])
