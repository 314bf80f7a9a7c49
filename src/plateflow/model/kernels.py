"""Triton kernels of the network on CUDA: attention with decomposed relative positions, and a sum with its norm.

Forward alone, on float16 and bfloat16. Scores, softmax and sums are float32. A program makes its part of the output by
itself, in a fixed order, so an image's bits depend neither on its place in a batch nor on its companions. The size of
the batch is in the grid alone: another one compiles nothing. Block shapes are constants, chosen by what was compiled
for compute capability 9.0 (docs/performance.md); nothing is tried out at run time.

Needs Triton, which comes with torch's CUDA builds for Linux; `vit` imports this module where it may run.
Source of the online softmax: Dao 2023, "FlashAttention-2".
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

LOG2_E = 1.4426950408889634
WIDEST = 64
"""Tokens in a row of the grid up to which relative positions are added here: a block holds whole rows of keys."""
BLOCKS = {32: (128, 64, 4, 3), 64: (128, 64, 4, 3)}
"""By the dimension of a head: queries and keys of a block, warps, stages of the pipeline."""


def attention(
    qkv: Tensor, heads: int, size: tuple[int, int], tables: tuple[Tensor, Tensor] | None = None
) -> Tensor | None:
    """softmax(q k^T / sqrt(dim) + bias) v.

    Args:
        qkv: (B, N, 3 * heads * dim) as the layer leaves them: of each token q, k and v, each of all heads; the stride
            between images is free.
        size: (h, w) of the grid of tokens, N = h * w.
        tables: relative positions of rows and of columns, (2 reach - 1, dim) each, entry reach - 1 for distance 0;
            larger distances share the last entry.

    Returns:
        (B, N, heads * dim), of the type of qkv; None for other shapes than the models here have.
    """
    (h, w), (batch, n, width) = size, qkv.shape
    dim = width // 3 // heads
    if dim not in BLOCKS or (tables is not None and w > WIDEST):
        return None
    queries, keys, warps, stages = BLOCKS[dim]
    qkv = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    out = torch.empty(batch, n, heads * dim, dtype=qkv.dtype, device=qkv.device)
    to_row = to_col = qkv  # not read
    padded = keys
    if tables is not None:
        to_row, to_col = relative_positions(qkv, heads, size, tables)
        padded = triton.next_power_of_2(w)
    _attention[(triton.cdiv(n, queries) * batch * heads,)](
        qkv, to_row, to_col, out, qkv.stride(0), qkv.stride(1), dim**-0.5 * LOG2_E,
        n=n, heads=heads, dim=dim, h=h, w=w if tables is not None else keys, padded=padded, queries=queries,
        rows=max(1, keys // padded), positions=tables is not None,
        whole=n % queries == 0 and n % keys == 0 and (tables is None or padded == w),
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def relative_positions(
    qkv: Tensor, heads: int, size: tuple[int, int], tables: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """q . R_h and q . R_w for all pairs of a token with a row and with a column, times log2(e).

    Arguments as in `attention`.

    Returns:
        (B, heads, h, N) and (B, heads, N, w), so that both are read along their last axis. In float16, whose rounding
        is an eighth of bfloat16's; a value beyond its range becomes infinite, which the engine refuses in the output.
    """
    (h, w), (batch, n, width) = size, qkv.shape
    dim, reach = width // 3 // heads, len(tables[0]) // 2 + 1
    kind = torch.float32 if qkv.dtype == torch.float32 else torch.float16
    to_row = torch.empty(batch, heads, h, n, dtype=kind, device=qkv.device)
    to_col = torch.empty(batch, heads, n, w, dtype=kind, device=qkv.device)
    tokens = 128
    entries = max(16, triton.next_power_of_2(2 * max(h, w) - 1))
    _relative[(triton.cdiv(n, tokens) * batch * heads,)](
        qkv, tables[0], tables[1], to_row, to_col, qkv.stride(0), qkv.stride(1), LOG2_E,
        n=n, heads=heads, dim=dim, h=h, w=w, reach=reach, tokens=tokens, entries=entries, num_warps=4,
    )  # fmt: skip
    return to_row, to_col


def add_norm(x: Tensor, update: Tensor, norm: nn.LayerNorm, bias: Tensor) -> tuple[Tensor, Tensor]:
    """x + update + bias, and the norm of x + update, both of shape and type of x, and contiguous.

    Args:
        x, update: (..., width).
        norm: over the last axis.
        bias: (width,), what a later layer would add to the sum.
    """
    width, padded = x.shape[-1], triton.next_power_of_2(x.shape[-1])
    x, update = x.contiguous(), update.contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x)
    _add_norm[(x.numel() // width,)](
        x, update, bias, norm.weight, norm.bias, total, normed, norm.eps,
        width=width, padded=padded, num_warps=max(1, padded // 512),
    )  # fmt: skip
    return total, normed


@triton.jit
def _attention(
    qkv, to_row, to_col, out, stride_b, stride_n, scale,
    n: tl.constexpr, heads: tl.constexpr, dim: tl.constexpr, h: tl.constexpr, w: tl.constexpr, padded: tl.constexpr,
    queries: tl.constexpr, rows: tl.constexpr, positions: tl.constexpr, whole: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head. Keys come in whole rows of the grid, each padded to a power of two, so that the
    bias of a block is a column for all its rows and a row for all its columns, and nothing is gathered.
    """
    keys: tl.constexpr = rows * padded
    blocks: tl.constexpr = (n + queries - 1) // queries
    head_of = tl.program_id(0) // blocks  # of all heads of all images
    image, head = (head_of // heads).to(tl.int64), head_of % heads
    i = tl.program_id(0) % blocks * queries + tl.arange(0, queries)
    d = tl.arange(0, dim)
    q_at = qkv + image * stride_b + head * dim
    k_at = q_at + heads * dim
    v_at = k_at + heads * dim
    if whole:
        q = tl.load(q_at + i[:, None] * stride_n + d[None, :])
    else:
        q = tl.load(q_at + i[:, None] * stride_n + d[None, :], mask=i[:, None] < n, other=0.0)
    if positions:
        row_at = to_row + head_of.to(tl.int64) * h * n + i
        col = tl.arange(0, padded)
        col_at = to_col + head_of.to(tl.int64) * n * w + i[:, None] * w + col[None, :]
        bias = tl.load(col_at, mask=(i[:, None] < n) & (col[None, :] < w), other=0.0).to(tl.float32)

    most = tl.full([queries], float("-inf"), tl.float32)
    total = tl.zeros([queries], tl.float32)
    acc = tl.zeros([queries, dim], tl.float32)
    j = tl.arange(0, keys)
    for first in range(0, (n + w - 1) // w, rows):
        if whole:
            key = first * w + j
            k = tl.load(k_at + key[None, :] * stride_n + d[:, None])
            v = tl.load(v_at + key[:, None] * stride_n + d[None, :])
        else:
            key = (first + j // padded) * w + j % padded
            there = (key < n) & (j % padded < w)
            k = tl.load(k_at + key[None, :] * stride_n + d[:, None], mask=there[None, :], other=0.0)
            v = tl.load(v_at + key[:, None] * stride_n + d[None, :], mask=there[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee")
        if not whole:
            scores = tl.where(there[None, :], scores, float("-inf"))
        if positions:
            row = first + tl.arange(0, rows)
            lift = tl.load(
                row_at[:, None] + row[None, :] * n, mask=(i[:, None] < n) & (row[None, :] < h), other=0.0
            ).to(tl.float32)
            by_row = tl.reshape(scores, [queries, rows, padded]) * scale + bias[:, None, :]
            new = tl.maximum(most, tl.max(tl.max(by_row, 2) + lift, 1))
            parts = tl.exp2(by_row + (lift - new[:, None])[:, :, None])
            share = tl.sum(tl.sum(parts, 2), 1)
            weights = tl.reshape(parts, [queries, keys])
        else:
            new = tl.maximum(most, tl.max(scores, 1) * scale)
            weights = tl.exp2(scores * scale - new[:, None])
            share = tl.sum(weights, 1)
        fade = tl.exp2(most - new)
        total = total * fade + share
        acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
        most = new

    acc = acc / total[:, None]
    out_at = out + (image * n + i[:, None]) * (heads * dim) + head * dim + d[None, :]
    if whole:
        tl.store(out_at, acc.to(out.dtype.element_ty))
    else:
        tl.store(out_at, acc.to(out.dtype.element_ty), mask=i[:, None] < n)


@triton.jit
def _relative(
    qkv, table_h, table_w, to_row, to_col, stride_b, stride_n, factor,
    n: tl.constexpr, heads: tl.constexpr, dim: tl.constexpr, h: tl.constexpr, w: tl.constexpr, reach: tl.constexpr,
    tokens: tl.constexpr, entries: tl.constexpr,
):  # fmt: skip
    """The products of a block of queries with all distances; each is stored where its row or column is, if there is."""
    blocks: tl.constexpr = (n + tokens - 1) // tokens
    head_of = tl.program_id(0) // blocks
    image, head = (head_of // heads).to(tl.int64), head_of % heads
    i = tl.program_id(0) % blocks * tokens + tl.arange(0, tokens)
    d, t = tl.arange(0, dim), tl.arange(0, entries)
    q_at = qkv + image * stride_b + head * dim
    q = tl.load(q_at + i[:, None] * stride_n + d[None, :], mask=i[:, None] < n, other=0.0)

    distance = t - (h - 1)
    entry = tl.minimum(tl.maximum(distance, 1 - reach), reach - 1) + reach - 1
    table = tl.load(table_h + entry[None, :] * dim + d[:, None])
    product = tl.dot(q, table, input_precision="ieee") * factor
    row = (i // w)[:, None] - distance[None, :]
    kept = (i[:, None] < n) & (row >= 0) & (row < h)
    row_at = to_row + (head_of.to(tl.int64) * h + row) * n + i[:, None]
    tl.store(row_at, product.to(to_row.dtype.element_ty), mask=kept)

    distance = t - (w - 1)
    entry = tl.minimum(tl.maximum(distance, 1 - reach), reach - 1) + reach - 1
    table = tl.load(table_w + entry[None, :] * dim + d[:, None])
    product = tl.dot(q, table, input_precision="ieee") * factor
    col = (i % w)[:, None] - distance[None, :]
    kept = (i[:, None] < n) & (col >= 0) & (col < w)
    col_at = to_col + (head_of.to(tl.int64) * n + i[:, None]) * w + col
    tl.store(col_at, product.to(to_col.dtype.element_ty), mask=kept)


@triton.jit
def _add_norm(
    x, update, bias, weight, shift, total, normed, eps, width: tl.constexpr, padded: tl.constexpr
):  # fmt: skip
    """A token."""
    c = tl.arange(0, padded)
    there = c < width
    at = tl.program_id(0).to(tl.int64) * width + c
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    value += tl.load(update + at, mask=there, other=0.0).to(tl.float32)
    later = tl.load(bias + c, mask=there, other=0.0).to(tl.float32)
    tl.store(total + at, (value + later).to(total.dtype.element_ty), mask=there)
    mean = tl.sum(value, 0) / width
    centred = tl.where(there, value - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    factor = tl.load(weight + c, mask=there, other=0.0).to(tl.float32)
    offset = tl.load(shift + c, mask=there, other=0.0).to(tl.float32)
    tl.store(normed + at, (centred * scale * factor + offset).to(normed.dtype.element_ty), mask=there)
