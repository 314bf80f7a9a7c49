"""The stage `tile`: raw planes into level 0 and its pyramid, with their statistics; one well after another.

Level 0 keeps the raw values. A plane that can't be used sets its whole field aside, with its reason; the well goes on
with the other fields. Memory holds one region of one image (`images.shards`), used again for the next, and the planes
that regions to come need.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from plateflow.files import digest, stat_of
from plateflow.plates.reader import plate_folder
from plateflow.stages.runner import Job, Outcome, WorkItem, one_by_one, run_job

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from plateflow.images.histograms import PlaneStatistics
    from plateflow.images.layout import FieldBox
    from plateflow.images.well import WellImage
    from plateflow.plates.pixels import PlaneError

THREADS = 2
"""Decode planes, then compress channels: both run outside of Python's lock."""


def work_items(job: Job) -> list[WorkItem[pd.DataFrame]]:
    """The wells of a part: each depends on its rows of the manifest, its raw files as they are now, and its image."""
    plate_folder(job.plate.spec)  # a share that isn't mounted is a fault of the machine: no well is given up for it
    planes = _planes(job)
    return [_item(job, well, planes[planes["well"] == well]) for well in job.wells]


def run(job: Job) -> None:
    """Tile the wells of a part."""
    memory = _Memory()
    run_job(job, lambda: work_items(job), one_by_one(lambda item: tile_well(job, item, memory)))


def _planes(job: Job) -> pd.DataFrame:
    """The manifest's rows of this job's wells."""
    import pandas as pd

    planes = pd.read_parquet(job.paths.planes)
    return planes[planes["well"].isin(job.wells)]  # a part may be empty, which pyarrow's filter refuses


def _item(job: Job, well: str, planes: pd.DataFrame) -> WorkItem[pd.DataFrame]:
    from plateflow.images.well import WellImage

    rows = planes.drop(columns=["size_bytes", "mtime_ns", "state", "reason"]).to_csv(index=False)
    paths, image = planes["path"].drop_duplicates(), WellImage.open(job.paths, well)
    depends = {
        "manifest": digest(rows, job.plate.metadata["bit_max"]),
        "raw files": digest([stat_of(path) for path in paths if path]),
        # ingest replaces an image whose layout changed: what was written is gone then
        "image": digest(image.layout.to_json(), image.generation),
        "parameters": job.parameters(),
    }
    return WorkItem(well=well, depends=depends, data=planes)


@dataclass
class _Pass:
    """What one pass over a well's planes found."""

    statistics: dict[tuple[str, str], PlaneStatistics] = field(default_factory=dict)
    bad: dict[str, PlaneError] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)


