"""From images to flow fields by the network; labels of a single image."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plateflow.segment.diameter import estimate_diameter
    from plateflow.segment.image import segment_image

__all__ = ["estimate_diameter", "segment_image"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"plateflow.segment.{name.split('_')[1]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
