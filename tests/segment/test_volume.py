"""Volumes: planes averaged as their definition says, anisotropy, and stacks through all stages."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from scipy import ndimage as ndi
from segment_project import MODEL, config_of, run, volume_of
from simulated_stack import simulate_stack, simulate_stack_plate
from vendors import PatternLayout

from plateflow.config import PlateSpec
from plateflow.errors import PlateflowError
from plateflow.flows import flow_error, flows_from_labels, labels_from_flows
from plateflow.images.well import WellImage
from plateflow.metrics import average_precision, f1
from plateflow.plates.plate import index_plate
from plateflow.project import Plate
from plateflow.segment import volume
from plateflow.segment.grid import anisotropy
from plateflow.segment.scratch import open_flows, write_flows
from plateflow.segment.volume import Volume, in_voxels, n_planes
from plateflow.simulate.harmony import HarmonyLayout
from plateflow.simulate.layout import PlateDescription, Record
from plateflow.stages import infer
from plateflow.stages.job import Job, Outcome, WorkItem
from plateflow.stages.labels import block_edge

Array = NDArray[Any]


def stub(plane: Array) -> NDArray[np.float16]:
    """A network that tells rows from columns: slopes of the first channel, and the mean of the channels."""
    plane = plane.astype(np.float64)
    down, right = (np.gradient(plane[0], axis=a) if plane.shape[a + 1] > 1 else 0 * plane[0] for a in (0, 1))
    return np.stack([down, 3 * right - 1, plane.mean(0)]).astype(np.float16)


def linear(n: int, m: int, *, smooth: bool) -> Array:
    """The matrix (m, n) that resizes n samples to m by linear interpolation between their middles."""
    wide = max(1.0, n / m) if smooth else 1.0
    place = np.clip((np.arange(m) + 0.5) * n / m - 0.5, None if smooth else 0, None if smooth else n - 1)
    weights = np.maximum(0, 1 - np.abs(np.arange(n) - place[:, None]) / wide)
    return weights / weights.sum(1, keepdims=True)


def slow_flow(pixels: Array, ratio: float) -> Array:
    """The flow field of a volume (C, Z, Y, X) by its definition, one plane at a time, in float64."""
    _, depth, height, width = pixels.shape
    rows = max(1, round(depth * ratio))
    total, times = np.zeros((4, *pixels.shape[1:])), np.zeros((4, 1, 1, 1))
    there, back = linear(depth, rows, smooth=ratio < 1), linear(rows, depth, smooth=False)
    for z in range(depth):
        total[1:, z] += stub(pixels[:, z])
    times[1:] += 1
    if depth > 1:
        for x in range(width):
            total[[0, 1, 3], :, :, x] += back @ stub(there @ pixels[:, :, :, x].astype(np.float64)).astype(np.float64)
        for y in range(height):
            total[[0, 2, 3], :, y] += back @ stub(there @ pixels[:, :, y].astype(np.float64)).astype(np.float64)
        times[[0, 1, 3]] += 1
        times[[0, 2, 3]] += 1
    mean = total / np.maximum(times, 1)
    steps = mean[:3] / np.array([ratio, 1, 1])[:, None, None, None]
    before, after = np.sqrt((mean[:3] ** 2).sum(0)), np.sqrt((steps**2).sum(0))
    return np.concatenate([steps * np.minimum(before, 5) / np.maximum(after, 1e-300), mean[3:]])


def run_planes(pixels: Array, ratio: float, folder: Path) -> list[Array]:
    """What a volume saves once all its planes were read and written in order, a few read ahead."""
    saved: list[Array] = []
    made = Volume(
        lambda z: pixels[:, z],
        lambda flow: saved.append(np.array(flow)),
        shape=pixels.shape[1:],
        channels=len(pixels),
        anisotropy=ratio,
        folder=folder,
    )
    jobs = list(made.jobs(scale=1.0, key="k"))
    assert len(jobs) == n_planes(pixels.shape[1:])
    ahead: list[Array] = []
    for number in range(len(jobs) + 3):
        if number < len(jobs):
            ahead.append(jobs[number].read())
        if number >= 3:
            assert not saved
            jobs[number - 3].write(stub(ahead[number - 3]))
    return saved


@pytest.mark.parametrize("ratio", [1.0, 2.4, 0.5])
@pytest.mark.parametrize(("shape", "slab"), [((5, 9, 12), 2**22), ((5, 9, 12), 130), ((6, 7, 4), 1)])
def test_planes_are_averaged_where_they_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, shape: tuple[int, ...], slab: int
) -> None:
    pixels = np.random.default_rng(0).normal(0, 2, (2, *shape)).astype(np.float32)
    (whole,) = run_planes(pixels, ratio, tmp_path)
    assert whole.dtype == np.float16
    expected = slow_flow(pixels, ratio)
    # The network's answers are rounded to float16 before they are summed; equal ones may round to either side.
    np.testing.assert_allclose(whole.astype(np.float64), expected, rtol=2e-3, atol=6e-3)
    monkeypatch.setattr(volume, "SLAB", slab)
    (in_slabs,) = run_planes(pixels, ratio, tmp_path)
    assert np.array_equal(in_slabs.view(np.uint16), whole.view(np.uint16))
    assert not list(tmp_path.iterdir()), "files without a name"


def section_flows(flow: Array) -> Array:
    """What a perfect network says of planes: unit vectors of each, averaged in px of equal size."""
    total = np.zeros_like(flow)
    for components in ((1, 2), (0, 1), (0, 2)):
        vectors = flow[list(components)]
        length = np.sqrt((vectors**2).sum(0))
        total[list(components)] += np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), 0) / 2
    return 5 * total


@pytest.mark.parametrize("ratio", [1.0, 3.0, 7.0])
def test_true_flows_of_an_anisotropic_stack_come_back_as_its_labels(ratio: float) -> None:
    """A scene on a fine grid, of which the stack has every `ratio`-th plane; its flows on the fine grid are true."""
    rng = np.random.default_rng(3)
    _, fine = simulate_stack(rng, (84, 88, 88), anisotropy=1.0, nuclei=20)
    planes = np.arange(0, 84, ratio).astype(int)
    labels, sections = fine[planes], section_flows(flows_from_labels(fine)[:, planes])
    sections += ndi.gaussian_filter(rng.normal(size=sections.shape), (0, 1, 1, 1)) * 10 * (labels > 0)
    logit = np.where(labels > 0, np.float16(5), np.float16(-5))
    flow = in_voxels(sections.astype(np.float32), ratio)
    assert np.sqrt((flow**2).sum(0)).max() <= 5.001
    found = labels_from_flows(flow.astype(np.float16), logit)
    assert average_precision(labels, found, 0.9)[0] >= 0.95
    # What cutting lengths is for: as long as their mean comes, true flows fail the check that objects have to pass.
    length, mean = (np.sqrt((vectors**2).sum(0)) for vectors in (flow, sections))
    uncut = flow * (mean / np.maximum(length, 1e-9))
    errors = [np.nanmedian(flow_error(labels, vectors)) for vectors in (flow, uncut)]
    assert errors[0] < 0.3 < errors[1] < 1
    assert labels_from_flows(uncut.astype(np.float16), logit).max() < found.max()


def stack_plate(out: Path, image: Array, *, pixel_um: float = 0.5, z_um: float = 0.5) -> PlateSpec:
    """A plate of one well with one stack ZYX."""
    writer = HarmonyLayout(out, PlateDescription(name="p", field_shape=image.shape[1:], pixel_size_um=pixel_um))
    for z, plane in enumerate(image):
        place = Record(row=1, column=1, field=0, channel=0, channel_name="DNA", y_um=0, x_um=0, z=z, z_um=z * z_um)
        writer.write(place, plane)
    writer.finish()
    return PlateSpec(plate="p", path=str(writer.raw))


def deep(**keys: Any) -> dict[str, Any]:
    settings = {"channels": ["DNA"], "model": str(MODEL), "dimensions": 3, **keys}
    return {"z": "keep", "segmentation": {"nuclei": settings}}


def infer_gives(flow: Array) -> Callable[..., Iterator[tuple[WorkItem, Outcome]]]:
    """Instead of the network's work: this flow field, saved where its own would be."""

    def work(context: Job, units: list[WorkItem], start: Callable[[WorkItem], None], _: Any) -> Any:
        for unit in units:
            start(unit)
            write_flows(context.paths.flows(unit.label_set, unit.well, 0), flow, -2)
            yield unit, Outcome()

    return work


