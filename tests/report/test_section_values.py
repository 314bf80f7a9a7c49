"""The sections on segmentation, image quality and methods, of a small plate without a network."""

import re
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest
from planted_plate import Planted

from plateflow.config import Config
from plateflow.features.measure import FAMILIES
from plateflow.project import Plate
from plateflow.report import methods, quality, segmentation
from plateflow.report.page import render
from plateflow.report.view import View


@pytest.fixture(scope="module")
def view(measured: Planted) -> View:
    return View.read(measured.plate)


def test_segmentation_counts_what_the_tables_hold(view: View) -> None:
    made = segmentation.segmentation(view)
    html = render("segmentation.html.j2", **made)
    paths = view.plate.paths
    for each in made["sets"]:
        files = sorted(paths.objects(each["name"], "A01").parent.glob("*.parquet"))
        measured = view.by_well.loc[view.by_well["Metadata_State"].isin(["ok", "flagged"]), "Metadata_Well"]
        assert each["objects"] == sum(pq.read_metadata(path).num_rows for path in files if path.stem in set(measured))
        assert len(each["charts"]) == 3
        for chart in each["charts"]:
            shares = pd.DataFrame(chart["data"]["values"]).groupby("group")["share"].agg(lambda share: share[:-1].sum())
            assert shares.between(0.95, 1.001).all()
    titles = [title for title, _ in made["examples"]]
    assert titles == ["Worst", "Typical", "Best"]
    names = [each["well"] for _, wells in made["examples"] for each in wells]
    assert len(set(names)) == len(names)
    assert "B06" not in names  # blank: nothing to judge
    assert made["level"] in ("good", "warn")
    assert "seams" in made["line"]
    cells = pd.concat([pd.read_parquet(path) for path in paths.cells("A01").parent.glob("*.parquet")])
    (partners,) = made["partners"]
    shares = {kind: share[0] for kind, share in partners["match"]}
    assert shares["one to one"] == pytest.approx((cells["Metadata_Match_Nuclei"] == "one_to_one").mean())
    children = {kind: share[0] for kind, share in partners["children"]}
    assert children["1"] == pytest.approx((cells["Cells_Children_Nuclei_Count"] == 1).mean())
    assert html.count('alt="well ') == len(names), "each with its outlines, which have no words of their own"


def test_quality_has_the_numbers_of_the_table_and_every_flag_with_its_reason(view: View) -> None:
    made = quality.quality(view)
    html = render("quality.html.j2", **made)
    qc = view.qc[view.qc["State"] == "ok"]
    shown = made["map"]["params"][0]["bind"]
    key = shown["options"][shown["labels"].index("DNA: background (median field)")]
    values = {item["well"]: item[key] for item in made["map"]["data"]["values"]}
    expected = qc[qc["Metadata_Channel"] == "DNA"].groupby("Metadata_Well")["Background"].median().to_dict()
    assert values == pytest.approx(expected)
    flagged = view.qc[view.qc["Flags"] != ""]
    assert len(flagged) == len(made["fields"]) > 0
    assert html.count("<tr><td>") == len(made["flags"]) + len(view.plate.channels) + len(flagged)
    assert "the field is less sharp than the plate&#39;s others" in html


def changed(view: View, **sections: dict) -> View:
    config = view.plate.config.model_dump()
    for name, values in sections.items():
        config[name] = {**config[name], **values} if isinstance(values, dict) else values
    return replace(view, plate=Plate(config=Config.model_validate(config), spec=view.plate.spec))


def test_the_paragraph_tells_what_was_done_and_cites_what_it_names(view: View) -> None:
    sentences, references = methods.paragraph(view)
    text = " ".join(sentences)
    assert "Nuclei were found in DNA, in 2D, at the images' own scale" in text
    assert "the 1st and 99th percentiles of the raw pixels of each plate became 0 and 1" in text
    assert "negative controls in units of their spread (median and MAD)" in text
    numbers = {int(number) for group in re.findall(r"\[([\d, ]+)\]", text) for number in group.split(", ")}
    assert numbers == set(range(1, len(references) + 1))
    assert all(reference.startswith(f"{number}. ") for number, reference in enumerate(references, 1))
    assert any("Stringer" in each for each in references)
    assert not any("Kirillov" in each or "Simes" in each for each in references)  # neither SAM nor a test of hits
    assert "  " not in text
    assert "_" not in re.sub(r"\(SHA-256[^)]*\)", "", text)


def test_the_paragraph_follows_the_configuration(view: View) -> None:
    sets = {name: settings.model_dump() for name, settings in view.plate.config.segmentation.items()}
    sets["nuclei"] |= {"diameter_px": 31.5, "flow_threshold": 0.0, "min_size_px": 77, "cell_threshold": -0.5}
    other = changed(
        view,
        segmentation=sets,
        normalise={"percentiles": (2.5, 93.0), "scope": "well"},
        features={"families": ["intensity"]},
        stats={"normalise": "plate standard", "exclude_flags": []},
        spots={"foci": {"channel": "DNA", "within": "nuclei", "diameter_px": 4.5, "threshold": 0.03}},
    )
    text = " ".join(methods.paragraph(other)[0])
    assert "resized for a typical diameter of 31.5 px, with a threshold of -0.5" in text
    assert "objects with fewer than 77 pixels were dropped" in text
    assert "the 2.5th and 93rd percentiles of the raw pixels of each well" in text
    assert "(location and intensity)" in text
    assert "(mean and standard deviation)" in text
    assert "excluded" not in text
    assert "Foci were found in nuclei as maxima of the Laplacian of Gaussian of DNA for a diameter of 4.5 px" in text
    assert "where it was at least 0.03." in text
    assert "the plate's wells other than positive controls and empty ones" in text


def test_the_paragraph_tells_what_was_corrected_by_hand(view: View) -> None:
    assert "by hand" not in " ".join(methods.paragraph(view)[0])
    names = ["cells"] + [""] * (len(view.wells) - 1)
    text = " ".join(methods.paragraph(replace(view, wells=view.wells.assign(Metadata_Corrected=names)))[0])
    assert "In 1 well labels of cells were corrected by hand." in text


def test_models_that_come_from_sam_cite_it(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = methods.model_spec("default")
    told = {"model": "mine", "licence": "CC-BY-NC", "sha256": spec.sha256, "device": "cpu"}
    monkeypatch.setattr(methods, "_models", lambda view: dict.fromkeys(view.plate.config.segmentation, told))
    assert not any("Kirillov" in each for each in methods.paragraph(view)[1])
    monkeypatch.setattr(methods, "model_spec", lambda name: replace(spec, parent="sam_vit_l, sha256 1234"))
    sentences, references = methods.paragraph(view)
    assert any("Kirillov" in each for each in references)
    assert sum("CC-BY-NC" in sentence for sentence in sentences) == 1


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "1st"), (2, "2nd"), (99.8, "99.8th"), (11, "11th"), (93, "93rd"), (0, "0th")],
)
def test_ordinals(number: float, text: str) -> None:
    assert methods._ordinal(number) == text


def test_every_family_has_words() -> None:
    assert set(FAMILIES) <= set(methods.FAMILY_WORDS)
