"""One well, followed in one job or in six: the same files, byte for byte."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from segment_project import MODEL, config_of, run, volume_of

from plateflow.config import PlateEntry
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.simulate.stack import simulate_stack_plate


def files_of(root: Path) -> dict[str, bytes]:
    """All that stitch and follow leave, without clocks."""
    folders = (root / "plate.zarr", root / "objects", root / "receipts" / "stitch")
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_slices_change_no_byte_of_the_store(tmp_path: Path, dimensions: int) -> None:
    if dimensions == 2:
        raw = simulate_plate(tmp_path, wells=micro_wells()[:1], fields=2, field_shape=(160, 160), plate="p").raw
    else:
        raw, _ = simulate_stack_plate(tmp_path, plate="p", shape=(10, 80, 80), nuclei=9)
    entry = PlateEntry(plate="p", path=str(raw))
    keys: dict[str, Any] = {
        "segmentation": {"nuclei": {"channels": ["DNA"], "model": str(MODEL), "dimensions": dimensions}},
        "z": "keep",
        "follow_block_px": 64,
    }
    run(config_of(tmp_path / "inferred", **keys), entry, "ingest", "tile", "normalise", "infer")
    stores, blocks = [], []
    for slices, size in ((1, 64), (6, 64), (1, 4096)):
        folder = tmp_path / f"{slices}-{size}"
        shutil.copytree(tmp_path / "inferred", folder)
        config = config_of(folder, **{**keys, "follow_slices": slices, "follow_block_px": size})
        paths = run(config, entry, "follow", "stitch")
        assert volume_of(paths, "B02", "nuclei").max() >= 6
        blocks.append(len(list(paths.scratch.glob("ends/nuclei/B02/*.npy"))))
        assert len(list(paths.root.glob("receipts/follow/*.json"))) == slices
        stores.append(files_of(paths.root))
    assert blocks[0] == blocks[1] > 6
    assert blocks[2] == 1
    assert any("/labels/nuclei/0/c/" in name for name in stores[0])
    # The blocks are in the fingerprints of the receipts, their number isn't in any result.
    assert stores[0] == stores[1]
    of_whole = {name: data for name, data in stores[2].items() if "receipts" not in name}
    assert of_whole == {name: data for name, data in stores[0].items() if "receipts" not in name}
