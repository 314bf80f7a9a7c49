"""FlowViT: a plain vision transformer that predicts flow fields.

One class covers both the published Cellpose-SAM network (SAM's ViT-L encoder, its neck, a 1x1 output layer) and the
small default model. `FlowViTConfig` holds the differences: the stem (one patch convolution, or strided convolutions
whose finer features are kept), how tokens encode their position, and the neck that turns tokens into features for two
heads.

Axes: B batch, C channels, H W pixels, h w tokens (h = H / patch), N = h * w.
Output: [dy, dx, cell logit], flows in network units (5 x the unit target).

Sources: Dosovitskiy et al. 2021 (ViT); Li et al. 2022, "Exploring Plain Vision Transformer Backbones" (decomposed
relative positions, neck); Kirillov et al. 2023 (SAM); Chu et al. 2023, "Conditional Positional Encodings" (depthwise
convolution); Pachitariu et al. 2025 (Cellpose-SAM).
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plateflow.model.fast import fused
from plateflow.model.registry import IN_CHANNELS

PATCH = 8
"""Edge of a token in px."""


@dataclass(frozen=True, kw_only=True)
class FlowViTConfig:
    """The shape of a FlowViT, stored in the metadata of its weights file.

    Attributes:
        width: dimensions of a token.
        stem: pixels to tokens, `PatchStem` or `ConvStem`.
        neck: tokens to features, `SamNeck` or `FuseNeck`.
        neck_width: channels of the neck.
        grid: side of the absolute position table in tokens; 0: none.
        rel_pos: tokens up to which relative distances differ; larger ones share the last entry; 0: no tables.
        local_conv: a depthwise 3 x 3 convolution before each attention: position without a table, for any tile size.
    """

    width: int = 192
    depth: int = 6
    heads: int = 6
    stem: Literal["patch", "conv"] = "conv"
    neck: Literal["sam", "fuse"] = "fuse"
    neck_width: int = 64
    grid: int = 0
    rel_pos: int = 0
    local_conv: bool = True


VIT_L = FlowViTConfig(
    width=1024, depth=24, heads=16, stem="patch", neck="sam", neck_width=256, grid=32, rel_pos=32, local_conv=False
)
"""The encoder and heads of `cpsam` and `cpsam_v2`."""


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W), separately at each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) over C."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _conv(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """3 x 3 convolution, norm, GELU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False), LayerNorm2d(c_out, eps=1e-6), nn.GELU()
    )


