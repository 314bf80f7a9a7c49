"""A chunk of a flow field as bytes that compress well, and back: what is not stored takes one byte of a pixel.

The values are taken as the bits of float16, which are finite. First come the upper bytes of all logits, `NOTHING` where
the pixel isn't stored: no finite float16 has it. Then the lower bytes of those that are stored. Of the vectors only the
stored pixels follow, component by component, upper bytes and lower bytes apart: the upper ones resemble each other.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled

Bits = NDArray[np.uint16]
Bytes = NDArray[np.uint8]
NOTHING = 0xFC
"""Upper byte of minus infinity."""


@compiled
def pack(bits: Bits, stored: NDArray[np.uint8], logits: Bytes, vectors: Bytes) -> int:
    """Fill the bytes of a chunk and return how many pixels are stored; -1 if a value isn't finite.

    Args:
        bits: ``(D + 1, Z, Y, X)``, the logit last.
        stored: by the bits of its logit, 1 where a pixel is stored.
        logits: room for two bytes a pixel; as many as there are pixels and stored ones are filled.
        vectors: room for 2 D bytes a pixel; 2 D for each stored one are filled.
    """
    last, depth, height, width = bits.shape[0] - 1, bits.shape[1], bits.shape[2], bits.shape[3]
    count = 0
    for c in range(last + 1):
        for z in range(depth):
            for y in range(height):
                for x in range(width):
                    if bits[c, z, y, x] & 0x7C00 == 0x7C00:
                        return -1
                    if c == last and stored[bits[c, z, y, x]] == 1:
                        count += 1
    i, k, low = 0, 0, depth * height * width
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                value = bits[last, z, y, x]
                if stored[value] == 1:
                    logits[i], logits[low + k] = value >> 8, value & 255
                    for c in range(last):
                        vector = bits[c, z, y, x]
                        vectors[2 * c * count + k], vectors[(2 * c + 1) * count + k] = vector >> 8, vector & 255
                    k += 1
                else:
                    logits[i] = NOTHING
                i += 1
    return count


@compiled
def unpack(logits: Bytes, vectors: Bytes, nothing: int, bits: Bits) -> bool:
    """Fill a chunk from its bytes; return whether they fit it.

    Args:
        logits, vectors: as `pack` has filled them.
        nothing: bits of the logit of a pixel that isn't stored; its vector is 0.
        bits: ``(D + 1, Z, Y, X)``, or ``(1, Z, Y, X)`` for the logits alone, which need no vectors.
    """
    last, depth, height, width = bits.shape[0] - 1, bits.shape[1], bits.shape[2], bits.shape[3]
    low = depth * height * width
    count = logits.size - low
    if count < 0 or vectors.size != 2 * last * count:
        return False
    i, k = 0, 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if logits[i] == NOTHING:
                    bits[last, z, y, x] = nothing
                    for c in range(last):
                        bits[c, z, y, x] = 0
                elif k == count:
                    return False
                else:
                    bits[last, z, y, x] = logits[i] << 8 | logits[low + k]
                    for c in range(last):
                        upper, lower = vectors[2 * c * count + k], vectors[(2 * c + 1) * count + k]
                        bits[c, z, y, x] = upper << 8 | lower
                    k += 1
                i += 1
    return k == count


def by_byte(values: NDArray[Any]) -> Bytes:
    """The bytes of integers, the first ones of all, then the second ones, ...; `from_bytes` is the way back."""
    return np.ascontiguousarray(values.reshape(-1).view(np.uint8).reshape(-1, values.itemsize).T)


def from_bytes(data: Bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The integers of which `by_byte` made these bytes."""
    return np.ascontiguousarray(data.reshape(dtype.itemsize, -1).T).reshape(-1).view(dtype)
