"""The training loop: seeded by step, so that a run that was stopped goes on as if it hadn't been."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plateflow.model.vit import FlowViT, FlowViTConfig, channels_last, init_weights
from plateflow.train.augment import random_crop
from plateflow.train.data import Sample

FLOW_SCALE = 5.0
"""Network units in a unit flow."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, beside the samples."""

    model: FlowViTConfig
    steps: int
    seed: int = 0
    batch: int = 16
    crop: int = 128
    large_from: float = 0.75
    """Fraction of the steps after which crops have twice the side (and a batch a quarter as many): the tile's size."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: int = 100


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batch number i is a pure function of the seed and i."""

    def __init__(self, recipe: Recipe, sources: Sequence[tuple[float, Sequence[Sample]]], first: int = 0) -> None:
        self.recipe, self.sources, self.first = recipe, sources, first
        weights = np.array([weight for weight, _ in sources])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return self.recipe.steps - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and targets (B, 3, H, W) of step `first + index`."""
        step = self.first + index
        rng = np.random.default_rng((self.recipe.seed, step))
        size, count = self.recipe.crop, self.recipe.batch
        if step >= self.recipe.large_from * self.recipe.steps:
            size, count = 2 * size, count // 4
        crops = []
        for _ in range(count):
            _, samples = self.sources[int(rng.choice(len(self.sources), p=self.weights))]
            crops.append(random_crop(rng, samples[int(rng.integers(len(samples)))], size))
        images = torch.from_numpy(np.stack([c.image for c in crops]))
        return images, torch.from_numpy(np.stack([c.target for c in crops]))


def train(
    recipe: Recipe,
    sources: Sequence[tuple[float, Sequence[Sample]]],
    held_out: Mapping[str, Sequence[Sample]],
    folder: Path,
    *,
    checkpoint_every: int = 250,
    threads: int = 2,
) -> FlowViT:
    """Train from nothing, or go on from the checkpoint in `folder`; return the model in float32.

    Args:
        recipe: the model and its schedule.
        sources: (weight, samples) of each source.
        held_out: samples not trained on; their loss on fixed crops is logged at every second checkpoint.
        folder: gets `checkpoint.pt` and `log.txt`.
        checkpoint_every: steps.
        threads: of torch; one further process prepares the batches.
    """
    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    model = channels_last(init_weights(FlowViT(recipe.model), recipe.seed))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, recipe))
    checkpoint = folder / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    batches = DataLoader(
        Batches(recipe, sources, first),
        batch_size=None,
        num_workers=1,
        prefetch_factor=6,
        multiprocessing_context="fork",
    )
    bars = (
        TextColumn("training"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    started, running = time.monotonic(), 0.0
    with Progress(*bars) as progress, (folder / "log.txt").open("a") as log:
        task = progress.add_task("", total=recipe.steps, completed=first, loss="")
        model.train()
        for step, (images, target) in enumerate(batches, first + 1):
            loss = _loss(model, images, target)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
            optimiser.step()
            schedule.step()
            running = 0.98 * running + 0.02 * loss.item() if running else loss.item()
            progress.update(task, advance=1, loss=f"loss {running:.3f}")
            if step % 50 == 0:
                print(f"{step} {time.monotonic() - started:.0f} s loss {running:.4f}", file=log, flush=True)
            if step % checkpoint_every == 0 or step == recipe.steps:
                state = {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step,
                }
                torch.save(state, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)
            if step % (2 * checkpoint_every) == 0:
                for name, value in held_out_loss(model, recipe, held_out).items():
                    print(f"{step} held out {name} {value:.4f}", file=log, flush=True)
    return model.eval()


def held_out_loss(model: FlowViT, recipe: Recipe, held_out: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    """Mean loss on 32 crops a source, the same at every call."""
    losses = {}
    model.eval()
    for name, samples in held_out.items():
        fixed = Batches(recipe, [(1.0, samples)])
        with torch.inference_mode():
            losses[name] = float(np.mean([_loss(model, *fixed[i]).item() for i in range(2)]))
    model.train()
    return losses


def flow_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean over a batch of Cellpose's loss: squared error of the flows, cross entropy of the cell probability.

    Args:
        output: (B, 3, H, W), [dy, dx, cell logit] as the network gives them.
        target: (B, 3, H, W), unit flow dy and dx, and 1 inside objects.
    """
    flow = F.mse_loss(output[:, :2], FLOW_SCALE * target[:, :2]) / 2
    return flow + F.binary_cross_entropy_with_logits(output[:, 2], target[:, 2])


def _loss(model: FlowViT, images: Tensor, target: Tensor) -> Tensor:
    images = images.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images)
    return flow_loss(out.float(), target)


def _rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to 1 %."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    part = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, part))))
