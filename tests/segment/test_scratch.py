"""Flow fields and end points as they are stored: what labels need is there, bit for bit, and damage is found."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plateflow.errors import ResultsError
from plateflow.flows import (
    FlowField,
    block_starts,
    cut_blocks,
    flows_from_labels,
    follow_block,
    labels_from_endpoints,
)
from plateflow.segment import scratch
from plateflow.segment.scratch import former, open_flows, read_endpoints, write_endpoints, write_flows

few = settings(max_examples=40, deadline=None, derandomize=True)
planes = st.tuples(st.integers(1, 70), st.integers(1, 90))
volumes = st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 30))
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small arrays have several chunks and pieces."""
    monkeypatch.setattr(scratch, "CHUNK_PX", 32)
    monkeypatch.setattr(scratch, "CUBE_PX", 4)
    monkeypatch.setattr(scratch, "ENDPOINTS", 100)


def draw_field(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Finite values of any bits; logits near a few bounds, many of them equal to one; regions that have nothing."""
    random = np.random.default_rng(seed)
    field = random.integers(0, 2**16, (len(shape) + 1, *shape), np.uint16).view(np.float16)
    field[~np.isfinite(field)] = 0
    field[-1] = random.choice(np.array([-30, -6, -3, -2.002, -2, -1.999, -0.0, 0, 2, 30], np.float16), shape)
    if random.random() < 0.7:
        field[-1][..., shape[-1] // 3 :] = -7
    return field


def as_stored(field: np.ndarray, bound: float) -> np.ndarray:
    """The slow definition of what comes back."""
    out = field.copy()
    for pixel in np.ndindex(field.shape[1:]):
        if not float(field[(-1, *pixel)]) > bound:
            out[(slice(None), *pixel)] = [0] * (len(field) - 1) + [-30]
    return out


@few
@given(st.one_of(planes, planes, volumes), seeds, st.sampled_from([-2.0, -2.0003, -6.0, -15.0, 0.0, 15.0]), st.data())
def test_any_region_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], seed: int, bound: float, data: st.DataObject
) -> None:
    field = draw_field(shape, seed)
    path = tmp_path_factory.mktemp("flows") / "0.flows"
    write_flows(path, field, bound)
    stored, expected = open_flows(path, bound), as_stored(field, bound)
    assert (stored.shape, stored.dtype) == (field.shape, np.float16)

    def equal(key: object) -> None:
        found, wanted = stored[key], expected[key]  # type: ignore[index]
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found.view(np.uint16), np.ascontiguousarray(wanted).view(np.uint16))

    equal(slice(None))
    for channel in (slice(None), len(shape), 0):
        ends = [sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for size in shape]
        equal((channel, *(slice(*each) for each in ends)))
    again = path.with_name("1.flows")
    write_flows(again, field, bound)
    assert again.read_bytes() == path.read_bytes(), "equal work gives equal bytes"


def draw_flow(shape: tuple[int, ...], seed: int, bound: float) -> np.ndarray:
    """Discs and balls with noisy flows, and logits that cross any bound slowly; some are at it."""
    random = np.random.default_rng(seed)
    grid, labels = np.indices(shape), np.zeros(shape, np.int32)
    distance = np.full(shape, np.inf)
    for label, centre in enumerate(random.uniform(0, shape, (int(np.prod(shape)) // 300 + 2, len(shape))), 1):
        away = np.sqrt(((grid - centre.reshape(-1, *(1,) * len(shape))) ** 2).sum(0))
        labels[(away < 8) & (away < distance)] = label
        distance = np.minimum(distance, away)
    labels = np.unique(labels, return_inverse=True)[1].reshape(shape)
    logit = 6 - distance + random.normal(0, 0.5, shape)
    logit[random.random(shape) < 0.02] = bound
    vectors = 5 * flows_from_labels(labels) + random.normal(0, 0.4, (len(shape), *shape))
    return np.concatenate([vectors, logit[None]]).astype(np.float16)


@pytest.mark.parametrize("shape", [(90, 110), (6, 40, 50)])
@pytest.mark.parametrize("bound", [-2.0, -1.3, 0.5])
def test_labels_and_tables_are_those_of_all_flows(tmp_path: Path, shape: tuple[int, ...], bound: float) -> None:
    """Also with a threshold at the bound; and below it something is lost, which is why that is refused."""
    flow, edge = draw_flow(shape, 3, bound), 37

    def made(source: object, threshold: float, through: Path | None = None) -> list[np.ndarray]:
        field, endpoints = FlowField(source), []
        for block in cut_blocks(shape, edge):
            points = follow_block(field, block, n_steps=200, cell_threshold=threshold)
            if through:
                starts = block_starts(field, block, cell_threshold=threshold)
                write_endpoints(through, points, starts)
                points = read_endpoints(through, starts)
            endpoints.append(points)
        options = {"cell_threshold": threshold, "flow_threshold": 1.0, "min_size": 15}
        labels, objects = labels_from_endpoints(endpoints, field, block=edge, **options)  # type: ignore[arg-type]
        return [labels, *(np.asarray(getattr(objects, name)) for name in objects.__dataclass_fields__)]

    path = tmp_path / "0.flows"
    write_flows(path, flow, bound)
    for threshold in (bound, bound + 0.0001, bound + 1, 3.0):
        expected = made(flow, threshold)
        assert expected[0].max() > 1
        for found, wanted in zip(
            made(open_flows(path, threshold), threshold, tmp_path / "0.ends"), expected, strict=True
        ):
            assert found.tobytes() == wanted.tobytes()
    stored = scratch.StoredFlows(path)
    assert not np.array_equal(made(stored, bound - 1)[0], made(flow, bound - 1)[0])
    with pytest.raises(ResultsError, match=rf"nothing where the logit is at or below {bound:g}\n(.|\n)*would be lost"):
        open_flows(path, np.nextafter(bound, -99))


@few
@given(
    st.integers(2, 3), st.integers(0, 450), st.sampled_from([1, 100, 127, 128, 129, 30_000, 2**15, 2**31 - 1]), seeds
)
def test_end_points_come_back_in_the_smallest_integers(
    tmp_path_factory: pytest.TempPathFactory, axes: int, count: int, far: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("ends") / "0-0.ends"
    starts = random.integers(0, far, (axes, count)).astype(np.int32)
    offsets = random.integers(-far // 2, far // 2 + 1, (axes, count))
    offsets[:, :1] = random.choice([far, -far])
    endpoints = np.clip(starts + offsets, 0, 2**31 - 1).astype(np.int32)
    write_endpoints(path, endpoints, starts)
    found = read_endpoints(path, starts)
    assert (found.dtype, found.shape) == (np.int32, endpoints.shape)
    np.testing.assert_array_equal(found, endpoints)
    reach = np.abs((endpoints - starts).astype(np.int64)).max(initial=0)
    assert path.stat().st_size < 300 + (1 if reach < 128 else 2 if reach < 2**15 else 4) * axes * count * 1.1


def test_the_smallest_integers_hold_their_ends(tmp_path: Path) -> None:
    for low, high, kind in ((-128, 127, "<i1"), (-129, 0, "<i2"), (0, 128, "<i2"), (-(2**15) - 1, 0, "<i4")):
        starts = np.array([[40_000, 40_000]], np.int32)
        endpoints = starts + np.array([[low, high]], np.int32)
        write_endpoints(tmp_path / "ends", endpoints, starts)
        np.testing.assert_array_equal(read_endpoints(tmp_path / "ends", starts), endpoints)
        assert kind.encode() in (tmp_path / "ends").read_bytes()


def test_end_points_of_other_paths_are_refused(tmp_path: Path) -> None:
    """As many paths that start at other pixels are found out, too."""
    path = tmp_path / "0-0.ends"
    starts = np.argwhere(np.ones((5, 6))).T.astype(np.int32)
    write_endpoints(path, starts + 1, starts)
    for others in (starts[:, 1:], starts + 1, np.concatenate([starts, starts[:1]])):
        with pytest.raises(
            ResultsError, match=r"aren't those of this flow field(.|\n)*retry PLATE/WELL --stage follow"
        ):
            read_endpoints(path, others)


@pytest.mark.parametrize("what", ["flows", "ends"])
def test_every_damaged_byte_is_one_error_that_names_the_file(tmp_path: Path, what: str) -> None:
    """Each byte flipped, and the file cut off at each length: read as it was, or refused."""
    path = tmp_path / f"0.{what}"
    starts = np.argwhere(np.ones((20, 11))).T.astype(np.int32)
    field = draw_field((20, 40), 5)

    def read() -> bytes:
        if what == "flows":
            return open_flows(path, -2.0)[:].tobytes()
        return read_endpoints(path, starts).tobytes()

    if what == "flows":
        write_flows(path, field, -2.0)
    else:
        write_endpoints(path, starts[::-1] * 200, starts)
    whole, expected = path.read_bytes(), read()
    random = np.random.default_rng(0)
    places = {*range(200), *range(len(whole) - 200, len(whole)), *random.integers(0, len(whole), 200).tolist()}
    for place in sorted(places):
        for damaged in (
            whole[:place] + bytes([whole[place] ^ (1 << int(random.integers(8)))]) + whole[place + 1 :],
            whole[:place],
            whole[:place] + whole[place + 1 :],
        ):
            path.write_bytes(damaged)
            with pytest.raises(ResultsError, match=r"can't be read(.|\n)*plateflow verify PLATE") as error:
                read()
            assert str(path) in str(error.value)
    path.write_bytes(whole)
    assert read() == expected
    path.unlink()
    with pytest.raises(ResultsError, match="it is gone"):
        read()


def test_what_is_not_finite_is_not_stored(tmp_path: Path) -> None:
    field = draw_field((40, 50), 1)
    for channel in range(3):
        for value in (np.nan, np.inf, -np.inf):
            wrong = field.copy()
            wrong[channel, 33, 44] = value
            with pytest.raises(ValueError, match="isn't finite"):
                write_flows(tmp_path / "0.flows", wrong, -2.0)
    assert not list(tmp_path.iterdir())


def test_a_canvas_without_a_cell_takes_few_bytes(tmp_path: Path) -> None:
    field = np.full((3, 640, 640), -3, np.float16)
    write_flows(tmp_path / "0.flows", field, -2.0)
    assert (tmp_path / "0.flows").stat().st_size < 2 * 8 * 400 + 200
    stored = open_flows(tmp_path / "0.flows", 0.0)
    assert not stored[0].any()
    assert (stored[2] == -30).all()
    assert stored[:, 3:3, 5:9].shape == (3, 0, 4)


def test_what_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    """All pixels are there, so any threshold will do; a file of today goes before."""
    field = draw_field((20, 30), 2)
    starts = np.argwhere(field[2] > -5).T.astype(np.int32)
    flows, ends = tmp_path / "0.flows", tmp_path / "0-0.ends"
    np.save(former(flows), field)
    np.save(former(ends), starts[:, ::-1])
    assert open_flows(flows, -15.0)[:].tobytes() == field.tobytes()
    np.testing.assert_array_equal(read_endpoints(ends, starts), starts[:, ::-1])
    write_flows(flows, field, -2.0)
    write_endpoints(ends, starts, starts)
    assert open_flows(flows, 0.0)[:].tobytes() == as_stored(field, -2.0).tobytes()
    np.testing.assert_array_equal(read_endpoints(ends, starts), starts)


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    field = draw_field((200, 300), 3)
    write_flows(tmp_path / "0.flows", field, -2.0)
    stored, expected = open_flows(tmp_path / "0.flows", 0.0), as_stored(field, -2.0)

    def right(seed: int) -> bool:
        y, x = np.random.default_rng(seed).integers(0, (180, 280))
        region = (slice(None), slice(y, y + 60), slice(x, x + 90))
        return bool((stored[region] == expected[region]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, range(300)))


def test_a_region_of_a_large_canvas_takes_its_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither writing nor reading holds the canvas once more: 25 MB here."""
    monkeypatch.undo()  # chunks as they are
    field = np.tile(draw_field((128, 128), 4), (1, 16, 16))
    write_flows(tmp_path / "0.flows", field[:, :300, :300], -6.0)
    open_flows(tmp_path / "0.flows", 0.0)[:]  # compiles
    tracemalloc.start()
    write_flows(tmp_path / "0.flows", field, -6.0)
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.reset_peak()
    region = open_flows(tmp_path / "0.flows", 0.0)[:, 1000:1200, 700:900]
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
    assert region.tobytes() == as_stored(field[:, 1000:1200, 700:900], -6.0).tobytes()
