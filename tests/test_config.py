import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plateflow.config import (
    Config,
    Expand,
    LabelSet,
    config_yaml,
    evenly_grown,
    first_source,
    load_config,
    load_plates,
)
from plateflow.errors import ConfigError, PlateflowError


def test_the_default_file_loads_as_the_defaults():
    assert load_config(yaml.safe_load(config_yaml())) == Config()


def test_the_example_of_a_second_label_set_can_be_used_as_it_stands():
    text = config_yaml().replace("  # cells:", "  cells:").replace("  #   ", "    ")
    sets = load_config(yaml.safe_load(text)).segmentation
    assert (list(sets), sets["cells"]) == (["nuclei", "cells"], LabelSet(channels=["AGP", "DNA"], diameter_um=30))
    assert "# cells:" not in config_yaml(Config(segmentation=sets))
    page = (Path(__file__).resolve().parents[1] / "docs" / "channels.md").read_text()
    block, grown, paired = re.findall(r"```yaml\n(segmentation:\n(?:  .+\n)+)```", page)
    assert load_config(yaml.safe_load(block)).segmentation["cells"] == sets["cells"]
    assert load_config(yaml.safe_load(grown)).grown == {"cells": Expand.model_validate({"from": "nuclei", "um": 8})}
    assert load_config(yaml.safe_load(paired)).paired == ["nuclei"]


def test_label_sets_that_are_made_from_others_need_what_these_need():
    sets = {
        "nuclei": {"channels": ["DNA"], "model": "fast"},
        "cells": {"propagate": {"from": "nuclei", "channels": ["AGP", "ER"], "regularisation": 0.1}},
        "halo": {"ring": {"from": "cells", "inner_um": 0, "outer_um": 2}},
    }
    config = load_config({"segmentation": sets})
    assert [list(config.segmented), list(config.grown)] == [["nuclei"], ["cells", "halo"]]
    assert config.segmentation["halo"].channels == ["AGP", "ER", "DNA"]
    assert load_config(config.model_dump()) == config
    text = config_yaml(config)
    assert "    expand" not in text
    assert load_config(yaml.safe_load(text)) == config


NUCLEI = {"channels": ["DNA"]}


@pytest.mark.parametrize(
    ("corrected", "numbers", "evenly"),
    [
        ((), ["nuclei"] * 4, [[], ["cells"], [], ["rim"]]),
        (("cells",), ["nuclei", "cells", "cells", "cells"], None),
        (("spread",), ["nuclei", "nuclei", "spread", "spread"], None),
        (("nuclei", "rim"), ["nuclei", "nuclei", "nuclei", "rim"], None),
    ],
)
def test_whose_numbers_objects_bear_and_what_they_are_grown_from(corrected, numbers, evenly):
    sets = {
        "nuclei": NUCLEI,
        "cells": {"expand": {"from": "nuclei"}},
        "spread": {"propagate": {"from": "cells", "channels": ["AGP"]}},
        "rim": {"ring": {"from": "spread"}},
    }
    config = load_config({"segmentation": sets})
    grown = {name: rule for name, rule in config.grown.items() if name not in corrected}
    assert [first_source(grown, name) for name in sets] == numbers
    if evenly:
        assert [evenly_grown(config.segmentation, name) for name in sets] == evenly


