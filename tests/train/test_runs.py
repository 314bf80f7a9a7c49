"""Runs as they happen: killed, interrupted, begun with another recipe, shared by several processes."""

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plateflow.errors import ConfigError
from plateflow.model import load_model
from plateflow.model.vit import FlowViT, FlowViTConfig, init_weights
from plateflow.train.batches import Source
from plateflow.train.data import plate_sample
from plateflow.train.loop import Terms, _Learner, parameter_groups, train
from plateflow.train.ranks import Ranks
from plateflow.train.recipe import Recipe

CONFIG = FlowViTConfig(width=16, depth=2, heads=1, neck_width=8)
RECIPE = Recipe(
    networks={"a": CONFIG},
    **{"steps": 6, "batch": 4, "crop": 32, "warm_up": 2, "schedule": "stepwise", "weight_decay": 0.1},
    **{"layer_rate": 0.8, "layer_drop": 0.5, "accumulate": 2, "recompute": True},
)
RUN = """
import contextlib, os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from train.test_runs import RECIPE, sources
from plateflow.train.loop import train
torch.set_num_threads(1)
if "RANK" in os.environ:
    torch.autocast = lambda *_: contextlib.nullcontext()
saves = []
def saved():
    saves.append(1)
    if len(saves) == 2 and sys.argv[2] != "0":
        os.kill(os.getpid(), int(sys.argv[2]))
train(RECIPE, sources(), Path(sys.argv[1]), checkpoint_every=0.0, saved=saved)
"""


def sources() -> list[Source]:
    return [Source(1.0, [plate_sample("nuclei", 7, n, size=96) for n in range(2)])]


def start(folder: Path, signal: int = 0, **variables: str) -> subprocess.Popen[str]:
    code = RUN.format(tests=str(Path(__file__).parents[1]))
    environment = {**os.environ, **variables}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(signal)], stderr=subprocess.PIPE, text=True, env=environment
    )


def run(folder: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(RECIPE, sources(), folder)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def weights(folder: Path) -> list[torch.Tensor]:
    """Those of the checkpoint, the averaged ones last."""
    learner = torch.load(folder / "checkpoint.pt", weights_only=True)["learners"]["a"]
    return [*learner["model"].values(), *learner["average"].values()]


def test_killed_and_interrupted_it_ends_with_the_same_bits(tmp_path: Path, whole: Path) -> None:
    killed = start(tmp_path, 9)
    killed.communicate()
    assert killed.returncode == -9
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    interrupted = start(tmp_path, 2)
    said = interrupted.communicate()[1]
    assert interrupted.returncode == 1
    assert "training was stopped" in said and "after step 4" in said and "goes on from there" in said
    run(tmp_path)
    assert all(torch.equal(one, two) for one, two in zip(weights(tmp_path), weights(whole), strict=True))
    steps = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert steps == ["step", "0", "3", "5"]  # the lines of the killed part that its checkpoint knows; the end of each


def test_two_processes_give_the_weights_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32: in bfloat16, AdamW makes much of the rounding of gradients that are nearly 0."""
    monkeypatch.setattr(torch, "autocast", lambda *_: contextlib.nullcontext())
    run(tmp_path / "one")
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20_000 + os.getpid() % 20_000), "WORLD_SIZE": "2"}
    pair = [start(tmp_path / "two", RANK=str(rank), LOCAL_RANK=str(rank), **address) for rank in range(2)]
    for each in pair:
        assert each.wait() == 0, each.communicate()
    pair_of, alone, fresh = (
        torch.cat([tensor.flatten() for tensor in each])
        for each in (
            weights(tmp_path / "two"),
            weights(tmp_path / "one"),
            2 * list(init_weights(FlowViT(CONFIG), 0).state_dict().values()),
        )
    )
    assert (pair_of - alone).norm() < 0.01 * (alone - fresh).norm()


def test_a_step_in_parts_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_: contextlib.nullcontext())  # float32, as above
    torch.manual_seed(0)
    images, target = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    results = []
    for accumulate, recompute in ((1, False), (1, True), (4, False)):
        recipe = replace(RECIPE, accumulate=accumulate, recompute=recompute)
        learner = _Learner(CONFIG, recipe, torch.device("cpu"), None, Ranks())
        loss = learner.learn(images, target, step=3, rate=1e-3)
        results.append((loss, learner.model.blocks[0].lin1.weight.detach()))
    for loss, weight in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-3, atol=0)
        torch.testing.assert_close(weight, results[0][1], rtol=0, atol=2e-4)


def test_a_crop_that_passes_by_a_block_is_as_if_there_were_none() -> None:
    model, images = init_weights(FlowViT(CONFIG), 1), torch.rand(2, 3, 32, 32)
    shorter = FlowViT(replace(CONFIG, depth=1))
    shorter.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("blocks.1.")})
    with torch.no_grad():
        output = model(images, torch.tensor([[1, 0], [1, 1]]))
        torch.testing.assert_close(output[:1], shorter(images[:1]))
        torch.testing.assert_close(output[1:], model(images[1:]))


def test_early_layers_learn_at_lower_rates_and_only_matrices_decay() -> None:
    model = FlowViT(CONFIG)
    groups = parameter_groups(model, RECIPE)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    factors = {names[id(p)]: (g["factor"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(factors) == len(names)
    assert factors["flow_head.weight"] == factors["neck.up4.weight"] == (1.0, 0.1)
    assert factors["blocks.1.lin1.weight"] == (0.8, 0.1)
    assert factors["blocks.0.lin1.bias"] == (pytest.approx(0.64), 0.0)
    assert factors["stem.conv8.weight"] == (pytest.approx(0.512), 0.1)


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(whole: Path) -> None:
    before = (whole / "recipe.json").read_bytes()
    with pytest.raises(ConfigError, match=r"of another run[\s\S]*recipe.batch is 8, and was 4; data is new, and was "):
        train(replace(RECIPE, batch=8), sources(), whole, terms=Terms(data="new"))
    assert (whole / "recipe.json").read_bytes() == before
    train(RECIPE, sources(), whole)  # it is done


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert Ranks.of_environment() == Ranks(rank=2, world=3, local=1)
    with pytest.raises(ConfigError, match="4 crops to 3 processes, each in 2 parts"):
        train(RECIPE, sources(), tmp_path)


def test_what_a_model_was_trained_with_is_in_its_file(whole: Path) -> None:
    from plateflow.model.registry import read_metadata

    metadata = read_metadata(whole / "a.safetensors")
    assert (
        metadata["recipe"]["layer_drop"] == 0.5
        and metadata["recipe"]["augmentation"]["gamma"] == RECIPE.augmentation.gamma
    )
    assert load_model(whole / "a.safetensors").config == CONFIG
