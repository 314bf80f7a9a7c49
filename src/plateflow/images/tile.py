"""The stage `tile`: raw planes into level 0 and its pyramid, with their statistics; one well after another.

Level 0 keeps the raw values. A plane that can't be used sets its whole field aside, with its reason; the well goes on
with the other fields. Memory holds one block of one image (`images.store.blocks`) and the planes that lie in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plateflow.images.layout import FieldBox, WellLayout, read_layout
from plateflow.plates.reader import plate_folder
from plateflow.state.requests import stat_of
from plateflow.state.runner import JobContext, Outcome, Unit, one_by_one, run_job
from plateflow.state.stages import digest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from plateflow.images.histograms import PlaneStatistics
    from plateflow.plates.pixels import PlaneError

READERS = 2
"""Threads that decode planes: decoding and counting run outside of Python's lock."""


def units(context: JobContext) -> list[Unit]:
    """The wells of a part: each depends on its rows of the manifest, its raw files as they are now, and its image."""
    plate_folder(context.entry)  # a share that isn't mounted is a fault of the machine: no well is given up for it
    planes = _planes(context)
    return [_unit(context, well, planes[planes["well"] == well]) for well in context.wells()]


def run(context: JobContext) -> None:
    """Tile the wells of a part."""
    run_job(context, lambda: units(context), one_by_one(lambda unit: tile_well(context, unit)))


def _planes(context: JobContext) -> pd.DataFrame:
    """The manifest's rows of this job's wells."""
    import pandas as pd

    planes = pd.read_parquet(context.paths.planes)
    return planes[planes["well"].isin(context.wells())]  # a part may be empty, which pyarrow's filter refuses


def _unit(context: JobContext, well: str, planes: pd.DataFrame) -> Unit:
    from plateflow.images.store import generation

    rows = planes.drop(columns=["size_bytes", "mtime_ns", "state", "reason"]).to_csv(index=False)
    paths = planes["path"].drop_duplicates()
    depends = {
        "manifest": digest(rows, context.info["bit_max"]),
        "raw files": digest([stat_of(path) for path in paths if path]),
        # ingest replaces an image whose layout changed: what was written is gone then
        "image": digest(read_layout(context.paths, well).to_json(), generation(context.paths, well)),
        "parameters": context.parameters(),
    }
    return Unit(well=well, depends=depends, data=planes)


@dataclass
class _Pass:
    """What one pass over a well's planes found."""

    statistics: dict[tuple[str, str], PlaneStatistics] = field(default_factory=dict)
    bad: dict[str, PlaneError] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)


def tile_well(context: JobContext, unit: Unit) -> Outcome:
    """Write a well's image and statistics, and say which fields are left out."""
    from plateflow.images.histograms import write_histograms
    from plateflow.images.store import clear_image, sweep

    paths, well = context.paths, unit.well
    layout = read_layout(paths, well)
    stats = {path: stat_of(path) for path in unit.data["path"] if path}  # before they are read: they may be growing
    sweep(paths, well)
    clear_image(paths, well)
    left_out: dict[str, PlaneError] = {}
    files: set[str] = set()
    while True:
        found = _write(context, unit, layout, left_out)
        left_out |= found.bad
        files |= found.files
        if not found.written & set(found.bad):
            break
        # A field turned out bad after a block of it was written, at another t, z or block: once more without it.
        clear_image(paths, well)
    used = [box.name for box in layout.fields if box.name not in left_out]
    if not used:
        clear_image(paths, well)
        paths.histogram(well).unlink(missing_ok=True)
        return _all_left_out(left_out, [(file, stats.get(file)) for file in sorted(files)])
    table = {name: [found.statistics[name, channel] for channel in layout.channels] for name in used}
    write_histograms(paths.histogram(well), table, layout.channels, context.info["bit_max"])
    info = {"fields": len(used)}
    if not left_out:
        return Outcome(info=info)
    return Outcome(
        state="flagged",
        reason="fields",
        detail="; ".join(f"field {name}: {error.detail}" for name, error in left_out.items()),
        fields={name: error.reason for name, error in left_out.items()},
        info=info,
        set_aside=tuple((file, stats.get(file)) for file in sorted(files)),
    )


