"""Rules on columns of the cell table as the configuration writes them: a small strict grammar, never evaluated.

where      condition, or several joined by `and`, or a list of these: all must hold
condition  COLUMN < > <= >= THRESHOLD
threshold  a number, pNN or plate.pNN (percentile of the plate), negatives.pNN, otsu, mixture
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CONDITION = re.compile(r"([^<>]*?)\s*(<=|>=|<|>)\s*(\S+)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PERCENTILE = re.compile(r"(?:(plate|negatives)\.)?p(\d+(?:\.\d+)?)")
BORDER = "border"
"""Of a filter, the key that is no column."""
SHORT = {"area_um2": "AreaShape_Area_um2", "solidity": "AreaShape_Solidity"}
"""Of a filter, short keys and the columns of the label set that they stand for."""
THRESHOLDS = "a number, pNN, plate.pNN, negatives.pNN, otsu or mixture"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A column compared with a threshold.

    Attributes:
        column: of the cell table.
        comparison: < > <= or >=.
        source: number, plate or negatives (a percentile of their cells), otsu or mixture.
        value: the number, or the percentile.
    """

    column: str
    comparison: str
    source: str
    value: float = 0.0

    @property
    def threshold(self) -> str:
        """The threshold as the configuration writes it."""
        percentile = f"{self.source}.p{self.value:.10g}"
        return {"number": f"{self.value:.10g}", "plate": percentile, "negatives": percentile}.get(
            self.source, self.source
        )

    def __str__(self) -> str:
        return f"{self.column} {self.comparison} {self.threshold}"


def conditions_of(text: Any, column: str = "") -> list[Condition]:
    """Read conditions.

    Args:
        text: one condition, several joined by `and`, or a list of these.
        column: that all of them compare; then they are written without it.

    Raises:
        ValueError: it can't be understood.
    """
    if isinstance(text, list) and text:
        return [each for part in text for each in conditions_of(part, column)]
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no condition, such as {'>0.8' if column else 'COLUMN > 0.8'!r}")
    return [_condition(part.strip(), column) for part in re.split(r"\s+and\s+", text)]


def _condition(text: str, column: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if not found or bool(found[1]) == bool(column):
        form = "<, >, <= or >= and a threshold" if column else "a column, <, >, <= or >=, and a threshold"
        raise ValueError(f"{text!r} can't be understood: a condition is {form}")
    name, comparison, threshold = found.groups()
    if _NUMBER.fullmatch(threshold):
        source, value = "number", float(threshold)
    elif percentile := _PERCENTILE.fullmatch(threshold):
        source, value = percentile[1] or "plate", float(percentile[2])
        if not 0 < value < 100:
            raise ValueError(f"{threshold!r} in {text!r} must be a percentile between 0 and 100")
    elif threshold in ("otsu", "mixture"):
        source, value = threshold, 0.0
    else:
        raise ValueError(f"the threshold {threshold!r} in {text!r} can't be understood: it is {THRESHOLDS}")
    return Condition(column=column or name, comparison=comparison, source=source, value=value)


def filter_conditions(given: Mapping[str, Any]) -> dict[str, list[Condition]]:
    """Read a filter: by its keys but `border`, the conditions that an object must meet; columns are the keys.

    Raises:
        ValueError: it can't be understood.
    """
    found = {}
    for key, value in given.items():
        try:
            if key == BORDER:
                if not isinstance(value, bool):
                    raise ValueError(f"{value!r} is neither true nor false")
            elif isinstance(value, list):
                found[key] = _between(key, value)
            else:
                found[key] = conditions_of(value, column=key)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    return found


def _between(key: str, ends: list[Any]) -> list[Condition]:
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(numbers) != 2 or len(ends) != 2 or not numbers[0] < numbers[1]:
        raise ValueError(f"{ends!r} isn't two increasing numbers: the least and the greatest that stay")
    return [
        Condition(column=key, comparison=comparison, source="number", value=float(end))
        for comparison, end in zip((">=", "<="), numbers, strict=True)
    ]
