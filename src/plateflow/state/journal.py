"""Journals: one durable line per work item and stage, the only truth about what is done, and with which files.

A journal has one writer, the job it is named after. `Journal` is the one reader of its lines: outcomes, attempts, and
what was in work when an attempt died. `outcomes` takes, over all journals of a stage, the entry with the greatest
sequence number per key: changing the number of parts leaves old journals behind, which still count.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from plateflow.errors import ResultsError, number_of
from plateflow.files import Stamp, append_line, digest, last_lines, parse_line, raw_lines, read_lines, stat_of

State = Literal["ok", "flagged", "quarantined", "missing"]
LEFT_OUT = ("quarantined", "missing")
Key = tuple[str, str, int]
"""Well, label set and block of a work item; "", "" and -1 where it has none. See `item_key`."""
PLATE_KEY: Key = ("", "", -1)
"""Of a stage that does the plate as a whole."""
_LAST_LINES = 64
"""Among how many lines at a journal's end the last outcomes are looked for."""
KNOWN_VERSIONS = 100
"""Among how many versions of a stage the one is looked for that made a result: an entry has a digest of it."""


def item_key(well: str, label_set: str = "", block: int = -1) -> Key:
    """The key of a work item."""
    return well, label_set, block


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The outcome of one work item, as a journal's line tells it.

    Attributes:
        well: its name; empty for a stage that does the plate as a whole.
        label_set: its name; empty where the stage has none.
        block: the block's number in `follow`, else -1.
        fingerprint: of all that the outcome depends on.
        depends: a digest per thing that it depends on, by name; says what made it stale.
        state: ok, flagged, quarantined or missing.
        reason: machine-readable, such as "truncated".
        detail: for people: file, cause, remedy.
        fields: the fields that were left out, or flagged, with their reasons.
        info: counts that the stage wants recorded.
        sequence: rises with every outcome of the same key.
        finished: when, ISO 8601.
        watch: raw files that were set aside, each with its size and time then.
        files: what was written: by name (`PlatePaths.key_of`) the size and checksum of each file.
        raw: by path, size, time and checksum of the raw planes that were read.
        accepted: who took over the results of an earlier version of the stage, for which version, and when.
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
    files: dict[str, Stamp] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    accepted: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0
    seconds: float = 0.0
    finished: str = ""

    @property
    def key(self) -> Key:
        """What the entry is about."""
        return self.well, self.label_set, self.block

    @property
    def left_out(self) -> bool:
        """Whether later stages go on without this work item."""
        return self.state in LEFT_OUT

    def is_of_version(self, version: int) -> bool:
        """Whether a version of its stage made it, or a user has accepted it as made by that version."""
        return self.depends.get("version") == digest(version) or self.accepted.get("version") == version

    @property
    def made_by(self) -> int | None:
        """The version of the stage that made it, as far as it is known."""
        return next((n for n in range(1, KNOWN_VERSIONS) if self.depends.get("version") == digest(n)), None)

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Entry:
        """The entry that a journal's line tells.

        Raises:
            ResultsError: a newer release wrote it.
        """
        unknown = line.keys() - _FIELDS
        if unknown:
            raise ResultsError(
                "the journals were written by a newer release of Plateflow",
                why=f"this one does not know {', '.join(sorted(unknown))}",
                remedy="update Plateflow, or use another results folder",
            )
        return cls(**line)


_FIELDS = {each.name for each in fields(Entry)}


@dataclass(kw_only=True)
class Attempt:
    """One attempt at a job.

    Attributes:
        number: from 1; 0 for what an earlier release wrote, which did not say when an attempt began.
        began: when, ISO 8601.
        state: how it ended; "open" where the journal doesn't say: it runs, or was killed.
        ended: when it ended by itself, ISO 8601; else empty.
        used: what it used, by its end or, where it was killed, its last outcome: cpu_s, peak_mb, read_mb, written_mb.
        entries: what it finished.
    """

    number: int
    began: str = ""
    host: str = ""
    slurm_job: str = ""
    state: Literal["open", "ok", "failed", "interrupted"] = "open"
    ended: str = ""
    error: str = ""
    used: dict[str, Any] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)


CLEANED = "cleaned"
"""Event: a user has removed the results, so that no line before it vouches for anything; the attempts stay history."""
_ENDS: dict[str, Literal["ok", "failed", "interrupted"]] = {
    "end": "ok",
    "failed": "failed",
    "interrupted": "interrupted",
}


