from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plateflow.config import Config, config_yaml, load_config, load_plates
from plateflow.errors import PlateflowError


def test_the_default_file_loads_as_the_defaults():
    assert load_config(yaml.safe_load(config_yaml())) == Config()


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"follow_slics": 2}, "did you mean 'follow_slices'"),
        ({"normalise": {"frezze": 2}}, "did you mean 'freeze'"),
        ({"segmentation": {"nuclei": {"chanels": ["DNA"]}}}, "did you mean 'channels'"),
        ({"tiling": "cellpose"}, "tiling has no choice any more: delete its line"),
        ({"parts": {"cpu": 3, "gpu": 2}}, "must divide"),
        ({"features": {"rows": "spots"}}, "not a label set"),
        ({"z": "median"}, "z must be"),
        (
            {"segmentation": {"nuclei": {"channels": ["DNA"], "dimensions": 3}}},
            r"nuclei.dimensions is 3.*set z to keep",
        ),
        ({"segmentation": {"../x": {"channels": ["DNA"]}}}, "letters and digits"),
        ({"segmentation": {"count": {"channels": ["DNA"]}}}, "begins other columns"),
    ],
)
def test_a_wrong_key_or_value_names_the_right_one(given, hint):
    with pytest.raises(PlateflowError, match=hint):
        load_config(given)


@given(st.text(min_size=1, max_size=12).filter(lambda name: name not in Config.model_fields))
def test_no_unknown_key_is_accepted(name):
    with pytest.raises(PlateflowError):
        load_config({name: 1})


@pytest.mark.parametrize("plate", ["../up", "a/b", "screen", "..", ".hidden", "a" * 101, "p..q"])
def test_a_plate_id_can_not_leave_the_results(tmp_path: Path, plate):
    sheet = tmp_path / "plates.tsv"
    sheet.write_text(f"plate\tpath\n{plate}\t/raw\n")
    with pytest.raises(PlateflowError, match="plate id"):
        load_plates(sheet)


def test_a_doubled_plate_and_an_unknown_column_are_refused(tmp_path: Path):
    sheet = tmp_path / "plates.tsv"
    sheet.write_text("plate\tpath\np1\t/raw\np1\t/raw2\n")
    with pytest.raises(PlateflowError, match="listed twice"):
        load_plates(sheet)
    sheet.write_text("plate\tpth\np1\t/raw\n")
    with pytest.raises(PlateflowError, match="did you mean 'path'"):
        load_plates(sheet)


def test_the_generated_files_are_up_to_date():
    from plateflow.cli.defaults import default_files

    folder = Path(__file__).resolve().parents[1] / "config"
    for name in ("config.yaml", "config.schema.json", "README.md"):
        assert (folder / name).read_text() == default_files()[name], f"config/{name} is out of date: run `make config`"


def test_there_are_at_most_40_keys():
    lines = [line for line in config_yaml().splitlines() if ":" in line and not line.lstrip().startswith("#")]
    depths = [len(line) - len(line.lstrip()) for line in lines]
    headings = sum(below > depth for depth, below in pairwise(depths))  # of sections; they are no keys
    assert len(lines) - headings <= 40
