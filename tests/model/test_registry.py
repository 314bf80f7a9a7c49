"""The registry: what a file says of itself, where published models are looked for, and all of it without torch."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from plateflow.errors import ModelError
from plateflow.model import model_spec, save_model
from plateflow.model.registry import PACKAGED, PUBLISHED, find_weights, least_logit, licence_notice
from plateflow.model.vit import FlowViT, FlowViTConfig, init_weights


def test_a_file_tells_its_terms_and_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    model = init_weights(FlowViT(FlowViTConfig(width=32, depth=1, heads=1, neck_width=16)), 0)
    save_model(model, path, name="mine", licence="CC0-1.0", citation="me", diameter=30)
    spec = model_spec(path)
    assert (spec.name, spec.licence, spec.citation, spec.diameter) == ("mine", "CC0-1.0", "me", 30.0)
    assert spec.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "99th percentile" in spec.normalisation


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    model = init_weights(FlowViT(FlowViTConfig(width=32, depth=1, heads=1, neck_width=16)), 0)
    for name in "abcd":
        save_model(model, tmp_path / f"{name}.safetensors", name="same", licence="CC0-1.0")
    assert len({model_spec(tmp_path / f"{name}.safetensors").sha256 for name in "abcd"}) == 1


def test_a_changed_file_has_another_hash(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    first = model_spec(path).sha256
    path.write_bytes(b"three")
    assert model_spec(path).sha256 != first


@pytest.mark.parametrize("name", PACKAGED)
def test_the_models_that_ship_fit_and_are_free_for_any_use(name: str) -> None:
    spec = model_spec(name)
    assert spec.path == PACKAGED[name] and spec.name == name
    assert spec.path.stat().st_size <= 16 * 2**20
    assert "free for any use" in spec.licence
    assert (spec.diameter, spec.diameters, len(spec.channels), spec.colours) == (30.2, (7.0, 130.0), 2, True)
    assert spec.least_logit == least_logit(name) == -2.0


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders in which weights are looked for, in order; the first is given by hand."""
    made = [tmp_path / name for name in ("option", "own", "cellpose", "home/.cellpose/models")]
    for folder in made:
        folder.mkdir(parents=True)
    monkeypatch.setenv("PLATEFLOW_WEIGHTS", str(made[1]))
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(made[2]))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return made


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The content of a small file that is published as `cpsam`."""
    content = b"weights that anyone may fetch"
    card = replace(PUBLISHED["cpsam"], size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(PUBLISHED, "cpsam", card)
    return content


def test_folders_are_searched_in_order(folders: list[Path]) -> None:
    with pytest.raises(ModelError, match="aren't on this machine") as error:
        find_weights("cpsam", folders[0])
    for words in (*map(str, folders), "weights fetch cpsam", "weights add FILE --name cpsam", "PLATEFLOW_WEIGHTS"):
        assert words in str(error.value)
    for folder in reversed(folders):
        (folder / "cpsam").touch()
        assert find_weights("cpsam", folders[0]) == folder / "cpsam"
    assert find_weights("cpsam") == folders[1] / "cpsam"


def test_files_in_the_folders_are_found_by_their_names(folders: list[Path]) -> None:
    (folders[2] / "mine.safetensors").touch()
    (folders[3] / "CP_20260101").touch()
    assert find_weights("mine") == folders[2] / "mine.safetensors"
    assert find_weights("CP_20260101") == folders[3] / "CP_20260101"


def test_the_bound_is_the_files_own_where_it_says_one(tmp_path: Path, published: bytes, folders: list[Path]) -> None:
    header = json.dumps({"__metadata__": {"plateflow": json.dumps({"name": "deep", "least_logit": -4.5})}}).encode()
    path = tmp_path / "deep.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert model_spec(path).least_logit == least_logit(path) == -4.5
    for wrong in ("NaN", "-31", '"low"', "null"):
        bad = header.replace(b"-4.5", wrong.replace('"', '\\"').encode())
        path.write_bytes(len(bad).to_bytes(8, "little") + bad)
        for ask in (model_spec, least_logit):
            with pytest.raises(ModelError, match="its least_logit is"):
                ask(path)
    (folders[1] / "cpsam").write_bytes(published)
    assert model_spec("cpsam").least_logit == least_logit("cpsam") == -2.0
    (tmp_path / "tuned").write_bytes(b"of Cellpose")
    assert model_spec(tmp_path / "tuned").least_logit == least_logit(tmp_path / "tuned") == -2.0


def test_a_published_file_is_known_by_its_hash_wherever_it_lies(
    folders: list[Path], published: bytes, tmp_path: Path
) -> None:
    (folders[1] / "cpsam").write_bytes(published)
    (tmp_path / "renamed.pth").write_bytes(published)
    for name in ("cpsam", tmp_path / "renamed.pth"):
        spec = model_spec(name)
        assert (spec.name, spec.diameter) == ("cpsam", 30.0)
        assert "CC-BY-NC" in spec.licence
    other = published.replace(b"anyone", b"no one")
    for content, words in ((other, "sha256"), (published[:5], "5 bytes instead of 29")):
        (folders[1] / "cpsam").write_bytes(content)
        with pytest.raises(ModelError, match=f"isn't the published 'cpsam': it has {words}"):
            model_spec("cpsam")
        spec = model_spec(folders[1] / "cpsam")  # as a file of its own it may be used: nothing is claimed of it
        assert "unknown" in spec.licence
        assert spec.diameter == 30.0  # of Cellpose's layout, as everything that says nothing of itself


def test_a_restricted_licence_is_told_once(folders: list[Path], published: bytes) -> None:
    path = folders[1] / "cpsam"
    path.write_bytes(published)
    notice = licence_notice(path)
    assert notice is not None
    assert "CC-BY-NC" in notice
    assert "CC-BY-NC" in (folders[1] / "cpsam.licence.txt").read_text()
    assert licence_notice(path) is None
    assert licence_notice(PACKAGED["default"]) is None
    tuned = folders[1] / "tuned.safetensors"
    save_model(FlowViT(FlowViTConfig(width=16, depth=1, heads=1)), tuned, name="tuned", licence="CC BY NC 4.0")
    assert "Model tuned: licence CC BY NC 4.0" in str(licence_notice(tuned))


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match="default, fast, cpsam, cpsam_v2"):
        model_spec("cyto3")


def test_the_registry_is_complete() -> None:
    for name, card in PUBLISHED.items():
        assert card.url.startswith("https://"), name
        assert card.url.endswith(card.file), name
        assert len(card.sha256) == 64, name
        assert card.size > 1e9, name
        assert card.licence, name
        assert card.citation, name


def test_a_header_cut_short_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x50\0\0\0\0\0\0\0{}")
    with pytest.raises(ModelError, match="truncated"):
        model_spec(tmp_path / "cut.safetensors")


def test_the_registry_needs_no_torch() -> None:
    code = "import sys; from plateflow.model.registry import model_spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
