"""The loop: it learns, it is a function of the seed, and a stopped run goes on as if it hadn't been."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from plateflow.model import load_model, model_spec
from plateflow.model.vit import FlowViTConfig
from plateflow.train import loop
from plateflow.train.batches import Batches, Source, stream
from plateflow.train.data import Sample, make_sample, plate_sample
from plateflow.train.loop import Terms, flow_loss, train
from plateflow.train.recipe import Recipe

NETWORKS = {name: FlowViTConfig(width=w, depth=1, heads=1, neck_width=8) for name, w in (("a", 16), ("b", 24))}
RECIPE = Recipe(networks=NETWORKS, steps=6, batch=4, crop=32, warm_up=2)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [plate_sample("nuclei", 7, n, size=128) for n in range(2)]


def weights(models: dict) -> list[torch.Tensor]:
    return [p for model in models.values() for p in model.parameters()]


def test_crops_are_a_function_of_the_seed_and_their_number(samples: list[Sample]) -> None:
    source = [Source(1.0, samples)]
    batches, halves = Batches(RECIPE, source), Batches(replace(RECIPE, batch=2), source)
    images, _ = batches[3]
    assert images.shape == (4, 3, 32, 32)
    assert torch.equal(images[2:], halves[7][0])
    assert not torch.equal(images, batches[2][0])
    assert not torch.equal(images, Batches(replace(RECIPE, seed=1), source)[3][0])


def test_processes_change_nothing_and_keep_the_order(samples: list[Sample]) -> None:
    alone, helped = (stream(RECIPE, [Source(1.0, samples)], first=5, workers=n) for n in (0, 2))
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(next(alone), next(helped), strict=True))


def test_sources_are_drawn_by_their_shares(samples: list[Sample]) -> None:
    dark = make_sample("dark", "dark", [np.zeros((64, 64), np.uint16)], np.zeros((64, 64), np.int32))
    batches = Batches(replace(RECIPE, batch=64), [Source(0.25, samples), Source(0.75, [dark])])
    empty = sum(not target.any() for i in range(4) for target in batches[i][1])
    assert 160 < empty < 225


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    sources, torch_threads = [Source(1.0, samples)], torch.get_num_threads()
    torch.set_num_threads(1)
    whole = train(RECIPE, sources, tmp_path / "whole", checkpoint_every=0.0)
    calls, right = [], loop.save_model

    def save_three_times(*args: object, **options: object) -> None:
        calls.append(args)
        if len(calls) > 2 * 3:  # two networks
            raise Stop
        right(*args, **options)

    monkeypatch.setattr(loop, "save_model", save_three_times)
    with pytest.raises(Stop):
        train(RECIPE, sources, tmp_path / "stopped", checkpoint_every=0.0)
    monkeypatch.setattr(loop, "save_model", right)
    resumed = train(RECIPE, sources, tmp_path / "stopped")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    start = train(replace(RECIPE, steps=1), sources, tmp_path / "other")
    assert not torch.equal(start["a"].flow_head.weight, whole["a"].flow_head.weight)
    torch.set_num_threads(torch_threads)


def test_a_run_leaves_weights_log_and_recipe(samples: list[Sample], tmp_path: Path) -> None:
    models = train(RECIPE, [Source(1.0, samples)], tmp_path, terms=Terms(licence="free", citation="us"))
    assert model_spec(tmp_path / "a.safetensors").licence == "free"
    saved = load_model(tmp_path / "a.safetensors")
    pairs = zip(saved.parameters(), models["a"].parameters(), strict=True)
    assert all(torch.equal(one, two.half().float()) for one, two in pairs)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert rows[0]["step"] == "0" and float(rows[0]["a"]) > 0 and float(rows[0]["b"]) > 0
    assert json.loads((tmp_path / "recipe.json").read_text())["networks"]["b"]["width"] == 24


def test_a_run_may_start_from_weights_of_its_own_shape(samples: list[Sample], tmp_path: Path) -> None:
    train(RECIPE, [Source(1.0, samples)], tmp_path / "first")
    file = tmp_path / "first" / "a.safetensors"
    still = replace(RECIPE, steps=1, learning_rate=0.0)
    models = train(still, [Source(1.0, samples)], tmp_path / "second", starts={"a": file})
    pairs = zip(load_model(file).parameters(), models["a"].parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    with pytest.raises(ValueError, match="another shape"):
        train(still, [Source(1.0, samples)], tmp_path / "third", starts={"b": file})


def test_a_run_by_the_clock_ends_by_the_clock(samples: list[Sample], tmp_path: Path) -> None:
    by_clock = replace(RECIPE, steps=None, seconds=1.5)
    train(by_clock, [Source(1.0, samples)], tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert 1.5 <= state["seconds"] < 30 and state["step"] >= 1
    with pytest.raises(ValueError, match="steps or"):
        replace(RECIPE, seconds=1.0)


def test_loss_falls_and_averaged_weights_follow(samples: list[Sample], tmp_path: Path) -> None:
    recipe = replace(RECIPE, networks={"a": NETWORKS["a"]}, steps=150, learning_rate=3e-3, averaging=0.9)
    fixed = Batches(replace(recipe, seed=9), [Source(1.0, samples)])
    trained = train(recipe, [Source(1.0, samples)], tmp_path / "trained")["a"]
    untrained = train(replace(recipe, steps=1), [Source(1.0, samples)], tmp_path / "untrained")["a"]
    with torch.inference_mode():
        before, after = (
            np.mean([flow_loss(m(x.float()), y.float()).item() for x, y in (fixed[i] for i in range(8))])
            for m in (untrained, trained)
        )
    assert after < 0.9 * before


def test_loss_is_half_the_squared_error_of_flows_in_network_units_and_the_cross_entropy() -> None:
    target = torch.zeros(1, 3, 1, 2)
    target[0, :, 0, 0] = torch.tensor([0.6, -0.8, 1.0])
    output = torch.zeros(1, 3, 1, 2)
    output[0, :, 0, 0] = torch.tensor([3.0, -2.0, 0.0])  # dx off by 2 of 4
    expected = (4 / 4) / 2 + np.log(2)  # four flow values, one off by 2; logits of 0 cost log 2 each
    assert flow_loss(output, target).item() == pytest.approx(expected, rel=1e-6)
