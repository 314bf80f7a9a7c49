"""`plateflow train`: from pairs of images and labels to a model that a name finds; every start; what is refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from command_line import plateflow

from plateflow.model import load_model, model_spec, save_model
from plateflow.model.registry import CELLPOSE_CHANNELS, hash_of, read_metadata
from plateflow.model.vit import VIT_L, FlowViT, FlowViTConfig, init_weights
from plateflow.model.weights import load_start, to_cellpose

SMALL = FlowViTConfig(width=16, depth=1, heads=1, neck_width=8)
LARGE = replace(VIT_L, width=32, depth=6, heads=2, neck_width=16)
"""The published layout, small."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sources, and a recipe for little of everything."""
    rng = np.random.default_rng(0)
    for source, count in (("few", 1), ("many", 3)):
        for number in range(count):
            labels = np.zeros((64, 64), np.uint16)
            labels[10:26, 12:30], labels[40:56, 30:50] = 1, 2
            (tmp_path / "data" / source).mkdir(parents=True, exist_ok=True)
            image = (rng.integers(0, 40, labels.shape) + 150 * (labels > 0)).astype(np.uint8)
            tifffile.imwrite(tmp_path / "data" / source / f"{number}.tif", image)
            tifffile.imwrite(tmp_path / "data" / source / f"{number}_masks.tif", labels)
    (tmp_path / "little.yaml").write_text("batch: 2\nwarm_up: 0\nlearning_rate: 0.01")
    (tmp_path / "wide.yaml").write_text("batch: 2\naugmentation: {diameters: [7, 130]}")
    model = init_weights(FlowViT(SMALL), 3)
    save_model(model, tmp_path / "small.safetensors", name="small", licence="MIT", channels=["one"])
    return tmp_path


@pytest.fixture
def train(folder: Path) -> Callable[..., str]:
    def call(*options: str | Path, start: str | Path = "small.safetensors", status: int = 0, name: str = "mine") -> str:
        words = ["--name", name, "--from", start, "--workers", "1", *options]
        return plateflow("train", *words, cwd=folder, status=status)

    return call


def test_a_trained_model_is_found_by_its_name_and_says_what_made_it(folder: Path, train: Callable[..., str]) -> None:
    options = ("--data", "data", "--recipe", "little.yaml", "--steps", "2")
    said = train(*options, "--licence", "CC-BY-NC-4.0")
    assert (
        "4 images of 2 sources, 8 objects\n  taken for fluorescence: few, many\n" in said
        and "models/mine.safetensors" in said
    )
    spec, metadata = (
        model_spec(folder / "models" / "mine.safetensors"),
        read_metadata(folder / "models/mine.safetensors"),
    )
    assert (spec.name, spec.licence, spec.channels) == ("mine", "CC-BY-NC-4.0", ("one",))
    assert spec.diameters == pytest.approx((19.67 / 1.25, 19.67 * 1.25), rel=1e-3), "about the objects' own size"
    assert metadata["parent"] == f"small, sha256 {hash_of(folder / 'small.safetensors')}"
    assert len(metadata["data"]) == 64
    assert (metadata["recipe"]["batch"], metadata["recipe"]["steps"], metadata["recipe"]["warm_up"]) == (2, 2, 0)
    page = (folder / "training/mine/training.html").read_text()
    assert "<svg" in page and page.count("data:image/webp") == 6 and "2 of 2 steps" in page
    assert not (folder / "training/mine/checkpoint.pt").exists()
    assert "a model of this name exists already" in train(*options, status=1)


def test_sizes_that_a_recipe_names_are_taken_even_where_they_are_the_usual_ones(
    folder: Path, train: Callable[..., str]
) -> None:
    train("--data", "data", "--recipe", "wide.yaml", "--steps", "1")
    assert model_spec(folder / "models" / "mine.safetensors").diameters == (7, 130)


def test_a_run_without_time_for_a_step_makes_no_model(folder: Path, train: Callable[..., str]) -> None:
    said = train("--data", "data", "--recipe", "little.yaml", "--seconds", "0.001", status=1)
    assert "nothing was trained" in said and "all of the 0.001 s" in said
    assert not (folder / "models").exists()


def test_the_preview_is_drawn_before_any_step(folder: Path, train: Callable[..., str]) -> None:
    assert "preview.png" in train("--data", "data/many", "--preview")
    picture = imagecodecs.png_decode((folder / "training/mine/preview.png").read_bytes())
    assert picture.shape == (4 * 260, 6 * 260, 3)
    crop, hues = picture[2:258, 2:258].astype(int), picture[2:258, 262:518].astype(int)
    inside = np.ptp(hues, axis=-1) > 0
    assert 0.01 < inside.mean() < 0.9
    assert crop[inside].mean() > crop[~inside].mean() + 30
    assert not (folder / "training/mine/log.csv").exists() and not (folder / "models").exists()


