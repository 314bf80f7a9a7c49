"""Raw plates: one reader per vendor behind one protocol, the manifest that they make, plate maps and preflight."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name in __all__:  # where single images are read, nothing of plates and their tables is needed
        homes = {"PlaneError": "pixels", "read_plane": "pixels", "Index": "reader", "Reader": "reader"}
        return getattr(import_module(f"plateflow.plates.{homes.get(name, 'plate')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
