"""Following on a device of torch: all points at once, in the same integers as the compiled code, with equal results."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.int32]
# Steps between two looks at how many paths still move.
_LOOK = 16


def follow_on(
    device: Any, steps: NDArray[np.int16], starts: Points, limits: NDArray[np.int64], n_steps: int
) -> tuple[Points, NDArray[np.bool_]]:
    """Follow starts ``(3, n)`` within a window of steps ``(Z, Y, X, D)``; see :func:`plateflow.flows.follow`.

    Returns end pixels in the window's coordinates, and which paths left it.
    """
    import torch

    ndim = steps.shape[3]
    apart = [int(np.prod(steps.shape[a + 1 : 3])) for a in range(3)]
    field = torch.from_numpy(steps).to(device).reshape(-1, ndim)
    bound = torch.from_numpy(limits.astype(np.int32)).to(device)
    low, high, known = bound[3 - ndim :, 0:1], bound[3 - ndim :, 1:2], bound[3 - ndim :, 2:3]
    low_known = low.clamp(min=0)
    axes = range(3 - ndim, 3)
    stride = torch.tensor([[apart[a]] for a in axes], device=device)
    position = torch.from_numpy(starts[3 - ndim :] * 4096).to(device)
    ends = position.clone()
    gone = torch.zeros(position.shape[1], dtype=torch.bool, device=device)
    moving = torch.arange(position.shape[1], device=device)
    for step in range(n_steps):
        if position.shape[1] == 0:
            break
        pixel, part = position >> 12, position & 4095
        corners = [(pixel.long() * stride).sum(0)]
        for a in axes:
            corners = [c + d for c in corners for d in (0, apart[a])]
        values = [field[c].int() for c in corners]
        # Along x first, then y, then z: neighbours in the list differ in the last axis.
        for i in reversed(range(ndim)):
            f = part[i][:, None]
            values = [a + (((b - a) * f + 2048) >> 12) for a, b in zip(values[::2], values[1::2], strict=True)]
        after = torch.minimum(torch.maximum(position + values[0].T, low), high)
        left = ((after < low_known) | (after > known)).any(0)
        still = (after == position).all(0)
        ends[:, moving] = after
        gone[moving] = left
        position = after
        # Positions outside of the window can't be looked up, and those that rest won't move again.
        if left.any() or step % _LOOK == _LOOK - 1:
            going = ~left & ~still
            moving, position = moving[going], position[:, going]
    found = np.zeros_like(starts)
    found[3 - ndim :] = ((ends + 2048) >> 12).cpu().numpy()
    return found, gone.cpu().numpy()
