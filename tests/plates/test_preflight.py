import json
import math
import re
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from command_line import plateflow

from plateflow.cli.check import report
from plateflow.config import Config, LabelSet, PlateSpec, Quality
from plateflow.errors import ChannelError, ConfigError, RawDataError
from plateflow.paths import PlatePaths
from plateflow.plates.check import changed_files, check_channels, check_plate
from plateflow.plates.check_index import Problem, check_index
from plateflow.plates.check_pixels import check_pixels
from plateflow.plates.pixels import saturation_level
from plateflow.plates.plate import index_plate
from plateflow.plates.reader import Index
from plateflow.project import Plate
from plateflow.simulate.plate import Fault, SimulatedPlate, micro_wells, simulate_plate
from plateflow.stages import run_stage
from plateflow.stages.refusals import refused_of_plate

CONFIG = Config(segmentation={"nuclei": LabelSet(channels=["DNA"])})
DAMAGE = (
    Fault(kind="truncated", well="B02", field=0, channel=1),
    Fault(kind="missing", well="B02", field=1, channel=2),
    Fault(kind="32bit", well="B03", field=0, channel=0),
    Fault(kind="zero-byte", well="B03", field=1, channel=0),
)


def simulate(folder: Path, *faults: Fault) -> tuple[SimulatedPlate, PlateSpec]:
    made = simulate_plate(folder, wells=micro_wells(), field_shape=(48, 48), faults=faults)
    return made, PlateSpec(plate="p", path=str(made.raw), plate_map=str(made.plate_map))


def test_a_sound_plate_has_no_problem(tmp_path: Path) -> None:
    _, spec = simulate(tmp_path)
    assert check_plate(spec, CONFIG, deep=True) == []


def test_every_damaged_file_is_named(tmp_path: Path) -> None:
    _, spec = simulate(tmp_path, *DAMAGE)
    problems = check_plate(spec, CONFIG)
    found = {(p.well, p.field, p.what.split(": ")[1], Path(p.file).suffix) for p in problems}
    assert found == {
        ("B02", "1", "truncated", ".tiff"),
        ("B02", "2", "missing", ".tiff"),
        ("B03", "1", "wrong_type", ".tiff"),
        ("B03", "2", "empty_file", ".tiff"),
    }
    assert all(p.severity == "error" and p.remedy and p.plate == "p" for p in problems)


def test_deep_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plateflow.plates.check_pixels.SAMPLED_FIELDS", 1)
    made, spec = simulate(tmp_path)
    path = sorted((made.raw / "Images").glob("*.tiff"))[-1]
    content = bytearray(path.read_bytes())
    content[-1500:] = bytes(np.random.default_rng(1).bytes(1500))
    path.write_bytes(bytes(content))
    assert check_plate(spec, CONFIG) == []
    (problem,) = check_plate(spec, CONFIG, deep=True)
    assert problem.file == str(path)


def test_wells_of_map_and_plate_and_a_channel_that_is_not_there(tmp_path: Path) -> None:
    made, spec = simulate(tmp_path)
    made.plate_map.write_text("well,role\nB02,negative\nC05,positive\n")
    config = Config(segmentation={"nuclei": LabelSet(channels=["DAPI"])})
    found = {(p.severity, p.what) for p in check_plate(spec, config)}
    assert ("warning", "1 well of the plate is not in the plate map: B03") in found
    assert ("warning", "1 well of the plate map is not in the plate: C05") in found
    assert any(severity == "error" and "no channel 'DAPI'" in what for severity, what in found)
    made.plate_map.write_text("well,role\nB02,what\n")
    assert any("unknown role" in p.what for p in check_plate(spec, CONFIG))


def test_a_misspelt_channel_gets_the_right_one() -> None:
    metadata = {"plate": "p", "channels": [{"name": "HOECHST 33342"}, {"name": "Alexa 488"}]}
    config = Config(segmentation={"nuclei": LabelSet(channels=["Hoechst 33342"])})
    with pytest.raises(ChannelError, match="did you mean 'HOECHST 33342'"):
        check_channels(config, metadata)


