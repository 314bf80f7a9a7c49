"""The names of a plate's channels: all differ, and the plate sheet may give others, so that plates of other names share
a configuration.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from plateflow.config import PlateSpec
from plateflow.errors import ChannelError, ConfigError, printable


def named(spec: PlateSpec, channels: Iterable[Mapping[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """The channels in order; one that the plate sheet gives another name has that of the plate as its `original_name`.

    A name that occurs again on the plate gets a number, and `notes` a sentence about it. All are
    renamed at once, so two may swap their names.

    Raises:
        ChannelError: the plate lacks a channel that is to be renamed.
        ConfigError: two channels would have one name.
    """
    where, given = f"{spec.plate}: column channel_names of the plate sheet", spec.names_of_channels
    listed = _told_apart(channels, notes)
    known = [channel["name"] for channel in listed]
    if not given.keys() <= set(known):
        raise ChannelError.missing(given, known, where=where)
    new = [given.get(name, name) for name in known]
    doubled = [name for name, count in Counter(new).items() if count > 1]
    if doubled:
        raise ConfigError(
            f"two channels would be called {doubled[0]!r}",
            where=where,
            why=f"the channels are {', '.join(map(repr, known))}",
            remedy="give each channel a name of its own",
        )
    renamed = zip(listed, known, new, strict=True)
    return [channel | ({"name": b, "original_name": a} if a != b else {}) for channel, a, b in renamed]


def _told_apart(channels: Iterable[Mapping[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    listed, changed = [], []
    for channel in channels:
        name = printable(channel["name"])
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name} ({seen[name]})"
            changed.append(name)
        listed.append({**channel, "name": name})
    if changed:
        notes.append(f"several channels bear the same name; they are told apart by a number: {', '.join(changed)}")
    return listed
