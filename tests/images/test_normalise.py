import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from images_project import Project

from plateflow.config import Normalise
from plateflow.errors import PlateflowError, ResultsError
from plateflow.images.canvas import canvases
from plateflow.images.histograms import (
    intensity_limits,
    plane_statistics,
    read_histograms,
    write_histograms,
)
from plateflow.images.illumination import Light
from plateflow.images.well import WellImage
from plateflow.images.window import load_window
from plateflow.paths import PlatePaths
from plateflow.simulate.plate import Fault, WellPlan
from plateflow.state.requests import request

MakeProject = Callable[..., Project]
CHANNELS = ("DNA", "AGP", "Marker")


def raw(project: Project, well: str, field: int, channel: str) -> np.ndarray:
    return tifffile.imread(project.raw_file(well, field, CHANNELS.index(channel) + 1))


def percentile(pixels: np.ndarray, share: float) -> float:
    return float(np.percentile(pixels, share, method="inverted_cdf"))


def test_the_window_is_of_all_pixels_of_the_plate(make_project: MakeProject) -> None:
    project = make_project(faults=[Fault(kind="nan", well="B03", field=1, channel=0)])
    project.run()
    window = json.loads(project.paths.window.read_text())
    assert window["freeze"] == 1
    for channel in CHANNELS:
        used = [raw(project, well, field, channel) for well, field in (("B02", 1), ("B02", 2), ("B03", 1))]
        expected = {"low": percentile(np.stack(used), 1), "high": percentile(np.stack(used), 99)}
        assert window["channels"][channel] == expected
    assert window["fields"] == dict.fromkeys(CHANNELS, 3)


@pytest.mark.parametrize("scope", ["well", "field"])
def test_the_window_of_wells_and_fields(make_project: MakeProject, scope: str) -> None:
    project = make_project(options={"normalise": Normalise(scope=scope, percentiles=(5, 90))})
    project.run()
    window = load_window(project.paths)
    for well in ("B02", "B03"):
        for field in (1, 2):
            pixels = [raw(project, well, n, "AGP") for n in ((1, 2) if scope == "well" else (field,))]
            expected = [percentile(np.stack(pixels), share) for share in (5, 90)]
            assert window.limits_of_fields(well, ["AGP"], [str(field)]).tolist() == [[expected]]
    same = window.fingerprint(["AGP"])
    assert window.fingerprint(["DNA"]) == same  # no limit that was frozen
    window.lights["AGP"] = replace(window.lights["AGP"], dark=1.0)
    assert window.fingerprint(["AGP"]) != same


@pytest.mark.parametrize("scope", ["well", "field"])
def test_a_field_mended_after_the_freeze_has_its_own_window(make_project: MakeProject, scope: str) -> None:
    faults = [Fault(kind="zero-byte", well="B03", field=field, channel=0) for field in (0, 1)]
    project = make_project(faults=faults, options={"normalise": Normalise(scope=scope)})
    bright = tifffile.imread(project.raw_file("B02", 1, 1)) + 3000
    project.run()
    frozen = project.paths.window.read_bytes()
    tifffile.imwrite(project.raw_file("B03", 1, 1), bright)
    project.run()
    assert project.paths.window.read_bytes() == frozen
    (canvas,) = project.plate.canvases("B03")
    image = WellImage.open(project.paths, "B03")
    pixels = image.read(canvas, ["DNA"], "max")
    low, high = percentile(bright, 1), percentile(bright, 99)
    expected = (pixels - low) / (high - low)
    scaled = image.apply_window(pixels, canvas, ["DNA"])
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-6)


def test_limits_of_a_histogram() -> None:
    assert intensity_limits(np.array([0, 0, 7, 0]), (1, 99)) == {"low": 2.0, "high": 3.0}
    assert intensity_limits(np.array([1, 98, 1]), (1, 99)) == {"low": 0.0, "high": 1.0}
    assert intensity_limits(np.array([1, 97, 2]), (0, 100)) == {"low": 0.0, "high": 2.0}


