import csv
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import tifffile
from vendors import PatternLayout

from plateflow.metrics import average_precision
from plateflow.paths import parse_well
from plateflow.simulate.compare import otsu_watershed
from plateflow.simulate.plate import DEMO_FAULTS, Fault, demo_wells, micro_wells, simulate_demo, simulate_plate

MICRO = {"fields": 1, "field_shape": (192, 192), "channels": ("DNA", "AGP")}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The micro plate without faults: what the faulty ones are compared with."""
    return simulate_plate(tmp_path_factory.mktemp("sound"), wells=micro_wells(), **MICRO)


def _files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_micro_plate_is_quick_and_reproducible(tmp_path, sound):
    start = time.process_time()
    again = simulate_plate(tmp_path, wells=micro_wells(), **MICRO)
    assert time.process_time() - start < 3  # 0.2 s where nothing else runs
    assert again.raw.name == sound.raw.name
    assert _files(again.raw) == _files(sound.raw)
    assert len(_files(sound.raw)) == 2 * 2 + 1


def test_truth_lies_outside_the_plate_and_the_map_says_nothing_of_it(sound):
    assert not sound.truth.is_relative_to(sound.raw)
    with sound.plate_map.open() as file:
        rows = list(csv.DictReader(file))
    assert [list(row.values()) for row in rows] == [
        ["B02", "negative", "DMSO", "0.0"],
        ["B03", "treatment", "compound-1", "3.0"],
    ]


def test_a_well_is_the_same_whatever_the_others_are(tmp_path, sound):
    alone = simulate_plate(tmp_path, wells=micro_wells()[1:], **MICRO)
    for name, content in _files(alone.raw).items():
        assert name.endswith(".xml") or content == _files(sound.raw)[name]


def test_index_follows_the_real_one(sound, test_data):
    """Every element that a reader may look at is there, with the units and in the order of a real Harmony V5 export."""
    real = ET.parse(test_data / "plates/phenix_harmony5_BR00121482/Images/Index.idx.xml").getroot()
    ours = ET.parse(sound.raw / "Images/Index.idx.xml").getroot()
    assert ours.tag == real.tag
    assert [child.tag for child in ours] == [child.tag for child in real]
    space = {"h": "http://www.perkinelmer.com/PEHH/HarmonyV5"}
    for path in ("h:Plates/h:Plate", "h:Wells/h:Well", "h:Images/h:Image"):
        mine, theirs = ours.find(path, space), real.find(path, space)
        skip = {f"{{{space['h']}}}{name}" for name in ("Image", "Well")}  # as many as the plate has
        outline = [[(c.tag, c.get("Unit")) for c in element if c.tag not in skip] for element in (mine, theirs)]
        assert outline[0] == outline[1], path
    image = ours.find("h:Images/h:Image", space)
    assert float(image.findtext("h:ImageResolutionX", namespaces=space)) == pytest.approx(0.6e-6)
    assert image.findtext("h:URL", namespaces=space) == "r02c02f01p01-ch1sk1fk1fl1.tiff"


def test_fields_are_cut_from_one_scene_at_their_stage_positions(tmp_path):
    """Overlapping fields show the same cells where the index says that they overlap; y points up on the stage."""
    plate = simulate_plate(
        tmp_path, wells=micro_wells()[:1], fields=4, field_shape=(160, 192), overlap_px=40, channels=("DNA",)
    )
    space = {"h": "http://www.perkinelmer.com/PEHH/HarmonyV5"}
    index = ET.parse(plate.raw / "Images/Index.idx.xml").getroot()
    place = {}
    for image in index.findall("h:Images/h:Image", space):
        at = [float(image.findtext(f"h:Position{axis}", namespaces=space)) for axis in "YX"]
        place[image.findtext("h:URL", namespaces=space)] = (round(-at[0] / 0.6e-6), round(at[1] / 0.6e-6))
    top, left = (min(p[axis] for p in place.values()) for axis in (0, 1))
    canvas = np.full((4, 280, 344), np.nan)
    for number, (name, (y, x)) in enumerate(sorted(place.items())):
        canvas[number, y - top : y - top + 160, x - left : x - left + 192] = tifffile.imread(
            plate.raw / "Images" / name
        )
    assert not np.isnan(canvas).all(0).any()
    with np.load(plate.truth / "B02.npz") as truth:
        nuclei = truth["nuclei"]
    assert nuclei.shape == canvas.shape[1:]
    for a, b in ((0, 1), (0, 2), (1, 3)):
        both = ~np.isnan(canvas[a]) & ~np.isnan(canvas[b])
        assert both.sum() >= 40 * 160
        assert np.corrcoef(canvas[a][both], canvas[b][both])[0, 1] > 0.9
    bright = np.nanmax(canvas, 0) > 1000
    assert (nuclei[bright] > 0).mean() > 0.85


def test_flat_layout_has_no_positions(tmp_path):
    plate = simulate_plate(tmp_path, wells=micro_wells(), layout=PatternLayout, **MICRO)
    assert sorted(_files(plate.raw)) == ["B02_s1_w1.tif", "B02_s1_w2.tif", "B03_s1_w1.tif", "B03_s1_w2.tif"]


def _damage(tmp_path, sound, kind):
    """A plate with one fault in B03, channel 2; says what changed beside it."""
    plate = simulate_plate(
        tmp_path, wells=micro_wells(), faults=[Fault(kind=kind, well="B03", field=0, channel=1)], **MICRO
    )
    before, after = _files(sound.raw), _files(plate.raw)
    name = "Images/r02c03f01p01-ch2sk1fk1fl1.tiff"
    assert {n for n in before if before[n] != after.get(n)} == {name}
    return plate.raw / name


def test_truncated_file(tmp_path, sound):
    path = _damage(tmp_path, sound, "truncated")
    assert path.stat().st_size > 1000
    with pytest.raises(tifffile.TiffFileError):
        tifffile.imread(path)


def test_missing_and_empty_files(tmp_path, sound):
    assert not _damage(tmp_path / "a", sound, "missing").exists()
    assert _damage(tmp_path / "b", sound, "zero-byte").stat().st_size == 0


def test_planes_of_another_type_size_or_content(tmp_path, sound):
    assert tifffile.imread(_damage(tmp_path / "a", sound, "32bit")).dtype == np.uint32
    assert tifffile.imread(_damage(tmp_path / "b", sound, "size")).shape == (96, 192)
    assert np.ptp(tifffile.imread(_damage(tmp_path / "c", sound, "constant"))) == 0
    broken = tifffile.imread(_damage(tmp_path / "d", sound, "nan"))
    assert 0 < np.isnan(broken).mean() < 0.5


def test_defocus_blurs_one_field_and_leaves_the_others(tmp_path):
    options = {"wells": micro_wells()[:1], "fields": 2, "field_shape": (192, 192), "channels": ("DNA",)}
    sharp = simulate_plate(tmp_path / "a", **options)
    blurred = simulate_plate(tmp_path / "b", faults=[Fault(kind="defocus", well="B02", field=1)], **options)
    first, second = sorted(sharp.raw.glob("Images/*.tiff"))
    assert first.read_bytes() == (blurred.raw / "Images" / first.name).read_bytes()
    contrast = [tifffile.imread(p).astype(float).std() for p in (second, blurred.raw / "Images" / second.name)]
    assert contrast[1] < 0.9 * contrast[0]


def test_the_reporter_changes_no_other_channel_and_its_truth_lies_in_the_nuclei(tmp_path, sound):
    plate = simulate_plate(tmp_path, wells=micro_wells(), **MICRO | {"channels": ("DNA", "AGP", "GFP")})
    before, after = _files(sound.raw), _files(plate.raw)
    assert {name: after[name] for name in before if name.endswith(".tiff")}.items() <= before.items()
    assert len(after) - len(before) == 2
    with plate.truth.joinpath("truth.csv").open() as file:
        rows = {row["well"]: row for row in csv.DictReader(file)}
    for well, row in rows.items():
        with np.load(plate.truth / f"{well}.npz") as truth, np.load(sound.truth / f"{well}.npz") as old:
            assert all(np.array_equal(truth[name], old[name]) for name in old)
            foci, owners, positive = truth["foci"], truth["foci_nucleus"], truth["positive"]
            nuclei, cells = truth["nuclei"], truth["cells"]
        y, x = np.rint(foci).astype(int).T
        assert len(foci) > 20
        assert np.array_equal(nuclei[y, x], owners)
        assert float(row["foci_per_nucleus"]) == pytest.approx(len(foci) / int(row["nuclei"]), abs=1e-4)
        assert float(row["share_positive"]) == pytest.approx(len(positive) / int(row["cells"]), abs=1e-4)
        assert np.isin(positive, cells).all()
    assert float(rows["B02"]["share_positive"]) == 0 < float(rows["B03"]["share_positive"])


def test_demo_plate_has_what_the_demo_promises():
    plans = demo_wells()
    assert len({plan.well for plan in plans}) == len(plans)
    assert [plan.role for plan in plans].count("empty") == 1
    for line in ("line-1", "line-2"):  # each has controls with a spread, and doses for a curve
        wells = [plan for plan in plans if plan.cell_line == line]
        roles = [plan.role for plan in wells]
        assert min(roles.count("negative"), roles.count("positive")) >= 3
        assert sorted(plan.dose for plan in wells if plan.role == "treatment") == [0.1, 0.3, 1.0, 3.0, 10.0]
    assert {fault.kind for fault in DEMO_FAULTS} == {"defocus", "truncated"}
    # neither fault may disturb the wells whose order of doses is examined
    assert {plan.role for plan in plans if plan.well in {fault.well for fault in DEMO_FAULTS}} == {"negative"}


def test_demo_plate_is_hard_for_otsu_and_shows_the_dose(tmp_path):
    """About 8 s: the whole demo plate, the first field of each of its sound wells by Otsu and watershed."""
    plate = simulate_demo(tmp_path)
    with plate.plate_map.open() as file:
        assert {row["CellLine"] for row in csv.DictReader(file) if row["role"] != "empty"} == {"line-1", "line-2"}
    with (plate.truth / "truth.csv").open() as file:
        rows = {row["well"]: row for row in csv.DictReader(file)}
    counts, areas = np.zeros(3), {}
    for well, row in rows.items():
        if row["role"] not in {"negative", "treatment"} or well == "C07":
            continue
        line, column = parse_well(well)
        image = tifffile.imread(plate.raw / "Images" / f"r{line + 1:02d}c{column + 1:02d}f01p01-ch1sk1fk1fl1.tiff")
        with np.load(plate.truth / f"{well}.npz") as truth:
            nuclei = truth["nuclei"][:, : image.shape[1]]
        nuclei = np.unique(nuclei, return_inverse=True)[1].reshape(nuclei.shape)
        if row["role"] == "negative":
            areas.setdefault(row["CellLine"], []).append(np.median(np.bincount(nuclei.ravel())[1:]))
        found = otsu_watershed(image)
        counts += [np.asarray(average_precision(nuclei, found, [0.5])[1]).item(), nuclei.max(), found.max()]
    f1 = 2 * counts[0] / (counts[1] + counts[2])
    assert 0.70 < f1 <= 0.85
    assert 0.15 < sum(int(r["dim_nuclei"]) for r in rows.values()) / sum(int(r["nuclei"]) for r in rows.values()) < 0.30
    assert max(areas["line-1"]) < min(areas["line-2"])  # taken together, the negative controls are two groups
    assert (rows["D07"]["role"], rows["D07"]["nuclei"], rows["D07"]["cells"]) == ("empty", "0", "0")
    for line in ("line-1", "line-2"):
        of_line = [row for row in rows.values() if (row["role"], row["CellLine"]) == ("treatment", line)]
        treated = {float(row["dose"]): row for row in of_line}
        for column, sign in (("nuclei", -1), ("marker_median", 1), ("foci_per_nucleus", 1), ("share_positive", 1)):
            values = [float(treated[dose][column]) for dose in sorted(treated)]
            assert (sign * np.diff(values) > 0).all(), (line, column, values)
