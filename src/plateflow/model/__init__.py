"""Flow models: the network, its weights files, and the registry that says whose they are.

Torch is imported when the network is asked for, not before: `plateflow.model.registry` alone needs none.
"""

from typing import TYPE_CHECKING, Any

from plateflow.model.registry import ModelInfo, model_info

if TYPE_CHECKING:
    from plateflow.model.vit import FlowViT, FlowViTConfig
    from plateflow.model.weights import check_model, load_model, save_model

__all__ = ["FlowViT", "FlowViTConfig", "ModelInfo", "check_model", "load_model", "model_info", "save_model"]


def __getattr__(name: str) -> Any:
    if name in {"FlowViT", "FlowViTConfig"}:
        from plateflow.model import vit

        return getattr(vit, name)
    if name in {"check_model", "load_model", "save_model"}:
        from plateflow.model import weights

        return getattr(weights, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
