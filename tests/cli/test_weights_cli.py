"""`plateflow weights`: what is here, what can be fetched, what is wrong; and how an added model is used."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from typer.testing import CliRunner

from plateflow.cli import _typer
from plateflow.errors import PlateflowError
from plateflow.model import fetch, load_model, model_spec, save_model
from plateflow.model.registry import PUBLISHED
from plateflow.model.vit import FlowViT, FlowViTConfig, init_weights
from plateflow.model.weights import to_cellpose
from plateflow.workflow import Workflow

SNAKEFILE = Path(__file__).parents[2] / "Snakefile"
TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"
# the published layout in a small size
LAYOUT = FlowViTConfig(
    width=32, depth=6, heads=2, neck_width=16, stem="patch", neck="sam", grid=32, rel_pos=32, local_conv=False
)
CONTENT = b"weights that anyone may fetch" * 1000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first folder in which weights are looked for; not made yet."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CELLPOSE_LOCAL_MODELS_PATH", raising=False)
    monkeypatch.setenv("PLATEFLOW_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a server (without Range) that has a file published as `cpsam`."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "cpsam").write_bytes(CONTENT)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{http.server_port}/cpsam"
    card = replace(PUBLISHED["cpsam"], url=url, size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(PUBLISHED, "cpsam", card)
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield served
    http.shutdown()
    http.server_close()
    thread.join()


def weights(*arguments: object) -> str:
    """Run the command; what goes wrong is raised."""
    result = CliRunner().invoke(_typer, ["weights", *map(str, arguments)], env={"COLUMNS": "400"})
    if result.exception:
        raise result.exception
    return result.output


def test_a_restricted_licence_is_shown_at_the_first_fetch(folder: Path, server: Path) -> None:
    assert f"cpsam: not on this machine; 0 MB at {PUBLISHED['cpsam'].url}" in weights("list")
    output = weights("fetch", "cpsam")
    assert f"cpsam: {folder / 'cpsam'}, checked" in output
    assert "licence CC-BY-NC" in output
    assert (folder / "cpsam").read_bytes() == CONTENT
    assert "CC-BY-NC" not in weights("fetch", "cpsam")
    assert f"cpsam: {folder / 'cpsam'} (0 MB)\n  licence: CC-BY-NC" in weights("list")


def test_the_option_goes_before_the_environment(folder: Path, server: Path, tmp_path: Path) -> None:
    weights("fetch", "cpsam", "--weights-dir", tmp_path / "other")
    assert (tmp_path / "other" / "cpsam").exists()
    assert not folder.exists()
    assert "not on this machine" in weights("list").split("cpsam: ")[1]
    assert str(tmp_path / "other" / "cpsam") in weights("list", "--weights-dir", tmp_path / "other")


def test_what_cannot_be_fetched_is_one_clear_error(folder: Path, server: Path) -> None:
    with pytest.raises(PlateflowError, match=r"nothing to fetch for 'cyto3'[\s\S]*cpsam, cpsam_v2, sam_vit_l"):
        weights("fetch", "cyto3")
    (server / "cpsam").unlink()
    with pytest.raises(PlateflowError, match=r"404[\s\S]*there are three ways to get them"):
        weights("fetch", "cpsam")
    (server / "cpsam").write_bytes(CONTENT[::-1])
    with pytest.raises(PlateflowError, match="something other than was published"):
        weights("fetch", "cpsam")
    assert not any(folder.iterdir())


def test_verify_names_what_is_wrong(folder: Path, server: Path) -> None:
    weights("fetch", "cpsam")
    weights("add", TINY, "--name", "mine")
    output = weights("verify")
    for name in ("default", "cpsam", "mine"):
        assert f"{name}: " in output
    assert hashlib.sha256(CONTENT).hexdigest() in output
    (folder / "cpsam").write_bytes(CONTENT[:-3])
    (folder / "mine.safetensors").write_bytes(TINY.read_bytes()[:-3])
    with pytest.raises(
        PlateflowError, match=r"2 of the weights[\s\S]*cpsam: [\s\S]*bytes instead of[\s\S]*mine: [\s\S]*truncated"
    ):
        weights("verify")
    assert "default" in weights("verify", "default")
    with pytest.raises(PlateflowError, match=r"1 of the weights[\s\S]*aren't on this machine"):
        weights("verify", "cpsam_v2")


def test_an_added_model_is_used_by_its_name(folder: Path, tmp_path: Path) -> None:
    output = weights("add", TINY, "--name", "mine", "--weights-dir", tmp_path / "other")
    assert "mine: " in output
    assert (tmp_path / "other" / "mine.safetensors").read_bytes() == TINY.read_bytes()
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 4000, (70, 90)).astype(np.uint16))
    command = ["segment", str(tmp_path / "a.tif"), "-o", str(tmp_path / "out"), "--model", "mine"]
    result = CliRunner().invoke(_typer, command)
    assert "where: mine\n  why: there is no such model" in str(result.exception)
    result = CliRunner().invoke(_typer, [*command, "--weights-dir", str(tmp_path / "other")])
    assert result.exception is None
    assert (tmp_path / "out" / "a_labels.tif").exists()


def test_weights_of_cellpose_are_added_as_they_are(folder: Path, tmp_path: Path) -> None:
    torch.save(to_cellpose(init_weights(FlowViT(LAYOUT), 0)), tmp_path / "CP_2026")
    weights("add", tmp_path / "CP_2026", "--name", "tuned")
    assert (folder / "tuned").read_bytes() == (tmp_path / "CP_2026").read_bytes()
    assert model_spec("tuned").diameter == 30.0
    assert load_model("tuned").config == LAYOUT
    assert "tuned: " in weights("list")


def test_sams_checkpoint_becomes_the_start_of_a_model(folder: Path, tmp_path: Path) -> None:
    """Its patches have 16 px and its table 64 x 64 entries; every second is taken."""
    state = to_cellpose(init_weights(FlowViT(LAYOUT), 0))
    encoder = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    kernel, table = encoder["patch_embed.proj.weight"], encoder["pos_embed"]
    encoder["patch_embed.proj.weight"] = kernel.repeat_interleave(2, 2).repeat_interleave(2, 3)
    encoder["pos_embed"] = table.repeat_interleave(2, 1).repeat_interleave(2, 2)
    sam = {f"image_encoder.{name}": value for name, value in encoder.items()} | {"mask_decoder.x": torch.zeros(2)}
    sam["image_encoder.neck.0.weight"] = torch.zeros(256, 32, 1, 1)  # SAM's neck is always this wide
    sam["image_encoder.neck.2.weight"] = torch.zeros(256, 256, 3, 3)
    sam |= {f"image_encoder.neck.{i}.{kind}": torch.zeros(256) for i in (1, 3) for kind in ("weight", "bias")}
    torch.save(sam, tmp_path / "sam.pth")
    weights("add", tmp_path / "sam.pth", "--name", "start")
    model = load_model("start")
    assert torch.equal(model.stem.proj.weight, kernel)
    assert torch.equal(model.pos_embed, table)
    assert model.flow_head.weight.std() > 0
    assert "Apache-2.0" in model_spec("start").licence


def test_what_is_no_model_is_not_added(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    for file, name, words in (
        (tmp_path / "bad.pth", "bad", "can't be read as weights"),
        (tmp_path / "none.pth", "none", "no such file"),
        (TINY, "default", "the name of another model"),
        (TINY, "../up", "can't be the name"),
        (TINY, "cpsam_v2", "isn't the published 'cpsam_v2'"),
    ):
        with pytest.raises(PlateflowError, match=words):
            weights("add", file, "--name", name)
    assert not folder.exists()
    weights("add", TINY, "--name", "mine")
    with pytest.raises(PlateflowError, match="a model of this name exists already"):
        weights("add", TINY, "--name", "mine")
    assert {path.name for path in folder.iterdir()} == {"mine.safetensors"}


def test_a_fine_tuned_model_tells_its_parent_and_is_found_in_its_project(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = init_weights(FlowViT(FlowViTConfig(width=32, depth=1, heads=1, neck_width=16)), 0)
    save_model(model, tmp_path / "models" / "tuned.safetensors", name="tuned", licence="CC-BY-NC", parent="cpsam")
    assert weights("list").endswith(
        "tuned: models/tuned.safetensors (0 MB)\n  licence: CC-BY-NC\n  fine-tuned from: cpsam\n"
    )
    weights("add", TINY, "--name", "other")
    assert (folder / "other.safetensors").exists(), "models/ holds what was trained here"


def test_a_published_file_that_was_brought_is_added(folder: Path, server: Path) -> None:
    weights("add", server / "cpsam", "--name", "cpsam")
    assert model_spec("cpsam").name == "cpsam"


def test_a_restricted_licence_is_told_once_however_many_jobs_use_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = init_weights(FlowViT(FlowViTConfig(width=32, depth=1, heads=1, neck_width=16)), 0)
    save_model(model, folder / "tuned.safetensors", name="tuned", licence="CC-BY-NC-4.0", citation="them")
    for _ in range(3):
        load_model("tuned")
    assert [record.getMessage() for record in caplog.records] == ["Model tuned: licence CC-BY-NC-4.0. Cite: them."]


def test_a_run_of_the_pipeline_shows_a_restricted_licence_once(folder: Path, tmp_path: Path) -> None:
    """Snakemake itself runs, which takes some seconds; the plate isn't there, so it fails at once."""
    model = init_weights(FlowViT(FlowViTConfig(width=32, depth=1, heads=1, neck_width=16)), 0)
    save_model(model, folder / "tuned.safetensors", name="tuned", licence="CC-BY-NC-4.0", citation="them")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/plates.tsv").write_text(f"plate\tpath\np1\t{tmp_path / 'none'}\n")
    label_set = {"channels": ["DNA"], "model": "tuned"}
    (tmp_path / "config/config.yaml").write_text(
        yaml.safe_dump({"segmentation": {"nuclei": label_set, "cells": label_set}})
    )
    command = [sys.executable, "-m", "snakemake", "-s", str(SNAKEFILE), "--cores", "1"]
    result = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert result.stderr.count("Model tuned: licence CC-BY-NC-4.0. Cite: them.") == 1, result.stderr
    assert (
        Workflow({"plates": str(tmp_path / "config/plates.tsv"), "segmentation": {"n": label_set}}).licence_notices()
        == []
    )
