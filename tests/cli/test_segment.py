"""What `plateflow segment` takes an image file for: axes by its metadata, alike for TIFF, PNG and OME-Zarr."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from imagecodecs import png_encode
from typer.testing import CliRunner

from plateflow.cli import _typer
from plateflow.cli.segment import _numbers
from plateflow.errors import PlateflowError
from plateflow.model import load_model, save_model
from plateflow.segment.pictures import read_image

TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"
A = np.random.default_rng(0).integers(0, 4000, (4, 3, 20, 30)).astype(np.uint16)
KINDS = ("ome.tif", "imagej.tif", "ome.zarr")


def write(folder: Path, kind: str, axes: str, pixels: np.ndarray, names: Sequence[str] = ()) -> Path:
    """An image whose metadata name its axes."""
    path = folder / f"image.{kind}"
    if kind == "ome.zarr":
        group = zarr.create_group(path)
        group.create_array("0", data=pixels)
        scales = [{"axes": [{"name": axis} for axis in axes.lower()], "datasets": [{"path": "0"}]}]
        group.attrs["ome"] = {"multiscales": scales, "omero": {"channels": [{"label": name} for name in names]}}
    elif kind == "imagej.tif":
        tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": axes})
    else:
        metadata = {"axes": axes} | ({"Channel": {"Name": list(names)}} if names else {})
        tifffile.imwrite(path, pixels, metadata=metadata, photometric="minisblack")
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("axes", "pixels", "time", "expected", "taken"),
    [
        ("ZYX", A[0], None, A[0].max(axis=0), "the maximum of 3 z planes"),
        ("CYX", A[0, :2], None, A[0, :2], "channels 0, 1"),
        ("ZCYX", A[:, :2], None, A[:, :2].max(axis=0), "the maximum of 4 z planes; channels 0, 1"),
        ("TYX", A[0], 2, A[0, 2], "time point 2 of 3"),
        ("TCYX", A[:, :2], 3, A[3, :2], "time point 3 of 4; channels 0, 1"),
        ("TZCYX", A[None, :, :2], None, A[:, :2].max(axis=0), "the maximum of 4 z planes; channels 0, 1"),
    ],
)
def test_axes_are_those_of_the_metadata(
    tmp_path: Path, kind: str, axes: str, pixels: np.ndarray, time: int | None, expected: np.ndarray, taken: str
) -> None:
    picture = read_image(write(tmp_path, kind, axes, pixels), time)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.taken.partition("; ")[2] == taken


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_series_is_no_single_image(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, "TYX", A[0])
    with pytest.raises(PlateflowError, match=r"time series of 3 time points[\s\S]*--time, from 0 to 2"):
        read_image(path)
    with pytest.raises(PlateflowError, match="no time point 3"):
        read_image(path, 3)


@pytest.mark.parametrize("kind", ["ome.tif", "ome.zarr"])
def test_channels_have_the_names_that_the_metadata_give(tmp_path: Path, kind: str) -> None:
    picture = read_image(write(tmp_path, kind, "CYX", A[0], ["DNA", "AGP", "RNA"]))
    assert picture.names == ["DNA", "AGP", "RNA"]
    assert picture.taken == "axes c (3), y (20), x (30); channels DNA, AGP, RNA"


def test_numbers_stay_numbers_where_channels_are_named_by_others(tmp_path: Path) -> None:
    path = write(tmp_path, "ome.tif", "CYX", A[0, :2], ["1", "2"])
    printed = segment(path, "-o", tmp_path, "--channels", "1")
    assert "channels 0 (named 1), 1 (named 2); used: 1 (named 2)\n" in printed
    picture = read_image(path)
    assert _numbers("0,1", picture, str(TINY)) == [0, 1]
    with pytest.raises(PlateflowError, match=r"2[\s\S]*counted from 0"):
        segment(path, "-o", tmp_path, "--channels", "1,2")
    far = read_image(write(tmp_path, "ome.zarr", "CYX", A[0], ["405", "488", "DNA"]))
    assert _numbers("488,0,DNA", far, str(TINY)) == [1, 0, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_pixel_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"image.{kind}"
    if kind == "ome.zarr":
        write(tmp_path, kind, "YX", A[0, 0])
        axes = [{"name": axis, "unit": "nanometer"} for axis in "yx"]
        level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [650, 650]}]}
        zarr.open_group(path).attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [level]}]}
    elif kind == "imagej.tif":
        tifffile.imwrite(path, A[0, 0], imagej=True, resolution=(1 / 0.65, 1 / 0.65), metadata={"unit": "micron"})
    else:
        tifffile.imwrite(path, A[0, 0], metadata={"axes": "YX", "PhysicalSizeX": 650, "PhysicalSizeXUnit": "nm"})
    assert read_image(path).taken == "axes y (20), x (30); 0.65 \u03bcm per pixel"


def test_scales_of_an_ome_zarr_image_multiply_and_what_is_null_is_not_given(tmp_path: Path) -> None:
    group = zarr.open_group(write(tmp_path, "ome.zarr", "CYX", A[0, :2]))
    axes: list[dict[str, Any]] = [{"name": "c", "unit": None}, *({"name": axis, "unit": "micrometer"} for axis in "yx")]
    steps = [{"coordinateTransformations": [{"type": "scale", "scale": [1, size, size]}]} for size in (2, 0.325)]
    scales = [{"axes": axes, "datasets": [{"path": "0", **steps[0]}], **steps[1]}]
    group.attrs["ome"] = {"multiscales": scales, "omero": {"channels": [{"label": None}, {"label": "DNA"}]}}
    picture = read_image(tmp_path / "image.ome.zarr")
    assert picture.names == ["0", "DNA"]
    assert "; 0.65 \u03bcm per pixel; " in picture.taken
    unscaled = {"axes": axes, "datasets": [{"path": "0"}]}
    unknown = {**scales[0], "axes": [{"name": axis, "unit": None} for axis in "cyx"]}
    for scale in (unscaled, unknown):
        group.attrs["ome"] = {"multiscales": [scale], "omero": None}
        assert read_image(tmp_path / "image.ome.zarr").taken == "axes c (2), y (20), x (30); channels 0, 1"


YXS = np.moveaxis(A[0], 0, -1)
WHITE = {"photometric": "minisblack", "planarconfig": "contig"}
ALPHA = {"extrasamples": ["UNASSALPHA"]}
BYTES = (A[0, 0] >> 4).astype(np.uint8)
RAMP = np.arange(256, dtype=np.uint16) * 257


def table(*colours: np.ndarray) -> dict[str, Any]:
    return {"photometric": "palette", "colormap": np.stack(colours)}


@pytest.mark.parametrize(
    ("pixels", "options", "expected", "taken"),
    [
        (A[0, :2], {"photometric": "minisblack"}, A[0, :2], "channels 0, 1 (pages that no metadata explain"),
        (A[0, :2], {"photometric": "minisblack", "metadata": None}, A[0, :2], "channels 0, 1 (pages that no metadata"),
        (YXS[..., :2], WHITE, A[0, :2], "channels 0, 1"),
        (YXS, WHITE, A[0], "channels 0, 1, 2"),
        (YXS[..., :2], {**WHITE, **ALPHA}, A[0, 0], ""),
        (BYTES, table(RAMP, RAMP, RAMP), BYTES, ""),
        (BYTES, table(RAMP * 0, RAMP * 0, RAMP), BYTES, ""),  # as ImageJ writes blue nuclei
        (np.stack([A[0, 0]] * 20), {"photometric": "minisblack"}, np.stack([A[0, 0]] * 20), "channels 0 to 19 (pages"),
        (YXS, {"photometric": "rgb"}, YXS, "channels red, green, blue"),
        (A[0], {"photometric": "rgb", "planarconfig": "separate"}, YXS, "channels red, green, blue"),
        (np.dstack([YXS, A[1, 0]]), {"photometric": "rgb", **ALPHA}, YXS, "channels red, green, blue"),
    ],
)
def test_samples_and_pages_of_a_tiff(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], expected: np.ndarray, taken: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    picture = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.taken.partition("; ")[2].startswith(taken)


@pytest.mark.parametrize(("shift", "dtype"), [(4, np.uint8), (0, np.uint16)])
@pytest.mark.parametrize(("samples", "kept"), [(2, 1), (3, 3), (4, 3)])
def test_transparency_of_a_png_is_no_channel(tmp_path: Path, samples: int, kept: int, shift: int, dtype: type) -> None:
    pixels = (np.dstack([YXS, A[1, 0]])[..., :samples] >> shift).astype(dtype)
    (tmp_path / "a.png").write_bytes(png_encode(np.ascontiguousarray(pixels)))
    picture = read_image(tmp_path / "a.png")
    assert picture.pixels.dtype == dtype
    np.testing.assert_array_equal(picture.pixels, pixels[..., :kept].squeeze())


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        (A, {"photometric": "minisblack"}, r"axes .* can't be understood[\s\S]*q \(4\), q \(3\), y \(20\), x \(30\)"),
        (A, {"photometric": "minisblack", "metadata": {"axes": "ACYX"}}, "can't be understood"),
        (A[0, 0], {"photometric": "miniswhite"}, "0 is white"),
        (BYTES, table(RAMP[::-1], RAMP[::-1], RAMP[::-1]), "table of colours"),
        (BYTES, table(RAMP, RAMP[::-1], RAMP), "table of colours"),
        (np.moveaxis(A[:, :, :, :18].reshape(12, 20, 18)[:2], 0, -1), {"photometric": "minisblack"}, "y, x, channels"),
        (np.dstack([A[0, 0]] * 4).astype(np.uint8), {"photometric": "separated"}, "they are SEPARATED"),
        (A.transpose(0, 2, 3, 1), {"photometric": "rgb", "metadata": {"axes": "CYXS"}}, "can't be understood"),
    ],
)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], words: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(PlateflowError, match=words):
        read_image(tmp_path / "a.tif")


def test_a_file_of_several_images_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for pixels in A[0]:
            file.write(pixels, metadata={"axes": "YX"}, photometric="minisblack")
    with pytest.raises(PlateflowError, match="the file holds 3 images"):
        read_image(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    ("reduced", "note"), [(0, "; the first of 2 images in the file (those of other sizes"), (1, "")]
)
def test_an_image_of_another_size_is_told_not_used_but_not_a_level(tmp_path: Path, reduced: int, note: str) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=not reduced) as file:
        for pixels in (A[0, 0], A[0, 0, ::2, ::2]):
            kind = reduced and pixels.size < A[0, 0].size
            file.write(pixels, metadata=None if reduced else {"axes": "YX"}, subfiletype=int(kind))
    picture = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.pixels, A[0, 0])
    assert picture.taken.removeprefix("axes y (20), x (30)").startswith(note)
    assert bool(note) == ("not used" in picture.taken)


def segment(*arguments: object) -> str:
    result = CliRunner().invoke(_typer, ["segment", *map(str, arguments), "--model", str(TINY)])
    if result.exception:
        raise result.exception
    return result.output


def test_what_was_taken_is_printed_and_labels_are_only_written_over_those_of_the_same_image(tmp_path: Path) -> None:
    out, paths = tmp_path / "out", [tmp_path / folder / "image.ome.tif" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        write(path.parent, "ome.tif", "ZYX", A[0])
    assert "axes z (3), y (20), x (30); the maximum of 3 z planes\n" in segment(paths[0], "-o", out)
    segment(paths[0], "-o", out)  # once more
    before = (out / "image_labels.tif").read_bytes()
    for arguments in ((paths[1],), tuple(paths)):
        with pytest.raises(PlateflowError, match=r"image_labels\.tif"):
            segment(*arguments, "-o", out)
    tifffile.imwrite(out / "image_labels.tif", A[0, 0])
    with pytest.raises(PlateflowError, match=r"labels of earlier versions don't[\s\S]*or remove the file"):
        segment(paths[0], "-o", out)
    segment(paths[1], "-o", tmp_path / "other")
    assert before == (tmp_path / "other" / "image_labels.tif").read_bytes().replace(b"/b/image", b"/a/image")


def test_remedies_can_be_followed_and_the_channels_used_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "ome.tif", "CYX", A[0], ["DNA", "AGP", "AGP"])
    with pytest.raises(PlateflowError, match=r"DNA, AGP, AGP[\s\S]*choose them with --channels"):
        segment(path, "-o", tmp_path)
    with pytest.raises(PlateflowError, match=r"isn't one channel 'AGP'[\s\S]*numbers from 0"):
        segment(path, "-o", tmp_path, "--channels", "AGP,DNA")
    assert "channels DNA, AGP, AGP; used: AGP, DNA\n" in segment(path, "-o", tmp_path, "--channels", "2,DNA")
    tifffile.imwrite(tmp_path / "rgb.tif", YXS, photometric="rgb")
    with pytest.raises(PlateflowError, match=r"red, green, blue[\s\S]*--channels"):
        segment(tmp_path / "rgb.tif", "-o", tmp_path)
    assert "; used: blue\n" in segment(tmp_path / "rgb.tif", "-o", tmp_path, "--channels", "blue")
    with pytest.raises(PlateflowError, match="leave out --time"):
        segment(path, "-o", tmp_path, "--time", "1")


def test_stained_tissue_is_segmented_as_it_is(tmp_path: Path) -> None:
    """As a PNG, and as an image of three channels whose metadata don't call them colours."""
    model, out = tmp_path / "colours.safetensors", tmp_path / "out"
    save_model(load_model(TINY), model, name="colours", colours=True)
    tissue = np.array([200, 170, 210]) + np.random.default_rng(0).integers(0, 9, (64, 64, 3))
    tissue[10:30, 10:30] = (90, 60, 140)
    (tmp_path / "slide.png").write_bytes(png_encode(tissue.astype(np.uint8)))
    channels = write(tmp_path, "ome.tif", "CYX", np.moveaxis(tissue, -1, 0).astype(np.uint8))
    images = [str(tmp_path / "slide.png"), str(channels)]
    result = CliRunner().invoke(_typer, ["segment", *images, "-o", str(out), "--model", str(model), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    slide, image = (tifffile.imread(out / f"{name}_labels.tif") for name in ("slide", "image"))
    assert np.array_equal(slide, image)
