"""What was left out of a plate, told from its journals: the last lines of a run, `status`, the page over all plates."""

from __future__ import annotations

import json
from collections.abc import Iterator

from plateflow.chain import STAGES
from plateflow.paths import PlatePaths
from plateflow.state.journal import outcomes


def left_out_lines(paths: PlatePaths) -> Iterator[str]:
    """Plate, well, field, state, stage, reason and detail of all that was left out; each once, at its first stage."""
    try:
        wells = set(json.loads(paths.info.read_text())["wells"])
    except (OSError, ValueError):
        return
    seen: set[tuple[str, str]] = set()
    for stage in STAGES:
        for entry in sorted(outcomes(paths.journals(stage)).values(), key=lambda entry: entry.key):
            whole = entry.left_out
            if entry.well not in wells or not (whole or entry.reason == "fields"):
                continue
            detail = f" ({entry.detail})" if entry.detail else ""
            reason = ", ".join(dict.fromkeys(entry.fields.values())) if whole and entry.fields else entry.reason
            for field, why in {"": reason}.items() if whole else entry.fields.items():
                if seen & {(entry.well, ""), (entry.well, field)}:
                    continue
                seen.add((entry.well, field))
                place = f"{paths.plate}/{entry.well}" + (f" field {field}" if field else "")
                yield f"{place}: {entry.state if whole else 'quarantined'} at {stage}: {why}{detail}"
