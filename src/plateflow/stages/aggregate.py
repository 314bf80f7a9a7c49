"""The stage `aggregate`: the tables of a plate.

Reads: the cell and object tables, one well at a time, histograms, the intensity window, the plate map; no image, so a
    changed plate map costs seconds.
Writes: wells.parquet, wells.csv, summary.csv, qc.parquet, features.json, on request fields.parquet, the tables of
    `stats.statistics`, gates/<well>.parquet and manifest/gates.json (`stages.gating`), and in plate.zarr the cell
    tables, by a second name, with the list of each image's tables.
Work item: the plate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.chain import SPOTS, labels_stage
from plateflow.config import Config
from plateflow.errors import PlateflowError
from plateflow.features.columns import cell_columns, with_pixels
from plateflow.features.measure import compartment
from plateflow.features.quality import CLIPPED
from plateflow.files import digest, remove, write_json
from plateflow.images.canvas import nearest_field
from plateflow.images.window import load_window
from plateflow.model.registry import model_spec
from plateflow.project import Plate
from plateflow.segment.grid import pixel_um
from plateflow.stages.gating import gate, numbers_made_from
from plateflow.stages.job import Job, Outcome, WorkItem
from plateflow.stages.reading import read_listed
from plateflow.stages.runner import one_by_one, run_job
from plateflow.stages.spots import spot_doubts, spots_of_plate
from plateflow.state.corrections import corrections
from plateflow.state.journal import Entry
from plateflow.stats.gates import ROWS_EXCLUDED_BY, ROWS_INCLUDED, Decision, fails_by_area
from plateflow.stats.rules import gates_of
from plateflow.stats.segmentation import Expected, Found, judge, plate_doubts, unmatched_of
from plateflow.tables import records, write_table

if TYPE_CHECKING:
    import pandas as pd

    from plateflow.stats.flags import WellFields


def work_items(job: Job) -> list[WorkItem[pd.DataFrame | None]]:
    """The plate, with all that its tables are made of; its data is the plate map."""
    tiled, measured, plate_map = job.plate.outcomes("tile"), job.plate.outcomes("features"), None
    if job.plate.spec.plate_map is not None:
        from plateflow.plates.platemap import read_plate_map

        plate_map = read_plate_map(job.plate.spec.plate_map, job.plate.name)
    depends = {
        "features": [[well, *_stamp(measured.required(well))] for well in job.wells],
        "tile": [[well, *_stamp(tiled.required(well))] for well in job.wells],
        "window": load_window(job.paths).fingerprint(job.plate.channels),
        "plate map": "" if plate_map is None else digest(plate_map.to_csv(index=False)),
        "parameters": job.parameters(),
    }
    n_frames = math.prod(job.plate.metadata[axis] for axis in _frame_axes(job.config))
    if n_frames > 1:  # so tables of an earlier version, which know no frames, can't be accepted
        depends["frames"] = n_frames
    if job.plate.spec.format is not None:  # it says which wells lie at the edge, and may come after the images
        depends["format"] = job.plate.metadata["format"]
    if by_hand := _correction_doubts(job.plate):
        depends["corrections"] = by_hand
    if gates_of(job.config, job.plate.channels).of_plate:
        depends["numbers of the plate"] = numbers_made_from(job.plate)
    return [WorkItem(depends=depends, data=plate_map)]


def _frame_axes(config: Config) -> dict[str, str]:
    """The manifest's columns that tell frames apart, with their names in tables (`stats.reference.FRAME`)."""
    planes_apart = config.z == "keep" and config.segmentation[config.row_label_set].dimensions == 2
    return {"t": "Metadata_Time"} | ({"z": "Metadata_Z"} if planes_apart else {})


def _stamp(entry: Entry) -> list[Any]:
    return [entry.fingerprint, entry.state, entry.reason, entry.fields]


def run(job: Job) -> None:
    """Write the tables of a plate."""
    run_job(
        job,
        lambda: work_items(job),
        one_by_one(lambda item: aggregate(job.plate, item.data)),
        owned=lambda _: [job.paths.gates("A01").parent, job.paths.frozen_gates],
    )


