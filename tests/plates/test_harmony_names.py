"""Harmony V6, which writes its index in small letters and a folder per well; and measurements without an index."""

import re
from pathlib import Path

import pytest
from command_line import plateflow
from test_harmony import make_plate, two_fields

from plateflow.config import load_config, load_plates
from plateflow.plates import open_plate, recognise


def as_v6(folder: Path, index: str) -> Path:
    """Rename a measurement's files as V6 does."""
    images = (folder / "Images").rename(folder / "images")
    text = (images / "Index.idx.xml").read_text().replace("HarmonyV5", "HarmonyV6")
    (images / "Index.idx.xml").unlink()
    for file in list(images.glob("*.tiff")):
        name = re.sub(r"ch(\d)sk(\d)fk1fl1", r"ch0\1t0\2", file.name)
        (images / name[:6]).mkdir(exist_ok=True)
        file.rename(images / name[:6] / name)
        text = text.replace(file.name, f"{name[:6]}\\{name}")
    (images / index).write_text(text)
    return folder


@pytest.mark.parametrize("index", ["index.xml", "Index.xml", "index.idx.xml", "INDEX.XML"])
def test_v6_in_small_letters_and_folders_per_well(tmp_path: Path, index: str) -> None:
    folder = make_plate(tmp_path / "p", two_fields())
    expected = open_plate(folder)
    as_v6(folder, index)
    for place, images in ((folder, "images/"), (folder / "images", "")):
        assert recognise(place) == "harmony"
        found = open_plate(place)
        assert found.planes.drop(columns=["path", "plate"]).equals(expected.planes.drop(columns=["path", "plate"]))
        assert (found.planes["path"].str.startswith(f"{images}r02c03/r02c03f0")).all()
        assert not found.metadata["disagreements"]


def test_names_without_an_index_in_folders_per_well(tmp_path: Path) -> None:
    folder = as_v6(make_plate(tmp_path / "p", two_fields()), "index.xml")
    (folder / "images" / "index.xml").unlink()
    output = plateflow("init", folder, "--format", "384", cwd=tmp_path)
    assert "p: harmony, 384 wells (16 x 24)" in output
    assert "channels: ch1, ch2" in output
    assert load_plates(tmp_path / "config" / "plates.tsv")["p"].format == 384


@pytest.mark.parametrize("place", ["", "exported", "exported/r02c03"])
def test_names_without_an_index_wherever_the_images_lie(tmp_path: Path, place: str) -> None:
    folder = make_plate(tmp_path / "made", two_fields())
    (folder / "Images" / "Index.idx.xml").unlink()
    (tmp_path / "p" / place).mkdir(parents=True, exist_ok=True)
    for image in (folder / "Images").iterdir():
        image.rename(tmp_path / "p" / place / image.name)
    (tmp_path / "p" / "platemap.csv").write_text("well,role\nC03,negative\n")
    assert recognise(tmp_path / "p") == "harmony"
    assert open_plate(tmp_path / "p").metadata["format"] == [8, 12]


def test_no_channel_is_guessed_from_a_number(tmp_path: Path) -> None:
    """Init says so, writes a name that no plate has, and check tells which there are."""
    folder = make_plate(tmp_path / "p", two_fields())
    (folder / "Images" / "Index.idx.xml").unlink()
    output = plateflow("init", folder, cwd=tmp_path)
    (line,) = [line for line in output.splitlines() if line.startswith("CHECK:")]
    assert "no channel's name says what it shows (ch1, ch2)" in line
    assert "CHOOSE" in line
    assert load_config(tmp_path / "config" / "config.yaml").segmentation["nuclei"].channels == ["CHOOSE"]
    refused = plateflow("check", cwd=tmp_path, status=1)
    assert "CHOOSE" in refused
    assert "the channels are 'ch1', 'ch2'" in refused
