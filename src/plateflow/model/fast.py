"""The choice between Triton's kernels and the plain path of the network, made here alone.

Kernels run on CUDA, in inference, in half precision. Where Triton is missing, or can't compile or start one (it needs
a C compiler and Python's headers), everything runs the plain way from then on, and one line says so.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)
DEVICES = {"cuda"}
"""Types of devices; tests add the CPU, on which Triton's interpreter runs."""
_failures: list[str] = []  # the first one


def fused(name: str, x: Tensor, *args: Any) -> Any:
    """What a function of `kernels` makes of x and further arguments; None where the plain path is to be taken."""
    if x.device.type not in DEVICES or not in_use(x.dtype):
        return None
    # Autocast doesn't reach into kernels, nor into sums in place, which follow them.
    if torch.is_autocast_enabled(x.device.type) or (
        torch.is_grad_enabled() and any(each.requires_grad for each in _tensors((x, *args)))
    ):
        return None
    try:
        from plateflow.model import kernels

        with torch.cuda.device_of(x):  # Triton starts kernels on the current device
            return getattr(kernels, name)(x, *args)
    except Exception as error:  # compilers and drivers raise many kinds
        if "out of memory" in str(error):  # as Triton and torch both say: the engine halves its batches
            raise torch.OutOfMemoryError(str(error)) from error
        _failures.append(f"{type(error).__name__}: {error}".strip().splitlines()[0])
    logging.getLogger("plateflow").warning(
        "Triton's kernels can't be used here (%s); the network runs without them, slower", _failures[0]
    )
    return None


def in_use(kind: torch.dtype = torch.bfloat16) -> bool:
    """Whether there are kernels for a type, and none has failed so far."""
    return kind in HALF and not _failures


def _tensors(given: Any) -> Iterator[Tensor]:
    """All tensors of arguments: those in tuples, and the parameters of layers, too."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, nn.Module):
        yield from given.parameters()
    elif isinstance(given, tuple):
        for part in given:
            yield from _tensors(part)
