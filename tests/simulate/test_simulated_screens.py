"""What screens hold is drawn, each thing as its name says and with its truth."""

import numpy as np
import pytest
from scipy import ndimage as ndi
from skimage.measure import label as connected
from skimage.measure import regionprops

from plateflow.simulate import looks, stains
from plateflow.simulate.anatomy import Anatomy, anatomy, divide
from plateflow.simulate.bodies import body_outline, contact_distance, scatter, tile
from plateflow.simulate.looks import DIAMETERS, random_field
from plateflow.simulate.transmitted import transmitted


def cells(rng: np.random.Generator, diameter: float = 60.0, **parts: float) -> Anatomy:
    """A sheet of cells with seams; one round nucleus in each unless `parts` say otherwise."""
    sheet = {"jitter": 0.2, "stretch": 1.3, "waviness": 0.03, "gap_px": 8, "rounding": 0.1, "present": 1}
    labels = tile(rng, (320, 320), diameter=diameter, **sheet)
    return anatomy(rng, labels, diameter, **{"anucleate": 0.0, "binucleate": 0.0, "lobed": 0.0, **parts})


def ring(inside: np.ndarray, near: int, far: int) -> np.ndarray:
    """Pixels outside, from `near` to `far` px away."""
    distance = ndi.distance_transform_edt(~inside)
    return (distance >= near) & (distance <= far)


def test_a_diffuse_dye_leaves_the_nucleus_out_or_stains_it_alike_or_brighter() -> None:
    a = cells(np.random.default_rng(0), nucleoli=0.0)
    ratios = []
    for seed in range(30):
        light = stains.diffuse(np.random.default_rng(seed), a)
        near = (a.cells > 0) & (a.to_nucleus > 0) & (a.to_nucleus < 4)
        ratios.append(light[(a.nuclei > 0) & (a.nucleus_depth < 0.4)].mean() / light[near].mean())
        assert light[a.thickness > 0.6].mean() > light[(a.thickness > 0) & (a.thickness < 0.1)].mean() * 0.5
    counts = np.histogram(ratios, [0, 0.9, 1.25, 9])[0]
    assert counts.min() >= 3


def test_vesicles_lie_about_a_dark_nucleus_on_a_dim_body() -> None:
    a = cells(np.random.default_rng(1), 140.0)
    for seed in range(6):
        light = stains.vesicles(np.random.default_rng(seed), a)
        near, far = (a.to_nucleus > 0) & (a.to_nucleus < 12) & (a.cells > 0), (a.to_nucleus > 30) & (a.cells > 0)
        assert np.percentile(light[near], 99) > 2 * np.median(light[far])
        assert np.median(light[a.nuclei > 0]) < np.median(light[near])
        assert np.median(light[far]) > 0.02


def test_actin_fibres_run_along_the_cell() -> None:
    labels = np.zeros((200, 200), np.uint32)
    labels[80:120, 10:190] = 1
    a = anatomy(np.random.default_rng(0), labels, 60.0, anucleate=1.0)
    inner = np.s_[90:110, 30:170]
    ratios = []
    for seed in range(8):
        light = stains.actin(np.random.default_rng(seed), a)[inner]
        ratios.append(np.abs(np.diff(light, axis=0)).mean() / np.abs(np.diff(light, axis=1)).mean())
    assert np.median(ratios) > 1.5


def test_golgi_is_a_cap_at_one_side_of_the_nucleus() -> None:
    a = cells(np.random.default_rng(2), nucleus=0.4)
    light = stains.golgi(np.random.default_rng(0), a)
    peaks = np.array(ndi.maximum_position(light, a.cells, np.arange(1, a.count + 1)))
    assert np.median(np.hypot(*(peaks - a.pole[1:]).T)) < 0.15 * a.diameter
    assert np.median(light[(a.cells > 0) & (a.to_nucleus > 10)]) < 0.5 * np.median(light[tuple(peaks.T)])


