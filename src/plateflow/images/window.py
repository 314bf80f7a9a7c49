"""The intensity window of a plate: the raw values that become 0 and 1 in each channel, and the illumination."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.chain import SPOTS, THRESHOLDS
from plateflow.config import Spots
from plateflow.errors import ChannelError, ResultsError
from plateflow.files import digest
from plateflow.images.illumination import STRONG, Light
from plateflow.paths import PlatePaths

_OWN = ("scope", "percentiles", "saturated_fraction")
"""The settings from which the limits of single wells and fields follow."""
UNSEEN = 2.0**16
"""A raw value that none is above."""
DRIFTED = 0.5
"""From this drift on, in widths of the window, it no longer fits the plate."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The frozen intensity window of a plate and its illumination.

    The limits of single wells and fields (`normalise.scope`) follow from their own pixels alone, so they are not
    frozen: they are computed on read, and the fingerprints of tile change whenever they do.
    """

    paths: PlatePaths
    content: Mapping[str, Any]
    lights: Mapping[str, Light]

    def limits(self, channel: str) -> tuple[float, float]:
        """The raw values that become 0 and 1, over the whole plate.

        Raises:
            ChannelError: the window was computed without this channel.
        """
        channels = self.content["channels"]
        if channel not in channels:
            raise ChannelError.missing(
                [channel],
                channels,
                where=f"{self.paths.plate}: {self.paths.window}",
                remedy=f"`plateflow retry {self.paths.plate} --stage normalise`, then `snakemake`, computes it anew",
            )
        return channels[channel]["low"], channels[channel]["high"]

    def stain(self, channel: str) -> tuple[float, float, float]:
        """The raw values that are 0 and 1 in a channel, and that above which it shows cells, over the whole plate.

        Where nothing was seen in the channel, nothing is above.

        Raises:
            ChannelError: the window was computed without this channel.
            ResultsError: normalise has not computed its threshold.
        """
        low, high = self.limits(channel)
        thresholds = self.content.get(THRESHOLDS, {})
        if channel not in thresholds:
            where, remedy = f"{self.paths.plate}: {self.paths.window}", "run `snakemake`; normalise computes it"
            raise ResultsError(f"the intensity window has no threshold of {channel}", where=where, remedy=remedy)
        return low, high, UNSEEN if thresholds[channel] is None else thresholds[channel]

    def limits_of_fields(self, well: str, channels: Sequence[str], fields: Sequence[str]) -> NDArray[np.float32]:
        """The raw values that become 0 and 1 in each field of a well, by `normalise.scope`.

        (channel, field, 2): low and high.
        """
        from plateflow.images.histograms import PlateCounts, add_fields, intensity_limits, read_histograms

        settings = self.content["settings"]
        if settings["scope"] == "plate":
            limits = [[list(self.limits(channel)) for channel in channels]]
        else:
            histograms = read_histograms(self.paths, well)
            used = list(dict.fromkeys(field for field, _ in histograms))
            groups = [[field] for field in fields] if settings["scope"] == "field" else [used]
            limits = []
            for group in groups:
                held: dict[str, PlateCounts] = {}
                some = {(field, channel): histograms[field, channel] for field in group for channel in channels}
                add_fields(held, some, settings["saturated_fraction"])
                counts = [held[channel].counts for channel in channels]
                limits.append([list(intensity_limits(each, settings["percentiles"]).values()) for each in counts])
        return np.broadcast_to(np.array(limits, np.float32).swapaxes(0, 1), (len(channels), len(fields), 2))

    def doubts(self, drifts: Mapping[str, float]) -> list[str]:
        """What a user should look at before the plate's intensities are believed, each with what to do.

        Args:
            drifts: by channel, how far the plate has moved from the window, see `stats.flags.drift`.
        """
        if self.content["settings"]["scope"] != "plate":  # whose limits nothing reads then
            drifts = {}
        clipped = self.content.get("clipped", ())
        doubts = [
            f"half of the fields of {channel} or more are saturated, so its intensities are too low: expose it less or "
            "leave it out of what is compared"
            for channel in clipped
        ]
        anew = f"`plateflow retry {self.paths.plate} --stage normalise`, then `snakemake`, computes it anew"
        if not self.content["freeze"] and self.content["settings"]["scope"] == "plate":
            why = "fewer than a tenth of the wells show something to segment"
            doubts.append(
                f"the intensity window isn't frozen, and follows the wells until enough do: {why}; where the plate is "
                "complete it stays as it is, and `normalise.scope: well` gives each well its own"
            )
        doubts += [
            f"no field that counts shows {channel}, so objects that are grown through it are as large as what they are "
            "made from until one does; `propagate` may name another channel"
            for channel, threshold in self.content.get(THRESHOLDS, {}).items()
            if threshold is None
        ]
        far = {channel: drift for channel, drift in drifts.items() if drift > DRIFTED}
        if far:
            listed = ", ".join(f"{channel} {drift:,.0%}" for channel, drift in far.items())
            doubts.append(f"the intensity window no longer fits the plate (drift: {listed}): {anew}")
        for channel, light in self.lights.items():
            if (ratio := light.ratio()) > STRONG:
                what = f"the light of {channel} differs by a factor of {ratio:.1f} over a field"
                doubts.append(f"{what}: look at its profile; `normalise.illumination: false` switches it off")
            if light.alone:
                what = f"the light of {channel} is told by its cells alone, as its background hardly follows it"
                when = f"if the camera's dark level is well below {light.dark:,.0f}, or if cells pile up mid-field"
                doubts.append(f"{what}: set `normalise.illumination: false` {when}")
        return doubts

    def thresholds_of_spots(self, spots: Mapping[str, Spots]) -> dict[str, float]:
        """By name, the least quality of spots: as it is given, or that of the plate, if any well shows them."""
        known = {name: each["threshold"] for name, each in self.content.get(SPOTS, {}).items()}
        given = {name: each.threshold for name, each in spots.items() if each.threshold != "auto"}
        return {name: value for name in spots if (value := given.get(name, known.get(name))) is not None}

    def fingerprint(self, channels: Sequence[str]) -> str:
        """A digest of everything that the window and the profiles hold for these channels."""
        settings = self.content["settings"]
        of_plate = {channel: self.limits(channel) for channel in channels}  # raises for a channel that it lacks
        return digest(
            of_plate if settings["scope"] == "plate" else [settings[key] for key in _OWN],
            [[self.lights[channel].coefficients.tolist(), self.lights[channel].dark] for channel in channels],
        )


def cell_threshold(counts: NDArray[np.int64]) -> float:
    """The raw value above which a stain shows cells, from the pixels of the whole plate by value: Li & Lee's of minimum
    cross entropy (Pattern Recognition 26 (1993) 617), CellProfiler's default.

    It depends on where 0 lies, which cameras set at will; here that is the value of the darkest percent of the pixels.
    """
    dark = int(np.searchsorted(np.cumsum(counts), counts.sum() / 100))
    counts = np.concatenate([counts[: dark + 1].sum(keepdims=True), counts[dark + 1 :]]).astype(np.float64)
    pixels, light = np.cumsum(counts), np.cumsum(counts * np.arange(len(counts)))
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.nan_to_num(light * np.log(light / pixels))
        above = np.nan_to_num((light[-1] - light) * np.log((light[-1] - light) / (pixels[-1] - pixels)))
    return float(dark + np.argmax(below + above))


def load_window(paths: PlatePaths) -> Window:
    """The intensity window of a plate.

    Raises:
        ResultsError: normalise has not run.
    """
    try:
        content = json.loads(paths.window.read_text())
        with np.load(paths.illumination) as file:
            names, coefficients = file["channels"].tolist(), file["coefficients"]
    except FileNotFoundError as error:
        raise ResultsError(
            "the plate has no intensity window",
            where=f"{paths.plate}: {error.filename}",
            remedy=f"run `snakemake`; if its receipt is there, `plateflow verify {paths.plate}` first",
        ) from None
    return Window(paths=paths, content=content, lights=lights_of(content, dict(zip(names, coefficients, strict=True))))


def lights_of(content: Mapping[str, Any], profiles: Mapping[str, NDArray[np.float64]]) -> dict[str, Light]:
    """The light of each channel, from the content of window.json and the coefficients of the profiles."""
    known = content.get("light", {})  # not in a window of an earlier release, which isn't frozen any more
    return {name: Light(coefficients=table, **known.get(name, {})) for name, table in profiles.items()}
