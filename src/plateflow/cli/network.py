"""For what the network runs again though its own settings are as they were: for `plateflow plan`.

Where flow fields aren't kept, `infer` makes labels: a change of what decides labels is told here with the hours that it
costs, before a run is started. So is a change between the two ways.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from plateflow.chain import KEEP_FLOWS, LABEL_KEYS, labels_depend_on, stages_of
from plateflow.cli.upgrade import hours_of, named
from plateflow.errors import PlateflowError, number_of
from plateflow.estimate import Estimate
from plateflow.files import digest
from plateflow.project import Plate
from plateflow.state.journal import Entry, last_entries


def network_again(plates: Mapping[str, Plate], estimates: Mapping[str, Estimate]) -> list[dict[str, Any]]:
    """What the network is to do again for the sake of labels, by label set and keys.

    Whether a plate is concerned, the ends of its journals tell; the others aren't read.
    """
    found: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for plate in plates.values():
        try:
            sets = plate.config.segmented
            last = [entry for path in plate.paths.journals("infer") for entry in last_entries(path, sets)]
            if not any(_changed(plate, entry) for entry in last):
                continue
            wells = {*plate.wells}
            entries = [entry for entry in plate.outcomes("infer").values() if entry.well in wells]
        except (OSError, PlateflowError):  # `status` says what is wrong
            continue
        groups: dict[tuple[str, tuple[str, ...]], list[Entry]] = {}
        for entry in entries:
            if keys := _changed(plate, entry):
                groups.setdefault((entry.label_set, keys), []).append(entry)
        for group, again in groups.items():
            nothing: dict[str, Any] = {"plates": [], "items": 0, "gpu_hours": 0.0, "cpu_hours": 0.0}
            redone = found.setdefault(group, {"label_set": group[0], "keys": group[1], **nothing})
            redone["plates"].append(plate.name)
            redone["items"] += len(again)
            hours, on_gpu = hours_of("infer", again, len(entries), estimates.get(plate.name))
            redone["gpu_hours" if on_gpu else "cpu_hours"] += hours
    return list(found.values())


def _changed(plate: Plate, entry: Entry) -> tuple[str, ...]:
    """Of `keep_flows` and the keys that decide labels, those that aren't as they were when an outcome was made."""
    if entry.label_set not in plate.config.segmented or "version" not in entry.depends:  # left in the middle
        return ()
    now = labels_depend_on(plate.config, "infer", entry.label_set)
    if (KEEP_FLOWS in now) != (KEEP_FLOWS in entry.depends):
        return (KEEP_FLOWS,)
    return tuple(key for key in LABEL_KEYS if key in now and entry.depends.get(key) != digest(now[key]))


def lines(again: list[dict[str, Any]], plates: Mapping[str, Plate]) -> Iterator[str]:
    """In words; nothing where nothing is done again."""
    if not again:
        return
    config = next(iter(plates.values())).config
    kept, names = config.keep_flows, [*stages_of(config)]
    stages = ", ".join(names[names.index("infer") + 1 :])
    why = "Flow fields weren't kept before" if kept else "Flow fields aren't kept (keep_flows: false)"
    yield f"{why}, so the network runs again, and after it {stages}:"
    for each in again:
        hours = [(each["cpu_hours"], "CPU"), (each["gpu_hours"], "GPU")]
        cost = " and ".join(f"{amount:,.2f} {device} hours" for amount, device in hours if amount) or "0 hours"
        what = f"{', '.join(each['keys'])} changed: {number_of(each['items'], 'result[s]')}"
        yield f"  {each['label_set']}: {what}, in {named(each['plates'])}: {cost}"
    if any(KEEP_FLOWS in each["keys"] for each in again):
        other = "false" if kept else "true"
        more = "" if kept else ", and `plateflow clean PLATE --flows` frees their scratch"
        yield f"  with `keep_flows: {other}`, as before, these results stand{more}"
    yield ""
