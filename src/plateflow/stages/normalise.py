"""The stage `normalise`: one intensity window and illumination profile a plate and channel, then frozen.

The window's ends are percentiles of all raw pixels of the fields in use, from exact histograms. Once `window.json`
bears the configured freeze number and the same settings it stays as it is, whatever wells come or go. With
`normalise.scope` well or field the ends are of their own pixels alone: these are computed on read (`images.read`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from plateflow.chain import window_is_frozen
from plateflow.files import write_atomic
from plateflow.stages.runner import JobContext, Outcome, Unit, one_by_one, run_job
from plateflow.state.journal import Entry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def units(context: JobContext) -> list[Unit]:
    """The plate; of the tiles it matters only whether there is any: once set, the window doesn't follow them."""
    return [Unit(depends={"parameters": context.parameters(), "any field": bool(_used_wells(context))})]


def run(context: JobContext) -> None:
    """Compute the window and the profiles of a plate unless they are frozen."""

    def finish(_: list[Entry]) -> None:
        if not is_frozen(context):  # someone removed the file
            freeze(context)

    run_job(context, lambda: units(context), one_by_one(lambda unit: freeze(context)), finish=finish)


def is_frozen(context: JobContext) -> bool:
    """Whether there is a window with the configured freeze number and settings."""
    try:
        window = json.loads(context.paths.window.read_text())
    except (FileNotFoundError, ValueError):
        return False
    return window_is_frozen(window, context.config) and context.paths.illumination.is_file()


def _used_wells(context: JobContext) -> list[str]:
    tiles = context.upstream("tile")
    entries = ((well, tiles.get((well, "", -1))) for well in context.info["wells"])
    return [well for well, entry in entries if entry is not None and not entry.left_out]


def freeze(context: JobContext) -> Outcome:
    """Write `window.json` and `illumination.npz` from the histograms of all wells in use."""
    import numpy as np

    from plateflow.images.histograms import intensity_limits, read_histograms, write_npz
    from plateflow.images.illumination import fit_profile

    if is_frozen(context):
        return Outcome()
    settings = context.config.normalise
    channels = [channel["name"] for channel in context.info["channels"]]
    plate: dict[str, NDArray[np.int64]] = {}
    binned: dict[str, list[NDArray[np.float32]]] = {channel: [] for channel in channels}
    for well in _used_wells(context):
        for (_, channel), found in read_histograms(context.paths, well).items():
            plate[channel] = plate.get(channel, 0) + found.counts
            binned[channel].append(found.binned)
    flat = np.zeros((0, 1, 1), np.float32)
    profiles = [
        fit_profile(np.stack(binned[channel]) if settings.illumination and binned[channel] else flat)
        for channel in channels
    ]
    top = float(context.info["bit_max"])
    window: dict[str, Any] = {
        # without any field nothing is frozen: the first that comes sets the window
        "freeze": settings.freeze if plate else 0,
        "settings": context.parameters(),
        "channels": {
            channel: intensity_limits(plate[channel], settings.percentiles)
            if channel in plate
            else {"low": 0.0, "high": top}
            for channel in channels
        },
        "fields": {channel: len(binned[channel]) for channel in channels},
    }
    write_npz(
        context.paths.illumination,
        channels=np.array(channels, dtype=str),
        coefficients=np.stack(profiles),
    )
    write_atomic(context.paths.window, json.dumps(window, indent=1, ensure_ascii=False).encode() + b"\n")
    info = {"channels": window["channels"]}
    if not plate:
        return Outcome(state="flagged", reason="empty", detail="no field of the plate can be used", info=info)
    return Outcome(info=info)
