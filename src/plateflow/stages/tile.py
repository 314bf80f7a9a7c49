"""The stage `tile`: raw planes into level 0 and its pyramid, with their statistics; one well after another.

Reads: the raw plate, manifest/planes.parquet.
Writes: images in plate.zarr, histograms/<well>.npz.
Work item: a well.

Level 0 keeps the raw values. A plane that can't be used sets its whole field aside, with its reason; the well goes on
with the other fields.

A well depends on the pixels of its raw files, by their paths within the raw folder. What tells whether they are as they
were is size and time of each file; where the time alone differs, the pixels are read and compared. So moved or
re-copied raw data redo nothing. A file that was changed without a trace, size and time as before, can't be seen.

Memory holds one region of one image (`images.shards`), used again for the next, and the planes
that regions to come need.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plateflow.files import checksum, digest, take_stamps
from plateflow.images.layout import FieldBox, Region, shared
from plateflow.images.well import WellImage
from plateflow.plates.pixels import PlaneError, camera_tops
from plateflow.plates.raw import RawFolder
from plateflow.plates.reader import plate_folder
from plateflow.stages.ingest import refusal
from plateflow.stages.job import Job, Outcome, WorkItem
from plateflow.stages.runner import one_by_one, run_job
from plateflow.state.journal import Entry, item_key

if TYPE_CHECKING:
    from plateflow.images.histograms import PlaneStatistics

HISTOGRAMS = 2
"""The kind of histograms/<well>.npz. Results whose files are of another kind can't be accepted: nothing reads them."""
THREADS = 2
"""Decode planes, then compress channels: both run outside of Python's lock."""


def work_items(job: Job, *, compare: bool = False) -> list[WorkItem[pd.DataFrame]]:
    """The wells of a part: each depends on its rows of the manifest, its raw files as they are now, and its image.

    Args:
        compare: whether to read the pixels of files of which the time alone has changed; else those have changed.

    Raises:
        RawDataError: the machine is at fault, as where a share isn't mounted: no well is given up for it.
    """
    wells = job.wells  # refuses a plate that isn't ingested
    folder, entries = RawFolder(plate_folder(job.plate.spec)), job.plate.outcomes("tile")
    planes, items = pd.read_parquet(job.paths.planes), []
    for well in wells:
        files = _RawFiles(folder, planes[planes["well"] == well])
        items.append(_item(job, well, files, entries.get(item_key(well)), compare=compare))
    return items


def run(job: Job) -> None:
    """Tile the wells of a part."""
    memory = _Memory()
    run_job(
        job,
        lambda: work_items(job, compare=True),
        one_by_one(lambda item: tile_well(job, item, memory)),
        owned=lambda item: [*job.paths.image(item.well).glob("[0-9]*/c"), job.paths.histogram(item.well)],
    )


def _item(job: Job, well: str, files: _RawFiles, entry: Entry | None, *, compare: bool) -> WorkItem[pd.DataFrame]:
    rows = files.planes.drop(columns=["size_bytes", "mtime_ns", "state", "reason"]).to_csv(index=False)
    image = WellImage.open(job.paths, well)
    known = files.known(entry, _needed(job, image), compare=compare)
    depends = {
        "manifest": digest(rows, job.plate.metadata["bit_max"]),
        "raw files": known[0] if known else files.stats,
        "image": digest(image.layout.to_json(), image.levels),
        "parameters": job.parameters(),
        "histograms": HISTOGRAMS,
    }
    if error := refusal(job.config, image.layout, where=f"{job.plate.name}/{well}"):
        depends["planes"] = str(error)
    return WorkItem(well=well, depends=depends, raw=known[1] if known else None, data=files.planes)


def _needed(job: Job, image: WellImage) -> list[str]:
    """The channels without which a field is left out: of the label sets that the well has; if none, any."""
    sets = [each.channels for each in job.config.segmentation.values() if image.layout.shows(each.channels)]
    return sorted(set().union(*sets)) if sets else []


def _content(raw: Mapping[str, Any], left_out: Collection[str], needed: Collection[str]) -> Any:
    """What a well's results depend on of its raw files: checksums of their pixels, and what is left out for which
    channels.
    """
    crcs = [[name, known and known[2]] for name, known in sorted(raw.items())]
    return crcs, sorted(left_out), *([list(needed)] if left_out else [])


def _records(planes: pd.DataFrame) -> list[dict[str, Any]]:
    records: Any = planes.to_dict("records")
    return records


