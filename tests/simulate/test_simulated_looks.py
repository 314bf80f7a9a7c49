"""Random fields: repeatable, truth that matches what is drawn, every stain in its place."""

import numpy as np
import pytest
from scipy import ndimage as ndi

from plateflow.simulate.anatomy import anatomy
from plateflow.simulate.bodies import tile
from plateflow.simulate.looks import DIAMETERS, LOOKS, bare_nuclei, random_field
from plateflow.simulate.stains import WHOLE_CELL, nuclear


def field(look, seed=0, **options):
    return random_field(np.random.default_rng(seed), look, **options)


@pytest.fixture(scope="module")
def sheet():
    rng = np.random.default_rng(3)
    cells = tile(rng, (256, 256), diameter=50, jitter=0.2, stretch=1, waviness=0.03, gap_px=4, rounding=0, present=1)
    return anatomy(rng, cells, 50.0, anucleate=0.0, binucleate=0.0)


@pytest.mark.parametrize("look", LOOKS)
def test_the_same_seed_gives_the_same_field(look):
    one, two, other = field(look, 5), field(look, 5), field(look, 6)
    assert np.array_equal(one.image, two.image) and np.array_equal(one.labels, two.labels)
    assert one.kind == two.kind
    assert one.image.shape != other.image.shape or not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("look", LOOKS)
def test_a_field_is_a_picture_with_labels_of_its_shape(look):
    for seed in range(4):
        f = field(look, seed)
        assert f.image.dtype == np.uint16 and f.image.shape == f.scene.shape
        assert 1 <= len(f.image) <= 3 and f.image.shape[1:] == f.labels.shape
        assert np.isfinite(f.scene).all()
        assert DIAMETERS[look][0] <= f.diameter <= DIAMETERS[look][1]
        count = int(f.labels.max())
        assert np.array_equal(np.unique(f.labels), np.arange(count + 1)) or not (f.labels == 0).any()
        assert (count == 0) == (look == "empty")
        assert [ndi.label(f.labels == n)[1] for n in range(1, min(count, 30) + 1)] == [1] * min(count, 30)


@pytest.mark.parametrize("look", [look for look in LOOKS if look != "empty"])
def test_every_labelled_object_is_to_be_seen(look):
    """Within an object and a ring about it, the scene varies by more than a fiftieth of the field's range."""
    for seed in range(6):
        f = field(look, seed, diameter=30.0)
        scene = f.scene.mean(0) if look == "tissue" else f.scene[0]
        low, high = np.percentile(scene, (1, 99))
        boxes = ndi.find_objects(f.labels)
        for number, box in enumerate(boxes, 1):
            y, x = (slice(max(0, s.start - 3), s.stop + 3) for s in box)
            near = ndi.binary_dilation(f.labels[y, x] == number, iterations=3)
            assert scene[y, x][near].std() > 0.02 * (high - low), (seed, f.kind, number)


def test_diameter_of_whole_cells_is_the_one_asked_for():
    medians = []
    for seed in range(8):
        f = field("cells", seed, diameter=30.0)
        area = np.bincount(f.labels[6:-6, 6:-6].ravel())[1:]
        medians.append(2 * np.sqrt(np.median(area[area > 0]) / np.pi))
    assert np.median(medians) == pytest.approx(30, rel=0.2)


def test_nuclei_lie_within_their_cells(sheet):
    inside = sheet.nuclei > 0
    assert (sheet.nuclei[inside] == sheet.cells[inside]).all()
    assert len(np.unique(sheet.nuclei)) - 1 > 0.8 * sheet.count
    assert (sheet.depth[inside] > 1).all()
    assert (sheet.to_nucleus[inside] == 0).all()
    assert sheet.thickness.max() == pytest.approx(1)
    assert not sheet.thickness[sheet.cells == 0].any()


@pytest.mark.parametrize("name", WHOLE_CELL)
def test_a_stain_lights_cells_alone(name, sheet):
    for seed in range(4):
        light = WHOLE_CELL[name](np.random.default_rng(seed), sheet)
        assert light.dtype == np.float32 and np.isfinite(light).all()
        assert (light[sheet.cells == 0] == 0).all()
        assert light.min() >= 0
        mean = ndi.mean(light, sheet.cells, np.arange(1, sheet.count + 1))
        assert mean.min() > 0.01


def test_stains_lie_where_their_names_say(sheet):
    rng = np.random.default_rng(0)
    body, nuclei = (sheet.cells > 0) & (sheet.nuclei == 0), sheet.nuclei > 0
    rim = (sheet.depth > 0) & (sheet.depth < 1.5)
    membrane = WHOLE_CELL["membrane"](rng, sheet)
    assert membrane[rim].mean() > 2 * membrane[~rim & body].mean()
    near = body & (sheet.to_nucleus < 5)
    far = body & (sheet.to_nucleus > 12)
    for name in ("vesicles", "mitochondria", "reticulum"):
        light = WHOLE_CELL[name](rng, sheet)
        assert light[near].mean() > 1.3 * light[far].mean()
        assert light[nuclei].mean() < light[near].mean()
    dna = nuclear(rng, sheet)
    assert (dna[~nuclei] == 0).all() and dna[nuclei].mean() > 0.3
    rna = WHOLE_CELL["rna"](rng, sheet)
    assert rna[sheet.nucleoli > 0.5].mean() > rna[nuclei & (sheet.nucleoli == 0)].mean()


def test_bare_nuclei_are_nuclei_throughout():
    rng = np.random.default_rng(0)
    labels = tile(rng, (128, 128), diameter=20, jitter=0.2, stretch=1, waviness=0, gap_px=3, rounding=0.2, present=1)
    a = bare_nuclei(rng, labels, 20.0)
    assert np.array_equal(a.nuclei, labels) and a.count == labels.max()
    assert (nuclear(rng, a)[labels == 0] == 0).all()


@pytest.mark.parametrize("kind", ["phase", "brightfield", "relief", "texture"])
def test_transmitted_light_has_a_grey_background_and_varies_in_cells(kind):
    for seed in range(3):
        f = field("transmitted", seed, kind=kind, diameter=30.0)
        assert f.kind == kind
        scene, outside = f.scene[0], ndi.distance_transform_edt(f.labels == 0) > 20
        assert scene[f.labels > 0].std() > 0.02
        if outside.sum() > 500:
            assert np.median(scene[outside]) == pytest.approx(0.5, abs=0.12)


def test_stained_tissue_has_nuclei_darker_than_their_surroundings_on_a_bright_ground():
    darker = []
    for seed in range(8):
        f = field("tissue", seed)
        red = f.scene[0]  # hematoxylin absorbs red, eosin hardly
        darker.append(red[f.labels > 0].mean() < red[f.labels == 0].mean())
        assert f.scene.max() <= 1
    assert all(darker)
