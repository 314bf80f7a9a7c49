"""Spots of a plate: the background that decides their threshold, of `normalise`, and those of a well, of `features`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.chain import SPOTS
from plateflow.config import Config
from plateflow.errors import ConfigError
from plateflow.features.brightness import OCTAVE, STEP_PX, bright_from, brightness
from plateflow.features.measure import compartment
from plateflow.features.spot_columns import per_object, spot_features
from plateflow.features.spots import LEAST_AREA, Background, find_spots, log_response
from plateflow.files import write_atomic
from plateflow.images.canvas import nearest_field
from plateflow.images.well import WellImage
from plateflow.project import Plate
from plateflow.segment.fits import check_spots, spot_diameter
from plateflow.tables import parquet_bytes

if TYPE_CHECKING:
    import pandas as pd

    from plateflow.images.canvas import Canvas
    from plateflow.images.illumination import Light
    from plateflow.images.window import Window
    from plateflow.state.journal import Entry

SAMPLE = 24
"""Fields of a plate that tell its background: so many give the median of their standard deviations to a few percent."""
_DRIFTED = 0.5
"""From this part of the threshold on, it no longer fits what is between the spots in the objects."""
_INTEGERS = ("spot", "label", "canvas", "t", "z")
COLUMNS = [*_INTEGERS, "site", "y_px", "x_px", "y_um", "x_um", "quality", "intensity", "background"]
COLUMNS += ["centroid_px", "border_px", "neighbour_px"]
"""Of a table of spots: number from 1 on, object, place in the well, then as `find_spots` says."""


def background(
    plate: Plate, name: str, wells: Sequence[str], lights: Mapping[str, Light], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The background of spots over a plate, and the threshold that follows from it.

    Of up to SAMPLE wells, evenly chosen, the middle field is looked at, at time points that are evenly chosen, too.
    There are no objects yet: what the label set's first channel shows bright stands for them (`bright_from`), grown as
    the label set is where it is grown evenly; where no field has enough of it all fields together, or else the whole
    fields. Median and standard deviation are the medians of those of the fields, so that a minority of fields full of
    spots moves neither.

    Args:
        wells: those in use.
        asked: what decides it (`Plate.backgrounds_asked`), which is kept beside.

    Returns:
        `asked` with `threshold, background, deviation, fields`, in units of intensity; empty where no well shows them.

    Raises:
        ChannelError, ConfigError: as of `check_spots`; or the background has no spread.
    """
    from plateflow.segment.growth import grow_evenly

    check_spots(plate.config, plate.metadata)
    settings = asked["settings"]
    channels = list(dict.fromkeys([settings["seen"], settings["channel"]]))
    tiles = plate.outcomes("tile")
    scale = float(np.iinfo(_types(plate)[settings["channel"]]).max)
    images = [WellImage.open(plate.paths, well, tiles.required(well).info.get("lacking")) for well in wells]
    images = [image for image in images if image.layout.shows(channels)]
    chosen = np.unique(np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).round().astype(int))
    in_objects, anywhere, few = list[Background](), list[Background](), list[NDArray[np.float32]]()
    for place, image in enumerate(images[index] for index in chosen):
        layout, left_out = image.layout, tiles.required(image.well).fields
        boxes = [box for box in layout.fields if box.name not in left_out]
        box = boxes[len(boxes) // 2]
        n_t, n_z, _, _ = layout.label_shape(plate.config.z)
        times = [t for t in range(n_t) if layout.shows(channels, t)]
        t = times[place * len(times) // len(chosen)]
        pixels = image.region(0, box.slices, [box], channels, plate.config.z, t, z=n_z // 2, light=False)
        if not np.isfinite(pixels).all():
            continue
        for channel, plane in zip(channels, pixels, strict=True):
            lights[channel].correct(plane, lights[channel].profile(*plane.shape), True)
        response = log_response(pixels[-1] / np.float32(scale), asked["diameter_px"])
        objects = _bright(pixels[0])
        for radius, inner in asked.get("grown_px", ()):
            objects = grow_evenly(objects.astype(np.uint32), radius=radius, inner=inner) > 0
        bright = response[::2, ::2][objects[::2, ::2]]
        anywhere.append(Background.of(response[::2, ::2].ravel()))
        if len(bright) >= LEAST_AREA / 4:
            in_objects.append(Background.of(bright))
        elif len(bright):
            few.append(bright)
    if not in_objects and sum(map(len, few)) >= LEAST_AREA / 4:
        in_objects = [Background.of(np.concatenate(few))] * len(few)
    if not (fields := in_objects or anywhere):
        return {}
    over_plate = Background.median_of(fields)
    if over_plate.threshold <= 0 or not over_plate.deviation:
        raise ConfigError(
            f"the background of {settings['channel']} has no spread, so no threshold follows from it",
            where=f"{plate.name}, spots.{name}.threshold",
            why="most pixels have one value: they were cut off, or subtracted",
            remedy="give a number instead of auto",
        )
    return {
        **asked,
        "threshold": over_plate.threshold,
        "background": over_plate.median,
        "deviation": over_plate.deviation,
        "fields": len(fields),
    }


def spots_of_plate(config: Config, name: str, window: Window, measured: Mapping[str, Entry]) -> dict[str, Any]:
    """What the page says of spots: how many in how many objects, per object in each well, the histogram of quality,
    the threshold that the background in the objects asks for, and, if it is the plate's, the one that was frozen; from
    the outcomes of `features`, by well.
    """
    wells = {well: found for well, entry in measured.items() if (found := entry.info.get(SPOTS, {}).get(name))}
    counts = [each["quality"] for each in wells.values() if "quality" in each]
    between = [each["background"] for each in wells.values() if "background" in each]
    return {
        **{key: sum(each[key] for each in wells.values()) for key in ("spots", "objects")},
        "wells": {well: each["spots"] / each["objects"] for well, each in wells.items() if each["objects"]},
        "quality": np.sum(counts, axis=0).tolist() if counts else [],
        "asked": Background.median_of([Background(**each) for each in between]).threshold if between else None,
        **(window.content.get(SPOTS, {}).get(name, {}) if config.spots[name].threshold == "auto" else {}),
    }


def spot_doubts(plate: str, spots: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What to know of thresholds that don't fit the objects; `spots`: by name, of `spots_of_plate`."""
    return [
        f"the threshold of spots.{name} ({each['threshold']:.3g}) doesn't fit the background in the objects, which "
        f"asks for {each['asked']:.3g}: look at its histogram; `threshold: {each['asked']:.3g}` sets it, and "
        f"`plateflow retry {plate} --stage normalise`, then `snakemake`, takes it from the plate anew"
        for name, each in spots.items()
        if each["asked"] and "threshold" in each and abs(each["asked"] / each["threshold"] - 1) > _DRIFTED
    ]


def _bright(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a field (y, x) is bright, by its own brightness; nowhere, where nothing stands out."""
    everywhere = np.ones(pixels.shape, bool)
    start = bright_from(brightness(pixels, np.zeros(pixels.shape, np.uint32), everywhere)[0])
    if start is None:
        return ~everywhere
    floor = np.percentile(pixels[::STEP_PX, ::STEP_PX], 1)
    bright: NDArray[np.bool_] = pixels >= floor + 2 ** ((start - 1) / OCTAVE)
    return bright


def _types(plate: Plate) -> dict[str, str]:
    return {channel["name"]: channel["dtype"] for channel in plate.metadata["channels"]}


class WellSpots:
    """The spots of a well, found canvas by canvas while its features are measured."""

    def __init__(self, plate: Plate, image: WellImage) -> None:
        """Of the spots that the configuration has, those of which the plate knows the threshold."""
        self.plate, self.image = plate, image
        check_spots(plate.config, plate.metadata)
        self._thresholds = image.window.thresholds_of_spots(plate.config.spots) if plate.config.spots else {}
        self._found: dict[str, list[pd.DataFrame]] = {name: [] for name in plate.config.spots}
        self._objects: dict[str, list[pd.DataFrame]] = {name: [] for name in plate.config.spots}
        self._backgrounds: dict[str, list[Background]] = {name: [] for name in plate.config.spots}
        self._counts = dict[str, NDArray[np.int64]]()
        sets = {spots.within for spots in plate.config.spots.values()} & set(plate.label_sets(image.well))
        self._canvases = {name: {each.place: each for each in plate.canvases(image.well, name)} for name in sets}

    def add(
        self,
        canvas: Canvas,
        pixels: NDArray[np.float32],
        channels: Sequence[str],
        labels: Mapping[str, NDArray[np.uint32]],
        outside: NDArray[np.bool_],
    ) -> None:
        """Find those of a canvas.

        Args:
            pixels: (channel, y, x), from 0 to 1, and `channels`, their names.
            labels: (y, x), by compartment.
            outside: (y, x), where no field lies.
        """
        layout = self.image.layout
        size = layout.pixel_um[-2:] if layout.unit_known else (np.nan, np.nan)
        for name, threshold in self._thresholds.items():
            spots = self.plate.config.spots[name]
            within = compartment(spots.within)
            if spots.channel not in channels or within not in labels:
                continue
            found, objects, counts, background = find_spots(
                pixels[channels.index(spots.channel)],
                labels[within],
                diameter_px=spot_diameter(self.plate.config, name, self.plate.metadata),
                threshold=threshold,
                pixel_size_um=tuple(size),
                outside=outside if outside.any() else None,
            )
            if background:
                self._backgrounds[name].append(background)
            self._counts[name] = self._counts.get(name, 0) + counts
            features = spot_features(compartment(name), within, spots.channel)
            self._objects[name].append(per_object(found, objects, features))
            found[["y_px", "x_px"]] += (canvas.y, canvas.x)
            site = nearest_field(canvas.fields, found["y_px"].to_numpy(), found["x_px"].to_numpy())
            own = self._canvases[spots.within][canvas.place].index  # the canvas may be one of the rows' label set
            place: dict[str, Any] = {"canvas": own, "site": site, "t": canvas.t, "z": canvas.z}
            um = {f"{axis}_um": found[f"{axis}_px"] * step for axis, step in zip("yx", size, strict=True)}
            self._found[name].append(found.assign(**place, **um))

    def add_without_rows(self) -> None:
        """Find those at time points at which the well has none of the label set that makes the rows."""
        config, well = self.plate.config, self.image.well
        done = {canvas.place for canvas in self.plate.canvases(well, config.row_label_set)}
        types = _types(self.plate)
        for name, canvases in self._canvases.items():
            wanted = {config.spots[each].channel for each in self._thresholds if config.spots[each].within == name}
            for canvas in (canvas for place, canvas in canvases.items() if place not in done):
                channels = [channel for channel in sorted(wanted) if self.image.layout.stack(channel, canvas.t)]
                if not channels:
                    continue
                pixels = self.image.read(canvas, channels, config.z)
                for c, channel in enumerate(channels):
                    pixels[c] /= np.iinfo(types[channel]).max
                outside = canvas.owner() < 0
                labels = self.image.labels(self.plate.labels_name(well, name), canvas)
                labels[outside] = 0
                self.add(canvas, pixels, channels, {compartment(name): labels}, outside)

    def write(self) -> dict[str, dict[str, Any]]:
        """Write the tables; of each, for the journal: how many spots and objects, quality, the background in them."""
        import pandas as pd

        kept = dict[str, dict[str, Any]]()
        for name in self._thresholds:
            if not self.image.layout.shows([self.plate.config.spots[name].channel]):
                continue
            table = pd.concat(self._found[name] or [pd.DataFrame(columns=COLUMNS)], ignore_index=True)
            table = table.sort_values("canvas", kind="stable", ignore_index=True)
            table["spot"] = np.arange(1, len(table) + 1)
            types = {column: np.int64 if column in _INTEGERS else np.float64 for column in COLUMNS} | {"site": object}
            path = self.plate.paths.spots(name, self.image.well)
            write_atomic(path, parquet_bytes(table[COLUMNS].astype(types)))
            kept[name] = {"spots": len(table), "objects": sum(map(len, self._objects[name]))}
            if name in self._counts:
                kept[name]["quality"] = self._counts[name].tolist()
            if own := self._backgrounds[name]:
                kept[name]["background"] = vars(Background.median_of(own))
        return kept

    def columns(self, table: pd.DataFrame) -> dict[str, Any]:
        """Their columns for the rows of a cell table, from the objects that belong to the rows."""
        import pandas as pd

        columns = dict[str, Any]()
        for name, parts in self._objects.items():
            within = compartment(self.plate.config.spots[name].within)
            if parts and (numbers := f"{within}_Number_Object_Number") in table:
                objects = pd.concat(parts).reindex(table[numbers])
                columns |= {f"{within}_{column}": objects[column].to_numpy() for column in objects}
        return columns