def aggregate(plate: Plate, plate_map: pd.DataFrame | None) -> Outcome:
    """Write the well table, the quality table, the data dictionary, and the tables of statistics."""
    import pandas as pd

    from plateflow.stats.flags import drift, field_flags, fields_in_use, wells_off
    from plateflow.stats.groups import check_groups
    from plateflow.stats.over_time import check_time
    from plateflow.stats.qc import read_quality
    from plateflow.stats.statistics import write_statistics
    from plateflow.stats.summary import write_summary
    from plateflow.stats.wells import dictionary, map_column, medians_of, sites_of, well_table

    paths, config, channels = plate.paths, plate.config, plate.channels
    check_groups(config.stats, plate_map, plate.name)
    check_time(config.stats, plate.metadata["t"], plate.name)
    tiled, outcomes = plate.outcomes("tile"), plate.outcomes("features")
    measured = {well: outcomes.required(well) for well in plate.wells}
    fields, frames = _fields_and_frames(plate)
    left_out = {well: _left_out(fields[well], tiled.required(well), entry) for well, entry in measured.items()}
    for path in paths.cells("A01").parent.glob("*.parquet"):
        if path.stem not in measured:  # of a well that the plate no longer has
            remove(path)
    window, columns = load_window(paths), cell_columns(config, channels)
    saturated, percentiles = config.quality.saturated_fraction, config.normalise.percentiles
    clipped = f"{compartment(config.row_label_set)}_{CLIPPED.name}"
    measured_wells = [well for well, entry in measured.items() if not entry.left_out]
    objects = {well: sites_of(paths.cells(well), clipped, saturated) for well in measured_wells}
    quality = read_quality(paths, fields, left_out, objects, channels, percentiles, saturated)
    first_channels = list(dict.fromkeys(settings.channels[0] for settings in config.segmentation.values()))
    qc = field_flags(quality.fields, config.quality, first_channels)
    off = wells_off(quality.wells, config.quality)
    expected = _expected(plate)
    numbers, raised = judge({well: _found(plate, well, measured[well]) for well in measured_wells}, expected)
    untrusted = plate.metadata.get("untrusted_positions", ())  # none where an older ingest was accepted
    others = {well: [*raised.get(well, ()), *(["positions"] * (well in untrusted))] for well in measured}
    use = fields_in_use(fields, left_out, qc, off, config.stats.exclude_flags, others)

    gates, decisions, gated = gate(plate, {well: use[well].excluded for well in measured_wells}, plate_map)
    medians, counts = medians_of(columns), [f"Count_{compartment(name)}" for name in config.segmentation]
    rows, values, field_rows = _rows(plate, measured, frames, use, medians, decisions)
    rows = [row | numbers.get(row["Metadata_Well"], {}) for row in rows]
    _put_cells(plate, measured)
    table = well_table(plate.name, rows, values, plate_map, counts=counts + gates.shares, medians=medians)
    corrected = {well: ",".join(entry.info.get("corrected", ())) for well, entry in measured.items()}
    if any(corrected.values()):
        by_well = table["Metadata_Well"].map(corrected).fillna("")
        table.insert([*table].index("Metadata_State"), "Metadata_Corrected", by_well)
    write_table(paths.table("wells.parquet"), table)
    write_table(paths.table("wells.csv"), table)
    write_table(paths.table("qc.parquet"), qc)
    evened = {channel: not light.why for channel, light in window.lights.items()}
    write_json(paths.table("features.json"), dictionary(with_pixels(columns, evened)))
    if config.stats.by_field:
        write_table(paths.table("fields.parquet"), pd.DataFrame(field_rows))
    else:
        remove(paths.table("fields.parquet"))
    now = {channel: list(limits.values()) for channel, limits in quality.now.items()}
    drifts = {channel: round(drift(window.limits(channel), limits), 6) for channel, limits in now.items()}
    verdicts = write_statistics(paths, table, medians, config.stats, plate.metadata["format"])
    mapped = [] if plate_map is None else [map_column(str(name)) for name in plate_map if name != "well"]
    summary = write_summary(paths, table, mapped, config.stats, channels)
    spots = {name: spots_of_plate(config, name, window, measured) for name in config.spots}
    doubts, segmentation = window.doubts(drifts) + spot_doubts(plate.name, spots), plate_doubts(table, expected)
    info = {"window now": now, "drift": drifts, "raw values": quality.used, "doubts": doubts, "frames": verdicts}
    info |= {"segmentation": segmentation, "summary": summary, "gates": gated}
    if spots:
        info[SPOTS] = spots
    if by_hand := _correction_doubts(plate):
        info["corrections"] = by_hand
    lines_of = [doubt["line"] for doubt in segmentation]
    reasons = {"corrections": by_hand, "window": doubts, "segmentation": lines_of, "gates": gated["doubts"]}
    reasons = {name: lines for name, lines in reasons.items() if lines}
    return Outcome(
        state="flagged" if reasons else "ok",
        reason=", ".join(reasons),
        detail="; ".join(line for lines in reasons.values() for line in lines),
        info=info,
    )


