"""The stage `features`: one table a well, measured canvas by canvas, so that memory is bounded by a canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.features.feature import Feature
from plateflow.features.measure import column_features, measure
from plateflow.features.tables import parquet_bytes
from plateflow.images.layout import Canvas, FieldBox, read_layout, well_canvases
from plateflow.images.read import load_window, read_canvas
from plateflow.images.store import open_image
from plateflow.state.journal import write_atomic
from plateflow.state.runner import JobContext, Outcome, Unit, one_by_one, run_job, upstream_of

if TYPE_CHECKING:
    import pandas as pd

METADATA = ("Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time", "Metadata_Z")
QUALITY = (
    Feature(
        name="Quality_FlowError",
        family="quality",
        unit="1",
        definition="mean squared difference between the network's flow and the one that the object's shape implies",
        source="Plateflow",
    ),
    Feature(
        name="Quality_CellProbability",
        family="quality",
        unit="1",
        definition="mean of the network's logit over the object",
        source="Plateflow",
    ),
)


def compartment(label_set: str) -> str:
    """The prefix of a label set's columns: nuclei -> Nuclei."""
    return label_set[0].upper() + label_set[1:]


def cell_columns(label_sets: list[str], channels: list[str], rows: str) -> dict[str, Feature]:
    """The feature columns of a plate's cell tables, in order; `rows` is a label set."""
    names = [compartment(name) for name in label_sets]
    columns = column_features(names, channels, rows=compartment(rows))
    return columns | {f"{name}_{feature.name}": feature for name in names for feature in QUALITY}


def units(context: JobContext) -> list[Unit]:
    """The wells of a part, each with the outcomes that its table is made of."""
    channels = channel_names(context)
    tiled, stitched = context.upstream("tile"), context.upstream("stitch")
    window = load_window(context.paths).fingerprint(channels)
    made = []
    for well in context.wells():
        labels = {name: stitched[well, name, -1] for name in context.config.segmentation}
        depends = {
            "tile": tiled[well, "", -1].fingerprint,
            **{f"stitch {name}": entry.fingerprint for name, entry in labels.items()},
            "window": window,
            "parameters": context.parameters(),
        }
        made.append(Unit(well=well, depends=depends, upstream=upstream_of([tiled[well, "", -1], *labels.values()])))
    return made


def channel_names(context: JobContext) -> list[str]:
    """The plate's channels, in order."""
    return [channel["name"] for channel in context.info["channels"]]


def run(context: JobContext) -> None:
    """Measure the wells of a part."""

    def work(unit: Unit) -> Outcome:
        table = measure_well(context, unit.well)
        write_atomic(context.paths.cells(unit.well), parquet_bytes(table))
        return Outcome(info={"objects": len(table)})

    run_job(
        context,
        lambda: units(context),
        one_by_one(work),
        clear=lambda unit: context.paths.cells(unit.well).unlink(missing_ok=True),
        results=lambda unit: context.paths.cells(unit.well),
    )


def measure_well(context: JobContext, well: str) -> pd.DataFrame:
    """The cell table of a well: METADATA, ObjectNumber, then `cell_columns`; no row where there is no object.

    Intensities are those of the raw pixels divided by the illumination profile and by the greatest value of the
    pixel type (65535 for 16 bits), which is how CellProfiler scales them; they can exceed 1 by the correction.
    """
    import pandas as pd

    config, paths = context.config, context.paths
    label_sets, channels = list(config.segmentation), channel_names(context)
    layout, group = read_layout(paths, well), open_image(paths, well)
    pixel_um = layout.pixel_um[1:] if layout.unit_known else (np.nan, np.nan)
    parts = []
    for canvas in well_canvases(paths, well, config):
        outside = canvas.owner() < 0  # a canvas's box may hold the fields, and so the objects, of another canvas
        labels = {}
        for name in label_sets:
            labels[compartment(name)] = here = read_labels(group, name, canvas)
            here[outside] = 0
        if not labels[compartment(config.rows)].any():
            continue
        image = read_canvas(paths, well, canvas, channels, z_mode=config.z)
        image /= _top(layout.dtype)
        part = measure(
            image,
            labels,
            channels=channels,
            pixel_size_um=pixel_um,
            rows=compartment(config.rows),
            origin_px=(canvas.y, canvas.x),
        )
        prefix = f"{compartment(config.rows)}_AreaShape_Center"
        sites = nearest_field(canvas.fields, part[f"{prefix}_Y"].to_numpy(), part[f"{prefix}_X"].to_numpy())
        metadata = dict(zip(METADATA, (paths.plate, well, sites, canvas.t, canvas.z), strict=True))
        parts.append(pd.DataFrame(metadata, index=part.index).join(part))
    columns = cell_columns(label_sets, channels, config.rows)
    if not parts:
        return _empty_table(list(columns))
    table = pd.concat(parts, ignore_index=True).sort_values("ObjectNumber", kind="stable", ignore_index=True)
    quality = {}
    for name in label_sets:
        objects = pd.read_parquet(paths.objects(name, well)).set_index("label")
        matched = objects.reindex(table[f"{compartment(name)}_Number_Object_Number"])
        quality[f"{compartment(name)}_Quality_FlowError"] = matched["flow_error"].to_numpy()
        quality[f"{compartment(name)}_Quality_CellProbability"] = matched["cell_probability"].to_numpy()
    table = table.join(pd.DataFrame(quality, index=table.index))
    return _typed(table[[*METADATA, "ObjectNumber", *columns]])


def read_labels(group: Any, label_set: str, canvas: Canvas) -> NDArray[np.uint32]:
    """The labels YX in a canvas's box, at full size."""
    labels: NDArray[np.uint32] = group[f"labels/{label_set}/0"][(canvas.t, canvas.z, *canvas.slices)]
    return labels


def nearest_field(fields: tuple[FieldBox, ...], y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Name of the field that holds each point (px in the image): the first one where fields overlap, the nearest
    one for a centroid that lies in none (of an object round a corner)."""
    distance = [
        np.hypot(
            np.maximum(np.maximum(box.y - y, y - (box.y + box.height - 1)), 0),
            np.maximum(np.maximum(box.x - x, x - (box.x + box.width - 1)), 0),
        )
        for box in fields
    ]
    # Half a pixel, so that a centroid on the line between two fields that touch is in the first one.
    return np.array([box.name for box in fields], object)[np.argmin(np.floor(np.array(distance) + 0.5), axis=0)]


def _top(dtype: str) -> float:
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Measurements as float32; numbers of objects stay exact."""
    exact = [name for name in table.columns if name.endswith("Number")]
    narrow = {name: np.float32 for name in table.columns if name not in (*METADATA, *exact)}
    return table.astype(narrow | {"ObjectNumber": np.int64, "Metadata_Time": np.int32, "Metadata_Z": np.int32})


def _empty_table(columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    text = {name: pd.Series([], dtype=object) for name in METADATA[:3]}
    numbers = {name: np.zeros(0) for name in (*METADATA[3:], "ObjectNumber", *columns)}
    return _typed(pd.DataFrame(text | numbers))