def test_a_plate_that_cannot_be_indexed_is_one_problem(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (problem,) = check_plate(PlateSpec(plate="p", path=str(tmp_path / "x")), CONFIG)
    assert problem.severity == "error"
    assert "empty" in problem.what


def test_a_well_with_fewer_fields(tmp_path: Path) -> None:
    made, spec = simulate(tmp_path)
    index = made.raw / "Images" / "Index.idx.xml"
    head, *images = index.read_text().split("    <Image Version")
    keep = [text for text in images if "<URL>r02c03f02" not in text]
    tail = "" if "</Images>" in keep[-1] else images[-1][images[-1].index("  </Images>") :]
    index.write_text("    <Image Version".join([head, *keep]) + tail)
    problems = check_plate(spec, CONFIG)
    assert any(p.well == "B03" and p.what == "the well has 1 field; most have 2" for p in problems)
    assert any("3 images are not in the index" in p.what for p in problems)


def test_files_that_changed_since_ingest(tmp_path: Path) -> None:
    made, spec = simulate(tmp_path / "raw", Fault(kind="missing", well="B02", field=0, channel=0))
    paths = PlatePaths.of("p", results=tmp_path / "results")
    assert changed_files(spec, paths) == []  # not ingested yet: nothing to compare with
    paths.planes.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pandas(index_plate(spec).planes), paths.planes)
    assert changed_files(spec, paths) == []
    images = made.raw / "Images"
    new, changed, gone = (
        images / f"r02c0{name}sk1fk1fl1.tiff" for name in ("2f01p01-ch1", "2f02p01-ch1", "3f01p01-ch1")
    )
    tifffile.imwrite(new, np.zeros((48, 48), np.uint16))
    changed.touch()
    gone.unlink()
    assert changed_files(spec, paths) == sorted([f"{new}: new", f"{changed}: changed", f"{gone}: gone"])


def tables(**columns: Any) -> Index:
    """An index of two wells of 2 x 2 fields of 100 px that touch, one channel; columns replaced by lists."""
    rows = [(well, str(field)) for well in ("A01", "A02") for field in range(1, 5)]
    planes = pd.DataFrame(rows, columns=["well", "field"])
    planes = planes.assign(plate="p", channel="DNA", t=0, z=0, path=[f"{n}.tif" for n in range(8)], page=0)
    planes = planes.assign(y_um=[0.0, 0, 50, 50] * 2, x_um=[0.0, 50, 0, 50] * 2, dy_um=0.5, dx_um=0.5)
    planes = planes.assign(height=100, width=100, dtype="uint16", state="ok", reason="").assign(**columns)
    return Index(root=Path("/raw"), planes=planes, metadata={"plate": "p", "disagreements": [], "bit_max": 65535})


def found(index: Index) -> list[tuple[str, str, str, str]]:
    return [(p.severity, p.well, p.field, p.what) for p in check_index(index)]


def test_positions() -> None:
    assert found(tables()) == []
    on_each_other = tables(x_um=[0.0, 10, 0, 50] * 2)
    assert found(on_each_other) == [
        ("warning", "", "", "fields overlap, by up to 80% (such as 1 and 2), in 2 wells: A01, A02")
    ]
    tiled = tables(x_um=[0.0, 45, 0, 45] * 2)
    assert found(tiled) == [("note", "", "", "fields overlap, by up to 10% (such as 1 and 2), in 2 wells: A01, A02")]
    apart = tables(x_um=[0.0, 200, 0, 200] * 2, y_um=[0.0, 0, 150, 150] * 2)
    assert found(apart) == [("note", "", "", "gaps between fields, of 200 px and more, in 2 wells: A01, A02")]
    narrow = tables(x_um=[0.0, 52, 0, 52] * 2, y_um=[0.0, 0, 52, 52] * 2)
    assert found(narrow) == [("warning", "", "", "narrow gaps between fields, of 4 px and more, in 2 wells: A01, A02")]
    jitter = tables(x_um=[0.0, 50.4, 0, 50, 0, 50, 0.3, 50.2])
    assert found(jitter) == []


