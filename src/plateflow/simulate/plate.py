"""Simulated plates: wells that answer to a dose, written as a vendor would, with faults on request.

A well is drawn as one scene and cut into fields at stage positions, so that cells cross the borders of fields. The
truth goes to a folder of its own beside the plate; what a user would have is the plate's folder and the plate map.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plateflow.paths import parse_well
from plateflow.simulate.cells import CHANNELS, Float, SimulatedField, camera, illumination_profile, simulate_field
from plateflow.simulate.layouts import LAYOUTS
from plateflow.simulate.record import About, FaultKind, Record

Role = Literal["negative", "positive", "treatment", "empty"]

DIAMETER_PX = 21.0
MARGIN_PX = 16
"""A scene is drawn wider than its fields by this much, so that blur at their outer border sees real neighbours."""


@dataclass(frozen=True, kw_only=True)
class WellPlan:
    """What is put into a well: its line in the plate map, and how strong the effect on its cells is (0 to 1)."""

    well: str
    role: Role
    treatment: str = ""
    dose: float | None = None
    effect: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something wrong with one plane (`channel`), or with all planes of a field; field and channel count from 0.

    `defocus` is optical and leaves the file sound; every other kind makes the file unfit to be used.
    """

    kind: FaultKind
    well: str
    field: int = 0
    channel: int | None = None


@dataclass(frozen=True, kw_only=True)
class SimulatedPlate:
    """Where a simulated plate lies."""

    raw: Path
    """The plate's folder, as the microscope leaves it."""
    plate_map: Path
    """A CSV: well, role, treatment, dose."""
    truth: Path
    """The folder with the truth, which nothing in the pipeline reads."""


DEMO_FAULTS = (
    Fault(kind="defocus", well="B07", field=1),
    Fault(kind="truncated", well="C07", field=0, channel=1),
)


def demo_wells() -> list[WellPlan]:
    """Eighteen wells: four negative and three positive controls, five doses in duplicate, one without cells."""
    negative = [WellPlan(well=w, role="negative", treatment="DMSO", dose=0.0) for w in ("B02", "C02", "B07", "C07")]
    positive = [
        WellPlan(well=w, role="positive", treatment="nocodazole", dose=1.0, effect=0.95) for w in ("B06", "C06", "D02")
    ]
    doses = np.repeat([0.1, 0.3, 1.0, 3.0, 10.0], 2)
    wells = ("B03", "C04", "C03", "B05", "D03", "B04", "D04", "C05", "D05", "D06")
    treated = [
        WellPlan(well=w, role="treatment", treatment="compound-1", dose=float(d), effect=float(d / (d + 1.0)))
        for w, d in zip(wells, doses, strict=True)
    ]
    return sorted([*negative, *positive, *treated, WellPlan(well="D07", role="empty")], key=lambda plan: plan.well)


def micro_wells() -> list[WellPlan]:
    """Two wells, for tests of the workflow."""
    return [
        WellPlan(well="B02", role="negative", treatment="DMSO", dose=0.0),
        WellPlan(well="B03", role="treatment", treatment="compound-1", dose=3.0, effect=0.75),
    ]


