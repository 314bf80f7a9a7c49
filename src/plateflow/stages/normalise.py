"""The stage `normalise`: one intensity window and illumination profile per plate and channel, then frozen.

Reads: histograms/<well>.npz of all wells in use; where spots are configured, level 0 of a sample of fields.
Writes: manifest/window.json, manifest/illumination.npz, and the zarr.json of each image: in which window it is shown.
Work item: the plate.

The window's limits are percentiles of all raw pixels of the fields that count, from exact histograms; fields that are
left out or saturated don't. Once `window.json` bears the configured freeze number and the same settings it stays as it
is, whatever wells come or go, until `plateflow retry PLATE --stage normalise` asks for a new one; files that were lost
are written again from the journal, which holds the numbers. Nothing is frozen before `SIGNAL_SHARE` of the wells have
something to focus on: until then the window follows the wells. Thresholds of stains through which objects are grown
(`propagate`) are in it, too; those of further channels are added to a frozen window, which stays as it is. With
`normalise.scope` well or field the limits come from their own pixels alone, computed on read (`images.window`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plateflow.chain import SPOTS, THRESHOLDS
from plateflow.files import digest, write_changed, write_json
from plateflow.plates.pixels import camera_tops
from plateflow.project import Plate
from plateflow.stages.job import Job, Outcome, WorkItem, damage
from plateflow.stages.runner import one_by_one, run_job
from plateflow.state.journal import PLATE_KEY, item_key
from plateflow.state.requests import request_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from plateflow.images.histograms import PlateCounts
    from plateflow.images.illumination import Light

SIGNAL_SHARE = 0.1
"""Of the wells in use, how many must show something in a channel that is segmented before the window is frozen."""
_FROZEN: dict[str, Any] = {"tile": {}}


def work_items(job: Job) -> list[WorkItem[None]]:
    """The plate; it depends on its tiles only as long as its window isn't frozen."""
    tiles = [] if job.plate.has_frozen_window() else _used_wells(job.plate)
    outcomes = job.plate.outcomes("tile")
    fingerprints = {well: outcomes.required(well).fingerprint for well in tiles}
    images, metadata = job.plate.outcomes("ingest").required().info["images"], job.plate.metadata
    layouts = {name: own for name, own in images.items() if "/labels/" not in name}
    shown = digest(layouts, metadata["channels"], metadata["bit_max"])  # with the window, all that images are shown by
    return [WorkItem(depends={"parameters": job.parameters(), "tile": fingerprints, "images": shown})]


def run(job: Job) -> None:
    """Compute the window and the profiles of a plate unless they are frozen."""
    run_job(job, lambda: work_items(job), one_by_one(lambda item: freeze(job)))


def _used_wells(plate: Plate) -> list[str]:
    tiles = plate.outcomes("tile")
    entries = ((well, tiles.get(item_key(well))) for well in plate.wells)
    return [well for well, entry in entries if entry is not None and not entry.left_out]