def _put_cells(plate: Plate, measured: Mapping[str, Entry]) -> None:
    """Put the tables of cells and spots into the images of the store, for ngio; a well that is left out has none."""
    from plateflow.images.store import list_tables, put_cells

    paths, rows = plate.paths, plate.config.row_label_set
    for well, entry in measured.items():
        if entry.left_out:
            list_tables(paths.image(well))
        else:
            cells, labels = paths.cells(well), plate.labels_name(well, rows)
            files = {name: paths.spots(name, well) for name in entry.info.get(SPOTS, ())}
            spots = {name: (file, entry.files[paths.key_of(file)]) for name, file in files.items()}
            put_cells(paths.image(well), cells, entry.files[paths.key_of(cells)], rows, labels, spots)


def _correction_doubts(plate: Plate) -> list[str]:
    """What to know of corrections: those that aren't in use, and those made from an earlier segmentation.

    Raises:
        ResultsError: a well isn't done.
    """
    wells, lines = set(plate.wells), dict[str, list[str]]()
    for well, name in sorted(corrections(plate.paths)):
        if well not in wells or name not in plate.config.segmentation or name not in plate.label_sets(well):
            continue
        correction = plate.correction(well, name)
        if correction is None:
            what = "aren't in use, as their images have changed since: correct them again"
        elif correction.made_from != plate.labels_id(well, name):
            what = "stand, though they were made from an earlier segmentation"
        else:
            continue
        lines.setdefault(f"labels of {name} that were corrected by hand {what}", []).append(well)
    return [f"{line}: {', '.join(of_line)}" for line, of_line in lines.items()]


def _expected(plate: Plate) -> dict[str, Expected]:
    """What the objects of each label set should be like; of a model that can't be asked, of any size."""
    expected = {}
    for name, settings in plate.config.segmented.items():
        try:
            spec, scale = model_spec(settings.model), plate.grid(name).scale
        except PlateflowError:
            expected[name] = Expected(channel=settings.channels[0])
            continue
        expected[name] = Expected.of(
            settings.channels[0], scale=scale, diameter=spec.diameter, diameters=spec.diameters
        )
    return expected


def _found(plate: Plate, well: str, measured: Entry) -> dict[str, Found]:
    """What there is to judge of each label set of a well."""
    import pandas as pd

    labelled, found = plate.outcomes(labels_stage(plate.config)), {}
    unmatched = measured.info.get("unmatched")
    if unmatched is None:  # each object that has no partner is without a row, or a row
        unmatched = unmatched_of(plate.paths.cells(well), plate.config, measured.info.get("without a row", {}))
    for name in plate.segmented(well):
        settings = plate.config.segmentation[name]
        standing = plate.labels_name(well, name)
        by_hand = standing != name
        areas = pd.read_parquet(plate.paths.objects(standing, well), columns=["area_px"])["area_px"]
        flat = len(areas) and settings.dimensions == 2
        counts = measured.info.get("brightness", {}).get(name)
        found[name] = Found(
            objects=len(areas),
            area_px=int(areas.sum()),
            dropped=None if by_hand else labelled.required(well, name).info.get("dropped"),
            diameter_px=float(np.sqrt(4 / np.pi * areas.median())) if flat else np.nan,
            unmatched=unmatched.get(compartment(name)),
            bright=np.array(counts) if counts else None,
        )
    return found


def _fields_and_frames(plate: Plate) -> tuple[dict[str, list[str]], dict[str, list[dict[str, int]]]]:
    """By well, the names of its fields in the manifest's order, and the frames in which it can have rows."""
    import pandas as pd

    fields, frames, axes = {}, {}, _frame_axes(plate.config)
    needed = set(plate.channels_of(plate.config.row_label_set))
    planes = pd.read_parquet(plate.paths.planes, columns=["well", "field", "channel", *axes]).rename(columns=axes)
    for well, rows in planes.groupby("well", sort=False):
        fields[str(well)] = list(dict.fromkeys(rows["field"]))
        own = rows[rows["channel"].isin(needed)]
        own = own[own.groupby("Metadata_Time")["channel"].transform("nunique") == len(needed)]
        taken = rows if own.empty else own  # without its channels the well has no rows at all, and says why
        frames[str(well)] = records(taken[[*axes.values()]].drop_duplicates().sort_values([*axes.values()]))
    return fields, frames