class PatchStem(nn.Module):
    """One convolution of kernel and stride 8, as in ViT."""

    def __init__(self, config: FlowViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(IN_CHANNELS, config.width, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> tokens (B, width, h, w), and no finer features."""
        return self.proj(x), []


class ConvStem(nn.Module):
    """Three strided convolutions to stride 8; the features at strides 2 and 4 are passed to the neck."""

    def __init__(self, config: FlowViTConfig) -> None:
        super().__init__()
        half, quarter = config.neck_width // 2, config.neck_width
        self.conv2 = _conv(IN_CHANNELS, half, stride=2)
        self.conv4 = _conv(half, quarter, stride=2)
        self.conv8 = nn.Conv2d(quarter, config.width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> tokens (B, width, h, w), [(B, neck_width, H/4, W/4), (B, neck_width/2, H/2, W/2)]."""
        at2 = self.conv2(x)
        at4 = self.conv4(at2)
        return self.conv8(at4), [at4, at2]


class SamNeck(nn.Module):
    """SAM's neck: 1 x 1 and 3 x 3 convolutions on the grid of the tokens."""

    stride = PATCH

    def __init__(self, config: FlowViTConfig) -> None:
        super().__init__()
        self.width = config.neck_width
        self.layers = nn.Sequential(
            nn.Conv2d(config.width, self.width, 1, bias=False),
            LayerNorm2d(self.width, eps=1e-6),
            nn.Conv2d(self.width, self.width, 3, padding=1, bias=False),
            LayerNorm2d(self.width, eps=1e-6),
        )

    def forward(self, x: Tensor, finer: list[Tensor]) -> Tensor:
        """(B, width, h, w) -> (B, neck_width, h, w); `finer` is empty."""
        return self.layers(x)


class FuseNeck(nn.Module):
    """Tokens upsampled to strides 4 and 2 and fused there with the stem's features, so that borders stay sharp."""

    stride = 2

    def __init__(self, config: FlowViTConfig) -> None:
        super().__init__()
        half, quarter = config.neck_width // 2, config.neck_width
        self.width = half
        self.norm = LayerNorm2d(config.width, eps=1e-6)
        self.up4 = nn.Conv2d(config.width, 4 * quarter, 1)
        self.fuse4 = _conv(2 * quarter, quarter)
        self.up2 = nn.Conv2d(quarter, 4 * half, 1)
        self.fuse2 = _conv(2 * half, half)

    def forward(self, x: Tensor, finer: list[Tensor]) -> Tensor:
        """(B, width, h, w) -> (B, neck_width/2, H/2, W/2); `finer` as `ConvStem` gives it."""
        at4, at2 = finer
        x = F.pixel_shuffle(self.up4(self.norm(x)), 2)
        x = self.fuse4(torch.cat([x, at4], dim=1))
        x = F.pixel_shuffle(self.up2(x), 2)
        return self.fuse2(torch.cat([x, at2], dim=1))


class Attention(nn.Module):
    """Global attention; with relative-position tables, the decomposed bias of ViTDet.

    The bias is q_i . (R_h[row_i - row_j] + R_w[col_i - col_j]). On CUDA a kernel adds it to the scores. Elsewhere, and
    in training, it is the dot product of [q R_h, q R_w] with the one-hot [row_j, col_j], so it is added as h + w
    further dimensions of q and k, and plain attention does the rest.
    """

    def __init__(self, config: FlowViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.reach = config.rel_pos
        if self.reach:
            size = (2 * self.reach - 1, config.width // config.heads)
            self.rel_pos_h = nn.Parameter(torch.zeros(size))
            self.rel_pos_w = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, width) -> the same."""
        b, h, w, c = x.shape
        qkv = self.qkv(x).flatten(1, 2)  # (B, N, 3 * width)
        kind = qkv.dtype
        tables = (self.rel_pos_h.to(kind), self.rel_pos_w.to(kind)) if self.reach else None
        mixed = fused("attention", qkv, self.heads, (h, w), tables)
        if mixed is None:
            mixed = self._plain(qkv, h, w)
        return self.proj(mixed.view(b, h, w, c))

    def _plain(self, qkv: Tensor, h: int, w: int) -> Tensor:
        """(B, N, 3 * width) = q, k and v of each token, of all heads each -> (B, N, width)."""
        b, _, width = qkv.shape
        dim = width // 3 // self.heads
        q, k, v = qkv.view(b, h * w, 3, self.heads, dim).permute(2, 0, 3, 1, 4)  # each (B, heads, N, dim)
        scale = dim**-0.5
        if self.reach:
            grid = q.reshape(b, self.heads, h, w, dim)
            to_row = torch.einsum("bnhwc,hkc->bnhwk", grid, self._table(self.rel_pos_h, h)).flatten(2, 3)
            to_col = torch.einsum("bnhwc,wkc->bnhwk", grid, self._table(self.rel_pos_w, w)).flatten(2, 3)
            q = torch.cat([q * scale, to_row, to_col], dim=-1)  # (B, heads, N, dim + h + w)
            k = torch.cat([k, self._one_hot(h, w, k)], dim=-1)
            scale = 1.0
        return _attend(q, k, v, scale).transpose(1, 2).reshape(b, h * w, width // 3)

    def _table(self, table: Tensor, n: int) -> Tensor:
        """(2 reach - 1, dim) -> (n, n, dim), entry [i, j] for the distance i - j."""
        i = torch.arange(n, device=table.device)
        distance = (i[:, None] - i[None, :]).clamp(1 - self.reach, self.reach - 1)
        return table[distance + self.reach - 1]

    def _one_hot(self, h: int, w: int, like: Tensor) -> Tensor:
        """(B, heads, N, h + w): ones at each token's row and column."""
        rows = torch.eye(h, dtype=like.dtype, device=like.device).repeat_interleave(w, 0)
        cols = torch.eye(w, dtype=like.dtype, device=like.device).repeat(h, 1)
        return torch.cat([rows, cols], dim=1).expand(*like.shape[:2], -1, -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v for q and k (B, heads, N, d), v (B, heads, N, dim), dim <= d -> (B, heads, N, dim).

    The fused kernels require the same dimension for all three. They never store the N x N scores, which saves memory on
    GPUs and with gradients. On a CPU one head's scores fit into the cache, and plain matrix products, head by head,
    take half of the fused time in bfloat16 and four fifths in float32, where the fused kernel carries the padding of v.
    """
    extra = q.shape[-1] - v.shape[-1]
    if q.device.type != "cpu" or q.requires_grad or (q.dtype == torch.float32 and not extra):
        padded = F.pad(v, (0, extra)) if extra else v
        return F.scaled_dot_product_attention(q, k, padded, scale=scale)[..., : v.shape[-1]]
    q = q * scale if scale != 1 else q
    heads = zip(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), strict=True)
    return torch.stack([(a @ b.T).softmax(-1) @ c for a, b, c in heads]).view(v.shape)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: FlowViTConfig) -> None:
        super().__init__()
        width = config.width
        self.local = nn.Conv2d(width, width, 3, padding=1, groups=width) if config.local_conv else None
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.lin1 = nn.Linear(width, 4 * width)
        self.lin2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, width) -> the same."""
        if self.local is not None:
            x = x + self.local(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        update = self.attn(self.norm1(x))
        summed = fused("add_norm", x, update, self.norm2, self.lin2.bias)
        if summed is None:
            x = x + update
            return x + self.lin2(F.gelu(self.lin1(self.norm2(x))))
        x, normed = summed  # x has the bias of lin2 already, so that the product is added to it as it is made
        hidden = F.gelu(self.lin1(normed)).flatten(0, 2)
        x.flatten(0, 2).addmm_(hidden, self.lin2.weight.t())
        return x


class FlowViT(nn.Module):
    """Images to flow fields: (B, 3, H, W) -> (B, 3, H, W), H and W multiples of 8."""

    def __init__(self, config: FlowViTConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = PatchStem(config) if config.stem == "patch" else ConvStem(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid, config.grid, config.width)) if config.grid else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.neck = SamNeck(config) if config.neck == "sam" else FuseNeck(config)
        self.flow_head = nn.Conv2d(self.neck.width, 2 * self.neck.stride**2, 1)
        self.cell_head = nn.Conv2d(self.neck.width, self.neck.stride**2, 1)
        self.recompute = False  # of the blocks, keep their inputs alone for the backward pass, and run them again in it

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, 3, H, W), the object's channel first, unused channels 0 -> (B, 3, H, W) = [dy, dx, cell logit].

        `kept` (B, depth), 0 or 1, for training: an image passes by a block where it is 0 (layer drop).
        """
        tokens, finer = self.stem(x)  # (B, width, h, w)
        x = tokens.permute(0, 2, 3, 1)  # (B, h, w, width)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        for number, block in enumerate(self.blocks):
            out = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
            x = out if kept is None else torch.where(kept[:, number, None, None, None] > 0, out, x)
        features = self.neck(x.permute(0, 3, 1, 2), finer)  # (B, neck width, H / stride, W / stride)
        out = torch.cat([self.flow_head(features), self.cell_head(features)], dim=1)  # (B, 3 * stride^2, ...)
        return F.pixel_shuffle(out, self.neck.stride)  # (B, 3, H, W)


def init_weights(model: FlowViT, seed: int) -> FlowViT:
    """Random weights for training from scratch, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith("pos_embed") or "rel_pos" in name:
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
        if name.endswith("local.weight"):
            nn.init.zeros_(parameter)  # each block starts as a plain one
    return model


def channels_last(model: FlowViT) -> FlowViT:
    """Store the kernels for channels-last convolutions, the faster ones given the tokens' layout; in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return model
