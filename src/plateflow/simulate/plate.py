"""Simulated plates: wells that respond to a dose, written as a vendor's software would, with faults on request.

A well is drawn as one scene and cut into fields at stage positions, so that cells cross the borders of fields. The
truth goes to a folder of its own beside the plate; a user would have only the plate's folder and the plate map.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plateflow.paths import parse_well
from plateflow.simulate.cells import CHANNELS, Float, SimulatedField, camera, illumination_profile, simulate_field
from plateflow.simulate.harmony import HarmonyLayout
from plateflow.simulate.layout import FaultKind, Layout, PlateDescription, Record
from plateflow.simulate.reporter import CHANNEL as REPORTER
from plateflow.simulate.reporter import Reporter, draw_reporter

Role = Literal["negative", "positive", "treatment", "empty"]

DIAMETER_PX = 21.0
MARGIN_PX = 16
"""A scene is drawn this much wider than its fields, so that blur at their outer border has real neighbours."""


@dataclass(frozen=True, kw_only=True)
class WellPlan:
    """Content of a well: its row of the plate map, and how strong the effect on its cells is (0 to 1)."""

    well: str
    role: Role
    treatment: str = ""
    dose: float | None = None
    effect: float = 0.0
    cell_line: str = ""
    size: float = 1.0
    """Diameter of the nuclei of its cell line over the usual one."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of one plane or, without `channel`, of all planes of a field; field and channel count from 0.

    `defocus` is optical and leaves the file intact; every other kind makes the file unusable.
    """

    kind: FaultKind
    well: str
    field: int = 0
    channel: int | None = None


@dataclass(frozen=True, kw_only=True)
class SimulatedPlate:
    """The paths of a simulated plate."""

    raw: Path
    """The plate's folder, as the microscope leaves it."""
    plate_map: Path
    """A CSV: well, role, treatment, dose, and CellLine where a well has one."""
    truth: Path
    """The folder with the truth, which no stage of the pipeline reads."""


DEMO_FAULTS = (Fault(kind="defocus", well="B07", field=1), Fault(kind="truncated", well="C07", field=0, channel=1))


def demo_wells() -> list[WellPlan]:
    """Twenty-four wells, two rows per cell line: negative and positive controls, five doses; one well without cells.

    The second line has larger nuclei, and takes three times the dose for the same effect.
    """
    plans = []
    for line, size, half, negative, positive, treated in (
        ("line-1", 1.0, 1.0, ("B02", "B07", "C02", "C07"), ("B06", "C04", "C06"), ("B03", "B05", "B04", "C05", "C03")),
        ("line-2", 1.15, 3.0, ("E02", "E04", "E07"), ("D02", "E03", "E06"), ("E05", "D06", "D03", "D04", "D05")),
    ):
        of_line: dict[str, Any] = {"cell_line": line, "size": size}
        plans += [WellPlan(well=w, role="negative", treatment="DMSO", dose=0.0, **of_line) for w in negative]
        plans += [
            WellPlan(well=w, role="positive", treatment="nocodazole", dose=1.0, effect=0.95, **of_line)
            for w in positive
        ]
        plans += [
            WellPlan(well=w, role="treatment", treatment="compound-1", dose=d, effect=d / (d + half), **of_line)
            for w, d in zip(treated, (0.1, 0.3, 1.0, 3.0, 10.0), strict=True)
        ]
    return sorted([*plans, WellPlan(well="D07", role="empty")], key=lambda plan: plan.well)


def micro_wells() -> list[WellPlan]:
    """Two wells, for tests of the workflow."""
    return [
        WellPlan(well="B02", role="negative", treatment="DMSO", dose=0.0),
        WellPlan(well="B03", role="treatment", treatment="compound-1", dose=3.0, effect=0.75),
    ]


def simulate_demo(out: Path) -> SimulatedPlate:
    """Write the demo's plate, as `simulate_plate` does: `demo_wells`, two fields, four channels, DEMO_FAULTS."""
    channels = (*CHANNELS, REPORTER)
    return simulate_plate(out, wells=demo_wells(), field_shape=(344, 344), channels=channels, faults=DEMO_FAULTS)


