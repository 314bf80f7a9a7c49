"""The three ways to labels: `follow` and `stitch`, `stitch` alone, `infer` alone. The same bytes, and one owner."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from segment_project import MODEL, SETS, config_of, labels_of, run
from simulated_stack import simulate_stack_plate
from vendors import PatternLayout

from plateflow.cli.network import lines, network_again
from plateflow.config import Config, PlateSpec
from plateflow.errors import PlateflowError
from plateflow.files import append_line, read_lines
from plateflow.images.canvas import Canvas
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.stages import infer, labels
from plateflow.stages.job import WorkItem
from plateflow.stages.reading import LostFileError
from plateflow.stages.stale import to_do

READ = ("ingest", "tile", "normalise")
WAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "one slice": ({}, ("infer", "stitch")),
    "slices": ({"follow_slices": 3}, ("infer", "follow", "stitch")),
    "flows aren't kept": ({"keep_flows": False, "follow_slices": 3}, ("infer",)),
}


def results_of(paths: PlatePaths) -> dict[str, bytes]:
    """Labels, and the tables of objects and cells."""
    files = [*paths.store.rglob("labels/*/*/c/**/*"), *paths.root.glob("objects/*/*"), *paths.root.glob("cells/*")]
    return {str(file.relative_to(paths.root)): file.read_bytes() for file in files if file.is_file()}


def leave_out(paths: PlatePaths, well: str) -> None:
    lines = read_lines(paths.journal("tile", "0"))
    last = [line for line in lines if line["event"] == "done" and line["well"] == well][-1]
    last |= {"state": "quarantined", "reason": "truncated", "fingerprint": "other", "sequence": 9}
    append_line(paths.journal("tile", "0"), last)


def apart(folder: Path) -> tuple[PlateSpec, dict[str, Any]]:
    """Two wells of three fields that don't touch: three canvases each, of two time points' places."""
    raw = simulate_plate(folder, wells=micro_wells(), fields=3, field_shape=(160, 128), layout=PatternLayout).raw
    pattern = r"(?P<well>[A-Z]\d\d)_s(?P<field>\d+)_w(?P<channel>\d)\.tif"
    sets = {name: {"channels": channels, "model": str(MODEL)} for name, channels in (("n", ["1"]), ("c", ["2", "1"]))}
    keys = {"segmentation": sets, "features": {"rows": "c"}}
    return PlateSpec(plate="demo", path=str(raw), layout="pattern", pattern=pattern), keys


def stack(folder: Path, dimensions: int) -> tuple[PlateSpec, dict[str, Any]]:
    """Two wells with a stack each: as volumes, or plane by plane."""
    raw, _ = simulate_stack_plate(folder, wells=("B02", "B03"), shape=(6, 80, 96), nuclei=8)
    sets = {"nuclei": {"channels": ["DNA"], "model": str(MODEL), "dimensions": dimensions}}
    return PlateSpec(plate="stack", path=str(raw)), {"segmentation": sets, "z": "keep"}


CASES = {
    "canvases": apart,
    "volumes": lambda folder: stack(folder, 3),
    "planes": lambda folder: stack(folder, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_all_ways_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Over 20 s where nothing is compiled yet."""
    entry, keys = CASES[case](tmp_path)
    keys |= {"follow_block_px": 64, "features": {"families": "minimal", **keys.get("features", {})}}
    read = run(config_of(tmp_path / "read", **keys), entry, *READ)
    leave_out(read, "B03")
    found = {}
    for way, (how, chain) in [*WAYS.items(), ("in files", WAYS["flows aren't kept"])]:
        if way == "in files":  # as with canvases that are too large for the memory
            for module in (infer, labels):
                monkeypatch.setattr(module, "IN_MEMORY_PX", 0)
        shutil.copytree(read.root.parent, tmp_path / way)
        config = config_of(tmp_path / way, **keys, **how)
        paths = run(config, entry, *chain, "features")
        found[way] = results_of(paths)
        plate = Plate(config=config, spec=entry)
        assert not [key for key in to_do(plate, files=True).items if key[0] not in ("aggregate", "report")]
        made = plate.outcomes(chain[-1])
        assert {key[0]: entry.state for key, entry in made.items()} == {"B02": "ok", "B03": "quarantined"}
        if not config.keep_flows:
            assert not [path for path in paths.scratch.rglob("*") if path.is_file()]
            assert not paths.journals("stitch")
    assert len({bytes_ for name, bytes_ in found["one slice"].items() if "/c/" in name}) > 1
    assert any(name.startswith("cells/") for name in found["one slice"])
    for way, results in found.items():
        assert results == found["one slice"], way


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlateSpec, Path]:
    """Two wells of one field, tiled and normalised."""
    folder = tmp_path_factory.mktemp("read")
    raw = simulate_plate(folder, wells=micro_wells(), fields=1, field_shape=(160, 160), plate="p").raw
    entry = PlateSpec(plate="p", path=str(raw))
    run(config_of(folder / "results"), entry, *READ)
    return entry, folder / "results"


