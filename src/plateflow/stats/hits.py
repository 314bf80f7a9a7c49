"""From effects to hits: p-values over features, false discovery rate over treatments, and the ranked list.

A treatment (a name and a dose) is tested in every feature; its p-values are combined by Simes' method, and the false
discovery rate is controlled over treatments. So the list holds for all features at once, and a feature that is there
twice under two names costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.stats.effects import KEYS, Effects, p_values

if TYPE_CHECKING:
    import pandas as pd

NAMED = 3
"""The most features that the reasons of a hit name."""
CANDIDATE = np.dtype([("treatment", np.int32), ("feature", np.int32), ("p", np.float64), ("z", np.float64)])
"""A treatment and a feature with a p-value of at most the false discovery rate: no other can have such a q."""
FOUND = np.dtype([("treatment", np.int32), ("feature", np.int32), ("q", np.float64), ("z", np.float64)])
"""A treatment and a feature with a q of at most the false discovery rate."""


def benjamini_hochberg(p: NDArray[np.float64], tests: int | None = None) -> NDArray[np.float64]:
    """Adjusted p-values (q): the expected fraction of false discoveries among all with this q or less is at most q.

    Benjamini & Hochberg, J R Stat Soc B 57 (1995) 289; NaN is ignored.

    Args:
        p: the p-values.
        tests: how many tests there were, where `p` holds the least p-values alone: a q is then right where it is at
            most the greatest of them.
    """
    q = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    scaled = p[order] * ((len(order) if tests is None else tests) / np.arange(1, len(order) + 1))
    q[order] = np.clip(np.minimum.accumulate(scaled[::-1])[::-1], 0, 1)
    return q


def simes(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """One p-value per row, for the hypothesis that it has no effect at all: the least of n p₍ᵢ₎ / i over its n values.

    Simes, Biometrika 73 (1986) 751. NaN is ignored; a row of NaN is NaN.
    """
    ordered = np.sort(p, axis=1)
    n = np.count_nonzero(~np.isnan(p), axis=1)
    scaled = ordered * n[:, None] / np.arange(1, p.shape[1] + 1)
    return np.fmin.reduce(scaled, axis=1, initial=np.nan)


def runs(values: NDArray[Any]) -> Iterator[slice]:
    """Where the same value, of at least 0, stands in a row."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return map(slice, starts, np.append(starts, len(values))[1:])


def hit_table(effects: Effects, *, fdr: float) -> pd.DataFrame:
    """Treatments, ranked by significance, with the evidence for and against each.

    A hit has a Q of at most `fdr` and all its replicates on one side in its lead feature (the one with the least p).
    Q is Benjamini and Hochberg's over the treatments' P, which is Simes' over the features. Features is the number of
    features whose own q over treatments is at most `fdr`.

    Returns:
        One row per treatment and dose: Rank, Hit, treatment, dose, Replicates, P, Q, Feature (the lead), Z, RobustZ,
        SSMD in it, SameSide, Features, Reasons, and Wells or Plates where the effects have them.
    """
    table, candidates, tested = evidence(effects, fdr=fdr)
    significant = Significant(len(table), fdr=fdr)
    significant.add(candidates, tested)
    return ranked(table, significant, effects.features)


def evidence(effects: Effects, *, fdr: float) -> tuple[pd.DataFrame, NDArray[Any], NDArray[np.int64]]:
    """What a treatment's own values tell, whatever the other treatments are.

    Returns:
        `effects.keys` with P, Feature (the lead), Z, RobustZ, SSMD in it and SameSide.
        CANDIDATEs, by feature; treatments are numbered as in the table.
        By feature, how many treatments were tested in it.
    """
    p = p_values(effects)
    table = effects.keys.copy()
    rows, lead = np.arange(len(table)), np.zeros(len(table), int)
    table["P"] = simes(p) if p.shape[1] else np.nan
    tested = table["P"].notna().to_numpy()
    if p.size:
        lead = np.where(np.isnan(p), np.inf, p).argmin(axis=1)

    def at_lead(values: NDArray[Any] | None) -> NDArray[Any]:
        if values is None or not p.size:
            return np.full(len(table), np.nan)
        return np.where(tested, values[rows, lead], np.nan)

    table["Feature"] = np.where(tested, np.array(effects.features, object)[lead], "") if p.size else ""
    table["Z"], table["RobustZ"], table["SSMD"] = map(at_lead, (effects.mean, effects.robust, effects.ssmd))
    table["SameSide"] = at_lead(effects.same_side) == 1
    feature, treatment = np.nonzero((p <= fdr).T)
    candidates = np.empty(len(feature), CANDIDATE)
    candidates["treatment"], candidates["feature"] = treatment, feature
    candidates["p"], candidates["z"] = p[treatment, feature], effects.mean[treatment, feature]
    return table, candidates, np.count_nonzero(~np.isnan(p), axis=0)