class _Memory:
    """Memory of the last block: the system takes longer to give new pages than a block takes to be filled."""

    def __init__(self) -> None:
        self.pixels: NDArray[Any] | None = None

    def zeros(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Like numpy's, where the last such array isn't in use any more."""
        import numpy as np

        size = math.prod(shape)
        if self.pixels is None or self.pixels.dtype != dtype or self.pixels.size < size:
            self.pixels = None  # before there is a second one
            self.pixels = np.empty(size, dtype)
        block = self.pixels[:size].reshape(shape)
        block[...] = 0
        return block


def tile_well(job: Job, item: WorkItem[pd.DataFrame], memory: _Memory) -> Outcome:
    """Write a well's image and statistics, and say which fields are left out."""
    from plateflow.images.histograms import write_histograms
    from plateflow.images.well import WellImage

    paths, well = job.paths, item.well
    image = WellImage.open(paths, well)
    layout = image.layout
    stats = {path: stat_of(path) for path in item.data["path"] if path}  # before they are read: they may be growing
    image.sweep()
    image.clear()
    left_out: dict[str, PlaneError] = {}
    files: set[str] = set()
    while True:
        found = _write(image, item, left_out, memory)
        left_out |= found.bad
        files |= found.files
        if not found.written & set(found.bad):
            break
        # A field turned out bad after a block of it was written, at another t, z or block: once more without it.
        image.clear()
    left_out = {box.name: left_out[box.name] for box in layout.fields if box.name in left_out}
    used = [box.name for box in layout.fields if box.name not in left_out]
    if not used:
        image.clear()
        paths.histogram(well).unlink(missing_ok=True)
        return _all_left_out(left_out, [(file, stats.get(file)) for file in sorted(files)])
    table = {name: [found.statistics[name, channel] for channel in layout.channels] for name in used}
    write_histograms(paths.histogram(well), table, layout.channels, job.plate.metadata["bit_max"])
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


def _write(image: WellImage, item: WorkItem[pd.DataFrame], left_out: dict[str, PlaneError], memory: _Memory) -> _Pass:
    """Read all planes of a well but those of fields known to be bad, and write its image region by region."""
    from plateflow.images.shards import shard_regions

    layout, planes = image.layout, cast(Any, item.data)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {
        (row["field"], row["channel"], row["t"], row["z"]): row for row in planes.to_dict("records")
    }
    parts = shard_regions(layout, image.levels)
    found = _Pass()
    with ThreadPoolExecutor(THREADS) as pool:
        for t in range(layout.shape[0]):
            for z in range(layout.shape[2]):
                if not any(at[2:] == (t, z) for at in rows):
                    continue
                held: dict[tuple[str, str], NDArray[np.generic]] = {}  # what later blocks need, too
                for number, (ys, xs) in enumerate(parts):
                    boxes = [box for box in layout.fields if box.name not in left_out and _meet(box, ys, xs)]
                    boxes.reverse()  # where fields overlap the first is written last
                    places = [(box, c) for box in boxes for c in range(len(layout.channels))]
                    places = [(box, c) for box, c in places if (box.name, layout.channels[c], t, z) in rows]
                    keys = [(box.name, layout.channels[c]) for box, c in places]
                    read = _read([rows[*key, t, z] for key in keys if key not in held], found, pool)
                    later = {box.name for box in boxes if any(_meet(box, *part) for part in parts[number + 1 :])}
                    block = memory.zeros((len(layout.channels), ys.stop - ys.start, xs.stop - xs.start), layout.dtype)
                    for (box, c), key in zip(places, keys, strict=True):
                        pixels = held.pop(key) if key in held else next(read)
                        if pixels is None:
                            continue
                        target, source = _shared(box, ys, xs)
                        block[(c, *target)] = pixels[source]
                        if box.name in later:
                            held[key] = pixels
                    if _take_out(block, boxes, found, ys, xs):
                        image.write_region(t, z, (ys, xs), block, pool.map)
    return found


def _take_out(block: NDArray[Any], boxes: list[FieldBox], found: _Pass, ys: slice, xs: slice) -> bool:
    """Remove from a block what bad fields have left in it; whether a field is left.

    Where a bad field overlaps a good one it counts as written, so that the well is done once more without it.
    """
    good = [box for box in boxes if box.name not in found.bad]
    for box in boxes:
        if box.name in found.bad:
            target, _ = _shared(box, ys, xs)
            block[(slice(None), *target)] = 0
            if any(_meet(box, *other.slices) for other in good):
                found.written.add(box.name)
    found.written.update(box.name for box in good)
    return bool(good)


def _read(wanted: list[dict[str, Any]], found: _Pass, pool: Executor) -> Iterator[NDArray[np.generic] | None]:
    """Decode planes in threads, in order; adds their statistics to `found`, or what is wrong with them: then None."""
    from plateflow.images.histograms import plane_statistics
    from plateflow.plates.pixels import PlaneError
    from plateflow.plates.plate import read_row

    def read(row: dict[str, Any]) -> tuple[NDArray[np.generic], PlaneStatistics] | PlaneError:
        try:
            pixels = read_row(row)
        except PlaneError as error:
            return error
        return pixels, plane_statistics(pixels)

    for row, result in zip(wanted, pool.map(read, wanted), strict=True):
        if isinstance(result, PlaneError):
            found.bad.setdefault(row["field"], result)
            if row["path"]:
                found.files.add(row["path"])
            yield None
            continue
        pixels, statistics = result
        key = row["field"], row["channel"]
        if key in found.statistics:
            found.statistics[key].add(statistics)
        else:
            found.statistics[key] = statistics
        yield pixels


def _meet(box: FieldBox, ys: slice, xs: slice) -> bool:
    return box.y < ys.stop and box.y + box.height > ys.start and box.x < xs.stop and box.x + box.width > xs.start


def _shared(box: FieldBox, ys: slice, xs: slice) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What a field and a block share: as slices (y, x) of the block, and of the field."""
    top, bottom = max(ys.start, box.y), min(ys.stop, box.y + box.height)
    left, right = max(xs.start, box.x), min(xs.stop, box.x + box.width)
    of_block, of_field = (
        (slice(top - y, bottom - y), slice(left - x, right - x)) for y, x in ((ys.start, xs.start), (box.y, box.x))
    )
    return of_block, of_field
