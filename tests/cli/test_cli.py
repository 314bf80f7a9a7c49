"""The command line as a new user meets it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import plateflow
from vendors import PatternLayout

from plateflow.simulate.plate import Fault, micro_wells, simulate_plate

PIXELS = np.ones((24, 40), np.uint16)
HEAVY = ("torch", "pandas", "zarr", "numba", "skimage", "scipy")
REPOSITORY = Path(__file__).resolve().parents[2]


def imported(*command: str, cwd: Path) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=cwd, check=True, capture_output=True, text=True
    )
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines() if "|" in line}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    made = simulate_plate(
        tmp_path / "data", wells=micro_wells(), fields=1, field_shape=(96, 96), channels=("DNA", "AGP"), plate="p1"
    )
    return made.raw


def test_help_imports_nothing_heavy(tmp_path):
    names = imported("-c", "from plateflow.cli import app; app()", "--help", cwd=tmp_path)
    assert "typer" in names
    assert not names & {*HEAVY, "numpy"}


def test_parsing_the_snakefile_imports_nothing_heavy(raw, tmp_path):
    """Beside Snakemake's plugin for SLURM, if that is installed: it imports pandas by itself, at every start."""
    plateflow("init", raw, cwd=tmp_path)
    hidden = (
        "import pkgutil; found = pkgutil.iter_modules; "
        "pkgutil.iter_modules = lambda *a: (m for m in found(*a) if 'plugin_slurm' not in m.name); "
        "from snakemake.cli import main; main()"
    )
    names = imported("-c", hidden, "-n", "-s", str(REPOSITORY / "Snakefile"), cwd=tmp_path)
    assert "snakemake" in names
    assert not names & set(HEAVY)


def test_init_writes_a_config_that_fits_the_plate(raw, tmp_path):
    output = plateflow("init", raw, "--plate-map", raw.parent / "platemap.csv", cwd=tmp_path)
    assert "harmony" in output
    assert "channels: DNA, AGP" in output
    assert "B02, B03" in output
    assert "0.6 x 0.6 um" in output
    config = yaml.safe_load((tmp_path / "config/config.yaml").read_text())
    assert config["segmentation"]["nuclei"]["channels"] == ["DNA"]
    assert config["segmentation"]["cells"]["channels"] == ["AGP", "DNA"]
    assert plateflow("check", cwd=tmp_path).strip() == "No problem found."


def test_init_lists_the_wells_that_have_files(raw, tmp_path):
    for file in (raw / "Images").glob("r02c02*"):
        file.unlink()
    output = plateflow("init", raw, cwd=tmp_path)
    assert "wells with images: 1 (B03)" in output
    assert "note: 1 well has no file of those that the plate lists: B02" in output


def test_init_keeps_a_changed_config_and_refuses_a_taken_plate_id(raw, tmp_path):
    plateflow("init", raw, cwd=tmp_path)
    path = tmp_path / "config/config.yaml"
    path.write_text(path.read_text().replace("levels: 3", "levels: 2"))
    other = simulate_plate(tmp_path / "more", wells=micro_wells()[:1], fields=1, field_shape=(64, 64), plate="p2")
    plateflow("init", other.raw, cwd=tmp_path)
    assert "levels: 2" in path.read_text()
    assert len((tmp_path / "config/plates.tsv").read_text().splitlines()) == 3
    assert "taken by another folder" in plateflow("init", other.raw, "--plate", "p1", cwd=tmp_path, status=1)


