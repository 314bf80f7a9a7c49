import numpy as np
import pytest
from flow_examples import few, seeds, shapes
from flow_scenes import draw_cells, draw_flow, draw_labels, draw_scene, integer_endpoints, slow_endpoints
from hypothesis import given
from hypothesis import strategies as st

from plateflow.flows import blocks, cut_blocks, flows_from_labels, follow, follow_block, follow_flows


def joined(flow: np.ndarray, logit: np.ndarray) -> np.ndarray:
    return np.concatenate([flow, logit[None]])


def by_blocks(field, block: int, n_steps: int = 200) -> list[np.ndarray]:
    return [follow_block(field, one, n_steps=n_steps, cell_threshold=0.0) for one in cut_blocks(field.shape[1:], block)]


def cut(endpoints: np.ndarray, mask: np.ndarray, block: int) -> list[np.ndarray]:
    """Deal the endpoints of a whole canvas to the blocks where their paths start."""
    place = np.zeros((len(endpoints), *mask.shape), np.int64)
    place[:, mask] = endpoints
    return [place[(slice(None), *one.core)][:, mask[one.core]] for one in cut_blocks(mask.shape, block)]


@few
@given(shapes, seeds, st.sampled_from([1, 2, 7, 50, 200, 333]))
def test_equals_every_integer_step(shape, seed, n_steps):
    flow, logit = draw_scene(shape, seed)
    endpoints = follow_flows(flow, logit > 0, n_steps=n_steps)
    assert endpoints.dtype == np.int32
    np.testing.assert_array_equal(endpoints, integer_endpoints(flow, logit > 0, n_steps))


