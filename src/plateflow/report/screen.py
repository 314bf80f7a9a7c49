"""The page and the tables over all plates: what can be used, how plates differ, the hits, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plateflow.errors import number_of
from plateflow.features.measure import compartment
from plateflow.features.words import in_words
from plateflow.files import write_atomic
from plateflow.paths import SCREEN_PAGE
from plateflow.project import Plate, Project
from plateflow.report import trends
from plateflow.state.journal import PLATE_KEY, Entry, LeftOut, wells_and_fields
from plateflow.stats.groups import group_columns
from plateflow.stats.over_time import compared
from plateflow.stats.reference import FRAME, JUDGED, ROLE, SHARE, by_frame, frame_title, in_use
from plateflow.stats.wells import NOT_ACQUIRED
from plateflow.tables import records

if TYPE_CHECKING:
    import pandas as pd

HITS = 500
"""The most hits of a frame that the page lists."""
SHOWN = 500
"""The most wells and fields that were left out, and pairs of plates, that are listed."""
NAMED = 10
"""The most plates that the first line names."""
REASONS = 2
"""Reasons of a plate's verdict that its row gives; its own page gives all."""
STATES = ("ok", "flagged", "quarantined", "missing")


def write_screen(project: Project) -> str:
    """Write the tables over all plates and screen/index.html; return the page. Equal tables give equal pages."""
    from plateflow.report.page import USABLE, library, render
    from plateflow.stats.screen import write_screen_tables

    screen, plates = project.screen, project.plates.values()
    paths = [plate.paths for plate in plates]
    stats = project.config.stats
    groups = group_columns(stats)
    statistics, hit_table, replicates = write_screen_tables(screen, paths, fdr=stats.fdr, groups=groups)
    verdicts: dict[str, list[dict[str, Any]]] = {}
    for row in records(statistics):
        group = ", ".join(str(row[name]) for name in groups if row.get(name))
        verdicts.setdefault(row["Metadata_Plate"], []).append(row | {"group": group and f"{group}: "})
    out = {plate.name: plate.left_out() for plate in plates}
    made = {plate.name: plate.outcomes("aggregate").get(PLATE_KEY) for plate in plates}
    features = trends.followed(
        f"Count_{compartment(project.config.row_label_set)}", [each for each in made.values() if each]
    )
    agreement = trends.replicate_trend(replicates, groups) if len(replicates) else {}
    items = []
    for number, plate in enumerate(plates, 1):
        item = _plate(plate, made[plate.name], out[plate.name], features)
        item["trends"] = item.get("trends", {}) | {"replicates": agreement.get(plate.name, [])}
        items.append(item | {"number": number, "statistics": verdicts.get(plate.name, [])})
    left_out = [item for of_plate in out.values() for item in of_plate]
    channels = list(dict.fromkeys(name for plate in plates if made[plate.name] for name in plate.channels))
    charts = list(trends.charts(items, features, channels))
    titles = dict.fromkeys(
        frame_title(row["frame"]) for item in items for rows in item["trends"].values() for row in rows
    )
    page = render(
        "screen.html.j2",
        verdict=_verdict(items, left_out),
        plates=items,
        usable=USABLE,
        keys=[name for name in (*FRAME, *groups) if name in hit_table and hit_table[name].nunique() > 1],
        hits=_hits(hit_table, channels, groups),
        counts=list(dict.fromkeys(name for item in items for name in item.get("counts", ()))),
        charts=charts,
        frames=[title for title in titles if title],
        library=library() if charts else "",
        pairs=_pairs(replicates),
        more_pairs=max(0, len(replicates) - SHOWN),
        left_out=left_out[:SHOWN],
        more=wells_and_fields(left_out[SHOWN:]),
    )
    write_atomic(screen.table(SCREEN_PAGE), page.encode())
    return page


def _verdict(items: list[dict[str, Any]], left_out: list[LeftOut]) -> dict[str, Any]:
    """The first lines: what is complete, what to look at, and the figures that matter."""
    done = [item for item in items if item["wells"]]
    counts = list(dict.fromkeys(name for item in done for name in item["counts"]))
    cards = [(f"{len(done)} / {len(items)}", "plates with tables")]
    cards.append((f"{sum(item['level'] in ('good', 'warn') for item in done)} / {len(done)}", "of them usable"))
    cards.append((f"{sum(item['measured'] for item in done):,}", "wells measured"))
    in_all = " in all frames" if any(item["frames"] > 1 for item in done) else ""
    cards += [(f"{sum(item['counts'].get(name, 0) for item in done):,}", name + in_all) for name in counts]
    level, line = "good", "Nothing was left out."
    if left_out:
        level, line = "warn", f"Left out: {wells_and_fields(left_out)}, listed below."
    if doubtful := [item["plate"] for item in done if item["doubts"]]:
        look = number_of(len(doubtful), "plate[s are| is] to be looked at: see [their verdicts|its verdict]")
        level, line = "warn", f"{line} {look}: {', '.join(doubtful[:NAMED])}{', ...' * (len(doubtful) > NAMED)}."
    if len(done) < len(items):
        lack = number_of(len(items) - len(done), f"of {number_of(len(items), 'plate[s]')} [have|has] no tables yet.")
        level, line = "warn", f"{lack} {line}"
    return {"level": level, "line": line, "cards": cards}