def test_a_frozen_window_stays(make_project: MakeProject) -> None:
    project = make_project()
    project.run()
    frozen = project.paths.window.read_bytes()
    path = project.raw_file("B02", 1, 1)
    tifffile.imwrite(path, tifffile.imread(path) + 1000)
    project.run()
    assert project.paths.window.read_bytes() == frozen
    project.options = {"normalise": Normalise(freeze=2)}
    project.run("normalise")
    thawed = json.loads(project.paths.window.read_text())
    assert thawed["freeze"] == 2
    assert thawed["channels"]["DNA"] != json.loads(frozen)["channels"]["DNA"]
    assert thawed["channels"]["AGP"] == json.loads(frozen)["channels"]["AGP"]
    kept = project.paths.window.read_bytes()
    project.paths.window.unlink()
    project.run("normalise")  # nothing changed but that the file is gone
    assert project.paths.window.read_bytes() == kept


def test_a_window_is_computed_anew_when_it_is_asked_for(make_project: MakeProject) -> None:
    project = make_project()
    project.run()
    path = project.raw_file("B02", 1, 1)
    tifffile.imwrite(path, tifffile.imread(path) + 1000)
    project.run()
    frozen = project.paths.window.read_bytes()
    request(project.paths, kind="retry", stage="normalise")
    assert not project.plate.has_frozen_window()
    project.run("normalise")
    assert project.plate.has_frozen_window()
    used = np.stack([raw(project, well, field, "DNA") for well in ("B02", "B03") for field in (1, 2)])
    assert load_window(project.paths).limits("DNA") == (percentile(used, 1), percentile(used, 99))
    assert project.paths.window.read_bytes() != frozen


def test_what_makes_intensities_doubtful_is_said_with_the_command(make_project: MakeProject) -> None:
    project = make_project()
    project.run()
    window = load_window(project.paths)
    assert window.doubts({"DNA": 0.4, "AGP": 0.0}) == []
    (far,) = window.doubts({"DNA": 84.1, "AGP": 0.0})
    assert far.startswith(
        "the intensity window no longer fits the plate (drift: DNA 8,410%): `plateflow retry p --stage"
    )
    of_wells = {**window.content, "freeze": 0, "settings": {**window.content["settings"], "scope": "well"}}
    assert replace(window, content=of_wells).doubts({"DNA": 84.1}) == []  # nothing reads the plate's limits
    (thawed,) = replace(window, content={**window.content, "freeze": 0}).doubts({})
    assert "isn't frozen" in thawed and "`normalise.scope: well`" in thawed
    coefficients = np.zeros((5, 5))
    coefficients[0, 0], coefficients[0, 1] = 1, 0.4
    window.lights["AGP"] = Light(coefficients=coefficients)
    (strong,) = window.doubts({})
    assert strong.startswith("the light of AGP differs by a factor of 2.3 over a field")
    window.lights["AGP"] = replace(Light.even(""), dark=147.6, alone=True)
    (alone,) = window.doubts({})
    assert alone.startswith("the light of AGP is told by its cells alone") and "dark level is well below 148" in alone


def test_blank_wells_freeze_nothing_and_cells_do(make_project: MakeProject) -> None:
    """One of eleven wells is less than a tenth."""
    project = make_project(wells=[WellPlan(well=f"B{n:02d}", role="negative") for n in range(1, 12)], fields=1)
    rng, cells = np.random.default_rng(0), {}
    for n in range(1, 12):
        path = project.raw_file(f"B{n:02d}", 1, 1)
        cells[n] = tifffile.imread(path)
        tifffile.imwrite(path, rng.poisson(200, cells[n].shape).astype(np.uint16))
    project.run()
    entry = project.outcome("normalise")
    assert (entry.state, entry.reason) == ("flagged", "empty")
    assert entry.detail.startswith("0 of 11 wells show something to segment")
    assert not project.plate.has_frozen_window()
    assert load_window(project.paths).limits("DNA")[1] < 250
    for n in (1, 2):  # cells that are over-exposed are left out, and are no reason either
        tifffile.imwrite(project.raw_file(f"B{n:02d}", 1, 1), np.minimum(cells[n], 700))
    project.run()
    assert project.outcome("normalise").detail.startswith("0 of 11 wells")
    for n, frozen in ((1, False), (2, True)):
        tifffile.imwrite(project.raw_file(f"B{n:02d}", 1, 1), cells[n])
        project.run()
        assert project.plate.has_frozen_window() == frozen
    assert project.outcome("normalise").state == "ok"
    assert load_window(project.paths).limits("DNA")[1] > 500


