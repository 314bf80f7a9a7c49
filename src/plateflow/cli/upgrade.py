"""What this release does again of what an earlier one has made: for `plateflow plan`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from plateflow.chain import KEEP_FLOWS, stage_of, stages_of
from plateflow.cli.accept import refusal
from plateflow.errors import PlateflowError, number_of
from plateflow.estimate import Estimate
from plateflow.files import digest
from plateflow.project import Plate
from plateflow.state.journal import Entry, Journal, is_of_earlier_release


@dataclass
class Redone:
    """What is done again of a stage.

    Attributes:
        version, why: of the stage now, and what its last raise changed.
        items: work items that another version made, and that nobody has accepted.
        after: work items that are done again as they build on such ones alone.
        refused: why `plateflow accept` takes none of them; empty where it takes some.
    """

    version: int
    why: str
    plates: list[str] = field(default_factory=list)
    items: int = 0
    after: int = 0
    refused: str = ""
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0


def upgrade(plates: Mapping[str, Plate], estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """What this release does again of plates that an earlier one has made.

    Args:
        estimates: of plates whose sizes are known; what the others take is told by what it took.

    Returns:
        `stages`: by name, as `Redone`, those alone of which something is done again; `not_taken_over`: plates whose
        journals are of a release before the first that this one can read, so that all of them is done again;
        `unread`: plates of which it can't be told, with the reason.
    """
    stages: dict[str, Redone] = {}
    old: list[str] = []
    unread: dict[str, str] = {}
    for plate in plates.values():
        try:
            journals = [path for stage in stages_of(plate.config) for path in plate.paths.journals(stage)]
            if any(is_of_earlier_release(path) and not Journal.read(path).latest for path in journals):
                old.append(plate.name)  # nothing is known of some of its jobs
            of_plate = _of_plate(plate)
        except (OSError, PlateflowError) as error:
            unread[plate.name] = str(error)
            continue
        again: list[str] = []  # whatever is accepted
        for name, (own, after, all_entries) in of_plate.items():
            stage = stage_of(plate.config, name)
            redone = stages.setdefault(name, Redone(version=stage.version, why=stage.why))
            redone.plates.append(plate.name)
            upstream = _upstream(plate, [*own, *after])
            refused = next((f"it builds on what {each} does again" for each in again if each in upstream), "")
            if own and (redone.refused or not redone.items):  # of the first plate that it takes, no other is asked
                redone.refused = refused = refused or refusal(plate, name)
            if refused:
                again.append(name)
            redone.items += len(own)
            redone.after += len(after)
            hours, on_gpu = hours_of(name, [*own, *after], all_entries, estimates.get(plate.name))
            if on_gpu:
                redone.gpu_hours += hours
            else:
                redone.cpu_hours += hours
    return {
        "stages": {name: asdict(redone) for name, redone in stages.items()},
        "not_taken_over": old,
        "unread": unread,
    }


def _is_current(plate: Plate) -> bool:
    """Whether the current versions have made all that the journals tell of, history included: a quick look.

    To read the journals of 100 plates takes 20 s.
    """
    for name, stage in stages_of(plate.config).items():
        version = f'"version":"{digest(stage.version)}"'.encode()
        for path in plate.paths.journals(name):
            data = path.read_bytes()
            if data.count(b'{"event":"done"') != data.count(version):
                return False
    return True


def _of_plate(plate: Plate) -> dict[str, tuple[list[Entry], list[Entry], int]]:
    """By stage of which something is done again: what another version made, what builds on such, the number of all."""
    if _is_current(plate):
        return {}
    redone: dict[str, set[str]] = {}
    found = {}
    try:
        wells = {"", *plate.wells}
    except PlateflowError:
        return {}  # nothing is there but history
    stages = stages_of(plate.config)
    for name, stage in stages.items():
        entries = [
            entry
            for entry in plate.outcomes(name).values()
            if entry.well in wells and entry.label_set in ("", *plate.config.segmented) and entry.fingerprint
        ]
        # `infer` counts its versions in two ways; a change between them is no matter of the release (`network`)
        counted = [entry for entry in entries if name != "infer" or _is_same_way(plate, entry)]
        own = [entry for entry in counted if not entry.is_of_version(stage.version)]
        after = []
        for entry in entries:
            builds_on = {redone_well for each in _upstream(plate, [entry]) for redone_well in redone.get(each, ())}
            if entry.is_of_version(stage.version) and (builds_on & {entry.well, ""} or (builds_on and not entry.well)):
                after.append(entry)
        if own or after:
            found[name] = own, after, len(entries)
            redone[name] = {entry.well for entry in (*own, *after)}
    return found


def _upstream(plate: Plate, entries: list[Entry]) -> set[str]:
    """The stages that outcomes build on, as their journal says: the names of what they depend on begin with those."""
    names = {each.partition(" ")[0] for entry in entries for each in entry.depends}
    if "follow" in names and "follow" not in stages_of(plate.config):  # `stitch` follows the flow itself
        names.add("infer")
    return names


def _is_same_way(plate: Plate, entry: Entry) -> bool:
    return (KEEP_FLOWS in entry.depends) != plate.config.keep_flows


def hours_of(name: str, entries: list[Entry], n_all: int, estimate: Estimate | None) -> tuple[float, bool]:
    """Hours that a part of a stage takes in a plate, and whether of a GPU."""
    if estimate is None:
        on_gpu = any(entry.info.get("device", "cpu") != "cpu" for entry in entries)
        return sum(entry.seconds for entry in entries) / 3600, on_gpu
    hours = estimate.seconds(name) * estimate.jobs(name) * len(entries) / n_all / 3600
    return hours, name == "infer" and estimate.device == "cuda"


def lines(found: dict[str, Any]) -> Iterator[str]:
    """In words; nothing where nothing is done again."""
    stages = found["stages"]
    if stages:
        yield "This release does again what an earlier one has made:"
    for name, redone in stages.items():
        hours = [(redone["cpu_hours"], "CPU"), (redone["gpu_hours"], "GPU")]
        cost = " and ".join(f"{amount:,.2f} {device} hours" for amount, device in hours if amount) or "0 hours"
        if redone["items"]:
            why = f" ({redone['why']})" if redone["why"] else ""
            more = f", and {redone['after']} after it" if redone["after"] else ""
            what = f"version {redone['version']}{why}: {number_of(redone['items'], 'result[s]')}{more}"
        else:
            what = number_of(redone["after"], "result[s], as [they build|it builds] on those")
        yield f"  {name}: {what}, in {named(redone['plates'])}: {cost}"
    if stages:
        cpu, gpu = (sum(redone[f"{kind}_hours"] for redone in stages.values()) for kind in ("cpu", "gpu"))
        yield f"  in all {cpu:,.2f} CPU hours and {gpu:,.2f} GPU hours"
        for name in (name for name, redone in stages.items() if redone["items"]):
            if why := stages[name]["refused"]:
                yield f"  what {name} has made can't be accepted ({why})"
            else:
                command = f"plateflow accept [PLATE] --stage {name}"
                yield f"  `{command}`, then `snakemake`: results stand, and what builds on them"
        yield ""
    if found["not_taken_over"]:
        listed = named(found["not_taken_over"])
        yield f"made by an earlier release, can't be taken over, so done again as a whole: {listed}"
    for plate, why in found["unread"].items():
        yield f"{plate}: can't tell whether this release does it again: {why}"


def named(plates: list[str]) -> str:
    """Some plates by name, and how many there are."""
    shown = ", ".join(plates[:5])
    return shown if len(plates) <= 5 else f"{len(plates)} plates ({shown}, ...)"