def test_mitochondria_are_a_net() -> None:
    a = cells(np.random.default_rng(3), 100.0)
    light = stains.mitochondria(np.random.default_rng(1), a)
    near = (a.cells > 0) & (a.to_nucleus > 0) & (a.to_nucleus < 15)
    threads = (light > np.percentile(light[near], 70)) & near
    pieces = regionprops(connected(threads, connectivity=2))
    assert np.median([p.solidity for p in pieces if p.area > 15]) < 0.85


def test_stars_have_processes() -> None:
    def filled(form: str) -> float:
        rng, values = np.random.default_rng(0), []
        for _ in range(12):
            y, x = body_outline(rng, 50.0, form).T
            inside = 0.5 * abs(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1)))
            values.append(inside / (np.pi * np.hypot(y - y.mean(), x - x.mean()).max() ** 2))
        return float(np.median(values))

    assert filled("star") < 0.4
    assert filled("round") > 0.6


def test_fields_are_sparse_to_confluent_with_neighbours_of_very_different_brightness() -> None:
    covered, factors = [], []
    for seed in range(10):
        f = random_field(np.random.default_rng(seed), "cells", diameter=24.0, kind="diffuse")
        covered.append((f.labels > 0).mean())
        mean = ndi.mean(f.scene[0], f.labels, np.arange(1, f.labels.max() + 1))
        pairs = np.stack([f.labels[:, :-3].ravel(), f.labels[:, 3:].ravel()], -1)
        pairs = np.unique(pairs[(pairs > 0).all(1) & (pairs[:, 0] != pairs[:, 1])], axis=0) - 1
        if len(pairs):
            factors.append(np.abs(np.log(mean[pairs[:, 0]] / mean[pairs[:, 1]])).max())
    assert min(covered) < 0.2 and max(covered) > 0.9
    assert np.exp(max(factors)) > 2.5
    assert DIAMETERS["cells"] == (10.0, 150.0)


def test_cells_are_thinner_where_they_meet() -> None:
    labels = np.zeros((20, 40), np.uint32)
    labels[:, 4:20], labels[:, 20:36] = 1, 2
    distance = contact_distance(labels)
    assert distance[10, 19] == distance[10, 20] == 0
    assert distance[10, 15] == 4 and distance[10, 4] == 15  # the free border is none
    assert contact_distance(np.where(labels == 1, 1, 0).astype(np.uint32)).min() == 40


def test_cells_may_have_two_nuclei_that_touch_and_nuclei_two_lobes() -> None:
    def shapes(**parts: float) -> tuple[float, float]:
        found = regionprops(cells(np.random.default_rng(4), 100.0, nucleus=0.4, **parts).nuclei)
        long = [p.axis_major_length / p.axis_minor_length for p in found]
        return float(np.median(long)), float(np.median([p.solidity for p in found]))

    (single, whole), (two, waisted), (_, lobed) = shapes(), shapes(binucleate=1.0), shapes(lobed=1.0)
    assert single < 1.5 and two > 1.7
    assert whole > 0.97 and waisted < 0.95 and lobed < whole - 0.005


def test_nucleoli_are_dark_in_dna_and_bright_in_rna() -> None:
    a = cells(np.random.default_rng(5), nucleoli=1.5)
    spots, rest = a.nucleoli > 0.6, (a.nucleus_depth > 0.3) & (a.nucleoli == 0)
    assert 0.01 < spots.sum() / (a.nuclei > 0).sum() < 0.5
    dna = np.mean([stains.nuclear(np.random.default_rng(s), a) for s in range(8)], axis=0)
    rna = np.mean([stains.rna(np.random.default_rng(s), a) for s in range(8)], axis=0)
    assert dna[spots].mean() < 0.95 * dna[rest].mean()
    assert rna[spots].mean() > 1.2 * rna[rest].mean()


