"""The arithmetic of labels, one pixel at a time: written once, and compiled for processors and for CUDA.

Both give the same bits, because

* what can be an integer is one, and so is every sum over an object's pixels, whose order is then free;
* floating point is float64 with sums, quotients and roots, which every device rounds one by one; a product is taken by
  `product` alone. CUDA's compiler would make ``a * b + c`` one rounding instead of two, and numba can't tell it not to.

Functions take and return numbers, never arrays, so that CUDA's simulator can call them compiled.
"""

import math
from typing import Any

import numpy as np
from numba.extending import overload

from plateflow.compiled import compiled

# Squared errors are summed in units of 2**-32, those of one pixel up to 2**30: the sum's part below 1 and its whole
# number are kept apart, so that neither can overflow for fewer than 2**31 pixels. Probabilities are in units of 2**-30.
ERROR_ONE = 1 << 32
_LARGEST_ERROR = 1 << 30
PROBABILITY_ONE = 1 << 30


def product(a: float, b: float) -> float:
    """``a * b``, rounded by itself, whatever it is added to. On CUDA another function takes its place (`kernels`)."""
    return a * b


@overload(product, inline="always", strict=False)
def _product_on_processors(a: Any, b: Any) -> Any:
    return lambda a, b: a * b


@compiled(inline="always")
def mix(a: Any, b: Any, f: Any) -> Any:
    """Interpolate between two integers; f of 0..4095 is b's share in 1/4096. Halves are rounded up."""
    return a + (((b - a) * f + 2048) >> 12)


@compiled(inline="always")
def mix4(a: Any, b: Any, c: Any, d: Any, fy: Any, fx: Any) -> Any:
    """Interpolate between a and b along x, c and d in the next row, and then along y."""
    return mix(mix(a, b, fx), mix(c, d, fx), fy)


@compiled(inline="always")
def moved(position: Any, step: Any, low: Any, high: Any) -> Any:
    """The position after a step, within the canvas."""
    return min(max(position + step, low), high)


@compiled(inline="always")
def nearest_pixel(position: Any) -> Any:
    """The pixel of a position in 1/4096 pixel; halves are rounded up."""
    return (position + 2048) >> 12


@compiled(inline="always")
def is_greater(count: Any, pixel: Any, other_count: Any, other_pixel: Any) -> Any:
    """Whether a pixel where that many paths end is greater than another: at equal counts the first in raster order."""
    return count > other_count or (count == other_count and pixel < other_pixel)


@compiled(inline="always")
def rounded_mean(total: Any, n: Any) -> Any:
    """The mean of integers of at least 0, rounded; halves up."""
    return (2 * total + n) // (2 * n)


@compiled(inline="always")
def diffusion_steps(depth: Any, height: Any, width: Any, ndim: Any) -> Any:
    """For how many steps heat diffuses in a box of this size: Cellpose's number, in 3D as well."""
    return 2 * (height + width + 2) if ndim == 2 else 6 * (depth + height + width + 3)


@compiled(inline="always")
def sum3(a: Any, b: Any, c: Any) -> Any:
    """The heat of three pixels, in this order."""
    return a + b + c


@compiled(inline="always")
def sum7(centre: Any, left: Any, right: Any, up: Any, down: Any, above: Any, below: Any) -> Any:
    """The heat of a voxel and its neighbours, in this order."""
    return centre + left + right + up + down + above + below


@compiled(inline="always")
def direction(dz: Any, dy: Any, dx: Any) -> Any:
    """A vector made one long; 0 stays 0."""
    length = math.sqrt(product(dz, dz) + product(dy, dy) + product(dx, dx))
    if length > 0.0:
        return dz / length, dy / length, dx / length
    return 0.0, 0.0, 0.0


@compiled(inline="always")
def squared_error(dz: Any, dy: Any, dx: Any) -> Any:
    """The squared length of a difference, as an integer in units of 2**-32; at most 2**62, NaN included."""
    error = product(dz, dz) + product(dy, dy) + product(dx, dx)
    error = error if error < _LARGEST_ERROR else float(_LARGEST_ERROR)
    return np.int64(product(error, float(ERROR_ONE)) + 0.5)
