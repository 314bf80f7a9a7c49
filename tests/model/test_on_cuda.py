"""The network on a GPU: Triton's kernels beside the plain path, and float32 that is. Run by `bench/gpu.py`, too."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plateflow.model import fast
from plateflow.model.vit import VIT_L, FlowViT, FlowViTConfig, init_weights
from plateflow.model.weights import load_model, save_model
from plateflow.segment.engine import CanvasJob, FlowEngine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
SHALLOW = FlowViTConfig(**{**vars(VIT_L), "depth": 3})
"""ViT-L with fewer blocks; the default model's is the other shape of kernels."""


def network(config: FlowViTConfig) -> FlowViT:
    model = init_weights(FlowViT(config), 0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False).cuda()


def tiles(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 256, 256, generator=torch.Generator().manual_seed(seed)).cuda()


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("config", [SHALLOW, FlowViTConfig()])
def test_kernels_are_no_further_from_float32_than_the_plain_path(
    config: FlowViTConfig, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, x = network(config), tiles(batch)
    exact = torch.cat([model(part) for part in x.split(8)])
    half = copy.deepcopy(model).bfloat16()
    quick = half(x.bfloat16())
    assert fast.in_use(), fast._failures
    monkeypatch.setattr(fast, "DEVICES", set())
    plain = half(x.bfloat16())
    assert not torch.equal(quick, plain), "the kernels did run"
    assert distance(quick, exact) <= 1.02 * distance(plain, exact)  # equal but for chance


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("config", [SHALLOW, FlowViTConfig()])
def test_a_tile_has_the_same_bits_at_any_place_with_any_companions(config: FlowViTConfig, batch: int) -> None:
    model = network(config).bfloat16()
    wanted, others = tiles(1).bfloat16(), tiles(batch, seed=1).bfloat16() * 3
    found = []
    for place in {0, batch // 2, batch - 1}:
        for companions in (others, torch.zeros_like(others)):
            x = companions.clone()
            x[place] = wanted[0]
            found.append(model(x)[place])
    assert all(torch.equal(found[0], each) for each in found)
    assert fast.in_use(), fast._failures


def test_canvases_go_through_the_threads_of_the_engine_as_on_the_cpu() -> None:
    """Each thread has its stream: what one hands over before it is made would show here."""
    random = np.random.default_rng(0)
    images = [random.random((2, 300 + 10 * n, 700), np.float32) for n in range(40)]
    found = {}
    for device in ("cpu", "cuda"):
        flows: list[Any] = []
        engine = FlowEngine(lambda x: x * 2 - 1, device=torch.device(device), dtype=torch.float32, batch_size=8)
        for _ in engine.run([CanvasJob(read=lambda i=i: i, write=flows.append, scale=0.9) for i in images]):
            pass
        found[device] = flows
    assert engine.info["gpu_mb"] > 0
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), atol=2e-3)


@torch.inference_mode()
def test_float32_is_that_of_the_cpu(tmp_path) -> None:  # type: ignore[no-untyped-def]
    save_model(network(SHALLOW), tmp_path / "a.safetensors", name="a", dtype=torch.float32)
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    x = tiles(2)
    on_gpu = load_model(tmp_path / "a.safetensors", device="cuda")(x)
    on_cpu = load_model(tmp_path / "a.safetensors")(x.cpu())
    assert distance(on_gpu.cpu(), on_cpu) < 1e-5
