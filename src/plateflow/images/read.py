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

from plateflow.config import PlateflowError
from plateflow.images.illumination import profile
from plateflow.images.layout import Canvas, WellLayout, read_layout
from plateflow.images.store import open_image
from plateflow.paths import PlatePaths
from plateflow.state.stages import digest


@dataclass(frozen=True, kw_only=True)
class Window:
    """The frozen intensity window of a plate and its illumination profiles.

    Attributes:
        plate: id, for messages.
        content: of manifest/window.json.
        profiles: coefficients by channel, see `images.illumination`.
    """

    plate: str
    content: Mapping[str, Any]
    profiles: Mapping[str, NDArray[np.float64]]

    def ends(self, channel: str, *, well: str = "", field: str = "") -> tuple[float, float]:
        """The raw values that become 0 and 1, of a channel; with a scope of wells or fields those of the named one."""
        content = self.content
        tables = (content.get("of_fields", {}).get(well, {}).get(field), content.get("of_wells", {}).get(well))
        found = next((t[channel] for t in (*tables, content["channels"]) if t and channel in t), None)
        if found is None:
            raise PlateflowError(
                f"the intensity window knows no channel {channel!r}",
                where=self.plate,
                why=f"it has {', '.join(content['channels'])}",
                remedy="raise normalise.freeze, so that the window is computed anew",
            )
        return found["low"], found["high"]

    def fingerprint(self, channels: Sequence[str]) -> str:
        """A digest of all that the window and the profiles say of these channels."""
        content = self.content
        return digest(
            [[channel, self.ends(channel), self.profiles[channel].tolist()] for channel in channels],
            {well: [of_well.get(c) for c in channels] for well, of_well in content.get("of_wells", {}).items()},
            {
                well: {name: [of_field.get(c) for c in channels] for name, of_field in of_well.items()}
                for well, of_well in content.get("of_fields", {}).items()
            },
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
    return Window(plate=paths.plate, content=content, profiles=dict(zip(names, coefficients, strict=True)))


def read_canvas(
    paths: PlatePaths, well: str, canvas: Canvas, channels: Sequence[str], *, z_mode: str
) -> NDArray[np.float32]:
    """The pixels of a canvas, raw values divided by the illumination profile of their field and channel.

    Args:
        canvas: one of `images.layout.well_canvases`.
        channels: names.
        z_mode: max, mean, "plane N" or keep (then the canvas's own z). A channel that lacks the plane gives its
            nearest; projections take the planes that a channel has.

    Returns:
        float32 (channel, y, x); 0 where no field lies.

    Raises:
        PlateflowError: the plate has no such channel, or normalise hasn't run.
    """
    layout, image, window = read_layout(paths, well), open_image(paths, well), load_window(paths)
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
        pixels[c] = _project(image["0"], layout, canvas, layout.channels.index(channel), z_mode)
        for number, box in enumerate(canvas.fields):
            ys, xs = slice(box.y - canvas.y, box.y - canvas.y + box.height), slice(box.x - canvas.x, None)
            xs = slice(xs.start, xs.start + box.width)
            light = profile(window.profiles[channel], box.height, box.width)
            np.divide(pixels[c, ys, xs], light, out=pixels[c, ys, xs], where=owner[ys, xs] == number)
        pixels[c, owner < 0] = 0
    return pixels


def _project(array: Any, layout: WellLayout, canvas: Canvas, channel: int, z_mode: str) -> NDArray[np.float32]:
    """One channel of a canvas with its z planes made one, float32 (y, x); one plane is held at a time."""
    planes = layout.z_planes[channel]
    place = (canvas.t, channel)
    if z_mode not in ("max", "mean"):
        wanted = canvas.z if z_mode == "keep" else int(z_mode.split()[1])
        planes = (min(planes, key=lambda z: (abs(z - wanted), z)),)
    total = np.zeros((canvas.height, canvas.width), np.float32)
    for z in planes:
        plane = array[(*place, z, *canvas.slices)]
        if z_mode == "mean":
            total += plane  # exact: below 2^24 for 256 planes of 16 bits
        else:
            np.maximum(total, plane, out=total)
    return total / np.float32(len(planes)) if z_mode == "mean" else total


def normalise(
    pixels: NDArray[np.float32], window: Window, *, channels: Sequence[str], well: str, canvas: Canvas
) -> NDArray[np.float32]:
    """What the network sees of a canvas: 0 and 1 at the ends of the window, not clipped; 0 where no field lies.

    Args:
        pixels: (channel, y, x), of `read_canvas`.
        window: of `load_window`.
        channels, well, canvas: what was read.
    """
    owner = canvas.owner()
    scaled = np.zeros_like(pixels)
    for c, channel in enumerate(channels):
        low, high = (np.full(len(canvas.fields) + 1, 0, np.float32) for _ in range(2))
        for number, box in enumerate(canvas.fields):
            low[number], high[number] = window.ends(channel, well=well, field=box.name)
        high[-1] = 1
        scaled[c] = (pixels[c] - low[owner]) / (high[owner] - low[owner])
        scaled[c, owner < 0] = 0
    return scaled
