import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from images_project import Project

from plateflow.config import Normalise
from plateflow.errors import PlateflowError
from plateflow.images.canvas import canvases
from plateflow.images.histograms import BINS, focus_score, intensity_limits, plane_statistics
from plateflow.images.illumination import fit_profile, profile
from plateflow.images.well import WellImage
from plateflow.images.window import load_window
from plateflow.simulate.cells import camera, illumination_profile, simulate_field
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
    assert window.fingerprint(["AGP"]) != window.fingerprint(["DNA"])


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
    pixels = image.read(canvas, ["AGP", "DNA"], "max")
    assert (pixels.dtype, pixels.shape) == (np.float32, (2, 120, 152))
    light = profile(window.profiles["AGP"], 64, 80)
    assert light.min() < 0.97
    assert light.max() > 1
    first, second = raw(project, "B02", 1, "AGP"), raw(project, "B02", 2, "AGP")
    np.testing.assert_array_equal(pixels[0, :64, :80], first / light)
    np.testing.assert_array_equal(pixels[0, :64, 80:], (second / light)[:, 8:])  # the first field has the overlap
    assert not pixels[:, 64:, 80:].any()
    scaled = image.apply_window(pixels, canvas, ["AGP", "DNA"])
    low, high = window.limits("AGP")
    np.testing.assert_allclose(scaled[0, :64, :80], (first / light - low) / (high - low), rtol=1e-5, atol=1e-6)
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


def shading(fields: int, *, falloff: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Binned means of simulated fields under one light, and the light."""
    rng = np.random.default_rng(seed)
    light = illumination_profile(rng, (160, 160), falloff)
    binned = []
    for _ in range(fields):
        scene = simulate_field(rng, (160, 160), density=0.25, diameter_px=16)
        binned.append(
            plane_statistics(camera(rng, {"DNA": scene.channels["DNA"]}, illumination=light, offset=0)[0]).binned
        )
    return np.array(binned, np.float32), light / light.mean()


def off(coefficients: np.ndarray, light: np.ndarray) -> float:
    return float(np.sqrt(np.mean((profile(coefficients, *light.shape) / light - 1) ** 2)))


def test_the_profile_is_found_and_does_no_harm_where_fields_are_few() -> None:
    binned, light = shading(40, falloff=0.5)
    flat = fit_profile(binned[:3])
    assert (profile(flat, 50, 60) == 1).all()
    assert off(flat, light) > 0.1
    assert off(fit_profile(binned), light) < 0.6 * off(flat, light)
    assert profile(fit_profile(binned), 160, 160).mean() == pytest.approx(1, abs=1e-3)
    for seed in range(5):
        few, light = shading(8, falloff=0.2, seed=seed)
        # cells that lie at one side by chance aren't taken for light
        assert off(fit_profile(few), light) < off(flat, light) + 0.01


def test_an_exact_profile_of_many_fields() -> None:
    y, x = np.meshgrid(*(2 * (np.arange(BINS) + 0.5) / BINS - 1,) * 2, indexing="ij")
    light = 1.1 - 0.3 * x**2 - 0.2 * y**4 + 0.1 * x * y + 0.05 * y
    rng = np.random.default_rng(0)
    binned = light * rng.uniform(100, 4000, (200, 1, 1)) * rng.normal(1, 0.01, (200, BINS, BINS))
    found = profile(fit_profile(binned.astype(np.float32)), BINS, BINS)
    np.testing.assert_allclose(found, light / light.mean(), rtol=3e-3)


def test_a_dark_or_broken_field_is_passed_over() -> None:
    binned, _ = shading(20, falloff=0.4)
    spoiled = np.concatenate([binned, np.zeros((1, BINS, BINS), np.float32), np.full((1, BINS, BINS), np.nan)])
    np.testing.assert_array_equal(fit_profile(spoiled.astype(np.float32)), fit_profile(binned))


def test_sharpness_tells_blur_and_neither_cells_nor_light() -> None:
    def score(density: float, defocus: float, photons: float, seed: int = 3) -> float:
        rng = np.random.default_rng(seed)
        scene = simulate_field(rng, (192, 192), density=density, diameter_px=20)
        return focus_score(camera(rng, {"DNA": scene.channels["DNA"]}, defocus_px=defocus, photons=photons)[0])

    sharp = [score(density, 0.0, photons) for density in (0.05, 0.2) for photons in (200, 2000)]
    blurred = [score(density, 4.5, photons) for density in (0.05, 0.2) for photons in (200, 2000)]
    assert min(sharp) > max(blurred) + 0.3
    assert np.isnan(focus_score(np.full((64, 64), 7, np.uint16)))
    assert np.isnan(focus_score(np.zeros((8, 8), np.uint16)))


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
