"""The stage `normalise`: one intensity window and illumination profile per plate and channel, then frozen.

Reads: histograms/<well>.npz of all wells in use.
Writes: manifest/window.json, manifest/illumination.npz.
Work item: the plate.

The window's limits are percentiles of all raw pixels of the fields in use, from exact histograms. Once `window.json`
bears the configured freeze number and the same settings it stays as it is, whatever wells come or go; files that were
lost are written again from the journal, which holds the numbers. With
`normalise.scope` well or field the limits come from their own pixels alone, computed on read (`images.window`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plateflow.files import write_json
from plateflow.project import Plate
from plateflow.stages.job import Job, Outcome, WorkItem, damage
from plateflow.stages.runner import one_by_one, run_job
from plateflow.state.journal import PLATE_KEY, item_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def work_items(job: Job) -> list[WorkItem[None]]:
    """The plate; of the tiles it matters only whether there is any: once set, the window doesn't follow them."""
    return [WorkItem(depends={"parameters": job.parameters(), "any field": bool(_used_wells(job.plate))})]


def run(job: Job) -> None:
    """Compute the window and the profiles of a plate unless they are frozen."""
    run_job(job, lambda: work_items(job), one_by_one(lambda item: freeze(job)))


def is_frozen(plate: Plate) -> bool:
    """Whether the window has the configured freeze number and settings, and its files are what was written."""
    entry, paths = plate.outcomes("normalise").get(PLATE_KEY), plate.paths
    return (
        plate.has_frozen_window()
        and entry is not None
        and not any(damage(paths, name, stamp, content=True) for name, stamp in entry.files.items())
    )


def _used_wells(plate: Plate) -> list[str]:
    tiles = plate.outcomes("tile")
    entries = ((well, tiles.get(item_key(well))) for well in plate.wells)
    return [well for well, entry in entries if entry is not None and not entry.left_out]


def freeze(job: Job) -> Outcome:
    """Write `window.json` and `illumination.npz` from the histograms of all wells in use."""
    import numpy as np

    from plateflow.images.histograms import intensity_limits, read_histograms
    from plateflow.images.illumination import fit_profile

    entry = job.plate.outcomes("normalise").get(PLATE_KEY)
    if is_frozen(job.plate):
        return Outcome(files=[job.paths.window, job.paths.illumination], info=entry.info if entry else {})
    frozen = entry.info.get("window", {}) if entry else {}
    if entry and frozen.get("freeze") == job.config.normalise.freeze and frozen.get("settings") == job.parameters():
        _write(job, frozen, entry.info["profiles"])
        return Outcome(info=entry.info)
    settings = job.config.normalise
    channels = job.plate.channels
    counts: dict[str, NDArray[np.int64]] = {}
    binned: dict[str, list[NDArray[np.float32]]] = {channel: [] for channel in channels}
    for well in _used_wells(job.plate):
        for (_, channel), histogram in read_histograms(job.paths, well).items():
            counts[channel] = counts.get(channel, 0) + histogram.counts
            binned[channel].append(histogram.binned)
    flat = np.zeros((0, 1, 1), np.float32)
    profiles = [
        fit_profile(np.stack(binned[channel]) if settings.illumination and binned[channel] else flat)
        for channel in channels
    ]
    top = float(job.plate.metadata["bit_max"])
    window: dict[str, Any] = {
        # without any field nothing is frozen: the first that comes sets the window
        "freeze": settings.freeze if counts else 0,
        "settings": job.parameters(),
        "channels": {
            channel: intensity_limits(counts[channel], settings.percentiles)
            if channel in counts
            else {"low": 0.0, "high": top}
            for channel in channels
        },
        "fields": {channel: len(binned[channel]) for channel in channels},
    }
    info: dict[str, Any] = {"window": window, "profiles": [profile.tolist() for profile in profiles]}
    _write(job, **info)
    if not counts:
        return Outcome(state="flagged", reason="empty", detail="no field of the plate can be used", info=info)
    return Outcome(info=info)


def _write(job: Job, window: dict[str, Any], profiles: list[list[float]]) -> None:
    """Write the window and the profiles: by channel, the coefficients of the light."""
    import numpy as np

    from plateflow.images.histograms import write_npz

    channels = np.array(list(window["channels"]), dtype=str)
    write_npz(job.paths.illumination, channels=channels, coefficients=np.array(profiles))
    write_json(job.paths.window, window)
