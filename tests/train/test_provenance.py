"""Where a trained model comes from: its data's hash, its licence, its name."""

from dataclasses import replace
from pathlib import Path

import pytest

from plateflow.errors import ModelError
from plateflow.model.registry import PUBLISHED, UNKNOWN
from plateflow.train.data import make_sample, plate_sample
from plateflow.train.provenance import data_digest, place, register, stricter_licence

NC = PUBLISHED["cpsam"].licence
FREE = "BSD-3-Clause; trained on CC0, MIT and simulated images: free for any use"


@pytest.mark.parametrize(
    ("parent", "user", "result"),
    [
        (NC, "MIT", NC),
        (NC, "", f"{NC}; and of the training data: not stated"),
        (NC, "CC0", NC),
        (FREE, "", f"{FREE}; and of the training data: not stated"),
        (FREE, "CC-BY-NC-4.0", "CC-BY-NC-4.0"),
        ("Apache-2.0", "GPL-3.0", "GPL-3.0"),
        (FREE, "CC0-1.0", FREE),
        ("CC-BY-NC-4.0", "CC BY-ND 4.0", "CC-BY-NC-4.0; and of the training data: CC BY-ND 4.0"),
        (NC, "GPL-3.0", f"{NC}; and of the training data: GPL-3.0"),
        (NC, "CC_BY_NC_SA_4.0", "CC_BY_NC_SA_4.0"),
        (NC, "all rights reserved", "all rights reserved"),
        ("MIT", "MIT", "MIT"),
        ("MIT", "CC-BY-4.0", "MIT; and of the training data: CC-BY-4.0"),
        (NC, "ours alone", f"{NC}; and of the training data: ours alone"),
        ("", "MIT", f"{UNKNOWN}; and of the training data: MIT"),
        (UNKNOWN, "", f"{UNKNOWN}; and of the training data: not stated"),
    ],
)
def test_the_stricter_licence_holds(parent: str, user: str, result: str) -> None:
    assert stricter_licence(parent, user) == result


def test_the_hash_of_the_data_follows_pixels_and_labels_alone() -> None:
    one, two = (plate_sample("cells", 1, n, size=64) for n in range(2))
    first = data_digest([one, two])
    assert len(first) == 64
    assert first == data_digest([two, replace(one, name="other", source="elsewhere")])
    corrected = one.labels.copy()
    corrected[0, 0] += 1
    pixels = one.pixels.copy()
    pixels[0, 0, 0] += 1
    others = [
        replace(one, labels=corrected),
        replace(one, pixels=pixels),
        replace(one, limits=one.limits + 1),
        replace(one, light="transmitted"),
        make_sample("s", "n", [one.pixels.reshape(len(one.pixels), -1, 32)[0]], one.labels.reshape(-1, 32)),
    ]
    digests = {data_digest([other, two]) for other in others}
    assert len(digests) == len(others) and first not in digests
    assert data_digest([one]) != first != data_digest([one, one, two])


def test_a_model_gets_a_name_that_stays_in_its_folder_and_replaces_none(tmp_path: Path) -> None:
    weights, folder = tmp_path / "run.safetensors", tmp_path / "models"
    weights.write_bytes(b"weights")
    assert register(weights, "mine", folder).read_bytes() == b"weights"
    weights.write_bytes(b"others")
    for name, words in (
        ("mine", "a model of this name exists already"),
        ("mine.safetensors", "exists already"),
        *((name, "it can't be the name") for name in ("../up", "/etc/x", "..", "a/b", "", "-x", "a\nb", "a" * 200)),
        ("default", "the name of another model"),
        ("cpsam", "the name of another model"),
    ):
        with pytest.raises(ModelError, match=words):
            register(weights, name, folder)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["run.safetensors", "mine.safetensors"]
    assert (folder / "mine.safetensors").read_bytes() == b"weights"
    assert place("v1.2", folder) == folder / "v1.2.safetensors"
