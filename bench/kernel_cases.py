"""Triton's kernels compiled for compute capability 9.0, which needs no GPU, and the block shapes that may be chosen."""

import contextlib
import io
import re
import tempfile
import time
from typing import Any

SHAPES = {
    32: [(128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3), (256, 64, 8, 3)],
    64: [(128, 64, 4, 3), (128, 64, 4, 2), (128, 64, 8, 3), (128, 128, 8, 2), (256, 64, 8, 3), (64, 64, 4, 3)],
}
"""By the dimension of a head, what `kernels.BLOCKS` may say: queries, keys, warps, stages."""


def compiled(
    function: Any, pointers: dict[str, str], scalars: dict[str, str], constants: dict[str, Any], **options: int
) -> dict[str, Any]:
    """Compile a kernel and return registers per thread, bytes spilled and shared, and the seconds that it took.

    Args:
        pointers, scalars: types of the arguments, such as bf16 or i32; as in a call, divisible by 16.
        options: num_warps and num_stages.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, divisible = {}, {}
    for position, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = f"*{pointers[name]}" if name in pointers else scalars[name]
        if signature[name] != "fp32":
            divisible[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, constants, divisible)
    said, start = io.StringIO(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(triton.knobs.cache.scope())
        stack.enter_context(triton.knobs.nvidia.scope())
        stack.enter_context(contextlib.redirect_stdout(said))
        triton.knobs.cache.dir, triton.knobs.nvidia.dump_ptxas_log = folder, True
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    registers, spilled = (re.search(rf"{what}", said.getvalue()) for what in (r"Used (\d+) reg", r"(\d+) bytes spill"))
    assert registers is not None
    assert spilled is not None
    taken = time.perf_counter() - start
    return {
        "registers": int(registers[1]),
        "spilled": int(spilled[1]),
        "shared": made.metadata.shared,
        "compile_s": taken,
    }


def all_compiled(*, chosen: bool) -> dict[str, dict[str, Any]]:
    """Every kernel as the models that are known use it, and, unless only the chosen one is asked for, attention in the
    other shapes.
    """
    from plateflow.model import kernels

    half, strides = "bf16", {"stride_b": "i32", "stride_n": "i32", "scale": "fp32", "factor": "fp32"}
    found = {}
    for dim, heads, positions in ((64, 16, True), (32, 6, False)):
        for queries, keys, warps, stages in [kernels.BLOCKS[dim]] if chosen else SHAPES[dim]:
            w = 32 if positions else keys
            constants = {"n": 1024, "heads": heads, "dim": dim, "h": 32, "w": w, "padded": w, "queries": queries,
                         "rows": keys // w, "positions": positions, "whole": True}  # fmt: skip
            pointers = {"qkv": half, "to_row": "fp16", "to_col": "fp16", "out": half}
            name = f"attention {dim} {'with' if positions else 'without'} positions {queries}x{keys} {warps} {stages}"
            found[name] = compiled(kernels._attention, pointers, strides, constants, num_warps=warps, num_stages=stages)
    pointers = {"qkv": half, "table_h": half, "table_w": half, "to_row": "fp16", "to_col": "fp16"}
    constants = {"n": 1024, "heads": 16, "dim": 64, "h": 32, "w": 32, "reach": 32, "tokens": 128, "entries": 64}
    found["relative positions 64"] = compiled(kernels._relative, pointers, strides, constants, num_warps=4)
    pointers = dict.fromkeys(("x", "update", "bias", "weight", "shift", "total", "normed"), half)
    for width, padded, warps in ((1024, 1024, 2), (192, 256, 1)):
        sizes = {"width": width, "padded": padded}
        found[f"add_norm {width}"] = compiled(kernels._add_norm, pointers, {"eps": "fp32"}, sizes, num_warps=warps)
    return found
