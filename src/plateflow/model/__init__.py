"""Flow models: the network, its weights files, and the registry of models with their terms of use.

Torch is imported on first use of the network; `plateflow.model.registry` doesn't need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from plateflow.model.registry import ModelSpec, model_spec

if TYPE_CHECKING:
    from plateflow.model.vit import FlowViT, FlowViTConfig
    from plateflow.model.weights import check_model, load_model, save_model

__all__ = ["FlowViT", "FlowViTConfig", "ModelSpec", "check_model", "load_model", "model_spec", "save_model"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # all but what is imported above
        home = "vit" if name.startswith("FlowViT") else "weights"
        return getattr(import_module(f"plateflow.model.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