def _plate(plate: Plate, made: Entry | None, left_out: list[LeftOut], features: Sequence[str]) -> dict[str, Any]:
    """A plate's row, from its well table, of which only what is shown is read; `wells` is 0 if there is none yet."""
    import pyarrow.parquet as pq

    from plateflow.report.page import level_of, nothing_in_use, value_range

    path = plate.paths.table("wells.parquet")
    if not path.is_file():
        return {"plate": plate.name, "wells": 0}
    file = pq.ParquetFile(path)  # opened once: of a table of 10,000 columns that is what takes the time
    present = file.schema_arrow.names
    names = {name: name.removeprefix("Count_").lower() for name in present if name.startswith("Count_")}
    own = [f"Metadata_{name}" for name in ("Well", "State", "Flags", "FieldsUsed", "FieldsLeftOut", "FieldsExcluded")]
    followed = [name for name in features if name in present]
    stats = plate.config.stats
    groups = group_columns(stats)
    judged = [f"{name}{JUDGED}" for name in followed if name.startswith(SHARE)]
    columns = dict.fromkeys([*own, *FRAME, ROLE, *groups, *names, *followed, *judged])
    table = file.read(columns=[name for name in columns if name in present], use_threads=False).to_pandas()
    table = table[table["Metadata_State"] != NOT_ACQUIRED]
    wells = table.drop_duplicates("Metadata_Well")  # what is said of a well is the same in all its frames
    states = wells["Metadata_State"].tolist()
    frames = [rows[[*names]].sum() / rows["Metadata_FieldsUsed"].sum() for _, rows in by_frame(table)]
    fields = sum(bool(item.field) for item in left_out)
    info, measured = made.info if made else {}, sum(state in ("ok", "flagged") for state in states)
    drifts: dict[str, float] = info.get("drift", {})
    in_statistics = int(in_use(wells).sum())
    level = level_of(info, in_statistics, left_out)
    reasons = _reasons(info, left_out, groups) if in_statistics else [nothing_in_use(measured)]
    return {
        "plate": plate.name,
        "wells": len(states),
        "shares": [(state, states.count(state), states.count(state) / len(states)) for state in STATES],
        "measured": measured,
        "flagged": int((wells["Metadata_Flags"].fillna("") != "").sum()),
        "left_out": (len(left_out) - fields, fields),
        "frames": len(frames),
        "counts": {label: int(table[name].sum()) for name, label in names.items()},
        "by_field": {
            label: value_range(min(frame[name] for frame in frames), max(frame[name] for frame in frames))
            for name, label in names.items()
            if wells["Metadata_FieldsUsed"].sum()
        },
        "level": level,
        "reasons": reasons[:REASONS],
        "more": max(0, len(reasons) - REASONS),
        "doubts": "; ".join(plate.doubts()),
        "drift": max(drifts.values(), default=None),
        "trends": {
            **trends.control_medians(compared(table, stats.time), followed, groups),
            "Z'": trends.z_primes(plate.paths.table("controls.csv"), features, groups),
            "drift": [{"frame": {}, "series": channel, "value": value} for channel, value in drifts.items()],
            "left out": _shares_left_out(wells, left_out),
        },
    }


def _reasons(info: dict[str, Any], left_out: list[LeftOut], groups: Sequence[str]) -> list[str]:
    """Why a plate's level isn't `good`."""
    from plateflow.stats.statistics import summaries_of

    reasons = [f"left out: {wells_and_fields(left_out)}"] if left_out else []
    reasons += [f"look at the segmentation: {doubt['line']}" for doubt in info.get("segmentation", ())]
    reasons += [f"look at the intensities: {doubt}" for doubt in info.get("doubts", ())]
    poor = [
        f"{frame_title({name: each[name] for name in groups if name in each})}: {why}".removeprefix(": ")
        for each in summaries_of(info)
        if each["controls"]["grade"] == "poor"
        for why in each["controls"]["reasons"]
    ]
    return [*reasons, *dict.fromkeys(why.partition(";")[0] for why in poor)]


def _shares_left_out(wells: pd.DataFrame, left_out: list[LeftOut]) -> list[dict[str, Any]]:
    """Shares of a plate's wells that were left out, and of its fields, those of these wells included."""
    lost, excluded = (
        sum(len(names.split(",")) for names in wells[f"Metadata_Fields{what}"].fillna("") if names)
        for what in ("LeftOut", "Excluded")
    )
    shares = {"wells": sum(not item.field for item in left_out) / max(1, len(wells))}
    shares["fields"] = lost / max(1, lost + excluded + wells["Metadata_FieldsUsed"].sum())
    return [{"frame": {}, "series": name, "value": float(value)} for name, value in shares.items()]


def _hits(table: pd.DataFrame, channels: Sequence[str], groups: Sequence[str]) -> list[dict[str, Any]]:
    """The first hits of each frame and group, with their lead features in words."""
    found: list[dict[str, Any]] = []
    for _, rows in by_frame(table, groups):
        found += records(rows[rows["Hit"]].head(HITS)) if len(rows) else []
    return [row | {"words": in_words(row["Feature"], channels)} for row in found]


def _pairs(replicates: pd.DataFrame) -> list[dict[str, Any]]:
    """The pairs of plates that agree least."""
    return records(replicates.sort_values("Correlation", kind="stable").head(SHOWN)) if len(replicates) else []