def simulate_plate(
    out: Path,
    *,
    wells: Sequence[WellPlan],
    fields: int = 2,
    field_shape: tuple[int, int] = (384, 384),
    overlap_px: int = 0,
    channels: Sequence[str] = CHANNELS,
    layout: type[Layout] = HarmonyLayout,
    faults: Sequence[Fault] = (),
    plate: str = "demo",
    seed: int = 0,
) -> SimulatedPlate:
    """Write a plate, its plate map and its truth below `out`.

    The layout names the plate's folder. The map is `platemap.csv`. `truth/` holds, per well, `<well>.npz` with `nuclei`
    and `cells` (uint32 YX on the well's canvas: the box around its fields), `truth.csv` (one row per well) and
    `truth.json` (pixel size, each field's top left corner on the canvas in px, faults). Of the reporter, `<well>.npz`
    has `foci` (places (n, 2), y and x in px of the canvas), `foci_nucleus` (n,) and `positive` (the numbers of positive
    cells), and `truth.csv` the foci per nucleus and the share of positive cells.

    Args:
        wells: what is in which well.
        fields: fields per well, in rows of a square that is as full as possible.
        field_shape: height and width of a field in px.
        overlap_px: by how much neighbouring fields overlap.
        channels: some of DNA, AGP, Marker, GFP (the reporter), in this order; the last changes none of the others.
        seed: the same seed and arguments give the same files, and a well does not depend on the others.

    Returns:
        The paths written.
    """
    import pandas as pd

    height, width = field_shape
    across = math.ceil(math.sqrt(fields))
    corners = [(n // across * (height - overlap_px), n % across * (width - overlap_px)) for n in range(fields)]
    canvas_shape = (max(y for y, _ in corners) + height, max(x for _, x in corners) + width)

    description = PlateDescription(name=plate, field_shape=field_shape)
    writer, truth = layout(out, description), out / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    falloffs = (0.35, 0.25, 0.30)
    profiles = [
        illumination_profile(np.random.default_rng([seed, 1, n]), field_shape, falloffs[n % 3])
        for n in range(len(channels))
    ]
    rows: list[dict[str, Any]] = []
    for plan in wells:
        row, column = parse_well(plan.well)
        scene = _draw_well(np.random.default_rng([seed, 0, row, column]), canvas_shape, plan)
        reporter = None
        if REPORTER in channels:
            rng = np.random.default_rng([seed, 3, row, column])
            reporter = draw_reporter(rng, scene, foci=1 + 4 * plan.effect, positive=0.7 * plan.effect)
            scene.channels[REPORTER] = reporter.channel
        well_faults = [fault for fault in faults if fault.well == plan.well]
        for field, (top, left) in enumerate(corners):
            field_faults = [fault for fault in well_faults if fault.field == field]
            pixels = _record_field(
                np.random.default_rng([seed, 2, row, column, field]),  # its own: a fault changes no other field
                scene,
                (top, left),
                field_shape,
                profiles=dict(zip(channels, profiles, strict=True)),
                defocus_px=4.0 if any(fault.kind == "defocus" for fault in field_faults) else 0.0,
            )
            for channel, name in enumerate(channels):
                record = Record(
                    row=row,
                    column=column,
                    field=field,
                    channel=channel,
                    channel_name=name,
                    y_um=(top + height / 2 - canvas_shape[0] / 2) * description.pixel_size_um,
                    x_um=(left + width / 2 - canvas_shape[1] / 2) * description.pixel_size_um,
                )
                kinds = [fault.kind for fault in field_faults if fault.channel in {None, channel}]
                writer.write(record, pixels[channel], kinds)
        rows.append(_write_truth(truth, scene, reporter, plan, canvas_shape))
    writer.finish()
    table = pd.DataFrame(rows)
    mapped = [name for name in ("well", "role", "treatment", "dose", "CellLine") if name in table]
    table[mapped].to_csv(out / "platemap.csv", index=False, lineterminator="\r\n")
    table.to_csv(truth / "truth.csv", index=False, lineterminator="\r\n")
    metadata = {
        "plate": plate,
        "pixel_size_um": description.pixel_size_um,
        "field_shape": field_shape,
        "canvas_shape": canvas_shape,
        "fields": corners,
        "channels": list(channels),
        "faults": [vars(fault) for fault in faults],
    }
    (truth / "truth.json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    return SimulatedPlate(raw=writer.raw, plate_map=out / "platemap.csv", truth=truth)


def _draw_well(rng: np.random.Generator, canvas_shape: tuple[int, int], plan: WellPlan) -> SimulatedField:
    """The scene of a well, with a margin around its canvas. A toxic compound gives fewer, larger nuclei and more of the
    marker; an empty well holds only medium."""
    shape = (canvas_shape[0] + 2 * MARGIN_PX, canvas_shape[1] + 2 * MARGIN_PX)
    diameter_px = DIAMETER_PX * plan.size * (1 + 0.2 * plan.effect)
    density = 0.19 * (1 - 0.7 * plan.effect) * (diameter_px / (DIAMETER_PX * plan.size)) ** 2
    return simulate_field(
        rng,
        shape,
        density=0.0 if plan.role == "empty" else density,
        debris=0.0 if plan.role == "empty" else 1.0,
        diameter_px=diameter_px,
        dim_fraction=0.22,
        marker=0.15 + 0.6 * plan.effect,
    )


def _record_field(
    rng: np.random.Generator,
    scene: SimulatedField,
    corner: tuple[int, int],
    shape: tuple[int, int],
    *,
    profiles: dict[str, Float],
    defocus_px: float,
) -> NDArray[np.uint16]:
    """Record a field, CYX: with a margin around it that the blur needs, then cut to `shape`."""
    inner = _inside_margin(shape)
    wide = tuple(slice(start, start + size + 2 * MARGIN_PX) for start, size in zip(corner, shape, strict=True))
    planes = []
    for channel, profile in profiles.items():
        light = np.pad(profile, MARGIN_PX, mode="edge")
        plane = camera(rng, {channel: scene.channels[channel][wide]}, illumination=light, defocus_px=defocus_px)[0]
        planes.append(plane[inner])
    return np.stack(planes)


def _write_truth(
    folder: Path, scene: SimulatedField, reporter: Reporter | None, plan: WellPlan, shape: tuple[int, int]
) -> dict[str, Any]:
    """Write a well's truth, cut to its canvas, and return its row of the table."""
    region, cut = _inside_margin(shape), []
    for labels in (scene.nuclei, scene.cells):  # without objects of which less than a sixth, or 15 px, is left
        count = int(labels.max()) + 1
        inside, total = (np.bincount(part.ravel(), minlength=count) for part in (labels[region], labels))
        kept = (inside >= 15) & (6 * inside >= total)
        cut.append(np.where(kept[labels[region]], labels[region], 0).astype(np.uint32))
    nuclei, cells = cut
    numbers = np.unique(nuclei[nuclei > 0])
    row: dict[str, Any] = {
        "well": plan.well,
        "role": plan.role,
        "treatment": plan.treatment,
        "dose": "" if plan.dose is None else plan.dose,
        "effect": round(plan.effect, 4),
        "nuclei": len(numbers),
        "cells": len(np.unique(cells[cells > 0])),
        "dim_nuclei": int((scene.brightness[numbers - 1] < 0.18).sum()),
        "marker_median": round(float(np.median(scene.marker[numbers - 1])), 4) if len(numbers) else "",
    }
    arrays: dict[str, Any] = {"nuclei": nuclei, "cells": cells}
    if reporter is not None:
        places = reporter.foci - MARGIN_PX
        at = np.rint(places).astype(int)
        seen = np.all((at >= 0) & (at < shape), axis=1) & np.isin(reporter.nucleus, numbers)
        positive = np.intersect1d(np.unique(cells[cells > 0]), np.flatnonzero(reporter.positive) + 1)
        arrays |= {"foci": places[seen], "foci_nucleus": reporter.nucleus[seen], "positive": positive.astype(np.uint32)}
        row["foci_per_nucleus"] = round(seen.sum() / len(numbers), 4) if len(numbers) else ""
        row["share_positive"] = round(len(positive) / row["cells"], 4) if row["cells"] else ""
    if plan.cell_line:
        row["CellLine"] = plan.cell_line
    np.savez_compressed(folder / f"{plan.well}.npz", **arrays)
    return row


def _inside_margin(shape: tuple[int, int]) -> tuple[slice, slice]:
    """The region of a scene or picture that is left when its margin is cut off."""
    return slice(MARGIN_PX, MARGIN_PX + shape[0]), slice(MARGIN_PX, MARGIN_PX + shape[1])