@pytest.mark.parametrize(
    ("path", "least"),
    [
        ("val/qcanet_mouse_embryo/{}/16_cell_stage.tif", 0.99),
        ("train/qcanet_mouse_embryo/{}/8_cell_stage.tif", 0.99),
        ("train/stardist_demo3d/{}/img3d.tif", 0.9),
    ],
)
def test_real_stacks_come_back_from_their_true_flows(
    test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, least: float
) -> None:
    image, truth = (tifffile.imread(test_data / "cells3d" / path.format(kind)) for kind in ("images", "labels"))
    entry = stack_plate(tmp_path, image.astype(np.uint16))
    logit = np.where(truth > 0, 5, -5)
    flow = np.concatenate([5 * flows_from_labels(truth), logit[None]]).astype(np.float16)
    monkeypatch.setattr(infer, "_work", infer_gives(flow))
    config = config_of(tmp_path / "results", **deep(), follow_block_px=100, follow_slices=2)
    paths = run(config, entry, "ingest", "tile", "normalise", "infer", "follow", "stitch")
    assert len(list(paths.scratch.glob("ends/nuclei/B02/0-*.ends"))) > 6
    labels = volume_of(paths, "B02", "nuclei")
    assert average_precision(truth, labels, 0.5)[0] >= least
    assert np.array_equal(labels, labels_from_flows(flow[:3], flow[3]))
    assert (volume_of(paths, "B02", "nuclei", 1) > 0).mean() == pytest.approx((labels > 0).mean(), abs=0.02)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlateSpec, Path, Array]:
    """A simulated stack with planes 2.5 px apart, tiled and normalised."""
    folder = tmp_path_factory.mktemp("stack")
    raw, truth = simulate_stack_plate(folder, shape=(14, 112, 128), z_step_um=1.5, pixel_size_um=0.6)
    entry = PlateSpec(plate="stack", path=str(raw))
    run(config_of(folder / "results", **deep()), entry, "ingest", "tile", "normalise")
    return entry, folder / "results", truth["B02"]