@pytest.fixture
def copied(read: tuple[PlateSpec, Path], tmp_path: Path) -> tuple[PlateSpec, Path]:
    shutil.copytree(read[1], tmp_path / "results")
    return read[0], tmp_path / "results"


def stale(config: Config, entry: PlateSpec) -> dict[str, set[str]]:
    """By stage, why something is to do."""
    why: dict[str, set[str]] = {}
    for (stage, _), item in to_do(Plate(config=config, spec=entry), files=True).items.items():
        why.setdefault(stage, set()).add(", ".join(item.why))
    return why


def test_a_segmentation_parameter_then_asks_for_the_network_by_its_name(copied: tuple[PlateSpec, Path]) -> None:
    entry, folder = copied
    config = config_of(folder, keep_flows=False)
    paths = run(config, entry, "infer")
    assert not {"infer", "follow", "stitch"} & stale(config, entry).keys()
    for key, value in (("cell_threshold", 1.0), ("flow_threshold", 0.3), ("min_size_px", 40)):
        sets = {**SETS, "cells": {**SETS["cells"], key: value}}
        assert stale(config_of(folder, keep_flows=False, segmentation=sets), entry)["infer"] == {key}
    assert "infer" not in stale(config_of(folder, keep_flows=False, follow_block_px=64, follow_slices=2), entry)
    sets = {**SETS, "cells": {**SETS["cells"], "least_logit": -4.0}}
    assert "infer" not in stale(config_of(folder, keep_flows=False, segmentation=sets), entry), "nothing is stored"
    changed = config_of(folder, keep_flows=False, segmentation={**SETS, "cells": {**SETS["cells"], "min_size_px": 999}})
    before = {name: labels_of(paths, "B02", name) for name in SETS}
    run(changed, entry, "infer")
    done = {key[1]: each.sequence for key, each in Plate(config=changed, spec=entry).outcomes("infer").items()}
    assert done == {"nuclei": 1, "cells": 2}
    assert (labels_of(paths, "B02", "nuclei") == before["nuclei"]).all()
    assert labels_of(paths, "B02", "cells").max() < before["cells"].max()


def test_labels_have_one_owner_when_flows_are_kept_no_more_and_again(copied: tuple[PlateSpec, Path]) -> None:
    entry, folder = copied
    kept = config_of(folder, features={"families": "minimal"})
    paths = run(kept, entry, "infer", "stitch", "features")
    before = results_of(paths)
    # Other labels than those that stitch has made, in the same files.
    sets = {**SETS, "nuclei": {**SETS["nuclei"], "min_size_px": 99}}
    not_kept = config_of(folder, keep_flows=False, features={"families": "minimal"}, segmentation=sets)
    assert stale(not_kept, entry)["infer"] == {"keep_flows"}, "all else that differs says nothing"
    run(not_kept, entry, "infer", "features")
    assert not {"infer", "features"} & stale(not_kept, entry).keys()
    assert not [path for path in paths.scratch.rglob("*") if path.is_file()], "nothing needs it"
    assert results_of(paths) != before
    # Back: what stitch has made isn't there any more, though its journal lists the same files.
    assert stale(kept, entry)["infer"] == stale(kept, entry)["stitch"] == {"keep_flows"}
    plates = {"p": Plate(config=config_of(folder, follow_slices=2), spec=entry)}
    assert "after it follow, stitch, features, aggregate, report:" in next(lines(network_again(plates, {}), plates))
    assert not Plate(config=kept, spec=entry).outcomes("stitch").required("B02", "nuclei").files
    run(kept, entry, "infer")
    assert not paths.objects("nuclei", "B02").exists(), "labels without flow fields went with the way they were made"
    run(kept, entry, "stitch", "features")
    assert not {"infer", "stitch", "features"} & stale(kept, entry).keys()
    assert results_of(paths) == before