def freeze(job: Job) -> Outcome:
    """Write `window.json` and `illumination.npz` from the histograms of all wells in use."""
    import numpy as np

    from plateflow.images.histograms import add_fields, intensity_limits, read_histograms
    from plateflow.images.illumination import Light, fit_light
    from plateflow.images.window import lights_of

    entry, wanted = job.plate.outcomes("normalise").get(PLATE_KEY), job.parameters().get(THRESHOLDS, ())
    frozen = entry.info.get("window", {}) if entry else {}
    lacking = [channel for channel in wanted if frozen.get(THRESHOLDS, {}).get(channel) is None]
    if (
        entry
        and job.plate.has_frozen_window()
        and not any(damage(job.paths, *file, content=True) for file in entry.files.items() if "zarr" not in file[0])
    ):
        images = _show(job, json.loads(job.paths.window.read_text()))
        return Outcome(files=[job.paths.window, job.paths.illumination, *images], info=entry.info, learned=_FROZEN)
    if entry and job.plate.has_frozen_limits(frozen):  # it was lost, or spots or stains were configured since
        if lacking:
            frozen = frozen | {THRESHOLDS: frozen.get(THRESHOLDS, {}) | _thresholds(lacking, _plate_counts(job))}
        if not job.plate.is_frozen_window(frozen):
            profiles = zip(frozen["light"], entry.info["profiles"], strict=True)
            frozen = _with_spots(job, frozen, lights_of(frozen, {name: np.array(each) for name, each in profiles}))
        _write(job, frozen, entry.info["profiles"])
        return Outcome(info=entry.info | {"window": frozen}, learned=_learned(job, frozen))
    settings, channels, wells = job.config.normalise, job.plate.channels, _used_wells(job.plate)
    segmented = {channel for label_set in job.config.segmentation.values() for channel in label_set.channels}
    plate: dict[str, PlateCounts] = {}
    grids: dict[str, list[NDArray[np.float32]]] = {channel: [] for channel in channels}
    shown: dict[str, list[bool]] = {channel: [] for channel in channels}
    sharp: dict[tuple[str, bool], set[str]] = {}  # by channel, and whether it is saturated: wells with something there
    limit = job.config.quality.saturated_fraction
    for well in wells:
        histograms = read_histograms(job.paths, well)
        add_fields(plate, histograms, limit)
        for (_, channel), each in histograms.items():
            if channel in segmented and each.sharpness > -np.inf:
                sharp.setdefault((channel, each.saturated >= limit), set()).add(well)
            if each.saturated < limit:  # what is clipped tells no light
                grids[channel].append(np.stack([each.low, each.high]))
                shown[channel].append(each.sharpness > -np.inf)
    lights = [
        fit_light(*np.stack(grids[channel], axis=1)[:, shown[channel]])
        if settings.illumination and grids[channel]
        else Light.even("switched off" if grids[channel] else "no field counts")
        for channel in channels
    ]
    tops = camera_tops(job.plate.metadata)
    counted = [sharp[key] for key in sharp if not key[1] or plate[key[0]].mostly_clipped]
    signal = len(set[str]().union(*counted))
    blank = signal < SIGNAL_SHARE * len(wells) or not wells
    window: dict[str, Any] = {
        "freeze": 0 if blank else settings.freeze,
        "request": request_number(job.paths, "normalise", ""),
        "settings": {key: value for key, value in job.parameters().items() if key not in (SPOTS, THRESHOLDS)},
        "channels": {
            channel: intensity_limits(plate[channel].counts, settings.percentiles)
            if channel in plate
            else {"low": 0.0, "high": float(tops[channel])}
            for channel in channels
        },
        "light": {
            name: {"dark": light.dark, "why": light.why, "alone": light.alone}
            for name, light in zip(channels, lights, strict=True)
        },
        "fields": {channel: len(grids[channel]) for channel in channels},
        "clipped": [channel for channel, held in plate.items() if held.mostly_clipped],
    }
    if wanted:
        window[THRESHOLDS] = _thresholds(wanted, plate)
    window = _with_spots(job, window, dict(zip(channels, lights, strict=True)))
    info: dict[str, Any] = {"window": window, "profiles": [light.coefficients.tolist() for light in lights]}
    _write(job, **info)
    if not blank:
        return Outcome(info=info, learned=_learned(job, window))
    detail = f"{signal} of {len(wells)} wells show something to segment"
    detail += ": the intensity window isn't frozen yet, and follows the wells until enough do"
    return Outcome(state="flagged", reason="empty", detail=detail, info=info)


def _learned(job: Job, window: dict[str, Any]) -> dict[str, Any]:
    """That a window doesn't follow its tiles any more; it does while no well shows spots or stains that it should
    know."""
    return _FROZEN if job.plate.is_frozen_window(window) else {}


def _with_spots(job: Job, window: dict[str, Any], lights: Mapping[str, Light]) -> dict[str, Any]:
    """The window with the background of spots whose threshold is the plate's, where there are any; what it knows of
    those that are asked for stays.
    """
    from plateflow.stages.spots import background

    known = window.get(SPOTS, {})
    found = {
        name: known[name]
        if asked.items() <= known.get(name, {}).items()
        else background(job.plate, name, _used_wells(job.plate), lights, asked)
        for name, asked in job.plate.backgrounds_asked().items()
    }
    found = {name: each for name, each in found.items() if each}
    window = {key: value for key, value in window.items() if key != SPOTS}
    return window | ({SPOTS: found} if found else {})


def _plate_counts(job: Job) -> dict[str, PlateCounts]:
    """What the wells in use hold."""
    from plateflow.images.histograms import add_fields, read_histograms

    plate: dict[str, PlateCounts] = {}
    for well in _used_wells(job.plate):
        add_fields(plate, read_histograms(job.paths, well), job.config.quality.saturated_fraction)
    return plate


def _thresholds(channels: Sequence[str], plate: Mapping[str, PlateCounts]) -> dict[str, float | None]:
    """From which raw value on each channel shows cells; None where nothing was seen in it."""
    from plateflow.images.window import cell_threshold

    return {channel: cell_threshold(plate[channel].counts) if channel in plate else None for channel in channels}


def _write(job: Job, window: dict[str, Any], profiles: list[list[float]]) -> None:
    """Write the window and the profiles: by channel, the coefficients of the light."""
    import numpy as np

    from plateflow.images.histograms import write_npz

    channels = np.array(list(window["channels"]), dtype=str)
    write_npz(job.paths.illumination, channels=channels, coefficients=np.array(profiles))
    write_json(job.paths.window, window)
    _show(job, window)


def _show(job: Job, window: dict[str, Any]) -> list[Path]:
    """Write the metadata of all images, which say how they are shown; returns these files."""
    from plateflow.images.store import image_group
    from plateflow.images.well import WellImage

    files = []
    for well in job.plate.wells:
        image = WellImage.open(job.paths, well)
        files.append(job.paths.image(well) / "zarr.json")
        write_changed(files[-1], image_group(image.layout, job.plate.metadata, image.levels, window["channels"]))
    return files
