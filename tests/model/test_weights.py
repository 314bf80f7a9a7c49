"""Weights files: what is written is read, what doesn't fit is refused by name, and published layouts open both ways."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from plateflow.errors import ModelError
from plateflow.model import check_model, load_model, save_model, weights
from plateflow.model.registry import hash_of
from plateflow.model.vit import VIT_L, FlowViT, FlowViTConfig, init_weights
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
    with pytest.raises(ModelError) as error:
        load_model(small)
    message = str(error.value)
    with pytest.raises(ModelError, match="lacks") as same:
        check_model(small)
    assert str(same.value) == message
    assert "lacks blocks.1.attn.qkv.weight" in message
    assert "adds blocks.2.lin1.weight" in message
    assert "cell_head.bias of shape (7,) instead of (4,)" in message


@pytest.mark.parametrize("length", [4, 200, -100])
def test_a_file_cut_short_is_refused(small: Path, length: int) -> None:
    small.write_bytes(small.read_bytes()[:length])
    with pytest.raises(ModelError, match="truncated"):
        load_model(small)


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_a_file_that_cannot_be_read_is_an_error_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """As on a file system without permission, or one that went away."""
    path = tmp_path / f"mine{suffix}"
    save_model(init_weights(FlowViT(SMALL), 0), path, name="mine")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(weights, "safe_open", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    for use in (load_model, check_model):
        with pytest.raises(ModelError, match=f"the model can't be used\\n  where: {path}\\n.*Permission denied"):
            use(path)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match="Permission denied"):
        hash_of(path)


class Mischief:
    """What makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return (Path.touch, (self.mark,))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "code-was-run"
    torch.save({"W2": Mischief(mark)}, tmp_path / "bad.pth")
    (tmp_path / "worse.pth").write_bytes(pickle.dumps(Mischief(mark)))
    torch.save(FlowViT(SMALL), tmp_path / "whole.pth")
    for name in ("bad.pth", "worse.pth", "whole.pth"):
        for use in (load_model, check_model):
            with pytest.raises(ModelError, match="can't be read as weights"):
                use(tmp_path / name)
    assert not mark.exists()
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert mark.exists(), "the file does what it is here for"


def test_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="neither a model of Plateflow nor one of Cellpose-SAM"):
        load_model(tmp_path / "other.pth")


def test_sams_own_checkpoint_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 8)}, tmp_path / "sam.pth")
    with pytest.raises(ModelError, match="plateflow weights add"):
        load_model(tmp_path / "sam.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder.cls_token": (1, 1, 32), "encoder.pos_embed": None}, r"lacks pos_embed; it adds encoder\.cls_token"),
        ({"encoder.patch_embed.proj.weight": (32, 3, 16, 16)}, r"stem\.proj\.weight of shape \(32, 3, 16, 16\)"),
        ({"encoder.patch_embed.proj.weight": ()}, "another kind"),
        ({"encoder.blocks.0.attn.rel_pos_h": (27,)}, "another kind"),
        ({"encoder.blocks.1.attn.rel_pos_h": (27, 4, 2)}, "another kind"),
        ({"encoder.blocks.0.attn.rel_pos_h": (27, 0)}, "another kind"),
    ],
)
def test_a_relative_of_the_published_network_is_refused(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], words: str
) -> None:
    """Such as Cellpose's with another encoder: it has the tensor W2 too."""
    state = published(LAYOUT)
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.zeros(shape)
    torch.save(state, tmp_path / "relative")
    with pytest.raises(ModelError, match=words):
        load_model(tmp_path / "relative")


def test_a_configuration_of_another_version_is_refused(small: Path) -> None:
    from plateflow.model.registry import METADATA_KEY

    for text, words in (('{"config": {"widht": 3}}', "another kind"), ('{"config"', "isn't a safetensors file")):
        save_file(load_file(small), small, {METADATA_KEY: text})
        with pytest.raises(ModelError, match=words):
            load_model(small)


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


def test_views_into_larger_tensors_load_as_they_are_published(tmp_path: Path) -> None:
    """Cellpose's files hold every second entry of SAM's tables, and with them the storage of all."""
    state = published(LAYOUT)
    expected = {name: state[name] for name in ("encoder.pos_embed", "encoder.patch_embed.proj.weight")}
    wide = torch.zeros(1, 64, 64, LAYOUT.width)
    wide[:, ::2, ::2] = state["encoder.pos_embed"]
    kernel = torch.zeros(LAYOUT.width, 3, 16, 16)
    kernel[:, :, ::2, ::2] = state["encoder.patch_embed.proj.weight"]
    state |= {"encoder.pos_embed": wide[:, ::2, ::2], "encoder.patch_embed.proj.weight": kernel[:, :, ::2, ::2]}
    torch.save(state, tmp_path / "cpsam_small")
    model = load_model(tmp_path / "cpsam_small")
    assert torch.equal(model.pos_embed, expected["encoder.pos_embed"])
    assert model.pos_embed.is_contiguous()
    assert torch.equal(model.stem.proj.weight, expected["encoder.patch_embed.proj.weight"])


MEASURE = """
import sys
from pathlib import Path
import torch
from plateflow.model.weights import load_model

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

before = memory("VmRSS")
model = load_model(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
for tensor in model.parameters():
    tensor.flatten()[::512].sum()  # a value of each page, so that what stays in the map counts
print(memory("VmHWM") - before, sum(tensor.nbytes for tensor in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path, suffix: str) -> None:
    """Of ViT-L's 24 blocks six: at its full size, 64 MB are a tenth of the weights in bfloat16."""
    path = tmp_path / f"six{suffix}"
    state = published(replace(VIT_L, depth=6))
    if suffix:
        save_file(state, path)
    else:
        torch.save(state, path)
    assert path.stat().st_size > 300e6
    for dtype in ("bfloat16", "float32"):
        command = [sys.executable, "-c", MEASURE, str(path), dtype]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peak, weights = map(int, output.split())
        assert 0.9 * weights <= peak <= weights + 64e6, f"{dtype}: {peak / 1e6:.0f} MB for {weights / 1e6:.0f} MB"


def test_a_published_state_dict_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    state = published(LAYOUT)
    del state["encoder.neck.2.weight"]
    torch.save(state, tmp_path / "cpsam_small")
    with pytest.raises(ModelError, match=r"lacks neck\.layers\.2\.weight"):
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
    with pytest.raises(ModelError, match="patch stem"):
        to_cellpose(init_weights(FlowViT(SMALL), 0))


def test_something_else_than_sam_is_refused(tmp_path: Path) -> None:
    torch.save({"image_encoder.neck.0.weight": torch.zeros(1)}, tmp_path / "sam.pth")
    with pytest.raises(ModelError, match=r"lacks image_encoder\.pos_embed"):
        import_sam(tmp_path / "sam.pth")


def test_float32_is_loaded_without_tf32(small: Path) -> None:
    """On CUDA torch's default has it in convolutions; the flags can be set, and are, without a device."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    load_model(small, dtype=torch.bfloat16)
    assert torch.backends.cudnn.allow_tf32
    load_model(small)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_float32_is_loaded_without_tf32_whatever_the_newer_switch_says(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")
    load_model(small)
    assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert not torch.backends.cudnn.allow_tf32, "torch refuses to tell where its two kinds of switches differ"
    torch.backends.cudnn.allow_tf32 = True  # as training does
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"
