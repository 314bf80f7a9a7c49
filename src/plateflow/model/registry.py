"""Which models there are, where their files lie, and under which terms they may be used; without torch."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

UNKNOWN = "unknown: the file doesn't say"
NORMALISATION = "1st and 99th percentile of a channel to 0 and 1, not clipped"
METADATA_KEY = "plateflow"
"""Of the entry in a safetensors header that holds, as JSON, what a model's file says of itself."""
# A header longer than this is no header: the file isn't what its name says.
_MAX_HEADER = 10_000_000


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a report, a journal and a fingerprint say of a model."""

    name: str
    path: Path
    sha256: str
    """Of the file: the model's hash in fingerprints."""
    licence: str
    citation: str
    normalisation: str
    diameter: float | None
    """Diameter (px) to which images are resampled when a diameter is given; None: the model takes any size as it is."""


@dataclass(frozen=True, kw_only=True)
class _Card:
    file: str
    licence: str
    citation: str
    diameter: float | None


_PUBLISHED_LICENCE = "CC-BY-NC-4.0 (trained on data for non-commercial use)"
_PUBLISHED_CITATION = (
    "Pachitariu, Rariden, Stringer: Cellpose-SAM: superhuman generalization for cellular segmentation (2025)"
)
PUBLISHED = {
    name: _Card(file=name, licence=_PUBLISHED_LICENCE, citation=_PUBLISHED_CITATION, diameter=30.0)
    for name in ("cpsam", "cpsam_v2")
}
"""Models whose files the user brings; they keep the names that Cellpose gives them."""

DEFAULT_FILE = Path(__file__).parent / "weights" / "default.safetensors"


def search_path() -> list[Path]:
    """Folders in which the files of published models are looked for, first come first served."""
    named = [os.environ.get(name) for name in ("PLATEFLOW_WEIGHTS", "CELLPOSE_LOCAL_MODELS_PATH")]
    return [Path(folder) for folder in named if folder] + [Path.home() / ".cellpose" / "models"]


def find_weights(name_or_path: str | Path) -> Path:
    """Return the file of a model.

    Args:
        name_or_path: `default`, the name of a published model, or the path of a weights file.

    Raises:
        ValueError: if there is no such file; the message says where it was looked for.
    """
    name = str(name_or_path)
    if name == "default":
        return DEFAULT_FILE
    if name in PUBLISHED:
        tried = [folder / PUBLISHED[name].file for folder in search_path()]
        for path in tried:
            if path.is_file():
                return path
        raise ValueError(
            f"The weights of model {name!r} aren't on this machine; looked for {', '.join(map(str, tried))}. "
            "Put the file there, or name its folder in PLATEFLOW_WEIGHTS, or give the file's path as the model."
        )
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(f"There is no model {name!r}: neither one of default, {', '.join(PUBLISHED)}, nor a file.")
    return path


TRAINED_DIAMETER = 24.0
"""Of models trained here that don't say otherwise: the middle, by ratio, of the 11 to 50 px of `train.augment`."""


def model_info(name_or_path: str | Path) -> ModelInfo:
    """Describe a model from its file (hash, metadata) and, for a published one, from what is known of it.

    Raises:
        ValueError: if there is no such model, or its file is cut short.
    """
    path = find_weights(name_or_path)
    stat = path.stat()
    sha256 = _sha256(path, stat.st_size, stat.st_mtime_ns)
    name = str(name_or_path)
    if name in PUBLISHED:
        card = PUBLISHED[name]
        return ModelInfo(
            name=name,
            path=path,
            sha256=sha256,
            licence=card.licence,
            citation=card.citation,
            normalisation=NORMALISATION,
            diameter=card.diameter,
        )
    metadata = read_metadata(path) if path.suffix == ".safetensors" else {}
    diameter = metadata.get("diameter") or (TRAINED_DIAMETER if metadata else None)
    return ModelInfo(
        name=metadata.get("name", path.name),
        path=path,
        sha256=sha256,
        licence=metadata.get("licence") or UNKNOWN,
        citation=metadata.get("citation") or UNKNOWN,
        normalisation=metadata.get("normalisation", NORMALISATION),
        diameter=None if diameter is None else float(diameter),
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what a safetensors file of ours says of itself: config, name, licence and so on; nothing for others.

    Raises:
        ValueError: if the header is cut short or isn't one.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        raw = file.read(size) if size <= _MAX_HEADER else b""
    try:
        header = json.loads(raw) if len(raw) == size else None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path} isn't a safetensors file, or was cut short: copy it again.")
    return dict(json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}")))


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file; size and time are there so that a changed file is hashed anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
