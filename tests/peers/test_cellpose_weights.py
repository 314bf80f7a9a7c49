"""Weights go both ways between here and Cellpose 4.2.1.1, and from SAM: its own code opens the files, in a small size.

Runs in an environment of its own, because Cellpose doesn't live with this project's other dependencies.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch

models = pytest.importorskip("cellpose.models", reason="Cellpose isn't installed: make peers")
peer_vit = pytest.importorskip("cellpose.vit")
build_sam = pytest.importorskip("segment_anything.build_sam")

from plateflow.model.vit import VIT_L, FlowViT, FlowViTConfig, init_weights  # noqa: E402
from plateflow.model.weights import from_cellpose, import_sam, load_model, to_cellpose  # noqa: E402

CONFIG = FlowViTConfig(**{**vars(VIT_L), "width": 128, "heads": 2, "depth": 6})
"""Published blocks 0 to 4 have relative positions for windows, block 5 for the whole grid."""


def random_sam() -> torch.nn.Module:
    """SAM with an encoder of the size above; all its tensors random, for SAM's own start is zero where it matters."""
    sam = build_sam._build_sam(
        encoder_embed_dim=CONFIG.width,
        encoder_depth=CONFIG.depth,
        encoder_num_heads=CONFIG.heads,
        encoder_global_attn_indexes=[5],
    )
    generator = torch.Generator().manual_seed(1)
    for tensor in sam.image_encoder.parameters():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    return sam


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """What Cellpose takes for SAM's ViT-L."""
    made = random_sam()
    monkeypatch.setitem(peer_vit.sam_model_registry, "vit_l", lambda checkpoint: deepcopy(made))
    return made


def output(network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        return network(torch.randn(2, 3, 256, 256, generator=generator))


def peer_output(net: torch.nn.Module) -> torch.Tensor:
    net.eval()
    return output(lambda x: net(x)[0])


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def peer_opens(path: Path) -> torch.nn.Module:
    """The network as `CellposeModel` loads it; unlike Cellpose, with no tensor too many, too few or left as it was."""
    net = models.CellposeModel(pretrained_model=str(path), use_bfloat16=False, device=torch.device("cpu")).net
    state = torch.load(path, weights_only=True)
    found = net.state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(state[name], found[name]) for name in state)
    return net


def random_model() -> FlowViT:
    model = init_weights(FlowViT(CONFIG), 3)
    generator = torch.Generator().manual_seed(4)
    for tensor in model.parameters():
        tensor.data += 0.05 * torch.randn(tensor.shape, generator=generator)
    return model.eval()


def test_cellpose_opens_what_was_trained_here(sam: torch.nn.Module, tmp_path: Path) -> None:
    """Its tables know 27 distances, not 63: what training here added between these is lost, and told apart below."""
    trained = random_model()
    torch.save(to_cellpose(trained), tmp_path / "ours")
    peer = peer_output(peer_opens(tmp_path / "ours"))
    assert distance(output(load_model(tmp_path / "ours")), peer) < 1e-5
    # A model whose tables Cellpose's can hold, as those that come from it, is the same before and after.
    torch.save(to_cellpose(load_model(tmp_path / "ours")), tmp_path / "again")
    assert distance(peer_output(peer_opens(tmp_path / "again")), peer) < 1e-5


def test_what_cellpose_saves_opens_here(sam: torch.nn.Module, tmp_path: Path) -> None:
    """Its file holds views into SAM's larger tensors."""
    net = peer_vit.CPSAM()
    net.save_model(tmp_path / "cpsam")
    values = sum(tensor.numel() for tensor in net.state_dict().values())
    assert (tmp_path / "cpsam").stat().st_size > 4 * values + 1e6
    assert distance(output(load_model(tmp_path / "cpsam")), peer_output(net)) < 1e-5


def test_sams_encoder_is_taken_over_as_cellpose_does(sam: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(sam.state_dict(), tmp_path / "sam_vit_l.pth")
    ours = import_sam(tmp_path / "sam_vit_l.pth").eval()
    assert ours.config == CONFIG
    assert all(tensor.requires_grad for tensor in ours.parameters())
    bias = sam.image_encoder.patch_embed.proj.bias.data
    peer = peer_vit.CPSAM()  # resamples the encoder of the SAM above; its output layer is random
    peer.encoder.patch_embed.proj.bias.data = bias  # which it leaves random; here SAM's is kept
    for kind in ("weight", "bias"):
        flow, cell = getattr(peer.out, kind).data.split([128, 64])
        getattr(ours.flow_head, kind).data = flow
        getattr(ours.cell_head, kind).data = cell
    assert distance(output(ours), peer_output(peer)) < 1e-5


def test_sams_vit_l_at_its_full_size_has_the_expected_tensors() -> None:
    with torch.device("meta"):
        encoder = build_sam.build_sam_vit_l().image_encoder.state_dict()
        wanted = FlowViT(VIT_L).state_dict()
    assert encoder["pos_embed"].shape == (1, 64, 64, 1024)
    found = dict(from_cellpose([f"encoder.{name}" for name in encoder], lambda name: encoder[name[8:]], VIT_L))
    assert wanted.keys() - found.keys() == {
        f"{head}_head.{kind}" for head in ("flow", "cell") for kind in ("weight", "bias")
    }
    for name in found.keys() - {"pos_embed", "stem.proj.weight"}:
        assert found[name].shape == wanted[name].shape
