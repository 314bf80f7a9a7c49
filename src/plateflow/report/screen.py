"""One page over all plates, and the tables over all plates: what is complete, what was left out, what was found."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from plateflow.config import Config, PlateEntry, load_config, load_plates
from plateflow.estimate import refine
from plateflow.files import digest, write_atomic
from plateflow.paths import PlatePaths
from plateflow.stages.script import logged
from plateflow.state.journal import outcomes
from plateflow.state.ledger import write_screen_ledger
from plateflow.state.left_out import left_out_lines
from plateflow.stats.wells import NOT_ACQUIRED
from plateflow.tables import records

HITS = 50
SHOWN = 200
"""Lines of what was left out that are written; the plates' own pages have all."""


def run_screen(snakemake: Any) -> None:
    """Write the page over all plates, and its receipt."""
    with logged(Path(snakemake.log[0]), "screen: report"):
        config = load_config(snakemake.config)
        plates = load_plates(Path(config.plates))
        page = write_screen(config, plates)
        screen, *paths = (PlatePaths.of(name, results=config.results) for name in ("screen", *plates))
        refine(config, plates, write_screen_ledger(screen, paths))
        receipt = json.dumps({"stage": "screen", "work": digest(page)}, indent=1) + "\n"
        write_atomic(Path(snakemake.output[0]), receipt.encode())


def write_screen(config: Config, plates: dict[str, PlateEntry]) -> str:
    """Write the tables over all plates and screen/report.html, and return that; the same tables give the same page."""
    from plateflow.report.page import render
    from plateflow.stats.screen import write_screen_tables

    paths = [PlatePaths.of(plate, results=config.results, scratch=config.scratch) for plate in plates]
    screen = PlatePaths.of("screen", results=config.results)
    statistics = write_screen_tables(screen, paths, fdr=config.stats.fdr)
    judged = {row["Metadata_Plate"]: row for row in records(statistics)}
    items = [_plate(path) for path in paths]
    left_out = [line for path in paths for line in left_out_lines(path)]
    done = [item for item in items if item["wells"]]
    counts = list(dict.fromkeys(name for item in done for name in item["counts"]))
    cards = [(f"{len(done)} / {len(items)}", "plates with tables")]
    cards.append((f"{sum(item['measured'] for item in done):,}", "wells measured"))
    cards += [(f"{sum(item['counts'].get(name, 0) for item in done):,}", name) for name in counts]
    level, line = (
        ("warn", f"Left out: {len(left_out)}, listed below.") if left_out else ("good", "Nothing was left out.")
    )
    if len(done) < len(items):
        level, line = "warn", f"{len(items) - len(done)} of {len(items)} plates have no tables yet. {line}"
    if len(left_out) > SHOWN:
        left_out = [*left_out[:SHOWN], f"and {len(left_out) - SHOWN} more: see the plates' pages"]
    page = render(
        "screen.html.j2",
        verdict={"level": level, "line": line, "cards": cards},
        plates=[item | {"statistics": judged.get(item["plate"])} for item in items],
        hits=_hits(screen),
        counts=counts,
        left_out=left_out,
    )
    write_atomic(screen.table("report.html"), page.encode())
    return page


def _hits(screen: PlatePaths) -> list[dict[str, Any]]:
    """The first hits over all plates."""
    from plateflow.report.screening import read_table

    path = screen.table("hits.csv")
    if not path.is_file():
        return []
    table = read_table(path)
    return records(table[table["Hit"]].head(HITS))


def _plate(paths: PlatePaths) -> dict[str, Any]:
    """A plate's line, from its well table; `wells` is 0 where there is none."""
    import pyarrow.parquet as pq

    path = paths.table("wells.parquet")
    if not path.is_file():
        return {"plate": paths.plate, "wells": 0}
    names = [name for name in pq.read_schema(path).names if name.startswith("Count_")]
    table = pq.read_table(path, columns=["Metadata_State", "Metadata_Flags", *names]).to_pydict()
    states = [state for state in table["Metadata_State"] if state != NOT_ACQUIRED]
    aggregate = outcomes(paths.journals("aggregate")).get(("", "", -1))
    drifts = aggregate.info.get("drift", {}).values() if aggregate else ()
    return {
        "plate": paths.plate,
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
