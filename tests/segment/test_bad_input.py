"""What a user may get wrong: one clear error before any tile is run; in Python, as a command, and in the pipeline."""

import json
import re
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from typer.testing import CliRunner
from vendors import PatternLayout

from plateflow.asked import Asked
from plateflow.chain import STAGES
from plateflow.cli import _typer
from plateflow.cli.init import write_project
from plateflow.config import Config, PlateSpec, load_config
from plateflow.errors import ChannelError, PlateflowError
from plateflow.model.vit import FlowViT
from plateflow.paths import PlatePaths
from plateflow.plates import open_plate
from plateflow.project import Plate, Project
from plateflow.segment import segment_image
from plateflow.segment.label_sets import check_label_sets
from plateflow.segment.scratch import open_flows
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.stages import infer, ingest, normalise, tile
from plateflow.stages.job import Job
from plateflow.workflow import Workflow

TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"
IMAGE = np.random.default_rng(0).integers(0, 4000, (2, 70, 90)).astype(np.uint16)
Use = Callable[[str, str], None]


@pytest.fixture
def no_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running a tile is what must not happen."""

    def run(*_: object) -> None:
        raise AssertionError("a tile was run")

    monkeypatch.setattr(FlowViT, "forward", run)


class Mischief:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Weights that can't be used, by what is wrong with them: the model's name, and what the error says."""
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"W2": Mischief(tmp_path / "code-was-run")}, tmp_path / "code.pth")
    (tmp_path / "cut.safetensors").write_bytes(TINY.read_bytes()[:-1000])
    (tmp_path / "head.safetensors").write_bytes(TINY.read_bytes()[:100])
    (tmp_path / "empty.pth").touch()
    return {
        "another model": (str(tmp_path / "other.pth"), "neither a model of Plateflow nor one of Cellpose-SAM"),
        "code": (str(tmp_path / "code.pth"), "can't be read as weights"),
        "cut short": (str(tmp_path / "cut.safetensors"), "truncated"),
        "cut in its header": (str(tmp_path / "head.safetensors"), "truncated"),
        "empty": (str(tmp_path / "empty.pth"), "truncated"),
        "a folder": (str(tmp_path), "there is no such model"),
        "unknown": ("cyto9", "neither one of default, fast, cpsam, cpsam_v2"),
        "not on this machine": ("cpsam", "there are three ways to get them"),
    }


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlateSpec, Path]:
    """A plate of one well that is ready for infer, and the folder of its results."""
    folder = tmp_path_factory.mktemp("plate")
    made = simulate_plate(folder, wells=micro_wells()[:1], fields=1, field_shape=(96, 96), plate="p")
    entry = PlateSpec(plate="p", path=str(made.raw))
    for stage, module in (("ingest", ingest), ("tile", tile), ("normalise", normalise)):
        module.run(Job.of(Plate(config=config_of(folder / "results"), spec=entry), stage, job(stage)))
    return entry, folder / "results"


def job(stage: str) -> str:
    return "plate" if STAGES[stage].scope == "plate" else "0"


def config_of(results: Path, **keys: Any) -> Config:
    sets = {"nuclei": {"channels": ["DNA"], "model": str(TINY)}}
    return Config.model_validate(
        {"results": str(results), "parts": {"cpu": 1, "gpu": 1}, "segmentation": sets, "threads": 1, **keys}
    )


@pytest.fixture
def in_python() -> Use:
    return lambda model, device: segment_image(IMAGE, model=model, device=device)  # type: ignore[return-value]


@pytest.fixture
def on_the_command_line(tmp_path: Path) -> Use:
    def use(model: str, device: str) -> None:
        names = []
        for name in ("a.tif", "b.tif"):
            names.append(str(tmp_path / name))
            tifffile.imwrite(names[-1], IMAGE, photometric="minisblack")
        out = tmp_path / "out"
        result = CliRunner().invoke(_typer, ["segment", *names, "-o", str(out), "--model", model, "--device", device])
        assert not out.exists() or not any(out.iterdir())
        assert result.exception is not None
        assert "of 2 images failed" not in str(result.exception), "once, not for each image"
        raise result.exception

    return use


