"""Reading annotated images: channels in the network's order, intensities normalised, trouble named."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from plateflow.train.data import load_source, median_diameter, normalise, simulated_samples


def write(folder: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    for kind, array in (("images", image), ("labels", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / kind / f"{name}.tif", array)


LABELS = np.pad(np.ones((10, 10), np.uint16), 5)


def test_grey_images_give_one_channel(tmp_path: Path) -> None:
    write(tmp_path, "a", LABELS.astype(np.uint8) * 200, LABELS)
    (sample,) = load_source(tmp_path)
    assert sample.image.shape == (1, 20, 20)
    assert sample.image.min() == 0 and sample.image.max() == 1
    assert sample.diameter == pytest.approx(2 * np.sqrt(100 / np.pi))


def test_whole_cells_see_their_channel_first_and_the_nucleus_second(tmp_path: Path) -> None:
    ramp = np.arange(400, dtype=np.uint16).reshape(20, 20)
    write(tmp_path, "a", np.stack([ramp, ramp[::-1], ramp.T]), LABELS)  # membrane, cytoplasm, nucleus
    cytoplasm, membrane = load_source(tmp_path)
    assert np.array_equal(cytoplasm.image[0], normalise(ramp[::-1]))
    assert np.array_equal(membrane.image[0], normalise(ramp))
    assert np.array_equal(membrane.image[1], normalise(ramp.T))


def test_stained_tissue_is_turned_so_that_objects_are_bright(tmp_path: Path) -> None:
    colour = np.full((20, 20, 3), 250, np.uint8)
    colour[LABELS > 0] = 40
    write(tmp_path, "a", colour, LABELS)
    (sample,) = load_source(tmp_path)
    assert sample.image[0][LABELS > 0].min() > sample.image[0][LABELS == 0].max()


def test_percentiles_map_to_zero_and_one_without_clipping() -> None:
    image = normalise(np.arange(1001, dtype=np.float32).reshape(7, 143))
    assert np.percentile(image, 1) == pytest.approx(0, abs=1e-6)
    assert np.percentile(image, 99) == pytest.approx(1, abs=1e-6)
    assert image.min() < 0 and image.max() > 1
    assert not normalise(np.full((4, 4), 7, np.uint8)).any()


def test_trouble_with_the_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images"):
        load_source(tmp_path)
    write(tmp_path, "a", np.zeros((20, 21), np.uint8), LABELS)
    with pytest.raises(ValueError, match=r"\(20, 21\).*\(20, 20\)"):
        load_source(tmp_path)


def test_simulated_samples_are_pairs_of_nuclei_and_cells() -> None:
    nuclei, cells = simulated_samples(2, seed=3, size=128)
    again, _ = simulated_samples(2, seed=3, size=128)
    for n, c, a in zip(nuclei, cells, again, strict=True):
        assert n.image.shape == (1, 128, 128) and c.image.shape == (2, 128, 128)
        assert np.array_equal(n.image[0], c.image[1])  # DNA: the object's channel of one, the helper of the other
        assert np.array_equal(n.image, a.image)
        assert (c.labels[n.labels > 0] > 0).all()


def test_diameter_is_the_median_over_objects() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[:4, :4], labels[10:18, 10:18], labels[20:40, 20:40] = 1, 2, 7
    assert median_diameter(labels) == pytest.approx(2 * np.sqrt(64 / np.pi))
