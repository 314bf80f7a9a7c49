"""Journals: one fsynced line a (well, label set, block) and stage, the only truth about what is done.

A journal has one writer, the job it is named after. Readers take, over all journals of a stage, the line with the
greatest sequence number of each key: changing the number of parts leaves old journals behind, which still count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from plateflow.files import append_line, read_lines

State = Literal["ok", "flagged", "quarantined", "missing"]
LEFT_OUT = ("quarantined", "missing")
Key = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The outcome of one unit of work.

    Attributes:
        well: its name; empty for the units of a plate.
        label_set: its name; empty where the stage knows none.
        block: the block's number in `follow`, else -1.
        fingerprint: of all that the outcome depends on.
        depends: a digest of each thing that it depends on, by name: says what made it stale.
        state: ok, flagged, quarantined or missing.
        reason: machine-readable, such as "truncated".
        detail: for people: file, cause, remedy.
        fields: the fields that were left out, or flagged, with the reason of each.
        info: counts that the stage wants known.
        sequence: rises with every outcome of the same key.
        seconds: how long it took.
        finished: when, ISO 8601.
        watch: raw files that were set aside, each with its size and time then.
    """

    well: str = ""
    label_set: str = ""
    block: int = -1
    fingerprint: str = ""
    depends: dict[str, str] = field(default_factory=dict)
    state: State = "ok"
    reason: str = ""
    detail: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    watch: list[tuple[str, list[int] | None]] = field(default_factory=list)
    sequence: int = 0
    seconds: float = 0.0
    finished: str = ""

    @property
    def key(self) -> Key:
        """What the line is about."""
        return self.well, self.label_set, self.block

    @property
    def left_out(self) -> bool:
        """Whether later stages go on without this unit."""
        return self.state in LEFT_OUT


def outcomes(journals: Iterable[Path]) -> dict[Key, Entry]:
    """The latest outcome of every unit over the journals of a stage.

    A unit that was taken up again after its last outcome, and not finished, may have left half of its new results: its
    entry comes back without fingerprint, so that nobody takes it for done, whatever the parameters are now.
    """
    latest: dict[Key, Entry] = {}
    begun: dict[Key, int] = {}
    for path in journals:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        done, started = _parsed(path, stat.st_size, stat.st_mtime_ns)
        for key, entry in done.items():
            if key not in latest or entry.sequence >= latest[key].sequence:
                latest[key] = entry
        for key, sequence in started.items():
            begun[key] = max(begun.get(key, 0), sequence)
    for key, entry in latest.items():
        if begun.get(key, 0) > entry.sequence:
            latest[key] = replace(entry, fingerprint="", depends={"left in the middle": ""})
    return latest


@lru_cache(maxsize=1024)
def _parsed(path: Path, _size: int, _mtime_ns: int) -> tuple[dict[Key, Entry], dict[Key, int]]:
    """The last outcome and the last start of each unit in one journal; kept, since stages ask for each well."""
    done: dict[Key, Entry] = {}
    started: dict[Key, int] = {}
    for line in read_lines(path):
        event = line.pop("event", None)
        if event == "start":
            well, label_set, block = line["key"]
            started[well, label_set, block] = line["sequence"]
        elif event == "done":
            entry = Entry(**line)
            done[entry.key] = entry
    return done, started


def append_outcome(path: Path, entry: Entry) -> None:
    """Append the outcome of a unit."""
    append_line(path, {"event": "done", **asdict(entry)})
