"""What a trained model came from: the hash of its data, the terms that it inherits, and the name that it gets."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from plateflow.config import SAFE_NAME
from plateflow.files import atomic_file
from plateflow.model.registry import PACKAGED, PUBLISHED, UNKNOWN, unusable

if TYPE_CHECKING:
    from plateflow.train.data import Sample

_KINDS = (
    r"\bND\b|no.?derivatives|all rights reserved",
    r"\bNC\b|non.?commercial|not for commercial",
    r"\bSA\b|share.?alike|GPL",
    r"\bMIT\b|\bBSD\b|\bApache\b|\bCC.BY\b",
    r"\bCC0\b|public domain",
)
"""What a licence says, the strictest kind first; a licence is of the first kind whose words it has."""


def data_digest(samples: Iterable[Sample]) -> str:
    """Hash of what a model was trained on: pixels, their limits, labels and light of all samples, in any order."""
    digests = []
    for sample in samples:
        hashed = hashlib.sha256(f"{sample.light} {sample.pixels.dtype} {sample.pixels.shape}".encode())
        for array in (sample.pixels, sample.limits, sample.labels):
            hashed.update(array.tobytes())
        digests.append(hashed.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def stricter_licence(parent: str, user: str) -> str:
    """The licence of a fine-tuned model: the stricter one of its parent's and of the user's; both where none is.

    Args:
        parent: of the weights that it starts from; empty: they don't say.
        user: of the images and labels, or what the user wishes; empty: the parent's holds alone.
    """
    parent, user = parent.strip() or UNKNOWN, user.strip()
    if not user or user == parent:
        return parent
    of_parent, of_user = _kind(parent), _kind(user)
    if None in (of_parent, of_user) or of_parent == of_user:
        return f"{parent}; and of the training data: {user}"
    return parent if of_parent < of_user else user  # type: ignore[operator]


def _kind(licence: str) -> int | None:
    return next((n for n, words in enumerate(_KINDS) if re.search(words, licence, re.IGNORECASE)), None)


def place(name: str, folder: Path, suffix: str = ".safetensors", *, brought: bool = False) -> Path:
    """Where a new model of a name goes; `brought`: it is the published one of this name.

    Raises:
        ModelError: it can't be a name, means another model, or one of this name is there.
    """
    taken = name in PACKAGED or (name in PUBLISHED and not brought)
    if taken or not SAFE_NAME.fullmatch(name):
        why = "it is the name of another model" if taken else "it can't be the name of a model"
        raise unusable(f"--name {name}", why, "use letters, digits and . _ + -")
    target = folder / (PUBLISHED[name].file if brought else name.removesuffix(suffix) + suffix)
    if target.exists():
        raise unusable(target, "a model of this name exists already", "give another --name, or move that file away")
    return target


def register(weights: Path, name: str, folder: Path, suffix: str = ".safetensors", *, brought: bool = False) -> Path:
    """Copy weights to where `model: NAME` finds them, by rename; return the file. Errors as in `place`."""
    target = place(name, folder, suffix, brought=brought)
    with weights.open("rb") as source, atomic_file(target) as copy:
        shutil.copyfileobj(source, copy)
    return target
