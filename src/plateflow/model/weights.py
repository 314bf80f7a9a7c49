"""Weights files: strict loading of our own, of Cellpose's published ones, and of SAM's encoder; saving both ways.

Our own files are safetensors with the network's configuration in their metadata. Files are memory-mapped: tensors that
already have the requested type stay in the map, which all jobs on a machine share; others are converted one by one.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from plateflow.errors import ModelError
from plateflow.files import count_mapped, write_atomic
from plateflow.model.registry import (
    METADATA_KEY,
    NORMALISATION,
    TRAINED_CHANNELS,
    file_errors,
    licence_notice,
    read_metadata,
    right_weights,
    unusable,
)
from plateflow.model.vit import PATCH, VIT_L, FlowViT, FlowViTConfig, channels_last

_MAPPED_BYTES = 48 * 2**20
"""A file is mapped again after this many converted bytes: pages read count as memory of the process until then."""
_FLOW_ROWS = 2 * PATCH**2
"""Rows of the published `out` layer (192) that give dy and dx."""
_GLOBAL_BLOCKS = (5, 11, 17, 23)
"""Blocks of SAM's ViT-L trained with global attention: their tables cover distances up to 64 tokens."""
_SAM = "image_encoder."
"""Prefix of the encoder's tensors in SAM's checkpoints."""
_LAYER_NAMES = {
    "encoder.pos_embed": "pos_embed",
    "encoder.patch_embed.": "stem.",
    "encoder.blocks.": "blocks.",
    "encoder.neck.": "neck.layers.",
}