class Journal:
    """The journal of one job, read once.

    Attributes:
        latest: the last entry per key.
        started: the sequence number with which each key was last taken up.
        last_line: the last line of all; empty where there is none.
    """

    def __init__(self, lines: Iterable[dict[str, Any]]) -> None:
        self.latest: dict[Key, Entry] = {}
        self.started: dict[Key, int] = {}
        self.attempts: list[Attempt] = []
        self.last_line: dict[str, Any] = {}
        self._in_work: dict[Key, None] = {}
        self._alone: Counter[Key] = Counter()
        for line in lines:
            self.last_line = line
            self._add({**line})

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read a journal; one that isn't there is empty. It is parsed again only when the file has changed.

        The journals of the last plate are held alone: those of a screen would take more memory than there is.
        """
        stamp = stat_of(path)
        if stamp is None:
            return cls(())
        if (held := _held.get(path)) and held[0] == stamp:
            return held[1]
        if any(other.parent != path.parent for other in _held):
            _held.clear()
            _merged.cache_clear()
        journal = cls(read_lines(path))
        _held[path] = stamp, journal
        return journal

    @classmethod
    def brief(cls, path: Path) -> Journal:
        """A journal, read in a fraction of the time: what was taken up is passed over, and of outcomes that are ok all
        but their keys.
        """
        return cls(_brief_lines(path))

    def _add(self, line: dict[str, Any]) -> None:
        event = line.pop("event", None)
        if not self.attempts and event in {"start", "done", *_ENDS}:
            self.attempts.append(Attempt(number=0))
        attempt = self.attempts[-1] if self.attempts else None
        if event == "begin":
            number, began = attempt.number + 1 if attempt else 1, line.get("at", "")
            host, slurm_job = line.get("host", ""), line.get("slurm_job", "")
            self.attempts.append(Attempt(number=number, began=began, host=host, slurm_job=slurm_job))
        elif event == "start":
            key = item_key(*line["key"])
            self.started[key] = line["sequence"]
            self._in_work[key] = None
            for done in line.get("behind", ()):  # only its outcome was still on its way to the disk
                self._in_work.pop(item_key(*done), None)
        elif event == "done":
            used = line.pop("used", None)
            entry = Entry.of(line)
            self.latest[entry.key] = entry
            self._in_work.pop(entry.key, None)
            self._alone.pop(entry.key, None)
            if attempt and attempt.state == "open" and not entry.accepted:  # to accept is no work
                attempt.entries.append(entry)
                attempt.used = used or attempt.used
        elif event == CLEANED:
            self.latest.clear()
            self.started.clear()
            self._in_work.clear()
            self._alone.clear()
        elif event == "crashed":  # said by the attempt that comes after, before it begins
            if line["alone"]:
                self._alone[item_key(*line["keys"][0])] += 1
            self._in_work.clear()
        elif event in _ENDS:
            if attempt:
                attempt.state, attempt.ended, attempt.error = _ENDS[event], line.get("at", ""), line.get("error", "")
                attempt.used = line
            if event != "end":
                self._in_work.clear()

    def in_work(self, *, crashed: bool) -> tuple[list[Key], Counter[Key]]:
        """The work items that were in work when the last attempt died, and how often each died while alone in work.

        Args:
            crashed: whether the last attempt died without a signal from the user or the scheduler: its lease still
                lay there. Other deaths don't count.
        """
        suspects = list(self._in_work) if crashed else []
        alone = self._alone.copy()
        if len(suspects) == 1:
            alone[suspects[0]] += 1
        return suspects, alone


_held: dict[Path, tuple[list[int], Journal]] = {}
"""The journals of one plate that were parsed, with size and time of each file."""
_DONE = re.compile(
    rb'\{"event":"done","well":"([^"]*)","label_set":"([^"]*)","block":(-?\d+),'
    rb'"fingerprint":"[^"]*","depends":\{[^}]*\},"state":"(\w+)"'
)
"""How the line of an outcome begins."""


def _brief_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in raw_lines(path):
        if (done := _DONE.match(line)) and done[4] == b"ok":
            well, label_set = done[1].decode(), done[2].decode()
            yield {"event": "done", "well": well, "label_set": label_set, "block": int(done[3])}
        elif not line.startswith(b'{"event":"start"') and (sound := parse_line(line)):
            yield sound


def ending(path: Path) -> Literal["", "open", "ok", "failed", "interrupted"]:
    """How the last attempt at a job ended, as `Attempt.state`, by the journal's last lines.

    Empty where there was none, or all was cleaned since.
    """
    for line in last_lines(path):
        # an outcome may be appended after the end: one that was accepted, or of raw files that moved
        if not _DONE.match(line) and (sound := parse_line(line)):
            event = sound.get("event", "")
            return "" if event == CLEANED else _ENDS.get(event, "open")
    return ""


def refusal(path: Path, attempt_of: str) -> str:
    """Why the last attempt at a job failed, if it was one of the same run at the same, and only the user can change it.

    Args:
        path: of the job's journal.
        attempt_of: run and digest, as the line of the attempt's end has them.
    """
    last = next(filter(None, map(parse_line, last_lines(path))), {})
    return str(last["error"]) if attempt_of and last.get("refused") == attempt_of else ""


def last_entries(path: Path, label_sets: Collection[str]) -> list[Entry]:
    """The last outcome of each label set, or of the job where it has none, as far as the last lines tell.

    Of an outcome no more than what it is about, what it depends on, and by whom it was accepted: ingest lists
    thousands of files.
    """
    found: dict[str, Entry] = {}
    for _, line in zip(range(_LAST_LINES), last_lines(path), strict=False):
        if "" in found or len(found) == len(label_sets):
            break
        if done := _DONE.match(line):
            brief = json.loads(done[0] + line[line.rfind(b',"accepted":') :])
            found.setdefault(brief["label_set"], Entry.of({name: brief[name] for name in _FIELDS & brief.keys()}))
    return list(found.values())


def outcomes(journals: Iterable[Path]) -> dict[Key, Entry]:
    """The latest outcome of every work item over the journals of a stage.

    A work item that was taken up again after its last outcome, and not finished, may have left half of its new
    results: its entry comes back without fingerprint, so that nobody takes it for done, whatever the parameters are.
    """
    return dict(_merged(*map(Journal.read, journals)))


@lru_cache(maxsize=12)
def _merged(*journals: Journal) -> dict[Key, Entry]:
    """The outcomes of a stage, which are asked for again for each well."""
    latest: dict[Key, Entry] = {}
    started: dict[Key, int] = {}
    for journal in journals:
        for key, entry in journal.latest.items():
            if key not in latest or entry.sequence >= latest[key].sequence:
                latest[key] = entry
        for key, sequence in journal.started.items():
            started[key] = max(started.get(key, 0), sequence)
    for key, entry in latest.items():
        if started.get(key, 0) > entry.sequence:
            latest[key] = replace(entry, fingerprint="", depends={"left in the middle": ""})
    return latest


def exceptions(journals: Collection[Path]) -> list[Entry]:
    """The latest outcomes of a stage that aren't ok, sorted by their keys; where there is none, none is parsed."""
    for path in journals:
        data = path.read_bytes()
        if data.count(b'{"event":"done"') > data.count(b'},"state":"ok","reason":'):
            return [entry for _, entry in sorted(outcomes(journals).items()) if entry.state != "ok"]
    return []


