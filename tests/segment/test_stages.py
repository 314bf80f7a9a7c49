"""infer, follow and stitch on a small simulated plate, through the same jobs that Snakemake runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from segment_project import MODEL, SETS, config_of, labels_of, run
from vendors import PatternLayout

from plateflow.config import PlateSpec
from plateflow.errors import ConfigError, PlateflowError
from plateflow.files import append_line, atomic_file, read_lines
from plateflow.flows import labels_from_flows
from plateflow.metrics import f1
from plateflow.model.registry import model_spec
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.segment.scratch import open_flows
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.stages import follow, infer, stitch
from plateflow.stages.job import Job
from plateflow.state.requests import request


def journal(paths: PlatePaths, stage: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for path in paths.journals(stage) for line in path.read_text().splitlines()]
    return [line for line in lines if line["event"] == "done"]


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlateSpec, Path, Path]:
    """A plate of two wells with two touching fields each, tiled and normalised; the folders of results and truth."""
    folder = tmp_path_factory.mktemp("plate")
    made = simulate_plate(folder, wells=micro_wells(), fields=2, field_shape=(192, 192), plate="p", seed=4)
    entry = PlateSpec(plate="p", path=str(made.raw))
    run(config_of(folder / "results"), entry, "ingest", "tile", "normalise")
    return entry, folder / "results", folder / "truth"


@pytest.fixture
def copied(plate: tuple[PlateSpec, Path, Path], tmp_path: Path) -> tuple[PlateSpec, Path]:
    """The plate in a folder of its own."""
    shutil.copytree(plate[1], tmp_path / "results")
    return plate[0], tmp_path / "results"


@pytest.fixture(scope="module")
def whole(plate: tuple[PlateSpec, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> PlatePaths:
    """The plate segmented in one part, one slice and one block a canvas: what every other way is compared with."""
    folder = tmp_path_factory.mktemp("whole") / "results"
    shutil.copytree(plate[1], folder)
    return run(config_of(folder), plate[0], "infer", "stitch")


def test_the_labels_are_the_simulated_nuclei(whole: PlatePaths, plate: tuple[PlateSpec, Path, Path]) -> None:
    for well in ("B02", "B03"):
        truth = np.load(plate[2] / f"{well}.npz")
        assert f1(truth["nuclei"], labels_of(whole, well, "nuclei")) > 0.6
        assert len(np.unique(labels_of(whole, well, "cells"))) > 5


def test_the_labels_are_those_of_the_flows_in_one_piece(whole: PlatePaths) -> None:
    flow = open_flows(whole.flows("nuclei", "B02", 0), 0)[:]
    assert flow.dtype == np.float16
    assert flow.shape == (3, 192, 384)
    assert np.array_equal(labels_from_flows(flow[:2], flow[2]), labels_of(whole, "B02", "nuclei"))


def test_the_table_of_objects_tells_of_the_labels(whole: PlatePaths) -> None:
    labels = labels_of(whole, "B02", "nuclei")
    table = pq.read_table(whole.objects("nuclei", "B02")).to_pandas()
    assert list(table) == [
        "label", "canvas", "seed_z", "seed_y", "seed_x", "area_px", "flow_error", "cell_probability",
    ]  # fmt: skip
    assert table["label"].tolist() == list(range(1, labels.max() + 1))
    assert table["area_px"].tolist() == np.bincount(labels.ravel())[1:].tolist()
    half = labels_of(whole, "B02", "nuclei", 1)
    assert half.shape == (96, 192)
    assert set(np.unique(half)) <= set(np.unique(labels))
    assert (half > 0).mean() == pytest.approx((labels > 0).mean(), abs=0.02)
    assert (table["cell_probability"] > 0.5).all()
    assert (table["flow_error"] <= 0.4).all()


def test_the_journal_says_how_it_was_computed(whole: PlatePaths) -> None:
    for entry in journal(whole, "infer"):
        info = entry["info"]
        assert (info["tiles"], info["tiles_skipped"], info["batch"]) == (2, 0, 4)
        assert (info["device"], info["dtype"], info["threads"]) == ("cpu", "float32", 1)
        assert info["model"] == "tiny"
        assert "BSD-3-Clause" in info["licence"]


@pytest.mark.parametrize(
    "keys",
    [{"parts": {"cpu": 4, "gpu": 2}, "follow_slices": 3, "follow_block_px": 64}, {"follow_slices": 2}],
    ids=["parts, slices, blocks", "slices"],
)
def test_parts_slices_and_blocks_change_no_byte(
    whole: PlatePaths, copied: tuple[PlateSpec, Path], keys: dict[str, Any]
) -> None:
    paths = run(config_of(copied[1], **keys), copied[0], "infer", "follow", "stitch")
    for label_set in SETS:
        for well in ("B02", "B03"):
            for path in (paths.flows(label_set, well, 0), paths.objects(label_set, well)):
                assert path.read_bytes() == (whole.root / path.relative_to(paths.root)).read_bytes()
            assert np.array_equal(labels_of(paths, well, label_set), labels_of(whole, well, label_set))
    if "follow_block_px" in keys:
        assert len(journal(paths, "follow")) == 2 * 2 * 18


def test_a_part_that_broke_off_and_goes_on_gives_the_same_flows(
    whole: PlatePaths, copied: tuple[PlateSpec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, written, write = config_of(copied[1]), [], infer._save

    def breaks_off(*arguments: Any) -> None:
        if len(written) == 2:
            raise OSError("the node went away")
        written.append(arguments)
        write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(infer, "_save", breaks_off)
        with pytest.raises(OSError, match="went away"):
            run(config, copied[0], "infer")
    paths = run(config, copied[0], "infer")
    assert len(journal(paths, "infer")) == 4, "what was written before stays done"
    for label_set in SETS:
        for well in ("B02", "B03"):
            path = paths.flows(label_set, well, 0)
            assert path.read_bytes() == (whole.root / path.relative_to(paths.root)).read_bytes()


@pytest.mark.parametrize(
    ("key", "tiles", "redone"),
    [({"augment": True}, 4, True), ({"dtype": "bfloat16"}, 2, False)],
)
def test_keys_of_inference_change_its_results(
    whole: PlatePaths, copied: tuple[PlateSpec, Path], key: dict[str, Any], tiles: int, redone: bool
) -> None:
    """What decides where and how fast asks for no well again, the dtype too: the journal keeps it."""
    config = config_of(copied[1], segmentation={"nuclei": SETS["nuclei"]}, **key)
    paths = run(config, copied[0], "infer")
    flow, expected = (open_flows(p.flows("nuclei", "B02", 0), 0)[:].astype(np.float32) for p in (paths, whole))
    assert 0 < np.linalg.norm(flow - expected) < (0.5 if redone else 0.05) * np.linalg.norm(expected)
    run(config_of(copied[1], segmentation={"nuclei": SETS["nuclei"]}), copied[0], "infer")
    entries = journal(paths, "infer")
    assert len(entries) == (4 if redone else 2)
    assert entries[0]["info"]["tiles"] == tiles
    assert entries[0]["info"]["dtype"] == key.get("dtype", "float32")


def test_fields_apart_are_canvases_and_numbers_run_on(tmp_path: Path) -> None:
    made = simulate_plate(
        tmp_path, wells=micro_wells()[:1], fields=2, field_shape=(160, 160), layout=PatternLayout, plate="apart"
    )
    pattern = r"(?P<well>[A-Z]\d\d)_s(?P<field>\d+)_w(?P<channel>\d)\.tif"
    entry = PlateSpec(plate="apart", path=str(made.raw), layout="pattern", pattern=pattern)
    sets = {"nuclei": {"channels": ["1"], "model": str(MODEL)}}
    config = config_of(tmp_path / "results", segmentation=sets)
    paths = run(config, entry, "ingest", "tile", "normalise", "infer", "stitch")
    table = pq.read_table(paths.objects("nuclei", "B02")).to_pandas()
    labels = labels_of(paths, "B02", "nuclei")
    assert sorted(set(table["canvas"])) == [0, 1]
    assert table["label"].tolist() == list(range(1, labels.max() + 1))
    second = table[table["canvas"] == 1]
    assert second["label"].min() == (table["canvas"] == 0).sum() + 1
    for row in table.itertuples():
        left, right = (0, 160) if row.canvas == 0 else (192, 352)
        assert left <= row.seed_x < right
        ys, xs = np.nonzero(labels == row.label)
        assert xs.min() >= left
        assert xs.max() < right
        assert abs(ys.mean() - row.seed_y) < 15
        assert abs(xs.mean() - row.seed_x) < 15
    assert not labels[:, 160:192].any()


def test_what_an_earlier_version_stored_is_of_use_and_goes_in_time(
    whole: PlatePaths, copied: tuple[PlateSpec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flows and end points were npy files of all pixels: nothing is done again but what another setting asks for."""
    entry, folder = copied

    def save(path: Path, array: NDArray[Any], _: Any) -> None:
        with atomic_file(path) as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)

    with monkeypatch.context() as earlier:
        for kind in ("flows", "endpoints"):
            now = getattr(PlatePaths, kind)
            earlier.setattr(PlatePaths, kind, lambda *key, now=now: now(*key).with_suffix(".npy"))
        for module in (infer, follow, stitch):
            for name, instead in {
                "write_flows": save, "write_endpoints": save,
                "open_flows": lambda path, _: np.load(path), "read_endpoints": lambda path, _: np.load(path),
            }.items():  # fmt: skip
                earlier.setattr(module, name, instead, raising=False)
        run(config_of(folder, follow_slices=2), entry, "infer", "follow", "stitch")
    paths = PlatePaths.of("p", results=folder)

    def redone() -> dict[str, int]:
        return {stage: len(journal(paths, stage)) for stage in ("infer", "follow", "stitch")}

    assert {path.suffix for path in paths.scratch.rglob("*") if path.is_file()} == {".npy"}
    run(config_of(folder, follow_slices=2), entry, "infer", "follow", "stitch")
    assert redone() == {"infer": 4, "follow": 4, "stitch": 4}
    sets = {"nuclei": SETS["nuclei"] | {"min_size_px": 40}, "cells": SETS["cells"] | {"cell_threshold": 1.0}}
    run(config_of(folder, follow_slices=2, segmentation=sets), entry, "infer", "follow", "stitch")
    assert redone() == {"infer": 4, "follow": 6, "stitch": 8}
    assert [path.suffix for path in sorted((paths.scratch / "ends" / "cells").rglob("*.*"))] == [".ends", ".ends"]
    assert labels_of(paths, "B02", "nuclei").any()
    run(config_of(folder, follow_slices=2), entry, "infer", "follow", "stitch")
    for well in ("B02", "B03"):
        for label_set in SETS:
            assert np.array_equal(labels_of(paths, well, label_set), labels_of(whole, well, label_set))
    request(paths, kind="retry", stage="infer")
    run(config_of(folder, follow_slices=2), entry, "infer", "follow", "stitch")
    assert {path.suffix for path in paths.scratch.rglob("*") if path.is_file()} == {".flows", ".ends"}