def test_a_field_that_strays_or_has_no_position() -> None:
    places = [(well, field) for well in ("A01", "A02", "A03") for field in "1234"]
    columns = {
        "well": [well for well, _ in places],
        "field": [field for _, field in places],
        "y_um": [0.0, 0, 50, 50] * 3,
        "x_um": [0.0, 50, 0, 50] * 2 + [0.0, 50, 0, 50000],
    }
    base = pd.concat([tables().planes] * 2).iloc[:12].reset_index(drop=True)
    index = replace(tables(), planes=base.assign(**columns, path=[f"{n}" for n in range(12)]))
    strays = [item for item in found(index) if "away from where it is" in item[3]]
    assert [item[:3] for item in strays] == [("warning", "A03", "4")]
    (lost,) = found(tables(y_um=[float("nan"), 0, 50, 50, 0, 0, 50, 50]))
    assert lost[:2] == ("warning", "A01")
    assert "1 field has no position: A01 field 1" in lost[3]


@pytest.mark.parametrize(
    ("size", "severity", "what"),
    [
        ((500.0, 500.0), "error", "outside the range of a light microscope"),
        ((0.0005, 0.0005), "error", "outside the range of a light microscope"),
        ((0.5, 0.6), "warning", "not square"),
        ((float("nan"), float("nan")), "note", "is unknown"),
    ],
)
def test_pixel_sizes(size: tuple[float, float], severity: str, what: str) -> None:
    first = found(tables(dy_um=size[0], dx_um=size[1]))[0]
    assert first[0] == severity
    assert what in first[3]


def test_one_file_for_two_planes() -> None:
    ((severity, well, _, what),) = found(tables(path=["a.tif", "a.tif", *(f"{n}.tif" for n in range(6))]))
    assert (severity, well) == ("warning", "A01")
    assert "2 planes" in what


def test_clocks_that_run_backwards() -> None:
    index = tables(t=[0, 1, 2, 3] * 2, field="1")
    for times, wells in (([0.0, 1, 2, 3] * 2, []), ([0.0, 1, 2, 3, 0, 2, 1, 3], ["A02"])):
        timed = replace(index, times_s=np.array(times))
        assert [p.well for p in check_index(timed) if "backwards" in p.what] == wells


@pytest.mark.parametrize(("offset", "known"), [("12.5", True), ("soon", False)])
def test_harmony_tells_when_planes_were_taken(tmp_path: Path, offset: str, known: bool) -> None:
    made, spec = simulate(tmp_path)
    index = made.raw / "Images" / "Index.idx.xml"
    tag = '<MeasurementTimeOffset Unit="s">'
    index.write_text(index.read_text().replace(f"{tag}0<", f"{tag}{offset}<"))
    times = index_plate(spec).times_s
    assert times is not None
    assert (times == 12.5).all() == known


def look(
    folder: Path, pixels: list[np.ndarray], *, bit_max: int = 65535, saturated_fraction: float = 0.01
) -> list[tuple[str, str]]:
    index = tables(path=[str(folder / f"{n}.tif") for n in range(8)], dtype=str(pixels[0].dtype))
    for n, plane in enumerate(pixels):
        tifffile.imwrite(folder / f"{n}.tif", plane)
    index = replace(index, metadata=index.metadata | {"bit_max": bit_max})
    return [(p.well + p.field, p.what) for p in check_pixels(index, saturated_fraction, deep=False)]


def noise(n: int, low: int = 100, high: int = 4000) -> np.ndarray:
    return np.random.default_rng(n).integers(low, high, (100, 100), dtype=np.uint16)


def test_pixels_that_are_odd(tmp_path: Path) -> None:
    sound = [noise(n) for n in range(8)]
    assert look(tmp_path, sound) == []
    constant = np.full((100, 100), 7, np.uint16)
    bright = np.where(np.arange(10_000).reshape(100, 100) < 200, 4095, noise(9)).astype(np.uint16)
    assert look(tmp_path, [constant, bright, sound[2], sound[2], *sound[4:]], bit_max=4095) == [
        ("A011", "channel DNA: constant: every pixel is 7"),
        ("A012", "channel DNA: saturated: 2.0% of the pixels are at the top of the range that is used, 4,095"),
        ("A014", "channel DNA: doubled: the same pixels as those of well A01, field 3, channel DNA, t 0, z 0"),
    ]


