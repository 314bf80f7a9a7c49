"""Weights files: what is written is read, what doesn't fit is refused by name, and published layouts open both ways."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from plateflow.model import load_model, save_model
from plateflow.model.vit import FlowViT, FlowViTConfig, init_weights
from plateflow.model.weights import import_sam, resample_table, to_cellpose

SMALL = FlowViTConfig(width=32, depth=2, heads=2, neck_width=16)
# the published layout, small; blocks 0 to 4 have 27 rows of relative positions, block 5 has 127
LAYOUT = FlowViTConfig(
    width=32, depth=6, heads=2, neck_width=16, stem="patch", neck="sam", grid=32, rel_pos=32, local_conv=False
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_model(init_weights(FlowViT(SMALL), 0), path, name="small", dtype=torch.float32)
    return path


def test_a_saved_model_is_loaded_bit_for_bit(small: Path) -> None:
    model = init_weights(FlowViT(SMALL), 0).eval()
    x = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    loaded = load_model(small)
    assert loaded.config == SMALL
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    with torch.inference_mode():
        torch.testing.assert_close(model(x), loaded(x))


def test_half_precision_on_disk_is_loaded_in_the_type_asked_for(tmp_path: Path) -> None:
    save_model(init_weights(FlowViT(SMALL), 0), tmp_path / "half.safetensors", name="half")
    assert load_file(tmp_path / "half.safetensors")["flow_head.weight"].dtype == torch.float16
    assert {p.dtype for p in load_model(tmp_path / "half.safetensors").parameters()} == {torch.float32}
    model = load_model(tmp_path / "half.safetensors", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def rewrite(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    """Change the tensors of a file and keep its metadata."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


def test_missing_extra_and_misshapen_tensors_are_named(small: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["blocks.1.attn.qkv.weight"]
        tensors["blocks.2.lin1.weight"] = torch.zeros(3)
        tensors["cell_head.bias"] = torch.zeros(7)

    rewrite(small, change)
    with pytest.raises(ValueError) as error:
        load_model(small)
    message = str(error.value)
    assert "lacks blocks.1.attn.qkv.weight" in message
    assert "adds blocks.2.lin1.weight" in message
    assert "cell_head.bias of shape (7,) instead of (4,)" in message


@pytest.mark.parametrize("length", [4, 200, -100])
def test_a_file_cut_short_is_refused(small: Path, length: int) -> None:
    small.write_bytes(small.read_bytes()[:length])
    with pytest.raises(ValueError, match="cut short"):
        load_model(small)


class Mischief:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code in a pickle was run",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"W2": Mischief()}, tmp_path / "bad.pth")
    (tmp_path / "worse.pth").write_bytes(pickle.dumps(Mischief()))
    for name in ("bad.pth", "worse.pth"):
        with pytest.raises(ValueError, match="can't be read as weights"):
            load_model(tmp_path / name)
    assert "was run" not in capsys.readouterr().out


def test_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="neither a model of Plateflow nor one of Cellpose-SAM"):
        load_model(tmp_path / "other.pth")


