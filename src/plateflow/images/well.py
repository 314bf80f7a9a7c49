"""The image of a well, opened once: its pixels and labels, read and written.

Level 0 holds raw values; they are processed here, on read: the projection of z, the correction for illumination,
the intensity window.

Jobs with nothing to do open images too, so zarr and what compiles kernels are imported on use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as attribute
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import ChannelError, RawDataError, ResultsError
from plateflow.images.canvas import Canvas, canvases
from plateflow.images.depth import planes_read, project
from plateflow.images.layout import FieldBox, Region, WellLayout, grid, halved, shared
from plateflow.images.window import Window, load_window
from plateflow.paths import PlatePaths
from plateflow.plates.pixels import PILE_PX, PlaneError
from plateflow.plates.raw import RawFolder

if TYPE_CHECKING:
    from plateflow.images.shards import Level, Map


@dataclass(frozen=True, kw_only=True)
class WellImage:
    """The image of a well in the plate's store.

    Opening it reads its metadata alone; arrays, intensity window and raw plate are opened once, when they are needed.

    Attributes:
        levels: how many the pyramid of labels has, and that of pixels unless these stay in the raw plate.
        lacking: by field in use, the channels that tile set aside in it, as no label set needs them.
    """

    paths: PlatePaths
    well: str
    layout: WellLayout
    levels: int
    lacking: Mapping[str, Collection[str]] = attribute(default_factory=dict, compare=False)
    _levels: dict[int, Any] = attribute(default_factory=dict, init=False, compare=False)
    _held: dict[tuple[int, int, str, int], Any] = attribute(default_factory=dict, init=False, compare=False)
    _pyramids: dict[str, list[Level]] = attribute(default_factory=dict, init=False, compare=False)

    @classmethod
    def open(cls, paths: PlatePaths, well: str, lacking: Mapping[str, Collection[str]] | None = None) -> WellImage:
        """Open the image of a well.

        Raises:
            ResultsError: ingest has not made it.
        """
        folder = paths.image(well)
        try:
            own = json.loads((folder.parent / "zarr.json").read_text())["attributes"]["plateflow"]  # by `create_plate`
            layout, levels = own["layout"], own["levels"]
        except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, ValueError):
            where = f"{paths.plate}/{well}: {folder}"
            remedy = "run `snakemake`; ingest makes it"
            raise ResultsError("the well has no image", where=where, remedy=remedy) from None
        return cls(paths=paths, well=well, layout=WellLayout.from_json(layout), levels=levels, lacking=lacking or {})

    def _folder(self, label_set: str = "") -> Path:
        """The folder of the image, or of a label set."""
        image = self.paths.image(self.well)
        return image / "labels" / label_set if label_set else image

    def array(self, name: str) -> Any:
        """A zarr.Array of the image, for reading: level "0", "1", ... or "labels/<name>/0", ...

        Each says all of itself: what its groups say is for viewers.
        """
        import zarr

        path = self._folder() / name
        try:
            return zarr.open_array(path, mode="r", zarr_format=3)
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(
                "the metadata of a well's image can't be read",
                where=f"{self.paths.plate}/{self.well}: {path / 'zarr.json'}",
                why=f"{type(error).__name__}: {error}",
                remedy=f"`plateflow retry {self.paths.plate} --stage ingest`, then `snakemake`, writes them anew",
            ) from error

    @cached_property
    def window(self) -> Window:
        """The plate's intensity window."""
        return load_window(self.paths)

    def read(self, canvas: Canvas, channels: Sequence[str], z_mode: str) -> NDArray[np.float32]:
        """The pixels of a canvas: raw values corrected by the illumination of their field and channel.

        Args:
            z_mode: as for `planes_read`; with keep, the canvas's own z.

        Returns:
            float32 (channel, [z,] y, x); 0 where no field lies, NaN where one lacks the channel. Narrow gaps between
            fields hold what is at the edge of the field above or to the left.

        Raises:
            ChannelError: the well lacks a channel.
            ConfigError: a channel lacks the plane.
            ResultsError: normalise has not run.
        """
        if not set(channels) <= set(self.layout.channels):
            where, remedy = f"{self.paths.plate}/{self.well}", "name one of these in the configuration"
            raise ChannelError.missing(channels, self.layout.channels, where=where, remedy=remedy)
        owner, regions = canvas.owner(), canvas.regions()
        pixels = np.zeros((len(channels), canvas.depth or 1, canvas.height, canvas.width), np.float32)
        for c, channel in enumerate(channels):
            for k, plane in enumerate(canvas.planes()):
                planes = self._planes(channel, z_mode, plane.z, canvas.t)
                project((self._raw(plane, channel, z) for z in planes), z_mode, pixels[c, k])
            for field, (ys, xs) in enumerate(regions):
                part, box = pixels[c, :, ys, xs], canvas.fields[field]
                light = self.window.lights[channel]
                light.correct(part, light.profile(box.height, box.width), owner[ys, xs] == field)
        for field, ((ys, xs), (far_ys, far_xs)) in enumerate(zip(regions, canvas.regions(with_gaps=True), strict=True)):
            right, below = slice(xs.stop, far_xs.stop), slice(ys.stop, far_ys.stop)
            edge = pixels[..., ys, xs.stop - 1 : xs.stop]
            np.copyto(pixels[..., ys, right], edge, where=owner[ys, right] == field)
            edge = pixels[..., ys.stop - 1 : ys.stop, far_xs]
            np.copyto(pixels[..., below, far_xs], edge, where=owner[below, far_xs] == field)
        np.copyto(pixels, 0, where=owner < 0)
        for field, box in enumerate(canvas.fields):
            for c in (c for c, channel in enumerate(channels) if channel in self.lacking.get(box.name, ())):
                np.copyto(pixels[c], np.nan, where=owner == field)
        return pixels[:, 0] if canvas.depth is None else pixels

    def clipped(self, canvas: Canvas, channels: Sequence[str], z_mode: str) -> NDArray[np.bool_] | None:
        """Where the camera was saturated in some channel and some plane that is read: ([z,] y, x); None: nowhere.

        A field with fewer such pixels than make a pile has none: a hot pixel is no reason to read it again.
        """
        from plateflow.images.histograms import read_histograms

        found, regions = None, canvas.regions()
        histograms = read_histograms(self.paths, self.well)
        for channel in channels:
            tops = [
                each.top if each and each.counts[each.top :].sum() >= PILE_PX else np.inf
                for each in (histograms.get((box.name, channel)) for box in canvas.fields)
            ]
            if np.isinf(tops).all():
                continue
            found = np.zeros((canvas.depth or 1, canvas.height, canvas.width), bool) if found is None else found
            for k, plane in enumerate(canvas.planes()):
                brightest = np.zeros(found.shape[1:], np.float32)
                planes = self._planes(channel, z_mode, plane.z, canvas.t)
                project((self._raw(plane, channel, z) for z in planes), "max", brightest)
                for top, region in zip(tops, regions, strict=True):
                    found[(k, *region)] |= brightest[region] >= top
        return found if found is None or canvas.depth else found[0]

    def apply_window(self, pixels: NDArray[np.float32], canvas: Canvas, channels: Sequence[str]) -> NDArray[np.float32]:
        """What the network sees of a canvas: 0 and 1 at the limits of the window, not clipped; 0 where no field lies.

        `pixels`, (channel, [z,] y, x) from `read`, are changed in place, as a canvas can be large.
        """
        owner = canvas.owner()
        limits = self.window.limits_of_fields(self.well, channels, [box.name for box in canvas.fields])
        for field, (ys, xs) in enumerate(canvas.regions(with_gaps=True)):
            own = owner[ys, xs] == field
            for c in range(len(channels)):
                low, high = limits[c, field]
                part = pixels[c, ..., ys, xs]
                np.subtract(part, low, out=part, where=own)
                np.divide(part, high - low, out=part, where=own)
        return pixels

    def labels(self, label_set: str, canvas: Canvas) -> NDArray[np.uint32]:
        """The labels ([z,] y, x) in a canvas's box, at full size; those of other canvases in the box included."""
        planes = canvas.z if canvas.depth is None else slice(canvas.z, canvas.z + canvas.depth)
        labels: NDArray[np.uint32] = self.array(f"labels/{label_set}/0")[(canvas.t, planes, *canvas.slices)]
        return labels

    def preview_level(self, edge_px: int) -> int:
        """The level of the pyramid for a picture: the smallest whose longer side has `edge_px`, else 0.

        Where the pixels stay in the raw plate, the level of the store's preview, or the last one of the labels.
        """
        if self.layout.preview is not None and not self.layout.scattered:
            return min(self.layout.preview, self.levels - 1)
        longer = max(self._picture(0)[0])
        return max((level for level in range(self.levels) if longer >> level >= edge_px), default=0)

    def preview(
        self, level: int, fields: Sequence[FieldBox], channels: Sequence[str], z_mode: str, t: int
    ) -> NDArray[np.float32]:
        """A picture of the image at a level of the pyramid, at a time point, corrected for illumination.

        Where fields are scattered, each group that touches is drawn beside the next: in place they would be dots.

        `fields` and `z_mode` as for `region`; with keep the middle plane is shown. Returns float32 (channel, y, x).
        """
        size, _, moves = self._picture(level)
        pixels, middle = np.full((len(channels), *size), np.nan, np.float32), self.layout.label_shape(z_mode)[1] // 2
        for box in reversed(fields):
            own, (down, right) = halved(box.slices, level), moves[box.name]
            part = self.region(level, own, [box], channels, z_mode, t, z=middle, enlarged=True)
            top, left = own[0].start + down, own[1].start + right
            pixels[:, top : top + part.shape[1], left : left + part.shape[2]] = part
        return pixels

    def region(
        self,
        level: int,
        region: Region,
        fields: Sequence[FieldBox],
        channels: Sequence[str],
        z_mode: str,
        t: int,
        *,
        z: int = 0,
        light: bool = True,
        enlarged: bool = False,
    ) -> NDArray[np.float32]:
        """A region of the image at a level of the pyramid, at a time point.

        Args:
            region: in px of the level.
            fields: those to show; where they overlap the first wins.
            z_mode: as for `read`; `z` is the plane that is read with keep.
            light: whether it is corrected for illumination.
            enlarged: take pixels that stay in the raw plate from the store's preview, at levels below its own, too.

        Returns:
            float32 (channel, y, x); NaN where none of the fields lies, or the one there lacks the channel.
        """
        size = [side.stop - side.start for side in region]
        pixels = np.full((len(channels), *size), np.nan, np.float32)
        for box in reversed(fields):
            own = halved(box.slices, level)
            if not (both := shared(region, own)):
                continue
            (here, within), sides = both, [side.stop - side.start for side in own]
            for c, channel in enumerate(channels):
                part = np.zeros_like(pixels[(c, *here)])
                planes = self._planes(channel, z_mode, z, t)
                project((self._small(level, t, channel, k, box, within, enlarged) for k in planes), z_mode, part)
                if light:
                    own_light = self.window.lights[channel]
                    own_light.correct(part, own_light.profile(*sides)[within], True)
                pixels[(c, *here)] = np.nan if channel in self.lacking.get(box.name, ()) else part
        return pixels

    def preview_labels(self, level: int, label_set: str, t: int) -> NDArray[np.uint32]:
        """The labels (y, x) that belong to `preview`."""
        array = self.array(f"labels/{label_set}/{level}")
        size, parts, _ = self._picture(level)
        labels = np.zeros(size, np.uint32)
        for (ys, xs), (top, left) in parts:
            part = array[t, array.shape[1] // 2, ys, xs]
            labels[top : top + part.shape[0], left : left + part.shape[1]] = part
        return labels

    def _picture(
        self, level: int
    ) -> tuple[tuple[int, int], list[tuple[Region, tuple[int, int]]], dict[str, tuple[int, int]]]:
        """How a picture of the image is made at a level: its height and width, the regions that it shows with their
        corners in it, and how far down and to the right each field moves; all in px of the level.
        """
        if not self.layout.scattered:
            height, width = (math.ceil(side / 2**level) for side in self.layout.shape[-2:])
            whole = slice(0, height), slice(0, width)
            return (height, width), [(whole, (0, 0))], {box.name: (0, 0) for box in self.layout.fields}
        groups = [canvas for canvas in canvases(self.layout, (), "max") if canvas.t == 0]
        regions = [halved(canvas.slices, level) for canvas in groups]
        tallest, widest = (max(side.stop - side.start for side in sides) for sides in zip(*regions, strict=True))
        corners = grid(len(groups), tallest, widest)
        moves = {
            box.name: (y - ys.start, x - xs.start)
            for canvas, (ys, xs), (y, x) in zip(groups, regions, corners, strict=True)
            for box in canvas.fields
        }
        size = max(y for y, _ in corners) + tallest, max(x for _, x in corners) + widest
        return size, list(zip(regions, corners, strict=True)), moves

    def _planes(self, channel: str, z_mode: str, z: int, t: int) -> Sequence[int]:
        return planes_read(self.layout, channel, z_mode, z, t=t, where=f"{self.paths.plate}/{self.well}")

    def _raw(self, canvas: Canvas, channel: str, z: int) -> NDArray[Any]:
        """Raw values of a plane in a canvas's box; of an image in place, those of the canvas's fields alone."""
        if self.layout.preview is None:
            return self._stored(0, canvas.t, channel, z, canvas.slices)
        pixels = np.zeros((canvas.height, canvas.width), self.layout.dtype)
        for box, region in reversed(list(zip(canvas.fields, canvas.regions(), strict=True))):  # the first wins
            row = self._raw_planes.get((box.name, channel, canvas.t, z))
            if row is None or not row["path"] or channel in self.lacking.get(box.name, ()):
                continue
            try:
                pixels[region] = self._raw_folder.read(row)
            except PlaneError as error:
                raise RawDataError(
                    "a raw plane that was sound can't be read any more",
                    where=f"{self.paths.plate}/{self.well} field {box.name}: {self._raw_folder.path(row['path'])}",
                    why=error.detail,
                    remedy="`plateflow check`, then `snakemake`",
                ) from error
        return pixels

    @cached_property
    def _raw_planes(self) -> dict[tuple[str, str, int, int], dict[str, Any]]:
        """The manifest's rows, by field, channel, t and z."""
        import pandas as pd

        rows: Any = pd.read_parquet(self.paths.planes, filters=[("well", "==", self.well)]).to_dict("records")
        return {(row["field"], row["channel"], row["t"], row["z"]): row for row in rows}

    @cached_property
    def _raw_folder(self) -> RawFolder:
        return RawFolder(self.paths.raw)

    def _small(
        self, level: int, t: int, channel: str, z: int, box: FieldBox, within: Region, enlarged: bool
    ) -> NDArray[Any]:
        """A region of a field, of one plane at a level and a time point.

        An image in place has one level; where that isn't to be enlarged, or holds but dots, the raw plane is read.
        """
        corner = [side.start for side in halved(box.slices, level)]
        rows, columns = (slice(at + part.start, at + part.stop) for at, part in zip(corner, within, strict=True))
        if self.layout.preview is None:
            key = level, t, channel, z
            if not enlarged or self.layout.scattered:
                return self._stored(*key, (rows, columns))
            if key not in self._held:  # chunks lie across fields, which are all shown: each is decoded once
                self._held[key] = self._stored(*key, np.s_[:, :])
            return self._held[key][rows, columns]
        steps = self.layout.preview - level
        if self.layout.scattered or (steps > 0 and not enlarged):
            from plateflow.images.shards import halve_mean

            place = {"y": box.y, "x": box.x, "height": box.height, "width": box.width}
            pixels = self._raw(Canvas(index=0, t=t, z=z, **place, fields=(box,)), channel, z)
            for _ in range(level):
                pixels = halve_mean(pixels)
            return pixels[within]
        enlarging = np.ix_(*(np.arange(side.start, side.stop) >> steps for side in (rows, columns)))
        return self._stored(0, t, channel, z, np.s_[:, :])[enlarging]

    def _stored(self, level: int, t: int, channel: str, z: int, region: Region) -> NDArray[Any]:
        if level not in self._levels:
            self._levels[level] = self.array(str(level))  # parses metadata: once, not once per plane
        pixels: NDArray[Any] = self._levels[level][(t, self.layout.channels.index(channel), z, *region)]
        return pixels

    def _pyramid(self, label_set: str = "") -> list[Level]:
        """Where and how the shards of each level are written, of the image or of a label set."""
        from plateflow.images.shards import Level

        if label_set not in self._pyramids:
            folder, prefix = self._folder(label_set), f"labels/{label_set}/" if label_set else ""
            levels = self.levels if label_set or self.layout.preview is None else 1
            self._pyramids[label_set] = [Level.of(folder / str(n), self.array(f"{prefix}{n}")) for n in range(levels)]
        return self._pyramids[label_set]

    @contextmanager
    def writing(self, t: int, z: int, run: Map = map) -> Iterator[Callable[[Region, NDArray[Any]], None]]:
        """Write a plane of all channels, region by region: whole shards, one per level of the pyramid.

        Args:
            run: how the channels are compressed, such as a pool's `map`.

        Yields:
            writes a region: (y, x) at level 0, one of `images.shards.shard_regions`, and its pixels (c, y, x).
        """
        from plateflow.images.shards import halve_mean, write_shards

        levels, steps = self._pyramid(), self.layout.preview
        if steps is None:
            yield lambda region, pixels: write_shards(
                levels, (t, 0, z), (region[0].start, region[1].start), pixels, run
            )
            return
        small = np.zeros((len(self.layout.channels), *levels[0].size), self.layout.dtype)

        def shrink(region: Region, pixels: NDArray[Any]) -> None:
            for _ in range(steps):
                pixels = halve_mean(pixels)
            top, left = (side.start >> steps for side in region)  # corners of regions are 0, or multiples of more
            small[:, top : top + pixels.shape[-2], left : left + pixels.shape[-1]] = pixels

        yield shrink
        if small.any():
            write_shards(levels, (t, 0, z), (0, 0), small, run)

    def write_labels(self, label_set: str, t: int, z: int, labels: Iterable[tuple[Canvas, Any]]) -> None:
        """Write all labels of one t and z, and their pyramid; where no canvas has one there is no shard.

        They are given as canvases of this t and z with uint32 (y, x), or an object that yields regions of that. Where
        the boxes of two canvases overlap (their fields do not) labels win over 0.
        """
        from plateflow.images.shards import write_label_shards

        canvases = list(labels)

        def paint(region: Region) -> NDArray[np.uint32] | None:
            pixels = None
            for canvas, values in canvases:
                if both := shared(region, canvas.slices):
                    if pixels is None:
                        pixels = np.zeros([side.stop - side.start for side in region], np.uint32)
                    new = values[both[1]]
                    np.copyto(pixels[both[0]], new, where=new > 0)
            return pixels

        write_label_shards(self._pyramid(label_set), (t, z), paint)