@pytest.mark.parametrize(("bits", "offset"), [(12, 0), (14, 0), (12, 32768), (12, 100)])
def test_saturation_is_seen_below_the_top_of_the_files_range(bits: int, offset: int) -> None:
    top, rng = 2**bits - 1, np.random.default_rng(0)
    nuclei = np.where(rng.random(200_000) < 0.1, rng.normal(0.8 * top, 0.15 * top, 200_000), 0)
    sound = np.clip(nuclei * 0.6 + rng.normal(0.05 * top, 0.01 * top, 200_000), 0, None)
    for pixels, expected in ((sound, 65535), (sound / 0.6, top + offset)):
        counts = np.bincount(np.rint(np.minimum(pixels, top)).astype(int) + offset, minlength=65536)
        assert saturation_level(counts, 65535) == expected
    for odd in ([7] * 1000, [0] * 600 + [200] * 400, list(range(256)) * 9):  # a lamp that is off, a mask, a ramp
        assert saturation_level(np.bincount(odd, minlength=65536), 65535) == 65535


@pytest.mark.parametrize(("fraction", "warned"), [(0.01, True), (0.02, True), (0.021, False)])
def test_saturation_is_judged_by_the_configuration(tmp_path: Path, fraction: float, warned: bool) -> None:
    """From `quality.saturated_fraction` on, as the flag of a field is."""
    made, spec = simulate(tmp_path)
    config = CONFIG.model_copy(update={"quality": Quality(saturated_fraction=fraction)})
    path = sorted((made.raw / "Images").glob("*.tiff"))[0]
    pixels = tifffile.imread(path)
    pixels.flat[: math.ceil(0.02 * pixels.size)] = 65535
    tifffile.imwrite(path, pixels)
    found = [problem.what for problem in check_plate(spec, config, deep=True)]
    assert any("saturated: 2.0% of the pixels" in what for what in found) == warned


def test_values_with_an_offset_or_a_spread(tmp_path: Path) -> None:
    ((_, what),) = look(tmp_path, [noise(n) + np.uint16(32768) for n in range(8)])
    assert "offset: none is below 32,8" in what
    ((_, what),) = look(tmp_path, [noise(n, 0, 256) * np.uint16(257) for n in range(8)])
    assert "multiples of 257 (8 bits spread over 16)" in what
    ((_, what),) = look(tmp_path, [noise(n) * np.uint16(16) for n in range(8)])
    assert what.endswith("multiples of 16")


def test_wells_of_the_map_that_the_plate_cannot_have(tmp_path: Path) -> None:
    made, spec = simulate(tmp_path)
    made.plate_map.write_text("well,role\nB02,negative\nB03,positive\nAF48,positive\n")
    (problem,) = check_plate(spec, CONFIG)
    assert problem.what == "1 well of the plate map lies off the plate of 8 x 12 wells: AF48"


def test_a_map_whose_columns_are_not_read_is_a_warning(tmp_path: Path) -> None:
    made, spec = simulate(tmp_path)
    made.plate_map.write_text("well,treatment,amount\nB02,x,1\nB03,x,2\nB04,x,1\n")
    first = check_plate(spec, CONFIG)[0]
    assert (first.severity, first.what.partition(" is ")[0], first.file) == ("warning", "amount", str(made.plate_map))
    assert "dose_uM" in first.remedy


def test_many_problems_of_one_kind_are_shown_shortly_and_the_worst_first() -> None:
    note = Problem(severity="note", plate="p", what="gaps", remedy="nothing")
    bad = [
        Problem(severity="error", plate="p", well=f"A{n:02d}", file="x", what="gone", remedy="copy") for n in range(30)
    ]
    lines = list(report([note, *bad]))
    assert lines == [
        *("error: p/A00: gone", "  file: x", "  and 29 more such: A01, A02, A03 and 26 more; --json lists all"),
        *("  what to do: copy", "note: p: gaps", "  what to do: nothing", "30 errors, 1 note"),
    ]


@pytest.mark.parametrize(
    ("kinds", "n_lines"),
    [
        (["the well has {} fields; most have 9"], 1),
        (["channel 488: saturated: {}% of the pixels", "channel 561: saturated: {}% of the pixels"], 2),
        (["truncated", "doubled"], 2),
    ],
)
def test_like_problems_differ_in_numbers_and_place_alone(kinds: list[str], n_lines: int) -> None:
    many = [Problem("warning", "p", kind.format(n), "look", well=f"B{n:02d}") for kind in kinds for n in range(1, 6)]
    told = [line for line in report(many) if line.startswith("warning: ")]
    assert len(told) == n_lines
    assert told[0] == f"warning: p/B01: {kinds[0].format(1)}"


