"""Plates whose channels have other names share a project, by names that the plate sheet gives them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from segment_project import config_of, run

from plateflow.cli.init import make_spec, write_project
from plateflow.config import Config, PlateSpec, load_plates
from plateflow.errors import ChannelError, ConfigError, PlateflowError
from plateflow.images.window import load_window
from plateflow.plates import open_plate
from plateflow.plates.check import changed_files, check_plate
from plateflow.plates.plate import index_plate
from plateflow.simulate.plate import micro_wells, simulate_plate

CHAIN = ("ingest", "tile", "normalise", "infer", "stitch", "features")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two raw plates with the same pixels, whose channels are called DNA and AGP, or ch5 and ch2."""
    folder = tmp_path_factory.mktemp("raw")
    made = simulate_plate(folder, wells=micro_wells()[:1], fields=1, field_shape=(96, 96), channels=("DNA", "AGP"))
    other = shutil.copytree(made.raw, folder / "other")
    index = other / "Images" / "Index.idx.xml"
    text = index.read_text()
    assert all(word in text for word in (">DNA<", ">AGP<"))
    index.write_text(text.replace(">DNA<", ">ch5<").replace(">AGP<", ">ch2<"))
    return {"named": made.raw, "other": other}


def test_plates_of_other_names_share_a_configuration(raw: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(tmp_path / "results")
    named = run(config, PlateSpec(plate="named", path=str(raw["named"])), *CHAIN)
    spec = PlateSpec(plate="other", path=str(raw["other"]), channel_names="ch5=DNA,ch2=AGP")
    assert check_plate(spec, config) == []
    other = run(config, spec, *CHAIN)
    first, second = (
        pd.read_parquet(paths.cells("B02")).drop(columns=["Metadata_Plate", "Metadata_ObjectID"])
        for paths in (named, other)
    )
    pd.testing.assert_frame_equal(first, second)
    assert len(first)
    assert json.loads(other.metadata.read_text())["channels"][0]["original_name"] == "ch5"
    assert "original_name" not in json.loads(named.metadata.read_text())["channels"][0]

    swapped = spec.model_copy(update={"channel_names": "ch5=AGP,ch2=DNA"})
    assert changed_files(swapped, other) == [], "another name is no other file"
    before = [load_window(other).limits(channel) for channel in ("DNA", "AGP")]
    assert before[0] != before[1]
    run(config, swapped, *CHAIN[:3])
    assert [load_window(other).limits(channel) for channel in ("AGP", "DNA")] == before, "no window is kept by its name"


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        ("ch7=DNA", ChannelError, "no channel 'ch7'[\\s\\S]*channel_names[\\s\\S]*the channels are 'ch5', 'ch2'"),
        ("ch5=ch2", ConfigError, "two channels would be called 'ch2'"),
        ("ch5=ch2,ch2=ch5", None, ""),
    ],
)
def test_names_that_a_plate_can_not_have(
    raw: dict[str, Path], names: str, kind: type[PlateflowError] | None, words: str
) -> None:
    spec = PlateSpec(plate="p", path=str(raw["other"]), channel_names=names)
    if kind is None:
        assert [channel["name"] for channel in index_plate(spec).metadata["channels"]] == ["ch2", "ch5"]
        return
    with pytest.raises(kind, match=words):
        index_plate(spec)
    (problem,) = check_plate(spec, Config())
    assert problem.severity == "error"


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("ch5=DNA,ch2=AGP", {"ch5": "DNA", "ch2": "AGP"}),
        ("405, DAPI = DNA, a=b=C", {"405, DAPI": "DNA", "a=b": "C"}),
        ("ch5", "must be like"),
        ("ch5=", "must be like"),
        ("ch5=DNA,ch2=DNA", "a name twice"),
        ("ch5=DNA,ch5=AGP", "a name twice"),
    ],
)
def test_the_cell_of_the_plate_sheet(tmp_path: Path, cell: str, names: dict[str, str] | str) -> None:
    sheet = tmp_path / "plates.tsv"
    sheet.write_text(f"plate\tpath\tchannel_names\np\t/raw\t{cell}\n")
    if isinstance(names, dict):
        assert load_plates(sheet)["p"].names_of_channels == names
        return
    with pytest.raises(ConfigError, match=names):
        load_plates(sheet)


def test_init_writes_the_names_and_says_what_the_plate_lacks(raw: dict[str, Path], tmp_path: Path) -> None:
    for name, given in (("named", {}), ("other", {}), ("other", {"channel_names": "ch5=DNA,ch2=AGP"})):
        spec = make_spec(raw[name], plate=name, **given)
        said = "\n".join(write_project(tmp_path, spec, open_plate(spec)))
        assert ("init --channel-names" in said) is (name == "other" and not given)
    assert load_plates(tmp_path / "config/plates.tsv")["other"].channel_names == "ch5=DNA,ch2=AGP"
