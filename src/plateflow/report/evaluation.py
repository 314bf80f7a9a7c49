"""The page of an evaluation: the figures, the curve over the size of objects, and the images that went worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.report.page import render
from plateflow.report.thumbnails import colour, data_url, outlines
from plateflow.train.evaluate import FEW, Found, Score, number

WORST = 12
"""Images that are shown of each model."""
EDGE = 480
"""Px: of larger images, the part with the most objects that were missed or invented is shown."""
TRUE, SEEN = "#ffb000", "#3fd0ff"


def evaluation_page(
    data: str,
    scores: Mapping[str, Sequence[Score]],
    found: Mapping[str, Sequence[Found]],
    curve: Sequence[tuple[str, float, Score]],
    differences: Sequence[tuple[str, str]],
) -> str:
    """One HTML file.

    Args:
        data: where the images are from.
        scores: by model, of each source.
        found: by model, what was found in each image.
        curve: model, factor by which images were resized, and the score of all.
        differences: of two models, by source, in words.
    """
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
    tp, fp, fn = found.counts[:, 0].tolist()
    figures = {"ap": found.ap[0], "found": tp, "false": fp, "missed": fn, "merged": found.merged, "split": found.split}
    return {"name": f"{found.sample.source}: {found.sample.name}", "url": data_url(drawn(found)), **figures}


def drawn(found: Found, edge: int = EDGE) -> NDArray[np.uint8]:
    """The part of an image that went worst, YXS, at most `edge` px wide, with outlines of labels and of what was found.

    Of two channels the first, of the objects, is shown in grey.
    """
    sample = found.sample
    top, left = _corner((sample.labels > 0) != (found.labels > 0), edge)
    part = np.s_[top : top + edge, left : left + edge]
    pixels = np.clip(sample.image[:, *part], 0, 1)
    picture = np.moveaxis(pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0), 0, -1).copy()
    for of_object, tint in ((sample.labels, TRUE), (found.labels, SEEN)):
        picture[outlines(of_object[part])] = colour(tint)
    return (picture * 255).astype(np.uint8)


def _corner(wrong: NDArray[np.bool_], edge: int) -> tuple[int, int]:
    """Top and left of the part of `edge` px, within the image where it fits, that holds the most pixels that differ."""
    best, at = -1, (0, 0)
    lasts = [max(0, side - edge) for side in wrong.shape]
    tops, lefts = ([*range(0, last, max(1, edge // 2)), last] for last in lasts)
    for top in tops:
        for left in lefts:
            count = int(wrong[top : top + edge, left : left + edge].sum())
            if count > best:
                best, at = count, (top, left)
    return at