@few
@given(shapes, seeds, st.sampled_from([5, 16, 64, 96, 127, 256]))
def test_blocks_do_not_show(shape, seed, block):
    flow, logit = draw_scene(shape, seed)
    block = max(block, 1 + max(shape) // 8)
    parts = cut(follow_flows(flow, logit > 0), logit > 0, block)
    for part, expected in zip(by_blocks(joined(flow, logit), block), parts, strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("shape", [(400, 400), (32, 90, 90)])
def test_nearly_as_in_floating_point(shape):
    """The promise on real flows: 99.5 % of the end pixels as in float64, none off by more than one.

    In three dimensions a path may start where those of two objects part, and go either way: one in 100,000 may.
    """
    wrong = far = total = 0
    for seed in range(3):
        flow, logit = draw_flow(draw_cells(shape, seed), seed)
        mask = logit > 0
        off = np.abs(follow_flows(flow, mask) - slow_endpoints(flow, mask)).max(0)
        wrong, far, total = wrong + (off > 0).sum(), far + (off > 1).sum(), total + off.size
    assert total > 50_000
    assert wrong <= 0.005 * total
    assert far <= (0 if len(shape) == 2 else total // 100_000)


def serpentine(width: int, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """One path of one-pixel steps that winds up and down over ``turns`` columns; all else is background."""
    flow = np.zeros((2, width, 4 * turns + 1), np.float16)
    logit = np.full(flow.shape[1:], -1, np.float16)
    for turn in range(turns):
        down, x = turn % 2 == 0, 4 * turn
        logit[:, x] = 1
        flow[0, :, x] = 5 if down else -5
        end = width - 1 if down else 0
        logit[end, x : x + 5] = 1
        flow[:, end, x : x + 4] = [[0], [5]]
    flow[0, :, 4 * turns] = 0
    return flow, logit


@pytest.mark.parametrize("block", [16, 50, 1000])
def test_a_path_of_a_thousand_pixels_through_many_blocks(block):
    flow, logit = serpentine(96, 11)
    mask = logit > 0
    start = tuple(np.argwhere(mask).T[:, 0])
    assert start == (0, 0)
    endpoints = follow_flows(flow, mask, n_steps=2000)
    np.testing.assert_array_equal(endpoints[:, 0], [95, 44])
    assert (np.abs(endpoints[:, 0] - np.array(start)).sum() * 7 < mask.sum()) and mask.sum() > 1000
    for part, expected in zip(by_blocks(joined(flow, logit), block, 2000), cut(endpoints, mask, block), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_a_spiral_leaves_every_halo(monkeypatch):
    monkeypatch.setattr(follow, "HALO", {2: 4, 3: 4})
    y, x = np.indices((300, 300)) - 150.0
    radius = np.hypot(y, x) + 1e-6
    flow = 5 * np.stack([x - 0.02 * y, -y - 0.02 * x]) / radius
    flow = (flow * 0.9).astype(np.float16)
    logit = np.ones((300, 300), np.float16)
    regions = []
    read = blocks.FlowField.read
    monkeypatch.setattr(blocks.FlowField, "read", lambda self, region: regions.append(region) or read(self, region))
    block = cut_blocks((300, 300), 30)[15]
    endpoints = follow_block(joined(flow, logit), block, n_steps=2000, cell_threshold=0.0)
    assert len(regions) > 5
    uncut = follow_flows(flow, logit > 0, n_steps=2000)
    np.testing.assert_array_equal(endpoints, cut(uncut, logit > 0, 30)[15])


def test_reads_no_more_than_core_and_halo():
    flow, logit = draw_flow(draw_labels((600, 600), 3), 3, noise=0.2)

    class Watched:
        def __init__(self, array):
            self.array, self.shape, self.dtype, self.pixels = array, array.shape, array.dtype, 0

        def __getitem__(self, item):
            part = self.array[item]
            self.pixels = max(self.pixels, part[0].size)
            return part

    field = Watched(joined(flow * np.float16(0.2), logit))
    follow_block(field, cut_blocks((600, 600), 100)[14], n_steps=50, cell_threshold=0.0)
    assert field.pixels == (100 + 2 * follow.HALO[2]) ** 2


def test_memmap_zarr_and_other_floats_are_the_same(tmp_path):
    import zarr

    flow, logit = draw_flow(draw_labels((90, 110), 1), 1)
    field = joined(flow, logit)
    expected = by_blocks(field, 40)
    np.save(tmp_path / "flow.npy", field)
    stored = zarr.create_array(tmp_path / "flow.zarr", shape=field.shape, chunks=(3, 32, 32), dtype="float16")
    stored[:] = field
    others = [np.load(tmp_path / "flow.npy", mmap_mode="r"), stored, field.astype(np.float32), field.astype(float)]
    for other in others:
        for part, reference in zip(by_blocks(other, 40), expected, strict=True):
            np.testing.assert_array_equal(part, reference)


def test_steps_are_rounded_as_the_design_says():
    values = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(values)
    exact = np.rint(values[finite].astype(np.float64) * 4096 / 5)
    table = blocks.step_table()
    # float32 may round a product that lies within its precision of a half to the other side; never further.
    off = np.abs(table[finite] - np.clip(exact, -32727, 32727))
    assert off.max() <= 1
    assert (off > 0).sum() < 20
    assert (table[~finite] == blocks.NOT_FINITE).all()
    np.testing.assert_array_equal(-table[finite & (values > 0)], table[finite & (values < 0)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_refuses_what_is_not_finite_with_its_place(value, dtype):
    flow, logit = draw_flow(draw_labels((40, 50), 1), 1)
    field = joined(flow, logit).astype(dtype)
    field[1, 33, 44] = value
    with pytest.raises(ValueError, match=r"dx is NaN or infinite at y = 33, x = 44"):
        by_blocks(field, 20)
    field = np.zeros((4, 3, 5, 6), dtype)
    field[3, 2, 1, 4] = value
    with pytest.raises(ValueError, match=r"cell logit is NaN or infinite at z = 2, y = 1, x = 4"):
        by_blocks(field, 100)
    field[3] = 0
    field[0, 1, 0, 0] = value
    with pytest.raises(ValueError, match=r"dz is NaN or infinite at z = 1, y = 0, x = 0"):
        follow_flows(field[:3], np.ones((3, 5, 6), bool))


def test_values_beyond_float16_are_long_steps():
    field = np.zeros((3, 9, 9), np.float32)
    field[0], field[2] = 1e30, -1e30
    field[2, 0, 0] = 1e9
    assert by_blocks(field, 100)[0].tolist() == [[8], [0]]


def test_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="floats of shape"):
        follow_flows(np.zeros((3, 5, 5), np.float32), np.ones((5, 5), bool))
    with pytest.raises(ValueError, match="floats of shape"):
        follow_block(np.zeros((3, 5, 5), int), cut_blocks((5, 5), 5)[0], n_steps=1, cell_threshold=0)
    with pytest.raises(ValueError, match="no pixel"):
        follow_flows(np.zeros((2, 0, 5), np.float32), np.ones((0, 5), bool))
    with pytest.raises(ValueError, match="shape of a flow"):
        follow_flows(np.zeros((2, 5, 5), np.float32), np.ones((5, 4), bool))


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (1, 1, 1), (1, 1, 9), (1, 20, 20)])
def test_thin_canvases(shape):
    random = np.random.default_rng(0)
    flow = random.normal(0, 5, (len(shape), *shape)).astype(np.float16)
    mask = np.ones(shape, bool)
    endpoints = follow_flows(flow, mask)
    np.testing.assert_array_equal(endpoints, integer_endpoints(flow, mask))
    assert (endpoints < np.array(shape)[:, None]).all() and (endpoints >= 0).all()
    assert follow_flows(flow, ~mask).shape == (len(shape), 0)


def test_one_plane_is_the_same_in_three_dimensions():
    flow, logit = draw_flow(draw_labels((60, 70), 2), 2)
    deep = np.concatenate([np.zeros_like(flow[:1]), flow])[:, None]
    np.testing.assert_array_equal(follow_flows(deep, logit[None] > 0)[1:], follow_flows(flow, logit > 0))


def test_blocks_cover_every_pixel_once_in_order():
    seen = np.zeros((7, 23, 40), int)
    cut = cut_blocks(seen.shape, 9)
    for block in cut:
        seen[block.core] += 1
    assert (seen == 1).all()
    assert [block.index for block in cut] == list(range(1 * 3 * 5))
    assert [tuple(s.start for s in block.core) for block in cut] == sorted(
        tuple(s.start for s in block.core) for block in cut
    )
    with pytest.raises(ValueError, match="at least one pixel"):
        cut_blocks((5, 5), 0)


def test_true_flows_lead_to_the_object_they_start_in():
    labels = draw_labels((200, 200), 7)
    flow = (flows_from_labels(labels) * 5).astype(np.float16)
    endpoints = follow_flows(flow, labels > 0)
    stayed = labels[tuple(endpoints)] == labels[labels > 0]
    assert stayed.mean() > 0.98
