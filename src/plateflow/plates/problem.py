"""What preflight reports: one problem of a raw plate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from plateflow.config import PlateEntry
from plateflow.errors import PlateflowError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something about a raw plate that a person should know: what, where, and what to do.

    Attributes:
        severity: error where the plate, or a part of it, can't be used; warning where something is probably wrong;
            note where it is as it may be (fields that overlap on purpose), but has consequences.
        plate, well, field, file: where; empty where it concerns all.
        what: one sentence.
        remedy: what the user can do.
    """

    severity: Severity
    plate: str
    well: str = ""
    field: str = ""
    file: str = ""
    what: str
    remedy: str = ""


def as_problem(entry: PlateEntry, error: PlateflowError) -> Problem:
    """An error that stops the plate, as a line of the report."""
    where = error.where.removeprefix(f"{entry.plate}: ")
    what = ": ".join(part for part in (error.what, where, error.why) if part)
    return Problem(severity="error", plate=entry.plate, what=what, remedy=error.remedy)
