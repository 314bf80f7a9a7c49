"""Reading annotated images: channels in the network's order, intensities scaled, errors that name the cause."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from plateflow.segment import segment_image
from plateflow.segment.engine import CanvasJob, FlowEngine
from plateflow.segment.image import scale_intensities
from plateflow.train.data import load_source, median_diameter, simulated_samples


def write(folder: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    for kind, array in (("images", image), ("labels", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / kind / f"{name}.tif", array)


class Stop(Exception):
    """Raised where the network would run."""


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
    assert np.array_equal(cytoplasm.image, scale_intensities(np.stack([ramp[::-1], ramp.T])))
    assert np.array_equal(membrane.image, scale_intensities(np.stack([ramp, ramp.T])))


def test_stained_tissue_is_turned_so_that_objects_are_bright(tmp_path: Path) -> None:
    colour = np.full((20, 20, 3), 250, np.uint8)
    colour[LABELS > 0] = 40
    write(tmp_path, "a", colour, LABELS)
    (sample,) = load_source(tmp_path)
    assert sample.image[0][LABELS > 0].min() > sample.image[0][LABELS == 0].max()


def test_percentiles_map_to_zero_and_one_without_clipping(tmp_path: Path) -> None:
    write(tmp_path, "a", np.arange(400, dtype=np.float32).reshape(20, 20), LABELS)
    write(tmp_path, "b", np.full((20, 20), 7, np.uint8), LABELS)
    ramp, constant = (sample.image for sample in load_source(tmp_path))
    assert np.percentile(ramp, 1) == pytest.approx(0, abs=1e-6)
    assert np.percentile(ramp, 99) == pytest.approx(1, abs=1e-6)
    assert ramp.min() < 0 and ramp.max() > 1
    assert not constant.any()


@pytest.mark.parametrize("kind", ["little contrast", "a few bright pixels"])
def test_training_sees_an_image_as_inference_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    image = np.zeros((20, 20), np.float32)
    if kind == "little contrast":
        image[:] = np.linspace(0, 5e-4, 400).reshape(20, 20)
    else:
        image[5, 5:8] = 9  # so few that the 1st and 99th percentile are equal
    write(tmp_path, "a", image, LABELS)
    (sample,) = load_source(tmp_path)
    seen: list[np.ndarray] = []

    def run(_: FlowEngine, jobs: list[CanvasJob]) -> None:
        seen.extend(job.read() for job in jobs)
        raise Stop

    monkeypatch.setattr(FlowEngine, "run", run)
    with pytest.raises(Stop):
        segment_image(image, device="cpu")
    assert np.array_equal(sample.image, seen[0])
    assert sample.image.min() <= 0 and sample.image.max() >= 1


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
