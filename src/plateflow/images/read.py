"""Reading for the later stages: a canvas's pixels corrected for illumination, and the intensity window.

Level 0 holds raw values; what is done to them is done here, on read: the projection of z, the division by the
illumination profile, the window.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import PlateflowError
from plateflow.files import digest
from plateflow.images.histograms import intensity_limits, read_histograms
from plateflow.images.illumination import profile
from plateflow.images.layout import Canvas, WellLayout, read_layout
from plateflow.images.store import open_image
from plateflow.paths import PlatePaths


@dataclass(frozen=True, kw_only=True)
class Window:
    """The frozen intensity window of a plate and its illumination profiles.

    The ends of single wells and fields (`normalise.scope`) follow from their own pixels alone, so they aren't frozen:
    they are computed on read, and the fingerprints of tile know when they change.

    Attributes:
        paths: of the plate.
        content: of manifest/window.json.
        profiles: coefficients by channel, see `images.illumination`.
    """

    paths: PlatePaths
    content: Mapping[str, Any]
    profiles: Mapping[str, NDArray[np.float64]]

    def ends(self, channel: str) -> tuple[float, float]:
        """The raw values that become 0 and 1, over the whole plate."""
        found = self.content["channels"].get(channel)
        if found is None:
            raise PlateflowError(
                f"the intensity window knows no channel {channel!r}",
                where=self.paths.plate,
                why=f"it has {', '.join(self.content['channels'])}",
                remedy="raise normalise.freeze, so that the window is computed anew",
            )
        return found["low"], found["high"]

    def ends_of_fields(self, well: str, channels: Sequence[str], names: Sequence[str]) -> NDArray[np.float32]:
        """The raw values that become 0 and 1 in each field of a well, as `normalise.scope` has it.

        Returns:
            (channel, field, 2): low and high.
        """
        settings, shape = self.content["settings"], (len(channels), len(names), 2)
        if settings["scope"] == "plate":
            plate = np.array([self.ends(channel) for channel in channels], np.float32)
            return np.broadcast_to(plate[:, None], shape)
        found = read_histograms(self.paths, well)
        used = list(dict.fromkeys(name for name, _ in found))
        made = np.empty(shape, np.float32)
        for c, channel in enumerate(channels):
            if settings["scope"] == "well":
                total = np.sum([found[name, channel].counts for name in used], axis=0)
                made[c] = list(intensity_limits(total, settings["percentiles"]).values())
            else:
                for f, name in enumerate(names):
                    made[c, f] = list(intensity_limits(found[name, channel].counts, settings["percentiles"]).values())
        return made

    def fingerprint(self, channels: Sequence[str]) -> str:
        """A digest of all that the window and the profiles say of these channels."""
        settings = self.content["settings"]
        of_plate = {channel: self.ends(channel) for channel in channels}  # refuses channels that it doesn't know
        whole = settings["scope"] == "plate"
        return digest(
            of_plate if whole else [settings["scope"], settings["percentiles"]],
            [self.profiles[channel].tolist() for channel in channels],
        )


def load_window(paths: PlatePaths) -> Window:
    """The intensity window of a plate.

    Raises:
        PlateflowError: normalise hasn't run.
    """
    try:
        content = json.loads(paths.window.read_text())
        with np.load(paths.illumination) as file:
            names, coefficients = file["channels"].tolist(), file["coefficients"]
    except FileNotFoundError as error:
        raise PlateflowError(
            "the plate has no intensity window",
            where=f"{paths.plate}: {error.filename}",
            remedy=f"run `snakemake`; if its receipt is there, `plateflow retry {paths.plate} --stage normalise` first",
        ) from None
    return Window(paths=paths, content=content, profiles=dict(zip(names, coefficients, strict=True)))


def read_canvas(
    paths: PlatePaths, well: str, canvas: Canvas, channels: Sequence[str], *, z_mode: str
) -> NDArray[np.float32]:
    """The pixels of a canvas, raw values divided by the illumination profile of their field and channel.

    Args:
        canvas: one of `images.layout.canvases`.
        channels: names.
        z_mode: max, mean, "plane N" or keep (then the canvas's own z). A channel that lacks the plane gives its
            nearest; projections take the planes that a channel has.

    Returns:
        float32 (channel, y, x); 0 where no field lies. Narrow gaps between fields hold what is at the edge of the
        field above or to the left.

    Raises:
        PlateflowError: the plate has no such channel, or normalise hasn't run.
    """
    layout, image, window = read_layout(paths, well), open_image(paths, well), load_window(paths)
    level0 = image["0"] if layout.preview is None else _InPlace(paths, well, layout, canvas)
    owner = canvas.owner()
    pixels = np.zeros((len(channels), canvas.height, canvas.width), np.float32)
    for c, channel in enumerate(channels):
        if channel not in layout.channels:
            raise PlateflowError(
                f"the plate has no channel {channel!r}",
                where=f"{paths.plate}/{well}",
                why=f"its channels are {', '.join(layout.channels)}",
                remedy="name one of these in the configuration",
            )
        _project(level0, layout, canvas, layout.channels.index(channel), z_mode, pixels[c])
        for number, box in enumerate(canvas.fields):
            ys, xs = slice(box.y - canvas.y, box.y - canvas.y + box.height), slice(box.x - canvas.x, None)
            xs = slice(xs.start, xs.start + box.width)
            light = profile(window.profiles[channel], box.height, box.width)
            np.divide(pixels[c, ys, xs], light, out=pixels[c, ys, xs], where=owner[ys, xs] == number)
    for number, (box, (down, right)) in enumerate(zip(canvas.fields, canvas.reach(), strict=True)):
        top, left = box.y - canvas.y, box.x - canvas.x
        bottom, end = top + box.height, left + box.width
        for ys, xs, edge in (
            (slice(top, bottom), slice(end, end + right), np.s_[:, top:bottom, end - 1 : end]),
            (slice(bottom, bottom + down), slice(left, end + right), np.s_[:, bottom - 1 : bottom, left : end + right]),
        ):
            np.copyto(pixels[:, ys, xs], pixels[edge], where=owner[ys, xs] == number)
    np.copyto(pixels, 0, where=owner < 0)
    return pixels


class _InPlace:
    """Level 0 of a well whose pixels stay in the raw plate: given to `_project` instead of the array."""

    def __init__(self, paths: PlatePaths, well: str, layout: WellLayout, canvas: Canvas) -> None:
        import pandas as pd

        columns = ["field", "channel", "t", "z", "path", "page"]
        rows = pd.read_parquet(paths.planes, columns=columns, filters=[("well", "==", well)])
        self.places = {tuple(row[:4]): (row[4], row[5]) for row in rows.itertuples(index=False)}
        self.layout, self.canvas, self.arrays = layout, canvas, dict[str, Any]()

    def __getitem__(self, at: tuple[int, int, int, slice, slice]) -> NDArray[Any]:
        import zarr

        t, c, z, ys, xs = at
        plane = np.zeros((ys.stop - ys.start, xs.stop - xs.start), self.layout.dtype)
        for box in reversed(self.canvas.fields):  # where fields overlap the first wins
            path, page = self.places.get((box.name, self.layout.channels[c], t, z), ("", 0))
            if path:
                if path not in self.arrays:
                    self.arrays[path] = zarr.open_array(path, mode="r")
                array = self.arrays[path]
                index = tuple(int(n) for n in np.unravel_index(page, array.shape[:-2])) if array.ndim > 2 else ()
                part = (slice(box.y - ys.start, None), slice(box.x - xs.start, None))
                plane[part][: box.height, : box.width] = array[index]
        return plane


def _project(
    array: Any, layout: WellLayout, canvas: Canvas, channel: int, z_mode: str, out: NDArray[np.float32]
) -> None:
    """One channel of a canvas with its z planes made one, into zeros (y, x); one plane is held at a time."""
    planes = layout.z_planes[channel]
    place = (canvas.t, channel)
    if z_mode not in ("max", "mean"):
        wanted = canvas.z if z_mode == "keep" else int(z_mode.split()[1])
        planes = (min(planes, key=lambda z: (abs(z - wanted), z)),)
    for z in planes:
        plane = array[(*place, z, *canvas.slices)]
        if z_mode == "mean":
            out += plane  # exact: below 2^24 for 256 planes of 16 bits
        else:
            np.maximum(out, plane, out=out)
    if z_mode == "mean":
        out /= np.float32(len(planes))


def normalise(
    pixels: NDArray[np.float32], window: Window, *, channels: Sequence[str], well: str, canvas: Canvas
) -> NDArray[np.float32]:
    """What the network sees of a canvas: 0 and 1 at the ends of the window, not clipped; 0 where no field lies.

    Args:
        pixels: (channel, y, x), of `read_canvas`; changed in place, as a canvas can be large.
        window: of `load_window`.
        channels, well, canvas: what was read.

    Returns:
        `pixels`.
    """
    owner = canvas.owner()
    limits = window.ends_of_fields(well, channels, [box.name for box in canvas.fields])
    for number, (box, (down, right)) in enumerate(zip(canvas.fields, canvas.reach(), strict=True)):
        top, left = box.y - canvas.y, box.x - canvas.x
        ys, xs = slice(top, top + box.height + down), slice(left, left + box.width + right)
        mine = owner[ys, xs] == number
        for c in range(len(channels)):
            low, high = limits[c, number]
            part = pixels[c, ys, xs]
            np.subtract(part, low, out=part, where=mine)
            np.divide(part, high - low, out=part, where=mine)
    return pixels
