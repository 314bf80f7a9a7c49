"""The section on segmentation: wells to look at, sizes, seams, partners, flow error and cell probability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import PlateflowError
from plateflow.features.measure import compartment
from plateflow.images.canvas import Canvas
from plateflow.report import small, thumbnails
from plateflow.report.spots import spots
from plateflow.report.view import View
from plateflow.segment.grid import pixel_um
from plateflow.segment.tiles import blending_lines
from plateflow.state.journal import LEFT_OUT
from plateflow.stats.ranking import doubts, worst_first
from plateflow.stats.reference import ROLE
from plateflow.stats.seams import KINDS, Borders, Counted, Rectangles, Seam, count_objects, in_words, judge_seams
from plateflow.stats.segmentation import COLUMNS
from plateflow.tables import records

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 3
"""Wells that are shown of the worst, of the middle and of the best."""
SHARE = 60_000
"""Characters of the page that one of their pictures may take."""
NETWORK = {"flow_error": "flow error", "cell_probability": "cell probability"}
"""What the network says of an object, by the column of the table of objects."""
NAMES = {"uncovered": "of what is bright in no object", "unmatched": "without a partner", "flow_check": "dropped"}
MOST_CHILDREN = 4
"""From this number of nuclei on, cells are counted together."""

Tables = dict[str, "dict[str, NDArray[Any]]"]


def segmentation(view: View) -> dict[str, Any]:
    """Examples with outlines, and of each label set the sizes, the seam test, and the network's own measures."""
    wells = view.by_well[~view.by_well["Metadata_State"].isin(LEFT_OUT)]
    roles = dict(zip(wells["Metadata_Well"], wells.get(ROLE, [None] * len(wells)), strict=True))
    has = {well: view.plate.label_sets(well) for well in roles}
    rows, columns = view.plate.metadata["format"]
    sets, maps, seams = [], dict[str, Mapping[str, float]](), dict[str, list[Seam] | str]()
    tables = {
        name: {well: _objects(view, name, well) for well in roles if name in has[well]}
        for name in view.plate.config.segmentation
    }
    tests = 2 * len(KINDS) * len(view.plate.config.segmented)
    for name, found in tables.items():
        sizes, unit = _sizes(view, name, found)
        charts = [small.histogram(_by_group(sizes, roles), f"{name}: {unit}")]
        for column, title in NETWORK.items() if name in view.plate.config.segmented else ():
            values = {well: table[column] for well, table in found.items()}
            charts.append(small.histogram(_by_group(values, roles), f"{name}: {title}"))
            maps[f"{name}: median {title}"] = _medians(values)
        maps[f"{name}: median {unit}"] = _medians(sizes)
        seams[name] = _seams(view, name, found, tests)
        objects = sum(len(table["area_px"]) for table in found.values())
        sets.append({"name": name, "objects": objects, "charts": [chart for chart in charts if chart]})
    level, line, told = _verdict(seams)
    return {
        "examples": list(_examples(view, wells)),
        "sets": sets,
        "map": small.well_map(maps, (rows, columns)),
        "level": level,
        "line": line,
        "told": told,
        "seams": [
            (name, asdict(seam) | {"borders": KINDS[seam.kind]})
            for name, found in seams.items()
            for seam in (found if isinstance(found, list) else [])
        ],
        "untested": [(name, why) for name, why in seams.items() if isinstance(why, str)],
        "partners": _partners(view, roles),
        "spots": spots(view),
    }


def _objects(view: View, label_set: str, well: str) -> dict[str, NDArray[Any]]:
    import pyarrow.parquet as pq

    columns = ["canvas", "seed_y", "seed_x", "area_px", "flow_error", "cell_probability"]
    table = pq.ParquetFile(view.plate.paths.objects(label_set, well)).read(columns=columns, use_threads=False)
    return {name: table[name].to_numpy() for name in columns}


