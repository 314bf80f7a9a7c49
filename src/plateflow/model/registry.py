"""Which models there are, where their files lie, and the terms under which they may be used; without torch."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from plateflow.errors import ChannelError, ModelError

IN_CHANNELS = 3
"""Channels of a network's input: the object's first, unused ones 0."""
LOGIT_LIMIT = 30.0
"""The logits of a flow field lie between this and its negative."""
LEAST_LOGIT = -2.0
"""Bound of models that don't say one: mostly a fifth of a flow field's bytes is left (docs/performance.md).

No fingerprint has this number: another one needs another version of `infer`.
"""
UNKNOWN = "unknown: the file doesn't say"
NON_COMMERCIAL = re.compile(r"(?<![a-z])NC(?![a-z])|non.?commercial|not for commercial", re.IGNORECASE)
"""What a licence says that forbids commercial use."""
NORMALISATION = "1st and 99th percentile of a channel to 0 and 1, not clipped"
METADATA_KEY = "plateflow"
"""Key in a safetensors header under which a model's file describes itself, as JSON."""
_MAX_HEADER = 10_000_000
"""Bytes; a longer header means that the file isn't a safetensors file."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What reports, journals and fingerprints say about a model.

    Attributes:
        name: of the model; of the file if it doesn't say.
        licence: terms of use.
        channels: what each channel that it takes is, in order; an image may have fewer, never more.
        colours: whether it reads red, green and blue of stained tissue, too: dark objects on a bright background.
        diameter: px to which objects are resampled when a diameter is given; None for an encoder.
        diameters: least and greatest median diameter, px, of the images that it was trained on.
        least_logit: bound below which its cell logits mean nothing: flow fields aren't stored there.
        parent: the model that it was fine-tuned from, if any.
    """

    name: str
    path: Path
    licence: str
    citation: str
    normalisation: str = NORMALISATION
    channels: tuple[str, ...]
    colours: bool
    diameter: float | None
    diameters: tuple[float, float]
    least_logit: float = LEAST_LOGIT
    parent: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the file: the model's hash in fingerprints."""
        return hash_of(self.path)


@dataclass(frozen=True, kw_only=True)
class Card:
    """A published file.

    Attributes:
        size: bytes.
        sha256: as several public projects recorded it, independently, of their downloads.
        segments: whether it is a complete model; else it is an encoder, from which one can be trained.
    """

    file: str
    url: str
    size: int
    sha256: str
    licence: str
    citation: str
    segments: bool = True


_CELLPOSE: dict[str, Any] = {
    "licence": "CC-BY-NC (Cellpose names it for the data of the training): not for commercial use",
    "citation": "Pachitariu, Rariden, Stringer: Cellpose-SAM: superhuman generalization for cellular segmentation, "
    "bioRxiv 2025.04.28.651001",
}
PUBLISHED = {
    "cpsam": Card(
        file="cpsam",
        url="https://huggingface.co/mouseland/cellpose-sam/resolve/main/cpsam",
        size=1_233_587_898,
        sha256="e1440429eb384f95afe32bcba6510f90d518eaedc917ede549bed6804004abe2",
        **_CELLPOSE,
    ),
    "cpsam_v2": Card(
        file="cpsam_v2",
        url="https://huggingface.co/mouseland/cellpose-sam/resolve/main/cpsam_v2",
        size=1_233_586_851,
        sha256="0f1cc3f7ecdd8a037a57c6c48d9d8921391be4cbce3fa9f13c3e3a2e1253c667",
        **_CELLPOSE,
    ),
    "sam_vit_l": Card(
        file="sam_vit_l_0b3195.pth",
        url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
        size=1_249_524_607,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        licence="Apache-2.0",
        citation="Kirillov et al.: Segment Anything, ICCV 2023",
        segments=False,
    ),
}
"""Files that the user downloads or supplies; those of Cellpose keep their original names."""

PACKAGED = {name: Path(__file__).parent / "weights" / f"{name}.safetensors" for name in ("default", "fast")}
"""The models that ship, on the same data: the accurate one, and one that takes half its time."""
MODELS = Path("models")
"""Where the models of a project lie, in the folder in which `snakemake` runs: whoever works there finds them."""
TRAINED_CHANNELS = ("the one that shows the objects", "one that helps, as DNA does for whole cells")
"""Channels of models trained here that don't say: of the default model (docs/model-card.md)."""
CELLPOSE_CHANNELS = ("the one that shows the objects", "another", "another")
"""Cellpose-SAM was trained on images of one to three channels in any order, colour pictures among them."""
CELLPOSE_DIAMETER = 30.0
CELLPOSE_DIAMETERS = (7.5, 120.0)
"""px, that Cellpose's documentation (settings, "Diameter") names for Cellpose-SAM."""
TRAINED_DIAMETERS = (11.0, 50.0)
"""px, over which models trained here that don't say had the median diameter of an image spread."""
TRAINED_DIAMETER = 24.0
"""Diameter of models trained here that don't say: the geometric middle of TRAINED_DIAMETERS."""


