"""How much memory of a GPU a training will need."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from plateflow.model.registry import IN_CHANNELS
from plateflow.model.vit import PATCH, FlowViT, FlowViTConfig
from plateflow.train.ranks import Ranks
from plateflow.train.recipe import Recipe

FIXED = 1.0e9
"""Bytes of CUDA itself, its libraries' work space and what the allocator can't use."""


def memory_need(recipe: Recipe) -> tuple[float, float]:
    """Estimate the memory of one GPU: bytes of the weights, and of the crops computed at a time.

    Weights: each is there five times as float32: itself, its gradient, two moments of AdamW, the average; a sixth time
    where several processes exchange gradients; and once in bfloat16. Crops: copies of the network with one and two
    blocks are run on the CPU with one and two crops, in bfloat16 where a GPU would, and the tensors that autograd keeps
    for the gradient are counted, each storage once; what the second crop adds is a crop's, and of that what the second
    block adds is a block's, the rest that of stem, neck and heads. Of blocks that are recomputed, only the inputs are
    kept, and one block at a time as a whole. Gradients of what is kept last are reckoned as another block.
    On an H200 five ways of training a ViT-L took 83 to 97 % of this (docs/performance.md).
    """
    ranks = Ranks.of_environment()
    at_once = recipe.batch // ranks.world // recipe.accumulate
    weights, crops = 0.0, 0.0
    for config in recipe.networks.values():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in FlowViT(config).parameters())
        weights += count * (4 * (6 if ranks.world > 1 else 5) + 2)
        one, two = (_kept_by_a_crop(replace(config, depth=depth), recipe.crop) for depth in (1, 2))
        block, rest = two - one, 2 * one - two
        inputs = 4 * config.width * (recipe.crop // PATCH) ** 2
        blocks = config.depth * inputs + block if recipe.recompute else config.depth * block
        crops = max(crops, at_once * (rest + blocks + block))
    return weights, crops


def memory_words(recipe: Recipe) -> str:
    """The estimate as the command line tells it."""
    weights, crops = memory_need(recipe)
    spare = "" if recipe.recompute or crops < weights else "; `recompute: true` or `accumulate` in a recipe need less"
    parts = f"{weights / 1e9:.1f} for weights and their averages, {crops / 1e9:.1f} for crops"
    return f"on a GPU this takes about {(weights + crops + FIXED) / 1e9:.1f} GB of memory ({parts}){spare}"


def _kept_by_a_crop(config: FlowViTConfig, size: int) -> int:
    """Bytes that autograd keeps of one crop on its way through a network."""
    model = FlowViT(config)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    totals = []
    for crops in (1, 2):
        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
            output = model(torch.zeros(crops, IN_CHANNELS, size, size))
        totals.append(sum(kept.values()))
        del output
        kept.clear()
    return totals[1] - totals[0]
