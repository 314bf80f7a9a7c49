"""The model card holds what a run says of itself, and what is measured of its weights."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from imagecodecs import imread

from plateflow.model import load_model, save_model
from plateflow.report import card
from plateflow.simulate.stains import WHOLE_CELL
from plateflow.train.data import plate_sample
from plateflow.train.default import write_scores
from plateflow.train.evaluate import evaluate
from plateflow.train.recipe import Recipe

TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two networks, `fast` and `default`, as the program of training leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("fast", "default"):
        terms = {
            "licence": "free & simulated",
            "citation": "Chen & Murphy",
            "diameter": 31.0,
            "diameters": (8.0, 120.0),
        }
        save_model(load_model(TINY), folder / f"{name}.safetensors", name=name, **terms)  # type: ignore[arg-type]
    (folder / "recipe.json").write_text(json.dumps(Recipe(seconds=40.0, batch=16).as_dict()))
    (folder / "log.csv").write_text("step,seconds,waited,rate,default,fast\n0,1,0,1,9,9\n100,40.0,8,0,0.31,0.35\n")
    sample = plate_sample("nuclei", 11, 0, size=160)
    write_scores(folder / "held-out.csv", [(name, evaluate([sample], TINY)) for name in ("default", "fast")])
    for source in (card.SIZED, "other"):
        for number in range(3):
            sample = plate_sample("nuclei", 11, number, size=160)
            for part, pixels in (("images", sample.pixels[0]), ("labels", sample.labels.astype(np.uint16))):
                path = tmp_path / "data" / "val" / source / part / f"{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, pixels)
    return folder


def test_a_card_is_written_from_a_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "WHOLE_CELL", {"membrane": WHOLE_CELL["membrane"]})
    monkeypatch.setattr(card, "SIZES", (14, 28))
    monkeypatch.setattr(card, "SHEET", card.SHEET[-2:])
    monkeypatch.setattr(card, "STAIN_FIELDS", 1)
    monkeypatch.setattr(card, "EMPTY_FIELDS", 2)
    docs = run.parent / "docs"
    docs.mkdir()
    (docs / "models.md").write_text("from <!-- measured -->nothing<!-- /measured --> on")
    arguments = [f"--{name}={path}" for name, path in (("run", run), ("weights", run), ("docs", docs))]
    arguments += [f"--data={run.parent / 'data'}", "--images=2"]
    card.main([*arguments, "--on", "one GPU"])
    with (run / "measured.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = [
        ("val", card.SIZED),
        ("size", "14"),
        ("size", "28"),
        ("val", "other"),
        ("stain", "membrane"),
        ("empty",) * 2,
    ]
    assert [(row["part"], row["source"]) for row in rows] == kinds * 2
    assert [row["images"] for row in rows[:6]] == ["2", "2", "2", "2", "1", "2"]
    assert [float(row["diameter"]) for row in rows[1:3]] == pytest.approx([14, 28], rel=0.1)
    page = (docs / "model-card.md").read_text()
    sources = [plate_sample("nuclei", 11, number, size=160) for number in (0, 2)]
    ap = evaluate(sources, TINY).ap[0]
    assert "| other | 2 | " in page and f"| {ap:.3f} (" in page
    assert "On one GPU: 100 steps in 40 s, 1,600 crops, 40 per second; the device waited 8 s" in page
    least, most = Recipe(seconds=40.0).augmentation.diameters
    assert "default 0.31, fast 0.35" in page and f"`augmentation.diameters` {least:g} to {most:g};" in page
    assert "free & simulated." in page and "Chen & Murphy." in page and "nan" not in page
    assert page.count("](images/fails-") == 3 and "{" not in page
    assert {path.name for path in (docs / "images").iterdir()} == {
        "simulated.png",
        *(f"fails-{n}.png" for n in (1, 2, 3)),
    }
    assert imread(docs / "images" / "simulated.png").shape == (140, 280, 3)
    good = [float(row["diameter"]) for row in rows[1:3] if float(row["ap_50"]) >= card.GOOD]
    span = f"{min(good):.0f} to {max(good):.0f} px" if good else "none"
    assert (docs / "models.md").read_text() == f"from <!-- measured -->{span}<!-- /measured --> on"
    monkeypatch.setattr(card, "kinds", None)  # measured once
    card.main([*arguments, "--measure"])


def test_figures_are_of_the_weights_that_are_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "kinds", lambda *_, **__: iter([("empty", "empty", [card.look_sample("empty", 1, 1)])]))
    data, path, models = run.parent / "data", run / "measured.csv", card.weights(run, run)
    assert {row["model"] for row in card.measure(models, path, data, 1, "cpu")} == {"default", "fast"}
    del models["fast"]
    assert {row["model"] for row in card.measure(models, path, data, 1, "cpu")} == {"default"}
    (run / "fast.safetensors").unlink()
    with pytest.raises(SystemExit, match=r"no such weights: .*fast"):
        card.weights(run, run)
