"""Features are grouped with the leader that they correlate with."""

import time

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from plateflow.stats.alike import ALIKE, Alike


def by_hand(values: pd.DataFrame, names: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        for leader, others in groups.items():
            if abs(spearmanr(values[leader], values[name]).statistic) >= ALIKE:
                others.append(name)
                break
        else:
            groups[name] = []
    return groups


def features(n_wells: int, n_features: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n_wells, max(n_features // 10, 1)))
    values = factors[:, rng.integers(0, factors.shape[1], n_features)] * rng.choice([-1, 1], n_features)
    values = np.exp(values + rng.normal(0, rng.uniform(0.05, 0.8, n_features), (n_wells, n_features)))
    return pd.DataFrame(values, columns=[f"F{n}" for n in range(n_features)])


@pytest.mark.parametrize("seed", range(2))
def test_groups_are_those_of_a_slow_loop(seed: int) -> None:
    values = features(40, 40, seed)
    names = list(np.random.default_rng(seed).permutation(values.columns))
    expected = by_hand(values, names)
    assert 8 < len(expected) < 38
    assert Alike(values).groups(names) == expected
    first = dict(list(expected.items())[:4])
    assert Alike(values).groups(names, most=4) == first


def test_constant_and_empty_features_are_like_nothing() -> None:
    values = features(20, 3).assign(constant=1.0, empty=np.nan, twice=lambda table: table["F0"] * 2)
    assert Alike(values).groups(["constant", "empty", "F0", "twice"]) == {"constant": [], "empty": [], "F0": ["twice"]}


def test_it_is_fast_for_a_large_plate() -> None:
    values = features(1536, 2000)
    start = time.process_time()
    groups = Alike(values).groups(list(values.columns), most=20)
    assert len(groups) == 20
    assert time.process_time() - start < 6
