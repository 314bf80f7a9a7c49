import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from plateflow.plates import PlaneError, read_plane
from plateflow.plates.pixels import header

PIXELS = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)


def read(path: Path, **options: Any) -> np.ndarray:
    return read_plane(path, **({"height": 64, "width": 48, "dtype": "uint16"} | options))


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"compression": "deflate"}, {"byteorder": ">"}])
def test_a_sound_plane(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, **options)
    pixels = read(tmp_path / "a.tif")
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, PIXELS)
    assert header(tmp_path / "a.tif") == ((64, 48), "uint16", 1)


def test_a_page(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([PIXELS, PIXELS + 1]), photometric="minisblack")
    np.testing.assert_array_equal(read_plane(tmp_path / "a.tif", 1, height=64, width=48, dtype="uint16"), PIXELS + 1)
    with pytest.raises(PlaneError, match="page 3"):
        read_plane(tmp_path / "a.tif", 2, height=64, width=48, dtype="uint16")


def _damage(path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 4000, (64, 48), dtype=np.uint16)
    tifffile.imwrite(path, noise, compression="lzw", rowsperstrip=8)
    match kind:
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            cut(path, 0.5)
        case "nearly whole":
            path.write_bytes(path.read_bytes()[:-1])
        case "head only":
            cut(path, 8 / path.stat().st_size)
        case "no tiff":
            path.write_bytes(b"GIF89a" + bytes(100))
        case "scrambled":
            content = bytearray(path.read_bytes())
            content[-2000:-100] = rng.bytes(1900)
            path.write_bytes(bytes(content))
        case "taller":
            tifffile.imwrite(path, np.zeros((65, 48), np.uint16))
        case "turned":
            tifffile.imwrite(path, np.zeros((48, 64), np.uint16))
        case "colour":
            tifffile.imwrite(path, np.zeros((64, 48, 3), np.uint8))
        case "8 bits":
            tifffile.imwrite(path, np.zeros((64, 48), np.uint8))
        case "32 bits":
            tifffile.imwrite(path, np.zeros((64, 48), np.uint32))
        case "float":
            tifffile.imwrite(path, np.zeros((64, 48), np.float32))
        case "nan":
            tifffile.imwrite(path, np.full((64, 48), np.nan, np.float32))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        *(("missing", "missing"), ("empty", "empty_file"), ("folder", "unreadable"), ("no tiff", "unreadable")),
        *(("cut", "truncated"), ("nearly whole", "truncated"), ("head only", "truncated"), ("scrambled", "unreadable")),
        *(("taller", "wrong_size"), ("turned", "wrong_size"), ("colour", "colour")),
        *(("8 bits", "wrong_type"), ("32 bits", "wrong_type"), ("float", "wrong_type"), ("nan", "nan")),
    ],
)
def test_damaged_planes_have_a_reason(tmp_path: Path, kind: str, reason: str) -> None:
    path = tmp_path / "a.tif"
    _damage(path, kind)
    with pytest.raises(PlaneError) as error:
        read(path)
    assert error.value.reason == reason
    assert str(path) in error.value.detail


def test_values_that_are_not_brightness_are_no_plane(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)
    rising, spectrum = np.zeros((3, 256), np.uint16), np.zeros((3, 256), np.uint16)
    rising[2], spectrum[0], spectrum[2] = np.arange(256), np.arange(256), np.arange(256)[::-1]
    tifffile.imwrite(path, pixels, photometric="palette", colormap=rising)
    np.testing.assert_array_equal(read(path, dtype="uint8"), pixels)
    for options in ({"photometric": "palette", "colormap": spectrum}, {"photometric": "miniswhite"}):
        tifffile.imwrite(path, pixels, **options)
        with pytest.raises(PlaneError) as error:
            read(path, dtype="uint8")
        assert error.value.reason == "not_brightness"


def test_without_a_photometric_tag_0_is_black(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)
    tifffile.imwrite(path, pixels, photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as file:
        tag = file.pages[0].tags["PhotometricInterpretation"]
        file.filehandle.seek(tag.offset)
        file.filehandle.write((65000).to_bytes(2, "little"))  # a tag that nobody reads
    np.testing.assert_array_equal(read(path, dtype="uint8"), pixels)


def test_a_directory_at_the_end_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    content = bytearray(8 + 64 * 48 * 2)
    content[:8] = b"II*\x00" + (8 + 64 * 48 * 2).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(PlaneError) as error:
        read(path)
    assert error.value.reason == "truncated"


def test_headers_alone_find_what_needs_no_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    _damage(path, "cut")
    with pytest.raises(PlaneError, match="truncated"):
        read(path, decode=False)
    _damage(path, "scrambled")
    assert read(path, decode=False).size == 0


def test_a_file_that_may_not_be_looked_at_is_a_bad_plane(tmp_path: Path) -> None:
    (tmp_path / "a.tif").symlink_to("a.tif")
    with pytest.raises(PlaneError, match="unreadable"):
        read(tmp_path / "a.tif")


def test_trouble_of_the_machine_is_no_damaged_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    with pytest.raises(OSError, match="Input/output"):
        read(tmp_path / "a.tif")


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(pixels))


def test_a_png(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, PIXELS)
    assert header(path) == ((64, 48), "uint16", 1)
    np.testing.assert_array_equal(read(path), PIXELS)
    assert read(path, decode=False).size == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: write_png(path, PIXELS[:60]), "wrong_size"),
        (lambda path: write_png(path, np.zeros((64, 48, 3), np.uint8)), "colour"),
        (lambda path: write_png(path, PIXELS.astype(np.uint8)), "wrong_type"),
        (lambda path: cut(path, 0.6), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "unreadable"),
        (lambda path: path.write_bytes(b"GIF89a" + bytes(200)), "unreadable"),
        (lambda path: path.write_bytes(path.read_bytes()[:60] + bytes(200) + path.read_bytes()[260:]), "unreadable"),
        (lambda path: path.write_bytes(b""), "empty_file"),
    ],
)
def test_damaged_pngs_have_a_reason(tmp_path: Path, change: Callable[[Path], Any], reason: str) -> None:
    path = tmp_path / "a.png"
    write_png(path, np.random.default_rng(0).integers(0, 4000, (64, 48)).astype(np.uint16))
    change(path)
    with pytest.raises(PlaneError) as error:
        read(path)
    assert error.value.reason == reason
