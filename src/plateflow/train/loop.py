"""The training loop: several networks on one stream of crops, averaged weights, checkpoints that a run resumes from."""

import csv
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from plateflow.errors import ConfigError, PlateflowError
from plateflow.files import write_json
from plateflow.model.registry import TRAINED_CHANNELS, hash_of
from plateflow.model.vit import FlowViT, FlowViTConfig, channels_last, init_weights
from plateflow.model.weights import load_start, save_model
from plateflow.train.batches import Source, stream
from plateflow.train.ranks import Ranks
from plateflow.train.recipe import Recipe, differences

FLOW_SCALE = 5.0
"""Network units in a unit flow."""
LOG_EVERY = 10
"""Steps between two lines of the log, and of looks at the loss, for which a GPU has to be waited for."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the weights files of a run say of themselves, beside what the recipe tells.

    Attributes:
        channels: what each channel of an image is.
        colours: whether pictures of stained tissue were among the samples.
        parent: name and hash of the model that the run started from; empty: each network's start is told by its own.
    """

    licence: str = ""
    citation: str = ""
    channels: Sequence[str] = TRAINED_CHANNELS
    colours: bool = False
    parent: str = ""
    data: str = ""


class _Learner:
    """A network with its optimiser and its averaged weights."""

    def __init__(
        self, config: FlowViTConfig, recipe: Recipe, device: torch.device, start: Path | None, ranks: Ranks
    ) -> None:
        model = load_start(start) if start else init_weights(FlowViT(config), recipe.seed)
        if model.config != config:
            raise ValueError(f"{start} holds a network of another shape: {model.config} instead of {config}")
        self.model = channels_last(model).to(device).train().requires_grad_(True)
        self.model.recompute = recipe.recompute
        groups = parameter_groups(self.model, recipe)
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=device.type == "cuda")
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.recipe, self.device, self.ranks = recipe, device, ranks
        devices = [device] if device.type == "cuda" else None
        self.parallel = DistributedDataParallel(self.model, devices) if ranks.world > 1 else None

    def learn(self, images: Tensor, target: Tensor, *, step: int, rate: float) -> Tensor:
        """One step; returns the loss, on the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.zero_grad(set_to_none=True)
        parts = self.recipe.accumulate
        loss = torch.zeros((), device=self.device)
        kept, network = self._kept(step), self.parallel or self.model
        through = kept.chunk(parts) if kept is not None else [None] * parts
        pieces = zip(images.chunk(parts), target.chunk(parts), through, strict=True)
        for number, (some, wanted, blocks) in enumerate(pieces, 1):
            with self.parallel.no_sync() if self.parallel and number < parts else nullcontext():
                with torch.autocast(self.device.type, torch.bfloat16):
                    output = network(some) if blocks is None else network(some, blocks)
                part = flow_loss(output.float(), wanted) / parts
                part.backward()
            loss += part.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimiser.step()
        decay = min(self.recipe.averaging, (step + 1) / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.model.state_dict().values()), 1 - decay)
        return loss

    def _kept(self, step: int) -> Tensor | None:
        """Which crops of this process go through which blocks (crops, depth)."""
        kept = self.recipe.kept_blocks(step, self.model.config.depth)
        return None if kept is None else torch.from_numpy(kept).chunk(self.ranks.world)[self.ranks.rank].to(self.device)

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "average": self.average}

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}

    def averaged(self) -> FlowViT:
        """A network with the averaged weights, float32 on the CPU, for use."""
        model = FlowViT(self.model.config)
        model.load_state_dict(self.average)
        return channels_last(model).eval().requires_grad_(False)


def parameter_groups(model: FlowViT, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters by weight decay, which matrices and kernels have, and by the factor of their learning rate.

    Neck and heads learn at the full rate, the blocks each at `layer_rate` of the next one's, stem and position last.
    """
    groups: dict[tuple[bool, int], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        depth = model.config.depth
        below = depth - int(name.split(".")[1]) if name.startswith("blocks.") else 0
        below = depth + 1 if name.startswith(("stem.", "pos_embed")) else below
        groups.setdefault((parameter.ndim > 1, below if recipe.layer_rate < 1 else 0), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "factor": recipe.layer_rate**below,
        }
        for (decays, below), parameters in groups.items()
    ]


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
    saved: Callable[[], None] | None = None,
) -> dict[str, FlowViT]:
    """Train all networks of a recipe, or go on from the checkpoint in `folder`; return them with averaged weights.

    A run by steps that was stopped ends, on a CPU with as many threads, with the same bits as one that wasn't. Of
    several processes, which `torchrun` or `srun` started, each makes and computes its part of every batch.

    Args:
        sources: what crops are cut from.
        folder: gets `recipe.json`, `log.csv`, `checkpoint.pt`, and `<network>.safetensors`, the averaged weights, at
            each checkpoint and at the end.
        workers: processes that make crops; 0: this one.
        starts: weights files to start from, by name of the network; random weights for others.
        terms: what the weights files say of themselves.
        checkpoint_every: seconds.
        saved: called after each checkpoint, with the weights written.

    Raises:
        ConfigError: the checkpoint in `folder` is of another recipe, data or start.
        ModelError: a start can't be loaded.
        PlateflowError: Ctrl-C or SIGTERM stopped it; the checkpoint is written. Or there was no time for a step.
    """
    ranks, terms = Ranks.of_environment(), terms or Terms()
    if recipe.batch % (ranks.world * recipe.accumulate):
        parts = f"{ranks.world} processes, each in {recipe.accumulate} parts"
        raise ConfigError("a batch can't be shared out evenly", why=f"{recipe.batch} crops to {parts}")
    folder.mkdir(parents=True, exist_ok=True)
    on = ranks.device(device)
    started = time.monotonic()
    checkpoint, first = folder / "checkpoint.pt", 0
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {}
    parents = {name: terms.parent or f"{name}, sha256 {hash_of(path)}" for name, path in (starts or {}).items()}
    said = {"recipe": recipe.as_dict(), "parent": parents, "data": terms.data}
    if state:
        if others := differences(said, state.get("said", {})):
            remedy = "give another folder, or take the checkpoint away to begin anew"
            raise ConfigError(
                "the checkpoint is of another run", where=str(checkpoint), why="; ".join(others), remedy=remedy
            )
        first, started = state["step"], started - state["seconds"]
    # forks before CUDA and the threads of other processes start
    batches = stream(recipe, sources, first=first, workers=workers, pin=on.type == "cuda", ranks=ranks)
    ranks.join(on)
    if on.type == "cuda":
        torch.cuda.set_device(on)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    learners = {
        name: _Learner(config, recipe, on, (starts or {}).get(name), ranks) for name, config in recipe.networks.items()
    }
    for name, learner in learners.items():
        if state:
            learner.load_state(state["learners"][name])
    writes = ranks.rank == 0
    if writes:
        write_json(folder / "recipe.json", recipe.as_dict(), stamped=False)
        log = _Log(folder / "log.csv", list(learners), first)

    def save(step: int) -> None:
        content = {
            "said": said,
            "step": step,
            "seconds": time.monotonic() - started,
            "learners": {name: learner.state() for name, learner in learners.items()},
        }
        torch.save(content, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
        for name, learner in learners.items():
            path = folder / f"{name}.safetensors"
            sizes = recipe.augmentation.diameters
            middle = round(float(np.sqrt(sizes[0] * sizes[1])), 1)
            known = {"diameter": middle, "diameters": sizes, "recipe": recipe.as_dict(), **asdict(terms)}
            known["parent"] = parents.get(name, "")
            save_model(learner.averaged(), path, name=name, **known)
        if saved:
            saved()

    step, waited, last_saved = first, 0.0, time.monotonic()
    bars = (
        TextColumn("training"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*bars, disable=not writes) as progress, _stopping() as stop:
        task = progress.add_task("", total=1.0, note="")
        while True:
            seconds = time.monotonic() - started
            part, stopped = ranks.agreed(recipe.done(step, seconds), float(stop.is_set()))
            if part >= 1 or stopped:
                break
            asked = time.monotonic()
            try:
                images, target = next(batches)
            except RuntimeError:  # SIGTERM to all processes of a job ends those that make crops
                stopped = stop.is_set()
                if ranks.world == 1 and stopped:
                    break
                raise
            waited += time.monotonic() - asked
            images = images.to(on, non_blocking=True).float().contiguous(memory_format=torch.channels_last)
            target = target.to(on, non_blocking=True).float()
            rate = recipe.rate(step, part)
            losses = {n: learner.learn(images, target, step=step, rate=rate) for n, learner in learners.items()}
            if writes:
                log.add(losses)
                if step % LOG_EVERY == 0:
                    numbers = log.write(step, seconds, waited, rate)
                    progress.update(task, completed=part, note=f"step {step}, loss {' '.join(numbers)}")
            step += 1
            if writes and time.monotonic() - last_saved > checkpoint_every:
                save(step)
                last_saved = time.monotonic()
        progress.update(task, completed=part)
    if writes:
        if log.count:
            log.write(step - 1, seconds, waited, rate)
        save(step)
    ranks.leave()
    if not step and not stopped:
        why = f"to get ready took all of the {recipe.seconds:g} s"
        raise PlateflowError("nothing was trained", where=str(folder), why=why, remedy="give more seconds")
    if stopped and part < 1:
        raise PlateflowError(
            "training was stopped",
            where=str(folder),
            why=f"after step {step}",
            remedy="the same command goes on from there",
        )
    return {name: learner.averaged() for name, learner in learners.items()}


class _Log:
    """`log.csv`: at every so manyth step its number, seconds of the run and of waiting for crops, rate, mean losses."""

    def __init__(self, path: Path, names: Sequence[str], first: int) -> None:
        self.path, self.sums, self.count = path, dict[str, Tensor](), 0
        rows = list(csv.reader(path.open(newline=""))) if path.exists() and first else []
        # what a killed run logged after its last checkpoint is done again
        rows = [row for row in rows[1:] if row and int(row[0]) < first]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "seconds", "waited", "rate", *names], *rows])

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Take the losses of a step, without waiting for them."""
        self.sums = {name: self.sums.get(name, 0) + loss for name, loss in losses.items()}
        self.count += 1

    def write(self, step: int, seconds: float, waited: float, rate: float) -> list[str]:
        """Write a line; returns the losses in it: means since the last one."""
        numbers = [f"{float(total) / self.count:.4f}" for total in self.sums.values()]
        self.sums, self.count = {}, 0
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, f"{seconds:.1f}", f"{waited:.1f}", f"{rate:.2e}", *numbers])
        return numbers


@contextmanager
def _stopping() -> Iterator[Event]:
    """Let Ctrl-C or SIGTERM end the run after the step under way, within which weights are half new; twice, at once."""
    stop = Event()

    def ask(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def flow_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean over a batch of Cellpose's loss: squared error of the flows, cross entropy of the cell probability.

    Args:
        output: (B, 3, H, W), [dy, dx, cell logit] as the network gives them.
        target: (B, 3, H, W), unit flow dy and dx, and 1 inside objects.
    """
    flow = F.mse_loss(output[:, :2], FLOW_SCALE * target[:, :2]) / 2
    return flow + F.binary_cross_entropy_with_logits(output[:, 2], target[:, 2])
