"""The engine with small random networks: same bits, blending, batches, blank tiles, threads."""

import copy
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plateflow.errors import PlateflowError
from plateflow.model.vit import FlowViT, FlowViTConfig, init_weights
from plateflow.segment.engine import AHEAD, CanvasJob, FlowEngine, _blank, _padded, choose_device
from plateflow.segment.tiles import FRAME, TILE, tile_layout

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
from cellpose_tiles import CellposeTiling

Flow = NDArray[np.float16]


@pytest.fixture(scope="module")
def network() -> FlowViT:
    config = FlowViTConfig(width=32, depth=2, heads=2, neck_width=16)
    model = init_weights(FlowViT(config), seed=1)
    for name, parameter in model.named_parameters():
        if name.startswith(("flow_head", "cell_head")):
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    return model.eval()


def engine_of(
    network,
    batch_size: int = 4,
    dtype: torch.dtype = torch.float32,
    kind: type[FlowEngine] = FlowEngine,
    **keywords: Any,
) -> FlowEngine:
    return kind(network, device=torch.device("cpu"), dtype=dtype, batch_size=batch_size, **keywords)


def run(engine: FlowEngine, images: list[NDArray[np.float32]], *, scale: float = 1.0) -> list[Flow]:
    flows: list[Flow] = []
    jobs = [
        CanvasJob(read=lambda image=image: image, write=flows.append, scale=scale, key=number)
        for number, image in enumerate(images)
    ]
    assert [result.key for result in engine.run(jobs)] == list(range(len(images)))
    return flows


def picture(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tile_has_the_same_bits_at_any_place_with_any_companions(network: FlowViT, dtype: torch.dtype) -> None:
    wanted = picture(0, 2, 256, 256)
    model = copy.deepcopy(network).to(dtype)
    alone = run(engine_of(model, dtype=dtype), [wanted])[0]
    assert np.abs(alone.astype(np.float32)).max() > 0.1
    for before in range(1, 5):
        others = [picture(seed, 2, 256, 256) for seed in range(1, 7)]
        flows = run(engine_of(model, dtype=dtype), [*others[:before], wanted, *others[before:]])
        assert np.array_equal(flows[before].view(np.uint16), alone.view(np.uint16))


def test_a_canvas_has_the_same_bits_with_any_companions(network: FlowViT) -> None:
    wanted = picture(0, 1, 300, 520)
    alone = run(engine_of(network), [wanted])[0]
    pooled = run(engine_of(network), [picture(1, 3, 90, 40), wanted, picture(2, 1, 256, 300)])[1]
    assert np.array_equal(pooled.view(np.uint16), alone.view(np.uint16))


@pytest.mark.parametrize("kind", [FlowEngine, CellposeTiling])
@pytest.mark.parametrize("augment", [False, True])
def test_blending_is_the_weighted_mean_of_the_tiles(network: FlowViT, kind: type[FlowEngine], augment: bool) -> None:
    image = picture(3, 3, 300, 500)
    engine = engine_of(network, kind=kind, augment=augment)
    layout = engine.layout((300, 500))
    weight = np.outer(layout.y.weights, layout.x.weights)
    framed = np.pad(image, ((0, 0), layout.y.zeros, layout.x.zeros))
    assert framed.shape[1:] == layout.shape
    total, weights = np.zeros(framed.shape), np.zeros(framed.shape[1:])
    with torch.inference_mode():
        for number, (y, x) in enumerate(layout.corners):
            row, column = divmod(number, len(layout.x.starts))
            upside_down, mirrored = augment and column % 2 == 1, augment and row % 2 == 1
            tile = framed[:, y : y + TILE, x : x + TILE]
            tile = tile[:, ::-1] if upside_down else tile
            tile = tile[:, :, ::-1] if mirrored else tile
            out = network(torch.from_numpy(tile.copy())[None])[0].double().numpy()
            if upside_down:
                out = out[:, ::-1] * np.array([-1, 1, 1])[:, None, None]
            if mirrored:
                out = out[:, :, ::-1] * np.array([1, -1, 1])[:, None, None]
            total[:, y : y + TILE, x : x + TILE] += weight * out
            weights[y : y + TILE, x : x + TILE] += weight
    top, left = layout.y.before, layout.x.before
    expected = (total / weights)[:, top : top + 300, left : left + 500]
    got = run(engine, [image])[0]
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, expected, rtol=2**-10, atol=1e-4)


def test_a_scaled_canvas_is_run_on_the_networks_grid_and_resized_back(network: FlowViT) -> None:
    image = picture(4, 1, 200, 300)
    small = F.interpolate(torch.from_numpy(image)[None], size=(100, 150), mode="bilinear", antialias=True)[0].numpy()
    flow = torch.from_numpy(run(engine_of(network), [small])[0].astype(np.float32))
    expected = F.interpolate(flow[None], size=(200, 300), mode="bilinear")[0].numpy()
    got = run(engine_of(network), [image], scale=0.5)[0]
    assert got.shape == (3, 200, 300)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (254, 100), (700, 30)])