def test_another_bound_runs_the_network_again_and_changes_no_label(
    whole: PlatePaths, copied: tuple[PlateSpec, Path]
) -> None:
    entry, folder = copied
    run(config_of(folder), entry, "infer", "stitch")
    sets: dict[str, dict[str, Any]] = {**SETS, "nuclei": {**SETS["nuclei"], "cell_threshold": -3.0}}
    with pytest.raises(ConfigError, match=r"-3, below the bound(.|\n)*-2 \(of model(.|\n)*least_logit to -3"):
        run(config_of(folder, segmentation=sets), entry, "infer")
    sets["nuclei"] |= {"least_logit": -3.0}
    paths = run(config_of(folder, segmentation=sets), entry, "infer", "stitch")
    done = [line["label_set"] for line in journal(paths, "infer")]
    assert (done.count("cells"), done.count("nuclei")) == (2, 4)
    full = open_flows(paths.flows("nuclei", "B02", 0), -3.0)[:]
    expected = labels_from_flows(full[:2], full[2], cell_threshold=-3)
    assert np.array_equal(expected, labels_of(paths, "B02", "nuclei"))
    sets["nuclei"] |= {"cell_threshold": 0.0, "least_logit": 0.0}
    run(config_of(folder, segmentation=sets), entry, "infer", "stitch")
    assert np.array_equal(labels_of(paths, "B02", "nuclei"), labels_of(whole, "B02", "nuclei"))
    flow = open_flows(paths.flows("nuclei", "B02", 0), 0.0)[:]
    assert (flow[2] == -30).mean() == (full[2] <= 0).mean() > 0.2
    assert paths.objects("nuclei", "B02").read_bytes() == whole.objects("nuclei", "B02").read_bytes()