def simulate_plate(
    out: Path,
    *,
    wells: Sequence[WellPlan] | None = None,
    fields: int = 2,
    field_shape: tuple[int, int] = (384, 384),
    overlap_px: int = 0,
    channels: Sequence[str] = CHANNELS,
    layout: str = "harmony",
    faults: Sequence[Fault] = (),
    plate: str = "demo",
    plate_shape: tuple[int, int] = (8, 12),
    pixel_size_um: float = 0.6,
    seed: int = 0,
) -> SimulatedPlate:
    """Write a plate, its plate map and its truth below `out`.

    The plate's folder is named as the layout has it. The map is `platemap.csv`. `truth/` has, a well, `<well>.npz`
    with `nuclei` and `cells` (uint32 YX on the well's canvas: the box around its fields), `truth.csv` (one line a
    well) and `truth.json` (pixel size, each field's top left corner on the canvas in px, faults).

    Args:
        out: folder to write to; made where it is missing.
        wells: what is in which well; `demo_wells()` where not given.
        fields: fields a well, in rows of a square as full as it gets.
        field_shape: height and width of a field in px.
        overlap_px: by how much neighbouring fields overlap.
        channels: which of DNA, AGP, Marker, in this order.
        layout: one of `plateflow.simulate.layouts.LAYOUTS`.
        faults: what goes wrong.
        plate: the plate's name.
        plate_shape: rows and columns of the plate.
        pixel_size_um: size of a pixel in um.
        seed: the same seed and arguments give the same files, and a well is the same whatever the others are.

    Returns:
        The paths written.
    """
    plans = list(wells) if wells is not None else demo_wells()
    height, width = field_shape
    across = math.ceil(math.sqrt(fields))
    corners = [(n // across * (height - overlap_px), n % across * (width - overlap_px)) for n in range(fields)]
    canvas = (max(y for y, _ in corners) + height, max(x for _, x in corners) + width)

    about = About(plate=plate, plate_shape=plate_shape, field_shape=field_shape, pixel_size_um=pixel_size_um)
    writer, truth = LAYOUTS[layout](out, about), out / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    falloff = (0.35, 0.25, 0.30)
    light = [
        illumination_profile(np.random.default_rng([seed, 1, n]), field_shape, falloff[n % 3])
        for n in range(len(channels))
    ]
    rows: list[dict[str, object]] = []
    for plan in plans:
        row, column = parse_well(plan.well)
        scene = _scene(np.random.default_rng([seed, 0, row, column]), canvas, plan)
        wrong = [fault for fault in faults if fault.well == plan.well]
        for field, (top, left) in enumerate(corners):
            blur = any(fault.kind == "defocus" and fault.field == field for fault in wrong)
            stack = _record_field(
                np.random.default_rng([seed, 2, row, column, field]),  # its own: a fault changes no other field
                scene,
                (top, left),
                field_shape,
                channels=channels,
                light=light,
                defocus_px=4.0 if blur else 0.0,
            )
            for channel, name in enumerate(channels):
                record = Record(
                    row=row,
                    column=column,
                    field=field,
                    channel=channel,
                    channel_name=name,
                    y_um=(top + height / 2 - canvas[0] / 2) * pixel_size_um,
                    x_um=(left + width / 2 - canvas[1] / 2) * pixel_size_um,
                )
                kinds = [f.kind for f in wrong if f.field == field and f.channel in {None, channel}]
                writer.write(record, stack[channel], kinds)
        rows.append(_write_truth(truth, scene, plan, canvas))
    writer.finish()
    _write_csv(out / "platemap.csv", [{k: row[k] for k in ("well", "role", "treatment", "dose")} for row in rows])
    _write_csv(truth / "truth.csv", rows)
    described = {
        "plate": plate,
        "pixel_size_um": pixel_size_um,
        "field_shape": list(field_shape),
        "canvas_shape": list(canvas),
        "fields": [list(corner) for corner in corners],
        "channels": list(channels),
        "faults": [vars(fault) for fault in faults],
    }
    (truth / "truth.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return SimulatedPlate(raw=writer.raw, plate_map=out / "platemap.csv", truth=truth)


def _scene(rng: np.random.Generator, canvas: tuple[int, int], plan: WellPlan) -> SimulatedField:
    """A toxic compound: fewer, larger nuclei, and more of the marker. An empty well holds medium alone."""
    shape = (canvas[0] + 2 * MARGIN_PX, canvas[1] + 2 * MARGIN_PX)
    diameter = DIAMETER_PX * (1 + 0.2 * plan.effect)
    density = 0.19 * (1 - 0.7 * plan.effect) * (diameter / DIAMETER_PX) ** 2
    return simulate_field(
        rng,
        shape,
        density=0.0 if plan.role == "empty" else density,
        debris=0.0 if plan.role == "empty" else 1.0,
        diameter_px=diameter,
        dim_fraction=0.22,
        marker=0.15 + 0.6 * plan.effect,
    )


def _record_field(
    rng: np.random.Generator,
    scene: SimulatedField,
    corner: tuple[int, int],
    shape: tuple[int, int],
    *,
    channels: Sequence[str],
    light: Sequence[Float],
    defocus_px: float,
) -> NDArray[np.uint16]:
    """One field, CYX: recorded with a margin around it that the blur needs, then cut."""
    inner = (slice(MARGIN_PX, MARGIN_PX + shape[0]), slice(MARGIN_PX, MARGIN_PX + shape[1]))
    wide = tuple(slice(start, start + size + 2 * MARGIN_PX) for start, size in zip(corner, shape, strict=True))
    planes = []
    for name, profile in zip(channels, light, strict=True):
        lit = np.pad(profile, MARGIN_PX, mode="edge")
        taken = camera(rng, {name: scene.channels[name][wide]}, illumination=lit, defocus_px=defocus_px)
        planes.append(taken[0][inner])
    return np.stack(planes)


def _write_truth(folder: Path, scene: SimulatedField, plan: WellPlan, canvas: tuple[int, int]) -> dict[str, object]:
    """Write a well's labels, cut to its canvas, and return its line of the table."""
    box = (slice(MARGIN_PX, MARGIN_PX + canvas[0]), slice(MARGIN_PX, MARGIN_PX + canvas[1]))
    nuclei, cells = _in_view(scene.nuclei, box), _in_view(scene.cells, box)
    np.savez_compressed(folder / f"{plan.well}.npz", nuclei=nuclei, cells=cells)
    seen = np.unique(nuclei[nuclei > 0])
    marker = scene.marker[seen - 1]
    return {
        "well": plan.well,
        "role": plan.role,
        "treatment": plan.treatment,
        "dose": "" if plan.dose is None else plan.dose,
        "nuclei": len(seen),
        "cells": len(np.unique(cells[cells > 0])),
        "dim_nuclei": int((scene.brightness[seen - 1] < 0.18).sum()),
        "marker_median": round(float(np.median(marker)), 4) if len(seen) else "",
    }


def _in_view(labels: NDArray[np.uint32], box: tuple[slice, slice]) -> NDArray[np.uint32]:
    """Labels within the box, without the objects of which less than a sixth, or less than 15 px, is in view."""
    count = int(labels.max()) + 1
    seen, whole = (np.bincount(a.ravel(), minlength=count) for a in (labels[box], labels))
    return np.where(((seen >= 15) & (6 * seen >= whole))[labels[box]], labels[box], 0).astype(np.uint32)


def _write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