@pytest.fixture
def in_the_pipeline(plate: tuple[PlateSpec, Path]) -> Use:
    def use(model: str, device: str) -> None:
        """The model is that of the second label set: the first's tiles aren't run either."""
        good = {"channels": ["DNA"], "model": str(TINY)}
        sets = {"nuclei": good, "cells": {"channels": ["AGP", "DNA"], "model": model}}
        config = config_of(plate[1], segmentation=sets, device=device)
        infer.run(Job.of(Plate(config=config, spec=plate[0]), "infer", "0"))

    return use


WAYS = ["in_python", "on_the_command_line", "in_the_pipeline"]
FAULTS = [
    "another model",
    "code",
    "cut short",
    "cut in its header",
    "empty",
    "a folder",
    "unknown",
    "not on this machine",
]


@pytest.mark.usefixtures("no_tile")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_cannot_be_used(
    way: str,
    fault: str,
    weights: dict[str, tuple[str, str]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PLATEFLOW_WEIGHTS", "CELLPOSE_LOCAL_MODELS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    model, words = weights[fault]
    with pytest.raises(PlateflowError, match=f"the model can't be used[\\s\\S]*{words}") as error:
        request.getfixturevalue(way)(model, "cpu")
    assert model in str(error.value)
    assert not (tmp_path / "code-was-run").exists()


@pytest.mark.usefixtures("no_tile")
@pytest.mark.parametrize("way", WAYS)
def test_a_device_that_is_not_there(way: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlateflowError, match="there is no CUDA device"):
        request.getfixturevalue(way)(str(TINY), "cuda")


@pytest.mark.usefixtures("no_tile")
@pytest.mark.parametrize("way", WAYS[:2])
def test_a_device_of_another_name(way: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(PlateflowError, match=r"no device 'gpu'[\s\S]*auto, cpu or cuda"):
        request.getfixturevalue(way)(str(TINY), "gpu")


def segment(folder: Path, image: np.ndarray, *options: str) -> np.ndarray:
    """The labels that the command writes of an image."""
    tifffile.imwrite(folder / "image.tif", image, photometric="minisblack")
    command = ["segment", str(folder / "image.tif"), "-o", str(folder), "--model", str(TINY), *options]
    result = CliRunner().invoke(_typer, command)
    if result.exception:
        raise result.exception
    return tifffile.imread(folder / "image_labels.tif")


@pytest.mark.parametrize("channels", [1, 2])
def test_one_or_two_channels_smaller_than_a_tile(tmp_path: Path, channels: int) -> None:
    assert segment(tmp_path, IMAGE[:channels]).shape == IMAGE.shape[1:]


def test_no_contrast_gives_no_objects(tmp_path: Path) -> None:
    labels = segment(tmp_path, np.full((2, 50, 60), 300, np.uint16))
    assert labels.shape == (50, 60)
    assert not labels.any()


@pytest.mark.usefixtures("no_tile")
@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (IMAGE[[0, 1, 0]], [], r"3 channels \(0, 1, 2\) are too many: the model 'tiny' takes 2[\s\S]*no metadata"),
        (IMAGE[[0, 1, 0]], ["--channels", "2,1,0"], r"3 channels \(2, 1, 0\) are too many"),
        (IMAGE, ["--channels", "0,5"], r"no channel 5[\s\S]*the channels are 0, 1"),
        (IMAGE, ["--channels", "DNA"], r"no channel 'DNA'[\s\S]*doesn't name its channels"),
        (IMAGE, ["--channels", "0,-1"], "no channel '-1'"),
        (np.where(IMAGE[0] > 3900, np.nan, IMAGE[0].astype(np.float32)), [], r"\d+ values that are NaN"),
        (IMAGE, ["--diameter", "-3"], r"diameter must be a number above 0; got -3"),
    ],
)
def test_images_that_cannot_be_segmented(tmp_path: Path, image: np.ndarray, options: list[str], words: str) -> None:
    with pytest.raises(PlateflowError, match=words):
        segment(tmp_path, image, *options)


def ome_image(folder: Path, kind: str) -> Path:
    """An image of four named channels; the third one is seen best."""
    names = ["DNA", "ER", "RNA", "AGP"]
    pixels = np.concatenate([IMAGE, IMAGE[::-1]])
    if kind == "tiff":
        path = folder / "image.ome.tif"
        tifffile.imwrite(path, pixels, metadata={"axes": "CYX", "Channel": {"Name": names}}, photometric="minisblack")
        return path
    path = folder / "image.ome.zarr"
    group = zarr.create_group(path)
    group.create_array("0", data=pixels[None])
    axes = [{"name": name} for name in "tcyx"]
    multiscales = [{"axes": axes, "datasets": [{"path": "0"}]}]
    group.attrs["ome"] = {"multiscales": multiscales, "omero": {"channels": [{"label": name} for name in names]}}
    return path


@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_channels_of_ome_images_are_chosen_by_name(tmp_path: Path, kind: str) -> None:
    path, expected = ome_image(tmp_path, kind), segment(tmp_path, IMAGE[[1, 0]])
    command = ["segment", str(path), "-o", str(tmp_path / "out"), "--model", str(TINY)]
    assert CliRunner().invoke(_typer, [*command, "--channels", "RNA,DNA"]).exception is None
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "image_labels.tif"), expected)
    for options, words in (
        ([], r"4 channels \(DNA, ER, RNA, AGP\) are too many[\s\S]*takes 2[\s\S]*--channels"),
        (["--channels", "RNA,Mito"], r"no channel 'Mito'[\s\S]*channels are DNA, ER, RNA, AGP"),
    ):
        result = CliRunner().invoke(_typer, [*command, *options])
        assert re.search(words, str(result.exception)), result.exception


