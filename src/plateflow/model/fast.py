"""The choice between Triton's kernels and the plain path of the network, made here alone.

Kernels run on CUDA, in inference, in half precision. Where Triton is missing, or can't compile or start one (it needs
a C compiler and Python's headers), everything runs the plain way from then on, and one line says so.
"""

import logging
from typing import Any

import torch
from torch import Tensor

DEVICES = {"cuda"}
"""Types of devices; tests add the CPU, on which Triton's interpreter runs."""
_failures: list[str] = []  # the first one


def fused(name: str, x: Tensor, *args: Any) -> Any:
    """What a function of `kernels` makes of x and further arguments; None where the plain path is to be taken."""
    if x.device.type not in DEVICES or x.dtype not in (torch.bfloat16, torch.float16) or _failures:
        return None
    if torch.is_grad_enabled() and any(isinstance(given, Tensor) and given.requires_grad for given in (x, *args)):
        return None
    try:
        from plateflow.model import kernels

        return getattr(kernels, name)(x, *args)
    except Exception as error:  # compilers and drivers raise many kinds
        if "out of memory" in str(error):  # as Triton and torch both say: the engine halves its batches
            raise torch.OutOfMemoryError(str(error)) from error
        _failures.append(f"{type(error).__name__}: {error}".strip().splitlines()[0])
    logging.getLogger("plateflow").warning(
        "Triton's kernels can't be used here (%s); the network runs without them, slower", _failures[0]
    )
    return None


def in_use() -> bool:
    """Whether no kernel has failed so far."""
    return not _failures