def is_of_earlier_release(path: Path) -> bool:
    """Whether a journal begins with a line of a release before lines had checksums: nothing of it is taken over."""
    try:
        with path.open("rb") as file:
            line = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    return isinstance(line, dict) and "event" in line and "crc" not in line


def append_outcome(path: Path, entry: Entry, used: Mapping[str, Any] | None = None) -> None:
    """Append the outcome of a work item, and what its attempt has used so far: if it is killed, no end tells."""
    append_line(path, {"event": "done", **asdict(entry), **({"used": used} if used else {})})


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A well that was left out of a plate, or a field of a well that went on without it.

    Attributes:
        field: its name; empty where the whole well was left out.
        stage: the first one that left it out.
    """

    plate: str
    well: str
    field: str
    label_set: str
    stage: str
    state: str
    reason: str
    detail: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        place = f"{self.plate}/{self.well}" + (f" field {self.field}" if self.field else "")
        detail = f" ({self.detail})" if self.detail else ""
        return f"{place}: {self.state} at {self.stage}: {self.reason}{detail}"


def wells_and_fields(items: Collection[LeftOut]) -> str:
    """How many wells, and how many fields of other wells, were left out."""
    fields = sum(bool(item.field) for item in items)
    counts = {"well[s]": len(items) - fields, "field[s]": fields}
    return " and ".join(number_of(n, what) for what, n in counts.items() if n)


def left_out(plate: str, outcomes: Iterable[tuple[str, Entry]]) -> Iterator[LeftOut]:
    """What was left out of a plate, each well and field once, at its first stage.

    Args:
        outcomes: of today's wells and label sets, each with its stage, in the order of the stages.
    """
    gone: set[tuple[str, str]] = set()
    for stage, entry in outcomes:
        reason = ", ".join(dict.fromkeys(entry.fields.values())) or entry.reason
        for name, why in {"": reason}.items() if entry.left_out else entry.fields.items():
            if gone & {(entry.well, ""), (entry.well, name)}:
                continue
            gone.add((entry.well, name))
            own = re.search(rf"(?:^|; )field {re.escape(name)}: (.*?)(?=; field |$)", entry.detail, re.DOTALL)
            detail = own[1] if name and own else entry.detail
            files = tuple(file for file, _ in entry.watch)
            yield LeftOut(
                plate=plate,
                well=entry.well,
                field=name,
                label_set=entry.label_set,
                stage=stage,
                state=entry.state if entry.left_out else "quarantined",
                reason=why,
                detail=detail,
                files=tuple(file for file in files if name and file in detail) or files,
            )