def test_images_of_any_size_keep_their_shape_and_place(shape: tuple[int, int]) -> None:
    image = picture(5, 1, *shape)
    flow = run(engine_of(lambda x: torch.cat([x[:, :1]] * 3, dim=1)), [image])[0]
    np.testing.assert_allclose(flow[0], image[0], atol=1e-3)


def test_the_network_sees_a_black_frame_and_a_small_image_mirrored_beyond_it() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x

    image = picture(5, 1, 200, 256) + 1
    kept = image.copy()
    run(engine_of(network, batch_size=1), [image])
    x = seen[0][0, 0].numpy()
    top = (TILE - 200) // 2
    assert (x[top - FRAME : top] == 0).all()
    assert (x[top + 200 : top + 200 + FRAME] == 0).all()
    assert (x[:, [0, -1]] == 0).all(), "no room for a frame: the outermost pixels are blacked"
    assert np.array_equal(x[top : top + 200, 1:-1], image[0, :, 1:-1])
    assert np.array_equal(x[: top - FRAME][::-1][: 256 - top - 200 - FRAME], x[top - FRAME :][: top - FRAME])
    assert (seen[0][0, 1:] == 0).all()
    assert np.array_equal(image, kept), "the caller's pixels stay as they are"


def test_all_borders_are_black_where_a_frame_has_room_on_one_side_alone() -> None:
    assert tile_layout((470, 470)).y.zeros == (1, 0)
    seen: list[Tensor] = []
    run(engine_of(lambda x: seen.append(x.clone()) or x, batch_size=4), [picture(5, 1, 470, 470) + 1])
    tiles = seen[0][:, 0].numpy()
    assert (tiles[:2, 0] == 0).all(), "the frame"
    assert (tiles[[0, 2], :, 0] == 0).all()
    assert (tiles[2:, -1] == 0).all(), "the outermost pixels, as there is no frame"
    assert (tiles[[1, 3], :, -1] == 0).all()
    assert (tiles[3, :-1, :-1] > 0).all()


def test_the_logit_is_clipped_and_vectors_are_not() -> None:
    flow = run(engine_of(lambda x: torch.full_like(x, 100.0)), [picture(6, 1, 40, 40)])[0]
    assert (flow[:2] == 100).all()
    assert (flow[2] == 30).all()


def test_blank_tiles_are_skipped_and_counted() -> None:
    calls: list[int] = []

    def network(x: Tensor) -> Tensor:
        calls.append(int(x.flatten(1).any(1).sum()))
        return torch.ones_like(x)

    image = picture(7, 1, 256, 1000)
    image[..., 240:] = 0
    flows: list[Flow] = []
    job = CanvasJob(read=lambda: image, write=flows.append)
    (result,) = engine_of(network).run([job])
    assert (result.tiles, result.skipped) == (5, 3)
    assert sum(calls) == 2
    assert (flows[0][:2, :, 500:] == 0).all()
    assert (flows[0][2, :, 500:] == -30).all()
    assert (flows[0][2, :, :190] == 1).all()

    blank = run(engine_of(network), [np.zeros((1, 64, 64), np.float32), picture(8, 1, 64, 64)])
    assert (blank[0][2] == -30).all()
    assert (blank[1][2] == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tile_is_blank_where_all_of_it_is_zero_of_either_sign(dtype: torch.dtype) -> None:
    random = np.random.default_rng(13)
    for _ in range(20):
        pixels = np.zeros((2, *random.integers(1, 900, 2)), np.float32)
        pixels[random.random(pixels.shape) < 0.5] = -0.0
        for _ in range(random.integers(3)):
            pixels[(random.integers(2), *random.integers(pixels.shape[1:]))] = random.normal() * 1e-30
        layout = tile_layout(pixels.shape[1:])
        padded = _padded(torch.from_numpy(pixels), layout, dtype)
        expected = [not bool(padded[y : y + TILE, x : x + TILE].any()) for y, x in layout.corners]
        assert _blank(padded, layout) == expected


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e5])
def test_one_number_that_is_not_finite_in_float16_is_refused(value: float) -> None:
    def network(x: Tensor) -> Tensor:
        x = x.clone()
        x[0, 1, 100, 100] = value
        return x

    with pytest.raises(RuntimeError, match="isn't finite"):
        run(engine_of(network), [picture(14, 1, 256, 256)])


