"""Units of length as instruments and writers of images name them."""

import math

POWERS = {
    **dict.fromkeys(("m", "meter", "metre"), 6),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 3),
    **dict.fromkeys(("\u03bcm", "um", "micrometer", "micrometre", "micron"), 0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), -3),
    **dict.fromkeys(("\u00e5", "angstrom", "\u00e5ngstr\u00f6m"), -4),
    **dict.fromkeys(("pm", "picometer", "picometre"), -6),
}
SMALLEST_UM, LARGEST_UM = 0.02, 20.0
"""The range of pixel sizes of light microscopes; outside of it, the unit is probably wrong."""
NO_LENGTH = {"", "px", "pixel", "pixels"}
"""What stands for a unit where nothing was measured."""


def power_of_um(unit: str) -> int | None:
    """The power of ten that turns lengths in a unit, by its symbol or English name, into um: -3 for nm; else None."""
    name = unit.strip().casefold()  # which makes one of the two micro signs, that look the same
    return POWERS.get(name.removesuffix("s") if len(name) > len("\u03bcm") else name)


def um_per(unit: str) -> float:
    """How many um a unit is; NaN where it isn't known."""
    power = power_of_um(unit)
    return math.nan if power is None else 10.0**power
