"""Batches of crops, made by many processes: crop number i is a function of the seed, the sources and i alone."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from plateflow.train.augment import Crop, random_crop
from plateflow.train.data import Sample
from plateflow.train.ranks import Ranks
from plateflow.train.recipe import Recipe

ENDLESS = 2**40


@dataclass(frozen=True)
class Source:
    """Samples that are drawn alike, and the share of crops that they get, relative to the other sources."""

    share: float
    samples: Sequence[Sample]


def balanced(sources: Mapping[str, Sequence[Sample]]) -> list[Source]:
    """Sources that all get the same share of crops, however many images they have."""
    return [Source(1.0, samples) for samples in sources.values()]


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Images and targets of step i, float16 (batch / world, 3, crop, crop): of several processes, each has its part."""

    def __init__(self, recipe: Recipe, sources: Sequence[Source], ranks: Ranks | None = None) -> None:
        self.recipe, self.sources, self.ranks = recipe, sources, ranks or Ranks()
        shares = np.array([source.share for source in sources])
        self.shares = shares / shares.sum()

    def crop(self, number: int) -> Crop:
        """Crop number i of the run."""
        rng = np.random.default_rng((self.recipe.seed, number))
        samples = self.sources[int(rng.choice(len(self.shares), p=self.shares))].samples
        sample = samples[int(rng.integers(len(samples)))]
        return random_crop(rng, sample, self.recipe.crop, self.recipe.augmentation)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images and targets of step `step`."""
        own = self.recipe.batch // self.ranks.world
        size = (own, 3, self.recipe.crop, self.recipe.crop)
        images, targets = np.empty(size, np.float16), np.empty(size, np.float16)
        for place in range(own):
            crop = self.crop(step * self.recipe.batch + self.ranks.rank * own + place)
            images[place], targets[place] = crop.image, crop.target
        return torch.from_numpy(images), torch.from_numpy(targets)


def stream(
    recipe: Recipe,
    sources: Sequence[Source],
    *,
    first: int = 0,
    workers: int = 1,
    pin: bool = False,
    ranks: Ranks | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batch `first`, `first + 1`, ... without end, in order, made by forked processes that share the samples.

    Without `workers` this process makes them; with `pin` they go into memory from which a GPU fetches them.
    """
    for source in sources:  # compiled once, before the fork
        for seed in range(3):
            random_crop(np.random.default_rng(seed), source.samples[0], recipe.crop, recipe.augmentation)
    loader = DataLoader(
        Batches(recipe, sources, ranks),
        batch_size=None,
        sampler=range(first, ENDLESS),
        num_workers=workers,
        prefetch_factor=3 if workers else None,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_start_worker,
        pin_memory=pin,
    )
    return iter(loader)


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; it is for the training to end in order
    torch.set_num_threads(1)
