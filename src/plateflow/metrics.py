"""How well labels agree with the truth: matching, average precision, error rate, F1.

Every measure starts from the table of overlaps of two label images, of which only the pairs that occur are kept:
50,000 objects against 50,000 have about 150,000 such pairs, and 2.5 billion possible ones. Labels may have gaps; 0 is
no object. Each function takes one pair of label images, or two lists of them, and then gives one row per image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plateflow.arguments import finite, pixels

LabelImage = NDArray[Any]
Images = LabelImage | Sequence[LabelImage]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Pixels that are compared at a time: bounds the memory, whatever the size of the images.
_CHUNK = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """The overlaps of two label images, one entry per pair of objects that share pixels.

    Attributes:
        true: object of the true image; objects are counted from 0 in the order of their labels.
        pred: object of the predicted image.
        iou: intersection over union of the two.
        of_true, of_pred: the share of the true, and of the predicted object, that lies in the other.
        n_true, n_pred: objects of the two images.
    """

    true: Counts
    pred: Counts
    iou: Floats
    of_true: Floats
    of_pred: Floats
    n_true: int
    n_pred: int


def average_precision(
    true: Images, pred: Images, threshold: float | Sequence[float] = (0.5, 0.75, 0.9)
) -> tuple[Floats, Counts, Counts, Counts]:
    """Count matches at thresholds of intersection over union, and AP = TP / (TP + FP + FN).

    A true object is found if it is paired with a predicted one at an IoU of at least the threshold; pairs are chosen so
    that as many as possible are found (from 0.5 on, any way of choosing gives the same number). This is the AP of the
    Data Science Bowl 2018 and of Cellpose; where both images are empty it is NaN.

    Args:
        true: label image or list of label images, integers of any axes.
        pred: the same for the prediction, of equal shapes.
        threshold: one or several.

    Returns:
        ``ap, tp, fp, fn``, each of shape ``(thresholds,)``, or ``(images, thresholds)`` for lists.

    Raises:
        ValueError: the images aren't integers, have a mask or no pixel, their shapes differ, the lists aren't equally
            long, or a threshold isn't in 0 to 1.
    """
    if isinstance(true, np.ndarray) and isinstance(pred, np.ndarray):
        ap, tp, fp, fn = average_precision([true], [pred], threshold)
        return ap[0], tp[0], fp[0], fn[0]
    if isinstance(true, np.ndarray) or isinstance(pred, np.ndarray) or len(true) != len(pred):
        raise ValueError("true and pred must be two label images, or two lists of equally many")
    several = threshold if np.iterable(threshold) else [threshold]
    thresholds = np.array([finite("threshold", value, least=0, most=1) for value in several])
    pairs = [overlaps(t, p) for t, p in zip(true, pred, strict=True)]
    tp = np.array([[_matches(pair, t) for t in thresholds] for pair in pairs], np.int64).reshape(-1, thresholds.size)
    fp = np.array([pair.n_pred for pair in pairs], np.int64)[:, None] - tp
    fn = np.array([pair.n_true for pair in pairs], np.int64)[:, None] - tp
    return _ratio(tp, tp + fp + fn), tp, fp, fn


def error_rate(true: Images, pred: Images, threshold: float = 0.5) -> Floats:
    """Errors per true object, (FP + FN) / (TP + FN), as in the Cellpose-SAM paper (Pachitariu et al., 2025).

    NaN where there is no true object; above 1 where more is invented than there is. A float array of shape ``()``, or
    ``(images,)`` for lists; arguments and errors as for `average_precision`.
    """
    _, tp, fp, fn = average_precision(true, pred, finite("threshold", threshold, least=0, most=1))
    return _ratio(fp + fn, tp + fn)[..., 0]


def f1(true: Images, pred: Images, threshold: float = 0.5) -> Floats:
    """Harmonic mean of precision and recall of objects, 2 TP / (2 TP + FP + FN); shaped as `error_rate`."""
    _, tp, fp, fn = average_precision(true, pred, finite("threshold", threshold, least=0, most=1))
    return _ratio(2 * tp, 2 * tp + fp + fn)[..., 0]


def merged_and_split(true: LabelImage, pred: LabelImage) -> tuple[int, int]:
    """How many predicted objects hold most of several true ones, and how many true ones most of several predicted.

    Most is more than half of an object's pixels, so an object is counted in one other at most.

    Raises:
        ValueError: as for `overlaps`.
    """
    pairs = overlaps(true, pred)
    merged = np.bincount(pairs.pred[pairs.of_true > 0.5], minlength=1)
    split = np.bincount(pairs.true[pairs.of_pred > 0.5], minlength=1)
    return int((merged > 1).sum()), int((split > 1).sum())


def overlaps(true: LabelImage, pred: LabelImage) -> Overlaps:
    """Tabulate which objects of two label images share pixels, and their intersection over union.

    Raises:
        ValueError: the images aren't integers, have a mask or no pixel, or their shapes differ.
    """
    true, pred = np.asarray(pixels("true", true)), np.asarray(pixels("pred", pred))
    for name, image in (("true", true), ("pred", pred)):
        if image.dtype.kind not in "iub":
            raise ValueError(f"{name} must be a label image of integers; its type is {image.dtype}")
    if true.shape != pred.shape:
        raise ValueError(f"the two label images must have one shape; got {true.shape} and {pred.shape}")
    flat_true, flat_pred = true.reshape(-1), pred.reshape(-1)
    parts = [_count_pairs(flat_true[i : i + _CHUNK], flat_pred[i : i + _CHUNK]) for i in range(0, true.size, _CHUNK)]
    pairs, shared = _sum_pairs(*(np.concatenate(p) for p in zip(*parts, strict=True)))
    labels_true, labels_pred = pairs.T
    names_true, index_true = np.unique(labels_true, return_inverse=True)
    names_pred, index_pred = np.unique(labels_pred, return_inverse=True)
    area_true = np.bincount(index_true, shared).astype(np.int64)
    area_pred = np.bincount(index_pred, shared).astype(np.int64)
    kept = (labels_true > 0) & (labels_pred > 0)
    union = area_true[index_true[kept]] + area_pred[index_pred[kept]] - shared[kept]
    no_true, no_pred = int((names_true <= 0).sum()), int((names_pred <= 0).sum())
    return Overlaps(
        true=index_true[kept] - no_true,
        pred=index_pred[kept] - no_pred,
        iou=shared[kept] / union,
        of_true=shared[kept] / area_true[index_true[kept]],
        of_pred=shared[kept] / area_pred[index_pred[kept]],
        n_true=names_true.size - no_true,
        n_pred=names_pred.size - no_pred,
    )


def _count_pairs(true: LabelImage, pred: LabelImage) -> tuple[Counts, Counts]:
    """Count the pairs of labels of some pixels, ``(pairs, 2), (pairs,)``; by runs of equal pixels, which are few."""
    change = np.flatnonzero((true[1:] != true[:-1]) | (pred[1:] != pred[:-1])) + 1
    starts = np.concatenate([[0], change])
    lengths = np.diff(np.concatenate([starts, [true.size]]))
    return _sum_pairs(np.stack([true[starts], pred[starts]], -1).astype(np.int64), lengths)


def _sum_pairs(pairs: Counts, counts: Counts) -> tuple[Counts, Counts]:
    """Sum the counts of equal pairs, ``(n, 2), (n,)`` to ``(m, 2), (m,)``, in ascending order."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    first = np.flatnonzero((np.diff(pairs, axis=0, prepend=pairs[:1] - 1) != 0).any(1))
    return pairs[first], np.add.reduceat(counts[order], first) if first.size else counts


def _matches(overlaps: Overlaps, threshold: float) -> int:
    """How many objects can be paired one to one at an IoU of at least the threshold."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    good = overlaps.iou >= threshold
    if not good.any():
        return 0
    graph = csr_array(
        (np.ones(good.sum(), bool), (overlaps.true[good], overlaps.pred[good])),
        shape=(overlaps.n_true, overlaps.n_pred),
    )
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def _ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0)
