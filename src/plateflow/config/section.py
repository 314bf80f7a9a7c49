"""What the sections of the configuration share."""

import difflib
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: unknown keys, NaN and infinity are refused; values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    BLOCKS: ClassVar[tuple[str, ...]] = ()
    """Keys that only some assays have: not in the default file, where they aren't given."""


def no_boolean(value: Any) -> Any:
    """Refuse true and false, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is no number")
    return value


def nearest(name: str, names: Sequence[str], otherwise: str, *, cutoff: float = 0.6) -> str:
    """The hint for a wrong name: the nearest right one, if one is near, else all of them after `otherwise`."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(names)}"
