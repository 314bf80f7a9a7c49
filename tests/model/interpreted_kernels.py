"""Triton's kernels on the CPU, against their formulas in float64. Run by test_kernels.py, with TRITON_INTERPRET=1.

The interpreter can't multiply matrices of bfloat16; float32 and float16 stand for it, as the arithmetic is the same.
"""

import copy

import pytest
import torch
from torch import Tensor

from plateflow.model import fast, kernels, vit

Tables = tuple[Tensor, Tensor]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3}


def by_formula(qkv: Tensor, heads: int, size: tuple[int, int], tables: Tables | None) -> Tensor:
    """softmax(q k / sqrt(d) + q.Rh[yi - yj] + q.Rw[xi - xj]) v in float64, with a bias for each pair of tokens."""
    (_, w), (b, n, width) = size, qkv.shape
    q, k, v = qkv.double().reshape(b, n, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if tables:
        token = torch.arange(n)
        for table, at in zip(tables, (token // w, token % w), strict=True):
            reach = len(table) // 2 + 1
            distance = (at[:, None] - at[None, :]).clamp(1 - reach, reach - 1)  # (N, N)
            scores = scores + torch.einsum("bhid,ijd->bhij", q, table.double()[distance + reach - 1])
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1)


def given(b: int, heads: int, dim: int, size: tuple[int, int], reach: int, dtype: torch.dtype) -> tuple[Tensor, Tables]:
    torch.manual_seed(0)
    qkv = torch.randn(b, size[0] * size[1], 3 * heads * dim).to(dtype)
    return qkv, tuple((torch.randn(2 * reach - 1, dim) * 0.4).to(dtype) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(
    ("dtype", "b", "heads", "dim", "size", "reach"),
    [
        (torch.float16, 1, 1, 64, (8, 32), 32),  # whole blocks of queries and keys, as in every tile
        (torch.float32, 1, 2, 64, (8, 32), 32),
        (torch.float32, 1, 1, 64, (3, 64), 64),
        (torch.float32, 7, 2, 32, (5, 4), 3),  # rows padded, distances of 3 and 4 share the entry of 2
        (torch.float16, 7, 1, 32, (5, 4), 3),
        (torch.float32, 32, 1, 32, (2, 3), 4),
        (torch.float32, 2, 1, 64, (9, 20), 8),
        (torch.float32, 1, 1, 32, (70, 1), 2),
    ],
)
def test_attention(
    positions: bool, dtype: torch.dtype, b: int, heads: int, dim: int, size: tuple[int, int], reach: int
) -> None:
    qkv, tables = given(b, heads, dim, size, reach, dtype)
    expected = by_formula(qkv, heads, size, tables if positions else None)
    got = kernels.attention(qkv, heads, size, tables if positions else None)
    assert got is not None
    assert got.dtype == dtype
    assert got.is_contiguous()
    error = (got - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert float(error.max()) < TOLERANCE[dtype]


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    qkv, tables = given(1, 1, 64, (4, 32), 32, torch.float32)
    expected = by_formula(qkv * 30, 1, (4, 32), tables)
    torch.testing.assert_close(kernels.attention(qkv * 30, 1, (4, 32), tables).double(), expected, rtol=1e-3, atol=1e-3)


def test_images_may_lie_apart_and_have_the_same_bits_with_any_companions() -> None:
    qkv, tables = given(7, 2, 64, (4, 32), 32, torch.float16)
    apart = torch.full((14, *qkv.shape[1:]), 7.0, dtype=qkv.dtype)[::2]
    apart.copy_(qkv)
    assert not apart.is_contiguous()
    together = kernels.attention(apart, 2, (4, 32), tables)
    for number in range(7):
        alone = kernels.attention(qkv[number : number + 1], 2, (4, 32), tables)
        assert torch.equal(alone[0], together[number])
    assert torch.equal(kernels.attention(qkv.flip(0), 2, (4, 32), tables).flip(0), together)


def test_other_shapes_are_left_to_the_plain_path() -> None:
    assert kernels.attention(torch.zeros(1, 4, 3 * 48), 1, (2, 2)) is None
    qkv, tables = given(1, 1, 32, (1, 65), 32, torch.float32)
    assert kernels.attention(qkv, 1, (1, 65), tables) is None


@pytest.mark.parametrize("width", [96, 192, 1024])
def test_a_sum_and_its_norm(width: int) -> None:
    torch.manual_seed(0)
    x, update = torch.randn(2, 3, 2, width), torch.randn(2, 2, 3, width).transpose(1, 2) * 3 + 5
    norm, bias = torch.nn.LayerNorm(width, eps=1e-6), torch.randn(width)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    total, normed = kernels.add_norm(x, update, norm, bias)
    torch.testing.assert_close(total, x + update + bias)
    torch.testing.assert_close(normed, norm(x + update), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("positions", [True, False])
def test_the_network_with_kernels_is_no_further_from_float32(positions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = {"stem": "patch", "neck": "sam", "grid": 4, "rel_pos": 4, "local_conv": False} if positions else {}
    config = vit.FlowViTConfig(width=64, depth=2, heads=2, neck_width=16, **kind)
    model = vit.init_weights(vit.FlowViT(config), 0).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    x = torch.rand(2, 3, 32, 32)
    exact = model(x)
    half, x = copy.deepcopy(model).half(), x.half()
    plain = half(x).float()
    monkeypatch.setattr(fast, "DEVICES", {"cuda", "cpu"})
    got = half(x).float()
    assert fast.in_use()
    assert not torch.equal(got, plain), "the kernels did run"
    assert float((got - exact).norm()) < 1.1 * float((plain - exact).norm())


def test_gradients_and_autocast_take_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels have no backward pass: a table's gradient, or a norm's, would be lost without a word."""
    monkeypatch.setattr(fast, "DEVICES", {"cuda", "cpu"})
    qkv, tables = given(1, 1, 32, (2, 3), 4, torch.float16)
    x, norm, bias = torch.randn(2, 3, 32).half(), torch.nn.LayerNorm(32).half(), torch.zeros(32).half()
    assert fast.fused("add_norm", x, x, norm, bias) is None, "its weights can be trained"
    assert fast.fused("add_norm", x, x, norm.requires_grad_(False), bias) is not None
    assert fast.fused("attention", qkv, 1, (2, 3), tables) is not None
    tables[1].requires_grad_(True)
    assert fast.fused("attention", qkv, 1, (2, 3), tables) is None
    with torch.inference_mode():
        assert fast.fused("attention", qkv, 1, (2, 3), tables) is not None
        with torch.autocast("cpu", torch.bfloat16):
            assert fast.fused("attention", qkv, 1, (2, 3), tables) is None
    assert fast.in_use()
    assert not fast.in_use(torch.float32), "which has no kernels"
