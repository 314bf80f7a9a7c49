"""One well, followed in one job or in six: the same files, byte for byte."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from segment_project import MODEL, config_of, run, volume_of
from simulated_stack import simulate_stack_plate

from plateflow.chain import STAGES
from plateflow.config import PlateSpec
from plateflow.files import digest
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.stages import labels, stage_module
from plateflow.stages.follow import follow_items
from plateflow.stages.job import Job, dependencies
from plateflow.stages.stale import to_do
from plateflow.state.journal import Entry, append_outcome


def files_of(root: Path) -> dict[str, bytes]:
    """All that stitch and follow leave, without clocks; receipts without the digest of what was asked."""
    folders = (root / "plate.zarr", root / "objects", root / "receipts" / "stitch")
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(root)).split(".")[0] if "receipts" in path.parts else str(path.relative_to(root)): (
            path.read_bytes()
        )
        for path in found
    }


@pytest.mark.parametrize("dimensions", [2, 3])
def test_slices_change_no_byte_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimensions: int) -> None:
    if dimensions == 2:
        raw = simulate_plate(tmp_path, wells=micro_wells()[:1], fields=2, field_shape=(160, 160), plate="p").raw
    else:
        raw, _ = simulate_stack_plate(tmp_path, plate="p", shape=(10, 80, 80), nuclei=9)
    entry = PlateSpec(plate="p", path=str(raw))
    keys: dict[str, Any] = {
        "segmentation": {"nuclei": {"channels": ["DNA"], "model": str(MODEL), "dimensions": dimensions}},
        "z": "keep",
        "follow_block_px": 64,
    }
    inferred = run(config_of(tmp_path / "inferred", **keys), entry, "ingest", "tile", "normalise", "infer")
    stores, blocks = [], []

    def follow_and_stitch(name: str, **changed: Any) -> None:
        shutil.copytree(inferred.root.parent, tmp_path / name)
        slices = changed.get("follow_slices", 1)
        chain = ("stitch",) if slices == 1 else ("follow", "stitch")
        paths = run(config_of(tmp_path / name, **{**keys, **changed}), entry, *chain)
        assert volume_of(paths, "B02", "nuclei").max() >= 6
        blocks.append(len(list(paths.scratch.glob("ends/nuclei/B02/*.ends"))))
        assert len(list(paths.root.glob("receipts/follow/*.json"))) == (slices if slices > 1 else 0)
        assert {path.suffix for path in paths.scratch.rglob("*") if path.is_file()} <= {".flows", ".ends"}
        stores.append(files_of(paths.root))

    follow_and_stitch("one")
    follow_and_stitch("six", follow_slices=6)
    follow_and_stitch("whole", follow_block_px=4096, follow_slices=2)
    # As with canvases that are too large for the memory: labels in a file.
    monkeypatch.setattr(labels, "IN_MEMORY_PX", 0)
    follow_and_stitch("in a file")
    monkeypatch.undo()

    assert blocks[0] == blocks[3] == 0, "where stitch follows the flow itself, end points are never written"
    assert blocks[1] > 6
    assert blocks[2] == 1
    assert any("/labels/nuclei/0/c/" in name for name in stores[0])
    assert stores[0] == stores[1] == stores[3]
    # The size of blocks is in the fingerprints, and so in the receipts; it is in no result.
    without = [{name: data for name, data in found.items() if "receipts" not in name} for found in stores]
    assert without[0] == without[2]


def test_another_number_of_slices_redoes_nothing(tmp_path: Path) -> None:
    """Nor does `follow` make endpoints that nobody needs; once labels are to be made again, it does, or stitch does."""
    raw = simulate_plate(tmp_path, wells=micro_wells()[:1], fields=1, field_shape=(160, 160), plate="p").raw
    entry = PlateSpec(plate="p", path=str(raw))

    def go(slices: int, *chain: str, **settings: Any) -> tuple[PlatePaths, dict[str, int]]:
        sets = {"nuclei": {"channels": ["DNA"], "model": str(MODEL), **settings}}
        config = config_of(tmp_path / "results", segmentation=sets, follow_slices=slices, follow_block_px=64)
        paths = run(config, entry, *chain)
        plate = Plate(config=config, spec=entry)
        assert not {key for key in to_do(plate, files=True).items if key[0] in ("infer", "follow", "stitch")}
        return paths, {
            stage: sum(each.sequence for each in plate.outcomes(stage).values()) for stage in ("follow", "stitch")
        }

    paths, once = go(1, "ingest", "tile", "normalise", "infer", "stitch")
    assert once == {"follow": 0, "stitch": 1}
    before = files_of(paths.root)
    for slices, chain in ((4, ("follow", "stitch")), (1, ("stitch",)), (2, ("stitch",))):
        assert go(slices, *chain)[1] == once
        assert files_of(paths.root) == before
    # Of blocks without endpoints stitch follows the flow itself, so that it never waits for what isn't there.
    _, done = go(2, "stitch", min_size_px=30)
    assert done == {"follow": 0, "stitch": 2}
    _, done = go(4, "follow", "stitch", min_size_px=30)
    assert done == {"follow": 0, "stitch": 2}
    _, done = go(4, "follow", "stitch", min_size_px=30, cell_threshold=0.5)
    assert done == {"follow": 9, "stitch": 3}, "160 px are 3 x 3 blocks"
    with_endpoints = files_of(paths.root)
    _, done = go(1, "stitch", min_size_px=30, cell_threshold=0.5)
    assert done == {"follow": 9, "stitch": 3}
    _, done = go(1, "stitch")
    assert done == {"follow": 9, "stitch": 4}
    results = {name for name in before if "receipts" not in name}
    assert {name: data for name, data in files_of(paths.root).items() if name in results} == {
        name: before[name] for name in results
    }
    assert with_endpoints != before
    _, done = go(4, "follow", "stitch")
    assert done == {"follow": 9, "stitch": 4}, "what follow has made is of other parameters, and nobody needs it"


def test_what_a_former_release_made_with_one_slice_stands(tmp_path: Path) -> None:
    """It had jobs of follow even then; stitch depended on what they made."""
    raw = simulate_plate(tmp_path, wells=micro_wells(), fields=1, field_shape=(96, 96), plate="p").raw
    entry = PlateSpec(plate="p", path=str(raw))
    config = config_of(tmp_path / "results", follow_block_px=64)
    run(config, entry, "ingest", "tile", "normalise", "infer")
    plate = Plate(config=config, spec=entry)
    follow = Job(plate=plate, stage=STAGES["follow"], name="0-0")
    for item in follow_items(plate, plate.wells):
        depends = dependencies(follow, item)
        made = Entry(
            well=item.well,
            label_set=item.label_set,
            block=item.block,
            fingerprint=digest(depends),
            depends=depends,
            sequence=1,
        )
        append_outcome(plate.paths.journal("follow", "0-0"), made)
    stitch = Job.of(plate, "stitch", "0")
    followed = plate.outcomes("follow")
    assert len(followed) == 2 * 2 * 4
    for item in stage_module("stitch").work_items(stitch):
        of_item = [entry.fingerprint for key, entry in followed.items() if key[:2] == item.key[:2]]
        assert item.depends == {
            "follow": of_item,
            "parameters": {item.label_set: {"flow_threshold": 0.4, "min_size_px": 15, "levels": 3}},
        }
