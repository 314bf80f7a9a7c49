"""The page of `plateflow pilot`: a few raw fields, and what models find in them at several diameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.images.pilot import PilotField
from plateflow.report.page import render
from plateflow.report.thumbnails import GAMMA, OUTLINES, colour, data_url, outlines, shrunk
from plateflow.segment.pilot import Limits, PilotSet

CHANNEL_PX = 384
"""Edge of the pictures of channels."""
OUTLINED_PX = 640
"""Least edge of the pictures with outlines: smaller parts of a field are enlarged by a whole number."""


def pilot_page(
    plate: str,
    *,
    facts: Sequence[str],
    notes: Sequence[str],
    fields: Sequence[PilotField],
    limits: Limits,
    percentiles: tuple[float, float],
    sets: Sequence[PilotSet],
    pixel_um: float | None,
) -> str:
    """One HTML file.

    Args:
        plate: its id.
        facts: about the plate and what is shown of it.
        notes: what couldn't be shown, and why.
        fields: that could be read.
        limits: by channel, the raw values that are shown black and white.
        percentiles: of the fields' pixels that these are.
        sets: the label sets.
        pixel_um: size of a pixel; None where it isn't known.
    """

    def size(px: float | None) -> str:
        if px is None:
            return "as it is"
        return f"{px:.3g} px" + (f" ({px * pixel_um:.3g} µm)" if pixel_um else "")

    channels = [
        {
            "name": name,
            "limits": limits[name],
            "pictures": [_channel(field, name, limits[name]) for field in fields if name in field.planes],
        }
        for name in limits
    ]
    tried = [{"set": each, "rows": _rows(each)} for each in sets]
    values = {"plate": plate, "facts": facts, "notes": notes, "channels": channels, "percentiles": percentiles}
    return str(render("pilot.html.j2", **values, tried=tried, size=size))


def _channel(field: PilotField, channel: str, limits: tuple[float, float]) -> dict[str, Any]:
    """A picture of a channel as it is, and which part of the whole field is saturated."""
    picture = shrunk(_shown(field.planes[channel], limits)[..., None], CHANNEL_PX)
    url = data_url((np.repeat(picture, 3, axis=2) * 255).astype(np.uint8))
    return {"well": field.well, "field": field.name, "url": url, "saturated": field.saturated[channel]}


def _shown(pixels: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.float32]:
    """Pixels as they are shown, from 0 to 1."""
    low, high = limits
    return np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) ** GAMMA


def _rows(tried: PilotSet) -> list[dict[str, Any]]:
    """Field by field, the pictures of all variants."""
    return [
        {
            "field": field,
            "pictures": [
                {"of": v, "url": _outlined(part[0], v.labels[k]), "count": v.counts[k]} for v in tried.variants
            ],
        }
        for k, (field, part) in enumerate(zip(tried.fields, tried.parts, strict=True))
    ]


def _outlined(part: NDArray[np.float32], labels: NDArray[np.uint32]) -> str:
    times = max(1, -(-OUTLINED_PX // max(part.shape)))
    grey = _shown(part, (0.0, 1.0)).repeat(times, 0).repeat(times, 1)
    picture, lines = np.repeat(grey[..., None], 3, axis=2), outlines(labels.repeat(times, 0).repeat(times, 1))
    lines[1:] |= lines[:-1].copy()  # twice as wide: seen on bright cells, too
    lines[:, 1:] |= lines[:, :-1].copy()
    picture[lines] = colour(OUTLINES[0])
    return data_url((picture * 255).astype(np.uint8))
