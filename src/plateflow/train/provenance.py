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
from plateflow.model.registry import NON_COMMERCIAL, PACKAGED, PUBLISHED, UNKNOWN, unusable

if TYPE_CHECKING:
    from plateflow.train.data import Sample

_CONDITIONS = (
    re.compile(r"(?<![a-z])ND(?![a-z])|no.?derivatives", re.IGNORECASE),
    NON_COMMERCIAL,
    re.compile(r"(?<![a-z])SA(?![a-z])|share.?alike|GPL", re.IGNORECASE),
)
"""What licences ask for beside the name of whoever made it; one that reserves all rights asks for all of this."""
_ALL = re.compile(r"all rights reserved", re.IGNORECASE)
_NAMED = re.compile(r"\b(MIT|BSD|Apache)\b|(?<![a-z])CC.BY(?![a-z])", re.IGNORECASE)
_FREE = re.compile(r"(?<![a-z])CC.?0|public domain", re.IGNORECASE)


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
    """The licence of a fine-tuned model: of its parent's and the user's the one that has all conditions of the other
    and more; both where none has.

    Args:
        parent: of the weights that it starts from; empty: they don't say.
        user: of the images and labels, or what the user wishes; empty: they aren't stated, and the result says so.
    """
    parent, user = parent.strip() or UNKNOWN, user.strip() or "not stated"
    if user == parent:
        return parent
    of_parent, of_user = _conditions(parent), _conditions(user)
    if of_parent is None or of_user is None or not (of_parent < of_user or of_user < of_parent):
        return f"{parent}; and of the training data: {user}"
    return user if of_parent < of_user else parent


def _conditions(licence: str) -> frozenset[int] | None:
    """What a licence asks for; None: its words aren't known."""
    if _ALL.search(licence):
        return frozenset(range(len(_CONDITIONS) + 1))
    asked = {number for number, words in enumerate(_CONDITIONS) if words.search(licence)}
    if asked or _NAMED.search(licence):
        return frozenset(asked | {len(_CONDITIONS)})
    return frozenset() if _FREE.search(licence) else None


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