def _left_out(names: Collection[str], tiled: Entry, measured: Entry) -> dict[str, tuple[str, str]]:
    """Of a well, the fields that are quarantined or missing, with state and reason."""
    fields = dict[str, tuple[str, str]]()
    if measured.left_out:
        fields |= dict.fromkeys(names, (measured.state, measured.reason))
    return fields | {name: ("quarantined", tiled.fields[name]) for name in names if name in tiled.fields}


def _rows(
    plate: Plate,
    measured: Mapping[str, Entry],
    frames: Mapping[str, Sequence[Mapping[str, int]]],
    use: Mapping[str, WellFields],
    medians: list[str],
    decisions: Mapping[str, Decision],
) -> tuple[list[dict[str, Any]], NDArray[np.float64], list[dict[str, Any]]]:
    """The rows of the well table, their values, and the rows of the table of fields, which are made on request."""
    import pyarrow as pa

    from plateflow.stats.wells import SPREADS, read_cells

    paths, config = plate.paths, plate.config
    rows, field_rows = list[dict[str, Any]](), list[dict[str, Any]]()
    values = np.full((sum(map(len, frames.values())), (1 + len(SPREADS)) * len(medians)), np.nan)
    row_count = f"Count_{compartment(config.row_label_set)}"
    others = [name for name in config.segmentation if name != config.row_label_set]
    for well, entry in measured.items():
        fields = use[well]
        state = entry.state if entry.left_out else "flagged" if fields.flags else "ok"
        own = {"Metadata_State": state, "Metadata_Reason": entry.reason, **fields.metadata()}
        own |= {ROWS_INCLUDED: np.nan, ROWS_EXCLUDED_BY: ""}  # so there is a column where no well is in use
        places = [{"Metadata_Well": well, **frame} for frame in frames[well]]
        # Compared of wells that aren't used, too: numbers of cells by field came from it.
        source = None if entry.left_out else pa.BufferReader(read_listed(plate, "features", entry, paths.cells(well)))
        if not fields.used:
            rows += [place | own for place in places]
            continue
        by_field = row_count if config.stats.by_field else ""
        decision = decisions[well]
        tables = read_cells(
            source, medians, frames[well], gates=decision.wells[well], without=fields.excluded, count_by_field=by_field
        )
        has, axes = plate.label_sets(well), len(frames[well][0])
        counts = {name: _objects(plate, well, name, fields.excluded, axes, decision) for name in others if name in has}
        for frame, place, cells in zip(frames[well], places, tables, strict=True):
            values[len(rows)] = cells.values.ravel()
            at = tuple(frame.values())
            of_frame = {f"Count_{compartment(name)}": count[at] for name, count in counts.items() if at in count}
            pairs = {f"Count_{compartment(name)}": cells.rows for name in config.paired}
            of_frame |= {name: n for name, n in pairs.items() if name in of_frame}
            rows.append(place | own | {row_count: cells.rows} | of_frame | cells.gated)
            for name in fields.used if by_field else ():
                site = {"Metadata_Plate": plate.name, **place, "Metadata_Site": name}
                field_rows.append(site | cells.fields.get(name, {row_count: 0}))
    return rows, values, field_rows


def _objects(
    plate: Plate, well: str, label_set: str, excluded: Collection[str], axes: int, decision: Decision
) -> Counter[tuple[int, ...]]:
    """Number of objects of a label set whose seed lies in none of the excluded fields, by t, or by t and z, of those at
    which the well has it.

    Without those that its filter leaves out: what is matched to a row by all that the row says of it, the others, which
    aren't measured, by their area.
    """
    import pyarrow.parquet as pq

    path = plate.paths.objects(plate.labels_name(well, label_set), well)
    table = pq.read_table(path, columns=["canvas", "seed_y", "seed_x", "label", "area_px"])
    numbers, y, x, labels, areas = (table[name].to_numpy() for name in table.column_names)
    kept = ~np.isin(labels, decision.wells[well].objects.get(label_set, ()))
    if label_set in decision.gates.numbers:
        kept &= ~fails_by_area(decision, label_set, areas, pixel_um(plate.metadata) or np.nan)
    counts = Counter[tuple[int, ...]]()
    for canvas in plate.canvases(well, label_set):
        inside, frame = (numbers == canvas.index) & kept, (canvas.t, canvas.z)[:axes]
        counts[frame] += 0
        if inside.any():
            sites = nearest_field(canvas.fields, y[inside], x[inside])
            counts[frame] += int(np.isin(sites.astype(str), list(excluded), invert=True).sum())
    return counts