def published(config: FlowViTConfig) -> dict[str, torch.Tensor]:
    """Random tensors under the names and shapes of section 2 of the reference, in a smaller size."""
    generator = torch.Generator().manual_seed(0)
    width, dim, neck = config.width, config.width // config.heads, config.neck_width
    shapes: dict[str, tuple[int, ...]] = {
        "diam_labels": (1,),
        "diam_mean": (1,),
        "W2": (192, 3, 8, 8),
        "encoder.pos_embed": (1, 32, 32, width),
        "encoder.patch_embed.proj.weight": (width, 3, 8, 8),
        "encoder.patch_embed.proj.bias": (width,),
        "encoder.neck.0.weight": (neck, width, 1, 1),
        "encoder.neck.1.weight": (neck,),
        "encoder.neck.1.bias": (neck,),
        "encoder.neck.2.weight": (neck, neck, 3, 3),
        "encoder.neck.3.weight": (neck,),
        "encoder.neck.3.bias": (neck,),
        "out.weight": (192, neck, 1, 1),
        "out.bias": (192,),
    }
    for i in range(config.depth):
        block = f"encoder.blocks.{i}."
        shapes |= {f"{block}{n}.{k}": (width,) for n in ("norm1", "norm2") for k in ("weight", "bias")}
        shapes |= {f"{block}attn.qkv.weight": (3 * width, width), f"{block}attn.qkv.bias": (3 * width,)}
        shapes |= {f"{block}attn.proj.weight": (width, width), f"{block}attn.proj.bias": (width,)}
        rows = 127 if i == 5 else 27
        shapes |= {f"{block}attn.rel_pos_{a}": (rows, dim) for a in "hw"}
        shapes |= {f"{block}mlp.lin1.weight": (4 * width, width), f"{block}mlp.lin1.bias": (4 * width,)}
        shapes |= {f"{block}mlp.lin2.weight": (width, 4 * width), f"{block}mlp.lin2.bias": (width,)}
    state = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state["W2"] = torch.eye(192).reshape(192, 3, 8, 8)
    return state


def test_the_published_layout_has_the_published_size() -> None:
    from plateflow.model.vit import VIT_L

    with torch.device("meta"):
        model = FlowViT(VIT_L)
    # Resampled tables have 63 rows in all blocks; the published ones 27 in twenty and 127 in four.
    rows = 24 * 2 * 63 * 64 - (20 * 27 + 4 * 127) * 2 * 64
    frozen = 192 * 3 * 64 + 2  # W2 and the two diameters, which are no weights here
    assert sum(p.numel() for p in model.parameters()) - rows + frozen == 304_628_930


def test_a_published_state_dict_opens_and_gives_what_its_layers_say(tmp_path: Path) -> None:
    state = published(LAYOUT)
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "cpsam_small")
    model = load_model(tmp_path / "cpsam_small")
    assert model.config == LAYOUT
    assert torch.equal(model.blocks[1].lin1.weight, state["encoder.blocks.1.mlp.lin1.weight"])
    # The heads are slices of `out`, and the pixel shuffle is the convolution with W2.
    features = torch.randn(1, LAYOUT.neck_width, 4, 4)
    out = torch.nn.functional.conv2d(features, state["out.weight"], state["out.bias"])
    expected = torch.nn.functional.conv_transpose2d(out, state["W2"], stride=8)
    both = torch.cat([model.flow_head(features), model.cell_head(features)], 1)
    torch.testing.assert_close(torch.nn.functional.pixel_shuffle(both, 8), expected)


def test_a_published_state_dict_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    state = published(LAYOUT)
    del state["encoder.neck.2.weight"]
    torch.save(state, tmp_path / "cpsam_small")
    with pytest.raises(ValueError, match=r"lacks neck\.layers\.2\.weight"):
        load_model(tmp_path / "cpsam_small")


def test_published_weights_come_back_as_they_went_in(tmp_path: Path) -> None:
    state = published(LAYOUT)
    torch.save(state, tmp_path / "cpsam_small")
    back = to_cellpose(load_model(tmp_path / "cpsam_small"))
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}
    for name, tensor in state.items():
        if name.startswith("diam"):
            continue
        if "rel_pos" in name:  # the tables give the same resampled tables, which is all the network sees of them
            tensor, back[name] = resample_table(tensor, 63), resample_table(back[name], 63)  # noqa: PLW2901
        torch.testing.assert_close(back[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_the_small_model_has_no_published_form() -> None:
    with pytest.raises(ValueError, match="patch stem"):
        to_cellpose(init_weights(FlowViT(SMALL), 0))


def test_something_else_than_sam_is_refused(tmp_path: Path) -> None:
    torch.save({"image_encoder.neck.0.weight": torch.zeros(1)}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=r"lacks image_encoder\.pos_embed"):
        import_sam(tmp_path / "sam.pth")