@pytest.mark.parametrize(
    ("sets", "hint"),
    [
        ({"cells": {}}, "cells: it needs channels, or to be made from another label set by expand, propagate or ring"),
        ({"cells": {"expand": {"from": "nucli"}}}, "which is no label set; did you mean 'nuclei'"),
        ({"cells": {"expand": {"from": "nuclei", "um2": 3}}}, "cells.expand.um2'; did you mean 'um'"),
        ({"cells": {"expand": {"from": "nuclei", "um": 0}}}, "cells.expand.um: .*greater than 0"),
        ({"a": {"ring": {"from": "b"}}, "b": {"expand": {"from": "nuclei"}}}, "isn't made before it; name its source"),
        ({"a": {"ring": {"from": "a"}}}, "isn't made before it; there are nuclei"),
        ({"a": {"ring": {"from": "nuclei", "inner_um": 4}}}, r"outer_um \(4\) must be greater than inner_um \(4\)"),
        ({"a": {"ring": {"from": "nuclei"}, "expand": {"from": "nuclei"}}}, "expand and ring are both given"),
        ({"a": {"ring": {"from": "nuclei"}, "model": "fast"}}, "model means nothing beside ring, as no network"),
        ({"a": {"ring": {"from": "nuclei"}, "diameter_um": 4}}, "diameter_um means nothing beside ring, as no network"),
        ({"a": {"ring": {"from": "nuclei"}, "dimensions": 3}}, "dimensions means nothing beside ring, as no network"),
        ({"a": {"ring": {"from": "nuclei"}, "match": "one_to_one"}}, "match means nothing beside ring, as its objects"),
        ({"a": {"ring": {"from": "nuclei"}, "channels": ["DNA"]}}, "channels means nothing beside that: delete it"),
        ({"cells": {"propagate": {"from": "nuclei", "channels": []}}}, "cells.propagate.channels: .*at least 1"),
        (
            {"cells": {"propagate": {"from": "nuclei", "channels": ["A"], "regularisation": 0}}},
            "regularisation: .*0.001",
        ),
        ({"nuclei": NUCLEI | {"match": "one_to_one"}}, "nuclei make the rows.*no nuclei that were segmented apart"),
        (
            {"nuclei": NUCLEI | {"match": "one_to_one"}, "cells": {"expand": {"from": "nuclei"}}},
            "nuclei.match means nothing, as cells have the numbers of nuclei",
        ),
        ({"cells": {"expand": {"source": "nuclei"}}}, "cells.expand.from: Field required.*unknown key"),
        ({"cells": {"expand": {"from": "nuclei", "um": 201}}}, "cells.expand.um: .*less than or equal to 200"),
        ({"cells": {"expand": {"from": "nuclei", "um": True}}}, "cells.expand.um: true is no number"),
        ({"a": {"ring": {"from": "nuclei", "outer_um": 201}}}, "ring.outer_um: .*less than or equal to 200"),
        ({"a": {"ring": {"from": "nuclei", "inner_um": False}}}, "ring.inner_um: false is no number"),
        ({"a": {"propagate": {"from": "nuclei", "channels": ["AGP", "AGP"]}}}, "a channel is named twice"),
        ({"a": {"propagate": {"from": "nuclei", "channels": ["AGP", ""]}}}, "channels.1: .*at least 1 character"),
        ({"Cytoplasm": {"ring": {"from": "nuclei"}}}, "'Cytoplasm' is that of something else.*call a ring .* ring"),
        ({"share": {"ring": {"from": "nuclei"}}}, "'share' is that of something else"),
        ({"nuclei": NUCLEI | {"dimensions": 3}, "a": {"ring": {"from": "nuclei"}}}, "go through volumes"),
    ],
)
def test_what_label_sets_cannot_be_made_from_others_is_refused(sets, hint):
    with pytest.raises(ConfigError, match=hint):
        load_config({"segmentation": {"nuclei": NUCLEI} | sets})


def filtered(**rules: object) -> dict[str, object]:
    """A configuration with a filter."""
    return {"segmentation": {"nuclei": {"channels": ["DNA"], "filter": rules}}}


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"follow_slics": 2}, "did you mean 'follow_slices'"),
        ({"normalise": {"frezze": 2}}, "did you mean 'freeze'"),
        ({"segmentation": {"nuclei": {"chanels": ["DNA"]}}}, "did you mean 'channels'"),
        ({"tiling": "cellpose"}, "tiling has no choice any more: delete its line"),
        ({"parts": {"cpu": 3, "gpu": 2}}, "must divide"),
        ({"features": {"rows": "spots"}}, "not a label set"),
        ({"features": {"texture_scales": [3, 3]}}, "names a distance twice"),
        ({"z": "median"}, "z must be"),
        (
            {
                "z": "keep",
                "segmentation": {
                    "nuclei": {"channels": ["DNA"], "dimensions": 3},
                    "cells": {"channels": ["AGP"]},
                },
            },
            r"dimensions differ between label sets \(nuclei 3, cells 2\).*the same number for all",
        ),
        (
            {"segmentation": {"nuclei": {"channels": ["DNA"], "dimensions": 3}}},
            r"nuclei.dimensions is 3.*set z to keep",
        ),
        (
            {"segmentation": {"nuclei": {"channels": ["DNA"], "diameter_um": 12, "diameter_px": 40}}},
            "nuclei: diameter_um and diameter_px are both given",
        ),
        ({"segmentation": {"../x": {"channels": ["DNA"]}}}, "letters and digits"),
        ({"segmentation": {"count": {"channels": ["DNA"]}}}, "something else in the tables"),
        ({"populations": {"a b": {"where": "X > 1"}}}, "letters and digits"),
        ({"populations": {"a": {"where": "X > 1"}, "A": {"where": "X > 1"}}}, "case of their first letter"),
        ({"populations": {"a": {"wher": "X > 1"}}}, "did you mean 'where'"),
        ({"populations": {"a": {}}}, "either `where` or `cell_cycle`"),
        ({"populations": {"a": {"where": "X > __import__('os')"}}}, "can't be understood"),
        ({"populations": {"a": {"where": "X > 1 or Y > 2"}}}, "'X > 1 or Y > 2' can't be understood"),
        ({"populations": {"a": {"where": "X > negatives"}}}, "threshold 'negatives'.*negatives.pNN"),
        ({"populations": {"a": {"where": "> 1"}}}, "a condition is a column"),
        ({"populations": {"a": {"where": "X < p100"}}}, "between 0 and 100"),
        ({"populations": {"a": {"where": []}}}, "is no condition"),
        (filtered(border="yes"), "border: 'yes' is neither true nor false"),
        (filtered(area_um2=[2000, 40]), "area_um2: .*isn't two increasing numbers"),
        (filtered(area_um2=[True, 40]), "isn't two increasing numbers"),
        (filtered(solidity=0.8), "solidity: 0.8 is no condition, such as '>0.8'"),
        (filtered(solidity="Area > 1"), "a condition is <, >, <= or >= and a threshold"),
        ({"train": "--plate results/p --wells B03"}, "must hold --name"),
        ({"train": "--plate results/p --name"}, "must hold --name"),
        ({"train": "--name=../up"}, "letters, digits"),
        ({"train": "--name 'mine"}, "train: No closing quotation"),
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


