"""Raw plates: one reader per vendor behind one protocol, the manifest that they make, plate maps and preflight."""

from plateflow.plates.pixels import PlaneError, read_plane
from plateflow.plates.plate import READERS, RawPlate, index_plate, open_plate, recognise
from plateflow.plates.reader import Index, Reader

__all__ = [
    "READERS",
    "Index",
    "PlaneError",
    "RawPlate",
    "Reader",
    "index_plate",
    "open_plate",
    "read_plane",
    "recognise",
]
