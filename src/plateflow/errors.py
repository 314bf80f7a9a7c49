"""Errors that a user can fix, by kind: whoever calls Plateflow can catch one kind and let the others pass.

The bottom of the package: everything may import it, and it imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def printable(text: str) -> str:
    """Text as terminals, logs and journals take it: what is not UTF-8 in a file name is written like `\\xe4`."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a pair of code points, as JSON may hold
        return text.encode("utf-8", "backslashreplace").decode()


def number_of(n: int, what: str) -> str:
    """A number and what it counts: `[s]` is there where it isn't one, of `[are|is]` the second where it is.

    `number_of(1, "file[s are| is] gone")` is "1 file is gone".
    """
    return f"{n:,} " + re.sub(r"\[([^|\]]*)\|?([^\]]*)\]", r"\2" if n == 1 else r"\1", what)


class PlateflowError(Exception):
    """An error that a user can fix: what happened, where, why, and what to do.

    Args:
        what: one sentence, without a full stop.
        where: plate, well, field or file.
        why: the cause as far as it is known.
        remedy: what the user can do now.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        what, where, why, remedy = map(printable, (what, where, why, remedy))
        self.what, self.where, self.why, self.remedy = what, where, why, remedy
        more = {"where": where, "why": why, "what to do": remedy}
        super().__init__("\n".join([what, *(f"  {name}: {text}" for name, text in more.items() if text)]))


class ConfigError(PlateflowError):
    """The configuration or the plate sheet can't be used, or doesn't fit the plate."""


class RawDataError(PlateflowError):
    """A raw plate, its index or its plate map can't be read or understood."""


class ArgumentError(PlateflowError, ValueError):
    """An argument of the Python API can't be used; the message begins with its name."""


class ModelError(PlateflowError, ValueError):
    """A model or its weights file can't be used."""


class ChannelError(ConfigError, ValueError):
    """A plate or an image lacks a channel that was asked for."""

    @classmethod
    def missing(
        cls,
        names: Iterable[str | int],
        available: Iterable[str | int],
        *,
        where: str,
        remedy: str = "name one of these instead",
    ) -> ChannelError:
        """The error for those of `names` that `available` lacks; `remedy` says where to change a name."""
        available = list(available)
        absent = ", ".join(repr(name) for name in names if name not in available)
        return cls(
            f"there is no channel {absent}",
            where=where,
            why=f"the channels are {', '.join(map(repr, available))}",
            remedy=remedy,
        )


class ResultsError(PlateflowError):
    """Something that an earlier stage should have left is missing or damaged."""


class LeaseError(PlateflowError):
    """Another job holds the lease, or a driver still runs."""


def is_users(error: BaseException) -> bool:
    """Whether only the user can change what an error says: another attempt on another node would end the same.

    Not so what an error of the system has caused: a share that is away for a moment, a disk, a file that can't be read.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return cause is None and isinstance(error, ConfigError | RawDataError | ModelError | ArgumentError)