SHEET = "plate\tpath\tplate_map\np1\t/raw/Größe\tmap.csv\np2\t/raw/p2\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_plate_sheet_in_a_certain_encoding_is_read(tmp_path: Path, encoding: str):
    sheet = tmp_path / "plates.tsv"
    sheet.write_bytes(SHEET.encode(encoding))
    assert {name: (spec.path, spec.plate_map) for name, spec in load_plates(sheet).items()} == {
        "p1": ("/raw/Größe", "map.csv"),
        "p2": ("/raw/p2", None),  # a line may end early
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            SHEET.encode("cp1252"),
            r"not UTF-8, but probably Windows' encoding \(cp1252\): line 2[\s\S]*save it as UTF-8",
        ),
        (SHEET.encode("utf-16")[:-1], r"begins as UTF-16[\s\S]*save it as UTF-8"),
        (b"plate\tpath\np1\t/raw\textra\n", r"line 2 has 3 cells, and the table 2 columns"),
        (b"# made by hand\nplate\tpath\n\np1\t/raw\np2\t/a\t/b\n", r"line 5 has 3 cells"),
        (b'plate\tpath\np1\t"/raw\np2\t/raw2\n', r"quoted cell of line 2 reaches to line 3[\s\S]*remove the quote"),
        (b"plate\tpath\tpath\np1\t/raw\t/raw2\n", r"the column 'path' occurs twice"),
        (b"plate\tpath\n# a comment\n\np1\n", r"line 4[\s\S]*path: Field required"),
        (b"plate\tpath\tpixel_size_um\np1\t/raw\tinf\n", r"line 2[\s\S]*pixel_size_um: .*finite"),
    ],
)
def test_a_damaged_plate_sheet_is_one_error_with_file_and_line(tmp_path: Path, content: bytes, words: str):
    sheet = tmp_path / "plates.tsv"
    sheet.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as error:
        load_plates(sheet)
    assert error.value.where.startswith(str(sheet))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_plate_sheet_or_one_error(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    sheet = tmp_path_factory.getbasetemp() / "any.tsv"
    sheet.write_bytes(b"plate\tpath\n" + content)
    try:
        load_plates(sheet)
    except ConfigError as error:
        assert str(sheet) in error.where


def test_a_configuration_in_windows_encoding_is_one_error(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_bytes("# Größe\nlevels: 2\n".encode("cp1252"))
    with pytest.raises(ConfigError, match=r"probably Windows' encoding[\s\S]*save it as UTF-8"):
        load_config(path)
    path.write_bytes("# Größe\nlevels: 2\n".encode("utf-16"))
    assert load_config(path).levels == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_of_the_configuration_is_nan_or_infinite(value: float):
    for keys in ({"flow_threshold": value}, {"diameter_um": value}):
        with pytest.raises(ConfigError, match=f"nuclei.{next(iter(keys))}: .*finite"):
            load_config({"segmentation": {"nuclei": {"channels": ["DNA"], **keys}}})


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