def test_check_refuses_in_the_words_of_ingest_what_ingest_refuses(tmp_path: Path) -> None:
    """Positions that no plate has: found when the well's image is laid out."""
    made, spec = simulate(tmp_path)
    index = made.raw / "Images" / "Index.idx.xml"
    index.write_text(re.sub(r"(<PositionX[^>]*>)[^<]*", r"\g<1>7.5", index.read_text(), count=1))
    with pytest.raises(RawDataError, match="further apart than a plate is long") as error:
        run_stage(Plate(config=CONFIG.model_copy(update={"results": str(tmp_path / "results")}), spec=spec), "ingest")
    config = tmp_path / "config.yaml"
    config.write_text(f"plates: {tmp_path / 'plates.tsv'}\nresults: {tmp_path / 'results'}\n")
    (tmp_path / "plates.tsv").write_text(f"plate\tpath\np\t{made.raw}\n")
    problems = json.loads(plateflow("check", "--json", "--configfile", config, cwd=tmp_path, status=1))
    (problem,) = [problem for problem in problems if problem["severity"] == "error"]
    assert problem["what"].startswith(error.value.what)
    assert problem["remedy"] == error.value.remedy


def test_a_plate_map_in_windows_encoding_is_read_and_noted(tmp_path: Path) -> None:
    made, spec = simulate(tmp_path)
    text = made.plate_map.read_text().replace("negative", "negative", 1).replace("treatment", "treatment", 1)
    made.plate_map.write_bytes(text.replace("\n", ",µM\n").replace("µM", "unit", 1).encode("cp1252"))
    (problem,) = check_plate(spec, CONFIG)
    assert (problem.severity, problem.file) == ("note", str(made.plate_map))
    assert "Windows' encoding (cp1252): line 2 holds the byte 0xb5" in problem.what
    made.plate_map.write_bytes(made.plate_map.read_bytes().decode("cp1252").encode())
    assert check_plate(spec, CONFIG) == []


@pytest.mark.parametrize(
    ("z", "dimensions", "planes", "what", "why"),
    [
        ("keep", 2, (1, 5), "the channel a has no plane 1", "1 of the well's 5"),
        ("keep", 3, (1, 5), "the channel a has no plane 1", "1 of the well's 5"),
        ("keep", 3, (5, 3), "the channel b has no plane 3", "3 of the well's 5"),
        ("plane 7", 2, (3, 3), "the channel a has no plane 7", "the well has 3 z planes, 0 to 2"),
        ("plane 3", 2, (5, 3), "the channel b has no plane 3", "3 of the well's 5"),
        ("plane 1", 2, (1, 1), "the channel a has no plane 1", "the well has a single z plane"),
        ("keep", 3, (1, 1), "dimensions is 3, but there is 1 z plane", "nuclei"),
        ("keep", 2, (5, 5), "", ""),
        ("keep", 2, (1, 1), "", ""),
        ("plane 3", 2, (1, 5), "", ""),
        ("max", 2, (1, 5), "", ""),
    ],
)
def test_no_plane_is_made_up(
    tmp_path: Path, z: str, dimensions: int, planes: tuple[int, int], what: str, why: str
) -> None:
    """`check` and ingest refuse what would be read from another plane; a channel's only plane is taken as it is."""
    for channel, count in zip("ab", planes, strict=True):
        for n in range(count):
            pixels = np.random.default_rng(n).integers(90, 200, (24, 24), dtype=np.uint16)
            tifffile.imwrite(tmp_path / f"B02_z{n}_{channel}.tif", pixels)
    pattern = r"(?P<well>B02)_z(?P<z>\d)_(?P<channel>.)\.tif"
    sizes = {"pixel_size_um": 0.5, "z_step_um": 1.0}
    spec = PlateSpec(plate="p", path=str(tmp_path), layout="pattern", pattern=pattern, **sizes)
    label_set = LabelSet(channels=["a"], dimensions=dimensions)
    config = Config(results=str(tmp_path / "results"), z=z, segmentation={"nuclei": label_set})
    plate = Plate(config=config, spec=spec)
    errors = [p for p in check_plate(spec, config, refused=partial(refused_of_plate, plate)) if p.severity == "error"]
    assert [what in error.what and why in error.what for error in errors] == [True] * bool(what)
    with pytest.raises(ConfigError, match=what) if what else nullcontext():
        run_stage(plate, "ingest")
