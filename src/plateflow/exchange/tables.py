"""Tables, as other programs read them, in a folder that appears whole."""

from __future__ import annotations

import os
from pathlib import Path

from plateflow.errors import ArgumentError, number_of
from plateflow.exchange import cytotable, flat, h5ad
from plateflow.exchange.cells import CellTables
from plateflow.files import whole_folder
from plateflow.project import Plate

FORMS = {"cytotable": cytotable.write, "anndata": h5ad.write, "csv": flat.write}


def export_tables(plate: Plate, form: str, folder: Path) -> list[str]:
    """Write the tables of a plate in a form, as a folder that appears whole; what is written, in words.

    Args:
        form: cytotable, anndata or csv.
        folder: that is made.

    Raises:
        ArgumentError: the folder exists, the form needs a package that isn't installed, or can't hold this plate.
        ResultsError: the plate's tables aren't made yet, or are damaged.
    """
    if os.path.lexists(folder):
        raise ArgumentError("the folder exists already", where=str(folder), remedy="name another with -o")
    tables = CellTables.of(plate)
    with whole_folder(folder) as new:
        lines = FORMS[form](tables, new, folder)
        size = sum(file.stat().st_size for file in new.rglob("*") if file.is_file())
    return [f"{folder}: {number_of(len(tables.measured), 'well[s]')}, {size / 1e6:,.1f} MB", *lines]