@pytest.mark.parametrize(
    ("first", "fits", "error"),
    [
        (8, 2, torch.OutOfMemoryError("CUDA out of memory")),
        (7, 3, torch.OutOfMemoryError("CUDA out of memory")),
        (3, 1, RuntimeError("CUDA error: out of memory")),  # the driver's, not the allocator's
        (3, 1, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    ],
)
def test_too_little_memory_halves_the_batch_and_goes_on(
    network: FlowViT, capsys: pytest.CaptureFixture[str], first: int, fits: int, error: Exception
) -> None:
    shapes: list[int] = []

    def small_device(x: Tensor) -> Tensor:
        if len(x) > fits:
            raise error
        shapes.append(len(x))
        return network(x)

    images = [picture(seed, 1, 300, 300) for seed in range(2)]
    engine = engine_of(small_device, batch_size=first)
    flows = run(engine, images)
    assert engine.info["batch"] == fits
    assert set(shapes) == {fits}
    assert f"batches of {fits}" in capsys.readouterr().out
    for flow, expected in zip(flows, run(engine_of(network, batch_size=fits), images), strict=True):
        assert np.array_equal(flow.view(np.uint16), expected.view(np.uint16))


def test_other_errors_of_the_device_are_not_hidden() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(engine_of(broken), [picture(9, 1, 30, 30)])


@pytest.mark.parametrize("slow", ["network", "write", "the caller"])
def test_memory_is_bounded(slow: str) -> None:
    """However slow a part is, only a few canvases are read and not yet written."""
    held, most = 0, 0
    lock = threading.Lock()

    def wait(part: str) -> None:
        time.sleep(0.03 if part == slow else 0)

    def read() -> NDArray[np.float32]:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return picture(10, 1, 600, 600)  # 9 tiles

    def write(_: Flow) -> None:
        nonlocal held
        wait("write")
        with lock:
            held -= 1

    def network(x: Tensor) -> Tensor:
        wait("network")
        return x

    jobs = [CanvasJob(read=read, write=write, key=number) for number in range(60)]
    for _ in engine_of(network, batch_size=8).run(jobs):
        wait("the caller")
    assert held == 0
    assert most <= 2 * (AHEAD // 9 + 1) + 6, "48 tiles on either side, and what each thread has in hand"


def test_reading_running_and_writing_overlap() -> None:
    """The third image is read while the second is in the network and the first is written: each waits for both."""
    together, calls = threading.Barrier(3, timeout=60), 0

    def job(number: int) -> CanvasJob:
        def read() -> NDArray[np.float32]:
            if number == 2:
                together.wait()
            return picture(10, 1, 64, 64)

        return CanvasJob(read=read, write=lambda _: together.wait() if number == 0 else None)

    def network(x: Tensor) -> Tensor:
        nonlocal calls
        if calls == 1:
            together.wait()
        calls += 1
        return x

    assert len(list(engine_of(network, batch_size=1).run([job(number) for number in range(4)]))) == 4
    assert calls == 4


@pytest.mark.parametrize("where", ["between results", "in the network"])
def test_whoever_leaves_early_is_not_held_up(network: FlowViT, where: str) -> None:
    """A job that is told to stop: the rest isn't read, the network stops between two layers, no thread stays."""
    before, read = threading.active_count(), []

    class Slow(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(100):
                x = layer(x)
            return x

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.05)
            return x

    layer = Layer()
    slow = Slow()
    slow.layer = layer
    image = picture(10, 1, 64, 64)
    job = CanvasJob(read=lambda: read.append(0) or image, write=lambda flow: None)  # type: ignore[func-returns-value]
    run = engine_of(network if where == "between results" else slow).run([job] * 500)
    start = time.perf_counter()
    if where == "between results":
        next(run)
        run.close()
    else:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(run)
    assert time.perf_counter() - start < 3
    assert len(read) < 200
    assert threading.active_count() == before
    assert not any(module._forward_pre_hooks for module in (slow, layer, network))


@pytest.mark.parametrize("fault", ["read", "write", "network"])
def test_a_fault_of_a_thread_or_of_the_network_ends_the_run(fault: str) -> None:
    def fail(*_: object) -> NDArray[np.float32]:
        raise OSError("No space left on device")

    image = picture(11, 1, 64, 64)
    job = CanvasJob(
        read=fail if fault == "read" else lambda: image,
        write=fail if fault == "write" else lambda flow: None,  # type: ignore[arg-type]
    )
    if fault == "network":
        with pytest.raises(RuntimeError, match="isn't finite"):
            list(engine_of(lambda x: x * torch.nan).run([job] * 3))
    else:
        with pytest.raises(OSError, match="No space left"):
            list(engine_of(lambda x: x).run([job] * 9))


def test_four_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 channels, not 4"):
        run(engine_of(lambda x: x), [picture(12, 4, 64, 64)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_a_clear_error() -> None:
    with pytest.raises(PlateflowError, match="no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_a_model_that_is_not_there_is_a_clear_error() -> None:
    with pytest.raises(PlateflowError, match="the model can't be used"):
        FlowEngine.load("no-such-model", device="cpu")
