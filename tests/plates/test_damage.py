"""Damaged plates: a message, or a field that is set aside; never a traceback, never a silent gap."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from damage_images import of_files, of_tiffs
from damage_metadata import at_random, of_texts, of_values
from damaged_plate import PIXEL_UM, WELLS, Damage, Raw, write_good
from vendors import LAYOUTS

from plateflow.config import Config, LabelSet, PlateSpec
from plateflow.errors import RawDataError
from plateflow.images.well import WellImage
from plateflow.plates import PlaneError, index_plate, recognise
from plateflow.plates.check import check_plate
from plateflow.plates.raw import RawFolder
from plateflow.project import Plate
from plateflow.stages import run_stage

PATTERN = r"(?P<well>[A-Z]\d+)_s(?P<field>\d+)_w(?P<channel>\d+)(?:_t\d+_z(?P<z>\d+))?\.tif"
PLACE = ["well", "field", "channel", "t", "z"]


def kinds(layout: str) -> Iterator[Damage]:
    """All kinds of damage that can be made in a layout."""
    yield from of_files()
    if not layout.startswith("omezarr"):
        yield from of_tiffs(layout)
    if layout != "pattern":
        yield from of_texts()
        yield from at_random()
    yield from of_values(layout)


CASES = [(layout, damage) for layout in LAYOUTS for damage in kinds(layout)]


@cache
def reader_of(layout: str, good: Path) -> str:
    return "pattern" if layout == "pattern" else recognise(good)


def spec_of(raw: Path, layout: str, good: Path) -> PlateSpec:
    """The line of the plate sheet of a plate, or of a damaged copy of it; the map lies beside the good plate."""
    pattern = {"pattern": PATTERN, "pixel_size_um": PIXEL_UM} if layout == "pattern" else {}
    plate_map = str(good.parent / "map.csv")
    return PlateSpec(plate="p", path=str(raw), layout=reader_of(layout, good), plate_map=plate_map, **pattern)


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a plate gives: its planes by place, their pixels or why there are none, and what preflight reports."""

    planes: pd.DataFrame
    pixels: dict[tuple[object, ...], np.ndarray | str]
    says: list[str]
    channels: list[str]


Good = Callable[[str], tuple[Path, Read]]


def read(spec: PlateSpec) -> Read:
    """Raises RawDataError, and nothing else."""
    index = index_plate(spec)
    config = Config(segmentation={"nuclei": LabelSet(channels=["1" if spec.layout == "pattern" else "DNA"])})
    pixels: dict[tuple[object, ...], np.ndarray | str] = {}
    for row in index.planes.to_dict("records"):
        place = tuple(row[name] for name in PLACE)
        try:
            pixels[place] = RawFolder(index.root).read(row)
        except PlaneError as error:
            pixels[place] = error.reason
    problems = check_plate(spec, config, deep=True)
    says = [f"{p.well}/{p.field} {p.what}" for p in problems]
    names = [channel["name"] for channel in index.metadata["channels"]]
    return Read(planes=index.planes.set_index(PLACE), pixels=pixels, says=says, channels=names)


def differences(good: Read, now: Read) -> Iterator[str]:
    """What differs from the good plate."""
    if now.channels != good.channels:
        yield "channels"
    for place, pixels in good.pixels.items():
        found = now.pixels.get(place, "no row")
        if isinstance(found, str) or not np.array_equal(found, pixels):
            yield f"pixels of {place}"
    for well, rows in good.planes.groupby("well"):
        of_well = now.planes[now.planes.index.get_level_values("well") == well]
        for columns in (["y_um", "x_um"], ["dy_um", "dx_um"]):
            old, new = (table.groupby("field")[columns].first() for table in (rows, of_well))
            old, new = old.align(new, join="inner")
            if columns[0] == "y_um":
                old, new = old - old.min(), new - new.min()
            if not np.allclose(old, new, atol=1e-6, equal_nan=True):
                yield f"{columns} of {well}"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    """Makes the good plate of a layout, once."""

    @cache
    def make(layout: str) -> tuple[Path, Read]:
        raw = write_good(tmp_path_factory.mktemp("good"), layout)
        (raw.parent / "map.csv").write_text("\n".join(["well,role", *(f"{well},treatment" for well in WELLS)]))
        found = read(spec_of(raw, layout, raw))
        assert not any(isinstance(pixels, str) for pixels in found.pixels.values())
        return raw, found

    return make


