"""The page and the tables over all plates: what is complete, what was left out, and the hits."""

from __future__ import annotations

import math
from typing import Any

from plateflow.files import write_atomic
from plateflow.project import Plate, Project
from plateflow.state.journal import PLATE_KEY
from plateflow.stats.wells import NOT_ACQUIRED
from plateflow.tables import read_table, records

HITS = 50
"""The most hits that the page lists."""
SHOWN = 200
"""The most lines on what was left out; the plates' own pages have all of them."""


def write_screen(project: Project) -> str:
    """Write the tables over all plates and screen/report.html; return the page. Equal tables give equal pages."""
    from plateflow.report.page import render
    from plateflow.stats.screen import write_screen_tables

    screen, plates = project.screen, project.plates.values()
    statistics = write_screen_tables(screen, [plate.paths for plate in plates], fdr=project.config.stats.fdr)
    verdicts = {row["Metadata_Plate"]: row for row in records(statistics)}
    items = [_plate(plate) for plate in plates]
    left_out: list[str] = []
    n_left_out = 0
    for plate in plates:
        lines = plate.left_out()
        left_out += map(str, lines[: SHOWN - len(left_out)])
        n_left_out += len(lines)
    done = [item for item in items if item["wells"]]
    counts = list(dict.fromkeys(name for item in done for name in item["counts"]))
    cards = [(f"{len(done)} / {len(items)}", "plates with tables")]
    cards.append((f"{sum(item['measured'] for item in done):,}", "wells measured"))
    cards += [(f"{sum(item['counts'].get(name, 0) for item in done):,}", name) for name in counts]
    level, line = "good", "Nothing was left out."
    if left_out:
        level, line = "warn", f"Left out: {n_left_out}, listed below."
    if len(done) < len(items):
        level, line = "warn", f"{len(items) - len(done)} of {len(items)} plates have no tables yet. {line}"
    if n_left_out > len(left_out):
        left_out.append(f"and {n_left_out - len(left_out)} more: see the plates' pages")
    hits: list[dict[str, Any]] = []
    if (path := screen.table("hits.csv")).is_file():
        table = read_table(path, rows=HITS)
        hits = records(table[table["Hit"]])
    page = render(
        "screen.html.j2",
        verdict={"level": level, "line": line, "cards": cards},
        plates=[item | {"statistics": verdicts.get(item["plate"])} for item in items],
        hits=hits,
        counts=counts,
        left_out=left_out,
    )
    write_atomic(screen.table("report.html"), page.encode())
    return page


def _plate(plate: Plate) -> dict[str, Any]:
    """A plate's row, from its well table; `wells` is 0 if there is none yet."""
    import pyarrow.parquet as pq

    path = plate.paths.table("wells.parquet")
    if not path.is_file():
        return {"plate": plate.name, "wells": 0}
    file = pq.ParquetFile(path)  # opened once: of a table of 10,000 columns that is what takes the time
    names = [name for name in file.schema_arrow.names if name.startswith("Count_")]
    table = file.read(columns=["Metadata_State", "Metadata_Flags", *names], use_threads=False).to_pydict()
    states = [state for state in table["Metadata_State"] if state != NOT_ACQUIRED]
    aggregate = plate.outcomes("aggregate").get(PLATE_KEY)
    drifts = aggregate.info.get("drift", {}).values() if aggregate else ()
    return {
        "plate": plate.name,
        "wells": len(states),
        "shares": [(state, states.count(state) / len(states)) for state in ("ok", "flagged", "quarantined", "missing")],
        "measured": sum(state in ("ok", "flagged") for state in states),
        "flagged": sum(bool(flags) for flags in table["Metadata_Flags"]),
        "left_out": sum(state in ("quarantined", "missing") for state in states),
        "counts": {
            name.removeprefix("Count_").lower(): int(sum(n for n in table[name] if n is not None and not math.isnan(n)))
            for name in names
        },
        "drift": max(drifts, default=None),
    }