def test_a_well_that_was_left_out_loses_labels_and_objects(copied: tuple[PlateSpec, Path]) -> None:
    entry, folder = copied
    config = config_of(folder)
    paths = run(config, entry, "infer", "stitch")
    assert labels_of(paths, "B03", "nuclei").any()
    other = labels_of(paths, "B02", "nuclei")
    lines = read_lines(paths.journal("tile", "0"))
    last = [line for line in lines if line["event"] == "done" and line["well"] == "B03"][-1]
    last |= {"state": "quarantined", "reason": "truncated", "fingerprint": "other", "sequence": 9}
    append_line(paths.journal("tile", "0"), last)
    run(config, entry, "infer", "stitch")
    assert not labels_of(paths, "B03", "nuclei").any()
    assert not paths.objects("nuclei", "B03").exists()
    assert not paths.flows("nuclei", "B03", 0).exists()
    assert np.array_equal(labels_of(paths, "B02", "nuclei"), other)
    states = {(line["well"], line["label_set"]): (line["state"], line["reason"]) for line in journal(paths, "stitch")}
    assert states[("B03", "cells")] == ("quarantined", "truncated")


def test_a_changed_threshold_redoes_one_label_set_without_the_network(
    copied: tuple[PlateSpec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, folder = copied
    run(config_of(folder), entry, "infer", "stitch")

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr("plateflow.segment.engine.FlowEngine.load", no_network)
    changed = config_of(folder, segmentation={**SETS, "cells": {**SETS["cells"], "cell_threshold": 1.0}})
    paths = run(changed, entry, "infer", "stitch")
    done = [line["label_set"] for line in journal(paths, "stitch")]
    assert (done.count("cells"), done.count("nuclei")) == (4, 2)
    done = [line["label_set"] for line in journal(paths, "infer")]
    assert (done.count("cells"), done.count("nuclei")) == (2, 2)


def test_flows_that_are_gone_are_missed_by_nobody_until_they_are_needed(copied: tuple[PlateSpec, Path]) -> None:
    entry, folder = copied
    config = config_of(folder)
    paths = run(config, entry, "infer", "stitch")
    labels = labels_of(paths, "B02", "nuclei")
    shutil.rmtree(paths.scratch)
    run(config, entry, "infer", "stitch")
    changed = config_of(folder, segmentation={**SETS, "nuclei": {**SETS["nuclei"], "cell_threshold": 1.0}})
    run(changed, entry, "infer")
    with pytest.raises(PlateflowError, match=r"it is gone(.|\n)*run `snakemake` again: infer makes it anew"):
        run(changed, entry, "stitch")
    run(changed, entry, "infer", "stitch")
    assert labels_of(paths, "B02", "nuclei").astype(bool).sum() < labels.astype(bool).sum()


def test_a_job_with_nothing_to_do_imports_no_torch(whole: PlatePaths, plate: tuple[PlateSpec, Path, Path]) -> None:
    config = config_of(whole.root.parent)
    script = """
import json, sys
from plateflow.config import Config, PlateSpec
from plateflow.project import Plate
from plateflow.stages import follow, infer, stitch
from plateflow.stages.job import Job
from plateflow.state.requests import request
config, entry = Config.model_validate_json(sys.argv[1]), PlateSpec.model_validate_json(sys.argv[2])
sliced = config.model_copy(update={"follow_slices": 2})
jobs = (config, "infer", infer, "0"), (sliced, "follow", follow, "0-1"), (config, "stitch", stitch, "0")
for asked, name, stage, job in jobs:
    stage.run(Job.of(Plate(config=asked, spec=entry), name, job))
print([name for name in ("torch", "zarr") if name in sys.modules])
"""
    arguments = [config.model_dump_json(), plate[0].model_dump_json()]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "infer 0: 0 done, 4 already done",
        "follow 0-1: 0 done, 0 already done",
        "stitch 0: 0 done, 4 already done",
        "[]",
    ]


def test_a_channel_that_the_plate_lacks_is_named_before_anything_runs(plate: tuple[PlateSpec, Path, Path]) -> None:
    config = config_of(plate[1], segmentation={"nuclei": {"channels": ["Hoechst"]}})
    with pytest.raises(PlateflowError, match=r"no channel 'Hoechst'[\s\S]*'DNA', 'AGP', 'Marker'"):
        run(config, plate[0], "infer")


def test_a_diameter_needs_the_pixel_size_and_good_sense(
    plate: tuple[PlateSpec, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {"nuclei": {"channels": ["DNA"], "diameter_um": 12.0, "model": "default"}}
    job = Job.of(Plate(config=config_of(plate[1], segmentation=sets), spec=plate[0]), "infer", "0")
    metadata = json.loads(job.paths.metadata.read_text())
    monkeypatch.setattr(Plate, "metadata", {**metadata, "pixel_size_um": None})
    with pytest.raises(ConfigError, match="pixel size of the plate is not known"):
        infer.work_items(job)
    sets["nuclei"] = {"channels": ["DNA"], "diameter_px": 12.0, "model": "default"}
    in_px = Plate(config=config_of(plate[1], segmentation=sets), spec=plate[0])
    assert in_px.grid("nuclei").scale == model_spec("default").diameter / 12.0
    assert in_px.parameters("infer")["nuclei"]["diameter_px"] == in_px.parameters("follow")["nuclei"]["diameter_px"]
