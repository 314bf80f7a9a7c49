"""Evaluation counts what it says it counts, and shows it."""

import csv
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from typer.testing import CliRunner

from plateflow.cli import _typer
from plateflow.cli.evaluate import words
from plateflow.metrics import average_precision, error_rate
from plateflow.segment import segment_image
from plateflow.train import evaluate as evaluation
from plateflow.train.data import Sample, make_sample, plate_sample
from plateflow.train.evaluate import ALL, by_source, compare, differences, evaluate, find, interval, resized, scored

TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [plate_sample("nuclei", 11, n, size=160) for n in range(3)]


def test_a_score_sums_over_images(samples: list[Sample]) -> None:
    score = evaluate(samples, TINY)
    counts = [average_precision(s.labels, segment_image(s.image, model=TINY)) for s in samples]
    tp, fp, fn = (sum(int(c[i][0]) for c in counts) for i in (1, 2, 3))
    assert score.objects == sum(len(np.unique(s.labels)) - 1 for s in samples) == tp + fn
    assert score.ap == pytest.approx(np.mean([c[0] for c in counts], axis=0))
    assert score.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn))
    errors = [(c[2][0] + c[3][0]) / (c[1][0] + c[3][0]) for c in counts]
    assert score.error_rate == pytest.approx(np.mean(errors))  # as the paper: of each image, then the mean
    assert score.error_rate != pytest.approx((fp + fn) / (tp + fn))
    assert score.error_interval[0] <= score.error_rate <= score.error_interval[1]
    assert score.f1_interval[0] <= score.f1 <= score.f1_interval[1]
    assert score.false_per_mpx == pytest.approx(fp / (3 * 160 * 160 / 1e6))
    assert 0.3 < score.f1 < 1


def test_a_diameter_is_the_one_of_segment_image(samples: list[Sample]) -> None:
    (found,) = find(iter(samples[:1]), TINY, diameter=12.0)
    assert np.array_equal(found.labels, segment_image(samples[0].image, model=TINY, diameter=12.0))


