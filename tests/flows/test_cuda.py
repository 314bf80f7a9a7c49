"""Labels on a CUDA device are bit for bit those of the CPU: in numba's simulator, and on a device where there is one.

The simulator shows the order of nothing and no fused products: what it can't show, kernels avoid (`scalar`), and a real
device tests.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_cases import LARGE, SMALL, compare, scene

from plateflow.flows import blocks, device, labels_from_flows, segment_flow

OPTIONS = {"block": 64, "n_steps": 200, "cell_threshold": 0.0, "flow_threshold": 0.4, "min_size": 5}


def has_device() -> bool:
    try:
        from numba import cuda

        return cuda.is_available()
    except Exception:
        return False


on_a_device = pytest.mark.skipif(not has_device(), reason="there is no CUDA device")


def test_in_the_simulator():
    """Some 25 s: a device's threads are Python's there, thousands of them."""
    pytest.importorskip("numba_cuda")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("cuda_cases.py")],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@on_a_device
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_on_a_device(name):
    compare((SMALL | LARGE)[name]())


@on_a_device
def test_tensors_stay_on_the_device(monkeypatch):
    torch = pytest.importorskip("torch")
    field, _ = scene((200, 150), 3)
    expected, _ = segment_flow(field, **OPTIONS)
    tensor = torch.from_numpy(field).cuda()
    monkeypatch.setattr(blocks, "to_host", None)
    np.testing.assert_array_equal(segment_flow(tensor, device="cuda", **OPTIONS)[0], expected)
    labels = labels_from_flows(tensor[:2], tensor[2].clone(), device="cuda", min_size=5)
    np.testing.assert_array_equal(labels, expected)


def test_tensors_are_the_same_on_the_cpu():
    torch = pytest.importorskip("torch")
    field, _ = scene((60, 50), 3)
    expected, _ = segment_flow(field, **OPTIONS)
    tensor = torch.from_numpy(field)
    np.testing.assert_array_equal(segment_flow(tensor, **OPTIONS)[0], expected)
    np.testing.assert_array_equal(labels_from_flows(tensor[:2].float(), tensor[2], min_size=5), expected)


@pytest.mark.parametrize("error", [ImportError("there is no numba-cuda"), MemoryError("8 GB"), OSError("no driver")])
def test_where_cuda_fails_the_cpu_does_it_and_says_so_once(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(device, "_paint", fail)
    device._say.cache_clear()
    field, _ = scene((60, 50), 4)
    expected, _ = segment_flow(field, **OPTIONS)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            np.testing.assert_array_equal(segment_flow(field, device="cuda", **OPTIONS)[0], expected)
    assert [w.category for w in said] == [RuntimeWarning]
    assert "made on the CPU, with the same result" in str(said[0].message)


@pytest.mark.parametrize("room", [[], [0], [5], [0, 0, 0], [3, 0, 3, 1, 12, 0, 2, 0], [10, 10, 1, 9]])
def test_large_objects_share_memory_without_overlap(monkeypatch, room):
    """Which the simulator wouldn't show: its blocks of threads run one after another."""
    monkeypatch.setattr(device, "_SCRATCH", 10)
    room = np.array(room, np.int64)
    seen: list[int] = []
    for part, places, total in device._batches(room):
        mine = room[part]
        seen += range(part.start, part.stop)
        assert total <= 10 or mine.tolist() == [total] or (mine > 10).sum() == 1
        taken = np.zeros(total, int)
        for place, size in zip(places, mine, strict=True):
            taken[place : place + size] += 1
        assert (taken == 1).all()
    assert seen == list(range(room.size))


def test_a_tensor_is_waited_for_and_one_of_another_device_is_copied(monkeypatch):
    """Kernels run on numba's device, in CUDA's default stream, which doesn't wait for others of torch."""
    torch = pytest.importorskip("torch")
    waited = []
    stream = SimpleNamespace(synchronize=lambda: waited.append("a stream"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: waited.append(device) or stream)
    context = SimpleNamespace(device=SimpleNamespace(id=1))
    cuda = SimpleNamespace(current_context=lambda: context)
    here, elsewhere = (SimpleNamespace(device=f"cuda:{n}", get_device=lambda n=n: n) for n in (1, 0))
    assert not device._made_here((), cuda)
    assert not device._made_here((elsewhere, elsewhere), cuda)
    assert waited == []
    assert device._made_here((object(), object()), cuda), "not torch's"
    assert device._made_here((here,), cuda)
    assert waited == ["cuda:1", "a stream"]


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match='device must be "cpu" or "cuda"; got \'mps\''):
        labels_from_flows(np.zeros((2, 9, 9)), np.ones((9, 9)), device="mps")
