"""One well, followed in one job or in six: the same files, byte for byte."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from segment_project import MODEL, config_of, run, volume_of
from simulated_stack import simulate_stack_plate

from plateflow.config import PlateSpec
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.stages import stitch


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
        paths = run(config_of(tmp_path / name, **{**keys, **changed}), entry, "follow", "stitch")
        assert volume_of(paths, "B02", "nuclei").max() >= 6
        blocks.append(len(list(paths.scratch.glob("ends/nuclei/B02/*.ends"))))
        assert len(list(paths.root.glob("receipts/follow/*.json"))) == changed.get("follow_slices", 1)
        assert {path.suffix for path in paths.scratch.rglob("*") if path.is_file()} == {".flows", ".ends"}
        stores.append(files_of(paths.root))

    follow_and_stitch("one")
    follow_and_stitch("six", follow_slices=6)
    follow_and_stitch("whole", follow_block_px=4096)
    # As with canvases that are too large for the memory: labels in a file.
    monkeypatch.setattr(stitch, "IN_MEMORY_PX", 0)
    follow_and_stitch("in a file")
    monkeypatch.undo()

    assert blocks[0] == blocks[1] == blocks[3] > 6
    assert blocks[2] == 1
    assert any("/labels/nuclei/0/c/" in name for name in stores[0])
    assert stores[0] == stores[1] == stores[3]
    # The size of blocks is in the fingerprints, and so in the receipts; it is in no result.
    without = [{name: data for name, data in found.items() if "receipts" not in name} for found in stores]
    assert without[0] == without[2]
