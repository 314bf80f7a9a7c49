import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from plateflow import metrics


def random_pair(seed: int, size: int = 60, cell: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A grid of squares, and the same with shifted, merged, split, lost and invented ones; labels with gaps."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((size, size)) // cell
    true = rows * (size // cell) + columns + 1
    true[random.random(true.max() + 1)[true] < 0.3] = 0
    pred = np.roll(true, random.integers(-2, 3, 2), (0, 1))
    pred = random.permutation(true.max() + 1)[pred] * 3 * (pred > 0)
    pred[random.random(pred.max() + 1)[pred] < 0.2] = 0
    merged = random.choice(np.unique(pred), 6)
    pred[np.isin(pred, merged[:3])] = merged[0]
    pred[::2][pred[::2] == merged[4]] = 1000
    return true.astype(np.uint16), pred.astype(np.int64)


def dense_iou(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    one = [true == label for label in np.unique(true[true > 0])]
    other = [pred == label for label in np.unique(pred[pred > 0])]
    return np.array([[(a & b).sum() / (a | b).sum() for b in other] for a in one]).reshape(len(one), len(other))


def hungarian(iou: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    return linear_sum_assignment(-(iou >= threshold).astype(float) - iou / (2 * max(1, min(iou.shape))))


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_equals_a_dense_assignment(seed):
    true, pred = random_pair(seed)
    iou = dense_iou(true, pred)
    thresholds = (0.1, 0.25, 0.5, 0.75, 0.9)
    ap, tp, fp, fn = metrics.average_precision(true, pred, thresholds)
    for k, threshold in enumerate(thresholds):
        matches = (iou[hungarian(iou, threshold)] >= threshold).sum()
        assert tp[k] == matches
        assert (fp[k], fn[k]) == (iou.shape[1] - matches, iou.shape[0] - matches)
        assert ap[k] == matches / (iou.shape[0] + iou.shape[1] - matches)


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.75])
def test_greedy_and_optimal_pairs_agree_from_one_half_on(threshold):
    for seed in range(8):
        true, pred = random_pair(seed)
        iou = dense_iou(true, pred)
        greedy = iou.copy()
        matches = 0
        while greedy.max() >= threshold:
            i, j = np.unravel_index(greedy.argmax(), greedy.shape)
            greedy[i], greedy[:, j] = -1, -1
            matches += 1
        assert metrics.average_precision(true, pred, threshold)[1] == [matches]


def test_two_halves_are_one_match():
    true = np.ones((4, 4), int)
    pred = np.repeat([[1], [1], [2], [2]], 4, 1)
    ap, tp, fp, fn = metrics.average_precision(true, pred)
    assert tp.tolist() == [1, 0, 0]
    assert fp.tolist() == [1, 2, 2]
    assert fn.tolist() == [0, 1, 1]
    assert ap.tolist() == [0.5, 0, 0]


def test_known_values():
    true = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3]])
    pred = np.array([[5, 5, 5, 0, 0, 9, 9, 9, 9, 9, 0]])
    ap, _, _, _ = metrics.average_precision(true, pred)
    assert ap.tolist() == [2 / 3, 2 / 3, 0]
    assert metrics.error_rate(true, pred) == 1 / 3
    assert metrics.f1(true, pred) == 4 / 5


def test_lists_give_one_row_per_image():
    pairs = [random_pair(seed) for seed in range(3)]
    true, pred = [list(images) for images in zip(*pairs, strict=True)]
    for function in (metrics.error_rate, metrics.f1):
        assert function(true, pred).tolist() == [float(function(t, p)) for t, p in pairs]
    ap, tp, _, _ = metrics.average_precision(true, pred)
    assert ap.shape == tp.shape == (3, 3)
    assert ap[1].tolist() == metrics.average_precision(*pairs[1])[0].tolist()
    with pytest.raises(ValueError, match="equally many"):
        metrics.f1(true, pred[:2])


def test_nothing_there():
    none, one = np.zeros((3, 3), int), np.ones((3, 3), int)
    assert np.isnan(metrics.average_precision(none, none)[0]).all()
    assert metrics.average_precision(one, none)[3].tolist() == [1, 1, 1]
    assert metrics.average_precision(none, one)[2].tolist() == [1, 1, 1]
    assert metrics.error_rate(one, none) == 1
    assert np.isnan(metrics.error_rate(none, one))
    assert metrics.f1(one, none) == 0
    assert metrics.f1([], []).shape == (0,)


def test_chunks_do_not_show(monkeypatch):
    true, pred = random_pair(1)
    unchunked = metrics.overlaps(true, pred)
    monkeypatch.setattr(metrics, "_CHUNK", 7)
    parts = metrics.overlaps(true, pred)
    for name in ("true", "pred", "iou", "n_true", "n_pred"):
        np.testing.assert_array_equal(getattr(unchunked, name), getattr(parts, name))


def test_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="one shape"):
        metrics.f1(np.ones((3, 3), int), np.ones((3, 4), int))
    with pytest.raises(ValueError, match="integers"):
        metrics.f1(np.ones((3, 3)), np.ones((3, 3)))


def test_many_objects_are_quick():
    """50,000 against 50,000: a dense matrix would take 20 GB."""
    side = 224
    true = np.kron(np.arange(1, side * side + 1).reshape(side, side), np.ones((9, 9), np.int32)).astype(np.int32)
    pred = np.roll(true, (1, 1), (0, 1))
    _, tp, fp, fn = metrics.average_precision(true, pred)
    assert (tp[0], fp[0], fn[0]) == (side * side, 0, 0)
    assert tp[2] == 0