def _sizes(view: View, label_set: str, found: Tables) -> tuple[dict[str, NDArray[np.float64]], str]:
    """By well the size of each object, and what it is: the diameter of a circle of its area, or a volume."""
    um = pixel_um(view.plate.metadata)
    if view.plate.config.segmentation[label_set].dimensions == 3:
        return {well: table["area_px"].astype(float) for well, table in found.items()}, "volume (voxels)"
    sizes = {well: np.sqrt(4 / np.pi * table["area_px"]) * (um or 1) for well, table in found.items()}
    return sizes, f"diameter ({'µm' if um else 'px'})"


def _by_group(values: Mapping[str, NDArray[Any]], roles: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The values of negative controls and of the other wells; of all where either is lacking."""
    parts: dict[str, list[NDArray[Any]]] = {}
    for well, own in values.items():
        parts.setdefault("negative controls" if roles[well] == "negative" else "other wells", []).append(own)
    if len(parts) < 2:
        parts = {"all wells": [each for own in parts.values() for each in own]}
    return {name: np.concatenate(own) for name, own in parts.items() if own}


def _medians(values: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    return {well: float(np.median(own)) if len(own) else np.nan for well, own in values.items()}


def _seams(view: View, label_set: str, found: Tables, tests: int) -> list[Seam] | str:
    """The seam test of a label set, of each kind of border that its canvases have; or why there is none."""
    plate, config = view.plate, view.plate.config
    if config.segmentation[label_set].dimensions == 3:
        return "volumes aren't tested"
    if (rule := config.grown.get(label_set)) is not None:
        return f"they are made from {rule.source}"
    areas = [table["area_px"] for table in found.values()]
    if not sum(map(len, areas)):
        return "there are no objects"
    try:
        scale = plate.grid(label_set).scale
    except PlateflowError as error:
        return f"where the network's tiles lie isn't known: {error.what}"
    diameter = float(np.sqrt(4 / np.pi * np.median(np.concatenate(areas))))
    counted: dict[str, list[Counted]] = {}
    for well, table in found.items():
        parts = []
        for canvas in plate.canvases(well, label_set):
            own = table["canvas"] == canvas.index
            y, x = table["seed_y"][own] - canvas.y + 0.5, table["seed_x"][own] - canvas.x + 0.5
            same = _at_origin(canvas)
            rectangles = _rectangles(same, scale, config.follow_block_px, config.augment, diameter)
            parts.append((rectangles, y, x, table["area_px"][own]))
        for kind, numbers in count_objects(parts).items():
            counted.setdefault(kind, []).append(numbers)
    return [judge_seams(kind, counted[kind], tests) for kind in KINDS if kind in counted]


def _at_origin(canvas: Canvas) -> Canvas:
    """The canvas as equal ones of other wells, time points and planes are, too."""
    fields = tuple(replace(box, name="", y=box.y - canvas.y, x=box.x - canvas.x) for box in canvas.fields)
    return replace(canvas, index=0, t=0, z=0, y=0, x=0, fields=fields)


@lru_cache(maxsize=32)
def _rectangles(canvas: Canvas, scale: float, block_px: int, augment: bool, diameter: float) -> Rectangles:
    tiles, tile_px = blending_lines((canvas.height, canvas.width), scale, augment=augment)
    return Borders.of(canvas, tiles=tiles, tile_px=tile_px, block_px=block_px).rectangles(diameter)


def _verdict(seams: Mapping[str, list[Seam] | str]) -> tuple[str, str, list[str]]:
    """Level, words, and what was found at each kind of border of all label sets, seams first."""
    tested = [(name, seam) for name, found in seams.items() if isinstance(found, list) for seam in found]
    verdicts = {seam.verdict for _, seam in tested}
    order = ("seams", "none", "unknown")
    told = [f"{name}: {in_words(s)}" for name, s in sorted(tested, key=lambda each: order.index(each[1].verdict))]
    if "seams" in verdicts:
        return "bad", "Seams: where the pipeline cuts images, objects differ from those beside", told
    if verdicts == {"none"}:
        return "good", "No seams", told
    if "none" in verdicts:
        return "good", "No seams where there are enough objects to tell", told
    return ("warn", "Whether there are seams can't be told", told) if tested else ("good", "Nothing was tested", told)


def _examples(view: View, wells: pd.DataFrame) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Of the worst, the middle and the best wells pictures and numbers; of all, where there are fewer than three."""
    doubt = doubts(wells)
    judged = [well for well in worst_first(wells) if np.isfinite(doubt[well])]
    rows = {row["Metadata_Well"]: row for row in records(wells.filter(like="Metadata_"))}
    k = min(EXAMPLES, len(judged) // 3)
    middle = (len(judged) - k) // 2
    groups = {"Worst": judged[:k], "Typical": judged[middle : middle + k], "Best": judged[len(judged) - k :]}
    for title, names in (groups if k else {"All that can be judged": judged}).items():
        if names:
            yield title, [_example(view, rows[well]) for well in names]


def _example(view: View, row: Mapping[str, Any]) -> dict[str, Any]:
    facts = []
    for name in view.plate.config.segmentation:
        numbers = {flag: row.get(f"Metadata_{compartment(name)}_{COLUMNS[flag]}") for flag in NAMES}
        told = [f"{number:.0%} {NAMES[flag]}" for flag, number in numbers.items() if number is not None]
        facts += [f"{name}: {', '.join(told)}"] if told else []
    well = row["Metadata_Well"]
    return {"well": well, "facts": facts, "picture": thumbnails.picture(view.plate, well, at_most=SHARE)}


def _partners(view: View, roles: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How the rows' objects belong to those of each other label set: shares by kind of match, and nuclei per cell."""
    import pyarrow.parquet as pq

    others = [compartment(name) for name in view.plate.config.segmentation]
    others = [name for name in others if name != view.rows and roles]
    outcomes, found = view.plate.outcomes("features"), []
    for other in others:
        columns = [f"Metadata_Match_{other}", f"{view.rows}_Children_{other}_Count"]
        kinds, children = dict[str, Counter[str]](), dict[str, Counter[str]]()
        alone = 0
        for well, role in roles.items():
            table = pq.ParquetFile(view.plate.paths.cells(well)).read(columns=columns, use_threads=False)
            info = outcomes.required(well).info
            alone += info.get("without a row", {}).get(other, 0)
            before = info.get("match", {}).get(other)  # before those without a partner were left out of the rows
            for group in ("all wells", *([f"{role} controls"] if role in ("negative", "positive") else [])):
                own = kinds.setdefault(group, Counter()), children.setdefault(group, Counter())
                own[0].update({_kind(kind): n for kind, n in (before or {}).items()})
                for counter, column in list(zip(own, columns, strict=True))[before is not None :]:
                    for each in table[column].value_counts().to_pylist():
                        counter[_kind(each["values"])] += each["counts"]
        found.append(
            {
                "other": other.lower(),
                "alone": alone,
                "groups": list(kinds),
                "match": _shares(kinds),
                "children": _shares(children) if other == "Nuclei" else [],
            }
        )
    return found


def _kind(value: Any) -> str:
    if value is None or isinstance(value, str):
        return (value or "none").replace("_", " ")
    return "none" if np.isnan(value) else f"{value:.0f}" if value < MOST_CHILDREN else f"{MOST_CHILDREN} or more"


def _shares(counted: Mapping[str, Counter[str]]) -> list[tuple[str, list[float]]]:
    """By kind its share in each group."""
    totals = [max(sum(counter.values()), 1) for counter in counted.values()]
    kinds = sorted({kind for counter in counted.values() for kind in counter})
    return [(kind, [c[kind] / total for c, total in zip(counted.values(), totals, strict=True)]) for kind in kinds]
