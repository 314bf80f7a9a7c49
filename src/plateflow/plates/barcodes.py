"""Maps of many plates as JUMP and LINCS keep them: `barcode_platemap.csv` says which map each plate has.

The maps lie beside it or in `platemap/`, named as `Plate_Map_Name` says. What is known of a treatment may stand in
`external_metadata/` beside the folder of batches, joined by a column that both have.
"""

from __future__ import annotations

from pathlib import Path

from plateflow.errors import PlateflowError
from plateflow.plates.reader import some
from plateflow.plates.tables import Sheet, read_sheets

_BARCODE, _MAP = "assay_plate_barcode", "plate_map_name"
_SUFFIXES = {".txt", ".csv", ".tsv", ".xlsx"}


def is_barcode_table(sheets: list[Sheet]) -> bool:
    """Whether a table says which map each plate has."""
    return bool(sheets[0].rows) and {_BARCODE, _MAP} <= {name.lower() for name in sheets[0].rows[0][1]}


def map_of(path: Path, sheets: list[Sheet], plate: str) -> Path:
    """The map's file of a plate: its barcode is the plate's id, or the id up to a sign (`BR00117035__2021-...`).

    Raises:
        PlateflowError: the table doesn't have the plate, has it twice, or its map isn't there.
    """
    header = [name.lower() for name in sheets[0].rows[0][1]]
    at, named = header.index(_BARCODE), header.index(_MAP)
    maps: dict[str, set[str]] = {}
    for _, cells in sheets[0].rows[1:]:
        if len(cells) > max(at, named):
            maps.setdefault(cells[at], set()).add(cells[named])
    found = maps.get(plate) or {
        name for barcode, names in maps.items() if barcode and _begins(plate, barcode) for name in names
    }
    if len(found) != 1:
        raise PlateflowError(
            "the table of barcodes gives the plate no map" if not found else "the table of barcodes is ambiguous",
            where=f"{path}: {plate}",
            why=f"its barcodes are {some(maps)}" if not found else f"maps of the plate: {some(found)}",
            remedy="name the plate by its barcode in the plate sheet, or name its own map as plate_map",
        )
    name = next(iter(found))
    folders = [path.parent / "platemap", path.parent]
    files = sorted(file for folder in folders if folder.is_dir() for file in folder.iterdir() if file != path)
    fitting = [file for file in files if file.suffix.lower() in _SUFFIXES and _ends(file.stem, name)]
    if not fitting:
        raise PlateflowError(
            "the plate map that the table of barcodes names is not there",
            where=f"{path}: {plate}: {name}",
            remedy=f"copy it to {folders[0] / name}.txt",
        )
    return min(fitting, key=lambda file: len(file.stem))


def _begins(plate: str, barcode: str) -> bool:
    return plate.startswith(barcode) and not plate[len(barcode)].isalnum() if len(plate) > len(barcode) else False


def _ends(stem: str, name: str) -> bool:
    """Whether a file is named so: `lincs_platemap_C-7161` is a map C-7161, too."""
    return stem == name or stem.endswith(f"_{name}")


def external_metadata(folder: Path, rows: list[tuple[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    """The lines of a map, each with what `external_metadata/` says of the treatment that it names."""
    files = sorted(folder.parent.parent.glob("external_metadata/*"))
    for file in files:
        if file.suffix.lower() not in _SUFFIXES:
            continue
        (_, names), *lines = read_sheets(file, "the external metadata")[0].rows or [(0, [])]
        shared = [name for name in names if name and name in rows[0][1]]
        if not shared:
            continue
        at = names.index(shared[0])
        known = {cells[at]: dict(zip(names, cells, strict=False)) for _, cells in lines if len(cells) > at}
        new = [name for name in names if name and name not in rows[0][1]]
        rows = [
            (where, row | {name: known.get(row[shared[0]], {}).get(name, "") for name in new}) for where, row in rows
        ]
    return rows