def test_init_takes_several_folders_and_says_which_failed(raw, tmp_path):
    made = [
        simulate_plate(tmp_path / name, wells=micro_wells()[:1], fields=1, field_shape=(64, 64), plate=name).raw
        for name in ("p2", "p3")
    ]
    (tmp_path / "empty").mkdir()
    (tmp_path / "readme.txt").write_text("by Ann")
    output = plateflow("init", raw, tmp_path / "empty", tmp_path / "readme.txt", *made, cwd=tmp_path, status=1)
    assert f"note: 1 file is no folder and is left out: {tmp_path / 'readme.txt'}" in output
    assert "1 of 4 folders could not be added; the others were" in output
    assert "the plate's folder is empty" in output
    lines = (tmp_path / "config/plates.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["plate", "p1", "p2", "p3"]
    plateflow("init", made[0], tmp_path / "readme.txt", cwd=tmp_path)
    tables = [tmp_path / "config/plates.tsv", tmp_path / "readme.txt"]
    assert "a plate is a folder, and these are files" in plateflow("init", *tables, cwd=tmp_path, status=1)
    output = plateflow("init", *made, "--plate", "p9", cwd=tmp_path, status=2)
    assert "one id can't name several plates" in output


def test_init_writes_which_image_it_was_told(tmp_path):
    from vendors import LAYOUTS

    from plateflow.simulate.layout import PlateDescription, Record

    writer = LAYOUTS["omezarr"](
        tmp_path, PlateDescription(name="p", plate_shape=(8, 12), field_shape=(24, 40), pixel_size_um=0.5)
    )
    for number in (0, 1):
        writer.write(Record(row=1, column=2, field=number, channel=0, channel_name="DNA", y_um=0, x_um=0), PIXELS)
    writer.finish()
    raw = tmp_path / "p.zarr"
    (raw / "B/03/2").rename(raw / "B/03/2_corrected")
    well = raw / "B/03/.zattrs"
    well.write_text(well.read_text().replace('"2"', '"2_corrected"'))
    assert "init --image" in plateflow("init", raw, cwd=tmp_path, status=1)
    assert "fields per well: 1" in plateflow("init", raw, "--image", "*_corrected", cwd=tmp_path)
    assert "\t*_corrected\t" in (tmp_path / "config/plates.tsv").read_text()


def test_init_reads_a_sheet_that_a_spreadsheet_saved_in_utf_16(raw, tmp_path):
    (tmp_path / "config").mkdir()
    sheet = tmp_path / "config/plates.tsv"
    sheet.write_bytes("plate\tpath\np0\t/raw/Größe\n".encode("utf-16"))
    plateflow("init", raw, "--plate", "p1", cwd=tmp_path)
    assert [line.split("\t")[:2] for line in sheet.read_text(encoding="utf-8").splitlines()[1:]] == [
        ["p0", "/raw/Größe"],
        ["p1", str(raw)],
    ]


def test_init_with_a_pattern(tmp_path):
    made = simulate_plate(
        tmp_path / "data", wells=micro_wells(), fields=1, field_shape=(64, 64), layout=PatternLayout, plate="flat"
    )
    pattern = r"(?P<well>[A-P]\d\d)_s(?P<field>\d+)_w(?P<channel>\d)\.tif"
    output = plateflow("init", made.raw, "--pattern", pattern, "--pixel-size-um", "0.5", cwd=tmp_path)
    assert "pattern" in output
    assert "0.5 x 0.5 um" in output


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, ["empty", "remedy|what to do"]),
        (lambda folder: (folder / "notes.txt").write_text("x"), ["layout", "--pattern|pattern"]),
        (lambda folder: (folder / "Index.idx.xml").write_text("<EvaluationInputData><Pl"), ["Index.idx.xml"]),
        (
            lambda folder: (folder / "Index.idx.xml").write_text(
                '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><EvaluationInputData>&b;</EvaluationInputData>'
            ),
            ["Index.idx.xml"],
        ),
    ],
)
def test_a_folder_that_is_no_plate_gets_one_clear_error(tmp_path, make, words):
    folder = tmp_path / "raw"
    folder.mkdir()
    make(folder)
    output = plateflow("init", folder, cwd=tmp_path, status=1)
    for word in words:
        assert re.search(word, output, re.IGNORECASE), output
    assert not (tmp_path / "config").exists(), "nothing half-written"


def test_check_names_well_field_file_and_remedy(tmp_path):
    made = simulate_plate(
        tmp_path / "data",
        wells=micro_wells(),
        fields=2,
        field_shape=(64, 64),
        channels=("DNA", "AGP"),
        plate="p1",
        faults=[Fault(kind="missing", well="B02", field=1, channel=0), Fault(kind="zero-byte", well="B03", channel=1)],
    )
    plateflow("init", made.raw, cwd=tmp_path)
    output = plateflow("check", cwd=tmp_path, status=1)
    assert re.search(r"p1/B02 field 2: .*\n.*r02c02f02p01-ch1", output), output
    assert re.search(r"p1/B03 field 1: .*\n.*r02c03f01p01-ch2", output), output
    assert output.count("what to do:") >= 2
    problems = json.loads(plateflow("check", "--json", cwd=tmp_path, status=1))
    assert {(item["well"], item["field"]) for item in problems} == {("B02", "2"), ("B03", "1")}


