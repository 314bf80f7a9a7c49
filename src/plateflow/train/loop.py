"""The training loop: several networks on one stream of crops, averaged weights, checkpoints that a run resumes from."""

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from plateflow.files import write_json
from plateflow.model.vit import FlowViT, FlowViTConfig, channels_last, init_weights
from plateflow.model.weights import load_model, save_model
from plateflow.train.batches import Source, stream
from plateflow.train.recipe import Recipe

FLOW_SCALE = 5.0
"""Network units in a unit flow."""
LOG_EVERY = 50
"""Steps between two lines of the log, and of looks at the loss, for which a GPU has to be waited for."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the weights files of a run say of themselves, beside what the recipe tells."""

    licence: str = ""
    citation: str = ""
    colours: bool = False
    """Whether pictures of stained tissue were among the samples."""


class _Learner:
    """A network with its optimiser and its averaged weights."""

    def __init__(self, config: FlowViTConfig, recipe: Recipe, device: torch.device, start: Path | None) -> None:
        model = load_model(start) if start else init_weights(FlowViT(config), recipe.seed)
        if model.config != config:
            raise ValueError(f"{start} holds a network of another shape: {model.config} instead of {config}")
        self.model = channels_last(model).to(device).train().requires_grad_(True)
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self.model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=device.type == "cuda")
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.recipe, self.device = recipe, device

    def learn(self, images: Tensor, target: Tensor, *, step: int, rate: float) -> Tensor:
        """One step; returns the loss, on the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16):
            output = self.model(images)
        loss = flow_loss(output.float(), target)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimiser.step()
        decay = min(self.recipe.averaging, (step + 1) / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.model.state_dict().values()), 1 - decay)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}

    def averaged(self) -> FlowViT:
        """A network with the averaged weights, float32 on the CPU, for use."""
        model = FlowViT(self.model.config)
        model.load_state_dict(self.average)
        return channels_last(model).eval().requires_grad_(False)


def train(
    recipe: Recipe,
    sources: Sequence[Source],
    folder: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    starts: Mapping[str, Path] | None = None,
    terms: Terms | None = None,
    checkpoint_every: float = 60.0,
) -> dict[str, FlowViT]:
    """Train all networks of a recipe, or go on from the checkpoint in `folder`; return them with averaged weights.

    A run by steps that was stopped ends, on a CPU with as many threads, with the same bits as one that wasn't.

    Args:
        recipe: networks and schedule.
        sources: what crops are cut from.
        folder: gets `recipe.json`, `log.csv`, `checkpoint.pt`, and `<network>.safetensors`, the averaged weights, at
            each checkpoint and at the end.
        device: cpu or cuda.
        workers: processes that make crops; 0: this one.
        starts: weights files to start from, by name of the network; random weights for others.
        terms: licence and citation for the weights files.
        checkpoint_every: seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "recipe.json", recipe.as_dict())
    on = torch.device(device)
    started = time.monotonic()
    checkpoint, first = folder / "checkpoint.pt", 0
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {}
    if state:
        first, started = state["step"], started - state["seconds"]
    batches = stream(recipe, sources, first=first, workers=workers, pin=on.type == "cuda")  # forks before CUDA starts
    if on.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    learners = {
        name: _Learner(config, recipe, on, (starts or {}).get(name)) for name, config in recipe.networks.items()
    }
    for name, learner in learners.items():
        if state:
            learner.load_state(state["learners"][name])

    def save(step: int) -> None:
        content = {
            "step": step,
            "seconds": time.monotonic() - started,
            "learners": {name: learner.state() for name, learner in learners.items()},
        }
        torch.save(content, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
        for name, learner in learners.items():
            words = terms or Terms()
            path = folder / f"{name}.safetensors"
            sizes = recipe.augmentation.diameters
            middle = round(float(np.sqrt(sizes[0] * sizes[1])), 1)
            save_model(learner.averaged(), path, name=name, diameter=middle, diameters=sizes, **asdict(words))

    step, waited, saved = first, 0.0, time.monotonic()
    running: dict[str, float] = {}
    columns = ["step", "seconds", "waited", "rate", *learners]
    bars = (TextColumn("training"), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*bars) as progress, (folder / "log.csv").open("a", newline="") as file:
        log = csv.writer(file)
        if not first:
            log.writerow(columns)
        task = progress.add_task("", total=1.0, note="")
        while (part := _done(recipe, step, time.monotonic() - started)) < 1:
            asked = time.monotonic()
            images, target = next(batches)
            waited += time.monotonic() - asked
            images = images.to(on, non_blocking=True).float().contiguous(memory_format=torch.channels_last)
            target = target.to(on, non_blocking=True).float()
            rate = recipe.learning_rate * min(1.0, (step + 1) / recipe.warm_up) * _cosine(part)
            losses = {n: learner.learn(images, target, step=step, rate=rate) for n, learner in learners.items()}
            if step % LOG_EVERY == 0:
                for name, loss in losses.items():
                    running[name] = 0.8 * running.get(name, loss.item()) + 0.2 * loss.item()
                numbers = [f"{running[name]:.4f}" for name in learners]
                log.writerow([step, f"{time.monotonic() - started:.1f}", f"{waited:.1f}", f"{rate:.2e}", *numbers])
                file.flush()
                progress.update(task, completed=part, note=f"step {step}, loss {' '.join(numbers)}")
            step += 1
            if time.monotonic() - saved > checkpoint_every:
                save(step)
                saved = time.monotonic()
    save(step)
    return {name: learner.averaged() for name, learner in learners.items()}


def _done(recipe: Recipe, step: int, seconds: float) -> float:
    """The part of the training that is done, 0 to 1."""
    if recipe.steps is not None:
        return step / recipe.steps
    return seconds / recipe.seconds if recipe.seconds else 1.0


def _cosine(part: float) -> float:
    """Half a cosine from 1 down to 1 %."""
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * min(1.0, part))))


def flow_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean over a batch of Cellpose's loss: squared error of the flows, cross entropy of the cell probability.

    Args:
        output: (B, 3, H, W), [dy, dx, cell logit] as the network gives them.
        target: (B, 3, H, W), unit flow dy and dx, and 1 inside objects.
    """
    flow = F.mse_loss(output[:, :2], FLOW_SCALE * target[:, :2]) / 2
    return flow + F.binary_cross_entropy_with_logits(output[:, 2], target[:, 2])