def test_saturated_fields_shape_neither_window_nor_light(make_project: MakeProject) -> None:
    """A camera of 12 bits with an offset: nothing is at the top of the files' 16 bits."""
    project = make_project()
    for field in (1, 2):
        for channel in (1, 2, 3):
            path = project.raw_file("B03", field, channel)
            pixels = np.minimum(tifffile.imread(path) // 4 + 32768, 32768 + 4095).astype(np.uint16)
            if field == 2 and channel == 2:
                rng = np.random.default_rng(0)
                spread = np.clip(rng.normal(3500, 400, pixels.shape), 0, 4095) + 32768
                pixels = np.where(np.indices(pixels.shape)[0] < 20, spread, pixels).astype(np.uint16)
            tifffile.imwrite(path, pixels)
    project.run()
    found = read_histograms(project.paths, "B03")
    assert found["2", "AGP"].top == 32768 + 4095
    share = (raw(project, "B03", 2, "AGP") == 32768 + 4095).mean()
    assert found["2", "AGP"].saturated == pytest.approx(share) and share > 0.01
    assert [found["1", name].saturated for name in CHANNELS] == [0, 0, 0]
    window = json.loads(project.paths.window.read_text())
    assert window["fields"] == {channel: 4 - (channel == "AGP") for channel in CHANNELS}
    assert window["clipped"] == []
    used = np.stack([raw(project, well, field, "AGP") for well, field in (("B02", 1), ("B02", 2), ("B03", 1))])
    assert window["channels"]["AGP"] == {"low": percentile(used, 1), "high": percentile(used, 99)}


def test_fields_of_one_value_shape_no_window(make_project: MakeProject) -> None:
    """One is white at 12 bits in files of 16, one black, as is a whole channel."""
    options = {"normalise": Normalise(scope="well", illumination=False)}
    project = make_project(options=options)
    for well, channel, value in (("B02", 1, 4095), ("B03", 1, 0)):
        path = project.raw_file(well, 2, channel)
        tifffile.imwrite(path, np.full_like(tifffile.imread(path), value))
    for well, field in (("B02", 1), ("B02", 2), ("B03", 1), ("B03", 2)):
        tifffile.imwrite(project.raw_file(well, field, 3), np.full_like(raw(project, well, field, "DNA"), 7))
    project.run()
    found = [read_histograms(project.paths, well)["2", "DNA"].saturated for well in ("B02", "B03")]
    assert found == [1, 0]
    window = load_window(project.paths)
    sound = {well: raw(project, well, 1, "DNA") for well in ("B02", "B03")}
    every = np.stack(list(sound.values()))
    assert window.limits("DNA") == (percentile(every, 1), percentile(every, 99))
    assert (window.limits("Marker"), window.content["clipped"]) == ((7, 8), [])
    for well, pixels in sound.items():
        expected = [percentile(pixels, 1), percentile(pixels, 99)]
        assert window.limits_of_fields(well, ["DNA"], ["1", "2"]).tolist() == [[expected, expected]]


def test_counts_of_long_films_are_exact(tmp_path: Path) -> None:
    statistics = plane_statistics(np.arange(256, dtype=np.uint16).reshape(16, 16))
    statistics.counts[7] = 2**32 + 9
    paths = PlatePaths.of("p", results=tmp_path)
    write_histograms(paths.histogram("A01"), {"1": [statistics]}, {"DNA": 65535})
    np.testing.assert_array_equal(read_histograms(paths, "A01")["1", "DNA"].counts, statistics.counts)


def test_a_channel_that_is_over_exposed_everywhere_leaves_the_others_alone(make_project: MakeProject) -> None:
    project = make_project()
    for well, field in (("B02", 1), ("B02", 2), ("B03", 1), ("B03", 2)):
        path = project.raw_file(well, field, 2)
        pixels = tifffile.imread(path)
        tifffile.imwrite(path, np.minimum(pixels, int(np.percentile(pixels, 90))).astype(np.uint16))
    project.run()
    assert project.outcome("normalise").state == "ok"
    window = load_window(project.paths)
    for number, channel in enumerate(CHANNELS[:2], 1):
        every = [tifffile.imread(project.raw_file(well, f, number)) for well in ("B02", "B03") for f in (1, 2)]
        assert window.limits(channel) == (percentile(np.stack(every), 1), percentile(np.stack(every), 99))
    (doubt,) = window.doubts({})
    assert doubt.startswith("half of the fields of AGP or more are saturated") and "expose it less" in doubt


@pytest.mark.parametrize(("bright", "expected"), [(15, None), (16, 16)])
def test_pixels_are_clipped_where_there_are_enough_for_a_pile(
    make_project: MakeProject, bright: int, expected: int | None
) -> None:
    project = make_project()
    path = project.raw_file("B02", 1, 1)
    pixels = tifffile.imread(path)
    pixels[10, :bright] = 65535
    tifffile.imwrite(path, pixels)
    project.run()
    image = WellImage.open(project.paths, "B02")
    (canvas,) = canvases(image.layout, set(), "max")
    clipped = image.clipped(canvas, list(CHANNELS), "max")
    assert (None if clipped is None else int(clipped.sum())) == expected


def test_histograms_of_an_earlier_release_say_what_to_do(make_project: MakeProject) -> None:
    project = make_project()
    project.run()
    path = project.paths.histogram("B02")
    with np.load(path) as file:
        older = {name: file[name] for name in file.files if name not in ("high", "low")}
    np.savez(path, **older)
    with pytest.raises(ResultsError, match=r"of an earlier release[\s\S]*tile writes them anew"):
        read_histograms(project.paths, "B02")


def test_a_window_that_can_not_be_read_for_a_moment_is_not_computed_again(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    project.run()
    frozen = project.paths.window.read_bytes()
    request(project.paths, kind="retry", stage="normalise")
    read = Path.read_text

    def away(path: Path, *arguments: Any, **keywords: Any) -> str:
        if path.name == "window.json":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path, *arguments, **keywords)

    with monkeypatch.context() as patched, pytest.raises(PlateflowError, match="Input/output"):
        patched.setattr(Path, "read_text", away)
        project.run("normalise")
    assert project.paths.window.read_bytes() == frozen


def test_a_plate_without_any_sound_field_freezes_nothing(make_project: MakeProject) -> None:
    faults = [Fault(kind="zero-byte", well=well, field=f, channel=0) for well in ("B02", "B03") for f in (0, 1)]
    project = make_project(faults=faults)
    sound = project.raw_file("B02", 1, 2).read_bytes()
    project.run()
    assert project.outcome("normalise").reason == "empty"
    assert project.paths.window.exists()
    assert not project.plate.has_frozen_window()
    project.raw_file("B02", 1, 1).write_bytes(sound)
    project.run()
    assert project.outcome("normalise").state == "ok"
    assert json.loads(project.paths.window.read_text())["fields"]["DNA"] == 1


def test_reading_without_a_window_says_what_to_do(make_project: MakeProject) -> None:
    project = make_project()
    project.run("ingest", "tile")
    with pytest.raises(PlateflowError, match="no intensity window"):
        load_window(project.paths)


def test_a_canvas_is_read_corrected_and_normalised(make_project: MakeProject) -> None:
    wells = [WellPlan(well=f"B{n:02d}", role="negative") for n in range(2, 8)]
    project = make_project(wells=wells, fields=3, overlap_px=8)
    project.run()
    image = WellImage.open(project.paths, "B02")
    window = image.window
    (canvas,) = canvases(image.layout, set(), "max")
    coefficients = np.zeros((5, 5))
    coefficients[0, 0], coefficients[2, 0], coefficients[0, 1] = 1.1, -0.3, 0.1
    window.lights["AGP"] = Light(coefficients=coefficients, dark=150.0)
    pixels = image.read(canvas, ["AGP", "DNA"], "max")
    assert (pixels.dtype, pixels.shape) == (np.float32, (2, 120, 152))
    y, x = (2 * (np.arange(size) + 0.5) / size - 1 for size in (64, 80))
    light = (1.1 - 0.3 * y[:, None] ** 2 + 0.1 * x).astype(np.float32)
    first, second = (150 + (raw(project, "B02", field, "AGP") - np.float32(150)) / light for field in (1, 2))
    np.testing.assert_array_equal(pixels[0, :64, :80], first)
    np.testing.assert_array_equal(pixels[0, :64, 80:], second[:, 8:])  # the first field has the overlap
    assert not pixels[:, 64:, 80:].any()
    scaled = image.apply_window(pixels, canvas, ["AGP", "DNA"])
    low, high = window.limits("AGP")
    np.testing.assert_allclose(scaled[0, :64, :80], (first - low) / (high - low), rtol=1e-5, atol=1e-6)
    assert not scaled[:, 64:, 80:].any()
    assert scaled.min() < 0 and scaled.max() > 1  # not clipped
    with pytest.raises(PlateflowError, match="no channel 'DAPI'"):
        image.read(canvas, ["DAPI"], "max")


def test_projections_take_the_planes_that_a_channel_has(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 60000, (4, 40, 40), dtype=np.uint16)
    for n, (channel, z) in enumerate((("a", 0), ("a", 1), ("a", 2), ("b", 1))):
        tifffile.imwrite(tmp_path / f"A01_z{z}_{channel}.tif", planes[n])
    pattern = r"(?P<well>A01)_z(?P<z>\d)_(?P<channel>.)\.tif"
    project = Project(raw=tmp_path, results=tmp_path / "results")
    project.options = {"segmentation": {"nuclei": {"channels": ["a"]}}, "normalise": {"illumination": False}}
    project.entry_options = {"layout": "pattern", "pattern": pattern}
    project.run()
    image = WellImage.open(project.paths, "A01")
    (canvas,) = canvases(image.layout, set(), "max")

    def read(mode: str) -> np.ndarray:
        return image.read(canvas, ["a", "b"], mode)

    np.testing.assert_array_equal(read("max"), np.stack([planes[:3].max(axis=0), planes[3]]).astype(np.float32))
    np.testing.assert_allclose(read("mean")[0], planes[:3].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(read("mean")[1], planes[3])
    np.testing.assert_array_equal(read("plane 2"), planes[[2, 3]])  # b has plane 1 alone: its nearest
    kept = canvases(image.layout, set(), "keep")
    pixels = image.read(kept[2], ["a"], "keep")
    np.testing.assert_array_equal(pixels[0], planes[2])
    (volume,) = canvases(image.layout, set(), "keep", dimensions=3)
    np.testing.assert_array_equal(image.read(volume, ["a"], "keep")[0], planes[:3])


def test_fields_of_a_window_are_applied_each_to_itself(make_project: MakeProject) -> None:
    project = make_project(options={"normalise": Normalise(scope="field", illumination=False)})
    project.run()
    image = WellImage.open(project.paths, "B02")
    window = image.window
    (canvas,) = canvases(image.layout, set(), "max")
    pixels = image.read(canvas, ["DNA", "AGP"], "max")
    limits = window.limits_of_fields("B02", ["DNA", "AGP"], ["1", "2"])
    assert (limits[:, 0] != limits[:, 1]).any()
    kept = pixels.copy()
    scaled = image.apply_window(pixels, canvas, ["DNA", "AGP"])
    assert scaled is pixels  # no second canvas in memory
    for number, box in enumerate(canvas.fields):
        low, high = (limits[:, number, end, None, None] for end in (0, 1))
        part = (slice(None), *box.slices)
        np.testing.assert_array_equal(scaled[part], (kept[part] - low) / (high - low))


def test_a_narrow_gap_between_fields_is_filled_from_beside_it(make_project: MakeProject) -> None:
    project = make_project(fields=4, overlap_px=-2)
    project.run()
    image = WellImage.open(project.paths, "B02")
    (canvas,) = canvases(image.layout, set(), "max")
    pixels = image.read(canvas, ["DNA", "AGP"], "max")
    assert pixels.shape == (2, 130, 162)
    for gap in (64, 65):
        np.testing.assert_array_equal(pixels[:, gap], pixels[:, 63])
    for gap in (80, 81):
        np.testing.assert_array_equal(pixels[:, :, gap], pixels[:, :, 79])
    assert pixels.min() > 0
    window = load_window(project.paths)
    low, high = window.limits("DNA")
    expected = (pixels[0] - low) / (high - low)
    scaled = image.apply_window(pixels, canvas, ["DNA", "AGP"])
    np.testing.assert_allclose(scaled[0], expected, rtol=1e-5, atol=1e-6)