def test_dividing_nuclei_are_plates_or_pairs_of_plates_each_with_a_label() -> None:
    rng = np.random.default_rng(6)
    nuclei = scatter(rng, (400, 400), diameter=30, spread=0.1, coverage=0.25, forms=("round",), clumping=0, overlap=0)
    labels, dividing = divide(rng, nuclei, 0.5)
    assert len(dividing) == labels.max() + 1 and not dividing[0]
    assert 0.3 < dividing.mean() < 0.8
    origin = ndi.maximum(nuclei, labels, np.arange(1, labels.max() + 1)).astype(int)
    assert (nuclei[labels > 0] == origin[labels[labels > 0] - 1]).all()
    pairs = np.bincount(origin) == 2
    assert pairs.sum() >= 3 and (np.bincount(origin) <= 2).all()
    shapes = {p.label: p for p in regionprops(labels)}
    still, moving = (
        [shapes[n].axis_major_length / shapes[n].axis_minor_length for n in np.flatnonzero(dividing == s)[1 - s :]]
        for s in (False, True)
    )
    assert np.median(still) < 1.5 and np.median(moving) > 2
    same, none = divide(rng, nuclei, 0.0)
    assert np.array_equal(same, nuclei) and not none.any()


def test_mitosis_is_bright_in_fields_of_nuclei(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def often(rng: np.random.Generator, nuclei: np.ndarray, _: float) -> tuple[np.ndarray, np.ndarray]:
        seen["labels"], seen["dividing"] = divide(rng, nuclei, 0.3)
        return seen["labels"], seen["dividing"]

    monkeypatch.setattr(looks, "divide", often)
    bright = []
    for seed in range(10):
        f = random_field(np.random.default_rng(seed), "nuclei", diameter=44.0)  # so large are never heaped
        assert np.array_equal(f.labels, seen["labels"])
        if len({*seen["dividing"][1:]}) < 2:
            continue  # a field of few nuclei: none divides, or all do
        mean = ndi.mean(f.scene[0], f.labels, np.arange(f.labels.max() + 1))
        bright.append(np.median(mean[seen["dividing"]]) / np.median(mean[1:][~seen["dividing"][1:]]))
    assert len(bright) > 5 and np.median(bright) > 1.3


def test_dense_nuclei_lie_before_layers_out_of_focus_that_arent_labelled() -> None:
    rng = np.random.default_rng(7)
    far = looks._out_of_focus(rng, (256, 256), 20.0, 0.4)
    assert far.std() > 0.1
    sharpness = np.abs(np.diff(far)).max() / np.ptp(far)
    assert sharpness < 0.15  # over 20 px of diameter no edge is steeper
    crowded = [(random_field(np.random.default_rng(s), "nuclei", diameter=12.0).labels > 0).mean() for s in range(6)]
    assert max(crowded) > 0.4 and min(crowded) < 0.1


def test_micronuclei_debris_and_dust_are_lit_but_arent_labelled() -> None:
    light = np.zeros((200, 200), np.float32)
    looks._specks(np.random.default_rng(0), light, 40.0, count=30, size=(0.02, 0.08), level=(0.5, 1.0))
    spots = regionprops(connected(light > 0.2))
    assert 15 < len(spots) <= 30
    assert max(p.equivalent_diameter_area for p in spots if p.area) < 0.5 * 40
    outside = []
    for seed in range(8):
        f = random_field(np.random.default_rng(seed), "nuclei", diameter=30.0)
        outside.append(f.scene[0][ring(f.labels > 0, 8, 400)].max(initial=0) > 0.5)
    assert any(outside)


def test_bright_dirt_is_smaller_than_the_smallest_nuclei_however_large_the_objects_are() -> None:
    light = np.zeros((400, 400), np.float32)
    looks._specks(np.random.default_rng(1), light, 120.0, count=12, size=(0.02, 0.08), level=(1.0, 1.0))
    spots = [p.equivalent_diameter_area for p in regionprops(connected(light > 0.5))]
    assert len(spots) > 8 and np.median(spots) < 7  # px at half of their height; nuclei have 8 and more


def test_heaped_nuclei_are_brighter_than_one_and_have_no_labels() -> None:
    rng = np.random.default_rng(2)
    labels = scatter(rng, (256, 256), diameter=12, spread=0.1, coverage=0.5, forms=("round",), clumping=0.5, overlap=0)
    light = 0.5 * (labels > 0).astype(np.float32)
    after, left = looks._heaped(rng, light, labels, 12.0)
    heap = after > light + 0.3
    assert 0.005 < heap.mean() < 0.6 and not left[heap].any()
    assert after[heap].mean() > 1.5 * light[labels > 0].mean()
    assert 0 < left.max() < labels.max()
    assert np.all((left > 0) <= (labels > 0))


def test_holes_are_darker_than_the_film_about_them_and_no_darker_than_nothing() -> None:
    nothing = np.zeros((300, 300), np.float32)
    fields = [looks._surroundings(np.random.default_rng(s), nothing, 20.0, haze=0.2, glare=0.0) for s in range(12)]
    assert all(f.min() >= 0 for f in fields)
    pitted = [f for f in fields if (f < 0.3 * ndi.gaussian_filter(f, 20.0)).sum() > 20]
    assert 1 <= len(pitted) <= 9


def test_some_fields_of_nuclei_are_so_soft_that_each_is_a_spot() -> None:
    """How steep the steepest edges are that lone nuclei have, over their height: an erf's is 0.4 / sigma."""
    steepest = []
    for seed in range(20):
        f = random_field(np.random.default_rng(seed), "nuclei", diameter=16.0)
        edge = (f.labels > 0) & ~ndi.binary_erosion(f.labels > 0, iterations=2)
        smooth = ndi.gaussian_filter(f.image[0].astype(np.float64), 1.0)
        slope = np.hypot(*np.gradient(smooth))[edge]
        steepest.append(np.percentile(slope, 90) / (np.percentile(smooth, 99) - np.percentile(smooth, 1)))
    assert min(steepest) < 0.5 * np.median(steepest)


@pytest.mark.parametrize("kind", ["dark empty", "bright empty"])
def test_empty_fields_hold_dirt_and_no_object(kind: str) -> None:
    found = [f for s in range(30) if (f := random_field(np.random.default_rng(s), "empty")).kind == kind]
    assert len(found) > 3
    assert not any(f.labels.any() for f in found)
    assert any(np.ptp(f.scene) > 0.2 for f in found)
    assert {len(f.image) for f in found} == ({1, 2} if kind == "dark empty" else {1})


def test_phase_has_a_halo_bright_field_a_rim_and_texture_no_other_sign() -> None:
    rng = np.random.default_rng(8)
    labels = scatter(rng, (320, 320), diameter=60, spread=0.1, coverage=0.2, forms=("round",), clumping=0, overlap=0)
    a = anatomy(rng, labels, 60.0)
    inside, outside = labels > 0, ring(labels > 0, 25, 400)
    halo, rim, grain, level = [], [], [], []
    for seed in range(8):
        phase, bright, texture = (
            transmitted(np.random.default_rng(seed), a, c) for c in ("phase", "brightfield", "texture")
        )
        ground = np.median(phase[outside])
        halo.append(phase[ring(inside, 1, 3)].mean() - ground > 2 * phase[outside].std() / 10)
        edge, core = ring(~inside, 0, 2) & inside, a.depth > 8
        rim.append(
            bright[edge].std() > bright[outside].std() and abs(bright[edge].mean() - bright[core].mean()) > 0.005
        )
        level.append(abs(texture[inside].mean() - texture[outside].mean()))
        grain.append(texture[inside].std() / texture[outside].std())
    assert all(halo) and np.mean(rim) > 0.8
    assert np.median(level) < 0.05 and min(grain) > 2


def test_transmitted_cells_without_borders_lie_apart() -> None:
    for kind in ("relief", "texture"):
        for seed in range(2):
            f = random_field(np.random.default_rng(seed), "transmitted", kind=kind, diameter=40.0)
            assert contact_distance(f.labels).min() == max(f.labels.shape)  # none touches another
