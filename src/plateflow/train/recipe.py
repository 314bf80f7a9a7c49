"""The recipe of a training run: everything that decides the weights, beside the samples and the weights it starts from.

It is a dataclass of the standard library, as `plateflow.train.default` runs where pydantic needn't be installed; what
comes from a file goes through pydantic, which takes such a class as its model.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from plateflow.errors import ConfigError
from plateflow.model.vit import PATCH, FlowViTConfig
from plateflow.train.augment import Augmentation

NETWORKS = {
    "default": FlowViTConfig(width=256, depth=8, heads=4),
    "fast": FlowViTConfig(width=192, depth=6, heads=3),
}
"""The networks that ship: the accurate one, and one of half its time."""
LEAST_RATE = 0.01
"""Of the highest learning rate, at the end of a cosine."""
STEPWISE_PART, HALVINGS = 0.1, 10
"""The last part of a run, in which a stepwise rate is halved so often, as in Cellpose's training."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How networks are trained, all on the same crops.

    Attributes:
        steps: optimiser steps; None where `seconds` decides.
        seconds: wall-clock time of the training; the schedule then follows the clock, and a run isn't repeatable.
        seed: crop i depends on it and on i alone.
        batch: crops a step, of all devices together.
        accumulate: parts in which each device computes its crops of a step, one after another, to need less memory.
        recompute: keep of each block its input alone and run it again for the gradient: less memory, more time.
        crop: side of a crop in px, a multiple of 8.
        learning_rate: the highest.
        warm_up: steps of linear increase.
        schedule: what follows: half a cosine down to 1 %, or the same rate until it is halved ten times at the end.
        layer_rate: factor of the learning rate from each block to the one before it (Clark et al. 2020, ELECTRA; ViTDet
            takes 0.8 for ViT-L): early layers of a pretrained encoder change less. 1: all alike.
        layer_drop: probability that a crop passes by the last block; it rises linearly from 0 at the first one (Huang
            et al. 2016, "Deep Networks with Stochastic Depth"; Cellpose-SAM takes 0.4).
        weight_decay: of AdamW, on matrices and kernels alone.
        averaging: decay a step of the averaged weights, which are the ones that are kept.
        clip: greatest norm of a gradient.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    networks: dict[str, FlowViTConfig] = field(default_factory=lambda: dict(NETWORKS))
    steps: int | None = None
    seconds: float | None = None
    seed: int = 0
    batch: int = 64
    accumulate: int = 1
    recompute: bool = False
    crop: int = 256
    learning_rate: float = 1e-3
    warm_up: int = 200
    schedule: Literal["cosine", "stepwise"] = "cosine"
    layer_rate: float = 1.0
    layer_drop: float = 0.0
    weight_decay: float = 0.05
    averaging: float = 0.999
    clip: float = 3.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("a recipe says either how many steps or how many seconds to train")
        least = dict.fromkeys(("steps", "batch", "accumulate"), 1)
        least |= dict.fromkeys(("seconds", "seed", "warm_up", "learning_rate", "clip"), 0)
        for name, bound in least.items():
            if (value := getattr(self, name)) is not None and value < bound:
                raise ValueError(f"{name} must be at least {bound}, not {value}")
        for name in ("layer_rate", "layer_drop", "averaging", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise ValueError(f"a batch of {self.batch} crops can't be computed in {self.accumulate} equal parts")
        for name, config in self.networks.items():
            if self.crop < PATCH or self.crop % PATCH or (config.grid and self.crop != config.grid * PATCH):
                need = f"{config.grid * PATCH} px" if config.grid else f"a multiple of {PATCH} px"
                raise ValueError(f"{name} takes crops of {need}, not of {self.crop}")

    def rate(self, step: int, part: float) -> float:
        """The learning rate of step `step`, before which the part `part` of the run, 0 to 1, was done."""
        warm = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        if self.schedule == "cosine":
            falling = LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + float(np.cos(np.pi * min(1.0, part))))
        else:
            at_end = max(0.0, part - (1 - STEPWISE_PART)) / STEPWISE_PART
            falling = 0.5 ** min(HALVINGS, int(at_end * HALVINGS + 1e-9) + (at_end > 0))
        return self.learning_rate * warm * falling

    def done(self, step: int, seconds: float) -> float:
        """The part of the training that is done after so many steps and so much time; 1 and more: all."""
        if self.steps is not None:
            return step / self.steps
        return seconds / self.seconds if self.seconds else 1.0

    def kept_blocks(self, step: int, depth: int) -> np.ndarray | None:
        """Of each crop of a step whether it goes through each block, bool (batch, depth); None: all through all."""
        if not self.layer_drop:
            return None
        chance = np.random.default_rng((self.seed, step, depth)).random((self.batch, depth))
        kept: np.ndarray = chance >= np.linspace(0, self.layer_drop, depth)
        return kept

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON takes it."""
        return asdict(self)


def defaults_for(config: FlowViTConfig, *, trained: bool) -> dict[str, Any]:
    """What a recipe begins with for a network of this shape, with random weights or those of a trained one.

    Fine-tuning of a large encoder goes by Cellpose-SAM's recipe: weight decay 0.1, layer drop 0.4, the rate halved
    stepwise at the end; a small network, which has to be done in minutes on a CPU, takes few crops a step.
    """
    if config.stem == "patch":
        values: dict[str, Any] = {
            "learning_rate": 5e-5,
            "weight_decay": 0.1,
            "layer_drop": 0.4,
            "layer_rate": 0.8,
            "batch": 8,
        }
        values |= {"schedule": "stepwise", "warm_up": 50, "recompute": True, "crop": (config.grid or 32) * PATCH}
        return values | {"averaging": 0.99}
    if trained:
        return {"learning_rate": 5e-4, "warm_up": 10, "batch": 4, "averaging": 0.98}
    return {}


def read_recipe(path: Path) -> dict[str, Any]:
    """Read what a file, YAML or JSON, says of a recipe; it may leave fields to their defaults.

    Raises:
        ConfigError: it can't be read, or isn't a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("the recipe can't be read", where=str(path), why=str(error)) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            "the file doesn't hold a recipe", where=str(path), why="it isn't a mapping of names to values"
        )
    return values


def make_recipe(values: Mapping[str, Any], *, where: str) -> Recipe:
    """Check values with pydantic, unknown names among them, and make a recipe.

    Raises:
        ConfigError: a value or a name isn't right; the message names it.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        faults = [
            ": ".join([".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, ")]).removeprefix(": ")
            for each in error.errors()
        ]
    raise ConfigError("the recipe can't be used", where=where, why="; ".join(faults))


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """In which fields two recipes, as `as_dict` gives them, differ, in words; of `seconds` more may be given."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [
            key for key in dict.fromkeys([*one, *other]) if key != "seconds" or None in (one.get(key), other.get(key))
        ]
        parts = (differences(one.get(key), other.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return [each for part in parts for each in part]
    one, other = (list(each) if isinstance(each, tuple) else each for each in (one, other))
    return [] if one == other else [f"{name} is {one}, and was {other}"]
