"""The loop: it learns, it is a function of the seed, and a stopped run goes on as if it hadn't been."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from plateflow.model.vit import FlowViTConfig
from plateflow.train.data import Sample, simulated_samples
from plateflow.train.loop import Batches, Recipe, flow_loss, train

RECIPE = Recipe(
    model=FlowViTConfig(width=16, depth=1, heads=1, neck_width=8), steps=6, batch=4, crop=32, warm_up=2, large_from=0.5
)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return simulated_samples(2, seed=7, size=128)[0]


def test_batches_are_a_function_of_the_step(samples: list[Sample]) -> None:
    whole, later = Batches(RECIPE, [(1.0, samples)]), Batches(RECIPE, [(1.0, samples)], first=2)
    assert len(whole) == 6 and len(later) == 4
    assert torch.equal(whole[2][0], later[0][0])
    assert not torch.equal(whole[2][0], whole[1][0])


def test_late_batches_hold_fewer_and_larger_crops(samples: list[Sample]) -> None:
    batches = Batches(RECIPE, [(1.0, samples)])
    assert batches[2][0].shape == (4, 3, 32, 32)
    assert batches[3][1].shape == (1, 3, 64, 64)


def test_sources_are_drawn_by_their_weights(samples: list[Sample]) -> None:
    dark = [replace(s, image=np.zeros_like(s.image), labels=np.zeros_like(s.labels), diameter=0.0) for s in samples]
    batches = Batches(replace(RECIPE, batch=64, large_from=1.0), [(0.25, samples), (0.75, dark)])
    empty = sum(not target.any() for i in range(4) for target in batches[i][1])
    assert 160 < empty < 220


def test_a_stopped_run_goes_on_as_if_it_had_not_been(samples: list[Sample], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Breaking(list):  # type: ignore[type-arg]
        """Samples that can't be held out: the run ends at the first look at them, after a checkpoint."""

        def __len__(self) -> int:
            raise Stop

    sources = [(1.0, samples)]
    whole = train(RECIPE, sources, {}, tmp_path / "whole", checkpoint_every=2, threads=1)
    with pytest.raises(Stop):
        train(RECIPE, sources, {"x": Breaking()}, tmp_path / "stopped", checkpoint_every=2, threads=1)
    resumed = train(RECIPE, sources, {}, tmp_path / "stopped", checkpoint_every=2, threads=1)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    start = train(replace(RECIPE, steps=1), sources, {}, tmp_path / "other", threads=1)
    assert not torch.equal(start.flow_head.weight, whole.flow_head.weight)


def test_loss_falls(samples: list[Sample], tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=150, large_from=1.0, learning_rate=3e-3)
    fixed = Batches(replace(recipe, seed=9), [(1.0, samples)])
    model = train(recipe, [(1.0, samples)], {}, tmp_path, threads=1)
    untrained = train(replace(recipe, steps=1), [(1.0, samples)], {}, tmp_path / "untrained", threads=1)
    with torch.inference_mode():
        before, after = (
            np.mean([flow_loss(m(x), y).item() for x, y in (fixed[i] for i in range(8))]) for m in (untrained, model)
        )
    assert after < 0.9 * before


def test_loss_is_half_the_squared_error_of_flows_in_network_units_and_the_cross_entropy() -> None:
    target = torch.zeros(1, 3, 1, 2)
    target[0, :, 0, 0] = torch.tensor([0.6, -0.8, 1.0])
    output = torch.zeros(1, 3, 1, 2)
    output[0, :, 0, 0] = torch.tensor([3.0, -2.0, 0.0])  # dx off by 2 of 4
    expected = (4 / 4) / 2 + np.log(2)  # four flow values, one off by 2; logits of 0 cost log 2 each
    assert flow_loss(output, target).item() == pytest.approx(expected, rel=1e-6)