def test_a_simulated_stack_through_the_network(stack: tuple[PlateSpec, Path, Array]) -> None:
    entry, results, truth = stack
    paths = run(config_of(results, **deep()), entry, "infer", "stitch")
    flow = open_flows(paths.flows("nuclei", "B02", 0), 0)[:]
    assert (flow.shape, flow.dtype) == ((4, *truth.shape), np.float16)
    assert np.sqrt((flow[:3].astype(np.float32) ** 2).sum(0)).max() < 5.01
    array = zarr.open_group(paths.image("B02") / "labels/nuclei", mode="r")["0"]
    assert array.metadata.dimension_names == ("t", "z", "y", "x")  # type: ignore[union-attr]
    labels = volume_of(paths, "B02", "nuclei")
    assert f1(truth, labels) >= 0.9
    objects = pd.read_parquet(paths.objects("nuclei", "B02"))
    assert objects["label"].tolist() == list(range(1, labels.max() + 1))
    assert objects["area_px"].tolist() == np.bincount(labels.ravel())[1:].tolist(), "voxels"
    for row in objects.itertuples():
        middle = np.argwhere(labels == row.label).mean(0)
        assert np.abs(middle - (row.seed_z, row.seed_y, row.seed_x)).max() < 6


def test_a_stack_goes_through_to_tables_and_report(stack: tuple[PlateSpec, Path, Array]) -> None:
    entry, results, truth = stack
    config = config_of(results, **deep(), features={"families": "minimal"})
    paths = run(config, entry, "infer", "stitch", "features", "aggregate", "report")
    objects = pd.read_parquet(paths.objects("nuclei", "B02"))
    cells = pd.read_parquet(paths.cells("B02"))
    assert cells["ObjectNumber"].tolist() == objects["label"].tolist(), "a row an object, not one a plane"
    assert cells["Nuclei_Intensity_MeanIntensity_DNA"].gt(0).all()
    assert cells["Nuclei_AreaShape_Volume"].tolist() == pytest.approx((objects["area_px"]).tolist())
    wells = pd.read_parquet(paths.table("wells.parquet"))
    assert wells.filter(like="Count").iloc[0].tolist() == [len(objects)]
    assert len(cells) == pytest.approx(truth.max(), abs=3)
    page = paths.table("report.html").read_text()
    assert "image/webp" in page