def search_path(first: Path | None = None) -> list[Path]:
    """Folders that are searched for weights, in order; `first` is the value of `--weights-dir`."""
    named = [os.environ.get(name) for name in ("PLATEFLOW_WEIGHTS", "CELLPOSE_LOCAL_MODELS_PATH")]
    own = []
    with suppress(RuntimeError):  # nobody's home, as of a number without a name in a job without HOME
        own = [Path.home() / ".cellpose" / "models"]
    folders = [first, MODELS, *(Path(folder) for folder in named if folder), *own]
    return [folder for folder in folders if folder]


def folder_for_others(first: Path | None = None) -> Path:
    """Where weights that weren't trained in the project go: the first folder that isn't its own."""
    return next(folder for folder in search_path(first) if folder is not MODELS)


def find_weights(name_or_path: str | Path, weights_dir: Path | None = None) -> Path:
    """Return the file of a model.

    Args:
        name_or_path: `default`, `fast`, the name of a published model or of a file in one of the folders of
            `search_path` (`.safetensors` may be omitted), or the path of a weights file.
        weights_dir: a folder to search before the others.

    Raises:
        ModelError: there is no such file; the message lists where it was searched for.
    """
    name = str(name_or_path)
    if name in PACKAGED:
        return PACKAGED[name]
    files = [PUBLISHED[name].file] if name in PUBLISHED else [name, f"{name}.safetensors"]
    folders = search_path(weights_dir)
    paths = [] if name in PUBLISHED else [Path(name)]
    paths += [folder / file for folder in folders for file in files]
    with file_errors(Path(name)):
        for path in paths:
            if path.is_file():
                return path
    searched = ", ".join(map(str, folders))
    if name in PUBLISHED:
        raise unusable(name, f"its weights aren't on this machine; searched {searched}", ways_to_get(name))
    names = ", ".join([*PACKAGED, *(name for name, card in PUBLISHED.items() if card.segments)])
    raise unusable(
        name,
        f"there is no such model: neither one of {names}, nor a file, nor in {searched}",
        "`plateflow weights list` shows the models of this machine",
    )


def right_weights(name_or_path: str | Path, weights_dir: Path | None = None) -> Path:
    """Return the file of a model as `find_weights` does, but refuse one that only has the name of a published model.

    Raises:
        ModelError: there is no such file, or its size or hash isn't the published one.
    """
    path = find_weights(name_or_path, weights_dir)
    if str(name_or_path) in PUBLISHED:
        check_published(str(name_or_path), path)
    return path


def check_published(name: str, path: Path) -> None:
    """Refuse a file that isn't what was published under a name.

    Raises:
        ModelError: its size or its hash differs.
    """
    card, size = PUBLISHED[name], _size(path)
    if size == card.size and hash_of(path) == card.sha256:
        return
    actual = f"{size:,} bytes" if size != card.size else f"sha256 {hash_of(path)}"
    expected = f"{card.size:,}" if size != card.size else card.sha256
    raise unusable(
        path,
        f"it isn't the published {name!r}: it has {actual} instead of {expected}",
        f"remove it and run `plateflow weights fetch {name}`; if it is another model, give it another name",
    )


def model_spec(name_or_path: str | Path) -> ModelSpec:
    """Describe a model.

    Raises:
        ModelError: there is no such model, its file is truncated, or it isn't the file that was published.
    """
    return spec_of(right_weights(name_or_path))


def spec_of(path: Path) -> ModelSpec:
    """Describe a model from the metadata in its file; a published one from its card, under any name and path.

    Raises:
        ModelError: the file can't be read.
    """
    size = _size(path)
    for name, card in PUBLISHED.items():
        if size == card.size and hash_of(path) == card.sha256:  # only files of this size are hashed
            diameter = CELLPOSE_DIAMETER if card.segments else None
            terms = {"licence": card.licence, "citation": card.citation}
            known: dict[str, Any] = {"channels": CELLPOSE_CHANNELS, "diameters": CELLPOSE_DIAMETERS, **terms}
            return ModelSpec(name=name, path=path, colours=card.segments, diameter=diameter, **known)
    metadata = _metadata(path)
    diameter = metadata.get("diameter") or (TRAINED_DIAMETER if metadata else CELLPOSE_DIAMETER)
    diameters = metadata.get("diameters") or (TRAINED_DIAMETERS if metadata else CELLPOSE_DIAMETERS)
    return ModelSpec(
        name=metadata.get("name", path.name),
        path=path,
        licence=metadata.get("licence") or UNKNOWN,
        citation=metadata.get("citation") or UNKNOWN,
        normalisation=metadata.get("normalisation", NORMALISATION),
        channels=_channels(metadata),
        colours=metadata.get("colours", not metadata),
        diameter=float(diameter),
        diameters=(float(diameters[0]), float(diameters[1])),
        least_logit=_least_logit(metadata, path),
        parent=metadata.get("parent") or "",
    )


