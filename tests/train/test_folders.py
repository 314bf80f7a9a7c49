"""Reading annotated images: pairs by name, channels in the network's order, Cellpose's files, trouble named."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from plateflow.errors import RawDataError
from plateflow.segment.image import scale_intensities
from plateflow.train.folders import read_labels, read_source, read_sources


def write(folder: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    for kind, array in (("images", image), ("labels", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / kind / f"{name}.tif", array)


LABELS = np.pad(np.ones((10, 10), np.uint16), 5)
MASK = np.tile(np.pad(np.full((5, 5), 255, np.uint8), (0, 5)), (2, 2))


def test_grey_images_give_one_channel(tmp_path: Path) -> None:
    write(tmp_path, "a", LABELS.astype(np.uint8) * 200, LABELS)
    (sample,) = read_source(tmp_path)
    assert sample.image.shape == (1, 20, 20)
    assert sample.image.min() == 0 and sample.image.max() == 1
    assert sample.diameter == pytest.approx(2 * np.sqrt(100 / np.pi))
    assert sample.light == "fluorescence"


def test_transmitted_light_is_known_by_the_grey_around_the_objects(tmp_path: Path) -> None:
    dark_rim = np.where(LABELS, 120, 100).astype(np.uint8)
    dark_rim[5, 5:15] = 0
    write(tmp_path, "a", dark_rim, LABELS)
    assert read_source(tmp_path)[0].light == "transmitted"
    write(tmp_path, "b", LABELS.astype(np.uint8), np.ones_like(LABELS))  # no background to tell by
    assert [sample.light for sample in read_source(tmp_path)] == ["transmitted"] * 2
    write(tmp_path, "c", LABELS.astype(np.uint8), LABELS)
    assert [sample.light for sample in read_source(tmp_path)] == ["transmitted", "fluorescence", "fluorescence"]


def test_whole_cells_see_their_channel_first_and_the_nucleus_second(tmp_path: Path) -> None:
    ramp = np.arange(400, dtype=np.uint16).reshape(20, 20)
    folder = tmp_path / "codex_x"
    write(folder, "a", np.stack([ramp, ramp[::-1], ramp.T]), LABELS)  # membrane, cytoplasm, nucleus
    cytoplasm, membrane = read_source(folder)
    assert np.array_equal(cytoplasm.pixels, np.stack([ramp[::-1], ramp.T]))
    assert np.array_equal(membrane.pixels, np.stack([ramp, ramp.T]))


def test_stained_tissue_gives_its_three_colours(tmp_path: Path) -> None:
    colour = np.full((20, 20, 3), 250, np.uint8)
    colour[LABELS > 0] = (40, 80, 120)
    write(tmp_path, "a", colour, LABELS)
    (sample,) = read_source(tmp_path)
    assert sample.light == "colour"
    assert np.array_equal(sample.pixels, np.moveaxis(colour, -1, 0))


def test_labels_lie_beside_their_images_or_in_a_folder_of_their_own(tmp_path: Path) -> None:
    grey, objects = LABELS * 200, LABELS.astype(np.int32)
    beside = tmp_path / "beside"
    beside.mkdir()
    for name, labels in (
        ("a", "a_masks.tif"),
        ("b.ome", "b_cp_masks.tif"),
        ("c", "c_label.tiff"),
        ("d_1", "d_1_seg.npy"),
    ):
        tifffile.imwrite(beside / f"{name}.tif", grey)
        if labels.endswith(".npy"):
            np.save(beside / labels, {"masks": objects, "outlines": objects, "filename": "d_1.tif", "est_diam": 11.5})
        else:
            tifffile.imwrite(beside / labels, objects)
    tifffile.imwrite(beside / "._a.tif", grey)
    sources = read_sources(beside)
    assert [sample.name for sample in sources["beside"]] == ["a", "b.ome", "c", "d_1"]
    assert all(np.array_equal(sample.labels, LABELS) for sample in sources["beside"])
    write(tmp_path / "apart", "x_masks", grey, LABELS)  # an image may be called so
    assert {name: [each.name for each in found] for name, found in read_sources(tmp_path).items()} == {
        "apart": ["x_masks"],
        "beside": ["a", "b.ome", "c", "d_1"],
    }


def test_cellposes_own_data_are_read(tmp_path: Path) -> None:
    """000_img.png and 000_masks.png; an image may be called so, too, and its window saves labels twice."""
    for name, kind in (("000_img", 200), ("000_masks", 1), ("a_img", 200), ("a_img_masks", 2)):
        tifffile.imwrite(tmp_path / f"{name}.tif", LABELS * kind)
    np.save(tmp_path / "a_img_seg.npy", {"masks": LABELS})
    samples = read_source(tmp_path)
    assert [(sample.name, sample.labels.max()) for sample in samples] == [("000_img", 1), ("a_img", 2)]


def test_a_grey_image_beside_colour_pictures_is_not_one(tmp_path: Path) -> None:
    bright = np.full((*LABELS.shape, 3), (240, 235, 220), np.uint8)
    bright[LABELS > 0] = (90, 60, 140)
    for name, image in (("000", bright), ("001", LABELS)):
        write(tmp_path, name, image, LABELS)
    assert [sample.light for sample in read_source(tmp_path, mixed=True)] == ["colour", "fluorescence"]


def test_images_may_differ_in_their_channels_where_that_is_allowed(tmp_path: Path) -> None:
    for name, image in (("000", LABELS), ("001", np.stack([LABELS, LABELS.T]))):
        write(tmp_path, name, image, LABELS)
    (samples,) = read_sources(tmp_path, mixed=True).values()
    assert [len(sample.pixels) for sample in samples] == [1, 2]


def test_images_without_objects_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, factor in (("full", 1), ("empty", 0)):
        write(tmp_path, name, LABELS, LABELS * factor)
    assert len(read_source(tmp_path)) == 2
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: 1 of 2 images have no object: empty"]


def test_floating_point_images_keep_their_values(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    write(tmp_path, "a", image, LABELS.astype(np.float32))
    (sample,) = read_source(tmp_path)
    assert np.allclose(sample.image, scale_intensities(image[None]), atol=1e-6)
    assert sample.labels.dtype == np.int32 and np.array_equal(sample.labels, LABELS)


class Harm:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harm-was-done"),))


@pytest.mark.parametrize("content", [{"masks": LABELS, "more": Harm()}, {"flows": 1}, Harm()])
def test_what_a_pickle_would_run_is_not_run(tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a_seg.npy", np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(RawDataError, match=r"can't be read\n.*a_seg.npy"):
        read_labels(Path("a_seg.npy"))
    assert not Path("harm-was-done").exists()


def test_damaged_pickles_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a_seg.npy"
    np.save(path, {"masks": LABELS})
    for content in (path.read_bytes()[:200], b"\x93NUMPY\x01\x00", pickle.dumps(LABELS), b""):
        path.write_bytes(content)
        with pytest.raises(RawDataError, match="can't be read"):
            read_labels(path)


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (np.zeros((20, 21), np.uint8), LABELS, r"differ in size[\s\S]*20 x 21 px[\s\S]*20 x 20"),
        (LABELS, LABELS * 0.5, r"doesn't hold labels[\s\S]*whole numbers"),
        (LABELS, LABELS.astype(np.int32) - 2, r"-2 to -1"),
        (LABELS, np.stack([LABELS, LABELS]), r"one plane, YX[\s\S]*\(2, 20, 20\)"),
        (LABELS, 0 * LABELS, "no image has an object"),
        (LABELS, MASK, r"doesn't hold labels[\s\S]*all 4 objects have the number 255"),
        (LABELS * np.float32(np.nan), LABELS, r"NaN or infinite\n.*a.tif"),
        (np.stack([LABELS] * 5), LABELS, r"too many channels[\s\S]*has 5"),
    ],
)
def test_pairs_that_do_not_fit_are_told(tmp_path: Path, image: np.ndarray, labels: np.ndarray, message: str) -> None:
    write(tmp_path, "a", image, labels)
    with pytest.raises(RawDataError, match=message):
        read_source(tmp_path)


def test_folders_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match="no image with labels"):
        read_sources(tmp_path)
    with pytest.raises(RawDataError, match="no such folder"):
        read_sources(tmp_path / "none")
    write(tmp_path, "a", LABELS, LABELS)
    write(tmp_path, "b", np.stack([LABELS, LABELS]), LABELS)
    with pytest.raises(RawDataError, match=r"differ in their channels[\s\S]*a.tif has 1; b.tif has 2"):
        read_source(tmp_path)
    for part, lacking in (("labels", "labels"), ("images", "image")):
        write(tmp_path, "b", LABELS, LABELS)
        (tmp_path / part / "b.tif").unlink()
        with pytest.raises(RawDataError, match=rf"has no {lacking}\n.*b.tif"):
            read_source(tmp_path)
    write(tmp_path, "b", LABELS, LABELS)
    tifffile.imwrite(tmp_path / "labels" / "b_masks.tif", LABELS)
    with pytest.raises(RawDataError, match=r"two files have one name\n.*b.tif and .*b_masks.tif"):
        read_source(tmp_path)
    for folder in ("set/one/images", "set/one/labels", "set/two"):
        (tmp_path / folder).mkdir(parents=True)
        tifffile.imwrite(tmp_path / folder / "a.tif", LABELS)
    with pytest.raises(RawDataError, match=r"images and no labels\n.*set/two"):
        read_sources(tmp_path / "set")
