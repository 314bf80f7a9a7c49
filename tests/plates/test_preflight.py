from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from plateflow.config import Config, LabelSet, PlateEntry, PlateflowError
from plateflow.paths import PlatePaths
from plateflow.plates.check import changed_files, check_channels, check_plate
from plateflow.plates.plate import index_plate
from plateflow.simulate.plate import Fault, SimulatedPlate, micro_wells, simulate_plate

CONFIG = Config(segmentation={"nuclei": LabelSet(channels=["DNA"])})
DAMAGE = (
    Fault(kind="truncated", well="B02", field=0, channel=1),
    Fault(kind="missing", well="B02", field=1, channel=2),
    Fault(kind="32bit", well="B03", field=0, channel=0),
    Fault(kind="zero-byte", well="B03", field=1, channel=0),
)


def simulate(folder: Path, *faults: Fault) -> tuple[SimulatedPlate, PlateEntry]:
    made = simulate_plate(folder, wells=micro_wells(), field_shape=(48, 48), faults=faults)
    return made, PlateEntry(plate="p", path=str(made.raw), plate_map=str(made.plate_map))


def test_a_sound_plate_has_no_problem(tmp_path: Path) -> None:
    _, entry = simulate(tmp_path)
    assert check_plate(entry, CONFIG, deep=True) == []


def test_every_damaged_file_is_named(tmp_path: Path) -> None:
    _, entry = simulate(tmp_path, *DAMAGE)
    problems = check_plate(entry, CONFIG)
    found = {(p.well, p.field, p.what.split(": ")[1], Path(p.file).suffix) for p in problems}
    assert found == {
        ("B02", "1", "truncated", ".tiff"),
        ("B02", "2", "missing", ".tiff"),
        ("B03", "1", "wrong_type", ".tiff"),
        ("B03", "2", "empty_file", ".tiff"),
    }
    assert all(p.severity == "error" and p.remedy and p.plate == "p" for p in problems)


def test_deep_decodes(tmp_path: Path) -> None:
    made, entry = simulate(tmp_path)
    path = sorted((made.raw / "Images").glob("*.tiff"))[0]
    content = bytearray(path.read_bytes())
    content[-1500:] = bytes(np.random.default_rng(1).bytes(1500))
    path.write_bytes(bytes(content))
    assert check_plate(entry, CONFIG) == []
    (problem,) = check_plate(entry, CONFIG, deep=True)
    assert problem.file == str(path)


def test_wells_of_map_and_plate_and_a_channel_that_is_not_there(tmp_path: Path) -> None:
    made, entry = simulate(tmp_path)
    made.plate_map.write_text("well,role\nB02,negative\nC05,positive\n")
    config = Config(segmentation={"nuclei": LabelSet(channels=["DAPI"])})
    found = {(p.severity, p.what) for p in check_plate(entry, config)}
    assert ("warning", "1 wells of the plate are not in the plate map: B03") in found
    assert ("warning", "1 wells of the plate map are not in the plate: C05") in found
    assert any(severity == "error" and "no channel 'DAPI'" in what for severity, what in found)
    made.plate_map.write_text("well,role\nB02,what\n")
    assert any("unknown role" in p.what for p in check_plate(entry, CONFIG))


def test_a_misspelt_channel_gets_the_right_one() -> None:
    info = {"plate": "p", "channels": [{"name": "HOECHST 33342"}, {"name": "Alexa 488"}]}
    config = Config(segmentation={"nuclei": LabelSet(channels=["Hoechst 33342"])})
    with pytest.raises(PlateflowError, match="did you mean 'HOECHST 33342'"):
        check_channels(config, info)


def test_a_plate_that_cannot_be_indexed_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (problem,) = check_plate(PlateEntry(plate="p", path=str(tmp_path / "x")), CONFIG)
    assert problem.severity == "error"
    assert "empty" in problem.what


def test_a_well_with_fewer_fields(tmp_path: Path) -> None:
    made, entry = simulate(tmp_path)
    index = made.raw / "Images" / "Index.idx.xml"
    head, *images = index.read_text().split("    <Image Version")
    keep = [text for text in images if "<URL>r02c03f02" not in text]
    tail = "" if "</Images>" in keep[-1] else images[-1][images[-1].index("  </Images>") :]
    index.write_text("    <Image Version".join([head, *keep]) + tail)
    problems = check_plate(entry, CONFIG)
    assert any(p.well == "B03" and p.what == "the well has 1 fields; most have 2" for p in problems)
    assert any("3 images are not in the index" in p.what for p in problems)


def test_files_that_changed_since_ingest(tmp_path: Path) -> None:
    made, entry = simulate(tmp_path / "raw", Fault(kind="missing", well="B02", field=0, channel=0))
    paths = PlatePaths.of("p", results=tmp_path / "results")
    assert changed_files(entry, paths) == []  # not ingested yet: nothing to compare with
    paths.planes.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pandas(index_plate(entry).planes), paths.planes)
    assert changed_files(entry, paths) == []
    images = made.raw / "Images"
    new, changed, gone = (
        images / f"r02c0{name}sk1fk1fl1.tiff" for name in ("2f01p01-ch1", "2f02p01-ch1", "3f01p01-ch1")
    )
    tifffile.imwrite(new, np.zeros((48, 48), np.uint16))
    changed.touch()
    gone.unlink()
    assert changed_files(entry, paths) == sorted([f"{new}: new", f"{changed}: changed", f"{gone}: gone"])