@pytest.mark.parametrize("first", [True, False])
def test_a_change_of_ways_that_is_broken_off_and_taken_back(
    copied: tuple[PlateSpec, Path], monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """Labels of the other way were written, and no journal tells."""
    entry, folder = copied
    other_labels = {name: {**values, "min_size_px": 99} for name, values in SETS.items()}
    config = config_of(folder, keep_flows=first, features={"families": "minimal"})
    other = config_of(folder, keep_flows=not first, segmentation=other_labels, follow_slices=2)
    chains = {True: ("infer", "stitch"), False: ("infer",)}
    paths = run(config, entry, *chains[first], "features")
    before = results_of(paths)

    def breaks_off(*_: Any) -> None:
        raise OSError("the node went away")

    with monkeypatch.context() as patched:
        patched.setattr(labels.WellLabels, "finish", breaks_off)
        with pytest.raises(OSError, match="went away"):
            run(other, entry, *chains[not first])
    assert results_of(paths).keys() <= before.keys()
    assert results_of(paths) != before
    assert "infer" in stale(config, entry)
    run(config, entry, *chains[first], "features")
    assert results_of(paths) == before
    assert not stale(config, entry).keys() - {"aggregate", "report"}


def test_a_stage_that_the_configuration_lacks_is_refused(copied: tuple[PlateSpec, Path]) -> None:
    entry, folder = copied
    for stage, keys in (("follow", {}), ("follow", {"keep_flows": False}), ("stitch", {"keep_flows": False})):
        with pytest.raises(PlateflowError, match=f"this configuration has no stage {stage}"):
            run(config_of(folder, **keys), entry, stage)


@pytest.mark.parametrize("broken", ["labels", "network"])
def test_what_breaks_off_ends_the_job_and_goes_on_to_the_same_labels(
    copied: tuple[PlateSpec, Path], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Neither side waits for the other for ever."""
    entry, folder = copied
    shutil.copytree(folder, folder.with_name("whole"))
    whole = run(config_of(folder.with_name("whole"), keep_flows=False), entry, "infer")
    config, calls = config_of(folder, keep_flows=False, batch_size=1), []
    place: Any = infer.WellLabels if broken == "labels" else infer._Labels
    name = "add" if broken == "labels" else "put"
    work = getattr(place, name)

    def breaks_off(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError("the node went away")
        work(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(place, name, breaks_off)
        with pytest.raises(OSError, match="went away"):
            run(config, entry, "infer")
    assert not [thread.name for thread in threading.enumerate() if "(work)" in thread.name], "the engine's"
    paths = run(config_of(folder, keep_flows=False), entry, "infer")
    assert results_of(paths) == results_of(whole)
    sequences = {entry.sequence for entry in Plate(config=config, spec=entry).outcomes("infer").values()}
    assert sequences == {1}, "what was done before stays done"


def test_no_more_flow_fields_wait_than_are_allowed(
    copied: tuple[PlateSpec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, folder = copied
    here, most = set(), []
    put, add = infer._Labels.put, infer.WellLabels.add

    def counted(self: Any, item: Any, canvas: Any, flow: Any) -> None:
        put(self, item, canvas, flow)
        here.add(item.key)
        most.append(len(here))

    def slow(self: Any, canvas: Any, make: Any) -> None:
        threading.Event().wait(0.3)  # the network is faster
        add(self, canvas, make)
        here.discard((self.well, self.label_set, -1))

    monkeypatch.setattr(infer._Labels, "put", counted)
    monkeypatch.setattr(infer.WellLabels, "add", slow)
    run(config_of(folder, keep_flows=False), entry, "infer")
    assert max(most) == infer.WAITING


def test_labels_that_are_lost_are_made_again_by_the_stage_that_made_them(copied: tuple[PlateSpec, Path]) -> None:
    entry, folder = copied
    config = config_of(folder, keep_flows=False, features={"families": "minimal"})
    paths = run(config, entry, "infer", "features")
    before = results_of(paths)
    (shard,) = (paths.image("B03") / "labels/nuclei/0").rglob("c/0/0/0/0")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert stale(config, entry)["infer"] == {"files"}
    paths.cells("B03").unlink()
    with pytest.raises(LostFileError, match="run `snakemake` again: infer makes it anew"):
        run(config, entry, "features")
    run(config, entry, "infer")
    assert stale(config, entry)["features"] == {"infer nuclei"}, "on another machine these may be other labels"
    run(config, entry, "features")
    assert results_of(paths) == before
    done = {key[:2]: each.sequence for key, each in Plate(config=config, spec=entry).outcomes("infer").items()}
    assert done == {("B02", "nuclei"): 1, ("B02", "cells"): 1, ("B03", "nuclei"): 2, ("B03", "cells"): 1}


def test_pixels_that_label_sets_share_are_those_of_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Canvas 0 of a label set is at the first time point that has all of its channels."""
    channels = {"nuclei": ["DNA"], "cells": ["AGP", "DNA"]}
    read: list[tuple[int, str]] = []

    def pixels(_job: Any, _image: Any, canvas: Canvas, names: list[str]) -> NDArray[np.float32]:
        read.extend((canvas.t, name) for name in names)
        return np.stack([np.full((2, 3), 10 * canvas.t + (3 if name == "DNA" else 4), np.float32) for name in names])

    monkeypatch.setattr(infer, "_read", pixels)
    job: Any = SimpleNamespace(plate=SimpleNamespace(channels_of=channels.get))
    items = [WorkItem(well="B02", label_set=name, data=None) for name in channels]
    shared = infer._Shared(job, items)
    size: dict[str, Any] = {"z": 0, "y": 0, "x": 0, "height": 2, "width": 3, "fields": ()}
    times = {"nuclei": (0, 1), "cells": (1,)}
    for item in items:
        for index, t in enumerate(times[item.label_set]):
            seen = shared.read(item, Canvas(index=index, t=t, **size), None)  # type: ignore[arg-type]
            expected = [10 * t + (3 if name == "DNA" else 4) for name in channels[item.label_set]]
            assert seen[:, 0, 0].tolist() == expected, (item.label_set, t)
    assert read == [(0, "DNA"), (1, "DNA"), (1, "AGP")], "what was read once isn't read again"