def _metadata(path: Path) -> dict[str, Any]:
    """What a file says about itself; a file that says nothing has Cellpose's layout, and so its conventions."""
    return read_metadata(path) if path.suffix == ".safetensors" else {}


def _channels(metadata: dict[str, Any]) -> tuple[str, ...]:
    return tuple(metadata.get("channels") or (TRAINED_CHANNELS if metadata else CELLPOSE_CHANNELS))


def least_logit(model: str | Path) -> float:
    """The bound of a model, `ModelSpec.least_logit`. No weights are hashed.

    Raises:
        ModelError: there is no such model, or its header can't be read.
    """
    return _least_logit(_header(model), model)


def _least_logit(metadata: dict[str, Any], model: str | Path) -> float:
    value = metadata.get("least_logit", LEAST_LOGIT)
    if not isinstance(value, int | float) or not abs(value) <= LOGIT_LIMIT:  # as NaN isn't, either
        raise unusable(model, f"its least_logit is {value!r}, no number within {LOGIT_LIMIT:g} of 0")
    return float(value)


def _header(model: str | Path) -> dict[str, Any]:
    """What the file of a model says about itself, by the model's name; nothing of published ones."""
    return {} if str(model) in PUBLISHED else _metadata(find_weights(model))


def check_channels(model: str | Path, channels: Sequence[str | int], *, where: str, remedy: str) -> None:
    """Refuse more channels than a model takes: it would find little, and say nothing. No weights are hashed.

    Raises:
        ChannelError: there are too many.
        ModelError: there is no such model, or its header can't be read.
    """
    metadata = _header(model)
    takes = _channels(metadata)
    if len(channels) > len(takes):
        listed = ", ".join(map(str, channels[:8])) + ", ..." * (len(channels) > 8)
        raise ChannelError(
            f"{len(channels)} channels ({listed}) are too many: "
            f"the model {metadata.get('name', str(model))!r} takes {len(takes)}",
            where=where,
            why="it takes " + "; ".join(f"{n}. {what}" for n, what in enumerate(takes, 1)),
            remedy=remedy,
        )


def licence_notice(path: Path) -> str | None:
    """The notice to show to a user of weights with a restricted licence, once; None afterwards, and for free models.

    A file beside the weights records that the notice was shown, so that only one of many jobs shows it. In a folder
    that isn't writable, every job does.
    """
    record = path.with_name(f"{path.name}.licence.txt")
    with file_errors(path):
        if record.exists():
            return None
    spec = spec_of(path)
    if not NON_COMMERCIAL.search(spec.licence):
        return None
    notice = f"Model {spec.name}: licence {spec.licence}. Cite: {spec.citation}."
    try:
        with record.open("x") as file:
            file.write(f"{notice}\nThis was shown when the model was first fetched or used here.\n")
    except FileExistsError:
        return None
    except OSError:
        pass
    return notice


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what one of our safetensors files says about itself (config, name, licence, ...); nothing for others.

    Raises:
        ModelError: the file can't be read, or its header is truncated or isn't one.
    """
    with file_errors(path), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        raw = file.read(size) if size <= _MAX_HEADER else b""
    try:
        header = json.loads(raw if len(raw) == size else b"")
        return dict(json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}")))
    except (ValueError, TypeError, AttributeError) as error:
        raise unusable(path, "it isn't a safetensors file, or is truncated", "copy it again") from error


def hash_of(path: Path) -> str:
    """The sha256 of a file, computed once per process unless its size or time changes.

    Raises:
        ModelError: the file can't be read.
    """
    with file_errors(path):
        stat = path.stat()
        return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file; size and time are arguments so that a changed file is hashed again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    with file_errors(path):
        return path.stat().st_size


def unusable(where: str | Path, why: str, remedy: str = "") -> ModelError:
    """The error for a model, or its weights file, that can't be used."""
    return ModelError("the model can't be used", where=str(where), why=why, remedy=remedy)


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system, met with a weights file, into `ModelError`."""
    try:
        yield
    except OSError as error:
        raise unusable(path, f"the file can't be read: {error}") from error


def ways_to_get(name: str) -> str:
    """How to get a published file onto a machine."""
    return (
        f"there are three ways to get them: (1) with a network, run `plateflow weights fetch {name}` and copy "
        f"the file into one of these folders; (2) download {PUBLISHED[name].url} by other means, then run `plateflow "
        f"weights add FILE --name {name}`; (3) if they lie on another disk, name their folder in PLATEFLOW_WEIGHTS, or "
        "give the file's path as the model"
    )