class Significant:
    """The features in which treatments differ, each at the false discovery rate over treatments.

    Args:
        treatments: their number.
        fdr: the false discovery rate.

    Attributes:
        count: by treatment, in how many features.
        first: FOUND, by treatment: the NAMED most significant ones; among equals the larger effect, then the first.
    """

    def __init__(self, treatments: int, *, fdr: float) -> None:
        self.fdr = fdr
        self.count = np.zeros(treatments, np.int64)
        self.first = np.empty(0, FOUND)

    def add(self, candidates: NDArray[Any], tested: NDArray[np.int64]) -> None:
        """Add features, each with all its CANDIDATEs.

        Args:
            candidates: in any order.
            tested: by feature, how many treatments were tested in it.
        """
        candidates = candidates[np.argsort(candidates["feature"], kind="stable")]
        q = np.empty(len(candidates))
        for run in runs(candidates["feature"]):
            q[run] = benjamini_hochberg(candidates["p"][run], tested[candidates["feature"][run.start]])
        found = candidates[q <= self.fdr].view(FOUND)
        found["q"] = q[q <= self.fdr]
        self.count += np.bincount(found["treatment"], minlength=len(self.count))
        found = np.concatenate([self.first, found])
        order = np.lexsort((found["feature"], -np.abs(found["z"]), found["q"], found["treatment"]))
        treatment = found["treatment"][order]
        place = np.arange(len(order)) - np.searchsorted(treatment, treatment)
        self.first = found[order[place < NAMED]]


def ranked(table: pd.DataFrame, significant: Significant, features: Sequence[str]) -> pd.DataFrame:
    """The table of hits, see `hit_table`.

    Args:
        table: the `evidence` of all treatments.
        significant: the features in which they differ.
        features: their names.
    """
    table["Q"] = benjamini_hochberg(table["P"].to_numpy(np.float64))
    table["Features"] = significant.count
    table["Hit"] = (table["Q"] <= significant.fdr) & table["SameSide"]
    table["Reasons"] = list(_reasons(table, significant, features))
    order = np.lexsort((-table["Z"].abs().fillna(0), table["P"].fillna(2), table["Q"].fillna(2), ~table["Hit"]))
    table = table.iloc[order].reset_index(drop=True)
    first, last = ["Hit", *KEYS, "Replicates"], ["P", "Q", "Feature", "Z", "RobustZ", "SSMD", "SameSide", "Features"]
    names = [name for name in table if name not in {*first, *last, "Reasons"}]
    table = table[[*first, *names, *last, "Reasons"]]
    table.insert(0, "Rank", np.arange(1, len(table) + 1))
    return table


def _reasons(table: pd.DataFrame, significant: Significant, features: Sequence[str]) -> Iterator[str]:
    """The evidence for each treatment (its most significant features) and against it."""
    named: dict[int, list[str]] = {}
    for treatment, feature, q, z in significant.first.tolist():
        named.setdefault(treatment, []).append(f"{features[feature]} {z:+.1f} SD (q {q:.1g})")
    columns = ("Replicates", "P", "Q", "SameSide", "Features")
    for treatment, row in enumerate(zip(*(table[name].tolist() for name in columns), strict=True)):
        replicates, p, q, same_side, count = row
        if not replicates:
            yield "no well of it is in use"
            continue
        if np.isnan(p):
            yield "it can't be compared: no values, or too few reference wells, or half of these have one value"
            continue
        reasons = named.get(treatment, [])
        reasons += [f"{count - NAMED} more features"] * (count > NAMED)
        reasons += [f"Q {q:.2g} is above {significant.fdr:g}"] * (q > significant.fdr)
        reasons += ["its replicates lie on both sides of the reference"] * (not same_side)
        reasons += ["one well alone"] * (replicates == 1)
        yield "; ".join(reasons)