def _all_left_out(left_out: dict[str, PlaneError], set_aside: list[tuple[str, list[int] | None]]) -> Outcome:
    reasons = Counter(error.reason for error in left_out.values())
    reason = reasons.most_common(1)[0][0]
    return Outcome(
        state="missing" if set(reasons) == {"missing"} else "quarantined",
        reason=reason,
        detail=f"no field can be used: {next(e.detail for e in left_out.values() if e.reason == reason)}",
        fields={name: error.reason for name, error in left_out.items()},
        set_aside=tuple(set_aside),
    )


def _write(context: JobContext, unit: Unit, layout: WellLayout, left_out: dict[str, PlaneError]) -> _Pass:
    """Read all planes of a well but those of fields known to be bad, and write its image block by block."""
    import numpy as np

    from plateflow.images.store import blocks, open_image, write_image_block

    image = open_image(context.paths, unit.well)
    levels = context.config.levels
    rows = {(row["field"], row["channel"], row["t"], row["z"]): row for row in unit.data.to_dict("records")}
    found = _Pass()
    for t in range(layout.shape[0]):
        for z in range(layout.shape[2]):
            if not any(at[2:] == (t, z) for at in rows):
                continue
            held: dict[tuple[str, str], NDArray[np.generic]] = {}
            parts = list(blocks(layout, levels))
            for number, (ys, xs) in enumerate(parts):
                boxes = [box for box in layout.fields if box.name not in left_out and _meet(box, ys, xs)]
                wanted = [
                    rows[box.name, channel, t, z]
                    for box in boxes
                    for channel in layout.channels
                    if (box.name, channel, t, z) in rows and (box.name, channel) not in held
                ]
                for row, pixels in _read(wanted, found):
                    held[row["field"], row["channel"]] = pixels
                boxes = [box for box in boxes if box.name not in found.bad]
                if not boxes:
                    continue
                block = np.zeros((len(layout.channels), ys.stop - ys.start, xs.stop - xs.start), layout.dtype)
                for box in reversed(boxes):  # where fields overlap the first is written last
                    for c, channel in enumerate(layout.channels):
                        if (box.name, channel) in held:
                            _place(block[c], held[box.name, channel], box, ys, xs)
                write_image_block(image, t, z, ys.start, xs.start, block)
                found.written.update(box.name for box in boxes)
                later = {box.name for box in layout.fields if any(_meet(box, *part) for part in parts[number + 1 :])}
                held = {key: pixels for key, pixels in held.items() if key[0] in later}
    return found


def _read(wanted: list[dict[str, Any]], found: _Pass) -> Iterator[tuple[dict[str, Any], NDArray[np.generic]]]:
    """Decode planes in threads, in order; adds their statistics to `found`, and what is wrong with them."""
    from plateflow.images.histograms import plane_statistics
    from plateflow.plates.pixels import PlaneError
    from plateflow.plates.plate import read_row

    def read(row: dict[str, Any]) -> tuple[NDArray[np.generic], PlaneStatistics] | PlaneError:
        try:
            pixels = read_row(row)
        except PlaneError as error:
            return error
        return pixels, plane_statistics(pixels)

    with ThreadPoolExecutor(READERS) as pool:
        for row, result in zip(wanted, pool.map(read, wanted), strict=True):
            if isinstance(result, PlaneError):
                found.bad.setdefault(row["field"], result)
                if row["path"]:
                    found.files.add(row["path"])
                continue
            pixels, statistics = result
            key = row["field"], row["channel"]
            if key in found.statistics:
                found.statistics[key].add(statistics)
            else:
                found.statistics[key] = statistics
            yield row, pixels


def _meet(box: FieldBox, ys: slice, xs: slice) -> bool:
    return box.y < ys.stop and box.y + box.height > ys.start and box.x < xs.stop and box.x + box.width > xs.start


def _place(block: NDArray[Any], plane: NDArray[Any], box: FieldBox, ys: slice, xs: slice) -> None:
    """Write the part of a field that lies in a block."""
    top, bottom = max(ys.start, box.y), min(ys.stop, box.y + box.height)
    left, right = max(xs.start, box.x), min(xs.stop, box.x + box.width)
    block[top - ys.start : bottom - ys.start, left - xs.start : right - xs.start] = plane[
        top - box.y : bottom - box.y, left - box.x : right - box.x
    ]
