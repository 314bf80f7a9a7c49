"""The registry: what a file says of itself, where published models are looked for, and all of it without torch."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from plateflow.model import model_info, save_model
from plateflow.model.registry import DEFAULT_FILE
from plateflow.model.vit import FlowViT, FlowViTConfig, init_weights


def test_a_file_tells_its_terms_and_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    model = init_weights(FlowViT(FlowViTConfig(width=32, depth=1, heads=1, neck_width=16)), 0)
    save_model(model, path, name="mine", licence="CC0-1.0", citation="me", diameter=30)
    info = model_info(path)
    assert (info.name, info.licence, info.citation, info.diameter) == ("mine", "CC0-1.0", "me", 30.0)
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "99th percentile" in info.normalisation


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    model = init_weights(FlowViT(FlowViTConfig(width=32, depth=1, heads=1, neck_width=16)), 0)
    for name in "abcd":
        save_model(model, tmp_path / f"{name}.safetensors", name="same", licence="CC0-1.0")
    assert len({model_info(tmp_path / f"{name}.safetensors").sha256 for name in "abcd"}) == 1


def test_a_changed_file_has_another_hash(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    first = model_info(path).sha256
    path.write_bytes(b"three")
    assert model_info(path).sha256 != first


def test_the_default_model_fits_and_is_free_for_any_use() -> None:
    info = model_info("default")
    assert info.path == DEFAULT_FILE
    assert DEFAULT_FILE.stat().st_size <= 16 * 2**20
    assert "free for any use" in info.licence
    assert info.diameter == 24.0


def test_published_weights_are_found_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLATEFLOW_WEIGHTS", raising=False)
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ValueError, match="PLATEFLOW_WEIGHTS") as error:
        model_info("cpsam")
    assert str(tmp_path / "cpsam") in str(error.value)
    (tmp_path / "cpsam").write_bytes(b"weights")
    info = model_info("cpsam")
    assert info.path == tmp_path / "cpsam"
    assert "CC-BY-NC" in info.licence
    assert info.diameter == 30.0


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="default, cpsam, cpsam_v2"):
        model_info("cyto3")


def test_a_header_cut_short_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x50\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match="cut short"):
        model_info(tmp_path / "cut.safetensors")


def test_the_registry_needs_no_torch() -> None:
    code = "import sys; from plateflow.model.registry import model_info; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