def load_model(
    name_or_path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> FlowViT:
    """Load a model for inference.

    float32 is float32 on CUDA, too: what the process computes in it from then on is, without TF32.

    Args:
        name_or_path: `default`, `cpsam`, `cpsam_v2`, or the path of a safetensors or torch file.
        dtype: to which they are converted.

    Returns:
        The network in evaluation mode, convolutions in channels-last layout.

    Raises:
        ModelError: there is no such file, it can't be read, or tensors are missing, additional or of another shape; the
            message names them.
    """
    if dtype == torch.float32:  # torch allows TF32 in convolutions by default: 8e-3 from float32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # torch's newer switches, which the former leave to `torch.backends.fp32_precision`; with all of them both kinds
        # can still be read and set
        cudnn: Any = torch.backends.cudnn
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    path = right_weights(name_or_path)
    model, tensors = _prepare(path, stays=dtype if torch.device(device).type == "cpu" else None)
    state = {name: tensor.to(device, dtype).contiguous() for name, tensor in tensors}
    model.load_state_dict(state, assign=True)
    if notice := licence_notice(path):
        logging.getLogger("plateflow").warning(notice)
    return channels_last(model).eval().requires_grad_(False)


def check_model(name_or_path: str | Path, weights_dir: Path | None = None) -> Path:
    """Check a model as `load_model` does, without reading its weights, and return its file.

    Raises:
        ModelError: as in `load_model`.
    """
    path = right_weights(name_or_path, weights_dir)
    _prepare(path)
    return path


def _prepare(path: Path, *, stays: torch.dtype | None = None) -> tuple[FlowViT, Iterable[tuple[str, Tensor]]]:
    """The network of a file, without memory, and an iterator over its tensors, whose names and shapes are checked."""
    metadata, names, read = _open(path)
    shapes = {name.removeprefix("module."): read(name).shape for name in names}
    cellpose = "config" not in metadata
    if cellpose and "W2" not in shapes:
        sam = any(name.startswith(_SAM) for name in shapes)
        raise unusable(
            path,
            "it holds neither a model of Plateflow nor one of Cellpose-SAM (the tensor W2 is missing)"
            + "; it is SAM's checkpoint, an encoder" * sam,
            "`plateflow weights add` turns it into a model that can be trained" if sam else "",
        )

    def tensors(read: Callable[[str], Tensor]) -> Iterable[tuple[str, Tensor]]:
        return from_cellpose(names, read, config) if cellpose else ((name, read(name)) for name in names)

    with _shape_errors(path):
        config = _published_config(shapes) if cellpose else FlowViTConfig(**metadata["config"])
        with torch.device("meta"):
            model = FlowViT(config)
        # only shapes are needed, but resampling tensors without memory costs torch a second and 60 MB of imports
        state = dict(tensors(lambda name: read(name) if "rel_pos" in name else read(name).to("meta")))
    _check(path, model, state)
    return model, tensors(_remapping(path, read, stays))


def _remapping(path: Path, read: Callable[[str], Tensor], stays: torch.dtype | None) -> Callable[[str], Tensor]:
    """Read tensors through a map that is renewed after every `_MAPPED_BYTES` read of tensors that don't stay in it."""
    seen = 0

    def read_next(name: str) -> Tensor:
        nonlocal read, seen
        if seen > _MAPPED_BYTES:
            read, seen = _open(path)[2], 0
        tensor = read(name)
        seen += 0 if tensor.dtype == stays else tensor.nbytes
        return tensor

    return read_next


def save_model(
    model: FlowViT,
    path: Path,
    *,
    name: str,
    licence: str = "",
    citation: str = "",
    channels: Sequence[str] = TRAINED_CHANNELS,
    colours: bool = False,
    diameter: float | None = None,
    diameters: tuple[float, float] | None = None,
    parent: str = "",
    data: str = "",
    recipe: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a model as safetensors with its configuration, by rename.

    Args:
        path: of the file, ending in `.safetensors`.
        name: of the model in reports.
        channels: what each channel that it takes is, in order.
        colours: whether it reads red, green and blue of stained tissue, too.
        diameter: object diameter (px) to which images are resampled; None if the model takes any.
        diameters: least and greatest median diameter, px, of the images that it was trained on.
        parent: name and hash of the model whose training it went on from.
        data: digest of the images and labels that it was trained on.
        recipe: of its training.
        dtype: of the tensors on disk.
    """
    metadata = {
        "config": asdict(model.config),
        "name": name,
        "licence": licence,
        "citation": citation,
        "normalisation": NORMALISATION,
        "channels": list(channels),
        "colours": colours,
        "diameter": diameter,
        "diameters": diameters,
    }
    metadata |= {name: told for name, told in (("parent", parent), ("data", data), ("recipe", recipe)) if told}
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()}
    # a single entry: safetensors writes several in arbitrary order, and equal models should give equal files
    entry = {METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    write_atomic(path, save(tensors, entry), stamped=False)


def from_cellpose(
    names: list[str], read: Callable[[str], Tensor], config: FlowViTConfig
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a published state dict under the names used here.

    The rows of `out` go to the two heads. Relative-position tables are resampled once, to the distances of the grid.
    `W2` (a pixel shuffle written as a convolution) and the diameters are no weights of the network and are skipped.
    """
    for name in names:
        plain = name.removeprefix("module.")
        if plain in {"W2", "diam_labels", "diam_mean"}:
            continue
        tensor = read(name)
        if plain in {"out.weight", "out.bias"}:
            kind = plain.removeprefix("out.")
            yield f"flow_head.{kind}", tensor[:_FLOW_ROWS].clone()
            yield f"cell_head.{kind}", tensor[_FLOW_ROWS:].clone()
        elif "rel_pos" in plain:
            yield _our_name(plain), resample_table(tensor, 2 * config.rel_pos - 1)
        else:
            yield _our_name(plain), tensor


def to_cellpose(model: FlowViT) -> dict[str, Tensor]:
    """Return a state dict that Cellpose opens, float32.

    Cellpose stores tables of 27 or 127 relative positions and resamples them itself. They are chosen so that its
    resampling gives ours: exactly for 127, and for 27 in the least-squares sense (exactly, unless training moved them).

    Raises:
        ModelError: the model doesn't have the patch stem and the neck of the published ones.
    """
    if model.config.stem != "patch" or model.config.neck != "sam":
        raise ModelError(
            "the model can't be saved in Cellpose's format", why="only models with the patch stem and SAM's neck can be"
        )
    state = {key: value.detach().float().cpu() for key, value in model.state_dict().items()}
    out: dict[str, Tensor] = {
        "diam_labels": torch.tensor([30.0]),
        "diam_mean": torch.tensor([30.0]),
        "W2": torch.eye(3 * PATCH**2).reshape(3 * PATCH**2, 3, PATCH, PATCH),
    }
    for kind in ("weight", "bias"):
        out[f"out.{kind}"] = torch.cat([state.pop(f"flow_head.{kind}"), state.pop(f"cell_head.{kind}")])
    for name, value in state.items():
        if "rel_pos" in name:
            rows = 127 if int(name.split(".")[1]) in _GLOBAL_BLOCKS else 27
            unit = resample_table(torch.eye(rows, dtype=torch.float64), value.shape[0])  # the resampling as a matrix
            out[_cellpose_name(name)] = (torch.linalg.pinv(unit) @ value.double()).float()
        else:
            out[_cellpose_name(name)] = value
    return out


def load_start(name_or_path: str | Path) -> FlowViT:
    """Load weights to train on: those of a model, or SAM's encoder with heads yet to be trained.

    Raises:
        ModelError: as `load_model` and `import_sam` do.
    """
    path = right_weights(name_or_path)
    return import_sam(path) if is_sam(path) else load_model(path)


def start_config(path: Path) -> FlowViTConfig:
    """The shape of what `load_start` makes of a file; no weights are read.

    Raises:
        ModelError: as `load_start`.
    """
    return _sam_encoder(path)[1] if is_sam(path) else _prepare(path)[0].config


def is_sam(path: Path) -> bool:
    """Whether a file is SAM's checkpoint (of any size).

    Raises:
        ModelError: it can't be read as weights.
    """
    return any(name.startswith(_SAM) for name in _open(path)[1])


def import_sam(path: Path) -> FlowViT:
    """Make a ViT-L from SAM's `sam_vit_l` checkpoint, as Cellpose-SAM does; the heads are random and small.

    Patches of 16 px become patches of 8: every second weight of the kernel, every second entry of the position table.

    Raises:
        ModelError: the checkpoint can't be read or isn't SAM's ViT-L.
    """
    encoder, config, read = _sam_encoder(path)
    with _shape_errors(path):
        state = dict(from_cellpose(list(encoder), lambda name: read(encoder[name]).float(), config))
        state["stem.proj.weight"] = state["stem.proj.weight"][:, :, ::2, ::2].contiguous()
        state["pos_embed"] = state["pos_embed"][:, ::2, ::2].contiguous()
        with torch.device("meta"):
            model = FlowViT(config)
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if key.startswith(("flow_head", "cell_head")):
            state[key] = 0.01 * torch.randn(value.shape, generator=generator)
    _check(path, model, state)
    model.load_state_dict(state, assign=True)
    return model


def _sam_encoder(path: Path) -> tuple[dict[str, str], FlowViTConfig, Callable[[str], Tensor]]:
    """SAM's encoder in a file: its tensors by Cellpose's names, the network's shape, and a function that reads one."""
    _, names, read = _open(path)
    encoder = {f"encoder.{name.removeprefix(_SAM)}": name for name in names if name.startswith(_SAM)}
    for needed in ("encoder.pos_embed", "encoder.patch_embed.proj.weight"):
        if needed not in encoder:
            raise unusable(path, f"it isn't SAM's checkpoint: it lacks {_SAM}{needed.removeprefix('encoder.')}")
    with _shape_errors(path):
        return encoder, _published_config({name: read(file).shape for name, file in encoder.items()}), read


def resample_table(table: Tensor, rows: int) -> Tensor:
    """Linearly resample a table of relative positions (rows, dim) as ViTDet does: ends of the outer rows aligned."""
    if table.ndim != 2:
        raise ValueError(f"a table of relative positions has two axes, not the shape {tuple(table.shape)}")
    if table.shape[0] == rows:
        return table
    dtype = torch.float64 if table.dtype == torch.float64 else torch.float32
    return F.interpolate(table.to(dtype).T[None], size=rows, mode="linear")[0].T.contiguous()


def _our_name(name: str) -> str:
    for theirs, ours in _LAYER_NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs).replace("mlp.", "")
    return name


def _cellpose_name(name: str) -> str:
    for theirs, ours in _LAYER_NAMES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours).replace("lin1", "mlp.lin1").replace("lin2", "mlp.lin2")
    return name