class _RawFiles:
    """The raw files of a well as they are now, by path: size and time; and the manifest's rows."""

    def __init__(self, folder: RawFolder, planes: pd.DataFrame) -> None:
        self.folder, self.planes = folder, planes
        self.stats = {name: folder.stat(name) for name in planes["path"].drop_duplicates() if name}

    def known(
        self, entry: Entry | None, needed: Collection[str], *, compare: bool
    ) -> tuple[Any, dict[str, Any]] | None:
        """What an entry, which knows the files as they are now, says of them: their content, and `Entry.raw` as of now.

        None where one of them is another. `compare`: the pixels are read of files of which the time alone has changed.
        """
        if entry is None or not entry.fingerprint or entry.raw.keys() != self.stats.keys():
            return None
        raw: dict[str, Any] = {}
        other = []
        for name, stat in self.stats.items():
            known = entry.raw[name]
            if stat != (known and known[:2]):
                if not (compare and stat and known and known[2] and stat[0] == known[0]):
                    return None
                other.append(name)
            raw[name] = stat and [*stat, known[2]]
        planes = self.planes[self.planes["path"].isin(other) & ~self.planes["field"].isin(entry.fields)]
        if other and _checksums(other, planes, self._read(planes)) != {name: raw[name][2] for name in other}:
            return None
        return _content(raw, entry.fields, needed), raw

    def _read(self, planes: pd.DataFrame) -> dict[tuple[str, int], str]:
        """The checksums of planes, by path and page; without those that can't be read."""

        def read(row: dict[str, Any]) -> str:
            try:
                return _checksum(self.folder.read(row))
            except PlaneError:
                return ""

        rows = _records(planes)
        with ThreadPoolExecutor(THREADS) as pool:
            return {(row["path"], row["page"]): crc for row, crc in zip(rows, pool.map(read, rows), strict=True) if crc}


def _checksum(pixels: NDArray[Any]) -> str:
    return checksum(np.ascontiguousarray(pixels))


