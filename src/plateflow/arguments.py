"""Checks of the arguments of the Python API: what can't be used is a `ValueError` that names the argument."""

import math
import operator
from typing import Any

import numpy as np

from plateflow.errors import ArgumentError


def whole(name: str, value: Any, *, least: int) -> int:
    """A whole number, 200.0 included.

    Raises:
        ArgumentError: it is no such number.
    """
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ArgumentError(f"{name} must be a whole number of at least {least}; got {value!r}")
    return number


def finite(name: str, value: Any, *, least: float = -math.inf, most: float = math.inf, above: bool = False) -> float:
    """A number, neither NaN nor infinite; larger than `least` where it must be `above`.

    Raises:
        ArgumentError: it is no such number.
    """
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most and not (above and number == least)):
        low = f"{'above' if above else 'of at least'} {least:g}" if math.isfinite(least) else ""
        high = f"of at most {most:g}" if math.isfinite(most) else ""
        bounds = " and ".join(filter(None, [low, high])) or "neither NaN nor infinite"
        raise ArgumentError(f"{name} must be a number {bounds}; got {value!r}")
    return number


def pixels(name: str, value: Any) -> Any:
    """An array of numbers with at least one element; lists become arrays, memmap and zarr stay what they are.

    Raises:
        ArgumentError: it has a mask, which would be lost, holds objects, or no element.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise ArgumentError(f"{name} is a masked array", remedy=f"fill it, as with {name}.filled(0)")
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        try:
            value = np.asarray(value)
        except ValueError as error:  # lists of unequal lengths
            raise ArgumentError(f"{name} is no array", why=str(error)) from error
    if np.dtype(value.dtype).kind not in "biufc":
        raise ArgumentError(f"{name} must be an array of numbers; its type is {value.dtype}")
    if 0 in value.shape:
        raise ArgumentError(f"{name} of shape {tuple(value.shape)} has no pixel")
    return value
