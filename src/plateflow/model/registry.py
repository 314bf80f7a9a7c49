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
class Card:
    """What is known of a published file. Its hash is what several public projects recorded of their downloads."""

    file: str
    url: str
    size: int
    sha256: str
    licence: str
    citation: str
    diameter: float | None = None
    segments: bool = True
    """Whether it is a whole model; else an encoder, from which one can be trained."""


_CELLPOSE: dict[str, Any] = {
    "licence": "CC-BY-NC (Cellpose names it for the data of the training): not for commercial use",
    "citation": "Pachitariu, Rariden, Stringer: Cellpose-SAM: superhuman generalization for cellular segmentation, "
    "bioRxiv 2025.04.28.651001",
}
CELLPOSE_DIAMETER = 30.0
PUBLISHED = {
    "cpsam": Card(
        file="cpsam",
        url="https://huggingface.co/mouseland/cellpose-sam/resolve/main/cpsam",
        size=1_233_587_898,
        sha256="e1440429eb384f95afe32bcba6510f90d518eaedc917ede549bed6804004abe2",
        diameter=CELLPOSE_DIAMETER,
        **_CELLPOSE,
    ),
    "cpsam_v2": Card(
        file="cpsam_v2",
        url="https://huggingface.co/mouseland/cellpose-sam/resolve/main/cpsam_v2",
        size=1_233_586_851,
        sha256="0f1cc3f7ecdd8a037a57c6c48d9d8921391be4cbce3fa9f13c3e3a2e1253c667",
        diameter=CELLPOSE_DIAMETER,
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
"""Files that the user fetches or brings; Cellpose's keep the names that it gives them."""

DEFAULT_FILE = Path(__file__).parent / "weights" / "default.safetensors"


def search_path(first: Path | None = None) -> list[Path]:
    """Folders in which weights are looked for, first come first served; `first` is what `--weights-dir` names."""
    named = [os.environ.get(name) for name in ("PLATEFLOW_WEIGHTS", "CELLPOSE_LOCAL_MODELS_PATH")]
    folders = [first, *(Path(folder) for folder in named if folder), Path.home() / ".cellpose" / "models"]
    return [folder for folder in folders if folder]


def find_weights(name_or_path: str | Path, weights_dir: Path | None = None) -> Path:
    """Return the file of a model.

    Args:
        name_or_path: `default`, the name of a published model or of a file in one of the folders of `search_path`
            (`.safetensors` may be left out), or the path of a weights file.
        weights_dir: a folder to look into before the others.

    Raises:
        ValueError: if there is no such file; the message says where it was looked for.
    """
    name = str(name_or_path)
    if name == "default":
        return DEFAULT_FILE
    if name not in PUBLISHED and Path(name).is_file():
        return Path(name)
    files = [PUBLISHED[name].file] if name in PUBLISHED else [name, f"{name}.safetensors"]
    folders = search_path(weights_dir)
    for folder in folders:
        for file in files:
            if (folder / file).is_file():
                return folder / file
    looked = ", ".join(map(str, folders))
    if name in PUBLISHED:
        raise ValueError(f"The weights of {name!r} aren't on this machine; looked in {looked}. {ways_to_bring(name)}")
    known = ", ".join(["default", *(name for name, card in PUBLISHED.items() if card.segments)])
    raise ValueError(f"There is no model {name!r}: neither one of {known}, nor a file, nor in {looked}.")


def ways_to_bring(name: str) -> str:
    """How a published file comes to a machine."""
    card = PUBLISHED[name]
    return (
        f"Three ways to bring them: (1) where there is a network, `plateflow weights fetch {name}`, and copy the file "
        f"into one of these folders; (2) download {card.url} by other means, then `plateflow weights add FILE --name "
        f"{name}`; (3) where they lie on another disk, name their folder in PLATEFLOW_WEIGHTS, or give the file's path "
        "as the model."
    )


def check_published(name: str, path: Path) -> None:
    """Refuse a file that isn't what was published under a name.

    Raises:
        ValueError: its size or its hash is another.
    """
    card, size = PUBLISHED[name], path.stat().st_size
    if size != card.size:
        found = f"{size:,} bytes instead of {card.size:,}"
    elif hash_of(path) != card.sha256:
        found = f"sha256 {hash_of(path)} instead of {card.sha256}"
    else:
        return
    raise ValueError(
        f"{path} isn't the published {name!r}: it has {found}. Remove it and run `plateflow weights fetch {name}`; "
        "if it is another model, give it another name."
    )


def right_weights(name_or_path: str | Path, weights_dir: Path | None = None) -> Path:
    """Return the file of a model, as `find_weights` does, but refuse one that only has the name of a published one.

    Raises:
        ValueError: if there is no such file, or its size or hash isn't the published one.
    """
    path = find_weights(name_or_path, weights_dir)
    if str(name_or_path) in PUBLISHED:
        check_published(str(name_or_path), path)
    return path


TRAINED_DIAMETER = 24.0
"""Of models trained here that don't say otherwise: the middle, by ratio, of the 11 to 50 px of `train.augment`."""


def model_info(name_or_path: str | Path) -> ModelInfo:
    """Describe a model from its file (hash, metadata) and, for a published one, from what is known of it.

    A published file is known by its hash, under any name and at any path.

    Raises:
        ValueError: if there is no such model, if its file is cut short, or isn't the one that was published.
    """
    path = right_weights(name_or_path)
    return ModelInfo(path=path, sha256=hash_of(path), **terms(path))


def terms(path: Path) -> dict[str, Any]:
    """Name, licence, citation and conventions of a file; only one of a published file's size is hashed."""
    for name, card in PUBLISHED.items():
        if path.stat().st_size == card.size and hash_of(path) == card.sha256:
            known = {"licence": card.licence, "citation": card.citation, "diameter": card.diameter}
            return {"name": name, "normalisation": NORMALISATION, **known}
    metadata = read_metadata(path) if path.suffix == ".safetensors" else {}
    # What says nothing of itself has Cellpose's layout, and so its conventions.
    diameter = metadata.get("diameter") or (TRAINED_DIAMETER if metadata else CELLPOSE_DIAMETER)
    return {
        "name": metadata.get("name", path.name),
        "licence": metadata.get("licence") or UNKNOWN,
        "citation": metadata.get("citation") or UNKNOWN,
        "normalisation": metadata.get("normalisation", NORMALISATION),
        "diameter": float(diameter),
    }


def licence_notice(path: Path) -> str | None:
    """What to tell a user of weights with a restricted licence, once; None afterwards, and for free models.

    That it was told is recorded in a file beside the weights, so that of many jobs one alone tells it; in a folder
    that can't be written, each does.
    """
    known = terms(path)
    if "-NC" not in known["licence"]:
        return None
    notice = f"Model {known['name']}: licence {known['licence']}. Cite: {known['citation']}."
    try:
        with path.with_name(f"{path.name}.licence.txt").open("x") as file:
            file.write(f"{notice}\nThis was shown when the model was first fetched or used here.\n")
    except FileExistsError:
        return None
    except OSError:
        pass
    return notice


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what a safetensors file of ours says of itself: config, name, licence and so on; nothing for others.

    Raises:
        ValueError: if the header is cut short or isn't one.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        raw = file.read(size) if size <= _MAX_HEADER else b""
    try:
        header = json.loads(raw if len(raw) == size else b"")
        return dict(json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}")))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} isn't a safetensors file, or was cut short: copy it again.") from error


def hash_of(path: Path) -> str:
    """sha256 of a file, computed once in a process unless its size or time change."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file; size and time are there so that a changed file is hashed anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
