"""What a training shows: a picture of crops before it, and its page with losses and examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from plateflow.flows import labels_from_flows
from plateflow.model import load_model
from plateflow.report.charts import vega
from plateflow.report.page import render
from plateflow.report.thumbnails import SEEN, TRUE, colour, data_url, outlines
from plateflow.tables import read_rows
from plateflow.train.augment import Crop
from plateflow.train.batches import ENDLESS, Batches
from plateflow.train.loop import FLOW_SCALE, Terms

ROWS, COLUMNS = 4, 3
"""Of the preview."""
EXAMPLES = 6
"""Crops that the page shows; their numbers follow those that a training can reach."""


def preview_picture(batches: Batches) -> bytes:
    """The first crops of a run as PNG: beside each, where its target flows, by hue; outlines are the target's."""
    import imagecodecs

    rows = []
    for row in range(ROWS):
        crops = [batches.crop(row * COLUMNS + column) for column in range(COLUMNS)]
        pairs = [(_outlined(crop, (_labels(crop.target), TRUE)), _hues(crop.target)) for crop in crops]
        rows.append(np.concatenate([np.pad(each, ((2, 2), (2, 2), (0, 0))) for pair in pairs for each in pair], axis=1))
    picture: Any = imagecodecs.png_encode((np.concatenate(rows) * 255).astype(np.uint8))
    return bytes(picture)


def training_page(folder: Path, name: str, batches: Batches, terms: Terms, *, device: str) -> str:
    """The page of a run, from its log and the weights of its last checkpoint.

    Examples are crops that it doesn't train on, computed on the device.
    """
    rows = read_rows(folder / "log.csv")
    crops = [batches.crop(ENDLESS + number) for number in range(EXAMPLES)]
    images = torch.from_numpy(np.stack([crop.image for crop in crops])).to(device)
    model = load_model(folder / f"{name}.safetensors", device=device)
    with torch.inference_mode():
        output = torch.cat([model(image[None]) for image in images]).float().cpu().numpy()
    pictures = []
    for crop, found in zip(crops, output, strict=True):
        both = (_labels(crop.target), TRUE), (labels_from_flows(found[:2], found[2]), SEEN)
        counts = [int(labels.max(initial=0)) for labels, _ in both]
        url = data_url((_outlined(crop, *both) * 255).astype(np.uint8))
        pictures.append({"url": url, "true": counts[0], "found": counts[1]})
    values: dict[str, Any] = {"name": name, "terms": terms, "last": rows[-1] if rows else None, "pictures": pictures}
    values |= {"recipe": batches.recipe, "chart": _chart(rows, name), "labelled": TRUE, "seen": SEEN}
    values["fields"] = {key: value for key, value in batches.recipe.as_dict().items() if key != "networks"}
    return str(render("training.html.j2", **values))


def _chart(rows: list[dict[str, str]], name: str) -> Markup:
    """Loss and learning rate over the steps, as SVG."""
    import altair as alt
    import vl_convert

    points = [{"step": int(row["step"]), "rate": float(row["rate"]), "loss": float(row[name])} for row in rows]
    line = alt.Chart(alt.Data(values=points)).mark_line(color="#4263eb", strokeWidth=1.5)
    x = alt.X("step:Q", title="step")
    loss = line.encode(x=x, y=alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False))).properties(width=560)
    rate = line.encode(x=x, y=alt.Y("rate:Q", title="learning rate", axis=alt.Axis(format=".0e"))).properties(width=260)
    return Markup(vl_convert.vegalite_to_svg(vega(alt.hconcat(loss, rate))))


def _labels(target: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The objects of a target."""
    logit = np.where(target[2] > 0, 5, -5).astype(np.float32)
    return labels_from_flows(FLOW_SCALE * target[:2], logit, flow_threshold=0, min_size=0)


def _outlined(crop: Crop, *drawn: tuple[NDArray[np.uint32], str]) -> NDArray[np.float32]:
    """A crop as red, green and blue from 0 to 1, with outlines; a helper channel is laid over it in blue.

    Black is 0, or less where much of the crop is; white is 1, or more. So what is dim to the network is dim here.
    """
    low, high = np.percentile(crop.image[0], (1, 99.5))
    low, high = min(low, 0.0), max(high, 1.0)
    used = crop.image.any(axis=(1, 2), keepdims=True)
    first, second, third = np.clip((crop.image - low) / (high - low), 0, 1) * used
    grey = not third.any()
    picture = np.stack([first, first, np.maximum(first, second)] if grey else [first, second, third], axis=-1)
    for labels, tint in drawn:
        picture[outlines(labels)] = colour(tint)
    return picture


def _hues(target: NDArray[np.float32]) -> NDArray[np.float32]:
    """A target's flows: the hue is the direction, white is outside objects."""
    from skimage.color import hsv2rgb

    dy, dx, inside = target
    hue = (np.arctan2(dy, dx) / (2 * np.pi)) % 1
    picture: NDArray[np.float32] = hsv2rgb(np.stack([hue, inside, np.ones_like(hue)], axis=-1)).astype(np.float32)
    return picture
