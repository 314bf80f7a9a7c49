"""The page of an evaluation: the figures, the curve over the size of objects, and the images that went worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.report.page import render
from plateflow.report.thumbnails import colour, data_url, outlines
from plateflow.train.evaluate import Found, Score

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
    difference: str | None,
) -> str:
    """One HTML file.

    Args:
        data: where the images are from.
        scores: by model, of each source.
        found: by model, what was found in each image.
        curve: model, factor by which images were resized, and the score of all.
        difference: of two models, in words.
    """
    worst = {
        name: [_picture(each) for each in sorted(of_model, key=lambda each: (each.ap[0], each.sample.name))[:WORST]]
        for name, of_model in found.items()
    }
    values = {"data": data, "scores": scores, "curve": curve, "difference": difference, "worst": worst}
    return str(render("evaluation.html.j2", **values, true=TRUE, seen=SEEN))


def _picture(found: Found) -> dict[str, Any]:
    """An image with both outlines, as a data URL, and its figures."""
    sample = found.sample
    labels = sample.labels.astype(np.uint32), found.labels
    top, left = _corner((labels[0] > 0) != (labels[1] > 0))
    part = np.s_[top : top + EDGE, left : left + EDGE]
    pixels = np.clip(sample.image[:, *part], 0, 1)
    picture = np.moveaxis(pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0), 0, -1).copy()
    for of_object, tint in zip(labels, (TRUE, SEEN), strict=True):
        picture[outlines(of_object[part])] = colour(tint)
    tp, fp, fn = (int(count) for count in found.counts[:, 0])
    name = f"{sample.source}: {sample.name}"
    url = data_url((picture * 255).astype(np.uint8))
    return {"name": name, "url": url, "ap": found.ap[0], "found": tp, "false": fp, "missed": fn}


def _corner(wrong: NDArray[np.bool_]) -> tuple[int, int]:
    """Top and left of the part of `EDGE` px that holds the most pixels which differ."""
    best, at = -1, (0, 0)
    for top in range(0, max(1, wrong.shape[0] - EDGE // 2), EDGE // 2):
        for left in range(0, max(1, wrong.shape[1] - EDGE // 2), EDGE // 2):
            count = int(wrong[top : top + EDGE, left : left + EDGE].sum())
            if count > best:
                best, at = count, (top, left)
    return at
