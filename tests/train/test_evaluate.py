"""Evaluation counts what it says it counts, and prints it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from plateflow.metrics import average_precision
from plateflow.segment import segment_image
from plateflow.train.data import Sample, plate_sample
from plateflow.train.evaluate import evaluate, table

TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [plate_sample("nuclei", 11, n, size=160) for n in range(3)]


def test_a_score_sums_over_images(samples: list[Sample]) -> None:
    score = evaluate(samples, TINY)
    counts = [average_precision(s.labels, segment_image(s.image, model=TINY), 0.5) for s in samples]
    tp, fp, fn = (sum(int(c[i][0]) for c in counts) for i in (1, 2, 3))
    assert score.objects == sum(len(np.unique(s.labels)) - 1 for s in samples) == tp + fn
    assert score.ap == pytest.approx(np.mean([c[0][0] for c in counts]))
    assert score.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert score.error_rate == pytest.approx((fp + fn) / (tp + fn))
    assert 0.3 < score.f1 < 1


def test_what_the_network_finds_is_its_own_truth(samples: list[Sample]) -> None:
    found = [replace(s, labels=segment_image(s.image, model=TINY).astype(np.int32)) for s in samples]
    score = evaluate(found, TINY)
    assert (score.ap, score.error_rate, score.f1) == (1, 0, 1)


def test_the_table_has_a_row_a_source(samples: list[Sample]) -> None:
    console = Console(record=True, width=120)
    score = evaluate(samples[:1], TINY)
    console.print(table([score], "tiny"))
    text = console.export_text()
    assert "plate_nuclei" in text
    assert f"{score.f1:.3f}" in text
