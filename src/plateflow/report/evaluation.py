"""The page of an evaluation: the figures, the curve over the size of objects, and the images that went worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.report.page import render
from plateflow.report.thumbnails import SEEN, TRUE, colour, data_url, outlines
from plateflow.segment.diameter import brightest
from plateflow.train.evaluate import FEW, Found, Score, number

WORST = 12
"""Images that are shown of each model."""
EDGE = 480
"""Px: of larger images, the part with the most objects that were missed or invented is shown."""


def evaluation_page(
    data: str,
    scores: Mapping[str, Sequence[Score]],
    found: Mapping[str, Sequence[Found]],
    curve: Sequence[tuple[str, float, Score]],
    differences: Sequence[tuple[str, str]],
) -> str:
    """One HTML file: scores of sources by model, the curve of model, factor and score, differences by source."""
    worst = {
        name: [_picture(each) for each in sorted(of_model, key=_by_ap)[:WORST]] for name, of_model in found.items()
    }
    values = {"data": data, "scores": scores, "curve": curve, "differences": differences, "worst": worst}
    return str(render("evaluation.html.j2", **values, number=number, few=FEW, colours=(TRUE, SEEN)))


def _by_ap(found: Found) -> tuple[float, str]:
    ap = float(found.ap[0])
    return (2.0 if math.isnan(ap) else ap), found.sample.name  # nothing to find, and nothing found: last


def _picture(found: Found) -> dict[str, Any]:
    """An image with both outlines, as a data URL, and its figures."""
    return {"url": data_url(drawn(found)), **found.as_row()}


def drawn(found: Found, edge: int = EDGE) -> NDArray[np.uint8]:
    """The part of an image that went worst, YXS, at most `edge` px wide, with outlines of labels and of what was found.

    Of two channels the first, of the objects, is shown in grey.
    """
    sample = found.sample
    part = brightest(((sample.labels > 0) != (found.labels > 0)).astype(np.float32), edge)
    pixels = np.clip(sample.image[:, *part], 0, 1)
    picture = np.moveaxis(pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0), 0, -1).copy()
    for of_object, tint in ((sample.labels, TRUE), (found.labels, SEEN)):
        picture[outlines(of_object[part])] = colour(tint)
    return (picture * 255).astype(np.uint8)