def test_there_are_forty_kinds_at_least_in_every_layout() -> None:
    for layout in LAYOUTS:
        names = [damage.name for damage in kinds(layout)]
        assert len(names) == len(set(names))
        assert len(names) >= 25 + 15 * (layout != "pattern"), (layout, len(names))


@pytest.mark.parametrize(("layout", "damage"), CASES, ids=[f"{layout}-{damage.name}" for layout, damage in CASES])
def test_damage_is_told(good: Good, tmp_path: Path, layout: str, damage: Damage) -> None:
    raw, sound = good(layout)
    copy = Raw(root=tmp_path / "copy" / raw.name, layout=layout)
    shutil.copytree(raw, copy.root)
    damage.make(copy)
    try:
        if copy.root.is_dir():
            recognise(copy.root)
    except RawDataError as error:
        assert error.where and error.remedy
    try:
        now = read(spec_of(copy.root, layout, raw))
    except RawDataError as error:
        assert error.where and (error.remedy or error.why)
        said = [str(error)]
    else:
        said = [line for line in now.says if line not in sound.says]
        changed = list(differences(sound, now))
        assert said or not changed, f"a silent gap: {changed[:3]}"
        if damage.harmless and not changed:
            return
    assert said, "nothing is said"
    if damage.says and not damage.harmless:
        assert any(re.search(damage.says, line) for line in said), said


@pytest.mark.parametrize("layout", LAYOUTS)
def test_odd_names_of_folders_do_no_harm(good: Good, tmp_path: Path, layout: str) -> None:
    raw, sound = good(layout)
    copy = tmp_path / 'Plätte "1" of John\'s; $(rm) %20' / raw.name
    shutil.copytree(raw, copy)
    assert list(differences(sound, read(spec_of(copy, layout, raw)))) == []


SET_ASIDE = ("image deleted", "image empty", "image cut in the middle", "image scrambled", "image is a folder")
OF_TIFFS = ("image floats with NaN", "image claims 4e9 rows and columns")


@pytest.mark.parametrize(
    ("layout", "damage"),
    [
        pytest.param(layout, damage, id=f"{layout}-{damage.name}")
        for layout, names in (("harmony", SET_ASIDE + OF_TIFFS), ("omezarr", SET_ASIDE))
        for damage in kinds(layout)
        if damage.name in names
    ],
)
def test_the_field_of_a_damaged_image_is_set_aside(good: Good, tmp_path: Path, layout: str, damage: Damage) -> None:
    """Through ingest and tile: of the other fields every pixel is in the store."""
    raw, sound = good(layout)
    copy = Raw(root=tmp_path / "copy" / raw.name, layout=layout)
    shutil.copytree(raw, copy.root)
    damage.make(copy)
    spec = spec_of(copy.root, layout, raw)
    bad = {place[:2] for place, pixels in read(spec).pixels.items() if isinstance(pixels, str)}
    assert len(bad) == 1
    config = Config(
        results=str(tmp_path / "results"),
        parts={"cpu": 1, "gpu": 1},
        segmentation={"nuclei": LabelSet(channels=["DNA", "AGP"])},
    )
    plate = Plate(config=config, spec=spec)
    run_stage(plate, "ingest")
    run_stage(plate, "tile")
    tiled = plate.outcomes("tile")
    assert {(well, field) for well in WELLS for field in tiled.required(well).fields} == bad
    for well in WELLS:
        layout_of_well = WellImage.open(plate.paths, well).layout
        image = WellImage.open(plate.paths, well).array("0")
        for box in layout_of_well.fields:
            for c, channel in enumerate(layout_of_well.channels):
                for z in layout_of_well.z_planes[c]:
                    expected = 0 if (well, box.name) in bad else sound.pixels[well, box.name, channel, 0, z]
                    assert (image[(0, c, z, *box.slices)] == expected).all()
