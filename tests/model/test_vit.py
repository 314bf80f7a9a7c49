"""The network: shapes, relative positions against their formula, and bits that companions can't change."""

import pytest
import torch

from plateflow.model.vit import Attention, FlowViT, FlowViTConfig, init_weights

SMALL = FlowViTConfig(width=32, depth=2, heads=2, neck_width=16)
SMALL_SAM = FlowViTConfig(
    width=32, depth=2, heads=2, neck_width=16, stem="patch", neck="sam", grid=32, rel_pos=32, local_conv=False
)


@pytest.mark.parametrize("config", [SMALL, SMALL_SAM])
def test_output_has_the_size_of_the_input(config: FlowViTConfig) -> None:
    model = init_weights(FlowViT(config), 0).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, 3, 256, 256)).shape == (2, 3, 256, 256)


def test_crops_of_other_sizes_work_without_position_tables() -> None:
    model = init_weights(FlowViT(SMALL), 0).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 64, 136)).shape == (1, 3, 64, 136)


@pytest.mark.parametrize("training", [False, True])
def test_relative_positions_are_the_decomposed_bias(training: bool) -> None:
    """Against the formula written out: softmax(q k / sqrt(d) + q.Rh[yi - yj] + q.Rw[xi - xj]) v.

    Head by head, as on a CPU, and by the fused kernel, as on a GPU and in training.
    """
    torch.manual_seed(0)
    h, w, reach = 5, 4, 3  # distances of 3 and 4 share the entry of 2
    config = FlowViTConfig(width=16, heads=2, rel_pos=reach)
    attention = Attention(config)
    torch.nn.init.normal_(attention.rel_pos_h)
    torch.nn.init.normal_(attention.rel_pos_w)
    x = torch.randn(2, h, w, 16)
    q, k, v = attention.qkv(x).view(2, h * w, 3, 2, 8).permute(2, 0, 3, 1, 4)
    expected = torch.empty_like(q)
    for i in range(h * w):
        scores = []
        for j in range(h * w):
            dy = max(-2, min(2, i // w - j // w))
            dx = max(-2, min(2, i % w - j % w))
            bias = (q[:, :, i] * (attention.rel_pos_h[dy + 2] + attention.rel_pos_w[dx + 2])).sum(-1)
            scores.append((q[:, :, i] * k[:, :, j]).sum(-1) / 8**0.5 + bias)
        weights = torch.stack(scores, -1).softmax(-1)  # (B, heads, N)
        expected[:, :, i] = (weights[..., None] * v).sum(2)
    expected = attention.proj(expected.transpose(1, 2).reshape(2, h, w, 16))
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("reach", [0, 32])
def test_attention_in_bfloat16_is_that_in_float32(reach: int) -> None:
    torch.manual_seed(0)
    attention = Attention(FlowViTConfig(width=64, heads=2, rel_pos=reach))
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 32, 32, 64)
    exact = attention(x)
    half = attention.bfloat16()(x.bfloat16()).float()
    assert 0 < (half - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [SMALL, SMALL_SAM])
def test_a_tile_has_the_same_bits_at_any_place_in_a_batch(config: FlowViTConfig, dtype: torch.dtype) -> None:
    model = init_weights(FlowViT(config), 0).eval().to(dtype)
    tiles = torch.randn(4, 3, 256, 256, dtype=dtype)
    others = torch.randn(4, 3, 256, 256, dtype=dtype) * 100
    others[2] = tiles[0]
    with torch.inference_mode():
        assert torch.equal(model(tiles)[0], model(others)[2])


def test_random_weights_depend_on_the_seed_alone() -> None:
    a, b, c = (init_weights(FlowViT(SMALL), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["flow_head.weight"], c["flow_head.weight"])
