import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from images_project import layout_of
from test_store import fill, make

from plateflow.images import shards
from plateflow.images.canvas import canvases
from plateflow.images.shards import halve_mean
from plateflow.images.well import WellImage


def most_frequent(labels: np.ndarray, levels: int) -> list[np.ndarray]:
    """A pyramid of labels by its definition: of 2 x 2 px the most frequent, in turn the first or last of several."""
    pyramid = [labels]
    for _ in range(1, levels):
        last = pyramid[-1]
        half = np.zeros([(side + 1) // 2 for side in last.shape], np.uint32)
        for y, x in np.ndindex(*half.shape):
            square = np.pad(last[2 * y : 2 * y + 2, 2 * x : 2 * x + 2], 1, mode="edge")[1:3, 1:3].ravel().tolist()
            half[y, x] = max(square[:: (-1) ** (y + x)], key=square.count)
        pyramid.append(half)
    return pyramid


def test_one_shard_a_level_and_the_fill_is_never_written(tmp_path: Path) -> None:
    paths = make(tmp_path)
    image = zarr.open_group(paths.image("B03"), mode="r")
    assert not list(paths.store.rglob("c/*"))
    pixels = np.random.default_rng(0).integers(0, 4000, (1, 35, 50), dtype=np.uint16)
    fill(paths, "B03", pixels)
    assert [len(list((paths.image("B03") / str(n) / "c").rglob("0/0/0/0/0"))) for n in range(3)] == [1, 1, 1]
    np.testing.assert_array_equal(image["0"][0, :, 0], pixels)
    np.testing.assert_array_equal(image["1"][0, :, 0], halve_mean(pixels))
    np.testing.assert_array_equal(image["2"][0, :, 0], halve_mean(halve_mean(pixels)))


def test_labels_of_canvases_and_their_pyramid(tmp_path: Path) -> None:
    paths = make(tmp_path)
    image = WellImage.open(paths, "B03")
    one, two = canvases(image.layout, set(), "max")
    labels = np.arange(1, one.height * one.width + 1, dtype=np.uint32).reshape(one.height, one.width)
    more = np.full((two.height, two.width), 70000, np.uint32)
    image.write_labels("nuclei", 0, 0, [(one, labels), (two, more)])
    expected = np.zeros((35, 50), np.uint32)
    expected[0:10, 0:20] = labels
    expected[25:35, 40:50] = more
    arrays = zarr.open_group(paths.image("B03") / "labels/nuclei", mode="r")
    for level, of_level in enumerate(most_frequent(expected, 3)):
        np.testing.assert_array_equal(arrays[str(level)][0, 0], of_level)
    image.write_labels("nuclei", 0, 0, [(two, more)])
    expected[0:10, 0:20] = 0
    np.testing.assert_array_equal(arrays["0"][0, 0], expected)


def test_planes_and_chunks_without_a_label_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CHUNK_PX", 8)
    shards.array_files.cache_clear()
    layout = layout_of((0, 0), size=32, z=2)
    paths = make(tmp_path, {"B03": layout}, z_mode="keep", levels=2)
    shards.array_files.cache_clear()
    image = WellImage.open(paths, "B03")
    above, below = canvases(layout, set(), "keep")
    labels = np.zeros((32, 32), np.uint32)
    image.write_labels("nuclei", 0, 0, [(above, labels)])
    labels[9, 17] = 5  # a single pixel: no other level has it
    image.write_labels("nuclei", 0, 1, [(below, labels)])
    (shard,) = [path for path in paths.image("B03").rglob("c/**/*") if path.is_file()]
    assert shard == paths.image("B03") / "labels" / "nuclei" / "0" / "c" / "0" / "1" / "0" / "0"
    table = np.frombuffer(shard.read_bytes()[-4 - 16 * 16 : -4], "<u8").reshape(16, 2)
    assert np.flatnonzero(table[:, 1] != 2**64 - 1).tolist() == [4 + 2]
    np.testing.assert_array_equal(image.array("labels/nuclei/0")[0], [np.zeros_like(labels), labels])


class Ramp:
    """Labels of a canvas that are made where they are read."""

    def __getitem__(self, region: tuple[slice, slice]) -> np.ndarray:
        ys, xs = (np.arange(side.stop, dtype=np.uint32)[side.start :: side.step] for side in region)
        return ys[:, None] // 64 * 1000 + xs[None] // 64 + 1


def test_labels_of_a_large_canvas_are_written_in_pieces(tmp_path: Path) -> None:
    layout, small = layout_of((0, 0), size=6000), layout_of((0, 0), size=64)
    paths = make(tmp_path, {"B03": layout, "B04": small})
    once = canvases(small, set(), "max")[0], Ramp()
    WellImage.open(paths, "B04").write_labels("nuclei", 0, 0, [once])  # what is loaded and compiled once
    image = WellImage.open(paths, "B03")
    (canvas,) = canvases(layout, set(), "max")
    tracemalloc.start()
    image.write_labels("nuclei", 0, 0, [(canvas, Ramp())])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 70e6, "the plane has 144 MB, a piece 17, and there are a piece's canvas and comparison beside it"
    for level in range(3):
        whole = Ramp()[np.s_[0:6000, 0:6000]][:: 2**level, :: 2**level]  # its squares have 64 px: no level mixes them
        np.testing.assert_array_equal(image.array(f"labels/nuclei/{level}")[0, 0], whole)


def flipped(path: Path) -> Iterator[int]:
    """Flip one bit of each byte of a file in turn."""
    whole = path.read_bytes()
    for at, byte in enumerate(whole):
        path.write_bytes(whole[:at] + bytes([byte ^ 1 << at % 8]) + whole[at + 1 :])
        yield at
    path.write_bytes(whole)


def test_no_bit_of_a_shard_changes_unseen(tmp_path: Path) -> None:
    paths = make(tmp_path, {"B03": layout_of((0, 0), (0, 10), size=20)})
    pixels = np.random.default_rng(0).integers(0, 4000, (1, 20, 30), dtype=np.uint16)
    fill(paths, "B03", pixels, label=3)
    for name in ("0", "labels/nuclei/0"):
        array, seen = WellImage.open(paths, "B03").array(name), 0
        (shard,) = (path for path in (paths.image("B03") / name / "c").rglob("*") if path.is_file())
        for _ in flipped(shard):
            with pytest.raises(ValueError, match="checksum"):
                array[:]
            seen += 1
        assert seen == shard.stat().st_size
        assert array[:].any()


def test_the_preview_of_an_image_in_place_is_one_whole_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CHUNK_PX", 8)
    monkeypatch.setattr(shards, "SHARD_BYTES", 33 * 33 * 4)
    shards.array_files.cache_clear()
    layout = replace(layout_of((0, 0), (0, 50), size=50), preview=3)
    paths = make(tmp_path, {"B03": layout})
    shards.array_files.cache_clear()
    image, written = WellImage.open(paths, "B03"), []
    pixels = np.random.default_rng(0).integers(0, 4000, (1, 50, 100), dtype=np.uint16)
    with image.writing(0, 0) as write:
        for ys, xs in shards.shard_regions(layout, 3):
            write((ys, xs), pixels[:, ys, xs])
            written.append((ys, xs))
    assert len(written) > 2
    assert image.array("0").shape == (1, 1, 1, 7, 13)
    (dataset,) = zarr.open_group(image.paths.image(image.well), mode="r").attrs["ome"]["multiscales"][0]["datasets"]
    scale, translation = (step[step["type"]][-2:] for step in dataset["coordinateTransformations"])
    assert (scale, translation) == ([8, 8], [3.5, 3.5])
    np.testing.assert_array_equal(image.array("0")[0, :, 0], halve_mean(halve_mean(halve_mean(pixels))))
    assert [path.name for path in paths.image("B03").rglob("c/**/*") if path.is_file()] == ["0"]


@pytest.mark.parametrize(("levels", "x"), [(1, 60), (3, 60), (3, 45)])  # 45: less is left than half a shard
def test_large_images_are_cut_into_regions_of_one_shard_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: int, x: int
) -> None:
    monkeypatch.setattr(shards, "CHUNK_PX", 8)
    monkeypatch.setattr(shards, "SHARD_BYTES", 33 * 33 * 4)
    monkeypatch.setattr(shards, "PIECE_PX", 2 * 8 * 8)
    shards.array_files.cache_clear()
    layout = layout_of((0, 0), (0, 30), (71, x), size=30)
    edge = shards.shard_region_size(layout, levels)
    assert edge == (32, 32)
    paths = make(tmp_path, {"B03": layout}, levels=levels)
    image = WellImage.open(paths, "B03")
    pixels = np.random.default_rng(0).integers(1, 4000, layout.shape[-2:], dtype=np.uint16)
    parts = shards.shard_regions(layout, levels)
    assert len(parts) == 4 * 3
    with image.writing(0, 0) as write:
        for ys, xs in parts[:-1]:
            write((ys, xs), pixels[None, ys, xs])
    ys, xs = parts[-1]
    pixels[ys, xs] = 0
    np.testing.assert_array_equal(image.array("0")[0, 0, 0], pixels)
    if levels == 3:
        np.testing.assert_array_equal(image.array("2")[0, 0, 0], halve_mean(halve_mean(pixels)))
    (canvas, lone) = canvases(layout, set(), "max")
    labels = np.random.default_rng(1).integers(1, 9, (canvas.height, canvas.width), dtype=np.uint32)
    image.write_labels("nuclei", 0, 0, [(canvas, labels)])
    written = image.array("labels/nuclei/0")[0, 0]
    np.testing.assert_array_equal(written[canvas.slices], labels)
    assert not written[lone.slices].any()
    for level, of_level in enumerate(most_frequent(written, levels)):
        np.testing.assert_array_equal(image.array(f"labels/nuclei/{level}")[0, 0], of_level)
    for level in range(levels):
        made = [p for p in (paths.image("B03") / str(level) / "c").rglob("*") if p.is_file()]
        assert len(made) == len(parts) - 1  # the region without a field was never written
    shards.array_files.cache_clear()


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (1, 3), (1, 1)])
def test_halving(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)
    wide = np.pad(pixels, [(0, shape[0] % 2), (0, shape[1] % 2)], mode="edge").astype(np.uint64)
    expected = (wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2] + 2) // 4
    np.testing.assert_array_equal(halve_mean(pixels), expected)