def test_few_flow_fields_wait_however_many_images_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where following is slower than the network, the network waits."""
    waiting = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *args: Any, **keywords: Any) -> Future[Any]:
            waiting.append(self._work_queue.qsize())
            return super().submit(*args, **keywords)

    def slow(*args: Any, **keywords: Any) -> np.ndarray:
        time.sleep(0.02)
        return np.zeros((16, 16), np.uint32)

    monkeypatch.setattr(evaluation, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(evaluation, "labels_from_flows", slow)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    labels = np.zeros((16, 16), np.int32)
    drawn = (make_sample("x", str(n), [np.arange(256).reshape(16, 16)], labels) for n in range(60))
    assert [found.sample.name for found in find(drawn, TINY)] == [str(n) for n in range(60)]
    assert len(waiting) == 60 and max(waiting) <= 4


def test_what_the_network_finds_is_its_own_truth(samples: list[Sample]) -> None:
    found = [replace(s, labels=segment_image(s.image, model=TINY).astype(np.int32)) for s in samples]
    score = evaluate(found, TINY)
    assert (score.ap, score.ap_interval, score.f1_interval, score.error_interval) == ((1, 1, 1), (1, 1), (1, 1), (0, 0))
    assert (score.error_rate, score.f1, score.merged, score.split) == (0, 1, 0, 0)


def test_sources_are_told_apart_and_pooled(samples: list[Sample]) -> None:
    found = [compare(s, np.where(s.labels > 1, s.labels, 0).astype(np.uint32)) for s in samples]
    found[2] = replace(found[2], sample=replace(samples[2], source="other"))
    scores = by_source(found)
    assert [(s.source, s.images) for s in scores] == [("plate_nuclei", 2), ("other", 1), (ALL, 3)]
    assert scores[2].objects == scores[0].objects + scores[1].objects
    assert np.isnan(scores[1].ap_interval).all()  # one image tells nothing of others
    assert len(by_source(found[:2])) == 1


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    """Of 300 samples of 40 normal numbers, 95 % have the true mean in it; the bootstrap is a little narrow."""
    rng = np.random.default_rng(0)
    held = [low <= 0 <= high for low, high in (interval(rng.normal(size=40)) for _ in range(300))]
    assert 0.9 < np.mean(held) < 0.98
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1, 1)


def test_two_models_are_compared_image_by_image(samples: list[Sample]) -> None:
    truth = [compare(s, s.labels.astype(np.uint32)) for s in samples]
    none = [compare(s, np.zeros(s.labels.shape, np.uint32)) for s in samples]
    assert differences(truth, none) == [("plate_nuclei", 1, (1, 1), 3)]
    assert differences(truth, truth) == [("plate_nuclei", 0, (0, 0), 3)]
    other = replace(truth[2], sample=replace(samples[2], source="other"))
    assert [row[:2] for row in differences([*truth[:2], other], [*none[:2], other])] == [
        ("plate_nuclei", 1),
        ("other", 0),
        (ALL, pytest.approx(2 / 3)),
    ]


def test_few_images_never_tell_two_models_apart() -> None:
    nan = float("nan")
    assert words(0.2, (0.1, 0.3), 10) == "+0.200 (95 % +0.100 to +0.300)"
    assert words(0.2, (-0.1, 0.3), 10).endswith("; these images don't tell them apart")
    assert words(0.2, (0.1, 0.3), 2) == "+0.200 (95 % +0.100 to +0.300); 2 images: too few to tell them apart"
    assert words(0.2, (nan, nan), 1) == "+0.200; 1 image: too few to tell them apart"
    assert words(nan, (nan, nan), 0) == "–"


def test_what_cannot_be_done_is_said_before_any_image_is_segmented(samples: list[Sample], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", samples[0].pixels[0])
    tifffile.imwrite(tmp_path / "a_masks.tif", samples[0].labels.astype(np.uint16))
    (tmp_path / "file").touch()
    for options, message in (
        (["-o", str(tmp_path / "file")], "there is a file where the tables should go"),
        (["--diameter", "12", "--sizes", "1,0.05", "-o", str(tmp_path / "out")], "--sizes 0.05"),
    ):
        result = CliRunner().invoke(_typer, ["evaluate", "--data", str(tmp_path), "--model", str(TINY), *options])
        assert result.exit_code != 0 and message in str(result.exception)
        assert "tiny" not in result.output and not (tmp_path / "out").exists()


def test_empty_images_alone_can_be_evaluated(tmp_path: Path) -> None:
    empty = np.zeros((64, 64), np.uint8)
    (data := tmp_path / "a[red]").mkdir()
    tifffile.imwrite(data / "a.tif", empty)
    tifffile.imwrite(data / "a_masks.tif", empty)
    out = str(tmp_path / "out")
    result = CliRunner().invoke(_typer, ["evaluate", "--data", str(data), "--model", str(TINY), "-o", out])
    assert result.exit_code == 0 and "\na[red] " in result.output, result.output
    with (tmp_path / "out" / "sources.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["objects"], row["false_per_mpx"], row["ap_50"]) == ("0", "0.0", "nan")


def test_an_image_without_objects_counts_what_is_invented() -> None:
    empty = make_sample("x", "x", [np.zeros((100, 100), np.uint8)], np.zeros((100, 100), np.int32))
    nothing = np.zeros((100, 100), np.uint32)
    assert np.isnan(scored([compare(empty, nothing)]).ap).all()
    one = nothing.copy()
    one[2:9, 2:9] = 1
    score = scored([compare(empty, one)])
    assert (score.ap[0], score.false_per_mpx) == (0, 100)


def test_resized_samples_have_objects_of_the_size() -> None:
    sample = plate_sample("nuclei", 11, 1, size=160)
    for factor in (0.5, 2.0):
        other = resized(sample, factor)
        assert other.labels.shape == (160 * factor, 160 * factor)
        assert other.diameter == pytest.approx(factor * sample.diameter, rel=0.05)
        assert other.image.mean() == pytest.approx(sample.image.mean(), abs=0.02)


def test_the_command_prints_writes_and_shows(samples: list[Sample], tmp_path: Path) -> None:
    for number, sample in enumerate(samples):
        for part, pixels in (("images", sample.pixels[0]), ("labels", sample.labels.astype(np.uint16))):
            folder = tmp_path / "data" / f"source{number % 2}" / part
            folder.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / f"<b>{number}.tif", pixels)
    other = tmp_path / "other.safetensors"
    other.write_bytes(TINY.read_bytes())
    arguments = ["--data", str(tmp_path / "data"), "--model", str(TINY), "--model", str(other), "--sizes", "0.5,1"]
    result = CliRunner().invoke(_typer, ["evaluate", *arguments, "--device", "cpu", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    same = "image by image, all: +0.000 (95 % +0.000 to +0.000); 3 images: too few to tell them apart"
    assert f"AP@0.5 of tiny less other, {same}" in result.output
    assert "an interval of fewer than 10 images is too narrow" in result.output
    assert "…" not in result.output and max(map(len, result.output.split("AP@0.5 of")[0].splitlines())) <= 80
    with (tmp_path / "out" / "sources.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == ["source0", "source1", "all"] * 2
    assert float(rows[2]["ap_50"]) == pytest.approx(evaluate(samples, TINY).ap[0], abs=1e-4)
    with (tmp_path / "out" / "sizes.csv").open() as file:
        curve = list(csv.DictReader(file))
    assert [row["factor"] for row in curve] == ["0.5", "1.0"] * 2
    assert curve[1]["ap_50"] == rows[2]["ap_50"]
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count("color: #ffb000") == page.count("color: #3fd0ff") == 2
    assert page.count("<img") == 6 and "&lt;b&gt;" in page and "<b>0: AP" not in page and "nan" not in page


def test_the_test_images_of_cellpose_are_read_as_they_are(samples: list[Sample], tmp_path: Path) -> None:
    """`000_img.png`, in red and green or in grey, beside `000_masks.png`; the error rate is the mean over images."""
    errors = []
    for number, sample in enumerate(samples):
        grey = (np.clip(sample.image[0], 0, 1) * 255).astype(np.uint8)
        colours = [grey.T, grey, 0 * grey] if number else [grey] * 3
        picture = np.stack(colours, axis=-1)
        (tmp_path / f"{number:03}_img.png").write_bytes(png_encode(picture))
        (tmp_path / f"{number:03}_masks.png").write_bytes(png_encode(sample.labels.astype(np.uint16)))
        errors.append(float(error_rate(sample.labels, segment_image(picture, model=TINY))))
    arguments = ["--model", str(TINY), "--data", str(tmp_path), "--device", "cpu", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(_typer, ["evaluate", *arguments])
    assert result.exit_code == 0, result.output
    with (tmp_path / "out" / "sources.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["images"] == "3"
    assert float(row["error_rate"]) == pytest.approx(np.mean(errors), abs=1e-4)
    with (tmp_path / "out" / "images.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["000_img", "001_img", "002_img"]


def test_images_that_the_model_cannot_read_are_refused(samples: list[Sample], tmp_path: Path) -> None:
    labels = samples[0].labels.astype(np.uint16)
    tifffile.imwrite(tmp_path / "a_masks.tif", labels)
    three = np.random.default_rng(0).integers(0, 99, (3, *labels.shape)).astype(np.uint16)
    bright = (250 - 100 * (labels > 0)[None] - np.arange(3)[:, None, None]).astype(np.uint8)
    for image, message in ((three, "3 channels (0, 1, 2) are too many"), (bright, "bright background")):
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
        result = CliRunner().invoke(_typer, ["evaluate", "--data", str(tmp_path), "--model", str(TINY)])
        assert result.exit_code != 0 and message in str(result.exception) and ": a" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "a", "--model", "b", "--model", "c"], "one model, or two"),
        (["--sizes", "0.5,big"], "numbers from 0.05 to 20"),
        ([], "no such folder"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(_typer, ["evaluate", "--data", str(tmp_path / "no"), *arguments])
    assert result.exit_code != 0
    assert message in f"{result.output} {result.exception}"