def _published_config(shapes: Mapping[str, torch.Size]) -> FlowViTConfig:
    """ViT-L in the size of the file (smaller ones are for tests); `_check` finds what doesn't fit."""
    blocks = {name.split(".")[2] for name in shapes if name.startswith("encoder.blocks.")}
    width = shapes.get("encoder.patch_embed.proj.weight", (VIT_L.width,))[0]
    dim = shapes.get("encoder.blocks.0.attn.rel_pos_h", (0, VIT_L.width // VIT_L.heads))[1]
    neck_width = shapes.get("encoder.neck.0.weight", (VIT_L.neck_width,))[0]
    return replace(VIT_L, depth=len(blocks), width=width, heads=width // dim, neck_width=neck_width)


def _open(path: Path) -> tuple[dict[str, Any], list[str], Callable[[str], Tensor]]:
    """Map a weights file: its metadata, the names of its tensors, and a function that reads one."""
    unreadable = unusable(
        path, "it can't be read as weights: it is truncated, or holds something other than tensors", "copy it again"
    )
    with file_errors(path):
        if path.suffix == ".safetensors":
            try:
                file = safe_open(path, framework="pt")
            except SafetensorError as error:
                raise unreadable from error
            return read_metadata(path), list(file.keys()), _counted(file.get_tensor)
        try:
            state: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch raises many kinds for files that aren't its own
            raise unreadable from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise unreadable
    return {}, list(state), _counted(state.__getitem__)


def _counted(read: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
    """The same, and what it reads of a mapped file is counted."""

    def counted(name: str) -> Tensor:
        tensor = read(name)
        count_mapped(read=tensor.nbytes)
        return tensor

    return counted


@contextmanager
def _shape_errors(path: Path) -> Iterator[None]:
    """Turn what a network or a resampling of unfitting shapes raises into `ModelError`."""
    try:
        yield
    except (TypeError, ValueError, IndexError, ArithmeticError, RuntimeError) as error:
        raise unusable(path, f"it describes another kind of network: {error}") from error


def _check(path: Path, model: FlowViT, state: Mapping[str, Tensor]) -> None:
    """Refuse a state dict that isn't the model's, naming the differences."""
    wanted = model.state_dict()
    misshapen = [
        f"{key} of shape {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    differences = {
        "lacks": sorted(wanted.keys() - state.keys()),
        "adds": sorted(state.keys() - wanted.keys()),
        "has": misshapen,
    }
    faults = [
        f"it {verb} {', '.join(items[:8])}" + (f" and {len(items) - 8} more" if len(items) > 8 else "")
        for verb, items in differences.items()
        if items
    ]
    if faults:
        raise unusable(path, f"it isn't a model of this kind: {'; '.join(faults)}")
