"""What role a well plays: from the column `role`, or by the few rules that well-known maps follow."""

from __future__ import annotations

from plateflow.errors import PlateflowError

ROLES = ("negative", "positive", "treatment", "empty")
_JUMP = {"trt": "treatment", "negcon": "negative", "poscon": "positive", "empty": "empty"}
_CELLPROFILER = {"-1": "negative", "0": "treatment", "1": "positive"}
_PLACE = {"well", "row", "column", "well_position", "well_id", "well_name", "plate_map_name"}
"""Columns that say where a well is, not what is in it."""


def role_of(row: dict[str, str], where: str) -> str:
    """The role of a well, one of `ROLES`; the first of these rules that says something:

    1. the column `role`;
    2. JUMP: `pert_type` (or, of a control, `control_type`) begins with trt, negcon, poscon or empty;
    3. CellProfiler: a column whose name ends in control or controls holds -1 (negative), 1 (positive) or 0;
    4. Broad Institute (LINCS, JUMP): `broad_sample` is blank or DMSO, and `solvent` isn't blank: negative;
    5. a line that says nothing beside its well is empty, any other a treatment.

    Args:
        row: the cells of the well's line by column.
        where: of the line, for the message.

    Raises:
        PlateflowError: the column `role` holds something else.
    """
    named = {name.lower(): "" if value.upper() in ("NA", "NAN") else value for name, value in row.items()}
    role = named.get("role", "").lower()
    if role:
        if role not in ROLES:
            raise PlateflowError(
                f"the plate map has the unknown role {row['role']!r}",
                where=where,
                remedy=f"use one of {', '.join(ROLES)}",
            )
        return role
    for column in ("control_type", "pert_type"):
        for start, meant in _JUMP.items():
            if named.get(column, "").lower().startswith(start):
                return meant
    for name, value in named.items():
        if name.endswith(("control", "controls")) and value in _CELLPROFILER:
            return _CELLPROFILER[value]
    if named.get("broad_sample", "?").upper() in ("", "DMSO") and named.get("solvent"):
        return "negative"
    return "treatment" if any(value for name, value in named.items() if name not in _PLACE) else "empty"
