"""Files of the results are lost or damaged: it is seen when they are read, and a run makes them again as they were."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from segment_project import SETS, config_of, run

from plateflow.chain import STAGES
from plateflow.config import PlateSpec
from plateflow.paths import PlatePaths
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.stages.reading import LostFileError
from plateflow.state.journal import outcomes
from plateflow.state.requests import request

CHAIN = ("ingest", "tile", "normalise", "infer", "follow", "stitch", "features")


class Small:
    """A plate of two wells, through the chain in this process; each test has a copy of its results."""

    def __init__(self, entry: PlateSpec, results: Path) -> None:
        self.entry, self.results = entry, results
        self.paths = PlatePaths.of("p", results=results)

    def run(self, *stages: str) -> None:
        sets, features = {"nuclei": SETS["nuclei"]}, {"families": "minimal"}
        run(config_of(self.results, segmentation=sets, features=features, follow_slices=2), self.entry, *stages)

    def content(self) -> dict[str, bytes]:
        """All but the books."""
        folders = ("plate.zarr", "manifest", "histograms", "objects", "cells", "scratch")
        found = [path for folder in folders for path in (self.paths.root / folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.paths.root)): path.read_bytes() for path in found}

    def done(self) -> dict[tuple[str, str], int]:
        """By stage and well the number of its last outcome."""
        return {
            (stage, key[0]): entry.sequence
            for stage in STAGES
            for key, entry in outcomes(self.paths.journals(stage)).items()
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("whole")
    made = simulate_plate(folder, wells=micro_wells(), fields=1, field_shape=(128, 128), plate="p", seed=4)
    plate = Small(PlateSpec(plate="p", path=str(made.raw)), folder / "results")
    plate.run(*CHAIN)
    return plate


@pytest.fixture
def plate(whole: Small, tmp_path: Path) -> Small:
    shutil.copytree(whole.results, tmp_path / "results")
    return Small(whole.entry, tmp_path / "results")


@pytest.mark.parametrize(
    ("lost", "redone"),
    [
        ("plate.zarr", {("ingest", ""), *((stage, well) for stage in ("tile", "stitch") for well in ("B02", "B03"))}),
        ("plate.zarr/B/03", {("ingest", ""), ("tile", "B03"), ("stitch", "B03")}),
        ("plate.zarr/B/03/0/labels/nuclei/1/zarr.json", {("ingest", "")}),
    ],
    ids=["store", "well", "metadata"],
)
def test_a_store_that_was_removed_is_made_again_without_the_network(
    plate: Small, whole: Small, lost: str, redone: set[tuple[str, str]]
) -> None:
    path, before = plate.paths.root / lost, plate.done()
    path.unlink() if path.is_file() else shutil.rmtree(path)
    plate.run(*CHAIN)
    assert plate.content() == whole.content()
    after = plate.done()
    assert {key for key in after if after[key] != before[key]} == redone


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


CASES: dict[str, tuple[str, str, Callable[[PlatePaths], Path]]] = {
    "shard of an image": ("features", "tile", lambda paths: paths.image("B03") / "0/c/0/0/0/0/0"),
    "shard of labels": ("features", "stitch", lambda paths: paths.image("B03") / "labels/nuclei/0/c/0/0/0/0"),
    "arrays of labels": ("stitch", "ingest", lambda paths: paths.image("B03") / "labels/nuclei/0/zarr.json"),
    "image": ("tile", "ingest", lambda paths: paths.image("B03").parent / "zarr.json"),
    "flows": ("stitch", "infer", lambda paths: paths.flows("nuclei", "B03", 0)),
    "endpoints": ("stitch", "follow", lambda paths: paths.endpoints("nuclei", "B03", 0, 0)),
    "histogram": ("normalise", "tile", lambda paths: paths.histogram("B03")),
    "objects": ("features", "stitch", lambda paths: paths.objects("nuclei", "B03")),
    "window": ("infer", "normalise", lambda paths: paths.window),
    "illumination": ("infer", "normalise", lambda paths: paths.illumination),
    "planes": ("tile", "ingest", lambda paths: paths.planes),
    "plate": ("follow", "ingest", lambda paths: paths.metadata),
}


@pytest.mark.parametrize("which", CASES)
def test_a_flipped_bit_is_an_error_that_names_the_file_and_the_next_run_mends_it(
    plate: Small, whole: Small, which: str
) -> None:
    reader, maker, place = CASES[which]
    path = place(plate.paths)
    assert path.is_file()
    flip(path)
    request(plate.paths, kind="retry", stage=reader)
    with pytest.raises(LostFileError) as error:
        plate.run(reader)
    of_well = maker not in ("ingest", "normalise")
    assert error.value.where.startswith("p/B03" if of_well else "p:")
    assert error.value.where.endswith(f": {path}")
    assert error.value.stage == maker
    plate.run(*CHAIN)
    wanted, window = whole.content(), "manifest/window.json"
    if reader == "normalise":  # the window says which request it follows
        wanted[window] = wanted[window].replace(b'"request": 0', b'"request": 1')
    assert plate.content() == wanted


def test_all_that_was_purged_is_made_again_by_one_run(plate: Small, whole: Small) -> None:
    shutil.rmtree(plate.paths.scratch)
    for well in ("B02", "B03"):
        plate.paths.objects("nuclei", well).unlink()
    with pytest.raises(LostFileError, match="it is gone"):
        plate.run(*CHAIN)  # stitch misses the flows, which nobody needed as long as its own files were there
    plate.run(*CHAIN)
    assert plate.content() == whole.content()