def test_warnings_are_errors_to_check_if_it_is_strict(tmp_path):
    made = simulate_plate(
        *(tmp_path / "data",),
        **{"wells": micro_wells(), "fields": 1, "field_shape": (64, 64), "channels": ("DNA",), "plate": "p1"},
    )
    plateflow("init", made.raw, cwd=tmp_path)
    assert plateflow("check", "--strict", cwd=tmp_path).strip() == "No problem found."
    (made.raw / "Images/r09c09f01p01-ch1sk1fk1fl1.tiff").write_bytes(b"x")
    assert plateflow("check", cwd=tmp_path).splitlines()[-1] == "1 warning"
    assert plateflow("check", "--strict", cwd=tmp_path, status=1).splitlines()[-1] == "1 error"


@pytest.mark.parametrize(
    ("sheet", "config", "words"),
    [
        ("plate\tpath\n../x\t/raw\n", "", "plate id"),
        ("plate\tpath\np1\t/raw\n", "follow_slics: 2\n", "did you mean 'follow_slices'"),
        ("plate\tpath\np1\t/raw/Gr\udcf6\udcdfe\n", "", "Windows' encoding (cp1252): line 2 holds the byte 0xf6"),
        ("plate\tpath\np1\t/raw\t/raw2\n", "", "line 2 has 3 cells, and the table 2 columns"),
    ],
)
def test_a_wrong_sheet_or_key_is_named_by_every_command(tmp_path, sheet, config, words):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/plates.tsv").write_bytes(sheet.encode("utf-8", "surrogateescape"))
    (tmp_path / "config/config.yaml").write_text("plates: config/plates.tsv\n" + config)
    for command in ("check", "status", "retry"):
        assert words in plateflow(command, cwd=tmp_path, status=1)
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "-s", str(REPOSITORY / "Snakefile")],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert words in run.stdout + run.stderr


def test_status_and_retry_before_the_first_run(raw, tmp_path):
    plateflow("init", raw, cwd=tmp_path)
    assert "to do" in plateflow("status", cwd=tmp_path, status=4)
    assert "the plate has no manifest" in plateflow("status", "p1/B02", cwd=tmp_path, status=4)
    assert "the plate has no manifest" in plateflow("retry", "p1", cwd=tmp_path, status=1)
    assert "there is no plate 'p9'" in plateflow("retry", "p9", cwd=tmp_path, status=1)
    plateflow("retry", cwd=tmp_path)


def test_segment_writes_label_tiffs(tmp_path):
    import numpy as np
    import skimage.io
    import tifffile
    import zarr

    from plateflow.simulate.cells import camera, simulate_field

    rng = np.random.default_rng(3)
    field = simulate_field(rng, (160, 200), diameter_px=24)
    pixels = camera(rng, field.channels)
    tifffile.imwrite(tmp_path / "a.tif", pixels[0])
    skimage.io.imsave(tmp_path / "b.png", (pixels[0] >> 4).astype(np.uint8), check_contrast=False)
    group = zarr.create_group(
        tmp_path / "c.ome.zarr",
        attributes={
            "ome": {
                "version": "0.5",
                "multiscales": [{"axes": [{"name": n} for n in "cyx"], "datasets": [{"path": "0"}]}],
            }
        },
    )
    group.create_array("0", data=pixels)
    model = str(REPOSITORY / "tests/data/tiny.safetensors")
    output = plateflow(
        "segment", "a.tif", "b.png", "c.ome.zarr", "-o", "out", "--model", model, "--channels", "0", cwd=tmp_path
    )
    assert output.count("objects ->") == 3
    labels = {name: tifffile.imread(tmp_path / "out" / f"{name}_labels.tif") for name in "abc"}
    assert {array.dtype.name for array in labels.values()} == {"uint16"}
    assert {array.shape for array in labels.values()} == {(160, 200)}
    assert labels["a"].max() > 5
    assert (labels["a"] == labels["c"]).all()


def test_segment_names_the_image_that_fails_and_does_the_others(tmp_path):
    import numpy as np
    import tifffile

    tifffile.imwrite(tmp_path / "good.tif", np.random.default_rng(0).integers(0, 99, (64, 64), dtype=np.uint16))
    (tmp_path / "bad.tif").write_bytes(b"II*\0nonsense")
    model = str(REPOSITORY / "tests/data/tiny.safetensors")
    output = plateflow("segment", "bad.tif", "good.tif", "-o", "out", "--model", model, cwd=tmp_path, status=1)
    assert "bad.tif" in output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_labels.tif"]
