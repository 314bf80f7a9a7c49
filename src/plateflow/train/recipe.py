"""The recipe of a training run: everything that decides the weights, beside the samples."""

from dataclasses import asdict, dataclass, field
from typing import Any

from plateflow.model.vit import FlowViTConfig
from plateflow.train.augment import Augmentation

NETWORKS = {
    "default": FlowViTConfig(width=256, depth=8, heads=4),
    "fast": FlowViTConfig(width=192, depth=6, heads=3),
}
"""The networks that ship: the accurate one, and one of half its time."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How networks are trained, all on the same crops.

    Attributes:
        networks: their names and shapes.
        steps: optimiser steps; None where `seconds` decides.
        seconds: wall-clock time of the training; the schedule then follows the clock, and a run isn't repeatable.
        seed: crop i depends on it and on i alone.
        batch: crops a step.
        crop: side of a crop in px, a multiple of 8.
        learning_rate: the highest.
        warm_up: steps of linear increase; half a cosine down to 1 % follows.
        weight_decay: of AdamW, on matrices and kernels alone.
        averaging: decay a step of the averaged weights, which are the ones that are kept.
        clip: greatest norm of a gradient.
        augmentation: of the crops.
    """

    networks: dict[str, FlowViTConfig] = field(default_factory=lambda: dict(NETWORKS))
    steps: int | None = None
    seconds: float | None = None
    seed: int = 0
    batch: int = 64
    crop: int = 256
    learning_rate: float = 1e-3
    warm_up: int = 200
    weight_decay: float = 0.05
    averaging: float = 0.999
    clip: float = 3.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("a recipe says either how many steps or how many seconds to train")

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON takes it."""
        return asdict(self)