def test_a_label_set_of_too_many_channels_is_told_with_their_names() -> None:
    sets = {"cells": {"channels": ["DNA", "ER", "RNA", "AGP"]}}
    with pytest.raises(PlateflowError, match=r"cells\.channels: 4 channels \(DNA, ER, RNA, AGP\) are too many"):
        load_config({"segmentation": sets})


def test_label_sets_have_no_more_channels_than_their_models_take(tmp_path: Path) -> None:
    """A run and `check` refuse them, and `init` and a job that is run by hand; old results can be looked at."""
    channels = ["DNA", "AGP", "Marker"]
    words = r"3 channels \(DNA, AGP, Marker\) are too many: the model 'default' takes 2\n.*segmentation.cells.channels"
    sets = {"nuclei": {"channels": ["DNA"]}, "cells": {"channels": channels}}
    made = simulate_plate(tmp_path / "raw", wells=micro_wells()[:1], fields=1, field_shape=(64, 64), plate="p")
    (tmp_path / "config").mkdir()
    entry, sheet = PlateSpec(plate="p", path=str(made.raw)), tmp_path / "plates.tsv"
    sheet.write_text(f"plate\tpath\np\t{made.raw}\n")
    text = f"plates: {sheet}\nresults: {tmp_path / 'results'}\nsegmentation: {json.dumps(sets)}\n"
    (configfile := tmp_path / "config/config.yaml").write_text(text)
    Project.load(configfile)
    with chdir(tmp_path):
        checked = CliRunner().invoke(_typer, ["check", "--configfile", str(configfile)])
    assert f"segmentation.cells.channels: {words[:10]}" in checked.output
    assert checked.exit_code == 1
    for use in (
        lambda: Workflow(Asked.of(Project.load(configfile))),
        lambda: write_project(tmp_path, entry, open_plate(entry)),
        lambda: infer.work_items(Job.of(Plate(config=load_config({"segmentation": sets}), spec=entry), "infer", "0")),
    ):
        with pytest.raises(ChannelError, match=words):
            use()
    sets["cells"]["model"] = "cpsam"  # whose weights needn't be here
    check_label_sets(load_config({"segmentation": sets}))


def test_a_well_without_contrast_has_no_objects(tmp_path: Path) -> None:
    """Through the pipeline; its pixels are all 7, so the window has no width."""
    made = simulate_plate(
        tmp_path, wells=micro_wells()[:1], fields=1, field_shape=(64, 64), layout=PatternLayout, plate="f"
    )
    for path in made.raw.glob("*.tif"):
        tifffile.imwrite(path, np.full((64, 64), 7, np.uint16))
    pattern = r"(?P<well>[A-Z]\d\d)_s(?P<field>\d+)_w(?P<channel>\d)\.tif"
    entry = PlateSpec(plate="f", path=str(made.raw), layout="pattern", pattern=pattern)
    config = config_of(tmp_path / "results", segmentation={"nuclei": {"channels": ["1"], "model": str(TINY)}})
    for stage, module in (("ingest", ingest), ("tile", tile), ("normalise", normalise), ("infer", infer)):
        module.run(Job.of(Plate(config=config, spec=entry), stage, job(stage)))
    flow = open_flows(PlatePaths.of("f", results=config.results).flows("nuclei", "B02", 0), 0)[:]
    assert (flow[2] < 0).all()