def test_planes_by_themselves_are_canvases_of_their_own(stack: tuple[PlateSpec, Path, Array], tmp_path: Path) -> None:
    """The key changed: two dimensions give each plane its own objects, and numbers run on over z."""
    entry, results, truth = stack
    config = config_of(results, **deep(dimensions=2))
    paths = run(config, entry, "infer", "stitch")
    labels = volume_of(paths, "B02", "nuclei")
    numbers = [np.unique(plane[plane > 0]) for plane in labels]
    assert sum(map(len, numbers)) == labels.max() > 2 * truth.max()
    for above, below in pairwise(numbers):
        if len(above) and len(below):
            assert above.max() < below.min()
    assert len(Plate(config=config, spec=entry).canvases("B02", "nuclei")) == len(truth)
    (canvas,) = Plate(config=config_of(results, **deep()), spec=entry).canvases("B02", "nuclei")
    assert canvas.shape == truth.shape
    assert [plane.z for plane in canvas.planes()] == list(range(len(truth)))


def test_the_distance_of_planes_must_be_known(tmp_path: Path) -> None:
    """From the sheet where the layout doesn't say; without it ingest says what to do."""
    raw, _ = simulate_stack_plate(tmp_path, shape=(3, 64, 64), layout=PatternLayout, nuclei=2)
    pattern = r"(?P<well>[A-Z]\d\d)_s(?P<field>\d+)_w(?P<channel>\d)(_t(?P<t>\d+)_z(?P<z>\d+))?\.tif"
    entry = PlateSpec(plate="stack", path=str(raw), layout="pattern", pattern=pattern, pixel_size_um=0.6)
    settings = {"channels": ["1"], "model": str(MODEL), "dimensions": 3}
    config = config_of(tmp_path / "results", z="keep", segmentation={"nuclei": settings})
    with pytest.raises(PlateflowError, match=r"stack, label set nuclei[\s\S]*z_step_um in the plate sheet"):
        run(config, entry, "ingest")
    told = entry.model_copy(update={"z_step_um": 1.5})
    paths = run(config, told, "ingest", "tile", "normalise")
    layout = WellImage.open(paths, "B02").layout
    assert layout.pixel_um == (1.5, 0.6, 0.6)
    assert anisotropy(layout, where="") == pytest.approx(2.5)
    context = Job.of(Plate(config=config, spec=told), "infer", "0")
    assert [unit.data for unit in infer.work_items(context)] == [pytest.approx(2.5)]
    with pytest.raises(PlateflowError, match="planes are 500 pixels apart"):
        anisotropy(replace(layout, pixel_um=(300.0, 0.6, 0.6)), where="")
    says_itself = stack_plate(tmp_path, np.ones((3, 32, 32), np.uint16), z_um=0.5)
    planes = index_plate(says_itself.model_copy(update={"z_step_um": 9.0})).planes
    assert sorted(planes["z_um"]) == pytest.approx([0, 0.5, 1.0])


def test_blocks_of_a_volume_have_as_many_voxels_as_those_of_a_plane_have_pixels() -> None:
    assert block_edge((4000, 5000), 2048) == 2048
    assert block_edge((50, 5000, 5000), 2048) == 290  # all of the depth
    assert block_edge((500, 5000, 5000), 2048) == 161  # a cube
    assert block_edge((1, 5000, 5000), 64) == 64
    for depth in range(1, 400, 7):
        edge = block_edge((depth, 999, 999), 512)
        assert 0.95 < min(depth, edge) * edge**2 / 512**2 < 1.05
