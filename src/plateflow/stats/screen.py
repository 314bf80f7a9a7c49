"""The tables over all plates, assembled from each plate's own tables, which are not computed again for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from plateflow.files import remove
from plateflow.paths import PlatePaths
from plateflow.state.journal import outcomes
from plateflow.stats.hits import SIDES, hit_table, pooled
from plateflow.tables import write_table

if TYPE_CHECKING:
    import pandas as pd


def write_screen_tables(screen: PlatePaths, plates: Sequence[PlatePaths], *, fdr: float) -> pd.DataFrame:
    """Write plates.csv, controls.csv and hits.csv of the screen.

    Treatments are pooled over the plates that have them (`hits.pooled`), so replicates may lie on different plates.
    The effects of all plates are in memory: treatments x features x 6 bytes, and a few times that while they are
    pooled.

    Args:
        screen: where the tables go.
        plates: all plates; those without tables yet, or with tables of an earlier version, are skipped.
        fdr: false discovery rate at which a treatment is called a hit.

    Returns:
        plates.csv: one row per plate with tables: the grade and reasons of its controls, its hits or why it has none,
        and how many features have position effects.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    controls, effects = [], []
    for paths in plates:
        entry = outcomes(paths.journals("aggregate")).get(("", "", -1))
        if entry is None or "controls" not in entry.info or not paths.table("effects.parquet").is_file():
            continue
        info = entry.info
        rows.append(
            {
                "Metadata_Plate": paths.plate,
                "Controls": info["controls"]["grade"],
                "ControlReasons": "; ".join(info["controls"]["reasons"]),
                "Hits": info["hits"]["hits"],
                "Treatments": info["hits"]["treatments"],
                "HitReasons": info["hits"]["why none"],
                **{f"Position_{name}": count for name, (count, _) in info["positions"].items()},
            }
        )
        # As text, so that numbers are not rounded again, and a treatment may be called 101 or NA.
        controls.append(pd.read_csv(paths.table("controls.csv"), keep_default_na=False, dtype=str))
        table = pd.read_parquet(paths.table("effects.parquet"))
        if len(table):
            effects.append(table)
    summary = pd.DataFrame(rows, columns=None if rows else ["Metadata_Plate"])
    write_table(screen.table("plates.csv"), summary)
    control_table = pd.concat(controls, ignore_index=True) if controls else pd.DataFrame(rows)
    write_table(screen.table("controls.csv"), control_table)
    if effects:
        together = pd.concat(effects, ignore_index=True)
        features = [str(name) for name in together if not str(name).startswith("Metadata_")]
        features = [name for name in features if not name.endswith(SIDES)]
        write_table(screen.table("hits.csv"), hit_table(pooled(together, features), fdr=fdr))
    else:
        remove(screen.table("hits.csv"))
    return summary