def _checksums(names: Iterable[str], planes: pd.DataFrame, known: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    """The checksum of each file: that of its one plane, or of those of all that are known; None where none is."""
    pages: dict[str, list[int]] = {name: [] for name in names}
    for name, page in sorted({(row["path"], row["page"]) for row in _records(planes) if row["path"] in pages}):
        pages[name].append(page)
    sums: dict[str, Any] = {}
    for name, of_file in pages.items():
        crcs = [f"{page}:{known[name, page]}" for page in of_file if (name, page) in known]
        sums[name] = checksum(" ".join(crcs).encode()) if crcs else None
    return sums


class _Memory:
    """Memory of the last block: the system takes longer to give new pages than a block takes to be filled."""

    def __init__(self) -> None:
        self.pixels: NDArray[Any] | None = None

    def zeros(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Like numpy's, where the last such array isn't in use any more."""
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

    paths, well = job.paths, item.well
    image = WellImage.open(paths, well)
    layout = image.layout
    if error := refusal(job.config, layout, where=f"{job.plate.name}/{well}"):
        return Outcome(state="quarantined", reason="z_planes", detail=f"{error.what}: {error.why}")
    folder = RawFolder(paths.raw)
    stats = _RawFiles(folder, item.data).stats  # before they are read: they may be growing
    needed = set(_needed(job, image)) or set(layout.channels)
    unusable: dict[tuple[str, str], PlaneError] = {}
    files: set[str] = set()
    while True:
        # A field may turn out bad after a region of it was written, at another t or z: then once more without it.
        take_stamps()
        attempt = _Pass(folder, image, item.data, unusable, needed, memory)
        attempt.run()
        unusable |= attempt.bad
        files |= attempt.files
        if not attempt.written & {name for name, _ in attempt.bad}:
            break
    bad = {name: error for (name, channel), error in reversed(unusable.items()) if channel in needed}
    bad = {box.name: bad[box.name] for box in layout.fields if box.name in bad}
    used = [box.name for box in layout.fields if box.name not in bad]
    lacking = {name: [channel for channel in layout.channels if (name, channel) in unusable] for name in used}
    lacking = {name: channels for name, channels in lacking.items() if channels}
    sums = _checksums(stats, item.data[~item.data["field"].isin(bad)], attempt.checksums)
    raw: dict[str, Any] = {name: stat and [*stat, sums[name]] for name, stat in stats.items()}
    common: dict[str, Any] = {"raw": raw, "watch": [(str(folder.path(name)), stats[name]) for name in sorted(files)]}
    told = bad | {f"{name} ({each})": unusable[name, each] for name, channels in lacking.items() for each in channels}
    common["fields"] = {name: error.reason for name, error in told.items()}
    common["learned"] = {"raw files": _content(raw, told, _needed(job, image))}
    if not used:
        take_stamps()
        reason, n = Counter(error.reason for error in bad.values()).most_common(1)[0]
        detail = next(error.detail for error in bad.values() if error.reason == reason)
        common |= {"state": "missing" if (reason, n) == ("missing", len(bad)) else "quarantined", "reason": reason}
        return Outcome(detail=f"no field can be used: {detail}", **common)
    table = {
        name: [None if (name, each) in unusable else attempt.statistics[name, each] for each in layout.channels]
        for name in used
    }
    tops = camera_tops(job.plate.metadata)
    write_histograms(paths.histogram(well), table, {channel: tops[channel] for channel in layout.channels})
    info: dict[str, Any] = {"fields": len(used)} | ({"lacking": lacking} if lacking else {})
    if not told:
        return Outcome(info=info, **common)
    detail = "; ".join(f"field {name}: {error.detail}" for name, error in told.items())
    return Outcome(state="flagged", reason="fields", detail=detail, info=info, **common)


class _Pass:
    """One pass over a well: reads its planes, writes its image region by region, and collects what it learns.

    Attributes:
        statistics: by field and channel.
        bad: why a channel of a field can't be used; what was known to be bad before isn't read, and isn't here.
        files: those of what is bad.
        checksums: of the planes that could be read, by path and page.
        written: fields of which something was written.
    """

    def __init__(
        self,
        folder: RawFolder,
        image: WellImage,
        planes: pd.DataFrame,
        known: Collection[tuple[str, str]],
        needed: Collection[str],
        memory: _Memory,
    ) -> None:
        self.folder, self.image, self.layout, self.memory = folder, image, image.layout, memory
        self.rows: dict[tuple[str, str, int, int], dict[str, Any]] = {
            (row["field"], row["channel"], row["t"], row["z"]): row
            for row in _records(planes)
            if (row["field"], row["channel"]) not in known
        }
        self.needed = needed
        self.fields = [box for box in self.layout.fields if not any((box.name, name) in known for name in needed)]
        self.fields.reverse()  # where fields overlap the first is written last
        self.statistics: dict[tuple[str, str], PlaneStatistics] = {}
        self.bad: dict[tuple[str, str], PlaneError] = {}
        self.files: set[str] = set()
        self.checksums: dict[tuple[str, int], str] = {}
        self.written: set[str] = set()

    def run(self) -> None:
        """Do all planes."""
        planes = {key[2:] for key in self.rows}
        with ThreadPoolExecutor(THREADS) as pool:
            for t in range(self.layout.shape[0]):
                for z in range(self.layout.shape[2]):
                    if (t, z) in planes:
                        self._plane(t, z, pool)

    def _plane(self, t: int, z: int, pool: Executor) -> None:
        from plateflow.images.shards import shard_regions

        held: dict[tuple[str, str], NDArray[np.generic]] = {}  # what later regions need, too
        regions = [
            (region, boxes)
            for region in shard_regions(self.layout, self.image.levels)
            if (boxes := [box for box in self.fields if shared(box.slices, region)])
        ]
        with self.image.writing(t, z, pool.map) as write:
            for number, (region, boxes) in enumerate(regions):
                later = {box.name for box in boxes if any(box in others for _, others in regions[number + 1 :])}
                block = self._block(t, z, region, boxes, later, held, pool)
                if self._take_out(block, boxes, region):
                    write(region, block)

    def _block(
        self,
        t: int,
        z: int,
        region: Region,
        boxes: list[FieldBox],
        later: set[str],
        held: dict[tuple[str, str], NDArray[np.generic]],
        pool: Executor,
    ) -> NDArray[Any]:
        """The pixels (c, y, x) of a region; planes of the fields in `later` are put into `held`."""
        ys, xs = region
        channels = self.layout.channels
        places = [
            (box, c, (box.name, channels[c]))
            for box in boxes
            for c in range(len(channels))
            if (box.name, channels[c], t, z) in self.rows
        ]
        read = self._read([self.rows[*key, t, z] for _, _, key in places if key not in held], pool)
        block = self.memory.zeros((len(channels), ys.stop - ys.start, xs.stop - xs.start), self.layout.dtype)
        for box, c, key in places:
            pixels = held.pop(key) if key in held else next(read)
            if pixels is not None and (part := shared(region, box.slices)):
                target, source = part
                block[(c, *target)] = pixels[source]
                if box.name in later:
                    held[key] = pixels
        return block

    def _take_out(self, block: NDArray[Any], boxes: list[FieldBox], region: Region) -> bool:
        """Remove from a block what bad fields have left in it; whether a field is left.

        Where a bad field overlaps a good one it counts as written, so that the well is done once more without it; so
        does one that goes on without a channel.
        """
        gone = {name for name, channel in self.bad if channel in self.needed}
        good = [box for box in boxes if box.name not in gone]
        for box in boxes:
            if box.name in gone and (part := shared(region, box.slices)):
                block[(slice(None), *part[0])] = 0
                if any(shared(box.slices, other.slices) for other in good):
                    self.written.add(box.name)
        self.written.update(box.name for box in good)
        return bool(good)

    def _read(self, rows: list[dict[str, Any]], pool: Executor) -> Iterator[NDArray[np.generic] | None]:
        """Decode planes in threads, in order, and collect their statistics; None where a plane can't be used."""
        from plateflow.images.histograms import plane_statistics

        def read(row: dict[str, Any]) -> tuple[NDArray[np.generic], PlaneStatistics, str] | PlaneError:
            try:
                pixels = self.folder.read(row)
            except PlaneError as error:
                return error
            crc, pixels = _checksum(pixels), pixels.astype(self.layout.dtype, copy=False)
            return pixels, plane_statistics(pixels), crc

        for row, result in zip(rows, pool.map(read, rows), strict=True):
            if isinstance(result, PlaneError):
                self.bad.setdefault((row["field"], row["channel"]), result)
                if row["path"]:
                    self.files.add(row["path"])
                yield None
                continue
            pixels, statistics, self.checksums[row["path"], row["page"]] = result
            key = row["field"], row["channel"]
            if key in self.statistics:
                self.statistics[key].add(statistics)
            else:
                self.statistics[key] = statistics
            yield pixels
