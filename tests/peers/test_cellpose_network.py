"""The network and the peer's tiling beside Cellpose 4.2.1.1 on the same random weights, at reduced depth.

`python bench/inference.py --cases parity` does the same with ViT-L.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

core = pytest.importorskip("cellpose.core", reason="Cellpose isn't installed: make test")

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from cellpose_tiles import CellposeTiling  # noqa: E402
from inference_cases import cellpose_network, draw_field  # noqa: E402

from plateflow.model import load_model  # noqa: E402
from plateflow.segment.engine import CanvasJob  # noqa: E402
from plateflow.segment.image import scale_intensities  # noqa: E402


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Cellpose's network and ours, float32."""
    path = tmp_path_factory.mktemp("weights") / "small"
    peer = cellpose_network(path, size="small")
    return peer, load_model(path), path


def distance(a, b):
    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def tiles():
    field = scale_intensities(draw_field(512)[None])[0]
    return np.stack([np.stack([field[y : y + 256, x : x + 256]] * 3) for y in (0, 200) for x in (0, 250)])


@torch.inference_mode()
def test_output_in_float32(networks, tiles):
    peer, ours, _ = networks
    x = torch.from_numpy(tiles)
    expected = peer(x)[0].numpy()
    found = distance(ours(x).numpy(), expected)
    print(f"float32: {found:.2e}")
    assert expected.std() > 0.1
    assert found <= 1e-5


@torch.inference_mode()
def test_in_bfloat16_no_further_from_float32_than_the_peer(networks, tiles):
    peer, _, path = networks
    x = torch.from_numpy(tiles)
    exact = peer(x)[0].numpy()
    half = x.bfloat16()
    peers = distance(peer.bfloat16()(half)[0].float().numpy(), exact)
    peer.float().load_state_dict(torch.load(path, weights_only=True))
    ours = distance(load_model(path, dtype=torch.bfloat16)(half).float().numpy(), exact)
    print(f"bfloat16: ours {ours:.2e}, the peer's {peers:.2e}")
    assert ours <= 1.2 * peers


class BeforeRounding(CellposeTiling):
    """Keeps flow fields as they are before they are rounded to float16, which alone makes 1.7e-4."""

    def _finish(self, total, canvas):
        self.flow = super()._finish(total, canvas)
        return self.flow


@pytest.mark.parametrize(
    ("edge", "augment", "tiles"), [(1080, False, 36), (300, True, 9), (200, False, 1), (250, False, 4)]
)
def test_flow_fields_with_the_peers_tiling(networks, edge, augment, tiles):
    peer, ours, _ = networks
    pixels = np.repeat(scale_intensities(draw_field(edge)[None]), 3, axis=0)
    expected, _ = core.run_net(peer, pixels.transpose(1, 2, 0)[None], bsize=256, augment=augment)
    engine = BeforeRounding(ours, device=torch.device("cpu"), dtype=torch.float32, batch_size=4, augment=augment)
    flows = []
    (result,) = engine.run([CanvasJob(read=lambda: pixels, write=flows.append)])
    assert result.tiles == tiles
    expected = expected[0].transpose(2, 0, 1)
    found = distance(engine.flow.numpy(), expected)
    print(f"{edge} px: {found:.2e} before rounding, {distance(flows[0], expected):.2e} after")
    assert found <= 1e-4
