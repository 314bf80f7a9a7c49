"""The page and the tables over all plates: what is complete, what was left out, and the hits."""

from __future__ import annotations

from typing import Any

from plateflow.errors import number_of
from plateflow.files import write_atomic
from plateflow.project import Plate, Project
from plateflow.state.journal import PLATE_KEY, LeftOut, wells_and_fields
from plateflow.stats.reference import FRAME, by_frame
from plateflow.stats.wells import NOT_ACQUIRED
from plateflow.tables import records

HITS = 50
"""The most hits of a frame that the page lists."""
SHOWN = 200
"""The most lines on what was left out; the plates' own pages have all of them."""
NAMED = 10
"""The most plates that the first line names."""


def write_screen(project: Project) -> str:
    """Write the tables over all plates and screen/report.html; return the page. Equal tables give equal pages."""
    from plateflow.report.page import render
    from plateflow.stats.screen import write_screen_tables

    screen, plates = project.screen, project.plates.values()
    statistics, hit_table = write_screen_tables(screen, [plate.paths for plate in plates], fdr=project.config.stats.fdr)
    verdicts: dict[str, list[dict[str, Any]]] = {}
    for row in records(statistics):
        verdicts.setdefault(row["Metadata_Plate"], []).append(row)
    out = {plate.name: plate.left_out() for plate in plates}
    items = [_plate(plate, out[plate.name]) for plate in plates]
    left_out = [item for of_plate in out.values() for item in of_plate]
    done = [item for item in items if item["wells"]]
    counts = list(dict.fromkeys(name for item in done for name in item["counts"]))
    cards = [(f"{len(done)} / {len(items)}", "plates with tables")]
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
    hits: list[dict[str, Any]] = []
    for _, table in by_frame(hit_table):
        hits += records(table[table["Hit"]].head(HITS)) if len(table) else []
    page = render(
        "screen.html.j2",
        verdict={"level": level, "line": line, "cards": cards},
        plates=[item | {"statistics": verdicts.get(item["plate"], [])} for item in items],
        keys=[name for name in FRAME if name in hit_table and hit_table[name].nunique() > 1],
        hits=hits,
        counts=counts,
        left_out=left_out[:SHOWN],
        more=wells_and_fields(left_out[SHOWN:]),
    )
    write_atomic(screen.table("report.html"), page.encode())
    return page


def _plate(plate: Plate, left_out: list[LeftOut]) -> dict[str, Any]:
    """A plate's row, from its well table; `wells` is 0 if there is none yet."""
    import pyarrow.parquet as pq

    from plateflow.report.page import value_range

    path = plate.paths.table("wells.parquet")
    if not path.is_file():
        return {"plate": plate.name, "wells": 0}
    file = pq.ParquetFile(path)  # opened once: of a table of 10,000 columns that is what takes the time
    present = file.schema_arrow.names
    names = {name: name.removeprefix("Count_").lower() for name in present if name.startswith("Count_")}
    own = [f"Metadata_{name}" for name in ("Well", "State", "Flags", "FieldsUsed")]
    columns = [*own, *(name for name in FRAME if name in present), *names]
    table = file.read(columns=columns, use_threads=False).to_pandas()
    table = table[table["Metadata_State"] != NOT_ACQUIRED]
    wells = table.drop_duplicates("Metadata_Well")  # what is said of a well is the same in all its frames
    states = wells["Metadata_State"].tolist()
    frames = [rows[[*names]].sum() / rows["Metadata_FieldsUsed"].sum() for _, rows in by_frame(table)]
    fields = sum(bool(item.field) for item in left_out)
    aggregate, doubts = plate.outcomes("aggregate").get(PLATE_KEY), plate.doubts()
    drifts = aggregate.info.get("drift", {}).values() if aggregate else ()
    return {
        "plate": plate.name,
        "wells": len(states),
        "shares": [(state, states.count(state) / len(states)) for state in ("ok", "flagged", "quarantined", "missing")],
        "measured": sum(state in ("ok", "flagged") for state in states),
        "flagged": int((wells["Metadata_Flags"].fillna("") != "").sum()),
        "left_out": (len(left_out) - fields, fields),
        "frames": len(frames),
        "counts": {label: int(table[name].sum()) for name, label in names.items()},
        "by_field": {
            label: value_range(min(frame[name] for frame in frames), max(frame[name] for frame in frames))
            for name, label in names.items()
            if wells["Metadata_FieldsUsed"].sum()
        },
        "doubts": "; ".join(doubts),
        "drift": max(drifts, default=None),
    }