def test_published_weights_are_fine_tuned_as_they_are(folder: Path, train: Callable[..., str]) -> None:
    torch.save(to_cellpose(init_weights(FlowViT(LARGE), 1)), folder / "cpsam_small")
    train("--data", "data", "--recipe", "little.yaml", "--steps", "1", start="cpsam_small")
    before, after = load_model(folder / "cpsam_small"), load_model(folder / "models/mine.safetensors")
    assert after.config == before.config == LARGE
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    moved = {name: float((a - b).abs().max()) for (name, a), b in pairs}
    # the first step of AdamW moves everything by its rate; of that 19 of 20 parts are in the average
    assert moved["flow_head.bias"] == pytest.approx(0.0095, rel=0.05)
    assert moved["blocks.0.lin1.bias"] == pytest.approx(0.0095 * 0.8**6, rel=0.05)
    assert moved["blocks.5.attn.rel_pos_h"] == pytest.approx(0.0095 * 0.8, rel=0.05)
    recipe = read_metadata(folder / "models/mine.safetensors")["recipe"]
    assert (recipe["layer_rate"], recipe["layer_drop"], recipe["schedule"]) == (0.8, 0.4, "stepwise")
    assert model_spec(folder / "models/mine.safetensors").channels == CELLPOSE_CHANNELS


def test_sams_encoder_is_a_start(folder: Path, train: Callable[..., str]) -> None:
    state = {
        k.replace("encoder.", "image_encoder."): v for k, v in to_cellpose(init_weights(FlowViT(LARGE), 1)).items()
    }
    state = {k: v for k, v in state.items() if k.startswith("image_encoder.")}
    state["image_encoder.patch_embed.proj.weight"] = torch.randn(32, 3, 16, 16) * 0.02
    state["image_encoder.pos_embed"] = torch.randn(1, 64, 64, 32) * 0.02
    torch.save(state | {"mask_decoder.x": torch.zeros(1)}, folder / "sam.pth")
    start = load_start(folder / "sam.pth")
    assert start.config == LARGE
    assert torch.equal(start.pos_embed, state["image_encoder.pos_embed"][:, ::2, ::2])
    train("--data", "data", "--recipe", "little.yaml", "--steps", "1", start="sam.pth")
    trained = load_model(folder / "models/mine.safetensors")
    torch.testing.assert_close(trained.blocks[3].lin1.weight, start.blocks[3].lin1.weight, rtol=0, atol=0.01)
    assert not torch.equal(trained.flow_head.weight, start.flow_head.weight)


def test_from_scratch_by_the_clock_in_a_shape_of_ones_own(folder: Path, train: Callable[..., str]) -> None:
    shape = "networks: {any: {width: 24, depth: 1, heads: 1, neck_width: 8}}\ncrop: 64\nbatch: 2\nseed: 4\n"
    (folder / "shape.yaml").write_text(shape)
    train("--data", "data/few", "--recipe", "shape.yaml", "--seconds", "3", start="scratch")
    metadata = read_metadata(folder / "models/mine.safetensors")
    assert metadata["config"]["width"] == 24 and "parent" not in metadata
    assert (metadata["recipe"]["seconds"], metadata["recipe"]["steps"]) == (3, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to train on"),
        (["--data", "nowhere"], "no such folder of images"),
        (
            ["--data", "data", "--from", "cpsm"],
            r"nothing to start from\n  where: --from cpsm\n  why: there is no such model",
        ),
        (["--data", "data", "--from", "sam"], r"--from sam\n  why: its weights aren't on this machine"),
        (["--data", "data", "--name", "default"], "name of another model"),
        (["--data", "data", "--recipe", "shape.yaml"], "networks are those of the weights to start from"),
        (["--data", "data", "--device", "gpu"], "no device 'gpu'"),
        (["--data", "data", "--wells", "B03"], r"wells are those of a plate\n  where: --wells B03"),
        (["--data", "data", "--steps", "0"], "steps must be at least 1"),
        (["--data", "data", "--plate", "results/p"], "config.yaml"),
    ],
)
def test_what_is_wrong_is_told(folder: Path, train: Callable[..., str], options: list[str], message: str) -> None:
    (folder / "shape.yaml").write_text("networks: {any: {width: 24, depth: 1, heads: 1}}")
    assert re.search(message, train(*options, status=1))
