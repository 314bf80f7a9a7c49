"""The engine with small random networks: same bits, blending, batches, blank tiles, threads."""

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plateflow.config import PlateflowError
from plateflow.model.vit import FlowViT, FlowViTConfig, init_weights
from plateflow.segment.engine import AHEAD, BEHIND, LARGE_PX, FlowEngine, Request, choose_device
from plateflow.segment.tiles import FRAME, TILE, ramp, tile_plan

Flow = NDArray[np.float16]


@pytest.fixture(scope="module")
def network() -> FlowViT:
    config = FlowViTConfig(width=32, depth=2, heads=2, neck_width=16)
    model = init_weights(FlowViT(config), seed=1)
    for name, parameter in model.named_parameters():
        if name.startswith(("flow_head", "cell_head")):
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    return model.eval()


def engine_of(network, batch_size: int = 4) -> FlowEngine:
    return FlowEngine(network, device=torch.device("cpu"), dtype=torch.float32, batch_size=batch_size)


def run(engine: FlowEngine, images: list[NDArray[np.float32]], *, scale: float = 1.0) -> list[Flow]:
    flows: list[Flow] = []
    requests = [
        Request(read=lambda image=image: image, write=flows.append, scale=scale, key=number)
        for number, image in enumerate(images)
    ]
    assert [result.key for result in engine.run(requests)] == list(range(len(images)))
    return flows


def picture(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


def test_a_tile_has_the_same_bits_at_any_place_with_any_companions(network: FlowViT) -> None:
    wanted = picture(0, 2, 256, 256)
    alone = run(engine_of(network), [wanted])[0]
    assert np.abs(alone.astype(np.float32)).max() > 0.1
    for before in range(1, 5):
        others = [picture(seed, 2, 256, 256) for seed in range(1, 7)]
        flows = run(engine_of(network), [*others[:before], wanted, *others[before:]])
        assert np.array_equal(flows[before].view(np.uint16), alone.view(np.uint16))


def test_a_canvas_has_the_same_bits_with_any_companions(network: FlowViT) -> None:
    wanted = picture(0, 1, 300, 520)
    alone = run(engine_of(network), [wanted])[0]
    pooled = run(engine_of(network), [picture(1, 3, 90, 40), wanted, picture(2, 1, 256, 300)])[1]
    assert np.array_equal(pooled.view(np.uint16), alone.view(np.uint16))


def test_a_large_canvas_has_the_same_bits(network: FlowViT) -> None:
    images = [picture(seed, 1, 300, 300) for seed in range(3)]
    flows: list[Flow] = []
    requests = [Request(read=lambda image=image: image, write=flows.append, pixels=LARGE_PX + 1) for image in images]
    list(engine_of(network).run(requests))
    for flow, expected in zip(flows, run(engine_of(network), images), strict=True):
        assert np.array_equal(flow.view(np.uint16), expected.view(np.uint16))


def test_blending_is_the_weighted_mean_of_the_tiles(network: FlowViT) -> None:
    image = picture(3, 3, 400, 500)
    weight = np.outer(ramp(), ramp())
    framed = np.pad(image, ((0, 0), (FRAME, FRAME), (FRAME, FRAME)))
    total, weights = np.zeros(framed.shape), np.zeros(framed.shape[1:])
    with torch.inference_mode():
        for y, x in tile_plan(framed.shape[1:]):
            tile = torch.from_numpy(framed[:, y : y + TILE, x : x + TILE])[None]
            total[:, y : y + TILE, x : x + TILE] += weight * network(tile)[0].double().numpy()
            weights[y : y + TILE, x : x + TILE] += weight
    expected = (total / weights)[:, FRAME:-FRAME, FRAME:-FRAME]
    got = run(engine_of(network), [image])[0]
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
    request = Request(read=lambda: image, write=flows.append)
    (result,) = engine_of(network).run([request])
    assert (result.tiles, result.skipped) == (5, 3)
    assert sum(calls) == 2
    assert (flows[0][:2, :, 500:] == 0).all()
    assert (flows[0][2, :, 500:] == -30).all()
    assert (flows[0][2, :, :190] == 1).all()

    blank = run(engine_of(network), [np.zeros((1, 64, 64), np.float32), picture(8, 1, 64, 64)])
    assert (blank[0][2] == -30).all()
    assert (blank[1][2] == 1).all()


def test_too_little_memory_halves_the_batch_and_goes_on(network: FlowViT, capsys: pytest.CaptureFixture[str]) -> None:
    shapes: list[int] = []

    def small_device(x: Tensor) -> Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        shapes.append(len(x))
        return network(x)

    images = [picture(seed, 1, 300, 300) for seed in range(2)]
    engine = engine_of(small_device, batch_size=8)
    flows = run(engine, images)
    assert engine.info["batch"] == 2
    assert set(shapes) == {2}
    assert "batches of 2" in capsys.readouterr().out
    for flow, expected in zip(flows, run(engine_of(network, batch_size=2), images), strict=True):
        assert np.array_equal(flow.view(np.uint16), expected.view(np.uint16))


def test_other_errors_of_the_device_are_not_hidden() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(engine_of(broken), [picture(9, 1, 30, 30)])


@pytest.mark.parametrize("large", [False, True])
def test_memory_is_bounded_by_few_canvases(large: bool) -> None:
    """However slow reading or writing is, only a few canvases are read and not yet written."""
    held, most = 0, 0
    lock = threading.Lock()

    def read() -> NDArray[np.float32]:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return picture(10, 1, 256, 256)

    def write(_: Flow) -> None:
        nonlocal held
        threading.Event().wait(0.01)
        with lock:
            held -= 1

    pixels = LARGE_PX + 1 if large else 0
    requests = [Request(read=read, write=write, key=number, pixels=pixels) for number in range(30)]
    batch_size = 2
    assert len(list(engine_of(lambda x: x, batch_size=batch_size).run(requests))) == 30
    assert held == 0
    # large ones: one waits, one is in work, one is written
    assert most <= (3 if large else AHEAD + batch_size + BEHIND)


@pytest.mark.parametrize("fault", ["read", "write", "network"])
def test_a_fault_of_a_thread_or_of_the_network_ends_the_run(fault: str) -> None:
    def fail(*_: object) -> NDArray[np.float32]:
        raise OSError("No space left on device")

    image = picture(11, 1, 64, 64)
    request = Request(
        read=fail if fault == "read" else lambda: image,
        write=fail if fault == "write" else lambda flow: None,  # type: ignore[arg-type]
    )
    if fault == "network":
        with pytest.raises(RuntimeError, match="no numbers"):
            list(engine_of(lambda x: x * torch.nan).run([request] * 3))
    else:
        with pytest.raises(OSError, match="No space left"):
            list(engine_of(lambda x: x).run([request] * 9))


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
